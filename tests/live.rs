//! Live on one node, from real publishers to strict clients.

mod support;

use support::{Node, Publisher, get, hls, hls::Client, secs, signal, wait};

const LADDER: &str = "ladder=[{height=180,bitrate_kbps=200}]";
const SOURCE_ONLY: &str = "ladder=[]";

fn live(node: &Node, stream: &str) -> (serde_json::Value, Client) {
    let state = node.wait_live(stream);
    (state, Client::open(&node.url(&format!("/hls/{stream}/index.m3u8"))))
}

#[test]
fn a_two_second_gop_passes_through_beside_an_encoded_rung() {
    let node = Node::start(&[LADDER]);
    let _publisher = Publisher::test_picture(&node, "alice", "640x360", 30, "-g 60 -b:v 600k", "-b:a 96k", 40);
    let (state, mut client) = live(&node, "alice");
    assert_eq!(state["mode"], "follow");
    assert_eq!(client.names(), ["180p", "audio", "source"]);
    client.follow_media(5, secs(25));
    client.check_alignment();
    for (name, followed) in &client.renditions {
        assert_eq!(followed.last.target, 2);
        for seen in followed.chunks.values() {
            assert!(seen.times.is_some(), "{name}: a hole at {}", seen.listed.k);
            assert!((seen.listed.seconds - 2.0).abs() < 0.06, "{name}: {:?}", seen.listed);
        }
        assert!(followed.chunks.contains_key(&0), "{name} lacks the first chunk");
    }
    let (variants, audio) = hls::multivariant(&node.url("/hls/alice/index.m3u8")).unwrap();
    assert_eq!(audio.len(), 1);
    let sizes: Vec<_> = variants.iter().map(|v| v.attributes["RESOLUTION"].as_str()).collect();
    assert!(sizes.contains(&"640x360") && sizes.contains(&"320x180"), "{sizes:?}");
    for variant in &variants {
        let a = &variant.attributes;
        assert!(a["CODECS"].contains("avc1.") && a["CODECS"].contains("mp4a.40.2"), "{a:?}");
        assert_eq!(a["FRAME-RATE"], "30.000");
        assert!(a["BANDWIDTH"].parse::<u64>().unwrap() >= a["AVERAGE-BANDWIDTH"].parse::<u64>().unwrap());
    }
}

#[test]
fn default_obs_keyframes_still_give_two_second_chunks_on_every_rendition() {
    let node = Node::start(&[LADDER]);
    let video = "-g 250 -keyint_min 250 -sc_threshold 0 -bf 2 -b:v 600k";
    let _publisher = Publisher::test_picture(&node, "bob", "640x360", 30, video, "-b:a 96k -ar 44100", 40);
    // Told at once, so that a page that waits asks again soon; and not yet among those that can be watched.
    node.wait_stream("bob", "starting", |s| s["state"] == "starting");
    let listed: serde_json::Value = serde_json::from_slice(&get(&node.url("/api/v1/streams?live=1")).body).unwrap();
    assert_eq!(listed["streams"], serde_json::json!([]));
    let (state, mut client) = live(&node, "bob");
    assert_eq!(state["mode"], "reencode");
    assert_eq!(client.names(), ["180p", "360p", "audio"]);
    assert_eq!(state["warnings"][0]["code"], "long_keyframe_interval");
    assert!(state["warnings"][0]["fix"].as_str().unwrap().contains("Keyframe Interval"), "{state}");
    client.follow_media(6, secs(30));
    client.check_alignment();
    for (name, followed) in &client.renditions {
        for seen in followed.chunks.values() {
            assert!(seen.times.is_some(), "{name}: a hole at {}", seen.listed.k);
            assert!((seen.listed.seconds - 2.0).abs() < 0.06, "{name}: {:?}", seen.listed);
        }
    }
}

