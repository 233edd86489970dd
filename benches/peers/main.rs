//! Weir beside its peer: the same publishers, the same machine, in turns.
//!
//! `cargo bench --bench peers -- [ingest|idle|first|latency|herd|serve|now|audience|crowd|export|chat|strain|scale|soak|cluster]... [--rounds N] [--seconds N]`; all but chat, strain, scale, soak and cluster when none is named.
//! `--seconds` is how long latency is watched, or soaked. Each prints its rows of the table in benches/README.md. Exit code 1 means that a measurement could not be made, never that a goal was missed.

mod audience;
mod browser;
mod chat;
mod clip;
mod cluster;
mod crowd;
mod export;
mod first;
mod herd;
mod idle;
mod ingest;
mod latency;
mod load;
mod now;
mod publisher;
mod scale;
mod serve;
mod server;
#[path = "../../tests/support/upstream.rs"]
mod upstream;
mod usage;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// A line of the table.
pub struct Row {
    pub work: String,
    pub reach: &'static str,
    pub weir: String,
    pub peer: String,
    pub ratio: String,
}

/// Tells the person who waits what is being done.
pub fn say(what: impl std::fmt::Display) {
    eprintln!("    {what}");
}

/// Gives the middle value; the mean of the two in the middle when their number is even.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("peers: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut wanted, mut rounds, mut seconds) = (Vec::new(), None, 120);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--rounds" => {
                let count: usize = arguments.next().context("--rounds takes a number")?.parse()?;
                rounds = Some(count.max(1));
            }
            "--seconds" => seconds = arguments.next().context("--seconds takes a number")?.parse::<u32>()?.max(30),
            "ingest" | "idle" | "first" | "latency" | "herd" | "serve" | "now" | "audience" | "crowd" | "export"
            | "chat" | "strain" | "scale" | "soak" | "cluster" => wanted.push(argument),
            other => bail!(
                "{other} is not known: ingest, idle, first, latency, herd, serve, now, crowd, export, chat, strain, scale, soak, cluster, --rounds N, --seconds N"
            ),
        }
    }
    if wanted.is_empty() {
        wanted.extend(
            ["ingest", "idle", "first", "latency", "herd", "serve", "now", "audience", "crowd", "export"]
                .map(String::from),
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("| work | reach | Weir | nginx | ratio |\n|---|---|---|---|---|");
    for name in wanted {
        eprintln!("==> {name}");
        let rows = runtime.block_on(async {
            match name.as_str() {
                "ingest" => ingest::measure(rounds.unwrap_or(3)).await,
                "idle" => idle::measure().await,
                "herd" => herd::measure(rounds.unwrap_or(5)).await,
                "crowd" => crowd::measure().await,
                "export" => export::measure().await,
                "chat" => chat::measure().await,
                "strain" => chat::strain::measure().await,
                "scale" => scale::measure().await,
                "cluster" => cluster::measure().await,
                "soak" => crowd::soak(seconds).await,
                "now" => now::measure(rounds.unwrap_or(5)).await,
                "audience" => audience::measure().await,
                "serve" => serve::measure(rounds.unwrap_or(5)).await,
                "first" => first::measure(rounds.unwrap_or(3)).await,
                _ => latency::measure(seconds).await,
            }
        })?;
        for Row { work, reach, weir, peer, ratio } in rows {
            println!("| {work} | {reach} | {weir} | {peer} | {ratio} |");
        }
    }
    Ok(())
}
