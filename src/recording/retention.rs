//! Which recordings have been kept long enough. Pure: the date is an argument.

use crate::{id::BroadcastId, line::Keep, time::UnixMs};

/// An ended broadcast, as it counts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: BroadcastId,
    pub ended: UnixMs,
    pub bytes: u64,
    pub keep: Keep,
}

/// The recordings that are to be deleted, of `all`, oldest first: those whose time is over, and the oldest of the rest while
/// there are more than `bytes_max` bytes (zero: no bound).
pub fn over(all: &[Candidate], bytes_max: u64, today: UnixMs) -> Vec<BroadcastId> {
    let is_over = |one: &Candidate| matches!(one.keep, Keep::For(time) if today.since(one.ended) >= time);
    let mut bytes: u64 = all.iter().filter(|one| !is_over(one)).map(|one| one.bytes).sum();
    let mut over = Vec::new();
    for one in all {
        if is_over(one) {
            over.push(one.id.clone());
        } else if bytes_max > 0 && bytes > bytes_max {
            bytes -= one.bytes;
            over.push(one.id.clone());
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: i64 = 86_400_000;

    fn candidate(n: i64, keep: &str, bytes: u64) -> Candidate {
        let id = BroadcastId::new(&format!("b{n}")).unwrap();
        Candidate { id, ended: UnixMs(n * DAY), bytes, keep: keep.parse().unwrap() }
    }

    fn names(over: Vec<BroadcastId>) -> Vec<String> {
        over.into_iter().map(|id| id.to_string()).collect()
    }

    #[test]
    fn time_that_is_over_is_over_to_the_millisecond() {
        let all = [candidate(1, "30d", 1), candidate(2, "forever", 1), candidate(3, "0", 1), candidate(4, "1d", 1)];
        assert_eq!(names(over(&all, 0, UnixMs(4 * DAY))), ["b3"]);
        assert_eq!(names(over(&all, 0, UnixMs(5 * DAY - 1))), ["b3"]);
        assert_eq!(names(over(&all, 0, UnixMs(5 * DAY))), ["b3", "b4"]);
        assert_eq!(names(over(&all, 0, UnixMs(31 * DAY))), ["b1", "b3", "b4"]);
    }

    #[test]
    fn over_the_budget_the_oldest_go() {
        let all: Vec<_> = (1..=5).map(|n| candidate(n, "forever", 10)).collect();
        let today = UnixMs(9 * DAY);
        assert!(over(&all, 0, today).is_empty() && over(&all, 50, today).is_empty());
        assert_eq!(names(over(&all, 49, today)), ["b1"]);
        assert_eq!(names(over(&all, 25, today)), ["b1", "b2", "b3"]);
        assert_eq!(over(&all, 1, today).len(), 5);
        // What goes by its time makes room.
        let mut all = all;
        all[4].keep = Keep::For(Duration::ZERO);
        assert_eq!(names(over(&all, 40, today)), ["b5"]);
    }
}
