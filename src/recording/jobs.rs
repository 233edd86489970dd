//! Work in the background: deletions, sweeps, and what expires. One task does one job at a time, oldest first; what a crash
//! interrupts is done again at the next start. Files that are being made and sent are shown beside them.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use quick_cache::{Weighter, sync::Cache};
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use utoipa::ToSchema;

use super::{
    Export, Library, Recording, deletion,
    library::Refused,
    retention::{self, Candidate},
    sweep, walk,
};
use crate::{
    id::{BroadcastId, EventId, Rendition, StreamId},
    line::{Keep, StreamSettings},
    package::Extent,
    store::{self, BroadcastRow, JobRow, JobTask},
    time::{UnixMs, now, unix_now},
};

/// How long a job that is done is still shown.
const SHOWN: Duration = Duration::from_secs(86_400);
/// Between two looks at what has expired.
const EXPIRY: Duration = Duration::from_secs(60);
/// Before a job is tried again that a store interrupted.
const AGAIN: Duration = Duration::from_secs(30);
/// A job of another node that is not done after so long is done by whoever finds it.
const LEFT: Duration = Duration::from_secs(600);
/// Files that were made and are still there for who resumes, in memory; the index of one, not its bytes.
const EXPORTS: usize = 100;
const EXPORTS_BYTES: u64 = 64 << 20;
/// Files that are sent at the same time: each holds its index in memory, however slowly it is taken.
const EXPORTS_OPEN: usize = 64;
/// Files that are made at the same time, and how long one waits for its turn.
const EXPORTS_AT_ONCE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks for what is to go because it is old.
const TRIM: Duration = Duration::from_secs(3600);

/// How long this node keeps what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    pub keep: Keep,
    /// All recordings together; zero: no bound.
    pub bytes_max: u64,
    /// What is said beside streams; zero: for ever.
    pub chats: Duration,
    /// Who watched when; zero: for ever.
    pub audiences: Duration,
}

/// A job as people see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    pub id: String,
    pub kind: JobKind,
    /// What it is about: a broadcast, or a file of one; empty where it is about all.
    pub subject: String,
    pub state: JobState,
    #[schema(format = DateTime)]
    pub created: String,
    #[schema(format = DateTime)]
    pub finished: Option<String>,
    /// How far it is; the unit is that of the kind (chunks, broadcasts, bytes).
    pub done: u64,
    /// Of how much.
    pub total: u64,
    /// What it did, or why it could not.
    pub text: String,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Takes away the bytes of a deleted recording.
    Delete,
    /// Compares bytes with rows.
    Sweep,
    /// Makes or sends a recording, or a part of it, as one file.
    Export,
}

/// How it is with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Waiting,
    Running,
    Done,
    Failed,
}

/// How far a job is.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    pub fn set(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }
}

/// Exports under way, by id.
type Exporting = Arc<Mutex<BTreeMap<String, (JobView, Arc<Progress>)>>>;

/// The jobs of this node. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    library: Library,
    node: String,
    policy: Policy,
    news: Arc<Notify>,
    running: Arc<Mutex<BTreeMap<String, Arc<Progress>>>>,
    exporting: Exporting,
    exports: Arc<Cache<String, Arc<Export>, Weights>>,
    turns: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

#[derive(Clone)]
struct Weights;

impl Weighter<String, Arc<Export>> for Weights {
    fn weight(&self, _: &String, export: &Arc<Export>) -> u64 {
        export.weight()
    }
}

impl Jobs {
    pub fn new(library: Library, node: String, policy: Policy) -> Self {
        Self {
            library,
            node,
            policy,
            news: Arc::default(),
            running: Arc::default(),
            exporting: Arc::default(),
            exports: Arc::new(super::cache(EXPORTS, EXPORTS_BYTES, Weights)),
            turns: Arc::new(Semaphore::new(EXPORTS_AT_ONCE)),
            open: Arc::new(Semaphore::new(EXPORTS_OPEN)),
        }
    }

    /// Deletes a broadcast, but for its clips: nothing else of it is answered any more when this returns, and its bytes go in
    /// the background. Gives the job's id.
    pub async fn delete(&self, row: BroadcastRow) -> Result<String, Refused> {
        let jobs = self.clone();
        // Goes on when whoever asks goes away: nothing may be marked for which there is no job.
        let deleted = tokio::spawn(async move {
            let (stream, broadcast) = (row.stream.clone(), row.id.clone());
            jobs.library.mark_deleted(row).await?;
            Ok(jobs.add(JobTask::Delete { stream, broadcast }).await?)
        });
        deleted.await.unwrap_or(Err(Refused::Busy))
    }

