use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::package::progressive::{
    Bounds, Builder, Sample, Samples,
    testing::{CAST, Cast, Stored, build, frames, head, inits, moov, read, read_from, record},
};

/// 4 GiB more or less by one sample: every offset in the file is that of its sample.
#[test]
fn files_past_4_gib_have_wide_offsets() {
    let [init, _] = inits();
    for (sizes, large) in [
        ([1 << 30, 1 << 30, 1 << 30, 1000], false),
        ([3 << 30, 1 << 30, 1 << 30, 1000], true),
        // Only the last byte is behind it.
        ([1 << 30, 1 << 30, 1 << 30, (1 << 30) - 100], true),
    ] {
        let mut builder = Builder::new(Bounds::Whole);
        for (k, size) in (0u32..).zip(sizes) {
            let mut samples = frames(90_000 * i64::from(k), 90_000, 1);
            samples.0[0].size = size;
            builder.add(0, u64::from(k) + 7, &init, samples).unwrap();
        }
        let file = builder.finish().unwrap();
        let payload: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        let head = head(&file);
        assert_eq!(file.len(), head.len() as u64 + payload);
        let stbl = &moov(&head).trak[0].mdia.minf.stbl;
        assert_eq!((stbl.co64.is_some(), stbl.stco.is_some()), (large, !large), "{sizes:?}");
        let offsets: Vec<u64> = match (&stbl.co64, &stbl.stco) {
            (Some(co64), _) => co64.entries.clone(),
            (_, stco) => stco.as_ref().unwrap().entries.iter().map(|offset| u64::from(*offset)).collect(),
        };
        for ((offset, size), chunk) in offsets.iter().zip(sizes).zip(7..) {
            let range = 100..100 + u64::from(size);
            assert_eq!(file.at(*offset), Some(Span::Media { track: 0, chunk, range: range.clone() }));
            let last = Span::Media { track: 0, chunk, range: range.end - 1..range.end };
            assert_eq!(file.at(offset + u64::from(size) - 1), Some(last));
        }
        let mdat = &head[head.len() - 16..];
        if payload + 8 > u64::from(u32::MAX) {
            assert_eq!((&mdat[..8], &mdat[8..]), (&b"\0\0\0\x01mdat"[..], &(payload + 16).to_be_bytes()[..]));
        } else {
            assert_eq!((&mdat[8..12], &mdat[12..]), (&(payload as u32 + 8).to_be_bytes()[..], &b"mdat"[..]));
        }
        assert_eq!(file.at(file.len()), None);
        assert_eq!(file.at(u64::MAX), None);
    }
}

/// Thirteen hours of 90 kHz do not fit 32 bits.
#[test]
fn long_durations_are_wide() {
    let [init, _] = inits();
    let hour = 3600 * 90_000;
    let file = |hours: i64| {
        let mut builder = Builder::new(Bounds::Whole);
        for k in 0..hours {
            builder.add(0, k as u64, &init, frames(k * hour, hour as u32, 1)).unwrap();
        }
        head(&builder.finish().unwrap())
    };
    for (hours, version) in [(13, 0), (14, 1)] {
        let head = file(hours);
        let moov = moov(&head);
        let want = (hours * hour) as u64;
        assert_eq!(
            (moov.mvhd.duration, moov.trak[0].tkhd.duration, moov.trak[0].mdia.mdhd.duration),
            (want, want, want)
        );
        assert_eq!(moov.trak[0].edts.as_ref().unwrap().elst.as_ref().unwrap().entries[0].segment_duration, want);
        for kind in [b"mvhd", b"tkhd", b"mdhd", b"elst"] {
            let at = head.windows(4).position(|bytes| bytes == kind).unwrap();
            assert_eq!(head[at + 4], version, "{hours}");
        }
    }
}

/// Four hours of 60 pictures a second, with B-frames, times in jittering milliseconds, and six parts to a chunk: the
/// tables at their longest.
#[test]
fn four_hours_take_little_memory() {
    let inits = inits();
    let mut builder = Builder::new(Bounds::Whole);
    // Parts are not back to back: a moof and the header of an mdat lie between them.
    let video = |k: i64| {
        let time = |i: i64| (k * 120 + i) * 1000 / 60 * 90;
        let sample = |i: i64| Sample {
            time: time(i),
            shown: match i {
                0 | 119 => time(i),
                _ if i % 2 == 1 => time(i + 1),
                _ => time(i - 1),
            },
            duration: (time(i + 1) - time(i)) as u32,
            at: (i * 5000 + i / 20 * 200) as u64,
            size: 5000,
            sync: i == 0,
        };
        Samples((0..120).map(sample).collect())
    };
    let audio = |k: i64| {
        let (first, end) = ((k * 96_000 + 1023) / 1024, ((k + 1) * 96_000 + 1023) / 1024);
        let sample = |i: i64| Sample {
            time: i * 1024,
            shown: i * 1024,
            duration: 1024,
            at: ((i - first) * 300 + (i - first) / 16 * 200) as u64,
            size: 300,
            sync: true,
        };
        Samples((first..end).map(sample).collect())
    };
    let mut most = 0;
    for k in 0..7200 {
        builder.add(0, k as u64, &inits[0], video(k)).unwrap();
        builder.add(1, k as u64, &inits[1], audio(k)).unwrap();
        most = most.max(builder.weight());
    }
    // When it is finished the tables go over to the file as they are.
    let file = builder.finish().unwrap();
    let head = head(&file);
    let moov = moov(&head);
    assert_eq!(moov.trak[0].mdia.mdhd.duration, 4 * 3600 * 90_000);
    assert!(head.len() > 15_000_000, "{}: all is in it", head.len());
    let chunks = 7200 * 2 * size_of::<Placed>();
    assert!(most + chunks < 25_000_000 && file.weight() < 25_000_000, "{most} and {}", file.weight());
}

static RECORDED: LazyLock<(Vec<Stored>, Progressive, Vec<u8>)> = LazyLock::new(|| {
    let chunks = record(&Cast { seconds: 3, parts: true, ..CAST });
    let file = build(Bounds::Clip { from: 100_000, to: 200_000 }, &chunks);
    let bytes = read(&file, &chunks);
    (chunks, file, bytes)
});

#[test]
fn the_same_chunks_make_the_same_bytes() {
    let (chunks, _, bytes) = &*RECORDED;
    let again = build(Bounds::Clip { from: 100_000, to: 200_000 }, chunks);
    assert!(read(&again, chunks) == *bytes);
}

proptest! {
    /// Wherever a read begins, it gives the bytes of the file from there on.
    #[test]
    fn reads_may_begin_anywhere(place in 0.0f64..1.0) {
        let (chunks, file, bytes) = &*RECORDED;
        let offset = (place * bytes.len() as f64) as usize;
        prop_assert!(read_from(file, chunks, offset as u64) == bytes[offset..]);
    }
}
