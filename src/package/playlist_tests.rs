use quick_m3u8::{
    HlsLine, Reader,
    config::ParsingOptionsBuilder,
    tag::{KnownTag, hls::Tag},
};

use std::sync::Arc;

use super::*;
use crate::{
    package::{Clip, Entry, History, List, Mark, PartEntry, history, window::LEN_MAX},
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

const SIZE: history::Size = history::Size { bytes: 1000, iframe: 100 };

/// The same entries as a recording has them.
fn history(window: &Window) -> History {
    let mut history = History::new(window.discontinuity_sequence());
    window.entries().iter().for_each(|entry| history.push(entry, entry.k as i64 * 180_000, SIZE));
    history
}

/// Reads a media playlist with both checking parsers and compares it with the window.
fn check(window: &Window, vod: bool) {
    let history = history(window);
    let text = if vod { recording(&[history.all()], window.target(), None) } else { media(window, &[]) };
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
        if let Some(told) = segment.program_date_time {
            assert_eq!(told.timestamp_millis(), entry.wall.0);
        } else {
            assert!(vod && !entry.discontinuity && entry.k > window.media_sequence());
        }
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
    golden("empty.m3u8", &media(&List::new(2, LEN_MAX).window(), &[]));
    golden("live.m3u8", &media(&list(12).window(), &[]));
    golden("slid.m3u8", &media(&list(22).window(), &[]));
    let mut ended = list(3);
    ended.end();
    golden("ended.m3u8", &media(&ended.window(), &[]));
    golden("vod.m3u8", &recording(&[history(&ended.window()).all()], 2, None));
    // A rendition that came late: its first numbers are gaps without an init segment.
    let late = (4..8)
        .map(|k| if k < 6 { Entry { gap: true, init: "".into(), ..entry(k, 2_000_000) } } else { entry(k, 2_000_000) });
    golden("late.m3u8", &media(&Window::from_entries(2, 1, late, false).unwrap(), &[]));
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

#[test]
fn what_is_told_beside_chunks_is_in_every_version_of_a_live_playlist() {
    let first = 1_767_225_600_000;
    let mark = |ms: i64, title: &str| Mark {
        id: crate::id::EventId::first_at(UnixMs(first + ms)),
        start: UnixMs(first + ms),
        title: Some(title.into()),
        artist: Some("Ann \"The\" Author".into()),
        artwork: (ms > 20_000).then(|| "https://example.org/a.jpg?x=1,2".into()),
    };
    let nothing = Mark { title: None, artist: None, artwork: None, ..mark(46_000, "") };
    let marks: Arc<[Mark]> =
        [mark(0, "Left the window"), mark(9000, "Runs where it begins"), mark(30_500, "Caf\u{e9}"), nothing].into();
    let window = low_latency(2).window().with_marks(marks.clone());
    golden("marks.m3u8", &media(&window, &reports()));
    let tags = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("#EXT-X-DATERANGE:")).map(str::to_owned).collect()
    };
    let told: Vec<_> = marks[1..].iter().map(ToString::to_string).collect();
    assert_eq!(tags(&media(&window, &[])), told);
    // Nothing says that clients may be told less of them (rfc8216bis 4.4.5.2).
    assert_eq!(tags(&delta(&window, &[]).unwrap()), told);
    assert!(!media(&window, &[]).contains("CAN-SKIP-DATERANGES"));
    assert!(tags(&from_start(&[], &window, &[])).is_empty());
    assert!(tags(&media(&List::new(2, LEN_MAX).window().with_marks(marks), &[])).is_empty());
    m3u8_rs::parse_media_playlist_res(media(&window, &[]).as_bytes()).unwrap();
    let text = media(&window, &[]);
    let mut reader = Reader::from_str(&text, ParsingOptionsBuilder::new().with_parsing_for_all_tags().build());
    let mut read = Vec::new();
    while let Some(line) = reader.read_line().unwrap() {
        if let HlsLine::KnownTag(KnownTag::Hls(Tag::Daterange(tag))) = line {
            assert!(tag.end_on_next());
            read.push(tag.class().unwrap().to_owned());
        }
    }
    assert_eq!(read, ["weir.now"; 3]);
}

fn reports() -> [Report; 2] {
    let report = |name, part| Report { rendition: Rendition::new(name).unwrap(), k: 22, part };
    [report("720p", Some(1)), report("audio", None)]
}

