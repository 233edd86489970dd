//! One broadcast as viewers see it: which chunks of which rendition are listed, and which are holes.
//!
//! Pure: marks and finished chunks enter, [`Live`] snapshots leave. Driven by the line's task; it never waits, stores or
//! reads a clock. A rendition lists chunk `k` when its bytes are here, or lists a gap when they can no longer come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::watch;

mod rebuild;

use super::{
    grid::{Grid, Slot},
    live::{Live, LiveRendition, Multivariants, Progress, Shown, State, Texts},
};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    media::{Epoch, Mode, VIDEO_TIMESCALE, timeline::Warning},
    package::{
        Chunk, Chunker, History, Mark, Part, Parts, Report,
        history::Size,
        window::{Entry, List, PartEntry, Window},
    },
    store::RenditionRow,
    time::{Timestamp, UnixMs},
};

/// A rendition this far behind the newest chunk number lists a gap and goes on: later than this, players at the live
/// edge have passed the chunk anyway, and the replay ring no longer holds its input.
const LATE_MAX: u64 = 4;

/// How long the first multivariant playlist waits for renditions that are slower than the first one.
const FIRST_WAIT: std::time::Duration = std::time::Duration::from_millis(1500);

#[derive(Debug, Clone)]
pub struct Settings {
    /// Chunks in a live playlist.
    pub window: usize,
    /// Nominal chunk duration, 90 kHz.
    pub chunk: i64,
}

/// A chunk of one rendition, complete.
#[derive(Debug, Clone)]
pub struct Finished {
    pub rendition: Rendition,
    pub chunk: Chunk,
    pub init: Arc<str>,
}

#[derive(Debug)]
struct Track {
    row: RenditionRow,
    list: Option<List>,
    history: History,
    /// Chunk number to be listed next.
    next: u64,
    /// Complete, but a number before it is still open.
    ready: BTreeMap<u64, Finished>,
    /// Epochs from which no further chunk of this rendition will come.
    done: BTreeSet<u64>,
    chunks: Arc<Vec<Chunk>>,
    /// The chunk that is being made.
    open: Option<Progress>,
    stored: BTreeSet<(u64, u64)>,
    inits: Vec<(Arc<str>, Bytes)>,
    /// Sum of bits and microseconds of what was listed.
    bits: u64,
    us: u64,
    listed_media: bool,
    shown: watch::Sender<Arc<LiveRendition>>,
    dirty: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Broadcast {
    settings: Settings,
    live: Live,
    grid: Grid,
    target: u32,
    /// How chunks are divided; nothing in a broadcast that began without parts.
    parts: Option<Parts>,
    tracks: BTreeMap<Rendition, Track>,
    /// The epochs by which another node showed viewers chunks that are this one's now: they keep these names.
    shown_as: BTreeMap<u64, u64>,
    /// The renditions that each epoch makes.
    offers: BTreeMap<u64, BTreeSet<Rendition>>,
    /// When the first chunk of the running epoch was listed.
    first_listed: Option<Timestamp>,
    /// The public set of renditions belongs to this epoch.
    offered_epoch: u64,
    /// The first wait for slower renditions is over.
    waited: bool,
    /// What the multivariant playlist was rendered from.
    rendered: Vec<RenditionRow>,
    /// What is told beside the chunks, in every rendition the same.
    marks: Arc<[Mark]>,
}

impl Broadcast {
    pub fn new(stream: StreamId, id: BroadcastId, started: UnixMs, settings: Settings, parts: Option<Parts>) -> Self {
        let live = Live {
            stream,
            broadcast: id,
            started,
            state: State::Live,
            mode: None,
            epoch: 0,
            restored: None,
            k: None,
            multivariants: None,
            offered: Vec::new(),
            renditions: BTreeMap::new(),
            warnings: Vec::new(),
            shed: Vec::new(),
            places: None,
            meter: Arc::default(),
        };
        Self {
            settings,
            live,
            grid: Grid::default(),
            target: 0,
            parts,
            tracks: BTreeMap::new(),
            shown_as: BTreeMap::new(),
            offers: BTreeMap::new(),
            first_listed: None,
            offered_epoch: 0,
            waited: false,
            rendered: Vec::new(),
            marks: Arc::default(),
        }
    }

