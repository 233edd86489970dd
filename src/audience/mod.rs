//! Who watches, and how well: reports of players enter ([`cmcd`]); counts, rows for the store and what other nodes are to know leave.
//!
//! [`Table`] has a session for each player that reports, [`Crowd`] the counts of one broadcast, [`Tally`] what viewers did in a span of
//! time. `node` drives [`Audience::tick`] each second, and [`tell`] tells the other nodes. A node's count is of all nodes' viewers, by
//! the id of their session, so that it is the same everywhere. Addresses are looked at as salted hashes and are never stored. What a
//! stream plays now ([`now`]) is told the other way, to those who watch.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};

pub mod cmcd;
mod crowd;
pub mod history;
pub mod now;
pub mod pending;
mod rows;
pub mod share;
mod table;
mod tally;
pub mod tell;
mod uniques;

#[cfg(test)]
mod tests;

pub use crowd::{Crowd, Now, Offered, Subject};
pub use rows::{Body, HOUR_MS, MINUTE_MS};
pub use table::{BEAT, Heard, Limits, Table, Viewer};
pub use tally::Tally;
pub use uniques::Uniques;

use crate::{
    id::{BroadcastId, StreamId},
    secret::Secret,
    store::AudienceRow,
    time::{Timestamp, UnixMs},
};

/// What counts are written so often, while a minute lasts.
pub const WRITTEN: Duration = Duration::from_secs(15);
/// The longest time between reports that a player is asked for.
const BEAT_MAX: Duration = Duration::from_secs(300);
/// Content ids that are known by their text.
const KNOWN_MAX: usize = 40_000;
/// Edges of one node.
const EDGES_MAX: usize = 1000;
/// Reports a second are measured over so long.
const LOAD: Duration = Duration::from_secs(5);

/// How a node counts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the node, and that of this process.
    pub node: String,
    pub process: String,
    pub limits: Limits,
    /// Reports a second above which players are asked to report less often.
    pub reports_max: u32,
    /// There are other nodes; this one makes streams, so that it hears of all.
    pub shares: bool,
    pub knows_all: bool,
    /// What only the nodes know: addresses are hashed with it.
    pub secret: Secret,
}

/// The node's streams, as the counting looks at them.
pub trait Streams: Send + Sync {
    /// The broadcast that a stream shows now, and what can be watched of it.
    fn current(&self, stream: &StreamId) -> Option<(BroadcastId, Offered)>;
}

/// Who sent a report.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The id of his ticket, where he has one.
    pub ticket: Option<&'a str>,
    pub address: IpAddr,
    /// His player, as it names itself.
    pub agent: &'a [u8],
}

/// See the module.
pub struct Audience {
    config: Config,
    pub table: Table,
    /// Crowds by the content id that reports give.
    known: RwLock<table::HashMap<Box<str>, Arc<Crowd>>>,
    /// Numbers of other nodes, from 1.
    nodes: RwLock<Vec<String>>,
    /// Those of them that are edges of this node: others hear of their viewers from here.
    edges: Mutex<Vec<u16>>,
    /// Mixed with addresses to bound sessions: of this process alone.
    salt: [u8; 32],
    reports: AtomicU64,
    load: Mutex<Load>,
    beat_s: AtomicU64,
}

#[derive(Default)]
struct Load {
    since: Timestamp,
    ticked: Option<Timestamp>,
    written: Timestamp,
}

impl Audience {
    pub fn new(config: Config) -> Arc<Self> {
        let part = format!("{}.{}", config.node, config.process);
        Arc::new(Self {
            table: Table::new(config.limits, part, config.shares),
            config,
            known: RwLock::default(),
            nodes: RwLock::default(),
            edges: Mutex::default(),
            salt: rand::random(),
            reports: AtomicU64::new(0),
            load: Mutex::default(),
            beat_s: AtomicU64::new(BEAT.as_secs()),
        })
    }

    pub fn node(&self) -> &str {
        &self.config.node
    }

    pub fn process(&self) -> &str {
        &self.config.process
    }

    /// Whether this node hears of the viewers of all nodes.
    pub fn knows_all(&self) -> bool {
        self.config.knows_all
    }

