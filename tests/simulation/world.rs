//! A cluster in virtual time: nodes, the ways between them, the database, an encoder that connects anew, and what readers see.
//!
//! What decides is the real code: [`View`], [`Failover`], [`takes_over_at`] and [`valid_chunks`]. What carries is modelled: a
//! line is the numbers of its chunks, a feed is a queue of messages, the database answers late, twice or not at all.

#[path = "database.rs"]
mod database;
#[path = "gateway.rs"]
mod gateway;
#[path = "line.rs"]
mod line;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir::{
    cluster::{
        epoch::takes_over_at,
        failover::{Failover, Input, Output},
        view::{Member, View},
    },
    id::{BroadcastId, Rendition, StreamId},
    store::{ChunkRow, EpochRow, RenditionChunk, valid_chunks},
    time::{Timestamp, UnixMs},
};

/// Milliseconds of virtual time.
pub type Ms = u64;
/// A node is its number.
type Node = usize;

/// A chunk lasts so long.
pub const CHUNK: Ms = 2000;
/// Beats, and whatever a node looks after by the clock.
const TICK: Ms = 200;
/// The other end of a feed, or of a link, is gone after so much silence, and a gateway after this.
const SILENCE: Ms = 1000;
const GATEWAY_SILENCE: Ms = 3000;
/// The database is waited for so long.
const PATIENCE: Ms = 700;
/// A standby without a feed looks for the one that leads after this, and again so often.
const ORPHAN: Ms = 1500;
/// One that leads looks into the log so often.
const VERIFY: Ms = 10_000;
/// A gateway keeps so many chunks.
const RING: usize = 3;
/// An encoder connects again after so long.
const RECONNECT: Ms = 2000;
/// The bits of an order below its milliseconds.
pub const ORDER_BITS: u32 = 20;
/// A session that began so recently is the newest, whatever its number.
const FRESH: Ms = 1500;
/// A move to another node takes no longer.
const MOVES: Ms = 4000;
/// Rows that are read of a broadcast's end, of all epochs, and chunks that a line keeps.
const TAIL: usize = 24;
const KEPT: usize = 10;
/// Between the numbers of two broadcasts.
const BROADCAST: u64 = 1_000_000;

/// A fault of the code that the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Readers take the row of a number that was written last, whatever its epoch.
    NoFencing,
    /// A takeover begins one number later than it should.
    BeginsOneLater,
    /// Who sees nobody else thinks that nobody else is there, and writes the epoch log without asking whether it is free.
    LivenessIsMembership,
    /// A gateway never tells another node to lead.
    NobodyTakesOver,
}

/// What happens to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Crash(Node, Ms),
    Pause(Node, Ms),
    /// Two nodes do not hear each other.
    Cut(Node, Node, Ms),
    /// A node does not reach the database.
    NoDatabase(Node, Ms),
    /// Nobody does.
    DatabaseDown(Ms),
    /// The encoder's connection breaks, and it comes to another node.
    Roams,
    Drains(Node),
}

impl Fault {
    pub fn lasts(self) -> Ms {
        match self {
            Fault::Crash(_, ms) | Fault::Pause(_, ms) | Fault::Cut(_, _, ms) => ms,
            Fault::NoDatabase(_, ms) | Fault::DatabaseDown(ms) => ms,
            Fault::Roams => RECONNECT,
            Fault::Drains(_) => 4000,
        }
    }
}

/// What is to be simulated.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub seed: u64,
    pub nodes: usize,
    pub faults: Vec<(Ms, Fault)>,
    pub end: Ms,
    /// The clocks that chunks are stamped by differ by less.
    pub clocks: Ms,
    pub plant: Option<Plant>,
    /// Print what happens.
    pub tell: bool,
}

/// Which session made a chunk: two chunks of one number are the same if it is the same one.
type Content = u64;

/// Of each node whether it is there and whether it drains, and which one leads.
type There = (Vec<(bool, bool)>, Option<Node>);

/// A chunk, and when it was whole at its gateway, by that one's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    content: Content,
    wall: Ms,
}

