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
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    http::{HeaderMap, Method, Request, Response, StatusCode},
    response::IntoResponse,
};
use hyper::body::Incoming;
use metrics::Counter;
use tower::{ServiceExt, util::Oneshot};

use super::{
    App,
    content::{self, Content},
    hls, link,
    problem::Problem,
    viewer::{self, Peer, Viewer},
};
use crate::cache::Object;

/// Everything that one port answers with. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
}

struct Shared {
    app: Arc<App>,
    router: Router,
    /// Requests that are being answered, to their last byte.
    running: Arc<AtomicUsize>,
    running_max: usize,
    answers: Counter,
}

/// One connection's view of it.
#[derive(Clone)]
pub struct Door {
    front: Front,
    peer: Peer,
}

/// A place among the requests that are being answered.
#[derive(Debug)]
pub struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Front {
    /// At most `running_max` requests are answered at a time; one more is told to come again.
    pub fn new(app: Arc<App>, router: Router, running_max: usize) -> Self {
        let answers = metrics::counter!("weir_http_requests_total", "status" => "2xx");
        Self { shared: Arc::new(Shared { app, router, running: Arc::default(), running_max, answers }) }
    }

    /// For a connection from `address`.
    pub fn door(&self, peer: fn(IpAddr) -> Peer, address: IpAddr) -> Door {
        Door { front: self.clone(), peer: peer(address) }
    }
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Content>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let shared = &self.front.shared;
        let running = Running(shared.running.clone());
        if shared.running.fetch_add(1, Ordering::Relaxed) >= shared.running_max {
            metrics::counter!("weir_http_refusals_total").increment(1);
            let full = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this node answers as many requests as it may");
            return Answering::ready(full.into(), running);
        }
        if self.peer == Peer::Node
            && let Err(problem) = link::admit(&shared.app, request.uri().path(), request.headers())
        {
            return Answering::ready(problem.into(), running);
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let (ticket, path) = viewer::split(request.uri());
        if !is_read || !path.starts_with("/hls/") {
            let request = viewer::prepare(request.map(axum::body::Body::new), self.peer);
            let answer = Box::new(shared.router.clone().oneshot(request));
            return Answering { step: Step::Routed(answer), running: Some(running) };
        }
        if let Some(answer) = self.kept(path, request.headers()) {
            shared.answers.increment(1);
            return Answering::ready(answer, running);
        }
        let object = path.strip_prefix("/hls/").and_then(|rest| {
            let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
            Some(Object::parse(path, query))
        });
        let object = match object.expect("looked at above") {
            Ok(object) => object,
            Err(why) => return Answering::ready(Problem::from(why).into(), running),
        };
        let viewer = Viewer::new(ticket.map(Into::into), self.peer);
        let (app, headers) = (shared.app.clone(), request.into_parts().0.headers);
        let answer = Box::pin(async move {
            let answer = hls::object(&app, &object, &viewer, &headers).await.unwrap_or_else(Into::into);
            count(answer.status());
            answer
        });
        Answering { step: Step::Waits(answer), running: Some(running) }
    }
}

impl Door {
    /// What was pulled and is kept under this very name, for viewers who need no ticket.
    fn kept(&self, path: &str, headers: &HeaderMap) -> Option<Response<Content>> {
        let app = &self.front.shared.app;
        let cache = app.cache.as_ref()?;
        let stream = path.strip_prefix("/hls/")?.split('/').next()?;
        let open = self.peer == Peer::Node || !app.tickets.needs_ticket(stream);
        if !open || app.lines.is_shown(stream) {
            return None;
        }
        Some(content::kept(&cache.kept(path)?, headers))
    }
}

/// Counts an answer.
pub fn count(status: StatusCode) {
    let class = match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics::counter!("weir_http_requests_total", "status" => class).increment(1);
}

/// An answer on its way.
pub struct Answering {
    step: Step,
    running: Option<Running>,
}

enum Step {
    Ready(Option<Response<Content>>),
    Waits(Pin<Box<dyn Future<Output = Response<Content>> + Send>>),
    /// Boxed: it is large, and rare beside media.
    Routed(Box<Oneshot<Router, Request<axum::body::Body>>>),
}

impl Answering {
    fn ready(answer: Response<Content>, running: Running) -> Self {
        Self { step: Step::Ready(Some(answer)), running: Some(running) }
    }
}

impl Future for Answering {
    type Output = Result<Response<Content>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.step {
            Step::Ready(answer) => Poll::Ready(answer.take().expect("polled once after it was ready")),
            Step::Waits(answer) => answer.as_mut().poll(cx),
            Step::Routed(answer) => Pin::new(answer).poll(cx).map(|answer| match answer {
                Ok(answer) => answer.map(Content::routed),
                Err(never) => match never {},
            }),
        };
        answer.map(|mut answer| {
            if let Some(running) = self.running.take() {
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
        answer
    }
}
