//! What an epoch is made of: packets to chunks, encoded packets to chunks, chunks to viewers and the store.

use xxhash_rust::xxh3::Xxh3Default;

use super::{
    epoch::{audio_row, peak_bps, video_row},
    *,
};

impl Task {
    pub(super) fn media(&mut self, message: Message) {
        let Some(message) = self.followed(message) else { return };
        let Some(run) = &mut self.run else { return };
        // The end goes to the ring where every epoch ends.
        if !matches!(message, Message::End { .. }) {
            self.ring.push(message.clone());
        }
        let parts = self.broadcast.as_ref().and_then(Broadcast::parts);
        match message {
            Message::Epoch(_) => {}
            Message::Video(config) => {
                let chunker = Chunker::video(&config, run.writes, parts);
                let row = video_row(Rendition::source(), &config);
                let init = (Arc::from(chunker.init().hash.as_str()), chunker.init().bytes.clone());
                run.source = Some(chunker);
                run.video = Some(config);
                self.describe(row, init);
            }
            Message::Audio(config) => {
                let chunker = Chunker::audio(&config, run.writes, parts);
                let row = audio_row(&config);
                let init = (Arc::from(chunker.init().hash.as_str()), chunker.init().bytes.clone());
                run.audio = Some(chunker);
                run.audio_config = Some(config);
                self.describe(row, init);
            }
            Message::Mode { mode, target } => self.decide(mode, target),
            Message::Packet(packet) => {
                self.meter.packet(now(), unix_now(), &packet);
                self.packet(packet);
            }
            Message::End { at } => self.end_epoch(Some(at)),
        }
    }

    pub(super) fn describe(&mut self, row: RenditionRow, (hash, bytes): (Arc<str>, bytes::Bytes)) {
        self.meter.describe(&row);
        let Some(broadcast) = &mut self.broadcast else { return };
        let rendition = row.name.clone();
        broadcast.describe(row);
        broadcast.init(&rendition, hash.clone(), bytes.clone());
        if self.role.leads() && self.inits.insert((rendition.clone(), hash.clone())) {
            self.keeper.submit(Job::Init { broadcast: broadcast.id().clone(), rendition, hash, bytes });
        }
    }

    pub(super) fn decide(&mut self, mode: Mode, target: u32) {
        let Some(run) = &mut self.run else { return };
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        broadcast.decide(mode, target);
        match mode {
            Mode::Follow => {
                if let Some(top) = run.top.take() {
                    broadcast.unshed(&top);
                    if let Some(encoding) = self.encodings.get_mut(&run.epoch.number) {
                        encoding.transcoder.drop_rung(&top);
                    }
                    broadcast.withdraw(&top);
                    // It stands still from now on, and is not stuck.
                    self.stand_encoded(&top, None);
                }
            }
            Mode::Reencode => run.source = None,
            Mode::AudioOnly => {}
        }
        info!(stream = %self.stream, ?mode, target, "chunk starts decided");
        self.changed = true;
    }

    pub(super) fn packet(&mut self, packet: Packet) {
        let Some(run) = &mut self.run else { return };
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        let number = run.epoch.number;
        let standby = self.session.as_ref().and_then(|session| session.settings.standby);
        let encodes = self.role.leads() || standby != Some(Standby::Warm);
        let mut finished = Vec::new();
        match packet.track {
            Track::Video => {
                let frame = run.last_dts.map_or(3000, |last| (packet.dts - last).clamp(1, i64::from(VIDEO_TIMESCALE)));
                run.last_dts = Some(packet.dts);
                run.end = run.end.max(packet.pts + frame);
                if let Some(k) = packet.mark {
                    broadcast.mark(k, packet.pts);
                    self.changed = true;
                    if let Some(audio) = &mut run.audio
                        && let Some(chunk) = audio.mark(k, packet.pts)
                    {
                        finished.push((Rendition::audio(), hash(audio), chunk));
                    }
                    if let Some(granted) = run.granted.take_if(|_| encodes) {
                        let video = run.video.clone().expect("configs come before packets");
                        self.encode(number, granted, &video, k);
                    }
                }
                let run = self.run.as_mut().expect("checked above");
                if let Some(audio) = &mut run.audio {
                    audio.passed(packet.dts);
                }
                if let Some(source) = &mut run.source {
                    match source.push(packet) {
                        Ok(Some(chunk)) => finished.push((Rendition::source(), hash(source), chunk)),
                        Ok(None) => {}
                        Err(why) => warn!(stream = %self.stream, %why, "a video packet was dropped"),
                    }
                }
            }
            Track::Audio => {
                let (Some(audio), Some(config)) = (&mut run.audio, &run.audio_config) else { return };
                let rate = config.sample_rate;
                if let Some(k) = packet.mark {
                    broadcast.mark(k, rescale(packet.pts, rate, VIDEO_TIMESCALE));
                    self.changed = true;
                }
                if run.video.is_none() {
                    run.end = run.end.max(rescale(packet.pts + i64::from(config.frame_len), rate, VIDEO_TIMESCALE));
                }
                match audio.push(packet) {
                    Ok(Some(chunk)) => finished.push((Rendition::audio(), hash(audio), chunk)),
                    Ok(None) => {}
                    Err(why) => warn!(stream = %self.stream, %why, "an audio packet was dropped"),
                }
            }
        }
        for (rendition, hash, chunk) in finished {
            self.finished(rendition, hash, chunk);
        }
        let (Some(run), Some(broadcast)) = (&self.run, &mut self.broadcast) else { return };
        for (rendition, chunker) in [(Rendition::source(), &run.source), (Rendition::audio(), &run.audio)] {
            self.parts_changed |= chunker.as_ref().is_some_and(|chunker| broadcast.progress(&rendition, chunker));
        }
    }