#[test]
fn low_latency_playlists_are_what_they_were() {
    golden("parts.m3u8", &media(&low_latency(2).window(), &reports()));
    golden("parts-none-open.m3u8", &media(&low_latency(0).window(), &reports()));
    golden("delta.m3u8", &delta(&low_latency(2).window(), &reports()).unwrap());
    let mut ended = low_latency(2);
    ended.end();
    golden("parts-ended.m3u8", &media(&ended.window(), &reports()));
    golden("parts-vod.m3u8", &recording(&[history(&ended.window()).all()], 2, None));
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
        let (whole, delta) = (media(&window, &reports()), delta(&window, &reports()).unwrap());
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
        for (k, lines, map) in entries(&media(&list(len).window(), &[])) {
            let first = seen.entry(k).or_insert_with(|| (lines.clone(), map.clone()));
            assert_eq!(*first, (lines, map), "entry {k} of {len}");
        }
    }
    assert_eq!(seen.len(), 39);
}

/// A day of 2 s chunks, with a gap, a discontinuity, a new init segment and a clock that drifts.
fn day() -> History {
    let mut history = History::default();
    for k in 0..43_200u64 {
        let entry = Entry {
            wall: UnixMs(1_767_225_600_000 + k as i64 * 2000 + (k / 1000) as i64),
            gap: k == 600,
            discontinuity: k == 700,
            init: if k < 700 { "0123456789abcdef" } else { "fedcba9876543210" }.into(),
            ..entry(k, 2_000_000)
        };
        history.push(&entry, k as i64 * 180_000, SIZE);
    }
    history
}

/// The last chunks of [`day`] as the window of a live playlist.
fn end_of_day(history: &History, len: u64) -> Window {
    let items = history.slice(43_200 - len, 43_200);
    let entries =
        items.items().map(|item| Entry { init: item.init.into(), wall: item.wall, ..entry(item.k, 2_000_000) });
    let list = List::resume(&Window::from_entries(2, 1, entries, false).unwrap(), len as usize);
    let mut list = list.with_parts(Some(343));
    list.set_open(Some(Entry { parts: low_latency(2).open().unwrap().parts.clone(), ..entry(43_200, 666_666) }));
    list.window()
}

#[test]
fn a_day_from_its_start_is_one_playlist_and_its_updates_are_small() {
    let history = day();
    let window = end_of_day(&history, 15);
    let past = [history.slice(0, window.media_sequence())];
    let whole = from_start(&past, &window, &reports());
    let parsed = m3u8_rs::parse_media_playlist_res(whole.as_bytes()).unwrap();
    assert_eq!((parsed.media_sequence, parsed.segments.len()), (0, 43_200));
    assert_eq!(parsed.playlist_type, Some(m3u8_rs::MediaPlaylistType::Event));
    // Where the clock must be told: at the start, the discontinuity, and whenever it has drifted by 30 ms.
    let told: Vec<_> = parsed.segments.iter().filter(|segment| segment.program_date_time.is_some()).collect();
    assert_eq!(told.len(), 3);
    assert_eq!(parsed.segments.iter().filter(|segment| segment.map.is_some()).count(), 2);
    let (segments, walls): (Vec<_>, Vec<_>) =
        history.all().items().map(|item| (format!("{}.{}.m4s", item.k, item.epoch), item.wall.0)).unzip();
    let mut clock = 0;
    for (n, segment) in parsed.segments.iter().enumerate() {
        clock = segment.program_date_time.map_or(clock, |told| told.timestamp_millis());
        assert_eq!(segment.uri, segments[n]);
        assert!((clock - walls[n]).abs() <= 30, "{n}");
        clock += 2000;
    }
    let delta = from_start_delta(&past, &window, &reports()).unwrap();
    assert!(delta.len() <= 4096, "{} bytes", delta.len());
    let (_, rest) = delta.split_once("#EXT-X-SKIP:SKIPPED-SEGMENTS=43194\n").unwrap();
    let (map, rest) = rest.split_once('\n').unwrap();
    assert!(map.starts_with("#EXT-X-MAP") && whole.ends_with(rest));
    assert!(whole.contains("URI=\"../720p/index.m3u8?from=start\",LAST-MSN=22,LAST-PART=1\n"));
    assert!(whole.len() < 1_500_000);
}

#[test]
fn lines_of_an_entry_from_the_start_stay_the_same_when_it_leaves_the_window() {
    let history = day();
    let text = |len: u64| {
        let window = end_of_day(&history, len);
        from_start(&[history.slice(0, 43_200 - len)], &window, &[])
    };
    let without_parts = |text: &str| -> String {
        text.lines().filter(|line| !line.starts_with("#EXT-X-PART:")).flat_map(|line| [line, "\n"]).collect()
    };
    assert_eq!(without_parts(&text(15)), without_parts(&text(1500)));
}

