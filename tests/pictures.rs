//! Pictures of a broadcast: posters, storyboards and I-frame playlists, live and recorded, compared with its chunks.

mod support;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use support::{Answer, Node, Publisher, free_port, get, hls, request, secs, wait};

const SOURCE_ONLY: &[&str] = &["ladder=[]", "live.chunk=1s", "live.window=6", "live.reconnect_window=1s"];
/// Pixels of a tile of a 16:9 picture.
const TILE: (usize, usize) = (160, 90);

fn publish(node: &Node, stream: &str, seconds: u32) -> Publisher {
    Publisher::test_picture(node, stream, "320x180", 30, "-g 30 -b:v 600k -bf 2", "-b:a 64k", seconds)
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}: {}", answer.status, answer.text()))
}

/// The pictures in `bytes`, scaled to `size`, as ffmpeg decodes them: three bytes a pixel.
fn pictures(bytes: &[u8], (width, height): (usize, usize)) -> Vec<Vec<u8>> {
    let mut child = Command::new("ffmpeg")
        .args(["-hide_banner", "-v", "fatal", "-i", "pipe:0", "-vf", &format!("scale={width}:{height}:flags=lanczos")])
        .args(["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffmpeg must be installed");
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let feed = std::thread::spawn(move || _ = stdin.write_all(&bytes));
    let out = child.wait_with_output().unwrap().stdout;
    feed.join().unwrap();
    out.chunks_exact(width * height * 3).map(<[u8]>::to_vec).collect()
}

/// Mean difference of two pictures, 0 to 255.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// A tile of a sheet that is five tiles wide.
fn cell(sheet: &[u8], x: usize, y: usize) -> Vec<u8> {
    let stride = TILE.0 * 5 * 3;
    (y..y + TILE.1).flat_map(|line| sheet[line * stride + x * 3..][..TILE.0 * 3].to_vec()).collect()
}

/// First picture of a chunk, decoded from all of it.
fn first_picture(folder: &str, segment: &hls::Segment) -> Vec<u8> {
    let init = get(segment.map.as_ref().unwrap_or_else(|| panic!("{folder}: no init segment"))).body;
    pictures(&[init, get(&segment.uri).body].concat(), TILE).remove(0)
}

/// The cues of a storyboard: times, sheet, x, y.
fn cues(text: &str) -> Vec<(String, String, usize, usize)> {
    assert!(text.starts_with("WEBVTT\n"), "{text}");
    let blocks = text.split("\n\n").skip(1);
    let cues = blocks.map(|block| {
        let (times, target) = block.trim().split_once('\n').unwrap();
        let (sheet, rectangle) = target.split_once("#xywh=").unwrap();
        let [x, y, width, height] = rectangle.split(',').map(|n| n.parse().unwrap()).collect::<Vec<_>>()[..] else {
            panic!("{block}")
        };
        assert_eq!((width, height), TILE);
        (times.to_owned(), sheet.to_owned(), x, y)
    });
    cues.collect()
}

/// Every I-frame that a playlist lists, decoded from its range alone, is the first picture of the chunk of that number.
fn check_iframes(folder: &str, query: &str, vod: bool) {
    let url = format!("{folder}/source/iframes.m3u8{query}");
    let answer = get(&url);
    let text = answer.text();
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/vnd.apple.mpegurl"), "{text}");
    assert!(text.contains("#EXT-X-I-FRAMES-ONLY\n"), "{text}");
    assert_eq!(text.contains("#EXT-X-ENDLIST"), vod, "{text}");
    let list = hls::playlist(&url).unwrap();
    let whole = hls::playlist(&format!("{folder}/source/index.m3u8{query}")).unwrap();
    let ranges: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#EXT-X-BYTERANGE:")?.strip_suffix("@0")?.parse().ok())
        .collect();
    assert!(ranges.len() >= 5 && ranges.len() == list.segments.len(), "{text}");
    for (segment, len) in list.segments.iter().zip(ranges).take(6) {
        let Some(same) = whole.segments.iter().find(|other| other.k == segment.k) else { continue };
        assert!(same.uri == segment.uri && same.seconds == segment.seconds, "{same:?} {segment:?}");
        let init = get(segment.map.as_ref().unwrap()).body;
        let range = request("GET", &segment.uri, &[("range", &format!("bytes=0-{}", len - 1))], None);
        assert_eq!((range.status, range.body.len() as u64), (206, len));
        let alone = pictures(&[init, range.body].concat(), TILE);
        assert_eq!(alone.len(), 1, "one picture in {}", segment.uri);
        assert_eq!(difference(&alone[0], &first_picture(folder, segment)), 0.0);
    }
}

#[test]
fn pictures_show_what_is_live_and_what_was() {
    let node = Node::start(SOURCE_ONLY);
    let mut publisher = publish(&node, "alice", 24);
    let listed = |k: u64| node.wait_stream("alice", "its chunks", |state| state["k"].as_u64() >= Some(k));
    let broadcast = listed(6)["broadcast"].as_str().unwrap().to_owned();
    let folder = node.url(&format!("/hls/alice/{broadcast}"));

    // While nothing of it is ten seconds old there is an empty storyboard, and a poster.
    let text = get(&format!("{folder}/storyboard.vtt"));
    assert_eq!((text.status, text.header("content-type")), (200, "text/vtt; charset=utf-8"));
    assert_eq!(text.text(), "WEBVTT\n");
    let poster = format!("/hls/alice/{broadcast}/poster.jpg");
    let live = json_of(&get(&node.url("/api/v1/streams?live=1")));
    assert_eq!(live["streams"][0]["poster"], json!(poster));
    let shown = get(&node.url(&poster));
    assert_eq!((shown.status, shown.header("content-type")), (200, "image/jpeg"), "{}", node.log());
    let left: u64 = shown.header("cache-control").strip_prefix("public, max-age=").unwrap().parse().unwrap();
    assert!((1..=30).contains(&left));
    assert_eq!(pictures(&shown.body, (320, 180)).len(), 1);
    check_iframes(&folder, "", false);
    check_iframes(&folder, "?from=start", false);
    let master = get(&format!("{folder}/index.m3u8")).text();
    let line = master.lines().find(|line| line.starts_with("#EXT-X-I-FRAME-STREAM-INF:")).unwrap();
    let attributes = hls::attributes(line.split_once(':').unwrap().1);
    assert_eq!((&*attributes["URI"], &*attributes["RESOLUTION"]), ("source/iframes.m3u8", "320x180"));
    assert!(attributes["BANDWIDTH"].parse::<u64>().unwrap() > 1000);

    listed(21);
    let live_cues = cues(&get(&format!("{folder}/storyboard.vtt")).text());
    let names: Vec<_> = live_cues.iter().map(|cue| (&*cue.0, &*cue.1)).collect();
    let expected = ["00:00:00.000 --> 00:00:10.000", "00:00:10.000 --> 00:00:20.000"];
    assert_eq!(names, expected.map(|times| (times, "storyboard-0.2.jpg")));
    let whole = hls::playlist(&format!("{folder}/source/index.m3u8?from=start")).unwrap();
    let wanted = [0, 10].map(|k| first_picture(&folder, &whole.segments[k]));
    let check = |cues: &[(String, String, usize, usize)]| {
        for (i, (_, sheet, x, y)) in cues.iter().enumerate().take(2) {
            let answer = get(&format!("{folder}/{sheet}"));
            assert_eq!((answer.status, answer.header("content-type")), (200, "image/jpeg"), "{}", node.log());
            assert!(answer.header("cache-control").contains("immutable"));
            let sheet = pictures(&answer.body, (TILE.0 * 5, TILE.1)).remove(0);
            let tile = cell(&sheet, *x, *y);
            let (same, other) = (difference(&tile, &wanted[i]), difference(&tile, &wanted[1 - i]));
            assert!(same < 8.0 && other > 2.0 * same, "tile {i}: {same} from its chunk, {other} from the other");
        }
    };
    check(&live_cues);
    for absent in
        ["storyboard-0.3.jpg", "storyboard-1.1.jpg", "storyboard-0.26.jpg", "storyboard-0.0.jpg", "poster.png"]
    {
        assert_eq!(get(&format!("{folder}/{absent}")).status, 404, "{absent}");
    }

    // The recording has the same, to its end.
    assert!(publisher.wait(secs(30)).success());
    wait("the recording", secs(10), || hls::playlist(&format!("{folder}/source/index.m3u8")).filter(|list| list.vod));
    let told = json_of(&get(&node.url(&format!("/api/v1/broadcasts/{broadcast}"))));
    assert_eq!(told["poster"], json!(poster));
    assert_eq!(told["storyboard"], json!(format!("/hls/alice/{broadcast}/storyboard.vtt")));
    let recorded = cues(&get(&format!("{folder}/storyboard.vtt")).text());
    assert_eq!(recorded.len(), 3);
    assert!(recorded[2].0.starts_with("00:00:20.000 --> 00:00:2") && recorded[2].1 == "storyboard-0.3.jpg");
    check(&recorded);
    assert_eq!(get(&node.url(&poster)).status, 200);
    check_iframes(&folder, "", true);
    let clip = get(&format!("{folder}/source/iframes.m3u8?from=5.5&to=8")).text();
    assert_eq!(clip.matches("#EXT-X-BYTERANGE:").count(), 3, "{clip}");

    // What is deleted is seen no more.
    assert_eq!(node.admin("DELETE", &format!("/api/v1/broadcasts/{broadcast}"), None).status, 202);
    for gone in ["poster.jpg", "storyboard.vtt", "storyboard-0.3.jpg", "source/iframes.m3u8"] {
        assert_eq!(get(&format!("{folder}/{gone}")).status, 410, "{gone}");
    }
}

#[test]
fn a_crowd_at_an_edge_costs_one_picture_and_needs_its_tickets() {
    let node = Node::start(&[SOURCE_ONLY, &["auth.playback=ticket"]].concat());
    let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", node.internal);
    let edge = Node::start(&["node.roles=[\"edge\"]", &upstream, &format!("node.id=edge-{}", free_port())]);
    let _publisher = publish(&node, "bob", 30);
    let live = node.wait_stream("bob", "its chunks", |state| state["k"].as_u64() >= Some(2));
    // Whoever has no ticket is not told of pictures, and gets none.
    assert_eq!(live["poster"], Value::Null);
    let path = format!("/hls/bob/{}/poster.jpg", live["broadcast"].as_str().unwrap());
    assert_eq!(get(&node.url(&path)).status, 401);
    let path = format!("/t/{}{path}", node.ticket("bob"));
    wait("the edge", secs(10), || (get(&edge.url(&path)).status == 200).then_some(()));
    let many: Vec<_> = (0..40)
        .map(|_| {
            let url = edge.url(&path);
            std::thread::spawn(move || get(&url))
        })
        .collect();
    let many: Vec<_> = many.into_iter().map(|one| one.join().unwrap()).collect();
    assert!(many.iter().all(|answer| answer.status == 200 && answer.body == many[0].body));
    // Another turn of half a minute may have begun meanwhile.
    let metrics = get(&node.url("/metrics")).text();
    let made = metrics.lines().find_map(|line| line.strip_prefix("weir_pictures_total{result=\"ok\"} "));
    assert!(matches!(made, Some("1" | "2")), "{metrics}");
}

#[test]
fn a_node_may_make_no_pictures_and_sound_has_none() {
    let node = Node::start(&[SOURCE_ONLY, &["recording.pictures=false"]].concat());
    let _publisher = publish(&node, "carol", 30);
    let live = node.wait_stream("carol", "its chunks", |state| state["k"].as_u64() >= Some(1));
    let broadcast = live["broadcast"].as_str().unwrap();
    let told = json_of(&get(&node.url(&format!("/api/v1/broadcasts/{broadcast}"))));
    assert_eq!((&live["poster"], &told["poster"], &told["storyboard"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(get(&node.url(&format!("/hls/carol/{broadcast}/poster.jpg"))).status, 404);

    let sound = Node::start(SOURCE_ONLY);
    let url = sound.publish_url("radio");
    let tone = ["-re", "-f", "lavfi", "-i", "sine=440:r=48000", "-t", "30", "-c:a", "aac", "-f", "flv", &url];
    let _publisher = Publisher::ffmpeg(&sound, &tone);
    let live = sound.wait_stream("radio", "its chunks", |state| state["k"].as_u64() >= Some(1));
    let folder = sound.url(&format!("/hls/radio/{}", live["broadcast"].as_str().unwrap()));
    assert_eq!(live["poster"], Value::Null);
    assert!(!get(&format!("{folder}/index.m3u8")).text().contains("I-FRAME"));
    for absent in ["poster.jpg", "storyboard.vtt", "storyboard-0.1.jpg", "audio/iframes.m3u8"] {
        assert_eq!(get(&format!("{folder}/{absent}")).status, 404, "{absent}");
    }
}
