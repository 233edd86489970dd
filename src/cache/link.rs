//! The link from an edge to each of its upstreams: one long answer of `GET /internal/v1/link`, a JSON message per line.
//!
//! It says that the upstream is alive (a beat at least every [`BEAT`]), who may watch, which streams are live, and what a
//! pushed stream just listed. An upstream that is silent for [`SILENCE`] counts as gone: what was asked of it is asked of
//! another, well within a chunk. The link is opened again for as long as the node runs; what was heard last counts
//! meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyDataStream;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
    sync::CancellationToken,
};
use tracing::{info, warn};

use super::{Cache, Object, upstream::Nodes};
use crate::{id::StreamId, store::AccessRow};

/// Where an upstream answers with its link.
pub const PATH: &str = "/internal/v1/link";
/// An upstream says something at least this often.
pub const BEAT: Duration = Duration::from_millis(250);
/// An upstream that says nothing for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(1);
/// Between two tries to open a link.
const AGAIN: Duration = Duration::from_millis(250);
/// A message with some 100,000 revoked tickets.
const LINE_MAX: usize = 16 << 20;

/// What an upstream says. What a reader does not know it passes over: nodes of two versions understand each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Alive, and nothing else to say.
    Beat,
    /// Who may watch, whole. The first message of a link.
    Access(Access),
    /// A stream that is shown, as `GET /api/v1/streams/{id}` gives it.
    Stream { id: StreamId, view: Value },
    /// A stream that is shown no more.
    Gone { id: StreamId },
    /// A pushed stream's new object: its path, `/hls/...`.
    Listed { path: String },
}

/// Who may watch, as one upstream sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Access {
    /// Streams need a ticket unless a row says otherwise.
    pub ticket: bool,
    pub rows: Vec<AccessRow>,
}

#[derive(Default)]
struct Heard {
    access: Option<Access>,
    streams: BTreeMap<StreamId, Value>,
}

/// What the holder of a link is told.
pub enum News<'a> {
    /// Who may watch has changed.
    Access,
    /// A pushed stream listed this; it is being fetched.
    Listed(&'a Object),
}

/// The links to all upstreams, and what was heard on them.
pub struct Links {
    nodes: Arc<Nodes>,
    cache: Cache,
    // Held for look-ups only, never across an await.
    heard: Vec<Mutex<Heard>>,
}

impl Links {
    /// Links that nobody drives yet: until one speaks, its upstream is not asked for anything.
    pub fn new(nodes: Arc<Nodes>, cache: Cache) -> Arc<Self> {
        let heard = (0..nodes.len()).map(|_| Mutex::default()).collect();
        Arc::new(Self { nodes, cache, heard })
    }

    /// Who may watch: the stricter default, and the rows of all upstreams.
    pub fn access(&self) -> Access {
        let mut all = Access::default();
        for heard in &self.heard {
            if let Some(access) = &heard.lock().expect("no panic while held").access {
                all.ticket |= access.ticket;
                all.rows.extend(access.rows.iter().cloned());
            }
        }
        all
    }

    /// The streams that upstreams show, by name; of two that show one, the first.
    pub fn streams(&self) -> BTreeMap<StreamId, Value> {
        let mut all = BTreeMap::new();
        for heard in &self.heard {
            for (id, view) in &heard.lock().expect("no panic while held").streams {
                all.entry(id.clone()).or_insert_with(|| view.clone());
            }
        }
        all
    }

    /// How an upstream shows a stream.
    pub fn stream(&self, id: &StreamId) -> Option<Value> {
        self.heard.iter().find_map(|heard| heard.lock().expect("no panic while held").streams.get(id).cloned())
    }

    /// Holds the link to one upstream until `stop`. What it has is asked for only after `told` heard who may watch it.
    pub async fn hold(self: Arc<Self>, upstream: usize, stop: CancellationToken, told: impl Fn(News)) {
        let name = self.nodes.name(upstream).to_owned();
        let mut reached = true;
        while !stop.is_cancelled() {
            let ended = stop.run_until_cancelled(self.listen(upstream, &told)).await;
            let Some(why) = ended else { break };
            if self.cache.set_alive(upstream, false) || reached {
                warn!(upstream = %name, %why, "the link to an upstream ended; it is tried again until it answers");
            }
            reached = false;
            stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
        }
    }

    /// Reads one link to its end, which it gives in words.
    async fn listen(&self, upstream: usize, told: &impl Fn(News)) -> String {
        let answer = match timeout(SILENCE, self.nodes.get(upstream, PATH, 0)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => return failure.detail.to_string(),
            Err(_) => return "no answer".into(),
        };
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return "it refuses our internal.secret".into(),
            status => return format!("it answered {status}: is this its internal port?"),
        }
        let body = BodyDataStream::new(answer.into_body()).map_err(std::io::Error::other);
        let mut lines = FramedRead::new(StreamReader::new(body), LinesCodec::new_with_max_length(LINE_MAX));
        self.heard[upstream].lock().expect("no panic while held").streams.clear();
        loop {
            let line = match timeout(SILENCE, lines.next()).await {
                Ok(Some(Ok(line))) => line,
                Ok(Some(Err(why))) => return why.to_string(),
                Ok(None) => return "it closed".into(),
                Err(_) => return "silence".into(),
            };
            // A message of a newer version.
            let Ok(message) = serde_json::from_str(&line) else { continue };
            self.take(upstream, message, told);
        }
    }

    fn take(&self, upstream: usize, message: Message, told: &impl Fn(News)) {
        let heard = || self.heard[upstream].lock().expect("no panic while held");
        match message {
            Message::Beat => {}
            Message::Access(access) => {
                heard().access = Some(access);
                told(News::Access);
                if self.cache.set_alive(upstream, true) {
                    info!(upstream = self.nodes.name(upstream), "upstream is there");
                }
            }
            Message::Stream { id, view } => _ = heard().streams.insert(id, view),
            Message::Gone { id } => _ = heard().streams.remove(&id),
            Message::Listed { path } => {
                let object = path.strip_prefix("/hls/").and_then(|path| Object::parse(path, None).ok());
                if let Some(object) = object {
                    self.cache.prefetch(&object);
                    told(News::Listed(&object));
                }
            }
        }
    }
}