#[test]
fn a_clip_begins_where_it_is_asked_to() {
    let history = day();
    let clip = Clip { from_ms: 1_399_500, to_ms: 1_402_000 };
    let cut = history.between(clip.from_ms as i64 * 90, clip.to_ms as i64 * 90);
    golden("clip.m3u8", &recording(&[cut], 2, Some(1_500_000)));
    let bounds = |from: i64, to: i64| {
        let cut = history.between(from, to);
        (cut.items().next().map(|item| item.k), cut.len())
    };
    assert_eq!(bounds(0, 1), (Some(0), 1));
    assert_eq!(bounds(180_000, 180_001), (Some(1), 1));
    assert_eq!(bounds(179_999, 180_000), (Some(0), 1));
    assert_eq!(bounds(179_999, 180_001), (Some(0), 2));
    assert_eq!(bounds(512 * 180_000 - 1, 514 * 180_000), (Some(511), 3));
    assert_eq!(bounds(43_200 * 180_000 - 1, i64::MAX), (Some(43_199), 1));
    assert_eq!(bounds(43_200 * 180_000, i64::MAX), (None, 0));
    assert_eq!(bounds(-500, 0), (None, 0));
    assert_eq!(History::default().between(0, 1).len(), 0);
}

#[test]
fn a_playlist_of_iframes_numbers_as_the_media_playlist_does() {
    let history = day();
    let listed = [history.slice(598, 604), history.slice(699, 702)];
    let text = iframes(Kind::Recording, &listed, 2, true);
    golden("iframes.m3u8", &text);
    let parsed = m3u8_rs::parse_media_playlist_res(text.as_bytes()).unwrap();
    assert!(parsed.i_frames_only && parsed.end_list && parsed.media_sequence == 598);
    let ranges: Vec<_> = parsed.segments.iter().map(|segment| segment.byte_range.as_ref().map(|r| r.length)).collect();
    assert!(ranges.iter().enumerate().all(|(i, range)| *range == (i != 2).then_some(100)), "{ranges:?}");
    // What goes on has no end, and tells the time of each.
    let live = iframes(Kind::Live, &[history.slice(43_190, u64::MAX)], 2, false);
    assert!(!live.contains("ENDLIST") && !live.contains("PLAYLIST-TYPE"), "{live}");
    assert_eq!(live.matches("#EXT-X-PROGRAM-DATE-TIME:").count(), 10);
    assert!(iframes(Kind::FromStart, &[history.all()], 2, false).contains("#EXT-X-PLAYLIST-TYPE:EVENT\n"));
    assert!(iframes(Kind::Recording, &[], 2, true).contains("#EXT-X-MEDIA-SEQUENCE:0\n"));
}

#[test]
fn a_snapshot_of_a_history_stays_as_it_is() {
    let mut history = History::new(3);
    let mut snapshots = Vec::new();
    for k in 7..2000u64 {
        history.push(&entry(k, 2_000_000), k as i64, SIZE);
        snapshots.push(history.clone());
    }
    for (n, snapshot) in snapshots.iter().enumerate() {
        assert_eq!((snapshot.len(), snapshot.next_k()), (n + 1, n as u64 + 8));
        let places = snapshot.all();
        assert!(places.places().map(|place| place.k).eq(7..n as u64 + 8));
        assert_eq!(places.discontinuities_before(), 3);
    }
    assert!(history.weight() / history.len() <= 100);
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
        iframe_bps: peak_bps / 10,
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

fn inside(name: &Rendition, listing: Listing) -> String {
    match listing {
        Listing::Media => format!("{name}/index.m3u8"),
        Listing::Iframes => format!("{name}/iframes.m3u8"),
    }
}

#[test]
fn multivariant_playlists_are_what_they_were() {
    golden(
        "ladder.m3u8",
        &multivariant(&ladder(), Some(&audio()), |name, listing| format!("01hx/{}", inside(name, listing))),
    );
    golden("video-only.m3u8", &multivariant(&ladder()[..1], None, inside));
    golden("audio-only.m3u8", &multivariant(&[], Some(&audio()), inside));
}

#[test]
fn multivariant_playlists_read_back() {
    let text = multivariant(&ladder(), Some(&audio()), inside);
    let parsed = m3u8_rs::parse_master_playlist_res(text.as_bytes()).unwrap();
    assert!(parsed.independent_segments);
    let names: Vec<_> = parsed.variants.iter().map(|v| v.uri.as_str()).collect();
    // 480p with audio (1.37 Mb/s) is nearer to 2 Mb/s than 720p (2.97).
    assert_eq!(names[..4], ["480p", "source", "720p", "360p"].map(|n| format!("{n}/index.m3u8")));
    assert_eq!(names[4..], ["source", "720p", "480p", "360p"].map(|n| format!("{n}/iframes.m3u8")));
    assert!(parsed.variants.iter().enumerate().all(|(i, variant)| variant.is_i_frame == (i >= 4)));
    assert_eq!((parsed.variants[4].bandwidth, parsed.variants[4].audio.as_deref()), (600_000, None));
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
