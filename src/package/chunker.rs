//! Cuts the packets of one rendition into chunks at the marks.
//!
//! Packets enter in decode order, whole chunks leave. Decode times are set anew in each chunk of video so that it is
//! decoded from the very time at which its key frame is shown, in every rendition, whatever B-frames it has; so `tfdt`
//! is the same on all of them and goes on without a seam. Audio times are the packets' own, exact to the sample.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    Error, Init,
    cmaf::{self, Fragment, Sample},
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
    pub bytes: Pieces,
}

impl Chunk {
    /// Gives the duration in microseconds as a difference of rounded times, so that sums do not drift.
    pub fn duration_us(&self) -> u64 {
        let us = |ticks| rescale(ticks, self.timescale, 1_000_000);
        (us(self.start + self.duration) - us(self.start)).max(0) as u64
    }
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
    pub fn video(config: &VideoConfig, epoch: u64) -> Self {
        Self { init: Init::video(config), epoch, cutter: Cutter::Video(Video::default()) }
    }

    /// Begins an audio rendition, which is cut at its own packets' marks or at those told by [`Chunker::mark`].
    pub fn audio(config: &AudioConfig, epoch: u64) -> Self {
        let (rate, frame) = (config.sample_rate.max(1), config.frame_len.max(1).into());
        Self { init: Init::audio(config), epoch, cutter: Cutter::Audio(Audio::new(rate, frame)) }
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

    /// Takes the next packet. A marked one completes the chunk before it; in an audio rendition, so does the first
    /// frame at or after the next mark.
    ///
    /// Packets that no player could use are dropped: those before the first mark, leading pictures shown before the
    /// chunk's key frame, audio frames that do not come after the one before. An error concerns this packet alone.
    pub fn push(&mut self, packet: Packet) -> Result<Option<Chunk>, Error> {
        let cut = match (&mut self.cutter, packet.track) {
            (Cutter::Video(video), Track::Video) => video.push(packet)?,
            (Cutter::Audio(audio), Track::Audio) => audio.push(packet)?,
            _ => return Err(Error::WrongTrack),
        };
        Ok(cut.map(|cut| cut.chunk(self.epoch)))
    }

    /// Tells an audio rendition that chunk `k` starts at `at` (90 kHz), as a video packet's mark says.
    ///
    /// The chunk before it completes here when frames at or after `at` have come already, or when audio has stopped: no
    /// frame since the last mark. Audio that comes, but late, is waited for during three chunks. Marks that do not go
    /// forward, and marks to a video rendition, which has its own, are ignored.
    pub fn mark(&mut self, k: u64, at: i64) -> Option<Chunk> {
        let cut = match &mut self.cutter {
            Cutter::Video(_) => None,
            Cutter::Audio(audio) => audio.mark(k, audio.first_at(at)),
        };
        cut.map(|cut| cut.chunk(self.epoch))
    }

    /// Completes what is open; the epoch's media ends at `at` (90 kHz).
    pub fn finish(self, at: i64) -> Vec<Chunk> {
        let cuts = match self.cutter {
            Cutter::Video(video) => video.finish(at),
            Cutter::Audio(audio) => audio.finish(at),
        };
        cuts.into_iter().map(|cut| cut.chunk(self.epoch)).collect()
    }
}

/// Samples of one chunk with their final times. Never empty.
struct Cut {
    k: u64,
    start: i64,
    timescale: u32,
    samples: Vec<Sample>,
}

impl Cut {
    fn chunk(self, epoch: u64) -> Chunk {
        // Starts are not negative: see where they are taken.
        let start = self.start as u64;
        let fragment = Fragment { sequence: (self.k as u32).wrapping_add(1), start, samples: &self.samples };
        Chunk {
            k: self.k,
            epoch,
            start: self.start,
            duration: self.samples.iter().map(|s| i64::from(s.duration)).sum(),
            timescale: self.timescale,
            bytes: cmaf::chunk(&[fragment]),
        }
    }
}

/// Cuts video. Holds the packets of the open chunk in decode order.
#[derive(Default)]
struct Video {
    open: Option<Open>,
}

struct Open {
    k: u64,
    /// When the key frame is shown.
    start: i64,
    packets: Vec<Packet>,
    bytes: usize,
}

impl Video {
    fn push(&mut self, packet: Packet) -> Result<Option<Cut>, Error> {
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
        let next = Open { k, start: at, bytes: packet.payload.len(), packets: vec![packet] };
        Ok(self.open.replace(next).map(|open| open.close(at)))
    }

