//! Leading and following: whether this line publishes what it makes, or stands by to.
//!
//! Both make the same chunks of the same feed. A line that follows shows and stores nothing of them, until it is told to
//! lead, or finds that nobody does: then it takes the next epoch from the first number on of which the store has less than it
//! holds. A line that leads looks into the epoch log before it does what another's chunks would contradict: list a hole, or
//! end the broadcast.

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::*;
use crate::{cluster::epoch::takes_over_at, store::EpochRow};

/// What the store has of a broadcast is waited for so long when another node is to be replaced; without an answer all that
/// is here is published.
const TAIL_PATIENCE: Duration = Duration::from_millis(700);
/// The epoch log is asked for so long before a hole is listed, and again after as long when it does not answer.
const LOG_PATIENCE: Duration = Duration::from_millis(500);
/// A line that led and is to follow shows what it had for so long: it may be told to lead again at once.
const STALE: Duration = Duration::from_millis(1500);
/// A standby that takes over and is behind the one before it has so long to list what viewers were shown.
const CATCH_UP: Duration = Duration::from_millis(1500);
/// A standby whose feed ended looks for the one that leads after this: its gateway may be gone with it.
const ORPHAN: Duration = Duration::from_millis(1500);
/// And again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Beyond the reconnect window, a standby without a feed keeps what it made for so long.
const KEEP: Duration = Duration::from_secs(10);
/// How far a line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// It publishes what it makes.
    pub leads: bool,
    /// The newest chunk number that it listed, or would list.
    pub k: Option<u64>,
}

/// What a standby must know of an epoch to make it as the owner does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// When the broadcast began.
    pub started: UnixMs,
    /// How its chunks are divided.
    pub parts: Option<Parts>,
    /// Where the epoch before it ends, 90 kHz; nothing where its media tells.
    pub ended_at: Option<i64>,
}

/// An epoch of the feed whose configs are still to come.
#[derive(Debug)]
struct Pending {
    epoch: Epoch,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
}

/// A standby whose feed has ended.
#[derive(Debug, Clone, Copy)]
struct Orphan {
    since: Timestamp,
    /// When to look for the one that leads.
    look: Timestamp,
    /// The newest row of the broadcast, and since when it is that.
    newest: Option<u64>,
    quiet_since: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct Role {
    leads: bool,
    /// The epoch log did not say whether this line still leads; it is asked again then.
    unsure_until: Timestamp,
    plan: Option<Plan>,
    pending: Option<Pending>,
    stale_until: Option<Timestamp>,
    /// Viewers were shown this chunk number by another node: until it is listed here, or until then, they see nothing.
    shown_to: Option<(u64, Timestamp)>,
    /// It was told to lead before it knew the epoch: it does so once that has begun.
    must_lead: bool,
    /// There is no feed.
    orphan: Option<Orphan>,
    /// The node that led when it was looked for.
    leader: Option<String>,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            leads: true,
            unsure_until: Timestamp(0),
            plan: None,
            pending: None,
            stale_until: None,
            shown_to: None,
            must_lead: false,
            orphan: None,
            leader: None,
        }
    }
}

impl Role {
    fn following() -> Self {
        Self { leads: false, ..Self::default() }
    }

    pub fn leads(&self) -> bool {
        self.leads
    }

    pub fn plan(&mut self, plan: Plan) {
        self.plan = Some(plan);
    }

    pub fn unsure_until(&self) -> Timestamp {
        self.unsure_until
    }

    /// The feed ended.
    pub fn orphan(&mut self, stamp: Timestamp) {
        if !self.leads {
            self.orphan = Some(Orphan { since: stamp, look: stamp + ORPHAN, newest: None, quiet_since: stamp });
            self.leader = None;
        }
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        let look = self.orphan.map(|orphan| orphan.look);
        let shows = self.shown_to.map(|(_, until)| until);
        [self.stale_until, shows, look].into_iter().flatten().min()
    }
}

impl Task {
    /// Whether what is shown is what this line had when it led.
    pub(super) fn is_stale(&self) -> bool {
        self.role.stale_until.is_some_and(|until| now() < until)
    }

