//! Metadata in a folder of this machine, by the embedded engine fjall: the default store.
//!
//! Enter rows, leave rows, as JSON under the keys of `keys`. Writes go through the one thread of `writer`; reads run on
//! tokio's blocking threads, few at a time, for a cold disk must not hold up the live streams. It reads the
//! clock only to time its syncs.
//!
//! Durability: streams, epochs and broadcasts are on the disk when a write returns. Chunk rows then survive the end of
//! the process, and within a second the end of the machine.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    About, AccessRow, AudienceRow, AudienceSpan, BroadcastRow, ChatLog, ChatRow, ChatWrite, ChunkRow, ClipRow, ClipsOf,
    EpochRow, Error, JobRow, Meta, NodeRow, Result, StreamRow,
};
use crate::{
    id::{BroadcastId, ClipId, EventId, StreamId},
    time::UnixMs,
};
use engine::{Db, Put};
use keys::Space;
use writer::{Check, Job, Write};

mod audience;
mod chat;
mod engine;
mod keys;
mod writer;

/// Reads under way at once; more wait their turn. Each holds a thread, and a disk gains little from more.
const READS: usize = 8;

/// The embedded metadata store. Clones share it.
#[derive(Clone)]
pub struct Embedded {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    reads: Arc<Semaphore>,
}

/// The access rows as they were read last, unless one was written since. They are asked for every second.
#[derive(Default)]
struct Access {
    writes: u64,
    rows: Option<Vec<AccessRow>>,
}

struct Shared {
    // Held for moments only, never across an await.
    access: Mutex<Access>,
    /// Locked for writing only while it is closed or opened anew. `None` when closed.
    db: RwLock<Option<Db>>,
}

impl Embedded {
    /// Opens the database in a folder, making both as needed, and starts its writer. Blocks: it reads the journals.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another process has the folder open or the disk refuses, [`Error::Damaged`] when
    /// what is there cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = engine::make_folder(dir)?;
        let db = Db::open(&dir)?;
        index_broadcasts(&db)?;
        let shared = Arc::new(Shared { access: Mutex::default(), db: RwLock::new(Some(db)) });
        let failed = |error: std::io::Error| Error::Unavailable(format!("cannot start the writer: {error}"));
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        // Full: callers wait.
        let (jobs, queue) = mpsc::channel(writer::QUEUE);
        let run = {
            let shared = shared.clone();
            move || writer::run(queue, dir, shared, clock)
        };
        std::thread::Builder::new().name("store-writer".into()).spawn(run).map_err(failed)?;
        Ok(Self { jobs, shared, reads: Arc::new(Semaphore::new(READS)) })
    }

    /// Waits until all that was written before is on the disk.
    pub async fn flush(&self) -> Result<()> {
        self.ask(Job::Flush).await
    }

    /// Writes out all that waits and closes the folder, for all clones: another may open it when this returns.
    pub async fn close(self) -> Result<()> {
        self.ask(Job::Close).await
    }

    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<()>>) -> Job) -> Result<()> {
        let closed = || Error::Unavailable("the store is closed".into());
        let (answer, answered) = oneshot::channel();
        self.jobs.send(job(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    fn known_access(&self) -> MutexGuard<'_, Access> {
        self.shared.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_access(&self, check: Check, row: Put) -> Result<()> {
        let written = self.write(check, vec![row], true).await;
        // Whoever reads meanwhile does not keep what it read.
        let mut access = self.known_access();
        (access.writes, access.rows) = (access.writes + 1, None);
        written
    }

    async fn write(&self, check: Check, rows: Vec<Put>, sync: bool) -> Result<()> {
        self.ask(|answer| Job::Write(Write { check, rows, sync, answer })).await
    }

    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Db) -> Result<T> + Send + 'static) -> Result<T> {
        let permit = self.reads.clone().acquire_owned().await.expect("never closed");
        let shared = self.shared.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Held to the end of the read, which a caller that goes away does not end.
            let _permit = permit;
            let guard = shared.db.read().unwrap_or_else(PoisonError::into_inner);
            read(guard.as_ref().ok_or_else(|| Error::Unavailable("the store is closed".into()))?)
        });
        task.await.unwrap_or_else(|error| Err(Error::Unavailable(format!("a read ended early: {error}"))))
    }

    async fn get<T: DeserializeOwned + Send + 'static>(&self, space: Space, key: Vec<u8>) -> Result<Option<T>> {
        self.read(move |db| {
            let value = db.table(space).get(&key).map_err(|e| engine::read_error(&keys::show(space, &key), e))?;
            value.map(|value| decode(space, &key, &value)).transpose()
        })
        .await
    }

    /// Reads a range, from its end when `back`; as [`page`].
    async fn page<T: DeserializeOwned + Send + 'static>(
        &self,
        space: Space,
        range: Range<Vec<u8>>,
        back: bool,
        limit: usize,
    ) -> Result<Vec<T>> {
        self.read(move |db| {
            let rows = db.table(space).range(range);
            if back { page(space, rows.rev(), limit) } else { page(space, rows, limit) }
        })
        .await
    }
}

