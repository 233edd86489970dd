//! The replay ring: the last chunks' worth of a line's feed, for whoever joins late.
//!
//! The line pushes every [`Message`]; readers pull at their own pace. The ring keeps the last [`CHUNKS`] chunks and, before
//! them, what it takes to decode the oldest of them (back to an IDR), within a bound of bytes. It is also the queue between
//! a line and its transcoder: a reader that is too slow falls out of the ring and is told so, it never holds up the line.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{AudioConfig, Epoch, Message, Mode, Track, VideoConfig};

/// Whole chunks kept behind the one that is being filled.
const CHUNKS: usize = 3;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the next message.
    Live,
    /// At the IDR from which chunk `k` can be decoded; waits when chunk `k` has not begun.
    Chunk(u64),
    /// At the IDR of the oldest chunk that can be decoded.
    Oldest,
}

/// What the reader wants is no longer here. The oldest chunk that is can be joined, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader fell behind the replay ring")]
pub struct Lagged {
    pub oldest_k: Option<u64>,
}

/// The messages a reader needs before packets.
#[derive(Debug, Clone, Default)]
struct Preamble {
    epoch: Option<Epoch>,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    mode: Option<(Mode, u32)>,
}

impl Preamble {
    fn take(&mut self, message: &Message) {
        match message {
            Message::Epoch(epoch) => *self = Self { epoch: Some(epoch.clone()), ..Self::default() },
            Message::Video(config) => self.video = Some(config.clone()),
            Message::Audio(config) => self.audio = Some(config.clone()),
            Message::Mode { mode, target } => self.mode = Some((*mode, *target)),
            Message::Packet(_) | Message::End { .. } => {}
        }
    }

    fn messages(&self) -> impl Iterator<Item = Message> {
        let mode = self.mode.map(|(mode, target)| Message::Mode { mode, target });
        let (video, audio) = (self.video.clone().map(Message::Video), self.audio.clone().map(Message::Audio));
        [self.epoch.clone().map(Message::Epoch), video, audio, mode].into_iter().flatten()
    }
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    /// Number of the first message, counted since the ring was made.
    first: u64,
    bytes: usize,
    /// What came before the first message.
    preamble: Preamble,
}

/// The writer's end; clones make readers.
#[derive(Debug, Clone)]
pub struct Ring {
    state: Arc<Mutex<State>>,
    pushed: Arc<watch::Sender<u64>>,
    bytes_max: usize,
}

impl Ring {
    /// Makes a ring that holds at most `bytes_max` bytes of payload, and always the newest message.
    pub fn new(bytes_max: usize) -> Self {
        Self { state: Arc::default(), pushed: Arc::new(watch::Sender::new(0)), bytes_max }
    }

    /// Appends a message and lets the oldest go.
    pub fn push(&self, message: Message) {
        let next = {
            let mut state = self.state.lock().expect("no panic while held");
            state.bytes += size(&message);
            let mark = matches!(&message, Message::Packet(packet) if packet.mark.is_some());
            state.messages.push_back(message);
            if mark {
                state.trim();
            }
            while state.bytes > self.bytes_max && state.messages.len() > 1 {
                state.drop_first();
            }
            state.first + state.messages.len() as u64
        };
        self.pushed.send_replace(next);
    }

    /// The newest message.
    pub fn last(&self) -> Option<Message> {
        self.state.lock().expect("no panic while held").messages.back().cloned()
    }

    /// The chunks that can be joined, oldest first: those whose start is here with an IDR to decode it from.
    pub fn boundaries(&self) -> Vec<u64> {
        let state = self.state.lock().expect("no panic while held");
        state.joints().into_iter().map(|joint| joint.k).collect()
    }

    /// Makes a reader.
    pub fn reader(&self, from: From) -> Reader {
        Reader {
            ring: self.clone(),
            pushed: self.pushed.subscribe(),
            from: Some(from),
            queued: VecDeque::new(),
            next: 0,
        }
    }
}

/// A chunk start that can be joined.
struct Joint {
    k: u64,
    /// Index of the IDR (or audio frame) to begin with.
    begin: usize,
}

impl State {
    fn joints(&self) -> Vec<Joint> {
        let (mut joints, mut begin) = (Vec::new(), None);
        for (at, message) in self.messages.iter().enumerate() {
            match message {
                Message::Epoch(_) => begin = None,
                Message::Packet(packet) => {
                    if packet.key && (packet.track == Track::Video || packet.mark.is_some()) {
                        begin = Some(at);
                    }
                    if let (Some(k), Some(begin)) = (packet.mark, begin) {
                        joints.push(Joint { k, begin });
                    }
                }
                _ => {}
            }
        }
        joints
    }

    /// Lets go what the last [`CHUNKS`] whole chunks do not need.
    fn trim(&mut self) {
        let joints = self.joints();
        let Some(oldest) = joints.len().checked_sub(CHUNKS + 1).map(|n| joints[n].begin) else { return };
        (0..oldest).for_each(|_| self.drop_first());
    }

    fn drop_first(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= size(&message);
            self.first += 1;
            self.preamble.take(&message);
        }
    }

    /// The preamble of the message at index `at`.
    fn preamble_at(&self, at: usize) -> Preamble {
        let mut preamble = self.preamble.clone();
        self.messages.iter().take(at).for_each(|message| preamble.take(message));
        preamble
    }
}

/// Pulls messages from a [`Ring`].
#[derive(Debug)]
pub struct Reader {
    ring: Ring,
    pushed: watch::Receiver<u64>,
    /// Where to begin, until it has begun.
    from: Option<From>,
    queued: VecDeque<Message>,
    /// Number of the message to read next.
    next: u64,
}

