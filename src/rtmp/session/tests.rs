use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rtmp::chunk;

/// A publisher by hand: collects what the session says, writes what a test wants to say.
struct Peer {
    session: Session,
    now: Timestamp,
    serializer: ChunkSerializer,
    /// Reads the session's replies.
    reader: Reader,
    handshake_left: usize,
    media: Vec<Tag>,
    replies: Vec<RawMessage>,
    asked: Vec<(String, String, String)>,
    unpublished: usize,
    closed: Option<Reason>,
}

impl Peer {
    fn new() -> Self {
        let now = Timestamp(1_000_000);
        Self {
            session: Session::new(now, Config::default()),
            now,
            serializer: ChunkSerializer::new(),
            reader: Reader::default(),
            handshake_left: 1 + 2 * 1536,
            media: vec![],
            replies: vec![],
            asked: vec![],
            unpublished: 0,
            closed: None,
        }
    }

    fn shaken() -> Self {
        let mut peer = Self::new();
        peer.bytes(&[3; 1 + 2 * 1536]);
        assert_eq!(peer.handshake_left, 0);
        peer
    }

    fn connected() -> Self {
        let mut peer = Self::shaken();
        let properties = object([
            ("app", Amf0Value::Utf8String("live/?token=secret".into())),
            ("flashVer", Amf0Value::Utf8String("FMLE/3.0".into())),
            ("tcUrl", Amf0Value::Utf8String("rtmp://host/live?token=secret".into())),
        ]);
        peer.command("connect", 1.0, properties, vec![]);
        peer.command("createStream", 2.0, Amf0Value::Null, vec![]);
        peer
    }

    fn live() -> Self {
        let mut peer = Self::connected();
        peer.publish("alice?key=secret");
        peer.input(Input::Accept);
        assert_eq!(peer.codes(), ["NetConnection.Connect.Success", "NetStream.Publish.Start"]);
        peer
    }

    fn input(&mut self, input: Input) {
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll() {
            assert_eq!(self.closed, None, "a close is the last output");
            match output {
                Output::Send(bytes) => self.reply(bytes),
                Output::PublishRequest { app, stream_key, encoder } => {
                    self.asked.push((app, stream_key.expose().to_owned(), encoder));
                }
                Output::Media(tag) => self.media.push(tag),
                Output::Unpublished => self.unpublished += 1,
                Output::Close(reason) => self.closed = Some(reason),
            }
        }
    }

    fn reply(&mut self, mut bytes: Bytes) {
        let handshake = self.handshake_left.min(bytes.len());
        self.handshake_left -= handshake;
        bytes.advance(handshake);
        self.reader.push(bytes);
        while let Some(message) = self.reader.poll().expect("our replies are legal") {
            self.replies.push(message);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.input(Input::Bytes(Bytes::copy_from_slice(bytes)));
    }

    fn encode(&mut self, message: RtmpMessage, time_ms: u32, stream_id: u32) -> Vec<u8> {
        let payload = MessagePayload::from_rtmp_message(message, RtmpTimestamp::new(time_ms), stream_id).unwrap();
        self.serializer.serialize(&payload, false, false).unwrap().bytes
    }

    fn send(&mut self, message: RtmpMessage, time_ms: u32, stream_id: u32) {
        let bytes = self.encode(message, time_ms, stream_id);
        self.bytes(&bytes);
    }

    fn command(&mut self, name: &str, transaction: f64, object: Amf0Value, arguments: Vec<Amf0Value>) {
        self.command_on(0, name, transaction, object, arguments);
    }

    fn command_on(&mut self, id: u32, name: &str, transaction: f64, object: Amf0Value, arguments: Vec<Amf0Value>) {
        let command = RtmpMessage::Amf0Command {
            command_name: name.into(),
            transaction_id: transaction,
            command_object: object,
            additional_arguments: arguments,
        };
        self.send(command, 0, id);
    }

    fn call(&mut self, name: &str, argument: Amf0Value) {
        self.command(name, 9.0, Amf0Value::Null, vec![argument]);
    }

    fn publish(&mut self, key: &str) {
        let arguments = vec![Amf0Value::Utf8String(key.into()), Amf0Value::Utf8String("live".into())];
        self.command_on(1, "publish", 5.0, Amf0Value::Null, arguments);
    }

    fn audio(&mut self, time_ms: u32) {
        self.send(RtmpMessage::AudioData { data: Bytes::from_static(b"\xaf\x01aac") }, time_ms, 1);
    }

    /// Jumps to the session's deadline.
    fn tick(&mut self) -> Duration {
        let deadline = self.session.deadline().expect("a deadline");
        let waited = deadline - self.now;
        self.now = deadline;
        self.input(Input::Tick);
        waited
    }

    fn commands(&self) -> Vec<Vec<Amf0Value>> {
        self.replies.iter().filter(|m| m.type_id == 20).map(|m| amf::decode(&m.payload).unwrap()).collect()
    }

    fn names(&self) -> Vec<String> {
        self.commands().iter().map(|c| amf::text(&c[0]).unwrap().to_owned()).collect()
    }

    fn status_text(&self, field: &str) -> Vec<String> {
        let properties = self.commands();
        let properties = properties.iter().filter_map(|c| amf::properties(c.get(3)?)?.get(field)).filter_map(amf::text);
        properties.map(str::to_owned).collect()
    }

    fn codes(&self) -> Vec<String> {
        self.status_text("code")
    }
}

fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.into())
}

