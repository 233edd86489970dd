//! The API of chats: who somebody is, what is said, by socket or by polling, and what moderators do.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::JsonRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::json;

use super::{
    App, Shared,
    api::parse,
    content::{self, Content},
    problem::Problem,
};
use crate::{
    chat::{
        Act, Acted, PATH, Posted, Refusal, Role, Rooms, Settings, Who,
        hub::{self, Hub, SLOT, array},
        known::Known,
        lines,
        rooms::{FIRST_PAGE, Handle},
    },
    id::{EventId, StreamId},
    time::{Timestamp, now, unix_now},
};

mod emotes;
mod past;
mod staff;
mod upgrade;
mod who;

use who::Visitor;

/// Largest request body, bytes.
const BODY_MAX: usize = 64 << 10;
/// Who did what was done with the stream's key or the admin token.
const OPERATOR: &str = "operator";
/// A poll that finds nothing waits so long for something.
const POLL: Duration = Duration::from_secs(20);
/// How often pollers come.
const POLL_EACH: Duration = SLOT;
/// A slot that begins later than this is asked for by a clock that is wrong.
const SLOT_AHEAD: u64 = 2;
/// What is told of a slot that anyone may have.
const PUBLIC_SLOT: &str = "public, max-age=31536000, immutable";
/// A room that was just opened has so long to hear what was said.
const OPENED: Duration = Duration::from_secs(3);
/// Names that one address may choose within an hour: a school has one address.
const NAMES: u32 = 200;
const NAMES_WITHIN: Duration = Duration::from_secs(3600);
const ADDRESSES: usize = 20_000;
/// Rooms that are open at once.
const ROOMS_MAX: usize = 20_000;

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

/// What was told in two seconds, if `path` asks for that, anyone may have it, and it was asked for before: a crowd that polls is
/// answered without a look at more than this.
pub fn kept_slot(app: &App, path: &str, headers: &HeaderMap) -> Option<axum::http::Response<Content>> {
    let (stream, slot) = path.strip_prefix("/api/v1/streams/")?.split_once("/chat/slots/")?;
    if !app.is_public(stream) {
        return None;
    }
    let text = app.chats.rooms.kept_slot(stream, slot.parse().ok()?, app.chats.enabled)?;
    Some(content::json(&text, headers, HeaderValue::from_static(PUBLIC_SLOT)))
}

