//! The JSON API: who is live (public), streams and keys (admin token).

use axum::{
    Json,
    extract::{DefaultBodyLimit, FromRequestParts, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    content::{self, Content},
    extract::{Given, Path, Query},
    openapi::OfStream,
    problem::Problem,
};
use crate::{
    audience::now::Kept,
    auth::{self, tickets::Tickets},
    id::{BroadcastId, StreamId},
    line::{Keep, Live, Standby, State as LiveState, StreamSettings, Text},
    media::Mode,
    recording::Picture,
    store::{self, RenditionRow, StreamRow},
    time::{now, unix_now},
    transcode::Entry,
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

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, delete))
        .routes(routes!(rotate_key))
        .routes(routes!(set_push))
        .routes(routes!(set_standby))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// A stream as the public sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stream {
    id: StreamId,
    pub(super) state: StreamState,
    broadcast: Option<BroadcastId>,
    #[schema(format = DateTime)]
    pub(super) started: Option<String>,
    playback: Playback,
    /// How its chunks are cut.
    mode: Option<Mode>,
    /// Grows each time another node, or another run of the encoder, makes the chunks.
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

/// What a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StreamState {
    Offline,
    /// An encoder is here, its first chunk is being made.
    Starting,
    Live,
    /// The encoder is gone and may come back.
    Away,
}

/// Who may watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Playback {
    /// Anyone.
    Public,
    /// Whoever has a ticket.
    Ticket,
}

impl Playback {
    pub(super) fn of(tickets: &Tickets, stream: &StreamId) -> Self {
        if tickets.needs_ticket(stream.as_str()) { Self::Ticket } else { Self::Public }
    }
}

/// What a stream plays, in a line.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlayingBriefly)]
struct Playing {
    title: Option<String>,
    artist: Option<String>,
}

/// One form in which a stream or recording can be watched.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RenditionInfo)]
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

/// Something that an encoder does not do well.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Warning {
    /// The same in a word, for programs.
    code: &'static str,
    text: String,
    /// What to set, and where.
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
            playback: Playback::of(tickets, &id),
            id,
            state: StreamState::Offline,
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

    pub(super) fn of(live: &Live, app: &App) -> Self {
        let tickets = &app.tickets;
        let state = match live.state {
            // Nothing to play yet: players would get a 404.
            LiveState::Live if live.multivariants.is_none() => StreamState::Starting,
            _ if live.multivariants.is_none() => StreamState::Offline,
            LiveState::Live => StreamState::Live,
            LiveState::Away => StreamState::Away,
            LiveState::Ended => StreamState::Offline,
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
            broadcast: Some(live.broadcast.clone()),
            started: Some(live.started.to_string()),
            playback: Playback::of(tickets, &live.stream),
            mode: live.mode,
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

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `1`: only those that are live, those with most viewers first; needs no token.
    #[param(minimum = 0, maximum = 255)]
    live: Option<u8>,
    /// Streams in an answer.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<usize>,
    /// What the page before it gave as `next`: those after.
    after: Option<String>,
}

impl ListQuery {
    fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(PAGE);
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, format!("limit: 1 to {PAGE}"));
        (1..=PAGE).contains(&limit).then_some(limit).ok_or_else(wrong)
    }

    /// The place after which a page begins, which `read` reads.
    fn after<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let wrong = || Problem::new(StatusCode::BAD_REQUEST, "after: what an answer gave as next");
        self.after.as_deref().map(|text| read(text).ok_or_else(wrong)).transpose()
    }
}

/// A page of streams: of all by name, of those that are live by viewers.
#[derive(Serialize, ToSchema)]
struct Streams<T = Stream> {
    streams: Vec<T>,
    /// What to ask with as `after` for the next page, where there is one.
    next: Option<String>,
    /// The port on which this node takes RTMP.
    rtmp_port: Option<u16>,
}

