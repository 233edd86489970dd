//! Chats: who may write, what everybody reads and in which order, and what is left of it when a node is lost.

mod support;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    Node, Publisher,
    chat::{Talker, choose, name, open, post, token},
    cluster, get, request, secs, signal, wait,
};
use tungstenite::{Bytes, Message};
use weir::time::UnixMs;

/// A stream that exists, with its key.
fn stream(node: &Node, id: &str) -> String {
    let made = node.admin("POST", "/api/v1/streams", Some(&json!({ "id": id }).to_string()));
    assert_eq!(made.status, 201, "{}", made.text());
    let told: Value = serde_json::from_slice(&made.body).unwrap();
    told["key"].as_str().unwrap().to_owned()
}

/// The streamer's token.
fn streamer(node: &Node, id: &str, key: &str) -> String {
    let bearer = format!("Bearer {key}");
    let answer = choose(node, id, "Alice", &[("authorization", &bearer)]);
    assert_eq!(answer.status, 201, "{}", answer.text());
    token(&answer)
}

fn read(node: &Node, path: &str) -> Value {
    let answer = get(&node.url(path));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn texts(events: &Value) -> Vec<&str> {
    let messages = events.as_array().unwrap().iter().filter(|event| event["type"] == "message");
    messages.map(|event| event["text"].as_str().unwrap()).collect()
}

#[test]
fn what_is_said_is_told_to_all_and_read_again_later() {
    let mut node = Node::start(&["ladder=[]"]);
    let key = stream(&node, "alice");
    let (ann, bob) = (name(&node, "alice", "Ann"), name(&node, "alice", "Bob"));
    let mut reader = Talker::join(&node, "alice", None);
    assert!(reader.told[0]["you"].is_null(), "{:?}", reader.told);
    let mut ann = Talker::join(&node, "alice", Some(&ann));
    assert_eq!(ann.told[0]["you"]["name"], "Ann");
    let first = ann.say("hello <b>all</b> \u{202e}&amp; \u{1f600}");
    let heard = reader.wait_text("hello <b>all</b> &amp; \u{1f600}");
    assert_eq!((heard["id"].as_str(), heard["name"].as_str()), (Some(&*first), Some("Ann")));
    // Who has no name reads.
    let refused = reader.act(json!({ "type": "say", "text": "hi" }));
    assert_eq!((refused["type"].as_str(), refused["code"].as_str()), (Some("refused"), Some("no_name")));
    // The same again is the same.
    let say = json!({ "type": "say", "text": "once", "nonce": "mine" }).to_string();
    for _ in 0..2 {
        ann.raw(Message::text(say.clone()));
    }
    let ids: Vec<_> = (0..2)
        .map(|_| ann.until("an ack", secs(5), |told| told["nonce"] == "mine" && told["type"] == "ack")["id"].clone())
        .collect();
    assert_eq!(ids[0], ids[1]);

    // By polling, with a bot's token or a cookie.
    let bearer = format!("Bearer {}", key.split("key=").nth(1).unwrap());
    let made =
        post(&node, "/api/v1/streams/alice/chat/bots", &json!({ "name": "Robo" }), &[("authorization", &bearer)]);
    let robo = format!("Bearer {}", token(&made));
    let path = "/api/v1/streams/alice/chat";
    let said = post(&node, path, &json!({ "text": "beep" }), &[("authorization", &robo)]);
    assert_eq!(said.status, 201, "{}", said.text());
    let beep = reader.wait_text("beep");
    assert_eq!(beep["roles"], json!(["bot"]));
    let after = beep["id"].as_str().unwrap().to_owned();
    let cookie = format!("weir_chat={bob}");
    for n in 0..5 {
        let said = post(&node, path, &json!({ "text": format!("bob {n}") }), &[("cookie", &cookie)]);
        assert_eq!(said.status, 201, "{}", said.text());
    }
    let many = post(&node, path, &json!({ "text": "bob 5" }), &[("cookie", &cookie)]);
    let problem: Value = serde_json::from_slice(&many.body).unwrap();
    assert_eq!((many.status, problem["code"].as_str()), (429, Some("too_fast")), "{problem}");
    assert!(problem["retry_ms"].as_u64() > Some(0) && many.header("retry-after").parse::<u64>().is_ok());
    let polled = read(&node, &format!("{path}/poll?after={after}"));
    assert_eq!(texts(&polled["events"]), ["bob 0", "bob 1", "bob 2", "bob 3", "bob 4"]);
    assert_eq!((polled["gap"].as_bool(), polled["poll_ms"].as_u64()), (Some(false), Some(2000)));
    // Another site's page has not the visitor's name.
    let foreign = [("cookie", &*cookie), ("origin", "http://elsewhere.example")];
    assert_eq!(post(&node, path, &json!({ "text": "bob 6" }), &foreign).status, 403);
    assert_eq!(choose(&node, "alice", "Eve", &[("origin", "http://elsewhere.example")]).status, 403);

    // Whoever comes sees the last ten, and scrolls back.
    let mut cat = Talker::join(&node, "alice", Some(&name(&node, "alice", "Cat")));
    for n in 0..4 {
        cat.say(&format!("cat {n}"));
    }
    let mut late = Talker::join(&node, "alice", None);
    late.wait_text("cat 3");
    let want = ["beep", "bob 0", "bob 1", "bob 2", "bob 3", "bob 4", "cat 0", "cat 1", "cat 2", "cat 3"];
    assert_eq!(late.texts(), want);
    let entered = read(&node, path);
    assert_eq!((texts(&entered["events"]), entered["mode"].as_str()), (want.into(), Some("socket")));
    let page = read(&node, &format!("{path}/history?before={}", entered["events"][0]["id"].as_str().unwrap()));
    assert_eq!(texts(&page["messages"]), ["once", "hello <b>all</b> &amp; \u{1f600}"]);
    assert!(page["next"].is_null());
    // Who comes back misses nothing and gets nothing twice.
    let back = open(&node, "alice", None, Some(&after)).unwrap_or_else(|status| panic!("{status}"));
    assert_eq!(back.texts(), want[1..]);
    assert_eq!(back.told[0]["gap"], Value::Null);
    // Two seconds of it, the same for everybody.
    let begin = read(&node, path)["slot"].as_u64().unwrap();
    let slots = |node: &Node| {
        (begin - 5..=begin).map(|slot| get(&node.url(&format!("{path}/slots/{slot}")))).collect::<Vec<_>>()
    };
    let all = slots(&node);
    assert!(all.iter().all(|slot| slot.status == 200 && slot.header("cache-control").contains("immutable")));
    let said: Vec<_> = all.iter().flat_map(|slot| serde_json::from_slice::<Vec<Value>>(&slot.body).unwrap()).collect();
    assert_eq!(said.len(), 12, "{said:#?}");
    assert_eq!(get(&node.url(&format!("{path}/slots/{}", begin + 100))).status, 404);

    // A crash takes nothing that was acknowledged, and ids go on.
    let newest = late.newest();
    node.crash_and_restart();
    let again = Talker::join(&node, "alice", None);
    assert_eq!(again.texts(), want);
    let bodies = |all: &[support::Answer]| all.iter().map(|slot| slot.body.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&slots(&node)), bodies(&all));
    let ann = name(&node, "alice", "Ann2");
    let next = Talker::join(&node, "alice", Some(&ann)).say("on we go");
    assert!(next > newest, "{next} {newest}");
    assert_eq!(get(&node.url("/api/v1/streams/nobody/chat")).status, 404);
}

