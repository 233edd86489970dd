//! Edges: nodes that answer viewers with what other nodes have.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Node, Publisher, get, hls, request, secs, signal,
    upstream::{self, Upstream, crowd},
    wait,
};
use weir::time::now;

const SOURCE_ONLY: &str = "ladder=[]";
const EDGE: &str = "node.roles=[\"edge\"]";

fn upstreams(nodes: &[&Node]) -> String {
    let urls: Vec<_> = nodes.iter().map(|node| format!("\"http://127.0.0.1:{}\"", node.internal)).collect();
    format!("edge.upstream=[{}]", urls.join(","))
}

fn edge(of: &[&Node], more: &[&str]) -> Node {
    let upstreams = upstreams(of);
    Node::start(&[&[EDGE, upstreams.as_str()], more].concat())
}

fn publish(node: &Node, stream: &str) -> Publisher {
    Publisher::test_picture(node, stream, "320x180", 30, "-g 60 -b:v 300k", "-b:a 64k", 120)
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = get(&node.url("/metrics")).text();
    let sum = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    sum.map(|value| value.parse::<f64>().unwrap()).sum()
}

/// The URL on another node.
fn on(node: &Node, url: &str) -> String {
    let path = url.splitn(4, '/').nth(3).unwrap();
    node.url(&format!("/{path}"))
}

/// The next part that a playlist does not list.
fn next(text: &str) -> (u64, u64) {
    let hint = text.lines().find_map(|line| line.strip_prefix("#EXT-X-PRELOAD-HINT:")).expect("a hint");
    let name = hls::attributes(hint)["URI"].clone();
    let mut numbers = name.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.nth(1).unwrap())
}

#[test]
fn an_edge_shows_what_its_upstream_has() {
    let origin = Node::start(&[SOURCE_ONLY]);
    let edge = edge(&[&origin], &[]);
    let _publisher = publish(&origin, "alice");
    origin.wait_live("alice");
    assert_eq!(edge.wait_live("alice")["renditions"], origin.wait_live("alice")["renditions"]);
    let listed: Value = serde_json::from_slice(&get(&edge.url("/api/v1/streams?live=1")).body).unwrap();
    assert_eq!(listed["streams"][0]["id"], "alice");

    // Players play, from the stable address on.
    let mut client = hls::Client::open(&edge.url("/hls/alice/index.m3u8"));
    client.follow_media(3, secs(20));
    let source = client.uri("source").to_owned();
    let last = client.renditions["source"].last.segments.last().unwrap().clone();
    let init = last.map.clone().unwrap();
    for url in [&last.uri, &init] {
        let (here, there) = (get(url), get(&on(&origin, url)));
        assert!(here.status == 200 && here.body == there.body, "{url}");
        for header in
            ["content-type", "cache-control", "content-length", "accept-ranges", "access-control-allow-origin"]
        {
            assert_eq!(here.header(header), there.header(header), "{header} of {url}");
        }
    }
    // Blocking reloads are held, and the same for all.
    let (k, part) = next(&get(&source).text());
    let reload = format!("{source}?_HLS_msn={k}&_HLS_part={part}");
    let (here, there) = (get(&reload), get(&on(&origin, &reload)));
    assert_eq!(
        (here.text(), here.header("etag"), here.header("cache-control")),
        (there.text(), there.header("etag"), there.header("cache-control"))
    );
    assert!(here.header("cache-control").starts_with("public, max-age="));
    let gzip = request("GET", &reload, &[("accept-encoding", "gzip"), ("if-none-match", here.header("etag"))], None);
    assert!(gzip.header("vary").contains("accept-encoding"));
    let same = request("GET", &reload, &[("if-none-match", here.header("etag"))], None);
    assert_eq!(same.status, 304);
    // So is the part that the playlist hints at.
    let hint = here
        .text()
        .lines()
        .find_map(|line| Some(hls::attributes(line.strip_prefix("#EXT-X-PRELOAD-HINT:")?)["URI"].clone()));
    let part = get(&hls::join(&source, &hint.unwrap()));
    assert!(part.status == 200 && part.body.windows(4).any(|four| four == b"moof"));

    // Ranges and HEAD, also of what is here for the first time.
    let older = client.renditions["source"].last.segments[0].uri.clone();
    let whole = get(&on(&origin, &older)).body;
    let head = request("HEAD", &older, &[], None);
    assert_eq!((head.status, head.header("content-length")), (200, whole.len().to_string().as_str()));
    let range = request("GET", &older, &[("range", "bytes=100-199")], None);
    assert_eq!((range.status, &range.body[..]), (206, &whole[100..200]));
    assert_eq!(range.header("content-range"), format!("bytes 100-199/{}", whole.len()));
    assert_eq!(request("GET", &older, &[("range", "bytes=99999999-")], None).status, 416);

    // What makes no difference to the answer makes none to the cache.
    let asked = metric(&edge, "weir_upstream_requests_total");
    for query in ["?x=1", "?x=2&y", "?_HLS_msn=3"] {
        assert_eq!(get(&format!("{older}{query}")).body, whole);
    }
    assert_eq!(metric(&edge, "weir_upstream_requests_total"), asked);

    // What nobody has is not there, and what cannot be is refused, in the origin's words.
    let gone = get(&edge.url("/hls/nobody/index.m3u8"));
    assert_eq!((gone.status, gone.header("cache-control")), (404, "no-store"));
    let far = format!("{source}?_HLS_msn=99999");
    assert_eq!((get(&far).status, get(&far).text()), (400, get(&on(&origin, &far)).text()));
    assert_eq!(get(&edge.url("/hls/alice/../x")).status, 404);
    for name in ["hits", "waits", "fills", "bytes", "objects"] {
        assert!(metric(&edge, &format!("weir_cache_{name}")) >= 0.0);
    }
    assert!(metric(&edge, "weir_cache_hits_total") > 5.0 && metric(&edge, "weir_upstream_seconds_count") > 5.0);
    assert!(metric(&edge, "weir_cache_edge_delay_seconds_count") >= 1.0);
}

