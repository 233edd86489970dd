//! Bytes in pieces: what was received stays where it is, from the encoder's message to the viewer's socket.
//!
//! A chunk is box headers written by us and payloads as they came. Joining them would touch every byte once more, long
//! after it left the processor's caches.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

/// Bytes that lie in several places. Cheap to clone; equal when the bytes are, however they are cut.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Pieces {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Bytes> {
        self.pieces.iter()
    }

    /// Gives the piece at a place in the order.
    pub fn get(&self, index: usize) -> Option<&Bytes> {
        self.pieces.get(index)
    }

    /// Gives a part of the bytes, sharing them.
    ///
    /// # Panics
    /// When the range ends after the bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let mut at = 0;
        let cut = self.pieces.iter().filter_map(|piece| {
            let (from, to) = (range.start.max(at), range.end.min(at + piece.len()));
            let cut = (from < to).then(|| piece.slice(from - at..to - at));
            at += piece.len();
            cut
        });
        cut.collect()
    }

    /// Copies them into one.
    pub fn joined(&self) -> Bytes {
        match &self.pieces[..] {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl FromIterator<Bytes> for Pieces {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { len: pieces.iter().map(Bytes::len).sum(), pieces }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        [bytes].into_iter().collect()
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl PartialEq for Pieces {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.pieces.iter().flatten().eq(other.pieces.iter().flatten())
    }
}

impl Eq for Pieces {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slices_are_those_of_the_joined_bytes(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..6), from in 0usize..30, to in 0usize..30,
        ) {
            let pieces: Pieces = parts.iter().cloned().map(Bytes::from).collect();
            let whole = parts.concat();
            prop_assert_eq!(pieces.len(), whole.len());
            prop_assert_eq!(pieces.joined(), &whole);
            prop_assert_eq!(&pieces, &Pieces::from(whole.clone()));
            let (from, to) = (from.min(whole.len()), to.min(whole.len()));
            if from <= to {
                let slice = pieces.slice(from..to);
                prop_assert_eq!(slice.joined(), &whole[from..to]);
                prop_assert!(slice.iter().all(|piece| !piece.is_empty()));
            }
        }
    }
}
