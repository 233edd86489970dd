use quick_m3u8::{
    HlsLine, Reader,
    config::ParsingOptionsBuilder,
    tag::{KnownTag, hls::Tag},
};

use std::sync::Arc;

use super::*;
use crate::{
    package::{Entry, List, PartEntry, window::LEN_MAX},
    time::UnixMs,
};

fn entry(k: u64, duration_us: u64) -> Entry {
    let wall = UnixMs(1_767_225_600_000 + (k as i64) * 2000);
    Entry {
        k,
        epoch: 3,
        duration_us,
        discontinuity: false,
        gap: false,
        wall,
        init: "0123456789abcdef".into(),
        parts: Arc::default(),
    }
}

/// Compares with a file in `testdata/playlist`; `UPDATE_GOLDENS=1` writes it.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/playlist").join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, want, "{name}");
}

/// Reads a media playlist with both checking parsers and compares it with the window.
fn check(window: &Window, vod: bool) {
    let text = media(window, &[], vod);
    let parsed = m3u8_rs::parse_media_playlist_res(text.as_bytes()).unwrap();
    assert_eq!(parsed.version, Some(6));
    assert_eq!(parsed.target_duration, u64::from(window.target()));
    assert_eq!(parsed.media_sequence, window.media_sequence());
    assert_eq!(parsed.discontinuity_sequence, window.discontinuity_sequence());
    assert_eq!(parsed.end_list, vod || window.ended());
    assert_eq!(parsed.playlist_type, vod.then_some(m3u8_rs::MediaPlaylistType::Vod));
    assert!(parsed.independent_segments);
    assert_eq!(parsed.segments.len(), window.entries().len());
    for (segment, entry) in parsed.segments.iter().zip(window.entries()) {
        assert_eq!(segment.uri, format!("{}.{}.m4s", entry.k, entry.epoch));
        assert_eq!(segment.discontinuity, entry.discontinuity);
        assert_eq!(segment.program_date_time.unwrap().timestamp_millis(), entry.wall.0);
        assert!((f64::from(segment.duration) - entry.duration_us as f64 / 1e6).abs() < 1e-5);
    }

    let mut reader = Reader::from_str(&text, ParsingOptionsBuilder::new().with_parsing_for_all_tags().build());
    let (mut gaps, mut maps, mut entries) = (0, 0, window.entries().iter());
    while let Some(line) = reader.read_line().unwrap() {
        match line {
            HlsLine::KnownTag(KnownTag::Hls(Tag::Inf(inf))) => {
                let micros = (inf.duration() * 1e6).round() as u64;
                assert_eq!(Some(micros), entries.next().map(|entry| entry.duration_us));
            }
            HlsLine::KnownTag(KnownTag::Hls(Tag::Gap(_))) => gaps += 1,
            HlsLine::KnownTag(KnownTag::Hls(Tag::Map(map))) => {
                assert!(map.uri().starts_with("init-") && map.uri().ends_with(".mp4"));
                maps += 1;
            }
            HlsLine::KnownTag(_) | HlsLine::Uri(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gaps, window.entries().iter().filter(|entry| entry.gap).count());
    assert!(maps > 0 || window.entries().iter().all(|entry| entry.init.is_empty()));
}

fn list(len: u64) -> List {
    let mut list = List::new(2, LEN_MAX);
    for k in 0..len {
        let entry = entry(k, 2_000_000);
        list.append(match k {
            5 => Entry { gap: true, init: "".into(), ..entry },
            6 => Entry { discontinuity: true, epoch: 4, ..entry },
            9 => Entry { init: "fedcba9876543210".into(), discontinuity: true, ..entry },
            10 => Entry { init: "fedcba9876543210".into(), duration_us: 1_920_001, ..entry },
            k if k > 10 => Entry { init: "fedcba9876543210".into(), duration_us: 2_000_000 - 7 * k, ..entry },
            _ => entry,
        })
        .unwrap();
    }
    list
}

#[test]
fn media_playlists_are_what_they_were() {
    golden("empty.m3u8", &media(&List::new(2, LEN_MAX).window(), &[], false));
    golden("live.m3u8", &media(&list(12).window(), &[], false));
    golden("slid.m3u8", &media(&list(22).window(), &[], false));
    let mut ended = list(3);
    ended.end();
    golden("ended.m3u8", &media(&ended.window(), &[], false));
    golden("vod.m3u8", &media(&ended.window(), &[], true));
    // A rendition that came late: its first numbers are gaps without an init segment.
    let late = (4..8)
        .map(|k| if k < 6 { Entry { gap: true, init: "".into(), ..entry(k, 2_000_000) } } else { entry(k, 2_000_000) });
    golden("late.m3u8", &media(&Window::from_entries(2, 1, late, false).unwrap(), &[], false));
}

/// A window of 22 chunks of six parts, with a gap and a discontinuity near its end, and `open` parts after it.
fn low_latency(open: usize) -> List {
    let parts = |count| -> Arc<[PartEntry]> {
        (0..count).map(|i| PartEntry { duration_us: 333_333 + u64::from(i % 3 == 2), independent: i == 0 }).collect()
    };
    let mut list = List::new(2, LEN_MAX).with_parts(Some(343));
    for k in 0..22 {
        let entry = Entry { parts: parts(6), ..entry(k, 2_000_000) };
        list.append(match k {
            19 => Entry { gap: true, parts: parts(0), ..entry },
            20 => Entry { discontinuity: true, epoch: 4, init: "fedcba9876543210".into(), ..entry },
            21 => Entry { epoch: 4, init: "fedcba9876543210".into(), ..entry },
            _ => entry,
        })
        .unwrap();
    }
    let duration_us = parts(open).iter().map(|part| part.duration_us).sum();
    let init = if open > 0 { "fedcba9876543210" } else { "" };
    list.set_open(Some(Entry { epoch: 4, parts: parts(open), init: init.into(), ..entry(22, duration_us) }));
    list
}

fn reports() -> [Report; 2] {
    let report = |name, part| Report { rendition: Rendition::new(name).unwrap(), k: 22, part };
    [report("720p", Some(1)), report("audio", None)]
}

#[test]
fn low_latency_playlists_are_what_they_were() {
    golden("parts.m3u8", &media(&low_latency(2).window(), &reports(), false));
    golden("parts-none-open.m3u8", &media(&low_latency(0).window(), &reports(), false));
    golden("delta.m3u8", &delta(&low_latency(2).window(), &reports()).unwrap());
    let mut ended = low_latency(2);
    ended.end();
    golden("parts-ended.m3u8", &media(&ended.window(), &reports(), false));
    golden("parts-vod.m3u8", &media(&ended.window(), &[], true));
    // Nothing is old enough, everything has ended, or it is no low-latency playlist.
    let mut short = List::new(2, LEN_MAX).with_parts(Some(343));
    (0..6).for_each(|k| short.append(entry(k, 2_000_000)).unwrap());
    assert_eq!(delta(&short.window(), &[]), None);
    assert_eq!(delta(&ended.window(), &[]), None);
    assert_eq!(delta(&list(22).window(), &[]), None);
}

/// rfc8216bis 6.2.5.1: a delta update is the whole without its first entries.
#[test]
fn a_delta_update_is_the_end_of_the_whole() {
    for open in 0..6 {
        let window = low_latency(open).window();
        let (whole, delta) = (media(&window, &reports(), false), delta(&window, &reports()).unwrap());
        let (_, rest) = delta.split_once("#EXT-X-SKIP:SKIPPED-SEGMENTS=").unwrap();
        let (skipped, rest) = rest.split_once('\n').unwrap();
        let skipped: usize = skipped.parse().unwrap();
        // 12 s before the end may not be skipped.
        assert_eq!(skipped, 9);
        let rest = rest.strip_prefix("#EXT-X-MAP:URI=\"init-0123456789abcdef.mp4\"\n").unwrap();
        assert!(whole.ends_with(rest));
        assert!(delta.starts_with("#EXTM3U\n#EXT-X-VERSION:9\n"));
    }
}

#[test]
fn media_playlists_read_back() {
    for len in [1, 5, 6, 7, 12, 22, 25, 40] {
        let mut list = list(len);
        check(&list.window(), false);
        check(&list.window(), true);
        list.end();
        check(&list.window(), false);
    }
}

/// What a client remembers of an entry does not change while the window slides (rfc8216bis 6.2.1).
#[test]
fn lines_of_an_entry_stay_the_same() {
    fn entries(text: &str) -> Vec<(u64, String, Option<String>)> {
        let (mut out, mut lines, mut map) = (Vec::new(), String::new(), None);
        for line in text.lines() {
            if line.starts_with("#EXT-X-MAP") {
                map = Some(line.to_string());
            } else if ["#EXTINF", "#EXT-X-GAP", "#EXT-X-DISCONTINUITY\n", "#EXT-X-PROGRAM"]
                .iter()
                .any(|t| line.starts_with(t.trim()))
                && !line.contains("SEQUENCE")
            {
                lines.push_str(line);
            } else if !line.starts_with('#') {
                let k = line.split('.').next().unwrap().parse().unwrap();
                out.push((k, std::mem::take(&mut lines) + line, map.clone()));
            }
        }
        out
    }
    let mut seen = std::collections::BTreeMap::new();
    for len in 1..40 {
        for (k, lines, map) in entries(&media(&list(len).window(), &[], false)) {
            let first = seen.entry(k).or_insert_with(|| (lines.clone(), map.clone()));
            assert_eq!(*first, (lines, map), "entry {k} of {len}");
        }
    }
    assert_eq!(seen.len(), 39);
}

fn variant(name: &str, size: (u32, u32), fps_milli: u32, peak_bps: u64) -> Variant {
    Variant {
        name: Rendition::new(name).unwrap(),
        codec: "avc1.64001f".into(),
        width: size.0,
        height: size.1,
        fps_milli,
        peak_bps,
        mean_bps: peak_bps * 4 / 5,
    }
}

fn audio() -> AudioVariant {
    AudioVariant {
        name: Rendition::audio(),
        codec: "mp4a.40.2".into(),
        channels: 2,
        peak_bps: 170_000,
        mean_bps: 160_000,
    }
}

fn ladder() -> Vec<Variant> {
    vec![
        variant("source", (1920, 1080), 60_000, 6_000_000),
        variant("720p", (1280, 720), 29_970, 2_800_000),
        variant("480p", (854, 480), 29_970, 1_200_000),
        variant("360p", (640, 360), 0, 700_000),
    ]
}

#[test]
fn multivariant_playlists_are_what_they_were() {
    golden("ladder.m3u8", &multivariant(&ladder(), Some(&audio()), "01hx/"));
    golden("video-only.m3u8", &multivariant(&ladder()[..1], None, ""));
    golden("audio-only.m3u8", &multivariant(&[], Some(&audio()), ""));
}

#[test]
fn multivariant_playlists_read_back() {
    let text = multivariant(&ladder(), Some(&audio()), "");
    let parsed = m3u8_rs::parse_master_playlist_res(text.as_bytes()).unwrap();
    assert!(parsed.independent_segments);
    let names: Vec<_> = parsed.variants.iter().map(|v| v.uri.as_str()).collect();
    // 480p with audio (1.37 Mb/s) is nearer to 2 Mb/s than 720p (2.97).
    assert_eq!(names, ["480p", "source", "720p", "360p"].map(|n| format!("{n}/index.m3u8")));
    let first = &parsed.variants[0];
    assert_eq!((first.bandwidth, first.average_bandwidth), (1_370_000, Some(1_120_000)));
    assert_eq!(first.codecs.as_deref(), Some("avc1.64001f,mp4a.40.2"));
    assert_eq!(first.frame_rate, Some(29.97));
    assert_eq!(parsed.variants[3].frame_rate, None);
    assert_eq!(first.resolution, Some(Resolution { width: 854, height: 480 }));
    let group = &parsed.alternatives[0];
    assert_eq!(first.audio.as_deref(), Some(group.group_id.as_str()));
    assert_eq!((group.uri.as_deref(), group.channels.as_deref()), (Some("audio/index.m3u8"), Some("2")));
    assert!(text.contains("FRAME-RATE=60.000"));
    let mut reader = Reader::from_str(&text, ParsingOptionsBuilder::new().with_parsing_for_all_tags().build());
    while let Some(line) = reader.read_line().unwrap() {
        assert!(!matches!(line, HlsLine::UnknownTag(_) | HlsLine::Blank | HlsLine::Comment(_)), "{line:?}");
    }
}
