//! The API of recordings: which there are, their titles, clips of them, their end.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State, rejection::JsonRejection},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    App, Shared,
    api::{self, parse},
    problem::Problem,
    viewer::{Peer, Viewer},
};
use crate::{
    auth::{self, Secret, keys::PublishKey},
    hooks::{Event, Kind},
    id::{BroadcastId, ClipId, StreamId},
    line::{Keep, State as LiveState},
    package::{Clip, Extent},
    recording::{Moment, NewClip, Picture, Refused, Shown},
    store::{self, BroadcastRow, ClipRow, ClipsOf, RenditionRow},
    time::{UnixMs, unix_now},
};

/// Broadcasts and clips listed at once, where nothing is said and at most.
const PAGE: usize = 20;
const PAGE_MAX: usize = 100;
/// Largest request body, bytes.
const BODY_MAX: usize = 64 << 10;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/streams/{id}/broadcasts", get(list))
        .route("/api/v1/streams/{id}/clips", get(stream_clips))
        .route("/api/v1/streams/{id}/access", get(access))
        .route("/api/v1/broadcasts/{id}", get(show).patch(change).delete(delete))
        .route("/api/v1/broadcasts/{id}/clips", post(make_clip).get(clips))
        .route("/api/v1/clips/{id}", get(show_clip).delete(delete_clip))
        .route("/api/v1/streams/{id}/keep", put(set_keep))
        .route("/api/v1/jobs", get(jobs))
        .route("/api/v1/jobs/sweep", post(sweep))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// Who asks, as the header `Authorization` proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Viewer,
    /// Has the stream's key.
    Owner,
    Admin,
}

/// A request's proof of who asks, before it is known for which stream.
pub(super) struct Asker {
    viewer: Viewer,
    given: Option<String>,
}

impl FromRequestParts<Arc<App>> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.map(str::to_owned);
        Ok(Self { viewer: Viewer::from_request_parts(parts, app).await?, given })
    }
}

impl Asker {
    /// Whoever shows this, the value of an `Authorization`, to whichever node.
    pub(super) fn with(given: Option<&str>) -> Self {
        Self { viewer: Viewer::new(None, Peer::Public(IpAddr::from([0, 0, 0, 0]))), given: given.map(str::to_owned) }
    }

    /// Who asks, for this stream. A key or token that is given must be right.
    async fn role(&self, app: &App, stream: &StreamId) -> Result<Role, Problem> {
        let Some(given) = &self.given else { return Ok(Role::Viewer) };
        if auth::admin::verify(&app.admin, Some(given)) {
            return Ok(Role::Admin);
        }
        // The key as it stands in OBS, or the secret alone.
        let text = given.strip_prefix("Bearer ").unwrap_or_default();
        let key = PublishKey::parse(text).key.unwrap_or_else(|| Secret::new(text.trim()));
        let is_owner = match app.meta.stream(stream).await? {
            Some(row) => auth::keys::verify(&row.key_hash, &key),
            None => auth::keys::verify_absent(&key),
        };
        let wrong = || Problem::new(StatusCode::UNAUTHORIZED, "this is neither the stream's key nor the admin token");
        is_owner.then_some(Role::Owner).ok_or_else(wrong)
    }

    /// The same, whose header proves something else.
    pub(super) fn without_key(self) -> Self {
        Self { given: None, ..self }
    }

