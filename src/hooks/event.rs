//! What others are told. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    id::{BroadcastId, StreamId},
    time::UnixMs,
};

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = WebhookEvent)]
pub enum Kind {
    /// The first chunk of a broadcast can be played.
    #[serde(rename = "stream.live")]
    StreamLive,
    /// A broadcast is over.
    #[serde(rename = "stream.ended")]
    StreamEnded,
    /// All of a broadcast is recorded.
    #[serde(rename = "broadcast.stored")]
    BroadcastStored,
    /// Somebody has cut a clip.
    #[serde(rename = "clip.created")]
    ClipCreated,
    /// More watch a broadcast than before.
    #[serde(rename = "viewer.peak")]
    ViewerPeak,
    /// A streamer, or the operator, should look at something.
    #[serde(rename = "health.warning")]
    HealthWarning,
    /// Somebody tries whether webhooks arrive.
    #[serde(rename = "test")]
    Test,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::StreamLive => "stream.live",
            Kind::StreamEnded => "stream.ended",
            Kind::BroadcastStored => "broadcast.stored",
            Kind::ClipCreated => "clip.created",
            Kind::ViewerPeak => "viewer.peak",
            Kind::HealthWarning => "health.warning",
            Kind::Test => "test",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: Kind,
    pub at: UnixMs,
    pub stream: Option<StreamId>,
    pub broadcast: Option<BroadcastId>,
    /// What tells it apart from others of its kind and broadcast.
    detail: String,
    data: Map<String, Value>,
}

impl Event {
    /// Something of a broadcast. Two nodes that tell the same thing give it the same id, so that receivers drop the second.
    pub fn of(kind: Kind, at: UnixMs, stream: StreamId, broadcast: BroadcastId) -> Self {
        Self { kind, at, stream: Some(stream), broadcast: Some(broadcast), detail: String::new(), data: Map::new() }
    }

    /// Something of a node, as `detail` names it: by it alone receivers know two of a kind apart.
    pub fn of_node(kind: Kind, at: UnixMs, detail: &str) -> Self {
        Self { kind, at, stream: None, broadcast: None, detail: detail.into(), data: Map::new() }
    }

    /// One of several of its kind in a broadcast: `detail` tells which.
    pub fn detailed(self, detail: &str) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// With one more thing to say of it.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.into(), value.into());
        self
    }

    /// Its name for receivers: letters, digits, `-` and `_`. A dot would end it in what is signed.
    pub fn id(&self) -> String {
        let parts = [self.kind.as_str(), self.broadcast.as_ref().map_or("", BroadcastId::as_str), &self.detail];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("_").chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
    }

    /// The body that is sent.
    pub fn render(&self, node: &str) -> String {
        let body = Body {
            id: &self.id(),
            kind: self.kind,
            at: &self.at.to_string(),
            node,
            stream: self.stream.as_ref(),
            broadcast: self.broadcast.as_ref(),
            data: &self.data,
        };
        serde_json::to_string(&body).expect("plain data")
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: Kind,
    at: &'a str,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broadcast: Option<&'a BroadcastId>,
    data: &'a Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_tell_the_same_thing_by_one_id() {
        let event = |at| {
            let (stream, broadcast) = ("alice".parse().unwrap(), "01abc".parse().unwrap());
            Event::of(Kind::StreamLive, UnixMs(at), stream, broadcast).with("k", 7)
        };
        assert_eq!(event(1).id(), "stream_live_01abc");
        assert_eq!(event(1).id(), event(2).id());
        assert_eq!(event(1).detailed("a.b").id(), "stream_live_01abc_a_b");
        assert_eq!(
            event(0).render("node-1"),
            r#"{"id":"stream_live_01abc","type":"stream.live","at":"1970-01-01T00:00:00.000Z","node":"node-1","stream":"alice","broadcast":"01abc","data":{"k":7}}"#
        );
        let node = Event::of_node(Kind::Test, UnixMs(0), "x");
        assert_eq!(
            node.render("n"),
            r#"{"id":"test_x","type":"test","at":"1970-01-01T00:00:00.000Z","node":"n","data":{}}"#
        );
        for kind in [Kind::StreamLive, Kind::ClipCreated, Kind::ViewerPeak, Kind::HealthWarning, Kind::Test] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
