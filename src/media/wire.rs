//! The one framing of the feed: between nodes, to the transcoder child and back (DESIGN section 4).
//!
//! [`Frame`]s enter an [`Encoder`] and leave as bytes; a [`Decoder`] turns bytes back into them however they were split.
//! A stream begins with `WEIR` and a version; each frame is a length, a kind, a channel and a body, all big-endian. Only
//! one version is spoken: both ends are of the same release, or the stream is refused. Neither end does IO, and payloads
//! are not copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{AudioConfig, Epoch, Message, Mode, Packet, Track, VideoConfig};
use crate::{id::BroadcastId, time::UnixMs};

/// One thing on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// What a transcoder child is to do, as JSON.
    Spec(Bytes),
    /// One item of the feed; `channel` tells renditions apart, 0 is the input.
    Message { channel: u8, message: Message },
    /// Asks the transcoder to stop encoding a rung.
    Drop { channel: u8 },
}

/// Says why a stream cannot be read or a frame not be written. A stream is useless after the first error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a feed of this release: it starts with {0:02x?}")]
    Preamble([u8; 6]),
    #[error("frame of {0} bytes exceeds the limit of {FRAME_MAX}")]
    TooLong(usize),
    #[error("frame kind {0} is not known")]
    Kind(u8),
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
}

const PREAMBLE: [u8; 6] = *b"WEIR\x00\x01";
/// What the RTMP side accepts as one message, and a little for our own fields.
pub const FRAME_MAX: usize = 8 * 1024 * 1024 + 64;
/// Times beyond this, 25,000 years of ticks, are refused so that sums with them cannot overflow anywhere.
const TIME_MAX: i64 = 1 << 56;

const SPEC: u8 = 0;
const DROP: u8 = 1;
const EPOCH: u8 = 2;
const VIDEO: u8 = 3;
const AUDIO: u8 = 4;
const MODE: u8 = 5;
const PACKET: u8 = 6;
const END: u8 = 7;

const FLAG_AUDIO: u8 = 1;
const FLAG_KEY: u8 = 2;
const FLAG_MARK: u8 = 4;

/// Writes one stream.
#[derive(Debug, Default)]
pub struct Encoder {
    started: bool,
}

impl Encoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the head of a frame to `head` and gives the payload that must be written right behind it, perhaps empty.
    ///
    /// # Errors
    /// [`Error::TooLong`]; nothing was appended.
    pub fn encode(&mut self, frame: Frame, head: &mut BytesMut) -> Result<Bytes, Error> {
        let begin = head.len();
        if !self.started {
            head.put_slice(&PREAMBLE);
        }
        let at = head.len();
        head.put_u32(0);
        let payload = match frame {
            Frame::Spec(spec) => {
                head.put_slice(&[SPEC, 0]);
                spec
            }
            Frame::Drop { channel } => {
                head.put_slice(&[DROP, channel]);
                Bytes::new()
            }
            Frame::Message { channel, message } => write_message(channel, message, head),
        };
        let len = head.len() - at - 4 + payload.len();
        if len > FRAME_MAX {
            head.truncate(begin);
            return Err(Error::TooLong(len));
        }
        head[at..at + 4].copy_from_slice(&(len as u32).to_be_bytes());
        self.started = true;
        Ok(payload)
    }
}

