//! A room that is hosted here: judged, stored, told, in this order and one after the other.

use std::collections::BTreeMap;

use futures::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::*;
use crate::{
    chat::{keep::mark_kept, room::Room},
    store::{ChatRow, ChatWrite},
    time::unix_now,
};

/// Events that are read when a room is opened: whoever sends something again under its nonce does so within ten seconds.
const LOADED: usize = 2000;
/// How long the store has to tell what was said last, before the room goes on without; and each try to read what counts.
pub(super) const LOAD: Duration = Duration::from_secs(2);
/// Requests that are judged and stored together, and lots of them that are being stored.
const LOT: usize = 128;
const LOTS: usize = 8;
/// How often others are told that nothing is on its way, and it is looked whether anybody needs the room.
const BEAT: Duration = Duration::from_millis(250);
/// A process that does nothing for so long was stopped, or its machine slept: others turn to another host after a second.
const SLEPT: Duration = Duration::from_millis(750);
/// How often it is tried to read what is stored, where it could not be or there may be more.
const AGAIN: Duration = Duration::from_secs(1);

type Answer = Result<Acted, Refusal>;

/// What a stored lot is answered with.
struct Lot {
    events: Vec<Event>,
    /// What was given an id here, and is to be forgotten where it is not stored.
    ids: Vec<EventId>,
    /// Messages that are taken back.
    marks: Vec<ChatRow>,
    replies: Vec<(oneshot::Sender<Answer>, Answer)>,
    known: Option<Known>,
}

