//! Takes chunks in, decides which of their samples are in the file and when they are shown.

use std::{collections::VecDeque, sync::Arc};

use super::{
    InitInfo, Progressive, Sample, Samples,
    moov::{Edit, Plan},
    seam::{self, Edge},
    track::{Place, Tables},
    walk::TIME_MAX,
};
use crate::media::{Track, VIDEO_TIMESCALE};

/// Most samples of a track: three days of 60 pictures a second. Their tables take 300 MB, far below what fits a `moov`.
const SAMPLES_MAX: u32 = 1 << 24;
/// Most audio frames that wait for a picture to tell whether they are heard; 10 minutes.
const WAITING_MAX: usize = 1 << 15;

/// Which part of the broadcast the file shows; times in 90 kHz on the broadcast's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    Whole,
    /// The pictures with `from <= pts < to`, each for its whole duration, and the audio beside them; without video, the
    /// audio from `from` to `to` to the sample.
    Clip {
        from: i64,
        to: i64,
    },
}

/// Says why a chunk was not added: it is at fault. The builder is as before, so the caller may go on without it, as if
/// it were missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Track 0 is video or the only audio; track 1 is audio beside video; neither changes.
    #[error("chunk of another kind of track")]
    WrongTrack,
    /// A chunk of video that cannot be decoded alone.
    #[error("chunk does not start with a key frame")]
    NotKey,
    /// It does not start after the start of the chunk before it.
    #[error("chunk starts at {at}, which is not after {last}")]
    Backwards { at: i64, last: i64 },
    /// The hole before it lasts longer than a sample can: 2^32 ticks, 13 hours of 90 kHz.
    #[error("chunk starts {ticks} ticks after the last sample, which cannot last that long")]
    Leap { ticks: i64 },
    /// The track has 2^24 samples, or as many chunks were added.
    #[error("too many samples")]
    TooMany,
}

/// Nothing of what was added is shown in the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no sample lies in the bounds")]
pub struct Empty;

/// Makes a [`Progressive`] of chunks. Memory goes with the samples added, some 20 bytes each at most.
#[derive(Debug)]
pub struct Builder {
    bounds: Bounds,
    tracks: [Option<Line>; 2],
    /// Chunks that were added.
    order: u32,
    /// What the settled chunks of video show.
    shown: Option<Shown>,
    audio: Waiting,
}

/// One track on its way. A chunk is held until the next one tells when it has to end.
#[derive(Debug)]
struct Line {
    kind: Track,
    /// Of the track, as its first init segment says; other chunks' times are converted.
    timescale: u32,
    tables: Tables,
    held: Option<(Place, Vec<Sample>)>,
    /// Starts after which the held chunk, and the one after it, must lie.
    floor: Edge,
    last_start: i64,
    /// Samples taken, those that turn out not to be needed too.
    count: u32,
}

/// The pictures shown, in ticks of the video: the time of the first, and the end of the last.
#[derive(Debug, Clone, Copy)]
struct Shown {
    from: i64,
    to: i64,
}

/// Audio frames that are settled, but not known to be needed.
#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<(Place, Sample)>,
    /// Start of the first frame that is heard, once it is known.
    heard: Option<i64>,
}

