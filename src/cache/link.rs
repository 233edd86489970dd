//! The link from an edge to each of its upstreams: one long answer of `GET /internal/v1/link`, a JSON message per line.
//!
//! It says that the upstream is alive (a beat at least every [`BEAT`]), who may watch, which streams are live, what they play, and
//! what a pushed stream just listed. An upstream that is silent for [`SILENCE`] counts as gone: what was asked of it is asked of
//! another, well within a chunk. The link is opened again for as long as the node runs; what was heard last counts
//! meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::{Cache, Object, What, lines::Lines, upstream::Nodes};
use crate::{
    id::{BroadcastId, StreamId},
    package::Extent,
    store::AccessRow,
    time::{Timestamp, now},
};

/// Where an upstream answers with its link.
pub const PATH: &str = "/internal/v1/link";
/// An upstream says something at least this often.
pub const BEAT: Duration = Duration::from_millis(250);
/// An upstream that says nothing for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(1);
/// What a node showed that is gone counts for so long where others take over for it.
const LOST: Duration = Duration::from_secs(5);
/// Between two tries to open a link.
const AGAIN: Duration = Duration::from_millis(250);
/// An upstream that is there answers within this.
const ANSWERED: Duration = Duration::from_secs(2);
/// A message with some 100,000 revoked tickets.
const LINE_MAX: usize = 16 << 20;

/// What an upstream says. What a reader does not know it passes over: nodes of two versions understand each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The processes that this link leads to: the upstream, and those it heard of from its own upstreams. The first message.
    Behind { names: Vec<String> },
    /// Alive, and nothing else to say.
    Beat,
    /// Who may watch, whole: comes before anything that may be watched.
    Access(Access),
    /// A stream that is shown, as `GET /api/v1/streams/{id}` gives it.
    Stream { id: StreamId, view: Value },
    /// A stream that is shown no more.
    Gone { id: StreamId },
    /// A pushed stream's new object: its path, `/hls/...`.
    Listed { path: String },
    /// Viewers of streams that are shown, at all nodes: those whose number has changed.
    Viewers { counts: BTreeMap<StreamId, u64> },
    /// What a stream plays from now on; when a link opens also what it played just before.
    Now { id: StreamId, now: Value },
}

/// Who may watch, as one upstream sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Access {
    /// Streams need a ticket unless a row says otherwise.
    pub ticket: bool,
    pub rows: Vec<AccessRow>,
}

impl Access {
    /// What counts when several are right: whatever lets in fewer.
    pub fn join(all: impl IntoIterator<Item = Access>) -> Access {
        let mut joined = Access::default();
        let mut rows: BTreeMap<String, AccessRow> = BTreeMap::new();
        for access in all {
            joined.ticket |= access.ticket;
            for row in access.rows {
                let known = rows.entry(row.name()).or_insert_with(|| row.clone());
                match (known, row) {
                    (AccessRow::Playback { ticket: known, .. }, AccessRow::Playback { ticket, .. }) => *known |= ticket,
                    (AccessRow::RevokedStream { before: known, .. }, AccessRow::RevokedStream { before, .. }) => {
                        *known = before.max(*known)
                    }
                    _ => {}
                }
            }
        }
        joined.rows = rows.into_values().collect();
        joined
    }
}

#[derive(Default)]
struct Heard {
    behind: Vec<String>,
    access: Option<Access>,
    streams: BTreeMap<StreamId, Value>,
    viewers: BTreeMap<StreamId, u64>,
    /// Until when that counts while the upstream is gone.
    until: Timestamp,
}

/// What the holder of a link is told.
pub enum News<'a> {
    /// Who may watch has changed.
    Access,
    /// A pushed stream listed this.
    Listed(&'a Object),
    /// It shows this stream, or something of it has changed.
    Stream(&'a StreamId, &'a Value),
    /// What it plays.
    Now(&'a StreamId, &'a Value),
    /// An upstream has come or is gone.
    Alive,
}

