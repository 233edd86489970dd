//! What the viewers of one room are told at one node: events in, lots of bytes out, in one ring for all sockets.
//!
//! An event that comes after a pause goes out at once, what comes within a [`TICK`] goes out together: encoded and framed once.
//! Each socket has a place in the ring and nothing else; one that is slow loses the oldest messages, never what moderators did.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use metrics::Counter;
use tokio::sync::watch;

use super::{event::Event, frames};
use crate::{
    id::EventId,
    line::Text,
    time::{Timestamp, UnixMs, now},
};

/// Between two lots of a room that is busy.
pub const TICK: Duration = Duration::from_millis(50);
/// Where there are many sockets a lot is so long in coming for each of them: to write it to all costs half of that, and without
/// this a core would do nothing else. Bounded, as people wait for it.
const TICK_EACH: Duration = Duration::from_micros(20);
const TICK_MAX: Duration = Duration::from_millis(200);
/// Lots that are kept for sockets that are slow.
const LOTS: usize = 256;
/// What a slow socket is sent at a time: over it the oldest messages are left out.
const BEHIND_MESSAGES: u64 = 256;
const BEHIND_BYTES: usize = 64 << 10;
/// Events that are kept for those who join, come back or poll.
const TAIL: usize = 600;
/// What moderators did that is kept for sockets that are slow.
const DEEDS: usize = 1024;
/// One slot holds what was said in so long.
pub const SLOT: Duration = Duration::from_secs(2);
/// Slots that are kept rendered: what pollers ask for now.
const SLOTS: usize = 8;

/// An event, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub id: EventId,
    pub json: Arc<str>,
    pub is_message: bool,
}

impl Told {
    pub fn new(event: &Event) -> Self {
        let json = serde_json::to_string(event).expect("plain data").into();
        Self { id: event.id(), json, is_message: event.message().is_some() }
    }
}

/// Events as a JSON array.
pub fn array<'a>(events: impl Iterator<Item = &'a Told>) -> String {
    let mut text = String::from("[");
    for told in events {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&told.json);
    }
    text.push(']');
    text
}

/// Events that go out together.
#[derive(Debug)]
pub struct Lot {
    number: u64,
    /// Messages of all lots before this one.
    before: u64,
    messages: u32,
    /// A WebSocket message with a JSON array.
    pub frame: Bytes,
}

/// One room at one node. See the module.
pub struct Hub {
    // Held for look-ups and appends only, never across an await.
    state: Mutex<State>,
    /// The number of the lot that comes next.
    next: watch::Sender<u64>,
    /// Nothing comes any more that has a smaller id.
    floor: watch::Sender<EventId>,
    sockets: AtomicUsize,
    /// Messages that were written to sockets. Looked up once: it is counted at each write.
    deliveries: Counter,
}

struct State {
    lots: VecDeque<Arc<Lot>>,
    next: u64,
    messages: u64,
    /// With the number of the lot that it is in.
    deeds: VecDeque<(u64, Told)>,
    /// The newest events by id, also those that are not out yet.
    tail: VecDeque<Told>,
    /// All events after this one are in the tail.
    base: EventId,
    /// Those that go out next.
    waiting: Vec<Told>,
    /// The newest one that is out.
    out: EventId,
    out_at: Timestamp,
    /// Somebody is going to send what waits.
    is_timed: bool,
    slots: VecDeque<(u64, Arc<Text>)>,
}

/// What was said after some event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    pub events: Vec<Told>,
    /// Nothing is missing between that event and these.
    pub is_whole: bool,
}

