//! The chunk numbers of a broadcast: when each starts, how long it is, and which are holes. Every rendition shares them.
//!
//! Pure. Driven by [`super::broadcast::Broadcast`].

use std::collections::{BTreeMap, VecDeque};

use crate::{
    media::{Epoch, VIDEO_TIMESCALE},
    time::UnixMs,
};

/// One chunk number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub k: u64,
    pub epoch: u64,
    /// Start on the broadcast's timeline, 90 kHz.
    pub at: i64,
    /// End, once it is known; only then can the chunk be listed.
    pub end: Option<i64>,
    pub wall: UnixMs,
    pub discontinuity: bool,
    /// No media: the encoder was away.
    pub gap: bool,
}

/// The recent slots of a broadcast.
#[derive(Debug, Default)]
pub struct Grid {
    slots: VecDeque<Slot>,
    /// Start of each epoch on both clocks, to tell the wall time of a mark.
    epochs: BTreeMap<u64, (i64, UnixMs)>,
    epoch: u64,
    /// The chunk number at which the running epoch breaks with what was before. One who joins later does not see it.
    breaks_at: Option<u64>,
    /// All chunk numbers that begin with a discontinuity.
    discontinuities: Vec<u64>,
}

/// Slots kept: more than any window plus what renditions may lag.
const KEEP: usize = 256;

impl Grid {
    /// Rebuilds the grid of a broadcast that was stored, from its last slots and its discontinuities.
    pub fn restore(slots: Vec<Slot>, discontinuities: Vec<u64>) -> Self {
        let epoch = slots.last().map_or(0, |slot| slot.epoch);
        Self { slots: slots.into(), epoch, discontinuities, ..Self::default() }
    }

    /// Begins an epoch; numbers between the last one and its first are gaps of `nominal` ticks.
    pub fn begin(&mut self, epoch: &Epoch, nominal: i64) {
        while let Some(last) = self.slots.back()
            && last.k + 1 < epoch.k
        {
            self.gap(nominal);
        }
        self.epoch = epoch.number;
        self.epochs.insert(epoch.number, (epoch.at, epoch.wall));
        self.breaks_at = epoch.discontinuity.then_some(epoch.k);
    }

    /// Chunk `k` of the running epoch starts at `at`; the one before it ends there.
    pub fn mark(&mut self, k: u64, at: i64) {
        self.close(at);
        let wall = self.wall_at(self.epoch, at);
        let discontinuity = self.breaks_at.take() == Some(k);
        if discontinuity {
            self.discontinuities.push(k);
        }
        self.push(Slot { k, epoch: self.epoch, at, end: None, wall, discontinuity, gap: false });
    }

    /// The open chunk ends at `at`. Nothing happens when none is open.
    pub fn close(&mut self, at: i64) {
        if let Some(last) = self.slots.back_mut()
            && last.end.is_none()
        {
            last.end = Some(at.max(last.at + 1));
        }
    }

    /// Appends a hole of `nominal` ticks after the last slot.
    pub fn gap(&mut self, nominal: i64) {
        let Some(last) = self.slots.back() else { return };
        let end = last.end.unwrap_or(last.at + nominal);
        let wall = UnixMs(last.wall.0 + ticks_ms(end - last.at));
        let slot = Slot {
            k: last.k + 1,
            epoch: last.epoch,
            at: end,
            end: Some(end + nominal),
            wall,
            discontinuity: false,
            gap: true,
        };
        self.close(end);
        self.push(slot);
    }

