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
    Fenced, Parting, Shared, Standby, StreamSettings,
    announce::Announcer,
    broadcast::{Broadcast, Finished},
    keeper::{ChunkJob, Job, Keeper, Stored},
    live::{Live, State},
    meter::Meter,
    recover,
};
use crate::{
    cluster::{feed::Places, names::Names, twins::Made},
    id::{BroadcastId, Rendition, StreamId},
    media::{
        AudioConfig, Epoch, Message, Mode, Packet, Track, VIDEO_TIMESCALE, VideoConfig, rescale,
        ring::{self, Ring},
        timeline::{Break, Warning},
    },
    package::{Chunk, Chunker, Mark, Parts},
    store::{self, BroadcastRow, EpochRow, RenditionChunk, RenditionRow},
    time::{Timestamp, UnixMs, now, unix_now},
    transcode::{self, Granted, Item, Rung, Transcoder},
};

mod epoch;
mod feed;
mod role;

pub use role::{Plan, Standing};

use role::Role;

/// How long an ended broadcast's window stays, with ENDLIST, before its URLs answer with the recording: most players that
/// poll see the end of the playlist they know.
const LINGER: Duration = Duration::from_millis(1500);
/// The same while the end is not stored: a store that does not answer has no recording to show.
const LINGER_MAX: Duration = Duration::from_secs(60);

/// How long a broadcast that could end waits for its last chunks to be encoded.
const DRAINS: Duration = Duration::from_secs(5);

/// How often a line without work asks whether anyone still holds it.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// What a session tells when it asks for an epoch.
#[derive(Debug, Clone)]
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
    /// What a standby must know to make the same.
    pub plan: Plan,
}

#[derive(Debug)]
pub enum Command {
    /// A new session with the valid key: the one before it is fenced, and this line leads.
    Attach {
        session: Session,
    },
    /// The feed of a session, of which this line makes the chunks as another does until it is told to lead. Refused where
    /// a newer session has the line.
    Follow {
        session: Session,
        reply: oneshot::Sender<Result<(), Fenced>>,
    },
    /// The session's chunks are published here from now on.
    Lead {
        session: u64,
        turn: u32,
        listed: Option<u64>,
        names: Names,
        reply: oneshot::Sender<Result<(), Fenced>>,
    },
    /// What the epoch that comes next in the feed is to be made by.
    Plan {
        session: u64,
        plan: Plan,
    },
    /// Which nodes the session is at.
    Places {
        session: u64,
        places: Places,
    },
    /// Another node leads the session's stream now.
    Leave {
        session: u64,
    },
    /// Another node says that it has this epoch of the stream.
    Superseded {
        epoch: u64,
    },
    Begin {
        session: u64,
        begin: Begin,
        reply: oneshot::Sender<Result<Begun, Fenced>>,
    },
    Media {
        session: u64,
        messages: Vec<Message>,
    },
    Warning {
        session: u64,
        warning: Warning,
    },
    /// The session's part is over; its `End` came before, if it could.
    Detach {
        session: u64,
        parting: Parting,
    },
    /// The session may not publish any more.
    Kick,
    /// The node stops: finish the open chunk, store everything, end.
    Close,
}

/// A publisher's connection, as the line knows it.
#[derive(Debug)]
pub struct Session {
    /// Names this way into the line.
    pub number: u64,
    /// When the publisher came, in an order that all nodes share: of two sessions the later one counts.
    pub order: u64,
    pub settings: StreamSettings,
    /// Ends the session.
    pub stop: CancellationToken,
}

