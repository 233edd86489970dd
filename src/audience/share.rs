//! What nodes tell each other of viewers, each second: which sessions reported to them, and in what state they are.
//!
//! So each node knows all sessions by name, not by number alone: one that moves to another node is counted once, and the viewers of a
//! node that is lost are counted on until they report elsewhere. A node that has begun anew is told all, its own sessions too. An
//! edge tells its upstream, which tells it on as its own.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    crowd::{Presence, Subject, Sums},
    table::{HERE, RECENT, SHARDS, Session, Shard, Table},
};
use crate::{
    id::{Rendition, StreamId},
    store::AudienceRow,
    time::Timestamp,
};

/// Sessions of one message, and how many of them a crowd's own words are as long as.
const LOT: usize = 40_000;
const CROWD: usize = 32;
/// A message is at most so long.
pub const BYTES_MAX: usize = 2 << 20;
/// Bytes of a session: key, rendition, state, age (half seconds), beat (5 s).
const RECORD: usize = 12;
/// Sessions of other nodes that this one remembers.
const FOREIGN_MAX: usize = 4_000_000;
/// Says of a session that it belongs to whom it is told.
const YOURS: u8 = 0x80;

/// A node's message.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The node that tells.
    pub node: String,
    /// It is an edge: what it tells is to be told on.
    pub edge: bool,
    pub crowds: Vec<TheirCrowd>,
    /// Rows that are to be stored for it: an edge has no store.
    pub rows: Vec<(StreamId, AudienceRow)>,
}

/// What is told of one crowd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TheirCrowd {
    pub subject: Subject,
    /// Names by number, from 1.
    pub names: Vec<Rendition>,
    /// Records in base 64.
    pub sessions: String,
    pub sums: Sums,
}

/// What a message is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Names the process that took it: another than before has to be told all.
    pub process: String,
}

/// Sessions by crowd, as they go into messages.
#[derive(Default)]
struct Lots(BTreeMap<u32, Vec<u8>>);

impl Lots {
    fn add(&mut self, now: Timestamp, key: u64, session: &Session, yours: bool) {
        let state = match session.presence {
            Presence::Gone => 0,
            Presence::Watching => 1,
            Presence::Paused => 2,
        };
        let records = self.0.entry(session.crowd).or_default();
        records.extend(key.to_le_bytes());
        let age = ((now - session.seen).as_millis() / 500).min(255) as u8;
        let beat = session.beat_s.div_ceil(5);
        records.extend([session.rung, state | if yours { YOURS } else { 0 }, age, beat]);
    }

    /// Divides them into messages.
    fn told(self, table: &Table) -> Vec<Vec<TheirCrowd>> {
        let (mut messages, mut left) = (vec![Vec::new()], LOT);
        for (crowd, records) in self.0 {
            let Some(crowd) = table.at(crowd) else { continue };
            let (mut rest, mut is_first) = (&records[..], true);
            while is_first || !rest.is_empty() {
                if left <= CROWD {
                    messages.push(Vec::new());
                    left = LOT;
                }
                left -= CROWD;
                let (some, more) = rest.split_at(rest.len().min(left * RECORD));
                left -= some.len() / RECORD;
                let (subject, names, sums) = (crowd.subject.clone(), crowd.names(), crowd.sums());
                let sessions = BASE64_STANDARD_NO_PAD.encode(some);
                messages.last_mut().expect("there is one").push(TheirCrowd { subject, names, sessions, sums });
                (rest, is_first) = (more, false);
            }
        }
        messages
    }
}

impl Table {
    /// What is new since the last time: messages for all others.
    pub fn news(&self, now: Timestamp) -> Vec<Vec<TheirCrowd>> {
        let mut lots = Lots::default();
        self.each_shard(|Shard { sessions, recent }| {
            for key in std::mem::take(recent) {
                if let Some(session) = sessions.get_mut(&key) {
                    session.mark(RECENT, false);
                    lots.add(now, key, session, false);
                }
            }
        });
        // Of the others there is only how they are.
        for crowd in self.crowds().iter().filter(|crowd| crowd.viewers_here() > 0 || crowd.sums().estimate > 0) {
            lots.0.entry(crowd.index).or_default();
        }
        lots.told(self)
    }

    /// All that a node has to know that knows nothing: the sessions here, and its own of before. `edges`: the numbers of nodes whose
    /// sessions are told as this node's.
    pub fn all_for(&self, now: Timestamp, node: u16, edges: &[u16]) -> Vec<Vec<TheirCrowd>> {
        let mut lots = Lots::default();
        self.each_shard(|shard| {
            for (key, session) in &shard.sessions {
                if session.home == HERE || session.home == node || edges.contains(&session.home) {
                    lots.add(now, *key, session, session.home == node);
                }
            }
        });
        lots.told(self)
    }

    /// Takes what a node tells of a crowd. `tell_on`: to be told to others.
    pub fn take(&self, now: Timestamp, node: u16, theirs: &TheirCrowd, tell_on: bool) {
        let Some(crowd) = self.crowd(&theirs.subject, now) else { return };
        crowd.hear(now, node, theirs.sums);
        let rungs: Vec<u8> = theirs.names.iter().map(|name| crowd.number(name)).collect();
        let Ok(records) = BASE64_STANDARD_NO_PAD.decode(&theirs.sessions) else { return };
        for record in records.chunks_exact(RECORD) {
            let key = u64::from_le_bytes(record[..8].try_into().expect("eight bytes"));
            let [rung, state, age, beat] = record[8..] else { continue };
            let seen = Timestamp(now.0.saturating_sub(u64::from(age) * 500_000));
            let presence = match state & !YOURS {
                1 => Presence::Watching,
                2 => Presence::Paused,
                _ => Presence::Gone,
            };
            let home = if state & YOURS != 0 { HERE } else { node };
            let mut shard = self.shard(key);
            let Shard { sessions, recent } = &mut *shard;
            let is_known = sessions.contains_key(&key);
            if !is_known && (presence == Presence::Gone || sessions.len() >= FOREIGN_MAX / SHARDS) {
                continue;
            }
            let session = sessions.entry(key).or_insert_with(|| {
                if home == HERE {
                    self.settle();
                }
                Session::foreign(seen, crowd.index, home)
            });
            // Of its own sessions a node knows more than others do.
            if is_known && (session.seen > seen || (session.home, home) == (HERE, HERE)) {
                continue;
            }
            self.count_out(session);
            session.presence = Presence::Gone;
            match (session.home, home) {
                (HERE, HERE) => {}
                (HERE, _) => self.release(session),
                (_, HERE) => self.settle(),
                _ => {}
            }
            (session.home, session.seen, session.crowd) = (home, seen, crowd.index);
            session.beat_s = beat.max(1).saturating_mul(5);
            let rung = usize::from(rung).checked_sub(1).and_then(|at| rungs.get(at)).copied().unwrap_or(0);
            session.set(&crowd, presence, rung);
            if tell_on && !session.is(RECENT) {
                session.mark(RECENT, true);
                recent.push(key);
            }
        }
    }
}
