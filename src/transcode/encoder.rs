//! The GStreamer pipeline inside the worker: marked packets enter, encoded packets of each rung leave. Driven by [`super::worker`];
//! its callbacks only push into a bounded channel.
//!
//! Times are exact: ticks become nanoseconds and come back as the same ticks, so a rung's picture has the pts its source
//! picture had. A chunk starts at the first decoded picture at or after the mark; a probe behind the decoder asks every
//! encoder for an IDR there.
//!
//! Decode times are made here, not taken from the encoder: the n-th picture decoded has the pts of the picture shown
//! `REORDER` before the n-th; before a chunk's first picture it is as if pictures had been shown a frame apart. So a chunk's times
//! are the same on every node and after every restart, wherever the encoder began.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, mpsc::SyncSender},
    thread::JoinHandle,
};

use bytes::Bytes;
use gstreamer::{self as gst, prelude::*};
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::{Spec, description};
use crate::media::{Packet, Track, VIDEO_TIMESCALE, VideoConfig};

/// Why encoding cannot go on. A new worker may do better, except after `Setup`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pipeline cannot be built: {0}")]
    Setup(String),
    #[error("pipeline failed: {0}")]
    Failed(String),
    #[error("input is out of order: {0}")]
    Input(&'static str),
}

/// What comes out, by channel (the rung's place in the ladder).
#[derive(Debug)]
pub enum Output {
    Config { channel: u8, config: VideoConfig },
    Packet { channel: u8, packet: Packet },
    End { channel: u8, at: i64 },
}

/// How many pictures decoding runs ahead of showing: what B-frames that refer to B-frames need. Descriptions may use less.
const REORDER: usize = 2;

/// Added to every time on its way in, so that decode times before zero stay legal for GStreamer.
const BASE_TICKS: i64 = 3600 * VIDEO_TIMESCALE as i64;

fn to_clock(ticks: i64) -> gst::ClockTime {
    // 1e9 / 90,000 = 100,000 / 9. Rounds by less than half a tick, so `from_clock` gives the same ticks back.
    let ticks = u128::try_from(ticks + BASE_TICKS).unwrap_or(0);
    gst::ClockTime::from_nseconds(((ticks * 100_000 + 4) / 9) as u64)
}

fn from_clock(time: gst::ClockTime) -> i64 {
    ((u128::from(time.nseconds()) * 9 + 50_000) / 100_000) as i64 - BASE_TICKS
}

/// Leaves frames out so that at most `cap` a second stay. Starts anew with each chunk, so that every node decides alike.
#[derive(Debug, Default)]
struct Thinning {
    cap: Option<u32>,
    /// Chunk starts that the frames have not reached yet.
    starts: VecDeque<i64>,
    start: i64,
    slot: Option<i64>,
}

impl Thinning {
    fn keep(&mut self, pts: i64) -> bool {
        while self.starts.front().is_some_and(|&start| start <= pts) {
            self.start = self.starts.pop_front().expect("just seen");
            self.slot = None;
        }
        let Some(cap) = self.cap.filter(|&cap| cap > 0) else { return true };
        let (cap, scale) = (i64::from(cap), i64::from(VIDEO_TIMESCALE));
        // A quarter of a slot of tolerance: RTMP's whole milliseconds put frames up to half of one early.
        let slot = ((pts - self.start) * cap * 4 + scale).div_euclid(scale * 4);
        let keep = self.slot.is_none_or(|last| slot > last);
        if keep {
            self.slot = Some(slot);
        }
        keep
    }
}

#[derive(Debug, Default)]
struct Rung {
    thinning: Thinning,
    /// Marks whose packet has not come out yet.
    marks: VecDeque<(i64, u64)>,
    /// Decode times of the packets to come: [`REORDER`] before the first, then the pts of every picture put in.
    times: VecDeque<i64>,
    /// Nominal time between its pictures.
    frame: i64,
    /// Its first chunk has been reached.
    begun: bool,
    /// The rung is to stop at the next boundary.
    shed: bool,
    stop_at: Option<i64>,
    /// The encoder was told to drain.
    drained: bool,
}

