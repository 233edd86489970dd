//! `weir audience`, `weir webhooks`: who watches and watched, and how webhooks are delivered.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Error, Named, Remote, print, show};
use crate::id::BroadcastId;

/// Whose viewers.
#[derive(Debug, Args)]
pub struct Audience {
    #[command(flatten)]
    stream: Named,
    /// Of this broadcast, which may be over; else of what the stream shows now.
    #[arg(long, value_name = "ID", value_parser = BroadcastId::new)]
    broadcast: Option<BroadcastId>,
    /// Print the broadcast's numbers over time as a table (CSV).
    #[arg(long, requires = "broadcast")]
    csv: bool,
}

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// Show the targets that the configuration names, and how each does.
    List(Remote),
    /// Send each target an event that means nothing, and show what it answered.
    Test(Remote),
    /// List what could not be delivered.
    Dead(Remote),
    /// Try again to deliver something.
    Retry {
        /// As `weir webhooks dead` lists it.
        id: u64,
        #[command(flatten)]
        remote: Remote,
    },
    /// Forget something that could not be delivered.
    Forget {
        id: u64,
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn show(Audience { stream: Named { name, remote }, broadcast, csv }: Audience) -> Result<(), Error> {
    let client = remote.connect()?;
    match broadcast {
        Some(id) if csv => print(&client.text(&format!("/api/v1/broadcasts/{id}/audience.csv"))?),
        Some(id) => {
            let answer = client.get(&format!("/api/v1/broadcasts/{id}/audience?points=1"), None)?;
            remote.answer(&answer, show::audience)
        }
        None => {
            let answer = client.get(&format!("/api/v1/streams/{name}/audience?points=1"), Some(&name))?;
            remote.answer(&answer, show::audience)
        }
    }
}

pub fn webhooks(action: Webhooks) -> Result<(), Error> {
    match action {
        Webhooks::List(remote) => remote.answer(&remote.connect()?.get("/api/v1/webhooks", None)?, show::webhooks),
        Webhooks::Test(remote) => {
            let answer = remote.connect()?.post("/api/v1/webhooks/test", &json!({}), None)?;
            remote.answer(&answer, show::webhooks)
        }
        Webhooks::Dead(remote) => remote.answer(&remote.connect()?.get("/api/v1/webhooks/dead", None)?, show::dead),
        Webhooks::Retry { id, remote } => {
            let answer = remote.connect()?.post(&format!("/api/v1/webhooks/dead/{id}/retry"), &json!({}), None)?;
            remote.answer(&answer, |_| format!("{id} is tried again; `weir webhooks list` shows how it went\n"))
        }
        Webhooks::Forget { id, remote } => {
            let answer = remote.connect()?.delete(&format!("/api/v1/webhooks/dead/{id}"), None)?;
            remote.answer(&answer, |_| format!("{id} is forgotten\n"))
        }
    }
}
