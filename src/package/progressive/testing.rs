//! What the tests of this module share: recordings made by our own chunkers, and files put together from them.

use std::{collections::HashMap, io::Write, sync::Arc};

use bytes::Bytes;
use mp4_atom::{Decode, Moov};

use super::{Bounds, Builder, InitInfo, Progressive, Sample, Samples, Span, Walk};
use crate::{
    media::{AudioConfig, Track, VideoConfig},
    package::{
        Chunker, Init, Parts,
        testing::{aac, avc, flv, read_chunk, run},
    },
};

/// One chunk as it is stored.
#[derive(Clone)]
pub struct Stored {
    pub track: usize,
    pub chunk: u64,
    pub init: Arc<InitInfo>,
    pub bytes: Bytes,
}

/// What to encode and how to cut it.
#[derive(Clone)]
pub struct Cast<'a> {
    pub size: (u16, u16),
    pub seconds: u32,
    /// Arguments of x264.
    pub video: &'a [&'a str],
    pub parts: bool,
    /// Where it starts on the timeline, milliseconds.
    pub start: i64,
    /// Number of the first chunk.
    pub k: u64,
    /// A chunk starts at the first key frame after so many milliseconds.
    pub chunk: i64,
}

pub const B_FRAMES: &[&str] = &["-bf", "3", "-g", "30", "-keyint_min", "30", "-sc_threshold", "0"];

pub const CAST: Cast<'static> =
    Cast { size: (160, 90), seconds: 6, video: B_FRAMES, parts: false, start: 0, k: 0, chunk: 1000 };

/// Encodes a picture and a tone that never repeat themselves, and cuts them.
pub fn record(cast: &Cast) -> Vec<Stored> {
    let (width, height) = cast.size;
    let seconds = cast.seconds;
    let picture = format!("testsrc2=s={width}x{height}:r=30:d={seconds}");
    let tone = format!("aevalsrc=0.5*sin(t*(900+t*700)):s=48000:d={seconds}");
    let mut args = vec!["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &tone];
    args.extend("-pix_fmt yuv420p -c:v libx264 -threads 1".split(' '));
    args.extend(cast.video);
    args.extend("-c:a aac -aac_pns 0 -f flv -flvflags no_duration_filesize pipe:1".split(' '));
    let flv = flv(&run("ffmpeg", &args, &[]));

    let parts = cast.parts.then(|| Parts::new(90_000, 18_000, Some(3000), [1920]));
    let config = VideoConfig { avcc: flv.avcc, width, height, ..avc() };
    let mut video = Chunker::video(&config, 1, parts);
    let config = AudioConfig { asc: flv.asc, object_type: 2, sample_rate: 48_000, channels: 1, frame_len: 1024 };
    let mut audio = Chunker::audio(&config, 1, parts);
    let (mut k, mut due, mut end) = (cast.k, 0, 0);
    let mut chunks = Vec::new();
    for mut packet in flv.packets {
        let rate = if packet.track == Track::Video { 90 } else { 48 };
        packet.pts += cast.start * rate;
        packet.dts += cast.start * rate;
        if packet.track == Track::Audio {
            chunks.extend(audio.push(packet).unwrap().map(|chunk| (1, chunk)));
            continue;
        }
        end = end.max(packet.pts + 3000);
        if packet.key && packet.pts >= due {
            packet.mark = Some(k);
            chunks.extend(audio.mark(k, packet.pts).map(|chunk| (1, chunk)));
            // Times are whole milliseconds.
            (k, due) = (k + 1, packet.pts + cast.chunk * 90 - 180);
        }
        audio.passed(packet.pts);
        chunks.extend(video.push(packet).unwrap().map(|chunk| (0, chunk)));
    }
    let inits = [info(video.init()), info(audio.init())];
    chunks.extend(video.finish(end).into_iter().map(|chunk| (0, chunk)));
    chunks.extend(audio.finish(end).into_iter().map(|chunk| (1, chunk)));
    chunks.sort_by_key(|(track, chunk)| (chunk.k, *track));
    let stored = chunks.into_iter().map(|(track, chunk)| {
        assert!(!cast.parts || chunk.parts.len() > 2, "{} parts", chunk.parts.len());
        Stored { track, chunk: chunk.k, init: inits[track].clone(), bytes: chunk.bytes.joined() }
    });
    stored.collect()
}

pub fn info(init: &Init) -> Arc<InitInfo> {
    Arc::new(InitInfo::parse(&init.bytes).unwrap())
}

/// Inits of video and of audio.
pub fn inits() -> [Arc<InitInfo>; 2] {
    [info(&Init::video(&avc())), info(&Init::audio(&aac(48_000, 1024)))]
}

/// Reads a chunk as its caller would; only boxes are asked for.
pub fn walk(stored: &Stored) -> Samples {
    let mut walk = Walk::new(stored.init.clone(), stored.bytes.len() as u64);
    let mut asked = 0;
    while let Some(range) = walk.wants() {
        walk.feed(&stored.bytes[range.start as usize..range.end as usize]).unwrap();
        asked += 1;
    }
    let moofs = stored.bytes.windows(4).filter(|bytes| bytes == b"moof").count();
    assert!(asked <= moofs, "one read tells all of a fragment: {asked} for {moofs}");
    walk.done().unwrap()
}

pub fn build(bounds: Bounds, chunks: &[Stored]) -> Progressive {
    let mut builder = Builder::new(bounds);
    for stored in chunks {
        builder.add(stored.track, stored.chunk, &stored.init, walk(stored)).unwrap();
    }
    builder.finish().unwrap()
}

/// Reads a file from `offset` to its end.
pub fn read_from(file: &Progressive, chunks: &[Stored], mut offset: u64) -> Vec<u8> {
    let files: HashMap<_, _> = chunks.iter().map(|stored| ((stored.track, stored.chunk), &stored.bytes)).collect();
    let mut out = Vec::new();
    while let Some(span) = file.at(offset) {
        let before = out.len();
        match span {
            Span::Head(bytes) => out.extend_from_slice(&bytes),
            Span::Media { track, chunk, range } => {
                out.extend_from_slice(&files[&(track, chunk)][range.start as usize..range.end as usize]);
            }
        }
        assert!(out.len() > before, "a span has bytes");
        offset += (out.len() - before) as u64;
    }
    assert_eq!(offset, file.len());
    out
}

pub fn read(file: &Progressive, chunks: &[Stored]) -> Vec<u8> {
    let out = read_from(file, chunks, 0);
    assert_eq!(out.len() as u64, file.len());
    out
}

/// The bytes before the media.
pub fn head(file: &Progressive) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(Span::Head(bytes)) = file.at(out.len() as u64) {
        out.extend_from_slice(&bytes);
    }
    out
}

