//! A gateway: the real machine decides, feeds carry what it says.

use super::*;

impl World {
    pub(super) fn tick(&mut self, node: Node) {
        for other in 0..self.places.len() {
            let place = &self.places[other];
            if place.up && place.paused_until <= self.now && !self.is_cut(node, other) {
                self.places[node].heard[other] = self.now;
            }
        }
        self.look(node);
        self.tend_line(node);
        self.write_out(node);
        if let Some(feed) = self.places[node].line.feed.filter(|feed| self.feeds[*feed].open) {
            self.stand(feed);
        }
        let feeds = self.places[node].session.as_ref().map(|session| session.feeds.clone()).unwrap_or_default();
        for (to, feed) in feeds {
            if to != node && self.now - self.feeds[feed].heard > SILENCE {
                self.feeds[feed].open = false;
                self.lost(feed);
            }
        }
        self.act(node);
    }

    /// Tells the gateway's machine who is there.
    pub(super) fn look(&mut self, node: Node) {
        let now = self.now;
        let place = &mut self.places[node];
        let stamp = Timestamp((now + place.skew) * 1000);
        let Some(session) = &mut place.session else { return };
        session.failover.tick(stamp);
        let place = &self.places[node];
        let live = |other: Node| now.saturating_sub(place.heard[other]) <= SILENCE || other == node;
        let leads = |other: &Node| self.places[*other].line.leads && live(*other);
        let owner = (0..self.places.len()).filter(leads).max_by_key(|other| self.places[*other].line.epoch);
        let there: Vec<_> = (0..self.places.len()).map(|other| (live(other), self.places[other].draining)).collect();
        let session = self.places[node].session.as_mut().expect("looked for above");
        if session.seen.as_ref().is_some_and(|(seen, by)| *seen == there && *by == owner) {
            return;
        }
        session.seen = Some((there.clone(), owner));
        let members: Vec<_> = (0..self.places.len())
            .map(|other| Member {
                id: name(other),
                weight: 1,
                origin: true,
                draining: there[other].1,
                live: there[other].0,
                streams: 0,
            })
            .collect();
        let view = self.places[node].view.take().unwrap_or_else(|| self.view.clone()).with(members);
        let nodes = view.candidates(&self.stream);
        let place = &mut self.places[node];
        place.view = Some(view);
        if let Some(session) = &mut place.session {
            session.failover.handle(stamp, Input::Candidates { nodes, owner: owner.map(name) });
        }
    }

    pub(super) fn hear(&mut self, node: Node, input: Input) {
        let place = &mut self.places[node];
        let stamp = Timestamp((self.now + place.skew) * 1000);
        if let Some(session) = &mut place.session {
            session.failover.handle(stamp, input);
        }
        self.act(node);
    }

    /// Does what the gateway's machine decided.
    pub(super) fn act(&mut self, node: Node) {
        loop {
            let Some(session) = &mut self.places[node].session else { return };
            let Some(output) = session.failover.poll() else { break };
            match output {
                Output::Open(to) => self.open(node, number(&to)),
                Output::Lead(_) if self.schedule.plant == Some(Plant::NobodyTakesOver) && session.epoch.is_some() => {}
                Output::Lead(to) => {
                    session.turn += 1;
                    let turn = session.turn;
                    self.order(node, number(&to), Word::Lead { turn });
                }
                Output::Leave(to) => {
                    self.order(node, number(&to), Word::Leave);
                    self.close(node, number(&to));
                }
                Output::Close(to) => self.close(node, number(&to)),
            }
        }
        let Some(session) = &mut self.places[node].session else { return };
        let leader = session.failover.leader().map(|leader| number(leader));
        if let Some(leader) = leader
            && session.wanted
            && session.asked != Some(leader)
        {
            session.asked = Some(leader);
            self.order(node, leader, Word::Begin);
        }
    }

    pub(super) fn open(&mut self, gateway: Node, node: Node) {
        let session = self.places[gateway].session.as_mut().expect("it decides");
        let (feed, number, order) = (self.feeds.len(), session.number, session.order);
        let (epoch, ring) = (session.epoch, session.ring.clone());
        session.feeds.insert(node, feed);
        let (open, now) = (self.places[node].up, self.now);
        self.feeds.push(Feed { gateway, node, session: number, order, open, down: now, up: now, heard: now });
        if !open {
            let wait = if self.is_cut(gateway, node) { SILENCE } else { 1 };
            return self.at(self.now + wait, Event::Reset(feed));
        }
        self.say(feed, Word::Hello);
        if let Some((epoch, k)) = epoch {
            self.say(feed, Word::Epoch { epoch, k });
        }
        for (k, made) in ring {
            self.say(feed, Word::Chunk { k, made });
        }
    }

