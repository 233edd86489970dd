//! The API of a cluster's nodes.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Shared, api::Admin, problem::Problem};
use crate::{store::NodeRow, time::unix_now};

/// All registered nodes; of a node that is alone itself.
pub async fn list(_: Admin, State(app): Shared) -> Response {
    let mut nodes: Vec<_> = match &app.peers {
        Some(peers) => peers.nodes().iter().map(|(row, live)| told(row, *live)).collect(),
        None => vec![
            json!({ "id": app.node, "live": true, "version": env!("CARGO_PKG_VERSION"), "streams": app.lines.led() }),
        ],
    };
    nodes.sort_by_key(|node| node["id"].as_str().unwrap_or_default().to_owned());
    Json(json!({ "node": app.node, "nodes": nodes })).into_response()
}

/// Takes a node that is gone for good out of the cluster: its streams belong to others from now on.
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

/// Has this node hand its streams over and stop, as SIGTERM does.
pub async fn drain(_: Admin, State(app): Shared) -> (StatusCode, Json<Value>) {
    let streams = app.lines.led();
    app.drain.cancel();
    (StatusCode::ACCEPTED, Json(json!({ "node": app.node, "streams": streams })))
}

fn told(row: &NodeRow, live: bool) -> Value {
    json!({
        "id": row.id,
        "live": live,
        "draining": row.draining,
        "origin": row.origin,
        "weight": row.weight,
        "streams": row.streams,
        "version": row.version,
        "started": row.started.to_string(),
        "beat_s": unix_now().since(row.beat).as_secs(),
        "internal": row.internal,
        "http": row.http,
        "rtmp": row.rtmp,
    })
}
