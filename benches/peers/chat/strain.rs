//! A room under strain: readers that take nothing, all sockets coming back at once, and pollers. Weir alone: nobody else promises this.

use std::{cell::Cell, process::Stdio, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::{LocalSet, spawn_local},
    time::{sleep, timeout},
};
use weir::{
    chat::hub::{SLOT, slot_bounds, slot_of},
    time::{now, unix_now},
};

use crate::{browser::Browser, usage};

use super::{MOST, Row, SERVER_CORE, STREAM, Seen, Server, Writers, bots, join, keep_on_core, read, say, steadily};

/// Readers who take what comes, and those who take nothing.
const READERS: usize = 4_000;
const SLOW: usize = 1_000;
/// Messages a second.
const RATE: u32 = 100;
/// All sockets come back within this.
const STORM: Duration = Duration::from_secs(10);
const POLLERS: usize = 10_000;

pub async fn measure() -> Result<Vec<Row>> {
    keep_on_core()?;
    let mut rows = Vec::new();
    for case in [Case::Slow, Case::Storm, Case::Polls, Case::Page] {
        let settings =
            ["ladder=[]", "chat.max_sockets=30000", "http.connections_max=40000", "http.connections_per_address=40000"];
        let server = Server::weir_on(Some(SERVER_CORE), &settings).await?;
        let found = LocalSet::new();
        rows.push(found.run_until(case.run(&server)).await?);
    }
    Ok(rows)
}

#[derive(Debug, Clone, Copy)]
enum Case {
    Slow,
    Storm,
    Polls,
    Page,
}

impl Case {
    async fn run(self, server: &Server) -> Result<Row> {
        match self {
            Case::Slow => slow(server).await,
            Case::Storm => storm(server).await,
            Case::Polls => polls(server).await,
            Case::Page => page(server).await,
        }
    }
}

fn row(work: String, reach: &'static str, weir: String) -> Row {
    Row { work, reach, weir, peer: "-".into(), ratio: "-".into() }
}

/// Readers who take all that comes.
async fn readers(server: &Server, count: usize, seen: &Rc<Seen>) -> Result<()> {
    for lot in 0..count.div_ceil(500) {
        let some = (lot * 500..count.min((lot + 1) * 500)).map(|_| join(server.kind, server.address()));
        for socket in futures::future::try_join_all(some).await? {
            spawn_local(read(socket, seen.clone()));
        }
    }
    Ok(())
}

async fn slow(server: &Server) -> Result<Row> {
    let (bots, seen) = (bots(server)?, Rc::new(Seen::default()));
    readers(server, READERS, &seen).await?;
    let mut writers = Writers::open(server, bots).await?;
    let mut found = Vec::new();
    let mut sleepers = Vec::new();
    for lot in [0, SLOW] {
        for _ in 0..lot {
            let socket = join(server.kind, server.address()).await?;
            set_socket_recv_buffer_size(&socket, 4096)?;
            sleepers.push(socket);
        }
        let (cpu, messages, took) = steadily(server, &mut writers, RATE, &seen).await?;
        let told = seen.deliveries.get() as f64 / (f64::from(messages) * READERS as f64) * 100.0;
        let (p99, memory) = (seen.percentiles([0.5, 0.99])[1], server.usage()?.memory.resident_mb);
        let share = cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
        say(format_args!("{lot} slow readers: p99 {p99} ms, {memory:.0} MB, {share:.0} % of a core, {told:.1} % told"));
        found.push((p99, memory, share));
    }
    ensure!(seen.lost.get() == 0, "{} readers were closed", seen.lost.get());
    let [(p99, memory, share), (p99_then, memory_then, share_then)] = found[..] else { unreachable!("two cases") };
    Ok(row(
        format!("chat, {READERS} sockets x {RATE} messages/s, without and with {SLOW} that read nothing"),
        "memory and p99 as before",
        format!(
            "p99 {p99} and {p99_then} ms, {memory:.0} and {memory_then:.0} MB, {share:.0} and {share_then:.0} % of a core"
        ),
    ))
}

