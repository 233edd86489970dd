//! From RTMP publishers to lines: asks who may publish, runs each session's timeline, feeds the line.
//!
//! [`Ingest`] answers `rtmp::server`'s publish requests; a `session` per publisher, driven by its connection, turns FLV tags
//! into marked packets. It holds no socket and no store: whether a key is good is asked of the [`Gate`].

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

mod session;

use crate::{
    id::StreamId,
    line::{Lines, StreamSettings},
    rtmp::{
        Code, Refusal, StreamKey,
        server::{Accepted, PublishRequest, Publishers},
    },
};
use session::{Ended, Session};

/// A publisher that may go on.
#[derive(Debug)]
pub struct Admitted {
    pub stream: StreamId,
    pub settings: StreamSettings,
}

/// Who may publish what.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Judges a stream key as the encoder sent it (`alice?key=...`).
    async fn admit(&self, stream_key: &StreamKey) -> Result<Admitted, Refusal>;
}

/// Takes publishers from the RTMP server and gives them to lines.
pub struct Ingest {
    lines: Lines,
    gate: Arc<dyn Gate>,
    chunk_ms: u32,
    sessions: TaskTracker,
}

impl Ingest {
    /// `chunk_ms` is the nominal chunk duration.
    pub fn new(lines: Lines, gate: Arc<dyn Gate>, chunk_ms: u32) -> Self {
        Self { lines, gate, chunk_ms, sessions: TaskTracker::new() }
    }

    /// Waits until every session has handed its last packet to its line.
    pub async fn drained(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }
}

#[async_trait]
impl Publishers for Ingest {
    async fn publish(&self, request: PublishRequest) -> Result<Accepted, Refusal> {
        let Admitted { stream, settings } = self.gate.admit(&request.stream_key).await?;
        let fenced = CancellationToken::new();
        let feed = self.lines.attach(&stream, settings, fenced.clone()).await;
        let feed = feed.map_err(|_| Refusal::new(Code::Rejected, "this server is stopping; try again in a moment"))?;
        info!(%stream, peer = %request.peer, encoder = %request.encoder, "publisher connected");
        let session = Session::new(stream, feed, self.chunk_ms, self.sessions.token());
        let words = Refusal::new(Code::Rejected, Ended::Fenced.to_string());
        Ok(Accepted { sink: Box::new(session), stop: fenced, words })
    }
}
