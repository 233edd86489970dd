//! Audio and video message bodies (FLV tags, legacy and enhanced) to the [`Tag`]s that a line understands.
//!
//! Pure. Payloads stay slices of the message they came in. Reads the few header bytes of a tag and nothing of the
//! elementary stream; every codec but H.264 and AAC is refused with words for the streamer.

use std::collections::HashMap;

use bytes::{Buf, Bytes};
use rml_amf0::Amf0Value;

use super::amf;

/// What a publisher sends, in the order in which it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Tag {
    /// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1.2).
    VideoConfig(Bytes),
    /// One H.264 access unit, NAL units with length prefixes. Decode time in ms of the publisher's clock, modulo 2^32;
    /// presentation is `composition_ms` later.
    Video { time_ms: u32, composition_ms: i32, payload: Bytes },
    /// AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1).
    AudioConfig(Bytes),
    /// One raw AAC frame.
    Audio { time_ms: u32, payload: Bytes },
    /// What the encoder says about itself. Hints for people, not to be computed with.
    Metadata(Metadata),
    /// The encoder says that its video ends here.
    VideoEnd,
}

/// Letters of what an encoder says that it plays.
const TITLE_MAX: usize = 700;

/// The parts of onMetaData that are worth showing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    pub encoder: Option<String>,
    /// What it plays, as radio software tells it.
    pub title: Option<String>,
    pub artist: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub fps: Option<f64>,
    pub video_kbps: Option<u32>,
    pub audio_kbps: Option<u32>,
}

