//! Where what must outlive the process is kept: metadata rows ([`Meta`]) and chunk bytes ([`Blobs`]).
//!
//! The traits speak ids, numbers and bytes and know no media. [`embedded`] (fjall) and [`blobs`] (a folder) are the
//! defaults. Every implementation passes the suite in `tests/store.rs`.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{BroadcastId, ClipId, EventId, Rendition, StreamId},
    media::Pieces,
    time::UnixMs,
};

mod audience;
pub mod blobs;
mod chat;
pub mod embedded;
pub mod health;
pub mod objects;
pub mod remote;
pub mod scylla;

pub use audience::{AudienceRow, AudienceSpan};
pub use chat::{ChatLog, ChatRow, ChatWrite, chat_bucket};

/// A stream as its owner made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamRow {
    pub id: StreamId,
    /// Salted hash of the publish key; never the key.
    pub key_hash: String,
    pub created: UnixMs,
    /// The stream's own settings as JSON (its ladder and the like); `null` means the node's.
    #[serde(default)]
    pub settings: serde_json::Value,
}

/// One row of a stream's epoch log. Written once, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRow {
    pub epoch: u64,
    pub broadcast: BroadcastId,
    /// First chunk number this epoch may write.
    pub k_start: u64,
    /// Start of that chunk on the broadcast's timeline (90 kHz) and on the wall clock.
    pub at: i64,
    pub wall: UnixMs,
    pub discontinuity: bool,
    pub node: String,
    /// The publisher's session it was taken for: of two sessions the one with the greater number is newer.
    #[serde(default)]
    pub session: u64,
    /// Which of that session's orders to lead it follows: of two the later one counts.
    #[serde(default)]
    pub turn: u32,
}

/// One show of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BroadcastRow {
    pub stream: StreamId,
    pub id: BroadcastId,
    pub started: UnixMs,
    pub ended: Option<UnixMs>,
    /// EXT-X-TARGETDURATION, seconds.
    pub target: u32,
    /// Nominal chunk duration, ms: the length of a gap.
    pub chunk_ms: u32,
    /// Nominal part duration, 90 kHz, and PART-TARGET, ms; zero where there are no parts.
    #[serde(default)]
    pub part_ticks: i64,
    #[serde(default)]
    pub part_target_ms: u32,
    pub renditions: Vec<RenditionRow>,
    /// What it amounted to, from its end on.
    #[serde(default)]
    pub summary: Option<Summary>,
    /// It was deleted: nothing of it is answered any more, and its bytes and rows go.
    #[serde(default)]
    pub deleted: Option<UnixMs>,
}

/// What a broadcast amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Start of its first chunk on its timeline, 90 kHz.
    pub zero: i64,
    pub duration_ms: u64,
    /// Of all renditions.
    pub bytes: u64,
    /// Chunk numbers that the rendition with the most chunks lacks, and how long they last.
    pub gaps: u64,
    pub gaps_ms: u64,
}

/// What people wrote of a broadcast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub title: String,
    pub note: String,
}

/// A part of a broadcast that was given a name. It is kept when the rest of its broadcast is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipRow {
    pub id: ClipId,
    pub stream: StreamId,
    pub broadcast: BroadcastId,
    pub title: String,
    pub created: UnixMs,
    /// From the start of the broadcast.
    pub from_ms: u64,
    pub to_ms: u64,
    /// The numbers of its first and last chunk.
    pub chunks: (u64, u64),
}

/// Work that goes on in the background, as long as it is of interest to someone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// Sorts by time.
    pub id: String,
    pub task: JobTask,
    /// The node that does it.
    pub node: String,
    pub created: UnixMs,
    pub finished: Option<UnixMs>,
    /// Why it could not be done.
    pub failure: Option<String>,
    /// What it did, in words.
    pub result: Option<String>,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobTask {
    /// Deletes the bytes and rows of a broadcast whose row says that it is deleted.
    Delete { stream: StreamId, broadcast: BroadcastId },
    /// Looks for bytes without rows and rows without bytes.
    Sweep,
}

