//! The chunk reader: bytes of a connection in, whole RTMP messages out (RTMP 1.0 section 5.3).
//!
//! Sans-IO and written against a hostile peer: every limit is checked when a header announces something, before memory is
//! given, and memory follows the bytes that came, not the bytes that were announced. Set Chunk Size and Abort change how
//! the next chunk is read, so they are obeyed here and do not leave. Never looks into any other message.

use bytes::{Buf, Bytes, BytesMut};

/// Chunk sizes below the protocol's default only cost work; larger than 1 MiB no publisher needs.
const CHUNK_SIZES: std::ops::RangeInclusive<u32> = 128..=1024 * 1024;
/// Publishers use five; a table this small is searched faster than hashed.
const CHUNK_STREAMS_MAX: usize = 64;
/// Audio, video, data and control may interleave; nobody has more than one of each under way.
const PARTIAL_MESSAGES_MAX: usize = 8;
/// The 24-bit timestamp that says that 32 bits follow the header.
const EXTENDED: u32 = 0xff_ffff;
const HEADER_SIZES: [usize; 4] = [11, 7, 3, 0];

const SET_CHUNK_SIZE: u8 = 1;
const ABORT: u8 = 2;

/// Why the bytes cannot be a legal chunk stream; always the peer's fault. The reader is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a chunk of type {format} is the first of chunk stream {csid}")]
    NoPreviousHeader { csid: u32, format: u8 },
    #[error("more than {CHUNK_STREAMS_MAX} chunk streams")]
    TooManyChunkStreams,
    #[error("a message of {length} bytes, the limit is {limit}")]
    MessageTooBig { length: usize, limit: usize },
    #[error("more than {PARTIAL_MESSAGES_MAX} unfinished messages")]
    TooManyPartialMessages,
    #[error("more than {limit} bytes of unfinished messages")]
    PartialBytes { limit: usize },
    #[error("a new message header within a message on chunk stream {csid}")]
    HeaderWithinMessage { csid: u32 },
    #[error("chunk size {0}, legal are 128 to 1048576")]
    ChunkSize(u32),
    #[error("a control message shorter than 4 bytes")]
    ShortControl,
}

/// How much a peer may ask of the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message.
    pub message: usize,
    /// Bytes received of all unfinished messages together.
    pub partial_bytes: usize,
    /// Bytes given to a message when its header comes; beyond it memory at most doubles what was received.
    pub reserve: usize,
    /// Messages that fit share allocations of this size: a stream's messages come in a row and go in a row.
    pub slab: usize,
}

impl Limits {
    /// For a peer that has shown no valid stream key: room for commands.
    pub const BEFORE_AUTH: Limits = Limits { message: 64 << 10, partial_bytes: 128 << 10, reserve: 4 << 10, slab: 0 };
    /// For a publisher: a keyframe of 8 MiB is more than 4K intra-only needs.
    pub const AFTER_AUTH: Limits =
        Limits { message: 8 << 20, partial_bytes: 16 << 20, reserve: 256 << 10, slab: 128 << 10 };
}

/// One whole message, its payload not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    pub csid: u32,
    pub type_id: u8,
    pub stream_id: u32,
    /// Milliseconds of the peer's clock, modulo 2^32.
    pub timestamp: u32,
    pub payload: Bytes,
}

struct ChunkStream {
    csid: u32,
    timestamp: u32,
    /// The time in the last header that had one: absolute in type 0, else a delta. A type 3 header repeats it.
    field: u32,
    extended: bool,
    length: usize,
    type_id: u8,
    stream_id: u32,
    /// What came of the message under way.
    partial: Option<BytesMut>,
}

/// Takes bytes in any split, gives messages in the order in which they are completed.
pub struct Reader {
    inbox: Bytes,
    /// Room for the next messages.
    slab: BytesMut,
    streams: Vec<ChunkStream>,
    chunk_size: usize,
    limits: Limits,
    partial_messages: usize,
    partial_bytes: usize,
    /// The chunk whose payload is being read: its place in `streams` and the bytes still to come.
    open: Option<(usize, usize)>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(Limits::BEFORE_AUTH)
    }
}

impl Reader {
    pub fn new(limits: Limits) -> Self {
        Self {
            inbox: Bytes::new(),
            slab: BytesMut::new(),
            streams: Vec::new(),
            chunk_size: 128,
            limits,
            partial_messages: 0,
            partial_bytes: 0,
            open: None,
        }
    }

