//! What comes in from an encoder, measured: bitrate, pictures, keyframes, and whether it comes in time. A machine; time is an argument.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    id::Rendition,
    media::{Packet, Track, VIDEO_TIMESCALE},
    store::RenditionRow,
    time::{Timestamp, UnixMs},
};

/// One step of the history, and how many there are: two minutes.
const STEP: Duration = Duration::from_secs(2);
const STEPS: usize = 60;
/// What is told as "now" is the mean of so many whole steps.
const NOW: usize = 2;
/// A picture that is missing leaves a hole of more than this part of a frame.
const HOLE: i64 = 16;
/// A longer hole is a break, not missing pictures (ticks).
const BREAK: i64 = 5 * VIDEO_TIMESCALE as i64;
/// How far behind its first packet the encoder is, is smoothed over so many packets.
const LATE_OVER: f64 = 60.0;

/// See the module. Shared between the line that measures and whoever looks.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    steps: VecDeque<Step>,
    /// Decode time of the last picture, and of the last keyframe.
    last: Option<i64>,
    key: Option<i64>,
    keyframe: Option<i64>,
    /// The usual distance of pictures.
    frame: i64,
    missing: u64,
    /// When the first packet came, and its time.
    first: Option<(Timestamp, i64)>,
    late_ms: f64,
    video: Option<Coded>,
    audio: Option<Coded>,
}

/// What is encoded how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coded {
    /// RFC 6381.
    pub codec: String,
    /// Zero for sound.
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    begin: Timestamp,
    wall: UnixMs,
    video: u64,
    audio: u64,
    pictures: u64,
}

/// What is told of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    pub at: UnixMs,
    pub kbps: u64,
    pub fps: f64,
}

/// What is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Of picture and sound together, and of sound alone, kbit/s; nothing before there was a whole step, or when nothing came lately.
    pub kbps: Option<u64>,
    pub audio_kbps: Option<u64>,
    pub fps: Option<f64>,
    /// The distance of the last two keyframes, s.
    pub keyframe_s: Option<f64>,
    /// Pictures that did not come: an encoder leaves them out when it cannot send or draw them.
    pub missing: u64,
    /// How much later packets come than the first one did, by their own times.
    pub behind_ms: Option<u64>,
    pub history: Vec<Past>,
    pub video: Option<Coded>,
    pub audio: Option<Coded>,
}

impl Meter {
    /// Takes what the encoder says of a track; what is made of it here does not matter.
    pub fn describe(&self, row: &RenditionRow) {
        if row.name != Rendition::source() && row.name != Rendition::audio() {
            return;
        }
        let coded = Coded { codec: row.codec.clone(), width: row.width, height: row.height };
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if row.height > 0 { measured.video = Some(coded) } else { measured.audio = Some(coded) }
    }

    /// Measures a packet.
    pub fn packet(&self, now: Timestamp, wall: UnixMs, packet: &Packet) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).packet(now, wall, packet);
    }

    /// A session begins: its times are not those of the one before.
    pub fn begin(&self) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *measured = Measured { steps: std::mem::take(&mut measured.steps), ..Measured::default() };
    }

    pub fn read(&self, now: Timestamp) -> Reading {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(now)
    }
}

impl Measured {
    fn packet(&mut self, now: Timestamp, wall: UnixMs, packet: &Packet) {
        if self.steps.back().is_none_or(|step| now - step.begin >= STEP) {
            if self.steps.len() > STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(Step { begin: now, wall, video: 0, audio: 0, pictures: 0 });
        }
        let step = self.steps.back_mut().expect("just made");
        let bytes = packet.payload.len() as u64;
        if packet.track == Track::Audio {
            step.audio += bytes;
            return;
        }
        step.video += bytes;
        step.pictures += 1;
        self.picture(packet.dts);
        if packet.key {
            self.keyframe = self.key.map(|before| packet.dts - before).filter(|ticks| *ticks > 0).or(self.keyframe);
            self.key = Some(packet.dts);
        }
        let (came, first) = *self.first.get_or_insert((now, packet.dts));
        let due_ms = (packet.dts - first) as f64 * 1000.0 / f64::from(VIDEO_TIMESCALE);
        let late_ms = (now - came).as_secs_f64() * 1000.0 - due_ms;
        if late_ms < 0.0 {
            // The first one was late itself.
            self.first = Some((now, packet.dts));
            self.late_ms = 0.0;
        } else {
            self.late_ms += (late_ms - self.late_ms) / LATE_OVER;
        }
    }

