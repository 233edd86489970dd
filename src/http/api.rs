//! The JSON API: who is live (public), streams and keys (admin token).

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    App, Shared,
    content::{self, Content},
    nodes,
    problem::Problem,
};
use crate::{
    audience::now::Kept,
    auth::{self, tickets::Tickets},
    id::{BroadcastId, StreamId},
    line::{Live, Standby, State as LiveState, StreamSettings, Text},
    media::Mode,
    recording::Picture,
    store::{self, RenditionRow, StreamRow},
    time::{now, unix_now},
};

/// Largest request body, bytes: a stream's settings are far smaller.
const BODY_MAX: usize = 64 << 10;
/// A list of what is live is as old as this at most, in this node and in caches.
const DIRECTORY: Duration = Duration::from_secs(1);
const DIRECTORY_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// Questions whose answers are kept, and the longest of them.
pub const DIRECTORIES: usize = 256;
const ASKED_MAX: usize = 200;
/// Streams listed at once.
const PAGE: usize = 1000;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/streams", get(list).post(create))
        .route("/api/v1/streams/{id}", get(show).delete(delete))
        .route("/api/v1/streams/{id}/rotate-key", post(rotate_key))
        .route("/api/v1/streams/{id}/push", put(set_push))
        .route("/api/v1/streams/{id}/standby", put(set_standby))
        .route("/api/v1/status", get(status))
        .route("/api/v1/drain", post(nodes::drain))
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/nodes/{id}", axum::routing::delete(nodes::remove))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// A stream as the public sees it.
#[derive(Debug, Serialize)]
pub(super) struct Stream {
    id: StreamId,
    /// `offline`, `starting` (an encoder is here, its first chunk is being made), `live`, or `away` (the encoder is gone and
    /// may come back).
    pub(super) state: &'static str,
    broadcast: Option<String>,
    pub(super) started: Option<String>,
    /// `public`, or `ticket`: played with a ticket.
    playback: &'static str,
    mode: Option<&'static str>,
    epoch: Option<u64>,
    /// The node that publishes its chunks, the one that holds its publisher, and those that stand by to take over.
    owner: Option<String>,
    pub(super) gateway: Option<String>,
    standbys: Vec<String>,
    /// Newest chunk number.
    k: Option<u64>,
    renditions: Vec<Rendition>,
    pub(super) warnings: Vec<Warning>,
    /// Rungs this node cannot afford now.
    shed: Vec<String>,
    /// Where a picture of it is, renewed every half minute; nothing where a ticket is needed to see it.
    poster: Option<String>,
    /// Who watches, at all nodes, as players report; nothing while it is not live. Not part of what nodes tell each other of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    viewers: Option<u64>,
    /// What it plays, where that was told; nothing where a ticket is needed to know it.
    now: Option<Playing>,
}