/// A node of the cluster, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// `node.id`.
    pub id: String,
    /// Base URL of its internal port, `http://host:port`.
    pub internal: String,
    /// Base URL of its public port.
    pub http: String,
    /// `host:port` where it takes publishers; nothing where it takes none.
    pub rtmp: Option<String>,
    /// It makes chunks.
    pub origin: bool,
    /// Its share of the streams, against those of other nodes.
    pub weight: u32,
    /// Of the program.
    pub version: String,
    pub started: UnixMs,
    /// When it last wrote this row.
    pub beat: UnixMs,
    /// It hands its streams over and stops.
    pub draining: bool,
    /// Streams whose chunks it publishes.
    pub streams: u32,
}

/// Whose clips are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClipsOf {
    Stream(StreamId),
    Broadcast(BroadcastId),
}

/// What the multivariant playlist says of one rendition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenditionRow {
    pub name: Rendition,
    /// RFC 6381 codec string, e.g. `avc1.64001f` or `mp4a.40.2`.
    pub codec: String,
    /// Zero for audio.
    pub width: u32,
    pub height: u32,
    /// Frames per second in thousandths; 0 when unknown or audio.
    pub fps_milli: u32,
    pub channels: u32,
    /// Peak and mean bits per second of its chunks.
    pub peak_bps: u64,
    pub mean_bps: u64,
    /// Peak bits per second of the first pictures of its chunks alone; zero where there are none.
    #[serde(default)]
    pub iframe_bps: u64,
}

/// One chunk number, with all renditions whose bytes are stored. A rendition that is absent is a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRow {
    pub k: u64,
    pub epoch: u64,
    /// Start on the broadcast's timeline and duration, both 90 kHz.
    pub at: i64,
    pub duration: i64,
    pub wall: UnixMs,
    pub discontinuity: bool,
    pub renditions: Vec<RenditionChunk>,
}

/// One rendition of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenditionChunk {
    pub rendition: Rendition,
    /// Hash that names its init segment.
    pub init: String,
    pub bytes: u32,
    /// From its first byte to the end of its first picture; zero for audio.
    #[serde(default)]
    pub iframe: u32,
    /// Its own duration (audio frames do not end where video does), microseconds.
    pub duration_us: u64,
}

/// Something that every node must know to say who may watch. There are few such rows; they are read all at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessRow {
    /// A key that tickets are signed with.
    TicketKey {
        kid: String,
        signature: Signature,
        /// The HS256 secret, or the Ed25519 public key in PEM.
        text: String,
        /// Made by a node, which signs with it.
        own: bool,
    },
    /// A ticket that counts no longer. The row has no use after `until`.
    RevokedTicket { id: String, until: UnixMs },
    /// Tickets of a stream that were signed before that count no longer.
    RevokedStream { stream: StreamId, before: UnixMs },
    /// Whether a stream is played with a ticket, where that is not as the nodes' configuration says.
    Playback { stream: StreamId, ticket: bool },
    /// A broadcast that was deleted: caches let go of it. The row has no use after `until`.
    Deleted { stream: StreamId, broadcast: BroadcastId, until: UnixMs },
}

impl AccessRow {
    /// When the row has no use any more; nothing for one that always has.
    pub fn until(&self) -> Option<UnixMs> {
        match self {
            AccessRow::RevokedTicket { until, .. } | AccessRow::Deleted { until, .. } => Some(*until),
            AccessRow::TicketKey { .. } | AccessRow::RevokedStream { .. } | AccessRow::Playback { .. } => None,
        }
    }

    /// Names the row: a later one of the same name takes its place.
    pub fn name(&self) -> String {
        match self {
            AccessRow::TicketKey { kid, .. } => format!("key/{kid}"),
            AccessRow::RevokedTicket { id, .. } => format!("ticket/{id}"),
            AccessRow::RevokedStream { stream, .. } => format!("stream/{stream}"),
            AccessRow::Playback { stream, .. } => format!("playback/{stream}"),
            AccessRow::Deleted { broadcast, .. } => format!("deleted/{broadcast}"),
        }
    }
}