/// Writes all of a message but the bytes that need no copy, which it gives back.
fn write_message(channel: u8, message: Message, head: &mut BytesMut) -> Bytes {
    match message {
        Message::Epoch(epoch) => {
            head.put_slice(&[EPOCH, channel]);
            head.put_u64(epoch.number);
            head.put_u64(epoch.k);
            head.put_i64(epoch.at);
            head.put_i64(epoch.wall.0);
            head.put_u8(epoch.discontinuity.into());
            head.put_slice(epoch.broadcast.as_str().as_bytes());
            Bytes::new()
        }
        Message::Video(config) => {
            head.put_slice(&[VIDEO, channel]);
            for side in [config.width, config.height, config.sar.0, config.sar.1] {
                head.put_u16(side);
            }
            let (num, den) = config.fps.unwrap_or_default();
            head.put_u32(num);
            head.put_u32(den);
            config.avcc
        }
        Message::Audio(config) => {
            head.put_slice(&[AUDIO, channel, config.object_type, config.channels]);
            head.put_u32(config.sample_rate);
            head.put_u32(config.frame_len);
            config.asc
        }
        Message::Mode { mode, target } => {
            let mode = match mode {
                Mode::Follow => 0,
                Mode::Reencode => 1,
                Mode::AudioOnly => 2,
            };
            head.put_slice(&[MODE, channel, mode]);
            head.put_u32(target);
            Bytes::new()
        }
        Message::Packet(packet) => {
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let flags = flag(packet.track == Track::Audio, FLAG_AUDIO)
                | flag(packet.key, FLAG_KEY)
                | flag(packet.mark.is_some(), FLAG_MARK);
            head.put_slice(&[PACKET, channel, flags]);
            head.put_i64(packet.pts);
            head.put_i64(packet.dts);
            if let Some(k) = packet.mark {
                head.put_u64(k);
            }
            packet.payload
        }
        Message::End { at } => {
            head.put_slice(&[END, channel]);
            head.put_i64(at);
            Bytes::new()
        }
    }
}

/// Reads one stream.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    started: bool,
    failed: Option<Error>,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the buffer to read into. It holds one unfinished frame at most when [`Decoder::poll`] has given `None`, so the
    /// caller bounds it by reading a bounded piece at a time.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Takes bytes, in any split.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Tells if the stream may end here: between two frames.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Gives the next whole frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The stream is not ours or broken. Every later call gives the same error.
    pub fn poll(&mut self) -> Result<Option<Frame>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read().inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn read(&mut self) -> Result<Option<Frame>, Error> {
        if !self.started {
            let Some(&preamble) = self.buffer.first_chunk::<6>() else { return Ok(None) };
            if preamble != PREAMBLE {
                return Err(Error::Preamble(preamble));
            }
            self.buffer.advance(6);
            self.started = true;
        }
        let Some(&len) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(len) as usize;
        if len > FRAME_MAX {
            return Err(Error::TooLong(len));
        }
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        read_frame(self.buffer.split_to(len).freeze()).map(Some)
    }
}

fn read_frame(mut body: Bytes) -> Result<Frame, Error> {
    let short = |_| Error::Malformed("it is too short");
    let body = &mut body;
    let kind = body.try_get_u8().map_err(short)?;
    let channel = body.try_get_u8().map_err(short)?;
    let message = match kind {
        SPEC => return Ok(Frame::Spec(std::mem::take(body))),
        DROP => {
            done(body)?;
            return Ok(Frame::Drop { channel });
        }
        EPOCH => {
            let number = body.try_get_u64().map_err(short)?;
            let k = body.try_get_u64().map_err(short)?;
            let at = time(body)?;
            let wall = UnixMs(body.try_get_i64().map_err(short)?);
            let discontinuity = flag(body.try_get_u8().map_err(short)?)?;
            let text = std::str::from_utf8(body).map_err(|_| Error::Malformed("broadcast id"))?;
            let broadcast = BroadcastId::new(text).map_err(|_| Error::Malformed("broadcast id"))?;
            Message::Epoch(Epoch { broadcast, number, k, at, wall, discontinuity })
        }
        VIDEO => {
            let mut sides = [0; 4];
            for side in &mut sides {
                *side = body.try_get_u16().map_err(short)?;
            }
            let fps = (body.try_get_u32().map_err(short)?, body.try_get_u32().map_err(short)?);
            if sides.contains(&0) || (fps.0 == 0) != (fps.1 == 0) {
                return Err(Error::Malformed("video config"));
            }
            let [width, height, sar_x, sar_y] = sides;
            let fps = (fps != (0, 0)).then_some(fps);
            Message::Video(VideoConfig { avcc: std::mem::take(body), width, height, sar: (sar_x, sar_y), fps })
        }
        AUDIO => {
            let object_type = body.try_get_u8().map_err(short)?;
            let channels = body.try_get_u8().map_err(short)?;
            let sample_rate = body.try_get_u32().map_err(short)?;
            let frame_len = body.try_get_u32().map_err(short)?;
            if sample_rate == 0 || frame_len == 0 || channels == 0 {
                return Err(Error::Malformed("audio config"));
            }
            Message::Audio(AudioConfig { asc: std::mem::take(body), object_type, sample_rate, channels, frame_len })
        }
        MODE => {
            let mode = match body.try_get_u8().map_err(short)? {
                0 => Mode::Follow,
                1 => Mode::Reencode,
                2 => Mode::AudioOnly,
                _ => return Err(Error::Malformed("mode")),
            };
            let target = body.try_get_u32().map_err(short)?;
            done(body)?;
            Message::Mode { mode, target }
        }
        PACKET => {
            let flags = body.try_get_u8().map_err(short)?;
            if flags & !(FLAG_AUDIO | FLAG_KEY | FLAG_MARK) != 0 {
                return Err(Error::Malformed("packet flags"));
            }
            let track = if flags & FLAG_AUDIO != 0 { Track::Audio } else { Track::Video };
            let (pts, dts) = (time(body)?, time(body)?);
            let mark = if flags & FLAG_MARK != 0 { Some(body.try_get_u64().map_err(short)?) } else { None };
            let payload = std::mem::take(body);
            Message::Packet(Packet { track, pts, dts, key: flags & FLAG_KEY != 0, mark, payload })
        }
        END => {
            let at = time(body)?;
            done(body)?;
            Message::End { at }
        }
        kind => return Err(Error::Kind(kind)),
    };
    Ok(Frame::Message { channel, message })
}

