//! What can be seen only from within: damaged rows.

use super::*;
use crate::time::UnixMs;

fn ids() -> (StreamId, BroadcastId) {
    (StreamId::new("alice").expect("legal"), BroadcastId::new("01b").expect("legal"))
}

async fn spoil(store: &Embedded, space: Space, key: Vec<u8>) {
    store
        .write(Check::Nothing, vec![Put { space, key, value: Some(b"{\"k\":".to_vec()) }], true)
        .await
        .expect("written");
}

#[tokio::test]
async fn a_damaged_row_is_named_and_others_stay_readable() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(dir.path()).expect("opens");
    let (alice, show) = ids();
    for k in 0..5 {
        let row =
            ChunkRow { k, epoch: 1, at: 0, duration: 1, wall: UnixMs(0), discontinuity: false, renditions: vec![] };
        store.put_chunk(&alice, &show, row).await.expect("written");
    }
    for name in ["alice", "bob"] {
        let id = StreamId::new(name).expect("legal");
        let row = StreamRow { id, key_hash: String::new(), created: UnixMs(0), settings: serde_json::Value::Null };
        store.create_stream(row).await.expect("written");
    }
    for epoch in 1..=2 {
        let row = EpochRow::plain(epoch, show.clone(), 0);
        store.take_epoch(&alice, row).await.expect("taken");
    }
    spoil(&store, Space::Chunks, keys::chunk(&alice, &show, 2, 1)).await;
    spoil(&store, Space::Streams, keys::stream(&alice)).await;
    spoil(&store, Space::Epochs, keys::epoch(&alice, 2)).await;
    spoil(&store, Space::Epochs, keys::epoch_of(&alice, &show, 2)).await;

    let named = |error: Error, name: &str| matches!(&error, Error::Damaged(what) if what.contains(name));
    let (bob, limit) = (StreamId::new("bob").expect("legal"), 10);
    assert!(named(store.stream(&alice).await.unwrap_err(), "stream alice"));
    assert!(store.stream(&bob).await.expect("readable").is_some());
    assert_eq!(store.streams(None, limit).await.expect("readable").len(), 1);
    let ks: Vec<_> = store.chunks(&alice, &show, 0, 3).await.expect("readable").iter().map(|row| row.k).collect();
    assert_eq!(ks, [0, 1, 3]);
    let ks: Vec<_> = store.chunks_back(&alice, &show, None, 3).await.expect("readable").iter().map(|r| r.k).collect();
    assert_eq!(ks, [4, 3, 1]);
    // The epoch log has no gaps to offer: it fails, but its next number is still known.
    assert!(named(store.last_epoch(&alice).await.unwrap_err(), "epoch 2 of alice"));
    assert!(named(store.epochs(&alice, &show).await.unwrap_err(), "epoch 2 of alice/01b"));
    let row = EpochRow::plain(3, show.clone(), 0);
    store.take_epoch(&alice, row.clone()).await.expect("taken");
    assert_eq!(store.last_epoch(&alice).await.expect("readable"), Some(row));
}

/// More commits than the engine's own queue takes, faster than its worker writes them out.
#[tokio::test]
async fn rows_in_memory_are_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(dir.path()).expect("opens");
    let value = vec![b'x'; 10_000];
    let mut most = 0;
    for number in 0..6000u64 {
        let key = number.to_be_bytes().to_vec();
        let row = Put { space: Space::Chunks, key, value: Some(value.clone()) };
        store.write(Check::Nothing, vec![row], false).await.expect("written");
        if number % 100 == 0 {
            most = most.max(store.read(|db| Ok(db.memory_bytes())).await.expect("readable"));
        }
    }
    // Five lots of 4 MiB, and what the engine counts otherwise than we do.
    assert!(most < 25 << 20, "{most} bytes");
}

#[tokio::test]
async fn old_rows_of_chats_go_and_those_of_recordings_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let streams = ["a", "a1", "b"].map(|name| name.parse::<StreamId>().unwrap());
    let logs = [ChatLog::Live, ChatLog::Marks, ChatLog::Staff, ChatLog::Now, ChatLog::Of("01a".parse().unwrap())];
    let row =
        |log: &ChatLog, id| ChatWrite::Row { log: log.clone(), row: ChatRow { id: EventId(id), body: "{}".into() } };
    for stream in &streams {
        for log in &logs {
            // More than is deleted at a time.
            store.put_chat(stream, (0..2500).map(|id| row(log, id)).collect()).await.unwrap();
        }
    }
    let minutes = |broadcast: &str, span| {
        let row = |minute: i64| AudienceRow {
            span,
            at: UnixMs(minute),
            broadcast: broadcast.parse().unwrap(),
            part: "n.1".into(),
            made: UnixMs(1),
            body: "{}".into(),
        };
        (0..2500).map(row).collect::<Vec<_>>()
    };
    for stream in &streams {
        for span in [AudienceSpan::Minute, AudienceSpan::Mark] {
            store.put_audience(stream, minutes("01a", span)).await.unwrap();
        }
        store.put_audience(stream, minutes("01a", AudienceSpan::Whole)).await.unwrap();
    }
    store.trim_audience(UnixMs(2490)).await.unwrap();
    for stream in &streams {
        let left = async |span| store.audience(stream, span, (UnixMs(0), UnixMs(9999)), 9999).await.unwrap().len();
        assert_eq!((left(AudienceSpan::Minute).await, left(AudienceSpan::Mark).await), (10, 10), "{stream}");
        assert_eq!(store.audience_of(stream, &"01a".parse().unwrap()).await.unwrap().len(), 1);
    }
    store.trim_chat(EventId(2490)).await.unwrap();
    for stream in &streams {
        for log in &logs {
            let left = store.chat(stream, log, EventId(0), 9999).await.unwrap();
            assert_eq!(left.len(), if log.ages() { 10 } else { 2500 }, "{stream} {log}");
        }
    }
}
