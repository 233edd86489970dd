//! What waits to be delivered, and what could not be: decisions over an index in memory. Files are for whoever drives it. Pure.
//!
//! Each target has its own share, in which any delivery may go before any other: one that is tried again later holds up none.
//! Over a bound the oldest that is not under way is lost.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{backoff, event::Kind};
use crate::time::UnixMs;

/// What the queue puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Deliveries that may wait for one target, and their bytes.
    pub waiting: usize,
    pub bytes: usize,
    /// Dead letters of all targets, and their bytes.
    pub dead: usize,
    pub dead_bytes: usize,
    /// Deliveries to one target that are under way at the same time.
    pub at_once: usize,
    /// How long a delivery is tried before it is a dead letter.
    pub retry_for: Duration,
}

/// An event on its way to one target, as it is kept in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The target, by its name.
    pub target: String,
    pub kind: Kind,
    /// The event's id.
    pub event: String,
    pub body: String,
    pub told: UnixMs,
    /// Tries that failed.
    pub tries: u32,
    pub next: UnixMs,
    /// How the last one failed.
    pub why: String,
}

impl Delivery {
    pub fn new(target: &str, kind: Kind, event: String, body: String, now: UnixMs) -> Self {
        Self { target: target.into(), kind, event, body, told: now, tries: 0, next: now, why: String::new() }
    }

    fn bytes(&self) -> usize {
        self.body.len() + self.event.len() + self.why.len()
    }
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The receiver wants nothing any more (410).
    Gone,
    Failed {
        why: String,
        asked: Option<Duration>,
    },
}

/// Where a delivery's file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Waiting,
    Dead,
}

/// What is to be done with files, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Write(Place, u64, Delivery),
    Remove(Place, u64),
}

/// A dead letter cannot be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRetry {
    #[error("there is no such dead letter")]
    Unknown,
    #[error("its target is not configured any more")]
    NoTarget,
    #[error("its target has answered that it is gone (410); it is asked again when the node starts")]
    Off,
}

/// A target as people see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub waiting: usize,
    pub dead: usize,
    pub delivered: Option<UnixMs>,
    pub failed: Option<(UnixMs, String)>,
    /// It has said that it is gone.
    pub off: bool,
}

#[derive(Default)]
struct Target {
    name: String,
    /// What waits, oldest first, and when each is due; those under way are among the first alone.
    ids: BTreeSet<u64>,
    due: BTreeSet<(UnixMs, u64)>,
    bytes: usize,
    standing: Standing,
}

pub struct Queue {
    limits: Limits,
    targets: Vec<Target>,
    waiting: BTreeMap<u64, Delivery>,
    busy: HashSet<u64>,
    dead: BTreeMap<u64, Delivery>,
    dead_bytes: usize,
    next: u64,
    dropped: u64,
}

impl Queue {
    /// For targets of these names.
    pub fn new(limits: Limits, names: impl IntoIterator<Item = String>) -> Self {
        let targets = names.into_iter().map(|name| Target { name, ..Target::default() }).collect();
        let (waiting, dead) = (BTreeMap::new(), BTreeMap::new());
        Self { limits, targets, waiting, busy: HashSet::new(), dead, dead_bytes: 0, next: 0, dropped: 0 }
    }

    /// Takes what was kept in a file. What waits for a target that is no more is dead.
    pub fn restore(&mut self, place: Place, id: u64, mut delivery: Delivery, now: UnixMs) -> Vec<Change> {
        self.next = self.next.max(id + 1);
        let is_known = self.targets.iter().any(|target| target.name == delivery.target);
        match place {
            Place::Dead if self.waiting.contains_key(&id) || self.dead.contains_key(&id) => Vec::new(),
            Place::Dead => self.bury(id, delivery),
            // It died, and the crash came before its first file was gone.
            Place::Waiting if self.dead.contains_key(&id) => vec![Change::Remove(Place::Waiting, id)],
            Place::Waiting if is_known => {
                // A clock that was ahead does not hold it back for longer than a pause lasts.
                delivery.next =
                    delivery.next.min(UnixMs(now.0 + backoff::pause(u32::MAX, None, 1.0).as_millis() as i64));
                self.note(id, delivery);
                self.make_room(id)
            }
            Place::Waiting => {
                delivery.why = "its target is not configured any more".into();
                self.die(id, delivery)
            }
        }
    }

    /// Takes a new delivery. Nothing for a target that is gone.
    pub fn add(&mut self, delivery: Delivery, now: UnixMs) -> Vec<Change> {
        if self.of(&delivery.target).is_none_or(|target| target.standing.off) {
            return Vec::new();
        }
        // No id is given twice, not even to one that comes after a restart.
        let id = self.next.max(now.0.max(0) as u64);
        self.next = id + 1;
        self.note(id, delivery.clone());
        let mut changes = vec![Change::Write(Place::Waiting, id, delivery)];
        changes.extend(self.make_room(id));
        changes
    }

    /// Deliveries that were lost because there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next delivery that is due, and the number of its target.
    pub fn begin(&mut self, now: UnixMs) -> Option<(u64, usize, Delivery)> {
        let at_once = self.limits.at_once;
        let mut ready = self.targets.iter_mut().enumerate().filter(|(_, target)| target.is_ready(at_once));
        let (number, id) = ready.find_map(|(number, target)| {
            let first = *target.due.first().filter(|(at, _)| *at <= now)?;
            target.due.remove(&first);
            Some((number, first.1))
        })?;
        self.busy.insert(id);
        Some((id, number, self.waiting[&id].clone()))
    }

