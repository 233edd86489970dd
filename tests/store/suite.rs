//! The contract of `store::Meta` and `store::Blobs`, as checks that every implementation passes.
//!
//! Each check takes a store that others may be using: it keeps to names of its own.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use weir::{
    id::{BroadcastId, ClipId, Rendition, StreamId},
    store::{
        About, AccessRow, Blobs, BroadcastRow, ChunkRow, ClipRow, ClipsOf, EpochRow, Error, Meta, NodeRow,
        RenditionChunk, RenditionRow, Signature, StreamRow, blob_name, init_name, valid_chunks,
    },
    time::UnixMs,
};

#[path = "audiences.rs"]
mod audiences;
#[path = "chats.rs"]
mod chats;

pub use audiences::*;
pub use chats::*;

/// Makes a stream name that no other check has.
pub fn fresh(prefix: &str) -> StreamId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    stream(&format!("{prefix}-{}-{number}", std::process::id()))
}

/// The same for a broadcast.
pub fn fresh_show() -> BroadcastId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    show(&format!("x{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub fn stream(name: &str) -> StreamId {
    StreamId::new(name).expect("legal")
}

pub fn show(name: &str) -> BroadcastId {
    BroadcastId::new(name).expect("legal")
}

pub fn stream_row(id: &StreamId) -> StreamRow {
    StreamRow {
        id: id.clone(),
        key_hash: "sha256$salt$hash".into(),
        created: UnixMs(1_700_000_000_123),
        settings: serde_json::json!({"ladder": [{"height": 720, "bitrate_kbps": 2800.5}], "titel": "Größe \"0\""}),
    }
}

pub fn epoch_row(epoch: u64, broadcast: &BroadcastId, k_start: u64) -> EpochRow {
    EpochRow {
        epoch,
        broadcast: broadcast.clone(),
        k_start,
        at: -90_000,
        wall: UnixMs(1_700_000_000_123),
        discontinuity: epoch > 1,
        node: "node-1".into(),
        session: 0,
        turn: 0,
    }
}

pub fn broadcast_row(stream: &StreamId, id: &BroadcastId) -> BroadcastRow {
    let rendition = RenditionRow {
        name: Rendition::source(),
        codec: "avc1.64001f".into(),
        width: 1280,
        height: 720,
        fps_milli: 59_940,
        channels: 0,
        peak_bps: u64::from(u32::MAX) * 2,
        mean_bps: 3_000_000,
        iframe_bps: 400_000,
    };
    BroadcastRow {
        stream: stream.clone(),
        id: id.clone(),
        started: UnixMs(1_700_000_000_123),
        ended: None,
        target: 2,
        chunk_ms: 2000,
        part_ticks: 30_000,
        part_target_ms: 343,
        renditions: vec![rendition],
        summary: None,
        deleted: None,
    }
}

pub fn chunk_row(k: u64, epoch: u64) -> ChunkRow {
    let rendition = |rendition| RenditionChunk {
        rendition,
        init: "0123456789abcdef".into(),
        bytes: 1_000_000 + epoch as u32,
        iframe: 50_000,
        duration_us: 2_000_000,
    };
    ChunkRow {
        k,
        epoch,
        at: k as i64 * 180_000,
        duration: 180_000,
        wall: UnixMs(1_700_000_000_123 + k as i64 * 2000),
        discontinuity: k == 0,
        renditions: vec![rendition(Rendition::source()), rendition(Rendition::audio())],
    }
}

pub async fn streams_are_made_once_changed_and_deleted(store: Arc<dyn Meta>) {
    let id = fresh("made");
    let mut row = stream_row(&id);
    assert_eq!(store.stream(&id).await.unwrap(), None);
    assert!(matches!(store.update_stream(row.clone()).await, Err(Error::NotFound)));
    assert!(matches!(store.delete_stream(&id).await, Err(Error::NotFound)));
    assert_eq!(store.stream(&id).await.unwrap(), None, "an update must not make it");

    store.create_stream(row.clone()).await.unwrap();
    assert_eq!(store.stream(&id).await.unwrap().as_ref(), Some(&row));
    let mut other = row.clone();
    other.key_hash = "another".into();
    assert!(matches!(store.create_stream(other).await, Err(Error::Exists)));
    assert_eq!(store.stream(&id).await.unwrap().as_ref(), Some(&row), "the first stays");

    (row.key_hash, row.settings) = ("changed".into(), serde_json::Value::Null);
    store.update_stream(row.clone()).await.unwrap();
    assert_eq!(store.stream(&id).await.unwrap().as_ref(), Some(&row));

    store.put_broadcast(broadcast_row(&id, &show("b"))).await.unwrap();
    store.take_epoch(&id, epoch_row(1, &show("b"), 0)).await.unwrap();
    store.delete_stream(&id).await.unwrap();
    assert_eq!(store.stream(&id).await.unwrap(), None);
    assert!(store.broadcast(&id, &show("b")).await.unwrap().is_some(), "its broadcasts stay");
    // A stream that is made again must not reuse numbers.
    store.create_stream(row).await.unwrap();
    assert!(matches!(store.take_epoch(&id, epoch_row(1, &show("c"), 0)).await, Err(Error::EpochTaken(1))));
}

pub async fn a_stream_is_made_by_one_of_many(store: Arc<dyn Meta>) {
    for _ in 0..20 {
        let row = stream_row(&fresh("raced"));
        let makers: Vec<_> = (0..8)
            .map(|_| {
                let (store, row) = (store.clone(), row.clone());
                tokio::spawn(async move { store.create_stream(row).await })
            })
            .collect();
        let mut made = 0;
        for maker in makers {
            match maker.await.unwrap() {
                Ok(()) => made += 1,
                Err(error) => assert!(matches!(error, Error::Exists), "{error}"),
            }
        }
        assert_eq!(made, 1);
    }
}

pub async fn streams_are_listed_in_order_by_pages(store: Arc<dyn Meta>) {
    // '-', digits, '_' and letters in byte order; one name the start of another.
    let base = fresh("listed");
    let ends = ["", "-", "-a", "0", "00", "_", "a", "a-", "a0", "b"];
    let mut ids: Vec<_> = ends.iter().map(|end| stream(&format!("{base}{end}"))).collect();
    for id in ids.iter().rev() {
        store.create_stream(stream_row(id)).await.unwrap();
    }
    ids.sort();
    for page in [1, 2, 3, 7, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let rows = store.streams(after.as_ref(), page).await.unwrap();
            assert!(rows.len() <= page);
            let Some(last) = rows.last() else { break };
            after = Some(last.id.clone());
            seen.extend(rows.into_iter().map(|row| row.id).filter(|id| id.as_str().starts_with(base.as_str())));
        }
        assert_eq!(seen, ids, "pages of {page}");
    }
    assert!(store.streams(None, 0).await.unwrap().is_empty());
    // A name that is not there is a place too.
    let after = stream(&format!("{base}a-z"));
    assert_eq!(store.streams(Some(&after), 1).await.unwrap()[0].id, stream(&format!("{base}a0")));
}

