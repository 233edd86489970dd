//! The publisher's side of RTMP: connections from encoders in, [`flv::Tag`]s out.
//!
//! [`chunk`] turns bytes into messages, [`amf`] reads commands, [`flv`] reads media, and [`session::Session`] is the
//! protocol as a sans-IO machine that owns the three. [`server`] drives one session per socket and asks the caller's
//! [`server::Publishers`] whether a stream key may publish. Nothing here knows of streams, chunks of renditions or the
//! store, nothing plays, and no stream key reaches a log.

use std::{fmt, net::SocketAddr, time::Duration};

pub mod amf;
pub mod chunk;
pub mod flv;
pub mod fuzz;
pub mod reason;
pub mod server;
pub mod session;

pub use reason::Reason;

/// How long and how much the server puts up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    /// From the connection to the end of the handshake.
    pub handshake_timeout: Duration,
    /// From there, or from the end of a publish, to `publish`.
    pub publish_timeout: Duration,
    /// From the accepted publish to the first audio or video.
    pub first_media_timeout: Duration,
    /// Without audio and video from then on. A single message may take four times as long as long as it makes progress.
    pub idle_timeout: Duration,
    /// For the peer to take what we send, and for the caller to answer a publish request.
    pub write_timeout: Duration,
    /// Connections that do not publish (yet). When there are more, the oldest is closed: silence cannot keep others out.
    pub half_open_max: usize,
    /// Connections that publish. When there are more, the new one is refused with words.
    pub publishers_max: usize,
    /// How long a publisher's bytes are collected; not zero. All publishers are read at the same moments.
    pub pace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 1935)),
            handshake_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(10),
            first_media_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(6),
            write_timeout: Duration::from_secs(10),
            half_open_max: 8192,
            publishers_max: 1024,
            pace: Duration::from_millis(100),
        }
    }
}

/// What the encoder sent as its stream key, with all secrets in it: prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey(String);

impl StreamKey {
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Gives the key itself, to be taken apart and checked, never to be logged.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// What a refusal is to the encoder. OBS reacts to these three codes and to no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// There is no such stream, or its name is not legal.
    BadName,
    /// The key does not open it.
    Denied,
    /// Everything else: limits, codecs, a newer session.
    Rejected,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Code::BadName => "NetStream.Publish.BadName",
            Code::Denied => "NetStream.Publish.Denied",
            Code::Rejected => "NetStream.Publish.Rejected",
        }
    }
}

/// Why a publisher is turned away, in words that a streamer reads in the encoder's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub description: String,
}

impl Refusal {
    pub fn new(code: Code, description: impl Into<String>) -> Self {
        Self { code, description: description.into() }
    }
}

/// Gives text of a peer as it may be logged and shown: without control characters, at most `len_max` characters.
fn printable(text: &str, len_max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(len_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_key_does_not_print() {
        let key = StreamKey::new("alice?key=hunter2");
        assert_eq!(format!("{key:?}"), "...");
        assert_eq!(key.expose(), "alice?key=hunter2");
    }
}
