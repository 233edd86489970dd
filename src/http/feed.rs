//! Where other nodes bring the feeds of publishers they hold ([`crate::cluster::feed`]).

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Shared, api, problem::Problem};
use crate::{
    cluster::feed::{CONTENT_TYPE, ROOM},
    line::inlet,
};

/// Where a node is told that a stream's session may publish no more; the stream's id follows.
pub const KICK: &str = "/internal/v1/kick/";

/// Ends a stream's session here: its key is no longer valid.
pub async fn kick(State(app): Shared, Path(stream): Path<String>) -> Result<StatusCode, Problem> {
    app.lines.kick(&api::parse(&stream)?).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a feed: the request's body is what the gateway says, the answer's what this node does, at the same time.
pub async fn feed(State(app): Shared, Path(stream): Path<String>, request: Request) -> Result<Response, Problem> {
    let stream = api::parse(&stream)?;
    if !app.is_origin {
        return Err(Problem::new(StatusCode::CONFLICT, "this node makes no chunks: its node.roles lack \"origin\""));
    }
    if app.stopping.is_cancelled() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this node is stopping"));
    }
    let content_type = HeaderValue::from_static(CONTENT_TYPE);
    if request.headers().get(header::CONTENT_TYPE) != Some(&content_type) {
        let words = format!("this node speaks {CONTENT_TYPE}: update the older one of the two");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    let from = StreamReader::new(request.into_body().into_data_stream().map_err(std::io::Error::other));
    let (to, answer) = tokio::io::duplex(ROOM);
    let lines = app.lines.clone();
    tokio::spawn(inlet::serve(tokio::io::join(from, to), lines, stream));
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, Body::from_stream(ReaderStream::new(answer))).into_response())
}