    /// Whether viewers were shown more by another node than is listed here. A playlist must not go back.
    pub(super) fn is_behind_shown(&mut self) -> bool {
        let Some((k, until)) = self.role.shown_to else { return false };
        let is_behind = now() < until && self.broadcast.as_ref().is_some_and(|broadcast| !broadcast.has_listed(k));
        if !is_behind {
            self.role.shown_to = None;
        }
        is_behind
    }

    /// Gives the stream to a newer session.
    pub(super) fn replace_session(&mut self, session: Session) {
        if let Some(old) = self.session.replace(session) {
            info!(stream = %self.stream, session = old.number, "a newer session with the valid key takes over");
            metrics::counter!("weir_sessions_replaced_total").increment(1);
            old.stop.cancel();
            self.end_epoch(None);
        }
    }

    /// Takes a session's feed. A line that leads goes on to, if the session is a new one.
    pub(super) fn follow(&mut self, session: Session) -> Result<(), Fenced> {
        let before = self.session.as_ref().map(|session| session.order);
        if before.is_some_and(|before| before > session.order) {
            return Err(Fenced);
        }
        let again = before == Some(session.order);
        if again || (self.role.leads && self.broadcast.is_none()) {
            // The feed begins anew, some chunks back.
            let was_shown = self.role.leads && self.broadcast.is_some();
            self.forget();
            self.role.stale_until = was_shown.then(|| now() + STALE);
            if let Some(old) = self.session.replace(session) {
                old.stop.cancel();
            }
        } else {
            self.replace_session(session);
            self.role.orphan = None;
        }
        Ok(())
    }

    /// Takes what a line that follows must know before it can use a packet. Gives back what is for every line.
    pub(super) fn followed(&mut self, message: Message) -> Option<Message> {
        if self.role.leads {
            match &message {
                // Of a node that was lost before its first packet.
                Message::Epoch(epoch) if self.run.as_ref().is_none_or(|run| run.epoch.number != epoch.number) => {
                    self.forget();
                    self.role.must_lead = true;
                }
                _ => return Some(message),
            }
        }
        match (message, &mut self.role.pending) {
            (Message::Epoch(epoch), pending) => {
                *pending = Some(Pending { epoch, video: None, audio: None });
                None
            }
            (Message::Video(config), Some(pending)) => {
                pending.video = Some(config);
                None
            }
            (Message::Audio(config), Some(pending)) => {
                pending.audio = Some(config);
                None
            }
            (message, _) => {
                self.begin_pending();
                Some(message)
            }
        }
    }

    /// Leads, if it was told to before it could.
    pub(super) async fn lead_at_last(&mut self) {
        if self.role.must_lead && self.run.is_some() {
            self.lead(None).await;
        }
    }

    /// Begins the epoch that another node has taken, as soon as its configs are known.
    fn begin_pending(&mut self) {
        let Some(Pending { epoch, video, audio }) = self.role.pending.take() else { return };
        let plan = self.role.plan.take();
        self.end_epoch(plan.and_then(|plan| plan.ended_at));
        let begin = Begin { reason: Break::First, next: None, video, audio };
        if self.broadcast.as_ref().is_none_or(|broadcast| *broadcast.id() != epoch.broadcast) {
            let started = plan.map_or(epoch.wall, |plan| plan.started);
            let parts = plan.map_or_else(|| Some(self.parts(&begin)), |plan| plan.parts);
            let (id, settings) = (epoch.broadcast.clone(), self.shared.config.broadcast());
            self.encodings.clear();
            self.broadcast = Some(Broadcast::new(self.stream.clone(), id, started, settings, parts));
        }
        self.ring.push(Message::Epoch(epoch.clone()));
        self.run_epoch(epoch, &begin);
        begin.video.map(Message::Video).into_iter().for_each(|config| self.media(config));
        begin.audio.map(Message::Audio).into_iter().for_each(|config| self.media(config));
    }