/// The links to all upstreams, and what was heard on them.
pub struct Links {
    nodes: Arc<Nodes>,
    cache: Cache,
    /// What this process is called.
    name: String,
    /// What one upstream showed another will, when it is lost: it is not shown for ever.
    forgets: bool,
    /// The first ones are from the configuration; the others share this node's store.
    configured: usize,
    // Held for look-ups only, never across an await.
    heard: RwLock<Vec<Arc<Mutex<Heard>>>>,
}

impl Links {
    /// Links that nobody drives yet: until one speaks, its upstream is not asked for anything. `forgets`: what a lost upstream
    /// showed is forgotten, as others go on with it.
    pub fn new(nodes: Arc<Nodes>, cache: Cache, name: &str, forgets: bool) -> Arc<Self> {
        let configured = nodes.len();
        let heard = RwLock::new((0..configured).map(|_| Arc::default()).collect());
        Arc::new(Self { nodes, cache, name: name.to_owned(), forgets, configured, heard })
    }

    /// Adds an upstream; gives its number, for [`Links::hold`].
    pub fn add(&self, url: &Url) -> usize {
        let mut heard = self.heard.write().expect("no panic while held");
        // Before it has its number, for whoever looks at all of them.
        heard.push(Arc::default());
        self.cache.add_upstream();
        self.nodes.add(url)
    }

    /// Upstreams, there or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether an upstream is there.
    pub fn is_alive(&self, upstream: usize) -> bool {
        self.cache.alive().get(upstream).is_some_and(|alive| *alive)
    }

    /// The first upstream that is there.
    pub fn first_alive(&self) -> Option<usize> {
        (0..self.len()).find(|upstream| self.is_alive(*upstream))
    }

    fn heard(&self) -> Vec<Arc<Mutex<Heard>>> {
        self.heard.read().expect("no panic while held").clone()
    }

    fn of(&self, upstream: usize) -> Arc<Mutex<Heard>> {
        self.heard.read().expect("no panic while held")[upstream].clone()
    }

    /// The processes that all links lead to.
    pub fn behind(&self) -> Vec<String> {
        self.heard().iter().flat_map(|heard| heard.lock().expect("no panic while held").behind.clone()).collect()
    }

    /// Who may watch, as all upstreams of the configuration say together; with tickets only before any has spoken.
    pub fn access(&self) -> Access {
        let alive = &self.cache.alive()[..self.configured];
        let mut all: Vec<Access> = Vec::new();
        for (heard, is_alive) in self.heard().iter().zip(alive) {
            let Some(mut access) = heard.lock().expect("no panic while held").access.clone() else { continue };
            // A key may have been taken away since one was heard last; what forbids counts for ever.
            if !is_alive && alive.contains(&true) {
                access.rows.retain(|row| !matches!(row, AccessRow::TicketKey { .. }));
            }
            all.push(access);
        }
        match all.is_empty() {
            true => Access { ticket: self.configured > 0, rows: Vec::new() },
            false => Access::join(all),
        }
    }

    /// The upstreams' words, those of the ones that are there first.
    fn by_liveness(&self) -> impl Iterator<Item = Arc<Mutex<Heard>>> {
        let mut all: Vec<_> = self.heard().into_iter().zip(self.cache.alive()).collect();
        all.sort_by_key(|(_, alive)| !alive);
        all.into_iter().map(|(heard, _)| heard)
    }

    /// The streams that upstreams show, by name; of two that show one, the first that is there.
    pub fn streams(&self) -> BTreeMap<StreamId, Value> {
        let mut all = BTreeMap::new();
        for heard in self.by_liveness() {
            for (id, view) in &heard.lock().expect("no panic while held").streams {
                all.entry(id.clone()).or_insert_with(|| view.clone());
            }
        }
        all
    }

    /// How an upstream shows a stream.
    pub fn stream(&self, id: &StreamId) -> Option<Value> {
        self.by_liveness().find_map(|heard| heard.lock().expect("no panic while held").streams.get(id).cloned())
    }

