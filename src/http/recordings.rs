//! The API of recordings: which there are, their titles, clips of them, their end.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::{self, parse},
    asker::{Asker, Role},
    extract::{Given, Path, Query},
    openapi::{OfBroadcast, OfStream},
    problem::Problem,
};
use crate::{
    hooks::{Event, Kind},
    id::{BroadcastId, ClipId, StreamId},
    line::{Keep, State as LiveState},
    package::{self, Extent},
    recording::{JobView, Moment, NewClip, Picture, Refused, Shown},
    store::{self, BroadcastRow, ClipRow, ClipsOf, RenditionRow},
    time::{UnixMs, unix_now},
};

/// Broadcasts and clips listed at once, where nothing is said and at most.
const PAGE: usize = 20;
const PAGE_MAX: usize = 100;
/// Largest request body, bytes.
const BODY_MAX: usize = 64 << 10;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(stream_clips))
        .routes(routes!(access))
        .routes(routes!(show, change, delete))
        .routes(routes!(make_clip, clips))
        .routes(routes!(show_clip, delete_clip))
        .routes(routes!(set_keep))
        .routes(routes!(jobs))
        .routes(routes!(sweep))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// What the page before it gave as `next`: those that are older.
    #[param(pattern = "^[a-z0-9]{1,26}$")]
    before: Option<String>,
    /// Things in an answer; it has 100 at most, whatever is asked.
    #[param(minimum = 0, default = 20)]
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }

    fn before<T: std::str::FromStr<Err = crate::id::Error>>(&self) -> Result<Option<T>, Problem> {
        self.before
            .as_deref()
            .map(|text| text.parse().map_err(|why: crate::id::Error| bad(why.to_string())))
            .transpose()
    }
}

/// A recording as the public sees it; one that is still made, too.
#[derive(Debug, Serialize, ToSchema)]
struct Broadcast {
    id: BroadcastId,
    stream: StreamId,
    /// What its streamer wrote of it; empty where that is nothing.
    title: String,
    note: String,
    state: BroadcastState,
    #[schema(format = DateTime)]
    started: String,
    #[schema(format = DateTime)]
    ended: Option<String>,
    /// What there is of it; nothing where that is not counted yet.
    duration_s: Option<f64>,
    /// Of all renditions; nothing where they are not counted yet.
    bytes: Option<u64>,
    gaps: Option<Gaps>,
    renditions: Vec<api::Rendition>,
    /// Path of its multivariant playlist.
    playlist: String,
    /// Path of its page.
    watch: String,
    /// Path of a picture of it; nothing where there is none.
    poster: Option<String>,
    /// Path of what tells which picture is of which moment; nothing where there are none.
    storyboard: Option<String>,
}

/// What a broadcast does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum BroadcastState {
    Live,
    /// Its encoder is gone and may come back, or another node makes it.
    Away,
    Ended,
}

/// What a recording lacks.
#[derive(Debug, Serialize, ToSchema)]
struct Gaps {
    /// Chunks.
    count: u64,
    /// How long they would last.
    seconds: f64,
}

/// A page of broadcasts, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct BroadcastPage {
    broadcasts: Vec<Broadcast>,
    /// Where the next page begins, where there is one.
    next: Option<BroadcastId>,
}

/// Lists the broadcasts of a stream.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/broadcasts", operation_id = "list_broadcasts",
    params(OfStream, Page),
    responses((status = 200, body = BroadcastPage)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn list(
    State(app): Shared,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    asker: Asker,
) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    let role = asker.may_watch(&app, &stream, asker.only(&app).as_ref()).await?;
    let may_see = asker.may_see(&app, role);
    let (shown, next) = app.library.broadcasts(&stream, page.before()?.as_ref(), page.limit()).await?;
    let broadcasts = shown.iter().filter(|shown| may_see(&shown.row.id)).map(|shown| app.told(shown)).collect();
    Ok(answer(role, &BroadcastPage { broadcasts, next }))
}

/// Shows a broadcast.
#[utoipa::path(
    get, path = "/api/v1/broadcasts/{id}", operation_id = "show_broadcast",
    params(OfBroadcast),
    responses((status = 200, body = Broadcast)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn show(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let row = app.known_broadcast(&id).await?;
    let role = asker.may_watch(&app, &row.stream, Some(&row.id)).await?;
    Ok(answer(role, &app.told(&app.library.broadcast(row).await?)))
}

/// What is not given stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeBroadcast)]
struct Change {
    #[schema(max_length = 200)]
    title: Option<String>,
    #[schema(max_length = 5000)]
    note: Option<String>,
}

/// Changes the title and the note of a broadcast.
#[utoipa::path(
    patch, path = "/api/v1/broadcasts/{id}", operation_id = "change_broadcast",
    params(OfBroadcast),
    request_body = Change,
    responses((status = 200, body = Broadcast)),
    security(("key" = []), ("admin" = [])),
)]
async fn change(
    State(app): Shared,
    Path(id): Path<String>,
    asker: Asker,
    Given(change): Given<Change>,
) -> Result<Json<Broadcast>, Problem> {
    let row = app.known_broadcast(&id).await?;
    asker.must_own(&app, &row.stream).await?;
    app.library.set_about(&row, change.title.as_deref(), change.note.as_deref()).await?;
    Ok(Json(app.told(&app.library.broadcast(row).await?)))
}

