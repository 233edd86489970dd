//! A broadcast that goes on on another node, or after a restart: from what is stored, and from what a standby made.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Broadcast, Finished, Settings, new_list, part_entries, slot_us, with_peaks};
use crate::{
    id::Rendition,
    line::{
        grid::{Grid, Slot},
        live::{Progress, State},
    },
    media::{Pieces, VIDEO_TIMESCALE},
    package::{Chunk, History, Parts, history::Size, window::Entry},
    store::{BroadcastRow, ChunkRow},
    time::UnixMs,
};

impl Broadcast {
    /// Rebuilds a broadcast from its row, its newest chunk rows (valid ones, by k, without holes at the front) and the
    /// numbers at which it is discontinuous; `inits` are the init segments those rows name, `held` is what a standby made of the
    /// same broadcast, and the epochs by which viewers were shown it. Its state is [`State::Away`].
    pub fn restore(
        row: &BroadcastRow,
        chunks: &[ChunkRow],
        discontinuities: Vec<u64>,
        inits: &[(Rendition, Arc<str>, Bytes)],
        settings: Settings,
        held: Option<(&Broadcast, &BTreeMap<u64, u64>)>,
    ) -> Self {
        let parts = (row.part_ticks > 0).then_some(Parts { ticks: row.part_ticks, target_ms: row.part_target_ms });
        let mut this = Self::new(row.stream.clone(), row.id.clone(), row.started, settings, parts);
        this.live.state = State::Away;
        this.target = row.target;
        let mut slots: Vec<Slot> = Vec::new();
        for chunk in chunks {
            while let Some(last) = slots.last()
                && last.k + 1 < chunk.k
            {
                let at = last.end.expect("restored slots are closed");
                let wall = UnixMs(last.wall.0 + (at - last.at) * 1000 / i64::from(VIDEO_TIMESCALE));
                let end = Some(at + this.settings.chunk);
                slots.push(Slot { k: last.k + 1, epoch: last.epoch, at, end, wall, discontinuity: false, gap: true });
            }
            slots.push(Slot {
                k: chunk.k,
                epoch: chunk.epoch,
                at: chunk.at,
                end: Some(chunk.at + chunk.duration),
                wall: chunk.wall,
                discontinuity: chunk.discontinuity,
                gap: false,
            });
        }
        this.live.epoch = slots.last().map_or(0, |slot| slot.epoch);
        this.live.k = slots.last().map(|slot| slot.k);
        this.grid = Grid::restore(slots.clone(), discontinuities);
        let Some(first) = slots.first() else { return this };
        this.live.restored = Some(first.k);
        for rendition in &row.renditions {
            let of = inits.iter().filter(|(name, ..)| *name == rendition.name);
            let mut track = this.track(rendition.clone(), first.k);
            track.inits = of.map(|(_, hash, bytes)| (hash.clone(), bytes.clone())).collect();
            let before = this.grid.discontinuities_before(first.k);
            let mut list = new_list(this.target, parts, this.settings.window, before);
            track.history = History::new(before);
            // It may have chunks before these.
            track.listed_media = true;
            let mut has_media = false;
            for slot in &slots {
                let stored = chunks.iter().find(|c| c.k == slot.k && !slot.gap);
                let made = stored.and_then(|c| c.renditions.iter().find(|r| r.rendition == rendition.name));
                has_media |= made.is_some();
                // Players that have some parts of a chunk go on with the next: the newest chunks keep theirs.
                let ours = held.and_then(|(held, _)| held.chunk(&rendition.name, slot.k)).filter(|_| made.is_some());
                let entries = ours.filter(|_| parts.is_some()).map(|chunk| part_entries(&chunk.parts));
                if let (Some(chunk), Some(made)) = (ours, made) {
                    // Another encoder has made other bytes of the same frames, and has stored them under this name.
                    let is_same = (chunk.bytes.len() as u32, chunk.iframe) == (made.bytes, made.iframe);
                    let bytes = if is_same { chunk.bytes.clone() } else { Pieces::default() };
                    Arc::make_mut(&mut track.chunks).push(Chunk { epoch: slot.epoch, bytes, ..chunk.clone() });
                    track.stored.insert((slot.k, slot.epoch));
                }
                let shown = held.and_then(|(_, shown_as)| shown_as.get(&slot.k).copied());
                let entry = Entry {
                    k: slot.k,
                    epoch: shown.unwrap_or(slot.epoch),
                    duration_us: made.map_or(slot_us(slot), |p| p.duration_us),
                    discontinuity: slot.discontinuity,
                    gap: made.is_none(),
                    wall: slot.wall,
                    init: made.map_or("", |p| p.init.as_str()).into(),
                    parts: entries.unwrap_or_default(),
                };
                track.history.push(&entry, slot.at, made.map(Size::from).unwrap_or_default());
                list.append(entry).expect("slots are consecutive");
            }
            track.next = slots.last().expect("there is a first").k + 1;
            track.list = Some(list);
            track.dirty = true;
            this.tracks.insert(rendition.name.clone(), track);
            if has_media {
                this.live.offered.push(rendition.name.clone());
            }
        }
        this.refresh();
        this
    }