#[derive(Debug, Clone)]
enum Word {
    Hello,
    Epoch { epoch: u64, k: u64 },
    Chunk { k: u64, made: Made },
    Lead { turn: u32 },
    Begin,
    Leave,
}

#[derive(Debug, Clone)]
enum Told {
    Standing { leads: bool, k: Option<u64>, draining: bool },
    Led,
    Begun { epoch: u64, k: u64 },
    Fenced { by: u64 },
}

#[derive(Debug, Clone)]
enum Event {
    Tick(Node, u32),
    Down {
        feed: usize,
        word: Word,
    },
    /// A line that was busy looks at what came meanwhile.
    Inbox(Node, u32),
    Up {
        feed: usize,
        told: Told,
    },
    /// A feed's connection is refused or reset.
    Reset(usize),
    /// The database does it.
    Ask(Node, u32, Question),
    /// Its answer arrives; nothing where none came in time.
    Answer(Node, u32, Question, Option<Answer>),
    /// A row is written, perhaps for the second time.
    Row(ChunkRow),
    Chunk(Node, u32, u64),
    Connect,
    Begin(usize),
    End(usize),
    Drained(Node, u32),
}

#[derive(Debug, Clone)]
enum Question {
    /// What is stored.
    Tail {
        work: Work,
    },
    Take {
        work: Work,
        row: EpochRow,
    },
    /// Whether someone has a later epoch.
    Newest,
}

/// Why a line talks to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Lead { feed: Option<usize> },
    Begin { feed: usize },
}

#[derive(Debug, Clone)]
enum Answer {
    Tail(Vec<EpochRow>, Vec<ChunkRow>),
    Taken(bool),
}

/// A line on a node.
#[derive(Debug, Clone, Default)]
struct Line {
    /// The newest session that it knows, by its [`order`].
    order: u64,
    /// The newest order to lead of that session.
    turn: u32,
    leads: bool,
    /// It was told to lead, or asked for an epoch, and the database is at work.
    busy: bool,
    epoch: u64,
    /// It has taken that itself.
    owns: bool,
    /// Epochs that are not in the log, as the database was away, in the order in which it is to have them.
    unlogged: Vec<EpochRow>,
    /// Another node has it.
    is_lost: bool,
    /// The chunk number that the session began with.
    first: u64,
    /// Chunks that are here.
    held: BTreeMap<u64, Made>,
    heard: Ms,
    orphan_since: Option<Ms>,
    looked: Ms,
    newest_row: Option<Option<u64>>,
    feed: Option<usize>,
    /// The feed has an epoch that this line knows.
    follows: bool,
    /// Rows that the database could not take.
    spool: Vec<ChunkRow>,
}

/// The order of a session: the milliseconds of its gateway's clock, and what no other session has.
pub fn order(ms: u64, session: u64) -> u64 {
    ms << ORDER_BITS | session
}

/// A session at its gateway.
struct Session {
    number: u64,
    order: u64,
    turn: u32,
    began: Ms,
    failover: Failover,
    /// The feed to each node.
    feeds: BTreeMap<Node, usize>,
    ring: Vec<(u64, Made)>,
    epoch: Option<(u64, u64)>,
    next: u64,
    wanted: bool,
    asked: Option<Node>,
    /// Who was there when it looked last, who drains, and who led.
    seen: Option<There>,
}

struct Feed {
    gateway: Node,
    node: Node,
    session: u64,
    order: u64,
    open: bool,
    /// When the newest message of each way arrives: none overtakes another.
    down: Ms,
    up: Ms,
    heard: Ms,
}

#[derive(Default)]
struct Place {
    up: bool,
    life: u32,
    paused_until: Ms,
    draining: bool,
    no_database_until: Ms,
    line: Line,
    /// What its line has not looked at.
    inbox: VecDeque<(usize, Word)>,
    session: Option<Session>,
    /// When each other node was heard last.
    heard: Vec<Ms>,
    view: Option<View>,
    /// Its clock is so far ahead.
    skew: Ms,
}

#[derive(Default)]
struct Database {
    down_until: Ms,
    epochs: Vec<EpochRow>,
    rows: BTreeMap<(u64, u64), ChunkRow>,
}

