//! The socket of RTMP: accepts connections, drives one [`Session`] on each, hands media on.
//!
//! One task per connection; it owns the session and the socket, and drives the publisher's [`Sink`]. A sink that takes its
//! time stops the reading of its socket, so the encoder feels backpressure and nothing queues. Connections that do not
//! publish are counted in one registry, which closes the oldest when there are too many or when file descriptors run
//! out. A connection that was silent so far holds no buffer. Never looks at a stream key.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    Code, Config, Reason, Refusal, StreamKey,
    flv::Tag,
    session::{Input, Output, Session},
};
use crate::time::{Timestamp, now};

/// Enough for a handshake or a row of commands.
const READ_BEFORE_AUTH: usize = 4 << 10;
/// A frame or so; larger reads gain nothing.
const READ_AFTER_AUTH: usize = 64 << 10;
/// Tags that are handed on together at most.
const TAGS_MAX: usize = 64;
/// How long a peer that was told why it is closed has to read it.
const LINGER: Duration = Duration::from_secs(1);
/// How long all connections together have to end after a shutdown.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Asks to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// The application of the URL, `live` in `rtmp://host/live`.
    pub app: String,
    pub stream_key: StreamKey,
    /// What the encoder calls itself.
    pub encoder: String,
    pub peer: SocketAddr,
}

/// Decides who may publish, and takes what they send.
#[async_trait]
pub trait Publishers: Send + Sync + 'static {
    /// Answers within [`Config::write_timeout`]; later is a refusal. The connection is not read meanwhile.
    async fn publish(&self, request: PublishRequest) -> Result<Accepted, Refusal>;
}

/// Takes what one publisher sends. Driven by the connection's own task.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes what came together, in order. The socket is not read meanwhile, so the encoder waits. A refusal ends the
    /// connection with its words. Dropped before it is done only when [`Accepted::stop`] fires.
    async fn take(&mut self, tags: Vec<Tag>) -> Result<(), Refusal>;

    /// The publish is over; nothing comes after it.
    async fn end(self: Box<Self>, ended: Ended);
}

/// How a publish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The encoder said that it is over.
    Unpublished,
    /// Everything else.
    Lost(Reason),
}

/// A publish that may begin.
pub struct Accepted {
    pub sink: Box<dyn Sink>,
    /// Ends the connection.
    pub stop: CancellationToken,
    /// What to tell the streamer when `stop` fires.
    pub words: Refusal,
}

/// How a server is told to stop: step by step, or all at once by the last one.
#[derive(Debug, Clone)]
pub struct Stop {
    /// No new publisher is taken; a connection that does not publish yet is closed.
    pub no_more: CancellationToken,
    /// Publishers that can are asked to go on elsewhere.
    pub moving: CancellationToken,
    /// Every peer is told, and closed.
    pub over: CancellationToken,
    /// Holds a token for each publisher that would go when it is asked.
    movable: TaskTracker,
}

impl Default for Stop {
    fn default() -> Self {
        let over = CancellationToken::new();
        let moving = over.child_token();
        Self { no_more: moving.child_token(), moving, over, movable: TaskTracker::new() }
    }
}

impl Stop {
    /// How many publishers would go when they are asked.
    pub fn movable(&self) -> usize {
        self.movable.len()
    }

    /// Asks those publishers to go, and waits until they have.
    pub async fn moved(&self) {
        self.moving.cancel();
        self.movable.close();
        self.movable.wait().await;
    }
}

/// The accept loop.
pub struct Server;

impl Server {
    /// Serves until `stop` is over, then waits a moment for the peers. Errors of single connections and of `accept` do not end
    /// it.
    pub async fn run<P: Publishers>(listener: TcpListener, publishers: Arc<P>, config: Config, stop: Stop) {
        let shared = Arc::new(Shared {
            half_open: HalfOpen::new(config.half_open_max),
            publishing: AtomicUsize::new(0),
            bytes: metrics::counter!("rtmp_bytes_total"),
            publishers,
            config,
            stop,
        });
        let connections = metrics::counter!("rtmp_connections_total");
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shared.stop.no_more.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    connections.increment(1);
                    let place = shared.half_open.enter();
                    tasks.spawn(connection(socket, peer, place, shared.clone()));
                }
                // The peer was gone before we looked.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections, closing the oldest that does not publish");
                    shared.half_open.evict_oldest();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        if shared.stop.over.run_until_cancelled(tasks.wait()).await.is_none() {
            let _ = timeout(SHUTDOWN, tasks.wait()).await;
        }
    }
}

/// Raises the soft limit of open files to the hard one and gives it. Each connection is one file.
#[allow(unsafe_code)]
pub fn raise_fd_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct that is passed, which lives across them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

