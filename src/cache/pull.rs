//! The cache itself: what is kept, who fills, and the task that leads a fill.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use hyper::header::HeaderValue;
use quick_cache::{OptionsBuilder, Weighter, sync};
use tokio::sync::watch;

use super::{
    File, Object, What, fill,
    flights::{self, Flights, Joined},
    listed::Listed,
    policy::{Attempt, Failure, Input, Output, Plan, Rules, Why},
};
use crate::{
    id::{BroadcastId, StreamId},
    line::Text,
    package::Reload,
    time::{Timestamp, now, unix_now},
};

/// What an object costs beside its bytes.
const OVERHEAD: u64 = 600;
/// "Not there" and other failures that are remembered.
const FAILURES: usize = 10_000;
/// A reload for a chunk that lies further back than that is no longer waiting.
const LISTED_LONG: u64 = 3;
/// Streams and broadcasts of which it is remembered who has them and how far they are.
const REMEMBERED: usize = 10_000;
/// Parts of the cache that are locked on their own. Few, because each can keep an object no bigger than its share.
const SHARDS: usize = 4;

type Key = Arc<str>;
pub type Fill = fill::Fill<Head, Done, Failure>;
type Flight = flights::Flight<Key, Head, Done, Failure>;

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

/// Where objects come from.
pub trait Source: Send + Sync + 'static {
    /// Asks one upstream for the bytes of `path` after the first `from`.
    fn fetch(&self, upstream: usize, path: &str, from: usize) -> BoxFuture<'static, Result<Answer, Failure>>;
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

struct Shared {
    source: Arc<dyn Source>,
    limits: Limits,
    flights: Arc<Flights<Key, Head, Done, Failure>>,
    kept: sync::Cache<Key, Entry, ByBytes>,
    failed: sync::Cache<Key, Entry>,
    /// Which upstream had a stream last.
    holders: sync::Cache<StreamId, usize>,
    /// How far a broadcast was when a playlist of it was last seen.
    known: sync::Cache<BroadcastId, Known>,
    upstreams: watch::Sender<Vec<State>>,
    waiting: AtomicUsize,
    filling: AtomicUsize,
}

/// What playlists told of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    /// The newest chunk that was listed.
    newest: u64,
    /// EXT-X-TARGETDURATION, seconds.
    target: u32,
    /// Nothing is added any more.
    ended: bool,
}

/// What is known of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
struct Entry {
    fill: Arc<Fill>,
    /// Until when it counts; `None`: for ever.
    until: Option<Timestamp>,
    bytes: u64,
}

