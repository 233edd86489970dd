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

/// How long a write may take before it waits on the disk instead. Half a chunk: the other half is for the disk.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same of an epoch, which an encoder waits for.
const EPOCH_PATIENCE: Duration = Duration::from_secs(5);
/// Streams of which is remembered what was last known.
const STREAMS: usize = 10_000;
/// The same of a write that waited already.
const LATER_PATIENCE: Duration = Duration::from_secs(10);
/// Waiting writes that are made at the same time: live writes go before them.
const AT_ONCE: usize = 4;
/// Between two tries while the stores are away.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(4);
/// Reads of metadata, and of objects, at a time.
const READS: usize = 32;
/// Memory for chunks that were read: a minute of some dozens of streams.
const KEPT_BYTES: u64 = 64 << 20;
/// What was given up is told at most so often.
const TOLD: Duration = Duration::from_secs(10);

/// The two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
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
    news: Notify,
    health: Arc<Health>,
    objects: Flights<Bytes>,
    kept: Cache<String, Bytes, Weights>,
    streams: Cache<StreamId, StreamRow>,
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
            news: Notify::new(),
            health,
            objects: Flights::new(objects),
            kept: Cache::with_weighter(1000, KEPT_BYTES, Weights),
            streams: Cache::new(STREAMS),
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
        let waiting = self.spool().waiting();
        metrics::gauge!("weir_spool_writes").set(waiting.writes as f64);
        metrics::gauge!("weir_spool_bytes").set(waiting.bytes as f64);
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner).objects;
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

    /// Makes a write at once, or has it wait where its store is away or something of its broadcast waits.
    async fn write(
        &self,
        side: Side,
        entry: Entry,
        bytes: Pieces,
        make: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let must_wait = self.is_away(side) || self.spool().has(&entry.show());
        if !must_wait {
            match tokio::time::timeout(PATIENCE, make).await {
                Ok(Ok(())) => return Ok(()),
                // No store takes these.
                Ok(Err(why @ Error::BadName(_))) => return Err(why),
                Ok(Err(why)) => self.set_away(side, Some(&why)),
                Err(_) => self.set_away(side, Some(&Error::Unavailable(format!("no answer within {PATIENCE:?}")))),
            }
        }
        self.wait(entry, bytes).await
    }

    /// Puts a write into the spool. It is as safe as a local recording when this returns.
    async fn wait(&self, entry: Entry, bytes: Pieces) -> Result<()> {
        let (number, changes, lost) = self.spool().add(entry);
        self.tell_lost(&lost);
        let mut done = Ok(());
        for change in changes {
            let changed = match &change {
                Change::Write(of, entry) => {
                    let bytes = if *of == number { bytes.clone() } else { Pieces::default() };
                    self.put_file(*of, spool::content(entry, &bytes)).await
                }
                Change::Remove(of) => self.delete_file(*of).await,
            };
            done = done.and(changed);
        }
        match &done {
            Ok(()) => self.spool().rest(number),
            Err(why) => {
                error!(%why, "the spool cannot be written");
                self.spool().done(number);
            }
        }
        self.tell();
        self.news.notify_one();
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

    async fn put_file(&self, number: u64, content: Pieces) -> Result<()> {
        let files = self.spool().files();
        files.put(&spool::file(number), content).await
    }

    async fn delete_file(&self, number: u64) -> Result<()> {
        let files = self.spool().files();
        files.delete(&spool::file(number)).await
    }

    /// Writes out what waits, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            let mut pause = AGAIN;
            loop {
                match self.write_out().await {
                    Ok(()) => {
                        pause = AGAIN;
                        self.news.notified().await;
                    }
                    Err(why) => {
                        self.health.delayed(|delay| delay.why = why.to_string());
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(AGAIN_MAX);
                    }
                }
            }
        };
        let _: Option<()> = stop.run_until_cancelled(work).await;
    }

    /// Writes out until nothing waits or one fails.
    async fn write_out(&self) -> Result<()> {
        let mut running = FuturesUnordered::new();
        let mut done = Ok(());
        loop {
            // While a store is away one try is enough; a failure ends the round.
            let is_away = self.is_away(Side::Rows) || self.is_away(Side::Bytes);
            let most = if is_away { 1 } else { AT_ONCE };
            while done.is_ok() && running.len() < most {
                let Some((number, entry)) = self.spool().begin() else { break };
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
        let side = if matches!(entry, Entry::Blob { .. }) { Side::Bytes } else { Side::Rows };
        let make = async {
            match entry {
                Entry::Blob { name, .. } => {
                    let files = self.spool().files();
                    let bytes = match spool::read(&files, number, None).await {
                        // It was given up, or lost with the disk's last second.
                        Err(Error::NotFound) => {
                            warn!(name, "an object that waited has no bytes any more");
                            return Ok(());
                        }
                        read => read?,
                    };
                    self.blobs.put(&name, bytes.into()).await
                }
                Entry::Chunk { stream, broadcast, row } => self.meta.put_chunk(&stream, &broadcast, row).await,
                Entry::Broadcast { row } => self.meta.put_broadcast(row).await,
                Entry::Epoch { stream, row } => self.take_late(&stream, row).await,
            }
        };
        let made = tokio::time::timeout(LATER_PATIENCE, make).await;
        let made = made.unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {LATER_PATIENCE:?}"))));
        match &made {
            Ok(()) => {
                self.set_away(side, None);
                // What is read next is read from the store.
                self.forget_reads();
                self.spool().done(number);
                if let Err(why) = self.delete_file(number).await {
                    // It is written once more after a restart, which does no harm.
                    warn!(%why, "a write that was made stays in the spool");
                }
                self.tell();
            }
            Err(why) => {
                self.spool().rest(number);
                self.set_away(side, Some(why));
            }
        }
        made
    }

    /// Takes an epoch that was begun while the database was away.
    async fn take_late(&self, stream: &StreamId, row: EpochRow) -> Result<()> {
        let number = row.epoch;
        match self.meta.take_epoch(stream, row.clone()).await {
            Err(Error::EpochTaken(_)) => {
                // The first try may have been made after all.
                if !self.meta.epochs(stream, &row.broadcast).await?.contains(&row) {
                    error!(%stream, epoch = number, "another node has this epoch: what was recorded in it is not shown");
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

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Rows => "database",
            Side::Bytes => "object store",
        }
    }
}