/// Parses the movie with the checking parser.
pub fn moov(head: &[u8]) -> Moov {
    let mut rest = &head[u32::from_be_bytes(head[..4].try_into().unwrap()) as usize..];
    let moov = Moov::decode(&mut rest).unwrap();
    assert!([8, 16].contains(&rest.len()) && &rest[4..8] == b"mdat");
    moov
}

/// Writes a file for a program that seeks in it.
pub fn on_disk(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// One packet or sample: pts, dts, sync, size, hash of the payload.
pub type Packet = (i64, i64, bool, usize, String);

/// What the chunks of a track hold, times as they are stored, by a reader of its own.
pub fn packets(chunks: &[Stored], track: usize) -> Vec<Packet> {
    let reads = chunks.iter().filter(|stored| stored.track == track).flat_map(|stored| read_chunk(&stored.bytes));
    let packet = |read: crate::package::testing::Read| {
        (read.time + read.offset, read.time, read.sync, read.payload.len(), sha256(&read.payload))
    };
    reads.map(packet).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packets of a file as ffprobe reads them, of video and of audio, without those that an edit list hides whole.
pub fn probe(path: &std::path::Path) -> [Vec<Packet>; 2] {
    let args = ["-of", "json", "-show_packets", "-show_data_hash", "sha256", "-i"];
    let text = run("ffprobe", &[&args[..], &[path.to_str().unwrap()]].concat(), &[]);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut out = [Vec::new(), Vec::new()];
    for packet in json["packets"].as_array().unwrap() {
        let text = |key: &str| packet[key].as_str().unwrap().to_owned();
        let number = |key: &str| packet[key].as_i64().unwrap_or_else(|| panic!("{key} of {packet}"));
        let hash = text("data_hash").trim_start_matches("SHA256:").to_owned();
        let size = text("size").parse().unwrap();
        let entry = (number("pts"), number("dts"), text("flags").starts_with('K'), size, hash);
        if !text("flags").contains('D') {
            out[usize::from(text("codec_type") == "audio")].push(entry);
        }
    }
    out
}

/// Samples of one byte each, back to back: (decode time, presentation time, duration). The first is a sync sample.
pub fn samples(times: impl IntoIterator<Item = (i64, i64, u32)>) -> Samples {
    let sample =
        |(i, (time, shown, duration)): (u64, _)| Sample { time, shown, duration, at: 100 + i, size: 1, sync: i == 0 };
    Samples((0..).zip(times).map(sample).collect())
}

/// Frames of a constant duration, shown as they are decoded.
pub fn frames(start: i64, duration: u32, count: i64) -> Samples {
    samples((0..count).map(|i| (start + i * i64::from(duration), start + i * i64::from(duration), duration)))
}