pub fn routes() -> Router<Arc<App>> {
    let emote = get(emotes::picture).put(emotes::put).delete(emotes::delete);
    let emote = emote.layer(DefaultBodyLimit::max(emotes::BYTES_MAX));
    Router::new()
        .route("/api/v1/streams/{id}/chat", get(enter).post(say).put(switch))
        .route("/api/v1/streams/{id}/chat/acts", post(act))
        .route("/api/v1/streams/{id}/chat/me", post(who::name))
        .route("/api/v1/streams/{id}/chat/bots", post(who::bot))
        .route("/api/v1/streams/{id}/chat/poll", get(poll))
        .route("/api/v1/streams/{id}/chat/slots/{slot}", get(slot))
        .route("/api/v1/streams/{id}/chat/rules", get(staff::rules))
        .route("/api/v1/streams/{id}/chat/audit", get(staff::audit))
        .route("/api/v1/streams/{id}/chat/emotes", get(emotes::list))
        .route("/api/v1/streams/{id}/chat/emotes/{name}", emote)
        .route("/api/v1/streams/{id}/chat/history", get(past::history))
        .route("/api/v1/broadcasts/{id}/chat", get(past::replay))
        .route("/api/v1/broadcasts/{id}/chat.jsonl", get(past::export))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// What nodes ask each other.
pub fn internal_routes() -> Router<Arc<App>> {
    Router::new()
        .route(&format!("{PATH}{{stream}}"), get(follow).post(take))
        .route(&format!("{PATH}{{stream}}/emotes/{{name}}"), get(emotes::picture))
        .layer(DefaultBodyLimit::max(BODY_MAX))
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
            false => Err(no_chat()),
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
    if let Some(key) = upgrade::upgrade_key(request.headers())? {
        return upgrade::upgraded(&app, room, who, after, &key, request);
    }
    let hub = room.hub();
    let found = hub.after(after.unwrap_or_else(|| hub.before_last(FIRST_PAGE)));
    let begin = format!(
        r#"{{"mode":{},"poll_ms":{},"slot_ms":{},"slot":{},"you":{},"settings":{},"emotes":{},"delayed":{},"gap":{},"next":{},"events":{}}}"#,
        json!(if room.takes_sockets(false) { "socket" } else { "poll" }),
        POLL_EACH.as_millis(),
        SLOT.as_millis(),
        hub::slot_of(unix_now()),
        json!(who.as_ref().map(|who| you(&room, who))),
        json!(room.settings()),
        json!(room.known().emotes),
        app.health.delay().is_some(),
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
    act.is_open()?;
    let acted = room.act(&who, nonce, act).await?;
    Ok((if acted.held { StatusCode::ACCEPTED } else { StatusCode::CREATED }, Json(acted)).into_response())
}

impl From<Refusal> for Problem {
    fn from(why: Refusal) -> Self {
        let status = match (why.code.as_str(), why.retry_ms) {
            ("banned" | "timeout" | "forbidden" | "tickets_only" | "blocked" | "no_links" | "emotes_only", _) => {
                StatusCode::FORBIDDEN
            }
            ("busy" | "late" | "moving" | "not_stored", _) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Some(_)) => StatusCode::TOO_MANY_REQUESTS,
            ("unknown", None) => StatusCode::NOT_FOUND,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let problem = Problem::new(status, why.text).with_code(why.code);
        why.retry_ms.map(Duration::from_millis).into_iter().fold(problem, Problem::again_in)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    /// `null`: as the node is configured.
    enabled: Option<bool>,
}

impl App {
    /// What is stored of a chat is not at this node where it makes no streams.
    pub(super) fn must_have_store(&self) -> Result<(), Problem> {
        let elsewhere = "this node has no store: ask one that makes streams";
        self.is_origin.then_some(()).ok_or_else(|| Problem::new(StatusCode::MISDIRECTED_REQUEST, elsewhere))
    }
}

fn no_chat() -> Problem {
    Problem::not_found("this stream has no chat").with_code("off")
}

/// Whoever shows the stream's key, or the admin token, in a room.
fn operator() -> Who {
    let user = OPERATOR.parse().expect("a legal name");
    Who { user, name: "Operator".into(), roles: vec![Role::Streamer], address: None }
}

/// Turns a stream's chat on or off, for whoever the stream belongs to.
async fn switch(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    body: Given<Switch>,
) -> Result<Response, Problem> {
    let Switch { enabled } = given(body)?;
    app.must_have_store()?;
    let stream = parse(&id)?;
    visitor.asker.must_own(&app, &stream).await?;
    if !app.has_chat(&stream).await? {
        return Err(super::api::unknown(&stream));
    }
    let room = app.chats.rooms.room(&stream);
    room.ready(OPENED).await;
    // From the store: words that are for moderators alone are not known everywhere.
    let settings = Known::of(&app.meta.chat_rules(&stream).await?).settings;
    let settings = Settings { enabled, ..settings };
    room.act(&operator(), None, Act::Set { settings }).await?;
    Ok(Json(json!({ "id": stream, "chat": enabled })).into_response())
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
        Some(text) => text.body.clone(),
        None => {
            let (begin, end) = hub::slot_bounds(slot);
            array(app.chats.rooms.stored_slot(&stream, begin, end).await?.iter()).into()
        }
    };
    // Where not everybody may watch no cache in between is to keep it for others.
    let cache = match app.is_public(stream.as_str()) {
        true => PUBLIC_SLOT,
        false => "private, max-age=31536000, immutable",
    };
    Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, cache)], bytes).into_response())
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
) -> Result<Json<Result<Acted, Refusal>>, Problem> {
    let posted = serde_json::from_slice(&body);
    let Posted { who, nonce, act, hops } =
        posted.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.to_string()))?;
    let room = app.chats.rooms.room(&parse(&stream)?);
    Ok(Json(room.hand_on(who, nonce, act, hops).await))
}
