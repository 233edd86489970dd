//! Rows to statements and back.

use std::{sync::PoisonError, time::Duration};

use async_trait::async_trait;
use futures::future::try_join_all;
use scylla::{
    serialize::batch::BatchValues,
    statement::batch::{Batch, BatchType},
};
use uuid::Uuid;

use super::{SPREAD, Scylla, applied, cql_limit, decode, json, readable, statements::Statements};
use crate::{
    id::{BroadcastId, ClipId, EventId, StreamId},
    store::{
        About, AccessRow, AudienceRow, AudienceSpan, BroadcastRow, ChatLog, ChatRow, ChatWrite, ChunkRow, ClipRow,
        ClipsOf, EpochRow, Error, JobRow, Meta, NodeRow, Result, StreamRow,
    },
    time::{UnixMs, now, unix_now},
};

/// Chunk numbers per partition: an hour of 2 s chunks.
const BUCKET: u64 = 1800;
/// How long a deleted access row is remembered, seconds: longer than clocks differ.
const DROPPED: i32 = 86_400;
/// How long it is tried to find out what became of an LWT without an answer, and what lies between two tries.
const FIND_OUT: Duration = Duration::from_secs(4);
const FIND_OUT_PAUSE: Duration = Duration::from_millis(100);
/// The partition of tables that have one.
const ONE: i8 = 0;
/// Buckets that are known to be noted, before the set is begun anew.
const NOTED_MAX: usize = 100_000;
/// Chunk rows deleted at the same time.
const DELETES: usize = 64;

/// The partition of a row that is found by its id.
fn part(id: &str) -> i8 {
    (crc32fast::hash(id.as_bytes()) % SPREAD as u32) as i8
}

fn owner(of: &ClipsOf) -> (i8, &str) {
    match of {
        ClipsOf::Stream(stream) => (0, stream.as_str()),
        ClipsOf::Broadcast(broadcast) => (1, broadcast.as_str()),
    }
}

