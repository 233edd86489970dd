//! The API of chats: who somebody is, what is said, by socket or by polling, and what moderators do.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts, Path, Query, Request, State, rejection::JsonRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tungstenite::handshake::derive_accept_key;

use super::{
    App, Shared,
    api::parse,
    pace::Paced,
    problem::Problem,
    recordings::{Asker, Role as Proof},
    serve::Counted,
};
use crate::{
    auth::{
        people::{LIFE, Person},
        tickets,
    },
    chat::{
        Act, PATH, Posted, Refusal, Role, Rooms, Settings, Who,
        hub::{self, Hub, SLOT, array},
        lines,
        rooms::{FIRST_PAGE, Handle},
        socket, text,
    },
    id::{EventId, StreamId},
    time::{Timestamp, UnixMs, now, unix_now},
};

/// Largest request body, bytes.
const BODY_MAX: usize = 64 << 10;
/// Who did what was done with the stream's key or the admin token.
const OPERATOR: &str = "operator";
/// The cookie that says who somebody is.
const COOKIE: &str = "weir_chat";
/// A poll that finds nothing waits so long for something.
const POLL: Duration = Duration::from_secs(20);
/// How often pollers come.
const POLL_EACH: Duration = SLOT;
/// A slot that begins later than this is asked for by a clock that is wrong.
const SLOT_AHEAD: u64 = 2;
/// A room that was just opened has so long to hear what was said.
const OPENED: Duration = Duration::from_secs(3);
/// Messages of one page.
const PAGE: usize = 10;
const PAGE_MAX: usize = 100;
/// Names that one address may choose within an hour: a school has one address.
const NAMES: u32 = 200;
const NAMES_WITHIN: Duration = Duration::from_secs(3600);
const ADDRESSES: usize = 20_000;
/// Rooms that are open at once.
const ROOMS_MAX: usize = 20_000;
/// Bytes that the system keeps for a socket that is slow: by default it would be megabytes.
const SEND_BUFFER: usize = 16 << 10;

/// What this node has of chats.
pub struct Chats {
    pub rooms: Rooms,
    /// Whether streams have a chat where they are not set otherwise.
    pub enabled: bool,
    /// Names that addresses have chosen lately.
    names: Cache<IpAddr, (Timestamp, u32)>,
}

impl Chats {
    pub fn new(rooms: Rooms, enabled: bool) -> Self {
        Self { rooms, enabled, names: Cache::new(ADDRESSES) }
    }

    /// Whether an address may choose one more name.
    fn may_name(&self, address: IpAddr) -> bool {
        let (since, count) =
            self.names.get(&address).filter(|(since, _)| now() - *since < NAMES_WITHIN).unwrap_or((now(), 0));
        self.names.insert(address, (since, count + 1));
        count < NAMES
    }
}

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/streams/{id}/chat", get(enter).post(say).put(switch))
        .route("/api/v1/streams/{id}/chat/acts", post(act))
        .route("/api/v1/streams/{id}/chat/me", post(name))
        .route("/api/v1/streams/{id}/chat/bots", post(bot))
        .route("/api/v1/streams/{id}/chat/poll", get(poll))
        .route("/api/v1/streams/{id}/chat/slots/{slot}", get(slot))
        .route("/api/v1/streams/{id}/chat/history", get(history))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// What nodes ask each other.
pub fn internal_routes() -> Router<Arc<App>> {
    Router::new().route(&format!("{PATH}{{stream}}"), get(follow).post(take)).layer(DefaultBodyLimit::max(BODY_MAX))
}

/// Who asks, as a cookie or a header proves it, and from where.
struct Visitor {
    asker: Asker,
    person: Option<Person>,
    address: Option<IpAddr>,
    /// A page of another site sends the request: its visitor's name is not at its disposal.
    foreign: bool,
}

impl FromRequestParts<Arc<App>> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let asker = Asker::from_request_parts(parts, app).await?;
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let foreign = match (text(header::ORIGIN), text(header::HOST)) {
            (Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, from)| from != host),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let cookie = cookie(&parts.headers).filter(|_| !foreign);
        let known = |token: &str| app.tickets.person(token, unix_now());
        let (by_token, address) = (bearer.and_then(known), asker.address());
        let asker = if by_token.is_some() { asker.without_key() } else { asker };
        let person = by_token.or_else(|| cookie.and_then(known));
        Ok(Self { asker, person, address, foreign })
    }
}

/// The value of our cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|all| all.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

