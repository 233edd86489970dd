//! Values that are written as text in a configuration: durations, addresses, an optional path or secret.
//!
//! Each submodule is for `#[serde(with = "...")]`, so that a field keeps its plain type. Pure.

use std::{fmt::Display, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Reads a number and its unit (`ms`, `s`, `m`, `h`, `d`), such as `500ms`, `2s` or `0.33s`. Less than a millisecond is dropped.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration: a number and ms, s, m, h or d, such as \"2s\", \"0.5s\" or \"500ms\"");
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return Err(wrong());
    }
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| wrong());
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let whole = number(whole)?.checked_mul(unit_ms).ok_or_else(wrong)?;
    let fraction = number(fraction)? * unit_ms / 10_u64.pow(fraction.len() as u32);
    whole.checked_add(fraction).map(std::time::Duration::from_millis).ok_or_else(wrong)
}

/// Writes a duration in the largest unit that keeps it whole; less than a millisecond is dropped.
pub fn print_duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(86_400_000) => format!("{}d", ms / 86_400_000),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) && ms > 60_000 => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// A `std::time::Duration` as `"2s"`.
pub mod duration {
    use super::*;

    pub fn serialize<S: Serializer>(value: &std::time::Duration, to: S) -> Result<S::Ok, S::Error> {
        print_duration(*value).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<std::time::Duration, D::Error> {
        parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A `std::net::SocketAddr` as `"0.0.0.0:1935"` or `"[::]:1935"`.
pub mod address {
    use super::*;
    use std::net::SocketAddr;

    pub fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        value.to_string().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(from)?;
        SocketAddr::from_str(&text).map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is not an IP address and port, such as \"0.0.0.0:1935\" or \"[::]:1935\""
            ))
        })
    }
}

/// An optional file or folder; the empty text is none.
pub mod path {
    use super::*;
    use std::path::PathBuf;

    pub fn serialize<S: Serializer>(value: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        value.clone().unwrap_or_default().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let text = String::deserialize(from)?;
        Ok((!text.is_empty()).then(|| text.into()))
    }
}

/// An optional URL; the empty text is none.
pub mod url {
    use super::*;
    use ::url::Url;

    pub fn serialize<S: Serializer>(value: &Option<Url>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map_or("", Url::as_str).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |why| D::Error::custom(format!("{text:?} is no URL ({why}), such as \"s3://bucket/folder\""));
        (!text.is_empty()).then(|| Url::parse(&text).map_err(wrong)).transpose()
    }
}

/// An optional URL that may hold a token, so that it is in no message; the empty text is none.
pub mod link {
    use super::*;
    use ::url::Url;

    pub fn serialize<S: Serializer>(value: &Option<Url>, to: S) -> Result<S::Ok, S::Error> {
        super::url::serialize(value, to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |why| D::Error::custom(format!("is no URL ({why}), such as \"https://example.com/weir\""));
        (!text.is_empty()).then(|| Url::parse(&text).map_err(wrong)).transpose()
    }
}

/// An optional secret; the empty text is none.
pub mod secret {
    use super::*;
    use crate::auth::Secret;

    pub fn serialize<S: Serializer>(value: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map_or("", Secret::expose).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        let text = String::deserialize(from)?;
        Ok((!text.is_empty()).then(|| Secret::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_read_and_print() {
        for (text, ms, printed) in [
            ("2s", 2_000, "2s"),
            ("500ms", 500, "500ms"),
            ("1500ms", 1_500, "1500ms"),
            ("1000ms", 1_000, "1s"),
            ("60s", 60_000, "60s"),
            ("1m", 60_000, "60s"),
            ("90s", 90_000, "90s"),
            ("10m", 600_000, "10m"),
            ("2h", 7_200_000, "2h"),
            ("30d", 2_592_000_000, "30d"),
            ("48h", 172_800_000, "2d"),
            ("0s", 0, "0s"),
            ("0.33s", 330, "330ms"),
            ("1.5m", 90_000, "90s"),
            ("0.0009s", 0, "0s"),
        ] {
            let read = parse_duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(ms), "{text}");
            assert_eq!(print_duration(read), printed, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_words() {
        for text in [
            "",
            "2",
            "s",
            "-2s",
            "1.s",
            ".5s",
            "1.2.3s",
            "0.0000000001s",
            "2 s",
            "2S",
            "2w",
            "1m30s",
            "99999999999999999h",
            "99999999999999999999s",
        ] {
            let message = parse_duration(text).expect_err(text);
            assert!(message.contains(&format!("{text:?}")) && message.contains("\"2s\""), "{message}");
        }
    }
}