    /// Changes the limits for the headers that were not read yet.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds bytes from the peer. Cheap when [`poll`](Self::poll) has returned `None` since the last push: then at most a
    /// part of a header is left to be copied.
    pub fn push(&mut self, data: Bytes) {
        if self.inbox.is_empty() {
            self.inbox = data;
        } else {
            let mut joined = BytesMut::with_capacity(self.inbox.len() + data.len());
            joined.extend_from_slice(&self.inbox);
            joined.extend_from_slice(&data);
            self.inbox = joined.freeze();
        }
    }

    /// Gives the bytes that were pushed and not read yet.
    pub fn unread(&self) -> usize {
        self.inbox.len()
    }

    /// Tells whether a message is under way.
    pub fn is_mid_message(&self) -> bool {
        self.partial_messages > 0
    }

    /// Gives the next whole message, `None` when more bytes are needed.
    pub fn poll(&mut self) -> Result<Option<RawMessage>, Error> {
        loop {
            let (index, left) = match self.open {
                Some(open) => open,
                None => match self.header()? {
                    Some(index) => {
                        let stream = &self.streams[index];
                        let received = stream.partial.as_ref().map_or(0, BytesMut::len);
                        (index, self.chunk_size.min(stream.length - received))
                    }
                    None => return Ok(None),
                },
            };
            let take = left.min(self.inbox.len());
            self.append(index, take)?;
            if take < left {
                self.open = Some((index, left - take));
                return Ok(None);
            }
            self.open = None;
            if let Some(message) = self.complete(index)? {
                return Ok(Some(message));
            }
        }
    }

    /// Reads one chunk header and begins its message if it starts one; `None` when the header is not whole yet.
    fn header(&mut self) -> Result<Option<usize>, Error> {
        let data = &self.inbox[..];
        let Some(&first) = data.first() else { return Ok(None) };
        let format = first >> 6;
        let (csid, mut at) = match (first & 0x3f, data) {
            (0, [_, low, ..]) => (64 + u32::from(*low), 2),
            (1, [_, low, high, ..]) => (64 + u32::from(*low) + (u32::from(*high) << 8), 3),
            (0 | 1, _) => return Ok(None),
            (csid, _) => (u32::from(csid), 1),
        };
        let known = self.streams.iter().position(|s| s.csid == csid);
        if known.is_none() {
            if format != 0 {
                return Err(Error::NoPreviousHeader { csid, format });
            }
            if self.streams.len() == CHUNK_STREAMS_MAX {
                return Err(Error::TooManyChunkStreams);
            }
        }
        let Some(fields) = data[at..].get(..HEADER_SIZES[usize::from(format)]) else { return Ok(None) };
        at += fields.len();

        let mut stream = match known {
            Some(index) => Header::of(&self.streams[index]),
            None => Header::default(),
        };
        if let [a, b, c, rest @ ..] = fields {
            stream.field = u32::from_be_bytes([0, *a, *b, *c]);
            stream.extended = stream.field == EXTENDED;
            if let [a, b, c, type_id, rest @ ..] = rest {
                stream.length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                stream.type_id = *type_id;
                if let [a, b, c, d] = rest {
                    stream.stream_id = u32::from_le_bytes([*a, *b, *c, *d]);
                }
            }
            if stream.extended {
                let Some(value) = data[at..].first_chunk::<4>() else { return Ok(None) };
                stream.field = u32::from_be_bytes(*value);
                at += 4;
            }
        } else if stream.extended {
            // The specification repeats the extended timestamp in type 3 chunks; older publishers do not, and some repeat
            // the absolute time where the header had a delta. Only the value itself can tell.
            let expected = [stream.field, stream.timestamp].map(u32::to_be_bytes);
            let here = &data[at..data.len().min(at + 4)];
            if expected.iter().any(|e| e.starts_with(here)) {
                if here.len() < 4 {
                    return Ok(None);
                }
                at += 4;
            }
        }

        let index = match known {
            Some(index) if self.streams[index].partial.is_some() => {
                // Some publishers repeat a full header for every chunk of a message; one that describes another message
                // would have two lengths fight over one buffer.
                let old = &self.streams[index];
                if (old.length, old.type_id, old.stream_id) != (stream.length, stream.type_id, stream.stream_id) {
                    return Err(Error::HeaderWithinMessage { csid });
                }
                stream.timestamp = old.timestamp;
                stream.store(&mut self.streams[index]);
                index
            }
            _ => {
                if stream.length > self.limits.message {
                    return Err(Error::MessageTooBig { length: stream.length, limit: self.limits.message });
                }
                if self.partial_messages == PARTIAL_MESSAGES_MAX {
                    return Err(Error::TooManyPartialMessages);
                }
                stream.timestamp = if format == 0 { stream.field } else { stream.timestamp.wrapping_add(stream.field) };
                let index = known.unwrap_or(self.streams.len());
                if known.is_none() {
                    self.streams.push(ChunkStream::new(csid));
                }
                stream.store(&mut self.streams[index]);
                self.streams[index].partial = Some(self.room(stream.length.min(self.limits.reserve)));
                self.partial_messages += 1;
                index
            }
        };
        self.inbox.advance(at);
        Ok(Some(index))
    }

