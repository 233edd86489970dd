//! Beginning and ending epochs: numbers, times, and what will be encoded.

use super::{feed::hash, *};

/// Epochs that other nodes may take before this one gives up.
const TAKES: usize = 16;
/// What is assumed of a source that does not say.
const UNKNOWN_FPS: (u32, u32) = (24, 1);

impl Task {
    /// Takes an epoch: a new broadcast, or the next chunk number of the running one.
    pub(super) async fn begin(&mut self, begin: Begin) -> Result<Begun, Fenced> {
        let ended_at = begin.next.map(|(_, at)| at);
        self.end_epoch(ended_at);
        let (today, stamp) = (unix_now(), now());
        if self.broadcast.as_ref().is_some_and(|b| b.state() == State::Ended) {
            self.broadcast = None;
            self.ended = None;
        }
        let chunk = self.shared.config.chunk_ticks();
        let (broadcast, k, at, wall) = match self.broadcast.as_ref().map(|b| (b.id().clone(), b.edge())) {
            Some((id, Some((last, end, edge_wall)))) => {
                let lost = match (self.away, begin.next) {
                    // A break inside a session loses no time.
                    (_, Some(_)) | (None, None) => Duration::ZERO,
                    (Some((since, gaps)), None) => (stamp - since).saturating_sub(self.chunk_time() * gaps as u32),
                };
                let ticks = (lost.as_micros() as i64) * i64::from(VIDEO_TIMESCALE) / 1_000_000;
                // After a break inside a session the clock goes on; a returning encoder begins now.
                let began = if begin.next.is_some() { edge_wall } else { today };
                let wall = UnixMs(edge_wall.0 + lost.as_millis() as i64).max(began);
                (id, last + 1 + (ticks / chunk) as u64, end + ticks, wall)
            }
            Some((id, None)) => (id, 0, 0, today),
            None => {
                let id = BroadcastId::generate(today);
                info!(stream = %self.stream, broadcast = %id, "broadcast starts");
                metrics::counter!("weir_broadcasts_total").increment(1);
                let settings = self.shared.config.broadcast();
                // What was stored belongs to the broadcast before.
                self.inits.clear();
                self.stored_rows.clear();
                let parts = Some(self.parts(&begin));
                self.broadcast = Some(Broadcast::new(self.stream.clone(), id.clone(), today, settings, parts));
                (id, 0, 0, today)
            }
        };
        let discontinuity = self.broadcast.as_ref().is_some_and(|b| b.edge().is_some());
        let mut epoch = Epoch { broadcast, number: 0, k, at, wall, discontinuity };
        epoch.number = self.take_epoch(&epoch, None).await?;
        let encode = self.run_epoch(epoch.clone(), &begin);
        let live = self.broadcast.as_mut().expect("begun above");
        if begin.next.is_none() {
            live.forget_warnings();
        }
        let plan = Plan { started: live.started(), parts: live.parts(), ended_at };
        Ok(Begun { epoch, encode, plan })
    }

