//! What players report (CMCD): answered before the router, as there may be tens of thousands a second.
//!
//! `POST /api/v1/cmcd` takes reports of events (CTA-5004-B), one a line; `GET /api/v1/cmcd?CMCD=...` takes one. Requests for media may
//! carry one in their query or headers (CTA-5004), which is taken out before anything else looks at them. The answer is 204, or 200
//! with `{"interval_s": 60}` when players are to report less often. A report that is not counted, for whatever reason, is answered as
//! one that is: players are not to send it again.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use metrics::Counter;
use quick_cache::sync::Cache;
use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};
use utoipa::{OpenApi, ToSchema};

use super::{
    App,
    content::{self, Content},
    problem::Problem,
};
use crate::{
    audience::{
        Audience, Crowd, Heard, Offered, Streams, Subject, Who,
        cmcd::{self, Report},
    },
    cache::{File, Object, What},
    hooks::ask::Verdict,
    id::{BroadcastId, Rendition, StreamId},
    time::{Timestamp, now, unix_now},
};

/// Where players report.
pub const PATH: &str = "/api/v1/cmcd";
/// The key in a query.
const QUERY: &str = "CMCD=";
/// Headers in which version 1 divides a report, and how all of them begin.
const HEADER: &str = "cmcd-";
static HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("cmcd-session"),
    HeaderName::from_static("cmcd-object"),
    HeaderName::from_static("cmcd-request"),
    HeaderName::from_static("cmcd-status"),
];
/// Longest body, bytes, and most reports in it.
const BODY_MAX: usize = 64 << 10;
const REPORTS_MAX: usize = 256;
/// A longer body is not read to its end.
const HEARD_OUT: usize = 4 << 20;
/// A body that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The store is asked for so many content ids at a time; reports of more count as of nothing.
const LOOKS: usize = 8;
/// Content ids that are known to mean nothing, and for how long.
const NOTHING_MAX: usize = 10_000;
const NOTHING_FOR: Duration = Duration::from_secs(10);
/// A stream may be live soon after.
const NOTHING_LIVE_FOR: Duration = Duration::from_secs(1);

/// What this node has of viewers.
pub struct Viewers {
    pub audience: Arc<Audience>,
    /// How often a player asks for a playlist that lists parts.
    pub part: Duration,
    counted: Counters,
    nothing: Cache<String, Timestamp>,
    /// Looks into the store for content ids, at a time.
    looks: Semaphore,
}

/// Reports by what became of them.
struct Counters {
    counted: Counter,
    twice: Counter,
    unknown: Counter,
    full: Counter,
    crowded: Counter,
    malformed: Counter,
    refused: Counter,
}

impl Viewers {
    pub fn new(audience: Arc<Audience>, part: Duration) -> Self {
        let counter = |result: &'static str| metrics::counter!("weir_viewer_reports_total", "result" => result);
        let counted = Counters {
            counted: counter("counted"),
            twice: counter("twice"),
            unknown: counter("unknown"),
            full: counter("full"),
            crowded: counter("crowded"),
            malformed: counter("malformed"),
            refused: counter("refused"),
        };
        Self { audience, part, counted, nothing: Cache::new(NOTHING_MAX), looks: Semaphore::new(LOOKS) }
    }

    fn means_nothing(&self, cid: &str, lately: Duration) -> bool {
        self.nothing.get(cid).is_some_and(|since| now() - since < lately)
    }
}

/// Answers that have no body are cloned whole.
static NO_CONTENT: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut headers = HeaderMap::new();
    content::open_to_all(&mut headers);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
});

fn no_content() -> Response<Content> {
    let mut response = Response::new(Content::whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = NO_CONTENT.clone();
    response
}

/// Whoever sends a report.
pub struct Sender {
    pub ticket: Option<String>,
    pub address: IpAddr,
}

/// Whether a path is that of reports.
pub fn is_report(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
}

/// What a player hears of its report.
#[derive(Serialize, ToSchema)]
struct ReportHeard {
    /// It is to report so often, seconds.
    interval_s: u64,
}

/// What the API's document says of reports.
pub fn document() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(by_post, by_query))]
    struct Reports;
    Reports::openapi()
}

