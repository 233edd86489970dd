//! The transcoder through its real process boundary, on H.264 that ffmpeg makes at test time.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use weir::{
    id::{BroadcastId, Rendition},
    media::{Epoch, Message, Packet, VideoConfig, ring, wire},
    time::UnixMs,
    transcode::{
        Choice, Entry, Family, Rung, Spec,
        budget::{Budget, Load},
        description::{self, Source},
        ladder, probe,
        supervisor::{Event, Item, Settings, Transcoder},
        worker,
    },
};

#[path = "../benches/transcode/flv.rs"]
mod flv;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");
const CHUNK: i64 = 180_000;

/// Makes an FLV file: `size`, frames per second, seconds, x264 options.
fn clip(size: &str, fps: u32, seconds: u32, options: &[&str]) -> (VideoConfig, Vec<Packet>) {
    let source = format!("testsrc2=s={size}:r={fps}:d={seconds}");
    let output = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            &source,
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(options)
        .args(["-f", "flv", "-flvflags", "no_duration_filesize", "-"])
        .output()
        .expect("ffmpeg runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    flv::read(&output.stdout)
}

fn entry(height: u32, bitrate_kbps: u32, fps_max: Option<u32>) -> Entry {
    Entry { height, bitrate_kbps, fps_max, name: None }
}

fn source(config: &VideoConfig, fps: u32) -> Source {
    Source { width: config.width.into(), height: config.height.into(), fps: (fps, 1) }
}

fn spec(config: &VideoConfig, fps: u32, rungs: &[Rung], start_k: u64) -> Spec {
    let pipeline = description::render(description::built_in(Family::X264), source(config, fps), rungs).unwrap();
    Spec { pipeline, rungs: rungs.to_vec(), start_k, fps: (fps, 1), nice: 0 }
}

#[derive(Default)]
struct Channel {
    configs: Vec<VideoConfig>,
    packets: Vec<Packet>,
    end: Option<i64>,
}

/// Runs the worker over frames and gives what it says, by channel.
fn work(spec: &Spec, frames: Vec<wire::Frame>) -> BTreeMap<u8, Channel> {
    let mut child = Command::new(WEIR)
        .arg(worker::SUBCOMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the worker starts");
    let mut stdin = child.stdin.take().unwrap();
    let first = wire::Frame::Spec(serde_json::to_vec(spec).unwrap().into());
    let feed = std::thread::spawn(move || {
        let mut encoder = wire::Encoder::new();
        for frame in std::iter::once(first).chain(frames) {
            let mut head = BytesMut::new();
            let payload = encoder.encode(frame, &mut head).unwrap();
            stdin.write_all(&head).and_then(|()| stdin.write_all(&payload)).expect("the worker reads");
        }
    });
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    feed.join().unwrap();
    assert!(child.wait().unwrap().success());
    let mut decoder = wire::Decoder::new();
    decoder.push(&bytes);
    let mut channels: BTreeMap<u8, Channel> = BTreeMap::new();
    while let Some(frame) = decoder.poll().unwrap() {
        let wire::Frame::Message { channel, message } = frame else { panic!("{frame:?}") };
        let channel = channels.entry(channel).or_default();
        assert!(channel.end.is_none(), "nothing follows the end");
        match message {
            Message::Video(config) => channel.configs.push(config),
            Message::Packet(packet) => channel.packets.push(packet),
            Message::End { at } => channel.end = Some(at),
            other => panic!("{other:?}"),
        }
    }
    assert!(decoder.is_empty());
    channels
}

fn input(messages: Vec<Message>) -> Vec<wire::Frame> {
    messages.into_iter().map(|message| wire::Frame::Message { channel: 0, message }).collect()
}

fn marks(packets: &[Packet]) -> Vec<(u64, i64)> {
    let mut marks: Vec<_> = packets.iter().filter_map(|p| Some((p.mark?, p.pts))).collect();
    marks.sort_unstable();
    marks
}

fn shown(packets: &[Packet]) -> Vec<i64> {
    let mut pts: Vec<i64> = packets.iter().map(|p| p.pts).collect();
    pts.sort_unstable();
    pts
}

/// Every rule that a rung's packets obey, whatever the input.
fn check(packets: &[Packet]) {
    assert!(packets[0].mark.is_some(), "a rung begins at a boundary");
    for pair in packets.windows(2) {
        assert!(pair[0].dts < pair[1].dts, "decode times rise: {} {}", pair[0].dts, pair[1].dts);
    }
    let mut start = i64::MIN;
    for p in packets {
        assert!(p.dts <= p.pts);
        assert_eq!(p.key, p.mark.is_some(), "keyframes are where chunks start and nowhere else: {}", p.pts);
        start = p.mark.map_or(start, |_| p.pts);
        assert!(p.pts >= start, "no picture is shown before the start of its chunk");
    }
}

#[test]
fn every_rung_has_the_marks_and_pictures_of_its_source() {
    let b_frames = ["-bf", "3", "-b_strategy", "0", "-sc_threshold", "0", "-x264-params", "open-gop=1"];
    for (size, fps, gop, follow, extra) in [
        ("640x360", 30, "60", true, &[][..]),
        ("640x360", 30, "60", true, &b_frames[..6]),
        ("640x360", 30, "250", false, &b_frames[..]),
        ("360x640", 25, "50", true, &[][..]),
    ] {
        let options = [&["-g", gop, "-keyint_min", gop][..], extra].concat();
        let (config, mut packets) = clip(size, fps, 9, &options);
        flv::mark(&mut packets, 7, CHUNK, follow);
        let rungs = ladder::plan(&[entry(240, 300, None), entry(160, 150, None)], &config, !follow);
        let channels = work(&spec(&config, fps, &rungs, 7), input(flv::messages(config.clone(), packets.clone())));
        assert_eq!(channels.len(), rungs.len());
        for (rung, channel) in rungs.iter().zip(channels.values()) {
            assert_eq!(marks(&channel.packets), marks(&packets), "{size} {gop} {}", rung.name);
            assert_eq!(shown(&channel.packets), shown(&packets), "{size} {gop} {}", rung.name);
            check(&channel.packets);
            assert_eq!(channel.end, Some(*shown(&packets).last().unwrap() + 3000));
            let config = &channel.configs[0];
            assert_eq!((u32::from(config.width), u32::from(config.height)), (rung.width, rung.height));
        }
    }
}

#[test]
fn a_worker_that_joins_late_makes_what_the_first_one_makes() {
    let (config, mut packets) = clip("640x360", 60, 10, &["-g", "500", "-sc_threshold", "0", "-bf", "2"]);
    flv::mark(&mut packets, 0, CHUNK, false);
    let rungs = ladder::plan(&[entry(240, 300, Some(30)), entry(120, 100, None)], &config, false);
    let feed = || input(flv::messages(config.clone(), packets.clone()));
    let (whole, late) = (work(&spec(&config, 60, &rungs, 0), feed()), work(&spec(&config, 60, &rungs, 3), feed()));
    for (a, b) in whole.values().zip(late.values()) {
        check(&a.packets);
        check(&b.packets);
        let start = b.packets[0].pts;
        assert_eq!(b.packets[0].mark, Some(3));
        let times = |c: &Channel| {
            let from = c.packets.iter().position(|p| p.pts == start).unwrap();
            c.packets[from..].iter().map(|p| (p.pts, p.dts, p.mark)).collect::<Vec<_>>()
        };
        assert_eq!(times(a), times(b));
        assert_eq!(a.configs, b.configs, "headers are the same bytes");
    }
    let capped = whole[&0].packets.len();
    assert_eq!((capped, whole[&1].packets.len()), (300, 600), "the cap leaves every other picture out");
}

#[test]
fn a_dropped_rung_ends_at_a_boundary_and_the_others_go_on() {
    let (config, mut packets) = clip("640x360", 30, 10, &["-g", "60"]);
    flv::mark(&mut packets, 0, CHUNK, true);
    let rungs = ladder::plan(&[entry(240, 300, None), entry(120, 100, None)], &config, false);
    // The worker reads ahead of its decoder, but not by more than its queues hold: what is dropped late stops late.
    let mut frames = input(flv::messages(config.clone(), packets.clone()));
    frames.insert(240, wire::Frame::Drop { channel: 0 });
    let mut spec = spec(&config, 30, &rungs, 0);
    spec.pipeline = spec.pipeline.replace("max-bytes=4194304", "max-bytes=1");
    let channels = work(&spec, frames);
    check(&channels[&0].packets);
    let end = channels[&0].end.unwrap();
    let boundaries = marks(&packets);
    let at = boundaries.iter().position(|&(_, pts)| pts == end).expect("it ends where a chunk would begin");
    assert!((3..5).contains(&at), "it stops soon: {at}");
    assert_eq!(marks(&channels[&0].packets), boundaries[..at]);
    assert_eq!(shown(&channels[&0].packets), shown(&packets).into_iter().filter(|&p| p < end).collect::<Vec<_>>());
    assert_eq!(shown(&channels[&1].packets), shown(&packets));
}

#[tokio::test]
async fn the_probe_finds_the_software_encoder() {
    assert_eq!(probe::pick_family(WEIR.as_ref(), Choice::X264).await.unwrap(), Family::X264);
}

/// A line's ring with a whole recording in it, and the transcoder over it.
struct Bench {
    ring: Arc<ring::Ring>,
    packets: Vec<Packet>,
    rungs: Vec<Rung>,
    transcoder: Option<Transcoder>,
    events: tokio::sync::mpsc::Receiver<Event>,
}

fn bench(exe: &str) -> Bench {
    let (config, mut packets) = clip("640x360", 30, 12, &["-g", "60"]);
    flv::mark(&mut packets, 0, CHUNK, true);
    let rungs = ladder::plan(&[entry(240, 300, None), entry(120, 100, None)], &config, false);
    let ring = Arc::new(ring::Ring::new(ring::Config { chunks: 100, ..ring::Config::default() }));
    let broadcast = BroadcastId::new("b").unwrap();
    ring.push(Message::Epoch(Epoch { broadcast, number: 1, k: 0, at: 0, wall: UnixMs(0), discontinuity: false }));
    ring.push(Message::Video(config.clone()));
    let settings = Settings {
        exe: exe.into(),
        description: description::built_in(Family::X264).into(),
        nice: 0,
        chunk: Duration::from_secs(2),
        budget: Budget::new(64, 1.0),
    };
    let granted = settings.budget.admit(&rungs, Load { width: 640, height: 360, fps: 30.0 });
    let (transcoder, events) =
        Transcoder::spawn(settings, granted, source(&config, 30), Arc::clone(&ring), 1, 0).unwrap();
    assert_eq!(transcoder.rungs(), rungs);
    Bench { ring, packets, rungs, transcoder: Some(transcoder), events }
}

impl Bench {
    fn push(&self, range: std::ops::Range<usize>) {
        self.packets[range].iter().cloned().map(Message::Packet).for_each(|m| self.ring.push(m));
    }

    async fn event(&mut self) -> Option<Event> {
        tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await.expect("something happens")
    }

    /// Collects what a line would keep, until all rungs have ended.
    async fn collect(&mut self, got: &mut BTreeMap<Rendition, Vec<Packet>>) -> u32 {
        let mut restarts = 0;
        while let Some(event) = self.event().await {
            restarts += u32::from(keep(event, got));
        }
        restarts
    }

    fn verify(&self, got: &BTreeMap<Rendition, Vec<Packet>>) {
        for rung in &self.rungs {
            let packets = &got[&rung.name];
            check(packets);
            assert_eq!(marks(packets), marks(&self.packets), "{}", rung.name);
            assert_eq!(shown(packets), shown(&self.packets), "{}", rung.name);
        }
    }
}

/// Does with an event what a line does; tells of a restart.
fn keep(event: Event, got: &mut BTreeMap<Rendition, Vec<Packet>>) -> bool {
    match event {
        Event::Item { rung, item: Item::Packet(packet) } => got.entry(rung).or_default().push(packet),
        Event::Item { .. } => {}
        Event::Restarted { .. } => {
            for packets in got.values_mut() {
                let last = packets.iter().rposition(|p| p.mark.is_some()).unwrap_or(0);
                packets.truncate(last);
            }
            return true;
        }
        Event::Shed { rung } => panic!("{rung} was shed"),
    }
    false
}

/// The worker that is this test's child, by the name of its binary.
fn worker_pid(exe: &str) -> String {
    let found = Command::new("pgrep").args(["-f", "-n", "-P", &std::process::id().to_string(), exe]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

/// A name of its own for the binary, so that a test finds its own child.
fn own_binary(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("weir-under-test");
    std::os::unix::fs::symlink(WEIR, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn signal_in_the_middle(signal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let exe = own_binary(&folder);
    let mut bench = bench(&exe);
    bench.push(0..200);
    let mut got = BTreeMap::new();
    while got.values().map(Vec::len).sum::<usize>() < 150 {
        let event = bench.event().await.expect("it goes on");
        assert!(!keep(event, &mut got));
    }
    let pid = worker_pid(&exe);
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success(), "{pid}");
    bench.push(200..bench.packets.len());
    bench.ring.push(Message::End { at: bench.packets.last().unwrap().pts + 3000 });
    assert_eq!(bench.collect(&mut got).await, 1, "one restart");
    bench.verify(&got);
    drop(bench.transcoder.take());
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_leaves_no_gap() {
    signal_in_the_middle("-KILL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_child_is_replaced_and_leaves_no_gap() {
    signal_in_the_middle("-STOP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_follow_their_input_within_half_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(&own_binary(&folder));
    bench.push(0..bench.packets.len());
    // No end follows, so nothing is drained: what comes out is what the encoders do not hold back.
    let enough = shown(&bench.packets).last().unwrap() - 45_000;
    let mut reached = BTreeMap::new();
    while reached.len() < bench.rungs.len() || reached.values().any(|&pts| pts < enough) {
        if let Some(Event::Item { rung, item: Item::Packet(packet) }) = bench.event().await {
            reached.insert(rung, packet.pts);
        }
    }
}
