//! Webhooks as a receiver meets them, and a backend that decides who publishes and who watches.

mod support;

use std::{process::Command, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::{Value, json};
use support::{
    Node, Publisher, free_port, get,
    receiver::{Post, Receiver},
    request,
    rtmp::Connection,
    secs, wait,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ALLOW: &str = "webhooks.allow_private=true";

fn targets(urls: &[String]) -> String {
    let list: Vec<_> = urls.iter().map(|url| format!("{{ url = \"{url}\", secret = \"{SECRET}\" }}")).collect();
    format!("webhooks.targets=[{}]", list.join(", "))
}

fn ok(_: &Post) -> (u16, String) {
    (204, String::new())
}

/// Publishes a few seconds of a picture with a keyframe each second.
fn publish(node: &Node, key: &str, seconds: u32) -> Publisher {
    Publisher::test_picture(node, key, "160x90", 30, "-g 30", "", seconds)
}

fn is_signed(post: &Post) -> bool {
    let key = STANDARD.decode(SECRET.trim_start_matches("whsec_")).unwrap();
    let signed = format!("{}.{}.{}", post.header("webhook-id"), post.header("webhook-timestamp"), post.body);
    let tag = STANDARD.decode(post.header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes(), &tag).is_ok()
}

/// The one event of this type that came.
fn event(receiver: &Receiver, kind: &str) -> Value {
    let all = || receiver.posts().into_iter().filter(|post| post.json()["type"] == kind).collect::<Vec<_>>();
    wait(kind, secs(30), || (!all().is_empty()).then_some(()));
    let all = all();
    assert_eq!(all.len(), 1, "{all:#?}");
    let (post, event) = (&all[0], all[0].json());
    assert!(is_signed(post), "{post:#?}");
    assert_eq!(
        (post.header("webhook-id"), post.header("content-type")),
        (event["id"].as_str().unwrap(), "application/json")
    );
    assert!(post.header("user-agent").starts_with("weir/"));
    event
}

fn read(node: &Node, path: &str) -> Value {
    let answer = node.admin("GET", path, None);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn a_show_is_told_from_its_begin_to_its_clips() {
    let receiver = Receiver::start(0, ok);
    let settings = [targets(&[receiver.url()]), ALLOW.into(), "ladder=[]".into()];
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let node = Node::start(&[&settings[..], &["live.chunk=1s", "live.reconnect_window=5s"]].concat());
    publish(&node, "alice", 3).wait(secs(20));
    let live = event(&receiver, "stream.live");
    assert_eq!((live["stream"].as_str(), live["node"].as_str()), (Some("alice"), Some("node-1")));
    // The encoder comes back within its broadcast: nothing is told. Some watch.
    let mut again = publish(&node, "alice", 2);
    let reports: String = (0..12).map(|n| format!("cid=\"alice\",e=t,sid=\"v{n}\",sn=0,sta=p,ts=1,v=2\n")).collect();
    assert_eq!(request("POST", &node.url("/api/v1/cmcd"), &[], Some(&reports)).status, 204);
    let peak = event(&receiver, "viewer.peak");
    assert_eq!(peak["data"], json!({ "passed": 10, "viewers": 12 }));
    again.wait(secs(20));
    let ended = event(&receiver, "stream.ended");
    let stored = event(&receiver, "broadcast.stored");
    let broadcast = live["broadcast"].as_str().unwrap();
    assert!([&ended, &stored].iter().all(|event| event["broadcast"] == broadcast));
    assert!(
        stored["data"]["duration_s"].as_f64() >= Some(3.0) && stored["data"]["bytes"].as_u64() > Some(0),
        "{stored}"
    );
    let path = format!("/api/v1/broadcasts/{broadcast}/clips");
    let made = node.admin("POST", &path, Some(r#"{ "from": 0, "to": 2, "title": "best" }"#));
    assert_eq!(made.status, 201, "{}", made.text());
    let clip = event(&receiver, "clip.created");
    assert_eq!(clip["data"]["clip"], serde_json::from_slice::<Value>(&made.body).unwrap());
    // Once each, and no more than that.
    for kind in ["stream.live", "stream.ended", "broadcast.stored"] {
        event(&receiver, kind);
    }
    let tested = node.admin("POST", "/api/v1/webhooks/test", None);
    let tested: Value = serde_json::from_slice(&tested.body).unwrap();
    assert_eq!((&tested["targets"][0]["delivered"], &tested["targets"][0]["status"]), (&json!(true), &json!(204)));
    event(&receiver, "test");
    let told = || read(&node, "/api/v1/webhooks")["targets"][0].clone();
    let target = wait("an empty queue", secs(10), || Some(told()).filter(|target| target["waiting"] == 0));
    assert_eq!(target["target"], format!("http://127.0.0.1:{}", receiver.port));
    assert_eq!(target["state"], "ok", "{target}");
    assert_eq!(get(&node.url("/api/v1/webhooks")).status, 401);
    assert!(get(&node.url("/metrics")).text().contains("weir_webhooks_total{result=\"delivered\"} 5"));
    assert!(!node.log().contains("hidden") && !node.log().contains(SECRET));
}

#[test]
fn what_nobody_takes_outlives_a_crash() {
    let port = free_port();
    let settings = [targets(&[format!("http://127.0.0.1:{port}/")]), ALLOW.into(), "ladder=[]".into()];
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let mut node = Node::start(&[&settings[..], &["live.chunk=1s", "live.reconnect_window=3s"]].concat());
    let publisher = publish(&node, "alice", 30);
    let failed = |node: &Node| read(node, "/api/v1/webhooks")["targets"][0]["failed"].is_string();
    wait("a try that fails", secs(20), || failed(&node).then_some(()));
    node.crash_and_restart();
    publisher.kill();
    let receiver = Receiver::start(port, ok);
    let live = event(&receiver, "stream.live");
    // What was running goes on, and ends, after the crash.
    let ended = event(&receiver, "stream.ended");
    let stored = event(&receiver, "broadcast.stored");
    assert!([&ended, &stored].iter().all(|event| event["broadcast"] == live["broadcast"]));
    let waiting = |node: &Node| read(node, "/api/v1/webhooks")["targets"][0]["waiting"] == 0;
    wait("an empty queue", secs(10), || waiting(&node).then_some(()));
    let files = std::fs::read_dir(node.dir.path().join("data/webhooks")).unwrap();
    assert_eq!(files.flatten().map(|file| file.file_name()).collect::<Vec<_>>(), ["dead"]);
}

#[test]
fn dead_letters_are_seen_and_sent_again() {
    let receiver = Receiver::start(0, |_| (500, String::new()));
    let gone = Receiver::start(0, |_| (410, String::new()));
    let settings = [targets(&[receiver.url(), gone.url()]), ALLOW.into(), "ladder=[]".into()];
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let more = ["webhooks.retry_for=1s", "live.chunk=1s", "live.reconnect_window=0s"];
    let mut node = Node::start(&[&settings[..], &more].concat());
    publish(&node, "alice", 3).wait(secs(20));
    let dead = |node: &Node| read(node, "/api/v1/webhooks/dead")["dead"].as_array().unwrap().clone();
    let letters = wait("three dead letters", secs(20), || Some(dead(&node)).filter(|dead| dead.len() == 3));
    assert_eq!(letters[0]["type"], "stream.live");
    assert_eq!((&letters[0]["tries"], &letters[0]["body"]["stream"]), (&json!(1), &json!("alice")));
    assert!(letters[0]["why"].as_str().unwrap().contains("500"), "{letters:#?}");
    let target = &read(&node, "/api/v1/webhooks")["targets"];
    assert_eq!((&target[0]["state"], &target[0]["dead"]), (&json!("failing"), &json!(3)));
    // It was told once, and never again.
    assert_eq!((&target[1]["state"], gone.posts().len()), (&json!("gone"), 1));

    node.crash_and_restart();
    receiver.answer(ok);
    let letters = dead(&node);
    assert_eq!(letters.len(), 3);
    let path = |n: usize| format!("/api/v1/webhooks/dead/{}", letters[n]["id"].as_str().unwrap());
    let before = receiver.posts().len();
    assert_eq!(node.admin("POST", &format!("{}/retry", path(0)), None).status, 202);
    let again = wait("the letter", secs(10), || receiver.posts().into_iter().nth(before));
    assert!(is_signed(&again));
    assert_eq!(again.header("webhook-id"), letters[0]["event"]);
    // The same from the command line.
    let says = |args: &[&str]| String::from_utf8(node.weir(&[&["webhooks"], args].concat()).stdout).unwrap();
    let id = letters[1]["id"].as_str().unwrap();
    assert!(says(&["dead"]).contains(id) && says(&["list"]).contains("http://127.0.0.1"), "{}", says(&["list"]));
    assert_eq!(says(&["forget", id]), format!("{id} is forgotten\n"));
    assert_eq!(node.admin("DELETE", &path(1), None).status, 404);
    assert_eq!(node.admin("POST", "/api/v1/webhooks/dead/x/retry", None).status, 404);
    assert_eq!(dead(&node).len(), 1);
}

#[test]
fn an_encoder_that_does_badly_is_told_of() {
    let receiver = Receiver::start(0, ok);
    let node = Node::start(&[&targets(&[receiver.url()]), ALLOW, "ladder=[]", "live.chunk=1s"]);
    // A keyframe in ten seconds.
    let _publisher = Publisher::test_picture(&node, "alice", "160x90", 30, "-g 300 -keyint_min 300", "", 30);
    let warned = event(&receiver, "health.warning");
    let shown = wait("the warning", secs(5), || {
        let shown = read(&node, "/api/v1/streams/alice")["warnings"][0]["code"].clone();
        shown.is_string().then_some(shown)
    });
    assert_eq!((&warned["stream"], &warned["data"]["code"]), (&json!("alice"), &shown), "{warned}");
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    let check = |settings: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("check");
        settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
        let output = command.output().expect("the weir binary");
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let target = targets(&["http://127.0.0.1:9/x?token=hidden".into()]);
    let (fine, words) = check(std::slice::from_ref(&target));
    assert!(!fine && words.contains("allow_private") && !words.contains("hidden"), "{words}");
    let (fine, words) = check(&[target, ALLOW.into()]);
    assert!(fine && words.contains("webhook") && !words.contains("hidden"), "{words}");
}

fn asks(receiver: &Receiver, key: &str) -> Vec<String> {
    vec![
        format!("{key}={}", receiver.url()),
        format!("auth.url_secret={SECRET}"),
        ALLOW.into(),
        "auth.url_timeout=500ms".into(),
        "ladder=[]".into(),
    ]
}

#[test]
fn a_backend_decides_who_publishes() {
    let backend = Receiver::start(0, |post| {
        assert!(is_signed(post));
        match post.json()["key"].as_str().unwrap() {
            "alice?key=good" => (204, String::new()),
            "opaque-1" => (200, r#"{ "stream": "bob" }"#.into()),
            "slow" => (0, String::new()),
            "broken" => (500, String::new()),
            _ => (403, r#"{ "detail": "your account is closed" }"#.into()),
        }
    });
    let settings = asks(&backend, "auth.publish_url");
    let mut settings: Vec<_> = settings.iter().map(String::as_str).collect();
    // It alone decides.
    settings.push("auth.publish=keys");
    let node = Node::start(&settings);
    let open = |key: &str| Connection::open(&node, key).map_err(|why| why.to_string());
    assert!(open("alice?key=good").is_ok());
    let asked = backend.posts()[0].json();
    let expected = json!({ "action": "publish", "stream": "alice", "key": "alice?key=good", "address": "127.0.0.1",
        "protocol": "rtmp", "node": "node-1" });
    assert_eq!(asked, expected);
    let refused = |key: &str| open(key).err().expect("it is refused");
    let words = refused("alice?key=bad");
    assert!(words.contains("NetStream.Publish.Denied") && words.contains("your account is closed"), "{words}");
    for key in ["slow", "broken"] {
        let words = refused(key);
        assert!(words.contains("NetStream.Publish.Rejected") && words.contains("cannot be found out"), "{words}");
    }
    let _publisher = publish(&node, "opaque-1", 30);
    node.wait_live("bob");
    assert!(!node.log().contains("hidden") && !node.log().contains("key=good"));
}

#[test]
fn a_backend_decides_who_watches() {
    let backend = Receiver::start(0, |post| {
        assert!(is_signed(post));
        match post.json()["ticket"].as_str() {
            None => (204, String::new()),
            Some("broken") => (500, String::new()),
            Some(_) => (403, r#"{ "detail": "not subscribed" }"#.into()),
        }
    });
    let settings = asks(&backend, "auth.play_url");
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let node = Node::start(&[&settings[..], &["live.chunk=1s"]].concat());
    let _publisher = publish(&node, "alice", 30);
    let live = node.wait_live("alice");
    for _ in 0..20 {
        assert_eq!(get(&node.url("/hls/alice/index.m3u8")).status, 200);
    }
    assert_eq!(backend.posts().len(), 1);
    let expected =
        json!({ "action": "play", "stream": "alice", "address": "127.0.0.1", "protocol": "hls", "node": "node-1" });
    assert_eq!(backend.posts()[0].json(), expected);
    // Media are behind it, too, and so is what the API tells of recordings.
    let broadcast = live["broadcast"].as_str().unwrap();
    let media = format!("hls/alice/{broadcast}/source/index.m3u8");
    let first = get(&node.url(&format!("/{media}"))).text();
    let chunk = first.lines().find(|line| line.ends_with(".m4s")).expect("a chunk").to_owned();
    let paths = ["hls/alice/index.m3u8".to_owned(), media, format!("hls/alice/{broadcast}/source/{chunk}")];
    for path in
        paths.iter().map(String::as_str).chain(["ticket/hls/alice/index.m3u8", "api/v1/streams/alice/broadcasts"])
    {
        let refused = get(&node.url(&format!("/t/no/{path}")));
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
        assert!(refused.text().contains("not subscribed") && refused.text().contains("play_refused"));
    }
    assert_eq!(get(&node.url(&format!("/hls/alice/{broadcast}/source/{chunk}"))).status, 200);
    assert_eq!(backend.posts().len(), 2);
    let unsure = get(&node.url("/t/broken/hls/alice/index.m3u8"));
    assert_eq!(unsure.status, 503, "{}", unsure.text());
    assert!(unsure.text().contains("play_unsure") && !unsure.header("retry-after").is_empty());
    // A refusal does not count for long.
    backend.answer(ok);
    let again = || get(&node.url("/t/no/hls/alice/index.m3u8")).status == 200;
    wait("another answer", Duration::from_secs(8), || again().then_some(()));
    assert!(!node.log().contains("hidden"));
}
