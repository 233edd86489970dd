//! Talks to a running node's HTTP API: one request, one JSON answer, errors in the operator's words.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use ureq::{
    Agent, Body,
    http::{Response, Uri},
};

use crate::id::StreamId;

/// A node that answers at all does so at once; this is for one that hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Says why the node gave no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("http.listen has port 0, which the running node has replaced by a free one: give it with --url")]
    UnknownPort,
    #[error("{0:?} is not the address of a node, such as http://127.0.0.1:8080")]
    Url(String),
    #[error(
        "no admin token at {path} ({reason}): the first start of `weir serve` writes it into its data.dir; run this \
         command in the same folder, name the configuration with --config, or the file with --token-file",
        path = path.display()
    )]
    Token { path: PathBuf, reason: String },
    #[error("no node answers at {url} ({reason}): is `weir serve` running? give its address with --url")]
    Unreachable { url: String, reason: String },
    #[error(
        "the node at {url} refuses the admin token of {path}: is the token of another node? name its own with \
         --token-file",
        path = path.display()
    )]
    Unauthorized { url: String, path: PathBuf },
    #[error("there is no stream {0}; `weir stream list` shows those that exist")]
    NotFound(StreamId),
    #[error("there is a stream {0} already; `weir stream rotate-key {0}` gives it a new key")]
    Exists(StreamId),
    /// Any other refusal, in the node's own words (rfc9457).
    #[error("the node refuses: {words} (HTTP {status})")]
    Refused { status: u16, words: String },
    #[error("what answers at {url} is not a node of this version: {reason}")]
    Foreign { url: String, reason: String },
}

/// Makes the URL of a node on this machine from the address that it listens on.
pub fn url_of(listen: SocketAddr) -> Result<String, Error> {
    let mut to = listen;
    if to.port() == 0 {
        return Err(Error::UnknownPort);
    }
    if to.ip().is_unspecified() {
        to.set_ip(if to.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(format!("http://{to}"))
}

/// One node's API and the token for it.
pub struct Client {
    agent: Agent,
    url: String,
    path: PathBuf,
    bearer: String,
}

impl Client {
    /// Reads the token; nothing is sent yet.
    pub fn open(url: &str, token: &Path) -> Result<Self, Error> {
        let bad = || Error::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() || uri.query().is_some() {
            return Err(bad());
        }
        let missing = |reason: String| Error::Token { path: token.to_owned(), reason };
        let text = std::fs::read_to_string(token).map_err(|error| missing(error.to_string()))?;
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(missing("the file holds no token".into()));
        }
        // A proxy is for the way out, a node is asked directly.
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).proxy(None);
        Ok(Self {
            agent: agent.build().into(),
            url: url.trim_end_matches('/').to_owned(),
            path: token.to_owned(),
            bearer: format!("Bearer {text}"),
        })
    }

    /// Asks for something; `stream` is the one that a 404 is about.
    pub fn get(&self, path: &str, stream: Option<&StreamId>) -> Result<Value, Error> {
        let request = self.agent.get(format!("{}{path}", self.url)).header("authorization", &self.bearer);
        self.answer(request.call(), stream)
    }

    /// Sends an order; `stream` as in [`Client::get`].
    pub fn post(&self, path: &str, body: &Value, stream: Option<&StreamId>) -> Result<Value, Error> {
        let request = self.agent.post(format!("{}{path}", self.url)).header("authorization", &self.bearer);
        self.answer(request.send_json(body), stream)
    }

    /// Sets something of a stream.
    pub fn put(&self, path: &str, body: &Value, stream: &StreamId) -> Result<Value, Error> {
        let request = self.agent.put(format!("{}{path}", self.url)).header("authorization", &self.bearer);
        self.answer(request.send_json(body), Some(stream))
    }

    /// Deletes something; the answer is null.
    pub fn delete(&self, path: &str, stream: Option<&StreamId>) -> Result<Value, Error> {
        let request = self.agent.delete(format!("{}{path}", self.url)).header("authorization", &self.bearer);
        self.answer(request.call(), stream)
    }

    /// Asks for something that is no JSON.
    pub fn text(&self, path: &str) -> Result<String, Error> {
        let request = self.agent.get(format!("{}{path}", self.url)).header("authorization", &self.bearer);
        self.heard(request.call(), None)
    }

    fn answer(&self, answer: Result<Response<Body>, ureq::Error>, stream: Option<&StreamId>) -> Result<Value, Error> {
        let text = self.heard(answer, stream)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        let foreign = |error: serde_json::Error| Error::Foreign { url: self.url.clone(), reason: error.to_string() };
        serde_json::from_str(&text).map_err(foreign)
    }

    fn heard(&self, answer: Result<Response<Body>, ureq::Error>, stream: Option<&StreamId>) -> Result<String, Error> {
        let url = || self.url.clone();
        let unreachable = |error: ureq::Error| Error::Unreachable { url: url(), reason: reason(error) };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().map_err(unreachable)?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        match (status, stream) {
            (401 | 403, _) => Err(Error::Unauthorized { url: url(), path: self.path.clone() }),
            (404, Some(stream)) => Err(Error::NotFound(stream.clone())),
            (409, Some(stream)) => Err(Error::Exists(stream.clone())),
            (404, None) if !is_problem(&text) => {
                Err(Error::Foreign { url: url(), reason: "it does not know the API (HTTP 404)".into() })
            }
            _ => Err(Error::Refused { status, words: words(&text) }),
        }
    }
}

