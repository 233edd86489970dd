//! Audio times: samples are counted, milliseconds only tell when counting has gone wrong.

use crate::media::AudioConfig;

/// Counts the samples of one epoch. Times are in samples on the broadcast's timeline.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    frame_len: i64,
    sample_rate: i64,
    next: i64,
    /// Frames are dropped until their time has come up to `next`.
    catching_up: bool,
    /// The smallest and largest error of the current window, and how many frames it has.
    window: (i64, i64, u32),
}

/// What is to be done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It starts at `pts`; `skipped` samples before it are missing.
    At { pts: i64, skipped: i64 },
    /// It is a time that was already played. `first` of a run of such frames.
    Drop { first: bool },
}

/// A step of more than this is a real gap and not jitter, and taken at once.
pub(super) const SUDDEN_MS: i64 = 150;
/// Lip sync suffers from about 45 ms (ITU-R BT.1359); corrected before it is noticed, yet above the jitter of ms times.
const DRIFT_MS: i64 = 50;
/// About a second: an error that every frame of a window shows is not jitter and not a burst.
const WINDOW: u32 = 50;
const FRESH: (i64, i64, u32) = (i64::MAX, i64::MIN, 0);

impl Counter {
    /// Starts counting with a frame at `first`.
    pub fn new(config: &AudioConfig, first: i64) -> Self {
        Self {
            frame_len: i64::from(config.frame_len),
            sample_rate: i64::from(config.sample_rate),
            next: first,
            catching_up: false,
            window: FRESH,
        }
    }

    /// Gives the end of the last frame.
    pub fn end(&self) -> i64 {
        self.next
    }

    /// Places the next frame, whose milliseconds say that it starts at `told`.
    pub fn place(&mut self, told: i64) -> Place {
        let error = told - self.next;
        let samples = |ms: i64| ms * self.sample_rate / 1000;
        if self.catching_up && error < -self.frame_len / 2 {
            return Place::Drop { first: false };
        }
        self.catching_up = false;
        if error < -samples(SUDDEN_MS) {
            (self.catching_up, self.window) = (true, FRESH);
            return Place::Drop { first: true };
        }
        let mut skipped = 0;
        if error > samples(SUDDEN_MS) {
            (skipped, self.window) = (error, FRESH);
        } else {
            let (least, most, frames) = self.window;
            let (least, most) = (least.min(error), most.max(error));
            self.window = (least, most, frames + 1);
            if self.window.2 == WINDOW {
                self.window = FRESH;
                if least > samples(DRIFT_MS) {
                    skipped = least;
                } else if most < -samples(DRIFT_MS) {
                    // One frame in a window is the smallest glitch that brings it back.
                    return Place::Drop { first: true };
                }
            }
        }
        let pts = self.next + skipped;
        self.next = pts + self.frame_len;
        Place::At { pts, skipped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(sample_rate: u32, frame_len: u32) -> AudioConfig {
        AudioConfig { asc: Default::default(), object_type: 2, sample_rate, channels: 2, frame_len }
    }

    /// Runs `hours` of audio whose clock is off by `ppm`, with ms stamps and jitter; gives the worst distance in ms
    /// between placed and told times and the number of corrections.
    fn drift(rate: u32, frame_len: u32, ppm: f64, jitter_ms: i64, hours: i64) -> (f64, u32) {
        let frames = hours * 3600 * i64::from(rate) / i64::from(frame_len);
        let mut counter = Counter::new(&config(rate, frame_len), 0);
        let (mut worst, mut corrections, mut last) = (0f64, 0, i64::MIN);
        for n in 0..frames {
            let exact = n as f64 * f64::from(frame_len) / f64::from(rate) * 1000.0 * (1.0 + ppm / 1e6);
            let ms = exact as i64 + (n * 7919 % 101) * jitter_ms / 101;
            match counter.place(ms * i64::from(rate) / 1000) {
                Place::At { pts, skipped } => {
                    assert!(pts >= last, "overlap");
                    assert_eq!(pts - last.max(0), if n == 0 { 0 } else { skipped });
                    last = pts + i64::from(frame_len);
                    worst = worst.max((pts as f64 / f64::from(rate) * 1000.0 - exact).abs());
                    corrections += u32::from(skipped > 0);
                }
                Place::Drop { .. } => corrections += 1,
            }
        }
        (worst, corrections)
    }

    #[test]
    fn a_day_of_drift_stays_in_step() {
        for (rate, frame_len, ppm, jitter) in
            [(48_000, 1024, 200.0, 0), (48_000, 1024, -200.0, 0), (44_100, 1024, 200.0, 30), (44_100, 1024, -200.0, 30)]
        {
            let (worst, corrections) = drift(rate, frame_len, ppm, jitter, 24);
            assert!(worst < 100.0, "{rate} {ppm}: {worst} ms");
            assert!((1..2000).contains(&corrections), "{rate} {ppm}: {corrections}");
        }
    }

    #[test]
    fn milliseconds_alone_correct_nothing() {
        for (rate, frame_len) in [(48_000, 1024), (44_100, 1024), (48_000, 960), (7350, 1024), (96_000, 1024)] {
            assert_eq!(drift(rate, frame_len, 0.0, 40, 2).1, 0, "{rate}");
        }
    }

    #[test]
    fn a_gap_is_taken_at_once_and_a_step_back_is_waited_out() {
        let mut counter = Counter::new(&config(48_000, 1024), 0);
        assert_eq!(counter.place(0), Place::At { pts: 0, skipped: 0 });
        assert_eq!(counter.place(48_000), Place::At { pts: 48_000, skipped: 46_976 });
        assert_eq!(counter.place(24_000), Place::Drop { first: true });
        let mut told = 24_000;
        let placed = loop {
            told += 1024;
            match counter.place(told) {
                Place::Drop { first } => assert!(!first),
                at => break at,
            }
        };
        assert_eq!(placed, Place::At { pts: 49_024, skipped: 0 });
        assert!((told - 49_024).abs() <= 512);
    }

    proptest! {
        #[test]
        fn frames_never_overlap(told in prop::collection::vec(-1_000_000i64..1_000_000, 1..300)) {
            let mut counter = Counter::new(&config(44_100, 1024), 0);
            let mut end = 0;
            for told in told {
                if let Place::At { pts, .. } = counter.place(told) {
                    prop_assert!(pts >= end);
                    end = pts + 1024;
                }
            }
        }
    }
}
