//! Blocking reloads and delta updates: what a player asks for with `_HLS_*` (rfc8216bis 6.2.5).

use std::fmt;

use super::Window;

/// A chunk of 10 s has 50 parts of 0.2 s. Each number that is possible is an object for a cache.
const PART_MAX: u64 = 255;

/// Directives that cannot be followed: the player's fault, answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReload {
    #[error("{0} is not a number")]
    Number(&'static str),
    #[error("_HLS_part needs _HLS_msn")]
    PartAlone,
    #[error("_HLS_msn or _HLS_part is too far ahead")]
    Far,
}

/// A player's delivery directives. Other query parameters are none of ours.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// `_HLS_msn` and `_HLS_part`: answer once this is listed.
    pub until: Option<(u64, Option<u64>)>,
    /// `_HLS_skip`: a delta update will do.
    pub skip: bool,
}

impl Reload {
    /// Reads the query of a playlist's URL.
    pub fn parse(query: Option<&str>) -> Result<Self, BadReload> {
        let (mut msn, mut part, mut skip) = (None, None, false);
        for (name, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
            let number = || {
                let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
                digits.then(|| value.parse().ok()).flatten()
            };
            match name {
                "_HLS_msn" => msn = Some(number().ok_or(BadReload::Number("_HLS_msn"))?),
                "_HLS_part" => part = Some(number().ok_or(BadReload::Number("_HLS_part"))?),
                "_HLS_skip" => skip = matches!(value, "YES" | "v2"),
                _ => {}
            }
        }
        match (msn, part) {
            (_, Some(part)) if part > PART_MAX => Err(BadReload::Far),
            (None, Some(_)) => Err(BadReload::PartAlone),
            (msn, part) => Ok(Self { until: msn.map(|msn| (msn, part)), skip }),
        }
    }

    /// Refuses what lies too far ahead to be waited for.
    pub fn check(&self, window: &Window) -> Result<(), BadReload> {
        match self.until {
            Some((msn, part)) if window.is_far(msn, part) => Err(BadReload::Far),
            _ => Ok(()),
        }
    }

    pub fn is_met(&self, window: &Window) -> bool {
        self.until.is_none_or(|(msn, part)| window.holds(msn, part))
    }
}

/// The query that asks for this, directives in a fixed order: one text for all who ask for the same (empty for none).
impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sign = '?';
        if let Some((msn, part)) = self.until {
            write!(f, "?_HLS_msn={msn}")?;
            if let Some(part) = part {
                write!(f, "&_HLS_part={part}")?;
            }
            sign = '&';
        }
        if self.skip { write!(f, "{sign}_HLS_skip=YES") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_and_the_rest_is_not_ours() {
        let read = |query| Reload::parse(Some(query)).ok();
        assert_eq!(Reload::parse(None).ok(), Some(Reload::default()));
        assert_eq!(read("a=b&_HLS_foo=1&x"), Some(Reload::default()));
        assert_eq!(read("_HLS_msn=7"), Some(Reload { until: Some((7, None)), skip: false }));
        let all = Reload { until: Some((7, Some(2))), skip: true };
        assert_eq!(read("_HLS_part=2&_HLS_msn=7&_HLS_skip=v2"), Some(all));
        assert_eq!(read("_HLS_msn=7&_HLS_part=2&_HLS_skip=YES&t=9"), Some(all));
        assert!(!read("_HLS_skip=NO").unwrap().skip);
        for (query, text) in [
            ("_HLS_part=2&_HLS_msn=7&_HLS_skip=v2", "?_HLS_msn=7&_HLS_part=2&_HLS_skip=YES"),
            ("x=1&_HLS_msn=7", "?_HLS_msn=7"),
            ("_HLS_skip=YES", "?_HLS_skip=YES"),
            ("x=1", ""),
        ] {
            assert_eq!(read(query).unwrap().to_string(), text);
        }
        for query in ["_HLS_part=2", "_HLS_msn=", "_HLS_msn=-1", "_HLS_msn=+1", "_HLS_msn=99999999999999999999"] {
            assert_eq!(read(query), None, "{query}");
        }
    }
}
