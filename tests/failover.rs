//! Three nodes that share their streams, and what viewers see when one of them is lost.

mod support;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use support::{
    Node, Publisher,
    balancer::Balancer,
    cluster::{self, NAMES, places, twins, wait_together},
    given, hls,
    page::{Mode, Page},
    proxy::{self, Proxy},
    readers::{Readers, assert_recorded},
    rtmp, secs, servers, signal, wait,
};
use weir::time::now;

const SETTINGS: &[&str] = &["ladder=[]", "live.chunk=1s", "live.window=8", "live.reconnect_window=10s"];

/// Three nodes on one database and one bucket.
struct Cluster {
    nodes: Vec<Node>,
    _place: Place,
}

/// A place on the machine, beside others or alone.
enum Place {
    Beside(#[expect(dead_code)] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code)] RwLockWriteGuard<'static, ()>),
}

/// A browser that plays has the machine to itself: what it drops for want of processor time says nothing of a takeover.
static MACHINE: RwLock<()> = RwLock::new(());

fn beside() -> Place {
    Place::Beside(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
}

fn alone() -> Place {
    Place::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner))
}

impl Cluster {
    fn start(settings: &[&str]) -> Self {
        Self::start_in(settings, beside())
    }

    fn start_in(settings: &[&str], place: Place) -> Self {
        Self::start_at(&servers::told("TESTS_CQL"), settings, place)
    }

    /// With its database at this address.
    fn start_at(database: &str, settings: &[&str], place: Place) -> Self {
        Self { nodes: cluster::start_at(database, &[SETTINGS, settings].concat()), _place: place }
    }