#[derive(Debug, Serialize)]
struct Playing {
    title: Option<String>,
    artist: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Rendition {
    name: String,
    codec: String,
    width: u32,
    height: u32,
    /// Frames per second; 0 when the encoder does not tell.
    fps: f64,
    /// Mean rate of what was sent so far.
    kbps: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Warning {
    code: &'static str,
    text: String,
    fix: String,
}

impl From<&RenditionRow> for Rendition {
    fn from(row: &RenditionRow) -> Self {
        Self {
            name: row.name.to_string(),
            codec: row.codec.clone(),
            width: row.width,
            height: row.height,
            fps: f64::from(row.fps_milli) / 1000.0,
            kbps: row.mean_bps / 1000,
        }
    }
}

impl Stream {
    fn offline(id: StreamId, tickets: &Tickets) -> Self {
        let (renditions, warnings, shed) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            playback: playback(tickets, &id),
            id,
            state: "offline",
            broadcast: None,
            started: None,
            mode: None,
            epoch: None,
            owner: None,
            gateway: None,
            standbys: Vec::new(),
            k: None,
            renditions,
            warnings,
            shed,
            poster: None,
            viewers: None,
            now: None,
        }
    }

    fn of(live: &Live, app: &App) -> Self {
        let tickets = &app.tickets;
        let state = match live.state {
            // Nothing to play yet: players would get a 404.
            LiveState::Live if live.multivariants.is_none() => "starting",
            _ if live.multivariants.is_none() => "offline",
            LiveState::Live => "live",
            LiveState::Away => "away",
            LiveState::Ended => "offline",
        };
        let rows =
            live.offered.iter().filter_map(|name| live.renditions.get(name)).map(|shown| shown.now().row.clone());
        let rows: Vec<_> = rows.collect();
        let poster = app.picture_url(&live.stream, &live.broadcast, &rows, Picture::Poster);
        let gateway = live.places.as_ref().map(|places| places.gateway.clone());
        let alone = app.peers.is_none() && live.state == LiveState::Live;
        let warnings = live.warnings.iter().map(|w| Warning { code: w.code(), text: w.text(), fix: w.fix() });
        Self {
            id: live.stream.clone(),
            state,
            broadcast: Some(live.broadcast.to_string()),
            started: Some(live.started.to_string()),
            playback: playback(tickets, &live.stream),
            mode: live.mode.map(mode),
            epoch: Some(live.epoch),
            owner: Some(app.node.clone()),
            gateway: gateway.or_else(|| alone.then(|| app.node.clone())),
            standbys: live.places.as_ref().map(|places| places.standbys.clone()).unwrap_or_default(),
            k: live.k,
            renditions: rows.iter().map(Rendition::from).collect(),
            warnings: warnings.collect(),
            shed: live.shed.iter().map(ToString::to_string).collect(),
            poster: poster.filter(|_| app.is_public(live.stream.as_str())),
            viewers: None,
            now: app.briefly(&live.stream).filter(|_| app.is_public(live.stream.as_str())),
        }
    }
}

fn playback(tickets: &Tickets, stream: &StreamId) -> &'static str {
    if tickets.needs_ticket(stream.as_str()) { "ticket" } else { "public" }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Follow => "follow",
        Mode::Reencode => "reencode",
        Mode::AudioOnly => "audio-only",
    }
}

/// Proof that the request carries the admin token.
pub(super) struct Admin;

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if auth::admin::verify(&app.admin, given) {
            Ok(Self)
        } else {
            Err(Problem::new(StatusCode::UNAUTHORIZED, "this needs the admin token (Authorization: Bearer ...)"))
        }
    }
}

/// What is live, as it was listed a moment ago for the same question: directories and bots ask all the time.
pub fn kept_directory(app: &App, path: &str, headers: &HeaderMap) -> Option<axum::http::Response<Content>> {
    let (at, text) = app.directories.get(path.strip_prefix("/api/v1/streams?")?)?;
    (now() - at < DIRECTORY).then(|| content::json(&text, headers, DIRECTORY_CACHE))
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    /// `1`: only those that are live, those with most viewers first; needs no token.
    live: Option<u8>,
    /// Streams in an answer, and what a `next` said: those after.
    limit: Option<usize>,
    after: Option<String>,
}

async fn list(
    State(app): Shared,
    Query(query): Query<ListQuery>,
    uri: Uri,
    headers: HeaderMap,
    admin: Result<Admin, Problem>,
) -> Result<Response, Problem> {
    if query.live == Some(1) {
        let text = Arc::new(Text::new(app.directory(&query)?.to_string()));
        let asked = uri.query().unwrap_or_default();
        if asked.len() <= ASKED_MAX {
            app.directories.insert(asked.to_owned(), (now(), text.clone()));
        }
        return Ok(content::json(&text, &headers, DIRECTORY_CACHE).map(axum::body::Body::new));
    }
    admin?;
    let rows = app.meta.streams(None, PAGE).await?;
    let mut streams: Vec<_> = rows.into_iter().map(|row| app.view(row.id)).collect();
    // Where anyone may publish, streams live without a row.
    for live in app.lines.all() {
        if streams.iter().all(|stream| stream.id != live.stream) {
            streams.push(Stream::of(&live, &app));
        }
    }
    Ok(Json(serde_json::json!({ "streams": streams })).into_response())
}

