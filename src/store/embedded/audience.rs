//! Audiences in the embedded store: rows under keys that hold their span, time and process.

use super::{
    Embedded,
    chat::some_keys,
    keys::{self, Space},
    put,
    writer::Check,
};
use crate::{
    id::StreamId,
    store::{AudienceRow, AudienceSpan, Result},
    time::UnixMs,
};

impl Embedded {
    pub(super) async fn write_audience(&self, stream: &StreamId, rows: Vec<AudienceRow>) -> Result<()> {
        let rows = rows.iter().map(|row| put(Space::Audience, keys::audience(stream, row), row));
        self.write(Check::Nothing, rows.collect(), false).await
    }

    /// Deletes the rows that have a time before a moment, stream after stream.
    pub(super) async fn trim_audiences(&self, before: UnixMs) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let begin = from.clone();
            let first =
                self.read(move |db| Ok(some_keys(db, Space::Audience, begin..vec![u8::MAX])?.into_iter().next()));
            let Some(stream) = first.await?.and_then(|key| keys::audience_stream(&key)) else { return Ok(()) };
            for span in [AudienceSpan::Minute, AudienceSpan::Hour, AudienceSpan::Mark] {
                self.drop_rows(Space::Audience, keys::audiences(&stream, span, UnixMs(0), before)).await?;
            }
            from = keys::after_audience(&stream);
        }
    }
}
