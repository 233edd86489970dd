//! Milliseconds that wrap, made into times that do not; and what the times of video frames say about their pace.

/// OBS sends 31 bits, others 32. Counting in the smaller ring is right for both, as one is a multiple of the other.
const RING: i64 = 1 << 31;

/// Ticks of video time per millisecond.
pub(super) const TICKS: i64 = 90;

/// Unwraps the times of all tracks of a session with one memory, so that they stay comparable.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: Option<i64>,
}

impl Clock {
    /// Gives the time nearest to the one before that is equal to `time_ms` modulo 2^31.
    pub fn unwrap(&mut self, time_ms: u32) -> i64 {
        let time = match self.last {
            None => i64::from(time_ms),
            Some(last) => {
                let ahead = (i64::from(time_ms) - last).rem_euclid(RING);
                last + if ahead < RING / 2 { ahead } else { ahead - RING }
            }
        };
        self.last = Some(time);
        time
    }
}

/// Follows the decode times of one video track.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last_ms: Option<i64>,
    last_dts: Option<i64>,
    /// How far decode times are moved back, in ms: as much as the most negative composition offset seen. Without it a
    /// frame would be shown before it is decoded.
    lag: i64,
    /// The last distances between frames in ms, newest first.
    intervals: Vec<i64>,
}

/// A frame's times in ticks of the session's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub pts: i64,
    pub dts: i64,
    /// Time since the frame before, in ms.
    pub gap_ms: i64,
}

/// Composition offsets outside of this, in ms, are garbage: ten frames of reordering at one frame per second.
const COMPOSITION_MS: (i64, i64) = (-1000, 10_000);
/// Distances the median is taken of: enough to outvote two gaps in a row.
const INTERVALS: usize = 5;

impl Pace {
    /// Stamps the next frame in decode order: dts strictly increasing, pts never before dts.
    pub fn stamp(&mut self, ms: i64, composition_ms: i32) -> Stamp {
        let composition = i64::from(composition_ms).clamp(COMPOSITION_MS.0, COMPOSITION_MS.1);
        self.lag = self.lag.max(-composition);
        let gap_ms = self.last_ms.map_or(0, |last| ms - last);
        if gap_ms > 0 {
            self.intervals.insert(0, gap_ms);
            self.intervals.truncate(INTERVALS);
        }
        let mut dts = (ms - self.lag) * TICKS;
        if let Some(last) = self.last_dts {
            dts = dts.max(last + 1);
        }
        (self.last_ms, self.last_dts) = (Some(ms), Some(dts));
        Stamp { pts: ((ms + composition) * TICKS).max(dts), dts, gap_ms }
    }

    /// Forgets where the clock was, keeps what was learned of the encoder.
    pub fn jump(&mut self) {
        (self.last_ms, self.last_dts) = (None, None);
    }

    pub fn last_ms(&self) -> Option<i64> {
        self.last_ms
    }

    /// Gives the usual distance between frames in ticks: the median of the last few, so that one dropped frame does not
    /// look like a lower frame rate; 1/30 s before the second frame.
    pub fn interval(&self) -> i64 {
        let mut sorted = self.intervals.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or(3000, |ms| ms * TICKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_wraps_are_invisible() {
        for ring in [1u64 << 31, 1 << 32] {
            for start in [0xff_ffff - 1000u64, (1 << 31) - 1000, (1 << 32) - 1000, 0] {
                let mut clock = Clock::default();
                let first = clock.unwrap((start % ring) as u32);
                for step in (0..10_000u64).step_by(33) {
                    assert_eq!(clock.unwrap(((start + step) % ring) as u32) - first, step as i64);
                }
            }
        }
    }

    #[test]
    fn interleaved_tracks_may_straddle_the_wrap() {
        let mut clock = Clock::default();
        let times: Vec<i64> = [0x7fff_fff0, 5, 0x7fff_fffa, 15].map(|t| clock.unwrap(t)).into();
        assert_eq!(times, [0x7fff_fff0, 0x8000_0005, 0x7fff_fffa, 0x8000_000f]);
    }

    #[test]
    fn decode_times_increase_whatever_comes() {
        let mut pace = Pace::default();
        let mut last = i64::MIN;
        for (ms, composition) in [(0, 0), (33, 0), (33, -40), (20, 66), (67, i32::MAX), (68, i32::MIN), (100, 0)] {
            let stamp = pace.stamp(ms, composition);
            assert!(stamp.dts > last && stamp.pts >= stamp.dts, "{stamp:?}");
            last = stamp.dts;
        }
    }

    #[test]
    fn a_gap_does_not_change_the_interval() {
        let mut pace = Pace::default();
        for ms in [0, 33, 67, 100, 700, 733] {
            pace.stamp(ms, 0);
        }
        assert_eq!(pace.interval(), 33 * TICKS);
    }
}
