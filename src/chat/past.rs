//! What was said before, as it is shown later: from the store, without what was taken back.
//!
//! A room's rows age; those of a recorded broadcast are copied before ([`super::keep`]). Until they are, and where a recording's are
//! read while its broadcast runs, both logs are read as one: what lies in both has one id.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    event::{Event, Message},
    known::Known,
    room::PURGED,
};
use crate::{
    id::{EventId, StreamId, UserId},
    store::{self, BroadcastRow, ChatLog, ChatRow, Meta},
    time::UnixMs,
};

/// Rows that are read at least at a time, as some of them may be hidden.
const ROWS: usize = 50;
/// Pages of rows that are read for one of messages: beyond it, all that moderators did is passed over another time.
const PAGES: usize = 20;

/// From where messages are read, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Those before it, the newest first.
    Before(EventId),
    /// Those after it, the oldest first.
    After(EventId),
}

/// Messages, and from where to go on; nothing where there are no more.
#[derive(Debug, Default)]
pub struct Page {
    pub messages: Vec<Message>,
    pub next: Option<EventId>,
}

/// See the module.
pub struct Past<'a> {
    meta: &'a dyn Meta,
    stream: &'a StreamId,
    rows: Vec<ChatLog>,
    marks: Vec<ChatLog>,
    /// The first event that belongs to it, and the first one after.
    bounds: (EventId, EventId),
    known: Known,
    /// Until which event nothing of a user is shown.
    purged: HashMap<UserId, EventId>,
}

impl<'a> Past<'a> {
    /// All that is there of a room.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn of_room(meta: &'a dyn Meta, stream: &'a StreamId) -> store::Result<Self> {
        let bounds = (EventId(0), EventId::MAX);
        Self::read(meta, stream, vec![ChatLog::Live], vec![ChatLog::Marks], bounds).await
    }

    /// What was said while a broadcast ran.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn of_broadcast(meta: &'a dyn Meta, row: &'a BroadcastRow) -> store::Result<Self> {
        let [rows, marks] = ChatLog::kept(&row.id);
        let (rows, marks) = (vec![rows, ChatLog::Live], vec![marks, ChatLog::Marks]);
        Self::read(meta, &row.stream, rows, marks, bounds(row.started, row.ended)).await
    }

    async fn read(
        meta: &'a dyn Meta,
        stream: &'a StreamId,
        rows: Vec<ChatLog>,
        marks: Vec<ChatLog>,
        bounds: (EventId, EventId),
    ) -> store::Result<Self> {
        let rules = meta.chat_rules(stream).await?;
        let purge = |(name, body): &(String, String)| {
            Some((name.strip_prefix(PURGED)?.parse().ok()?, serde_json::from_str(body).ok()?))
        };
        let (known, purged) = (Known::of(&rules), rules.iter().filter_map(purge).collect());
        Ok(Self { meta, stream, rows, marks, bounds, known, purged })
    }

    /// What counts in the room now.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// At most `limit` messages.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn page(&self, from: From, limit: usize) -> store::Result<Page> {
        let (mut page, mut from, lot) = (Page::default(), from, limit.max(ROWS));
        for _ in 0..PAGES {
            let rows = self.rows(&self.rows, from, lot).await?;
            let is_last = rows.len() < lot;
            let hidden = self.hidden(&rows).await?;
            for row in rows {
                from = match from {
                    From::Before(_) => From::Before(row.id),
                    From::After(_) => From::After(row.id),
                };
                let Ok(Event::Message(message)) = serde_json::from_str(&row.body) else { continue };
                let is_purged = self.purged.get(&message.user).is_some_and(|until| row.id <= *until);
                if is_purged || hidden.contains(&row.id) {
                    continue;
                }
                page.messages.push(message);
                if page.messages.len() >= limit {
                    page.next = Some(from.id());
                    return Ok(page);
                }
            }
            if is_last {
                return Ok(page);
            }
        }
        page.next = Some(from.id());
        Ok(page)
    }

    /// Rows of some logs as if they were one.
    async fn rows(&self, logs: &[ChatLog], from: From, limit: usize) -> store::Result<Vec<ChatRow>> {
        let (begin, end) = self.bounds;
        let mut all = BTreeMap::new();
        for log in logs {
            let rows = match from {
                From::Before(id) => self.meta.chat_back(self.stream, log, id.min(end), limit).await?,
                From::After(id) => {
                    let first = EventId(id.0.saturating_add(1)).max(begin);
                    self.meta.chat(self.stream, log, first, limit).await?
                }
            };
            all.extend(rows.into_iter().map(|row| (row.id, row)));
        }
        let inside = all.into_values().filter(|row| row.id >= begin && row.id < end);
        Ok(match from {
            From::Before(_) => inside.rev().take(limit).collect(),
            From::After(_) => inside.take(limit).collect(),
        })
    }

    /// Which of these rows were taken back.
    async fn hidden(&self, rows: &[ChatRow]) -> store::Result<BTreeSet<EventId>> {
        let ids = || rows.iter().map(|row| row.id);
        let (Some(oldest), Some(newest)) = (ids().min(), ids().max()) else { return Ok(BTreeSet::new()) };
        let (mut hidden, mut from) = (BTreeSet::new(), EventId(oldest.0.saturating_sub(1)));
        loop {
            let marks = self.rows(&self.marks, From::After(from), rows.len()).await?;
            let last = marks.last().map(|mark| mark.id).filter(|last| *last < newest && marks.len() >= rows.len());
            hidden.extend(marks.into_iter().map(|mark| mark.id));
            match last {
                Some(last) => from = last,
                None => return Ok(hidden),
            }
        }
    }
}

impl From {
    fn id(self) -> EventId {
        match self {
            From::Before(id) | From::After(id) => id,
        }
    }
}

/// The events of a time, as the first one and the first one after; without an end, all that follow.
pub fn bounds(started: UnixMs, ended: Option<UnixMs>) -> (EventId, EventId) {
    let end = ended.map_or(EventId::MAX, |ended| EventId::first_at(UnixMs(ended.0.saturating_add(1))));
    (EventId::first_at(started), end)
}
