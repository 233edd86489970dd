//! Recordings on one node: rewinding while live, replay, titles, clips; from real publishers.

mod support;

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use support::{Answer, Node, Publisher, get, hls, request, secs, wait};
use weir::time::now;

const SOURCE_ONLY: &[&str] = &["ladder=[]", "live.chunk=1s", "live.window=6", "live.reconnect_window=1s"];

fn publish(node: &Node, stream: &str, seconds: u32) -> Publisher {
    Publisher::test_picture(node, stream, "320x180", 30, "-g 30 -b:v 300k", "-b:a 64k", seconds)
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}: {}", answer.status, answer.text()))
}

/// Bytes of all chunks and init segments that a playlist lists, by URL.
fn media(url: &str) -> BTreeMap<String, Vec<u8>> {
    let list = hls::playlist(url).unwrap_or_else(|| panic!("{url}: {}", get(url).text()));
    let listed = list.segments.iter().filter(|segment| !segment.gap);
    let urls = listed.flat_map(|segment| [Some(segment.uri.clone()), segment.map.clone()]).flatten();
    urls.map(|url| (url.clone(), get(&url)))
        .map(|(url, answer)| {
            assert_eq!(answer.status, 200, "{url}");
            assert!(answer.header("cache-control").contains("immutable"));
            (url, answer.body)
        })
        .collect()
}

/// Waits until a stream lists chunk number `k`.
fn listed(node: &Node, stream: &str, k: u64) -> Value {
    node.wait_stream(stream, "its chunks", |state| state["k"].as_u64() >= Some(k))
}

