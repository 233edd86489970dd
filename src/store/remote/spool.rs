//! What waits on the local disk for stores that are away: one file per write, in order, within a bound.
//!
//! Enter writes, leave the oldest that may be made next. Files survive a crash as chunk files do. Over the bound the least is
//! lost: the oldest chunks of the smallest renditions are given up, and the rows that name them are written without them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Side;
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    media::Pieces,
    store::{
        AudienceRow, Blobs, BroadcastRow, ChatWrite, Child, ChunkRow, EpochRow, Error, Result, blob_name, blobs::Folder,
    },
};

/// Files per folder.
const FOLDER: u64 = 1000;
/// The folder of what no store takes.
const ASIDE: &str = "aside";
/// A file's first line is shorter.
pub const HEAD_MAX: u64 = 64 << 10;
/// What a waiting write costs beside its bytes: a block of the disk.
const OVERHEAD: u64 = 4 << 10;

/// A write that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The bytes of an object, of this length: they follow in the file.
    Blob {
        name: String,
        len: u64,
    },
    Chunk {
        stream: StreamId,
        broadcast: BroadcastId,
        row: ChunkRow,
    },
    Broadcast {
        row: BroadcastRow,
    },
    Epoch {
        stream: StreamId,
        row: EpochRow,
    },
    Chat {
        stream: StreamId,
        writes: Vec<ChatWrite>,
    },
    Audience {
        stream: StreamId,
        rows: Vec<AudienceRow>,
    },
}

impl Entry {
    /// The broadcast it is of, `stream/broadcast`; `stream//chat` and the like, which no broadcast is called, of what is of none.
    pub fn show(&self) -> String {
        match self {
            Entry::Blob { name, .. } => show_of(name),
            Entry::Chunk { stream, broadcast, .. } => format!("{stream}/{broadcast}"),
            Entry::Broadcast { row } => format!("{}/{}", row.stream, row.id),
            Entry::Epoch { stream, row } => format!("{stream}/{}", row.broadcast),
            Entry::Chat { stream, .. } => chat_of(stream),
            Entry::Audience { stream, .. } => format!("{stream}//audience"),
        }
    }

    /// What it is, for people.
    pub fn what(&self) -> &'static str {
        match self {
            Entry::Blob { .. } => "an object",
            Entry::Chunk { .. } => "a chunk's row",
            Entry::Broadcast { .. } => "a broadcast's row",
            Entry::Epoch { .. } => "an epoch",
            Entry::Chat { .. } => "chat rows",
            Entry::Audience { .. } => "rows of an audience",
        }
    }

    pub fn side(&self) -> Side {
        if matches!(self, Entry::Blob { .. }) { Side::Bytes } else { Side::Rows }
    }

    /// The epoch whose chunk it is.
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Entry::Blob { name, .. } => numbers(name).map(|(_, epoch)| epoch),
            Entry::Chunk { row, .. } => Some(row.epoch),
            Entry::Broadcast { .. } | Entry::Epoch { .. } | Entry::Chat { .. } | Entry::Audience { .. } => None,
        }
    }

    fn bytes(&self) -> u64 {
        OVERHEAD + if let Entry::Blob { len, .. } = self { *len } else { 0 }
    }

    /// What it is worth to keep; what is not a chunk's bytes is always kept.
    fn value(&self) -> Option<u32> {
        let Entry::Blob { name, .. } = self else { return None };
        let rendition = name.split('/').nth(2)?;
        name.ends_with(".m4s").then_some(())?;
        let lines = rendition.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        // What nothing can be made of without: the source, the sound, and what is named by its owner.
        Some(lines.unwrap_or(u32::MAX))
    }
}

fn chat_of(stream: &StreamId) -> String {
    format!("{stream}//chat")
}

/// The broadcast of a blob's name.
pub fn show_of(name: &str) -> String {
    name.split('/').take(2).collect::<Vec<_>>().join("/")
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    pub writes: u64,
    pub bytes: u64,
}

/// The index of what waits; the bytes lie in files.
pub struct Spool {
    files: Arc<Folder>,
    bytes_max: u64,
    next: u64,
    waiting: BTreeMap<u64, Entry>,
    /// Those that are being made now.
    busy: HashSet<u64>,
    bytes: u64,
    /// What waits of each broadcast.
    shows: HashMap<String, BTreeSet<u64>>,
    /// What may be given up, by what it is worth.
    victims: BTreeSet<(u32, u64)>,
    /// The epochs that wait, by broadcast and number.
    epochs: HashSet<(String, u64)>,
    /// Epochs that another node took instead: nothing of them counts.
    lost: HashSet<(String, u64)>,
    /// Where an object's bytes wait.
    blobs: HashMap<String, u64>,
    /// Objects that were given up, by broadcast, as long as something of it waits: the rows that come name them no more.
    given_up: HashMap<String, HashSet<String>>,
}

