//! Why a connection ended: words for the log, one stable label for the metric.

use super::{Code, amf, chunk, flv};

/// Why a connection ended. `rtmp_closed_total{reason}` counts by [`Reason::label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("the peer closed the connection")]
    PeerClosed,
    #[error("the connection was lost: {0}")]
    ConnectionLost(std::io::ErrorKind),
    #[error("the handshake did not end in time")]
    HandshakeTimeout,
    #[error("not an RTMP handshake")]
    BadHandshake,
    #[error("nothing was published in time")]
    PublishTimeout,
    #[error("no media came after the publish")]
    FirstMediaTimeout,
    #[error("media stopped coming")]
    MediaIdle,
    #[error("the peer does not read what it is sent")]
    WriteTimeout,
    #[error("too many bytes before a publish was accepted")]
    TooBigBeforeAuth,
    #[error("bad chunk: {0}")]
    Chunk(#[from] chunk::Error),
    #[error("bad command: {0}")]
    Amf(#[from] amf::Error),
    #[error("unexpected command: {0}")]
    BadCommand(&'static str),
    #[error("a second publish on one connection")]
    SecondPublish,
    #[error("a player, not a publisher")]
    Player,
    #[error("publish refused: {}", .0.as_str())]
    Refused(Code),
    #[error("{0}")]
    Media(#[from] flv::Error),
    #[error("stopped by the server")]
    Stopped,
    #[error("too many connections that do not publish, this was the oldest")]
    HalfOpenFull,
    #[error("too many publishers")]
    PublishersFull,
    #[error("the server is shutting down")]
    Shutdown,
}

impl Reason {
    /// Gives the metric label, which never changes.
    pub fn label(&self) -> &'static str {
        match self {
            Reason::PeerClosed => "peer_closed",
            Reason::ConnectionLost(_) => "connection_lost",
            Reason::HandshakeTimeout => "handshake_timeout",
            Reason::BadHandshake => "bad_handshake",
            Reason::PublishTimeout => "publish_timeout",
            Reason::FirstMediaTimeout => "first_media_timeout",
            Reason::MediaIdle => "media_idle",
            Reason::WriteTimeout => "write_timeout",
            Reason::TooBigBeforeAuth => "too_big_before_auth",
            Reason::Chunk(error) => match error {
                chunk::Error::MessageTooBig { limit, .. } | chunk::Error::PartialBytes { limit }
                    if *limit <= chunk::Limits::BEFORE_AUTH.partial_bytes =>
                {
                    "too_big_before_auth"
                }
                chunk::Error::MessageTooBig { .. } => "message_too_big",
                chunk::Error::TooManyChunkStreams => "too_many_chunk_streams",
                chunk::Error::TooManyPartialMessages | chunk::Error::PartialBytes { .. } => "too_many_partial_messages",
                chunk::Error::ChunkSize(_) => "bad_chunk_size",
                chunk::Error::NoPreviousHeader { .. }
                | chunk::Error::HeaderWithinMessage { .. }
                | chunk::Error::ShortControl => "bad_chunk",
            },
            Reason::Amf(error) => match error {
                amf::Error::TooDeep => "amf_depth",
                amf::Error::TooMany | amf::Error::TooBig(_) => "amf_too_big",
                amf::Error::Truncated | amf::Error::Amf3 | amf::Error::Marker(_) => "bad_amf",
            },
            Reason::BadCommand(_) => "bad_command",
            Reason::SecondPublish => "second_publish",
            Reason::Player => "player",
            Reason::Refused(_) => "refused",
            Reason::Media(error) => match error {
                flv::Error::Broken(_) => "bad_media",
                flv::Error::VideoCodec(_) | flv::Error::AudioCodec(_) | flv::Error::Multitrack(_) => {
                    "unsupported_codec"
                }
            },
            Reason::Stopped => "stopped",
            Reason::HalfOpenFull => "half_open_full",
            Reason::PublishersFull => "publishers_full",
            Reason::Shutdown => "shutdown",
        }
    }
}
