use super::*;

const LIMITS: Limits =
    Limits { waiting: 3, bytes: 10_000, dead: 2, dead_bytes: 10_000, at_once: 2, retry_for: Duration::from_secs(60) };

fn queue() -> Queue {
    Queue::new(LIMITS, ["one".to_owned(), "two".to_owned()])
}

fn delivery(target: &str, event: &str, now: i64) -> Delivery {
    Delivery::new(target, Kind::StreamLive, event.into(), "{}".into(), UnixMs(now))
}

fn failed(why: &str) -> Outcome {
    Outcome::Failed { why: why.into(), asked: None }
}

/// The ids under way after everything that is due was begun.
fn begun(queue: &mut Queue, now: i64) -> Vec<u64> {
    std::iter::from_fn(|| queue.begin(UnixMs(now)).map(|(id, ..)| id)).collect()
}

/// What the files are after these changes.
fn written(files: &mut BTreeMap<(bool, u64), Delivery>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Write(place, id, delivery) => _ = files.insert((place == Place::Dead, id), delivery),
            Change::Remove(place, id) => _ = files.remove(&(place == Place::Dead, id)),
        }
    }
}

#[test]
fn one_that_fails_holds_up_no_other() {
    let mut queue = queue();
    for (target, event) in [("one", "a"), ("one", "b"), ("two", "c")] {
        queue.add(delivery(target, event, 1000), UnixMs(1000));
    }
    assert_eq!(begun(&mut queue, 1000), [1000, 1001, 1002]);
    assert_eq!((queue.deadline(), queue.waiting()), (None, 3));
    queue.settle(1000, failed("500"), UnixMs(1000), 0.5);
    queue.settle(1001, Outcome::Done, UnixMs(1000), 0.5);
    queue.add(delivery("one", "d", 1000), UnixMs(1000));
    assert_eq!(begun(&mut queue, 1000), [1003]);
    assert_eq!(queue.deadline(), Some(UnixMs(6000)));
    assert_eq!(begun(&mut queue, 5999), [0; 0]);
    assert_eq!(begun(&mut queue, 6000), [1000]);
    let standing = &queue.standings()[0];
    assert_eq!((standing.waiting, standing.delivered), (2, Some(UnixMs(1000))));
    assert_eq!(standing.failed, Some((UnixMs(1000), "500".into())));
}

#[test]
fn few_are_under_way_to_one_target_at_a_time() {
    let mut queue = queue();
    (0..3).for_each(|n| _ = queue.add(delivery("one", &n.to_string(), 0), UnixMs(0)));
    assert_eq!(begun(&mut queue, 10), [0, 1]);
    queue.settle(1, Outcome::Done, UnixMs(10), 0.5);
    assert_eq!(begun(&mut queue, 10), [2]);
}

#[test]
fn the_oldest_makes_room_unless_it_is_under_way() {
    let mut queue = queue();
    let mut files = BTreeMap::new();
    (0..3).for_each(|n| written(&mut files, queue.add(delivery("one", &n.to_string(), n), UnixMs(n))));
    assert_eq!(queue.begin(UnixMs(0)).map(|(id, ..)| id), Some(0));
    written(&mut files, queue.add(delivery("one", "3", 3), UnixMs(3)));
    // Another target's share is its own.
    written(&mut files, queue.add(delivery("two", "4", 4), UnixMs(4)));
    assert_eq!(files.keys().map(|(_, id)| *id).collect::<Vec<_>>(), [0, 2, 3, 4]);
    assert_eq!(queue.dropped(), 1);
    let large = Delivery { body: "x".repeat(9_999), ..delivery("one", "5", 5) };
    written(&mut files, queue.add(large, UnixMs(5)));
    assert_eq!(files.keys().map(|(_, id)| *id).collect::<Vec<_>>(), [0, 4]);
    // What was dropped while it was under way is no more.
    assert_eq!(queue.settle(3, Outcome::Done, UnixMs(6), 0.5), []);
}