    /// Starts a transcoder for the epoch and forwards its events to this task's inbox.
    pub(super) fn encode(&mut self, epoch: u64, granted: Granted, video: &VideoConfig, k: u64) {
        let Some(pool) = &self.shared.transcoding else { return };
        let rungs: BTreeMap<_, _> = granted.rungs.iter().map(|rung| (rung.name.clone(), rung.clone())).collect();
        let (transcoder, mut from) = match pool.spawn(granted, video, self.ring.clone(), epoch, k) {
            Ok(spawned) => spawned,
            Err(why) => {
                warn!(stream = %self.stream, %why, "nothing is encoded");
                let broadcast = self.broadcast.as_mut().expect("an epoch belongs to a broadcast");
                rungs.keys().for_each(|name| broadcast.withdraw(name));
                return;
            }
        };
        let writes = self.run.as_ref().map_or(epoch, |run| run.writes);
        self.encodings.insert(epoch, Encoding { writes, transcoder, rungs, chunkers: BTreeMap::new() });
        let to = self.events.clone();
        self.shared.tasks.spawn(async move {
            while let Some(event) = from.recv().await {
                if to.send((epoch, Some(event))).await.is_err() {
                    return;
                }
            }
            // The line may be gone.
            let _ = to.send((epoch, None)).await;
        });
    }

    pub(super) fn encoded(&mut self, epoch: u64, event: Option<transcode::Event>) {
        let Some(encoding) = self.encodings.get_mut(&epoch) else { return };
        let broadcast = self.broadcast.as_mut();
        let Some(event) = event else {
            let encoding = self.encodings.remove(&epoch).expect("checked above");
            if let Some(broadcast) = broadcast {
                for name in encoding.rungs.keys() {
                    broadcast.done(name, encoding.writes);
                }
                self.changed = true;
            }
            let others = |name: &Rendition| self.encodings.values().any(|other| other.rungs.contains_key(name));
            encoding.rungs.keys().filter(|name| !others(name)).for_each(|name| self.stand_encoded(name, None));
            return;
        };
        let Some(broadcast) = broadcast else { return };
        let writes = encoding.writes;
        match event {
            transcode::Event::Item { rung, item: Item::Config(config) } => {
                let chunker = Chunker::video(&config, writes, broadcast.parts());
                let mut row = video_row(rung.clone(), &config);
                if let Some(plan) = encoding.rungs.get(&rung) {
                    row = RenditionRow { peak_bps: peak_bps(plan, self.shared.config.chunk), ..row };
                }
                let init = (Arc::from(chunker.init().hash.as_str()), chunker.init().bytes.clone());
                encoding.chunkers.insert(rung, chunker);
                self.describe(row, init);
            }
            transcode::Event::Item { rung, item: Item::Packet(packet) } => {
                let Some(chunker) = encoding.chunkers.get_mut(&rung) else { return };
                let dts = packet.dts;
                match chunker.push(packet) {
                    Ok(Some(chunk)) => {
                        let hash = hash(chunker);
                        self.finished(rung.clone(), hash, chunk);
                    }
                    Ok(None) => self.parts_changed |= broadcast.progress(&rung, chunker),
                    Err(why) => warn!(stream = %self.stream, %rung, %why, "an encoded packet was dropped"),
                }
                self.stand_encoded(&rung, Some(dts));
            }
            transcode::Event::Item { rung, item: Item::End { at } } => {
                if let Some(chunker) = encoding.chunkers.remove(&rung) {
                    let hash = hash(&chunker);
                    for chunk in chunker.finish(at) {
                        self.finished(rung.clone(), hash.clone(), chunk);
                    }
                }
                if let Some(broadcast) = &mut self.broadcast {
                    broadcast.done(&rung, writes);
                    self.changed = true;
                }
                self.stand_encoded(&rung, None);
            }
            transcode::Event::Restarted { .. } => {
                // What was half made is made again from its boundary, by an encoder that tells its config anew.
                encoding.chunkers.clear();
                warn!(stream = %self.stream, "transcoder restarts");
            }
            transcode::Event::Shed { rung } => {
                if writes == self.last_epoch {
                    warn!(stream = %self.stream, %rung, "the node cannot keep up: rung shed");
                    broadcast.shed(rung.clone());
                    self.changed = true;
                }
                self.stand_encoded(&rung, None);
            }
        }
    }