    pub fn id(&self) -> &BroadcastId {
        &self.live.broadcast
    }

    pub fn started(&self) -> UnixMs {
        self.live.started
    }

    pub fn target(&self) -> u32 {
        self.target
    }

    /// The epoch of what is listed now.
    pub fn epoch(&self) -> u64 {
        self.live.epoch
    }

    pub fn parts(&self) -> Option<Parts> {
        self.parts
    }

    /// The end of the newest slot: number, time on the broadcast's timeline, wall clock.
    pub fn edge(&self) -> Option<(u64, i64, UnixMs)> {
        let last = self.grid.last()?;
        let end = last.end.unwrap_or(last.at);
        Some((last.k, end, UnixMs(last.wall.0 + (end - last.at) * 1000 / i64::from(VIDEO_TIMESCALE))))
    }

    /// Begins an epoch that will make `renditions`.
    pub fn begin(&mut self, epoch: &Epoch, renditions: Vec<RenditionRow>) {
        let before = self.grid.last().map(|slot| slot.k);
        self.grid.begin(epoch, self.settings.chunk);
        self.live.state = State::Live;
        self.live.epoch = epoch.number;
        self.live.mode = None;
        self.first_listed = None;
        self.waited = false;
        self.offers.insert(epoch.number, renditions.iter().map(|row| row.name.clone()).collect());
        self.offers = self.offers.split_off(&epoch.number.saturating_sub(8));
        for row in renditions {
            match self.tracks.get_mut(&row.name) {
                Some(track) => track.row = with_peaks(row, &track.row),
                None => {
                    let track = self.track(row.clone(), epoch.k);
                    self.tracks.insert(row.name.clone(), track);
                }
            }
        }
        if before.is_some() {
            self.advance();
        }
    }

    /// The mode of the running epoch is known; renditions that it does not make leave its offer.
    pub fn decide(&mut self, mode: Mode, target: u32) {
        self.live.mode = Some(mode);
        if self.target == 0 {
            self.target = target;
        }
        if mode == Mode::Reencode {
            self.withdraw(&Rendition::source());
        }
    }

    /// The running epoch will not make `rendition` (any more).
    pub fn withdraw(&mut self, rendition: &Rendition) {
        if let Some(offer) = self.offers.get_mut(&self.live.epoch) {
            offer.remove(rendition);
        }
        self.live.offered.retain(|name| name != rendition);
        // A rendition that never listed anything leaves no trace.
        if self
            .tracks
            .get(rendition)
            .is_some_and(|t| !t.listed_media && t.list.as_ref().is_none_or(|list| list.next_k().is_none()))
        {
            self.tracks.remove(rendition);
            self.live.renditions.remove(rendition);
        }
        self.advance();
    }

    /// The node cannot afford `rendition` now.
    pub fn shed(&mut self, rendition: Rendition) {
        self.withdraw(&rendition);
        if !self.live.shed.contains(&rendition) {
            self.live.shed.push(rendition);
        }
    }

    /// Nobody asks for `rendition` any more, so it is not missing.
    pub fn unshed(&mut self, rendition: &Rendition) {
        self.live.shed.retain(|name| name != rendition);
    }

    /// Sets what was not admitted at the start of the epoch.
    pub fn set_shed(&mut self, shed: Vec<Rendition>) {
        self.live.shed = shed;
    }

    /// Shows a warning, once for each kind: of gaps and jumps the newest counts, however many there are.
    pub fn warn(&mut self, warning: Warning) {
        self.live.warnings.retain(|old| old.code() != warning.code());
        self.live.warnings.push(warning);
    }

    /// Sets what is told beside the chunks; whether that is something new.
    pub fn set_marks(&mut self, marks: &Arc<[Mark]>) -> bool {
        if Arc::ptr_eq(marks, &self.marks) {
            return false;
        }
        self.marks = marks.clone();
        self.tracks.values_mut().for_each(|track| track.dirty = true);
        true
    }

