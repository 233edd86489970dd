//! A recording of four hours as one MP4 file: what a download costs, beside ffmpeg that copies the same into a file.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir::{
    id::{BroadcastId, Rendition, StreamId},
    media::{AudioConfig, Packet, Track, VIDEO_TIMESCALE, VideoConfig},
    package::{Chunk, Chunker},
    store::{
        Blobs, BroadcastRow, ChunkRow, EpochRow, Meta, RenditionChunk, RenditionRow, blob_name, blobs::Folder,
        embedded::Embedded, init_name,
    },
    time::{UnixMs, now},
};

use crate::{
    Row,
    clip::{Clip, Frame},
    say,
    server::{Server, on_core},
};

const HOURS: u32 = 4;
/// Of the recording that ffmpeg copies.
const PEER_S: u32 = 600;
/// 90 kHz.
const CHUNK: i64 = 2 * VIDEO_TIMESCALE as i64;

pub async fn measure() -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().context("no temporary folder can be made")?;
    say(format_args!("writing a recording of {HOURS} hours"));
    let (stream, show) = (StreamId::new("x")?, BroadcastId::new("01export")?);
    let bytes = record(&dir.path().join("data"), &stream, &show).await?;
    let server = Server::weir_in(dir.path(), Some(0), &["ladder=[]"]).await?;
    let before = server.usage()?.memory.resident_mb;
    let path = format!("/hls/{stream}/{show}/index.mp4");
    let address = server.address();
    let got = tokio::task::spawn_blocking(move || fetch(address, &path)).await??;
    let peak = server.usage()?.memory.peak_mb;
    let rate = got.bytes as f64 / 1e6 / (got.whole - got.first).as_secs_f64();
    let first = got.first.as_secs_f64();
    ensure!(got.bytes > bytes, "the file is shorter than its media");

    let peer = peer(&server, &stream, &show)?;
    let file = format!("{HOURS} h of {:.1} Mb/s", bytes as f64 * 8.0 / 1e6 / f64::from(HOURS * 3600));
    Ok(vec![
        Row {
            work: format!("MP4 of {file}, one core, bytes/s once it flows"),
            reach: ">= 200 MB/s",
            weir: format!("{rate:.0} MB/s, first byte after {first:.2} s"),
            peer: format!("ffmpeg -c copy of {PEER_S} s: {peer:.0} MB/s"),
            ratio: format!("{:.1}", rate / peer),
        },
        Row {
            work: "memory while it is made and sent, above that of the idle node".into(),
            reach: "<= 50 MB",
            weir: format!("{:.0} MB", peak - before),
            peer: "-".into(),
            ratio: "-".into(),
        },
    ])
}