    fn publish(&self, node: usize, stream: &str) -> Publisher {
        Publisher::test_picture(&self.nodes[node], stream, "320x180", 30, "-g 30 -b:v 300k", "-b:a 64k", 3600)
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

/// Waits until `node` is said to own the stream; gives how long that took.
fn wait_owner(cluster: &Cluster, asked: usize, stream: &str, node: usize) -> std::time::Duration {
    let since = now();
    wait("another owner", secs(10), || {
        let told = support::get(&cluster.nodes[asked].url(&format!("/api/v1/streams/{stream}")));
        let told: serde_json::Value = serde_json::from_slice(&told.body).ok()?;
        (told["owner"] == NAMES[node]).then(|| now() - since)
    })
}

#[test]
fn the_owner_is_killed_and_nobody_notices() {
    let mut cluster = Cluster::start(&[]);
    let [owner, standby, third] = places("ann");
    let mut publisher = cluster.publish(third, "ann");
    let live = cluster.nodes[third].wait_live("ann");
    assert_eq!(live["owner"], NAMES[owner], "{live}");
    cluster.nodes[third].wait_stream("ann", "told by its owner", |live| {
        live["gateway"] == NAMES[third] && live["standbys"] == serde_json::json!([NAMES[standby]])
    });
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/ann/index.m3u8"));
    follow_on(&mut client, 4);
    // What this node has pulled for its viewers it gives no other: two would give each other for ever what one had once.
    let list = client.uri("source").replace(&cluster.nodes[third].url(""), "");
    let inside = format!("http://127.0.0.1:{}{list}", cluster.nodes[third].internal);
    assert_eq!((support::get(client.uri("source")).status, support::get(&inside).status), (200, 503), "{inside}");
    cluster.nodes[owner].crash();
    let took = wait_owner(&cluster, third, "ann", standby);
    assert!(took < secs(1), "{took:?}");
    follow_on(&mut client, 4);
    // It comes back and stands by; then it is the only one that is left beside the gateway.
    cluster.nodes[owner].start_again();
    follow_on(&mut client, 6);
    cluster.nodes[standby].crash();
    wait_owner(&cluster, third, "ann", owner);
    follow_on(&mut client, 6);
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

#[test]
fn an_owner_that_hangs_is_replaced_and_steps_down_when_it_goes_on() {
    let cluster = Cluster::start(&[]);
    let [owner, standby, third] = places("ben");
    let mut publisher = cluster.publish(third, "ben");
    cluster.nodes[third].wait_live("ben");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/ben/index.m3u8"));
    follow_on(&mut client, 4);
    signal(cluster.nodes[owner].pid(), "STOP");
    let took = wait_owner(&cluster, third, "ben", standby);
    assert!(took < secs(2), "{took:?}");
    follow_on(&mut client, 6);
    signal(cluster.nodes[owner].pid(), "CONT");
    // Whoever asks the one that hung is shown what the other makes.
    wait_owner(&cluster, owner, "ben", standby);
    follow_on(&mut client, 6);
    let mut other = hls::Client::open(&cluster.nodes[owner].url("/hls/ben/index.m3u8"));
    other.follow_media(4, secs(20));
    for client in [&client, &other] {
        assert_whole(client);
    }
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

#[test]
fn a_node_that_stops_hands_its_streams_over() {
    let mut cluster = Cluster::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let [owner, standby, third] = places("cleo");
    let mut publisher = cluster.publish(third, "cleo");
    cluster.nodes[third].wait_live("cleo");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/cleo/index.m3u8"));
    follow_on(&mut client, 4);
    // What is stored under a name stays what it is, though the other node's encoder has made other bytes of the same pictures.
    let path = |uri: &String| uri.replace(&cluster.nodes[third].url(""), "");
    let mut small: Vec<_> = client.renditions["90p"].media().map(|seen| path(&seen.listed.uri)).collect();
    // The newest is perhaps not stored yet.
    small.pop();
    let read = |at: usize| small.iter().map(|path| support::get(&cluster.nodes[at].url(path)).body).collect::<Vec<_>>();
    let before = read(owner);
    assert!(cluster.nodes[owner].weir(&["drain"]).status.success());
    wait_owner(&cluster, third, "cleo", standby);
    assert!(read(standby) == before, "a stored chunk has changed");
    assert!(cluster.nodes[owner].wait_end().success());
    follow_on(&mut client, 4);
    cluster.nodes[owner].start_again();
    // It has to be as far as the other before that can stop.
    cluster.nodes[third]
        .wait_stream("cleo", "a standby that is back", |live| live["standbys"] == serde_json::json!([NAMES[owner]]));
    follow_on(&mut client, 2);
    assert!(cluster.nodes[standby].terminate().1.success());
    wait_owner(&cluster, third, "cleo", owner);
    follow_on(&mut client, 6);
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

/// Every node in turn is stopped and started anew, as for a new release, while the encoder and viewers go through a balancer.
#[test]
fn all_nodes_are_upgraded_one_after_the_other_and_nobody_notices() {
    let mut cluster = Cluster::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let [owner, standby, third] = places("lou");
    let turns = [third, owner, standby];
    let balancer = Balancer::start(&turns.map(|place| &cluster.nodes[place]));
    let film = rtmp::film("320x180", 30, 120, "-g 30 -b:v 300k", "-b:a 64k");
    let publisher = rtmp::Pusher::moving(&balancer.rtmp.address, "lou", film);
    let live = cluster.nodes[owner].wait_stream("lou", "some chunks on", |live| live["k"].as_u64() >= Some(4));
    assert_eq!(live["gateway"], NAMES[third], "{live}");
    let show = live["broadcast"].as_str().unwrap().to_owned();
    let readers = Readers::start(&cluster.nodes, "lou", &show, "source");
    let small = Readers::start(&cluster.nodes, "lou", &show, "90p");
    println!("| stopped | its end took | longest wait for a chunk of 1 s at the others |");
    println!("|---|---|---|");
    for place in turns {
        let others: Vec<_> = turns.into_iter().filter(|other| *other != place).collect();
        readers.wait_more(others[0], 3);
        let since = now();
        let (took, status) = cluster.nodes[place].terminate();
        assert!(status.success(), "{status}");
        readers.wait_more(others[0], 3);
        cluster.nodes[place].start_again();
        cluster.nodes.iter().for_each(wait_together);
        // It has to be as far as the others before one of these can stop.
        readers.wait_more(others[0], 6);
        let worst = others.iter().flat_map(|other| [readers.worst(*other, since), small.worst(*other, since)]);
        let (waits, gaps): (Vec<_>, Vec<_>) = worst.unzip();
        println!("| {} | {took:.1?} | {waits:.2?} |", NAMES[place]);
        let refused: Vec<_> = others.iter().map(|other| readers.refused(*other, since)).collect();
        assert!(refused.iter().all(Vec::is_empty), "{refused:?}");
        assert!(gaps.iter().all(Vec::is_empty), "{gaps:?} are missing");
        // Players hold back three chunks.
        assert!(waits.iter().all(|wait| *wait < secs(3)), "{waits:?}");
        if !publisher.running() {
            panic!("{:?}", publisher.wait());
        }
    }
    let seen = small.end();
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    drop(publisher);
    assert_recorded(&cluster.nodes[owner], "lou", &show, &readers.end());
}

#[test]
fn a_standby_makes_what_the_owner_makes_of_an_encoder_that_drops() {
    const SECONDS: u32 = 60;
    const SPEED: f64 = 2.0;
    let mut cluster = Cluster::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let [owner, standby, third] = places("mia");
    let film = rtmp::film("320x180", 30, SECONDS, "-g 30 -bf 2 -b:v 300k", "-b:a 64k");
    let publisher = rtmp::Pusher::start(&cluster.nodes[third], "mia", rtmp::dropping(&film, 7), SPEED);
    let enough = |cluster: &Cluster, chunks: u64| {
        wait("chunks of both", secs(30), || {
            let (same, different) = twins(&cluster.nodes[third]);
            assert_eq!(different, 0, "{}", cluster.nodes[third].log());
            (same >= chunks).then_some(same)
        })
    };
    let before = enough(&cluster, 12);
    // It begins anew, some chunks back.
    cluster.nodes[standby].crash();
    cluster.nodes[standby].start_again();
    let before = enough(&cluster, before + 12);
    // And now the other, once the one that is back has its place again.
    let stands_by = |live: &serde_json::Value| live["standbys"] == serde_json::json!([NAMES[standby]]);
    cluster.nodes[third].wait_stream("mia", "made by both", stands_by);
    cluster.nodes[owner].crash();
    wait_owner(&cluster, third, "mia", standby);
    cluster.nodes[owner].start_again();
    enough(&cluster, before + 12);
    publisher.wait().expect("all is taken");
    let (same, different) = twins(&cluster.nodes[third]);
    println!("{same} chunks of two nodes are the same");
    assert_eq!(different, 0, "{}", cluster.nodes[third].log());
}

#[test]
fn a_key_that_is_taken_away_ends_its_session_at_whichever_node() {
    let cluster = Cluster::start(&["auth.publish=keys"]);
    let made = cluster.nodes[0].admin("POST", "/api/v1/streams", Some(r#"{"id":"jo"}"#));
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let [owner, standby, third] = places("jo");
    let mut publisher = cluster.publish(third, made["key"].as_str().unwrap());
    cluster.nodes[third].wait_live("jo");
    assert!(cluster.nodes[standby].weir(&["stream", "rotate-key", "jo"]).status.success());
    publisher.wait(secs(5));
    cluster.nodes[owner].wait_stream("jo", "away", |live| live["state"] == "away");
}

#[test]
fn a_publisher_whose_node_is_lost_goes_on_at_another() {
    let mut cluster = Cluster::start(&[]);
    let [owner, standby, third] = places("dora");
    let first = cluster.publish(owner, "dora");
    cluster.nodes[third].wait_live("dora");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/dora/index.m3u8"));
    follow_on(&mut client, 4);
    // Gateway and owner at once.
    cluster.nodes[owner].crash();
    drop(first);
    let mut publisher = cluster.publish(third, "dora");
    wait_owner(&cluster, third, "dora", standby);
    follow_on(&mut client, 6);
    let source = &client.renditions["source"];
    let breaks = source.chunks.values().filter(|seen| seen.listed.discontinuity).count();
    let gaps = source.chunks.values().filter(|seen| seen.listed.gap).count();
    assert_eq!(breaks, 1, "one broadcast, with the break of the publisher's return");
    assert!(gaps <= 6, "{gaps} chunks are missing");
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

#[test]
fn owner_and_standby_are_lost_at_once_and_the_third_goes_on() {
    let mut cluster = Cluster::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let [owner, standby, third] = places("eve");
    let mut publisher = cluster.publish(third, "eve");
    cluster.nodes[third].wait_live("eve");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/eve/index.m3u8"));
    follow_on(&mut client, 4);
    cluster.nodes[owner].crash();
    cluster.nodes[standby].crash();
    wait_owner(&cluster, third, "eve", third);
    follow_on(&mut client, 6);
    // It had nothing of the stream: the gateway has kept what was not stored.
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

#[test]
fn an_owner_is_killed_while_the_database_is_away_and_all_is_recorded_in_the_end() {
    let database = Proxy::start(&servers::told("TESTS_CQL"));
    let mut cluster = Cluster::start_at(&database.address, &["live.window=16"], beside());
    let [owner, standby, third] = places("kim");
    let mut publisher = cluster.publish(third, "kim");
    let show = cluster.nodes[third].wait_live("kim")["broadcast"].as_str().unwrap().to_owned();
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/kim/index.m3u8"));
    follow_on(&mut client, 3);
    database.set(proxy::Mode::Hang);
    // More than a rendition may lag: the standby publishes all of it anew, as it does not know what the owner has stored.
    follow_on(&mut client, 7);
    assert_whole(&client);
    cluster.nodes[owner].crash();
    wait_owner(&cluster, third, "kim", standby);
    let away = given("TESTS_OUTAGE_S").unwrap_or(4);
    (0..away / 4).for_each(|_| follow_on(&mut client, 4));
    database.set(proxy::Mode::Pass);
    follow_on(&mut client, 3);
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
    let newest = client.renditions["source"].media().map(|seen| seen.listed.k).max().unwrap();
    let url = cluster.nodes[third].url(&format!("/hls/kim/{show}/source/index.m3u8?from=start"));
    let recorded = wait("all of it to be stored", secs(30), || {
        let list = hls::playlist(&url).filter(|list| list.segments.len() as u64 > newest)?;
        list.segments.iter().take(newest as usize + 1).all(|s| support::get(&s.uri).status == 200).then_some(list)
    });
    assert!(recorded.sequence == 0 && recorded.segments.iter().all(|segment| !segment.gap), "{recorded:?}");
}

#[test]
fn a_warm_standby_encodes_when_it_takes_over() {
    let mut cluster = Cluster::start(&["ladder=[{height=90,bitrate_kbps=100}]", "live.standby=warm"]);
    let [owner, standby, third] = places("ida");
    let mut publisher = cluster.publish(third, "ida");
    cluster.nodes[third].wait_live("ida");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/ida/index.m3u8"));
    follow_on(&mut client, 4);
    assert_eq!((cluster.nodes[owner].transcoders().len(), cluster.nodes[standby].transcoders().len()), (1, 0));
    cluster.nodes[owner].crash();
    wait_owner(&cluster, third, "ida", standby);
    follow_on(&mut client, 6);
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

#[test]
fn a_standby_is_lost_and_nothing_is_seen() {
    let mut cluster = Cluster::start(&["ladder=[{height=90,bitrate_kbps=100}]"]);
    let [owner, standby, third] = places("fay");
    let mut publisher = cluster.publish(owner, "fay");
    cluster.nodes[owner].wait_live("fay");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/fay/index.m3u8"));
    follow_on(&mut client, 4);
    cluster.nodes[standby].crash();
    follow_on(&mut client, 4);
    assert!(client.renditions.values().all(|seen| seen.last.segments.iter().all(|s| s.uri.ends_with(".1.m4s"))));
    assert_whole(&client);
    assert!(publisher.running(), "{}", publisher.log());
    publisher.kill();
}

#[test]
fn publisher_and_owner_are_lost_for_good_and_the_broadcast_ends_well() {
    let mut cluster = Cluster::start(&["live.reconnect_window=4s"]);
    let [owner, standby, third] = places("gil");
    let publisher = cluster.publish(owner, "gil");
    let live = cluster.nodes[third].wait_live("gil");
    let mut client = hls::Client::open(&cluster.nodes[third].url("/hls/gil/index.m3u8"));
    follow_on(&mut client, 4);
    cluster.nodes[owner].crash();
    drop(publisher);
    // Nobody tells the standby: it finds out.
    wait_owner(&cluster, third, "gil", standby);
    let path = format!("/hls/gil/{}/source/index.m3u8", live["broadcast"].as_str().unwrap());
    let list = wait("its end", secs(20), || hls::playlist(&cluster.nodes[third].url(&path)).filter(|list| list.vod));
    let media: Vec<_> = list.segments.iter().filter(|segment| !segment.gap).map(|segment| segment.k).collect();
    let seen: Vec<_> = client.renditions["source"].media().map(|seen| seen.listed.k).collect();
    assert!(seen.iter().all(|k| media.contains(k)), "viewers saw {seen:?}, kept are {media:?}");
    for segment in list.segments.iter().filter(|segment| !segment.gap) {
        assert_eq!(support::get(&segment.uri).status, 200, "{}", segment.uri);
    }
}

#[test]
fn a_viewer_at_low_latency_sees_no_stall_when_the_owner_is_killed() {
    let mut cluster = Cluster::start_in(&["live.chunk=2s"], alone());
    let [owner, standby, third] = places("hal");
    let publisher =
        Publisher::test_picture(&cluster.nodes[third], "hal", "320x180", 30, "-g 60 -b:v 300k", "-b:a 64k", 300);
    cluster.nodes[third].wait_stream("hal", "some chunks on", |s| s["k"].as_u64() >= Some(4));
    let page = Page::open(&cluster.nodes[third].url("/watch/hal"), Mode::LowLatency, secs(24));
    cluster.nodes[owner].crash();
    wait_owner(&cluster, third, "hal", standby);
    let report = page.report();
    println!("{report}");
    assert!(report["stalls"].as_u64() <= Some(1) && report["stallMs"].as_f64() <= Some(500.0), "{report}");
    publisher.kill();
}
