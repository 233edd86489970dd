//! The open database: its tables, its sizes, and what its errors mean. Sync; who calls it may block.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode};

use super::keys::{self, Space};
use crate::store::{Error, Result, plain};

/// Blocks of tables kept in memory. What is read often is the live window, and that is read from the line's memory, not
/// from here; a recording's page is a few blocks.
const CACHE_BYTES: u64 = 8 << 20;
/// Table files kept open, each some kB.
const FILES_OPEN: usize = 128;
/// All journals together: the least the engine takes. Journals are sparse files of 64 MiB.
const JOURNAL_BYTES: u64 = 64 << 20;
/// One thread flushes and compacts: 100 live streams write some 50 kB a second.
const WORKERS: usize = 1;
/// Rows of a table held in memory until they are written out: for chunks a minute and a half of 100 streams. Up to
/// four such lots per table may wait for the worker, then writes wait.
const MEMTABLE_BYTES: usize = 4 << 20;
/// What a row takes in memory beyond its key and value, about.
const ROW_OVERHEAD_BYTES: usize = 64;

/// An open database and its tables.
pub(super) struct Db {
    database: Database,
    streams: Keyspace,
    epochs: Keyspace,
    broadcasts: Keyspace,
    open: Keyspace,
    chunks: Keyspace,
    access: Keyspace,
    ids: Keyspace,
    about: Keyspace,
    clips: Keyspace,
    jobs: Keyspace,
    nodes: Keyspace,
    chat: Keyspace,
    chat_rules: Keyspace,
    audience: Keyspace,
    /// Bytes written to each table since it was last told to write itself out.
    unrotated: [AtomicUsize; Space::ALL.len()],
}

/// One row to write; no value deletes.
pub(super) struct Put {
    pub space: Space,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Db {
    pub fn open(dir: &Path) -> Result<Self> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(FILES_OPEN))
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            .open()
            .map_err(|error| open_error(dir, error))?;
        let table = |name| {
            let table = database.keyspace(name, KeyspaceCreateOptions::default);
            table.map_err(|error| open_error(dir, error))
        };
        Ok(Self {
            streams: table("streams")?,
            epochs: table("epochs")?,
            broadcasts: table("broadcasts")?,
            open: table("open")?,
            chunks: table("chunks")?,
            access: table("access")?,
            ids: table("ids")?,
            about: table("about")?,
            clips: table("clips")?,
            jobs: table("jobs")?,
            nodes: table("nodes")?,
            chat: table("chat")?,
            chat_rules: table("chat_rules")?,
            audience: table("audience")?,
            unrotated: Default::default(),
            database,
        })
    }

    pub fn table(&self, space: Space) -> &Keyspace {
        match space {
            Space::Streams => &self.streams,
            Space::Epochs => &self.epochs,
            Space::Broadcasts => &self.broadcasts,
            Space::Open => &self.open,
            Space::Chunks => &self.chunks,
            Space::Access => &self.access,
            Space::Ids => &self.ids,
            Space::About => &self.about,
            Space::Clips => &self.clips,
            Space::Jobs => &self.jobs,
            Space::Nodes => &self.nodes,
            Space::Chat => &self.chat,
            Space::ChatRules => &self.chat_rules,
            Space::Audience => &self.audience,
        }
    }

    /// The number of the newest row of a stream's epoch log, 0 when it is empty. Read from the key: a damaged row
    /// holds its number too.
    pub fn last_epoch(&self, stream: &crate::id::StreamId) -> Result<u64> {
        let Some(row) = self.epochs.range(keys::epochs(stream)).next_back() else { return Ok(0) };
        let key = row.key().map_err(|error| read_error(&format!("the epoch log of {stream}"), error))?;
        keys::epoch_number(&key).ok_or_else(|| Error::Damaged(keys::show(Space::Epochs, &key)))
    }

    pub fn contains(&self, space: Space, key: &[u8]) -> Result<bool> {
        self.table(space).contains_key(key).map_err(|error| read_error(&keys::show(space, key), error))
    }

    /// Writes rows, all or none. On return they survive the end of the process, with `sync` that of the machine.
    pub fn commit(&self, rows: Vec<Put>, sync: bool) -> std::result::Result<(), fjall::Error> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for Put { space, key, value } in rows {
            let bytes = key.len() + value.as_ref().map_or(0, Vec::len) + ROW_OVERHEAD_BYTES;
            self.unrotated[space as usize].fetch_add(bytes, Ordering::Relaxed);
            match value {
                Some(value) => batch.insert(self.table(space), key, value),
                None => batch.remove(self.table(space), key),
            }
        }
        batch.commit()?;
        self.rotate()
    }

    /// Has full memory tables written out.
    ///
    /// The engine's own trigger (`max_memtable_size`, left at its default far above ours) must not fire: each commit past it queues
    /// one more message for the worker, which after 1,000 of them blocks on the queue that it alone empties, and
    /// from then on nothing is written out and memory grows (fjall 3.1.13, `inner_rotate_memtable`).
    fn rotate(&self) -> std::result::Result<(), fjall::Error> {
        for space in Space::ALL {
            let bytes = &self.unrotated[space as usize];
            if bytes.load(Ordering::Relaxed) >= MEMTABLE_BYTES {
                bytes.store(0, Ordering::Relaxed);
                self.table(space).rotate_memtable()?;
            }
        }
        Ok(())
    }

    /// Bytes of rows in memory that are not yet written out.
    #[cfg(test)]
    pub fn memory_bytes(&self) -> u64 {
        self.database.write_buffer_size()
    }

    /// Makes all that is written survive the end of the machine.
    pub fn sync(&self) -> std::result::Result<(), fjall::Error> {
        self.database.persist(PersistMode::SyncData)
    }
}

fn open_error(dir: &Path, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Locked => Error::Unavailable(format!("data folder {} is in use by another weir", dir.display())),
        error => match io_cause(&error) {
            Some(cause) => Error::Unavailable(format!("data folder {}: {}", dir.display(), plain(cause))),
            None => Error::Damaged(format!("data folder {}: {error:?}", dir.display())),
        },
    }
}

/// Says what a failed read of `what` means: whether the disk failed, or what is on it is wrong.
pub(super) fn read_error(what: &str, error: fjall::Error) -> Error {
    match (&error, io_cause(&error)) {
        (_, Some(cause)) => Error::Unavailable(format!("{what}: {}", plain(cause))),
        (fjall::Error::Poisoned, _) => Error::Unavailable("an earlier write failed".into()),
        _ => Error::Damaged(format!("{what}: {error:?}")),
    }
}

/// Says why nothing can be written now.
pub(super) fn write_error(error: &fjall::Error) -> String {
    match io_cause(error) {
        Some(cause) => plain(cause),
        None => format!("{error:?}"),
    }
}

fn io_cause(error: &fjall::Error) -> Option<&io::Error> {
    match error {
        fjall::Error::Io(cause) | fjall::Error::Storage(LsmError::Io(cause)) => Some(cause),
        _ => None,
    }
}

/// Makes the folder's path, so that the error names the folder and not the engine.
pub(super) fn make_folder(dir: &Path) -> Result<PathBuf> {
    let failed = |error: io::Error| Error::Unavailable(format!("data folder {}: {}", dir.display(), plain(&error)));
    std::fs::create_dir_all(dir).map_err(failed)?;
    dir.canonicalize().map_err(failed)
}
