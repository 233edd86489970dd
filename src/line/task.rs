//! The task that owns one stream's line: feed in, chunks out.
//!
//! It alone touches the stream's broadcast, ring, chunkers and transcoders. Others talk to it through [`Command`]s on a
//! bounded channel; viewers read the snapshots it leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Fenced, Shared, StreamSettings,
    broadcast::{Broadcast, Finished},
    keeper::{ChunkJob, Job, Keeper, Stored},
    live::{Live, State},
};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    media::{
        AudioConfig, Epoch, Message, Mode, Packet, Track, VIDEO_TIMESCALE, VideoConfig, rescale,
        ring::{self, Ring},
        timeline::{Break, Warning},
    },
    package::{Chunk, Chunker},
    store::{self, BroadcastRow, EpochRow, RenditionChunk, RenditionRow},
    time::{Timestamp, UnixMs, now, unix_now},
    transcode::{self, Granted, Item, Rung, Transcoder},
};

/// How long an ended broadcast's window stays, with ENDLIST, before the stable URLs answer with the recording: every
/// player that polls sees the end, and no playlist's media sequence goes back under a player that still loads it.
const LINGER_TARGETS: u32 = 3;

/// How often a line without work asks whether anyone still holds it.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// What a session tells when it asks for an epoch.
#[derive(Debug)]
pub struct Begin {
    pub reason: Break,
    /// The chunk number and time that follow what the session has sent; `None` for its first epoch.
    pub next: Option<(u64, i64)>,
    pub video: Option<VideoConfig>,
    pub audio: Option<AudioConfig>,
}

/// The answer to [`Begin`].
#[derive(Debug)]
pub struct Begun {
    pub epoch: Epoch,
    /// Renditions will be encoded: chunk starts need not follow the source's keyframes.
    pub encode: bool,
}

#[derive(Debug)]
pub enum Command {
    /// A new session with the valid key: the one before it is fenced. `stop` ends the session.
    Attach {
        session: u64,
        settings: StreamSettings,
        stop: CancellationToken,
    },
    Begin {
        session: u64,
        begin: Begin,
        reply: oneshot::Sender<Result<Begun, Fenced>>,
    },
    Media {
        session: u64,
        message: Message,
    },
    Warning {
        session: u64,
        warning: Warning,
    },
    /// The session is over; its `End` came before.
    Detach {
        session: u64,
    },
    /// The node stops: finish the open chunk, store everything, end.
    Close,
}

struct Session {
    number: u64,
    settings: StreamSettings,
    stop: CancellationToken,
}

/// What runs between an epoch's begin and its end.
struct Run {
    epoch: Epoch,
    video: Option<VideoConfig>,
    audio_config: Option<AudioConfig>,
    mode: Option<Mode>,
    source: Option<Chunker>,
    audio: Option<Chunker>,
    /// What to encode, until the first mark starts the transcoder.
    granted: Option<Granted>,
    /// The rung that only re-encode mode needs.
    top: Option<Rendition>,
    /// End of the media so far, 90 kHz.
    end: i64,
    last_dts: Option<i64>,
}

/// A transcoder and what packages its output; it may outlive its epoch while it drains.
struct Encoding {
    transcoder: Transcoder,
    rungs: BTreeMap<Rendition, Rung>,
    chunkers: BTreeMap<Rendition, Chunker>,
}

pub struct Task {
    shared: Arc<Shared>,
    stream: StreamId,
    shown: watch::Sender<Option<Arc<Live>>>,
    keeper: Keeper,
    ring: Arc<Ring>,
    session: Option<Session>,
    broadcast: Option<Broadcast>,
    run: Option<Run>,
    encodings: BTreeMap<u64, Encoding>,
    /// Since when no media comes, and how many gaps were listed for that.
    away: Option<(Timestamp, u64)>,
    /// When an ended broadcast makes room.
    gone_at: Option<Timestamp>,
    last_epoch: u64,
    events: mpsc::Sender<(u64, Option<transcode::Event>)>,
    inits: BTreeSet<(Rendition, Arc<str>)>,
    /// Names and codecs of the renditions in the broadcast's stored row.
    stored_rows: Vec<(Rendition, String)>,
    changed: bool,
    closing: bool,
    /// The last feed item's arrival.
    heard: Timestamp,
}

