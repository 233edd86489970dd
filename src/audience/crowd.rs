//! All viewers of one thing: how many there are, here and everywhere, and what they did so far.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    tally::{Mean, Tally},
    uniques::Uniques,
};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    time::{Timestamp, UnixMs},
};

/// Renditions that are told apart; number 0 is for "not known".
pub(super) const RUNGS: usize = 32;
/// A broadcast that nobody shows for so long is over for its viewers.
const OVER: Duration = Duration::from_secs(15);
/// What another node said of its viewers counts so long.
const HEARSAY: Duration = Duration::from_secs(5);

/// What is watched: a broadcast, while it is live or as a recording.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    pub stream: StreamId,
    pub broadcast: BroadcastId,
    pub live: bool,
}

/// What can be watched of it: renditions and their mean bitrates, kbit/s.
pub type Offered = Vec<(Rendition, u32)>;

/// Whether a viewer counts as one, or has paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Gone,
    Watching,
    Paused,
}

/// What a node says of the viewers that report to it, beside who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    pub kbps: Mean,
    pub latency: Mean,
    /// Viewers whose picture stands.
    pub stalled: u64,
    /// Viewers as this node's requests for playlists show them.
    pub estimate: u64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.kbps.add(other.kbps);
        self.latency.add(other.latency);
        self.stalled += other.stalled;
        self.estimate += other.estimate;
    }
}

/// How it is now, at all nodes together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Now {
    pub viewers: u64,
    pub paused: u64,
    pub renditions: Vec<(Rendition, u64)>,
    pub sums: Sums,
}

/// Viewers by rendition, and those who have paused.
#[derive(Default)]
struct Counts {
    rungs: [AtomicI64; RUNGS],
    paused: AtomicI64,
}

impl Counts {
    fn change(&self, presence: Presence, rung: u8, by: i64) {
        match presence {
            Presence::Gone => return,
            Presence::Watching => &self.rungs[usize::from(rung) % RUNGS],
            Presence::Paused => &self.paused,
        }
        .fetch_add(by, Ordering::Relaxed);
    }

    fn rung(&self, rung: usize) -> u64 {
        self.rungs[rung].load(Ordering::Relaxed).max(0) as u64
    }

    fn watching(&self) -> u64 {
        (0..RUNGS).map(|rung| self.rung(rung)).sum()
    }
}

/// See the module.
pub struct Crowd {
    pub subject: Subject,
    /// Its place among all crowds.
    pub(super) index: u32,
    /// Tells this count of it from those of other processes, and from earlier ones of this process.
    pub part: String,
    offered: RwLock<Offered>,
    /// Renditions by number; a name stays under its number.
    names: RwLock<Vec<Rendition>>,
    here: Counts,
    all: Counts,
    sums: Mutex<Sums>,
    hearsay: Mutex<BTreeMap<u16, (Timestamp, Sums)>>,
    /// Requests for media playlists since the last look, each weighted with the time to the next one, us; of the picture, of sound.
    hits: [AtomicU64; 2],
    done: Mutex<Done>,
    /// When somebody was there last, us.
    used: AtomicU64,
    /// When its broadcast was seen to be live last, us.
    live: AtomicU64,
    /// The step of viewers that was passed last.
    passed: AtomicU64,
}

/// What viewers did here, by span: each row is written as a whole, again and again.
#[derive(Debug, Default)]
pub struct Done {
    pub minute: Tally,
    /// Without the minute that is counted.
    pub hour: Tally,
    pub whole: Tally,
    pub uniques: Uniques,
    /// When that minute began.
    pub since: UnixMs,
    /// Something was counted that the rows of the minute and the hour lack, and that of the whole.
    pub is_new: bool,
    pub is_whole_new: bool,
}

impl Done {
    fn changed(&mut self) {
        (self.is_new, self.is_whole_new) = (true, true);
    }

    /// A sum with the minute that is counted.
    pub(super) fn with_minute(&self, sum: &Tally) -> Tally {
        let mut sum = sum.clone();
        sum.add(&self.minute);
        sum
    }