/// Work that goes on in the background.
#[derive(Debug, Serialize, ToSchema)]
struct JobStarted {
    /// The id of the job.
    job: String,
}

/// Deletes a recording, but for its clips.
#[utoipa::path(
    delete, path = "/api/v1/broadcasts/{id}", operation_id = "delete_broadcast",
    params(OfBroadcast),
    responses((status = 202, body = JobStarted)),
    security(("key" = []), ("admin" = [])),
)]
async fn delete(
    State(app): Shared,
    Path(id): Path<String>,
    asker: Asker,
) -> Result<(StatusCode, Json<JobStarted>), Problem> {
    let row = app.known_broadcast(&id).await?;
    asker.must_own(&app, &row.stream).await?;
    let job = app.jobs.delete(row).await?;
    app.reload_access().await?;
    Ok((StatusCode::ACCEPTED, Json(JobStarted { job })))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetKeep {
    /// `forever`, a time such as `30d`, `0` for nothing; `null`: as the node's configuration says.
    keep: Option<Keep>,
}

#[derive(Debug, Serialize, ToSchema)]
struct KeepOf {
    id: StreamId,
    keep: Option<Keep>,
}

/// Sets how long recordings of a stream are kept, those that are there too.
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/keep",
    params(OfStream),
    request_body = SetKeep,
    responses((status = 200, body = KeepOf)),
    security(("admin" = [])),
)]
async fn set_keep(
    _: api::Admin,
    State(app): Shared,
    Path(id): Path<String>,
    Given(SetKeep { keep }): Given<SetKeep>,
) -> Result<Json<KeepOf>, Problem> {
    let id = parse(&id)?;
    app.change_settings(&id, |settings| settings.keep = keep).await?;
    Ok(Json(KeepOf { id, keep }))
}

/// Work in the background, that of the last day too, and the files that this node makes and sends.
#[derive(Debug, Serialize, ToSchema)]
struct Jobs {
    /// Oldest first.
    jobs: Vec<JobView>,
}

/// Lists what is done in the background.
#[utoipa::path(
    get, path = "/api/v1/jobs",
    responses((status = 200, body = Jobs)),
    security(("admin" = [])),
)]
async fn jobs(_: api::Admin, State(app): Shared) -> Result<Response, Problem> {
    let jobs = app.jobs.all().await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(Jobs { jobs })).into_response())
}

/// Compares bytes with rows, and removes bytes that no row names.
#[utoipa::path(
    post, path = "/api/v1/jobs/sweep",
    responses((status = 202, body = JobStarted)),
    security(("admin" = [])),
)]
async fn sweep(_: api::Admin, State(app): Shared) -> Result<(StatusCode, Json<JobStarted>), Problem> {
    let job = app.jobs.sweep().await?;
    Ok((StatusCode::ACCEPTED, Json(JobStarted { job })))
}

/// A clip as it is wished.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewClip)]
struct MakeClip {
    from: Time,
    /// Brought to the end of what is recorded where it lies after that.
    to: Time,
    #[serde(default)]
    #[schema(max_length = 200)]
    title: String,
}

/// Seconds from the broadcast's start, or a time of the wall clock (RFC 3339).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    Wall(String),
}

impl ToSchema for Time {
    fn name() -> Cow<'static, str> {
        "ClipEnd".into()
    }
}

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let seconds = ObjectBuilder::new()
            .schema_type(Type::Number)
            .description(Some("Seconds from the start of the broadcast"))
            .minimum(Some(0))
            .exclusive_maximum(Some(1e9));
        let wall = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A time of the wall clock (RFC 3339), in UTC and with milliseconds"))
            .pattern(Some("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$"))
            .examples(["2026-01-01T12:00:00.000Z"]);
        OneOfBuilder::new().description(Some("One end of a clip")).item(seconds).item(wall).into()
    }
}

impl Time {
    fn moment(&self) -> Result<Moment, Problem> {
        match self {
            Time::Seconds(seconds) if (0.0..1e9).contains(seconds) => Ok(Moment::At((seconds * 1000.0).round() as u64)),
            Time::Seconds(_) => Err(bad("from and to are seconds from the start of the broadcast, not below zero")),
            Time::Wall(text) => UnixMs::parse(text).map(Moment::Wall).ok_or_else(|| {
                bad("from and to are seconds from the start of the broadcast, or times such as 2026-01-01T12:00:00.000Z")
            }),
        }
    }
}

