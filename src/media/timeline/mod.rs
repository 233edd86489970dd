//! The timeline of one publisher session: decides once, for every node, where chunks start.
//!
//! Configs and frames enter with the encoder's 32-bit milliseconds; marked packets on the broadcast's timeline leave as
//! [`Message`]s. The session's task drives it: [`Timeline::handle`] one input, [`Timeline::poll`] until empty, and when a
//! [`Output::NeedEpoch`] comes out, take an epoch from the log and [`Timeline::begin`] it. It never waits, reads no clock,
//! and decodes nothing. The rules are DESIGN section 3; [`marks`] has those for video, [`audio`] those for counting.

use std::collections::VecDeque;

use bytes::Bytes;

use self::{
    audio::{Counter, Place},
    clock::{Clock, Pace, TICKS},
    marks::{Frame, Habits, Marks, Step},
};
use super::{AudioConfig, Epoch, Message, Mode, Packet, Track, VIDEO_TIMESCALE, VideoConfig, codec, rescale};

mod audio;
mod clock;
mod marks;
#[cfg(test)]
mod tests;
mod warning;

pub use warning::Warning;

/// What a session is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The length of a chunk, `D`, in ms.
    pub chunk_ms: u32,
    /// Renditions can be encoded. If not, chunks always follow the source's keyframes.
    pub encode: bool,
}

/// What comes from the encoder. Times are its own, in ms.
#[derive(Debug, Clone)]
pub enum Input {
    VideoConfig(VideoConfig),
    Video {
        time_ms: u32,
        composition_ms: i32,
        payload: Bytes,
    },
    AudioConfig(AudioConfig),
    Audio {
        time_ms: u32,
        payload: Bytes,
    },
    /// The session is over.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Asks the driver for an epoch. No input is taken until [`Timeline::begin`]. `next` is the number after the last chunk
    /// and the time it would start at; `None` for the session's first.
    NeedEpoch {
        reason: Break,
        next: Option<(u64, i64)>,
    },
    Message(Message),
    /// For the streamer; the broadcast goes on.
    Warning(Warning),
}

/// Why an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The session's first.
    First,
    /// Time or frames are missing.
    TimeJump,
    /// A decoder has to be set up anew.
    ConfigChange,
    /// A track appeared that was not there at the start.
    LateTrack,
    /// The source's keyframes cannot be followed any more. Its first frame need not be a keyframe: a decoder has to go on
    /// from the epoch before.
    ModeChange,
}

/// Says why a session cannot go on. All but the last are the encoder's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no keyframe for more than {limit_s} s and nothing can be encoded here: set the keyframe interval to {} s (in OBS: \
         Settings, Output, Output Mode Advanced, Streaming, Keyframe Interval)",
        f64::from(*chunk_ms) / 1000.0
    )]
    KeyframeTooLate { chunk_ms: u32, limit_s: u32 },
    #[error(transparent)]
    Codec(#[from] codec::Error),
    #[error("an input came before the epoch that was asked for")]
    NotBegun,
    #[error("an input came after the end")]
    Ended,
}

/// A step forward of more than this against everything seen last is a jump of the clock.
const JUMP_AHEAD_MS: i64 = 5000;
/// A step back of more than this against the same track is a jump of the clock.
const JUMP_BACK_MS: i64 = 1000;
/// So much audio with no sign of video: it will not come.
const AUDIO_ALONE_MS: i64 = 1000;
/// How far audio may be from the video beside it.
const APART_MS: i64 = 5000;
/// How far ahead audio may be while an epoch is this young: after a step back of the clock, stragglers still have old times.
const YOUNG_MS: i64 = 2000;
const APART_YOUNG_MS: i64 = 1000;
/// Audio kept for the start of an epoch, which may lie a little in the past: more than encoders interleave.
const RECENT_MS: i64 = 3000;
const RECENT_MAX: usize = 512;

