//! The cache itself: what is kept, what is on its way, and what is known of upstreams and broadcasts.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use hyper::header::HeaderValue;
use quick_cache::{OptionsBuilder, Weighter, sync};
use tokio::sync::watch;

use super::{
    File, Object, What, fill,
    flights::{self, Flights, Joined},
    lead::Lead,
    listed::Listed,
    policy::{Failure, Why},
};
use crate::{
    id::{BroadcastId, StreamId},
    line::Text,
    package::{Extent, Reload},
    time::{Timestamp, now, unix_now},
    transcode::still,
};

/// What an object costs beside its bytes.
const OVERHEAD: u64 = 600;
/// "Not there" and other failures that are remembered.
const FAILURES: usize = 10_000;
/// A reload for a chunk that lies further back than that is no longer waiting.
const LISTED_LONG: u64 = 3;
/// Streams and broadcasts of which it is remembered who has them and how far they are.
const REMEMBERED: usize = 10_000;
/// So many nodes are asked to fetch what this one cannot reach: one node that reaches no more than this one is rare enough.
const DETOURS: usize = 3;
/// A picture is made when it is asked for.
const PICTURE: Duration = still::PATIENCE;
/// Parts of the cache that are locked on their own. Few, because each can keep an object no bigger than its share.
const SHARDS: usize = 4;

/// What names a fill: a path, after [`DETOUR`] where other nodes are asked to fetch it.
pub(super) type Key = Arc<str>;
/// So what came by detour is never given to a node that asks for what another has itself.
const DETOUR: &str = "detour ";
pub type Fill = fill::Fill<Head, Done, Failure>;
pub(super) type Flight = flights::Flight<Key, Head, Done, Failure>;

/// What is known of an object before its first byte.
#[derive(Debug, Clone)]
pub struct Head {
    pub content_type: HeaderValue,
    pub cache_control: HeaderValue,
    /// Bytes of the whole object.
    pub len: usize,
    /// How long it may be given to others; `None`: for ever, it never changes.
    pub fresh: Option<Duration>,
}

/// What is known once it is there.
#[derive(Debug)]
pub struct Done {
    pub at: Timestamp,
    pub bytes: Bytes,
    /// The object as text, when it is a playlist.
    pub text: Option<Text>,
}

/// How other nodes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// For what they have.
    Straight,
    /// For what a node has that they can reach and this one cannot. They ask that one straight: a detour leads over one node.
    Detour,
}

/// Where objects come from.
pub trait Source: Send + Sync + 'static {
    /// Asks one upstream for the bytes of `path` after the first `from`.
    fn fetch(&self, upstream: usize, way: Way, path: &str, from: usize) -> BoxFuture<'static, Result<Answer, Failure>>;
}

/// An upstream has the object.
pub struct Answer {
    pub head: Head,
    pub body: BoxStream<'static, Result<Bytes, Failure>>,
}

/// Bounds of a cache.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of finished objects, and as many again of those on their way.
    pub memory: u64,
    /// Requests that wait for something that is on its way.
    pub waiters: usize,
    /// Fills at a time.
    pub fills: usize,
    /// Nominal duration of a chunk, which the time limits are fractions of.
    pub chunk: Duration,
}

/// The pull cache of a node. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) source: Arc<dyn Source>,
    pub(super) limits: Limits,
    flights: Arc<Flights<Key, Head, Done, Failure>>,
    kept: sync::Cache<Key, Entry, ByBytes>,
    pub(super) failed: sync::Cache<Key, Entry>,
    /// Which upstream had a stream last.
    pub(super) holders: sync::Cache<StreamId, usize>,
    /// How far a broadcast was when a playlist of it was last seen.
    known: sync::Cache<BroadcastId, Known>,
    pub(super) upstreams: watch::Sender<Vec<State>>,
    waiting: AtomicUsize,
    pub(super) filling: AtomicUsize,
}

/// What playlists told of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    /// The newest chunk that was listed.
    newest: u64,
    /// EXT-X-TARGETDURATION, seconds.
    target: u32,
    /// Nothing is added any more.
    ended: bool,
}

/// What is known of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has not been heard yet: it is not known who may watch what it has.
    Unknown,
    Alive,
    Gone,
}

