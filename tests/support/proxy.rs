//! A TCP proxy that misbehaves when it is told to: between a node, or a store, and a server.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::netns::{self, Netns};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Pass,
    /// Every connection is closed, new ones at once.
    Refuse,
    /// Answers come two seconds late.
    Slow,
    /// Connections stay, but nothing passes.
    Hang,
    /// Feeds to it are of a version that it does not know.
    OtherFeed,
}

/// How late a slow one is.
pub const LATE: Duration = Duration::from_secs(2);

pub struct Proxy {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    server: Mutex<String>,
    /// The network namespace of the server, if it is not this thread's.
    inside: Option<File>,
    mode: AtomicU8,
    /// The answer to the next CQL batch is lost with its connection, after it was forwarded.
    cut_batch: AtomicBool,
    /// Both ends of each connection, by its number.
    open: Mutex<BTreeMap<u64, Vec<TcpStream>>>,
    connections: AtomicU64,
    ended: AtomicBool,
}

impl Proxy {
    /// Listens on a free port of the address of `server` (`host:port`): drivers of databases go to the address that the server
    /// names, at the port they were told.
    pub fn start(server: &str) -> Self {
        let host = server.split(':').next().expect("a host");
        Self::listen(TcpListener::bind((host, 0)).expect("loopback"), server, None)
    }

    /// Stands in for `server` in one network namespace, under its own address, and connects to it in another; nothing is the
    /// one of this thread.
    pub fn between(from: Option<&Netns>, to: Option<&Netns>, server: &str) -> Self {
        let (from, address) = (from.map(Netns::open), server.to_owned());
        let bind = move || {
            from.iter().for_each(netns::enter);
            TcpListener::bind(address).expect("a free address")
        };
        let listener = thread::spawn(bind).join().expect("it binds");
        Self::listen(listener, server, to.map(Netns::open))
    }

    fn listen(listener: TcpListener, server: &str, inside: Option<File>) -> Self {
        let address = listener.local_addr().expect("bound").to_string();
        let shared = Arc::new(Shared {
            server: Mutex::new(server.to_owned()),
            inside,
            mode: AtomicU8::new(Mode::Pass as u8),
            cut_batch: AtomicBool::new(false),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                thread::spawn(move || shared.serve(client));
            }
        });
        Self { address, shared }
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
        if mode == Mode::Refuse {
            self.shared.close();
        }
    }

    /// New connections lead to another server.
    pub fn aim(&self, server: &str) {
        *self.shared.server.lock().expect("no panic while held") = server.to_owned();
    }

    /// Closes the connections that are there.
    pub fn cut(&self) {
        self.shared.close();
    }

    /// Loses the answer to the next CQL batch.
    pub fn cut_next_batch(&self) {
        self.shared.cut_batch.store(true, Ordering::SeqCst);
    }

    /// Whether it still waits for a batch.
    pub fn waits_for_batch(&self) -> bool {
        self.shared.cut_batch.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.close();
        // Wakes the thread that accepts, if it is in the same network namespace: else it ends with the process.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    fn close(&self) {
        for open in self.open.lock().expect("no panic while held").values().flatten() {
            let _ = open.shutdown(Shutdown::Both);
        }
    }

    fn serve(self: Arc<Self>, client: TcpStream) {
        if self.is(Mode::Refuse) {
            return;
        }
        // A thread of this connection alone: it may go elsewhere.
        self.inside.iter().for_each(netns::enter);
        let server = self.server.lock().expect("no panic while held").clone();
        let Ok(server) = TcpStream::connect(server) else { return };
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let ends: Vec<_> = [&client, &server].into_iter().filter_map(|stream| stream.try_clone().ok()).collect();
        for stream in &ends {
            let _ = stream.set_nodelay(true);
        }
        self.open.lock().expect("no panic while held").insert(number, ends);
        // Of this connection: the next answer is lost.
        let cut = Arc::new(AtomicBool::new(false));
        let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
        let (up, up_cut) = (self.clone(), cut.clone());
        let asking = thread::spawn(move || up.copy(from_client, to_server, &up_cut, true));
        self.copy(server, client, &cut, false);
        let _ = asking.join();
        self.open.lock().expect("no panic while held").remove(&number);
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, asking: bool) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len) = from.read(&mut buffer) {
            if len == 0 {
                break;
            }
            // The opcode of a CQL frame (native protocol 4, section 2).
            if asking && len > 4 && buffer[0] == 4 && buffer[4] == 0x0d && self.cut_batch.swap(false, Ordering::SeqCst)
            {
                cut.store(true, Ordering::SeqCst);
            }
            if !asking && cut.load(Ordering::SeqCst) {
                break;
            }
            if !asking && self.is(Mode::Slow) {
                // The server that is slow: nothing else is waited for.
                thread::park_timeout(LATE);
            }
            while self.is(Mode::Hang) && !self.ended.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(10));
            }
            if asking && self.is(Mode::OtherFeed) {
                other_feed(&mut buffer[..len]);
            }
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// Raises the version in the head of a request that brings a feed.
fn other_feed(request: &mut [u8]) {
    const FEED: &[u8] = b"application/x-weir-feed-1";
    if let Some(at) = request.windows(FEED.len()).position(|bytes| bytes == FEED) {
        request[at + FEED.len() - 1] = b'9';
    }
}
