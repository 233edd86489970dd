//! Load on a server: as much as it takes (wrk), or so many requests per second, each sent when it is due whatever became of
//! the ones before.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use weir::time::{Timestamp, now};

/// What wrk found: requests and megabytes per second.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    pub requests: f64,
    pub megabytes: f64,
}

/// Lets wrk ask for one URL on 64 connections as fast as it gets answers, from one core.
pub async fn most(core: usize, url: &str, seconds: u32) -> Result<Most> {
    let mut wrk = Command::new("taskset");
    wrk.args(["-c", &core.to_string(), "wrk", "-t1", "-c64", &format!("-d{seconds}s"), url]);
    let output = tokio::task::spawn_blocking(move || wrk.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!text.contains("Non-2xx"), "answers other than 200: {text}");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name} in {text}"))
    };
    let bytes = value("Transfer/sec:")?;
    let unit = [("GB", 1024.0 * 1.048576), ("MB", 1.048576), ("KB", 0.001024), ("B", 0.000001)];
    let (unit, factor) = unit.iter().find(|(unit, _)| bytes.ends_with(unit)).context("a unit")?;
    let megabytes = bytes.trim_end_matches(unit).parse::<f64>()? * factor;
    Ok(Most { requests: value("Requests/sec:")?.parse()?, megabytes })
}

/// Requests of one kind of viewer.
pub struct Paced {
    pub connections: usize,
    /// Of all connections together.
    pub per_second: f64,
    pub seconds: u32,
}

/// Sends requests at even distances; `path` names the object of each connection's `n`th. Gives the milliseconds from when
/// each was due to its last byte, sorted.
pub async fn paced(
    server: SocketAddr,
    paced: Paced,
    path: impl Fn(usize, usize) -> String + Send + Sync + 'static,
) -> Result<Vec<f64>> {
    let path = Arc::new(path);
    let mut sockets = Vec::new();
    for _ in 0..paced.connections {
        sockets.push(TcpStream::connect(server).await?);
    }
    let every = Duration::from_secs_f64(paced.connections as f64 / paced.per_second);
    let begin = now() + Duration::from_millis(200);
    let tasks = sockets.into_iter().enumerate().map(|(i, mut socket)| {
        let first = begin + every.mul_f64(i as f64 / paced.connections as f64);
        let (path, end) = (path.clone(), begin + Duration::from_secs(paced.seconds.into()));
        tokio::spawn(async move {
            let mut times = Vec::new();
            for n in 0.. {
                let due = first + every.mul_f64(f64::from(n));
                if due >= end {
                    break;
                }
                sleep(due - now()).await;
                times.push(ask(&mut socket, &path(i, n as usize), due).await?);
            }
            anyhow::Ok(times)
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// Asks on an open connection; gives the milliseconds from `due` to the last byte.
pub async fn ask(socket: &mut TcpStream, path: &str, due: Timestamp) -> Result<f64> {
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: weir\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(64 << 10);
    let (mut left, mut known) = (0, false);
    while !known || left > 0 {
        let read = socket.read_buf(&mut answer).await?;
        ensure!(read > 0, "closed: {}", String::from_utf8_lossy(&answer));
        if known {
            left -= read;
            answer.clear();
        } else if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
            left = length.trim().parse::<usize>()? + end + 4 - answer.len();
            known = true;
            answer.clear();
        }
    }
    Ok((now() - due).as_secs_f64() * 1000.0)
}

/// The value below which `share` of sorted values lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
