//! Asks an operator's own backend who may publish and who may watch.
//!
//! A question is a signed POST; its answer counts for a while. However many ask the same thing at the same time, it is asked once,
//! and who goes away meanwhile ends nothing. Without an answer nobody is let in, unless the operator says otherwise.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::warn;
use url::Url;

use super::{address, client::Client, sign::Key};
use crate::{
    auth::tickets::LENGTH_MAX,
    id::StreamId,
    time::{Timestamp, now},
};

/// Answers about viewers that are remembered, some 150 bytes each.
const REMEMBERED: usize = 100_000;
/// How long: where somebody is let in and the answer does not say, where it says, and where somebody is not.
const ADMITTED: u64 = 60;
const TTL: std::ops::RangeInclusive<u64> = 1..=3600;
const REFUSED: Duration = Duration::from_secs(5);
/// That there is no answer: a backend that is back is asked soon, and one that is down not by every viewer.
const UNSURE: Duration = Duration::from_secs(1);
/// Different questions about viewers that wait for an answer; one more has none.
const QUESTIONS: usize = 4096;
/// Calls at the same time, about viewers and about publishers; others wait their turn, within the timeout.
const PLAYS_AT_ONCE: usize = 64;
const PUBLISHES_AT_ONCE: usize = 16;
/// Letters of a backend's words that a person is shown.
const WORDS_MAX: usize = 200;
/// Between two lines of the log about the same trouble.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    pub publish: Option<Url>,
    pub play: Option<Url>,
    pub key: Key,
    pub timeout: Duration,
    /// Without an answer everybody is let in.
    pub fail_open: bool,
}

/// What an answer says of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    Refused(Refused),
    /// There is no answer, so nobody is let in.
    Unsure,
}

/// Somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// He may be with another ticket (401).
    pub unknown: bool,
    /// What the backend says about it.
    pub words: Option<Arc<str>>,
}

/// What a publisher is let in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish {
    /// The stream, where the backend names one.
    Admitted(Option<StreamId>),
    Refused(Refused),
    Unsure,
}

#[derive(Serialize)]
struct Question<'a> {
    action: &'static str,
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<&'a str>,
    address: IpAddr,
    protocol: &'static str,
    node: &'a str,
}

/// What may stand in an answer; all else is passed over, and a body that is none of this says nothing.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Said {
    ttl_s: Option<f64>,
    stream: Option<String>,
    detail: Option<String>,
    message: Option<String>,
}

type Name = [u8; 32];

#[derive(Clone)]
struct Kept {
    verdict: Verdict,
    until: Timestamp,
}

/// See the module.
pub struct Asker {
    config: Config,
    client: Client,
    remembered: Cache<Name, Kept>,
    // Held for look-ups only, never across an await.
    asking: Mutex<HashMap<Name, watch::Receiver<Option<Verdict>>>>,
    plays: Arc<Semaphore>,
    publishes: Arc<Semaphore>,
    /// When it was said last that there is no answer.
    said: AtomicU64,
}

/// How a question ended.
enum Reply {
    Yes(Said),
    No(Refused),
    None,
}

impl Asker {
    pub fn new(config: Config, client: Client) -> Arc<Self> {
        Arc::new(Self {
            config,
            client,
            remembered: Cache::new(REMEMBERED),
            asking: Mutex::default(),
            plays: Arc::new(Semaphore::new(PLAYS_AT_ONCE)),
            publishes: Arc::new(Semaphore::new(PUBLISHES_AT_ONCE)),
            said: AtomicU64::new(0),
        })
    }

    /// Whether the backend decides who may publish.
    pub fn asks_of_publishers(&self) -> bool {
        self.config.publish.is_some()
    }

    /// Whether the backend decides who may watch.
    pub fn asks_of_viewers(&self) -> bool {
        self.config.play.is_some()
    }

    /// Asks whether a publisher may come in, each time. `key` is all that the encoder sent as its stream key, `stream` the name in it
    /// where that is a legal one.
    pub async fn publish(&self, stream: Option<&StreamId>, key: &str, address: IpAddr) -> Publish {
        let Some(url) = &self.config.publish else { return Publish::Unsure };
        let (action, stream, key) = ("publish", stream.map(StreamId::as_str), Some(key));
        let node = &self.config.node;
        let question = Question { action, stream, key, ticket: None, address, protocol: "rtmp", node };
        match self.ask(url, &question, &self.publishes).await {
            Reply::Yes(Said { stream: None, .. }) => Publish::Admitted(None),
            Reply::Yes(Said { stream: Some(name), .. }) => match name.parse() {
                Ok(stream) => Publish::Admitted(Some(stream)),
                Err(why) => {
                    self.say(url, &format_args!("it lets a publisher in as a stream that cannot be: {why}"));
                    Publish::Unsure
                }
            },
            Reply::No(refused) => Publish::Refused(refused),
            Reply::None if self.config.fail_open => Publish::Admitted(None),
            Reply::None => Publish::Unsure,
        }
    }

    /// What is known of a viewer without asking; nothing where nothing is.
    pub fn known(&self, stream: &str, ticket: Option<&str>, address: IpAddr) -> Option<Verdict> {
        self.kept(&name(stream, ticket, address))
    }

    fn kept(&self, name: &Name) -> Option<Verdict> {
        self.remembered.get(name).filter(|kept| now() < kept.until).map(|kept| kept.verdict)
    }