pub async fn access_rows_take_the_place_of_their_name(store: Arc<dyn Meta>) {
    let (alice, mine) = (fresh("alice"), fresh("k").to_string());
    let key = |text: &str, own| AccessRow::TicketKey {
        kid: mine.clone(),
        signature: Signature::HS256,
        text: text.into(),
        own,
    };
    let revoked = AccessRow::RevokedTicket { id: mine.clone(), until: UnixMs(1_700_000_000_123) };
    let before = AccessRow::RevokedStream { stream: alice.clone(), before: UnixMs(7) };
    let playback = |ticket| AccessRow::Playback { stream: alice.clone(), ticket };
    for row in [key("a", true), revoked.clone(), before.clone(), playback(true), key("b", false), playback(false)] {
        store.put_access(row).await.expect("written");
    }
    let own = async || {
        let names = [key("", true).name(), revoked.name(), before.name(), playback(true).name()];
        let mut rows = store.access().await.expect("read");
        rows.retain(|row| names.contains(&row.name()));
        rows.sort_by_key(AccessRow::name);
        rows
    };
    let mut want = vec![key("b", false), revoked.clone(), before.clone(), playback(false)];
    want.sort_by_key(AccessRow::name);
    assert_eq!(own().await, want);
    store.delete_access(&revoked.name()).await.expect("deleted");
    assert!(matches!(store.delete_access(&revoked.name()).await, Err(Error::NotFound)));
    want.retain(|row| *row != revoked);
    assert_eq!(own().await, want);
}

