use super::*;
use crate::{store::RenditionChunk, time::UnixMs};

fn stream() -> StreamId {
    StreamId::new("alice").unwrap()
}

fn show(name: &str) -> BroadcastId {
    BroadcastId::new(name).unwrap()
}

fn blob(of: &str, rendition: &str, k: u64, len: u64) -> Entry {
    let rendition = Rendition::new(rendition).unwrap();
    Entry::Blob { name: blob_name(&stream(), &show(of), &rendition, k, 1), len }
}

fn row(of: &str, k: u64, renditions: &[&str]) -> Entry {
    let made = |name: &&str| RenditionChunk {
        rendition: Rendition::new(name).unwrap(),
        init: "00ff".into(),
        bytes: 1,
        iframe: 0,
        duration_us: 2_000_000,
    };
    let renditions = renditions.iter().map(made).collect();
    let row = ChunkRow { k, epoch: 1, at: 0, duration: 180_000, wall: UnixMs(0), discontinuity: false, renditions };
    Entry::Chunk { stream: stream(), broadcast: show(of), row }
}

fn epoch(of: &str, number: u64) -> Entry {
    Entry::Epoch { stream: stream(), row: EpochRow::plain(number, show(of), 0) }
}

async fn spool(dir: &std::path::Path, bytes_max: u64) -> Spool {
    Spool::open(dir, bytes_max).await.unwrap()
}

/// Adds a write and does what is to be done with files, as its owner does.
async fn add(spool: &mut Spool, entry: Entry) -> Vec<String> {
    let (number, changes, lost) = spool.add(entry);
    for change in changes {
        match change {
            Change::Write(of, entry) => {
                let len = if let Entry::Blob { len, .. } = &entry { *len } else { 0 };
                let bytes = Pieces::from(vec![7; len as usize]);
                spool.files().put(&file(of), content(&entry, &bytes)).await.unwrap();
            }
            Change::Remove(of) => spool.files().delete(&file(of)).await.unwrap(),
        }
    }
    spool.rest(number);
    lost
}

/// Takes out all that may be made, in turn, each made before the next.
fn order(spool: &mut Spool) -> Vec<String> {
    let mut order = Vec::new();
    while let Some((number, entry)) = spool.begin(Side::Bytes).or_else(|| spool.begin(Side::Rows)) {
        order.push(match &entry {
            Entry::Blob { name, .. } => name.rsplit('/').next().unwrap().to_owned(),
            Entry::Chunk { row, .. } => {
                let names: Vec<_> = row.renditions.iter().map(|made| made.rendition.as_str()).collect();
                format!("row {} {}", row.k, names.join(","))
            }
            Entry::Broadcast { row } => format!("broadcast {}", row.id),
            Entry::Epoch { row, .. } => format!("epoch {}", row.epoch),
            Entry::Chat { writes, .. } => format!("chat {}", writes.len()),
            Entry::Audience { rows, .. } => format!("audience {}", rows.len()),
        });
        spool.done(number);
    }
    order
}

#[tokio::test]
async fn a_row_is_made_after_all_before_it_of_its_broadcast() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool(dir.path(), 1 << 30).await;
    for entry in [blob("a", "source", 1, 10), row("a", 1, &["source"]), blob("a", "source", 2, 10), row("b", 9, &[])] {
        add(&mut spool, entry).await;
    }
    // Bytes wait for nothing; a row of another broadcast waits for nobody.
    assert_eq!(spool.begin(Side::Bytes).unwrap().0, 0);
    assert_eq!(spool.begin(Side::Bytes).unwrap(), (2, blob("a", "source", 2, 10)));
    assert_eq!(spool.begin(Side::Bytes), None);
    assert_eq!(spool.begin(Side::Rows).unwrap(), (3, row("b", 9, &[])));
    assert_eq!(spool.begin(Side::Rows), None);
    spool.done(0);
    assert_eq!(spool.begin(Side::Rows).unwrap(), (1, row("a", 1, &["source"])));
    // One that failed is the next again.
    spool.rest(1);
    assert_eq!(spool.begin(Side::Rows).unwrap().0, 1);
    assert!(spool.has("alice/a") && spool.has("alice/b") && !spool.has("alice/c"));
    [1, 2, 3].into_iter().for_each(|number| spool.done(number));
    assert!(!spool.has("alice/a"));
    assert_eq!(spool.waiting(), Waiting::default());
}