impl Hub {
    pub fn new() -> Arc<Self> {
        let state = State {
            lots: VecDeque::new(),
            next: 0,
            messages: 0,
            deeds: VecDeque::new(),
            tail: VecDeque::new(),
            base: EventId(0),
            waiting: Vec::new(),
            out: EventId(0),
            out_at: Timestamp(0),
            is_timed: false,
            slots: VecDeque::new(),
        };
        let (next, floor) = (watch::Sender::new(0), watch::Sender::new(EventId(0)));
        let deliveries = metrics::counter!("weir_chat_deliveries_total");
        Arc::new(Self { state: Mutex::new(state), next, floor, sockets: AtomicUsize::new(0), deliveries })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the newest stored events, oldest first, as known: nobody is told of them, and nothing lies between them and what
    /// comes. `base`: all events after it are among them.
    pub fn load(&self, base: EventId, events: Vec<Told>) {
        let mut state = self.state();
        state.base = base;
        state.out = events.last().map_or(base, |told| told.id).max(state.out);
        state.tail = events.into();
        state.trim();
    }

    /// Tells everybody. What is known is not told again.
    pub fn publish(self: &Arc<Self>, events: Vec<Told>) {
        let mut state = self.state();
        for told in events {
            let at = state.tail.partition_point(|known| known.id < told.id);
            if state.tail.get(at).is_some_and(|known| known.id == told.id) {
                continue;
            }
            state.tail.insert(at, told.clone());
            state.waiting.push(told);
        }
        if state.waiting.is_empty() || state.is_timed {
            return;
        }
        let due = state.out_at + (TICK_EACH * self.sockets() as u32).clamp(TICK, TICK_MAX);
        if now() >= due {
            return self.send(state);
        }
        state.is_timed = true;
        drop(state);
        let hub = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(due - now()).await;
            let mut state = hub.state();
            state.is_timed = false;
            hub.send(state);
        });
    }

    fn send(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        let Some(last) = waiting.iter().map(|told| told.id).max() else { return };
        let messages = waiting.iter().filter(|told| told.is_message).count() as u32;
        let frame = frames::text(array(waiting.iter()).as_bytes());
        let (number, before) = (state.next, state.messages);
        state.lots.push_back(Arc::new(Lot { number, before, messages, frame }));
        state.deeds.extend(waiting.into_iter().filter(|told| !told.is_message).map(|told| (number, told)));
        state.next += 1;
        state.messages += u64::from(messages);
        (state.out, state.out_at) = (state.out.max(last), now());
        if state.lots.len() > LOTS {
            state.lots.pop_front();
        }
        while state.deeds.len() > DEEDS {
            state.deeds.pop_front();
        }
        state.trim();
        let next = state.next;
        drop(state);
        self.next.send_replace(next);
    }

    /// Nothing comes any more that has a smaller id than this: slots that lie before it are whole.
    pub fn pass(&self, floor: EventId) {
        self.floor.send_if_modified(|known| {
            let is_later = floor > *known;
            *known = floor.max(*known);
            is_later
        });
    }

    pub fn floor(&self) -> EventId {
        *self.floor.borrow()
    }

    /// The newest event that is known.
    pub fn newest(&self) -> EventId {
        let state = self.state();
        state.tail.back().map_or(state.base, |told| told.id)
    }

    /// All events after this one are known here.
    pub fn base(&self) -> EventId {
        self.state().base
    }

    /// Those who wait for what comes.
    pub fn readers(&self) -> usize {
        self.next.receiver_count()
    }

    /// What is known after an event, and a place from which what follows is read.
    pub fn join(self: &Arc<Self>, after: EventId) -> (After, Cursor) {
        let state = self.state();
        let events = state.after(after).filter(|told| told.id <= state.out).cloned().collect();
        let after = After { events, is_whole: after >= state.base };
        let cursor =
            Cursor { hub: self.clone(), next: state.next, messages: state.messages, changes: self.next.subscribe() };
        (after, cursor)
    }

    /// What is known after an event.
    pub fn after(&self, after: EventId) -> After {
        let state = self.state();
        After { events: state.after(after).cloned().collect(), is_whole: after >= state.base }
    }

    /// The same; where there is nothing yet it waits so long for something.
    pub async fn wait_after(&self, after: EventId, wait: Duration) -> After {
        let mut changes = self.next.subscribe();
        let found = async {
            loop {
                changes.borrow_and_update();
                let found = self.after(after);
                if !found.events.is_empty() || changes.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(wait, found).await.unwrap_or_else(|_| self.after(after))
    }

    /// The id before the last so many messages: what is known after it is what somebody who comes anew is shown.
    pub fn before_last(&self, messages: usize) -> EventId {
        let state = self.state();
        let first = state.tail.iter().rev().filter(|told| told.is_message).take(messages).last();
        first.map_or(state.tail.back().map_or(state.base, |told| told.id), |told| EventId(told.id.0 - 1))
    }

    /// What was said in a slot of time, once it is whole; nothing where it lies further back than what is kept here.
    pub async fn slot(&self, slot: u64) -> Option<Arc<Text>> {
        let (begin, end) = slot_bounds(slot);
        let mut floor = self.floor.subscribe();
        let _ = floor.wait_for(|floor| *floor >= end).await;
        let mut state = self.state();
        if let Some(text) = state.slot(slot) {
            return Some(text);
        }
        if begin <= state.base {
            return None;
        }
        let text = array(state.after(EventId(begin.0 - 1)).take_while(|told| told.id < end));
        let text = Arc::new(Text::new(text));
        if state.slots.len() >= SLOTS {
            state.slots.pop_front();
        }
        state.slots.push_back((slot, text.clone()));
        Some(text)
    }

    /// The same where it was asked for before.
    pub fn kept_slot(&self, slot: u64) -> Option<Arc<Text>> {
        self.state().slot(slot)
    }

    /// So many messages were written to a socket.
    pub fn delivered(&self, messages: u64) {
        self.deliveries.increment(messages);
    }

    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// Takes a place for a socket.
    pub fn enter(self: &Arc<Self>) -> Entered {
        self.sockets.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("weir_chat_sockets").increment(1.0);
        Entered(self.clone())
    }
}

/// The slot of a moment.
pub fn slot_of(at: UnixMs) -> u64 {
    EventId::first_at(at).ms() / SLOT.as_millis() as u64
}

/// The first id of a slot, and of the one after it.
pub fn slot_bounds(slot: u64) -> (EventId, EventId) {
    let ms = |slot: u64| slot.saturating_mul(SLOT.as_millis() as u64);
    (EventId::of_ms(ms(slot)), EventId::of_ms(ms(slot.saturating_add(1))))
}

impl State {
    fn slot(&self, slot: u64) -> Option<Arc<Text>> {
        self.slots.iter().rev().find(|(known, _)| *known == slot).map(|(_, text)| text.clone())
    }

    fn after(&self, after: EventId) -> impl Iterator<Item = &Told> {
        self.tail.range(self.tail.partition_point(|told| told.id <= after)..)
    }

    fn trim(&mut self) {
        while self.tail.len() > TAIL {
            let gone = self.tail.pop_front().expect("longer than none");
            self.base = self.base.max(gone.id);
        }
    }
}

/// A socket's place among those of its room.
pub struct Entered(Arc<Hub>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("weir_chat_sockets").decrement(1.0);
    }
}

