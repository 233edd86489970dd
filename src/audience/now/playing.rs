//! What streams play, between the board, the store and other nodes.
//!
//! Nodes that make chunks read the store once for each stream, and write each change to it; the others ask those once, and hand
//! changes on to them. From then on all of them hear of changes on their links.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    Now, Wish,
    board::{Board, Changed, Kept, RECENT},
};
use crate::{
    cache::{link::Links, upstream::Nodes},
    id::{EventId, StreamId},
    ingest::Hears,
    line::Marks,
    package::Mark,
    rtmp::flv::Metadata,
    store::{self, ChatLog, ChatRow, ChatWrite, Meta},
    time::unix_now,
};

/// Where nodes ask each other; a stream's name follows.
pub const PATH: &str = "/internal/v1/now/";
/// The store, or another node, has so long to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What a node answers with is shorter.
const ANSWER_MAX: usize = 256 << 10;
/// Encoders whose word is being dealt with; one more is not listened to until it says something else.
const SAYING: usize = 256;
/// Encoders whose last word is known.
const SAID: usize = 10_000;
/// How often a line's stream is looked up again where nobody answers.
const AGAIN: Duration = Duration::from_secs(5);

/// What was set.
#[derive(Debug)]
pub struct Set {
    pub now: Arc<Now>,
    /// It will be known after a restart of all nodes.
    pub stored: bool,
}

/// What another node says to a change that was handed on.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Why it cannot be told, or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is known in a moment, perhaps.
    #[error("whoever knows what the stream plays does not answer")]
    Unavailable,
    #[error("what plays is changed too often")]
    TooOften(Duration),
}

/// Who wants a change that is handed on to another node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Its encoder, whose key was good.
    Encoder,
    /// Whoever this header, `Authorization`, is of.
    Program(Option<String>),
}

/// A change that is handed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Posted {
    /// Nothing: it plays nothing any more.
    pub wish: Option<Wish>,
    pub by: By,
}

/// Who knows what a board does not.
enum Truth {
    Store(Arc<dyn Meta>),
    Upstreams(Arc<Nodes>),
}

struct Shared {
    board: Board,
    truth: Truth,
    links: Option<Arc<Links>>,
    /// Tells this node's stamps from those of others.
    tag: u16,
    said: Cache<StreamId, Wish>,
    saying: Arc<Semaphore>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Playing(Arc<Shared>);

impl Playing {
    /// With `upstreams`, which are those of the links, the store is not asked: it is not here.
    pub fn new(meta: Arc<dyn Meta>, links: Option<Arc<Links>>, upstreams: Option<Arc<Nodes>>) -> Self {
        let truth = upstreams.map_or_else(|| Truth::Store(meta), Truth::Upstreams);
        Self(Arc::new(Shared {
            board: Board::default(),
            truth,
            links,
            tag: rand::random(),
            said: Cache::new(SAID),
            saying: Arc::new(Semaphore::new(SAYING)),
        }))
    }

    pub fn board(&self) -> &Board {
        &self.0.board
    }

    /// What a stream plays; looked up once, for all who ask.
    pub async fn known(&self, stream: &StreamId) -> Result<Kept, Problem> {
        let look = async {
            let found = match &self.0.truth {
                Truth::Store(meta) => timeout(PATIENCE, self.stored(&**meta, stream)).await,
                Truth::Upstreams(nodes) => timeout(PATIENCE, self.ask(nodes, stream)).await.map(Ok),
            };
            match found {
                Ok(Ok(Answer::Known(found))) => Ok(Some(found)),
                Ok(Ok(Answer::Absent)) => Ok(None),
                Ok(Ok(Answer::Silent)) | Err(_) => Err(Problem::Unavailable),
                Ok(Err(why)) => {
                    warn!(%stream, %why, "what a stream plays cannot be read");
                    Err(Problem::Unavailable)
                }
            }
        };
        match self.0.board.known(stream, look).await? {
            Kept::Unknown => Err(Problem::Unavailable),
            kept => Ok(kept),
        }
    }

    fn is_shown_elsewhere(&self, stream: &StreamId) -> bool {
        self.0.links.as_ref().is_some_and(|links| links.stream(stream).is_some())
    }

    async fn stored(&self, meta: &dyn Meta, stream: &StreamId) -> store::Result<Answer> {
        let rows = meta.chat_back(stream, &ChatLog::Now, EventId::MAX, RECENT).await?;
        let exists = self.0.board.is_listed(stream)
            || self.is_shown_elsewhere(stream)
            || meta.stream(stream).await?.is_some()
            // Where anyone may publish, streams have no rows of their own.
            || !meta.broadcasts(stream, None, 1).await?.is_empty();
        Ok(if exists { Answer::Known(rows.iter().filter_map(read).collect()) } else { Answer::Absent })
    }

    /// An upstream that is there.
    fn upstream(&self) -> Option<usize> {
        self.0.links.as_ref()?.first_alive()
    }

    async fn ask(&self, nodes: &Nodes, stream: &StreamId) -> Answer {
        let Some(upstream) = self.upstream() else { return Answer::Silent };
        let Ok(answer) = nodes.get(upstream, &format!("{PATH}{stream}"), 0).await else { return Answer::Silent };
        let status = answer.status();
        let Ok(body) = Limited::new(answer.into_body(), ANSWER_MAX).collect().await else { return Answer::Silent };
        match status {
            StatusCode::OK => serde_json::from_slice(&body.to_bytes()).map_or(Answer::Silent, Answer::Known),
            StatusCode::NOT_FOUND if self.is_shown_elsewhere(stream) => Answer::Known(Vec::new()),
            StatusCode::NOT_FOUND => Answer::Absent,
            _ => Answer::Silent,
        }
    }