    /// Goes on with what a standby made of the same broadcast: chunk numbers from `k_start` on are `epoch`'s now. Gives what the
    /// standby has finished of them, which is to be stored. Those that viewers were shown keep the names of the epochs in
    /// `shown_as`.
    pub fn go_on(
        &mut self,
        standby: Broadcast,
        epoch: u64,
        k_start: u64,
        shown_as: BTreeMap<u64, u64>,
    ) -> Vec<Finished> {
        self.shown_as = shown_as;
        let was = standby.live.epoch;
        self.parts = standby.parts;
        self.target = if self.target == 0 { standby.target } else { self.target };
        self.live.state = standby.live.state;
        self.live.mode = standby.live.mode;
        self.live.epoch = epoch;
        self.live.warnings = standby.live.warnings;
        self.live.shed = standby.live.shed;
        self.grid.go_on(standby.grid, epoch, k_start, self.settings.chunk);
        let first = self.grid.first_of(epoch).unwrap_or(k_start);
        self.live.restored = self.live.restored.or((first > 0).then_some(first));
        let offer = standby.offers.get(&was).cloned().unwrap_or_default();
        // What a player was offered stays; it reads this list once.
        self.live.offered.retain(|name| offer.contains(name));
        if !self.live.offered.is_empty() {
            self.offered_epoch = epoch;
        }
        self.offers.insert(epoch, offer);
        let mut finished = Vec::new();
        for (name, theirs) in standby.tracks {
            let mut track = match self.tracks.remove(&name) {
                Some(mut track) => {
                    track.row = with_peaks(theirs.row, &track.row);
                    track
                }
                None => self.track(theirs.row, first),
            };
            for (hash, bytes) in theirs.inits {
                if !track.inits.iter().any(|(known, _)| *known == hash) {
                    track.inits.push((hash, bytes));
                }
            }
            let open = theirs.open.filter(|open| open.k >= k_start);
            track.open = open.map(|open| Progress { epoch, ..open });
            if theirs.done.contains(&was) {
                track.done.insert(epoch);
            }
            track.dirty = true;
            self.tracks.insert(name.clone(), track);
            // What is not stored is kept beyond the window.
            let init = |k| {
                let (place, init) = theirs.history.slice(k, k + 1).listed().next()?;
                Some(init.into()).filter(|_| !place.gap)
            };
            let listed = theirs.chunks.iter().filter_map(|chunk| {
                Some(Finished { rendition: name.clone(), init: init(chunk.k)?, chunk: chunk.clone() })
            });
            let made = listed.chain(theirs.ready.into_values()).filter(|made| made.chunk.k >= k_start);
            finished.extend(made.map(|made| Finished { chunk: Chunk { epoch, ..made.chunk }, ..made }));
        }
        finished.sort_by_key(|made| made.chunk.k);
        // All of it is here before any is listed: what is listed first would make the rest too late.
        finished.retain(|made| {
            let is_ours = self.grid.slot(made.chunk.k).is_some_and(|slot| !slot.gap && slot.epoch == epoch);
            match self.tracks.get_mut(&made.rendition) {
                Some(track) if is_ours && made.chunk.k >= track.next => {
                    track.ready.insert(made.chunk.k, made.clone());
                    true
                }
                _ => false,
            }
        });
        self.advance();
        finished
    }

    /// Whether every rendition that has begun has listed this number.
    pub fn has_listed(&self, k: u64) -> bool {
        self.tracks.values().filter(|track| track.list.is_some()).all(|track| track.next > k)
    }

    /// A chunk that is here.
    fn chunk(&self, rendition: &Rendition, k: u64) -> Option<&Chunk> {
        let track = self.tracks.get(rendition)?;
        let listed = track.chunks.iter().find(|chunk| chunk.k == k);
        listed.or_else(|| track.ready.get(&k).map(|made| &made.chunk))
    }

    /// The numbers of a rendition's chunks that are here, in no order.
    pub fn here(&self, rendition: &Rendition) -> impl Iterator<Item = u64> {
        let track = self.tracks.get(rendition);
        let listed = track.into_iter().flat_map(|track| track.chunks.iter().map(|chunk| chunk.k));
        listed.chain(track.into_iter().flat_map(|track| track.ready.keys().copied()))
    }

    /// All renditions, offered or not.
    pub fn renditions(&self) -> impl Iterator<Item = &Rendition> {
        self.tracks.keys()
    }

    /// All init segments, by rendition and hash.
    pub fn inits(&self) -> impl Iterator<Item = (&Rendition, &Arc<str>, &Bytes)> {
        self.tracks.iter().flat_map(|(name, track)| track.inits.iter().map(move |(hash, bytes)| (name, hash, bytes)))
    }
}
