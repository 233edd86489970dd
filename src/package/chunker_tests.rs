use proptest::prelude::*;

use super::*;
use crate::package::{
    progressive::{InitInfo, first_sample},
    testing::{Read, aac, avc, read_chunk},
};

fn video(pts: i64, dts: i64, mark: Option<u64>) -> Packet {
    let payload = format!("v{pts}").into_bytes().into();
    Packet { track: Track::Video, pts, dts, key: mark.is_some(), mark, payload }
}

fn audio(pts: i64) -> Packet {
    let payload = format!("a{pts}").into_bytes().into();
    Packet { track: Track::Audio, pts, dts: pts, key: true, mark: None, payload }
}

fn ks(chunks: &[Chunk]) -> Vec<u64> {
    chunks.iter().map(|chunk| chunk.k).collect()
}

/// Pushes everything; `end` is the epoch's.
fn chunks(mut chunker: Chunker, packets: impl IntoIterator<Item = Packet>, end: i64) -> Vec<Chunk> {
    let mut out = Vec::new();
    for packet in packets {
        out.extend(chunker.push(packet).unwrap());
    }
    out.extend(chunker.finish(end));
    out
}

fn times(reads: &[Read]) -> Vec<(i64, i64, i64)> {
    reads.iter().map(|read| (read.time, read.offset, read.duration)).collect()
}

#[test]
fn b_frames_are_decoded_from_the_key_frames_time() {
    // I0 P3 B1 B2 at 3000 ticks, decode times two frames early.
    let packets = [
        video(6000, 0, Some(4)),
        video(15000, 3000, None),
        video(9000, 6000, None),
        video(12000, 9000, None),
        video(18000, 12000, Some(5)),
        video(21000, 15000, None),
    ];
    let out = chunks(Chunker::video(&avc(), 9, None), packets, 24000);
    let [a, b] = &out[..] else { panic!() };
    assert_eq!((a.k, a.epoch, a.start, a.duration, a.timescale), (4, 9, 6000, 12000, 90_000));
    assert_eq!((b.k, b.epoch, b.start, b.duration), (5, 9, 18000, 6000));
    assert_eq!(
        times(&read_chunk(&a.bytes.joined())),
        [(6000, 0, 3000), (9000, 6000, 3000), (12000, -3000, 3000), (15000, -3000, 3000)]
    );
    assert_eq!(times(&read_chunk(&b.bytes.joined())), [(18000, 0, 3000), (21000, 0, 3000)]);
    assert!(read_chunk(&a.bytes.joined()).iter().map(|r| r.sync).eq([true, false, false, false]));
}

#[test]
fn the_first_picture_can_be_taken_from_the_first_bytes_alone() {
    let init = Arc::new(InitInfo::parse(&Init::video(&avc()).bytes).unwrap());
    for parts in [None, Some(Parts { ticks: 6000, target_ms: 67 })] {
        let packets = (0..8).map(|n| video(n * 3000, n * 3000, (n == 0).then_some(0)));
        let out = chunks(Chunker::video(&avc(), 1, parts), packets, 24_000);
        let (bytes, iframe) = (out[0].bytes.joined(), out[0].iframe as usize);
        let head = bytes.slice(..iframe);
        assert_eq!(first_sample(&head, &init, bytes.len() as u64).unwrap(), &b"v0"[..]);
        assert!(first_sample(&head.slice(..iframe - 1), &init, bytes.len() as u64).is_err());
        assert!(first_sample(&bytes.slice(..20), &init, bytes.len() as u64).is_err());
    }
    let sounds = chunks(Chunker::audio(&aac(48_000, 1024), 1, None), [Packet { mark: Some(0), ..audio(0) }], 1920);
    assert_eq!(sounds[0].iframe, 0);
}

