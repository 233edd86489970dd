//! A room with many sockets: what a message costs the server that tells it to all, how late it comes, and what a socket that idles
//! takes. The server has one core, the sockets of this process have the other.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::sleep,
};
use weir::time::{Timestamp, now};

use crate::{
    Row, say,
    server::{Kind, Server},
};

pub mod strain;

const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const STREAM: &str = "stadium";
/// A message's text: what people write is about as long.
const TEXT: usize = 100;
/// Bots that write in turn: one may write three messages a second.
const BOTS: usize = 100;
const MEASURED: Duration = Duration::from_secs(10);
/// As many as the limit of open files allows, less what the process itself needs.
const MOST: usize = 19_500;

/// One measurement: sockets, and messages a second; nothing: each waits until the one before has come to all.
const CASES: &[(usize, Option<u32>, &str)] = &[
    (1_000, None, "<= 6 us"),
    (MOST, None, "<= 8 us"),
    (5_000, Some(200), "1 M/s on <= 60 % of a core, p99 <= 200 ms"),
    (MOST, Some(40), "on one core, p99 <= 450 ms"),
];

/// What all sockets have seen.
#[derive(Default)]
struct Seen {
    deliveries: Cell<u64>,
    /// Milliseconds from when a message was sent to when it came, of the newest in each lot.
    late: RefCell<Vec<u32>>,
    lost: Cell<usize>,
}

pub async fn measure() -> Result<Vec<Row>> {
    keep_on_core()?;
    let mut rows = Vec::new();
    for (sockets, rate, reach) in CASES {
        let settings =
            ["ladder=[]", "chat.max_sockets=30000", "http.connections_max=40000", "http.connections_per_address=40000"];
        let weir = Server::weir_on(Some(SERVER_CORE), &settings).await?;
        let weir = LocalSet::new().run_until(case(weir, *sockets, *rate)).await?;
        let peer = async {
            let peer = Server::centrifugo_on(Some(SERVER_CORE)).await?;
            LocalSet::new().run_until(case(peer, *sockets, *rate)).await
        };
        // It may not be there, or break down under what it is to do.
        let peer = peer.await.inspect_err(|why| say(format_args!("the peer has no figures: {why:#}"))).ok();
        let ratio =
            |of: fn(&Found) -> f64| peer.as_ref().map_or("-".into(), |peer| format!("{:.2}", of(&weir) / of(peer)));
        let work = match rate {
            None => format!("chat, {sockets} sockets, one message at a time (peer: Centrifugo)"),
            Some(rate) => format!("chat, {sockets} sockets x {rate} messages/s (peer: Centrifugo)"),
        };
        let told = |found: &Found| match rate {
            None => format!("{:.1} us, {:.0} k/s", found.micros, found.rate / 1e3),
            Some(_) => format!(
                "{:.2} M/s, {:.0} % of a core, p50 {} ms, p99 {} ms",
                found.rate / 1e6,
                found.share,
                found.late[0],
                found.late[1]
            ),
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        rows.push(Row {
            work,
            reach,
            weir: told(&weir),
            peer: or_none(peer.as_ref().map(told)),
            ratio: ratio(|found| found.micros),
        });
        rows.push(Row {
            work: "the same: memory of a socket that idles".into(),
            reach: "<= 4 KB",
            weir: format!("{:.1} KB", weir.idle_kb),
            peer: or_none(peer.as_ref().map(|peer| format!("{:.1} KB", peer.idle_kb))),
            ratio: ratio(|found| found.idle_kb),
        });
    }
    Ok(rows)
}

/// The sockets of this process have one core.
fn keep_on_core() -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(LOAD_CORE);
    sched_setaffinity(None, &cores).context("this process cannot be kept on one core")
}

impl Seen {
    /// So many of the messages came no later, ms; what was seen is forgotten.
    fn percentiles(&self, shares: [f64; 2]) -> [u32; 2] {
        let mut late = self.late.take();
        late.sort_unstable();
        shares.map(|share| late.get((late.len() as f64 * share) as usize).copied().unwrap_or(0))
    }
}

