//! The API of audiences: how many watch now and did before, for whoever the stream belongs to; and what nodes tell each other of it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::{StreamState, Warning, parse, unknown},
    asker::Asker,
    content::{Fresh, fresh},
    events::{self, Event},
    extract::{Given, Path, Query},
    openapi::{OfBroadcast, OfStream},
    problem::Problem,
    reports,
};
use crate::{
    audience::{
        Crowd, HOUR_MS, MINUTE_MS, Subject,
        history::{self, Current, POINTS_MAX, Point, Scale, Total},
        share::{self, Taken, Told},
        tell::PATH,
    },
    id::{BroadcastId, StreamId},
    store::{AudienceRow, AudienceSpan, BroadcastRow},
    time::{UnixMs, now, unix_now},
};

/// Rows that one answer is made of at most: two days of a broadcast that 17 nodes counted.
const ROWS_MAX: usize = 50_000;
/// What is shown where nothing else is asked for.
const LATELY_MS: i64 = 30 * MINUTE_MS;
/// The longest time that can be asked for.
const LONGEST_MS: i64 = 400 * 24 * HOUR_MS;
/// How often whoever looks on is told.
const EVERY: Duration = Duration::from_secs(2);
/// Where a node tells another how an encoder does, and the longest such answer.
const INGEST: &str = "/internal/v1/ingest/";
const INGEST_MAX: usize = 64 << 10;
/// Longest name of a mark, letters; and marks in one answer.
const LABEL_MAX: usize = 100;
const MARKS_MAX: usize = 500;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    let mut routes = OpenApiRouter::new()
        .routes(routes!(of_stream))
        .routes(routes!(follow))
        .routes(routes!(ingest))
        .routes(routes!(mark))
        .routes(routes!(of_broadcast))
        .routes(routes!(table))
        .layer(DefaultBodyLimit::max(4 << 10));
    // Reports are taken before they come to the router.
    routes.get_openapi_mut().merge(reports::document());
    routes
}

pub fn internal_routes() -> Router<Arc<App>> {
    Router::new()
        .route(PATH, post(take))
        .route(&format!("{INGEST}{{id}}"), get(own_ingest))
        .layer(DefaultBodyLimit::max(share::BYTES_MAX))
}

