use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{
    id::BroadcastId,
    media::{
        Packet, Track, VIDEO_TIMESCALE,
        codec::tests::{HD, VERTICAL, access_unit, hex},
        rescale,
    },
    time::UnixMs,
};

mod odd;

const RATE: i64 = 48_000;

fn video_config() -> VideoConfig {
    VideoConfig::parse(hex(HD)).unwrap()
}

fn audio_config() -> AudioConfig {
    AudioConfig::parse(hex("1190")).unwrap()
}

fn picture(key: bool) -> Bytes {
    access_unit(&[&[if key { 0x65 } else { 0x41 }, 1, 2, 3]])
}

fn video(ms: i64, composition_ms: i32, key: bool) -> Input {
    Input::Video { time_ms: ms as u32, composition_ms, payload: picture(key) }
}

fn sound(ms: i64) -> Input {
    Input::Audio { time_ms: ms as u32, payload: Bytes::from_static(b"aac") }
}

/// Frame times of `fps` from `from` to `to` seconds, with keyframes every `gop` frames and `b` B-frames between others.
fn film(fps: f64, gop: usize, b: usize, seconds: f64) -> Vec<Input> {
    let frames = (seconds * fps) as usize;
    let ms = |n: usize| (n as f64 * 1000.0 / fps).round() as i64;
    let mut order = Vec::new();
    let mut shown = 0;
    while shown < frames {
        let in_gop = shown % gop;
        if in_gop == 0 {
            order.push((shown, true));
            shown += 1;
            continue;
        }
        let anchor = (shown + b).min(shown - in_gop + gop - 1).min(frames - 1);
        order.push((anchor, false));
        order.extend((shown..anchor).map(|n| (n, false)));
        shown = anchor + 1;
    }
    let delay = usize::from(b > 0);
    order.iter().enumerate().map(|(n, &(shown, key))| video(ms(n), (ms(shown + delay) - ms(n)) as i32, key)).collect()
}

fn speech(from_ms: i64, to_ms: i64) -> Vec<Input> {
    (0..).map(|n| from_ms + n * 1024 * 1000 / RATE).take_while(|&ms| ms < to_ms).map(sound).collect()
}

fn time_of(input: &Input) -> i64 {
    match input {
        Input::Video { time_ms, .. } | Input::Audio { time_ms, .. } => i64::from(*time_ms),
        _ => -1,
    }
}

/// Interleaves by time; video first when equal.
fn mux(a: Vec<Input>, b: Vec<Input>) -> Vec<Input> {
    let mut all = [a, b].concat();
    all.sort_by_key(time_of);
    all
}

fn shift(inputs: &[Input], by: i64) -> Vec<Input> {
    let add = |time: u32| time.wrapping_add(by as u32);
    let shifted = inputs.iter().cloned().map(|input| match input {
        Input::Video { time_ms, composition_ms, payload } => {
            Input::Video { time_ms: add(time_ms), composition_ms, payload }
        }
        Input::Audio { time_ms, payload } => Input::Audio { time_ms: add(time_ms), payload },
        other => other,
    });
    shifted.collect()
}

fn mask31(inputs: Vec<Input>) -> Vec<Input> {
    let masked = inputs.into_iter().map(|input| match input {
        Input::Video { time_ms, composition_ms, payload } => {
            Input::Video { time_ms: time_ms & 0x7fff_ffff, composition_ms, payload }
        }
        Input::Audio { time_ms, payload } => Input::Audio { time_ms: time_ms & 0x7fff_ffff, payload },
        other => other,
    });
    masked.collect()
}

fn both() -> Vec<Input> {
    vec![Input::VideoConfig(video_config()), Input::AudioConfig(audio_config())]
}

/// What a session made of its inputs, after checking what must hold for every session.
#[derive(Debug, Default, PartialEq)]
struct Made {
    epochs: Vec<(Break, Epoch)>,
    modes: Vec<(Mode, u32)>,
    /// Chunk number, start, and the end of the chunk.
    chunks: Vec<(u64, i64, i64)>,
    video: Vec<Packet>,
    audio: Vec<Packet>,
    warnings: Vec<Warning>,
    error: Option<Error>,
}

