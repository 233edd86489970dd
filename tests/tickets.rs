//! Ticketed playback: who is let in, who is not and with which words, and how that changes while a show runs.

mod support;

use serde_json::{Value, json};
use support::{Answer, Node, Publisher, get, hls, request, secs, wait};

const TICKETED: &[&str] = &["ladder=[]", "auth.playback=ticket", "live.chunk=1s"];

/// Makes a ticket on the command line; gives what it printed as JSON.
fn ticket(node: &Node, stream: &str, args: &[&str]) -> Value {
    let made = node.weir(&[&["ticket", "create", stream, "--json"], args].concat());
    assert!(made.status.success(), "{made:?}");
    serde_json::from_slice(&made.stdout).expect("JSON")
}

fn publish(node: &Node, stream: &str) -> Publisher {
    Publisher::test_picture(node, stream, "320x180", 30, "-g 30 -b:v 200k", "-b:a 64k", 120)
}

/// Status and code of a refusal.
fn refused(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
    assert_eq!((answer.header("cache-control"), answer.header("access-control-allow-origin")), ("no-store", "*"));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("ticket"), "{problem}");
    (answer.status, problem["code"].as_str().unwrap().to_owned())
}

fn refusal(code: &str) -> (u16, String) {
    let status =
        if ["ticket_other_stream", "ticket_other_address", "ticket_revoked"].contains(&code) { 403 } else { 401 };
    (status, code.to_owned())
}

#[test]
fn with_a_ticket_everything_plays_and_without_nothing_does() {
    let node = Node::start(TICKETED);
    let _publisher = publish(&node, "alice");
    let state = node.wait_live("alice");
    assert_eq!(state["playback"], "ticket");
    let made = ticket(&node, "alice", &["--viewer", "bob", "--expires", "1h"]);
    let text = made["ticket"].as_str().unwrap();
    assert_eq!(made["watch"], format!("/watch/alice#ticket={text}"));
    let stable = node.url(made["playlist"].as_str().unwrap());

    // A player keeps the prefix by itself, because every URI is relative.
    let mut client = hls::Client::open(&stable);
    assert_eq!(client.names(), ["audio", "source"]);
    client.follow_media(3, secs(15));
    let prefix = node.url(&format!("/t/{text}/hls/alice/"));
    let source = client.uri("source").to_owned();
    assert!(source.starts_with(&prefix), "{source}");
    let playlist = get(&source).text();
    assert!(!playlist.contains(text) && !playlist.contains("/t/"), "nothing of the viewer is in it");
    let chunk = hls::playlist(&source).unwrap().segments.last().unwrap().uri.clone();
    let open = |url: &str| url.replace(&format!("/t/{text}"), "");
    for url in [&stable, &source, &chunk, &client.renditions["source"].last.segments[0].map.clone().unwrap()] {
        assert_eq!(get(url).status, 200, "{url}");
        assert_eq!(refused(&get(&open(url))), refusal("ticket_missing"), "{url}");
        assert_eq!(refused(&get(&url.replace(text, "x.y.z"))), refusal("ticket_invalid"), "{url}");
    }
    // The same bytes for every viewer, and the same name for every cache that leaves the ticket out.
    let other = ticket(&node, "alice", &[]);
    let theirs = |url: &str| url.replace(text, other["ticket"].as_str().unwrap());
    let same = wait("one version of the playlist", secs(5), || {
        let (a, b) = (get(&source), get(&theirs(&source)));
        (a.header("etag") == b.header("etag")).then_some((a.body, b.body))
    });
    assert!(same.0 == same.1 && get(&chunk).body == get(&theirs(&chunk)).body);
    // A blocking reload waits behind a ticket as it does without.
    let next = hls::playlist(&source).unwrap().segments.last().unwrap().k + 1;
    let reloaded = get(&format!("{source}?_HLS_msn={next}"));
    assert_eq!(reloaded.status, 200);
    assert!(reloaded.text().contains(&format!("\n{next}.1.m4s\n")));

    // What a cache in front asks.
    let good = |ticket: &str, path: &str| get(&node.url(&format!("/t/{ticket}/ticket/hls/{path}")));
    let broadcast = state["broadcast"].as_str().unwrap();
    for path in ["alice/index.m3u8", "alice/01b/index.m3u8", "alice/01b/source/1.1.m4s"] {
        assert_eq!(good(text, path).status, 204, "{path}");
        assert_eq!(refused(&good("x.y.z", path)), refusal("ticket_invalid"), "{path}");
    }
    assert_eq!(refused(&good(text, "carol/index.m3u8")), refusal("ticket_other_stream"));
    assert_eq!(refused(&get(&node.url("/ticket/hls/alice/index.m3u8"))), refusal("ticket_missing"));
    let show = ticket(&node, "alice", &["--broadcast", broadcast]);
    let show = show["ticket"].as_str().unwrap();
    assert_eq!(good(show, "alice/index.m3u8").status, 204);
    assert_eq!(good(show, &format!("alice/{broadcast}/source/1.1.m4s")).status, 204);
    assert_eq!(refused(&good(show, "alice/01b/source/1.1.m4s")), refusal("ticket_other_stream"));
    // Tickets are for what they say.
    let carol = ticket(&node, "carol", &[]);
    let wrong = stable.replace(text, carol["ticket"].as_str().unwrap());
    assert_eq!(refused(&get(&wrong)), refusal("ticket_other_stream"));
    let elsewhere = ticket(&node, "alice", &["--address", "192.0.2.0/24"]);
    assert_eq!(refused(&get(&node.url(elsewhere["playlist"].as_str().unwrap()))), refusal("ticket_other_address"));
    let here = ticket(&node, "alice", &["--address", "127.0.0.1"]);
    assert_eq!(get(&node.url(here["playlist"].as_str().unwrap())).status, 200);
    let of =
        |broadcast: &str| ticket(&node, "alice", &["--broadcast", broadcast])["playlist"].as_str().unwrap().to_owned();
    assert_eq!(refused(&get(&node.url(&of("01another")))), refusal("ticket_other_stream"));
    assert_eq!(get(&node.url(&of(state["broadcast"].as_str().unwrap()))).status, 200);

    let metrics = get(&node.url("/metrics")).text();
    assert!(metrics.contains("weir_ticket_refusals_total{reason=\"ticket_missing\"}"), "{metrics}");
    assert!(!node.log().contains(text), "a ticket is a secret");
}

