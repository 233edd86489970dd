//! What streams play: read by crowds, set by their programs.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts, State},
    http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::{parse, unknown},
    asker::Asker,
    content::{self, Content, fresh_text},
    events::{self, Event},
    extract::{Path, Query},
    openapi::OfStream,
    problem::Problem,
    viewer::Viewer,
};
use crate::{
    audience::now::{self, Asked, By, Kept, PATH, Posted, Set, Shown, Told, Unfit, Wish},
    id::{EventId, StreamId},
    time::unix_now,
};

/// Largest request body, bytes: with escapes the longest texts take less.
const BODY_MAX: usize = 32 << 10;
/// What plays is as old as a poll and this, seconds; a cache in between asks no more often.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// Where the stream is played with a ticket no cache in between is to keep it for others.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=1");
/// Changes of one page of the history.
const PAGE: usize = 20;
const PAGE_MAX: usize = 100;
/// A listener to whom nothing was to be told hears that it is still connected.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// One that lost its connection comes back after this, milliseconds.
const RETRY_MS: u32 = 3000;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(show, set, clear))
        .routes(routes!(follow))
        .routes(routes!(history))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// What nodes ask each other.
pub fn internal_routes() -> Router<Arc<App>> {
    Router::new().route(&format!("{PATH}{{stream}}"), get(recent).post(take)).layer(DefaultBodyLimit::max(BODY_MAX))
}

/// The answer to `path`, if that asks what a stream plays, anyone may know it, and it is known: a crowd that polls is answered
/// without a look at more than this.
pub fn kept(app: &App, path: &str, headers: &HeaderMap) -> Option<HttpResponse<Content>> {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let stream = path.strip_prefix("/api/v1/streams/")?.strip_suffix("/now")?;
    if !app.is_public(stream) {
        return None;
    }
    Some(match app.playing.board().kept(stream)? {
        Kept::Shown(shown) => content::json(&shown.text, headers, PUBLIC),
        Kept::Absent => Problem::not_found(format!("there is no stream {stream}")).into(),
        Kept::Unknown => Problem::from(now::Problem::Unavailable).into(),
    })
}

/// Who asks, for what only some may read.
struct Reader {
    viewer: Viewer,
    authorization: Option<String>,
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let authorization = authorization(&parts.headers);
        Ok(Self { viewer: Viewer::from_request_parts(parts, app).await?, authorization })
    }
}

fn authorization(headers: &HeaderMap) -> Option<String> {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

impl Reader {
    /// Whoever may watch may know what plays, as may whoever sets it.
    async fn admit(&self, app: &App, stream: &StreamId) -> Result<(), Problem> {
        match self.viewer.admit(app, stream, app.current(stream).as_ref(), false).await {
            Err(why) if self.authorization.is_some() => {
                app.may_set(stream, self.authorization.as_deref()).await.map_err(|_| why)
            }
            admitted => admitted,
        }
    }
}

impl App {
    /// What a stream plays.
    async fn playing_now(&self, stream: &StreamId) -> Result<Arc<Shown>, Problem> {
        match self.playing.known(stream).await? {
            Kept::Shown(shown) => Ok(shown),
            Kept::Absent | Kept::Unknown => Err(unknown(stream)),
        }
    }

    /// Lets in whoever a stream belongs to, and the programs to which that gave a token.
    async fn may_set(&self, stream: &StreamId, authorization: Option<&str>) -> Result<(), Problem> {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        match token.and_then(|token| self.tickets.person(token, unix_now())) {
            Some(person) if person.bot.as_ref() == Some(stream) => Ok(()),
            Some(_) => Err(Problem::new(StatusCode::FORBIDDEN, "this token is not one of the stream's programs")),
            None => Asker::with(authorization).must_own(self, stream).await,
        }
    }

    /// Changes what a stream plays, here or at a node that has the store.
    async fn change_now(&self, stream: &StreamId, posted: Posted) -> Result<Response, Problem> {
        if self.playing.hands_on() {
            let answer = self.playing.hand_on(stream, &posted).await?;
            let kind = if answer.status.is_success() { "application/json" } else { "application/problem+json" };
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
            return Ok((answer.status, headers, answer.body).into_response());
        }
        if let By::Program(authorization) = &posted.by {
            self.may_set(stream, authorization.as_deref()).await?;
            let is_absent = matches!(self.playing.known(stream).await, Ok(Kept::Absent));
            // Where anyone may publish, what a stream plays may be set before it is live for the first time.
            if is_absent && !self.open {
                return Err(unknown(stream));
            }
        }
        let Set { now, stored } = self.playing.set(stream, posted.wish).await?;
        Ok(fresh_text(format!(r#"{{"now":{},"stored":{stored}}}"#, now.told())))
    }
}

impl From<now::Problem> for Problem {
    fn from(why: now::Problem) -> Self {
        match why {
            now::Problem::Unavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string()).again_in(Duration::from_secs(1))
            }
            now::Problem::TooOften(after) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, why.to_string()).with_code("too_often").again_in(after)
            }
        }
    }
}

impl From<Unfit> for Problem {
    fn from(why: Unfit) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, why.to_string())
    }
}

/// Reads a body, whatever it is called: not every program that tells a title can say what it sends.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.to_string()))
}

/// Tells what a stream plays. Meant to be asked by crowds: caches may keep it for a second, and `If-None-Match` saves the body.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/now", operation_id = "show_now",
    params(OfStream),
    responses((status = 200, body = Told), (status = 304, description = "It is as `If-None-Match` said")),
)]
async fn show(
    State(app): Shared,
    Path(id): Path<String>,
    reader: Reader,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    reader.admit(&app, &stream).await?;
    let shown = app.playing_now(&stream).await?;
    let cache = if app.is_public(stream.as_str()) { PUBLIC } else { PRIVATE };
    Ok(content::json(&shown.text, &headers, cache).map(Body::new))
}

