//! Recordings: playlists and chunks of broadcasts that no line shows any more, read from the store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use super::{Recording, Track};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    line::{Live, Stores},
    media::VIDEO_TIMESCALE,
    package::{Clip, Entry, History, history::Size},
    store::{self, BroadcastRow, ChunkRow, ClipRow, ClipsOf, RenditionChunk, blob_name, init_name, valid_chunks},
    time::{Timestamp, UnixMs, now},
};

/// Memory for indexes of recordings: some 40 of a day at six qualities are never watched at once on one node.
const KEPT_BYTES: u64 = 256 << 20;
const KEPT: usize = 1000;
/// Rows read at a time.
const PAGE: usize = 2000;
/// How old the index of a broadcast may be that has not ended, and which no line of this node shows.
const UNFINISHED: Duration = Duration::from_secs(1);

/// Broadcasts of which is remembered whether they are deleted, and for how long: another node may delete them.
const STANDINGS: usize = 10_000;
const STANDS: Duration = Duration::from_secs(3);

/// An index: of a broadcast, up to some chunk number.
type Key = (StreamId, BroadcastId, Option<u64>);

/// Reads recordings. Ended ones never change, so their index is read once; whoever comes meanwhile waits for it.
pub struct Archive {
    stores: Stores,
    kept: Cache<Key, Kept, Weights>,
    standings: Cache<(StreamId, BroadcastId), (Standing, Timestamp)>,
}

/// What of a broadcast may be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    All,
    /// It was deleted but for its clips.
    Clips(Arc<[ClipRow]>),
}

impl Standing {
    /// Whether what a URL names is still there to watch.
    pub fn allows(&self, wanted: &Wanted) -> bool {
        let Standing::Clips(clips) = self else { return true };
        clips.iter().any(|clip| match wanted {
            Wanted::Clip(wanted) => clip.from_ms <= wanted.from_ms && wanted.to_ms <= clip.to_ms,
            Wanted::Chunk(k) => (clip.chunks.0..=clip.chunks.1).contains(k),
            Wanted::Init => true,
            Wanted::Whole => false,
        })
    }
}

/// What a URL names of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    Clip(Clip),
    Chunk(u64),
    Init,
}

#[derive(Clone)]
struct Kept {
    /// Nothing of it may be there to watch.
    recording: Option<Arc<Recording>>,
    /// Until when it counts, where it may go on.
    until: Option<Timestamp>,
}

#[derive(Clone)]
struct Weights;

impl Weighter<Key, Kept> for Weights {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        kept.recording.as_ref().map_or(100, |recording| recording.weight())
    }
}

impl Archive {
    pub fn new(stores: Stores) -> Self {
        Self { stores, kept: super::cache(KEPT, KEPT_BYTES, Weights), standings: Cache::new(STANDINGS) }
    }

    /// The index of a broadcast. [`store::Error::NotFound`] when there is none, or nothing of it.
    pub async fn recording(&self, stream: &StreamId, id: &BroadcastId) -> store::Result<Arc<Recording>> {
        self.kept((stream.clone(), id.clone(), None)).await?.ok_or(store::Error::NotFound)
    }

    /// The index of a running broadcast before chunk number `k`, with which this node took it up. Nothing where that is all.
    pub async fn before(&self, stream: &StreamId, id: &BroadcastId, k: u64) -> store::Result<Option<Arc<Recording>>> {
        self.kept((stream.clone(), id.clone(), Some(k))).await
    }

    /// What a running broadcast has so far. Nothing before its first chunk.
    pub async fn of_live(&self, live: &Live) -> store::Result<Option<Recording>> {
        let before = match live.restored {
            Some(k) => self.before(&live.stream, &live.broadcast, k).await?,
            None => None,
        };
        Ok(Recording::of_live(live, before.as_deref()))
    }

    /// Whether a broadcast is deleted, and what of it is left.
    pub async fn standing(&self, stream: &StreamId, id: &BroadcastId) -> store::Result<Standing> {
        let key = (stream.clone(), id.clone());
        if let Some((standing, until)) = self.standings.get(&key)
            && now() < until
        {
            return Ok(standing);
        }
        self.standings.remove(&key);
        let read = async {
            let meta = &self.stores.meta;
            let deleted = meta.broadcast(stream, id).await?.is_some_and(|row| row.deleted.is_some());
            let standing = match deleted {
                false => Standing::All,
                true => Standing::Clips(meta.clips(&ClipsOf::Broadcast(id.clone()), None, usize::MAX).await?.into()),
            };
            Ok((standing, now() + STANDS))
        };
        Ok(self.standings.get_or_insert_async(&key, read).await?.0)
    }

    /// Forgets a broadcast that has changed.
    pub fn forget(&self, stream: &StreamId, id: &BroadcastId) {
        self.kept.remove(&(stream.clone(), id.clone(), None));
        self.standings.remove(&(stream.clone(), id.clone()));
    }

    async fn kept(&self, key: Key) -> store::Result<Option<Arc<Recording>>> {
        if let Some(kept) = self.kept.get(&key)
            && kept.until.is_some_and(|until| until < now())
        {
            self.kept.remove(&key);
        }
        let kept = self.kept.get_or_insert_async(&key, self.read(&key)).await?;
        Ok(kept.recording)
    }