    /// The crowd that reports with this content id belong to, if it is known.
    pub fn known(&self, cid: &str) -> Option<Arc<Crowd>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(cid).cloned()
    }

    /// Learns what a content id means; nothing where there are as many crowds as there may be.
    pub fn learn(&self, now: Timestamp, cid: &str, subject: &Subject, offered: Offered) -> Option<Arc<Crowd>> {
        let crowd = self.table.crowd(subject, now)?;
        crowd.offer(offered);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < KNOWN_MAX {
            known.insert(cid.into(), crowd.clone());
        }
        Some(crowd)
    }

    /// Hears a report.
    pub fn hear(&self, now: Timestamp, crowd: &Crowd, report: &cmcd::Report, who: Who) -> Heard {
        self.reports.fetch_add(1, Ordering::Relaxed);
        let beat_s = self.beat_s.load(Ordering::Relaxed) as u8;
        self.table.report(now, crowd, report, beat_s, || self.viewer(crowd, who))
    }

    /// How often players are to report, where that is less often than by themselves.
    pub fn wished_beat(&self) -> Option<Duration> {
        let beat = Duration::from_secs(self.beat_s.load(Ordering::Relaxed));
        (beat > BEAT).then_some(beat)
    }

    fn viewer(&self, crowd: &Crowd, who: Who) -> Viewer {
        // Whoever has an IPv6 address has at least 2^64 of them.
        let address = match who.address.to_canonical() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets()[..8].to_vec(),
        };
        let bound = match who.ticket {
            Some(ticket) => hash(&[&self.salt, b"ticket", ticket.as_bytes()]),
            None => hash(&[&self.salt, b"address", &address]),
        };
        // The same at all nodes and for a whole broadcast, and another one for those of another day.
        let started = crowd.subject.broadcast.made().0.div_euclid(86_400_000).to_le_bytes();
        let salt = [self.config.secret.expose().as_bytes(), &started].concat();
        let unique = match who.ticket {
            Some(ticket) => hash(&[&salt, b"ticket", ticket.as_bytes()]),
            None => hash(&[&salt, b"address", &address, who.agent]),
        };
        Viewer { bound: (bound as u32).max(1), unique }
    }

    /// The number of another node.
    fn number(&self, node: &str) -> u16 {
        let place = |nodes: &[String]| nodes.iter().position(|known| known == node).map(|at| at as u16 + 1);
        if let Some(number) = place(&self.nodes.read().unwrap_or_else(PoisonError::into_inner)) {
            return number;
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        place(&nodes).unwrap_or_else(|| {
            // Thousands of names come from nobody who runs a cluster: those after share a number.
            if nodes.len() < usize::from(u16::MAX) - 1 {
                nodes.push(node.to_owned());
            }
            nodes.len() as u16
        })
    }

    /// Takes what another node tells.
    pub fn take(&self, now: Timestamp, told: &share::Told) {
        let node = self.number(&told.node);
        if told.edge {
            let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
            if !edges.contains(&node) && edges.len() < EDGES_MAX {
                edges.push(node);
            }
        }
        told.crowds.iter().for_each(|crowd| self.table.take(now, node, crowd, told.edge && self.config.shares));
    }

    /// All that a node has to know that knows nothing yet.
    pub fn all_for(&self, now: Timestamp, node: Option<&str>) -> Vec<Vec<share::TheirCrowd>> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.table.all_for(now, node.map_or(u16::MAX, |node| self.number(node)), &edges)
    }

    /// All sessions of this node, for itself when it has started again.
    pub fn saved(&self, now: Timestamp) -> Vec<Vec<share::TheirCrowd>> {
        self.table.all_for(now, table::HERE, &[])
    }

    /// Passes a second: who is gone, what was watched, what content ids mean. Gives the rows that are to be stored.
    pub async fn tick(&self, now: Timestamp, wall: UnixMs, streams: &dyn Streams) -> Vec<(StreamId, AudienceRow)> {
        let passed = self.load().ticked.replace(now).map_or(Duration::ZERO, |before| now - before);
        let mut shown: HashMap<StreamId, Option<(BroadcastId, Offered)>> = HashMap::new();
        let crowds = self.table.crowds();
        for crowd in &crowds {
            let stream = &crowd.subject.stream;
            let current = shown.entry(stream.clone()).or_insert_with(|| streams.current(stream));
            if let Some((_, offered)) = current.as_ref().filter(|(id, _)| *id == crowd.subject.broadcast) {
                crowd.offer(offered.clone());
            }
        }
        // What is live is watched live, and what is not is not.
        let is_live = |crowd: &Crowd| {
            let current = shown.get(&crowd.subject.stream).and_then(Option::as_ref);
            current.is_some_and(|(id, _)| *id == crowd.subject.broadcast)
        };
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, crowd| is_live(crowd) == crowd.subject.live && self.table.find(&crowd.subject).is_some());
        let lives: HashMap<u32, bool> =
            crowds.iter().map(|crowd| (crowd.index, crowd.was_live(now, is_live(crowd)))).collect();
        self.table.sweep(now, |crowd| crowd.subject.live && lives.get(&crowd.index) == Some(&false)).await;
        crowds.iter().for_each(|crowd| crowd.pass(now, wall, passed, self.config.knows_all));
        let mut load = self.load();
        let writes = now - load.written >= WRITTEN;
        let mut rows = Vec::new();
        for crowd in &crowds {
            let is_over = crowd.done().since != UnixMs(0) && rows::floor(wall, MINUTE_MS) > crowd.done().since;
            if writes || is_over {
                rows.extend(crowd.rows(wall, false).into_iter().map(|row| (crowd.subject.stream.clone(), row)));
            }
        }
        if writes {
            load.written = now;
            self.table.forget_unused(now);
        }
        if now - load.since >= LOAD {
            self.measure(now - load.since);
            load.since = now;
        }
        rows
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has players report less often where there are more than this node can hear.
    fn measure(&self, passed: Duration) {
        let rate = self.reports.swap(0, Ordering::Relaxed) as f64 / passed.as_secs_f64();
        let beat = self.beat_s.load(Ordering::Relaxed) as f64;
        let wanted = beat * rate / f64::from(self.config.reports_max);
        let (least, most) = (BEAT.as_secs_f64(), BEAT_MAX.as_secs_f64().min(250.0));
        // Up at once, down by halves.
        let next = if wanted > beat { wanted } else { (beat + wanted) / 2.0 };
        self.beat_s.store(next.clamp(least, most).ceil() as u64, Ordering::Relaxed);
    }

    /// All rows that are not written, when the node stops.
    pub fn last_rows(&self, wall: UnixMs) -> Vec<(StreamId, AudienceRow)> {
        let rows = |crowd: &Arc<Crowd>| {
            let stream = crowd.subject.stream.clone();
            crowd.rows(wall, true).into_iter().map(move |row| (stream.clone(), row)).collect::<Vec<_>>()
        };
        self.table.crowds().iter().flat_map(rows).collect()
    }
}

/// 64 bits of a hash of these parts.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    u64::from_le_bytes(hasher.finalize()[..8].try_into().expect("eight bytes"))
}