impl Rung {
    fn stopped(&self, pts: i64) -> bool {
        self.stop_at.is_some_and(|at| at <= pts)
    }
}

#[derive(Debug)]
struct State {
    start_k: u64,
    started: bool,
    /// Marks that no decoded picture has reached yet.
    marks: VecDeque<(i64, u64)>,
    rungs: Vec<Rung>,
    /// Where the input ended, and the last picture put in.
    end: Option<i64>,
    last: i64,
    frame: i64,
}

enum Decoded {
    /// Not to be encoded: before the first wanted chunk.
    Skip,
    Encode {
        boundary: bool,
    },
}

impl State {
    fn decoded(&mut self, pts: i64) -> Decoded {
        let mut reached = None;
        while self.marks.front().is_some_and(|&(at, _)| at <= pts) {
            reached = self.marks.pop_front();
        }
        if let Some((_, k)) = reached {
            self.started |= k >= self.start_k;
            for rung in &mut self.rungs {
                rung.thinning.starts.push_back(pts);
                if !self.started || rung.stop_at.is_some() {
                    continue;
                }
                if rung.shed {
                    rung.stop_at = Some(pts);
                    continue;
                }
                if !std::mem::replace(&mut rung.begun, true) {
                    rung.times.extend(before(pts, rung.frame));
                }
                rung.marks.push_back((pts, k));
            }
        }
        self.last = self.last.max(pts);
        if self.started {
            return Decoded::Encode { boundary: reached.is_some() };
        }
        Decoded::Skip
    }
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().expect("no code panics while it holds the state")
}

/// A running pipeline.
pub struct Encoder {
    pipeline: gst::Pipeline,
    input: gst_app::AppSrc,
    fps: (u32, u32),
    configured: bool,
    state: Shared,
    bus: Option<JoinHandle<Result<(), Error>>>,
}

impl Encoder {
    /// Builds and starts the pipeline. Everything that comes out goes to `out`, which must be read.
    pub fn start(spec: &Spec, out: SyncSender<Output>) -> Result<Self, Error> {
        let setup = |e: &dyn std::fmt::Display| Error::Setup(e.to_string());
        gst::init().map_err(|e| setup(&e))?;
        let pipeline = gst::parse::launch(&spec.pipeline).map_err(|e| setup(&e))?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| setup(&"it is a single element"))?;
        // No clock: media runs as fast as it is fed.
        pipeline.use_clock(None::<&gst::Clock>);

