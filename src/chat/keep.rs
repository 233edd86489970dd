//! Keeps what was said while a recorded broadcast ran for as long as its recording: rows of rooms age, and are copied before.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{past, rooms::Places};
use crate::{
    id::{BroadcastId, EventId, StreamId},
    store::{self, BroadcastRow, ChatLog, ChatRow, ChatWrite, Meta},
    time::{UnixMs, unix_now},
};

/// Between two looks at what there is to copy.
const EACH: Duration = Duration::from_secs(60);
/// Rows are copied when they are so old: what waited at some node for a store that was away has come by then.
const SETTLED: Duration = Duration::from_secs(600);
/// Broadcasts, and rows, that are read at a time.
const PAGE: usize = 500;

/// Copies what was said in the rooms that this node hosts.
pub struct Keep {
    meta: Arc<dyn Meta>,
    places: Arc<dyn Places>,
    /// How long rooms' rows are kept; zero: for ever.
    rooms_keep: Duration,
    /// The newest broadcast that is known.
    newest: Option<BroadcastId>,
    /// Those of which something may have to be copied yet.
    open: BTreeMap<BroadcastId, StreamId>,
}

impl Keep {
    pub fn new(meta: Arc<dyn Meta>, places: Arc<dyn Places>, rooms_keep: Duration) -> Self {
        Self { meta, places, rooms_keep, newest: None, open: BTreeMap::new() }
    }

    /// Copies, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut moved = self.places.changes();
        let work = async {
            loop {
                if moved.has_changed().is_ok_and(|changed| changed) {
                    moved.borrow_and_update();
                    // Rooms that others hosted before.
                    self.newest = None;
                }
                let pause = match self.look(unix_now()).await {
                    Ok(()) => EACH,
                    Err(why) => {
                        warn!(%why, "what was said in recorded broadcasts is copied later");
                        SETTLED
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(work).await;
    }

    /// Copies what there is to copy now.
    async fn look(&mut self, now: UnixMs) -> store::Result<()> {
        if self.newest.is_none() {
            // What began before that is gone from its room, unless it runs still.
            let running = self.meta.open_broadcasts().await?;
            self.open.extend(running.into_iter().map(|row| (row.id, row.stream)));
            let keep = self.rooms_keep.as_millis() as i64;
            self.newest = (keep > 0).then(|| BroadcastId::first_at(UnixMs(now.0 - keep)));
        }
        loop {
            let page = self.meta.all_broadcasts(self.newest.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            self.newest = page.last().map(|(id, _)| id.clone()).or(self.newest.take());
            self.open.extend(page);
            self.open.retain(|_, stream| self.places.host(stream).is_none());
            if is_last {
                break;
            }
        }
        for (id, stream) in self.open.clone() {
            if self.copy(&stream, &id, now).await? {
                self.open.remove(&id);
            }
        }
        Ok(())
    }

    /// Copies what is not yet copied of a broadcast; whether that was all.
    async fn copy(&self, stream: &StreamId, id: &BroadcastId, now: UnixMs) -> store::Result<bool> {
        let row = match self.meta.broadcast(stream, id).await {
            Err(store::Error::Damaged(_)) | Ok(None) => return Ok(true),
            row => row?.filter(|row| row.deleted.is_none()),
        };
        let Some(BroadcastRow { started, ended, .. }) = row else { return Ok(true) };
        let settled = UnixMs(now.0 - SETTLED.as_millis() as i64);
        let is_over = ended.is_some_and(|ended| ended <= settled);
        let (begin, end) = past::bounds(started, Some(if is_over { ended.unwrap_or(settled) } else { settled }));
        let [to, marks_to] = ChatLog::kept(id);
        let newest = async |log| Ok(self.meta.chat_back(stream, log, end, 1).await?.first().map(|row| row.id));
        let (kept, said): (Option<EventId>, Option<EventId>) = (newest(&to).await?, newest(&ChatLog::Live).await?);
        if said.is_none_or(|said| said < begin || kept.is_some_and(|kept| kept >= said)) {
            return Ok(is_over);
        }
        let from = kept.map_or(begin, |kept| EventId(kept.0 + 1));
        let rows = self.copy_rows(stream, (&ChatLog::Live, &to), (from, end)).await?;
        self.copy_rows(stream, (&ChatLog::Marks, &marks_to), (begin, end)).await?;
        // It may have been deleted meanwhile.
        let is_there = self.meta.broadcast(stream, id).await?.is_some_and(|row| row.deleted.is_none());
        if !is_there {
            for log in [to, marks_to] {
                self.meta.drop_chat(stream, &log).await?;
            }
        } else if is_over {
            info!(%stream, broadcast = %id, rows, "what was said is kept with the recording");
        }
        Ok(is_over)
    }

    /// Copies the rows of a time from one log to another.
    async fn copy_rows(
        &self,
        stream: &StreamId,
        (from, to): (&ChatLog, &ChatLog),
        (begin, end): (EventId, EventId),
    ) -> store::Result<usize> {
        let (mut begin, mut copied) = (begin, 0);
        loop {
            let page = self.meta.chat(stream, from, begin, PAGE).await?;
            let is_full = page.len() >= PAGE;
            let rows: Vec<_> = page.into_iter().take_while(|row| row.id < end).collect();
            let last = rows.last().map(|row| row.id).filter(|_| is_full && rows.len() >= PAGE);
            copied += rows.len();
            let write = |row: ChatRow| ChatWrite::Row { log: to.clone(), row };
            self.meta.put_chat(stream, rows.into_iter().map(write).collect()).await?;
            match last {
                Some(last) => begin = EventId(last.0 + 1),
                None => return Ok(copied),
            }
        }
    }
}

/// Adds to writes that take messages back the same for the recordings in which these are: their marks do not age.
pub async fn mark_kept(meta: &dyn Meta, stream: &StreamId, writes: &mut Vec<ChatWrite>) {
    let marks = writes.iter().filter_map(|write| match write {
        ChatWrite::Row { log: ChatLog::Marks, row } => Some(row.clone()),
        _ => None,
    });
    for row in marks.collect::<Vec<_>>() {
        let after = BroadcastId::first_at(UnixMs(row.id.at().0 + 1));
        match meta.broadcasts(stream, Some(&after), 1).await {
            Ok(found) => writes.extend(found.into_iter().map(|broadcast| {
                let log = ChatLog::MarksOf(broadcast.id);
                ChatWrite::Row { log, row: row.clone() }
            })),
            Err(why) => warn!(%stream, message = %row.id, %why, "a message may be shown with its recording again"),
        }
    }
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
