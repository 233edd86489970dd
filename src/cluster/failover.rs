//! Which nodes make the chunks of one session: decided at its gateway.
//!
//! Pure. What is heard of nodes enters ([`Input`]), what to do leaves ([`Output`]); time is an argument. Every node that
//! makes the chunks is a follower first; one of them leads, that is, publishes. When the leader is lost the follower that is
//! furthest leads at once; when a follower is lost another takes its place. Two gateways, or two views of who lives, can
//! disagree: the epoch log of the store decides whose chunks count, this machine only sees to it that someone makes them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{id::Rendition, time::Timestamp};

/// A node's id.
pub type Node = Arc<str>;

/// A node that was lost is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// And one that stops after this.
const STOPS: Duration = Duration::from_secs(10);
/// A node that was told to lead does so within this, or another is told.
const LEADS_WITHIN: Duration = Duration::from_secs(3);
/// A leader that is behind its follower for so long does not work.
const BEHIND: Duration = Duration::from_millis(1000);
/// So many chunks are behind: the two do not list in the same instant.
const BEHIND_CHUNKS: u64 = 2;
/// A leader's encoder that has given nothing for so long, while its follower's goes on, does not work.
const STUCK: Duration = Duration::from_millis(750);
/// Encoders that starve on a busy machine move a stream no more often than this.
const STUCK_AGAIN: Duration = Duration::from_secs(10);
/// Encoders are compared where both nodes have done what they do for so long: one that catches up takes all the processor time there
/// is, and may take it from the other.
const STEADY: Duration = Duration::from_secs(5);
/// A stream is moved to the node that the ring prefers when that has been there for so long.
const SETTLED: Duration = Duration::from_secs(60);

/// What is heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Nodes that may make the chunks, the preferred first, and the one that publishes them now, as far as is known.
    Candidates { nodes: Vec<Node>, owner: Option<Node> },
    /// A node takes the feed, and is so far. `encoded`: the newest picture of each rendition that it encodes, 90 kHz.
    Standing { node: Node, leads: bool, k: Option<u64>, encoded: BTreeMap<Rendition, i64>, draining: bool },
    /// A node leads, as it was told.
    Led(Node),
    /// The way to a node is lost, or was never there.
    Lost(Node),
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send the feed to this node.
    Open(Node),
    /// Tell it to publish.
    Lead(Node),
    /// Tell it that another publishes now, and send it no more.
    Leave(Node),
    /// Send it no more.
    Close(Node),
}

#[derive(Debug, Default)]
struct Lane {
    /// When the way was opened.
    opened: Timestamp,
    open: bool,
    leads: bool,
    k: Option<u64>,
    encoded: BTreeMap<Rendition, i64>,
    draining: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Failover {
    /// Nodes that get the feed: one that leads, and the others.
    wanted: usize,
    candidates: Vec<Node>,
    lanes: BTreeMap<Node, Lane>,
    leader: Option<Node>,
    /// Who was told to lead, and when.
    told: Option<(Node, Timestamp)>,
    /// Nodes that are left alone until then.
    resting: BTreeMap<Node, Timestamp>,
    behind_since: Option<Timestamp>,
    /// The leader's renditions of which a follower has newer pictures: the leader's newest, and since when.
    passed: BTreeMap<Rendition, (i64, Timestamp)>,
    /// When a stuck encoder moved the lead.
    unstuck: Option<Timestamp>,
    /// Since when the leader leads.
    led: Timestamp,
    /// Since when the preferred node is another than the leader.
    preferred: Option<(Node, Timestamp)>,
    /// Some node has led.
    begun: bool,
    /// The newest chunk number that a node which leads has listed.
    listed: Option<u64>,
    /// When it last looked at everything.
    settled: Timestamp,
    outputs: VecDeque<Output>,
}

impl Failover {
    /// `standbys`: how many nodes make the chunks beside the one that leads.
    pub fn new(standbys: usize) -> Self {
        Self {
            wanted: 1 + standbys,
            candidates: Vec::new(),
            lanes: BTreeMap::new(),
            leader: None,
            told: None,
            resting: BTreeMap::new(),
            behind_since: None,
            passed: BTreeMap::new(),
            unstuck: None,
            led: Timestamp(0),
            preferred: None,
            begun: false,
            listed: None,
            settled: Timestamp(0),
            outputs: VecDeque::new(),
        }
    }

    /// The node that leads.
    pub fn leader(&self) -> Option<&Node> {
        self.leader.as_ref()
    }

    /// The newest chunk number that viewers were shown, as far as is known.
    pub fn listed(&self) -> Option<u64> {
        self.listed
    }