/// How tickets of a key are signed (RFC 7518 3.1, RFC 8037 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = TicketAlgorithm)]
pub enum Signature {
    /// HMAC with SHA-256: one secret signs and verifies.
    HS256,
    /// Ed25519: the nodes know the public key alone.
    EdDSA,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The thing to be made is there already.
    #[error("already exists")]
    Exists,
    /// Another writer took this epoch, or it does not follow the last one: read the log again.
    #[error("epoch {0} was taken by another writer")]
    EpochTaken(u64),
    /// The blob or row is not there.
    #[error("not found")]
    NotFound,
    /// A blob's name is not one of ours: a fault in the caller, no retry helps.
    #[error("blob name {0:?} is not legal")]
    BadName(String),
    /// The store does not work now; a retry can help. Whether a write that ends so was made is unknown: read it back.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The store does not work now, and what was to be written waits on the local disk: it is made later.
    #[error("store is unavailable, this is made later: {0}")]
    Later(String),
    /// The store cannot be used as it is: something is missing, of another version, or not allowed. No retry helps.
    #[error("store cannot be used: {0}")]
    Unfit(String),
    /// What was read is not what was written.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Metadata rows.
#[async_trait]
pub trait Meta: Send + Sync + 'static {
    /// Makes a stream; [`Error::Exists`] when its id is taken.
    async fn create_stream(&self, row: StreamRow) -> Result<()>;
    /// Overwrites a stream; [`Error::NotFound`] when there is none.
    async fn update_stream(&self, row: StreamRow) -> Result<()>;
    /// Deletes a stream's row (its broadcasts stay); [`Error::NotFound`] when there is none.
    async fn delete_stream(&self, id: &StreamId) -> Result<()>;
    async fn stream(&self, id: &StreamId) -> Result<Option<StreamRow>>;
    /// Streams after `after` in id order, at most `limit`. As on every page, a damaged row is left out and logged.
    async fn streams(&self, after: Option<&StreamId>, limit: usize) -> Result<Vec<StreamRow>>;

    /// Writes an access row in the place of the one of its name.
    async fn put_access(&self, row: AccessRow) -> Result<()>;
    /// Deletes the access row of this name; [`Error::NotFound`] when there is none.
    async fn delete_access(&self, name: &str) -> Result<()>;
    /// All access rows, in no order.
    async fn access(&self) -> Result<Vec<AccessRow>>;

