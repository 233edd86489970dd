//! Where the chunks of one epoch start in its video: the rules of DESIGN section 3.
//!
//! Stamped frames enter in decode order; the same frames leave in the same order, some with a mark. Knows nothing of
//! audio, configs or the making of epochs: it says when an epoch cannot go on, the [`Timeline`](super::Timeline) acts.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    Break, Error, Output, Warning,
    clock::{Stamp, TICKS},
};
use crate::media::{Epoch, Message, Mode, Packet, Track};

/// A video frame whose times are ticks of the session's clock, not yet on the broadcast's timeline.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub stamp: Stamp,
    pub key: bool,
    pub payload: Bytes,
}

/// What a session has shown of itself; outlives epochs.
#[derive(Debug)]
pub(super) struct Habits {
    pub chunk_ms: u32,
    /// Re-encoding is possible.
    pub encode: bool,
    /// The longest distance between keyframes seen, in ticks.
    pub gop: i64,
    /// The usual distance between frames, in ticks.
    pub interval: i64,
    /// A keyframe was late once: the source's keyframes are not relied on again.
    pub unreliable: bool,
    /// The TARGETDURATION of an earlier epoch, which must not change.
    pub target: Option<u32>,
    pub warned_long: bool,
}

impl Habits {
    fn chunk(&self) -> i64 {
        i64::from(self.chunk_ms) * TICKS
    }

    /// Gives the TARGETDURATION of chunks that are `chunk_ms` long.
    pub fn target(&self) -> u32 {
        ((self.chunk_ms + 500) / 1000).max(1)
    }

    fn half_frame(&self) -> i64 {
        (self.interval / 2).min(self.chunk() / 4)
    }

    fn warn_long(&mut self, out: &mut VecDeque<Output>) {
        if !std::mem::replace(&mut self.warned_long, true) {
            out.push_back(Output::Warning(Warning::LongKeyframeInterval { chunk_ms: self.chunk_ms }));
        }
    }
}

/// The longest TARGETDURATION of a broadcast that is not encoded: viewers wait about three times this.
const TARGET_MAX: u32 = 10;
/// Frames held while looking for the first in presentation order; also the depth of the H.264 decoded picture buffer.
const HOLD_MAX: usize = 16;
/// Less than this between two frames is not a gap, even at one frame per second.
const GAP_MS: i64 = 1500;

/// Gives the longest chunk of a playlist in ticks: its length rounded to seconds must not exceed the target
/// (rfc8216bis 4.4.3.1).
pub(super) fn longest(target: u32) -> i64 {
    (i64::from(target) * 1000 + 490) * TICKS
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Undecided,
    Follow { target: u32, encode: bool },
    Reencode,
}

/// Frames that wait until it is certain which of them is the first in presentation order.
#[derive(Debug)]
struct Hold {
    frames: Vec<Frame>,
    /// The first frame at or after this starts a chunk.
    from: i64,
    /// It starts an epoch as well.
    split: Option<Break>,
}

/// Places frames of one epoch.
#[derive(Debug)]
pub(super) struct Marks {
    /// The chunk that is being filled, and its start on the broadcast's timeline.
    pub k: u64,
    pub start: i64,
    /// What is added to the session's clock to get the broadcast's timeline.
    pub offset: i64,
    rule: Rule,
    /// The frame that starts the epoch has not come yet.
    opening: bool,
    max_pts: Option<i64>,
    last_key: Option<i64>,
    /// Keyframes in this chunk, its first included.
    keys: u32,
    hold: Option<Hold>,
}

/// What became of a frame.
#[derive(Debug)]
pub(super) enum Step {
    /// It left, or it is held.
    Done,
    /// The epoch ends before these frames, of which the one at `anchor` (session's clock) starts the next.
    Split { reason: Break, anchor: i64, frames: Vec<Frame> },
    /// The epoch ends before this frame, and only a keyframe can start the next.
    Resync { frame: Frame },
}

impl Marks {
    /// Begins an epoch whose first frame is shown at `anchor` on the session's clock.
    pub fn new(epoch: &Epoch, anchor: i64, reencode: bool) -> Self {
        Self {
            k: epoch.k,
            start: epoch.at,
            offset: epoch.at - anchor,
            rule: if reencode { Rule::Reencode } else { Rule::Undecided },
            opening: true,
            max_pts: None,
            last_key: None,
            keys: 0,
            hold: None,
        }
    }

    /// Gives the end of the last frame that left.
    pub fn end(&self, habits: &Habits) -> i64 {
        let end = self.max_pts.map_or(self.start, |pts| pts + habits.interval);
        end.clamp(self.start + 1, self.start + self.limit(habits))
    }

    /// Gives the length that no chunk may exceed.
    pub fn limit(&self, habits: &Habits) -> i64 {
        longest(match self.rule {
            Rule::Follow { target, .. } => target,
            Rule::Undecided if !habits.encode => habits.target.unwrap_or(TARGET_MAX),
            _ => habits.target(),
        })
    }