impl Made {
    fn lengths_ms(&self) -> Vec<i64> {
        self.chunks.iter().map(|(_, start, end)| (end - start) / 90).collect()
    }

    fn reasons(&self) -> Vec<Break> {
        self.epochs.iter().map(|(reason, _)| *reason).collect()
    }

    fn marks(&self) -> Vec<(u64, i64)> {
        self.chunks.iter().map(|&(k, start, _)| (k, start)).collect()
    }
}

fn play(config: Config, inputs: impl IntoIterator<Item = Input>) -> Made {
    play_at(config, inputs, 7, 900_000)
}

/// Plays a session whose first chunk is `k` at `at`, and an End if none comes.
fn play_at(config: Config, inputs: impl IntoIterator<Item = Input>, k: u64, at: i64) -> Made {
    let mut timeline = Timeline::new(config);
    let mut made = Made::default();
    let mut checks = Checks::default();
    for input in inputs.into_iter().chain([Input::End]) {
        let end = matches!(input, Input::End);
        if let Err(error) = timeline.handle(input) {
            made.error = Some(error);
        }
        while let Some(output) = timeline.poll() {
            match output {
                Output::NeedEpoch { reason, next } => {
                    assert_eq!(timeline.poll(), None, "nothing comes behind the question");
                    assert_eq!(timeline.handle(Input::End), Err(Error::NotBegun));
                    assert_eq!(next.is_none(), made.epochs.is_empty());
                    let (k, at) = next.unwrap_or((k, at));
                    let epoch = Epoch {
                        broadcast: BroadcastId::new("b").unwrap(),
                        number: made.epochs.len() as u64,
                        k,
                        at,
                        wall: UnixMs(0),
                        discontinuity: reason != Break::First,
                    };
                    made.epochs.push((reason, epoch.clone()));
                    timeline.begin(epoch);
                }
                Output::Warning(warning) => made.warnings.push(warning),
                Output::Message(message) => checks.take(message, &mut made),
            }
        }
        if end || made.error.is_some() {
            break;
        }
    }
    assert!(!checks.running, "the last chunk is closed");
    made
}

#[derive(Default)]
struct Checks {
    running: bool,
    mode: Option<Mode>,
    marks: u32,
    audio_end: Option<i64>,
    rate: u32,
    dts: Option<i64>,
}

impl Checks {
    fn take(&mut self, message: Message, made: &mut Made) {
        match message {
            Message::Epoch(epoch) => {
                assert!(!self.running, "an epoch begins after the end of the one before");
                assert_eq!(epoch, made.epochs.last().unwrap().1);
                *self = Checks { running: true, rate: self.rate, ..Checks::default() };
            }
            Message::Video(_) | Message::Audio(_) if !self.running || self.dts.is_some() => panic!("late config"),
            Message::Video(_) => {}
            Message::Audio(config) => self.rate = config.sample_rate,
            Message::Mode { mode, target } => {
                assert!(self.running && self.mode.is_none() && self.marks <= 1);
                self.mode = Some(mode);
                made.modes.push((mode, target));
            }
            Message::Packet(packet) => self.packet(packet, made),
            Message::End { at } => {
                assert!(std::mem::take(&mut self.running));
                let last = made.chunks.last_mut().unwrap();
                assert!(at > last.1, "an empty chunk");
                last.2 = at;
            }
        }
    }

