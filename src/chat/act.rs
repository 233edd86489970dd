//! What people do in a room, and what they are answered.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use super::event::Role;
use crate::id::{EventId, UserId};

/// Who does something, as the node that took the request found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Who {
    pub user: UserId,
    pub name: String,
    pub roles: Vec<Role>,
    /// Where the request came from; nothing for programs that hold a key.
    pub address: Option<IpAddr>,
}

impl Who {
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// What somebody does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = ChatAct)]
pub enum Act {
    /// Says something: 500 letters at most.
    Say {
        text: String,
        /// The message that it answers.
        #[serde(default)]
        reply: Option<EventId>,
    },
    /// Shows a message no more: one's own, or any for moderators.
    Delete { message: EventId },
    /// Shows nothing of what a user said so far.
    Purge { user: UserId },
    /// The user may say nothing for so many seconds, or ever (`seconds` absent).
    Ban {
        user: UserId,
        /// Two weeks at most.
        #[serde(default)]
        #[schema(minimum = 1, maximum = 1209600)]
        seconds: Option<u32>,
        #[serde(default)]
        reason: String,
    },
    /// Nobody from these addresses may say anything.
    BanAddress {
        #[schema(value_type = String, example = "192.0.2.0/24")]
        prefix: IpNet,
        #[serde(default)]
        reason: String,
    },
    /// Takes a ban of a user back.
    Unban { user: UserId },
    /// Takes a ban of addresses back.
    UnbanAddress {
        #[schema(value_type = String, example = "192.0.2.0/24")]
        prefix: IpNet,
    },
    /// Makes a user a moderator, or no longer. For the streamer.
    Moderator { user: UserId, on: bool },
    /// Shows a message that waits for a moderator, or lets it go.
    Judge { message: EventId, show: bool },
    /// Gives an emote this picture, or takes it away. For the streamer, by `PUT` and `DELETE .../chat/emotes/NAME`
    /// alone: this is how the audit log tells of it.
    Emote {
        name: String,
        #[serde(default)]
        picture: Option<Picture>,
    },
    /// Changes the room: all of its settings at once.
    Set { settings: Settings },
}

impl Act {
    /// Whether people may ask for it themselves.
    ///
    /// # Errors
    /// It comes with something else that has to be kept first.
    pub fn is_open(&self) -> Result<(), Refusal> {
        match self {
            Act::Emote { .. } => {
                Err(Refusal::new("forbidden", "an emote comes with its picture: PUT .../chat/emotes/NAME"))
            }
            _ => Ok(()),
        }
    }

    /// What it is called, for numbers.
    pub fn kind(&self) -> &'static str {
        match self {
            Act::Say { .. } => "say",
            Act::Delete { .. } => "delete",
            Act::Purge { .. } => "purge",
            Act::Ban { .. } => "ban",
            Act::BanAddress { .. } => "ban_address",
            Act::Unban { .. } => "unban",
            Act::UnbanAddress { .. } => "unban_address",
            Act::Moderator { .. } => "moderator",
            Act::Judge { .. } => "judge",
            Act::Emote { .. } => "emote",
            Act::Set { .. } => "set",
        }
    }
}

/// What counts in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = ChatSettings)]
pub struct Settings {
    /// Whether there is a chat at all, where that is not as the node is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Seconds between two messages of one person; 0: as many as the node allows.
    #[schema(maximum = 3600)]
    pub slow: u32,
    /// Only those who hold a ticket may write.
    pub tickets_only: bool,
    pub emotes_only: bool,
    pub no_links: bool,
    /// The same is not said twice within half a minute.
    pub unique: bool,
    /// Every message waits until a moderator lets it through.
    pub hold_all: bool,
    /// Words whose messages wait so; as those that are blocked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 500)]
    pub held: Vec<String>,
    /// Words that nobody may write; with `*` at the end: that words may not begin with. Told to moderators alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 500)]
    pub blocked: Vec<String>,
}

impl Settings {
    /// What everybody may know.
    pub fn public(&self) -> Self {
        Self { blocked: Vec::new(), held: Vec::new(), ..self.clone() }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A word for programs.
    pub code: String,
    pub text: String,
    /// When it may be tried again, ms; nothing: trying again does not help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

impl Refusal {
    pub fn new(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into(), retry_ms: None }
    }

    pub fn again_in(self, wait: Duration) -> Self {
        Self { retry_ms: Some(wait.as_millis() as u64), ..self }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ChatActed)]
pub struct Acted {
    /// The event that it is known by.
    pub id: EventId,
    /// It waits for a moderator: nobody is told of it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// The picture of an emote: the hash of its bytes, and of what kind they are. Its text is the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Picture {
    hash: String,
    kind: Kind,
}

impl ToSchema for Picture {
    fn name() -> Cow<'static, str> {
        "ChatPicture".into()
    }
}

impl PartialSchema for Picture {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The picture of an emote, by its name under `.../chat/emotes/`."))
            .pattern(Some("^[0-9a-f]{32}[.](png|gif|webp)$"))
            .into()
    }
}

/// Kinds of pictures that every browser shows, moving ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Png,
    Gif,
    Webp,
}

impl Kind {
    fn ending(self) -> &'static str {
        match self {
            Kind::Png => "png",
            Kind::Gif => "gif",
            Kind::Webp => "webp",
        }
    }

    /// Its media type (RFC 6838).
    pub fn media_type(self) -> &'static str {
        match self {
            Kind::Png => "image/png",
            Kind::Gif => "image/gif",
            Kind::Webp => "image/webp",
        }
    }
}

impl Picture {
    /// Names bytes by their SHA-256.
    pub fn of(bytes: &[u8], kind: Kind) -> Self {
        let hash = <sha2::Sha256 as sha2::Digest>::digest(bytes);
        Self { hash: hash[..16].iter().map(|byte| format!("{byte:02x}")).collect(), kind }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.hash, self.kind.ending())
    }
}

impl FromStr for Picture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = |ending| [Kind::Png, Kind::Gif, Kind::Webp].into_iter().find(|kind| kind.ending() == ending);
        let read = text.split_once('.').and_then(|(hash, ending)| {
            let is_hash =
                hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            is_hash.then_some(Self { hash: hash.to_owned(), kind: kind(ending)? })
        });
        read.ok_or_else(|| "not the name of a picture".into())
    }
}

impl TryFrom<String> for Picture {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Picture> for String {
    fn from(picture: Picture) -> Self {
        picture.to_string()
    }
}
