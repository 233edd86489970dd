//! Admission: how much encoding a node can carry. Ladders enter, granted and shed rungs leave; measured CPU corrects the price.
//!
//! Pure but for one mutex in the shared handle [`Budget`]; every line holds a [`Reservation`] while its encoder runs.

use std::sync::{Arc, Mutex, MutexGuard};

use super::Rung;

/// Cores per million pixels encoded a second, before anything has been measured. A 2020 server core takes 0.010 with the
/// x264 description on a busy picture; starting a third above sheds a rung too many rather than one too few.
const ENCODE_COST: f64 = 0.013;
/// Cores per million source pixels decoded and scaled a second; measured 0.004.
const DECODE_COST: f64 = 0.005;
/// Weight of one new measurement.
const EWMA: f64 = 0.2;
/// A measurement may move the price this far from the constants: a stalled input must not make encoding look free.
const CORRECTION: std::ops::RangeInclusive<f64> = 0.4..=4.0;

/// What a ladder is made from, for pricing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub width: u32,
    pub height: u32,
    pub fps: f64,
}

/// The node's encoding capacity. Clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Mutex<State>>);

struct State {
    capacity: f64,
    used: f64,
    /// Measured cost over modelled cost.
    correction: f64,
}

/// What was granted. `shed` holds what was not, lowest value first.
pub struct Granted {
    /// In the order of the ladder, largest first.
    pub rungs: Vec<Rung>,
    pub shed: Vec<Rung>,
    pub reservation: Reservation,
}

/// Cores held for a running encoder; given back on drop.
pub struct Reservation {
    budget: Budget,
    load: Load,
    cores: f64,
}

impl Budget {
    /// Makes the budget of a node: `cores` times `share` (clamped to (0, 1]).
    pub fn new(cores: usize, share: f32) -> Self {
        let capacity = cores as f64 * f64::from(share.clamp(0.01, 1.0));
        Self(Arc::new(Mutex::new(State { capacity, used: 0.0, correction: 1.0 })))
    }

    /// Grants as many of the wanted rungs as fit, shedding the lowest-value ones first.
    pub fn admit(&self, wanted: &[Rung], load: Load) -> Granted {
        let mut state = self.lock();
        let free = state.capacity - state.used;
        let mut rungs = wanted.to_vec();
        let mut shed = Vec::new();
        let cost = |rungs: &[Rung]| modelled(rungs, load) * state.correction;
        while !rungs.is_empty() && cost(&rungs) > free {
            shed.push(rungs.remove(least_valuable(&rungs).expect("not empty")));
        }
        let cores = cost(&rungs);
        state.used += cores;
        drop(state);
        Granted { rungs, shed, reservation: Reservation { budget: self.clone(), load, cores } }
    }

    /// Cores reserved and cores there are.
    pub fn usage(&self) -> (f64, f64) {
        let state = self.lock();
        (state.used, state.capacity)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds the budget")
    }
}

impl Reservation {
    /// Notes that an encoder of these rungs took `cores` while its input ran at real time; corrects the price of what is
    /// admitted later, and what this reservation holds.
    pub fn measured(&mut self, rungs: &[Rung], cores: f64) {
        let model = modelled(rungs, self.load);
        if model <= 0.0 || !cores.is_finite() {
            return;
        }
        let mut state = self.budget.lock();
        let ratio = (cores / model).clamp(*CORRECTION.start(), *CORRECTION.end());
        state.correction += EWMA * (ratio - state.correction);
        let held = model * state.correction;
        state.used += held - self.cores;
        self.cores = held;
    }

    /// Cores held.
    pub fn cores(&self) -> f64 {
        self.cores
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.used = (state.used - self.cores).max(0.0);
    }
}

/// Gives the place of the rung that is missed least; `None` when there is none.
///
/// Most viewers can carry about 1 Mb/s and are content with it: the further from there, on a scale of ratios, the less.
pub fn least_valuable(rungs: &[Rung]) -> Option<usize> {
    let distance = |r: &Rung| (f64::from(r.bitrate_kbps.max(1)) / 1000.0).ln().abs();
    // Of equals the larger goes: it costs more.
    (0..rungs.len()).rev().max_by(|&a, &b| distance(&rungs[a]).total_cmp(&distance(&rungs[b])))
}

fn modelled(rungs: &[Rung], load: Load) -> f64 {
    if rungs.is_empty() {
        return 0.0;
    }
    let encoded: f64 = rungs.iter().map(|r| r.pixel_rate(load.fps)).sum();
    let decoded = f64::from(load.width) * f64::from(load.height) * load.fps;
    (encoded * ENCODE_COST + decoded * DECODE_COST) / 1e6
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        media::VideoConfig,
        transcode::ladder::{default_entries, plan},
    };

    const HD: Load = Load { width: 1920, height: 1080, fps: 30.0 };

    fn ladder() -> Vec<Rung> {
        let video = VideoConfig { avcc: Bytes::new(), width: 1920, height: 1080, sar: (1, 1), fps: Some((30, 1)) };
        plan(&default_entries(), &video, true)
    }

    fn names(rungs: &[Rung]) -> Vec<String> {
        rungs.iter().map(|r| r.name.to_string()).collect()
    }

    #[test]
    fn rungs_far_from_a_megabit_go_first() {
        let mut rungs = ladder();
        let mut order = Vec::new();
        while let Some(i) = least_valuable(&rungs) {
            order.push(rungs.remove(i).name.to_string());
        }
        assert_eq!(order, ["1080p", "160p", "720p", "360p", "480p"]);
    }

    #[test]
    fn a_ladder_that_fits_is_granted_whole_and_given_back() {
        let budget = Budget::new(8, 0.85);
        let granted = budget.admit(&ladder(), HD);
        assert_eq!(granted.rungs, ladder());
        assert!(granted.shed.is_empty() && budget.usage().0 > 1.0);
        drop(granted);
        assert!(budget.usage().0.abs() < 1e-9);
    }

    #[test]
    fn twelve_ladders_on_two_cores_never_go_over() {
        let budget = Budget::new(2, 0.85);
        let granted: Vec<_> = (0..12).map(|_| budget.admit(&ladder(), HD)).collect();
        let (used, capacity) = budget.usage();
        assert!(used <= capacity + 1e-9, "{used} of {capacity}");
        assert_eq!(names(&granted[0].rungs)[0], "720p", "the first broadcast gets most of its ladder");
        assert!(granted[11].rungs.is_empty() && granted[11].shed.len() == 5);
        assert!(granted.iter().any(|g| !g.rungs.is_empty() && names(&g.rungs).contains(&"480p".to_owned())));
    }

    #[test]
    fn measurements_move_the_price_within_bounds() {
        let budget = Budget::new(2, 0.85);
        let mut first = budget.admit(&ladder()[2..], HD);
        let before = first.reservation.cores();
        for _ in 0..50 {
            first.reservation.measured(&ladder()[2..], before / 2.0);
        }
        assert!((first.reservation.cores() - before / 2.0).abs() < 1e-3, "{}", first.reservation.cores());
        for _ in 0..50 {
            first.reservation.measured(&ladder()[2..], 0.0);
        }
        assert!(first.reservation.cores() > before * 0.39, "an idle input must not make encoding free");
        let (used, _) = budget.usage();
        assert!((used - first.reservation.cores()).abs() < 1e-9);
    }
}