async fn show(State(app): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = parse(&id)?;
    if app.lines.live(&id).is_none() {
        if let Some(mut view) = app.links.as_ref().and_then(|links| links.stream(&id)) {
            view["viewers"] = app.watching(&id).into();
            return Ok(public(&view));
        }
        // An edge does not know the streams that are not shown.
        if app.is_origin && !app.open && app.meta.stream(&id).await?.is_none() {
            return Err(unknown(&id));
        }
    }
    let viewers = app.watching(&id);
    Ok(public(&Stream { viewers, ..app.view(id) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    id: String,
    #[serde(default)]
    settings: Option<StreamSettings>,
}

async fn create(
    _: Admin,
    State(app): Shared,
    headers: HeaderMap,
    body: Result<Json<Create>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.body_text()))?;
    let id: StreamId =
        body.id.parse().map_err(|why: crate::id::Error| Problem::new(StatusCode::BAD_REQUEST, why.to_string()))?;
    if let Some(name) = body.settings.iter().flat_map(|settings| settings.newer.keys()).next() {
        let words = format!("there is no setting {name:?} of a stream: ladder, push, keep, standby");
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    let secret = auth::Secret::generate();
    let settings = body.settings.map_or(Value::Null, |s| serde_json::to_value(s).expect("settings are plain data"));
    let row = StreamRow { id: id.clone(), key_hash: auth::keys::hash(&secret), created: unix_now(), settings };
    app.meta.create_stream(row).await.map_err(|why| match why {
        store::Error::Exists => Problem::new(StatusCode::CONFLICT, format!("stream {id} exists already")),
        other => other.into(),
    })?;
    app.playing.board().is_made(&id);
    let told = serde_json::json!({
        "id": id,
        "key": format!("{id}?key={}", secret.expose()),
        "server": app.rtmp_port.map(|port| format!("rtmp://{}:{port}/live", host(&headers))),
        "watch": format!("/watch/{id}"),
    });
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

async fn rotate_key(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let row = app.meta.stream(&id).await?.ok_or_else(|| unknown(&id))?;
    let secret = auth::Secret::generate();
    app.meta.update_stream(StreamRow { key_hash: auth::keys::hash(&secret), ..row }).await?;
    // Whoever publishes with the old key has it no longer.
    app.kick(&id).await;
    let key = format!("{id}?key={}", secret.expose());
    Ok(Json(serde_json::json!({ "id": id, "key": key })).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPush {
    /// Edges fetch each chunk when it is listed, before anyone asks them.
    push: bool,
}

/// Counts when the stream's encoder connects next.
async fn set_push(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    body: Result<Json<SetPush>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let Json(SetPush { push }) = body.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.body_text()))?;
    app.change_settings(&id, |settings| settings.push = push).await?;
    Ok(Json(serde_json::json!({ "id": id, "push": push })).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetStandby {
    /// What a second node does for the stream; `null` for what the nodes' configuration says.
    standby: Option<Standby>,
}

/// Counts when the stream's encoder connects next.
async fn set_standby(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    body: Result<Json<SetStandby>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let Json(SetStandby { standby }) = body.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.body_text()))?;
    app.change_settings(&id, |settings| settings.standby = standby).await?;
    Ok(Json(serde_json::json!({ "id": id, "standby": standby })).into_response())
}

async fn delete(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let id = parse(&id)?;
    app.meta.delete_stream(&id).await.map_err(|why| match why {
        store::Error::NotFound => unknown(&id),
        other => other.into(),
    })?;
    app.kick(&id).await;
    // Other nodes show that it plays nothing.
    let _ = app.playing.set(&id, None).await;
    app.playing.board().is_gone(&id);
    Ok(StatusCode::NO_CONTENT)
}

async fn status(_: Admin, State(app): Shared) -> Response {
    let reasons = app.not_ready();
    let live: Vec<_> = app.lines.all().iter().map(|live| Stream::of(live, &app)).collect();
    let status = serde_json::json!({
        "node": app.node,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": (now() - app.started).as_secs(),
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "degraded": app.degraded(),
        "publish": app.publish,
        "streams": live,
    });
    Json(status).into_response()
}

impl App {
    /// Whether anyone may watch a stream.
    pub(super) fn is_public(&self, stream: &str) -> bool {
        self.asker.is_none() && !self.tickets.needs_ticket(stream)
    }

    /// Ends a stream's session, wherever it is: its key is no longer valid.
    async fn kick(&self, stream: &StreamId) {
        self.lines.kick(stream).await;
        if let Some(peers) = &self.peers {
            peers.kick(stream);
        }
    }

    /// The streams that this node shows, its own and those of other nodes, as the public sees them.
    pub(super) fn shown_streams(&self) -> BTreeMap<StreamId, Value> {
        let mut views = self.links.as_ref().map(|links| links.streams()).unwrap_or_default();
        views.extend(self.own_streams());
        views
    }

    /// A page of what is live, by viewers. `next` holds the place of its last stream: one that moves meanwhile may come twice.
    fn directory(&self, query: &ListQuery) -> Result<Value, Problem> {
        let wrong = |what| Problem::new(StatusCode::BAD_REQUEST, what);
        let limit = query.limit.unwrap_or(PAGE);
        if !(1..=PAGE).contains(&limit) {
            return Err(wrong(format!("limit: 1 to {PAGE}")));
        }
        let place = |text: &str| {
            Some((std::cmp::Reverse(text.split_once('.')?.0.parse::<u64>().ok()?), text.split_once('.')?.1.to_owned()))
        };
        let after = match &query.after {
            Some(text) => Some(place(text).ok_or_else(|| wrong("after: what an answer gave as next".into()))?),
            None => None,
        };
        let on = |view: &Value| matches!(view["state"].as_str(), Some("live" | "away"));
        let live = self.shown_streams().into_iter().filter(|(_, view)| on(view));
        let placed = live.map(|(id, mut view)| {
            let viewers = self.watching(&id);
            view["viewers"] = viewers.into();
            ((std::cmp::Reverse(viewers.unwrap_or(0)), id.to_string()), view)
        });
        let mut page: Vec<_> = placed.filter(|(place, _)| after.as_ref().is_none_or(|after| place > after)).collect();
        page.sort_by(|(a, _), (b, _)| a.cmp(b));
        let more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| more).map(|((viewers, id), _)| format!("{}.{id}", viewers.0));
        let streams: Vec<_> = page.into_iter().map(|(_, view)| view).collect();
        Ok(serde_json::json!({ "streams": streams, "next": next, "rtmp_port": self.rtmp_port }))
    }

    /// Those that are made here.
    pub(super) fn own_streams(&self) -> BTreeMap<StreamId, Value> {
        let view = |live: &Arc<Live>| serde_json::to_value(Stream::of(live, self)).expect("plain data");
        self.lines.all().iter().map(|live| (live.stream.clone(), view(live))).collect()
    }

    /// What a stream plays, where it is known and in words.
    fn briefly(&self, stream: &StreamId) -> Option<Playing> {
        let Kept::Shown(shown) = self.playing.board().kept(stream.as_str())? else { return None };
        let (title, artist) = (shown.now.title.clone(), shown.now.artist.clone());
        (title.is_some() || artist.is_some()).then_some(Playing { title, artist })
    }

    /// Changes the settings of a stream.
    pub(super) async fn change_settings(
        &self,
        id: &StreamId,
        change: impl FnOnce(&mut StreamSettings),
    ) -> Result<(), Problem> {
        let row = self.meta.stream(id).await?.ok_or_else(|| unknown(id))?;
        let mut settings: StreamSettings = serde_json::from_value(row.settings.clone()).unwrap_or_default();
        change(&mut settings);
        let settings = serde_json::to_value(settings).expect("settings are plain data");
        Ok(self.meta.update_stream(StreamRow { settings, ..row }).await?)
    }

    /// The broadcast that a stream shows now, here or elsewhere.
    pub(super) fn current(&self, stream: &StreamId) -> Option<BroadcastId> {
        if let Some(live) = self.lines.live(stream) {
            return Some(live.broadcast.clone());
        }
        self.links.as_ref()?.stream(stream)?["broadcast"].as_str()?.parse().ok()
    }

    pub(super) fn view(&self, id: StreamId) -> Stream {
        self.lines.live(&id).map_or_else(|| Stream::offline(id, &self.tickets), |live| Stream::of(&live, self))
    }
}

pub(super) fn parse(id: &str) -> Result<StreamId, Problem> {
    id.parse().map_err(|why: crate::id::Error| Problem::not_found(why.to_string()))
}

/// The name under which the client reached this node, without the port.
fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost");
    // An IPv6 address keeps its brackets.
    host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit())).map_or(host, |(name, _)| name)
}

pub(super) fn unknown(id: &StreamId) -> Problem {
    Problem::not_found(format!("there is no stream {id}"))
}

/// Public answers: any page may read them, caches may keep them for a second.
pub(super) fn public(value: &impl Serialize) -> Response {
    let headers = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "public, max-age=1")];
    (headers, Json(value)).into_response()
}
