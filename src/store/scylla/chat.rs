//! Chats in the database: rows in partitions of ten minutes, and a note of each that has any, so that quiet times cost nothing.

use std::sync::PoisonError;

use futures::future::try_join_all;
use scylla::statement::prepared::PreparedStatement;

use super::{Scylla, cql_limit, statements::Statements};
use crate::{
    id::{EventId, StreamId},
    store::{ChatLog, ChatRow, ChatWrite, Result, chat_bucket},
};

/// Buckets that are known to be noted, before the set is begun anew.
const NOTED_MAX: usize = 100_000;
/// A note outlives the rows of its bucket, seconds.
const LONGER: i32 = 86_400;
/// Notes that are read at a time: five hours of a room that is never quiet.
const NOTES: usize = 32;

type Pick = fn(&Statements) -> &PreparedStatement;

impl Scylla {
    pub(super) async fn write_chat(&self, stream: &StreamId, write: ChatWrite) -> Result<()> {
        match write {
            ChatWrite::Row { log, row } => {
                let bucket = chat_bucket(row.id);
                self.note_chat(stream, &log, bucket).await?;
                let pick: Pick = if log.ages() { |s| &s.put_chat } else { |s| &s.put_chat_kept };
                let values =
                    (stream.as_str(), log.to_string(), bucket as i64, number(row.id), row.body, self.chat_life(&log));
                self.write(pick, values).await
            }
            ChatWrite::Rule { name, body } => {
                let stamp = self.stamp_of(|s| &s.chat_rule_stamp, (stream.as_str(), &name)).await?;
                self.write(|s| &s.put_chat_rule, (stamp, body, stream.as_str(), &name)).await
            }
        }
    }

    /// Seconds that a row of a log is kept; 0: as long as nobody deletes it.
    fn chat_life(&self, log: &ChatLog) -> i32 {
        let keep = self.shared.settings.chat_keep.as_secs();
        if log.ages() { i32::try_from(keep).unwrap_or(0) } else { 0 }
    }

    async fn note_chat(&self, stream: &StreamId, log: &ChatLog, bucket: u64) -> Result<()> {
        let key = (stream.clone(), log.to_string(), bucket);
        let noted = || self.shared.noted_chats.lock().unwrap_or_else(PoisonError::into_inner);
        if noted().contains(&key) {
            return Ok(());
        }
        let life = Some(self.chat_life(log)).filter(|life| *life > 0).map_or(0, |life| life.saturating_add(LONGER));
        self.write(|s| &s.put_chat_bucket, (stream.as_str(), &key.1, bucket as i64, life)).await?;
        let mut noted = noted();
        if noted.len() >= NOTED_MAX {
            noted.clear();
        }
        noted.insert(key);
        Ok(())
    }

    /// Buckets of a log from one on, or back from it.
    async fn chat_buckets(&self, stream: &StreamId, log: &str, (bound, back): (i64, bool)) -> Result<Vec<i64>> {
        let pick: Pick = if back { |s| &s.chat_buckets_back } else { |s| &s.chat_buckets };
        let values = (stream.as_str(), log, bound, cql_limit(NOTES));
        Ok(self.read::<(i64,)>(pick, values, NOTES).await?.into_iter().map(|row| row.0).collect())
    }

    /// Reads rows from `bound` on, or back from before it, bucket by bucket.
    pub(super) async fn chat_page(
        &self,
        stream: &StreamId,
        log: &ChatLog,
        (bound, back): (EventId, bool),
        limit: usize,
    ) -> Result<Vec<ChatRow>> {
        let pick: Pick = match (log.ages(), back) {
            (true, false) => |s| &s.chat,
            (true, true) => |s| &s.chat_back,
            (false, false) => |s| &s.chat_kept,
            (false, true) => |s| &s.chat_kept_back,
        };
        let (name, mut next, bound) = (log.to_string(), chat_bucket(bound) as i64, number(bound));
        let mut found = Vec::new();
        loop {
            let buckets = self.chat_buckets(stream, &name, (next, back)).await?;
            for bucket in &buckets {
                let left = limit - found.len();
                if left == 0 {
                    return Ok(found);
                }
                let values = (stream.as_str(), &name, *bucket, bound, cql_limit(left));
                let rows = self.read::<(i64, String)>(pick, values, left).await?;
                found.extend(rows.into_iter().map(|(id, body)| ChatRow { id: EventId(id as u64), body }));
            }
            match buckets.last().filter(|_| buckets.len() >= NOTES) {
                Some(last) => next = if back { last - 1 } else { last + 1 },
                None => return Ok(found),
            }
        }
    }

    pub(super) async fn drop_chat_log(&self, stream: &StreamId, log: &ChatLog) -> Result<()> {
        let pick: Pick = if log.ages() { |s| &s.drop_chat } else { |s| &s.drop_chat_kept };
        let (name, mut next) = (log.to_string(), 0);
        loop {
            let buckets = self.chat_buckets(stream, &name, (next, false)).await?;
            try_join_all(buckets.iter().map(|bucket| self.write(pick, (stream.as_str(), &name, *bucket)))).await?;
            match buckets.last().filter(|_| buckets.len() >= NOTES) {
                Some(last) => next = last + 1,
                None => break,
            }
        }
        self.write(|s| &s.drop_chat_buckets, (stream.as_str(), &name)).await?;
        // Whoever writes there again notes it again.
        let mut noted = self.shared.noted_chats.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|(of, log, _)| of != stream || *log != name);
        Ok(())
    }
}

/// An id as a column holds it: those of after the year 2094 have no place there.
fn number(id: EventId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}
