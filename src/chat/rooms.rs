//! The rooms of a node: each is hosted here or followed from the node that hosts it, and may change between the two at any time.
//! Its viewers stay at one [`Hub`] meanwhile and notice nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Act, Acted, Refusal, Settings, Who,
    event::{Event, Role},
    hub::{Hub, Told},
    keep::Keep,
    known::Known,
    socket::Leave,
};
use crate::{
    cache::upstream::Nodes,
    id::{EventId, StreamId},
    line::Text,
    secret::Secret,
    store::{self, ChatLog, Meta},
    time::{Timestamp, now},
};

mod follow;
mod host;

pub use follow::{Line, PATH, Posted, lines};

/// Messages that somebody who comes anew is shown.
pub const FIRST_PAGE: usize = 10;
/// Whoever is sent away comes back within this.
pub const COME_BACK: Duration = Duration::from_secs(10);
/// A room that nobody looks at is let go of after this.
const IDLE: Duration = Duration::from_secs(60);
/// Requests of a room that wait to be judged.
const ASKS: usize = 1024;
/// Whoever wants something waits so long for it, hosts that are lost included.
const PATIENCE: Duration = Duration::from_secs(8);
/// A request is handed on by so many nodes: two views of who hosts a room may differ for a moment.
const HOPS: u8 = 3;
/// Where rooms are hosted.
pub trait Places: Send + Sync + 'static {
    /// Who hosts a stream's room, by the number that [`Nodes`] gives it; nothing: this node does.
    fn host(&self, stream: &StreamId) -> Option<usize>;
    /// Wakes when that may have changed.
    fn changes(&self) -> watch::Receiver<()>;
}

/// All rooms are hosted here.
#[derive(Debug, Default)]
pub struct Alone(watch::Sender<()>);

impl Places for Alone {
    fn host(&self, _: &StreamId) -> Option<usize> {
        None
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// The rooms of a node. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    shared: Arc<Shared>,
}

struct Shared {
    meta: Arc<dyn Meta>,
    places: Arc<dyn Places>,
    nodes: Option<Arc<Nodes>>,
    /// Sockets of a room at this node.
    sockets_max: usize,
    // Held for look-ups only, never across an await.
    rooms: Mutex<HashMap<StreamId, Arc<Handle>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Something that somebody wants done.
struct Ask {
    who: Who,
    nonce: Option<String>,
    act: Act,
    hops: u8,
    reply: oneshot::Sender<Result<Acted, Refusal>>,
}

/// One room, for whoever has to do with it here.
pub struct Handle {
    stream: StreamId,
    hub: Arc<Hub>,
    asks: mpsc::Sender<Ask>,
    known: ArcSwap<Known>,
    leaves: Leaves,
    sockets_max: usize,
    /// When somebody last asked for it, microseconds of the monotonic clock.
    asked_for: AtomicU64,
    /// What was said before is known.
    is_ready: watch::Sender<bool>,
    /// Another node knows of something newer than what is known here.
    is_behind: Notify,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "room {}", self.stream)
    }
}

/// Sends sockets away, some at a time and each once.
#[derive(Debug, Clone)]
pub struct Leaves(Arc<tokio::sync::Semaphore>);

impl Leaves {
    fn new() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(0)))
    }

    /// Waits until this socket is to go: which ones are is by chance of their order.
    pub async fn told(&self) -> Leave {
        match self.0.acquire().await {
            Ok(permit) => {
                permit.forget();
                Leave::Crowded
            }
            Err(_) => Leave::Stopping,
        }
    }
}