/// Writes the rows and bytes of a recording, as a line would have; gives the bytes of its media.
async fn record(data: &Path, stream: &StreamId, show: &BroadcastId) -> Result<u64> {
    let clip = Clip::steady()?;
    let meta = Embedded::open(&data.join("meta"))?;
    let blobs: Arc<dyn Blobs> = Arc::new(Folder::open(&data.join("blobs"))?);
    let header = |video: bool| clip.headers.iter().find(|header| header.video == video).context("a sequence header");
    let video = VideoConfig::parse(header(true)?.body.slice(5..)).map_err(|why| anyhow::anyhow!("{why}"))?;
    let audio = AudioConfig::parse(header(false)?.body.slice(2..)).map_err(|why| anyhow::anyhow!("{why}"))?;
    let (mut pictures, mut sounds) = (Chunker::video(&video, 1, None), Chunker::audio(&audio, 1, None));
    let inits = [pictures.init().clone(), sounds.init().clone()];
    let names = [Rendition::source(), Rendition::audio()];
    for (init, name) in inits.iter().zip(&names) {
        blobs.put(&init_name(stream, show, name, &init.hash), init.bytes.clone().into()).await?;
    }
    let row = |name: &Rendition, codec: &str, width, height| RenditionRow {
        name: name.clone(),
        codec: codec.into(),
        width,
        height,
        fps_milli: 30_000,
        channels: 2,
        peak_bps: 4_000_000,
        mean_bps: 3_800_000,
        iframe_bps: 0,
    };
    let started = UnixMs(1_767_225_600_000);
    let renditions = vec![row(&names[0], &inits[0].codec, 1280, 720), row(&names[1], &inits[1].codec, 0, 0)];
    meta.take_epoch(
        stream,
        EpochRow {
            epoch: 1,
            broadcast: show.clone(),
            k_start: 0,
            at: 0,
            wall: started,
            discontinuity: false,
            node: "bench".into(),
            session: 0,
            turn: 0,
        },
    )
    .await?;
    let mut kept = Vec::new();
    let (mut bytes, mut open): (u64, std::collections::BTreeMap<u64, Vec<(usize, Chunk)>>) = (0, Default::default());
    let mut heard = 0;
    let rounds = HOURS * 3600 / (clip.length_ms / 1000);
    for round in 0..rounds {
        let shift = i64::from(round) * i64::from(clip.length_ms) * 90;
        for Frame { at_ms, video, body } in &clip.frames {
            let time = shift + i64::from(*at_ms) * 90;
            if *video {
                let offset = i64::from(i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8) * 90;
                let key = body[0] >> 4 == 1;
                // Key frames are 2 s apart.
                let mark = key.then(|| ((time + CHUNK / 2) / CHUNK) as u64);
                if let Some(k) = mark {
                    kept.extend(sounds.mark(k, time + offset).into_iter().map(|chunk| (1, chunk)));
                }
                let (track, pts, payload) = (Track::Video, time + offset, body.slice(5..));
                let made = pictures.push(Packet { track, pts, dts: time, key, mark, payload })?;
                kept.extend(made.into_iter().map(|chunk| (0, chunk)));
            } else {
                // Counted in samples, without a gap where the clip begins again.
                let (track, pts, payload) = (Track::Audio, heard, body.slice(2..));
                heard += i64::from(audio.frame_len);
                let made = sounds.push(Packet { track, pts, dts: pts, key: true, mark: None, payload })?;
                kept.extend(made.into_iter().map(|chunk| (1, chunk)));
            }
        }
        for (track, chunk) in kept.drain(..) {
            bytes += chunk.bytes.len() as u64;
            blobs.put(&blob_name(stream, show, &names[track], chunk.k, 1), chunk.bytes.clone()).await?;
            let parts = open.entry(chunk.k).or_default();
            parts.push((track, chunk));
        }
        let newest = open.keys().next_back().copied().unwrap_or_default();
        while let Some(entry) = open.first_entry().filter(|entry| *entry.key() + 2 < newest || round + 1 == rounds) {
            let (k, made) = entry.remove_entry();
            let made = made.iter().map(|(track, chunk)| RenditionChunk {
                rendition: names[*track].clone(),
                init: inits[*track].hash.clone(),
                bytes: chunk.bytes.len() as u32,
                iframe: chunk.iframe,
                duration_us: chunk.duration_us(),
            });
            let wall = UnixMs(started.0 + k as i64 * 2000);
            let (at, discontinuity) = (k as i64 * CHUNK, false);
            let row = ChunkRow { k, epoch: 1, at, duration: CHUNK, wall, discontinuity, renditions: made.collect() };
            meta.put_chunk(stream, show, row).await?;
        }
    }
    let ended = Some(UnixMs(started.0 + i64::from(HOURS) * 3_600_000));
    let row = BroadcastRow {
        stream: stream.clone(),
        id: show.clone(),
        started,
        ended,
        target: 2,
        chunk_ms: 2000,
        part_ticks: 0,
        part_target_ms: 0,
        renditions,
        summary: None,
        deleted: None,
    };
    meta.put_broadcast(row).await?;
    meta.close().await?;
    Ok(bytes)
}

struct Got {
    bytes: u64,
    /// Until the first byte, and until the last.
    first: Duration,
    whole: Duration,
}

fn fetch(address: std::net::SocketAddr, path: &str) -> Result<Got> {
    let begun = now();
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let (mut buffer, mut bytes, mut first) = (vec![0; 1 << 20], 0, None);
    loop {
        match socket.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
        first.get_or_insert_with(|| now() - begun);
    }
    Ok(Got { bytes, first: first.context("no answer")?, whole: now() - begun })
}

/// Bytes per second, in MB, at which ffmpeg copies a part of the same into an MP4 file.
fn peer(server: &Server, stream: &StreamId, show: &BroadcastId) -> Result<f64> {
    let url = server.url(&format!("/hls/{stream}/{show}/clip.m3u8?from=0&to={PEER_S}"));
    let begun = now();
    let mut command = on_core(Some(1), "ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i", &url, "-c", "copy", "-f", "mp4"]);
    command.args(["-movflags", "frag_keyframe+empty_moov+default_base_moof", "pipe:1"]);
    let mut child: std::process::Child =
        Command::spawn(command.stdout(Stdio::piped())).context("ffmpeg is the peer")?;
    let bytes = std::io::copy(child.stdout.as_mut().context("its output")?, &mut std::io::sink())?;
    ensure!(child.wait()?.success(), "ffmpeg failed");
    Ok(bytes as f64 / 1e6 / (now() - begun).as_secs_f64())
}
