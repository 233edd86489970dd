//! What tests of three nodes that share their streams have in common.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::sync::Arc;

use weir::{cluster::ring::Ring, id::StreamId};

use super::{Node, get, secs, servers, wait};

pub const NAMES: [&str; 3] = ["one", "two", "three"];

/// The places of a stream's owner, of its standby and of the node that is neither, as long as all are there.
pub fn places(stream: &str) -> [usize; 3] {
    let ring = Ring::new(NAMES.map(|name| (Arc::from(name), 1)));
    let order: Vec<_> = ring.replicas(&StreamId::new(stream).unwrap()).cloned().collect();
    [0, 1, 2].map(|place| NAMES.iter().position(|name| **name == *order[place]).unwrap())
}

/// Three nodes on one database and one bucket.
pub fn start(settings: &[&str]) -> Vec<Node> {
    start_at(&servers::told("TESTS_CQL"), settings)
}

/// The same, with their database at this address.
pub fn start_at(database: &str, settings: &[&str]) -> Vec<Node> {
    let mut stores = servers::node_settings();
    stores.retain(|setting| !setting.starts_with("store.nodes="));
    stores.push(format!("store.nodes=[\"{database}\"]"));
    let stores: Vec<_> = stores.iter().map(String::as_str).collect();
    let start = |name: &str| {
        let id = format!("node.id={name}");
        Node::start_local(&[&stores[..], settings, &[&id]].concat())
    };
    let nodes: Vec<_> = NAMES.iter().map(|name| start(name)).collect();
    nodes.iter().for_each(wait_together);
    nodes
}

/// How many chunks the gateway's nodes have both made: the same ones, and different ones.
pub fn twins(gateway: &Node) -> (u64, u64) {
    let page = get(&gateway.url("/metrics")).text();
    let count = |same: &str| {
        let line = format!("weir_standby_chunks_total{{same=\"{same}\"}} ");
        page.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |value| value.parse().expect("a number"))
    };
    (count("yes"), count("no"))
}

/// Waits until a node hears all others.
pub fn wait_together(node: &Node) {
    wait("every node knows all others", secs(20), || {
        let told = node.admin("GET", "/api/v1/nodes", None);
        let told: serde_json::Value = serde_json::from_slice(&told.body).ok()?;
        let live = told["nodes"].as_array()?.iter().filter(|node| node["live"] == true).count();
        (live == NAMES.len()).then_some(())
    });
}
