//! What every stream plays, in memory and ready to be sent.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, RwLock},
    time::Duration,
};

use quick_cache::sync::Cache;
use tokio::sync::{broadcast, watch};

use super::{Now, Wish};
use crate::{
    id::{EventId, StreamId},
    line::Text,
    package::Mark,
    time::{Timestamp, UnixMs, now},
};

/// Streams that are kept. With one more, those that nobody follows and that changed longest ago go; they are looked up again
/// when they are asked for.
const STREAMS_MAX: usize = 20_000;
/// The part of them that goes then.
const PART: usize = 16;
/// Changes of one stream that are kept, so that playlists tell what was played in their window. No live window is longer than
/// 15 minutes.
pub const RECENT: usize = 8;
const RECENT_MS: i64 = 20 * 60_000;
/// And as many may be made in this time.
const RECENT_WITHIN: Duration = Duration::from_secs(10);
/// Names of which is remembered that no stream has them, or that nobody knows, and for how long.
const MISSING: usize = 10_000;
const ABSENT: Duration = Duration::from_secs(5);
const UNKNOWN: Duration = Duration::from_secs(1);
/// Changes that a reader may be behind; one that is further behind is told everything again.
const BACKLOG: usize = 4096;
/// Streams that are looked up at a time.
const LOOKS: usize = 64;

/// What a stream plays, and the answer that says so.
#[derive(Debug)]
pub struct Shown {
    pub now: Arc<Now>,
    pub text: Text,
}

/// What is known of a name without a look.
#[derive(Debug, Clone)]
pub enum Kept {
    Shown(Arc<Shown>),
    /// There is no such stream.
    Absent,
    /// Whoever knows does not answer.
    Unknown,
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub enum Changed {
    To(Arc<Now>),
    /// It is shown already.
    Nothing(Arc<Now>),
    /// There were too many: again after this.
    TooOften(Duration),
}

/// What is shown of a stream, while it is known.
type Showing = Option<Arc<Shown>>;

#[derive(Debug)]
struct Slot {
    /// The newest last.
    recent: Mutex<Vec<Arc<Now>>>,
    shown: watch::Sender<Showing>,
    marks: watch::Sender<Arc<[Mark]>>,
}

/// See the module.
pub struct Board {
    // Held for look-ups only, never across an await.
    slots: RwLock<HashMap<StreamId, Arc<Slot>>>,
    streams_max: usize,
    missing: Cache<StreamId, (Kept, Timestamp)>,
    changes: broadcast::Sender<(StreamId, Arc<Now>)>,
    /// Held by whoever looks a stream up, while others wait for what is found.
    looks: [tokio::sync::Mutex<()>; LOOKS],
    hasher: RandomState,
}

impl Default for Board {
    fn default() -> Self {
        Self::new(STREAMS_MAX)
    }
}

impl Board {
    pub fn new(streams_max: usize) -> Self {
        Self {
            slots: RwLock::default(),
            streams_max,
            missing: Cache::new(MISSING),
            changes: broadcast::channel(BACKLOG).0,
            looks: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            hasher: RandomState::new(),
        }
    }

    /// What is known; nothing where it has to be looked up.
    pub fn kept(&self, stream: &str) -> Option<Kept> {
        if let Some(slot) = self.slots.read().expect("no panic while held").get(stream) {
            return slot.shown.borrow().clone().map(Kept::Shown);
        }
        self.missing.get(stream).filter(|(_, until)| now() < *until).map(|(kept, _)| kept)
    }

    /// The same, looked up where it is not known: once for all who ask meanwhile, and whatever comes of it counts for those who
    /// ask later. `look` gives what the stream played last; nothing where there is no such stream.
    pub async fn known<E>(
        &self,
        stream: &StreamId,
        look: impl Future<Output = Result<Option<Vec<Now>>, E>>,
    ) -> Result<Kept, E> {
        if let Some(kept) = self.kept(stream.as_str()) {
            return Ok(kept);
        }
        let _turn = self.looks[self.hasher.hash_one(stream) as usize % LOOKS].lock().await;
        if let Some(kept) = self.kept(stream.as_str()) {
            return Ok(kept);
        }
        metrics::counter!("weir_now_looks_total").increment(1);
        match look.await {
            Ok(Some(found)) => Ok(Kept::Shown(self.load(stream, found))),
            Ok(None) => {
                self.missing.insert(stream.clone(), (Kept::Absent, now() + ABSENT));
                Ok(Kept::Absent)
            }
            Err(why) => {
                self.missing.insert(stream.clone(), (Kept::Unknown, now() + UNKNOWN));
                Err(why)
            }
        }
    }

