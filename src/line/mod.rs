//! Lines: one per stream on this node. Feed in, chunks out.
//!
//! [`Lines`] is the registry: `ingest` attaches sessions and sends their feed, `http` reads the [`Live`] snapshots. Each
//! line is one task (`task`) that owns the stream's [`broadcast`] (pure), its replay ring, its chunkers and its
//! transcoder; [`keeper`] writes what it made to the store. A line never waits for the store or for a viewer.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub mod announce;
pub mod broadcast;
mod grid;
pub mod inlet;
pub mod keep;
pub mod keeper;
pub mod live;
pub mod meter;
mod recover;
mod task;

pub use keep::Keep;
pub use keeper::Stores;
pub use live::{Live, LiveRendition, Shown, State, Text};
pub use task::{Begin, Begun, Plan, Standing};

use crate::{
    cluster::{feed::Places, names::Names},
    id::StreamId,
    media::{Message, VIDEO_TIMESCALE, timeline::Warning},
    package::Mark,
    time::unix_now,
    transcode,
};
use announce::Announcements;
use task::{Command, Inputs, Session, Task};

/// Feed items that may wait for a line, each what one read of a socket gave. When it is full the session stops reading its
/// socket: TCP pushes back to the encoder. A line empties it in microseconds; 256 items are some 6 s of media for the
/// rare long store answer.
const FEED: usize = 256;
/// Encoded packets that may wait for a line; when full the transcoder waits.
const EVENTS: usize = 512;
/// Answers of the store that may wait; when full they are dropped, which costs memory for one window, not correctness.
const STORED: usize = 256;

/// What every line of this node shares.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node in the epoch log.
    pub node: String,
    /// No other node writes to the same stores.
    pub alone: bool,
    /// Nominal chunk duration.
    pub chunk: Duration,
    /// About how long a part of a chunk is.
    pub part: Duration,
    /// Chunks in a live playlist.
    pub window: usize,
    pub reconnect_window: Duration,
    pub ladder: Vec<transcode::Entry>,
    /// Bound of each line's replay ring, bytes.
    pub ring_bytes: usize,
}

impl Config {
    /// Nominal chunk duration in [`VIDEO_TIMESCALE`] ticks.
    pub fn chunk_ticks(&self) -> i64 {
        ticks(self.chunk)
    }

    /// The same of a part.
    pub fn part_ticks(&self) -> i64 {
        ticks(self.part)
    }

    fn broadcast(&self) -> broadcast::Settings {
        broadcast::Settings { window: self.window, chunk: self.chunk_ticks() }
    }
}

fn ticks(time: Duration) -> i64 {
    time.as_micros() as i64 * i64::from(VIDEO_TIMESCALE) / 1_000_000
}

/// A stream's own settings; what is `None` is the node's.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct StreamSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Vec<transcode::Entry>>,
    /// Edges fetch each chunk when it is listed, before anyone asks them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub push: bool,
    /// How long its recordings are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// What a second node does for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// What a newer release knows, whose nodes are beside this one: handed on and kept, and not looked at.
    #[serde(flatten)]
    pub newer: serde_json::Map<String, serde_json::Value>,
}

/// What a second node does for a stream. Where there is but one node, none does anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standby {
    /// Makes all of its chunks, and publishes them the moment the owner is lost.
    #[default]
    Hot,
    /// Makes the source's chunks; it encodes the others once it has taken over, faster than they play.
    Warm,
    /// Nothing: when the owner is lost another node begins with what the gateway has kept.
    Off,
}

impl Standby {
    /// How many nodes stand by.
    pub fn count(self) -> usize {
        usize::from(self != Standby::Off)
    }
}

/// The session was replaced by a newer one, or the node stops. Nothing it sends counts any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a newer session took over, or the node is stopping")]
pub struct Fenced;

/// The bits of a session's order below its milliseconds.
const ORDER_BITS: u32 = 20;

