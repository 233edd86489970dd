use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use mp4_atom::{Encode, Mfhd, Moof, Traf, TrunEntry, TrunSamples};
use proptest::prelude::*;

use super::*;
use crate::package::{
    cmaf::{self, Fragment},
    progressive::{
        Bounds, Builder,
        testing::{Stored, info, inits, read, walk},
    },
    testing::read_chunk,
};

/// What a sample is, where it is told of in every possible way.
const DURATION: u32 = 3000;
const SIZE: u32 = 5;

fn chunk(traf: Traf, payload: &[u8]) -> Bytes {
    let mut out = Vec::new();
    Moof { mfhd: Mfhd { sequence_number: 1 }, traf: vec![traf] }.encode(&mut out).unwrap();
    out.extend((payload.len() as u32 + 8).to_be_bytes());
    out.extend(b"mdat");
    out.extend(payload);
    out.into()
}

fn traf(tfhd: Tfhd, runs: Vec<Trun>) -> Traf {
    Traf {
        tfhd: Tfhd { track_id: 1, ..tfhd },
        tfdt: Some(Tfdt { base_media_decode_time: 9000 }),
        trun: runs,
        ..Traf::default()
    }
}

fn length(traf: &Traf) -> u64 {
    chunk(traf.clone(), &[]).len() as u64
}

fn read_all(init: &Arc<InitInfo>, bytes: &[u8]) -> Result<Samples, Malformed> {
    let mut walk = Walk::new(init.clone(), bytes.len() as u64);
    while let Some(range) = walk.wants() {
        walk.feed(&bytes[range.start as usize..range.end as usize])?;
    }
    walk.done()
}

/// Each of duration, size and flags is said by the sample, the fragment or the init segment, and reads the same.
#[test]
fn defaults_are_found_wherever_they_are() {
    let places = [0, 1, 2].into_iter();
    let all = places.clone().flat_map(|a| places.clone().flat_map(move |b| (0..4).map(move |c| (a, b, c))));
    for (duration, size, flags) in all {
        let mut init = InitInfo::clone(&inits()[0]);
        let said = |at: u32, place: u32, value: u32| (at == place).then_some(value);
        init.defaults.default_sample_duration = said(2, duration, DURATION).unwrap_or(77);
        init.defaults.default_sample_size = said(2, size, SIZE).unwrap_or(77);
        init.defaults.default_sample_flags = said(2, flags, NON_SYNC).unwrap_or(0);
        let tfhd = Tfhd {
            default_sample_duration: said(1, duration, DURATION),
            default_sample_size: said(1, size, SIZE),
            // 3: the first sample has flags of its own.
            default_sample_flags: said(1, flags, NON_SYNC).or(said(3, flags, NON_SYNC)),
            ..Tfhd::default()
        };
        let entry = |i: usize| TrunEntry {
            duration: said(0, duration, DURATION),
            size: said(0, size, SIZE),
            flags: said(0, flags, NON_SYNC).or((flags == 3 && i == 0).then_some(0)),
            cts: Some([-1000, 2000, 0][i]),
        };
        let run = Trun { data_offset: Some(0), samples: TrunSamples::Explicit((0..3).map(entry).collect()) };
        let mut traf = traf(tfhd, vec![run]);
        let start = length(&traf);
        traf.trun[0].data_offset = Some(start as i32);
        let got = read_all(&Arc::new(init), &chunk(traf, &[0; 15])).unwrap();
        let want = (0..3).map(|i| Sample {
            time: 9000 + i * 3000,
            shown: 9000 + i * 3000 + [-1000, 2000, 0][i as usize],
            duration: DURATION,
            at: start + i as u64 * 5,
            size: SIZE,
            sync: flags == 3 && i == 0,
        });
        assert_eq!(*got, want.collect::<Vec<_>>(), "{duration} {size} {flags}");
    }
}