    fn packet(&mut self, packet: Packet, made: &mut Made) {
        assert!(self.running && !packet.payload.is_empty() && packet.pts >= packet.dts);
        if let Some(k) = packet.mark {
            let start = match packet.track {
                Track::Video => packet.pts,
                Track::Audio => rescale(packet.pts, self.rate, VIDEO_TIMESCALE),
            };
            let epoch = &made.epochs.last().unwrap().1;
            if self.marks == 0 {
                assert_eq!(k, epoch.k);
                assert!((start - epoch.at).abs() <= i64::from(packet.track == Track::Audio) * 3);
            } else {
                assert!(self.mode.is_some(), "the mode is known before the second mark");
                let last = made.chunks.last_mut().unwrap();
                assert_eq!(k, last.0 + 1);
                assert!(start > last.1);
                last.2 = start;
            }
            if self.mode == Some(Mode::Follow) {
                assert!(packet.key);
            }
            self.marks += 1;
            made.chunks.push((k, start, start));
        }
        match packet.track {
            Track::Video => {
                assert!(self.dts.is_none_or(|dts| packet.dts > dts), "decode times increase");
                self.dts = Some(packet.dts);
                made.video.push(packet);
            }
            Track::Audio => {
                let at = made.epochs.last().unwrap().1.at;
                assert!(packet.pts >= self.audio_end.unwrap_or(rescale(at, VIDEO_TIMESCALE, self.rate)), "overlap");
                self.audio_end = Some(packet.pts + 1024);
                made.audio.push(packet);
            }
        }
    }
}

const ENCODE: Config = Config { chunk_ms: 2000, encode: true };
const SOURCE: Config = Config { chunk_ms: 2000, encode: false };

fn longest_ms(made: &Made) -> i64 {
    made.lengths_ms().into_iter().max().unwrap()
}

#[test]
fn modes_and_lengths_by_keyframe_interval() {
    for fps in [24_000.0 / 1001.0, 25.0f64, 30_000.0 / 1001.0, 30.0, 50.0, 60_000.0 / 1001.0, 60.0, 120.0] {
        for (gop_s, mode) in [
            (0.5f64, Mode::Follow),
            (1.0, Mode::Follow),
            (1.5, Mode::Follow),
            (2.0, Mode::Follow),
            (2.002, Mode::Follow),
            (4.0, Mode::Reencode),
            (8.33, Mode::Reencode),
        ] {
            let gop = (gop_s * fps).round() as usize;
            let key_ms = gop as f64 * 1000.0 / fps;
            let keys = ((2000.0 - 500.0 / fps) / key_ms).ceil();
            let length_ms = match mode {
                Mode::Follow if keys * key_ms > 2490.0 => (keys - 1.0) * key_ms,
                Mode::Follow => keys * key_ms,
                _ => 2000.0,
            };
            for b in 0..=4 {
                let made = play(ENCODE, [both(), mux(film(fps, gop, b, 21.0), speech(0, 21_000))].concat());
                let name = format!("{fps} fps, {gop_s} s, {b} B-frames");
                assert_eq!((made.error.clone(), made.modes.clone()), (None, vec![(mode, 2)]), "{name}");
                assert_eq!(made.reasons(), [Break::First], "{name}");
                assert_eq!(made.warnings.len(), usize::from(mode == Mode::Reencode), "{name} {:?}", made.warnings);
                let lengths = made.lengths_ms();
                for &length in &lengths[..lengths.len() - 1] {
                    let longer = length as f64 - length_ms;
                    let slack = if mode == Mode::Follow { 1.0 } else { 1000.0 / fps };
                    assert!((-2.0..=slack + 1.0).contains(&longer), "{name}: {lengths:?}");
                }
            }
        }
    }
}

#[test]
fn low_frame_rates_keep_the_target() {
    for fps in [1.0, 1.2, 1.5, 2.0, 3.0, 5.0] {
        for gop in [1, 2, 7, 1000] {
            let made = play(ENCODE, [both(), mux(film(fps, gop, 0, 30.0), speech(0, 30_000))].concat());
            assert_eq!((made.error.clone(), made.reasons()), (None, vec![Break::First]), "{fps} {gop}");
            assert!(longest_ms(&made) <= 2490, "{fps} fps, {gop}: {:?}", made.lengths_ms());
            let lengths = made.lengths_ms();
            assert!(lengths[..lengths.len() - 1].iter().all(|&ms| ms >= 1300), "{fps} {gop} {lengths:?}");
        }
    }
}

