use std::time::Duration;

use super::*;
use crate::media::{self, Packet, Pieces, VideoConfig};

const D: i64 = 180_000;

fn row(name: &str) -> RenditionRow {
    RenditionRow {
        name: Rendition::new(name).unwrap(),
        codec: if name == "audio" { "mp4a.40.2".into() } else { "avc1.64001f".into() },
        width: 640,
        height: 360,
        fps_milli: 30_000,
        channels: 2,
        peak_bps: 0,
        mean_bps: 0,
        iframe_bps: 0,
    }
}

fn epoch(number: u64, k: u64, at: i64) -> Epoch {
    let broadcast = BroadcastId::new("b").unwrap();
    Epoch { broadcast, number, k, at, wall: UnixMs(at / 90), discontinuity: number > 1 }
}

fn broadcast() -> Broadcast {
    let settings = Settings { window: 15, chunk: D };
    let parts = Some(Parts { ticks: D / 6, target_ms: 335 });
    Broadcast::new(StreamId::new("s").unwrap(), BroadcastId::new("b").unwrap(), UnixMs(0), settings, parts)
}

fn chunk(name: &str, k: u64, epoch: u64, at: i64) -> Finished {
    let bytes = Pieces::from(Bytes::from_static(b"x"));
    let parts = [Part { duration_us: 2_000_000, independent: true, bytes: bytes.clone() }].into();
    let chunk = Chunk { k, epoch, start: at, duration: D, timescale: VIDEO_TIMESCALE, parts, bytes, iframe: 0 };
    Finished { rendition: Rendition::new(name).unwrap(), chunk, init: "aa".into() }
}

fn at(ms: u64) -> Timestamp {
    Timestamp(ms * 1000)
}

/// What a rendition lists: numbers, holes in brackets, `!` before a discontinuity.
fn listed(live: &Live, name: &str) -> String {
    let Some(shown) = live.renditions.get(&Rendition::new(name).unwrap()) else { return "-".into() };
    let show = |e: &Entry| {
        let cut = if e.discontinuity { "!" } else { "" };
        if e.gap { format!("{cut}({})", e.k) } else { format!("{cut}{}", e.k) }
    };
    shown.now().window.entries().iter().map(show).collect::<Vec<_>>().join(" ")
}

fn running(names: &[&str]) -> Broadcast {
    let mut b = broadcast();
    b.begin(&epoch(1, 0, 0), names.iter().map(|name| row(name)).collect());
    b.decide(Mode::Follow, 2);
    b
}

#[test]
fn the_multivariant_playlist_waits_for_the_slower_renditions_but_not_for_ever() {
    let mut b = running(&["source", "480p"]);
    (0..3).for_each(|k| b.mark(k, k as i64 * D));
    b.finished(chunk("source", 0, 1, 0));
    assert!(b.snapshot(at(1000)).multivariants.is_none());
    assert_eq!(b.deadline(), Some(at(1000) + FIRST_WAIT));
    assert!(b.snapshot(at(2000)).multivariants.is_none());
    let live = b.snapshot(at(1000) + FIRST_WAIT);
    assert_eq!(live.offered, [Rendition::source()]);
    assert_eq!(b.deadline(), None, "a rendition that never comes must not keep the line awake");
    b.finished(chunk("480p", 0, 1, 0));
    assert_eq!(b.snapshot(at(9000)).offered.len(), 2);
}

#[test]
fn a_returning_encoder_takes_no_rendition_from_the_list_while_it_starts() {
    let mut b = running(&["480p", "720p", "audio"]);
    let list = |b: &mut Broadcast, names: &[&str], k: u64, epoch: u64| {
        for name in names {
            assert!(b.finished(chunk(name, k, epoch, k as i64 * D)), "{name} {k}");
        }
    };
    b.mark(0, 0);
    b.close(D);
    list(&mut b, &["480p", "720p", "audio"], 0, 1);
    assert_eq!(b.snapshot(at(0)).offered.len(), 3);
    b.begin(&epoch(2, 1, D), ["480p", "720p", "audio"].iter().map(|name| row(name)).collect());
    b.decide(Mode::Reencode, 2);
    b.mark(1, D);
    b.mark(2, 2 * D);
    list(&mut b, &["480p", "audio"], 1, 2);
    b.snapshot(at(1000));
    assert_eq!(b.snapshot(at(1000) + FIRST_WAIT).offered.len(), 3, "720p only takes longer to start");
    for k in 2..22 {
        b.mark(k + 1, (k as i64 + 1) * D);
        list(&mut b, &["480p", "audio"], k, 2);
    }
    let live = b.snapshot(at(60_000));
    assert_eq!(live.offered.len(), 2, "a rendition of nothing but holes is not offered: {}", listed(&live, "720p"));
}