    /// The nodes that follow.
    pub fn standbys(&self) -> impl Iterator<Item = &Node> {
        self.lanes.iter().filter(|(node, lane)| lane.open && Some(*node) != self.leader.as_ref()).map(|(node, _)| node)
    }

    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Candidates { nodes, owner } => {
                // The first time, whoever has led since a session before goes on to.
                if !self.begun
                    && let Some(owner) = owner.filter(|owner| nodes.contains(owner) && !self.lanes.contains_key(owner))
                {
                    self.open(owner);
                }
                // Whoever was away is another process when it is back.
                self.resting.retain(|node, _| nodes.contains(node));
                self.candidates = nodes;
            }
            Input::Standing { node, leads, k, encoded, draining } => {
                if leads {
                    self.listed = self.listed.max(k);
                }
                if let Some(lane) = self.lanes.get_mut(&node) {
                    *lane = Lane { opened: lane.opened, open: true, leads, k, encoded, draining };
                }
            }
            Input::Led(node) => {
                if self.told.as_ref().is_some_and(|(told, _)| *told == node) {
                    self.told = None;
                    self.lead(now, node);
                }
            }
            Input::Lost(node) => self.lose(now, &node),
        }
        self.settle(now);
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Timestamp) {
        self.settle(now);
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Failover::tick`] has something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        let told = self.told.as_ref().map(|(_, at)| *at + LEADS_WITHIN);
        let behind = self.behind_since.map(|since| since + BEHIND);
        let stuck = self.passed.values().map(|(_, since)| *since + STUCK).min();
        let stuck = stuck.max(self.unstuck.map(|at| at + STUCK_AGAIN).filter(|_| stuck.is_some()));
        let rested = self.resting.values().min().copied().filter(|_| self.lanes.len() < self.wanted);
        let settled = self.preferred.as_ref().map(|(_, since)| *since + SETTLED);
        // What was due before and is still there waits for something else.
        [told, behind, stuck, rested, settled].into_iter().flatten().filter(|at| *at > self.settled).min()
    }

    fn lead(&mut self, now: Timestamp, node: Node) {
        if let Some(before) = self.leader.replace(node.clone())
            && before != node
            && let Some(lane) = self.lanes.remove(&before)
        {
            if lane.draining {
                self.resting.insert(before.clone(), now + STOPS);
            }
            self.outputs.push_back(Output::Leave(before));
        }
        if let Some(lane) = self.lanes.get_mut(&node) {
            lane.leads = true;
        }
        (self.behind_since, self.preferred, self.begun) = (None, None, true);
        self.passed.clear();
        self.led = now;
    }

    fn lose(&mut self, now: Timestamp, node: &Node) {
        if self.lanes.remove(node).is_none() {
            return;
        }
        self.resting.insert(node.clone(), now + AGAIN);
        if self.leader.as_ref() == Some(node) {
            self.leader = None;
        }
        if self.told.as_ref().is_some_and(|(told, _)| told == node) {
            self.told = None;
        }
    }

    fn give_up(&mut self, now: Timestamp, node: &Node) {
        if self.lanes.contains_key(node) {
            self.outputs.push_back(Output::Close(node.clone()));
            self.lose(now, node);
        }
    }

    fn tell(&mut self, now: Timestamp, node: Node) {
        self.told = Some((node.clone(), now));
        self.outputs.push_back(Output::Lead(node));
    }

    fn settle(&mut self, now: Timestamp) {
        self.settled = now;
        self.resting.retain(|_, until| *until > now);
        if let Some((node, at)) = self.told.clone()
            && now >= at + LEADS_WITHIN
        {
            self.give_up(now, &node);
        }
        self.fill();
        if self.told.is_some() {
            return;
        }
        match self.leader.clone() {
            None => {
                if let Some(node) = self.best() {
                    self.tell(now, node);
                }
            }
            Some(leader) => self.look_after(now, &leader),
        }
    }

    /// Opens ways to the nodes that are to have the feed, and closes those that others are to have once these are as far.
    fn fill(&mut self) {
        let of_choice = self.chosen();
        for node in &of_choice {
            // One more than is wanted, while it catches up.
            if !self.lanes.contains_key(node) && self.lanes.len() <= self.wanted.max(of_choice.len()) {
                self.open(node.clone());
            }
        }
        let far = self.leader.as_ref().and_then(|leader| self.lanes.get(leader)).and_then(|lane| lane.k);
        let ready = |node: &Node| self.lanes.get(node).is_some_and(|lane| lane.open && lane.k >= far);
        if self.leader.is_none() || self.lanes.len() <= of_choice.len() || !of_choice.iter().all(ready) {
            return;
        }
        let stays = |node: &Node| of_choice.contains(node) || self.told.as_ref().is_some_and(|(told, _)| told == node);
        let spare: Vec<_> = self.lanes.keys().filter(|node| !stays(node)).cloned().collect();
        for node in spare {
            self.lanes.remove(&node);
            self.outputs.push_back(Output::Leave(node));
        }
    }

    /// The nodes that are to have the feed: the one that leads, and the preferred ones beside it.
    fn chosen(&self) -> Vec<Node> {
        let leader = self.leader.iter();
        let others = self.candidates.iter().filter(|node| Some(*node) != self.leader.as_ref());
        let others = others.filter(|node| !self.resting.contains_key(*node));
        // One that is to take over is fed first, also where none stands by.
        let is_moving = self.preferred.as_ref().is_some_and(|(_, since)| self.settled >= *since + SETTLED);
        let drains = self.leader.as_ref().and_then(|leader| self.lanes.get(leader)).is_some_and(|lane| lane.draining);
        let wanted = if is_moving || drains { self.wanted.max(2) } else { self.wanted };
        leader.chain(others).take(wanted).cloned().collect()
    }

    fn open(&mut self, node: Node) {
        self.lanes.insert(node.clone(), Lane { opened: self.settled, ..Lane::default() });
        self.outputs.push_back(Output::Open(node));
    }

    /// Who is to lead: one that does already, the one that is furthest, or the preferred one. The first time it waits to hear
    /// of all: one of them may lead since a session before.
    fn best(&self) -> Option<Node> {
        if !self.begun && self.lanes.values().any(|lane| !lane.open) {
            return None;
        }
        let open = self.lanes.iter().filter(|(_, lane)| lane.open);
        let best = open.max_by_key(|(node, lane)| (lane.leads, lane.k, !lane.draining, self.rank(node)));
        best.map(|(node, _)| node.clone())
    }

    /// Greater is preferred.
    fn rank(&self, node: &Node) -> std::cmp::Reverse<usize> {
        std::cmp::Reverse(self.candidates.iter().position(|other| other == node).unwrap_or(usize::MAX))
    }

    /// Moves the lead away from a node that does not work, is to stop, or is not the preferred one.
    fn look_after(&mut self, now: Timestamp, leader: &Node) {
        let Some(lane) = self.lanes.get(leader) else { return };
        let (k, draining) = (lane.k, lane.draining);
        let others = || self.lanes.iter().filter(|(node, lane)| *node != leader && lane.open);
        let furthest = others().filter_map(|(node, lane)| Some((lane.k?, node.clone()))).max();
        let is_behind = furthest.as_ref().is_some_and(|(far, _)| k.is_none_or(|k| k + BEHIND_CHUNKS <= *far));
        self.behind_since = is_behind.then(|| self.behind_since.unwrap_or(now));
        if let Some((_, far)) = furthest
            && self.behind_since.is_some_and(|since| now >= since + BEHIND)
        {
            self.behind_since = None;
            self.give_up(now, leader);
            self.tell(now, far);
            return;
        }
        if let Some(node) = self.unstick(now, leader) {
            self.unstuck = Some(now);
            self.tell(now, node);
            return;
        }
        let others = || self.lanes.iter().filter(|(node, lane)| *node != leader && lane.open);
        let caught_up =
            |lane: &Lane| lane.open && !lane.draining && k.is_none_or(|k| lane.k.is_some_and(|far| far >= k));
        if draining {
            let ready = others().find(|(_, lane)| caught_up(lane)).map(|(node, _)| node.clone());
            if let Some(node) = ready {
                self.tell(now, node);
            }
            return;
        }
        let preferred = self.candidates.first().filter(|node| *node != leader).cloned();
        self.preferred = preferred.map(|node| match self.preferred.take() {
            Some((before, since)) if before == node => (node, since),
            _ => (node, now),
        });
        let Some((node, since)) = self.preferred.clone() else { return };
        if now < since + SETTLED {
            return;
        }
        if self.lanes.get(&node).is_some_and(caught_up) {
            self.tell(now, node);
        }
    }

    /// The follower that is to lead because an encoder of the leader is stuck and its own is not.
    fn unstick(&mut self, now: Timestamp, leader: &Node) -> Option<Node> {
        let lane = self.lanes.get(leader)?;
        if now - self.led < STEADY {
            return None;
        }
        let is_steady = |lane: &Lane| lane.open && !lane.draining && now - lane.opened >= STEADY;
        let others = || self.lanes.iter().filter(|(node, lane)| *node != leader && is_steady(lane));
        let passes = |lane: &Lane, rendition, at| lane.encoded.get(rendition).is_some_and(|far| *far > at);
        let passed =
            lane.encoded.iter().filter(|(rendition, at)| others().any(|(_, lane)| passes(lane, *rendition, **at)));
        let since = |rendition, at| {
            self.passed.get(rendition).filter(|(before, _)| *before == at).map_or(now, |(_, since)| *since)
        };
        let passed = passed.map(|(rendition, at)| (rendition.clone(), (*at, since(rendition, *at)))).collect();
        self.passed = passed;
        if self.unstuck.is_some_and(|at| now < at + STUCK_AGAIN) {
            return None;
        }
        let (rendition, (at, _)) = self.passed.iter().find(|(_, (_, since))| now >= *since + STUCK)?;
        let able = others().filter(|(_, other)| passes(other, rendition, *at) && other.k >= lane.k);
        able.max_by_key(|(_, other)| other.k).map(|(node, _)| node.clone())
    }
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
