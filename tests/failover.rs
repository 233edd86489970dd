//! Three nodes that share their streams, and what viewers see when one of them is lost.

mod support;

use std::sync::Arc;

use support::{Node, Publisher, hls, secs, servers, wait};
use weir::{cluster::ring::Ring, id::StreamId, time::now};

const SETTINGS: &[&str] = &["ladder=[]", "live.chunk=1s", "live.window=8", "live.reconnect_window=10s"];
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Three nodes on one database and one bucket.
struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    fn start(settings: &[&str]) -> Self {
        let stores = servers::node_settings();
        let stores: Vec<_> = stores.iter().map(String::as_str).collect();
        let start = |name: &str| {
            let id = format!("node.id={name}");
            Node::start_local(&[&stores[..], SETTINGS, settings, &[&id]].concat())
        };
        let nodes: Vec<_> = NAMES.map(start).into();
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            wait("every node knows all others", secs(10), || {
                let told = node.admin("GET", "/api/v1/nodes", None);
                let told: serde_json::Value = serde_json::from_slice(&told.body).ok()?;
                let live = told["nodes"].as_array()?.iter().filter(|node| node["live"] == true).count();
                (live == NAMES.len()).then_some(())
            });
        }
        cluster
    }

    /// The places of a stream's owner, standby and of the node that is neither.
    fn places(stream: &str) -> [usize; 3] {
        let ring = Ring::new(NAMES.map(|name| (Arc::from(name), 1)));
        let order: Vec<_> = ring.replicas(&StreamId::new(stream).unwrap()).cloned().collect();
        [0, 1, 2].map(|place| NAMES.iter().position(|name| **name == *order[place]).unwrap())
    }

    fn publish(&self, node: usize, stream: &str) -> Publisher {
        Publisher::test_picture(&self.nodes[node], stream, "320x180", 30, "-g 30 -b:v 300k", "-b:a 64k", 300)
    }
}

/// Follows a stream at a node until it has `more` chunks more on every rendition, none of them a hole.
fn follow_on(client: &mut hls::Client, more: usize) {
    let have = client.renditions.values().map(|f| f.media().count()).max().unwrap_or(0);
    client.follow_media(have + more, secs(60));
}

fn assert_whole(client: &hls::Client) {
    for (name, followed) in &client.renditions {
        let gaps: Vec<_> = followed.chunks.values().filter(|seen| seen.listed.gap).map(|seen| seen.listed.k).collect();
        assert!(gaps.is_empty(), "{name} has holes at {gaps:?}");
        assert!(followed.chunks.values().all(|seen| !seen.listed.discontinuity), "{name} has a break");
    }
    client.check_alignment();
}

#[test]
fn the_owner_is_killed_and_nobody_notices() {
    let mut cluster = Cluster::start(&[]);
    let [owner, standby, third] = Cluster::places("ann");
    let mut publisher = cluster.publish(third, "ann");
    let live = cluster.nodes[third].wait_live("ann");
    assert_eq!(live["owner"], NAMES[owner], "{live}");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/ann/index.m3u8"));
    follow_on(&mut client, 4);
    let killed = now();
    cluster.nodes[owner].crash();
    let took = wait("another owner", secs(5), || {
        let told = support::get(&cluster.nodes[third].url("/api/v1/streams/ann"));
        let told: serde_json::Value = serde_json::from_slice(&told.body).ok()?;
        (told["owner"] == NAMES[standby]).then(|| now() - killed)
    });
    println!("another node owns the stream {took:?} after its owner was killed");
    follow_on(&mut client, 12);
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}