/// How a session's part in a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// The publisher is gone.
    Over,
    /// Its gateway closed the feed, or died: the session may go on at other nodes.
    Closed,
    /// Its gateway is not heard any more, and may be heard again.
    Silent,
}

/// What is known of the other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Whether a node answers.
    fn is_alive(&self, node: &str) -> bool;
    /// Whether any other is registered that makes chunks, alive or not.
    fn has_others(&self) -> bool;
}

/// What is told beside the chunks of streams.
pub trait Marks: Send + Sync + 'static {
    /// That of a stream as it is and as it changes, in the order of its starts.
    fn of(&self, stream: &StreamId) -> watch::Receiver<Arc<[Mark]>>;
}

struct Shared {
    config: Config,
    /// The other nodes, where there are any.
    peers: Option<Arc<dyn Peers>>,
    stores: Stores,
    transcoding: Option<transcode::Pool>,
    announcements: Announcements,
    marks: OnceLock<Arc<dyn Marks>>,
    tasks: TaskTracker,
}

struct Handle {
    commands: mpsc::Sender<Command>,
    live: watch::Receiver<Option<Arc<Live>>>,
    standing: watch::Receiver<Standing>,
}

/// The registry of this node's lines. Cheap to clone.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
    // Held for look-ups only, never across an await.
    lines: Arc<Mutex<HashMap<StreamId, Handle>>>,
    sessions: Arc<AtomicU64>,
    closing: CancellationToken,
    /// The node is about to stop: its streams are to go on elsewhere.
    draining: CancellationToken,
}

impl Lines {
    /// Without a pool nothing is encoded, as with an empty ladder. What pushed streams list goes to `announcements`.
    pub fn new(
        config: Config,
        stores: Stores,
        transcoding: Option<transcode::Pool>,
        announcements: Announcements,
        peers: Option<Arc<dyn Peers>>,
    ) -> Self {
        let (marks, tasks) = (OnceLock::new(), TaskTracker::new());
        let shared = Shared { config, peers, stores, transcoding, announcements, marks, tasks };
        Self {
            shared: Arc::new(shared),
            lines: Arc::default(),
            sessions: Arc::default(),
            closing: CancellationToken::new(),
            draining: CancellationToken::new(),
        }
    }

    /// Lists what is told beside chunks, from now on.
    pub fn lists(&self, marks: Arc<dyn Marks>) {
        // Once, at start.
        let _ = self.shared.marks.set(marks);
    }

    /// Tells the gateways of all feeds that this node is about to stop.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Gives a new session the stream: the session before it, if any, is fenced and its `stop` fires.
    pub async fn attach(
        &self,
        stream: &StreamId,
        settings: StreamSettings,
        stop: CancellationToken,
    ) -> Result<Feed, Fenced> {
        if self.closing.is_cancelled() {
            return Err(Fenced);
        }
        let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let (commands, _) = self.line(stream, None);
        let session = Session { number, order: session_order(), settings, stop };
        commands.send(Command::Attach { session }).await.map_err(|_| Fenced)?;
        Ok(Feed { session: number, commands })
    }

    /// Takes the feed of a session that another node holds ([`session_order`] is its `order`): the line makes its chunks, and
    /// publishes them once [`Feed::lead`] says so. What the line is worth is told meanwhile.
    pub async fn follow(
        &self,
        stream: &StreamId,
        order: u64,
        settings: StreamSettings,
        stop: CancellationToken,
    ) -> Result<(Feed, watch::Receiver<Standing>), Fenced> {
        if self.closing.is_cancelled() {
            return Err(Fenced);
        }
        let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let (commands, standing) = self.line(stream, None);
        let feed = Feed { session: number, commands };
        let session = Session { number, order, settings, stop };
        feed.ask(|reply| Command::Follow { session, reply }).await?;
        Ok((feed, standing))
    }

    /// The newest session of a stream that is known here, by its order.
    pub fn newest(&self, stream: &StreamId) -> u64 {
        let lines = self.lines.lock().expect("no panic while held");
        lines.get(stream).map_or(0, |line| line.standing.borrow().newest)
    }