impl Builder {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, tracks: [None, None], order: 0, shown: None, audio: Waiting::default() }
    }

    /// Takes the next chunk, of track 0 (video, or audio that is alone) or 1 (audio beside video). Chunks come in the
    /// order of their numbers, per number video before audio; `chunk` is given back in [`Span::Media`](super::Span).
    ///
    /// The first chunks of a clip decide where decoding starts; a chunk that shows nothing is no part of the file. A
    /// chunk without samples is ignored.
    pub fn add(&mut self, track: usize, chunk: u64, init: &Arc<InitInfo>, samples: Samples) -> Result<(), Refused> {
        let allowed = match (track, init.kind, &self.tracks) {
            (0, kind, [Some(line), _]) => line.kind == kind,
            (0, kind, [None, beside]) => kind == Track::Video || beside.is_none(),
            (1, Track::Audio, [video, _]) => video.as_ref().is_none_or(|line| line.kind == Track::Video),
            _ => false,
        };
        if !allowed {
            return Err(Refused::WrongTrack);
        }
        let mut samples = samples.0;
        let Some(first) = samples.first() else { return Ok(()) };
        if init.kind == Track::Video && !first.sync {
            return Err(Refused::NotKey);
        }
        let line = &self.tracks[track];
        let timescale = line.as_ref().map_or(init.timescale, |line| line.timescale);
        if timescale != init.timescale {
            samples.iter_mut().for_each(|sample| convert(sample, init.timescale, timescale));
        }
        let start = Edge::start(&samples).unwrap_or(Edge::LAST);
        if let Some(line) = line {
            line.check(start.time, samples.len())?;
        }
        self.order = self.order.checked_add(1).ok_or(Refused::TooMany)?;
        let settled = self.tracks[track].as_mut().and_then(|line| line.settle(start));
        let line = self.tracks[track].get_or_insert_with(|| Line::new(init));
        let place = Place { order: self.order, chunk, init: init.clone() };
        line.last_start = start.time;
        line.count += samples.len() as u32;
        line.held = Some((place, samples));
        if let Some((place, samples)) = settled {
            self.take(track, place, samples, start.shown);
        }
        Ok(())
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<Progressive, Empty> {
        for track in 0..2 {
            let settled = self.tracks[track].as_mut().and_then(|line| line.settle(Edge::LAST));
            if let Some((place, samples)) = settled {
                self.take(track, place, samples, Edge::LAST.shown);
            }
        }
        let heard = self.audio.heard;
        let window = self.window();
        let [first, second] = self.tracks.map(|line| line.filter(|line| line.tables.count > 0));
        let first = first.ok_or(Empty)?;
        let movie = first.timescale;
        // Of audio alone, its first frame heard is the movie's start.
        let Some(shown) = self.shown else {
            let (_, edit) = first.heard(heard, window, movie, None);
            return if edit.duration == 0 {
                Err(Empty)
            } else {
                Ok(Progressive::new(movie, vec![first.plan(vec![edit])]))
            };
        };
        let begin = shown.from;
        let video = Edit { duration: shown.to.abs_diff(begin), media: Some(begin - first.tables.start) };
        let mut plans = vec![first.plan(vec![video])];
        if let Some(line) = second {
            let (late, edit) = line.heard(heard, window, movie, Some(begin));
            plans.push(line.plan(late.into_iter().chain([edit]).collect()));
        }
        Ok(Progressive::new(movie, plans))
    }

    /// Takes a chunk whose times are settled. `until` is when the next one is shown.
    fn take(&mut self, track: usize, place: Place, samples: Vec<Sample>, until: i64) {
        let Some(line) = &mut self.tracks[track] else { return };
        match line.kind {
            Track::Video => {
                let bounds = self.bounds.ticks(line.timescale);
                self.shown = line.show(&place, &samples, bounds, until, self.shown);
            }
            Track::Audio => self.audio.frames.extend(samples.into_iter().map(|sample| (place.clone(), sample))),
        }
        let window = self.window();
        let [first, second] = &mut self.tracks;
        let line = [second, first].into_iter().flatten().find(|line| line.kind == Track::Audio);
        if let Some(line) = line {
            self.audio.pass(window, &mut line.tables);
        }
    }

    /// Tells from when to when audio is heard, in its own ticks, as far as it is known; none before the first picture.
    fn window(&self) -> Option<(i64, i64)> {
        match &self.tracks {
            [Some(line), _] if line.kind == Track::Audio => Some(self.bounds.ticks(line.timescale)),
            [Some(video), Some(audio)] => self.shown.map(|shown| {
                let ticks = |time| rescale(time, video.timescale, audio.timescale);
                let to = if self.bounds == Bounds::Whole { i64::MAX } else { ticks(shown.to) };
                (ticks(shown.from), to)
            }),
            _ => None,
        }
    }

    /// Tells how many bytes of memory it takes, nearly. The file takes no more when it is finished.
    pub fn weight(&self) -> usize {
        let lines: usize = self.tracks.iter().flatten().map(|line| line.tables.weight()).sum();
        lines + self.audio.frames.capacity() * size_of::<(Place, Sample)>()
    }
}

impl Bounds {
    /// The first tick in the bounds, and the first after them.
    fn ticks(self, timescale: u32) -> (i64, i64) {
        let Self::Clip { from, to } = self else { return (i64::MIN, i64::MAX) };
        let (of, per) = (i128::from(timescale), i128::from(VIDEO_TIMESCALE));
        let first_at = |time: i64| {
            let ticks = (i128::from(time) * of + per - 1).div_euclid(per);
            ticks.clamp(i64::MIN.into(), i64::MAX.into()) as i64
        };
        (first_at(from), first_at(to))
    }
}

/// Converts a time to the nearest one of another timescale; no further from zero than any time.
fn rescale(ticks: i64, from: u32, to: u32) -> i64 {
    let (ticks, from, to) = (i128::from(ticks), i128::from(from), i128::from(to));
    ((ticks * to + from / 2).div_euclid(from)).clamp((-TIME_MAX).into(), TIME_MAX.into()) as i64
}

fn convert(sample: &mut Sample, from: u32, to: u32) {
    let end = rescale(sample.time + i64::from(sample.duration), from, to);
    sample.time = rescale(sample.time, from, to);
    sample.shown = rescale(sample.shown, from, to);
    sample.duration = u32::try_from(end - sample.time).unwrap_or(u32::MAX);
}

impl Line {
    fn new(init: &InitInfo) -> Self {
        let (kind, timescale) = (init.kind, init.timescale);
        Self { kind, timescale, tables: Tables::new(), held: None, floor: Edge::FIRST, last_start: i64::MIN, count: 0 }
    }