#[test]
fn tickets_end_by_time_and_by_word() {
    let mut node = Node::start(TICKETED);
    let _publisher = publish(&node, "dave");
    node.wait_live("dave");
    let short = ticket(&node, "dave", &["--expires", "3s"]);
    let url = node.url(short["playlist"].as_str().unwrap());
    let client = hls::Client::open(&url);
    let source = client.uri("source").to_owned();
    let last = hls::playlist(&source).unwrap().segments.last().unwrap().uri.clone();
    let ended = wait("the ticket's end", secs(6), || Some(get(&source)).filter(|answer| answer.status != 200));
    assert_eq!(refused(&ended), refusal("ticket_expired"));
    assert_eq!(get(&last).status, 200, "what was listed may be finished");
    let body = json!({ "not_before": 4_000_000_000_u64 }).to_string();
    assert_eq!(node.admin("POST", "/api/v1/streams/dave/tickets", Some(&body)).status, 400, "too far away");
    let soon = json!({ "not_before": short_of_now() + 3600 }).to_string();
    let early: Value =
        serde_json::from_slice(&node.admin("POST", "/api/v1/streams/dave/tickets", Some(&soon)).body).unwrap();
    assert_eq!(refused(&get(&node.url(early["playlist"].as_str().unwrap()))), refusal("ticket_early"));

    // One ticket, then all of the stream; those signed afterwards count.
    let (one, two) = (ticket(&node, "dave", &[]), ticket(&node, "dave", &[]));
    let url = |made: &Value| node.url(made["playlist"].as_str().unwrap());
    assert_eq!((get(&url(&one)).status, get(&url(&two)).status), (200, 200));
    let revoked = node.weir(&["ticket", "revoke", "dave", "--id", one["id"].as_str().unwrap()]);
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(refused(&get(&url(&one))), refusal("ticket_revoked"));
    assert_eq!(get(&url(&two)).status, 200);
    assert!(node.weir(&["ticket", "revoke", "dave"]).status.success());
    assert_eq!(refused(&get(&url(&two))), refusal("ticket_revoked"));
    let three = ticket(&node, "dave", &[]);
    assert_eq!(get(&url(&three)).status, 200);

    // All of it outlives the process.
    let paths: Vec<String> = [&one, &two, &three].map(|made| made["playlist"].as_str().unwrap().to_owned()).into();
    node.crash_and_restart();
    wait("the broadcast again", secs(10), || (get(&node.url(&paths[2])).status == 200).then_some(()));
    for path in &paths[..2] {
        assert_eq!(refused(&get(&node.url(path))), refusal("ticket_revoked"));
    }
}

fn short_of_now() -> u64 {
    weir::time::unix_now().0 as u64 / 1000
}