/// All sockets are lost, and come back by chance within ten seconds, while people write.
async fn storm(server: &Server) -> Result<Row> {
    let (bots, seen) = (bots(server)?, Rc::new(Seen::default()));
    let mut first = Vec::new();
    for _ in 0..MOST.div_ceil(500) {
        first.extend(
            futures::future::try_join_all(
                (0..500.min(MOST - first.len())).map(|_| join(server.kind, server.address())),
            )
            .await?,
        );
    }
    let memory = server.usage()?.memory.resident_mb;
    let mut writers = Writers::open(server, bots).await?;
    drop(first);
    let (before, begun) = (server.usage()?.cpu, now());
    let refused = Rc::new(Cell::new(0_usize));
    let late = Rc::new(Cell::new(Duration::ZERO));
    let (joined, kind, address) = (Rc::new(Cell::new(0_usize)), server.kind, server.address());
    for n in 0..MOST {
        let (seen, joined, refused, late) = (seen.clone(), joined.clone(), refused.clone(), late.clone());
        spawn_local(async move {
            sleep(STORM.mul_f64(n as f64 / MOST as f64)).await;
            let asked = now();
            match timeout(Duration::from_secs(10), join(kind, address)).await {
                Ok(Ok(socket)) => {
                    late.set(late.get().max(now() - asked));
                    joined.set(joined.get() + 1);
                    read(socket, seen).await;
                }
                _ => refused.set(refused.get() + 1),
            }
        });
    }
    let mut messages = 0;
    while joined.get() + refused.get() < MOST {
        sleep(begun + Duration::from_millis(100) * messages - now()).await;
        writers.write().await?;
        messages += 1;
    }
    let took = now() - begun;
    let share = (server.usage()?.cpu - before).as_secs_f64() / took.as_secs_f64() * 100.0;
    sleep(Duration::from_secs(2)).await;
    let (after, p99) = (server.usage()?.memory.resident_mb, seen.percentiles([0.5, 0.99])[1]);
    say(format_args!("{messages} messages meanwhile; {} refused, {} lost", refused.get(), seen.lost.get()));
    ensure!(refused.get() == 0 && seen.lost.get() == 0, "{} refused, {} lost", refused.get(), seen.lost.get());
    Ok(row(
        format!("chat, {MOST} sockets that are lost and come back within 10 s, 10 messages/s meanwhile"),
        "all are back",
        format!(
            "back in {:.1} s, the slowest took {:.0} ms, {share:.0} % of a core, p99 {p99} ms, {memory:.0} MB before, {after:.0} after",
            took.as_secs_f64(),
            late.get().as_secs_f64() * 1e3
        ),
    ))
}

/// Pollers who ask for each slot of two seconds. Beside it nginx gives as many a file of the same size.
async fn polls(server: &Server) -> Result<Row> {
    let mut writers = Writers::open(server, bots(server)?).await?;
    let write = async {
        let begun = now();
        for messages in 0_u32.. {
            sleep(begun + Duration::from_millis(50) * messages - now()).await;
            writers.write().await?;
        }
        Ok(Polled::default())
    };
    let slots = poll_all(server, |slot| format!("/api/v1/streams/{STREAM}/chat/slots/{slot}"));
    let found = tokio::select! {
        found = slots => found,
        failed = write => failed,
    }?;
    let nginx = Server::nginx_on(Some(SERVER_CORE), include_str!("../nginx-files.conf")).await?;
    let folder = nginx.files().join("hls");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("slot.m4s"), vec![b'x'; found.bytes as usize])?;
    let peer = poll_all(&nginx, |_| "/hls/slot.m4s".into()).await?;
    Ok(Row {
        work: format!("chat, {POLLERS} pollers, a slot each 2 s, 20 messages/s (peer: nginx, a file)"),
        reach: "< 10 % of a core",
        weir: found.to_string(),
        peer: peer.to_string(),
        ratio: format!("{:.2}", found.micros / peer.micros),
    })
}

/// What pollers cost.
#[derive(Debug, Default)]
struct Polled {
    /// Of a core, percent.
    share: f64,
    /// Answers per second, their size, and what each costs.
    rate: f64,
    bytes: f64,
    micros: f64,
}