pub async fn nodes_tell_of_themselves(store: Arc<dyn Meta>) {
    let (one, other) = (fresh("n").to_string(), fresh("n").to_string());
    let row = |id: &str, beat, draining| NodeRow {
        id: id.to_owned(),
        internal: "http://10.0.0.5:8090".into(),
        http: "http://10.0.0.5:8080".into(),
        rtmp: Some("10.0.0.5:1935".into()),
        origin: true,
        weight: 2,
        version: "0.1.0".into(),
        started: UnixMs(5),
        beat: UnixMs(beat),
        draining,
        streams: 7,
    };
    let own = async || {
        let mut rows = store.nodes().await.expect("read");
        rows.retain(|row| row.id == one || row.id == other);
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    };
    // The last word counts, also when it comes in the same instant.
    for beat in 0..20 {
        store.put_node(row(&one, beat, beat == 19)).await.expect("written");
    }
    store.put_node(NodeRow { rtmp: None, ..row(&other, 1, false) }).await.expect("written");
    let mut want = vec![row(&one, 19, true), NodeRow { rtmp: None, ..row(&other, 1, false) }];
    want.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(own().await, want);
    store.delete_node(&one).await.expect("deleted");
    assert!(matches!(store.delete_node(&one).await, Err(Error::NotFound)));
    assert_eq!(own().await.len(), 1);
    store.put_node(row(&one, 20, false)).await.expect("it may come back");
    assert_eq!(own().await.len(), 2);
}

pub async fn the_epoch_log_grows_by_one(store: Arc<dyn Meta>) {
    let (id, neighbour, a, b) = (fresh("log"), fresh("log"), show("01a"), show("01b"));
    assert_eq!(store.last_epoch(&id).await.unwrap(), None);
    for wrong in [0, 2, 7, u64::MAX] {
        let taken = store.take_epoch(&id, epoch_row(wrong, &a, 0)).await;
        assert!(matches!(taken, Err(Error::EpochTaken(n)) if n == wrong), "{wrong}");
    }
    assert_eq!(store.last_epoch(&id).await.unwrap(), None);
    // More than 256, so that an order by bytes of little-endian numbers would show.
    for epoch in 1..=300 {
        let row = epoch_row(epoch, if epoch <= 290 { &a } else { &b }, epoch * 10);
        store.take_epoch(&id, row.clone()).await.unwrap();
        assert_eq!(store.last_epoch(&id).await.unwrap(), Some(row));
    }
    for wrong in [0, 1, 300, 302] {
        assert!(matches!(store.take_epoch(&id, epoch_row(wrong, &b, 0)).await, Err(Error::EpochTaken(_))), "{wrong}");
    }
    assert_eq!(store.last_epoch(&id).await.unwrap(), Some(epoch_row(300, &b, 3000)), "the last row is as written");
    let epochs = |rows: Vec<EpochRow>| rows.into_iter().map(|row| row.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(store.epochs(&id, &a).await.unwrap()), (1..=290).collect::<Vec<_>>());
    assert_eq!(epochs(store.epochs(&id, &b).await.unwrap()), (291..=300).collect::<Vec<_>>());
    assert!(store.epochs(&id, &show("01")).await.unwrap().is_empty());
    // Another stream has a log of its own.
    assert!(store.epochs(&neighbour, &a).await.unwrap().is_empty());
    store.take_epoch(&neighbour, epoch_row(1, &a, 0)).await.unwrap();
    assert_eq!(store.last_epoch(&id).await.unwrap().unwrap().epoch, 300);
}