/// Answers a request for [`PATH`].
pub async fn answer(app: Arc<App>, sender: Sender, request: Request<Incoming>) -> Response<Content> {
    let (parts, body) = request.into_parts();
    let agent = parts.headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    let answered = match parts.method {
        Method::POST => by_post(&app, body, &sender, agent).await,
        Method::GET | Method::HEAD => by_query(&app, parts.uri.query().unwrap_or_default(), &sender, agent).await,
        Method::OPTIONS => return preflight(),
        _ => {
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "reports are sent: POST, or GET with ?CMCD=");
            let mut response: Response<Content> = problem.into();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
            return response;
        }
    };
    match answered {
        Ok(()) => match app.viewers.audience.wished_beat() {
            None => no_content(),
            Some(beat) => {
                let mut response = no_content();
                *response.status_mut() = StatusCode::OK;
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let heard = ReportHeard { interval_s: beat.as_secs() };
                *response.body_mut() = Content::whole(serde_json::to_vec(&heard).expect("plain data").into());
                response
            }
        },
        Err(problem) => {
            app.viewers.counted.malformed.increment(1);
            problem.into()
        }
    }
}

/// Takes reports of a player (CTA-5004-B events), one a line. What cannot be counted is answered as what is.
#[utoipa::path(
    post, path = "/api/v1/cmcd", operation_id = "report", tag = "Audience",
    request_body(
        description = "As text, whatever the type says",
        content((String = "application/cmcd"), (String = "text/plain")),
    ),
    responses((status = 204, description = "It is heard"), (status = 200, body = ReportHeard)),
)]
async fn by_post(app: &App, body: Incoming, sender: &Sender, agent: &[u8]) -> Result<(), Problem> {
    app.hear_lines(&read(body).await?, sender, agent).await
}

/// Takes one report of a player, in the query.
#[utoipa::path(
    get, path = "/api/v1/cmcd", operation_id = "report_by_query", tag = "Audience",
    params(("CMCD" = String, Query, description = "The report", example = "cid=\"alice\",sid=\"7c2f\",sta=p,e=t,v=2")),
    responses((status = 204, description = "It is heard"), (status = 200, body = ReportHeard)),
)]
async fn by_query(app: &App, query: &str, sender: &Sender, agent: &[u8]) -> Result<(), Problem> {
    let told = query.split('&').find_map(|pair| pair.strip_prefix(QUERY)).and_then(decoded);
    let told = told.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "there is no ?CMCD= in the address"))?;
    app.hear_lines(&told, sender, agent).await
}

/// Players on other sites ask first whether they may.
fn preflight() -> Response<Content> {
    let mut response = no_content();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Reads a body. One that is too long is read on for a while, so that whoever sends it hears why it is not taken.
async fn read(mut body: Incoming) -> Result<String, Problem> {
    let (mut bytes, mut length) = (BytesMut::new(), 0);
    let all = async {
        while let Some(frame) = body.frame().await {
            let early = |_| Problem::new(StatusCode::BAD_REQUEST, "the body ended early");
            let Ok(piece) = frame.map_err(early)?.into_data() else { continue };
            length += piece.len();
            if length <= BODY_MAX {
                bytes.extend_from_slice(&piece);
            } else if length > HEARD_OUT {
                break;
            }
        }
        Ok::<_, Problem>(())
    };
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come");
    timeout(PATIENCE, all).await.map_err(late)??;
    if length > BODY_MAX {
        let words = format!("at most {BODY_MAX} bytes are read at once");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, words));
    }
    let no_text = |_| Problem::new(StatusCode::BAD_REQUEST, "the body is not UTF-8");
    String::from_utf8(bytes.into()).map_err(no_text)
}

