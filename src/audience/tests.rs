//! The counts against the truth: viewers that come, go, move and are not heard, at nodes that stop and start again, in virtual time.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{share::Told, *};
use crate::store::AudienceSpan;

const SECOND: Duration = Duration::from_secs(1);

struct Shows;

impl Streams for Shows {
    fn current(&self, _: &StreamId) -> Option<(BroadcastId, Offered)> {
        Some((broadcast(), vec![("720p".parse().unwrap(), 2400), ("360p".parse().unwrap(), 700)]))
    }
}

fn broadcast() -> BroadcastId {
    BroadcastId::first_at(UnixMs(1_764_360_000_000))
}

fn subject() -> Subject {
    Subject { stream: "alice".parse().unwrap(), broadcast: broadcast(), live: true }
}

fn node(name: &str, run: u32, limits: Limits) -> Arc<Audience> {
    Audience::new(Config {
        node: name.to_owned(),
        process: format!("run-{run}"),
        limits,
        reports_max: 1_000_000,
        shares: true,
        knows_all: true,
        secret: Secret::new("a secret of the nodes"),
    })
}

const PLENTY: Limits = Limits { sessions: 1 << 20, per_address: 1000, crowds: 100 };

/// One node of the simulation; none while it is down.
struct Node {
    name: String,
    up: Option<Arc<Audience>>,
    runs: u32,
    rows: Vec<(StreamId, AudienceRow)>,
}

impl Node {
    fn start(&mut self) {
        self.runs += 1;
        self.up = Some(node(&self.name, self.runs, PLENTY));
    }
}

struct Viewer {
    number: u32,
    node: usize,
    next_s: u64,
    sn: u32,
    leaves_s: u64,
    is_silent: bool,
}

