//! What one media playlist lists: a sliding window over the chunks of one rendition.
//!
//! The line owns a [`List`] per rendition and appends to it; everyone else reads [`Window`] snapshots, which never
//! change. All renditions of a broadcast list the same numbers: where one lacks a chunk it lists a gap, with the
//! discontinuity flag that the others have there, so that media and discontinuity sequence agree in all of them
//! (rfc8216bis 6.2.4).

use std::{collections::VecDeque, sync::Arc};

use super::Error;
use crate::time::UnixMs;

/// How many chunks a live playlist lists (30 s of 2 s chunks).
pub const LEN_MAX: usize = 15;

/// One chunk number as a playlist lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub k: u64,
    pub epoch: u64,
    /// Real duration, microseconds; the nominal one for a gap.
    pub duration_us: u64,
    /// The chunk does not continue the one before it.
    pub discontinuity: bool,
    /// The chunk is missing.
    pub gap: bool,
    /// The wall clock at its start.
    pub wall: UnixMs,
    /// Hash that names its init segment; may be empty for a gap.
    pub init: Arc<str>,
}

/// A snapshot of one media playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    target: u32,
    discontinuity_sequence: u64,
    entries: Arc<[Entry]>,
    ended: bool,
}

impl Window {
    /// Makes a snapshot of stored entries: a recording, or the last chunks of a broadcast before a restart.
    ///
    /// `target` is EXT-X-TARGETDURATION in seconds, `discontinuity_sequence` the number of discontinuities before the
    /// first entry. Fails with [`Error::NotNext`] where a number is missing.
    pub fn from_entries(
        target: u32,
        discontinuity_sequence: u64,
        entries: impl IntoIterator<Item = Entry>,
        ended: bool,
    ) -> Result<Self, Error> {
        let mut list = List::new(target, usize::MAX);
        list.discontinuity_sequence = discontinuity_sequence;
        entries.into_iter().try_for_each(|entry| list.append(entry))?;
        list.ended = ended;
        Ok(list.window())
    }

    /// EXT-X-TARGETDURATION, seconds.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// EXT-X-MEDIA-SEQUENCE: the number of the first entry, 0 while there is none.
    pub fn media_sequence(&self) -> u64 {
        self.entries.first().map_or(0, |entry| entry.k)
    }

    /// EXT-X-DISCONTINUITY-SEQUENCE: how many discontinuities have left.
    pub fn discontinuity_sequence(&self) -> u64 {
        self.discontinuity_sequence
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Finds the entry of a chunk number.
    pub fn entry(&self, k: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(k.checked_sub(self.media_sequence())?).ok()?)
    }

    /// No chunk will follow (EXT-X-ENDLIST).
    pub fn ended(&self) -> bool {
        self.ended
    }
}

/// The owner of one media playlist.
#[derive(Debug, Clone)]
pub struct List {
    target: u32,
    len_max: usize,
    discontinuity_sequence: u64,
    entries: VecDeque<Entry>,
    /// Sum of the entries' durations.
    total_us: u64,
    ended: bool,
}

impl List {
    /// Makes an empty list. `target` is EXT-X-TARGETDURATION in seconds, fixed for the playlist's life; `len_max` says
    /// how many entries are kept ([`LEN_MAX`]).
    pub fn new(target: u32, len_max: usize) -> Self {
        Self { target, len_max, discontinuity_sequence: 0, entries: VecDeque::new(), total_us: 0, ended: false }
    }

    /// Goes on from a snapshot, as after a restart.
    pub fn resume(window: &Window, len_max: usize) -> Self {
        let mut list = Self::new(window.target, len_max);
        list.discontinuity_sequence = window.discontinuity_sequence;
        list.entries = window.entries.iter().cloned().collect();
        list.total_us = list.entries.iter().map(|entry| entry.duration_us).sum();
        list.ended = window.ended;
        list.trim();
        list
    }