struct Shared<P> {
    publishers: Arc<P>,
    config: Config,
    half_open: HalfOpen,
    publishing: AtomicUsize,
    bytes: metrics::Counter,
    stop: Stop,
}

/// The connections that do not publish, by age.
#[derive(Clone)]
struct HalfOpen {
    max: usize,
    places: Arc<Mutex<Places>>,
    gauge: metrics::Gauge,
}

#[derive(Default)]
struct Places {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

/// One connection's place among the half-open; leaves it when dropped.
struct Place {
    number: u64,
    evicted: CancellationToken,
    registry: HalfOpen,
}

impl HalfOpen {
    fn new(max: usize) -> Self {
        Self { max: max.max(1), places: Arc::default(), gauge: metrics::gauge!("rtmp_half_open") }
    }

    fn enter(&self) -> Place {
        let evicted = CancellationToken::new();
        let mut places = self.places.lock().expect("no holder panics");
        let number = places.next;
        places.next += 1;
        places.by_age.insert(number, evicted.clone());
        while places.by_age.len() > self.max {
            places.evict_oldest();
        }
        self.gauge.set(places.by_age.len() as f64);
        Place { number, evicted, registry: self.clone() }
    }

    fn evict_oldest(&self) {
        self.places.lock().expect("no holder panics").evict_oldest();
    }
}

impl Places {
    fn evict_oldest(&mut self) {
        if let Some((_, oldest)) = self.by_age.pop_first() {
            oldest.cancel();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.registry.places.lock().expect("no holder panics");
        places.by_age.remove(&self.number);
        self.registry.gauge.set(places.by_age.len() as f64);
    }
}

async fn connection<P: Publishers>(socket: TcpStream, peer: SocketAddr, place: Place, shared: Arc<Shared<P>>) {
    let opened = now();
    // Most of what a hostile crowd sends is nothing: until the first byte there is only this small future.
    let mut byte = [0];
    let first = tokio::select! {
        biased;
        () = shared.stop.no_more.cancelled() => Err(Reason::Shutdown),
        () = place.evicted.cancelled() => Err(Reason::HalfOpenFull),
        // Not `readable`, which may be wrong and then says so only to a read with a buffer.
        ready = timeout(shared.config.handshake_timeout, socket.peek(&mut byte)) => match ready {
            Ok(Ok(0)) => Err(Reason::PeerClosed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Reason::ConnectionLost(error.kind())),
            Err(_) => Err(Reason::HandshakeTimeout),
        },
    };
    let reason = match first {
        Ok(()) => Box::pin(Connection::new(socket, peer, opened, place, &shared).run()).await,
        Err(reason) => reason,
    };
    tracing::debug!(%peer, %reason, "connection closed");
    metrics::counter!("rtmp_closed_total", "reason" => reason.label()).increment(1);
}

/// One of the publishers that the server may have.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let free = |taken| (taken < max).then_some(taken + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| Self(count))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A publish that goes on.
struct Publishing<'a> {
    accepted: Accepted,
    _seat: Seat<'a>,
    /// Of one that would go when it is asked.
    movable: Option<TaskTrackerToken>,
    /// It was asked to go.
    asked: bool,
}

struct Connection<'a, P> {
    socket: TcpStream,
    peer: SocketAddr,
    session: Session,
    buffer: BytesMut,
    place: Option<Place>,
    publishing: Option<Publishing<'a>>,
    shared: &'a Shared<P>,
}

impl<'a, P: Publishers> Connection<'a, P> {
    fn new(socket: TcpStream, peer: SocketAddr, opened: Timestamp, place: Place, shared: &'a Shared<P>) -> Self {
        // Replies are small and each is waited for; losing this only costs time.
        let _ = socket.set_nodelay(true);
        let session = Session::new(opened, shared.config.clone());
        let buffer = BytesMut::new();
        Self { socket, peer, session, buffer, place: Some(place), publishing: None, shared }
    }

    async fn run(mut self) -> Reason {
        let (mut reason, told) = self.serve().await;
        if let Some(publishing) = self.publishing.take() {
            tracing::info!(peer = %self.peer, %reason, "publisher lost");
            publishing.accepted.sink.end(Ended::Lost(reason.clone())).await;
        } else if let Reason::ConnectionLost(_) = reason {
            // Encoders go without reading our farewell, which resets the connection: nothing was lost.
            reason = Reason::PeerClosed;
        }
        if told {
            self.linger().await;
        }
        reason
    }