    /// Takes the next frame in decode order.
    ///
    /// # Errors
    /// A chunk would get too long and nothing can be re-encoded.
    pub fn place(&mut self, frame: Frame, habits: &mut Habits, out: &mut VecDeque<Output>) -> Result<Step, Error> {
        if self.opening {
            self.open(frame, out);
            return Ok(Step::Done);
        }
        if let Some(hold) = &mut self.hold {
            let first = first_shown(&hold.frames, hold.from, self.offset);
            if !frame.key && frame.stamp.dts + self.offset < first && hold.frames.len() < HOLD_MAX {
                hold.frames.push(frame);
                return Ok(Step::Done);
            }
            if let Step::Split { reason, anchor, mut frames } = self.resolve(habits, out) {
                frames.push(frame);
                return Ok(Step::Split { reason, anchor, frames });
            }
        }
        let pts = frame.stamp.pts + self.offset;
        if frame.key {
            if let Some(last) = self.last_key.replace(pts) {
                habits.gop = habits.gop.max(pts - last);
            }
            self.keys += 1;
        }
        match self.rule {
            Rule::Reencode => self.by_clock(frame, self.clock_start(habits), None, habits, out),
            Rule::Undecided => self.undecided(frame, habits, out),
            Rule::Follow { target, encode } => self.follow(frame, target, encode, habits, out),
        }
    }

    /// Lets held frames go, because nothing more comes or the epoch ends.
    pub fn release(&mut self, habits: &mut Habits, out: &mut VecDeque<Output>) {
        if let Step::Split { frames, .. } = self.resolve(habits, out) {
            frames.into_iter().for_each(|frame| self.emit(frame, false, out));
        }
    }

    fn undecided(&mut self, frame: Frame, habits: &mut Habits, out: &mut VecDeque<Output>) -> Result<Step, Error> {
        let into = frame.stamp.pts + self.offset - self.start;
        let (target, limit) = (habits.target(), longest(habits.target()));
        if frame.key {
            if into <= limit && self.key_starts_chunk(into, limit, habits) {
                let target = if habits.encode { target } else { habits.target.unwrap_or(target) };
                self.decide(Mode::Follow, target, habits, out);
                self.emit(frame, true, out);
            } else if into <= limit {
                self.emit(frame, false, out);
            } else if !habits.encode && into <= self.limit(habits) {
                habits.warn_long(out);
                self.decide(Mode::Follow, TARGET_MAX, habits, out);
                self.emit(frame, true, out);
            } else if !habits.encode && frame.stamp.gap_ms < GAP_MS {
                return Err(self.too_late(habits));
            } else {
                return Ok(Step::Resync { frame });
            }
            return Ok(Step::Done);
        }
        if self.is_reordered(&frame) {
            self.emit(frame, false, out);
            return Ok(Step::Done);
        }
        if !habits.encode {
            if into <= self.limit(habits) {
                self.emit(frame, false, out);
                return Ok(Step::Done);
            }
            if frame.stamp.gap_ms >= GAP_MS {
                return Ok(Step::Resync { frame });
            }
            return Err(self.too_late(habits));
        }
        let from = if self.keys <= 1 && into >= habits.chunk() - habits.half_frame() {
            self.clock_start(habits)
        } else if self.keys > 1 && into + habits.interval > limit {
            // Waiting for a keyframe was in vain: the chunk ends with the last frame that still fits.
            self.max_pts.map_or(self.start, |pts| pts) + 1
        } else {
            self.emit(frame, false, out);
            return Ok(Step::Done);
        };
        habits.warn_long(out);
        self.decide(Mode::Reencode, target, habits, out);
        self.by_clock(frame, from, None, habits, out)
    }

    fn follow(
        &mut self,
        frame: Frame,
        target: u32,
        encode: bool,
        habits: &mut Habits,
        out: &mut VecDeque<Output>,
    ) -> Result<Step, Error> {
        let into = frame.stamp.pts + self.offset - self.start;
        let limit = longest(target);
        if frame.key {
            if into > limit {
                if frame.stamp.gap_ms < GAP_MS && !encode {
                    return Err(self.too_late(habits));
                }
                return Ok(Step::Resync { frame });
            }
            let mark = self.key_starts_chunk(into, limit, habits);
            self.emit(frame, mark, out);
            return Ok(Step::Done);
        }
        let late = into + if encode { habits.interval } else { 0 } > limit;
        if !late || self.is_reordered(&frame) {
            self.emit(frame, false, out);
            return Ok(Step::Done);
        }
        if frame.stamp.gap_ms >= GAP_MS {
            return Ok(Step::Resync { frame });
        }
        if !encode {
            return Err(self.too_late(habits));
        }
        out.push_back(Output::Warning(Warning::KeyframeLate { chunk_ms: habits.chunk_ms }));
        habits.unreliable = true;
        let from = self.max_pts.map_or(self.start, |pts| pts) + 1;
        self.by_clock(frame, from, Some(Break::ModeChange), habits, out)
    }