fn reason(error: ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Whether the node itself says what is missing.
fn is_problem(body: &str) -> bool {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    problem["detail"].as_str().is_some_and(|detail| detail != "no such page")
}

/// Takes the words of an `application/problem+json` body; a body of another kind counts as its first line.
fn words(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    match (problem["title"].as_str(), problem["detail"].as_str()) {
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(text), None) | (None, Some(text)) => text.into(),
        (None, None) => match body.lines().next().unwrap_or_default().trim() {
            "" => "it gives no reason".into(),
            line => line.chars().take(200).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        thread::JoinHandle,
    };

    /// Answers one request with the given bytes and hands back what was asked.
    fn node(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(socket);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head += &line;
            }
            let mut asked = vec![0; length];
            reader.read_exact(&mut asked).unwrap();
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            head + &String::from_utf8(asked).unwrap()
        });
        (url, served)
    }

    fn token(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    fn alice() -> StreamId {
        StreamId::new("alice").unwrap()
    }

    #[test]
    fn orders_carry_the_token_and_the_body() {
        let (url, served) = node("201 Created", r#"{"id":"alice","key":"k"}"#);
        let client = Client::open(&url, token("secret\n").path()).unwrap();
        let answer = client.post("/api/v1/streams", &serde_json::json!({ "id": "alice" }), Some(&alice())).unwrap();
        assert_eq!(answer["key"], "k");
        let asked = served.join().unwrap();
        assert!(asked.starts_with("POST /api/v1/streams HTTP/1.1\r\n"), "{asked}");
        let (head, body) = asked.split_once("{").unwrap();
        assert!(head.contains("authorization: Bearer secret\r\n"), "{head}");
        let body: Value = serde_json::from_str(&format!("{{{body}")).unwrap();
        assert_eq!(body, serde_json::json!({ "id": "alice" }));
    }

    #[test]
    fn deletion_has_no_answer() {
        let (url, served) = node("204 No Content", "");
        let client = Client::open(&url, token("secret").path()).unwrap();
        assert_eq!(client.delete("/api/v1/streams/alice", Some(&alice())).unwrap(), Value::Null);
        assert!(served.join().unwrap().starts_with("DELETE /api/v1/streams/alice HTTP/1.1\r\n"));
    }

    #[test]
    fn refusals_become_words() {
        let problem = r#"{"title":"Disk full","detail":"no space left","status":507}"#;
        for (status, body, expected) in [
            ("401 Unauthorized", "", "refuses the admin token"),
            ("404 Not Found", problem, "there is no stream alice"),
            ("409 Conflict", problem, "there is a stream alice already"),
            ("507 Insufficient Storage", problem, "the node refuses: Disk full: no space left (HTTP 507)"),
            ("500 Oops", "stack\nof words", "the node refuses: stack (HTTP 500)"),
            ("503 Busy", "", "the node refuses: it gives no reason (HTTP 503)"),
            ("200 OK", "<html>", "not a node of this version"),
        ] {
            let (url, served) = node(status, body);
            let client = Client::open(&url, token("secret").path()).unwrap();
            let error = client.get("/api/v1/streams/alice", Some(&alice())).unwrap_err().to_string();
            assert!(error.contains(expected), "{status}: {error}");
            assert!(!error.contains("secret"), "{error}");
            served.join().unwrap();
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_named() {
        // The port is free again when the listener is gone.
        let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let client = Client::open(&url, token("secret").path()).unwrap();
        let error = client.get("/api/v1/status", None).unwrap_err().to_string();
        assert!(error.contains(&format!("no node answers at {url}")) && error.contains("weir serve"), "{error}");
    }

    #[test]
    fn a_missing_or_empty_token_is_named() {
        let url = "http://127.0.0.1:1";
        let error = Client::open(url, Path::new("no/admin.token")).err().unwrap().to_string();
        assert!(error.contains("no admin token at no/admin.token") && error.contains("--token-file"), "{error}");
        for text in ["", "\n", "a b", "a\r\nx: y"] {
            let error = Client::open(url, token(text).path()).err().unwrap().to_string();
            assert!(error.contains("holds no token"), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_addresses_of_nodes_are_taken() {
        let token = token("secret");
        for bad in ["", "127.0.0.1:8080", "https://x", "ftp://x", "http://", "http://x/?a=b", "http://a b"] {
            assert!(matches!(Client::open(bad, token.path()), Err(Error::Url(_))), "{bad}");
        }
        for good in ["http://127.0.0.1:8080", "http://weir.example/", "http://[::1]:80"] {
            assert!(Client::open(good, token.path()).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_listening_address_becomes_a_url() {
        for (listen, url) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("10.0.0.7:80", "http://10.0.0.7:80"),
        ] {
            assert_eq!(url_of(listen.parse().unwrap()).unwrap(), url);
        }
        assert!(matches!(url_of("0.0.0.0:0".parse().unwrap()), Err(Error::UnknownPort)));
    }
}