    /// When [`Queue::begin`] has something next, as far as it is known.
    pub fn deadline(&self) -> Option<UnixMs> {
        let ready = self.targets.iter().filter(|target| target.is_ready(self.limits.at_once));
        ready.filter_map(|target| target.due.first().map(|(at, _)| *at)).min()
    }

    /// A delivery that was begun has ended. `chance`: 0 to 1.
    pub fn settle(&mut self, id: u64, outcome: Outcome, now: UnixMs, chance: f64) -> Vec<Change> {
        self.busy.remove(&id);
        let Some(mut delivery) = self.forget(id) else { return Vec::new() };
        let target =
            self.targets.iter_mut().find(|target| target.name == delivery.target).expect("it was begun for it");
        match outcome {
            Outcome::Done => {
                target.standing.delivered = Some(now);
                vec![Change::Remove(Place::Waiting, id)]
            }
            Outcome::Gone => {
                target.standing.off = true;
                target.standing.failed = Some((now, "410 Gone".into()));
                vec![Change::Remove(Place::Waiting, id)]
            }
            Outcome::Failed { why, asked } => {
                target.standing.failed = Some((now, why.clone()));
                delivery.tries += 1;
                delivery.why = why;
                let pause = backoff::pause(delivery.tries, asked, chance);
                delivery.next = UnixMs(now.0 + pause.as_millis() as i64);
                if delivery.next.since(delivery.told) > self.limits.retry_for {
                    return self.die(id, delivery);
                }
                self.note(id, delivery.clone());
                vec![Change::Write(Place::Waiting, id, delivery)]
            }
        }
    }

    /// Dead letters, oldest first.
    pub fn dead(&self) -> &BTreeMap<u64, Delivery> {
        &self.dead
    }

    /// Has a dead letter tried again, at once and for as long as a new one.
    pub fn retry(&mut self, id: u64, now: UnixMs) -> Result<Vec<Change>, NoRetry> {
        let dead = self.dead.get(&id).ok_or(NoRetry::Unknown)?;
        if self.of(&dead.target).ok_or(NoRetry::NoTarget)?.standing.off {
            return Err(NoRetry::Off);
        }
        let dead = self.exhume(id).expect("it was there a moment ago");
        let again = Delivery { told: now, next: now, tries: 0, ..dead };
        self.note(id, again.clone());
        let mut changes = vec![Change::Write(Place::Waiting, id, again), Change::Remove(Place::Dead, id)];
        changes.extend(self.make_room(id));
        Ok(changes)
    }

    /// Forgets a dead letter. Nothing where there is none.
    pub fn delete(&mut self, id: u64) -> Option<Change> {
        self.exhume(id).map(|_| Change::Remove(Place::Dead, id))
    }

    /// How each target is, in their order.
    pub fn standings(&self) -> Vec<Standing> {
        let standing = |target: &Target| Standing {
            waiting: target.ids.len(),
            dead: self.dead.values().filter(|dead| dead.target == target.name).count(),
            ..target.standing.clone()
        };
        self.targets.iter().map(standing).collect()
    }

    fn of(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name == name)
    }

    fn note(&mut self, id: u64, delivery: Delivery) {
        let target = self.targets.iter_mut().find(|target| target.name == delivery.target).expect("looked for before");
        target.ids.insert(id);
        target.due.insert((delivery.next, id));
        target.bytes += delivery.bytes();
        self.waiting.insert(id, delivery);
    }

    fn forget(&mut self, id: u64) -> Option<Delivery> {
        let delivery = self.waiting.remove(&id)?;
        if let Some(target) = self.targets.iter_mut().find(|target| target.name == delivery.target) {
            target.ids.remove(&id);
            target.due.remove(&(delivery.next, id));
            target.bytes -= delivery.bytes();
        }
        Some(delivery)
    }

    /// Lets go of the oldest ones that wait for the same target as `id`, as long as there are too many.
    fn make_room(&mut self, id: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        let name = self.waiting[&id].target.clone();
        loop {
            let target = self.of(&name).expect("it was noted for it");
            if target.ids.len() <= self.limits.waiting && target.bytes <= self.limits.bytes {
                return changes;
            }
            let Some(oldest) = target.ids.iter().copied().find(|id| !self.busy.contains(id)) else { return changes };
            self.forget(oldest);
            self.dropped += 1;
            changes.push(Change::Remove(Place::Waiting, oldest));
        }
    }

    /// It is not tried any more.
    fn die(&mut self, id: u64, delivery: Delivery) -> Vec<Change> {
        let mut changes = vec![Change::Write(Place::Dead, id, delivery.clone()), Change::Remove(Place::Waiting, id)];
        changes.extend(self.bury(id, delivery));
        changes
    }

    /// Keeps it among the dead, of whom the oldest make room.
    fn bury(&mut self, id: u64, delivery: Delivery) -> Vec<Change> {
        self.dead_bytes += delivery.bytes();
        self.dead.insert(id, delivery);
        let mut changes = Vec::new();
        while self.dead.len() > self.limits.dead || self.dead_bytes > self.limits.dead_bytes {
            let Some(oldest) = self.dead.keys().next().copied() else { break };
            self.exhume(oldest);
            self.dropped += 1;
            changes.push(Change::Remove(Place::Dead, oldest));
        }
        changes
    }

    fn exhume(&mut self, id: u64) -> Option<Delivery> {
        let delivery = self.dead.remove(&id)?;
        self.dead_bytes -= delivery.bytes();
        Some(delivery)
    }
}

impl Target {
    fn is_ready(&self, at_once: usize) -> bool {
        // What waits and is not due is under way.
        !self.standing.off && self.ids.len() - self.due.len() < at_once
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
