//! All that a rendition of a broadcast has listed, from its start: what rewinding, replay and clips are cut from.
//!
//! A chunk number takes 40 bytes. Rows lie in blocks that never change once they are full, so a snapshot costs three
//! counts, and appending copies at most one block, while someone holds the snapshot before.

use std::sync::Arc;

use super::{Entry, PartEntry};
use crate::{store::RenditionChunk, time::UnixMs};

/// Rows in a block: what an append may have to copy.
const BLOCK: usize = 512;

/// One chunk number as a playlist tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    pub k: u64,
    pub epoch: u64,
    /// Real duration, microseconds; the nominal one for a gap.
    pub duration_us: u64,
    pub discontinuity: bool,
    pub gap: bool,
    pub wall: UnixMs,
    /// Hash that names its init segment; may be empty for a gap.
    pub init: &'a str,
    pub parts: &'a [PartEntry],
    /// From the chunk's first byte to the end of its first picture; zero where that is not known.
    pub iframe: u32,
}

impl<'a> From<&'a Entry> for Item<'a> {
    fn from(entry: &'a Entry) -> Self {
        let Entry { k, epoch, duration_us, discontinuity, gap, wall, .. } = *entry;
        Self { k, epoch, duration_us, discontinuity, gap, wall, init: &entry.init, parts: &entry.parts, iframe: 0 }
    }
}

/// A chunk number's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    wall: UnixMs,
    /// Start on the broadcast's timeline, 90 kHz.
    at: i64,
    epoch: u64,
    duration_us: u32,
    size: Size,
    /// Place of the init segment's hash; none for a gap before the first chunk.
    init: u16,
    discontinuity: bool,
    gap: bool,
}

impl Row {
    fn end(&self) -> i64 {
        self.at + i64::from(self.duration_us) * 9 / 100
    }
}

/// Bytes of a chunk, and of these those up to the end of its first picture (none of audio). A gap has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub bytes: u32,
    pub iframe: u32,
}

impl From<&RenditionChunk> for Size {
    fn from(made: &RenditionChunk) -> Self {
        Self { bytes: made.bytes, iframe: made.iframe }
    }
}

/// What a rendition has listed. Clones are snapshots.
#[derive(Debug, Clone, Default)]
pub struct History {
    first: u64,
    discontinuities: u64,
    full: Arc<Vec<Arc<[Row]>>>,
    tail: Arc<Vec<Row>>,
    inits: Arc<Vec<Arc<str>>>,
}

/// A chunk number on the broadcast's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub k: u64,
    pub epoch: u64,
    /// Start on the broadcast's timeline, 90 kHz.
    pub at: i64,
    pub duration_us: u64,
    pub size: Size,
    pub gap: bool,
    pub wall: UnixMs,
}

impl Place {
    /// Where it ends on the broadcast's timeline, 90 kHz.
    pub fn end(&self) -> i64 {
        self.at + (self.duration_us * 9 / 100) as i64
    }
}

impl History {
    /// An empty history after `discontinuities`.
    pub fn new(discontinuities: u64) -> Self {
        Self { discontinuities, ..Self::default() }
    }

    /// Appends the number after the last one: `at` on the broadcast's timeline (90 kHz), with a chunk of this size.
    pub fn push(&mut self, entry: &Entry, at: i64, size: Size) {
        if self.is_empty() {
            self.first = entry.k;
        }
        debug_assert_eq!(entry.k, self.next_k(), "numbers are listed one after the other");
        let duration_us = u32::try_from(entry.duration_us).unwrap_or(u32::MAX);
        let init = self.init(&entry.init);
        let Entry { epoch, discontinuity, gap, wall, .. } = *entry;
        let tail = Arc::make_mut(&mut self.tail);
        tail.push(Row { wall, at, epoch, duration_us, size, init, discontinuity, gap });
        if tail.len() == BLOCK {
            Arc::make_mut(&mut self.full).push(tail.as_slice().into());
            self.tail = Arc::default();
        }
    }

