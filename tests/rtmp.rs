//! RTMP on loopback: real publishers go live and are understood; whoever crosses a limit is closed with the right reason
//! while a good publisher goes on.

use std::{collections::HashMap, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use weir::rtmp::{
    Code, Config, Reason, Refusal,
    flv::{Metadata, Tag},
    server::{Accepted, Ended, PublishRequest, Publishers, Server, Sink, Stop, raise_fd_limit},
};

/// Generous: the machine may be busy. Nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server gave of one publish. At most eight tags wait in between; then the encoder does.
struct Publication {
    tags: mpsc::Receiver<Tag>,
    /// Ready once `tags` has given `None`.
    ended: oneshot::Receiver<Ended>,
    /// Ends the publish as when a newer session takes over.
    stop: CancellationToken,
}

struct Pipe {
    tags: mpsc::Sender<Tag>,
    ended: oneshot::Sender<Ended>,
}

#[async_trait]
impl Sink for Pipe {
    async fn take(&mut self, tags: Vec<Tag>) -> Result<(), Refusal> {
        for tag in tags {
            let gone = |_| Refusal::new(Code::Rejected, "the server ended this publish");
            self.tags.send(tag).await.map_err(gone)?;
        }
        Ok(())
    }

    async fn end(self: Box<Self>, ended: Ended) {
        // Some tests do not ask.
        let _ = self.ended.send(ended);
    }
}

/// Accepts every key but `wrong` and `slow`.
struct Door {
    opened: mpsc::Sender<(PublishRequest, Publication)>,
}

#[async_trait]
impl Publishers for Door {
    async fn publish(&self, request: PublishRequest) -> Result<Accepted, Refusal> {
        if request.stream_key.expose() == "wrong" {
            return Err(Refusal::new(Code::Denied, "the stream key is wrong"));
        }
        if request.stream_key.expose() == "slow" {
            std::future::pending::<()>().await;
        }
        let ((tags_in, tags), (ended_in, ended)) = (mpsc::channel(8), oneshot::channel());
        let stop = CancellationToken::new();
        let publication = Publication { tags, ended, stop: stop.clone() };
        self.opened.send((request, publication)).await.expect("the test listens");
        let words = Refusal::new(Code::Rejected, "a newer session took over");
        Ok(Accepted { sink: Box::new(Pipe { tags: tags_in, ended: ended_in }), stop, words })
    }
}

struct Fixture {
    address: SocketAddr,
    opened: mpsc::Receiver<(PublishRequest, Publication)>,
    metrics: PrometheusHandle,
    stop: Stop,
    server: tokio::task::JoinHandle<()>,
    _recorder: metrics::LocalRecorderGuard<'static>,
}

impl Fixture {
    /// Serves on a free port. The recorder is the thread's own, and a test's tasks stay on the test's thread.
    async fn new(config: Config) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let recorder = metrics::set_default_local_recorder(Box::leak(Box::new(recorder)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, opened) = mpsc::channel(8);
        let stop = Stop::default();
        let door = Arc::new(Door { opened: sender });
        let server = tokio::spawn(Server::run(listener, door, config, stop.clone()));
        Self { address, opened, metrics: handle, stop, server, _recorder: recorder }
    }

    fn url(&self, key: &str) -> String {
        format!("rtmp://{}/live/{key}", self.address)
    }

    async fn opened(&mut self) -> (PublishRequest, Publication) {
        timeout(PATIENCE, self.opened.recv()).await.expect("a publisher in time").unwrap()
    }

    /// Waits until a line of the metrics page has a value.
    async fn metric(&self, line: &str, value: &str) {
        let wanted = format!("{line} {value}");
        let seen = async {
            while !self.metrics.render().lines().any(|l| l == wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, seen).await.is_err() {
            panic!("{wanted} did not come:\n{}", self.metrics.render());
        }
    }

    async fn closed(&self, reason: &str, count: usize) {
        self.metric(&format!("rtmp_closed_total{{reason=\"{reason}\"}}"), &count.to_string()).await;
    }
}

async fn all_tags(publication: &mut Publication) -> Vec<Tag> {
    let mut tags = vec![];
    while let Some(tag) = timeout(PATIENCE, publication.tags.recv()).await.expect("tags in time") {
        tags.push(tag);
    }
    tags
}

fn spawn(program: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

fn ffmpeg(url: &str, input_and_codecs: &str) -> Child {
    let arguments = ["-nostdin", "-hide_banner", "-loglevel", "verbose"].into_iter();
    let arguments = arguments.chain(input_and_codecs.split_whitespace()).chain(["-f", "flv", url]);
    spawn("ffmpeg", &arguments.collect::<Vec<_>>())
}

const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=4";
const AUDIO: &str = "-f lavfi -i sine=sample_rate=48000:duration=4";
const X264: &str = "-c:v libx264 -preset ultrafast -bf 2 -g 50 -pix_fmt yuv420p";

/// Checks what any publisher of H.264 and AAC must give, and counts video and audio.
fn check_media(tags: &[Tag]) -> (usize, usize) {
    let (mut configs, mut last) = ((false, false), HashMap::new());
    let mut count = (0, 0);
    for tag in tags {
        match tag {
            Tag::VideoConfig(avcc) => {
                assert_eq!(avcc[0], 1, "avcC version");
                configs.0 = true;
            }
            Tag::AudioConfig(asc) => {
                assert_eq!(asc[0] >> 3, 2, "AAC-LC");
                configs.1 = true;
            }
            Tag::Video { time_ms, composition_ms, payload } => {
                assert!(configs.0, "the config comes first");
                assert!((0..2000).contains(composition_ms), "{composition_ms}");
                // Length-prefixed NAL units to the last byte.
                let mut rest = &payload[..];
                while let Some((len, nal)) = rest.split_first_chunk::<4>() {
                    rest = &nal[u32::from_be_bytes(*len) as usize..];
                }
                assert!(rest.is_empty());
                assert!(last.insert("video", *time_ms).is_none_or(|l| l <= *time_ms));
                count.0 += 1;
            }
            Tag::Audio { time_ms, .. } => {
                assert!(configs.1, "the config comes first");
                assert!(last.insert("audio", *time_ms).is_none_or(|l| l <= *time_ms));
                count.1 += 1;
            }
            Tag::Metadata(_) | Tag::VideoEnd => {}
        }
    }
    count
}

#[tokio::test]
async fn ffmpeg_publishes_and_ends() {
    let mut fixture = Fixture::new(Config::default()).await;
    let url = fixture.url("alice?key=secret");
    let mut publisher = ffmpeg(&url, &format!("{VIDEO} {AUDIO} {X264} -c:a aac"));
    let (request, mut publication) = fixture.opened().await;
    assert_eq!((request.app.as_str(), request.stream_key.expose()), ("live", "alice?key=secret"));
    assert!(request.encoder.contains("Lavf"), "{}", request.encoder);

    let tags = all_tags(&mut publication).await;
    assert_eq!(publication.ended.try_recv(), Ok(Ended::Unpublished));
    assert!(publisher.wait().await.unwrap().success());
    let (video, audio) = check_media(&tags);
    assert_eq!(video, 100);
    assert!((187..=190).contains(&audio), "{audio}");
    assert!(tags.contains(&Tag::VideoEnd));
    let Some(Tag::Metadata(metadata)) = tags.iter().find(|t| matches!(t, Tag::Metadata(_))) else { panic!("metadata") };
    let wanted = Metadata { width: Some(320), height: Some(180), fps: Some(25.0), ..metadata.clone() };
    assert_eq!(metadata, &wanted);
    assert!(tags.iter().any(|t| matches!(t, Tag::Video { composition_ms: 1.., .. })), "B-frames");
    fixture.closed("peer_closed", 1).await;
    fixture.metric("rtmp_half_open", "0").await;
}

#[tokio::test]
async fn video_alone_and_audio_alone_are_streams_too() {
    let mut fixture = Fixture::new(Config::default()).await;
    for (codecs, wanted) in [(format!("{VIDEO} {X264}"), (true, false)), (format!("{AUDIO} -c:a aac"), (false, true))] {
        let _publisher = ffmpeg(&fixture.url("alice"), &codecs);
        let (_, mut publication) = fixture.opened().await;
        let (video, audio) = check_media(&all_tags(&mut publication).await);
        assert_eq!((video > 0, audio > 0), wanted);
    }
}

#[tokio::test]
async fn gstreamer_publishes() {
    let mut fixture = Fixture::new(Config::default()).await;
    let pipeline = format!(
        "videotestsrc num-buffers=100 ! video/x-raw,width=320,height=180,framerate=25/1 ! x264enc speed-preset=ultrafast \
         ! h264parse ! flvmux name=mux streamable=true ! rtmp2sink location={} \
         audiotestsrc num-buffers=180 samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! mux.",
        fixture.url("alice")
    );
    let mut publisher = spawn("gst-launch-1.0", &pipeline.split_whitespace().collect::<Vec<_>>());
    let (request, mut publication) = fixture.opened().await;
    assert_eq!((request.app.as_str(), request.stream_key.expose()), ("live", "alice"));
    let (video, audio) = check_media(&all_tags(&mut publication).await);
    assert_eq!(video, 100);
    assert!(audio >= 170, "{audio}");
    assert_eq!(publication.ended.try_recv(), Ok(Ended::Unpublished));
    assert!(publisher.wait().await.unwrap().success());
}

/// Waits for the end of a publisher and gives what it printed.
async fn printed(publisher: Child) -> String {
    let output = timeout(PATIENCE, publisher.wait_with_output()).await.expect("an end in time").unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_refused_publisher_reads_why() {
    let config = Config { publishers_max: 1, ..Config::default() };
    let mut fixture = Fixture::new(config).await;
    let log = printed(ffmpeg(&fixture.url("wrong"), &format!("{VIDEO} {X264}"))).await;
    assert!(log.contains("the stream key is wrong"), "{log}");
    fixture.closed("refused", 1).await;

    for (codecs, words) in
        [(format!("{VIDEO} -c:v flv1"), "Sorenson H.263"), (format!("{VIDEO} {AUDIO} {X264} -c:a libmp3lame"), "MP3")]
    {
        let publisher = ffmpeg(&fixture.url("alice"), &format!("-re {codecs}"));
        let (_, mut publication) = fixture.opened().await;
        all_tags(&mut publication).await;
        assert!(matches!(publication.ended.try_recv(), Ok(Ended::Lost(Reason::Media(_)))));
        let log = printed(publisher).await;
        assert!(log.contains(words), "{log}");
    }
    fixture.closed("unsupported_codec", 2).await;

    let _first = ffmpeg(&fixture.url("alice"), &format!("-re {VIDEO} {X264}"));
    let (_, _publication) = fixture.opened().await;
    let log = printed(ffmpeg(&fixture.url("bob"), &format!("{VIDEO} {X264}"))).await;
    assert!(log.contains("as many publishers"), "{log}");
    fixture.closed("publishers_full", 1).await;
}

#[tokio::test]
async fn a_stopped_publisher_is_told_and_closed() {
    let mut fixture = Fixture::new(Config::default()).await;
    let mut raw = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut publication) = fixture.opened().await;
    publication.stop.cancel();
    assert_eq!(all_tags(&mut publication).await, []);
    assert_eq!(publication.ended.try_recv(), Ok(Ended::Lost(Reason::Stopped)));
    let told = raw.rest().await;
    assert!(told.contains("NetStream.Publish.Rejected") && told.contains("a newer session took over"), "{told}");
    fixture.closed("stopped", 1).await;

    // A receiver that is gone stops the publisher as well.
    let mut raw = RawPublisher::live(fixture.address, "alice").await;
    drop(fixture.opened().await);
    raw.audio(b"x").await;
    assert!(raw.rest().await.contains("NetStream.Publish.Rejected"));
    fixture.closed("stopped", 2).await;
}

#[tokio::test]
async fn a_lost_publisher_is_lost_and_the_next_one_is_free_to_come() {
    let mut fixture = Fixture::new(Config::default()).await;
    let raw = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut publication) = fixture.opened().await;
    drop(raw);
    all_tags(&mut publication).await;
    assert!(matches!(publication.ended.try_recv(), Ok(Ended::Lost(Reason::PeerClosed | Reason::ConnectionLost(_)))));

    let mut raw = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut publication) = fixture.opened().await;
    raw.audio(b"x").await;
    let wanted = Tag::Audio { time_ms: 0, payload: Bytes::from_static(b"x") };
    assert_eq!(timeout(PATIENCE, publication.tags.recv()).await.unwrap(), Some(wanted));
}

#[tokio::test]
async fn a_full_sink_holds_the_publisher_back_and_loses_nothing() {
    const FRAME: usize = 100_000;
    let mut fixture = Fixture::new(Config::default()).await;
    let mut raw = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut publication) = fixture.opened().await;
    // More than socket buffers and sink hold: the writer gets stuck, and stays so as long as nobody receives.
    let frames = 400;
    let writer = tokio::spawn(async move {
        for _ in 0..frames {
            raw.audio(&[7; FRAME]).await;
        }
        raw
    });
    let stuck = |fixture: &Fixture| {
        let page = fixture.metrics.render();
        let bytes = page.lines().find_map(|l| l.strip_prefix("rtmp_bytes_total ")).map(|v| v.parse::<usize>().unwrap());
        bytes.unwrap_or(0)
    };
    timeout(PATIENCE, async {
        while stuck(&fixture) < 8 * FRAME {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(!writer.is_finished());
    assert!(stuck(&fixture) < 12 * FRAME, "the server reads on");
    for _ in 0..frames {
        let tag = timeout(PATIENCE, publication.tags.recv()).await.unwrap();
        assert!(matches!(tag, Some(Tag::Audio { payload, .. }) if payload.len() == FRAME));
    }
    drop(writer.await.unwrap());
    all_tags(&mut publication).await;
}

#[tokio::test]
async fn whoever_crosses_a_limit_is_closed_and_nobody_else() {
    let config = Config {
        handshake_timeout: Duration::from_millis(300),
        publish_timeout: Duration::from_millis(300),
        first_media_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(300),
        // For the good publisher, too.
        idle_timeout: Duration::from_secs(2),
        ..Config::default()
    };
    let mut fixture = Fixture::new(config).await;
    let address = fixture.address;
    let mut good = RawPublisher::live(address, "good").await;
    let (_, mut good_publication) = fixture.opened().await;
    good.audio(b"first").await;
    let keep_alive = tokio::spawn(async move {
        loop {
            good.audio(b"on").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let listener = tokio::spawn(async move {
        let mut count = 0;
        while let Some(_tag) = good_publication.tags.recv().await {
            count += 1;
            if count == 30 {
                return (count, good_publication);
            }
        }
        (count, good_publication)
    });

    // Silence before the first byte, and in the middle of the handshake.
    let _silent = TcpStream::connect(address).await.unwrap();
    fixture.closed("handshake_timeout", 1).await;
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&[3; 700]).await.unwrap();
    fixture.closed("handshake_timeout", 2).await;
    let mut browser = TcpStream::connect(address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    fixture.closed("bad_handshake", 1).await;
    let _shaken = RawPublisher::shaken(address).await;
    fixture.closed("publish_timeout", 1).await;
    let _waits = RawPublisher::publish(address, "slow").await;
    fixture.closed("refused", 1).await;

    for (bytes, reason) in [
        (vec![0xc4], "bad_chunk"),
        (chunk(2, 1, &64u32.to_be_bytes()), "bad_chunk_size"),
        (header(4, 65_537, 9), "too_big_before_auth"),
        (chunk(3, 20, &[3, 0, 1, b'a'].repeat(25)), "amf_depth"),
        (chunk(3, 20, &[5; 1025]), "amf_too_big"),
        (chunk(3, 20, &[2, 0, 9]), "bad_amf"),
        (chunk(3, 20, &[2, 0, 7, b'p', b'u', b'b', b'l', b'i', b's', b'h']), "bad_command"),
        (chunk(3, 20, &[5]), "bad_command"),
        ((0..65).flat_map(|i| [&[0, i], &header(0, 0, 9)[1..]].concat()).collect(), "too_many_chunk_streams"),
        ((0..9).flat_map(|i| [header(4 + i, 200, 9), vec![0; 128]].concat()).collect(), "too_many_partial_messages"),
    ] {
        let before = count(&fixture, reason);
        let mut raw = RawPublisher::shaken(address).await;
        raw.socket.write_all(&bytes).await.unwrap();
        fixture.closed(reason, before + 1).await;
        assert_eq!(raw.rest().await, "", "{reason}");
    }

    let _quiet = RawPublisher::live(address, "quiet").await;
    let (_, mut publication) = fixture.opened().await;
    fixture.closed("first_media_timeout", 1).await;
    all_tags(&mut publication).await;
    assert_eq!(publication.ended.try_recv(), Ok(Ended::Lost(Reason::FirstMediaTimeout)));

    for (bytes, reason) in [
        (header(4, (8 << 20) + 1, 9), "message_too_big"),
        (chunk(4, 9, &[0x17, 1]), "bad_media"),
        (chunk(4, 9, b"\x90hvc1"), "unsupported_codec"),
        (chunk(4, 18, &[3, 0, 1, b'a'].repeat(25)), "amf_depth"),
        (Vec::new(), "media_idle"),
    ] {
        let before = count(&fixture, reason);
        let mut raw = RawPublisher::live(address, "bad").await;
        let (_, mut publication) = fixture.opened().await;
        raw.audio(b"x").await;
        raw.socket.write_all(&bytes).await.unwrap();
        fixture.closed(reason, before + 1).await;
        all_tags(&mut publication).await;
        assert!(matches!(publication.ended.try_recv(), Ok(Ended::Lost(r)) if r.label() == reason));
    }

    let (count, publication) = timeout(PATIENCE, listener).await.expect("the good one goes on").unwrap();
    assert_eq!(count, 30);
    keep_alive.abort();
    drop(publication);
}

fn count(fixture: &Fixture, reason: &str) -> usize {
    let page = fixture.metrics.render();
    let line = format!("rtmp_closed_total{{reason=\"{reason}\"}} ");
    page.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn five_thousand_silent_connections_stop_nobody() {
    const SILENT: usize = 5000;
    let files = raise_fd_limit().unwrap();
    assert!(
        files > 2 * SILENT as u64 + 100,
        "this test needs {} open files, the hard limit is {files}",
        2 * SILENT + 100
    );
    let config = Config { handshake_timeout: Duration::from_secs(600), ..Config::default() };
    let mut fixture = Fixture::new(config).await;
    let before = resident_kb();
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    fixture.metric("rtmp_half_open", &SILENT.to_string()).await;
    let each = (resident_kb() - before) / SILENT as f64;
    assert!(each < 4.0, "{each} kB for a silent connection, both ends");

    let publisher = RawPublisher::live(fixture.address, "alice");
    timeout(Duration::from_secs(5), publisher).await.expect("live at once");
    fixture.opened().await;
    fixture.metric("rtmp_half_open", &SILENT.to_string()).await;
}

#[tokio::test]
async fn when_too_many_are_half_open_the_oldest_goes() {
    let config = Config { handshake_timeout: Duration::from_secs(600), half_open_max: 10, ..Config::default() };
    let mut fixture = Fixture::new(config).await;
    let mut silent = vec![];
    for _ in 0..15 {
        silent.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    fixture.closed("half_open_full", 5).await;
    fixture.metric("rtmp_half_open", "10").await;
    for gone in &mut silent[..5] {
        assert_eq!(timeout(PATIENCE, gone.read(&mut [0])).await.unwrap().unwrap(), 0);
    }
    // A publisher is not half-open: later crowds do not push it out.
    let mut publisher = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut publication) = fixture.opened().await;
    for _ in 0..20 {
        silent.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    fixture.closed("half_open_full", 5 + 1 + 19).await;
    publisher.audio(b"x").await;
    assert!(timeout(PATIENCE, publication.tags.recv()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_shutdown_tells_everyone_and_ends() {
    let mut fixture = Fixture::new(Config::default()).await;
    let mut publisher = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut publication) = fixture.opened().await;
    let _silent = TcpStream::connect(fixture.address).await.unwrap();
    fixture.metric("rtmp_half_open", "1").await;
    fixture.stop.over.cancel();
    assert!(publisher.rest().await.contains("NetConnection.Connect.AppShutdown"));
    drop(publisher);
    all_tags(&mut publication).await;
    assert_eq!(publication.ended.try_recv(), Ok(Ended::Lost(Reason::Shutdown)));
    timeout(PATIENCE, &mut fixture.server).await.expect("an end in time").unwrap();
    fixture.closed("shutdown", 2).await;
    assert!(TcpStream::connect(fixture.address).await.is_err());
}

#[tokio::test]
async fn a_publisher_that_moves_when_asked_is_waited_for() {
    let mut fixture = Fixture::new(Config::default()).await;
    let mut stays = RawPublisher::live(fixture.address, "alice").await;
    let (_, mut left) = fixture.opened().await;
    let mut moves = RawPublisher::live_with(fixture.address, "bob", CAN_RECONNECT).await;
    let (_, mut moved) = fixture.opened().await;
    assert_eq!(fixture.stop.movable(), 1);
    fixture.stop.no_more.cancel();
    let refused = async {
        while TcpStream::connect(fixture.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("no more connections");
    let stop = fixture.stop.clone();
    let mut asked = tokio::spawn(async move { stop.moved().await });
    moves.await_text("NetConnection.Connect.ReconnectRequest").await;
    // Until it goes it is heard as before, and so is the one that was not asked.
    for (publisher, publication) in [(&mut moves, &mut moved), (&mut stays, &mut left)] {
        publisher.audio(b"x").await;
        assert!(timeout(PATIENCE, publication.tags.recv()).await.unwrap().is_some());
    }
    assert!(!asked.is_finished());
    drop(moves);
    timeout(PATIENCE, &mut asked).await.expect("it has gone").unwrap();
    all_tags(&mut moved).await;
    fixture.stop.over.cancel();
    let told = stays.rest().await;
    assert!(told.contains("AppShutdown") && !told.contains("ReconnectRequest"), "{told}");
    timeout(PATIENCE, &mut fixture.server).await.expect("an end in time").unwrap();
}

/// The property `capsEx` of a `connect`, as its number 1.
const CAN_RECONNECT: &[u8] = b"\x00\x06capsEx\x00\x3f\xf0\0\0\0\0\0\0";

/// A publisher by hand, for what no real one does.
struct RawPublisher {
    socket: TcpStream,
}

impl RawPublisher {
    async fn shaken(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&[3; 1 + 2 * 1536]).await.unwrap();
        socket.read_exact(&mut [0; 1 + 2 * 1536]).await.unwrap();
        Self { socket }
    }

    async fn publish(address: SocketAddr, key: &str) -> Self {
        Self::publish_with(address, key, b"").await
    }

    /// With a further property of its `connect`.
    async fn publish_with(address: SocketAddr, key: &str, property: &[u8]) -> Self {
        let mut raw = Self::shaken(address).await;
        let connect = [
            &b"\x02\x00\x07connect\x00\x3f\xf0\0\0\0\0\0\0"[..],
            b"\x03\x00\x03app\x02\x00\x04live",
            property,
            b"\0\0\x09",
        ];
        let publish = [&b"\x02\x00\x07publish\x00\x40\0\0\0\0\0\0\0\x05\x02"[..], &(key.len() as u16).to_be_bytes()];
        let bytes = [
            chunk(2, 1, &(1u32 << 20).to_be_bytes()),
            chunk(3, 20, &connect.concat()),
            chunk(3, 20, &[&publish.concat(), key.as_bytes()].concat()),
        ];
        raw.socket.write_all(&bytes.concat()).await.unwrap();
        raw
    }

    async fn live(address: SocketAddr, key: &str) -> Self {
        Self::live_with(address, key, b"").await
    }

    async fn live_with(address: SocketAddr, key: &str, property: &[u8]) -> Self {
        let mut raw = Self::publish_with(address, key, property).await;
        raw.await_text("NetStream.Publish.Start").await;
        raw
    }

    async fn await_text(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let read = timeout(PATIENCE, self.socket.read_buf(&mut seen)).await.expect("a reply in time").unwrap();
            assert_ne!(read, 0, "closed: {}", String::from_utf8_lossy(&seen));
        }
    }

    async fn audio(&mut self, payload: &[u8]) {
        // After the end of the test there may be nobody to read it.
        let _ = self.socket.write_all(&chunk(4, 8, &[b"\xaf\x01", payload].concat())).await;
    }

    /// Reads to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = timeout(PATIENCE, self.socket.read_to_end(&mut rest)).await.expect("an end in time");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// A type 0 chunk header of stream 1 at time 0.
fn header(csid: u8, length: usize, type_id: u8) -> Vec<u8> {
    [&[csid, 0, 0, 0][..], &(length as u32).to_be_bytes()[1..], &[type_id, 1, 0, 0, 0]].concat()
}

/// A message in one chunk, or in chunks of 128 bytes while that is the size.
fn chunk(csid: u8, type_id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(csid, payload.len(), type_id);
    if type_id == 20 {
        for (i, piece) in payload.chunks(128).enumerate() {
            bytes.extend(&[0xc0 | csid][..usize::from(i > 0)]);
            bytes.extend(piece);
        }
    } else {
        bytes.extend(payload);
    }
    bytes
}

/// The process's resident memory.
fn resident_kb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
