//! Recordings: playlists and chunks of broadcasts that no line shows any more, read from the store.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::{
    Stores,
    live::{Text, multivariant},
};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    media::VIDEO_TIMESCALE,
    package::{
        playlist,
        window::{Entry, Window},
    },
    store::{self, BroadcastRow, ChunkRow, RenditionRow, blob_name, init_name, valid_chunks},
};

/// Recordings whose index stays in memory. An index is some 100 bytes per chunk and rendition.
const KEPT: usize = 16;
/// Rows read at a time.
const PAGE: usize = 2000;

/// One recorded broadcast's index.
struct Recording {
    row: BroadcastRow,
    chunks: Vec<ChunkRow>,
}

/// Reads recordings. Ended ones never change, so their index is read once.
pub struct Archive {
    stores: Stores,
    // Held for look-ups only, never across an await.
    kept: Mutex<VecDeque<Arc<Recording>>>,
}

impl Archive {
    pub fn new(stores: Stores) -> Self {
        Self { stores, kept: Mutex::default() }
    }

    /// The multivariant playlist of a recording. [`store::Error::NotFound`] when there is no such broadcast.
    pub async fn multivariant(&self, stream: &StreamId, id: &BroadcastId) -> store::Result<Text> {
        let recording = self.recording(stream, id).await?;
        let has = |row: &&RenditionRow| recording.chunks.iter().any(|c| of_rendition(c, &row.name).is_some());
        let rows: Vec<_> = recording.row.renditions.iter().filter(has).cloned().collect();
        if rows.is_empty() {
            return Err(store::Error::NotFound);
        }
        Ok(multivariant(&rows, ""))
    }

    /// A media playlist of a recording: all its chunks, with ENDLIST when the broadcast has ended.
    pub async fn playlist(&self, stream: &StreamId, id: &BroadcastId, rendition: &Rendition) -> store::Result<Text> {
        let recording = self.recording(stream, id).await?;
        let mut chunks = recording.chunks.iter().skip_while(|c| of_rendition(c, rendition).is_none()).peekable();
        let first = chunks.peek().ok_or(store::Error::NotFound)?.k;
        let before = recording.chunks.iter().filter(|c| c.k < first && c.discontinuity).count() as u64;
        let mut entries = Vec::with_capacity(recording.chunks.len());
        // An open broadcast may go on: only its end makes it a recording.
        let ended = recording.row.ended.is_some();
        let mut next: Option<(u64, i64)> = None;
        for chunk in chunks {
            // Numbers without a row are holes, which together last as long as the time between their neighbours.
            if let Some((k, end)) = next.filter(|(k, _)| *k < chunk.k) {
                let holes = (chunk.k - k) as i64;
                let each = (chunk.at - end).max(holes) / holes;
                for n in 0..holes {
                    let wall =
                        crate::time::UnixMs(chunk.wall.0 - (holes - n) * each * 1000 / i64::from(VIDEO_TIMESCALE));
                    entries.push(Entry {
                        k: k + n as u64,
                        epoch: chunk.epoch,
                        duration_us: ticks_us(each.min(i64::from(recording.row.chunk_ms) * 90)),
                        discontinuity: false,
                        gap: true,
                        wall,
                        init: "".into(),
                        parts: Arc::default(),
                    });
                }
            }
            let of = of_rendition(chunk, rendition);
            entries.push(Entry {
                k: chunk.k,
                epoch: chunk.epoch,
                duration_us: of.map_or(ticks_us(chunk.duration), |p| p.duration_us),
                discontinuity: chunk.discontinuity,
                gap: of.is_none(),
                wall: chunk.wall,
                init: of.map_or("", |p| p.init.as_str()).into(),
                parts: Arc::default(),
            });
            next = Some((chunk.k + 1, chunk.at + chunk.duration));
        }
        let window = Window::from_entries(recording.row.target, before, entries, ended);
        let window = window.map_err(|why| store::Error::Damaged(why.to_string()))?;
        Ok(Text::new(playlist::media(&window, &[], ended)))
    }

    /// A chunk's bytes. An older epoch's name whose bytes are not there is answered with the valid chunk of that number:
    /// same frames, same times.
    pub async fn chunk(
        &self,
        stream: &StreamId,
        id: &BroadcastId,
        rendition: &Rendition,
        k: u64,
        epoch: u64,
    ) -> store::Result<Bytes> {
        match self.stores.blobs.get(&blob_name(stream, id, rendition, k, epoch)).await {
            Err(store::Error::NotFound) => {}
            other => return other,
        }
        let epochs = self.stores.meta.epochs(stream, id).await?;
        let rows = self.stores.meta.chunks(stream, id, k, 8).await?;
        let valid = valid_chunks(rows, &epochs).into_iter().find(|row| row.k == k && epoch < row.epoch);
        let valid = valid.filter(|row| of_rendition(row, rendition).is_some()).ok_or(store::Error::NotFound)?;
        self.stores.blobs.get(&blob_name(stream, id, rendition, k, valid.epoch)).await
    }

    pub async fn init(
        &self,
        stream: &StreamId,
        id: &BroadcastId,
        rendition: &Rendition,
        hash: &str,
    ) -> store::Result<Bytes> {
        self.stores.blobs.get(&init_name(stream, id, rendition, hash)).await
    }

    async fn recording(&self, stream: &StreamId, id: &BroadcastId) -> store::Result<Arc<Recording>> {
        let known = |r: &&Arc<Recording>| r.row.id == *id && r.row.stream == *stream;
        if let Some(kept) = self.kept.lock().expect("no panic while held").iter().find(known) {
            return Ok(kept.clone());
        }
        let meta = &self.stores.meta;
        let row = meta.broadcast(stream, id).await?.ok_or(store::Error::NotFound)?;
        let epochs = meta.epochs(stream, id).await?;
        let (mut rows, mut from) = (Vec::new(), 0);
        loop {
            let page = meta.chunks(stream, id, from, PAGE).await?;
            let full = page.len() >= PAGE;
            let Some(last) = page.last().map(|row| row.k) else { break };
            rows.extend(page);
            if !full {
                break;
            }
            from = last + 1;
        }
        let recording = Arc::new(Recording { chunks: valid_chunks(rows, &epochs), row });
        if recording.row.ended.is_some() {
            let mut kept = self.kept.lock().expect("no panic while held");
            kept.push_front(recording.clone());
            kept.truncate(KEPT);
        }
        Ok(recording)
    }
}

fn of_rendition<'a>(chunk: &'a ChunkRow, rendition: &Rendition) -> Option<&'a store::RenditionChunk> {
    chunk.renditions.iter().find(|made| made.rendition == *rendition)
}

fn ticks_us(ticks: i64) -> u64 {
    (ticks.max(0) as u64) * 1_000_000 / u64::from(VIDEO_TIMESCALE)
}