#[test]
fn other_key_frames_inside_a_chunk_are_sync() {
    let inner = Packet { key: true, ..video(6000, 6000, None) };
    let out = chunks(Chunker::video(&avc(), 1, None), [video(0, 0, Some(0)), video(3000, 3000, None), inner], 9000);
    assert!(read_chunk(&out[0].bytes.joined()).iter().map(|r| r.sync).eq([true, false, true]));
}

#[test]
fn leading_pictures_and_what_precedes_the_first_mark_are_dropped() {
    let packets = [video(0, 0, None), video(9000, 3000, Some(1)), video(6000, 6000, None), video(12000, 9000, None)];
    let out = chunks(Chunker::video(&avc(), 1, None), packets, 15000);
    let payloads: Vec<_> = read_chunk(&out[0].bytes.joined()).into_iter().map(|r| r.payload).collect();
    assert_eq!(payloads, [b"v9000".to_vec(), b"v12000".to_vec()]);
}

#[test]
fn video_that_cannot_be_cut_is_refused() {
    let mut chunker = Chunker::video(&avc(), 1, None);
    assert_eq!(chunker.open(), None);
    assert_eq!(chunker.push(video(-3000, -3000, Some(0))), Err(Error::Backwards { k: 0, at: -3000, last: 0 }));
    assert_eq!(chunker.push(video(3000, 3000, Some(3))), Ok(None));
    assert_eq!(chunker.open(), Some(3));
    assert_eq!(chunker.push(audio(0)), Err(Error::WrongTrack));
    assert_eq!(chunker.push(video(3000, 6000, Some(4))), Err(Error::Backwards { k: 4, at: 3000, last: 3 }));
    assert_eq!(chunker.push(video(9000, 6000, Some(3))), Err(Error::Backwards { k: 3, at: 9000, last: 3 }));
    let flat = Packet { key: false, ..video(9000, 9000, Some(4)) };
    assert_eq!(chunker.push(flat), Err(Error::NotKey { k: 4 }));
    assert_eq!(chunker.push(video(3001 + 30 * 90_000, 9000, None)), Err(Error::TooLong { k: 3 }));
    assert_eq!(chunker.mark(9, 9000), None);
    let out = chunker.finish(12_000);
    assert_eq!((ks(&out), out[0].duration, read_chunk(&out[0].bytes.joined()).len()), (vec![3], 9000, 2));
}

#[test]
fn an_open_chunk_is_bounded_in_packets_and_bytes() {
    let mut chunker = Chunker::video(&avc(), 1, None);
    chunker.push(video(0, 0, Some(0))).unwrap();
    let errors = (1..9000).filter(|&i| chunker.push(video(i, i, None)).is_err()).count();
    assert_eq!(errors, 9000 - CHUNK_PACKETS_MAX);

    let mut chunker = Chunker::video(&avc(), 1, None);
    let payload = Bytes::from(vec![0; 16 << 20]);
    let mut push = |i: i64| chunker.push(Packet { payload: payload.clone(), ..video(i, i, (i == 0).then_some(0)) });
    (0..8).for_each(|i| assert_eq!(push(i), Ok(None)));
    assert_eq!(push(8), Err(Error::TooLong { k: 0 }));
}

#[test]
fn more_pictures_than_ticks_still_fit() {
    let packets = (0..10).map(|i| video(i, i, (i == 0).then_some(0)));
    let out = chunks(Chunker::video(&avc(), 1, None), packets, 4);
    assert_eq!(times(&read_chunk(&out[0].bytes.joined())), [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1)]);
}