    /// Another session begins: what was said of the one before is over.
    pub fn forget_warnings(&mut self) {
        self.live.warnings.clear();
    }

    /// Chunk `k` of the running epoch starts at `at`.
    pub fn mark(&mut self, k: u64, at: i64) {
        if self.grid.last().is_none() {
            // Who joins inside an epoch has nothing of what came before.
            self.tracks.values_mut().for_each(|track| track.next = track.next.max(k));
        }
        self.grid.mark(k, at);
        self.advance();
    }

    /// The running epoch's media ends at `at`.
    pub fn close(&mut self, at: i64) {
        self.grid.close(at);
        self.live.state = State::Away;
        self.advance();
    }

    /// The encoder stays away: one more chunk number is a gap on every rendition.
    pub fn gap(&mut self) {
        self.grid.gap(self.settings.chunk);
        self.advance();
    }

    /// No further chunk of `rendition` will come from `epoch`.
    pub fn done(&mut self, rendition: &Rendition, epoch: u64) {
        if let Some(track) = self.tracks.get_mut(rendition) {
            track.done.insert(epoch);
        }
        self.advance();
    }

    /// The broadcast is over; playlists end.
    pub fn end(&mut self) {
        self.live.state = State::Ended;
        for track in self.tracks.values_mut() {
            if let Some(list) = &mut track.list {
                list.end();
                track.dirty = true;
            }
        }
    }

    /// Takes an init segment that the chunks of `rendition` name.
    pub fn init(&mut self, rendition: &Rendition, hash: Arc<str>, bytes: Bytes) {
        if let Some(track) = self.tracks.get_mut(rendition)
            && !track.inits.iter().any(|(known, _)| *known == hash)
        {
            track.inits.push((hash, bytes));
            track.dirty = true;
        }
    }

    /// Corrects what the multivariant playlist says of a rendition, now that its config is known.
    pub fn describe(&mut self, row: RenditionRow) {
        if let Some(track) = self.tracks.get_mut(&row.name) {
            track.row = with_peaks(row, &track.row);
            track.dirty = true;
        }
    }

    /// Takes the parts that a chunker has made of its open chunk. `false`: there are none that were not known.
    pub fn progress(&mut self, rendition: &Rendition, chunker: &Chunker) -> bool {
        let (Some(k), epoch, parts) = (chunker.open(), chunker.epoch(), chunker.parts()) else { return false };
        let Some(track) = self.tracks.get_mut(rendition).filter(|_| self.parts.is_some()) else { return false };
        match &mut track.open {
            // After a restart of its encoder a chunk is made again: what is listed stays as it is.
            Some(open) if (open.k, open.epoch) == (k, epoch) => match parts.get(open.parts.len()..) {
                None | Some([]) => return false,
                Some(new) => open.parts.extend_from_slice(new),
            },
            _ if parts.is_empty() => return false,
            open => {
                *open = Some(Progress { k, epoch, init: chunker.init().hash.as_str().into(), parts: parts.to_vec() })
            }
        }
        self.advance();
        true
    }

    /// Takes a complete chunk. `false`: it came too late or nobody asked for it, and it is not part of the broadcast.
    pub fn finished(&mut self, finished: Finished) -> bool {
        let k = finished.chunk.k;
        let Some(track) = self.tracks.get_mut(&finished.rendition) else { return false };
        let valid = self.grid.slot(k).is_some_and(|slot| !slot.gap && slot.epoch == finished.chunk.epoch);
        if k < track.next || !valid {
            return false;
        }
        track.ready.insert(k, finished);
        self.advance();
        true
    }

    /// The bytes of a chunk are in the store and need no place in memory once they are out of the window.
    pub fn stored(&mut self, rendition: &Rendition, k: u64, epoch: u64) {
        if let Some(track) = self.tracks.get_mut(rendition) {
            track.stored.insert((k, epoch));
        }
    }

    /// Rows of all renditions that listed something, for the broadcast's row.
    pub fn rows(&self) -> Vec<RenditionRow> {
        self.tracks.values().filter(|track| track.listed_media).map(Track::measured).collect()
    }

