//! Takes CMAF init segments and chunks apart, without the code under test.

use std::ops::Range;

/// What an init segment says of its one track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    pub timescale: u32,
    pub video: bool,
    pub width: u16,
    pub height: u16,
    /// Bytes of a NAL length (video).
    pub nal_len: usize,
    pub default_duration: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub dts: i64,
    pub pts: i64,
    pub duration: u32,
    pub sync: bool,
    pub idr: bool,
    pub bytes: Vec<u8>,
}

/// A chunk's samples, with the times of its track's timescale.
#[derive(Debug, Clone)]
pub struct Media {
    pub samples: Vec<Sample>,
}

impl Media {
    pub fn start(&self) -> i64 {
        self.samples[0].dts
    }

    pub fn end(&self) -> i64 {
        let last = self.samples.last().expect("a chunk has samples");
        last.dts + i64::from(last.duration)
    }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(b[at..at + 2].try_into().unwrap())
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().unwrap())
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(b[at..at + 8].try_into().unwrap())
}

/// The boxes in a range: (type, range of the box, range of its content).
fn boxes(b: &[u8], range: Range<usize>) -> Vec<(String, Range<usize>, Range<usize>)> {
    let (mut at, mut found) = (range.start, Vec::new());
    while at + 8 <= range.end {
        let size = u32_at(b, at) as usize;
        assert!(size >= 8 && at + size <= range.end, "a box of {size} bytes at {at} leaves its parent");
        let kind = String::from_utf8_lossy(&b[at + 4..at + 8]).into_owned();
        found.push((kind, at..at + size, at + 8..at + size));
        at += size;
    }
    assert_eq!(at, range.end, "stray bytes after the last box");
    found
}

fn find(b: &[u8], range: Range<usize>, path: &[&str]) -> Option<Range<usize>> {
    let (_, _, content) = boxes(b, range).into_iter().find(|(kind, ..)| kind == path[0])?;
    if path.len() == 1 { Some(content) } else { find(b, content, &path[1..]) }
}

pub fn init(b: &[u8]) -> Init {
    let trak = find(b, 0..b.len(), &["moov", "trak"]).expect("moov/trak");
    assert!(find(b, trak.clone(), &["edts"]).is_none(), "an edit list");
    let mdhd = find(b, trak.clone(), &["mdia", "mdhd"]).expect("mdhd").start;
    let timescale = u32_at(b, mdhd + if b[mdhd] == 1 { 20 } else { 12 });
    let hdlr = find(b, trak.clone(), &["mdia", "hdlr"]).expect("hdlr").start;
    let video = &b[hdlr + 8..hdlr + 12] == b"vide";
    let stsd = find(b, trak, &["mdia", "minf", "stbl", "stsd"]).expect("stsd");
    let (_, _, entry) = boxes(b, stsd.start + 8..stsd.end).remove(0);
    let (mut width, mut height, mut nal_len) = (0, 0, 0);
    if video {
        (width, height) = (u16_at(b, entry.start + 24), u16_at(b, entry.start + 26));
        let avcc = find(b, entry.start + 78..entry.end, &["avcC"]).expect("avcC").start;
        nal_len = usize::from(b[avcc + 4] & 3) + 1;
    }
    let trex = find(b, 0..b.len(), &["moov", "mvex", "trex"]).expect("trex").start;
    Init { timescale, video, width, height, nal_len, default_duration: u32_at(b, trex + 12) }
}

pub fn media(b: &[u8], init: &Init) -> Media {
    let mut samples: Vec<Sample> = Vec::new();
    for (kind, whole, moof) in boxes(b, 0..b.len()) {
        if kind != "moof" {
            continue;
        }
        let traf = find(b, moof, &["traf"]).expect("traf");
        let tfhd = find(b, traf.clone(), &["tfhd"]).expect("tfhd").start;
        let flags = u32_at(b, tfhd) & 0xff_ffff;
        let (mut at, mut duration, mut size, mut sample_flags) = (tfhd + 8, init.default_duration, 0, 0);
        assert!(flags & 1 == 0, "base data offset: not default-base-is-moof");
        for (bit, value) in [(2, None), (8, Some(&mut duration)), (16, Some(&mut size)), (32, Some(&mut sample_flags))]
        {
            if flags & bit != 0 {
                if let Some(value) = value {
                    *value = u32_at(b, at);
                }
                at += 4;
            }
        }
        let tfdt = find(b, traf.clone(), &["tfdt"]).expect("tfdt").start;
        let mut dts = if b[tfdt] == 1 { u64_at(b, tfdt + 4) as i64 } else { i64::from(u32_at(b, tfdt + 4)) };
        if let Some(last) = samples.last() {
            assert_eq!(dts, last.dts + i64::from(last.duration), "fragments inside a chunk follow each other");
        }
        for (kind, _, run) in boxes(b, traf) {
            if kind != "trun" {
                continue;
            }
            let (version, flags, count) = (b[run.start], u32_at(b, run.start) & 0xff_ffff, u32_at(b, run.start + 4));
            let mut at = run.start + 8;
            let mut data = whole.start;
            let mut next = |have: bool| {
                have.then(|| {
                    at += 4;
                    u32_at(b, at - 4)
                })
            };
            if let Some(offset) = next(flags & 1 != 0) {
                data = (whole.start as i64 + i64::from(offset as i32)) as usize;
            }
            let first = next(flags & 4 != 0);
            for n in 0..count {
                let duration = next(flags & 0x100 != 0).unwrap_or(duration);
                let size = next(flags & 0x200 != 0).unwrap_or(size) as usize;
                let own = next(flags & 0x400 != 0);
                let flags_now = own.or(first.filter(|_| n == 0)).unwrap_or(sample_flags);
                let composition = match next(flags & 0x800 != 0) {
                    Some(c) if version == 1 => i64::from(c as i32),
                    Some(c) => i64::from(c),
                    None => 0,
                };
                let bytes = b[data..data + size].to_vec();
                let idr = init.video && nal_types(&bytes, init.nal_len).contains(&5);
                let sync = flags_now & 0x1_0000 == 0;
                samples.push(Sample { dts, pts: dts + composition, duration, sync, idr, bytes });
                dts += i64::from(duration);
                data += size;
            }
        }
    }
    assert!(!samples.is_empty(), "a chunk without samples");
    Media { samples }
}

fn nal_types(mut b: &[u8], nal_len: usize) -> Vec<u8> {
    let mut types = Vec::new();
    while b.len() > nal_len {
        let size = b[..nal_len].iter().fold(0, |n, &x| n << 8 | usize::from(x));
        assert!(size > 0 && nal_len + size <= b.len(), "a NAL unit leaves its sample");
        types.push(b[nal_len] & 31);
        b = &b[nal_len + size..];
    }
    types
}
