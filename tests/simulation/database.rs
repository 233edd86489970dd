//! The database: it answers late, twice or not at all; and what lines make of its answers.

use super::*;

impl World {
    pub(super) fn ask(&mut self, node: Node, life: u32, question: Question) {
        let delay = self.rng.random_range(1..30);
        if !self.reaches_database(node) {
            return self.at(self.now + PATIENCE, Event::Answer(node, life, question, None));
        }
        let answer = match &question {
            Question::Tail { .. } | Question::Newest => {
                let rows = self.database.rows.values().rev().take(TAIL).cloned().collect();
                Answer::Tail(self.database.epochs.clone(), rows)
            }
            Question::Take { row, .. } => Answer::Taken(self.take(node, row)),
        };
        // Reads are asked again within the time; the answer to one in twenty writes is lost.
        let lost = matches!(question, Question::Take { .. }) && self.rng.random_bool(0.05);
        let (at, answer) = if lost { (self.now + PATIENCE, None) } else { (self.now + delay, Some(answer)) };
        self.at(at, Event::Answer(node, life, question, answer));
    }

    pub(super) fn newest_epoch(&self) -> u64 {
        self.database.epochs.iter().map(|row| row.epoch).max().unwrap_or(0)
    }

    /// `INSERT ... IF NOT EXISTS`.
    pub(super) fn take(&mut self, node: Node, row: &EpochRow) -> bool {
        let newest = self.newest_epoch();
        let alone =
            (0..self.places.len()).all(|other| other == node || self.now - self.places[node].heard[other] > SILENCE);
        let asks = self.schedule.plant != Some(Plant::LivenessIsMembership) || !alone;
        if asks && row.epoch != newest + 1 {
            return self.database.epochs.contains(row);
        }
        self.database.epochs.retain(|other| other.epoch != row.epoch);
        self.database.epochs.push(row.clone());
        true
    }

    pub(super) fn answered(&mut self, node: Node, question: Question, answer: Option<Answer>) {
        let was_busy = self.places[node].line.busy;
        self.answer(node, question, answer);
        if was_busy && !self.places[node].line.busy {
            let life = self.places[node].life;
            self.at(self.now, Event::Inbox(node, life));
        }
    }

    pub(super) fn answer(&mut self, node: Node, question: Question, answer: Option<Answer>) {
        match question {
            Question::Newest => self.newest(node, answer),
            Question::Tail { work } => self.decide(node, work, answer),
            Question::Take { work, row } => match answer {
                Some(Answer::Taken(true)) => self.taken(node, work, row, true),
                // Another has it, or an answer was lost: it is looked at again.
                Some(_) => {
                    let life = self.places[node].life;
                    self.query(node, life, Question::Tail { work });
                }
                None => {
                    let is_there = self.reaches_database(node) && self.database.epochs.contains(&row);
                    self.taken(node, work, row, is_there);
                }
            },
        }
    }

    /// Someone may have a later epoch, or nobody may lead.
    pub(super) fn newest(&mut self, node: Node, answer: Option<Answer>) {
        let (now, me, clock) = (self.now, name(node), self.places[node].skew % self.schedule.clocks);
        self.places[node].line.busy = false;
        let Some(Answer::Tail(epochs, rows)) = answer else { return };
        let Some(last) = epochs.into_iter().max_by_key(|row| row.epoch) else { return };
        let heard = |other: &str| now - self.places[node].heard[number(other)] <= SILENCE;
        let is_alive = heard(&last.node) && *last.node != *me;
        let line = &mut self.places[node].line;
        if line.leads {
            let is_later = last.epoch > line.epoch || (last.epoch == line.epoch && line.owns);
            if is_later && *last.node != *me && !self.is_fenced_by(node, &last) {
                self.lead_anew(node, &last);
            }
            return;
        }
        let Some(since) = line.orphan_since else { return };
        if is_alive || line.held.is_empty() {
            return;
        }
        let newest = rows.iter().max_by_key(|row| row.k);
        let is_same = line.newest_row.replace(newest.map(|row| row.k)) == line.newest_row;
        let is_old = newest.is_none_or(|row| (now + clock) as i64 - row.wall.0 >= 2 * CHUNK as i64);
        if is_same && is_old && now - since >= 2 * CHUNK {
            line.orphan_since = None;
            if last.session == line.order {
                line.turn = last.turn;
            }
            self.start(node, Work::Lead { feed: None });
        }
    }

    /// A line lets go of all that it has.
    pub(super) fn forget(&mut self, node: Node) {
        let line = &mut self.places[node].line;
        let (order, turn) = (line.order, line.turn);
        let (spool, unlogged) = (std::mem::take(&mut line.spool), std::mem::take(&mut line.unlogged));
        *line = Line { spool, unlogged, order, turn, ..Line::default() };
    }

