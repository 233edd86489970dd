//! Reads rows: how many watched when, and what a broadcast came to. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    crowd::{Crowd, Now},
    rows::{Body, HOUR_MS, MINUTE_MS},
    tally::{Mean, Tally},
    uniques::Uniques,
};
use crate::{
    id::Rendition,
    store::{AudienceRow, AudienceSpan},
    time::UnixMs,
};

/// Most points of a series.
pub const POINTS_MAX: usize = 1000;
/// Longer series are made of hours.
const MINUTES_MAX_MS: i64 = 2 * 24 * HOUR_MS;

/// Which rows a series is made of, and the length of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub span: AudienceSpan,
    pub step_ms: i64,
    /// Both on the bound of a step; the end is not part of it.
    pub from: UnixMs,
    pub to: UnixMs,
}

impl Scale {
    /// For a time that is to be shown in at most so many steps.
    pub fn of(from: UnixMs, to: UnixMs, points: usize) -> Self {
        let (span, unit) = match to.0 - from.0 > MINUTES_MAX_MS {
            true => (AudienceSpan::Hour, HOUR_MS),
            false => (AudienceSpan::Minute, MINUTE_MS),
        };
        let points = points.clamp(1, POINTS_MAX) as i64;
        // One step more where neither end is on a bound.
        let fits = |step_ms: i64| (to.0.div_euclid(step_ms) - from.0.div_euclid(step_ms)) < points;
        let mut step_ms = unit * ((to.0 - from.0).max(0) / (unit * points)).max(1);
        while !fits(step_ms) && points > 1 {
            step_ms += unit;
        }
        let from = UnixMs(from.0 - from.0.rem_euclid(step_ms));
        let to = UnixMs(to.0 - to.0.rem_euclid(step_ms) + step_ms);
        Self { span, step_ms, from, to }
    }
}

/// One step of a series. What nobody told is absent.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AudiencePoint)]
pub struct Point {
    #[schema(format = DateTime)]
    pub at: String,
    /// Mean number of viewers.
    pub viewers: f64,
    pub peak: u64,
    /// The same as `viewers`, as requests for playlists show it.
    pub estimate: f64,
    pub joins: u64,
    /// Minutes that all viewers watched together.
    pub minutes: f64,
    pub stalls: u64,
    pub stall_ms: u64,
    /// Of half of the starts at most.
    pub startup_ms: Option<u64>,
    pub kbps: Option<u64>,
    pub latency_ms: Option<u64>,
    pub errors: u64,
    /// Mean number of viewers of each.
    pub renditions: BTreeMap<Rendition, f64>,
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn rounded(mean: Mean) -> Option<u64> {
    mean.get().map(|mean| mean.round() as u64)
}

impl Point {
    fn new(at: UnixMs, tally: &Tally, lasted_ms: i64) -> Self {
        let mean = |ms: u64| round(ms as f64 / lasted_ms.max(1) as f64);
        Self {
            at: at.to_string(),
            viewers: mean(tally.watched_ms),
            peak: tally.peak,
            estimate: mean(tally.estimated_ms),
            joins: tally.joins,
            minutes: round(tally.watched_ms as f64 / MINUTE_MS as f64),
            stalls: tally.stalls,
            stall_ms: tally.stalls_ms,
            startup_ms: tally.startups.quantile(0.5),
            kbps: rounded(tally.kbps),
            latency_ms: rounded(tally.latency),
            errors: tally.errors.values().sum(),
            renditions: tally.renditions.iter().map(|(name, ms)| (name.clone(), mean(*ms))).collect(),
        }
    }
}

/// Adds the rows up to the steps of a scale; those without rows are left out. `recorded`: of who watched recordings.
pub fn series(rows: &[AudienceRow], scale: &Scale, recorded: bool, now: UnixMs) -> Vec<Point> {
    let mut steps: BTreeMap<i64, Tally> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.span == scale.span && (scale.from..scale.to).contains(&row.at)) {
        let Ok(body) = serde_json::from_str::<Body>(&row.body) else { continue };
        if body.recorded == recorded {
            steps.entry(row.at.0.div_euclid(scale.step_ms)).or_default().add(&body.tally);
        }
    }
    let point = |(step, tally): (i64, Tally)| {
        let at = step * scale.step_ms;
        Point::new(UnixMs(at), &tally, scale.step_ms.min(now.0 - at))
    };
    steps.into_iter().map(point).collect()
}