    fn picture(&mut self, dts: i64) {
        if let Some(distance) = self.last.replace(dts).map(|last| dts - last).filter(|ticks| (1..BREAK).contains(ticks))
        {
            let whole = (distance * 2 + self.frame) / (self.frame * 2).max(1);
            if self.frame > 0 && distance > self.frame + self.frame * HOLE / 32 && whole > 1 {
                self.missing += whole as u64 - 1;
            } else {
                // Times are whole milliseconds: the distance varies by one.
                self.frame = if self.frame == 0 { distance } else { (self.frame * 7 + distance) / 8 };
            }
        }
    }

    fn read(&self, now: Timestamp) -> Reading {
        let kbps = |bytes: u64, over: Duration| (bytes as f64 * 8.0 / 1000.0 / over.as_secs_f64()).round() as u64;
        let fps = |pictures: u64, over: Duration| (pictures as f64 / over.as_secs_f64() * 10.0).round() / 10.0;
        let whole: Vec<_> = self
            .steps
            .iter()
            .zip(self.steps.iter().skip(1))
            .map(|(step, next)| (*step, next.begin - step.begin))
            .collect();
        let is_on = self.steps.back().is_some_and(|step| now - step.begin < STEP * 3);
        let lately = &whole[whole.len().saturating_sub(NOW)..];
        let over: Duration = lately.iter().map(|(_, over)| *over).sum();
        let sum = |of: fn(&Step) -> u64| lately.iter().map(|(step, _)| of(step)).sum::<u64>();
        let known = is_on && !over.is_zero();
        Reading {
            kbps: known.then(|| kbps(sum(|step| step.video + step.audio), over)),
            audio_kbps: known.then(|| kbps(sum(|step| step.audio), over)),
            fps: known.then(|| fps(sum(|step| step.pictures), over)).filter(|fps| *fps > 0.0),
            keyframe_s: self.keyframe.map(|ticks| (ticks as f64 / f64::from(VIDEO_TIMESCALE) * 100.0).round() / 100.0),
            missing: self.missing,
            behind_ms: self.first.filter(|_| is_on).map(|_| self.late_ms.round() as u64),
            video: self.video.clone(),
            audio: self.audio.clone(),
            history: whole
                .iter()
                .map(|(step, over)| Past {
                    at: step.wall,
                    kbps: kbps(step.video + step.audio, *over),
                    fps: fps(step.pictures, *over),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn video(n: i64, key: bool, bytes: usize) -> Packet {
        let at = n * 3000;
        Packet { track: Track::Video, pts: at, dts: at, key, mark: None, payload: Bytes::from(vec![0; bytes]) }
    }

    fn at(ms: u64) -> (Timestamp, UnixMs) {
        (Timestamp(ms * 1000), UnixMs(1_764_360_000_000 + ms as i64))
    }

    #[test]
    fn an_encoder_is_measured() {
        let meter = Meter::default();
        // 30 pictures a second, a keyframe every 2 s, 2.4 Mb/s; from 6 s on each tenth is missing, and it falls behind.
        for n in 0..300_i64 {
            let ms = n as u64 * 1000 / 30;
            if n >= 180 && n % 10 == 5 {
                continue;
            }
            let late = if n >= 180 { (n as u64 - 180) * 10 } else { 0 };
            let (now, wall) = at(ms + late);
            meter.packet(now, wall, &video(n, n % 60 == 0, 10_000));
            let audio = Packet { track: Track::Audio, ..video(n, true, 500) };
            meter.packet(now, wall, &audio);
            if n == 170 {
                let read = meter.read(now);
                assert_eq!((read.kbps, read.audio_kbps, read.fps), (Some(2520), Some(120), Some(30.0)), "{read:?}");
                assert_eq!((read.keyframe_s, read.missing, read.behind_ms), (Some(2.0), 0, Some(0)));
                assert_eq!((read.history.len(), read.history[0].kbps), (2, 2520));
            }
        }
        let (now, _) = at(11_200);
        let read = meter.read(now);
        assert_eq!(read.missing, 12);
        assert!((500..1200).contains(&read.behind_ms.unwrap()), "{read:?}");
        // Nothing came for a while.
        let read = meter.read(now + Duration::from_secs(20));
        assert_eq!((read.kbps, read.fps, read.behind_ms), (None, None, None));
        meter.begin();
        assert_eq!(meter.read(now).missing, 0);
    }

    #[test]
    fn the_history_is_bounded() {
        let meter = Meter::default();
        for n in 0..10_000 {
            let (now, wall) = at(n * 100);
            meter.packet(now, wall, &video(n as i64 * 3, false, 10));
        }
        assert_eq!(meter.read(at(1_000_000).0).history.len(), STEPS);
    }
}
