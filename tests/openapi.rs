//! The document of the API says what the API does: a tester reads it, sends what it allows and what it does not, and compares.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::{Node, Publisher, chat, get, receiver::Receiver, request, secs, wait};

/// What is there for the tester to find.
struct Show {
    node: Node,
    _publisher: Publisher,
    _receiver: Receiver,
    broadcast: String,
    ended: String,
    clip: String,
    person: String,
}

fn read(node: &Node, path: &str) -> Value {
    let answer = get(&node.url(path));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn post(node: &Node, path: &str, body: &Value) -> Value {
    let answer = node.admin("POST", path, Some(&body.to_string()));
    assert_eq!(answer.status, 201, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A node with a stream that was live, and one that is, with all that can be known of it.
fn show() -> Show {
    let receiver = Receiver::start(0, |_| (204, String::new()));
    let target =
        format!("webhooks.targets=[{{ url = \"{}\", secret = \"whsec_{}\" }}]", receiver.url(), "A".repeat(32));
    let settings = ["live.chunk=1s", "live.reconnect_window=1s", "ladder=[]", "webhooks.allow_private=true", &target];
    let node = Node::start(&settings);
    post(&node, "/api/v1/streams", &json!({ "id": "live" }));
    post(&node, "/api/v1/streams", &json!({ "id": "spare" }));
    let publish = |seconds| Publisher::test_picture(&node, "live", "160x90", 30, "-g 30", "-b:a 32k", seconds);
    publish(3).wait(secs(20));
    let ended = || read(&node, "/api/v1/streams/live/broadcasts")["broadcasts"][0].clone();
    wait("the end of a broadcast", secs(20), || (ended()["state"] == "ended").then_some(()));
    let ended = ended()["id"].as_str().unwrap().to_owned();
    let clip = post(&node, &format!("/api/v1/broadcasts/{ended}/clips"), &json!({ "from": 0, "to": 1.5 }));
    let publisher = publish(900);
    let live = node.wait_live("live");
    let broadcast = live["broadcast"].as_str().unwrap().to_owned();
    let report = "cid=\"live\",e=t,sid=\"viewer\",sn=0,sta=p,ts=1,v=2";
    assert_eq!(request("POST", &node.url("/api/v1/cmcd"), &[], Some(report)).status, 204);
    let person = chat::name(&node, "live", "ann");
    let proof = format!("Bearer {person}");
    let words = json!({ "text": "hello" });
    let said = chat::post(&node, "/api/v1/streams/live/chat", &words, &[("authorization", &proof)]);
    assert_eq!(said.status, 201, "{}", said.text());
    let clip = clip["id"].as_str().unwrap().to_owned();
    Show { node, _publisher: publisher, _receiver: receiver, broadcast, ended, clip, person }
}

#[test]
fn the_api_does_what_its_document_says() {
    let Show { node, broadcast, ended, clip, person, .. } = &show();
    let admin = node.bearer().trim_start_matches("Bearer ").to_owned();
    let names = [("ADMIN", &admin), ("PERSON", person), ("BROADCAST", broadcast), ("ENDED", ended), ("CLIP", clip)];
    let template = include_str!("schemathesis.toml").to_owned();
    let config = names.iter().fold(template, |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    let file = node.dir.path().join("schemathesis.toml");
    std::fs::write(&file, config).unwrap();
    let mut tester = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/schemathesis"));
    tester.args(["--config-file", file.to_str().unwrap(), "run", &node.url("/api/v1/openapi.json")]);
    let run = tester.output().expect("scripts/schemathesis");
    println!("{}", String::from_utf8_lossy(&run.stdout));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(get(&node.url("/readyz")).status, 200, "{}", node.log());
}

#[test]
fn the_document_is_told_by_the_command_line_too() {
    let told = Command::new(env!("CARGO_BIN_EXE_weir")).arg("openapi").output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let document: Value = serde_json::from_slice(&told.stdout).unwrap();
    let node = Node::start(&[]);
    assert_eq!(read(&node, "/api/v1/openapi.json"), document);
    let paths = document["paths"].as_object().unwrap();
    let mut ids: Vec<_> = Vec::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let named = format!("{method} {path}");
            assert!(
                operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{named} says nothing of itself"
            );
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{named}");
            assert!(operation["responses"]["default"].is_object(), "{named}");
            ids.push(operation["operationId"].as_str().expect("a name").to_owned());
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "two operations have one name");
}