/// Folders of versions that did not look broadcasts up by their id alone get that table now.
fn index_broadcasts(db: &Db) -> Result<()> {
    let failed = |error| engine::read_error("the broadcasts", error);
    let rows: Vec<BroadcastRow> = page(Space::Broadcasts, db.table(Space::Broadcasts).iter(), usize::MAX)?;
    let mut missing = Vec::new();
    for row in rows {
        if !db.contains(Space::Ids, row.id.as_str().as_bytes())? {
            missing.push(put(Space::Ids, row.id.as_str().into(), &row.stream));
        }
    }
    if missing.is_empty() { Ok(()) } else { db.commit(missing, true).map_err(failed) }
}

fn decode<T: DeserializeOwned>(space: Space, key: &[u8], value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| Error::Damaged(format!("{}: {error}", keys::show(space, key))))
}

fn put<T: Serialize>(space: Space, key: Vec<u8>, row: &T) -> Put {
    Put { space, key, value: Some(serde_json::to_vec(row).expect("a row is plain data")) }
}

/// Reads rows until there are `limit`, and of chunks all that share the last one's number. A row that does not
/// decode is left out and logged: one bad row must not hide a whole recording, and a missing chunk is a gap.
fn page<T: DeserializeOwned>(space: Space, rows: impl Iterator<Item = fjall::Guard>, limit: usize) -> Result<Vec<T>> {
    let (mut found, mut last) = (Vec::new(), None);
    for row in rows {
        if found.len() >= limit && (space != Space::Chunks || limit == 0) {
            break;
        }
        let (key, value) = row.into_inner().map_err(|error| engine::read_error(&format!("{space:?}"), error))?;
        let number = keys::chunk_number(&key);
        if found.len() >= limit && number != last {
            break;
        }
        match decode(space, &key, &value) {
            Ok(row) => {
                found.push(row);
                last = number;
            }
            Err(error) => tracing::error!(%error, "a row is left out"),
        }
    }
    Ok(found)
}

#[async_trait]
impl Meta for Embedded {
    async fn create_stream(&self, row: StreamRow) -> Result<()> {
        self.write(Check::Absent, vec![put(Space::Streams, keys::stream(&row.id), &row)], true).await
    }

    async fn update_stream(&self, row: StreamRow) -> Result<()> {
        self.write(Check::Present, vec![put(Space::Streams, keys::stream(&row.id), &row)], true).await
    }

    async fn delete_stream(&self, id: &StreamId) -> Result<()> {
        let row = Put { space: Space::Streams, key: keys::stream(id), value: None };
        self.write(Check::Present, vec![row], true).await
    }

    async fn stream(&self, id: &StreamId) -> Result<Option<StreamRow>> {
        self.get(Space::Streams, keys::stream(id)).await
    }

    async fn streams(&self, after: Option<&StreamId>, limit: usize) -> Result<Vec<StreamRow>> {
        self.page(Space::Streams, keys::streams(after), false, limit).await
    }

    async fn put_access(&self, row: AccessRow) -> Result<()> {
        self.write_access(Check::Nothing, put(Space::Access, row.name().into_bytes(), &row)).await
    }

    async fn delete_access(&self, name: &str) -> Result<()> {
        self.write_access(Check::Present, Put { space: Space::Access, key: name.into(), value: None }).await
    }

    async fn access(&self) -> Result<Vec<AccessRow>> {
        let writes = match &*self.known_access() {
            Access { rows: Some(rows), .. } => return Ok(rows.clone()),
            access => access.writes,
        };
        let rows: Vec<AccessRow> = self.page(Space::Access, Vec::new()..vec![u8::MAX], false, usize::MAX).await?;
        let mut access = self.known_access();
        if access.writes == writes {
            access.rows = Some(rows.clone());
        }
        Ok(rows)
    }