    /// Runs the session to its end; tells also whether the peer was told why.
    async fn serve(&mut self) -> (Reason, bool) {
        loop {
            let mut told = false;
            let mut tags = Vec::new();
            while let Some(output) = self.session.poll() {
                let output = match output {
                    Output::Media(tag) if tags.len() < TAGS_MAX => {
                        tags.push(tag);
                        continue;
                    }
                    output => output,
                };
                self.pass_on(&mut tags).await;
                let result = match output {
                    Output::Media(tag) => {
                        tags.push(tag);
                        Ok(())
                    }
                    Output::Send(bytes) => {
                        told = true;
                        self.write(bytes).await
                    }
                    Output::PublishRequest { app, stream_key, encoder } => {
                        self.publish(PublishRequest { app, stream_key, encoder, peer: self.peer }).await;
                        Ok(())
                    }
                    Output::Unpublished => {
                        self.unpublished().await;
                        Ok(())
                    }
                    Output::Close(reason) => return (reason, told),
                };
                if let Err(reason) = result {
                    return (reason, false);
                }
            }
            if self.pass_on(&mut tags).await {
                continue;
            }
            match self.next_input().await {
                Ok(input) => self.session.handle(now(), input),
                Err(reason) => return (reason, false),
            }
        }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Reason> {
        match timeout(self.shared.config.write_timeout, self.socket.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Reason::ConnectionLost(error.kind())),
            Err(_) => Err(Reason::WriteTimeout),
        }
    }

    /// Waits for what the session needs next. Bytes come before the deadline: after a wait for a full sink, what lies in
    /// the socket is not the peer's silence.
    async fn next_input(&mut self) -> Result<Input, Reason> {
        let deadline = self.session.deadline();
        if self.publishing.is_some() {
            return self.next_media(deadline).await;
        }
        self.buffer.reserve(READ_BEFORE_AUTH);
        tokio::select! {
            biased;
            input = ended(&self.shared.stop.no_more, self.place.as_ref()) => Ok(input),
            read = self.socket.read_buf(&mut self.buffer) => match read {
                Ok(0) => Err(Reason::PeerClosed),
                Ok(read) => {
                    self.shared.bytes.increment(read as u64);
                    Ok(Input::Bytes(self.buffer.split().freeze()))
                }
                Err(error) => Err(Reason::ConnectionLost(error.kind())),
            },
            () = at(deadline) => Ok(Input::Tick),
        }
    }