/// See the module.
pub struct World {
    schedule: Schedule,
    rng: StdRng,
    now: Ms,
    queue: BinaryHeap<Reverse<(Ms, u64, usize)>>,
    events: Vec<Option<Event>>,
    sequence: u64,
    places: Vec<Place>,
    cuts: BTreeMap<(Node, Node), Ms>,
    feeds: Vec<Feed>,
    database: Database,
    stream: StreamId,
    view: View,
    sessions: u64,
    /// Where the encoder is connected.
    encoder: Option<Node>,
    /// What the encoder sent whole: by number, of which session.
    pub sent: BTreeMap<u64, Content>,
    last_sent: Option<u64>,
    /// What readers of the log have seen.
    seen: BTreeMap<u64, Content>,
    /// What viewers were shown by an owner whose epoch is in the log, and is the newest there.
    shown: BTreeMap<u64, Content>,
    pub broken: Vec<String>,
}

fn name(node: Node) -> Arc<str> {
    format!("n{node}").into()
}

fn number(name: &str) -> Node {
    name[1..].parse().expect("a name of this world")
}

impl World {
    pub fn new(schedule: Schedule) -> Self {
        let rng = StdRng::seed_from_u64(schedule.seed);
        let member = |node| Member { id: name(node), weight: 1, origin: true, draining: false, live: true, streams: 0 };
        let mut world = Self {
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            sequence: 0,
            places: (0..schedule.nodes)
                .map(|_| Place { up: true, heard: vec![0; schedule.nodes], ..Place::default() })
                .collect(),
            cuts: BTreeMap::new(),
            feeds: Vec::new(),
            database: Database::default(),
            stream: StreamId::new("s").expect("legal"),
            view: View::new((0..schedule.nodes).map(member).collect()),
            sessions: 0,
            encoder: None,
            sent: BTreeMap::new(),
            last_sent: None,
            seen: BTreeMap::new(),
            shown: BTreeMap::new(),
            broken: Vec::new(),
            schedule,
        };
        for node in 0..world.places.len() {
            world.places[node].skew = world.rng.random_range(0..100_000);
            world.at(node as Ms, Event::Tick(node, 0));
        }
        world.at(500, Event::Connect);
        let faults = world.schedule.faults.clone();
        for (place, (at, fault)) in faults.iter().enumerate() {
            world.at(*at, Event::Begin(place));
            world.at(*at + fault.lasts(), Event::End(place));
        }
        world
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        while let Some(Reverse((at, _, place))) = self.queue.pop() {
            if !self.broken.is_empty()
                || at > self.schedule.end + MOVES
                || (at > self.schedule.end && self.is_settled())
            {
                break;
            }
            self.now = at;
            let event = self.events[place].take().expect("each event is there once");
            self.happen(event);
        }
        if self.broken.is_empty() {
            self.look_back();
        }
    }

    /// Whether just one leads, and no move is on its way.
    fn is_settled(&self) -> bool {
        self.places.iter().filter(|place| place.up && place.line.leads).count() == 1
            && self.places.iter().all(|place| !place.line.busy)
    }