    /// The newest row of a stream's epoch log.
    async fn last_epoch(&self, stream: &StreamId) -> Result<Option<EpochRow>>;
    /// The same from the store itself: an error where that does not answer, whatever was last known ([`remote`]).
    async fn last_epoch_there(&self, stream: &StreamId) -> Result<Option<EpochRow>> {
        self.last_epoch(stream).await
    }
    /// Appends to the epoch log: succeeds for exactly one caller per number, and only with the number after the last
    /// ([`Error::EpochTaken`] otherwise); the first is 1. Durable when it returns. Where stores are elsewhere ([`remote`]) it may end
    /// in [`Error::Later`]: it is taken when they are back, unless another writer has the number by then.
    async fn take_epoch(&self, stream: &StreamId, row: EpochRow) -> Result<()>;
    /// The epochs of one broadcast, oldest first.
    async fn epochs(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<EpochRow>>;

    /// Writes a broadcast's row (idempotent).
    async fn put_broadcast(&self, row: BroadcastRow) -> Result<()>;
    async fn broadcast(&self, stream: &StreamId, id: &BroadcastId) -> Result<Option<BroadcastRow>>;
    /// A stream's broadcasts older than `before`, newest first, at most `limit`.
    async fn broadcasts(
        &self,
        stream: &StreamId,
        before: Option<&BroadcastId>,
        limit: usize,
    ) -> Result<Vec<BroadcastRow>>;
    /// The stream of a broadcast.
    async fn stream_of(&self, id: &BroadcastId) -> Result<Option<StreamId>>;
    /// Writes what people say of a broadcast, in the place of what they said before.
    async fn put_about(&self, stream: &StreamId, id: &BroadcastId, about: About) -> Result<()>;
    /// What people say of a broadcast: nothing where they said nothing.
    async fn about(&self, stream: &StreamId, id: &BroadcastId) -> Result<About>;
    /// All streams' broadcasts after `after`, oldest first, at most `limit`.
    async fn all_broadcasts(&self, after: Option<&BroadcastId>, limit: usize) -> Result<Vec<(BroadcastId, StreamId)>>;
    /// All streams' broadcasts that have not ended, in no order: what a node takes up when it starts.
    async fn open_broadcasts(&self) -> Result<Vec<BroadcastRow>>;

    /// Writes a chunk row (idempotent by k and epoch; the last write of the same pair wins).
    async fn put_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, row: ChunkRow) -> Result<()>;
    /// Chunk rows with `k >= from`, by k then epoch, of every epoch: readers choose with [`valid_chunks`].
    ///
    /// Gives at most `limit` rows, then the other epochs' rows of the last `k`: a page never ends within a `k`, so the
    /// next one starts at that `k + 1` and misses nothing. Fewer than `limit` rows means the end.
    async fn chunks(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRow>>;
    /// Chunk rows with `k < before` (`None`: all), newest `k` first, then newest epoch first; pages as
    /// [`Meta::chunks`].
    async fn chunks_back(
        &self,
        stream: &StreamId,
        broadcast: &BroadcastId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<ChunkRow>>;
    /// Whether there is a row of this number and epoch, readable or not.
    async fn has_chunk(&self, stream: &StreamId, broadcast: &BroadcastId, k: u64, epoch: u64) -> Result<bool>;
    /// Deletes chunk rows, each named by its number and epoch; those that are not there do not matter.
    async fn delete_chunks(&self, stream: &StreamId, broadcast: &BroadcastId, rows: &[(u64, u64)]) -> Result<()>;

    /// Writes a clip (idempotent).
    async fn put_clip(&self, row: ClipRow) -> Result<()>;
    async fn clip(&self, id: &ClipId) -> Result<Option<ClipRow>>;
    /// Clips older than `before`, newest first, at most `limit`.
    async fn clips(&self, of: &ClipsOf, before: Option<&ClipId>, limit: usize) -> Result<Vec<ClipRow>>;
    /// Deletes a clip; [`Error::NotFound`] when there is none.
    async fn delete_clip(&self, id: &ClipId) -> Result<()>;

    /// Writes a job in the place of what was written of it before.
    async fn put_job(&self, row: JobRow) -> Result<()>;
    /// All jobs, oldest first. There are few.
    async fn jobs(&self) -> Result<Vec<JobRow>>;
    /// Deletes a job's row; that there is none does not matter.
    async fn delete_job(&self, id: &str) -> Result<()>;

    /// Writes a node's row in the place of the one of its id. Never made later: it tells of now.
    async fn put_node(&self, row: NodeRow) -> Result<()>;
    /// All nodes, in no order. There are few.
    async fn nodes(&self) -> Result<Vec<NodeRow>>;
    /// Deletes a node's row; [`Error::NotFound`] when there is none.
    async fn delete_node(&self, id: &str) -> Result<()>;

    /// Writes of a stream's chat, in any order (idempotent). They outlive the process when this returns.
    async fn put_chat(&self, stream: &StreamId, writes: Vec<ChatWrite>) -> Result<()>;
    /// Rows of a log from this id on, oldest first, at most `limit`.
    async fn chat(&self, stream: &StreamId, log: &ChatLog, from: EventId, limit: usize) -> Result<Vec<ChatRow>>;
    /// Rows of a log before this id, newest first, at most `limit`. Times without any cost nothing.
    async fn chat_back(&self, stream: &StreamId, log: &ChatLog, before: EventId, limit: usize) -> Result<Vec<ChatRow>>;
    /// What counts in a stream's room, by name.
    async fn chat_rules(&self, stream: &StreamId) -> Result<Vec<(String, String)>>;
    /// Deletes all rows of a log.
    async fn drop_chat(&self, stream: &StreamId, log: &ChatLog) -> Result<()>;
    /// Deletes rows before this id in all logs that age ([`ChatLog::ages`]), where the store does not do so by itself.
    async fn trim_chat(&self, before: EventId) -> Result<()>;

    /// Writes rows of a stream's audience, each in the place of one of its name that was made before. In any order, and again.
    async fn put_audience(&self, stream: &StreamId, rows: Vec<AudienceRow>) -> Result<()>;
    /// Rows of minutes, hours or marks from one moment to before another, oldest first, at most `limit`.
    async fn audience(
        &self,
        stream: &StreamId,
        span: AudienceSpan,
        (from, to): (UnixMs, UnixMs),
        limit: usize,
    ) -> Result<Vec<AudienceRow>>;
    /// Rows of a whole broadcast, in no order: one of each process that counted. There are few.
    async fn audience_of(&self, stream: &StreamId, broadcast: &BroadcastId) -> Result<Vec<AudienceRow>>;
    /// Deletes rows of minutes, hours and marks before a moment, where the store does not do so by itself.
    async fn trim_audience(&self, before: UnixMs) -> Result<()>;
}

/// Chunk bytes under names made of ids and numbers ([`blob_name`]).
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Stores a whole object; readers see all of it or nothing. Overwrites.
    async fn put(&self, name: &str, bytes: Pieces) -> Result<()>;
    /// Reads an object; [`Error::NotFound`] when there is none.
    async fn get(&self, name: &str) -> Result<Bytes>;
    /// Reads so many bytes of an object, fewer where it ends before; [`Error::NotFound`] when there is none.
    async fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> Result<Bytes>;
    /// Deletes an object; that there is none does not matter.
    async fn delete(&self, name: &str) -> Result<()>;
    /// What lies directly in a folder of names (`alice/01b`; empty for all), in no order: nothing where there is none such.
    async fn list(&self, folder: &str) -> Result<Vec<Child>>;
}

/// What lies in a folder of blob names, with its whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    Folder(String),
    Blob { name: String, bytes: u64, modified: UnixMs },
}

