//! Who watches: one entry for each session of a player, with what was heard of it last. A machine; time is an argument.
//!
//! A session is there from its first report until it says that it ends, or is not heard of for two and a half of its beats. Sessions
//! that report to other nodes are known by what those tell ([`super::share`]), so that one that moves is never counted twice and
//! one whose node is lost is not lost with it. Entries are found by a hash of the session's id, in shards that each have a lock.

use std::{
    collections::HashMap as StdMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::task::yield_now;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    cmcd::{Playing, Report},
    crowd::{Crowd, Presence, Subject, Sums},
    tally::Mean,
};
use crate::time::Timestamp;

/// With a hash that costs little: a report is one look into one of these.
pub(super) type HashMap<K, V> = StdMap<K, V, RandomState>;

pub(super) const SHARDS: usize = 64;
/// A player that is not asked for anything else reports so often, s.
pub const BEAT: Duration = Duration::from_secs(30);
/// A session that reports nothing for so many beats is over.
const BEATS: f64 = 2.5;
/// A session whose first report here has a higher number was there before: here or elsewhere.
const RESUMED: u32 = 5;
/// A start or a halt that seems to have lasted longer is none: the player's clock was set.
const LONGEST_MS: u32 = 600_000;
/// A crowd in which nobody was for so long is forgotten.
const IDLE: Duration = Duration::from_secs(600);
/// Session of this node.
pub(super) const HERE: u16 = 0;

/// What bounds a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that report to this node.
    pub sessions: usize,
    /// Of them, those of one address or ticket.
    pub per_address: u32,
    /// Things that are watched.
    pub crowds: usize,
}

/// Who a session belongs to, as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewer {
    /// What bounds the number of his sessions: the ticket or else the address. Never 0. Two of a quarter of a million may have the
    /// same and share what they may.
    pub bound: u32,
    /// Whom he is counted as among all who ever watched.
    pub unique: u64,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Counted,
    /// It was heard before.
    Twice,
    /// It says that somebody leaves who is not known.
    Unknown,
    /// As many sessions as there may be.
    Full,
    /// As many of this address as there may be.
    Crowded,
}

/// One session, of 56 bytes.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// When it was heard of last.
    pub seen: Timestamp,
    /// What bounds it; 0 where that is not known.
    bound: u32,
    pub crowd: u32,
    /// Time (ms of the player's clock) and number of its last report.
    ts: u32,
    sn: u32,
    /// When it began to start, or to stall.
    since: u32,
    /// The player's counts so far.
    stalls: u32,
    stalls_ms: u32,
    dropped: u32,
    kbps: u32,
    latency_ms: u32,
    /// The node that it reports to.
    pub home: u16,
    pub rung: u8,
    pub presence: Presence,
    /// Seconds between its reports.
    pub beat_s: u8,
    marks: u8,
}

/// Whether a session was known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// It was, or it is all new.
    No,
    /// Its player went on to something else, with its counts as they are.
    Anew,
    /// It was at another node, or here before this process, where its counts so far belong.
    Again,
}

/// Marks of a session: it reports times; it began to play; it tells counts of stalls; its picture stands; it is to be told to others;
/// a start or a halt is timed; it was counted as a view.
const TIMED: u8 = 1;
const STARTED: u8 = 2;
const COUNTING: u8 = 4;
const STALLED: u8 = 8;
pub(super) const RECENT: u8 = 16;
const TIMING: u8 = 32;
const JOINED: u8 = 64;

impl Session {
    pub(super) fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    pub(super) fn mark(&mut self, mark: u8, on: bool) {
        self.marks = if on { self.marks | mark } else { self.marks & !mark };
    }