/// 1,000 epochs, each raced for by 8 tasks at once: one wins each, and the log holds the winner's row.
pub async fn one_taker_wins_each_epoch(store: Arc<dyn Meta>) {
    const TAKERS: u64 = 8;
    const ROUNDS: u64 = 1000;
    let (id, broadcast) = (fresh("race"), show("b"));
    let barrier = Arc::new(tokio::sync::Barrier::new(TAKERS as usize));
    let takers: Vec<_> = (0..TAKERS)
        .map(|taker| {
            let (store, id, broadcast, barrier) = (store.clone(), id.clone(), broadcast.clone(), barrier.clone());
            tokio::spawn(async move {
                let mut won = Vec::new();
                for epoch in 1..=ROUNDS {
                    barrier.wait().await;
                    let mut row = epoch_row(epoch, &broadcast, epoch);
                    row.node = format!("taker-{taker}");
                    match store.take_epoch(&id, row).await {
                        Ok(()) => won.push(epoch),
                        Err(error) => assert!(matches!(error, Error::EpochTaken(n) if n == epoch), "{error}"),
                    }
                }
                won
            })
        })
        .collect();
    let mut winners = std::collections::BTreeMap::new();
    for (taker, wins) in takers.into_iter().enumerate() {
        for epoch in wins.await.unwrap() {
            assert_eq!(winners.insert(epoch, format!("taker-{taker}")), None, "epoch {epoch} was won twice");
        }
    }
    assert_eq!(winners.len() as u64, ROUNDS);
    for row in store.epochs(&id, &broadcast).await.unwrap() {
        assert_eq!(winners.remove(&row.epoch).as_ref(), Some(&row.node));
    }
    assert!(winners.is_empty());
}

pub async fn broadcasts_are_listed_newest_first(store: Arc<dyn Meta>) {
    let id = fresh("shows");
    let near = stream(&format!("{id}0"));
    assert_eq!(store.broadcast(&id, &show("a")).await.unwrap(), None);
    assert!(store.broadcasts(&id, None, 10).await.unwrap().is_empty());
    let names: Vec<_> = (0..25).map(|n| show(&format!("01{n:03}"))).collect();
    for name in &names {
        store.put_broadcast(broadcast_row(&id, name)).await.unwrap();
    }
    store.put_broadcast(broadcast_row(&near, &show("01099"))).await.unwrap();

    let mut row = broadcast_row(&id, &names[7]);
    (row.ended, row.target) = (Some(UnixMs(1_700_000_900_000)), 3);
    for _ in 0..2 {
        store.put_broadcast(row.clone()).await.unwrap();
    }
    assert_eq!(store.broadcast(&id, &names[7]).await.unwrap(), Some(row));

    let newest: Vec<_> = names.iter().rev().cloned().collect();
    for page in [1, 4, 25, 100] {
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let rows = store.broadcasts(&id, before.as_ref(), page).await.unwrap();
            assert!(rows.len() <= page);
            let Some(last) = rows.last() else { break };
            before = Some(last.id.clone());
            seen.extend(rows.into_iter().map(|row| row.id));
        }
        assert_eq!(seen, newest, "pages of {page}");
    }
    assert!(store.broadcasts(&id, None, 0).await.unwrap().is_empty());
}

/// The numbers of a test broadcast: both sides of the first bucket borders (1,800 to a bucket), a hole of whole
/// buckets, and numbers that two epochs wrote.
fn chunks_written() -> Vec<(u64, u64)> {
    let ones = (0..5).chain(1795..1805).chain(3598..3603).chain(20_000..20_005).map(|k| (k, 1));
    let twos = (1798..1802).chain(20_003..20_010).map(|k| (k, 2));
    let mut all: Vec<_> = ones.chain(twos).collect();
    all.sort();
    all
}