/// Takes what another node tells.
async fn take(State(app): Shared, body: Bytes) -> Result<Json<Taken>, Problem> {
    let told: Told =
        serde_json::from_slice(&body).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why.to_string()))?;
    app.viewers.audience.take(now(), &told);
    app.counted.add(told.rows);
    Ok(Json(Taken { process: app.viewers.audience.process().to_owned() }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Range {
    /// Begin of the series: RFC 3339, or ms since 1970.
    #[param(pattern = "^([0-9]{1,12}|20[0-9]{2}-0[1-9]-[0-2][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z)$")]
    from: Option<String>,
    /// Its end, at most 400 days later.
    #[param(pattern = "^([0-9]{1,12}|20[0-9]{2}-0[1-9]-[0-2][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z)$")]
    to: Option<String>,
    /// Points in the series at most.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    points: Option<usize>,
}

fn moment(text: &str) -> Result<UnixMs, Problem> {
    let wrong = || {
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("{text:?} is no time: 2026-01-31T12:00:00.000Z, or ms since 1970"),
        )
    };
    match text.parse::<i64>() {
        Ok(ms) if (0..=253_402_300_799_999).contains(&ms) => Ok(UnixMs(ms)),
        Ok(_) => Err(wrong()),
        Err(_) => UnixMs::parse_rfc3339(text).ok_or_else(wrong),
    }
}

impl Range {
    fn scale(&self, from: UnixMs, to: UnixMs) -> Result<Scale, Problem> {
        let from = self.from.as_deref().map_or(Ok(from), moment)?;
        let to = self.to.as_deref().map_or(Ok(to.max(from)), moment)?;
        if to < from || to.0 - from.0 > LONGEST_MS {
            let words = "the time asked for ends before it begins, or is longer than 400 days";
            return Err(Problem::new(StatusCode::BAD_REQUEST, words));
        }
        match self.points.unwrap_or(POINTS_MAX) {
            points @ 1..=POINTS_MAX => Ok(Scale::of(from, to, points)),
            _ => Err(Problem::new(StatusCode::BAD_REQUEST, format!("points: 1 to {POINTS_MAX}"))),
        }
    }
}

/// A moment that somebody marked.
#[derive(Debug, Serialize, ToSchema)]
struct Mark {
    #[schema(format = DateTime)]
    at: String,
    label: String,
}

/// Who watches a stream.
#[derive(Serialize, ToSchema)]
#[schema(as = StreamAudience)]
struct OfStreamNow {
    stream: StreamId,
    /// What it shows now.
    broadcast: Option<BroadcastId>,
    now: Current,
    /// Of that broadcast so far.
    total: Option<Total>,
    /// Seconds of a point of the series.
    step_s: i64,
    series: Vec<Point>,
    marks: Vec<Mark>,
}

/// Tells who watches a stream: now, in its running broadcast, and lately (or between `from` and `to`).
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/audience", operation_id = "stream_audience",
    params(OfStream, Range),
    responses((status = 200, body = OfStreamNow)),
    security(("key" = []), ("admin" = [])),
)]
async fn of_stream(
    State(app): Shared,
    Path(id): Path<String>,
    Query(range): Query<Range>,
    asker: Asker,
) -> Result<Fresh<OfStreamNow>, Problem> {
    let stream = app.owned(&id, &asker).await?;
    let at = unix_now();
    let scale = range.scale(UnixMs(at.0 - LATELY_MS), at)?;
    let broadcast = app.current_live(&stream);
    let total = match &broadcast {
        Some(broadcast) => {
            let started = app.meta.broadcast(&stream, broadcast).await?.map_or(broadcast.made(), |row| row.started);
            app.total(&stream, broadcast, at.0 - started.0).await?.0
        }
        None => None,
    };
    let (series, marks) = app.series(&stream, &scale, None).await?;
    let (now, step_s) = (app.now_watching(&stream), scale.step_ms / 1000);
    Ok(fresh(OfStreamNow { stream, broadcast, now, total, step_s, series, marks }))
}

/// Who watches, and watched, a broadcast.
#[derive(Serialize, ToSchema)]
#[schema(as = BroadcastAudience)]
struct OfBroadcastSoFar {
    stream: StreamId,
    broadcast: BroadcastId,
    #[schema(format = DateTime)]
    started: String,
    #[schema(format = DateTime)]
    ended: Option<String>,
    /// While it runs.
    now: Option<Current>,
    /// Of those who watched it live, and of those who watched the recording.
    total: Option<Total>,
    recorded: Option<Total>,
    /// Seconds of a point of the series.
    step_s: i64,
    series: Vec<Point>,
    marks: Vec<Mark>,
}

/// Tells who watches, and watched, a broadcast that runs or is over.
#[utoipa::path(
    get, path = "/api/v1/broadcasts/{id}/audience", operation_id = "broadcast_audience",
    params(OfBroadcast, Range),
    responses((status = 200, body = OfBroadcastSoFar)),
    security(("key" = []), ("admin" = [])),
)]
async fn of_broadcast(
    State(app): Shared,
    Path(id): Path<String>,
    Query(range): Query<Range>,
    asker: Asker,
) -> Result<Fresh<OfBroadcastSoFar>, Problem> {
    let (row, scale) = app.owned_broadcast(&id, &range, &asker).await?;
    let lasted_ms = row.ended.unwrap_or_else(unix_now).0 - row.started.0;
    let (total, recorded) = app.total(&row.stream, &row.id, lasted_ms).await?;
    let (series, marks) = app.series(&row.stream, &scale, Some(&row.id)).await?;
    Ok(fresh(OfBroadcastSoFar {
        started: row.started.to_string(),
        ended: row.ended.map(|at| at.to_string()),
        now: row.ended.is_none().then(|| app.now_watching(&row.stream)),
        stream: row.stream,
        broadcast: row.id,
        total,
        recorded,
        step_s: scale.step_ms / 1000,
        series,
        marks,
    }))
}