/// Lists streams: all of them for the admin, those that are live for anyone.
#[utoipa::path(
    get, path = "/api/v1/streams", operation_id = "list_streams",
    params(ListQuery),
    responses((status = 200, body = Streams)),
    security((), ("admin" = [])),
)]
async fn list(
    State(app): Shared,
    Query(query): Query<ListQuery>,
    uri: Uri,
    headers: HeaderMap,
    admin: Result<Admin, Problem>,
) -> Result<Response, Problem> {
    if query.live == Some(1) {
        let directory = serde_json::to_string(&app.directory(&query)?).expect("plain data");
        let text = Arc::new(Text::new(directory));
        let asked = uri.query().unwrap_or_default();
        if asked.len() <= ASKED_MAX {
            app.directories.insert(asked.to_owned(), (now(), text.clone()));
        }
        return Ok(content::json(&text, &headers, DIRECTORY_CACHE).map(axum::body::Body::new));
    }
    admin?;
    let (limit, after) = (query.limit()?, query.after(|text| text.parse::<StreamId>().ok())?);
    let rows = app.meta.streams(after.as_ref(), limit).await?;
    let last = rows.last().map(|row| row.id.clone()).filter(|_| rows.len() == limit);
    // Where anyone may publish, streams live without a row.
    let live = app.lines.all().into_iter().map(|live| live.stream.clone());
    let live = live.filter(|id| after.as_ref().is_none_or(|after| id > after));
    let live = live.filter(|id| last.as_ref().is_none_or(|last| id <= last));
    let names: BTreeSet<_> = rows.into_iter().map(|row| row.id).chain(live).collect();
    let streams: Vec<_> = names.into_iter().map(|id| app.view(id)).collect();
    let next = last.map(|last| last.to_string());
    Ok(Json(Streams { streams, next, rtmp_port: app.rtmp_port }).into_response())
}

/// Shows a stream.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}", operation_id = "show_stream",
    params(OfStream),
    responses((status = 200, body = Stream)),
)]
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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewStream)]
struct Create {
    #[schema(value_type = StreamId)]
    id: String,
    settings: Option<Settings>,
}

/// A stream's own settings; what is not set is as the nodes are configured.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StreamSettings)]
struct Settings {
    /// The renditions that are made of it.
    ladder: Option<Vec<Entry>>,
    /// Edges fetch each chunk when it is listed, before anyone asks them.
    #[serde(default)]
    push: bool,
    /// How long its recordings are kept.
    keep: Option<Keep>,
    /// What a second node does for it.
    standby: Option<Standby>,
}

impl From<Settings> for StreamSettings {
    fn from(Settings { ladder, push, keep, standby }: Settings) -> Self {
        Self { ladder, push, keep, standby, ..Self::default() }
    }
}

/// A stream with what its streamer needs. The key is told this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreatedStream)]
struct Created {
    id: StreamId,
    /// What OBS calls the stream key.
    key: String,
    /// What OBS calls the server; nothing where this node takes no RTMP.
    server: Option<String>,
    /// Path of its page.
    watch: String,
}