    /// Forgets that there was no such stream.
    pub fn is_made(&self, stream: &StreamId) {
        self.missing.remove(stream);
    }

    /// A stream is deleted.
    pub fn is_gone(&self, stream: &StreamId) {
        self.slots.write().expect("no panic while held").remove(stream);
    }

    /// Takes what a stream played last, as it is stored.
    fn load(&self, stream: &StreamId, found: Vec<Now>) -> Arc<Shown> {
        let slot = self.slot(stream);
        let mut recent = slot.recent();
        for now in found {
            insert(&mut recent, Arc::new(now));
        }
        slot.show(&recent)
    }

    /// Takes what was set elsewhere; whether it was not known.
    pub fn take(&self, stream: &StreamId, now: Now) -> bool {
        let (slot, now) = (self.slot(stream), Arc::new(now));
        let mut recent = slot.recent();
        let is_new = insert(&mut recent, now.clone());
        if is_new {
            slot.show(&recent);
            self.tell(stream, now);
        }
        is_new
    }

    /// Sets what a stream plays, or that it plays nothing. `tag` tells this node's stamps from those of others.
    pub fn set(&self, stream: &StreamId, wish: Option<Wish>, at: UnixMs, tag: u16) -> Changed {
        let slot = self.slot(stream);
        let mut recent = slot.recent();
        let newest = recent.last().cloned().unwrap_or_default();
        let is_shown = wish.as_ref().map_or(newest.is_nothing(), |wish| newest.says(wish));
        if is_shown {
            slot.show(&recent);
            return Changed::Nothing(newest);
        }
        if let Some(first) = recent.first().filter(|_| recent.len() == RECENT) {
            let passed = at.since(first.id.at());
            if passed < RECENT_WITHIN {
                return Changed::TooOften(RECENT_WITHIN - passed);
            }
        }
        let now = Arc::new(wish.unwrap_or_default().stamped(newest.id.next(at, tag)));
        insert(&mut recent, now.clone());
        slot.show(&recent);
        self.tell(stream, now.clone());
        Changed::To(now)
    }

    fn tell(&self, stream: &StreamId, now: Arc<Now>) {
        // Nobody listens: nothing to tell.
        let _ = self.changes.send((stream.clone(), now));
    }

    /// Everything that changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<(StreamId, Arc<Now>)> {
        self.changes.subscribe()
    }

    /// All that was set lately, of each stream the newest last.
    pub fn all(&self) -> Vec<(StreamId, Arc<Now>)> {
        let slots: Vec<_> = {
            let slots = self.slots.read().expect("no panic while held");
            slots.iter().map(|(stream, slot)| (stream.clone(), slot.clone())).collect()
        };
        let of = |(stream, slot): &(StreamId, Arc<Slot>)| -> Vec<_> {
            slot.recent().iter().map(|now| (stream.clone(), now.clone())).collect()
        };
        slots.iter().flat_map(of).collect()
    }

    /// What was set lately of one stream, the newest last.
    pub fn recent(&self, stream: &StreamId) -> Vec<Arc<Now>> {
        let slot = self.slots.read().expect("no panic while held").get(stream).cloned();
        slot.map(|slot| slot.recent().clone()).unwrap_or_default()
    }

    /// What a stream plays, as it changes.
    pub fn follow(&self, stream: &StreamId) -> watch::Receiver<Showing> {
        self.follow_slot(stream, |slot| slot.shown.subscribe())
    }

    /// The same as playlists tell it.
    pub fn marks(&self, stream: &StreamId) -> watch::Receiver<Arc<[Mark]>> {
        self.follow_slot(stream, |slot| slot.marks.subscribe())
    }

