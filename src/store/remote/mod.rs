//! What stands between a node and stores that are elsewhere: neither a database nor a bucket that is away, slow or refusing may
//! hold up what is live, and no crowd may keep either from it.
//!
//! Writes of what is recorded enter; they leave for the stores at once, or wait in the `spool` on the local disk and are written
//! out in order when the stores are back. What waits is read from there meanwhile. Reads of the same go on once (`flights`),
//! and chunks that were read are kept for a while. Everything else passes through.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use quick_cache::{Weighter, sync::Cache};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Blobs, BroadcastRow, ChunkRow, EpochRow, Error, Meta, Result, StreamRow,
    health::{Delay, Health},
};
use crate::{
    id::StreamId,
    media::Pieces,
    time::{Timestamp, now},
};
use flights::Flights;
use spool::{Change, Entry, Spool};

mod blobs;
mod flights;
mod meta;
mod spool;

pub use blobs::RemoteBlobs;
pub use meta::RemoteMeta;

/// How long a write may take before it waits on the disk instead, and more for what is large: so many bytes a second are the least
/// that a link to a store may carry.
const PATIENCE: Duration = Duration::from_secs(1);
const BYTES_PER_SECOND: u64 = 2 << 20;
/// The same of an epoch, which an encoder waits for, or viewers whose node was lost.
const EPOCH_PATIENCE: Duration = Duration::from_millis(1500);
/// The same of a write that waited already.
const LATER_PATIENCE: Duration = Duration::from_secs(10);
/// Waiting writes that are made at the same time: live writes go before them.
const AT_ONCE: usize = 4;
/// Between two tries while the stores are away.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(4);
/// Reads of metadata, and of objects, at a time.
const READS: usize = 32;
/// Streams of which is remembered what was last known.
const STREAMS: usize = 10_000;
/// Memory for chunks that were read: a minute of some dozens of streams.
const KEPT_BYTES: u64 = 64 << 20;
/// What was given up is told at most so often.
const TOLD: Duration = Duration::from_secs(10);

/// The two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Rows,
    Bytes,
}

/// Stores elsewhere, and what stands before them.
pub struct Remote {
    meta: Arc<dyn Meta>,
    blobs: Arc<dyn Blobs>,
    spool: Mutex<Spool>,
    /// Each store's: whether writes go to the spool without a try.
    away: [AtomicBool; 2],
    /// Told when something waits for the store.
    news: [Notify; 2],
    /// Held while files of the spool change.
    disk: tokio::sync::Mutex<()>,
    health: Arc<Health>,
    objects: Flights<Bytes>,
    kept: Cache<String, Bytes, Weights>,
    streams: Cache<StreamId, StreamRow>,
    /// The newest epoch of each stream that is known.
    last_epochs: Cache<StreamId, EpochRow>,
    broadcast: Flights<Option<BroadcastRow>>,
    broadcasts: Flights<Vec<BroadcastRow>>,
    epochs: Flights<Vec<EpochRow>>,
    chunks: Flights<Vec<ChunkRow>>,
    given_up: Mutex<GivenUp>,
}

/// What was given up.
#[derive(Default)]
struct GivenUp {
    objects: u64,
    told: Option<(Timestamp, u64)>,
}

#[derive(Clone)]
struct Weights;

impl Weighter<String, Bytes> for Weights {
    fn weight(&self, name: &String, bytes: &Bytes) -> u64 {
        (name.len() + bytes.len()) as u64 + 100
    }
}

