//! Takes up at start what was running when the node stopped.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tracing::{info, warn};

use super::{Config, Stores, broadcast::Broadcast};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    store::{self, BroadcastRow, ChunkRow, blob_name, init_name, valid_chunks},
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
fn end_of(chunk: &ChunkRow) -> UnixMs {
    UnixMs(chunk.wall.0 + chunk.duration * 1000 / i64::from(crate::media::VIDEO_TIMESCALE))
}

async fn rebuild(config: &Config, stores: &Stores, mut row: BroadcastRow) -> store::Result<Option<Broadcast>> {
    let (stream, id) = (row.stream.clone(), row.id.clone());
    let epochs = stores.meta.epochs(&stream, &id).await?;
    if !config.alone && epochs.last().is_some_and(|epoch| epoch.node != config.node) {
        end_abandoned(config, stores, row).await?;
        return Ok(None);
    }
    // Several epochs may have written the same numbers: read some more than the window.
    let rows = stores.meta.chunks_back(&stream, &id, None, config.window * 3 + 16).await?;
    let mut chunks = valid_chunks(rows, &epochs);
    for place in chunks.len().saturating_sub(SUSPECT)..chunks.len() {
        make_sound(stores, &stream, &id, &mut chunks[place]).await?;
    }
    chunks.retain(|chunk| !chunk.renditions.is_empty());
    let newest: Vec<_> = chunks.iter().rev().take(config.window + 1).rev().cloned().collect();
    let Some(last) = newest.last() else {
        // It never stored a chunk: nothing can be continued.
        row.ended = Some(unix_now());
        stores.meta.put_broadcast(row).await?;
        return Ok(None);
    };
    let end = end_of(last);
    let away = unix_now().since(end);
    if away > config.reconnect_window.max(DOWN_MAX) {
        info!(%stream, broadcast = %id, "broadcast ended while the node was down");
        row.ended = Some(end);
        stores.meta.put_broadcast(row).await?;
        return Ok(None);
    }
    let mut inits: Vec<(Rendition, Arc<str>, Bytes)> = Vec::new();
    for made in newest.iter().flat_map(|chunk| &chunk.renditions) {
        if inits.iter().any(|(name, hash, _)| *name == made.rendition && **hash == *made.init) {
            continue;
        }
        match stores.blobs.get(&init_name(&stream, &id, &made.rendition, &made.init)).await {
            Ok(bytes) => inits.push((made.rendition.clone(), made.init.as_str().into(), bytes)),
            Err(store::Error::NotFound) => warn!(%stream, rendition = %made.rendition, "an init segment is not there"),
            Err(why) => return Err(why),
        }
    }
    let breaks = epochs.iter().filter(|e| e.discontinuity).map(|e| e.k_start).collect();
    let mut broadcast = Broadcast::restore(&row, &newest, breaks, &inits, config.broadcast());
    // The time the node was down is time the encoder was away.
    for _ in 0..away.as_micros() / config.chunk.as_micros().max(1) {
        broadcast.gap();
    }
    info!(%stream, broadcast = %id, k = last.k, down_s = away.as_secs(), "broadcast taken up from the store");
    Ok(Some(broadcast))
}