/// What was found of one server.
struct Found {
    /// Server CPU per delivery.
    micros: f64,
    /// Deliveries per second.
    rate: f64,
    /// Of a core, percent.
    share: f64,
    /// The median and the 99th percentile, ms.
    late: [u32; 2],
    idle_kb: f64,
}

async fn case(server: Server, sockets: usize, rate: Option<u32>) -> Result<Found> {
    let bots = if server.kind == Kind::Weir { bots(&server)? } else { vec![String::new(); BOTS] };
    let idle = server.usage()?.memory.resident_mb;
    let seen = Rc::new(Seen::default());
    let mut joined = Vec::new();
    let begun = now();
    for lot in 0..sockets.div_ceil(500) {
        let some = (lot * 500..sockets.min((lot + 1) * 500)).map(|_| join(server.kind, server.address()));
        joined.extend(futures::future::try_join_all(some).await?);
    }
    let joining = now() - begun;
    for socket in joined {
        tokio::task::spawn_local(read(socket, seen.clone()));
    }
    sleep(Duration::from_secs(2)).await;
    let idle_kb = (server.usage()?.memory.resident_mb - idle) * 1024.0 / sockets as f64;
    let mut writers = Writers::open(&server, bots).await?;
    let (cpu, messages, took) = match rate {
        None => one_by_one(&server, &mut writers, sockets, &seen).await?,
        Some(rate) => steadily(&server, &mut writers, rate, &seen).await?,
    };
    let deliveries = seen.deliveries.get() as f64;
    let found = Found {
        micros: cpu.as_secs_f64() * 1e6 / deliveries,
        rate: deliveries / took.as_secs_f64(),
        share: cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
        late: seen.percentiles([0.5, 0.99]),
        idle_kb,
    };
    let after = (server.usage()?.memory.resident_mb - idle) * 1024.0 / sockets as f64;
    let told = deliveries / (f64::from(messages) * sockets as f64) * 100.0;
    say(format_args!(
        "{:?}: {sockets} sockets joined in {:.1} s, {idle_kb:.1} KB each ({after:.1} after): {messages} messages, {:.0} k/s, \
         {:.2} us, {:.0} % of a core, p50 {} ms, p99 {} ms; {told:.1} % told, {} sockets lost",
        server.kind,
        joining.as_secs_f64(),
        found.rate / 1e3,
        found.micros,
        found.share,
        found.late[0],
        found.late[1],
        seen.lost.get(),
    ));
    ensure!(server.kind != Kind::Weir || seen.lost.get() == 0, "{} sockets were closed", seen.lost.get());
    Ok(found)
}