/// A socket's place in the ring.
pub struct Cursor {
    hub: Arc<Hub>,
    next: u64,
    /// Messages of the lots before that.
    messages: u64,
    changes: watch::Receiver<u64>,
}

/// What a socket is to be sent.
#[derive(Debug, Default)]
pub struct Taken {
    /// Messages that are left out, before the lots.
    pub skipped: u64,
    /// What moderators did meanwhile.
    pub deeds: Vec<Told>,
    pub lots: Vec<Arc<Lot>>,
}

impl Taken {
    /// Messages in the lots.
    pub fn messages(&self) -> u64 {
        self.lots.iter().map(|lot| u64::from(lot.messages)).sum()
    }
}

impl Cursor {
    /// Waits until there is something to take.
    pub async fn ready(&mut self) {
        let next = self.next;
        // The hub lives as long as this.
        let _ = self.changes.wait_for(|head| *head > next).await;
    }

    /// Takes all that has come since, as far as one who is slow gets it.
    pub fn take(&mut self) -> Taken {
        let state = self.hub.state();
        let (mut messages, mut bytes, mut lots) = (0, 0, Vec::new());
        for lot in state.lots.iter().rev().take_while(|lot| lot.number >= self.next) {
            (messages, bytes) = (messages + u64::from(lot.messages), bytes + lot.frame.len());
            if !lots.is_empty() && (messages > BEHIND_MESSAGES || bytes > BEHIND_BYTES) {
                break;
            }
            lots.push(lot.clone());
        }
        lots.reverse();
        let mut taken = Taken::default();
        if let Some(first) = lots.first().filter(|first| first.number > self.next) {
            taken.skipped = first.before - self.messages;
            let missed = state.deeds.iter().filter(|(number, _)| (self.next..first.number).contains(number));
            taken.deeds = missed.map(|(_, told)| told.clone()).collect();
        }
        taken.lots = lots;
        (self.next, self.messages) = (state.next, state.messages);
        taken
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