    /// Tells the stream's line, if there is one here that leads, that another node has this epoch, too, or a later one.
    pub fn superseded(&self, stream: &StreamId, epoch: u64) {
        let lines = self.lines.lock().expect("no panic while held");
        let Some(line) = lines.get(stream) else { return };
        if line.live.borrow().as_ref().is_some_and(|live| live.epoch <= epoch) {
            // A full queue hears of it again: the other node goes on saying so.
            let _ = line.commands.try_send(Command::Superseded { epoch });
        }
    }

    /// Streams whose chunks this node publishes.
    pub fn led(&self) -> usize {
        let lines = self.lines.lock().expect("no panic while held");
        lines.values().filter(|line| line.live.borrow().is_some() && line.standing.borrow().leads).count()
    }

    /// Ends a stream's session, if it has one: its key is no longer valid.
    pub async fn kick(&self, stream: &StreamId) {
        let commands = self.lines.lock().expect("no panic while held").get(stream).map(|line| line.commands.clone());
        if let Some(commands) = commands {
            // A line that is gone has no session.
            let _ = commands.send(Command::Kick).await;
        }
    }

    /// The running broadcast of a stream.
    pub fn live(&self, stream: &StreamId) -> Option<Arc<Live>> {
        let lines = self.lines.lock().expect("no panic while held");
        lines.get(stream).and_then(|line| line.live.borrow().clone())
    }

    /// Whether a stream has a running broadcast here.
    pub fn is_shown(&self, stream: &str) -> bool {
        let lines = self.lines.lock().expect("no panic while held");
        lines.get(stream).is_some_and(|line| line.live.borrow().is_some())
    }

    /// All running broadcasts, by stream.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let lines = self.lines.lock().expect("no panic while held");
        let mut all: Vec<_> = lines.values().filter_map(|line| line.live.borrow().clone()).collect();
        all.sort_by(|a, b| a.stream.cmp(&b.stream));
        all
    }

    /// Takes up the broadcasts that were running when the node stopped, so that their playlists answer and a returning
    /// encoder continues them. Broadcasts whose encoder is away for longer than the reconnect window are ended.
    pub async fn recover(&self) -> crate::store::Result<()> {
        for (stream, broadcast) in recover::open_broadcasts(&self.shared.config, &self.shared.stores).await? {
            _ = self.line(&stream, Some(broadcast));
        }
        Ok(())
    }

    /// Stops all lines: each finishes and stores its open chunk. Waits at most `patience`.
    pub async fn close(&self, patience: Duration) {
        self.closing.cancel();
        let all: Vec<_> = {
            let lines = self.lines.lock().expect("no panic while held");
            lines.values().map(|line| line.commands.clone()).collect()
        };
        for commands in all {
            // A full queue empties by itself; a line that is gone needs no word.
            let _ = tokio::time::timeout(Duration::from_secs(1), commands.send(Command::Close)).await;
        }
        self.shared.tasks.close();
        if tokio::time::timeout(patience, self.shared.tasks.wait()).await.is_err() {
            warn!("some lines did not finish in time");
        }
    }

    /// The line of `stream`, started when there is none.
    fn line(
        &self,
        stream: &StreamId,
        restored: Option<broadcast::Broadcast>,
    ) -> (mpsc::Sender<Command>, watch::Receiver<Standing>) {
        let mut lines = self.lines.lock().expect("no panic while held");
        if let Some(line) = lines.get(stream) {
            return (line.commands.clone(), line.standing.clone());
        }
        let (commands, inbox) = mpsc::channel(FEED);
        let (event_tx, events) = mpsc::channel(EVENTS);
        let (stored_tx, stored) = mpsc::channel(STORED);
        let (shown, live) = watch::channel(None);
        let (standing_tx, standing) = watch::channel(Standing::default());
        let (keeper, writer) = keeper::Keeper::new(stream.clone(), self.shared.stores.clone(), stored_tx);
        let task = Task::new(self.shared.clone(), stream.clone(), shown, standing_tx, keeper, event_tx, restored);
        let marks = self.shared.marks.get().map_or_else(|| watch::channel(Arc::default()).1, |marks| marks.of(stream));
        let inputs = Inputs { commands: inbox, events, stored, marks };
        self.shared.tasks.spawn(writer);
        let (registry, name, mine) = (self.lines.clone(), stream.clone(), commands.downgrade());
        let closing = self.closing.clone();
        self.shared.tasks.spawn(async move {
            // Whoever attaches takes a sender under the registry's lock: alone means that nobody is on the way.
            let release = || {
                let mut lines = registry.lock().expect("no panic while held");
                let alone = mine.strong_count() <= 1;
                // A node that stops shows what it has to the last moment.
                if alone && !closing.is_cancelled() {
                    lines.remove(&name);
                }
                alone
            };
            task.run(inputs, release).await;
        });
        let handle = Handle { commands: commands.clone(), live, standing: standing.clone() };
        lines.insert(stream.clone(), handle);
        (commands, standing)
    }
}