    pub(super) fn order(&mut self, gateway: Node, node: Node, word: Word) {
        let feed = self.places[gateway].session.as_ref().and_then(|session| session.feeds.get(&node).copied());
        if let Some(feed) = feed {
            self.say(feed, word);
        }
    }

    pub(super) fn close(&mut self, gateway: Node, node: Node) {
        if let Some(session) = &mut self.places[gateway].session {
            session.feeds.remove(&node);
        }
    }

    pub(super) fn end_session(&mut self, node: Node) {
        if let Some(session) = self.places[node].session.take() {
            for feed in session.feeds.into_values() {
                self.feeds[feed].open = false;
                self.leave(self.feeds[feed].node, feed);
            }
        }
    }

    /// The way to a node is lost.
    pub(super) fn lost(&mut self, feed: usize) {
        let Feed { gateway, node, session: number, .. } = self.feeds[feed];
        let Some(session) = self.places[gateway].session.as_mut().filter(|session| session.number == number) else {
            return;
        };
        if session.feeds.get(&node) == Some(&feed) {
            session.feeds.remove(&node);
            if session.asked == Some(node) {
                session.asked = None;
            }
            self.hear(gateway, Input::Lost(name(node)));
        }
    }

    pub(super) fn say(&mut self, feed: usize, word: Word) {
        let delay = if self.feeds[feed].gateway == self.feeds[feed].node { 1 } else { self.rng.random_range(1..20) };
        let at = (self.now + delay).max(self.feeds[feed].down);
        self.feeds[feed].down = at;
        self.at(at, Event::Down { feed, word });
    }

    pub(super) fn tell(&mut self, feed: usize, told: Told) {
        let delay = if self.feeds[feed].gateway == self.feeds[feed].node { 1 } else { self.rng.random_range(1..20) };
        let at = (self.now + delay).max(self.feeds[feed].up);
        self.feeds[feed].up = at;
        self.at(at, Event::Up { feed, told });
    }

    pub(super) fn stand(&mut self, feed: usize) {
        let Feed { node, order, .. } = self.feeds[feed];
        let (line, draining) = (&self.places[node].line, self.places[node].draining);
        if line.feed != Some(feed) || line.order != order {
            return;
        }
        let k = line.held.keys().next_back().copied();
        self.tell(feed, Told::Standing { leads: line.leads, k, draining });
    }

    /// What a node tells arrives at the gateway.
    pub(super) fn up(&mut self, feed: usize, told: Told) {
        let Feed { gateway, node, session: number, open, .. } = self.feeds[feed];
        if !open || self.is_cut(gateway, node) {
            // A way that lost something is lost.
            return;
        }
        self.feeds[feed].heard = self.now;
        let life = self.places[gateway].life;
        let Some(session) = self.places[gateway].session.as_mut().filter(|session| session.number == number) else {
            return;
        };
        if session.feeds.get(&node) != Some(&feed) {
            return;
        }
        match told {
            Told::Standing { leads, k, draining } => {
                // Its nodes encode nothing.
                let encoded = Default::default();
                self.hear(gateway, Input::Standing { node: name(node), leads, k, encoded, draining });
            }
            Told::Led => self.hear(gateway, Input::Led(name(node))),
            Told::Fenced { by } if by > session.order && session.wanted && self.now - session.began < FRESH => {
                // It came after the other, by a clock that is behind.
                session.order = order((by >> ORDER_BITS) + 1, session.number);
                (session.asked, session.failover) = (None, Failover::new(1));
                session.seen = None;
                session.feeds.clear();
                self.look(gateway);
                self.act(gateway);
            }
            Told::Fenced { .. } => {
                self.end_session(gateway);
                self.disconnect(gateway);
            }
            Told::Begun { epoch, k } => {
                if !session.wanted || session.asked != Some(node) {
                    return;
                }
                (session.wanted, session.epoch, session.next) = (false, Some((epoch, k)), k);
                let feeds: Vec<_> = session.feeds.values().copied().collect();
                for feed in feeds {
                    self.say(feed, Word::Epoch { epoch, k });
                }
                self.at(self.now + CHUNK, Event::Chunk(gateway, life, number));
            }
        }
    }
}
