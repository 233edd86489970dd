//! Still pictures of a broadcast: key frames enter, one JPEG leaves, with the pictures laid out side by side.
//!
//! [`Stills`] has each made by a child of its own ([`run`]), which takes only what processor time nobody else wants: what is
//! live is never slower for it. Where there is none to be had the picture is given up, as it is when too many wait.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use gstreamer::{self as gst, prelude::*};
use gstreamer_app as gst_app;
use gstreamer_video::{self as gst_video, prelude::*};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    io::AsyncWriteExt,
    process::Command,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{description, worker};
use crate::media::{Message, Packet, Track, VideoConfig, wire};

/// Hidden subcommand of [`run`].
pub const SUBCOMMAND: &str = "still-worker";
/// How long whoever asks waits for a picture, for its turn too.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Pictures that may wait for their turn.
const WAITING_MAX: usize = 64;
/// A sheet has some tens of tiles; more is a mistake.
const JPEG_MAX: u64 = 8 << 20;
/// JPEG quality: above it files grow faster than small pictures get better.
const QUALITY: u32 = 80;

/// What one JPEG shows: a grid of equal cells, some of them black.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Of a cell, pixels: a multiple of four wide, an even number high.
    pub width: u32,
    pub height: u32,
    pub columns: u32,
    pub rows: u32,
}

/// A key frame, and the cell that shows it, counted row by row.
#[derive(Debug, Clone)]
pub struct Picture {
    pub cell: u32,
    pub config: VideoConfig,
    /// One access unit, an IDR.
    pub payload: Bytes,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A later try may do better.
    #[error("this node has no time for pictures now")]
    Busy,
    #[error("a picture cannot be made: {0}")]
    Failed(String),
}

/// Has pictures made. Clones share the bounds.
#[derive(Debug, Clone)]
pub struct Stills {
    exe: PathBuf,
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Stills {
    /// Pictures are made by children of this program.
    ///
    /// # Errors
    /// Its path is not known.
    pub fn new() -> io::Result<Self> {
        // One at a time: they share what the rest of the node leaves over.
        Ok(Self::of(std::env::current_exe()?))
    }

    fn of(exe: PathBuf) -> Self {
        Self { exe, turns: Arc::new(Semaphore::new(1)), places: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Takes a place among those who wait, before anything is read for a picture.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.places.clone().try_acquire_owned().map_err(|_| Error::Busy)
    }

    /// Makes a JPEG. Pictures that cannot be decoded leave their cell black; when none can, that is a failure.
    pub async fn make(
        &self,
        _place: OwnedSemaphorePermit,
        layout: Layout,
        pictures: Vec<Picture>,
    ) -> Result<Bytes, Error> {
        let made = async {
            let _turn = self.turns.acquire().await.expect("never closed");
            self.run(layout, pictures).await
        };
        // Dropped with its future, a child is killed.
        let made = tokio::time::timeout(PATIENCE, made).await.map_err(|_| Error::Busy)?;
        metrics::counter!("weir_pictures_total", "result" => if made.is_ok() { "ok" } else { "failed" }).increment(1);
        made.map_err(Error::Failed)
    }

    async fn run(&self, layout: Layout, pictures: Vec<Picture>) -> Result<Bytes, String> {
        let failed = |why: &dyn std::fmt::Display| why.to_string();
        let input = encode(layout, pictures).map_err(|why| failed(&why))?;
        let mut child = Command::new(&self.exe)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| failed(&why))?;
        let mut stdin = child.stdin.take().expect("is piped");
        let (stdout, stderr) = (child.stdout.take().expect("is piped"), child.stderr.take().expect("is piped"));
        let feed = async move {
            // A child that ends early says why on its other pipe.
            let _ = stdin.write_all(&input).await;
        };
        let (mut jpeg, mut words) = (Vec::new(), String::new());
        let (mut stdout, mut stderr) = (stdout.take(JPEG_MAX), stderr.take(64 << 10));
        let ((), read, _) = tokio::join!(feed, stdout.read_to_end(&mut jpeg), stderr.read_to_string(&mut words));
        read.map_err(|why| failed(&why))?;
        let status = child.wait().await.map_err(|why| failed(&why))?;
        match status.success() && jpeg.starts_with(&[0xff, 0xd8]) {
            true => Ok(jpeg.into()),
            false => Err(format!("{status}: {}", words.lines().last().unwrap_or_default())),
        }
    }
}

/// What the child reads: the layout, then each picture after its config. A packet's time is its cell.
fn encode(layout: Layout, pictures: Vec<Picture>) -> Result<Bytes, wire::Error> {
    let (mut encoder, mut out) = (wire::Encoder::new(), BytesMut::new());
    let mut put = |frame| {
        let payload = encoder.encode(frame, &mut out)?;
        out.extend_from_slice(&payload);
        Ok(())
    };
    put(wire::Frame::Spec(serde_json::to_vec(&layout).expect("plain data").into()))?;
    let mut known = None;
    for Picture { cell, config, payload } in pictures {
        let message = |message| wire::Frame::Message { channel: 0, message };
        if known.as_ref() != Some(&config) {
            put(message(Message::Video(config.clone())))?;
            known = Some(config);
        }
        let (pts, track) = (i64::from(cell), Track::Video);
        put(message(Message::Packet(Packet { track, pts, dts: pts, key: true, mark: None, payload })))?;
    }
    Ok(out.freeze())
}

/// Makes one JPEG on stdin and stdout. The body of the hidden subcommand.
pub fn run() -> anyhow::Result<()> {
    only_idle_time();
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input)?;
    let jpeg = make(&input)?;
    Ok(io::stdout().write_all(&jpeg)?)
}