    /// The renditions that `epoch` is making.
    pub fn offer(&self, epoch: u64) -> usize {
        self.offers.get(&epoch).map_or(0, BTreeSet::len)
    }

    pub fn slot(&self, k: u64) -> Option<&Slot> {
        self.grid.slot(k)
    }

    pub fn state(&self) -> State {
        self.live.state
    }

    /// When [`Broadcast::snapshot`] will offer what is there, though a rendition is still missing.
    pub fn deadline(&self) -> Option<Timestamp> {
        let waiting = self.offered_epoch != self.live.epoch && !self.waited;
        waiting.then_some(self.first_listed? + FIRST_WAIT)
    }

    /// Gives the present state. Renditions that did not change share what the last snapshot held.
    pub fn snapshot(&mut self, now: Timestamp) -> Live {
        self.settle(now);
        self.refresh();
        self.live.clone()
    }

    fn track(&self, row: RenditionRow, next: u64) -> Track {
        let (shown, _) = watch::channel(Arc::new(LiveRendition {
            row: row.clone(),
            window: List::new(1, 1).window(),
            history: History::default(),
            reports: Vec::new(),
            chunks: Arc::default(),
            open: None,
            inits: Vec::new(),
            texts: Texts::default(),
        }));
        Track {
            row,
            list: None,
            history: History::default(),
            next,
            ready: BTreeMap::new(),
            done: BTreeSet::new(),
            chunks: Arc::default(),
            open: None,
            stored: BTreeSet::new(),
            inits: Vec::new(),
            bits: 0,
            us: 0,
            listed_media: false,
            shown,
            dirty: false,
        }
    }

    /// Lists whatever can be listed, in order, on every rendition.
    fn advance(&mut self) {
        if self.target == 0 || self.live.state == State::Ended {
            return;
        }
        let Some(newest) = self.grid.last().map(|slot| slot.k) else { return };
        let first_of_epoch = self.offers.keys().next().copied();
        for (name, track) in &mut self.tracks {
            while let Some(slot) = self.grid.slot(track.next)
                && slot.end.is_some()
            {
                let offered = self.offers.get(&slot.epoch).is_some_and(|offer| offer.contains(name))
                    || first_of_epoch.is_some_and(|first| slot.epoch < first);
                let passed = track.ready.values().any(|f| f.chunk.k > slot.k && f.chunk.epoch == slot.epoch);
                let over =
                    slot.gap || !offered || passed || track.done.contains(&slot.epoch) || newest - slot.k > LATE_MAX;
                let mut finished = track.ready.remove(&slot.k);
                if finished.is_none() && !over {
                    break;
                }
                if finished.is_none() && track.list.is_none() {
                    // Nothing of this rendition was ever listed: it begins with its first chunk, not with holes.
                    track.next += 1;
                    continue;
                }
                if let (Some(finished), Some(open)) = (&mut finished, &track.open)
                    && (open.k, open.epoch) == (slot.k, slot.epoch)
                    && let Some(rest) = finished.chunk.parts.get(open.parts.len()..)
                {
                    // A part stays what it was when it was listed, also when its encoder was replaced before the chunk's end.
                    finished.chunk.parts = open.parts.iter().chain(rest).cloned().collect();
                }
                let list = track.list.get_or_insert_with(|| {
                    let before = self.grid.discontinuities_before(slot.k);
                    track.history = History::new(before);
                    new_list(self.target, self.parts, self.settings.window, before)
                });
                let us = finished.as_ref().map_or(slot_us(slot), |f| f.chunk.duration_us());
                let entry = Entry {
                    k: slot.k,
                    epoch: self.shown_as.get(&slot.k).copied().unwrap_or(slot.epoch),
                    duration_us: us,
                    discontinuity: slot.discontinuity,
                    gap: finished.is_none(),
                    wall: slot.wall,
                    init: finished.as_ref().map_or_else(|| "".into(), |f| f.init.clone()),
                    parts: match (&finished, self.parts) {
                        (Some(finished), Some(_)) => part_entries(&finished.chunk.parts),
                        _ => Arc::default(),
                    },
                };
                let size = |f: &Finished| Size { bytes: f.chunk.bytes.len() as u32, iframe: f.chunk.iframe };
                track.history.push(&entry, slot.at, finished.as_ref().map(size).unwrap_or_default());
                list.append(entry).expect("numbers are listed one after the other, before the end");
                if let Some(finished) = finished {
                    let bits = finished.chunk.bytes.len() as u64 * 8;
                    // A short last chunk's rate says nothing about the peak that a player must carry.
                    if us * 2 >= u64::from(self.target) * 1_000_000 {
                        track.row.peak_bps = track.row.peak_bps.max(bits * 1_000_000 / us.max(1));
                        let iframe_bps = u64::from(finished.chunk.iframe) * 8_000_000 / us.max(1);
                        track.row.iframe_bps = track.row.iframe_bps.max(iframe_bps);
                    }
                    track.bits += bits;
                    track.us += us;
                    Arc::make_mut(&mut track.chunks).push(finished.chunk);
                    track.listed_media = true;
                    self.live.k = self.live.k.max(Some(slot.k));
                }
                track.next += 1;
                track.dirty = true;
            }
            let Some(list) = &mut track.list else { continue };
            if track.open.as_ref().is_some_and(|open| open.k < track.next) {
                track.open = None;
            }
            let coming = self.grid.slot(track.next).filter(|slot| {
                let offered = self.offers.get(&slot.epoch).is_some_and(|offer| offer.contains(name));
                self.parts.is_some() && !slot.gap && offered && !track.done.contains(&slot.epoch)
            });
            let open = coming.map(|slot| {
                let made = track.open.as_ref().filter(|open| (open.k, open.epoch) == (slot.k, slot.epoch));
                let parts = made.map_or_else(Arc::default, |open| part_entries(&open.parts));
                Entry {
                    k: slot.k,
                    epoch: slot.epoch,
                    duration_us: parts.iter().map(|part| part.duration_us).sum(),
                    discontinuity: slot.discontinuity,
                    gap: false,
                    wall: slot.wall,
                    init: made.map_or_else(|| "".into(), |open| open.init.clone()),
                    parts,
                }
            });
            if list.open() != open.as_ref() {
                list.set_open(open);
                track.dirty = true;
            }
        }
    }

