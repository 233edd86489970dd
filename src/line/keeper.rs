//! Writes what a line made to the store: bytes first, then the row, so that a row means stored.
//!
//! Jobs enter a bounded queue; the line learns by [`Stored`] what is safe. The renditions of a chunk are put beside each other. A
//! store that fails or is slow never holds up the live edge: what failed is tried again, and over the bound new chunks are not
//! stored (and said so), never waited for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info};

use super::grid::Slot;
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    media::Pieces,
    store::{self, Blobs, BroadcastRow, ChunkRow, Meta, RenditionChunk, blob_name, health::Health, init_name},
};

/// Bytes that may wait for the store, per line: some 30 s of a full ladder. Beyond it new chunks are dropped.
const QUEUE_BYTES: usize = 48 << 20;
/// Jobs that may wait; a second bound for tiny chunks.
const QUEUE_JOBS: usize = 512;
/// Objects that are put at the same time, per line: a full ladder and what is late.
const AT_ONCE: usize = 8;
/// One attempt at one object.
const ATTEMPT: Duration = Duration::from_secs(4);
/// A row whose last renditions do not come is written without them after this quiet time.
const ROW_WAIT: Duration = Duration::from_millis(700);
/// Rows that may still gain a rendition.
const OPEN_ROWS: usize = 8;

/// A chunk on its way to the store.
#[derive(Debug)]
pub struct ChunkJob {
    pub broadcast: BroadcastId,
    pub slot: Slot,
    pub duration: i64,
    /// Renditions that the chunk's epoch makes: the row is written at once when all are there.
    pub expected: usize,
    pub made: RenditionChunk,
    pub bytes: Pieces,
}

#[derive(Debug)]
pub enum Job {
    Init { broadcast: BroadcastId, rendition: Rendition, hash: Arc<str>, bytes: Bytes },
    Chunk(Box<ChunkJob>),
    Broadcast(Box<BroadcastRow>),
}

/// What is safe in the store.
#[derive(Debug)]
pub enum Stored {
    /// A chunk's bytes and row.
    Chunk { rendition: Rendition, k: u64, epoch: u64 },
    /// The end of a broadcast, after all of its chunks.
    End,
}

/// The line's end of the queue. Dropping it lets the writer finish and end.
#[derive(Debug)]
pub struct Keeper {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    stream: StreamId,
    /// Tells the writer's puts that the line has ended.
    _ended: DropGuard,
}

/// What the writer needs.
#[derive(Clone)]
pub struct Stores {
    pub meta: Arc<dyn Meta>,
    pub blobs: Arc<dyn Blobs>,
    pub health: Arc<Health>,
}

impl Keeper {
    /// Starts the writer of one line. The future ends when the keeper is dropped and everything was tried.
    pub fn new(stream: StreamId, stores: Stores, stored: mpsc::Sender<Stored>) -> (Self, impl Future<Output = ()>) {
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let ended = CancellationToken::new();
        let hand = Hand { stream: stream.clone(), stores, ended: ended.clone() };
        let (open, waiting_too) = (BTreeMap::new(), waiting.clone());
        let writer = Writer { hand, stored, waiting: waiting_too, open, closed: None, putting: JoinSet::new() };
        (Self { jobs, waiting, stream, _ended: ended.drop_guard() }, writer.run(queue))
    }

    /// Hands a job to the writer; when the queue is full it is given up, counted and said, and the answer is `false`.
    pub fn submit(&self, job: Job) -> bool {
        let size = job.size();
        let fits = self.waiting.load(Ordering::Relaxed) + size <= QUEUE_BYTES;
        if fits {
            self.waiting.fetch_add(size, Ordering::Relaxed);
            if self.jobs.try_send(job).is_ok() {
                return true;
            }
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
        metrics::counter!("weir_store_dropped_total").increment(1);
        error!(stream = %self.stream, bytes = size, "store is too slow or gone: a chunk will not be recorded");
        false
    }
}

impl Job {
    fn size(&self) -> usize {
        match self {
            Job::Init { bytes, .. } => bytes.len(),
            Job::Chunk(job) => job.bytes.len(),
            Job::Broadcast(_) => 256,
        }
    }
}

struct Row {
    row: ChunkRow,
    expected: usize,
    written: bool,
}

/// What every write needs. Cheap to clone.
#[derive(Clone)]
struct Hand {
    stream: StreamId,
    stores: Stores,
    ended: CancellationToken,
}

/// A row: broadcast, k and epoch. A later broadcast has a greater id.
type Key = (BroadcastId, u64, u64);

struct Writer {
    hand: Hand,
    stored: mpsc::Sender<Stored>,
    waiting: Arc<AtomicUsize>,
    /// Rows under way; a late rendition writes its row again.
    open: BTreeMap<Key, Row>,
    /// Rows up to this one are written for good, unless they are open still.
    closed: Option<Key>,
    /// Chunks that are being put: each with the bytes it held in the queue, and whether it was stored.
    putting: JoinSet<(ChunkJob, usize, bool)>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut open = true;
        while open || !self.putting.is_empty() {
            tokio::select! {
                job = queue.recv(), if open && self.putting.len() < AT_ONCE => match job {
                    Some(job) => self.begin(job).await,
                    None => open = false,
                },
                Some(put) = self.putting.join_next() => self.put(put).await,
                () = tokio::time::sleep(ROW_WAIT) => self.flush(None).await,
            }
        }
        self.flush(None).await;
    }

