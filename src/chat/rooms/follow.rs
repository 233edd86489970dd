//! A room that another node hosts: one long answer brings what is told there, requests are handed on.
//!
//! Between two nodes: `GET` [`PATH`]`{stream}?after={id}` is answered with [`Line`]s, a JSON object each, until either end has
//! enough; `POST` there takes one [`Posted`] and answers with the event's id, or with a refusal.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use serde_json::value::RawValue;
use tracing::{debug, info};

use super::*;
use crate::cache::Lines;

/// Where nodes speak of rooms; the stream's id follows.
pub const PATH: &str = "/internal/v1/chat/";
/// A host says something at least this often; one that is silent for so long is gone.
const BEAT: Duration = Duration::from_millis(250);
const SILENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);
const LINE_MAX: usize = 4 << 20;
const ANSWER_MAX: usize = 64 << 10;
/// Requests that are handed on at a time.
const AT_ONCE: usize = 64;

/// What a host says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first word: all events after `base` follow, or were asked for before.
    Base { base: EventId, known: Known },
    /// What counts from now on.
    Known(Known),
    /// What is told.
    Events(Vec<Box<RawValue>>),
    /// Nothing comes any more that has a smaller id.
    Floor { floor: EventId },
}

/// A request on its way to the host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Posted {
    pub who: Who,
    pub nonce: Option<String>,
    pub act: Act,
    pub hops: u8,
}

/// What a node tells one that follows a room.
pub fn lines(room: Arc<Handle>, after: EventId) -> impl Stream<Item = Bytes> {
    let hub = room.hub().clone();
    if after > hub.newest() {
        room.is_behind.notify_one();
    }
    let line = |line: &Line| {
        let mut text = serde_json::to_vec(line).expect("plain data");
        text.push(b'\n');
        Bytes::from(text)
    };
    let events = |events: &[Told]| {
        let raw = |told: &Told| RawValue::from_string(told.json.to_string()).expect("it was made of an event");
        Line::Events(events.iter().map(raw).collect())
    };
    let begin = async move {
        let (known, found, base) = (room.known(), hub.after(after), hub.base().max(after));
        let base = Line::Base { base, known: Known::clone(&known) };
        let newest = found.events.last().map_or(after, |told| told.id);
        let first = [line(&base), line(&events(&found.events))].concat();
        (Bytes::from(first), (room, hub, newest, known))
    };
    futures::stream::once(begin).flat_map(move |(first, state)| {
        let rest = futures::stream::unfold(state, move |(room, hub, newest, known)| async move {
            // Read before what follows: nothing that comes later has a smaller id.
            let floor = hub.floor();
            let found = hub.wait_after(newest, BEAT).await;
            let next = found.events.last().map_or(newest, |told| told.id);
            let (mut text, now_known) = (Vec::new(), room.known());
            // It is known before it is told.
            if !Arc::ptr_eq(&known, &now_known) {
                text.extend_from_slice(&line(&Line::Known(Known::clone(&now_known))));
            }
            if !found.events.is_empty() {
                text.extend_from_slice(&line(&events(&found.events)));
            }
            text.extend_from_slice(&line(&Line::Floor { floor }));
            Some((Bytes::from(text), (room, hub, next, now_known)))
        });
        futures::stream::once(async move { first }).chain(rest)
    })
}

