use mp4_atom::{Any, Decode, Moov};
use proptest::prelude::*;

use super::*;
use crate::package::testing::{aac, avc, read_chunk};

fn moov(init: &Init) -> Moov {
    let mut rest = &init.bytes[..];
    let Any::Ftyp(ftyp) = Any::decode(&mut rest).unwrap() else { panic!("ftyp comes first") };
    assert!(ftyp.compatible_brands.contains(&FourCC::new(b"cmfc")));
    let moov = Moov::decode(&mut rest).unwrap();
    assert!(rest.is_empty());
    moov
}

/// Compares with a hex file in `testdata/cmaf`, sixteen bytes a line; `UPDATE_GOLDENS=1` writes it.
fn golden(name: &str, bytes: &[u8]) {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ") + "\n";
    let text: String = bytes.chunks(16).map(line).collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cmaf").join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, want, "{name}");
}

fn sample(duration: u32, offset: i32, key: bool, len: usize) -> Sample {
    Sample { duration, offset, key, payload: vec![len as u8; len].into() }
}

fn one(start: u64, samples: &[Sample]) -> Bytes {
    part(&Fragment { sequence: 8, start, samples }, true).joined()
}

#[test]
fn boxes_are_what_they_were() {
    golden("init-video.hex", &Init::video(&VideoConfig { sar: (4, 3), ..avc() }).bytes);
    golden("init-audio.hex", &Init::audio(&aac(48_000, 1024)).bytes);
    golden(
        "b-frames.hex",
        &one(1 << 33, &[sample(3000, 0, true, 5), sample(3000, 3000, false, 3), sample(3000, -3000, false, 2)]),
    );
    golden("all-alike.hex", &one(0, &[sample(1024, 0, true, 4), sample(1024, 0, true, 4)]));
}

#[test]
fn video_init_says_what_the_config_says() {
    let config = avc();
    let init = Init::video(&config);
    assert_eq!(init, Init::video(&config));
    assert_eq!(init.codec, "avc1.64001f");
    assert_eq!(init.hash.len(), 16);
    let at = init.bytes.windows(config.avcc.len()).position(|w| w == config.avcc).unwrap();
    assert_eq!(&init.bytes[at - 4..at], b"avcC");
    let moov = moov(&init);
    let [trak] = &moov.trak[..] else { panic!("one track") };
    assert_eq!((trak.tkhd.track_id, trak.mdia.mdhd.timescale, trak.edts.as_ref()), (1, 90_000, None));
    assert_eq!((trak.tkhd.width.integer(), trak.tkhd.height.integer()), (1280, 720));
    let Codec::Avc1(avc1) = &trak.mdia.minf.stbl.stsd.codecs[0] else { panic!() };
    assert_eq!((avc1.visual.width, avc1.visual.height, &avc1.pasp, &avc1.colr), (1280, 720, &None, &None));
    assert_eq!(moov.mvex.unwrap().trex[0].track_id, 1);
}

#[test]
fn pictures_with_oblong_samples_are_shown_wider() {
    for (width, sar, shown, pasp) in [
        (1440, (4, 3), (1920, 0), true),
        (720, (16, 11), (1047, 17873), true),
        (1280, (0, 0), (1280, 0), false),
        (1280, (2, 2), (1280, 0), false),
        (u16::MAX, (9, 1), (u16::MAX, u16::MAX), true),
    ] {
        let init = Init::video(&VideoConfig { width, height: 576, sar, ..avc() });
        let trak = &moov(&init).trak[0];
        assert_eq!((trak.tkhd.width.integer(), trak.tkhd.width.decimal()), shown, "{width} {sar:?}");
        let Codec::Avc1(avc1) = &trak.mdia.minf.stbl.stsd.codecs[0] else { panic!() };
        let want = pasp.then(|| Pasp { h_spacing: sar.0.into(), v_spacing: sar.1.into() });
        assert_eq!((avc1.visual.width, &avc1.pasp), (width, &want));
    }
}

#[test]
fn audio_init_carries_the_config_whole() {
    let he = AudioConfig {
        // HE-AAC told explicitly: object type 5, core 24 kHz, output 48 kHz, then LC.
        asc: vec![0x2b, 0x11, 0x88, 0x00].into(),
        object_type: 5,
        ..aac(24_000, 1024)
    };
    let fast = AudioConfig { asc: vec![0x10, 0x10].into(), sample_rate: 96_000, ..aac(48_000, 1024) };
    for (config, codec, rate) in [
        (aac(48_000, 1024), "mp4a.40.2", 48_000),
        (aac(44_100, 1024), "mp4a.40.2", 44_100),
        (aac(48_000, 960), "mp4a.40.2", 48_000),
        (he, "mp4a.40.5", 24_000),
        (fast, "mp4a.40.2", 0),
    ] {
        let init = Init::audio(&config);
        assert_eq!(init.codec, codec);
        let moov = moov(&init);
        let trak = &moov.trak[0];
        assert_eq!((trak.mdia.mdhd.timescale, moov.mvhd.timescale), (config.sample_rate, config.sample_rate));
        let Codec::Mp4a(mp4a) = &trak.mdia.minf.stbl.stsd.codecs[0] else { panic!() };
        assert_eq!((mp4a.audio.channel_count, mp4a.audio.sample_rate.integer()), (2, rate));
        assert_eq!(mp4a.esds.es_desc.dec_config.dec_specific.as_ref().unwrap().raw, config.asc);
    }
}

#[test]
fn hashes_tell_inits_apart() {
    let hashes = [
        Init::video(&avc()),
        Init::video(&VideoConfig { sar: (4, 3), ..avc() }),
        Init::audio(&aac(48_000, 1024)),
        Init::audio(&aac(48_000, 960)),
    ]
    .map(|init| init.hash);
    assert_eq!(std::collections::HashSet::from(hashes).len(), 4);
}

proptest! {
    /// What is written reads back, whatever is common to all samples; parts put together are one chunk.
    #[test]
    fn chunks_read_back(
        samples in prop::collection::vec((1u32..4, -2i32..2, any::<bool>(), 0usize..4), 1..20),
        alike in any::<[bool; 4]>(), start in 0u64..1 << 40, split in 0usize..20,
    ) {
        let first = samples[0];
        let samples: Vec<_> = samples.iter().map(|s| sample(
            if alike[0] { first.0 } else { s.0 },
            if alike[1] { 0 } else { s.1 },
            alike[2] || s.2,
            if alike[3] { first.3 } else { s.3 },
        )).collect();
        let split = split.min(samples.len() - 1);
        let middle = start + samples[..split].iter().map(|s| u64::from(s.duration)).sum::<u64>();
        let (a, b) = samples.split_at(split);
        let mut fragments = vec![Fragment { sequence: 2, start: middle, samples: b }];
        if !a.is_empty() {
            fragments.insert(0, Fragment { sequence: 1, start, samples: a });
        }
        let parts: Vec<_> = (0..).zip(&fragments).map(|(i, fragment)| part(fragment, i == 0).joined()).collect();
        for bytes in [one(start, &samples).to_vec(), parts.concat()] {
            let reads = read_chunk(&bytes);
            let mut time = start as i64;
            prop_assert_eq!(reads.len(), samples.len());
            for (read, sample) in reads.iter().zip(&samples) {
                prop_assert_eq!((read.time, read.offset, read.duration), (time, sample.offset.into(), sample.duration.into()));
                prop_assert_eq!((read.sync, &read.payload[..]), (sample.key, &sample.payload[..]));
                time += read.duration;
            }
        }
    }
}
