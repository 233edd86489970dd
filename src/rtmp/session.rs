//! One publisher connection as a machine: bytes and decisions in, replies and media out.
//!
//! Driven by [`server`](super::server): [`handle`](Session::handle) what happened, then [`poll`](Session::poll) until it gives
//! `None`, then wait for bytes or for [`deadline`](Session::deadline). Reads no clock and no socket. Messages are parsed one at
//! a time in `poll`, so a burst of small messages costs no memory, and nothing behind a `publish` is looked at before
//! the caller has decided on it.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes};
use rml_amf0::Amf0Value;
use rml_rtmp::{
    chunk_io::ChunkSerializer,
    handshake::{Handshake, HandshakeProcessResult, PeerType},
    messages::{MessagePayload, PeerBandwidthLimitType, RtmpMessage, UserControlEventType},
    time::RtmpTimestamp,
};

use super::{
    Code, Config, Reason, Refusal, StreamKey, amf,
    chunk::{Limits, RawMessage, Reader},
    flv::{self, Tag},
    printable,
};
use crate::time::Timestamp;

/// What an encoder sends before it may publish is some 4 KiB with the handshake.
const BYTES_BEFORE_AUTH_MAX: u64 = 64 << 10;
/// Our replies fit in one chunk of this size. ffmpeg answers by using the same size itself.
const CHUNK_SIZE: u32 = 4096;
/// How often we expect and give acknowledgements, as most servers say.
const ACK_WINDOW: u32 = 2_500_000;
/// Leaves an `onStatus` well within one chunk.
const DESCRIPTION_LEN_MAX: usize = 500;
const STREAM_KEY_LEN_MAX: usize = 1024;
/// A message that makes progress may take this many times the idle timeout: a big keyframe on a slow line.
const SLOW_MESSAGE: u32 = 4;
/// The bit of `capsEx` for support of the reconnect request (Enhanced RTMP v2, `CapsExMask.Reconnect`).
const CAPS_RECONNECT: u32 = 1;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The peer sent bytes, in any split.
    Bytes(Bytes),
    /// Answers [`Output::PublishRequest`].
    Accept,
    /// Answers [`Output::PublishRequest`].
    Refuse(Refusal),
    /// The caller ends the session; the peer is told why where the protocol has words for it.
    Stop(Reason, Option<Refusal>),
    /// The caller wants the peer to publish elsewhere; one that can is asked to, and goes when it likes.
    Move,
    /// The deadline came.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub enum Output {
    Send(Bytes),
    /// The peer wants to publish. Nothing more comes before [`Input::Accept`] or [`Input::Refuse`].
    PublishRequest {
        /// The application, without any query.
        app: String,
        stream_key: StreamKey,
        /// What the encoder calls itself (`flashVer`).
        encoder: String,
    },
    Media(Tag),
    /// The peer ended its publish in order; it may publish again.
    Unpublished,
    /// The last output: send what was asked, then close.
    Close(Reason),
}

enum Phase {
    Handshake(Option<Box<Handshake>>),
    /// Before `publish`, or after its end.
    Idle {
        since: Timestamp,
    },
    /// A `publish` waits for the caller's decision.
    Asked {
        stream_id: u32,
    },
    Live(Live),
    Closed,
}

struct Live {
    stream_id: u32,
    since: Timestamp,
    /// When audio or video last came whole.
    media: Option<Timestamp>,
    /// When some of it last came.
    progress: Timestamp,
    pinged: bool,
}

struct App {
    name: String,
    encoder: String,
    /// It publishes elsewhere when it is asked to (Enhanced RTMP v2, `capsEx`).
    moves: bool,
}

/// See the module's page.
pub struct Session {
    config: Config,
    started: Timestamp,
    now: Timestamp,
    phase: Phase,
    reader: Reader,
    serializer: ChunkSerializer,
    outputs: VecDeque<Output>,
    app: Option<App>,
    authenticated: bool,
    /// The last stream id given out; they count up from 1.
    streams: u32,
    received: u64,
    acknowledged: u64,
    ack_window: u64,
}

