//! The bytes of WebSocket (RFC 6455 section 5), server's side. Pure: bytes in, messages out. Headers are read and written by
//! `tungstenite`; it would keep buffers for every socket, of which there are many that idle.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

/// The longest message that a client may send, bytes.
pub const MESSAGE_MAX: usize = 8 << 10;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Text(String),
    Ping(Bytes),
    Pong,
    Close,
}

/// Why a client is closed, with the code that it is told (RFC 6455 section 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    pub code: CloseCode,
    pub why: &'static str,
}

const fn broken(code: CloseCode, why: &'static str) -> Broken {
    Broken { code, why }
}

/// Puts the frames of one client together. Holds no memory between two messages.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: BytesMut,
    /// A message of which not all frames have come.
    partial: Option<Vec<u8>>,
}

impl Assembler {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are kept of messages that are not whole.
    pub fn held(&self) -> usize {
        self.bytes.len() + self.partial.as_ref().map_or(0, Vec::len)
    }

    /// The next message, once it is whole.
    ///
    /// # Errors
    /// What came is not allowed: the connection is to be closed.
    pub fn poll(&mut self) -> Result<Option<Received>, Broken> {
        loop {
            let mut cursor = Cursor::new(&self.bytes[..]);
            let parsed = FrameHeader::parse(&mut cursor).map_err(|_| broken(CloseCode::Protocol, "no frame"))?;
            let Some((header, length)) = parsed else { return Ok(self.rest()) };
            let (begin, length) = (cursor.position() as usize, usize::try_from(length).unwrap_or(usize::MAX));
            let Some(mask) = header.mask else { return Err(broken(CloseCode::Protocol, "a frame without a mask")) };
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return Err(broken(CloseCode::Protocol, "an extension that was not agreed on"));
            }
            let held = self.partial.as_ref().map_or(0, Vec::len);
            if length.saturating_add(held) > MESSAGE_MAX {
                return Err(broken(CloseCode::Size, "a message is at most 8 KB"));
            }
            if self.bytes.len() < begin + length {
                return Ok(None);
            }
            let mut frame = self.bytes.split_to(begin + length).split_off(begin);
            frame.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            let received = match header.opcode {
                OpCode::Control(control) => Some(self.control(control, header.is_final, frame)?),
                OpCode::Data(data) => self.data(data, header.is_final, &frame)?,
            };
            if received.is_some() {
                // What is left over of the buffer is the next message's.
                return Ok(received);
            }
        }
    }

    /// Nothing whole is there. An empty buffer is given back.
    fn rest(&mut self) -> Option<Received> {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        None
    }

    fn control(&self, control: Control, is_final: bool, payload: BytesMut) -> Result<Received, Broken> {
        if !is_final || payload.len() > 125 {
            return Err(broken(CloseCode::Protocol, "a control frame is short and whole"));
        }
        match control {
            Control::Ping => Ok(Received::Ping(payload.freeze())),
            Control::Pong => Ok(Received::Pong),
            Control::Close => Ok(Received::Close),
            Control::Reserved(_) => Err(broken(CloseCode::Protocol, "an unknown frame")),
        }
    }

    fn data(&mut self, data: Data, is_final: bool, payload: &[u8]) -> Result<Option<Received>, Broken> {
        let mut text = match (data, self.partial.take()) {
            (Data::Text, None) => Vec::new(),
            (Data::Continue, Some(begun)) => begun,
            (Data::Binary, None) => return Err(broken(CloseCode::Unsupported, "messages are text")),
            (Data::Reserved(_), _) => return Err(broken(CloseCode::Protocol, "an unknown frame")),
            _ => return Err(broken(CloseCode::Protocol, "frames of a message follow each other")),
        };
        text.extend_from_slice(payload);
        if !is_final {
            self.partial = Some(text);
            return Ok(None);
        }
        let text = String::from_utf8(text).map_err(|_| broken(CloseCode::Invalid, "text is UTF-8"))?;
        Ok(Some(Received::Text(text)))
    }
}

/// A whole text message, as it goes over the wire.
pub fn text(payload: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Text), payload)
}

pub fn ping() -> Bytes {
    frame(OpCode::Control(Control::Ping), b"")
}

