//! Reports of viewers: how many a second one core hears while a quarter of a million are counted, what a viewer costs in memory, and
//! whether whoever fetches media beside them notices.

use std::{fmt::Write, time::Duration};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use weir::time::now;

use crate::{
    Row,
    load::{self, Paced, percentile},
    say,
    server::Server,
    upstream::{Upstream, body},
};

/// The server's core, and that of the load.
const CORES: (usize, usize) = (0, 1);
const VIEWERS: usize = 250_000;
const CONNECTIONS: usize = 64;
/// Requests that are on their way on a connection: one report each.
const PIPELINE: usize = 16;
const SECONDS: u64 = 8;
/// Reports a second beside those who fetch media, and requests for media.
const BESIDE: f64 = 10_000.0;
const MEDIA: f64 = 4_000.0;
const PLAYLIST: usize = 900;

pub async fn measure() -> Result<Vec<Row>> {
    let view = r#"{"id":"a","state":"live","broadcast":"01b","epoch":1,"renditions":[{"name":"source","kbps":2400},{"name":"480p","kbps":900}]}"#;
    let words = format!("{{\"ticket\":false,\"rows\":[]}}}}\n{{\"stream\":{{\"id\":\"a\",\"view\":{view}}}");
    let upstream = Upstream::with(Duration::ZERO, &words, |_: &str| body(PLAYLIST));
    let settings = [
        "node.roles=[\"edge\"]",
        &format!("edge.upstream=[\"http://127.0.0.1:{}\"]", upstream.port),
        "http.trusted_proxies=[\"127.0.0.1/32\"]",
        "audience.reports_max=10000000",
    ];
    let server = Server::weir_on(Some(CORES.0), &settings).await?;
    let before = server.usage()?.memory.resident_mb;
    // All of them once, so that all are counted.
    flood(&server, Duration::from_secs(120), Some(VIEWERS)).await?;
    sleep(Duration::from_secs(2)).await;
    let each = (server.usage()?.memory.resident_mb - before) * 1_048_576.0 / VIEWERS as f64;
    let (sent, cpu) = (now(), server.usage()?.cpu);
    let heard = flood(&server, Duration::from_secs(SECONDS), None).await?;
    let (took, used) = ((now() - sent).as_secs_f64(), (server.usage()?.cpu - cpu).as_secs_f64());
    say(format!("{:.0} reports/s on {:.0} % of a core", heard as f64 / took, used / took * 100.0));
    let of_core = heard as f64 / used;
    let row = |work: String, reach, weir: String, peer: String, ratio: String| Row { work, reach, weir, peer, ratio };
    let mut rows = vec![
        row(
            format!("reports of viewers, one a request, {VIEWERS} counted: reports/s of one core"),
            ">= 100,000",
            format!("{of_core:.0} ({:.1} us each)", used / heard as f64 * 1e6),
            "-".into(),
            "-".into(),
        ),
        row(
            "memory of a viewer who is counted".into(),
            "<= 200 bytes",
            format!("{each:.0} bytes"),
            "-".into(),
            "-".into(),
        ),
    ];
    // Media with and without reports beside it.
    let mut p99 = Vec::new();
    for reports in [false, true] {
        let media = Paced { connections: CONNECTIONS, per_second: MEDIA, seconds: SECONDS as u32 };
        let fetched = load::paced(server.address(), media, |_, _| "/hls/a/01b/source/index.m3u8?_HLS_msn=1".to_owned());
        let steady = async { if reports { steadily(&server, Duration::from_secs(SECONDS)).await } else { Ok(()) } };
        let (times, steady) = tokio::join!(fetched, steady);
        steady?;
        let times = times?;
        say(format!("reports {reports}: p50 {:.2}, p99 {:.2} ms", percentile(&times, 0.5), percentile(&times, 0.99)));
        p99.push(percentile(&times, 0.99));
    }
    rows.push(row(
        format!("playlists, {MEDIA:.0}/s, beside {BESIDE:.0} reports/s: p99"),
        "< 1.2 x",
        format!("{:.2} ms", p99[1]),
        format!("without {:.2} ms", p99[0]),
        format!("{:.2}", p99[1] / p99[0]),
    ));
    Ok(rows)
}