/// Makes the stream and its bots; gives their tokens.
fn bots(server: &Server) -> Result<Vec<String>> {
    let bearer = format!("Bearer {}", server.admin_token()?);
    let post = |path: &str, body: String| -> Result<serde_json::Value> {
        let request =
            ureq::post(server.url(path)).header("authorization", &bearer).header("content-type", "application/json");
        Ok(serde_json::from_str(&request.send(body)?.body_mut().read_to_string()?)?)
    };
    post("/api/v1/streams", format!(r#"{{"id":"{STREAM}"}}"#))?;
    let bot = |n: usize| {
        let made = post(&format!("/api/v1/streams/{STREAM}/chat/bots"), format!(r#"{{"name":"Bot {n}"}}"#))?;
        made["token"].as_str().map(str::to_owned).context("no token")
    };
    (0..BOTS).map(bot).collect()
}

/// Opens a socket in the room.
async fn join(kind: Kind, address: SocketAddr) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(address).await?;
    let path = match kind {
        Kind::Centrifugo => "/connection/websocket".to_owned(),
        _ => format!("/api/v1/streams/{STREAM}/chat"),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    // The first word may come with it, which has no message.
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        ensure!(socket.read_buf(&mut head).await? > 0, "{}", String::from_utf8_lossy(&head));
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    if kind == Kind::Centrifugo {
        // It is told what to send; a mask of zeros changes nothing.
        let words = format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{STREAM}\"}}}}");
        let frame = [&[0x81, 0x80 | words.len() as u8, 0, 0, 0, 0], words.as_bytes()].concat();
        socket.write_all(&frame).await?;
    }
    Ok(socket)
}

/// Counts the messages that come: each has the time at which it was sent between two bars.
async fn read(mut socket: TcpStream, seen: Rc<Seen>) {
    let mut bytes = vec![0; 16 << 10];
    let (mut open, mut sent): (bool, u64) = (false, 0);
    loop {
        let count = match socket.read(&mut bytes).await {
            Ok(count) if count > 0 => count,
            _ => return seen.lost.set(seen.lost.get() + 1),
        };
        let mut deliveries = 0;
        for byte in &bytes[..count] {
            match byte {
                b'|' if open => {
                    open = false;
                    deliveries += 1;
                }
                b'|' => (open, sent) = (true, 0),
                digit if open => sent = sent * 10 + u64::from(digit.wrapping_sub(b'0')),
                _ => {}
            }
        }
        if deliveries > 0 {
            seen.deliveries.set(seen.deliveries.get() + deliveries);
            if !open {
                seen.late.borrow_mut().push((now() - Timestamp(sent)).as_millis() as u32);
            }
        }
    }
}

/// Bots on connections that stay open, which write in turn.
struct Writers {
    kind: Kind,
    turns: VecDeque<(TcpStream, String)>,
}

impl Writers {
    async fn open(server: &Server, bots: Vec<String>) -> Result<Self> {
        let mut turns = VecDeque::new();
        for token in bots {
            turns.push_back((TcpStream::connect(server.address()).await?, token));
        }
        Ok(Self { kind: server.kind, turns })
    }

    /// Has the next one write, and waits until it is stored.
    async fn write(&mut self) -> Result<()> {
        let (mut socket, token) = self.turns.pop_front().expect("there are some");
        let begin = format!("|{}|", now().0);
        let text = format!("{begin}{}", "x".repeat(TEXT - begin.len()));
        let (path, body, status) = match self.kind {
            Kind::Centrifugo => {
                let data = format!(
                    r#"{{"channel":"{STREAM}","data":{{"user":"g-0123456789ab","name":"Bot","text":"{text}"}}}}"#
                );
                ("/api/publish".to_owned(), data, "HTTP/1.1 200")
            }
            _ => (format!("/api/v1/streams/{STREAM}/chat"), format!(r#"{{"text":"{text}"}}"#), "HTTP/1.1 201"),
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = vec![0; 4096];
        let count = socket.read(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer[..count]);
        ensure!(text.starts_with(status), "an answer of {count} bytes: {text}");
        self.turns.push_back((socket, token));
        Ok(())
    }
}

/// Each message waits for the one before to come to all.
async fn one_by_one(
    server: &Server,
    writers: &mut Writers,
    sockets: usize,
    seen: &Seen,
) -> Result<(Duration, u32, Duration)> {
    let (before, begun, mut messages) = (server.usage()?.cpu, now(), 0);
    while now() - begun < MEASURED {
        writers.write().await?;
        messages += 1;
        while seen.deliveries.get() < u64::from(messages) * sockets as u64 {
            tokio::task::yield_now().await;
            ensure!(seen.lost.get() == 0 && now() - begun < MEASURED * 3, "messages do not come");
        }
    }
    Ok((server.usage()?.cpu - before, messages, now() - begun))
}

/// So many messages a second, whatever becomes of them.
async fn steadily(server: &Server, writers: &mut Writers, rate: u32, seen: &Seen) -> Result<(Duration, u32, Duration)> {
    let every = Duration::from_secs(1) / rate;
    // The first ones find everything cold.
    for _ in 0..rate {
        writers.write().await?;
    }
    sleep(Duration::from_secs(2)).await;
    seen.deliveries.set(0);
    seen.late.borrow_mut().clear();
    let (before, begun, mut messages) = (server.usage()?.cpu, now(), 0);
    while now() - begun < MEASURED {
        sleep(begun + every * messages - now()).await;
        writers.write().await?;
        messages += 1;
    }
    let took = now() - begun;
    sleep(Duration::from_secs(2)).await;
    Ok((server.usage()?.cpu - before, messages, took))
}