impl Remote {
    /// Stands before these stores, with a spool in `dir` of at most so many bytes. What waits there from before is written out
    /// by [`Remote::run`].
    pub async fn open(
        meta: Arc<dyn Meta>,
        blobs: Arc<dyn Blobs>,
        health: Arc<Health>,
        dir: &Path,
        bytes_max: u64,
    ) -> Result<Arc<Self>> {
        let spool = Spool::open(dir, bytes_max).await?;
        let waiting = spool.waiting();
        if waiting.writes > 0 {
            info!(writes = waiting.writes, bytes = waiting.bytes, "recordings of before wait in the spool");
        }
        let (rows, objects) = (Arc::new(Semaphore::new(READS)), Arc::new(Semaphore::new(READS)));
        let remote = Self {
            meta,
            blobs,
            spool: Mutex::new(spool),
            away: [AtomicBool::new(false), AtomicBool::new(false)],
            news: [Notify::new(), Notify::new()],
            disk: tokio::sync::Mutex::default(),
            health,
            objects: Flights::new(objects),
            kept: Cache::with_weighter(1000, KEPT_BYTES, Weights),
            streams: Cache::new(STREAMS),
            last_epochs: Cache::new(STREAMS),
            broadcast: Flights::new(rows.clone()),
            broadcasts: Flights::new(rows.clone()),
            epochs: Flights::new(rows.clone()),
            chunks: Flights::new(rows),
            given_up: Mutex::default(),
        };
        for side in [Side::Rows, Side::Bytes] {
            metrics::gauge!("weir_store_away", "store" => side.name()).set(0.0);
        }
        remote.tell();
        Ok(Arc::new(remote))
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self, side: Side) -> bool {
        self.away[side as usize].load(Ordering::Acquire)
    }

    fn set_away(&self, side: Side, why: Option<&Error>) {
        let before = self.away[side as usize].swap(why.is_some(), Ordering::AcqRel);
        let name = side.name();
        match why {
            Some(why) if !before => {
                error!(%why, "the {name} cannot be written: live goes on, recordings wait in the spool");
            }
            None if before => info!("the {name} takes writes again"),
            _ => {}
        }
        metrics::gauge!("weir_store_away", "store" => name).set(f64::from(u8::from(why.is_some())));
        if let Some(why) = why {
            self.health.delayed(|delay| delay.why = format!("{name}: {why}"));
        }
        self.tell();
    }