    /// The same of a publisher, whose bytes are collected for up to `Config::pace`: work on many frames of many publishers in one go
    /// costs a fraction of a wake-up for each.
    async fn next_media(&mut self, deadline: Option<Timestamp>) -> Result<Input, Reason> {
        self.buffer.reserve(READ_AFTER_AUTH);
        let pace = self.shared.config.pace;
        loop {
            let wait = pace - Duration::from_micros(now().0 % pace.as_micros() as u64);
            let read = tokio::select! {
                biased;
                ready = self.socket.readable() => match ready {
                    Ok(()) => self.socket.try_read_buf(&mut self.buffer),
                    Err(error) => Err(error),
                },
                () = tokio::time::sleep(wait) => receive(&self.socket, &mut self.buffer),
            };
            // Looked at, not waited for: to be woken for them costs more than all else that is done here.
            if let Some(stop) = self.stopped() {
                return Ok(stop);
            }
            match read {
                Ok(0) => return Err(Reason::PeerClosed),
                Ok(read) => {
                    self.shared.bytes.increment(read as u64);
                    return Ok(Input::Bytes(self.buffer.split().freeze()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if deadline.is_some_and(|deadline| deadline <= now()) {
                        return Ok(Input::Tick);
                    }
                }
                Err(error) => return Err(Reason::ConnectionLost(error.kind())),
            }
        }
    }

    /// What ends the publish from our side, or is to, once it has come.
    fn stopped(&mut self) -> Option<Input> {
        let publishing = self.publishing.as_mut()?;
        let (Accepted { stop, words, .. }, shared) = (&publishing.accepted, &self.shared.stop);
        if stop.is_cancelled() {
            return Some(Input::Stop(Reason::Stopped, Some(words.clone())));
        }
        if shared.over.is_cancelled() {
            return Some(Input::Stop(Reason::Shutdown, None));
        }
        let ask = shared.moving.is_cancelled() && publishing.movable.is_some() && !publishing.asked;
        publishing.asked |= ask;
        ask.then_some(Input::Move)
    }

    async fn publish(&mut self, request: PublishRequest) {
        let (app, encoder) = (request.app.clone(), request.encoder.clone());
        let Some(seat) = Seat::take(&self.shared.publishing, self.shared.config.publishers_max) else {
            let words = Refusal::new(Code::Rejected, "this server has as many publishers as it may have");
            return self.session.handle(now(), Input::Stop(Reason::PublishersFull, Some(words)));
        };
        let answer = tokio::select! {
            biased;
            input = ended(&self.shared.stop.no_more, self.place.as_ref()) => Err(input),
            answer = timeout(self.shared.config.write_timeout, self.shared.publishers.publish(request)) => {
                let late = |_| Err(Refusal::new(Code::Rejected, "the server is busy, please try again"));
                answer.unwrap_or_else(late).map_err(Input::Refuse)
            }
        };
        let input = match answer {
            Ok(accepted) => {
                tracing::info!(peer = %self.peer, %app, %encoder, "publisher accepted");
                self.publishing = Some(Publishing { accepted, _seat: seat, movable: None, asked: false });
                self.place = None;
                set_low_water(&self.socket, READ_AFTER_AUTH);
                Input::Accept
            }
            Err(input) => {
                if let Input::Refuse(Refusal { code, description }) = &input {
                    tracing::info!(peer = %self.peer, %app, %encoder, code = code.as_str(), %description, "publisher refused");
                }
                input
            }
        };
        self.session.handle(now(), input);
        if let Some(publishing) = self.publishing.as_mut().filter(|_| self.session.can_move()) {
            publishing.movable = Some(self.shared.stop.movable.token());
        }
    }

    /// Gives the sink what was collected; the socket is not read meanwhile. Tells whether the session was told to stop.
    async fn pass_on(&mut self, tags: &mut Vec<Tag>) -> bool {
        let tags = std::mem::take(tags);
        let Some(publishing) = self.publishing.as_mut().filter(|_| !tags.is_empty()) else { return false };
        let Accepted { sink, stop, words } = &mut publishing.accepted;
        let words = tokio::select! {
            biased;
            () = stop.cancelled() => words.clone(),
            taken = sink.take(tags) => match taken {
                Ok(()) => return false,
                Err(words) => words,
            },
        };
        self.session.handle(now(), Input::Stop(Reason::Stopped, Some(words)));
        true
    }

    async fn unpublished(&mut self) {
        if let Some(publishing) = self.publishing.take() {
            tracing::info!(peer = %self.peer, "publisher ended its stream");
            publishing.accepted.sink.end(Ended::Unpublished).await;
            set_low_water(&self.socket, 1);
            self.place = Some(self.shared.half_open.enter());
        }
    }

    /// Closes so that the peer can read our last words: a socket closed with unread input resets the connection, and
    /// the reset overtakes them.
    async fn linger(&mut self) {
        let drained = async {
            self.socket.shutdown().await?;
            let mut sink = [0; 1024];
            while self.socket.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, drained).await;
    }
}

/// Reads what is there, whether or not the runtime has been told that something is.
#[allow(unsafe_code)]
fn receive(socket: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let spare = buffer.spare_capacity_mut();
    // SAFETY: the kernel writes at most `len` bytes to the spare capacity, and says how many it did.
    unsafe {
        let read = libc::recv(socket.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len(), libc::MSG_DONTWAIT);
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        buffer.set_len(buffer.len() + read);
        Ok(read)
    }
}

/// Has the kernel wake us for whole buffers only. Without it every packet would.
#[allow(unsafe_code)]
fn set_low_water(socket: &TcpStream, bytes: usize) {
    use std::os::fd::AsRawFd;
    let value = bytes as libc::c_int;
    // SAFETY: the kernel reads an int that lives across the call.
    unsafe {
        let at = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, at, size_of_val(&value) as u32);
    }
}

/// Waits for whatever ends a connection that does not publish from our side.
async fn ended(no_more: &CancellationToken, place: Option<&Place>) -> Input {
    let evicted = async {
        match place {
            Some(place) => place.evicted.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = evicted => Input::Stop(Reason::HalfOpenFull, None),
        () = no_more.cancelled() => Input::Stop(Reason::Shutdown, None),
    }
}

async fn at(deadline: Option<Timestamp>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline - now()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    #[async_trait]
    impl Publishers for Nobody {
        async fn publish(&self, _: PublishRequest) -> Result<Accepted, Refusal> {
            Err(Refusal::new(Code::Denied, "nobody"))
        }
    }

    #[tokio::test]
    async fn a_silent_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            half_open: HalfOpen::new(10),
            publishing: AtomicUsize::new(0),
            bytes: metrics::Counter::noop(),
            publishers: Arc::new(Nobody),
            config: Config::default(),
            stop: Stop::default(),
        });
        let socket = TcpStream::connect(address).await.unwrap();
        let future = connection(socket, address, shared.half_open.enter(), shared);
        let size = size_of_val(&future);
        assert!(size < 1024, "{size}");
    }
}