#[test]
fn who_can_move_is_asked_to_and_goes_on_until_then() {
    let publishing = |capabilities: Option<f64>| {
        let mut peer = Peer::shaken();
        let mut properties = HashMap::from([("app".to_owned(), text("live"))]);
        properties.extend(capabilities.map(|bits| ("capsEx".to_owned(), Amf0Value::Number(bits))));
        peer.command("connect", 1.0, Amf0Value::Object(properties), vec![]);
        peer.publish("alice");
        assert!(!peer.session.can_move());
        peer.input(Input::Accept);
        peer
    };
    for capabilities in [None, Some(0.0), Some(6.0), Some(f64::NAN), Some(-1.0)] {
        let mut peer = publishing(capabilities);
        peer.input(Input::Move);
        assert_eq!(peer.codes().last().unwrap(), "NetStream.Publish.Start", "{capabilities:?}");
        assert!(!peer.session.can_move());
    }
    for capabilities in [1.0, 15.0] {
        let mut peer = publishing(Some(capabilities));
        let server = &peer.commands()[0][2];
        assert_eq!(amf::properties(server).unwrap().get("capsEx"), Some(&Amf0Value::Number(1.0)));
        assert!(peer.session.can_move());
        peer.input(Input::Move);
        assert_eq!(peer.codes().last().unwrap(), "NetConnection.Connect.ReconnectRequest");
        // On the connection, not on the stream.
        assert_eq!(peer.replies.last().unwrap().stream_id, 0);
        peer.audio(40);
        assert_eq!((peer.media.len(), &peer.closed), (1, &None));
    }
}