    async fn last_epoch(&self, stream: &StreamId) -> Result<Option<EpochRow>> {
        let stream = stream.clone();
        self.read(move |db| match db.last_epoch(&stream)? {
            0 => Ok(None),
            number => {
                let key = keys::epoch(&stream, number);
                let what = keys::show(Space::Epochs, &key);
                let value = db.table(Space::Epochs).get(&key).map_err(|error| engine::read_error(&what, error))?;
                value.map(|value| decode(Space::Epochs, &key, &value)).transpose()
            }
        })
        .await
    }

    async fn take_epoch(&self, stream: &StreamId, row: EpochRow) -> Result<()> {
        let rows = vec![
            put(Space::Epochs, keys::epoch(stream, row.epoch), &row),
            put(Space::Epochs, keys::epoch_of(stream, &row.broadcast, row.epoch), &row),
        ];
        self.write(Check::NextEpoch(stream.clone(), row.epoch), rows, true).await
    }

    async fn epochs(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<EpochRow>> {
        let range = keys::epochs_of(stream, broadcast);
        // Not a page: who owns which number cannot be told from a log with a hole.
        self.read(move |db| {
            let rows = db.table(Space::Epochs).range(range).map(|row| {
                let (key, value) = row.into_inner().map_err(|error| engine::read_error("an epoch log", error))?;
                decode(Space::Epochs, &key, &value)
            });
            rows.collect()
        })
        .await
    }

    async fn put_broadcast(&self, row: BroadcastRow) -> Result<()> {
        let key = keys::broadcast(&row.stream, &row.id);
        let mut open = put(Space::Open, key.clone(), &row);
        open.value = open.value.filter(|_| row.ended.is_none());
        let id = put(Space::Ids, row.id.as_str().into(), &row.stream);
        self.write(Check::Nothing, vec![put(Space::Broadcasts, key, &row), open, id], true).await
    }

    async fn stream_of(&self, id: &BroadcastId) -> Result<Option<StreamId>> {
        self.get(Space::Ids, id.as_str().into()).await
    }

    async fn put_about(&self, stream: &StreamId, id: &BroadcastId, about: About) -> Result<()> {
        self.write(Check::Nothing, vec![put(Space::About, keys::broadcast(stream, id), &about)], true).await
    }

    async fn about(&self, stream: &StreamId, id: &BroadcastId) -> Result<About> {
        Ok(self.get(Space::About, keys::broadcast(stream, id)).await?.unwrap_or_default())
    }

    async fn broadcast(&self, stream: &StreamId, id: &BroadcastId) -> Result<Option<BroadcastRow>> {
        self.get(Space::Broadcasts, keys::broadcast(stream, id)).await
    }

    async fn broadcasts(
        &self,
        stream: &StreamId,
        before: Option<&BroadcastId>,
        limit: usize,
    ) -> Result<Vec<BroadcastRow>> {
        self.page(Space::Broadcasts, keys::broadcasts(stream, before), true, limit).await
    }

    async fn all_broadcasts(&self, after: Option<&BroadcastId>, limit: usize) -> Result<Vec<(BroadcastId, StreamId)>> {
        let from = after.map_or(Vec::new(), |after| [after.as_str().as_bytes(), &[0]].concat());
        self.read(move |db| {
            let rows = db.table(Space::Ids).range(from..).take(limit).map(|row| {
                let (key, value) = row.into_inner().map_err(|error| engine::read_error("the broadcasts", error))?;
                let id = std::str::from_utf8(&key).ok().and_then(|text| text.parse().ok());
                let id = id.ok_or_else(|| Error::Damaged(keys::show(Space::Ids, &key)))?;
                Ok((id, decode(Space::Ids, &key, &value)?))
            });
            rows.collect()
        })
        .await
    }

    async fn open_broadcasts(&self) -> Result<Vec<BroadcastRow>> {
        self.page(Space::Open, Vec::new()..vec![u8::MAX], false, usize::MAX).await
    }

    async fn put_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, row: ChunkRow) -> Result<()> {
        let key = keys::chunk(stream, broadcast, row.k, row.epoch);
        self.write(Check::Nothing, vec![put(Space::Chunks, key, &row)], false).await
    }

    async fn chunks(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        self.page(Space::Chunks, keys::chunks(stream, broadcast, from, None), false, limit).await
    }

    async fn chunks_back(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        self.page(Space::Chunks, keys::chunks(stream, broadcast, 0, before), true, limit).await
    }