#[test]
fn a_crowd_costs_the_origin_one_request_per_object() {
    let origin = Node::start(&[SOURCE_ONLY]);
    let edge = edge(&[&origin], &[]);
    let _publisher = publish(&origin, "alice");
    edge.wait_live("alice");
    let source = hls::Client::open(&edge.url("/hls/alice/index.m3u8")).uri("source").to_owned();
    let before = metric(&edge, "weir_upstream_requests_total");
    // Each follows part by part for some chunks, all of them asking for the same at the same time.
    let objects: usize = std::thread::scope(|scope| {
        let players: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let mut asked = std::collections::BTreeSet::new();
                    let (mut k, mut part) = next(&get(&source).text());
                    for _ in 0..12 {
                        let reload = format!("{source}?_HLS_msn={k}&_HLS_part={part}");
                        let answer = get(&reload);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        let last = answer
                            .text()
                            .lines()
                            .filter_map(|line| line.strip_prefix("#EXT-X-PART:"))
                            .next_back()
                            .map(hls::attributes);
                        let uri = hls::join(&source, &last.expect("a part")["URI"]);
                        assert_eq!(get(&uri).status, 200);
                        asked.extend([reload, uri]);
                        (k, part) = next(&answer.text());
                    }
                    asked
                })
            })
            .collect();
        let all = players.into_iter().flat_map(|player| player.join().expect("a player"));
        all.collect::<std::collections::BTreeSet<_>>().len()
    });
    let requests = metric(&edge, "weir_upstream_requests_total") - before;
    // The plain playlists at the beginning go stale in a second.
    assert!(objects >= 24 && requests <= objects as f64 + 3.0, "{requests} requests for {objects} objects");
}