    fn finish(self, at: i64) -> Vec<Cut> {
        self.open.filter(|open| at > open.start).map(|open| open.close(at)).into_iter().collect()
    }
}

impl Open {
    fn push(&mut self, packet: Packet) -> Result<(), Error> {
        let long = packet.pts.saturating_sub(self.start) > CHUNK_SECONDS_MAX * i64::from(VIDEO_TIMESCALE);
        if long || self.packets.len() >= CHUNK_PACKETS_MAX || self.bytes + packet.payload.len() > CHUNK_BYTES_MAX {
            return Err(Error::TooLong { k: self.k });
        }
        if packet.pts >= self.start {
            self.bytes += packet.payload.len();
            self.packets.push(packet);
        }
        Ok(())
    }

    /// Gives the samples their times, up to `end`, where the next chunk starts.
    fn close(mut self, end: i64) -> Cut {
        // A mark that comes later than any chunk may last: the durations must still fit their fields.
        let end = end.min(self.start.saturating_add(i32::MAX.into()));
        // One tick is the least that a sample can last.
        self.packets.truncate(usize::try_from(end - self.start).expect("a chunk ends after its start"));
        let (len, first) = (self.packets.len() as i64, self.packets[0].dts);
        let mut times = Vec::with_capacity(self.packets.len() + 1);
        let mut earliest = self.start;
        for (i, packet) in (0..).zip(&self.packets) {
            // Every sample leaves at least a tick to each of those after it.
            let time = (self.start.saturating_add(packet.dts.saturating_sub(first))).clamp(earliest, end - (len - i));
            times.push(time);
            earliest = time + 1;
        }
        // The key frame is decoded at the start even if its successors' times are broken.
        debug_assert_eq!(times[0], self.start);
        times.push(end);
        let samples = self.packets.into_iter().zip(times.windows(2)).map(|(packet, time)| Sample {
            duration: (time[1] - time[0]) as u32,
            // A picture shown after the end would hide the next chunk's key frame.
            offset: (packet.pts.min(end - 1) - time[0]) as i32,
            key: packet.key,
            payload: packet.payload,
        });
        Cut { k: self.k, start: self.start, timescale: VIDEO_TIMESCALE, samples: samples.collect() }
    }
}

/// Cuts audio. Holds the frames from the first unfinished chunk on; times in samples.
struct Audio {
    rate: u32,
    frame_len: i64,
    frames: VecDeque<(i64, Bytes)>,
    bytes: usize,
    /// Marks of the unfinished chunks: number and the first sample that belongs to it.
    marks: VecDeque<(u64, i64)>,
    /// Start of the last frame taken; frames up to here are late.
    last: i64,
    /// A frame has come, and one since the last mark.
    came: bool,
    flows: bool,
}

impl Audio {
    fn new(rate: u32, frame_len: i64) -> Self {
        // Times are not negative, so any frame comes after -1.
        Self {
            rate,
            frame_len,
            frames: VecDeque::new(),
            bytes: 0,
            marks: VecDeque::new(),
            last: -1,
            came: false,
            flows: false,
        }
    }

    /// Gives the first sample at or after a time in 90 kHz.
    fn first_at(&self, at: i64) -> i64 {
        let (at, scale) = (i128::from(at), i128::from(VIDEO_TIMESCALE));
        (at * i128::from(self.rate) + scale - 1).div_euclid(scale) as i64
    }

    fn push(&mut self, packet: Packet) -> Result<Option<Cut>, Error> {
        let pts = packet.pts;
        if let Some(k) = packet.mark {
            if pts <= self.last || self.marks.back().is_some_and(|&(last, at)| k <= last || pts <= at) {
                return Err(Error::Backwards { k, at: pts, last: self.marks.back().map_or(0, |mark| mark.0) });
            }
            self.add_mark(k, pts);
        }
        if pts <= self.last || self.marks.front().is_some_and(|&(_, at)| pts < at) {
            return Ok(None);
        }
        if self.frames.len() >= CHUNK_PACKETS_MAX
            || self.bytes + packet.payload.len() > CHUNK_BYTES_MAX
            || self.frames.front().is_some_and(|front| pts - front.0 > CHUNK_SECONDS_MAX * i64::from(self.rate))
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
        self.bytes += packet.payload.len();
        self.frames.push_back((pts, packet.payload));
        Ok(self.cut_reached())
    }

