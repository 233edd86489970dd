//! Rows that wait to be stored: the newest of each, so that a store that is away for long costs a row for each minute and no more.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    id::{BroadcastId, StreamId},
    store::{AudienceRow, AudienceSpan},
    time::UnixMs,
};

/// Rows that wait; over it the oldest minutes go first: hours and wholes tell of them too.
const ROWS_MAX: usize = 50_000;

type Name = (AudienceSpan, UnixMs, StreamId, BroadcastId, String);

/// See the module.
#[derive(Default)]
pub struct Pending(Mutex<BTreeMap<Name, AudienceRow>>);

impl Pending {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<Name, AudienceRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds rows, each in the place of one that was made before.
    pub fn add(&self, rows: impl IntoIterator<Item = (StreamId, AudienceRow)>) {
        let mut waiting = self.rows();
        for (stream, row) in rows {
            let name = (row.span, row.at, stream, row.broadcast.clone(), row.part.clone());
            if waiting.get(&name).is_none_or(|known| known.made <= row.made) {
                waiting.insert(name, row);
            }
        }
        let mut lost = 0;
        while waiting.len() > ROWS_MAX {
            waiting.pop_first();
            lost += 1;
        }
        if lost > 0 {
            metrics::counter!("weir_audience_rows_dropped_total").increment(lost);
        }
    }

    /// Takes the oldest, at most so many.
    pub fn take(&self, most: usize) -> Vec<(StreamId, AudienceRow)> {
        let mut waiting = self.rows();
        let next = || waiting.pop_first().map(|((_, _, stream, ..), row)| (stream, row));
        std::iter::from_fn(next).take(most).collect()
    }
}
