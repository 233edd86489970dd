//! What a chunk's samples need to know of their init segment.

use bytes::Bytes;
use mp4_atom::{FixedPoint, FourCC, Hdlr, Mdhd, Tkhd, Trex};

use super::{
    Malformed,
    boxes::{children, only, optional},
};
use crate::media::Track;

/// An init segment, parsed: one track, one sample description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitInfo {
    pub(super) kind: Track,
    /// Ticks per second, not zero.
    pub(super) timescale: u32,
    /// The sample entry, byte for byte (8.5.2).
    pub(super) entry: Bytes,
    /// The size at which pictures are shown.
    pub(super) width: FixedPoint<u16>,
    pub(super) height: FixedPoint<u16>,
    /// What fragments leave unsaid (8.8.3).
    pub(super) defaults: Trex,
}

impl InitInfo {
    /// Reads an init segment (`ftyp` and `moov`, 14496-12 8.8.1 to 8.8.3).
    ///
    /// Fails when it does not hold exactly one track of video or audio with one sample entry, whose samples are in the
    /// same file as the fragment that names them.
    pub fn parse(init: &[u8]) -> Result<Self, Malformed> {
        let moov = only(init, b"moov", "no moov in the init segment")?.body;
        let trak = only(moov, b"trak", "no track in the init segment")?.body;
        let mdia = only(trak, b"mdia", "no mdia in the track")?.body;
        let minf = only(mdia, b"minf", "no minf in the track")?.body;
        let stbl = only(minf, b"stbl", "no stbl in the track")?.body;
        let stsd = only(stbl, b"stsd", "no stsd in the track")?.body;
        let mvex = only(moov, b"mvex", "the init segment is not for fragments")?.body;
        let handler: Hdlr = only(mdia, b"hdlr", "no handler in the track")?.leaf()?;
        let kind = match handler.handler {
            kind if kind == FourCC::new(b"vide") => Track::Video,
            kind if kind == FourCC::new(b"soun") => Track::Audio,
            _ => return Err(Malformed("a track that is neither video nor audio")),
        };
        let timescale = only(mdia, b"mdhd", "no mdhd in the track")?.leaf::<Mdhd>()?.timescale;
        if timescale == 0 {
            return Err(Malformed("a timescale of zero"));
        }
        let shown: Tkhd = only(trak, b"tkhd", "no tkhd in the track")?.leaf()?;
        let defaults: Trex = only(mvex, b"trex", "no trex in the init segment")?.leaf()?;
        if defaults.track_id != shown.track_id {
            return Err(Malformed("trex is of another track"));
        }
        Ok(Self { kind, timescale, entry: entry(stsd)?, width: shown.width, height: shown.height, defaults })
    }

    /// The AVCDecoderConfigurationRecord (14496-15 5.3.3.1.2) of H.264 video.
    pub fn avcc(&self) -> Option<Bytes> {
        // After the sample entry's header and its own fields (12.1.3.2) come boxes.
        let boxes = self.entry.get(8 + 78..)?;
        let avcc = optional(boxes, b"avcC").ok()??;
        Some(Bytes::copy_from_slice(avcc.body))
    }

    /// Tells whether samples of the two can share a sample entry.
    pub(super) fn same_entry(&self, other: &Self) -> bool {
        self.entry == other.entry
    }

    /// Tells whether the samples are AAC, of which a frame is decoded right only after the one before it.
    pub(super) fn is_aac(&self) -> bool {
        self.entry.get(4..8) == Some(b"mp4a")
    }
}

/// Takes the only entry out of an `stsd`.
fn entry(stsd: &[u8]) -> Result<Bytes, Malformed> {
    let Some(([_, _, _, _, 0, 0, 0, 1], entries)) = stsd.split_first_chunk::<8>() else {
        return Err(Malformed("stsd does not hold one sample entry"));
    };
    let mut all = children(entries);
    let entry = all.next().ok_or(Malformed("stsd is empty"))??;
    if all.next().is_some() {
        return Err(Malformed("stsd holds more than it says"));
    }
    // Six reserved bytes, then the number of the data reference (8.5.2.2): the file that is made has one.
    match entry.body.first_chunk::<8>() {
        Some([.., 0, 1]) => Ok(Bytes::copy_from_slice(entry.whole)),
        _ => Err(Malformed("a sample entry without the first data reference")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{
        Init,
        testing::{aac, avc},
    };

    #[test]
    fn our_inits_are_read() {
        let video = InitInfo::parse(&Init::video(&avc()).bytes).unwrap();
        assert_eq!((video.kind, video.timescale, video.width.integer()), (Track::Video, 90_000, 1280));
        assert_eq!((&video.entry[4..8], video.is_aac()), (&b"avc1"[..], false));
        assert_eq!(video.avcc(), Some(avc().avcc));
        let audio = InitInfo::parse(&Init::audio(&aac(44_100, 1024)).bytes).unwrap();
        assert_eq!((audio.kind, audio.timescale, audio.is_aac()), (Track::Audio, 44_100, true));
        assert!(!audio.same_entry(&video) && audio.avcc().is_none());
    }

    #[test]
    fn broken_inits_are_told() {
        let good = Init::video(&avc()).bytes;
        let find = |kind: &[u8; 4]| good.windows(4).position(|w| w == kind).unwrap();
        // From the boxes' names on: the name has four bytes, the size is in the four before it.
        for (at, bytes, words) in [
            (find(b"moov"), &b"x"[..], "no moov in the init segment"),
            (find(b"trak"), b"x", "no track in the init segment"),
            (find(b"mvex"), b"x", "the init segment is not for fragments"),
            (find(b"stsd") + 8, &[0, 0, 0, 2], "stsd does not hold one sample entry"),
            (find(b"avc1") + 10, &[0, 0], "a sample entry without the first data reference"),
            (find(b"vide"), b"x", "a track that is neither video nor audio"),
            (find(b"trak") - 4, &[0, 0, 0, 7], "a box is shorter than its header"),
            (find(b"mdhd") + 24, &[0; 4], "a timescale of zero"),
            (find(b"trex") + 8, &[9; 4], "trex is of another track"),
        ] {
            let mut bad = good.to_vec();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            let told = InitInfo::parse(&bad).unwrap_err();
            assert_eq!(told.to_string(), words);
        }
        for len in 0..good.len() {
            InitInfo::parse(&good[..len]).unwrap_err();
        }
    }
}