#[test]
fn obs_publishes_and_ends() {
    let mut peer = Peer::shaken();
    let properties = object([("app", text("live")), ("flashVer", text("FMLE/3.0 (compatible; FMSc/1.0)"))]);
    peer.command("connect", 1.0, properties, vec![]);
    assert_eq!(peer.replies.iter().map(|m| m.type_id).collect::<Vec<_>>(), [5, 6, 20], "the chunk size stays inside");
    peer.command("releaseStream", 2.0, Amf0Value::Null, vec![text("alice")]);
    peer.command("FCPublish", 3.0, Amf0Value::Null, vec![text("alice")]);
    peer.command("createStream", 4.0, Amf0Value::Null, vec![]);
    assert_eq!(peer.names(), ["_result", "_result", "onFCPublish", "_result", "_result"]);
    assert_eq!(peer.commands()[4], [text("_result"), Amf0Value::Number(4.0), Amf0Value::Null, Amf0Value::Number(1.0)]);

    peer.publish("alice?key=secret");
    let asked = ("live".to_owned(), "alice?key=secret".to_owned(), "FMLE/3.0 (compatible; FMSc/1.0)".to_owned());
    assert_eq!(peer.asked, [asked]);
    peer.input(Input::Accept);
    assert_eq!(peer.codes().last().unwrap(), "NetStream.Publish.Start");
    assert_eq!(peer.replies.last().unwrap().stream_id, 1);

    let metadata = Amf0Value::Object([("width".to_owned(), Amf0Value::Number(640.0))].into());
    peer.send(RtmpMessage::Amf0Data { values: vec![text("@setDataFrame"), text("onMetaData"), metadata] }, 0, 1);
    peer.send(RtmpMessage::AudioData { data: Bytes::from_static(b"\xaf\x00\x12\x10") }, 0, 1);
    peer.send(RtmpMessage::VideoData { data: Bytes::from_static(b"\x17\x01\0\0\0au") }, 33, 1);
    let wanted = [
        Tag::Metadata(flv::Metadata { width: Some(640), ..Default::default() }),
        Tag::AudioConfig(Bytes::from_static(b"\x12\x10")),
        Tag::Video { time_ms: 33, composition_ms: 0, payload: Bytes::from_static(b"au") },
    ];
    assert_eq!(peer.media, wanted);

    peer.call("FCUnpublish", text("alice"));
    peer.call("deleteStream", Amf0Value::Number(1.0));
    assert_eq!(peer.unpublished, 1);
    assert_eq!(peer.closed, None);
    // The connection may publish again.
    peer.publish("bob");
    assert_eq!(peer.asked.len(), 2);
}

#[test]
fn every_way_to_end_a_publish_ends_it_once() {
    for (name, argument, ends) in [
        ("FCUnpublish", text("alice"), true),
        ("deleteStream", Amf0Value::Number(1.0), true),
        ("deleteStream", Amf0Value::Number(2.0), false),
        ("closeStream", Amf0Value::Null, true),
    ] {
        let mut peer = Peer::live();
        peer.call(name, argument.clone());
        peer.call(name, argument);
        assert_eq!(peer.unpublished, usize::from(ends), "{name}");
    }
}

#[test]
fn streams_have_distinct_ids_and_only_the_published_one_is_heard() {
    let mut peer = Peer::live();
    peer.command("createStream", 7.0, Amf0Value::Null, vec![]);
    assert_eq!(peer.commands().last().unwrap()[3], Amf0Value::Number(2.0));
    for id in [1, 2, 0, 77] {
        peer.send(RtmpMessage::AudioData { data: Bytes::from_static(b"\xaf\x01aac") }, id, id);
    }
    let heard: Vec<_> = peer.media.iter().map(|t| matches!(t, Tag::Audio { time_ms: 2, .. })).collect();
    assert_eq!(heard, [false, false, false], "the second stream was not published");
}

#[test]
fn nothing_behind_a_publish_is_read_before_it_is_decided() {
    let mut peer = Peer::connected();
    let publish = RtmpMessage::Amf0Command {
        command_name: "publish".into(),
        transaction_id: 3.0,
        command_object: Amf0Value::Null,
        additional_arguments: vec![text("alice")],
    };
    let publish = peer.encode(publish, 0, 1);
    // Eager encoders do not wait; this frame is larger than anything allowed before.
    let frame = [&b"\x17\x01\0\0\0"[..], &[7; 200_000]].concat();
    let frame = peer.encode(RtmpMessage::VideoData { data: frame.into() }, 0, 1);
    peer.bytes(&[publish, frame].concat());
    assert_eq!((peer.asked.len(), peer.media.len()), (1, 0));
    assert_eq!(peer.session.deadline(), None);
    peer.input(Input::Accept);
    assert_eq!((peer.media.len(), peer.closed), (1, None));
}

#[test]
fn a_refusal_says_why_on_the_stream_and_closes() {
    for code in [Code::BadName, Code::Denied, Code::Rejected] {
        let mut peer = Peer::connected();
        peer.publish("alice?key=wrong");
        peer.input(Input::Refuse(Refusal::new(code, "the stream key is wrong\n")));
        assert_eq!(peer.codes().last().unwrap(), code.as_str());
        assert_eq!(peer.status_text("description").last().unwrap(), "the stream key is wrong");
        assert_eq!(peer.status_text("level").last().unwrap(), "error");
        assert_eq!(peer.replies.last().unwrap().stream_id, 1);
        assert_eq!(peer.closed, Some(Reason::Refused(code)));
    }
}