#[test]
fn a_late_chunk_is_waited_for_and_then_a_hole() {
    let mut b = running(&["source", "480p"]);
    b.mark(0, 0);
    for k in 0..8u64 {
        b.mark(k + 1, (k as i64 + 1) * D);
        b.finished(chunk("source", k, 1, k as i64 * D));
        if k < 2 {
            b.finished(chunk("480p", k, 1, k as i64 * D));
        }
    }
    let live = b.snapshot(at(1));
    assert_eq!(listed(&live, "source"), "0 1 2 3 4 5 6 7");
    // Chunk 8 is open: 2 and 3 are more than four behind it.
    assert_eq!(listed(&live, "480p"), "0 1 (2) (3)");
    assert!(!b.finished(chunk("480p", 3, 1, 3 * D)), "what was listed as a hole stays one");
    assert!(b.finished(chunk("480p", 5, 1, 5 * D)));
    assert_eq!(listed(&b.snapshot(at(2)), "480p"), "0 1 (2) (3) (4) 5");
}

#[test]
fn a_return_lists_the_lost_time_and_a_discontinuity_on_every_rendition() {
    let mut b = running(&["source", "480p"]);
    b.mark(0, 0);
    b.close(D / 2);
    b.finished(chunk("source", 0, 1, 0));
    b.finished(chunk("480p", 0, 1, 0));
    b.gap();
    assert_eq!(listed(&b.snapshot(at(1)), "480p"), "0 (1)");
    b.begin(&epoch(2, 3, 4 * D), vec![row("source"), row("480p")]);
    b.decide(Mode::Follow, 2);
    b.mark(3, 4 * D);
    b.mark(4, 5 * D);
    b.finished(chunk("source", 3, 2, 4 * D));
    b.finished(chunk("480p", 3, 2, 4 * D));
    let live = b.snapshot(at(2));
    assert_eq!(listed(&live, "source"), "0 (1) (2) !3");
    assert_eq!(listed(&live, "480p"), "0 (1) (2) !3");
    assert!(!b.finished(chunk("source", 4, 1, 5 * D)), "the old epoch writes no more");
}

#[test]
fn a_source_that_stops_fitting_becomes_holes_and_leaves_the_offer() {
    let mut b = running(&["source", "480p"]);
    b.mark(0, 0);
    b.mark(1, D);
    b.finished(chunk("source", 0, 1, 0));
    b.finished(chunk("480p", 0, 1, 0));
    assert_eq!(b.snapshot(at(1)).offered.len(), 2);
    b.close(2 * D);
    b.begin(&epoch(2, 2, 2 * D), vec![row("source"), row("480p"), row("720p")]);
    b.decide(Mode::Reencode, 2);
    b.mark(2, 2 * D);
    b.mark(3, 3 * D);
    b.finished(chunk("480p", 1, 1, D));
    b.finished(chunk("480p", 2, 2, 2 * D));
    b.finished(chunk("720p", 2, 2, 2 * D));
    b.done(&Rendition::source(), 1);
    let live = b.snapshot(at(5000));
    assert_eq!(listed(&live, "source"), "0 (1) !(2)");
    assert_eq!(listed(&live, "480p"), "0 1 !2");
    assert_eq!(listed(&live, "720p"), "!2");
    assert_eq!(live.offered.iter().map(Rendition::as_str).collect::<Vec<_>>(), ["480p", "720p"]);
    let sequence = |name: &str| live.renditions[&Rendition::new(name).unwrap()].now().window.discontinuity_sequence();
    assert_eq!((sequence("480p"), sequence("720p")), (0, 0));
}

