//! What people do with recordings: list them, give them a title, cut clips, delete them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Mutex;

use super::{Archive, Recording};
use crate::{
    id::{BroadcastId, ClipId, StreamId},
    line::{Lines, Stores},
    package::{BadClip, Clip},
    store::{self, About, AccessRow, Blobs, BroadcastRow, ClipRow, ClipsOf, Summary},
    time::{UnixMs, unix_now},
};

/// Letters of a title, and of a note.
const TITLE_MAX: usize = 200;
const NOTE_MAX: usize = 5000;
/// How long other nodes are told of a deletion: whoever hears of it later asks for what it has not.
const DELETED_TOLD: Duration = Duration::from_secs(86_400);
/// Recordings that are counted for one page of a list; each is, once.
const COUNTED_AT_ONCE: usize = 3;
/// Clips of one broadcast.
const CLIPS_MAX: usize = 1000;
/// Clips that may wait to be made; each is a write that is safe on the disk.
const WAITING_MAX: usize = 64;

/// Why something cannot be done with a recording.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("there is no such broadcast")]
    Unknown,
    #[error("this broadcast was deleted")]
    Deleted,
    #[error("nothing of this broadcast is recorded")]
    Nothing,
    #[error("this broadcast is live: stop it before it is deleted")]
    Live,
    #[error("the clip lies outside the broadcast, which has {:.1} s", *.duration_ms as f64 / 1000.0)]
    Outside { duration_ms: u64 },
    #[error(transparent)]
    BadClip(#[from] BadClip),
    #[error("a {what} may have {max} letters")]
    TooLong { what: &'static str, max: usize },
    #[error("this broadcast has {CLIPS_MAX} clips, more are not kept")]
    TooManyClips,
    #[error("this node has no time for pictures now")]
    NoTime,
    #[error("a picture of this broadcast cannot be made: {0}")]
    NoPicture(String),
    #[error("too much of that is being made now: try again in a moment")]
    Busy,
}

/// A broadcast as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    pub row: BroadcastRow,
    pub about: About,
    /// What it amounts to, where that is known without reading all of it.
    pub summary: Option<Summary>,
}

/// One end of a clip that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds from the broadcast's start.
    At(u64),
    /// By the wall clock.
    Wall(UnixMs),
}

/// A clip that is to be made.
#[derive(Debug, Clone)]
pub struct NewClip {
    pub from: Moment,
    pub to: Moment,
    pub title: String,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Library {
    stores: Stores,
    lines: Lines,
    archive: Arc<Archive>,
    /// Held while a row is read and written again, and while a clip is added.
    changing: Arc<Mutex<()>>,
    waiting: Arc<AtomicUsize>,
}

impl Library {
    pub fn new(stores: Stores, lines: Lines, archive: Arc<Archive>) -> Self {
        Self { stores, lines, archive, changing: Arc::default(), waiting: Arc::default() }
    }

    /// A stream's broadcasts older than `before`, newest first, at most `limit`; and where the next page begins.
    pub async fn broadcasts(
        &self,
        stream: &StreamId,
        before: Option<&BroadcastId>,
        limit: usize,
    ) -> store::Result<(Vec<Shown>, Option<BroadcastId>)> {
        let (mut shown, mut next) = (Vec::new(), before.cloned());
        let mut uncounted = COUNTED_AT_ONCE;
        loop {
            let asked = limit - shown.len();
            let page = self.stores.meta.broadcasts(stream, next.as_ref(), asked).await?;
            let is_last = page.len() < asked;
            next = page.last().map(|row| row.id.clone()).filter(|_| !is_last);
            for row in page.into_iter().filter(|row| row.deleted.is_none() && !row.renditions.is_empty()) {
                let counted = row.summary.is_some() || row.ended.is_none();
                shown.push(match counted || uncounted == 0 {
                    true => self.shown(row).await?,
                    false => {
                        uncounted -= 1;
                        self.counted(row).await?
                    }
                });
            }
            if is_last || shown.len() == limit {
                return Ok((shown, next));
            }
        }
    }