/// What a broadcast came to.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AudienceTotal)]
pub struct Total {
    /// Views that began, and different viewers.
    pub joins: u64,
    pub uniques: u64,
    /// Minutes that all viewers watched together, and their mean number.
    pub minutes: f64,
    pub average: f64,
    pub peak: u64,
    #[schema(format = DateTime)]
    pub peak_at: Option<String>,
    pub startup_ms: Quantiles,
    pub stalls: u64,
    pub stall_ms: u64,
    /// Time in halts against time watched, at most 1.
    pub stall_ratio: f64,
    pub kbps: Option<u64>,
    pub latency_ms: Option<u64>,
    pub dropped_frames: u64,
    /// Most frequent first.
    pub errors: Vec<Fault>,
    pub renditions: Vec<Share>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quantiles {
    pub p50: Option<u64>,
    pub p95: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = PlayerError)]
pub struct Fault {
    pub code: String,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = RenditionMinutes)]
pub struct Share {
    pub name: Rendition,
    pub minutes: f64,
}

/// Adds the rows of a whole broadcast, which lasted so long; nothing where none is of those who are asked for. `here`: this node's own
/// count, newer than what it wrote.
pub fn total(rows: &[AudienceRow], here: Option<(&str, Body)>, recorded: bool, lasted_ms: i64) -> Option<Total> {
    let newer = here.as_ref().map(|(part, _)| *part);
    let stored = rows.iter().filter(|row| row.span == AudienceSpan::Whole && Some(row.part.as_str()) != newer);
    let stored = stored.filter_map(|row| serde_json::from_str::<Body>(&row.body).ok());
    let (mut tally, mut uniques, mut any) = (Tally::default(), Uniques::default(), false);
    for body in stored.chain(here.map(|(_, body)| body)).filter(|body| body.recorded == recorded) {
        any = true;
        tally.add(&body.tally);
        body.uniques.iter().for_each(|more| uniques.join(more));
    }
    let minutes = |ms: u64| round(ms as f64 / MINUTE_MS as f64);
    let mut errors: Vec<_> = tally.errors.iter().map(|(code, &count)| Fault { code: code.clone(), count }).collect();
    errors.sort_by_key(|fault| std::cmp::Reverse(fault.count));
    any.then(|| Total {
        joins: tally.joins,
        uniques: uniques.len(),
        minutes: minutes(tally.watched_ms),
        average: round(tally.watched_ms as f64 / lasted_ms.max(1) as f64),
        peak: tally.peak,
        peak_at: tally.peak_at.map(|at| at.to_string()),
        startup_ms: Quantiles { p50: tally.startups.quantile(0.5), p95: tally.startups.quantile(0.95) },
        stalls: tally.stalls,
        stall_ms: tally.stalls_ms,
        stall_ratio: ((tally.stalls_ms as f64 / tally.watched_ms.max(1) as f64).min(1.0) * 10_000.0).round() / 10_000.0,
        kbps: rounded(tally.kbps),
        latency_ms: rounded(tally.latency),
        dropped_frames: tally.dropped,
        errors,
        renditions: tally
            .renditions
            .iter()
            .map(|(name, ms)| Share { name: name.clone(), minutes: minutes(*ms) })
            .collect(),
    })
}

/// How it is now, as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AudienceNow)]
pub struct Current {
    #[schema(format = DateTime)]
    pub at: String,
    pub viewers: u64,
    /// Of them, or beside them, those who have paused: they are not among the viewers.
    pub paused: u64,
    /// Viewers as requests for playlists at the nodes show them: those whose players report nothing too, but none behind a cache.
    pub estimate: u64,
    pub renditions: Vec<Viewers>,
    pub kbps: Option<u64>,
    pub latency_ms: Option<u64>,
    /// Viewers whose picture stands.
    pub stalled: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RenditionViewers)]
pub struct Viewers {
    pub name: Rendition,
    pub viewers: u64,
}

impl Current {
    pub fn new(at: UnixMs, now: Now) -> Self {
        let renditions = now.renditions.into_iter().map(|(name, viewers)| Viewers { name, viewers });
        Self {
            at: at.to_string(),
            viewers: now.viewers,
            paused: now.paused,
            estimate: now.sums.estimate,
            renditions: renditions.collect(),
            kbps: rounded(now.sums.kbps),
            latency_ms: rounded(now.sums.latency),
            stalled: now.sums.stalled,
        }
    }
}

impl Crowd {
    /// What was counted here of the whole broadcast, to this moment.
    pub fn whole(&self) -> Body {
        let done = self.done();
        Body { tally: done.with_minute(&done.whole), recorded: !self.subject.live, uniques: Some(done.uniques.clone()) }
    }
}