impl Visitor {
    /// Who this is in a stream's room; nothing for somebody without a name.
    fn who(&self, app: &App, stream: &StreamId) -> Option<Who> {
        let person = self.person.as_ref()?;
        let mut roles = Vec::new();
        if person.streamer.as_ref() == Some(stream) {
            roles.push(Role::Streamer);
        }
        if person.bot.as_ref() == Some(stream) {
            roles.push(Role::Bot);
        }
        if self.asker.holds_ticket(app, stream) {
            roles.push(Role::Ticket);
        }
        // A program with a key is not to be banned by where it runs.
        let address = self.address.filter(|_| person.bot.is_none());
        Some(Who { user: person.chat.clone(), name: person.name.clone(), roles, address })
    }

    fn must(&self, app: &App, stream: &StreamId) -> Result<Who, Problem> {
        if self.foreign && self.person.is_none() {
            return Err(Problem::new(StatusCode::FORBIDDEN, "this is for pages of this site"));
        }
        let nameless = || Problem::new(StatusCode::UNAUTHORIZED, "choose a name first (POST .../chat/me)");
        self.who(app, stream).ok_or_else(nameless)
    }
}

impl App {
    /// A stream's room, for somebody who may watch the stream.
    async fn chat_room(&self, id: &str, visitor: &Visitor) -> Result<(StreamId, Arc<Handle>), Problem> {
        let stream = parse(id)?;
        let is_its_bot = visitor.person.as_ref().is_some_and(|person| person.bot.as_ref() == Some(&stream));
        if !is_its_bot {
            visitor.asker.may_watch(self, &stream, None).await?;
        }
        let room = match self.chats.rooms.opened(&stream) {
            Some(room) => room,
            None if !self.has_chat(&stream).await? => return Err(super::api::unknown(&stream)),
            None if self.chats.rooms.len() >= ROOMS_MAX => {
                return Err(Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "this node has as many chats open as it may",
                ));
            }
            None => self.chats.rooms.room(&stream),
        };
        room.ready(OPENED).await;
        match room.settings().enabled.unwrap_or(self.chats.enabled) {
            true => Ok((stream, room)),
            false => Err(Problem::new(StatusCode::NOT_FOUND, "this stream has no chat").with_code("off")),
        }
    }

    /// Whether there is, or was, such a stream.
    async fn has_chat(&self, stream: &StreamId) -> Result<bool, Problem> {
        if self.current(stream).is_some() || !self.is_origin {
            return Ok(self.current(stream).is_some());
        }
        // Where anyone may publish, streams have no rows of their own.
        Ok(self.meta.stream(stream).await?.is_some() || !self.meta.broadcasts(stream, None, 1).await?.is_empty())
    }
}

#[derive(Debug, Deserialize)]
struct After {
    /// The newest event that is known.
    #[serde(default)]
    after: Option<EventId>,
}

/// What a page needs to begin: how to go on, what was said last, and who its visitor is.
async fn enter(
    State(app): Shared,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
    visitor: Visitor,
    request: Request,
) -> Result<Response, Problem> {
    let (stream, room) = app.chat_room(&id, &visitor).await?;
    let who = visitor.who(&app, &stream);
    if let Some(key) = upgrade_key(request.headers())? {
        return upgraded(&app, room, who, after, &key, request);
    }
    let hub = room.hub();
    let found = hub.after(after.unwrap_or_else(|| hub.before_last(FIRST_PAGE)));
    let begin = format!(
        r#"{{"mode":{},"poll_ms":{},"slot_ms":{},"slot":{},"you":{},"settings":{},"gap":{},"next":{},"events":{}}}"#,
        json!(if room.takes_sockets(false) { "socket" } else { "poll" }),
        POLL_EACH.as_millis(),
        SLOT.as_millis(),
        hub::slot_of(unix_now()),
        json!(who.as_ref().map(|who| you(&room, who))),
        json!(room.settings()),
        after.is_some() && !found.is_whole,
        json!(newest(hub, &found, after)),
        array(found.events.iter()),
    );
    Ok(no_store(begin))
}

fn you(room: &Handle, who: &Who) -> serde_json::Value {
    json!({ "user": who.user, "name": who.name, "roles": room.roles(who) })
}

/// From where somebody who knows these events goes on.
fn newest(hub: &Hub, found: &hub::After, after: Option<EventId>) -> EventId {
    found.events.last().map(|told| told.id).or(after).unwrap_or_else(|| hub.newest())
}

