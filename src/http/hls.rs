//! Playlists, init segments and chunks: from the line's memory while live, from the store after.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{App, Shared, content, problem::Problem, reload::Reload, viewer::Viewer};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    line::{self, LiveRendition, Shown},
    media::Pieces,
    store,
};

const VIDEO: &str = "video/mp4";
const AUDIO: &str = "audio/mp4";
/// A recording's playlists do not change, but its broadcast may be deleted.
const RECORDING_CACHE: &str = "public, max-age=60";
/// How long an answered blocking reload may be cached, target durations.
const BLOCKED_TARGETS: u32 = 6;

/// The multivariant playlist of the stream's running broadcast.
pub async fn current(
    State(app): Shared,
    Path(stream): Path<String>,
    viewer: Viewer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stream = parse::<StreamId>(&stream)?;
    let live = app.lines.live(&stream);
    viewer.admit(&app, &stream, live.as_ref().map(|live| &live.broadcast), false)?;
    let live = live.ok_or_else(|| offline(&stream))?;
    let text = live.multivariant.as_ref().ok_or_else(|| offline(&stream))?;
    Ok(content::playlist(text, &headers, &app.live_cache()))
}

/// Whether the ticket in the path is good for what lies under `/hls/{stream}/`, with nothing to fetch: for a cache in front of
/// this node that keeps one copy for all tickets.
pub async fn ticket(
    State(app): Shared,
    Path((stream, rest)): Path<(String, String)>,
    viewer: Viewer,
) -> Result<Response, Problem> {
    let stream = parse::<StreamId>(&stream)?;
    let broadcast = match rest.split_once('/') {
        Some((broadcast, _)) => Some(parse(broadcast)?),
        None => app.lines.live(&stream).map(|live| live.broadcast.clone()),
    };
    viewer.admit(&app, &stream, broadcast.as_ref(), !rest.ends_with(".m3u8"))?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The multivariant playlist of one broadcast, running or recorded.
pub async fn multivariant(
    State(app): Shared,
    Path((stream, broadcast)): Path<(String, String)>,
    viewer: Viewer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (stream, broadcast) = (parse::<StreamId>(&stream)?, parse::<BroadcastId>(&broadcast)?);
    viewer.admit(&app, &stream, Some(&broadcast), false)?;
    if let Some(live) = app.lines.live(&stream).filter(|live| live.broadcast == broadcast) {
        let text = live.multivariant_inside.as_ref().ok_or_else(|| offline(&stream))?;
        return Ok(content::playlist(text, &headers, &app.live_cache()));
    }
    let text = app.archive.multivariant(&stream, &broadcast).await?;
    Ok(content::playlist(&text, &headers, RECORDING_CACHE))
}

/// What lies in a rendition's folder: `index.m3u8`, `init-{hash}.mp4`, `{k}.{epoch}.m4s`, `{k}.{epoch}.{part}.m4s`.
pub async fn file(
    State(app): Shared,
    Path((stream, broadcast, rendition, file)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    viewer: Viewer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (stream, broadcast) = (parse::<StreamId>(&stream)?, parse::<BroadcastId>(&broadcast)?);
    let rendition = parse::<Rendition>(&rendition)?;
    let file = File::parse(&file).ok_or_else(nothing)?;
    viewer.admit(&app, &stream, Some(&broadcast), file != File::Playlist)?;
    let live = app.lines.live(&stream).filter(|live| live.broadcast == broadcast);
    let changing = live.as_ref().and_then(|live| live.renditions.get(&rendition));
    let shown = changing.map(Shown::now);
    let shown = shown.as_deref();
    let media_type = if rendition == Rendition::audio() { AUDIO } else { VIDEO };
    match file {
        File::Playlist => {
            if let Some(live) = &live {
                let reload = Reload::parse(query.as_deref())?;
                let shown = reloaded(changing.ok_or_else(nothing)?, &reload).await?;
                let text = shown.playlist(reload.skip).ok_or_else(nothing)?;
                let cache = match reload.until {
                    _ if live.state == line::State::Ended => RECORDING_CACHE,
                    // What was asked for is in it, now and later: caches serve everyone who asks for the same.
                    Some(_) => &format!("public, max-age={}", shown.window.target() * BLOCKED_TARGETS),
                    None => &app.live_cache(),
                };
                return Ok(content::playlist(text, &headers, cache));
            }
            let text = app.archive.playlist(&stream, &broadcast, &rendition).await.map_err(missing)?;
            Ok(content::playlist(&text, &headers, RECORDING_CACHE))
        }
        File::Init(hash) => {
            let bytes = match shown.and_then(|shown| shown.init(hash)) {
                Some(bytes) => bytes,
                None => app.archive.init(&stream, &broadcast, &rendition, hash).await.map_err(missing)?,
            };
            Ok(content::immutable(bytes.into(), media_type, &headers))
        }
        File::Chunk(k, epoch) => {
            let bytes = match shown.and_then(|shown| shown.chunk(k, epoch)) {
                Some(bytes) => bytes,
                None => app.archive.chunk(&stream, &broadcast, &rendition, k, epoch).await.map_err(missing)?.into(),
            };
            Ok(content::immutable(bytes, media_type, &headers))
        }
        File::Part(k, epoch, part) => {
            let now = || shown.and_then(|shown| shown.part(k, epoch, part));
            let bytes = match (now(), changing) {
                (None, Some(changing)) => hinted(changing, k, epoch, part).await,
                (now, _) => now,
            };
            Ok(content::immutable(bytes.ok_or_else(nothing)?, media_type, &headers))
        }
    }
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

impl App {
    /// Cache-Control of a live playlist: half a chunk, so that a cache never adds more than that.
    fn live_cache(&self) -> String {
        format!("public, max-age={}", (self.chunk.as_millis() / 2).div_ceil(1000).max(1))
    }
}

fn parse<T: std::str::FromStr<Err = crate::id::Error>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|why: crate::id::Error| Problem::not_found(why.to_string()))
}

fn offline(stream: &StreamId) -> Problem {
    Problem::not_found(format!("stream {stream} is not live"))
}

fn nothing() -> Problem {
    Problem::not_found("there is no such playlist, chunk or init segment")
}

fn missing(error: store::Error) -> Problem {
    match error {
        store::Error::NotFound => nothing(),
        other => other.into(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum File<'a> {
    Playlist,
    Init(&'a str),
    Chunk(u64, u64),
    Part(u64, u64, usize),
}

impl<'a> File<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        if name == "index.m3u8" {
            return Some(File::Playlist);
        }
        if let Some(hash) = name.strip_prefix("init-").and_then(|rest| rest.strip_suffix(".mp4")) {
            let legal = (1..=64).contains(&hash.len()) && hash.bytes().all(|c| c.is_ascii_hexdigit());
            return legal.then_some(File::Init(hash));
        }
        let mut numbers = name.strip_suffix(".m4s")?.split('.').map(number);
        let (k, epoch) = (numbers.next()??, numbers.next()??);
        match (numbers.next(), numbers.next()) {
            (None, _) => Some(File::Chunk(k, epoch)),
            (Some(part), None) => Some(File::Part(k, epoch, part?.try_into().ok()?)),
            _ => None,
        }
    }
}

/// Plain decimal digits only: one name per chunk, no `+1` or `007`.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_we_give_out_are_files() {
        assert_eq!(File::parse("index.m3u8"), Some(File::Playlist));
        assert_eq!(File::parse("init-00ff.mp4"), Some(File::Init("00ff")));
        assert_eq!(File::parse("12.3.m4s"), Some(File::Chunk(12, 3)));
        assert_eq!(File::parse("0.1.m4s"), Some(File::Chunk(0, 1)));
        assert_eq!(File::parse("0.1.2.m4s"), Some(File::Part(0, 1, 2)));
        for bad in [
            "",
            "12.m4s",
            "+1.2.m4s",
            "01.2.m4s",
            "1.2.3.4.m4s",
            "1.2.03.m4s",
            "1.2..m4s",
            "init-.mp4",
            "init-..mp4",
            "1.2.mp4",
            "99999999999999999999.1.m4s",
        ] {
            assert_eq!(File::parse(bad), None, "{bad}");
        }
    }
}
