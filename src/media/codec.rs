//! Codec configurations as they come in sequence headers, taken apart as far as packaging needs it.
//!
//! Bytes from a stranger enter, checked configs leave. Nothing here panics, and nothing is decoded: frames are only
//! asked for the NAL units they hold.

use std::io::Cursor;

use bytes::{BufMut, Bytes, BytesMut};
use scuffle_aac::PartialAudioSpecificConfig;
use scuffle_h264::Sps;

use super::avcc::Record;

/// Says why a config or frame cannot be used. Both are the encoder's doing; sending the same again cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{what} is malformed: {why}")]
    Malformed { what: &'static str, why: String },
    /// Well formed, but nothing we can serve. The text tells a streamer what to change.
    #[error("{0}")]
    Unsupported(String),
}

fn malformed(what: &'static str, why: impl ToString) -> Error {
    Error::Malformed { what, why: why.to_string() }
}

/// What an AVC sequence header says. Equal `avcc` bytes mean equal configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoConfig {
    /// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1.2).
    pub avcc: Bytes,
    /// Size of the picture as shown after cropping, before the sample aspect ratio.
    pub width: u16,
    pub height: u16,
    /// Sample aspect ratio, (1, 1) when not given.
    pub sar: (u16, u16),
    /// Frames per second as a fraction, when the SPS tells.
    pub fps: Option<(u32, u32)>,
}

/// What an AudioSpecificConfig says. Equal `asc` bytes mean equal configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioConfig {
    /// AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1).
    pub asc: Bytes,
    /// Audio object type for CODECS (`mp4a.40.N`): 2 LC, 5 HE, 29 HE v2.
    pub object_type: u8,
    /// Sampling rate of the core codec, the timescale of the track. For HE-AAC the output rate is twice this.
    pub sample_rate: u32,
    /// Channels a decoder puts out.
    pub channels: u8,
    /// Samples in one frame at `sample_rate`: 1024, or 960.
    pub frame_len: u32,
}

/// Longer than any real parameter set by far; bounds what a stranger makes us parse and keep.
const AVCC_MAX: usize = 64 * 1024;
/// H.264 levels end at 8192 x 4320; 16384 leaves room for odd shapes and still fits every box field.
const SIDE_MAX: u64 = 16_384;
/// A frame rate outside of this is a time base that somebody wrote into the wrong field.
const FPS_MAX: u64 = 240;

impl VideoConfig {
    /// Takes an AVCDecoderConfigurationRecord apart and checks its first SPS.
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes that are not a record, [`Error::Unsupported`] for interlaced video.
    pub fn parse(avcc: Bytes) -> Result<Self, Error> {
        const WHAT: &str = "the video sequence header (avcC)";
        if avcc.len() > AVCC_MAX {
            return Err(malformed(WHAT, "longer than 64 KiB"));
        }
        let record = Record::parse(avcc.clone()).map_err(|e| malformed(WHAT, e))?;
        let sps = record.sps.first().ok_or_else(|| malformed(WHAT, "it holds no SPS"))?;
        if record.pps.is_empty() {
            return Err(malformed(WHAT, "it holds no PPS"));
        }
        let sps = parse_sps(sps)?;
        let (width, height) = size(&sps).ok_or_else(|| malformed("the SPS", "impossible picture size"))?;
        Ok(Self { avcc, width, height, sar: sar(&sps), fps: fps(&sps) })
    }

    /// Gives the CODECS text, such as `avc1.64001f` (RFC 6381 3.3).
    pub fn codec_string(&self) -> String {
        let at = |i: usize| self.avcc.get(i).copied().unwrap_or_default();
        format!("avc1.{:02x}{:02x}{:02x}", at(1), at(2), at(3))
    }

    /// Gives the size in bytes of the length before each NAL unit: 1, 2 or 4.
    pub fn nal_len(&self) -> usize {
        usize::from(self.avcc.get(4).copied().unwrap_or(3) & 3) + 1
    }