        let frame = i64::from(VIDEO_TIMESCALE) * i64::from(spec.fps.1) / i64::from(spec.fps.0.max(1));
        let rung = |r: &super::Rung| Rung {
            thinning: Thinning { cap: r.fps_max, ..Thinning::default() },
            frame: r.fps_max.map_or(frame, |cap| frame.max(i64::from(VIDEO_TIMESCALE / cap.max(1)))),
            ..Rung::default()
        };
        let state = Arc::new(Mutex::new(State {
            start_k: spec.start_k,
            started: false,
            marks: VecDeque::new(),
            rungs: spec.rungs.iter().map(rung).collect(),
            end: None,
            last: 0,
            frame,
        }));
        let input = element(&pipeline, "input")?.downcast().map_err(|_| setup(&"`input` is not an appsrc"))?;
        probe_decoder(&pad(&element(&pipeline, "decoder")?, "src")?, &state);
        for index in 0..spec.rungs.len() {
            let below: Vec<usize> = (0..spec.rungs.len()).filter(|&i| descends(spec, i, index)).collect();
            probe_branch(&pad(&element(&pipeline, &format!("branch_{index}"))?, "sink")?, &state, index, below);
            let encoder = pad(&element(&pipeline, &format!("encoder_{index}"))?, "sink")?;
            probe_feed(&pad(&element(&pipeline, &format!("feed_{index}"))?, "src")?, encoder, &state, index);
            let output = element(&pipeline, &format!("output_{index}"))?;
            let output = output.downcast().map_err(|_| setup(&"`output_N` is not an appsink"))?;
            collect(&output, &state, index, spec.rungs[index].fps_max, spec.fps, out.clone());
        }
        pipeline.set_state(gst::State::Playing).map_err(|e| setup(&e))?;
        let bus = std::thread::spawn({
            let pipeline = pipeline.clone();
            move || watch(&pipeline)
        });
        Ok(Self { pipeline, input, fps: spec.fps, configured: false, state, bus: Some(bus) })
    }

    /// Takes the config of the packets to come. One encoder serves one config.
    pub fn video(&mut self, config: &VideoConfig) -> Result<(), Error> {
        if self.configured {
            return Err(Error::Input("a second video config"));
        }
        self.configured = true;
        // Pictures that do not say their colours have those that players assume for the size of the source, and must
        // keep them when they get smaller.
        let colorimetry = if config.height >= 720 { "bt709" } else { "bt601" };
        let caps = gst::Caps::builder("video/x-h264")
            .field("stream-format", "avc")
            .field("alignment", "au")
            .field("codec_data", gst::Buffer::from_slice(config.avcc.clone()))
            .field("framerate", gst::Fraction::new(self.fps.0 as i32, self.fps.1 as i32))
            .field("colorimetry", colorimetry)
            .build();
        self.input.set_caps(Some(&caps));
        Ok(())
    }

    /// Puts one packet in. Waits while the pipeline is full.
    pub fn packet(&mut self, packet: &Packet) -> Result<(), Error> {
        if packet.track != Track::Video {
            return Ok(());
        }
        if !self.configured {
            return Err(Error::Input("a video packet before its config"));
        }
        if let Some(k) = packet.mark {
            lock(&self.state).marks.push_back((packet.pts, k));
        }
        let mut buffer = gst::Buffer::from_slice(packet.payload.clone());
        let fields = buffer.get_mut().expect("a new buffer has one owner");
        fields.set_pts(to_clock(packet.pts));
        fields.set_dts(to_clock(packet.dts));
        if !packet.key {
            fields.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        match self.input.push_buffer(buffer) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.failure()),
        }
    }

    /// Stops a rung at the next chunk start; its `End` follows.
    pub fn shed(&self, channel: u8) {
        if let Some(rung) = lock(&self.state).rungs.get_mut(usize::from(channel)) {
            rung.shed = true;
        }
    }

    /// Encodes what is still inside and stops. `at` is where the media ends, when known.
    pub fn end(mut self, at: Option<i64>) -> Result<(), Error> {
        lock(&self.state).end = at;
        self.input.end_of_stream().map_err(|_| self.failure())?;
        self.join()
    }

    fn failure(&mut self) -> Error {
        self.join().err().unwrap_or_else(|| Error::Failed("it ended early".to_owned()))
    }

    fn join(&mut self) -> Result<(), Error> {
        let Some(bus) = self.bus.take() else { return Ok(()) };
        bus.join().unwrap_or_else(|_| Err(Error::Failed("the bus watcher panicked".to_owned())))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Failing to stop leaves threads to a process that is about to exit.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Waits for the end or the first error, which also stops the pipeline: whoever waits to put something in is woken.
fn watch(pipeline: &gst::Pipeline) -> Result<(), Error> {
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let result = match bus.timed_pop_filtered(gst::ClockTime::NONE, &kinds) {
        Some(message) => match message.view() {
            gst::MessageView::Error(e) => {
                let at = e.src().map(|s| s.name().to_string()).unwrap_or_default();
                Err(Error::Failed(format!("{at}: {}", e.error())))
            }
            _ => Ok(()),
        },
        None => Ok(()),
    };
    let _ = pipeline.set_state(gst::State::Null);
    result
}

fn element(pipeline: &gst::Pipeline, name: &str) -> Result<gst::Element, Error> {
    pipeline.by_name(name).ok_or_else(|| Error::Setup(format!("no element is called {name:?}")))
}

fn pad(element: &gst::Element, name: &str) -> Result<gst::Pad, Error> {
    element.static_pad(name).ok_or_else(|| Error::Setup(format!("{} has no {name} pad", element.name())))
}

fn descends(spec: &Spec, mut index: usize, from: usize) -> bool {
    while index != from {
        match description::parent(&spec.rungs, index) {
            Some(parent) => index = parent,
            None => return false,
        }
    }
    true
}

fn pts_of(info: &gst::PadProbeInfo<'_>) -> Option<i64> {
    info.buffer().and_then(|b| b.pts()).map(from_clock)
}

/// Leaves a buffer or event out. `Drop` would do so too, but with GStreamer 1.22 the bindings free it twice and a warning is
/// printed each time.
const DROP: gst::PadProbeReturn = gst::PadProbeReturn::Handled;

/// Finds chunk starts among decoded pictures, and holds back what comes before the first wanted one.
fn probe_decoder(pad: &gst::Pad, state: &Shared) {
    let state = Arc::clone(state);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(pts) = pts_of(info) else { return DROP };
        let decoded = lock(&state).decoded(pts);
        match decoded {
            Decoded::Skip => DROP,
            Decoded::Encode { boundary } => {
                if boundary {
                    // Without a time, which means the next picture: GStreamer 1.22 compares the time with x264enc's
                    // times shifted by 1,000 hours and ignores all requests but the first.
                    let event = gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(true).build();
                    pad.push_event(event);
                }
                gst::PadProbeReturn::Ok
            }
        }
    });
}