#[test]
fn tickets_are_checked_at_the_edge() {
    let origin = Node::start(&[SOURCE_ONLY, "auth.playback=ticket", "internal.secret=one-for-all-nodes-here"]);
    // The edge's own setting does not loosen the origin's.
    let edge = edge(&[&origin], &["internal.secret=one-for-all-nodes-here", "auth.playback=public"]);
    let _publisher = publish(&origin, "alice");
    assert_eq!(edge.wait_live("alice")["playback"], "ticket");
    let ticket = origin.ticket("alice");
    let stable = edge.url(&format!("/t/{ticket}/hls/alice/index.m3u8"));
    // The first ticket of all made a key, of which the edge hears at once.
    wait("the key at the edge", secs(2), || (get(&stable).status == 200).then_some(()));
    let mut client = hls::Client::open(&stable);
    client.follow_media(2, secs(15));
    let (source, chunk) = (client.uri("source").to_owned(), client.renditions["source"].last.segments[0].uri.clone());
    // Also of what the edge has in memory.
    for url in [&stable, &source, &chunk] {
        assert_eq!(get(url).status, 200);
        assert_eq!(get(&url.replace(&format!("/t/{ticket}"), "")).status, 401);
        assert_eq!(get(&url.replace(&ticket, "x.y.z")).status, 401);
    }
    // Revoked at the origin, refused at the edge.
    let revoked = now();
    assert_eq!(origin.admin("DELETE", "/api/v1/streams/alice/tickets", None).status, 204);
    wait("the revocation at the edge", secs(2), || (get(&source).status == 403).then_some(()));
    assert!(now() - revoked < secs(2));

    // Nobody gets around the tickets by the internal port, or without the secret anything at all.
    let inside = format!("http://127.0.0.1:{}/hls/alice/index.m3u8", origin.internal);
    assert_eq!(get(&inside).status, 401);
    let with = |secret: &str| request("GET", &inside, &[("authorization", &format!("Bearer {secret}"))], None).status;
    assert_eq!((with("one-for-all-nodes-here"), with("another-for-all-nodes")), (200, 401));
    assert_eq!(get(&format!("http://127.0.0.1:{}/healthz", origin.internal)).status, 200);
    assert_eq!(get(&format!("http://127.0.0.1:{}/api/v1/status", origin.internal)).status, 401);
}

#[test]
fn an_edge_that_reaches_nobody_says_so_and_comes_back_by_itself() {
    let mut origin = Node::start(&[SOURCE_ONLY]);
    let edge = edge(&[&origin], &[]);
    origin.crash();
    wait("the edge is not ready", secs(5), || (get(&edge.url("/readyz")).status == 503).then_some(()));
    let lost = get(&edge.url("/hls/alice/index.m3u8"));
    assert_eq!((lost.status, lost.header("retry-after")), (502, "1"), "{}", lost.text());
    assert!(edge.log().contains("the link to an upstream ended"), "{}", edge.log());
    origin.start_again();
    wait("the edge is ready", secs(5), || (get(&edge.url("/readyz")).status == 200).then_some(()));
    let _publisher = publish(&origin, "alice");
    edge.wait_live("alice");
    assert_eq!(get(&edge.url("/hls/alice/index.m3u8")).status, 200);
}

/// Follows a rendition by blocking reloads until `until` says so; gives the longest time without something new.
fn longest_wait(source: &str, mut until: impl FnMut(u32) -> bool) -> Duration {
    let (mut at, mut longest) = (next(&get(source).text()), Duration::ZERO);
    let mut heard = now();
    for round in 0.. {
        let answer = get(&format!("{source}?_HLS_msn={}&_HLS_part={}", at.0, at.1));
        if answer.status == 200 {
            let text = answer.text();
            at = next(&text);
            longest = longest.max(now() - heard);
            heard = now();
            let last = text.lines().filter_map(|line| line.strip_prefix("#EXT-X-PART:")).next_back();
            assert_eq!(get(&hls::join(source, &hls::attributes(last.unwrap())["URI"])).status, 200);
        }
        if until(round) {
            break;
        }
    }
    longest
}