#[test]
fn audio_is_cut_at_the_videos_marks() {
    for (rate, frame) in [(48_000, 1024), (44_100, 1024), (48_000, 960), (24_000, 1024)] {
        let mut chunker = Chunker::audio(&aac(rate, frame), 1, None);
        let len = i64::from(frame);
        let mut out = Vec::new();
        let mut k = 0;
        for pts in (0..).map(|i| i * len).take_while(|pts| *pts < i64::from(rate) * 9) {
            // The mark comes with the video of the same time.
            while pts * 90_000 >= k * 180_000 * i64::from(rate) {
                out.extend(chunker.mark(k as u64, k * 180_000));
                k += 1;
            }
            out.extend(chunker.push(audio(pts)).unwrap());
        }
        out.extend(chunker.finish(9 * 90_000));
        assert_eq!(ks(&out), [0, 1, 2, 3, 4]);
        let mut next = 0;
        for chunk in &out {
            let boundary = chunk.k as i64 * 2 * i64::from(rate);
            assert_eq!(chunk.start, next, "no hole and no overlap");
            assert!((boundary..boundary + len).contains(&chunk.start));
            assert!(read_chunk(&chunk.bytes.joined()).iter().all(|read| read.duration == len && read.sync));
            next += chunk.duration;
        }
        assert_eq!(next, (i64::from(rate) * 9 + len - 1) / len * len);
    }
}

/// Feeds 48 kHz audio for `seconds`, and the marks of 2 s chunks `lag` seconds before (or after) the frames of their
/// time.
fn with_lag(lag: f64, seconds: i64) -> Vec<Chunk> {
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    let (mut out, mut k) = (Vec::new(), 0);
    for pts in (0..seconds * 48_000).step_by(1024) {
        while pts as f64 / 48_000.0 + lag >= (k * 2) as f64 && k * 2 < seconds {
            out.extend(chunker.mark(k as u64, k * 180_000));
            k += 1;
        }
        out.extend(chunker.push(audio(pts)).unwrap());
    }
    while k * 2 < seconds {
        out.extend(chunker.mark(k as u64, k * 180_000));
        k += 1;
    }
    out.extend(chunker.finish(seconds * 90_000));
    out
}

#[test]
fn audio_ahead_or_behind_makes_the_same_chunks() {
    let even = with_lag(0.0, 20);
    assert_eq!(ks(&even), Vec::from_iter(0..10));
    for lag in [-9.0, -3.5, -0.5, 0.5, 3.5, 5.5] {
        assert!(with_lag(lag, 20) == even, "lag {lag}");
    }
}

#[test]
fn audio_that_lags_too_far_is_not_waited_for() {
    let out = with_lag(9.0, 20);
    assert!(out.iter().all(|chunk| chunk.k > 0) && out.last().unwrap().k == 9);
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    for k in 0..100 {
        assert_eq!(chunker.mark(k, k as i64 * 180_000), None);
        assert_eq!(chunker.open(), Some((k + 1).saturating_sub(LAG_MARKS_MAX as u64)));
    }
}

#[test]
fn audio_that_stops_leaves_gaps_and_comes_back() {
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    let mut out = Vec::new();
    for k in 0..8u64 {
        out.extend(chunker.mark(k, k as i64 * 180_000));
        if (1..5).contains(&k) {
            continue;
        }
        let from = k as i64 * 96_000;
        let to = if k == 0 { 48_000 } else { from + 96_000 };
        for pts in (from..to).step_by(1000) {
            out.extend(chunker.push(audio(pts)).unwrap());
        }
        if k == 0 {
            assert_eq!(chunker.open(), Some(0));
        }
        if k == 5 {
            // Late frames of a chunk that is out.
            assert_eq!(chunker.push(audio(90_000)), Ok(None));
        }
    }
    out.extend(chunker.finish(8 * 180_000));
    assert_eq!(ks(&out), [0, 5, 6, 7]);
    // What is left of the chunk belongs to its last frame.
    assert_eq!((out[0].start, out[0].duration), (0, 96_000));
    assert_eq!((out[1].start, out[1].duration), (5 * 96_000, 96_000));
}

