//! From a publisher's connect to the first picture that can be played, with the keyframes that OBS sends by default.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    time::{sleep, timeout},
};
use weir::time::{Timestamp, now};

use crate::{
    Row,
    browser::Browser,
    clip::Clip,
    median,
    publisher::Publisher,
    say,
    server::{Server, get, get_text},
};

const LIMIT: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);
const NO_LADDER: &[&str] = &["ladder=[]"];

/// Seconds from the publisher's connect.
struct Times {
    playlist: f64,
    chunk: f64,
}

/// Measures Weir with its default ladder, without one, and the peer; then Weir with a browser that waits for the stream.
pub async fn measure(rounds: usize) -> Result<Vec<Row>> {
    let clip = Arc::new(Clip::obs_default()?);
    say(format_args!("a stream of {:.2} Mb/s with a keyframe every 8.33 s, {rounds} rounds", clip.kbps() / 1000.0));
    let (mut ladder, mut plain, mut nginx) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (name, server, runs) in [
            ("Weir", Server::weir(&[]).await?, &mut ladder),
            ("Weir without a ladder", Server::weir(NO_LADDER).await?, &mut plain),
            ("nginx", Server::nginx().await?, &mut nginx),
        ] {
            let (times, mode) = fetched(&server, &clip).await.with_context(|| format!("{name}, round {round}"))?;
            say(format_args!(
                "round {round} {name}{mode}: playlist {:.2} s, chunk {:.2} s",
                times.playlist, times.chunk
            ));
            runs.push(times);
        }
    }
    let row = |what: &str, reach, weir: &[Times], value: fn(&Times) -> f64| {
        let (weir, peer) = (median(weir.iter().map(value)), median(nginx.iter().map(value)));
        Row {
            work: format!("publisher's connect to {what}"),
            reach,
            weir: format!("{weir:.2} s"),
            peer: format!("{peer:.2} s"),
            ratio: format!("{:.2}", weir / peer),
        }
    };
    let mut rows = vec![
        row("first playlist served", "", &ladder, |t| t.playlist),
        row("first chunk fetched", "", &ladder, |t| t.chunk),
        row("first chunk fetched, no ladder", "", &plain, |t| t.chunk),
    ];
    let mut pictures = Vec::new();
    for round in 1..=rounds {
        let Some(picture) = watched(&clip).await? else { break };
        say(format_args!("round {round} Weir, browser: first picture {picture:.2} s"));
        pictures.push(picture);
    }
    if !pictures.is_empty() {
        rows.push(Row {
            work: "publisher's connect to first picture in Chromium".into(),
            reach: "<= 3.5 s",
            weir: format!("{:.2} s", median(pictures)),
            peer: "-".into(),
            ratio: "-".into(),
        });
    }
    Ok(rows)
}

/// Publishes and fetches as a player would that asks all the time.
async fn fetched(server: &Server, clip: &Arc<Clip>) -> Result<(Times, String)> {
    let mut publisher = Publisher::start(server.rtmp, "live", "x", clip.clone()).await?;
    let since = |publisher: &Publisher| (now() - publisher.opened).as_secs_f64();
    let top = server.playlist("x");
    let until = now() + LIMIT;
    let text = until_some(until, || get_text(top.clone())).await.context("no playlist in time")?;
    let playlist = since(&publisher);
    let media = match variant(&text) {
        Some(uri) => join(&top, uri),
        None => top,
    };
    let (map, chunk) = until_some(until, || async {
        let text = get_text(media.clone()).await?;
        let (map, chunk) = oldest(&text)?;
        Some((map.map(|uri| join(&media, uri)), join(&media, chunk)))
    })
    .await
    .context("no chunk is listed in time")?;
    for url in map.into_iter().chain([chunk]) {
        ensure!(get(url.clone()).await.is_some_and(|bytes| !bytes.is_empty()), "{url} is listed and not served");
    }
    let chunk = since(&publisher);
    publisher.check().await?;
    let state = get_text(server.url("/api/v1/streams/x")).await.unwrap_or_default();
    let state: Value = serde_json::from_str(&state).unwrap_or_default();
    let mode = state["mode"].as_str().map(|mode| format!(" ({mode})")).unwrap_or_default();
    Ok((Times { playlist, chunk }, mode))
}

/// Opens the watch page, then publishes; gives the seconds to the first picture. Nothing without a browser.
async fn watched(clip: &Arc<Clip>) -> Result<Option<f64>> {
    let Some(browser) = Browser::find() else { return Ok(None) };
    let server = Server::weir(&[]).await?;
    let mut child = browser
        .play(&server.url("/watch/x"), 3)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("node is needed for the browser (scripts/install-deps run)")?;
    let mut lines = BufReader::new(child.stderr.take().context("a pipe")?).lines();
    // The page's clock began so long before its first word came: a few milliseconds more are the pipe's.
    let opened = timeout(LIMIT, async {
        while let Some(line) = lines.next_line().await? {
            let word: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(at) = word["atMs"].as_u64() {
                return Ok(Timestamp(now().0.saturating_sub(at * 1000)));
            }
        }
        bail!("the browser ended before the page was open")
    });
    let opened = opened.await.context("the page does not open")??;
    // The page polls for a stream that is not there; let it settle into that.
    sleep(Duration::from_secs(2)).await;
    let mut publisher = Publisher::start(server.rtmp, "live", "x", clip.clone()).await?;
    let drain = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let mut told = String::new();
    let mut output = child.stdout.take().context("a pipe")?;
    timeout(LIMIT * 2, output.read_to_string(&mut told)).await.context("the browser does not end")??;
    drain.abort();
    publisher.check().await?;
    let told: Value = serde_json::from_str(told.trim()).with_context(|| format!("the browser said {told:?}"))?;
    let shown = told["timeToFirstFrameMs"].as_f64().with_context(|| format!("no picture: {}", told["reason"]))?;
    let published = (publisher.opened - opened).as_secs_f64();
    Ok(Some(shown / 1000.0 - published))
}

async fn until_some<T, F: Future<Output = Option<T>>>(until: Timestamp, mut look: impl FnMut() -> F) -> Option<T> {
    while now() < until {
        let found = look().await;
        if found.is_some() {
            return found;
        }
        sleep(LOOK).await;
    }
    None
}

/// The first variant of a multivariant playlist.
fn variant(text: &str) -> Option<&str> {
    text.contains("#EXT-X-STREAM-INF").then(|| text.lines().find(|line| !line.is_empty() && !line.starts_with('#')))?
}

/// Init segment and first chunk that a media playlist lists.
fn oldest(text: &str) -> Option<(Option<&str>, &str)> {
    let map = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MAP:URI=\"")?.strip_suffix('"'));
    let chunk = text.lines().find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some((map, chunk))
}

fn join(base: &str, relative: &str) -> String {
    let folder = base.rsplit_once('/').map_or(base, |(folder, _)| folder);
    format!("{folder}/{relative}")
}
