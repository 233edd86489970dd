//! Whether the nodes that make a session's chunks make the same ones. Pure.
//!
//! A standby is worth something because its chunks can stand in for the owner's. Each node tells what it made last
//! ([`Made`]); the gateway compares. Nodes of two releases, or with different encoders, may differ without any fault to see.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::failover::Node;
use crate::id::Rendition;

/// So far back is what one node made remembered for the other: a rendition may lag by four.
const KEPT: u64 = 8;

/// The newest chunk of a rendition that a node has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub k: u64,
    /// Equal where the chunks are interchangeable.
    pub sum: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Twins {
    told: BTreeMap<(Rendition, u64), BTreeMap<Node, u64>>,
}

impl Twins {
    /// Takes what a node made of a rendition. Gives whether it is what another made, and nothing where none has told of it.
    pub fn hear(&mut self, node: &Node, rendition: &Rendition, made: Made) -> Option<bool> {
        let of_k = self.told.entry((rendition.clone(), made.k)).or_default();
        if of_k.insert(node.clone(), made.sum) == Some(made.sum) {
            // It says so with each beat.
            return None;
        }
        let same = of_k.iter().find(|(other, _)| *other != node).map(|(_, sum)| *sum == made.sum);
        self.told.retain(|(other, k), _| other != rendition || *k + KEPT >= made.k);
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_is_compared_once_in_whichever_order_it_comes() {
        let (one, two): (Node, Node) = ("one".into(), "two".into());
        let (source, audio) = (Rendition::source(), Rendition::audio());
        let mut twins = Twins::default();
        let made = |k, sum| Made { k, sum };
        assert_eq!(twins.hear(&one, &source, made(0, 7)), None);
        assert_eq!(twins.hear(&one, &source, made(0, 7)), None);
        assert_eq!(twins.hear(&one, &audio, made(0, 8)), None);
        assert_eq!(twins.hear(&one, &source, made(1, 9)), None);
        assert_eq!(twins.hear(&two, &source, made(0, 7)), Some(true));
        assert_eq!(twins.hear(&two, &source, made(0, 7)), None);
        assert_eq!(twins.hear(&two, &source, made(1, 10)), Some(false));
        assert_eq!(twins.hear(&two, &audio, made(0, 8)), Some(true));
        // Made again, otherwise.
        assert_eq!(twins.hear(&one, &source, made(1, 10)), Some(true));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (one, source) = ("one".into(), Rendition::source());
        let mut twins = Twins::default();
        for k in 0..1000 {
            twins.hear(&one, &source, Made { k, sum: k });
        }
        assert!(twins.told.len() as u64 <= KEPT + 1);
    }
}