    /// Adds a viewer to those who ever watched.
    pub(super) fn saw(&mut self, viewer: u64) {
        self.uniques.insert(viewer);
        self.changed();
    }
}

impl Crowd {
    pub(super) fn new(subject: Subject, index: u32, part: String) -> Self {
        Self {
            subject,
            index,
            part,
            offered: RwLock::default(),
            names: RwLock::default(),
            here: Counts::default(),
            all: Counts::default(),
            sums: Mutex::default(),
            hearsay: Mutex::default(),
            hits: Default::default(),
            done: Mutex::default(),
            used: AtomicU64::new(0),
            live: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }
    }

    /// Tells what can be watched.
    pub fn offer(&self, offered: Offered) {
        let mut known = self.offered.write().unwrap_or_else(PoisonError::into_inner);
        if *known != offered {
            *known = offered;
        }
    }

    /// The number of a rendition, by its name or else by the bitrate that is nearest; 0 where neither tells.
    pub(super) fn rung(&self, name: Option<&str>, kbps: Option<u32>) -> u8 {
        let offered = self.offered.read().unwrap_or_else(PoisonError::into_inner);
        let named = name.and_then(|name| offered.iter().find(|(known, _)| known.as_str() == name));
        let distance = |kbps: u32, known: u32| (f64::from(kbps.max(1)) / f64::from(known.max(1))).ln().abs();
        let nearest = |kbps: u32| {
            let video = offered.iter().filter(|(name, _)| *name != Rendition::audio() || offered.len() == 1);
            video.min_by(|(_, a), (_, b)| distance(kbps, *a).total_cmp(&distance(kbps, *b)))
        };
        let found = named.or_else(|| nearest(kbps?)).map(|(name, _)| name.clone());
        drop(offered);
        found.map_or(0, |name| self.number(&name))
    }

