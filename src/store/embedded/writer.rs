//! The one thread that writes: jobs in by a bounded queue, answers out when their rows are as durable as asked for.
//!
//! It takes all that waits, checks each job against the database and the jobs before it, commits what passed as one
//! batch and then answers: many callers share one sync. What must be decided by exactly one (the epoch log) is
//! decided here. After a failed write the engine refuses all others for good; this thread then opens it anew, so that a disk
//! that has room again needs no restart.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    engine::{self, Db, Put},
    keys::Space,
};
use crate::{
    id::StreamId,
    store::{Error, Result},
    time::{Timestamp, now},
};

/// Jobs that may wait: 1 MB of rows, far more than a disk is ever behind when it works. When it is full callers wait for room:
/// each line has one write under way, so they are few, and who cannot wait sets a deadline of his own.
pub(super) const QUEUE: usize = 1024;
/// Jobs committed as one: bounds how long the first of them waits for the others.
const BATCH: usize = 256;
/// Rows that were answered from the operating system's memory reach the disk within this time.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// After a failed write the database is opened anew at the first write after this time, not more often: opening reads
/// the journals. Until then writes are refused at once, and reads go on.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

pub(super) type Answer = oneshot::Sender<Result<()>>;

pub(super) enum Job {
    Write(Write),
    /// Answers when all before it is on the disk.
    Flush(Answer),
    /// The same, then closes the database and ends the thread.
    Close(Answer),
}

pub(super) struct Write {
    pub check: Check,
    /// The check is about the first.
    pub rows: Vec<Put>,
    /// Whether the answer waits for the disk itself.
    pub sync: bool,
    pub answer: Answer,
}

/// What must hold before a job's rows are written.
pub(super) enum Check {
    Nothing,
    Absent,
    Present,
    NextEpoch(StreamId, u64),
}

/// Runs until all senders are gone or it is told to close.
pub(super) fn run(jobs: mpsc::Receiver<Job>, dir: PathBuf, shared: Arc<Shared>, clock: tokio::runtime::Runtime) {
    let mut writer = Writer { dir, shared, unsynced_since: None, failed: None };
    clock.block_on(writer.run(jobs));
}

struct Writer {
    dir: PathBuf,
    shared: Arc<Shared>,
    /// Since when rows are written that are not synced.
    unsynced_since: Option<Timestamp>,
    /// When and why the last write failed.
    failed: Option<(Timestamp, String)>,
}

