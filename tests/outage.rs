//! Stores that are away, slow or hanging while nodes are live: viewers notice nothing, and recordings are whole in the end.

mod support;

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use support::{
    Node, Publisher, get, given, hls,
    proxy::{Mode, Proxy},
    secs, servers, signal, wait,
};
use weir::time::now;

const SETTINGS: &[&str] = &["ladder=[]", "live.chunk=1s", "live.window=6", "live.reconnect_window=1s"];

/// How long a store stays away: longer by hand, `TESTS_OUTAGE_S=600`.
fn outage() -> Duration {
    secs(given("TESTS_OUTAGE_S").unwrap_or(8))
}

/// A node whose database and object store are reached through proxies.
fn start(more: &[&str]) -> (Node, Proxy, Proxy) {
    let cql = Proxy::start(&servers::told("TESTS_CQL"));
    let s3 = Proxy::start(servers::told("TESTS_S3").trim_start_matches("http://"));
    let remote = servers::node_settings();
    let remote = remote
        .iter()
        .map(String::as_str)
        .filter(|setting| !setting.starts_with("store.nodes=") && !setting.starts_with("blobs.endpoint="));
    let proxied = [format!("store.nodes=[\"{}\"]", cql.address), format!("blobs.endpoint=http://{}", s3.address)];
    let settings: Vec<&str> = remote
        .chain(proxied.iter().map(String::as_str))
        .chain(SETTINGS.iter().copied())
        .chain(more.iter().copied())
        .collect();
    (Node::start_local(&settings), cql, s3)
}

fn publish(node: &Node, stream: &str) -> Publisher {
    Publisher::test_picture(node, stream, "320x180", 30, "-g 30 -b:v 300k", "-b:a 64k", 600)
}

fn newest(node: &Node, stream: &str) -> (String, u64) {
    let state = node.wait_stream(stream, "some chunks on", |state| state["k"].as_u64() >= Some(2));
    (state["broadcast"].as_str().unwrap().to_owned(), state["k"].as_u64().unwrap())
}

