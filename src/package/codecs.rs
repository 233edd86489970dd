//! Codec strings for CODECS (RFC 6381 3.3) and colour, read from codec configurations.

use std::io::Cursor;

use mp4_atom::Colr;
use scuffle_h264::Sps;

use crate::media::{AudioConfig, VideoConfig, avcc::Record};

/// ITU-T H.273: the value of a colour code point that says nothing.
const UNSPECIFIED: u8 = 2;

/// Gives `avc1.PPCCLL`: profile, compatibility and level as the configuration record has them.
pub(super) fn video(config: &VideoConfig) -> String {
    let byte = |i| config.avcc.get(i).copied().unwrap_or(0);
    format!("avc1.{:02x}{:02x}{:02x}", byte(1), byte(2), byte(3))
}

/// Gives `mp4a.40.N` for audio object type N.
pub(super) fn audio(config: &AudioConfig) -> String {
    format!("mp4a.40.{}", config.object_type)
}

/// Gives the colour description of the first SPS; nothing when it has none or cannot be read.
pub(super) fn colour(config: &VideoConfig) -> Option<Colr> {
    let record = Record::parse(config.avcc.clone()).ok()?;
    let sps = Sps::parse_with_emulation_prevention(Cursor::new(record.sps.first()?)).ok()?;
    let colour = sps.color_config?;
    let (primaries, transfer, matrix) =
        (colour.color_primaries, colour.transfer_characteristics, colour.matrix_coefficients);
    if [primaries, transfer, matrix] == [UNSPECIFIED; 3] {
        return None;
    }
    Some(Colr::Nclx {
        colour_primaries: primaries.into(),
        transfer_characteristics: transfer.into(),
        matrix_coefficients: matrix.into(),
        full_range_flag: colour.video_full_range_flag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::testing::{aac, avc};

    #[test]
    fn codec_strings() {
        assert_eq!(video(&avc()), "avc1.64001f");
        for (object_type, text) in [(2, "mp4a.40.2"), (5, "mp4a.40.5"), (29, "mp4a.40.29")] {
            assert_eq!(audio(&AudioConfig { object_type, ..aac(48_000, 1024) }), text);
        }
    }

    #[test]
    fn colour_is_told_only_when_the_sps_tells_it() {
        assert_eq!(colour(&avc()), None);
        let broken = VideoConfig { avcc: vec![1, 100, 0, 31, 255, 225, 0, 200, 1].into(), ..avc() };
        assert_eq!(colour(&broken), None);
    }
}
