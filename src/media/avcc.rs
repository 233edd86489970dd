//! AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1.2): bytes from a stranger in, parameter sets out.
//!
//! Taken apart here and not by a crate, because crates go on into the extension at its end, where bytes that nothing
//! needs can overflow them. The parameter sets themselves are not looked into.

use bytes::{Buf, Bytes};

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it ends early")]
    Short,
    #[error("version {0}")]
    Version(u8),
    #[error("NAL unit lengths of 3 bytes are not allowed")]
    NalLength,
}

/// The parameter sets of a record, as NAL units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub sps: Vec<Bytes>,
    pub pps: Vec<Bytes>,
}

impl Record {
    /// Takes a record apart. What follows the parameter sets is left alone.
    pub fn parse(mut avcc: Bytes) -> Result<Self, Error> {
        const FIXED: usize = 5;
        let &[version, _, _, _, length_size, ..] = &avcc[..] else { return Err(Error::Short) };
        if version != 1 {
            return Err(Error::Version(version));
        }
        if length_size & 3 == 2 {
            return Err(Error::NalLength);
        }
        avcc.advance(FIXED);
        let sps = sets(&mut avcc, 0x1f)?;
        let pps = sets(&mut avcc, 0xff)?;
        Ok(Self { sps, pps })
    }
}

/// Reads a count, of which `mask` counts, and so many NAL units with a length of two bytes.
fn sets(avcc: &mut Bytes, mask: u8) -> Result<Vec<Bytes>, Error> {
    let count = avcc.try_get_u8().map_err(|_| Error::Short)? & mask;
    let nal = |_| {
        let len = usize::from(avcc.try_get_u16().map_err(|_| Error::Short)?);
        if avcc.len() < len { Err(Error::Short) } else { Ok(avcc.split_to(len)) }
    };
    (0..count).map(nal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart() {
        let whole = [1, 66, 0, 30, 0xff, 0xe2, 0, 2, 0x67, 1, 0, 1, 0x67, 1, 0, 1, 0x68];
        let record = Record::parse(Bytes::from(whole.to_vec())).unwrap();
        assert_eq!((record.sps, record.pps), (vec![Bytes::from_static(b"g\x01"), "g".into()], vec!["h".into()]));
        for len in 0..whole.len() {
            assert_eq!(Record::parse(Bytes::from(whole[..len].to_vec())), Err(Error::Short), "{len}");
        }
        for (at, byte, error) in [(0, 2, Error::Version(2)), (4, 0xfe, Error::NalLength)] {
            let mut wrong = whole.to_vec();
            wrong[at] = byte;
            assert_eq!(Record::parse(wrong.into()), Err(error));
        }
    }

    #[test]
    fn the_extension_is_left_alone() {
        // High profile, and a sequence parameter set extension of zeros, found by fuzzing.
        let head = [1, 100, 0, 31, 0xff, 0xe1, 0, 1, 0x67, 1, 0, 1, 0x68];
        let hostile = [&head[..], &[0xfd, 0xf8, 0xf8, 1, 0, 64], &[0; 64]].concat();
        assert_eq!(Record::parse(hostile.into()), Record::parse(head.to_vec().into()));
    }
}
