//! The command line: arguments enter, one of the subcommands runs, an exit code leaves.
//!
//! `serve` and `check` work on the configuration; `stream` and `status` are clients of a running node's HTTP API and find
//! its address and admin token by the same configuration. Exit codes: 0 done, 1 it failed (the reason is on standard
//! error), 2 the command line is wrong.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Config},
    http,
    id::StreamId,
    line::{self, Keep},
    transcode,
};

mod audience;
mod client;
pub mod log;
mod plan;
mod recording;
mod show;
mod ticket;

/// Live video and audio server: RTMP in, aligned HLS renditions out.
#[derive(Debug, Parser)]
#[command(name = "weir", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(Settings),
    /// Tell what is wrong with the configuration, or what a node would do with it.
    Check(Settings),
    /// Make, list, show and delete streams of the running node.
    Stream {
        #[command(subcommand)]
        action: Action,
    },
    /// Sign and revoke tickets, manage the keys that sign them.
    Ticket {
        #[command(subcommand)]
        action: ticket::Action,
    },
    /// List, show and delete recordings.
    Recording {
        #[command(subcommand)]
        action: recording::Action,
    },
    /// Show who watches a stream, or watched a broadcast.
    Audience(audience::Audience),
    /// Show how webhooks are delivered, and try them.
    Webhooks {
        #[command(subcommand)]
        action: audience::Webhooks,
    },
    /// Show what the running node does in the background, and how far it is.
    Jobs(Remote),
    /// Look whether the store is sound.
    Store {
        #[command(subcommand)]
        action: recording::Store,
    },
    /// Tell how the running node is.
    Status(Remote),
    /// List the nodes of the running node's cluster.
    Nodes {
        /// Take one that is gone for good out of the cluster.
        #[arg(long, value_name = "ID")]
        remove: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Have the running node hand its streams to others and stop.
    Drain(Remote),
    /// Print the document of the HTTP API (OpenAPI 3.1).
    Openapi,
    /// Encode one broadcast; run by the server as its child.
    #[command(name = transcode::worker::SUBCOMMAND, hide = true)]
    TranscodeWorker,
    /// Find out what encodes on this machine; run by the server as its child.
    #[command(name = transcode::probe::SUBCOMMAND, hide = true)]
    TranscodeProbe,
    /// Make one still picture; run by the server as its child.
    #[command(name = transcode::still::SUBCOMMAND, hide = true)]
    StillWorker,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct Settings {
    /// Configuration file; WEIR_CONFIG names it when this is absent, else the defaults count.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, such as rtmp.listen=127.0.0.1:1935 or 'ladder=[]'; may be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Which running node is meant.
#[derive(Debug, Args)]
struct Remote {
    /// The node's address, such as http://127.0.0.1:8080; http.listen of the configuration when absent.
    #[arg(long)]
    url: Option<String>,
    /// File with the admin token; admin.token in data.dir of the configuration when absent.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the node's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a stream and print what OBS needs; the key is not shown again.
    Create(Named),
    /// List the streams.
    List(Remote),
    /// Show one stream.
    Show(Named),
    /// Give a stream a new key; the old one stops working at once.
    RotateKey(Named),
    /// Set who may watch a stream.
    Playback {
        #[command(flatten)]
        stream: Named,
        playback: ticket::Playback,
    },
    /// Set whether edges fetch a stream's chunks before anyone asks; counts when its encoder connects next.
    Push {
        #[command(flatten)]
        stream: Named,
        push: OnOff,
    },
    /// Set what a second node does for a stream; counts when its encoder connects next.
    Standby {
        #[command(flatten)]
        stream: Named,
        standby: Standby,
    },
    /// Set whether a stream has a chat.
    Chat {
        #[command(flatten)]
        stream: Named,
        chat: Chat,
    },
    /// Set how long a stream's recordings are kept: "forever", a time such as "30d", "0" for not at all, or "default".
    Keep {
        #[command(flatten)]
        stream: Named,
        #[arg(value_parser = keep)]
        keep: MaybeKeep,
    },
    /// Delete a stream.
    Delete(Named),
}

/// Nothing for `default`. An alias, because the parser of arguments takes an `Option` for one that may be absent.
type MaybeKeep = Option<Keep>;

fn keep(text: &str) -> Result<MaybeKeep, crate::line::keep::BadKeep> {
    if text == "default" { Ok(None) } else { text.parse().map(Some) }
}

/// What a second node does for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Standby {
    /// Makes all of its chunks.
    Hot,
    /// Makes those of the source, and encodes once it has taken over.
    Warm,
    /// Nothing.
    Off,
    /// What the nodes' configuration says.
    Default,
}

impl Standby {
    fn told(self) -> Option<line::Standby> {
        match self {
            Standby::Hot => Some(line::Standby::Hot),
            Standby::Warm => Some(line::Standby::Warm),
            Standby::Off => Some(line::Standby::Off),
            Standby::Default => None,
        }
    }
}

/// Whether a stream has a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Chat {
    On,
    Off,
    /// What the node's configuration says.
    Default,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Debug, Args)]
