//! The API of a cluster's nodes.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Shared, api::Admin, extract::Path, problem::Problem};
use crate::{store::NodeRow, time::unix_now};

/// All registered nodes.
#[derive(Serialize, ToSchema)]
pub struct Nodes {
    /// The one that answers.
    node: String,
    nodes: Vec<Node>,
}

/// A node.
#[derive(Default, Serialize, ToSchema)]
struct Node {
    id: String,
    /// It is heard of.
    live: bool,
    version: String,
    /// How many it makes.
    streams: usize,
    /// What follows only nodes of a cluster tell. It hands its streams over, and takes no new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<bool>,
    /// It makes streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<bool>,
    /// Its share of them, beside those of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    started: Option<String>,
    /// Seconds since it was heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    beat_s: Option<u64>,
    /// Where other nodes, viewers and encoders reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    internal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmp: Option<String>,
}

/// Lists the nodes of the cluster.
#[utoipa::path(
    get, path = "/api/v1/nodes", operation_id = "list_nodes",
    responses((status = 200, body = Nodes)),
    security(("admin" = [])),
)]
pub async fn list(_: Admin, State(app): Shared) -> Json<Nodes> {
    let mut nodes: Vec<_> = match &app.peers {
        Some(peers) => peers.nodes().iter().map(|(row, live)| told(row, *live)).collect(),
        None => vec![Node {
            id: app.node.clone(),
            live: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            streams: app.lines.led(),
            ..Node::default()
        }],
    };
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    Json(Nodes { node: app.node.clone(), nodes })
}

/// Takes a node that is gone for good out of the cluster: its streams belong to others from now on.
#[utoipa::path(
    delete, path = "/api/v1/nodes/{id}", operation_id = "remove_node",
    params(("id" = String, Path, description = "Name of the node")),
    responses((status = 204)),
    security(("admin" = [])),
)]
pub async fn remove(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let peers = app.peers.as_ref().ok_or_else(|| Problem::not_found("this node is in no cluster"))?;
    if peers.nodes().iter().any(|(row, live)| row.id == id && *live) {
        return Err(Problem::new(StatusCode::CONFLICT, format!("{id} runs: stop it first")));
    }
    app.meta.delete_node(&id).await.map_err(|why| match why {
        crate::store::Error::NotFound => Problem::not_found(format!("no node is called {id}")),
        why => why.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a node that stops has to hand over.
#[derive(Serialize, ToSchema)]
pub struct Draining {
    node: String,
    streams: usize,
}

/// Has this node hand its streams over and stop, as SIGTERM does.
#[utoipa::path(
    post, path = "/api/v1/drain",
    responses((status = 202, body = Draining)),
    security(("admin" = [])),
)]
pub async fn drain(_: Admin, State(app): Shared) -> (StatusCode, Json<Draining>) {
    let streams = app.lines.led();
    app.drain.cancel();
    (StatusCode::ACCEPTED, Json(Draining { node: app.node.clone(), streams }))
}

fn told(row: &NodeRow, live: bool) -> Node {
    let NodeRow { id, draining, origin, weight, streams, version, started, beat, internal, http, rtmp } = row.clone();
    Node {
        id,
        live,
        version,
        streams: streams as usize,
        draining: Some(draining),
        origin: Some(origin),
        weight: Some(weight),
        started: Some(started.to_string()),
        beat_s: Some(unix_now().since(beat).as_secs()),
        internal: Some(internal),
        http: Some(http),
        rtmp,
    }
}