/// Makes a stream.
#[utoipa::path(
    post, path = "/api/v1/streams", operation_id = "create_stream",
    request_body = Create,
    responses((status = 201, body = Created)),
    security(("admin" = [])),
)]
async fn create(
    _: Admin,
    State(app): Shared,
    headers: HeaderMap,
    Given(body): Given<Create>,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let id: StreamId =
        body.id.parse().map_err(|why: crate::id::Error| Problem::new(StatusCode::BAD_REQUEST, why.to_string()))?;
    let secret = auth::Secret::generate();
    let settings =
        serde_json::to_value(StreamSettings::from(body.settings.unwrap_or_default())).expect("settings are plain data");
    let row = StreamRow { id: id.clone(), key_hash: auth::keys::hash(&secret), created: unix_now(), settings };
    app.meta.create_stream(row).await.map_err(|why| match why {
        store::Error::Exists => Problem::new(StatusCode::CONFLICT, format!("stream {id} exists already")),
        other => other.into(),
    })?;
    app.playing.board().is_made(&id);
    let created = Created {
        key: format!("{id}?key={}", secret.expose()),
        server: app.rtmp_port.map(|port| format!("rtmp://{}:{port}/live", host(&headers))),
        watch: format!("/watch/{id}"),
        id,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// A stream's new key, which is told this once.
#[derive(Debug, Serialize, ToSchema)]
struct NewKey {
    id: StreamId,
    key: String,
}

/// Gives a stream a new key. Whoever publishes with the old one is disconnected.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/rotate-key",
    params(OfStream),
    responses((status = 200, body = NewKey)),
    security(("admin" = [])),
)]
async fn rotate_key(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<Json<NewKey>, Problem> {
    let id = parse(&id)?;
    let row = app.meta.stream(&id).await?.ok_or_else(|| unknown(&id))?;
    let secret = auth::Secret::generate();
    app.meta.update_stream(StreamRow { key_hash: auth::keys::hash(&secret), ..row }).await?;
    // Whoever publishes with the old key has it no longer.
    app.kick(&id).await;
    Ok(Json(NewKey { key: format!("{id}?key={}", secret.expose()), id }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetPush {
    /// Edges fetch each chunk when it is listed, before anyone asks them.
    push: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Push)]
struct PushSet {
    id: StreamId,
    push: bool,
}

/// Sets whether edges are sent what a stream makes. Counts when its encoder connects next.
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/push",
    params(OfStream),
    request_body = SetPush,
    responses((status = 200, body = PushSet)),
    security(("admin" = [])),
)]
async fn set_push(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    Given(SetPush { push }): Given<SetPush>,
) -> Result<Json<PushSet>, Problem> {
    let id = parse(&id)?;
    app.change_settings(&id, |settings| settings.push = push).await?;
    Ok(Json(PushSet { id, push }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetStandby {
    /// What a second node does for the stream; `null` for what the nodes' configuration says.
    standby: Option<Standby>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StandbyOf)]
struct StandbySet {
    id: StreamId,
    standby: Option<Standby>,
}

/// Sets what a second node does for a stream. Counts when its encoder connects next.
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/standby",
    params(OfStream),
    request_body = SetStandby,
    responses((status = 200, body = StandbySet)),
    security(("admin" = [])),
)]
async fn set_standby(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    Given(SetStandby { standby }): Given<SetStandby>,
) -> Result<Json<StandbySet>, Problem> {
    let id = parse(&id)?;
    app.change_settings(&id, |settings| settings.standby = standby).await?;
    Ok(Json(StandbySet { id, standby }))
}

/// Deletes a stream and its key; recordings stay. Whoever publishes it is disconnected.
#[utoipa::path(
    delete, path = "/api/v1/streams/{id}", operation_id = "delete_stream",
    params(OfStream),
    responses((status = 204)),
    security(("admin" = [])),
)]
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
    fn directory(&self, query: &ListQuery) -> Result<Streams<Value>, Problem> {
        let limit = query.limit()?;
        let after = query.after(|text| {
            let (viewers, id) = text.split_once('.')?;
            Some((Reverse(viewers.parse::<u64>().ok()?), id.to_owned()))
        })?;
        let on = |view: &Value| matches!(view["state"].as_str(), Some("live" | "away"));
        let live = self.shown_streams().into_iter().filter(|(_, view)| on(view));
        let placed = live.map(|(id, mut view)| {
            let viewers = self.watching(&id);
            view["viewers"] = viewers.into();
            ((Reverse(viewers.unwrap_or(0)), id.to_string()), view)
        });
        let mut page: Vec<_> = placed.filter(|(place, _)| after.as_ref().is_none_or(|after| place > after)).collect();
        page.sort_by(|(a, _), (b, _)| a.cmp(b));
        let more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| more).map(|((viewers, id), _)| format!("{}.{id}", viewers.0));
        let streams = page.into_iter().map(|(_, view)| view).collect();
        Ok(Streams { streams, next, rtmp_port: self.rtmp_port })
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
