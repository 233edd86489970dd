//! What one media playlist lists: a sliding window over the chunks of one rendition.
//!
//! The line owns a [`List`] per rendition and appends to it; everyone else reads [`Window`] snapshots, which never
//! change. All renditions of a broadcast list the same numbers: where one lacks a chunk it lists a gap, with the
//! discontinuity flag that the others have there, so that media and discontinuity sequence agree in all of them
//! (rfc8216bis 6.2.4).

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use super::{Error, Mark, mark::heard_from};
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
    /// Its parts, in order; none for a gap, and where there are no parts.
    pub parts: Arc<[PartEntry]>,
}

/// One part as a playlist lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartEntry {
    pub duration_us: u64,
    /// It begins with a sync sample (INDEPENDENT=YES).
    pub independent: bool,
}

/// A snapshot of one media playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    target: u32,
    part_target_ms: Option<u32>,
    discontinuity_sequence: u64,
    entries: Arc<[Entry]>,
    open: Option<Entry>,
    ended: bool,
    marks: Arc<[Mark]>,
}

impl Window {
    /// With what is told beside the chunks, in the order of its starts; of it the window tells what it needs.
    pub fn with_marks(self, marks: Arc<[Mark]>) -> Self {
        Self { marks, ..self }
    }

    /// What is told beside the chunks: what runs where the window begins, and what begins later.
    pub fn marks(&self) -> &[Mark] {
        self.entries.first().map_or(&[], |first| heard_from(&self.marks, first.wall))
    }

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

    /// PART-TARGET, milliseconds; nothing where there are no parts.
    pub fn part_target_ms(&self) -> Option<u32> {
        self.part_target_ms
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

    /// The chunk that is being made, with the parts that are finished. Nothing while it is not known which will come next.
    pub fn open(&self) -> Option<&Entry> {
        self.open.as_ref()
    }

    /// The number after the last entry; nothing while there is none.
    pub fn next_k(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.k + 1)
    }

    /// The newest thing listed: chunk number and part, as EXT-X-RENDITION-REPORT tells it.
    pub fn edge(&self) -> Option<(u64, Option<u64>)> {
        edge(self.entries.last(), self.open())
    }

    /// Whether a blocking reload for chunk `k` (`_HLS_msn`), or for one of its parts (`_HLS_part`), can be answered
    /// (rfc8216bis 6.2.5.2). A part after the last of a chunk is the first of the next.
    pub fn holds(&self, k: u64, part: Option<u64>) -> bool {
        let Some(next) = self.next_k() else { return false };
        let listed = |entry: &Entry, part: u64| part < entry.parts.len() as u64;
        match part {
            _ if self.ended || k < self.media_sequence() => true,
            None => k < next,
            Some(part) if k == next => self.open.as_ref().is_some_and(|open| listed(open, part)),
            Some(_) if k > next => false,
            // A chunk without parts holds whatever there could have been.
            Some(part) => {
                self.entry(k).is_none_or(|entry| entry.parts.is_empty() || listed(entry, part))
                    || self.holds(k + 1, Some(0))
            }
        }
    }

    /// Whether a blocking reload asks for what lies so far ahead that something is wrong with the player (rfc8216bis
    /// 6.2.5.2): more than two chunks, or more parts than make up three target durations of them.
    pub fn is_far(&self, k: u64, part: Option<u64>) -> bool {
        let Some(next) = self.next_k() else { return k > 2 };
        let ahead = part.unwrap_or(0).saturating_sub(match self.open.as_ref() {
            Some(open) if open.k == k => open.parts.len() as u64,
            _ => 0,
        });
        let limit = self.part_target_ms.filter(|&ms| ms < 1000).map_or(3, |ms| 3000_u64.div_ceil(ms.max(1).into()));
        !self.ended && (k > next + 1 || (k >= next && ahead > limit))
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
    part_target_ms: Option<u32>,
    len_max: usize,
    discontinuity_sequence: u64,
    entries: VecDeque<Entry>,
    /// The same, for snapshots; made when one is taken after a change.
    shared: OnceLock<Arc<[Entry]>>,
    open: Option<Entry>,
    /// Sum of the entries' durations.
    total_us: u64,
    ended: bool,
}

impl List {
    /// Makes an empty list. `target` is EXT-X-TARGETDURATION in seconds, fixed for the playlist's life; `len_max` says
    /// how many entries are kept ([`LEN_MAX`]).
    pub fn new(target: u32, len_max: usize) -> Self {
        Self {
            target,
            part_target_ms: None,
            len_max,
            discontinuity_sequence: 0,
            entries: VecDeque::new(),
            shared: OnceLock::new(),
            open: None,
            total_us: 0,
            ended: false,
        }
    }

    /// Lists parts, none longer than PART-TARGET. Fixed for the playlist's life, too.
    pub fn with_parts(mut self, part_target_ms: Option<u32>) -> Self {
        self.part_target_ms = part_target_ms;
        self
    }