#[test]
fn reencoded_chunks_start_at_the_first_frame_in_presentation_order() {
    for fps in [24.0, 30_000.0 / 1001.0, 60.0] {
        for b in 0..=4 {
            let made = play(ENCODE, [both(), film(fps, 10_000, b, 30.0)].concat());
            let mut shown: Vec<i64> = made.video.iter().map(|packet| packet.pts).collect();
            shown.sort_unstable();
            let mut start = shown[0];
            let mut expected = vec![start];
            for pts in shown {
                if pts >= start + 180_000 {
                    start = pts;
                    expected.push(pts);
                }
            }
            let starts: Vec<i64> = made.chunks.iter().map(|chunk| chunk.1).collect();
            assert_eq!(starts, expected, "{fps} fps, {b} B-frames");
            assert_eq!(made.video.len(), film(fps, 10_000, b, 30.0).len(), "nothing is lost in the hold");
        }
    }
}

#[test]
fn keyframes_at_scene_cuts_do_not_make_chunks_too_long() {
    // x264 counts its interval of 2 s anew from each scene cut, here at odd times after a first regular interval.
    let (mut last_key, mut inputs) = (0, both());
    for n in 0..30 * 60 {
        let ms = n * 1000 / 30;
        let cut = n > 60 && n % 53 == 0 && n % 7 < 3;
        let key = n == 0 || cut || ms - last_key >= 2000;
        if key {
            last_key = ms;
        }
        inputs.push(video(ms, 0, key));
    }
    let made = play(ENCODE, inputs);
    assert_eq!(made.modes, [(Mode::Follow, 2)]);
    assert_eq!(made.reasons(), [Break::First]);
    assert!(longest_ms(&made) <= 2490, "{:?}", made.lengths_ms());
}

#[test]
fn rounded_times_do_not_miss_keyframes() {
    // Decode time and offset are each cut to whole milliseconds.
    for fps in [24.0, 60.0, 120.0] {
        let mut inputs = film(fps, 2 * fps as usize, 2, 20.0);
        for (n, input) in inputs.iter_mut().enumerate() {
            if let Input::Video { time_ms, composition_ms, .. } = input {
                *time_ms = (*time_ms + 1000) - (n as u32 * 7919 % 7 % 2);
                *composition_ms = (*composition_ms - n as i32 * 104_729 % 5 % 2).max(0);
            }
        }
        let made = play(ENCODE, [both(), inputs].concat());
        assert_eq!(made.modes, [(Mode::Follow, 2)]);
        assert!(made.lengths_ms()[..9].iter().all(|ms| (ms - 2000).abs() <= 4), "{fps} {:?}", made.lengths_ms());
    }
}

#[test]
fn first_keyframe_starts_exactly_where_the_epoch_says() {
    let mut inputs = both();
    inputs.extend((0..10).map(|n| video(n * 33, 66, false)));
    inputs.extend(shift(&mux(film(30.0, 60, 2, 5.0), speech(0, 5000)), 330));
    let made = play_at(ENCODE, inputs, 42, 123_456_789);
    assert_eq!(made.chunks[0].0, 42);
    assert_eq!(made.video[0].pts, 123_456_789);
    assert!(made.video[0].key && made.video[0].dts < made.video[0].pts);
    let first_audio = made.audio[0].pts - rescale(123_456_789, VIDEO_TIMESCALE, 48_000);
    assert!((0..1024).contains(&first_audio), "{first_audio}");
}

#[test]
fn wraps_are_invisible() {
    let inputs = [both(), mux(film(30.0, 60, 2, 8.0), speech(0, 8000))].concat();
    let plain = play(ENCODE, inputs.clone());
    assert_eq!(plain.chunks.len(), 4);
    for from in [0xff_ffffi64 - 1000, (1 << 31) - 1000, (1 << 32) - 1000] {
        let shifted = shift(&inputs, from);
        let masked = mask31(shifted.clone());
        for made in [play(ENCODE, shifted), play(ENCODE, masked)] {
            assert_eq!(made.reasons(), [Break::First]);
            assert_eq!(
                (made.marks(), made.video, made.modes),
                (plain.marks(), plain.video.clone(), plain.modes.clone())
            );
            assert_eq!(made.audio.len(), plain.audio.len());
        }
    }
}

