//! Playlists, init segments and chunks: from the line's memory while live, from the store after.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};

use super::{App, Shared, content, problem::Problem};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    line, store,
};

const VIDEO: &str = "video/mp4";
const AUDIO: &str = "audio/mp4";
/// A recording's playlists do not change, but its broadcast may be deleted.
const RECORDING_CACHE: &str = "public, max-age=60";

/// The multivariant playlist of the stream's running broadcast.
pub async fn current(State(app): Shared, Path(stream): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let stream = parse::<StreamId>(&stream)?;
    let live = app.lines.live(&stream).ok_or_else(|| offline(&stream))?;
    let text = live.multivariant.as_ref().ok_or_else(|| offline(&stream))?;
    Ok(content::playlist(text, &headers, &app.live_cache()))
}

/// The multivariant playlist of one broadcast, running or recorded.
pub async fn multivariant(
    State(app): Shared,
    Path((stream, broadcast)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (stream, broadcast) = (parse::<StreamId>(&stream)?, parse::<BroadcastId>(&broadcast)?);
    if let Some(live) = app.lines.live(&stream).filter(|live| live.broadcast == broadcast) {
        let text = live.multivariant_inside.as_ref().ok_or_else(|| offline(&stream))?;
        return Ok(content::playlist(text, &headers, &app.live_cache()));
    }
    let text = app.archive.multivariant(&stream, &broadcast).await?;
    Ok(content::playlist(&text, &headers, RECORDING_CACHE))
}

/// What lies in a rendition's folder: `index.m3u8`, `init-{hash}.mp4`, `{k}.{epoch}.m4s`.
pub async fn file(
    State(app): Shared,
    Path((stream, broadcast, rendition, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (stream, broadcast) = (parse::<StreamId>(&stream)?, parse::<BroadcastId>(&broadcast)?);
    let rendition = parse::<Rendition>(&rendition)?;
    let live = app.lines.live(&stream).filter(|live| live.broadcast == broadcast);
    let shown = live.as_ref().and_then(|live| live.renditions.get(&rendition));
    let media_type = if rendition == Rendition::audio() { AUDIO } else { VIDEO };
    match File::parse(&file).ok_or_else(nothing)? {
        File::Playlist => {
            if let Some(live) = &live {
                let text = shown.and_then(|shown| shown.playlist.as_ref()).ok_or_else(nothing)?;
                let cache = if live.state == line::State::Ended { RECORDING_CACHE } else { &app.live_cache() };
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
        let (k, epoch) = name.strip_suffix(".m4s")?.split_once('.')?;
        Some(File::Chunk(number(k)?, number(epoch)?))
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
        for bad in [
            "",
            "12.m4s",
            "+1.2.m4s",
            "01.2.m4s",
            "1.2.3.m4s",
            "init-.mp4",
            "init-..mp4",
            "1.2.mp4",
            "99999999999999999999.1.m4s",
        ] {
            assert_eq!(File::parse(bad), None, "{bad}");
        }
    }
}