/// Tells the series of a broadcast's viewers as a table.
#[utoipa::path(
    get, path = "/api/v1/broadcasts/{id}/audience.csv", operation_id = "broadcast_audience_table",
    params(OfBroadcast, Range),
    responses((status = 200, body = String, content_type = "text/csv")),
    security(("key" = []), ("admin" = [])),
)]
async fn table(
    State(app): Shared,
    Path(id): Path<String>,
    Query(range): Query<Range>,
    asker: Asker,
) -> Result<Response, Problem> {
    let (row, scale) = app.owned_broadcast(&id, &range, &asker).await?;
    let (series, _) = app.series(&row.stream, &scale, Some(&row.id)).await?;
    let name = format!("attachment; filename=\"{}-{}.csv\"", row.stream, row.id);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, history::csv(&series)).into_response())
}

/// Tells who watches a stream, every two seconds: events named `now` (Server-Sent Events).
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/audience/events", operation_id = "audience_events",
    params(OfStream),
    responses((status = 200, body = Event, content_type = "text/event-stream")),
    security(("key" = []), ("admin" = [])),
)]
async fn follow(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let stream = app.owned(&id, &asker).await?;
    let full = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "as many listen as may: ask for the numbers instead");
    let place = app.listeners.clone().try_acquire_owned().map_err(|_| full())?;
    let stopping = app.stopping.clone();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let lines = futures::stream::unfold((app, stream, ticks, place), |(app, stream, mut ticks, place)| async {
        ticks.tick().await;
        let now = serde_json::to_string(&app.now_watching(&stream)).expect("plain data");
        Some((format!("event: now\ndata: {now}\n\n"), (app, stream, ticks, place)))
    });
    Ok(events::told(futures::StreamExt::take_until(lines, async move { stopping.cancelled().await })))
}

/// How an encoder does: as the node measures it that makes the stream.
#[derive(Serialize, ToSchema)]
struct Ingest {
    state: StreamState,
    /// The node that it sends to.
    gateway: Option<String>,
    #[schema(format = DateTime)]
    since: Option<String>,
    #[serde(flatten)]
    measured: Measured,
    warnings: Vec<Warning>,
    /// Lately, oldest first.
    history: Vec<IngestPast>,
}

#[derive(Default, Serialize, ToSchema)]
#[schema(as = IngestMeasured)]
struct Measured {
    /// Of picture and sound together, and of sound alone.
    kbps: Option<u64>,
    audio_kbps: Option<u64>,
    fps: Option<f64>,
    /// Seconds between the last two keyframes.
    keyframe_s: Option<f64>,
    width: Option<u32>,
    height: Option<u32>,
    /// Codecs (RFC 6381).
    video: Option<String>,
    audio: Option<String>,
    /// Pictures that did not come.
    dropped: u64,
    /// How much later packets come than the first one did, by their own times.
    behind_ms: Option<u64>,
}

#[derive(Serialize, ToSchema)]
struct IngestPast {
    #[schema(format = DateTime)]
    at: String,
    kbps: u64,
    fps: f64,
}

impl Ingest {
    /// Of a stream whose encoder is not here.
    fn none() -> Self {
        let (measured, warnings, history) = (Measured::default(), Vec::new(), Vec::new());
        Self { state: StreamState::Offline, gateway: None, since: None, measured, warnings, history }
    }
}