    /// Finds what was marked as deleted when the node died before it had a job.
    async fn find_lost(&self) -> store::Result<()> {
        let meta = &self.library.stores().meta;
        let waiting: Vec<_> = meta.jobs().await?.into_iter().filter(|row| row.finished.is_none()).collect();
        for (id, stream) in walk::broadcasts(self.library.stores()).await? {
            let Ok(Some(row)) = meta.broadcast(&stream, &id).await else { continue };
            let task = JobTask::Delete { stream: stream.clone(), broadcast: id.clone() };
            if row.deleted.is_some()
                && !waiting.iter().any(|job| job.task == task)
                && !meta.chunks(&stream, &id, 0, 1).await?.is_empty()
            {
                self.add(task).await?;
            }
        }
        Ok(())
    }

    /// Takes away what of a deleted broadcast only a clip had kept.
    pub async fn delete_again(&self, stream: &StreamId, broadcast: &BroadcastId) -> store::Result<()> {
        self.library.tell_deleted(stream.clone(), broadcast.clone()).await?;
        let task = JobTask::Delete { stream: stream.clone(), broadcast: broadcast.clone() };
        self.add(task).await.map(|_| ())
    }

    /// Has bytes and rows compared; gives the job's id.
    pub async fn sweep(&self) -> store::Result<String> {
        self.add(JobTask::Sweep).await
    }

    async fn add(&self, task: JobTask) -> store::Result<String> {
        let created = unix_now();
        let id = BroadcastId::generate(created).to_string();
        let (finished, failure, result) = (None, None, None);
        let row = JobRow { id: id.clone(), task, node: self.node.clone(), created, finished, failure, result };
        self.library.stores().meta.put_job(row).await?;
        self.news.notify_one();
        Ok(id)
    }

    /// All jobs, oldest first.
    pub async fn all(&self) -> store::Result<Vec<JobView>> {
        let rows = self.library.stores().meta.jobs().await?;
        let running = self.running.lock().expect("no panic while held").clone();
        let mut views: Vec<_> =
            rows.iter().map(|row| view(row, running.get(&row.id).map(|progress| &**progress))).collect();
        for (export, progress) in self.exporting.lock().expect("no panic while held").values() {
            let (done, total) = (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
            views.push(JobView { done, total, ..export.clone() });
        }
        views.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(views)
    }

    /// Makes a recording, or a clip of it, into one file; what was made a moment ago is there still.
    pub async fn export(
        &self,
        recording: &Recording,
        rendition: &Rendition,
        extent: &Extent,
    ) -> Result<Arc<Export>, Refused> {
        let Recording { stream, id, .. } = recording;
        let key = format!("{stream}/{id}/{rendition}{extent}#{}", recording.chunks());
        let make = async {
            // Whoever waits longer than a player would is told to come again.
            let turn = tokio::time::timeout(PATIENCE, self.turns.acquire()).await.map_err(|_| Refused::Busy)?;
            let _turn = turn.expect("never closed");
            let shown = self.show(format!("{stream}/{id}/{rendition}{extent}"), 0);
            let made = Export::make(self.library.stores(), recording, rendition, extent, &shown.progress).await?;
            Ok::<_, Refused>(Arc::new(made))
        };
        self.exports.get_or_insert_async(&key, make).await
    }

    /// A place among those to whom files are sent.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        self.open.clone().try_acquire_owned().map_err(|_| Refused::Busy)
    }

    /// The bytes of a file, shown as a job while they are read.
    pub fn read(
        &self,
        export: Arc<Export>,
        range: Range<u64>,
        place: OwnedSemaphorePermit,
    ) -> impl Stream<Item = store::Result<Bytes>> + Send + use<> {
        let shown = (self.show(export.name(), range.end - range.start), place);
        let read = export.read(self.library.stores().blobs.clone(), range);
        read.inspect_ok(move |bytes| shown.0.progress.add(bytes.len() as u64))
    }

