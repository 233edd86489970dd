use super::*;

fn message(id: u64) -> Told {
    Told { id: EventId(id), json: format!("{{\"n\":{id}}}").into(), is_message: true }
}

fn deed(id: u64) -> Told {
    Told { is_message: false, ..message(id) }
}

fn ids(events: &[Told]) -> Vec<u64> {
    events.iter().map(|told| told.id.0).collect()
}

fn texts(taken: &Taken) -> String {
    let text = |lot: &Arc<Lot>| {
        let begin = if lot.frame[1] < 126 { 2 } else { 4 };
        String::from_utf8(lot.frame[begin..].to_vec()).unwrap()
    };
    taken.lots.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_pause_goes_out_at_once_and_what_follows_goes_together() {
    let hub = Hub::new();
    tokio::time::sleep(TICK).await;
    let (_, mut cursor) = hub.join(EventId(0));
    let begun = now();
    hub.publish(vec![message(1)]);
    cursor.ready().await;
    assert_eq!((texts(&cursor.take()).as_str(), now() - begun), (r#"[{"n":1}]"#, Duration::ZERO));
    hub.publish(vec![message(2)]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    hub.publish(vec![message(3), deed(4)]);
    cursor.ready().await;
    assert_eq!(now() - begun, TICK);
    assert_eq!(texts(&cursor.take()), r#"[{"n":2},{"n":3},{"n":4}]"#);
    // What is known is not told again.
    hub.publish(vec![message(3)]);
    assert!(tokio::time::timeout(TICK * 4, cursor.ready()).await.is_err());
    hub.publish(vec![message(5)]);
    cursor.ready().await;
    assert_eq!(texts(&cursor.take()), r#"[{"n":5}]"#);
}

#[tokio::test(start_paused = true)]
async fn who_joins_misses_nothing_and_gets_nothing_twice() {
    for (after, known, is_whole) in
        [(0, (11..=20).collect(), false), (10, (11..=20).collect(), true), (19, vec![20], true)]
    {
        let hub = Hub::new();
        hub.load(EventId(10), (11..20).map(message).collect());
        tokio::time::sleep(TICK).await;
        hub.publish(vec![message(20)]);
        // This one waits for its tick.
        hub.publish(vec![message(21)]);
        let (found, mut cursor) = hub.join(EventId(after));
        assert_eq!((ids(&found.events), found.is_whole), (known, is_whole));
        cursor.ready().await;
        assert_eq!(texts(&cursor.take()), r#"[{"n":21}]"#);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_socket_loses_the_oldest_messages_and_is_told_how_many_and_no_deed() {
    let hub = Hub::new();
    let (_, mut cursor) = hub.join(EventId(0));
    for n in 0..2000 {
        tokio::time::sleep(TICK).await;
        let id = n * 10 + 1;
        let mut lot: Vec<_> = (0..4).map(|more| message(id + more)).collect();
        if n % 100 == 0 {
            lot.push(deed(id + 4));
        }
        hub.publish(lot);
    }
    let taken = cursor.take();
    assert!(taken.messages() <= BEHIND_MESSAGES && taken.messages() > BEHIND_MESSAGES - 8);
    assert_eq!(taken.skipped + taken.messages(), 8000);
    // All deeds of what was left out, whether it is still in the ring or not.
    assert_eq!(taken.deeds.len(), 20);
    {
        let state = hub.state();
        assert!(state.lots.len() <= LOTS && state.tail.len() <= TAIL && state.base > EventId(0));
    }
    // From then on it is like any other.
    hub.publish(vec![message(99_999)]);
    cursor.ready().await;
    let taken = cursor.take();
    assert_eq!((taken.skipped, taken.deeds.len(), taken.messages()), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn one_lot_is_sent_however_large() {
    let hub = Hub::new();
    let (_, mut cursor) = hub.join(EventId(0));
    tokio::time::sleep(TICK).await;
    hub.publish((1..=1000).map(message).collect());
    let taken = cursor.take();
    assert_eq!((taken.skipped, taken.messages()), (0, 1000));
}

#[tokio::test(start_paused = true)]
async fn pollers_wait_for_what_comes_and_no_longer_than_they_should() {
    let hub = Hub::new();
    let begun = now();
    let found = hub.wait_after(EventId(5), Duration::from_secs(20)).await;
    assert_eq!((found.events.len(), now() - begun), (0, Duration::from_secs(20)));
    let waits = tokio::spawn({
        let hub = hub.clone();
        async move { hub.wait_after(EventId(5), Duration::from_secs(20)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    hub.publish(vec![message(6)]);
    assert_eq!(ids(&waits.await.unwrap().events), [6]);
    assert_eq!(ids(&hub.wait_after(EventId(5), Duration::from_secs(20)).await.events), [6]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_whole_or_not_there() {
    let hub = Hub::new();
    let slot = 1000;
    let (begin, end) = slot_bounds(slot);
    assert_eq!(slot_of(begin.at()), slot);
    hub.load(EventId(begin.0 - 100), vec![]);
    hub.publish(vec![message(begin.0 - 1), message(begin.0), message(end.0 - 1), message(end.0)]);
    let waits = tokio::spawn({
        let hub = hub.clone();
        async move { hub.slot(slot).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waits.is_finished());
    hub.publish(vec![message(begin.0 + 7)]);
    hub.pass(end);
    let text = waits.await.unwrap().unwrap();
    let want = array([message(begin.0), message(begin.0 + 7), message(end.0 - 1)].iter());
    assert_eq!(text.body, want.as_bytes());
    assert!(Arc::ptr_eq(&hub.slot(slot).await.unwrap(), &text) && Arc::ptr_eq(&hub.kept_slot(slot).unwrap(), &text));
    // Further back than is kept here.
    assert!(hub.slot(slot - 2).await.is_none());
    // A floor does not go back.
    hub.pass(EventId(1));
    assert_eq!(hub.floor(), end);
}

#[test]
fn sockets_are_counted() {
    let hub = Hub::new();
    let (one, two) = (hub.enter(), hub.enter());
    assert_eq!(hub.sockets(), 2);
    drop((one, two));
    assert_eq!(hub.sockets(), 0);
}