/// What runs between an epoch's begin and its end.
struct Run {
    /// As the feed tells it.
    epoch: Epoch,
    /// The epoch that its chunks are named by: a later one since this node took over from another.
    writes: u64,
    video: Option<VideoConfig>,
    audio_config: Option<AudioConfig>,
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

/// A broadcast that is over.
struct Ended {
    at: Timestamp,
    is_stored: bool,
}

impl Ended {
    /// When it makes room.
    fn gone_at(&self) -> Timestamp {
        self.at + if self.is_stored { LINGER } else { LINGER_MAX }
    }
}

/// A transcoder and what packages its output; it may outlive its epoch while it drains.
struct Encoding {
    /// The epoch that its chunks are named by.
    writes: u64,
    transcoder: Transcoder,
    rungs: BTreeMap<Rendition, Rung>,
    chunkers: BTreeMap<Rendition, Chunker>,
}

pub struct Task {
    shared: Arc<Shared>,
    stream: StreamId,
    shown: watch::Sender<Option<Arc<Live>>>,
    keeper: Keeper,
    announcer: Announcer,
    meter: Arc<Meter>,
    ring: Arc<Ring>,
    session: Option<Session>,
    broadcast: Option<Broadcast>,
    run: Option<Run>,
    encodings: BTreeMap<u64, Encoding>,
    /// Since when no media comes, and how many gaps were listed for that.
    away: Option<(Timestamp, u64)>,
    /// The broadcast is over and makes room soon.
    ended: Option<Ended>,
    last_epoch: u64,
    /// This line has taken it itself.
    owns_epoch: bool,
    /// The newest session that is known, by its order.
    newest: u64,
    /// The newest order to lead of that session, as far as it came here.
    turn: u32,
    events: mpsc::Sender<(u64, Option<transcode::Event>)>,
    inits: BTreeSet<(Rendition, Arc<str>)>,
    /// Names and codecs of the renditions in the broadcast's stored row.
    stored_rows: Vec<(Rendition, String)>,
    changed: bool,
    /// A part came, and nothing else.
    parts_changed: bool,
    closing: bool,
    /// The last feed item's arrival.
    heard: Timestamp,
    role: Role,
    /// Which nodes the session is at, where others have to do with it.
    places: Option<Arc<Places>>,
    /// What was made last, for those who make the same.
    made: BTreeMap<Rendition, Made>,
    standing: watch::Sender<Standing>,
}

/// A line's inputs.
pub struct Inputs {
    pub commands: mpsc::Receiver<Command>,
    pub events: mpsc::Receiver<(u64, Option<transcode::Event>)>,
    pub stored: mpsc::Receiver<Stored>,
    pub marks: watch::Receiver<Arc<[Mark]>>,
}

impl Task {
    pub fn new(
        shared: Arc<Shared>,
        stream: StreamId,
        shown: watch::Sender<Option<Arc<Live>>>,
        standing: watch::Sender<Standing>,
        keeper: Keeper,
        events: mpsc::Sender<(u64, Option<transcode::Event>)>,
        restored: Option<Broadcast>,
    ) -> Self {
        let ring = new_ring(&shared.config);
        // The time the node was away counts as time the encoder was away.
        let away = restored.as_ref().map(|_| (now(), 0));
        Self {
            shared,
            stream,
            shown,
            keeper,
            announcer: Announcer::default(),
            meter: Arc::default(),
            ring,
            session: None,
            changed: restored.is_some(),
            broadcast: restored,
            run: None,
            encodings: BTreeMap::new(),
            away,
            ended: None,
            last_epoch: 0,
            owns_epoch: false,
            newest: 0,
            turn: 0,
            events,
            inits: BTreeSet::new(),
            stored_rows: Vec::new(),
            parts_changed: false,
            closing: false,
            heard: now(),
            role: Role::default(),
            places: None,
            made: BTreeMap::new(),
            standing,
        }
    }

