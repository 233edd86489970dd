//! One track's tables (8.6 and 8.7), which grow sample by sample.

use std::sync::Arc;

use super::{
    InitInfo, Sample,
    table::{Runs, Words},
};

/// Where a sample comes from.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Counts the chunks of all tracks as they were added, which is their order in the file.
    pub order: u32,
    /// The caller's number.
    pub chunk: u64,
    /// Describes it.
    pub init: Arc<InitInfo>,
}

/// The samples of one chunk, back to back in the file: a chunk in the words of 8.7.
#[derive(Debug)]
pub(super) struct Media {
    pub order: u32,
    pub chunk: u64,
    pub len: u64,
    /// The first of its pieces.
    pub pieces: usize,
}

/// Bytes that are back to back in the chunk's file too.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where it starts among the chunk's samples.
    pub within: u64,
    /// Where it starts in the chunk's file.
    pub from: u64,
}

/// Folded samples. Nothing is kept per sample but its size and, where they change, duration, offset and sync.
#[derive(Debug)]
pub(super) struct Tables {
    /// Inits whose sample entries differ, in the order in which they came.
    pub entries: Vec<Arc<InitInfo>>,
    pub count: u32,
    /// Decode time of the first sample: media time 0.
    pub start: i64,
    /// Decode time and duration of the last sample; the next one tells how long it lasts.
    last: (i64, u32),
    durations: Runs,
    offsets: Runs,
    least_offset: i32,
    /// A sample is not shown when it is decoded.
    reorders: bool,
    sizes: Words,
    /// Numbers of the sync samples, kept once there is a sample that is none.
    syncs: Option<Words>,
    pub media: Vec<Media>,
    pub pieces: Vec<Piece>,
    spans: Spans,
}

/// How many samples media chunks have, and which entry describes them (8.7.4).
#[derive(Debug, Default)]
struct Spans {
    words: Words,
    written: (u32, u32),
    /// The number of the open media chunk, from 1.
    number: u32,
    open: (u32, u32),
}

impl Spans {
    /// Begins the next media chunk.
    fn begin(&mut self, entry: u32) {
        self.close();
        self.number += 1;
        self.open = (0, entry);
    }

    /// Writes what the open media chunk has, when that is news.
    fn close(&mut self) {
        if self.open != self.written {
            let (samples, entry) = self.open;
            [self.number, samples, entry].into_iter().for_each(|word| self.words.push(word));
            self.written = self.open;
        }
    }
}

/// All that the boxes of a track's samples say.
#[derive(Debug)]
pub(super) struct Folded {
    pub duration: u64,
    /// What all composition offsets were raised by, so that none is negative.
    pub raised: u32,
    pub stts: Words,
    /// None when all samples are shown when they are decoded.
    pub ctts: Option<Words>,
    /// None when all samples are sync samples.
    pub stss: Option<Words>,
    pub stsz: Words,
    pub stsc: Words,
}

impl Tables {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            count: 0,
            start: 0,
            last: (0, 0),
            durations: Runs::default(),
            offsets: Runs::default(),
            least_offset: 0,
            reorders: false,
            sizes: Words::default(),
            syncs: None,
            media: Vec::new(),
            pieces: Vec::new(),
            spans: Spans::default(),
        }
    }

    /// Gives the number, from 1, of the sample entry of an init segment.
    fn entry(&mut self, init: &Arc<InitInfo>) -> u32 {
        let known = self.entries.iter().position(|entry| Arc::ptr_eq(entry, init) || entry.same_entry(init));
        let index = known.unwrap_or_else(|| {
            self.entries.push(init.clone());
            self.entries.len() - 1
        });
        index as u32 + 1
    }

    /// Takes the next sample in decode order; its time is after that of the one before it.
    pub fn append(&mut self, place: &Place, sample: &Sample) {
        match self.count {
            0 => self.start = sample.time,
            // Leaps that do not fit were refused with their chunk.
            _ => self.durations.push(u32::try_from(sample.time - self.last.0).unwrap_or(u32::MAX)),
        }
        self.last = (sample.time, sample.duration);
        self.count += 1;
        let offset = (sample.shown - sample.time).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        self.least_offset = self.least_offset.min(offset);
        self.reorders |= offset != 0;
        self.offsets.push(offset as u32);
        self.sizes.push(sample.size);
        if !sample.sync && self.syncs.is_none() {
            let syncs = self.syncs.insert(Words::default());
            (1..self.count).for_each(|number| syncs.push(number));
        }
        if let Some(syncs) = self.syncs.as_mut().filter(|_| sample.sync) {
            syncs.push(self.count);
        }
        self.place(place, sample);
    }

    fn place(&mut self, place: &Place, sample: &Sample) {
        if self.media.last().is_none_or(|media| media.order != place.order) {
            let entry = self.entry(&place.init);
            self.spans.begin(entry);
            self.media.push(Media { order: place.order, chunk: place.chunk, len: 0, pieces: self.pieces.len() });
        }
        self.spans.open.0 += 1;
        let media = self.media.last_mut().expect("it was pushed if there was none");
        let last = self.pieces[media.pieces..].last();
        if sample.size > 0 && last.is_none_or(|piece| piece.from + (media.len - piece.within) != sample.at) {
            self.pieces.push(Piece { within: media.len, from: sample.at });
        }
        media.len += u64::from(sample.size);
    }

    /// Decode time at the end of the last sample.
    pub fn end(&self) -> i64 {
        self.last.0 + i64::from(self.last.1)
    }

    /// Completes the tables and takes them out. What tells where the samples lie stays.
    pub fn fold(&mut self) -> Folded {
        self.spans.close();
        self.durations.push(self.last.1);
        self.pieces.shrink_to_fit();
        let raised = self.least_offset.unsigned_abs();
        let mut ctts = std::mem::take(&mut self.offsets).finish();
        ctts.raise_values(raised);
        Folded {
            duration: self.end().abs_diff(self.start),
            raised,
            stts: std::mem::take(&mut self.durations).finish(),
            ctts: self.reorders.then_some(ctts),
            stss: self.syncs.take(),
            stsz: std::mem::take(&mut self.sizes),
            stsc: std::mem::take(&mut self.spans.words),
        }
    }

    /// Bytes of memory that grow with the samples.
    pub fn weight(&self) -> usize {
        let words = [&self.sizes, &self.spans.words].into_iter().chain(&self.syncs);
        let words: usize = words.map(Words::weight).sum();
        let runs = self.durations.weight() + self.offsets.weight();
        let media = self.media.capacity() * size_of::<Media>() + self.pieces.capacity() * size_of::<Piece>();
        words + runs + media
    }
}
