//! The finished file: what each of its bytes is.

use std::ops::Range;

use bytes::Bytes;

use super::{
    moov::{self, Plan, Sealed},
    track::{Media, Piece},
};

/// An MP4 file whose head is here and whose media is in the chunks' files.
#[derive(Debug)]
pub struct Progressive {
    /// `ftyp`, `moov` and the header of `mdat`, in pieces, each with where it starts.
    head: Vec<(u64, Bytes)>,
    head_len: u64,
    /// What `mdat` holds, in order.
    media: Vec<Placed>,
    /// Of each track.
    pieces: Vec<Vec<Piece>>,
    len: u64,
}

/// The samples of one chunk in the file.
#[derive(Debug)]
struct Placed {
    /// Where they start in `mdat`.
    at: u64,
    chunk: u64,
    track: u8,
    /// The first of their pieces, and the first that is not theirs any more.
    pieces: (u32, u32),
}

/// What stands at a place of the file, up to where something else begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// These bytes.
    Head(Bytes),
    /// What is in the file of `chunk` of `track`, both as the builder's caller named them, at `range`.
    Media { track: usize, chunk: u64, range: Range<u64> },
}

impl Progressive {
    /// `movie` is its timescale. Of two tracks, the first is the builder's track 0.
    pub(super) fn new(movie: u32, mut plans: Vec<Plan>) -> Self {
        let (media, offsets, payload) = place(&mut plans);
        let tracks: Vec<_> = plans.iter_mut().zip(offsets).map(|(plan, offsets)| Sealed::new(plan, offsets)).collect();
        // The length of mdat in 32 bits, or in 64 (4.2).
        let mdat = match u32::try_from(payload + 8) {
            Ok(size) => [&size.to_be_bytes()[..], b"mdat"].concat(),
            Err(_) => [&1u32.to_be_bytes()[..], b"mdat", &(payload + 16).to_be_bytes()].concat(),
        };
        let base = |large| moov::head(movie, &tracks, 0, large).len() + mdat.len() as u64;
        let large = base(false) + payload > u64::from(u32::MAX);
        let mut head = moov::head(movie, &tracks, base(large), large);
        head.push(mdat.into());
        let head_len = head.len();
        let mut at = 0;
        let head = head.into_pieces().into_iter().map(|piece| {
            at += piece.len() as u64;
            (at - piece.len() as u64, piece)
        });
        let head = head.collect();
        let pieces = plans.into_iter().map(|plan| plan.tables.pieces).collect();
        Self { head, head_len, media, pieces, len: head_len + payload }
    }

    /// Tells the length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a file is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells what stands at `offset`, and goes on there; nothing from the file's end on. What is at the end of a span
    /// is another span.
    pub fn at(&self, offset: u64) -> Option<Span> {
        if offset >= self.len {
            return None;
        }
        let Some(offset) = offset.checked_sub(self.head_len) else {
            let (start, piece) = &self.head[self.head.partition_point(|(start, _)| *start <= offset) - 1];
            return Some(Span::Head(piece.slice((offset - start) as usize..)));
        };
        // Of chunks at the same place, all but the last have no bytes.
        let index = self.media.partition_point(|placed| placed.at <= offset) - 1;
        let placed = &self.media[index];
        let end = self.media.get(index + 1).map_or(self.len - self.head_len, |next| next.at) - placed.at;
        let pieces = &self.pieces[usize::from(placed.track)][placed.pieces.0 as usize..placed.pieces.1 as usize];
        let within = offset - placed.at;
        let index = pieces.partition_point(|piece| piece.within <= within) - 1;
        let piece = &pieces[index];
        let end = pieces.get(index + 1).map_or(end, |next| next.within);
        let range = piece.from + (within - piece.within)..piece.from + (end - piece.within);
        Some(Span::Media { track: placed.track.into(), chunk: placed.chunk, range })
    }

    /// Tells how many bytes of memory it takes, nearly.
    pub fn weight(&self) -> usize {
        let pieces: usize = self.pieces.iter().map(|pieces| pieces.capacity() * size_of::<Piece>()).sum();
        self.head_len as usize + pieces + self.media.capacity() * size_of::<Placed>() + self.head.len() * 64
    }
}

/// Puts the chunks of all tracks behind each other in the order in which they were added. Gives them, where those of each
/// track start, and the length of all.
fn place(plans: &mut [Plan]) -> (Vec<Placed>, Vec<Vec<u64>>, u64) {
    let mut media: Vec<(u8, Media, u32)> = Vec::new();
    for (track, plan) in (0..).zip(plans.iter_mut()) {
        let all = std::mem::take(&mut plan.tables.media);
        let ends: Vec<_> = all.iter().skip(1).map(|next| next.pieces as u32).collect();
        let ends = ends.into_iter().chain([plan.tables.pieces.len() as u32]);
        media.extend(all.into_iter().zip(ends).map(|(media, end)| (track, media, end)));
    }
    media.sort_by_key(|(_, media, _)| media.order);
    let mut offsets = vec![Vec::new(); plans.len()];
    let mut at = 0;
    let placed = media.into_iter().map(|(track, media, end)| {
        offsets[usize::from(track)].push(at);
        let placed = Placed { at, chunk: media.chunk, track, pieces: (media.pieces as u32, end) };
        at += media.len;
        placed
    });
    (placed.collect(), offsets, at)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