    /// Shows an export while the returned guard lives.
    fn show(&self, subject: String, total: u64) -> Showing {
        let created = unix_now();
        let id = BroadcastId::generate(created).to_string();
        let progress = Arc::new(Progress::default());
        progress.set(0, total);
        let view = JobView {
            id: id.clone(),
            kind: JobKind::Export,
            subject,
            state: JobState::Running,
            created: created.to_string(),
            finished: None,
            done: 0,
            total,
            text: String::new(),
        };
        self.exporting.lock().expect("no panic while held").insert(id.clone(), (view, progress.clone()));
        Showing { id, progress, exporting: self.exporting.clone() }
    }

    /// Does jobs and looks for what has expired, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            if let Err(why) = self.find_lost().await {
                warn!(%why, "cannot look for recordings that were deleted");
            }
            let mut trimmed = None;
            loop {
                let tried = self.work().await;
                if trimmed.is_none_or(|at| now() - at >= TRIM) {
                    self.trim(unix_now()).await;
                    trimmed = Some(now());
                }
                if let Err(why) = &tried {
                    warn!(%why, "background jobs wait for the store");
                }
                let pause = if tried.is_ok() { EXPIRY } else { AGAIN };
                // Whichever comes first.
                let _ = tokio::time::timeout(pause, self.news.notified()).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(work).await;
    }

    /// Lets go of what was said and counted long ago, where the store does not do so by itself.
    async fn trim(&self, now: UnixMs) {
        let meta = &self.library.stores().meta;
        let before = |keep: Duration| (!keep.is_zero()).then(|| UnixMs(now.0 - keep.as_millis() as i64));
        if let Some(before) = before(self.policy.chats)
            && let Err(why) = meta.trim_chat(EventId::first_at(before)).await
        {
            warn!(%why, "what was said long ago stays for now");
        }
        if let Some(before) = before(self.policy.audiences)
            && let Err(why) = meta.trim_audience(before).await
        {
            warn!(%why, "who watched long ago stays for now");
        }
    }

    /// Does all that is there to do now.
    async fn work(&self) -> store::Result<()> {
        // One that cannot be done now holds up none of the others.
        let mut tried = self.expire(unix_now()).await;
        let meta = self.library.stores().meta.clone();
        for row in meta.jobs().await? {
            let done = match row.finished {
                Some(finished) if unix_now().since(finished) > SHOWN => meta.delete_job(&row.id).await,
                // Another node's, unless that one is gone.
                None if row.node != self.node && unix_now().since(row.created) < LEFT => Ok(()),
                None => self.job(row).await,
                Some(_) => Ok(()),
            };
            tried = tried.and(done);
        }
        tried
    }

    async fn job(&self, mut row: JobRow) -> store::Result<()> {
        let progress = Arc::new(Progress::default());
        self.running.lock().expect("no panic while held").insert(row.id.clone(), progress.clone());
        let done = match &row.task {
            JobTask::Delete { stream, broadcast } => self.take_away(stream, broadcast, &progress).await,
            JobTask::Sweep => self.look(&progress).await,
        };
        self.running.lock().expect("no panic while held").remove(&row.id);
        match done {
            Ok(result) => {
                info!(job = %row.id, "{result}");
                row.result = Some(result);
            }
            // A store that does not answer now is tried again.
            Err(why @ store::Error::Unavailable(_)) => return Err(why),
            Err(why) => {
                error!(job = %row.id, %why, "a background job failed");
                row.failure = Some(why.to_string());
            }
        }
        row.finished = Some(unix_now());
        self.library.stores().meta.put_job(row).await
    }

    async fn take_away(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        progress: &Progress,
    ) -> store::Result<String> {
        let stores = self.library.stores();
        let newest = stores.meta.chunks_back(stream, broadcast, None, 1).await?;
        let total = newest.first().map_or(0, |row| row.k + 1);
        progress.set(0, total);
        let taken = deletion::take_away(stores, stream, broadcast, |done| progress.set(done, total)).await?;
        self.library.forget(stream, broadcast);
        Ok(format!("deleted {} chunks ({} bytes) of {stream}/{broadcast}", taken.chunks, taken.bytes))
    }

    async fn look(&self, progress: &Progress) -> store::Result<String> {
        let stores = self.library.stores();
        let found = sweep::look(stores, unix_now(), |done, total| progress.set(done, total)).await?;
        sweep::remove(stores, &found).await?;
        for name in &found.missing {
            warn!(name, "a row tells of bytes that are not there");
        }
        let sweep::Found { blobs, bytes, orphans, orphan_bytes, missing, .. } = &found;
        Ok(format!(
            "looked at {blobs} objects ({bytes} bytes): removed {} orphans ({orphan_bytes} bytes), {} rows without bytes",
            orphans.len(),
            missing.len()
        ))
    }

    /// Deletes the recordings that have been kept long enough.
    async fn expire(&self, today: UnixMs) -> store::Result<()> {
        let candidates = self.candidates().await?;
        for id in retention::over(&candidates, self.policy.bytes_max, today) {
            match self.library.row(&id).await {
                Ok(row) => {
                    info!(stream = %row.stream, broadcast = %id, "recording has been kept long enough");
                    if let Err(why) = self.delete(row).await {
                        warn!(broadcast = %id, %why, "a recording that is over cannot be deleted");
                    }
                }
                Err(why) => warn!(broadcast = %id, %why, "a recording that is over cannot be deleted"),
            }
        }
        Ok(())
    }

    /// All recordings that have ended, oldest first.
    async fn candidates(&self) -> store::Result<Vec<Candidate>> {
        let meta = &self.library.stores().meta;
        let mut found = Vec::new();
        let mut keeps: BTreeMap<StreamId, Keep> = BTreeMap::new();
        for (id, stream) in walk::broadcasts(self.library.stores()).await? {
            let keep = match keeps.get(&stream) {
                Some(keep) => *keep,
                None => {
                    let keep = match meta.stream(&stream).await {
                        Ok(None) => self.policy.keep,
                        Ok(Some(row)) if row.settings.is_null() => self.policy.keep,
                        // What cannot be read deletes nothing.
                        Ok(Some(row)) => serde_json::from_value(row.settings)
                            .map_or(Keep::Forever, |settings: StreamSettings| {
                                settings.keep.unwrap_or(self.policy.keep)
                            }),
                        Err(store::Error::Damaged(_)) => Keep::Forever,
                        Err(why) => return Err(why),
                    };
                    keeps.insert(stream.clone(), keep);
                    keep
                }
            };
            if keep == Keep::Forever && self.policy.bytes_max == 0 {
                continue;
            }
            let row = match meta.broadcast(&stream, &id).await {
                Err(store::Error::Damaged(_)) => None,
                row => row?,
            };
            let Some(row) = row.filter(|row| row.deleted.is_none()) else { continue };
            let Some(ended) = row.ended else { continue };
            let bytes = match (row.summary, self.policy.bytes_max) {
                (Some(summary), _) => summary.bytes,
                (None, 0) => 0,
                (None, _) => {
                    self.library.broadcast(row).await.ok().and_then(|shown| shown.summary).map_or(0, |s| s.bytes)
                }
            };
            found.push(Candidate { id, ended, bytes, keep });
        }
        Ok(found)
    }
}