/// Chooses for each `k` the row of the newest epoch whose `k_start <= k` (DESIGN section 7): whatever an older owner
/// wrote later is not read. `rows` in any order; the result is by `k`.
pub fn valid_chunks(rows: Vec<ChunkRow>, epochs: &[EpochRow]) -> Vec<ChunkRow> {
    let owner = |k: u64| epochs.iter().filter(|e| e.k_start <= k).map(|e| e.epoch).max();
    let mut rows: Vec<_> = rows.into_iter().filter(|row| owner(row.k) == Some(row.epoch)).collect();
    rows.sort_by_key(|row| row.k);
    rows.dedup_by_key(|row| row.k);
    rows
}

/// Chunk numbers per folder (or key prefix) of a rendition: a folder stays far below 10,000 entries, which keeps file
/// systems and people's tools quick, even when several epochs write the same numbers.
const CHUNKS_PER_FOLDER: u64 = 1000;

/// Name of a chunk's bytes.
pub fn blob_name(stream: &StreamId, broadcast: &BroadcastId, rendition: &Rendition, k: u64, epoch: u64) -> String {
    let folder = k / CHUNKS_PER_FOLDER;
    format!("{stream}/{broadcast}/{rendition}/{folder}/{k}.{epoch}.m4s")
}

/// Name of an init segment.
pub fn init_name(stream: &StreamId, broadcast: &BroadcastId, rendition: &Rendition, hash: &str) -> String {
    format!("{stream}/{broadcast}/{rendition}/init-{hash}.mp4")
}

/// Folder of a stream's emotes beside its broadcasts: no broadcast can be called so.
pub const EMOTES: &str = "chat.emotes";

/// Name of the picture of an emote.
pub fn emote_name(stream: &StreamId, picture: &str) -> String {
    format!("{stream}/{EMOTES}/{picture}")
}

