//! The timeline of one publisher session: decides once, for every node, where chunks start.
//!
//! Configs and frames enter with the encoder's 32-bit milliseconds; marked packets on the broadcast's timeline leave as
//! [`Message`]s. The session's task drives it: [`Timeline::handle`] one input, [`Timeline::poll`] until empty, and when a
//! [`Output::NeedEpoch`] comes out, take an epoch from the log and [`Timeline::begin`] it. It never waits, reads no clock,
//! and decodes nothing. The rules are DESIGN section 3; `marks` has those for video, `sound` and `audio` those for audio.

use std::collections::VecDeque;

use bytes::Bytes;

use self::{
    audio::Counter,
    clock::{Clock, Pace, TICKS},
    marks::{Frame, Habits, Marks, Step},
};
use super::{AudioConfig, Epoch, Message, Mode, VideoConfig, codec};

mod audio;
mod clock;
mod marks;
mod sound;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// Says why a session cannot go on. All but the last two are the encoder's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no keyframe for more than {limit_s} s and nothing can be encoded here: set the keyframe interval to {} s (in OBS: \
         Settings, Output, Output Mode Advanced, Streaming, Keyframe Interval)",
        f64::from(*chunk_ms) / 1000.0
    )]
    KeyframeTooLate { chunk_ms: u32, limit_s: u32 },
    #[error(
        "no keyframe in the first {limit_s} s of video, so nobody can watch it: set a keyframe interval in the encoder"
    )]
    NoKeyframe { limit_s: i64 },
    #[error("no video for {limit_s} s while audio went on: restart the stream in the encoder")]
    VideoStopped { limit_s: i64 },
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
/// Video that nobody can start to decode for this long will not become any better. Encoders set the longest distance
/// between keyframes to some 10 s; a relay may join in its middle.
const KEYFRAME_WAIT_MS: i64 = 30_000;
/// Audio that goes on alone for this long where there was video, or was to be: chunks cannot be cut without it.
const VIDEO_WAIT_MS: i64 = 10_000;

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
    /// The first video frame of those that wait for a keyframe, in ms.
    keyless_since: Option<i64>,
    /// How much audio came since the last video frame, in ms, and when the last of it.
    blind_ms: i64,
    heard_ms: Option<i64>,
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
            keyless_since: None,
            blind_ms: 0,
            heard_ms: None,
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
                        self.hears(ms).map(|()| self.audio(ms, payload))
                    } else {
                        Ok(())
                    }
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

    fn video(&mut self, time_ms: u32, composition_ms: i32, payload: Bytes) -> Result<(), Error> {
        if payload.is_empty() {
            return Ok(());
        }
        (self.video_seen, self.blind_ms) = (true, 0);
        let ms = self.clock.unwrap(time_ms);
        if let Some(last) = self.pace.last_ms() {
            let newest = self.audio_ms.map_or(last, |audio| audio.max(last));
            if ms - newest > JUMP_AHEAD_MS || ms - last < -JUMP_BACK_MS {
                self.pace.jump();
                self.keyless_since = None;
                self.recent.clear();
                self.audio_ms = None;
                if matches!(&self.state, State::Running(run) if matches!(run.layout, Layout::Video(_))) {
                    self.warn(Warning::TimeJump { by_ms: ms - last });
                    self.close(Break::TimeJump, None);
                }
            }
        }
        let key = self.video.as_ref().is_some_and(|config| codec::is_idr(&payload, config.nal_len()));
        if key || !matches!(self.state, State::Idle) {
            self.keyless_since = None;
        } else if ms - *self.keyless_since.get_or_insert(ms) > KEYFRAME_WAIT_MS {
            return Err(Error::NoKeyframe { limit_s: KEYFRAME_WAIT_MS / 1000 });
        }
        let Some(config) = &self.video else { return Ok(()) };
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

    /// Notes that audio came, and finds that video no longer does.
    fn hears(&mut self, ms: i64) -> Result<(), Error> {
        // A jump of the clock is no time that passed.
        self.blind_ms += self.heard_ms.replace(ms).map_or(0, |last| (ms - last).clamp(0, 1000));
        let alone = matches!(&self.state, State::Running(run) if matches!(run.layout, Layout::AudioOnly { .. }));
        if self.video_seen && !alone && self.blind_ms > VIDEO_WAIT_MS {
            return Err(Error::VideoStopped { limit_s: VIDEO_WAIT_MS / 1000 });
        }
        Ok(())
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
        let audio_end = sound::audio_end(&run);
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
