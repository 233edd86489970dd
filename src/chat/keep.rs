//! Keeps what was said while a recorded broadcast ran for as long as its recording: rows of rooms age, and are copied before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{past, rooms::Places};
use crate::{
    id::{BroadcastId, EventId, StreamId},
    store::{self, BroadcastRow, ChatLog, ChatRow, ChatWrite, Meta},
    time::{Timestamp, UnixMs, now, unix_now},
};

/// Between two looks at what there is to copy.
const EACH: Duration = Duration::from_secs(60);
/// Rows are copied when they are so old: what waited at some node for a store that was away has come by then.
const SETTLED: Duration = Duration::from_secs(600);
/// Rows of broadcasts come no later than this, be it from a node whose store was away or whose clock is slow.
const LATE: Duration = Duration::from_secs(3600);
/// How often it is tried to take a message back from its recording, one time each minute.
const MARK_TRIES: u32 = 60;
/// Broadcasts, and rows, that are read at a time.
const PAGE: usize = 500;

fn before(now: UnixMs, time: Duration) -> UnixMs {
    UnixMs(now.0 - time.as_millis() as i64)
}

/// Copies what was said in the rooms that this node hosts.
pub struct Keep {
    meta: Arc<dyn Meta>,
    places: Arc<dyn Places>,
    /// How long rooms' rows are kept; zero: for ever.
    rooms_keep: Duration,
    /// The newest broadcast that was looked at.
    newest: Option<BroadcastId>,
    /// Those of which something may have to be copied yet.
    open: BTreeMap<BroadcastId, StreamId>,
    /// Those of which nothing has to be copied any more.
    done: BTreeSet<BroadcastId>,
}

impl Keep {
    pub fn new(meta: Arc<dyn Meta>, places: Arc<dyn Places>, rooms_keep: Duration) -> Self {
        Self { meta, places, rooms_keep, newest: None, open: BTreeMap::new(), done: BTreeSet::new() }
    }

    /// Copies, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut moved = self.places.changes();
        let work = async {
            let mut looked: Option<Timestamp> = None;
            loop {
                // Rooms that others hosted before. It changes with the load, too: all is not looked at each time.
                let is_due = looked.is_none_or(|at| now() - at >= SETTLED);
                if is_due && moved.has_changed().is_ok_and(|changed| changed) {
                    moved.borrow_and_update();
                    (self.newest, looked) = (None, Some(now()));
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
        loop {
            let page = self.meta.all_broadcasts(self.newest.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            self.newest = page.last().map(|(id, _)| id.clone()).or(self.newest.take());
            self.open.extend(page.into_iter().filter(|(id, _)| !self.done.contains(id)));
            self.open.retain(|_, stream| self.places.host(stream).is_none());
            if is_last {
                break;
            }
        }
        // Rows of other nodes may come late.
        self.newest = self.newest.take().min(Some(BroadcastId::first_at(before(now, LATE))));
        for (id, stream) in self.open.clone() {
            match self.copy(&stream, &id, now).await {
                Ok(false) => {}
                Ok(true) => {
                    self.open.remove(&id);
                    self.done.insert(id);
                }
                Err(why @ store::Error::Unavailable(_)) => return Err(why),
                // One that cannot be read holds up none of the others.
                Err(why) => warn!(%stream, broadcast = %id, %why, "what was said in a broadcast cannot be copied"),
            }
        }
        Ok(())
    }

    /// Copies what is not yet copied of a broadcast; whether that was all.
    async fn copy(&self, stream: &StreamId, id: &BroadcastId, now: UnixMs) -> store::Result<bool> {
        let row = match self.meta.broadcast(stream, id).await {
            Err(store::Error::Damaged(_)) => return Ok(true),
            // Its id may be written before it.
            Ok(None) => return Ok(*id < BroadcastId::first_at(before(now, LATE))),
            row => row?.filter(|row| row.deleted.is_none()),
        };
        let Some(BroadcastRow { started, ended, .. }) = row else { return Ok(true) };
        if !self.rooms_keep.is_zero() && ended.is_some_and(|ended| now.since(ended) > self.rooms_keep) {
            // Of this one rooms have nothing any more.
            return Ok(true);
        }
        let settled = before(now, SETTLED);
        let over = ended.filter(|ended| *ended <= settled);
        let is_over = over.is_some();
        let (begin, end) = past::bounds(started, Some(over.unwrap_or(settled)));
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

/// Takes messages back from the recordings in which they are, too, whose marks do not age. Tried until it is done, or for so long
/// that the store will not answer.
pub async fn mark_kept(meta: Arc<dyn Meta>, stream: StreamId, marks: Vec<ChatRow>, stop: CancellationToken) {
    let work = async {
        for _ in 0..MARK_TRIES {
            match mark(&*meta, &stream, &marks).await {
                Ok(()) => return,
                Err(why) => warn!(%stream, %why, "messages are taken back from recordings later"),
            }
            tokio::time::sleep(EACH).await;
        }
        warn!(%stream, marks = marks.len(), "messages that were taken back may be shown with a recording again");
    };
    let _: Option<()> = stop.run_until_cancelled(work).await;
}

async fn mark(meta: &dyn Meta, stream: &StreamId, marks: &[ChatRow]) -> store::Result<()> {
    for row in marks {
        let after = BroadcastId::first_at(UnixMs(row.id.at().0 + 1));
        let found = meta.broadcasts(stream, Some(&after), 1).await?;
        let write = |broadcast: BroadcastRow| ChatWrite::Row { log: ChatLog::MarksOf(broadcast.id), row: row.clone() };
        meta.put_chat(stream, found.into_iter().map(write).collect()).await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