    /// The number that must come next; nothing while the list is empty.
    pub fn next_k(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.k + 1)
    }

    /// Appends the next chunk number and lets the oldest go.
    ///
    /// A gap that names no init segment takes the one before it, so that what is said of it stays the same when it has
    /// become the first entry.
    pub fn append(&mut self, mut entry: Entry) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        if let Some(next) = self.next_k()
            && entry.k != next
        {
            return Err(Error::NotNext { k: entry.k, next });
        }
        if entry.init.is_empty()
            && let Some(last) = self.entries.back()
        {
            entry.init = last.init.clone();
        }
        self.total_us += entry.duration_us;
        self.entries.push_back(entry);
        self.trim();
        Ok(())
    }

    /// Ends the playlist, for ever.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Takes a snapshot.
    pub fn window(&self) -> Window {
        Window {
            target: self.target,
            discontinuity_sequence: self.discontinuity_sequence,
            entries: self.entries.iter().cloned().collect(),
            ended: self.ended,
        }
    }

    /// Removes from the front what is over `len_max`, while three target durations remain (rfc8216bis 6.2.2).
    fn trim(&mut self) {
        let keep_us = 3 * u64::from(self.target) * 1_000_000;
        while self.entries.len() > self.len_max
            && let Some(first) = self.entries.front()
            && self.total_us - first.duration_us >= keep_us
        {
            self.total_us -= first.duration_us;
            self.discontinuity_sequence += u64::from(first.discontinuity);
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn entry(k: u64, ms: u64) -> Entry {
        Entry {
            k,
            epoch: 1,
            duration_us: ms * 1000,
            discontinuity: false,
            gap: false,
            wall: UnixMs(1_700_000_000_000 + (k * ms) as i64),
            init: "a".into(),
        }
    }

    #[test]
    fn refuses_what_does_not_follow() {
        let mut list = List::new(2, LEN_MAX);
        list.append(entry(7, 2000)).unwrap();
        for k in [0, 6, 7, 9] {
            assert_eq!(list.append(entry(k, 2000)), Err(Error::NotNext { k, next: 8 }));
        }
        list.append(entry(8, 2000)).unwrap();
        list.end();
        assert_eq!(list.append(entry(9, 2000)), Err(Error::Ended));
        let window = list.window();
        assert!(window.ended());
        assert_eq!((window.media_sequence(), window.entries().len()), (7, 2));
        assert_eq!(window.entry(8).map(|e| e.k), Some(8));
        assert_eq!(window.entry(9), None);
        assert_eq!(window.entry(6), None);
    }

    #[test]
    fn keeps_three_targets_of_short_chunks() {
        let mut list = List::new(6, 3);
        (0..40).for_each(|k| list.append(entry(k, 500)).unwrap());
        assert_eq!(list.window().entries().len(), 36);
    }

    #[test]
    fn a_gap_keeps_the_map_it_had() {
        let mut list = List::new(2, LEN_MAX);
        list.append(entry(0, 2000)).unwrap();
        list.append(Entry { gap: true, init: "".into(), ..entry(1, 2000) }).unwrap();
        assert_eq!(&*list.window().entries()[1].init, "a");
    }

    proptest! {
        #[test]
        fn sequences_count_what_left(
            flags in prop::collection::vec((any::<bool>(), 1u64..4000), 1..80), len_max in 1usize..20, target in 1u32..7, cut in 0usize..80,
        ) {
            let entries: Vec<_> = flags.iter().enumerate()
                .map(|(k, &(discontinuity, ms))| Entry { discontinuity, ..entry(k as u64, ms) }).collect();
            let mut list = List::new(target, len_max);
            for (i, entry) in entries.iter().enumerate() {
                // A restart anywhere changes nothing.
                if i == cut {
                    list = List::resume(&list.window(), len_max);
                }
                let before = list.window();
                list.append(entry.clone()).unwrap();
                let window = list.window();
                let gone = window.media_sequence() as usize;
                prop_assert_eq!(window.discontinuity_sequence(), flags[..gone].iter().filter(|f| f.0).count() as u64);
                prop_assert_eq!(window.entries(), &entries[gone..=i]);
                let left: u64 = window.entries().iter().map(|e| e.duration_us).sum();
                let keep = 3_000_000 * u64::from(target);
                if gone as u64 > before.media_sequence() {
                    prop_assert!(left >= keep);
                }
                prop_assert!(window.entries().len() <= len_max || left - window.entries()[0].duration_us < keep);
                let again = Window::from_entries(target, window.discontinuity_sequence(), window.entries().to_vec(), false);
                prop_assert_eq!(again.as_ref(), Ok(&window));
            }
        }
    }
}