#[test]
fn jumps_of_the_clock_start_an_epoch() {
    for jump in [7000, 3_600_000, -2000, -9000] {
        let first = mux(film(30.0, 60, 0, 10.0), speech(0, 10_000));
        let second = shift(&first, 10_000 + jump);
        // The two tracks do not jump at the same packet.
        for swap in 0..8 {
            let mut inputs = [both(), first.clone(), second.clone()].concat();
            let seam = first.len() + 2;
            let audio = (seam..).find(|&i| matches!(inputs[i], Input::Audio { .. })).unwrap();
            let moved = inputs.remove(audio);
            inputs.insert(seam - swap, moved);
            let made = play(ENCODE, inputs);
            assert_eq!(made.reasons(), [Break::First, Break::TimeJump], "{jump} {swap}");
            assert_eq!(made.chunks.len(), 10, "{jump} {swap}: {:?}", made.lengths_ms());
            assert_eq!(made.chunks[5].0, 12);
            assert_eq!(made.chunks[4].2, made.chunks[5].1, "the next epoch is where the last ended");
            assert!(made.audio.len() > 900, "{jump} {swap}: {}", made.audio.len());
            assert_eq!(made.modes, [(Mode::Follow, 2); 2]);
        }
    }
}

#[test]
fn a_keyframe_that_stays_away_changes_the_mode_without_a_seam() {
    for b in 0..=3 {
        let follow = film(30.0, 60, b, 10.0);
        let total = follow.len() + 600;
        let long = shift(&film(30.0, 10_000, b, 20.0), 10_000);
        let made = play(ENCODE, [both(), follow, long].concat());
        assert_eq!(made.reasons(), [Break::First, Break::ModeChange]);
        assert_eq!(made.modes, [(Mode::Follow, 2), (Mode::Reencode, 2)]);
        assert!(longest_ms(&made) <= 2490, "{:?}", made.lengths_ms());
        assert_eq!(made.video.len(), total, "no frame is lost");
        let mut shown: Vec<i64> = made.video.iter().map(|packet| packet.pts).collect();
        shown.sort_unstable();
        assert!(shown.windows(2).all(|pair| (2880..=3150).contains(&(pair[1] - pair[0]))), "times go on");
        let at = made.epochs[1].1.at;
        let second = made.video.iter().position(|packet| packet.mark == Some(made.epochs[1].1.k)).unwrap();
        assert!(made.video[second + b + 1..].iter().all(|packet| packet.pts > at), "{b}");
        assert!(matches!(made.warnings[..], [Warning::KeyframeLate { .. }]), "{:?}", made.warnings);
    }
}

#[test]
fn source_only_takes_the_length_from_the_keyframes() {
    for (gop, target, length_ms) in
        [(30, 2, 2000), (45, 2, 1500), (60, 2, 2000), (73, 2, 2433), (120, 10, 4000), (250, 10, 8333)]
    {
        let made = play(SOURCE, [both(), mux(film(30.0, gop, 2, 40.0), speech(0, 40_000))].concat());
        assert_eq!((made.error.clone(), made.modes.clone()), (None, vec![(Mode::Follow, target)]), "{gop}");
        assert!(made.lengths_ms()[..3].iter().all(|ms| (ms - length_ms).abs() <= 1), "{gop} {:?}", made.lengths_ms());
    }
    for inputs in [film(30.0, 400, 0, 20.0), [film(30.0, 60, 0, 8.0), shift(&film(30.0, 90, 0, 9.0), 8000)].concat()] {
        let made = play(SOURCE, [both(), inputs].concat());
        let error = made.error.expect("keyframes are too far apart");
        assert!(matches!(error, Error::KeyframeTooLate { .. }));
        assert!(error.to_string().contains("Keyframe Interval"), "{error}");
    }
}