#[test]
fn moderators_keep_order_and_their_deeds_last() {
    let mut node = Node::start(&["ladder=[]"]);
    let key = stream(&node, "alice");
    let taken = choose(&node, "alice", "\u{410}lice", &[]);
    assert_eq!(taken.status, 422, "{}", taken.text());
    let mut boss = Talker::join(&node, "alice", Some(&streamer(&node, "alice", &key)));
    assert_eq!(boss.told[0]["you"]["roles"], json!(["streamer"]));
    let (ann, mia) = (name(&node, "alice", "Ann"), name(&node, "alice", "Mia"));
    let mut ann_talks = Talker::join(&node, "alice", Some(&ann));
    let mut mia_talks = Talker::join(&node, "alice", Some(&mia));
    let (one, two) = (ann_talks.say("one"), ann_talks.say("two"));
    let deletes = json!({ "type": "delete", "message": one });
    assert_eq!(mia_talks.act(deletes.clone())["code"], "forbidden");
    let user = |talker: &Talker| talker.told[0]["you"]["user"].clone();
    let (ann_is, mia_is) = (user(&ann_talks), user(&mia_talks));
    assert_eq!(boss.act(json!({ "type": "moderator", "user": mia_is, "on": true }))["type"], "ack");
    assert_eq!(mia_talks.act(deletes)["type"], "ack");
    ann_talks.until("the deletion", secs(5), |told| told["type"] == "delete" && told["message"] == one);
    // What it would be without is not told, in whatever way one asks.
    let path = "/api/v1/streams/alice/chat";
    assert_eq!(texts(&read(&node, &format!("{path}/history"))["messages"]), ["two"]);
    let slow = json!({ "type": "set", "settings": { "slow": 30, "blocked": ["darn"] } });
    assert_eq!(mia_talks.act(slow)["type"], "ack");
    let told = ann_talks.until("slow mode", secs(5), |told| told["type"] == "room");
    assert_eq!((told["settings"]["slow"].as_u64(), told["settings"]["blocked"].is_null()), (Some(30), true));
    assert_eq!(ann_talks.act(json!({ "type": "say", "text": "darn" }))["code"], "blocked");
    let why = ann_talks.act(json!({ "type": "say", "text": "three" }));
    assert_eq!((why["code"].as_str(), why["retry_ms"].as_u64() > Some(20_000)), (Some("slow"), true), "{why}");
    let ban = json!({ "type": "ban", "user": ann_is, "seconds": 600, "reason": "spam" });
    assert_eq!(mia_talks.act(ban)["type"], "ack");
    ann_talks.until("the purge", secs(5), |told| told["type"] == "purge" && told["user"] == ann_is);
    let why = ann_talks.act(json!({ "type": "say", "text": "four" }));
    assert_eq!(
        (why["code"].as_str(), why["text"].as_str().unwrap().contains("spam")),
        (Some("timeout"), true),
        "{why}"
    );
    assert_eq!(texts(&read(&node, &format!("{path}/history"))["messages"]), [""; 0]);

    node.crash_and_restart();
    let mut ann_talks = Talker::join(&node, "alice", Some(&ann));
    assert_eq!(ann_talks.act(json!({ "type": "say", "text": "five" }))["code"], "timeout");
    assert_eq!(ann_talks.told[0]["settings"]["slow"], 30);
    let mut mia_talks = Talker::join(&node, "alice", Some(&mia));
    assert_eq!(mia_talks.told[0]["you"]["roles"], json!(["moderator"]));
    assert_eq!(mia_talks.act(json!({ "type": "unban", "user": ann_is }))["type"], "ack");
    assert_eq!(mia_talks.act(json!({ "type": "set", "settings": {} }))["type"], "ack");
    let six = ann_talks.say("six");
    assert!(six > two);
    // Off for this stream.
    assert_eq!(mia_talks.act(json!({ "type": "set", "settings": { "enabled": false } }))["type"], "ack");
    wait("the chat to be off", secs(5), || (get(&node.url(path)).status == 404).then_some(()));
    assert!(node.weir(&["stream", "chat", "alice", "on"]).status.success());
    assert_eq!(read(&node, path)["settings"]["enabled"], true);
}

