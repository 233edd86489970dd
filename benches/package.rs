//! Packaging: one 2 s chunk of 3.8 Mb/s video, and the playlist that every poll renders.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weir::{
    media::{Packet, Track, VideoConfig},
    package::{Chunker, Entry, History, List, Window, history::Size, playlist, window::LEN_MAX},
    time::UnixMs,
};

const CHUNK_BYTES: usize = 3_800_000 * 2 / 8;
const FRAMES: i64 = 120;

fn chunk(c: &mut Criterion) {
    let config = VideoConfig {
        avcc: Bytes::from_static(&[1, 0x64, 0, 0x28, 0xff, 0xe0, 0]),
        width: 1920,
        height: 1080,
        sar: (1, 1),
        fps: Some((60, 1)),
    };
    let payload = Bytes::from(vec![0x5a; CHUNK_BYTES / FRAMES as usize]);
    let packets: Vec<_> = (0..=FRAMES)
        .map(|i| Packet {
            track: Track::Video,
            pts: i * 1500 + if i % FRAMES == 0 { 0 } else { [1500, 3000, -1500][i as usize % 3] },
            dts: i * 1500,
            key: i % FRAMES == 0,
            mark: (i % FRAMES == 0).then_some((i / FRAMES) as u64),
            payload: payload.clone(),
        })
        .collect();
    let mut group = c.benchmark_group("package");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    group.bench_function("chunk of 2 s at 3.8 Mb/s", |b| {
        b.iter_batched(
            || (Chunker::video(&config, 1, None), packets.clone()),
            |(mut chunker, packets)| {
                let mut chunk = None;
                for packet in packets {
                    chunk = chunker.push(packet).expect("packets are in order").or(chunk);
                }
                black_box(chunk.expect("the second mark completes the first chunk"))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn render(c: &mut Criterion) {
    let mut list = List::new(2, LEN_MAX);
    for k in 0..LEN_MAX as u64 {
        let wall = UnixMs(1_767_225_600_000 + k as i64 * 2000);
        let init = "0123456789abcdef".into();
        let entry = Entry {
            k,
            epoch: 1,
            duration_us: 2_000_000,
            discontinuity: false,
            gap: false,
            wall,
            init,
            parts: Default::default(),
        };
        list.append(entry).expect("numbers follow");
    }
    let window = list.window();
    c.bench_function("playlist of 15 entries", |b| b.iter(|| black_box(playlist::media(black_box(&window), &[]))));
    let mut history = History::default();
    for k in 0..43_200 {
        let wall = UnixMs(1_767_225_600_000 + k as i64 * 2000);
        history.push(
            &Entry { k, wall, ..window.entries()[0].clone() },
            k as i64 * 180_000,
            Size { bytes: 1_000_000, iframe: 100_000 },
        );
    }
    let window = Window::from_entries(2, 0, [Entry { k: 43_200, ..window.entries()[0].clone() }], false).expect("one");
    let past = [history.all()];
    c.bench_function("playlist of a day, from the start", |b| {
        b.iter(|| black_box(playlist::from_start(black_box(&past), &window, &[])))
    });
}

criterion_group!(benches, chunk, render);
criterion_main!(benches);
