//! Writes `ftyp` and `moov` (14496-12 clause 4.3, 8.2 to 8.9), as QuickTime and those who follow it read them.

use bytes::Bytes;
use mp4_atom::{
    AnySampleGroupEntry, Atom, Dinf, Dref, Edts, Elst, ElstEntry, Encode, FourCC, Ftyp, Hdlr, Sbgp, SbgpEntry, Sgpd,
    SgpdEntry, Smhd, Url, Vmhd,
};

use super::{
    InitInfo,
    rope::Rope,
    track::{Folded, Tables},
};
use crate::media::Track;

/// `und`, three letters of five bits (8.4.2.3).
const LANGUAGE: u16 = 0x55c4;
/// Enabled, and in the movie (8.3.2.3).
const TRACK_FLAGS: u8 = 3;
/// Identity (6.2.2).
const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// A span of the movie (8.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    /// Ticks of the movie.
    pub duration: u64,
    /// Where in the track it starts: ticks after the decode time of the first sample. None shows nothing.
    pub media: Option<i64>,
}

/// A track as the builder made it.
#[derive(Debug)]
pub(super) struct Plan {
    pub timescale: u32,
    pub tables: Tables,
    pub edits: Vec<Edit>,
}

/// A track whose boxes differ only by where the file's samples start.
#[derive(Debug)]
pub(super) struct Sealed {
    timescale: u32,
    duration: u64,
    edits: Vec<Edit>,
    first: InitInfo,
    count: u32,
    /// Where its chunks start among the samples of the file.
    offsets: Vec<u64>,
    /// `stsd` to `stsz`, without `stco`.
    tables: Vec<Bytes>,
}

impl Sealed {
    /// Writes the tables. Takes from the plan what only they need.
    pub fn new(plan: &mut Plan, offsets: Vec<u64>) -> Self {
        let count = plan.tables.count;
        let folded = plan.tables.fold();
        let edits = plan
            .edits
            .iter()
            .map(|edit| Edit { media: edit.media.map(|media| (media + i64::from(folded.raised)).max(0)), ..*edit });
        let edits = edits.collect();
        let entries = &plan.tables.entries;
        let duration = folded.duration;
        let tables = tables(entries.iter().map(|init| &init.entry), count, folded).into_pieces();
        let first = InitInfo::clone(&entries[0]);
        Self { timescale: plan.timescale, duration, edits, first, count, offsets, tables }
    }

    fn shown(&self) -> u64 {
        self.edits.iter().map(|edit| edit.duration).sum()
    }
}

/// Writes `ftyp` and `moov`. The file's samples start at `base`; `large` says that some lie behind 4 GiB.
pub(super) fn head(movie: u32, tracks: &[Sealed], base: u64, large: bool) -> Rope {
    let video = tracks.iter().any(|track| track.first.kind == Track::Video);
    let brands: &[&[u8; 4]] = if video { &[b"isom", b"iso2", b"avc1", b"mp42"] } else { &[b"isom", b"iso2", b"mp42"] };
    let ftyp = Ftyp {
        major_brand: FourCC::new(b"mp42"),
        minor_version: 0,
        compatible_brands: brands.iter().map(|brand| FourCC::new(brand)).collect(),
    };
    let mut moov = Rope::from(mvhd(movie, tracks));
    for (id, track) in (1..).zip(tracks) {
        moov.append(trak(id, track, base, large));
    }
    let mut out = Rope::from(encoded(&ftyp));
    out.append(moov.boxed(b"moov"));
    out
}

fn mvhd(movie: u32, tracks: &[Sealed]) -> Vec<u8> {
    let duration = tracks.iter().map(Sealed::shown).max().unwrap_or(0);
    timed(b"mvhd", 0, &[movie], duration, |out| {
        out.extend(0x1_0000u32.to_be_bytes()); // rate
        out.extend([1, 0]); // volume
        out.extend([0; 10]);
        out.extend(MATRIX.iter().flat_map(|n| n.to_be_bytes()));
        out.extend([0; 24]);
        out.extend((tracks.len() as u32 + 1).to_be_bytes()); // next track
    })
}

fn trak(id: u32, track: &Sealed, base: u64, large: bool) -> Rope {
    let init = &track.first;
    let video = init.kind == Track::Video;
    let mut trak = Rope::from(timed(b"tkhd", TRACK_FLAGS, &[id, 0], track.shown(), |out| {
        out.extend([0; 8 + 2 + 2]); // layer and group
        out.extend([u8::from(!video), 0]); // volume
        out.extend([0; 2]);
        out.extend(MATRIX.iter().flat_map(|n| n.to_be_bytes()));
        for size in [init.width, init.height] {
            out.extend(size.integer().to_be_bytes());
            out.extend(size.decimal().to_be_bytes());
        }
    }));
    trak.append(edts(&track.edits).into());
    let mut minf = Rope::from(if video { encoded(&Vmhd::default()) } else { encoded(&Smhd::default()) });
    minf.append(encoded(&Dinf { dref: Dref { entries: vec![Url::default().into()] } }).into());
    minf.append(stbl(track, base, large).boxed(b"stbl"));
    let mut mdia = Rope::from(timed(b"mdhd", 0, &[track.timescale], track.duration, |out| {
        out.extend(LANGUAGE.to_be_bytes());
        out.extend([0; 2]);
    }));
    let (handler, name) = if video { (b"vide", "Video") } else { (b"soun", "Audio") };
    mdia.append(encoded(&Hdlr { handler: FourCC::new(handler), name: name.into() }).into());
    mdia.append(minf.boxed(b"minf"));
    trak.append(mdia.boxed(b"mdia"));
    trak.boxed(b"trak")
}

