//! What to do about a transcoder child: what it was given and what it said enter, orders and events leave. A sans-IO machine,
//! driven by [`super::supervisor`].
//!
//! Each rung knows the next chunk it lacks. A child that dies, hangs or talks nonsense is replaced, and the new one begins
//! where any rung lacks a chunk; what a rung already has is thrown away. A child that falls behind loses rungs.

use std::{collections::VecDeque, time::Duration};

use super::{Rung, budget};
use crate::{
    id::Rendition,
    media::{Packet, VIDEO_TIMESCALE, VideoConfig},
    time::Timestamp,
};

/// What the line is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Item {
        rung: Rendition,
        item: Item,
    },
    /// Encoding went down and comes back from chunk `from_k`: throw away each rung's unfinished chunk, it comes again
    /// whole or, where the ring no longer holds its input, not at all.
    Restarted {
        from_k: u64,
    },
    /// The node could not carry this rung any longer; its `End` follows, at a chunk's end.
    Shed {
        rung: Rendition,
    },
}

/// One item of one rung. Its first packet, and the first after [`Event::Restarted`], carries a mark.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Config(VideoConfig),
    Packet(Packet),
    End { at: i64 },
}

#[derive(Debug)]
pub enum Input {
    /// The ring's newest picture.
    Head { pts: i64 },
    /// The ring's oldest chunk.
    Oldest { k: u64 },
    /// A packet is offered to the child, which may take its time.
    Offered { dts: i64 },
    /// The child has taken it.
    Taken,
    /// The whole input is with the child; it only has to finish. The media ends at `at`.
    Finished { at: i64 },
    /// The line has no use for this rung.
    Drop { rung: Rendition },
    /// The child said this on this channel.
    Said { channel: u8, item: Item },
    /// The child is gone, or what it says cannot be understood and it counts as gone.
    Gone,
}

#[derive(Debug, PartialEq)]
pub enum Output {
    /// Start a child with the rungs at these places of the ladder, and feed it from chunk `from_k`.
    Start {
        from_k: u64,
        rungs: Vec<usize>,
    },
    /// Kill the child; [`Input::Gone`] follows.
    Kill,
    /// Tell the child to stop a channel.
    Drop {
        channel: u8,
    },
    Emit(Event),
    /// Nothing is left to do.
    Done,
}

/// On top of a chunk's length, the time a child may stay silent.
const HANG_EXTRA: Duration = Duration::from_secs(1);
/// More for the first word: a cold machine reads plugins from disk, a dozen children at once.
const START_EXTRA: Duration = Duration::from_secs(9);
/// Media a child may hold inside without owing anything.
const INSIDE: i64 = VIDEO_TIMESCALE as i64;
/// Time a child must stay behind before it loses a rung.
const BEHIND_FOR: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Children spent on finishing an ended input before it is let go.
const FINISH_TRIES: u32 = 3;

#[derive(Debug)]
struct RungState {
    rung: Rung,
    /// The next chunk this rung is to begin.
    next_k: u64,
    /// The chunk being received; its packets are passed on.
    open: bool,
    shed: bool,
    ended: bool,
}

#[derive(Debug, PartialEq)]
enum Child {
    /// To be started at this time.
    Due(Timestamp),
    Running,
    Killed,
    Done,
}

pub struct Recovery {
    rungs: Vec<RungState>,
    chunk: Duration,
    child: Child,
    /// Place in the ladder of each channel of this child.
    channels: Vec<usize>,
    oldest: u64,
    head: i64,
    finished: Option<i64>,
    started: bool,
    spoke: bool,
    /// Failures since a chunk was last begun.
    failures: u32,
    /// Since when the child owes output, and the decode time offered then.
    owes: Option<(Timestamp, i64)>,
    offered: i64,
    offering: bool,
    last_out: Option<i64>,
    /// Since when the child is behind, and its lag then.
    behind: Option<(Timestamp, i64)>,
    out: VecDeque<Output>,
}