    /// Tells whether a chunk that starts at `at` can be the next.
    fn check(&self, at: i64, samples: usize) -> Result<(), Refused> {
        if at <= self.last_start {
            return Err(Refused::Backwards { at, last: self.last_start });
        }
        let last = self.held.as_ref().and_then(|(_, samples)| samples.last());
        let ticks = last.map_or(0, |last| at - last.time);
        if ticks > i64::from(u32::MAX) {
            return Err(Refused::Leap { ticks });
        }
        let count = u32::try_from(samples).ok().and_then(|samples| self.count.checked_add(samples));
        match count {
            Some(..=SAMPLES_MAX) => Ok(()),
            _ => Err(Refused::TooMany),
        }
    }

    /// Gives the held chunk its times, now that the next starts at `until`.
    fn settle(&mut self, until: Edge) -> Option<(Place, Vec<Sample>)> {
        let (place, mut samples) = self.held.take()?;
        seam::fit(&mut samples, self.floor, until);
        self.floor = Edge::after(&samples)?;
        Some((place, samples))
    }

    /// Puts the pictures of a chunk into the file if one of them is in the bounds: from its key frame, without which none
    /// can be decoded, to the last that is needed. Gives what is shown by then.
    fn show(
        &mut self,
        place: &Place,
        samples: &[Sample],
        (from, to): (i64, i64),
        until: i64,
        shown: Option<Shown>,
    ) -> Option<Shown> {
        let inside = || samples.iter().map(|sample| sample.shown).filter(|at| (from..to).contains(at));
        let (Some(first), Some(last)) = (inside().min(), inside().max()) else { return shown };
        let needed = samples.iter().rposition(|sample| sample.shown < to).map_or(0, |last| last + 1);
        samples[..needed].iter().for_each(|sample| self.tables.append(place, sample));
        let next = samples.iter().map(|sample| sample.shown).filter(|at| *at > last).min();
        let end = next.unwrap_or_else(|| end_shown(samples).max(last + 1).min(until));
        Some(Shown {
            from: shown.map_or(first, |shown| shown.from.min(first)),
            to: shown.map_or(end, |shown| shown.to.max(end)),
        })
    }

    /// Makes the edit of audio that is heard from the frame at `heard` on, inside `window`, and the empty one before it.
    /// `begin` is when the movie starts, in its timescale; without, with this audio.
    fn heard(
        &self,
        heard: Option<i64>,
        window: Option<(i64, i64)>,
        movie: u32,
        begin: Option<i64>,
    ) -> (Option<Edit>, Edit) {
        let (from, to) = window.unwrap_or((i64::MIN, i64::MAX));
        let first = heard.unwrap_or(self.tables.start);
        let (at, end) = (first.max(from), self.tables.end().min(to));
        let ticks = |time| rescale(time, self.timescale, movie);
        // The window starts with the movie, but for rounding.
        let start = begin.filter(|_| at == from).unwrap_or(ticks(at));
        let late = begin.map_or(0, |begin| start - begin);
        let empty = (late > 0).then_some(Edit { duration: late.unsigned_abs(), media: None });
        (empty, Edit { duration: (ticks(end) - start).max(0).unsigned_abs(), media: Some(at - self.tables.start) })
    }

    fn plan(self, edits: Vec<Edit>) -> Plan {
        Plan { timescale: self.timescale, tables: self.tables, edits }
    }
}

/// Tells until when the last picture of a chunk is shown: pictures are shown as long, together, as they are decoded.
fn end_shown(samples: &[Sample]) -> i64 {
    let (Some(start), Some(last)) = (Edge::start(samples), samples.last()) else { return i64::MIN };
    start.shown + (last.time + i64::from(last.duration) - start.time)
}

impl Waiting {
    /// Moves the frames that are heard in the window, and the one before them, into the file. Those before are dropped,
    /// those after wait until the window's end is known.
    fn pass(&mut self, window: Option<(i64, i64)>, tables: &mut Tables) {
        let Some((from, to)) = window else {
            // The first picture is still to come, so the oldest are not heard.
            let surplus = self.frames.len().saturating_sub(WAITING_MAX);
            self.frames.drain(..surplus);
            return;
        };
        let heard = |sample: &Sample| sample.time + i64::from(sample.duration) > from;
        while self.heard.is_none() {
            match (self.frames.front(), self.frames.get(1)) {
                (Some((_, first)), _) if heard(first) => self.heard = Some(first.time),
                (Some(_), Some((_, second))) if heard(second) => self.heard = Some(second.time),
                (Some(_), Some(_)) => drop(self.frames.pop_front()),
                _ => return,
            }
        }
        // While video is missing and audio is not, too many would wait; the edit hides what is too much.
        while self.frames.len() > WAITING_MAX || self.frames.front().is_some_and(|(_, frame)| frame.time < to) {
            let Some((place, frame)) = self.frames.pop_front() else { return };
            tables.append(&place, &frame);
        }
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
