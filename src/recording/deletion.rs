//! Takes a deleted broadcast's bytes and rows away, but for its clips: bytes first, then the rows that name them, so that a
//! crash at any moment leaves rows to go on from and no bytes that nothing names. Doing it again does no harm.

use super::walk;
use crate::{
    id::{BroadcastId, StreamId},
    line::Stores,
    store::{self, About, ChatLog, ChunkRow, ClipsOf, blob_name},
};

/// Rows taken at a time.
const PAGE: usize = 500;
/// Clips that a broadcast may have are fewer.
const CLIPS: usize = 10_000;

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub chunks: u64,
    pub bytes: u64,
}

/// The chunk numbers that clips of a broadcast need, each with its first and last.
pub async fn kept(stores: &Stores, broadcast: &BroadcastId) -> store::Result<Vec<(u64, u64)>> {
    let clips = stores.meta.clips(&ClipsOf::Broadcast(broadcast.clone()), None, CLIPS).await?;
    Ok(clips.into_iter().map(|clip| clip.chunks).collect())
}

/// Takes away what no clip needs. `progress` learns the chunk numbers that are done.
pub async fn take_away(
    stores: &Stores,
    stream: &StreamId,
    broadcast: &BroadcastId,
    mut progress: impl FnMut(u64),
) -> store::Result<Taken> {
    let kept = kept(stores, broadcast).await?;
    let is_kept = |k: u64| kept.iter().any(|(first, last)| (*first..=*last).contains(&k));
    let (mut taken, mut from) = (Taken::default(), 0);
    loop {
        let page = stores.meta.chunks(stream, broadcast, from, PAGE).await?;
        let Some(last) = page.last().map(|row| row.k) else { break };
        let full = page.len() >= PAGE;
        let doomed: Vec<_> = page.into_iter().filter(|row| !is_kept(row.k)).collect();
        for row in &doomed {
            bytes_of(stores, stream, broadcast, row, &mut taken).await?;
        }
        let rows: Vec<_> = doomed.iter().map(|row| (row.k, row.epoch)).collect();
        if !rows.is_empty() {
            stores.meta.delete_chunks(stream, broadcast, &rows).await?;
        }
        taken.chunks += rows.len() as u64;
        progress(last + 1);
        if !full {
            break;
        }
        from = last + 1;
    }
    for log in ChatLog::kept(broadcast) {
        stores.meta.drop_chat(stream, &log).await?;
    }
    if kept.is_empty() {
        // Init segments, pictures, and whatever a crash left without a row.
        for blob in walk::blobs(stores, &format!("{stream}/{broadcast}")).await? {
            stores.blobs.delete(&blob.name).await?;
            taken.bytes += blob.bytes;
        }
        stores.meta.put_about(stream, broadcast, About::default()).await?;
    }
    Ok(taken)
}

async fn bytes_of(
    stores: &Stores,
    stream: &StreamId,
    broadcast: &BroadcastId,
    row: &ChunkRow,
    taken: &mut Taken,
) -> store::Result<()> {
    for made in &row.renditions {
        stores.blobs.delete(&blob_name(stream, broadcast, &made.rendition, row.k, row.epoch)).await?;
        taken.bytes += u64::from(made.bytes);
    }
    Ok(())
}

#[cfg(test)]
#[path = "deletion_tests.rs"]
mod tests;
