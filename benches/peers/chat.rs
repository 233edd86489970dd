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

use crate::{Row, say, server::Server};

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
    let mut cores = CpuSet::new();
    cores.set(LOAD_CORE);
    sched_setaffinity(None, &cores).context("this process cannot be kept on one core")?;
    let mut rows = Vec::new();
    for (sockets, rate, reach) in CASES {
        rows.extend(LocalSet::new().run_until(case(*sockets, *rate, reach)).await?);
    }
    Ok(rows)
}

async fn case(sockets: usize, rate: Option<u32>, reach: &'static str) -> Result<Vec<Row>> {
    let settings =
        ["ladder=[]", "chat.max_sockets=30000", "http.connections_max=40000", "http.connections_per_address=40000"];
    let server = Server::weir_on(Some(SERVER_CORE), &settings).await?;
    let bots = bots(&server)?;
    let idle = server.usage()?.memory.resident_mb;
    let seen = Rc::new(Seen::default());
    let mut joined = Vec::new();
    let begun = now();
    for lot in 0..sockets.div_ceil(500) {
        let some = (lot * 500..sockets.min((lot + 1) * 500)).map(|_| join(server.address()));
        joined.extend(futures::future::try_join_all(some).await?);
    }
    let joining = now() - begun;
    for socket in joined {
        tokio::task::spawn_local(read(socket, seen.clone()));
    }
    sleep(Duration::from_secs(2)).await;
    let each = (server.usage()?.memory.resident_mb - idle) * 1024.0 / sockets as f64;
    let mut writers = Writers::open(&server, bots).await?;
    let (cpu, messages, took) = match rate {
        None => one_by_one(&server, &mut writers, sockets, &seen).await?,
        Some(rate) => steadily(&server, &mut writers, rate, &seen).await?,
    };
    let deliveries = seen.deliveries.get() as f64;
    ensure!(seen.lost.get() == 0, "{} sockets were closed", seen.lost.get());
    let mut late = seen.late.take();
    late.sort_unstable();
    let percentile = |share: f64| late.get((late.len() as f64 * share) as usize).copied().unwrap_or(0);
    let (micros, share) = (cpu.as_secs_f64() * 1e6 / deliveries, cpu.as_secs_f64() / took.as_secs_f64() * 100.0);
    let after = (server.usage()?.memory.resident_mb - idle) * 1024.0 / sockets as f64;
    let told = deliveries / (f64::from(messages) * sockets as f64) * 100.0;
    say(format_args!(
        "{sockets} sockets joined in {:.1} s, {each:.1} KB each ({after:.1} after): {messages} messages, {:.0} k/s, {micros:.2} us, \
         {share:.0} % of a core, p50 {} ms, p99 {} ms, {told:.1} % told",
        joining.as_secs_f64(),
        deliveries / took.as_secs_f64() / 1e3,
        percentile(0.5),
        percentile(0.99),
    ));
    let work = match rate {
        None => format!("chat, {sockets} sockets, one message at a time: server CPU per delivery"),
        Some(rate) => format!("chat, {sockets} sockets x {rate} messages/s"),
    };
    let weir = match rate {
        None => format!("{micros:.1} us, {:.0} k/s", deliveries / took.as_secs_f64() / 1e3),
        Some(_) => format!(
            "{:.2} M/s, {share:.0} % of a core, p50 {} ms, p99 {} ms",
            deliveries / took.as_secs_f64() / 1e6,
            percentile(0.5),
            percentile(0.99)
        ),
    };
    let row = |work, reach, weir| Row { work, reach, weir, peer: "-".into(), ratio: "-".into() };
    Ok(vec![
        row(work, reach, weir),
        row(
            format!("chat, {sockets} sockets: memory of one that idles; after the above"),
            "<= 4 KB",
            format!("{each:.1} KB; {after:.1} KB"),
        ),
    ])
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

/// Opens a socket that knows all there is.
async fn join(address: SocketAddr) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!(
        "GET /api/v1/streams/{STREAM}/chat HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(socket.read(&mut byte).await? == 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
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
    turns: VecDeque<(TcpStream, String)>,
}

impl Writers {
    async fn open(server: &Server, bots: Vec<String>) -> Result<Self> {
        let mut turns = VecDeque::new();
        for token in bots {
            turns.push_back((TcpStream::connect(server.address()).await?, token));
        }
        Ok(Self { turns })
    }

    /// Has the next one write, and waits until it is stored.
    async fn write(&mut self) -> Result<()> {
        let (mut socket, token) = self.turns.pop_front().expect("there are some");
        let begin = format!("|{}|", now().0);
        let body = format!(r#"{{"text":"{begin}{}"}}"#, "x".repeat(TEXT - begin.len()));
        let request = format!(
            "POST /api/v1/streams/{STREAM}/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = vec![0; 4096];
        let count = socket.read(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer[..count]);
        ensure!(text.starts_with("HTTP/1.1 201"), "{text}");
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
