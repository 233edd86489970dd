//! Where one chunk meets the next: times are moved so that they only go up.

use super::Sample;

/// Moves the samples of a chunk into the time that the chunks beside it leave to them: decode times from `from.time` to
/// before `until.time`, composition times from `from.shown` to before `until.shown`. Times that lie there already stay;
/// where there is no room, `until` gives way. Two samples are a tick apart at least, in the order that they had.
pub(super) fn fit(samples: &mut [Sample], from: Edge, until: Edge) {
    let mut times: Vec<_> = samples.iter_mut().map(|sample| &mut sample.time).collect();
    squeeze(&mut times, from.time, until.time);
    let mut shown: Vec<_> = samples.iter_mut().map(|sample| &mut sample.shown).collect();
    shown.sort();
    squeeze(&mut shown, from.shown, until.shown);
    let mut next = until.time;
    for sample in samples.iter_mut().rev() {
        let until_next = u32::try_from(next.saturating_sub(sample.time).max(1)).unwrap_or(u32::MAX);
        sample.duration = sample.duration.min(until_next);
        next = sample.time;
    }
}

/// Where the time of one chunk borders on another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub time: i64,
    pub shown: i64,
}

impl Edge {
    /// No chunk before.
    pub const FIRST: Self = Self { time: i64::MIN, shown: i64::MIN };
    /// No chunk after.
    pub const LAST: Self = Self { time: i64::MAX, shown: i64::MAX };

    /// Where a chunk starts; nothing for one without samples.
    pub fn start(samples: &[Sample]) -> Option<Self> {
        let shown = samples.iter().map(|sample| sample.shown).min()?;
        Some(Self { time: samples.first()?.time, shown })
    }

    /// The first times after those of a chunk's samples.
    pub fn after(samples: &[Sample]) -> Option<Self> {
        let shown = samples.iter().map(|sample| sample.shown).max()?;
        Some(Self { time: samples.last()?.time + 1, shown: shown + 1 })
    }
}

fn squeeze(times: &mut [&mut i64], from: i64, until: i64) {
    let (mut earliest, mut left) = (from, times.len() as i64);
    for time in times {
        **time = (**time).min(until.saturating_sub(left)).max(earliest);
        earliest = time.saturating_add(1);
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(time: i64, shown: i64) -> Sample {
        Sample { time, shown, duration: 10, at: 0, size: 1, sync: true }
    }

    fn times(samples: &[Sample]) -> Vec<(i64, i64, u32)> {
        samples.iter().map(|sample| (sample.time, sample.shown, sample.duration)).collect()
    }

    #[test]
    fn times_with_room_stay() {
        let mut samples = [sample(0, 0), sample(10, 30), sample(20, 10), sample(30, 20)];
        let before = samples.clone();
        fit(&mut samples, Edge::FIRST, Edge::LAST);
        fit(&mut samples, Edge { time: 0, shown: 0 }, Edge { time: 40, shown: 40 });
        assert_eq!(samples, before);
    }

    #[test]
    fn an_early_next_chunk_shortens_the_last_sample() {
        let mut samples = [sample(0, 0), sample(10, 10), sample(20, 20)];
        fit(&mut samples, Edge::FIRST, Edge { time: 25, shown: 25 });
        assert_eq!(times(&samples), [(0, 0, 10), (10, 10, 10), (20, 20, 5)]);
        // B-frames: the order of presentation is kept, not that of decoding.
        let mut samples = [sample(0, 0), sample(10, 30), sample(20, 10), sample(30, 20)];
        fit(&mut samples, Edge::FIRST, Edge { time: 15, shown: 15 });
        assert_eq!(times(&samples), [(0, 0, 10), (10, 14, 3), (13, 10, 1), (14, 13, 1)]);
    }

    #[test]
    fn without_room_the_next_chunk_gives_way() {
        let mut samples = [sample(100, 100), sample(110, 110)];
        fit(&mut samples, Edge::FIRST, Edge { time: 101, shown: 101 });
        assert_eq!(times(&samples), [(99, 99, 1), (100, 100, 1)]);
        let mut samples = [sample(100, 100), sample(110, 110), sample(120, 120)];
        fit(&mut samples, Edge { time: 100, shown: 100 }, Edge { time: 101, shown: 101 });
        assert_eq!(times(&samples), [(100, 100, 1), (101, 101, 1), (102, 102, 1)]);
        let mut next = [sample(101, 101), sample(111, 111), sample(121, 121)];
        fit(&mut next, Edge::after(&samples).unwrap(), Edge::LAST);
        assert_eq!(times(&next), [(103, 103, 8), (111, 111, 10), (121, 121, 10)]);
    }

    proptest! {
        /// Whatever comes, times go up; where there is room they end before the next chunk.
        #[test]
        fn times_go_up(
            samples in prop::collection::vec((0i64..50, -5i64..5), 1..20), from in 0i64..50, length in 0i64..50,
        ) {
            let mut samples: Vec<_> = samples.into_iter().map(|(time, offset)| sample(time, time + offset)).collect();
            samples.sort_by_key(|sample| sample.time);
            let until = from + length;
            fit(&mut samples, Edge { time: from, shown: from }, Edge { time: until, shown: until });
            let mut shown: Vec<_> = samples.iter().map(|sample| sample.shown).collect();
            shown.sort();
            let end = until.max(from + samples.len() as i64);
            for all in [samples.iter().map(|sample| sample.time).collect(), shown] {
                prop_assert!(all[0] >= from && all[all.len() - 1] < end, "{all:?}");
                prop_assert!(all.windows(2).all(|two| two[0] < two[1]), "{all:?}");
            }
            prop_assert!(samples.windows(2).all(|two| two[0].time + i64::from(two[0].duration) <= two[1].time));
        }
    }
}