    /// Whether changes are handed on to a node that has the store.
    pub fn hands_on(&self) -> bool {
        matches!(self.0.truth, Truth::Upstreams(_))
    }

    /// Sets what a stream plays, or that it plays nothing: shown at once, everywhere in a moment, then stored.
    pub async fn set(&self, stream: &StreamId, wish: Option<Wish>) -> Result<Set, Problem> {
        let Shared { board, truth, tag, .. } = &*self.0;
        // What is stored is known first; where nobody knows it, it is changed nevertheless.
        let _ = self.known(stream).await;
        let now = match board.set(stream, wish, unix_now(), *tag) {
            Changed::To(now) => now,
            Changed::Nothing(now) => return Ok(Set { now, stored: true }),
            Changed::TooOften(after) => return Err(Problem::TooOften(after)),
        };
        metrics::counter!("weir_now_changes_total").increment(1);
        let Truth::Store(meta) = truth else { return Ok(Set { now, stored: false }) };
        let row = ChatRow { id: now.id, body: serde_json::to_string(&*now).expect("plain data") };
        let written = timeout(PATIENCE, meta.put_chat(stream, vec![ChatWrite::Row { log: ChatLog::Now, row }])).await;
        let stored = match written {
            Ok(Ok(())) => true,
            failed => {
                let why = failed.map_or_else(|_| "no answer".into(), |why| why.expect_err("it failed").to_string());
                warn!(%stream, why, "what a stream plays is shown, and may not be stored");
                false
            }
        };
        Ok(Set { now, stored })
    }

    /// Hands a change on to a node that has the store; gives its answer.
    pub async fn hand_on(&self, stream: &StreamId, posted: &Posted) -> Result<Answered, Problem> {
        let (Truth::Upstreams(nodes), Some(upstream)) = (&self.0.truth, self.upstream()) else {
            return Err(Problem::Unavailable);
        };
        let body = serde_json::to_vec(posted).expect("plain data");
        let answered = async {
            let answer = nodes.post(upstream, &format!("{PATH}{stream}"), body.into()).await.ok()?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.ok()?.to_bytes();
            Some(Answered { status, body })
        };
        timeout(2 * PATIENCE, answered).await.ok().flatten().ok_or(Problem::Unavailable)
    }

    /// Takes what another node says that a stream plays.
    pub fn hear(&self, stream: &StreamId, now: &Value) {
        // What a newer release says in another way is heard of when it is asked for.
        if let Ok(now) = Now::deserialize(now)
            && now.id.0 > 0
        {
            self.0.board.take(stream, now);
        }
    }

    /// A page of what a stream played, the newest first, and from where to go on.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn history(
        &self,
        meta: &dyn Meta,
        stream: &StreamId,
        before: Option<EventId>,
        limit: usize,
    ) -> store::Result<(Vec<Now>, Option<EventId>)> {
        let rows = meta.chat_back(stream, &ChatLog::Now, before.unwrap_or(EventId::MAX), limit).await?;
        let next = rows.last().filter(|_| rows.len() >= limit).map(|row| row.id);
        Ok((rows.iter().filter_map(read).collect(), next))
    }

    async fn encoder_says(&self, stream: &StreamId, wish: Wish) -> bool {
        match self.hands_on() {
            false => self.set(stream, Some(wish)).await.is_ok(),
            true => {
                let posted = Posted { wish: Some(wish), by: By::Encoder };
                self.hand_on(stream, &posted).await.is_ok_and(|answer| answer.status.is_success())
            }
        }
    }
}

/// What was found of a stream.
enum Answer {
    Known(Vec<Now>),
    Absent,
    Silent,
}

fn read(row: &ChatRow) -> Option<Now> {
    let now = serde_json::from_str(&row.body).ok()?;
    Some(Now { id: row.id, ..now })
}

impl Marks for Playing {
    fn of(&self, stream: &StreamId) -> watch::Receiver<Arc<[Mark]>> {
        let marks = self.0.board.marks(stream);
        let (playing, stream) = (self.clone(), stream.clone());
        tokio::spawn(async move {
            while playing.0.board.is_listed(&stream) && playing.known(&stream).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        });
        marks
    }
}

impl Hears for Playing {
    /// Encoders say the same again each time they connect: only what is new counts.
    fn metadata(&self, stream: &StreamId, metadata: &Metadata) {
        let Some(wish) = Wish::of_encoder(metadata) else { return };
        if self.0.said.get(stream).as_ref() == Some(&wish) {
            return;
        }
        let Ok(place) = self.0.saying.clone().try_acquire_owned() else { return };
        self.0.said.insert(stream.clone(), wish);
        let (playing, stream) = (self.clone(), stream.clone());
        tokio::spawn(async move {
            let _place = place;
            // Of two that are on their way the later one counts.
            let Some(wish) = playing.0.said.get(&stream) else { return };
            if !playing.encoder_says(&stream, wish.clone()).await {
                debug!(%stream, "what an encoder says that it plays was not taken");
                playing.0.said.remove_if(&stream, |said| *said == wish);
            }
        });
    }
}
