//! A line on a node: what it is fed, when it leads, when it finds out that another does.

use super::*;

impl World {
    /// What a gateway says arrives at a node.
    pub(super) fn down(&mut self, feed: usize, word: Word) {
        let Feed { gateway, node, open, .. } = self.feeds[feed];
        if !open || !self.places[node].up {
            return;
        }
        if self.is_cut(gateway, node) {
            self.feeds[feed].open = false;
            return;
        }
        self.places[node].inbox.push_back((feed, word));
        if self.places[node].inbox.len() == 1 {
            self.read_inbox(node);
        }
    }

    pub(super) fn read_inbox(&mut self, node: Node) {
        if self.places[node].line.busy {
            return;
        }
        if let Some((feed, word)) = self.places[node].inbox.front().cloned() {
            self.told(feed, word);
            let place = &mut self.places[node];
            place.inbox.pop_front();
            let (life, more) = (place.life, !place.inbox.is_empty());
            if more {
                self.at(self.now, Event::Inbox(node, life));
            }
        }
    }

    /// The line does what it is told.
    pub(super) fn told(&mut self, feed: usize, word: Word) {
        let Feed { node, order, .. } = self.feeds[feed];
        let now = self.now;
        let line = &mut self.places[node].line;
        if let Word::Hello = word {
            if line.order > order {
                let by = line.order;
                return self.tell(feed, Told::Fenced { by });
            }
            let again = line.order == order;
            let turn = if again { line.turn } else { 0 };
            if again || (line.leads && line.held.is_empty()) {
                let (spool, unlogged) = (std::mem::take(&mut line.spool), std::mem::take(&mut line.unlogged));
                *line = Line { spool, unlogged, ..Line::default() };
            }
            line.turn = turn;
            (line.order, line.feed, line.follows, line.heard, line.orphan_since) =
                (order, Some(feed), false, now, None);
            return self.stand(feed);
        }
        if line.feed != Some(feed) {
            let by = line.order;
            return self.tell(feed, Told::Fenced { by });
        }
        line.heard = now;
        match word {
            Word::Hello => {}
            Word::Epoch { epoch, k } => {
                if line.leads && !line.follows {
                    // It was told to lead before it knew the epoch that another node had taken.
                    self.forget(node);
                    let line = &mut self.places[node].line;
                    (line.feed, line.heard) = (Some(feed), now);
                    (line.follows, line.first, line.epoch) = (true, k, epoch);
                    return self.start(node, Work::Lead { feed: Some(feed) });
                }
                (line.follows, line.first) = (true, k);
                if !line.leads {
                    // What this line has of sessions before is what viewers saw, of the same broadcast.
                    line.held.retain(|held, _| *held < k && held / BROADCAST == k / BROADCAST);
                    line.epoch = epoch;
                }
            }
            Word::Chunk { k, made } => {
                if !line.follows || line.held.contains_key(&k) {
                    return;
                }
                line.held.insert(k, made);
                if line.held.len() > KEPT {
                    line.held.pop_first();
                }
                if line.leads {
                    self.publish(node, k);
                }
            }
            Word::Lead { turn } => {
                line.turn = turn;
                if line.leads { self.tell(feed, Told::Led) } else { self.start(node, Work::Lead { feed: Some(feed) }) }
            }
            Word::Begin => self.start(node, Work::Begin { feed }),
            Word::Leave => self.forget(node),
        }
    }

    /// The feed of a line ends.
    pub(super) fn leave(&mut self, node: Node, feed: usize) {
        let now = self.now;
        let line = &mut self.places[node].line;
        if line.feed == Some(feed) {
            line.feed = None;
            if !line.leads {
                (line.orphan_since, line.newest_row) = (Some(now), None);
            }
        }
    }

    pub(super) fn tend_line(&mut self, node: Node) {
        let now = self.now;
        if let Some(feed) = self.places[node].line.feed {
            let is_gone = !self.feeds[feed].open || now - self.places[node].line.heard > GATEWAY_SILENCE;
            let (gateway, open) = (self.feeds[feed].gateway, self.feeds[feed].open);
            if is_gone && !(open && gateway == node) {
                self.leave(node, feed);
            } else if open && !self.is_cut(gateway, node) && self.places[gateway].paused_until <= now {
                self.places[node].line.heard = now;
            }
        }
        let life = self.places[node].life;
        let line = &self.places[node].line;
        if line.is_lost && line.leads && !line.busy {
            self.places[node].line.is_lost = false;
            if let Some(last) = self.database.epochs.iter().max_by_key(|row| row.epoch).cloned()
                && !self.is_fenced_by(node, &last)
            {
                self.lead_anew(node, &last);
            }
            return;
        }
        let line = &self.places[node].line;
        let is_doubted = line.leads
            && (0..self.places.len()).any(|other| {
                let theirs = &self.places[other].line;
                other != node && !self.is_cut(node, other) && theirs.leads && theirs.epoch >= line.epoch
            });
        let is_doubted = is_doubted || (line.leads && now - line.looked >= VERIFY);
        let is_orphan = line.orphan_since.is_some_and(|since| now - since >= ORPHAN) && now - line.looked >= 1000;
        if (is_doubted && !line.busy) || (is_orphan && !line.leads && !line.busy) {
            // It does one thing after the other, and waits for the answer.
            (self.places[node].line.looked, self.places[node].line.busy) = (now, true);
            self.query(node, life, Question::Newest);
        }
    }

    pub(super) fn start(&mut self, node: Node, work: Work) {
        let life = self.places[node].life;
        self.places[node].line.busy = true;
        self.query(node, life, Question::Tail { work });
    }

    pub(super) fn query(&mut self, node: Node, life: u32, question: Question) {
        let delay = self.rng.random_range(1..30);
        self.at(self.now + delay, Event::Ask(node, life, question));
    }
}