#[test]
fn a_shop_signs_with_its_own_key() {
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let node = Node::start(&["ladder=[]", "live.chunk=1s"]);
    let _publisher = publish(&node, "erin");
    let state = node.wait_live("erin");
    assert_eq!(state["playback"], "public");
    let open = node.url("/hls/erin/index.m3u8");
    assert_eq!(get(&open).status, 200);

    // The shop's ticket, made with nothing but its key and the two claims that must be there.
    let header =
        jsonwebtoken::Header { kid: Some("shop".into()), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA) };
    let claims = json!({ "stream": "erin", "exp": short_of_now() + 600 });
    let key = jsonwebtoken::EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap();
    let signed = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let ticketed = node.url(&format!("/t/{signed}/hls/erin/index.m3u8"));
    assert_eq!(get(&ticketed).status, 200, "an open stream asks for nothing");

    let set = node.weir(&["stream", "playback", "erin", "ticket"]);
    assert!(set.status.success(), "{set:?}");
    assert_eq!(refused(&get(&open)), refusal("ticket_missing"));
    assert_eq!(refused(&get(&ticketed)), refusal("ticket_invalid"), "its key is not known");
    let file = node.dir.path().join("shop.pem");
    std::fs::write(&file, PUBLIC).unwrap();
    let file = file.to_str().unwrap();
    let added = node.weir(&["ticket", "add-key", "shop", "--algorithm", "eddsa", "--key-file", file]);
    assert!(added.status.success(), "{added:?}");
    assert_eq!(get(&ticketed).status, 200);
    let wrong = node.weir(&["ticket", "add-key", "shop2", "--algorithm", "hs256", "--key-file", "/dev/null"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("32 letters"), "{wrong:?}");

    let listed = node.weir(&["ticket", "keys"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("shop") && listed.contains("EdDSA") && !listed.contains("BEGIN"), "{listed}");
    assert!(node.weir(&["ticket", "remove-key", "shop"]).status.success());
    assert_eq!(refused(&get(&ticketed)), refusal("ticket_invalid"));
    let gone = node.weir(&["ticket", "remove-key", "shop"]);
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("no ticket key"), "{gone:?}");
    assert!(node.weir(&["stream", "playback", "erin", "default"]).status.success());
    assert_eq!(get(&open).status, 200);
}

#[test]
fn the_api_of_tickets_is_for_the_admin_and_checks_what_it_takes() {
    let node = Node::start(&["ladder=[]", "auth.publish=keys"]);
    let paths = [
        ("POST", "/api/v1/streams/demo/tickets"),
        ("DELETE", "/api/v1/streams/demo/tickets"),
        ("PUT", "/api/v1/streams/demo/playback"),
        ("PUT", "/api/v1/streams/demo/push"),
        ("DELETE", "/api/v1/tickets/x"),
        ("POST", "/api/v1/ticket-keys"),
        ("GET", "/api/v1/ticket-keys"),
        ("DELETE", "/api/v1/ticket-keys/x"),
    ];
    for (method, path) in paths {
        assert_eq!(request(method, &node.url(path), &[], Some("{}")).status, 401, "{method} {path}");
    }
    for (path, body) in [
        ("/api/v1/streams/demo/tickets", r#"{"expires_in":0}"#),
        ("/api/v1/streams/demo/tickets", r#"{"expires_in":99999999}"#),
        ("/api/v1/streams/demo/tickets", r#"{"address":"home"}"#),
        ("/api/v1/streams/demo/tickets", r#"{"colour":"red"}"#),
        ("/api/v1/ticket-keys", r#"{"kid":"a/b","algorithm":"HS256","key":"0123456789abcdef0123456789abcdef"}"#),
        ("/api/v1/ticket-keys", r#"{"kid":"a","algorithm":"RS256","key":"0123456789abcdef0123456789abcdef"}"#),
    ] {
        let answer = node.admin("POST", path, Some(body));
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    assert_eq!(node.admin("POST", "/api/v1/streams/nobody/tickets", Some("{}")).status, 404);
    assert_eq!(node.admin("PUT", "/api/v1/streams/demo/playback", Some(r#"{"playback":"secret"}"#)).status, 400);
    // A ticket opens media and nothing else.
    let made: Value =
        serde_json::from_slice(&node.admin("POST", "/api/v1/streams/demo/tickets", Some("{}")).body).unwrap();
    let text = made["ticket"].as_str().unwrap();
    for path in ["api/v1/status", "metrics", "watch/demo", ""] {
        assert_eq!(get(&node.url(&format!("/t/{text}/{path}"))).status, 404, "{path}");
    }
}