    /// Where the request came from.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.viewer.address()
    }

    /// Whether the asker holds a ticket for this stream.
    pub(super) fn holds_ticket(&self, app: &App, stream: &StreamId) -> bool {
        self.viewer.holds_ticket(app, stream)
    }

    /// Lets in who may watch.
    pub(super) async fn may_watch(
        &self,
        app: &App,
        stream: &StreamId,
        broadcast: Option<&BroadcastId>,
    ) -> Result<Role, Problem> {
        let role = self.role(app, stream).await?;
        if role == Role::Viewer {
            self.viewer.admit(app, stream, broadcast, false).await?;
        }
        Ok(role)
    }

    /// Leaves out what the asker's ticket is not for.
    fn may_see(&self, app: &App, role: Role) -> impl Fn(&BroadcastId) -> bool + use<> {
        let only = if role == Role::Viewer { self.viewer.only(app) } else { None };
        move |broadcast| only.as_ref().is_none_or(|only| only == broadcast)
    }

    /// Lets in whoever the stream belongs to.
    pub(super) async fn must_own(&self, app: &App, stream: &StreamId) -> Result<(), Problem> {
        match self.role(app, stream).await? {
            Role::Viewer => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "this needs the stream's key or the admin token (Authorization: Bearer ...)",
            )),
            Role::Owner | Role::Admin => Ok(()),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    before: Option<String>,
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

async fn list(
    State(app): Shared,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    asker: Asker,
) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    let role = asker.may_watch(&app, &stream, asker.viewer.only(&app).as_ref()).await?;
    let may_see = asker.may_see(&app, role);
    let (shown, next) = app.library.broadcasts(&stream, page.before()?.as_ref(), page.limit()).await?;
    let broadcasts = shown.iter().filter(|shown| may_see(&shown.row.id)).map(|shown| app.told(shown));
    Ok(answer(role, &json!({ "broadcasts": broadcasts.collect::<Vec<_>>(), "next": next })))
}

async fn show(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let row = app.known_broadcast(&id).await?;
    let role = asker.may_watch(&app, &row.stream, Some(&row.id)).await?;
    Ok(answer(role, &app.told(&app.library.broadcast(row).await?)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    title: Option<String>,
    note: Option<String>,
}

async fn change(
    State(app): Shared,
    Path(id): Path<String>,
    asker: Asker,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Response, Problem> {
    let row = app.known_broadcast(&id).await?;
    asker.must_own(&app, &row.stream).await?;
    let Json(change) = body.map_err(|why| bad(why.body_text()))?;
    app.library.set_about(&row, change.title.as_deref(), change.note.as_deref()).await?;
    Ok(Json(app.told(&app.library.broadcast(row).await?)).into_response())
}

/// Deletes a recording, but for its clips.
async fn delete(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let row = app.known_broadcast(&id).await?;
    asker.must_own(&app, &row.stream).await?;
    let job = app.jobs.delete(row).await?;
    app.reload_access().await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job": job }))).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetKeep {
    /// `forever`, a time such as `30d`, `0` for nothing; `null`: as the node's configuration says.
    keep: Option<Keep>,
}

/// How long recordings of a stream are kept, those that are there too.
async fn set_keep(
    _: api::Admin,
    State(app): Shared,
    Path(id): Path<String>,
    body: Result<Json<SetKeep>, JsonRejection>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let Json(SetKeep { keep }) = body.map_err(|why| bad(why.body_text()))?;
    app.change_settings(&id, |settings| settings.keep = keep).await?;
    Ok(Json(json!({ "id": id, "keep": keep })).into_response())
}

async fn jobs(_: api::Admin, State(app): Shared) -> Result<Response, Problem> {
    let jobs = app.jobs.all().await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(json!({ "jobs": jobs }))).into_response())
}

/// Compares bytes with rows, and removes bytes that no row names.
async fn sweep(_: api::Admin, State(app): Shared) -> Result<Response, Problem> {
    let job = app.jobs.sweep().await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job": job }))).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MakeClip {
    from: Time,
    to: Time,
    #[serde(default)]
    title: String,
}

/// Seconds from the broadcast's start, or a time of the wall clock (RFC 3339).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    Wall(String),
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

async fn make_clip(
    State(app): Shared,
    Path(id): Path<String>,
    asker: Asker,
    body: Result<Json<MakeClip>, JsonRejection>,
) -> Result<Response, Problem> {
    let row = app.known_broadcast(&id).await?;
    match app.viewers_clip {
        true => _ = asker.may_watch(&app, &row.stream, Some(&row.id)).await?,
        false => asker.must_own(&app, &row.stream).await?,
    }
    let Json(MakeClip { from, to, title }) = body.map_err(|why| bad(why.body_text()))?;
    let clip = app.library.make_clip(&row, NewClip { from: from.moment()?, to: to.moment()?, title }).await?;
    let told = told_clip(&clip);
    let event = Event::of(Kind::ClipCreated, unix_now(), clip.stream, clip.broadcast).detailed(clip.id.as_str());
    app.hooks.tell(event.with("clip", told.clone()));
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

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

async fn stream_clips(
    State(app): Shared,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    asker: Asker,
) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    let role = asker.may_watch(&app, &stream, asker.viewer.only(&app).as_ref()).await?;
    app.told_clips(&ClipsOf::Stream(stream), &page, &asker, role).await
}

async fn show_clip(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let clip = app.known_clip(&id).await?;
    let role = asker.may_watch(&app, &clip.stream, Some(&clip.broadcast)).await?;
    Ok(answer(role, &told_clip(&clip)))
}

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
async fn access(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let role = asker.role(&app, &parse(&id)?).await?;
    let told = json!({ "role": role, "may_clip": app.viewers_clip || role >= Role::Owner });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response())
}

