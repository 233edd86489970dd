//! Takes up what was running: at start what this node was making when it stopped, later what another made that is gone.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tracing::{info, warn};

use super::{Config, Stores, broadcast::Broadcast};
use crate::{
    id::{BroadcastId, StreamId},
    store::{self, BroadcastRow, ChunkRow, EpochRow, blob_name, init_name, valid_chunks},
    time::{UnixMs, unix_now},
};

/// A node that was down for longer than this (or than the reconnect window, if that is more) ends what it finds open:
/// nobody waits any more.
const DOWN_MAX: Duration = Duration::from_secs(300);

/// The newest chunks whose bytes a power failure may have taken though their rows are there: bytes are safe after a second or two.
const SUSPECT: usize = 6;

/// Rebuilds the broadcasts that have not ended; those whose encoder is away for too long are ended.
pub async fn open_broadcasts(config: &Config, stores: &Stores) -> store::Result<Vec<(StreamId, Broadcast)>> {
    let mut open = Vec::new();
    for row in stores.meta.open_broadcasts().await? {
        let stream = row.stream.clone();
        match rebuild(config, stores, row).await {
            Ok(Some(broadcast)) => open.push((stream, broadcast)),
            Ok(None) => {}
            Err(why) => warn!(%stream, %why, "an open broadcast cannot be taken up"),
        }
    }
    Ok(open)
}

/// Takes out of a chunk's row what a power failure has taken of its bytes.
async fn make_sound(stores: &Stores, stream: &StreamId, id: &BroadcastId, chunk: &mut ChunkRow) -> store::Result<()> {
    let mut whole = Vec::new();
    for made in &chunk.renditions {
        let name = blob_name(stream, id, &made.rendition, chunk.k, chunk.epoch);
        // The last byte, and none after it.
        let end = u64::from(made.bytes);
        let last = match stores.blobs.get_range(&name, end.saturating_sub(1)..end + 1).await {
            Err(store::Error::NotFound) => Bytes::new(),
            last => last?,
        };
        if last.len() == 1 {
            whole.push(made.clone());
        } else {
            warn!(name, "a row tells of bytes that are not there: the chunk is left out");
        }
    }
    if whole.len() == chunk.renditions.len() {
        return Ok(());
    }
    chunk.renditions = whole;
    match chunk.renditions.is_empty() {
        true => stores.meta.delete_chunks(stream, id, &[(chunk.k, chunk.epoch)]).await,
        false => stores.meta.put_chunk(stream, id, chunk.clone()).await,
    }
}

/// Ends a broadcast of another node, if that has written nothing of it for long.
async fn end_abandoned(config: &Config, stores: &Stores, mut row: BroadcastRow) -> store::Result<()> {
    let last = stores.meta.chunks_back(&row.stream, &row.id, None, 1).await?;
    let end = last.first().map_or(row.started, end_of);
    if unix_now().since(end) > config.reconnect_window.max(DOWN_MAX) {
        info!(stream = %row.stream, broadcast = %row.id, "broadcast ended: its node has left it");
        row.ended = Some(end);
        stores.meta.put_broadcast(row).await?;
    }
    Ok(())
}

/// When a chunk ended, by the wall clock.
pub fn end_of(chunk: &ChunkRow) -> UnixMs {
    UnixMs(chunk.wall.0 + chunk.duration * 1000 / i64::from(crate::media::VIDEO_TIMESCALE))
}

/// What is stored of the end of a broadcast.
pub struct Tail {
    pub row: BroadcastRow,
    pub epochs: Vec<EpochRow>,
    /// The newest valid rows, by number.
    pub chunks: Vec<ChunkRow>,
}

/// Reads the end of a broadcast, a window and what several epochs may have written of it.
pub async fn tail(config: &Config, stores: &Stores, row: BroadcastRow) -> store::Result<Tail> {
    let (stream, id) = (row.stream.clone(), row.id.clone());
    let epochs = stores.meta.epochs(&stream, &id).await?;
    let rows = stores.meta.chunks_back(&stream, &id, None, config.window * 3 + 16).await?;
    let chunks = valid_chunks(rows, &epochs);
    Ok(Tail { row, epochs, chunks })
}

