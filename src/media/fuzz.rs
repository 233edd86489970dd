//! Bodies that eat arbitrary bytes: run as properties here and by cargo-fuzz.

use bytes::Bytes;

use super::{
    AudioConfig, Epoch, VideoConfig,
    timeline::{Config, Input, Output, Timeline},
    wire::Decoder,
};
use crate::{id::BroadcastId, time::UnixMs};

/// Parses the bytes as every kind of config.
pub fn codec(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = AudioConfig::parse(bytes.clone());
    if let Ok(config) = VideoConfig::parse(bytes) {
        let _ = config.with_inband(data);
    }
}

/// Reads the bytes as a feed: as they are, and behind a good beginning.
pub fn wire(data: &[u8]) {
    for preamble in [&b""[..], b"WEIR\x00\x01"] {
        let mut decoder = Decoder::new();
        decoder.push(preamble);
        decoder.push(data);
        while let Ok(Some(_)) = decoder.poll() {}
    }
    // Bodies deep enough to be interesting need a length that fits.
    let mut decoder = Decoder::new();
    decoder.push(b"WEIR\x00\x01");
    decoder.push(&(data.len() as u32).to_be_bytes());
    decoder.push(data);
    let _ = decoder.poll();
}

/// Plays a session written in the bytes: one byte of kind, then what that kind needs.
pub fn timeline(data: &[u8]) {
    let Some((&flags, mut data)) = data.split_first() else { return };
    let mut timeline = Timeline::new(Config { chunk_ms: 500 * u32::from(flags >> 4), encode: flags & 1 == 1 });
    let configs = [
        VideoConfig { avcc: Bytes::from_static(&[1, 66, 0, 30, 0xff]), width: 16, height: 16, sar: (1, 1), fps: None },
        VideoConfig { avcc: Bytes::from_static(&[1, 77, 0, 30, 0xff]), width: 32, height: 32, sar: (1, 1), fps: None },
    ];
    let audio = |asc: &'static [u8], sample_rate| AudioConfig {
        asc: Bytes::from_static(asc),
        object_type: 2,
        sample_rate,
        channels: 2,
        frame_len: 1024,
    };
    let mut time = 0u32;
    let mut number = 0;
    while let Some((head, rest)) = data.split_first_chunk::<4>() {
        data = rest;
        let step = i32::from(i16::from_be_bytes([head[1], head[2]]));
        // Mostly small steps, so that sessions live long enough to get anywhere.
        let step = if head[0] & 0x80 == 0 { step.rem_euclid(300) } else { step.wrapping_mul(1 << (head[0] >> 3 & 15)) };
        time = time.wrapping_add_signed(step);
        let composition_ms = i32::from(head[3] as i8) * if head[3] % 16 == 0 { 100_000 } else { 3 };
        let picture = |kind: u8| Bytes::copy_from_slice(&[0, 0, 0, 3, kind, 0x80, head[3]]);
        let input = match head[0] & 7 {
            0 => Input::Video { time_ms: time, composition_ms, payload: picture(0x65) },
            1 | 2 => Input::Video { time_ms: time, composition_ms, payload: picture(0x41) },
            3 | 4 => Input::Audio { time_ms: time, payload: Bytes::from_static(&[1]) },
            5 => Input::VideoConfig(configs[usize::from(head[3] & 1)].clone()),
            6 if head[3] & 1 == 0 => Input::AudioConfig(audio(&[0x11, 0x90], 48_000)),
            6 => Input::AudioConfig(audio(&[0x12, 0x10], 44_100)),
            _ if head[3] == 0 => Input::End,
            _ => {
                timeline.set_encode(head[3] & 1 == 1);
                continue;
            }
        };
        let failed = timeline.handle(input).is_err();
        while let Some(output) = timeline.poll() {
            if let Output::NeedEpoch { next, .. } = output {
                let (k, at) = next.unwrap_or((0, i64::from(head[1]) * 90_000));
                number += 1;
                timeline.begin(Epoch {
                    broadcast: BroadcastId::new("fuzz").expect("a legal name"),
                    number,
                    k: k + u64::from(head[2] & 1),
                    at: at + i64::from(head[2] & 1) * 180_000,
                    wall: UnixMs(0),
                    discontinuity: false,
                });
            }
        }
        if failed {
            return;
        }
    }
}
