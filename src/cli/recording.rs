//! `weir recording`, `weir jobs`, `weir store`: what was recorded, what happens to it, whether it is sound.

use clap::Subcommand;
use serde_json::json;

use super::{Error, Named, Remote, Settings, print, show};
use crate::{
    config::stores::Kind, id::BroadcastId, node::Opened, recording::sweep, store::scylla::Scylla, time::unix_now,
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
    /// Make the keyspaces and tables of the database that the configuration names, or bring them to this release's version.
    /// Changes nothing that is there.
    Init(Settings),
    /// Compare the rows and the bytes of a node that is stopped, and tell what is wrong. Changes nothing.
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
        Store::Init(settings) => init(&settings),
        Store::Check(settings) => check(&settings),
        Store::Sweep(remote) => {
            let answer = remote.connect()?.post("/api/v1/jobs/sweep", &json!({}), None)?;
            remote.answer(&answer, |_| "the node looks through its store; `weir jobs` shows what it finds\n".into())
        }
    }
}

fn init(settings: &Settings) -> Result<(), Error> {
    let config = settings.load()?;
    if config.store.kind == Kind::Embedded {
        return print("store.kind is \"embedded\": its tables are made by themselves\n");
    }
    let scylla = config.store.scylla(config.chat.keep, config.audience.keep).map_err(Error::Store)?;
    let version = runtime()?.block_on(Scylla::init(&scylla)).map_err(|why| Error::Store(why.to_string()))?;
    print(&format!("keyspace {} has the tables of version {version}\n", scylla.keyspace))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Runtime::new().map_err(|why| Error::Store(why.to_string()))
}

fn check(settings: &Settings) -> Result<(), Error> {
    let config = settings.load()?;
    let dir = &config.data.dir;
    let failed = |why: crate::store::Error| Error::Store(why.to_string());
    if config.store.kind == Kind::Embedded && !dir.join("meta").is_dir() {
        return Err(Error::Store(format!("there is no store in {}", dir.display())));
    }
    let look = async {
        let opened = Opened::open(&config).await.map_err(|why| Error::Store(format!("{why:#}")))?;
        sweep::look(&opened.stores, unix_now(), |_, _| {}).await.map_err(failed)
    };
    let found = runtime()?.block_on(look)?;
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