    /// How many viewers a stream has, as an upstream counts them.
    pub fn viewers(&self, id: &StreamId) -> Option<u64> {
        self.by_liveness().find_map(|heard| heard.lock().expect("no panic while held").viewers.get(id).copied())
    }

    /// Asks the upstream that shows a stream for something of it, of at most so many bytes; nothing where none does, or it does not
    /// answer.
    pub async fn ask(&self, stream: &StreamId, path: &str, most: usize) -> Option<Bytes> {
        let alive = self.cache.alive();
        let shows = |heard: &Arc<Mutex<Heard>>| heard.lock().expect("no panic while held").streams.contains_key(stream);
        let at = self.heard().iter().zip(alive).position(|(heard, alive)| alive && shows(heard))?;
        let answered = async {
            let answer = self.nodes.get(at, path, 0).await.ok().filter(|answer| answer.status() == StatusCode::OK)?;
            Some(Limited::new(answer.into_body(), most).collect().await.ok()?.to_bytes())
        };
        tokio::time::timeout(ANSWERED, answered).await.ok()?
    }

    /// Whether an upstream that is there shows this broadcast of a stream, or any.
    pub fn is_shown(&self, stream: &StreamId, broadcast: Option<&BroadcastId>) -> bool {
        let is_it = |view: &Value| broadcast.is_none_or(|id| view["broadcast"].as_str() == Some(id.as_str()));
        let heard = self.heard();
        let mut alive = heard.iter().zip(self.cache.alive()).filter(|(_, alive)| *alive).map(|(heard, _)| heard);
        alive.any(|heard| heard.lock().expect("no panic while held").streams.get(stream).is_some_and(is_it))
    }

    /// Whether an upstream that is not there showed this broadcast of a stream, or any, as far as it was heard.
    pub fn was_shown(&self, stream: &StreamId, broadcast: Option<&BroadcastId>) -> bool {
        let is_it = |view: &Value| broadcast.is_none_or(|id| view["broadcast"].as_str() == Some(id.as_str()));
        let shows =
            |heard: &Mutex<Heard>| heard.lock().expect("no panic while held").streams.get(stream).is_some_and(is_it);
        self.heard().iter().zip(self.cache.alive()).any(|(heard, alive)| !alive && shows(heard))
    }

    /// What upstreams that are gone showed of a stream was had through another node: it counts on.
    pub fn was_had(&self, stream: &StreamId) {
        for (heard, _) in self.heard().iter().zip(self.cache.alive()).filter(|(_, alive)| !alive) {
            let mut heard = heard.lock().expect("no panic while held");
            if heard.streams.contains_key(stream) {
                heard.until = heard.until.max(now() + LOST);
            }
        }
    }

    /// An upstream runs, as others say, though it may be gone for this node: what it showed counts for `long` and a little more.
    pub fn runs(&self, upstream: usize, long: Duration) {
        let of = self.of(upstream);
        let mut heard = of.lock().expect("no panic while held");
        heard.until = heard.until.max(now() + long + LOST);
    }

    /// Holds the link to one upstream until `stop`. What it has is asked for only after `told` heard who may watch it.
    pub async fn hold(self: Arc<Self>, upstream: usize, stop: CancellationToken, told: impl Fn(News)) {
        let name = self.nodes.name(upstream);
        let mut said = String::new();
        while !stop.is_cancelled() {
            let ended = stop.run_until_cancelled(self.listen(upstream, &told)).await;
            let Some(why) = ended else { break };
            let was_there = self.cache.set_alive(upstream, false);
            {
                let of = self.of(upstream);
                let mut heard = of.lock().expect("no panic while held");
                if was_there {
                    heard.until = now() + LOST;
                } else if self.forgets && now() > heard.until {
                    heard.streams.clear();
                }
            }
            if was_there {
                told(News::Access);
                told(News::Alive);
            }
            if was_there || why != said {
                warn!(upstream = %name, %why, "the link to an upstream ended; it is tried again until it answers");
            }
            said = why;
            stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
        }
    }