    /// Goes on with what another grid of the broadcast holds from chunk `k_start` on, now as `epoch`'s. Numbers between the two
    /// are gaps of `nominal` ticks.
    pub fn go_on(&mut self, other: Grid, epoch: u64, k_start: u64, nominal: i64) {
        self.epoch = epoch;
        if let Some(begun) = other.epochs.get(&other.epoch) {
            self.epochs.insert(epoch, *begun);
        }
        self.breaks_at = other.breaks_at;
        let ours = other.slots.into_iter().filter(|slot| slot.k >= k_start);
        for slot in ours {
            while let Some(last) = self.slots.back()
                && last.k + 1 < slot.k
            {
                self.gap(nominal);
            }
            if self.slots.back().is_some_and(|last| last.k >= slot.k) {
                continue;
            }
            self.close(slot.at);
            if slot.discontinuity {
                self.discontinuities.push(slot.k);
                self.discontinuities.sort_unstable();
                self.discontinuities.dedup();
            }
            let wall = self.slots.back().map_or(slot.wall, |last| slot.wall.max(UnixMs(last.wall.0 + 1)));
            self.push(Slot { epoch, wall, ..slot });
        }
    }

    pub fn slot(&self, k: u64) -> Option<&Slot> {
        let first = self.slots.front()?.k;
        self.slots.get(usize::try_from(k.checked_sub(first)?).ok()?)
    }

    /// The first number of an epoch that is kept.
    pub fn first_of(&self, epoch: u64) -> Option<u64> {
        self.slots.iter().find(|slot| slot.epoch == epoch).map(|slot| slot.k)
    }

    pub fn last(&self) -> Option<&Slot> {
        self.slots.back()
    }

    /// How many discontinuities lie before chunk `k`.
    pub fn discontinuities_before(&self, k: u64) -> u64 {
        self.discontinuities.iter().filter(|&&d| d < k).count() as u64
    }

    fn wall_at(&self, epoch: u64, at: i64) -> UnixMs {
        let (start, wall) = self.epochs.get(&epoch).copied().unwrap_or_default();
        let wall = UnixMs(wall.0 + ticks_ms(at - start));
        // Wall clocks step back; PROGRAM-DATE-TIME must not.
        self.slots.back().map_or(wall, |last| wall.max(UnixMs(last.wall.0 + 1)))
    }

    fn push(&mut self, slot: Slot) {
        self.slots.push_back(slot);
        if self.slots.len() > KEEP {
            self.slots.pop_front();
        }
    }
}

fn ticks_ms(ticks: i64) -> i64 {
    ticks * 1000 / i64::from(VIDEO_TIMESCALE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BroadcastId;

    fn epoch(number: u64, k: u64, at: i64, wall: i64) -> Epoch {
        let broadcast = BroadcastId::new("b").unwrap();
        Epoch { broadcast, number, k, at, wall: UnixMs(wall), discontinuity: number > 1 }
    }

    #[test]
    fn a_return_after_lost_time_fills_the_numbers_between_with_gaps() {
        let mut grid = Grid::default();
        grid.begin(&epoch(1, 0, 0, 1000), 180_000);
        grid.mark(0, 0);
        grid.mark(1, 180_000);
        grid.close(270_000);
        grid.begin(&epoch(2, 4, 700_000, 9000), 180_000);
        grid.mark(4, 700_000);
        let seen: Vec<_> = (0..5).map(|k| grid.slot(k).unwrap()).collect();
        assert_eq!(seen.iter().map(|s| s.gap).collect::<Vec<_>>(), [false, false, true, true, false]);
        assert_eq!(seen[1].end, Some(270_000));
        assert_eq!(seen[2].wall, UnixMs(4000));
        assert_eq!(seen[3].wall, UnixMs(6000));
        assert_eq!((seen[4].wall, seen[4].discontinuity), (UnixMs(9000), true));
        assert_eq!((grid.discontinuities_before(4), grid.discontinuities_before(5)), (0, 1));
    }

    #[test]
    fn program_date_time_never_goes_back() {
        let mut grid = Grid::default();
        grid.begin(&epoch(1, 0, 0, 50_000), 180_000);
        grid.mark(0, 0);
        grid.close(90_000);
        grid.begin(&epoch(2, 1, 90_000, 10_000), 180_000);
        grid.mark(1, 90_000);
        assert!(grid.slot(1).unwrap().wall > grid.slot(0).unwrap().wall);
    }
}