/// What is to be done with files; done without the lock on the index.
#[derive(Debug, PartialEq)]
pub enum Change {
    Write(u64, Entry),
    Remove(u64),
}

impl Spool {
    /// Opens a folder and reads what waits there. What a power failure left half of is told and dropped.
    pub async fn open(dir: &Path, bytes_max: u64) -> Result<Self> {
        let mut spool = Self {
            files: Arc::new(Folder::open(dir)?),
            bytes_max,
            next: 0,
            waiting: BTreeMap::new(),
            busy: HashSet::new(),
            bytes: 0,
            shows: HashMap::new(),
            victims: BTreeSet::new(),
            epochs: HashSet::new(),
            lost: HashSet::new(),
            blobs: HashMap::new(),
            given_up: HashMap::new(),
        };
        for folder in spool.files.list("").await? {
            let Child::Folder(folder) = folder else { continue };
            for file in spool.files.list(&folder).await? {
                let Child::Blob { name, bytes, .. } = file else { continue };
                let number = name.rsplit('/').next().and_then(|number| number.parse::<u64>().ok());
                if folder == ASIDE {
                    // No other takes its place.
                    spool.next = spool.next.max(number.map_or(0, |number| number + 1));
                    continue;
                }
                let head = spool.files.get_range(&name, 0..HEAD_MAX).await?;
                match number.zip(head_of(&head, bytes)) {
                    Some((number, entry)) => spool.note(number, entry),
                    None => {
                        tracing::warn!(name, "half a write waited in the spool: it is lost");
                        spool.files.delete(&name).await?;
                    }
                }
            }
        }
        Ok(spool)
    }

    pub fn files(&self) -> Arc<Folder> {
        self.files.clone()
    }

    pub fn waiting(&self) -> Waiting {
        Waiting { writes: self.waiting.len() as u64, bytes: self.bytes }
    }

    /// Whether anything of a broadcast waits: then what comes after it must wait, too.
    pub fn has(&self, show: &str) -> bool {
        self.shows.contains_key(show)
    }

    fn note(&mut self, number: u64, entry: Entry) {
        self.next = self.next.max(number + 1);
        self.bytes += entry.bytes();
        self.shows.entry(entry.show()).or_default().insert(number);
        if let Some(value) = entry.value() {
            self.victims.insert((value, number));
        }
        if let Entry::Blob { name, .. } = &entry {
            self.blobs.insert(name.clone(), number);
        }
        if let Entry::Epoch { row, .. } = &entry {
            self.epochs.insert((entry.show(), row.epoch));
        }
        self.waiting.insert(number, entry);
    }

    /// Whether a write is of an epoch that waits to be taken: until it is, another node may have its names.
    pub fn is_unlogged(&self, entry: &Entry) -> bool {
        is_of(&self.epochs, entry)
    }

    /// Another node has this epoch.
    pub fn lose(&mut self, show: String, epoch: u64) {
        self.lost.insert((show, epoch));
    }

    /// Whether a write is of an epoch that another node has.
    pub fn is_lost(&self, entry: &Entry) -> bool {
        is_of(&self.lost, entry)
    }

    /// Takes a place for a write, and says what to do with files for it: in this order. What had to be given up is told by name.
    pub fn add(&mut self, mut entry: Entry) -> (u64, Vec<Change>, Vec<String>) {
        if let Entry::Chunk { stream, broadcast, row } = &mut entry {
            self.leave_out(stream, broadcast, row);
        }
        let number = self.next;
        self.note(number, entry.clone());
        // Until its file is written it cannot be made.
        self.busy.insert(number);
        let (mut changes, mut lost) = (Vec::new(), Vec::new());
        while self.bytes > self.bytes_max {
            let Some(victim) = self.victim() else { break };
            lost.extend(self.give_up(victim, &mut changes));
        }
        // As it is now: what it named may have been given up for it.
        changes.push(Change::Write(number, self.waiting[&number].clone()));
        (number, changes, lost)
    }

    /// Takes out of a chunk's row what was given up of it.
    pub fn leave_out(&self, stream: &StreamId, broadcast: &BroadcastId, row: &mut ChunkRow) {
        if let Some(lost) = self.given_up.get(&format!("{stream}/{broadcast}")) {
            let (k, epoch) = (row.k, row.epoch);
            row.renditions.retain(|made| !lost.contains(&blob_name(stream, broadcast, &made.rendition, k, epoch)));
        }
    }

    /// Whether anything waits for one of the stores.
    pub fn has_side(&self, side: Side) -> bool {
        self.waiting.values().any(|entry| entry.side() == side)
    }

