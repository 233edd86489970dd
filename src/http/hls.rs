//! Playlists, init segments and chunks: from the line's memory while live, from the store after, from other nodes where
//! this one has neither.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use tokio::time::timeout;

use super::{
    App, Shared,
    content::{self, Content},
    problem::Problem,
    reports,
    viewer::Viewer,
};
use crate::{
    cache::{Cache, File, Object, Way, What},
    id::{BroadcastId, Rendition, StreamId},
    line::{self, Live, LiveRendition, Shown},
    media::Pieces,
    package::{Extent, Reload},
    recording::{Picture, Recording, Refused, Wanted, live_left},
    store,
    time::{UnixMs, now, unix_now},
};

const VIDEO: &str = "video/mp4";
const AUDIO: &str = "audio/mp4";
/// A recording's playlists do not change, but its broadcast may be deleted.
const RECORDING_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=60");
/// A viewer whose stream's node is lost waits so long for another to take over.
const TAKEOVER: Duration = Duration::from_secs(5);
/// And looks for it so often.
const LOOK: Duration = Duration::from_millis(50);
/// How long an answered blocking reload may be cached, target durations.
const BLOCKED_TARGETS: u32 = 6;

/// Everything under `/hls/`.
pub async fn object(
    app: &App,
    object: &Object,
    viewer: &Viewer,
    headers: &HeaderMap,
) -> Result<Response<Content>, Problem> {
    let broadcast = object.broadcast().cloned().or_else(|| app.current(&object.stream));
    viewer.admit(app, &object.stream, broadcast.as_ref(), !object.is_playlist()).await?;
    if let What::Download(broadcast, rendition, extent) = &object.what {
        return app.download(&object.stream, broadcast, rendition.as_ref(), extent, headers).await;
    }
    let until = now() + TAKEOVER;
    loop {
        let answer = app.found(object, viewer, headers).await;
        if answer.is_ok() && viewer.address().is_some() {
            reports::hit(app, object);
        }
        // The node that made it is gone, and another is about to go on: a viewer is to notice neither.
        let is_lost = answer.as_ref().is_err_and(|problem| problem.is_not_found() || problem.is_ours());
        if !is_lost || now() >= until || viewer.is_by_detour() || !app.is_between(object) {
            return answer;
        }
        if let Some(cache) = &app.cache {
            cache.forget_failure(object);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl App {
    /// Whether the node that made an object's broadcast was lost a moment ago: another shows it by now, or is about to.
    fn is_between(&self, object: &Object) -> bool {
        let links = self.links.as_ref().filter(|_| self.peers.is_some());
        links.is_some_and(|links| links.was_shown(&object.stream, object.broadcast()))
    }

    /// Answers from where an object is found: this node's lines, what was pulled, another node, the store.
    async fn found(&self, object: &Object, viewer: &Viewer, headers: &HeaderMap) -> Result<Response<Content>, Problem> {
        let live = self.lines.live(&object.stream);
        let live = live.filter(|live| object.broadcast().is_none_or(|broadcast| *broadcast == live.broadcast));
        if let Some(live) = live {
            return self.live(&live, object, headers).await;
        }
        let Some(cache) = self.cache.as_ref().filter(|_| viewer.is_pulled_for(self)) else {
            return self.recorded(object, headers).await;
        };
        // What was pulled before need not be looked for here.
        if let Some(kept) = cache.kept(&object.to_string()) {
            return Ok(content::kept(&kept, headers));
        }
        // What another node is making now is there first, and more of it, whatever a store that both share has of it.
        if self.links.as_ref().is_some_and(|links| links.is_shown(&object.stream, object.broadcast())) {
            // It may be gone since: what is stored outlives it.
            return match pull(cache, object, Way::Straight, headers).await {
                Err(problem) => self.recorded(object, headers).await.map_err(|_| problem),
                answer => answer,
            };
        }
        if viewer.is_by_detour() {
            return Err(Problem::not_found("nor does this node reach one that has it"));
        }
        // Nobody makes it, or whoever does is only cut off from here.
        if let Some(links) = self.links.as_ref().filter(|_| self.is_between(object))
            && let Ok(answer) = pull(cache, object, Way::Detour, headers).await
        {
            links.was_had(&object.stream);
            return Ok(answer);
        }
        match self.recorded(object, headers).await {
            // A node that is alone in its cluster has nobody to ask.
            Err(problem) if problem.is_not_found() && cache.has_upstreams() => {
                pull(cache, object, Way::Straight, headers).await
            }
            answer => answer,
        }
    }
}

/// Answers with what another node has.
async fn pull(cache: &Cache, object: &Object, way: Way, headers: &HeaderMap) -> Result<Response<Content>, Problem> {
    content::pulled(cache.get(object, way)?, object, headers).await
}

/// Whether the ticket in the path is good for what lies under `/hls/{stream}/`, with nothing to fetch: for a cache in front of
/// this node that keeps one copy for all tickets.
pub async fn ticket(
    State(app): Shared,
    Path((stream, rest)): Path<(String, String)>,
    viewer: Viewer,
) -> Result<axum::response::Response, Problem> {
    let stream = parse::<StreamId>(&stream)?;
    let broadcast = match rest.split_once('/') {
        Some((broadcast, _)) => Some(parse(broadcast)?),
        None => app.current(&stream),
    };
    viewer.admit(&app, &stream, broadcast.as_ref(), !rest.ends_with(".m3u8")).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl App {
    /// Answers from the memory of the line, and from the store for what left it.
    async fn live(&self, live: &Live, object: &Object, headers: &HeaderMap) -> Result<Response<Content>, Problem> {
        let (broadcast, rendition, file) = match &object.what {
            What::Multivariant(_, extent @ Extent::Clip(_)) => {
                let text = self.recording(live).await?.multivariant(extent).ok_or_else(unrecorded)?;
                return Ok(content::playlist(&text, headers, self.live_cache()));
            }
            What::Current(extent) | What::Multivariant(_, extent) => {
                let inside = matches!(object.what, What::Multivariant(..));
                let texts = live.multivariants.as_ref().ok_or_else(|| offline(&object.stream))?;
                return Ok(content::playlist(texts.get(inside, extent), headers, self.live_cache()));
            }
            What::File(_, rendition, File::Playlist(extent @ Extent::Clip(_), _)) => {
                let text = self.recording(live).await?.playlist(rendition, extent).ok_or_else(unrecorded)?;
                return Ok(content::playlist(&text, headers, self.live_cache()));
            }
            What::Picture(_, picture) => return self.picture(&self.recording(live).await?, *picture, headers).await,
            What::File(broadcast, rendition, file) => (broadcast, rendition, file),
            What::Download(..) => return Err(nothing()),
        };
        let changing = live.renditions.get(rendition);
        let shown = changing.map(Shown::now);
        let bytes = match file {
            File::Playlist(extent, reload) => {
                let shown = reloaded(changing.ok_or_else(nothing)?, reload).await?;
                let before = if *extent == Extent::FromStart { self.before(live).await? } else { None };
                let text = match extent {
                    Extent::FromStart => {
                        let before = before.as_ref().map_or(&[][..], |before| before.histories(rendition));
                        shown.from_start(reload.skip, before)
                    }
                    _ => shown.playlist(reload.skip),
                };
                let text = text.ok_or_else(nothing)?;
                let cache = match reload.until {
                    // What was asked for is in it, now and later: caches serve everyone who asks for the same.
                    Some(_) if live.state != line::State::Ended => {
                        max_age(u64::from(shown.window.target() * BLOCKED_TARGETS))
                    }
                    // An ended one makes room for the whole recording soon.
                    _ => self.live_cache(),
                };
                return Ok(content::playlist(text, headers, cache));
            }
            File::Iframes(extent @ Extent::Clip(_)) => {
                let text = self.recording(live).await?.iframes(rendition, extent).ok_or_else(unrecorded)?;
                return Ok(content::playlist(&text, headers, self.live_cache()));
            }
            File::Iframes(extent) => {
                let shown = shown.ok_or_else(nothing)?;
                let before = match extent {
                    Extent::FromStart => Some(self.before(live).await?),
                    _ => None,
                };
                let before = before.as_ref().map(|before| before.as_ref().map_or(&[][..], |b| b.histories(rendition)));
                let text = shown.iframes(before).ok_or_else(nothing)?;
                return Ok(content::playlist(text, headers, self.live_cache()));
            }
            File::Init(hash) => shown.and_then(|shown| shown.init(hash)).map(Pieces::from),
            File::Chunk { k, epoch } => match (shown.and_then(|shown| shown.chunk(*k, *epoch)), changing) {
                (None, Some(changing)) => due(changing, *k, *epoch).await,
                (now, _) => now,
            },
            File::Part { k, epoch, part } => match (shown.and_then(|shown| shown.part(*k, *epoch, *part)), changing) {
                (None, Some(changing)) => Some(hinted(changing, *k, *epoch, *part).await.ok_or_else(nothing)?),
                (now, _) => now,
            },
        };
        match bytes {
            Some(bytes) => Ok(content::immutable(bytes, media_type(rendition), headers)),
            None => self.stored(&object.stream, broadcast, rendition, file, headers).await,
        }
    }

    /// Answers from the store.
    async fn recorded(&self, object: &Object, headers: &HeaderMap) -> Result<Response<Content>, Problem> {
        if let Some(broadcast) = object.broadcast()
            && !self.archive.standing(&object.stream, broadcast).await?.allows(&wanted(&object.what))
        {
            return Err(Refused::Deleted.into());
        }
        match &object.what {
            What::Current(_) => Err(offline(&object.stream)),
            What::Multivariant(broadcast, extent) => {
                let recording = self.archive.recording(&object.stream, broadcast).await.map_err(missing)?;
                let text = recording.multivariant(extent).ok_or_else(unrecorded)?;
                Ok(content::playlist(&text, headers, RECORDING_CACHE))
            }
            What::File(broadcast, rendition, File::Playlist(extent, _)) => {
                let recording = self.archive.recording(&object.stream, broadcast).await.map_err(missing)?;
                if recording.ended.is_none() && *extent == Extent::Window && self.peers.is_some() {
                    // Whoever watches it live has come further than the beginning of all of it.
                    let why = "the node that made this is gone, and another is about to go on with it";
                    return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why));
                }
                let text = recording.playlist(rendition, extent).ok_or_else(unrecorded)?;
                Ok(content::playlist(&text, headers, self.recording_cache(&recording)))
            }
            What::File(broadcast, rendition, File::Iframes(extent)) => {
                let recording = self.archive.recording(&object.stream, broadcast).await.map_err(missing)?;
                let text = recording.iframes(rendition, extent).ok_or_else(unrecorded)?;
                Ok(content::playlist(&text, headers, self.recording_cache(&recording)))
            }
            What::File(broadcast, rendition, file) => {
                self.stored(&object.stream, broadcast, rendition, file, headers).await
            }
            What::Picture(broadcast, picture) => {
                let recording = self.archive.recording(&object.stream, broadcast).await.map_err(missing)?;
                self.picture(&recording, *picture, headers).await
            }
            What::Download(..) => Err(nothing()),
        }
    }

    /// Answers with a picture of a broadcast, or what tells of its pictures.
    async fn picture(
        &self,
        recording: &Recording,
        picture: Picture,
        headers: &HeaderMap,
    ) -> Result<Response<Content>, Problem> {
        let pictures = self.pictures.as_ref().ok_or_else(|| Problem::not_found("this node makes no pictures"))?;
        let ended = recording.ended.is_some();
        Ok(match picture {
            Picture::Poster => {
                let cache = if ended { RECORDING_CACHE } else { max_age(live_left(unix_now())) };
                content::jpeg(pictures.poster(recording).await?, headers, cache)
            }
            Picture::Storyboard => {
                let cache = if ended { RECORDING_CACHE } else { self.live_cache() };
                content::webvtt(&*pictures.storyboard(recording).await?, headers, cache)
            }
            Picture::Sheet(sheet) => {
                content::jpeg(pictures.sheet(recording, sheet).await?, headers, content::IMMUTABLE)
            }
        })
    }

    /// Answers with a recording as one file.
    async fn download(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        rendition: Option<&Rendition>,
        extent: &Extent,
        headers: &HeaderMap,
    ) -> Result<Response<Content>, Problem> {
        let wanted = if let Extent::Clip(clip) = extent { Wanted::Clip(*clip) } else { Wanted::Whole };
        if !self.archive.standing(stream, broadcast).await?.allows(&wanted) {
            return Err(Refused::Deleted.into());
        }
        let recording = self.library.recording(stream, broadcast).await?;
        let rendition = rendition.or_else(|| recording.best()).ok_or_else(unrecorded)?;
        let export = self.jobs.export(&recording, rendition, extent).await?;
        let name = format!("{stream}-{}-{rendition}.mp4", file_time(recording.started));
        let place = self.jobs.place()?;
        Ok(content::download(export, &name, headers, |export, range| self.jobs.read(export, range, place)))
    }

    /// What was recorded of a running broadcast before this node took it up.
    async fn before(&self, live: &Live) -> Result<Option<Arc<Recording>>, Problem> {
        let Some(k) = live.restored else { return Ok(None) };
        Ok(self.archive.before(&live.stream, &live.broadcast, k).await?)
    }

    /// What a running broadcast has recorded so far.
    async fn recording(&self, live: &Live) -> Result<Recording, Problem> {
        self.archive.of_live(live).await?.ok_or_else(unrecorded)
    }

    async fn stored(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        rendition: &Rendition,
        file: &File,
        headers: &HeaderMap,
    ) -> Result<Response<Content>, Problem> {
        let archive = &self.archive;
        let bytes = match file {
            File::Init(hash) => archive.init(stream, broadcast, rendition, hash).await,
            File::Chunk { k, epoch } => archive.chunk(stream, broadcast, rendition, *k, *epoch).await,
            // Parts live as long as the playlist that lists them.
            File::Playlist(..) | File::Iframes(_) | File::Part { .. } => return Err(nothing()),
        };
        Ok(content::immutable(bytes.map_err(missing)?.into(), media_type(rendition), headers))
    }

    /// Cache-Control of a recording's playlist. One that has not ended is about to go on: its line is not there yet, or its
    /// node is not.
    fn recording_cache(&self, recording: &Recording) -> HeaderValue {
        if recording.ended.is_some() { RECORDING_CACHE } else { self.live_cache() }
    }

    /// Cache-Control of a live playlist: half a chunk, so that a cache never adds more than that.
    fn live_cache(&self) -> HeaderValue {
        max_age((self.chunk.as_millis() as u64 / 2).div_ceil(1000).max(1))
    }
}

/// What an object is of its broadcast.
fn wanted(what: &What) -> Wanted {
    match what {
        What::Multivariant(_, Extent::Clip(clip)) => Wanted::Clip(*clip),
        What::File(_, _, File::Playlist(Extent::Clip(clip), _) | File::Iframes(Extent::Clip(clip))) => {
            Wanted::Clip(*clip)
        }
        What::File(_, _, File::Chunk { k, .. } | File::Part { k, .. }) => Wanted::Chunk(*k),
        What::File(_, _, File::Init(_)) => Wanted::Init,
        What::Download(_, _, Extent::Clip(clip)) => Wanted::Clip(*clip),
        What::Current(_)
        | What::Multivariant(..)
        | What::Picture(..)
        | What::File(_, _, File::Playlist(..) | File::Iframes(_))
        | What::Download(..) => Wanted::Whole,
    }
}

fn max_age(seconds: u64) -> HeaderValue {
    HeaderValue::try_from(format!("public, max-age={seconds}")).expect("digits and plain words")
}

fn media_type(rendition: &Rendition) -> &'static str {
    if *rendition == Rendition::audio() { AUDIO } else { VIDEO }
}

/// Holds a blocking reload until what it asks for is listed, three target durations at most.
async fn reloaded(changing: &Shown, reload: &Reload) -> Result<Arc<LiveRendition>, Problem> {
    let shown = changing.now();
    reload.check(&shown.window)?;
    if reload.is_met(&shown.window) {
        return Ok(shown);
    }
    let _blocked = Blocked::begin();
    let met = changing.when(|shown| reload.is_met(&shown.window));
    let shown = timeout(patience(&shown), met).await.ok().filter(|shown| reload.is_met(&shown.window));
    shown.ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nothing new came in time"))
}

/// Holds a request for the part that the playlist hints at until it is there whole (rfc8216bis 6.2.6); nothing where it
/// does not come, or is not hinted at.
async fn hinted(changing: &Shown, k: u64, epoch: u64, part: usize) -> Option<Pieces> {
    let shown = changing.now();
    if !shown.is_hinted(k, epoch, part) {
        return shown.part(k, epoch, part);
    }
    let _blocked = Blocked::begin();
    let gone = changing.when(|shown| !shown.is_hinted(k, epoch, part));
    timeout(patience(&shown), gone).await.ok()?.part(k, epoch, part)
}

/// Holds a request for the chunk that comes next: a node that heard of it early asks for it early. Nothing where it does not
/// come within a chunk of its time.
async fn due(changing: &Shown, k: u64, epoch: u64) -> Option<Pieces> {
    let shown = changing.now();
    if shown.window.next_k() != Some(k) {
        return None;
    }
    let _blocked = Blocked::begin();
    let patience = Duration::from_secs(u64::from(shown.window.target()) * 2);
    let listed = changing.when(|shown| shown.window.next_k() != Some(k));
    timeout(patience, listed).await.ok()?.chunk(k, epoch)
}

fn patience(shown: &LiveRendition) -> Duration {
    Duration::from_secs(u64::from(shown.window.target()) * 3)
}

/// Counts a request that waits.
struct Blocked;

impl Blocked {
    fn begin() -> Self {
        metrics::gauge!("weir_blocked_requests").increment(1);
        metrics::counter!("weir_blocked_requests_total").increment(1);
        Self
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        metrics::gauge!("weir_blocked_requests").decrement(1);
    }
}

fn parse<T: std::str::FromStr<Err = crate::id::Error>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|why: crate::id::Error| Problem::not_found(why.to_string()))
}

fn offline(stream: &StreamId) -> Problem {
    Problem::not_found(format!("stream {stream} is not live"))
}

/// A time as it may stand in a file's name: `2026-01-31T12-00-00Z`.
fn file_time(time: UnixMs) -> String {
    let text = time.to_string();
    let seconds = text.split('.').next().unwrap_or(&text);
    format!("{}Z", seconds.trim_end_matches('Z').replace(':', "-"))
}

fn nothing() -> Problem {
    Problem::not_found("there is no such playlist, chunk or init segment")
}

fn unrecorded() -> Problem {
    Problem::not_found("nothing of that is recorded")
}

fn missing(error: store::Error) -> Problem {
    match error {
        store::Error::NotFound => nothing(),
        other => other.into(),
    }
}
