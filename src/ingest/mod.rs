//! From RTMP publishers to lines: asks who may publish, runs each session's timeline, feeds the line.
//!
//! Where nodes share the streams, a [`relay`] feeds the nodes that make a session's chunks; alone, a session feeds the line
//! of this very process.
//!
//! [`Ingest`] answers `rtmp::server`'s publish requests; a `session` per publisher, driven by its connection, turns FLV tags
//! into marked packets. It holds no socket and no store: whether a key is good is asked of the [`Gate`].

use std::{io, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

pub mod lane;
pub mod relay;
mod session;

use crate::{
    cluster::failover::Node,
    id::StreamId,
    line::{Lines, StreamSettings},
    rtmp::{
        Code, Refusal, StreamKey,
        flv::Metadata,
        server::{Accepted, PublishRequest, Publishers},
    },
};
use relay::Relays;
use session::{Ended, Session, Way};

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
    async fn admit(&self, stream_key: &StreamKey, peer: IpAddr) -> Result<Admitted, Refusal>;
}

/// Who is told what encoders say beside media.
pub trait Hears: Send + Sync + 'static {
    fn metadata(&self, stream: &StreamId, metadata: &Metadata);
}

/// The nodes that share the streams, this one among them.
#[async_trait]
pub trait Route: Send + Sync + 'static {
    /// This node.
    fn me(&self) -> Node;
    /// The nodes that may make a stream's chunks, the preferred first, and the one that publishes them now.
    fn candidates(&self, stream: &StreamId) -> (Vec<Node>, Option<Node>);
    /// Changes when [`Route::candidates`] may give something else.
    fn changes(&self) -> watch::Receiver<()>;
    /// Opens a feed to a node.
    async fn connect(&self, node: &Node, stream: &StreamId) -> io::Result<Box<dyn lane::Io>>;
}

/// Takes publishers from the RTMP server and gives them to lines.
pub struct Ingest {
    lines: Lines,
    gate: Arc<dyn Gate>,
    chunk_ms: u32,
    relays: Option<Relays>,
    hears: Arc<dyn Hears>,
    sessions: TaskTracker,
}

impl Ingest {
    /// `chunk_ms` is the nominal chunk duration. With `relays` sessions go where these lead, else to the lines of this node.
    pub fn new(
        lines: Lines,
        gate: Arc<dyn Gate>,
        chunk_ms: u32,
        relays: Option<Relays>,
        hears: Arc<dyn Hears>,
    ) -> Self {
        Self { lines, gate, chunk_ms, relays, hears, sessions: TaskTracker::new() }
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
        let Admitted { stream, settings } = self.gate.admit(&request.stream_key, request.peer.ip()).await?;
        let fenced = CancellationToken::new();
        let stopping = |_| Refusal::new(Code::Rejected, "this server is stopping; try again in a moment");
        let feed = match &self.relays {
            Some(relays) => Way::Relay(relays.begin(stream.clone(), settings, fenced.clone())),
            None => Way::Line(self.lines.attach(&stream, settings, fenced.clone()).await.map_err(stopping)?),
        };
        info!(%stream, peer = %request.peer, encoder = %request.encoder, "publisher connected");
        let session = Session::new(stream, feed, self.chunk_ms, self.hears.clone(), self.sessions.token());
        let words = Refusal::new(Code::Rejected, Ended::Fenced.to_string());
        Ok(Accepted { sink: Box::new(session), stop: fenced, words })
    }
}
