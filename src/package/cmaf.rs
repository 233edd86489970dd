//! CMAF boxes (ISO/IEC 23000-19 on ISO/IEC 14496-12): init segments, and the fragments that chunks are made of.
//!
//! One track per file, track id 1, no edit list: the first picture of a chunk is shown at the chunk's `tfdt`, and
//! pictures that are shown earlier than they are decoded have negative composition offsets (brand `cmf2`). All bytes
//! follow from the arguments; no date, version or address is written.

use bytes::Bytes;
use mp4_atom::{
    Atom, Audio, Buf, BufMut, Codec, Dinf, Dref, Encode, FixedPoint, FourCC, Ftyp, Hdlr, Mdhd, Mfhd, Moof, Mp4a, Mvex,
    Mvhd, Pasp, Smhd, Stco, Stsc, Stsd, Stsz, Stts, Styp, Tfdt, Tfhd, Tkhd, Traf, Trex, Trun, TrunEntry, TrunSamples,
    Url, Visual, Vmhd,
    esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig},
};
use sha2::{Digest, Sha256};

use super::codecs;
use crate::media::{AudioConfig, Pieces, VIDEO_TIMESCALE, VideoConfig};

const TRACK_ID: u32 = 1;
/// 14496-12 8.8.3.1: depends on no other sample.
const SYNC: u32 = 0x0200_0000;
/// Depends on others, and is no sync sample.
const NON_SYNC: u32 = 0x0101_0000;
/// The language code that says nothing (ISO 639-2 `und`).
const LANGUAGE: &str = "und";
/// Length of the `styp` box that [`styp`] writes.
const STYP_LEN: usize = 32;

/// An init segment, named by what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    pub bytes: Bytes,
    /// First 16 hex digits of the SHA-256 of `bytes`.
    pub hash: String,
    /// RFC 6381 codec string of the track.
    pub codec: String,
}

impl Init {
    /// Makes the init segment of an H.264 rendition; timescale [`VIDEO_TIMESCALE`].
    pub fn video(config: &VideoConfig) -> Self {
        let bytes = write(VIDEO_TIMESCALE, shown_size(config), b"vide", |b| stsd_video(b, config));
        Self::new(bytes, codecs::video(config))
    }

    /// Makes the init segment of an AAC rendition; the timescale is the sample rate.
    pub fn audio(config: &AudioConfig) -> Self {
        let bytes = write(config.sample_rate, Default::default(), b"soun", |b| stsd_audio(config).encode(b));
        Self::new(bytes, codecs::audio(config))
    }

    fn new(bytes: Vec<u8>, codec: String) -> Self {
        let digest = Sha256::digest(&bytes);
        let hash = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes: bytes.into(), hash, codec }
    }
}

type Size = (FixedPoint<u16>, FixedPoint<u16>);

/// Writes `ftyp` and `moov`. The nesting is written here and not through the library's structs because its `avc1`
/// cannot carry a configuration record byte for byte; the leaves are the library's.
fn write(
    timescale: u32,
    (width, height): Size,
    handler: &[u8; 4],
    stsd: impl Fn(&mut Vec<u8>) -> mp4_atom::Result<()>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let video = handler == b"vide";
    let boxes = |out: &mut Vec<u8>| {
        Ftyp {
            major_brand: FourCC::new(b"iso6"),
            minor_version: 0,
            compatible_brands: [b"iso6", b"cmfc", b"cmf2", b"mp42"].map(FourCC::new).to_vec(),
        }
        .encode(out)?;
        out.encode_atom(b"moov", |b| {
            Mvhd { timescale, rate: 1.into(), volume: 1.into(), next_track_id: TRACK_ID + 1, ..Mvhd::default() }
                .encode(b)?;
            b.encode_atom(b"trak", |b| {
                Tkhd {
                    track_id: TRACK_ID,
                    enabled: true,
                    in_movie: true,
                    volume: if video { 0.into() } else { 1.into() },
                    width,
                    height,
                    ..Tkhd::default()
                }
                .encode(b)?;
                b.encode_atom(b"mdia", |b| {
                    Mdhd { timescale, language: LANGUAGE.into(), ..Mdhd::default() }.encode(b)?;
                    let name = if video { "Video" } else { "Audio" };
                    Hdlr { handler: FourCC::new(handler), name: name.into() }.encode(b)?;
                    b.encode_atom(b"minf", |b| {
                        match video {
                            true => Vmhd::default().encode(b)?,
                            false => Smhd::default().encode(b)?,
                        }
                        Dinf { dref: Dref { entries: vec![Url::default().into()] } }.encode(b)?;
                        b.encode_atom(b"stbl", |b| {
                            stsd(b)?;
                            Stts::default().encode(b)?;
                            Stsc::default().encode(b)?;
                            Stsz::default().encode(b)?;
                            Stco::default().encode(b)
                        })
                    })
                })
            })?;
            let trex = Trex { track_id: TRACK_ID, default_sample_description_index: 1, ..Trex::default() };
            Mvex { mehd: None, trex: vec![trex] }.encode(b)
        })
    };
    boxes(&mut out).expect("boxes of a few kilobytes fit their length fields");
    out
}

