//! Playlist text (rfc8216bis). Media playlists are written here, multivariant playlists through `m3u8-rs`.
//!
//! Both are functions of their arguments alone and hold nothing about the viewer. URIs are relative, so a ticket in the
//! path carries over.

use std::{
    collections::HashMap,
    fmt::{Display, Formatter, Write},
};

use m3u8_rs::{AlternativeMedia, AlternativeMediaType, MasterPlaylist, QuotedOrUnquoted, Resolution, VariantStream};

use super::{Extent, Item, List, Slice, Window};
use crate::{id::Rendition, store::RenditionRow};

/// EXT-X-MAP outside of I-frame playlists needs 6, EXT-X-SKIP 9 (rfc8216bis 8).
const VERSION: usize = 6;
const VERSION_SKIP: usize = 9;
/// EXT-X-MAP in an I-frame playlist needs 5.
const VERSION_IFRAMES: usize = 5;
/// Parts are listed for this many target durations before the end (rfc8216bis 6.2.2).
const PARTS_TARGETS: u64 = 3;
/// CAN-SKIP-UNTIL in target durations; the least that is allowed (rfc8216bis 4.4.3.8).
const SKIP_TARGETS: u64 = 6;
/// PART-HOLD-BACK in part targets (Apple's authoring rules, 14.3).
const HOLD_BACK_PARTS: u32 = 3;
/// What one entry takes, with room: the text is built without growing.
const ENTRY_LEN: usize = 160;
/// The same of an entry that left the window.
const PAST_LEN: usize = 36;
/// What an I-frame's range takes more.
const IFRAME_LEN: usize = 30;
/// How far the wall time may be from what follows from the entries before, microseconds: a tenth of a part.
const CLOCK_US: i64 = 30_000;
/// The bit rate that the first variant comes nearest to: players start with it (HLS authoring specification 9.20).
const FIRST_BPS: u64 = 2_000_000;
const AUDIO_GROUP: &str = "audio";

/// How far another rendition of the broadcast is (EXT-X-RENDITION-REPORT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub rendition: Rendition,
    /// Newest chunk listed, and its newest part.
    pub k: u64,
    pub part: Option<u64>,
}

/// Renders a live media playlist.
///
/// Every entry carries PROGRAM-DATE-TIME, so that a player that comes in anywhere, and one that lost count, knows the
/// wall time exactly. A window with parts gives low-latency HLS, which plays as plain HLS too; `reports` are for it.
pub fn media(window: &Window, reports: &[Report]) -> String {
    Text { reports, ..Text::of(Kind::Live, &[], window) }.written()
}

/// Renders a delta update of a live playlist (`_HLS_skip`): old entries are left out. Nothing when none is old enough, or
/// the playlist has ended: then the whole is the answer (rfc8216bis 6.2.5.1).
pub fn delta(window: &Window, reports: &[Report]) -> Option<String> {
    Text { reports, ..Text::of(Kind::Live, &[], window) }.delta()
}