impl Recovery {
    /// Begins with chunk `start_k`. `chunk` is the chunks' nominal length.
    pub fn new(now: Timestamp, rungs: &[Rung], start_k: u64, chunk: Duration) -> Self {
        let state = |r: &Rung| RungState { rung: r.clone(), next_k: start_k, open: false, shed: false, ended: false };
        Self {
            rungs: rungs.iter().map(state).collect(),
            chunk,
            child: Child::Due(now),
            channels: Vec::new(),
            oldest: 0,
            head: i64::MIN,
            finished: None,
            started: false,
            spoke: false,
            failures: 0,
            owes: None,
            offered: 0,
            offering: false,
            last_out: None,
            behind: None,
            out: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Recovery::tick`] has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.child {
            Child::Due(at) => Some(at),
            Child::Running => {
                let hang = self.owes.map(|(since, _)| since + self.patience());
                let behind = self.behind.map(|(since, _)| since + BEHIND_FOR);
                hang.into_iter().chain(behind).min()
            }
            Child::Killed | Child::Done => None,
        }
    }

    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Head { pts } => {
                self.head = self.head.max(pts);
                self.note_lag(now);
            }
            Input::Oldest { k } => self.oldest = k,
            Input::Offered { dts } => {
                self.offered = dts;
                self.offering = true;
                self.owes.get_or_insert((now, dts));
            }
            Input::Taken => self.offering = false,
            Input::Finished { at } => {
                self.finished = Some(at);
                self.owes.get_or_insert((now, self.offered));
            }
            Input::Drop { rung } => self.drop_rung(&rung),
            Input::Said { channel, item } => self.said(now, channel, item),
            Input::Gone => self.gone(now),
        }
        self.tick(now);
    }

    /// Does what is due by the clock.
    pub fn tick(&mut self, now: Timestamp) {
        match self.child {
            Child::Due(at) if at <= now => self.start(),
            Child::Running => {
                if let Some((since, dts)) = self.owes.filter(|(since, _)| *since + self.patience() <= now) {
                    if self.offering || self.finished.is_some() || self.offered - dts >= INSIDE {
                        self.child = Child::Killed;
                        self.out.push_back(Output::Kill);
                        return;
                    }
                    // The input stopped, not the child: look again when there is more.
                    self.owes = Some((now.max(since), dts));
                }
                self.shed_if_behind(now);
            }
            _ => {}
        }
    }

    fn patience(&self) -> Duration {
        self.chunk + HANG_EXTRA + if self.spoke { Duration::ZERO } else { START_EXTRA }
    }

    fn start(&mut self) {
        self.channels = (0..self.rungs.len()).filter(|&i| !self.rungs[i].shed && !self.rungs[i].ended).collect();
        let Some(wanted) = self.channels.iter().map(|&i| self.rungs[i].next_k).min() else { return self.done() };
        let from_k = wanted.max(self.oldest);
        if self.started {
            self.out.push_back(Output::Emit(Event::Restarted { from_k }));
        }
        self.started = true;
        self.spoke = false;
        self.child = Child::Running;
        (self.owes, self.behind, self.offering, self.last_out) = (None, None, false, None);
        self.offered = 0;
        self.out.push_back(Output::Start { from_k, rungs: self.channels.clone() });
    }

    fn drop_rung(&mut self, rung: &Rendition) {
        let Some(place) = self.rungs.iter().position(|r| r.rung.name == *rung && !r.shed && !r.ended) else { return };
        self.rungs[place].shed = true;
        if let Some(channel) = self.channels.iter().position(|&p| p == place).filter(|_| self.child == Child::Running) {
            self.out.push_back(Output::Drop { channel: channel as u8 });
        }
    }

    fn done(&mut self) {
        if self.child != Child::Done {
            self.child = Child::Done;
            self.out.push_back(Output::Done);
        }
    }

    fn said(&mut self, now: Timestamp, channel: u8, item: Item) {
        if self.child != Child::Running {
            return;
        }
        let Some(&place) = self.channels.get(usize::from(channel)) else {
            self.child = Child::Killed;
            return self.out.push_back(Output::Kill);
        };
        self.spoke = true;
        self.owes = None;
        let state = &mut self.rungs[place];
        if state.ended {
            return;
        }
        let pass = match &item {
            Item::Config(_) => true,
            Item::End { .. } => {
                state.ended = true;
                true
            }
            Item::Packet(packet) => {
                self.last_out = Some(self.last_out.map_or(packet.pts, |last| last.max(packet.pts)));
                if let Some(k) = packet.mark {
                    // A second chunk of this child: it works.
                    if state.open {
                        self.failures = 0;
                    }
                    state.open = k >= state.next_k;
                    if state.open {
                        state.next_k = k + 1;
                    }
                }
                state.open
            }
        };
        if pass {
            let rung = state.rung.name.clone();
            self.out.push_back(Output::Emit(Event::Item { rung, item }));
        }
        self.note_lag(now);
    }

    fn gone(&mut self, now: Timestamp) {
        if self.child == Child::Done {
            return;
        }
        for rung in self.rungs.iter_mut().filter(|r| r.open && !r.ended) {
            // Its last chunk may lack its end.
            rung.next_k -= 1;
            rung.open = false;
        }
        // A rung that was to stop has, now; its last whole chunk ended where the next would have begun, which only the
        // line knows.
        let head = self.finished.unwrap_or(self.head);
        for rung in self.rungs.iter_mut().filter(|r| r.shed && !r.ended) {
            rung.ended = true;
            let rung = rung.rung.name.clone();
            self.out.push_back(Output::Emit(Event::Item { rung, item: Item::End { at: head } }));
        }
        if self.rungs.iter().all(|r| r.ended) {
            return self.done();
        }
        self.failures += 1;
        if let Some(at) = self.finished.filter(|_| self.failures >= FINISH_TRIES) {
            for rung in self.rungs.iter_mut().filter(|r| !r.ended) {
                rung.ended = true;
                let rung = rung.rung.name.clone();
                self.out.push_back(Output::Emit(Event::Item { rung, item: Item::End { at } }));
            }
            return self.done();
        }
        let wait = match self.failures {
            0 | 1 => Duration::ZERO,
            n => (BACKOFF_MIN * 2u32.saturating_pow(n - 2)).min(BACKOFF_MAX),
        };
        self.child = Child::Due(now + wait);
    }

    /// The rungs that the child encodes.
    pub fn active(&self) -> Vec<Rung> {
        let running = self.channels.iter().map(|&place| &self.rungs[place]).filter(|r| !r.shed && !r.ended);
        running.map(|r| r.rung.clone()).collect()
    }

    /// Tells if the child keeps up with real time, so that what it takes is what real time costs.
    pub fn steady(&self) -> bool {
        self.child == Child::Running && self.spoke && self.behind.is_none() && self.finished.is_none()
    }

    fn lag(&self) -> i64 {
        self.last_out.map_or(0, |out| self.head.saturating_sub(out))
    }

    fn note_lag(&mut self, now: Timestamp) {
        let limit = (self.chunk.as_micros() as i64 * 3 / 2) * i64::from(VIDEO_TIMESCALE) / 1_000_000;
        if self.child == Child::Running && self.finished.is_none() && self.lag() > limit {
            let lag = self.lag();
            self.behind.get_or_insert((now, lag));
        } else {
            self.behind = None;
        }
    }

    fn shed_if_behind(&mut self, now: Timestamp) {
        let Some((since, lag)) = self.behind.filter(|(since, _)| *since + BEHIND_FOR <= now) else { return };
        self.behind = Some((now, self.lag()));
        // One that says nothing at all may hang, and is judged as such.
        if self.owes.is_some_and(|(since, _)| since + HANG_EXTRA <= now) {
            return;
        }
        // Catching up after a restart is being behind, too, but less so with each second.
        let gained = Duration::from_micros(((lag - self.lag()).max(0) * 1_000_000 / i64::from(VIDEO_TIMESCALE)) as u64);
        if gained * 4 >= now - since {
            return;
        }
        let active: Vec<usize> = (0..self.channels.len())
            .filter(|&c| {
                let r = &self.rungs[self.channels[c]];
                !r.shed && !r.ended
            })
            .collect();
        let rungs: Vec<Rung> = active.iter().map(|&c| self.rungs[self.channels[c]].rung.clone()).collect();
        if let Some(i) = budget::least_valuable(&rungs) {
            let channel = active[i];
            self.rungs[self.channels[channel]].shed = true;
            self.out.push_back(Output::Drop { channel: channel as u8 });
            self.out.push_back(Output::Emit(Event::Shed { rung: rungs[i].name.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::Track;

    const CHUNK: Duration = Duration::from_secs(2);
    const TICKS: i64 = 180_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp(ms * 1000)
    }

    fn rungs() -> Vec<Rung> {
        let rung = |name: &str, height, bitrate_kbps| Rung {
            name: Rendition::new(name).unwrap(),
            width: height,
            height,
            fps_max: None,
            bitrate_kbps,
        };
        vec![rung("480p", 480, 1200), rung("160p", 160, 250)]
    }

    fn packet(pts: i64, mark: Option<u64>) -> Item {
        Item::Packet(Packet { track: Track::Video, pts, dts: pts, key: mark.is_some(), mark, payload: Bytes::new() })
    }

    fn chunk(k: u64) -> Item {
        packet(k as i64 * TICKS, Some(k))
    }

    fn drain(m: &mut Recovery) -> Vec<Output> {
        std::iter::from_fn(|| m.poll()).collect()
    }

    /// Short text of what a machine did: `480p:7` is chunk 7's first packet, `480p.` any other.
    fn show(outputs: &[Output]) -> String {
        let one = |o: &Output| match o {
            Output::Emit(Event::Item { rung, item: Item::Packet(p) }) => {
                p.mark.map_or(format!("{rung}."), |k| format!("{rung}:{k}"))
            }
            Output::Emit(Event::Item { rung, item: Item::End { at } }) => format!("{rung} ends {}", at / TICKS),
            Output::Emit(Event::Item { rung, .. }) => format!("{rung} config"),
            Output::Emit(Event::Restarted { from_k }) => format!("restarted {from_k}"),
            Output::Emit(Event::Shed { rung }) => format!("shed {rung}"),
            Output::Start { from_k, rungs } => format!("start {from_k} {rungs:?}"),
            Output::Kill => "kill".into(),
            Output::Drop { channel } => format!("drop {channel}"),
            Output::Done => "done".into(),
        };
        outputs.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn started(k: u64) -> Recovery {
        let mut m = Recovery::new(at(0), &rungs(), k, CHUNK);
        m.tick(at(0));
        assert_eq!(show(&drain(&mut m)), format!("start {k} [0, 1]"));
        m
    }

    fn say(m: &mut Recovery, now: u64, channel: u8, item: Item) {
        m.handle(at(now), Input::Said { channel, item });
    }

    #[test]
    fn a_dead_child_is_replaced_from_the_first_chunk_that_lacks_its_end() {
        let mut m = started(5);
        for (channel, k) in [(0, 5), (1, 5), (0, 6)] {
            say(&mut m, 10, channel, chunk(k));
        }
        drain(&mut m);
        m.handle(at(20), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "restarted 5, start 5 [0, 1]", "at once");
        for (channel, k) in [(0, 5), (1, 5), (0, 6), (1, 6)] {
            say(&mut m, 30, channel, chunk(k));
            say(&mut m, 30, channel, packet(1, None));
        }
        assert_eq!(show(&drain(&mut m)), "160p:5, 160p., 480p:6, 480p., 160p:6, 160p.", "480p had its chunk 5 whole");
    }

    #[test]
    fn what_the_ring_no_longer_holds_is_let_go() {
        let mut m = started(5);
        say(&mut m, 10, 0, chunk(5));
        drain(&mut m);
        m.handle(at(20), Input::Oldest { k: 9 });
        m.handle(at(20), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "restarted 9, start 9 [0, 1]");
        say(&mut m, 30, 0, chunk(9));
        assert_eq!(show(&drain(&mut m)), "480p:9");
    }

    #[test]
    fn a_child_that_keeps_dying_is_restarted_ever_more_slowly() {
        let mut m = started(0);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..9 {
            m.handle(at(now), Input::Gone);
            let due = m.deadline().map_or(now, |t| t.0 / 1000);
            waits.push(due.max(now) - now);
            now = due.max(now);
            m.tick(at(now));
            assert!(show(&drain(&mut m)).ends_with("start 0 [0, 1]"));
        }
        assert_eq!(waits, [0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        say(&mut m, now, 0, chunk(0));
        say(&mut m, now, 0, chunk(1));
        drain(&mut m);
        m.handle(at(now), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "restarted 0, start 0 [0, 1]", "it worked in between; 160p has nothing yet");
    }

    #[test]
    fn silence_is_a_hang_only_while_input_flows() {
        let mut m = started(0);
        say(&mut m, 0, 0, chunk(0));
        drain(&mut m);
        m.handle(at(100), Input::Offered { dts: 0 });
        m.handle(at(100), Input::Taken);
        assert_eq!(m.deadline(), Some(at(3100)));
        m.tick(at(3100));
        assert_eq!(show(&drain(&mut m)), "", "the input stopped");
        m.handle(at(4000), Input::Offered { dts: 2 * TICKS });
        m.handle(at(4000), Input::Taken);
        m.tick(at(6099));
        assert_eq!(show(&drain(&mut m)), "");
        m.tick(at(6100));
        assert_eq!(show(&drain(&mut m)), "kill");
        say(&mut m, 6101, 0, packet(1, None));
        m.handle(at(6200), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "restarted 0, start 0 [0, 1]");

        m.handle(at(6300), Input::Offered { dts: 0 });
        m.tick(at(6300 + 11_999));
        assert_eq!(show(&drain(&mut m)), "", "the first word may take long");
        m.tick(at(6300 + 12_000));
        assert_eq!(show(&drain(&mut m)), "kill", "a full pipe is input that flows");
    }

    #[test]
    fn an_unknown_channel_is_nonsense() {
        let mut m = started(0);
        say(&mut m, 0, 9, chunk(0));
        assert_eq!(show(&drain(&mut m)), "kill");
    }

    #[test]
    fn a_child_that_stays_behind_loses_its_least_valuable_rung() {
        let mut m = started(0);
        say(&mut m, 0, 0, chunk(0));
        drain(&mut m);
        m.handle(at(1000), Input::Head { pts: 2 * TICKS });
        // Catching up: half a second gained in each second.
        m.handle(at(4000), Input::Said { channel: 0, item: packet(TICKS * 3 / 4, None) });
        drain(&mut m);
        m.tick(at(4000));
        m.handle(at(4100), Input::Head { pts: 4 * TICKS });
        assert_eq!(show(&drain(&mut m)), "");
        m.handle(at(6000), Input::Offered { dts: 0 });
        m.handle(at(6000), Input::Taken);
        m.handle(at(7100), Input::Head { pts: 5 * TICKS });
        assert_eq!(show(&drain(&mut m)), "", "silence is another matter");
        say(&mut m, 8000, 0, packet(TICKS, None));
        drain(&mut m);
        m.handle(at(10_100), Input::Head { pts: 6 * TICKS });
        assert_eq!(show(&drain(&mut m)), "drop 1, shed 160p");
        say(&mut m, 10_200, 1, Item::End { at: TICKS });
        assert_eq!(show(&drain(&mut m)), "160p ends 1");
        m.handle(at(10_300), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "restarted 0, start 0 [0]", "a new child does not bring it back");
    }

    #[test]
    fn the_end_is_passed_on_once_and_is_the_end() {
        let mut m = started(0);
        say(&mut m, 0, 0, chunk(0));
        say(&mut m, 0, 1, chunk(0));
        m.handle(at(1), Input::Finished { at: TICKS });
        say(&mut m, 2, 0, Item::End { at: TICKS });
        drain(&mut m);
        m.handle(at(3), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "restarted 0, start 0 [1]");
        say(&mut m, 4, 0, chunk(0));
        say(&mut m, 4, 0, Item::End { at: TICKS });
        m.handle(at(5), Input::Gone);
        assert_eq!(show(&drain(&mut m)), "160p:0, 160p ends 1, done");
    }

    #[test]
    fn an_end_that_kills_every_child_is_made_up() {
        let mut m = started(0);
        m.handle(at(1), Input::Finished { at: TICKS });
        for n in 0..3 {
            m.handle(at(1000 * n), Input::Gone);
            m.tick(at(1000 * n + 500));
        }
        assert!(show(&drain(&mut m)).ends_with("480p ends 1, 160p ends 1, done"));
    }
}
