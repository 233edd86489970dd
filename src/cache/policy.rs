//! Who is asked for an object, when someone else is, and how long an answer counts. Pure: time is an argument.
//!
//! [`Plan`] is one fill's course. It begins with the best upstream, asks the other one when the first is slow (hedge), goes on
//! where a broken one stopped (Range), replaces one that is stuck once, and gives up with the reason that all waiters
//! share. Durations are fractions of the chunk duration `D`, so that a viewer's buffer outlasts every case.

use std::{sync::Arc, time::Duration};

use crate::time::Timestamp;

/// A body slower than this over a whole `D` is stuck, bytes per second: less than any rendition needs.
const SLOW: u64 = 4 << 10;
/// A second request goes out after so much of `D` without an answer.
const HEDGE: u32 = 4;

/// Why an object did not come: shared by all who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub why: Why,
    /// The words of the upstream, where it had some.
    pub detail: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No upstream has it.
    NotFound,
    /// It was deleted: asking elsewhere does not help.
    Gone,
    /// The request cannot be followed (400): asking elsewhere does not help.
    Refused,
    /// The upstream held the request and nothing came, or it has no room (503).
    Unavailable,
    /// An upstream could not be reached, broke off, or answered what makes no sense.
    Broken,
    /// No upstream answered in time.
    Late,
    /// This node has no room for another fill.
    Busy,
}

impl Why {
    /// A word for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Why::NotFound => "not_found",
            Why::Gone => "gone",
            Why::Refused => "refused",
            Why::Unavailable => "unavailable",
            Why::Broken => "broken",
            Why::Late => "late",
            Why::Busy => "busy",
        }
    }
}

impl Failure {
    pub fn new(why: Why, detail: impl Into<Arc<str>>) -> Self {
        Self { why, detail: detail.into() }
    }

    /// How long it is answered without asking again. `soon`: it may be there any moment. `random` in 0..1 spreads the questions
    /// of many nodes.
    pub fn keep(&self, soon: bool, random: f64) -> Duration {
        match self.why {
            Why::NotFound if soon => Duration::from_millis(30 + (random.clamp(0.0, 1.0) * 40.0) as u64),
            Why::NotFound | Why::Gone => Duration::from_secs(1),
            Why::Busy => Duration::ZERO,
            Why::Refused | Why::Unavailable | Why::Broken | Why::Late => {
                Duration::from_millis(100 + (random.clamp(0.0, 1.0) * 400.0) as u64)
            }
        }
    }
}

/// What bounds a plan.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Duration of a chunk.
    pub chunk: Duration,
    /// How long the upstream may hold the request by right, before it answers.
    pub hold: Duration,
}

/// One request to one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub id: usize,
    pub upstream: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The upstream has it: its body follows.
    Head(usize),
    /// So many bytes of the body came.
    Bytes(usize, usize),
    /// An attempt ended without the (whole) object.
    Failed(usize, Failure),
    /// An upstream is gone: what is asked of it will not come.
    Down(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask, for the bytes after those that are there.
    Start(Attempt),
    /// No longer wait for this attempt.
    Stop(usize),
    GiveUp(Failure),
}

struct Running {
    attempt: Attempt,
    since: Timestamp,
}

/// The course of one fill.
pub struct Plan {
    rules: Rules,
    /// Upstreams that have not been asked, the best one last.
    untried: Vec<usize>,
    upstreams: usize,
    attempts: usize,
    running: Vec<Running>,
    /// The attempt whose body is taken.
    chosen: Option<usize>,
    /// Since when an answer is waited for: the beginning, or when an attempt that had answered was replaced.
    begun: Timestamp,
    /// Bytes of the running window of `D`, and when it ends.
    window: (usize, Timestamp),
    hedged: bool,
    replaced: bool,
    resumed: bool,
    /// The most telling failure so far.
    failure: Option<Failure>,
    over: bool,
    outputs: std::collections::VecDeque<Output>,
}

