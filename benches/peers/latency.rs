//! From the publisher's socket to the picture in Chromium, by the wall clock in the playlist, on the watch page.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::sleep,
};

use crate::{Row, browser::Browser, clip::Clip, publisher::Publisher, say, server::Server};

/// A player that joins comes nearer by a tenth of a second per second.
const SETTLES_S: f64 = 15.0;

struct Case {
    what: &'static str,
    reach: &'static str,
    settings: &'static [&'static str],
    quality: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case { what: "source", reach: "p50 <= 1.4 s, p99 <= 1.6 s", settings: &["ladder=[]"], quality: None },
    Case {
        what: "480p of a ladder, with a ticket",
        reach: "p50 <= 1.8 s, p99 <= 2.5 s",
        settings: &["auth.playback=ticket"],
        quality: Some("480p"),
    },
    Case {
        what: "source, parts of 0.2 s",
        reach: "p50 <= 1.0 s",
        settings: &["ladder=[]", "live.part=0.2s"],
        quality: None,
    },
];

pub async fn measure(seconds: u32) -> Result<Vec<Row>> {
    let clip = Arc::new(Clip::steady()?);
    let Some(browser) = Browser::find() else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for case in CASES {
        let server = Server::weir(case.settings).await?;
        let mut publisher = Publisher::start(server.rtmp, "live", "x", clip.clone()).await?;
        // The first chunk, and those of the slower rungs.
        sleep(Duration::from_secs(6)).await;
        // A stream that needs none takes it too.
        let page = server.ticketed_page("x")?;
        let told = play(&browser, &page, case.quality, seconds).await?;
        publisher.check().await?;
        let [p50, p99] = [50, 99].map(|percent| told.behind[(told.behind.len() - 1) * percent / 100]);
        let drift = told.drift;
        let (stalls, first) = (told.stalls, told.first_ms / 1000.0);
        say(format_args!("{}: {p50:.2} s, p99 {p99:.2} s, {stalls} stalls, drift {drift:+.2} s", case.what));
        rows.push(Row {
            work: format!("{}: publisher to picture in Chromium, {seconds} s", case.what),
            reach: case.reach,
            weir: format!(
                "p50 {p50:.2} s, p99 {p99:.2} s, {stalls} stalls, drift {drift:+.2} s, first picture {first:.2} s"
            ),
            peer: "-".into(),
            ratio: "-".into(),
        });
    }
    Ok(rows)
}

struct Told {
    /// Seconds behind the publisher, once a second, sorted.
    behind: Vec<f64>,
    /// The last third's mean less the first third's.
    drift: f64,
    stalls: u64,
    /// From opening the page.
    first_ms: f64,
}

async fn play(browser: &Browser, url: &str, quality: Option<&str>, seconds: u32) -> Result<Told> {
    let mut command: Command = browser.play(url, seconds);
    if let Some(quality) = quality {
        command.args(["--switch", quality]);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("node is needed")?;
    let mut lines = BufReader::new(child.stderr.take().context("a pipe")?).lines();
    let mut behind = Vec::new();
    let mut began = None;
    // The quality is chosen after three tenths of the time, and what is buffered is played out first.
    let skip = SETTLES_S.max(if quality.is_some() { f64::from(seconds) * 0.3 + 10.0 } else { 0.0 });
    while let Some(line) = lines.next_line().await? {
        let word: Value = serde_json::from_str(&line).unwrap_or_default();
        let (Some(at), Some(seconds)) = (word["atMs"].as_f64(), word["behind"].as_f64()) else { continue };
        if at - *began.get_or_insert(at) >= skip * 1000.0 {
            behind.push(seconds);
        }
    }
    let output = child.wait_with_output().await?;
    let told: Value = serde_json::from_slice(&output.stdout).context("the browser said nothing")?;
    let third = behind.len() / 3;
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len().max(1) as f64;
    let drift = mean(&behind[behind.len() - third..]) - mean(&behind[..third]);
    behind.sort_by(f64::total_cmp);
    anyhow::ensure!(!behind.is_empty(), "no reading after {skip} s: {told}");
    let first_ms = told["timeToFirstFrameMs"].as_f64().context("no picture")?;
    Ok(Told { behind, drift, stalls: told["stalls"].as_u64().unwrap_or(u64::MAX), first_ms })
}
