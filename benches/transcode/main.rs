//! CPU and quality of the transcoder against one `ffmpeg -preset veryfast` process that makes the same outputs.
//!
//! `cargo bench --bench transcode`. Both sides run in turns, so that other load meets them alike; ratios are printed.
//! Needs `ffmpeg` with libx264. `TRANSCODE_ROUNDS` (5) and `TRANSCODE_CLIP` (a 720p30 H.264 file instead of the made one).

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bytes::BytesMut;
use weir::{
    media::{Message, VideoConfig, codec, wire},
    transcode::{
        Entry, Family, Rung, Spec,
        description::{self, Source},
        ladder, worker,
    },
};

mod flv;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Like a game: a fractal zoom (steady global motion, fine edges), a cellular automaton (much local change), soft gradients, a
/// sharp picture that wanders, a cut every 4 s, and sensor noise over all of it. Encoded as OBS does: 3 Mb/s, B-frames, 2 s GOP.
const FILTER: &str = "[1]scroll=h=0.004:v=0.0017[l];[2][l]blend=all_mode=overlay:all_opacity=0.55[bg];\
    [bg][0]blend=all_expr='if(lt(mod(floor(T/4),2),1),A*0.35+B*0.65,A*0.8+B*0.2)'[m];[m]noise=alls=5:allf=t[n];\
    [n][3]overlay=x='40+900*abs(sin(t/3))':y='60+400*abs(cos(t/4))'[v]";
const INPUTS: [&str; 4] = [
    "mandelbrot=s=1280x720:r=30:maxiter=800:end_scale=0.02:end_pts=900",
    "life=s=320x180:r=30:mold=12:ratio=0.12:seed=7:death_color=#1a3c20:life_color=#c8e080:mold_color=#604828,\
     scale=1280:720:flags=bicubic,gblur=1.2",
    "gradients=s=640x360:r=30:seed=5:speed=0.02:n=5,scale=1280:720",
    "testsrc2=s=320x180:r=30",
];

