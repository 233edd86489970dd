//! What streams play: set by programs and encoders, the same on every node, and read by crowds for nothing.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use support::{Answer, Node, Publisher, get, hls, request, secs, wait};
use weir::time::{UnixMs, now, unix_now};

const NOW: &str = "/api/v1/streams/alice/now";

/// A stream that exists, with the header that its key makes.
fn stream(node: &Node, id: &str) -> String {
    let made = node.admin("POST", "/api/v1/streams", Some(&json!({ "id": id }).to_string()));
    assert_eq!(made.status, 201, "{}", made.text());
    let told: Value = serde_json::from_slice(&made.body).unwrap();
    format!("Bearer {}", told["key"].as_str().unwrap())
}

fn put(node: &Node, path: &str, bearer: &str, body: &Value) -> Answer {
    request("PUT", &node.url(path), &[("authorization", bearer)], Some(&body.to_string()))
}

fn told(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|why| panic!("{why}: {}", answer.text()))
}

/// What a node says that the stream plays.
fn title(node: &Node, path: &str) -> Option<String> {
    told(&get(&node.url(path)))["title"].as_str().map(str::to_owned)
}

fn metric(node: &Node, name: &str) -> f64 {
    let text = get(&node.url("/metrics")).text();
    let sum = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    sum.map(|value| value.parse::<f64>().unwrap()).sum()
}

/// Somebody who listens to what a stream plays.
struct Listener(BufReader<TcpStream>);

