//! Encoded renditions: a line's marked packets enter, packets of every rung of the ladder leave, marked at the same times.
//!
//! The line spawns a [`supervisor::Transcoder`]; it runs the [`worker`] as a child process of the same binary, feeds it
//! from the replay ring and forwards what comes back. [`ladder`] chooses the rungs, [`budget`] admits as many as the node
//! can carry, [`description`] fills in the pipeline text; [`still`] makes pictures of key frames. The main process never loads a GStreamer plugin and the
//! untouched `source` rendition never passes through here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub mod budget;
pub mod description;
pub mod encoder;
pub mod ladder;
pub mod pool;
pub mod probe;
pub mod recovery;
pub mod still;
pub mod supervisor;
pub mod worker;

pub use budget::Granted;
pub use ladder::{Entry, Rung};
pub use pool::Pool;
pub use still::Stills;
pub use supervisor::{Event, Item, Transcoder};

/// The `[transcode]` table of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which encoders to use.
    pub family: Choice,
    /// A folder whose `<family>.launch` files are used instead of the built-in ones.
    pub pipelines: Option<PathBuf>,
    /// Share of the node's cores that encoding may take, above 0, at most 1.
    pub cpu_share: f32,
    /// Niceness added to encoding processes, 0 to 19: ingest and delivery go first.
    pub nice: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self { family: Choice::Auto, pipelines: None, cpu_share: 0.85, nice: 10 }
    }
}

/// Which encoder family the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The first of [`Family::ALL`] that works on this machine.
    #[default]
    Auto,
    X264,
    Vaapi,
    Nvenc,
}

/// A kind of encoder, with its description in `pipelines/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Nvenc,
    Vaapi,
    X264,
}

impl Family {
    /// In the order in which they are tried.
    pub const ALL: [Family; 3] = [Family::Nvenc, Family::Vaapi, Family::X264];

    pub fn name(self) -> &'static str {
        match self {
            Family::Nvenc => "nvenc",
            Family::Vaapi => "vaapi",
            Family::X264 => "x264",
        }
    }
}

/// What a worker is told before anything else; the first frame on its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The filled-in description.
    pub pipeline: String,
    /// Channel `i` of the worker's output is `rungs[i]`.
    pub rungs: Vec<Rung>,
    /// The first chunk to encode. Pictures before it are decoded only.
    pub start_k: u64,
    /// Frames per second of the source, as a fraction.
    pub fps: (u32, u32),
    /// Niceness to add.
    pub nice: u8,
}