#[tokio::test]
async fn what_waits_outlives_a_restart_and_half_a_write_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let entries = [blob("a", "source", 1, 5000), row("a", 1, &["source"]), blob("a", "720p", 2, 10)];
    let mut before = spool(dir.path(), 1 << 30).await;
    for entry in &entries {
        add(&mut before, entry.clone()).await;
    }
    let waiting = before.waiting();
    drop(before);
    let mut again = spool(dir.path(), 1 << 30).await;
    assert_eq!((again.waiting(), again.waiting().writes), (waiting, 3));
    let name = blob_name(&stream(), &show("a"), &Rendition::source(), 1, 1);
    let number = again.blob(&name).unwrap();
    let bytes = read(&again.files(), number, None).await.unwrap();
    assert!(bytes.len() == 5000 && bytes.iter().all(|byte| *byte == 7));
    assert_eq!(read(&again.files(), number, Some(4990..9000)).await.unwrap().len(), 10);
    assert_eq!(again.chunks(&stream(), &show("a")).len(), 1);
    assert!(again.chunks(&stream(), &show("b")).is_empty());
    assert_eq!(order(&mut again), ["1.1.m4s", "2.1.m4s", "row 1 source"]);
    drop(again);
    // A power failure leaves a file without its end; a new write takes no old one's place.
    std::fs::write(dir.path().join(file(0)), b"{\"blob\":{\"name\":\"alice/a/source/0/1.1.m4s\",\"len\":5000}}\nxyz")
        .unwrap();
    let mut again = spool(dir.path(), 1 << 30).await;
    assert_eq!(again.waiting().writes, 2);
    assert_eq!(again.add(row("c", 1, &[])).0, 3);
}

#[tokio::test]
async fn over_the_bound_the_smallest_pictures_go_first_and_their_rows_do_not_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let renditions = ["source", "720p", "160p", "audio"];
    let mut spool = spool(dir.path(), 400_000).await;
    let mut lost = Vec::new();
    for k in 0..8 {
        for rendition in renditions {
            lost.extend(add(&mut spool, blob("a", rendition, k, 12_000)).await);
        }
        lost.extend(add(&mut spool, row("a", k, &renditions)).await);
        assert!(spool.waiting().bytes <= 400_000);
    }
    let of: Vec<_> = lost.iter().map(|name| (name.split('/').nth(2).unwrap(), numbers(name).unwrap().0)).collect();
    // The oldest first; the next size only when none of the smallest is left.
    let smallest: Vec<_> = of.iter().filter(|(rendition, _)| *rendition == "160p").map(|(_, k)| *k).collect();
    assert!(
        smallest.len() >= 6 && smallest.is_sorted() && of[..smallest.len() - 1].iter().all(|(r, _)| *r == "160p"),
        "{of:?}"
    );
    assert!(of.iter().all(|(rendition, _)| *rendition != "source" && *rendition != "audio"), "{of:?}");
    drop(spool);
    let mut spool = Spool::open(dir.path(), 400_000).await.unwrap();
    let order = order(&mut spool);
    for k in 0..8u64 {
        let kept: Vec<_> = renditions.into_iter().filter(|rendition| !of.contains(&(rendition, k))).collect();
        let row = format!("row {k} {}", kept.join(","));
        assert!(order.contains(&row), "{row}: {order:?}");
        assert_eq!(order.iter().filter(|name| **name == format!("{k}.1.m4s")).count(), kept.len());
    }
}

#[tokio::test]
async fn a_chunk_that_is_given_up_before_its_row_comes_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool(dir.path(), 30_000).await;
    assert!(add(&mut spool, blob("a", "160p", 1, 12_000)).await.is_empty());
    assert_eq!(add(&mut spool, blob("a", "source", 1, 12_000)).await.len(), 1);
    assert!(add(&mut spool, row("a", 1, &["source", "160p"])).await.is_empty());
    assert_eq!(order(&mut spool), ["1.1.m4s", "row 1 source"]);
}