impl Viewer {
    /// Sends a report to its node, or to another where that is down; some are lost.
    fn report(&mut self, at_s: u64, nodes: &[Node], state: &str, random: &mut StdRng) {
        while nodes[self.node].up.is_none() {
            self.node = random.random_range(0..nodes.len());
        }
        let ts = 1_764_360_000_000 + at_s * 1000;
        let text =
            format!(r#"br=(2400),cid="alice",e=t,sid="viewer-{}",sn={},sta={state},ts={ts},v=2"#, self.number, self.sn);
        self.sn += 1;
        if random.random_bool(0.02) {
            return;
        }
        hear(nodes[self.node].up.as_ref().unwrap(), at_s, &text, self.number);
    }
}

fn time(at_s: u64) -> Timestamp {
    // Later than any age that is told.
    Timestamp::default() + SECOND * (1000 + at_s) as u32
}

fn tick(audience: &Audience, at_s: u64) -> Vec<(StreamId, AudienceRow)> {
    let wall = UnixMs(1_764_360_000_000 + at_s as i64 * 1000);
    futures::executor::block_on(audience.tick(time(at_s), wall, &Shows))
}

fn hear(audience: &Audience, at_s: u64, text: &str, address: u32) -> Heard {
    let report = cmcd::Report::parse(text).unwrap();
    let crowd = audience.learn(time(at_s), "alice", &subject(), Shows.current(&subject().stream).unwrap().1).unwrap();
    let address = IpAddr::from(std::net::Ipv4Addr::from(address));
    audience.hear(time(at_s), &crowd, &report, Who { ticket: None, address, agent: b"player" })
}

fn count(audience: &Audience) -> u64 {
    audience.table.find(&subject()).map_or(0, |crowd| crowd.viewers())
}

#[test]
fn counts_are_near_the_truth_whatever_nodes_and_reports_do() {
    // `AUDIENCE_VIEWERS=250000 cargo test --release --lib audience::` for a crowd.
    let viewers: usize = std::env::var("AUDIENCE_VIEWERS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let (length_s, mean_view_s) = (480_u64, 1800.0);
    let mut random = StdRng::seed_from_u64(9);
    let mut nodes: Vec<Node> =
        (0..4).map(|n| Node { name: format!("n{n}"), up: None, runs: 0, rows: Vec::new() }).collect();
    nodes.iter_mut().for_each(Node::start);
    let mut crowd: Vec<Viewer> = Vec::new();
    let (mut came, mut watched_s, mut joined) = (0_u32, 0_u64, 0_u64);
    let (mut worst, mut peak) = (0.0_f64, 0);
    // Which process of which node has told all to which of another.
    let mut told = std::collections::BTreeSet::new();
    for at in 0..length_s {
        // All come within the first minute; then as many as go.
        let coming = if at < 60 { viewers / 60 } else { (viewers as f64 / mean_view_s).round() as usize };
        for _ in 0..coming {
            let lasts = -(1.0 - random.random::<f64>()).ln() * mean_view_s;
            let mut viewer = Viewer {
                number: came,
                node: random.random_range(0..4),
                next_s: at + random.random_range(25..=35),
                sn: 0,
                leaves_s: at + 1 + lasts as u64,
                is_silent: random.random_bool(0.05),
            };
            came += 1;
            // A player tells several times at once that it begins.
            for _ in 0..3 {
                viewer.report(at, &nodes, "p", &mut random);
            }
            joined += 1;
            crowd.push(viewer);
        }
        let mut staying = Vec::with_capacity(crowd.len());
        for mut viewer in crowd.drain(..) {
            if viewer.leaves_s <= at {
                if !viewer.is_silent {
                    viewer.report(at, &nodes, "q", &mut random);
                }
                continue;
            }
            if viewer.next_s <= at {
                viewer.report(at, &nodes, "p", &mut random);
                viewer.next_s = at + random.random_range(25..=35);
                // Some are sent elsewhere by whatever balances them.
                if random.random_bool(0.05) {
                    viewer.node = random.random_range(0..4);
                }
            }
            staying.push(viewer);
        }
        crowd = staying;
        watched_s += crowd.len() as u64;
        // Each node is lost once without a word, for 10 s; the others go on.
        for (n, node) in nodes.iter_mut().enumerate() {
            match at {
                _ if at == 120 + 80 * n as u64 => node.up = None,
                _ if at == 130 + 80 * n as u64 => node.start(),
                _ => {}
            }
        }
        for n in 0..4 {
            let Some(from) = nodes[n].up.clone() else { continue };
            let news = from.table.news(time(at));
            for other in nodes.iter().filter(|other| other.name != from.node()) {
                let Some(to) = &other.up else { continue };
                let is_new = told.insert((
                    from.node().to_owned(),
                    from.process().to_owned(),
                    to.node().to_owned(),
                    to.process().to_owned(),
                ));
                let all = if is_new { from.all_for(time(at), Some(&other.name)) } else { Vec::new() };
                for crowds in news.iter().chain(&all) {
                    to.take(time(at), &Told { node: from.node().into(), crowds: crowds.clone(), ..Told::default() });
                }
            }
        }
        for node in &mut nodes {
            if let Some(up) = &node.up {
                node.rows.extend(tick(up, at));
            }
        }
        if at >= 90 {
            let counts: Vec<u64> = nodes.iter().filter_map(|node| Some(count(node.up.as_ref()?))).collect();
            for count in &counts {
                let error = (*count as f64 / crowd.len() as f64 - 1.0).abs();
                assert!(error < 0.01, "after {at} s: {counts:?} of {}", crowd.len());
                worst = worst.max(error);
                peak = peak.max(crowd.len());
            }
        }
    }
    // What all rows say together, each in its last form. A node that was lost has written all but its last seconds.
    let mut rows = std::collections::BTreeMap::new();
    for node in &mut nodes {
        let last = node.up.as_ref().unwrap().last_rows(UnixMs(1_764_360_000_000 + length_s as i64 * 1000));
        node.rows.extend(last);
        for (_, row) in node.rows.drain(..) {
            rows.insert((row.span, row.at, row.part.clone()), row);
        }
    }
    let rows: Vec<_> = rows.into_values().collect();
    let total = history::total(&rows, None, false, length_s as i64 * 1000).unwrap();
    let near = |found: f64, truth: f64, part: f64| assert!((found / truth - 1.0).abs() < part, "{found} of {truth}");
    near(total.uniques as f64, f64::from(came), 0.02);
    near(total.peak as f64, peak as f64, 0.01);
    near(total.joins as f64, joined as f64, 0.02);
    // A whole is written each minute, and four nodes were lost.
    let minutes: Vec<_> = rows.iter().filter(|row| row.span == AudienceSpan::Minute).cloned().collect();
    let scale = history::Scale::of(UnixMs(1_764_360_000_000), UnixMs(1_764_360_000_000 + length_s as i64 * 1000), 1000);
    let series = history::series(&minutes, &scale, false, UnixMs(i64::MAX / 2));
    // A node that is lost takes with it what it counted since it wrote last, and its viewers' time until they report elsewhere.
    near(series.iter().map(|point| point.minutes).sum::<f64>(), watched_s as f64 / 60.0, 0.06);
    println!("{viewers} viewers: worst {:.2} %, uniques {} of {came}", worst * 100.0, total.uniques);
}

#[test]
fn a_session_is_heard_through_its_life() {
    let audience = node("n", 1, PLENTY);
    let say = |at_s: u64, more: &str| hear(&audience, at_s, &format!(r#"cid="alice",sid="s",v=2,{more}"#), 1);
    let tally = || audience.table.find(&subject()).unwrap().whole().tally;
    assert_eq!(say(0, "e=ps,sta=d,sn=0,ts=1000"), Heard::Counted);
    assert_eq!((count(&audience), tally().joins), (0, 0));
    say(1, "e=ps,sta=s,sn=1,ts=2000");
    say(2, "e=ps,sta=p,sn=2,ts=2700,br=(2300)");
    assert_eq!((count(&audience), tally().joins, tally().startups.quantile(0.5)), (1, 1, Some(651)));
    // The same again changes nothing; a halt is timed by the player's clock.
    say(3, "e=ps,sta=r,sn=3,ts=10000");
    assert_eq!(say(3, "e=ps,sta=r,sn=3,ts=10000"), Heard::Twice);
    say(4, "e=ps,sta=p,sn=4,ts=10500");
    assert_eq!((tally().stalls, tally().stalls_ms), (1, 500));
    say(5, "e=e,sta=p,sn=5,ts=11000,ec=(\"bufferStalledError\")");
    assert_eq!(tally().errors.get("bufferStalledError"), Some(&1));
    // A player begins its numbers anew.
    assert_eq!(say(6, "e=t,sta=a,sn=0,ts=12000"), Heard::Counted);
    assert_eq!((count(&audience), audience.table.find(&subject()).unwrap().now(time(6)).paused), (0, 1));
    say(7, "e=t,sta=p,sn=1,ts=13000,weir-rendition=\"360p\"");
    let now = audience.table.find(&subject()).unwrap().now(time(7));
    assert_eq!(now.renditions, [("360p".parse().unwrap(), 1)]);
    // Requests for media carry what was, under numbers of their own.
    say(7, "br=(2300),bs,sta=r,sn=900");
    assert_eq!((say(7, "e=t,sta=p,sn=2,ts=13000"), tally().stalls), (Heard::Counted, 1));
    say(8, "e=ps,sta=q,sn=3,ts=14000");
    say(8, "br=(2300),sta=p,sn=901");
    assert_eq!((count(&audience), audience.table.len()), (0, 1));
    tick(&audience, 200);
    assert!(audience.table.is_empty());
    assert_eq!(tally().joins, 1);
}

#[test]
fn counts_of_a_player_are_taken_as_they_rise() {
    let audience = node("n", 1, PLENTY);
    let say =
        |sid: &str, more: &str| hear(&audience, 0, &format!(r#"cid="alice",e=t,sta=p,sid="{sid}",v=2,{more}"#), 1);
    let tally = || audience.table.find(&subject()).unwrap().whole().tally;
    say("new", "bsa=(1),bsda=(200),dfa=3,sn=0,ts=1,msd=900");
    say("new", "bsa=(3),bsda=(900),dfa=3,sn=1,ts=2,msd=900");
    assert_eq!((tally().stalls, tally().stalls_ms, tally().dropped), (3, 900, 3));
    assert_eq!(tally().startups.quantile(1.0), Some(813));
    // One that was there before this process: what it counted before was counted before.
    say("old", "bsa=(50),bsda=(9000),sn=77,ts=1");
    say("old", "bsa=(51),bsda=(9100),sn=78,ts=2");
    assert_eq!((tally().stalls, tally().stalls_ms, tally().joins), (4, 1000, 1));
    assert_eq!(count(&audience), 2);
}

#[test]
fn made_up_viewers_are_bounded() {
    let limits = Limits { sessions: 500, per_address: 20, crowds: 3 };
    let audience = node("n", 1, limits);
    let mut heard = std::collections::BTreeMap::new();
    for n in 0..100_000_u32 {
        let text = format!(r#"cid="alice",e=t,sta=p,sid="fake-{n}",sn=0,ts={}"#, u64::MAX - u64::from(n));
        *heard.entry(format!("{:?}", hear(&audience, 0, &text, n % 2))).or_insert(0) += 1;
    }
    assert_eq!((heard["Counted"], heard["Crowded"]), (40, 99_960));
    for n in 0..1000 {
        hear(&audience, 0, &format!(r#"cid="alice",e=t,sta=p,sid="other-{n}""#), 1000 + n);
    }
    assert_eq!((audience.table.len(), count(&audience)), (500, 500));
    for stream in ["b", "c", "d"] {
        let subject = Subject { stream: stream.parse().unwrap(), ..subject() };
        assert_eq!(audience.learn(time(0), stream, &subject, Vec::new()).is_some(), stream != "d");
    }
    // All are gone when they say nothing more.
    tick(&audience, 100);
    assert_eq!((audience.table.len(), count(&audience)), (0, 0));
    assert_eq!(hear(&audience, 101, r#"cid="alice",e=t,sta=p,sid="real""#, 0), Heard::Counted);
}

#[test]
fn players_are_asked_to_report_less_often_under_load() {
    let audience = Audience::new(Config { reports_max: 100, ..node("n", 1, PLENTY).config.clone() });
    for at in 0..12 {
        for n in 0..400 {
            hear(&audience, at, &format!(r#"cid="alice",e=t,sta=p,sid="v{n}",sn={at},ts={at}"#), n);
        }
        tick(&audience, at);
    }
    let beat = audience.wished_beat().unwrap().as_secs();
    assert!((110..=250).contains(&beat), "{beat}");
    // Whoever was told so is waited for as long.
    let pass = |at: u64| _ = tick(&audience, at);
    (13..60).for_each(pass);
    assert_eq!(audience.wished_beat(), None);
    pass(12 + beat * 2);
    assert_eq!(count(&audience), 400);
    pass(12 + beat * 3);
    assert_eq!(count(&audience), 0);
}

#[test]
fn an_estimate_follows_the_requests() {
    let audience = node("n", 1, PLENTY);
    hear(&audience, 0, r#"cid="alice",e=t,sta=p,sid="s",sn=0,ts=1"#, 1);
    let crowd = audience.table.find(&subject()).unwrap();
    for at in 0..60 {
        // Twelve players of parts, and thirty that ask for each chunk of two seconds.
        (0..36).for_each(|_| crowd.hit(false, Duration::from_millis(1000) / 3));
        (0..15).for_each(|_| crowd.hit(false, Duration::from_secs(2)));
        (0..36).for_each(|_| crowd.hit(true, Duration::from_millis(333)));
        tick(&audience, at);
    }
    assert!((40..=44).contains(&crowd.now(time(60)).sums.estimate), "{}", crowd.now(time(60)).sums.estimate);
}