    /// Brings what is told of the spool up to date.
    fn tell(&self) {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner).objects;
        // Held to the end: of two who tell, the later has the later state.
        let spool = self.spool();
        let waiting = spool.waiting();
        metrics::gauge!("weir_spool_writes").set(waiting.writes as f64);
        metrics::gauge!("weir_spool_bytes").set(waiting.bytes as f64);
        let well = waiting.writes == 0 && !self.is_away(Side::Rows) && !self.is_away(Side::Bytes);
        self.health.set_delay(|before| {
            (!well).then(|| Delay {
                why: before.map(|before| before.why).unwrap_or_else(|| "recordings of before are written out".into()),
                writes: waiting.writes,
                bytes: waiting.bytes,
                given_up,
            })
        });
    }

    /// Makes a write at once, or has it wait where its store is away, or a row where something of its broadcast waits.
    async fn write(
        self: &Arc<Self>,
        entry: Entry,
        bytes: Pieces,
        make: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let side = entry.side();
        let must_wait = {
            let spool = self.spool();
            if spool.is_lost(&entry) {
                return Ok(());
            }
            self.is_away(side) || (side == Side::Rows && spool.has(&entry.show())) || spool.is_unlogged(&entry)
        };
        if !must_wait {
            let patience = PATIENCE + carried(bytes.len() as u64);
            let made = tokio::time::timeout(patience, make).await;
            match made.unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {patience:?}")))) {
                Ok(()) => return Ok(()),
                // No store takes these.
                Err(why @ Error::BadName(_)) => return Err(why),
                Err(why) => self.set_away(side, Some(&why)),
            }
        }
        self.wait(entry, bytes).await
    }

    /// Puts a write into the spool. It is as safe as a local recording when this returns. Whoever asks may go away meanwhile.
    async fn wait(self: &Arc<Self>, entry: Entry, bytes: Pieces) -> Result<()> {
        let remote = self.clone();
        let waits = tokio::spawn(async move { remote.put_into_spool(entry, bytes).await });
        waits.await.unwrap_or_else(|why| Err(Error::Unavailable(format!("the spool's work ended early: {why}"))))
    }

    async fn put_into_spool(&self, entry: Entry, bytes: Pieces) -> Result<()> {
        let side = entry.side();
        // The files change in the order of the index.
        let disk = self.disk.lock().await;
        // Its epoch may have been found out to be another node's since it was looked at: what waited of that is gone by now.
        if self.spool().is_lost(&entry) {
            return Ok(());
        }
        let (number, changes, lost) = self.spool().add(entry);
        self.tell_lost(&lost);
        let files = self.spool().files();
        let mut done = Ok(());
        for change in changes {
            match change {
                Change::Write(of, entry) if of == number => {
                    done = files.put(&spool::file(of), spool::content(&entry, &bytes)).await;
                }
                // What is left over of these does no harm: a row that names what is gone is a gap, and bytes without one go.
                Change::Write(of, entry) => {
                    let rewritten = files.put(&spool::file(of), spool::content(&entry, &Pieces::default())).await;
                    rewritten.unwrap_or_else(|why| warn!(%why, "a row that waits cannot be written again"));
                }
                Change::Remove(of) => {
                    let removed = files.delete(&spool::file(of)).await;
                    removed.unwrap_or_else(|why| warn!(%why, "what was given up stays on the disk"));
                }
            }
        }
        match &done {
            Ok(()) => self.spool().rest(number),
            Err(why) => {
                error!(%why, "the spool cannot be written");
                self.spool().done(number);
                // With nothing to try, nobody would find out that the store is back.
                if !self.spool().has_side(side) {
                    self.set_away(side, None);
                }
            }
        }
        drop(disk);
        self.tell();
        self.news[side as usize].notify_one();
        done
    }

    fn tell_lost(&self, lost: &[String]) {
        if lost.is_empty() {
            return;
        }
        metrics::counter!("weir_spool_given_up_total").increment(lost.len() as u64);
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.objects += lost.len() as u64;
        if given_up.told.is_none_or(|(at, _)| now() - at >= TOLD) {
            let since = given_up.objects - given_up.told.map_or(0, |told| told.1);
            error!(chunks = since, last = %lost[lost.len() - 1], "the spool is full: recorded chunks are given up for good");
            given_up.told = Some((now(), given_up.objects));
        }
    }

    /// Writes out what waits, until `stop`: for each store by itself, so that one that is away holds up nothing of the other.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async { tokio::join!(self.write_out(Side::Bytes), self.write_out(Side::Rows)) };
        let _: Option<((), ())> = stop.run_until_cancelled(work).await;
    }

    async fn write_out(&self, side: Side) {
        let mut pause = AGAIN;
        loop {
            match self.round(side).await {
                Ok(()) => {
                    pause = AGAIN;
                    self.news[side as usize].notified().await;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MAX);
                }
            }
        }
    }

    /// Writes out until nothing waits for a store or one write fails.
    async fn round(&self, side: Side) -> Result<()> {
        let mut running = FuturesUnordered::new();
        let mut done = Ok(());
        loop {
            // While it is away one try is enough; a failure ends the round.
            let most = if self.is_away(side) { 1 } else { AT_ONCE };
            while done.is_ok() && running.len() < most {
                let Some((number, entry)) = self.spool().begin(side) else { break };
                running.push(self.make(number, entry));
            }
            match running.next().await {
                None => return done,
                Some(made) => done = done.and(made),
            }
        }
    }

    /// Makes a write that waited.
    async fn make(&self, number: u64, entry: Entry) -> Result<()> {
        let side = entry.side();
        let patience =
            LATER_PATIENCE + if let Entry::Blob { len, .. } = &entry { carried(*len) } else { Duration::ZERO };
        let shown = format!("{} of {}", entry.what(), entry.show());
        let made = tokio::time::timeout(patience, self.try_to_make(number, entry)).await;
        let made = made.unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {patience:?}"))));
        match made {
            Ok(()) => {
                self.set_away(side, None);
                self.settle(number, None).await;
            }
            // These may be mended from outside; what is behind them must not be lost.
            Err(why @ (Error::Unavailable(_) | Error::Unfit(_))) => {
                self.spool().rest(number);
                self.set_away(side, Some(&why));
                return Err(why);
            }
            Err(why) => {
                error!(write = shown, %why, file = spool::aside(number), "a write that waited is put aside: no store takes it");
                self.settle(number, Some(spool::aside(number))).await;
            }
        }
        // Rows may have waited for these bytes, or bytes for this epoch.
        self.news.iter().for_each(Notify::notify_one);
        Ok(())
    }

    async fn try_to_make(&self, number: u64, entry: Entry) -> Result<()> {
        match entry {
            Entry::Blob { name, .. } => {
                let files = self.spool().files();
                let bytes = match spool::read(&files, number, None).await {
                    // Lost with the disk's last second.
                    Err(Error::NotFound) => {
                        warn!(name, "an object that waited has no bytes any more");
                        return Ok(());
                    }
                    read => read?,
                };
                self.blobs.put(&name, bytes.into()).await
            }
            Entry::Chunk { stream, broadcast, row } => self.meta.put_chunk(&stream, &broadcast, row).await,
            Entry::Broadcast { row } => {
                // It may come back after a crash, though it was made and another came after it.
                let there = self.meta.broadcast(&row.stream, &row.id).await?;
                let newer = |there: &BroadcastRow| {
                    (there.deleted.is_some() && row.deleted.is_none()) || (there.ended.is_some() && row.ended.is_none())
                };
                if there.as_ref().is_some_and(newer) { Ok(()) } else { self.meta.put_broadcast(row).await }
            }
            Entry::Epoch { stream, row } => self.take_late(&stream, row).await,
            Entry::Chat { stream, writes } => self.meta.put_chat(&stream, writes).await,
            Entry::Audience { stream, rows } => self.meta.put_audience(&stream, rows).await,
        }
    }

    /// A write waits no more: its file goes, or is kept elsewhere.
    async fn settle(&self, number: u64, kept: Option<String>) {
        let _disk = self.disk.lock().await;
        // What is read next is read from the store.
        self.forget_reads();
        let files = self.spool().files();
        let settled = async {
            if let Some(kept) = kept {
                files.put(&kept, files.get(&spool::file(number)).await?.into()).await?;
            }
            files.delete(&spool::file(number)).await
        };
        if let Err(why) = settled.await {
            warn!(%why, "a write that was made stays in the spool");
        }
        self.spool().done(number);
        self.tell();
    }

    /// Forgets what waits of something that is deleted.
    async fn forget_waiting(&self, is_gone: impl Fn(&Entry) -> bool) -> Result<()> {
        let _disk = self.disk.lock().await;
        let gone = self.spool().drop_all(is_gone);
        let files = self.spool().files();
        for number in &gone {
            files.delete(&spool::file(*number)).await?;
        }
        if !gone.is_empty() {
            self.tell();
        }
        Ok(())
    }

    /// Takes an epoch that was begun while the database was away.
    async fn take_late(&self, stream: &StreamId, row: EpochRow) -> Result<()> {
        let number = row.epoch;
        // Numbers between were of nodes that are gone with them.
        loop {
            let next = self.meta.last_epoch(stream).await?.map_or(0, |last| last.epoch) + 1;
            if next >= number {
                break;
            }
            match self.meta.take_epoch(stream, EpochRow { epoch: next, ..row.clone() }).await {
                Ok(()) | Err(Error::EpochTaken(_)) => {}
                Err(why) => return Err(why),
            }
        }
        match self.meta.take_epoch(stream, row.clone()).await {
            Err(Error::EpochTaken(_)) => {
                // The first try may have been made after all.
                if !self.meta.epochs(stream, &row.broadcast).await?.contains(&row) {
                    error!(%stream, epoch = number, "another node has this epoch: what was made in it here is not recorded");
                    let show = Entry::Epoch { stream: stream.clone(), row }.show();
                    self.spool().lose(show.clone(), number);
                    self.forget_waiting(|entry| entry.epoch() == Some(number) && entry.show() == show).await?;
                }
                Ok(())
            }
            taken => taken,
        }
    }

    fn forget_reads(&self) {
        self.broadcast.forget();
        self.broadcasts.forget();
        self.epochs.forget();
        self.chunks.forget();
    }
}

/// How long a link may take for so many bytes.
fn carried(bytes: u64) -> Duration {
    Duration::from_millis(bytes * 1000 / BYTES_PER_SECOND)
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Rows => "database",
            Side::Bytes => "object store",
        }
    }
}
