//! What the epoch log says of a line that leads, or thinks so: whether it still does, and what follows where it does not.

use tokio::time::timeout;

use super::*;

impl Task {
    /// Looks into the log from time to time: whoever took a later epoch may be gone before it was heard of.
    pub(in crate::line::task) async fn verify(&mut self, stamp: Timestamp) {
        if stamp >= self.role.verify {
            self.role.verify = stamp + VERIFY;
            if self.broadcast.is_some() {
                self.is_newest().await;
            }
        }
    }

    /// Another node says that it has a later epoch: if the log says so too, this line leads no more.
    pub(in crate::line::task) async fn doubt(&mut self, epoch: u64) {
        if self.role.leads && self.broadcast.is_some() && epoch >= self.last_epoch {
            self.is_newest().await;
        }
    }

    /// Whether no other node has taken a later epoch. If one has, this line stops leading; if the log does not answer, the
    /// question is open for a while.
    pub(in crate::line::task) async fn is_newest(&mut self) -> bool {
        match self.later_epoch().await {
            Ok(None) => true,
            Ok(Some(last)) => !self.is_fenced_by(&last) && self.lead_anew(&last).await,
            Err(()) => {
                self.role.unsure_until = now() + LOG_PATIENCE;
                false
            }
        }
    }

    /// The log's newest epoch, if it is a later one than this line's, and another node's. An error where the log does not say:
    /// what was last known says nothing, unless there are no others.
    pub(super) async fn later_epoch(&self) -> Result<Option<EpochRow>, ()> {
        let shared = self.shared.clone();
        if shared.config.alone {
            return Ok(None);
        }
        let has_others = shared.peers.as_ref().is_some_and(|peers| peers.has_others());
        let read = async {
            match has_others {
                true => shared.stores.meta.last_epoch_there(&self.stream).await,
                false => shared.stores.meta.last_epoch(&self.stream).await,
            }
        };
        let last = timeout(LOG_PATIENCE, read).await.map_err(|_| ())?.map_err(|_| ())?;
        let is_later =
            |last: &EpochRow| last.epoch > self.last_epoch || (last.epoch == self.last_epoch && self.owns_epoch);
        Ok(last.filter(|last| is_later(last) && last.node != shared.config.node))
    }

    /// Ends the chunk that the feed was lost in, once the log says that this line still leads.
    pub(in crate::line::task) async fn end_what_is_lost(&mut self, stamp: Timestamp) {
        if self.role.lost.is_none_or(|at| at > stamp) {
            return;
        }
        if self.is_newest().await {
            self.role.lost = None;
            self.end_epoch(None);
        } else if self.role.leads {
            self.role.lost = Some(self.role.unsure_until);
        }
    }

    /// Looks whether an epoch that was begun while the database was away is this line's. If another node has it, nothing that is
    /// made in it counts.
    pub(in crate::line::task) async fn look_after_epoch(&mut self, stamp: Timestamp) {
        if self.role.unlogged.is_none_or(|at| at > stamp) {
            return;
        }
        self.role.unlogged = Some(stamp + LOOK_AGAIN);
        let Stores { meta, health, .. } = self.shared.stores.clone();
        let Ok(Ok(last)) = timeout(LOG_PATIENCE, meta.last_epoch(&self.stream)).await else { return };
        let is_well = health.trouble().is_none() && health.delay().is_none();
        let is_here = |last: &EpochRow| last.epoch == self.last_epoch && last.node == self.shared.config.node;
        let Some(last) = last else { return };
        if is_here(&last) {
            self.role.unlogged = self.role.unlogged.filter(|_| !is_well);
        } else if (last.epoch >= self.last_epoch || is_well) && !self.is_fenced_by(&last) {
            // Less counts only where it is not what was last known before the database went away.
            self.lead_anew(&last).await;
        }
    }

    /// Takes another epoch, if what is made here can go on as it is: it has a feed, and its chunk numbers were not given to another
    /// session. If not, the publisher has to come again. `last`: the log's newest. Whether it leads.
    async fn lead_anew(&mut self, last: &EpochRow) -> bool {
        let is_other = self.broadcast.as_ref().is_none_or(|broadcast| last.broadcast < *broadcast.id());
        let is_before = last.epoch < self.last_epoch;
        if is_before && self.session.is_none() {
            // Nobody has what was made here; whoever comes next goes on with it.
            return true;
        }
        if self.session.is_some() && (is_other || is_before || last.session == self.newest) {
            warn!(stream = %self.stream, epoch = self.last_epoch, last = last.epoch, by = last.node, "this epoch is not in the log: this node takes another");
            self.role.leads = false;
            return self.lead(None, &Names::default()).await.is_ok();
        }
        info!(stream = %self.stream, epoch = last.epoch, by = last.node, "another node has taken over: this one steps down");
        self.fence(last.session);
        false
    }

    /// Whether an epoch is that of a newer session, or of a later order to lead: then nothing of this line counts.
    pub(in crate::line::task) fn is_fenced_by(&mut self, last: &EpochRow) -> bool {
        if self.shared.config.alone || (last.session, last.turn) <= (self.newest, self.turn) {
            return false;
        }
        let is_newer = last.session > self.newest;
        info!(stream = %self.stream, epoch = last.epoch, by = last.node, is_newer, "another node leads: this one steps down");
        if is_newer {
            self.fence(last.session);
        } else {
            // The gateway knows, and is about to say so.
            self.step_down();
        }
        true
    }

    /// Ends the session and steps down: `by` is the session that counts.
    fn fence(&mut self, by: u64) {
        self.newest = self.newest.max(by);
        self.stand(None);
        if let Some(session) = self.session.take() {
            session.stop.cancel();
        }
        self.step_down();
    }
}
