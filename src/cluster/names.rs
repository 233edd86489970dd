//! Under which epochs' names viewers were shown the chunks of a session. Pure.
//!
//! A listed chunk keeps its name (RFC 8216 section 6.2.1): the node that takes over names what viewers have seen as the one
//! before it did, whatever epoch it is recorded in.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Changes of name that are remembered: more than nodes can be lost while one window is shown.
const KEPT: usize = 16;

/// See the module: chunk numbers from which on an epoch gave the names, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Names(VecDeque<(u64, u64)>);

impl Names {
    /// Chunks from this number on are listed by an epoch.
    pub fn list(&mut self, from: u64, epoch: u64) {
        if self.0.back().is_none_or(|(_, last)| *last != epoch) {
            self.0.push_back((from, epoch));
        }
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// The epochs that gave the names of these chunks, as far as is known.
    pub fn of(&self, numbers: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u64> {
        let name = |k: u64| self.0.iter().rev().find(|(from, _)| *from <= k).map(|(_, epoch)| (k, *epoch));
        numbers.into_iter().filter_map(name).collect()
    }

    /// The newest epoch that is known to have listed anything.
    pub fn newest(&self) -> Option<u64> {
        self.0.iter().map(|(_, epoch)| *epoch).max()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_the_name_of_the_epoch_that_listed_it() {
        let mut names = Names::default();
        for (from, epoch) in [(5, 1), (6, 1), (9, 3), (10, 3), (11, 4)] {
            names.list(from, epoch);
        }
        let want = [(5, 1), (6, 1), (7, 1), (8, 1), (9, 3), (10, 3), (11, 4), (12, 4)];
        assert_eq!(names.of(3..=12), want.into());
        assert_eq!(names.newest(), Some(4));
        assert_eq!(serde_json::to_string(&names).unwrap(), "[[5,1],[9,3],[11,4]]");
        (0..100).for_each(|n| names.list(n, n));
        assert_eq!(names.0.len(), KEPT);
    }
}