impl Rooms {
    pub fn new(
        meta: Arc<dyn Meta>,
        places: Arc<dyn Places>,
        nodes: Option<Arc<Nodes>>,
        sockets_max: usize,
        stop: CancellationToken,
    ) -> Self {
        let (rooms, tasks) = (Mutex::default(), TaskTracker::new());
        Self { shared: Arc::new(Shared { meta, places, nodes, sockets_max, rooms, tasks, stop }) }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<Handle>>> {
        self.shared.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream's room, opened if it is not yet.
    pub fn room(&self, stream: &StreamId) -> Arc<Handle> {
        let mut rooms = self.rooms();
        if let Some(room) = rooms.get(stream) {
            room.asked_for.store(now().0, Ordering::Relaxed);
            return room.clone();
        }
        let (asks, asked) = mpsc::channel(ASKS);
        let room = Arc::new(Handle {
            stream: stream.clone(),
            hub: Hub::new(),
            asks,
            known: ArcSwap::default(),
            leaves: Leaves::new(),
            sockets_max: self.shared.sockets_max,
            asked_for: AtomicU64::new(now().0),
            is_ready: watch::Sender::new(false),
            is_behind: Notify::new(),
        });
        rooms.insert(stream.clone(), room.clone());
        let (again, rules_in_turn) = (Vec::new(), Arc::default());
        self.shared.tasks.spawn(Task { rooms: self.clone(), room: room.clone(), asked, again, rules_in_turn }.run());
        room
    }

    /// A stream's room, if it is open.
    pub fn opened(&self, stream: &StreamId) -> Option<Arc<Handle>> {
        let room = self.rooms().get(stream).cloned()?;
        room.asked_for.store(now().0, Ordering::Relaxed);
        Some(room)
    }

    /// What was told in a slot of time, where it was asked for before, of a room that is open and has a chat: `enabled` says so
    /// where it is not set otherwise.
    pub fn kept_slot(&self, stream: &str, slot: u64, enabled: bool) -> Option<Arc<Text>> {
        let room = self.rooms().get(stream)?.clone();
        if !room.known.load().settings.enabled.unwrap_or(enabled) {
            return None;
        }
        room.asked_for.store(now().0, Ordering::Relaxed);
        room.hub.kept_slot(slot)
    }

    /// Rooms that are open.
    pub fn len(&self) -> usize {
        self.rooms().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs something that [`Rooms::ended`] waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }

    /// Waits until what is said is stored, after the token it was made with is cancelled.
    pub async fn ended(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// What keeps the chats of recordings; `rooms_keep`: how long rooms' rows are kept.
    pub fn keep(&self, rooms_keep: Duration) -> Keep {
        Keep::new(self.shared.meta.clone(), self.shared.places.clone(), rooms_keep)
    }

    /// All that was told in a slot of time, from the store.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn stored_slot(&self, stream: &StreamId, begin: EventId, end: EventId) -> store::Result<Vec<Told>> {
        let (mut all, mut from) = (Vec::new(), begin);
        loop {
            let rows = self.shared.meta.chat(stream, &ChatLog::Live, from, 500).await?;
            let (count, last) = (rows.len(), rows.last().map(|row| row.id));
            let inside = rows.into_iter().take_while(|row| row.id < end);
            all.extend(inside.filter_map(|row| Some(Told::new(&serde_json::from_str(&row.body).ok()?))));
            match last.filter(|last| count == 500 && *last < end) {
                Some(last) => from = EventId(last.0 + 1),
                None => return Ok(all),
            }
        }
    }
}

impl Handle {
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub fn leaves(&self) -> Leaves {
        self.leaves.clone()
    }

    /// Waits until what was said before is known, but no longer than this.
    pub async fn ready(&self, patience: Duration) {
        let mut is_ready = self.is_ready.subscribe();
        // One that does not become so begins with what comes.
        let _ = tokio::time::timeout(patience, is_ready.wait_for(|is_ready| *is_ready)).await;
    }

    /// What is known of the room, also what is for moderators alone.
    pub fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// What everybody may know of what counts here.
    pub fn settings(&self) -> Settings {
        self.known.load().settings.public()
    }

    /// Somebody's roles in this room.
    pub fn roles(&self, who: &Who) -> Vec<Role> {
        self.known.load().roles(who)
    }

    /// Whether one more socket may come; who polls is told so with some room to spare.
    pub fn takes_sockets(&self, polls: bool) -> bool {
        let most = if polls { self.sockets_max / 5 * 4 } else { self.sockets_max };
        self.hub.sockets() < most.max(1)
    }

    /// Has something done, wherever the room is hosted.
    ///
    /// # Errors
    /// It is refused, or nobody could be asked in time.
    pub async fn act(&self, who: &Who, nonce: Option<String>, act: Act) -> Result<Acted, Refusal> {
        // What has no name could be done twice where its answer is lost.
        let nonce = nonce.unwrap_or_else(|| Secret::generate().expose()[..16].to_owned());
        let (kind, begun) = (act.kind(), now());
        let done = self.hand_on(who.clone(), Some(nonce), act, 0).await;
        let result = match &done {
            Ok(Acted { held: false, .. }) => "done",
            Ok(Acted { held: true, .. }) => "held",
            Err(why) if why.retry_ms.is_some() => "later",
            Err(_) => "refused",
        };
        metrics::counter!("weir_chat_acts_total", "act" => kind, "result" => result).increment(1);
        if kind == "say" && done.is_ok() {
            metrics::histogram!("weir_chat_lag_seconds").record((now() - begun).as_secs_f64());
        }
        done
    }

    /// The same for another node, over so many before.
    pub async fn hand_on(&self, who: Who, nonce: Option<String>, act: Act, hops: u8) -> Result<Acted, Refusal> {
        let (reply, answer) = oneshot::channel();
        let busy = || Refusal::new("busy", "too much is being said").again_in(Duration::from_secs(1));
        self.asks.try_send(Ask { who, nonce, act, hops, reply }).map_err(|_| busy())?;
        let late = || Refusal::new("late", "nobody could take it in time").again_in(Duration::from_secs(1));
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| late())?;
        answer.map_err(|_| late())?
    }
}

/// What drives one room.
struct Task {
    rooms: Rooms,
    room: Arc<Handle>,
    asked: mpsc::Receiver<Ask>,
    /// What could not be handed on, and is tried again.
    again: Vec<Ask>,
    /// Whoever stores rules, one after the other.
    rules_in_turn: Arc<tokio::sync::Mutex<()>>,
}

/// Why a room's part here is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Another node is to have it, or the way to it was lost.
    Moved,
    /// Nobody needs it.
    Idle,
    Stopping,
}

