//! What the tests of this module share: configs, a reader of FLV files, and ffmpeg.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use bytes::Bytes;
use mp4_atom::{Any, Decode, Moof};

use crate::media::{AudioConfig, Packet, Track, VideoConfig};

/// High profile, level 3.1, 1280x720; the SPS tells no colour.
pub fn avc() -> VideoConfig {
    let avcc = [
        &[1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 24][..],
        &[
            0x67, 0x64, 0, 0x0d, 0xac, 0xd9, 0x41, 0x41, 0xfa, 0x10, 0, 0, 3, 0, 0x10, 0, 0, 3, 3, 0x20, 0xf1, 0x42,
            0x99, 0x60,
        ],
        &[1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0],
    ];
    VideoConfig { avcc: avcc.concat().into(), width: 1280, height: 720, sar: (1, 1), fps: Some((30, 1)) }
}

/// Stereo AAC-LC.
pub fn aac(sample_rate: u32, frame_len: u32) -> AudioConfig {
    let index: u16 = match sample_rate {
        48_000 => 3,
        44_100 => 4,
        24_000 => 6,
        rate => panic!("no index for {rate}"),
    };
    let asc = 2 << 11 | index << 7 | 2 << 3 | u16::from(frame_len == 960) << 2;
    AudioConfig { asc: asc.to_be_bytes().to_vec().into(), object_type: 2, sample_rate, channels: 2, frame_len }
}

/// A fragment read back with the checking parser: decode time, presentation offset, duration, sync, payload length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub time: i64,
    pub offset: i64,
    pub duration: i64,
    pub sync: bool,
    pub payload: Vec<u8>,
}

/// Takes a chunk apart, whatever its fragments leave to defaults.
pub fn read_chunk(bytes: &[u8]) -> Vec<Read> {
    let (mut rest, mut out) = (bytes, Vec::new());
    assert_eq!(Any::decode(&mut rest).unwrap().kind(), mp4_atom::FourCC::new(b"styp"));
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let moof = Moof::decode(&mut rest).unwrap();
        let Any::Mdat(mdat) = Any::decode(&mut rest).unwrap() else { panic!("no mdat") };
        let [traf] = &moof.traf[..] else { panic!("one traf") };
        assert!(traf.tfhd.default_base_is_moof);
        let trun = &traf.trun[0];
        let mut offset = at + trun.data_offset.unwrap() as usize;
        assert_eq!(offset, bytes.len() - rest.len() - mdat.data.len());
        let mut time = traf.tfdt.as_ref().unwrap().base_media_decode_time as i64;
        for sample in trun.samples.iter() {
            let len = sample.size.or(traf.tfhd.default_sample_size).unwrap() as usize;
            let duration = i64::from(sample.duration.or(traf.tfhd.default_sample_duration).unwrap());
            let flags = sample.flags.or(traf.tfhd.default_sample_flags).unwrap();
            let payload = bytes[offset..offset + len].to_vec();
            out.push(Read { time, offset: sample.cts.unwrap_or(0), duration, sync: flags & 0x1_0000 == 0, payload });
            time += duration;
            offset += len;
        }
        assert_eq!(offset, bytes.len() - rest.len());
    }
    out
}

/// Runs ffmpeg or ffprobe and gives what it writes; anything it has to say is a failure.
pub fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(["-hide_banner", "-loglevel", "warning"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program} {args:?}: {said}");
    output.stdout
}

/// What ffmpeg encoded: sequence headers and packets with FLV's times.
pub struct Flv {
    pub avcc: Bytes,
    pub asc: Bytes,
    pub packets: Vec<Packet>,
}

/// Reads the tags of an FLV file with H.264 and 48 kHz AAC-LC. Audio times are counted in frames of 1024.
pub fn flv(file: &[u8]) -> Flv {
    let mut out = Flv { avcc: Bytes::new(), asc: Bytes::new(), packets: Vec::new() };
    let (mut at, mut frames) = (13, 0);
    while at + 11 <= file.len() {
        let int = |from: usize, len| file[from..from + len].iter().fold(0i64, |n, &b| n << 8 | i64::from(b));
        let (kind, len) = (file[at], int(at + 1, 3) as usize);
        let ms = i64::from(file[at + 7]) << 24 | int(at + 4, 3);
        let body = &file[at + 11..at + 11 + len];
        at += 11 + len + 4;
        match (kind, body) {
            (9, [_, 0, _, _, _, avcc @ ..]) => out.avcc = Bytes::copy_from_slice(avcc),
            (9, [first, 1, a, b, c, nals @ ..]) => {
                let offset = i64::from(i32::from_be_bytes([*a, *b, *c, 0]) >> 8);
                out.packets.push(Packet {
                    track: Track::Video,
                    pts: (ms + offset) * 90,
                    dts: ms * 90,
                    key: first >> 4 == 1,
                    mark: None,
                    payload: Bytes::copy_from_slice(nals),
                });
            }
            (8, [_, 0, asc @ ..]) => out.asc = Bytes::copy_from_slice(asc),
            (8, [_, 1, frame @ ..]) => {
                let pts = frames * 1024;
                frames += 1;
                let payload = Bytes::copy_from_slice(frame);
                out.packets.push(Packet { track: Track::Audio, pts, dts: pts, key: true, mark: None, payload });
            }
            _ => {}
        }
    }
    out
}
