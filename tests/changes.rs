//! What encoders do beside the ordinary, from real connections to strict clients: every playlist stays valid, every
//! rendition aligned (`hls::Client` checks both at each look), and who sends what cannot be used is told so.

mod support;

use support::{
    Node, Publisher, get, hls,
    hls::{Client, Followed},
    rtmp::{self, Connection, Pusher, Tag},
    secs, signal,
};

/// Half the usual length, and half the time to wait.
const CHUNK: &str = "live.chunk=1s";
const LADDER: &str = "ladder=[{height=90,bitrate_kbps=100}]";
const SOURCE_ONLY: &str = "ladder=[]";
/// A keyframe each second and nowhere else.
const GOP: &str = "-g 30 -sc_threshold 0 -b:v 200k";

fn live(node: &Node, stream: &str) -> (serde_json::Value, Client) {
    let state = node.wait_live(stream);
    (state, Client::open(&node.url(&format!("/hls/{stream}/index.m3u8"))))
}

fn seams(followed: &Followed) -> Vec<u64> {
    followed.chunks.values().filter(|seen| seen.listed.discontinuity).map(|seen| seen.listed.k).collect()
}

fn gaps(followed: &Followed) -> usize {
    followed.chunks.values().filter(|seen| seen.listed.gap).count()
}

/// Follows until each rendition has `count` chunks behind its only discontinuity; gives that one's number.
fn follow_over_a_seam(client: &mut Client, count: usize) -> u64 {
    let behind = |f: &Followed| seams(f).first().map_or(0, |seam| f.media().filter(|s| s.listed.k >= *seam).count());
    client.follow("chunks behind the seam", secs(30), |c| c.renditions.values().all(|f| behind(f) >= count));
    client.check_alignment();
    let all: Vec<_> = client.renditions.values().map(seams).collect();
    assert!(all.iter().all(|seams| seams.len() == 1 && *seams == all[0]), "one seam, everywhere the same: {all:?}");
    for (name, followed) in &client.renditions {
        assert_eq!(gaps(followed), 0, "{name} has holes");
    }
    all[0][0]
}

/// Runs `check` for each of these at the same time.
fn each<T: Send>(items: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    let check = &check;
    std::thread::scope(|scope| items.into_iter().for_each(|item| drop(scope.spawn(move || check(item)))));
}

#[test]
fn a_change_of_the_picture_within_a_connection_goes_on_in_the_same_broadcast() {
    let node = Node::start(&[CHUNK, LADDER]);
    let wide = rtmp::film("320x180", 30, 5, GOP, "-b:a 64k");
    let square = rtmp::film("240x240", 30, 9, GOP, "-b:a 64k");
    let _pusher = Pusher::start(&node, "alice", rtmp::joined(&wide, &square, 5), 1.0);
    let (before, mut client) = live(&node, "alice");
    assert_eq!(client.names(), ["90p", "audio", "source"]);
    let seam = follow_over_a_seam(&mut client, 3);
    assert_eq!(seam, 5, "the new picture starts at its first keyframe");
    let after = node.wait_live("alice");
    assert_eq!(before["broadcast"], after["broadcast"]);
    for (name, sizes) in [("source", [(320, 180), (240, 240)]), ("90p", [(160, 90), (90, 90)])] {
        let followed = &client.renditions[name];
        let seen = [seam - 1, seam].map(|k| {
            let init = &followed.inits[followed.chunks[&k].listed.map.as_ref().unwrap()];
            (init.width, init.height)
        });
        assert_eq!(seen, sizes, "{name}");
    }
    let (variants, _) = hls::multivariant(&node.url("/hls/alice/index.m3u8")).unwrap();
    let sizes: Vec<_> = variants.iter().map(|v| v.attributes["RESOLUTION"].as_str()).collect();
    assert!(sizes.contains(&"240x240") && sizes.contains(&"90x90"), "{sizes:?}");
}

#[test]
fn the_wraps_of_time_stamps_are_invisible() {
    let node = Node::start(&[CHUNK, SOURCE_ONLY]);
    let film = rtmp::film("160x90", 30, 8, "-g 30 -bf 2 -b:v 100k", "-b:a 64k");
    let starts = [("plain", 0), ("extended", 0xff_ffff), ("signed", 1i64 << 31), ("unsigned", 1i64 << 32)];
    let from = |wrap: i64, tag: &Tag| tag.ms + (wrap - 3000).max(0);
    let mut all: Vec<_> = starts.map(|(name, wrap)| (name, rtmp::stamped(&film, |tag| from(wrap, tag)))).into();
    // OBS counts in 31 bits.
    all.push(("obs", rtmp::stamped(&film, |tag| from(1 << 31, tag) & 0x7fff_ffff)));
    let shapes = std::sync::Mutex::new(Vec::new());
    each(all, |(name, tags)| {
        let pusher = Pusher::start(&node, name, tags, 1.5);
        let (_, mut client) = live(&node, name);
        client.follow_media(8, secs(20));
        pusher.wait().expect("all was taken");
        for followed in client.renditions.values() {
            assert!(seams(followed).is_empty(), "{name}: {:?}", seams(followed));
        }
        let source = client.renditions["source"].media().take(7).map(|s| (s.times, s.frames, s.bytes));
        shapes.lock().unwrap().push(source.collect::<Vec<_>>());
    });
    let shapes = shapes.into_inner().unwrap();
    assert_eq!(shapes.len(), 5);
    assert!(shapes.iter().all(|shape| *shape == shapes[0]), "the same film makes the same chunks: {shapes:?}");
}