    /// The oldest chunk of the lowest value.
    fn victim(&self) -> Option<u64> {
        self.victims.iter().map(|(_, number)| *number).find(|number| !self.busy.contains(number))
    }

    fn give_up(&mut self, number: u64, changes: &mut Vec<Change>) -> Option<String> {
        let Entry::Blob { name, .. } = self.forget(number)? else { return None };
        // The row that names it is written anew first: a crash in between leaves bytes without a row, not the reverse.
        let numbers = numbers(&name);
        // A late rendition had its row written again: there may be more than one.
        for row_number in self.shows.get(&show_of(&name)).into_iter().flatten() {
            let Some(entry) = self.waiting.get_mut(row_number) else { continue };
            let Entry::Chunk { stream, broadcast, row } = entry else { continue };
            let (k, epoch, before) = (row.k, row.epoch, row.renditions.len());
            if Some((k, epoch)) == numbers {
                let is_named = |made: &Rendition| blob_name(stream, broadcast, made, k, epoch) == name;
                row.renditions.retain(|made| !is_named(&made.rendition));
            }
            if row.renditions.len() < before {
                changes.push(Change::Write(*row_number, entry.clone()));
            }
        }
        // Forgotten with the last of its broadcast that waits: this is the last only where its row has not come.
        self.given_up.entry(show_of(&name)).or_default().insert(name.clone());
        changes.push(Change::Remove(number));
        Some(name)
    }

    fn forget(&mut self, number: u64) -> Option<Entry> {
        let entry = self.waiting.remove(&number)?;
        self.busy.remove(&number);
        self.bytes -= entry.bytes();
        if let Some(value) = entry.value() {
            self.victims.remove(&(value, number));
        }
        let show = entry.show();
        if let Entry::Epoch { row, .. } = &entry {
            self.epochs.remove(&(show.clone(), row.epoch));
        }
        let left = self.shows.get_mut(&show).expect("it is among them");
        left.remove(&number);
        if left.is_empty() {
            self.shows.remove(&show);
            self.given_up.remove(&show);
        }
        if let Entry::Blob { name, .. } = &entry
            && self.blobs.get(name) == Some(&number)
        {
            self.blobs.remove(name);
        }
        Some(entry)
    }

    /// A write that was begun has a file now, or failed to be made and waits again.
    pub fn rest(&mut self, number: u64) {
        self.busy.remove(&number);
    }

    /// It was made, or has no file: it waits no more.
    pub fn done(&mut self, number: u64) {
        self.forget(number);
    }

    /// The oldest write for a store that may be made now: bytes as soon as their epoch is in the log, a row when nothing before it
    /// waits of its broadcast,
    /// an epoch when none of its stream does either.
    pub fn begin(&mut self, side: Side) -> Option<(u64, Entry)> {
        let is_idle = |number: &u64| !self.busy.contains(number);
        let next = match side {
            Side::Bytes => {
                let is_free = |entry: &Entry| entry.side() == side && !self.is_unlogged(entry);
                let objects = self.waiting.iter().filter(|(_, entry)| is_free(entry));
                objects.map(|(number, _)| *number).find(is_idle)
            }
            Side::Rows => {
                let firsts = self.shows.values().filter_map(|show| show.first().copied());
                firsts.filter(|first| is_idle(first) && self.is_next(*first)).min()
            }
        };
        let number = next?;
        let entry = self.waiting[&number].clone();
        self.busy.insert(number);
        Some((number, entry))
    }

    /// Whether the first of a broadcast that waits is a row, and no epoch that comes after another of its stream.
    fn is_next(&self, number: u64) -> bool {
        match &self.waiting[&number] {
            Entry::Blob { .. } => false,
            Entry::Chunk { .. } | Entry::Broadcast { .. } | Entry::Chat { .. } | Entry::Audience { .. } => true,
            Entry::Epoch { stream, .. } => {
                let is_of = |entry: &Entry| matches!(entry, Entry::Epoch { stream: of, .. } if of == stream);
                !self.waiting.range(..number).any(|(_, entry)| is_of(entry))
            }
        }
    }

    /// Forgets what waits of these, unless it is being made: it was deleted. Gives their numbers.
    pub fn drop_all(&mut self, is_gone: impl Fn(&Entry) -> bool) -> Vec<u64> {
        let idle = self.waiting.iter().filter(|(number, _)| !self.busy.contains(number));
        let gone: Vec<_> = idle.filter(|(_, entry)| is_gone(entry)).map(|(number, _)| *number).collect();
        gone.iter().for_each(|number| _ = self.forget(*number));
        gone
    }

    /// Where the bytes of an object wait.
    pub fn blob(&self, name: &str) -> Option<u64> {
        self.blobs.get(name).copied()
    }