fn gauge(node: &Node, name: &str) -> f64 {
    let metrics = get(&node.url("/metrics")).text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// A viewer of the live edge: every chunk in its time, none missing, none late. Gives what was seen.
fn watch(node: &Node, stream: &str, broadcast: &str, how_long: Duration) -> BTreeMap<String, Vec<u8>> {
    let url = node.url(&format!("/hls/{stream}/{broadcast}/source/index.m3u8"));
    let (until, mut seen) = (now() + how_long, BTreeMap::new());
    let mut next = hls::playlist(&url).unwrap().segments.last().unwrap().k + 1;
    while now() < until {
        let asked = now();
        let answer = get(&format!("{url}?_HLS_msn={next}"));
        assert_eq!(answer.status, 200, "{stream} {next}: {}", answer.text());
        assert!(now() - asked < Duration::from_millis(1900), "{stream}: chunk {next} came after {:?}", now() - asked);
        let list = hls::playlist(&url).unwrap();
        let segment = list.segments.iter().find(|segment| segment.k == next).unwrap_or_else(|| panic!("{list:?}"));
        assert!(!segment.gap, "{list:?}");
        let asked = now();
        let chunk = get(&segment.uri);
        assert!(chunk.status == 200 && now() - asked < secs(1), "{}", segment.uri);
        seen.insert(segment.uri.clone(), chunk.body);
        next += 1;
    }
    seen
}

/// Stream, broadcast, and what was seen of it: bytes by URL.
type Seen = (String, String, BTreeMap<String, Vec<u8>>);

/// Waits until nothing waits in the spool, ends the broadcasts, and compares their recordings with what was seen live.
fn recorded(node: &Node, publishers: Vec<Publisher>, seen: &[Seen]) {
    wait("an empty spool", secs(60), || (gauge(node, "weir_spool_writes") == 0.0).then_some(()));
    drop(publishers);
    for (stream, broadcast, seen) in seen {
        let url = node.url(&format!("/hls/{stream}/{broadcast}/source/index.m3u8"));
        let list = wait("the recording", secs(20), || hls::playlist(&url).filter(|list| list.vod));
        assert!(list.segments.iter().all(|segment| !segment.gap), "{stream}: {list:?}");
        let ks: Vec<_> = list.segments.iter().map(|segment| segment.k).collect();
        assert!(ks[0] == 0 && ks.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ks:?}");
        for (url, bytes) in seen {
            assert!(list.segments.iter().any(|segment| segment.uri == *url), "{url} is not in the recording");
            assert!(get(url).body == *bytes, "{url} is not what it was");
        }
    }
}

#[test]
fn stores_that_go_away_hang_or_crawl_are_not_noticed_by_viewers() {
    let (node, cql, s3) = start(&[]);
    let streams = ["anna", "bert", "cleo"];
    let publishers: Vec<_> = streams.iter().map(|stream| publish(&node, stream)).collect();
    let live: Vec<_> = streams.iter().map(|stream| (*stream, newest(&node, stream).0)).collect();
    let mut seen: Vec<_> =
        live.iter().map(|(stream, broadcast)| (stream.to_string(), broadcast.clone(), BTreeMap::new())).collect();
    for (modes, name) in [
        ((Mode::Refuse, Mode::Pass), "no database"),
        ((Mode::Pass, Mode::Refuse), "no object store"),
        ((Mode::Slow, Mode::Slow), "both two seconds late"),
        ((Mode::Hang, Mode::Hang), "both hanging"),
    ] {
        cql.set(modes.0);
        s3.set(modes.1);
        let watching: Vec<_> = std::thread::scope(|scope| {
            let node = &node;
            let watches = live.iter().map(|(stream, show)| scope.spawn(move || watch(node, stream, show, outage())));
            watches.collect::<Vec<_>>().into_iter().map(|watch| watch.join().expect(name)).collect()
        });
        // Old enough to have left the window, and made when the stores were away already.
        let oldest = watching[0].iter().min_by_key(|(url, _)| (url.len(), url.to_string())).unwrap();
        let (url, bytes) = (oldest.0.clone(), oldest.1.clone());
        for (of, watched) in seen.iter_mut().zip(watching) {
            of.2.extend(watched);
        }
        // It is told, but keeps nobody away.
        let ready = get(&node.url("/readyz"));
        let told: Value = serde_json::from_slice(&ready.body).unwrap();
        assert_eq!((ready.status, told["degraded"].as_array().unwrap().len()), (200, 1), "{name}: {told}");
        assert!(told["degraded"][0].as_str().unwrap().contains("wait in the spool"), "{name}: {told}");
        assert!(gauge(&node, "weir_spool_writes") > 5.0, "{name}");
        let status = String::from_utf8(node.weir(&["status"]).stdout).unwrap();
        assert!(status.contains("degraded: "), "{status}");
        // What waits can be seen.
        let (stream, broadcast, _) = &seen[0];
        if modes.0 == Mode::Pass {
            assert!(get(&url).body == bytes, "{name}: {url}");
            let rewound = node.url(&format!("/hls/{stream}/{broadcast}/source/index.m3u8?from=start"));
            assert_eq!(hls::playlist(&rewound).unwrap().sequence, 0, "{name}");
        }
        cql.set(Mode::Pass);
        s3.set(Mode::Pass);
    }
    recorded(&node, publishers, &seen);
    let ready: Value = serde_json::from_slice(&get(&node.url("/readyz")).body).unwrap();
    assert_eq!(ready["degraded"].as_array().unwrap().len(), 0, "{ready}");
}

#[test]
fn what_waits_when_the_node_is_killed_is_written_by_the_next() {
    let (mut node, cql, s3) = start(&[]);
    let publisher = publish(&node, "dora");
    let (broadcast, _) = newest(&node, "dora");
    s3.set(Mode::Refuse);
    cql.set(Mode::Refuse);
    let seen = watch(&node, "dora", &broadcast, secs(5));
    wait("waiting writes", secs(10), || (gauge(&node, "weir_spool_writes") > 10.0).then_some(()));
    node.crash();
    drop(publisher);
    cql.set(Mode::Pass);
    s3.set(Mode::Pass);
    node.start_again();
    assert!(node.log().contains("wait in the spool"), "{}", node.log());
    // All but what had not reached the disk when it died.
    let url = node.url(&format!("/hls/dora/{broadcast}/source/index.m3u8"));
    let list = wait("the recording", secs(60), || hls::playlist(&url).filter(|list| list.vod));
    let last = list.segments.iter().filter(|segment| !segment.gap).map(|segment| segment.k).max().unwrap();
    let kept = |k: u64| list.segments.iter().any(|segment| segment.k == k && !segment.gap);
    assert!((0..=last).all(kept), "{list:?}");
    let lost = seen.keys().filter(|url| list.segments.iter().all(|segment| segment.uri != **url)).count();
    assert!(lost <= 2, "{lost} of {} chunks are lost: {list:?}", seen.len());
    for segment in list.segments.iter().filter(|segment| seen.contains_key(&segment.uri)) {
        assert!(get(&segment.uri).body == seen[&segment.uri], "{}", segment.uri);
    }
    assert_eq!(gauge(&node, "weir_spool_writes"), 0.0);
}

#[test]
fn a_full_spool_gives_up_the_oldest_and_says_so_but_never_the_show() {
    let (node, _cql, s3) = start(&["spool.disk_mb=16"]);
    let publisher = Publisher::test_picture(
        &node,
        "emil",
        "640x360",
        30,
        "-g 30 -b:v 14M -minrate 14M -nal-hrd cbr -maxrate 14M -bufsize 7M",
        "-b:a 64k",
        600,
    );
    let (broadcast, _) = newest(&node, "emil");
    s3.set(Mode::Refuse);
    let seen = watch(&node, "emil", &broadcast, secs(18));
    assert!(gauge(&node, "weir_spool_bytes") <= f64::from(16 << 20));
    assert!(gauge(&node, "weir_spool_given_up_total") > 0.0);
    assert!(node.log().contains("the spool is full"), "{}", node.log());
    s3.set(Mode::Pass);
    wait("an empty spool", secs(60), || (gauge(&node, "weir_spool_writes") == 0.0).then_some(()));
    drop(publisher);
    let url = node.url(&format!("/hls/emil/{broadcast}/source/index.m3u8"));
    let list = wait("the recording", secs(20), || hls::playlist(&url).filter(|list| list.vod));
    // What was given up is a gap, and everything that is listed is there.
    assert!(list.segments.iter().any(|segment| segment.gap), "{list:?}");
    let kept: Vec<_> = list.segments.iter().filter(|segment| !segment.gap).collect();
    assert!(kept.iter().all(|segment| get(&segment.uri).status == 200));
    assert!(kept.iter().any(|segment| seen.contains_key(&segment.uri)));
}

#[test]
fn an_encoder_that_comes_back_while_the_database_is_away_goes_on_and_is_recorded() {
    let (node, cql, _s3) = start(&["auth.publish=keys", "live.reconnect_window=20s"]);
    let made = node.admin("POST", "/api/v1/streams", Some(r#"{"id":"hana"}"#));
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    let key = made["key"].as_str().unwrap();
    let first = publish(&node, key);
    let (broadcast, _) = newest(&node, "hana");
    cql.set(Mode::Refuse);
    first.kill();
    node.wait_stream("hana", "away", |state| state["state"] == "away");
    // A wrong key is still wrong.
    let mut wrong = publish(&node, "hana?key=wrong");
    assert!(!wrong.wait(secs(20)).success());
    let second = publish(&node, key);
    let back = node.wait_stream("hana", "back", |state| state["state"] == "live" && state["epoch"] == 2);
    assert_eq!(back["broadcast"], Value::from(broadcast.as_str()));
    let k = back["k"].as_u64().unwrap();
    node.wait_stream("hana", "some chunks on", |state| state["k"].as_u64() >= Some(k + 3));
    let seen = watch(&node, "hana", &broadcast, secs(3));
    assert!(seen.keys().all(|url| url.ends_with(".2.m4s")), "{:?}", seen.keys());
    cql.set(Mode::Pass);
    wait("an empty spool", secs(60), || (gauge(&node, "weir_spool_writes") == 0.0).then_some(()));
    drop(second);
    let url = node.url(&format!("/hls/hana/{broadcast}/source/index.m3u8"));
    let list = wait("the recording", secs(40), || hls::playlist(&url).filter(|list| list.vod));
    for (url, bytes) in &seen {
        assert!(list.segments.iter().any(|segment| segment.uri == *url && !segment.gap), "{url}: {list:?}");
        assert!(get(url).body == *bytes);
    }
}

#[test]
fn a_crowd_at_a_recording_costs_the_bucket_one_read_a_chunk() {
    let (mut node, _cql, _s3) = start(&[]);
    let publisher = publish(&node, "gus");
    let (broadcast, _) = newest(&node, "gus");
    watch(&node, "gus", &broadcast, secs(2));
    drop(publisher);
    let url = node.url(&format!("/hls/gus/{broadcast}/source/index.m3u8"));
    wait("the recording", secs(20), || hls::playlist(&url).filter(|list| list.vod));
    // Nothing is in memory then.
    assert!(node.terminate().1.success());
    node.start_again();
    let list = hls::playlist(&url).unwrap();
    let before = reads(&node);
    let crowd: Vec<_> = (0..30)
        .map(|_| {
            let urls: Vec<_> = list.segments.iter().map(|segment| segment.uri.clone()).collect();
            std::thread::spawn(move || urls.iter().all(|url| get(url).status == 200))
        })
        .collect();
    assert!(crowd.into_iter().all(|viewer| viewer.join().unwrap()));
    assert_eq!(reads(&node) - before, list.segments.len() as f64);
}

/// Reads of objects so far.
fn reads(node: &Node) -> f64 {
    let metrics = get(&node.url("/metrics")).text();
    metrics.lines().find_map(|line| line.strip_prefix("weir_store_reads_total ")?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn a_stopped_database_costs_nobody_the_show() {
    // The real server, stopped as a whole: its connections stay open and say nothing.
    let server = servers::OwnCql::start();
    let setting = format!("store.nodes=[\"{}\"]", server.address);
    let node = Node::start_local(&[SETTINGS, &["store.kind=scylla", &setting]].concat());
    let publisher = publish(&node, "finn");
    let (broadcast, _) = newest(&node, "finn");
    signal(server.pid(), "STOP");
    let mut seen = watch(&node, "finn", &broadcast, secs(6));
    signal(server.pid(), "CONT");
    wait("an empty spool", secs(60), || (gauge(&node, "weir_spool_writes") == 0.0).then_some(()));
    // And killed, with its data.
    let mut server = server;
    server.kill();
    seen.extend(watch(&node, "finn", &broadcast, secs(4)));
    server.start_again();
    recorded(&node, vec![publisher], &[("finn".into(), broadcast, seen)]);
}
