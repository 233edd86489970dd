//! Chunk bytes as files of a folder.
//!
//! Enter names and whole objects, leave bytes. A file is written in a staging folder and then renamed, so readers see
//! all of it or nothing; what a crash leaves there is swept at the next open. Files survive the end of the process at once and
//! that of the machine after a second: to sync each would cost more than all else a chunk costs, so the file system is synced
//! as a whole, once for all that was written in that second. What a power failure takes is the end of what was live.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{Blobs, Child, Error, Result, plain};
use crate::{media::Pieces, time::UnixMs};

/// Where files are written. No stream's name starts with a dot.
const STAGING: &str = ".staging";
/// Held locked while the folder is open, so that no other process sweeps what this one is writing.
const LOCK: &str = ".lock";
/// Reads and writes under way at once, each with a thread; more wait their turn.
const UNDER_WAY: usize = 16;

/// How long what is written may not be safe from a power failure: half a chunk, so that at most two chunks are lost.
const SYNC: Duration = Duration::from_secs(1);

/// A folder of blobs.
pub struct Folder {
    dir: PathBuf,
    staged: AtomicU64,
    /// Files that are in their place: what is to be synced.
    written: Arc<AtomicU64>,
    /// Closed with the folder: ends the thread that syncs it.
    _open: mpsc::SyncSender<()>,
    under_way: Arc<Semaphore>,
    _lock: File,
}

impl Folder {
    /// Opens a folder, making it as needed, and sweeps what a crash left half written.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be written or another process has it open.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |what: String| Error::Unavailable(format!("blob folder {}: {what}", dir.display()));
        let io = |error: io::Error| failed(plain(&error));
        let staging = dir.join(STAGING);
        fs::create_dir_all(&staging).map_err(io)?;
        let lock = File::create(dir.join(LOCK)).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => failed("in use by another weir".into()),
            fs::TryLockError::Error(error) => io(error),
        })?;
        for left_over in fs::read_dir(&staging).map_err(io)? {
            fs::remove_file(left_over.map_err(io)?.path()).map_err(io)?;
        }
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let written = Arc::new(AtomicU64::new(0));
        let (open, closed) = mpsc::sync_channel(1);
        keep_synced(File::open(dir).map_err(io)?, written.clone(), closed).map_err(io)?;
        Ok(Self { dir: dir.to_owned(), staged: AtomicU64::new(0), written, _open: open, under_way, _lock: lock })
    }
}

#[async_trait]
impl Blobs for Folder {
    async fn put(&self, name: &str, bytes: Pieces) -> Result<()> {
        let path = self.dir.join(legal(name)?);
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let staged = self.dir.join(STAGING).join(number.to_string());
        let written = self.written.clone();
        self.work(name, move || {
            let put = write(&staged, &bytes).and_then(|()| place(&staged, &path));
            written.fetch_add(1, Ordering::Relaxed);
            if put.is_err() {
                // Most often it was never made.
                let _ = fs::remove_file(&staged);
            }
            put
        })
        .await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        let path = self.dir.join(legal(name)?);
        let read = self.work(name, move || match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        });
        read.await?.map(Bytes::from).ok_or(Error::NotFound)
    }

    async fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let path = self.dir.join(legal(name)?);
        let read = self.work(name, move || match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => {
                let mut file = file?;
                file.seek(io::SeekFrom::Start(range.start))?;
                let len = range.end.saturating_sub(range.start);
                let left = file.metadata()?.len().saturating_sub(range.start);
                let mut bytes = Vec::with_capacity(len.min(left) as usize);
                file.take(len).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
        });
        read.await?.map(Bytes::from).ok_or(Error::NotFound)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let path = self.dir.join(legal(name)?);
        let (root, written) = (self.dir.clone(), self.written.clone());
        self.work(name, move || {
            written.fetch_add(1, Ordering::Relaxed);
            remove(&root, &path)
        })
        .await
    }

    async fn list(&self, folder: &str) -> Result<Vec<Child>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{}/", legal(folder)?) };
        let path = self.dir.join(folder);
        self.work(folder, move || list(&path, &prefix)).await
    }
}

