use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::{
    id::{ClipId, Rendition},
    media::Pieces,
    recording::sweep,
    store::{
        Blobs, BroadcastRow, Child, ClipRow, RenditionChunk, blobs::Folder, embedded::Embedded, health::Health,
        init_name,
    },
    time::UnixMs,
};

/// Blobs that stop working after so many operations, as a node does that is killed.
struct Dying {
    folder: Folder,
    left: AtomicI64,
}

impl Dying {
    fn lives(&self) -> store::Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            true => Ok(()),
            false => Err(store::Error::Unavailable("killed".into())),
        }
    }
}

#[async_trait]
impl Blobs for Dying {
    async fn put(&self, name: &str, bytes: Pieces) -> store::Result<()> {
        self.folder.put(name, bytes).await
    }

    async fn get(&self, name: &str) -> store::Result<Bytes> {
        self.folder.get(name).await
    }

    async fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> store::Result<Bytes> {
        self.folder.get_range(name, range).await
    }

    async fn delete(&self, name: &str) -> store::Result<()> {
        self.lives()?;
        self.folder.delete(name).await
    }

    async fn list(&self, folder: &str) -> store::Result<Vec<Child>> {
        self.lives()?;
        self.folder.list(folder).await
    }
}

struct World {
    stores: Stores,
    blobs: Arc<Dying>,
    stream: StreamId,
    show: BroadcastId,
    other: BroadcastId,
    _dir: tempfile::TempDir,
}

const CHUNKS: u64 = 6;

/// Two broadcasts of six chunks in two renditions, the third chunk in two epochs.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let meta = Arc::new(Embedded::open(&dir.path().join("meta")).unwrap());
    let folder = Folder::open(&dir.path().join("blobs")).unwrap();
    let blobs = Arc::new(Dying { folder, left: AtomicI64::new(i64::MAX) });
    let stores = Stores { meta, blobs: blobs.clone(), health: Arc::new(Health::default()) };
    let (show, other) = (BroadcastId::new("01a").unwrap(), BroadcastId::new("01b").unwrap());
    let stream = StreamId::new("alice").unwrap();
    for broadcast in [&show, &other] {
        let row = BroadcastRow {
            stream: stream.clone(),
            id: broadcast.clone(),
            started: UnixMs(0),
            ended: Some(UnixMs(12_000)),
            target: 2,
            chunk_ms: 2000,
            part_ticks: 0,
            part_target_ms: 0,
            renditions: Vec::new(),
            summary: None,
            deleted: None,
        };
        stores.meta.put_broadcast(row).await.unwrap();
        stores.meta.put_about(&stream, broadcast, About { title: "t".into(), note: String::new() }).await.unwrap();
        for name in [Rendition::source(), Rendition::audio()] {
            stores
                .blobs
                .put(&init_name(&stream, broadcast, &name, "00ff"), Bytes::from_static(b"init").into())
                .await
                .unwrap();
        }
        for (k, epoch) in (0..CHUNKS).map(|k| (k, 1)).chain([(2, 2)]) {
            let mut renditions = Vec::new();
            for rendition in [Rendition::source(), Rendition::audio()] {
                let bytes = Bytes::from(vec![7; 10 + k as usize]);
                let (init, duration_us) = ("00ff".to_owned(), 2_000_000);
                renditions.push(RenditionChunk {
                    rendition: rendition.clone(),
                    init,
                    bytes: bytes.len() as u32,
                    iframe: 0,
                    duration_us,
                });
                stores.blobs.put(&blob_name(&stream, broadcast, &rendition, k, epoch), bytes.into()).await.unwrap();
            }
            let (at, wall) = (k as i64 * 180_000, UnixMs(k as i64 * 2000));
            let row = ChunkRow { k, epoch, at, duration: 180_000, wall, discontinuity: false, renditions };
            stores.meta.put_chunk(&stream, broadcast, row).await.unwrap();
        }
    }
    World { stores, blobs, stream, show, other, _dir: dir }
}

impl World {
    async fn take(&self) -> store::Result<Taken> {
        take_away(&self.stores, &self.stream, &self.show, |_| {}).await
    }

