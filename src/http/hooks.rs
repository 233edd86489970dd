//! The API of webhooks: who is told, how that goes, and what could not be delivered.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::Admin,
    content::{Fresh, fresh},
    extract::Path,
    problem::Problem,
};
use crate::hooks::{Dead, NoRetry, Tested, Told};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(targets))
        .routes(routes!(test))
        .routes(routes!(dead))
        .routes(routes!(forget))
        .routes(routes!(retry))
}

/// Who is told of what happens here, in the order of the configuration.
#[derive(Debug, Serialize, ToSchema)]
struct WebhookTargets {
    targets: Vec<Told>,
}

/// Lists the webhooks and how they do.
#[utoipa::path(
    get, path = "/api/v1/webhooks", operation_id = "list_webhooks",
    responses((status = 200, body = WebhookTargets)),
    security(("admin" = [])),
)]
async fn targets(_: Admin, State(app): Shared) -> Fresh<WebhookTargets> {
    fresh(WebhookTargets { targets: app.hooks.targets().await })
}

/// What could not be delivered and is tried no more.
#[derive(Debug, Serialize, ToSchema)]
struct DeadWebhooks {
    /// Oldest first.
    dead: Vec<Dead>,
}

/// Lists what could not be delivered.
#[utoipa::path(
    get, path = "/api/v1/webhooks/dead", operation_id = "list_dead_webhooks",
    responses((status = 200, body = DeadWebhooks)),
    security(("admin" = [])),
)]
async fn dead(_: Admin, State(app): Shared) -> Fresh<DeadWebhooks> {
    fresh(DeadWebhooks { dead: app.hooks.dead().await })
}

/// What each target answered to a test.
#[derive(Debug, Serialize, ToSchema)]
struct TestedWebhooks {
    targets: Vec<Tested>,
}

/// Tells each target something that means nothing, and answers with what each said.
#[utoipa::path(
    post, path = "/api/v1/webhooks/test", operation_id = "test_webhooks",
    responses((status = 200, body = TestedWebhooks)),
    security(("admin" = [])),
)]
async fn test(_: Admin, State(app): Shared) -> Fresh<TestedWebhooks> {
    fresh(TestedWebhooks { targets: app.hooks.test().await })
}

/// Has something tried again that could not be delivered.
#[utoipa::path(
    post, path = "/api/v1/webhooks/dead/{id}/retry", operation_id = "retry_webhook",
    params(("id" = String, Path, description = "Id of what could not be delivered")),
    responses((status = 202)),
    security(("admin" = [])),
)]
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

/// Forgets something that could not be delivered.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/dead/{id}", operation_id = "forget_webhook",
    params(("id" = String, Path, description = "Id of what could not be delivered")),
    responses((status = 204)),
    security(("admin" = [])),
)]
async fn forget(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let deleted = match id.parse() {
        Ok(id) => app.hooks.delete(id).await,
        Err(_) => false,
    };
    deleted.then_some(StatusCode::NO_CONTENT).ok_or_else(|| Problem::not_found(NoRetry::Unknown.to_string()))
}