    /// Takes another epoch, if what is made here can go on as it is.
    pub(super) fn lead_anew(&mut self, node: Node, last: &EpochRow) {
        let line = &mut self.places[node].line;
        let goes_on = last.session == line.order || last.k_start / BROADCAST != line.first / BROADCAST;
        match line.feed.filter(|feed| goes_on && self.feeds[*feed].open) {
            Some(feed) => {
                line.leads = false;
                self.start(node, Work::Lead { feed: Some(feed) });
            }
            None => self.step_down(node, last.session),
        }
    }

    /// Whether an epoch is that of a newer session, or of a later order to lead.
    pub(super) fn is_fenced_by(&mut self, node: Node, last: &EpochRow) -> bool {
        let line = &self.places[node].line;
        if (last.session, last.turn) <= (line.order, line.turn) {
            return false;
        }
        if last.session > line.order {
            self.step_down(node, last.session);
        } else {
            // Its gateway knows, and is about to say so on the feed.
            let feed = self.places[node].line.feed;
            self.forget(node);
            (self.places[node].line.feed, self.places[node].line.heard) = (feed, self.now);
        }
        true
    }

    /// Another has a later epoch.
    pub(super) fn step_down(&mut self, node: Node, by: u64) {
        let feed = self.places[node].line.feed;
        self.forget(node);
        let line = &mut self.places[node].line;
        line.order = line.order.max(by);
        let by = line.order;
        if let Some(feed) = feed {
            self.tell(feed, Told::Fenced { by });
        }
    }

    /// What is stored is known, or nobody told: where to begin?
    pub(super) fn decide(&mut self, node: Node, work: Work, answer: Option<Answer>) {
        let (me, clock) = (name(node), self.places[node].skew % self.schedule.clocks);
        let life = self.places[node].life;
        let (epochs, rows, known) = match answer {
            Some(Answer::Tail(epochs, rows)) => (epochs, rows, true),
            _ => (Vec::new(), Vec::new(), false),
        };
        let stored = valid_in_each(rows, &epochs);
        // What waits to be written is known here.
        let waits = self.places[node].line.unlogged.clone();
        let last = epochs.iter().chain(&waits).map(|row| row.epoch).max().unwrap_or(0);
        if epochs.iter().max_by_key(|row| row.epoch).is_some_and(|last| self.is_fenced_by(node, last)) {
            return;
        }
        let line = &mut self.places[node].line;
        let k_start = match work {
            Work::Lead { .. } => {
                if !line.follows && line.held.is_empty() {
                    // It goes on with what is stored, once it is asked for an epoch.
                    line.busy = false;
                    line.leads = true;
                    (line.epoch, line.owns) = (line.epoch.max(last), false);
                    let made = |row: &ChunkRow| Made { content: row.at as Content, wall: row.wall.0 as Ms };
                    line.held = stored.iter().map(|row| (row.k, made(row))).collect();
                    return self.led(node, work);
                }
                // Of the broadcast that it has made.
                let first = line.first;
                let stored: Vec<_> = stored.into_iter().filter(|row| row.k / BROADCAST == first / BROADCAST).collect();
                let source = Rendition::source();
                let held: Vec<_> = line.held.keys().map(|k| (&source, *k)).collect();
                let open = line.held.keys().next_back().map_or(line.first, |k| k + 1);
                let k = takes_over_at(held, &stored, open);
                if self.schedule.plant == Some(Plant::BeginsOneLater) { k + 1 } else { k }
            }
            Work::Begin { .. } => {
                let here = line.held.last_key_value().map(|(k, made)| (*k, made.wall));
                let there = stored.last().map(|row| (row.k, row.wall.0 as Ms));
                match here.max(there) {
                    // The time without chunks is told by the clock.
                    Some((k, wall)) => k + 1 + (self.now + clock).saturating_sub(wall) / CHUNK,
                    // What nobody knows of is not gone on with: another broadcast begins.
                    None if known && epochs.is_empty() => 0,
                    None => self.sessions * BROADCAST,
                }
            }
        };
        let epoch = if known { last } else { last.max(line.epoch) } + 1;
        let row = EpochRow {
            epoch,
            broadcast: BroadcastId::new("b").expect("legal"),
            k_start,
            at: 0,
            wall: UnixMs(0),
            discontinuity: false,
            node: me.to_string(),
            session: line.order,
            turn: line.turn,
        };
        if known && waits.is_empty() {
            self.query(node, life, Question::Take { work, row });
        } else {
            self.taken(node, work, row, false);
        }
    }