#[test]
fn a_jump_of_the_clock_is_a_seam() {
    let node = Node::start(&[CHUNK, LADDER]);
    let film = rtmp::film("240x136", 30, 11, GOP, "-b:a 64k");
    // Both tracks jump at 4 s, on a keyframe and in the middle of a GOP.
    let jumps = [("forward", 10_000, 4000), ("back", -3000, 4000), ("amid", 10_000, 4500)];
    let jump = |by: i64, from: i64| rtmp::stamped(&film, |tag| if tag.ms < from { tag.ms } else { tag.ms + by });
    each(jumps, |(name, by, from)| {
        let _pusher = Pusher::start(&node, name, jump(by, from), 1.0);
        let (before, mut client) = live(&node, name);
        let seam = follow_over_a_seam(&mut client, 3);
        assert_eq!(seam, if name == "amid" { 5 } else { 4 }, "{name}");
        let after = node.wait_live(name);
        assert_eq!(before["broadcast"], after["broadcast"]);
        assert_eq!(after["epoch"].as_u64(), before["epoch"].as_u64().map(|e| e + 1), "{name}");
        let codes: Vec<_> = after["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect();
        assert!(codes.contains(&"time_jump"), "{name}: {codes:?}");
    });
}

#[test]
fn keyframes_that_stay_away_change_the_mode_and_nothing_else() {
    let node = Node::start(&[CHUNK, LADDER]);
    let good = rtmp::film("240x136", 30, 5, &format!("{GOP} -bf 2 -b_strategy 0"), "-b:a 64k");
    let long = rtmp::film("240x136", 30, 9, "-g 300 -sc_threshold 0 -bf 2 -b_strategy 0 -b:v 200k", "-b:a 64k");
    let _pusher = Pusher::start(&node, "alice", rtmp::joined(&good, &long, 5), 1.0);
    let (before, mut client) = live(&node, "alice");
    assert_eq!((before["mode"].as_str(), client.names().len()), (Some("follow"), 3));
    let after = node.wait_stream("alice", "encoded", |s| s["mode"] == "reencode");
    assert_eq!(before["broadcast"], after["broadcast"]);
    assert_eq!(after["warnings"][0]["code"], "keyframe_late");
    let behind = |f: &Followed| seams(f).first().map_or(0, |seam| f.media().filter(|s| s.listed.k >= *seam).count());
    client.follow("encoded chunks behind the change", secs(20), |c| {
        ["90p", "audio"].iter().all(|name| behind(&c.renditions[*name]) >= 3)
    });
    client.check_alignment();
    assert!(["90p", "audio"].iter().all(|name| gaps(&client.renditions[*name]) == 0));
    let (_, mut again) = live(&node, "alice");
    assert_eq!(again.names(), ["136p", "90p", "audio"]);
    again.poll();
    assert!(again.renditions["136p"].media().count() >= 3);
}

#[test]
fn reordered_frames_and_scene_cuts_are_followed() {
    let node = Node::start(&[LADDER]);
    let reordered = rtmp::film("320x180", 30, 14, "-g 60 -bf 3 -b_strategy 0 -b:v 300k", "-b:a 64k");
    // x264 counts its 2 s anew from each of these.
    let cuts = "3.1,3.9,5.6,7.3,7.7,9.4,12.1,13.2";
    let cuts = rtmp::film("320x180", 30, 14, &format!("-g 60 -force_key_frames {cuts} -b:v 300k"), "-b:a 64k");
    each([("bframes", reordered), ("cuts", cuts)], |(name, film)| {
        let _pusher = Pusher::start(&node, name, film, 1.5);
        let (state, mut client) = live(&node, name);
        assert_eq!(state["mode"], "follow", "{name}");
        // The client refuses every EXTINF above the target and every chunk whose first frame is no IDR.
        client.follow_media(5, secs(20));
        client.check_alignment();
        for (rendition, followed) in &client.renditions {
            assert!(seams(followed).is_empty() && gaps(followed) == 0, "{name} {rendition}: {:?}", followed.last);
            assert_eq!(followed.last.target, 2);
        }
    });
}

#[test]
fn pictures_and_sounds_of_all_shapes() {
    let node = Node::start(&[CHUNK, "ladder=[{height=90,bitrate_kbps=100,fps_max=30}]"]);
    let shapes = [
        ("upright", 30, "-ar 44100 -ac 1", ("180x320", "30.000"), ("90x160", "30.000"), "1"),
        ("odd", 25, "-ac 6", ("322x182", "25.000"), ("160x90", "25.000"), "6"),
        ("smooth", 60, "-ar 22050", ("320x180", "60.000"), ("160x90", "30.000"), "1"),
    ];
    each(shapes, |(name, fps, audio, source, rung, channels)| {
        let film = rtmp::film(source.0, fps, 11, &format!("-g {fps} -sc_threshold 0 -b:v 200k"), audio);
        let _pusher = Pusher::start(&node, name, film, 1.0);
        let (_, mut client) = live(&node, name);
        client.follow_media(4, secs(20));
        client.check_alignment();
        assert!(client.renditions.values().all(|f| gaps(f) == 0 && seams(f).is_empty()), "{name}");
        let (variants, audio) = hls::multivariant(&node.url(&format!("/hls/{name}/index.m3u8"))).unwrap();
        let mut seen: Vec<_> =
            variants.iter().map(|v| (&*v.attributes["RESOLUTION"], &*v.attributes["FRAME-RATE"])).collect();
        seen.sort_by_key(|(size, _)| size.split_once('x').and_then(|(w, _)| w.parse::<u32>().ok()));
        assert_eq!(seen, [rung, source], "{name}");
        assert_eq!(audio[0].attributes["CHANNELS"], channels, "{name}");
    });
}

#[test]
fn one_picture_a_second_is_enough() {
    let node = Node::start(&[LADDER]);
    each([("followed", 2, vec!["90p", "audio", "source"]), ("encoded", 20, vec!["136p", "90p", "audio"])], |case| {
        let (name, gop, renditions) = case;
        let film = rtmp::film("240x136", 1, 60, &format!("-g {gop} -sc_threshold 0 -b:v 50k"), "-b:a 64k");
        let _pusher = Pusher::start(&node, name, film, 4.0);
        node.wait_stream(name, "complete", |s| s["renditions"].as_array().is_some_and(|r| r.len() == 3));
        let (_, mut client) = live(&node, name);
        assert_eq!(client.names(), renditions);
        client.follow_media(4, secs(20));
        client.check_alignment();
        assert!(client.renditions.values().all(|f| gaps(f) == 0 && seams(f).is_empty()), "{name}");
    });
}

#[test]
fn other_codecs_are_refused_with_words() {
    let node = Node::start(&[SOURCE_ONLY]);
    for (key, codecs, words) in [
        ("mp3", "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a libmp3lame", "please send AAC"),
        ("flv1", "-c:v flv -c:a aac", "please send H.264"),
    ] {
        let url = node.publish_url(key);
        let mut args = vec!["-re", "-f", "lavfi", "-i", "testsrc2=s=160x90:r=30", "-f", "lavfi", "-i", "sine=r=44100"];
        args.extend(["-t", "30"].iter().chain(&codecs.split_whitespace().collect::<Vec<_>>()).copied());
        args.extend(["-f", "flv", &url]);
        let mut publisher = Publisher::ffmpeg(&node, &args);
        assert!(!publisher.wait(secs(10)).success());
        assert!(publisher.log().contains(words), "ffmpeg heard: {}", publisher.log());
        assert_eq!(get(&node.url(&format!("/hls/{key}/index.m3u8"))).status, 404);
    }
}

#[test]
fn a_track_that_comes_late_joins() {
    let node = Node::start(&[CHUNK, SOURCE_ONLY]);
    let film = rtmp::film("160x90", 30, 10, GOP, "-b:a 64k");
    let without = |late: fn(&Tag) -> bool, config: bool| -> Vec<Tag> {
        let first = film.iter().filter(|t| t.config()).map(|t| Tag { at: 3000, ms: 3000, ..t.clone() });
        let rest = film.iter().filter(|t| !late(t) || t.at >= 3000 || (t.config() && config)).cloned();
        let mut tags: Vec<_> = rest.chain(first.filter(|t| !config && late(t))).collect();
        tags.sort_by_key(|tag| (tag.at, !tag.config()));
        tags
    };
    let late = [
        ("sound", without(Tag::audio, true)),
        ("soundtrack", without(Tag::audio, false)),
        ("picture", without(Tag::video, true)),
        ("picturetrack", without(Tag::video, false)),
    ];
    each(late, |(name, tags)| {
        let _pusher = Pusher::start(&node, name, tags, 1.0);
        node.wait_live(name);
        let both = node.wait_stream(name, "complete", |s| s["renditions"].as_array().is_some_and(|r| r.len() == 2));
        let (_, mut client) = live(&node, name);
        client.follow("media on both", secs(20), |c| c.renditions.values().all(|f| f.media().count() >= 3));
        // The first chunk of sound begins where the sound does.
        let first = *client.renditions["audio"].media().next().map(|s| &s.listed.k).unwrap();
        client.renditions.get_mut("audio").unwrap().chunks.remove(&first);
        client.check_alignment();
        let last = |name: &str| client.renditions[name].last.segments.last().unwrap().k;
        assert!(last("source").abs_diff(last("audio")) <= 1, "{name}: {both}");
    });
}

#[test]
fn a_picture_that_stops_for_good_ends_the_session_with_words() {
    let node = Node::start(&[CHUNK, SOURCE_ONLY]);
    let film = rtmp::film("160x90", 30, 30, GOP, "-b:a 64k");
    let tags = film.into_iter().filter(|tag| !tag.video() || tag.at < 4000).collect();
    let pusher = Pusher::start(&node, "alice", tags, 3.0);
    node.wait_live("alice");
    assert!(pusher.wait().is_err(), "the connection is closed before all is sent");
    node.wait_stream("alice", "away", |s| s["state"] == "away");
    let words = "no video for 10 s while audio went on";
    assert!(node.log().lines().any(|line| line.contains("stream=alice") && line.contains(words)), "{}", node.log());
}

#[test]
fn who_sends_no_media_is_closed_and_disturbs_nobody() {
    let node = Node::start(&[CHUNK, SOURCE_ONLY, "rtmp.first_media_timeout=2s", "rtmp.idle_timeout=2s"]);
    let film = rtmp::film("160x90", 30, 9, GOP, "-b:a 64k");
    let good = Pusher::start(&node, "good", film.clone(), 1.0);
    let metadata: Vec<_> = film.iter().filter(|t| t.metadata()).collect();
    let configs: Vec<_> = film.iter().filter(|t| t.config()).collect();
    let silent = [("nothing", vec![]), ("metadata", metadata), ("config", configs)];
    let silent = silent.map(|(name, tags)| {
        let mut connection = Connection::open(&node, name).expect("it may publish");
        tags.into_iter().for_each(|tag| connection.send(tag).expect("the connection is open"));
        (name, connection)
    });
    for (name, mut connection) in silent {
        connection.read_to_close();
        let state = node.wait_stream(name, "offline", |s| s["state"] == "offline");
        assert_eq!(state["broadcast"], serde_json::Value::Null, "{name} was never live");
        assert_eq!(get(&node.url(&format!("/hls/{name}/index.m3u8"))).status, 404);
    }
    let (_, mut client) = live(&node, "good");
    client.follow_media(8, secs(20));
    good.wait().expect("nobody disturbed it");
}

#[test]
fn a_network_that_stalls_for_a_moment_leaves_no_trace() {
    let node = Node::start(&[CHUNK, LADDER, "rtmp.idle_timeout=4s"]);
    let mut film = rtmp::film("240x136", 30, 10, GOP, "-b:a 64k");
    // All that is due in these 2.5 s comes at once behind them.
    film.iter_mut().filter(|tag| (3000..5500).contains(&tag.at)).for_each(|tag| tag.at = 5500);
    let _pusher = Pusher::start(&node, "carol", film, 1.0);
    let (_, mut client) = live(&node, "carol");
    client.follow_media(8, secs(20));
    client.check_alignment();
    assert!(client.renditions.values().all(|f| gaps(f) == 0 && seams(f).is_empty()));
}

#[test]
fn an_encoder_that_hangs_is_let_go_and_continues_when_it_returns() {
    let node = Node::start(&[CHUNK, LADDER, "rtmp.idle_timeout=2s"]);
    let mut hung = Publisher::test_picture(&node, "bob", "240x136", 30, GOP, "-b:a 64k", 60);
    let (before, mut client) = live(&node, "bob");
    client.follow_media(3, secs(15));
    signal(hung.pid(), "STOP");
    node.wait_stream("bob", "away", |s| s["state"] == "away");
    signal(hung.pid(), "CONT");
    hung.wait(secs(10));
    let _again = Publisher::test_picture(&node, "bob", "240x136", 30, GOP, "-b:a 64k", 60);
    client.follow("chunks of the returned encoder", secs(20), |c| {
        c.renditions
            .values()
            .all(|f| seams(f).first().is_some_and(|k| f.media().filter(|s| s.listed.k >= *k).count() >= 2))
    });
    client.check_alignment();
    assert_eq!(before["broadcast"], node.wait_live("bob")["broadcast"]);
}
