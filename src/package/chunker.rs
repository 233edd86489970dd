//! Cuts the packets of one rendition into chunks at the marks.
//!
//! Packets enter in decode order, whole chunks leave. Decode times are set anew in each chunk of video so that it is
//! decoded from the very time at which its key frame is shown, in every rendition, whatever B-frames it has; so `tfdt`
//! is the same on all of them and goes on without a seam. Audio times are the packets' own, exact to the sample.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    Error, Init, Parts,
    cmaf::{self, Fragment, Sample},
    parts::Clock,
};
use crate::media::{AudioConfig, Packet, Pieces, Track, VIDEO_TIMESCALE, VideoConfig, rescale};

/// Longest chunk, seconds. TARGETDURATION is at most 10; more means that marks have stopped.
const CHUNK_SECONDS_MAX: i64 = 30;
/// Most bytes in an open chunk: 30 s of some 34 Mb/s.
const CHUNK_BYTES_MAX: usize = 128 << 20;
/// Most packets in an open chunk: 30 s at 240 per second, rounded up.
const CHUNK_PACKETS_MAX: usize = 8192;
pub(super) const LIMITS: &str = "30 s, 8192 packets or 128 MiB";
/// How many marks of unfinished chunks are kept: audio that lags more than this behind the video, less one chunk, is
/// lost.
const LAG_MARKS_MAX: usize = 4;

/// One finished chunk; times in ticks of the track's timescale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub k: u64,
    pub epoch: u64,
    /// Decode time of the first sample (`tfdt`); of video, also the time at which it is shown.
    pub start: i64,
    pub duration: i64,
    pub timescale: u32,
    /// What it is made of, in order: its bytes are theirs. One alone when parts are not wanted.
    pub parts: Arc<[Part]>,
    pub bytes: Pieces,
    /// From the first byte to the end of the first picture, which can be shown with these alone; zero for audio.
    pub iframe: u32,
}

impl Chunk {
    /// Gives the duration in microseconds; the parts' durations sum to it.
    pub fn duration_us(&self) -> u64 {
        duration_us(self.start, self.start + self.duration, self.timescale)
    }
}

/// One finished part of a chunk (rfc8216bis: Partial Segment).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub duration_us: u64,
    /// It begins with a sync sample.
    pub independent: bool,
    /// A fragment; of the first part, the chunk's `styp` before it.
    pub bytes: Pieces,
}

/// As a difference of rounded times, so that sums do not drift.
fn duration_us(start: i64, end: i64, timescale: u32) -> u64 {
    let us = |ticks| rescale(ticks, timescale, 1_000_000);
    (us(end) - us(start)).max(0) as u64
}

/// Makes the chunks of one rendition in one epoch.
pub struct Chunker {
    init: Init,
    epoch: u64,
    cutter: Cutter,
}

enum Cutter {
    Video(Video),
    Audio(Audio),
}

impl Chunker {
    /// Begins a video rendition, which is cut at its own packets' marks. A new config needs a new chunker.
    ///
    /// A chunk's parts are cut at the samples nearest to every [`Parts::ticks`] after its start; without [`Parts`] a chunk
    /// is one part.
    pub fn video(config: &VideoConfig, epoch: u64, parts: Option<Parts>) -> Self {
        Self { init: Init::video(config), epoch, cutter: Cutter::Video(Video { parts, open: None }) }
    }

    /// Begins an audio rendition, which is cut at its own packets' marks or at those told by [`Chunker::mark`]. Parts as
    /// in [`Chunker::video`], counted from the mark.
    pub fn audio(config: &AudioConfig, epoch: u64, parts: Option<Parts>) -> Self {
        let (rate, frame) = (config.sample_rate.max(1), config.frame_len.max(1).into());
        Self { init: Init::audio(config), epoch, cutter: Cutter::Audio(Audio::new(rate, frame, parts)) }
    }

    /// Names its chunks by another epoch from the open one on: what a standby makes is published by it now.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// The epoch that its chunks are named by.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Gives the init segment that its chunks need.
    pub fn init(&self) -> &Init {
        &self.init
    }

    /// Tells the first chunk that is not out yet; nothing before the first mark. A lower number that has not come out
    /// is a gap.
    pub fn open(&self) -> Option<u64> {
        match &self.cutter {
            Cutter::Video(video) => video.open.as_ref().map(|open| open.k),
            Cutter::Audio(audio) => audio.marks.front().map(|mark| mark.0),
        }
    }

