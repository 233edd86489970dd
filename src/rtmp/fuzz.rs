//! Fuzz bodies: each takes any bytes and must come back, without a panic and within its limits. They run as properties in
//! the test suite and as fuzz targets.

use bytes::Bytes;

use super::{
    Config, Reason, amf,
    chunk::{Limits, Reader},
    flv,
    session::{Input, Output, Session},
};
use crate::time::Timestamp;

/// Feeds a fresh connection, the first byte says in what pieces; a publish is accepted.
pub fn handshake(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    drive(Session::new(Timestamp(0), Config::default()), data, piece);
}

/// Feeds a connection whose handshake and `connect` are done, and the bare chunk reader.
pub fn chunk(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else { return };
    let mut session = Session::new(Timestamp(0), Config::default());
    session.handle(Timestamp(0), Input::Bytes(Bytes::from(vec![3; 1 + 2 * 1536])));
    let connect =
        [&b"\x03\x00\x00\x00\x00\x00\x13\x14\x00\x00\x00\x00"[..], b"\x02\x00\x07connect\x00?\xf0\0\0\0\0\0\0"]
            .concat();
    let connect = [&connect[..], b"\x03\x00\x00\x09"].concat();
    session.handle(Timestamp(0), Input::Bytes(Bytes::from(connect)));
    drive(session, data, piece);

    let mut reader = Reader::new(Limits::AFTER_AUTH);
    for piece in data.chunks(usize::from(piece) + 1) {
        reader.push(Bytes::copy_from_slice(piece));
        loop {
            match reader.poll() {
                Ok(Some(message)) => assert!(message.payload.len() <= data.len()),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Reads commands; what was read must be writable.
pub fn amf(data: &[u8]) {
    for decode in [amf::decode, amf::decode_marked_amf3] {
        if let Ok(values) = decode(data) {
            // Fails only for strings over 64 KiB, which the size limit excludes save for lossy replacement characters.
            let _ = rml_amf0::serialize(&values);
            for properties in values.iter().filter_map(amf::properties) {
                flv::metadata(properties);
            }
        }
    }
}

/// Reads the data as a video body and as an audio body.
pub fn flv(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let _ = flv::video(0, body.clone());
    let _ = flv::audio(0, body);
}

fn drive(mut session: Session, data: &[u8], piece: u8) {
    let mut time = Timestamp(0);
    for piece in data.chunks(usize::from(piece) + 1) {
        time.0 += 1000;
        session.handle(time, Input::Bytes(Bytes::copy_from_slice(piece)));
        while let Some(output) = session.poll() {
            match output {
                Output::PublishRequest { .. } => session.handle(time, Input::Accept),
                Output::Close(reason) => {
                    assert_ne!(reason, Reason::PeerClosed, "the machine sees no socket");
                    assert_eq!(session.poll(), None, "a close is the last output");
                    return;
                }
                Output::Send(_) | Output::Media(_) | Output::Unpublished => {}
            }
        }
        assert!(session.deadline().is_some(), "an open session always ends by itself");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..4000)
    }

    /// Bytes that look like chunks more often than random ones do.
    fn any_chunks() -> impl Strategy<Value = Vec<u8>> {
        let chunk = (0u8..4, 2u8..8, 0u32..600, prop::sample::select(vec![1u8, 2, 4, 5, 8, 9, 15, 17, 18, 20, 22]))
            .prop_flat_map(|(format, csid, len, type_id)| {
                prop::collection::vec(any::<u8>(), 0..130).prop_map(move |payload| {
                    let fields = [&[0, 0, 9][..], &len.to_be_bytes()[1..], &[type_id], &[1, 0, 0, 0]].concat();
                    let size = [11, 7, 3, 0][usize::from(format)];
                    [&[format << 6 | csid][..], &fields[..size], &payload].concat()
                })
            });
        (any::<u8>(), prop::collection::vec(chunk, 0..40))
            .prop_map(|(piece, chunks)| [vec![piece], chunks.concat()].concat())
    }

    proptest! {
        #[test]
        fn handshakes_survive_anything(data in any_bytes()) {
            super::handshake(&data);
        }

        #[test]
        fn sessions_survive_anything_behind_a_handshake(data in any_bytes()) {
            super::handshake(&[&[255][..], &[3; 1 + 2 * 1536], &data].concat());
        }

        #[test]
        fn chunk_readers_survive_anything(data in any_bytes(), chunks in any_chunks()) {
            super::chunk(&data);
            super::chunk(&chunks);
        }

        #[test]
        fn amf_survives_anything(data in prop::collection::vec(prop_oneof![0u8..18, any::<u8>()], 0..2000)) {
            super::amf(&data);
        }

        #[test]
        fn tags_survive_anything(data in prop::collection::vec(prop_oneof![Just(0x97), Just(0x17), any::<u8>()], 0..40)) {
            super::flv(&data);
        }
    }
}