    async fn has_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, k: u64, epoch: u64) -> Result<bool> {
        let key = keys::chunk(stream, broadcast, k, epoch);
        self.read(move |db| db.contains(Space::Chunks, &key)).await
    }

    async fn delete_chunks(&self, stream: &StreamId, broadcast: &BroadcastId, rows: &[(u64, u64)]) -> Result<()> {
        let key = |&(k, epoch)| keys::chunk(stream, broadcast, k, epoch);
        let rows = rows.iter().map(|row| Put { space: Space::Chunks, key: key(row), value: None });
        self.write(Check::Nothing, rows.collect(), false).await
    }

    async fn put_clip(&self, row: ClipRow) -> Result<()> {
        let rows = clip_keys(&row).map(|key| put(Space::Clips, key, &row));
        self.write(Check::Nothing, rows.into(), true).await
    }

    async fn clip(&self, id: &ClipId) -> Result<Option<ClipRow>> {
        self.get(Space::Clips, keys::clip(id)).await
    }

    async fn clips(&self, of: &ClipsOf, before: Option<&ClipId>, limit: usize) -> Result<Vec<ClipRow>> {
        self.page(Space::Clips, keys::clips_of(of, before), true, limit).await
    }

    async fn delete_clip(&self, id: &ClipId) -> Result<()> {
        let row = self.clip(id).await?.ok_or(Error::NotFound)?;
        let rows = clip_keys(&row).map(|key| Put { space: Space::Clips, key, value: None });
        self.write(Check::Present, rows.into(), true).await
    }

    async fn put_job(&self, row: JobRow) -> Result<()> {
        self.write(Check::Nothing, vec![put(Space::Jobs, row.id.clone().into(), &row)], true).await
    }

    async fn jobs(&self) -> Result<Vec<JobRow>> {
        self.page(Space::Jobs, Vec::new()..vec![u8::MAX], false, usize::MAX).await
    }

    async fn delete_job(&self, id: &str) -> Result<()> {
        self.write(Check::Nothing, vec![Put { space: Space::Jobs, key: id.into(), value: None }], false).await
    }

    async fn put_node(&self, row: NodeRow) -> Result<()> {
        self.write(Check::Nothing, vec![put(Space::Nodes, row.id.clone().into_bytes(), &row)], false).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>> {
        self.page(Space::Nodes, Vec::new()..vec![u8::MAX], false, usize::MAX).await
    }

    async fn delete_node(&self, id: &str) -> Result<()> {
        self.write(Check::Present, vec![Put { space: Space::Nodes, key: id.into(), value: None }], true).await
    }

    async fn put_chat(&self, stream: &StreamId, writes: Vec<ChatWrite>) -> Result<()> {
        self.write(Check::Nothing, chat::puts(stream, writes), false).await
    }

    async fn chat(&self, stream: &StreamId, log: &ChatLog, from: EventId, limit: usize) -> Result<Vec<ChatRow>> {
        self.chat_page(keys::chats(stream, log, from, EventId::MAX), false, limit).await
    }

    async fn chat_back(&self, stream: &StreamId, log: &ChatLog, before: EventId, limit: usize) -> Result<Vec<ChatRow>> {
        self.chat_page(keys::chats(stream, log, EventId(0), before), true, limit).await
    }

    async fn chat_rules(&self, stream: &StreamId) -> Result<Vec<(String, String)>> {
        self.read_rules(stream).await
    }

    async fn drop_chat(&self, stream: &StreamId, log: &ChatLog) -> Result<()> {
        self.drop_rows(Space::Chat, keys::chat_log(stream, log)).await
    }

    async fn trim_chat(&self, before: EventId) -> Result<()> {
        self.trim(before).await
    }

    async fn put_audience(&self, stream: &StreamId, rows: Vec<AudienceRow>) -> Result<()> {
        self.write_audience(stream, rows).await
    }

    async fn audience(
        &self,
        stream: &StreamId,
        span: AudienceSpan,
        (from, to): (UnixMs, UnixMs),
        limit: usize,
    ) -> Result<Vec<AudienceRow>> {
        self.page(Space::Audience, keys::audiences(stream, span, from, to), false, limit).await
    }

    async fn audience_of(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<AudienceRow>> {
        self.page(Space::Audience, keys::audience_of(stream, broadcast), false, usize::MAX).await
    }

    async fn trim_audience(&self, before: UnixMs) -> Result<()> {
        self.trim_audiences(before).await
    }
}

/// A clip's row is there by its id, its stream and its broadcast.
fn clip_keys(row: &ClipRow) -> [Vec<u8>; 3] {
    let (stream, broadcast) = (ClipsOf::Stream(row.stream.clone()), ClipsOf::Broadcast(row.broadcast.clone()));
    [keys::clip(&row.id), keys::clip_of(&stream, &row.id), keys::clip_of(&broadcast, &row.id)]
}

#[cfg(test)]
mod tests;