/// Why a tag cannot be taken; the text is shown to the streamer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "video codec {0} is not supported, please send H.264: in OBS choose an H.264 encoder (x264, NVENC H.264, ...) \
         under Settings, Output, Video Encoder"
    )]
    VideoCodec(String),
    #[error(
        "audio codec {0} is not supported, please send AAC: in OBS choose AAC under Settings, Output, Audio Encoder"
    )]
    AudioCodec(String),
    #[error(
        "several {0} tracks in one connection are not supported: in OBS switch off Settings, Stream, Multitrack Video"
    )]
    Multitrack(&'static str),
    #[error("a broken {0} message")]
    Broken(&'static str),
}

const BROKEN_VIDEO: Error = Error::Broken("video");
const BROKEN_AUDIO: Error = Error::Broken("audio");

/// Reads the body of a video message; `None` when it holds nothing to pass on.
pub fn video(time_ms: u32, mut body: Bytes) -> Result<Option<Tag>, Error> {
    const COMMAND_FRAME: u8 = 5;
    const AVC: u8 = 7;
    let Some(&first) = body.first() else { return Ok(None) };
    if first & 0x80 != 0 {
        return enhanced_video(time_ms, body);
    }
    if first >> 4 == COMMAND_FRAME {
        return Ok(None);
    }
    let codec = first & 0x0f;
    if codec != AVC {
        return Err(Error::VideoCodec(legacy_video_codec(codec)));
    }
    let &[_, packet, a, b, c, ..] = &body[..] else { return Err(BROKEN_VIDEO) };
    body.advance(5);
    match packet {
        0 => Ok(Some(Tag::VideoConfig(body))),
        1 => Ok(coded_video(time_ms, signed_24(a, b, c), body)),
        2 => Ok(Some(Tag::VideoEnd)),
        _ => Err(BROKEN_VIDEO),
    }
}

/// Enhanced RTMP v2, "Enhanced Video".
fn enhanced_video(time_ms: u32, mut body: Bytes) -> Result<Option<Tag>, Error> {
    const COMMAND_FRAME: u8 = 5;
    const METADATA: u8 = 4;
    let first = body.get_u8();
    let packet = skip_modifiers(first & 0x0f, &mut body).ok_or(BROKEN_VIDEO)?;
    // Colour metadata repeats what the SPS says; commands are for players.
    if packet == METADATA || first >> 4 & 0x7 == COMMAND_FRAME {
        return Ok(None);
    }
    if packet == 6 {
        return Err(Error::Multitrack("video"));
    }
    let &fourcc = body.first_chunk::<4>().ok_or(BROKEN_VIDEO)?;
    body.advance(4);
    if &fourcc != b"avc1" {
        return Err(Error::VideoCodec(match &fourcc {
            b"hvc1" => "HEVC (H.265)".into(),
            b"av01" => "AV1".into(),
            b"vp09" => "VP9".into(),
            b"vp08" => "VP8".into(),
            other => fourcc_text(other),
        }));
    }
    match packet {
        0 => Ok(Some(Tag::VideoConfig(body))),
        1 => {
            let &[a, b, c, ..] = &body[..] else { return Err(BROKEN_VIDEO) };
            body.advance(3);
            Ok(coded_video(time_ms, signed_24(a, b, c), body))
        }
        2 => Ok(Some(Tag::VideoEnd)),
        3 => Ok(coded_video(time_ms, 0, body)),
        _ => Err(BROKEN_VIDEO),
    }
}

fn coded_video(time_ms: u32, composition_ms: i32, payload: Bytes) -> Option<Tag> {
    (!payload.is_empty()).then_some(Tag::Video { time_ms, composition_ms, payload })
}

/// Reads the body of an audio message; `None` when it holds nothing to pass on.
pub fn audio(time_ms: u32, mut body: Bytes) -> Result<Option<Tag>, Error> {
    const ENHANCED: u8 = 9;
    const AAC: u8 = 10;
    let Some(&first) = body.first() else { return Ok(None) };
    let format = first >> 4;
    if format == ENHANCED {
        return enhanced_audio(time_ms, body);
    }
    if format != AAC {
        return Err(Error::AudioCodec(legacy_audio_codec(format)));
    }
    let &[_, packet, ..] = &body[..] else { return Err(BROKEN_AUDIO) };
    body.advance(2);
    match packet {
        0 => Ok(Some(Tag::AudioConfig(body))),
        1 => Ok(raw_audio(time_ms, body)),
        _ => Err(BROKEN_AUDIO),
    }
}

/// Enhanced RTMP v2, "Enhanced Audio".
fn enhanced_audio(time_ms: u32, mut body: Bytes) -> Result<Option<Tag>, Error> {
    let first = body.get_u8();
    let packet = skip_modifiers(first & 0x0f, &mut body).ok_or(BROKEN_AUDIO)?;
    if packet == 5 {
        return Err(Error::Multitrack("audio"));
    }
    let &fourcc = body.first_chunk::<4>().ok_or(BROKEN_AUDIO)?;
    body.advance(4);
    if &fourcc != b"mp4a" {
        return Err(Error::AudioCodec(match &fourcc {
            b"Opus" => "Opus".into(),
            b".mp3" => "MP3".into(),
            b"fLaC" => "FLAC".into(),
            b"ac-3" => "AC-3".into(),
            b"ec-3" => "E-AC-3".into(),
            other => fourcc_text(other),
        }));
    }
    match packet {
        0 => Ok(Some(Tag::AudioConfig(body))),
        1 => Ok(raw_audio(time_ms, body)),
        // The end of the sequence, and a channel order that the AudioSpecificConfig repeats.
        2 | 4 => Ok(None),
        _ => Err(BROKEN_AUDIO),
    }
}

fn raw_audio(time_ms: u32, payload: Bytes) -> Option<Tag> {
    (!payload.is_empty()).then_some(Tag::Audio { time_ms, payload })
}

/// Skips ModEx prefixes (nanosecond offsets and such) and gives the packet type behind them; `None` when cut short.
fn skip_modifiers(mut packet: u8, body: &mut Bytes) -> Option<u8> {
    const MOD_EX: u8 = 7;
    while packet == MOD_EX {
        let mut len = usize::from(body.try_get_u8().ok()?) + 1;
        if len == 256 {
            len = usize::from(body.try_get_u16().ok()?) + 1;
        }
        if body.len() < len {
            return None;
        }
        body.advance(len);
        packet = body.try_get_u8().ok()? & 0x0f;
    }
    Some(packet)
}

/// Picks what is worth showing from the properties of onMetaData.
pub fn metadata(properties: &HashMap<String, Amf0Value>) -> Metadata {
    let text = |name: &str, len_max| {
        let text = properties.get(name).and_then(amf::text)?;
        Some(super::printable(text, len_max)).filter(|t| !t.is_empty())
    };
    let title = |name| text(name, TITLE_MAX);
    // Shoutcast's form: both in one text.
    let both = title("StreamTitle").or_else(|| title("streamTitle"));
    let both =
        both.as_deref().map(|both| both.split_once(" - ").map_or((None, both), |(a, t)| (Some(a.to_owned()), t)));
    let (of_both, title_of_both) = both.map(|(artist, title)| (artist, Some(title.to_owned()))).unwrap_or_default();
    let number = |name: &str| {
        let value = properties.get(name).and_then(amf::number)?;
        (value.is_finite() && value > 0.0 && value < 1e7).then_some(value)
    };
    let whole = |name: &str| number(name).map(|n| n.round() as u32);
    Metadata {
        encoder: text("encoder", 128),
        title: title("title").or(title_of_both),
        artist: title("artist").or(of_both),
        width: whole("width"),
        height: whole("height"),
        fps: number("framerate"),
        video_kbps: whole("videodatarate"),
        audio_kbps: whole("audiodatarate"),
    }
}

/// Reads a signed 24-bit number, most significant byte first.
fn signed_24(a: u8, b: u8, c: u8) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}

