use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

/// A chunk of a message: its header format, the fields that format has, the bytes behind it.
fn chunk(
    format: u8,
    csid: u8,
    time: u32,
    length: usize,
    type_id: u8,
    extended: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let fields = [&time.to_be_bytes()[1..], &(length as u32).to_be_bytes()[1..], &[type_id], &[1, 0, 0, 0]].concat();
    let mut bytes = vec![format << 6 | csid];
    bytes.extend(&fields[..HEADER_SIZES[usize::from(format)]]);
    bytes.extend(extended.into_iter().flat_map(u32::to_be_bytes));
    bytes.extend(payload);
    bytes
}

fn read_all(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<RawMessage>, Error> {
    reader.push(Bytes::copy_from_slice(bytes));
    let mut messages = Vec::new();
    while let Some(message) = reader.poll()? {
        messages.push(message);
    }
    Ok(messages)
}

fn read(bytes: &[u8]) -> Result<Vec<RawMessage>, Error> {
    read_all(&mut Reader::default(), bytes)
}

fn times(bytes: &[u8]) -> Vec<u32> {
    read(bytes).unwrap().iter().map(|m| m.timestamp).collect()
}

#[test]
fn the_four_header_types_take_over_what_they_leave_out() {
    let bytes = [
        chunk(0, 4, 1000, 2, 9, None, b"aa"),
        chunk(1, 4, 40, 3, 8, None, b"bbb"),
        chunk(2, 4, 20, 0, 0, None, b"ccc"),
        chunk(3, 4, 0, 0, 0, None, b"ddd"),
    ];
    let message = |type_id, timestamp, payload: &'static [u8]| RawMessage {
        csid: 4,
        type_id,
        stream_id: 1,
        timestamp,
        payload: Bytes::from_static(payload),
    };
    assert_eq!(
        read(&bytes.concat()).unwrap(),
        [message(9, 1000, b"aa"), message(8, 1040, b"bbb"), message(8, 1060, b"ccc"), message(8, 1080, b"ddd")]
    );
    // The time of a type 0 header is the delta of a type 3 header behind it, as ffmpeg and GStreamer write it.
    assert_eq!(times(&[chunk(0, 4, 23, 1, 8, None, b"a"), chunk(3, 4, 0, 0, 0, None, b"b")].concat()), [23, 46]);
}

#[test]
fn chunk_stream_ids_have_three_lengths() {
    let rest = &chunk(0, 0, 0, 1, 8, None, b"x")[1..];
    for (id, csid) in
        [(&[5][..], 5), (&[63], 63), (&[0, 0], 64), (&[0, 255], 319), (&[1, 0, 1], 320), (&[1, 255, 255], 65_599)]
    {
        assert_eq!(read(&[id, rest].concat()).unwrap()[0].csid, csid);
    }
}

#[test]
fn messages_of_several_chunk_streams_interleave() {
    let (video, audio) = ([7; 300], [8; 200]);
    let bytes = [
        chunk(0, 4, 10, 300, 9, None, &video[..128]),
        chunk(0, 6, 12, 200, 8, None, &audio[..128]),
        chunk(3, 4, 0, 0, 0, None, &video[128..256]),
        chunk(3, 6, 0, 0, 0, None, &audio[128..]),
        chunk(3, 4, 0, 0, 0, None, &video[256..]),
    ];
    let messages = read(&bytes.concat()).unwrap();
    assert_eq!((messages[0].timestamp, &messages[0].payload[..]), (12, &audio[..]));
    assert_eq!((messages[1].timestamp, &messages[1].payload[..]), (10, &video[..]));
}

#[test]
fn extended_timestamps_are_read_in_every_style() {
    let payload = [5; 300];
    for at in [EXTENDED - 1, EXTENDED, EXTENDED + 1, u32::MAX] {
        let (field, ext) = if at >= EXTENDED { (EXTENDED, Some(at)) } else { (at, None) };
        // Repeated in continuations as the specification says, or left out as old publishers do.
        for repeated in [ext, None] {
            let bytes = [
                chunk(0, 4, field, 300, 9, ext, &payload[..128]),
                chunk(3, 4, 0, 0, 0, repeated, &payload[128..256]),
                chunk(3, 4, 0, 0, 0, repeated, &payload[256..]),
                chunk(2, 4, 40, 0, 0, None, &payload[..128]),
                chunk(3, 4, 0, 0, 0, None, &payload[128..256]),
                chunk(3, 4, 0, 0, 0, None, &payload[256..]),
            ];
            let messages = read(&bytes.concat()).unwrap();
            assert_eq!(messages.iter().map(|m| m.timestamp).collect::<Vec<_>>(), [at, at.wrapping_add(40)]);
            assert!(messages.iter().all(|m| m.payload[..] == payload), "{at:#x} {repeated:?}");
        }
    }
    // A delta that needs 32 bits, and continuations that repeat the absolute time instead.
    let bytes = [
        chunk(0, 4, 1000, 1, 9, None, b"x"),
        chunk(1, 4, EXTENDED, 200, 9, Some(EXTENDED + 5), &payload[..128]),
        chunk(3, 4, 0, 0, 0, Some(EXTENDED + 1005), &payload[128..200]),
    ];
    assert_eq!(times(&bytes.concat()), [1000, EXTENDED + 1005]);
    // A 32-bit field that holds a small number, and a delta that goes back.
    let bytes = [
        chunk(0, 4, EXTENDED, 1, 9, Some(50), b"x"),
        chunk(2, 4, EXTENDED, 1, 9, Some(0u32.wrapping_sub(20)), b"x"),
        chunk(3, 4, 0, 0, 0, Some(0u32.wrapping_sub(20)), b"x"),
    ];
    assert_eq!(times(&bytes.concat()), [50, 30, 10]);
}

