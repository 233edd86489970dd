//! The replay ring: one line's feed for many readers, each at its own pace, who may also start a little in the past.
//!
//! The line's task pushes [`Message`]s; packagers, the transcoder's writer and relays pull them. A push never waits: a
//! reader that falls out of the ring is told so and may join again at a later boundary. Nothing is cut or changed here,
//! and payloads are shared.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::Notify;

use super::{AudioConfig, Epoch, Message, Packet, Track, VIDEO_TIMESCALE, VideoConfig, rescale};

/// What a ring keeps at most.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of payloads. When more come, the oldest go, even if a keyframe goes with them.
    pub max_bytes: usize,
    /// Finished chunks kept beside the one that is being filled.
    pub chunks: usize,
}

impl Default for Config {
    /// Three chunks (DESIGN section 4), and 64 MiB: 50 s of 10 Mb/s.
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, chunks: 3 }
    }
}

/// Where a reader starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The newest chunk that can be joined.
    Live,
    /// This chunk; if it has not started or is a gap, the first one after it.
    Chunk(u64),
    /// The oldest chunk that can be joined.
    Oldest,
}

/// Says why a reader gets no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What comes next is not kept any more. The reader may join again.
    #[error("too slow for the replay ring, whose oldest chunk is {oldest_k:?}")]
    Lagged { oldest_k: Option<u64> },
    /// The writer is gone and everything was read.
    #[error("the feed is closed")]
    Closed,
}

/// The writer's end. Dropping it closes the feed.
#[derive(Debug)]
pub struct Ring {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Woken by every push and by the close.
    pushed: Notify,
}

#[derive(Debug)]
struct State {
    config: Config,
    messages: VecDeque<Message>,
    /// The position of the first kept message; positions count all messages ever pushed.
    base: u64,
    bytes: usize,
    boundaries: VecDeque<Boundary>,
    /// What was in force before the first kept message, and after the last.
    head: Context,
    tail: Context,
    /// The position of the last IDR.
    last_key: Option<u64>,
    closed: bool,
}

/// A chunk start that can be joined as long as all of it is kept.
#[derive(Debug, Clone, Copy)]
struct Boundary {
    k: u64,
    /// Its start in samples, when there is audio beside video.
    audio_start: Option<i64>,
    /// Decoding starts here: at the last IDR at or before the chunk's first frame.
    join: u64,
    /// Audio of the chunk came as early as here.
    from: u64,
}

/// What a reader must know before it can make sense of a packet.
#[derive(Debug, Clone, Default)]
struct Context {
    epoch: Option<Epoch>,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    mode: Option<Message>,
}

impl Context {
    fn apply(&mut self, message: &Message) {
        match message {
            Message::Epoch(epoch) => *self = Self { epoch: Some(epoch.clone()), ..Self::default() },
            Message::Video(config) => self.video = Some(config.clone()),
            Message::Audio(config) => self.audio = Some(config.clone()),
            Message::Mode { .. } => self.mode = Some(message.clone()),
            Message::Packet(_) | Message::End { .. } => {}
        }
    }

    fn messages(self) -> impl Iterator<Item = Message> {
        let configs = self.video.map(Message::Video).into_iter().chain(self.audio.map(Message::Audio));
        self.epoch.map(Message::Epoch).into_iter().chain(configs).chain(self.mode)
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Packet(packet) => packet.payload.len(),
        _ => 0,
    }
}

impl Ring {
    pub fn new(config: Config) -> Self {
        let state = State {
            config,
            messages: VecDeque::new(),
            base: 0,
            bytes: 0,
            boundaries: VecDeque::new(),
            head: Context::default(),
            tail: Context::default(),
            last_key: None,
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), pushed: Notify::new() }) }
    }

    /// Appends a message, wakes the readers and lets go of what is too old. Never waits.
    pub fn push(&self, message: Message) {
        self.shared.lock().push(message);
        self.shared.pushed.notify_waiters();
    }

    /// Makes a reader.
    pub fn reader(&self, from: From) -> Reader {
        Reader { shared: self.shared.clone(), from, at: None, first: VecDeque::new() }
    }

    /// Gives the numbers of the chunks that can be joined, oldest first.
    pub fn boundaries(&self) -> Vec<u64> {
        self.shared.lock().boundaries.iter().map(|boundary| boundary.k).collect()
    }

    /// Ends the feed; readers get what is left and then [`Error::Closed`].
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.pushed.notify_waiters();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while the ring is locked")
    }
}