/// The machine. See the module for how it is driven.
#[derive(Debug)]
pub struct Timeline {
    habits: Habits,
    clock: Clock,
    pace: Pace,
    video: Option<VideoConfig>,
    /// The last sequence header as it came, to know a resend when parameter sets in the frames have overruled it.
    header: Option<Bytes>,
    audio: Option<AudioConfig>,
    audio_ms: Option<i64>,
    video_seen: bool,
    /// Audio of the last seconds: an epoch that starts in the past takes its part again.
    recent: VecDeque<Heard>,
    queue: VecDeque<Item>,
    state: State,
    reason: Break,
    next: Option<(u64, i64)>,
    /// Offset and count of the epoch before, to go on without a seam.
    before: Option<(i64, Counter)>,
    warned_open_gop: bool,
    failed: Option<Error>,
    out: VecDeque<Output>,
}

#[derive(Debug)]
struct Heard {
    ms: i64,
    payload: Bytes,
    /// Where it was placed in the epoch that ran when it came.
    pts: Option<i64>,
}

#[derive(Debug)]
enum Item {
    Input(Input),
    /// A frame that was taken in before and waits for its epoch.
    Frame(Frame),
    /// The same for audio.
    Heard {
        ms: i64,
        payload: Bytes,
    },
}

#[derive(Debug)]
enum State {
    /// No epoch runs: waits for something that can start a chunk.
    Idle,
    /// An epoch is asked for, to start at `anchor` ticks of the session's clock.
    Asked {
        anchor: i64,
        video: bool,
        reencode: bool,
    },
    Running(Box<Run>),
    Ended,
}

#[derive(Debug)]
struct Run {
    layout: Layout,
    counter: Option<Counter>,
    audio: Option<AudioConfig>,
    /// The next keyframe starts an epoch for this reason.
    pending: Option<Break>,
    /// Frames need a config that this epoch does not have.
    stale_video: bool,
    /// Where it starts on the broadcast's timeline, and on the session's clock in ms.
    at: i64,
    start_ms: i64,
    warned_apart: bool,
}

#[derive(Debug)]
enum Layout {
    Video(Marks),
    AudioOnly { k: u64, start: i64, offset: i64, opening: bool },
}

impl Run {
    fn offset(&self) -> i64 {
        match &self.layout {
            Layout::Video(marks) => marks.offset,
            Layout::AudioOnly { offset, .. } => *offset,
        }
    }
}

impl Timeline {
    pub fn new(config: Config) -> Self {
        Self {
            habits: Habits {
                // Bounds that keep sums sane; the config has its own, narrower ones.
                chunk_ms: config.chunk_ms.clamp(500, 60_000),
                encode: config.encode,
                gop: 0,
                interval: 3000,
                unreliable: false,
                target: None,
                warned_long: false,
            },
            clock: Clock::default(),
            pace: Pace::default(),
            video: None,
            header: None,
            audio: None,
            audio_ms: None,
            video_seen: false,
            recent: VecDeque::new(),
            queue: VecDeque::new(),
            state: State::Idle,
            reason: Break::First,
            next: None,
            before: None,
            warned_open_gop: false,
            failed: None,
            out: VecDeque::new(),
        }
    }

    /// Takes one input.
    ///
    /// # Errors
    /// The session cannot go on; every later call gives the same error. What was decided before can still be polled.
    pub fn handle(&mut self, input: Input) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.state {
            State::Asked { .. } => return Err(Error::NotBegun),
            State::Ended => return Err(Error::Ended),
            State::Idle | State::Running(_) => self.queue.push_back(Item::Input(input)),
        }
        self.run();
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Gives the next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Says if the renditions can be encoded; counts from the next time the mode is decided.
    pub fn set_encode(&mut self, encode: bool) {
        self.habits.encode = encode;
    }