    async fn begin(&mut self, job: Job) {
        let size = job.size();
        let stream = &self.hand.stream;
        match job {
            Job::Chunk(mut job) => {
                let name = blob_name(stream, &job.broadcast, &job.made.rendition, job.slot.k, job.slot.epoch);
                let (hand, bytes) = (self.hand.clone(), std::mem::take(&mut job.bytes));
                self.putting.spawn(async move {
                    let stored = hand.put(&name, bytes).await;
                    (*job, size, stored)
                });
                return;
            }
            Job::Init { broadcast, rendition, hash, bytes } => {
                let name = init_name(stream, &broadcast, &rendition, &hash);
                self.hand.put(&name, bytes.into()).await;
            }
            Job::Broadcast(row) => {
                let ends = row.ended.is_some();
                if ends {
                    // Whoever reads that it has ended finds all of it.
                    while let Some(put) = self.putting.join_next().await {
                        self.put(put).await;
                    }
                    self.flush(None).await;
                }
                let meta = self.hand.stores.meta.clone();
                if self.hand.persist(|| meta.put_broadcast((*row).clone())).await && ends {
                    let _ = self.stored.try_send(Stored::End);
                }
            }
        }
        self.waiting.fetch_sub(size, Ordering::Relaxed);
    }

    /// A chunk was put, or given up.
    async fn put(&mut self, put: Result<(ChunkJob, usize, bool), tokio::task::JoinError>) {
        let (job, size, stored) = put.expect("a put does not panic");
        if stored {
            metrics::counter!("weir_store_bytes_total").increment(u64::from(job.made.bytes));
            self.chunk(job).await;
        }
        self.waiting.fetch_sub(size, Ordering::Relaxed);
    }

    async fn chunk(&mut self, job: ChunkJob) {
        let (k, epoch) = (job.slot.k, job.slot.epoch);
        let key = (job.broadcast, k, epoch);
        let rendition = job.made.rendition.clone();
        if !self.open.contains_key(&key) {
            let slot = &job.slot;
            let new = ChunkRow {
                k,
                epoch,
                at: slot.at,
                duration: job.duration,
                wall: slot.wall,
                discontinuity: slot.discontinuity,
                renditions: Vec::new(),
            };
            // One with this rendition alone would take the place of a row that was written long ago. None is of a newer epoch.
            let is_old = self.closed.as_ref().is_some_and(|closed| key <= *closed && epoch <= closed.2);
            let old = if is_old { self.written(&key).await } else { Ok(None) };
            let old = match old {
                Ok(old) => old,
                Err(why) => {
                    error!(stream = %self.hand.stream, k, %rendition, %why, "a late chunk will not be recorded: its row cannot be read");
                    return;
                }
            };
            let row = Row { written: old.is_some(), row: old.unwrap_or(new), expected: job.expected };
            self.open.insert(key.clone(), row);
        }
        let Some(row) = self.open.get_mut(&key) else { return };
        row.row.renditions.retain(|known| known.rendition != rendition);
        row.row.renditions.push(job.made);
        let complete = row.row.renditions.len() >= row.expected;
        if complete || row.written {
            self.put_row(&key).await;
        }
        self.flush(Some((key.0, k.saturating_sub(1), 0))).await;
        while self.open.len() > OPEN_ROWS {
            let Some(done) = self.open.iter().find(|(_, row)| row.written).map(|(key, _)| key.clone()) else { break };
            self.open.remove(&done);
            self.closed = self.closed.take().max(Some(done));
        }
    }

    /// A row as it is in the store.
    async fn written(&self, (broadcast, k, epoch): &Key) -> store::Result<Option<ChunkRow>> {
        let read = self.hand.stores.meta.chunks(&self.hand.stream, broadcast, *k, 1);
        let rows = tokio::time::timeout(ATTEMPT, read).await;
        let rows = rows.unwrap_or_else(|_| Err(store::Error::Unavailable(format!("no answer within {ATTEMPT:?}"))))?;
        Ok(rows.into_iter().find(|row| (row.k, row.epoch) == (*k, *epoch)))
    }

