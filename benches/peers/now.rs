//! What a stream plays, for a crowd that polls: one core of Weir beside nginx with the same bytes as a file.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{
    Row,
    load::{self, Most, Paced, percentile},
    median, say,
    server::{Server, get},
};

/// The servers' core, and that of the load.
const CORES: (usize, usize) = (0, 1);
const SECONDS: u32 = 5;
/// Bytes of what else is told, so that the answer is as long as the playlist of *serve*.
const DATA: usize = 740;
const WEIR: &str = "/api/v1/streams/radio/now";
const NGINX: &str = "/now.m3u8";
/// The load's own core cannot pace more requests per second than that.
const PACE: f64 = 30_000.0;

pub async fn measure(rounds: usize) -> Result<Vec<Row>> {
    weir::rtmp::server::raise_fd_limit().context("too few descriptors")?;
    let weir = Server::weir_on(Some(CORES.0), &["ladder=[]"]).await?;
    let song = format!(r#"{{"title":"A song","artist":"Ann","data":"{}"}}"#, "x".repeat(DATA));
    let bearer = format!("Bearer {}", weir.admin_token()?);
    ureq::put(weir.url(WEIR)).header("authorization", &bearer).send(song)?;
    let told = get(weir.url(WEIR)).await.context("Weir does not say what plays")?;
    let nginx = Server::nginx_on(Some(CORES.0), include_str!("nginx-files.conf")).await?;
    fs::write(nginx.files().join(NGINX.trim_start_matches('/')), &told)?;
    let both = [(&weir, WEIR), (&nginx, NGINX)];
    let (mut found, mut ratios, mut p99) = ([Vec::new(), Vec::new()], Vec::new(), [Vec::new(), Vec::new()]);
    let before = looks(&weir).await?;
    for _ in 0..rounds {
        let mut of_round = Vec::new();
        for ((server, path), found) in both.into_iter().zip(&mut found) {
            let Most { requests, .. } = load::most(CORES.1, &server.url(path), SECONDS).await?;
            say(format!("{:?}: {requests:.0} requests/s", server.kind));
            found.push(requests);
            of_round.push(requests);
        }
        ratios.push(of_round[0] / of_round[1]);
        for ((server, path), p99) in both.into_iter().zip(&mut p99) {
            let paced = Paced { connections: 64, per_second: PACE, seconds: SECONDS };
            let times = load::paced(server.address(), paced, move |_, _| path.to_owned()).await?;
            p99.push(percentile(&times, 0.99));
        }
    }
    let looked = looks(&weir).await? - before;
    ensure!(looked == 0, "{looked} looks into the store");
    let each = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ");
    let ([weir, nginx], [weir_p99, nginx_p99]) = (found.map(median), p99.map(median));
    Ok(vec![
        Row {
            work: format!("what plays, {} bytes, 64 connections: requests/s; none of them reads the store", told.len()),
            reach: ">= 1.1 x",
            weir: format!("{weir:.0}"),
            peer: format!("{nginx:.0}"),
            ratio: format!("{:.2} ({each})", median(ratios)),
        },
        Row {
            work: format!("the same, {PACE:.0} requests/s: p99"),
            reach: "<= 1.0 x",
            weir: format!("{weir_p99:.2} ms"),
            peer: format!("{nginx_p99:.2} ms"),
            ratio: format!("{:.2}", weir_p99 / nginx_p99),
        },
    ])
}

/// How often the node has looked into its store for what a stream plays.
async fn looks(weir: &Server) -> Result<u64> {
    let metrics = get(weir.url("/metrics")).await.context("no metrics")?;
    let text = String::from_utf8(metrics)?;
    let count = text.lines().find_map(|line| line.strip_prefix("weir_now_looks_total "));
    Ok(count.context("no count of looks")?.parse()?)
}