#[test]
fn encoding_can_be_refused_until_the_mode_is_known() {
    let mut timeline = Timeline::new(ENCODE);
    timeline.set_encode(false);
    let mut modes = Vec::new();
    for input in [both(), film(30.0, 120, 0, 10.0)].concat() {
        timeline.handle(input).unwrap();
        while let Some(output) = timeline.poll() {
            match output {
                Output::NeedEpoch { .. } => timeline.begin(Epoch {
                    broadcast: BroadcastId::new("b").unwrap(),
                    number: 0,
                    k: 0,
                    at: 0,
                    wall: UnixMs(0),
                    discontinuity: false,
                }),
                Output::Message(Message::Mode { mode, target }) => modes.push((mode, target)),
                _ => {}
            }
        }
    }
    assert_eq!(modes, [(Mode::Follow, 10)]);
}

#[test]
fn audio_alone_is_cut_at_its_own_frames() {
    let made = play(ENCODE, [vec![Input::AudioConfig(audio_config())], speech(500, 20_500)].concat());
    assert_eq!(made.modes, [(Mode::AudioOnly, 2)]);
    assert_eq!(made.audio.len(), speech(500, 20_500).len(), "nothing is lost in waiting");
    let lengths = made.lengths_ms();
    assert!(lengths[..lengths.len() - 1].iter().all(|ms| (2000..2022).contains(ms)), "{lengths:?}");
    let short = play(ENCODE, [vec![Input::AudioConfig(audio_config())], speech(0, 300)].concat());
    assert_eq!((short.chunks.len(), short.audio.len()), (1, 15), "the end says that no video comes");
    let gap =
        play(ENCODE, [vec![Input::AudioConfig(audio_config())], speech(0, 9000), speech(12_000, 20_000)].concat());
    assert_eq!(gap.reasons(), [Break::First, Break::TimeJump]);
    assert!(longest_ms(&gap) <= 2490);
}

#[test]
fn video_alone_starts_at_once() {
    let mut timeline = Timeline::new(ENCODE);
    timeline.handle(Input::VideoConfig(video_config())).unwrap();
    timeline.handle(video(0, 0, true)).unwrap();
    assert_eq!(timeline.poll(), Some(Output::NeedEpoch { reason: Break::First, next: None }));
}

#[test]
fn late_tracks_start_an_epoch() {
    let mut inputs = vec![Input::AudioConfig(audio_config())];
    inputs.extend(speech(0, 5000));
    inputs.push(Input::VideoConfig(video_config()));
    inputs.push(video(4990, 0, false));
    inputs.extend(mux(shift(&film(30.0, 60, 0, 8.0), 5000), speech(5000, 13_000)));
    let made = play(ENCODE, inputs);
    assert_eq!(made.reasons(), [Break::First, Break::LateTrack]);
    assert_eq!(made.modes, [(Mode::AudioOnly, 2), (Mode::Follow, 2)]);
    assert_eq!(made.video.len(), 240);

    let mut inputs = vec![Input::VideoConfig(video_config())];
    inputs.extend(film(30.0, 60, 0, 5.0));
    inputs.push(Input::AudioConfig(audio_config()));
    inputs.extend(mux(shift(&film(30.0, 60, 0, 8.0), 5000), speech(4500, 13_000)));
    let made = play(ENCODE, inputs);
    assert_eq!(made.reasons(), [Break::First, Break::LateTrack]);
    assert_eq!(made.video.len(), 390, "video has no gap");
    let at = rescale(made.epochs[1].1.at, VIDEO_TIMESCALE, 48_000);
    assert!((0..2048).contains(&(made.audio[0].pts - at)), "audio starts with its epoch");
}