    /// Whether a line of this node lists what the stream plays.
    pub fn is_listed(&self, stream: &StreamId) -> bool {
        let slots = self.slots.read().expect("no panic while held");
        slots.get(stream).is_some_and(|slot| slot.marks.receiver_count() > 0)
    }

    fn slot(&self, stream: &StreamId) -> Arc<Slot> {
        self.follow_slot(stream, Arc::clone)
    }

    /// Gives something of a stream's place, made where there is none, before it can go again.
    fn follow_slot<T>(&self, stream: &StreamId, of: impl Fn(&Arc<Slot>) -> T) -> T {
        if let Some(slot) = self.slots.read().expect("no panic while held").get(stream) {
            return of(slot);
        }
        let mut slots = self.slots.write().expect("no panic while held");
        if slots.len() >= self.streams_max && !slots.contains_key(stream) {
            make_room(&mut slots, (self.streams_max / PART).max(1));
        }
        of(slots.entry(stream.clone()).or_insert_with(|| {
            let (shown, marks) = (watch::Sender::new(None), watch::Sender::new(Arc::default()));
            Arc::new(Slot { recent: Mutex::default(), shown, marks })
        }))
    }
}

/// Lets go of those that changed longest ago. Those that somebody follows stay: lines and connections bound their number.
fn make_room(slots: &mut HashMap<StreamId, Arc<Slot>>, count: usize) {
    let is_free = |slot: &Slot| slot.shown.receiver_count() + slot.marks.receiver_count() == 0;
    let age = |slot: &Slot| slot.recent().last().map_or(EventId(0), |now| now.id);
    let free = slots.iter().filter(|(_, slot)| is_free(slot));
    let mut free: Vec<_> = free.map(|(stream, slot)| (age(slot), stream.clone())).collect();
    free.sort();
    free.truncate(count);
    free.iter().for_each(|(_, stream)| _ = slots.remove(stream));
}

impl Slot {
    fn recent(&self) -> MutexGuard<'_, Vec<Arc<Now>>> {
        self.recent.lock().expect("no panic while held")
    }

    /// Shows what is known now.
    fn show(&self, recent: &[Arc<Now>]) -> Arc<Shown> {
        let newest = recent.last().cloned().unwrap_or_default();
        let known = self.shown.borrow().clone().filter(|shown| shown.now == newest);
        let shown = known.unwrap_or_else(|| {
            let shown = Arc::new(Shown { text: Text::new(newest.told()), now: newest });
            self.shown.send_replace(Some(shown.clone()));
            shown
        });
        let marks = marks(recent);
        self.marks.send_if_modified(|told| {
            let is_new = **told != *marks;
            if is_new {
                *told = marks.into();
            }
            is_new
        });
        shown
    }
}

/// Puts a change in its place; whether it was not there.
fn insert(recent: &mut Vec<Arc<Now>>, now: Arc<Now>) -> bool {
    let place = recent.partition_point(|known| known.id < now.id);
    match recent.get(place).filter(|known| known.id == now.id) {
        Some(known) if place + 1 < recent.len() || !now.is_after(known) => return false,
        Some(_) => recent[place] = now,
        None if place == 0 && recent.len() >= RECENT => return false,
        None => recent.insert(place, now),
    }
    let newest = recent.last().expect("something was put there").id.at();
    let is_old = |recent: &[Arc<Now>]| recent.len() > 1 && newest.0 - recent[1].id.at().0 > RECENT_MS;
    while recent.len() > RECENT || is_old(recent) {
        recent.remove(0);
    }
    // Of what is over playlists tell no more than this.
    let over = recent.len() - 1;
    for past in recent[..over].iter_mut().filter(|past| past.data.is_some()) {
        *past = Arc::new(Now { data: None, ..Now::clone(past) });
    }
    true
}

/// What playlists tell, in the order of its starts: what was set later and began earlier corrects what was set before.
fn marks(recent: &[Arc<Now>]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::with_capacity(recent.len());
    for now in recent {
        let start = now.begun();
        marks.truncate(marks.partition_point(|mark| mark.start < start));
        let Now { id, title, artist, artwork, .. } = Now::clone(now);
        marks.push(Mark { id, start, title, artist, artwork });
    }
    marks
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
