//! The API of chats: who somebody is, what is said, by socket or by polling, and what moderators do.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::parse,
    content::{self, Content, fresh_text},
    extract::{Given, Path, Query},
    openapi::OfStream,
    problem::Problem,
};
use crate::{
    chat::{
        Act, Acted, Event, PATH, Posted, Refusal, Role, Rooms, Settings, Who,
        act::Picture,
        hub::{self, Hub, SLOT, array},
        known::Known,
        lines,
        rooms::{FIRST_PAGE, Handle},
    },
    id::{EventId, StreamId, UserId},
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

pub fn routes() -> OpenApiRouter<Arc<App>> {
    let emote = OpenApiRouter::new()
        .routes(routes!(emotes::picture, emotes::put, emotes::delete))
        .layer(DefaultBodyLimit::max(emotes::BYTES_MAX));
    OpenApiRouter::new()
        .routes(routes!(enter, say, switch))
        .routes(routes!(act))
        .routes(routes!(who::name))
        .routes(routes!(who::bot))
        .routes(routes!(poll))
        .routes(routes!(slot))
        .routes(routes!(staff::rules))
        .routes(routes!(staff::audit))
        .routes(routes!(emotes::list))
        .merge(emote)
        .routes(routes!(past::history))
        .routes(routes!(past::replay))
        .routes(routes!(past::export))
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

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct After {
    /// The newest event that is known: what came after it is told. Without it, the last ten messages and what came
    /// since.
    #[serde(default)]
    after: Option<EventId>,
}

/// How somebody gets to know what is said.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ChatMode)]
enum Mode {
    Socket,
    Poll,
}

impl Mode {
    fn of(takes_sockets: bool) -> Self {
        if takes_sockets { Self::Socket } else { Self::Poll }
    }
}

/// Who somebody is in a room.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatYou)]
struct You {
    user: UserId,
    name: String,
    roles: Vec<Role>,
}

/// What a page needs to begin.
#[derive(ToSchema)]
#[schema(as = ChatBegin)]
#[expect(dead_code, reason = "events are put into it as they were encoded once")]
struct Begin {
    /// How to go on: by a socket, or by polling where there are as many of them as there may be.
    mode: Mode,
    /// How often to poll, ms.
    poll_ms: u64,
    /// How long a slot is, ms.
    slot_ms: u64,
    /// Number of the slot that runs.
    slot: u64,
    /// Nothing where somebody has not chosen a name for this room.
    you: Option<You>,
    settings: Settings,
    /// Names of emotes and their pictures.
    emotes: BTreeMap<String, Picture>,
    /// The database is away: what is said is stored later.
    delayed: bool,
    /// Some of what came after the event that was asked with is not here.
    gap: bool,
    /// With what to go on as `after`.
    next: EventId,
    /// Oldest first.
    events: Vec<Event>,
}

/// Tells what a page needs to begin: how to go on, what was said last, and who its visitor is.
///
/// With `Upgrade: websocket` (version 13) it becomes the room's WebSocket. Each message from the server is an array of
/// events, and of words to this socket alone (`hello`, `ack`, `refused`, `skipped`, `retry`, `poll`); each message to
/// it is an act with a `nonce`, as `POST .../chat/acts` takes it.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat", operation_id = "enter_chat",
    params(OfStream, After),
    responses(
        (status = 200, body = Begin),
        (status = 101, description = "The room as a WebSocket, where that was asked for"),
    ),
    security((), ("cookie" = []), ("person" = []), ("program" = [])),
)]
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
        json!(Mode::of(room.takes_sockets(false))),
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
    Ok(fresh_text(begin))
}

fn you(room: &Handle, who: &Who) -> You {
    You { user: who.user.clone(), name: who.name.clone(), roles: room.roles(who) }
}

