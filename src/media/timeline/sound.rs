//! How a session's audio finds its place: beside video, or alone.

use bytes::Bytes;

use super::{
    Break, Heard, Item, JUMP_AHEAD_MS, JUMP_BACK_MS, Layout, Output, Run, State, Timeline, Warning,
    audio::{self, Counter, Place},
    clock::TICKS,
    marks,
};
use crate::media::{AudioConfig, Message, Packet, Track, VIDEO_TIMESCALE, rescale};

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

impl Timeline {
    pub(super) fn audio_config(&mut self, config: AudioConfig) {
        if self.audio.as_ref() != Some(&config) {
            // What was heard before needs the old config.
            self.recent.clear();
            self.before = None;
            self.audio = Some(config);
        }
    }

    /// Takes an audio frame whose time is unwrapped.
    pub(super) fn audio(&mut self, ms: i64, payload: Bytes) {
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
        let AudioConfig { sample_rate: rate, frame_len, .. } = *run.audio.as_ref()?;
        let Layout::AudioOnly { k, start, opening, .. } = &mut run.layout else { return None };
        let at = rescale(pts, rate, VIDEO_TIMESCALE);
        if std::mem::take(opening) {
            return Some(*k);
        }
        // A frame behind the mark must still fit the playlist's target.
        let frame = rescale(frame_len.into(), rate, VIDEO_TIMESCALE);
        let last_fit = marks::longest(self.habits.target()) - frame;
        if at - *start < (i64::from(self.habits.chunk_ms) * TICKS).min(last_fit) {
            return None;
        }
        (*k, *start) = (*k + 1, at);
        Some(*k)
    }

    /// Takes audio again that came before the epoch it belongs to, behind the frames that wait for the epoch.
    pub(super) fn resume_audio(&mut self, seamless: bool, at: i64) {
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
}

fn audio_packet(pts: i64, mark: Option<u64>, payload: Bytes) -> Output {
    Output::Message(Message::Packet(Packet { track: Track::Audio, pts, dts: pts, key: true, mark, payload }))
}

/// Gives the end of the last audio frame in ticks of video time.
pub(super) fn audio_end(run: &Run) -> i64 {
    match (&run.counter, &run.audio) {
        (Some(counter), Some(config)) => rescale(counter.end(), config.sample_rate, VIDEO_TIMESCALE),
        _ => i64::MIN,
    }
}
