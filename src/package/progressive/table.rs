//! Tables that grow by the million: in their final bytes, in blocks that are never copied.

use bytes::Bytes;

/// Bytes of a block. A table wastes no more than one; ones that double would waste half of theirs. Whole entries of 4,
/// 8 and 12 bytes fit.
const BLOCK: usize = 48 << 10;

/// Big-endian words of 32 bits.
#[derive(Debug, Default)]
pub(super) struct Words {
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
}

impl Words {
    pub fn push(&mut self, word: u32) {
        if self.open.len() == BLOCK {
            self.full.push(std::mem::replace(&mut self.open, Vec::with_capacity(BLOCK)));
        }
        self.open.extend_from_slice(&word.to_be_bytes());
    }

    /// How many words there are; what is counted is bounded far below 2^32.
    pub fn len(&self) -> u32 {
        ((self.full.len() * BLOCK + self.open.len()) / 4) as u32
    }

    /// Adds to every second word, starting with the second, modulo 2^32.
    pub fn raise_values(&mut self, by: u32) {
        for pair in self.full.iter_mut().chain([&mut self.open]).flat_map(|block| block.chunks_exact_mut(8)) {
            let value = u32::from_be_bytes([pair[4], pair[5], pair[6], pair[7]]).wrapping_add(by);
            pair[4..].copy_from_slice(&value.to_be_bytes());
        }
    }

    pub fn into_blocks(self) -> Vec<Bytes> {
        self.full.into_iter().chain([self.open]).map(Bytes::from).collect()
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        self.full.len() * BLOCK + self.open.capacity()
    }
}

/// Values in a row, run-length coded: words of count and value in turn, as in `stts` and `ctts`.
#[derive(Debug, Default)]
pub(super) struct Runs {
    words: Words,
    /// Value and count of the run that may go on.
    last: Option<(u32, u32)>,
}

impl Runs {
    pub fn push(&mut self, value: u32) {
        match &mut self.last {
            Some((last, count)) if *last == value => *count += 1,
            last => {
                if let Some(run) = last.replace((value, 1)) {
                    self.write(run);
                }
            }
        }
    }

    pub fn finish(mut self) -> Words {
        if let Some(run) = self.last {
            self.write(run);
        }
        self.words
    }

    fn write(&mut self, (value, count): (u32, u32)) {
        self.words.push(count);
        self.words.push(value);
    }

    pub fn weight(&self) -> usize {
        self.words.weight()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_hold_all_words_and_waste_little() {
        let mut words = Words::default();
        for word in 0..100_000 {
            words.push(word);
        }
        assert_eq!(words.len(), 100_000);
        assert!(words.weight() <= 400_000 + BLOCK);
        words.raise_values(1 << 20);
        let bytes = words.into_blocks().concat();
        for (i, word) in (0u32..).zip(bytes.chunks(4)) {
            let raised = if i % 2 == 1 { i + (1 << 20) } else { i };
            assert_eq!(word, raised.to_be_bytes());
        }
    }

    proptest! {
        #[test]
        fn runs_are_their_values(values in prop::collection::vec(0u32..3, 0..50)) {
            let mut runs = Runs::default();
            values.iter().for_each(|value| runs.push(*value));
            let bytes = runs.finish().into_blocks().concat();
            let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let pairs: Vec<_> = (0..bytes.len()).step_by(8).map(|at| (word(at), word(at + 4))).collect();
            prop_assert!(pairs.windows(2).all(|two| two[0].1 != two[1].1));
            let read: Vec<_> = pairs.iter().flat_map(|&(n, value)| vec![value; n as usize]).collect();
            prop_assert_eq!(read, values);
        }
    }
}
