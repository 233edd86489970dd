//! Bodies: playlists with ETag and gzip, media bytes with Range, whole or as they arrive.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::problem::Problem;
use crate::{
    cache::{Object, Reading},
    line::Text,
    media::Pieces,
    time::now,
};

/// Bodies shorter than this are not worth compressing.
const GZIP_MIN: usize = 200;

/// Answers with a playlist: 304 when the client has it, gzip when it takes that.
pub fn playlist(text: &Text, request: &HeaderMap, cache: &str) -> Response {
    let gzip = text.body.len() >= GZIP_MIN && accepts_gzip(request);
    // A strong tag names exact bytes: the compressed form has its own.
    let etag = if gzip { text.etag.replacen('"', "\"z", 1) } else { text.etag.clone() };
    let mut response = if matches_etag(request, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body = if gzip { text.gzip() } else { &text.body };
        Response::new(Body::from(body.clone()))
    };
    let headers = response.headers_mut();
    if gzip && !headers.contains_key(header::CONTENT_ENCODING) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.apple.mpegurl"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    insert(headers, header::ETAG, &etag);
    insert(headers, header::CACHE_CONTROL, cache);
    response
}

/// Answers with bytes that never change under their name.
pub fn immutable(bytes: Pieces, content_type: &'static str, request: &HeaderMap) -> Response {
    let mut response = ranged(bytes.len(), request, |range| {
        let bytes = if range.len() == bytes.len() { bytes } else { bytes.slice(range) };
        Body::new(InPieces { left: bytes.len() as u64, bytes, next: 0 })
    });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    response
}

/// Answers with what another node has: media as it arrives, a playlist once it is there.
pub async fn pulled(mut reading: Reading, object: &Object, request: &HeaderMap) -> Result<Response, Problem> {
    if object.is_playlist() {
        let done = reading.done().await?;
        let head = reading.head().await?;
        let text = done.text.as_ref().expect("a finished playlist is a text");
        let mut response = playlist(text, request, head.cache_control.to_str().unwrap_or("no-store"));
        // What a cache behind this one may keep it for is less by what it was kept here (RFC 9111 5.1).
        let age = (now() - done.at).as_secs();
        if age > 0 {
            response.headers_mut().insert(header::AGE, age.into());
        }
        return Ok(response);
    }
    let head = reading.head().await?;
    let mut response =
        ranged(head.len, request, |range| Body::new(Arriving { reading, at: range.start, end: range.end }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, head.content_type.clone());
    headers.insert(header::CACHE_CONTROL, head.cache_control.clone());
    Ok(response)
}

/// Answers with the part of `total` bytes that is asked for; one range is honoured (RFC 9110 14).
fn ranged(total: usize, request: &HeaderMap, body: impl FnOnce(std::ops::Range<usize>) -> Body) -> Response {
    let range = request.get(header::RANGE).and_then(|value| value.to_str().ok()).map(|text| range(text, total));
    let mut response = match range {
        Some(Range::Part(from, to)) => {
            let mut part = Response::new(body(from..to + 1));
            *part.status_mut() = StatusCode::PARTIAL_CONTENT;
            insert(part.headers_mut(), header::CONTENT_RANGE, &format!("bytes {from}-{to}/{total}"));
            part
        }
        Some(Range::Impossible) => {
            let mut none = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            insert(none.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{total}"));
            none
        }
        Some(Range::Whole) | None => Response::new(body(0..total)),
    };
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// A body that is sent as it arrives from another node; its length is known.
struct Arriving {
    reading: Reading,
    at: usize,
    end: usize,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (at, end) = (self.at, self.end);
        if at == end {
            return Poll::Ready(None);
        }
        self.reading.poll_bytes(cx, at).map(|piece| match piece {
            Some(Ok(mut bytes)) => {
                bytes.truncate(end - at);
                self.at += bytes.len();
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(failure)) => Some(Err(std::io::Error::other(failure.detail.to_string()))),
            None => Some(Err(std::io::Error::other("it ended early"))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.end - self.at) as u64)
    }
}

/// A body that is sent piece by piece; its length is known.
struct InPieces {
    bytes: Pieces,
    next: usize,
    left: u64,
}

impl http_body::Body for InPieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.bytes.get(self.next).cloned();
        self.next += 1;
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    headers.insert(name, HeaderValue::from_str(value).expect("made of digits, hex and plain words"));
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// First and last byte.
    Part(usize, usize),
    Impossible,
    /// Not a single byte range: ignored, as the RFC allows.
    Whole,
}

fn range(text: &str, total: usize) -> Range {
    let Some(spec) = text.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else { return Range::Whole };
    let Some((from, to)) = spec.split_once('-') else { return Range::Whole };
    let (from, to) = (from.trim(), to.trim());
    let number = |text: &str| text.parse::<usize>();
    match (from.is_empty(), to.is_empty()) {
        (true, true) => Range::Whole,
        (true, false) => match number(to) {
            Ok(0) => Range::Impossible,
            Ok(last) if total > 0 => Range::Part(total.saturating_sub(last), total - 1),
            Ok(_) => Range::Impossible,
            Err(_) => Range::Whole,
        },
        (false, open) => match (number(from), if open { Ok(usize::MAX) } else { number(to) }) {
            (Ok(from), Ok(to)) if from > to => Range::Whole,
            (Ok(from), Ok(to)) if from < total => Range::Part(from, to.min(total - 1)),
            (Ok(_), Ok(_)) => Range::Impossible,
            _ => Range::Whole,
        },
    }
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let Some(accept) = request.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else { return false };
    accept.split(',').any(|item| {
        let (name, weight) = item.split_once(';').unwrap_or((item, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0));
        matches!(name.trim(), "gzip" | "*") && !refused
    })
}

fn matches_etag(request: &HeaderMap, etag: &str) -> bool {
    let Some(tags) = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else { return false };
    tags.split(',').any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_rfc() {
        for (text, want) in [
            ("bytes=0-0", Range::Part(0, 0)),
            ("bytes=0-", Range::Part(0, 99)),
            ("bytes=10-500", Range::Part(10, 99)),
            ("bytes=-10", Range::Part(90, 99)),
            ("bytes=-500", Range::Part(0, 99)),
            ("bytes=100-", Range::Impossible),
            ("bytes=-0", Range::Impossible),
            ("bytes=5-1", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("items=0-1", Range::Whole),
        ] {
            assert_eq!(range(text, 100), want, "{text}");
        }
        assert_eq!(range("bytes=-5", 0), Range::Impossible);
    }

    #[test]
    fn gzip_only_when_asked_for() {
        let ask = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
            accepts_gzip(&headers)
        };
        assert!(ask("gzip") && ask("br, gzip;q=0.5") && ask("*"));
        assert!(!ask("br") && !ask("gzip;q=0") && !accepts_gzip(&HeaderMap::new()));
    }
}