impl Listener {
    fn open(node: &Node, path: &str) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", node.http)).unwrap();
        socket.set_read_timeout(Some(secs(10))).unwrap();
        write!(socket, "GET {path}/events HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        Self(BufReader::new(socket))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("something within ten seconds");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event: its id and what it tells.
    fn event(&mut self) -> (String, Value) {
        let (mut id, mut is_now) = (String::new(), false);
        loop {
            let line = self.line().expect("an event");
            is_now |= line == "event: now";
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                assert!(is_now);
                return (id, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn a_program_says_what_plays_and_everybody_may_know() {
    let mut node = Node::start(&["ladder=[]", "auth.publish=keys"]);
    let key = stream(&node, "alice");
    let nothing = json!({ "id": null, "title": null, "artist": null, "started": null, "artwork": null, "data": null });
    let empty = get(&node.url(NOW));
    assert_eq!((empty.status, told(&empty)), (200, nothing));
    assert_eq!(empty.header("access-control-allow-origin"), "*");
    assert_eq!(get(&node.url("/api/v1/streams/nobody/now")).status, 404);
    let mut listener = Listener::open(&node, NOW);
    assert_eq!(listener.event().1["title"], Value::Null);

    let song = json!({
        "title": "Caf\u{e9} \"one\"", "artist": "Ann", "started": "2026-01-01T12:00:00+01:00",
        "artwork": "https://example.org/a.jpg", "data": { "bpm": 120, "tags": ["a"] },
    });
    let set = put(&node, NOW, &key, &song);
    assert_eq!((set.status, told(&set)["stored"].as_bool()), (200, Some(true)), "{}", set.text());
    let shown = get(&node.url(NOW));
    assert_eq!((shown.status, shown.header("cache-control")), (200, "public, max-age=1"));
    let first = told(&shown);
    for (field, want) in song.as_object().unwrap() {
        let want = if field == "started" { &json!("2026-01-01T11:00:00.000Z") } else { want };
        assert_eq!(&first[field], want, "{field}");
    }
    assert_eq!(told(&set)["now"], first);
    let (id, event) = listener.event();
    assert_eq!((Some(id.as_str()), &event), (first["id"].as_str(), &first));
    // Who has it is told nothing again, also where the same was set again.
    let etag = shown.header("etag").to_owned();
    assert_eq!(told(&put(&node, NOW, &key, &song))["now"], first);
    let again = request("GET", &node.url(&format!("{NOW}?t=1")), &[("if-none-match", &etag)], None);
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, &*etag));
    assert_eq!(request("HEAD", &node.url(NOW), &[], None).status, 200);

    // Whose it is not may not, and what cannot be is said to be so.
    for (bearer, body, status) in [
        ("", "{\"title\":\"x\"}", 401),
        ("Bearer nonsense", "{\"title\":\"x\"}", 401),
        (&*key, "{\"titel\":\"x\"}", 400),
        (&*key, "title", 400),
        (&*key, "{}", 422),
        (&*key, "{\"title\":\"x\",\"artwork\":\"ftp://a\"}", 422),
        (&*key, "{\"title\":\"x\",\"started\":\"2999-01-01T00:00:00Z\"}", 422),
        (&*key, &json!({ "title": "x".repeat(301) }).to_string(), 422),
        (&*key, &json!({ "data": "x".repeat(5000) }).to_string(), 422),
        (&*key, &json!({ "data": "x".repeat(50_000) }).to_string(), 413),
    ] {
        let headers = [("authorization", bearer)];
        let headers = if bearer.is_empty() { &[][..] } else { &headers };
        let answer = request("PUT", &node.url(NOW), headers, Some(body));
        assert_eq!(answer.status, status, "{body:.80}: {}", answer.text());
    }
    assert_eq!(node.admin("PUT", "/api/v1/streams/nobody/now", Some("{\"title\":\"x\"}")).status, 404);
    assert_eq!(told(&get(&node.url(NOW))), first, "nothing of that was taken");
    // A program of the stream's own, and one of another's.
    let bots = ["alice", "bob"].map(|name| {
        let key = if name == "alice" { key.clone() } else { stream(&node, name) };
        let path = node.url(&format!("/api/v1/streams/{name}/chat/bots"));
        let headers = [("authorization", &*key), ("content-type", "application/json")];
        let made = request("POST", &path, &headers, Some("{\"name\":\"Radio\"}"));
        format!("Bearer {}", told(&made)["token"].as_str().unwrap())
    });
    assert_eq!(put(&node, NOW, &bots[1], &json!({ "title": "x" })).status, 403);
    let before = unix_now();
    let set = told(&put(&node, NOW, &bots[0], &json!({ "title": "Two" })));
    let began = UnixMs::parse(set["now"]["started"].as_str().unwrap()).unwrap();
    assert!(began >= before && began <= unix_now());
    assert_eq!(listener.event().1["title"], "Two");
    let cleared = request("DELETE", &node.url(NOW), &[("authorization", &key)], None);
    assert_eq!((cleared.status, told(&cleared)["now"]["title"].clone()), (200, Value::Null));
    assert_eq!(listener.event().1["started"], Value::Null);
    put(&node, NOW, &key, &json!({ "title": "Three" }));

    // A crowd reads nothing from the store, whether there is such a stream or not.
    let looks = metric(&node, "weir_now_looks_total");
    for _ in 0..200 {
        assert_eq!(title(&node, NOW).as_deref(), Some("Three"));
    }
    assert_eq!(metric(&node, "weir_now_looks_total"), looks);
    for _ in 0..200 {
        assert_eq!(get(&node.url("/api/v1/streams/nobody/now")).status, 404);
    }
    assert!(metric(&node, "weir_now_looks_total") <= looks + 2.0);

    // All of it is there after a crash.
    let page = |node: &Node, query: &str| told(&get(&node.url(&format!("{NOW}/history{query}"))));
    let titles = |page: &Value| {
        let entries = page["entries"].as_array().unwrap();
        entries.iter().map(|now| now["title"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    node.crash_and_restart();
    assert_eq!(title(&node, NOW).as_deref(), Some("Three"));
    let newest = page(&node, "?limit=3");
    assert_eq!(titles(&newest), ["Three", "", "Two"]);
    let rest = page(&node, &format!("?before={}", newest["next"].as_str().unwrap()));
    assert_eq!((rest["entries"][0].clone(), titles(&rest).len(), rest["next"].clone()), (first, 1, Value::Null));
    // It ends with its node.
    let mut listener = Listener::open(&node, NOW);
    listener.event();
    assert!(node.terminate().0 < secs(10));
    while listener.line().is_some() {}
}

#[test]
fn where_tickets_are_needed_what_plays_is_for_those_who_have_one() {
    let node = Node::start(&["ladder=[]", "auth.publish=keys", "auth.playback=ticket"]);
    let key = stream(&node, "alice");
    assert_eq!(put(&node, NOW, &key, &json!({ "title": "Secret" })).status, 200);
    assert_eq!(get(&node.url(NOW)).status, 401);
    assert_eq!(get(&node.url(&format!("{NOW}/events"))).status, 401);
    assert_eq!(get(&node.url(&format!("{NOW}/history"))).status, 401);
    let with = format!("/t/{}{NOW}", node.ticket("alice"));
    let shown = get(&node.url(&with));
    assert_eq!((shown.status, shown.header("cache-control")), (200, "private, max-age=1"));
    assert_eq!(title(&node, &with).as_deref(), Some("Secret"));
    assert_eq!(Listener::open(&node, &with).event().1["title"], "Secret");
    let owner = request("GET", &node.url(NOW), &[("authorization", &key)], None);
    assert_eq!(owner.status, 200);
}

/// A stream whose encoder says what it plays.
fn publish(node: &Node, metadata: &[(&str, &str)]) -> Publisher {
    let url = node.publish_url("alice");
    let metadata: Vec<_> = metadata.iter().map(|(name, text)| format!("{name}={text}")).collect();
    let mut args = vec!["-re", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=30", "-f", "lavfi", "-i", "sine=440:r=48000"];
    args.extend("-t 60 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 60 -b:v 300k -c:a aac".split(' '));
    metadata.iter().for_each(|text| args.extend(["-metadata", text.as_str()]));
    args.extend(["-f", "flv", &url]);
    Publisher::ffmpeg(node, &args)
}

fn ranges(playlist: &str) -> Vec<&str> {
    playlist.lines().filter(|line| line.starts_with("#EXT-X-DATERANGE:")).collect()
}

#[test]
fn what_an_encoder_says_is_shown_on_every_node_and_in_every_playlist() {
    let origin = Node::start(&["ladder=[]", "internal.secret=one-for-all-nodes-here"]);
    let upstream = |node: &Node| format!("edge.upstream=[\"http://127.0.0.1:{}\"]", node.internal);
    let edge =
        |of: &Node| Node::start(&["node.roles=[\"edge\"]", &upstream(of), "internal.secret=one-for-all-nodes-here"]);
    let middle = edge(&origin);
    let edge = edge(&middle);
    let publisher = publish(&origin, &[("title", "A \"song\""), ("artist", "Ann")]);
    edge.wait_live("alice");
    let first = wait("what the encoder says at the edge", secs(2), || {
        let shown = told(&get(&edge.url(NOW)));
        shown["title"].is_string().then_some(shown)
    });
    assert_eq!((first["title"].as_str(), first["artist"].as_str()), (Some("A \"song\""), Some("Ann")));
    let listed = told(&get(&edge.url("/api/v1/streams?live=1")));
    assert_eq!(listed["streams"][0]["now"], json!({ "title": "A \"song\"", "artist": "Ann" }));

    // A change at one node is everywhere before a chunk is over, whichever took it.
    let (bearer, nodes) = (token(&origin), [&origin, &middle, &edge]);
    for (n, at) in [&edge, &origin, &middle].into_iter().enumerate() {
        let mut listeners = nodes.map(|node| Listener::open(node, NOW));
        listeners.iter_mut().for_each(|listener| _ = listener.event());
        let (wanted, begun) = (format!("Song {n}"), now());
        let set = put(at, NOW, &bearer, &json!({ "title": wanted }));
        assert_eq!((set.status, told(&set)["stored"].as_bool()), (200, Some(true)), "{}", set.text());
        for listener in &mut listeners {
            assert_eq!(listener.event().1["title"], wanted.as_str());
        }
        let took = now() - begun;
        assert!(took < Duration::from_millis(500), "{took:?}");
        nodes.iter().for_each(|node| assert_eq!(title(node, NOW).as_ref(), Some(&wanted)));
    }
    let refused = put(&edge, NOW, "Bearer nonsense", &json!({ "title": "x" }));
    assert_eq!((refused.status, refused.header("content-type")), (401, "application/problem+json"));

    // All renditions tell the same, at every node, and also to those who skip what they know.
    let client = hls::Client::open(&edge.url("/hls/alice/index.m3u8"));
    let want = wait("the last change in a playlist", secs(3), || {
        let text = get(client.uri("source")).text();
        ranges(&text).iter().any(|range| range.contains("X-TITLE=\"Song 2\"")).then_some(text)
    });
    let want = ranges(&want);
    assert!(
        want[0].contains("X-TITLE=\"A 'song'\",X-ARTIST=\"Ann\"") && want[0].contains("END-ON-NEXT=YES"),
        "{want:?}"
    );
    assert_eq!(want.len(), 4, "{want:?}");
    let id = told(&get(&origin.url(NOW)))["id"].as_str().unwrap().to_owned();
    assert!(want[3].starts_with(&format!("#EXT-X-DATERANGE:ID=\"{id}\",CLASS=\"weir.now\",START-DATE=\"")), "{want:?}");
    let at_origin = hls::Client::open(&origin.url("/hls/alice/index.m3u8"));
    for name in at_origin.renditions.keys() {
        assert_eq!(ranges(&get(at_origin.uri(name)).text()), want, "{name}");
    }
    // Whoever comes again says nothing new, and does not take back what was said since.
    publisher.kill();
    let _again = publish(&origin, &[("title", "A \"song\""), ("artist", "Ann")]);
    origin.wait_stream("alice", "live again", |stream| stream["state"] == "live" && stream["epoch"] == 2);
    assert_eq!(title(&origin, NOW).as_deref(), Some("Song 2"));
}

#[test]
fn an_edge_knows_what_was_said_before_it_came_and_says_when_nobody_takes_a_change() {
    let mut origin = Node::start(&["ladder=[]", "auth.publish=keys"]);
    let key = stream(&origin, "alice");
    stream(&origin, "bob");
    for text in ["One", "Two"] {
        assert_eq!(put(&origin, NOW, &key, &json!({ "title": text })).status, 200);
    }
    // After a restart the origin itself knows nothing until it is asked.
    origin.crash_and_restart();
    let upstream = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", origin.internal);
    let edge = Node::start(&["node.roles=[\"edge\"]", &upstream]);
    assert_eq!(title(&edge, NOW).as_deref(), Some("Two"));
    assert_eq!((title(&edge, "/api/v1/streams/bob/now"), metric(&edge, "weir_now_looks_total")), (None, 2.0));
    assert_eq!(get(&edge.url("/api/v1/streams/nobody/now")).status, 404);
    let asked = metric(&origin, "weir_http_requests_total");
    for _ in 0..50 {
        assert_eq!(title(&edge, NOW).as_deref(), Some("Two"));
    }
    assert!(metric(&origin, "weir_http_requests_total") - asked < 5.0);
    assert_eq!(get(&edge.url(&format!("{NOW}/history"))).status, 421);
    origin.crash();
    wait("the edge knows that it is alone", secs(5), || (get(&edge.url("/readyz")).status == 503).then_some(()));
    let refused = put(&edge, NOW, &key, &json!({ "title": "Three" }));
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{}", refused.text());
    assert_eq!(title(&edge, NOW).as_deref(), Some("Two"));
}

/// The header of a node's admin token.
fn token(node: &Node) -> String {
    let token = std::fs::read_to_string(node.dir.path().join("data/admin.token")).unwrap();
    format!("Bearer {}", token.trim())
}