    /// Goes on from a snapshot, as after a restart.
    pub fn resume(window: &Window, len_max: usize) -> Self {
        let mut list = Self::new(window.target, len_max).with_parts(window.part_target_ms);
        list.open = window.open.clone();
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
        self.shared = OnceLock::new();
        self.open = None;
        self.trim();
        Ok(())
    }

    /// The chunk that is being made.
    pub fn open(&self) -> Option<&Entry> {
        self.open.as_ref()
    }

    /// See [`Window::edge`].
    pub fn edge(&self) -> Option<(u64, Option<u64>)> {
        edge(self.entries.back(), self.open())
    }

    /// Sets the chunk that is being made. It must be the next one; nothing is taken after the end.
    pub fn set_open(&mut self, open: Option<Entry>) {
        let next = self.next_k();
        self.open = open.filter(|open| !self.ended && next.is_none_or(|next| open.k == next));
    }

    /// Ends the playlist, for ever.
    pub fn end(&mut self) {
        self.ended = true;
        self.open = None;
    }

    /// Takes a snapshot.
    pub fn window(&self) -> Window {
        Window {
            target: self.target,
            part_target_ms: self.part_target_ms,
            discontinuity_sequence: self.discontinuity_sequence,
            entries: self.shared.get_or_init(|| self.entries.iter().cloned().collect()).clone(),
            open: self.open.clone(),
            ended: self.ended,
            marks: Arc::default(),
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

fn edge(last: Option<&Entry>, open: Option<&Entry>) -> Option<(u64, Option<u64>)> {
    let newest = open.filter(|open| !open.parts.is_empty()).or(last)?;
    Some((newest.k, (newest.parts.len() as u64).checked_sub(1)))
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
            parts: Arc::default(),
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

    fn parts(count: usize) -> Arc<[PartEntry]> {
        vec![PartEntry { duration_us: 333_333, independent: false }; count].into()
    }

    /// Chunks 0 to 20 of six parts but 18, a gap, and 19, which has none; two parts of chunk 21.
    fn low_latency() -> List {
        let mut list = List::new(2, LEN_MAX).with_parts(Some(343));
        for k in 0..=20 {
            let parts = parts(if matches!(k, 18 | 19) { 0 } else { 6 });
            list.append(Entry { parts, gap: k == 18, ..entry(k, 2000) }).unwrap();
        }
        list.set_open(Some(Entry { parts: parts(2), ..entry(21, 667) }));
        list
    }

    #[test]
    fn a_blocking_reload_waits_for_what_it_names() {
        let window = low_latency().window();
        for (k, part, holds) in [
            (0, None, true),
            // Older than the window: there is nothing to wait for.
            (0, Some(0), true),
            (20, None, true),
            (21, None, false),
            (20, Some(5), true),
            // After the last part of a chunk comes the first of the next.
            (20, Some(6), true),
            (21, Some(1), true),
            (21, Some(2), false),
            (22, Some(0), false),
            (18, Some(0), true),
            (19, Some(3), true),
        ] {
            assert_eq!(window.holds(k, part), holds, "{k} {part:?}");
        }
        let mut list = low_latency();
        list.set_open(None);
        assert!(!list.window().holds(20, Some(6)) && list.window().holds(20, Some(5)));
        assert!(!List::new(2, LEN_MAX).window().holds(0, None));
        list.end();
        assert!(list.window().holds(99, Some(9)), "an ended playlist ignores it");
    }

    #[test]
    fn a_reload_for_the_far_future_is_known() {
        let window = low_latency().window();
        for (k, part, far) in [
            (0, None, false),
            (21, Some(2), false),
            (22, None, false),
            (22, Some(0), false),
            (23, None, true),
            (23, Some(0), true),
            // 3 s are nine parts of 343 ms.
            (21, Some(11), false),
            (21, Some(12), true),
            (20, Some(99), false),
        ] {
            assert_eq!(window.is_far(k, part), far, "{k} {part:?}");
        }
        let mut ended = low_latency();
        ended.end();
        assert!(!ended.window().is_far(99, None));
        assert!(!List::new(2, LEN_MAX).window().is_far(0, Some(0)));
    }

    #[test]
    fn only_the_next_chunk_can_be_open() {
        let mut list = low_latency();
        assert_eq!(list.window().edge(), Some((21, Some(1))));
        list.set_open(Some(entry(22, 333)));
        assert_eq!(list.window().open(), None);
        assert_eq!(list.window().edge(), Some((20, Some(5))));
        list.append(entry(21, 2000)).unwrap();
        assert_eq!(list.window().edge(), Some((21, None)));
        list.set_open(Some(entry(22, 0)));
        list.end();
        list.set_open(Some(entry(22, 0)));
        assert_eq!(list.window().open(), None);
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
