//! What was counted, as rows of the store: by minute, by hour, and of a whole broadcast. Pure.
//!
//! A row tells all that one process counted in its span so far, and is written again and again: the same twice is once, and what one
//! node wrote is never changed by another. Readers add the rows of all.

use serde::{Deserialize, Serialize};

use super::{crowd::Crowd, tally::Tally, uniques::Uniques};
use crate::{
    store::{AudienceRow, AudienceSpan},
    time::UnixMs,
};

pub const MINUTE_MS: i64 = 60_000;
pub const HOUR_MS: i64 = 3_600_000;

/// What a row holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Body {
    #[serde(flatten)]
    pub tally: Tally,
    /// Of those who watched the recording.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recorded: bool,
    /// Of a whole broadcast alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uniques: Option<Uniques>,
}

/// The start of the span that a moment is in.
pub fn floor(at: UnixMs, span_ms: i64) -> UnixMs {
    UnixMs(at.0 - at.0.rem_euclid(span_ms))
}

impl Crowd {
    /// Rows of what is not written yet. When a minute is over it is closed first; `closing`: nothing comes after.
    pub(super) fn rows(&self, wall: UnixMs, closing: bool) -> Vec<AudienceRow> {
        let mut rows = Vec::new();
        let mut done = self.done();
        let minute = floor(wall, MINUTE_MS);
        if done.since == UnixMs(0) {
            done.since = minute;
        }
        // A clock that was set back goes on with the minute that it was in.
        let is_over = minute > done.since;
        let since = done.since;
        let row = |span, at, tally, uniques| self.row(span, at, tally, uniques, wall);
        if done.is_new {
            rows.push(row(AudienceSpan::Minute, since, done.minute.clone(), None));
            rows.push(row(AudienceSpan::Hour, floor(since, HOUR_MS), done.with_minute(&done.hour), None));
        }
        // The sketch of who was there is large: once a minute.
        let writes_whole = done.is_whole_new && (is_over || closing);
        if writes_whole {
            let whole = done.with_minute(&done.whole);
            rows.push(row(AudienceSpan::Whole, UnixMs(0), whole, Some(done.uniques.clone())));
        }
        done.is_new = false;
        done.is_whole_new &= !writes_whole;
        if is_over {
            let tally = std::mem::take(&mut done.minute);
            match floor(minute, HOUR_MS) > floor(since, HOUR_MS) {
                true => done.hour = Tally::default(),
                false => done.hour.add(&tally),
            }
            done.whole.add(&tally);
            done.since = minute;
        }
        rows
    }

    fn row(&self, span: AudienceSpan, at: UnixMs, tally: Tally, uniques: Option<Uniques>, made: UnixMs) -> AudienceRow {
        let body = Body { tally, recorded: !self.subject.live, uniques };
        let body = serde_json::to_string(&body).expect("plain data");
        AudienceRow { span, at, broadcast: self.subject.broadcast.clone(), part: self.part.clone(), made, body }
    }

    /// The row of the minute or hour that is counted, as it is now: newer than what is stored of it.
    pub fn newest(&self, span: AudienceSpan, wall: UnixMs) -> Option<AudienceRow> {
        let done = self.done();
        let (at, tally) = match span {
            AudienceSpan::Minute => (done.since, done.minute.clone()),
            AudienceSpan::Hour => (floor(done.since, HOUR_MS), done.with_minute(&done.hour)),
            AudienceSpan::Whole | AudienceSpan::Mark => return None,
        };
        (done.since != UnixMs(0) && !tally.is_empty()).then(|| self.row(span, at, tally, None, wall))
    }
}