#[test]
fn a_hole_lengthens_the_frame_before_it() {
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    let mut out = Vec::new();
    out.extend(chunker.mark(0, 0));
    for pts in [0, 1024, 9000, 10_024] {
        out.extend(chunker.push(audio(pts)).unwrap());
    }
    out.extend(chunker.mark(1, 11_000 * 90_000 / 48_000));
    for pts in [30_000, 31_024] {
        out.extend(chunker.push(audio(pts)).unwrap());
    }
    out.extend(chunker.finish(32_000 * 90_000 / 48_000));
    assert_eq!(
        times(&read_chunk(&out[0].bytes.joined())),
        [(0, 0, 1024), (1024, 0, 7976), (9000, 0, 1024), (10_024, 0, 19_976)]
    );
    assert_eq!(times(&read_chunk(&out[1].bytes.joined())), [(30_000, 0, 1024), (31_024, 0, 1024)]);

    // More than half a second over the end stays a hole.
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    chunker.mark(0, 0);
    chunker.push(audio(0)).unwrap();
    chunker.mark(1, 180_000);
    let cut = chunker.push(audio(96_000 + 24_001)).unwrap().unwrap();
    assert_eq!((cut.k, cut.duration), (0, 96_000));
}

#[test]
fn audio_alone_carries_its_marks() {
    let mark = |pts: i64| (pts % (1024 * 94) == 1024 * 10).then(|| (pts / (1024 * 94)) as u64 + 5);
    let packets = (0..300).map(|i| i * 1024).map(|pts| Packet { mark: mark(pts), ..audio(pts) });
    let out = chunks(Chunker::audio(&aac(44_100, 1024), 1, None), packets, rescale(300 * 1024, 44_100, 90_000));
    assert_eq!(ks(&out), [5, 6, 7, 8]);
    assert!(out.iter().zip(0..).all(|(chunk, i)| chunk.start == 1024 * (10 + 94 * i)));
    assert_eq!(out.iter().map(|c| c.duration).collect::<Vec<_>>(), [94, 94, 94, 8].map(|n| n * 1024));
    let mut chunker = Chunker::audio(&aac(44_100, 1024), 1, None);
    chunker.push(Packet { mark: Some(3), ..audio(1024) }).unwrap();
    for (pts, k) in [(1024, 4), (0, 4), (2048, 3)] {
        let got = chunker.push(Packet { mark: Some(k), ..audio(pts) });
        assert_eq!(got, Err(Error::Backwards { k, at: pts, last: 3 }));
    }
}

#[test]
fn audio_without_marks_is_bounded() {
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    for i in 0..3000 {
        chunker.push(audio(i * 1024)).unwrap();
    }
    let Cutter::Audio(state) = &chunker.cutter else { panic!() };
    assert!(state.frames.len() < 1500 && state.frames.len() > 1300);
    // Those that are left serve the first chunk.
    assert_eq!(chunker.mark(7, rescale(2900 * 1024, 48_000, 90_000)), None);
    let out = chunker.finish(rescale(3000 * 1024, 48_000, 90_000));
    assert_eq!((out[0].k, out[0].start, out[0].duration), (7, 2900 * 1024, 100 * 1024));

    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, None);
    chunker.mark(0, 0);
    let refused = (0..3000).filter(|i| chunker.push(audio(i * 1024)) == Err(Error::TooLong { k: 0 })).count();
    assert!((1500..1700).contains(&refused));
    assert_eq!(chunker.mark(1, 200 * 90_000), None);
    assert!(chunker.push(audio(200 * 48_000)).unwrap().is_some());
}

