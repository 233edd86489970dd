//! How much of a broadcast a playlist lists: the query of its URL.

use std::fmt;

/// The bounds of a playlist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    /// The live window; of a recording all.
    #[default]
    Window,
    /// All, also while it is live (`?from=start`).
    FromStart,
    Clip(Clip),
}

/// Part of a broadcast, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clip {
    pub from_ms: u64,
    pub to_ms: u64,
}

/// Bounds that make no clip: answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadClip {
    #[error("a clip needs {0}, in seconds from the start of the broadcast")]
    Missing(&'static str),
    #[error("{0} is not a number of seconds from the start of the broadcast")]
    Number(&'static str),
    #[error("a clip ends after it begins: `to` must be more than `from`")]
    Order,
}

/// Longest time of a broadcast, seconds: a year.
const SECONDS_MAX: u64 = 366 * 24 * 3600;

impl Extent {
    /// Reads the query of a playlist's URL. Other parameters are none of ours.
    pub fn parse(query: Option<&str>) -> Self {
        let from = value(query, "from").unwrap_or_default();
        if from == "start" { Self::FromStart } else { Self::Window }
    }
}

impl Clip {
    /// Checks bounds.
    pub fn new(from_ms: u64, to_ms: u64) -> Result<Self, BadClip> {
        if from_ms < to_ms { Ok(Self { from_ms, to_ms }) } else { Err(BadClip::Order) }
    }

    /// Reads the query of a clip's URL.
    pub fn parse(query: Option<&str>) -> Result<Self, BadClip> {
        let ms = |name| {
            let text = value(query, name).ok_or(BadClip::Missing(name))?;
            millis(text).ok_or(BadClip::Number(name))
        };
        Self::new(ms("from")?, ms("to")?)
    }
}

/// A parameter of a query; the last of its name counts.
pub fn value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query.unwrap_or_default().split('&').rev().filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Seconds with at most three decimals that count.
fn millis(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| (1..=12).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(decimals) {
        return None;
    }
    let seconds = whole.parse::<u64>().ok().filter(|&seconds| seconds <= SECONDS_MAX)?;
    let ms = format!("{decimals:0<3}")[..3].parse::<u64>().ok()?;
    Some(seconds * 1000 + ms)
}

/// The query that asks for it: one text for all who ask for the same (empty for none).
impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window => Ok(()),
            Self::FromStart => f.write_str("?from=start"),
            Self::Clip(clip) => write!(f, "?from={}&to={}", Seconds(clip.from_ms), Seconds(clip.to_ms)),
        }
    }
}

/// Milliseconds as seconds, without zeros at the end.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / 1000)?;
        match self.0 % 1000 {
            0 => Ok(()),
            ms if ms % 100 == 0 => write!(f, ".{}", ms / 100),
            ms if ms % 10 == 0 => write!(f, ".{:02}", ms / 10),
            ms => write!(f, ".{ms:03}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_is_one_text_for_all_who_ask_for_the_same() {
        for (query, text) in [
            ("from=12.5&to=42", "?from=12.5&to=42"),
            ("to=42.000&x=1&from=12.500", "?from=12.5&to=42"),
            ("from=0&to=0.07", "?from=0&to=0.07"),
            ("from=0.0009&to=1.2345", "?from=0&to=1.234"),
        ] {
            assert_eq!(Extent::Clip(Clip::parse(Some(query)).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn bounds_that_make_no_clip_are_told() {
        for (query, why) in [
            (None, BadClip::Missing("from")),
            (Some("from=1"), BadClip::Missing("to")),
            (Some("from=2&to=1"), BadClip::Order),
            (Some("from=1&to=1"), BadClip::Order),
            (Some("from=-1&to=1"), BadClip::Number("from")),
            (Some("from=1&to=1e9"), BadClip::Number("to")),
            (Some("from=1&to=99999999999"), BadClip::Number("to")),
            (Some("from=1&to="), BadClip::Number("to")),
            (Some("from=start&to=2"), BadClip::Number("from")),
        ] {
            assert_eq!(Clip::parse(query), Err(why), "{query:?}");
        }
    }

    #[test]
    fn only_from_the_start_is_another_extent() {
        assert_eq!(Extent::parse(Some("from=start&_HLS_msn=1")), Extent::FromStart);
        for other in [None, Some(""), Some("from=12"), Some("xfrom=start")] {
            assert_eq!(Extent::parse(other), Extent::Window);
        }
    }
}
