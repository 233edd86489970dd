//! A room that is hosted here: judged, stored, told, in this order and one after the other.

use futures::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::*;
use crate::{
    chat::room::Room,
    store::{ChatRow, ChatWrite},
    time::unix_now,
};

/// Events that are read when a room is opened.
const LOADED: usize = 300;
/// How long the store has to tell what was said last, before the room goes on without; and each try to read what counts.
pub(super) const LOAD: Duration = Duration::from_secs(2);
/// Requests that are judged and stored together, and lots of them that are being stored.
const LOT: usize = 128;
const LOTS: usize = 8;
/// How often others are told that nothing is on its way, and it is looked whether anybody needs the room.
const BEAT: Duration = Duration::from_millis(250);
/// How often it is tried to read what counts, where it could not be.
const AGAIN: Duration = Duration::from_secs(2);

type Answer = Result<EventId, Refusal>;

/// What a stored lot is answered with.
struct Lot {
    events: Vec<Event>,
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
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.rooms.shared.stop.clone();
        let mut over = None;
        loop {
            if let Some(over) = over
                && storing.is_empty()
            {
                return over;
            }
            for ask in self.again.drain(..) {
                lot.push(ask);
            }
            if !lot.is_empty() {
                storing.push_back(self.judge(&mut room, std::mem::take(&mut lot)));
            }
            tokio::select! {
                biased;
                Some((stored, result)) = storing.next() => self.tell(stored, result),
                _ = self.asked.recv_many(&mut lot, LOT), if over.is_none() && storing.len() < LOTS => {}
                () = stop.cancelled(), if over.is_none() => over = Some(Over::Stopping),
                Ok(()) = changes.changed(), if over.is_none() => {
                    if self.hosts().is_some() {
                        over = Some(Over::Moved);
                    }
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
                    if !is_whole && now() - tried >= AGAIN {
                        tried = now();
                        if let Some(rules) = self.rules().await {
                            room = self.restored(&rules);
                            is_whole = true;
                        }
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
        let (stream, meta) = (&self.room.stream, &self.rooms.shared.meta);
        let read = meta.chat_back(stream, &ChatLog::Live, EventId::MAX, LOADED);
        let rows = match timeout(LOAD, read).await {
            Ok(Ok(rows)) => Some(rows),
            Ok(Err(why)) => {
                warn!(%stream, %why, "a room goes on without what was said in it before");
                None
            }
            Err(_) => {
                warn!(%stream, "a room goes on without what was said in it before: the store is silent");
                None
            }
        };
        if let Some(mut rows) = rows {
            rows.reverse();
            self.take_up(&rows);
        }
        let rules = self.rules().await;
        let is_whole = rules.is_some();
        (self.restored(&rules.unwrap_or_default()), is_whole)
    }

    /// Gives viewers what they were not told yet of what is stored.
    fn take_up(&self, rows: &[ChatRow]) {
        let events = rows.iter().filter_map(|row| serde_json::from_str::<Event>(&row.body).ok());
        let told: Vec<_> = events.map(|event| Told::new(&event)).collect();
        let hub = &self.room.hub;
        if hub.newest() > EventId(0) {
            return hub.publish(told);
        }
        // All there is, or all since the one before the first.
        let base = match rows.first() {
            Some(first) if rows.len() >= LOADED => EventId(first.id.0 - 1),
            _ => EventId(0),
        };
        hub.load(base, told);
    }

    /// The room with these rules and what its viewers know.
    fn restored(&self, rules: &[(String, String)]) -> Room {
        let known = self.room.hub.after(EventId(0)).events;
        let events: Vec<Event> = known.iter().filter_map(|told| serde_json::from_str(&told.json).ok()).collect();
        let (mut room, bad) = Room::restore(rules, &events);
        if !bad.is_empty() {
            tracing::error!(stream = %self.room.stream, rules = ?bad, "rules of a room cannot be read: they do not count");
        }
        room.pass(self.room.hub.floor());
        self.know(Known::of(rules));
        room
    }

    /// Judges requests in turn, and stores what came of it.
    fn judge(&self, room: &mut Room, asks: Vec<Ask>) -> BoxFuture<'static, (Lot, store::Result<()>)> {
        let (mut writes, mut events, mut replies, mut known) = (Vec::new(), Vec::new(), Vec::new(), None);
        for Ask { who, nonce, act, reply, .. } in asks {
            let done = match room.act(unix_now(), &who, nonce.as_deref(), &act) {
                Ok(done) => {
                    if matches!(act, Act::Set { .. } | Act::Moderator { .. }) {
                        known = Some(room.known());
                    }
                    writes.extend(done.writes);
                    events.extend(done.event);
                    Ok(done.id)
                }
                Err(why) => Err(why),
            };
            replies.push((reply, done));
        }
        let known = known.map(|(settings, moderators)| Known { settings, moderators });
        let (meta, stream, lot) =
            (self.rooms.shared.meta.clone(), self.room.stream.clone(), Lot { events, replies, known });
        Box::pin(async move {
            let stored = if writes.is_empty() { Ok(()) } else { store(&*meta, &stream, writes).await };
            (lot, stored)
        })
    }

    /// Tells what is stored.
    fn tell(&self, lot: Lot, stored: store::Result<()>) {
        let Lot { events, replies, known } = lot;
        if let Err(why) = &stored {
            warn!(stream = %self.room.stream, %why, "what was said is not stored, and not told");
        }
        if stored.is_ok() {
            known.into_iter().for_each(|known| self.know(known));
            self.room.hub.publish(events.iter().map(Told::new).collect());
        }
        for (reply, done) in replies {
            let unstored = |_| Refusal::new("not_stored", "it could not be stored").again_in(Duration::from_secs(1));
            // Whoever asked may be gone.
            let _ = reply.send(done.and_then(|id| stored.as_ref().map(|()| id).map_err(unstored)));
        }
    }
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