/// Takes a report out of a request for media: gives the path without it, and the report. Few requests have one, and all pay for
/// the look.
pub fn split<'a>(path: &'a str, headers: &HeaderMap) -> Option<(Cow<'a, str>, String)> {
    if let Some((before, query)) = path.split_once('?')
        && let Some(found) = query.find(QUERY).filter(|at| *at == 0 || query[..*at].ends_with('&'))
    {
        let begin = before.len() + 1 + found;
        let end = path[begin..].find('&').map_or(path.len(), |at| begin + at);
        let text = decoded(&path[begin + QUERY.len()..end])?;
        let before = &path[..begin - 1];
        let rest = path[end..].strip_prefix('&').unwrap_or_default();
        let joint = if rest.is_empty() { "" } else { &path[before.len()..begin] };
        return Some((format!("{before}{joint}{rest}").into(), text));
    }
    if !headers.keys().any(|name| name.as_str().starts_with(HEADER)) {
        return None;
    }
    let told: Vec<_> = HEADERS.iter().filter_map(|name| headers.get(name)?.to_str().ok()).collect();
    (!told.is_empty()).then(|| (path.into(), told.join(",")))
}

/// Takes the escapes out of a part of a query.
fn decoded(text: &str) -> Option<String> {
    let pair = format!("c={}", text.replace('+', "%2B"));
    let (_, text) = url::form_urlencoded::parse(pair.as_bytes()).next()?;
    Some(text.into_owned())
}

/// Hears a report that came with a request for media.
pub async fn of_media(app: &App, object: &Object, told: &str, sender: &Sender, agent: &[u8]) {
    let Ok(mut report) = Report::parse(told) else { return app.viewers.counted.malformed.increment(1) };
    let stream = object.stream.as_str();
    let is_it = |crowd: &Arc<Crowd>| object.broadcast().is_none_or(|id| *id == crowd.subject.broadcast);
    let crowd = match app.viewers.audience.known(stream).filter(is_it) {
        Some(crowd) => Some(crowd),
        None => app.crowd(&object.broadcast().map_or(stream.into(), |id| format!("{stream}/{id}"))).await,
    };
    let Some(crowd) = crowd else { return app.viewers.counted.unknown.increment(1) };
    // What is asked for is what is watched; sound beside the picture says nothing of that.
    match &object.what {
        What::File(_, rendition, _) if *rendition != Rendition::audio() => {
            report.rendition = Some(rendition.as_str().to_owned().into());
        }
        _ => (report.rendition, report.kbps) = (None, None),
    }
    app.hear_report(&crowd, &report, sender, agent);
}

/// Counts a request for a media playlist, for the estimate of viewers whose players report nothing.
pub fn hit(app: &App, object: &Object) {
    let What::File(broadcast, rendition, File::Playlist(_, reload)) = &object.what else { return };
    let stream = &object.stream;
    let Some(crowd) = app.viewers.audience.known(stream.as_str()).or_else(|| app.live_crowd_of(stream)) else { return };
    let is_part = matches!(reload.until, Some((_, Some(_))));
    app.count_hit(&crowd, broadcast.as_str(), rendition.as_str(), is_part);
}

