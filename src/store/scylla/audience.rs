//! Audiences in the database: each row whole, and of two of one name the one that was made later.

use super::{Scylla, cql_limit, json, readable};
use crate::{
    id::StreamId,
    store::{AudienceRow, AudienceSpan, Result},
    time::UnixMs,
};

impl Scylla {
    pub(super) async fn write_audience(&self, stream: &StreamId, row: &AudienceRow) -> Result<()> {
        // One that waited for the database does not take the place of a newer one.
        let (body, stamp, broadcast) = (json(row), row.made.0.saturating_mul(1000), row.broadcast.as_str());
        if row.span == AudienceSpan::Whole {
            let values = (stream.as_str(), broadcast, row.part.as_str(), body, stamp);
            return self.write(|s| &s.put_audience_whole, values).await;
        }
        let (span, bucket) = (row.span.number() as i8, row.span.bucket(row.at));
        let life = i32::try_from(self.shared.settings.audience_keep.as_secs()).unwrap_or(0);
        let values = (stream.as_str(), span, bucket, row.at.0, broadcast, row.part.as_str(), body, stamp, life);
        self.write(|s| &s.put_audience, values).await
    }

    /// Reads rows bucket by bucket.
    pub(super) async fn audience_page(
        &self,
        stream: &StreamId,
        span: AudienceSpan,
        (from, to): (UnixMs, UnixMs),
        limit: usize,
    ) -> Result<Vec<AudienceRow>> {
        let mut found = Vec::new();
        for bucket in span.bucket(from)..=span.bucket(to) {
            let left = limit - found.len();
            if left == 0 {
                break;
            }
            let values = (stream.as_str(), span.number() as i8, bucket, from.0, to.0, cql_limit(left));
            let rows = self.read::<(String,)>(|s| &s.audience, values, left).await?;
            found.extend(rows.iter().filter_map(|(body,)| readable(&format!("audience of {stream}"), body)));
        }
        Ok(found)
    }
}