    fn at(&mut self, at: Ms, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, self.events.len())));
        self.events.push(Some(event));
    }

    fn breaks(&mut self, what: String) {
        self.broken.push(format!("at {} ms: {what}", self.now));
    }

    fn lives(&self, node: Node, life: u32) -> bool {
        self.places[node].up && self.places[node].life == life
    }

    fn is_cut(&self, a: Node, b: Node) -> bool {
        a != b && self.cuts.get(&(a.min(b), a.max(b))).is_some_and(|until| *until > self.now)
    }

    fn reaches_database(&self, node: Node) -> bool {
        self.places[node].no_database_until <= self.now && self.database.down_until <= self.now
    }

    /// An event that is for one node waits until that is awake.
    fn sleeper(&self, event: &Event) -> Option<Node> {
        let node = match event {
            Event::Tick(node, _)
            | Event::Inbox(node, _)
            | Event::Answer(node, ..)
            | Event::Chunk(node, ..)
            | Event::Drained(node, _) => *node,
            Event::Down { feed, .. } => self.feeds[*feed].node,
            Event::Up { feed, .. } | Event::Reset(feed) => self.feeds[*feed].gateway,
            _ => return None,
        };
        (self.places[node].paused_until > self.now).then_some(node)
    }

    fn happen(&mut self, event: Event) {
        if let Some(node) = self.sleeper(&event) {
            return self.at(self.places[node].paused_until, event);
        }
        let is_news = !matches!(event, Event::Tick(..) | Event::Row(_) | Event::Up { told: Told::Standing { .. }, .. });
        if self.schedule.tell && is_news {
            println!("{:>6} {event:?}", self.now);
        }
        match event {
            Event::Tick(node, life) if self.lives(node, life) => {
                self.tick(node);
                self.at(self.now + TICK, Event::Tick(node, life));
            }
            Event::Down { feed, word } => self.down(feed, word),
            Event::Inbox(node, life) if self.lives(node, life) => self.read_inbox(node),
            Event::Up { feed, told } => self.up(feed, told),
            Event::Reset(feed) => self.lost(feed),
            Event::Ask(node, life, question) => self.ask(node, life, question),
            Event::Answer(node, life, question, answer) if self.lives(node, life) => {
                self.answered(node, question, answer)
            }
            Event::Row(row) => self.store(row),
            Event::Chunk(node, life, session) if self.lives(node, life) => self.chunk(node, session),
            Event::Connect => self.connect(),
            Event::Begin(place) => self.begin_fault(self.schedule.faults[place].1),
            Event::End(place) => self.end_fault(self.schedule.faults[place].1),
            Event::Drained(node, life) if self.lives(node, life) && self.places[node].draining => self.crash(node),
            _ => {}
        }
    }

    // The encoder.

    fn connect(&mut self) {
        if self.encoder.is_some() {
            return;
        }
        let awake = |node: &Node| {
            let place = &self.places[*node];
            place.up && place.paused_until <= self.now && !place.draining
        };
        let nodes: Vec<_> = (0..self.places.len()).filter(awake).collect();
        if nodes.is_empty() {
            return self.at(self.now + RECONNECT, Event::Connect);
        }
        let node = nodes[self.rng.random_range(0..nodes.len())];
        self.sessions += 1;
        self.encoder = Some(node);
        self.places[node].session = Some(Session {
            number: self.sessions,
            order: order(self.now + self.places[node].skew, self.sessions),
            turn: 0,
            began: self.now,
            failover: Failover::new(1),
            feeds: BTreeMap::new(),
            ring: Vec::new(),
            epoch: None,
            next: 0,
            wanted: true,
            asked: None,
            seen: None,
        });
        self.look(node);
    }

    fn disconnect(&mut self, node: Node) {
        if self.encoder == Some(node) {
            self.encoder = None;
            self.at(self.now + RECONNECT, Event::Connect);
        }
    }

    /// A chunk of the encoder's is whole at its gateway.
    fn chunk(&mut self, node: Node, number: u64) {
        let (life, wall) = (self.places[node].life, self.now + self.places[node].skew % self.schedule.clocks);
        let Some(session) = self.places[node].session.as_mut().filter(|session| session.number == number) else {
            return;
        };
        if session.epoch.is_none() {
            return;
        }
        if self.encoder != Some(node) {
            return;
        }
        let k = session.next;
        session.next += 1;
        let made = Made { content: number, wall };
        session.ring.push((k, made));
        if session.ring.len() > RING {
            session.ring.remove(0);
        }
        let feeds: Vec<_> = session.feeds.values().copied().collect();
        self.sent.insert(k, number);
        self.last_sent = Some(k);
        for feed in feeds {
            self.say(feed, Word::Chunk { k, made });
        }
        self.at(self.now + CHUNK, Event::Chunk(node, life, number));
    }

    // Faults.

    fn begin_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(node, _) => self.crash(node),
            Fault::Pause(node, ms) => {
                self.places[node].paused_until = self.now + ms;
                if ms > 4000 {
                    // An encoder whose bytes nobody takes gives up.
                    self.disconnect(node);
                }
            }
            Fault::Cut(a, b, ms) => _ = self.cuts.insert((a.min(b), a.max(b)), self.now + ms),
            Fault::NoDatabase(node, ms) => self.places[node].no_database_until = self.now + ms,
            Fault::DatabaseDown(ms) => self.database.down_until = self.now + ms,
            Fault::Roams => {
                if let Some(node) = self.encoder {
                    // Its gateway may not know.
                    if self.rng.random_bool(0.5) {
                        self.end_session(node);
                    }
                    self.disconnect(node);
                }
            }
            Fault::Drains(node) => {
                self.places[node].draining = true;
                let life = self.places[node].life;
                self.at(self.now + 3000, Event::Drained(node, life));
            }
        }
    }

    fn end_fault(&mut self, fault: Fault) {
        let (Fault::Crash(node, _) | Fault::Drains(node)) = fault else { return };
        let place = &mut self.places[node];
        place.draining = false;
        if !place.up {
            place.up = true;
            let life = place.life;
            self.at(self.now, Event::Tick(node, life));
        }
    }

    fn crash(&mut self, node: Node) {
        if !self.places[node].up {
            return;
        }
        self.disconnect(node);
        let nodes = self.places.len();
        let place = &mut self.places[node];
        // What waits for the database is on its disk.
        let (spool, unlogged) = (std::mem::take(&mut place.line.spool), std::mem::take(&mut place.line.unlogged));
        let line = Line { spool, unlogged, ..Line::default() };
        let (life, no_database_until) = (place.life + 1, place.no_database_until);
        *place = Place { life, no_database_until, line, heard: vec![0; nodes], skew: place.skew, ..Place::default() };
        for feed in 0..self.feeds.len() {
            let Feed { gateway, node: to, open, .. } = self.feeds[feed];
            if open && (gateway == node || to == node) {
                self.feeds[feed].open = false;
                if to == node && gateway != node && !self.is_cut(gateway, node) {
                    self.at(self.now + 1, Event::Reset(feed));
                }
            }
        }
    }

    // What must have become of it.

    fn look_back(&mut self) {
        let valid: BTreeMap<_, _> = self.readers(0..=u64::MAX).into_iter().collect();
        let Some(last) = self.last_sent else {
            return self.breaks("the encoder never got to send anything".into());
        };
        let leaders: Vec<_> = (0..self.places.len())
            .filter(|node| self.places[*node].up && self.places[*node].line.leads)
            .map(|node| (node, self.places[node].line.epoch))
            .collect();
        let newest = self.database.epochs.iter().max_by_key(|row| row.epoch).map(|row| (number(&row.node), row.epoch));
        if newest.is_none_or(|newest| !leaders.contains(&newest)) {
            self.breaks(format!("nobody leads: {leaders:?} say so, the log says {newest:?}"));
        }
        if leaders.len() > 1 {
            self.breaks(format!("several lead long after all faults: {leaders:?}"));
        }
        if !valid.contains_key(&last.saturating_sub(2)) {
            self.breaks(format!("{last} was sent, and what is stored ends at {:?}", valid.keys().next_back()));
        }
        for (k, content) in &self.shown.clone() {
            // What was shown in the very moment of a crash may be gone.
            let stored = valid.get(k).filter(|stored| *stored != content && self.schedule.clocks < CHUNK);
            if let Some(stored) = stored {
                self.breaks(format!("viewers were shown {k} of session {content}; the recording has {stored}"));
            }
        }
    }

    /// Whether the encoder kept its connection.
    pub fn one_session(&self) -> bool {
        self.sessions == 1
    }

    /// Numbers that were sent, and are not to be read.
    pub fn missing(&self) -> Vec<u64> {
        let valid: BTreeMap<_, _> = self.readers(0..=u64::MAX).into_iter().collect();
        let last = self.sent.keys().next_back().copied().unwrap_or(0);
        self.sent
            .iter()
            .filter(|(k, content)| **k + 2 < last && valid.get(k) != Some(content))
            .map(|(k, _)| *k)
            .collect()
    }
}