/// Tells how the encoder of a stream does.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/ingest", operation_id = "stream_ingest",
    params(OfStream),
    responses((status = 200, body = Ingest)),
    security(("key" = []), ("admin" = [])),
)]
async fn ingest(State(app): Shared, Path(id): Path<String>, asker: Asker) -> Result<Response, Problem> {
    let stream = app.owned(&id, &asker).await?;
    if let Some(told) = app.own_ingest(&stream) {
        return Ok(fresh(told).into_response());
    }
    let told = match &app.links {
        Some(links) => links.ask(&stream, &format!("{INGEST}{stream}"), INGEST_MAX).await,
        None => None,
    };
    let told = told.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    Ok(told.map_or_else(|| fresh(Ingest::none()).into_response(), |told| fresh(told).into_response()))
}

/// The same for another node.
async fn own_ingest(State(app): Shared, Path(id): Path<String>) -> Result<Fresh<Ingest>, Problem> {
    let stream = parse(&id)?;
    app.own_ingest(&stream).map(fresh).ok_or_else(|| Problem::not_found("this node does not make the stream"))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewMark {
    #[schema(min_length = 1, max_length = 100)]
    label: String,
}

/// Marks this moment of a running broadcast, for whoever looks at the numbers later.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/marks",
    params(OfStream),
    request_body = NewMark,
    responses((status = 201, body = Mark)),
    security(("key" = []), ("admin" = [])),
)]
async fn mark(
    State(app): Shared,
    Path(id): Path<String>,
    asker: Asker,
    Given(NewMark { label }): Given<NewMark>,
) -> Result<(StatusCode, Json<Mark>), Problem> {
    let stream = app.owned(&id, &asker).await?;
    let label: String = label.trim().chars().filter(|c| !c.is_control()).collect();
    if label.is_empty() || label.chars().count() > LABEL_MAX {
        let words = format!("a mark has a name of 1 to {LABEL_MAX} letters");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, words));
    }
    let Some(broadcast) = app.current_live(&stream) else {
        return Err(Problem::new(StatusCode::CONFLICT, "the stream is not live: there is nothing to mark"));
    };
    let at = unix_now();
    let part = format!("{:08x}", rand::random::<u32>());
    let row = AudienceRow { span: AudienceSpan::Mark, at, broadcast, part, made: at, body: label.clone() };
    app.meta.put_audience(&stream, vec![row]).await.or_else(|why| match why {
        crate::store::Error::Later(_) => Ok(()),
        why => Err(why),
    })?;
    Ok((StatusCode::CREATED, Json(Mark { at: at.to_string(), label })))
}

/// The total of those who watched live, and of those who watched the recording.
type Totals = (Option<Total>, Option<Total>);

impl App {
    /// The stream, for whoever it belongs to.
    async fn owned(&self, id: &str, asker: &Asker) -> Result<StreamId, Problem> {
        self.must_have_store()?;
        let stream = parse(id)?;
        asker.must_own(self, &stream).await?;
        let is_there = self.current(&stream).is_some() || self.meta.stream(&stream).await?.is_some();
        match is_there || !self.meta.broadcasts(&stream, None, 1).await?.is_empty() {
            true => Ok(stream),
            false => Err(unknown(&stream)),
        }
    }

    async fn owned_broadcast(&self, id: &str, range: &Range, asker: &Asker) -> Result<(BroadcastRow, Scale), Problem> {
        self.must_have_store()?;
        let none = || Problem::not_found("no such broadcast");
        let id: BroadcastId = id.parse().map_err(|_| none())?;
        let stream = self.meta.stream_of(&id).await?.ok_or_else(none)?;
        asker.must_own(self, &stream).await?;
        let row = self.meta.broadcast(&stream, &id).await?.ok_or_else(none)?;
        let scale = range.scale(row.started, row.ended.unwrap_or_else(unix_now))?;
        Ok((row, scale))
    }

    /// Viewers of a stream, at all nodes; nothing where it is not live.
    pub(super) fn watching(&self, stream: &StreamId) -> Option<u64> {
        let broadcast = self.current_live(stream)?;
        if !self.viewers.audience.knows_all() {
            return self.links.as_ref()?.viewers(stream);
        }
        Some(self.live_crowd(stream, broadcast).map_or(0, |crowd| crowd.viewers()))
    }