/// An answer that caches may share, unless it was given for a key.
pub(super) fn answer(role: Role, value: &Value) -> Response {
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
        let clips: Vec<_> = clips.iter().filter(|clip| may_see(&clip.broadcast)).map(told_clip).collect();
        Ok(answer(role, &json!({ "clips": clips, "next": next })))
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
    fn told(&self, shown: &Shown) -> Value {
        let Shown { row, about, summary } = shown;
        let live = self.lines.live(&row.stream).filter(|live| live.broadcast == row.id);
        let state = match live.map(|live| live.state) {
            Some(LiveState::Live) => "live",
            Some(LiveState::Away) => "away",
            Some(LiveState::Ended) => "ended",
            // It runs on another node, or waits for one.
            None if row.ended.is_none() => "away",
            None => "ended",
        };
        let renditions: Vec<_> = row.renditions.iter().map(api::Rendition::from).collect();
        json!({
            "id": row.id,
            "stream": row.stream,
            "title": about.title,
            "note": about.note,
            "state": state,
            "started": row.started.to_string(),
            "ended": row.ended.map(|ended| ended.to_string()),
            "duration_s": summary.map(|summary| seconds(summary.duration_ms)),
            "bytes": summary.map(|summary| summary.bytes),
            "gaps": summary.map(|summary| json!({ "count": summary.gaps, "seconds": seconds(summary.gaps_ms) })),
            "renditions": renditions,
            "playlist": format!("/hls/{}/{}/index.m3u8", row.stream, row.id),
            "watch": format!("/watch/{}/{}", row.stream, row.id),
            "poster": self.picture_url(&row.stream, &row.id, &row.renditions, Picture::Poster),
            "storyboard": self.picture_url(&row.stream, &row.id, &row.renditions, Picture::Storyboard),
        })
    }
}

/// A clip as the public sees it.
fn told_clip(clip: &ClipRow) -> Value {
    let ClipRow { id, stream, broadcast, title, created, from_ms, to_ms, .. } = clip;
    let query = Extent::Clip(Clip { from_ms: *from_ms, to_ms: *to_ms });
    json!({
        "id": id,
        "stream": stream,
        "broadcast": broadcast,
        "title": title,
        "from": seconds(*from_ms),
        "to": seconds(*to_ms),
        "duration_s": seconds(to_ms - from_ms),
        "created": created.to_string(),
        "playlist": format!("/hls/{stream}/{broadcast}/clip.m3u8{query}"),
        "download": format!("/hls/{stream}/{broadcast}/clip.mp4{query}"),
        "watch": format!("/watch/{stream}/{broadcast}?clip={id}"),
    })
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
