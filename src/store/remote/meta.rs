//! Rows: those of what is recorded are written at once or later, and read with those that wait.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{EPOCH_PATIENCE, Entry, PATIENCE, Remote, Side, spool};
use crate::{
    id::{BroadcastId, ClipId, EventId, StreamId},
    media::Pieces,
    store::{
        About, AccessRow, AudienceRow, AudienceSpan, BroadcastRow, ChatLog, ChatRow, ChatWrite, ChunkRow, ClipRow,
        ClipsOf, EpochRow, Error, JobRow, Meta, NodeRow, Result, StreamRow,
    },
    time::UnixMs,
};

/// The rows' side of a [`Remote`].
pub struct RemoteMeta(pub Arc<Remote>);

#[async_trait]
impl Meta for RemoteMeta {
    async fn put_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, mut row: ChunkRow) -> Result<()> {
        let remote = &self.0;
        remote.spool().leave_out(stream, broadcast, &mut row);
        let entry = Entry::Chunk { stream: stream.clone(), broadcast: broadcast.clone(), row: row.clone() };
        let done = remote.write(entry, Pieces::default(), remote.meta.put_chunk(stream, broadcast, row)).await;
        remote.chunks.forget();
        done
    }

    async fn put_broadcast(&self, row: BroadcastRow) -> Result<()> {
        let remote = &self.0;
        let entry = Entry::Broadcast { row: row.clone() };
        let done = remote.write(entry, Pieces::default(), remote.meta.put_broadcast(row)).await;
        remote.broadcast.forget();
        remote.broadcasts.forget();
        done
    }

    async fn broadcast(&self, stream: &StreamId, id: &BroadcastId) -> Result<Option<BroadcastRow>> {
        let remote = &self.0;
        if let Some(row) = remote.spool().broadcasts().remove(id) {
            return Ok(Some(row));
        }
        let (meta, of, show) = (remote.meta.clone(), stream.clone(), id.clone());
        remote.broadcast.join(format!("{stream}/{id}"), move || async move { meta.broadcast(&of, &show).await }).await
    }

    async fn broadcasts(
        &self,
        stream: &StreamId,
        before: Option<&BroadcastId>,
        limit: usize,
    ) -> Result<Vec<BroadcastRow>> {
        let remote = &self.0;
        let (meta, of, bound) = (remote.meta.clone(), stream.clone(), before.cloned());
        let name = format!("{stream}<{}#{limit}", before.map_or("", |before| before.as_str()));
        let read = move || async move { meta.broadcasts(&of, bound.as_ref(), limit).await };
        // Looked at first: what is written out meanwhile is in what is read then.
        let waiting = remote.spool().broadcasts();
        let mut rows = remote.broadcasts.join(name, read).await?;
        for row in &mut rows {
            if let Some(newer) = waiting.get(&row.id) {
                *row = newer.clone();
            }
        }
        Ok(rows)
    }

    async fn open_broadcasts(&self) -> Result<Vec<BroadcastRow>> {
        let waiting = self.0.spool().broadcasts();
        let mut rows = self.0.meta.open_broadcasts().await?;
        for (id, waiting) in waiting {
            rows.retain(|row| row.id != id);
            rows.extend(Some(waiting).filter(|row| row.ended.is_none()));
        }
        Ok(rows)
    }

    async fn epochs(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<EpochRow>> {
        let (meta, of, show) = (self.0.meta.clone(), stream.clone(), broadcast.clone());
        let read = move || async move { meta.epochs(&of, &show).await };
        let waiting = self.0.spool().epochs(stream, broadcast);
        let mut rows = self.0.epochs.join(format!("{stream}/{broadcast}"), read).await?;
        for waiting in waiting {
            if rows.iter().all(|row| row.epoch != waiting.epoch) {
                rows.push(waiting);
            }
        }
        Ok(rows)
    }

    async fn chunks(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        let (meta, of, show) = (self.0.meta.clone(), stream.clone(), broadcast.clone());
        let read = move || async move { meta.chunks(&of, &show, from, limit).await };
        let waiting = self.0.spool().chunks(stream, broadcast);
        let rows = self.0.chunks.join(format!("{stream}/{broadcast}>{from}#{limit}"), read).await?;
        // A full page ends where the store's does: what waits behind it is in the next.
        let end = rows.last().filter(|_| rows.len() >= limit).map(|row| row.k);
        let waiting = waiting.into_iter().filter(|row| row.k >= from && end.is_none_or(|end| row.k <= end));
        Ok(merged(rows, waiting, false))
    }

    async fn chunks_back(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        let (meta, of, show) = (self.0.meta.clone(), stream.clone(), broadcast.clone());
        let read = move || async move { meta.chunks_back(&of, &show, before, limit).await };
        let waiting = self.0.spool().chunks(stream, broadcast);
        let rows = self.0.chunks.join(format!("{stream}/{broadcast}<{before:?}#{limit}"), read).await?;
        let end = rows.last().filter(|_| rows.len() >= limit).map(|row| row.k);
        let waiting = waiting
            .into_iter()
            .filter(|row| before.is_none_or(|before| row.k < before) && end.is_none_or(|end| row.k >= end));
        Ok(merged(rows, waiting, true))
    }

    async fn has_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, k: u64, epoch: u64) -> Result<bool> {
        let waits = self.0.spool().chunks(stream, broadcast).iter().any(|row| (row.k, row.epoch) == (k, epoch));
        if waits { Ok(true) } else { self.0.meta.has_chunk(stream, broadcast, k, epoch).await }
    }

    async fn create_stream(&self, row: StreamRow) -> Result<()> {
        let done = self.0.meta.create_stream(row.clone()).await;
        if done.is_ok() {
            self.0.streams.insert(row.id.clone(), row);
        }
        done
    }

    async fn update_stream(&self, row: StreamRow) -> Result<()> {
        let done = self.0.meta.update_stream(row.clone()).await;
        if done.is_ok() {
            self.0.streams.insert(row.id.clone(), row);
        }
        done
    }

    async fn delete_stream(&self, id: &StreamId) -> Result<()> {
        let done = self.0.meta.delete_stream(id).await;
        if done.is_ok() {
            self.0.streams.remove(id);
        }
        done
    }

    /// While the database is away what was last known of a stream counts: its encoder may come back.
    async fn stream(&self, id: &StreamId) -> Result<Option<StreamRow>> {
        let remote = &self.0;
        let read = remote.meta.stream(id);
        let read = match remote.is_away(Side::Rows) {
            true => tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| Err(silent())),
            false => read.await,
        };
        match read {
            Ok(Some(row)) => {
                remote.streams.insert(id.clone(), row.clone());
                Ok(Some(row))
            }
            Ok(None) => {
                remote.streams.remove(id);
                Ok(None)
            }
            Err(why @ Error::Unavailable(_)) => remote.streams.get(id).map(Some).ok_or(why),
            Err(why) => Err(why),
        }
    }

    async fn streams(&self, after: Option<&StreamId>, limit: usize) -> Result<Vec<StreamRow>> {
        self.0.meta.streams(after, limit).await
    }

    async fn put_access(&self, row: AccessRow) -> Result<()> {
        let done = self.0.meta.put_access(row).await;
        self.0.forget_reads();
        done
    }

    async fn delete_access(&self, name: &str) -> Result<()> {
        let done = self.0.meta.delete_access(name).await;
        self.0.forget_reads();
        done
    }

    async fn access(&self) -> Result<Vec<AccessRow>> {
        self.0.meta.access().await
    }

    async fn last_epoch_there(&self, stream: &StreamId) -> Result<Option<EpochRow>> {
        let waiting = self.0.spool().last_epoch(stream);
        let there = self.0.meta.last_epoch(stream).await?;
        Ok(there.into_iter().chain(waiting).max_by_key(|row| row.epoch))
    }

    /// While the database is away what was last known counts; and what waits to be taken comes after what is there.
    async fn last_epoch(&self, stream: &StreamId) -> Result<Option<EpochRow>> {
        let remote = &self.0;
        let waiting = remote.spool().last_epoch(stream);
        let read = remote.meta.last_epoch(stream);
        let read = match remote.is_away(Side::Rows) {
            true => tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| Err(silent())),
            false => read.await,
        };
        let there = match read {
            Err(why @ Error::Unavailable(_)) => Some(remote.last_epochs.get(stream).ok_or(why)?),
            read => read?,
        };
        if let Some(row) = &there {
            remote.last_epochs.insert(stream.clone(), row.clone());
        }
        Ok(there.into_iter().chain(waiting).max_by_key(|row| row.epoch))
    }

    async fn take_epoch(&self, stream: &StreamId, row: EpochRow) -> Result<()> {
        let remote = &self.0;
        let mut why = "another of this stream waits".to_owned();
        let waits = remote.spool().last_epoch(stream).is_some();
        if !waits {
            let take = remote.meta.take_epoch(stream, row.clone());
            let patience = if remote.is_away(Side::Rows) { PATIENCE } else { EPOCH_PATIENCE };
            match tokio::time::timeout(patience, take).await.unwrap_or_else(|_| Err(silent())) {
                Err(Error::Unavailable(words)) => why = words,
                taken => {
                    remote.forget_reads();
                    if taken.is_ok() {
                        remote.last_epochs.insert(stream.clone(), row);
                    }
                    return taken;
                }
            }
            remote.set_away(Side::Rows, Some(&Error::Unavailable(why.clone())));
        }
        // Whoever asks may know of later ones than this node has read: of a feed, say. Where nobody knows of any, the number is
        // a guess, which would take another's place.
        let last = remote.spool().last_epoch(stream).or_else(|| remote.last_epochs.get(stream));
        if row.epoch <= last.map_or(1, |last| last.epoch) {
            return Err(Error::Unavailable(why));
        }
        // Its chunks come behind it.
        remote.wait(Entry::Epoch { stream: stream.clone(), row }, Pieces::default()).await?;
        remote.forget_reads();
        Err(Error::Later(why))
    }

    async fn stream_of(&self, id: &BroadcastId) -> Result<Option<StreamId>> {
        self.0.meta.stream_of(id).await
    }

    async fn put_about(&self, stream: &StreamId, id: &BroadcastId, about: About) -> Result<()> {
        self.0.meta.put_about(stream, id, about).await
    }

    async fn about(&self, stream: &StreamId, id: &BroadcastId) -> Result<About> {
        self.0.meta.about(stream, id).await
    }

    async fn all_broadcasts(&self, after: Option<&BroadcastId>, limit: usize) -> Result<Vec<(BroadcastId, StreamId)>> {
        self.0.meta.all_broadcasts(after, limit).await
    }

    async fn delete_chunks(&self, stream: &StreamId, broadcast: &BroadcastId, rows: &[(u64, u64)]) -> Result<()> {
        let is_gone = |entry: &Entry| match entry {
            Entry::Chunk { stream: of, broadcast: show, row } => {
                of == stream && show == broadcast && rows.contains(&(row.k, row.epoch))
            }
            _ => false,
        };
        self.0.forget_waiting(is_gone).await?;
        let done = self.0.meta.delete_chunks(stream, broadcast, rows).await;
        self.0.forget_reads();
        done
    }

    async fn put_clip(&self, row: ClipRow) -> Result<()> {
        self.0.meta.put_clip(row).await
    }

    async fn clip(&self, id: &ClipId) -> Result<Option<ClipRow>> {
        self.0.meta.clip(id).await
    }

    async fn clips(&self, of: &ClipsOf, before: Option<&ClipId>, limit: usize) -> Result<Vec<ClipRow>> {
        self.0.meta.clips(of, before, limit).await
    }

    async fn delete_clip(&self, id: &ClipId) -> Result<()> {
        self.0.meta.delete_clip(id).await
    }

    async fn put_job(&self, row: JobRow) -> Result<()> {
        self.0.meta.put_job(row).await
    }

    async fn jobs(&self) -> Result<Vec<JobRow>> {
        self.0.meta.jobs().await
    }

    async fn delete_job(&self, id: &str) -> Result<()> {
        self.0.meta.delete_job(id).await
    }

    async fn put_node(&self, row: NodeRow) -> Result<()> {
        self.0.meta.put_node(row).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>> {
        self.0.meta.nodes().await
    }

    async fn delete_node(&self, id: &str) -> Result<()> {
        self.0.meta.delete_node(id).await
    }

    async fn put_chat(&self, stream: &StreamId, writes: Vec<ChatWrite>) -> Result<()> {
        let size = |write: &ChatWrite| match write {
            ChatWrite::Row { row, .. } => row.body.len(),
            ChatWrite::Rule { body, .. } => body.as_ref().map_or(0, String::len),
        };
        for writes in lots(writes, size) {
            let entry = Entry::Chat { stream: stream.clone(), writes: writes.clone() };
            self.0.write(entry, Pieces::default(), self.0.meta.put_chat(stream, writes)).await?;
        }
        Ok(())
    }

    async fn chat(&self, stream: &StreamId, log: &ChatLog, from: EventId, limit: usize) -> Result<Vec<ChatRow>> {
        let waiting = self.waiting_chat(stream, log);
        let rows = self.0.meta.chat(stream, log, from, limit).await?;
        let end = rows.last().filter(|_| rows.len() >= limit).map_or(EventId::MAX, |row| row.id);
        let mut all: BTreeMap<_, _> = rows.into_iter().map(|row| (row.id, row)).collect();
        all.extend(waiting.into_iter().filter(|row| (from..=end).contains(&row.id)).map(|row| (row.id, row)));
        Ok(all.into_values().take(limit).collect())
    }

    async fn chat_back(&self, stream: &StreamId, log: &ChatLog, before: EventId, limit: usize) -> Result<Vec<ChatRow>> {
        let waiting = self.waiting_chat(stream, log);
        let rows = self.0.meta.chat_back(stream, log, before, limit).await?;
        let end = rows.last().filter(|_| rows.len() >= limit).map_or(EventId(0), |row| row.id);
        let mut all: BTreeMap<_, _> = rows.into_iter().map(|row| (row.id, row)).collect();
        all.extend(waiting.into_iter().filter(|row| (end..before).contains(&row.id)).map(|row| (row.id, row)));
        Ok(all.into_values().rev().take(limit).collect())
    }

    async fn chat_rules(&self, stream: &StreamId) -> Result<Vec<(String, String)>> {
        let waiting = self.0.spool().chat(stream);
        let mut rules: BTreeMap<_, _> = self.0.meta.chat_rules(stream).await?.into_iter().collect();
        for write in waiting {
            match write {
                ChatWrite::Rule { name, body: Some(body) } => _ = rules.insert(name, body),
                ChatWrite::Rule { name, body: None } => _ = rules.remove(&name),
                ChatWrite::Row { .. } => {}
            }
        }
        Ok(rules.into_iter().collect())
    }

    async fn drop_chat(&self, stream: &StreamId, log: &ChatLog) -> Result<()> {
        self.0.meta.drop_chat(stream, log).await
    }

    async fn trim_chat(&self, before: EventId) -> Result<()> {
        self.0.meta.trim_chat(before).await
    }

    /// What waits is not read: it is newer than what is stored by minutes at most, and history that is shown has an end anyway.
    async fn put_audience(&self, stream: &StreamId, rows: Vec<AudienceRow>) -> Result<()> {
        for rows in lots(rows, |row| row.body.len()) {
            let entry = Entry::Audience { stream: stream.clone(), rows: rows.clone() };
            self.0.write(entry, Pieces::default(), self.0.meta.put_audience(stream, rows)).await?;
        }
        Ok(())
    }

    async fn audience(
        &self,
        stream: &StreamId,
        span: AudienceSpan,
        between: (UnixMs, UnixMs),
        limit: usize,
    ) -> Result<Vec<AudienceRow>> {
        self.0.meta.audience(stream, span, between, limit).await
    }

    async fn audience_of(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<AudienceRow>> {
        self.0.meta.audience_of(stream, broadcast).await
    }

    async fn trim_audience(&self, before: UnixMs) -> Result<()> {
        self.0.meta.trim_audience(before).await
    }
}

impl RemoteMeta {
    /// Rows of a log that wait.
    fn waiting_chat(&self, stream: &StreamId, log: &ChatLog) -> Vec<ChatRow> {
        let rows = self.0.spool().chat(stream).into_iter().filter_map(|write| match write {
            ChatWrite::Row { log: of, row } if of == *log => Some(row),
            _ => None,
        });
        rows.collect()
    }
}

/// Divides writes so that each lot fits into one that waits ([`spool::HEAD_MAX`]).
fn lots<T>(writes: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut lots, mut bytes) = (Vec::new(), usize::MAX);
    for write in writes {
        // Quotes are escaped there: at worst each byte is two.
        let more = size(&write) * 2 + 200;
        if bytes.saturating_add(more) > spool::HEAD_MAX as usize {
            lots.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        lots.last_mut().expect("just made").push(write);
    }
    lots
}

/// Rows of the store with those that wait, which are newer, in the page's order. It may have more rows than were asked for.
fn merged(rows: Vec<ChunkRow>, waiting: impl Iterator<Item = ChunkRow>, back: bool) -> Vec<ChunkRow> {
    let mut all: BTreeMap<_, _> = rows.into_iter().map(|row| ((row.k, row.epoch), row)).collect();
    all.extend(waiting.map(|row| ((row.k, row.epoch), row)));
    if back { all.into_values().rev().collect() } else { all.into_values().collect() }
}

fn silent() -> Error {
    Error::Unavailable("the database does not answer".into())
}
