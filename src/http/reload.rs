//! Blocking reloads and delta updates: what a player asks for with `_HLS_*` (rfc8216bis 6.2.5).

use axum::http::StatusCode;

use super::problem::Problem;
use crate::package::Window;

/// A player's delivery directives. Other query parameters are none of ours.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// `_HLS_msn` and `_HLS_part`: answer once this is listed.
    pub until: Option<(u64, Option<u64>)>,
    /// `_HLS_skip`: a delta update will do.
    pub skip: bool,
}

impl Reload {
    pub fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let (mut msn, mut part, mut skip) = (None, None, false);
        for (name, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
            let number = || {
                let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
                digits.then(|| value.parse().ok()).flatten().ok_or_else(|| bad(format!("{name} is not a number")))
            };
            match name {
                "_HLS_msn" => msn = Some(number()?),
                "_HLS_part" => part = Some(number()?),
                "_HLS_skip" => skip = matches!(value, "YES" | "v2"),
                _ => {}
            }
        }
        match (msn, part) {
            (None, Some(_)) => Err(bad("_HLS_part needs _HLS_msn")),
            (msn, part) => Ok(Self { until: msn.map(|msn| (msn, part)), skip }),
        }
    }

    /// Refuses what lies too far ahead to be waited for.
    pub fn check(&self, window: &Window) -> Result<(), Problem> {
        match self.until {
            Some((msn, part)) if window.is_far(msn, part) => Err(bad("_HLS_msn or _HLS_part is too far ahead")),
            _ => Ok(()),
        }
    }

    pub fn is_met(&self, window: &Window) -> bool {
        self.until.is_none_or(|(msn, part)| window.holds(msn, part))
    }
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, why)
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
        for query in ["_HLS_part=2", "_HLS_msn=", "_HLS_msn=-1", "_HLS_msn=+1", "_HLS_msn=99999999999999999999"] {
            assert_eq!(read(query), None, "{query}");
        }
    }
}
