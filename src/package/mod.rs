//! Packets become CMAF chunks, chunks become playlists.
//!
//! Marked packets of one rendition enter a [`Chunker`]; its [`Init`] and [`Chunk`]s leave, ready to be served and
//! stored. What is listed of them is kept in a [`List`], whose immutable [`Window`] snapshots [`playlist`] renders. The
//! line drives the chunkers and lists; `http` renders. Of recorded chunks, [`progressive`] makes one file. Everything
//! here is a pure function of its input: two nodes that are given the same packets make the same bytes. Nothing here does
//! IO, reads a clock or looks into coded pictures.

pub mod chunker;
pub mod cmaf;
mod codecs;
pub mod extent;
#[cfg(test)]
mod ffmpeg_tests;
pub mod history;
pub mod mark;
pub mod parts;
pub mod playlist;
pub mod progressive;
pub mod reload;
pub mod storyboard;
#[cfg(test)]
mod testing;
pub mod window;

pub use chunker::{Chunk, Chunker, Part};
pub use cmaf::Init;
pub use extent::{BadClip, Clip, Extent};
pub use history::{History, Item, Slice};
pub use mark::Mark;
pub use parts::Parts;
pub use playlist::{AudioVariant, Report, Variant};
pub use reload::{BadReload, Reload};
pub use window::{Entry, List, PartEntry, Window};

/// Says why something could not be packaged. The first four blame the packets that came, the last two our own caller;
/// none is cured by trying the same again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A video packet for an audio rendition, or the reverse.
    #[error("packet of another track")]
    WrongTrack,
    /// A chunk of video would not start with a key frame. The mark is void: the packets after it go on in the open
    /// chunk.
    #[error("chunk {k} does not start with a key frame")]
    NotKey { k: u64 },
    /// A chunk's number or start does not come after the one before it, or lies before the timeline's zero.
    #[error("chunk {k} at {at} does not follow chunk {last}")]
    Backwards { k: u64, at: i64, last: u64 },
    /// No mark came for longer than a chunk can be; the packet is dropped.
    #[error("chunk {k} is longer than {}", chunker::LIMITS)]
    TooLong { k: u64 },
    /// A playlist entry does not carry the number after the last one; missing numbers are listed as gaps.
    #[error("chunk {k} listed where {next} is due")]
    NotNext { k: u64, next: u64 },
    /// The playlist has ended, for ever (rfc8216bis 6.2.1).
    #[error("playlist has ended")]
    Ended,
}
