//! Twenty streams in, chunks and rows out: CPU and memory per stream.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;
use weir::time::now;

use crate::{
    Row,
    clip::Clip,
    median,
    publisher::Publisher,
    say,
    server::{Kind, Server, get},
};

const STREAMS: usize = 20;
/// Publishers start this far apart, so that the chunks of all do not end at once.
const APART: Duration = Duration::from_millis(100);
/// Longer than what a playlist lists, so that memory has reached its height.
const WARM_UP: Duration = Duration::from_secs(34);
const MEASURED: Duration = Duration::from_secs(30);

struct Run {
    /// Part of one core, for each stream.
    core: f64,
    idle_mb: f64,
    stream_mb: f64,
    peak_mb: f64,
}

/// Measures both servers in turns.
pub async fn measure(rounds: usize) -> Result<Vec<Row>> {
    let clip = Arc::new(Clip::steady()?);
    say(format_args!("{STREAMS} streams of {:.2} Mb/s, {rounds} rounds", clip.kbps() / 1000.0));
    let (mut weir, mut nginx) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for kind in [Kind::Weir, Kind::Nginx] {
            let run = once(kind, &clip).await.with_context(|| format!("{kind:?}, round {round}"))?;
            say(format_args!(
                "round {round} {kind:?}: {:.3} % of a core per stream; {:.1} MB idle, {:.2} MB per stream, {:.2} at the peak",
                run.core * 100.0,
                run.idle_mb,
                run.stream_mb,
                run.peak_mb
            ));
            match kind {
                Kind::Weir => weir.push(run),
                _ => nginx.push(run),
            }
        }
    }
    // Neighbours in time are compared: what else the machine did changes slowly.
    let ratios = weir.iter().zip(&nginx).map(|(w, n)| w.core / n.core);
    let of = |runs: &[Run], value: fn(&Run) -> f64| median(runs.iter().map(value));
    let work = format!("{STREAMS} streams x {:.1} Mb/s, no ladder", clip.kbps() / 1000.0);
    let row = |what: &str, reach, unit: &str, scale: f64, value: fn(&Run) -> f64, ratio: f64| Row {
        work: format!("{work}: {what}"),
        reach,
        weir: format!("{:.2} {unit}", of(&weir, value) * scale),
        peer: format!("{:.2} {unit}", of(&nginx, value) * scale),
        ratio: format!("{ratio:.2}"),
    };
    let (resident, peak) = (|r: &Run| r.stream_mb, |r: &Run| r.peak_mb);
    Ok(vec![
        row("CPU per stream", "<= 1.0 x", "% core", 100.0, |r| r.core, median(ratios)),
        row("RSS per stream", "<= 25 MB", "MB", 1.0, resident, of(&weir, resident) / of(&nginx, resident)),
        row("peak RSS per stream", "", "MB", 1.0, peak, of(&weir, peak) / of(&nginx, peak)),
    ])
}

async fn once(kind: Kind, clip: &Arc<Clip>) -> Result<Run> {
    let server = match kind {
        Kind::Weir => Server::weir(&["ladder=[]"]).await?,
        _ => Server::nginx().await?,
    };
    sleep(Duration::from_secs(1)).await;
    let idle = server.usage()?.memory;
    let mut publishers = Vec::new();
    for n in 0..STREAMS {
        publishers.push(Publisher::start(server.rtmp, "live", &format!("s{n}"), clip.clone()).await?);
        sleep(APART).await;
    }
    sleep(WARM_UP).await;
    let (begun, before, files) = (now(), server.usage()?, server.media_files()?);
    sleep(MEASURED).await;
    let (elapsed, after) = (now() - begun, server.usage()?);
    for publisher in &mut publishers {
        publisher.check().await?;
    }
    for n in 0..STREAMS {
        let url = server.playlist(&format!("s{n}"));
        ensure!(get(url.clone()).await.is_some(), "{url} is not served: what was measured is not the work");
    }
    // Weir keeps what it wrote: a file of video and one of audio every 2 s. nginx keeps what its playlists list.
    let written = server.media_files()?.saturating_sub(files);
    let due = STREAMS * 2 * MEASURED.as_secs() as usize / 2;
    ensure!(kind == Kind::Nginx || written * 10 >= due * 9, "{written} files of {due} were written");
    Ok(Run {
        core: (after.cpu - before.cpu).as_secs_f64() / elapsed.as_secs_f64() / STREAMS as f64,
        idle_mb: idle.resident_mb,
        stream_mb: (after.memory.resident_mb - idle.resident_mb) / STREAMS as f64,
        peak_mb: (after.memory.peak_mb - idle.peak_mb) / STREAMS as f64,
    })
}
