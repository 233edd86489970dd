//! For operators and load balancers: metrics, health, readiness.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, Shared};

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

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
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

async fn ready(State(app): Shared) -> Response {
    let reasons = app.not_ready();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons, "degraded": app.degraded() });
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

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