    /// Runs until the stream has neither a session nor a broadcast to show, and `release` says that nobody holds the line.
    pub async fn run(mut self, mut inputs: Inputs, release: impl Fn() -> bool + Send) {
        loop {
            if let Some(broadcast) = &mut self.broadcast {
                self.changed |= broadcast.set_marks(&inputs.marks.borrow());
            }
            if self.changed {
                self.publish();
            } else if self.parts_changed
                && let Some(broadcast) = &mut self.broadcast
            {
                broadcast.show_parts();
            }
            self.parts_changed = false;
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
                // Looked at above.
                Ok(()) = inputs.marks.changed() => {}
                command = inputs.commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => self.close(),
                },
                () = sleep(wait) => if !idle { self.tick().await },
            }
        }
        if !self.closing {
            self.shown.send_replace(None);
        }
    }

    fn idle(&self) -> bool {
        let over = (self.broadcast.is_none() && !self.is_stale()) || self.closing;
        self.session.is_none() && over && self.encodings.is_empty()
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Attach { session } => {
                // Whoever comes to this very node last is the newest.
                let order = session.order.max(self.newest + 1);
                self.replace_session(Session { order, ..session });
                self.role = Role::default();
            }
            Command::Follow { session, reply } => {
                // A session that went away meanwhile detaches by itself.
                let _ = reply.send(self.follow(session));
            }
            Command::Lead { session, turn, listed, names, reply } => {
                let led = if self.holds(session) {
                    self.turn = turn;
                    self.lead(listed, &names).await
                } else {
                    Err(Fenced)
                };
                let _ = reply.send(led);
            }
            Command::Plan { session, plan } if self.holds(session) => self.role.plan(plan),
            Command::Places { session, places } if self.holds(session) => {
                self.places = Some(Arc::new(places));
                self.changed = true;
            }
            Command::Leave { session } if self.holds(session) => self.leave(),
            Command::Superseded { epoch } => {
                self.give_way(epoch);
                self.doubt(epoch).await;
            }
            Command::Begin { session, begin, reply } => {
                let begun = if self.holds(session) { self.begin(begin).await } else { Err(Fenced) };
                // A session that went away meanwhile detaches by itself.
                let _ = reply.send(begun);
            }
            Command::Media { session, messages } if self.holds(session) => {
                self.heard = now();
                messages.into_iter().for_each(|message| self.media(message));
                self.lead_at_last().await;
            }
            Command::Warning { session, warning } if self.holds(session) => {
                if let Some(broadcast) = &mut self.broadcast {
                    broadcast.warn(warning);
                    self.changed = true;
                }
            }
            Command::Detach { session, parting } if self.holds(session) => {
                self.session = None;
                if !self.role.keeps_open(parting) {
                    self.end_epoch(None);
                }
                self.role.orphan(now());
            }
            Command::Kick => {
                if let Some(session) = self.session.take() {
                    session.stop.cancel();
                    self.end_epoch(None);
                }
            }
            Command::Close => self.close(),
            // From a fenced session: its media no longer counts.
            Command::Media { .. }
            | Command::Warning { .. }
            | Command::Detach { .. }
            | Command::Plan { .. }
            | Command::Places { .. }
            | Command::Leave { .. } => {}
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

    /// Has the broadcast's row written. `false`: there is no room for it now.
    fn store_broadcast(&self, ended: Option<UnixMs>) -> bool {
        let Some(broadcast) = self.broadcast.as_ref().filter(|_| self.role.leads()) else { return true };
        if ended.is_none() && broadcast.state() == State::Ended {
            // Its end is stored already.
            return true;
        }
        let row = BroadcastRow {
            stream: self.stream.clone(),
            id: broadcast.id().clone(),
            started: broadcast.started(),
            ended,
            target: broadcast.target(),
            chunk_ms: self.shared.config.chunk.as_millis() as u32,
            part_ticks: broadcast.parts().map_or(0, |parts| parts.ticks),
            part_target_ms: broadcast.parts().map_or(0, |parts| parts.target_ms),
            renditions: broadcast.rows(),
            summary: None,
            deleted: None,
        };
        self.keeper.submit(Job::Broadcast(Box::new(row)))
    }

    fn chunk_time(&self) -> Duration {
        self.shared.config.chunk
    }

    fn deadline(&self) -> Option<Timestamp> {
        let gap = self.next_gap().filter(|_| self.ended.is_none());
        let window = self.window_end();
        let broadcast = self.broadcast.as_ref().and_then(Broadcast::deadline);
        let gone = self.ended.as_ref().map(Ended::gone_at);
        [gap, window, broadcast, gone, self.role.deadline()].into_iter().flatten().min()
    }

    fn next_gap(&self) -> Option<Timestamp> {
        let (since, gaps) = self.away.filter(|_| self.role.leads())?;
        Some((since + self.chunk_time() * (gaps as u32 + 1)).max(self.role.unsure_until()))
    }

    fn window_end(&self) -> Option<Timestamp> {
        let (since, _) = self.away.filter(|_| self.ended.is_none() && self.role.leads())?;
        // What is still being encoded belongs to it.
        let draining = if self.encodings.is_empty() { Duration::ZERO } else { DRAINS };
        Some((since + self.shared.config.reconnect_window.max(draining)).max(self.role.unsure_until()))
    }

    async fn tick(&mut self) {
        let stamp = now();
        if !self.role.leads() {
            return self.watch_leader(stamp).await;
        }
        self.end_what_is_lost(stamp).await;
        self.look_after_epoch(stamp).await;
        self.verify(stamp).await;
        if !self.role.leads() {
            return;
        }
        if let Some(ended) = self.ended.as_mut().filter(|ended| ended.gone_at() <= stamp) {
            let is_stored = ended.is_stored;
            // It must not stay open for ever because the queue was full.
            if !is_stored && !self.store_broadcast(Some(unix_now())) {
                self.ended = Some(Ended { at: stamp, is_stored });
                return;
            }
            self.broadcast = None;
            self.ended = None;
            self.away = None;
            return;
        }
        if self.ended.is_none() {
            let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= stamp);
            // Who lists a hole where another node has a chunk would be wrong.
            if (is_due(self.window_end()) || is_due(self.next_gap())) && !self.is_newest().await {
                return;
            }
            if self.window_end().is_some_and(|at| at <= stamp) {
                let broadcast = self.broadcast.as_mut().expect("away from a broadcast");
                info!(stream = %self.stream, broadcast = %broadcast.id(), "broadcast ends");
                broadcast.end();
                self.store_broadcast(Some(unix_now()));
                self.ended = Some(Ended { at: stamp, is_stored: false });
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
        let places = self.places.clone().filter(|_| self.session.is_some());
        let meter = &self.meter;
        let snapshot = self
            .broadcast
            .as_mut()
            .map(|broadcast| Arc::new(Live { places, meter: meter.clone(), ..broadcast.snapshot(now()) }));
        self.stand(snapshot.as_ref().and_then(|live| live.k));
        if !self.role.leads() {
            if !self.is_stale() {
                self.shown.send_if_modified(|shown| shown.take().is_some());
            }
            return;
        }
        if self.is_behind_shown() {
            return;
        }
        self.shown.send_replace(snapshot.clone());
        if let Some(live) = &snapshot
            && self.session.as_ref().is_some_and(|session| session.settings.push)
        {
            self.announcer.announce(live, &self.shared.announcements);
        }
        // A restart finds the broadcast by its row: it must name every rendition that viewers were shown.
        let rows = self.broadcast.as_ref().map(Broadcast::rows).unwrap_or_default();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.name, row.codec)).collect();
        if rows != self.stored_rows && !rows.is_empty() {
            self.stored_rows = rows;
            self.store_broadcast(None);
        }
    }
}

fn new_ring(config: &super::Config) -> Arc<Ring> {
    Arc::new(Ring::new(ring::Config { max_bytes: config.ring_bytes, ..ring::Config::default() }))
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