impl Writer {
    async fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let taken = match self.unsynced_since {
                None => jobs.recv_many(&mut batch, BATCH).await,
                Some(since) => {
                    let left = SYNC_EVERY.saturating_sub(now() - since);
                    match tokio::time::timeout(left, jobs.recv_many(&mut batch, BATCH)).await {
                        Ok(taken) => taken,
                        Err(_) => {
                            // A failure is logged, and remembered for the next write.
                            let _ = self.sync();
                            continue;
                        }
                    }
                }
            };
            let closing = taken == 0 || self.handle(batch.drain(..));
            // Under load the queue is never empty long enough for the timeout above.
            if closing || self.unsynced_since.is_some_and(|since| now() - since >= SYNC_EVERY) {
                let _ = self.sync();
            }
            if closing {
                self.shared.db.write().unwrap_or_else(PoisonError::into_inner).take();
                return;
            }
        }
    }

    /// Does the jobs in order; says whether to close.
    fn handle(&mut self, jobs: impl Iterator<Item = Job>) -> bool {
        let mut writes = Vec::new();
        for job in jobs {
            match job {
                Job::Write(write) => writes.push(write),
                Job::Flush(answer) => {
                    self.write(std::mem::take(&mut writes));
                    let _ = answer.send(self.sync());
                }
                Job::Close(answer) => {
                    self.write(writes);
                    let synced = self.sync();
                    // Answered when the folder is free for the next one to open.
                    self.shared.db.write().unwrap_or_else(PoisonError::into_inner).take();
                    let _ = answer.send(synced);
                    return true;
                }
            }
        }
        self.write(writes);
        false
    }

    fn write(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let (answers, outcome) = match self.revive() {
            Ok(()) => self.commit(writes),
            Err(error) => (writes.into_iter().map(|write| (write.answer, Ok(()))).collect(), Err(error)),
        };
        for (answer, checked) in answers {
            // A check saw rows of this batch: when the batch failed, so did what was found by looking at it.
            let _ = answer.send(match &outcome {
                Ok(()) => checked,
                Err(reason) => Err(Error::Unavailable(reason.clone())),
            });
        }
    }

    /// Commits what passes its check. Gives each job's answer, which holds unless the whole failed.
    #[allow(clippy::type_complexity)]
    fn commit(&mut self, writes: Vec<Write>) -> (Vec<(Answer, Result<()>)>, std::result::Result<(), String>) {
        let shared = self.shared.clone();
        let guard = shared.db.read().unwrap_or_else(PoisonError::into_inner);
        let mut answers = Vec::with_capacity(writes.len());
        let Some(db) = guard.as_ref() else {
            answers.extend(writes.into_iter().map(|write| (write.answer, Ok(()))));
            return (answers, Err("the store is closed".into()));
        };
        let (mut rows, mut sync, mut pending) = (Vec::new(), false, Pending::default());
        for write in writes {
            let checked = pending.check(db, &write);
            if checked.is_ok() {
                pending.note(&write);
                sync |= write.sync;
                rows.extend(write.rows);
            }
            answers.push((write.answer, checked));
        }
        if rows.is_empty() {
            return (answers, Ok(()));
        }
        match db.commit(rows, sync) {
            Ok(()) => {
                self.unsynced_since = if sync { None } else { Some(self.unsynced_since.unwrap_or_else(now)) };
                (answers, Ok(()))
            }
            Err(error) => (answers, Err(self.fail(&error))),
        }
    }

    fn sync(&mut self) -> Result<()> {
        if self.unsynced_since.take().is_none() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let guard = shared.db.read().unwrap_or_else(PoisonError::into_inner);
        let Some(db) = guard.as_ref() else { return Err(Error::Unavailable("the store is closed".into())) };
        db.sync().map_err(|error| Error::Unavailable(self.fail(&error)))
    }

    fn fail(&mut self, error: &fjall::Error) -> String {
        let reason = engine::write_error(error);
        tracing::error!(folder = %self.dir.display(), reason, "metadata cannot be written");
        self.failed = Some((now(), reason.clone()));
        // Opening anew syncs what the journal holds.
        self.unsynced_since = None;
        reason
    }

    /// After a failure and when it is time: opens the database anew.
    fn revive(&mut self) -> std::result::Result<(), String> {
        let Some((at, reason)) = &self.failed else { return Ok(()) };
        if now() - *at < REOPEN_AFTER {
            return Err(reason.clone());
        }
        // Reads wait while it is closed. They are short, so this does not wait long for them.
        let mut slot = self.shared.db.write().unwrap_or_else(PoisonError::into_inner);
        *slot = None;
        match Db::open(&self.dir) {
            Ok(db) => {
                *slot = Some(db);
                tracing::info!(folder = %self.dir.display(), "metadata database is open again");
                self.failed = None;
                Ok(())
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(reason, "metadata database does not open");
                self.failed = Some((now(), reason.clone()));
                Err(reason)
            }
        }
    }
}

/// What the jobs of a batch will have changed, for the checks of those after them.
#[derive(Default)]
struct Pending {
    present: HashMap<(Space, Vec<u8>), bool>,
    last_epochs: HashMap<StreamId, u64>,
}

impl Pending {
    fn check(&self, db: &Db, write: &Write) -> Result<()> {
        let present = || {
            let first = write.rows.first().expect("a job with a check has a row");
            match self.present.get(&(first.space, first.key.clone())) {
                Some(&present) => Ok(present),
                None => db.contains(first.space, &first.key),
            }
        };
        match &write.check {
            Check::Nothing => Ok(()),
            Check::Absent if present()? => Err(Error::Exists),
            Check::Present if !present()? => Err(Error::NotFound),
            Check::Absent | Check::Present => Ok(()),
            Check::NextEpoch(stream, number) => {
                let last = match self.last_epochs.get(stream) {
                    Some(&last) => last,
                    None => db.last_epoch(stream)?,
                };
                if last.checked_add(1) == Some(*number) { Ok(()) } else { Err(Error::EpochTaken(*number)) }
            }
        }
    }

    fn note(&mut self, write: &Write) {
        match &write.check {
            Check::Nothing => {}
            Check::Absent | Check::Present => {
                let rows = write.rows.iter().map(|row| ((row.space, row.key.clone()), row.value.is_some()));
                self.present.extend(rows);
            }
            Check::NextEpoch(stream, number) => {
                self.last_epochs.insert(stream.clone(), *number);
            }
        }
    }
}