/// What was set.
#[derive(ToSchema)]
#[expect(dead_code, reason = "what plays is kept as a text")]
struct NowSet<'a> {
    now: Told<'a>,
    /// It is in the history too; one that comes too soon after another is not, nor is any while the store does not answer.
    stored: bool,
}

/// Sets what a stream plays.
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/now", operation_id = "set_now",
    params(OfStream),
    request_body = Asked,
    responses((status = 200, body = NowSet)),
    security(("program" = []), ("key" = []), ("admin" = [])),
)]
async fn set(State(app): Shared, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let wish: Wish = read::<Asked>(&body)?.checked(unix_now())?;
    let posted = Posted { wish: Some(wish), by: By::Program(authorization(&headers)) };
    app.change_now(&parse(&id)?, posted).await
}

/// Tells that a stream plays nothing that is known.
#[utoipa::path(
    delete, path = "/api/v1/streams/{id}/now", operation_id = "clear_now",
    params(OfStream),
    responses((status = 200, body = NowSet)),
    security(("program" = []), ("key" = []), ("admin" = [])),
)]
async fn clear(State(app): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let posted = Posted { wish: None, by: By::Program(authorization(&headers)) };
    app.change_now(&parse(&id)?, posted).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Before {
    /// What the page before it gave as `next`: those that are older.
    before: Option<EventId>,
    /// Changes in an answer, 100 at most.
    #[param(minimum = 0, default = 20)]
    limit: Option<usize>,
}

/// A page of what a stream played.
#[derive(ToSchema)]
#[expect(dead_code, reason = "what played is kept as texts")]
struct NowHistory<'a> {
    /// Newest first.
    entries: Vec<Told<'a>>,
    /// What to ask with as `before` for those that are older.
    next: Option<EventId>,
}

/// Tells what a stream played, from the newest back.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/now/history", operation_id = "now_history",
    params(OfStream, Before),
    responses((status = 200, body = NowHistory)),
)]
async fn history(
    State(app): Shared,
    Path(id): Path<String>,
    Query(Before { before, limit }): Query<Before>,
    reader: Reader,
) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    reader.admit(&app, &stream).await?;
    app.must_have_store()?;
    app.playing_now(&stream).await?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let (found, next) = app.playing.history(&*app.meta, &stream, before, limit).await?;
    let entries: Vec<_> = found.iter().map(|now| now.told()).collect();
    Ok(fresh_text(format!(r#"{{"entries":[{}],"next":{}}}"#, entries.join(","), json!(next))))
}

/// Tells what a stream plays, now and as it changes: events named `now` (Server-Sent Events).
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/now/events", operation_id = "now_events",
    params(OfStream),
    responses((status = 200, body = Event, content_type = "text/event-stream")),
)]
async fn follow(State(app): Shared, Path(id): Path<String>, reader: Reader) -> Result<Response, Problem> {
    let stream = parse(&id)?;
    reader.admit(&app, &stream).await?;
    app.playing_now(&stream).await?;
    let full = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "as many listen as may: poll what plays instead");
    let place = app.listeners.clone().try_acquire_owned().map_err(|_| full())?;
    let shown = app.playing.board().follow(&stream);
    let listening = Listening { app, stream, reader, shown, begun: false, _place: place };
    let changes = stream::unfold(listening, |mut listening| async {
        let event = listening.next().await?;
        Some((event, listening))
    });
    Ok(events::told(changes))
}

/// Somebody who is told what plays as it changes.
struct Listening {
    app: Arc<App>,
    stream: StreamId,
    reader: Reader,
    shown: watch::Receiver<Option<Arc<Shown>>>,
    begun: bool,
    _place: OwnedSemaphorePermit,
}

impl Listening {
    /// The next event, or a sign of life; none when the node stops, and when the listener's ticket counts no more. Of changes that
    /// come faster than they are taken the last one is told.
    async fn next(&mut self) -> Option<Bytes> {
        let mut begin = String::new();
        if std::mem::replace(&mut self.begun, true) {
            let stopping = self.app.stopping.clone();
            tokio::select! {
                () = stopping.cancelled() => return None,
                changed = self.shown.changed() => changed.ok()?,
                () = sleep(KEEP_ALIVE) => {
                    self.reader.admit(&self.app, &self.stream).await.ok()?;
                    return Some(Bytes::from_static(b":\n\n"));
                }
            }
            self.reader.admit(&self.app, &self.stream).await.ok()?;
        } else {
            begin = format!("retry: {RETRY_MS}\n");
        }
        let shown = self.shown.borrow_and_update().clone()?;
        let id = if shown.now.id.0 > 0 { format!("id: {}\n", shown.now.id) } else { String::new() };
        // JSON on one line.
        let body = std::str::from_utf8(&shown.text.body).expect("it was made of a text");
        Some(format!("{begin}event: now\n{id}data: {body}\n\n").into())
    }
}

/// What a stream played lately, for a node that has no store.
async fn recent(State(app): Shared, Path(stream): Path<String>) -> Result<Response, Problem> {
    let stream = parse(&stream)?;
    app.playing_now(&stream).await?;
    let recent = app.playing.board().recent(&stream);
    Ok(fresh_text(json!(recent.iter().map(|now| &**now).collect::<Vec<_>>()).to_string()))
}

/// Takes a change that a node hands on.
async fn take(State(app): Shared, Path(stream): Path<String>, body: Bytes) -> Result<Response, Problem> {
    app.change_now(&parse(&stream)?, read(&body)?).await
}