/// A request with the report of a viewer, the first one with the viewer's own address.
fn request(viewer: usize, sn: usize) -> String {
    let address = match sn {
        0 => format!("x-forwarded-for: 10.{}.{}.{}\r\n", viewer >> 16, viewer >> 8 & 255, viewer & 255),
        _ => String::new(),
    };
    let report = format!(
        "bl=(12300),br=(2400),bsa=(0),bsda=(0),cid=\"a\",dfa=1,e=t,ltc=4200,mtp=(25400),sf=h,sid=\"6e2fb550-c457-11e9-bb97-{viewer:012}\",sn={sn},st=ll,sta=p,ts={},v=2,weir-rendition=\"source\"",
        1_764_360_000_000_usize + sn * 30_000
    );
    let length = report.len();
    format!(
        "POST /api/v1/cmcd HTTP/1.1\r\nhost: weir\r\nuser-agent: bench\r\n{address}content-type: application/cmcd\r\ncontent-length: {length}\r\n\r\n{report}"
    )
}

/// Reports as fast as they are taken, until there were `most` or the time is over; gives how many were.
async fn flood(server: &Server, lasts: Duration, most: Option<usize>) -> Result<usize> {
    let until = now() + lasts;
    let tasks = (0..CONNECTIONS).map(|n| async move {
        let mut socket = TcpStream::connect(server.address()).await?;
        let (mut done, mut answers, mut text) = (0, vec![0; 64 << 10], String::new());
        let mine = VIEWERS / CONNECTIONS;
        while now() < until && most.is_none_or(|most| done < most / CONNECTIONS) {
            text.clear();
            for at in done..done + PIPELINE {
                text.write_str(&request(n * mine + at % mine, at / mine + usize::from(most.is_none())))
                    .expect("memory");
            }
            socket.write_all(text.as_bytes()).await?;
            let (mut seen, mut ends) = (0, 0);
            while seen < PIPELINE {
                let read = socket.read(&mut answers).await?;
                ensure!(read > 0, "the server has closed the connection");
                seen += answered(&mut ends, &answers[..read]);
                ensure!(!answers[..read].windows(12).any(|head| head == b"HTTP/1.1 400"), "a report is refused");
            }
            done += PIPELINE;
        }
        anyhow::Ok(done)
    });
    Ok(try_join_all(tasks).await?.into_iter().sum())
}

/// Counts answers without a body, which end with their heads; `ends` is how much of an end there is.
fn answered(ends: &mut usize, bytes: &[u8]) -> usize {
    let mut seen = 0;
    for byte in bytes {
        *ends = match (byte, *ends) {
            (b'\r', 0 | 2) | (b'\n', 1) => *ends + 1,
            (b'\n', 3) => {
                seen += 1;
                0
            }
            (b'\r', _) => 1,
            _ => 0,
        };
    }
    seen
}

/// Reports at an even pace.
async fn steadily(server: &Server, lasts: Duration) -> Result<()> {
    let begin = now();
    let every = Duration::from_secs_f64(CONNECTIONS as f64 / BESIDE);
    let tasks = (0..CONNECTIONS).map(|n| async move {
        let mut socket = TcpStream::connect(server.address()).await?;
        let mut answer = vec![0; 4096];
        let mine = VIEWERS / CONNECTIONS;
        for turn in 0.. {
            let due = begin + every.mul_f64(f64::from(turn) + n as f64 / CONNECTIONS as f64);
            if due >= begin + lasts {
                break;
            }
            sleep(due - now()).await;
            socket.write_all(request(n * mine + turn as usize % mine, 1000 + turn as usize).as_bytes()).await?;
            ensure!(socket.read(&mut answer).await? > 0, "the server has closed the connection");
        }
        anyhow::Ok(())
    });
    try_join_all(tasks).await.map(drop)
}
