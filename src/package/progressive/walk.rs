//! Reads what a chunk holds, but not its media.

use std::{ops::Range, sync::Arc};

use mp4_atom::{Tfdt, Tfhd, Trun};

use super::{
    InitInfo, Malformed, Sample, Samples,
    boxes::{Child, Header, children, header, only, optional},
};

/// How much is asked for where a box starts: the `moof` of two seconds has 2 KiB, with 60 pictures a second.
const READ: u64 = 8 << 10;
/// Longest `moof`: [`SAMPLES_MAX`] entries of 16 bytes, and what is around them.
const MOOF_MAX: u64 = 1 << 20;
/// Most samples of a chunk, four times what a chunker puts into one.
const SAMPLES_MAX: usize = 1 << 15;
/// Most boxes of a chunk: hundreds of parts are two each.
const BOXES_MAX: u32 = 4096;
/// No time is further from zero, ticks: 25,000 years of 90 kHz. Sums of a few need no more checks.
pub(super) const TIME_MAX: i64 = 1 << 56;
/// 14496-12 8.8.3.1, `sample_is_non_sync_sample`.
const NON_SYNC: u32 = 0x1_0000;

/// Reads where the samples of one chunk's file lie and when they are: asks for small ranges of the file, is fed them.
///
/// A chunk is any number of `moof` and `mdat` pairs of one track (8.8.4 to 8.8.12), other boxes are passed over.
#[derive(Debug)]
pub struct Walk {
    init: Arc<InitInfo>,
    /// Length of the file.
    len: u64,
    /// Where the next box starts; `buffer` holds what is known from there on.
    at: u64,
    buffer: Vec<u8>,
    /// How many bytes from `at` on the next step takes; zero at the end of the file.
    need: u64,
    boxes: u32,
    /// Where the samples of the last `moof` are said to be, until its `mdat` is seen.
    runs: Vec<Range<u64>>,
    samples: Vec<Sample>,
    /// Decode time at the end of the samples.
    next: Option<i64>,
}

impl Walk {
    /// Begins to read a file of `len` bytes, whose samples are described by `init`.
    pub fn new(init: Arc<InitInfo>, len: u64) -> Self {
        let need = len.min(8);
        let (runs, samples) = (Vec::new(), Vec::new());
        Self { init, len, at: 0, buffer: Vec::new(), need, boxes: 0, runs, samples, next: None }
    }

    /// Tells which bytes of the file are wanted next, some KiB; none when all is known.
    pub fn wants(&self) -> Option<Range<u64>> {
        let end = self.at.saturating_add(self.need.max(READ)).min(self.len);
        (self.need > 0).then(|| self.at + self.buffer.len() as u64..end)
    }