    /// Finds parameter sets in a keyframe that this config does not hold, and makes the config that does.
    ///
    /// Some encoders change size without a new sequence header. `None`: the frame brings nothing new.
    ///
    /// # Errors
    /// As [`VideoConfig::parse`].
    pub fn with_inband(&self, payload: &[u8]) -> Option<Result<Self, Error>> {
        let sets = |kind| nals(payload, self.nal_len()).map(trim).filter(move |nal| nal_type(nal) == kind);
        if sets(NAL_SPS).next().is_none() && sets(NAL_PPS).next().is_none() {
            return None;
        }
        let old = Record::parse(self.avcc.clone()).ok()?;
        let holds = |list: &[Bytes], nal: &[u8]| list.iter().any(|old| trim(old) == nal);
        let new_sps = sets(NAL_SPS).any(|nal| !holds(&old.sps, nal));
        let new_pps = sets(NAL_PPS).any(|nal| !holds(&old.pps, nal));
        if !new_sps && !new_pps {
            return None;
        }
        // A set replaces the one of the same id; the others stay, for a frame need not repeat all of them.
        let merged = || {
            let sps = merge(&old.sps, sets(NAL_SPS), 4)?;
            let pps = merge(&old.pps, sets(NAL_PPS), 1)?;
            Self::parse(write_avcc(&sps, &pps, self.nal_len())?)
        };
        Some(merged())
    }
}

/// Parses an SPS as it stands in an avcC, and refuses interlaced ones.
fn parse_sps(nal: &[u8]) -> Result<Sps, Error> {
    const WHAT: &str = "the SPS";
    let raw = unescape(trim(nal));
    // The parser's Exp-Golomb reader overflows on codes of 64 zero bits, and its scaling lists a little below that. No
    // legal field before the end of the VUI timing needs such a run.
    if raw.windows(7).any(|run| run.iter().all(|&byte| byte == 0)) {
        return Err(malformed(WHAT, "too many zeros"));
    }
    let sps = Sps::parse(Cursor::new(raw)).map_err(|e| malformed(WHAT, e))?;
    if sps.mb_adaptive_frame_field_flag.is_some() {
        return Err(Error::Unsupported(
            "interlaced video cannot be served: send progressive video (OBS always does; in ffmpeg remove \
             '-flags +ildct+ilme' and add '-vf bwdif'; in a hardware encoder choose a 'p' mode such as 1080p)"
                .into(),
        ));
    }
    Ok(sps)
}

/// Computes the cropped size (ITU-T H.264 7.4.2.1.1). The parser's own `width` and `height` overflow on hostile crops.
fn size(sps: &Sps) -> Option<(u16, u16)> {
    let chroma = sps.ext.as_ref().map_or(1, |ext| ext.chroma_format_idc);
    let (unit_x, unit_y) = match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    let side = |blocks_minus1: u64, unit: u64, crop: Option<(u64, u64)>| {
        let full = blocks_minus1.checked_add(1)?.checked_mul(16)?;
        let (a, b) = crop.unwrap_or_default();
        let side = full.checked_sub(a.checked_add(b)?.checked_mul(unit)?)?;
        (1..=SIDE_MAX).contains(&side).then_some(side as u16)
    };
    let crop = sps.frame_crop_info.as_ref();
    let crop_x = crop.map(|c| (c.frame_crop_left_offset, c.frame_crop_right_offset));
    let crop_y = crop.map(|c| (c.frame_crop_top_offset, c.frame_crop_bottom_offset));
    Some((
        side(sps.pic_width_in_mbs_minus1, unit_x, crop_x)?,
        side(sps.pic_height_in_map_units_minus1, unit_y, crop_y)?,
    ))
}

