//! How many different viewers there were: a sketch of some kilobytes that forgets who they were, and that can be joined with those of
//! other nodes. Pure.

use std::io::{Read, Write};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use cardinality_estimator::CardinalityEstimator;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// 2^14 registers: a standard error of 0.8 % (1.04 / sqrt(2^14)).
const PRECISION: usize = 14;
/// Each of six bits, as HyperLogLog++ has them.
const WIDTH: usize = 6;
/// A sketch unpacked, as text; what is longer is none.
const UNPACKED_MAX: u64 = 256 << 10;

type Sketch = CardinalityEstimator<u64, std::hash::DefaultHasher, PRECISION, WIDTH>;

/// A set of viewers, of which only the size can be told. A few cost a few bytes.
#[derive(Clone, Default)]
pub struct Uniques(Sketch);

impl Uniques {
    /// Adds a viewer, by a hash of 64 evenly spread bits.
    pub fn insert(&mut self, viewer: u64) {
        self.0.insert_hash(viewer);
    }

    pub fn join(&mut self, other: &Uniques) {
        self.0.merge(&other.0);
    }

    pub fn len(&self) -> u64 {
        self.0.estimate() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Uniques {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uniques({})", self.len())
    }
}

impl Serialize for Uniques {
    /// As text, packed: a minute's row is written many times.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
        let text = serde_json::to_vec(&self.0).map_err(serde::ser::Error::custom)?;
        packer.write_all(&text).map_err(serde::ser::Error::custom)?;
        let packed = packer.finish().map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&BASE64_STANDARD_NO_PAD.encode(packed))
    }
}

impl<'de> Deserialize<'de> for Uniques {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let packed = BASE64_STANDARD_NO_PAD.decode(text).map_err(D::Error::custom)?;
        let mut unpacked = Vec::new();
        DeflateDecoder::new(&packed[..]).take(UNPACKED_MAX).read_to_end(&mut unpacked).map_err(D::Error::custom)?;
        serde_json::from_slice(&unpacked).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of viewers, spread as those of addresses are.
    fn viewer(n: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
    }

    #[test]
    fn sketches_of_nodes_join_to_the_truth() {
        for all in [0_u64, 1, 3, 100, 5000, 250_000] {
            let mut nodes: Vec<Uniques> = (0..4).map(|_| Uniques::default()).collect();
            // Every third viewer was at two nodes.
            for n in 0..all {
                nodes[n as usize % 4].insert(viewer(n));
                if n % 3 == 0 {
                    nodes[(n as usize + 1) % 4].insert(viewer(n));
                }
            }
            let mut joined = Uniques::default();
            for node in &nodes {
                let text = serde_json::to_string(node).unwrap();
                assert!(text.len() < 24_000, "{}", text.len());
                joined.join(&serde_json::from_str(&text).unwrap());
            }
            let error = (joined.len() as f64 - all as f64).abs() / (all as f64).max(1.0);
            assert!(error < 0.02, "{all}: {}", joined.len());
        }
        assert!(serde_json::from_str::<Uniques>("\"!\"").is_err());
        assert!(serde_json::from_str::<Uniques>("\"AAAA\"").is_err());
    }
}