    /// Decides which renditions the multivariant playlist offers.
    fn settle(&mut self, now: Timestamp) {
        if self.offered_epoch == self.live.epoch || self.live.mode.is_none() {
            return;
        }
        let Some(offer) = self.offers.get(&self.live.epoch) else { return };
        let lists = |name: &Rendition, epoch: Option<u64>| {
            let list = self.tracks.get(name).and_then(|track| track.list.as_ref());
            let is_of = |e: &Entry, epoch| e.epoch == epoch || self.shown_as.contains_key(&e.k);
            let has = |e: &Entry| !e.gap && epoch.is_none_or(|epoch| is_of(e, epoch));
            list.is_some_and(|list| list.window().entries().iter().any(has))
        };
        let here: Vec<_> = offer.iter().filter(|name| lists(name, Some(self.live.epoch))).cloned().collect();
        if here.is_empty() {
            return;
        }
        let first = *self.first_listed.get_or_insert(now);
        let video = |name: &Rendition| *name != Rendition::audio();
        let watchable = here.iter().any(video) || !offer.iter().any(video);
        if here.len() == offer.len() {
            self.live.offered = here;
            self.offered_epoch = self.live.epoch;
        } else if now >= first + FIRST_WAIT {
            self.waited = true;
            if watchable {
                // What is still missing joins when it comes. What was offered before the encoder came back stays while
                // its chunks are in the window: a player reads this list once, and would never learn of a rendition that
                // was left out for the second it took to start again.
                let old = &self.live.offered;
                let stays = |name: &&Rendition| here.contains(name) || (old.contains(name) && lists(name, None));
                self.live.offered = offer.iter().filter(stays).cloned().collect();
            }
        }
    }

