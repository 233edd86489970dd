//! Placement in clusters of many nodes: what it costs to know who makes a stream's chunks, and how many streams move.
//!
//! A plain program, no sampling: what it measures takes from microseconds to seconds, and the table tells shares beside times.

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use weir::{
    cluster::{
        ring::Ring,
        view::{Member, View},
    },
    id::StreamId,
    time::now,
};

const STREAMS: usize = 100_000;

fn id(n: usize) -> Arc<str> {
    format!("node-{n:04}").into()
}

fn member(n: usize, nodes: usize) -> Member {
    let streams = (STREAMS / nodes) as u32;
    Member { id: id(n), weight: 1, origin: true, draining: false, live: true, streams }
}

fn main() {
    let streams: Vec<_> = (0..STREAMS).map(|n| StreamId::new(&format!("stream-{n}")).expect("a legal id")).collect();
    println!(
        "| nodes | ring from nothing | one more node | streams that move, of {STREAMS} | 1.3 / N | busiest | all streams placed | each |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for nodes in [3, 10, 100, 1000] {
        let since = now();
        let mut ring = Ring::new((0..nodes).map(|n| (id(n), 1)));
        let made = now() - since;
        let owners = |ring: &Ring| {
            let owner = |stream| ring.replicas(stream).next().expect("there are nodes").clone();
            streams.iter().map(owner).collect::<Vec<_>>()
        };
        let before = owners(&ring);
        let since = now();
        ring.set((0..=nodes).map(|n| (id(n), 1)));
        let added = now() - since;
        let after = owners(&ring);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        let mut load = BTreeMap::<_, usize>::new();
        after.iter().for_each(|node| *load.entry(node.clone()).or_default() += 1);
        let busiest = load.values().max().copied().unwrap_or(0) as f64 * (nodes + 1) as f64 / STREAMS as f64;
        let view = View::new((0..nodes).map(|n| member(n, nodes)).collect());
        let since = now();
        streams.iter().for_each(|stream| drop(black_box(view.candidates(stream))));
        let placed = now() - since;
        println!(
            "| {nodes} | {made:.1?} | {added:.1?} | {moved} ({:.2} %) | {:.2} % | {busiest:.2} x its share | {placed:.2?} | {:.1?} |",
            moved as f64 * 100.0 / STREAMS as f64,
            130.0 / (nodes + 1) as f64,
            placed / STREAMS as u32,
        );
    }
}
