//! Leading and following: whether this line publishes what it makes, or stands by to.
//!
//! Both make the same chunks of the same feed. A line that follows shows and stores nothing of them, until it is told to
//! lead, or finds that nobody does: then it takes the next epoch from the first number on of which the store has less than it
//! holds. A line that leads looks into the epoch log before it does what another's chunks would contradict: list a hole, or
//! end the broadcast.

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::*;
use crate::{
    cluster::{epoch::takes_over_at, twins::Made},
    id::BroadcastId,
    line::{Stores, recover::Tail},
    store::EpochRow,
};

mod log;

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
/// A gateway that is not heard, and has not closed its feeds, may be heard again within this: its last chunk stays open.
const RETURN: Duration = Duration::from_secs(5);
/// A line that leads looks into the log so often, heard or not: what it has in memory reaches back further.
const VERIFY: Duration = Duration::from_secs(10);
/// Beyond the reconnect window, a standby without a feed keeps what it made for so long.
const KEEP: Duration = Duration::from_secs(10);
/// How far a line is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// It publishes what it makes.
    pub leads: bool,
    /// The newest chunk number that it listed, or would list.
    pub k: Option<u64>,
    /// The epoch by which it names what it lists.
    #[serde(default)]
    pub epoch: u64,
    /// The newest session that it knows, by its order.
    #[serde(default)]
    pub newest: u64,
    /// What it has made of each rendition, where others may have made the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made: BTreeMap<Rendition, Made>,
    /// The newest picture of each rendition that it encodes, by decode time, 90 kHz.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encoded: BTreeMap<Rendition, i64>,
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
    /// The newest row of the broadcast, as it was seen last.
    looked: Option<Option<u64>>,
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
    /// The epoch that this line leads in may not be in the log: when to look whether it is.
    unlogged: Option<Timestamp>,
    /// The feed was lost inside a chunk: when to look whether it goes on at another node.
    lost: Option<Timestamp>,
    /// When to look whether another node has taken a later epoch unheard.
    verify: Timestamp,
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
            unlogged: None,
            lost: None,
            verify: now() + VERIFY,
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

    /// An epoch was begun that the log does not have yet, and that another node may take.
    pub fn begins_unlogged(&mut self) {
        self.unlogged = Some(now() + LOOK_AGAIN);
    }

    pub fn unsure_until(&self) -> Timestamp {
        self.unsure_until
    }

    /// The feed ends. Whether the chunk that was begun stays open, as ended here it would be shorter than elsewhere: until the log
    /// says that no other leads, and until a gateway that is not heard had time to be heard again.
    pub fn keeps_open(&mut self, parting: Parting) -> bool {
        match parting {
            Parting::Over => return false,
            Parting::Closed => self.lost = self.leads.then(now),
            Parting::Silent => self.lost = self.leads.then(|| now() + RETURN),
        }
        self.leads || parting == Parting::Silent
    }

    /// The feed ended.
    pub fn orphan(&mut self, stamp: Timestamp) {
        if !self.leads {
            self.orphan = Some(Orphan { since: stamp, look: stamp + ORPHAN, looked: None });
            self.leader = None;
        }
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        let look = self.orphan.map(|orphan| orphan.look);
        let shows = self.shown_to.map(|(_, until)| until);
        let verify = Some(self.verify).filter(|_| self.leads);
        [self.stale_until, self.unlogged, self.lost, verify, shows, look].into_iter().flatten().min()
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
        (self.newest, self.turn) = (session.order, 0);
        self.meter.begin();
        if let Some(old) = self.session.replace(session) {
            info!(stream = %self.stream, session = old.number, "a newer session with the valid key takes over");
            metrics::counter!("weir_sessions_replaced_total").increment(1);
            old.stop.cancel();
            self.end_epoch(None);
        }
    }

    /// Takes a session's feed. A line that leads goes on to, if the session is a new one.
    pub(super) fn follow(&mut self, session: Session) -> Result<(), Fenced> {
        if self.newest > session.order && !self.shared.config.alone {
            return Err(Fenced);
        }
        let again = self.newest == session.order;
        if !again {
            (self.newest, self.turn) = (session.order, 0);
        }
        if again || (self.role.leads && self.broadcast.is_none()) {
            // The feed begins anew, some chunks back.
            let was_shown = self.role.leads && self.broadcast.is_some();
            let stale_until = if was_shown { Some(now() + STALE) } else { self.role.stale_until };
            self.forget();
            self.role.stale_until = stale_until;
            if let Some(old) = self.session.replace(session) {
                old.stop.cancel();
            }
        } else {
            if self.role.lost.take().is_some() {
                self.end_epoch(None);
            }
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
            // One that is fenced has told its feed so.
            let _ = self.lead(None, &Names::default()).await;
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

    /// Publishes from now on what it makes and what it has made that is not stored. What viewers were shown by another node, up to
    /// `listed`, keeps its names.
    ///
    /// # Errors
    /// The log has an epoch of a newer session, or of a later order to lead.
    pub(super) async fn lead(&mut self, listed: Option<u64>, names: &Names) -> Result<(), Fenced> {
        if self.role.leads {
            // It may have slept while another led: what that made comes first.
            if !matches!(self.later_epoch().await, Ok(Some(_))) {
                return Ok(());
            }
            self.forget();
        }
        self.begin_pending();
        let standby = self.broadcast.take();
        let (last, tail) = self.look_up(standby.as_ref().map(Broadcast::id)).await;
        if last.as_ref().and_then(Option::as_ref).is_some_and(|last| self.is_fenced_by(last)) {
            return Err(Fenced);
        }
        // Where the log does not answer, what is known of it counts; and what the gateway has heard of may not be in it yet. An epoch
        // that looks older than another node's would have viewers ask that one.
        let number = last.as_ref().map_or(self.last_epoch, |last| last.as_ref().map_or(0, |last| last.epoch));
        let number = number.max(names.newest().unwrap_or_default());
        let last = last.flatten();
        let is_over = |standby: &Broadcast| last.as_ref().is_some_and(|last| last.broadcast > *standby.id());
        self.role = Role { shown_to: listed.map(|k| (k, now() + CATCH_UP)), ..Role::default() };
        self.stored_rows.clear();
        self.inits.clear();
        self.changed = true;
        let oldest = |listed: u64| listed.saturating_sub(self.shared.config.window as u64);
        let shown_as = listed.map(|listed| names.of(oldest(listed)..=listed)).unwrap_or_default();
        match standby.filter(|standby| !is_over(standby)) {
            Some(standby) => {
                let from = last.map(|last| last.node).unwrap_or_default();
                self.take_over(standby, tail, number, &from, shown_as).await
            }
            None => {
                self.forget_media();
                let shared = self.shared.clone();
                let adopted = recover::adopt(&shared.config, &shared.stores, &self.stream).await;
                self.broadcast = adopted.unwrap_or_else(|why| {
                    self.alarm(&why);
                    None
                });
                self.away = self.broadcast.as_ref().map(|_| (now(), 0));
                // What it took up, it took up from the newest.
                (self.last_epoch, self.owns_epoch) = (number.max(self.last_epoch), false);
                Ok(())
            }
        }
    }

    /// Reads the newest epoch, and what is stored of the broadcast that a standby has made. Waits for neither for long: nothing
    /// where there is no answer.
    async fn look_up(&self, standby: Option<&BroadcastId>) -> (Option<Option<EpochRow>>, Option<Tail>) {
        let (config, stores) = (&self.shared.config, &self.shared.stores);
        let last = timeout(TAIL_PATIENCE, stores.meta.last_epoch(&self.stream));
        let tail = timeout(TAIL_PATIENCE, async {
            let Some(id) = standby else { return Ok(None) };
            let Some(row) = stores.meta.broadcast(&self.stream, id).await? else { return Ok(None) };
            recover::tail(config, stores, row).await.map(Some)
        });
        let (last, tail) = tokio::join!(last, tail);
        let tail = tail.unwrap_or_else(|_| Err(store::Error::Unavailable("silence".into()))).unwrap_or_else(|why| {
            warn!(stream = %self.stream, %why, "a takeover does not know what is stored: all that is here is published");
            None
        });
        (last.ok().and_then(Result::ok), tail)
    }

    /// Goes on with a broadcast of which this line has made the newest chunks. `last`: the newest epoch's number, taken by `from`.
    async fn take_over(
        &mut self,
        standby: Broadcast,
        mut tail: Option<Tail>,
        last: u64,
        from: &str,
        shown_as: BTreeMap<u64, u64>,
    ) -> Result<(), Fenced> {
        let shared = self.shared.clone();
        let (config, stores) = (&shared.config, &shared.stores);
        let (stream, id) = (self.stream.clone(), standby.id().clone());
        let stored = tail.as_ref().map_or(&[][..], |tail| &tail.chunks);
        let held = standby.renditions().flat_map(|name| standby.here(name).map(move |k| (name, k)));
        let open = standby.edge().map_or(0, |(last, ..)| last);
        let k_start = takes_over_at(held, stored, open);
        let (at, wall, discontinuity) = match standby.slot(k_start) {
            Some(slot) => (slot.at, slot.wall, slot.discontinuity),
            None => standby.edge().map_or((0, standby.started(), false), |(_, at, wall)| (at, wall, false)),
        };
        let epoch = Epoch { broadcast: id.clone(), number: 0, k: k_start, at, wall, discontinuity };
        let number = self.take_epoch(&epoch, Some(last)).await?;
        info!(%stream, broadcast = %id, epoch = number, k = k_start, from, "this node takes over");
        metrics::counter!("weir_takeovers_total").increment(1);
        let mut restored = None;
        if let Some(tail) = &mut tail {
            tail.chunks.retain(|chunk| chunk.k < k_start);
            let read = timeout(TAIL_PATIENCE, tail.restore(config, stores, Some((&standby, &shown_as))));
            restored = read.await.ok().and_then(Result::ok).flatten();
        }
        let mut broadcast = restored.unwrap_or_else(|| {
            let (started, settings) = (standby.started(), config.broadcast());
            Broadcast::new(stream, id, started, settings, standby.parts())
        });
        let finished = broadcast.go_on(standby, number, k_start, shown_as);
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
        finished.into_iter().for_each(|made| self.keep(made));
        self.away = if self.run.is_some() { None } else { Some((self.heard, 0)) };
        self.encode_at_last(k_start);
        self.store_broadcast(None);
        Ok(())
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

    /// Tells how far this line is.
    pub(super) fn stand(&self, k: Option<u64>) {
        let epoch = self.broadcast.as_ref().map_or(0, Broadcast::epoch);
        let (leads, newest, made) = (self.role.leads, self.newest, self.made.clone());
        self.standing.send_if_modified(|known| {
            let standing = Standing { leads, k, epoch, newest, made, encoded: known.encoded.clone() };
            let is_news = *known != standing;
            *known = standing;
            is_news
        });
    }

    /// Tells with the next beat how far a rendition is encoded; nothing: not any more.
    pub(super) fn stand_encoded(&self, rung: &Rendition, dts: Option<i64>) {
        self.standing.send_if_modified(|known| {
            match (known.encoded.get_mut(rung), dts) {
                (Some(at), Some(dts)) => *at = dts,
                (None, Some(dts)) => _ = known.encoded.insert(rung.clone(), dts),
                (_, None) => _ = known.encoded.remove(rung),
            }
            false
        });
    }

    /// Shows and makes nothing any more.
    pub(super) fn step_down(&mut self) {
        self.forget();
        self.changed = true;
    }

    /// Another node leads, as this one's gateway says. It may have to list first what viewers were shown here: until it is heard to,
    /// they are shown that still.
    pub(super) fn leave(&mut self) {
        let was_shown = self.role.leads && self.broadcast.is_some();
        self.session = None;
        self.step_down();
        self.role.stale_until = was_shown.then(|| now() + STALE);
    }

    /// Another node shows this epoch: what is still shown here of an older one is not any more.
    pub(super) fn give_way(&mut self, epoch: u64) {
        if self.is_stale() && self.shown.borrow().as_ref().is_some_and(|shown| shown.epoch < epoch) {
            self.role.stale_until = None;
            self.changed = true;
        }
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
            // As if it were told to in its place.
            if last.session == self.newest {
                self.turn = last.turn;
            }
            // Where a newer session was there meanwhile, its nodes have what comes next.
            if self.lead(None, &Names::default()).await.is_ok() && self.run.is_some() {
                self.role.lost = Some(stamp + RETURN);
            }
        } else {
            self.role.leader = Some(last.node);
        }
    }

    /// Whether an epoch's broadcast has got no row for some chunks' time, and none between two looks.
    async fn is_quiet(&mut self, last: &EpochRow, stamp: Timestamp) -> bool {
        let newest = self.shared.stores.meta.chunks_back(&self.stream, &last.broadcast, None, 1);
        let Ok(Ok(rows)) = timeout(LOG_PATIENCE, newest).await else { return false };
        let (newest, quiet) = (rows.first(), self.chunk_time() * 2);
        let Some(orphan) = &mut self.role.orphan else { return false };
        let is_same = orphan.looked.replace(newest.map(|row| row.k)) == orphan.looked;
        let is_old = newest.is_none_or(|row| unix_now().since(recover::end_of(row)) >= quiet);
        is_same && is_old && stamp - orphan.since >= quiet
    }

    /// Lets go of all that was made, and follows.
    fn forget(&mut self) {
        self.forget_media();
        self.broadcast = None;
        self.ended = None;
        self.owns_epoch = false;
        self.inits.clear();
        self.stored_rows.clear();
        self.made.clear();
        self.role = Role::following();
    }

    fn forget_media(&mut self) {
        self.run = None;
        self.encodings.clear();
        self.away = None;
        self.ring = new_ring(&self.shared.config);
    }
}
