//! Files made of real chunks, read by ffmpeg: packet by packet what the chunks hold, at the same times.

use super::{
    Bounds,
    testing::{B_FRAMES, CAST, Cast, Packet, Stored, build, on_disk, packets, probe, read, record},
};
use crate::package::testing::run;

/// Packets as the chunks hold them, in the time of the movie.
fn wanted(chunks: &[Stored]) -> [Vec<Packet>; 2] {
    let [mut video, mut audio] = [0, 1].map(|track| packets(chunks, track));
    let begin = video.iter().map(|packet| packet.0).min().unwrap();
    assert_eq!(begin % 15, 0, "a whole number of samples");
    for (packets, begin) in [(&mut video, begin), (&mut audio, begin * 48 / 90)] {
        for packet in packets.iter_mut() {
            *packet = (packet.0 - begin, packet.1 - begin, packet.2, packet.3, packet.4.clone());
        }
    }
    // Decode times start before zero, where pictures are shown earlier than they are decoded.
    let early = video.iter().map(|packet| packet.1 - packet.0).max().unwrap().max(0);
    video.iter_mut().for_each(|packet| packet.1 -= early);
    [video, audio]
}

/// Makes the file, decodes it without a word of complaint, and gives its packets.
fn play(chunks: &[Stored]) -> [Vec<Packet>; 2] {
    let file = on_disk(&read(&build(Bounds::Whole, chunks), chunks));
    let path = file.path().to_str().unwrap();
    // In the file's own ticks: two pictures may be nearer than a frame at a seam.
    let decode =
        ["-xerror", "-err_detect", "explode", "-i", path, "-map", "0", "-enc_time_base", "-1", "-f", "null", "-"];
    run("ffmpeg", &decode, &[]);
    probe(file.path())
}

fn check(chunks: &[Stored]) {
    let (got, want) = (play(chunks), wanted(chunks));
    for track in 0..2 {
        assert_eq!(got[track].len(), want[track].len());
        for (i, (got, want)) in got[track].iter().zip(&want[track]).enumerate() {
            assert_eq!(got, want, "packet {i} of track {track}");
        }
    }
}

#[test]
fn packets_are_those_of_the_chunks() {
    for parts in [false, true] {
        check(&record(&Cast { parts, ..CAST }));
        check(&record(&Cast {
            parts,
            start: 10_500,
            video: &["-tune", "zerolatency", "-g", "60", "-sc_threshold", "0"],
            ..CAST
        }));
    }
}

#[test]
fn chunks_of_several_groups_are_whole() {
    let video = &["-bf", "2", "-g", "20", "-keyint_min", "20", "-sc_threshold", "0"];
    let chunks = record(&Cast { video, parts: true, chunk: 2000, ..CAST });
    assert_eq!(chunks.iter().filter(|stored| stored.track == 0).count(), 3);
    check(&chunks);
}

#[test]
fn video_or_audio_alone() {
    let chunks = record(&Cast { start: 2000, ..CAST });
    let want = wanted(&chunks);
    for track in 0..2 {
        let mut alone: Vec<_> = chunks.iter().filter(|stored| stored.track == track).cloned().collect();
        alone.iter_mut().for_each(|stored| stored.track = 0);
        // Alone, audio starts with its first frame.
        let begin = want[track].iter().map(|packet| packet.0).min().unwrap();
        let want: Vec<_> = want[track].iter().map(|p| (p.0 - begin, p.1 - begin, p.2, p.3, p.4.clone())).collect();
        assert_eq!(play(&alone)[track], want);
    }
}

#[test]
fn holes_keep_the_tracks_together() {
    let chunks = record(&Cast { parts: true, ..CAST });
    let first = chunks[0].chunk;
    for missing in [vec![(0, first + 2), (1, first + 2)], vec![(0, first + 1)], vec![(1, first + 3), (1, first + 4)]] {
        let rest: Vec<_> = chunks.iter().filter(|s| !missing.contains(&(s.track, s.chunk))).cloned().collect();
        assert_eq!(rest.len() + missing.len(), chunks.len());
        check(&rest);
    }
    // Audio that starts a chunk later.
    check(&chunks.iter().filter(|s| (s.track, s.chunk) != (1, first)).cloned().collect::<Vec<_>>());
}

#[test]
fn a_reconnect_with_another_picture_is_another_entry() {
    let mut chunks = record(&Cast { seconds: 3, ..CAST });
    chunks.extend(record(&Cast { seconds: 3, size: (320, 180), start: 6500, k: 6, ..CAST }));
    check(&chunks);
    let file = on_disk(&read(&build(Bounds::Whole, &chunks), &chunks));
    let args = ["-of", "csv=p=0", "-select_streams", "v", "-show_entries", "frame=width,height", "-i"];
    let text = run("ffprobe", &[&args[..], &[file.path().to_str().unwrap()]].concat(), &[]);
    let text = String::from_utf8(text).unwrap();
    let sizes: Vec<_> = text.lines().map(|line| line.trim_end_matches(',')).filter(|line| !line.is_empty()).collect();
    assert_eq!(sizes, [vec!["160,90"; 90], vec!["320,180"; 90]].concat());
}

/// An encoder comes back with a clock that is a tenth of a second late: its chunks start before the last one has ended.
#[test]
fn an_overlap_does_not_move_what_comes_after() {
    let mut chunks = record(&Cast { seconds: 3, ..CAST });
    let before = packets(&chunks, 0).len();
    let second = record(&Cast { seconds: 3, video: B_FRAMES, start: 2900, k: 3, ..CAST });
    chunks.extend(second);
    let (got, want) = (play(&chunks), wanted(&chunks));
    for track in 0..2 {
        assert_eq!(got[track].len(), want[track].len());
        let mut shown: Vec<_> = got[track].iter().map(|packet| packet.0).collect();
        shown.sort();
        assert!(shown.windows(2).all(|two| two[0] < two[1]));
        let moved: Vec<_> = (0..shown.len()).filter(|&i| got[track][i].0 != want[track][i].0).collect();
        assert!(!moved.is_empty() && moved.len() <= 3, "{moved:?}");
        assert!(track == 1 || moved.iter().all(|i| *i < before));
    }
}
