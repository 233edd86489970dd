//! Server-Sent Events (WHATWG HTML 9.2): answers that tell something now and then, and have no end.

use std::convert::Infallible;

use axum::{
    Extension,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::Stream;
use utoipa::ToSchema;

use super::front::Lasting;

/// What is told each time.
#[derive(ToSchema)]
#[schema(as = ServerSentEvent)]
#[expect(dead_code, reason = "events are written as texts")]
pub struct Event {
    /// What has happened, in a word.
    event: String,
    /// The same as the answer to the same question without `events` at the end of its path, as JSON.
    data: String,
    id: Option<String>,
    /// Whoever has lost its connection comes again after so many milliseconds.
    retry: Option<u64>,
}

/// Answers with events, each a whole one in text.
pub fn told<T: Into<Bytes> + 'static>(events: impl Stream<Item = T> + Send + 'static) -> Response {
    let events = futures::StreamExt::map(events, |event| Ok::<Bytes, Infallible>(event.into()));
    // nginx would keep events until there are many.
    let headers = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    (Extension(Lasting), headers, Body::from_stream(events)).into_response()
}