/// Gives the size at which the picture is shown, as 16.16: the sample aspect ratio stretches the width.
fn shown_size(config: &VideoConfig) -> Size {
    let (num, den) = sar(config);
    let width = (u64::from(config.width) << 16) * u64::from(num) / u64::from(den);
    let width = u32::try_from(width).unwrap_or(u32::MAX);
    (FixedPoint::new((width >> 16) as u16, width as u16), config.height.into())
}

/// Gives the sample aspect ratio; one with a zero is no ratio.
fn sar(config: &VideoConfig) -> (u16, u16) {
    match config.sar {
        (0, _) | (_, 0) => (1, 1),
        sar => sar,
    }
}

/// AVCDecoderConfigurationRecord as the encoder wrote it.
struct AvcC<'a>(&'a [u8]);

impl Atom for AvcC<'_> {
    const KIND: FourCC = FourCC::new(b"avcC");

    fn decode_body<B: Buf>(_: &mut B) -> mp4_atom::Result<Self> {
        Err(mp4_atom::Error::UnknownCodec)
    }

    fn encode_body<B: BufMut>(&self, buf: &mut B) -> mp4_atom::Result<()> {
        buf.append_slice(self.0);
        Ok(())
    }
}

fn stsd_video(out: &mut Vec<u8>, config: &VideoConfig) -> mp4_atom::Result<()> {
    out.encode_atom(b"stsd", |b| {
        0u32.encode(b)?; // version and flags
        1u32.encode(b)?; // entries
        b.encode_atom(b"avc1", |b| {
            Visual { data_reference_index: 1, width: config.width, height: config.height, ..Visual::default() }
                .encode(b)?;
            AvcC(&config.avcc).encode(b)?;
            codecs::colour(config).encode(b)?;
            let (h, v) = sar(config);
            (h != v).then_some(Pasp { h_spacing: h.into(), v_spacing: v.into() }).encode(b)
        })
    })
}

fn stsd_audio(config: &AudioConfig) -> Stsd {
    let specific = DecoderSpecific { raw: config.asc.to_vec(), ..DecoderSpecific::default() };
    let esds = mp4_atom::Esds {
        es_desc: EsDescriptor {
            es_id: TRACK_ID as u16,
            dec_config: DecoderConfig {
                object_type_indication: 0x40, // ISO/IEC 14496-3 audio
                stream_type: 5,
                dec_specific: Some(specific),
                ..DecoderConfig::default()
            },
            sl_config: SLConfig {},
            ..EsDescriptor::default()
        },
    };
    let audio = Audio {
        data_reference_index: 1,
        channel_count: config.channels.into(),
        sample_size: 16,
        // A rate that does not fit is told by the AudioSpecificConfig alone.
        sample_rate: u16::try_from(config.sample_rate).unwrap_or(0).into(),
    };
    Stsd { codecs: vec![Codec::Mp4a(Mp4a { audio, esds, btrt: None, taic: None })] }
}

/// One sample of a fragment, with times in the track's timescale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub duration: u32,
    /// Presentation time minus decode time.
    pub offset: i32,
    pub key: bool,
    pub payload: Bytes,
}

/// One `moof` and its `mdat`. A chunk is a `styp` and one or more of these, back to back.
pub(super) struct Fragment<'a> {
    /// `mfhd` sequence number, from 1.
    pub sequence: u32,
    /// `tfdt`: decode time of the first sample.
    pub start: u64,
    pub samples: &'a [Sample],
}