#[test]
fn an_empty_or_huge_stream_key_is_a_bad_name() {
    for key in ["", &"k".repeat(1025)] {
        let mut peer = Peer::connected();
        peer.publish(key);
        assert_eq!(peer.codes().last().unwrap(), "NetStream.Publish.BadName");
        assert_eq!((peer.asked.len(), peer.closed), (0, Some(Reason::Refused(Code::BadName))));
    }
}

#[test]
fn a_codec_that_nobody_takes_is_refused_by_name() {
    let mut peer = Peer::live();
    peer.send(RtmpMessage::VideoData { data: Bytes::from_static(b"\x90hvc1config") }, 0, 1);
    assert_eq!(peer.codes().last().unwrap(), "NetStream.Publish.Rejected");
    let description = peer.status_text("description").pop().unwrap();
    assert!(description.contains("HEVC") && description.contains("OBS"), "{description}");
    assert_eq!(peer.closed.unwrap().label(), "unsupported_codec");
}

#[test]
fn players_are_told_where_to_go() {
    let mut peer = Peer::connected();
    peer.command_on(1, "play", 4.0, Amf0Value::Null, vec![text("alice")]);
    assert_eq!(peer.codes().last().unwrap(), "NetStream.Play.Failed");
    assert_eq!(peer.closed, Some(Reason::Player));
}

#[test]
fn a_second_publish_is_refused() {
    let mut peer = Peer::live();
    peer.publish("bob");
    assert_eq!(peer.codes().last().unwrap(), "NetStream.Publish.BadName");
    assert_eq!(peer.closed, Some(Reason::SecondPublish));
}

#[test]
fn a_stop_tells_the_streamer_why() {
    let mut peer = Peer::live();
    let words = Refusal::new(Code::Rejected, "interlaced video is not supported");
    peer.input(Input::Stop(Reason::Stopped, Some(words)));
    assert_eq!(peer.status_text("description").last().unwrap(), "interlaced video is not supported");
    assert_eq!(peer.closed, Some(Reason::Stopped));
}

#[test]
fn every_phase_ends_by_itself() {
    let config = Config::default();
    let mut peer = Peer::new();
    assert_eq!(peer.tick(), config.handshake_timeout);
    assert_eq!(peer.closed, Some(Reason::HandshakeTimeout));

    // Drops of a handshake do not prolong it.
    let mut peer = Peer::new();
    peer.bytes(&[3; 100]);
    peer.now = peer.now + Duration::from_secs(4);
    peer.bytes(&[3; 100]);
    assert_eq!(peer.tick(), Duration::from_secs(1));
    assert_eq!(peer.closed, Some(Reason::HandshakeTimeout));

    let mut peer = Peer::connected();
    assert_eq!(peer.tick(), config.publish_timeout);
    assert_eq!(peer.closed, Some(Reason::PublishTimeout));

    let mut peer = Peer::live();
    let started = peer.now;
    while peer.closed.is_none() {
        peer.tick();
    }
    assert_eq!((peer.now - started, peer.closed), (config.first_media_timeout, Some(Reason::FirstMediaTimeout)));

    let mut peer = Peer::live();
    for ms in 0..60 {
        peer.now = peer.now + Duration::from_secs(1);
        peer.audio(ms * 1000);
    }
    let last = peer.now;
    while peer.closed.is_none() {
        peer.tick();
    }
    assert_eq!((peer.now - last, peer.closed.clone()), (config.idle_timeout, Some(Reason::MediaIdle)));
    let pings = peer.replies.iter().filter(|m| m.type_id == 4 && m.payload[..2] == [0, 6]).count();
    assert_eq!(pings, 1);

    let mut peer = Peer::live();
    peer.call("deleteStream", Amf0Value::Number(1.0));
    assert_eq!(peer.tick(), config.publish_timeout);
    assert_eq!(peer.closed, Some(Reason::PublishTimeout));
}