    /// Begins the epoch that was asked for; without having been asked, does nothing.
    pub fn begin(&mut self, epoch: Epoch) {
        let State::Asked { anchor, video, reencode } = self.state else { return };
        let (k, at) = (epoch.k, epoch.at);
        let layout = if video {
            Layout::Video(Marks::new(&epoch, anchor, reencode))
        } else {
            Layout::AudioOnly { k, start: at, offset: at - anchor, opening: true }
        };
        self.say(Message::Epoch(epoch));
        if video && let Some(config) = self.video.clone() {
            self.say(Message::Video(config));
        }
        if let Some(config) = self.audio.clone() {
            self.say(Message::Audio(config));
        }
        if !video || reencode {
            let mode = if video { Mode::Reencode } else { Mode::AudioOnly };
            let target = self.habits.target();
            self.habits.target = Some(target);
            self.say(Message::Mode { mode, target });
        }
        let mut run = Run {
            layout,
            counter: None,
            audio: self.audio.clone(),
            pending: None,
            stale_video: false,
            at,
            start_ms: anchor.div_euclid(TICKS),
            warned_apart: false,
        };
        let counter = self.before.take().filter(|(offset, _)| *offset == run.offset()).map(|(_, counter)| counter);
        let seamless = counter.is_some();
        run.counter = counter;
        self.state = State::Running(Box::new(run));
        self.resume_audio(seamless, at);
        self.run();
    }

    /// Takes audio again that came before the epoch it belongs to, behind the frames that wait for the epoch.
    fn resume_audio(&mut self, seamless: bool, at: i64) {
        let Some(rate) = self.audio.as_ref().map(|config| config.sample_rate) else { return };
        if seamless {
            // It has its place already: the same again, for the chunk it falls into now.
            let first = rescale(at, VIDEO_TIMESCALE, rate);
            for heard in &self.recent {
                if let Some(pts) = heard.pts.filter(|&pts| pts >= first) {
                    self.out.push_back(audio_packet(pts, None, heard.payload.clone()));
                }
            }
        } else {
            let frames = self.queue.iter().take_while(|item| matches!(item, Item::Frame(_))).count();
            let rest = self.queue.split_off(frames);
            self.audio_ms = None;
            self.queue.extend(self.recent.drain(..).map(|Heard { ms, payload, .. }| Item::Heard { ms, payload }));
            self.queue.extend(rest);
        }
    }

    fn say(&mut self, message: Message) {
        self.out.push_back(Output::Message(message));
    }

    fn warn(&mut self, warning: Warning) {
        self.out.push_back(Output::Warning(warning));
    }