/// Takes only the processor time that nobody else wants.
#[allow(unsafe_code)]
fn only_idle_time() {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one structure, which lives through it. Failing leaves the policy as it was, so the priority is
    // lowered as well.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) };
    worker::lower_priority(19);
}

fn make(input: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut decoder = wire::Decoder::new();
    decoder.push(input);
    let Some(wire::Frame::Spec(layout)) = decoder.poll()? else {
        anyhow::bail!("the input does not begin with a layout")
    };
    let layout: Layout = serde_json::from_slice(&layout)?;
    let mut messages = Vec::new();
    while let Some(frame) = decoder.poll()? {
        let wire::Frame::Message { message, .. } = frame else { anyhow::bail!("a frame that is no message") };
        messages.push(message);
    }
    gst::init()?;
    let mut canvas = Canvas::new(layout);
    decode(layout, messages, &mut canvas)?;
    anyhow::ensure!(canvas.painted > 0, "no picture could be decoded");
    compress(canvas)
}

/// Pixels of three bytes, row by row.
struct Canvas {
    layout: Layout,
    pixels: Vec<u8>,
    painted: usize,
}

impl Canvas {
    fn new(layout: Layout) -> Self {
        let Layout { width, height, columns, rows } = layout;
        let pixels = vec![0; width as usize * columns as usize * 3 * height as usize * rows as usize];
        Self { layout, pixels, painted: 0 }
    }

    /// Bytes of a row of cells' pixels, and of all.
    fn strides(&self) -> (usize, usize) {
        let row = self.layout.width as usize * 3;
        (row, row * self.layout.columns as usize)
    }

    fn paint(&mut self, cell: usize, frame: &gst_video::VideoFrameRef<&gst::BufferRef>) -> anyhow::Result<()> {
        let (row, all) = self.strides();
        let (column, line) = (cell % self.layout.columns as usize, cell / self.layout.columns as usize);
        let (stride, pixels) = (frame.plane_stride()[0] as usize, frame.plane_data(0)?);
        let top = line * self.layout.height as usize * all + column * row;
        for y in 0..self.layout.height as usize {
            let at = top + y * all;
            let (Some(to), Some(from)) = (self.pixels.get_mut(at..at + row), pixels.get(y * stride..y * stride + row))
            else {
                anyhow::bail!("a picture for a cell that is not there");
            };
            to.copy_from_slice(from);
        }
        self.painted += 1;
        Ok(())
    }
}

fn decode(layout: Layout, messages: Vec<Message>, canvas: &mut Canvas) -> anyhow::Result<()> {
    let values = [("width", layout.width), ("height", layout.height)];
    let pipeline = Pipeline::start(&description::still("decode", &values)?)?;
    for message in messages {
        match message {
            Message::Video(config) => {
                let caps = gst::Caps::builder("video/x-h264")
                    .field("stream-format", "avc")
                    .field("alignment", "au")
                    .field("codec_data", gst::Buffer::from_slice(config.avcc))
                    .build();
                pipeline.input.set_caps(Some(&caps));
            }
            Message::Packet(packet) => pipeline.push(packet.payload, packet.pts)?,
            _ => {}
        }
    }
    pipeline.drain(|sample, cell| {
        let caps = sample.caps().ok_or_else(|| anyhow::anyhow!("a picture without a format"))?;
        let info = gst_video::VideoInfo::from_caps(caps)?;
        let buffer = sample.buffer().ok_or_else(|| anyhow::anyhow!("a picture without pixels"))?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
        canvas.paint(cell, &frame)
    })
}