#[test]
fn what_is_worth_most_is_what_all_else_is_made_from() {
    let value = |rendition| blob("a", rendition, 1, 1).value().unwrap();
    assert!(value("160p") < value("720p") && value("720p") < value("source") && value("source") == value("audio"));
    assert_eq!(Entry::Blob { name: "alice/a/720p/init-00.mp4".into(), len: 1 }.value(), None);
    assert_eq!(row("a", 1, &[]).value(), None);
}

#[tokio::test]
async fn epochs_of_a_stream_are_made_in_turn_and_what_is_deleted_waits_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool(dir.path(), 1 << 30).await;
    for entry in [blob("a", "source", 1, 10), epoch("a", 7), row("a", 1, &["source"]), epoch("b", 8), row("b", 1, &[])]
    {
        add(&mut spool, entry).await;
    }
    assert_eq!(spool.last_epoch(&stream()).unwrap().epoch, 8);
    // The first broadcast's waits for its bytes, and the second's for it.
    assert_eq!(spool.begin(Side::Rows), None);
    let gone = spool.drop_all(|entry| matches!(entry, Entry::Blob { .. }));
    assert_eq!(gone, [0]);
    assert_eq!(order(&mut spool), ["epoch 7", "row 1 source", "epoch 8", "row 1 "]);
}

#[tokio::test]
async fn all_rows_of_a_chunk_lose_what_is_given_up_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool(dir.path(), 45_000).await;
    for entry in [blob("a", "160p", 1, 12_000), row("a", 1, &["160p"]), blob("a", "source", 1, 12_000)] {
        assert!(add(&mut spool, entry).await.is_empty());
    }
    // Its row is written again with the late one, for which the small one has to go.
    assert_eq!(add(&mut spool, row("a", 1, &["160p", "source"])).await, Vec::<String>::new());
    assert_eq!(add(&mut spool, blob("a", "audio", 1, 2_000)).await.len(), 1);
    assert_eq!(add(&mut spool, row("a", 1, &["160p", "source", "audio"])).await.len(), 0);
    drop(spool);
    let mut spool = Spool::open(dir.path(), 45_000).await.unwrap();
    assert_eq!(order(&mut spool), ["1.1.m4s", "1.1.m4s", "row 1 ", "row 1 source", "row 1 source,audio"]);
}

#[tokio::test]
async fn what_is_made_in_an_epoch_that_waits_goes_nowhere_before_it_and_is_dropped_if_another_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = spool(dir.path(), 1 << 30).await;
    // The blobs and rows of these tests are of epoch 1.
    add(&mut spool, epoch("a", 1)).await;
    let entries = [blob("a", "source", 1, 10), row("a", 1, &["source"]), blob("b", "source", 1, 10)];
    assert!(spool.is_unlogged(&entries[0]) && spool.is_unlogged(&entries[1]) && !spool.is_unlogged(&entries[2]));
    for entry in entries.clone() {
        add(&mut spool, entry).await;
    }
    // Another node may have its names: only what is of another broadcast is written.
    let (number, begun) = spool.begin(Side::Bytes).unwrap();
    assert_eq!(begun, entries[2]);
    spool.done(number);
    assert_eq!(spool.begin(Side::Bytes), None);
    // After a restart, too.
    drop(spool);
    let mut spool = Spool::open(dir.path(), 1 << 30).await.unwrap();
    assert!(spool.is_unlogged(&entries[0]));
    let (number, begun) = spool.begin(Side::Rows).unwrap();
    assert_eq!(begun, epoch("a", 1));
    spool.lose("alice/a".into(), 1);
    assert!(spool.is_lost(&entries[0]) && spool.is_lost(&entries[1]) && !spool.is_lost(&entries[2]));
    assert_eq!(spool.drop_all(|entry| entry.epoch() == Some(1) && entry.show() == "alice/a").len(), 2);
    spool.done(number);
    // What comes late of it is not of an epoch that waits, but of one that is lost.
    assert!(!spool.is_unlogged(&entries[0]) && spool.is_lost(&entries[0]));
}