    /// Shows what [`Broadcast::progress`] took, to those who hold a rendition already. The snapshot as a whole stays: a part
    /// changes nothing else.
    pub fn show_parts(&mut self) {
        let window = self.settings.window as u64;
        let edge = |name: &Rendition| self.tracks.get(name)?.list.as_ref()?.edge();
        let reports: Vec<_> = self
            .live
            .offered
            .iter()
            .filter_map(|name| edge(name).map(|(k, part)| Report { rendition: name.clone(), k, part }))
            .collect();
        for (name, track) in &mut self.tracks {
            if !track.dirty && self.live.renditions.contains_key(name) {
                continue;
            }
            track.dirty = false;
            let Some(list) = &track.list else { continue };
            let shown = list.window().with_marks(self.marks.clone());
            let first = shown.media_sequence();
            let (stored, spare) = (&track.stored, window);
            // What is not stored (the store is slow or gone) stays for one window more, then memory's bound wins.
            let kept = |c: &Chunk| c.k >= first || (!stored.contains(&(c.k, c.epoch)) && c.k + spare >= first);
            // Most changes are a part: what they share with the snapshot before is not copied.
            if !track.chunks.iter().all(kept) {
                Arc::make_mut(&mut track.chunks).retain(kept);
            }
            track.stored.retain(|(k, _)| *k >= first);
            if track.inits.len() > 1 {
                let used = |hash: &Arc<str>| shown.entries().iter().any(|e| e.init == *hash);
                let newest = track.inits.last().expect("there is more than one").0.clone();
                track.inits.retain(|(hash, _)| used(hash) || *hash == newest);
            }
            track.shown.send_replace(Arc::new(LiveRendition {
                row: track.measured(),
                window: shown,
                history: track.history.clone(),
                reports: reports.iter().filter(|report| report.rendition != *name).cloned().collect(),
                chunks: track.chunks.clone(),
                open: track.open.clone(),
                inits: track.inits.clone(),
                texts: Texts::default(),
            }));
            self.live.renditions.entry(name.clone()).or_insert_with(|| Shown(track.shown.subscribe()));
        }
    }

    /// Brings everything that is shown up to date.
    fn refresh(&mut self) {
        self.show_parts();
        let rows: Vec<_> = self.live.offered.iter().filter_map(|name| self.live.renditions.get(name)).collect();
        let rows: Vec<_> = rows.into_iter().map(|shown| shown.now().row.clone()).collect();
        if !rows.is_empty() && rows != self.rendered {
            self.live.multivariants = Some(Arc::new(Multivariants::new(&rows, &self.live.broadcast)));
            self.rendered = rows;
        }
    }
}

impl Track {
    fn measured(&self) -> RenditionRow {
        let mean = (self.bits * 1_000_000).checked_div(self.us).unwrap_or(self.row.mean_bps);
        RenditionRow { mean_bps: mean, ..self.row.clone() }
    }
}

/// A rendition's new row; what it took at most before is what a player must carry still.
fn with_peaks(row: RenditionRow, before: &RenditionRow) -> RenditionRow {
    let peak_bps = row.peak_bps.max(before.peak_bps);
    RenditionRow { peak_bps, iframe_bps: row.iframe_bps.max(before.iframe_bps), ..row }
}

/// An empty list after `before` discontinuities.
fn new_list(target: u32, parts: Option<Parts>, len: usize, before: u64) -> List {
    let empty = Window::from_entries(target, before, [], false).expect("nothing is always consecutive");
    List::resume(&empty, len).with_parts(parts.map(|parts| parts.target_ms))
}

fn part_entries(parts: &[Part]) -> Arc<[PartEntry]> {
    let entry = |part: &Part| PartEntry { duration_us: part.duration_us, independent: part.independent };
    parts.iter().map(entry).collect()
}

fn slot_us(slot: &Slot) -> u64 {
    let ticks = slot.end.unwrap_or(slot.at) - slot.at;
    (ticks.max(0) as u64) * 1_000_000 / u64::from(VIDEO_TIMESCALE)
}

#[cfg(test)]
#[path = "broadcast_tests.rs"]
mod tests;