pub async fn chunks_page_both_ways_over_buckets(store: Arc<dyn Meta>) {
    let (id, broadcast) = (fresh("chunks"), show("01b"));
    assert!(store.chunks(&id, &broadcast, 0, 10).await.unwrap().is_empty());
    assert!(store.chunks_back(&id, &broadcast, None, 10).await.unwrap().is_empty());
    let all = chunks_written();
    // Written out of order; neighbours by name must not show.
    for &(k, epoch) in all.iter().rev() {
        store.put_chunk(&id, &broadcast, chunk_row(k, epoch)).await.unwrap();
    }
    store.put_chunk(&id, &show("01a"), chunk_row(30_000, 1)).await.unwrap();
    store.put_chunk(&id, &show("01b0"), chunk_row(0, 1)).await.unwrap();
    store.put_chunk(&stream(&format!("{id}0")), &broadcast, chunk_row(0, 1)).await.unwrap();

    let numbers = |rows: &[ChunkRow]| rows.iter().map(|row| (row.k, row.epoch)).collect::<Vec<_>>();
    // A page ends between two numbers, with at most the last number's other epoch over the limit.
    let whole = |rows: &[ChunkRow], limit: usize| {
        assert!(rows.len() <= limit + 1);
        assert!(rows.len() <= limit || rows[limit].k == rows[limit - 1].k);
    };
    for limit in [1, 2, 3, 10, 1000] {
        let (mut seen, mut from) = (Vec::new(), 0);
        loop {
            let rows = store.chunks(&id, &broadcast, from, limit).await.unwrap();
            whole(&rows, limit);
            seen.extend(numbers(&rows));
            let Some(last) = rows.last() else { break };
            from = last.k + 1;
            if rows.len() < limit {
                assert!(store.chunks(&id, &broadcast, from, 1).await.unwrap().is_empty(), "a short page is the last");
            }
        }
        assert_eq!(seen, all, "pages of {limit}");

        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let rows = store.chunks_back(&id, &broadcast, before, limit).await.unwrap();
            whole(&rows, limit);
            seen.extend(numbers(&rows));
            let Some(last) = rows.last() else { break };
            before = Some(last.k);
        }
        seen.reverse();
        assert_eq!(seen, all, "pages of {limit} back");
    }
    let first = |rows: Vec<ChunkRow>| rows.first().map(|row| (row.k, row.epoch));
    for (from, found) in [
        (5, Some((1795, 1))),
        (1799, Some((1799, 1))),
        (1800, Some((1800, 1))),
        (3603, Some((20_000, 1))),
        (20_010, None),
    ] {
        assert_eq!(first(store.chunks(&id, &broadcast, from, 1).await.unwrap()), found, "from {from}");
    }
    for (before, found) in
        [(0, None), (5, Some((4, 1))), (1795, Some((4, 1))), (1800, Some((1799, 2))), (1801, Some((1800, 2)))]
    {
        assert_eq!(first(store.chunks_back(&id, &broadcast, Some(before), 1).await.unwrap()), found, "before {before}");
    }
    assert_eq!(first(store.chunks_back(&id, &broadcast, Some(u64::MAX), 1).await.unwrap()), Some((20_009, 2)));
    assert!(store.chunks(&id, &broadcast, u64::MAX, 10).await.unwrap().is_empty());
    assert!(store.chunks(&id, &broadcast, 0, 0).await.unwrap().is_empty());
    assert!(store.chunks_back(&id, &broadcast, None, 0).await.unwrap().is_empty());
}

pub async fn a_chunk_written_again_is_one_row(store: Arc<dyn Meta>) {
    let (id, broadcast) = (fresh("again"), show("b"));
    let mut row = chunk_row(u64::from(u32::MAX) * 4, 3);
    for _ in 0..3 {
        store.put_chunk(&id, &broadcast, row.clone()).await.unwrap();
    }
    row.renditions.pop();
    store.put_chunk(&id, &broadcast, row.clone()).await.unwrap();
    assert_eq!(store.chunks(&id, &broadcast, 0, 10).await.unwrap(), [row.clone()], "the last write wins");
    assert_eq!(store.chunks_back(&id, &broadcast, None, 10).await.unwrap(), [row]);
}

