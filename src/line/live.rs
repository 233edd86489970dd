//! What a line shows to viewers: immutable snapshots, replaced as a whole at every change.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

use crate::{
    id::{BroadcastId, Rendition, StreamId},
    media::{Mode, Pieces, timeline::Warning},
    package::{AudioVariant, Variant, Window, playlist},
    store::RenditionRow,
    time::UnixMs,
};

/// A text as it goes over the wire: rendered once per version, compressed at most once, shared by all viewers.
#[derive(Debug)]
pub struct Text {
    pub body: Bytes,
    /// Strong entity tag, quoted.
    pub etag: String,
    gzip: OnceLock<Bytes>,
}

impl Text {
    pub fn new(body: String) -> Self {
        let hash = Sha256::digest(body.as_bytes());
        let etag = format!("\"{}\"", hash[..8].iter().map(|b| format!("{b:02x}")).collect::<String>());
        Self { body: body.into(), etag, gzip: OnceLock::new() }
    }

    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::with_capacity(self.body.len() / 2), Compression::default());
            encoder.write_all(&self.body).expect("writing to memory cannot fail");
            encoder.finish().expect("writing to memory cannot fail").into()
        })
    }
}

/// Renders the multivariant playlist of these renditions. `prefix` leads to their folders.
pub(super) fn multivariant(rows: &[RenditionRow], prefix: &str) -> Text {
    let (audio, video): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.name == Rendition::audio());
    let variants: Vec<_> = video.into_iter().map(Variant::from).collect();
    let audio = audio.first().map(|row| AudioVariant::from(*row));
    Text::new(playlist::multivariant(&variants, audio.as_ref(), prefix))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A publisher is connected and its media is being cut.
    Live,
    /// The publisher is gone and may come back within the reconnect window.
    Away,
    /// The broadcast is over.
    Ended,
}

/// One stream's running broadcast.
#[derive(Debug, Clone)]
pub struct Live {
    pub stream: StreamId,
    pub broadcast: BroadcastId,
    pub started: UnixMs,
    pub state: State,
    pub mode: Option<Mode>,
    pub epoch: u64,
    /// The newest chunk number listed.
    pub k: Option<u64>,
    /// Absent until every rendition that is coming has its first chunk. Its URIs are relative to the stream's folder.
    pub multivariant: Option<Arc<Text>>,
    /// The same, relative to the broadcast's folder.
    pub multivariant_inside: Option<Arc<Text>>,
    /// Names of the renditions that the multivariant playlist offers.
    pub offered: Vec<Rendition>,
    pub renditions: BTreeMap<Rendition, Arc<LiveRendition>>,
    /// What the streamer should know.
    pub warnings: Vec<Warning>,
    /// Rungs that this node cannot afford now.
    pub shed: Vec<Rendition>,
}

/// One rendition of a running broadcast.
#[derive(Debug)]
pub struct LiveRendition {
    pub row: RenditionRow,
    pub window: Window,
    /// Absent before the first chunk.
    pub playlist: Option<Arc<Text>>,
    /// Chunks that are in memory, by (k, epoch).
    pub chunks: Vec<(u64, u64, Pieces)>,
    /// Init segments in use, by hash.
    pub inits: Vec<(Arc<str>, Bytes)>,
}

impl LiveRendition {
    /// The bytes of chunk `k` as `epoch` wrote it, or as the valid epoch did when that one is not here.
    pub fn chunk(&self, k: u64, epoch: u64) -> Option<Pieces> {
        let mut of_k = self.chunks.iter().filter(|c| c.0 == k);
        let exact = of_k.clone().find(|c| c.1 == epoch);
        exact.or_else(|| of_k.next_back()).map(|c| c.2.clone())
    }

    pub fn init(&self, hash: &str) -> Option<Bytes> {
        self.inits.iter().find(|(name, _)| &**name == hash).map(|(_, bytes)| bytes.clone())
    }
}
