//! Drills on a live cluster: nodes are cut off from each other, from their stores and from viewers, killed and stopped, while
//! streams go on and readers at every node look at all that they are shown.
//!
//! `make test` has short ones, where it may; `make drills` long ones, `DRILL_S=600 make drills` longer ones. Each node is in a
//! network namespace of its own.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    Node, Publisher,
    balancer::Balancer,
    cluster::{NAMES, places, twins, wait_together},
    free_port, get, given,
    netns::Netns,
    page::{self, Page},
    proxy::{Mode, Proxy},
    readers::{Readers, assert_recorded},
    rtmp, secs, servers, signal, wait,
};
use weir::time::{Timestamp, now};

/// What a node made that was cut off from all others, and its stores, is recorded later as far as it is in the live window.
const SETTINGS: &[&str] =
    &["ladder=[]", "live.chunk=1s", "live.window=16", "live.reconnect_window=60s", "auth.publish=open"];

/// What a way leads to: a node, or what all nodes need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Node(usize),
    Database,
    Objects,
    /// Viewers, publishers and whoever looks.
    World,
}

/// Three nodes, each alone in a network namespace, and the ways between them.
struct Mesh {
    nodes: Vec<Node>,
    ways: BTreeMap<(End, End), Vec<Proxy>>,
    _spaces: Vec<Netns>,
}

impl Mesh {
    fn start(settings: &[&str]) -> Self {
        let spaces: Vec<_> = NAMES.iter().map(|_| Netns::new()).collect();
        let ports: Vec<_> = NAMES.iter().map(|_| (free_port(), free_port(), free_port())).collect();
        let (cql, s3) = (servers::told("TESTS_CQL"), servers::told("TESTS_S3"));
        let mut ways = BTreeMap::new();
        for (from, space) in spaces.iter().enumerate() {
            let way = |to: &str| vec![Proxy::between(Some(space), None, to)];
            ways.insert((End::Node(from), End::Database), way(&cql));
            ways.insert((End::Node(from), End::Objects), way(s3.trim_start_matches("http://")));
            let at = |port: u16| format!("127.0.0.1:{port}");
            for (to, (rtmp, http, internal)) in ports.iter().enumerate() {
                if to == from {
                    let all = [rtmp, http, internal].map(|port| Proxy::between(None, Some(space), &at(*port)));
                    ways.insert((End::World, End::Node(to)), all.into());
                } else {
                    let way = vec![Proxy::between(Some(space), Some(&spaces[to]), &at(*internal))];
                    ways.insert((End::Node(from), End::Node(to)), way);
                }
            }
        }
        let stores = servers::node_settings();
        let stores: Vec<_> = stores.iter().map(String::as_str).collect();
        let start = |place: usize| {
            let id = format!("node.id={}", NAMES[place]);
            let all = [&stores[..], SETTINGS, settings, &[&id]].concat();
            Node::start_inside(&spaces[place].prefix(), ports[place], &all)
        };
        let nodes: Vec<_> = (0..NAMES.len()).map(start).collect();
        let mesh = Self { nodes, ways, _spaces: spaces };
        mesh.wait_together();
        mesh
    }

    fn wait_together(&self) {
        self.nodes.iter().for_each(wait_together);
    }

    /// Cuts what leads from one end to the other, and back; or mends it.
    fn set(&self, a: End, b: End, mode: Mode) {
        for (_, ways) in self.ways.iter().filter(|(way, _)| **way == (a, b) || **way == (b, a)) {
            ways.iter().for_each(|way| way.set(mode));
        }
    }

    fn mend(&self) {
        self.ways.values().flatten().for_each(|way| way.set(Mode::Pass));
    }

    /// Who leads and who stands by now, as a node says.
    fn roles(&self, stream: &str, asked: usize) -> (usize, usize) {
        let place = |name: &serde_json::Value| NAMES.iter().position(|node| *name == *node);
        wait("an owner and a standby", secs(20), || {
            let told = get(&self.nodes[asked].url(&format!("/api/v1/streams/{stream}")));
            let told: serde_json::Value = serde_json::from_slice(&told.body).ok()?;
            Some((place(&told["owner"])?, place(&told["standbys"][0])?))
        })
    }

    fn publish(&self, node: usize, stream: &str) -> Publisher {
        Publisher::test_picture(&self.nodes[node], stream, "320x180", 30, "-g 30 -b:v 300k", "-b:a 64k", 3600)
    }
}

