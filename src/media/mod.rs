//! What a broadcast is made of: track configs and packets on the broadcast's timeline.
//!
//! RTMP frames enter [`timeline`], which decides once where every chunk starts; what leaves are [`Message`]s, the feed.
//! The same messages, framed by [`wire`], go to the transcoder child and come back from it, and [`ring`] keeps the last
//! chunks' worth of them so that a late joiner starts from a boundary. Nothing here does IO or reads a clock.

use bytes::Bytes;

use crate::{id::BroadcastId, time::UnixMs};

pub mod avcc;
pub mod codec;
pub mod fuzz;
pub mod pieces;
pub mod ring;
pub mod timeline;
pub mod wire;

pub use codec::{AudioConfig, VideoConfig};
pub use pieces::Pieces;

/// Ticks per second of video times, and of every time that belongs to no track (chunk starts): the usual MPEG clock,
/// a whole multiple of RTMP's milliseconds.
pub const VIDEO_TIMESCALE: u32 = 90_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Track {
    Video,
    Audio,
}

/// One access unit (H.264, length-prefixed NAL units) or one raw AAC frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub track: Track,
    /// Presentation time on the broadcast's timeline: video in [`VIDEO_TIMESCALE`], audio in samples.
    pub pts: i64,
    /// Decode time, same unit. Equal to `pts` for audio and for video without B-frames.
    pub dts: i64,
    /// An IDR picture. Always true for audio.
    pub key: bool,
    /// This packet starts chunk `k`: `start(k)` is its `pts`. Only video packets carry marks, except in an audio-only
    /// broadcast.
    pub mark: Option<u64>,
    pub payload: Bytes,
}

/// How chunk starts are chosen in an epoch (DESIGN section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Chunks start at the source's own keyframes; `source` passes through untouched.
    Follow,
    /// Chunks start where the clock says; the source's keyframes do not fit, so every rendition is encoded and `source`
    /// is not offered.
    Reencode,
    /// No video: chunks start at audio frames.
    AudioOnly,
}

/// Begins an epoch: who writes which chunk numbers from which time on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Epoch {
    pub broadcast: BroadcastId,
    pub number: u64,
    /// The number of the first chunk of this epoch.
    pub k: u64,
    /// Where that chunk starts on the broadcast's timeline, in [`VIDEO_TIMESCALE`] ticks.
    pub at: i64,
    /// The wall clock at `at`, for EXT-X-PROGRAM-DATE-TIME.
    pub wall: UnixMs,
    /// The first chunk does not continue the one before it.
    pub discontinuity: bool,
}

/// One item of the feed. Order: `Epoch`, then configs before the packets they describe, `Mode` before the second mark,
/// then packets; `End` closes the epoch's last chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Epoch(Epoch),
    Video(VideoConfig),
    Audio(AudioConfig),
    /// The mode is known. `target` is EXT-X-TARGETDURATION in whole seconds.
    Mode {
        mode: Mode,
        target: u32,
    },
    Packet(Packet),
    /// The epoch's media ends at `at` ([`VIDEO_TIMESCALE`]): the end of its last, perhaps short, chunk.
    End {
        at: i64,
    },
}

/// Converts a time between timescales, rounding to the nearest tick.
pub fn rescale(ticks: i64, from: u32, to: u32) -> i64 {
    if from == to {
        return ticks;
    }
    let (ticks, from, to) = (i128::from(ticks), i128::from(from), i128::from(to));
    ((ticks * to + from / 2).div_euclid(from)) as i64
}
