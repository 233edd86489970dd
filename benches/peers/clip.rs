//! What the publishers send: a clip that ffmpeg encodes once and that is kept under target/bench.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

/// One FLV tag's body, which is also the payload of an RTMP message.
#[derive(Clone)]
pub struct Frame {
    /// From the clip's start.
    pub at_ms: u32,
    pub video: bool,
    pub body: Bytes,
}

/// Frames in the order in which they are sent. Its end joins its start: it can be sent again and again.
pub struct Clip {
    /// Sequence headers.
    pub headers: Vec<Frame>,
    pub frames: Vec<Frame>,
    pub length_ms: u32,
}

/// 2 s are 60 frames, 16 s are 750 AAC frames of 1024 samples at 48 kHz: a length at which both end.
const UNIT_S: u32 = 16;
const FPS: u32 = 30;

impl Clip {
    /// 720p30, a keyframe every 2 s, 3.64 Mb/s of H.264 and 160 kb/s of AAC.
    pub fn steady() -> Result<Self> {
        Self::made("steady", 3640, &["-g", "60", "-keyint_min", "60", "-sc_threshold", "0"], UNIT_S)
    }

    /// The same at a tenth of the rate: many of it fit one machine.
    pub fn small() -> Result<Self> {
        Self::made("small", 360, &["-g", "60", "-keyint_min", "60", "-sc_threshold", "0"], UNIT_S)
    }

    /// 720p30 as OBS sends it when nobody set anything: 2.5 Mb/s, a keyframe every 250 frames.
    pub fn obs_default() -> Result<Self> {
        Self::made("obs-default", 2500, &["-g", "250", "-keyint_min", "250", "-sc_threshold", "0"], 2 * UNIT_S)
    }

    pub fn kbps(&self) -> f64 {
        let bytes: usize = self.frames.iter().map(|frame| frame.body.len()).sum();
        bytes as f64 * 8.0 / f64::from(self.length_ms)
    }

    fn made(name: &str, kbps: u32, keyframes: &[&str], seconds: u32) -> Result<Self> {
        let path = folder().join(format!("{name}.flv"));
        if !path.exists() {
            crate::say(format_args!("encoding the clip {}", path.display()));
            encode(&path, kbps, keyframes, seconds)?;
        }
        let file = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&file, seconds).with_context(|| format!("{}: not the clip that it should be", path.display()))
    }

    fn parse(file: &[u8], seconds: u32) -> Result<Self> {
        let (mut headers, mut video, mut audio) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = file.get(13..).context("no FLV header")?;
        while let Some((head, body)) = rest.split_at_checked(11) {
            let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
            let at_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
            let body = body.get(..length).context("a tag is cut off")?;
            rest = rest.get(11 + length + 4..).unwrap_or_default();
            let frame = Frame { at_ms, video: head[0] == 9, body: Bytes::copy_from_slice(body) };
            match (head[0], body.get(1)) {
                (8 | 9, Some(0)) => headers.push(frame),
                (9, Some(1)) => video.push(frame),
                (8, Some(1)) => audio.push(frame),
                _ => {}
            }
        }
        let first = video.first().context("no video")?.at_ms;
        for (n, frame) in video.iter_mut().enumerate() {
            // What differs is rounding; any other difference would grow with every repetition.
            let nominal = first + (n as u32 * 1000).div_ceil(FPS);
            ensure!(frame.at_ms.abs_diff(nominal) <= 1, "frame {n} is at {} ms", frame.at_ms);
            frame.at_ms -= first;
        }
        let (pictures, sounds) = ((seconds * FPS) as usize, (seconds * 48_000 / 1024) as usize);
        ensure!(video.len() >= pictures && audio.len() >= sounds, "too short");
        video.truncate(pictures);
        audio.truncate(sounds);
        for (n, frame) in audio.iter_mut().enumerate() {
            frame.at_ms = (n as u32) * 64 / 3;
        }
        let mut frames = [video, audio].concat();
        frames.sort_by_key(|frame| frame.at_ms);
        headers.iter_mut().for_each(|frame| frame.at_ms = 0);
        ensure!(headers.len() == 2, "{} sequence headers", headers.len());
        Ok(Self { headers, frames, length_ms: seconds * 1000 })
    }
}

/// Where clips are kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")
}

fn encode(path: &Path, kbps: u32, keyframes: &[&str], seconds: u32) -> Result<()> {
    std::fs::create_dir_all(folder())?;
    let part = path.with_extension("part");
    // Noise keeps the encoder at its bit rate; a test picture alone needs a tenth of it.
    let picture = format!("testsrc2=s=1280x720:r={FPS},noise=alls=12:allf=t");
    let rate = format!("{kbps}k");
    // The surplus is cut off.
    let length = (seconds + 1).to_string();
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &picture])
        .args(["-f", "lavfi", "-i", "anoisesrc=c=pink:r=48000:a=0.5,aformat=channel_layouts=stereo"])
        .args(["-t", &length])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-profile:v", "high", "-pix_fmt", "yuv420p"])
        .args(["-b:v", &rate, "-maxrate", &rate, "-bufsize", &rate])
        .args(keyframes)
        .args(["-c:a", "aac", "-b:a", "160k", "-f", "flv"])
        .arg(&part)
        .status()
        .context("ffmpeg is needed to make a clip (scripts/install-deps test)")?;
    ensure!(status.success(), "ffmpeg could not make a clip");
    Ok(std::fs::rename(part, path)?)
}