    pub(super) fn taken(&mut self, node: Node, work: Work, row: EpochRow, logged: bool) {
        let line = &mut self.places[node].line;
        (line.busy, line.leads, line.epoch, line.owns) = (false, true, row.epoch, true);
        line.unlogged.extend((!logged).then(|| row.clone()));
        match work {
            Work::Lead { .. } => {
                let again: Vec<_> = line.held.range(row.k_start..).map(|(k, _)| *k).collect();
                again.into_iter().for_each(|k| self.publish(node, k));
                self.led(node, work);
            }
            Work::Begin { feed } => {
                (line.follows, line.first) = (true, row.k_start);
                if line.feed == Some(feed) {
                    self.tell(feed, Told::Begun { epoch: row.epoch, k: row.k_start });
                }
            }
        }
    }

    pub(super) fn led(&mut self, node: Node, work: Work) {
        if let Work::Lead { feed: Some(feed) } = work
            && self.places[node].line.feed == Some(feed)
        {
            self.tell(feed, Told::Led);
        }
    }

    /// A line that leads shows a chunk, and writes its row.
    pub(super) fn publish(&mut self, node: Node, k: u64) {
        let line = &self.places[node].line;
        let (epoch, Made { content, wall }) = (line.epoch, line.held[&k]);
        let made =
            RenditionChunk { rendition: Rendition::source(), init: "0".into(), bytes: 1, iframe: 0, duration_us: 1 };
        let row = ChunkRow {
            k,
            epoch,
            at: content as i64,
            duration: 1,
            wall: UnixMs(wall as i64),
            discontinuity: false,
            renditions: vec![made],
        };
        let is_newest = line.unlogged.is_empty() && self.newest_epoch() == epoch;
        if is_newest {
            let before = *self.shown.entry(k).or_insert(content);
            // Where clocks differ by more than an encoder is away, what died unstored may have its number again.
            if before != content && self.schedule.clocks < CHUNK {
                self.breaks(format!("viewers were shown {k} of session {before}, and now of {content}"));
            }
        }
        self.places[node].line.spool.push(row);
    }

    /// Rows go to the database, late, and some of them twice.
    pub(super) fn write_out(&mut self, node: Node) {
        if !self.reaches_database(node) {
            return;
        }
        for row in std::mem::take(&mut self.places[node].line.unlogged) {
            let number = row.epoch;
            // The numbers between were of nodes that are gone with them.
            for between in self.newest_epoch() + 1..number {
                self.take(node, &EpochRow { epoch: between, ..row.clone() });
            }
            if !self.take(node, &row) {
                // Another has the epoch: what was recorded in it is not shown.
                self.places[node].line.spool.retain(|chunk| chunk.epoch != number);
                self.places[node].line.is_lost = self.places[node].line.epoch == number;
            }
        }
        for row in std::mem::take(&mut self.places[node].line.spool) {
            let delay = self.rng.random_range(1..150);
            self.at(self.now + delay, Event::Row(row.clone()));
            if self.rng.random_bool(0.02) {
                let late = self.rng.random_range(1..10_000);
                self.at(self.now + late, Event::Row(row));
            }
        }
    }

    pub(super) fn store(&mut self, row: ChunkRow) {
        // Without fencing the last write counts.
        let epoch = if self.schedule.plant == Some(Plant::NoFencing) { 0 } else { row.epoch };
        let k = row.k;
        self.database.rows.insert((k, epoch), row);
        for (k, content) in self.readers(k..=k) {
            let before = *self.seen.entry(k).or_insert(content);
            if before != content {
                self.breaks(format!("readers saw {k} of session {before}, and now of {content}"));
            }
        }
    }

    /// What one reads who reads now: by number, of which session.
    pub(super) fn readers(&self, of: RangeInclusive<u64>) -> Vec<(u64, Content)> {
        let rows = self.database.rows.range((*of.start(), 0)..=(*of.end(), u64::MAX));
        let rows: Vec<_> = rows.map(|(_, row)| row.clone()).collect();
        let chosen = match self.schedule.plant {
            Some(Plant::NoFencing) => rows,
            _ => valid_in_each(rows, &self.database.epochs),
        };
        chosen.iter().map(|row| (row.k, row.at as Content)).collect()
    }
}

/// The chunks that count: epochs of another broadcast say nothing of them.
fn valid_in_each(rows: Vec<ChunkRow>, epochs: &[EpochRow]) -> Vec<ChunkRow> {
    let mut broadcasts = BTreeMap::<u64, Vec<ChunkRow>>::new();
    rows.into_iter().for_each(|row| broadcasts.entry(row.k / BROADCAST).or_default().push(row));
    let valid = broadcasts.into_iter().flat_map(|(broadcast, rows)| {
        let of_it: Vec<_> = epochs.iter().filter(|epoch| epoch.k_start / BROADCAST == broadcast).cloned().collect();
        valid_chunks(rows, &of_it)
    });
    valid.collect()
}