#[test]
fn a_slow_frame_gets_time_and_a_trickle_does_not_get_for_ever() {
    let idle = Config::default().idle_timeout;
    let mut peer = Peer::live();
    peer.audio(0);
    let started = peer.now;
    let frame = [&b"\x17\x01\0\0\0"[..], &[7; 100_000]].concat();
    let frame = peer.encode(RtmpMessage::VideoData { data: frame.into() }, 0, 1);
    for piece in frame.chunks(1000) {
        peer.bytes(piece);
        if peer.closed.is_some() {
            break;
        }
        peer.now = peer.now + idle / 2;
        peer.input(Input::Tick);
    }
    assert_eq!(peer.closed, Some(Reason::MediaIdle));
    assert_eq!(peer.now - started, idle * SLOW_MESSAGE);
}

#[test]
fn pings_are_answered_with_the_peers_clock() {
    let mut peer = Peer::connected();
    let ping = RtmpMessage::UserControl {
        event_type: UserControlEventType::PingRequest,
        stream_id: None,
        buffer_length: None,
        timestamp: Some(RtmpTimestamp::new(77)),
    };
    peer.send(ping, 0, 0);
    assert_eq!(&peer.replies.last().unwrap().payload[..], [0, 7, 0, 0, 0, 77]);
    // Events that nobody knows are let pass.
    peer.bytes(&[2, 0, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0, 0, 26, 0, 0, 0, 1]);
    assert_eq!(peer.closed, None);
}

#[test]
fn acknowledgements_count_all_bytes_by_the_peers_window() {
    let mut peer = Peer::live();
    peer.send(RtmpMessage::WindowAcknowledgement { size: 10_000 }, 0, 0);
    let frame = Bytes::from([&b"\xaf\x01"[..], &[7; 6000]].concat());
    for _ in 0..10 {
        peer.send(RtmpMessage::AudioData { data: frame.clone() }, 0, 1);
    }
    let acks: Vec<_> = peer.replies.iter().filter(|m| m.type_id == 3).collect();
    let last = u32::from_be_bytes(acks.last().unwrap().payload[..].try_into().unwrap());
    assert_eq!(acks.len(), 5);
    assert_eq!(u64::from(last), peer.session.received);
    assert!(last > 60_000 + 3073);
}

#[test]
fn limits_before_a_publish_close_the_connection() {
    let mut peer = Peer::new();
    peer.bytes(b"GET / HTTP/1.1\r\n");
    assert_eq!(peer.closed, Some(Reason::BadHandshake));

    let mut peer = Peer::shaken();
    peer.call("createStream", Amf0Value::Null);
    assert_eq!(peer.closed.unwrap().label(), "bad_command");

    let mut peer = Peer::connected();
    peer.command("connect", 1.0, object([]), vec![]);
    assert_eq!(peer.closed.unwrap().label(), "bad_command");

    // Many small messages, each of them legal.
    let mut peer = Peer::connected();
    while peer.closed.is_none() {
        peer.audio(0);
        assert!(peer.session.received < BYTES_BEFORE_AUTH_MAX + 200);
    }
    assert_eq!(peer.closed, Some(Reason::TooBigBeforeAuth));

    let mut peer = Peer::connected();
    peer.send(RtmpMessage::AudioData { data: vec![0xaf; (64 << 10) + 1].into() }, 0, 1);
    assert_eq!(peer.closed.unwrap().label(), "too_big_before_auth");

    let mut peer = Peer::shaken();
    let mut nested = [3, 0, 1, b'a'].repeat(1000);
    nested.splice(0..0, amf_header("connect"));
    peer.send(RtmpMessage::Unknown { type_id: 20, data: nested.into() }, 0, 0);
    assert_eq!(peer.closed, Some(Reason::Amf(amf::Error::TooDeep)));

    let mut peer = Peer::shaken();
    peer.send(RtmpMessage::Unknown { type_id: 17, data: Bytes::from_static(&[17, 1, 2]) }, 0, 0);
    assert_eq!(peer.closed, Some(Reason::Amf(amf::Error::Amf3)));

    let mut peer = Peer::shaken();
    peer.bytes(&[0xc4]);
    assert_eq!(peer.closed, Some(Reason::Chunk(chunk::Error::NoPreviousHeader { csid: 4, format: 3 })));
}

