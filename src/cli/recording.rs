//! `weir recording`, `weir jobs`, `weir store`: what was recorded, what happens to it, whether it is sound.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;

use super::{Error, Named, Remote, Settings, print, show};
use crate::{
    id::BroadcastId,
    line::Stores,
    recording::sweep,
    store::{blobs::Folder, embedded::Embedded, health::Health},
    time::unix_now,
};

/// Broadcasts that are listed at once.
const PAGE: usize = 100;
/// Names that are printed of each kind of fault.
const NAMES: usize = 20;

#[derive(Debug, Subcommand)]
pub enum Action {
    /// List a stream's recordings, newest first.
    List {
        #[command(flatten)]
        stream: Named,
        /// Those before this one.
        #[arg(long, value_name = "ID", value_parser = BroadcastId::new)]
        before: Option<BroadcastId>,
    },
    /// Show one recording.
    Show {
        #[arg(value_parser = BroadcastId::new)]
        id: BroadcastId,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a recording; named clips of it stay.
    Delete {
        #[arg(value_parser = BroadcastId::new)]
        id: BroadcastId,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Subcommand)]
pub enum Store {
    /// Compare the rows and the bytes in the data folder of a node that is stopped, and tell what is wrong. Changes nothing.
    Check(Settings),
    /// Have the running node do the same, and remove bytes that no row names.
    Sweep(Remote),
}

pub fn run(action: Action) -> Result<(), Error> {
    match action {
        Action::List { stream: Named { name, remote }, before } => {
            let before = before.map(|id| format!("&before={id}")).unwrap_or_default();
            let path = format!("/api/v1/streams/{name}/broadcasts?limit={PAGE}{before}");
            let answer = remote.connect()?.get(&path, Some(&name))?;
            remote.answer(&answer, show::recordings)
        }
        Action::Show { id, remote } => {
            let answer = remote.connect()?.get(&format!("/api/v1/broadcasts/{id}"), None)?;
            remote.answer(&answer, show::fields)
        }
        Action::Delete { id, remote } => {
            let answer = remote.connect()?.delete(&format!("/api/v1/broadcasts/{id}"), None)?;
            remote.answer(&answer, |_| format!("recording {id} is deleted; `weir jobs` shows how far its bytes are\n"))
        }
    }
}

pub fn jobs(remote: &Remote) -> Result<(), Error> {
    let answer = remote.connect()?.get("/api/v1/jobs", None)?;
    remote.answer(&answer, show::jobs)
}

pub fn store(action: Store) -> Result<(), Error> {
    match action {
        Store::Check(settings) => check(&settings),
        Store::Sweep(remote) => {
            let answer = remote.connect()?.post("/api/v1/jobs/sweep", &json!({}), None)?;
            remote.answer(&answer, |_| "the node looks through its store; `weir jobs` shows what it finds\n".into())
        }
    }
}

fn check(settings: &Settings) -> Result<(), Error> {
    let dir = settings.load()?.data.dir;
    let failed = |why: crate::store::Error| Error::Store(why.to_string());
    if !dir.join("meta").is_dir() {
        return Err(Error::Store(format!("there is no store in {}", dir.display())));
    }
    let meta = Arc::new(Embedded::open(&dir.join("meta")).map_err(failed)?);
    let blobs = Arc::new(Folder::open(&dir.join("blobs")).map_err(failed)?);
    let stores = Stores { meta, blobs, health: Arc::new(Health::default()) };
    let runtime = tokio::runtime::Runtime::new().map_err(|why| Error::Store(why.to_string()))?;
    let found = runtime.block_on(sweep::look(&stores, unix_now(), |_, _| {})).map_err(failed)?;
    let sweep::Found { blobs, bytes, orphans, orphan_bytes, missing, strange } = &found;
    let mut text = format!("{blobs} objects, {bytes} bytes\n");
    let mut tell = |what: &str, names: &[String]| {
        if !names.is_empty() {
            text.push_str(&format!("{} {what}:\n", names.len()));
            names.iter().take(NAMES).for_each(|name| text.push_str(&format!("  {name}\n")));
            if names.len() > NAMES {
                text.push_str("  ...\n");
            }
        }
    };
    tell("rows tell of bytes that are not there, or not all", missing);
    tell(&format!("objects that no row names, {orphan_bytes} bytes; `weir store sweep` removes them"), orphans);
    tell("names that are none of weir's", strange);
    if missing.is_empty() && orphans.is_empty() && strange.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    print(&text)?;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::Store("recordings lack chunks that their playlists list".into())),
    }
}
