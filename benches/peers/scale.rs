//! The stores of a node after ten streams were live for a day: how long a chunk takes to be stored, and a node to start.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use weir::{
    id::{BroadcastId, Rendition, StreamId},
    store::{
        Blobs, BroadcastRow, ChunkRow, EpochRow, Meta, RenditionChunk, RenditionRow, blob_name, blobs::Folder,
        embedded::Embedded, init_name,
    },
    time::{UnixMs, now, unix_now},
};

use crate::{Row, say, server::Server};

const STREAMS: usize = 10;
/// Of 2 s.
const CHUNKS: u64 = 43_200;
const RENDITIONS: [&str; 5] = ["source", "720p", "480p", "360p", "audio"];
/// What a file takes on the disk does not depend on what is in it, up to a block.
const BYTES: usize = 500;
/// Files that are written at a time while the day is made up.
const AT_ONCE: usize = 8;
/// The last chunks of each stream are written as lines would, and timed.
const TIMED: u64 = 60;

pub async fn measure() -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().context("no temporary folder can be made")?;
    say(format_args!("writing {STREAMS} streams of a day, {} files", STREAMS as u64 * CHUNKS * 5));
    let mut times = write(&dir.path().join("data")).await?;
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    let begun = now();
    let server = Server::weir_in(dir.path(), None, &["ladder=[]"]).await?;
    let start = (now() - begun).as_secs_f64();
    let url = server.url(&format!("/hls/{}/{}/source/index.m3u8?from=start", name(0), show()));
    let begun = now();
    let text = crate::server::get(url).await.context("no playlist from the start")?;
    let (rewind, bytes) = ((now() - begun).as_secs_f64(), text.len());
    let memory = server.usage()?.memory.resident_mb;
    Ok(vec![
        Row {
            work: format!("a chunk of 5 renditions and its row, beside {} files: stored", STREAMS as u64 * CHUNKS * 5),
            reach: "within 2 s",
            weir: format!("p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(50), at(99), at(100)),
            peer: "-".into(),
            ratio: "-".into(),
        },
        Row {
            work: format!("a node with that takes up its {STREAMS} broadcasts: from start to ready"),
            reach: "<= 3 s",
            weir: format!("{start:.2} s"),
            peer: "-".into(),
            ratio: "-".into(),
        },
        Row {
            work: "then the first viewer who rewinds a day".into(),
            reach: "-",
            weir: format!("{rewind:.2} s for {bytes} bytes; node {memory:.0} MB"),
            peer: "-".into(),
            ratio: "-".into(),
        },
    ])
}

fn name(n: usize) -> String {
    format!("stream{n}")
}

fn show() -> BroadcastId {
    BroadcastId::new("01day").expect("legal")
}

/// Makes up the day; gives how long each of the last chunks took.
async fn write(data: &Path) -> Result<Vec<Duration>> {
    let meta = Arc::new(Embedded::open(&data.join("meta"))?);
    let blobs: Arc<dyn Blobs> = Arc::new(Folder::open(&data.join("blobs"))?);
    let started = UnixMs(unix_now().0 - (CHUNKS * 2000) as i64);
    let mut times = Vec::new();
    for n in 0..STREAMS {
        let stream = StreamId::new(&name(n))?;
        begin(&meta, &*blobs, &stream, started).await?;
        let chunk = |k: u64| {
            let (meta, blobs, stream) = (meta.clone(), blobs.clone(), stream.clone());
            async move {
                let begun = now();
                let mut renditions = Vec::new();
                for rendition in RENDITIONS.map(|name| Rendition::new(name).expect("legal")) {
                    let bytes = Bytes::from(vec![k as u8; BYTES]);
                    blobs.put(&blob_name(&stream, &show(), &rendition, k, 1), bytes.into()).await?;
                    let init = "0123456789abcdef".to_owned();
                    renditions.push(RenditionChunk {
                        rendition,
                        init,
                        bytes: BYTES as u32,
                        iframe: 0,
                        duration_us: 2_000_000,
                    });
                }
                let (at, wall) = (k as i64 * 180_000, UnixMs(started.0 + (k * 2000) as i64));
                let row = ChunkRow { k, epoch: 1, at, duration: 180_000, wall, discontinuity: false, renditions };
                meta.put_chunk(&stream, &show(), row).await?;
                Ok::<_, anyhow::Error>(now() - begun)
            }
        };
        let all = stream::iter(0..CHUNKS - TIMED).map(chunk).buffer_unordered(AT_ONCE);
        all.try_for_each(async |_| Ok(())).await?;
        for k in CHUNKS - TIMED..CHUNKS {
            times.push(chunk(k).await?);
        }
        say(format_args!("{}: written", name(n)));
    }
    // As a crash would leave it, but for the rows of the last second.
    meta.flush().await?;
    Arc::into_inner(meta).context("nobody else holds the store")?.close().await?;
    Ok(times)
}

async fn begin(meta: &Embedded, blobs: &dyn Blobs, stream: &StreamId, started: UnixMs) -> Result<()> {
    let row = |name: &str| RenditionRow {
        name: Rendition::new(name).expect("legal"),
        codec: "avc1.64001f".into(),
        width: 1280,
        height: 720,
        fps_milli: 30_000,
        channels: 2,
        peak_bps: 1_000_000,
        mean_bps: 1_000_000,
        iframe_bps: 0,
    };
    let epoch = EpochRow {
        epoch: 1,
        broadcast: show(),
        k_start: 0,
        at: 0,
        wall: started,
        discontinuity: false,
        node: "bench".into(),
        session: 0,
        turn: 0,
    };
    meta.take_epoch(stream, epoch).await?;
    for rendition in RENDITIONS {
        let name = init_name(stream, &show(), &Rendition::new(rendition)?, "0123456789abcdef");
        blobs.put(&name, Bytes::from_static(b"init").into()).await?;
    }
    let row = BroadcastRow {
        stream: stream.clone(),
        id: show(),
        started,
        ended: None,
        target: 2,
        chunk_ms: 2000,
        part_ticks: 30_000,
        part_target_ms: 343,
        renditions: RENDITIONS.map(row).into(),
        summary: None,
        deleted: None,
    };
    Ok(meta.put_broadcast(row).await?)
}