/// How long drills are to be, where they need not be short.
fn seconds() -> Option<Duration> {
    given("DRILL_S").map(secs)
}

fn broadcast(mesh: &Mesh, at: usize, stream: &str) -> String {
    let live = mesh.nodes[at].wait_stream(stream, "some chunks on", |live| live["k"].as_u64() >= Some(4));
    live["broadcast"].as_str().unwrap().to_owned()
}

#[test]
fn an_owner_that_is_cut_off_costs_nobody_a_chunk() {
    let mesh = Mesh::start(&[]);
    let stream = "ann";
    let [_, _, gateway] = places(stream);
    let mut publisher = mesh.publish(gateway, stream);
    let show = broadcast(&mesh, gateway, stream);
    let readers = Readers::start(&mesh.nodes, stream, &show, "source");
    use End::{Database, Node as At, Objects, World};
    let cuts = |owner: usize, standby: usize| -> Vec<(&str, Vec<(End, End)>)> {
        let to = |ends: &[End]| ends.iter().map(|end| (At(owner), *end)).collect::<Vec<_>>();
        let database = [owner, standby, gateway].map(|node| (At(node), Database)).to_vec();
        vec![
            ("owner, database", to(&[Database])),
            ("owner, both stores", to(&[Database, Objects])),
            ("owner, gateway", to(&[At(gateway)])),
            ("owner, standby", to(&[At(standby)])),
            ("owner, viewers", to(&[World])),
            ("owner, gateway and database", to(&[At(gateway), Database])),
            ("owner, gateway and standby", to(&[At(gateway), At(standby)])),
            ("owner, standby and database", to(&[At(standby), Database])),
            ("owner, everything", to(&[At(gateway), At(standby), Database, Objects, World])),
            ("all, database", database.clone()),
            ("all, database; owner, gateway", [database, to(&[At(gateway)])].concat()),
            ("standby, gateway and database", vec![(At(standby), At(gateway)), (At(standby), Database)]),
        ]
    };
    println!("| cut off | longest wait for a chunk of 1 s at the gateway, at the standby | missing |");
    println!("|---|---|---|");
    let short = ["owner, standby", "owner, gateway and standby", "owner, everything", "all, database; owner, gateway"];
    for case in 0..cuts(0, 0).len() {
        if seconds().is_none() && !short.contains(&cuts(0, 0)[case].0) {
            continue;
        }
        let (owner, standby) = mesh.roles(stream, gateway);
        let (name, ways) = cuts(owner, standby).swap_remove(case);
        let since = now();
        ways.iter().for_each(|(a, b)| mesh.set(*a, *b, Mode::Hang));
        readers.wait_more(gateway, 6);
        if name.starts_with("owner, standby") {
            // Viewers at the standby, too, while it lasts: whom it cannot reach another node may.
            readers.wait_more(standby, 3);
        }
        mesh.mend();
        mesh.wait_together();
        readers.wait_more(gateway, 4);
        let (wait, gaps) = readers.worst(gateway, since);
        let (other, _) = readers.worst(standby, since);
        println!("| {name} | {:.2} s, {:.2} s | {gaps:?} |", wait.as_secs_f64(), other.as_secs_f64());
        let refused = readers.refused(gateway, since);
        assert!(refused.is_empty(), "{name}: {refused:?}");
        assert!(publisher.running(), "{name}: {}", publisher.log());
        assert!(gaps.is_empty(), "{name}: {gaps:?} are missing");
    }
    let seen = readers.end();
    assert_recorded(&mesh.nodes[0], stream, &show, &seen);
    publisher.kill();
}