#[test]
fn what_waits_is_let_through_and_emotes_have_their_pictures() {
    let mut node = Node::start(&["ladder=[]"]);
    let key = stream(&node, "alice");
    let bearer = format!("Bearer {}", key.split("key=").nth(1).unwrap());
    let as_owner: &[(&str, &str)] = &[("authorization", &bearer)];
    let path = |rest: &str| format!("/api/v1/streams/alice/chat{rest}");
    let mut alice = Talker::join(&node, "alice", Some(&streamer(&node, "alice", &key)));
    let mut ann = Talker::join(&node, "alice", Some(&name(&node, "alice", "Ann")));
    let set = json!({ "type": "set", "settings": { "held": ["maybe"], "blocked": ["never"] } });
    assert_eq!(alice.act(set)["type"], "ack");
    let answer = ann.act(json!({ "type": "say", "text": "maybe" }));
    assert_eq!((&answer["type"], &answer["held"]), (&json!("ack"), &json!(true)));
    // Who may see what waits, and it is there after a kill.
    for (headers, status) in [(&[][..], 403), (as_owner, 200)] {
        assert_eq!(request("GET", &node.url(&path("/rules")), headers, None).status, status);
    }
    node.crash();
    node.start_again();
    let rules = |node: &Node| -> Value {
        serde_json::from_slice(&request("GET", &node.url(&path("/rules")), as_owner, None).body).unwrap()
    };
    let told = rules(&node);
    assert_eq!((&told["held"][0]["text"], &told["settings"]["blocked"]), (&json!("maybe"), &json!(["never"])));
    let mut alice = Talker::join(&node, "alice", Some(&streamer(&node, "alice", &key)));
    let mut reader = Talker::join(&node, "alice", None);
    let judge = json!({ "type": "judge", "message": told["held"][0]["id"], "show": true });
    assert_eq!(alice.act(judge)["type"], "ack");
    assert_eq!(reader.wait_text("maybe")["name"], "Ann");
    assert_eq!(rules(&node)["held"], json!([]));

    let gif = "GIF89a\u{1}\0\u{1}\0\0\0\0;";
    let put = |name: &str, headers, body: &str| {
        request("PUT", &node.url(&path(&format!("/emotes/{name}"))), headers, Some(body)).status
    };
    assert_eq!(put("wave", &[], gif), 401);
    let large = "GIF89a\u{1}\0\u{9}\u{9}\0\0\0;";
    let act = json!({ "type": "emote", "name": "wave", "picture": "0123456789abcdef0123456789abcdef.gif" });
    assert_eq!(alice.act(act)["code"], "forbidden");
    for (name, body, status) in
        [("wave", "<svg/>", 422), ("wave", large, 422), ("a.b", gif, 422), ("wave", &"x".repeat(300_000), 413)]
    {
        assert_eq!(put(name, as_owner, body), status, "{name}");
    }
    assert_eq!(put("wave", as_owner, gif), 201);
    let told = reader.until("the emote", secs(5), |told| told["type"] == "emote");
    assert_eq!(told["name"], "wave");
    let file = told["picture"].as_str().unwrap().to_owned();
    let late = Talker::join(&node, "alice", None);
    assert_eq!(late.told[0]["emotes"]["wave"], file);
    let url = node.url(&path(&format!("/emotes/{file}")));
    let picture = get(&url);
    assert_eq!((picture.status, picture.header("content-type"), picture.text()), (200, "image/gif", gif.into()));
    // The sweeper leaves it alone.
    assert_eq!(node.admin("POST", "/api/v1/jobs/sweep", None).status, 202);
    wait("the sweep", secs(10), || {
        let jobs = node.admin("GET", "/api/v1/jobs", None).text();
        jobs.contains(r#""state":"done""#).then_some(())
    });
    assert_eq!(get(&url).status, 200);
    assert_eq!(request("DELETE", &node.url(&path("/emotes/wave")), as_owner, None).status, 204);
    assert_eq!(get(&url).status, 404);
    let deeds = request("GET", &node.url(&path("/audit?limit=2")), as_owner, None);
    let deeds: Value = serde_json::from_slice(&deeds.body).unwrap();
    assert_eq!((&deeds["acts"][0]["act"]["type"], &deeds["acts"][1]["name"]), (&json!("emote"), &json!("Operator")));
    assert!(deeds["next"].is_string());
}

/// Viewers who come through a proxy are told apart by what it says of them, and by nobody else's word.
#[test]
fn a_ban_of_addresses_is_for_the_viewer_behind_a_proxy() {
    for (proxies, told) in [("[]", 201), (r#"["127.0.0.0/8"]"#, 403)] {
        let node = Node::start(&["ladder=[]", &format!("http.trusted_proxies={proxies}")]);
        let key = stream(&node, "alice");
        let mut alice = Talker::join(&node, "alice", Some(&streamer(&node, "alice", &key)));
        assert_eq!(alice.act(json!({ "type": "ban_address", "prefix": "198.51.100.0/24" }))["type"], "ack");
        let from = |address| [("x-forwarded-for", address), ("x-forwarded-proto", "https")];
        let ann = choose(&node, "alice", "Ann", &from("198.51.100.7"));
        assert_eq!(ann.header("set-cookie").contains("; Secure"), told == 403, "{}", ann.header("set-cookie"));
        let bearer = format!("Bearer {}", token(&ann));
        let say = |address, text: &str| {
            let headers = [&from(address)[..], &[("authorization", &bearer)]].concat();
            post(&node, "/api/v1/streams/alice/chat", &json!({ "text": text }), &headers).status
        };
        assert_eq!(say("198.51.100.7", "one"), told);
        assert_eq!(say("203.0.113.9", "two"), 201);
        // What a viewer has put there himself stands before what the proxy has seen.
        assert_eq!(say("203.0.113.9, 198.51.100.7", "three"), told);
    }
}

#[test]
fn whoever_sends_what_is_not_allowed_disturbs_nobody_else() {
    let node = Node::start(&["ladder=[]", "chat.max_sockets=6"]);
    stream(&node, "alice");
    let (ann, eve) = (name(&node, "alice", "Ann"), name(&node, "alice", "Eve"));
    let mut ann = Talker::join(&node, "alice", Some(&ann));
    let join = || Talker::join(&node, "alice", Some(&eve));
    let mut eves = [join(), join(), join()];
    eves[0].raw(Message::Binary(Bytes::from_static(b"\x00")));
    eves[1].raw(Message::text("x".repeat(9000)));
    for n in 0..200 {
        eves[2].raw(Message::text(json!({ "type": "say", "text": format!("spam {n}") }).to_string()));
    }
    let codes: Vec<_> = eves.iter_mut().map(|eve| eve.end().map(|(code, _)| code)).collect();
    assert_eq!(codes, [Some(1003), Some(1009), Some(1008)]);
    let mut eve = join();
    let (mine, other) = (ann.newest(), "zzzzzzzzzzzzz");
    for (bad, code) in [
        ("{", "bad_request"),
        ("[]", "bad_request"),
        (r#"{"type":"say"}"#, "bad_request"),
        (r#"{"type":"fly"}"#, "bad_request"),
        (r#"{"type":"say","text":"x","reply":"not an id"}"#, "bad_request"),
        (r#"{"type":"say","text":"  "}"#, "empty"),
        (r#"{"type":"ban","user":"../x"}"#, "bad_request"),
        (r#"{"type":"purge","user":"g-1"}"#, "forbidden"),
    ] {
        eve.raw(Message::text(bad));
        let told = eve.until(bad, secs(5), |told| told["type"] == "refused");
        assert_eq!(told["code"], code, "{bad}: {told}");
    }
    let path = "/api/v1/streams/alice/chat";
    for query in [
        format!("/history?before={other}"),
        "/poll?after=x".into(),
        "/slots/-1".into(),
        "/slots/99999999999999999".into(),
    ] {
        let status = get(&node.url(&format!("{path}{query}"))).status;
        assert!([400, 404].contains(&status), "{query}: {status}");
    }
    // Another key's token is nobody's.
    let forged = open(&node, "alice", Some("eyJhbGciOiJIUzI1NiIsImtpZCI6Ing1In0.e30.x"), None);
    assert!(forged.is_ok_and(|forged| forged.told[0]["you"].is_null()));
    assert!(!ann.say("still here").is_empty() && ann.newest() > mine);
    let spam = ann.texts().iter().filter(|text| text.starts_with("spam")).count();
    assert!(spam <= 5, "{spam}");

    // Over the bound whoever comes polls.
    let crowd: Vec<_> = (0..6).map_while(|_| open(&node, "alice", None, None).ok()).collect();
    assert!(crowd.len() < 6);
    assert_eq!(open(&node, "alice", None, None).err(), Some(503));
    assert_eq!(read(&node, path)["mode"], "poll");
    drop(crowd);
    wait("room for sockets", secs(10), || (read(&node, path)["mode"] == "socket").then_some(()));
}

#[test]
fn a_host_that_is_killed_loses_and_doubles_nothing_that_was_acknowledged() {
    let mut nodes = cluster::start(&["ladder=[]"]);
    let [host, next, third] = cluster::places("alice");
    stream(&nodes[0], "alice");
    let (ann, bob) = (name(&nodes[next], "alice", "Ann"), name(&nodes[third], "alice", "Bob"));
    let mut ann = Talker::join(&nodes[next], "alice", Some(&ann));
    let mut bob = Talker::join(&nodes[third], "alice", Some(&bob));
    let mut at_host = Talker::join(&nodes[host], "alice", None);
    let mut acknowledged = Vec::new();
    for n in 0..3 {
        acknowledged.push(ann.say(&format!("ann {n}")));
        acknowledged.push(bob.say(&format!("bob {n}")));
    }
    at_host.wait_text("bob 2");
    // Said in the moment of its death, by both.
    let nonces =
        [ann.send(json!({ "type": "say", "text": "ann 3" })), bob.send(json!({ "type": "say", "text": "bob 3" }))];
    nodes[host].crash();
    for (talker, nonce) in [&mut ann, &mut bob].into_iter().zip(&nonces) {
        let ack = talker.until("an answer", secs(10), |told| told["nonce"] == **nonce && told["text"].is_null());
        assert_eq!(ack["type"], "ack", "{ack}");
        acknowledged.push(ack["id"].as_str().unwrap().to_owned());
    }
    acknowledged.push(bob.say("bob 4"));
    for talker in [&mut ann, &mut bob] {
        talker.wait_text("bob 4");
        let messages = talker.told.iter().filter(|told| told["type"] == "message");
        let ids: Vec<_> = messages.map(|told| told["id"].as_str().unwrap()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        assert!(acknowledged.iter().all(|id| ids.contains(&&**id)), "{acknowledged:?} {ids:?}");
        assert_eq!(ids.len(), acknowledged.len());
    }
    // It comes back, and hosts the room again; those at other nodes notice nothing.
    let newest = ann.newest();
    nodes[host].start_again();
    nodes.iter().for_each(cluster::wait_together);
    let mut back = open(&nodes[host], "alice", None, Some(&newest)).unwrap_or_else(|status| panic!("{status}"));
    assert_eq!(back.texts(), [""; 0]);
    let last = ann.say("all back");
    assert!(last > newest);
    for talker in [&mut bob, &mut back] {
        assert_eq!(talker.wait_text("all back")["id"], last);
    }
}

#[test]
fn a_host_that_slept_learns_what_was_said_meanwhile() {
    let nodes = cluster::start(&["ladder=[]"]);
    let [host, next, _] = cluster::places("alice");
    stream(&nodes[0], "alice");
    let ann = name(&nodes[next], "alice", "Ann");
    let mut ann = Talker::join(&nodes[next], "alice", Some(&ann));
    let mut at_host = Talker::join(&nodes[host], "alice", None);
    let before = ann.say("before");
    at_host.wait_text("before");
    signal(nodes[host].pid(), "STOP");
    let meanwhile = ann.say("meanwhile");
    signal(nodes[host].pid(), "CONT");
    assert_eq!(at_host.wait_text("meanwhile")["id"], meanwhile);
    let after = ann.say("after");
    assert_eq!(at_host.wait_text("after")["id"], after);
    assert!(before < meanwhile && meanwhile < after);
    for talker in [&mut ann, &mut at_host] {
        talker.wait_text("after");
        assert_eq!(talker.texts(), ["before", "meanwhile", "after"]);
    }
}

#[test]
fn who_moderates_is_known_at_every_node() {
    let nodes = cluster::start(&["ladder=[]"]);
    let [_, one, other] = cluster::places("alice");
    let key = stream(&nodes[one], "alice");
    let mut alice = Talker::join(&nodes[one], "alice", Some(&streamer(&nodes[one], "alice", &key)));
    let ann = name(&nodes[other], "alice", "Ann");
    let talker = Talker::join(&nodes[other], "alice", Some(&ann));
    let user = talker.told[0]["you"]["user"].clone();
    let bearer = format!("Bearer {ann}");
    let rules = nodes[other].url("/api/v1/streams/alice/chat/rules");
    for (on, status) in [(true, 200), (false, 403)] {
        assert_eq!(alice.act(json!({ "type": "moderator", "user": user, "on": on }))["type"], "ack");
        wait("her rights at the other node", secs(5), || {
            (request("GET", &rules, &[("authorization", &bearer)], None).status == status).then_some(())
        });
    }
}

/// Two people in real browsers at two nodes talk while the node that hosts their room is killed and comes back.
#[test]
fn two_browsers_at_two_nodes_miss_no_line_while_the_host_is_killed() {
    let mut nodes = cluster::start(&["ladder=[]"]);
    let [host, one, other] = cluster::places("alice");
    stream(&nodes[0], "alice");
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/web/test/talk.mjs"));
    command.args([one, other].map(|node| nodes[node].url("/watch/alice")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut talk = command.spawn().expect("node must be installed, and `npm ci` run in web/");
    let said = BufReader::new(talk.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let talking = said.into_iter().any(|line| line == "talking");
    if talking {
        nodes[host].crash();
        // They go on without it, and then with it.
        wait("lines at the next host", secs(20), || (lines(&nodes[one]) >= 10).then_some(()));
        nodes[host].start_again();
        nodes.iter().for_each(cluster::wait_together);
        let before = lines(&nodes[host]);
        wait("lines at the host that came back", secs(20), || (lines(&nodes[host]) > before + 2).then_some(()));
    }
    drop(talk.stdin.take());
    let output = talk.wait_with_output().expect("our child");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(output.status.success() && talking, "{told:#}");
    let errors = told["errors"].as_array().unwrap();
    assert!(errors.iter().all(|seen| seen["cspViolations"] == json!([])), "{errors:?}");
}

/// A recording shows what was said while it was made, beside the picture of that moment.
#[test]
fn a_recording_replays_its_chat_in_step_with_its_picture() {
    let node = Node::start(&["ladder=[]", "live.chunk=1s", "live.reconnect_window=0s"]);
    stream(&node, "alice");
    let bearer = format!("Bearer {}", name(&node, "alice", "Ann"));
    let mut said = 0;
    let mut say = || {
        let text = format!("line {said}");
        said += 1;
        let answer = post(&node, "/api/v1/streams/alice/chat", &json!({ "text": text }), &[("authorization", &bearer)]);
        answer.status == 201
    };
    assert!(say());
    let mut publisher = Publisher::test_picture(&node, "alice", "320x180", 30, "-g 30", "-b:a 64k", 9);
    node.wait_live("alice");
    while publisher.running() {
        // As fast as one may.
        say();
        std::thread::park_timeout(Duration::from_millis(400));
    }
    let broadcast = wait("the recording", secs(10), || {
        let told = read(&node, "/api/v1/streams/alice/broadcasts")["broadcasts"][0].take();
        (told["state"] == "ended").then(|| told["id"].as_str().map(str::to_owned)).flatten()
    });
    assert!(wait("a line after it", secs(5), || say().then_some(true)));

    let path = format!("/api/v1/broadcasts/{broadcast}/chat");
    let all = read(&node, &path);
    let messages = all["messages"].as_array().unwrap();
    assert!(messages.len() > 5 && all["next"].is_null(), "{all:#}");
    assert!(messages.iter().all(|message| message["text"] != "line 0"), "{all:#}");
    let ids: Vec<_> = messages.iter().map(|message| message["id"].clone()).collect();
    let half = read(&node, &format!("{path}?after={}&limit=2", ids[1].as_str().unwrap()));
    assert_eq!((&half["messages"][0]["id"], &half["next"]), (&ids[2], &ids[3]), "{half:#}");
    let back = read(&node, &format!("{path}?before={}&limit=1", ids[1].as_str().unwrap()));
    assert_eq!(back["messages"][0]["id"], ids[0]);
    let time = all["messages"][2]["time"].as_str().unwrap();
    assert_eq!(read(&node, &format!("{path}?from={time}"))["messages"][0]["id"], ids[2]);
    assert_eq!(read(&node, &format!("{path}?until={time}&limit=1"))["messages"][0]["id"], ids[1]);
    for wrong in ["from=yesterday", "after=x", "after=0000000000000&before=0000000000000"] {
        assert_eq!(get(&node.url(&format!("{path}?{wrong}"))).status, 400, "{wrong}");
    }
    let exported = get(&node.url(&format!("{path}.jsonl")));
    let lines: Vec<Value> = exported.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), all["messages"]);

    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/web/test/replay.mjs"));
    let output = command.arg(node.url(&format!("/watch/alice/{broadcast}"))).output().expect("node is installed");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(output.status.success(), "{told:#}");
    assert_eq!(told["errors"]["cspViolations"], json!([]), "{told:#}");
    assert_eq!(told["exported"], format!("{path}.jsonl"));
    let at = |message: &Value| UnixMs::parse(message["time"].as_str().unwrap()).unwrap().0 as f64;
    for look in told["looks"].as_array().unwrap() {
        let ms = look["ms"].as_f64().unwrap();
        // It looks four times a second, and draws as often.
        let shown: Vec<_> = messages.iter().filter(|one| at(one) < ms - 1000.0).map(|one| &one["text"]).collect();
        let lines: Vec<_> = look["lines"].as_array().unwrap().iter().collect();
        assert_eq!(&lines[..shown.len().min(lines.len())], shown, "{look}");
        assert!(messages.iter().all(|one| at(one) <= ms || !lines.contains(&&one["text"])), "{look}");
    }

    // With the recording goes its chat.
    assert_eq!(node.admin("DELETE", &format!("/api/v1/broadcasts/{broadcast}"), None).status, 202);
    assert_eq!(get(&node.url(&path)).status, 410);
}

/// Messages that a node knows of.
fn lines(node: &Node) -> usize {
    let page = read(node, "/api/v1/streams/alice/chat/history?limit=100");
    page["messages"].as_array().unwrap().len()
}