    /// Publishes from now on what it makes and what it has made that is not stored.
    pub(super) async fn lead(&mut self, listed: Option<u64>) {
        if self.role.leads {
            return;
        }
        self.begin_pending();
        let shared = self.shared.clone();
        let (config, stores) = (&shared.config, &shared.stores);
        let standby = self.broadcast.take();
        let last = timeout(TAIL_PATIENCE, stores.meta.last_epoch(&self.stream)).await;
        let last = last.ok().and_then(|last| last.ok().flatten());
        let is_over = |standby: &Broadcast| last.as_ref().is_some_and(|last| last.broadcast > *standby.id());
        self.role = Role { shown_to: listed.map(|k| (k, now() + CATCH_UP)), ..Role::default() };
        self.stored_rows.clear();
        self.inits.clear();
        self.changed = true;
        match standby.filter(|standby| !is_over(standby)) {
            Some(standby) => self.take_over(standby, last).await,
            None => {
                self.forget_media();
                self.broadcast = recover::adopt(config, stores, &self.stream).await.unwrap_or_else(|why| {
                    self.alarm(&why);
                    None
                });
                self.away = self.broadcast.as_ref().map(|_| (now(), 0));
                // What it took up, it took up from the newest.
                self.last_epoch = last.map_or(0, |last| last.epoch).max(self.last_epoch);
            }
        }
    }

    /// Goes on with a broadcast of which this line has made the newest chunks.
    async fn take_over(&mut self, standby: Broadcast, last: Option<EpochRow>) {
        let shared = self.shared.clone();
        let (config, stores) = (&shared.config, &shared.stores);
        let (stream, id) = (self.stream.clone(), standby.id().clone());
        let read = async {
            let Some(row) = stores.meta.broadcast(&stream, &id).await? else { return Ok(None) };
            recover::tail(config, stores, row).await.map(Some)
        };
        let tail =
            timeout(TAIL_PATIENCE, read).await.unwrap_or_else(|_| Err(store::Error::Unavailable("silence".into())));
        let mut tail = tail.unwrap_or_else(|why| {
            warn!(%stream, %why, "a takeover does not know what is stored: all that is here is published");
            None
        });
        let stored = tail.as_ref().map_or(&[][..], |tail| &tail.chunks);
        let held = standby.renditions().flat_map(|name| standby.here(name).map(move |k| (name, k)));
        let open = standby.edge().map_or(0, |(last, ..)| last);
        let k_start = takes_over_at(held, stored, open);
        let from = last.map(|last| last.node).unwrap_or_default();
        let (at, wall, discontinuity) = match standby.slot(k_start) {
            Some(slot) => (slot.at, slot.wall, slot.discontinuity),
            None => standby.edge().map_or((0, standby.started(), false), |(_, at, wall)| (at, wall, false)),
        };
        let epoch = Epoch { broadcast: id.clone(), number: 0, k: k_start, at, wall, discontinuity };
        let number = self.take_epoch(&epoch).await;
        self.last_epoch = number;
        info!(%stream, broadcast = %id, epoch = number, k = k_start, from, "this node takes over");
        metrics::counter!("weir_takeovers_total").increment(1);
        let mut restored = None;
        if let Some(tail) = &mut tail {
            tail.chunks.retain(|chunk| chunk.k < k_start);
            let read = timeout(TAIL_PATIENCE, tail.restore(config, stores, Some(&standby)));
            restored = read.await.ok().and_then(Result::ok).flatten();
        }
        let mut broadcast = restored.unwrap_or_else(|| {
            let (started, settings) = (standby.started(), config.broadcast());
            Broadcast::new(stream, id, started, settings, standby.parts())
        });
        let finished = broadcast.go_on(standby, number, k_start);
        if let Some(run) = &mut self.run {
            run.writes = number;
            run.source.iter_mut().chain(&mut run.audio).for_each(|chunker| chunker.set_epoch(number));
        }
        for encoding in self.encodings.values_mut() {
            encoding.writes = number;
            encoding.chunkers.values_mut().for_each(|chunker| chunker.set_epoch(number));
        }
        for (rendition, hash, bytes) in broadcast.inits() {
            self.inits.insert((rendition.clone(), hash.clone()));
            let (broadcast, rendition) = (broadcast.id().clone(), rendition.clone());
            self.keeper.submit(Job::Init { broadcast, rendition, hash: hash.clone(), bytes: bytes.clone() });
        }
        self.broadcast = Some(broadcast);
        for Finished { rendition, chunk, init } in finished {
            self.finished(rendition, init, chunk);
        }
        self.away = if self.run.is_some() { None } else { Some((self.heard, 0)) };
        self.encode_at_last(k_start);
        self.store_broadcast(None);
    }