/// A part of a broadcast that was given a name, as the public sees it.
#[derive(Debug, Serialize, ToSchema)]
struct Clip {
    id: ClipId,
    stream: StreamId,
    broadcast: BroadcastId,
    title: String,
    /// Where it begins, in seconds from the start of the broadcast.
    from: f64,
    /// Where it ends.
    to: f64,
    duration_s: f64,
    #[schema(format = DateTime)]
    created: String,
    /// Path of its playlist.
    playlist: String,
    /// Path of it as one file.
    download: String,
    /// Path of its page.
    watch: String,
}

/// A page of clips, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct ClipPage {
    clips: Vec<Clip>,
    /// Where the next page begins, where there may be one.
    next: Option<ClipId>,
}

/// Makes a clip of a broadcast. Viewers may where the node is configured so.
#[utoipa::path(
    post, path = "/api/v1/broadcasts/{id}/clips",
    params(OfBroadcast),
    request_body = MakeClip,
    responses((status = 201, body = Clip)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn make_clip(
    State(app): Shared,
    Path(id): Path<String>,
    asker: Asker,
    Given(MakeClip { from, to, title }): Given<MakeClip>,
) -> Result<(StatusCode, Json<Clip>), Problem> {
    let row = app.known_broadcast(&id).await?;
    match app.viewers_clip {
        true => _ = asker.may_watch(&app, &row.stream, Some(&row.id)).await?,
        false => asker.must_own(&app, &row.stream).await?,
    }
    let clip = app.library.make_clip(&row, NewClip { from: from.moment()?, to: to.moment()?, title }).await?;
    let told = told_clip(&clip);
    let event = Event::of(Kind::ClipCreated, unix_now(), clip.stream, clip.broadcast).detailed(clip.id.as_str());
    app.hooks.tell(event.with("clip", serde_json::to_value(&told).expect("plain data")));
    Ok((StatusCode::CREATED, Json(told)))
}

/// Lists the clips of a broadcast.
#[utoipa::path(
    get, path = "/api/v1/broadcasts/{id}/clips", operation_id = "list_clips",
    params(OfBroadcast, Page),
    responses((status = 200, body = ClipPage)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn clips(
    State(app): Shared,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    asker: Asker,
) -> Result<Response, Problem> {
    let row = app.known_broadcast(&id).await?;
    let role = asker.may_watch(&app, &row.stream, Some(&row.id)).await?;
    app.told_clips(&ClipsOf::Broadcast(row.id), &page, &asker, role).await
}

/// Lists the clips of a stream.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/clips", operation_id = "list_stream_clips",
    params(OfStream, Page),
    responses((status = 200, body = ClipPage)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn stream_clips(
    State(app): Shared,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    asker: Asker,
) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    let role = asker.may_watch(&app, &stream, asker.only(&app).as_ref()).await?;
    app.told_clips(&ClipsOf::Stream(stream), &page, &asker, role).await
}

/// Shows a clip.
#[utoipa::path(
    get, path = "/api/v1/clips/{id}",
    params(("id" = ClipId, Path, description = "Id of the clip")),
    responses((status = 200, body = Clip)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn show_clip(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let clip = app.known_clip(&id).await?;
    let role = asker.may_watch(&app, &clip.stream, Some(&clip.broadcast)).await?;
    Ok(answer(role, &told_clip(&clip)))
}

/// Deletes a clip.
#[utoipa::path(
    delete, path = "/api/v1/clips/{id}",
    params(("id" = ClipId, Path, description = "Id of the clip")),
    responses((status = 204)),
    security(("key" = []), ("admin" = [])),
)]
async fn delete_clip(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<StatusCode, Problem> {
    let clip = app.known_clip(&id).await?;
    asker.must_own(&app, &clip.stream).await?;
    app.library.delete_clip(&clip).await?;
    if matches!(app.library.row(&clip.broadcast).await, Err(Refused::Deleted)) {
        app.jobs.delete_again(&clip.stream, &clip.broadcast).await?;
        app.reload_access().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Who asks, and what that allows.
#[derive(Debug, Serialize, ToSchema)]
struct Access {
    role: Role,
    /// Whether they may make clips.
    may_clip: bool,
}

/// Tells who asks, and what that allows.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/access",
    params(OfStream),
    responses((status = 200, body = Access)),
    security((), ("key" = []), ("admin" = [])),
)]
async fn access(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let role = asker.role(&app, &parse(&id)?).await?;
    let told = Access { role, may_clip: app.viewers_clip || role >= Role::Owner };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response())
}

/// An answer that caches may share, unless it was given for a key.
pub(super) fn answer(role: Role, value: &impl Serialize) -> Response {
    match role {
        Role::Viewer => api::public(value),
        Role::Owner | Role::Admin => ([(header::CACHE_CONTROL, "private, no-store")], Json(value)).into_response(),
    }
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, why)
}