fn no_store(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

/// The key of a WebSocket handshake (RFC 6455 section 4.2.1); nothing where none is wished.
fn upgrade_key(headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
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
fn upgraded(
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

type Given<T> = Result<Json<T>, JsonRejection>;

fn given<T>(body: Given<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.body_text()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Say {
    text: String,
    #[serde(default)]
    reply: Option<EventId>,
    #[serde(default)]
    nonce: Option<String>,
}

/// Says something, for programs and pollers.
async fn say(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    body: Given<Say>,
) -> Result<Response, Problem> {
    let Say { text, reply, nonce } = given(body)?;
    done(&app, &id, &visitor, nonce, Act::Say { text, reply }).await
}

#[derive(Debug, Deserialize)]
struct Do {
    #[serde(default)]
    nonce: Option<String>,
    #[serde(flatten)]
    act: Act,
}

async fn act(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    body: Given<Do>,
) -> Result<Response, Problem> {
    let Do { nonce, act } = given(body)?;
    done(&app, &id, &visitor, nonce, act).await
}

async fn done(app: &App, id: &str, visitor: &Visitor, nonce: Option<String>, act: Act) -> Result<Response, Problem> {
    let (stream, room) = app.chat_room(id, visitor).await?;
    let who = visitor.must(app, &stream)?;
    Ok(match room.act(&who, nonce, act).await {
        Ok(id) => (StatusCode::CREATED, Json(json!({ "id": id }))).into_response(),
        Err(why) => refused(&why),
    })
}

fn refused(why: &Refusal) -> Response {
    let status = match (why.code.as_str(), why.retry_ms) {
        ("banned" | "timeout" | "forbidden" | "tickets_only" | "blocked" | "no_links" | "emotes_only", _) => {
            StatusCode::FORBIDDEN
        }
        ("busy" | "late" | "moving" | "not_stored", _) => StatusCode::SERVICE_UNAVAILABLE,
        (_, Some(_)) => StatusCode::TOO_MANY_REQUESTS,
        ("unknown", None) => StatusCode::NOT_FOUND,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let problem = json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": why.text,
        "code": why.code,
        "retry_ms": why.retry_ms,
    });
    let mut response = (status, problem.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(ms) = why.retry_ms {
        headers.insert(header::RETRY_AFTER, ms.div_ceil(1000).into());
    }
    response
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

#[derive(Debug, Serialize)]
struct Named<'a> {
    user: &'a crate::id::UserId,
    name: &'a str,
    token: &'a str,
}

/// Chooses a name, or another one: who has one keeps who he is. Whoever shows the stream's key is its streamer.
async fn name(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    body: Given<Name>,
) -> Result<Response, Problem> {
    let Name { name } = given(body)?;
    let stream = parse(&id)?;
    let proof = visitor.asker.may_watch(&app, &stream, None).await?;
    if visitor.foreign {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this is for pages of this site"));
    }
    if visitor.address.is_some_and(|address| !app.chats.may_name(address)) {
        let many = "too many names were chosen from this address: try again in an hour";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, many));
    }
    let is_streamer = proof >= Proof::Owner;
    let taken = [stream.as_str()];
    let name = text::name(&name, if is_streamer { &[] } else { &taken });
    let name = name.map_err(|why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why.to_string()))?;
    let known = visitor.person.filter(|person| person.bot.is_none());
    let mut person = known.unwrap_or_else(|| Person::guest(name.clone(), 0));
    (person.name, person.exp) = (name, seconds(unix_now()) + LIFE);
    if is_streamer {
        person.streamer = Some(stream.clone());
    }
    let (kid, secret) = app.own_key().await?;
    let token = tickets::sign(&person, &kid, &secret);
    let cookie = format!("{COOKIE}={token}; Path=/; Max-Age={LIFE}; HttpOnly; SameSite=Lax");
    let told = Named { user: &person.chat, name: &person.name, token: &token };
    let mut response = (StatusCode::CREATED, Json(told)).into_response();
    let cookie = HeaderValue::try_from(cookie).expect("a token is of letters");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Makes a token for a program that writes in this stream's chat, for the streamer.
async fn bot(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    body: Given<Name>,
) -> Result<Response, Problem> {
    let Name { name } = given(body)?;
    let stream = parse(&id)?;
    visitor.asker.must_own(&app, &stream).await?;
    let name = text::name(&name, &[]);
    let name = name.map_err(|why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why.to_string()))?;
    let person = Person { bot: Some(stream), ..Person::guest(name, seconds(unix_now()) + LIFE) };
    let (kid, secret) = app.own_key().await?;
    let token = tickets::sign(&person, &kid, &secret);
    let told = Named { user: &person.chat, name: &person.name, token: &token };
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

fn seconds(at: UnixMs) -> u64 {
    at.0.max(0) as u64 / 1000
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    /// `null`: as the node is configured.
    enabled: Option<bool>,
}

/// Turns a stream's chat on or off, for whoever the stream belongs to.
async fn switch(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    body: Given<Switch>,
) -> Result<Response, Problem> {
    let Switch { enabled } = given(body)?;
    let stream = parse(&id)?;
    visitor.asker.must_own(&app, &stream).await?;
    if !app.has_chat(&stream).await? {
        return Err(super::api::unknown(&stream));
    }
    let room = app.chats.rooms.room(&stream);
    room.ready(OPENED).await;
    let settings = Settings { enabled, ..room.all_settings() };
    let operator = Who {
        user: OPERATOR.parse().expect("a legal name"),
        name: "Operator".into(),
        roles: vec![Role::Streamer],
        address: None,
    };
    Ok(match room.act(&operator, None, Act::Set { settings }).await {
        Ok(_) => Json(json!({ "id": stream, "chat": enabled })).into_response(),
        Err(why) => refused(&why),
    })
}

/// What came after an event: at once, or as soon as there is something.
async fn poll(
    State(app): Shared,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let (_, room) = app.chat_room(&id, &visitor).await?;
    let hub = room.hub();
    let (after, is_new) = match after {
        Some(after) => (after, false),
        None => (hub.before_last(FIRST_PAGE), true),
    };
    let found = tokio::select! {
        found = hub.wait_after(after, if is_new { Duration::ZERO } else { POLL }) => found,
        () = app.stopping.cancelled() => hub.after(after),
    };
    let text = format!(
        r#"{{"events":{},"next":{},"gap":{},"poll_ms":{},"mode":{}}}"#,
        array(found.events.iter()),
        json!(newest(hub, &found, Some(after))),
        !is_new && !found.is_whole,
        POLL_EACH.as_millis(),
        json!(if room.takes_sockets(true) { "socket" } else { "poll" }),
    );
    Ok(no_store(text))
}

/// What was told in two seconds: the same for everybody, for ever.
async fn slot(
    State(app): Shared,
    Path((id, slot)): Path<(String, u64)>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let (stream, room) = app.chat_room(&id, &visitor).await?;
    if slot > hub::slot_of(unix_now()) + SLOT_AHEAD {
        return Err(Problem::not_found("this has not come yet"));
    }
    let found = tokio::time::timeout(POLL, room.hub().slot(slot)).await;
    let late = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nobody says what was said");
    let bytes = match found.map_err(late)? {
        Some(bytes) => bytes,
        None => {
            let (begin, end) = hub::slot_bounds(slot);
            array(app.chats.rooms.stored_slot(&stream, begin, end).await?.iter()).into()
        }
    };
    // Where the stream is played with a ticket no cache in between is to keep it for others.
    let cache = match app.tickets.needs_ticket(stream.as_str()) {
        true => "private, max-age=31536000, immutable",
        false => "public, max-age=31536000, immutable",
    };
    Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, cache)], bytes).into_response())
}