/// Gives the sample aspect ratio (ITU-T H.264 table E-1).
fn sar(sps: &Sps) -> (u16, u16) {
    const TABLE: [(u16, u16); 17] = [
        (1, 1),
        (1, 1),
        (12, 11),
        (10, 11),
        (16, 11),
        (40, 33),
        (24, 11),
        (20, 11),
        (32, 11),
        (80, 33),
        (18, 11),
        (15, 11),
        (64, 33),
        (160, 99),
        (4, 3),
        (3, 2),
        (2, 1),
    ];
    let Some(sar) = &sps.sample_aspect_ratio else { return (1, 1) };
    match sar.aspect_ratio_idc.0 {
        255 if sar.sar_width > 0 && sar.sar_height > 0 => (sar.sar_width, sar.sar_height),
        idc => TABLE.get(usize::from(idc)).copied().unwrap_or((1, 1)),
    }
}

fn fps(sps: &Sps) -> Option<(u32, u32)> {
    let timing = sps.timing_info.as_ref()?;
    // The tick is that of a field, and a frame has two even when it is progressive (ITU-T H.264 E.2.1).
    let (num, den) = (u64::from(timing.time_scale.get()), 2 * u64::from(timing.num_units_in_tick.get()));
    if num < den || num > FPS_MAX * den {
        return None;
    }
    let divisor = gcd(num, den);
    Some((u32::try_from(num / divisor).ok()?, u32::try_from(den / divisor).ok()?))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |byte| byte & 0x1f)
}

/// Walks the NAL units of an access unit; ends quietly where the lengths stop making sense.
pub fn nals(payload: &[u8], nal_len: usize) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_at_checked(nal_len)?;
        let len = head.iter().fold(0usize, |len, &byte| len << 8 | usize::from(byte));
        let (nal, tail) = tail.split_at_checked(len)?;
        rest = tail;
        Some(nal)
    })
}

/// Tells if the access unit is an IDR picture. Open-GOP recovery points are not: a player cannot start there.
pub fn is_idr(payload: &[u8], nal_len: usize) -> bool {
    nals(payload, nal_len).any(|nal| nal_type(nal) == NAL_IDR)
}

/// Tells if the access unit says that decoding can start at it although it is no IDR (ITU-T H.264 D.2.8), which is how
/// open GOPs and intra refresh look.
pub fn is_recovery_point(payload: &[u8], nal_len: usize) -> bool {
    let mut seis = nals(payload, nal_len).filter(|nal| nal_type(nal) == NAL_SEI);
    seis.any(|sei| {
        let mut rest = &sei[1..];
        // A message is its type and its size, both in bytes that add up while they are 255, and a body.
        let number = |rest: &mut &[u8]| {
            let ones = rest.iter().take_while(|&&byte| byte == 255).count();
            let last = *rest.get(ones)?;
            *rest = &rest[ones + 1..];
            Some(255 * ones + usize::from(last))
        };
        while let (Some(kind), Some(size)) = (number(&mut rest), number(&mut rest)) {
            if kind == 6 {
                return true;
            }
            rest = rest.get(size..).unwrap_or_default();
        }
        false
    })
}

/// Gives the first SPS inside an access unit, without its length.
pub fn sps_of(payload: &[u8], nal_len: usize) -> Option<&[u8]> {
    nals(payload, nal_len).find(|nal| nal_type(nal) == NAL_SPS)
}

/// Cuts `trailing_zero_8bits` off, which some encoders leave at the end of a NAL unit.
fn trim(nal: &[u8]) -> &[u8] {
    let end = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &nal[..end]
}

/// Removes emulation prevention bytes (ITU-T H.264 7.4.1).
fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if byte == 3 && zeros >= 2 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Puts new parameter sets before the old ones that have other ids; `head` is the number of bytes before the id.
fn merge<'a>(old: &'a [Bytes], new: impl Iterator<Item = &'a [u8]>, head: usize) -> Result<Vec<&'a [u8]>, Error> {
    let id = |nal: &[u8]| Bits::new(&unescape(nal.get(head..).unwrap_or_default())).golomb();
    let mut sets: Vec<&[u8]> = Vec::new();
    for nal in new {
        if id(nal).is_none() {
            return Err(malformed("a parameter set inside a keyframe", "it has no id"));
        }
        sets.retain(|set| id(set) != id(nal));
        sets.push(nal);
    }
    let kept: Vec<_> = old.iter().map(|nal| trim(nal)).filter(|nal| sets.iter().all(|s| id(s) != id(nal))).collect();
    sets.extend(kept);
    Ok(sets)
}