    /// What waits of a broadcast, oldest first.
    fn of(&self, stream: &StreamId, broadcast: &BroadcastId) -> impl Iterator<Item = &Entry> {
        let show = self.shows.get(&format!("{stream}/{broadcast}"));
        show.into_iter().flatten().map(|number| &self.waiting[number])
    }

    /// The chunk rows of a broadcast that wait.
    pub fn chunks(&self, stream: &StreamId, broadcast: &BroadcastId) -> Vec<ChunkRow> {
        let rows = self.of(stream, broadcast).filter_map(|entry| match entry {
            Entry::Chunk { row, .. } => Some(row.clone()),
            _ => None,
        });
        rows.collect()
    }

    /// The newest epoch of a stream that waits.
    pub fn last_epoch(&self, stream: &StreamId) -> Option<EpochRow> {
        let rows = self.waiting.values().filter_map(|entry| match entry {
            Entry::Epoch { stream: of, row } if of == stream => Some(row.clone()),
            _ => None,
        });
        rows.max_by_key(|row| row.epoch)
    }

    /// The epochs of a broadcast that wait, oldest first.
    pub fn epochs(&self, stream: &StreamId, broadcast: &BroadcastId) -> Vec<EpochRow> {
        let rows = self.of(stream, broadcast).filter_map(|entry| match entry {
            Entry::Epoch { row, .. } => Some(row.clone()),
            _ => None,
        });
        rows.collect()
    }

    /// What waits of a stream's chat, oldest first.
    pub fn chat(&self, stream: &StreamId) -> Vec<ChatWrite> {
        let numbers = self.shows.get(&chat_of(stream)).into_iter().flatten();
        let writes = numbers.filter_map(|number| match &self.waiting[number] {
            Entry::Chat { writes, .. } => Some(writes.clone()),
            _ => None,
        });
        writes.flatten().collect()
    }

    /// The objects that wait, with their lengths.
    pub fn blobs(&self) -> Vec<(String, u64)> {
        let blobs = self.waiting.values().filter_map(|entry| match entry {
            Entry::Blob { name, len } => Some((name.clone(), *len)),
            _ => None,
        });
        blobs.collect()
    }

    /// The newest row of each broadcast whose row waits.
    pub fn broadcasts(&self) -> BTreeMap<BroadcastId, BroadcastRow> {
        let rows = self.waiting.values().filter_map(|entry| match entry {
            Entry::Broadcast { row } => Some((row.id.clone(), row.clone())),
            _ => None,
        });
        rows.collect()
    }
}

/// Whether a write is of one of these epochs, each of a broadcast.
fn is_of(epochs: &HashSet<(String, u64)>, entry: &Entry) -> bool {
    // Mostly there is none: what is written all the time is not taken apart for it.
    !epochs.is_empty() && entry.epoch().is_some_and(|epoch| epochs.contains(&(entry.show(), epoch)))
}

/// The number and epoch in a chunk's name.
fn numbers(name: &str) -> Option<(u64, u64)> {
    let (k, epoch) = name.rsplit('/').next()?.strip_suffix(".m4s")?.split_once('.')?;
    Some((k.parse().ok()?, epoch.parse().ok()?))
}

/// The name of a waiting write's file.
pub fn file(number: u64) -> String {
    format!("{}/{number:016}", number / FOLDER)
}

/// Where a write is put that no store takes.
pub fn aside(number: u64) -> String {
    format!("{ASIDE}/{number:016}")
}

/// A file's content.
pub fn content(entry: &Entry, bytes: &Pieces) -> Pieces {
    let mut head = serde_json::to_vec(entry).expect("a row is plain data");
    head.push(b'\n');
    std::iter::once(Bytes::from(head)).chain(bytes.iter().cloned()).collect()
}

/// Reads the first line of a file of so many bytes; nothing where the file is not whole.
fn head_of(head: &[u8], bytes: u64) -> Option<Entry> {
    let end = head.iter().position(|byte| *byte == b'\n')?;
    let entry: Entry = serde_json::from_slice(&head[..end]).ok()?;
    let len = if let Entry::Blob { len, .. } = &entry { *len } else { 0 };
    (end as u64 + 1 + len == bytes).then_some(entry)
}

/// Reads an object's bytes, or a part of them, where they wait.
pub async fn read(files: &Folder, number: u64, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
    let whole = files.get(&file(number)).await?;
    let end = whole.iter().position(|byte| *byte == b'\n').ok_or_else(|| Error::Damaged(file(number)))?;
    let bytes = whole.slice(end + 1..);
    Ok(match range {
        Some(range) => part(&bytes, &range),
        None => bytes,
    })
}

/// A part of an object's bytes, as far as they go.
pub fn part(bytes: &Bytes, range: &std::ops::Range<u64>) -> Bytes {
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(clamp(range.start)..clamp(range.end.max(range.start)))
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
