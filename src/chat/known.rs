//! What counts in a room besides what was said, as every node with viewers of it knows it. It is written as rules, by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    act::{Picture, Settings, Who},
    event::Role,
};
use crate::id::UserId;

/// Names of rules.
const SETTINGS: &str = "settings";
const MODERATOR: &str = "moderator/";
const EMOTE: &str = "emote/";

/// Names of emotes and their pictures.
pub type Emotes = BTreeMap<String, Picture>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    pub settings: Settings,
    pub moderators: Vec<UserId>,
    #[serde(default)]
    pub emotes: Emotes,
}

/// A rule as it is written: its name, and its text or that there is none any more.
pub type Rule = (String, Option<String>);

impl Known {
    pub fn of(rules: &[(String, String)]) -> Self {
        let mut known = Self::default();
        rules.iter().for_each(|(name, body)| _ = known.learn(name, body));
        known
    }

    /// Takes a rule, if it is one of these; nothing where it cannot be read.
    pub fn learn(&mut self, name: &str, body: &str) -> Option<()> {
        if name == SETTINGS {
            self.settings = serde_json::from_str(body).ok()?;
        } else if let Some(user) = name.strip_prefix(MODERATOR) {
            self.moderators.push(user.parse().ok()?);
        } else if let Some(emote) = name.strip_prefix(EMOTE) {
            self.emotes.insert(emote.to_owned(), body.parse().ok()?);
        }
        Some(())
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) -> Rule {
        let body = serde_json::to_string(&settings).expect("plain data");
        self.settings = settings;
        (SETTINGS.into(), Some(body))
    }

    /// Makes somebody a moderator, or no longer.
    pub fn moderator(&mut self, user: &UserId, on: bool) -> Rule {
        self.moderators.retain(|known| known != user);
        if on {
            self.moderators.push(user.clone());
        }
        (format!("{MODERATOR}{user}"), on.then(|| "{}".into()))
    }

    /// Gives an emote a picture, or takes it away.
    pub fn emote(&mut self, name: &str, picture: Option<Picture>) -> Rule {
        let body = picture.as_ref().map(Picture::to_string);
        match picture {
            Some(picture) => _ = self.emotes.insert(name.to_owned(), picture),
            None => _ = self.emotes.remove(name),
        }
        (format!("{EMOTE}{name}"), body)
    }

    /// Somebody's roles with those that the room gives.
    pub fn roles(&self, who: &Who) -> Vec<Role> {
        let mut roles = who.roles.clone();
        if self.moderators.contains(&who.user) && !roles.contains(&Role::Moderator) {
            roles.push(Role::Moderator);
        }
        roles.sort_unstable();
        roles
    }
}