/// Renders a broadcast that goes on from its start: PLAYLIST-TYPE EVENT, `past` before what the window still lists.
///
/// As in every playlist that can be long, PROGRAM-DATE-TIME stands only where the wall time does not follow from the
/// entries before.
pub fn from_start(past: &[Slice<'_>], window: &Window, reports: &[Report]) -> String {
    Text { reports, ..Text::of(Kind::FromStart, past, window) }.written()
}

/// The delta update of [`from_start`]; as [`delta`].
pub fn from_start_delta(past: &[Slice<'_>], window: &Window, reports: &[Report]) -> Option<String> {
    Text { reports, ..Text::of(Kind::FromStart, past, window) }.delta()
}

/// Renders what is recorded so far of a broadcast that may go on elsewhere: neither a type nor an end.
pub fn unfinished(past: &[Slice<'_>], target: u32) -> String {
    Text::of(Kind::Live, past, &List::new(target, 1).window()).written()
}

/// Renders a recording, or a piece of one: PLAYLIST-TYPE VOD and ENDLIST, no parts. `target` is EXT-X-TARGETDURATION in
/// seconds. A player begins `start_us` microseconds after the first entry's start (EXT-X-START).
pub fn recording(past: &[Slice<'_>], target: u32, start_us: Option<u64>) -> String {
    let nothing = List::new(target, 1).window();
    Text { start_us, ..Text::of(Kind::Recording, past, &nothing) }.written()
}

/// Renders the I-frame playlist (rfc8216bis 4.4.3.6) of these chunks: of each the bytes up to the end of its first picture,
/// which a player can show alone when it winds or looks for a place. Numbers and times are those of the media playlist.
pub fn iframes(kind: Kind, listed: &[Slice<'_>], target: u32, ended: bool) -> String {
    let mut out = String::with_capacity(200 + listed.iter().map(Slice::len).sum::<usize>() * (PAST_LEN + IFRAME_LEN));
    write_iframes(&mut out, kind, listed, target, ended).expect("writing to memory cannot fail");
    out
}

fn write_iframes(out: &mut String, kind: Kind, listed: &[Slice<'_>], target: u32, ended: bool) -> std::fmt::Result {
    writeln!(out, "#EXTM3U\n#EXT-X-VERSION:{VERSION_IFRAMES}\n#EXT-X-TARGETDURATION:{target}")?;
    let (first, before) = listed
        .iter()
        .find(|slice| !slice.is_empty())
        .map_or((0, 0), |slice| (slice.first_k(), slice.discontinuities_before()));
    writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-DISCONTINUITY-SEQUENCE:{before}")?;
    out.push_str(kind.tag());
    out.push_str("#EXT-X-I-FRAMES-ONLY\n");
    let mut map = "";
    let mut clock = Clock { always: kind == Kind::Live, next_us: None };
    for item in listed.iter().flat_map(Slice::items) {
        let told = clock.tells(&item);
        // Of chunks made before the lengths were kept nothing can be shown alone.
        let item = Item { gap: item.gap || item.iframe == 0, ..item };
        begin(out, &item, &mut map, told)?;
        if !item.gap {
            writeln!(out, "#EXT-X-BYTERANGE:{}@0", item.iframe)?;
        }
        media_line(out, &item);
    }
    if ended { out.write_str("#EXT-X-ENDLIST\n") } else { Ok(()) }
}

/// What a playlist is: whether it goes on, and whether what it lists stays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Live,
    FromStart,
    Recording,
}

impl Kind {
    /// EXT-X-PLAYLIST-TYPE, where it has one.
    fn tag(self) -> &'static str {
        match self {
            Kind::Live => "",
            Kind::FromStart => "#EXT-X-PLAYLIST-TYPE:EVENT\n",
            Kind::Recording => "#EXT-X-PLAYLIST-TYPE:VOD\n",
        }
    }
}

/// One media playlist as text.
struct Text<'a> {
    kind: Kind,
    /// What the window does not list any more, in order.
    past: &'a [Slice<'a>],
    window: &'a Window,
    reports: &'a [Report],
    /// Entries left out at the front.
    skip: usize,
    start_us: Option<u64>,
}

impl<'a> Text<'a> {
    fn of(kind: Kind, past: &'a [Slice<'a>], window: &'a Window) -> Self {
        Self { kind, past, window, reports: &[], skip: 0, start_us: None }
    }

    fn delta(self) -> Option<String> {
        if self.window.part_target_ms().is_none() || self.window.ended() {
            return None;
        }
        let boundary = SKIP_TARGETS * u64::from(self.window.target()) * 1_000_000;
        // What is younger than the boundary, from the end.
        let entries = self.window.entries();
        let mut us = self.window.open().map_or(0, |open| open.duration_us);
        let lasts = entries.iter().rev().map(|entry| entry.duration_us);
        let lasted = self.past.iter().rev().flat_map(|past| past.items().rev()).map(|item| item.duration_us);
        let young = lasts.chain(lasted).take_while(|lasts| {
            us += lasts;
            us - lasts < boundary
        });
        let skip = (entries.len() + self.past_len()) - young.count();
        (skip > 0).then(|| Self { skip, ..self }.written())
    }

    fn past_len(&self) -> usize {
        self.past.iter().map(Slice::len).sum()
    }

    fn written(&self) -> String {
        let left = self.past_len().saturating_sub(self.skip);
        let mut out = String::with_capacity(512 + left * PAST_LEN + self.window.entries().len() * 2 * ENTRY_LEN);
        self.write(&mut out).expect("writing to a String does not fail");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let window = self.window;
        let part_target = window.part_target_ms();
        self.head(out)?;
        // Also in a delta update: only whoever says CAN-SKIP-DATERANGES may leave some out. A playlist from the start lists none,
        // as it could never let go of one.
        for mark in window.marks().iter().filter(|_| self.kind == Kind::Live) {
            writeln!(out, "{mark}")?;
        }
        let (mut map, mut clock) = ("", Clock { always: self.kind == Kind::Live, next_us: None });
        // What is skipped is looked at for the clock alone: what is said of an entry is the same in every version.
        let mut skip = self.skip;
        for item in self.past.iter().flat_map(Slice::items) {
            let tell = clock.tells(&item);
            if skip > 0 {
                skip -= 1;
                continue;
            }
            begin(out, &item, &mut map, tell)?;
            media_line(out, &item);
        }
        let with_parts = PARTS_TARGETS * u64::from(window.target()) * 1_000_000;
        for (entry, until_end) in window.entries().iter().zip(until_end(window)) {
            let item = Item::from(entry);
            let tell = clock.tells(&item);
            if skip > 0 {
                skip -= 1;
                continue;
            }
            begin(out, &item, &mut map, tell)?;
            if part_target.is_some() && until_end < with_parts {
                parts(out, &item)?;
            }
            media_line(out, &item);
        }
        if self.kind == Kind::Recording || window.ended() {
            out.push_str("#EXT-X-ENDLIST\n");
        }
        let Some(_) = part_target.filter(|_| !window.ended()) else { return Ok(()) };
        if let Some(open) = window.open() {
            if !open.parts.is_empty() {
                begin(out, &open.into(), &mut map, clock.tells(&open.into()))?;
                parts(out, &open.into())?;
            }
            let next = open.parts.len();
            writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{}.{}.{next}.m4s\"", open.k, open.epoch)?;
        } else if self.reports.is_empty() {
            // hls.js 1.7 takes the last chunk for the one that is being made unless some line follows it.
            out.push_str("# Nothing is being made now.\n");
        }
        let query = if self.kind == Kind::FromStart { Extent::FromStart } else { Extent::Window };
        for Report { rendition, k, part } in self.reports {
            write!(out, "#EXT-X-RENDITION-REPORT:URI=\"../{rendition}/index.m3u8{query}\",LAST-MSN={k}")?;
            part.map_or(Ok(()), |part| write!(out, ",LAST-PART={part}"))?;
            out.push('\n');
        }
        Ok(())
    }

    fn head(&self, out: &mut String) -> std::fmt::Result {
        let window = self.window;
        let version = if self.skip > 0 { VERSION_SKIP } else { VERSION };
        writeln!(out, "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{}", window.target())?;
        if let Some(ms) = window.part_target_ms() {
            let (hold, skip) = (ms * HOLD_BACK_PARTS, SKIP_TARGETS * u64::from(window.target()));
            writeln!(
                out,
                "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={skip}.0,PART-HOLD-BACK={}\n#EXT-X-PART-INF:PART-TARGET={}",
                Seconds(hold.into(), 3),
                Seconds(ms.into(), 3)
            )?;
        }
        let first = self.past.iter().find(|past| !past.is_empty());
        let (sequence, discontinuities) = match first {
            Some(past) => (past.first_k(), past.discontinuities_before()),
            None => (window.media_sequence(), window.discontinuity_sequence()),
        };
        writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{sequence}\n#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities}")?;
        out.push_str(self.kind.tag());
        if let Some(us) = self.start_us {
            writeln!(out, "#EXT-X-START:TIME-OFFSET={},PRECISE=YES", Seconds(us, 6))?;
        }
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        if self.skip > 0 { writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={}", self.skip) } else { Ok(()) }
    }
}

/// From the end of each entry to the end of the playlist, microseconds.
fn until_end(window: &Window) -> Vec<u64> {
    let mut us = window.open().map_or(0, |open| open.duration_us);
    let mut all: Vec<_> = window
        .entries()
        .iter()
        .rev()
        .map(|entry| {
            us += entry.duration_us;
            us - entry.duration_us
        })
        .collect();
    all.reverse();
    all
}

/// Knows where the wall time has to be told: in a long playlist, where it does not follow from the entries before.
struct Clock {
    always: bool,
    /// What follows for the next entry, microseconds.
    next_us: Option<i64>,
}

impl Clock {
    fn tells(&mut self, item: &Item<'_>) -> bool {
        let wall_us = item.wall.0 * 1000;
        let follows = self.next_us.filter(|next| (next - wall_us).abs() <= CLOCK_US && !item.discontinuity);
        self.next_us = Some(follows.unwrap_or(wall_us) + item.duration_us as i64);
        self.always || follows.is_none()
    }
}

/// The tags that stand before a chunk and its parts. The wall time is told where it does not follow from what was written.
fn begin<'a>(out: &mut String, item: &Item<'a>, map: &mut &'a str, tell_wall: bool) -> std::fmt::Result {
    if item.discontinuity {
        out.push_str("#EXT-X-DISCONTINUITY\n");
    }
    if !item.init.is_empty() && (item.discontinuity || item.init != *map) {
        *map = item.init;
        writeln!(out, "#EXT-X-MAP:URI=\"init-{map}.mp4\"")?;
    }
    if tell_wall {
        writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", item.wall)?;
    }
    if item.gap {
        out.push_str("#EXT-X-GAP\n");
    }
    Ok(())
}

