//! A small RTMP publisher whose every time stamp and pause the test chooses: what ffmpeg cannot be made to send.
//!
//! It shares no code with the server but the AMF writer.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rml_amf0::Amf0Value;
use weir::time::now;

use super::{Node, secs};

const AUDIO: u8 = 8;
const VIDEO: u8 = 9;
const DATA: u8 = 18;
const CHUNK_LEN: usize = 4096;

/// An FLV tag: sent `at` ms after the first, stamped with `ms`.
#[derive(Debug, Clone)]
pub struct Tag {
    pub kind: u8,
    pub at: i64,
    pub ms: i64,
    pub body: Vec<u8>,
}

impl Tag {
    pub fn video(&self) -> bool {
        self.kind == VIDEO
    }

    pub fn audio(&self) -> bool {
        self.kind == AUDIO
    }

    pub fn metadata(&self) -> bool {
        self.kind == DATA
    }

    /// A sequence header.
    pub fn config(&self) -> bool {
        self.kind != DATA && self.body[1] == 0
    }

    pub fn keyframe(&self) -> bool {
        self.video() && self.body[0] >> 4 == 1
    }
}

/// The tags that ffmpeg makes of a moving picture with a tone; `video` and `audio` are further arguments for each.
pub fn film(size: &str, fps: u32, seconds: u32, video: &str, audio: &str) -> Vec<Tag> {
    let (picture, seconds) = (format!("testsrc2=s={size}:r={fps}"), seconds.to_string());
    let mut args = vec!["-nostdin", "-v", "error", "-f", "lavfi", "-i", &picture];
    args.extend(["-f", "lavfi", "-i", "sine=440:r=48000", "-t", &seconds]);
    args.extend(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
    args.extend(video.split_whitespace());
    args.extend(["-c:a", "aac"]);
    args.extend(audio.split_whitespace());
    args.extend(["-flvflags", "no_duration_filesize", "-f", "flv", "pipe:1"]);
    let made = Command::new("ffmpeg").args(&args).output().expect("ffmpeg must be installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tags = tags(&made.stdout);
    // What ffmpeg says at the end of a file, no encoder says in the middle of a show.
    tags.into_iter().filter(|tag| !(tag.video() && tag.body[1] == 2)).collect()
}

/// FLV 10.1, Annex E.4.
fn tags(file: &[u8]) -> Vec<Tag> {
    assert_eq!(&file[..3], b"FLV");
    let (mut rest, mut found) = (&file[9 + 4..], Vec::new());
    while rest.len() > 11 {
        let len = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let ms = i64::from(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]));
        found.push(Tag { kind: rest[0], at: ms, ms, body: rest[11..11 + len].to_vec() });
        rest = &rest[11 + len + 4..];
    }
    found
}

/// The first tags, then the others: stamped and sent on from where the first end.
pub fn joined(first: &[Tag], then: &[Tag], seconds: u32) -> Vec<Tag> {
    let shift = i64::from(seconds) * 1000;
    let moved = then.iter().map(|tag| Tag { at: tag.at + shift, ms: tag.ms + shift, ..tag.clone() });
    first.iter().cloned().chain(moved).collect()
}

/// The same tags with other stamps.
pub fn stamped(tags: &[Tag], stamp: impl Fn(&Tag) -> i64) -> Vec<Tag> {
    tags.iter().map(|tag| Tag { ms: stamp(tag), ..tag.clone() }).collect()
}

/// The same tags as an encoder sends them that drops frames when its line is slow (as OBS does: all up to a keyframe, as the
/// pictures between cannot be decoded), loses some sound, sends no picture for a while, and whose clock jumps: each of these some
/// times in a minute.
pub fn dropping(tags: &[Tag], seed: u64) -> Vec<Tag> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut kept, mut jumped) = (Vec::new(), 0);
    // What is dropped is dropped until then.
    let (mut no_video, mut no_audio, mut drops) = (0, 0, false);
    for tag in tags {
        let rest = !tag.metadata() && !tag.config();
        if rest && tag.video() && !tag.keyframe() && rng.random_ratio(1, 300) {
            no_video = tag.at + rng.random_range(30..1500);
        }
        if rest && tag.audio() && rng.random_ratio(1, 500) {
            no_audio = tag.at + rng.random_range(20..400);
        }
        if rest && tag.keyframe() && rng.random_ratio(1, 25) {
            jumped += rng.random_range(5_500..20_000);
        }
        drops = rest && if tag.video() { tag.at < no_video || (drops && !tag.keyframe()) } else { drops };
        let is_lost = if tag.video() { drops } else { tag.audio() && tag.at < no_audio };
        if !rest || !is_lost {
            kept.push(Tag { ms: tag.ms + jumped, ..tag.clone() });
        }
    }
    kept
}