#[test]
fn config_changes_start_an_epoch_at_the_next_keyframe() {
    let other = VideoConfig::parse(hex(VERTICAL)).unwrap();
    let first = mux(film(30.0, 60, 0, 5.0), speech(0, 5000));
    let second = shift(&mux(film(30.0, 60, 0, 5.0), speech(0, 5000)), 5000);
    let same = [both(), first.clone(), both(), second.clone()].concat();
    let made = play(ENCODE, same);
    assert_eq!(made.reasons(), [Break::First], "a resend is no change");

    let late = vec![video(4990, 0, false); 3];
    let made =
        play(ENCODE, [both(), first.clone(), vec![Input::VideoConfig(other.clone())], late, second.clone()].concat());
    assert_eq!(made.reasons(), [Break::First, Break::ConfigChange]);
    assert_eq!(made.video.len(), 300, "frames that need the new config before a keyframe are dropped");
    assert!(made.audio.windows(2).all(|pair| pair[1].pts - pair[0].pts <= 1024), "audio goes on");

    // Audio runs ahead, so the second epoch's first part came before its first picture.
    let pictures =
        [film(30.0, 60, 0, 5.0), vec![Input::VideoConfig(other.clone())], shift(&film(30.0, 60, 0, 5.0), 5000)];
    let (mut ahead, mut voice) = (both(), speech(0, 10_000).into_iter().peekable());
    for picture in pictures.concat() {
        while let Some(sound) = voice.next_if(|sound| time_of(sound) < time_of(&picture) + 300) {
            ahead.push(sound);
        }
        ahead.push(picture);
    }
    let made = play(ENCODE, ahead);
    assert_eq!(made.reasons(), [Break::First, Break::ConfigChange]);
    let at = rescale(made.epochs[1].1.at, VIDEO_TIMESCALE, 48_000);
    let again = made.audio.windows(2).position(|pair| pair[1].pts <= pair[0].pts).unwrap() + 1;
    assert!((0..1024).contains(&(made.audio[again].pts - at)), "an epoch has all of its audio");
    assert!(made.audio[again..].windows(2).all(|pair| pair[1].pts - pair[0].pts == 1024));

    let parts = crate::media::avcc::Record::parse(other.avcc).unwrap();
    let mut payload = BytesMut::from(&access_unit(&[&parts.sps[0], &parts.pps[0]])[..]);
    payload.put_slice(&picture(true));
    let mut inband = second.clone();
    inband[0] = Input::Video { time_ms: 5000, composition_ms: 0, payload: payload.freeze() };
    let made = play(ENCODE, [both(), first.clone(), inband].concat());
    assert_eq!(made.reasons(), [Break::First, Break::ConfigChange], "parameter sets in the frame");

    let mono = Input::AudioConfig(AudioConfig::parse(hex("1188")).unwrap());
    let made = play(ENCODE, [both(), first, vec![mono.clone()], second].concat());
    assert_eq!(made.reasons(), [Break::First, Break::ConfigChange]);
    let made = play(
        ENCODE,
        [vec![Input::AudioConfig(audio_config())], speech(0, 5000), vec![mono], speech(5000, 9000)].concat(),
    );
    assert_eq!(made.reasons(), [Break::First, Break::ConfigChange]);
}

#[test]
fn missing_frames_never_make_a_chunk_too_long() {
    for (gop, modes) in [(60, Mode::Follow), (10_000, Mode::Reencode)] {
        for hole in [200..230, 200..270, 200..330, 130..340] {
            let frames = film(30.0, gop, 0, 20.0);
            let kept =
                frames.into_iter().enumerate().filter(|(n, _)| !hole.contains(n)).map(|(_, input)| input).collect();
            let made = play(ENCODE, [both(), mux(kept, speech(0, 20_000))].concat());
            assert!(longest_ms(&made) <= 2490, "{gop} {hole:?}: {:?}", made.lengths_ms());
            assert_eq!(made.modes[0].0, modes);
            assert!(made.chunks.len() >= 6, "{gop} {hole:?}: {:?}", made.lengths_ms());
        }
    }
}

#[test]
fn missing_audio_is_jumped_over() {
    let audio = [speech(0, 4000), speech(5000, 9000)].concat();
    let made = play(ENCODE, [both(), mux(film(30.0, 60, 0, 9.0), audio)].concat());
    assert_eq!(made.reasons(), [Break::First]);
    let gaps: Vec<i64> =
        made.audio.windows(2).map(|pair| pair[1].pts - pair[0].pts).filter(|&gap| gap != 1024).collect();
    assert!(matches!(gaps[..], [gap] if (47_000..50_000).contains(&gap)), "{gaps:?}");
    assert!(matches!(made.warnings[..], [Warning::AudioGap { .. }]));
}