fn compress(canvas: Canvas) -> anyhow::Result<Vec<u8>> {
    let Layout { width, height, columns, rows } = canvas.layout;
    let pipeline = Pipeline::start(&description::still("encode", &[("quality", QUALITY)])?)?;
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width * columns, height * rows).build()?;
    pipeline.input.set_caps(Some(&info.to_caps()?));
    pipeline.push(canvas.pixels.into(), 0)?;
    let mut jpeg = Vec::new();
    pipeline.drain(|sample, _| {
        let buffer = sample.buffer().ok_or_else(|| anyhow::anyhow!("an empty JPEG"))?;
        jpeg = buffer.map_readable()?.to_vec();
        Ok(())
    })?;
    Ok(jpeg)
}

/// A pipeline with one end to put buffers in and one to take them out.
struct Pipeline {
    pipeline: gst::Pipeline,
    input: gst_app::AppSrc,
    output: gst_app::AppSink,
}

impl Pipeline {
    fn start(description: &str) -> anyhow::Result<Self> {
        let pipeline = gst::parse::launch(description)?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| anyhow::anyhow!("not a pipeline"))?;
        let named = |name: &str| pipeline.by_name(name).ok_or_else(|| anyhow::anyhow!("no element is called {name}"));
        let input = named("input")?.downcast::<gst_app::AppSrc>().map_err(|_| anyhow::anyhow!("input is no appsrc"))?;
        let output = named("output")?.downcast::<gst_app::AppSink>();
        let output = output.map_err(|_| anyhow::anyhow!("output is no appsink"))?;
        pipeline.set_state(gst::State::Playing)?;
        Ok(Self { pipeline, input, output })
    }

    /// Puts a buffer in; its number comes out with what is made of it.
    fn push(&self, bytes: Bytes, number: i64) -> anyhow::Result<()> {
        let mut buffer = gst::Buffer::from_slice(bytes);
        let time = gst::ClockTime::from_seconds(u64::try_from(number)?);
        buffer.get_mut().expect("has one owner").set_pts(time);
        self.input.push_buffer(buffer)?;
        Ok(())
    }

    /// Takes out all that is made of what was put in.
    fn drain(self, mut take: impl FnMut(&gst::Sample, usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.input.end_of_stream()?;
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        loop {
            // Samples end with the stream, or with what broke it.
            if let Some(sample) = self.output.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
                let number = sample.buffer().and_then(|buffer| buffer.pts()).map_or(0, gst::ClockTime::seconds);
                take(&sample, number as usize)?;
                continue;
            }
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
                && let gst::MessageView::Error(error) = message.view()
            {
                anyhow::bail!("{}", error.error());
            }
            if self.output.is_eos() {
                return Ok(());
            }
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // The process ends soon; a pipeline that cannot stop ends with it.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LAYOUT: Layout = Layout { width: 16, height: 8, columns: 1, rows: 1 };

    /// Has pictures made by a shell script instead of this program.
    fn stills(dir: &std::path::Path, script: &str) -> Stills {
        let exe = dir.join("program");
        std::fs::write(&exe, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
        Stills::of(exe)
    }

    #[tokio::test]
    async fn a_child_that_gets_no_time_is_given_up_and_so_are_those_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let started = dir.path().join("pid");
        let stills = stills(dir.path(), &format!("echo $$ > {}; exec sleep 600", started.display()));
        // Time stands until nothing else is to be done, which is when the child has been waited for long enough.
        tokio::time::pause();
        let ask = async || stills.make(stills.place()?, LAYOUT, Vec::new()).await;
        let asked = (0..WAITING_MAX + 5).map(|_| ask());
        let made = futures::future::join_all(asked).await;
        assert!(made.iter().all(|made| matches!(made, Err(Error::Busy))), "{made:?}");
        assert_eq!(stills.places.available_permits(), WAITING_MAX);
        let gone = || match std::fs::read_to_string(&started) {
            Ok(pid) => !std::path::Path::new(&format!("/proc/{}/exe", pid.trim())).exists(),
            Err(_) => true,
        };
        while !gone() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_child_says_of_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let failing = stills(dir.path(), "cat > /dev/null; echo first >&2; echo second >&2; exit 3");
        let made = failing.make(failing.place().unwrap(), LAYOUT, Vec::new()).await;
        assert!(matches!(made, Err(Error::Failed(why)) if why.ends_with("second") && why.contains('3')));
        let talking = stills(dir.path(), "cat > /dev/null; echo no picture");
        let made = talking.make(talking.place().unwrap(), LAYOUT, Vec::new()).await;
        assert!(matches!(made, Err(Error::Failed(_))));
    }

    #[test]
    fn input_without_pictures_makes_none() {
        let nothing = encode(LAYOUT, Vec::new()).unwrap();
        assert_eq!(make(&nothing).unwrap_err().to_string(), "no picture could be decoded");
        assert!(make(b"").is_err() && make(b"nonsense that is long enough").is_err());
    }
}