    /// Tells if a keyframe `into` the chunk starts the next one: it is about time, or the one after it would be too late
    /// (an encoder that puts in keyframes at scene cuts counts its interval anew from there).
    fn key_starts_chunk(&self, into: i64, limit: i64, habits: &Habits) -> bool {
        into >= habits.chunk() - habits.half_frame() || (habits.gop <= limit && into + habits.gop > limit)
    }

    /// Gives the time from which on a frame starts the next chunk when keyframes do not matter.
    fn clock_start(&self, habits: &Habits) -> i64 {
        // Below 2 frames per second the first frame after the chunk's length may be too late for the playlist's target.
        let last_fit = longest(habits.target()) - habits.interval + 1;
        self.start + habits.chunk().min(last_fit).max(1)
    }

    /// Starts a chunk at the first frame shown at or after `from`, whatever its type.
    fn by_clock(
        &mut self,
        frame: Frame,
        from: i64,
        split: Option<Break>,
        habits: &mut Habits,
        out: &mut VecDeque<Output>,
    ) -> Result<Step, Error> {
        if frame.stamp.pts + self.offset < from {
            self.emit(frame, false, out);
            return Ok(Step::Done);
        }
        // Nothing that is decoded later is shown before a keyframe, or before a frame that is shown when it is decoded.
        let certain = frame.key || frame.stamp.pts == frame.stamp.dts;
        self.hold = Some(Hold { frames: vec![frame], from, split });
        Ok(if certain { self.resolve(habits, out) } else { Step::Done })
    }

    /// Marks the first in presentation order of the held frames and lets them go, unless they start an epoch.
    fn resolve(&mut self, habits: &mut Habits, out: &mut VecDeque<Output>) -> Step {
        let Some(hold) = self.hold.take() else { return Step::Done };
        let first = first_shown(&hold.frames, hold.from, self.offset);
        let overrun = first - self.start > self.limit(habits);
        if let Some(reason) = hold.split.or(overrun.then_some(Break::TimeJump)) {
            if reason == Break::TimeJump {
                let ms = hold.frames.first().map_or(0, |frame| frame.stamp.gap_ms);
                out.push_back(Output::Warning(Warning::VideoGap { ms }));
            }
            return Step::Split { reason, anchor: first - self.offset, frames: hold.frames };
        }
        let mut open = true;
        for frame in hold.frames {
            let mark = open && frame.stamp.pts + self.offset == first;
            open &= !mark;
            self.emit(frame, mark, out);
        }
        Step::Done
    }

    /// Passes on the frames of a new epoch up to the one it was begun for.
    fn open(&mut self, frame: Frame, out: &mut VecDeque<Output>) {
        let pts = frame.stamp.pts + self.offset;
        if frame.key {
            (self.last_key, self.keys) = (Some(pts), self.keys + 1);
        }
        self.opening = pts != self.start;
        let mark = (!self.opening).then_some(self.k);
        self.push(frame, mark, out);
    }

    fn emit(&mut self, frame: Frame, mark: bool, out: &mut VecDeque<Output>) {
        if mark {
            self.k += 1;
            self.start = frame.stamp.pts + self.offset;
            self.keys = u32::from(frame.key);
        }
        self.push(frame, mark.then_some(self.k), out);
    }

    fn push(&mut self, frame: Frame, mark: Option<u64>, out: &mut VecDeque<Output>) {
        let (pts, dts) = (frame.stamp.pts + self.offset, frame.stamp.dts + self.offset);
        self.max_pts = self.max_pts.max(Some(pts));
        let packet = Packet { track: Track::Video, pts, dts, key: frame.key, mark, payload: frame.payload };
        out.push_back(Output::Message(Message::Packet(packet)));
    }

    fn decide(&mut self, mode: Mode, target: u32, habits: &mut Habits, out: &mut VecDeque<Output>) {
        self.rule = match mode {
            Mode::Follow => Rule::Follow { target, encode: habits.encode },
            _ => Rule::Reencode,
        };
        habits.target = Some(target);
        out.push_back(Output::Message(Message::Mode { mode, target }));
    }

    /// Tells if a frame is shown before one that left already: where a chunk ends cannot be judged by it.
    fn is_reordered(&self, frame: &Frame) -> bool {
        Some(frame.stamp.pts + self.offset) < self.max_pts
    }

    fn too_late(&self, habits: &Habits) -> Error {
        Error::KeyframeTooLate { chunk_ms: habits.chunk_ms, limit_s: (self.limit(habits) / TICKS / 1000) as u32 }
    }
}

/// Gives the earliest presentation time at or after `from`; of all of them when none is.
fn first_shown(frames: &[Frame], from: i64, offset: i64) -> i64 {
    let times = || frames.iter().map(|frame| frame.stamp.pts + offset);
    times().filter(|&pts| pts >= from).min().or_else(|| times().min()).unwrap_or(from)
}