/// An object that is all there.
pub struct Kept {
    pub head: Arc<Head>,
    pub done: Arc<Done>,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) fill: Arc<Fill>,
    /// Until when it counts; `None`: for ever.
    pub(super) until: Option<Timestamp>,
    pub(super) bytes: u64,
}

#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<Key, Entry> for ByBytes {
    fn weight(&self, key: &Key, kept: &Entry) -> u64 {
        kept.bytes + key.len() as u64 + OVERHEAD
    }
}

impl Cache {
    /// A cache in front of `upstreams` sources, numbered from 0, none of them there until [`Cache::set_alive`] says so.
    pub fn new(source: Arc<dyn Source>, upstreams: usize, limits: Limits) -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity((limits.memory / (256 << 10)).max(64) as usize)
            .weight_capacity(limits.memory)
            .build()
            .expect("both capacities are given");
        let kept = sync::Cache::with_options(
            options,
            ByBytes,
            quick_cache::DefaultHashBuilder::default(),
            sync::DefaultLifecycle::default(),
        );
        let shared = Shared {
            source,
            flights: Flights::new(limits.fills),
            kept,
            failed: sync::Cache::new(FAILURES),
            holders: sync::Cache::new(REMEMBERED),
            known: sync::Cache::new(REMEMBERED),
            upstreams: watch::Sender::new(vec![State::Unknown; upstreams]),
            waiting: AtomicUsize::new(0),
            filling: AtomicUsize::new(0),
            limits,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Gives a way to read `object`, from memory or as it arrives. Fails at once when there is no room to wait or to fill.
    pub fn get(&self, object: &Object, way: Way) -> Result<Reading, Failure> {
        let shared = &self.shared;
        let object = &shared.plain(object);
        let key = key(object, way);
        if let Some(fill) = shared.kept(&key) {
            metrics::counter!("weir_cache_hits_total").increment(1);
            return Ok(Reading { reader: fill::Reader::new(&fill), _waits: None });
        }
        let waits = Waits::begin(shared).ok_or_else(|| busy("too many requests wait here"))?;
        let fill = match shared.flights.join(&key, || shared.kept(&key), lost()) {
            Joined::Waits(fill) => {
                metrics::counter!("weir_cache_waits_total").increment(1);
                fill
            }
            Joined::Leads(flight) => shared.lead(object.clone(), way, key, flight),
            Joined::Full => return Err(busy("too many objects are on their way here")),
        };
        Ok(Reading { reader: fill::Reader::new(&fill), _waits: Some(waits) })
    }

    /// What is kept under this name, complete, without asking anyone. Other names of the same object are not known here.
    pub fn kept(&self, path: &str) -> Option<Kept> {
        let fill = self.shared.kept(path)?;
        let (head, done) = (fill.head()?, fill.end()?.ok()?);
        metrics::counter!("weir_cache_hits_total").increment(1);
        Some(Kept { head, done })
    }

    /// Fetches what was announced, before anyone asks. Announcements give way to viewers: dropped when there is little room.
    pub fn prefetch(&self, object: &Object) {
        let shared = &self.shared;
        let crowded = shared.flights.len() >= shared.limits.fills / 2
            || shared.filling.load(Ordering::Relaxed) as u64 >= shared.limits.memory / 2;
        let key = key(object, Way::Straight);
        let joined = (!crowded).then(|| shared.flights.join(&key, || shared.kept(&key), lost()));
        match joined {
            Some(Joined::Leads(flight)) => {
                metrics::counter!("weir_cache_prefetches_total").increment(1);
                shared.lead(object.clone(), Way::Straight, key, flight);
            }
            Some(Joined::Waits(_)) => {}
            Some(Joined::Full) | None => metrics::counter!("weir_cache_prefetches_dropped_total").increment(1),
        }
    }

    /// Tells whether an upstream is there, and says whether that is news. What was asked of one that is gone is asked of
    /// another at once. One that was never there is not asked.
    pub fn set_alive(&self, upstream: usize, alive: bool) -> bool {
        let state = if alive { State::Alive } else { State::Gone };
        self.shared.upstreams.send_if_modified(|all| match all[upstream] {
            State::Unknown if !alive => false,
            before => {
                all[upstream] = state;
                before != state
            }
        })
    }

    /// Notes which upstream has a stream.
    pub(super) fn is_at(&self, stream: &StreamId, upstream: usize) {
        self.shared.holders.insert(stream.clone(), upstream);
    }

    /// Adds an upstream that is not there yet.
    pub(super) fn add_upstream(&self) {
        self.shared.upstreams.send_modify(|all| all.push(State::Unknown));
    }

    /// Which upstreams are there.
    pub fn alive(&self) -> Vec<bool> {
        self.shared.upstreams.borrow().iter().map(|state| *state == State::Alive).collect()
    }

    /// Whether there is any upstream, alive or not.
    pub fn has_upstreams(&self) -> bool {
        !self.shared.upstreams.borrow().is_empty()
    }

    /// Asks again for what was not there a moment ago, when someone asks for it.
    pub fn forget_failure(&self, object: &Object) {
        [Way::Straight, Way::Detour].iter().for_each(|way| _ = self.shared.failed.remove(&*key(object, *way)));
    }

    /// Lets go of all that is kept of these broadcasts: they were deleted.
    pub fn forget(&self, gone: &HashSet<&BroadcastId>) {
        let broadcast =
            |key: &str| key.strip_prefix(DETOUR).unwrap_or(key).strip_prefix("/hls/")?.split('/').nth(1)?.parse().ok();
        let stays = |key: &Key, _: &Entry| broadcast(key).is_none_or(|id: BroadcastId| !gone.contains(&id));
        self.shared.kept.retain(stays);
        self.shared.failed.retain(stays);
    }

    /// Whether any upstream is there.
    pub fn reaches_any(&self) -> bool {
        self.shared.upstreams.borrow().contains(&State::Alive)
    }

    /// Brings the gauges up to date, for who reads the metrics.
    pub fn publish_gauges(&self) {
        let shared = &self.shared;
        metrics::gauge!("weir_cache_bytes").set(shared.kept.weight() as f64);
        metrics::gauge!("weir_cache_objects").set(shared.kept.len() as f64);
        metrics::gauge!("weir_cache_fills_running").set(shared.flights.len() as f64);
        metrics::gauge!("weir_cache_waiting").set(shared.waiting.load(Ordering::Relaxed) as f64);
    }
}

fn key(object: &Object, way: Way) -> Key {
    let prefix = if way == Way::Detour { DETOUR } else { "" };
    format!("{prefix}{object}").into()
}

pub(super) fn busy(detail: &'static str) -> Failure {
    metrics::counter!("weir_cache_refusals_total").increment(1);
    Failure::new(Why::Busy, detail)
}

/// What waiters are told when a leader's task dies.
fn lost() -> Failure {
    Failure::new(Why::Broken, "this node failed to fetch it")
}

/// One request's view of an object.
pub struct Reading {
    reader: fill::Reader<Head, Done, Failure>,
    _waits: Option<Waits>,
}

impl Reading {
    /// Waits until the object is known.
    pub async fn head(&mut self) -> Result<Arc<Head>, Failure> {
        self.reader.head().await
    }