#[test]
fn control_messages_change_the_reading_and_stay_inside() {
    let bytes = [
        chunk(0, 2, 0, 4, SET_CHUNK_SIZE, None, &300u32.to_be_bytes()),
        chunk(0, 4, 0, 300, 9, None, &[1; 300]),
        // Half a message, given up.
        chunk(0, 4, 0, 600, 9, None, &[2; 300]),
        chunk(0, 2, 0, 4, ABORT, None, &4u32.to_be_bytes()),
        chunk(0, 4, 0, 2, 9, None, &[3; 2]),
    ];
    let mut reader = Reader::default();
    let messages = read_all(&mut reader, &bytes.concat()).unwrap();
    assert_eq!(messages.iter().map(|m| m.payload.len()).collect::<Vec<_>>(), [300, 2]);
    assert!(!reader.is_mid_message());
    assert_eq!(reader.partial_bytes, 0);
}

#[test]
fn every_limit_is_an_error_when_crossed_and_not_before() {
    let size = |size: u32| read(&chunk(0, 2, 0, 4, SET_CHUNK_SIZE, None, &size.to_be_bytes()));
    for legal in [128, 4096, 1 << 20] {
        assert_eq!(size(legal), Ok(vec![]));
    }
    for illegal in [0, 1, 127, (1 << 20) + 1, 1 << 31, u32::MAX] {
        assert_eq!(size(illegal), Err(Error::ChunkSize(illegal)));
    }
    assert_eq!(read(&chunk(0, 2, 0, 3, SET_CHUNK_SIZE, None, &[0; 3])), Err(Error::ShortControl));

    for format in 1..4 {
        assert_eq!(read(&chunk(format, 4, 0, 1, 9, None, b"x")), Err(Error::NoPreviousHeader { csid: 4, format }));
    }

    let header = |length| read(&chunk(0, 4, 0, length, 9, None, b""));
    assert_eq!(header(64 << 10), Ok(vec![]));
    assert_eq!(header((64 << 10) + 1), Err(Error::MessageTooBig { length: (64 << 10) + 1, limit: 64 << 10 }));
    let mut reader = Reader::new(Limits::AFTER_AUTH);
    assert_eq!(read_all(&mut reader, &chunk(0, 4, 0, 8 << 20, 9, None, b"")), Ok(vec![]));
    let mut reader = Reader::new(Limits::AFTER_AUTH);
    assert!(read_all(&mut reader, &chunk(0, 4, 0, (8 << 20) + 1, 9, None, b"")).is_err());

    let streams = |n: u8| {
        read(&(0..n).flat_map(|i| [&[0, i], &chunk(0, 0, 0, 0, 9, None, b"")[1..]].concat()).collect::<Vec<_>>())
    };
    assert_eq!(streams(64).map(|m| m.len()), Ok(64));
    assert_eq!(streams(65), Err(Error::TooManyChunkStreams));

    let partial = |n: u8| read(&(0..n).flat_map(|i| chunk(0, 3 + i, 0, 200, 9, None, &[0; 128])).collect::<Vec<_>>());
    assert_eq!(partial(8), Ok(vec![]));
    assert_eq!(partial(9), Err(Error::TooManyPartialMessages));

    let mut bytes = chunk(0, 2, 0, 4, SET_CHUNK_SIZE, None, &(60_000u32).to_be_bytes());
    bytes.extend((0..3).flat_map(|i| chunk(0, 3 + i, 0, 61_000, 9, None, &[0; 60_000])));
    assert_eq!(read(&bytes), Err(Error::PartialBytes { limit: 128 << 10 }));
}

#[test]
fn a_header_within_a_message_must_describe_the_same_message() {
    let first = chunk(0, 4, 10, 200, 9, None, &[1; 128]);
    for again in [chunk(0, 4, 10, 200, 9, None, &[1; 72]), chunk(1, 4, 0, 200, 9, None, &[1; 72])] {
        assert_eq!(times(&[&first[..], &again].concat()), [10]);
    }
    for other in
        [chunk(0, 4, 10, 100, 9, None, b""), chunk(1, 4, 0, 300, 9, None, b""), chunk(1, 4, 0, 200, 8, None, b"")]
    {
        assert_eq!(read(&[&first[..], &other].concat()), Err(Error::HeaderWithinMessage { csid: 4 }));
    }
}