    /// The finished parts of the chunk that is not out yet.
    pub fn parts(&self) -> &[Part] {
        match &self.cutter {
            Cutter::Video(video) => video.open.as_ref().map_or(&[], |open| &open.made.parts),
            Cutter::Audio(audio) => &audio.made.parts,
        }
    }

    /// Takes the next packet. A marked one completes the chunk before it; in an audio rendition, so does the first
    /// frame at or after the next mark.
    ///
    /// Packets that no player could use are dropped: those before the first mark, leading pictures shown before the
    /// chunk's key frame, audio frames that do not come after the one before. An error concerns this packet alone.
    pub fn push(&mut self, packet: Packet) -> Result<Option<Chunk>, Error> {
        match (&mut self.cutter, packet.track) {
            (Cutter::Video(video), Track::Video) => video.push(packet, self.epoch),
            (Cutter::Audio(audio), Track::Audio) => audio.push(packet, self.epoch),
            _ => Err(Error::WrongTrack),
        }
    }

    /// Tells an audio rendition that chunk `k` starts at `at` (90 kHz), as a video packet's mark says.
    ///
    /// The chunk before it completes here when frames at or after `at` have come already, or when audio has stopped: no
    /// frame since the last mark. Audio that comes, but late, is waited for during three chunks. Marks that do not go
    /// forward, and marks to a video rendition, which has its own, are ignored.
    pub fn mark(&mut self, k: u64, at: i64) -> Option<Chunk> {
        match &mut self.cutter {
            Cutter::Video(_) => None,
            Cutter::Audio(audio) => audio.mark(k, audio.first_at(at), self.epoch),
        }
    }

    /// Tells an audio rendition that no mark will come that is before `at` (90 kHz): a part that ends there is finished.
    /// Where marks come with the audio's own packets they tell this themselves.
    pub fn passed(&mut self, at: i64) {
        if let Cutter::Audio(audio) = &mut self.cutter {
            audio.passed(audio.first_at(at));
        }
    }

    /// Completes what is open; the epoch's media ends at `at` (90 kHz).
    pub fn finish(self, at: i64) -> Vec<Chunk> {
        match self.cutter {
            Cutter::Video(video) => video.finish(at, self.epoch),
            Cutter::Audio(audio) => audio.finish(at, self.epoch),
        }
    }
}

/// A chunk on its way: the parts that are finished.
#[derive(Debug, Default)]
struct Made {
    /// Decode times of its first sample and after its last, once there is a part.
    span: Option<(i64, i64)>,
    parts: Vec<Part>,
    /// Bytes up to the end of the first sample.
    first: usize,
}

impl Made {
    /// Adds a part; `times` has one more than there are samples, where the last one ends.
    fn add(&mut self, k: u64, timescale: u32, times: &[i64], samples: &[Sample]) {
        let (start, end) = (times[0], times[times.len() - 1]);
        let index = self.parts.len();
        // Starts are not negative: see where they are taken.
        let fragment = Fragment { sequence: sequence(k, index), start: start as u64, samples };
        let bytes = cmaf::part(&fragment, index == 0);
        if index == 0 {
            self.first = bytes.len() - samples[1..].iter().map(|sample| sample.payload.len()).sum::<usize>();
        }
        self.parts.push(Part { duration_us: duration_us(start, end, timescale), independent: samples[0].key, bytes });
        self.span = Some((self.span.map_or(start, |span| span.0), end));
    }

    fn chunk(self, k: u64, epoch: u64, timescale: u32) -> Option<Chunk> {
        let (start, end) = self.span?;
        let bytes = self.parts.iter().flat_map(|part| part.bytes.iter().cloned()).collect();
        let iframe = self.first as u32;
        Some(Chunk { k, epoch, start, duration: end - start, timescale, parts: self.parts.into(), bytes, iframe })
    }
}

/// `mfhd` numbers go up from part to part; the chunk's number leaves room for more parts than a chunk can have.
fn sequence(k: u64, index: usize) -> u32 {
    (k as u32).wrapping_mul(1024).wrapping_add(index as u32).wrapping_add(1)
}

/// Cuts video. Holds the packets of the open chunk in decode order.
struct Video {
    parts: Option<Parts>,
    open: Option<Open>,
}

struct Open {
    k: u64,
    /// When the key frame is shown.
    start: i64,
    first_dts: i64,
    made: Made,
    clock: Option<Clock>,
    /// Packets that are in no part yet, with their decode times.
    waiting: Vec<(i64, Packet)>,
    /// All packets of the chunk.
    count: usize,
    bytes: usize,
}

