//! The HTTP sockets: accept, limits, graceful end. HTTP/1.1, and HTTP/2 for clients that begin with it
//! or choose it in TLS.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use axum::BoxError;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    front::{Door, Front, Traffic},
    pace::{self, Paced},
    tls::Tls,
    viewer::Peer,
};

/// A client that has not sent its request's headers by then is closed. Also how long a kept-alive connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A TLS client that has not come to terms by then is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Request headers of a player are below 2 KB.
const HEADER_BYTES: usize = 16 << 10;
/// Requests at a time on one HTTP/2 connection: a player has some ten, a cache in front many.
const STREAMS_MAX: u32 = 100;
/// Streams that a client opened and reset before they were looked at; more is an attack.
const RESETS_MAX: usize = 32;
/// An HTTP/2 client that is quiet is asked whether it is there, and closed when it does not say so in the same time again.
const PING: Duration = Duration::from_secs(20);

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; when all are taken new ones wait in the listen queue.
    pub connections: usize,
    /// Connections from one address; one more is closed.
    pub per_address: usize,
}

/// Serves until `shutdown`, then lets running requests end within `patience`. `peer` tells who is at the other end of a
/// connection from an address. With `tls` nothing else is spoken.
pub async fn serve(
    listener: TcpListener,
    front: Front,
    peer: fn(IpAddr) -> Peer,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
    patience: Duration,
) {
    let protocols = Arc::new(Protocols::new());
    let (running, closing) = (TaskTracker::new(), CancellationToken::new());
    let slots = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (socket, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    // Out of descriptors, most likely: let connections end before the next try.
                    warn!(%why, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let per_address = if front.is_proxy(address.ip()) { limits.connections } else { limits.per_address };
        let Some(place) = addresses.enter(address.ip().to_canonical(), per_address) else {
            metrics::counter!("weir_http_connections_refused_total").increment(1);
            continue;
        };
        if let Err(why) = socket.set_nodelay(true) {
            debug!(%why, "no TCP_NODELAY");
        }
        let door = front.door(peer, address.ip(), tls.is_some(), Counted { _slot: slot, _place: place });
        let (protocols, closing) = (protocols.clone(), closing.clone());
        let acceptor = tls.as_ref().map(|tls| tls.acceptor());
        running.spawn(async move {
            let ended = match acceptor {
                None => protocols.speak(socket, door, closing).await,
                // Boxed: it is large, and plain connections need not be.
                Some(acceptor) => Box::pin(protocols.speak_tls(acceptor, socket, door, closing)).await,
            };
            if let Err(why) = ended {
                debug!(%why, "connection ended");
            }
        });
    }
    drop(listener);
    closing.cancel();
    running.close();
    if tokio::time::timeout(patience, running.wait()).await.is_err() {
        debug!("some connections were cut");
    }
}

/// What an HTTP/2 client begins with (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between the first two looks at a client that has sent a part of that; then twice as long, and so on.
const AGAIN: Duration = Duration::from_millis(5);
/// Looks at it. Whoever has not sent the rest by then (5 s) speaks HTTP/1.1 if anything.
const LOOKS: u32 = 10;
/// Between two looks at what an HTTP/2 connection does.
const LOOK: Duration = Duration::from_secs(1);
/// An HTTP/2 connection without requests is closed after this.
const HTTP2_IDLE: Duration = Duration::from_secs(60);

/// The two ways to speak HTTP.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    fn new() -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES).keep_alive(true);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_header_list_size(HEADER_BYTES as u32)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        Self { http1, http2 }
    }

    /// Serves one connection to its end. The beginning is looked at and left where it is: a buffer that got it twice would
    /// be twice as large for as long as the connection idles.
    async fn speak(&self, socket: TcpStream, door: Door, closing: CancellationToken) -> Result<(), BoxError> {
        let is_http2 = timeout(HEADER_TIMEOUT, begins_with_preface(&socket)).await??;
        let io = TokioIo::new(Paced::new(socket));
        match is_http2 {
            // Boxed: few connections are of this kind, and it is large.
            true => Box::pin(self.speak_http2(io, door, closing)).await?,
            false => self.speak_http1(io, door, closing).await?,
        }
        Ok(())
    }

    async fn speak_tls(
        &self,
        acceptor: TlsAcceptor,
        socket: TcpStream,
        door: Door,
        closing: CancellationToken,
    ) -> Result<(), BoxError> {
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await??;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(Paced::new(stream));
        match is_http2 {
            true => self.speak_http2(io, door, closing).await?,
            false => self.speak_http1(io, door, closing).await?,
        }
        Ok(())
    }
}

