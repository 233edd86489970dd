//! Keys, the admin API, the command line, and the headers of what viewers fetch.

mod support;

use support::{Node, Publisher, get, hls, hls::Client, request, secs, wait};

const KEYS: &[&str] = &["auth.publish=keys", "ladder=[]"];

fn publish(node: &Node, key: &str) -> Publisher {
    Publisher::test_picture(node, key, "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 30)
}

#[test]
fn only_the_right_key_publishes() {
    let node = Node::start(KEYS);
    let log = node.log();
    let demo = log
        .lines()
        .find_map(|line| line.trim().strip_prefix("Stream Key"))
        .expect("the first start prints a key")
        .trim()
        .to_owned();
    assert!(demo.starts_with("demo?key=") && demo.len() >= "demo?key=".len() + 22, "{demo}");
    for wrong in ["demo", "demo?key=wrong", "nobody?key=wrong"] {
        let mut refused = publish(&node, wrong);
        assert!(!refused.wait(secs(10)).success(), "{wrong} published");
    }
    assert_eq!(get(&node.url("/api/v1/streams/nobody")).status, 404);
    let mut accepted = publish(&node, &demo);
    node.wait_live("demo");
    let secret = demo.split_once('=').unwrap().1;
    // Printed once for the person who starts the node, and nowhere else.
    assert_eq!(node.log().matches(secret).count(), 1, "{}", node.log());

    let rotated = node.weir(&["stream", "rotate-key", "demo"]);
    assert!(rotated.status.success(), "{rotated:?}");
    let text = String::from_utf8(rotated.stdout).unwrap();
    let new = text.split_whitespace().find(|word| word.starts_with("demo?key=")).expect("the new key").to_owned();
    assert_ne!(new, demo);
    accepted.wait(secs(10));
    let mut old = publish(&node, &demo);
    assert!(!old.wait(secs(10)).success(), "the old key still publishes");
}

#[test]
fn streams_are_managed_from_the_command_line() {
    let node = Node::start(KEYS);
    let created = node.weir(&["stream", "create", "alice"]);
    assert!(created.status.success(), "{created:?}");
    assert!(String::from_utf8_lossy(&created.stdout).contains("alice?key="), "{created:?}");
    let again = node.weir(&["stream", "create", "alice"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is a stream alice already"), "{again:?}");
    let bad = node.weir(&["stream", "create", "../x"]);
    assert!(!bad.status.success() && String::from_utf8_lossy(&bad.stderr).contains("not legal"), "{bad:?}");
    let list = node.weir(&["stream", "list"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(text.contains("alice") && text.contains("demo") && text.contains("offline"), "{text}");
    assert!(node.weir(&["stream", "show", "alice"]).status.success());
    let status = node.weir(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["ready"], true);
    assert!(node.weir(&["stream", "delete", "alice"]).status.success());
    let gone = node.weir(&["stream", "show", "alice"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no stream alice"), "{gone:?}");
}

#[test]
fn the_admin_api_wants_its_token() {
    let node = Node::start(KEYS);
    let token = std::fs::read_to_string(node.dir.path().join("data/admin.token")).unwrap();
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(node.dir.path().join("data/admin.token")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let bearer = format!("Bearer {}", token.trim());
    let url = node.url("/api/v1/streams");
    for headers in [vec![], vec![("authorization", "Bearer wrong")], vec![("authorization", "Basic x")]] {
        let answer = request("GET", &url, &headers, None);
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    let json = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    assert_eq!(request("GET", &url, &json, None).status, 200);
    for (body, status) in [
        (r#"{"id":"x"}"#, 201),
        (r#"{"id":"x"}"#, 409),
        (r#"{"id":"../x"}"#, 400),
        (r#"{"id":"y","colour":1}"#, 422),
        ("{", 400),
        (r#"{"id":"z","settings":{"ladder":[{"height":240,"bitrate_kbps":300}]}}"#, 201),
    ] {
        let answer = request("POST", &url, &json, Some(body));
        // Malformed and unacceptable bodies are both the client's fault.
        let same = answer.status == status || (status == 422 && answer.status == 400);
        assert!(same, "{body}: {} {}", answer.status, answer.text());
    }
    assert_eq!(get(&node.url("/api/v1/streams?live=1")).status, 200);
}

#[test]
fn what_viewers_fetch_can_be_cached_ranged_and_used_by_any_page() {
    let node = Node::start(&["ladder=[]"]);
    let _publisher = publish(&node, "alice");
    node.wait_live("alice");
    let url = node.url("/hls/alice/index.m3u8");
    let mut client = Client::open(&url);
    client.follow_media(2, secs(10));

    let origin = ("origin", "http://page.example");
    let list = client.uri("source").to_owned();
    for playlist in [&url, &list] {
        let answer = request("GET", playlist, &[origin, ("accept-encoding", "identity")], None);
        assert_eq!(answer.header("content-type"), "application/vnd.apple.mpegurl");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("cache-control"), "public, max-age=1");
        assert!(answer.header("vary").contains("accept-encoding"));
        assert_eq!(request("HEAD", playlist, &[], None).header("content-length"), answer.body.len().to_string());
    }
    // The multivariant playlist is quiet long enough to be asked for twice.
    let plain = request("GET", &url, &[("accept-encoding", "identity")], None);
    let again = request("GET", &url, &[("accept-encoding", "identity"), ("if-none-match", plain.header("etag"))], None);
    assert!(again.status == 304 && again.body.is_empty(), "{again:?}");
    let zipped = request("GET", &url, &[("accept-encoding", "gzip")], None);
    assert_ne!(zipped.header("etag"), plain.header("etag"));

    let segment = client.renditions["source"].last.segments[0].clone();
    for uri in [&segment.uri, segment.map.as_ref().unwrap()] {
        let whole = request("GET", uri, &[origin], None);
        assert_eq!((whole.status, whole.header("content-type")), (200, "video/mp4"));
        assert!(whole.header("cache-control").contains("immutable"));
        assert_eq!(whole.header("access-control-allow-origin"), "*");
        let part = request("GET", uri, &[("range", "bytes=10-19")], None);
        assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[10..20]));
        assert_eq!(part.header("content-range"), format!("bytes 10-19/{}", whole.body.len()));
        assert_eq!(request("GET", uri, &[("range", "bytes=99999999-")], None).status, 416);
        let head = request("HEAD", uri, &[], None);
        assert_eq!((head.status, head.header("content-length")), (200, whole.body.len().to_string().as_str()));
    }
    let audio = client.renditions["audio"].last.segments[0].clone();
    assert_eq!(get(&audio.uri).header("content-type"), "audio/mp4");

    for missing in [
        "/hls/nobody/index.m3u8",
        "/hls/../index.m3u8",
        "/hls/alice/x/source/1.1.m4s",
        "/hls/alice/x/index.m3u8",
        "/nothing",
    ] {
        let answer = get(&node.url(missing));
        assert_eq!(answer.status, 404, "{missing}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{missing}");
    }
    assert_eq!(get(&hls::join(&segment.uri, "999999.1.m4s")).status, 404);
}

#[test]
fn metrics_and_health_answer() {
    let node = Node::start(&["ladder=[]"]);
    let _publisher = publish(&node, "alice");
    node.wait_live("alice");
    assert_eq!(get(&node.url("/healthz")).status, 200);
    let metrics = wait("the chunk counter", secs(5), || {
        Some(get(&node.url("/metrics")).text()).filter(|text| text.contains("weir_chunks_total"))
    });
    for name in ["weir_http_requests_total", "weir_streams_live", "rtmp_connections_total"] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    assert!(!metrics.contains("alice"), "stream names do not belong in labels");
}

#[test]
fn pages_are_served_with_a_strict_policy() {
    let node = Node::start(&["ladder=[]"]);
    for page in ["/", "/watch/alice"] {
        let answer = get(&node.url(page));
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
        assert!(answer.header("content-type").starts_with("text/html"));
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let html = answer.text();
        let script = html.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a script");
        let asset = get(&hls::join(&node.url("/"), script));
        assert_eq!(asset.status, 200, "{script}");
        assert!(asset.header("cache-control").contains("immutable"));
    }
}