fn fourcc_text(fourcc: &[u8; 4]) -> String {
    format!("\"{}\"", fourcc.escape_ascii())
}

fn legacy_video_codec(id: u8) -> String {
    match id {
        2 => "Sorenson H.263".into(),
        3 | 6 => "Screen Video".into(),
        4 | 5 => "VP6".into(),
        // Numbers that some vendors took before Enhanced RTMP.
        12 => "HEVC (H.265)".into(),
        13 => "AV1".into(),
        other => format!("number {other}"),
    }
}

fn legacy_audio_codec(id: u8) -> String {
    match id {
        0 | 3 => "PCM".into(),
        1 => "ADPCM".into(),
        2 | 14 => "MP3".into(),
        4..=6 => "Nellymoser".into(),
        7 | 8 => "G.711".into(),
        11 => "Speex".into(),
        13 => "Opus".into(),
        other => format!("number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(parts: &[&[u8]]) -> Bytes {
        parts.concat().into()
    }

    #[test]
    fn video_tags_are_told_apart() {
        let frame = |composition_ms| Tag::Video { time_ms: 7, composition_ms, payload: Bytes::from_static(b"au") };
        for (body, wanted) in [
            (bytes(&[]), None),
            (bytes(&[&[0x17, 0, 0, 0, 0], b"avcc"]), Some(Tag::VideoConfig(Bytes::from_static(b"avcc")))),
            (bytes(&[&[0x17, 1, 0, 0, 80], b"au"]), Some(frame(80))),
            (bytes(&[&[0x27, 1, 0xff, 0xff, 0xd8], b"au"]), Some(frame(-40))),
            (bytes(&[&[0x27, 1, 0x80, 0, 0], b"au"]), Some(frame(-8_388_608))),
            (bytes(&[&[0x27, 1, 0, 0, 0]]), None),
            (bytes(&[&[0x17, 2, 0, 0, 0]]), Some(Tag::VideoEnd)),
            (bytes(&[&[0x52, 0]]), None),
            (bytes(&[&[0x90], b"avc1avcc"]), Some(Tag::VideoConfig(Bytes::from_static(b"avcc")))),
            (bytes(&[&[0x91], b"avc1", &[0, 0, 80], b"au"]), Some(frame(80))),
            (bytes(&[&[0xa3], b"avc1au"]), Some(frame(0))),
            (bytes(&[&[0x92], b"avc1"]), Some(Tag::VideoEnd)),
            (bytes(&[&[0x94], b"avc1xyz"]), None),
            (bytes(&[&[0xd1, 0]]), None),
            (bytes(&[&[0xa7, 2, 1, 2, 3, 0x03], b"avc1au"]), Some(frame(0))),
        ] {
            assert_eq!(video(7, body.clone()), Ok(wanted), "{body:?}");
        }
    }

    #[test]
    fn audio_tags_are_told_apart() {
        let frame = Tag::Audio { time_ms: 7, payload: Bytes::from_static(b"aac") };
        let config = Tag::AudioConfig(Bytes::from_static(&[0x12, 0x10]));
        for (body, wanted) in [
            (bytes(&[]), None),
            (bytes(&[&[0xaf, 0, 0x12, 0x10]]), Some(config.clone())),
            (bytes(&[&[0xaf, 1], b"aac"]), Some(frame.clone())),
            (bytes(&[&[0xaf, 1]]), None),
            (bytes(&[&[0x90], b"mp4a", &[0x12, 0x10]]), Some(config)),
            (bytes(&[&[0x91], b"mp4aaac"]), Some(frame)),
            (bytes(&[&[0x92], b"mp4a"]), None),
        ] {
            assert_eq!(audio(7, body.clone()), Ok(wanted), "{body:?}");
        }
    }

    #[test]
    fn other_codecs_are_refused_by_name_with_the_obs_setting() {
        for (body, codec) in [
            (&[0x22, 0][..], "H.263"),
            (b"\x14\x00", "VP6"),
            (b"\x1c\x00", "HEVC"),
            (b"\x90hvc1", "HEVC"),
            (b"\x90av01", "AV1"),
            (b"\x90vp09", "VP9"),
            (b"\x90\xff\x00ab", "\\xff\\x00ab"),
        ] {
            let words = video(0, Bytes::copy_from_slice(body)).unwrap_err().to_string();
            assert!(words.contains(codec) && words.contains("Video Encoder"), "{words}");
        }
        for (body, codec) in
            [(&[0x2f, 0][..], "MP3"), (b"\xb2\x00", "Speex"), (b"\x90Opus", "Opus"), (b"\x90fLaC", "FLAC")]
        {
            let words = audio(0, Bytes::copy_from_slice(body)).unwrap_err().to_string();
            assert!(words.contains(codec) && words.contains("Audio Encoder"), "{words}");
        }
        assert_eq!(video(0, Bytes::from_static(b"\x96\x00avc1")), Err(Error::Multitrack("video")));
        assert_eq!(audio(0, Bytes::from_static(b"\x95\x00mp4a")), Err(Error::Multitrack("audio")));
    }

    #[test]
    fn tags_that_are_cut_short_are_broken() {
        for body in [&b"\x17"[..], b"\x17\x01\x00\x00", b"\x90av", b"\x91avc1\x00\x00", b"\x97", b"\x97\xff\xff\xff"] {
            assert_eq!(video(0, Bytes::copy_from_slice(body)), Err(BROKEN_VIDEO), "{body:?}");
        }
        for body in [&b"\xaf"[..], b"\xaf\x07", b"\x90mp4", b"\x97\x05"] {
            assert_eq!(audio(0, Bytes::copy_from_slice(body)), Err(BROKEN_AUDIO), "{body:?}");
        }
    }

    #[test]
    fn metadata_holds_only_what_makes_sense() {
        let properties = [
            ("encoder", Amf0Value::Utf8String("obs-output\nmodule".into())),
            ("width", Amf0Value::Number(1280.0)),
            ("height", Amf0Value::Number(-1.0)),
            ("framerate", Amf0Value::Number(29.97)),
            ("videodatarate", Amf0Value::Number(f64::NAN)),
            ("audiodatarate", Amf0Value::Utf8String("160".into())),
        ];
        let properties = properties.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        assert_eq!(
            metadata(&properties),
            Metadata {
                encoder: Some("obs-outputmodule".into()),
                width: Some(1280),
                fps: Some(29.97),
                ..Metadata::default()
            }
        );
        for (properties, title, artist) in [
            (vec![("StreamTitle", "Ann - A song - live")], Some("A song - live"), Some("Ann")),
            (vec![("streamTitle", "A song")], Some("A song"), None),
            (vec![("title", "T"), ("StreamTitle", "Ann - A song")], Some("T"), Some("Ann")),
            (vec![("title", "T"), ("artist", "A")], Some("T"), Some("A")),
            (vec![("title", ""), ("artist", "\u{0}")], None, None),
        ] {
            let text = |(name, text): &(&str, &str)| (name.to_string(), Amf0Value::Utf8String(text.to_string()));
            let found = metadata(&properties.iter().map(text).collect());
            assert_eq!((found.title.as_deref(), found.artist.as_deref()), (title, artist), "{properties:?}");
        }
    }
}