/// From where somebody who knows these events goes on.
fn newest(hub: &Hub, found: &hub::After, after: Option<EventId>) -> EventId {
    found.events.last().map(|told| told.id).or(after).unwrap_or_else(|| hub.newest())
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatSay)]
struct Say {
    /// 500 letters at most.
    text: String,
    /// The message that it answers.
    #[serde(default)]
    reply: Option<EventId>,
    /// What its sender calls it: sent again under the same name it is said once.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    nonce: Option<String>,
}

/// Says something, for programs and pollers.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/chat", operation_id = "say_in_chat",
    params(OfStream),
    request_body = Say,
    responses(
        (status = 201, body = Acted),
        (status = 202, body = Acted, description = "It waits for a moderator"),
    ),
    security(("cookie" = []), ("person" = []), ("program" = [])),
)]
async fn say(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    Given(Say { text, reply, nonce }): Given<Say>,
) -> Result<(StatusCode, Json<Acted>), Problem> {
    done(&app, &id, &visitor, nonce, Act::Say { text, reply }).await
}

/// An act under a name.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatDo)]
struct Do {
    /// What its sender calls it: a message that is sent again under the same name is said once.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    nonce: Option<String>,
    #[serde(flatten)]
    act: Act,
}

/// Does something in a chat: says something, or what moderators and the streamer do.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/chat/acts", operation_id = "act_in_chat",
    params(OfStream),
    request_body = Do,
    responses(
        (status = 201, body = Acted),
        (status = 202, body = Acted, description = "It waits for a moderator"),
    ),
    security(("cookie" = []), ("person" = []), ("program" = [])),
)]
async fn act(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    Given(Do { nonce, act }): Given<Do>,
) -> Result<(StatusCode, Json<Acted>), Problem> {
    done(&app, &id, &visitor, nonce, act).await
}

async fn done(
    app: &App,
    id: &str,
    visitor: &Visitor,
    nonce: Option<String>,
    act: Act,
) -> Result<(StatusCode, Json<Acted>), Problem> {
    let (stream, room) = app.chat_room(id, visitor).await?;
    let who = visitor.must(app, &stream)?;
    act.is_open()?;
    let acted = room.act(&who, nonce, act).await?;
    Ok((if acted.held { StatusCode::ACCEPTED } else { StatusCode::CREATED }, Json(acted)))
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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatSwitch)]
struct Switch {
    /// `null`: as the node is configured.
    enabled: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatSwitched)]
struct Switched {
    id: StreamId,
    /// `null`: as the node is configured.
    chat: Option<bool>,
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
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/chat", operation_id = "switch_chat",
    params(OfStream),
    request_body = Switch,
    responses((status = 200, body = Switched)),
    security(("key" = []), ("admin" = [])),
)]
async fn switch(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    Given(Switch { enabled }): Given<Switch>,
) -> Result<Json<Switched>, Problem> {
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
    Ok(Json(Switched { id: stream, chat: enabled }))
}

/// What came after an event.
#[derive(ToSchema)]
#[schema(as = ChatPoll)]
#[expect(dead_code, reason = "events are put into it as they were encoded once")]
struct Polled {
    /// Oldest first.
    events: Vec<Event>,
    /// With what to go on as `after`.
    next: EventId,
    /// Some of what came after the event that was asked with is not here.
    gap: bool,
    /// How often to poll, ms.
    poll_ms: u64,
    /// How to go on: there may be room for a socket again.
    mode: Mode,
}

/// Tells what came after an event: at once, or as soon as there is something, within 20 seconds.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/poll", operation_id = "poll_chat",
    params(OfStream, After),
    responses((status = 200, body = Polled)),
)]
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
        json!(Mode::of(room.takes_sockets(true))),
    );
    Ok(fresh_text(text))
}

/// Tells what was told in two seconds: the same for everybody, for ever. Any cache may keep it.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/slots/{slot}", operation_id = "chat_slot",
    params(OfStream, ("slot" = u64, Path, description = "Number of these two seconds since the start of 2025 (UTC)")),
    responses((status = 200, body = Vec<Event>)),
)]
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