/// A number for a session that begins now, greater than those of sessions before it on any node whose clock agrees: of two
/// sessions of a stream the later one counts.
pub fn session_order() -> u64 {
    order_in(unix_now().0.max(0) as u64)
}

/// A number for a session that comes after one whose number is greater, by a clock that is ahead.
pub fn session_order_after(other: u64) -> u64 {
    order_in((other >> ORDER_BITS) + 1)
}

/// No two sessions have the same: two nodes may number one in the same millisecond, or after the same other one.
fn order_in(ms: u64) -> u64 {
    ms << ORDER_BITS | u64::from(rand::random::<u32>() >> (32 - ORDER_BITS))
}

/// A session's way into its line.
#[derive(Debug, Clone)]
pub struct Feed {
    session: u64,
    commands: mpsc::Sender<Command>,
}

impl Feed {
    /// Asks for an epoch.
    pub async fn begin(&self, begin: Begin) -> Result<Begun, Fenced> {
        self.ask(|reply| Command::Begin { session: self.session, begin, reply }).await
    }

    /// Has the line publish what it makes. `turn` counts the session's orders to; `listed` is the newest chunk number that
    /// viewers were shown by another node, `names` by which epochs.
    pub async fn lead(&self, turn: u32, listed: Option<u64>, names: Names) -> Result<(), Fenced> {
        self.ask(|reply| Command::Lead { session: self.session, turn, listed, names, reply }).await
    }

    /// Tells how the epoch that comes next is to be made.
    pub async fn plan(&self, plan: Plan) -> Result<(), Fenced> {
        self.command(Command::Plan { session: self.session, plan }).await
    }

    /// Tells which nodes the session is at.
    pub async fn places(&self, places: Places) -> Result<(), Fenced> {
        self.command(Command::Places { session: self.session, places }).await
    }

    /// Another node publishes the stream now: the line lets go of it.
    pub async fn leave(&self) {
        // A line that is gone needs no word.
        let _ = self.command(Command::Leave { session: self.session }).await;
    }

    /// Sends messages that came together, in order.
    pub async fn send(&self, messages: Vec<Message>) -> Result<(), Fenced> {
        self.command(Command::Media { session: self.session, messages }).await
    }

    /// Tells the streamer something, by log, API and watch page.
    pub async fn warn(&self, warning: Warning) -> Result<(), Fenced> {
        self.command(Command::Warning { session: self.session, warning }).await
    }

    /// Ends the session's part in the line.
    pub async fn detach(&self, parting: Parting) {
        // A line that is gone needs no word.
        let _ = self.command(Command::Detach { session: self.session, parting }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Fenced>>) -> Command) -> Result<T, Fenced> {
        let (reply, answer) = oneshot::channel();
        self.command(command(reply)).await?;
        answer.await.map_err(|_| Fenced)?
    }

    async fn command(&self, command: Command) -> Result<(), Fenced> {
        self.commands.send(command).await.map_err(|_| Fenced)
    }
}