/// EXTINF and URI: most of a long playlist, so without the machinery of `fmt`.
fn media_line(out: &mut String, item: &Item<'_>) {
    let mut digits = itoa::Buffer::new();
    out.push_str("#EXTINF:");
    out.push_str(digits.format(item.duration_us / 1_000_000));
    out.push('.');
    // Six digits, with zeros in front.
    out.push_str(&digits.format(1_000_000 + item.duration_us % 1_000_000)[1..]);
    out.push_str(",\n");
    out.push_str(digits.format(item.k));
    out.push('.');
    out.push_str(digits.format(item.epoch));
    out.push_str(".m4s\n");
}

fn parts(out: &mut String, item: &Item<'_>) -> std::fmt::Result {
    for (i, part) in item.parts.iter().enumerate() {
        let independent = if part.independent { ",INDEPENDENT=YES" } else { "" };
        let duration = Seconds(part.duration_us, 6);
        writeln!(out, "#EXT-X-PART:DURATION={duration},URI=\"{}.{}.{i}.m4s\"{independent}", item.k, item.epoch)?;
    }
    Ok(())
}

/// A count of decimal fractions of a second, with so many digits.
struct Seconds(u64, u32);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        let unit = 10_u64.pow(self.1);
        write!(f, "{}.{:0width$}", self.0 / unit, self.0 % unit, width = self.1 as usize)
    }
}