/// Makes a part of a chunk: a fragment, with `styp` before it when it is the chunk's first. Boxes are written, payloads
/// are shared.
pub(super) fn part(fragment: &Fragment, first: bool) -> Pieces {
    let layout = Layout::new(fragment);
    let mut boxes = Vec::with_capacity(STYP_LEN + layout.moof_len + 8);
    if first {
        styp(&mut boxes);
        debug_assert_eq!(boxes.len(), STYP_LEN);
    }
    layout.write(fragment, &mut boxes);
    let pieces = [Bytes::from(boxes)].into_iter().chain(fragment.samples.iter().map(|sample| sample.payload.clone()));
    pieces.collect()
}

fn styp(out: &mut Vec<u8>) {
    let compatible_brands = [b"msdh", b"cmfs", b"cmff", b"iso6"].map(FourCC::new).to_vec();
    let styp = Styp { major_brand: FourCC::new(b"msdh"), minor_version: 0, compatible_brands };
    styp.encode(out).expect("a styp is small");
}

/// What is said once for all samples of a fragment, and what per sample.
struct Layout {
    duration: Option<u32>,
    size: Option<u32>,
    flags: Flags,
    offsets: bool,
    moof_len: usize,
    payload_len: usize,
}

#[derive(PartialEq)]
enum Flags {
    AllSync,
    FirstSync,
    EachItsOwn,
}

impl Layout {
    fn new(fragment: &Fragment) -> Self {
        let samples = fragment.samples;
        let duration = common(samples.iter().map(|s| s.duration));
        let size = common(samples.iter().map(|s| s.payload.len() as u32));
        let flags = match samples {
            _ if samples.iter().all(|s| s.key) => Flags::AllSync,
            [first, rest @ ..] if first.key && rest.iter().all(|s| !s.key) => Flags::FirstSync,
            _ => Flags::EachItsOwn,
        };
        let offsets = samples.iter().any(|s| s.offset != 0);
        let each = 4
            * (usize::from(duration.is_none())
                + usize::from(size.is_none())
                + usize::from(flags == Flags::EachItsOwn)
                + usize::from(offsets));
        // moof 8 + mfhd 16 + traf 8 + tfhd 16.. + tfdt 20 + trun 20..
        let tfhd = 16
            + 4 * (usize::from(duration.is_some())
                + usize::from(size.is_some())
                + usize::from(flags != Flags::EachItsOwn));
        let trun = 20 + 4 * usize::from(flags == Flags::FirstSync) + each * samples.len();
        let payload_len = samples.iter().map(|s| s.payload.len()).sum();
        Self { duration, size, flags, offsets, moof_len: 8 + 16 + 8 + tfhd + 20 + trun, payload_len }
    }

    /// Writes all of a fragment but its payloads.
    fn write(&self, fragment: &Fragment, out: &mut Vec<u8>) {
        let entry = |(i, s): (usize, &Sample)| TrunEntry {
            duration: self.duration.is_none().then_some(s.duration),
            size: self.size.is_none().then_some(s.payload.len() as u32),
            flags: match self.flags {
                Flags::FirstSync if i == 0 => Some(SYNC),
                Flags::EachItsOwn => Some(if s.key { SYNC } else { NON_SYNC }),
                _ => None,
            },
            cts: self.offsets.then_some(s.offset.into()),
        };
        let entries = TrunSamples::Explicit(fragment.samples.iter().enumerate().map(entry).collect());
        let trun = Trun { data_offset: Some((self.moof_len + 8) as i32), samples: entries };
        let tfhd = Tfhd {
            track_id: TRACK_ID,
            default_sample_duration: self.duration,
            default_sample_size: self.size,
            default_sample_flags: match self.flags {
                Flags::AllSync => Some(SYNC),
                Flags::FirstSync => Some(NON_SYNC),
                Flags::EachItsOwn => None,
            },
            default_base_is_moof: true,
            ..Tfhd::default()
        };
        let tfdt = Some(Tfdt { base_media_decode_time: fragment.start });
        let traf = Traf { tfhd, tfdt, trun: vec![trun], ..Traf::default() };
        Moof { mfhd: Mfhd { sequence_number: fragment.sequence }, traf: vec![traf] }
            .encode(out)
            .expect("offsets are 32 bits wide and a fragment has less than 2^24 samples");
        out.extend_from_slice(&((8 + self.payload_len) as u32).to_be_bytes());
        out.extend_from_slice(b"mdat");
    }
}

/// Gives the value that all items have.
fn common(mut items: impl Iterator<Item = u32>) -> Option<u32> {
    let first = items.next()?;
    items.all(|item| item == first).then_some(first)
}

#[cfg(test)]
#[path = "cmaf_tests.rs"]
mod tests;