#[test]
fn memory_holds_the_window_and_a_little_more_when_the_store_fails() {
    for (store_works, most) in [(true, 15), (false, 30)] {
        let mut b = running(&["source"]);
        b.mark(0, 0);
        for k in 0..100u64 {
            b.mark(k + 1, (k as i64 + 1) * D);
            b.finished(chunk("source", k, 1, k as i64 * D));
            if store_works {
                b.stored(&Rendition::source(), k, 1);
            }
            let live = b.snapshot(at(k) + Duration::from_secs(1));
            let shown = live.renditions[&Rendition::source()].now();
            assert!(shown.chunks.len() <= most);
            assert!(shown.window.entries().iter().all(|e| shown.chunk(e.k, e.epoch).is_some()));
        }
    }
}

#[test]
fn warnings_outlive_the_epoch_that_they_led_to() {
    let mut b = running(&["source"]);
    (0..100).for_each(|ms| b.warn(Warning::AudioGap { ms }));
    b.warn(Warning::TimeJump { by_ms: 9000 });
    b.close(D);
    b.begin(&epoch(2, 1, D), vec![row("source")]);
    let codes = |b: &mut Broadcast| b.snapshot(at(0)).warnings.iter().map(Warning::code).collect::<Vec<_>>();
    assert_eq!(codes(&mut b), ["audio_gap", "time_jump"]);
    b.forget_warnings();
    assert!(codes(&mut b).is_empty());
}

fn video(at: i64, mark: Option<u64>) -> Packet {
    Packet {
        track: media::Track::Video,
        pts: at,
        dts: at,
        key: mark.is_some(),
        mark,
        payload: Bytes::from_static(b"v"),
    }
}

fn source() -> Chunker {
    let avcc = Bytes::from_static(&[1, 100, 0, 31, 255, 225, 0, 0, 1, 0, 0]);
    let config = VideoConfig { avcc, width: 640, height: 360, sar: (1, 1), fps: Some((30, 1)) };
    Chunker::video(&config, 1, Some(Parts { ticks: D / 6, target_ms: 335 }))
}

type Reported = Vec<(String, u64, Option<u64>)>;

/// What a rendition lists after its chunks: number and parts of the open one, and what it reports of the others.
fn edge(b: &mut Broadcast, name: &str) -> (Option<(u64, usize)>, Reported) {
    let live = b.snapshot(at(0));
    let shown = live.renditions[&Rendition::new(name).unwrap()].now();
    let reports = shown.reports.iter().map(|r| (r.rendition.to_string(), r.k, r.part)).collect();
    (shown.window.open().map(|open| (open.k, open.parts.len())), reports)
}

#[test]
fn parts_are_listed_as_they_come_and_reported_to_the_others() {
    let mut b = running(&["source", "480p"]);
    let mut chunker = source();
    for i in 0..100_i64 {
        let mark = (i % 60 == 0).then_some((i / 60) as u64);
        mark.into_iter().for_each(|k| b.mark(k, i * 3000));
        if let Some(done) = chunker.push(video(i * 3000, mark)).unwrap() {
            assert_eq!(done.parts.len(), 6);
            let rendition = Rendition::source();
            assert!(b.finished(Finished { rendition, chunk: done, init: "aa".into() }));
            assert!(b.finished(chunk("480p", 0, 1, 0)));
        }
        let known = b.progress(&Rendition::source(), &chunker);
        assert_eq!(known, i % 60 > 0 && i % 10 == 0, "packet {i}");
    }
    // 40 pictures of chunk 1 have come; the last part is finished by the picture after it.
    assert_eq!(edge(&mut b, "source"), (Some((1, 3)), vec![("480p".into(), 0, Some(0))]));
    assert_eq!(edge(&mut b, "480p").0, Some((1, 0)));
    let shown = b.snapshot(at(0)).renditions[&Rendition::source()].now();
    assert!(shown.is_hinted(1, 1, 3) && !shown.is_hinted(1, 1, 2) && !shown.is_hinted(1, 2, 3));
    assert!(shown.part(0, 1, 5).is_some() && shown.part(0, 1, 6).is_none() && shown.part(1, 1, 2).is_some());
    assert!(shown.part(1, 2, 0).is_none(), "of another epoch");
    let whole: Pieces = (0..6).flat_map(|i| shown.part(0, 1, i).unwrap().iter().cloned().collect::<Vec<_>>()).collect();
    assert_eq!(Some(whole), shown.chunk(0, 1));

    // A chunk that is made again does not change what was listed of it.
    let before = shown.part(1, 1, 0);
    let mut again = source();
    for i in 60..82_i64 {
        again
            .push(Packet { payload: Bytes::from_static(b"other"), ..video(i * 3000, (i == 60).then_some(1)) })
            .unwrap();
        assert!(!b.progress(&Rendition::source(), &again));
    }
    assert_eq!(b.snapshot(at(0)).renditions[&Rendition::source()].now().part(1, 1, 0), before);

    // Nor does it when it is complete, though the chunk is the new one.
    let remade = again.finish(120 * 3000).remove(0);
    b.mark(2, 120 * 3000);
    assert!(b.finished(Finished { rendition: Rendition::source(), chunk: remade.clone(), init: "aa".into() }));
    let shown = b.snapshot(at(0)).renditions[&Rendition::source()].now();
    assert_eq!((shown.part(1, 1, 0), shown.chunk(1, 1)), (before, Some(remade.bytes)));

    // The encoder goes: nothing is open, nothing is hinted at.
    b.close(121 * 3000);
    b.done(&Rendition::source(), 1);
    assert_eq!(edge(&mut b, "source").0, None);
}

