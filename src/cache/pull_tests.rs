//! The rules of the cache against sources that misbehave, in a runtime whose time is simulated.

use std::{future::poll_fn, sync::Mutex};

use futures::{FutureExt, StreamExt};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const D: Duration = Duration::from_secs(2);

/// How a source answers one request.
#[derive(Clone)]
struct Behaviour {
    /// Milliseconds until the head or the failure.
    head_ms: u64,
    failure: Option<Why>,
    len: usize,
    max_age: Option<u64>,
    /// Milliseconds between two of the pieces, and bytes of each.
    pace: (u64, usize),
    /// It breaks off (or ends) after so many bytes of the object.
    until: usize,
    broken: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        let (head_ms, len, pace) = (10, 100_000, (1, 16_000));
        Self { head_ms, failure: None, len, max_age: None, pace, until: usize::MAX, broken: true }
    }
}

type Script = dyn Fn(usize, &str, usize) -> Behaviour + Send + Sync;

/// A source that does as it is told, and remembers what it was asked: upstream, path, from.
struct Fake {
    asked: Mutex<Vec<(usize, String, usize)>>,
    script: Box<Script>,
}

impl Fake {
    fn new(script: impl Fn(usize, &str, usize) -> Behaviour + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { asked: Mutex::default(), script: Box::new(script) })
    }

    fn asked(&self) -> Vec<(usize, String, usize)> {
        self.asked.lock().unwrap().clone()
    }
}

/// The bytes of an object, which follow from its name: a pattern of 251 bytes, so that no piece looks like another.
fn content(path: &str, range: std::ops::Range<usize>) -> Bytes {
    let seed = path.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let pattern: Vec<u8> = (0..251_u8).map(|at| at.wrapping_mul(seed | 1)).collect();
    let skip = range.start % pattern.len();
    let mut bytes = pattern.repeat((skip + range.len()).div_ceil(pattern.len()));
    bytes.truncate(skip + range.len());
    Bytes::from(bytes).slice(skip..)
}

impl Source for Fake {
    fn fetch(&self, upstream: usize, way: Way, path: &str, from: usize) -> BoxFuture<'static, Result<Answer, Failure>> {
        let count = {
            let mut asked = self.asked.lock().unwrap();
            let by = if way == Way::Detour { "by detour " } else { "" };
            asked.push((upstream, format!("{by}{path}"), from));
            asked.len()
        };
        let (behaviour, path) = ((self.script)(upstream, path, count), path.to_owned());
        async move {
            tokio::time::sleep(Duration::from_millis(behaviour.head_ms)).await;
            if let Some(why) = behaviour.failure {
                return Err(Failure::new(why, "as told"));
            }
            let head = Head {
                content_type: HeaderValue::from_static("video/mp4"),
                cache_control: HeaderValue::from_static("public"),
                len: behaviour.len,
                fresh: behaviour.max_age.map(Duration::from_secs),
            };
            let body = futures::stream::unfold(from, move |at| {
                let (behaviour, path) = (behaviour.clone(), path.clone());
                async move {
                    if at >= behaviour.len {
                        return None;
                    }
                    tokio::time::sleep(Duration::from_millis(behaviour.pace.0)).await;
                    let end = (at + behaviour.pace.1).min(behaviour.len).min(behaviour.until);
                    if at >= end {
                        let broken = Err(Failure::new(Why::Broken, "broke off"));
                        return behaviour.broken.then_some((broken, behaviour.len));
                    }
                    Some((Ok(content(&path, at..end)), end))
                }
            });
            Ok(Answer { head, body: body.boxed() })
        }
        .boxed()
    }
}

fn limits() -> Limits {
    Limits { memory: 64 << 20, waiters: 20_000, fills: 256, chunk: D }
}

fn cache(source: &Arc<Fake>, upstreams: usize, limits: Limits) -> Cache {
    let cache = Cache::new(source.clone(), upstreams, limits);
    (0..upstreams).for_each(|upstream| _ = cache.set_alive(upstream, true));
    cache
}

fn chunk(k: u64) -> Object {
    Object::parse(&format!("alice/01b/source/{k}.1.m4s"), None).unwrap()
}

