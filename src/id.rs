//! Names that appear in paths, keys and logs, as types that can only hold legal text.
//!
//! Everything that becomes part of a file name, a store key or a URL is one of these, so no other place needs to think
//! about path tricks.

use std::{
    borrow::Borrow,
    fmt::{self, Write},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::time::UnixMs;

/// Names an event of a chat: later ones are greater, by number and by text. Milliseconds since the start of 2025, and 22 bits
/// that tell apart those of one millisecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f][0-9a-hjkmnp-tv-z]{12}$")]
pub struct EventId(pub u64);

/// 2025-01-01T00:00:00Z, ms since 1970.
const EVENTS_SINCE: i64 = 1_735_689_600_000;
/// Events of one millisecond: 4,096 of each of 1,024 who give ids.
const EVENT_BITS: u32 = 22;
const TAG_BITS: u32 = 10;
/// Digits that sort as their values (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 64 bits in digits of 5.
const EVENT_DIGITS: u32 = 13;

impl EventId {
    pub const MAX: EventId = EventId(u64::MAX);

    /// The first one of a moment. Times that no id can have are brought to the next that one can.
    pub fn first_at(at: UnixMs) -> Self {
        Self::of_ms(at.0.saturating_sub(EVENTS_SINCE).max(0) as u64)
    }

    /// The next one after `self` that is not of the past. `tag` is that of whoever gives it: two who do so for a moment, neither
    /// knowing of the other, give different ones.
    pub fn next(self, now: UnixMs, tag: u16) -> Self {
        let after = (self.0 >> TAG_BITS).saturating_add(1) << TAG_BITS;
        Self(Self::first_at(now).0.max(after) | u64::from(tag) & ((1 << TAG_BITS) - 1))
    }

    /// The first one of a millisecond since the start of 2025.
    pub fn of_ms(ms: u64) -> Self {
        Self(ms.min(u64::MAX >> EVENT_BITS) << EVENT_BITS)
    }

    /// Milliseconds since the start of 2025.
    pub fn ms(self) -> u64 {
        self.0 >> EVENT_BITS
    }

    /// When it happened, by the clock of the node that named it.
    pub fn at(self) -> UnixMs {
        UnixMs(self.ms() as i64 + EVENTS_SINCE)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |place: u32| char::from(DIGITS[(self.0 >> (place * 5) & 31) as usize]);
        (0..EVENT_DIGITS).rev().try_for_each(|place| f.write_char(digit(place)))
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let value = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).map(|value| value as u64);
        let number = |text: &str| {
            let digits = (text.len() == EVENT_DIGITS as usize).then_some(text.bytes())?;
            digits.map(value).try_fold(0_u64, |number, digit| number.checked_mul(32)?.checked_add(digit?))
        };
        let rule = "13 digits of base 32, from 0000000000000 to fzzzzzzzzzzzz";
        number(text).map(Self).ok_or_else(|| Error { what: "event", text: text.chars().take(80).collect(), rule })
    }
}

impl TryFrom<String> for EventId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.to_string()
    }
}

/// Says why a text is not a legal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not legal: {rule}")]
pub struct Error {
    what: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $pattern:literal, $legal:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = $pattern)]
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
    "^[a-z0-9][a-z0-9_-]{0,62}$",
    |t| starts_and_holds(t, 63, b"-_")
);
name!(
    /// A broadcast: one show of a stream. Text order is time order.
    BroadcastId, "broadcast id", "1 to 26 of a-z, 0-9",
    "^[a-z0-9]{1,26}$",
    |t| starts_and_holds(t, 26, b"")
);
name!(
    /// A rendition: `source`, `audio`, or the name of an encoded rung such as `720p`.
    Rendition, "rendition", "1 to 32 of a-z, 0-9, '-', '_', starting with a letter or digit",
    "^[a-z0-9][a-z0-9_-]{0,31}$",
    |t| starts_and_holds(t, 32, b"-_")
);

name!(
    /// A clip: a named part of a broadcast. Text order is time order.
    ClipId, "clip id", "1 to 26 of a-z, 0-9",
    "^[a-z0-9]{1,26}$",
    |t| starts_and_holds(t, 26, b"")
);

name!(
    /// Somebody who writes in chats.
    UserId, "user", "1 to 40 of a-z, 0-9, '-', '_', starting with a letter or digit",
    "^[a-z0-9][a-z0-9_-]{0,39}$",
    |t| starts_and_holds(t, 40, b"-_")
);

impl BroadcastId {
    /// Makes the id of a broadcast that starts now.
    pub fn generate(now: crate::time::UnixMs) -> Self {
        Self(ulid(now))
    }

    /// When it was made; long ago for one that was not made here.
    pub fn made(&self) -> UnixMs {
        ulid::Ulid::from_string(&self.0).map_or(UnixMs(0), |ulid| UnixMs(ulid.timestamp_ms() as i64))
    }

    /// Greater than all that were made before this moment, and smaller than those of it and after.
    pub fn first_at(at: UnixMs) -> Self {
        Self(lower(ulid::Ulid::from_parts(at.0.max(0) as u64, 0)))
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
    lower(ulid::Ulid::from_parts(now.0.max(0) as u64, rand::random()))
}

fn lower(ulid: ulid::Ulid) -> Arc<str> {
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
        let between = BroadcastId::first_at(UnixMs(1_700_000_000_001));
        assert!(a < between && between < b);
        assert_eq!(BroadcastId::new(a.as_str()).unwrap(), a);
    }

    #[test]
    fn event_ids_sort_by_time_and_as_text() {
        let at = UnixMs(EVENTS_SINCE + 86_400_000);
        let first = EventId::first_at(at);
        assert_eq!((first.at(), first.to_string().as_str()), (at, "000a9jw000000"));
        let second = first.next(at, 7);
        assert!(second > first && second.at() == at);
        // Whoever gives ids in the same instant gives others.
        assert_ne!(first.next(at, 8), second);
        // A clock that went back does not turn the order round, and one that went on counts.
        assert!(second.next(UnixMs(0), 0) > second);
        assert_eq!(second.next(UnixMs(at.0 + 1), 0), EventId::first_at(UnixMs(at.0 + 1)));
        assert_eq!(EventId::first_at(UnixMs(0)), EventId(0));
        assert!(EventId(EventId::MAX.0 - 5000).next(at, 0) > EventId(EventId::MAX.0 - 5000));
        for bad in ["", "0", "gzzzzzzzzzzzz", "00000000000000", "0000000000O00", "000000000000\u{e4}"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn event_ids_are_read_as_written(a in proptest::prelude::any::<u64>(), b in proptest::prelude::any::<u64>()) {
            let (one, other) = (EventId(a), EventId(b));
            proptest::prop_assert_eq!(one.to_string().parse::<EventId>().unwrap(), one);
            proptest::prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }
    }
}