fn main() {
    let rounds: u32 = std::env::var("TRANSCODE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("transcode");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let clip = std::env::var_os("TRANSCODE_CLIP").map_or_else(|| make_clip(&folder), PathBuf::from);

    let flv = folder.join("clip.flv");
    ffmpeg(&["-i", text(&clip), "-c", "copy", "-an", "-f", "flv", text(&flv)]);
    let (config, mut packets) = flv::read(&std::fs::read(&flv).expect("just written"));
    flv::mark(&mut packets, 0, 180_000, true);
    let entry = |height, bitrate_kbps| Entry { height, bitrate_kbps, fps_max: None, name: None };
    let rungs = ladder::plan(&[entry(480, 1200), entry(360, 700), entry(160, 250)], &config, false);
    let feed = feed(&config, &rungs, flv::messages(config.clone(), packets));

    println!("round   ffmpeg s   weir s   ratio");
    let mut totals = (0.0, 0.0);
    for round in 1..=rounds {
        let theirs = run_ffmpeg(&clip, &rungs, &folder);
        let ours = run_weir(&feed, &rungs, &folder);
        println!("{round:5}   {theirs:8.2}   {ours:6.2}   {:.3}", ours / theirs);
        totals = (totals.0 + theirs, totals.1 + ours);
    }
    println!("total   {:8.2}   {:6.2}   {:.3}\n", totals.0, totals.1, totals.1 / totals.0);

    println!("rung      ffmpeg SSIM (Y, all)   weir SSIM (Y, all)   difference           kb/s");
    for rung in &rungs {
        let (theirs, ours) = (ssim(&clip, &folder, "ffmpeg", rung), ssim(&clip, &folder, "weir", rung));
        let rate = |side| bits(&output(&folder, side, rung)) / seconds(&clip) / 1000.0;
        println!(
            "{:8}  {:.4} {:.4}          {:.4} {:.4}        {:+.4} {:+.4}      {:.0} {:.0}",
            rung.name.to_string(),
            theirs.0,
            theirs.1,
            ours.0,
            ours.1,
            ours.0 - theirs.0,
            ours.1 - theirs.1,
            rate("ffmpeg"),
            rate("weir"),
        );
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn ffmpeg(args: &[&str]) {
    let status = Command::new("ffmpeg").args(["-y", "-v", "error"]).args(args).status().expect("ffmpeg runs");
    assert!(status.success(), "ffmpeg {args:?}");
}

fn make_clip(folder: &Path) -> PathBuf {
    let clip = folder.join("clip.mp4");
    if !clip.exists() {
        println!("making the clip, this takes a minute or two");
        let making = folder.join("making.mp4");
        let mut args: Vec<&str> = INPUTS.iter().flat_map(|input| ["-f", "lavfi", "-i", input]).collect();
        args.extend(["-filter_complex", FILTER, "-map", "[v]", "-t", "24", "-pix_fmt", "yuv420p"]);
        args.extend([
            "-c:v", "libx264", "-preset", "veryfast", "-b:v", "3000k", "-maxrate", "3000k", "-bufsize", "6000k",
        ]);
        args.extend(["-g", "60", "-keyint_min", "60", "-sc_threshold", "0", "-bf", "2", text(&making)]);
        ffmpeg(&args);
        std::fs::rename(making, &clip).expect("the target folder can be written");
    }
    clip
}

fn output(folder: &Path, side: &str, rung: &Rung) -> PathBuf {
    folder.join(format!("{side}-{}.264", rung.name))
}

/// One process, three outputs, the same rates, buffers and keyframes as ours.
fn run_ffmpeg(clip: &Path, rungs: &[Rung], folder: &Path) -> f64 {
    let mut command = Command::new("ffmpeg");
    command.args(["-y", "-v", "error", "-i", text(clip)]);
    for rung in rungs {
        let rate = format!("{}k", rung.bitrate_kbps);
        command.args([
            "-map",
            "0:v",
            "-s",
            &format!("{}x{}", rung.width, rung.height),
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
        ]);
        command.args(["-b:v", &rate, "-maxrate", &rate, "-bufsize", &rate]);
        command.args(["-g", "60", "-keyint_min", "60", "-sc_threshold", "0", "-f", "h264"]);
        command.arg(output(folder, "ffmpeg", rung));
    }
    cpu(command.stdin(Stdio::null()).spawn().expect("ffmpeg runs"))
}

/// What the supervisor would write to the child.
fn feed(config: &VideoConfig, rungs: &[Rung], messages: Vec<Message>) -> Vec<u8> {
    let fps = config.fps.unwrap_or((30, 1));
    let source = Source { width: config.width.into(), height: config.height.into(), fps };
    let description = match std::env::var_os("TRANSCODE_PIPELINE") {
        Some(path) => std::fs::read_to_string(path).expect("the description can be read"),
        None => description::built_in(Family::X264).to_owned(),
    };
    let pipeline = description::render(&description, source, rungs).expect("the description fills in");
    let spec = Spec { pipeline, rungs: rungs.to_vec(), start_k: 0, fps, nice: 0 };
    let spec = wire::Frame::Spec(serde_json::to_vec(&spec).expect("plain data").into());
    let media = messages.into_iter().map(|message| wire::Frame::Message { channel: 0, message });
    let (mut encoder, mut feed) = (wire::Encoder::new(), BytesMut::new());
    for frame in std::iter::once(spec).chain(media) {
        let payload = encoder.encode(frame, &mut feed).expect("frames of a sane size");
        feed.extend_from_slice(&payload);
    }
    feed.to_vec()
}

fn run_weir(feed: &[u8], rungs: &[Rung], folder: &Path) -> f64 {
    let mut command = Command::new(WEIR);
    command.arg(worker::SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the worker starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(feed).expect("the worker reads"));
        stdout.read_to_end(&mut said).expect("the worker writes");
    });
    let seconds = cpu(child);
    let mut outputs = vec![Vec::new(); rungs.len()];
    let mut nal_len = 4;
    let mut decoder = wire::Decoder::new();
    decoder.push(&said);
    while let Some(frame) = decoder.poll().expect("frames") {
        let wire::Frame::Message { channel, message } = frame else { panic!("{frame:?}") };
        let out = &mut outputs[usize::from(channel)];
        match message {
            Message::Video(config) => {
                nal_len = config.nal_len();
                parameter_sets(&config.avcc).for_each(|set| annex_b(out, set));
            }
            Message::Packet(packet) => codec::nals(&packet.payload, nal_len).for_each(|nal| annex_b(out, nal)),
            _ => {}
        }
    }
    for (rung, bytes) in rungs.iter().zip(outputs) {
        std::fs::write(output(folder, "weir", rung), bytes).expect("the target folder can be written");
    }
    seconds
}

fn annex_b(out: &mut Vec<u8>, nal: &[u8]) {
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(nal);
}

/// The SPS and the PPS of an avcC with one of each, as x264 writes it.
fn parameter_sets(avcc: &[u8]) -> impl Iterator<Item = &[u8]> {
    let set = |at: usize| &avcc[at + 2..at + 2 + usize::from(avcc[at]) * 256 + usize::from(avcc[at + 1])];
    let sps = set(6);
    [sps, set(6 + 2 + sps.len() + 1)].into_iter()
}

/// Waits for a process; gives its user and system time in seconds.
#[allow(unsafe_code)]
fn cpu(child: Child) -> f64 {
    let (mut status, pid) = (0, child.id() as libc::pid_t);
    // SAFETY: rusage is plain numbers, for which zero is a value, and both pointers outlive the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid);
        usage
    };
    assert_eq!(status, 0, "the process failed");
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// SSIM (luma, all planes) of an output against the clip, scaled down by ffmpeg's default bicubic filter.
fn ssim(clip: &Path, folder: &Path, side: &str, rung: &Rung) -> (f64, f64) {
    let graph = format!(
        "[1:v]scale={}:{}:flags=bicubic,settb=1/30,setpts=N[r];[0:v]settb=1/30,setpts=N[a];[a][r]ssim",
        rung.width, rung.height
    );
    let file = output(folder, side, rung);
    let out = Command::new("ffmpeg")
        .args(["-r", "30", "-f", "h264", "-i", text(&file), "-i", text(clip), "-lavfi", &graph, "-f", "null", "-"])
        .output()
        .expect("ffmpeg runs");
    let log = String::from_utf8_lossy(&out.stderr).into_owned();
    let value = |name: &str| {
        let line = log.lines().rev().find(|l| l.contains("SSIM Y:")).expect("ffmpeg prints SSIM");
        let after = line.split_once(name).expect("ffmpeg prints every plane").1;
        after.split(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    };
    (value(" Y:"), value(" All:"))
}

fn bits(path: &Path) -> f64 {
    std::fs::metadata(path).expect("just written").len() as f64 * 8.0
}

fn seconds(clip: &Path) -> f64 {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", text(clip)])
        .output()
        .expect("ffprobe runs");
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("a number")
}
