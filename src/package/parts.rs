//! How long parts are: one clock for all renditions of a broadcast, fixed for its life.

use crate::media::{VIDEO_TIMESCALE, rescale};

/// Frames this long or longer make nearest-frame cuts too uneven: with six and more to a part, the shortest part is
/// still 85 % of the longest (rfc8216bis 4.4.4.9).
const FRAMES_MIN: i64 = 6;
/// RTMP tells time in milliseconds: a cut may be off by one.
const JITTER_MS: i64 = 1;

/// The clock of a broadcast's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Parts {
    /// Nominal duration, 90 kHz: parts end at the frames nearest to its multiples.
    pub ticks: i64,
    /// PART-TARGET, milliseconds: no part of frames as told is longer.
    pub target_ms: u32,
}

impl Parts {
    /// Divides chunks of `chunk` into whole parts of about `part`. `video` is the source's frame duration, `others` those
    /// of the renditions beside it, all 90 kHz; a slow source gets parts of whole frames.
    pub fn new(chunk: i64, part: i64, video: Option<i64>, others: impl IntoIterator<Item = i64>) -> Self {
        let count = ((chunk + part / 2) / part.max(1)).max(1);
        let even = (chunk / count).max(1);
        let whole = |frame: i64| (even + frame - 1) / frame * frame;
        let ticks = match video {
            Some(frame) if frame * FRAMES_MIN > even => whole(frame),
            _ => even,
        };
        let longest = video.into_iter().chain(others).map(|frame| (ticks + frame - 1) / frame * frame).max();
        let ms = (longest.unwrap_or(ticks) * 1000).div_euclid(i64::from(VIDEO_TIMESCALE)) + 1 + JITTER_MS;
        Self { ticks, target_ms: ms as u32 }
    }
}

/// Tells where the parts of one chunk end; times in ticks of its track.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    part: i64,
    longest: i64,
    /// The clock counts from here.
    origin: i64,
    count: i64,
}

impl Clock {
    pub(super) fn new(parts: Parts, timescale: u32, origin: i64) -> Self {
        let part = rescale(parts.ticks, VIDEO_TIMESCALE, timescale).max(1);
        let longest = rescale(parts.target_ms.into(), 1000, timescale).max(part);
        Self { part, longest, origin, count: 0 }
    }

    pub(super) fn part(&self) -> i64 {
        self.part
    }

    /// Tells where to end the part that began at `begun`, now that a sample begins at `time` after one at `last`: there, if
    /// that is nearer to the clock's time than `last`; at `last`, if that one makes the part longer than any may be, as
    /// frames longer than those told of do. The clock then counts anew.
    pub(super) fn end(&mut self, begun: i64, last: i64, time: i64) -> Option<i64> {
        if time - begun > self.longest && last > begun {
            (self.origin, self.count) = (last, 0);
            return Some(last);
        }
        let half = ((time - last) / 2).min(self.part / 2);
        let count = (time - self.origin + half).div_euclid(self.part);
        (count > self.count).then(|| {
            self.count = count;
            time
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1024 samples at 48 kHz.
    const AAC: i64 = 1920;

    #[test]
    fn parts_divide_the_chunk() {
        let parts = |chunk, part, fps: i64| Parts::new(chunk, part, Some(90_000 / fps), [AAC]);
        assert_eq!(parts(180_000, 29_700, 30), Parts { ticks: 30_000, target_ms: 343 });
        assert_eq!(parts(180_000, 29_700, 25), Parts { ticks: 30_000, target_ms: 362 });
        assert_eq!(parts(180_000, 18_000, 60), Parts { ticks: 18_000, target_ms: 215 });
        assert_eq!(parts(90_000, 90_000, 30), Parts { ticks: 90_000, target_ms: 1004 });
        // Three or four frames would be too uneven, so four.
        assert_eq!(parts(180_000, 29_700, 10), Parts { ticks: 36_000, target_ms: 407 });
        assert_eq!(Parts::new(180_000, 29_700, None, [AAC]).target_ms, 343);
    }
}