    fn live_crowd(&self, stream: &StreamId, broadcast: BroadcastId) -> Option<Arc<Crowd>> {
        self.viewers.audience.table.find(&Subject { stream: stream.clone(), broadcast, live: true })
    }

    fn now_watching(&self, stream: &StreamId) -> Current {
        let crowd = self.current_live(stream).and_then(|broadcast| self.live_crowd(stream, broadcast));
        Current::new(unix_now(), crowd.map(|crowd| crowd.now(now())).unwrap_or_default())
    }

    /// How the encoder of a stream does that is made here.
    fn own_ingest(&self, stream: &StreamId) -> Option<Ingest> {
        let live = self.lines.live(stream)?;
        let read = live.meter.read(now());
        let view = self.view(stream.clone());
        let history = read.history.iter();
        let history = history.map(|past| IngestPast { at: past.at.to_string(), kbps: past.kbps, fps: past.fps });
        let (video, audio) = (read.video.as_ref(), read.audio.as_ref());
        let measured = Measured {
            kbps: read.kbps,
            audio_kbps: read.audio_kbps,
            fps: read.fps,
            keyframe_s: read.keyframe_s,
            width: video.map(|video| video.width),
            height: video.map(|video| video.height),
            video: video.map(|video| video.codec.clone()),
            audio: audio.map(|audio| audio.codec.clone()),
            dropped: read.missing,
            behind_ms: read.behind_ms,
        };
        let (warnings, history) = (view.warnings, history.collect());
        Some(Ingest { state: view.state, gateway: view.gateway, since: view.started, measured, warnings, history })
    }

    async fn total(&self, stream: &StreamId, broadcast: &BroadcastId, lasted_ms: i64) -> Result<Totals, Problem> {
        let rows = self.meta.audience_of(stream, broadcast).await?;
        let total = |live: bool| {
            let subject = Subject { stream: stream.clone(), broadcast: broadcast.clone(), live };
            let crowd = self.viewers.audience.table.find(&subject);
            let here = crowd.as_ref().map(|crowd| (crowd.part.as_str(), crowd.whole()));
            history::total(&rows, here, !live, lasted_ms)
        };
        Ok((total(true), total(false)))
    }

    async fn series(
        &self,
        stream: &StreamId,
        scale: &Scale,
        of: Option<&BroadcastId>,
    ) -> Result<(Vec<Point>, Vec<Mark>), Problem> {
        let between = (scale.from, scale.to);
        let mut rows = self.meta.audience(stream, scale.span, between, ROWS_MAX).await?;
        // What is counted here now is newer than what is stored of it.
        let crowds = self.viewers.audience.table.crowds();
        for crowd in crowds.iter().filter(|crowd| crowd.subject.stream == *stream) {
            if let Some(newest) = crowd.newest(scale.span, unix_now()) {
                rows.retain(|row| (row.at, &row.part) != (newest.at, &newest.part));
                rows.push(newest);
            }
        }
        let mut marks = self.meta.audience(stream, AudienceSpan::Mark, between, MARKS_MAX).await?;
        for rows in [&mut rows, &mut marks] {
            rows.retain(|row| of.is_none_or(|of| *of == row.broadcast));
        }
        let marks = marks.into_iter().map(|row| Mark { at: row.at.to_string(), label: row.body });
        Ok((history::series(&rows, scale, false, unix_now()), marks.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(moment("1764360000123").unwrap(), UnixMs(1_764_360_000_123));
        assert_eq!(moment("2025-11-28T20:00:00Z").unwrap(), moment("2025-11-28T20:00:00.000Z").unwrap());
        for text in ["", "yesterday", "-5", "99999999999999999", "2025-11-28", "éé25-11-28T20:00:00Z"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