impl State {
    fn end(&self) -> u64 {
        self.base + self.messages.len() as u64
    }

    fn get(&self, position: u64) -> Option<&Message> {
        self.messages.get(usize::try_from(position.checked_sub(self.base)?).ok()?)
    }

    fn push(&mut self, message: Message) {
        self.tail.apply(&message);
        if let Message::Packet(packet) = &message {
            let position = self.end();
            if packet.track == Track::Video && packet.key {
                self.last_key = Some(position);
            }
            if let Some(k) = packet.mark {
                self.mark(k, packet, position);
            }
        }
        self.bytes += size(&message);
        self.messages.push_back(message);
        self.trim();
    }

    fn mark(&mut self, k: u64, packet: &Packet, position: u64) {
        let join = match packet.track {
            Track::Audio => Some(position),
            Track::Video => self.last_key.filter(|&key| key >= self.base),
        };
        let Some(join) = join else { return };
        let rate = self.tail.audio.as_ref().filter(|_| packet.track == Track::Video).map(|config| config.sample_rate);
        let audio_start = rate.map(|rate| rescale(packet.pts, VIDEO_TIMESCALE, rate));
        // The tracks are not interleaved to the tick: audio of this chunk may have come before its first picture.
        let mut from = join;
        if let Some(start) = audio_start {
            for at in (self.base..join).rev().take(EARLY_MAX) {
                match self.get(at) {
                    Some(Message::Packet(packet)) if belongs(packet, start) => from = at,
                    Some(Message::Epoch(_)) | None => break,
                    Some(_) => {}
                }
            }
        }
        self.boundaries.push_back(Boundary { k, audio_start, join, from });
    }

    fn trim(&mut self) {
        while self.boundaries.len() > self.config.chunks + 1 {
            self.boundaries.pop_front();
        }
        let oldest = |state: &Self| state.boundaries.front().map(|boundary| boundary.from);
        if let Some(from) = oldest(self) {
            self.drop_before(from);
        }
        while self.bytes > self.config.max_bytes && !self.messages.is_empty() {
            self.drop_before(self.base + 1);
            while self.boundaries.front().is_some_and(|boundary| boundary.from < self.base) {
                self.boundaries.pop_front();
            }
            // What is left of a chunk that cannot be joined helps nobody once there is a later one.
            if let Some(from) = oldest(self) {
                self.drop_before(from);
            }
        }
    }

    fn drop_before(&mut self, position: u64) {
        while self.base < position
            && let Some(message) = self.messages.pop_front()
        {
            self.head.apply(&message);
            self.bytes -= size(&message);
            self.base += 1;
        }
    }

    fn lagged(&self) -> Error {
        Error::Lagged { oldest_k: self.boundaries.front().map(|boundary| boundary.k) }
    }

    /// Finds where a reader joins. `None`: there is no such place yet.
    fn find(&self, from: From) -> Result<Option<Boundary>, Error> {
        match from {
            From::Live => Ok(self.boundaries.back().copied()),
            From::Oldest => Ok(self.boundaries.front().copied()),
            From::Chunk(k) if self.boundaries.front().is_some_and(|oldest| oldest.k > k) => Err(self.lagged()),
            From::Chunk(k) => Ok(self.boundaries.iter().find(|boundary| boundary.k >= k).copied()),
        }
    }

    /// Gives what a reader that joins gets before the messages from `boundary.join` on.
    fn prelude(&self, boundary: &Boundary) -> VecDeque<Message> {
        let mut context = self.head.clone();
        let before = (boundary.join - self.base) as usize;
        self.messages.iter().take(before).for_each(|message| context.apply(message));
        let mut first: VecDeque<Message> = context.messages().collect();
        if let Some(start) = boundary.audio_start {
            let early = self.messages.iter().take(before).skip((boundary.from - self.base) as usize);
            first.extend(early.filter(|m| matches!(m, Message::Packet(packet) if belongs(packet, start))).cloned());
        }
        first
    }
}

