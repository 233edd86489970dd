//! Where a new owner begins: with the first number of which the store has less than it holds. Pure.

use crate::{id::Rendition, store::ChunkRow};

/// Before the newest row, so many are looked through for renditions that were not stored: a row is written when some come late.
const INCOMPLETE: u64 = 3;

/// The number from which on a standby's chunks count when it takes over. `held` are the numbers of the chunks that it has, by
/// rendition; `stored` are the newest valid rows, by number; `open` is the number that it is making.
///
/// What the owner before has listed and not stored is published again: the chunks have the same frames and times. What is
/// stored whole stays the old owner's, so that no name changes without need.
pub fn takes_over_at<'a>(held: impl IntoIterator<Item = (&'a Rendition, u64)>, stored: &[ChunkRow], open: u64) -> u64 {
    let newest = stored.last().map(|row| row.k);
    let from = newest.map_or(0, |newest| newest.saturating_sub(INCOMPLETE));
    let is_stored = |k: u64, rendition: &Rendition| {
        let row = stored.iter().find(|row| row.k == k);
        row.is_some_and(|row| row.renditions.iter().any(|made| made.rendition == *rendition))
    };
    let missing = held.into_iter().filter(|(rendition, k)| *k >= from && !is_stored(*k, rendition));
    missing.map(|(_, k)| k).min().unwrap_or_else(|| newest.map_or(open, |newest| newest + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::RenditionChunk, time::UnixMs};

    fn row(k: u64, renditions: &[&str]) -> ChunkRow {
        let made = |name: &&str| RenditionChunk {
            rendition: Rendition::new(name).unwrap(),
            init: "0".into(),
            bytes: 1,
            iframe: 0,
            duration_us: 1,
        };
        let renditions = renditions.iter().map(made).collect();
        ChunkRow { k, epoch: 1, at: 0, duration: 1, wall: UnixMs(0), discontinuity: false, renditions }
    }

    #[test]
    fn a_takeover_begins_with_what_is_not_stored_whole() {
        let (source, low) = (Rendition::source(), Rendition::new("360p").unwrap());
        let both = |k: u64| row(k, &["source", "360p"]);
        let held = |ks: std::ops::Range<u64>| ks.flat_map(|k| [(&source, k), (&low, k)]).collect::<Vec<_>>();
        let stored = |ks: std::ops::Range<u64>| ks.map(both).collect::<Vec<_>>();
        let at = |held: Vec<(&Rendition, u64)>, stored: &[ChunkRow], open| takes_over_at(held, stored, open);
        // Listed and not stored.
        assert_eq!(at(held(5..11), &stored(0..9), 11), 9);
        // Nothing is missing: with the one that is being made, or the one after what the owner was ahead.
        assert_eq!(at(held(5..9), &stored(0..9), 9), 9);
        assert_eq!(at(held(5..9), &stored(0..10), 9), 10);
        // A rendition is missing from the newest row, or a row before it is.
        assert_eq!(at(held(5..10), &[stored(0..8), vec![row(8, &["source"])]].concat(), 10), 8);
        assert_eq!(at(held(5..10), &[stored(0..7), stored(8..9)].concat(), 10), 7);
        // One that was never there, as that node could not afford it, is not mended for the whole past.
        let alone: Vec<_> = (0..40).map(|k| row(k, &["source"])).collect();
        assert_eq!(at(held(20..41), &alone, 41), 36);
        // What the standby does not have stays the old owner's to store.
        assert_eq!(at(held(30..41), &[both(10)], 41), 30);
        assert_eq!(at(Vec::new(), &[], 3), 3);
    }
}