fn playlist(query: &str) -> Object {
    Object::parse("alice/01b/source/index.m3u8", Some(query)).unwrap()
}

/// Reads all of it, from `at` on.
async fn read(mut reading: Reading, mut at: usize) -> Result<Vec<u8>, Failure> {
    reading.head().await?;
    let mut all = Vec::new();
    while let Some(bytes) = poll_fn(|cx| reading.poll_bytes(cx, at)).await {
        let bytes = bytes?;
        at += bytes.len();
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

async fn fetch(cache: &Cache, object: &Object) -> Result<Vec<u8>, Failure> {
    read(cache.get(object, Way::Straight)?, 0).await
}

/// Many viewers at once; what each got.
async fn crowd(cache: &Cache, object: &Object, viewers: usize) -> Vec<Result<Vec<u8>, Failure>> {
    let all = (0..viewers).map(|_| {
        let (cache, object) = (cache.clone(), object.clone());
        tokio::spawn(async move { fetch(&cache, &object).await })
    });
    futures::future::join_all(all.collect::<Vec<_>>()).await.into_iter().map(|got| got.expect("no panic")).collect()
}

fn is_whole(got: &Result<Vec<u8>, Failure>, object: &Object, len: usize) -> bool {
    got.as_ref().is_ok_and(|bytes| *bytes == content(&object.to_string(), 0..len))
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_viewers_cost_one_request_and_no_time() {
    let source = Fake::new(|_, _, _| Behaviour { head_ms: 300, ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    let begun = now();
    let got = crowd(&cache, &chunk(1), 10_000).await;
    assert!(now() - begun <= Duration::from_millis(310), "{:?}", now() - begun);
    assert!(got.iter().all(|got| is_whole(got, &chunk(1), 100_000)));
    assert_eq!(source.asked().len(), 1);
    // From memory now, also an hour later.
    pause(3_600_000).await;
    assert!(is_whole(&fetch(&cache, &chunk(1)).await, &chunk(1), 100_000));
    assert_eq!(source.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_cancels_nothing() {
    let source = Fake::new(|_, _, _| Behaviour { head_ms: 300, ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    drop(cache.get(&chunk(1), Way::Straight).unwrap());
    pause(100).await;
    let got = crowd(&cache, &chunk(1), 5).await;
    assert!(got.iter().all(|got| is_whole(got, &chunk(1), 100_000)));
    assert_eq!(source.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_reach_the_waiters_while_they_arrive_from_any_place() {
    let source = Fake::new(|_, _, _| Behaviour { pace: (100, 10_000), ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    let begun = now();
    let mut early = cache.get(&chunk(1), Way::Straight).unwrap();
    poll_fn(|cx| early.poll_bytes(cx, 0)).await.unwrap().unwrap();
    assert_eq!((now() - begun).as_millis(), 110);
    // A range that begins in what is there, and one that begins in what is not.
    let late = cache.get(&chunk(1), Way::Straight).unwrap();
    let mut far = cache.get(&chunk(1), Way::Straight).unwrap();
    assert_eq!(far.head().await.unwrap().len, 100_000, "known before the rest is there (HEAD)");
    poll_fn(|cx| far.poll_bytes(cx, 75_000)).await.unwrap().unwrap();
    assert_eq!((now() - begun).as_millis(), 810);
    assert_eq!(read(late, 5_000).await.unwrap(), content(&chunk(1).to_string(), 5_000..100_000));
    assert_eq!(source.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_dies_in_the_middle_is_continued_by_range() {
    let source = Fake::new(|upstream, _, _| match upstream {
        0 => Behaviour { until: 40_000, ..Behaviour::default() },
        _ => Behaviour::default(),
    });
    let cache = cache(&source, 2, limits());
    let got = crowd(&cache, &chunk(1), 50).await;
    assert!(got.iter().all(|got| is_whole(got, &chunk(1), 100_000)), "waiters keep their bytes");
    let path = chunk(1).to_string();
    assert_eq!(source.asked(), [(0, path.clone(), 0), (1, path, 40_000)]);
    // Who had it last is asked first.
    fetch(&cache, &chunk(2)).await.unwrap();
    assert_eq!(source.asked()[2].0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_short_body_is_never_kept() {
    let source = Fake::new(|_, _, _| Behaviour { until: 40_000, broken: false, ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    assert_eq!(fetch(&cache, &chunk(1)).await.unwrap_err().why, Why::Broken);
    assert_eq!(source.asked().len(), 2, "asked for the rest, once");
    assert_eq!(cache.shared.kept.len(), 0);
    pause(600).await;
    assert!(fetch(&cache, &chunk(1)).await.is_err());
    assert_eq!(source.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_is_hedged_and_a_stuck_one_replaced_once() {
    let source = Fake::new(|upstream, _, _| Behaviour { head_ms: [60_000, 50][upstream], ..Behaviour::default() });
    let hedged = cache(&source, 2, limits());
    let begun = now();
    assert!(crowd(&hedged, &chunk(1), 100).await.iter().all(|got| is_whole(got, &chunk(1), 100_000)));
    assert!(now() - begun < D / 4 + Duration::from_millis(70), "{:?}", now() - begun);
    assert_eq!(source.asked().len(), 2);

    let source = Fake::new(|_, _, count| Behaviour { head_ms: [60_000, 50][count - 1], ..Behaviour::default() });
    let replaced = cache(&source, 1, limits());
    let begun = now();
    assert!(crowd(&replaced, &chunk(1), 100).await.iter().all(|got| is_whole(got, &chunk(1), 100_000)));
    assert!(now() - begun < D + Duration::from_millis(70), "{:?}", now() - begun);
    assert_eq!(source.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_gone_is_left_at_once() {
    let source = Fake::new(|upstream, _, _| Behaviour { head_ms: [60_000, 50][upstream], ..Behaviour::default() });
    let cache = cache(&source, 2, limits());
    // A reload may be held for long by right: only the link tells that nothing will come.
    let reload = playlist("_HLS_msn=5&_HLS_part=1");
    let waiting = tokio::spawn({
        let cache = cache.clone();
        async move { fetch(&cache, &reload).await }
    });
    pause(200).await;
    assert!(cache.set_alive(0, false) && !cache.set_alive(0, false));
    let begun = now();
    assert!(waiting.await.unwrap().is_ok());
    assert!(now() - begun < Duration::from_millis(70));
    // As long as it is gone nobody begins there, though it had something last.
    fetch(&cache, &chunk(1)).await.unwrap();
    assert_eq!(source.asked()[2].0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_and_forgotten_soon() {
    let source = Fake::new(|_, _, _| Behaviour { failure: Some(Why::Unavailable), ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    for round in 1..=3 {
        let got = crowd(&cache, &chunk(1), 500).await;
        assert!(got.iter().all(|got| got.as_ref().unwrap_err().why == Why::Unavailable));
        assert_eq!(source.asked().len(), round);
        // Not asked again for a tenth of a second at least, and after half a second at most.
        pause(50).await;
        assert!(fetch(&cache, &chunk(1)).await.is_err());
        assert_eq!(source.asked().len(), round);
        pause(500).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_on_what_is_not_there_costs_one_request_per_name_and_second() {
    let source = Fake::new(|_, _, _| Behaviour { failure: Some(Why::NotFound), ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    let got = crowd(&cache, &chunk(1), 10_000).await;
    assert!(got.iter().all(|got| got.as_ref().unwrap_err().why == Why::NotFound));
    assert_eq!(source.asked().len(), 1);
    // Many names at once: no more than may be on their way, the others are told to come again.
    let all: Vec<_> = (0..5000).map(|k| cache.get(&chunk(1000 + k), Way::Straight)).collect();
    let busy = all.iter().filter(|got| got.as_ref().is_err_and(|failure| failure.why == Why::Busy)).count();
    assert_eq!((all.len() - busy, busy), (256, 5000 - 256));
    pause(100).await;
    assert_eq!(source.asked().len(), 257);
    assert!(cache.shared.flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_asked_for_once() {
    let source = Fake::new(|_, _, _| Behaviour { head_ms: 5_500, max_age: Some(12), ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    let held = crowd(&cache, &playlist("_HLS_msn=5&_HLS_part=1"), 1000).await;
    assert!(held.iter().all(Result::is_ok));
    assert_eq!(source.asked().len(), 1);
    // A chunk that comes after the last that is listed may be held too.
    let listed = Fake::new(|_, path, _| match path.ends_with("m3u8") {
        true => Behaviour { len: 0, max_age: Some(1), ..Behaviour::default() },
        false => Behaviour { head_ms: 2_500, ..Behaviour::default() },
    });
    let cache = super::tests::cache(&listed, 1, limits());
    cache.shared.known.insert("01b".parse().unwrap(), Known { newest: 7, target: 2, ended: false });
    assert!(fetch(&cache, &chunk(8)).await.is_ok());
    assert_eq!(listed.asked().len(), 1);
    assert_eq!(fetch(&cache, &chunk(7)).await.unwrap_err().why, Why::Late, "it is listed, so it should be there");
}

#[tokio::test(start_paused = true)]
async fn only_what_is_ours_in_a_query_makes_another_object() {
    let source = Fake::new(|_, _, _| Behaviour { len: 50, max_age: Some(12), ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    for query in
        ["", "r=0.1", "r=0.2&_HLS_nothing=1", "_HLS_msn=5&x=1", "x=2&_HLS_msn=5", "_HLS_msn=6", "_HLS_skip=YES"]
    {
        cache.get(&playlist(query), Way::Straight).unwrap().done().await.unwrap();
    }
    assert_eq!(source.asked().len(), 4, "{:?}", source.asked());
}

#[tokio::test(start_paused = true)]
async fn a_playlist_counts_as_long_as_it_says() {
    let source = Fake::new(|_, _, _| Behaviour { len: 50, max_age: Some(1), ..Behaviour::default() });
    let cache = cache(&source, 1, limits());
    for (ms, requests) in [(0, 1), (900, 1), (200, 2)] {
        pause(ms).await;
        let done = cache.get(&playlist(""), Way::Straight).unwrap().done().await.unwrap();
        assert!(done.text.is_some());
        assert_eq!(source.asked().len(), requests);
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_and_bytes_are_bounded() {
    let source = Fake::new(|_, _, _| Behaviour { head_ms: 100, ..Behaviour::default() });
    let few = cache(&source, 1, Limits { waiters: 16, ..limits() });
    let mut all: Vec<_> = (0..20).map(|_| few.get(&chunk(1), Way::Straight)).collect();
    assert_eq!(all.iter().filter(|got| got.is_err()).count(), 4);
    // Whoever leaves makes room.
    all.truncate(10);
    assert!(few.get(&chunk(1), Way::Straight).is_ok());

    // Three objects on their way are more than there is room for; what is finished gives way to what comes.
    let source = Fake::new(|_, _, _| Behaviour { len: 600_000, pace: (1, 100_000), ..Behaviour::default() });
    let small = cache(&source, 1, Limits { memory: 4 << 20, ..limits() });
    let got: Vec<_> = futures::future::join_all((0..10).map(|k| {
        let small = small.clone();
        async move { fetch(&small, &chunk(k)).await }
    }))
    .await;
    let busy = got.iter().filter(|got| got.as_ref().is_err_and(|failure| failure.why == Why::Busy)).count();
    assert_eq!(busy, 4, "6 of 600 KB fit into 4 MiB");
    for k in 0..40 {
        fetch(&small, &chunk(k)).await.unwrap();
        assert!(small.shared.kept.weight() <= 4 << 20);
    }
    assert_eq!(small.shared.filling.load(Ordering::Relaxed), 0);
    assert_eq!(small.shared.waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn announcements_are_fetched_once_and_give_way_to_viewers() {
    let source = Fake::new(|_, _, _| Behaviour { head_ms: 300, ..Behaviour::default() });
    let cache = cache(&source, 1, Limits { fills: 8, ..limits() });
    (0..20).for_each(|k| cache.prefetch(&chunk(k)));
    assert_eq!(cache.shared.flights.len(), 4, "half of the fills are for viewers");
    assert!(is_whole(&fetch(&cache, &chunk(0)).await, &chunk(0), 100_000));
    assert_eq!(source.asked().len(), 4);
    let begun = now();
    assert!(is_whole(&fetch(&cache, &chunk(3)).await, &chunk(3), 100_000));
    assert_eq!(now() - begun, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_fails_its_waiters_and_nobody_else() {
    let source = Fake::new(|_, _, count| match count {
        1 => panic!("a fault of ours"),
        _ => Behaviour::default(),
    });
    let cache = cache(&source, 1, limits());
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let got = crowd(&cache, &chunk(1), 10).await;
    std::panic::set_hook(hook);
    assert!(got.iter().all(|got| got.as_ref().is_err_and(|failure| failure.why == Why::Broken)));
    assert!(is_whole(&fetch(&cache, &chunk(1)).await, &chunk(1), 100_000));
}

/// A live edge: 500 viewers fetch 30 chunks each as they come, from two upstreams of which one is bad in every way. Everyone
/// gets every byte, and the upstreams are asked little more often than once per object.
#[tokio::test(start_paused = true)]
async fn a_crowd_at_the_live_edge_does_not_notice_a_bad_upstream() {
    for seed in 0..3 {
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        let source = Fake::new(move |upstream, _, _| {
            let mut dice = dice.lock().unwrap();
            let good =
                Behaviour { head_ms: dice.random_range(5..60), len: 5_000, pace: (1, 800), ..Behaviour::default() };
            match (upstream, dice.random_range(0..5)) {
                (0, 0) => Behaviour { failure: Some(Why::Broken), ..good },
                (0, 1) => Behaviour { until: dice.random_range(0..5_000), ..good },
                (0, 2) => Behaviour { head_ms: 100_000, ..good },
                (0, 3) => Behaviour { until: dice.random_range(0..5_000), broken: false, ..good },
                _ => good,
            }
        });
        let (cache, begun) = (cache(&source, 2, limits()), now());
        let viewers = (0..500).map(|viewer| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for k in 0..30 {
                    let due = Duration::from_secs(2 * k) + Duration::from_millis(viewer % 400);
                    tokio::time::sleep(due.saturating_sub(now() - begun)).await;
                    let got = fetch(&cache, &chunk(k)).await;
                    assert!(is_whole(&got, &chunk(k), 5_000), "{k}: {:?}", got.map(|bytes| bytes.len()));
                }
            })
        });
        let all = futures::future::join_all(viewers.collect::<Vec<_>>()).await;
        assert!(all.into_iter().all(|viewer| viewer.is_ok()));
        assert!(source.asked().len() <= 60, "{} requests for 30 objects", source.asked().len());
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_by_detour_is_not_given_out_as_what_a_node_has() {
    let source = Fake::new(|upstream, _, _| Behaviour {
        failure: (upstream < 3).then_some(Why::NotFound),
        max_age: Some(60),
        ..Behaviour::default()
    });
    let cache = cache(&source, 6, limits());
    (0..2).for_each(|upstream| _ = cache.set_alive(upstream, false));
    let name = playlist("").to_string();
    let all = read(cache.get(&playlist(""), Way::Detour).unwrap(), 0).await.unwrap();
    assert_eq!(all.len(), 100_000);
    // Those that are gone are not asked, nor all of a large cluster.
    let by = |upstream| (upstream, format!("by detour {name}"), 0);
    assert_eq!(source.asked(), [by(2), by(3)]);
    assert!(cache.kept(&name).is_none());
    read(cache.get(&playlist(""), Way::Detour).unwrap(), 0).await.unwrap();
    assert_eq!(source.asked().len(), 2);
    fetch(&cache, &playlist("")).await.unwrap();
    assert!(cache.kept(&name).is_some());
    let asked = source.asked();
    assert!(asked[2..].iter().all(|(_, path, _)| *path == name), "{asked:?}");
    // A deleted broadcast's copies go, whichever way they came.
    cache.forget(&HashSet::from([&"01b".parse().unwrap()]));
    let before = source.asked().len();
    read(cache.get(&playlist(""), Way::Detour).unwrap(), 0).await.unwrap();
    assert!(source.asked().len() > before);
}