    /// The place of an init segment's hash. Each epoch has one at most, and most have the same.
    fn init(&mut self, hash: &Arc<str>) -> u16 {
        if hash.is_empty() {
            // A gap takes the one before it.
            return self.row(self.next_k().wrapping_sub(1)).map_or(u16::MAX, |row| row.init);
        }
        let place = self.inits.iter().rposition(|known| known == hash).unwrap_or_else(|| {
            Arc::make_mut(&mut self.inits).push(hash.clone());
            self.inits.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.full.len() * BLOCK + self.tail.len()
    }

    /// The number after the last.
    pub fn next_k(&self) -> u64 {
        self.first + self.len() as u64
    }

    /// What memory it holds, bytes.
    pub fn weight(&self) -> usize {
        self.len() * size_of::<Row>()
    }

    /// The numbers from `from` to before `to`, as far as they are listed.
    pub fn slice(&self, from: u64, to: u64) -> Slice<'_> {
        let to = to.min(self.next_k());
        Slice { history: self, from: from.max(self.first).min(to), to }
    }

    /// All of it.
    pub fn all(&self) -> Slice<'_> {
        self.slice(0, u64::MAX)
    }

    /// Where a chunk number lies in time.
    pub fn place(&self, k: u64) -> Option<Place> {
        let Row { epoch, at, duration_us, size, gap, wall, .. } = *self.row(k)?;
        Some(Place { k, epoch, at, duration_us: duration_us.into(), size, gap, wall })
    }

    /// The first number whose row is not as wished, where rows are until some point.
    fn first_not(&self, wish: impl Fn(&Row) -> bool) -> u64 {
        let blocks = self.full.partition_point(|block| block.last().is_some_and(&wish));
        let rows = self.full.get(blocks).map_or(&self.tail[..], |block| block);
        self.first + (blocks * BLOCK + rows.partition_point(wish)) as u64
    }

    /// The numbers of which something lies between two times, 90 kHz. Empty where nothing does.
    pub fn between(&self, from: i64, to: i64) -> Slice<'_> {
        // A number lasts until the next one starts, the last as long as it is.
        let mut first = self.first_not(|row| row.at <= from).saturating_sub(1);
        if first + 1 == self.next_k() && self.row(first).is_some_and(|last| last.end() <= from) {
            first += 1;
        }
        self.slice(first, self.first_not(|row| row.at < to))
    }

    fn row(&self, k: u64) -> Option<&Row> {
        let place = usize::try_from(k.checked_sub(self.first)?).ok()?;
        match self.full.get(place / BLOCK) {
            Some(block) => block.get(place % BLOCK),
            None => self.tail.get(place.checked_sub(self.full.len() * BLOCK)?),
        }
    }
}

/// Consecutive numbers of a history.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    history: &'a History,
    from: u64,
    to: u64,
}

impl<'a> Slice<'a> {
    pub fn len(&self) -> usize {
        (self.to - self.from) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// The first number of it.
    pub fn first_k(&self) -> u64 {
        self.from
    }

    /// The same without the first `skip`.
    pub fn skip(self, skip: usize) -> Self {
        Self { from: (self.from + skip as u64).min(self.to), ..self }
    }

    /// The same without the gaps at its end.
    pub fn without_last_gaps(mut self) -> Self {
        while self.to > self.from && self.history.row(self.to - 1).is_some_and(|row| row.gap) {
            self.to -= 1;
        }
        self
    }

    /// How many discontinuities lie before it.
    pub fn discontinuities_before(&self) -> u64 {
        let before = self.history.slice(0, self.from).items().filter(|item| item.discontinuity).count();
        self.history.discontinuities + before as u64
    }

    pub fn items(&self) -> impl DoubleEndedIterator<Item = Item<'a>> + Clone + use<'a> {
        let history = self.history;
        (self.from..self.to).map(move |k| {
            let row = history.row(k).expect("within the history");
            Item {
                k,
                epoch: row.epoch,
                duration_us: row.duration_us.into(),
                discontinuity: row.discontinuity,
                gap: row.gap,
                wall: row.wall,
                init: history.inits.get(usize::from(row.init)).map_or("", |hash| hash),
                parts: &[],
                iframe: row.size.iframe,
            }
        })
    }

    /// Each number with the hash of its init segment.
    pub fn listed(&self) -> impl DoubleEndedIterator<Item = (Place, &'a str)> + Clone + use<'a> {
        let history = self.history;
        self.places().map(move |place| {
            let row = history.row(place.k).expect("within the history");
            (place, history.inits.get(usize::from(row.init)).map_or("", |hash| &**hash))
        })
    }

    pub fn places(&self) -> impl DoubleEndedIterator<Item = Place> + Clone + use<'a> {
        let history = self.history;
        (self.from..self.to).map(move |k| history.place(k).expect("within the history"))
    }
}