impl Task {
    /// Hosts the room until another node is to.
    pub(super) async fn host(&mut self, changes: &mut watch::Receiver<()>) -> Over {
        let (mut room, mut is_whole) = self.open().await;
        self.room.is_ready.send_replace(true);
        let mut storing: FuturesOrdered<BoxFuture<'static, (Lot, store::Result<()>)>> = FuturesOrdered::new();
        let (mut lot, mut tried) = (Vec::new(), now());
        // Whether the store answers, before everybody waits for it.
        let (mut probe, mut answers): (Option<BoxFuture<'static, bool>>, bool) = (None, false);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.rooms.shared.stop.clone();
        let (mut over, mut awake) = (None, now());
        loop {
            if let Some(over) = over
                && storing.is_empty()
            {
                return over;
            }
            // What was asked before it slept may have been asked of another host since, and said there.
            if now() - awake >= SLEPT {
                (is_whole, answers) = (false, true);
            }
            if answers && storing.is_empty() {
                answers = false;
                let (found, all) = self.open().await;
                if all {
                    (room, is_whole) = (found, true);
                }
            }
            awake = now();
            lot.append(&mut self.again);
            if !lot.is_empty() && !answers {
                storing.push_back(self.judge(&mut room, std::mem::take(&mut lot)));
            }
            tokio::select! {
                biased;
                Some((stored, result)) = storing.next() => {
                    // What was decided and not stored counts no longer: the room is read again.
                    is_whole &= result.is_ok();
                    self.tell(&mut room, stored, result);
                }
                _ = self.asked.recv_many(&mut lot, LOT), if over.is_none() && !answers && storing.len() < LOTS => {}
                () = stop.cancelled(), if over.is_none() => over = Some(Over::Stopping),
                Ok(()) = changes.changed(), if over.is_none() => match self.hosts() {
                    Some(_) => over = Some(Over::Moved),
                    // Another may have hosted it while this node was cut off, or slept.
                    None => is_whole = false,
                },
                () = self.room.is_behind.notified(), if over.is_none() => is_whole = false,
                found = async { probe.as_mut().expect("looked at before").await }, if probe.is_some() => {
                    (probe, answers) = (None, found);
                }
                _ = beat.tick() => {
                    // A follower may know of what another host has said.
                    let newest = self.room.hub.newest();
                    if newest > room.last() {
                        room.pass(newest);
                    }
                    if storing.is_empty() {
                        let floor = EventId::first_at(unix_now());
                        room.pass(EventId(floor.0.saturating_sub(1)));
                        self.room.hub.pass(floor.min(EventId(room.last().0 + 1)));
                    }
                    if !is_whole && !answers && probe.is_none() && now() - tried >= AGAIN {
                        tried = now();
                        let (meta, stream) = (self.rooms.shared.meta.clone(), self.room.stream.clone());
                        probe = Some(Box::pin(async move {
                            timeout(LOAD, meta.chat_rules(&stream)).await.is_ok_and(|rules| rules.is_ok())
                        }));
                    }
                    if self.is_idle() {
                        over = over.or(Some(Over::Idle));
                    }
                }
            }
        }
    }

    /// Opens the room with what is stored: whether all of it was read.
    async fn open(&self) -> (Room, bool) {
        let stored = self.stored().await;
        let rules = self.rules().await;
        let is_whole = stored.is_some() && rules.is_some();
        // Where the store is silent, what viewers here were told is known.
        let events = stored.unwrap_or_else(|| {
            let known = self.room.hub.after(EventId(0)).events;
            known.iter().filter_map(|told| serde_json::from_str(&told.json).ok()).collect()
        });
        let (mut room, bad) = Room::restore(rules.as_deref().unwrap_or_default(), &events, rand::random());
        if rules.is_none() {
            // Bans are not known then.
            room.assume(Known::clone(&self.room.known.load()));
        }
        if !bad.is_empty() {
            tracing::error!(stream = %self.room.stream, rules = ?bad, "rules of a room cannot be read: they do not count");
        }
        room.pass(self.room.hub.newest().max(self.room.hub.floor()));
        self.know(room.known().clone());
        (room, is_whole)
    }

    /// Reads what was said last, and tells viewers what of that they were not told.
    async fn stored(&self) -> Option<Vec<Event>> {
        let (stream, hub) = (&self.room.stream, &self.room.hub);
        let read = self.rooms.shared.meta.chat_back(stream, &ChatLog::Live, EventId::MAX, LOADED);
        let mut rows = match timeout(LOAD, read).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(why)) => {
                warn!(%stream, %why, "a room goes on without what was said in it before");
                return None;
            }
            Err(_) => {
                warn!(%stream, "a room goes on without what was said in it before: the store is silent");
                return None;
            }
        };
        rows.reverse();
        let events: Vec<Event> = rows.iter().filter_map(|row| serde_json::from_str(&row.body).ok()).collect();
        if hub.newest() > EventId(0) {
            let base = hub.base();
            hub.publish(events.iter().filter(|event| event.id() > base).map(Told::new).collect());
        } else {
            // All there is, or all since the one before the first.
            let base = rows.first().filter(|_| rows.len() >= LOADED).map_or(EventId(0), |row| EventId(row.id.0 - 1));
            hub.load(base, events.iter().map(Told::new).collect());
        }
        Some(events)
    }

    /// Judges requests in turn, and stores what came of it.
    fn judge(&self, room: &mut Room, asks: Vec<Ask>) -> BoxFuture<'static, (Lot, store::Result<()>)> {
        let (mut writes, mut replies, mut known) = (Vec::new(), Vec::new(), None);
        let (mut events, mut ids) = (Vec::new(), Vec::new());
        for Ask { who, nonce, act, reply, .. } in asks {
            let done = match room.act(unix_now(), &who, nonce.as_deref(), &act) {
                Ok(done) => {
                    if matches!(act, Act::Set { .. } | Act::Moderator { .. } | Act::Emote { .. }) {
                        known = Some(room.known().clone());
                    }
                    // One that was done before is stored.
                    ids.extend(Some(done.id).filter(|_| !done.writes.is_empty()));
                    writes.extend(done.writes);
                    events.extend(done.event);
                    Ok(Acted { id: done.id, held: done.held })
                }
                Err(why) => Err(why),
            };
            replies.push((reply, done));
        }
        let (writes, has_rules, marks) = tidied(writes);
        let lot = Lot { events, ids, marks, replies, known };
        let (meta, stream, rules_in_turn) =
            (self.rooms.shared.meta.clone(), self.room.stream.clone(), self.rules_in_turn.clone());
        Box::pin(async move {
            // Two lots may write one rule: the later one counts.
            let _turn = if has_rules { Some(rules_in_turn.lock().await) } else { None };
            let stored = if writes.is_empty() { Ok(()) } else { store(&*meta, &stream, writes).await };
            (lot, stored)
        })
    }

    /// Tells what is stored.
    fn tell(&self, room: &mut Room, lot: Lot, stored: store::Result<()>) {
        let Lot { events, ids, marks, replies, known } = lot;
        if let Err(why) = &stored {
            ids.into_iter().for_each(|id| room.forget(id));
            warn!(stream = %self.room.stream, %why, "what was said is not stored, and not told");
        }
        if stored.is_ok() {
            known.into_iter().for_each(|known| self.know(known));
            if !marks.is_empty() {
                let (meta, stream) = (self.rooms.shared.meta.clone(), self.room.stream.clone());
                self.rooms.spawn(mark_kept(meta, stream, marks, self.rooms.shared.stop.clone()));
            }
            self.room.hub.publish(events.iter().map(Told::new).collect());
        }
        for (reply, done) in replies {
            let unstored = |_| Refusal::new("not_stored", "it could not be stored").again_in(Duration::from_secs(1));
            // Whoever asked may be gone.
            let _ = reply.send(done.and_then(|done| stored.as_ref().map(|()| done).map_err(unstored)));
        }
    }
}

/// Writes of a lot, each rule once, as it was written last; whether there are any rules; and the marks among them.
fn tidied(writes: Vec<ChatWrite>) -> (Vec<ChatWrite>, bool, Vec<ChatRow>) {
    let (mut rules, mut rows, mut marks) = (BTreeMap::new(), Vec::new(), Vec::new());
    for write in writes {
        match write {
            ChatWrite::Rule { name, body } => _ = rules.insert(name, body),
            ChatWrite::Row { log, row } => {
                marks.extend(Some(&row).filter(|_| log == ChatLog::Marks).cloned());
                rows.push(ChatWrite::Row { log, row });
            }
        }
    }
    let has_rules = !rules.is_empty();
    rows.extend(rules.into_iter().map(|(name, body)| ChatWrite::Rule { name, body }));
    (rows, has_rules, marks)
}

/// Stores, and tries again for a while: whether a write that had no answer was made is not known, and the same once more is one.
async fn store(meta: &dyn Meta, stream: &StreamId, writes: Vec<ChatWrite>) -> store::Result<()> {
    let until = now() + PATIENCE / 2;
    loop {
        match meta.put_chat(stream, writes.clone()).await {
            Err(store::Error::Unavailable(_)) if now() < until => tokio::time::sleep(BEAT).await,
            done => return done,
        }
    }
}