#[test]
fn durations_in_microseconds_do_not_drift() {
    let chunk = |i: i64| Chunk {
        k: 0,
        epoch: 0,
        start: i * 1024,
        duration: 1024,
        timescale: 44_100,
        parts: Arc::default(),
        bytes: Pieces::default(),
        iframe: 0,
    };
    let sum: u64 = (0..44_100).map(|i| chunk(i).duration_us()).sum();
    assert_eq!(sum, 1_024_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any sequence of durations, decode order and broken decode times: chunks meet, sums are exact, order holds.
    #[test]
    fn video_chunks_meet(
        frames in prop::collection::vec((1i64..20_000, -30_000i64..30_000, -9_000i64..9_000, 0u8..12), 1..120),
        first in 0i64..1_000_000, tail in 1i64..10_000,
    ) {
        let (mut at, mut k, mut packets) = (first, 0u64, Vec::new());
        let mut marks = Vec::new();
        for (i, &(step, offset, shake, dice)) in frames.iter().enumerate() {
            let mark = (i == 0 || dice == 0).then_some(k);
            if mark.is_some() {
                k += 1;
                marks.push(at);
            }
            let pts = if mark.is_some() { at } else { at + offset };
            packets.push(video(pts, at + shake, mark));
            at += step;
        }
        let end = at + tail;
        let out = chunks(Chunker::video(&avc(), 1, None), packets.clone(), end);
        prop_assert_eq!(out.len(), marks.len());
        for (i, chunk) in out.iter().enumerate() {
            let stop = marks.get(i + 1).copied().unwrap_or(end);
            prop_assert_eq!((chunk.k, chunk.start, chunk.start + chunk.duration), (i as u64, marks[i], stop));
            let reads = read_chunk(&chunk.bytes.joined());
            prop_assert_eq!((reads[0].time, reads[0].offset, reads[0].sync), (marks[i], 0, true));
            prop_assert!(reads.iter().all(|r| r.duration > 0 && r.time < stop));
            prop_assert!(reads.iter().all(|r| (marks[i]..stop).contains(&(r.time + r.offset))));
        }
    }

    /// Regular streams come through with the times they had.
    #[test]
    fn regular_video_keeps_its_times(group in prop::sample::select(vec![1i64, 2, 3, 4]), step in 750i64..9000, count in 1usize..40) {
        // Each group of pictures is coded last first: I | P B B | P B B ..., decode times `group` frames early at most.
        let mut packets = vec![video(0, 0, Some(0))];
        for g in 0..count as i64 {
            let base = g * group;
            for (j, shown) in std::iter::once(group).chain(1..group).enumerate() {
                packets.push(video((base + shown) * step, (base + 1 + j as i64) * step, None));
            }
        }
        let end = packets.len() as i64 * step;
        let out = chunks(Chunker::video(&avc(), 1, None), packets.clone(), end);
        let reads = read_chunk(&out[0].bytes.joined());
        prop_assert!(reads.iter().map(|r| (r.time + r.offset, r.time)).eq(packets.iter().map(|p| (p.pts, p.dts))));
        prop_assert!(reads.iter().all(|r| r.duration == step));
    }

    /// Marks anywhere, holes, and any order of marks and frames: each frame is in the chunk it starts in.
    #[test]
    fn audio_frames_are_where_they_start(
        steps in prop::collection::vec(prop_oneof![9 => Just(1024i64), 1 => 1i64..30_000], 1..200),
        marks in prop::collection::vec(30_000i64..400_000, 1..12), lead in 0usize..200,
    ) {
        let mut at = 0;
        let starts: Vec<i64> = steps.iter().map(|step| { at += step; at - step }).collect();
        let mut time = 0;
        let marks: Vec<i64> = marks.iter().map(|step| { time += step; time - step }).collect();
        let mut chunker = Chunker::audio(&aac(44_100, 1024), 1, None);
        let mut out = Vec::new();
        let mut pending = marks.iter().enumerate().peekable();
        for (i, &pts) in starts.iter().enumerate() {
            let seen = starts[i.saturating_sub(lead)];
            while let Some((k, &mark)) = pending.next_if(|(_, mark)| **mark * 441 <= seen * 900) {
                out.extend(chunker.mark(k as u64, mark));
            }
            out.extend(chunker.push(audio(pts)).unwrap());
        }
        for (k, &mark) in pending {
            out.extend(chunker.mark(k as u64, mark));
        }
        let end = (time + 90_000).max(at * 900 / 441 + 90_000);
        out.extend(chunker.finish(end));
        let mut found = Vec::new();
        for chunk in &out {
            let reads = read_chunk(&chunk.bytes.joined());
            prop_assert_eq!(reads[0].time, chunk.start);
            prop_assert_eq!(reads.iter().map(|r| r.duration).sum::<i64>(), chunk.duration);
            for read in &reads {
                let stop = marks.get(chunk.k as usize + 1).copied().unwrap_or(end);
                prop_assert!(read.time * 900 >= marks[chunk.k as usize] * 441 && read.time * 900 < stop * 441);
                prop_assert_eq!(&read.payload, &format!("a{}", read.time).into_bytes());
                found.push(read.time);
            }
        }
        prop_assert_eq!(found, starts);
        for pair in out.windows(2).filter(|pair| pair[0].k + 1 == pair[1].k) {
            let gap = pair[1].start - pair[0].start - pair[0].duration;
            let boundary = (marks[pair[1].k as usize] * 441 + 899) / 900;
            prop_assert!(gap == 0 || pair[1].start - boundary > 22_050, "{gap}");
        }
    }
}

/// Pushes a packet and takes the parts of the open chunk that are new.
fn told(chunker: &Chunker, seen: &mut (Option<u64>, usize)) -> Vec<Part> {
    if seen.0 != chunker.open() {
        *seen = (chunker.open(), 0);
    }
    let new = chunker.parts()[seen.1..].to_vec();
    seen.1 += new.len();
    new
}

/// Six to a chunk of 2 s, for 25 pictures a second and audio.
const PARTS: Option<Parts> = Some(Parts { ticks: 30_000, target_ms: 362 });

#[test]
fn parts_end_at_the_frames_nearest_to_their_clock() {
    // 25 pictures a second, told in milliseconds: eight or nine to a part.
    let mut chunker = Chunker::video(&avc(), 1, PARTS);
    let (mut seen, mut live) = ((None, 0), Vec::new());
    let mut out = Vec::new();
    for i in 0..101_i64 {
        out.extend(chunker.push(video(i * 3600, i * 3600, (i % 50 == 0).then_some(i as u64 / 50))).unwrap());
        live.extend(told(&chunker, &mut seen));
    }
    let chunk = &out[0];
    let ms: Vec<_> = chunk.parts.iter().map(|part| part.duration_us / 1000).collect();
    assert_eq!(ms, [320, 360, 320, 320, 360, 320]);
    assert!(chunk.parts.iter().map(|part| part.independent).eq([true, false, false, false, false, false]));
    // All but the last were told before the chunk was complete, and it has them as they were.
    assert_eq!(live[..5], chunk.parts[..5]);
    let read: Vec<_> = chunk.parts.iter().map(|part| part.bytes.joined()).collect();
    assert_eq!(read.concat(), chunk.bytes.joined());
    assert_eq!(read_chunk(&read.concat()).len(), 50);
}

#[test]
fn no_part_is_longer_than_the_target_whatever_the_frames() {
    // Ten pictures a second where 25 were told of, and one that lasts too long for any part.
    let mut chunker = Chunker::video(&avc(), 1, PARTS);
    let times: Vec<i64> = (0..10).chain([18, 19]).map(|i| i * 9000).collect();
    for time in &times {
        chunker.push(video(*time, *time, (*time == 0).then_some(0))).unwrap();
    }
    let chunk = &chunker.finish(180_000)[0];
    let ms: Vec<_> = chunk.parts.iter().map(|part| part.duration_us / 1000).collect();
    assert_eq!(ms, [300, 300, 300, 900, 200]);
    // 24 kHz: frames of 42.7 ms.
    let mut chunker = Chunker::audio(&aac(24_000, 1024), 1, Some(Parts { ticks: 30_000, target_ms: 343 }));
    chunker.push(Packet { mark: Some(0), ..audio(0) }).unwrap();
    (1..47).for_each(|i| assert_eq!(chunker.push(audio(i * 1024)), Ok(None)));
    let ms: Vec<_> = chunker.parts().iter().map(|part| part.duration_us / 1000).collect();
    assert!(ms.len() >= 5 && ms.iter().all(|&ms| (298..=343).contains(&ms)), "{ms:?}");
}

#[test]
fn audio_parts_wait_until_no_mark_can_fall_into_them() {
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, PARTS);
    assert_eq!(chunker.mark(0, 0), None);
    for i in 0..40 {
        chunker.push(audio(i * 1024)).unwrap();
    }
    assert!(chunker.parts().is_empty());
    chunker.passed(30_000);
    assert!(chunker.parts().is_empty(), "the part's last frame ends after that");
    chunker.passed(31_000);
    assert_eq!(chunker.parts().iter().map(|part| part.duration_us).collect::<Vec<_>>(), [341_333]);
    // The next chunk begins inside of what would have been the second part.
    let chunk = chunker.mark(1, 40_000).unwrap();
    assert_eq!((chunk.parts.len(), chunk.duration), (2, 21 * 1024));
    assert_eq!(chunk.parts.iter().map(|part| part.duration_us).sum::<u64>(), chunk.duration_us());
    assert!(chunker.parts().is_empty());
}