#[tokio::test]
async fn whoever_waits_is_woken_by_a_change_of_that_rendition() {
    let mut b = running(&["source", "480p"]);
    (0..3).for_each(|k| b.mark(k, k as i64 * D));
    assert!(b.finished(chunk("source", 0, 1, 0)));
    let live = b.snapshot(at(0));
    let shown = live.renditions[&Rendition::source()].clone();
    let waiting = tokio::spawn(async move { shown.when(|shown| shown.window.holds(1, None)).await.window.next_k() });
    tokio::task::yield_now().await;
    assert!(b.finished(chunk("source", 1, 1, D)));
    b.snapshot(at(0));
    assert_eq!(waiting.await.unwrap(), Some(2));

    // A broadcast that goes away ends the wait.
    let shown = live.renditions[&Rendition::source()].clone();
    drop((b, live));
    assert_eq!(shown.when(|shown| shown.window.holds(9, None)).await.window.next_k(), Some(2));
}

#[test]
fn one_who_joins_inside_an_epoch_lists_from_there() {
    let mut b = running(&["source", "480p"]);
    for k in 5..8u64 {
        b.mark(k, k as i64 * D);
    }
    for k in 5..7u64 {
        for name in ["source", "480p"] {
            assert!(b.finished(chunk(name, k, 1, k as i64 * D)), "{name} {k}");
        }
    }
    let live = b.snapshot(at(1000));
    assert_eq!((listed(&live, "source").as_str(), listed(&live, "480p").as_str()), ("5 6", "5 6"));
    assert_eq!(live.k, Some(6));
}

#[test]
fn what_viewers_were_shown_keeps_its_names_on_another_node() {
    let standby = || {
        let mut b = running(&["source", "480p"]);
        for k in 0..6u64 {
            b.mark(k, k as i64 * D);
            for name in ["source", "480p"].iter().filter(|_| k < 5) {
                b.finished(chunk(name, k, 1, k as i64 * D));
            }
        }
        b
    };
    // Nothing is known of what is stored: all is the new epoch's, and what was listed up to 3 keeps two older ones' names.
    let mut b = broadcast();
    let shown_as = [(0, 1), (1, 1), (2, 3), (3, 3)].into();
    let kept = b.go_on(standby(), 4, 0, shown_as);
    assert_eq!(kept.iter().map(|made| made.chunk.epoch).collect::<Vec<_>>(), [4; 10]);
    // Both renditions are offered at once.
    let live = b.snapshot(at(0));
    assert_eq!(live.offered.len(), 2);
    for shown in live.renditions.values().map(Shown::now) {
        let names: Vec<_> = shown.window.entries().iter().map(|e| (e.k, e.epoch)).collect();
        assert_eq!(names, [(0, 1), (1, 1), (2, 3), (3, 3), (4, 4)]);
        assert!(names.iter().all(|(k, epoch)| shown.chunk(*k, *epoch).is_some()));
        assert!(shown.window.open().is_some_and(|open| open.epoch == 4));
    }
}
