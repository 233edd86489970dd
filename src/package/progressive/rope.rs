//! Boxes in the making, around tables that are not copied.

use bytes::Bytes;

/// Bytes in pieces. Small ones, as box headers are, are joined with what stands before them.
#[derive(Debug, Default)]
pub(super) struct Rope {
    pieces: Vec<Bytes>,
    /// The last piece, which small ones are still joined to.
    open: Vec<u8>,
    len: u64,
}

/// Pieces that are larger stay as they are.
const SMALL: usize = 4 << 10;

impl Rope {
    pub fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        if bytes.len() <= SMALL {
            return self.open.extend_from_slice(&bytes);
        }
        self.seal();
        self.pieces.push(bytes);
    }

    pub fn append(&mut self, other: Self) {
        other.into_pieces().into_iter().for_each(|piece| self.push(piece));
    }

    /// Makes it the payload of a box.
    pub fn boxed(self, kind: &[u8; 4]) -> Self {
        let size = u32::try_from(self.len + 8).expect("tables of a bounded number of samples fit a box of 4 GiB");
        let mut out = Self::default();
        out.push([&size.to_be_bytes()[..], kind].concat().into());
        out.append(self);
        out
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn into_pieces(mut self) -> Vec<Bytes> {
        self.seal();
        self.pieces
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(std::mem::take(&mut self.open).into());
        }
    }
}

impl From<Vec<u8>> for Rope {
    fn from(bytes: Vec<u8>) -> Self {
        let mut out = Self::default();
        out.push(bytes.into());
        out
    }
}