#[test]
fn what_is_live_can_be_rewound_and_is_a_recording_at_once() {
    let node = Node::start(SOURCE_ONLY);
    let mut publisher = publish(&node, "alice", 14);
    let broadcast = listed(&node, "alice", 9)["broadcast"].as_str().unwrap().to_owned();
    let folder = node.url(&format!("/hls/alice/{broadcast}"));
    let (plain, start) = (format!("{folder}/source/index.m3u8"), format!("{folder}/source/index.m3u8?from=start"));

    // The live window has moved on; from the start everything is there, at its old URLs.
    let window = hls::playlist(&plain).unwrap();
    assert!(window.sequence >= 4, "{window:?}");
    for multivariant in [format!("{folder}/index.m3u8?from=start"), node.url("/hls/alice/index.m3u8?from=start")] {
        let (variants, audio) = hls::multivariant(&multivariant).unwrap();
        assert_eq!(variants[0].uri, start);
        assert_eq!(audio[0].uri, format!("{folder}/audio/index.m3u8?from=start"));
    }
    let text = get(&start).text();
    assert!(text.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n") && text.contains("#EXT-X-PART:"), "{text}");
    let rewound = hls::playlist(&start).unwrap();
    assert_eq!((rewound.sequence, rewound.ended), (0, false));
    assert!(rewound.segments.len() > window.segments.len() && rewound.segments.len() >= 10);
    let names = |list: &hls::Playlist| list.segments.iter().map(|segment| segment.uri.clone()).collect::<Vec<_>>();
    assert!(names(&window).iter().all(|name| names(&hls::playlist(&start).unwrap()).contains(name)));
    let mut seen = media(&start);
    seen.extend(media(&format!("{folder}/audio/index.m3u8?from=start")));

    // It blocks and updates as the live window does.
    let next = hls::playlist(&start).unwrap().segments.len() as u64;
    let blocked = get(&format!("{start}&_HLS_msn={next}"));
    assert!(blocked.text().contains(&format!("\n{next}.1.m4s\n")), "{}", blocked.text());
    let delta = get(&format!("{start}&_HLS_skip=YES")).text();
    assert!(delta.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS=") && !delta.contains("\n0.1.m4s"), "{delta}");

    // Clips of what is running: by seconds, and by the wall clock as a player of the live window knows it.
    let clips = format!("/api/v1/broadcasts/{broadcast}/clips");
    let made = node.admin("POST", &clips, Some(r#"{"from":2.25,"to":5.5,"title":" Goal! \u0007"}"#));
    assert_eq!(made.status, 201, "{}", made.text());
    let clip = json_of(&made);
    assert_eq!((&clip["title"], &clip["from"], &clip["to"]), (&json!("Goal!"), &json!(2.25), &json!(5.5)));
    let wall = hls::playlist(&plain).unwrap().segments.into_iter().find_map(|segment| segment.wall).unwrap();
    let body = json!({ "from": "2020-01-01T00:00:00.000Z", "to": wall }).to_string();
    let by_clock = json_of(&node.admin("POST", &clips, Some(&body)));
    assert!(by_clock["from"] == json!(0.0) && by_clock["to"].as_f64().unwrap() >= 4.0, "{by_clock}");
    let check_clip = || {
        let (variants, _) = hls::multivariant(&node.url(clip["playlist"].as_str().unwrap())).unwrap();
        let text = get(&variants[0].uri).text();
        assert!(text.contains("#EXT-X-PLAYLIST-TYPE:VOD\n") && text.contains("#EXT-X-ENDLIST\n"), "{text}");
        assert!(text.contains("#EXT-X-START:TIME-OFFSET=0.250000,PRECISE=YES\n"), "{text}");
        let list = hls::playlist(&variants[0].uri).unwrap();
        assert_eq!(list.segments.iter().map(|segment| segment.k).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(media(&variants[0].uri).iter().all(|(url, bytes)| seen.get(url).is_none_or(|seen| seen == bytes)));
    };
    check_clip();

    assert!(publisher.wait(secs(30)).success());
    // From the moment a player sees the end until everyone gets the recording.
    wait("the end", secs(10), || get(&plain).text().ends_with("#EXT-X-ENDLIST\n").then_some(()));
    let ended = now();
    wait("the recording", secs(2), || hls::playlist(&plain).filter(|list| list.vod && list.ended));
    assert!(now() - ended < secs(2));
    let recording = hls::playlist(&plain).unwrap();
    assert_eq!(recording.sequence, 0);
    assert!((13..=15).contains(&recording.segments.len()), "{}", recording.segments.len());
    assert!(recording.segments.iter().all(|segment| !segment.gap), "the encoder's absence is not part of it");
    assert_eq!(get(&plain).body, get(&start).body);
    let mut replay = media(&plain);
    replay.extend(media(&format!("{folder}/audio/index.m3u8")));
    for (url, bytes) in &seen {
        assert!(replay.get(url) == Some(bytes), "{url} is not what it was");
    }
    check_clip();

    // What the API tells of it, and what people say of it.
    let url = node.url("/api/v1/streams/alice/broadcasts");
    let told = json_of(&get(&url));
    assert_eq!((told["broadcasts"].as_array().unwrap().len(), &told["next"]), (1, &Value::Null));
    assert!(told["broadcasts"][0]["duration_s"].as_f64().is_some_and(|seconds| seconds > 13.0), "{told}");
    let path = format!("/api/v1/broadcasts/{broadcast}");
    let one = json_of(&get(&node.url(&path)));
    let duration = one["duration_s"].as_f64().unwrap();
    assert!((13.5..15.0).contains(&duration), "{one}");
    let bytes: usize = replay.iter().filter(|(url, _)| url.ends_with(".m4s")).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((&one["state"], &one["bytes"], &one["gaps"]["count"]), (&json!("ended"), &json!(bytes), &json!(0)));
    assert_eq!(one["renditions"].as_array().unwrap().len(), 2);
    let titled = node.admin("PATCH", &path, Some(r#"{"title":"First show","note":"a\nb"}"#));
    assert_eq!((titled.status, &json_of(&titled)["title"]), (200, &json!("First show")));
    let told = json_of(&get(&url));
    assert_eq!(
        (&told["broadcasts"][0]["title"], &told["broadcasts"][0]["bytes"]),
        (&json!("First show"), &json!(bytes))
    );
    let clips = json_of(&get(&node.url("/api/v1/streams/alice/clips")));
    assert_eq!(clips["clips"].as_array().unwrap().len(), 2);
}

#[test]
fn a_broadcast_that_survives_crashes_is_one_recording() {
    let mut node = Node::start(&["ladder=[]", "live.chunk=1s", "live.window=6", "live.reconnect_window=20s"]);
    let first = publish(&node, "bob", 60);
    let broadcast = listed(&node, "bob", 6)["broadcast"].as_str().unwrap().to_owned();
    let start = node.url(&format!("/hls/bob/{broadcast}/source/index.m3u8?from=start"));
    let before = media(&start);
    node.crash();
    drop(first);
    // A power failure takes the bytes of what was written last, but not always its row.
    let folder = node.blobs().join(format!("bob/{broadcast}/source/0"));
    let number = |path: &std::path::Path| path.file_name()?.to_str()?.split('.').next()?.parse::<u64>().ok();
    let mut files = walk(&folder);
    files.sort_by_key(|path| number(path));
    // Of the last one the row may not have been written.
    let taken = number(&files[files.len() - 2]).unwrap();
    files[files.len() - 2..].iter().for_each(|file| std::fs::write(file, b"").unwrap());
    node.start_again();
    assert!(node.log().contains("bytes that are not there"), "{}", node.log());
    // What was stored answers before the encoder is back.
    let list = hls::playlist(&start).unwrap();
    assert!(list.sequence == 0 && list.segments.len() as u64 >= taken, "{list:?}");
    assert!(list.segments.iter().all(|segment| segment.gap || segment.k < taken), "{list:?}");
    wait("a gap", secs(10), || {
        hls::playlist(&start)?.segments.iter().any(|segment| segment.gap && segment.k > taken + 1).then_some(())
    });
    let mut second = publish(&node, "bob", 8);
    let back = wait("the encoder's return", secs(20), || {
        let list = hls::playlist(&start).unwrap();
        let back = list.segments.iter().position(|segment| segment.discontinuity)?;
        (list.segments.len() > back + 5).then_some(list)
    });
    assert_eq!((back.sequence, back.discontinuity_sequence), (0, 0));
    let at = back.segments.iter().position(|segment| segment.discontinuity).unwrap();
    assert!(back.segments[..at].iter().any(|segment| segment.gap), "the time away is listed");
    assert!(back.segments[at..].iter().all(|segment| !segment.gap));
    let delta = get(&format!("{start}&_HLS_skip=YES")).text();
    assert!(delta.contains("#EXT-X-SKIP:"), "{delta}");
    assert!(second.wait(secs(20)).success());
    node.crash_and_restart();
    // The reconnect window passes while nobody publishes.
    let plain = start.trim_end_matches("?from=start");
    let recording = wait("the recording", secs(40), || hls::playlist(plain).filter(|list| list.vod));
    let all = media(plain);
    // The chunk that was listed last may have died before it was stored.
    let lost: Vec<_> = before.iter().filter(|(url, bytes)| all.get(*url) != Some(bytes)).map(|(url, _)| url).collect();
    let may_be = |url: &String| (taken..).take(4).any(|k| url.ends_with(&format!("/{k}.1.m4s")));
    assert!(lost.iter().all(|url| may_be(url)), "{lost:?}");
    assert_eq!(recording.segments.iter().filter(|segment| segment.discontinuity).count(), 1);
    let one = json_of(&get(&node.url(&format!("/api/v1/broadcasts/{broadcast}"))));
    assert!(one["gaps"]["count"].as_u64().unwrap() > 0 && one["gaps"]["seconds"].as_f64().unwrap() > 0.0, "{one}");
    let listed = json_of(&get(&node.url("/api/v1/streams/bob/broadcasts")));
    assert_eq!(listed["broadcasts"].as_array().unwrap().len(), 1);
}

#[test]
fn who_may_do_what_with_a_recording() {
    let node = Node::start(&["auth.publish=keys", "ladder=[]", "live.chunk=1s", "live.reconnect_window=0s"]);
    let key =
        json_of(&node.admin("POST", "/api/v1/streams", Some(r#"{"id":"carol"}"#)))["key"].as_str().unwrap().to_owned();
    let other = json_of(&node.admin("POST", "/api/v1/streams", Some(r#"{"id":"mallory"}"#)))["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut publisher = publish(&node, &key, 4);
    let broadcast = listed(&node, "carol", 1)["broadcast"].as_str().unwrap().to_owned();
    assert!(publisher.wait(secs(20)).success());
    node.wait_stream("carol", "the end", |state| state["state"] == "offline");
    let path = |rest: &str| node.url(&format!("/api/v1/{rest}"));
    let ask = |method: &str, url: &str, key: Option<&str>, body: Option<&str>| {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = [("content-type", "application/json")]
            .into_iter()
            .chain(bearer.as_deref().map(|bearer| ("authorization", bearer)))
            .collect();
        request(method, url, &headers, body)
    };
    let clips = path(&format!("broadcasts/{broadcast}/clips"));
    let good = r#"{"from":0,"to":1}"#;
    assert_eq!(ask("POST", &clips, None, Some(good)).status, 401);
    assert_eq!(ask("POST", &clips, Some(&other), Some(good)).status, 401);
    let secret = key.split_once("?key=").unwrap().1;
    assert_eq!(ask("POST", &clips, Some(&key), Some(good)).status, 201);
    let clip = ask("POST", &clips, Some(secret), Some(good));
    assert_eq!(clip.status, 201, "{}", clip.text());
    let clip = path(&format!("clips/{}", json_of(&clip)["id"].as_str().unwrap()));
    for (body, status, says) in [
        (r#"{"from":2,"to":1}"#, 400, "`to` must be more"),
        (r#"{"from":1,"to":1}"#, 400, "`to` must be more"),
        (r#"{"from":-1,"to":1}"#, 400, "not below zero"),
        (r#"{"from":100,"to":101}"#, 400, "outside the broadcast"),
        (r#"{"from":"yesterday","to":1}"#, 400, "times such as"),
        (r#"{"from":0}"#, 422, "to"),
        (r#"{"from":0,"to":1,"x":2}"#, 422, "x"),
        ("{", 400, "JSON"),
    ] {
        let answer = ask("POST", &clips, Some(&key), Some(body));
        assert!([status, 400].contains(&answer.status), "{body}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(says), "{body}: {}", answer.text());
    }
    let long = json!({ "from": 0, "to": 1, "title": "x".repeat(201) }).to_string();
    assert_eq!(ask("POST", &clips, Some(&key), Some(&long)).status, 400);
    assert_eq!(get(&path("broadcasts/nosuchthing")).status, 404);
    assert_eq!(get(&path("broadcasts/..%2f")).status, 404);
    assert_eq!(get(&path("streams/carol/broadcasts?before=%00")).status, 400);
    let folder = node.url(&format!("/hls/carol/{broadcast}"));
    for (query, status) in
        [("?from=2&to=1", 400), ("?from=1", 400), ("", 400), ("?from=50&to=60", 404), ("?from=0&to=1", 200)]
    {
        assert_eq!(get(&format!("{folder}/clip.m3u8{query}")).status, status, "{query}");
        assert_eq!(get(&format!("{folder}/source/clip.m3u8{query}")).status, status, "{query}");
    }

    let access = path("streams/carol/access");
    assert_eq!(json_of(&get(&access)), json!({ "role": "viewer", "may_clip": false }));
    assert_eq!(json_of(&ask("GET", &access, Some(&key), None)), json!({ "role": "owner", "may_clip": true }));
    assert_eq!(ask("GET", &access, Some("wrong"), None).status, 401);
    let one = path(&format!("broadcasts/{broadcast}"));
    assert_eq!(ask("PATCH", &one, None, Some(r#"{"title":"x"}"#)).status, 401);
    assert_eq!(ask("PATCH", &one, Some(&other), Some(r#"{"title":"x"}"#)).status, 401);
    assert_eq!(ask("PATCH", &one, Some(&key), Some(r#"{"title":"x"}"#)).status, 200);
    assert_eq!(ask("DELETE", &clip, None, None).status, 401);
    assert_eq!(ask("DELETE", &clip, Some(&key), None).status, 204);
    assert_eq!(get(&clip).status, 404);

    // A stream that needs a ticket tells nothing to those who have none.
    assert_eq!(node.admin("PUT", "/api/v1/streams/carol/playback", Some(r#"{"playback":"ticket"}"#)).status, 200);
    let ticket = node.ticket("carol");
    for rest in [format!("broadcasts/{broadcast}"), "streams/carol/broadcasts".into(), "streams/carol/clips".into()] {
        let refused = get(&path(&rest));
        assert_eq!(refused.status, 401, "{rest}");
        assert!(!refused.text().contains(&broadcast), "{}", refused.text());
        assert_eq!(get(&node.url(&format!("/t/{ticket}/api/v1/{rest}"))).status, 200, "{rest}");
        assert_eq!(ask("GET", &path(&rest), Some(&key), None).status, 200, "{rest}");
    }
    // A ticket for one broadcast tells of no other.
    for (of, count) in [(broadcast.as_str(), 1), ("01other", 0)] {
        let wish = json!({ "broadcast": of }).to_string();
        let made = json_of(&node.admin("POST", "/api/v1/streams/carol/tickets", Some(&wish)));
        let told = get(&node.url(&format!("/t/{}/api/v1/streams/carol/broadcasts", made["ticket"].as_str().unwrap())));
        assert_eq!(json_of(&told)["broadcasts"].as_array().unwrap().len(), count, "{of}");
    }
    assert_eq!(get(&format!("{folder}/clip.m3u8?from=0&to=1")).status, 401);
    assert_eq!(get(&node.url(&format!("/t/{ticket}/hls/carol/{broadcast}/clip.m3u8?from=0&to=1"))).status, 200);
}

#[test]
fn broadcasts_are_listed_by_pages_newest_first() {
    let node = Node::start(&["ladder=[]", "live.chunk=1s", "live.reconnect_window=0s"]);
    let mut shows: Vec<String> = Vec::new();
    for _ in 0..3 {
        let mut publisher = publish(&node, "dave", 3);
        let is_new =
            |state: &Value| state["k"].is_u64() && state["broadcast"].as_str() != shows.first().map(String::as_str);
        let live = node.wait_stream("dave", "another broadcast", is_new);
        shows.insert(0, live["broadcast"].as_str().unwrap().to_owned());
        assert!(publisher.wait(secs(20)).success());
        wait("the end", Duration::from_secs(10), || {
            let told = json_of(&get(&node.url("/api/v1/streams/dave/broadcasts?limit=1")));
            (told["broadcasts"][0]["state"] == "ended").then_some(())
        });
    }
    let (mut found, mut next) = (Vec::new(), String::new());
    loop {
        let told = json_of(&get(&node.url(&format!("/api/v1/streams/dave/broadcasts?limit=2{next}"))));
        found.extend(told["broadcasts"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match told["next"].as_str() {
            Some(cursor) => next = format!("&before={cursor}"),
            None => break,
        }
    }
    assert_eq!(found, shows);
}

/// Publishes some seconds of a stream and waits for the recording; gives its broadcast.
fn recorded(node: &Node, stream: &str, seconds: u32) -> String {
    let mut publisher = publish(node, stream, seconds);
    let broadcast = listed(node, stream, 1)["broadcast"].as_str().unwrap().to_owned();
    assert!(publisher.wait(secs(30)).success());
    let plain = node.url(&format!("/hls/{stream}/{broadcast}/source/index.m3u8"));
    wait("the recording", secs(10), || hls::playlist(&plain).filter(|list| list.vod));
    broadcast
}

fn run(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().expect("installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{program} {args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Writes an answer to a file and gives what ffprobe counts: frames of pictures, frames of audio, seconds.
fn probe(node: &Node, bytes: &[u8]) -> (usize, usize, f64) {
    let path = node.dir.path().join("download.mp4");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    run("ffmpeg", &["-v", "warning", "-xerror", "-err_detect", "explode", "-i", path, "-f", "null", "-"]);
    let entries =
        ["-v", "error", "-count_frames", "-of", "json", "-show_entries", "stream=nb_read_frames:format=duration"];
    let told: Value = serde_json::from_str(&run("ffprobe", &[&entries[..], &[path]].concat())).unwrap();
    let frames = |i: usize| told["streams"][i]["nb_read_frames"].as_str().unwrap().parse().unwrap();
    (frames(0), frames(1), told["format"]["duration"].as_str().unwrap().parse().unwrap())
}

#[test]
fn a_recording_and_its_clips_are_files_to_take_away() {
    let node = Node::start(SOURCE_ONLY);
    let broadcast = recorded(&node, "erin", 7);
    let folder = format!("/hls/erin/{broadcast}");
    let url = node.url(&format!("{folder}/index.mp4"));
    let whole = get(&url);
    assert_eq!(whole.status, 200, "{}", whole.text());
    assert_eq!(whole.header("content-length"), whole.body.len().to_string());
    assert_eq!((whole.header("content-type"), whole.header("accept-ranges")), ("video/mp4", "bytes"));
    let saved = whole.header("content-disposition");
    assert!(saved.starts_with("attachment; filename=\"erin-20") && saved.ends_with("Z-source.mp4\""), "{saved}");
    assert_eq!(&whole.body[4..8], b"ftyp");
    let (pictures, _, seconds) = probe(&node, &whole.body);
    let listed: f64 = hls::playlist(&node.url(&format!("{folder}/source/index.m3u8")))
        .unwrap()
        .segments
        .iter()
        .map(|s| s.seconds)
        .sum();
    assert!((seconds - listed).abs() < 0.1, "{seconds} of {listed}");
    assert_eq!(pictures, (listed * 30.0).round() as usize);

    // Resumed anywhere it is the same file; when it is another by now, all of it comes.
    let tag = whole.header("etag").to_owned();
    for from in [0, 1, 1000, whole.body.len() / 2, whole.body.len() - 1] {
        let range = format!("bytes={from}-");
        let rest = request("GET", &url, &[("range", &range), ("if-range", &tag)], None);
        assert_eq!((rest.status, rest.body == whole.body[from..]), (206, true), "{from}");
    }
    let other = request("GET", &url, &[("range", "bytes=5-"), ("if-range", "\"other\"")], None);
    assert_eq!((other.status, other.body == whole.body), (200, true));
    let head = request("HEAD", &url, &[], None);
    assert_eq!((head.status, head.header("content-length")), (200, whole.header("content-length")));
    assert_eq!(request("GET", &url, &[("range", "bytes=999999999-")], None).status, 416);

    // To the frame, from inside a GOP into another one.
    let clip = get(&node.url(&format!("{folder}/clip.mp4?from=1.51&to=4.26&rendition=source")));
    assert_eq!(clip.status, 200);
    let (pictures, sounds, seconds) = probe(&node, &clip.body);
    assert!((82..=83).contains(&pictures), "{pictures} frames of 2.75 s");
    assert!((seconds - 2.75).abs() < 0.05 && (128..=132).contains(&sounds), "{seconds} s, {sounds} audio frames");
    let audio = get(&node.url(&format!("{folder}/index.mp4?rendition=audio")));
    assert_eq!(audio.status, 200);
    for (query, status) in [
        ("index.mp4?rendition=720p", 404),
        ("clip.mp4?from=3&to=2", 400),
        ("clip.mp4?from=90&to=91", 404),
        ("index.mp4?rendition=..", 404),
    ] {
        assert_eq!(get(&node.url(&format!("{folder}/{query}"))).status, status, "{query}");
    }
}

#[test]
fn what_is_deleted_is_gone_everywhere_but_for_its_clips() {
    let node = Node::start(&[SOURCE_ONLY, &["internal.secret=abcdefghijklmnop"]].concat());
    let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", node.internal);
    let edge = Node::start(&["node.roles=[\"edge\"]", &upstream, "internal.secret=abcdefghijklmnop"]);
    let mut publisher = publish(&node, "frank", 6);
    let broadcast = listed(&node, "frank", 1)["broadcast"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/broadcasts/{broadcast}");
    let refused = node.admin("DELETE", &path, None);
    assert_eq!((refused.status, refused.text().contains("is live")), (409, true));
    assert!(publisher.wait(secs(30)).success());
    let folder = format!("/hls/frank/{broadcast}");
    let playlist = format!("{folder}/source/index.m3u8");
    wait("the recording", secs(10), || hls::playlist(&node.url(&playlist)).filter(|list| list.vod));
    let kept = media(&edge.url(&playlist));
    let listed = hls::playlist(&edge.url(&playlist)).unwrap();
    let made = node.admin("POST", &format!("{path}/clips"), Some(r#"{"from":2.5,"to":3.5}"#));
    let clip = json_of(&made);
    let clip_id = clip["id"].as_str().unwrap();

    assert_eq!(node.admin("DELETE", &path, None).status, 202);
    let told = |status: u16, of: &Node, path: &str| {
        wait(&format!("{status} for {path}"), secs(10), || (get(&of.url(path)).status == status).then_some(()));
    };
    let chunk = |n: usize| url::Url::parse(&listed.segments[n].uri).unwrap().path().to_owned();
    for of in [&node, &edge] {
        for path in [&playlist, &format!("{folder}/index.m3u8"), &format!("{folder}/index.mp4"), &chunk(0), &chunk(5)] {
            // An edge has no recordings of its own to make files of.
            if !(path.ends_with(".mp4") && std::ptr::eq(of, &edge)) {
                told(410, of, path);
            }
        }
        let (variants, _) = hls::multivariant(&of.url(clip["playlist"].as_str().unwrap())).unwrap();
        let left = media(&variants[0].uri);
        assert!(left.iter().all(|(url, bytes)| {
            let path = url::Url::parse(url).unwrap().path().to_owned();
            kept.iter().any(|(known, seen)| known.ends_with(&path) && seen == bytes)
        }));
        assert_eq!(hls::playlist(&variants[0].uri).unwrap().segments.iter().map(|s| s.k).collect::<Vec<_>>(), [2, 3]);
    }
    assert_eq!(get(&node.url(&path)).status, 410);
    assert_eq!(node.admin("DELETE", &path, None).status, 410);
    assert_eq!(json_of(&get(&node.url("/api/v1/streams/frank/broadcasts")))["broadcasts"], json!([]));
    assert_eq!(get(&node.url(clip["download"].as_str().unwrap())).status, 200);
    let jobs = wait("the deletion", secs(10), || {
        let jobs = json_of(&node.admin("GET", "/api/v1/jobs", None));
        (jobs["jobs"][0]["state"] == "done").then_some(jobs)
    });
    assert_eq!(jobs["jobs"][0]["subject"], format!("frank/{broadcast}"));
    let files = || walk(&node.blobs().join("frank"));
    assert_eq!(files().iter().filter(|path| path.extension().is_some_and(|e| e == "m4s")).count(), 4);
    assert_eq!(node.admin("DELETE", &format!("/api/v1/clips/{clip_id}"), None).status, 204);
    wait("the last bytes", secs(10), || files().is_empty().then_some(()));
    told(410, &node, clip["playlist"].as_str().unwrap());
    told(410, &edge, clip["playlist"].as_str().unwrap());
    let shown = node.weir(&["jobs"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("deleted "), "{shown:?}");
}

#[test]
fn recordings_go_when_they_have_been_kept_long_enough() {
    let mut node = Node::start(&["auth.publish=keys", "ladder=[]", "live.chunk=1s", "live.reconnect_window=0s"]);
    let key = |stream: &str| {
        json_of(&node.admin("POST", "/api/v1/streams", Some(&json!({ "id": stream }).to_string())))["key"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (gina, hugo) = (key("gina"), key("hugo"));
    for (stream, key) in [("gina", gina), ("hugo", hugo)] {
        let mut publisher = publish(&node, &key, 3);
        listed(&node, stream, 0);
        assert!(publisher.wait(secs(20)).success());
        node.wait_stream(stream, "its end", |state| state["state"] == "offline");
    }
    assert!(node.weir(&["stream", "keep", "gina", "0"]).status.success());
    let count = |stream: &str| {
        let told = json_of(&get(&node.url(&format!("/api/v1/streams/{stream}/broadcasts"))));
        told["broadcasts"].as_array().unwrap().len()
    };
    assert_eq!((count("gina"), count("hugo")), (1, 1));
    // A node looks at its start, and every minute.
    assert!(node.terminate().1.success());
    let check = |node: &Node| {
        let mut weir = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
        weir.args(["store", "check"]).args(node.all_settings().iter().flat_map(|setting| ["--set", setting]));
        weir.output().unwrap()
    };
    let sound = check(&node);
    assert!(sound.status.success() && String::from_utf8_lossy(&sound.stdout).contains("nothing is wrong"), "{sound:?}");
    node.start_again();
    let gone = |stream: &str| {
        let told = json_of(&get(&node.url(&format!("/api/v1/streams/{stream}/broadcasts"))));
        told["broadcasts"].as_array().unwrap().is_empty()
    };
    wait("the end of what is not kept", secs(10), || gone("gina").then_some(()));
    assert!(!gone("hugo"));
    wait("its bytes", secs(10), || walk(&node.blobs().join("gina")).is_empty().then_some(()));
    // A chunk that someone took away is told.
    let lost = node.blobs().join("hugo");
    let chunk = walk(&lost).into_iter().find(|path| path.extension().is_some_and(|e| e == "m4s")).unwrap();
    assert!(node.terminate().1.success());
    std::fs::remove_file(chunk).unwrap();
    let broken = check(&node);
    assert!(!broken.status.success() && String::from_utf8_lossy(&broken.stdout).contains("hugo/"), "{broken:?}");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}

#[test]
fn a_broadcast_that_ends_at_once_has_what_was_still_being_encoded() {
    let ladder = "ladder=[{height=90,bitrate_kbps=100}]";
    let node = Node::start(&[ladder, "live.chunk=1s", "live.reconnect_window=0s"]);
    for round in 0..2 {
        let mut publisher = publish(&node, "ivy", 5);
        let broadcast = wait("the broadcast", secs(20), || {
            let told = json_of(&get(&node.url("/api/v1/streams/ivy")));
            (told["k"].as_u64() >= Some(1)).then(|| told["broadcast"].as_str().unwrap().to_owned())
        });
        assert!(publisher.wait(secs(20)).success());
        let folder = node.url(&format!("/hls/ivy/{broadcast}"));
        let list = |rendition: &str| hls::playlist(&format!("{folder}/{rendition}/index.m3u8")).filter(|list| list.vod);
        let [source, encoded] = ["source", "90p"].map(|rendition| wait("the recording", secs(20), || list(rendition)));
        let numbers =
            |list: &hls::Playlist| list.segments.iter().map(|segment| (segment.k, segment.gap)).collect::<Vec<_>>();
        assert_eq!(numbers(&source), numbers(&encoded), "round {round}");
        assert!(source.segments.len() >= 4, "{source:?}");
    }
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