pub fn pong(payload: &[u8]) -> Bytes {
    frame(OpCode::Control(Control::Pong), payload)
}

/// A close frame with its reason, of which 123 bytes fit.
pub fn close(code: CloseCode, why: &str) -> Bytes {
    let mut payload = u16::from(code).to_be_bytes().to_vec();
    payload.extend_from_slice(&why.as_bytes()[..why.floor_char_boundary(123)]);
    frame(OpCode::Control(Control::Close), &payload)
}

fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(10 + payload.len());
    header.format(payload.len() as u64, &mut bytes).expect("a Vec takes it");
    bytes.extend_from_slice(payload);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client sends it.
    fn client(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 250];
        let mut bytes = vec![first];
        match payload.len() {
            n if n < 126 => bytes.push(0x80 | n as u8),
            n => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(n as u16).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Received>, Broken> {
        let mut assembler = Assembler::default();
        assembler.push(bytes);
        let mut all = Vec::new();
        while let Some(received) = assembler.poll()? {
            all.push(received);
        }
        Ok(all)
    }

    #[test]
    fn messages_are_put_together_with_control_frames_between_their_parts() {
        let bytes =
            [client(0x01, b"gr\xc3"), client(0x89, b"?"), client(0x00, b"\xbc"), client(0x80, b"n"), client(0x88, b"")];
        let want = [Received::Ping(Bytes::from_static(b"?")), Received::Text("grün".into()), Received::Close];
        assert_eq!(read(&bytes.concat()).unwrap(), want);
        // Byte by byte it is the same.
        let (mut assembler, mut all) = (Assembler::default(), Vec::new());
        for byte in bytes.concat() {
            assembler.push(&[byte]);
            all.extend(assembler.poll().unwrap());
        }
        assert_eq!(all, want);
        assert_eq!(assembler.poll(), Ok(None));
        assert_eq!(assembler.bytes.capacity(), 0);
        let long = "x".repeat(MESSAGE_MAX);
        assert_eq!(read(&client(0x81, long.as_bytes())).unwrap(), [Received::Text(long)]);
    }

    #[test]
    fn what_is_not_allowed_is_told_with_its_code() {
        let code = |bytes: &[u8]| read(bytes).unwrap_err().code;
        assert_eq!(code(&client(0x82, b"x")), CloseCode::Unsupported);
        assert_eq!(code(&client(0x81, b"\xff")), CloseCode::Invalid);
        assert_eq!(code(&[0x81, 0x01, b'x']), CloseCode::Protocol);
        assert_eq!(code(&client(0xc1, b"x")), CloseCode::Protocol);
        assert_eq!(code(&client(0x80, b"x")), CloseCode::Protocol);
        assert_eq!(code(&[client(0x01, b"x"), client(0x81, b"y")].concat()), CloseCode::Protocol);
        assert_eq!(code(&client(0x09, b"x")), CloseCode::Protocol);
        assert_eq!(code(&client(0x89, &[0; 126])), CloseCode::Protocol);
        assert_eq!(code(&client(0x83, b"x")), CloseCode::Protocol);
        // Its length alone is enough, whole or in parts.
        assert_eq!(code(&[0x81, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0, 1, 2, 3, 4]), CloseCode::Size);
        assert_eq!(code(&client(0x81, &[b'x'; MESSAGE_MAX + 1])), CloseCode::Size);
        let half = [b'x'; MESSAGE_MAX / 2 + 1];
        assert_eq!(code(&[client(0x01, &half), client(0x80, &half)].concat()), CloseCode::Size);
    }

    #[test]
    fn what_is_sent_has_no_mask() {
        assert_eq!(text(b"hi"), &b"\x81\x02hi"[..]);
        assert_eq!(text(&[b'x'; 300])[..4], [0x81, 126, 1, 44]);
        assert_eq!(close(CloseCode::Again, "later"), &b"\x88\x07\x03\xf5later"[..]);
        assert_eq!(close(CloseCode::Away, &"ü".repeat(100)).len(), 2 + 2 + 122);
        assert_eq!(pong(b"x"), &b"\x8a\x01x"[..]);
    }
}