/// The same of a path that was answered from what was pulled, most often without a name that is made of it.
pub fn hit_path(app: &App, path: &str) {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let Some(rest) = path.strip_prefix("/hls/").filter(|rest| rest.ends_with("/index.m3u8")) else { return };
    let mut parts = rest.split('/');
    let (Some(stream), Some(broadcast), Some(rendition), Some(_)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    match app.viewers.audience.known(stream) {
        Some(crowd) => {
            let is_part = query.is_some_and(|query| query.contains("_HLS_part="));
            app.count_hit(&crowd, broadcast, rendition, is_part);
        }
        None if app.viewers.means_nothing(stream, NOTHING_LIVE_FOR) => {}
        None => _ = Object::parse(rest, query).map(|object| hit(app, &object)),
    }
}

impl Streams for App {
    fn current(&self, stream: &StreamId) -> Option<(BroadcastId, Offered)> {
        self.current_offered(stream)
    }
}

impl App {
    /// The broadcast that a stream shows now, and its renditions with their mean bitrates.
    pub(super) fn current_offered(&self, stream: &StreamId) -> Option<(BroadcastId, Offered)> {
        if let Some(live) = self.lines.live(stream).filter(|live| live.state != crate::line::State::Ended) {
            let shown = live.offered.iter().filter_map(|name| live.renditions.get(name));
            let offered =
                shown.map(|shown| shown.now().row.clone()).map(|row| (row.name, (row.mean_bps / 1000) as u32));
            return Some((live.broadcast.clone(), offered.collect()));
        }
        let view = self.links.as_ref()?.stream(stream)?;
        let broadcast = running(&view)?;
        let named = |rendition: &serde_json::Value| {
            Some((rendition["name"].as_str()?.parse().ok()?, rendition["kbps"].as_u64()? as u32))
        };
        Some((broadcast, view["renditions"].as_array()?.iter().filter_map(named).collect()))
    }

    /// The broadcast that a stream shows now.
    pub(super) fn current_live(&self, stream: &StreamId) -> Option<BroadcastId> {
        if let Some(live) = self.lines.live(stream).filter(|live| live.state != crate::line::State::Ended) {
            return Some(live.broadcast.clone());
        }
        running(&self.links.as_ref()?.stream(stream)?)
    }

    /// Hears reports, one a line. An error where none of them is one.
    async fn hear_lines(&self, text: &str, sender: &Sender, agent: &[u8]) -> Result<(), Problem> {
        let (mut good, mut bad) = (0, None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(REPORTS_MAX) {
            match Report::parse(line) {
                Ok(report) => {
                    good += 1;
                    match self.crowd(&report.cid).await {
                        Some(crowd) => self.hear_report(&crowd, &report, sender, agent),
                        None => self.viewers.counted.unknown.increment(1),
                    }
                }
                Err(why) => {
                    if good > 0 {
                        self.viewers.counted.malformed.increment(1);
                    }
                    bad = Some(why);
                }
            }
        }
        match bad {
            Some(why) if good == 0 => Err(bad_report(why)),
            None if good == 0 => Err(Problem::new(StatusCode::BAD_REQUEST, "there is no report in it")),
            _ => Ok(()),
        }
    }

    /// Counts a request for a playlist of what this crowd watches: a player asks for each part, or for each chunk.
    fn count_hit(&self, crowd: &Crowd, broadcast: &str, rendition: &str, is_part: bool) {
        if crowd.subject.broadcast.as_str() == broadcast {
            crowd.hit(rendition == "audio", if is_part { self.viewers.part } else { self.chunk });
        }
    }

    /// Those who watch what a stream shows now.
    fn live_crowd_of(&self, stream: &StreamId) -> Option<Arc<Crowd>> {
        if self.viewers.means_nothing(stream.as_str(), NOTHING_LIVE_FOR) {
            return None;
        }
        let Some((broadcast, offered)) = self.current_offered(stream) else {
            self.viewers.nothing.insert(stream.to_string(), now());
            return None;
        };
        let subject = Subject { stream: stream.clone(), broadcast, live: true };
        self.viewers.audience.learn(now(), stream.as_str(), &subject, offered)
    }

    /// The crowd that a content id means: `alice`, what she shows now; `alice/01b...`, that broadcast.
    async fn crowd(&self, cid: &str) -> Option<Arc<Crowd>> {
        let audience = &self.viewers.audience;
        if let Some(crowd) = audience.known(cid) {
            return Some(crowd);
        }
        let (stream, broadcast) = cid.split_once('/').map_or((cid, None), |(stream, id)| (stream, Some(id)));
        let stream: StreamId = stream.parse().ok()?;
        let broadcast: Option<BroadcastId> = broadcast.map(str::parse).transpose().ok()?;
        if let Some((current, offered)) = self.current_offered(&stream)
            && broadcast.as_ref().is_none_or(|id| *id == current)
        {
            let subject = Subject { stream, broadcast: current, live: true };
            return audience.learn(now(), cid, &subject, offered);
        }
        let broadcast = broadcast?;
        if self.viewers.means_nothing(cid, NOTHING_FOR) {
            return None;
        }
        let _look = self.viewers.looks.try_acquire().ok()?;
        let row = self.meta.broadcast(&stream, &broadcast).await.ok().flatten().filter(|row| row.deleted.is_none());
        let Some(row) = row else {
            self.viewers.nothing.insert(cid.to_owned(), now());
            return None;
        };
        let offered = row.renditions.into_iter().map(|row| (row.name, (row.mean_bps / 1000) as u32)).collect();
        audience.learn(now(), cid, &Subject { stream, broadcast, live: false }, offered)
    }

    fn hear_report(&self, crowd: &Crowd, report: &Report, sender: &Sender, agent: &[u8]) {
        let counted = &self.viewers.counted;
        // Whoever was refused does not watch.
        let known = self
            .asker
            .as_ref()
            .and_then(|asker| asker.known(crowd.subject.stream.as_str(), sender.ticket.as_deref(), sender.address));
        if matches!(known, Some(Verdict::Refused(_))) {
            return counted.refused.increment(1);
        }
        let claims = sender.ticket.as_deref().and_then(|ticket| self.tickets.verify(ticket).ok());
        let Subject { stream, broadcast, .. } = &crowd.subject;
        if self.asker.is_none() && self.tickets.needs_ticket(stream.as_str()) {
            let admitted = claims.as_ref().is_some_and(|claims| {
                self.tickets.admit(claims, stream, Some(broadcast), sender.address, unix_now(), false).is_ok()
            });
            if !admitted {
                return counted.refused.increment(1);
            }
        }
        let ticket = claims.as_ref().and_then(|claims| claims.jti.as_deref().or(claims.sub.as_deref()));
        let who = Who { ticket, address: sender.address, agent };
        match self.viewers.audience.hear(now(), crowd, report, who) {
            Heard::Counted => &counted.counted,
            Heard::Twice => &counted.twice,
            Heard::Unknown => &counted.unknown,
            Heard::Full => &counted.full,
            Heard::Crowded => &counted.crowded,
        }
        .increment(1);
    }
}

/// The broadcast that runs, of a stream as another node shows it.
fn running(view: &serde_json::Value) -> Option<BroadcastId> {
    let is_on = matches!(view["state"].as_str(), Some("live" | "away"));
    view["broadcast"].as_str().filter(|_| is_on)?.parse().ok()
}

fn bad_report(why: cmcd::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("this is no CMCD report: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_leave_the_path_of_media() {
        let taken = |path: &'static str| split(path, &HeaderMap::new()).map(|(path, told)| (path.into_owned(), told));
        let both = |path: &str, told: &str| Some((path.to_owned(), told.to_owned()));
        assert_eq!(
            taken("/hls/a/b/720p/1.1.m4s?CMCD=bl%3D2%2Csid%3D%22s%22"),
            both("/hls/a/b/720p/1.1.m4s", "bl=2,sid=\"s\"")
        );
        assert_eq!(
            taken("/x?_HLS_msn=3&CMCD=sid%3D%22a%2Bb+c%22&_HLS_part=1"),
            both("/x?_HLS_msn=3&_HLS_part=1", "sid=\"a+b+c\"")
        );
        assert_eq!(taken("/x?CMCD=su&y=1"), both("/x?y=1", "su"));
        assert_eq!(taken("/x?y=1&CMCD="), both("/x?y=1", ""));
        assert_eq!(taken("/x?noCMCD=1"), None);
        let mut headers = HeaderMap::new();
        headers.insert("CMCD-Session", "sid=\"s\"".parse().unwrap());
        headers.insert("CMCD-Object", "br=3200".parse().unwrap());
        assert_eq!(split("/x", &headers).unwrap().1, "sid=\"s\",br=3200");
        assert!(is_report("/api/v1/cmcd") && is_report("/api/v1/cmcd?CMCD=x") && !is_report("/api/v1/cmcdx"));
    }
}
