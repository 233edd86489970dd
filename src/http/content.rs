//! Bodies: playlists with ETag and gzip, media bytes with Range, whole or as they arrive.

use std::{
    ops::Range,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::{Frame, SizeHint};

use super::{front::Running, problem::Problem};
use crate::{
    cache::{Head, Kept, Object, Reading},
    line::Text,
    media::Pieces,
    recording::Export,
    store,
    time::now,
};

/// Pieces that HTTP/2 is given at once.
const FRAME: usize = 64 << 10;
/// Bodies shorter than this are not worth compressing.
const GZIP_MIN: usize = 200;

/// Cache-Control of what never changes under its name.
pub const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Headers of media: any page may play, nothing is guessed from the bytes. What differs from answer to answer has its place
/// here already: a map that need not grow is cloned in one go.
static MEDIA: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut headers = HeaderMap::new();
    open_to_all(&mut headers);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
});
static PLAYLIST: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut headers = MEDIA.clone();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.apple.mpegurl"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(header::ETAG, HeaderValue::from_static("\"\""));
    headers
});
static RANGED: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut headers = MEDIA.clone();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers
});

/// An answer of which nobody on its way keeps a copy.
pub type Fresh<T> = ([(HeaderName, &'static str); 1], Json<T>);

pub fn fresh<T>(answer: T) -> Fresh<T> {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer))
}

/// The same of JSON that is text already.
pub fn fresh_text(json: String) -> axum::response::Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json).into_response()
}