    async fn rows(&self, broadcast: &BroadcastId) -> Vec<u64> {
        let rows = self.stores.meta.chunks(&self.stream, broadcast, 0, 100).await.unwrap();
        rows.iter().map(|row| row.k).collect()
    }

    /// Every row that is left has its bytes, whatever happened, and the other broadcast has all.
    async fn is_sound(&self) {
        self.blobs.left.store(i64::MAX, Ordering::Relaxed);
        let found = sweep::look(&self.stores, UnixMs(0), |_, _| {}).await.unwrap();
        let other = format!("{}/{}", self.stream, self.other);
        assert!(found.missing.iter().all(|name| !name.starts_with(&other)), "{found:?}");
        assert_eq!(self.rows(&self.other).await, [0, 1, 2, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_what_the_next_try_completes() {
    let mut steps = 0;
    loop {
        let world = world().await;
        world.blobs.left.store(steps, Ordering::Relaxed);
        let died = world.take().await.is_err();
        world.is_sound().await;
        world.take().await.unwrap();
        assert!(world.rows(&world.show).await.is_empty());
        let left = world.stores.blobs.list(&format!("{}/{}", world.stream, world.show)).await.unwrap();
        assert!(left.is_empty(), "after {steps} steps: {left:?}");
        assert_eq!(world.stores.meta.about(&world.stream, &world.show).await.unwrap(), About::default());
        world.is_sound().await;
        if !died {
            break;
        }
        steps += 1;
    }
    assert!(steps > 14, "it died at every step: {steps}");
}

#[tokio::test]
async fn what_a_clip_needs_is_kept_until_the_clip_goes() {
    let world = world().await;
    let clip = ClipRow {
        id: ClipId::new("c1").unwrap(),
        stream: world.stream.clone(),
        broadcast: world.show.clone(),
        title: String::new(),
        created: UnixMs(0),
        from_ms: 4500,
        to_ms: 6500,
        chunks: (2, 3),
    };
    world.stores.meta.put_clip(clip.clone()).await.unwrap();
    let taken = world.take().await.unwrap();
    assert_eq!((taken.chunks, taken.bytes), (4, 2 * (10 + 11 + 14 + 15)));
    assert_eq!(world.rows(&world.show).await, [2, 2, 3]);
    assert!(sweep::look(&world.stores, UnixMs(0), |_, _| {}).await.unwrap().missing.is_empty());
    world.stores.meta.delete_clip(&clip.id).await.unwrap();
    world.take().await.unwrap();
    assert!(world.rows(&world.show).await.is_empty());
    assert!(world.stores.blobs.list(&format!("{}/{}", world.stream, world.show)).await.unwrap().is_empty());
}

#[tokio::test]
async fn orphans_go_when_they_are_old_and_missing_bytes_are_told() {
    let world = world().await;
    let (stream, source) = (&world.stream, Rendition::source());
    let orphan = blob_name(stream, &world.show, &source, 99, 1);
    world.stores.blobs.put(&orphan, Bytes::from_static(b"orphan").into()).await.unwrap();
    let nobodys = "bob/01z/source/0/0.1.m4s";
    world.stores.blobs.put(nobodys, Bytes::from_static(b"x").into()).await.unwrap();
    let gone = blob_name(stream, &world.other, &source, 1, 1);
    world.stores.blobs.delete(&gone).await.unwrap();
    let now = crate::time::unix_now();
    let young = sweep::look(&world.stores, now, |_, _| {}).await.unwrap();
    assert_eq!((young.orphans.len(), young.missing.as_slice()), (0, &[gone][..]));
    let later = UnixMs(now.0 + sweep::OLD.as_millis() as i64 + 1000);
    let mut old = sweep::look(&world.stores, later, |_, _| {}).await.unwrap();
    old.orphans.sort();
    assert_eq!(old.orphans, [orphan.clone(), nobodys.to_owned()]);
    sweep::remove(&world.stores, &old).await.unwrap();
    assert!(matches!(world.stores.blobs.get(&orphan).await, Err(store::Error::NotFound)));
    assert!(sweep::look(&world.stores, later, |_, _| {}).await.unwrap().orphans.is_empty());
    assert_eq!(world.rows(&world.show).await, [0, 1, 2, 2, 3, 4, 5]);
}
