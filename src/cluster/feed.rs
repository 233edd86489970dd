//! The feed between two nodes: what the node that holds a publisher and the nodes that make its chunks say to each other.
//!
//! The gateway opens it with an HTTP/1.1 POST to the internal port ([`PATH`], [`CONTENT_TYPE`]), whose body does not end; neither
//! does the answer's. Both are frames of [`wire`]: the gateway's the marked packets on channel 0 and [`Control`]s, the node's
//! [`Told`]s. Each end says something at least every [`BEAT`], so that silence means that the other is gone. [`Sender`] and
//! [`Receiver`] are one end's halves; neither decides anything.

use std::{io, time::Duration};

use bytes::BytesMut;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::names::Names;
use crate::{
    media::{
        Message,
        wire::{self, Frame},
    },
    time::Timestamp,
};

/// Where a node takes feeds; the stream's id follows.
pub const PATH: &str = "/internal/v1/feed/";
/// Names the version: a node of another one refuses the feed and says which one it speaks.
pub const CONTENT_TYPE: &str = "application/x-weir-feed-1";
/// So much of a feed may be on its way inside a process, each way.
pub const ROOM: usize = 256 << 10;
/// Each end says something at least this often.
pub const BEAT: Duration = Duration::from_millis(250);
/// A node that says nothing for so long, or takes nothing, is gone.
pub const SILENCE: Duration = Duration::from_secs(1);
/// Finds out whether the other end is silent. What this process has slept itself (a stopped process, a machine that was moved)
/// says nothing of the other: its words wait in the socket.
#[derive(Debug)]
pub struct Silence {
    limit: Duration,
    heard: Timestamp,
    looked: Timestamp,
}

impl Silence {
    pub fn after(limit: Duration, now: Timestamp) -> Self {
        Self { limit, heard: now, looked: now }
    }

    pub fn hear(&mut self, now: Timestamp) {
        self.heard = now;
    }

    /// Whether it is; to be asked every [`BEAT`].
    pub fn is_over(&mut self, now: Timestamp) -> bool {
        let slept = (now - self.looked).saturating_sub(BEAT * 2);
        self.heard = (self.heard + slept).min(now);
        self.looked = now;
        now - self.heard > self.limit
    }
}

/// A gateway that says nothing for so long is gone. Longer than [`SILENCE`]: nothing can be done for its publisher anyway.
pub const GATEWAY_SILENCE: Duration = Duration::from_secs(3);
/// The channel of the feed itself, and that of the configs that belong to the next [`Control::Begin`].
pub const MEDIA: u8 = 0;
pub const CONFIGS: u8 = 1;
/// Bytes that are collected before they are written.
const PIECE: usize = 64 << 10;

/// What a gateway says. `S`, `B`, `P` and `W` are what lines know as settings, begin, plan and warning.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control<S, B, P, W> {
    /// The first word: whose feed this is.
    Follow(Follow<S>),
    /// How the epoch that comes next in the feed is to be made.
    Plan(P),
    /// Publish what you make. `turn` counts these orders: of two nodes that were told, the one that was told later leads.
    /// `listed`: the newest chunk number that viewers were shown; they are shown nothing older, and what they were shown keeps its
    /// name.
    Lead {
        turn: u32,
        listed: Option<u64>,
        #[serde(default, skip_serializing_if = "Names::is_empty")]
        names: Names,
    },
    /// Take the next epoch. Its configs came on [`CONFIGS`].
    Begin(B),
    Warning(W),
    /// Who else has to do with the session, for those who ask.
    Places(Places),
    /// Another node publishes the stream now.
    Leave,
    /// The publisher is gone; all it sent was said.
    End,
    Beat,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Follow<S> {
    /// Of two sessions of a stream the one with the greater number counts.
    pub order: u64,
    pub settings: S,
    /// Nominal chunk duration of the gateway: both must cut alike.
    pub chunk_ms: u32,
    /// The node that holds the publisher.
    pub gateway: String,
}

/// The nodes of a session beside the one that leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Holds the publisher.
    pub gateway: String,
    /// Stand by.
    pub standbys: Vec<String>,
}

/// What a node says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told<T, B> {
    /// How far its line is; at least every [`BEAT`].
    Standing {
        line: T,
        /// It is about to stop.
        draining: bool,
    },
    /// It publishes from now on.
    Led,
    /// It has taken an epoch.
    Begun(B),
    /// It cannot take this feed.
    Refused { why: String },
    /// A newer session has the stream, of this order, or this one may publish no more.
    Fenced { by: u64 },
}

/// The half that writes.
#[derive(Debug)]
pub struct Sender<W> {
    io: W,
    encoder: wire::Encoder,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    pub fn new(io: W) -> Self {
        Self { io, encoder: wire::Encoder::new(), buffer: BytesMut::new() }
    }

