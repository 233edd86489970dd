//! Rows of chats: what was said in a stream's room, and what counts there.
//!
//! Rows lie in logs, by the id of an event, which holds its time; nothing is ever written over. What is decided later of a
//! message (it was deleted) lies in a log of its own under the message's id.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BroadcastId, EventId};

/// Which rows of a stream's chat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatLog {
    /// All that everybody in the room was told, for as long as chats are kept.
    Live,
    /// What was decided later of messages, under their ids; as long as those.
    Marks,
    /// What only moderators are told; as long as those.
    Staff,
    /// What the stream played, and when; as long as those.
    Now,
    /// What was said while a broadcast ran; as long as that is recorded.
    Of(BroadcastId),
    /// The marks of those.
    MarksOf(BroadcastId),
}

impl ChatLog {
    /// Those that are kept with a recording, and go with it.
    pub fn kept(broadcast: &BroadcastId) -> [ChatLog; 2] {
        [ChatLog::Of(broadcast.clone()), ChatLog::MarksOf(broadcast.clone())]
    }

    /// Whether its rows go when they are old.
    pub fn ages(&self) -> bool {
        !matches!(self, ChatLog::Of(_) | ChatLog::MarksOf(_))
    }
}

impl fmt::Display for ChatLog {
    /// Its name in keys, of which none begins another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatLog::Live => f.write_str("live"),
            ChatLog::Marks => f.write_str("marks"),
            ChatLog::Staff => f.write_str("staff"),
            ChatLog::Now => f.write_str("now"),
            ChatLog::Of(broadcast) => write!(f, "of/{broadcast}"),
            ChatLog::MarksOf(broadcast) => write!(f, "marks-of/{broadcast}"),
        }
    }
}

/// One row of a log. The body is JSON that stores do not look into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRow {
    pub id: EventId,
    pub body: String,
}

/// What is written of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatWrite {
    /// A row; the same again is the same row.
    Row { log: ChatLog, row: ChatRow },
    /// What counts in the room under this name, in the place of what was written before; nothing: no more. There are few.
    Rule { name: String, body: Option<String> },
}

/// Seconds of one partition: at 200 messages a second one has 120,000 rows, some 30 MB.
const BUCKET_MS: u64 = 600_000;

/// The partition of an event.
pub fn chat_bucket(id: EventId) -> u64 {
    id.ms() / BUCKET_MS
}