impl Task {
    async fn run(mut self) {
        let mut changes = self.rooms.shared.places.changes();
        let crowd = tokio::spawn(crowd(Arc::downgrade(&self.room)));
        loop {
            changes.borrow_and_update();
            let over = match self.hosts() {
                None => self.host(&mut changes).await,
                Some(node) => self.follow(node, &mut changes).await,
            };
            match over {
                Over::Moved => {}
                Over::Idle if self.let_go() => break,
                Over::Idle => {}
                Over::Stopping => break,
            }
        }
        crowd.abort();
        self.room.leaves.0.close();
    }

    /// Whether this node hosts the room, as it is now.
    fn hosts(&self) -> Option<usize> {
        self.rooms.shared.places.host(&self.room.stream)
    }

    /// Lets go of the room, unless somebody has come.
    fn let_go(&self) -> bool {
        let mut rooms = self.rooms.rooms();
        let is_idle = self.is_idle();
        if is_idle {
            rooms.remove(&self.room.stream);
        }
        is_idle
    }

    /// Whether nobody reads here, or has asked to for long.
    fn is_idle(&self) -> bool {
        let asked_for = Timestamp(self.room.asked_for.load(Ordering::Relaxed));
        self.room.hub.readers() == 0 && self.asked.is_empty() && now() - asked_for >= IDLE
    }

    fn know(&self, known: Known) {
        self.room.known.store(Arc::new(known));
    }

    /// What is known of the room, from its rules; nothing where the store does not answer.
    async fn rules(&self) -> Option<Vec<(String, String)>> {
        let read = self.rooms.shared.meta.chat_rules(&self.room.stream);
        match tokio::time::timeout(host::LOAD, read).await {
            Ok(Ok(rules)) => Some(rules),
            Ok(Err(why)) => {
                warn!(stream = %self.room.stream, %why, "what counts in a room cannot be read");
                None
            }
            Err(_) => None,
        }
    }
}

/// Sends sockets to polling where there are too many: in a minute all that are too many.
async fn crowd(room: std::sync::Weak<Handle>) {
    const EACH: Duration = Duration::from_secs(1);
    const MINUTE: usize = 60;
    loop {
        tokio::time::sleep(EACH).await;
        let Some(room) = room.upgrade() else { return };
        let more = room.hub.sockets().saturating_sub(room.sockets_max);
        if more > 0 && !room.leaves.0.is_closed() && room.leaves.0.available_permits() == 0 {
            room.leaves.0.add_permits(more.div_ceil(MINUTE));
        }
    }
}