impl Protocols {
    async fn speak_http1<S>(&self, io: TokioIo<Paced<S>>, door: Door, closing: CancellationToken) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut connection = pin!(self.http1.serve_connection(io, door).with_upgrades());
        tokio::select! {
            ended = &mut connection => return ended,
            () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    /// HTTP/2 has windows of its own within the socket: a reader that opens none leaves the socket idle. So its connection
    /// is looked at as a whole.
    async fn speak_http2<S>(
        &self,
        io: TokioIo<Paced<S>>,
        door: Door,
        closing: CancellationToken,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let door = door.http2();
        let mut connection = pin!(self.http2.serve_connection(io, door.clone()));
        let serving = async {
            tokio::select! {
                ended = &mut connection => return ended,
                () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        };
        tokio::select! {
            ended = serving => Ok(ended?),
            why = stands_still(door.traffic()) => Err(why.into()),
        }
    }
}

/// Waits until a connection has been of no use for too long: idle, or with answers that its reader does not take.
async fn stands_still(traffic: &Traffic) -> &'static str {
    let look = || {
        let unfinished = traffic.unfinished.load(Ordering::Relaxed);
        let untaken = unfinished.saturating_sub(traffic.held.load(Ordering::Relaxed));
        (unfinished, untaken, traffic.bytes.load(Ordering::Relaxed), traffic.requests.load(Ordering::Relaxed))
    };
    let (mut idle, mut slow) = ((Duration::ZERO, 0), (Duration::ZERO, 0));
    loop {
        tokio::time::sleep(LOOK).await;
        let (unfinished, untaken, bytes, requests) = look();
        match unfinished == 0 && requests == idle.1 {
            true => idle.0 += LOOK,
            false => idle = (Duration::ZERO, requests),
        }
        match untaken {
            0 => slow = (Duration::ZERO, bytes),
            _ => slow.0 += LOOK,
        }
        if slow.0 >= pace::WINDOW {
            if bytes - slow.1 < pace::RATE * pace::WINDOW.as_secs() {
                metrics::counter!("weir_http_slow_readers_total").increment(1);
                return "the reader is too slow";
            }
            slow = (Duration::ZERO, bytes);
        }
        if idle.0 >= HTTP2_IDLE {
            return "idle";
        }
    }
}

async fn begins_with_preface(socket: &TcpStream) -> std::io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    for look in 0..LOOKS {
        let len = socket.peek(&mut begin).await?;
        if begin[..len] != PREFACE[..len] || len == 0 {
            return Ok(false);
        }
        if len == PREFACE.len() {
            return Ok(true);
        }
        tokio::time::sleep(AGAIN * 2_u32.pow(look)).await;
    }
    Ok(false)
}

/// How many connections each address has.
#[derive(Default, Clone)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection among all, and among those of its address: both count it as long as this is there.
pub struct Counted {
    _slot: OwnedSemaphorePermit,
    _place: Place,
}

/// One connection of an address.
struct Place(Addresses, IpAddr);

impl Addresses {
    fn enter(&self, address: IpAddr, max: usize) -> Option<Place> {
        let mut counts = self.0.lock().expect("no panic while held");
        let count = counts.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), address))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().expect("no panic while held");
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    /// After how many seconds a connection is given up on which every second so many bytes go; at most three minutes.
    async fn given_up(unfinished: usize, held: usize, each_second: u64, new_requests: u64) -> Option<u64> {
        let traffic = Arc::new(Traffic::default());
        traffic.unfinished.store(unfinished, Ordering::Relaxed);
        traffic.held.store(held, Ordering::Relaxed);
        let moving = traffic.clone();
        let mover = tokio::spawn(async move {
            loop {
                moving.bytes.fetch_add(each_second, Ordering::Relaxed);
                moving.requests.fetch_add(new_requests, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let begun = now();
        let ended = timeout(Duration::from_secs(180), stands_still(&traffic)).await;
        mover.abort();
        ended.ok().map(|_| (now() - begun).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_reader_must_take_what_it_asked_for() {
        assert_eq!(given_up(1, 0, 0, 0).await, Some(20), "it opens no window");
        assert_eq!(given_up(100, 0, 1000, 5).await, Some(20), "other requests do not help");
        assert_eq!(given_up(1, 0, 5000, 0).await, None, "slow, but it takes");
        assert_eq!(given_up(5, 5, 0, 0).await, None, "it waits for what is being made");
        assert_eq!(given_up(0, 0, 0, 0).await, Some(60), "idle");
        assert_eq!(given_up(0, 0, 0, 1).await, None, "small answers, all taken");
    }

    #[test]
    fn an_address_has_so_many_connections_and_leaves_nothing_behind() {
        let addresses = Addresses::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut places: Vec<_> = (0..3).map(|_| addresses.enter(one, 3).unwrap()).collect();
        assert!(addresses.enter(one, 3).is_none() && addresses.enter(other, 3).is_some());
        places.pop();
        assert!(addresses.enter(one, 3).is_some());
        drop(places);
        assert!(addresses.0.lock().unwrap().is_empty());
    }
}