/// The gateway has kept what two lost nodes had, and a node that stops hands over what it makes.
#[test]
fn whatever_becomes_of_owner_and_standby_costs_no_chunk() {
    let mut mesh = Mesh::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let stream = "ann";
    let gateway = places(stream)[2];
    let mut publisher = mesh.publish(gateway, stream);
    let show = broadcast(&mesh, gateway, stream);
    let readers = ["source", "90p"].map(|name| Readers::start(&mesh.nodes, stream, &show, name));
    println!("| what | longest wait for a chunk of 1 s at the gateway: source, 90p | missing |");
    println!("|---|---|---|");
    for what in ["owner's transcoder stopped", "owner drained", "owner ended (SIGTERM)", "owner and standby killed"] {
        let both =
            || Some(mesh.roles(stream, gateway)).filter(|(owner, standby)| ![*owner, *standby].contains(&gateway));
        let (owner, standby) = wait("two other nodes to have it", secs(20), both);
        let since = now();
        match what {
            "owner drained" => {
                assert!(mesh.nodes[owner].weir(&["drain"]).status.success());
                assert!(mesh.nodes[owner].wait_end().success());
            }
            // Not those that wait for work: the next encoder would be a stopped one, too.
            "owner's transcoder stopped" => signal(mesh.nodes[owner].busiest_transcoder(), "STOP"),
            "owner ended (SIGTERM)" => assert!(mesh.nodes[owner].terminate().1.success()),
            _ => [owner, standby].iter().for_each(|node| mesh.nodes[*node].crash()),
        }
        readers[0].wait_more(gateway, 4);
        let lost = match what {
            "owner's transcoder stopped" => vec![],
            "owner and standby killed" => vec![owner, standby],
            _ => vec![owner],
        };
        lost.iter().for_each(|node| mesh.nodes[*node].start_again());
        mesh.wait_together();
        readers.iter().for_each(|readers| readers.wait_more(gateway, 4));
        let [source, small] = [&readers[0], &readers[1]].map(|readers| readers.worst(gateway, since));
        println!("| {what} | {:.2?}, {:.2?} | {:?} |", source.0, small.0, source.1);
        assert!(source.1.is_empty() && small.1.is_empty(), "{what}: {:?}, {:?} are missing", source.1, small.1);
        let refused: Vec<_> = readers.iter().flat_map(|readers| readers.refused(gateway, since)).collect();
        assert!(refused.is_empty(), "{what}: {refused:?}");
        assert!(publisher.running(), "{what}: {}", publisher.log());
    }
    publisher.kill();
    let [source, small] = readers;
    let small = small.end();
    assert!(small.wrong.is_empty(), "{:#?}", small.wrong);
    assert_recorded(&mesh.nodes[gateway], stream, &show, &source.end());
}

/// Two releases that cannot understand each other say so, and the stream goes on without one of the two.
#[test]
fn a_node_of_another_release_is_passed_over_with_words() {
    let mesh = Mesh::start(&[]);
    let stream = "ann";
    let [owner, standby, gateway] = places(stream);
    mesh.set(End::Node(gateway), End::Node(owner), Mode::OtherFeed);
    let mut publisher = mesh.publish(gateway, stream);
    let show = broadcast(&mesh, gateway, stream);
    assert_eq!(mesh.roles(stream, gateway), (standby, gateway));
    let readers = Readers::start(&mesh.nodes, stream, &show, "source");
    let log = mesh.nodes[gateway].log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("this node speaks application/x-weir-feed-1")).collect();
    assert_eq!(told.len(), 1, "{log}");
    // It is updated.
    mesh.mend();
    wait("the preferred node to stand by", secs(20), || (mesh.roles(stream, gateway).1 == owner).then_some(()));
    readers.wait_more(owner, 3);
    let (_, gaps) = readers.worst(owner, Timestamp(0));
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
    assert_recorded(&mesh.nodes[gateway], stream, &show, &readers.end());
}

/// A publisher that comes back, at another node, two seconds after it lost its own, as encoders do.
struct Encoder {
    stream: String,
    publisher: Publisher,
    at: usize,
    lost: Option<Timestamp>,
    /// It came back since this was looked at.
    was_lost: bool,
}

impl Encoder {
    fn start(mesh: &Mesh, stream: &str) -> Self {
        let at = places(stream)[2];
        Self { stream: stream.to_owned(), publisher: mesh.publish(at, stream), at, lost: None, was_lost: false }
    }
}

