//! The API of webhooks: who is told, how that goes, and what could not be delivered.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use super::{App, Shared, api::Admin, problem::Problem};
use crate::hooks::NoRetry;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/webhooks", get(targets))
        .route("/api/v1/webhooks/test", post(test))
        .route("/api/v1/webhooks/dead", get(dead))
        .route("/api/v1/webhooks/dead/{id}", delete(forget))
        .route("/api/v1/webhooks/dead/{id}/retry", post(retry))
}

fn fresh(value: Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(value)).into_response()
}

async fn targets(_: Admin, State(app): Shared) -> Response {
    fresh(json!({ "targets": app.hooks.targets().await }))
}

async fn dead(_: Admin, State(app): Shared) -> Response {
    fresh(json!({ "dead": app.hooks.dead().await }))
}

/// Tells each target something that means nothing, and answers with what each said.
async fn test(_: Admin, State(app): Shared) -> Response {
    fresh(json!({ "targets": app.hooks.test().await }))
}

async fn retry(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let retried = match id.parse() {
        Ok(id) => app.hooks.retry(id).await,
        Err(_) => Err(NoRetry::Unknown),
    };
    retried.map(|()| StatusCode::ACCEPTED).map_err(|why| match why {
        NoRetry::Unknown => Problem::not_found(why.to_string()),
        NoRetry::NoTarget | NoRetry::Off => Problem::new(StatusCode::CONFLICT, why.to_string()),
    })
}

async fn forget(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let deleted = match id.parse() {
        Ok(id) => app.hooks.delete(id).await,
        Err(_) => false,
    };
    deleted.then_some(StatusCode::NO_CONTENT).ok_or_else(|| Problem::not_found(NoRetry::Unknown.to_string()))
}