    /// Begins an epoch that has its number. Whether renditions will be encoded.
    pub(super) fn run_epoch(&mut self, epoch: Epoch, begin: &Begin) -> bool {
        self.last_epoch = epoch.number;
        self.owns_epoch &= self.role.leads();
        let (granted, top) = self.plan(begin.video.as_ref());
        let rungs = granted.as_ref().map(|g| g.rungs.clone()).unwrap_or_default();
        let rows = self.rows(begin, &rungs);
        info!(stream = %self.stream, broadcast = %epoch.broadcast, epoch = epoch.number, k = epoch.k, reason = ?begin.reason,
            leads = self.role.leads(), rungs = ?rungs.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), "epoch begins");
        let live = self.broadcast.as_mut().expect("the caller made it");
        live.begin(&epoch, rows);
        let shed = granted.as_ref().map(|g| g.shed.iter().map(|rung| rung.name.clone()).collect());
        live.set_shed(shed.unwrap_or_default());
        self.away = None;
        self.run = Some(Run {
            writes: epoch.number,
            video: None,
            audio_config: None,
            source: None,
            audio: None,
            granted: granted.filter(|g| !g.rungs.is_empty()),
            top,
            end: epoch.at,
            last_dts: None,
            epoch,
        });
        self.changed = true;
        !rungs.is_empty()
    }

    /// Appends to the stream's epoch log. A store that does not answer must not stop a show: the epoch then lives in memory
    /// only, and the health alarm says so. `last`: the newest number in the log, where that is known already.
    ///
    /// # Errors
    /// The log has an epoch of a newer session, or of a later order to lead.
    pub(super) async fn take_epoch(&mut self, epoch: &Epoch, mut last: Option<u64>) -> Result<u64, Fenced> {
        let meta = self.shared.stores.meta.clone();
        let (mut number, mut taken) = (self.last_epoch + 1, false);
        for turn in 0.. {
            let last = match last.take() {
                Some(last) => last,
                None => match meta.last_epoch(&self.stream).await {
                    Ok(Some(row)) if self.is_fenced_by(&row) => return Err(Fenced),
                    Ok(row) => row.map_or(0, |row| row.epoch),
                    Err(why) => {
                        self.alarm(&why);
                        self.last_epoch
                    }
                },
            };
            // What this line knows of may never have got into the log; what the log says may be old while the database is away.
            number = if taken { last } else { last.max(self.last_epoch) } + 1;
            let row = EpochRow {
                epoch: number,
                broadcast: epoch.broadcast.clone(),
                k_start: epoch.k,
                at: epoch.at,
                wall: epoch.wall,
                discontinuity: epoch.discontinuity,
                node: self.shared.config.node.clone(),
                session: self.newest,
                turn: self.turn,
            };
            match meta.take_epoch(&self.stream, row).await {
                Ok(()) => break,
                Err(store::Error::EpochTaken(_)) if turn < TAKES => taken = true,
                Err(why @ store::Error::Later(_)) => {
                    warn!(stream = %self.stream, epoch = number, %why, "an epoch begins that is not in the log yet");
                    self.role.begins_unlogged();
                    break;
                }
                Err(why) => {
                    self.alarm(&why);
                    if !self.shared.config.alone {
                        self.role.begins_unlogged();
                    }
                    break;
                }
            }
        }
        (self.last_epoch, self.owns_epoch) = (number, true);
        Ok(number)
    }

    pub(super) fn alarm(&self, why: &store::Error) {
        if self.shared.stores.health.failed(why.to_string()) {
            warn!(stream = %self.stream, %why, "store does not take writes: this epoch is in memory only");
        }
    }

    fn ladder(&self) -> &[transcode::Entry] {
        let own = self.session.as_ref().and_then(|s| s.settings.ladder.as_ref());
        own.unwrap_or(&self.shared.config.ladder)
    }

    /// How a new broadcast's chunks are divided.
    pub(super) fn parts(&self, begin: &Begin) -> Parts {
        let scale = i64::from(VIDEO_TIMESCALE);
        let frame = |(num, den): (u32, u32)| (scale * i64::from(den) / i64::from(num.max(1))).max(1);
        let video = begin.video.as_ref().map(|video| frame(video.fps.unwrap_or(UNKNOWN_FPS)));
        // A rung with fewer frames shows some of the source's.
        let capped = |video: i64, cap: u32| (scale / i64::from(cap.max(1)) + video - 1) / video * video;
        let rungs = self.ladder().iter().filter_map(|rung| Some(capped(video?, rung.fps_max?)));
        let audio = begin.audio.as_ref().map(|a| rescale(a.frame_len.into(), a.sample_rate.max(1), VIDEO_TIMESCALE));
        let config = &self.shared.config;
        Parts::new(config.chunk_ticks(), config.part_ticks(), video, rungs.chain(audio.map(|audio| audio.max(1))))
    }

    /// Chooses the rungs to encode, as far as the node can afford them, and names the one only re-encode mode needs.
    pub(super) fn plan(&self, video: Option<&VideoConfig>) -> (Option<Granted>, Option<Rendition>) {
        let (Some(video), Some(pool)) = (video, &self.shared.transcoding) else { return (None, None) };
        let ladder = self.ladder();
        if ladder.is_empty() {
            return (None, None);
        }
        let wanted = transcode::ladder::plan(ladder, video, true);
        let below = transcode::ladder::plan(ladder, video, false);
        let top = wanted.iter().find(|r| below.iter().all(|b| b.name != r.name)).map(|r| r.name.clone());
        (Some(pool.admit(&wanted, video)), top)
    }

    /// What the epoch offers, as far as is known now.
    pub(super) fn rows(&self, begin: &Begin, rungs: &[Rung]) -> Vec<RenditionRow> {
        let mut rows = Vec::new();
        if let Some(video) = &begin.video {
            rows.push(video_row(Rendition::source(), video));
            rows.extend(rungs.iter().map(|rung| self.rung_row(rung, video)));
        }
        rows.extend(begin.audio.as_ref().map(audio_row));
        rows
    }

    pub(super) fn rung_row(&self, rung: &Rung, source: &VideoConfig) -> RenditionRow {
        RenditionRow {
            codec: String::new(),
            width: rung.width,
            height: rung.height,
            peak_bps: peak_bps(rung, self.shared.config.chunk),
            mean_bps: u64::from(rung.bitrate_kbps) * 1000,
            ..video_row(rung.name.clone(), source)
        }
    }

    /// Ends the running epoch at `at`, or where its media ends.
    pub(super) fn end_epoch(&mut self, at: Option<i64>) {
        let Some(run) = self.run.take() else { return };
        let at = at.unwrap_or(run.end);
        self.ring.push(Message::End { at });
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        let epoch = run.writes;
        broadcast.close(at);
        let mut finished = Vec::new();
        if let Some(source) = run.source {
            let hash = hash(&source);
            finished.extend(source.finish(at).into_iter().map(|c| (Rendition::source(), hash.clone(), c)));
        }
        if let Some(audio) = run.audio {
            let hash = hash(&audio);
            finished.extend(audio.finish(at).into_iter().map(|c| (Rendition::audio(), hash.clone(), c)));
        }
        for (rendition, hash, chunk) in finished {
            self.finished(rendition, hash, chunk);
        }
        let broadcast = self.broadcast.as_mut().expect("a run belongs to a broadcast");
        broadcast.done(&Rendition::source(), epoch);
        broadcast.done(&Rendition::audio(), epoch);
        // A broadcast that never got as far as a chunk is none.
        if broadcast.edge().is_none() {
            self.broadcast = None;
            self.shown.send_replace(None);
        } else {
            self.away = Some((self.heard, 0));
            self.store_broadcast(None);
        }
        self.changed = true;
    }
}

pub(super) fn video_row(name: Rendition, config: &VideoConfig) -> RenditionRow {
    let fps_milli = config.fps.map_or(0, |(n, d)| (u64::from(n) * 1000 / u64::from(d.max(1))).min(240_000) as u32);
    let (width, height) = (u32::from(config.width), u32::from(config.height));
    RenditionRow {
        name,
        codec: config.codec_string(),
        width,
        height,
        fps_milli,
        channels: 0,
        peak_bps: 0,
        mean_bps: 0,
        iframe_bps: 0,
    }
}

/// What a chunk of this rung needs at most, and 2 % for its boxes.
pub(super) fn peak_bps(rung: &Rung, chunk: Duration) -> u64 {
    u64::from(rung.peak_kbps(chunk.as_millis() as u32)) * 1020
}

pub(super) fn audio_row(config: &AudioConfig) -> RenditionRow {
    RenditionRow {
        name: Rendition::audio(),
        codec: config.codec_string(),
        width: 0,
        height: 0,
        fps_milli: 0,
        channels: u32::from(config.channels),
        peak_bps: 0,
        mean_bps: 0,
        iframe_bps: 0,
    }
}
