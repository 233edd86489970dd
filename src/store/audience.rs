//! Rows of audiences: what viewers did, as one process counted it in a span of time.

use serde::{Deserialize, Serialize};

use crate::{id::BroadcastId, time::UnixMs};

/// What a row of an audience is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AudienceSpan {
    Minute,
    Hour,
    /// All of a broadcast: without a time.
    Whole,
    /// A moment that somebody gave a name.
    Mark,
}

impl AudienceSpan {
    /// Its number in keys.
    pub fn number(self) -> u8 {
        match self {
            AudienceSpan::Minute => 1,
            AudienceSpan::Hour => 2,
            AudienceSpan::Whole => 3,
            AudienceSpan::Mark => 4,
        }
    }

    /// The partition of a row: a day of minutes, a month of what is rare.
    pub fn bucket(self, at: UnixMs) -> i64 {
        const DAY_MS: i64 = 86_400_000;
        match self {
            AudienceSpan::Minute => at.0.div_euclid(DAY_MS),
            AudienceSpan::Hour | AudienceSpan::Mark => at.0.div_euclid(DAY_MS * 30),
            AudienceSpan::Whole => 0,
        }
    }
}

/// One row. It is written again as it grows, by the process that began it alone; the one that was made later counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudienceRow {
    pub span: AudienceSpan,
    /// The start of its span.
    pub at: UnixMs,
    pub broadcast: BroadcastId,
    /// Tells the process, and which of its counts.
    pub part: String,
    pub made: UnixMs,
    /// What was counted, as JSON that stores do not look into.
    pub body: String,
}
