//! What viewers did within a span of time, as sums that can be added up: over minutes, over nodes. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{id::Rendition, time::UnixMs};

/// Kinds of errors that are told apart; what comes after is `other`.
const ERRORS_MAX: usize = 16;
/// Longest word for an error.
const ERROR_MAX: usize = 48;
/// Renditions that are told apart: a ladder has 16 rungs at most.
const RENDITIONS_MAX: usize = 32;

/// What was counted. All but the peak are sums.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The time that viewers watched, all viewers' together.
    #[serde(skip_serializing_if = "is_zero")]
    pub watched_ms: u64,
    /// The same by rendition, where that is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub renditions: BTreeMap<Rendition, u64>,
    /// The most viewers at a time, of all nodes together.
    #[serde(skip_serializing_if = "is_zero")]
    pub peak: u64,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_at: Option<UnixMs>,
    /// Views that began.
    #[serde(skip_serializing_if = "is_zero")]
    pub joins: u64,
    /// Time from the wish to watch to the first picture.
    #[serde(skip_serializing_if = "Startups::is_empty")]
    pub startups: Startups,
    /// Halts because nothing was left to play, and how long they lasted.
    #[serde(skip_serializing_if = "is_zero")]
    pub stalls: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub stalls_ms: u64,
    /// Frames that players did not show.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Bitrate (kbit/s) and latency (ms) of viewers, each weighted with the time that it is known for.
    #[serde(skip_serializing_if = "Mean::is_empty")]
    pub kbps: Mean,
    #[serde(skip_serializing_if = "Mean::is_empty")]
    pub latency: Mean,
    /// Players' errors by their word.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Viewers as the requests for playlists show them, times time: those whose players report nothing are among them.
    #[serde(skip_serializing_if = "is_zero")]
    pub estimated_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Tally {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another counted, of another time or by another node.
    pub fn add(&mut self, other: &Tally) {
        self.watched_ms += other.watched_ms;
        for (rendition, ms) in &other.renditions {
            self.watched(rendition, *ms);
        }
        self.reach(other.peak, other.peak_at);
        self.joins += other.joins;
        self.startups.add(&other.startups);
        self.stalls += other.stalls;
        self.stalls_ms += other.stalls_ms;
        self.dropped += other.dropped;
        self.kbps.add(other.kbps);
        self.latency.add(other.latency);
        for (word, count) in &other.errors {
            self.count_error(word, *count);
        }
        self.estimated_ms += other.estimated_ms;
    }

    /// There were so many viewers at a time.
    pub fn reach(&mut self, viewers: u64, at: Option<UnixMs>) {
        if viewers > self.peak {
            (self.peak, self.peak_at) = (viewers, at);
        }
    }

    /// A rendition was watched for so long.
    pub fn watched(&mut self, rendition: &Rendition, ms: u64) {
        if let Some(known) = self.renditions.get_mut(rendition) {
            *known += ms;
        } else if self.renditions.len() < RENDITIONS_MAX {
            self.renditions.insert(rendition.clone(), ms);
        }
    }

    /// A player told of an error.
    pub fn error(&mut self, word: &str) {
        let end = word.char_indices().map(|(at, _)| at).take_while(|at| *at <= ERROR_MAX).last().unwrap_or(0);
        let word = if word.len() <= ERROR_MAX { word } else { &word[..end] };
        let word = if word.chars().any(char::is_control) { "other" } else { word };
        self.count_error(word, 1);
    }

    fn count_error(&mut self, word: &str, count: u64) {
        let is_known = self.errors.contains_key(word) || self.errors.len() < ERRORS_MAX;
        *self.errors.entry(if is_known { word } else { "other" }.to_owned()).or_default() += count;
    }
}

/// A sum of values, each weighted, and the sum of the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mean(u64, u64);

impl Mean {
    pub fn new(sum: u64, weight: u64) -> Self {
        Self(sum, weight)
    }

    fn is_empty(&self) -> bool {
        self.1 == 0
    }

    pub fn add(&mut self, other: Mean) {
        self.0 += other.0;
        self.1 += other.1;
    }

    pub fn get(self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 as f64 / self.1 as f64)
    }
}

/// How many starts took how long: classes whose bounds grow by a quarter, from 50 ms to some 40 s.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startups(BTreeMap<u8, u64>);

const SHORTEST_MS: f64 = 50.0;
const GROWS: f64 = 1.25;
const LAST: u8 = 30;

impl Startups {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn count(&mut self, ms: u32) {
        let class = (f64::from(ms) / SHORTEST_MS).max(1.0).log(GROWS).ceil();
        *self.0.entry((class as u8).min(LAST)).or_default() += 1;
    }

    fn add(&mut self, other: &Startups) {
        for (class, count) in &other.0 {
            *self.0.entry((*class).min(LAST)).or_default() += count;
        }
    }

    /// The time that so large a part of all starts stayed below, ms; within an eighth.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let all: u64 = self.0.values().sum();
        let wanted = (part * all as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let class = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        // The middle of the class.
        class.map(|(class, _)| (SHORTEST_MS * GROWS.powf(f64::from(*class) - 0.5)).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_the_order() {
        let mut one = Tally { watched_ms: 60_000, peak: 7, joins: 3, stalls: 1, stalls_ms: 400, ..Tally::default() };
        one.watched(&"720p".parse().unwrap(), 60_000);
        one.startups.count(640);
        one.kbps = Mean::new(2400 * 60, 60);
        one.error("levelLoadError");
        let mut other = Tally { watched_ms: 30_000, peak: 9, joins: 1, ..Tally::default() };
        other.watched(&"360p".parse().unwrap(), 10_000);
        other.watched(&"720p".parse().unwrap(), 20_000);
        let (mut ab, mut ba) = (one.clone(), other.clone());
        ab.add(&other);
        ba.add(&one);
        assert_eq!(ab, ba);
        assert_eq!((ab.watched_ms, ab.peak, ab.joins), (90_000, 9, 4));
        assert_eq!(ab.renditions[&"720p".parse::<Rendition>().unwrap()], 80_000);
        let text = serde_json::to_string(&ab).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), ab);
        assert_eq!(serde_json::to_string(&Tally::default()).unwrap(), "{}");
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut startups = Startups::default();
        (1..=1000).for_each(|n| startups.count(n * 4));
        for (part, truth) in [(0.5, 2000.0), (0.95, 3800.0)] {
            let found = startups.quantile(part).unwrap() as f64;
            assert!((found / truth - 1.0).abs() < 0.13, "{part}: {found}");
        }
        startups.count(u32::MAX);
        startups.count(0);
        assert_eq!(Startups::default().quantile(0.5), None);
        assert_eq!(startups.quantile(0.0), Some(45));
    }

    #[test]
    fn words_for_errors_are_bounded() {
        let mut tally = Tally::default();
        (0..1000).for_each(|n| tally.error(&format!("{n}{}", "é".repeat(100))));
        tally.error("a\nb");
        assert!(tally.errors.len() <= ERRORS_MAX + 1);
        assert!(tally.errors.keys().all(|word| word.len() <= ERROR_MAX));
        assert_eq!(tally.errors.values().sum::<u64>(), 1001);
    }
}