impl Video {
    fn push(&mut self, packet: Packet, epoch: u64) -> Result<Option<Chunk>, Error> {
        let Some(k) = packet.mark else {
            if let Some(open) = &mut self.open {
                open.push(packet)?;
            }
            return Ok(None);
        };
        let at = packet.pts;
        let last = self.open.as_ref().map_or((0, -1), |open| (open.k, open.start));
        if at <= last.1 || (self.open.is_some() && k <= last.0) {
            return Err(Error::Backwards { k, at, last: last.0 });
        }
        if !packet.key {
            if let Some(open) = &mut self.open {
                open.push(packet)?;
            }
            return Err(Error::NotKey { k });
        }
        let next = Open {
            k,
            start: at,
            first_dts: packet.dts,
            made: Made::default(),
            clock: self.parts.map(|parts| Clock::new(parts, VIDEO_TIMESCALE, at)),
            count: 1,
            bytes: packet.payload.len(),
            waiting: vec![(at, packet)],
        };
        Ok(self.open.replace(next).and_then(|open| open.close(at, epoch)))
    }

    fn finish(self, at: i64, epoch: u64) -> Vec<Chunk> {
        self.open.filter(|open| at > open.start).and_then(|open| open.close(at, epoch)).into_iter().collect()
    }
}

impl Open {
    fn push(&mut self, packet: Packet) -> Result<(), Error> {
        let longest = CHUNK_SECONDS_MAX * i64::from(VIDEO_TIMESCALE);
        let long = packet.pts.saturating_sub(self.start) > longest;
        if long || self.count >= CHUNK_PACKETS_MAX || self.bytes + packet.payload.len() > CHUNK_BYTES_MAX {
            return Err(Error::TooLong { k: self.k });
        }
        if packet.pts < self.start {
            return Ok(());
        }
        // Broken decode times neither go back nor leave the longest chunk.
        let last = self.waiting.last().expect("a packet always waits for the end of the last").0;
        let since = packet.dts.saturating_sub(self.first_dts).min(longest);
        let time = self.start.saturating_add(since).max(last + 1);
        let begun = self.waiting[0].0;
        if let Some(until) = self.clock.as_mut().and_then(|clock| clock.end(begun, last, time)) {
            let kept = if until == last { self.waiting.pop() } else { None };
            self.add_part(until, None);
            self.waiting.extend(kept);
        }
        self.count += 1;
        self.bytes += packet.payload.len();
        self.waiting.push((time, packet));
        Ok(())
    }

    /// Completes the chunk at `end`, where the next one starts.
    fn close(mut self, end: i64, epoch: u64) -> Option<Chunk> {
        let first = self.waiting.first().expect("a packet always waits for the end of the last").0;
        // A mark that comes later than any chunk may last: the durations must still fit their fields. One that comes
        // before the parts that are out: a player takes a short overlap, and what is out cannot be changed.
        let end = end.min(self.start.saturating_add(i32::MAX.into())).max(first + 1);
        // One tick is the least that a sample can last.
        self.waiting.truncate(usize::try_from(end - first).expect("a chunk ends after its start"));
        let len = self.waiting.len() as i64;
        let mut earliest = first;
        for (i, (time, _)) in (0..).zip(&mut self.waiting) {
            // Every sample leaves at least a tick to each of those after it.
            *time = (*time).clamp(earliest, end - (len - i));
            earliest = *time + 1;
        }
        self.add_part(end, Some(end));
        self.made.chunk(self.k, epoch, VIDEO_TIMESCALE)
    }

    /// Makes a part of what waits, up to `until`. A picture shown after the chunk's `end` would hide the next chunk's key
    /// frame.
    fn add_part(&mut self, until: i64, end: Option<i64>) {
        let waiting = std::mem::take(&mut self.waiting);
        let times: Vec<_> = waiting.iter().map(|(time, _)| *time).chain([until]).collect();
        let samples = waiting.into_iter().zip(times.windows(2)).map(|((_, packet), time)| Sample {
            duration: (time[1] - time[0]) as u32,
            offset: (end.map_or(packet.pts, |end| packet.pts.min(end - 1)) - time[0]) as i32,
            key: packet.key,
            payload: packet.payload,
        });
        self.made.add(self.k, VIDEO_TIMESCALE, &times, &samples.collect::<Vec<_>>());
    }
}