#[test]
fn without_a_ladder_chunks_follow_long_keyframes() {
    let node = Node::start(&[SOURCE_ONLY]);
    let video = "-g 90 -keyint_min 90 -sc_threshold 0 -b:v 300k";
    let _publisher = Publisher::test_picture(&node, "carol", "320x180", 30, video, "-b:a 64k", 40);
    let (_, mut client) = live(&node, "carol");
    client.follow_media(3, secs(20));
    let source = &client.renditions["source"];
    assert_eq!(source.last.target, 10);
    assert!(source.media().all(|seen| (seen.listed.seconds - 3.0).abs() < 0.04));
}

#[test]
fn audio_alone_is_a_broadcast() {
    let node = Node::start(&[SOURCE_ONLY]);
    let url = node.publish_url("radio");
    let _publisher = Publisher::ffmpeg(
        &node,
        &["-re", "-f", "lavfi", "-i", "sine=440:r=44100", "-t", "40", "-c:a", "aac", "-b:a", "96k", "-f", "flv", &url],
    );
    let (state, mut client) = live(&node, "radio");
    assert_eq!(state["mode"], "audio-only");
    assert_eq!(client.names(), ["audio"]);
    client.follow_media(4, secs(20));
    let (variants, groups) = hls::multivariant(&node.url("/hls/radio/index.m3u8")).unwrap();
    assert!(groups.is_empty() && variants.len() == 1);
    assert_eq!(variants[0].attributes["CODECS"], "mp4a.40.2");
    assert!(!variants[0].attributes.contains_key("RESOLUTION"));
}

#[test]
fn video_alone_is_a_broadcast() {
    let node = Node::start(&[SOURCE_ONLY]);
    let url = node.publish_url("mute");
    let _publisher = Publisher::ffmpeg(
        &node,
        &[
            "-re",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=320x180:r=25",
            "-t",
            "40",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-g",
            "50",
            "-f",
            "flv",
            &url,
        ],
    );
    let (_, mut client) = live(&node, "mute");
    assert_eq!(client.names(), ["source"]);
    client.follow_media(4, secs(20));
    let (variants, groups) = hls::multivariant(&node.url("/hls/mute/index.m3u8")).unwrap();
    assert!(groups.is_empty() && !variants[0].attributes.contains_key("AUDIO"));
    assert!(!variants[0].attributes["CODECS"].contains("mp4a"));
}

#[test]
fn an_encoder_that_drops_and_returns_continues_its_broadcast() {
    let node = Node::start(&[LADDER, "live.reconnect_window=20s"]);
    let first = Publisher::test_picture(&node, "dave", "320x240", 30, "-g 60 -b:v 300k", "-b:a 64k", 60);
    let (before, mut client) = live(&node, "dave");
    client.follow_media(2, secs(15));
    first.kill();
    node.wait_stream("dave", "away", |s| s["state"] == "away");
    // The playlist goes on while the encoder is away.
    client.follow("a gap on every rendition", secs(10), |c| {
        c.renditions.values().all(|f| f.chunks.values().any(|s| s.listed.gap))
    });
    let _second = Publisher::test_picture(&node, "dave", "320x240", 30, "-g 60 -b:v 300k", "-b:a 64k", 60);
    let after_gap = |f: &hls::Followed| {
        let gap = f.chunks.values().find(|s| s.listed.gap).map(|s| s.listed.k);
        f.media().filter(|s| gap.is_some_and(|gap| s.listed.k > gap)).count() >= 2
    };
    client.follow("chunks after the gap", secs(25), |c| c.renditions.values().all(after_gap));
    client.check_alignment();
    let after = node.wait_live("dave");
    assert_eq!(before["broadcast"], after["broadcast"]);
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64());
    for (name, followed) in &client.renditions {
        let ks: Vec<_> = followed.chunks.keys().copied().collect();
        assert_eq!(ks, (ks[0]..=*ks.last().unwrap()).collect::<Vec<_>>(), "{name}: numbers go on without a jump");
        let marked: Vec<_> = followed.chunks.values().filter(|s| s.listed.discontinuity).collect();
        assert_eq!(marked.len(), 1, "{name}: one discontinuity, where the second session starts");
        assert!(!marked[0].listed.gap);
    }
}