#[test]
fn what_fails_for_too_long_is_dead_and_may_be_tried_again() {
    let mut queue = queue();
    let mut files = BTreeMap::new();
    for n in 0..3 {
        written(&mut files, queue.add(delivery("one", &n.to_string(), 0), UnixMs(0)));
        let mut now = 0;
        while queue.waiting() > 0 {
            now = queue.deadline().unwrap().0;
            let (id, ..) = queue.begin(UnixMs(now)).unwrap();
            written(&mut files, queue.settle(id, failed("404"), UnixMs(now), 0.5));
        }
        // At 0 and 5 s and 35 s; 155 s are too many.
        assert_eq!(now, 35_000);
    }
    let dead: Vec<_> = queue.dead().iter().map(|(id, dead)| (*id, dead.event.as_str(), dead.tries)).collect();
    assert_eq!(dead, [(1, "1", 3), (2, "2", 3)]);
    assert_eq!(files.keys().copied().collect::<Vec<_>>(), [(true, 1), (true, 2)]);
    assert_eq!(queue.standings()[0].dead, 2);

    assert_eq!(queue.retry(0, UnixMs(0)), Err(NoRetry::Unknown));
    written(&mut files, queue.retry(1, UnixMs(100_000)).unwrap());
    assert_eq!(queue.delete(1), None);
    written(&mut files, queue.delete(2).into_iter().collect());
    assert_eq!(files.keys().copied().collect::<Vec<_>>(), [(false, 1)]);
    assert_eq!(begun(&mut queue, 100_000), [1]);
    assert!(!queue.settle(1, failed("404"), UnixMs(100_000), 0.5).is_empty());
    assert_eq!(queue.deadline(), Some(UnixMs(105_000)));
}

#[test]
fn a_target_that_is_gone_is_left_alone() {
    let mut queue = queue();
    queue.add(delivery("one", "a", 0), UnixMs(0));
    queue.add(delivery("one", "b", 0), UnixMs(0));
    let (id, ..) = queue.begin(UnixMs(0)).unwrap();
    assert_eq!(queue.settle(id, Outcome::Gone, UnixMs(0), 0.5), [Change::Remove(Place::Waiting, id)]);
    assert!(queue.standings()[0].off);
    // What waits is kept for the next start; what is new is not taken.
    assert_eq!((queue.begin(UnixMs(10)), queue.deadline(), queue.waiting()), (None, None, 1));
    assert_eq!(queue.add(delivery("one", "c", 0), UnixMs(0)), []);
}

#[test]
fn a_restart_forgets_nothing() {
    let mut before = queue();
    let mut files = BTreeMap::new();
    written(&mut files, before.add(delivery("one", "a", 50), UnixMs(50)));
    written(&mut files, before.add(delivery("two", "b", 50), UnixMs(50)));
    let (id, ..) = before.begin(UnixMs(50)).unwrap();
    written(&mut files, before.settle(id, failed("500"), UnixMs(50), 0.5));
    files.insert((false, 7), delivery("three", "c", 0));
    // The crash came between the two steps of a death.
    files.insert((true, 9), delivery("one", "d", 0));
    files.insert((false, 9), delivery("one", "d", 0));
    files.insert((false, 60), Delivery { next: UnixMs(i64::MAX), ..delivery("one", "e", 0) });

    let mut after = queue();
    let mut changes = Vec::new();
    for place in [Place::Dead, Place::Waiting] {
        for ((_, id), delivery) in files.iter().filter(|((dead, _), _)| *dead == (place == Place::Dead)) {
            changes.extend(after.restore(place, *id, delivery.clone(), UnixMs(60)));
        }
    }
    written(&mut files, changes);
    assert_eq!(
        files.keys().copied().collect::<Vec<_>>(),
        [(false, 50), (false, 51), (false, 60), (true, 7), (true, 9)]
    );
    assert_eq!(after.retry(7, UnixMs(0)), Err(NoRetry::NoTarget));
    assert_eq!(begun(&mut after, 60), [51]);
    let (id, _, again) = after.begin(UnixMs(5050)).unwrap();
    assert_eq!((id, again.tries, again.why.as_str()), (50, 1, "500"));
    assert!(after.deadline().unwrap() < UnixMs(8 * 3_600_000));
    // No id is given twice.
    let Change::Write(_, id, _) = &after.add(delivery("one", "f", 0), UnixMs(0))[0] else { panic!() };
    assert_eq!(*id, 61);
}
