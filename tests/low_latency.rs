//! Low-latency HLS from real publishers: parts, blocking reloads, hints, reports, delta updates (rfc8216bis 4.4.4.9, 6.2.5,
//! 6.2.6).

mod support;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use support::{Answer, Node, Publisher, get, hls, secs, signal, wait};
use weir::time::now;

const SOURCE_ONLY: &str = "ladder=[]";
const VIDEO: &str = "-g 60 -b:v 300k";

#[derive(Debug, Clone, PartialEq)]
struct Part {
    uri: String,
    seconds: f64,
    independent: bool,
}

/// What a low-latency player reads beyond the chunks.
#[derive(Debug, Clone, Default)]
struct Listed {
    control: BTreeMap<String, String>,
    part_target: f64,
    sequence: u64,
    skipped: u64,
    /// URIs of the chunks, by number.
    chunks: BTreeMap<u64, String>,
    parts: BTreeMap<u64, Vec<Part>>,
    hint: Option<String>,
    reports: BTreeMap<String, (u64, Option<u64>)>,
    ended: bool,
}

impl Listed {
    fn parse(url: &str, text: &str) -> Self {
        let mut listed = Self::default();
        let mut next = 0;
        for line in text.lines() {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            let attributes = || hls::attributes(value);
            match tag {
                "#EXT-X-SERVER-CONTROL" => listed.control = attributes(),
                "#EXT-X-PART-INF" => listed.part_target = attributes()["PART-TARGET"].parse().unwrap(),
                "#EXT-X-MEDIA-SEQUENCE" => {
                    listed.sequence = value.parse().unwrap();
                    next = listed.sequence;
                }
                "#EXT-X-SKIP" => {
                    listed.skipped = attributes()["SKIPPED-SEGMENTS"].parse().unwrap();
                    next += listed.skipped;
                }
                "#EXT-X-PART" => {
                    let a = attributes();
                    let part = Part {
                        uri: hls::join(url, &a["URI"]),
                        seconds: a["DURATION"].parse().unwrap(),
                        independent: a.get("INDEPENDENT").is_some_and(|yes| yes == "YES"),
                    };
                    listed.parts.entry(next).or_default().push(part);
                }
                "#EXT-X-PRELOAD-HINT" => {
                    assert_eq!(attributes()["TYPE"], "PART");
                    assert!(listed.hint.replace(hls::join(url, &attributes()["URI"])).is_none(), "one hint");
                }
                "#EXT-X-RENDITION-REPORT" => {
                    let a = attributes();
                    let part = a.get("LAST-PART").map(|part| part.parse().unwrap());
                    listed.reports.insert(hls::join(url, &a["URI"]), (a["LAST-MSN"].parse().unwrap(), part));
                }
                "#EXT-X-ENDLIST" => listed.ended = true,
                _ if !line.starts_with('#') && !line.is_empty() => {
                    listed.chunks.insert(next, hls::join(url, line));
                    next += 1;
                }
                _ => {}
            }
        }
        listed
    }

    fn load(url: &str) -> Self {
        let answer = get(url);
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        Self::parse(url, &answer.text())
    }

    /// The next chunk and part that are not listed.
    fn next(&self) -> (u64, u64) {
        let next = self.chunks.keys().next_back().map_or(self.sequence, |k| k + 1);
        (next, self.parts.get(&next).map_or(0, |parts| parts.len() as u64))
    }
}

fn renditions(node: &Node, stream: &str) -> BTreeMap<String, String> {
    node.wait_live(stream);
    let client = hls::Client::open(&node.url(&format!("/hls/{stream}/index.m3u8")));
    client.names().into_iter().map(|name| (name.clone(), client.uri(&name).to_owned())).collect()
}

fn reload(url: &str, k: u64, part: u64) -> Answer {
    get(&format!("{url}?_HLS_msn={k}&_HLS_part={part}"))
}

#[test]
fn a_player_follows_every_rendition_part_by_part() {
    let node = Node::start(&["ladder=[{height=180,bitrate_kbps=200}]"]);
    let _publisher = Publisher::test_picture(&node, "alice", "640x360", 30, "-g 60 -bf 2 -b:v 600k", "-b:a 96k", 60);
    let renditions = renditions(&node, "alice");
    assert_eq!(renditions.keys().collect::<Vec<_>>(), ["180p", "audio", "source"]);
    std::thread::scope(|scope| {
        for (name, url) in &renditions {
            let others: Vec<_> = renditions.values().filter(|other| *other != url).collect();
            scope.spawn(move || follow(name, url, &others));
        }
    });
}

