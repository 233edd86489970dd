//! How long recordings of a stream are kept.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Type, schema::Schema},
};

const UNITS: &[(&str, u64)] = &[("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// How long recordings of a stream are kept after their end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keep {
    #[default]
    Forever,
    /// Zero: they go when the broadcast ends.
    For(Duration),
}

impl PartialSchema for Keep {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^(forever|0|[0-9]{1,9}[dhms])$"))
            .description(Some("how long recordings are kept: `forever`, a time such as `30d`, or `0` for not at all"));
        text.build().into()
    }
}

impl ToSchema for Keep {}

/// A text that says no time to keep recordings.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither \"forever\" nor a time such as \"30d\" or \"12h\"; \"0\" keeps nothing")]
pub struct BadKeep(String);

impl FromStr for Keep {
    type Err = BadKeep;

    fn from_str(text: &str) -> Result<Self, BadKeep> {
        match text.trim() {
            "forever" => Ok(Self::Forever),
            "0" => Ok(Self::For(Duration::ZERO)),
            time => UNITS
                .iter()
                .find_map(|(unit, seconds)| {
                    let count = time.strip_suffix(unit).filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()))?;
                    count.parse::<u32>().ok().map(|count| Self::For(Duration::from_secs(u64::from(count) * seconds)))
                })
                .ok_or_else(|| BadKeep(text.into())),
        }
    }
}

impl TryFrom<String> for Keep {
    type Error = BadKeep;

    fn try_from(text: String) -> Result<Self, BadKeep> {
        text.parse()
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> Self {
        keep.to_string()
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::For(time) if time.is_zero() => f.write_str("0"),
            Self::For(time) => {
                let whole = |(_, seconds): &&(&str, u64)| time.as_secs().is_multiple_of(*seconds);
                let (unit, seconds) = UNITS.iter().find(whole).expect("seconds are always whole");
                write!(f, "{}{unit}", time.as_secs() / seconds)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for text in ["forever", "0", "30d", "36h", "90m", "5s"] {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        assert_eq!("30d".parse::<Keep>().unwrap(), Keep::For(Duration::from_secs(30 * 86_400)));
        for bad in ["", "x", "-1d", "30", "d", "1.5h", "1w", "99999999999d"] {
            assert!(bad.parse::<Keep>().is_err(), "{bad}");
        }
    }
}