impl Tail {
    /// Makes the broadcast of it, as viewers were shown it; nothing where no chunk was stored. Init segments that are not
    /// among those of `held` are read; `held` is what a standby made of the same broadcast, whose bytes are used, and the epochs
    /// by which viewers were shown it.
    pub async fn restore(
        &self,
        config: &Config,
        stores: &Stores,
        held: Option<(&Broadcast, &BTreeMap<u64, u64>)>,
    ) -> store::Result<Option<Broadcast>> {
        let (stream, id) = (&self.row.stream, &self.row.id);
        let first = self.chunks.len().saturating_sub(config.window + 1);
        let newest = &self.chunks[first..];
        if newest.is_empty() {
            return Ok(None);
        }
        let known = held.into_iter().flat_map(|(held, _)| held.inits());
        let mut inits: Vec<_> = known.map(|(name, hash, bytes)| (name.clone(), hash.clone(), bytes.clone())).collect();
        for made in newest.iter().flat_map(|chunk| &chunk.renditions) {
            if inits.iter().any(|(name, hash, _)| *name == made.rendition && **hash == *made.init) {
                continue;
            }
            match stores.blobs.get(&init_name(stream, id, &made.rendition, &made.init)).await {
                Ok(bytes) => inits.push((made.rendition.clone(), made.init.as_str().into(), bytes)),
                Err(store::Error::NotFound) => {
                    warn!(%stream, rendition = %made.rendition, "an init segment is not there")
                }
                Err(why) => return Err(why),
            }
        }
        let breaks = self.epochs.iter().filter(|e| e.discontinuity).map(|e| e.k_start).collect();
        Ok(Some(Broadcast::restore(&self.row, newest, breaks, &inits, config.broadcast(), held)))
    }
}

/// Takes up the broadcast of a stream that has not ended, whoever made it: its time without chunks counts as time without an
/// encoder. Nothing where there is none, or where nobody waits for it any more.
pub async fn adopt(config: &Config, stores: &Stores, stream: &StreamId) -> store::Result<Option<Broadcast>> {
    let newest = stores.meta.broadcasts(stream, None, 1).await?.into_iter().next();
    match newest.filter(|row| row.ended.is_none() && row.deleted.is_none()) {
        Some(row) => take_up(config, stores, row).await,
        None => Ok(None),
    }
}

async fn rebuild(config: &Config, stores: &Stores, row: BroadcastRow) -> store::Result<Option<Broadcast>> {
    let epochs = stores.meta.epochs(&row.stream, &row.id).await?;
    if !config.alone && epochs.last().is_some_and(|epoch| epoch.node != config.node) {
        end_abandoned(config, stores, row).await?;
        return Ok(None);
    }
    take_up(config, stores, row).await
}

async fn take_up(config: &Config, stores: &Stores, row: BroadcastRow) -> store::Result<Option<Broadcast>> {
    let (stream, id) = (row.stream.clone(), row.id.clone());
    let mut tail = tail(config, stores, row).await?;
    for place in tail.chunks.len().saturating_sub(SUSPECT)..tail.chunks.len() {
        make_sound(stores, &stream, &id, &mut tail.chunks[place]).await?;
    }
    tail.chunks.retain(|chunk| !chunk.renditions.is_empty());
    let Some(last) = tail.chunks.last() else {
        // It never stored a chunk: nothing can be continued.
        tail.row.ended = Some(unix_now());
        stores.meta.put_broadcast(tail.row).await?;
        return Ok(None);
    };
    let (k, end) = (last.k, end_of(last));
    let away = unix_now().since(end);
    if away > config.reconnect_window.max(DOWN_MAX) {
        info!(%stream, broadcast = %id, "broadcast ended while its node was down");
        tail.row.ended = Some(end);
        stores.meta.put_broadcast(tail.row).await?;
        return Ok(None);
    }
    let Some(mut broadcast) = tail.restore(config, stores, None).await? else { return Ok(None) };
    // The time the node was down is time the encoder was away.
    for _ in 0..away.as_micros() / config.chunk.as_micros().max(1) {
        broadcast.gap();
    }
    info!(%stream, broadcast = %id, k, down_s = away.as_secs(), "broadcast taken up from the store");
    Ok(Some(broadcast))
}