impl Task {
    /// Follows the room from its host, until another node hosts it or the way there is lost.
    pub(super) async fn follow(&mut self, node: usize, changes: &mut watch::Receiver<()>) -> Over {
        let Some(nodes) = self.rooms.shared.nodes.clone() else { return Over::Moved };
        let stop = self.rooms.shared.stop.clone();
        let (room, after) = (self.room.clone(), self.room.hub.newest());
        let reading = read(nodes.clone(), node, room, after);
        tokio::pin!(reading);
        let mut handing = futures::stream::FuturesUnordered::new();
        let (lost, mut over) = (CancellationToken::new(), None);
        let stream = self.room.stream.clone();
        let handed = |ask| hand_on(nodes.clone(), node, stream.clone(), ask, lost.clone());
        loop {
            if let Some(over) = over {
                // What is on its way is asked again where the room is hosted then.
                lost.cancel();
                while let Some(back) = handing.next().await {
                    self.again.extend(back);
                }
                return over;
            }
            for ask in self.again.drain(..) {
                handing.push(handed(ask));
            }
            tokio::select! {
                Some(back) = handing.next() => {
                    if back.is_some() {
                        over = Some(Over::Moved);
                        self.again.extend(back);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                Some(ask) = self.asked.recv(), if handing.len() < AT_ONCE => {
                    handing.push(handed(ask));
                }
                why = &mut reading => {
                    debug!(stream = %self.room.stream, node = %nodes.name(node), %why, "a room's host is lost");
                    over = Some(Over::Moved);
                    tokio::time::sleep(AGAIN).await;
                }
                () = stop.cancelled() => over = Some(Over::Stopping),
                Ok(()) = changes.changed() => {
                    if self.hosts() != Some(node) {
                        info!(stream = %self.room.stream, "a room has another host");
                        over = Some(Over::Moved);
                    }
                }
                () = tokio::time::sleep(IDLE / 4) => {
                    if self.is_idle() {
                        over = Some(Over::Idle);
                    }
                }
            }
        }
    }
}

/// Reads what a host tells until it is lost; says why.
async fn read(nodes: Arc<Nodes>, node: usize, room: Arc<Handle>, after: EventId) -> String {
    let path = format!("{PATH}{}?after={after}", room.stream);
    let mut lines = match Lines::open(&nodes, node, &path, SILENCE, LINE_MAX).await {
        Ok(lines) => lines,
        Err(why) => return why,
    };
    let mut is_new = after == EventId(0);
    loop {
        let line = match lines.next().await {
            Ok(line) => line,
            Err(why) => return why,
        };
        // A line of a newer version.
        let Ok(line) = serde_json::from_str(&line) else { continue };
        match line {
            Line::Base { base, known } => {
                room.known.store(Arc::new(known));
                if is_new {
                    room.hub.load(base, Vec::new());
                }
            }
            Line::Known(known) => room.known.store(Arc::new(known)),
            Line::Events(events) => {
                let events = events.iter().filter_map(|raw| serde_json::from_str::<Event>(raw.get()).ok());
                let told: Vec<_> = events.map(|event| Told::new(&event)).collect();
                match std::mem::take(&mut is_new) {
                    true => room.hub.load(room.hub.base(), told),
                    false => room.hub.publish(told),
                }
                room.is_ready.send_replace(true);
            }
            Line::Floor { floor } => room.hub.pass(floor),
        }
    }
}

/// Hands a request on; gives it back where the host is lost and another may take it.
async fn hand_on(nodes: Arc<Nodes>, node: usize, stream: StreamId, ask: Ask, lost: CancellationToken) -> Option<Ask> {
    let Ask { who, nonce, act, hops, reply } = ask;
    if hops >= HOPS {
        let why = Refusal::new("moving", "the room is moving").again_in(Duration::from_secs(1));
        let _ = reply.send(Err(why));
        return None;
    }
    let posted = Posted { who, nonce, act, hops: hops + 1 };
    let body = serde_json::to_vec(&posted).expect("plain data");
    let Posted { who, nonce, act, .. } = posted;
    let answered = async {
        let answer = nodes.post(node, &format!("{PATH}{stream}"), body.into()).await.ok()?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.ok()?.to_bytes();
        match status {
            StatusCode::OK => serde_json::from_slice::<Result<Acted, Refusal>>(&bytes).ok(),
            // A host of an older release.
            StatusCode::BAD_REQUEST => Some(Err(Refusal::new("version", "the room's node does not understand this"))),
            _ => None,
        }
    };
    match lost.run_until_cancelled(answered).await.flatten() {
        Some(done) => {
            let _ = reply.send(done);
            None
        }
        // Whoever asked has given up.
        None if reply.is_closed() => None,
        None => Some(Ask { who, nonce, act, hops, reply }),
    }
}

impl Rooms {
    /// Asks the node that hosts a stream's room for something of it; nothing where this node does, or there is no answer.
    pub async fn ask_host(&self, stream: &StreamId, what: &str, most: usize) -> Option<Bytes> {
        let (nodes, node) = (self.shared.nodes.as_ref()?, self.shared.places.host(stream)?);
        let answered = async {
            let answer = nodes.get(node, &format!("{PATH}{stream}/{what}"), 0).await.ok()?;
            let is_ok = answer.status() == StatusCode::OK;
            let bytes = Limited::new(answer.into_body(), most).collect().await.ok()?.to_bytes();
            is_ok.then_some(bytes)
        };
        tokio::time::timeout(PATIENCE, answered).await.ok()?
    }
}
