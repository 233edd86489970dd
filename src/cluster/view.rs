//! What a node knows of all nodes, and whom it would have make a stream's chunks. Pure.

use std::sync::Arc;

use super::ring::Ring;
use crate::id::StreamId;

/// A node has at most so many times its share of the streams before new ones go to the next: in a ring of 160 points a node
/// gets up to 1.2 times its share by chance alone.
const BOUND: f64 = 1.25;
/// Whatever its share, a node may have so many: small numbers say nothing of load.
const FREE: u32 = 8;
/// Nodes that are named for a stream: one leads, one stands by, and some can be lost meanwhile.
const CANDIDATES: usize = 8;

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: Arc<str>,
    pub weight: u32,
    /// It makes chunks.
    pub origin: bool,
    /// It hands its streams over and stops.
    pub draining: bool,
    /// It answers.
    pub live: bool,
    /// Streams whose chunks it publishes.
    pub streams: u32,
}

/// All registered nodes. Cheap enough to clone at every change. The ring holds all of them that make chunks; who lives, and how loaded it is, only picks from it.
#[derive(Clone)]
pub struct View {
    members: Vec<Member>,
    ring: Arc<Ring>,
}

impl View {
    pub fn new(members: Vec<Member>) -> Self {
        Self { members: Vec::new(), ring: Arc::new(Ring::new([])) }.with(members)
    }

    /// The same with news of the members. The ring changes only where a node has come, gone, or changed its weight.
    pub fn with(&self, members: Vec<Member>) -> Self {
        let place = |member: &Member| (member.id.clone(), member.weight, member.origin);
        let mut ring = self.ring.clone();
        if !self.members.iter().map(place).eq(members.iter().map(place)) {
            let origins = members.iter().filter(|member| member.origin);
            Arc::make_mut(&mut ring).set(origins.map(|member| (member.id.clone(), member.weight)));
        }
        Self { members, ring }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.iter().find(|member| &*member.id == id)
    }

    /// The nodes that may make a stream's chunks, the preferred first: those that answer, along the ring. One that has more than
    /// its share of the streams comes after those that do not, one that drains last.
    pub fn candidates(&self, stream: &StreamId) -> Vec<Arc<str>> {
        let live = || self.members.iter().filter(|member| member.live && member.origin && !member.draining);
        let (streams, weight) = live().fold((0, 0), |(s, w), member| (s + member.streams, w + member.weight.max(1)));
        let is_full = |member: &Member| {
            let share = f64::from(streams + 1) / f64::from(weight.max(1)) * f64::from(member.weight.max(1));
            member.streams >= FREE && f64::from(member.streams) >= share * BOUND
        };
        let on_ring = self.ring.replicas(stream).filter_map(|id| self.member(id)).filter(|member| member.live);
        let mut named: Vec<_> = on_ring.take(CANDIDATES).collect();
        named.sort_by_key(|member| (member.draining, is_full(member)));
        named.into_iter().map(|member| member.id.clone()).collect()
    }

    /// The node that hosts a stream's room: the first one along the ring that answers, whatever its load.
    pub fn host(&self, stream: &StreamId) -> Option<Arc<str>> {
        let on_ring = || self.ring.replicas(stream).filter_map(|id| self.member(id)).filter(|member| member.live);
        let host = on_ring().find(|member| !member.draining).or_else(|| on_ring().next());
        host.map(|member| member.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(n: usize) -> Member {
        let id = format!("n{n}").into();
        Member { id, weight: 1, origin: true, draining: false, live: true, streams: 0 }
    }

    fn stream(n: u32) -> StreamId {
        StreamId::new(&format!("s{n}")).unwrap()
    }

    proptest! {
        #[test]
        fn one_that_is_away_moves_only_its_own_streams(nodes in 2usize..9, away in 0usize..9, streams in 0u32..1000) {
            let away = away % nodes;
            let view = View::new((0..nodes).map(member).collect());
            let order = view.candidates(&stream(streams));
            let mut members = view.members().to_vec();
            members[away].live = false;
            let id = members[away].id.clone();
            let without = view.with(members).candidates(&stream(streams));
            // The others keep their order: the second one of those that lost it takes over.
            let want: Vec<_> = order.into_iter().filter(|node| *node != id).collect();
            prop_assert_eq!(without, want);
        }

        #[test]
        fn the_order_of_registration_does_not_matter(nodes in 1usize..9, turn in 0usize..9, streams in 0u32..1000) {
            let mut members: Vec<_> = (0..nodes).map(member).collect();
            let before = View::new(members.clone()).candidates(&stream(streams));
            members.rotate_left(turn % nodes);
            prop_assert_eq!(View::new(members).candidates(&stream(streams)), before);
        }
    }

    #[test]
    fn a_node_that_has_too_much_or_drains_comes_later() {
        let view = View::new((0..4).map(member).collect());
        let order = view.candidates(&stream(1));
        let with = |change: &dyn Fn(&mut Member)| {
            let mut members: Vec<_> = (0..4).map(member).collect();
            members.iter_mut().for_each(|member| member.streams = 10);
            members.iter_mut().filter(|member| member.id == order[0]).for_each(change);
            View::new(members).candidates(&stream(1))
        };
        assert_eq!(with(&|_| {}), order);
        let last = [&order[1..], &order[..1]].concat();
        assert_eq!(with(&|member| member.streams = 20), last);
        assert_eq!(with(&|member| member.draining = true), last);
        assert!(!with(&|member| member.origin = false).contains(&order[0]));
        // Where all others are away it is better than nothing.
        let mut members: Vec<_> = (0..4).map(member).collect();
        for member in &mut members {
            (member.live, member.draining) = (member.id == order[0], true);
        }
        assert_eq!(View::new(members).candidates(&stream(1)), order[..1]);
    }
}