/// What a playlist lists of a rendition's chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// All of them, or their parts.
    Media,
    /// Of each its first picture.
    Iframes,
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
    /// Peak bits per second of its I-frame playlist; zero where there is none.
    pub iframe_bps: u64,
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
            iframe_bps: row.iframe_bps,
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
/// is a group of its own, except without variants, when it is the one variant. `uri` leads to a rendition's playlist, of the
/// media or of the I-frames.
pub fn multivariant(
    variants: &[Variant],
    audio: Option<&AudioVariant>,
    uri: impl Fn(&Rendition, Listing) -> String,
) -> String {
    let (audio_peak, audio_mean) = audio.map_or((0, 0), |audio| (audio.peak_bps, audio.mean_bps));
    let mut streams: Vec<_> = variants
        .iter()
        .map(|variant| VariantStream {
            uri: uri(&variant.name, Listing::Media),
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
    let iframes = variants.iter().filter(|variant| variant.iframe_bps > 0).map(|variant| VariantStream {
        is_i_frame: true,
        uri: uri(&variant.name, Listing::Iframes),
        bandwidth: variant.iframe_bps,
        codecs: Some(variant.codec.clone()),
        resolution: Some(Resolution { width: variant.width.into(), height: variant.height.into() }),
        ..VariantStream::default()
    });
    let mut iframes: Vec<_> = iframes.collect();
    iframes.sort_by(|a, b| b.bandwidth.cmp(&a.bandwidth).then_with(|| a.uri.cmp(&b.uri)));
    let mut alternatives = Vec::new();
    if let Some(audio) = audio {
        if streams.is_empty() {
            streams.push(VariantStream {
                uri: uri(&audio.name, Listing::Media),
                bandwidth: audio.peak_bps.max(1),
                average_bandwidth: Some(audio.mean_bps.max(1)),
                codecs: Some(audio.codec.clone()),
                ..VariantStream::default()
            });
        } else {
            alternatives.push(AlternativeMedia {
                media_type: AlternativeMediaType::Audio,
                uri: Some(uri(&audio.name, Listing::Media)),
                group_id: AUDIO_GROUP.into(),
                name: audio.name.to_string(),
                default: true,
                autoselect: true,
                channels: (audio.channels > 0).then(|| audio.channels.to_string()),
                ..AlternativeMedia::default()
            });
        }
    }
    streams.extend(iframes);
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