impl App {
    pub(super) async fn known_broadcast(&self, id: &str) -> Result<BroadcastRow, Problem> {
        let id = id.parse().map_err(|_| Refused::Unknown)?;
        Ok(self.library.row(&id).await?)
    }

    async fn known_clip(&self, id: &str) -> Result<ClipRow, Problem> {
        let unknown = || Problem::not_found("there is no such clip");
        let id: ClipId = id.parse().map_err(|_| unknown())?;
        self.library.clip(&id).await.map_err(|why| match why {
            store::Error::NotFound => unknown(),
            other => other.into(),
        })
    }

    async fn told_clips(&self, of: &ClipsOf, page: &Page, asker: &Asker, role: Role) -> Result<Response, Problem> {
        let may_see = asker.may_see(self, role);
        let (clips, next) = self.library.clips(of, page.before()?.as_ref(), page.limit()).await?;
        let clips = clips.iter().filter(|clip| may_see(&clip.broadcast)).map(told_clip).collect();
        Ok(answer(role, &ClipPage { clips, next }))
    }

    /// Where a picture of a broadcast is; nothing where it has none, or no pictures are made here.
    pub(super) fn picture_url(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        rows: &[RenditionRow],
        picture: Picture,
    ) -> Option<String> {
        let has_pictures = self.pictures.is_some() && rows.iter().any(|row| row.width > 0);
        has_pictures.then(|| format!("/hls/{stream}/{broadcast}/{picture}"))
    }

    /// A broadcast as the public sees it.
    fn told(&self, shown: &Shown) -> Broadcast {
        let Shown { row, about, summary } = shown;
        let live = self.lines.live(&row.stream).filter(|live| live.broadcast == row.id);
        let state = match live.map(|live| live.state) {
            Some(LiveState::Live) => BroadcastState::Live,
            Some(LiveState::Away) => BroadcastState::Away,
            Some(LiveState::Ended) => BroadcastState::Ended,
            // It runs on another node, or waits for one.
            None if row.ended.is_none() => BroadcastState::Away,
            None => BroadcastState::Ended,
        };
        let gaps = summary.map(|summary| Gaps { count: summary.gaps, seconds: seconds(summary.gaps_ms) });
        Broadcast {
            id: row.id.clone(),
            stream: row.stream.clone(),
            title: about.title.clone(),
            note: about.note.clone(),
            state,
            started: row.started.to_string(),
            ended: row.ended.map(|ended| ended.to_string()),
            duration_s: summary.map(|summary| seconds(summary.duration_ms)),
            bytes: summary.map(|summary| summary.bytes),
            gaps,
            renditions: row.renditions.iter().map(api::Rendition::from).collect(),
            playlist: format!("/hls/{}/{}/index.m3u8", row.stream, row.id),
            watch: format!("/watch/{}/{}", row.stream, row.id),
            poster: self.picture_url(&row.stream, &row.id, &row.renditions, Picture::Poster),
            storyboard: self.picture_url(&row.stream, &row.id, &row.renditions, Picture::Storyboard),
        }
    }
}

/// A clip as the public sees it.
fn told_clip(clip: &ClipRow) -> Clip {
    let ClipRow { id, stream, broadcast, title, created, from_ms, to_ms, .. } = clip.clone();
    let query = Extent::Clip(package::Clip { from_ms, to_ms });
    Clip {
        title,
        from: seconds(from_ms),
        to: seconds(to_ms),
        duration_s: seconds(to_ms - from_ms),
        created: created.to_string(),
        playlist: format!("/hls/{stream}/{broadcast}/clip.m3u8{query}"),
        download: format!("/hls/{stream}/{broadcast}/clip.mp4{query}"),
        watch: format!("/watch/{stream}/{broadcast}?clip={id}"),
        id,
        stream,
        broadcast,
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

impl From<Refused> for Problem {
    fn from(why: Refused) -> Self {
        let status = match why {
            Refused::Store(why) => return why.into(),
            Refused::Unknown | Refused::Nothing => StatusCode::NOT_FOUND,
            Refused::Deleted => StatusCode::GONE,
            Refused::Live | Refused::TooManyClips => StatusCode::CONFLICT,
            Refused::Outside { .. } | Refused::BadClip(_) | Refused::TooLong { .. } => StatusCode::BAD_REQUEST,
            Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
            Refused::NoTime => StatusCode::SERVICE_UNAVAILABLE,
            Refused::NoPicture(_) => StatusCode::NOT_FOUND,
        };
        Self::new(status, why.to_string())
    }
}