    async fn shown(&self, row: BroadcastRow) -> store::Result<Shown> {
        let about = self.stores.meta.about(&row.stream, &row.id).await?;
        Ok(Shown { about, summary: row.summary, row })
    }

    /// Where bytes are.
    pub fn blobs(&self) -> &dyn Blobs {
        &*self.stores.blobs
    }

    pub(super) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Forgets what is kept in memory of a broadcast.
    pub(super) fn forget(&self, stream: &StreamId, id: &BroadcastId) {
        self.archive.forget(stream, id);
    }

    /// Says that a broadcast is deleted, here and to other nodes.
    pub(super) async fn mark_deleted(&self, row: BroadcastRow) -> Result<(), Refused> {
        if row.ended.is_none() || self.lines.live(&row.stream).is_some_and(|live| live.broadcast == row.id) {
            return Err(Refused::Live);
        }
        // Its clips need to know where it began.
        let Shown { row, .. } = self.broadcast(row).await?;
        let (stream, broadcast) = (row.stream.clone(), row.id.clone());
        {
            // Whoever makes a clip of it now is seen by the job that comes after this, or told that it is deleted.
            let _turn = self.changing.lock().await;
            self.stores.meta.put_broadcast(BroadcastRow { deleted: Some(unix_now()), ..row }).await?;
        }
        Ok(self.tell_deleted(stream, broadcast).await?)
    }

    /// Has every node let go of what it keeps of a deleted broadcast.
    pub(super) async fn tell_deleted(&self, stream: StreamId, broadcast: BroadcastId) -> store::Result<()> {
        self.archive.forget(&stream, &broadcast);
        let until = UnixMs(unix_now().0 + DELETED_TOLD.as_millis() as i64);
        self.stores.meta.put_access(AccessRow::Deleted { stream, broadcast, until }).await
    }

    /// The row of a broadcast that is not deleted.
    pub async fn row(&self, id: &BroadcastId) -> Result<BroadcastRow, Refused> {
        let stream = self.stores.meta.stream_of(id).await?.ok_or(Refused::Unknown)?;
        let row = self.stores.meta.broadcast(&stream, id).await?.ok_or(Refused::Unknown)?;
        if row.deleted.is_some() { Err(Refused::Deleted) } else { Ok(row) }
    }

    /// One broadcast with all that is known of it.
    pub async fn broadcast(&self, row: BroadcastRow) -> Result<Shown, Refused> {
        self.counted(row).await.map_err(Refused::Store)
    }

    /// The same: reads all of what was not counted before.
    async fn counted(&self, row: BroadcastRow) -> store::Result<Shown> {
        let mut shown = self.shown(row).await?;
        if shown.summary.is_none() {
            shown.summary = match self.recording(&shown.row.stream, &shown.row.id).await {
                Ok(recording) => Some(recording.summary()),
                Err(Refused::Store(why)) => return Err(why),
                Err(_) => None,
            };
            if shown.row.ended.is_some() && shown.summary.is_some() {
                // It never changes again, and lists show it. What was read above may have been deleted since.
                let _turn = self.changing.lock().await;
                let row = self.stores.meta.broadcast(&shown.row.stream, &shown.row.id).await?;
                if let Some(row) = row.filter(|row| row.deleted.is_none()) {
                    shown.row = BroadcastRow { summary: shown.summary, ..row };
                    self.stores.meta.put_broadcast(shown.row.clone()).await?;
                }
            }
        }
        Ok(shown)
    }

    /// What there is of a broadcast, from the line that makes it or from the store.
    pub async fn recording(&self, stream: &StreamId, id: &BroadcastId) -> Result<Arc<Recording>, Refused> {
        let live = self.lines.live(stream).filter(|live| live.broadcast == *id);
        let recording = match live {
            Some(live) => self.archive.of_live(&live).await?.map(Arc::new),
            None => match self.archive.recording(stream, id).await {
                Err(store::Error::NotFound) => None,
                recording => Some(recording?),
            },
        };
        recording.ok_or(Refused::Nothing)
    }