fn amf_header(name: &str) -> Vec<u8> {
    rml_amf0::serialize(&vec![text(name), Amf0Value::Number(1.0)]).unwrap()
}

#[test]
fn commands_marked_as_amf3_are_understood() {
    let mut peer = Peer::shaken();
    let command =
        [vec![0], amf_header("connect"), rml_amf0::serialize(&vec![object([("app", text("live"))])]).unwrap()];
    peer.send(RtmpMessage::Unknown { type_id: 17, data: command.concat().into() }, 0, 0);
    assert_eq!(peer.codes(), ["NetConnection.Connect.Success"]);
}

#[test]
fn broken_metadata_does_not_end_a_broadcast_but_a_crossed_limit_does() {
    let mut peer = Peer::live();
    peer.send(RtmpMessage::Unknown { type_id: 18, data: Bytes::from_static(&[2, 0, 99, 1]) }, 0, 1);
    assert_eq!(peer.closed, None);
    peer.send(RtmpMessage::Amf0Data { values: vec![text("@setDataFrame")] }, 0, 1);
    assert_eq!(peer.closed, None);
    peer.send(RtmpMessage::Unknown { type_id: 18, data: [10, 0, 0, 0, 1].repeat(20).into() }, 0, 1);
    assert_eq!(peer.closed, Some(Reason::Amf(amf::Error::TooDeep)));
}

#[test]
fn aggregates_are_taken_apart() {
    let tag = |time: u8, body: &[u8]| {
        let header = [8, 0, 0, body.len() as u8, 0, 0, time, 0, 0, 0, 0];
        [&header[..], body, &[0, 0, 0, 11 + body.len() as u8]].concat()
    };
    let aggregate = [tag(100, b"\xaf\x01a"), tag(123, b"\xaf\x01b")].concat();
    let mut peer = Peer::live();
    peer.send(RtmpMessage::Unknown { type_id: 22, data: aggregate.clone().into() }, 5000, 1);
    let times: Vec<_> =
        peer.media.iter().map(|t| if let Tag::Audio { time_ms, .. } = t { *time_ms } else { 0 }).collect();
    assert_eq!(times, [5000, 5023]);
    peer.send(RtmpMessage::Unknown { type_id: 22, data: aggregate[..13].to_vec().into() }, 5000, 1);
    assert_eq!(peer.closed.unwrap().label(), "bad_media");
}

proptest! {
    #[test]
    fn any_split_of_a_whole_connection_gives_the_same_outcome(
        pieces in prop::collection::vec(1usize..900, 1..30),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..20),
    ) {
        let mut writer = Peer::new();
        let mut bytes = vec![3; 1 + 2 * 1536];
        let command = |name: &str, object, arguments| RtmpMessage::Amf0Command {
            command_name: name.into(),
            transaction_id: 1.0,
            command_object: object,
            additional_arguments: arguments,
        };
        bytes.extend(writer.encode(command("connect", object([("app", text("live"))]), vec![]), 0, 0));
        bytes.extend(writer.encode(command("publish", Amf0Value::Null, vec![text("alice")]), 0, 1));
        for (i, payload) in payloads.iter().enumerate() {
            let data = [&b"\xaf\x01"[..], payload].concat();
            bytes.extend(writer.encode(RtmpMessage::AudioData { data: data.into() }, i as u32 * 23, 1));
        }
        let run = |pieces: &[usize]| {
            let mut peer = Peer::new();
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*piece));
                peer.bytes(now);
                if matches!(peer.session.phase, Phase::Asked { .. }) {
                    peer.input(Input::Accept);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            (peer.media, peer.closed)
        };
        let whole = run(&[bytes.len()]);
        prop_assert_eq!(whole.0.len(), payloads.iter().filter(|p| !p.is_empty()).count());
        prop_assert_eq!(&whole, &run(&pieces));
    }
}