impl std::fmt::Display for Polled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { share, rate, bytes, micros } = self;
        write!(f, "{share:.1} % of a core, {rate:.0} answers/s of {:.1} KB, {micros:.1} us each", bytes / 1e3)
    }
}

/// All pollers, on connections that stay open, each a little later than the others.
async fn poll_all(server: &Server, path: impl Fn(u64) -> String) -> Result<Polled> {
    const SLOTS: u64 = 6;
    let mut sockets = Vec::new();
    for _ in 0..POLLERS.div_ceil(500) {
        let some = (0..500).map(|_| TcpStream::connect(server.address()));
        sockets.extend(futures::future::try_join_all(some).await?);
    }
    let first = slot_of(unix_now()) + 2;
    let (answers, bytes) = (&Cell::new(0_u64), &Cell::new(0_u64));
    let path = &path;
    let over = |slot| slot_bounds(slot).1.at();
    let poll = |(n, mut socket): (usize, TcpStream)| async move {
        let mut buffer = vec![0; 16 << 10];
        for slot in first..first + SLOTS {
            // What was told in a slot is asked for when it is over.
            sleep(over(slot).since(unix_now()) + SLOT.mul_f64(n as f64 / POLLERS as f64)).await;
            let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path(slot));
            socket.write_all(request.as_bytes()).await?;
            let mut got = 0;
            let whole = loop {
                let count = socket.read(&mut buffer[got..]).await?;
                ensure!(count > 0, "a poller was closed");
                got += count;
                if let Some(whole) = whole(&buffer[..got])? {
                    break whole;
                }
            };
            ensure!(got == whole, "{got} bytes instead of {whole}");
            bytes.set(bytes.get() + got as u64);
            answers.set(answers.get() + 1);
        }
        Ok(())
    };
    let all = join_all(sockets.into_iter().enumerate().map(poll));
    sleep(over(first).since(unix_now())).await;
    let (before, begun) = (server.usage()?.cpu, now());
    all.await.into_iter().collect::<Result<()>>()?;
    let (cpu, took) = (server.usage()?.cpu - before, now() - begun);
    let (answers, bytes) = (answers.get() as f64, bytes.get() as f64);
    Ok(Polled {
        share: cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
        rate: answers / took.as_secs_f64(),
        bytes: bytes / answers,
        micros: cpu.as_secs_f64() * 1e6 / answers,
    })
}

/// A page in a browser beside which much is said.
async fn page(server: &Server) -> Result<Row> {
    const RATE: u32 = 200;
    let (reach, work) = ("< 20 % of a core", format!("chat, {RATE} messages/s on the page, in Chromium"));
    let Some(browser) = Browser::find() else { return Ok(row(work, reach, "no browser".into())) };
    let bots = bots(server)?;
    let mut writers = Writers::open(server, bots).await?;
    let mut child = browser.stay(&server.url(&format!("/chat/{STREAM}")), 60).stderr(Stdio::piped()).spawn()?;
    let pid = child.id().context("it has ended")?;
    let mut said = BufReader::new(child.stderr.take().context("it is piped")?).lines();
    ensure!(said.next_line().await?.as_deref() == Some("open"), "the page does not open");
    // What a page costs that has just been opened is not what is asked.
    sleep(Duration::from_secs(5)).await;
    let mut shares = Vec::new();
    for rate in [0, RATE] {
        let (before, begun, mut messages) = (usage::of(pid)?.cpu, now(), 0);
        while now() - begun < Duration::from_secs(15) {
            if rate == 0 {
                sleep(Duration::from_secs(1)).await;
            } else {
                sleep(begun + Duration::from_secs(1) / rate * messages - now()).await;
                writers.write().await?;
                messages += 1;
            }
        }
        shares.push((usage::of(pid)?.cpu - before).as_secs_f64() / (now() - begun).as_secs_f64() * 100.0);
    }
    child.kill().await?;
    Ok(row(work, reach, format!("{:.0} % of a core, {:.0} % while nothing is said", shares[1], shares[0])))
}

/// How long an answer is, once its head is there.
fn whole(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()));
    let whole = end + 4 + length.context("no length")??;
    Ok((bytes.len() >= whole).then_some(whole))
}
