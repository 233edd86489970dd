//! Whom a node tells what happens, and how.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use super::text;
use crate::{auth::Secret, hooks::Kind};

/// Others that are told what happens here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    pub targets: Vec<Target>,
    /// Whether this node may speak to private addresses: its targets, and `auth.publish_url` and `auth.play_url`.
    pub allow_private: bool,
    /// What a target may take to answer.
    #[serde(with = "text::duration")]
    pub timeout: Duration,
    /// How long an event is tried before it is a dead letter.
    #[serde(with = "text::duration")]
    pub retry_for: Duration,
}

impl Default for Webhooks {
    fn default() -> Self {
        let (timeout, retry_for) = (Duration::from_secs(10), Duration::from_secs(86_400));
        Self { targets: Vec::new(), allow_private: false, timeout, retry_for }
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    #[serde(default, with = "text::link")]
    pub url: Option<Url>,
    /// What is sent there is signed with it.
    #[serde(default, with = "text::secret")]
    pub secret: Option<Secret>,
    /// What it is told of; empty: everything.
    #[serde(default)]
    pub events: BTreeSet<Kind>,
}

/// What happens when a backend that is asked does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// Nobody is let in.
    #[default]
    Closed,
    /// Everybody is.
    Open,
}