    /// The number of a rendition that another node names.
    pub(super) fn number(&self, name: &Rendition) -> u8 {
        let place = |names: &[Rendition]| names.iter().position(|known| known == name);
        if let Some(at) = place(&self.names.read().unwrap_or_else(PoisonError::into_inner)) {
            return at as u8 + 1;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        match place(&names) {
            Some(at) => at as u8 + 1,
            None if names.len() + 1 < RUNGS => {
                names.push(name.clone());
                names.len() as u8
            }
            None => 0,
        }
    }

    pub(super) fn names(&self) -> Vec<Rendition> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a viewer in or out, here or elsewhere.
    pub(super) fn change(&self, presence: Presence, rung: u8, is_here: bool, by: i64) {
        self.all.change(presence, rung, by);
        if is_here {
            self.here.change(presence, rung, by);
        }
    }

    /// Viewers at all nodes.
    pub fn viewers(&self) -> u64 {
        self.all.watching()
    }

    /// Viewers who report to this node.
    pub fn viewers_here(&self) -> u64 {
        self.here.watching()
    }

    fn is_empty(&self) -> bool {
        self.all.watching() == 0 && self.all.paused.load(Ordering::Relaxed) <= 0
    }

    /// A media playlist was asked for by somebody who asks again after `every`.
    pub fn hit(&self, is_sound: bool, every: Duration) {
        self.hits[usize::from(is_sound)].fetch_add(every.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something that happened here.
    pub(super) fn count(&self, what: impl FnOnce(&mut Tally)) {
        let mut done = self.done();
        what(&mut done.minute);
        done.changed();
    }

    pub(super) fn set_sums(&self, sums: Sums) {
        let mut known = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Sums { estimate: known.estimate, ..sums };
    }

    /// What this node says of its viewers.
    pub(super) fn sums(&self) -> Sums {
        *self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self, now: Timestamp, node: u16, sums: Sums) {
        self.hearsay.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (now, sums));
    }

    /// Counts the time since the last look for all who watched. `knows_all`: this node knows the viewers of all.
    pub(super) fn pass(&self, now: Timestamp, wall: UnixMs, passed: Duration, knows_all: bool) {
        let ms = passed.as_millis() as u64;
        let (watching, sums) = (self.here.watching(), self.sums());
        let picture = self.hits.each_ref().map(|hits| hits.swap(0, Ordering::Relaxed));
        let hits = if picture[0] > 0 { picture[0] } else { picture[1] };
        let hits = hits as f64 / passed.as_micros().max(1) as f64;
        {
            // Requests come in bursts, one for each chunk: smoothed over some four of them.
            let mut known = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            let part = 1.0 - (-passed.as_secs_f64() / SMOOTH.as_secs_f64()).exp();
            let before = known.estimate as f64 / ESTIMATE_SCALE;
            known.estimate = ((before + (hits - before) * part) * ESTIMATE_SCALE).round() as u64;
        }
        if !self.is_empty() || hits > 0.0 {
            self.used.store(now.0, Ordering::Relaxed);
        }
        if watching == 0 && sums.estimate == 0 && hits == 0.0 {
            return;
        }
        let names = self.names();
        let mut done = self.done();
        done.changed();
        let minute = &mut done.minute;
        minute.watched_ms += watching * ms;
        for (at, name) in names.iter().enumerate() {
            let watching = self.here.rung(at + 1);
            if watching > 0 {
                minute.watched(name, watching * ms);
            }
        }
        minute.kbps.add(sums.kbps);
        minute.latency.add(sums.latency);
        minute.estimated_ms += (hits * ms as f64).round() as u64;
        if knows_all {
            minute.reach(self.viewers(), Some(wall));
        }
    }

    /// Whether nobody was there for so long, and all is written.
    pub(super) fn is_unused(&self, now: Timestamp, long: Duration) -> bool {
        !self.done().is_whole_new && now - Timestamp(self.used.load(Ordering::Relaxed)) >= long
    }

    pub(super) fn use_at(&self, now: Timestamp) {
        self.used.store(now.0, Ordering::Relaxed);
        self.live.store(now.0, Ordering::Relaxed);
    }

    /// Notes whether its broadcast is live now; whether it was a moment ago. Where another node takes over nobody shows it for a while.
    pub(super) fn was_live(&self, now: Timestamp, is_live: bool) -> bool {
        if is_live {
            self.live.store(now.0, Ordering::Relaxed);
        }
        now - Timestamp(self.live.load(Ordering::Relaxed)) < OVER
    }

    /// The step that viewers have passed for the first time since the last look: 10, 20, 50, 100 and so on.
    pub fn step(&self) -> Option<u64> {
        let viewers = self.viewers();
        let steps = (1..=12).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let step = steps.take_while(|step| *step <= viewers).last()?;
        (self.passed.fetch_max(step, Ordering::Relaxed) < step).then_some(step)
    }

    /// How it is now, with what other nodes said lately.
    pub fn now(&self, now: Timestamp) -> Now {
        let mut sums = self.sums();
        {
            let mut hearsay = self.hearsay.lock().unwrap_or_else(PoisonError::into_inner);
            hearsay.retain(|_, (at, _)| now - *at < HEARSAY);
            hearsay.values().for_each(|(_, heard)| sums.add(heard));
        }
        sums.estimate = (sums.estimate as f64 / ESTIMATE_SCALE).round() as u64;
        let renditions = self.names().into_iter().enumerate().map(|(at, name)| (name, self.all.rung(at + 1)));
        Now {
            viewers: self.viewers(),
            paused: self.all.paused.load(Ordering::Relaxed).max(0) as u64,
            renditions: renditions.filter(|(_, viewers)| *viewers > 0).collect(),
            sums,
        }
    }
}

/// Requests for playlists are smoothed over this.
const SMOOTH: Duration = Duration::from_secs(8);
/// The estimate is kept in hundredths of a viewer.
const ESTIMATE_SCALE: f64 = 100.0;