/// Thins frames out before they are scaled; lets none through once the rung and all that scale from it have stopped.
fn probe_branch(pad: &gst::Pad, state: &Shared, index: usize, below: Vec<usize>) {
    let state = Arc::clone(state);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(pts) = pts_of(info) else { return DROP };
        let mut state = lock(&state);
        // A stopped rung's encoder must still see the first frame past its end, to be told to drain.
        let idle = below.iter().all(|&i| state.rungs[i].stopped(pts) && state.rungs[i].drained);
        if !idle && state.rungs[index].thinning.keep(pts) { gst::PadProbeReturn::Ok } else { DROP }
    });
}

/// Notes what goes into the encoder; drains it when the rung stops.
fn probe_feed(pad: &gst::Pad, encoder: gst::Pad, state: &Shared, index: usize) {
    let state = Arc::clone(state);
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let mut guard = lock(&state);
        let rung = &mut guard.rungs[index];
        if info.event().is_some() {
            // An encoder that has ended refuses everything, and a refusal would end the other rungs, too.
            return if rung.drained { DROP } else { gst::PadProbeReturn::Ok };
        }
        let Some(pts) = pts_of(info) else { return DROP };
        if !rung.stopped(pts) {
            rung.times.push_back(pts);
            return gst::PadProbeReturn::Ok;
        }
        let drain = !std::mem::replace(&mut rung.drained, true);
        drop(guard);
        if drain {
            // Straight to the encoder: an end sent through the queue's pad would stop the queue, and with it the tee.
            encoder.send_event(gst::event::Eos::new());
        }
        DROP
    });
}