fn write_avcc(sps: &[&[u8]], pps: &[&[u8]], nal_len: usize) -> Result<Bytes, Error> {
    let fits = |list: &[&[u8]], count: usize| list.len() <= count && list.iter().all(|nal| nal.len() <= 0xffff);
    let first = sps.first().filter(|nal| nal.len() >= 4 && fits(sps, 31) && fits(pps, 255));
    let first = first.ok_or_else(|| malformed("the SPS inside a keyframe", "impossible size or number"))?;
    let mut out = BytesMut::new();
    out.put_slice(&[1, first[1], first[2], first[3], 0xfc | (nal_len as u8 - 1), 0xe0 | sps.len() as u8]);
    let put = |out: &mut BytesMut, list: &[&[u8]]| {
        for nal in list {
            out.put_u16(nal.len() as u16);
            out.put_slice(nal);
        }
    };
    put(&mut out, sps);
    out.put_u8(pps.len() as u8);
    put(&mut out, pps);
    if !matches!(first[1], 66 | 77 | 88)
        && let Some(ext) = parse_sps(first)?.ext
    {
        out.put_slice(&[
            0xfc | ext.chroma_format_idc,
            0xf8 | ext.bit_depth_luma_minus8,
            0xf8 | ext.bit_depth_chroma_minus8,
            0,
        ]);
    }
    Ok(out.freeze())
}

impl AudioConfig {
    /// Takes an AudioSpecificConfig apart: LC, and HE (v1, v2) however it is signalled.
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes that are no config, [`Error::Unsupported`] for other object types.
    pub fn parse(asc: Bytes) -> Result<Self, Error> {
        const WHAT: &str = "the audio sequence header (AudioSpecificConfig)";
        let head = PartialAudioSpecificConfig::parse(&asc).map_err(|e| malformed(WHAT, e))?;
        Self::parse_rest(asc, head).ok_or_else(|| malformed(WHAT, "it ends too early or a field is out of range"))?
    }

    /// Reads on where the crate stops: SBR and PS, the frame length, and channels given by a program config element.
    /// `None`: the bytes ended.
    fn parse_rest(asc: Bytes, head: PartialAudioSpecificConfig) -> Option<Result<Self, Error>> {
        let mut bits = Bits::new(&asc);
        let first_type = bits.object_type()?;
        bits.frequency()?;
        let channel_config = bits.take(4)?;
        let mut object_type = first_type;
        if matches!(first_type, 5 | 29) {
            bits.frequency()?;
            object_type = bits.object_type()?;
        }
        if object_type != 2 {
            return Some(Err(Error::Unsupported(format!(
                "AAC object type {object_type} cannot be served: choose AAC-LC (in OBS: Settings, Output, Audio Encoder AAC)"
            ))));
        }
        // GASpecificConfig (ISO/IEC 14496-3 4.4.1).
        let frame_len = if bits.take(1)? == 1 { 960 } else { 1024 };
        if bits.take(1)? == 1 {
            bits.take(14)?;
        }
        bits.take(1)?;
        let mut channels = match channel_config {
            0 => bits.program_config()?,
            n @ 1..=6 => n as u8,
            7 | 12 | 14 => 8,
            11 => 7,
            n => return Some(Err(Error::Unsupported(format!("AAC channel configuration {n} cannot be served")))),
        };
        // SBR and PS told behind the config, so that old decoders do not see them (1.6.2.1, syncExtensionType).
        let mut told = first_type;
        if first_type == 2 && bits.take(11) == Some(0x2b7) && bits.object_type() == Some(5) && bits.take(1) == Some(1) {
            told = 5;
            if bits.frequency().is_some() && bits.take(11) == Some(0x548) && bits.take(1) == Some(1) {
                told = 29;
            }
        }
        if told == 29 && channels == 1 {
            channels = 2;
        }
        if !(7350..=96_000).contains(&head.sampling_frequency) || channels == 0 {
            return None;
        }
        Some(Ok(Self { asc, object_type: told as u8, sample_rate: head.sampling_frequency, channels, frame_len }))
    }

