//! The queue's files: one per delivery, written aside and renamed, readable by their owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::queue::{Change, Delivery, Place};

/// The folder of dead letters.
const DEAD: &str = "dead";
const ENDING: &str = ".json";
/// While it is written.
const STAGED: &str = ".new";
/// A file is smaller: what is larger is none of ours.
const FILE_MAX: u64 = 1 << 20;

/// What files hold: where each lies, its id, and the delivery.
pub type Found = Vec<(Place, u64, Delivery)>;

/// See the module. Everything here may wait for the disk.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Opens a folder, making it as needed, and reads what it holds: first the dead, then what waits, each oldest first. What
    /// cannot be read is told and left where it is.
    pub fn open(dir: &Path) -> io::Result<(Self, Found)> {
        let files = Self { dir: dir.to_owned() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(DEAD))?;
        let mut found = Vec::new();
        for place in [Place::Dead, Place::Waiting] {
            let folder = files.folder(place);
            let mut here = Vec::new();
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(STAGED) {
                    fs::remove_file(entry.path())?;
                    continue;
                }
                let Some(id) = name.strip_suffix(ENDING).and_then(|id| id.parse().ok()) else { continue };
                match read(&entry.path()) {
                    Ok(delivery) => here.push((place, id, delivery)),
                    Err(why) => {
                        tracing::warn!(file = %entry.path().display(), %why, "a webhook that waits cannot be read")
                    }
                }
            }
            here.sort_by_key(|(_, id, _)| *id);
            found.extend(here);
        }
        Ok((files, found))
    }

    /// Makes changes in their order. All of them are tried; the first failure is told.
    pub fn apply(&self, changes: &[Change]) -> io::Result<()> {
        let mut result = Ok(());
        for change in changes {
            let made = match change {
                Change::Write(place, id, delivery) => self.write(*place, *id, delivery),
                Change::Remove(place, id) => match fs::remove_file(self.path(*place, *id)) {
                    // It could not be written, or was removed by hand.
                    Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                },
            };
            result = result.and(made);
        }
        result
    }

    fn write(&self, place: Place, id: u64, delivery: &Delivery) -> io::Result<()> {
        let path = self.path(place, id);
        let staged = path.with_extension(&STAGED[1..]);
        let text = serde_json::to_vec(delivery).expect("plain data");
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged).and_then(
            |mut file| {
                file.write_all(&text)?;
                file.sync_all()?;
                fs::rename(&staged, &path)?;
                File::open(self.folder(place))?.sync_all()
            },
        );
        if written.is_err() {
            // Most often it was never made.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    fn folder(&self, place: Place) -> PathBuf {
        match place {
            Place::Waiting => self.dir.clone(),
            Place::Dead => self.dir.join(DEAD),
        }
    }

    fn path(&self, place: Place, id: u64) -> PathBuf {
        self.folder(place).join(format!("{id}{ENDING}"))
    }
}

fn read(path: &Path) -> io::Result<Delivery> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{super::event::Kind, *};
    use crate::time::UnixMs;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("webhooks");
        let delivery = |event: &str| Delivery::new("x", Kind::Test, event.into(), "{}".into(), UnixMs(1));
        let (files, found) = Files::open(&dir).unwrap();
        assert!(found.is_empty());
        let write = |place, id| Change::Write(place, id, delivery(&id.to_string()));
        let changes =
            [write(Place::Waiting, 10), write(Place::Waiting, 9), write(Place::Dead, 8), write(Place::Dead, 7)];
        files.apply(&changes).unwrap();
        files.apply(&[Change::Remove(Place::Dead, 7), Change::Remove(Place::Dead, 7)]).unwrap();
        fs::write(dir.join("11.new"), "half").unwrap();
        fs::write(dir.join("12.json"), "half").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("9.json"))), (0o700, 0o600));
        let (_, found) = Files::open(&dir).unwrap();
        let expected =
            [(Place::Dead, 8, delivery("8")), (Place::Waiting, 9, delivery("9")), (Place::Waiting, 10, delivery("10"))];
        assert_eq!(found, expected);
        assert!(!dir.join("11.new").exists() && dir.join("12.json").exists());
    }
}