const COLUMNS: &str = "at,viewers,peak,estimate,joins,minutes,stalls,stall_ms,startup_ms,kbps,latency_ms,errors";

/// Writes a series as a table (RFC 4180), with a column of mean viewers for each rendition.
pub fn csv(series: &[Point]) -> String {
    use std::fmt::Write;
    let names: std::collections::BTreeSet<_> = series.iter().flat_map(|point| point.renditions.keys()).collect();
    let mut text = COLUMNS.to_owned();
    names.iter().for_each(|name| _ = write!(text, ",{name}"));
    text.push_str("\r\n");
    let maybe = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    for point in series {
        let Point { at, viewers, peak, estimate, joins, minutes, stalls, stall_ms, errors, .. } = point;
        let (startup, kbps, latency) = (maybe(point.startup_ms), maybe(point.kbps), maybe(point.latency_ms));
        _ = write!(
            text,
            "{at},{viewers},{peak},{estimate},{joins},{minutes},{stalls},{stall_ms},{startup},{kbps},{latency},{errors}"
        );
        let of = |name| point.renditions.get(name).copied().unwrap_or_default();
        names.iter().for_each(|name| _ = write!(text, ",{}", of(*name)));
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(span: AudienceSpan, minute: i64, part: &str, tally: Tally) -> AudienceRow {
        let body = serde_json::to_string(&Body { tally, ..Body::default() }).unwrap();
        let (at, broadcast) = (UnixMs(minute * MINUTE_MS), "01b".parse().unwrap());
        AudienceRow { span, at, broadcast, part: part.into(), made: UnixMs(0), body }
    }

    fn watched(ms: u64, peak: u64) -> Tally {
        let mut tally = Tally { watched_ms: ms, joins: 1, ..Tally::default() };
        tally.reach(peak, Some(UnixMs(peak as i64)));
        tally.watched(&"720p".parse().unwrap(), ms);
        tally
    }

    #[test]
    fn a_scale_has_at_most_its_points() {
        let day = 24 * HOUR_MS;
        for (from, to, points) in [
            (0, 30 * MINUTE_MS, 1000),
            (59_999, day * 2, 1000),
            (1, day * 400, 1000),
            (5, 5, 10),
            (7, day, 7),
            (0, day, 1),
        ] {
            let scale = Scale::of(UnixMs(from), UnixMs(to), points);
            let steps = (scale.to.0 - scale.from.0) / scale.step_ms;
            assert!(steps <= points.max(2) as i64 && steps >= 1, "{from} {to} {points}: {scale:?}");
            assert!(scale.from.0 <= from && scale.to.0 > to);
        }
        assert_eq!(Scale::of(UnixMs(0), UnixMs(30 * MINUTE_MS), 1000).step_ms, MINUTE_MS);
        assert_eq!(Scale::of(UnixMs(0), UnixMs(day * 30), 1000).span, AudienceSpan::Hour);
    }

    #[test]
    fn nodes_are_added_and_times_without_rows_are_left_out() {
        let minute = |at, part, ms, peak| row(AudienceSpan::Minute, at, part, watched(ms, peak));
        let rows = [minute(1, "a", 60_000, 3), minute(1, "b", 120_000, 3), minute(4, "a", 30_000, 1)];
        let scale = Scale::of(UnixMs(0), UnixMs(10 * MINUTE_MS), 100);
        let series = series(&rows, &scale, false, UnixMs(4 * MINUTE_MS + 30_000));
        let seen: Vec<_> = series.iter().map(|point| (point.viewers, point.peak, point.joins)).collect();
        // The last minute is half over.
        assert_eq!(seen, [(3.0, 3, 2), (1.0, 1, 1)]);
        let text = csv(&series);
        assert!(text.starts_with("at,viewers") && text.lines().next().unwrap().ends_with(",720p"), "{text}");
        assert!(text.contains("1970-01-01T00:01:00.000Z,3,3,0,2,3,0,0,,,,0,3\r\n"), "{text}");
    }

    #[test]
    fn the_total_takes_this_nodes_own_count_as_it_is() {
        let whole = |part, ms, peak| row(AudienceSpan::Whole, 0, part, watched(ms, peak));
        let rows = [whole("a", 60_000, 7), whole("b", 60_000, 9)];
        let here = Body { tally: watched(180_000, 8), ..Body::default() };
        let found = total(&rows, Some(("b", here)), false, 120_000).unwrap();
        assert_eq!((found.minutes, found.average, found.peak, found.joins), (4.0, 2.0, 8, 2));
        assert!(total(&rows, None, true, 1).is_none() && total(&[], None, false, 1).is_none());
    }
}