/// A connection that may publish.
pub struct Connection {
    socket: TcpStream,
    /// The last stream and stamp by chunk stream.
    last: HashMap<u8, (u32, u32)>,
}

impl Connection {
    /// Connects and waits until the publish is accepted.
    pub fn open(node: &Node, key: &str) -> io::Result<Self> {
        Self::open_at(&format!("127.0.0.1:{}", node.rtmp), key, false)
    }

    /// The same at an address; says that it `moves` when it is asked to, or not.
    pub fn open_at(address: &str, key: &str, moves: bool) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(secs(10)))?;
        socket.set_nodelay(true)?;
        socket.write_all(&[&[3][..], &[0; 1536]].concat())?;
        let mut answer = [0; 1 + 2 * 1536];
        socket.read_exact(&mut answer)?;
        socket.write_all(&answer[1..1537])?;
        let mut this = Self { socket, last: HashMap::new() };
        this.message(2, 1, 0, 0, &(CHUNK_LEN as u32).to_be_bytes())?;
        let text = |text: &str| Amf0Value::Utf8String(text.to_owned());
        let mut properties = HashMap::from([("app".to_owned(), text("live"))]);
        if moves {
            // Enhanced RTMP v2: the bit of the reconnect request.
            properties.insert("capsEx".to_owned(), Amf0Value::Number(1.0));
        }
        this.command(0, &[text("connect"), Amf0Value::Number(1.0), Amf0Value::Object(properties)])?;
        this.await_text("NetConnection.Connect.Success")?;
        this.command(0, &[text("createStream"), Amf0Value::Number(2.0), Amf0Value::Null])?;
        this.await_text("_result")?;
        this.command(1, &[text("publish"), Amf0Value::Number(3.0), Amf0Value::Null, text(key), text("live")])?;
        this.await_text("NetStream.Publish.Start")?;
        Ok(this)
    }

    pub fn send(&mut self, tag: &Tag) -> io::Result<()> {
        let csid = match tag.kind {
            AUDIO => 4,
            VIDEO => 6,
            _ => 5,
        };
        self.message(csid, tag.kind, 1, tag.ms as u32, &tag.body)
    }

    /// What the server has said meanwhile.
    fn heard(&mut self) -> io::Result<Vec<u8>> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        self.socket.set_nonblocking(true)?;
        let ended = loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => heard.extend(&buffer[..n]),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        self.socket.set_nonblocking(false)?;
        ended.map(|()| heard)
    }

    /// Closes so that all that was sent is read: a close with unread input would be a reset, and the last tags might be lost.
    fn close(mut self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)?;
        self.read_to_close();
        Ok(())
    }

    /// Reads until the server closes; gives all it said.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        // A reset is a close as well; a timeout is not, and then the server's words are missing.
        let _ = self.socket.read_to_end(&mut heard);
        heard
    }

    fn command(&mut self, stream: u32, values: &[Amf0Value]) -> io::Result<()> {
        let body = rml_amf0::serialize(&values.to_vec()).expect("short values");
        self.message(3, 20, stream, 0, &body)
    }

    fn await_text(&mut self, wanted: &str) -> io::Result<()> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        while !heard.windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
            match self.socket.read(&mut buffer)? {
                0 => {
                    return Err(io::Error::other(format!("{:?} instead of {wanted}", String::from_utf8_lossy(&heard))));
                }
                n => heard.extend(&buffer[..n]),
            }
        }
        Ok(())
    }

    /// Writes one message in chunks: type 0 where a stream starts or time goes back, else type 1 with a delta, as OBS does.
    fn message(&mut self, csid: u8, kind: u8, stream: u32, ms: u32, body: &[u8]) -> io::Result<()> {
        let last = self.last.insert(csid, (stream, ms)).filter(|last| last.0 == stream);
        let delta = last.map(|last| ms.wrapping_sub(last.1)).filter(|delta| *delta < 1 << 31);
        let (format, time) = delta.map_or((0, ms), |delta| (1, delta));
        let extended = (time >= 0xff_ffff).then_some(time.to_be_bytes());
        let mut bytes = vec![format << 6 | csid];
        bytes.extend(&time.min(0xff_ffff).to_be_bytes()[1..]);
        bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
        bytes.push(kind);
        if format == 0 {
            bytes.extend(stream.to_le_bytes());
        }
        bytes.extend(extended.iter().flatten());
        for (n, piece) in body.chunks(CHUNK_LEN).enumerate() {
            if n > 0 {
                bytes.push(3 << 6 | csid);
                bytes.extend(extended.iter().flatten());
            }
            bytes.extend(piece);
        }
        self.socket.write_all(&bytes)
    }
}