/// Cuts audio. Holds the frames from the first unfinished part on; times in samples.
struct Audio {
    rate: u32,
    frame_len: i64,
    parts: Option<Parts>,
    /// The first unfinished chunk, as far as it is made.
    made: Made,
    /// Of the same chunk, once it has a frame.
    clock: Option<Clock>,
    /// No mark will come before this.
    passed: i64,
    /// Frames that are in no part yet.
    frames: VecDeque<(i64, Bytes)>,
    /// All frames from the first unfinished chunk on.
    count: usize,
    bytes: usize,
    /// Marks of the unfinished chunks: number and the first sample that belongs to it.
    marks: VecDeque<(u64, i64)>,
    /// Start of the last frame taken; frames up to here are late.
    last: i64,
    /// A frame has come, and one since the last mark.
    came: bool,
    flows: bool,
    /// Marks come with the frames.
    own_marks: bool,
}

impl Audio {
    fn new(rate: u32, frame_len: i64, parts: Option<Parts>) -> Self {
        // Times are not negative, so any frame comes after -1.
        Self {
            rate,
            frame_len,
            parts,
            made: Made::default(),
            clock: None,
            passed: -1,
            frames: VecDeque::new(),
            count: 0,
            bytes: 0,
            marks: VecDeque::new(),
            last: -1,
            came: false,
            flows: false,
            own_marks: false,
        }
    }

    /// Gives the first sample at or after a time in 90 kHz.
    fn first_at(&self, at: i64) -> i64 {
        let (at, scale) = (i128::from(at), i128::from(VIDEO_TIMESCALE));
        (at * i128::from(self.rate) + scale - 1).div_euclid(scale) as i64
    }

    fn push(&mut self, packet: Packet, epoch: u64) -> Result<Option<Chunk>, Error> {
        let pts = packet.pts;
        if let Some(k) = packet.mark {
            if pts <= self.last || self.marks.back().is_some_and(|&(last, at)| k <= last || pts <= at) {
                return Err(Error::Backwards { k, at: pts, last: self.marks.back().map_or(0, |mark| mark.0) });
            }
            self.add_mark(k, pts);
            self.own_marks = true;
        }
        if pts <= self.last || self.marks.front().is_some_and(|&(_, at)| pts < at) {
            return Ok(None);
        }
        let first = self.made.span.map(|span| span.0).or(self.frames.front().map(|frame| frame.0));
        if self.count >= CHUNK_PACKETS_MAX
            || self.bytes + packet.payload.len() > CHUNK_BYTES_MAX
            || first.is_some_and(|first| pts - first > CHUNK_SECONDS_MAX * i64::from(self.rate))
        {
            match self.marks.front() {
                // The frame that a later mark waits for must come through, or nothing ever would.
                Some(_) if self.marks.get(1).is_some_and(|&(_, at)| pts >= at) => {}
                Some(&(k, _)) => return Err(Error::TooLong { k }),
                // No chunk yet: only the newest frames can still belong to the first.
                None => self.pop_frame(),
            }
        }
        self.last = pts;
        (self.came, self.flows) = (true, true);
        self.count += 1;
        self.bytes += packet.payload.len();
        self.frames.push_back((pts, packet.payload));
        if self.own_marks {
            self.passed = pts;
        }
        let cut = self.cut_reached(epoch);
        self.cut_parts();
        Ok(cut)
    }

    fn passed(&mut self, at: i64) {
        self.passed = self.passed.max(at);
        self.cut_parts();
    }

    /// Makes the parts of the first unfinished chunk whose ends the frames have reached, and no later mark can.
    fn cut_parts(&mut self) {
        let (Some(parts), Some(&(k, start))) = (self.parts, self.marks.front()) else { return };
        let mut clock = self.clock.unwrap_or_else(|| Clock::new(parts, self.rate, start));
        let end = self.marks.get(1).map(|mark| mark.1);
        // The chunk's last part is not cut again for the frame or so that is nearer to the next chunk's clock.
        let limit = end.map_or(self.passed, |end| (end - clock.part() / 2).min(self.passed));
        let mut i = 1;
        while let Some(&(time, _)) = self.frames.get(i)
            && time <= limit
        {
            let (begun, last) = (self.frames[0].0, self.frames[i - 1].0);
            i += 1;
            if let Some(until) = clock.end(begun, last, time) {
                self.add_part(k, if until == last { i - 2 } else { i - 1 }, until);
                i = if until == last { 2 } else { 1 };
            }
        }
        self.clock = Some(clock);
    }

