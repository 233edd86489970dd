//! What every byte of a publisher passes: the chunk reader, and the timeline that marks chunk starts.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weir::{
    id::BroadcastId,
    media::{
        AudioConfig, Epoch, VideoConfig,
        timeline::{Config, Input, Output, Timeline},
    },
    rtmp::chunk::{Limits, Reader},
    time::UnixMs,
};

/// 60 s of a stream of 3.8 Mb/s at 30 fps.
const SECONDS: u32 = 60;
const FPS: u32 = 30;
const FRAME: usize = 3_640_000 / 8 / FPS as usize;
const SOUND: usize = 427;
/// What encoders send after Set Chunk Size; OBS keeps to 4096.
const CHUNK_SIZE: usize = 4096;

/// Writes a message as its publisher would: a full header, then chunks.
fn message(out: &mut BytesMut, csid: u8, type_id: u8, time_ms: u32, payload: &[u8]) {
    out.extend_from_slice(&[csid]);
    out.extend_from_slice(&time_ms.to_be_bytes()[1..]);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[type_id, 1, 0, 0, 0]);
    for (n, piece) in payload.chunks(CHUNK_SIZE).enumerate() {
        if n > 0 {
            out.extend_from_slice(&[0xc0 | csid]);
        }
        out.extend_from_slice(piece);
    }
}

fn reader(c: &mut Criterion) {
    let mut stream = BytesMut::new();
    message(&mut stream, 2, 1, 0, &(CHUNK_SIZE as u32).to_be_bytes());
    for n in 0..2 * FPS {
        message(&mut stream, 4, 9, n * 1000 / FPS, &[7; FRAME]);
        message(&mut stream, 5, 8, n * 1000 / FPS, &[8; SOUND]);
    }
    let stream = stream.freeze();
    let mut group = c.benchmark_group("chunk reader");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    for piece in [1448, 16 << 10] {
        group.bench_function(format!("2 s at 3.8 Mb/s, {piece} bytes at a time"), |b| {
            b.iter(|| {
                let (mut reader, mut rest, mut messages) = (Reader::new(Limits::AFTER_AUTH), stream.clone(), 0);
                while !rest.is_empty() {
                    reader.push(rest.split_to(piece.min(rest.len())));
                    while let Some(message) = reader.poll().expect("a legal stream") {
                        black_box(message);
                        messages += 1;
                    }
                }
                assert_eq!(messages, 4 * FPS);
            });
        });
    }
    group.finish();
}

/// Frames with length-prefixed NAL units, a keyframe every 2 s, and AAC.
fn inputs() -> Vec<Input> {
    let nal = |kind: u8| {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&(FRAME as u32 - 4).to_be_bytes());
        bytes.extend_from_slice(&[kind]);
        bytes.resize(FRAME, 0x5a);
        bytes.freeze()
    };
    let (key, other, sound) = (nal(0x65), nal(0x41), Bytes::from(vec![0x21; SOUND]));
    let video = VideoConfig {
        avcc: Bytes::from_static(&[1, 0x64, 0, 0x1f, 0xff, 0xe0, 0]),
        width: 1280,
        height: 720,
        sar: (1, 1),
        fps: Some((FPS, 1)),
    };
    let asc = Bytes::from_static(&[0x11, 0x90]);
    let audio = AudioConfig { asc, object_type: 2, sample_rate: 48_000, channels: 2, frame_len: 1024 };
    let mut timed: Vec<_> = (0..SECONDS * FPS)
        .map(|n| {
            let payload = if n % (2 * FPS) == 0 { key.clone() } else { other.clone() };
            let time_ms = n * 1000 / FPS;
            (time_ms, Input::Video { time_ms, composition_ms: 0, payload })
        })
        .collect();
    timed.extend((0..SECONDS * 48_000 / 1024).map(|n| {
        let time_ms = n * 64 / 3;
        (time_ms, Input::Audio { time_ms, payload: sound.clone() })
    }));
    timed.sort_by_key(|(time_ms, _)| *time_ms);
    let configs = [Input::VideoConfig(video), Input::AudioConfig(audio)];
    configs.into_iter().chain(timed.into_iter().map(|(_, input)| input)).collect()
}

fn timeline(c: &mut Criterion) {
    let inputs = inputs();
    let mut group = c.benchmark_group("timeline");
    group.throughput(Throughput::Elements(inputs.len() as u64));
    group.bench_function("60 s of frames", |b| {
        b.iter_batched(
            || (Timeline::new(Config { chunk_ms: 2000, encode: true }), inputs.clone()),
            |(mut timeline, inputs)| {
                let mut messages = 0;
                for input in inputs {
                    timeline.handle(input).expect("a clean stream");
                    while let Some(output) = timeline.poll() {
                        match output {
                            Output::NeedEpoch { .. } => timeline.begin(Epoch {
                                broadcast: BroadcastId::new("b").expect("legal"),
                                number: 1,
                                k: 0,
                                at: 0,
                                wall: UnixMs(0),
                                discontinuity: false,
                            }),
                            Output::Message(message) => {
                                black_box(message);
                                messages += 1;
                            }
                            Output::Warning(_) => {}
                        }
                    }
                }
                // A frame or so is held back at the end.
                assert!(messages > SECONDS * (FPS + 46), "{messages} messages");
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, reader, timeline);
criterion_main!(benches);
