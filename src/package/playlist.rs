//! Playlist text (rfc8216bis). Media playlists are written here, multivariant playlists through `m3u8-rs`.
//!
//! Both are functions of their arguments alone and hold nothing about the viewer. URIs are relative, so a ticket in the
//! path carries over.

use std::{collections::HashMap, fmt::Write};

use m3u8_rs::{AlternativeMedia, AlternativeMediaType, MasterPlaylist, QuotedOrUnquoted, Resolution, VariantStream};

use super::Window;
use crate::{id::Rendition, store::RenditionRow};

/// EXT-X-MAP outside of I-frame playlists needs 6, nothing here needs more (rfc8216bis 8).
const VERSION: usize = 6;
/// What one entry takes, with room: the text is built without growing.
const ENTRY_LEN: usize = 160;
/// The bit rate that the first variant comes nearest to: players start with it (HLS authoring specification 9.20).
const FIRST_BPS: u64 = 2_000_000;
const AUDIO_GROUP: &str = "audio";

/// Renders a media playlist.
///
/// `vod` makes it a recording: PLAYLIST-TYPE VOD and ENDLIST. Every entry carries PROGRAM-DATE-TIME, so that a player
/// that comes in anywhere, and one that lost count, knows the wall time exactly.
pub fn media(window: &Window, vod: bool) -> String {
    let mut out = String::with_capacity(256 + window.entries().len() * ENTRY_LEN);
    render(&mut out, window, vod).expect("writing to a String does not fail");
    out
}

fn render(out: &mut String, window: &Window, vod: bool) -> std::fmt::Result {
    writeln!(out, "#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-TARGETDURATION:{}", window.target())?;
    writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{}", window.media_sequence())?;
    writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", window.discontinuity_sequence())?;
    if vod {
        out.push_str("#EXT-X-PLAYLIST-TYPE:VOD\n");
    }
    out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    let mut map = "";
    for entry in window.entries() {
        if entry.discontinuity {
            out.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if !entry.init.is_empty() && (entry.discontinuity || *entry.init != *map) {
            map = &entry.init;
            writeln!(out, "#EXT-X-MAP:URI=\"init-{map}.mp4\"")?;
        }
        writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", entry.wall)?;
        if entry.gap {
            out.push_str("#EXT-X-GAP\n");
        }
        let (seconds, micros) = (entry.duration_us / 1_000_000, entry.duration_us % 1_000_000);
        writeln!(out, "#EXTINF:{seconds}.{micros:06},\n{}.{}.m4s", entry.k, entry.epoch)?;
    }
    if vod || window.ended() {
        out.push_str("#EXT-X-ENDLIST\n");
    }
    Ok(())
}

/// What the multivariant playlist says of a rendition with pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub name: Rendition,
    /// RFC 6381, of the pictures alone.
    pub codec: String,
    /// Size as in the init segment.
    pub width: u32,
    pub height: u32,
    /// Frames per second in thousandths; 0 when unknown.
    pub fps_milli: u32,
    /// Peak and mean bits per second of its chunks, without audio.
    pub peak_bps: u64,
    pub mean_bps: u64,
}

impl From<&RenditionRow> for Variant {
    fn from(row: &RenditionRow) -> Self {
        Self {
            name: row.name.clone(),
            codec: row.codec.clone(),
            width: row.width,
            height: row.height,
            fps_milli: row.fps_milli,
            peak_bps: row.peak_bps,
            mean_bps: row.mean_bps,
        }
    }
}

/// What the multivariant playlist says of the audio rendition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioVariant {
    pub name: Rendition,
    pub codec: String,
    pub channels: u32,
    pub peak_bps: u64,
    pub mean_bps: u64,
}

impl From<&RenditionRow> for AudioVariant {
    fn from(row: &RenditionRow) -> Self {
        Self {
            name: row.name.clone(),
            codec: row.codec.clone(),
            channels: row.channels,
            peak_bps: row.peak_bps,
            mean_bps: row.mean_bps,
        }
    }
}

/// Renders the multivariant playlist: the variant nearest to 2 Mb/s first, then from the highest bit rate down. Audio
/// is a group of its own, except without variants, when it is the one variant.
///
/// `prefix` leads from the playlist to the renditions' folders: empty, or ending in a slash.
pub fn multivariant(variants: &[Variant], audio: Option<&AudioVariant>, prefix: &str) -> String {
    let uri = |name: &Rendition| format!("{prefix}{name}/index.m3u8");
    let (audio_peak, audio_mean) = audio.map_or((0, 0), |audio| (audio.peak_bps, audio.mean_bps));
    let mut streams: Vec<_> = variants
        .iter()
        .map(|variant| VariantStream {
            uri: uri(&variant.name),
            bandwidth: (variant.peak_bps + audio_peak).max(1),
            average_bandwidth: Some((variant.mean_bps + audio_mean).max(1)),
            codecs: Some(match audio {
                Some(audio) => format!("{},{}", variant.codec, audio.codec),
                None => variant.codec.clone(),
            }),
            resolution: Some(Resolution { width: variant.width.into(), height: variant.height.into() }),
            other_attributes: frame_rate(variant.fps_milli),
            audio: audio.map(|_| AUDIO_GROUP.into()),
            ..VariantStream::default()
        })
        .collect();
    streams.sort_by(|a, b| b.bandwidth.cmp(&a.bandwidth).then_with(|| a.uri.cmp(&b.uri)));
    if let Some(first) = (0..streams.len()).min_by_key(|&i| streams[i].bandwidth.abs_diff(FIRST_BPS)) {
        streams[..=first].rotate_right(1);
    }
    let mut alternatives = Vec::new();
    if let Some(audio) = audio {
        if streams.is_empty() {
            streams.push(VariantStream {
                uri: uri(&audio.name),
                bandwidth: audio.peak_bps.max(1),
                average_bandwidth: Some(audio.mean_bps.max(1)),
                codecs: Some(audio.codec.clone()),
                ..VariantStream::default()
            });
        } else {
            alternatives.push(AlternativeMedia {
                media_type: AlternativeMediaType::Audio,
                uri: Some(uri(&audio.name)),
                group_id: AUDIO_GROUP.into(),
                name: audio.name.to_string(),
                default: true,
                autoselect: true,
                channels: (audio.channels > 0).then(|| audio.channels.to_string()),
                ..AlternativeMedia::default()
            });
        }
    }
    let playlist = MasterPlaylist {
        version: Some(VERSION),
        variants: streams,
        independent_segments: true,
        alternatives,
        ..MasterPlaylist::default()
    };
    let mut out = Vec::new();
    playlist.write_to(&mut out).expect("writing to memory does not fail");
    String::from_utf8(out).expect("all of its parts are text")
}

/// FRAME-RATE with three decimals. As an attribute of its own kind, because `m3u8-rs` writes the field it has for it as
/// the shortest float (`30`, `29.97`).
fn frame_rate(fps_milli: u32) -> Option<HashMap<String, QuotedOrUnquoted>> {
    let text = format!("{}.{:03}", fps_milli / 1000, fps_milli % 1000);
    (fps_milli > 0).then(|| HashMap::from([("FRAME-RATE".into(), QuotedOrUnquoted::Unquoted(text))]))
}

#[cfg(test)]
#[path = "playlist_tests.rs"]
mod tests;