fn collect(
    sink: &gst_app::AppSink,
    state: &Shared,
    index: usize,
    fps_max: Option<u32>,
    fps: (u32, u32),
    out: SyncSender<Output>,
) {
    let channel = index as u8;
    let (at_sample, at_end, out_end) = (Arc::clone(state), Arc::clone(state), out.clone());
    let fps = fps_max.map_or(fps, |cap| (cap, 1));
    let mut avcc = Bytes::new();
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            if let Some(new) = codec_data(&sample).filter(|new| *new != avcc) {
                avcc = new.clone();
                let config = VideoConfig::parse(new).map_err(|e| {
                    gst::error!(gst::CAT_DEFAULT, obj = sink, "encoder made an unusable config: {e}");
                    gst::FlowError::NotNegotiated
                })?;
                // The encoder's time base says nothing of frames.
                let config = VideoConfig { fps: Some(fps), ..config };
                out.send(Output::Config { channel, config }).map_err(|_| gst::FlowError::Eos)?;
            }
            let packet = packet(&sample, &mut lock(&at_sample).rungs[index]).ok_or(gst::FlowError::Error)?;
            out.send(Output::Packet { channel, packet }).map_err(|_| gst::FlowError::Eos)?;
            Ok(gst::FlowSuccess::Ok)
        })
        .eos(move |_| {
            let state = lock(&at_end);
            let at = state.rungs[index].stop_at.or(state.end).unwrap_or(state.last + state.frame);
            drop(state);
            // Nobody reads any more: nobody misses it.
            let _ = out_end.send(Output::End { channel, at });
        })
        .build();
    sink.set_callbacks(callbacks);
}

/// When the pictures before one would have been shown, `frame` apart.
fn before(pts: i64, frame: i64) -> impl Iterator<Item = i64> {
    (1..=REORDER as i64).rev().map(move |n| pts - n * frame)
}

fn codec_data(sample: &gst::Sample) -> Option<Bytes> {
    let buffer = sample.caps()?.structure(0)?.get::<gst::Buffer>("codec_data").ok()?;
    let map = buffer.map_readable().ok()?;
    Some(Bytes::copy_from_slice(&map))
}

fn packet(sample: &gst::Sample, rung: &mut Rung) -> Option<Packet> {
    let buffer = sample.buffer()?;
    // x264enc shifts its times by 1,000 hours and its segment with them: only running time is comparable.
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let pts = from_clock(segment.to_running_time(buffer.pts()?)?);
    let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
    while rung.marks.front().is_some_and(|&(at, _)| at < pts) && key {
        rung.marks.pop_front();
    }
    let mark = match rung.marks.front() {
        Some(&(at, k)) if key && at == pts => {
            rung.marks.pop_front();
            // Of the chunk before, of which another node may have made nothing.
            rung.times.iter_mut().zip(before(at, rung.frame)).for_each(|(time, nominal)| *time = nominal);
            Some(k)
        }
        _ => None,
    };
    let dts = rung.times.pop_front()?.min(pts);
    let payload = Bytes::copy_from_slice(&buffer.map_readable().ok()?);
    Some(Packet { track: Track::Video, pts, dts, key, mark, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thin(cap: u32, times: &[i64], starts: &[i64]) -> Vec<i64> {
        let mut t = Thinning { cap: Some(cap), starts: starts.iter().copied().collect(), ..Thinning::default() };
        times.iter().copied().filter(|&pts| t.keep(pts)).collect()
    }

    #[test]
    fn sixty_frames_become_thirty_in_spite_of_whole_milliseconds() {
        let times: Vec<i64> = (0..120).map(|n: i64| (n * 1000 + 30) / 60 * 90).collect();
        let kept = thin(30, &times, &[0]);
        assert_eq!(kept, times.iter().copied().step_by(2).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn ticks_survive_the_way_through_nanoseconds(ticks in -300_000_000i64..200_000_000_000_000) {
            prop_assert_eq!(from_clock(to_clock(ticks)), ticks);
        }

        #[test]
        fn the_choice_of_frames_does_not_depend_on_where_one_joins(
            gaps in prop::collection::vec(500i64..6000, 50..200), cap in 5u32..60, cut in 10usize..40,
        ) {
            let times: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let start = times[cut];
            let from_start: Vec<i64> = thin(cap, &times, &[times[0], start]).into_iter().filter(|&t| t >= start).collect();
            let joined = thin(cap, &times[cut..], &[start]);
            prop_assert_eq!(&from_start, &joined);
            prop_assert_eq!(joined[0], start);
            // Thinning what was thinned changes nothing: rungs with the same cap may share a branch.
            prop_assert_eq!(thin(cap, &joined, &[start]), joined);
        }
    }
}