/// Asks for part after part over two chunks and more, and checks each rule on the way.
fn follow(name: &str, url: &str, others: &[&String]) {
    let mut listed = Listed::load(url);
    let target = listed.part_target;
    assert_eq!(listed.control["CAN-BLOCK-RELOAD"], "YES");
    assert_eq!(listed.control["CAN-SKIP-UNTIL"], "12.0");
    assert!((listed.control["PART-HOLD-BACK"].parse::<f64>().unwrap() - 3.0 * target).abs() < 0.0005);
    assert!((0.333..0.36).contains(&target), "{target}");
    let mut hints = BTreeMap::new();
    let first = listed.next().0 + 1;
    while listed.next().0 < first + 2 {
        let (k, part) = listed.next();
        // The hinted part is asked for before it is there, beside the playlist that lists it.
        let hint = listed.hint.clone().expect("a hint while the encoder sends");
        let hinted = std::thread::spawn({
            let hint = hint.clone();
            move || get(&hint)
        });
        let answer = reload(url, k, part);
        assert_eq!((answer.status, answer.header("cache-control")), (200, "public, max-age=12"));
        let before = std::mem::replace(&mut listed, Listed::parse(url, &answer.text()));
        assert!(listed.next() > (k, part), "{name}: asked for {k}.{part}, got {:?}", listed.next());
        assert_eq!(listed.part_target, target);
        let hinted = hinted.join().unwrap();
        assert_eq!((hinted.status, hinted.header("content-length")), (200, &*hinted.body.len().to_string()));
        let kept = listed.parts.values().flatten().any(|part| part.uri == hint);
        assert!(kept, "{name}: {hint} was hinted and is not listed");
        hints.insert(hint, hinted.body);
        // What was listed stays as it was.
        for (k, old) in &before.parts {
            let new = listed.parts.get(k).map_or(&[][..], |parts| parts);
            assert!(new.is_empty() || new.starts_with(old), "{name}: {old:?} became {new:?}");
        }
        let reported: Vec<_> = listed.reports.keys().collect();
        assert_eq!(
            reported,
            others.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
        for (msn, _) in listed.reports.values() {
            assert!(msn.abs_diff(k) <= 1, "{name} at {k}: {:?}", listed.reports);
        }
    }
    for k in first..first + 2 {
        let of = &listed.parts[&k];
        let bytes: Vec<_> = of.iter().map(|part| get(&part.uri).body).collect();
        assert!(of.iter().zip(&bytes).all(|(part, bytes)| hints.get(&part.uri).is_none_or(|hinted| hinted == bytes)));
        assert!(bytes.concat() == get(&listed.chunks[&k]).body, "{name}: chunk {k} is not its parts");
        assert_eq!(of.len(), 6, "{name}: {of:?}");
        assert!(of.iter().all(|part| part.seconds <= target), "{name}: {of:?}");
        assert!(of[..5].iter().all(|part| part.seconds >= 0.85 * target), "{name}: {of:?}");
        assert!(
            of.iter().enumerate().all(|(i, part)| part.independent == (i == 0 || name == "audio")),
            "{name}: {of:?}"
        );
    }
}

#[test]
fn reloads_follow_the_rules() {
    let node = Node::start(&[
        SOURCE_ONLY,
        "live.reconnect_window=3s",
        "rtmp.idle_timeout=60s",
        "live.chunk=1s",
        "live.window=10",
    ]);
    let publisher = Publisher::test_picture(&node, "bob", "320x180", 30, "-g 30 -b:v 200k", "-b:a 64k", 120);
    let url = renditions(&node, "bob")["source"].clone();
    let ask = |query: &str| get(&format!("{url}?{query}"));
    // The window is full, so that the first chunks have left it.
    let listed =
        wait("a window that slides", secs(30), || Some(Listed::load(&url)).filter(|listed| listed.sequence > 0));

    // Bad requests, at once.
    let (next, _) = listed.next();
    for query in ["_HLS_part=0", "_HLS_msn=x", "_HLS_msn=1&_HLS_part=-1", &format!("_HLS_msn={}", next + 9)] {
        let answer = ask(query);
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{query}");
    }
    assert_eq!(ask(&format!("_HLS_msn={next}&_HLS_part=99")).status, 400);
    // What left the window long ago is no reason to refuse: the whole playlist comes.
    let old = Listed::parse(&url, &ask("_HLS_msn=0&_HLS_part=0").text());
    assert!(old.sequence > 0 && old.next() >= listed.next());
    // Other parameters do not matter.
    assert_eq!(ask("session=7&_HLS_foo=1").status, 200);

    // A delta update says what the whole says.
    let (delta, whole) = wait("both of one version", secs(10), || {
        let (delta, whole) = (ask("_HLS_skip=YES").text(), get(&url).text());
        let same = |text: &str| text.rsplit_once("#EXTINF").map(|(_, rest)| rest.to_owned());
        (same(&delta) == same(&whole)).then_some((delta, whole))
    });
    let (delta, whole) = (Listed::parse(&url, &delta), Listed::parse(&url, &whole));
    assert!(delta.skipped >= 3, "{delta:?}");
    assert_eq!(delta.sequence, whole.sequence);
    let kept: BTreeMap<_, _> =
        whole.chunks.clone().into_iter().filter(|(k, _)| *k >= delta.sequence + delta.skipped).collect();
    assert_eq!((delta.chunks, &delta.parts), (kept, &whole.parts));

    // Parts: those listed are there, those never named are not.
    let (k, parts) = whole.parts.first_key_value().unwrap();
    assert_eq!(get(&parts[0].uri).status, 200);
    assert_eq!(get(&parts[0].uri).header("cache-control"), "public, max-age=31536000, immutable");
    let folder = url.strip_suffix("index.m3u8").unwrap();
    for name in [format!("{k}.1.99.m4s"), format!("{k}.7.0.m4s"), format!("{}.1.0.m4s", next + 30)] {
        assert_eq!(get(&format!("{folder}{name}")).status, 404, "{name}");
    }

    // An encoder that stands still: after three target durations of nothing new the player is told.
    signal(publisher.pid(), "STOP");
    let stuck = wait("the last part", secs(5), || {
        let (a, b) = (Listed::load(&url).next(), {
            std::thread::park_timeout(Duration::from_millis(700));
            Listed::load(&url)
        });
        (a == b.next()).then_some(b)
    });
    let (k, part) = stuck.next();
    let began = now();
    let answer = reload(&url, k, part);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    let held = now() - began;
    assert!(held >= Duration::from_millis(2990), "held for {held:?}");
    let hint = stuck.hint.clone().unwrap();
    assert_eq!(get(&hint).status, 404, "the hinted part does not come");

    // After the end nobody waits.
    publisher.kill();
    let ended = wait("the end", secs(15), || Some(Listed::load(&url)).filter(|listed| listed.ended));
    assert_eq!((ended.hint, ended.reports.len()), (None, 0));
    assert_eq!(ask("_HLS_msn=99999&_HLS_part=3").status, 200);
    assert!(Listed::parse(&url, &ask("_HLS_skip=YES").text()).skipped == 0);
}

/// Numbers that stay away while the encoder is gone are no reason to wait for parts of them.
#[test]
fn reloads_go_on_while_the_encoder_is_away() {
    let node = Node::start(&[SOURCE_ONLY, "live.chunk=1s", "live.reconnect_window=30s"]);
    let publisher = Publisher::test_picture(&node, "carol", "320x180", 30, "-g 30 -b:v 200k", "-b:a 64k", 120);
    let url = renditions(&node, "carol")["source"].clone();
    publisher.kill();
    node.wait_stream("carol", "away", |s| s["state"] == "away");
    let mut listed = Listed::load(&url);
    for _ in 0..3 {
        let (k, part) = listed.next();
        let answer = reload(&url, k, part);
        assert_eq!(answer.status, 200, "{k}.{part}: {}", answer.text());
        listed = Listed::parse(&url, &answer.text());
        assert!(listed.next().0 > k);
    }
    let _again = Publisher::test_picture(&node, "carol", "320x180", 30, "-g 30 -b:v 200k", "-b:a 64k", 120);
    wait("parts again", secs(15), || {
        let (k, part) = listed.next();
        let answer = reload(&url, k, part);
        assert!(matches!(answer.status, 200 | 503), "{k}.{part}: {}", answer.text());
        if answer.status == 200 {
            listed = Listed::parse(&url, &answer.text());
        }
        listed.parts.get(&listed.next().0).filter(|parts| parts.len() > 1).map(|_| ())
    });
}

#[test]
fn a_crowd_of_blocked_reloads_gets_one_answer() {
    const CROWD: usize = 400;
    let node = Node::start(&[SOURCE_ONLY, "live.part=1s"]);
    let _publisher = Publisher::test_picture(&node, "dora", "320x180", 30, VIDEO, "-b:a 64k", 60);
    let url = renditions(&node, "dora")["source"].clone();
    let (k, part) = Listed::load(&url).next();
    let fresh = Listed::parse(&url, &reload(&url, k, part).text());
    // Two parts of a second ahead: nobody is too late to wait.
    let (k, part) = fresh.next();
    let (k, part) = if part == 0 { (k, 1) } else { (k + 1, 0) };
    let parsed = url::Url::parse(&url).unwrap();
    let address = (parsed.host_str().unwrap(), parsed.port().unwrap());
    let request =
        format!("GET {}?_HLS_msn={k}&_HLS_part={part} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", parsed.path());
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
            socket
        })
        .collect();
    let bodies: std::collections::BTreeSet<String> = crowd
        .into_iter()
        .map(|mut socket| {
            let mut text = String::new();
            socket.set_read_timeout(Some(secs(10))).unwrap();
            socket.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            text.split_once("\r\n\r\n").unwrap().1.to_owned()
        })
        .collect();
    assert_eq!(bodies.len(), 1, "all were woken by one event and got one text");
    let listed = Listed::parse(&url, bodies.first().unwrap());
    assert!(listed.next() == (k, part + 1) || listed.next() == (k + 1, 0), "{:?}", listed.next());
    let metrics = get(&node.url("/metrics")).text();
    assert!(metrics.contains("weir_blocked_requests 0"), "{metrics}");
}