#[test]
fn of_two_upstreams_one_may_die_or_freeze_and_nothing_is_late_by_a_chunk() {
    let origin = Node::start(&[SOURCE_ONLY]);
    let mut middle = [edge(&[&origin], &[]), edge(&[&origin], &[])];
    let edge = edge(&[&middle[0], &middle[1]], &[]);
    let _publisher = publish(&origin, "alice");
    edge.wait_live("alice");
    let source = hls::Client::open(&edge.url("/hls/alice/index.m3u8")).uri("source").to_owned();
    // The one that was asked first, and what it takes to make it silent.
    for (first, blow) in [(0, "KILL"), (1, "STOP")] {
        let pid = middle[first].pid();
        let longest = longest_wait(&source, |round| {
            if round == 6 {
                signal(pid, blow);
            }
            round == 16
        });
        assert!(longest < secs(2), "{blow}: {longest:?}");
        match blow {
            "KILL" => {
                middle[first].crash();
                middle[first].start_again();
                wait("the edge hears it again", secs(5), || edge.log().contains("upstream is there").then_some(()));
            }
            _ => signal(pid, "CONT"),
        }
    }
}

#[test]
fn nodes_that_have_each_other_as_upstream_share_their_streams() {
    let ports = [support::free_port(), support::free_port()];
    let both = [0, 1].map(|i| {
        let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", ports[1 - i]);
        let listen = format!("internal.listen=127.0.0.1:{}", ports[i]);
        Node::start(&[SOURCE_ONLY, &upstream, &listen])
    });
    let _publishers = [publish(&both[0], "alice"), publish(&both[1], "bob")];
    for node in &both {
        for stream in ["alice", "bob"] {
            node.wait_live(stream);
            let mut client = hls::Client::open(&node.url(&format!("/hls/{stream}/index.m3u8")));
            client.follow_media(2, secs(15));
        }
        let begun = now();
        assert_eq!(get(&node.url("/hls/nobody/index.m3u8")).status, 404);
        assert!(now() - begun < secs(1), "neither waits for the other");
    }
}

#[test]
fn what_one_of_two_such_nodes_takes_back_the_other_does_not_remember() {
    let ports = [support::free_port(), support::free_port()];
    let both = [0, 1].map(|i| {
        let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", ports[1 - i]);
        let listen = format!("internal.listen=127.0.0.1:{}", ports[i]);
        Node::start(&[SOURCE_ONLY, "auth.playback=ticket", &upstream, &listen])
    });
    let _publisher = publish(&both[0], "alice");
    both[1].wait_live("alice");
    let key = json!({"kid": "shop", "algorithm": "HS256", "key": "a secret that has thirty-two letters"}).to_string();
    assert_eq!(both[0].admin("POST", "/api/v1/ticket-keys", Some(&key)).status, 201);
    let claims = json!({"stream": "alice", "exp": 4_000_000_000_u64}).to_string();
    let ticket = weir::auth::tickets::sign(
        &serde_json::from_str::<weir::auth::tickets::Claims>(&claims).unwrap(),
        "shop",
        &weir::auth::Secret::new("a secret that has thirty-two letters"),
    );
    let there = both[1].url(&format!("/t/{ticket}/hls/alice/index.m3u8"));
    wait("the key at the other node", secs(3), || (get(&there).status == 200).then_some(()));
    assert_eq!(both[0].admin("DELETE", "/api/v1/ticket-keys/shop", None).status, 204);
    wait("the key is gone there too", secs(3), || (get(&there).status == 401).then_some(()));
}

#[test]
fn edges_in_a_ring_are_told_and_work_all_the_same() {
    let origin = Node::start(&[SOURCE_ONLY]);
    let ports = [support::free_port(), support::free_port()];
    let ring = [0, 1].map(|i| {
        let upstream =
            format!("edge.upstream=[\"http://127.0.0.1:{}\",\"http://127.0.0.1:{}\"]", ports[1 - i], origin.internal);
        Node::start(&[EDGE, &upstream, &format!("internal.listen=127.0.0.1:{}", ports[i])])
    });
    let _publisher = publish(&origin, "alice");
    for edge in &ring {
        edge.wait_live("alice");
        let mut client = hls::Client::open(&edge.url("/hls/alice/index.m3u8"));
        client.follow_media(2, secs(15));
    }
    wait("words about it", secs(5), || {
        ring.iter().any(|edge| edge.log().contains("edges cannot stand in a ring")).then_some(())
    });
}

