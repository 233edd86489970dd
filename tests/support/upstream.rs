//! A node as an edge sees it, that answers late and counts; and a crowd that asks for one thing at the same moment.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Uri, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use weir::time::{Timestamp, now};

/// Ends when dropped.
pub struct Upstream {
    pub port: u16,
    asked: Arc<AtomicUsize>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Upstream {
    /// Answers everything under `/hls/` with `len` bytes after `delay`, on a thread of its own. Anyone may watch.
    pub fn start(delay: Duration, len: usize) -> Self {
        let body = body(len);
        Self::with(delay, "{\"ticket\":false,\"rows\":[]}", move |_| body.clone())
    }

    /// The same with a body for each path, and with words on who may watch.
    pub fn with(delay: Duration, access: &str, object: impl Fn(&str) -> Bytes + Clone + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let object = move |uri: Uri| async move {
            count.fetch_add(1, Ordering::Relaxed);
            let body = object(uri.path());
            tokio::time::sleep(delay).await;
            let headers =
                [(header::CONTENT_TYPE, "video/mp4"), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, body)
        };
        let access = format!("{{\"access\":{access}}}\n");
        let link = move || async move { link(access) };
        let router = Router::new().route("/internal/v1/link", get(link)).route("/hls/{*object}", get(object));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("bound").port();
        runtime.spawn(async { axum::serve(TcpListener::from_std(listener).expect("a socket"), router).await });
        Self { port, asked, runtime: Some(runtime) }
    }

    /// Objects that were asked for.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Whoever drops it may be a task of another runtime, which must not wait.
        self.runtime.take().expect("dropped once").shutdown_background();
    }
}

/// So many letters, no two pieces alike.
pub fn body(len: usize) -> Bytes {
    (0..len).map(|at| b'a' + (at % 23) as u8).collect()
}

/// Who may watch, then beats.
fn link(access: String) -> impl IntoResponse {
    let lines = futures::stream::unfold(Some(access), |access| async move {
        let line = match access {
            Some(access) => access,
            None => {
                tokio::time::sleep(Duration::from_millis(250)).await;
                "\"beat\"\n".to_owned()
            }
        };
        Some((Ok::<_, std::convert::Infallible>(line), None))
    });
    Body::from_stream(lines)
}

/// What one of a crowd got.
pub struct Got {
    pub last_byte: Duration,
    pub answer: Vec<u8>,
}

/// Opens `size` connections, then sends the same request on all of them at once.
pub async fn crowd(server: SocketAddr, path: &str, size: usize) -> Vec<Got> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n");
    let go = watch::Sender::new(Timestamp::default());
    let mut viewers = Vec::new();
    for _ in 0..size {
        let mut socket = TcpStream::connect(server).await.expect("a connection");
        let (mut start, request) = (go.subscribe(), request.clone());
        viewers.push(tokio::spawn(async move {
            start.changed().await.expect("the start");
            let start = *start.borrow();
            socket.write_all(request.as_bytes()).await.expect("written");
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await.expect("an answer");
            Got { last_byte: now() - start, answer }
        }));
    }
    go.send_replace(now());
    let mut all = Vec::new();
    for viewer in viewers {
        all.push(viewer.await.expect("a viewer"));
    }
    all
}
