//! Somebody in a chat, by WebSocket.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    net::TcpStream,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client::IntoClientRequest, protocol::CloseFrame};

use super::{Answer, Node, request, secs};
use weir::time::now;

/// A name that was chosen at a node: the token that says so.
pub fn name(node: &Node, stream: &str, name: &str) -> String {
    let answer = choose(node, stream, name, &[]);
    assert_eq!(answer.status, 201, "{}", answer.text());
    token(&answer)
}

pub fn token(answer: &Answer) -> String {
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    told["token"].as_str().unwrap().to_owned()
}

pub fn choose(node: &Node, stream: &str, name: &str, headers: &[(&str, &str)]) -> Answer {
    post(node, &format!("/api/v1/streams/{stream}/chat/me"), &json!({ "name": name }), headers)
}

pub fn post(node: &Node, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    request("POST", &node.url(path), &headers, Some(&body.to_string()))
}

/// A socket, and all events that came by it.
pub struct Talker {
    socket: WebSocket<TcpStream>,
    /// What was told, in the order in which it came.
    pub told: Vec<Value>,
}

/// Tries to open a socket; the status of a refusal.
pub fn open(node: &Node, stream: &str, token: Option<&str>, after: Option<&str>) -> Result<Talker, u16> {
    let after = after.map(|after| format!("?after={after}")).unwrap_or_default();
    let url = node.url(&format!("/api/v1/streams/{stream}/chat{after}")).replace("http://", "ws://");
    let mut request = url.clone().into_client_request().unwrap();
    if let Some(token) = token {
        request.headers_mut().insert("cookie", format!("a=b; weir_chat={token}").parse().unwrap());
    }
    let address = url.trim_start_matches("ws://").split('/').next().unwrap().to_owned();
    let Ok(tcp) = TcpStream::connect(address) else { return Err(0) };
    tcp.set_read_timeout(Some(secs(10))).unwrap();
    let (socket, _) = tungstenite::client::client(request, tcp).map_err(|why| match why {
        tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        _ => 0,
    })?;
    let mut talker = Talker { socket, told: Vec::new() };
    // The first word is there once the socket counts.
    talker.until("the first word", secs(10), |told| told["type"] == "hello");
    Ok(talker)
}

impl Talker {
    pub fn join(node: &Node, stream: &str, token: Option<&str>) -> Self {
        open(node, stream, token, None).unwrap_or_else(|status| panic!("no socket: {status}"))
    }

    /// Sends a request under a nonce of its own; gives that.
    pub fn send(&mut self, mut act: Value) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Whoever has it again gets what was done then.
        let nonce = format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed));
        act["nonce"] = json!(nonce);
        self.raw(Message::text(act.to_string()));
        nonce
    }

    pub fn raw(&mut self, message: Message) {
        // A socket that was closed says so when it is read.
        let _ = self.socket.send(message);
    }

    /// Has something done; gives the answer.
    pub fn act(&mut self, act: Value) -> Value {
        let nonce = self.send(act);
        self.until("an answer", secs(10), |told| {
            ["ack", "refused"].iter().any(|word| told["type"] == *word) && told["nonce"] == nonce
        })
    }

    /// Says something; gives its id.
    pub fn say(&mut self, text: &str) -> String {
        let answer = self.act(json!({ "type": "say", "text": text }));
        assert_eq!(answer["type"], "ack", "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Waits for something that was not told before.
    pub fn until(&mut self, what: &str, limit: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = now() + limit;
        loop {
            let before = self.told.len();
            assert!(now() < end && self.read(), "{what} did not come: {:#?}", self.told);
            if let Some(found) = self.told[before..].iter().find(|told| is_it(told)) {
                return found.clone();
            }
        }
    }

    pub fn wait_text(&mut self, text: &str) -> Value {
        if let Some(known) = self.told.iter().find(|told| told["text"] == text) {
            return known.clone();
        }
        self.until(text, secs(10), |told| told["text"] == text)
    }

    /// Reads one message; false at the end.
    pub fn read(&mut self) -> bool {
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                let told: Vec<Value> = serde_json::from_str(&text).expect("an array of objects");
                self.told.extend(told);
                true
            }
            Ok(Message::Close(_)) | Err(_) => false,
            Ok(_) => true,
        }
    }

    /// Reads to the end; gives the code and words that it came with.
    pub fn end(&mut self) -> Option<(u16, String)> {
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => {
                    return frame.map(|CloseFrame { code, reason }| (code.into(), reason.to_string()));
                }
                Ok(Message::Text(text)) => self.told.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The texts of messages, in the order in which they came.
    pub fn texts(&self) -> Vec<&str> {
        self.told.iter().filter(|told| told["type"] == "message").map(|told| told["text"].as_str().unwrap()).collect()
    }

    /// The id of the newest event.
    pub fn newest(&self) -> String {
        let ids = self.told.iter().filter(|told| told["type"] != "ack").filter_map(|told| told["id"].as_str());
        ids.max().unwrap_or("0000000000000").to_owned()
    }
}