#[test]
fn what_is_pushed_is_there_before_anyone_asks() {
    let origin = Node::start(&[SOURCE_ONLY]);
    let (created, pushed) =
        (origin.weir(&["stream", "create", "alice"]), origin.weir(&["stream", "push", "alice", "on"]));
    assert!(created.status.success() && pushed.status.success(), "{created:?} {pushed:?}");
    let edge = edge(&[&origin], &[]);
    let _publisher = publish(&origin, "alice");
    origin.wait_live("alice");
    let source = hls::Client::open(&origin.url("/hls/alice/index.m3u8")).uri("source").to_owned();
    let chunk = wait("a chunk that was pushed", secs(15), || {
        let listed = hls::playlist(&source)?.segments;
        // The newest one may be on its way still.
        (listed.len() >= 4).then(|| listed[listed.len() - 2].clone())
    });
    wait("it is at the edge", secs(2), || (metric(&edge, "weir_cache_objects") >= 3.0).then_some(()));
    let asked = || metric(&edge, "weir_upstream_requests_total");
    let before = asked();
    for url in [&chunk.uri, &chunk.map.clone().unwrap()] {
        assert_eq!(get(&on(&edge, url)).body, get(url).body);
    }
    assert!(asked() - before <= 2.0, "only what was pushed meanwhile");
    assert_eq!(metric(&edge, "weir_cache_hits_total"), 2.0);
}

#[test]
fn two_thousand_sockets_wait_for_one_request() {
    const LEN: usize = 20_000;
    weir::rtmp::server::raise_fd_limit().expect("room for sockets");
    let slow = Upstream::start(Duration::from_millis(300), LEN);
    let edge = Node::start(&[EDGE, &format!("edge.upstream=[\"http://127.0.0.1:{}\"]", slow.port)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = ([127, 0, 0, 1], edge.http).into();
    let all = runtime.block_on(crowd(address, "/hls/alice/01b/source/1.1.m4s", 2000));
    let body = upstream::body(LEN);
    for got in &all {
        assert!(got.answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&got.answer[..80]));
        assert!(got.answer.ends_with(&body));
    }
    assert_eq!((all.len(), slow.asked()), (2000, 1));
}

#[test]
fn who_finds_no_room_to_wait_is_told_to_come_again() {
    let slow = Upstream::start(Duration::from_millis(500), 1000);
    let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", slow.port);
    let edge = Node::start(&[EDGE, &upstream, "edge.waiters_max=10"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = ([127, 0, 0, 1], edge.http).into();
    let all = runtime.block_on(crowd(address, "/hls/alice/01b/source/1.1.m4s", 30));
    let with = |status: &str| all.iter().filter(|got| got.answer.starts_with(status.as_bytes())).count();
    assert_eq!((with("HTTP/1.1 200"), with("HTTP/1.1 503")), (10, 20));
    let refused = all.iter().find(|got| got.answer.starts_with(b"HTTP/1.1 503")).unwrap();
    assert!(String::from_utf8_lossy(&refused.answer).contains("retry-after: 1"));
    assert_eq!(slow.asked(), 1);
}

#[test]
fn a_recording_is_played_through_an_edge() {
    let origin = Node::start(&[SOURCE_ONLY, "live.reconnect_window=0s", "live.chunk=1s"]);
    let edge = edge(&[&origin], &[]);
    let mut publisher = Publisher::test_picture(&origin, "alice", "320x180", 30, "-g 30 -b:v 200k", "-b:a 64k", 6);
    let live = edge.wait_live("alice");
    let broadcast = live["broadcast"].as_str().unwrap().to_owned();
    publisher.wait(secs(15));
    let playlist = edge.url(&format!("/hls/alice/{broadcast}/source/index.m3u8"));
    let ended = wait("the recording", secs(30), || {
        let text = get(&playlist).text();
        text.contains("#EXT-X-PLAYLIST-TYPE:VOD").then_some(text)
    });
    let uris: Vec<_> =
        ended.lines().filter(|line| line.ends_with(".m4s")).map(|uri| hls::join(&playlist, uri)).collect();
    assert!(uris.len() >= 5, "{ended}");
    for uri in &uris {
        assert_eq!(get(uri).body, get(&on(&origin, uri)).body);
    }
}