    async fn read(&self, (stream, id, before): &Key) -> store::Result<Kept> {
        let meta = &self.stores.meta;
        let row = meta.broadcast(stream, id).await?.ok_or(store::Error::NotFound)?;
        let epochs = meta.epochs(stream, id).await?;
        let mut index = Index::new(&row);
        let mut from = 0;
        loop {
            let mut page = meta.chunks(stream, id, from, PAGE).await?;
            let full = page.len() >= PAGE;
            let Some(last) = page.last().map(|row| row.k) else { break };
            page.retain(|row| before.is_none_or(|before| row.k < before));
            valid_chunks(page, &epochs).iter().for_each(|chunk| index.push(chunk));
            if !full || before.is_some_and(|before| last >= before) {
                break;
            }
            from = last + 1;
        }
        let unfinished = row.ended.is_none() && before.is_none();
        let recording = index.finish(row, *before).map(Arc::new);
        Ok(Kept { recording, until: unfinished.then(|| now() + UNFINISHED) })
    }

    /// A chunk's bytes. An older epoch's name whose bytes are not there is answered with the valid chunk of that number:
    /// same frames, same times.
    pub async fn chunk(
        &self,
        stream: &StreamId,
        id: &BroadcastId,
        rendition: &Rendition,
        k: u64,
        epoch: u64,
    ) -> store::Result<Bytes> {
        match self.stores.blobs.get(&blob_name(stream, id, rendition, k, epoch)).await {
            Err(store::Error::NotFound) => {}
            other => return other,
        }
        let epochs = self.stores.meta.epochs(stream, id).await?;
        let rows = self.stores.meta.chunks(stream, id, k, 8).await?;
        let valid = valid_chunks(rows, &epochs).into_iter().find(|row| row.k == k && epoch < row.epoch);
        let valid = valid.filter(|row| of_rendition(row, rendition).is_some()).ok_or(store::Error::NotFound)?;
        self.stores.blobs.get(&blob_name(stream, id, rendition, k, valid.epoch)).await
    }

    pub async fn init(
        &self,
        stream: &StreamId,
        id: &BroadcastId,
        rendition: &Rendition,
        hash: &str,
    ) -> store::Result<Bytes> {
        self.stores.blobs.get(&init_name(stream, id, rendition, hash)).await
    }
}

/// An index as it is read.
struct Index {
    /// Nominal chunk duration, 90 kHz.
    chunk: i64,
    histories: BTreeMap<Rendition, History>,
    discontinuities: u64,
    /// The number after the last row's, its epoch and its time: on the timeline (90 kHz) and by the wall clock.
    next: Option<(u64, u64, i64, UnixMs)>,
}

impl Index {
    fn new(row: &BroadcastRow) -> Self {
        let chunk = i64::from(row.chunk_ms) * i64::from(VIDEO_TIMESCALE) / 1000;
        Self { chunk, histories: BTreeMap::new(), discontinuities: 0, next: None }
    }

    /// Takes the next valid row.
    fn push(&mut self, row: &ChunkRow) {
        self.holes(row.k, row.at);
        for made in &row.renditions {
            let before = self.discontinuities;
            self.histories.entry(made.rendition.clone()).or_insert_with(|| History::new(before));
        }
        for (rendition, history) in &mut self.histories {
            let made = of_rendition(row, rendition);
            let entry = Entry {
                k: row.k,
                epoch: row.epoch,
                duration_us: made.map_or(ticks_us(row.duration), |made| made.duration_us),
                discontinuity: row.discontinuity,
                gap: made.is_none(),
                wall: row.wall,
                init: made.map_or("", |made| &made.init).into(),
                parts: Arc::default(),
            };
            history.push(&entry, row.at, made.map(Size::from).unwrap_or_default());
        }
        self.discontinuities += u64::from(row.discontinuity);
        let wall = UnixMs(row.wall.0 + row.duration * 1000 / i64::from(VIDEO_TIMESCALE));
        self.next = Some((row.k + 1, row.epoch, row.at + row.duration, wall));
    }

    /// Numbers without a row are holes, which together last as long as the time between their neighbours.
    fn holes(&mut self, until: u64, until_at: i64) {
        let Some((first, epoch, at, wall)) = self.next.filter(|next| next.0 < until) else { return };
        let count = (until - first) as i64;
        let each = ((until_at - at).max(count) / count).min(self.chunk.max(1));
        for n in 0..count {
            let entry = Entry {
                k: first + n as u64,
                epoch,
                duration_us: ticks_us(each),
                discontinuity: false,
                gap: true,
                wall: UnixMs(wall.0 + n * each * 1000 / i64::from(VIDEO_TIMESCALE)),
                init: "".into(),
                parts: Arc::default(),
            };
            self.histories.values_mut().for_each(|history| history.push(&entry, at + n * each, Size::default()));
        }
    }

    /// What was read, up to number `before`.
    fn finish(mut self, row: BroadcastRow, before: Option<u64>) -> Option<Recording> {
        if let (Some(before), Some((_, _, at, _))) = (before, self.next) {
            self.holes(before, at + self.chunk);
        }
        // What lists chunks but is not in the row was made as the node died.
        let tracks = row.renditions.iter().filter_map(|rendition| {
            let history = self.histories.remove(&rendition.name)?;
            Some(Track::new(rendition.clone(), vec![history]))
        });
        let tracks = tracks.collect();
        let mut recording = Recording::new(row.stream, row.id, (row.started, row.ended), row.target, tracks)?;
        // Where only clips are left, the first chunk is no longer the first.
        recording.zero = row.summary.map_or(recording.zero, |summary| summary.zero);
        Some(recording)
    }
}

fn of_rendition<'a>(chunk: &'a ChunkRow, rendition: &Rendition) -> Option<&'a RenditionChunk> {
    chunk.renditions.iter().find(|made| made.rendition == *rendition)
}

fn ticks_us(ticks: i64) -> u64 {
    (ticks.max(0) as u64) * 1_000_000 / u64::from(VIDEO_TIMESCALE)
}
