//! Runs a line's transcoder child: starts it, feeds it from the replay ring, forwards what it says as [`Event`]s, counts its
//! CPU. What to do when it fails is decided by [`super::recovery`]; this is the IO around it.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use super::recovery::{Event, Item};
use super::{
    Rung, Spec,
    budget::{Budget, Granted, Reservation},
    description::{self, Source},
    recovery::{Input, Output, Recovery},
    worker,
};
use crate::{
    id::Rendition,
    media::{
        Message, Track,
        ring::{self, Ring},
        wire,
    },
    time::{self, Timestamp},
};

/// What every transcoder of a node has in common.
#[derive(Clone)]
pub struct Settings {
    /// The binary whose hidden subcommand is the worker; normally `std::env::current_exe()`.
    pub exe: PathBuf,
    /// Text of the picked family's description.
    pub description: Arc<str>,
    /// Niceness added to the child.
    pub nice: u8,
    /// The chunks' nominal length.
    pub chunk: Duration,
    pub budget: Budget,
}

/// A running transcoder. Dropping it kills the child.
pub struct Transcoder {
    rungs: Vec<Rung>,
    drop_rung: mpsc::Sender<Rendition>,
    _stop: DropGuard,
}

/// Rungs that may be given up at once.
const UNWANTED_MAX: usize = 32;
/// Events on their way to the line. Full: the child waits, and after it the ring's reader, which in the end falls behind and
/// starts anew at a boundary.
const EVENTS_MAX: usize = 256;
/// Notes of the child's two tasks to the supervisor. Full: they wait.
const NOTES_MAX: usize = 64;
/// How often CPU is read.
const CPU_EVERY: Duration = Duration::from_secs(5);
/// Ticks per second in `/proc/<pid>/stat`: USER_HZ, 100 on every Linux that runs this.
const USER_HZ: f64 = 100.0;
const READ_LEN: usize = 64 * 1024;

impl Transcoder {
    /// Starts encoding what was granted, from `start_k` on, the first chunk of `epoch`. The channel closes when every rung
    /// has ended.
    ///
    /// One transcoder serves one epoch: it ends with the epoch's `End`, or where the next epoch begins.
    ///
    /// # Errors
    /// The description does not fill in.
    pub fn spawn(
        settings: Settings,
        granted: Granted,
        source: Source,
        ring: Arc<Ring>,
        epoch: u64,
        start_k: u64,
    ) -> Result<(Self, mpsc::Receiver<Event>), description::Error> {
        description::render(&settings.description, source, &granted.rungs)?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let (drop_rung, unwanted) = mpsc::channel(UNWANTED_MAX);
        let stop = CancellationToken::new();
        let task = Supervisor {
            machine: Recovery::new(time::now(), &granted.rungs, start_k, settings.chunk),
            rungs: granted.rungs.clone(),
            settings,
            source,
            ring,
            events,
            reservation: granted.reservation,
            epoch,
            start_k,
            child: None,
            generation: 0,
        };
        let token = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = task.run(unwanted) => {}
            }
        });
        Ok((Self { rungs: granted.rungs, drop_rung, _stop: stop.drop_guard() }, receiver))
    }

    /// Stops encoding a rung, at a chunk's end; its `End` follows.
    pub fn drop_rung(&self, rung: &Rendition) {
        // There is room for every rung once; a second word about one changes nothing.
        let _ = self.drop_rung.try_send(rung.clone());
    }

    /// The rungs that were admitted, largest first.
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }
}

/// What a child's tasks report.
enum Note {
    Input(Input),
    /// The ring no longer holds what comes next.
    Lagged,
}

struct Supervisor {
    machine: Recovery,
    rungs: Vec<Rung>,
    settings: Settings,
    source: Source,
    ring: Arc<Ring>,
    events: mpsc::Sender<Event>,
    reservation: Reservation,
    /// The epoch that this transcoder serves, and its first chunk.
    epoch: u64,
    start_k: u64,
    child: Option<Running>,
    generation: u64,
}

struct Running {
    pid: Option<u32>,
    kill: CancellationToken,
    drops: mpsc::Sender<u8>,
    /// CPU seconds at a time, to measure from.
    cpu: Option<(Timestamp, f64)>,
    _tasks: DropGuard,
}

