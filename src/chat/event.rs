//! What everybody in a room is told, as it is stored and sent: one JSON object each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::act::{Picture, Settings};
use crate::id::{EventId, UserId};

/// What somebody may do in a room, and is seen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ChatRole)]
pub enum Role {
    Streamer,
    Moderator,
    Bot,
    /// Holds a ticket for the stream.
    Ticket,
}

/// What everybody in a room is told. Ids grow within a room; what has one is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ChatEvent)]
pub enum Event {
    /// Somebody said something.
    Message(Message),
    /// A message is shown no more.
    Delete { id: EventId, message: EventId },
    /// What this user said before is shown no more.
    Purge { id: EventId, user: UserId },
    /// An emote has this picture from now on; nothing: there is none of this name any more.
    Emote {
        id: EventId,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        picture: Option<Picture>,
    },
    /// What counts in the room from now on.
    Room { id: EventId, settings: Settings },
}

/// Something that somebody said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ChatMessage)]
pub struct Message {
    pub id: EventId,
    pub user: UserId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Plain text, never markup.
    pub text: String,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<EventId>,
    /// What its sender called it: sent again, it is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

impl Event {
    pub fn id(&self) -> EventId {
        match self {
            Event::Message(message) => message.id,
            Event::Delete { id, .. } | Event::Purge { id, .. } | Event::Emote { id, .. } | Event::Room { id, .. } => {
                *id
            }
        }
    }

    pub fn message(&self) -> Option<&Message> {
        if let Event::Message(message) = self { Some(message) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_stored_and_sent_as_before() {
        let id = "000a9jw000001".parse().unwrap();
        let user: UserId = "g-1".parse().unwrap();
        let message = Message {
            id,
            user: user.clone(),
            name: "Ann".into(),
            roles: vec![Role::Moderator],
            text: "hi \"all\"".into(),
            reply: None,
            nonce: Some("7".into()),
        };
        let texts = [
            r#"{"type":"message","id":"000a9jw000001","user":"g-1","name":"Ann","roles":["moderator"],"text":"hi \"all\"","nonce":"7"}"#,
            r#"{"type":"delete","id":"000a9jw000001","message":"000a9jw000001"}"#,
            r#"{"type":"purge","id":"000a9jw000001","user":"g-1"}"#,
        ];
        let events = [Event::Message(message), Event::Delete { id, message: id }, Event::Purge { id, user }];
        for (event, text) in events.iter().zip(texts) {
            assert_eq!(serde_json::to_string(event).unwrap(), text);
            assert_eq!(serde_json::from_str::<Event>(text).unwrap(), *event);
        }
    }
}
