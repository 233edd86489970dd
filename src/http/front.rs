//! What stands before the routes: media is answered here, straight from a request's path, everything else by the router.
//!
//! Most requests of a node are for a playlist, part or chunk that is in memory. They cost no routing, no future that is
//! allocated and no copy: the body is the shared bytes, the headers are cloned from ready ones.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
    response::IntoResponse,
};
use hyper::body::Incoming;
use metrics::Counter;
use tower::{ServiceExt, util::Oneshot};

use super::{
    App, api, chat,
    content::{self, Content},
    hls, link, now,
    problem::Problem,
    reports::{self, Sender},
    serve::Counted,
    viewer::{self, Came, Peer, Viewer},
};
use crate::{
    cache::{Object, upstream},
    hooks::ask::Verdict,
};

/// Everything that one port answers with. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
}

struct Shared {
    app: Arc<App>,
    router: Router,
    /// Requests that are being answered, to their last byte.
    running: AtomicUsize,
    running_max: usize,
    answers: Answers,
}

/// One connection's view of it.
#[derive(Clone)]
pub struct Door {
    connection: Arc<Connection>,
}

/// A connection, for all of its requests.
pub struct Connection {
    front: Front,
    peer: Peer,
    /// It is one by TLS.
    secure: bool,
    /// Viewers are behind it.
    proxied: bool,
    /// Kept of HTTP/2 alone: of HTTP/1.1 the socket tells all.
    traffic: Option<Traffic>,
    /// Its place among all connections, which a socket that it becomes keeps.
    counted: Arc<Counted>,
}

/// What goes on on a connection.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests whose answers are not sent to the last byte.
    pub unfinished: AtomicUsize,
    /// Those of them that wait for something to be made.
    pub held: AtomicUsize,
    /// Bytes of bodies that were handed to the protocol.
    pub bytes: AtomicU64,
    /// Requests so far.
    pub requests: AtomicU64,
}

/// A place among the requests that are being answered.
pub struct Running {
    connection: Arc<Connection>,
    is_held: bool,
}

/// Marks an answer that has no end and tells something now and then: its reader is not slow when nothing was to be told.
#[derive(Debug, Clone)]
pub struct Lasting;

impl Running {
    fn begin(connection: &Arc<Connection>) -> Self {
        if let Some(traffic) = &connection.traffic {
            traffic.unfinished.fetch_add(1, Ordering::Relaxed);
            traffic.held.fetch_add(1, Ordering::Relaxed);
            traffic.requests.fetch_add(1, Ordering::Relaxed);
        }
        Self { connection: connection.clone(), is_held: true }
    }

    /// Whether HTTP/2 carries it, which takes a piece whole, whatever window the reader gave.
    pub fn by_http2(&self) -> bool {
        self.connection.traffic.is_some()
    }