impl Session {
    /// Starts with the connection. Keeps little memory until the first byte.
    pub fn new(now: Timestamp, config: Config) -> Self {
        Self {
            config,
            started: now,
            now,
            phase: Phase::Handshake(None),
            reader: Reader::default(),
            serializer: ChunkSerializer::new(),
            outputs: VecDeque::new(),
            app: None,
            authenticated: false,
            streams: 0,
            received: 0,
            acknowledged: 0,
            ack_window: u64::from(ACK_WINDOW),
        }
    }

    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.now = now;
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        match input {
            Input::Bytes(bytes) => self.bytes(bytes),
            Input::Accept => self.accept(),
            Input::Refuse(refusal) => {
                let code = refusal.code;
                self.close_with_words(refusal, Reason::Refused(code));
            }
            Input::Stop(reason, refusal) => self.stop(reason, refusal),
            Input::Move => self.ask_to_move(),
            Input::Tick => self.tick(),
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if !matches!(self.phase, Phase::Idle { .. } | Phase::Live(_)) {
                return None;
            }
            let result = match self.reader.poll() {
                Ok(Some(message)) => self.message(message),
                Ok(None) => match self.check_bytes_before_auth() {
                    Ok(()) => return None,
                    over => over,
                },
                Err(error) => Err(error.into()),
            };
            if let Err(reason) = result.and_then(|()| self.check_bytes_before_auth()) {
                self.close(reason);
            }
        }
    }

    /// Gives when [`Input::Tick`] is due if nothing comes before. `None`: the next move is the caller's.
    pub fn deadline(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Handshake(_) => Some(self.started + self.config.handshake_timeout),
            Phase::Idle { since } => Some(*since + self.config.publish_timeout),
            Phase::Live(live) if live.pinged => Some(self.live_deadline(live).0),
            Phase::Live(live) => Some(self.live_deadline(live).0.min(self.ping_due(live))),
            Phase::Asked { .. } | Phase::Closed => None,
        }
    }

    fn live_deadline(&self, live: &Live) -> (Timestamp, Reason) {
        let idle = self.config.idle_timeout;
        match live.media {
            None => (live.since + self.config.first_media_timeout, Reason::FirstMediaTimeout),
            Some(media) => ((live.progress + idle).min(media + idle * SLOW_MESSAGE), Reason::MediaIdle),
        }
    }

    /// A peer that is still there answers a ping, and a connection that is not breaks on it.
    fn ping_due(&self, live: &Live) -> Timestamp {
        live.progress + self.config.idle_timeout / 2
    }

    fn tick(&mut self) {
        let over = match &self.phase {
            Phase::Handshake(_) => Some((self.started + self.config.handshake_timeout, Reason::HandshakeTimeout)),
            Phase::Idle { since } => Some((*since + self.config.publish_timeout, Reason::PublishTimeout)),
            Phase::Live(live) => Some(self.live_deadline(live)),
            Phase::Asked { .. } | Phase::Closed => None,
        };
        if let Some((at, reason)) = over
            && at <= self.now
        {
            return self.close(reason);
        }
        if let Phase::Live(live) = &self.phase
            && !live.pinged
            && self.ping_due(live) <= self.now
        {
            let clock = RtmpTimestamp::new((self.now.0 / 1000) as u32);
            self.user_control(UserControlEventType::PingRequest, None, Some(clock));
            if let Phase::Live(live) = &mut self.phase {
                live.pinged = true;
            }
        }
    }

    fn bytes(&mut self, bytes: Bytes) {
        self.received += bytes.len() as u64;
        let handshake = match &mut self.phase {
            Phase::Handshake(handshake) => handshake,
            phase => {
                if let Phase::Live(live) = phase
                    && self.reader.is_mid_message()
                {
                    live.progress = self.now;
                }
                self.reader.push(bytes);
                return self.acknowledge();
            }
        };
        let handshake = handshake.get_or_insert_with(|| Box::new(Handshake::new(PeerType::Server)));
        match handshake.process_bytes(&bytes) {
            Ok(HandshakeProcessResult::InProgress { response_bytes }) => self.send_raw(response_bytes),
            Ok(HandshakeProcessResult::Completed { response_bytes, remaining_bytes }) => {
                self.send_raw(response_bytes);
                self.reader.push(remaining_bytes.into());
                self.phase = Phase::Idle { since: self.now };
            }
            Err(_) => self.close(Reason::BadHandshake),
        }
    }

    fn check_bytes_before_auth(&self) -> Result<(), Reason> {
        let read = self.received - self.reader.unread() as u64;
        if self.authenticated || read <= BYTES_BEFORE_AUTH_MAX { Ok(()) } else { Err(Reason::TooBigBeforeAuth) }
    }

    /// Acknowledges all bytes so far, modulo 2^32 (RTMP 1.0 section 5.4.3). At most once per [`Input::Bytes`], whatever
    /// window the peer asked for.
    fn acknowledge(&mut self) {
        if self.received - self.acknowledged >= self.ack_window {
            self.acknowledged = self.received;
            self.send(RtmpMessage::Acknowledgement { sequence_number: self.received as u32 }, 0);
        }
    }

    fn message(&mut self, message: RawMessage) -> Result<(), Reason> {
        match message.type_id {
            4 => self.control_event(&message.payload),
            5 => {
                if let Some(window) = message.payload.first_chunk::<4>().map(|w| u32::from_be_bytes(*w))
                    && window > 0
                {
                    self.ack_window = u64::from(window);
                }
            }
            8 | 9 => return self.media(message.type_id, message.stream_id, message.timestamp, message.payload),
            22 => return self.aggregate(message),
            15 | 18 => return self.data(&message),
            17 => return self.command(message.stream_id, amf::decode_marked_amf3(&message.payload)?),
            20 => return self.command(message.stream_id, amf::decode(&message.payload)?),
            _ => {}
        }
        Ok(())
    }

    fn control_event(&mut self, mut payload: &[u8]) {
        const PING_REQUEST: u16 = 6;
        if payload.try_get_u16() == Ok(PING_REQUEST) {
            let clock = RtmpTimestamp::new(payload.try_get_u32().unwrap_or(0));
            self.user_control(UserControlEventType::PingResponse, None, Some(clock));
        }
    }

    fn media(&mut self, type_id: u8, stream_id: u32, time_ms: u32, payload: Bytes) -> Result<(), Reason> {
        let Phase::Live(live) = &mut self.phase else { return Ok(()) };
        // Some encoders do not care about stream ids; one that we gave out for something else is meant seriously.
        if stream_id != live.stream_id && (1..=self.streams).contains(&stream_id) {
            return Ok(());
        }
        let tag = if type_id == 8 { flv::audio(time_ms, payload) } else { flv::video(time_ms, payload) };
        match tag {
            Ok(Some(tag)) => {
                live.media = Some(self.now);
                live.progress = self.now;
                live.pinged = false;
                self.outputs.push_back(Output::Media(tag));
            }
            Ok(None) => {}
            Err(error) => {
                let refusal = Refusal::new(Code::Rejected, error.to_string());
                self.close_with_words(refusal, error.into());
            }
        }
        Ok(())
    }

    /// Takes apart an aggregate message: FLV tags in a row (RTMP 1.0 section 7.1.6).
    fn aggregate(&mut self, message: RawMessage) -> Result<(), Reason> {
        const BROKEN: Reason = Reason::Media(flv::Error::Broken("aggregate"));
        let mut rest = message.payload;
        let mut first = None;
        while rest.len() >= 11 && matches!(self.phase, Phase::Live(_)) {
            let type_id = rest[0] & 0x1f;
            let length = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
            let time = u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]);
            rest.advance(11);
            if rest.len() < length {
                return Err(BROKEN);
            }
            let body = rest.split_to(length);
            // The size of the tag, once more.
            rest.advance(rest.len().min(4));
            // Times within count from the first, whose time is the message's.
            let time_ms = message.timestamp.wrapping_add(time.wrapping_sub(*first.get_or_insert(time)));
            if matches!(type_id, 8 | 9) {
                self.media(type_id, message.stream_id, time_ms, body)?;
            }
        }
        Ok(())
    }

    fn data(&mut self, message: &RawMessage) -> Result<(), Reason> {
        if !matches!(self.phase, Phase::Live(_)) {
            return Ok(());
        }
        let decode = if message.type_id == 15 { amf::decode_marked_amf3 } else { amf::decode };
        let values = match decode(&message.payload) {
            Ok(values) => values,
            Err(error) if error.is_limit() => return Err(error.into()),
            // Captions and cues in forms that nobody here reads must not end a broadcast.
            Err(_) => return Ok(()),
        };
        let values = match values.first().and_then(amf::text) {
            Some("@setDataFrame") => &values[1..],
            _ => &values[..],
        };
        if let [name, properties, ..] = values
            && amf::text(name) == Some("onMetaData")
            && let Some(properties) = amf::properties(properties)
        {
            self.outputs.push_back(Output::Media(Tag::Metadata(flv::metadata(properties))));
        }
        Ok(())
    }

    fn command(&mut self, stream_id: u32, values: Vec<Amf0Value>) -> Result<(), Reason> {
        let name = values.first().and_then(amf::text).ok_or(Reason::BadCommand("no name"))?;
        let transaction = values.get(1).and_then(amf::number).unwrap_or(0.0);
        let argument = values.get(3);
        if name != "connect" {
            self.connected()?;
        }
        match name {
            "connect" => return self.connect(transaction, values.get(2)),
            "releaseStream" | "_checkbw" => self.result(transaction, Amf0Value::Undefined),
            "FCPublish" => {
                // Old encoders wait for the one, newer ones for the other.
                let status = status_object("status", "NetStream.Publish.Start", "ready to publish");
                self.invoke("onFCPublish", 0.0, vec![status], 0);
                self.result(transaction, Amf0Value::Undefined);
            }
            "createStream" => {
                self.streams += 1;
                self.result(transaction, Amf0Value::Number(f64::from(self.streams)));
            }
            "publish" => return self.publish(stream_id, argument.and_then(amf::text)),
            "FCUnpublish" => {
                let status = status_object("status", "NetStream.Unpublish.Success", "unpublished");
                self.invoke("onFCUnpublish", 0.0, vec![status], 0);
                self.unpublish(None);
            }
            "deleteStream" => self.unpublish(argument.and_then(amf::number).map(|id| id as u32)),
            "closeStream" => self.unpublish(Some(stream_id)),
            "play" | "play2" => {
                let words = "this port takes publishers only, please watch over HLS";
                self.status(stream_id, "error", "NetStream.Play.Failed", words);
                self.close(Reason::Player);
            }
            // Answers, and what wants none.
            _ if transaction == 0.0 || name.starts_with('_') || name.starts_with("on") => {}
            _ => {
                let status = status_object("error", "NetConnection.Call.Failed", "not supported");
                self.invoke("_error", transaction, vec![status], 0);
            }
        }
        Ok(())
    }

    fn connected(&self) -> Result<&App, Reason> {
        self.app.as_ref().ok_or(Reason::BadCommand("it comes before connect"))
    }

    fn connect(&mut self, transaction: f64, properties: Option<&Amf0Value>) -> Result<(), Reason> {
        if self.app.is_some() {
            return Err(Reason::BadCommand("a second connect"));
        }
        let properties =
            properties.and_then(amf::properties).ok_or(Reason::BadCommand("connect without properties"))?;
        let text = |name: &str| properties.get(name).and_then(amf::text).unwrap_or_default();
        // What follows the `?` is for the key, and may be one.
        let app = text("app").split('?').next().unwrap_or_default().trim_matches('/');
        let capabilities = properties.get("capsEx").and_then(amf::number).map(|bits| bits as u32);
        let moves = capabilities.is_some_and(|bits| bits & CAPS_RECONNECT != 0);
        self.app = Some(App { name: printable(app, 128), encoder: printable(text("flashVer"), 128), moves });

        self.send(RtmpMessage::WindowAcknowledgement { size: ACK_WINDOW }, 0);
        let limit_type = PeerBandwidthLimitType::Dynamic;
        self.send(RtmpMessage::SetPeerBandwidth { size: ACK_WINDOW, limit_type }, 0);
        let larger = self.serializer.set_max_chunk_size(CHUNK_SIZE, RtmpTimestamp::new(0));
        self.send_raw(larger.expect("the size is legal").bytes);

        let info = object([
            ("level", Amf0Value::Utf8String("status".into())),
            ("code", Amf0Value::Utf8String("NetConnection.Connect.Success".into())),
            ("description", Amf0Value::Utf8String("connected".into())),
            // AMF0 from here on, whatever was asked.
            ("objectEncoding", Amf0Value::Number(0.0)),
        ]);
        let mut server = HashMap::from([
            ("fmsVer".to_owned(), Amf0Value::Utf8String("FMS/3,0,1,123".into())),
            ("capabilities".to_owned(), Amf0Value::Number(31.0)),
        ]);
        if capabilities.is_some() {
            server.insert("capsEx".to_owned(), Amf0Value::Number(f64::from(CAPS_RECONNECT)));
        }
        self.invoke_with("_result", transaction, Amf0Value::Object(server), vec![info], 0);
        Ok(())
    }

    fn publish(&mut self, stream_id: u32, key: Option<&str>) -> Result<(), Reason> {
        let App { name, encoder, .. } = self.connected()?;
        if matches!(self.phase, Phase::Live(_)) {
            let words = "this connection publishes already, please use one connection for each stream";
            self.status(stream_id, "error", Code::BadName.as_str(), words);
            self.close(Reason::SecondPublish);
            return Ok(());
        }
        let request = Output::PublishRequest {
            app: name.clone(),
            stream_key: StreamKey::new(key.unwrap_or_default()),
            encoder: encoder.clone(),
        };
        self.phase = Phase::Asked { stream_id };
        match key {
            Some(key) if !key.is_empty() && key.len() <= STREAM_KEY_LEN_MAX => self.outputs.push_back(request),
            _ => {
                let words = "there is no legal stream key: in OBS it goes into Settings, Stream, Stream Key";
                self.close_with_words(Refusal::new(Code::BadName, words), Reason::Refused(Code::BadName));
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Phase::Asked { stream_id } = self.phase else { return };
        self.authenticated = true;
        self.reader.set_limits(Limits::AFTER_AUTH);
        let now = self.now;
        self.phase = Phase::Live(Live { stream_id, since: now, media: None, progress: now, pinged: false });
        self.user_control(UserControlEventType::StreamBegin, Some(stream_id), None);
        self.status(stream_id, "status", "NetStream.Publish.Start", "go ahead");
    }

    /// Ends the publish if it is on stream `id`, or whichever it is on.
    fn unpublish(&mut self, id: Option<u32>) {
        let Phase::Live(Live { stream_id, .. }) = self.phase else { return };
        if id.is_some_and(|id| id != 0 && id != stream_id) {
            return;
        }
        self.phase = Phase::Idle { since: self.now };
        self.outputs.push_back(Output::Unpublished);
        self.status(stream_id, "status", "NetStream.Unpublish.Success", "unpublished");
    }

    fn stop(&mut self, reason: Reason, refusal: Option<Refusal>) {
        match refusal {
            Some(refusal) => self.close_with_words(refusal, reason),
            None => {
                if self.app.is_some() {
                    let stream_id = self.stream_id();
                    self.status(stream_id, "status", "NetConnection.Connect.AppShutdown", &reason.to_string());
                }
                self.close(reason);
            }
        }
    }

    /// Asks a peer that publishes to connect anew and go on there (Enhanced RTMP v2, Reconnect Request). It names no address:
    /// encoders have one that leads to every server, and what this one is called outside nobody has told it.
    fn ask_to_move(&mut self) {
        if self.can_move() {
            let words = "this server is about to stop, please connect anew";
            self.status(0, "status", "NetConnection.Connect.ReconnectRequest", words);
        }
    }

    /// Whether the peer publishes, and would elsewhere when it is asked to.
    pub fn can_move(&self) -> bool {
        matches!(self.phase, Phase::Live(_)) && self.app.as_ref().is_some_and(|app| app.moves)
    }

    fn close(&mut self, reason: Reason) {
        self.phase = Phase::Closed;
        self.outputs.push_back(Output::Close(reason));
    }

    fn close_with_words(&mut self, refusal: Refusal, reason: Reason) {
        self.status(self.stream_id(), "error", refusal.code.as_str(), &refusal.description);
        self.close(reason);
    }

    fn stream_id(&self) -> u32 {
        match self.phase {
            Phase::Asked { stream_id } | Phase::Live(Live { stream_id, .. }) => stream_id,
            _ => 0,
        }
    }

    fn status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        self.invoke("onStatus", 0.0, vec![status_object(level, code, description)], stream_id);
    }

    fn result(&mut self, transaction: f64, value: Amf0Value) {
        if transaction != 0.0 {
            self.invoke("_result", transaction, vec![value], 0);
        }
    }

    fn invoke(&mut self, name: &str, transaction: f64, arguments: Vec<Amf0Value>, stream_id: u32) {
        self.invoke_with(name, transaction, Amf0Value::Null, arguments, stream_id);
    }

    fn invoke_with(&mut self, name: &str, transaction: f64, object: Amf0Value, arguments: Vec<Amf0Value>, id: u32) {
        let command = RtmpMessage::Amf0Command {
            command_name: name.to_owned(),
            transaction_id: transaction,
            command_object: object,
            additional_arguments: arguments,
        };
        self.send(command, id);
    }

    fn user_control(&mut self, event_type: UserControlEventType, id: Option<u32>, timestamp: Option<RtmpTimestamp>) {
        self.send(RtmpMessage::UserControl { event_type, stream_id: id, buffer_length: None, timestamp }, 0);
    }

    fn send(&mut self, message: RtmpMessage, stream_id: u32) {
        let payload = MessagePayload::from_rtmp_message(message, RtmpTimestamp::new(0), stream_id)
            .expect("our own texts are shorter than 64 KiB");
        // Uncompressed headers, which every client reads; the serializer repeats them in each chunk of a message, so a
        // message must not be longer than a chunk.
        debug_assert!(payload.data.len() <= CHUNK_SIZE as usize);
        let packet = self.serializer.serialize(&payload, true, false).expect("a short message");
        self.send_raw(packet.bytes);
    }

    fn send_raw(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        // A reply to one message is one write.
        if let Some(Output::Send(last)) = self.outputs.back_mut() {
            *last = [&last[..], &bytes].concat().into();
        } else {
            self.outputs.push_back(Output::Send(bytes.into()));
        }
    }
}

fn object<const N: usize>(properties: [(&str, Amf0Value); N]) -> Amf0Value {
    Amf0Value::Object(properties.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn status_object(level: &str, code: &str, description: &str) -> Amf0Value {
    let text = |t: &str| Amf0Value::Utf8String(t.to_owned());
    object([
        ("level", text(level)),
        ("code", text(code)),
        ("description", Amf0Value::Utf8String(printable(description, DESCRIPTION_LEN_MAX))),
    ])
}

#[cfg(test)]
mod tests;