    /// Adds a word.
    pub fn say(&mut self, word: &impl Serialize) {
        let text = serde_json::to_vec(word).expect("words are plain data");
        // A word is far below the bound of a frame.
        let _ = self.put(Frame::Spec(text.into()));
    }

    /// Adds a message.
    ///
    /// # Errors
    /// It is too long for a frame.
    pub fn message(&mut self, channel: u8, message: Message) -> io::Result<()> {
        self.put(Frame::Message { channel, message }).map_err(io::Error::other)
    }

    fn put(&mut self, frame: Frame) -> Result<(), wire::Error> {
        let payload = self.encoder.encode(frame, &mut self.buffer)?;
        self.buffer.extend_from_slice(&payload);
        Ok(())
    }

    /// Whether so much was added that it should be written.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= PIECE
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// The other end is gone, or has not taken it within [`SILENCE`].
    pub async fn flush(&mut self) -> io::Result<()> {
        let write = async {
            self.io.write_all_buf(&mut self.buffer).await?;
            self.io.flush().await
        };
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "it takes nothing");
        tokio::time::timeout(SILENCE, write).await.map_err(silent)??;
        if self.buffer.capacity() > 16 * PIECE {
            // A large key frame's room is not kept.
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Writes what was added and says that nothing follows.
    pub async fn close(mut self) {
        let _ = self.flush().await;
        let _ = tokio::time::timeout(SILENCE, self.io.shutdown()).await;
    }
}

/// The half that reads.
#[derive(Debug)]
pub struct Receiver<R> {
    io: R,
    decoder: wire::Decoder,
}

/// One thing that was read.
#[derive(Debug)]
pub enum Item<C> {
    Word(C),
    /// A word of a newer version, or one with something in it that this one does not know, and what that is.
    Unknown(String),
    Message {
        channel: u8,
        message: Message,
    },
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    pub fn new(io: R) -> Self {
        Self { io, decoder: wire::Decoder::new() }
    }

    /// Waits for what comes next: all that is there, at least one thing; nothing at the end. Cancel safe.
    ///
    /// # Errors
    /// The connection is lost, or what came is no feed.
    pub async fn next<C: DeserializeOwned>(&mut self) -> io::Result<Option<Vec<Item<C>>>> {
        let mut items = Vec::new();
        loop {
            while let Some(frame) = self.decoder.poll().map_err(io::Error::other)? {
                match frame {
                    Frame::Spec(word) => {
                        let unknown = |why: serde_json::Error| Item::Unknown(why.to_string());
                        items.push(serde_json::from_slice(&word).map_or_else(unknown, Item::Word));
                    }
                    Frame::Message { channel, message } => items.push(Item::Message { channel, message }),
                    Frame::Drop { .. } => {}
                }
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
            self.decoder.buffer().reserve(PIECE);
            if self.io.read_buf(self.decoder.buffer()).await? == 0 {
                return match self.decoder.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_slept_itself_is_not_the_others_silence() {
        let at = |ms: u64| Timestamp(ms * 1000);
        let mut silence = Silence::after(SILENCE, at(0));
        for beat in 1..=4 {
            assert!(!silence.is_over(at(beat * 250)));
        }
        assert!(silence.is_over(at(1250)));
        silence.hear(at(1300));
        assert!(!silence.is_over(at(1500)));
        // Stopped for ten seconds: the other has the rest of its time.
        assert!(!silence.is_over(at(11_500)));
        assert!(!silence.is_over(at(11_750)));
        assert!(silence.is_over(at(12_500)) && silence.is_over(at(12_750)));
    }

    #[tokio::test]
    async fn words_and_messages_come_in_order_and_unknown_words_are_told_from_them() {
        type Word = Told<u8, ()>;
        let (one, other) = tokio::io::duplex(64);
        let (mut sender, mut receiver) = (Sender::new(one), Receiver::new(other));
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(items) = receiver.next::<Word>().await.unwrap() {
                all.extend(items.into_iter().map(|item| format!("{item:?}")));
            }
            all
        });
        sender.say(&Word::Standing { line: 7, draining: false });
        sender.say(&serde_json::json!({ "of_a_newer_version": 1 }));
        sender.message(MEDIA, Message::End { at: 9 }).unwrap();
        sender.say(&Word::Fenced { by: 3 });
        sender.flush().await.unwrap();
        sender.close().await;
        let all = read.await.unwrap();
        let want = ["Standing { line: 7", "of_a_newer_version", "End { at: 9 }", "Fenced"];
        assert_eq!(all.len(), want.len(), "{all:?}");
        assert!(all.iter().zip(want).all(|(item, want)| item.contains(want)), "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_nothing_is_given_up() {
        let (one, _other) = tokio::io::duplex(16);
        let mut sender = Sender::new(one);
        sender.say(&"a word that is longer than what fits");
        assert_eq!(sender.flush().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