    fn run(&mut self) {
        while self.failed.is_none() && matches!(self.state, State::Idle | State::Running(_)) {
            let Some(item) = self.queue.pop_front() else { break };
            let done = match item {
                Item::Input(Input::VideoConfig(config)) => {
                    self.video_config(config);
                    Ok(())
                }
                Item::Input(Input::AudioConfig(config)) => {
                    self.audio_config(config);
                    Ok(())
                }
                Item::Input(Input::Video { time_ms, composition_ms, payload }) => {
                    self.video(time_ms, composition_ms, payload)
                }
                Item::Input(Input::Audio { time_ms, payload }) => {
                    if !payload.is_empty() && self.audio.is_some() {
                        let ms = self.clock.unwrap(time_ms);
                        self.audio(ms, payload);
                    }
                    Ok(())
                }
                Item::Frame(frame) => self.place(frame),
                Item::Heard { ms, payload } => {
                    self.audio(ms, payload);
                    Ok(())
                }
                Item::Input(Input::End) => {
                    self.end();
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.close(Break::TimeJump, None);
                (self.state, self.failed) = (State::Ended, Some(error));
            }
        }
    }

    fn video_config(&mut self, config: VideoConfig) {
        if self.header.replace(config.avcc.clone()).as_ref() == Some(&config.avcc) {
            return;
        }
        self.video_seen = true;
        if self.video.replace(config.clone()).is_some_and(|old| old != config)
            && let State::Running(run) = &mut self.state
            && matches!(run.layout, Layout::Video(_))
        {
            run.stale_video = true;
            run.pending = Some(Break::ConfigChange);
        }
    }

    fn audio_config(&mut self, config: AudioConfig) {
        if self.audio.as_ref() != Some(&config) {
            // What was heard before needs the old config.
            self.recent.clear();
            self.before = None;
            self.audio = Some(config);
        }
    }

    fn video(&mut self, time_ms: u32, composition_ms: i32, payload: Bytes) -> Result<(), Error> {
        if payload.is_empty() {
            return Ok(());
        }
        self.video_seen = true;
        let ms = self.clock.unwrap(time_ms);
        if let Some(last) = self.pace.last_ms() {
            let newest = self.audio_ms.map_or(last, |audio| audio.max(last));
            if ms - newest > JUMP_AHEAD_MS || ms - last < -JUMP_BACK_MS {
                self.pace.jump();
                self.recent.clear();
                self.audio_ms = None;
                if matches!(&self.state, State::Running(run) if matches!(run.layout, Layout::Video(_))) {
                    self.warn(Warning::TimeJump { by_ms: ms - last });
                    self.close(Break::TimeJump, None);
                }
            }
        }
        let Some(config) = &self.video else { return Ok(()) };
        let key = codec::is_idr(&payload, config.nal_len());
        if key {
            match config.with_inband(&payload) {
                Some(Ok(config)) => self.inband_config(config),
                Some(Err(error @ codec::Error::Unsupported(_))) => return Err(error.into()),
                // A decoder may still make sense of it.
                Some(Err(codec::Error::Malformed { .. })) | None => {}
            }
        } else if !self.warned_open_gop && codec::is_recovery_point(&payload, config.nal_len()) {
            self.warned_open_gop = true;
            self.warn(Warning::OpenGop);
        }
        let stamp = self.pace.stamp(ms, composition_ms);
        self.place(Frame { stamp, key, payload })
    }

    fn inband_config(&mut self, config: VideoConfig) {
        self.video = Some(config);
        if let State::Running(run) = &mut self.state
            && matches!(run.layout, Layout::Video(_))
        {
            run.pending = Some(Break::ConfigChange);
        }
    }

    /// Gives a stamped frame its place, or makes one.
    fn place(&mut self, frame: Frame) -> Result<(), Error> {
        self.habits.interval = self.pace.interval();
        match &mut self.state {
            State::Running(run) => match &mut run.layout {
                Layout::Video(marks) => {
                    if frame.key
                        && let Some(reason) = run.pending
                    {
                        let anchor = frame.stamp.pts;
                        self.split(reason, anchor, vec![frame]);
                    } else if !run.stale_video {
                        match marks.place(frame, &mut self.habits, &mut self.out)? {
                            Step::Done => {}
                            Step::Split { reason, anchor, frames } => self.split(reason, anchor, frames),
                            Step::Resync { frame } => {
                                self.warn(Warning::VideoGap { ms: frame.stamp.gap_ms });
                                if frame.key {
                                    let anchor = frame.stamp.pts;
                                    self.split(Break::TimeJump, anchor, vec![frame]);
                                } else {
                                    self.close(Break::TimeJump, None);
                                }
                            }
                        }
                    }
                }
                Layout::AudioOnly { .. } if frame.key => {
                    let anchor = frame.stamp.pts;
                    self.split(Break::LateTrack, anchor, vec![frame]);
                }
                Layout::AudioOnly { .. } => {}
            },
            State::Idle if frame.key => {
                let anchor = frame.stamp.pts;
                self.ask(anchor, vec![frame]);
            }
            State::Idle | State::Asked { .. } | State::Ended => {}
        }
        Ok(())
    }

    /// Ends the epoch before `frames` and asks for the next, which the frame at `anchor` starts.
    fn split(&mut self, reason: Break, anchor: i64, frames: Vec<Frame>) {
        self.close(reason, Some(anchor));
        self.ask(anchor, frames);
    }

    /// Ends the running epoch. When the frame at `anchor` follows without a gap, it ends exactly there.
    fn close(&mut self, reason: Break, anchor: Option<i64>) {
        let State::Running(mut run) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let offset = run.offset();
        let audio_end = audio_end(&run);
        let (k, at) = match &mut run.layout {
            Layout::Video(marks) => {
                marks.release(&mut self.habits, &mut self.out);
                let end = marks.end(&self.habits);
                let follows = anchor.map(|anchor| anchor + offset).filter(|&at| {
                    (end - self.habits.interval..=end + self.habits.interval).contains(&at)
                        && at > marks.start
                        && at - marks.start <= marks.limit(&self.habits)
                });
                (marks.k, follows.unwrap_or(end))
            }
            Layout::AudioOnly { k, start, .. } => (*k, audio_end.max(*start + 1)),
        };
        self.before = run.counter.take().filter(|_| self.audio == run.audio).map(|counter| (offset, counter));
        self.say(Message::End { at });
        (self.reason, self.next) = (reason, Some((k + 1, at)));
    }

    fn ask(&mut self, anchor: i64, frames: Vec<Frame>) {
        let first = frames.iter().find(|frame| frame.stamp.pts == anchor);
        let reencode = first.is_some_and(|frame| !frame.key) || (self.habits.encode && self.habits.unreliable);
        self.state = State::Asked { anchor, video: !frames.is_empty(), reencode };
        frames.into_iter().rev().for_each(|frame| self.queue.push_front(Item::Frame(frame)));
        self.out.push_back(Output::NeedEpoch { reason: self.reason, next: self.next });
    }

    /// Takes an audio frame whose time is unwrapped.
    fn audio(&mut self, ms: i64, payload: Bytes) {
        match &mut self.state {
            State::Idle => {
                self.audio_ms = Some(ms);
                self.hear(ms, payload, None);
                let first = self.recent.front().map_or(ms, |heard| heard.ms);
                // An audio-only session that was interrupted need not wait again.
                if !self.video_seen && (self.next.is_some() || ms - first >= AUDIO_ALONE_MS) {
                    self.ask(first * TICKS, Vec::new());
                }
            }
            State::Running(run) => match run.layout {
                Layout::Video(_) => self.audio_beside_video(ms, payload),
                Layout::AudioOnly { .. } => self.audio_alone(ms, payload),
            },
            State::Asked { .. } | State::Ended => {}
        }
    }

    fn hear(&mut self, ms: i64, payload: Bytes, pts: Option<i64>) {
        while self.recent.len() >= RECENT_MAX || self.recent.front().is_some_and(|old| (ms - old.ms).abs() > RECENT_MS)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(Heard { ms, payload, pts });
    }

    fn audio_beside_video(&mut self, ms: i64, payload: Bytes) {
        let State::Running(run) = &mut self.state else { return };
        if run.audio != self.audio {
            // Waits for the epoch that has its config.
            let reason = if run.audio.is_none() { Break::LateTrack } else { Break::ConfigChange };
            run.pending.get_or_insert(reason);
            return self.hear(ms, payload, None);
        }
        let video_ms = self.pace.last_ms().unwrap_or(ms);
        let young = video_ms - run.start_ms < YOUNG_MS;
        let apart = ms - video_ms;
        if apart.abs() > APART_MS || (young && run.counter.is_none() && apart > APART_YOUNG_MS) {
            if !young && !std::mem::replace(&mut run.warned_apart, true) {
                self.warn(Warning::AudioApart { ms: apart });
            }
            return;
        }
        self.audio_ms = Some(ms);
        let offset = run.offset();
        let pts = self.count(ms, offset);
        if let Some(pts) = pts {
            self.out.push_back(audio_packet(pts, None, payload.clone()));
        }
        self.hear(ms, payload, pts);
    }

    /// Gives a frame its time by counting. `None`: it is dropped, because its time was already played or is before the epoch.
    fn count(&mut self, ms: i64, offset: i64) -> Option<i64> {
        let State::Running(run) = &mut self.state else { return None };
        let config = run.audio.as_ref()?;
        let told = rescale(ms * TICKS + offset, VIDEO_TIMESCALE, config.sample_rate);
        let counter = match &mut run.counter {
            Some(counter) => counter,
            None if told < rescale(run.at, VIDEO_TIMESCALE, config.sample_rate) => return None,
            None => run.counter.insert(Counter::new(config, told)),
        };
        let in_ms = |samples: i64| samples * 1000 / i64::from(config.sample_rate);
        let (pts, warning) = match counter.place(told) {
            Place::At { pts, skipped: 0 } => (Some(pts), None),
            Place::At { pts, skipped } if in_ms(skipped) >= audio::SUDDEN_MS => {
                (Some(pts), Some(Warning::AudioGap { ms: in_ms(skipped) }))
            }
            Place::At { pts, skipped } => (Some(pts), Some(Warning::AudioDrift { ms: in_ms(skipped) })),
            Place::Drop { first } => (None, first.then_some(Warning::AudioBack)),
        };
        if let Some(warning) = warning {
            self.warn(warning);
        }
        pts
    }

    fn audio_alone(&mut self, ms: i64, payload: Bytes) {
        let step = self.audio_ms.map_or(0, |last| ms - last);
        self.audio_ms = Some(ms);
        let State::Running(run) = &mut self.state else { return };
        let Layout::AudioOnly { start, offset, .. } = run.layout else { return };
        let jump = !(-JUMP_BACK_MS..=JUMP_AHEAD_MS).contains(&step);
        let limit = marks::longest(self.habits.target());
        let overrun = ms * TICKS + offset - start > limit;
        if jump || overrun || run.audio != self.audio {
            let reason = if run.audio != self.audio { Break::ConfigChange } else { Break::TimeJump };
            if reason == Break::TimeJump {
                self.warn(Warning::TimeJump { by_ms: step });
            }
            self.close(reason, None);
            self.recent.clear();
            self.hear(ms, payload, None);
            return self.ask(ms * TICKS, Vec::new());
        }
        let Some(pts) = self.count(ms, offset) else { return };
        let mark = self.audio_mark(pts);
        self.out.push_back(audio_packet(pts, mark, payload.clone()));
        self.hear(ms, payload, Some(pts));
    }

    /// Gives the number of the chunk that an audio frame starts in an audio-only epoch.
    fn audio_mark(&mut self, pts: i64) -> Option<u64> {
        let State::Running(run) = &mut self.state else { return None };
        let rate = run.audio.as_ref()?.sample_rate;
        let Layout::AudioOnly { k, start, opening, .. } = &mut run.layout else { return None };
        let at = rescale(pts, rate, VIDEO_TIMESCALE);
        if std::mem::take(opening) {
            return Some(*k);
        }
        if at - *start < i64::from(self.habits.chunk_ms) * TICKS {
            return None;
        }
        (*k, *start) = (*k + 1, at);
        Some(*k)
    }

    fn end(&mut self) {
        if matches!(self.state, State::Idle) && !self.video_seen && self.next.is_none() {
            // Too short to know that no video comes; now it is known.
            if let Some(first) = self.recent.front() {
                let anchor = first.ms * TICKS;
                self.queue.push_front(Item::Input(Input::End));
                return self.ask(anchor, Vec::new());
            }
        }
        self.close(Break::TimeJump, None);
        self.state = State::Ended;
    }
}

fn audio_packet(pts: i64, mark: Option<u64>, payload: Bytes) -> Output {
    Output::Message(Message::Packet(Packet { track: Track::Audio, pts, dts: pts, key: true, mark, payload }))
}

/// Gives the end of the last audio frame in ticks of video time.
fn audio_end(run: &Run) -> i64 {
    match (&run.counter, &run.audio) {
        (Some(counter), Some(config)) => rescale(counter.end(), config.sample_rate, VIDEO_TIMESCALE),
        _ => i64::MIN,
    }
}