impl Plan {
    /// `upstreams` in the order in which they should be asked; at least one.
    pub fn new(rules: Rules, upstreams: &[usize], now: Timestamp) -> Self {
        let mut plan = Self {
            rules,
            untried: upstreams.iter().rev().copied().collect(),
            upstreams: upstreams.len(),
            attempts: 0,
            running: Vec::new(),
            chosen: None,
            begun: now,
            window: (0, now),
            hedged: false,
            replaced: false,
            resumed: false,
            failure: None,
            over: false,
            outputs: Default::default(),
        };
        match plan.untried.pop() {
            Some(first) => plan.start(first, now),
            None => plan.give_up(Failure::new(Why::Unavailable, "no upstream has been reached yet")),
        }
        plan
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn handle(&mut self, now: Timestamp, input: Input) {
        if self.over {
            return;
        }
        match input {
            Input::Head(id) => {
                self.chosen = Some(id);
                self.window = (0, now + self.rules.chunk);
                for other in self.take(|running| running.attempt.id != id) {
                    self.outputs.push_back(Output::Stop(other.id));
                    // It was only slower: it can go on where this one breaks off.
                    self.untried.push(other.upstream);
                }
            }
            Input::Bytes(id, bytes) if self.chosen == Some(id) => self.window.0 += bytes,
            Input::Bytes(..) => {}
            Input::Failed(id, failure) => {
                if let Some(attempt) = self.take(|running| running.attempt.id == id).pop() {
                    self.failed(now, attempt, failure);
                }
            }
            Input::Down(upstream) => {
                // With nobody else to ask it may yet answer: only the word of its being alive is missing.
                if self.upstreams > 1 {
                    for attempt in self.take(|running| running.attempt.upstream == upstream) {
                        self.outputs.push_back(Output::Stop(attempt.id));
                        self.failed(now, attempt, Failure::new(Why::Broken, "the upstream is gone"));
                    }
                }
            }
        }
    }

    /// When [`Plan::expire`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.over {
            return None;
        }
        match self.chosen {
            Some(_) => Some(self.window.1),
            None => [self.hedge_at(), self.replace_at(), Some(self.total_at())].into_iter().flatten().min(),
        }
    }

    /// What is due by now.
    pub fn expire(&mut self, now: Timestamp) {
        if self.over {
            return;
        }
        if let Some(chosen) = self.chosen {
            if now >= self.window.1 {
                let slow = (self.window.0 as u64) < SLOW * self.rules.chunk.as_millis() as u64 / 1000;
                let dead = self.window.0 == 0;
                self.window = (0, now + self.rules.chunk);
                if slow && !self.replaced {
                    self.again(now);
                    self.replace(now, chosen);
                } else if dead {
                    self.stop(chosen);
                    self.give_up(Failure::new(Why::Late, "the upstream stopped in the middle"));
                }
            }
            return;
        }
        if now >= self.total_at() {
            for attempt in self.take(|_| true) {
                self.outputs.push_back(Output::Stop(attempt.id));
            }
            let late = Failure::new(Why::Late, "no upstream answered in time");
            let failure = self.failure.take().filter(|failure| failure.why != Why::NotFound).unwrap_or(late);
            self.give_up(failure);
            return;
        }
        if self.replace_at().is_some_and(|at| now >= at) {
            let stuck = self.running[0].attempt.id;
            self.replace(now, stuck);
        } else if self.hedge_at().is_some_and(|at| now >= at) {
            self.hedged = true;
            if let Some(other) = self.untried.pop() {
                self.start(other, now);
            }
        }
    }

    fn hedge_at(&self) -> Option<Timestamp> {
        let [only] = &self.running[..] else { return None };
        let possible = !self.hedged && !self.untried.is_empty();
        possible.then(|| only.since + self.rules.hold + self.rules.chunk / HEDGE)
    }

    fn replace_at(&self) -> Option<Timestamp> {
        let oldest = self.running.first().filter(|_| !self.replaced)?;
        Some(oldest.since + self.rules.hold + self.rules.chunk)
    }

    fn total_at(&self) -> Timestamp {
        self.begun + self.rules.hold + self.rules.chunk * 2
    }

    /// Puts a new attempt in the place of a stuck one, for once: the hedge, where there is one.
    fn replace(&mut self, now: Timestamp, stuck: usize) {
        self.replaced = true;
        let upstream = self.stop(stuck);
        if self.running.is_empty() {
            let next = self.untried.pop().unwrap_or(upstream);
            self.start(next, now);
        }
    }

    /// The object was on its way: whoever goes on has as much time as the first had, and no reason to hold the request.
    fn again(&mut self, now: Timestamp) {
        self.begun = now;
        self.rules.hold = Duration::ZERO;
    }

    fn stop(&mut self, id: usize) -> usize {
        let stopped = self.take(|running| running.attempt.id == id).pop();
        self.outputs.push_back(Output::Stop(id));
        self.chosen = self.chosen.filter(|chosen| *chosen != id);
        stopped.expect("what is stopped was running").upstream
    }

    fn failed(&mut self, now: Timestamp, attempt: Attempt, failure: Failure) {
        let broke_off = self.chosen == Some(attempt.id);
        if broke_off {
            self.chosen = None;
            self.again(now);
        }
        let final_word = matches!(failure.why, Why::Gone | Why::Refused | Why::Busy);
        // "Not there" says less than any other failure: another upstream may have had it.
        if self.failure.as_ref().is_none_or(|before| before.why == Why::NotFound) {
            self.failure = Some(failure.clone());
        }
        if final_word {
            for other in self.take(|_| true) {
                self.outputs.push_back(Output::Stop(other.id));
            }
            return self.give_up(failure);
        }
        if !self.running.is_empty() {
            return;
        }
        if let Some(next) = self.untried.pop() {
            return self.start(next, now);
        }
        // Nobody else: one that broke off in the middle is asked for the rest, once.
        if broke_off && !self.resumed {
            self.resumed = true;
            return self.start(attempt.upstream, now);
        }
        let failure = self.failure.take().unwrap_or(failure);
        self.give_up(failure);
    }

    fn start(&mut self, upstream: usize, now: Timestamp) {
        let attempt = Attempt { id: self.attempts, upstream };
        self.attempts += 1;
        self.running.push(Running { attempt, since: now });
        self.outputs.push_back(Output::Start(attempt));
    }

    fn take(&mut self, which: impl Fn(&Running) -> bool) -> Vec<Attempt> {
        self.running.extract_if(.., |running| which(running)).map(|running| running.attempt).collect()
    }

    fn give_up(&mut self, failure: Failure) {
        self.over = true;
        self.outputs.push_back(Output::GiveUp(failure));
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