/// A line's inputs.
pub struct Inputs {
    pub commands: mpsc::Receiver<Command>,
    pub events: mpsc::Receiver<(u64, Option<transcode::Event>)>,
    pub stored: mpsc::Receiver<Stored>,
}

impl Task {
    pub fn new(
        shared: Arc<Shared>,
        stream: StreamId,
        shown: watch::Sender<Option<Arc<Live>>>,
        keeper: Keeper,
        events: mpsc::Sender<(u64, Option<transcode::Event>)>,
        restored: Option<Broadcast>,
    ) -> Self {
        let ring = Arc::new(Ring::new(ring::Config { max_bytes: shared.config.ring_bytes, ..ring::Config::default() }));
        // The time the node was away counts as time the encoder was away.
        let away = restored.as_ref().map(|_| (now(), 0));
        let last_epoch = 0;
        Self {
            shared,
            stream,
            shown,
            keeper,
            ring,
            session: None,
            changed: restored.is_some(),
            broadcast: restored,
            run: None,
            encodings: BTreeMap::new(),
            away,
            gone_at: None,
            last_epoch,
            events,
            inits: BTreeSet::new(),
            stored_rows: Vec::new(),
            closing: false,
            heard: now(),
        }
    }

    /// Runs until the stream has neither a session nor a broadcast to show, and `release` says that nobody holds the line.
    pub async fn run(mut self, mut inputs: Inputs, release: impl Fn() -> bool + Send) {
        loop {
            if self.changed {
                self.publish();
            }
            let idle = self.idle();
            if idle && release() {
                break;
            }
            // Someone holds the line but has said nothing yet: look again.
            let wait = if idle { Some(IDLE_LOOK) } else { self.deadline().map(|at| at - now()) };
            tokio::select! {
                biased;
                Some(stored) = inputs.stored.recv() => self.stored(stored),
                Some((epoch, event)) = inputs.events.recv() => self.encoded(epoch, event),
                command = inputs.commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => self.close(),
                },
                () = sleep(wait) => if !idle { self.tick() },
            }
        }
        self.shown.send_replace(None);
    }

    fn idle(&self) -> bool {
        let over = self.broadcast.is_none() || self.closing;
        self.session.is_none() && over && self.encodings.is_empty()
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Attach { session, settings, stop } => {
                if let Some(old) = self.session.take() {
                    info!(stream = %self.stream, session = old.number, "a newer session with the valid key takes over");
                    metrics::counter!("weir_sessions_replaced_total").increment(1);
                    old.stop.cancel();
                    self.end_epoch(None);
                }
                self.session = Some(Session { number: session, settings, stop });
            }
            Command::Begin { session, begin, reply } => {
                let begun = if self.holds(session) { Ok(self.begin(begin).await) } else { Err(Fenced) };
                // A session that went away meanwhile detaches by itself.
                let _ = reply.send(begun);
            }
            Command::Media { session, message } if self.holds(session) => self.media(message),
            Command::Warning { session, warning } if self.holds(session) => {
                if let Some(broadcast) = &mut self.broadcast {
                    broadcast.warn(warning);
                    self.changed = true;
                }
            }
            Command::Detach { session } if self.holds(session) => {
                self.end_epoch(None);
                self.session = None;
            }
            Command::Close => self.close(),
            // From a fenced session: its media no longer counts.
            Command::Media { .. } | Command::Warning { .. } | Command::Detach { .. } => {}
        }
    }

    fn holds(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.number == session)
    }

    fn close(&mut self) {
        self.closing = true;
        if let Some(session) = self.session.take() {
            session.stop.cancel();
        }
        self.end_epoch(None);
    }

    /// Takes an epoch: a new broadcast, or the next chunk number of the running one.
    async fn begin(&mut self, begin: Begin) -> Begun {
        self.end_epoch(begin.next.map(|(_, at)| at));
        let (today, stamp) = (unix_now(), now());
        if self.broadcast.as_ref().is_some_and(|b| b.state() == State::Ended) {
            self.broadcast = None;
            self.gone_at = None;
        }
        let chunk = self.shared.config.chunk_ticks();
        let (broadcast, k, at, wall) = match self.broadcast.as_ref().map(|b| (b.id().clone(), b.edge())) {
            Some((id, Some((last, end, edge_wall)))) => {
                let lost = match (self.away, begin.next) {
                    // A break inside a session loses no time.
                    (_, Some(_)) | (None, None) => Duration::ZERO,
                    (Some((since, gaps)), None) => (stamp - since).saturating_sub(self.chunk_time() * gaps as u32),
                };
                let ticks = (lost.as_micros() as i64) * i64::from(VIDEO_TIMESCALE) / 1_000_000;
                let wall = UnixMs(edge_wall.0 + lost.as_millis() as i64).max(if begin.next.is_some() {
                    edge_wall
                } else {
                    today.max(edge_wall)
                });
                (id, last + 1 + (ticks / chunk) as u64, end + ticks, wall)
            }
            Some((id, None)) => (id, 0, 0, today),
            None => {
                let id = BroadcastId::generate(today);
                info!(stream = %self.stream, broadcast = %id, "broadcast starts");
                metrics::counter!("weir_broadcasts_total").increment(1);
                let settings = self.shared.config.broadcast();
                self.broadcast = Some(Broadcast::new(self.stream.clone(), id.clone(), today, settings));
                (id, 0, 0, today)
            }
        };
        let discontinuity = self.broadcast.as_ref().is_some_and(|b| b.edge().is_some());
        let mut epoch = Epoch { broadcast, number: 0, k, at, wall, discontinuity };
        epoch.number = self.take_epoch(&epoch).await;
        self.last_epoch = epoch.number;
        let (granted, top) = self.plan(begin.video.as_ref());
        let rungs = granted.as_ref().map(|g| g.rungs.clone()).unwrap_or_default();
        let rows = self.rows(&begin, &rungs);
        info!(stream = %self.stream, broadcast = %epoch.broadcast, epoch = epoch.number, k = epoch.k, reason = ?begin.reason,
            rungs = ?rungs.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), "epoch begins");
        let live = self.broadcast.as_mut().expect("begun above");
        live.begin(&epoch, rows);
        let shed = granted.as_ref().map(|g| g.shed.iter().map(|rung| rung.name.clone()).collect());
        live.set_shed(shed.unwrap_or_default());
        let encode = !rungs.is_empty();
        self.away = None;
        self.run = Some(Run {
            video: None,
            audio_config: None,
            mode: None,
            source: None,
            audio: None,
            granted: granted.filter(|g| !g.rungs.is_empty()),
            top,
            end: epoch.at,
            last_dts: None,
            epoch: epoch.clone(),
        });
        self.changed = true;
        Begun { epoch, encode }
    }

    /// Appends to the stream's epoch log. A store that does not answer must not stop a show on a single node: the epoch
    /// then lives in memory only, and the health alarm says so.
    async fn take_epoch(&mut self, epoch: &Epoch) -> u64 {
        let meta = &self.shared.stores.meta;
        for _ in 0..16 {
            let last = match meta.last_epoch(&self.stream).await {
                Ok(last) => last.map_or(0, |row| row.epoch),
                Err(why) => {
                    self.alarm(&why);
                    break;
                }
            };
            let row = EpochRow {
                epoch: last.max(self.last_epoch) + 1,
                broadcast: epoch.broadcast.clone(),
                k_start: epoch.k,
                at: epoch.at,
                wall: epoch.wall,
                discontinuity: epoch.discontinuity,
                node: self.shared.config.node.clone(),
            };
            let number = row.epoch;
            match meta.take_epoch(&self.stream, row).await {
                Ok(()) => return number,
                Err(store::Error::EpochTaken(_)) => {}
                Err(why) => {
                    self.alarm(&why);
                    break;
                }
            }
        }
        self.last_epoch + 1
    }

    fn alarm(&self, why: &store::Error) {
        if self.shared.stores.health.failed(why.to_string()) {
            warn!(stream = %self.stream, %why, "store does not take writes: this epoch is in memory only");
        }
    }

    /// Chooses the rungs to encode, as far as the node can afford them, and names the one only re-encode mode needs.
    fn plan(&self, video: Option<&VideoConfig>) -> (Option<Granted>, Option<Rendition>) {
        let (Some(video), Some(pool)) = (video, &self.shared.transcoding) else { return (None, None) };
        let own = self.session.as_ref().and_then(|s| s.settings.ladder.as_ref());
        let ladder = own.unwrap_or(&self.shared.config.ladder);
        if ladder.is_empty() {
            return (None, None);
        }
        let wanted = transcode::ladder::plan(ladder, video, true);
        let below = transcode::ladder::plan(ladder, video, false);
        let top = wanted.iter().find(|r| below.iter().all(|b| b.name != r.name)).map(|r| r.name.clone());
        (Some(pool.admit(&wanted, video)), top)
    }

    /// What the epoch offers, as far as is known now.
    fn rows(&self, begin: &Begin, rungs: &[Rung]) -> Vec<RenditionRow> {
        let mut rows = Vec::new();
        if let Some(video) = &begin.video {
            rows.push(video_row(Rendition::source(), video));
            rows.extend(rungs.iter().map(|rung| self.rung_row(rung, video)));
        }
        rows.extend(begin.audio.as_ref().map(audio_row));
        rows
    }

    fn rung_row(&self, rung: &Rung, source: &VideoConfig) -> RenditionRow {
        RenditionRow {
            codec: String::new(),
            width: rung.width,
            height: rung.height,
            peak_bps: peak_bps(rung, self.shared.config.chunk),
            mean_bps: u64::from(rung.bitrate_kbps) * 1000,
            ..video_row(rung.name.clone(), source)
        }
    }

    fn media(&mut self, message: Message) {
        self.heard = now();
        let Some(run) = &mut self.run else { return };
        // The end goes to the ring where every epoch ends.
        if !matches!(message, Message::End { .. }) {
            self.ring.push(message.clone());
        }
        match message {
            Message::Epoch(_) => {}
            Message::Video(config) => {
                let chunker = Chunker::video(&config, run.epoch.number);
                let row = video_row(Rendition::source(), &config);
                let init = (Arc::from(chunker.init().hash.as_str()), chunker.init().bytes.clone());
                run.source = Some(chunker);
                run.video = Some(config);
                self.describe(row, init);
            }
            Message::Audio(config) => {
                let chunker = Chunker::audio(&config, run.epoch.number);
                let row = audio_row(&config);
                let init = (Arc::from(chunker.init().hash.as_str()), chunker.init().bytes.clone());
                run.audio = Some(chunker);
                run.audio_config = Some(config);
                self.describe(row, init);
            }
            Message::Mode { mode, target } => self.decide(mode, target),
            Message::Packet(packet) => self.packet(packet),
            Message::End { at } => self.end_epoch(Some(at)),
        }
    }

    fn describe(&mut self, row: RenditionRow, (hash, bytes): (Arc<str>, bytes::Bytes)) {
        let Some(broadcast) = &mut self.broadcast else { return };
        let rendition = row.name.clone();
        broadcast.describe(row);
        broadcast.init(&rendition, hash.clone(), bytes.clone());
        if self.inits.insert((rendition.clone(), hash.clone())) {
            self.keeper.submit(Job::Init { broadcast: broadcast.id().clone(), rendition, hash, bytes });
        }
    }

    fn decide(&mut self, mode: Mode, target: u32) {
        let Some(run) = &mut self.run else { return };
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        run.mode = Some(mode);
        broadcast.decide(mode, target);
        match mode {
            Mode::Follow => {
                if let Some(top) = run.top.take() {
                    if let Some(encoding) = self.encodings.get_mut(&run.epoch.number) {
                        encoding.transcoder.drop_rung(&top);
                    }
                    broadcast.withdraw(&top);
                }
            }
            Mode::Reencode => run.source = None,
            Mode::AudioOnly => {}
        }
        info!(stream = %self.stream, ?mode, target, "chunk starts decided");
        self.changed = true;
    }

    fn packet(&mut self, packet: Packet) {
        let Some(run) = &mut self.run else { return };
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        let number = run.epoch.number;
        let mut finished = Vec::new();
        match packet.track {
            Track::Video => {
                let frame = run.last_dts.map_or(3000, |last| (packet.dts - last).clamp(1, i64::from(VIDEO_TIMESCALE)));
                run.last_dts = Some(packet.dts);
                run.end = run.end.max(packet.pts + frame);
                if let Some(k) = packet.mark {
                    broadcast.mark(k, packet.pts);
                    self.changed = true;
                    if let Some(audio) = &mut run.audio {
                        let hash = hash(audio);
                        finished.extend(audio.mark(k, packet.pts).map(|c| (Rendition::audio(), hash, c)));
                    }
                    if let Some(granted) = run.granted.take() {
                        let video = run.video.clone().expect("configs come before packets");
                        self.encode(number, granted, &video, k);
                    }
                }
                let run = self.run.as_mut().expect("checked above");
                if let Some(source) = &mut run.source {
                    let hash = hash(source);
                    match source.push(packet) {
                        Ok(chunk) => finished.extend(chunk.map(|c| (Rendition::source(), hash, c))),
                        Err(why) => warn!(stream = %self.stream, %why, "a video packet was dropped"),
                    }
                }
            }
            Track::Audio => {
                let (Some(audio), Some(config)) = (&mut run.audio, &run.audio_config) else { return };
                let rate = config.sample_rate;
                if let Some(k) = packet.mark {
                    broadcast.mark(k, rescale(packet.pts, rate, VIDEO_TIMESCALE));
                    self.changed = true;
                }
                if run.video.is_none() {
                    run.end = run.end.max(rescale(packet.pts + i64::from(config.frame_len), rate, VIDEO_TIMESCALE));
                }
                let hash = hash(audio);
                match audio.push(packet) {
                    Ok(chunk) => finished.extend(chunk.map(|c| (Rendition::audio(), hash, c))),
                    Err(why) => warn!(stream = %self.stream, %why, "an audio packet was dropped"),
                }
            }
        }
        for (rendition, hash, chunk) in finished {
            self.finished(rendition, hash, chunk);
        }
    }

    /// Starts a transcoder for the epoch and forwards its events to this task's inbox.
    fn encode(&mut self, epoch: u64, granted: Granted, video: &VideoConfig, k: u64) {
        let Some(pool) = &self.shared.transcoding else { return };
        let rungs: BTreeMap<_, _> = granted.rungs.iter().map(|rung| (rung.name.clone(), rung.clone())).collect();
        let (transcoder, mut from) = match pool.spawn(granted, video, self.ring.clone(), k) {
            Ok(spawned) => spawned,
            Err(why) => {
                warn!(stream = %self.stream, %why, "nothing is encoded");
                let broadcast = self.broadcast.as_mut().expect("an epoch belongs to a broadcast");
                rungs.keys().for_each(|name| broadcast.withdraw(name));
                return;
            }
        };
        self.encodings.insert(epoch, Encoding { transcoder, rungs, chunkers: BTreeMap::new() });
        let to = self.events.clone();
        self.shared.tasks.spawn(async move {
            while let Some(event) = from.recv().await {
                if to.send((epoch, Some(event))).await.is_err() {
                    return;
                }
            }
            // The line may be gone.
            let _ = to.send((epoch, None)).await;
        });
    }

    fn encoded(&mut self, epoch: u64, event: Option<transcode::Event>) {
        let Some(encoding) = self.encodings.get_mut(&epoch) else { return };
        let broadcast = self.broadcast.as_mut();
        let Some(event) = event else {
            let encoding = self.encodings.remove(&epoch).expect("checked above");
            if let Some(broadcast) = broadcast {
                for name in encoding.rungs.keys() {
                    broadcast.done(name, epoch);
                }
                self.changed = true;
            }
            return;
        };
        let Some(broadcast) = broadcast else { return };
        match event {
            transcode::Event::Item { rung, item: Item::Config(config) } => {
                let chunker = Chunker::video(&config, epoch);
                let mut row = video_row(rung.clone(), &config);
                if let Some(plan) = encoding.rungs.get(&rung) {
                    row = RenditionRow { peak_bps: peak_bps(plan, self.shared.config.chunk), ..row };
                }
                let init = (Arc::from(chunker.init().hash.as_str()), chunker.init().bytes.clone());
                encoding.chunkers.insert(rung, chunker);
                self.describe(row, init);
            }
            transcode::Event::Item { rung, item: Item::Packet(packet) } => {
                let Some(chunker) = encoding.chunkers.get_mut(&rung) else { return };
                match chunker.push(packet) {
                    Ok(Some(chunk)) => {
                        let hash = hash(chunker);
                        self.finished(rung, hash, chunk);
                    }
                    Ok(None) => {}
                    Err(why) => warn!(stream = %self.stream, %rung, %why, "an encoded packet was dropped"),
                }
            }
            transcode::Event::Item { rung, item: Item::End { at } } => {
                if let Some(chunker) = encoding.chunkers.remove(&rung) {
                    let hash = hash(&chunker);
                    for chunk in chunker.finish(at) {
                        self.finished(rung.clone(), hash.clone(), chunk);
                    }
                }
                if let Some(broadcast) = &mut self.broadcast {
                    broadcast.done(&rung, epoch);
                    self.changed = true;
                }
            }
            transcode::Event::Restarted { .. } => {
                // What was half made is made again from its boundary, by an encoder that tells its config anew.
                encoding.chunkers.clear();
                warn!(stream = %self.stream, "transcoder restarts");
            }
            transcode::Event::Shed { rung } => {
                if epoch == self.last_epoch {
                    warn!(stream = %self.stream, %rung, "the node cannot keep up: rung shed");
                    broadcast.shed(rung);
                    self.changed = true;
                }
            }
        }
    }

    fn finished(&mut self, rendition: Rendition, init: Arc<str>, chunk: Chunk) {
        let Some(broadcast) = &mut self.broadcast else { return };
        let Some(slot) = broadcast.slot(chunk.k).cloned() else { return };
        let finished = Finished { rendition: rendition.clone(), chunk: chunk.clone(), init: init.clone() };
        let duration_us = chunk.duration_us();
        if !broadcast.finished(finished) {
            metrics::counter!("weir_chunks_late_total").increment(1);
            return;
        }
        metrics::counter!("weir_chunks_total").increment(1);
        metrics::counter!("weir_chunk_bytes_total").increment(chunk.bytes.len() as u64);
        self.changed = true;
        let duration =
            slot.end.unwrap_or_else(|| slot.at + rescale(chunk.duration, chunk.timescale, VIDEO_TIMESCALE)) - slot.at;
        self.keeper.submit(Job::Chunk(Box::new(ChunkJob {
            broadcast: broadcast.id().clone(),
            duration,
            expected: broadcast.offer(slot.epoch),
            slot,
            part: RenditionChunk { rendition, init: init.to_string(), bytes: chunk.bytes.len() as u32, duration_us },
            bytes: chunk.bytes,
        })));
    }

    fn stored(&mut self, stored: Stored) {
        if let Some(broadcast) = &mut self.broadcast {
            broadcast.stored(&stored.rendition, stored.k, stored.epoch);
        }
    }

    /// Ends the running epoch at `at`, or where its media ends.
    fn end_epoch(&mut self, at: Option<i64>) {
        let Some(run) = self.run.take() else { return };
        let at = at.unwrap_or(run.end);
        self.ring.push(Message::End { at });
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        let epoch = run.epoch.number;
        broadcast.close(at);
        let mut finished = Vec::new();
        if let Some(source) = run.source {
            let hash = hash(&source);
            finished.extend(source.finish(at).into_iter().map(|c| (Rendition::source(), hash.clone(), c)));
        }
        if let Some(audio) = run.audio {
            let hash = hash(&audio);
            finished.extend(audio.finish(at).into_iter().map(|c| (Rendition::audio(), hash.clone(), c)));
        }
        for (rendition, hash, chunk) in finished {
            self.finished(rendition, hash, chunk);
        }
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        broadcast.done(&Rendition::source(), epoch);
        broadcast.done(&Rendition::audio(), epoch);
        // A broadcast that never got as far as a chunk is none.
        if broadcast.edge().is_none() {
            self.broadcast = None;
            self.shown.send_replace(None);
        } else {
            self.away = Some((self.heard, 0));
            self.store_broadcast(None);
        }
        self.changed = true;
    }

    fn store_broadcast(&self, ended: Option<UnixMs>) {
        let Some(broadcast) = &self.broadcast else { return };
        let row = BroadcastRow {
            stream: self.stream.clone(),
            id: broadcast.id().clone(),
            started: broadcast.started(),
            ended,
            target: broadcast.target(),
            chunk_ms: self.shared.config.chunk.as_millis() as u32,
            renditions: broadcast.rows(),
        };
        self.keeper.submit(Job::Broadcast(Box::new(row)));
    }

    fn chunk_time(&self) -> Duration {
        self.shared.config.chunk
    }

    fn deadline(&self) -> Option<Timestamp> {
        let gap = self.next_gap().filter(|_| self.gone_at.is_none());
        let window = self.window_end();
        let broadcast = self.broadcast.as_ref().and_then(Broadcast::deadline);
        [gap, window, broadcast, self.gone_at].into_iter().flatten().min()
    }

    fn next_gap(&self) -> Option<Timestamp> {
        let (since, gaps) = self.away?;
        Some(since + self.chunk_time() * (gaps as u32 + 1))
    }

    fn window_end(&self) -> Option<Timestamp> {
        let (since, _) = self.away.filter(|_| self.gone_at.is_none())?;
        Some(since + self.shared.config.reconnect_window)
    }

    fn tick(&mut self) {
        let stamp = now();
        if self.gone_at.is_some_and(|at| at <= stamp) {
            self.broadcast = None;
            self.gone_at = None;
            self.away = None;
            self.inits.clear();
            return;
        }
        if self.gone_at.is_none() {
            if self.window_end().is_some_and(|at| at <= stamp) {
                let broadcast = self.broadcast.as_mut().expect("away from a broadcast");
                info!(stream = %self.stream, broadcast = %broadcast.id(), "broadcast ends");
                broadcast.end();
                let linger = Duration::from_secs(u64::from(broadcast.target() * LINGER_TARGETS));
                self.store_broadcast(Some(unix_now()));
                self.gone_at = Some(stamp + linger);
                self.changed = true;
                return;
            }
            while self.next_gap().is_some_and(|at| at <= stamp) {
                let (since, gaps) = self.away.expect("a gap is due");
                self.broadcast.as_mut().expect("away from a broadcast").gap();
                self.away = Some((since, gaps + 1));
                self.changed = true;
            }
        }
        // The multivariant playlist may be due.
        self.changed = true;
    }

    fn publish(&mut self) {
        self.changed = false;
        let snapshot = self.broadcast.as_mut().map(|broadcast| Arc::new(broadcast.snapshot(now())));
        self.shown.send_replace(snapshot);
        // A restart finds the broadcast by its row: it must name every rendition that viewers were shown.
        let rows = self.broadcast.as_ref().map(Broadcast::rows).unwrap_or_default();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.name, row.codec)).collect();
        if rows != self.stored_rows && !rows.is_empty() {
            self.stored_rows = rows;
            self.store_broadcast(None);
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn video_row(name: Rendition, config: &VideoConfig) -> RenditionRow {
    let fps_milli = config.fps.map_or(0, |(n, d)| (u64::from(n) * 1000 / u64::from(d.max(1))).min(240_000) as u32);
    let (width, height) = (u32::from(config.width), u32::from(config.height));
    RenditionRow { name, codec: config.codec_string(), width, height, fps_milli, channels: 0, peak_bps: 0, mean_bps: 0 }
}

/// What a chunk of this rung needs at most, and 2 % for its boxes.
fn peak_bps(rung: &Rung, chunk: Duration) -> u64 {
    u64::from(rung.peak_kbps(chunk.as_millis() as u32)) * 1020
}

fn audio_row(config: &AudioConfig) -> RenditionRow {
    RenditionRow {
        name: Rendition::audio(),
        codec: config.codec_string(),
        width: 0,
        height: 0,
        fps_milli: 0,
        channels: u32::from(config.channels),
        peak_bps: 0,
        mean_bps: 0,
    }
}

/// Hash that names a chunker's init segment.
fn hash(chunker: &Chunker) -> Arc<str> {
    chunker.init().hash.as_str().into()
}
