//! The one reader of the clock, and the types its readings have.
//!
//! Machines take time as an argument; only the tasks at the rim call [`now`] and [`unix_now`].

use std::{
    fmt,
    ops::{Add, Sub},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
// The same clock as std's, but a test that pauses the runtime's time pauses this one too.
use tokio::time::Instant;

/// A moment of the monotonic clock, in microseconds since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(rhs.as_micros() as u64))
    }
}

impl Sub for Timestamp {
    type Output = Duration;
    /// The time from `rhs` to `self`; zero when `rhs` is later.
    fn sub(self, rhs: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(rhs.0))
    }
}

/// A moment of the wall clock, in milliseconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: UnixMs) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

impl UnixMs {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok().map(i64::from);
        let signs = [(4, '-'), (7, '-'), (10, 'T'), (13, ':'), (16, ':'), (19, '.'), (23, 'Z')];
        if text.len() != 24 || !text.is_ascii() || signs.iter().any(|(at, sign)| !text[*at..].starts_with(*sign)) {
            return None;
        }
        let days = days(number(0..4)?, number(5..7)?, number(8..10)?);
        let seconds = (number(11..13)? * 60 + number(14..16)?) * 60 + number(17..19)?;
        Some(Self(days * 86_400_000 + seconds * 1000 + number(20..23)?))
    }

    /// Reads any time that RFC 3339 allows; what is finer than a millisecond is left out.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (begin, rest) = text.is_ascii().then(|| text.split_at_checked(19))??;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (fraction, zone) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
            None => ("0", rest),
        };
        let begin = begin.to_ascii_uppercase().replacen(' ', "T", 1);
        let within = |range: std::ops::Range<usize>, most: u32| {
            let part = begin.get(range).filter(|part| digits(part));
            part.and_then(|part| part.parse::<u32>().ok()).filter(|part| *part <= most)
        };
        let (month, day) = (within(5..7, 12)?, within(8..10, 31)?);
        // A leap second is the last of its minute.
        let (.., second) = (within(11..13, 23)?, within(14..16, 59)?, within(17..19, 60)?);
        if month == 0 || day == 0 || !digits(fraction) {
            return None;
        }
        let time = Self::parse(&format!("{}{:02}.{}Z", &begin[..17], second.min(59), &format!("{fraction:0<3}")[..3]))?;
        let minutes = match zone.as_bytes() {
            [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] if digits(&zone[1..3]) && digits(&zone[4..6]) => {
                let (hours, minutes): (i64, i64) = (zone[1..3].parse().ok()?, zone[4..6].parse().ok()?);
                let east = Some(hours * 60 + minutes).filter(|_| hours < 24 && minutes < 60)?;
                if *sign == b'+' { east } else { -east }
            }
            _ => return None,
        };
        Some(Self(time.0 - minutes * 60_000))
    }
}

impl fmt::Display for UnixMs {
    /// RFC 3339 in UTC with milliseconds, as EXT-X-PROGRAM-DATE-TIME wants it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil(days);
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
    }
}

/// Gives the year, month and day of a count of days since 1970-01-01 (proleptic Gregorian).
fn civil(days: i64) -> (i64, i64, i64) {
    // Counts in 400-year cycles of 146,097 days that start on 1 March, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Counts the days from 1970-01-01 to a date (the inverse of [`civil`]).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

static START: OnceLock<Instant> = OnceLock::new();

/// Reads the monotonic clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    let start = *START.get_or_init(Instant::now);
    Timestamp(Instant::now().duration_since(start).as_micros() as u64)
}

/// Reads the wall clock.
#[allow(clippy::disallowed_methods)]
pub fn unix_now() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_as_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMs(ms).to_string(), text);
            assert_eq!(UnixMs::parse(text), Some(UnixMs(ms)));
        }
        // Each day of four centuries there and back.
        for day in 0..146_097 {
            let at = UnixMs(day * 86_400_000 + 12_345_678);
            assert_eq!(UnixMs::parse(&at.to_string()), Some(at));
        }
        for text in [
            "",
            "2026-01-01T00:00:00Z",
            "2026-01-01 00:00:00.000Z",
            "2026-01-01T00:00:0x.000Z",
            "ü026-01-01T00:00:00.00Z",
        ] {
            assert_eq!(UnixMs::parse(text), None, "{text}");
        }
    }

    #[test]
    fn any_rfc_3339_time_is_read() {
        let noon = 1_767_268_800_000;
        for (text, ms) in [
            ("2026-01-01T12:00:00Z", noon),
            ("2026-01-01t12:00:00z", noon),
            ("2026-01-01 12:00:00.000000Z", noon),
            ("2026-01-01T12:00:00.5Z", noon + 500),
            ("2026-01-01T12:00:00.1239Z", noon + 123),
            ("2026-01-01T14:00:00+02:00", noon),
            ("2025-12-31T23:30:00.250-12:30", noon + 250),
            ("2026-01-01T11:59:60Z", noon - 1000),
        ] {
            assert_eq!(UnixMs::parse_rfc3339(text), Some(UnixMs(ms)), "{text}");
        }
        for text in [
            "",
            "2026-01-01",
            "2026-01-01T12:00:00",
            "2026-01-01T12:00:00.Z",
            "2026-01-01T12:00:00.5",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-32T12:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T12:60:00Z",
            "2026-01-01T12:00:00+2:00",
            "2026-01-01T12:00:00+24:00",
            "2026-01-01T12:00:00+0\u{e4}:0",
            "2026-01-01T12:00:+1Z",
            "now, or in a moment if you like",
        ] {
            assert_eq!(UnixMs::parse_rfc3339(text), None, "{text}");
        }
    }
}