    /// Asks whether a viewer may watch, unless that is known. `ticket` is what stands for one in the path, whatever it is.
    pub async fn play(self: &Arc<Self>, stream: &str, ticket: Option<&str>, address: IpAddr) -> Verdict {
        if ticket.is_some_and(|ticket| ticket.len() > LENGTH_MAX) {
            return Verdict::Refused(Refused { unknown: true, words: None });
        }
        let name = name(stream, ticket, address);
        if let Some(known) = self.kept(&name) {
            return known;
        }
        let mut answer = {
            let mut asking = self.asking.lock().expect("no panic while held");
            // It may have been answered a moment ago.
            if let Some(known) = self.kept(&name) {
                return known;
            }
            match asking.get(&name) {
                Some(answer) => answer.clone(),
                None if asking.len() >= QUESTIONS => {
                    metrics::counter!("weir_auth_url_total", "action" => "play", "result" => "full").increment(1);
                    return self.unsure();
                }
                None => {
                    let (told, answer) = watch::channel(None);
                    asking.insert(name, answer.clone());
                    let (asker, stream, ticket) = (self.clone(), stream.to_owned(), ticket.map(str::to_owned));
                    // Whoever asked first may go away.
                    tokio::spawn(async move {
                        let kept = asker.decide(&stream, ticket.as_deref(), address).await;
                        let verdict = kept.verdict.clone();
                        asker.remembered.insert(name, kept);
                        asker.asking.lock().expect("no panic while held").remove(&name);
                        told.send_replace(Some(verdict));
                    });
                    answer
                }
            }
        };
        let answered = answer.wait_for(Option::is_some).await;
        answered.ok().and_then(|verdict| verdict.clone()).unwrap_or(Verdict::Unsure)
    }

    async fn decide(&self, stream: &str, ticket: Option<&str>, address: IpAddr) -> Kept {
        let node = &self.config.node;
        let question =
            Question { action: "play", stream: Some(stream), key: None, ticket, address, protocol: "hls", node };
        let reply = match &self.config.play {
            Some(url) => self.ask(url, &question, &self.plays).await,
            None => Reply::None,
        };
        let (verdict, long) = match reply {
            Reply::Yes(said) => {
                let seconds = said.ttl_s.map_or(ADMITTED, |seconds| seconds as u64);
                (Verdict::Admitted, Duration::from_secs(seconds.clamp(*TTL.start(), *TTL.end())))
            }
            Reply::No(refused) => (Verdict::Refused(refused), REFUSED),
            Reply::None => (self.unsure(), UNSURE),
        };
        Kept { verdict, until: now() + long }
    }

    fn unsure(&self) -> Verdict {
        if self.config.fail_open { Verdict::Admitted } else { Verdict::Unsure }
    }

    async fn ask(&self, url: &Url, question: &Question<'_>, turns: &Semaphore) -> Reply {
        let limit = self.config.timeout;
        let body = serde_json::to_string(question).expect("plain data");
        let id = format!("ask_{:032x}", rand::random::<u128>());
        let call = async {
            let _turn = turns.acquire().await.expect("never closed");
            self.client.post(url, &self.config.key, &id, body, limit).await
        };
        let answer = timeout(limit, call).await.unwrap_or(Err(super::client::Failure::Late(limit)));
        let reply = match answer {
            Ok(answer) if answer.status.is_success() => {
                Reply::Yes(serde_json::from_slice(&answer.body).unwrap_or_default())
            }
            Ok(answer) if is_refusal(answer.status) => {
                let said: Said = serde_json::from_slice(&answer.body).unwrap_or_default();
                let words = said.detail.or(said.message).map(|words| printable(&words).into());
                Reply::No(Refused { unknown: answer.status == StatusCode::UNAUTHORIZED, words })
            }
            Ok(answer) => {
                self.say(url, &format_args!("it answered {}", answer.status));
                Reply::None
            }
            Err(why) => {
                self.say(url, &why);
                Reply::None
            }
        };
        let result = match &reply {
            Reply::Yes(_) => "admitted",
            Reply::No(_) => "refused",
            Reply::None => "failed",
        };
        metrics::counter!("weir_auth_url_total", "action" => question.action, "result" => result).increment(1);
        reply
    }

    fn say(&self, url: &Url, why: &dyn std::fmt::Display) {
        // Zero is a time at which nothing was said.
        let (at, last) = (now().0.max(1), self.said.load(Ordering::Relaxed));
        let is_new = last == 0 || Timestamp(at) - Timestamp(last) >= SAID_EVERY;
        if is_new && self.said.compare_exchange(last, at, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let outcome = if self.config.fail_open { "everybody is let in" } else { "nobody new is let in" };
            warn!(url = address::shown(url), %why, "the backend does not say who may come in: {outcome}");
        }
    }
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
}

fn printable(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

/// Names a question about a viewer. No stream has a blank in its name, and where it ends a ticket's mark tells it from none.
fn name(stream: &str, ticket: Option<&str>, address: IpAddr) -> Name {
    let mut hash = Sha256::new();
    match address.to_canonical() {
        IpAddr::V4(address) => hash.update(address.octets()),
        IpAddr::V6(address) => hash.update(address.octets()),
    }
    hash.update(stream);
    if let Some(ticket) = ticket {
        hash.update(" ");
        hash.update(ticket);
    }
    hash.finalize().into()
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
