//! Names that appear in paths, keys and logs, as types that can only hold legal text.
//!
//! Everything that becomes part of a file name, a store key or a URL is one of these, so no other place needs to think
//! about path tricks.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Says why a text is not a legal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not legal: {rule}")]
pub struct Error {
    what: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $legal:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text if it obeys the rule of this name.
            pub fn new(text: &str) -> Result<Self, Error> {
                let legal: fn(&str) -> bool = $legal;
                if legal(text) {
                    Ok(Self(text.into()))
                } else {
                    // A hostile name must not fill the log.
                    let text = text.chars().take(80).collect();
                    Err(Error { what: $what, text, rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }
    };
}

fn starts_and_holds(text: &str, len_max: usize, extra: &[u8]) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=len_max).contains(&bytes.len()) && plain(bytes[0]) && bytes.iter().all(|&c| plain(c) || extra.contains(&c))
}

name!(
    /// A stream: the permanent named thing a streamer owns.
    StreamId, "stream name", "1 to 63 of a-z, 0-9, '-', '_', starting with a letter or digit",
    |t| starts_and_holds(t, 63, b"-_")
);
name!(
    /// A broadcast: one show of a stream. Text order is time order.
    BroadcastId, "broadcast id", "1 to 26 of a-z, 0-9",
    |t| starts_and_holds(t, 26, b"")
);
name!(
    /// A rendition: `source`, `audio`, or the name of an encoded rung such as `720p`.
    Rendition, "rendition", "1 to 32 of a-z, 0-9, '-', '_', starting with a letter or digit",
    |t| starts_and_holds(t, 32, b"-_")
);

name!(
    /// A clip: a named part of a broadcast. Text order is time order.
    ClipId, "clip id", "1 to 26 of a-z, 0-9",
    |t| starts_and_holds(t, 26, b"")
);

impl BroadcastId {
    /// Makes the id of a broadcast that starts now.
    pub fn generate(now: crate::time::UnixMs) -> Self {
        Self(ulid(now))
    }
}

impl ClipId {
    /// Makes the id of a clip that is made now.
    pub fn generate(now: crate::time::UnixMs) -> Self {
        Self(ulid(now))
    }
}

/// A ULID in lower case.
fn ulid(now: crate::time::UnixMs) -> Arc<str> {
    let ulid = ulid::Ulid::from_parts(now.0.max(0) as u64, rand::random());
    ulid.to_string().to_lowercase().into()
}

impl Rendition {
    /// The untouched input.
    pub fn source() -> Self {
        Self("source".into())
    }

    /// The audio of every rendition.
    pub fn audio() -> Self {
        Self("audio".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\\b", "-a", "_a", "A", "a.b", "a b", "é", "a\0", &"a".repeat(64)] {
            assert!(StreamId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "alice", "a-b_c", &"a".repeat(63)] {
            assert!(StreamId::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn broadcast_ids_sort_by_time() {
        let (a, b) =
            (BroadcastId::generate(UnixMs(1_700_000_000_000)), BroadcastId::generate(UnixMs(1_700_000_000_001)));
        assert!(a < b);
        assert_eq!(BroadcastId::new(a.as_str()).unwrap(), a);
    }
}