#[test]
fn after_the_reconnect_window_the_broadcast_is_a_recording_and_the_next_one_is_new() {
    let mut node = Node::start(&[SOURCE_ONLY, "live.reconnect_window=3s"]);
    let mut first = Publisher::test_picture(&node, "erin", "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 9);
    let (state, mut client) = live(&node, "erin");
    client.follow("the end", secs(30), |c| c.renditions.values().all(|f| f.last.ended));
    assert!(first.wait(secs(1)).success(), "{}", first.log());
    // The recording has everything, from the first chunk on, without the holes of the wait.
    let source = client.uri("source").to_owned();
    let recording = wait("the recording", secs(15), || hls::playlist(&source).filter(|list| list.vod));
    assert!(recording.ended && recording.sequence == 0);
    let total: f64 = recording.segments.iter().map(|s| s.seconds).sum();
    assert!((total - 9.0).abs() < 0.1, "{total} s of 9 s are recorded");
    assert!(recording.segments.iter().all(|s| !s.gap && get(&s.uri).status == 200));
    assert_eq!(get(&node.url("/hls/erin/index.m3u8")).status, 404);
    let broadcast = state["broadcast"].as_str().unwrap();
    assert_eq!(get(&node.url(&format!("/hls/erin/{broadcast}/index.m3u8"))).status, 200);

    let _second = Publisher::test_picture(&node, "erin", "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 20);
    let (again, mut client) = live(&node, "erin");
    assert_ne!(state["broadcast"], again["broadcast"]);
    // It is stored like the first one, init segments too.
    client.follow_media(2, secs(10));
    node.crash_and_restart();
    let mut after = Client::open(&node.url(&format!("/hls/erin/{}/index.m3u8", again["broadcast"].as_str().unwrap())));
    after.poll();
    assert!(after.renditions.values().all(|f| f.media().count() >= 1));
}

#[test]
fn the_newest_session_wins_at_once() {
    let node = Node::start(&[SOURCE_ONLY]);
    let mut ghost = Publisher::test_picture(&node, "frank", "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 60);
    let (before, mut client) = live(&node, "frank");
    client.follow_media(2, secs(15));
    let _newest = Publisher::test_picture(&node, "frank", "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 60);
    ghost.wait(secs(10));
    client.follow("chunks of the newest session", secs(20), |c| {
        c.renditions.values().all(|f| {
            let cut = f.chunks.values().find(|s| s.listed.discontinuity).map(|s| s.listed.k);
            cut.is_some_and(|cut| f.media().filter(|s| s.listed.k >= cut).count() >= 2)
        })
    });
    let after = node.wait_live("frank");
    assert_eq!(before["broadcast"], after["broadcast"]);
    assert!(client.renditions.values().all(|f| f.chunks.values().filter(|s| s.listed.gap).count() <= 1));
}

#[test]
fn a_killed_transcoder_costs_no_chunk() {
    let node = Node::start(&[LADDER]);
    let _publisher = Publisher::test_picture(&node, "grace", "640x360", 30, "-g 60 -b:v 500k", "-b:a 64k", 60);
    let (_, mut client) = live(&node, "grace");
    client.follow_media(2, secs(20));
    let victim = wait("the transcoder", secs(5), || node.transcoders().first().copied());
    signal(victim, "KILL");
    let newest = client.renditions["180p"].chunks.keys().last().copied().unwrap();
    client
        .follow("encoded chunks after the kill", secs(25), |c| c.renditions["180p"].chunks.contains_key(&(newest + 4)));
    client.check_alignment();
    for (name, followed) in &client.renditions {
        assert!(followed.chunks.values().all(|s| s.times.is_some()), "{name} has a hole");
    }
}

#[test]
fn a_stuck_transcoder_is_replaced() {
    let node = Node::start(&[LADDER]);
    let _publisher = Publisher::test_picture(&node, "heidi", "640x360", 30, "-g 60 -b:v 500k", "-b:a 64k", 60);
    let (_, mut client) = live(&node, "heidi");
    client.follow_media(2, secs(20));
    let victim = wait("the transcoder", secs(5), || node.transcoders().first().copied());
    signal(victim, "STOP");
    let newest = client.renditions["180p"].chunks.keys().last().copied().unwrap();
    client.follow("encoded chunks after the hang", secs(30), |c| {
        c.renditions["180p"].media().any(|s| s.listed.k >= newest + 5)
    });
    assert!(client.renditions["source"].chunks.values().all(|s| s.times.is_some()), "source must not notice");
    assert_ne!(node.transcoders().first(), Some(&victim));
}

#[test]
fn a_killed_node_takes_up_its_broadcast() {
    let mut node = Node::start(&[LADDER]);
    let first = Publisher::test_picture(&node, "ivan", "320x240", 30, "-g 60 -b:v 300k", "-b:a 64k", 60);
    let (before, mut client) = live(&node, "ivan");
    client.follow_media(4, secs(25));
    node.crash_and_restart();
    drop(first);
    // The same playlists answer again; what was stored is there, and nothing that was listed changes.
    client.poll();
    let source = &client.renditions["source"];
    let stored: Vec<_> = source.last.segments.iter().filter(|s| !s.gap).collect();
    assert!(stored.len() >= 3, "{stored:?}");
    assert!(stored.iter().all(|s| get(&s.uri).status == 200));
    let _second = Publisher::test_picture(&node, "ivan", "320x240", 30, "-g 60 -b:v 300k", "-b:a 64k", 60);
    let newest = *source.chunks.keys().last().unwrap();
    client.follow("chunks after the crash", secs(25), |c| {
        c.renditions.values().all(|f| f.media().any(|s| s.listed.k > newest + 1))
    });
    let after = node.wait_live("ivan");
    assert_eq!(before["broadcast"], after["broadcast"]);
    client.check_alignment();
}

#[test]
fn a_stopped_node_stores_its_open_chunk_and_ends_in_time() {
    let mut node = Node::start(&[LADDER]);
    let _publisher = Publisher::test_picture(&node, "judy", "320x240", 30, "-g 60 -b:v 300k", "-b:a 64k", 60);
    let (_, mut client) = live(&node, "judy");
    client.follow_media(2, secs(20));
    let (took, status) = node.terminate();
    assert!(status.success(), "{status}");
    assert!(took < secs(10), "{took:?}");
    let newest = *client.renditions["source"].chunks.keys().last().unwrap();
    node.start_again();
    client.poll();
    let source = &client.renditions["source"];
    assert!(source.media().any(|s| s.listed.k == newest + 1), "the open chunk was stored: {:?}", source.last.segments);
}

#[test]
fn a_store_that_fails_does_not_stop_the_show() {
    let node = Node::start_local(&[SOURCE_ONLY]);
    let _publisher = Publisher::test_picture(&node, "ken", "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 60);
    let (_, mut client) = live(&node, "ken");
    client.follow_media(2, secs(15));
    // A folder that is a file takes no writes, for root too.
    let blobs = node.dir.path().join("data/blobs");
    let away = node.dir.path().join("data/blobs.away");
    std::fs::rename(&blobs, &away).expect("the chunk store's folder");
    std::fs::write(&blobs, "").unwrap();
    let ready = wait("the alarm", secs(15), || Some(get(&node.url("/readyz"))).filter(|a| a.status == 503));
    assert!(ready.text().contains("nothing is recorded"), "{}", ready.text());
    let newest = *client.renditions["source"].chunks.keys().last().unwrap();
    client.follow("chunks from memory", secs(15), |c| {
        c.renditions.values().all(|f| f.chunks.contains_key(&(newest + 2)))
    });
    std::fs::remove_file(&blobs).unwrap();
    std::fs::rename(&away, &blobs).unwrap();
    wait("recovery", secs(15), || Some(get(&node.url("/readyz"))).filter(|a| a.status == 200));
}