    /// Begins to encode what a warm standby has not: from this chunk on, or the first one after it that is kept.
    fn encode_at_last(&mut self, k_start: u64) {
        let Some(run) = &mut self.run else { return };
        let kept = self.ring.boundaries().into_iter().find(|k| *k >= k_start.max(run.epoch.k));
        let (Some(video), Some(k)) = (run.video.clone(), kept) else { return };
        if let Some(granted) = run.granted.take() {
            let number = run.epoch.number;
            self.encode(number, granted, &video, k);
        }
    }

    /// Another node says that it has a later epoch: if the log says so too, this line leads no more.
    pub(super) async fn doubt(&mut self, epoch: u64) {
        if self.role.leads && self.broadcast.is_some() && epoch > self.last_epoch {
            self.is_newest().await;
        }
    }

    /// Whether no other node has taken a later epoch. If one has, this line stops leading; if the log does not answer, the
    /// question is open for a while.
    pub(super) async fn is_newest(&mut self) -> bool {
        if self.shared.config.alone {
            return true;
        }
        let read = timeout(LOG_PATIENCE, self.shared.stores.meta.last_epoch(&self.stream)).await;
        let Ok(Ok(last)) = read else {
            self.role.unsure_until = now() + LOG_PATIENCE;
            return false;
        };
        let Some(last) = last.filter(|last| last.epoch > self.last_epoch && last.node != self.shared.config.node)
        else {
            return true;
        };
        info!(stream = %self.stream, epoch = last.epoch, by = last.node, "another node has taken over: this one steps down");
        if let Some(session) = self.session.take() {
            session.stop.cancel();
        }
        self.step_down();
        false
    }

    /// Shows and makes nothing any more.
    pub(super) fn step_down(&mut self) {
        self.forget();
        self.changed = true;
    }

    /// Looks whether someone leads what this line follows without a feed.
    pub(super) async fn watch_leader(&mut self, stamp: Timestamp) {
        if self.role.stale_until.is_some_and(|until| until <= stamp) {
            self.role.stale_until = None;
            self.changed = true;
        }
        let Some(orphan) = self.role.orphan.as_mut().filter(|orphan| orphan.look <= stamp) else { return };
        if stamp - orphan.since > self.shared.config.reconnect_window + KEEP {
            return self.step_down();
        }
        orphan.look = stamp + LOOK_AGAIN;
        let peers = self.shared.peers.clone();
        let is_alive = |node: &str| peers.as_ref().is_some_and(|peers| peers.is_alive(node));
        if self.role.leader.as_deref().is_some_and(is_alive) {
            return;
        }
        let read = timeout(LOG_PATIENCE, self.shared.stores.meta.last_epoch(&self.stream)).await;
        let Ok(Ok(Some(last))) = read else { return };
        if last.node == self.shared.config.node || !is_alive(&last.node) {
            // It may be cut off from this node alone: then its rows go on coming.
            if !self.is_quiet(&last, stamp).await {
                return;
            }
            warn!(stream = %self.stream, leader = last.node, "the node that led is gone, and so is the feed");
            self.lead(None).await;
        } else {
            self.role.leader = Some(last.node);
        }
    }

    /// Whether no new row of an epoch's broadcast has come for some chunks' time.
    async fn is_quiet(&mut self, last: &EpochRow, stamp: Timestamp) -> bool {
        let newest = self.shared.stores.meta.chunks_back(&self.stream, &last.broadcast, None, 1);
        let Ok(Ok(rows)) = timeout(LOG_PATIENCE, newest).await else { return false };
        let (newest, quiet) = (rows.first().map(|row| row.k), self.chunk_time() * 2);
        let Some(orphan) = &mut self.role.orphan else { return false };
        if orphan.newest != newest {
            // How old the first one is that is seen is not known: rows that go on coming are found out the next time.
            orphan.quiet_since = if orphan.newest.is_none() { orphan.since } else { stamp };
            orphan.newest = newest;
            return false;
        }
        stamp - orphan.quiet_since >= quiet
    }

    /// Lets go of all that was made, and follows.
    fn forget(&mut self) {
        self.forget_media();
        self.broadcast = None;
        self.ended = None;
        self.inits.clear();
        self.stored_rows.clear();
        self.role = Role::following();
    }

    fn forget_media(&mut self) {
        self.run = None;
        self.encodings.clear();
        self.away = None;
        self.ring = new_ring(&self.shared.config);
    }
}