    /// Gives room for a message, among those before it when it is small.
    fn room(&mut self, len: usize) -> BytesMut {
        if len > self.limits.slab / 2 {
            return BytesMut::with_capacity(len);
        }
        if self.slab.capacity() < len {
            self.slab = BytesMut::with_capacity(self.limits.slab);
        }
        let rest = self.slab.split_off(len);
        std::mem::replace(&mut self.slab, rest)
    }

    fn append(&mut self, index: usize, take: usize) -> Result<(), Error> {
        if self.partial_bytes + take > self.limits.partial_bytes {
            return Err(Error::PartialBytes { limit: self.limits.partial_bytes });
        }
        let stream = &mut self.streams[index];
        let payload = stream.partial.as_mut().expect("an open chunk belongs to a message under way");
        if payload.capacity() - payload.len() < take {
            let more = take.max(payload.len()).min(stream.length - payload.len());
            payload.reserve(more);
        }
        payload.extend_from_slice(&self.inbox[..take]);
        self.inbox.advance(take);
        if self.inbox.is_empty() {
            // Even an empty slice would keep the socket's buffer from being used again.
            self.inbox = Bytes::new();
        }
        self.partial_bytes += take;
        Ok(())
    }

    /// Ends the message of a chunk stream if all of it came, and obeys it if it is for the reader.
    fn complete(&mut self, index: usize) -> Result<Option<RawMessage>, Error> {
        let stream = &mut self.streams[index];
        let Some(payload) = stream.partial.take_if(|p| p.len() == stream.length) else { return Ok(None) };
        self.partial_messages -= 1;
        self.partial_bytes -= payload.len();
        let (csid, type_id, stream_id, timestamp) = (stream.csid, stream.type_id, stream.stream_id, stream.timestamp);
        match type_id {
            SET_CHUNK_SIZE => {
                let size = control_value(&payload)?;
                if !CHUNK_SIZES.contains(&size) {
                    return Err(Error::ChunkSize(size));
                }
                self.chunk_size = size as usize;
                Ok(None)
            }
            ABORT => {
                let csid = control_value(&payload)?;
                let dropped = self.streams.iter_mut().find(|s| s.csid == csid).and_then(|s| s.partial.take());
                if let Some(dropped) = dropped {
                    self.partial_messages -= 1;
                    self.partial_bytes -= dropped.len();
                    // Whoever announces and aborts could have each small message pin an allocation for itself alone.
                    self.limits.slab = 0;
                }
                Ok(None)
            }
            _ => Ok(Some(RawMessage { csid, type_id, stream_id, timestamp, payload: payload.freeze() })),
        }
    }
}

/// What a chunk header says, with what it leaves out taken from the one before.
#[derive(Clone, Copy, Default)]
struct Header {
    timestamp: u32,
    field: u32,
    extended: bool,
    length: usize,
    type_id: u8,
    stream_id: u32,
}

impl Header {
    fn of(stream: &ChunkStream) -> Self {
        let &ChunkStream { timestamp, field, extended, length, type_id, stream_id, .. } = stream;
        Self { timestamp, field, extended, length, type_id, stream_id }
    }

    fn store(self, stream: &mut ChunkStream) {
        stream.timestamp = self.timestamp;
        stream.field = self.field;
        stream.extended = self.extended;
        stream.length = self.length;
        stream.type_id = self.type_id;
        stream.stream_id = self.stream_id;
    }
}

impl ChunkStream {
    fn new(csid: u32) -> Self {
        Self { csid, timestamp: 0, field: 0, extended: false, length: 0, type_id: 0, stream_id: 0, partial: None }
    }
}

fn control_value(payload: &[u8]) -> Result<u32, Error> {
    payload.first_chunk::<4>().map(|v| u32::from_be_bytes(*v)).ok_or(Error::ShortControl)
}

#[cfg(test)]
mod tests;