/// Says in plain words what an I/O error of a disk means to whoever runs the node.
fn plain(error: &std::io::Error) -> String {
    use std::io::ErrorKind::*;
    match error.kind() {
        StorageFull => "the disk is full".into(),
        QuotaExceeded => "the disk quota is used up".into(),
        ReadOnlyFilesystem => "the disk is read-only".into(),
        PermissionDenied => "permission denied".into(),
        FileTooLarge => "the file size limit is reached".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
impl EpochRow {
    /// A row for tests to which only its number, broadcast and first chunk matter.
    fn plain(epoch: u64, broadcast: BroadcastId, k_start: u64) -> Self {
        let (wall, node) = (UnixMs(0), "n".into());
        Self { epoch, broadcast, k_start, at: 0, wall, discontinuity: false, node, session: 0, turn: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u64, k_start: u64) -> EpochRow {
        EpochRow::plain(epoch, BroadcastId::new("b").expect("legal"), k_start)
    }

    fn chunk(k: u64, epoch: u64) -> ChunkRow {
        ChunkRow { k, epoch, at: 0, duration: 1, wall: UnixMs(0), discontinuity: false, renditions: vec![] }
    }

    #[test]
    fn the_newest_epoch_that_may_write_a_number_wins_it() {
        let epochs = [epoch(1, 0), epoch(2, 3), epoch(4, 3), epoch(3, 6)];
        type Numbers = &'static [(u64, u64)];
        let cases: &[(Numbers, Numbers)] = &[
            (&[(0, 1), (1, 1), (2, 1)], &[(0, 1), (1, 1), (2, 1)]),
            // Owner 1 writes on after owner 4 took over at 3; owner 2 never owned a number alone.
            (&[(2, 1), (3, 1), (3, 2), (3, 4), (4, 1)], &[(2, 1), (3, 4)]),
            // A later epoch with a larger start does not take what a newer one holds.
            (&[(6, 3), (6, 4)], &[(6, 4)]),
            // What nobody took may not be read, in whatever order rows come.
            (&[(5, 9), (4, 4), (1, 1), (1, 2)], &[(1, 1), (4, 4)]),
            (&[], &[]),
        ];
        for (rows, valid) in cases {
            let rows = rows.iter().map(|&(k, e)| chunk(k, e)).collect();
            let got: Vec<_> = valid_chunks(rows, &epochs).iter().map(|row| (row.k, row.epoch)).collect();
            assert_eq!(&got, valid);
        }
        assert!(valid_chunks(vec![chunk(0, 1)], &[]).is_empty());
    }

    #[test]
    fn a_folder_of_chunks_stays_small() {
        let (stream, broadcast) = (StreamId::new("alice").expect("legal"), BroadcastId::new("01b").expect("legal"));
        let name = |k| blob_name(&stream, &broadcast, &Rendition::source(), k, 7);
        assert_eq!(name(0), "alice/01b/source/0/0.7.m4s");
        assert_eq!(name(43_199), "alice/01b/source/43/43199.7.m4s");
        let mut folders = std::collections::BTreeMap::<String, u32>::new();
        for k in 0..43_200 {
            let name = name(k);
            *folders.entry(name.rsplit_once('/').expect("has folders").0.into()).or_default() += 1;
        }
        assert!(folders.len() < 100 && folders.values().all(|&files| files <= 1000));
    }

    #[test]
    fn a_chunk_row_of_six_renditions_is_less_than_a_kilobyte() {
        let rendition = |name: &str| RenditionChunk {
            rendition: Rendition::new(name).expect("legal"),
            init: "0123456789abcdef".into(),
            bytes: 12_500_000,
            iframe: 1_250_000,
            duration_us: 10_000_000,
        };
        let renditions = ["source", "1080p60", "720p60", "480p", "360p", "audio"].map(rendition).to_vec();
        let mut row = chunk(1_000_000, 100_000);
        (row.at, row.duration, row.wall) = (900_000_000_000, 900_000, UnixMs(1_900_000_000_000));
        row.renditions = renditions;
        let bytes = serde_json::to_vec(&row).expect("plain data").len();
        assert!(bytes < 1024, "{bytes}");
    }
}