    /// Reads one link to its end, which it gives in words.
    async fn listen(&self, upstream: usize, told: &impl Fn(News)) -> String {
        let mut lines = match Lines::open(&self.nodes, upstream, PATH, SILENCE, LINE_MAX).await {
            Ok(lines) => lines,
            Err(why) => return why,
        };
        {
            let of = self.of(upstream);
            let mut heard = of.lock().expect("no panic while held");
            heard.streams.clear();
            heard.viewers.clear();
        }
        loop {
            let line = match lines.next().await {
                Ok(line) => line,
                Err(why) => return why,
            };
            // A message of a newer version.
            let Ok(message) = serde_json::from_str(&line) else { continue };
            if let Message::Behind { names } = &message
                && names.contains(&self.name)
            {
                // Each would wait for the other to fetch what neither has.
                return "it asks this node for what it lacks: edges cannot stand in a ring".into();
            }
            self.take(upstream, message, told);
        }
    }

    fn take(&self, upstream: usize, message: Message, told: &impl Fn(News)) {
        let of = self.of(upstream);
        let heard = || of.lock().expect("no panic while held");
        match message {
            Message::Beat => {}
            Message::Behind { names } => heard().behind = names,
            Message::Access(access) => {
                heard().access = Some(access);
                told(News::Access);
                // Only now: what it has is not asked for before it is known who may watch.
                if self.cache.set_alive(upstream, true) {
                    info!(upstream = %self.nodes.name(upstream), "upstream is there");
                    told(News::Alive);
                }
            }
            Message::Stream { id, view } => {
                // It may not have been there a moment ago.
                self.cache.forget_failure(&Object { stream: id.clone(), what: What::Current(Extent::Window) });
                // Of two nodes that show it, the one with the newer epoch has it; of one epoch, the one that had it before.
                let is_older = |known: &Value| known["epoch"].as_u64() < view["epoch"].as_u64();
                let shown = |heard: &Mutex<Heard>| {
                    heard.lock().expect("no panic while held").streams.get(&id).is_none_or(is_older)
                };
                if self.heard().iter().filter(|other| !Arc::ptr_eq(other, &of)).all(|other| shown(other)) {
                    self.cache.is_at(&id, upstream);
                }
                heard().streams.insert(id.clone(), view.clone());
                told(News::Stream(&id, &view));
            }
            Message::Gone { id } => {
                let mut heard = heard();
                heard.streams.remove(&id);
                heard.viewers.remove(&id);
            }
            Message::Viewers { counts } => heard().viewers.extend(counts),
            Message::Now { id, now } => told(News::Now(&id, &now)),
            Message::Listed { path } => {
                let object = path.strip_prefix("/hls/").and_then(|path| Object::parse(path, None).ok());
                if let Some(object) = object {
                    told(News::Listed(&object));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    #[test]
    fn of_two_words_the_stricter_one_counts() {
        let stream: StreamId = "alice".parse().unwrap();
        let playback = |ticket| AccessRow::Playback { stream: stream.clone(), ticket };
        let before = |ms| AccessRow::RevokedStream { stream: stream.clone(), before: UnixMs(ms) };
        let access = |ticket, rows: &[AccessRow]| Access { ticket, rows: rows.to_vec() };
        let (one, other) =
            (access(true, &[playback(false), before(9000)]), access(false, &[playback(true), before(500)]));
        let strict = access(true, &[playback(true), before(9000)]);
        for all in [[one.clone(), other.clone()], [other, one]] {
            let mut joined = Access::join(all);
            joined.rows.sort_by_key(AccessRow::name);
            assert_eq!(joined, strict);
        }
        assert_eq!(Access::join([access(true, &[playback(false)]), access(true, &[])]).rows, [playback(false)]);
    }
}
