//! Recorded chunks become one MP4 file that any player opens: `ftyp`, `moov`, `mdat`, in this order.
//!
//! Chunk files of one video rendition, of one audio rendition or of both enter, as [`Walk`] reads them: it asks for the
//! few bytes that tell where the samples lie, never for the samples. A [`Builder`] folds them into tables (ISO/IEC
//! 14496-12 clause 8.6 to 8.9); a [`Progressive`] leaves, which tells for every byte of the file what it is: one of its
//! own ([`Span::Head`]) or one of a chunk file ([`Span::Media`]). Who serves the file does the IO; nothing here holds
//! media, does IO or reads a clock. The file's bytes follow from the chunks' bytes alone.
//!
//! **Time.** Media time 0 of a track is the decode time of its first sample. All composition offsets of a track are
//! raised by the amount that makes the least of them zero, and its edit list takes that back (8.6.6): offsets that are
//! not negative need no `ctts` of version 1, which old players read as huge, and no `cslg`, which few read at all; this
//! is how most files on earth are written, so QuickTime, ffmpeg, VLC and the browsers all play it. The movie starts at
//! the first picture shown. Audio that starts later gets an empty edit; of audio that starts earlier, the edit begins
//! inside the frame that the picture meets, and one frame is kept before it for the decoder to warm up on.
//!
//! **Seams.** Where chunks are missing, the last sample before the hole lasts until the first one after it, in both
//! tracks, so they stay together. Where a chunk starts before the one before it has ended, the samples of that one are
//! moved together until they end in time, a tick apart at the least; when there is no room for that, the new chunk's
//! first samples give way too. What comes after has its own time again.
//!
//! **Clips.** The pictures shown are exactly those of the bounds; what is needed to decode them is in the file and
//! hidden by the edit list. A chunk of which nothing is needed has no byte in the file.

mod boxes;
mod builder;
#[cfg(test)]
mod clip_tests;
#[cfg(test)]
mod ffmpeg_tests;
mod file;
mod init;
mod moov;
mod rope;
mod seam;
mod table;
#[cfg(test)]
mod testing;
mod track;
mod walk;

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;

pub use builder::{Bounds, Builder, Empty, Refused};
pub use file::{Progressive, Span};
pub use init::InitInfo;
pub use walk::Walk;

/// Finds the first sample of a chunk of `len` bytes among its first bytes, `head`.
pub fn first_sample(head: &Bytes, init: &Arc<InitInfo>, len: u64) -> Result<Bytes, Malformed> {
    let short = Malformed("the first sample is not all there");
    let mut walk = Walk::new(init.clone(), len);
    loop {
        if let Some(sample) = walk.first() {
            let (from, to) = (sample.at as usize, sample.at as usize + sample.size as usize);
            return if to <= head.len() { Ok(head.slice(from..to)) } else { Err(short) };
        }
        let wanted = walk.wants().ok_or(Malformed("a chunk without samples"))?;
        let (from, to) = (wanted.start as usize, (wanted.end as usize).min(head.len()));
        walk.feed(head.get(from..to).ok_or(short)?)?;
    }
}

/// Says what is wrong with the bytes of an init segment or a chunk. They are at fault, or what stored them; the same
/// bytes will not do better a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// One sample of a chunk; times on the broadcast's timeline, in ticks of the init segment's timescale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Decode time.
    pub time: i64,
    /// Composition time: when it is shown.
    pub shown: i64,
    pub duration: u32,
    /// Where its bytes start in the chunk's file.
    pub at: u64,
    pub size: u32,
    /// Decoding can start here.
    pub sync: bool,
}

/// The samples of one chunk in decode order, as [`Walk`] found them: no time is beyond 2^56 ticks, so that sums of a
/// few cannot overflow, and every sample lies in an `mdat` of the chunk's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples(Vec<Sample>);

impl Deref for Samples {
    type Target = [Sample];

    fn deref(&self) -> &[Sample] {
        &self.0
    }
}