    /// Waits until all of it is there.
    pub async fn done(&mut self) -> Result<Arc<Done>, Failure> {
        self.reader.done().await
    }

    /// Bytes from place `at` on; see [`fill::Reader::poll_bytes`].
    pub fn poll_bytes(&mut self, cx: &mut std::task::Context<'_>, at: usize) -> Poll<Option<Result<Bytes, Failure>>> {
        self.reader.poll_bytes(cx, at)
    }
}

/// A place among those who wait.
struct Waits(Arc<Shared>);

impl Waits {
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        // The place is given back by the drop in either case.
        let waits = Self(shared.clone());
        (shared.waiting.fetch_add(1, Ordering::Relaxed) < shared.limits.waiters).then_some(waits)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that are on their way.
pub(super) struct Room(Arc<Shared>, usize);

impl Room {
    /// Takes room for so many bytes; says whether there is that much.
    pub(super) fn take(shared: &Arc<Shared>, len: usize) -> (Self, bool) {
        let before = shared.filling.fetch_add(len, Ordering::Relaxed);
        (Self(shared.clone(), len), (before + len) as u64 <= shared.limits.memory)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.filling.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Shared {
    fn kept(&self, key: &str) -> Option<Arc<Fill>> {
        let counts = |kept: &Entry| kept.until.is_none_or(|until| now() < until);
        let kept = self.kept.get(key).filter(counts).or_else(|| self.failed.get(key).filter(counts))?;
        Some(kept.fill)
    }

    /// Starts the task that fills `object`.
    fn lead(self: &Arc<Self>, object: Object, way: Way, key: Key, flight: Flight) -> Arc<Fill> {
        let fill = flight.writer.as_ref().expect("a new flight has not ended").fill().clone();
        tokio::spawn(Lead::new(self.clone(), object, way, key, flight).run());
        fill
    }

    /// A reload that asks for what has been listed for long is the plain playlist: the same bytes, one object.
    fn plain(&self, object: &Object) -> Object {
        let mut object = object.clone();
        if let What::File(broadcast, _, File::Playlist(_, reload)) = &mut object.what
            && let Some(known) = self.known.get(broadcast)
            && reload.until.is_some_and(|(k, _)| known.ended || k + LISTED_LONG < known.newest)
        {
            reload.until = None;
        }
        object
    }

    /// How long an upstream may hold a request for this object: it may ask for what is being made.
    pub(super) fn hold(&self, object: &Object) -> Duration {
        if matches!(object.what, What::Picture(..)) {
            return PICTURE;
        }
        let What::File(broadcast, _, file) = &object.what else { return Duration::ZERO };
        let known = self.known.get(broadcast);
        let target = known.map_or(self.limits.chunk, |known| Duration::from_secs(known.target.into()));
        let is_ahead = |k: u64| known.is_none_or(|known| k > known.newest);
        match file {
            // As long as upstreams hold a reload, and a little more.
            File::Playlist(_, reload) if reload.until.is_some_and(|(k, _)| is_ahead(k)) => {
                target * 3 + self.limits.chunk / 4
            }
            File::Part { k, .. } if is_ahead(*k) => target,
            File::Chunk { k, .. } if known.is_some() && is_ahead(*k) => target * 2,
            _ => Duration::ZERO,
        }
    }

    /// The upstreams in the order in which they should be asked: those that are there, and of these who had the stream last. By
    /// detour, some that are there.
    pub(super) fn order(&self, stream: &StreamId, way: Way) -> Vec<usize> {
        let (states, holder) = (self.upstreams.borrow(), self.holders.get(stream));
        if way == Way::Detour {
            return (0..states.len()).filter(|upstream| states[*upstream] == State::Alive).take(DETOURS).collect();
        }
        let mut order: Vec<usize> = (0..states.len()).filter(|upstream| states[*upstream] != State::Unknown).collect();
        order.sort_by_key(|upstream| (states[*upstream] != State::Alive, Some(*upstream) != holder));
        order
    }

    /// Takes from a playlist how far its broadcast is, and how far behind the publisher this node is.
    fn learn(&self, broadcast: &BroadcastId, reload: &Reload, text: &Text) {
        let Listed { newest, until, target, ended } = Listed::read(std::str::from_utf8(&text.body).unwrap_or_default());
        if let (Some(newest), Some(target)) = (newest, target) {
            let before = self.known.get(broadcast).filter(|before| before.newest >= newest);
            let known = before
                .map_or(Known { newest, target, ended }, |before| Known { ended: before.ended || ended, ..before });
            self.known.insert(broadcast.clone(), known);
        }
        // Only what was waited for came as early as it could.
        if let (Some(until), Some(_)) = (until, reload.until) {
            metrics::histogram!("weir_cache_edge_delay_seconds").record(unix_now().since(until).as_secs_f64());
        }
    }

    pub(super) fn keep(&self, object: &Object, key: &Key, head: &Head, fill: &Arc<Fill>, text: Option<&Text>) {
        // A clip ends where it ends, whatever its broadcast does.
        if let (What::File(broadcast, _, File::Playlist(extent, reload)), Some(text)) = (&object.what, text)
            && !matches!(extent, Extent::Clip(_))
        {
            self.learn(broadcast, reload, text);
        }
        let until = head.fresh.map(|fresh| now() + fresh);
        let bytes = head.len as u64 * if text.is_some() { 2 } else { 1 };
        self.kept.insert(key.clone(), Entry { fill: fill.clone(), until, bytes });
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