/// An owner that was replaced writes on, later than its successor: readers do not see it, by whatever pages.
pub async fn an_old_owner_is_not_read(store: Arc<dyn Meta>) {
    let (id, broadcast) = (fresh("fenced"), show("b"));
    for (epoch, k_start) in [(1, 0), (2, 1798), (3, 1803)] {
        store.take_epoch(&id, epoch_row(epoch, &broadcast, k_start)).await.unwrap();
    }
    for k in 1803..1806 {
        store.put_chunk(&id, &broadcast, chunk_row(k, 3)).await.unwrap();
    }
    for k in 1798..1802 {
        store.put_chunk(&id, &broadcast, chunk_row(k, 2)).await.unwrap();
    }
    for k in 1790..1810 {
        store.put_chunk(&id, &broadcast, chunk_row(k, 1)).await.unwrap();
    }
    let epochs = store.epochs(&id, &broadcast).await.unwrap();
    let expected: Vec<_> = (1790..1798)
        .map(|k| (k, 1))
        .chain((1798..1802).map(|k| (k, 2)))
        // 1802 belongs to epoch 2, which did not write it: a gap, whatever epoch 1 wrote.
        .chain((1803..1806).map(|k| (k, 3)))
        .collect();
    for limit in [1, 2, 5, 100] {
        let (mut seen, mut from) = (Vec::new(), 0);
        loop {
            let rows = store.chunks(&id, &broadcast, from, limit).await.unwrap();
            let Some(last) = rows.last() else { break };
            from = last.k + 1;
            seen.extend(valid_chunks(rows, &epochs).into_iter().map(|row| (row.k, row.epoch)));
        }
        assert_eq!(seen, expected, "pages of {limit}");
    }
}