#[derive(Clone)]
struct ByBytes;

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
    pub fn get(&self, object: &Object) -> Result<Reading, Failure> {
        let shared = &self.shared;
        let object = &shared.plain(object);
        let key: Key = object.to_string().into();
        if let Some(fill) = shared.kept(&key) {
            metrics::counter!("weir_cache_hits_total").increment(1);
            return Ok(Reading { reader: fill::Reader::new(&fill), fill, _waits: None });
        }
        let waits = Waits::begin(shared).ok_or_else(|| busy("too many requests wait here"))?;
        let fill = match shared.flights.join(&key, || shared.kept(&key), lost()) {
            Joined::Waits(fill) => {
                metrics::counter!("weir_cache_waits_total").increment(1);
                fill
            }
            Joined::Leads(flight) => shared.lead(object.clone(), key, flight),
            Joined::Full => return Err(busy("too many objects are on their way here")),
        };
        Ok(Reading { reader: fill::Reader::new(&fill), fill, _waits: Some(waits) })
    }

    /// What is kept under this name, complete, without asking anyone. Other names of the same object are not known here.
    pub fn kept(&self, path: &str) -> Option<Kept> {
        let fill = self.shared.kept(path)?;
        let (head, done) = (fill.head()?, fill.end()?.ok()?);
        metrics::counter!("weir_cache_hits_total").increment(1);
        Some(Kept { head, done })
    }

    /// What is kept of `object`, without asking anyone.
    pub fn peek(&self, object: &Object) -> Option<Reading> {
        let fill = self.shared.kept(&object.to_string()).filter(|fill| fill.end().is_some_and(|end| end.is_ok()))?;
        metrics::counter!("weir_cache_hits_total").increment(1);
        Some(Reading { reader: fill::Reader::new(&fill), fill, _waits: None })
    }

    /// Fetches what was announced, before anyone asks. Announcements give way to viewers: dropped when there is little room.
    pub fn prefetch(&self, object: &Object) {
        let shared = &self.shared;
        let crowded = shared.flights.len() >= shared.limits.fills / 2
            || shared.filling.load(Ordering::Relaxed) as u64 >= shared.limits.memory / 2;
        let key: Key = object.to_string().into();
        let joined = (!crowded).then(|| shared.flights.join(&key, || shared.kept(&key), lost()));
        match joined {
            Some(Joined::Leads(flight)) => {
                metrics::counter!("weir_cache_prefetches_total").increment(1);
                shared.lead(object.clone(), key, flight);
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

    /// Which upstreams are there.
    pub fn alive(&self) -> Vec<bool> {
        self.shared.upstreams.borrow().iter().map(|state| *state == State::Alive).collect()
    }

    /// Asks again for what was not there a moment ago, when someone asks for it.
    pub fn forget_failure(&self, object: &Object) {
        self.shared.failed.remove(object.to_string().as_str());
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

fn busy(detail: &'static str) -> Failure {
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
    fill: Arc<Fill>,
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

    /// When the object was complete here, if it is.
    pub fn done_at(&self) -> Option<Timestamp> {
        Some(self.fill.end()?.ok()?.at)
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
struct Room(Arc<Shared>, usize);

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
    fn lead(self: &Arc<Self>, object: Object, key: Key, flight: Flight) -> Arc<Fill> {
        let fill = flight.writer.as_ref().expect("a new flight has not ended").fill().clone();
        let lead = Lead { shared: self.clone(), object, key, flight, attempts: Vec::new(), room: None };
        tokio::spawn(lead.run());
        fill
    }

    /// A reload that asks for what has been listed for long is the plain playlist: the same bytes, one object.
    fn plain(&self, object: &Object) -> Object {
        let mut object = object.clone();
        if let What::File(broadcast, _, File::Playlist(reload)) = &mut object.what
            && let Some(known) = self.known.get(broadcast)
            && reload.until.is_some_and(|(k, _)| known.ended || k + LISTED_LONG < known.newest)
        {
            reload.until = None;
        }
        object
    }

    /// How long an upstream may hold a request for this object: it may ask for what is being made.
    fn hold(&self, object: &Object) -> Duration {
        let What::File(broadcast, _, file) = &object.what else { return Duration::ZERO };
        let known = self.known.get(broadcast);
        let target = known.map_or(self.limits.chunk, |known| Duration::from_secs(known.target.into()));
        let is_ahead = |k: u64| known.is_none_or(|known| k > known.newest);
        match file {
            // As long as upstreams hold a reload, and a little more.
            File::Playlist(reload) if reload.until.is_some_and(|(k, _)| is_ahead(k)) => {
                target * 3 + self.limits.chunk / 4
            }
            File::Part { k, .. } if is_ahead(*k) => target,
            File::Chunk { k, .. } if known.is_some() && is_ahead(*k) => target * 2,
            _ => Duration::ZERO,
        }
    }

    /// Whether what is not there may be there any moment.
    fn is_soon(&self, object: &Object) -> bool {
        matches!(object.what, What::File(_, _, File::Part { .. } | File::Chunk { .. }))
    }

    /// The upstreams in the order in which they should be asked: those that are there, and of these who had the stream last.
    fn order(&self, stream: &StreamId) -> Vec<usize> {
        let (states, holder) = (self.upstreams.borrow(), self.holders.get(stream));
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

    fn keep(&self, object: &Object, key: &Key, head: &Head, fill: &Arc<Fill>, text: Option<&Text>) {
        if let (What::File(broadcast, _, File::Playlist(reload)), Some(text)) = (&object.what, text) {
            self.learn(broadcast, reload, text);
        }
        let until = head.fresh.map(|fresh| now() + fresh);
        let bytes = head.len as u64 * if text.is_some() { 2 } else { 1 };
        self.kept.insert(key.clone(), Entry { fill: fill.clone(), until, bytes });
    }
}

/// The task that fills one object.
struct Lead {
    shared: Arc<Shared>,
    object: Object,
    key: Key,
    flight: Flight,
    attempts: Vec<(Attempt, Step)>,
    room: Option<Room>,
}

enum Step {
    Asking(Timestamp, BoxFuture<'static, Result<Answer, Failure>>),
    Reading(BoxStream<'static, Result<Bytes, Failure>>),
}

enum Event {
    Head(Answer, Duration),
    Bytes(Bytes),
    End,
    Failed(Failure),
}

impl Lead {
    async fn run(mut self) {
        let rules = Rules { chunk: self.shared.limits.chunk, hold: self.shared.hold(&self.object) };
        let mut states = self.shared.upstreams.subscribe();
        let mut plan = Plan::new(rules, &self.shared.order(&self.object.stream), now());
        let (mut head, mut got): (Option<Head>, usize) = (None, 0);
        loop {
            while let Some(output) = plan.poll() {
                match output {
                    // Two nodes' playlists of one name may differ: no half of one is continued by the other.
                    Output::Start(_) if got > 0 && self.object.is_playlist() => {
                        return self.fail(Failure::new(Why::Broken, "a playlist broke off"));
                    }
                    Output::Start(attempt) => {
                        let asking = self.shared.source.fetch(attempt.upstream, &self.key, got);
                        self.attempts.push((attempt, Step::Asking(now(), asking)));
                    }
                    Output::Stop(id) => self.attempts.retain(|(attempt, _)| attempt.id != id),
                    Output::GiveUp(failure) => return self.fail(failure),
                }
            }
            let due = plan.deadline().map_or(Duration::from_secs(60), |deadline| deadline - now());
            let (attempt, event) = tokio::select! {
                event = next(&mut self.attempts) => event,
                () = tokio::time::sleep(due) => {
                    plan.expire(now());
                    continue;
                }
                Ok(()) = states.changed() => {
                    let gone: Vec<usize> =
                        states.borrow().iter().enumerate().filter(|(_, state)| **state == State::Gone).map(|(i, _)| i).collect();
                    gone.into_iter().for_each(|upstream| plan.handle(now(), Input::Down(upstream)));
                    continue;
                }
            };
            let failed = |failure| Input::Failed(attempt.id, failure);
            let broken = |detail: &'static str| failed(Failure::new(Why::Broken, detail));
            let input = match event {
                Event::Head(answer, asked) => {
                    metrics::histogram!("weir_upstream_seconds").record(asked.as_secs_f64());
                    if head.as_ref().is_some_and(|head| head.len != answer.head.len) {
                        broken("two upstreams have different objects of one name")
                    } else if head.is_none() && !self.reserve(answer.head.len) {
                        failed(busy("too many bytes are on their way here"))
                    } else {
                        if head.is_none() {
                            self.flight.writer.as_ref().expect("not ended").begin(answer.head.clone());
                            head = Some(answer.head);
                        }
                        self.shared.holders.insert(self.object.stream.clone(), attempt.upstream);
                        for (other, step) in &mut self.attempts {
                            if other.id == attempt.id {
                                *step = Step::Reading(answer.body);
                                break;
                            }
                        }
                        Input::Head(attempt.id)
                    }
                }
                Event::Bytes(bytes) => {
                    got += bytes.len();
                    let len = head.as_ref().map_or(0, |head| head.len);
                    if got > len {
                        return self.fail(Failure::new(Why::Broken, "the upstream sent more than it said"));
                    }
                    let count = bytes.len();
                    self.flight.writer.as_ref().expect("not ended").append(bytes);
                    Input::Bytes(attempt.id, count)
                }
                Event::End => broken("the upstream sent less than it said"),
                Event::Failed(failure) => failed(failure),
            };
            if let Some(head) = head.as_ref().filter(|head| head.len == got) {
                return self.complete(head.clone());
            }
            if let Input::Failed(id, _) = &input {
                self.attempts.retain(|(attempt, _)| attempt.id != *id);
            }
            plan.handle(now(), input);
        }
    }

    /// Takes room for an object on its way.
    fn reserve(&mut self, len: usize) -> bool {
        let before = self.shared.filling.fetch_add(len, Ordering::Relaxed);
        self.room = Some(Room(self.shared.clone(), len));
        (before + len) as u64 <= self.shared.limits.memory
    }

    fn complete(mut self, head: Head) {
        metrics::counter!("weir_cache_fills_total", "result" => "ok").increment(1);
        let writer = self.flight.writer.take().expect("not ended");
        let fill = writer.fill().clone();
        let is_playlist = self.object.is_playlist();
        writer.complete(|whole| {
            let text = is_playlist.then(|| Text::new(String::from_utf8_lossy(whole).into_owned()));
            Done { at: now(), bytes: whole.clone(), text }
        });
        let done = fill.end().and_then(Result::ok).expect("just completed");
        self.shared.keep(&self.object, &self.key, &head, &fill, done.text.as_ref());
    }

    fn fail(mut self, failure: Failure) {
        metrics::counter!("weir_cache_fills_total", "result" => failure.why.code()).increment(1);
        let writer = self.flight.writer.take().expect("not ended");
        let (fill, keep) = (writer.fill().clone(), failure.keep(self.shared.is_soon(&self.object), rand::random()));
        writer.fail(failure);
        if !keep.is_zero() {
            let kept = Entry { fill, until: Some(now() + keep), bytes: 0 };
            self.shared.failed.insert(self.key.clone(), kept);
        }
    }
}

/// What the attempts bring next.
async fn next(attempts: &mut [(Attempt, Step)]) -> (Attempt, Event) {
    poll_fn(|cx| {
        for (attempt, step) in attempts.iter_mut() {
            let event = match step {
                Step::Asking(since, asking) => asking.poll_unpin(cx).map(|answer| match answer {
                    Ok(answer) => Event::Head(answer, now() - *since),
                    Err(failure) => Event::Failed(failure),
                }),
                Step::Reading(body) => body.poll_next_unpin(cx).map(|piece| match piece {
                    Some(Ok(bytes)) => Event::Bytes(bytes),
                    Some(Err(failure)) => Event::Failed(failure),
                    None => Event::End,
                }),
            };
            if let Poll::Ready(event) = event {
                return Poll::Ready((*attempt, event));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
