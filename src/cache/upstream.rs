//! Other nodes as sources: HTTP requests to their internal port.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use http_body_util::{BodyDataStream, BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use url::Url;

use super::{
    policy::{Failure, Why},
    pull::{Answer, Head, Source, Way},
};
use crate::auth::Secret;

/// A node on the same network answers a connect in a millisecond.
const CONNECT: Duration = Duration::from_millis(200);
/// Idle connections are given up before the other side does (30 s).
const IDLE: Duration = Duration::from_secs(20);
/// Sent with a request for what the asked node has to fetch from another ([`Way::Detour`]).
pub const DETOUR: &str = "weir-detour";
/// An answer that is no object is read up to here, for its words.
const WORDS_MAX: usize = 4 << 10;

/// The other nodes, by number. There may come more.
pub struct Nodes {
    // Held for look-ups only, never across an await.
    urls: RwLock<Vec<Arc<str>>>,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Sent with every request.
    headers: HeaderMap,
}

impl Nodes {
    /// `urls` are those of the internal ports. `via` names this process, so that a ring of edges is noticed.
    pub fn new(urls: Vec<Url>, secret: Option<&Secret>, via: &str) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        let mut headers = HeaderMap::new();
        if let Some(secret) = secret {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", secret.expose())).expect("checked with the settings");
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        headers.insert(header::VIA, HeaderValue::try_from(format!("1.1 {via}")).expect("letters and digits"));
        let urls = urls.iter().map(|url| url.as_str().into()).collect();
        Arc::new(Self { urls: RwLock::new(urls), client, headers })
    }

    pub fn len(&self) -> usize {
        self.urls.read().expect("no panic while held").len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a node; gives its number.
    pub(super) fn add(&self, url: &Url) -> usize {
        let mut urls = self.urls.write().expect("no panic while held");
        urls.push(url.as_str().into());
        urls.len() - 1
    }

    /// The address of a node.
    pub fn name(&self, upstream: usize) -> Arc<str> {
        self.urls.read().expect("no panic while held")[upstream].clone()
    }

    /// What is sent with every request.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Asks a node for `path`, which begins with a slash, and for the bytes after the first `from`.
    pub fn get(
        &self,
        upstream: usize,
        path: &str,
        from: usize,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> + Send + 'static {
        self.send(self.request(Method::GET, upstream, path, from))
    }

    /// Tells a node something.
    pub fn post(
        &self,
        upstream: usize,
        path: &str,
        body: Bytes,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> + Send + 'static {
        self.send(self.request(Method::POST, upstream, path, 0).map(|_| body.into()))
    }

    fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> + Send + 'static {
        self.client.request(request).map(|answer| answer.map_err(|why| broken(format!("no answer: {why}"))))
    }

    fn request(&self, method: Method, upstream: usize, path: &str, from: usize) -> Request<Full<Bytes>> {
        let base = self.name(upstream);
        let uri = Uri::try_from(format!("{}{path}", base.trim_end_matches('/'))).expect("made of legal names");
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        if from > 0 {
            let range = HeaderValue::try_from(format!("bytes={from}-")).expect("digits");
            request.headers_mut().insert(header::RANGE, range);
        }
        request
    }
}

impl Source for Nodes {
    fn fetch(&self, upstream: usize, way: Way, path: &str, from: usize) -> BoxFuture<'static, Result<Answer, Failure>> {
        metrics::counter!("weir_upstream_requests_total", "upstream" => self.name(upstream).to_string()).increment(1);
        let mut request = self.request(Method::GET, upstream, path, from);
        if way == Way::Detour {
            metrics::counter!("weir_cache_detours_total").increment(1);
            request.headers_mut().insert(DETOUR, HeaderValue::from_static("1"));
        }
        self.send(request).then(move |answer| read(answer, from)).boxed()
    }
}

async fn read(answer: Result<Response<Incoming>, Failure>, from: usize) -> Result<Answer, Failure> {
    let answer = answer?;
    let begin = match answer.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => from,
        _ => return Err(refused(answer).await),
    };
    let head = head(answer.headers(), begin)?;
    // An upstream that knows no ranges sends everything again.
    let mut skip = from - begin;
    let body = BodyDataStream::new(answer.into_body()).map_err(|why| broken(format!("broke off: {why}")));
    let body = body.map_ok(move |mut bytes: Bytes| {
        let known = skip.min(bytes.len());
        skip -= known;
        bytes.split_off(known)
    });
    Ok(Answer { head, body: body.boxed() })
}

fn head(headers: &HeaderMap, begin: usize) -> Result<Head, Failure> {
    let len = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    let len = len.ok_or_else(|| broken("an answer without a length"))? + begin;
    // Copied: as they came they would hold the whole buffer they were read into, for as long as the object is kept.
    let value = |name| headers.get(name).and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
    let cache_control = value(header::CACHE_CONTROL).unwrap_or(HeaderValue::from_static("no-store"));
    let content_type = value(header::CONTENT_TYPE).ok_or_else(|| broken("an answer without a type"))?;
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    let fresh = fresh(cache_control.to_str().unwrap_or_default(), age);
    Ok(Head { content_type, cache_control, len, fresh })
}

/// How long an answer counts (RFC 9111 5.2.2): `None` is for ever.
fn fresh(cache_control: &str, age: u64) -> Option<Duration> {
    let directives = || cache_control.split(',').map(str::trim);
    if directives().any(|directive| directive == "immutable") {
        return None;
    }
    let max_age = directives().find_map(|directive| directive.strip_prefix("max-age=")?.parse::<u64>().ok());
    Some(Duration::from_secs(max_age.unwrap_or(0).saturating_sub(age)))
}

/// Translates an answer that is no object.
async fn refused(answer: Response<Incoming>) -> Failure {
    let status = answer.status();
    let why = match status.as_u16() {
        404 => Why::NotFound,
        410 => Why::Gone,
        503 => Why::Unavailable,
        // This node's own fault, or the operator's: no viewer should hear "unauthorized" for it.
        401 | 403 => Why::Broken,
        400..500 => Why::Refused,
        _ => Why::Broken,
    };
    let words = Limited::new(answer.into_body(), WORDS_MAX).collect().await.map(|body| body.to_bytes());
    let words = words.ok().and_then(|body| serde_json::from_slice::<serde_json::Value>(&body).ok());
    let detail = words.as_ref().and_then(|words| words["detail"].as_str());
    Failure::new(why, detail.map_or_else(|| format!("the upstream answered {status}"), str::to_owned))
}

fn broken(detail: impl Into<Arc<str>>) -> Failure {
    Failure::new(Why::Broken, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_of_its_age_counts() {
        let secs = |n| Some(Duration::from_secs(n));
        assert_eq!(fresh("public, max-age=31536000, immutable", 5), None);
        assert_eq!(fresh("public, max-age=12", 0), secs(12));
        assert_eq!(fresh("public, max-age=12", 5), secs(7));
        assert_eq!(fresh("max-age=1", 5), secs(0));
        assert_eq!(fresh("no-store", 0), secs(0));
        assert_eq!(fresh("max-age=-1", 0), secs(0));
    }

    #[test]
    fn an_answer_must_say_its_length_and_type() {
        let mut headers = HeaderMap::new();
        assert!(head(&headers, 0).is_err());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("70"));
        assert!(head(&headers, 0).is_err());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
        let head = head(&headers, 30).unwrap();
        assert_eq!((head.len, head.fresh), (100, Some(Duration::ZERO)));
    }
}
