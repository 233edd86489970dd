//! One core serves what is in memory: Weir's edge beside nginx with the same bytes as files.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    Row,
    load::{self, Most, Paced, percentile},
    median, say,
    server::{Kind, Server},
    upstream::{Upstream, body},
};

/// The servers' core, and that of the load.
const CORES: (usize, usize) = (0, 1);
const SECONDS: u32 = 5;
const PLAYLIST: usize = 900;
const CHUNK: usize = 500_000;
/// Connections that idle, and viewers of the largest crowd: two descriptors each may not pass the limit of one process.
const IDLE: usize = 10_000;
/// The load's own core cannot pace more requests per second than that.
const PACE_MAX: f64 = 30_000.0;

struct Pair {
    weir: Server,
    nginx: Server,
    _upstream: Upstream,
}

impl Pair {
    async fn start(core: usize) -> Result<Self> {
        let object = |path: &str| body(if path.ends_with(".m3u8") { PLAYLIST } else { CHUNK });
        let upstream = Upstream::with(Duration::ZERO, "{\"ticket\":false,\"rows\":[]}", object);
        let settings = ["node.roles=[\"edge\"]", &format!("edge.upstream=[\"http://127.0.0.1:{}\"]", upstream.port)];
        let weir = Server::weir_on(Some(core), &settings).await?;
        let nginx = Server::nginx_on(Some(core), include_str!("nginx-files.conf")).await?;
        let folder = nginx.files().join("hls/a/01b/source");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("index.m3u8"), body(PLAYLIST))?;
        fs::write(folder.join("1.1.m4s"), body(CHUNK))?;
        Ok(Self { weir, nginx, _upstream: upstream })
    }

    fn both(&self) -> [&Server; 2] {
        [&self.weir, &self.nginx]
    }
}

fn path(server: &Server, len: usize) -> &'static str {
    match (len, server.kind) {
        // A playlist that stays fresh.
        (PLAYLIST, Kind::Weir) => "/hls/a/01b/source/index.m3u8?_HLS_msn=1",
        (PLAYLIST, Kind::Nginx) => "/hls/a/01b/source/index.m3u8",
        _ => "/hls/a/01b/source/1.1.m4s",
    }
}

pub async fn measure(rounds: usize) -> Result<Vec<Row>> {
    weir::rtmp::server::raise_fd_limit().context("too few descriptors")?;
    let mut rows = Vec::new();
    let pair = Pair::start(CORES.0).await?;
    let mut half = Vec::new();
    for (len, what, reach) in [
        (PLAYLIST, "playlist of 0.9 KB, 64 connections: requests/s", ">= 1.1 x"),
        (CHUNK, "chunk of 500 KB, 64 connections: MB/s", ">= 1.0 x"),
    ] {
        let (mut found, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..rounds {
            let mut of_round = Vec::new();
            for (server, found) in pair.both().into_iter().zip(&mut found) {
                let Most { requests, megabytes } = load::most(CORES.1, &server.url(path(server, len)), SECONDS).await?;
                let value = if len == PLAYLIST { requests } else { megabytes };
                say(format!("{:?}: {requests:.0} requests/s, {megabytes:.0} MB/s", server.kind));
                found.push(value);
                of_round.push((value, requests));
            }
            ratios.push(of_round[0].0 / of_round[1].0);
            half.push((len, of_round[0].1.min(of_round[1].1) / 2.0));
        }
        let [weir, nginx] = found.map(median);
        rows.push(Row {
            work: what.into(),
            reach,
            weir: format!("{weir:.0}"),
            peer: format!("{nginx:.0}"),
            ratio: format!("{:.2} ({})", median(ratios.clone()), list(&ratios)),
        });
    }
    for (len, what) in [(PLAYLIST, "playlist"), (CHUNK, "chunk")] {
        let of_len = half.iter().filter(|(of, _)| *of == len).map(|(_, rate)| *rate);
        let rate = median(of_len).min(PACE_MAX);
        let mut p99 = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (server, p99) in pair.both().into_iter().zip(&mut p99) {
                let paced = Paced { connections: 64, per_second: rate, seconds: SECONDS };
                let name = path(server, len);
                let times = load::paced(server.address(), paced, move |_, _| name.to_owned()).await?;
                say(format!(
                    "{:?}: p50 {:.2}, p99 {:.2} ms",
                    server.kind,
                    percentile(&times, 0.5),
                    percentile(&times, 0.99)
                ));
                p99.push(percentile(&times, 0.99));
            }
        }
        let [weir, nginx] = p99.map(median);
        rows.push(Row {
            work: format!("{what}, {rate:.0} requests/s on 64 connections: p99"),
            reach: "<= 1.0 x",
            weir: format!("{weir:.2} ms"),
            peer: format!("{nginx:.2} ms"),
            ratio: format!("{:.2}", weir / nginx),
        });
    }
    rows.push(idle(&pair).await?);
    Ok(rows)
}

/// Memory of connections that had one answer and stay open.
async fn idle(pair: &Pair) -> Result<Row> {
    let mut each = Vec::new();
    for server in pair.both() {
        let before = server.usage()?.memory.resident_mb;
        let mut sockets = Vec::new();
        for _ in 0..IDLE {
            let mut socket = TcpStream::connect(server.address()).await?;
            let name = path(server, PLAYLIST);
            socket.write_all(format!("GET {name} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
            let mut got = Vec::new();
            while got.len() < PLAYLIST || !got.ends_with(&body(PLAYLIST)) {
                socket.read_buf(&mut got).await?;
            }
            sockets.push(socket);
        }
        sleep(Duration::from_secs(1)).await;
        let grown = server.usage()?.memory.resident_mb - before;
        each.push(grown * 1_048_576.0 / IDLE as f64 / 1000.0);
    }
    Ok(Row {
        work: format!("{IDLE} idle keep-alive connections: memory of each"),
        reach: "<= 12 KB",
        weir: format!("{:.1} KB", each[0]),
        peer: format!("{:.1} KB", each[1]),
        ratio: format!("{:.1}", each[0] / each[1]),
    })
}

fn list(ratios: &[f64]) -> String {
    ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ")
}
