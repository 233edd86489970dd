//! When a delivery that failed is tried again. Pure.

use std::time::Duration;

/// After the first failure, the second, and so on; the last one counts for all that follow.
const PAUSES: [u64; 7] = [5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600];
/// A pause is up to so much shorter or longer: what failed together does not come back together.
const JITTER: f64 = 0.2;
/// A receiver that asks for a longer pause is not heard: it would hold its events back for ever.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// The pause after `failures` tries, at least one. `asked`: what the receiver said (`Retry-After`); `chance`: 0 to 1.
pub fn pause(failures: u32, asked: Option<Duration>, chance: f64) -> Duration {
    let step = (failures.max(1) as usize - 1).min(PAUSES.len() - 1);
    let pause = Duration::from_secs(PAUSES[step]).mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0));
    pause.max(asked.unwrap_or_default().min(ASKED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_hours_and_stay_there() {
        let all: Vec<_> = (1..=9).map(|failures| pause(failures, None, 0.5).as_secs()).collect();
        assert_eq!(all, [5, 30, 120, 600, 3600, 10_800, 21_600, 21_600, 21_600]);
        // A day holds all of them but the last.
        assert!(all[..8].iter().sum::<u64>() < 86_400 && all.iter().sum::<u64>() < 2 * 86_400);
        assert_eq!(pause(1, None, 0.0), Duration::from_secs(4));
        assert_eq!(pause(1, None, 1.0), Duration::from_secs(6));
        assert_eq!(pause(0, None, 0.5), Duration::from_secs(5));
    }

    #[test]
    fn a_receiver_may_ask_for_more_within_a_bound() {
        let asked = |seconds| pause(1, Some(Duration::from_secs(seconds)), 0.5).as_secs();
        assert_eq!((asked(1), asked(60), asked(1_000_000)), (5, 60, 3600));
    }
}