    fn mark(&mut self, k: u64, at: i64) -> Option<Cut> {
        if at < 0 || self.marks.back().is_some_and(|&(last, last_at)| k <= last || at <= last_at) {
            return None;
        }
        // Before its first frame audio has not stopped, it is late.
        let stopped = !std::mem::take(&mut self.flows) && self.came;
        self.add_mark(k, at);
        if let Some(cut) = self.cut_reached() {
            return Some(cut);
        }
        // The chunk that has just got its end may wait for the frame that completes it; the chunks before wait only
        // while frames come. Frames that have not reached the end of the first chunk are all in it, so one cut at most
        // has any.
        let keep = if stopped { 2 } else { LAG_MARKS_MAX };
        let mut cut = None;
        while self.marks.len() > keep {
            let next = self.cut();
            cut = cut.or(next);
        }
        cut
    }

    fn finish(mut self, at: i64) -> Vec<Cut> {
        let end = self.first_at(at);
        while self.frames.back().is_some_and(|frame| frame.0 >= end) {
            self.frames.pop_back();
        }
        self.marks.retain(|mark| mark.1 < end);
        self.marks.push_back((u64::MAX, end));
        let mut cuts = Vec::new();
        while self.marks.len() > 1 {
            cuts.extend(self.cut());
        }
        cuts
    }

    /// Cuts every chunk whose end the frames have reached; at most one of them has frames, as these come in order.
    fn cut_reached(&mut self) -> Option<Cut> {
        let mut cut = None;
        while let (Some(&(_, end)), Some(last)) = (self.marks.get(1), self.frames.back())
            && last.0 >= end
        {
            // Evaluated in any case: the empty chunks after the cut one go too.
            let next = self.cut();
            cut = cut.or(next);
        }
        cut
    }

    /// Cuts the first of at least two marked chunks; nothing when it has no frames.
    fn cut(&mut self) -> Option<Cut> {
        let (k, _) = self.marks.pop_front()?;
        let end = self.marks.front()?.1;
        let count = self.frames.partition_point(|frame| frame.0 < end);
        let next = self.frames.get(count).map(|frame| frame.0);
        let frames: Vec<_> = self.frames.drain(..count).collect();
        self.bytes -= frames.iter().map(|frame| frame.1.len()).sum::<usize>();
        // Late frames of a chunk that is out must not come into the next.
        self.last = self.last.max(end - 1);
        let (start, last) = (frames.first()?.0, frames.last()?.0);
        // Where audio goes on, the last frame lasts until then. A hole of more than half a second is not put into this
        // chunk, whose duration must stay near that of the video beside it. Where audio stops, the last frame fills the
        // chunk.
        let until = match next.filter(|next| next - end <= i64::from(self.rate) / 2) {
            Some(next) => next,
            None if end - last >= 2 * self.frame_len => end,
            None => last + self.frame_len,
        };
        let times: Vec<_> = frames.iter().map(|frame| frame.0).chain([until]).collect();
        let samples = frames.into_iter().zip(times.windows(2)).map(|((_, payload), time)| Sample {
            duration: u32::try_from(time[1] - time[0]).unwrap_or(u32::MAX),
            offset: 0,
            key: true,
            payload,
        });
        Some(Cut { k, start, timescale: self.rate, samples: samples.collect() })
    }

    fn add_mark(&mut self, k: u64, at: i64) {
        while self.marks.is_empty() && self.frames.front().is_some_and(|frame| frame.0 < at) {
            self.pop_frame();
        }
        self.marks.push_back((k, at));
    }

    fn pop_frame(&mut self) {
        if let Some((_, payload)) = self.frames.pop_front() {
            self.bytes -= payload.len();
        }
    }
}

#[cfg(test)]
#[path = "chunker_tests.rs"]
mod tests;
