use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use serde_json::json;

use super::*;

const AT: UnixMs = UnixMs(1_767_225_600_000);

fn stream(name: &str) -> StreamId {
    name.parse().unwrap()
}

fn title(title: &str) -> Wish {
    Wish { title: Some(title.into()), ..Wish::default() }
}

fn at(ms: i64) -> UnixMs {
    UnixMs(AT.0 + ms)
}

fn set(board: &Board, name: &str, wish: Wish, ms: i64) -> Changed {
    board.set(&stream(name), Some(wish), at(ms), 7)
}

fn shown(board: &Board, name: &str) -> Arc<Shown> {
    match board.kept(name) {
        Some(Kept::Shown(shown)) => shown,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_crowd_that_comes_in_an_instant_is_one_look_and_then_none() {
    let (board, looks) = (Board::default(), AtomicUsize::new(0));
    let (there, gone, away) = (stream("alice"), stream("nobody"), stream("away"));
    let look = |found: Result<Option<Vec<Now>>, &'static str>| {
        let looks = &looks;
        async move {
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            found
        }
    };
    let stored = Now { id: EventId(5), title: Some("A".into()), ..Now::default() };
    for found in join_all((0..10_000).map(|_| board.known(&there, look(Ok(Some(vec![stored.clone()])))))).await {
        assert!(matches!(found, Ok(Kept::Shown(shown)) if shown.now.title.as_deref() == Some("A")));
    }
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    for found in join_all((0..1000).map(|_| board.known(&gone, look(Ok(None))))).await {
        assert!(matches!(found, Ok(Kept::Absent)));
    }
    // Whoever led the look hears what went wrong, the others that it did.
    let found = join_all((0..1000).map(|_| board.known(&away, look(Err("away"))))).await;
    assert_eq!(found.iter().filter(|found| found.is_err()).count(), 1);
    assert!(found.iter().skip(1).all(|found| matches!(found, Ok(Kept::Unknown))));
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    // All that comes later does not even ask.
    for _ in 0..100_000 {
        assert!(matches!(board.kept("alice"), Some(Kept::Shown(_))));
        assert!(matches!(board.kept("nobody"), Some(Kept::Absent)));
    }
    board.is_made(&gone);
    assert!(board.kept("nobody").is_none() && board.kept("other").is_none());
    // What has nothing stored is known, too.
    let nothing = board.known(&stream("bob"), look(Ok(Some(Vec::new())))).await.unwrap();
    assert!(matches!(nothing, Kept::Shown(shown) if shown.now.is_nothing()));
    assert!(shown(&board, "bob").text.body.starts_with(b"{\"id\":null,"));
}

#[test]
fn what_is_set_is_shown_and_told_and_the_same_again_is_not() {
    let board = Board::default();
    let mut changes = board.changes();
    let Changed::To(first) = set(&board, "alice", title("A"), 0) else { panic!() };
    assert_eq!(shown(&board, "alice").now, first);
    let etag = shown(&board, "alice").text.etag.clone();
    assert!(matches!(set(&board, "alice", title("A"), 50), Changed::Nothing(now) if now == first));
    assert_eq!(shown(&board, "alice").text.etag, etag);
    // A clock that went back makes no stamp that does not count.
    let Changed::To(second) = set(&board, "alice", title("B"), -5000) else { panic!() };
    assert!(second.id > first.id && shown(&board, "alice").text.etag != etag);
    let Changed::To(cleared) = board.set(&stream("alice"), None, at(60), 7) else { panic!() };
    assert!(cleared.is_nothing() && cleared.id > second.id && cleared.started.is_none());
    assert!(matches!(board.set(&stream("alice"), None, at(70), 7), Changed::Nothing(_)));
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).map(|(_, now)| now).collect();
    assert_eq!(told, [first, second, cleared]);
}

