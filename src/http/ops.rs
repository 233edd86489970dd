//! For operators and load balancers: metrics, health, readiness.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::{Admin, Stream},
    nodes,
};
use crate::time::now;

/// Whether the node has started and is not stopping.
#[derive(Debug, Default)]
pub struct Readiness {
    started: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    pub fn start(&self) {
        self.started.store(true, Ordering::Release);
    }

    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

/// What load balancers and Prometheus look at, at both ports.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(healthy)).routes(routes!(ready))
}

/// What operators look at and do.
pub fn admin_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(nodes::drain))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::remove))
}

/// How a node is.
#[derive(Serialize, ToSchema)]
struct Status {
    /// Its name.
    node: String,
    version: &'static str,
    uptime_s: u64,
    ready: bool,
    /// Why viewers and publishers should go elsewhere.
    reasons: Vec<String>,
    /// What is not as it should be, but keeps nobody from being served.
    degraded: Vec<String>,
    /// Who may publish: `keys`, `open` or `url`.
    publish: &'static str,
    /// Streams that are made here.
    streams: Vec<Stream>,
}

/// Tells how this node is.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)), security(("admin" = [])))]
async fn status(_: Admin, State(app): Shared) -> Json<Status> {
    let reasons = app.not_ready();
    Json(Status {
        node: app.node.clone(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: (now() - app.started).as_secs(),
        ready: reasons.is_empty(),
        reasons,
        degraded: app.degraded(),
        publish: app.publish,
        streams: app.lines.all().iter().map(|live| Stream::of(live, &app)).collect(),
    })
}

impl App {
    /// Why new viewers and publishers should go elsewhere; empty when they need not.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.readiness.has_started() {
            reasons.push("the node is starting".to_owned());
        }
        if self.readiness.draining.load(Ordering::Acquire) {
            reasons.push("the node is stopping".to_owned());
        }
        if !self.is_origin && self.cache.as_ref().is_some_and(|cache| !cache.reaches_any()) {
            reasons.push("no upstream answers".to_owned());
        }
        if let Some(why) = self.health.trouble() {
            reasons.push(format!("live goes on, but nothing is recorded: {why}"));
        }
        reasons
    }

    /// What is not as it should be, but keeps nobody from being served.
    pub fn degraded(&self) -> Vec<String> {
        self.health.delay().iter().map(ToString::to_string).collect()
    }
}

/// Tells that the process runs.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthy() -> &'static str {
    "ok\n"
}

/// Whether a node is to be given viewers and publishers.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness)]
struct Ready {
    ready: bool,
    /// Why not.
    reasons: Vec<String>,
    /// What is not as it should be, but keeps nobody from being served.
    degraded: Vec<String>,
}

/// Tells whether this node is to be given viewers and publishers.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = Ready), (status = 503, body = Ready)))]
async fn ready(State(app): Shared) -> Response {
    let reasons = app.not_ready();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Ready { ready: reasons.is_empty(), reasons, degraded: app.degraded() };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Tells what this node counts and measures, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
async fn metrics(State(app): Shared) -> Response {
    if let Some(cache) = &app.cache {
        cache.publish_gauges();
    }
    let live = app.lines.all();
    ::metrics::gauge!("weir_streams_live").set(live.len() as f64);
    let audience = &app.viewers.audience;
    let here = audience.table.crowds().iter().map(|crowd| crowd.viewers_here()).sum::<u64>();
    ::metrics::gauge!("weir_viewers").set(here as f64);
    ::metrics::gauge!("weir_viewer_sessions").set(audience.table.len() as f64);
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")];
    (format, (app.metrics)()).into_response()
}