fn done(body: &Bytes) -> Result<(), Error> {
    if body.is_empty() { Ok(()) } else { Err(Error::Malformed("it is too long")) }
}

fn flag(byte: u8) -> Result<bool, Error> {
    if byte < 2 { Ok(byte == 1) } else { Err(Error::Malformed("a flag is neither 0 nor 1")) }
}

fn time(body: &mut Bytes) -> Result<i64, Error> {
    let time = body.try_get_i64().map_err(|_| Error::Malformed("it is too short"))?;
    if time.unsigned_abs() > TIME_MAX as u64 { Err(Error::Malformed("a time is out of range")) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn ticks() -> impl Strategy<Value = i64> {
        -TIME_MAX..=TIME_MAX
    }

    fn message() -> impl Strategy<Value = Message> {
        let epoch = ("[a-z0-9]{1,26}", any::<(u64, u64, i64, bool)>(), ticks()).prop_map(|(id, rest, at)| {
            let (number, k, wall, discontinuity) = rest;
            let broadcast = BroadcastId::new(&id).unwrap();
            Message::Epoch(Epoch { broadcast, number, k, at, wall: UnixMs(wall), discontinuity })
        });
        let side = || 1u16..;
        let fps = option::of((1u32.., 1u32..));
        let video = (bytes(40), side(), side(), (side(), side()), fps)
            .prop_map(|(avcc, width, height, sar, fps)| Message::Video(VideoConfig { avcc, width, height, sar, fps }));
        let audio = (bytes(10), any::<u8>(), 1u32.., 1u8.., 1u32..).prop_map(
            |(asc, object_type, sample_rate, channels, frame_len)| {
                Message::Audio(AudioConfig { asc, object_type, sample_rate, channels, frame_len })
            },
        );
        let mode = (prop::sample::select(&[Mode::Follow, Mode::Reencode, Mode::AudioOnly][..]), any::<u32>())
            .prop_map(|(mode, target)| Message::Mode { mode, target });
        let track = prop::sample::select(&[Track::Video, Track::Audio][..]);
        let packet = (track, ticks(), ticks(), any::<bool>(), option::of(any::<u64>()), bytes(300)).prop_map(
            |(track, pts, dts, key, mark, payload)| Message::Packet(Packet { track, pts, dts, key, mark, payload }),
        );
        let end = ticks().prop_map(|at| Message::End { at });
        prop_oneof![epoch, video, audio, mode, packet, end]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            1 => bytes(100).prop_map(Frame::Spec),
            1 => any::<u8>().prop_map(|channel| Frame::Drop { channel }),
            8 => (any::<u8>(), message()).prop_map(|(channel, message)| Frame::Message { channel, message }),
        ]
    }

    fn write(frames: &[Frame]) -> BytesMut {
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        for frame in frames {
            let payload = encoder.encode(frame.clone(), &mut out).unwrap();
            out.put_slice(&payload);
        }
        out
    }

    fn packet(payload: Bytes) -> Frame {
        let packet = Packet { track: Track::Video, pts: 5, dts: 3, key: true, mark: Some(9), payload };
        Frame::Message { channel: 1, message: Message::Packet(packet) }
    }

    #[test]
    fn the_bytes_are_these() {
        let golden = [
            &b"WEIR\x00\x01"[..],
            &[0, 0, 0, 29, 6, 1, 6],
            &[0, 0, 0, 0, 0, 0, 0, 5],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            &[0, 0, 0, 0, 0, 0, 0, 9],
            b"ab",
        ];
        assert_eq!(write(&[packet(Bytes::from_static(b"ab"))]), golden.concat());
    }

    #[test]
    fn payloads_are_not_copied() {
        let payload = Bytes::from(vec![7; 1000]);
        let mut head = BytesMut::new();
        let rest = Encoder::new().encode(packet(payload.clone()), &mut head).unwrap();
        assert_eq!(rest.as_ptr(), payload.as_ptr());

        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(&write(&[packet(payload)]));
        let place = decoder.buffer().as_ptr() as usize;
        let Ok(Some(Frame::Message { message: Message::Packet(packet), .. })) = decoder.poll() else { panic!() };
        assert!((place..place + 100).contains(&(packet.payload.as_ptr() as usize)));
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_both_ends() {
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        let huge = Frame::Spec(Bytes::from(vec![0; FRAME_MAX - 1]));
        assert_eq!(encoder.encode(huge, &mut out), Err(Error::TooLong(FRAME_MAX + 1)));
        assert!(out.is_empty());
        let largest = Frame::Spec(Bytes::from(vec![0; FRAME_MAX - 2]));
        let payload = encoder.encode(largest.clone(), &mut out).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&out);
        decoder.push(&payload);
        assert_eq!(decoder.poll(), Ok(Some(largest)));

        let mut decoder = Decoder::new();
        decoder.push(&PREAMBLE);
        decoder.push(&u32::MAX.to_be_bytes());
        assert_eq!(decoder.poll(), Err(Error::TooLong(u32::MAX as usize)));
        assert!(decoder.buffer().capacity() < 1000, "nothing is reserved for a claimed length");
    }

    #[test]
    fn a_stranger_is_refused_at_once() {
        let mut decoder = Decoder::new();
        decoder.push(b"GET /h");
        assert!(matches!(decoder.poll(), Err(Error::Preamble(_))));
        decoder.push(&write(&[]));
        assert!(decoder.poll().is_err(), "for good");
    }

    #[test]
    fn bad_bodies_are_errors() {
        let body = |kind: u8, rest: &[u8]| [&[kind, 0], rest].concat();
        let mut audio = vec![2, 2, 0, 0, 0, 0, 0, 0, 4, 0];
        for bad in [
            vec![],
            vec![DROP],
            body(DROP, &[0]),
            body(END, &[0; 7]),
            body(END, &[0; 9]),
            body(END, &[0x7f; 8]),
            body(MODE, &[3, 0, 0, 0, 2]),
            body(PACKET, &[8; 17]),
            body(PACKET, &[&[FLAG_MARK][..], &[0; 16]].concat()),
            body(VIDEO, &[0; 16]),
            body(AUDIO, &audio),
            body(EPOCH, &[0; 33]),
            body(EPOCH, &[&[0; 33][..], b"../x"].concat()),
            body(99, &[]),
        ] {
            assert!(read_frame(bad.clone().into()).is_err(), "{bad:?}");
        }
        audio[5] = 1;
        assert!(read_frame(body(AUDIO, &audio).into()).is_ok());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(frames in vec(frame(), 0..12), cuts in vec(1usize..60, 1..20)) {
            let whole = write(&frames);
            let mut decoder = Decoder::new();
            let (mut rest, mut read) = (&whole[..], Vec::new());
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at(rest.len().min(*cut));
                decoder.push(piece);
                while let Some(frame) = decoder.poll().unwrap() {
                    read.push(frame);
                }
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(read, frames);
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>) {
            crate::media::fuzz::wire(&data);
        }
    }
}