#[async_trait]
impl Meta for Scylla {
    async fn create_stream(&self, row: StreamRow) -> Result<()> {
        let id = row.id.as_str();
        match self.decide(|s| &s.create_stream, (part(id), id, json(&row))).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Exists),
            // Its key's hash is salted: nobody else's row is the same.
            Err(Error::Unavailable(why)) => match self.stream_decided(&row.id).await? {
                Some(there) if there == row => Ok(()),
                Some(_) => Err(Error::Exists),
                None => Err(Error::Unavailable(why)),
            },
            Err(other) => Err(other),
        }
    }

    async fn update_stream(&self, row: StreamRow) -> Result<()> {
        let id = row.id.as_str();
        match self.decide(|s| &s.update_stream, (json(&row), part(id), id)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotFound),
            Err(Error::Unavailable(why)) => match self.stream_decided(&row.id).await? {
                Some(there) if there == row => Ok(()),
                Some(_) => Err(Error::Unavailable(why)),
                None => Err(Error::NotFound),
            },
            Err(other) => Err(other),
        }
    }

    async fn delete_stream(&self, id: &StreamId) -> Result<()> {
        match self.decide(|s| &s.delete_stream, (part(id.as_str()), id.as_str())).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotFound),
            Err(Error::Unavailable(why)) => match self.stream_decided(id).await? {
                None => Ok(()),
                Some(_) => Err(Error::Unavailable(why)),
            },
            Err(other) => Err(other),
        }
    }

    async fn stream(&self, id: &StreamId) -> Result<Option<StreamRow>> {
        self.body(&format!("stream {id}"), |s| &s.stream, (part(id.as_str()), id.as_str())).await
    }

    async fn streams(&self, after: Option<&StreamId>, limit: usize) -> Result<Vec<StreamRow>> {
        let read = |id: &str, body: &str| readable(&format!("stream {id}"), body);
        self.spread(|s| &s.streams, after.map_or("", |after| after.as_str()), limit, read).await
    }

    async fn put_access(&self, row: AccessRow) -> Result<()> {
        let name = row.name();
        let before = self.one::<(Option<String>, Option<i64>)>(|s| &s.access_stamp, (ONE, &name)).await?;
        let stamp = Self::stamp(before.and_then(|row| row.1));
        let ttl = row.until().map_or(0, |until| {
            // What has no use any more goes by itself; a day later, as clocks differ.
            let left = until.since(unix_now()).as_secs() + DROPPED as u64;
            i32::try_from(left).unwrap_or(0)
        });
        self.write(|s| &s.put_access, (stamp, ttl, json(&row), ONE, &name)).await
    }

    async fn delete_access(&self, name: &str) -> Result<()> {
        let before = self.one::<(Option<String>, Option<i64>)>(|s| &s.access_stamp, (ONE, name)).await?;
        let (body, at) = before.unwrap_or_default();
        if body.is_none_or(|body| body.is_empty()) {
            return Err(Error::NotFound);
        }
        self.write(|s| &s.put_access, (Self::stamp(at), DROPPED, "", ONE, name)).await
    }

    async fn access(&self) -> Result<Vec<AccessRow>> {
        let rows = self.read::<(String, Option<String>)>(|s| &s.access, (ONE,), usize::MAX).await?;
        let rows = rows.iter().filter_map(|(name, body)| Some((name, body.as_ref().filter(|body| !body.is_empty())?)));
        Ok(rows.filter_map(|(name, body)| readable(&format!("access row {name}"), body)).collect())
    }

    async fn last_epoch(&self, stream: &StreamId) -> Result<Option<EpochRow>> {
        self.body(&format!("epoch log of {stream}"), |s| &s.last_epoch, (stream.as_str(),)).await
    }

    async fn take_epoch(&self, stream: &StreamId, row: EpochRow) -> Result<()> {
        let last = self.last_epoch(stream).await?.map_or(0, |last| last.epoch);
        if row.epoch != last + 1 {
            return Err(Error::EpochTaken(row.epoch));
        }
        let (writer, body, epoch) = (Uuid::new_v4(), json(&row), row.epoch as i64);
        let connected = self.shared.connected.load_full();
        let Statements { take_epoch, note_epoch, .. } = &connected.statements;
        // Both rows lie in one partition, so they are written together or not at all.
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.append_statement(take_epoch.clone());
        batch.append_statement(note_epoch.clone());
        batch.set_execution_profile_handle(Some(self.shared.profiles.serial.clone()));
        let values =
            ((stream.as_str(), epoch, writer, &body), (stream.as_str(), row.broadcast.as_str(), epoch, writer, &body));
        match connected.session.batch(&batch, &values).await {
            Ok(answer) if applied(&answer)? => Ok(()),
            // A driver may have tried more than once after all: the row itself says whose it is.
            Ok(_) => self.took_epoch(stream, row.epoch, writer, &batch, &values).await,
            Err(why) => match self.failed(&connected, why) {
                Error::Unavailable(_) => self.took_epoch(stream, row.epoch, writer, &batch, &values).await,
                other => Err(other),
            },
        }
    }

    async fn epochs(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<EpochRow>> {
        // Not a page: who owns which number cannot be told from a log with a hole.
        let rows = self.read::<(String,)>(|s| &s.epochs, (stream.as_str(), broadcast.as_str()), usize::MAX).await?;
        rows.iter().rev().map(|(body,)| decode(&format!("an epoch of {stream}/{broadcast}"), body)).collect()
    }

    async fn put_broadcast(&self, row: BroadcastRow) -> Result<()> {
        let (stream, id, body) = (row.stream.as_str(), row.id.as_str(), json(&row));
        // A row that is not found yet does no harm; one that nothing leads to does.
        let (closed, open, ()) = tokio::try_join!(
            self.stamp_of(|s| &s.broadcast_stamp, (stream, id)),
            self.stamp_of(|s| &s.broadcast_open_stamp, (part(stream), stream, id)),
            self.write(|s| &s.put_broadcast_id, (part(id), id, stream)),
        )?;
        let stamp = closed.max(open);
        let put = self.write(|s| &s.put_broadcast, (stamp, &body, stream, id));
        match row.ended {
            None => {
                let open = self.write(|s| &s.put_broadcast_open, (stamp, &body, part(stream), stream, id));
                tokio::try_join!(put, open).map(|_| ())
            }
            Some(_) => {
                put.await?;
                self.write(|s| &s.drop_broadcast_open, (stamp, part(stream), stream, id)).await
            }
        }
    }

    async fn broadcast(&self, stream: &StreamId, id: &BroadcastId) -> Result<Option<BroadcastRow>> {
        self.body(&format!("broadcast {stream}/{id}"), |s| &s.broadcast, (stream.as_str(), id.as_str())).await
    }

    async fn broadcasts(
        &self,
        stream: &StreamId,
        before: Option<&BroadcastId>,
        limit: usize,
    ) -> Result<Vec<BroadcastRow>> {
        let values = |before, most| (stream.as_str(), before, most);
        let before = before.map(|before| before.as_str());
        self.newest(&format!("broadcast {stream}/"), |s| &s.broadcasts, values, before, limit).await
    }

    async fn stream_of(&self, id: &BroadcastId) -> Result<Option<StreamId>> {
        let row = self.one::<(String,)>(|s| &s.stream_of, (part(id.as_str()), id.as_str())).await?;
        row.map(|(name,)| name.parse().map_err(|_| Error::Damaged(format!("stream of {id}: {name:?}")))).transpose()
    }

    async fn put_about(&self, stream: &StreamId, id: &BroadcastId, about: About) -> Result<()> {
        let stamp = self.stamp_of(|s| &s.about_stamp, (stream.as_str(), id.as_str())).await?;
        self.write(|s| &s.put_about, (stamp, json(&about), stream.as_str(), id.as_str())).await
    }

    async fn about(&self, stream: &StreamId, id: &BroadcastId) -> Result<About> {
        let what = format!("title of {stream}/{id}");
        let about = self.body(&what, |s| &s.about, (stream.as_str(), id.as_str())).await?;
        Ok(about.unwrap_or_default())
    }

    async fn all_broadcasts(&self, after: Option<&BroadcastId>, limit: usize) -> Result<Vec<(BroadcastId, StreamId)>> {
        let parse = |id: &str, stream: &str| {
            Some(match (id.parse(), stream.parse()) {
                (Ok(id), Ok(stream)) => Ok((id, stream)),
                _ => Err(Error::Damaged(format!("stream of {id}: {stream:?}"))),
            })
        };
        let rows = self.spread(|s| &s.broadcast_ids, after.map_or("", |after| after.as_str()), limit, parse).await?;
        rows.into_iter().collect()
    }

    async fn open_broadcasts(&self) -> Result<Vec<BroadcastRow>> {
        let parts =
            (0..SPREAD).map(|part| self.read::<(String, Option<String>)>(|s| &s.broadcasts_open, (part,), usize::MAX));
        let rows = try_join_all(parts).await?.into_iter().flatten();
        Ok(rows.filter_map(|(id, body)| readable(&format!("broadcast {id}"), &body?)).collect())
    }

    async fn put_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, row: ChunkRow) -> Result<()> {
        let bucket = row.k / BUCKET;
        self.note_bucket(stream, broadcast, bucket).await?;
        let values = (stream.as_str(), broadcast.as_str(), bucket as i64, row.k as i64, row.epoch as i64, json(&row));
        self.write(|s| &s.put_chunk, values).await
    }

    async fn chunks(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.page(stream, broadcast, (from, false), limit).await
    }

    async fn chunks_back(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        self.page(stream, broadcast, (before, true), limit).await
    }

    async fn has_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, k: u64, epoch: u64) -> Result<bool> {
        let values = (stream.as_str(), broadcast.as_str(), (k / BUCKET) as i64, k as i64, epoch as i64);
        Ok(self.one::<(i64,)>(|s| &s.chunk, values).await?.is_some())
    }

    async fn delete_chunks(&self, stream: &StreamId, broadcast: &BroadcastId, rows: &[(u64, u64)]) -> Result<()> {
        for rows in rows.chunks(DELETES) {
            let drops = rows.iter().map(|&(k, epoch)| {
                let values = (stream.as_str(), broadcast.as_str(), (k / BUCKET) as i64, k as i64, epoch as i64);
                self.write(|s| &s.drop_chunk, values)
            });
            try_join_all(drops).await?;
        }
        // The notes of their buckets stay: another node may write there now, and an empty bucket costs a read only.
        Ok(())
    }

    async fn put_clip(&self, row: ClipRow) -> Result<()> {
        let (id, body) = (row.id.as_str(), json(&row));
        for of in [ClipsOf::Stream(row.stream.clone()), ClipsOf::Broadcast(row.broadcast.clone())] {
            let (kind, owner) = owner(&of);
            self.write(|s| &s.put_clip_of, (kind, owner, id, &body)).await?;
        }
        self.write(|s| &s.put_clip, (id, &body)).await
    }

    async fn clip(&self, id: &ClipId) -> Result<Option<ClipRow>> {
        self.body(&format!("clip {id}"), |s| &s.clip, (id.as_str(),)).await
    }

    async fn clips(&self, of: &ClipsOf, before: Option<&ClipId>, limit: usize) -> Result<Vec<ClipRow>> {
        let (kind, owner) = owner(of);
        let values = |before, most| (kind, owner, before, most);
        self.newest("clip", |s| &s.clips, values, before.map(|before| before.as_str()), limit).await
    }

    async fn delete_clip(&self, id: &ClipId) -> Result<()> {
        let row = self.clip(id).await?.ok_or(Error::NotFound)?;
        let stamp = self.stamp_of(|s| &s.clip_stamp, (id.as_str(),)).await?;
        // The row that leads to the others goes last, so that a crash leaves something to begin again from.
        for of in [ClipsOf::Stream(row.stream), ClipsOf::Broadcast(row.broadcast)] {
            let (kind, owner) = owner(&of);
            self.write(|s| &s.drop_clip_of, (stamp, kind, owner, id.as_str())).await?;
        }
        self.write(|s| &s.drop_clip, (stamp, id.as_str())).await
    }

    async fn put_job(&self, row: JobRow) -> Result<()> {
        let stamp = self.stamp_of(|s| &s.job_stamp, (ONE, &row.id)).await?;
        self.write(|s| &s.put_job, (stamp, json(&row), ONE, &row.id)).await
    }

    async fn jobs(&self) -> Result<Vec<JobRow>> {
        let rows = self.read::<(String, Option<String>)>(|s| &s.jobs, (ONE,), usize::MAX).await?;
        Ok(rows.iter().filter_map(|(id, body)| readable(&format!("job {id}"), body.as_ref()?)).collect())
    }

    async fn delete_job(&self, id: &str) -> Result<()> {
        let stamp = self.stamp_of(|s| &s.job_stamp, (ONE, id)).await?;
        self.write(|s| &s.drop_job, (stamp, ONE, id)).await
    }

    async fn put_node(&self, row: NodeRow) -> Result<()> {
        let stamp = self.stamp_of(|s| &s.node_stamp, (ONE, &row.id)).await?;
        self.write(|s| &s.put_node, (stamp, json(&row), ONE, &row.id)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>> {
        let rows = self.read::<(String, Option<String>)>(|s| &s.nodes, (ONE,), usize::MAX).await?;
        Ok(rows.iter().filter_map(|(id, body)| readable(&format!("node {id}"), body.as_ref()?)).collect())
    }

    async fn delete_node(&self, id: &str) -> Result<()> {
        if !self.nodes().await?.iter().any(|row| row.id == id) {
            return Err(Error::NotFound);
        }
        let stamp = self.stamp_of(|s| &s.node_stamp, (ONE, id)).await?;
        self.write(|s| &s.drop_node, (stamp, ONE, id)).await
    }

    async fn put_chat(&self, stream: &StreamId, writes: Vec<ChatWrite>) -> Result<()> {
        try_join_all(writes.into_iter().map(|write| self.write_chat(stream, write))).await.map(drop)
    }

    async fn chat(&self, stream: &StreamId, log: &ChatLog, from: EventId, limit: usize) -> Result<Vec<ChatRow>> {
        self.chat_page(stream, log, (from, false), limit).await
    }

    async fn chat_back(&self, stream: &StreamId, log: &ChatLog, before: EventId, limit: usize) -> Result<Vec<ChatRow>> {
        self.chat_page(stream, log, (before, true), limit).await
    }

    async fn chat_rules(&self, stream: &StreamId) -> Result<Vec<(String, String)>> {
        let values = (stream.as_str(),);
        let rows = self.read::<(String, Option<String>)>(|s| &s.chat_rules, values, usize::MAX).await?;
        Ok(rows.into_iter().filter_map(|(name, body)| Some((name, body?))).collect())
    }

    async fn drop_chat(&self, stream: &StreamId, log: &ChatLog) -> Result<()> {
        self.drop_chat_log(stream, log).await
    }

    /// Rows go by their time to live.
    async fn trim_chat(&self, _: EventId) -> Result<()> {
        Ok(())
    }

    async fn put_audience(&self, stream: &StreamId, rows: Vec<AudienceRow>) -> Result<()> {
        try_join_all(rows.iter().map(|row| self.write_audience(stream, row))).await.map(drop)
    }

    async fn audience(
        &self,
        stream: &StreamId,
        span: AudienceSpan,
        between: (UnixMs, UnixMs),
        limit: usize,
    ) -> Result<Vec<AudienceRow>> {
        self.audience_page(stream, span, between, limit).await
    }

    async fn audience_of(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<AudienceRow>> {
        let values = (stream.as_str(), broadcast.as_str());
        let rows = self.read::<(String,)>(|s| &s.audience_of, values, usize::MAX).await?;
        Ok(rows.iter().filter_map(|(body,)| readable(&format!("audience of {stream}/{broadcast}"), body)).collect())
    }

    /// Rows go by their time to live.
    async fn trim_audience(&self, _: UnixMs) -> Result<()> {
        Ok(())
    }
}

impl Scylla {
    /// The buckets in which a broadcast has chunks, in order.
    async fn buckets(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<i64>> {
        let rows = self.read::<(i64,)>(|s| &s.buckets, (stream.as_str(), broadcast.as_str()), usize::MAX).await?;
        Ok(rows.into_iter().map(|row| row.0).collect())
    }

    /// Notes that a bucket has chunks, before its first.
    async fn note_bucket(&self, stream: &StreamId, broadcast: &BroadcastId, bucket: u64) -> Result<()> {
        let key = (stream.clone(), broadcast.clone(), bucket);
        let noted = || self.shared.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted().contains(&key) {
            return Ok(());
        }
        self.write(|s| &s.put_bucket, (stream.as_str(), broadcast.as_str(), bucket as i64)).await?;
        let mut noted = noted();
        if noted.len() >= NOTED_MAX {
            noted.clear();
        }
        noted.insert(key);
        Ok(())
    }

    /// Finds out whether an epoch whose write had no answer, or not the wished one, was taken by it. Where nobody has it, it is
    /// taken once more: that one is applied, or the row says whose it is.
    async fn took_epoch(
        &self,
        stream: &StreamId,
        epoch: u64,
        mine: Uuid,
        batch: &Batch,
        values: &(impl BatchValues + Sync),
    ) -> Result<()> {
        let until = now() + FIND_OUT;
        let mut last = Error::Unavailable("the database did not say what became of it".into());
        while now() < until {
            match self.one::<(Uuid,)>(|s| &s.epoch_writer, (stream.as_str(), epoch as i64)).await {
                Ok(Some((writer,))) if writer == mine => return Ok(()),
                Ok(Some(_)) => return Err(Error::EpochTaken(epoch)),
                Ok(None) => {
                    let connected = self.shared.connected.load_full();
                    match connected.session.batch(batch, values).await {
                        Ok(answer) if applied(&answer)? => return Ok(()),
                        Ok(_) => {}
                        Err(why) => last = self.failed(&connected, why),
                    }
                }
                Err(why) => last = why,
            }
            tokio::time::sleep(FIND_OUT_PAUSE).await;
        }
        Err(last)
    }

    /// A stream's row as conditional writes decided, after one of them had no answer.
    async fn stream_decided(&self, id: &StreamId) -> Result<Option<StreamRow>> {
        let until = now() + FIND_OUT;
        loop {
            let values = (part(id.as_str()), id.as_str());
            match self.body(&format!("stream {id}"), |s| &s.stream_decided, values).await {
                Err(Error::Unavailable(_)) if now() < until => tokio::time::sleep(FIND_OUT_PAUSE).await,
                read => return read,
            }
        }
    }

    /// Reads chunk rows from `bound` on, bucket by bucket, until there are `limit`, and all epochs of the last number.
    async fn page(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        (bound, back): (i64, bool),
        limit: usize,
    ) -> Result<Vec<ChunkRow>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut buckets = self.buckets(stream, broadcast).await?;
        let first = bound / BUCKET as i64;
        buckets.retain(|bucket| if back { *bucket <= first } else { *bucket >= first });
        if back {
            buckets.reverse();
        }
        let (mut found, mut bound) = (Vec::new(), bound);
        let what = |k: i64, epoch: i64| format!("chunk {k} of epoch {epoch} of {stream}/{broadcast}");
        for bucket in buckets {
            // Once more where rows were left out.
            loop {
                let left = limit - found.len();
                let values = (stream.as_str(), broadcast.as_str(), bucket, bound, cql_limit(left));
                let pick: fn(&Statements) -> &_ = if back { |s| &s.chunks_back } else { |s| &s.chunks };
                let mut rows = self.read::<(i64, i64, String)>(pick, values, left).await?;
                let is_full = rows.len() >= left;
                if let Some(last) = rows.last().map(|row| row.0).filter(|_| is_full) {
                    let values = (stream.as_str(), broadcast.as_str(), bucket, last);
                    let mut whole = self.read::<(i64, i64, String)>(|s| &s.chunks_of_k, values, usize::MAX).await?;
                    if back {
                        whole.reverse();
                    }
                    rows.retain(|row| row.0 != last);
                    rows.extend(whole);
                    bound = if back { last } else { last + 1 };
                }
                found.extend(rows.iter().filter_map(|(k, epoch, body)| readable(&what(*k, *epoch), body)));
                if found.len() >= limit {
                    return Ok(found);
                }
                if !is_full {
                    break;
                }
            }
        }
        Ok(found)
    }
}
