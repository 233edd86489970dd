//! `weir ticket` and `weir stream playback`: who may watch.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{Error, Named, Remote, show};
use crate::{config::text::parse_duration, id::BroadcastId};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Sign a ticket for a stream and print where to watch with it.
    Create(Create),
    /// Revoke one ticket, or every ticket of a stream that was signed before now.
    Revoke {
        #[command(flatten)]
        stream: Named,
        /// The ticket's id, as `create` printed it; all of the stream when absent.
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// List the keys that sign tickets; secrets are not shown.
    Keys(Remote),
    /// Take tickets that are signed with another key, too.
    AddKey {
        /// Its name, which stands in the header of each ticket.
        kid: String,
        #[arg(long)]
        algorithm: Algorithm,
        /// File with the HS256 secret (its first line, 32 letters or more) or the Ed25519 public key in PEM.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take no ticket of this key any more; the node makes a new one of its own when it needs it.
    RemoveKey {
        kid: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    stream: Named,
    /// How long it lasts, up to 720h.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    expires: Duration,
    /// Who watches, for your own books; it is readable in the ticket.
    #[arg(long, value_name = "TEXT")]
    viewer: Option<String>,
    /// Only from this address, or prefix such as 203.0.113.0/24.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Only this broadcast.
    #[arg(long, value_parser = BroadcastId::new)]
    broadcast: Option<BroadcastId>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Algorithm {
    Hs256,
    Eddsa,
}

/// Who may watch a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Playback {
    /// Anyone.
    Public,
    /// Who holds a ticket.
    Ticket,
    /// As the nodes' auth.playback says.
    Default,
}

pub fn run(action: Action) -> Result<(), Error> {
    match action {
        Action::Create(Create { stream: Named { name, remote }, expires, viewer, address, broadcast }) => {
            let mut wish = json!({ "expires_in": expires.as_secs() });
            let given = [("viewer", viewer), ("address", address), ("broadcast", broadcast.map(|b| b.to_string()))];
            for (field, value) in given {
                if let Some(value) = value {
                    wish[field] = value.into();
                }
            }
            let answer = remote.connect()?.post(&format!("/api/v1/streams/{name}/tickets"), &wish, Some(&name))?;
            remote.answer(&answer, show::ticket)
        }
        Action::Revoke { stream: Named { name, remote }, id: None } => {
            let answer = remote.connect()?.delete(&format!("/api/v1/streams/{name}/tickets"), Some(&name))?;
            remote.answer(&answer, |_| format!("every ticket of stream {name} so far is revoked\n"))
        }
        Action::Revoke { stream: Named { remote, .. }, id: Some(id) } => {
            let answer = remote.connect()?.delete(&format!("/api/v1/tickets/{id}"), None)?;
            remote.answer(&answer, |_| format!("ticket {id} is revoked\n"))
        }
        Action::Keys(remote) => {
            let answer = remote.connect()?.get("/api/v1/ticket-keys", None)?;
            remote.answer(&answer, show::ticket_keys)
        }
        Action::AddKey { kid, algorithm, key_file, remote } => {
            let text = std::fs::read_to_string(&key_file)
                .map_err(|why| Error::KeyFile { path: key_file.clone(), reason: why.to_string() })?;
            let (algorithm, key) = match algorithm {
                Algorithm::Hs256 => ("HS256", text.lines().next().unwrap_or_default().to_owned()),
                Algorithm::Eddsa => ("EdDSA", text),
            };
            let body = json!({ "kid": kid, "algorithm": algorithm, "key": key });
            let answer = remote.connect()?.post("/api/v1/ticket-keys", &body, None)?;
            remote.answer(&answer, |_| format!("tickets of key {kid} are taken from now on\n"))
        }
        Action::RemoveKey { kid, remote } => {
            let answer = remote.connect()?.delete(&format!("/api/v1/ticket-keys/{kid}"), None)?;
            remote.answer(&answer, |_| format!("tickets of key {kid} count no longer\n"))
        }
    }
}

/// Sets who may watch a stream.
pub fn set_playback(Named { name, remote }: &Named, playback: Playback) -> Result<(), Error> {
    let value = match playback {
        Playback::Public => "public".into(),
        Playback::Ticket => "ticket".into(),
        Playback::Default => Value::Null,
    };
    let path = format!("/api/v1/streams/{name}/playback");
    let answer = remote.connect()?.put(&path, &json!({ "playback": value }), name)?;
    remote.answer(&answer, show::fields)
}