    /// Writes the rows that wait for a rendition that is late: those before `end`, or all.
    async fn flush(&mut self, end: Option<Key>) {
        let is_late = |key: &Key| end.as_ref().is_none_or(|end| key < end);
        let late = self.open.iter().filter(|(key, row)| !row.written && is_late(key)).map(|(key, _)| key.clone());
        for key in late.collect::<Vec<_>>() {
            self.put_row(&key).await;
        }
    }

    async fn put_row(&mut self, key: &Key) {
        let Some(row) = self.open.get(key).map(|open| open.row.clone()) else { return };
        let (broadcast, k, epoch) = key;
        let (meta, stream) = (&self.hand.stores.meta, &self.hand.stream);
        if !self.hand.persist(|| meta.put_chunk(stream, broadcast, row.clone())).await {
            return;
        }
        if let Some(open) = self.open.get_mut(key) {
            open.written = true;
        }
        for made in row.renditions {
            // A line that does not listen any more has no memory to free.
            let _ = self.stored.try_send(Stored::Chunk { rendition: made.rendition, k: *k, epoch: *epoch });
        }
    }
}

impl Hand {
    async fn put(&self, name: &str, bytes: Pieces) -> bool {
        self.persist(|| self.stores.blobs.put(name, bytes.clone())).await
    }

    /// Tries until it is written, or until the line has ended and one more try failed.
    async fn persist<W>(&self, write: impl Fn() -> W) -> bool
    where
        W: Future<Output = store::Result<()>>,
    {
        let mut pause = Duration::from_millis(250);
        loop {
            let why = match tokio::time::timeout(ATTEMPT, write()).await {
                Ok(Ok(())) => {
                    if self.stores.health.recovered() {
                        info!(stream = %self.stream, "store takes writes again");
                    }
                    return true;
                }
                Ok(Err(why)) => why.to_string(),
                Err(_) => format!("no answer within {ATTEMPT:?}"),
            };
            metrics::counter!("weir_store_failures_total").increment(1);
            if self.stores.health.failed(why.clone()) {
                error!(stream = %self.stream, %why, "store does not take writes: live goes on from memory, nothing is recorded");
            }
            if self.ended.is_cancelled() {
                return false;
            }
            // The last try is made at once.
            let _ = tokio::time::timeout(pause, self.ended.cancelled()).await;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{blobs::Folder, embedded::Embedded},
        time::UnixMs,
    };

    fn chunk(broadcast: &BroadcastId, k: u64, rendition: &str) -> ChunkJob {
        let at = i64::try_from(k).unwrap() * 180_000;
        let slot = Slot { k, epoch: 1, at, end: None, wall: UnixMs(0), discontinuity: false, gap: false };
        let rendition = Rendition::new(rendition).unwrap();
        let made = RenditionChunk { rendition, init: "0".into(), bytes: 1, iframe: 1, duration_us: 2_000_000 };
        let broadcast = broadcast.clone();
        ChunkJob { broadcast, slot, duration: 180_000, expected: 2, made, bytes: Pieces::default() }
    }

    #[tokio::test]
    async fn a_late_rendition_joins_its_row_however_late_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let meta: Arc<dyn Meta> = Arc::new(Embedded::open(&dir.path().join("meta")).unwrap());
        let blobs = Arc::new(Folder::open(&dir.path().join("chunks")).unwrap());
        let stores = Stores { meta: meta.clone(), blobs, health: Arc::default() };
        let (stream, ended) = (StreamId::new("alice").unwrap(), CancellationToken::new());
        let hand = Hand { stream: stream.clone(), stores, ended };
        let (stored, _told) = mpsc::channel(100);
        let (open, waiting) = (BTreeMap::new(), Arc::default());
        let mut writer = Writer { hand, stored, waiting, open, closed: None, putting: JoinSet::new() };
        let of = ["1a", "1b"].map(|id| BroadcastId::new(id).unwrap());
        // The end of the first one did not reach the writer, and the second counts from zero.
        for broadcast in &of {
            for (k, rendition) in (0..20).flat_map(|k| [(k, "source"), (k, "360p")]) {
                // One comes after its row was written without it, one of a row that was never begun.
                if (k, rendition) != (3, "360p") && k != 5 {
                    writer.chunk(chunk(broadcast, k, rendition)).await;
                }
            }
            for (k, rendition) in [(3, "360p"), (5, "360p"), (5, "source")] {
                writer.chunk(chunk(broadcast, k, rendition)).await;
            }
        }
        writer.flush(None).await;
        for broadcast in &of {
            let rows = meta.chunks(&stream, broadcast, 0, 100).await.unwrap();
            let made: Vec<_> = rows.iter().map(|row| (row.k, row.renditions.len())).collect();
            assert_eq!(made, (0..20).map(|k| (k, 2)).collect::<Vec<_>>());
        }
        assert!(writer.open.len() <= OPEN_ROWS);
    }
}