impl Reader {
    /// Gives the next message, waiting for it. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Result<Message, Lagged> {
        loop {
            self.pushed.mark_unchanged();
            if let Some(message) = self.try_next()? {
                return Ok(message);
            }
            // The reader holds a ring of its own, so the sender lives.
            let _ = self.pushed.changed().await;
        }
    }

    /// Gives the next message if it is here.
    pub fn try_next(&mut self) -> Result<Option<Message>, Lagged> {
        if let Some(message) = self.queued.pop_front() {
            return Ok(Some(message));
        }
        let state = self.ring.state.lock().expect("no panic while held");
        if let Some(from) = self.from {
            let joints = state.joints();
            let begin = match from {
                From::Live => Some(state.messages.len()),
                From::Oldest => joints.first().map(|joint| joint.begin),
                From::Chunk(k) => match joints.iter().find(|joint| joint.k >= k) {
                    Some(joint) if joint.k == k => Some(joint.begin),
                    Some(joint) => return Err(Lagged { oldest_k: Some(joint.k) }),
                    None => None,
                },
            };
            let Some(begin) = begin else { return Ok(None) };
            self.from = None;
            self.next = state.first + begin as u64;
            self.queued.extend(state.preamble_at(begin).messages());
            if let Some(message) = self.queued.pop_front() {
                return Ok(Some(message));
            }
        }
        if self.next < state.first {
            return Err(Lagged { oldest_k: state.joints().first().map(|joint| joint.k) });
        }
        let message = state.messages.get((self.next - state.first) as usize).cloned();
        self.next += u64::from(message.is_some());
        Ok(message)
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Packet(packet) => packet.payload.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{id::BroadcastId, media::Packet, time::UnixMs};

    fn epoch(number: u64, k: u64) -> Message {
        let broadcast = BroadcastId::new("b").unwrap();
        Message::Epoch(Epoch { broadcast, number, k, at: 0, wall: UnixMs(0), discontinuity: false })
    }

    fn packet(pts: i64, key: bool, mark: Option<u64>) -> Message {
        Message::Packet(Packet { track: Track::Video, pts, dts: pts, key, mark, payload: Bytes::from_static(&[0; 10]) })
    }

    /// Chunks of four packets; every `gop`th is an IDR.
    fn filled(chunks: u64, gop: i64) -> Ring {
        let ring = Ring::new(1 << 20);
        ring.push(epoch(1, 0));
        for n in 0..chunks as i64 * 4 {
            ring.push(packet(n, n % gop == 0, (n % 4 == 0).then_some(n as u64 / 4)));
        }
        ring
    }

    fn drain(reader: &mut Reader) -> Vec<Message> {
        std::iter::from_fn(|| reader.try_next().unwrap()).collect()
    }

    fn first_pts(messages: &[Message]) -> i64 {
        let first = messages.iter().find_map(|m| if let Message::Packet(p) = m { Some(p.pts) } else { None });
        first.expect("a packet")
    }

    #[test]
    fn keeps_three_chunks_and_the_one_being_filled() {
        assert_eq!(filled(10, 4).boundaries(), [6, 7, 8, 9]);
        assert_eq!(filled(2, 4).boundaries(), [0, 1]);
    }

    #[test]
    fn keeps_the_idr_that_the_oldest_chunk_needs() {
        // IDRs at 0 and 32: chunk 6 starts at 24 and needs the IDR at 0.
        let ring = filled(10, 32);
        let messages = drain(&mut ring.reader(From::Chunk(6)));
        assert_eq!(first_pts(&messages), 0);
        assert!(matches!(&messages[0], Message::Epoch(e) if e.number == 1));
        assert_eq!(first_pts(&drain(&mut ring.reader(From::Chunk(9)))), 32);
    }

    #[test]
    fn a_reader_is_told_what_is_no_longer_here() {
        let ring = filled(10, 4);
        assert_eq!(ring.reader(From::Chunk(2)).try_next(), Err(Lagged { oldest_k: Some(6) }));
        let mut slow = filled(2, 4).reader(From::Oldest);
        assert!(slow.try_next().unwrap().is_some());
        (8..60).for_each(|n| slow.ring.push(packet(n, n % 4 == 0, (n % 4 == 0).then_some(n as u64 / 4))));
        // The preamble that was queued is still given.
        let ended = std::iter::repeat_with(|| slow.try_next()).take(80).find(Result::is_err);
        assert!(matches!(ended, Some(Err(Lagged { oldest_k: Some(11) }))), "{ended:?}");
    }

    #[test]
    fn bytes_are_bounded() {
        let ring = Ring::new(100);
        ring.push(epoch(1, 0));
        (0..1000).for_each(|n| ring.push(packet(n, n == 0, (n == 0).then_some(0))));
        let state = ring.state.lock().unwrap();
        assert!(state.bytes <= 100 && state.messages.len() <= 11);
        assert!(state.preamble.epoch.is_some());
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let ring = filled(1, 4);
        let mut reader = ring.reader(From::Chunk(1));
        let waiting = tokio::spawn(async move { reader.next().await });
        tokio::task::yield_now().await;
        ring.push(packet(4, true, Some(1)));
        assert!(matches!(waiting.await.unwrap(), Ok(Message::Epoch(_))));
    }

    #[test]
    fn an_epoch_starts_with_its_own_configs() {
        let ring = filled(3, 4);
        ring.push(Message::Mode { mode: Mode::Follow, target: 2 });
        ring.push(Message::End { at: 12 });
        ring.push(epoch(2, 3));
        ring.push(packet(12, true, Some(3)));
        let messages = drain(&mut ring.reader(From::Chunk(3)));
        assert!(matches!(&messages[0], Message::Epoch(e) if e.number == 2));
        assert_eq!(messages.len(), 2, "{messages:?}");
    }
}