#[derive(Debug, Deserialize)]
struct Page {
    /// Where the page before it said to go on.
    #[serde(default)]
    before: Option<EventId>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Messages from the newest back.
async fn history(
    State(app): Shared,
    Path(id): Path<String>,
    Query(Page { before, limit }): Query<Page>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let (stream, _) = app.chat_room(&id, &visitor).await?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let (messages, next) = app.chats.rooms.history(&stream, before.unwrap_or(EventId::MAX), limit).await?;
    Ok(no_store(json!({ "messages": messages, "next": next }).to_string()))
}

#[derive(Debug, Deserialize)]
struct Follow {
    after: EventId,
}

/// What is told in a room, for a node that follows it.
async fn follow(
    State(app): Shared,
    Path(stream): Path<String>,
    Query(Follow { after }): Query<Follow>,
) -> Result<Response, Problem> {
    let room = app.chats.rooms.room(&parse(&stream)?);
    room.ready(OPENED).await;
    let stopping = app.stopping.clone();
    let lines = futures::StreamExt::take_until(lines(room, after), async move { stopping.cancelled().await });
    let lines = futures::StreamExt::map(lines, Ok::<_, std::convert::Infallible>);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Takes what a node hands on.
async fn take(
    State(app): Shared,
    Path(stream): Path<String>,
    body: Bytes,
) -> Result<Json<Result<EventId, Refusal>>, Problem> {
    let posted = serde_json::from_slice(&body);
    let Posted { who, nonce, act, hops } =
        posted.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.to_string()))?;
    let room = app.chats.rooms.room(&parse(&stream)?);
    Ok(Json(room.hand_on(who, nonce, act, hops).await))
}