#[test]
fn announced_lengths_cost_no_memory_before_the_bytes_come() {
    let mut reader = Reader::new(Limits::AFTER_AUTH);
    let bytes: Vec<u8> = (0..8).flat_map(|i| chunk(0, 3 + i, 0, 8 << 20, 9, None, &[0; 128])).collect();
    read_all(&mut reader, &bytes).unwrap();
    let reserved: usize = reader.streams.iter().filter_map(|s| s.partial.as_ref()).map(BytesMut::capacity).sum();
    assert!(reserved <= 8 * Limits::AFTER_AUTH.reserve, "{reserved}");
}

#[test]
fn messages_share_allocations_until_one_is_aborted() {
    let mut reader = Reader::new(Limits::AFTER_AUTH);
    let audio = chunk(0, 4, 0, 3, 8, None, b"abc");
    let messages = read_all(&mut reader, &audio.repeat(2)).unwrap();
    assert!(messages.iter().all(|m| !m.payload.is_unique()));
    let abort = [chunk(0, 5, 0, 64 << 10, 9, None, &[0; 128]), chunk(0, 2, 0, 4, ABORT, None, &5u32.to_be_bytes())];
    let messages = read_all(&mut reader, &[abort.concat(), audio.repeat(2)].concat()).unwrap();
    assert_eq!(messages.len(), 2);
    assert!(messages.iter().all(|m| m.payload.is_unique()));
}

/// A type of message, those still to be written, and the rest of the one under way with its extended timestamp.
type Lane = (u8, std::vec::IntoIter<(u32, Vec<u8>)>, Option<(Option<u32>, Vec<u8>)>);

/// Writes messages as a publisher might: chunks of `chunk_size`, several messages under way at once.
fn write(messages: &[(u8, u32, Vec<u8>)], chunk_size: usize, order: &[u8], repeat_extended: bool) -> Vec<u8> {
    let mut bytes = chunk(0, 2, 0, 4, SET_CHUNK_SIZE, None, &(chunk_size as u32).to_be_bytes());
    // One chunk stream for each type of message; its messages follow each other.
    let mut lanes: Vec<Lane> = [8u8, 9, 18]
        .iter()
        .map(|&type_id| {
            let own = messages.iter().filter(|m| m.0 == type_id).map(|m| (m.1, m.2.clone())).collect::<Vec<_>>();
            (type_id, own.into_iter(), None)
        })
        .collect();
    let mut turns = order.iter().cycle();
    while lanes.iter().any(|l| l.1.len() > 0 || l.2.is_some()) {
        let lane = usize::from(*turns.next().unwrap_or(&0)) % 3;
        let lane = if lanes[lane].1.len() > 0 || lanes[lane].2.is_some() {
            lane
        } else {
            lanes.iter().position(|l| l.1.len() > 0 || l.2.is_some()).unwrap()
        };
        let (type_id, waiting, open) = &mut lanes[lane];
        let csid = *type_id - 4;
        let (extended, rest) = match open.take() {
            Some((extended, rest)) => {
                bytes.extend(chunk(3, csid, 0, 0, 0, extended.filter(|_| repeat_extended), b""));
                (extended, rest)
            }
            None => {
                let (time, payload) = waiting.next().unwrap();
                let extended = (time >= EXTENDED).then_some(time);
                bytes.extend(chunk(0, csid, time.min(EXTENDED), payload.len(), *type_id, extended, b""));
                (extended, payload)
            }
        };
        let (now, later) = rest.split_at(rest.len().min(chunk_size));
        bytes.extend(now);
        if !later.is_empty() {
            *open = Some((extended, later.to_vec()));
        }
    }
    bytes
}

fn any_messages() -> impl Strategy<Value = Vec<(u8, u32, Vec<u8>)>> {
    let time = prop_oneof![0u32..100_000, EXTENDED - 2..EXTENDED + 2, any::<u32>()];
    let bytes = |len| prop::collection::vec(any::<u8>(), len);
    let payload = prop_oneof![bytes(0..10), bytes(100..140), bytes(0..3000)];
    prop::collection::vec((prop::sample::select(vec![8u8, 9, 18]), time, payload), 0..12)
}

proptest! {
    #[test]
    fn any_split_and_interleaving_gives_the_same_messages(
        messages in any_messages(),
        chunk_size in 128usize..2000,
        order in prop::collection::vec(any::<u8>(), 1..40),
        repeat_extended in any::<bool>(),
        pieces in prop::collection::vec(1usize..700, 1..20),
    ) {
        let bytes = write(&messages, chunk_size, &order, repeat_extended);
        let whole = read(&bytes).unwrap();
        for type_id in [8, 9, 18] {
            let sent: Vec<_> = messages.iter().filter(|m| m.0 == type_id).map(|m| (m.1, &m.2[..])).collect();
            let got: Vec<_> = whole.iter().filter(|m| m.type_id == type_id).map(|m| (m.timestamp, &m.payload[..])).collect();
            prop_assert_eq!(sent, got);
        }

        let mut reader = Reader::default();
        let (mut rest, mut split) = (&bytes[..], Vec::new());
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*piece));
            split.extend(read_all(&mut reader, now).unwrap());
            rest = later;
        }
        prop_assert_eq!(split, whole);
        prop_assert_eq!(reader.unread(), 0);
    }
}