/// Gives each tag when it is due, until it is stopped.
fn paced(
    tags: &[Tag],
    speed: f64,
    stopped: &AtomicBool,
    mut send: impl FnMut(&Tag) -> io::Result<()>,
) -> io::Result<()> {
    let start = now();
    for tag in tags {
        let due = start + Duration::from_secs_f64(tag.at as f64 / 1000.0 / speed);
        // The pace of the encoder, not a wait for an event; a wake-up before the time is looked at again.
        while now() < due && !stopped.load(Ordering::Relaxed) {
            std::thread::park_timeout(due - now());
        }
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        send(tag)?;
    }
    Ok(())
}

/// Sends tags in the background; the connection is closed after the last, or when this is dropped.
pub struct Pusher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Pusher {
    /// Publishes tags, `speed` times as fast as they are due.
    pub fn start(node: &Node, key: &str, tags: Vec<Tag>, speed: f64) -> Self {
        let mut connection = Connection::open(node, key).expect("the server takes the publish");
        Self::spawn(move |stopped| {
            paced(&tags, speed, stopped, |tag| connection.send(tag))?;
            connection.close()
        })
    }

    /// Publishes tags in real time, and goes on over a new connection to the same address, from a keyframe on, when the server
    /// asks for that (Enhanced RTMP v2, Reconnect Request).
    pub fn moving(address: &str, key: &str, tags: Vec<Tag>) -> Self {
        let (address, key) = (address.to_owned(), key.to_owned());
        let mut connection = Connection::open_at(&address, &key, true).expect("the server takes the publish");
        let configs: Vec<_> = tags.iter().filter(|tag| tag.metadata() || tag.config()).cloned().collect();
        Self::spawn(move |stopped| {
            let (mut asked, mut left) = (false, Vec::new());
            paced(&tags, 1.0, stopped, |tag| {
                const REQUEST: &[u8] = b"NetConnection.Connect.ReconnectRequest";
                asked |= connection.heard()?.windows(REQUEST.len()).any(|words| words == REQUEST);
                if asked && tag.keyframe() && !tag.config() {
                    let old = std::mem::replace(&mut connection, Connection::open_at(&address, &key, true)?);
                    left.push(std::thread::spawn(move || old.close()));
                    configs.iter().try_for_each(|config| connection.send(&Tag { ms: tag.ms, ..config.clone() }))?;
                    asked = false;
                }
                connection.send(tag)
            })?;
            connection.close()?;
            left.into_iter().try_for_each(|old| old.join().expect("no panic"))
        })
    }

    fn spawn(send: impl FnOnce(&AtomicBool) -> io::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Self { stop, thread: Some(std::thread::spawn(move || send(&stopped))) }
    }

    /// Whether it still sends.
    pub fn running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits until all is sent; fails if the server closed before.
    pub fn wait(mut self) -> io::Result<()> {
        self.thread.take().expect("waited for once").join().expect("no panic")
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Whether the last tags went through does not matter any more.
            let _ = thread.join();
        }
    }
}