struct Named {
    /// The stream's name: 1 to 63 of a-z, 0-9, '-', '_'.
    #[arg(value_parser = StreamId::new)]
    name: StreamId,
    #[command(flatten)]
    remote: Remote,
}

/// Says why a command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the configuration cannot be used:\n{0}")]
    Config(#[from] config::Error),
    #[error("cannot write logs: {0}")]
    Log(#[from] log::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("cannot read the key in {path}: {reason}", path = path.display())]
    KeyFile { path: PathBuf, reason: String },
    #[error("{0}")]
    Serve(String),
    #[error("{0}")]
    Store(String),
    #[error("cannot print the answer: {0}")]
    Print(#[from] std::io::Error),
}

/// Runs the command that the arguments name; the first argument is the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, with code 0. Nothing is left to do when the terminal is gone.
            _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let done = match cli.command {
        Command::Serve(settings) => serve(&settings),
        Command::Check(settings) => check(&settings),
        Command::Stream { action } => stream(action),
        Command::Ticket { action } => ticket::run(action),
        Command::Recording { action } => recording::run(action),
        Command::Jobs(remote) => recording::jobs(&remote),
        Command::Store { action } => recording::store(action),
        Command::Status(remote) => status(&remote),
        Command::Nodes { remove, remote } => nodes(remove, &remote),
        Command::Drain(remote) => drain(&remote),
        Command::Audience(whose) => audience::show(whose),
        Command::Webhooks { action } => audience::webhooks(action),
        Command::Openapi => print(&(http::document() + "\n")),
        Command::TranscodeWorker => transcode::worker::run().map_err(|why| Error::Serve(format!("{why:#}"))),
        Command::TranscodeProbe => transcode::probe::run().map_err(|why| Error::Serve(format!("{why:#}"))),
        Command::StillWorker => transcode::still::run().map_err(|why| Error::Serve(format!("{why:#}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who piped us into `head` has seen enough.
        Err(Error::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Settings {
    fn file(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("WEIR_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from);
        self.config.clone().or_else(variable)
    }

    fn load(&self) -> Result<Config, config::Error> {
        // A name or value that is no text cannot be ours; one that is ours and not text is named as unreadable.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        config::load(self.file().as_deref(), environment, &self.set)
    }
}

fn serve(settings: &Settings) -> Result<(), Error> {
    let config = settings.load()?;
    log::init(config.log.format, &config.log.level)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    start(config).map_err(Error::Serve)
}

/// Runs the node until it is told to stop; the text says why it could not.
fn start(config: Config) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|why| format!("cannot start the runtime: {why}"))?;
    runtime.block_on(crate::node::serve(config)).map_err(|why| format!("{why:#}"))
}

fn check(settings: &Settings) -> Result<(), Error> {
    let config = settings.load()?;
    print(&plan::render(&config))
}

fn stream(action: Action) -> Result<(), Error> {
    use serde_json::json;
    match action {
        Action::Create(Named { name, remote }) => {
            let answer = remote.connect()?.post("/api/v1/streams", &json!({ "id": name }), Some(&name))?;
            remote.answer(&answer, show::created)
        }
        Action::List(remote) => {
            let answer = remote.connect()?.get("/api/v1/streams", None)?;
            remote.answer(&answer, show::list)
        }
        Action::Show(Named { name, remote }) => {
            let answer = remote.connect()?.get(&format!("/api/v1/streams/{name}"), Some(&name))?;
            remote.answer(&answer, show::fields)
        }
        Action::RotateKey(Named { name, remote }) => {
            let path = format!("/api/v1/streams/{name}/rotate-key");
            let answer = remote.connect()?.post(&path, &json!({}), Some(&name))?;
            remote.answer(&answer, show::created)
        }
        Action::Playback { stream, playback } => ticket::set_playback(&stream, playback),
        Action::Push { stream: Named { name, remote }, push } => {
            let body = json!({ "push": push == OnOff::On });
            let answer = remote.connect()?.put(&format!("/api/v1/streams/{name}/push"), &body, &name)?;
            remote.answer(&answer, show::fields)
        }
        Action::Standby { stream: Named { name, remote }, standby } => {
            let body = json!({ "standby": standby.told() });
            let answer = remote.connect()?.put(&format!("/api/v1/streams/{name}/standby"), &body, &name)?;
            remote.answer(&answer, show::fields)
        }
        Action::Chat { stream: Named { name, remote }, chat } => {
            let body = json!({ "enabled": Some(chat == Chat::On).filter(|_| chat != Chat::Default) });
            let answer = remote.connect()?.put(&format!("/api/v1/streams/{name}/chat"), &body, &name)?;
            remote.answer(&answer, show::fields)
        }
        Action::Keep { stream: Named { name, remote }, keep } => {
            let answer =
                remote.connect()?.put(&format!("/api/v1/streams/{name}/keep"), &json!({ "keep": keep }), &name)?;
            remote.answer(&answer, show::fields)
        }
        Action::Delete(Named { name, remote }) => {
            let answer = remote.connect()?.delete(&format!("/api/v1/streams/{name}"), Some(&name))?;
            remote.answer(&answer, |_| format!("stream {name} is deleted\n"))
        }
    }
}

fn status(remote: &Remote) -> Result<(), Error> {
    let answer = remote.connect()?.get("/api/v1/status", None)?;
    remote.answer(&answer, show::status)
}

fn nodes(remove: Option<String>, remote: &Remote) -> Result<(), Error> {
    let client = remote.connect()?;
    let Some(id) = remove else { return remote.answer(&client.get("/api/v1/nodes", None)?, show::nodes) };
    let answer = client.delete(&format!("/api/v1/nodes/{id}"), None)?;
    remote.answer(&answer, |_| format!("node {id} is no part of the cluster any more\n"))
}

fn drain(remote: &Remote) -> Result<(), Error> {
    let answer = remote.connect()?.post("/api/v1/drain", &serde_json::json!({}), None)?;
    remote
        .answer(&answer, |_| "the node hands its streams over and stops; `weir nodes` at another one shows it\n".into())
}

impl Remote {
    fn connect(&self) -> Result<client::Client, Error> {
        let config = self.settings.load()?;
        let url = match &self.url {
            Some(url) => url.clone(),
            None => client::url_of(config.http.listen)?,
        };
        let token = self.token_file.clone().unwrap_or_else(|| config.data.dir.join("admin.token"));
        Ok(client::Client::open(&url, &token)?)
    }

    /// Prints an answer for the person, or as it came.
    fn answer(
        &self,
        answer: &serde_json::Value,
        human: impl FnOnce(&serde_json::Value) -> String,
    ) -> Result<(), Error> {
        match self.json {
            true => print(&format!("{answer:#}\n")),
            false => print(&human(answer)),
        }
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Tells whether a stream of output is a terminal that may be coloured (no-color.org).
fn colour(out: &impl IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, error::ErrorKind};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_understood() {
        for line in [
            "weir serve",
            "weir serve --config a.toml --set a=b --set c=[]",
            "weir check --set ladder=[]",
            "weir stream create alice",
            "weir stream list --json",
            "weir stream show alice --url http://127.0.0.1:1",
            "weir stream rotate-key alice --token-file t",
            "weir stream delete alice --config f",
            "weir stream playback alice ticket",
            "weir stream push alice on",
            "weir stream chat alice default",
            "weir stream standby alice default",
            "weir nodes --remove node-3",
            "weir drain --url http://127.0.0.1:1",
            "weir ticket create alice --expires 90m --viewer bob --address 203.0.113.0/24 --json",
            "weir ticket revoke alice",
            "weir ticket revoke alice --id 0123",
            "weir ticket keys",
            "weir ticket add-key shop --algorithm eddsa --key-file shop.pem",
            "weir ticket remove-key shop",
            "weir status --set data.dir=x",
            "weir stream keep alice 30d",
            "weir stream keep alice default",
            "weir recording list alice --before 01b",
            "weir recording delete 01b",
            "weir jobs",
            "weir store check --set data.dir=x",
            "weir store sweep",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        for (line, kind) in [
            ("weir", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("weir sreve", ErrorKind::InvalidSubcommand),
            ("weir serve --confg x", ErrorKind::UnknownArgument),
            ("weir stream create", ErrorKind::MissingRequiredArgument),
            ("weir stream create ../etc", ErrorKind::ValueValidation),
            ("weir ticket create alice --expires 5", ErrorKind::ValueValidation),
            ("weir stream playback alice secret", ErrorKind::InvalidValue),
            ("weir stream show Alice", ErrorKind::ValueValidation),
            ("weir stream keep alice 30", ErrorKind::ValueValidation),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
        }
    }
}