    /// It no longer waits: what follows is for the reader to take.
    fn answered(&mut self) {
        self.is_held = false;
        if let Some(traffic) = &self.connection.traffic {
            traffic.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// So many bytes of its answer were handed on.
    pub fn sent(&self, bytes: usize) {
        if let Some(traffic) = &self.connection.traffic {
            traffic.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_held {
            // The client left before there was an answer.
            self.answered();
        }
        self.connection.front.shared.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(traffic) = &self.connection.traffic {
            traffic.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl Front {
    /// At most `running_max` requests are answered at a time; one more is told to come again.
    pub fn new(app: Arc<App>, router: Router, running_max: usize) -> Self {
        let (running, answers) = (AtomicUsize::new(0), Answers::new());
        Self { shared: Arc::new(Shared { app, router, running, running_max, answers }) }
    }

    /// For a connection from `address`.
    pub fn door(&self, peer: fn(IpAddr) -> Peer, address: IpAddr, secure: bool, counted: Counted) -> Door {
        let (front, peer, proxied, counted) = (self.clone(), peer(address), self.is_proxy(address), Arc::new(counted));
        Door { connection: Arc::new(Connection { front, peer, secure, proxied, traffic: None, counted }) }
    }

    /// Whether viewers are behind this address.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.shared.app.proxies.iter().any(|proxy| proxy.contains(&address.to_canonical()))
    }
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Content>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let shared = &self.connection.front.shared;
        let running = Running::begin(&self.connection);
        let is_full = shared.running.fetch_add(1, Ordering::Relaxed) >= shared.running_max;
        let is_head = request.method() == Method::HEAD;
        let step = match is_full {
            true => {
                metrics::counter!("weir_http_refusals_total").increment(1);
                let full = "this node answers as many requests as it may";
                Step::ready(Problem::new(StatusCode::SERVICE_UNAVAILABLE, full))
            }
            false => self.answer(request),
        };
        Answering { step, is_head, running: Some(running) }
    }
}

impl Door {
    /// For a connection that speaks HTTP/2.
    pub fn http2(self) -> Self {
        let Connection { front, peer, secure, proxied, counted, .. } = &*self.connection;
        let (front, counted, traffic) = (front.clone(), counted.clone(), Some(Traffic::default()));
        let connection = Connection { front, peer: *peer, secure: *secure, proxied: *proxied, traffic, counted };
        Self { connection: Arc::new(connection) }
    }

    /// What goes on on a connection that speaks HTTP/2.
    pub fn traffic(&self) -> &Traffic {
        self.connection.traffic.as_ref().expect("asked of HTTP/2 alone")
    }

    fn answer(&self, request: Request<Incoming>) -> Step {
        let (shared, mut peer) = (&self.connection.front.shared, self.connection.peer);
        if let Peer::Node { detour } = &mut peer {
            if let Err(problem) = link::admit(&shared.app, request.uri().path(), request.headers()) {
                return Step::ready(problem);
            }
            *detour = request.headers().contains_key(upstream::DETOUR);
        }
        let proxied = self.connection.proxied;
        if let Peer::Public(address) = &mut peer
            && proxied
        {
            *address = viewer::behind(*address, &shared.app.proxies, request.headers());
        }
        let (ticket, path) = viewer::split(request.uri());
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if let Peer::Public(address) = peer
            && reports::is_report(path)
        {
            let sender = Sender { ticket: ticket.map(str::to_owned), address };
            return Step::Waits(Box::pin(reports::answer(shared.app.clone(), sender, request)));
        }
        if is_read && path.starts_with("/api/") {
            let (app, headers) = (&shared.app, request.headers());
            let kept = now::kept(app, path, headers).or_else(|| chat::kept_slot(app, path, headers));
            if let Some(answer) = kept.or_else(|| api::kept_directory(app, path, headers)) {
                return Step::Ready(Some(Box::new(answer)));
            }
        }
        let Some(rest) = path.strip_prefix("/hls/").filter(|_| is_read) else {
            let mut request = viewer::prepare(request.map(axum::body::Body::new), peer);
            let by_proxy = proxied && request.headers().get(viewer::FORWARDED_PROTO).is_some_and(|by| by == "https");
            request.extensions_mut().insert(Came { secure: self.connection.secure || by_proxy, proxied });
            request.extensions_mut().insert(self.connection.counted.clone());
            return Step::Routed(Box::new(shared.router.clone().oneshot(request)));
        };
        let told = reports::split(path, request.headers()).filter(|_| matches!(peer, Peer::Public(_)));
        if told.is_none()
            && let Some(answer) = self.kept(peer, ticket, path, request.headers())
        {
            return Step::Ready(Some(Box::new(answer)));
        }
        if !shared.app.readiness.has_started() {
            // What was running is not taken up yet: what the store says of it would be cached.
            return Step::ready(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the node is starting"));
        }
        let rest = told.as_ref().map_or(rest, |(path, _)| path.strip_prefix("/hls/").unwrap_or(rest));
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let object = match Object::parse(path, query) {
            Ok(object) => object,
            Err(why) => return Step::ready(why.into()),
        };
        let told = told.map(|(_, told)| told).zip(match peer {
            Peer::Public(address) => Some(Sender { ticket: ticket.map(str::to_owned), address }),
            Peer::Node { .. } => None,
        });
        let viewer = Viewer::new(ticket.map(Into::into), peer);
        let (app, headers) = (shared.app.clone(), request.into_parts().0.headers);
        if let Some((told, sender)) = told {
            return Step::Waits(Box::pin(async move {
                let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
                reports::of_media(&app, &object, &told, &sender, agent).await;
                hls::object(&app, &object, &viewer, &headers).await.unwrap_or_else(Into::into)
            }));
        }
        Step::Waits(Box::pin(
            async move { hls::object(&app, &object, &viewer, &headers).await.unwrap_or_else(Into::into) },
        ))
    }

    /// What was pulled and is kept under this very name, for viewers who need no ticket, or of whom it is known that they are let
    /// in. A node that makes chunks gives others only what it makes or has stored: two would give each other what one of them had
    /// once, for ever.
    fn kept(&self, peer: Peer, ticket: Option<&str>, path: &str, headers: &HeaderMap) -> Option<Response<Content>> {
        let app = &self.connection.front.shared.app;
        let cache = app.cache.as_ref()?;
        let stream = path.strip_prefix("/hls/")?.split('/').next()?;
        let open = match (peer, &app.asker) {
            (Peer::Node { .. }, _) => !app.is_origin,
            (Peer::Public(address), Some(asker)) => asker.known(stream, ticket, address) == Some(Verdict::Admitted),
            (Peer::Public(_), None) => !app.tickets.needs_ticket(stream),
        };
        if !open || app.lines.is_shown(stream) {
            return None;
        }
        let kept = cache.kept(path)?;
        if matches!(self.connection.peer, Peer::Public(_)) {
            reports::hit_path(app, path);
        }
        Some(content::kept(&kept, headers))
    }
}

/// Answers by class of status.
struct Answers([Counter; 5]);

impl Answers {
    fn new() -> Self {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        Self(classes.map(|class| metrics::counter!("weir_http_requests_total", "status" => class)))
    }

    fn count(&self, status: StatusCode) {
        self.0[usize::from(status.as_u16() / 100 - 1).min(4)].increment(1);
    }
}

/// An answer on its way.
pub struct Answering {
    step: Step,
    is_head: bool,
    running: Option<Running>,
}

enum Step {
    /// Boxed: its place is kept by every connection that idles.
    Ready(Option<Box<Response<Content>>>),
    Waits(Pin<Box<dyn Future<Output = Response<Content>> + Send>>),
    /// Boxed: it is large, and rare beside media.
    Routed(Box<Oneshot<Router, Request<axum::body::Body>>>),
}

impl Step {
    fn ready(problem: Problem) -> Self {
        Self::Ready(Some(Box::new(problem.into())))
    }
}

impl Future for Answering {
    type Output = Result<Response<Content>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.step {
            Step::Ready(answer) => Poll::Ready(*answer.take().expect("polled once after it was ready")),
            Step::Waits(answer) => answer.as_mut().poll(cx),
            Step::Routed(answer) => Pin::new(answer).poll(cx).map(|answer| match answer {
                Ok(answer) => answer.map(Content::routed),
                Err(never) => match never {},
            }),
        };
        answer.map(|answer| {
            let mut answer = if self.is_head { content::without_body(answer) } else { answer };
            if let Some(mut running) = self.running.take() {
                if answer.extensions().get::<Lasting>().is_none() {
                    running.answered();
                }
                running.connection.front.shared.answers.count(answer.status());
                answer.body_mut().holds(running);
            }
            Ok(answer)
        })
    }
}

impl From<Problem> for Response<Content> {
    fn from(problem: Problem) -> Self {
        let mut answer = problem.into_response().map(Content::routed);
        content::open_to_all(answer.headers_mut());
        super::guard(answer.headers_mut());
        answer
    }
}