impl Supervisor {
    async fn run(mut self, mut unwanted: mpsc::Receiver<Rendition>) {
        let (notes_in, mut notes) = mpsc::channel::<(u64, Note)>(NOTES_MAX);
        let mut head = Some(self.ring.reader(ring::From::Live));
        let mut cpu = tokio::time::interval(CPU_EVERY);
        self.machine.tick(time::now());
        loop {
            while let Some(output) = self.machine.poll() {
                if !self.act(output, &notes_in).await {
                    return;
                }
            }
            let wait = self.machine.deadline().map(|at| at - time::now());
            tokio::select! {
                biased;
                Some((generation, note)) = notes.recv() => {
                    if generation == self.generation {
                        self.note(note);
                    }
                }
                message = next(&mut head), if head.is_some() => match message {
                    Ok(Message::Packet(p)) if p.track == Track::Video => {
                        self.machine.handle(time::now(), Input::Head { pts: p.pts });
                    }
                    Ok(_) => {}
                    Err(ring::Error::Lagged { .. }) => head = Some(self.ring.reader(ring::From::Live)),
                    // The feeder finds out by itself and says what is left to do.
                    Err(ring::Error::Closed) => head = None,
                },
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.machine.tick(time::now());
                }
                Some(rung) = unwanted.recv() => self.machine.handle(time::now(), Input::Drop { rung }),
                _ = cpu.tick() => self.count_cpu(),
                () = self.events.closed() => return,
            }
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Input(input) => {
                if matches!(input, Input::Gone) {
                    self.child = None;
                    if let Some(k) = self.ring.boundaries().first() {
                        self.machine.handle(time::now(), Input::Oldest { k: *k });
                    }
                }
                self.machine.handle(time::now(), input);
            }
            Note::Lagged => {
                tracing::warn!("transcoder fell out of the replay ring");
                if let Some(child) = &self.child {
                    child.kill.cancel();
                }
            }
        }
    }

    /// Carries an order out; `false`: nothing is left to do.
    async fn act(&mut self, output: Output, notes: &mpsc::Sender<(u64, Note)>) -> bool {
        match output {
            Output::Start { from_k, rungs } => {
                self.generation += 1;
                if let Err(error) = self.start(from_k, &rungs, notes) {
                    tracing::error!(%error, "transcoder cannot be started");
                    self.machine.handle(time::now(), Input::Gone);
                }
            }
            Output::Kill => {
                tracing::warn!("transcoder hangs: killed");
                if let Some(child) = &self.child {
                    child.kill.cancel();
                }
            }
            Output::Drop { channel } => {
                if let Some(child) = &self.child {
                    // Room for one of each channel that there can be.
                    let _ = child.drops.try_send(channel);
                }
            }
            Output::Emit(event) => {
                match &event {
                    Event::Restarted { from_k } => tracing::warn!(from_k, "transcoder restarted"),
                    Event::Shed { rung } => tracing::warn!(%rung, "the node cannot carry this rung: shed"),
                    Event::Item { .. } => {}
                }
                return self.events.send(event).await.is_ok();
            }
            Output::Done => return false,
        }
        true
    }

    fn start(
        &mut self,
        from_k: u64,
        places: &[usize],
        notes: &mpsc::Sender<(u64, Note)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let rungs: Vec<Rung> = places.iter().map(|&i| self.rungs[i].clone()).collect();
        let pipeline = description::render(&self.settings.description, self.source, &rungs)?;
        let fps = self.source.fps;
        let spec = Spec { pipeline, rungs: rungs.clone(), start_k: from_k, fps, nice: self.settings.nice };
        let spec = wire::Frame::Spec(serde_json::to_vec(&spec)?.into());
        let mut child = Command::new(&self.settings.exe)
            .arg(worker::SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    tracing::info!(target: "weir::transcode::worker", "{line}");
                }
            });
        }
        // One chunk more than needed, when this epoch has one: then the first decode times come from pictures, not from a
        // guess. A chunk of the epoch before may have another config.
        let oldest = self.ring.boundaries().first().copied().unwrap_or(0);
        let join = from_k.saturating_sub(1).max(self.start_k).max(oldest).min(from_k);
        let (drops, dropped) = mpsc::channel(256);
        let (kill, tasks) = (CancellationToken::new(), CancellationToken::new());
        let feeder = Feeder {
            reader: self.ring.reader(ring::From::Chunk(join)),
            stdin,
            notes: notes.clone(),
            generation: self.generation,
            epoch: self.epoch,
            ours: false,
            configured: false,
            drops: dropped,
            encoder: wire::Encoder::new(),
            head: BytesMut::new(),
            last: 0,
        };
        let pid = child.id();
        tokio::spawn(tasks.clone().run_until_cancelled_owned(feeder.run(spec)));
        tokio::spawn(tasks.clone().run_until_cancelled_owned(listen(
            child,
            stdout,
            notes.clone(),
            self.generation,
            kill.clone(),
        )));
        self.child = Some(Running { pid, kill, drops, cpu: None, _tasks: tasks.drop_guard() });
        Ok(())
    }

    fn count_cpu(&mut self) {
        let Some(child) = &mut self.child else { return };
        let Some(seconds) = child.pid.and_then(cpu_seconds) else { return };
        let now = time::now();
        if let Some((since, before)) = child.cpu.replace((now, seconds)) {
            let wall = (now - since).as_secs_f64();
            let cores = (seconds - before) / wall;
            metrics::gauge!("weir_transcoder_cores").set(cores);
            // A child that is ahead, behind or idle says nothing of what real time costs.
            if wall > 1.0 && self.machine.steady() {
                self.reservation.measured(&self.machine.active(), cores);
            }
        }
    }
}