/// How far back audio of a chunk is looked for: seconds of both tracks, far more than encoders interleave.
const EARLY_MAX: usize = 256;

fn belongs(packet: &Packet, audio_start: i64) -> bool {
    packet.track == Track::Audio && packet.pts >= audio_start
}

/// A reader's end.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    from: From,
    /// The position of the next message; `None` until joined.
    at: Option<u64>,
    first: VecDeque<Message>,
}

impl Reader {
    /// Waits for the next message. A reader gets the epoch, configs and mode in force where it joins, then audio of its
    /// chunk that came early, then everything from the last IDR at or before its chunk. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Lagged`] again and again until [`Reader::rejoin`]; [`Error::Closed`] at the end.
    pub async fn next(&mut self) -> Result<Message, Error> {
        let shared = self.shared.clone();
        loop {
            let pushed = shared.pushed.notified();
            tokio::pin!(pushed);
            // Before looking, so that a push right after it is not missed.
            pushed.as_mut().enable();
            if let Some(message) = self.try_next()? {
                return Ok(message);
            }
            pushed.await;
        }
    }

    /// Gives the next message if there is one.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn try_next(&mut self) -> Result<Option<Message>, Error> {
        if let Some(message) = self.first.pop_front() {
            return Ok(Some(message));
        }
        let state = self.shared.lock();
        let at = match self.at {
            Some(at) => at,
            None => match state.find(self.from)? {
                Some(boundary) => {
                    self.first = state.prelude(&boundary);
                    self.at = Some(boundary.join);
                    match self.first.pop_front() {
                        Some(message) => return Ok(Some(message)),
                        None => boundary.join,
                    }
                }
                None if state.closed => return Err(Error::Closed),
                None => return Ok(None),
            },
        };
        if at < state.base {
            return Err(state.lagged());
        }
        match state.get(at) {
            Some(message) => {
                self.at = Some(at + 1);
                Ok(Some(message.clone()))
            }
            None if state.closed => Err(Error::Closed),
            None => Ok(None),
        }
    }

    /// Starts over at another place, as a new reader would.
    pub fn rejoin(&mut self, from: From) {
        (self.from, self.at) = (from, None);
        self.first.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::{id::BroadcastId, media::Mode, time::UnixMs};

    fn epoch(number: u64, k: u64) -> Message {
        let broadcast = BroadcastId::new("b").unwrap();
        Message::Epoch(Epoch { broadcast, number, k, at: 0, wall: UnixMs(0), discontinuity: number > 0 })
    }

    fn configs() -> [Message; 2] {
        let (avcc, asc) = (Bytes::from_static(b"v"), Bytes::from_static(b"a"));
        [
            Message::Video(VideoConfig { avcc, width: 16, height: 16, sar: (1, 1), fps: None }),
            Message::Audio(AudioConfig { asc, object_type: 2, sample_rate: 48_000, channels: 2, frame_len: 1024 }),
        ]
    }

    fn mode(mode: Mode) -> Message {
        Message::Mode { mode, target: 2 }
    }

    fn video(seconds: i64, key: bool, mark: Option<u64>) -> Message {
        let pts = seconds * 90_000;
        Message::Packet(Packet { track: Track::Video, pts, dts: pts, key, mark, payload: Bytes::from(vec![0; 1000]) })
    }

    fn audio(seconds: f64, mark: Option<u64>) -> Message {
        let pts = (seconds * 48_000.0) as i64;
        Message::Packet(Packet {
            track: Track::Audio,
            pts,
            dts: pts,
            key: true,
            mark,
            payload: Bytes::from(vec![0; 10]),
        })
    }

    fn ring(max_bytes: usize) -> Ring {
        Ring::new(Config { max_bytes, chunks: 3 })
    }

    /// Pushes one epoch of `chunks` chunks of 2 s at 1 frame per second, with an IDR every `gop` seconds.
    fn feed(ring: &Ring, chunks: u64, gop: i64, kind: Mode) {
        ring.push(epoch(0, 0));
        configs().into_iter().for_each(|config| ring.push(config));
        for k in 0..chunks {
            let start = 2 * k as i64;
            if k == 1 {
                ring.push(mode(kind));
            }
            ring.push(video(start, start % gop == 0, Some(k)));
            ring.push(audio(start as f64, None));
            ring.push(video(start + 1, (start + 1) % gop == 0, None));
            ring.push(audio(start as f64 + 1.0, None));
        }
    }

    fn drain(reader: &mut Reader) -> Vec<Message> {
        std::iter::from_fn(|| reader.try_next().unwrap()).collect()
    }

    fn packets(messages: &[Message]) -> Vec<&Packet> {
        messages.iter().filter_map(|m| if let Message::Packet(packet) = m { Some(packet) } else { None }).collect()
    }

    #[test]
    fn a_reader_from_the_start_gets_everything() {
        let ring = ring(1 << 20);
        let mut reader = ring.reader(From::Live);
        assert_eq!(reader.try_next(), Ok(None));
        feed(&ring, 1, 2, Mode::Follow);
        let all = drain(&mut reader);
        assert_eq!(all[..4], [epoch(0, 0), configs()[0].clone(), configs()[1].clone(), video(0, true, Some(0))]);
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn a_late_reader_gets_context_and_starts_at_an_idr() {
        let ring = ring(1 << 20);
        feed(&ring, 6, 2, Mode::Follow);
        assert_eq!(ring.boundaries(), [2, 3, 4, 5], "three finished chunks and the open one");
        for (from, k) in [(From::Live, 5), (From::Chunk(4), 4), (From::Oldest, 2)] {
            let all = drain(&mut ring.reader(from));
            let [video_config, audio_config] = configs();
            assert_eq!(all[..4], [epoch(0, 0), video_config, audio_config, mode(Mode::Follow)]);
            assert_eq!(all[4], video(2 * k as i64, true, Some(k)));
            assert_eq!(all.len(), 4 + 4 * (6 - k as usize));
        }
    }

    #[test]
    fn decoding_starts_before_the_boundary_when_keyframes_are_rare() {
        let ring = ring(1 << 20);
        feed(&ring, 9, 8, Mode::Reencode);
        assert_eq!(ring.boundaries(), [5, 6, 7, 8]);
        let first = |from| packets(&drain(&mut ring.reader(from)))[0].clone();
        assert_eq!(
            Message::Packet(first(From::Oldest)),
            video(8, true, Some(4)),
            "chunk 5 is decoded from chunk 4's IDR"
        );
        assert_eq!(Message::Packet(first(From::Live)), video(16, true, Some(8)));
    }

    #[test]
    fn audio_that_came_before_its_chunk_is_not_lost() {
        let ring = ring(1 << 20);
        feed(&ring, 3, 2, Mode::Follow);
        ring.push(audio(5.9, None));
        ring.push(audio(6.0, None));
        ring.push(video(5, false, None));
        ring.push(audio(6.02, None));
        ring.push(video(6, true, Some(3)));
        let all = drain(&mut ring.reader(From::Chunk(3)));
        assert_eq!(all[4..], [audio(6.0, None), audio(6.02, None), video(6, true, Some(3))]);
    }

    #[test]
    fn epochs_are_crossed_and_their_context_is_their_own() {
        let ring = ring(1 << 20);
        feed(&ring, 3, 2, Mode::Follow);
        ring.push(Message::End { at: 540_000 });
        ring.push(epoch(1, 5));
        let [video_config, _] = configs();
        ring.push(video_config.clone());
        ring.push(mode(Mode::Reencode));
        // The first frame of this epoch needs the IDR of the one before.
        ring.push(video(6, false, Some(5)));
        ring.push(video(8, true, Some(6)));
        let all = drain(&mut ring.reader(From::Chunk(6)));
        assert_eq!(all, [epoch(1, 5), video_config, mode(Mode::Reencode), video(8, true, Some(6))], "no audio here");
        let all = drain(&mut ring.reader(From::Chunk(3)));
        assert_eq!(all[0], epoch(0, 0), "chunks 3 and 4 are a gap; 5 is decoded from the epoch before");
        assert_eq!(all[4], video(4, true, Some(2)));
        assert!(all.contains(&Message::End { at: 540_000 }) && all.contains(&epoch(1, 5)));
    }

    #[test]
    fn audio_only_joins_at_any_mark() {
        let ring = ring(1 << 20);
        ring.push(epoch(0, 0));
        ring.push(configs()[1].clone());
        ring.push(mode(Mode::AudioOnly));
        for n in 0..20 {
            ring.push(audio(n as f64, (n % 2 == 0).then_some(n / 2)));
        }
        let all = drain(&mut ring.reader(From::Chunk(8)));
        assert_eq!(all[2..4], [mode(Mode::AudioOnly), audio(16.0, Some(8))]);
    }

    #[test]
    fn a_slow_reader_is_told_and_joins_again() {
        let ring = ring(1 << 20);
        let mut reader = ring.reader(From::Live);
        feed(&ring, 1, 2, Mode::Follow);
        reader.try_next().unwrap();
        drain(&mut reader);
        feed(&ring, 9, 2, Mode::Follow);
        let lagged = Err(Error::Lagged { oldest_k: Some(5) });
        assert_eq!((reader.try_next(), reader.try_next()), (lagged.clone(), lagged.clone()));
        assert_eq!(ring.reader(From::Chunk(4)).try_next(), lagged, "asked for too old a chunk");
        reader.rejoin(From::Chunk(5));
        assert_eq!(packets(&drain(&mut reader))[0].mark, Some(5));
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_go() {
        let ring = ring(5000);
        let mut live = ring.reader(From::Live);
        feed(&ring, 1, 2, Mode::Follow);
        drain(&mut live);
        feed(&ring, 6, 2, Mode::Follow);
        assert_eq!(ring.boundaries(), [4, 5]);
        let state = ring.shared.lock();
        assert!(state.bytes <= 5000);
        assert_eq!(state.bytes, state.messages.iter().map(size).sum::<usize>());
    }

    #[test]
    fn without_a_kept_idr_readers_wait_for_the_next() {
        let ring = ring(3500);
        feed(&ring, 4, 100, Mode::Reencode);
        assert_eq!(ring.boundaries(), [] as [u64; 0]);
        let mut reader = ring.reader(From::Live);
        assert_eq!(reader.try_next(), Ok(None));
        ring.push(video(8, true, Some(4)));
        assert_eq!(ring.boundaries(), [4]);
        let all = drain(&mut reader);
        assert_eq!(all[3..], [mode(Mode::Reencode), video(8, true, Some(4))]);
        assert_eq!(all[0], epoch(0, 0));
    }

    /// Lets the other tasks run until the reader's task waits; with one thread this is exact.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn every_waiting_reader_is_woken() {
        let ring = ring(1 << 20);
        let tasks: Vec<_> = [From::Live, From::Oldest, From::Chunk(0), From::Chunk(1)]
            .map(|from| {
                let mut reader = ring.reader(from);
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    loop {
                        match reader.next().await {
                            Ok(message) => got.push(message),
                            Err(error) => return (got, error),
                        }
                    }
                })
            })
            .into_iter()
            .collect();
        settle().await;
        feed(&ring, 1, 2, Mode::Follow);
        settle().await;
        ring.push(video(2, true, Some(1)));
        settle().await;
        ring.push(Message::End { at: 360_000 });
        drop(ring);
        for (task, expected) in tasks.into_iter().zip([9, 9, 9, 5]) {
            let (got, error) = tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
            assert_eq!((got.len(), error), (expected, Error::Closed));
            assert_eq!(got.last(), Some(&Message::End { at: 360_000 }));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_push_is_missed_between_two_threads() {
        let ring = Ring::new(Config { max_bytes: 1 << 30, chunks: 10_000 });
        let mut reader = ring.reader(From::Oldest);
        let task = tokio::spawn(async move {
            let mut count = 0;
            while reader.next().await.is_ok() {
                count += 1;
            }
            count
        });
        feed(&ring, 5000, 2, Mode::Follow);
        drop(ring);
        let count = tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
        assert_eq!(count, 5000 * 4 + 4);
    }
}