    pub(super) fn finished(&mut self, rendition: Rendition, init: Arc<str>, chunk: Chunk) {
        let Some(broadcast) = &mut self.broadcast else { return };
        let finished = Finished { rendition, chunk, init };
        if broadcast.finished(finished.clone()) {
            if self.shared.peers.is_some() {
                let made = Made { k: finished.chunk.k, sum: sum(&finished) };
                self.made.insert(finished.rendition.clone(), made);
            }
            self.keep(finished);
        } else {
            metrics::counter!("weir_chunks_late_total").increment(1);
        }
    }

    /// Has a chunk that the broadcast has taken stored, if this line leads.
    pub(super) fn keep(&mut self, Finished { rendition, chunk, init }: Finished) {
        let Some(broadcast) = &mut self.broadcast else { return };
        let Some(slot) = broadcast.slot(chunk.k).cloned() else { return };
        let duration_us = chunk.duration_us();
        metrics::counter!("weir_chunks_total").increment(1);
        metrics::counter!("weir_chunk_bytes_total").increment(chunk.bytes.len() as u64);
        self.changed = true;
        if !self.role.leads() {
            return;
        }
        let duration =
            slot.end.unwrap_or_else(|| slot.at + rescale(chunk.duration, chunk.timescale, VIDEO_TIMESCALE)) - slot.at;
        self.keeper.submit(Job::Chunk(Box::new(ChunkJob {
            broadcast: broadcast.id().clone(),
            duration,
            expected: broadcast.offer(slot.epoch),
            slot,
            made: RenditionChunk {
                rendition,
                init: init.to_string(),
                bytes: chunk.bytes.len() as u32,
                iframe: chunk.iframe,
                duration_us,
            },
            bytes: chunk.bytes,
        })));
    }

    pub(super) fn stored(&mut self, stored: Stored) {
        match (stored, &mut self.broadcast, &mut self.ended) {
            (Stored::Chunk { rendition, k, epoch }, Some(broadcast), _) => broadcast.stored(&rendition, k, epoch),
            (Stored::End, _, Some(ended)) => ended.is_stored = true,
            // Of a broadcast that has made room already.
            _ => {}
        }
    }
}

/// Sums up what makes a chunk interchangeable with another node's: of what the publisher has encoded the bytes, of what nodes
/// encode the times and the init segment, as an encoder that began later spends its bits otherwise.
fn sum(Finished { rendition, chunk, init }: &Finished) -> u64 {
    let mut hash = Xxh3Default::new();
    hash.update(init.as_bytes());
    [chunk.start, chunk.duration].iter().for_each(|ticks| hash.update(&ticks.to_be_bytes()));
    chunk.parts.iter().for_each(|part| hash.update(&part.duration_us.to_be_bytes()));
    if [Rendition::source(), Rendition::audio()].contains(rendition) {
        chunk.bytes.iter().for_each(|piece| hash.update(piece));
    }
    hash.digest()
}

/// Hash that names a chunker's init segment.
pub(super) fn hash(chunker: &Chunker) -> Arc<str> {
    chunker.init().hash.as_str().into()
}
