//! What viewers cost a node: growing crowds, a rush of new tickets, players that wait, and memory that must not grow.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    time::sleep,
};
use weir::time::now;

use crate::{
    Row,
    clip::Clip,
    load::{self, Paced, percentile},
    publisher::Publisher,
    say,
    server::{Server, get_text},
    upstream::{Upstream, body},
};

const SECONDS: u32 = 10;
/// A small rendition's chunk of 2 s, 200 kb/s.
const CHUNK: usize = 50_000;
const PLAYLIST: usize = 900;
/// Each viewer asks once a second: for a playlist, then for a chunk.
const CROWDS: [usize; 3] = [100, 1_000, 9_000];
const RUSH: usize = 20_000;
const WAITING: usize = 5_000;

/// For this bench alone (RFC 8037 appendix A.1).
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

/// An edge, and the upstream that it knows.
struct Edge {
    server: Server,
    upstream: Upstream,
}

impl Edge {
    async fn start(access: serde_json::Value, more: &[&str]) -> Result<Self> {
        let object = |path: &str| body(if path.ends_with(".m3u8") { PLAYLIST } else { CHUNK });
        let upstream = Upstream::with(Duration::ZERO, &access.to_string(), object);
        let to = format!("edge.upstream=[\"http://127.0.0.1:{}\"]", upstream.port);
        let server = Server::weir(&[&["node.roles=[\"edge\"]", to.as_str()], more].concat()).await?;
        Ok(Self { server, upstream })
    }
}

pub async fn measure() -> Result<Vec<Row>> {
    weir::rtmp::server::raise_fd_limit().context("too few descriptors")?;
    let mut rows = Vec::new();
    for viewers in CROWDS {
        rows.push(grow(viewers).await.with_context(|| format!("{viewers} viewers"))?);
    }
    rows.push(rush().await?);
    rows.push(waiting().await?);
    Ok(rows)
}

fn row(work: String, reach: &'static str, weir: String) -> Row {
    Row { work, reach, weir, peer: "-".into(), ratio: "-".into() }
}

/// Every 2 s each viewer fetches a playlist and a chunk that is new then.
async fn grow(viewers: usize) -> Result<Row> {
    let edge = Edge::start(json!({ "ticket": false, "rows": [] }), &[]).await?;
    let paced = Paced { connections: viewers, per_second: viewers as f64, seconds: SECONDS };
    let (before, asked) = (edge.server.usage()?, edge.upstream.asked());
    let times = load::paced(edge.server.address(), paced, |_, n| match n % 2 {
        0 => format!("/hls/a/01b/source/index.m3u8?_HLS_msn={}", n / 2),
        _ => format!("/hls/a/01b/source/{}.1.m4s", n / 2),
    })
    .await?;
    let after = edge.server.usage()?;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / f64::from(SECONDS) * 100.0;
    let p99 = percentile(&times, 0.99);
    let fetches = edge.upstream.asked() - asked;
    say(format!("{viewers} viewers: {cpu:.1} % of a core, p99 {p99:.1} ms, {fetches} fetches"));
    Ok(row(
        format!("edge, {viewers} viewers with a playlist and a {} KB chunk every 2 s", CHUNK / 1000),
        "grows with viewers, fetches do not",
        format!(
            "{cpu:.1} % of a core ({:.2} % per 1,000), p99 {p99:.1} ms, {fetches} fetches, {:.0} MB",
            cpu / viewers as f64 * 1000.0,
            after.memory.resident_mb
        ),
    ))
}

/// 20,000 viewers with new tickets come at once while others fetch chunks.
async fn rush() -> Result<Row> {
    let key = json!({ "ticket_key": { "kid": "ed", "signature": "EdDSA", "text": PUBLIC, "own": false } });
    let edge = Edge::start(json!({ "ticket": true, "rows": [key] }), &[]).await?;
    let key = EncodingKey::from_ed_pem(PRIVATE.as_bytes())?;
    let header = Header { kid: Some("ed".into()), ..Header::new(Algorithm::EdDSA) };
    let sign = |i: usize| {
        let claims = json!({ "stream": "a", "exp": 4_000_000_000_u64, "iat": 1, "jti": format!("ticket-{i}") });
        jsonwebtoken::encode(&header, &claims, &key)
    };
    let mine = sign(RUSH)?;
    let tickets: Arc<Vec<String>> = Arc::new((0..RUSH).map(sign).collect::<Result<_, _>>()?);
    let address = edge.server.address();
    let watch = |seconds| {
        let mine = mine.clone();
        let paced = Paced { connections: 64, per_second: 1000.0, seconds };
        load::paced(address, paced, move |_, n| format!("/t/{mine}/hls/a/01b/source/{}.1.m4s", n / 50))
    };
    let idle = percentile(&watch(4).await?, 0.99);
    let door = async {
        sleep(Duration::from_secs(1)).await;
        let begun = now();
        let queues = (0..32).map(|queue| {
            let tickets = tickets.clone();
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(address).await?;
                for i in (queue..RUSH).step_by(32) {
                    let path = format!("/t/{}/hls/a/01b/source/index.m3u8?_HLS_msn=1", tickets[i]);
                    load::ask(&mut socket, &path, now()).await?;
                }
                anyhow::Ok(())
            })
        });
        for queue in queues.collect::<Vec<_>>() {
            queue.await??;
        }
        anyhow::Ok((now() - begun).as_secs_f64())
    };
    let (times, took) = tokio::try_join!(watch(4), door)?;
    let busy = percentile(&times, 0.99);
    say(format!("{RUSH} tickets in {took:.2} s; chunks: p99 {idle:.2} ms before, {busy:.2} ms meanwhile"));
    Ok(row(
        format!("{RUSH} new EdDSA tickets as fast as 32 connections bring them, chunk fetches beside them"),
        "p99 < 2 x before",
        format!("{took:.2} s; p99 {idle:.2} ms before, {busy:.2} ms meanwhile ({:.1} x)", busy / idle),
    ))
}

