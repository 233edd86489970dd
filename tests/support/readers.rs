//! Readers of a stream at every node, who look at all that they are shown and compare it.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use weir::time::{Timestamp, now};

use super::{Node, cluster::NAMES, get, hls, mp4, secs, wait};

/// What readers saw of a stream.
#[derive(Default)]
pub struct Seen {
    /// What counts of each number, and where it was from.
    pub chunks: BTreeMap<u64, (Vec<u8>, String)>,
    /// At each node: when each number was listed first, and whether as missing.
    at: BTreeMap<usize, Vec<(Timestamp, u64, bool)>>,
    /// At each node: when a playlist was refused, by status.
    refused: BTreeMap<usize, Vec<(Timestamp, u16)>>,
    pub wrong: Vec<String>,
}

/// See the module.
pub struct Readers {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Of one rendition, at each of the nodes.
    pub fn start(nodes: &[Node], stream: &str, broadcast: &str, rendition: &str) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let path = format!("/hls/{stream}/{broadcast}/{rendition}/index.m3u8");
        let read = |(place, node): (usize, &Node)| {
            let (url, seen, stop) = (node.url(&path), seen.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut newest = 0;
                while !stop.load(Ordering::Relaxed) {
                    read(&url, place, &mut newest, &seen);
                    std::thread::park_timeout(Duration::from_millis(100));
                }
            })
        };
        let threads = nodes.iter().enumerate().map(read).collect();
        Self { seen, stop, threads }
    }

    /// The newest number that was listed at a node.
    pub fn newest(&self, place: usize) -> u64 {
        let seen = self.seen.lock().unwrap();
        seen.at.get(&place).and_then(|at| at.last()).map_or(0, |(_, k, _)| *k)
    }

    /// Waits until so many chunks more are listed at a node.
    pub fn wait_more(&self, place: usize, more: u64) {
        let before = self.newest(place);
        wait("more chunks", secs(30), || (self.newest(place) >= before + more).then_some(()));
    }

    /// The longest time without a new chunk at a node since then, and the numbers that were listed as missing.
    pub fn worst(&self, place: usize, since: Timestamp) -> (Duration, Vec<u64>) {
        let seen = self.seen.lock().unwrap();
        let all = seen.at.get(&place).cloned().unwrap_or_default();
        let times: Vec<_> = all.iter().map(|(at, ..)| *at).chain([now()]).collect();
        let longest = times.windows(2).filter(|pair| pair[1] >= since).map(|pair| pair[1] - pair[0].max(since)).max();
        let gaps = all.iter().filter(|(at, _, gap)| *at >= since && *gap).map(|(_, k, _)| *k).collect();
        (longest.unwrap_or_default(), gaps)
    }

    /// How a node refused its readers since then.
    pub fn refused(&self, place: usize, since: Timestamp) -> Vec<u16> {
        let seen = self.seen.lock().unwrap();
        let all = seen.refused.get(&place).into_iter().flatten();
        all.filter(|(at, _)| *at >= since).map(|(_, status)| *status).collect()
    }

    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a reader");
        }
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Looks once at a playlist, and at what is new in it.
fn read(url: &str, place: usize, newest: &mut u64, seen: &Mutex<Seen>) {
    let answer = get(url);
    if answer.status != 200 {
        // One that is not there at all says nothing.
        if answer.status != 0 {
            seen.lock().unwrap().refused.entry(place).or_default().push((now(), answer.status));
        }
        return;
    }
    let list = hls::parse(url, &answer.text());
    let last = list.segments.last().map_or(0, |segment| segment.k);
    if last < *newest {
        let words = format!("{}: {newest} was listed, and now the list ends at {last}", NAMES[place]);
        seen.lock().unwrap().wrong.push(words);
    }
    let before = *newest;
    for segment in list.segments.iter().filter(|segment| segment.k > before || before == 0) {
        let stamp = now();
        if !segment.gap {
            let answer = get(&segment.uri);
            // Its node is gone since it listed this: the reader comes back with its next look.
            if answer.status == 0 {
                return;
            }
            if answer.status != 200 {
                let words = format!("{}: {} is {}", NAMES[place], segment.uri, answer.status);
                seen.lock().unwrap().wrong.push(words);
                continue;
            }
            let made = (what_counts(segment, answer.body), segment.uri.clone());
            let mut seen = seen.lock().unwrap();
            let known = seen.chunks.entry(segment.k).or_insert_with(|| made.clone()).clone();
            if known.0 != made.0 {
                for (bytes, uri) in [&known, &made] {
                    let name = uri.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                    let kept = std::env::temp_dir().join(name);
                    std::fs::write(kept, bytes).expect("the temporary folder");
                }
                seen.wrong.push(format!("{} and {} differ", known.1, made.1));
            }
        }
        seen.lock().unwrap().at.entry(place).or_default().push((stamp, segment.k, segment.gap));
        *newest = segment.k.max(*newest);
    }
    *newest = last.max(*newest);
}

/// What must be the same of a chunk wherever it is read: the bytes that the publisher has encoded; of others, which every node's
/// encoder makes for itself, the pictures and their times.
fn what_counts(segment: &hls::Segment, bytes: Vec<u8>) -> Vec<u8> {
    if ["/source/", "/audio/"].iter().any(|rendition| segment.uri.contains(rendition)) {
        return bytes;
    }
    let init = mp4::init(&get(segment.map.as_ref().expect("EXT-X-MAP")).body);
    let samples = mp4::media(&bytes, &init).samples;
    let times: Vec<_> = samples.iter().map(|s| (s.dts, s.pts, s.duration, s.idr)).collect();
    format!("{times:?}").into_bytes()
}

/// Compares what readers saw with what a node has of it once the publisher is gone for good.
pub fn assert_recorded(node: &Node, stream: &str, broadcast: &str, seen: &Seen) {
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    let url = node.url(&format!("/hls/{stream}/{broadcast}/source/index.m3u8?from=start"));
    let newest = *seen.chunks.keys().next_back().expect("something was shown");
    let whole = || hls::playlist(&url).filter(|list| list.segments.len() as u64 > newest);
    let list = wait("the whole broadcast", secs(60), whole);
    let ks: Vec<_> = list.segments.iter().map(|segment| segment.k).collect();
    assert!(ks[0] == 0 && ks.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ks:?}");
    let recorded: BTreeMap<_, _> = list.segments.iter().filter(|s| !s.gap).map(|s| (s.k, s.uri.clone())).collect();
    let lost: Vec<_> = seen.chunks.keys().filter(|k| !recorded.contains_key(k)).collect();
    let listed = |k: &u64| list.segments.iter().find(|segment| segment.k == *k).map(|s| (s.gap, s.uri.clone()));
    let shown = |k: &u64| seen.chunks.get(k).map(|(_, uri)| uri.clone());
    let lost: Vec<_> = lost.into_iter().map(|k| (k, shown(k), listed(k))).collect();
    assert!(lost.is_empty(), "were shown, and are not recorded: {lost:#?}");
}