    /// Takes the bytes at the start of the wanted range. Fewer than wanted are taken as what could be read at once; none
    /// at all are the end of a file that is too short. After an error there is nothing more to be done with the file.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let wanted = self.wants().map_or(0, |range| range.end - range.start);
        if bytes.is_empty() || bytes.len() as u64 > wanted {
            return Err(Malformed("the bytes are not those that were wanted"));
        }
        self.buffer.extend_from_slice(bytes);
        while let Some(header) = self.header()? {
            let size = header.size.unwrap_or(self.len - self.at);
            if size > self.len - self.at {
                return Err(Malformed("a box is longer than the file"));
            }
            match &header.kind {
                b"moof" if size > MOOF_MAX => return Err(Malformed("a moof is too long")),
                b"moof" if size > self.buffer.len() as u64 => {
                    // With it comes the header of the mdat behind it.
                    self.need = (size + 16).min(self.len - self.at);
                    return Ok(());
                }
                b"moof" => self.moof(size as usize, header.len as usize)?,
                b"mdat" => self.mdat(self.at + header.len..self.at + size)?,
                _ => {}
            }
            self.at += size;
            self.buffer.drain(..self.buffer.len().min(usize::try_from(size).unwrap_or(usize::MAX)));
            self.boxes += 1;
            if self.boxes > BOXES_MAX {
                return Err(Malformed("too many boxes"));
            }
        }
        Ok(())
    }

    /// Tells the first sample, once its `moof` was fed.
    pub fn first(&self) -> Option<&Sample> {
        self.samples.first()
    }

    /// Gives the samples; fails when bytes are still wanted.
    pub fn done(self) -> Result<Samples, Malformed> {
        match self.need {
            0 => Ok(Samples(self.samples)),
            _ => Err(Malformed("the chunk is not read to its end")),
        }
    }

    /// Reads the header of the box at hand. None when it takes more bytes, or is the file's end; `need` is right then.
    fn header(&mut self) -> Result<Option<Header>, Malformed> {
        let rest = self.len - self.at;
        if rest == 0 {
            if !self.runs.is_empty() {
                return Err(Malformed("a moof without its mdat"));
            }
            self.need = 0;
            return Ok(None);
        }
        match header(&self.buffer)? {
            Ok(header) => Ok(Some(header)),
            Err(need) if need > rest => Err(Malformed("the file ends within the header of a box")),
            Err(need) => {
                self.need = need;
                Ok(None)
            }
        }
    }

    /// Checks that the samples that were told of lie in this `mdat`.
    fn mdat(&mut self, payload: Range<u64>) -> Result<(), Malformed> {
        let within = |run: &Range<u64>| payload.start <= run.start && run.end <= payload.end;
        if !self.runs.drain(..).all(|run| within(&run)) {
            return Err(Malformed("samples lie outside of their mdat"));
        }
        Ok(())
    }

    fn moof(&mut self, size: usize, header_len: usize) -> Result<(), Malformed> {
        if !self.runs.is_empty() {
            return Err(Malformed("a moof without its mdat"));
        }
        let moof = std::mem::take(&mut self.buffer);
        let traf = only(&moof[header_len..size], b"traf", "no track in a moof")?.body;
        let tfhd: Tfhd = only(traf, b"tfhd", "no tfhd in a moof")?.leaf()?;
        if tfhd.track_id != self.init.defaults.track_id || tfhd.sample_description_index.is_some_and(|i| i != 1) {
            return Err(Malformed("a moof of another track or description"));
        }
        let tfdt = optional(traf, b"tfdt")?.map(|tfdt| tfdt.leaf::<Tfdt>()).transpose()?;
        // Without a tfdt the samples follow those before them (8.8.12).
        let mut time = match tfdt {
            Some(tfdt) => i64::try_from(tfdt.base_media_decode_time).unwrap_or(i64::MAX),
            None => self.next.ok_or(Malformed("a chunk without a decode time"))?,
        };
        // Of the only traf of a moof, that is the base whether default-base-is-moof says so or not (8.8.7.1).
        let base = tfhd.base_data_offset.unwrap_or(self.at);
        let mut data = base;
        for child in children(traf) {
            let child = child?;
            if child.kind == *b"trun" {
                self.run(&child, &tfhd, base, &mut data, &mut time)?;
            }
        }
        self.next = Some(time);
        self.buffer = moof;
        Ok(())
    }

    /// Adds the samples of a `trun` (8.8.8). `data` is where the run before it ended.
    fn run(
        &mut self,
        child: &Child<'_>,
        tfhd: &Tfhd,
        base: u64,
        data: &mut u64,
        time: &mut i64,
    ) -> Result<(), Malformed> {
        let trun: Trun = child.leaf()?;
        let defaults = &self.init.defaults;
        if let Some(offset) = trun.data_offset {
            *data = base.checked_add_signed(offset.into()).ok_or(Malformed("samples lie before the file"))?;
        }
        if trun.samples.len() > SAMPLES_MAX - self.samples.len() {
            return Err(Malformed("too many samples"));
        }
        let start = *data;
        for entry in trun.samples.iter() {
            let or = |own: Option<u32>, track: Option<u32>, init| own.or(track).unwrap_or(init);
            let duration = or(entry.duration, tfhd.default_sample_duration, defaults.default_sample_duration);
            let size = or(entry.size, tfhd.default_sample_size, defaults.default_sample_size);
            let flags = or(entry.flags, tfhd.default_sample_flags, defaults.default_sample_flags);
            let shown = time.saturating_add(entry.cts.unwrap_or(0));
            if *time > TIME_MAX || shown.abs() > TIME_MAX {
                return Err(Malformed("a time beyond all broadcasts"));
            }
            self.samples.push(Sample { time: *time, shown, duration, at: *data, size, sync: flags & NON_SYNC == 0 });
            *time += i64::from(duration);
            *data = data.checked_add(size.into()).ok_or(Malformed("samples lie behind the file"))?;
        }
        if start < *data {
            self.runs.push(start..*data);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