/// Players that wait for the next part of a real stream.
async fn waiting() -> Result<Row> {
    let server = Server::weir(&["ladder=[]"]).await?;
    let mut publisher = Publisher::start(server.rtmp, "live", "x", Arc::new(Clip::steady()?)).await?;
    let master = server.playlist("x");
    let mut playlist = None;
    for _ in 0..200 {
        let text = get_text(master.clone()).await.unwrap_or_default();
        if let Some(uri) = text.lines().find(|line| line.ends_with("source/index.m3u8")) {
            playlist = Some(format!("/hls/x/{uri}"));
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let playlist = playlist.context("the stream does not come")?;
    let mut sockets = Vec::new();
    for _ in 0..WAITING {
        sockets.push(TcpStream::connect(server.address()).await?);
    }
    let text = get_text(server.url(&playlist)).await.context("a playlist")?;
    let chunks = text.lines().filter(|line| line.starts_with("#EXTINF")).count();
    let first = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:")).context("a sequence")?;
    // The chunk after the next one's end: all of them are there long before it is.
    let k = first.trim().parse::<usize>()? + chunks + 1;
    let together = Arc::new(Barrier::new(WAITING + 1));
    let before = server.usage()?;
    let tasks = sockets.into_iter().map(|mut socket| {
        let (path, together) = (format!("{playlist}?_HLS_msn={k}"), together.clone());
        tokio::spawn(async move {
            socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
            together.wait().await;
            let mut answer = Vec::new();
            socket.read_buf(&mut answer).await?;
            let at = now();
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            anyhow::Ok(at)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    together.wait().await;
    sleep(Duration::from_millis(500)).await;
    let (held, held_at) = (server.usage()?, now());
    let mut answered = Vec::new();
    for task in tasks {
        answered.push(task.await??);
    }
    publisher.check().await?;
    answered.sort();
    let spread = (*answered.last().expect("some") - answered[0]).as_secs_f64() * 1000.0;
    let waited = (answered[0] - held_at).as_secs_f64();
    let memory = (held.memory.resident_mb - before.memory.resident_mb) * 1_048_576.0 / WAITING as f64 / 1000.0;
    say(format!("{WAITING} held for more than {waited:.1} s: {memory:.1} KB each, all answered in {spread:.0} ms"));
    Ok(row(
        format!("{WAITING} blocked reloads on one node"),
        "woken by one event",
        format!("all answered within {spread:.0} ms of the first, {memory:.1} KB each while they wait"),
    ))
}

/// An edge whose cache is full, for a long time: new chunks come faster than they fit.
pub async fn soak(seconds: u32) -> Result<Vec<Row>> {
    let edge = Edge::start(json!({ "ticket": false, "rows": [] }), &["edge.memory_mb=64"]).await?;
    let mut seen = Vec::new();
    let begun = now();
    for round in 0_usize.. {
        let paced = Paced { connections: 50, per_second: 1000.0, seconds: 10 };
        load::paced(edge.server.address(), paced, move |_, n| {
            format!("/hls/a/01b/source/{}.1.m4s", round * 1_000_000 + n)
        })
        .await?;
        let mb = edge.server.usage()?.memory.resident_mb;
        seen.push(mb);
        say(format!("{:.0} s: {mb:.1} MB", (now() - begun).as_secs_f64()));
        if now() - begun >= Duration::from_secs(seconds.into()) {
            break;
        }
    }
    // The first minute fills the cache.
    let full = &seen[seen.len().min(6) - 1..];
    let (least, most) = full.iter().fold((f64::MAX, 0.0_f64), |(least, most), mb| (least.min(*mb), most.max(*mb)));
    Ok(vec![row(
        format!("edge with a full cache of 64 MiB, 20 new chunks/s for {seconds} s: RSS"),
        "flat",
        format!("{least:.0} to {most:.0} MB after the first minute, {:.0} MB at the end", seen[seen.len() - 1]),
    )])
}