#[test]
fn nodes_that_hear_the_same_in_any_order_show_the_same() {
    let (one, other) = (Board::default(), Board::default());
    let (a, b) = (set(&one, "alice", title("A"), 0), set(&other, "alice", title("B"), 0));
    let (Changed::To(a), Changed::To(b)) = (a, b) else { panic!() };
    // One stamp, as two nodes with one tag could give.
    assert_eq!(a.id, b.id);
    let later = Now { id: b.id.next(at(1000), 9), artist: Some("C".into()), ..Now::default() };
    for (board, order) in [(&one, [&*b, &later]), (&other, [&later, &*a])] {
        order.into_iter().for_each(|now| _ = board.take(&stream("alice"), now.clone()));
        assert!(!board.take(&stream("alice"), later.clone()), "it is known");
        assert_eq!(*shown(board, "alice").now, later);
    }
    let third = Board::default();
    one.all().into_iter().rev().for_each(|(stream, now)| _ = third.take(&stream, Now::clone(&now)));
    assert_eq!(third.recent(&stream("alice")), one.recent(&stream("alice")));
    assert_eq!(*third.marks(&stream("alice")).borrow(), *one.marks(&stream("alice")).borrow());
}

#[test]
fn too_many_changes_wait() {
    let board = Board::default();
    for n in 0..RECENT as i64 {
        assert!(matches!(set(&board, "alice", title(&n.to_string()), n * 100), Changed::To(_)));
    }
    let late = set(&board, "alice", title("late"), 1000);
    assert!(matches!(late, Changed::TooOften(after) if after == RECENT_WITHIN - Duration::from_secs(1)), "{late:?}");
    assert!(matches!(set(&board, "alice", title("late"), 10_000), Changed::To(_)));
    assert_eq!(board.recent(&stream("alice")).len(), RECENT);
}

#[test]
fn what_is_over_takes_little_and_goes() {
    let board = Board::default();
    let wish = |n: i64| Wish { data: Some(json!(n)), ..title(&n.to_string()) };
    for n in 0..4 {
        set(&board, "alice", wish(n), n * 1000);
    }
    let recent = board.recent(&stream("alice"));
    assert_eq!(recent.iter().filter_map(|now| now.data.clone()).collect::<Vec<_>>(), [json!(3)]);
    set(&board, "alice", wish(9), RECENT_MS + 2500);
    let titles = board.recent(&stream("alice")).iter().filter_map(|now| now.title.clone()).collect::<Vec<_>>();
    // The one that ran then is kept with those that began later.
    assert_eq!(titles, ["2", "3", "9"]);
}

#[test]
fn playlists_are_told_in_order_whatever_was_said_when() {
    let board = Board::default();
    let marks = board.marks(&stream("alice"));
    let told = || {
        let marks = marks.borrow();
        marks.iter().map(|m| (m.start.0 - AT.0, m.title.clone().unwrap_or_default())).collect::<Vec<_>>()
    };
    let begun = |name: &str, ms| Wish { started: Some(at(ms)), ..title(name) };
    let told_is = |want: &[(i64, &str)]| {
        assert_eq!(told(), want.iter().map(|(ms, title)| (*ms, title.to_string())).collect::<Vec<_>>());
    };
    set(&board, "alice", begun("A", 0), 100);
    set(&board, "alice", begun("B", 5000), 5100);
    told_is(&[(0, "A"), (5000, "B")]);
    // A word is corrected, then it turns out that it began before.
    set(&board, "alice", begun("b", 5000), 5200);
    told_is(&[(0, "A"), (5000, "b")]);
    set(&board, "alice", begun("B", 4000), 5300);
    told_is(&[(0, "A"), (4000, "B")]);
    board.set(&stream("alice"), None, at(9000), 7);
    told_is(&[(0, "A"), (4000, "B"), (9000, "")]);
}

#[test]
fn a_full_board_lets_go_of_what_changed_longest_ago_and_nobody_follows() {
    let board = Board::new(32);
    let _listed = board.marks(&stream("listed"));
    for n in 0..40 {
        set(&board, &format!("s{n}"), title("A"), n);
    }
    assert!(board.slots.read().unwrap().len() <= 32);
    assert!(board.kept("s0").is_none() && board.is_listed(&stream("listed")));
    assert!(matches!(board.kept("s39"), Some(Kept::Shown(_))));
    board.is_gone(&stream("s39"));
    assert!(board.kept("s39").is_none());
}