impl Folder {
    /// Does file work on a thread that may wait. It is done to its end even when the caller goes away.
    async fn work<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.under_way.clone().acquire_owned().await.expect("never closed");
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Error::Unavailable(format!("{name}: {}", plain(&error)))),
            Err(error) => Err(Error::Unavailable(format!("{name}: the work ended early: {error}"))),
        }
    }
}

/// Has what was written reach the disk, on a thread of its own, until the folder is closed. `written` counts it.
fn keep_synced(folder: File, written: Arc<AtomicU64>, closed: mpsc::Receiver<()>) -> io::Result<()> {
    let sync = move || {
        let mut synced = 0;
        loop {
            let is_open = closed.recv_timeout(SYNC) == Err(mpsc::RecvTimeoutError::Timeout);
            let now = written.load(Ordering::Relaxed);
            if now != synced
                && let Err(error) = rustix::fs::syncfs(&folder)
            {
                tracing::error!(%error, "what was recorded last is not safe on the disk");
            }
            synced = now;
            if !is_open {
                return;
            }
        }
    };
    thread::Builder::new().name("blob-sync".into()).spawn(sync).map(|_| ())
}

/// Makes a file of pieces.
fn write(path: &Path, bytes: &Pieces) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut slices: Vec<_> = bytes.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Renames a file, making the folders of its new name as needed: only the first in a folder pays for them.
fn place(staged: &Path, path: &Path) -> io::Result<()> {
    // Whoever removes the last file of a folder removes it, too, perhaps in between.
    for _ in 0..8 {
        match fs::rename(staged, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().expect("within the folder"))?;
            }
            renamed => return renamed,
        }
    }
    fs::rename(staged, path)
}

/// Removes a file, and the folders that it leaves empty.
fn remove(root: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A folder that something was put into meanwhile is not empty, and one that is gone was emptied by someone else.
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
    for folder in folders {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

/// What lies in a folder. What goes away meanwhile is left out, as is what bears no name of ours.
fn list(path: &Path, prefix: &str) -> io::Result<Vec<Child>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        let Ok(about) = entry.metadata() else { continue };
        if legal(&name).is_err() {
            continue;
        }
        children.push(match about.is_dir() {
            true => Child::Folder(name),
            false => {
                let modified = about.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Child::Blob { name, bytes: about.len(), modified: UnixMs(modified.as_millis() as i64) }
            }
        });
    }
    Ok(children)
}

/// Takes a name whose parts are what ids and numbers can make: no part is empty, starts with a dot or holds what a file
/// system or shell would take for more than a letter.
pub(super) fn legal(name: &str) -> Result<&str> {
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        (1..=200).contains(&bytes.len()) && letter(bytes[0]) && bytes.iter().all(|&c| letter(c) || b"-_.".contains(&c))
    };
    if name.split('/').all(part) { Ok(name) } else { Err(Error::BadName(name.chars().take(200).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_ids_and_numbers_cannot_make_are_refused() {
        let long = "a".repeat(201);
        for bad in
            ["", "/", "/a", "a/", "a//b", "..", "a/../b", "a/./b", ".staging/0", "a\\b", "a#1", "a%2e", "A", "é", &long]
        {
            assert!(matches!(legal(bad), Err(Error::BadName(_))), "{bad}");
        }
        for good in ["a", "alice/01b/720p/0/17.3.m4s", "alice/01b/audio/init-09af.mp4", "a_b-c/0"] {
            assert_eq!(legal(good).expect("legal"), good);
        }
    }

    #[test]
    fn what_a_crash_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(Folder::open(dir.path()).expect("opens"));
        let (left, kept) = (dir.path().join(".staging/7"), dir.path().join("alice"));
        fs::write(&left, b"half").expect("written");
        fs::write(&kept, b"whole").expect("written");
        let open = Folder::open(dir.path()).expect("opens");
        assert!(!left.exists() && kept.exists());
        assert!(matches!(Folder::open(dir.path()), Err(Error::Unavailable(what)) if what.contains("in use")));
        drop(open);
        assert!(Folder::open(dir.path()).is_ok());
    }
}