async fn next(reader: &mut Option<ring::Reader>) -> Result<Message, ring::Error> {
    match reader {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

/// Gives the user and system time of a process (proc(5), fields 14 and 15).
fn cpu_seconds(pid: u32) -> Option<f64> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<f64> {
    // The name in the second field may hold anything, even brackets and spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / USER_HZ)
}

/// Writes the feed to the child.
struct Feeder {
    reader: ring::Reader,
    stdin: ChildStdin,
    notes: mpsc::Sender<(u64, Note)>,
    generation: u64,
    epoch: u64,
    /// The reader is inside the epoch. What comes before it, it gives to decode from: the epoch begins without an IDR.
    ours: bool,
    /// The child has its one config.
    configured: bool,
    drops: mpsc::Receiver<u8>,
    encoder: wire::Encoder,
    head: BytesMut,
    last: i64,
}

impl Feeder {
    async fn run(mut self, spec: wire::Frame) {
        // A child that no longer reads is noticed where its output ends.
        if self.write(spec).await.is_err() {
            return;
        }
        let mut dropping = true;
        loop {
            let message = tokio::select! {
                biased;
                channel = self.drops.recv(), if dropping => {
                    match channel {
                        Some(channel) => {
                            if self.write(wire::Frame::Drop { channel }).await.is_err() {
                                return;
                            }
                        }
                        None => dropping = false,
                    }
                    continue;
                }
                message = self.reader.next() => message,
            };
            let message = match message {
                Ok(Message::Epoch(epoch)) => {
                    if epoch.number > self.epoch {
                        let at = self.last;
                        return self.finish(at).await;
                    }
                    self.ours = epoch.number == self.epoch;
                    continue;
                }
                Ok(Message::End { .. }) if !self.ours => continue,
                Ok(Message::End { at }) => return self.finish(at).await,
                Ok(message) => message,
                Err(ring::Error::Closed) => {
                    let at = self.last;
                    return self.finish(at).await;
                }
                Err(ring::Error::Lagged { .. }) => return self.say(Note::Lagged).await,
            };
            match &message {
                Message::Packet(packet) if packet.track == Track::Video => {
                    self.last = self.last.max(packet.pts);
                    self.say(Note::Input(Input::Offered { dts: packet.dts })).await;
                }
                Message::Video(_) if !self.configured => self.configured = true,
                _ => continue,
            }
            if self.write(wire::Frame::Message { channel: 0, message }).await.is_err() {
                return;
            }
            self.say(Note::Input(Input::Taken)).await;
        }
    }

    async fn finish(&mut self, at: i64) {
        self.say(Note::Input(Input::Finished { at })).await;
        let end = wire::Frame::Message { channel: 0, message: Message::End { at } };
        // Closing stdin ends the child as well.
        let _ = self.write(end).await;
    }

    async fn write(&mut self, frame: wire::Frame) -> std::io::Result<()> {
        self.head.clear();
        let payload = self.encoder.encode(frame, &mut self.head).map_err(std::io::Error::other)?;
        self.stdin.write_all(&self.head).await?;
        self.stdin.write_all(&payload).await
    }

    async fn say(&self, note: Note) {
        // The supervisor is gone: so will be the child.
        let _ = self.notes.send((self.generation, note)).await;
    }
}

/// Forwards what the child says until it ends, talks nonsense or is to be killed; then makes sure that it is dead.
async fn listen(
    mut child: Child,
    stdout: ChildStdout,
    notes: mpsc::Sender<(u64, Note)>,
    generation: u64,
    kill: CancellationToken,
) {
    tokio::select! {
        () = kill.cancelled() => {}
        result = forward(stdout, &notes, generation) => {
            if let Err(error) = result {
                tracing::warn!(%error, "transcoder talks nonsense");
            }
        }
    }
    // Already dead is as good.
    let _ = child.start_kill();
    let _ = child.wait().await;
    let _ = notes.send((generation, Note::Input(Input::Gone))).await;
}

async fn forward(
    mut stdout: ChildStdout,
    notes: &mpsc::Sender<(u64, Note)>,
    generation: u64,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut decoder = wire::Decoder::new();
    loop {
        while let Some(frame) = decoder.poll()? {
            let wire::Frame::Message { channel, message } = frame else { return Err("not a message".into()) };
            let item = match message {
                Message::Video(config) => Item::Config(config),
                Message::Packet(packet) => Item::Packet(packet),
                Message::End { at } => Item::End { at },
                _ => return Err("not a rendition's message".into()),
            };
            notes.send((generation, Note::Input(Input::Said { channel, item }))).await?;
        }
        let buffer = decoder.buffer();
        buffer.reserve(READ_LEN);
        if stdout.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_strange_names() {
        let stat = "42 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(parse_stat(stat), Some(2.0));
        assert!(cpu_seconds(std::process::id()).is_some());
    }
}
