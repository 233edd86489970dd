//! What an operator can decide: one tree of settings with a default for each, read once at start.
//!
//! The file, the environment and `--set` enter through [`load`]; a complete and possible [`Config`] leaves, or every
//! fault at once, each with its place, its key and what to write instead. `main` drives it. Nothing here opens a socket
//! or changes a file, and nothing else in the program reads the environment.
//!
//! The serialised default is the list of valid keys, so a setting is added by adding a field and its line in
//! `config/weir.toml` (a test compares the two).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    auth::Secret,
    line::Standby,
    transcode::{Choice, Entry, ladder},
};

mod check;
pub mod hooks;
mod load;
pub mod stores;
pub mod text;

pub use load::{Error, Fault, Place, VARIABLES, keys, load, parse};

/// Every setting of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The encoded renditions, in any order; those above the source are left out. Empty: source only.
    pub ladder: Vec<Entry>,
    pub rtmp: Rtmp,
    pub http: Http,
    pub https: Https,
    pub internal: Internal,
    pub data: Data,
    pub store: stores::Store,
    pub blobs: stores::Blobs,
    pub spool: stores::Spool,
    pub auth: Auth,
    pub live: Live,
    pub recording: Recording,
    pub chat: Chat,
    pub audience: Audience,
    pub webhooks: hooks::Webhooks,
    pub node: Node,
    pub edge: Edge,
    pub transcode: Transcode,
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ladder: ladder::default_entries(),
            rtmp: Rtmp::default(),
            http: Http::default(),
            https: Https::default(),
            internal: Internal::default(),
            data: Data::default(),
            store: stores::Store::default(),
            blobs: stores::Blobs::default(),
            spool: stores::Spool::default(),
            auth: Auth::default(),
            live: Live::default(),
            recording: Recording::default(),
            chat: Chat::default(),
            audience: Audience::default(),
            webhooks: hooks::Webhooks::default(),
            node: Node::default(),
            edge: Edge::default(),
            transcode: Transcode::default(),
            log: Log::default(),
        }
    }
}

/// Where publishers connect, and how long a quiet one is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtmp {
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
    /// A publisher that sends nothing for this long is closed.
    #[serde(with = "text::duration")]
    pub idle_timeout: Duration,
    /// An accepted publisher must send its first media within this.
    #[serde(with = "text::duration")]
    pub first_media_timeout: Duration,
    /// Connections that do not publish yet; one more closes the oldest of them.
    pub half_open_max: u32,
    /// Publishers at once; one more is refused with words.
    pub publishers_max: u32,
}

impl Default for Rtmp {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 1935)),
            idle_timeout: Duration::from_secs(6),
            first_media_timeout: Duration::from_secs(20),
            half_open_max: 8192,
            publishers_max: 1000,
        }
    }
}

/// Where viewers and the API are answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
    /// Connections at once; further ones wait.
    pub connections_max: u32,
    /// Connections from one address; one more is closed.
    pub connections_per_address: u32,
    /// Requests that are answered at once; one more is told to come again.
    pub requests_max: u32,
    /// Whoever connects from here tells the viewer's address and protocol (`X-Forwarded-For`, `X-Forwarded-Proto`).
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            connections_max: 20_000,
            connections_per_address: 10_000,
            requests_max: 50_000,
            trusted_proxies: Vec::new(),
        }
    }
}

/// The same as at [`Http`], by TLS; no port is opened without a certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Https {
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
    /// A file with the chain of certificates in PEM, the node's own first.
    #[serde(with = "text::path")]
    pub certificate: Option<PathBuf>,
    /// A file with its key in PEM.
    #[serde(with = "text::path")]
    pub key: Option<PathBuf>,
}

impl Default for Https {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 8443)), certificate: None, key: None }
    }
}

/// Where other nodes connect; never public.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Internal {
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
    /// What nodes prove themselves with to each other; without it whoever reaches the port is a node.
    #[serde(with = "text::secret")]
    pub secret: Option<Secret>,
}

impl Default for Internal {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8090)), secret: None }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// The folder of chunks, rows, what waits for a remote store, and the admin token; made when absent. Relative to the working
    /// folder.
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: "data".into() }
    }
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    pub publish: Publish,
    pub playback: Playback,
    pub clips: Clips,
    /// A backend that alone decides who may publish.
    #[serde(with = "text::link")]
    pub publish_url: Option<Url>,
    /// One that alone decides who may watch.
    #[serde(with = "text::link")]
    pub play_url: Option<Url>,
    /// What they are asked is signed with it.
    #[serde(with = "text::secret")]
    pub url_secret: Option<Secret>,
    /// What they may take to answer.
    #[serde(with = "text::duration")]
    pub url_timeout: Duration,
    /// What happens when they do not.
    pub url_fail: hooks::Fail,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            publish: Publish::default(),
            playback: Playback::default(),
            clips: Clips::default(),
            publish_url: None,
            play_url: None,
            url_secret: None,
            url_timeout: Duration::from_secs(2),
            url_fail: hooks::Fail::default(),
        }
    }
}

/// Who may make clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clips {
    /// Who has the stream's key or the admin token.
    #[default]
    Owner,
    /// Whoever may watch.
    Viewers,
}

