//! Who writes in chats: a name that somebody chose, signed with the cluster's own key, so that any node knows it again.

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::id::{StreamId, UserId};

/// How long a name is kept that is not used, seconds: a year.
pub const LIFE: u64 = 365 * 86_400;

/// What the token says. It is no ticket: it names no stream to watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Who this is, for ever.
    pub chat: UserId,
    pub name: String,
    /// The stream's key was shown for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streamer: Option<StreamId>,
    /// A program that writes in this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot: Option<StreamId>,
    /// Expiry, seconds since 1970.
    pub exp: u64,
}

impl Person {
    /// Somebody new.
    pub fn guest(name: String, exp: u64) -> Self {
        let id = format!("g-{}", &Secret::generate().expose()[..12]);
        Self { chat: id.parse().expect("legal letters"), name, streamer: None, bot: None, exp }
    }
}