/// Lets time pass. Encoders that lost their node come back at another than `avoid`.
fn tend(mesh: &Mesh, encoders: &mut [Encoder], avoid: usize, how_long: Duration) {
    let until = now() + how_long;
    while now() < until {
        for encoder in &mut *encoders {
            if encoder.publisher.running() {
                continue;
            }
            let lost = *encoder.lost.get_or_insert_with(now);
            if now() - lost >= secs(2) {
                encoder.at =
                    (0..NAMES.len()).find(|place| *place != avoid && *place != encoder.at).expect("one of three");
                encoder.publisher = mesh.publish(encoder.at, &encoder.stream);
                (encoder.lost, encoder.was_lost) = (None, true);
            }
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A node is killed, or stopped, or cut off, again and again, while three streams go on.
#[test]
fn whatever_happens_to_one_node_at_a_time() {
    // The short drill is the same every time.
    let seed = given("DRILL_SEED").unwrap_or_else(|| if seconds().is_some() { rand::random() } else { 8 });
    println!("DRILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut mesh = Mesh::start(&[]);
    // Each has its publisher at the node that neither owns it nor stands by, and no two the same owner.
    let mut streams: Vec<String> = Vec::new();
    for owner in 0..NAMES.len() {
        let name = (0..).map(|n| format!("s{n}")).find(|name| places(name)[0] == owner);
        streams.extend(name);
    }
    let mut encoders: Vec<_> = streams.iter().map(|stream| Encoder::start(&mesh, stream)).collect();
    let shows: Vec<_> = streams.iter().map(|stream| broadcast(&mesh, 0, stream)).collect();
    let readers: Vec<_> =
        streams.iter().zip(&shows).map(|(stream, show)| Readers::start(&mesh.nodes, stream, show, "source")).collect();
    // Viewers, each behind a balancer that prefers another node.
    let balancers: Vec<_> = (0..streams.len())
        .map(|n| Balancer::start(&[0, 1, 2].map(|place| &mesh.nodes[(n + place) % NAMES.len()])))
        .collect();
    let page = |(stream, balancer): (&String, &Balancer)| {
        Page::open(&balancer.url(&format!("/watch/{stream}")), page::Mode::Plain, secs(24 * 3600))
    };
    let mut pages: Vec<_> = streams.iter().zip(&balancers).map(page).collect();
    println!("| what | stream | longest wait for a chunk of 1 s, by node that stayed | missing | hls.js stalls |");
    println!("|---|---|---|---|---|");
    let until = now() + seconds().unwrap_or(secs(30));
    while now() < until {
        let node = rng.random_range(0..NAMES.len());
        let what = ["killed", "stopped for 3 s", "cut off for 5 s"][rng.random_range(0..3)];
        let roles: Vec<_> =
            streams.iter().zip(&encoders).map(|(stream, encoder)| mesh.roles(stream, encoder.at)).collect();
        let (since, stalls) = (now(), pages.iter().map(Page::stalls).collect::<Vec<_>>());
        let mut pass = |mesh: &Mesh, seconds| tend(mesh, &mut encoders, node, secs(seconds));
        match what {
            "killed" => {
                mesh.nodes[node].crash();
                pass(&mesh, 4);
                mesh.nodes[node].start_again();
            }
            "stopped for 3 s" => {
                signal(mesh.nodes[node].pid(), "STOP");
                pass(&mesh, 3);
                signal(mesh.nodes[node].pid(), "CONT");
            }
            _ => {
                let others = [End::Database, End::Objects, End::World].into_iter();
                let others: Vec<_> = others.chain((0..NAMES.len()).map(End::Node)).collect();
                others.iter().for_each(|other| mesh.set(End::Node(node), *other, Mode::Hang));
                pass(&mesh, 5);
                mesh.mend();
            }
        }
        mesh.wait_together();
        pass(&mesh, 8);
        let stayed: Vec<_> = (0..NAMES.len()).filter(|place| *place != node).collect();
        for (stream_at, (owner, standby)) in roles.into_iter().enumerate() {
            let (stream, encoder) = (&streams[stream_at], &mut encoders[stream_at]);
            let is_gateway = std::mem::take(&mut encoder.was_lost) || encoder.at == node;
            let role = [(owner == node, "owner"), (standby == node, "standby"), (is_gateway, "gateway")];
            let role: Vec<_> = role.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
            let role = role.join(" and ");
            let worst: Vec<_> = stayed.iter().map(|place| readers[stream_at].worst(*place, since)).collect();
            let waits: Vec<_> = worst.iter().map(|(wait, _)| format!("{:.2} s", wait.as_secs_f64())).collect();
            let gaps: BTreeSet<_> = worst.iter().flat_map(|(_, gaps)| gaps.clone()).collect();
            let (before, after) = (stalls[stream_at], pages[stream_at].stalls());
            let stalled = (after.0 - before.0, after.1 - before.1);
            let waits = waits.join(", ");
            println!("| {role} {what} | {stream} | {waits} | {gaps:?} | {}, {:.0} ms |", stalled.0, stalled.1);
            let refused: Vec<_> = stayed.iter().flat_map(|place| readers[stream_at].refused(*place, since)).collect();
            assert!(is_gateway || refused.is_empty(), "{role} {what}: {refused:?}");
            assert!(is_gateway || gaps.is_empty(), "{role} {what}: {gaps:?} of {stream} are missing");
            assert!(is_gateway || stalled.0 == 0, "{role} {what}: {}", pages[stream_at].told());
            let told = pages[stream_at].told();
            assert!(is_gateway || told["fatalErrors"] == 0, "{role} {what}: {told}");
            if is_gateway {
                // What went missing has brought its viewer nearer to the edge than he began, where the next loss would be seen.
                pages[stream_at] = page((stream, &balancers[stream_at]));
            }
        }
    }
    let seen: Vec<_> = readers.into_iter().map(Readers::end).collect();
    for ((stream, show), seen) in streams.iter().zip(&shows).zip(&seen) {
        assert_recorded(&mesh.nodes[0], stream, show, seen);
    }
}

/// A gateway that sleeps, or is cut off, and comes back has the encoder's connection still, and what came meanwhile.
#[test]
fn a_gateway_that_is_not_heard_for_a_while_costs_time_and_no_chunk() {
    let mesh = Mesh::start(&[]);
    let stream = "ann";
    let gateway = places(stream)[2];
    let mut publisher = mesh.publish(gateway, stream);
    let show = broadcast(&mesh, gateway, stream);
    let readers = Readers::start(&mesh.nodes, stream, &show, "source");
    let (owner, _) = mesh.roles(stream, gateway);
    println!("| gateway | longest wait for a chunk of 1 s at the owner | missing |");
    println!("|---|---|---|");
    let all = [("stopped", 3), ("cut off", 6), ("stopped", 6), ("cut off", 3)];
    for (what, seconds) in all.into_iter().take(if seconds().is_some() { 4 } else { 2 }) {
        let (since, before) = (now(), readers.newest(owner));
        if what == "stopped" {
            signal(mesh.nodes[gateway].pid(), "STOP");
            std::thread::park_timeout(secs(seconds));
            signal(mesh.nodes[gateway].pid(), "CONT");
        } else {
            let others = (0..NAMES.len()).map(End::Node).chain([End::Database, End::Objects]);
            others.for_each(|other| mesh.set(End::Node(gateway), other, Mode::Hang));
            std::thread::park_timeout(secs(seconds));
            mesh.mend();
        }
        wait("ten chunks on", secs(30), || (readers.newest(owner) >= before + seconds + 6).then_some(()));
        mesh.wait_together();
        let (wait, gaps) = readers.worst(owner, since);
        println!("| {what} for {seconds} s | {:.2} s | {gaps:?} |", wait.as_secs_f64());
        assert!(publisher.running(), "{what}: {}", publisher.log());
    }
    let seen = readers.end();
    assert_recorded(&mesh.nodes[0], stream, &show, &seen);
    publisher.kill();
}

/// Whatever becomes of the nodes, those that make the chunks make the same ones.
#[test]
fn what_an_encoder_sends_that_drops_is_made_alike_for_an_hour() {
    const SPEED: f64 = 6.0;
    let minutes = if seconds().is_some() { 60 } else { 2 };
    let mut mesh = Mesh::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let stream = "ann";
    let [one, two, gateway] = places(stream);
    let minute = rtmp::film("320x180", 30, 60, "-g 30 -bf 2 -b:v 300k", "-b:a 64k");
    let all = (1..minutes).fold(minute.clone(), |film, n| rtmp::joined(&film, &minute, n * 60));
    let publisher = rtmp::Pusher::start(&mesh.nodes[gateway], stream, rtmp::dropping(&all, 7), SPEED);
    let (mut kills, mut last) = (0, 0);
    while publisher.running() {
        let (owner, standby) = mesh.roles(stream, gateway);
        let (same, different) = twins(&mesh.nodes[gateway]);
        assert_eq!(different, 0, "{}", mesh.nodes[gateway].log());
        if same >= last + 150 && publisher.running() {
            last = same;
            let lost = if kills % 3 == 2 { owner } else { standby };
            // Between two kills the gateway may stand in for the one that is back.
            if [one, two].contains(&lost) {
                kills += 1;
                mesh.nodes[lost].crash();
                mesh.nodes[lost].start_again();
            }
        }
        std::thread::park_timeout(secs(1));
    }
    publisher.wait().expect("all is taken");
    let (same, different) = twins(&mesh.nodes[gateway]);
    println!(
        "{minutes} minutes of media: {same} chunks made by two nodes are the same, {different} are not; {kills} nodes killed"
    );
    assert!(same > u64::from(minutes) * 60 && different == 0);
}