/// Who may watch a stream that is not set otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Playback {
    /// Anyone.
    #[default]
    Public,
    /// Who holds a ticket.
    Ticket,
}

/// Who may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// Who knows the key of a stream that exists.
    #[default]
    Keys,
    /// Anyone, under any legal stream name: for a trusted network and for tests.
    Open,
}

/// How long recordings are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    /// Of streams that are not set otherwise.
    pub keep: crate::line::Keep,
    /// All recordings of this node together, MB; 0: no bound. Over it the oldest are deleted.
    pub disk_mb: u64,
    /// Whether posters and storyboards are made of what is live and recorded.
    pub pictures: bool,
}

impl Default for Recording {
    fn default() -> Self {
        Self { keep: crate::line::Keep::default(), disk_mb: 0, pictures: true }
    }
}

/// What is said beside streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chat {
    /// Whether streams have a chat where they are not set otherwise.
    pub enabled: bool,
    /// How long it is kept. What was said during a recorded broadcast is kept as long as the recording.
    #[serde(with = "text::duration")]
    pub keep: Duration,
    /// Sockets of one room at this node; whoever comes later polls.
    pub max_sockets: u32,
}

impl Default for Chat {
    fn default() -> Self {
        Self { enabled: true, keep: Duration::from_secs(30 * 86_400), max_sockets: 10_000 }
    }
}

/// How viewers are counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audience {
    /// How long it is kept how many watched in each minute. What a broadcast came to is kept for ever.
    #[serde(with = "text::duration")]
    pub keep: Duration,
    /// Viewers who report to this node; further ones are not counted.
    pub sessions_max: u32,
    /// Viewers of one address or ticket; further ones are not counted.
    pub sessions_per_address: u32,
    /// Reports a second; above it players are asked to report less often.
    pub reports_max: u32,
}

impl Default for Audience {
    fn default() -> Self {
        let keep = Duration::from_secs(400 * 86_400);
        Self { keep, sessions_max: 1_000_000, sessions_per_address: 1000, reports_max: 50_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Live {
    /// The length of a chunk, 1 s to 6 s.
    #[serde(with = "text::duration")]
    pub chunk: Duration,
    /// The length of a part of a chunk (low-latency HLS), 200 ms to 1 s.
    #[serde(with = "text::duration")]
    pub part: Duration,
    /// Chunks in a live playlist.
    pub window: u32,
    /// An encoder that comes back within this continues its broadcast.
    #[serde(with = "text::duration")]
    pub reconnect_window: Duration,
    /// What a second node of a cluster does for streams that do not say.
    pub standby: Standby,
}

impl Live {
    /// The length of a part when chunks are divided evenly.
    pub fn even_part(&self) -> Duration {
        self.chunk / self.chunk.div_duration_f64(self.part).round().max(1.0) as u32
    }
}

impl Default for Live {
    fn default() -> Self {
        Self {
            chunk: Duration::from_secs(2),
            part: Duration::from_millis(330),
            window: 15,
            reconnect_window: Duration::from_secs(60),
            standby: Standby::Hot,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// The node's name, unique in its cluster.
    pub id: String,
    pub roles: Vec<Role>,
    /// Where other nodes reach this machine; empty for the address of `internal.listen`.
    pub address: String,
    /// Its share of a cluster's streams, against those of other nodes.
    pub weight: u32,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: "node-1".into(),
            roles: vec![Role::Gateway, Role::Origin, Role::Edge],
            address: String::new(),
            weight: 1,
        }
    }
}

impl Config {
    /// Whether this node shares its streams with others: all that share a database do.
    pub fn is_clustered(&self) -> bool {
        self.store.kind == stores::Kind::Scylla
    }

    /// Where other nodes reach this machine; nothing where that cannot be told.
    pub fn host(&self) -> Option<String> {
        let ip = self.internal.listen.ip();
        match self.node.address.is_empty() {
            true => (!ip.is_unspecified()).then(|| ip.to_string()),
            false => Some(self.node.address.clone()),
        }
    }
}

/// What a node does (DESIGN section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds the streamers' connections.
    Gateway,
    /// Runs lines and answers from live memory and store.
    Origin,
    /// Answers viewers from a pull cache.
    Edge,
}

/// What this node answers from other nodes, by its pull cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    /// The internal ports of the nodes that have what this one lacks, in the order in which they are asked.
    pub upstream: Vec<Url>,
    /// Memory for what was pulled, MiB.
    pub memory_mb: u32,
    /// Requests that may wait for something that is on its way; one more is told to come again.
    pub waiters_max: u32,
}

impl Default for Edge {
    fn default() -> Self {
        Self { upstream: Vec::new(), memory_mb: 512, waiters_max: 50_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transcode {
    pub family: Choice,
    /// The part of all CPUs that encoders may take, 0.05 to 1; above it the lowest-value rungs are shed.
    pub cpu_share: f64,
    /// A folder of pipeline descriptions to use instead of the built-in ones.
    #[serde(with = "text::path")]
    pub pipelines: Option<PathBuf>,
}

impl Default for Transcode {
    fn default() -> Self {
        Self { family: Choice::Auto, cpu_share: 0.85, pipelines: None }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`; also per module: `info,weir::rtmp=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