/// Writes a box that starts with creation time, modification time and, after some words, a duration: 64 bits wide only
/// where that is needed, as not all players read the wide ones. The dates are unknown.
fn timed(kind: &[u8; 4], flags: u8, words: &[u32], duration: u64, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let narrow = u32::try_from(duration);
    let mut out = vec![u8::from(narrow.is_err()), 0, 0, flags];
    out.extend(vec![0; if narrow.is_ok() { 8 } else { 16 }]);
    out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    match narrow {
        Ok(narrow) => out.extend(narrow.to_be_bytes()),
        Err(_) => out.extend(duration.to_be_bytes()),
    }
    rest(&mut out);
    [&(out.len() as u32 + 8).to_be_bytes()[..], kind, &out].concat()
}

fn edts(edits: &[Edit]) -> Vec<u8> {
    let entry = |edit: &Edit| ElstEntry {
        segment_duration: edit.duration,
        media_time: edit.media.map(i64::unsigned_abs),
        media_rate: 1.into(),
    };
    encoded(&Edts { elst: Some(Elst { entries: edits.iter().map(entry).collect() }) })
}

fn tables<'a>(entries: impl ExactSizeIterator<Item = &'a Bytes>, count: u32, folded: Folded) -> Rope {
    let mut stbl = Rope::default();
    let number = entries.len() as u32;
    stbl.append(table(b"stsd", &[number], entries.cloned()));
    stbl.append(table(b"stts", &[folded.stts.len() / 2], folded.stts.into_blocks()));
    if let Some(ctts) = folded.ctts {
        stbl.append(table(b"ctts", &[ctts.len() / 2], ctts.into_blocks()));
    }
    if let Some(stss) = folded.stss {
        stbl.append(table(b"stss", &[stss.len()], stss.into_blocks()));
    }
    stbl.append(table(b"stsc", &[folded.stsc.len() / 3], folded.stsc.into_blocks()));
    stbl.append(table(b"stsz", &[0, count], folded.stsz.into_blocks()));
    stbl
}

/// Writes a box of version 0 without flags: some words, then blocks of entries.
fn table(kind: &[u8; 4], words: &[u32], blocks: impl IntoIterator<Item = Bytes>) -> Rope {
    let words = std::iter::once(&0).chain(words);
    let mut out = Rope::from(words.flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>());
    blocks.into_iter().for_each(|block| out.push(block));
    out.boxed(kind)
}

fn stbl(track: &Sealed, base: u64, large: bool) -> Rope {
    let mut stbl = Rope::default();
    track.tables.iter().for_each(|piece| stbl.push(piece.clone()));
    let offsets = track.offsets.iter().map(|offset| base + offset);
    let (kind, offsets): (_, Vec<u8>) = match large {
        true => (b"co64", offsets.flat_map(u64::to_be_bytes).collect()),
        // They fit, or the file would be large.
        false => (b"stco", offsets.flat_map(|offset| (offset as u32).to_be_bytes()).collect()),
    };
    stbl.append(table(kind, &[track.offsets.len() as u32], [offsets.into()]));
    if track.first.is_aac() {
        stbl.append(preroll(track.count).into());
    }
    stbl
}

/// Says that an AAC frame is decoded right after the one before it (10.1). QuickTime takes a file that has no such group
/// as one whose first 2112 samples are the encoder's delay.
fn preroll(count: u32) -> Vec<u8> {
    let grouping_type = FourCC::new(b"roll");
    let roll = AnySampleGroupEntry::UnknownGroupingType(grouping_type, (-1i16).to_be_bytes().to_vec());
    let sgpd = Sgpd {
        grouping_type,
        default_length: Some(2),
        default_group_description_index: None,
        static_group_description: false,
        static_mapping: false,
        essential: false,
        entries: vec![SgpdEntry { description_length: Some(2), entry: roll }],
    };
    let all = SbgpEntry { sample_count: count, group_description_index: 1 };
    let sbgp = Sbgp { grouping_type, grouping_type_parameter: None, entries: vec![all] };
    [encoded(&sgpd), encoded(&sbgp)].concat()
}

fn encoded(atom: &impl Atom) -> Vec<u8> {
    let mut out = Vec::new();
    atom.encode(&mut out).expect("a box of a few bytes fits its length field");
    out
}