    /// Gives the CODECS text, such as `mp4a.40.2` (RFC 6381 3.3).
    pub fn codec_string(&self) -> String {
        format!("mp4a.40.{}", self.object_type)
    }
}

/// Reads bits, most significant first.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// Reads an unsigned Exp-Golomb code of at most 31 bits' value.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
        }
        if zeros > 30 {
            return None;
        }
        Some((1 << zeros | self.take(zeros)?) - 1)
    }

    fn object_type(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            n => Some(n),
        }
    }

    fn frequency(&mut self) -> Option<()> {
        if self.take(4)? == 15 {
            self.take(24)?;
        }
        Some(())
    }

    /// Counts the channels of a program_config_element (ISO/IEC 14496-3 table 4.2) and stops behind it.
    fn program_config(&mut self) -> Option<u8> {
        self.take(4 + 2 + 4)?;
        let elements = self.take(4)? + self.take(4)? + self.take(4)?;
        let lfe = self.take(2)?;
        let data = self.take(3)?;
        let coupled = self.take(4)?;
        for width in [4, 4, 3] {
            if self.take(1)? == 1 {
                self.take(width)?;
            }
        }
        let mut channels = lfe;
        for _ in 0..elements {
            channels += 1 + self.take(1)?;
            self.take(4)?;
        }
        self.take((4 * lfe + 4 * data) as usize)?;
        self.take(5 * coupled as usize)?;
        self.at = self.at.next_multiple_of(8);
        let comment = self.take(8)?;
        self.at += 8 * comment as usize;
        (self.at <= 8 * self.data.len()).then_some(channels as u8)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sequence headers made by x264 through ffmpeg.
    pub const HD: &str = "0142c028ffe100196742c028da01e0089f970110000003001000000303c0f1832a01000468ce0fc8";
    const NTSC: &str = "0142c01effe100176742c01eda0280bfe5c04400000fa40003a9803c58ba8001000468ce0fc8";
    const INTERLACED: &str = "014d401effe10018674d401ef405a126c044000003000400000300c87c50aa8001000468de0fc8";
    const SAR: &str = "0142c01effe100186742c01eda02d049b041000003000100000300320f162ea001000468ce0fc8";
    const YUV422: &str = "017a001fffe10019677a001fbcb405217f113e0220000003002000000f01e3065401000468ce0fc8fef8f800";
    const YUV444: &str = "01f4000dffe1001867f4000d91968153f92b0110000003001000000640f142aa01000568ce0f1920fff8f800";
    pub const VERTICAL: &str = "0142c02affe100186742c02ada01100f1e5f0110000003001000000780f1832a01000468ce0fc8";

    pub fn hex(text: &str) -> Bytes {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// Puts NAL units behind lengths of 4 bytes.
    pub fn access_unit(nals: &[&[u8]]) -> Bytes {
        let mut out = BytesMut::new();
        for nal in nals {
            out.put_u32(nal.len() as u32);
            out.put_slice(nal);
        }
        out.freeze()
    }

    fn sets(avcc: &str) -> (Bytes, Bytes) {
        let record = Record::parse(hex(avcc)).unwrap();
        (record.sps[0].clone(), record.pps[0].clone())
    }

    #[test]
    fn real_video_headers_are_read() {
        for (text, size, sar, fps, codecs) in [
            (HD, (1920, 1080), (1, 1), (30, 1), "avc1.42c028"),
            (NTSC, (640, 360), (1, 1), (30_000, 1001), "avc1.42c01e"),
            (SAR, (720, 576), (16, 11), (25, 1), "avc1.42c01e"),
            (YUV422, (642, 362), (1, 1), (60, 1), "avc1.7a001f"),
            (YUV444, (333, 111), (1, 1), (50, 1), "avc1.f4000d"),
            (VERTICAL, (1080, 1920), (1, 1), (60, 1), "avc1.42c02a"),
        ] {
            let config = VideoConfig::parse(hex(text)).unwrap();
            assert_eq!((config.width, config.height), size);
            assert_eq!((config.sar, config.fps), (sar, Some(fps)));
            assert_eq!((config.codec_string().as_str(), config.nal_len()), (codecs, 4));
        }
    }

    #[test]
    fn interlaced_video_is_refused_with_advice() {
        let error = VideoConfig::parse(hex(INTERLACED)).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(text) if text.contains("progressive")), "{error}");
    }

    #[test]
    fn truncated_video_headers_are_errors() {
        let whole = hex(HD);
        for len in 0..whole.len() {
            assert!(VideoConfig::parse(whole.slice(..len)).is_err(), "{len}");
        }
    }

    #[test]
    fn long_golomb_codes_do_not_overflow() {
        let mut sps = vec![0x67, 66, 0, 30, 0x80];
        sps.extend([0, 0, 3].repeat(200));
        sps.push(1);
        let avcc = write_avcc(&[&sps], &[&[0x68, 0xce]], 4).unwrap();
        assert!(VideoConfig::parse(avcc).is_err());
    }

    #[test]
    fn frames_are_looked_into() {
        let idr = access_unit(&[&[0x09, 0x10], &[0x65, 1, 2]]);
        assert!(is_idr(&idr, 4));
        let open_gop = access_unit(&[&[0x06, 5, 2, 0, 0, 6, 1, 0x88, 0x80], &[0x41, 1]]);
        assert!(is_recovery_point(&open_gop, 4) && !is_idr(&open_gop, 4));
        assert!(!is_recovery_point(&idr, 4) && !is_recovery_point(&access_unit(&[&[6], &[6, 255], &[6, 5, 9]]), 4));
        assert!(!is_idr(&idr[..4], 4) && !is_idr(&[], 4) && !is_idr(&[0xff; 9], 4));
        assert!(is_idr(&[1, 0x65], 1) && is_idr(&[0, 1, 0x65], 2));
        let (sps, _) = sets(HD);
        assert_eq!(sps_of(&access_unit(&[&[0x09, 0x10], &sps]), 4), Some(&sps[..]));
    }

    #[test]
    fn parameter_sets_inside_keyframes_make_a_new_config() {
        let config = VideoConfig::parse(hex(HD)).unwrap();
        let (sps, pps) = sets(HD);
        let idr: &[u8] = &[0x65, 1, 2];
        assert!(config.with_inband(&access_unit(&[idr])).is_none());
        assert!(config.with_inband(&access_unit(&[&sps, &pps, idr])).is_none(), "the same again");
        let padded = [&sps[..], &[0, 0]].concat();
        assert!(config.with_inband(&access_unit(&[&padded, &pps, idr])).is_none(), "the same, padded");

        for text in [VERTICAL, YUV422, YUV444] {
            let (sps, pps) = sets(text);
            let new = config.with_inband(&access_unit(&[&sps, &pps, idr])).unwrap().unwrap();
            assert_eq!(new, VideoConfig::parse(hex(text)).unwrap(), "as the encoder would have written it");
        }
        let (interlaced, _) = sets(INTERLACED);
        assert!(config.with_inband(&access_unit(&[&interlaced, idr])).unwrap().is_err());
        assert!(config.with_inband(&access_unit(&[&[0x67], idr])).unwrap().is_err(), "an empty SPS");
    }

    #[test]
    fn audio_headers_are_read() {
        // Columns: config, object type, rate, channels, frame length.
        for (text, object_type, rate, channels, frame_len) in [
            ("1190", 2, 48_000, 2, 1024),
            ("1210", 2, 44_100, 2, 1024),
            ("1388", 2, 22_050, 1, 1024),
            ("1194", 2, 48_000, 2, 960),
            ("121056e500", 2, 44_100, 2, 1024),
            ("139056e5a0", 5, 22_050, 2, 1024),
            ("138856e5a54880", 29, 22_050, 2, 1024),
            ("2b920800", 5, 22_050, 2, 1024),
            ("eb8a0800", 29, 22_050, 2, 1024),
            ("11b0", 2, 48_000, 6, 1024),
            ("11b8", 2, 48_000, 8, 1024),
        ] {
            let config = AudioConfig::parse(hex(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(
                (config.object_type, config.sample_rate, config.channels, config.frame_len),
                (object_type, rate, channels, frame_len),
                "{text}"
            );
            assert_eq!(config.codec_string(), format!("mp4a.40.{object_type}"));
        }
    }

    #[test]
    fn channels_come_from_a_program_config() {
        // 5 type, 4 rate, 4 channels = 0, 3 flags, then: tag, profile, rate; 2 front, 0 side, 1 back; 1 LFE, 0 data, 0
        // coupled; no mixdowns; front single, front pair, back pair; LFE tag; align; no comment.
        let fields: [(u32, usize); 18] = [
            (2, 5),
            (3, 4),
            (0, 4),
            (0, 3),
            (0, 4),
            (1, 2),
            (3, 4),
            (2, 4),
            (0, 4),
            (1, 4),
            (1, 2),
            (0, 3),
            (0, 4),
            (0, 3),
            (0, 5),
            (16, 5),
            (17, 5),
            (0, 4),
        ];
        let mut bits: Vec<u8> =
            fields.iter().flat_map(|&(value, width)| (0..width).rev().map(move |i| (value >> i & 1) as u8)).collect();
        bits.resize(bits.len().next_multiple_of(8) + 8, 0);
        let asc: Bytes = bits.chunks(8).map(|byte| byte.iter().fold(0, |a, b| a << 1 | b)).collect();
        let config = AudioConfig::parse(asc.clone()).unwrap();
        assert_eq!((config.channels, config.sample_rate, config.frame_len), (6, 48_000, 1024));
        assert!(AudioConfig::parse(asc.slice(..asc.len() - 1)).is_err());
    }

    #[test]
    fn other_audio_is_refused_with_advice() {
        let error = AudioConfig::parse(hex("0990")).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(text) if text.contains("AAC-LC")), "{error}");
        assert!(AudioConfig::parse(Bytes::new()).is_err());
        assert!(AudioConfig::parse(hex("1180")).is_err(), "the program config is missing");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>, nal_len in 1usize..=4) {
            let bytes = Bytes::from(data.clone());
            let _ = VideoConfig::parse(bytes.clone());
            let _ = AudioConfig::parse(bytes);
            let _ = (is_idr(&data, nal_len), is_recovery_point(&data, nal_len));
            let _ = VideoConfig::parse(hex(HD)).unwrap().with_inband(&data);
        }

        #[test]
        fn mutated_headers_never_panic(
            which in 0usize..4, changes in prop::collection::vec((0usize..64, any::<u8>()), 1..6)
        ) {
            let mut data = hex([HD, SAR, YUV422, YUV444][which]).to_vec();
            for (at, value) in changes {
                let at = at % data.len();
                data[at] = value;
            }
            if let Ok(config) = VideoConfig::parse(data.into()) {
                prop_assert!(config.width > 0 && config.height > 0 && [1, 2, 4].contains(&config.nal_len()));
            }
        }
    }
}