    pub(super) fn foreign(seen: Timestamp, crowd: u32, home: u16) -> Self {
        Self {
            seen,
            bound: 0,
            crowd,
            ts: 0,
            sn: 0,
            since: 0,
            stalls: 0,
            stalls_ms: 0,
            dropped: 0,
            kbps: 0,
            latency_ms: 0,
            home,
            rung: 0,
            presence: Presence::Gone,
            beat_s: BEAT.as_secs() as u8,
            // It has begun elsewhere.
            marks: STARTED | JOINED,
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        (now - self.seen).as_secs_f64() > f64::from(self.beat_s) * BEATS
    }
}

#[derive(Default)]
pub(super) struct Shard {
    pub sessions: HashMap<u64, Session>,
    /// What is to be told to others.
    pub recent: Vec<u64>,
}

/// See the module.
pub struct Table {
    shards: Vec<Mutex<Shard>>,
    /// By place; a place that is free is given again.
    crowds: RwLock<Vec<Option<Arc<Crowd>>>>,
    by_subject: RwLock<HashMap<Subject, Arc<Crowd>>>,
    /// Sessions of each address or ticket.
    bounds: Vec<Mutex<HashMap<u32, u32>>>,
    limits: Limits,
    here: AtomicUsize,
    /// Names this process's counts.
    part: String,
    made: AtomicU32,
    /// Whether others are told.
    pub(super) shares: bool,
}

pub(super) fn key_of(sid: &str) -> u64 {
    xxh3_64(sid.as_bytes())
}

impl Table {
    /// `part` names this process among all that count; `shares`: there are others.
    pub fn new(limits: Limits, part: String, shares: bool) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            crowds: RwLock::default(),
            by_subject: RwLock::default(),
            bounds: (0..SHARDS).map(|_| Mutex::default()).collect(),
            limits,
            here: AtomicUsize::new(0),
            part,
            made: AtomicU32::new(0),
            shares,
        }
    }

    pub(super) fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        self.lock(key as usize % SHARDS)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn each_shard(&self, mut look: impl FnMut(&mut Shard)) {
        (0..SHARDS).for_each(|shard| look(&mut self.lock(shard)));
    }

    /// Sessions that report here.
    pub fn len(&self) -> usize {
        self.here.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The crowd of this subject, which is made where there is none yet; none where there are as many as there may be.
    pub fn crowd(&self, subject: &Subject, now: Timestamp) -> Option<Arc<Crowd>> {
        if let Some(crowd) = self.find(subject) {
            return Some(crowd);
        }
        let mut crowds = self.crowds.write().unwrap_or_else(PoisonError::into_inner);
        let mut by_subject = self.by_subject.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(crowd) = by_subject.get(subject) {
            return Some(crowd.clone());
        }
        if by_subject.len() >= self.limits.crowds {
            return None;
        }
        let free = crowds.iter().position(Option::is_none).unwrap_or_else(|| {
            crowds.push(None);
            crowds.len() - 1
        });
        let part = format!("{}.{}", self.part, self.made.fetch_add(1, Ordering::Relaxed));
        let crowd = Arc::new(Crowd::new(subject.clone(), free as u32, part));
        crowd.use_at(now);
        crowds[free] = Some(crowd.clone());
        by_subject.insert(subject.clone(), crowd.clone());
        Some(crowd)
    }

    /// The crowd of this subject, if there is one.
    pub fn find(&self, subject: &Subject) -> Option<Arc<Crowd>> {
        self.by_subject.read().unwrap_or_else(PoisonError::into_inner).get(subject).cloned()
    }

    pub fn crowds(&self) -> Vec<Arc<Crowd>> {
        self.by_subject.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn at(&self, index: u32) -> Option<Arc<Crowd>> {
        self.crowds.read().unwrap_or_else(PoisonError::into_inner).get(index as usize)?.clone()
    }

    /// Takes a place for one more session of an address; whether there was one.
    fn bind(&self, bound: u32) -> bool {
        let mut bounds = self.bounds[bound as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let count = bounds.entry(bound).or_default();
        let is_free = *count < self.limits.per_address;
        *count += u32::from(is_free);
        is_free
    }

    fn unbind(&self, bound: u32) {
        if bound == 0 {
            return;
        }
        let mut bounds = self.bounds[bound as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = bounds.get_mut(&bound) {
            *count -= 1;
            if *count == 0 {
                bounds.remove(&bound);
            }
        }
    }

    /// A session of this node is no longer one.
    pub(super) fn release(&self, session: &mut Session) {
        self.unbind(std::mem::take(&mut session.bound));
        self.here.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn settle(&self) {
        self.here.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session out of its crowd as it is.
    pub(super) fn count_out(&self, session: &Session) {
        if let Some(crowd) = self.at(session.crowd) {
            crowd.change(session.presence, session.rung, session.home == HERE, -1);
        }
    }

    /// Hears what a player of this crowd reports. `beat_s`: how often it is to report; `viewer` is asked only where it matters.
    pub fn report(
        &self,
        now: Timestamp,
        crowd: &Crowd,
        report: &Report,
        beat_s: u8,
        viewer: impl Fn() -> Viewer,
    ) -> Heard {
        let key = key_of(&report.sid);
        let mut shard = self.shard(key);
        let Shard { sessions, recent } = &mut *shard;
        let is_over = report.playing == Some(Playing::Over);
        let (session, begins) = match sessions.get_mut(&key) {
            Some(session) => {
                if session.is_before(report) {
                    return Heard::Twice;
                }
                let (moved_on, arrived) = (session.crowd != crowd.index, session.home != HERE);
                if moved_on || arrived {
                    self.count_out(session);
                    session.presence = Presence::Gone;
                    session.crowd = crowd.index;
                }
                if arrived {
                    // It was let in elsewhere already: the bound is for those who are new.
                    let Viewer { bound, .. } = viewer();
                    session.bound = if self.bind(bound) { bound } else { 0 };
                    session.home = HERE;
                    self.settle();
                }
                let begins = match (moved_on, arrived) {
                    (true, _) => Begins::Anew,
                    (false, true) => Begins::Again,
                    (false, false) => Begins::No,
                };
                (session, begins)
            }
            None if is_over => return Heard::Unknown,
            None => {
                if self.len() >= self.limits.sessions {
                    return Heard::Full;
                }
                let Viewer { bound, .. } = viewer();
                if !self.bind(bound) {
                    return Heard::Crowded;
                }
                self.settle();
                let is_new = report.sn.is_none_or(|sn| sn <= RESUMED);
                let begins = if is_new { Begins::No } else { Begins::Again };
                let session = Session { bound, marks: 0, ..Session::foreign(now, crowd.index, HERE) };
                (sessions.entry(key).or_insert(session), begins)
            }
        };
        session.seen = now;
        session.beat_s = beat_s;
        session.take(crowd, report, begins, viewer);
        if self.shares && !session.is(RECENT) {
            session.mark(RECENT, true);
            recent.push(key);
        }
        Heard::Counted
    }

    /// Looks who is gone, and how those are who are there. `is_over`: a crowd whose broadcast has ended. Others are served in between:
    /// a quarter of a million sessions take some ten milliseconds.
    pub async fn sweep(&self, now: Timestamp, is_over: impl Fn(&Crowd) -> bool) {
        let crowds: Vec<_> = self.crowds.read().unwrap_or_else(PoisonError::into_inner).clone();
        let over: Vec<bool> = crowds.iter().map(|crowd| crowd.as_ref().is_some_and(|crowd| is_over(crowd))).collect();
        let mut sums = vec![Totals::default(); crowds.len()];
        for shard in 0..SHARDS {
            self.lock(shard).sessions.retain(|_, session| {
                let at = session.crowd as usize;
                // A crowd that was made since is not over.
                let stays = !session.is_over(now) && !over.get(at).copied().unwrap_or(false);
                if !stays {
                    self.count_out(session);
                    if session.home == HERE {
                        self.release(session);
                    }
                } else if session.home == HERE
                    && session.presence == Presence::Watching
                    && let Some(sums) = sums.get_mut(at)
                {
                    sums.add(session);
                }
                stays
            });
            yield_now().await;
        }
        for (crowd, totals) in crowds.iter().zip(sums) {
            if let Some(crowd) = crowd {
                crowd.set_sums(totals.sums());
            }
        }
    }

    /// Forgets crowds that nobody belongs to any more.
    pub fn forget_unused(&self, now: Timestamp) {
        let mut crowds = self.crowds.write().unwrap_or_else(PoisonError::into_inner);
        let mut by_subject = self.by_subject.write().unwrap_or_else(PoisonError::into_inner);
        by_subject.retain(|_, crowd| {
            let stays = !crowd.is_unused(now, IDLE);
            if !stays {
                crowds[crowd.index as usize] = None;
            }
            stays
        });
    }
}

impl Session {
    /// Whether this report is one that was heard: sent again because its answer was lost.
    fn is_before(&self, report: &Report) -> bool {
        let (Some(ts), Some(sn)) = (report.ts, report.sn) else { return false };
        self.home == HERE && self.is(TIMED) && (ts as u32).wrapping_sub(self.ts) as i32 <= 0 && sn <= self.sn
    }

    /// Takes what a report says.
    fn take(&mut self, crowd: &Crowd, report: &Report, begins: Begins, viewer: impl Fn() -> Viewer) {
        let rung = match (report.rendition.as_deref(), report.kbps) {
            (None, None) => self.rung,
            (name, kbps) => crowd.rung(name, kbps),
        };
        if begins == Begins::No && report.event.is_none() && self.is(TIMED) {
            // A request for media of a player that reports its events: those say more of how it plays, and were numbered apart.
            return self.set(crowd, self.presence, rung);
        }
        let mut news = News::default();
        let stalls = rise(&mut self.stalls, report.stalls);
        let stalls_ms = rise(&mut self.stalls_ms, report.stalls_ms);
        let dropped = rise(&mut self.dropped, report.dropped);
        match begins {
            Begins::No => (news.stalls, news.stalls_ms, news.dropped) = (stalls, stalls_ms, dropped),
            Begins::Anew | Begins::Again => {
                self.marks = self.marks & RECENT | STARTED;
                // A view that goes on here was counted where it began.
                self.mark(JOINED, begins == Begins::Again);
            }
        }
        self.mark(COUNTING, self.is(COUNTING) || report.stalls.is_some());
        let ts = report.ts.map(|ts| ts as u32);
        self.time(report, ts, &mut news);
        self.kbps = report.kbps.unwrap_or(self.kbps);
        self.latency_ms = report.latency_ms.unwrap_or(self.latency_ms);
        if report.event.as_deref() == Some("e") {
            news.error = Some(report.error.as_deref().unwrap_or("other"));
        }
        if let Some(ts) = ts {
            (self.ts, self.sn) = (ts, report.sn.unwrap_or(self.sn));
            self.mark(TIMED, true);
        }
        let presence = match report.playing {
            Some(Playing::Over) => Presence::Gone,
            Some(Playing::Paused | Playing::Preloading) => Presence::Paused,
            Some(_) => Presence::Watching,
            // One that says nothing of it: it fetches media, or goes on as before.
            None if self.presence == Presence::Paused && report.event.is_some() => Presence::Paused,
            None => Presence::Watching,
        };
        self.set(crowd, presence, rung);
        if presence == Presence::Watching && (begins != Begins::No || !self.is(JOINED)) {
            crowd.done().saw(viewer().unique);
            news.joins = u64::from(!self.is(JOINED));
            self.mark(JOINED, true);
        }
        news.count(crowd);
    }

    pub(super) fn set(&mut self, crowd: &Crowd, presence: Presence, rung: u8) {
        if (presence, rung) != (self.presence, self.rung) {
            let is_here = self.home == HERE;
            crowd.change(self.presence, self.rung, is_here, -1);
            crowd.change(presence, rung, is_here, 1);
            (self.presence, self.rung) = (presence, rung);
        }
    }

    /// Starts and halts, by what the player says of them or by when its state changed.
    fn time(&mut self, report: &Report, ts: Option<u32>, news: &mut News) {
        let began = if self.is(TIMING) { ts.map(|ts| ts.wrapping_sub(self.since)) } else { None };
        let took = began.filter(|ms| *ms <= LONGEST_MS);
        if let Some(ms) = report.startup_ms.filter(|ms| !self.is(STARTED) && *ms <= LONGEST_MS) {
            news.startup_ms = Some(ms);
            self.mark(STARTED, true);
        }
        let counts = self.is(COUNTING);
        if let Some(ms) = report.stall_ms.filter(|_| !counts) {
            news.stalls_ms += u64::from(ms.min(LONGEST_MS));
        }
        match report.playing {
            Some(Playing::Starting) if !self.is(STARTED) && !self.is(TIMING) => self.begin(ts),
            Some(Playing::Stalled) if !self.is(STALLED) => {
                self.mark(STALLED, true);
                if !counts {
                    news.stalls += 1;
                    self.begin(ts);
                }
            }
            Some(Playing::Playing) if !self.is(STARTED) => {
                news.startup_ms = took;
                self.mark(STARTED, true);
                self.mark(TIMING, false);
            }
            Some(Playing::Stalled) | None => {}
            Some(_) if self.is(STALLED) => {
                self.mark(STALLED, false);
                if !counts && report.stall_ms.is_none() {
                    news.stalls_ms += u64::from(took.unwrap_or(0));
                }
                self.mark(TIMING, false);
            }
            Some(_) => {}
        }
        // Requests for media tell only that there was one.
        if report.starved && report.event.is_none() && report.playing.is_none() && !counts {
            news.stalls += 1;
        }
    }

    fn begin(&mut self, ts: Option<u32>) {
        if let Some(ts) = ts {
            self.since = ts;
            self.mark(TIMING, true);
        }
    }
}

/// By how much a player's count has risen; one that fell has begun again.
fn rise(known: &mut u32, told: Option<u32>) -> u64 {
    let Some(told) = told else { return 0 };
    let before = std::mem::replace(known, told);
    u64::from(told.checked_sub(before).unwrap_or(told))
}

/// What a report adds to the counts.
#[derive(Default)]
struct News<'a> {
    joins: u64,
    startup_ms: Option<u32>,
    stalls: u64,
    stalls_ms: u64,
    dropped: u64,
    error: Option<&'a str>,
}

impl News<'_> {
    fn count(self, crowd: &Crowd) {
        let numbers = self.joins + self.stalls + self.stalls_ms + self.dropped;
        if numbers == 0 && self.startup_ms.is_none() && self.error.is_none() {
            return;
        }
        crowd.count(|tally| {
            tally.joins += self.joins;
            tally.stalls += self.stalls;
            tally.stalls_ms += self.stalls_ms;
            tally.dropped += self.dropped;
            self.startup_ms.into_iter().for_each(|ms| tally.startups.count(ms));
            self.error.into_iter().for_each(|word| tally.error(word));
        });
    }
}

/// Sums over the sessions of a crowd.
#[derive(Default, Clone)]
struct Totals {
    kbps: (u64, u64),
    latency: (u64, u64),
    stalled: u64,
}

impl Totals {
    fn add(&mut self, session: &Session) {
        for (sum, value) in [(&mut self.kbps, session.kbps), (&mut self.latency, session.latency_ms)] {
            sum.0 += u64::from(value);
            sum.1 += u64::from(value > 0);
        }
        self.stalled += u64::from(session.is(STALLED));
    }

    fn sums(&self) -> Sums {
        let mean = |(sum, count)| Mean::new(sum, count);
        Sums { kbps: mean(self.kbps), latency: mean(self.latency), stalled: self.stalled, estimate: 0 }
    }
}
