//! The WebSocket of a chat, until it speaks: its handshake (RFC 6455 section 4.2), and what is left of the HTTP connection.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tungstenite::handshake::derive_accept_key;

use crate::{
    chat::{Who, rooms::Handle, socket},
    http::{App, pace::Paced, problem::Problem, serve::Counted},
    id::EventId,
};

/// Bytes that the system keeps for a socket that is slow: by default it would be megabytes.
const SEND_BUFFER: usize = 16 << 10;

/// The key of a WebSocket handshake (RFC 6455 section 4.2.1); nothing where none is wished.
pub(super) fn upgrade_key(headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let has = |name, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    if !has(header::UPGRADE, "websocket") {
        return Ok(None);
    }
    let bad = |why: &str| Problem::new(StatusCode::BAD_REQUEST, why);
    if !has(header::CONNECTION, "upgrade") {
        return Err(bad("a WebSocket begins with Connection: Upgrade"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "WebSocket is spoken in version 13"));
    }
    headers.get(header::SEC_WEBSOCKET_KEY).cloned().map(Some).ok_or_else(|| bad("there is no Sec-WebSocket-Key"))
}

/// Answers a handshake, and serves the socket that it becomes.
pub(super) fn upgraded(
    app: &Arc<App>,
    room: Arc<Handle>,
    who: Option<Who>,
    after: Option<EventId>,
    key: &HeaderValue,
    mut request: Request,
) -> Result<Response, Problem> {
    if !room.takes_sockets(false) {
        let full = "there are as many sockets here as there may be: poll";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, full).with_code("poll"));
    }
    let (socket, stop) = (hyper::upgrade::on(&mut request), app.stopping.clone());
    let counted = request.extensions_mut().remove::<Arc<Counted>>();
    app.chats.rooms.spawn(async move {
        let _counted = counted;
        if let Ok(socket) = socket.await {
            served(socket, room, who, after, stop).await;
        }
    });
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base 64");
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// Serves what a handshake has become, out of the boxes that HTTP had it in: their buffers are not kept for every socket that
/// idles. No `async` function: it would have room for each of the three.
fn served(
    socket: Upgraded,
    room: Arc<Handle>,
    who: Option<Who>,
    after: Option<EventId>,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    let socket = match socket.downcast::<TokioIo<Paced<TcpStream>>>() {
        Ok(parts) => {
            let io = parts.io.into_inner();
            limit_buffer(io.get_ref());
            return Box::pin(socket::serve(io, room, who, after, parts.read_buf, stop));
        }
        Err(socket) => socket,
    };
    match socket.downcast::<TokioIo<Paced<TlsStream<TcpStream>>>>() {
        Ok(parts) => {
            let io = parts.io.into_inner();
            limit_buffer(io.get_ref().get_ref().0);
            Box::pin(socket::serve(io, room, who, after, parts.read_buf, stop))
        }
        Err(socket) => Box::pin(socket::serve(TokioIo::new(socket), room, who, after, Bytes::new(), stop)),
    }
}

fn limit_buffer(socket: &TcpStream) {
    if let Err(why) = rustix::net::sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER) {
        tracing::debug!(%why, "a socket keeps its buffer");
    }
}