#[test]
fn an_endless_chunk_of_parts_is_bounded_too() {
    let mut chunker = Chunker::audio(&aac(48_000, 1024), 1, PARTS);
    chunker.push(Packet { mark: Some(0), ..audio(0) }).unwrap();
    let errors = (1..2000).filter(|i| chunker.push(audio(i * 1024)).is_err()).count();
    assert!(errors > 500 && chunker.parts().len() > 80, "{errors} errors, {} parts", chunker.parts().len());
}

proptest! {
    /// Whatever comes, a chunk is its parts, those told early stay as told, and cutting changes no sample.
    #[test]
    fn parts_make_up_the_chunk(
        steps in prop::collection::vec((1i64..6000, -2i64..4, prop::bool::weighted(0.05)), 2..200),
        part in 1000i64..60_000, fps in prop::option::of(10i64..120),
    ) {
        let mut dts = 0;
        let packets: Vec<_> = steps.iter().enumerate().map(|(i, &(step, late, mark))| {
            dts += fps.map_or(step, |fps| 90_000 / fps);
            let mark = (i == 0 || mark).then_some(i as u64);
            video(dts + if mark.is_some() { 0 } else { late.max(0) * 1500 }, dts, mark)
        }).collect();
        let end = dts + 3000;
        let whole = chunks(Chunker::video(&avc(), 1, None), packets.clone(), end);
        let mut chunker = Chunker::video(&avc(), 1, Some(Parts { ticks: part, target_ms: (part / 90 + 40) as u32 }));
        let (mut seen, mut early, mut cut) = ((None, 0), std::collections::BTreeMap::<u64, Vec<Part>>::new(), Vec::new());
        for packet in packets {
            cut.extend(chunker.push(packet).unwrap());
            if let Some(k) = chunker.open() {
                early.entry(k).or_default().extend(told(&chunker, &mut seen));
            }
        }
        cut.extend(chunker.finish(end));
        prop_assert_eq!(ks(&whole), ks(&cut));
        for (whole, cut) in whole.iter().zip(&cut) {
            let early = &early[&cut.k];
            prop_assert_eq!(&early[..], &cut.parts[..early.len()]);
            prop_assert_eq!(cut.parts.iter().map(|part| part.duration_us).sum::<u64>(), cut.duration_us());
            let joined: Vec<_> = cut.parts.iter().map(|part| part.bytes.joined()).collect();
            prop_assert_eq!(joined.concat(), cut.bytes.joined());
            let (a, b) = (read_chunk(&whole.bytes.joined()), read_chunk(&cut.bytes.joined()));
            prop_assert_eq!(a.iter().map(|r| &r.payload).collect::<Vec<_>>(), b.iter().map(|r| &r.payload).collect::<Vec<_>>());
            // Decode times go on without a seam from part to part.
            for pair in b.windows(2) {
                prop_assert_eq!(pair[0].time + pair[0].duration, pair[1].time);
            }
            prop_assert_eq!(b[0].time, cut.start);
        }
    }
}