pub async fn many_write_and_read_at_once(store: Arc<dyn Meta>) {
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let (store, id, broadcast) = (store.clone(), fresh("many"), show("b"));
            tokio::spawn(async move {
                for k in 0..100 {
                    store.put_chunk(&id, &broadcast, chunk_row(k, 1)).await.unwrap();
                    let newest = store.chunks_back(&id, &broadcast, None, 1).await.unwrap();
                    assert_eq!(newest, [chunk_row(k, 1)], "what was answered is read");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

fn bytes(seed: usize, length: usize) -> Bytes {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect::<Vec<_>>().into()
}

pub async fn blobs_are_what_was_put(store: Arc<dyn Blobs>) {
    let (id, broadcast) = (fresh("blobs"), show("01b"));
    let name = |k| blob_name(&id, &broadcast, &Rendition::source(), k, 1);
    assert!(matches!(store.get(&name(0)).await, Err(Error::NotFound)));
    for (k, length) in [0, 1, 4095, 4096, 4097, 65_537, 1_000_003, 5_000_000].into_iter().enumerate() {
        let data = bytes(k, length);
        store.put(&name(k as u64), data.clone().into()).await.unwrap();
        assert!(store.get(&name(k as u64)).await.unwrap() == data, "{length} bytes");
    }
    assert!(matches!(store.get(&name(999_999)).await, Err(Error::NotFound)));
    let folder = format!("{id}/{broadcast}/source");
    assert!(store.get(&folder).await.is_err(), "a folder is no blob");

    let init = init_name(&id, &broadcast, &Rendition::source(), "0123456789abcdef");
    for (seed, length) in [(1, 1000), (2, 10), (3, 0), (4, 2000)] {
        store.put(&init, bytes(seed, length).into()).await.unwrap();
        assert!(store.get(&init).await.unwrap() == bytes(seed, length), "overwritten whole");
    }
    for bad in ["", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\\b", "a/b#1", "a/%2e%2e/b"] {
        assert!(matches!(store.put(bad, bytes(0, 1).into()).await, Err(Error::BadName(_))), "{bad}");
        assert!(matches!(store.get(bad).await, Err(Error::BadName(_))), "{bad}");
    }
}

/// Readers see one of the whole objects that were put under a name, however many put and get at once.
pub async fn blobs_are_whole_at_any_time(store: Arc<dyn Blobs>) {
    let (id, broadcast) = (fresh("whole"), show("01b"));
    let name = blob_name(&id, &broadcast, &Rendition::audio(), 5, 1);
    let versions: Vec<_> = (0..4).map(|seed| bytes(seed, 200_000 + seed * 1111)).collect();
    store.put(&name, versions[0].clone().into()).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (store, name, versions, id, broadcast) =
                (store.clone(), name.clone(), versions.clone(), id.clone(), broadcast.clone());
            tokio::spawn(async move {
                for round in 0..25 {
                    if task % 2 == 0 {
                        store.put(&name, versions[(task + round) % 4].clone().into()).await.unwrap();
                        let own = blob_name(&id, &broadcast, &Rendition::source(), (task * 1000 + round) as u64, 1);
                        store.put(&own, versions[round % 4].clone().into()).await.unwrap();
                        assert!(store.get(&own).await.unwrap() == versions[round % 4]);
                    }
                    let read = store.get(&name).await.unwrap();
                    assert!(versions.contains(&read), "{} bytes are none of the objects", read.len());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

pub async fn a_broadcast_is_found_by_its_id_and_keeps_its_title(meta: Arc<impl Meta>) {
    let (alice, bob) = (fresh("alice"), fresh("bob"));
    let (first, second) = (fresh_show(), fresh_show());
    meta.put_broadcast(broadcast_row(&alice, &first)).await.unwrap();
    meta.put_broadcast(broadcast_row(&bob, &second)).await.unwrap();
    assert_eq!(meta.stream_of(&first).await.unwrap(), Some(alice.clone()));
    assert_eq!(meta.stream_of(&second).await.unwrap(), Some(bob.clone()));
    assert_eq!(meta.stream_of(&fresh_show()).await.unwrap(), None);

    assert_eq!(meta.about(&alice, &first).await.unwrap(), About::default());
    let about = About { title: "Caf\u{e9} \u{1f600}".into(), note: "two\nlines".into() };
    meta.put_about(&alice, &first, about.clone()).await.unwrap();
    // The line writes its row again and again meanwhile.
    let ended = BroadcastRow { ended: Some(UnixMs(1_700_000_009_999)), ..broadcast_row(&alice, &first) };
    meta.put_broadcast(ended.clone()).await.unwrap();
    assert_eq!(meta.about(&alice, &first).await.unwrap(), about);
    assert_eq!(meta.broadcast(&alice, &first).await.unwrap(), Some(ended));
    assert_eq!(meta.about(&bob, &second).await.unwrap(), About::default());
}

pub async fn clips_are_listed_newest_first_by_stream_and_by_broadcast(meta: Arc<impl Meta>) {
    let (alice, bob, shows) = (fresh("alice"), fresh("alice2"), [fresh_show(), fresh_show(), fresh_show()]);
    let prefix = fresh_show();
    let clip = |n: u64, owner: &StreamId, broadcast: usize| ClipRow {
        id: ClipId::new(&format!("{prefix}c{n:03}")).unwrap(),
        stream: owner.clone(),
        broadcast: shows[broadcast].clone(),
        title: format!("clip {n}"),
        created: UnixMs(1_700_000_000_000 + n as i64),
        from_ms: n * 1000,
        to_ms: n * 1000 + 500,
        chunks: (n, n + 1),
    };
    let broadcast = |n| usize::from(n % 3 != 0);
    for n in 0..50 {
        meta.put_clip(clip(n, &alice, broadcast(n))).await.unwrap();
        meta.put_clip(clip(n, &alice, broadcast(n))).await.unwrap();
    }
    meta.put_clip(clip(100, &bob, 2)).await.unwrap();
    let all = |of: ClipsOf| {
        let meta = meta.clone();
        async move {
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = meta.clips(&of, before.as_ref(), 7).await.unwrap();
                let Some(last) = page.last() else { return found };
                before = Some(last.id.clone());
                found.extend(page);
            }
        }
    };
    let want = |filter: fn(&u64) -> bool| -> Vec<ClipRow> {
        (0..50).rev().filter(filter).map(|n| clip(n, &alice, broadcast(n))).collect()
    };
    assert_eq!(all(ClipsOf::Stream(alice.clone())).await, want(|_| true));
    assert_eq!(all(ClipsOf::Broadcast(shows[0].clone())).await, want(|n| n % 3 == 0));
    assert!(all(ClipsOf::Broadcast(fresh_show())).await.is_empty());
    let gone = clip(9, &alice, 0);
    assert_eq!(meta.clip(&gone.id).await.unwrap(), Some(gone.clone()));
    meta.delete_clip(&gone.id).await.unwrap();
    assert!(matches!(meta.delete_clip(&gone.id).await, Err(Error::NotFound)));
    assert_eq!(meta.clip(&gone.id).await.unwrap(), None);
    assert_eq!(all(ClipsOf::Stream(alice.clone())).await, want(|n| *n != 9));
    assert_eq!(all(ClipsOf::Broadcast(shows[0].clone())).await, want(|n| n % 3 == 0 && *n != 9));
}

pub async fn deleted_chunks_are_gone_and_no_others(meta: Arc<impl Meta>) {
    let (id, broadcast, other) = (fresh("alice"), show("01b"), show("01c"));
    for k in 1790..1810 {
        meta.put_chunk(&id, &broadcast, chunk_row(k, 1)).await.unwrap();
        meta.put_chunk(&id, &broadcast, chunk_row(k, 2)).await.unwrap();
        meta.put_chunk(&id, &other, chunk_row(k, 1)).await.unwrap();
    }
    let rows: Vec<_> = (1795..1805).map(|k| (k, 1)).chain([(1795, 2), (9, 9)]).collect();
    meta.delete_chunks(&id, &broadcast, &rows).await.unwrap();
    meta.delete_chunks(&id, &broadcast, &rows).await.unwrap();
    let left = meta.chunks(&id, &broadcast, 0, 1000).await.unwrap();
    let left: Vec<_> = left.iter().map(|row| (row.k, row.epoch)).collect();
    let all = (1790..1810).flat_map(|k| [(k, 1), (k, 2)]);
    assert_eq!(left, all.filter(|row| !rows.contains(row)).collect::<Vec<_>>());
    assert_eq!(meta.chunks(&id, &other, 0, 1000).await.unwrap().len(), 20);
}

pub async fn blobs_are_read_in_ranges_and_deleted(blobs: Arc<impl Blobs>) {
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let (id, broadcast, source) = (fresh("alice"), show("01b"), Rendition::source());
    let [name, other] = [1, 2].map(|k| blob_name(&id, &broadcast, &source, k, 1));
    let (name, other) = (name.as_str(), other.as_str());
    blobs.put(name, Bytes::from(bytes.clone()).into()).await.unwrap();
    for (from, to) in
        [(0, 10), (0, 100_000), (99_990, 100_000), (99_990, 200_000), (5, 5), (100_000, 100_001), (1 << 40, 1 << 41)]
    {
        let want = &bytes[(from as usize).min(bytes.len())..(to as usize).min(bytes.len())];
        assert_eq!(blobs.get_range(name, from..to).await.unwrap(), want, "{from}..{to}");
    }
    assert!(matches!(blobs.get_range(other, 0..1).await, Err(Error::NotFound)));
    blobs.put(other, Bytes::from_static(b"x").into()).await.unwrap();
    blobs.delete(name).await.unwrap();
    blobs.delete(name).await.unwrap();
    assert!(matches!(blobs.get(name).await, Err(Error::NotFound)));
    assert_eq!(blobs.get(other).await.unwrap(), "x");
    blobs.delete(other).await.unwrap();
    blobs.put(name, Bytes::from_static(b"again").into()).await.unwrap();
    assert_eq!(blobs.get(name).await.unwrap(), "again");
    assert!(matches!(blobs.delete("../x").await, Err(Error::BadName(_))));
    assert!(matches!(blobs.get_range(".lock", 0..1).await, Err(Error::BadName(_))));
}