/// Runs follow each other where they do not say where they are, and count from the fragment or from the file.
#[test]
fn runs_are_found_wherever_they_are() {
    let entries = || TrunSamples::Explicit(vec![TrunEntry { size: Some(4), ..TrunEntry::default() }; 2]);
    let run = |data_offset| Trun { data_offset, samples: entries() };
    let at = |samples: &Samples| samples.iter().map(|sample| sample.at).collect::<Vec<_>>();
    let init = &inits()[0];
    for gap in [0, 3] {
        let start = length(&traf(Tfhd::default(), vec![run(Some(0)), run(None)])) + gap;
        let bytes = chunk(traf(Tfhd::default(), vec![run(Some(start as i32)), run(None)]), &[0; 19]);
        assert_eq!(at(&read_all(init, &bytes).unwrap()), [start, start + 4, start + 8, start + 12]);
    }
    let tfhd = |base| Tfhd { base_data_offset: Some(base), ..Tfhd::default() };
    let start = length(&traf(tfhd(0), vec![run(None)]));
    assert_eq!(at(&read_all(init, &chunk(traf(tfhd(start), vec![run(None)]), &[0; 8])).unwrap()), [start, start + 4]);
    // Out of the mdat on either side.
    for base in [start - 1, start + 1, 0, u64::MAX - 3] {
        assert!(read_all(init, &chunk(traf(tfhd(base), vec![run(None)]), &[0; 8])).is_err(), "{base}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let init = &inits()[0];
    let inherited = |count| TrunSamples::Inherited { count, first_flags: None };
    let run = |samples| vec![Trun { data_offset: None, samples }];
    let plain = traf(Tfhd::default(), run(inherited(0)));
    for (traf, words) in [
        (traf(Tfhd::default(), run(inherited(u32::MAX))), "too many samples"),
        (Traf { tfdt: None, ..plain.clone() }, "a chunk without a decode time"),
        (
            Traf { tfdt: Some(Tfdt { base_media_decode_time: u64::MAX }), ..traf_of_one() },
            "a time beyond all broadcasts",
        ),
        (Traf { tfhd: Tfhd { track_id: 2, ..plain.tfhd.clone() }, ..plain.clone() }, TRACK),
        (Traf { tfhd: Tfhd { sample_description_index: Some(2), ..plain.tfhd.clone() }, ..plain.clone() }, TRACK),
    ] {
        assert_eq!(read_all(init, &chunk(traf, &[])).unwrap_err().to_string(), words);
    }
    let moof = chunk(traf_of_one(), &[]);
    let moof = &moof[..moof.len() - 8];
    let long = [&(2u32 << 20).to_be_bytes()[..], b"moof", &vec![0; 2 << 20]].concat();
    for (bytes, words) in [
        (moof.to_vec(), "a moof without its mdat"),
        ([moof, moof].concat(), "a moof without its mdat"),
        (moof[..40].to_vec(), "a box is longer than the file"),
        (vec![0; 5], "the file ends within the header of a box"),
        (vec![0, 0, 0, 5, b'f', b'r', b'e', b'e'], "a box is shorter than its header"),
        (long, "a moof is too long"),
        ([0, 0, 0, 8, b'f', b'r', b'e', b'e'].repeat(5000), "too many boxes"),
    ] {
        assert_eq!(read_all(init, &bytes).unwrap_err().to_string(), words);
    }
    assert_eq!(read_all(init, &[]).unwrap(), Samples::default());
    let mut walk = Walk::new(init.clone(), 10);
    assert!(walk.feed(&[]).is_err() && walk.feed(&[0; 11]).is_err());
    assert_eq!(walk.done().unwrap_err().to_string(), "the chunk is not read to its end");
}

const TRACK: &str = "a moof of another track or description";

fn traf_of_one() -> Traf {
    let entry = TrunEntry { size: Some(1), ..TrunEntry::default() };
    traf(Tfhd::default(), vec![Trun { data_offset: None, samples: TrunSamples::Explicit(vec![entry]) }])
}

/// A large media box is passed over, and one with a length of 64 bits.
#[test]
fn media_is_not_asked_for() {
    let payload = vec![7; 1 << 20];
    let run = Trun {
        data_offset: Some(0),
        samples: TrunSamples::Explicit(vec![TrunEntry { size: Some(1 << 20), ..TrunEntry::default() }]),
    };
    let mut traf = traf(Tfhd::default(), vec![run]);
    let start = length(&traf) + 8;
    traf.trun[0].data_offset = Some(start as i32);
    let plain = chunk(traf, &payload);
    let moof_len = start as usize - 16;
    let large = [&1u32.to_be_bytes()[..], b"mdat", &((payload.len() + 16) as u64).to_be_bytes()].concat();
    let one = [&plain[..moof_len], &large, &payload].concat();
    let init = &inits()[0];
    let two = [&one[..], &one].concat();
    let mut walk = Walk::new(init.clone(), two.len() as u64);
    let mut read = 0;
    while let Some(range) = walk.wants() {
        read += range.end - range.start;
        walk.feed(&two[range.start as usize..range.end as usize]).unwrap();
    }
    assert_eq!(read, 2 * READ);
    let at: Vec<_> = walk.done().unwrap().iter().map(|sample| sample.at).collect();
    assert_eq!(at, [start, one.len() as u64 + start]);
}

/// A chunk of three parts with B-frames.
static CHUNK: LazyLock<Bytes> = LazyLock::new(|| {
    let sample = |i: u32, key| cmaf::Sample {
        duration: 3000 + i % 2,
        offset: [0, 6000, -3000][i as usize % 3],
        key,
        payload: vec![i as u8; 20 + i as usize].into(),
    };
    let parts = (0..3).map(|n| {
        let samples: Vec<_> = (0..6).map(|i| sample(i, n == 0 && i == 0)).collect();
        cmaf::part(&Fragment { sequence: n + 1, start: 90_000 + u64::from(n) * 18_003, samples: &samples }, n == 0)
            .joined()
    });
    parts.collect::<Vec<_>>().concat().into()
});

#[test]
fn our_own_chunks_are_read() {
    let stored = Stored { track: 0, chunk: 0, init: inits()[0].clone(), bytes: CHUNK.clone() };
    let samples = walk(&stored);
    let reads = read_chunk(&CHUNK);
    assert_eq!(samples.len(), 18);
    for (sample, read) in samples.iter().zip(&reads) {
        assert_eq!((sample.time, sample.shown - sample.time), (read.time, read.offset));
        assert_eq!((i64::from(sample.duration), sample.sync), (read.duration, read.sync));
        assert_eq!(CHUNK[sample.at as usize..][..sample.size as usize], read.payload);
    }
}

/// Reads what may be anything, and makes a file of it if it can be read; `step` bytes at a time.
fn try_all(bytes: &[u8], step: usize) -> Option<Vec<u8>> {
    let init = &inits()[0];
    let mut walk = Walk::new(init.clone(), bytes.len() as u64);
    while let Some(range) = walk.wants() {
        let wanted = &bytes[range.start as usize..range.end as usize];
        walk.feed(&wanted[..wanted.len().min(step)]).ok()?;
    }
    let samples = walk.done().ok()?;
    let slow = info(&crate::package::Init::audio(&crate::package::testing::aac(24_000, 1024)));
    let mut out = None;
    for bounds in [Bounds::Whole, Bounds::Clip { from: 100_000, to: 120_000 }] {
        let mut builder = Builder::new(bounds);
        builder.add(0, 1, init, samples.clone()).ok()?;
        // The same as audio of another timescale, twice.
        let [_, audio] = inits();
        let _ = builder.add(1, 1, &audio, samples.clone());
        let _ = builder.add(1, 2, &slow, samples.clone());
        let Ok(file) = builder.finish() else { continue };
        let stored = |track, chunk| Stored { track, chunk, init: init.clone(), bytes: Bytes::copy_from_slice(bytes) };
        out = Some(read(&file, &[stored(0, 1), stored(1, 1), stored(1, 2)]));
    }
    out
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..400) {
        try_all(&bytes, step);
    }

    #[test]
    fn broken_chunks_are_taken(
        cut in 0usize..2000, changes in prop::collection::vec((0usize..2000, any::<u8>()), 0..4),
        step in prop_oneof![1usize..50, Just(1 << 20)],
    ) {
        let mut bytes = CHUNK.to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        try_all(&bytes, step);
        bytes.truncate(cut);
        try_all(&bytes, step);
    }

    /// Times and defaults at the ends of their ranges.
    #[test]
    fn extreme_times_are_taken(
        start in prop_oneof![0u64..10, (1 << 56) - 10..(1u64 << 56) + 10, any::<u64>()],
        entries in prop::collection::vec(
            (prop_oneof![0u32..3, any::<u32>()], 0u32..3, any::<bool>(), prop_oneof![-3i64..3, any::<i32>().prop_map(i64::from)]),
            1..6,
        ),
    ) {
        let entry = |(i, &(duration, size, flags, cts)): (usize, &(u32, u32, bool, i64))| TrunEntry {
            duration: Some(duration),
            size: Some(size),
            flags: Some(if flags && i > 0 { NON_SYNC } else { 0 }),
            cts: Some(cts),
        };
        let entries = TrunSamples::Explicit(entries.iter().enumerate().map(entry).collect());
        let mut traf = traf(Tfhd::default(), vec![Trun { data_offset: Some(0), samples: entries }]);
        traf.tfdt = Some(Tfdt { base_media_decode_time: start });
        traf.trun[0].data_offset = Some(length(&traf) as i32);
        let read = try_all(&chunk(traf, &[0; 20]), 1 << 20);
        prop_assert!(read.is_some() || start >= 10);
    }

    #[test]
    fn short_reads_are_taken(step in 1usize..100) {
        prop_assert_eq!(try_all(&CHUNK, step), try_all(&CHUNK, 1 << 20));
        prop_assert!(try_all(&CHUNK, step).is_some());
    }
}
