//! Two nodes on one database and one bucket.

mod support;

use serde_json::Value;
use support::{Node, Publisher, get, hls, secs, servers, wait};
use weir::time::now;

const SETTINGS: &[&str] = &["ladder=[]", "live.chunk=1s", "live.window=6", "live.reconnect_window=1s"];

#[test]
fn any_node_shows_what_another_makes_as_it_does_and_what_it_made_when_it_is_gone() {
    let stores = servers::node_settings();
    let stores: Vec<_> = stores.iter().map(String::as_str).collect();
    let mut first = Node::start_local(&[&stores[..], SETTINGS, &["node.id=one"]].concat());
    let mut second = Node::start_local(&[&stores[..], SETTINGS, &["node.id=two"]].concat());
    let mut publisher = Publisher::test_picture(&first, "ida", "320x180", 30, "-g 30 -b:v 300k", "-b:a 64k", 12);
    let live = second.wait_stream("ida", "some chunks on", |state| state["k"].as_u64() >= Some(3));
    let path = format!("/hls/ida/{}/source/index.m3u8", live["broadcast"].as_str().unwrap());

    // Low latency from both, though the second could read what is stored.
    let text = get(&second.url(&path)).text();
    assert!(text.contains("#EXT-X-PART:") && text.contains("CAN-BLOCK-RELOAD=YES"), "{text}");
    let next = hls::playlist(&second.url(&path)).unwrap().segments.last().unwrap().k + 2;
    let asked = now();
    let blocked = get(&second.url(&format!("{path}?_HLS_msn={next}")));
    assert!(blocked.text().contains(&format!("\n{next}.1.m4s\n")), "{}", blocked.text());
    assert!(now() - asked > std::time::Duration::from_millis(300), "it was answered before it was there");

    // A node that starts meanwhile leaves the other's broadcast alone.
    assert!(second.terminate().1.success());
    second.start_again();
    second.wait_stream("ida", "live", |state| state["state"] == "live");
    assert_eq!(first.wait_live("ida")["broadcast"], live["broadcast"]);

    assert!(publisher.wait(secs(30)).success());
    let recording = wait("the recording", secs(20), || hls::playlist(&first.url(&path)).filter(|list| list.vod));
    let chunks: Vec<_> = recording.segments.iter().map(|segment| get(&segment.uri).body).collect();
    first.crash();
    let replay = wait("the replay", secs(20), || hls::playlist(&second.url(&path)).filter(|list| list.vod));
    assert_eq!(replay.segments.len(), recording.segments.len());
    for (segment, bytes) in replay.segments.iter().zip(chunks) {
        assert!(get(&segment.uri).body == bytes, "{}", segment.uri);
    }
    let told: Value = serde_json::from_slice(&get(&second.url("/api/v1/streams/ida/broadcasts")).body).unwrap();
    assert_eq!(told["broadcasts"].as_array().unwrap().len(), 1, "{told}");
}