/// Lets the scripts of any page read an answer.
pub fn open_to_all(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = HeaderValue::from_static("age,content-range,date,etag");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

/// Answers with the text of a storyboard, as [`playlist`].
pub fn webvtt(text: &Text, request: &HeaderMap, cache: HeaderValue) -> Response<Content> {
    let mut response = playlist(text, request, cache);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/vtt; charset=utf-8"));
    response
}

/// Answers with JSON that is the same for all, as [`playlist`].
pub fn json(text: &Text, request: &HeaderMap, cache: HeaderValue) -> Response<Content> {
    let mut response = playlist(text, request, cache);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Answers with a picture.
pub fn jpeg(bytes: Bytes, request: &HeaderMap, cache: HeaderValue) -> Response<Content> {
    let mut response = ranged(bytes.len(), request, |range| Content::whole(bytes.slice(range)));
    describe(&mut response, HeaderValue::from_static("image/jpeg"), cache);
    response
}

/// Answers with a playlist: 304 when the client has it, gzip when it takes that.
pub fn playlist(text: &Text, request: &HeaderMap, cache: HeaderValue) -> Response<Content> {
    let gzip = text.body.len() >= GZIP_MIN && accepts_gzip(request);
    // A strong tag names exact bytes: the compressed form has its own.
    let etag = if gzip { &text.etag_gzip } else { &text.etag };
    let has_it = matches_etag(request, etag.as_bytes());
    let body = match gzip {
        _ if has_it => Bytes::new(),
        true => text.gzip().clone(),
        false => text.body.clone(),
    };
    let mut response = Response::new(Content::whole(body));
    let headers = response.headers_mut();
    *headers = PLAYLIST.clone();
    headers.insert(header::ETAG, etag.clone());
    headers.insert(header::CACHE_CONTROL, cache);
    if has_it {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Answers with bytes that never change under their name.
pub fn immutable(bytes: Pieces, content_type: &'static str, request: &HeaderMap) -> Response<Content> {
    let mut response = ranged(bytes.len(), request, |range| {
        let bytes = if range.len() == bytes.len() { bytes } else { bytes.slice(range) };
        Content::pieces(bytes)
    });
    describe(&mut response, HeaderValue::from_static(content_type), IMMUTABLE);
    response
}

/// Says what is sent; of a range that cannot be there is nothing to say.
fn describe(response: &mut Response<Content>, content_type: HeaderValue, cache_control: HeaderValue) {
    if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.headers_mut().insert(header::CACHE_CONTROL, cache_control);
    }
}

/// Answers with a recording as one file, which the browser is told to save.
pub fn download<S>(
    export: Arc<Export>,
    name: &str,
    request: &HeaderMap,
    read: impl FnOnce(Arc<Export>, Range<u64>) -> S,
) -> Response<Content>
where
    S: Stream<Item = store::Result<Bytes>> + Send + 'static,
{
    let tag = HeaderValue::try_from(format!("\"{}\"", export.tag)).expect("hex digits");
    let saved = format!("attachment; filename=\"{name}\"");
    // Who resumes what has changed meanwhile gets all of it again (RFC 9110 13.1.5).
    let resumed = request.get(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let asked = if resumed { request.clone() } else { HeaderMap::new() };
    let mut response = ranged(export.len() as usize, &asked, |range| {
        let len = range.len();
        Content::of(Body::Read(Box::pin(read(export, range.start as u64..range.end as u64)), len))
    });
    let cache = HeaderValue::from_static("private, max-age=60");
    describe(&mut response, HeaderValue::from_static("video/mp4"), cache);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::try_from(saved).expect("names are plain letters"));
    response
}

/// The same answer to HEAD: HTTP/1.1 would leave the body out by itself, HTTP/2 does not.
pub fn without_body(response: Response<Content>) -> Response<Content> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = http_body::Body::size_hint(&body).exact()
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
        && parts.status != StatusCode::NOT_MODIFIED
    {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Content::whole(Bytes::new()))
}

/// Answers with what another node has: media as it arrives, a playlist once it is there.
pub async fn pulled(mut reading: Reading, object: &Object, request: &HeaderMap) -> Result<Response<Content>, Problem> {
    if object.is_playlist() {
        let done = reading.done().await?;
        return Ok(kept(&Kept { head: reading.head().await?, done }, request));
    }
    let head = reading.head().await?;
    let arriving = |range: Range<usize>| Content::arriving(Arriving { reading, at: range.start, end: range.end });
    Ok(with_types(ranged(head.len, request, arriving), &head))
}

/// Answers with what was pulled and is all there.
pub fn kept(kept: &Kept, request: &HeaderMap) -> Response<Content> {
    let Kept { head, done } = kept;
    let Some(text) = &done.text else {
        let whole = |range: Range<usize>| Content::whole(done.bytes.slice(range));
        return with_types(ranged(head.len, request, whole), head);
    };
    let mut response = playlist(text, request, head.cache_control.clone());
    // What a cache behind this one may keep it for is less by what it was kept here (RFC 9111 5.1).
    let age = (now() - done.at).as_secs();
    if age > 0 {
        response.headers_mut().insert(header::AGE, age.into());
    }
    response
}

fn with_types(mut response: Response<Content>, head: &Head) -> Response<Content> {
    describe(&mut response, head.content_type.clone(), head.cache_control.clone());
    response
}

/// Answers with the part of `total` bytes that is asked for; one range is honoured (RFC 9110 14).
fn ranged(total: usize, request: &HeaderMap, body: impl FnOnce(Range<usize>) -> Content) -> Response<Content> {
    let wanted = request.get(header::RANGE).and_then(|value| value.to_str().ok()).map(|text| wanted(text, total));
    let (body, status, range) = match wanted {
        Some(Wanted::Part(from, to)) => {
            (body(from..to + 1), StatusCode::PARTIAL_CONTENT, Some(format!("bytes {from}-{to}/{total}")))
        }
        Some(Wanted::Impossible) => {
            (Content::whole(Bytes::new()), StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{total}")))
        }
        Some(Wanted::Whole) | None => (body(0..total), StatusCode::OK, None),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = RANGED.clone();
    if let Some(range) = range {
        let range = HeaderValue::try_from(range).expect("digits and plain words");
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// The body of an answer.
pub struct Content {
    body: Body,
    /// Its place among the requests that are being answered; given back with the last byte.
    running: Option<Running>,
}

enum Body {
    Whole(Bytes),
    /// Sent piece by piece; what is left of its bytes, and the next piece.
    Pieces(Pieces, usize, usize),
    /// Boxed, because the others are small.
    Arriving(Box<Arriving>),
    /// Read piece by piece, and what is left of its bytes.
    Read(Reader, usize),
    Routed(axum::body::Body),
}

type Reader = Pin<Box<dyn Stream<Item = store::Result<Bytes>> + Send>>;

/// What is sent as it arrives from another node; its length is known.
struct Arriving {
    reading: Reading,
    at: usize,
    end: usize,
}

impl std::fmt::Debug for Arriving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arriving({}..{})", self.at, self.end)
    }
}

impl Content {
    fn of(body: Body) -> Self {
        Self { body, running: None }
    }

    pub fn whole(bytes: Bytes) -> Self {
        Self::of(Body::Whole(bytes))
    }

    fn pieces(bytes: Pieces) -> Self {
        Self::of(Body::Pieces(bytes.clone(), bytes.len(), 0))
    }

    fn arriving(arriving: Arriving) -> Self {
        Self::of(Body::Arriving(Box::new(arriving)))
    }

    /// What a route of the router answers with.
    pub fn routed(body: axum::body::Body) -> Self {
        Self::of(Body::Routed(body))
    }

    /// Keeps a place until the last byte is sent.
    pub fn holds(&mut self, running: Running) {
        self.running = Some(running);
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = self.next(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(running)) = (&frame, &self.running) {
            running.sent(frame.data_ref().map_or(0, Bytes::len));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Pieces(_, left, _) | Body::Read(_, left) => *left == 0,
            Body::Arriving(arriving) => arriving.at == arriving.end,
            Body::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pieces(_, left, _) | Body::Read(_, left) => SizeHint::with_exact(*left as u64),
            Body::Arriving(arriving) => SizeHint::with_exact((arriving.end - arriving.at) as u64),
            Body::Routed(body) => body.size_hint(),
        }
    }
}

impl Content {
    fn next(&mut self, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let early = |why: &str| Some(Err(std::io::Error::other(why.to_owned()).into()));
        let in_frames = self.running.as_ref().is_some_and(Running::by_http2);
        match &mut self.body {
            Body::Whole(bytes) => {
                let bytes = match in_frames && bytes.len() > FRAME {
                    true => bytes.split_to(FRAME),
                    false => std::mem::take(bytes),
                };
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Pieces(pieces, left, next) => {
                let piece = pieces.get(*next).cloned();
                *next += 1;
                *left -= piece.as_ref().map_or(0, Bytes::len);
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
            }
            Body::Arriving(arriving) => {
                let (at, end) = (arriving.at, arriving.end);
                if at == end {
                    return Poll::Ready(None);
                }
                arriving.reading.poll_bytes(cx, at).map(|piece| match piece {
                    Some(Ok(mut bytes)) => {
                        bytes.truncate(end - at);
                        arriving.at += bytes.len();
                        Some(Ok(Frame::data(bytes)))
                    }
                    Some(Err(failure)) => early(&failure.detail),
                    None => early("it ended early"),
                })
            }
            Body::Read(pieces, left) => pieces.poll_next_unpin(cx).map(|piece| match piece {
                Some(Ok(bytes)) => {
                    *left = left.saturating_sub(bytes.len());
                    Some(Ok(Frame::data(bytes)))
                }
                Some(Err(why)) => early(&why.to_string()),
                None => None,
            }),
            Body::Routed(body) => http_body::Body::poll_frame(Pin::new(body), cx).map_err(Into::into),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// First and last byte.
    Part(usize, usize),
    Impossible,
    /// Not a single byte range: ignored, as the RFC allows.
    Whole,
}

fn wanted(text: &str, total: usize) -> Wanted {
    let Some(spec) = text.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else {
        return Wanted::Whole;
    };
    let Some((from, to)) = spec.split_once('-') else { return Wanted::Whole };
    let (from, to) = (from.trim(), to.trim());
    let number = |text: &str| text.parse::<usize>();
    match (from.is_empty(), to.is_empty()) {
        (true, true) => Wanted::Whole,
        (true, false) => match number(to) {
            Ok(0) => Wanted::Impossible,
            Ok(last) if total > 0 => Wanted::Part(total.saturating_sub(last), total - 1),
            Ok(_) => Wanted::Impossible,
            Err(_) => Wanted::Whole,
        },
        (false, open) => match (number(from), if open { Ok(usize::MAX) } else { number(to) }) {
            (Ok(from), Ok(to)) if from > to => Wanted::Whole,
            (Ok(from), Ok(to)) if from < total => Wanted::Part(from, to.min(total - 1)),
            (Ok(_), Ok(_)) => Wanted::Impossible,
            _ => Wanted::Whole,
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

fn matches_etag(request: &HeaderMap, etag: &[u8]) -> bool {
    let Some(tags) = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else { return false };
    tags.split(',').any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/").as_bytes() == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_rfc() {
        for (text, want) in [
            ("bytes=0-0", Wanted::Part(0, 0)),
            ("bytes=0-", Wanted::Part(0, 99)),
            ("bytes=10-500", Wanted::Part(10, 99)),
            ("bytes=-10", Wanted::Part(90, 99)),
            ("bytes=-500", Wanted::Part(0, 99)),
            ("bytes=100-", Wanted::Impossible),
            ("bytes=-0", Wanted::Impossible),
            ("bytes=5-1", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(text, 100), want, "{text}");
        }
        assert_eq!(wanted("bytes=-5", 0), Wanted::Impossible);
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