    /// Makes a part of the first `count` frames, the last of which lasts until `until`.
    fn add_part(&mut self, k: u64, count: usize, until: i64) {
        let frames: Vec<_> = self.frames.drain(..count).collect();
        let times: Vec<_> = frames.iter().map(|frame| frame.0).chain([until]).collect();
        let samples = frames.into_iter().zip(times.windows(2)).map(|((_, payload), time)| Sample {
            duration: u32::try_from(time[1] - time[0]).unwrap_or(u32::MAX),
            offset: 0,
            key: true,
            payload,
        });
        self.made.add(k, self.rate, &times, &samples.collect::<Vec<_>>());
    }

    fn mark(&mut self, k: u64, at: i64, epoch: u64) -> Option<Chunk> {
        if at < 0 || self.marks.back().is_some_and(|&(last, last_at)| k <= last || at <= last_at) {
            return None;
        }
        // Before its first frame audio has not stopped, it is late.
        let stopped = !std::mem::take(&mut self.flows) && self.came;
        self.add_mark(k, at);
        if let Some(cut) = self.cut_reached(epoch) {
            return Some(cut);
        }
        // The chunk that has just got its end may wait for the frame that completes it; the chunks before wait only
        // while frames come. Frames that have not reached the end of the first chunk are all in it, so one cut at most
        // has any.
        let keep = if stopped { 2 } else { LAG_MARKS_MAX };
        let mut cut = None;
        while self.marks.len() > keep {
            let next = self.cut(epoch);
            cut = cut.or(next);
        }
        cut
    }

    fn finish(mut self, at: i64, epoch: u64) -> Vec<Chunk> {
        let end = self.first_at(at);
        while self.frames.back().is_some_and(|frame| frame.0 >= end) {
            self.frames.pop_back();
        }
        self.marks.retain(|mark| mark.1 < end);
        self.marks.push_back((u64::MAX, end));
        let mut cuts = Vec::new();
        while self.marks.len() > 1 {
            cuts.extend(self.cut(epoch));
        }
        cuts
    }

    /// Cuts every chunk whose end the frames have reached; at most one of them has frames, as these come in order.
    fn cut_reached(&mut self, epoch: u64) -> Option<Chunk> {
        let mut cut = None;
        while let (Some(&(_, end)), Some(last)) = (self.marks.get(1), self.frames.back())
            && last.0 >= end
        {
            // Evaluated in any case: the empty chunks after the cut one go too.
            let next = self.cut(epoch);
            cut = cut.or(next);
        }
        cut
    }

    /// Cuts the first of at least two marked chunks; nothing when it has no frames.
    fn cut(&mut self, epoch: u64) -> Option<Chunk> {
        let (k, _) = self.marks.pop_front()?;
        let end = self.marks.front()?.1;
        let count = self.frames.partition_point(|frame| frame.0 < end);
        // Late frames of a chunk that is out must not come into the next.
        self.last = self.last.max(end - 1);
        self.clock = None;
        if let Some(last) = count.checked_sub(1).map(|last| self.frames[last].0) {
            let next = self.frames.get(count).map(|frame| frame.0);
            // Where audio goes on, the last frame lasts until then. A hole of more than half a second is not put into
            // this chunk, whose duration must stay near that of the video beside it. Where audio stops, the last frame
            // fills the chunk.
            let until = match next.filter(|next| next - end <= i64::from(self.rate) / 2) {
                Some(next) => next,
                None if end - last >= 2 * self.frame_len => end,
                None => last + self.frame_len,
            };
            self.add_part(k, count, until);
        }
        self.count = self.frames.len();
        self.bytes = self.frames.iter().map(|frame| frame.1.len()).sum();
        let chunk = std::mem::take(&mut self.made).chunk(k, epoch, self.rate)?;
        Some(Chunk { iframe: 0, ..chunk })
    }

    fn add_mark(&mut self, k: u64, at: i64) {
        while self.marks.is_empty() && self.frames.front().is_some_and(|frame| frame.0 < at) {
            self.pop_frame();
        }
        self.marks.push_back((k, at));
    }

    fn pop_frame(&mut self) {
        if let Some((_, payload)) = self.frames.pop_front() {
            self.count -= 1;
            self.bytes -= payload.len();
        }
    }
}

#[cfg(test)]
#[path = "chunker_tests.rs"]
mod tests;