    /// Sets title and note, each where it is given.
    pub async fn set_about(&self, row: &BroadcastRow, title: Option<&str>, note: Option<&str>) -> Result<(), Refused> {
        let mut about = self.stores.meta.about(&row.stream, &row.id).await?;
        if let Some(title) = title {
            about.title = plain(title, "title", TITLE_MAX)?;
        }
        if let Some(note) = note {
            about.note = plain(note, "note", NOTE_MAX)?;
        }
        Ok(self.stores.meta.put_about(&row.stream, &row.id, about).await?)
    }

    /// Makes a clip: a row that names a part of the broadcast. An end that lies after what is recorded is cut to it.
    pub async fn make_clip(&self, row: &BroadcastRow, new: NewClip) -> Result<ClipRow, Refused> {
        let title = plain(&new.title, "title", TITLE_MAX)?;
        let recording = self.recording(&row.stream, &row.id).await?;
        let duration_ms = recording.summary().duration_ms;
        let outside = Refused::Outside { duration_ms };
        let ms = |moment| match moment {
            Moment::At(ms) => Some(ms),
            Moment::Wall(wall) => recording.ms_at(wall),
        };
        let (from_ms, to_ms) = (ms(new.from).unwrap_or(0), ms(new.to));
        let Some(to_ms) = to_ms.filter(|_| from_ms < duration_ms) else { return Err(outside) };
        let clip = Clip::new(from_ms, to_ms)?;
        let clip = Clip { to_ms: clip.to_ms.min(duration_ms), ..clip };
        let chunks = recording.chunks_of(clip).ok_or(outside)?;
        let _waits = Waits::begin(&self.waiting).ok_or(Refused::Busy)?;
        // One after the other, so that the count holds.
        let _turn = self.changing.lock().await;
        self.row(&row.id).await?;
        let of = ClipsOf::Broadcast(row.id.clone());
        if self.stores.meta.clips(&of, None, CLIPS_MAX).await?.len() >= CLIPS_MAX {
            return Err(Refused::TooManyClips);
        }
        let created = unix_now();
        let clip = ClipRow {
            id: ClipId::generate(created),
            stream: row.stream.clone(),
            broadcast: row.id.clone(),
            title,
            created,
            from_ms: clip.from_ms,
            to_ms: clip.to_ms,
            chunks,
        };
        self.stores.meta.put_clip(clip.clone()).await?;
        Ok(clip)
    }

    /// Clips older than `before`, newest first; and where the next page begins.
    pub async fn clips(
        &self,
        of: &ClipsOf,
        before: Option<&ClipId>,
        limit: usize,
    ) -> store::Result<(Vec<ClipRow>, Option<ClipId>)> {
        let clips = self.stores.meta.clips(of, before, limit).await?;
        let next = clips.last().filter(|_| clips.len() == limit).map(|clip| clip.id.clone());
        Ok((clips, next))
    }

    pub async fn clip(&self, id: &ClipId) -> store::Result<ClipRow> {
        self.stores.meta.clip(id).await?.ok_or(store::Error::NotFound)
    }

    pub async fn delete_clip(&self, clip: &ClipRow) -> store::Result<()> {
        self.stores.meta.delete_clip(&clip.id).await?;
        self.archive.forget(&clip.stream, &clip.broadcast);
        Ok(())
    }
}

/// A place among those who wait to make a clip.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Option<Self> {
        let waits = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A text of people: without the letters that no one sees, as long as it may be.
fn plain(text: &str, what: &'static str, max: usize) -> Result<String, Refused> {
    let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    let text = text.trim();
    if text.chars().count() > max { Err(Refused::TooLong { what, max }) } else { Ok(text.to_owned()) }
}