/// An export that is shown among the jobs.
struct Showing {
    id: String,
    progress: Arc<Progress>,
    exporting: Exporting,
}

impl Drop for Showing {
    fn drop(&mut self) {
        self.exporting.lock().expect("no panic while held").remove(&self.id);
    }
}

fn view(row: &JobRow, progress: Option<&Progress>) -> JobView {
    let (kind, subject) = match &row.task {
        JobTask::Delete { stream, broadcast } => (JobKind::Delete, format!("{stream}/{broadcast}")),
        JobTask::Sweep => (JobKind::Sweep, String::new()),
    };
    let state = match (row.finished, &row.failure, progress) {
        (Some(_), Some(_), _) => JobState::Failed,
        (Some(_), None, _) => JobState::Done,
        (None, _, Some(_)) => JobState::Running,
        (None, _, None) => JobState::Waiting,
    };
    JobView {
        id: row.id.clone(),
        kind,
        subject,
        state,
        created: row.created.to_string(),
        finished: row.finished.map(|finished| finished.to_string()),
        done: progress.map_or(0, |progress| progress.done.load(Ordering::Relaxed)),
        total: progress.map_or(0, |progress| progress.total.load(Ordering::Relaxed)),
        text: row.failure.as_ref().or(row.result.as_ref()).cloned().unwrap_or_default(),
    }
}