#[test]
fn open_gops_are_named() {
    let recovery = access_unit(&[&[0x06, 6, 1, 0x88, 0x80], &[0x41, 1]]);
    let mut inputs = [both(), film(30.0, 10_000, 0, 10.0)].concat();
    for (n, input) in inputs.iter_mut().enumerate() {
        if let Input::Video { payload, .. } = input
            && n > 10
            && n % 60 == 0
        {
            *payload = recovery.clone();
        }
    }
    let made = play(ENCODE, inputs);
    assert_eq!(made.modes, [(Mode::Reencode, 2)], "only IDR pictures count");
    assert_eq!(made.warnings.iter().filter(|&warning| *warning == Warning::OpenGop).count(), 1);
}

#[test]
fn nothing_comes_of_nothing() {
    assert_eq!(play(ENCODE, []), Made::default());
    let empty = Input::Video { time_ms: 0, composition_ms: 0, payload: Bytes::new() };
    assert_eq!(play(ENCODE, [both(), vec![empty]].concat()), Made::default());
}

#[test]
fn every_warning_is_a_sentence() {
    for warning in [
        Warning::LongKeyframeInterval { chunk_ms: 2000 },
        Warning::KeyframeLate { chunk_ms: 2000 },
        Warning::OpenGop,
        Warning::TimeJump { by_ms: -3000 },
        Warning::VideoGap { ms: 2500 },
        Warning::AudioGap { ms: 200 },
        Warning::AudioBack,
        Warning::AudioDrift { ms: 60 },
        Warning::AudioApart { ms: 6000 },
    ] {
        let text = warning.to_string();
        assert!(text.contains(';') && text.len() < 260, "{text}");
    }
    assert!(Warning::KeyframeLate { chunk_ms: 1500 }.to_string().contains("1.5 s"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Moves audio against video within what encoders do, and marks do not move.
    #[test]
    fn interleaving_does_not_move_marks(
        gop in prop::sample::select(vec![30usize, 60, 120, 250]), b in 0usize..4,
        skews in prop::collection::vec(-400i64..400, 8),
    ) {
        let plain = play(ENCODE, [both(), mux(film(30.0, gop, b, 12.0), speech(0, 12_000))].concat());
        let mut order: Vec<(i64, Input)> = film(30.0, gop, b, 12.0).into_iter().map(|input| (time_of(&input), input)).collect();
        let mut last = i64::MIN;
        for input in speech(0, 12_000) {
            last = last.max(time_of(&input) + skews[(time_of(&input) / 1500) as usize]);
            order.push((last, input));
        }
        order.sort_by_key(|(at, _)| *at);
        let made = play(ENCODE, both().into_iter().chain(order.into_iter().map(|(_, input)| input)));
        prop_assert_eq!((made.marks(), made.video, made.modes), (plain.marks(), plain.video, plain.modes));
        prop_assert_eq!(made.audio.len(), plain.audio.len());
    }

    /// Whatever the frame times, a finished chunk fits the target and numbers go up by one.
    #[test]
    fn lengths_hold_at_any_pace(
        steps in prop::collection::vec((1i64..400, prop::bool::weighted(0.1)), 50..300), encode: bool
    ) {
        let mut ms = 0;
        let mut inputs = both();
        inputs.push(video(0, 0, true));
        for (step, key) in steps {
            ms += step;
            inputs.push(video(ms, 0, key));
        }
        let made = play(Config { chunk_ms: 2000, encode }, inputs);
        for (n, length) in made.lengths_ms().into_iter().enumerate() {
            prop_assert!(length <= if encode { 2490 } else { 10_490 }, "chunk {} {}", n, length);
        }
    }

    #[test]
    fn arbitrary_sessions_never_panic(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        crate::media::fuzz::timeline(&data);
    }
}
