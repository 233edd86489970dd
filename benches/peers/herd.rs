//! A crowd asks for one new object at the same moment: Weir's edge and nginx's cache lock in front of the same upstream, which
//! takes 300 ms.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{
    Row, median, say,
    server::Server,
    upstream::{Got, Upstream, body, crowd},
};

const DELAY: Duration = Duration::from_millis(300);
/// Viewers and bytes of the object: a crowd's part, and what two cores can send to 2,000 sockets in the time that is left.
const CROWDS: [(usize, usize); 3] = [(100, 100_000), (100, 500_000), (2000, 4_000)];

pub async fn measure(rounds: usize) -> Result<Vec<Row>> {
    weir::rtmp::server::raise_fd_limit().context("too few descriptors")?;
    let mut rows = Vec::new();
    for (viewers, len) in CROWDS {
        say(format!("{viewers} viewers, {len} bytes"));
        let upstream = Upstream::start(DELAY, len);
        let weir = Server::weir(&[
            "node.roles=[\"edge\"]",
            &format!("edge.upstream=[\"http://127.0.0.1:{}\"]", upstream.port),
        ])
        .await?;
        let config = include_str!("nginx-cache.conf").replace("UPSTREAM_PORT", &upstream.port.to_string());
        let nginx = Server::nginx_on(None, &config).await?;
        let (mut of_weir, mut of_nginx) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for (server, times) in [(&weir, &mut of_weir), (&nginx, &mut of_nginx)] {
                let before = upstream.asked();
                let path = format!("/hls/herd/01b/source/{round}.1.m4s");
                let all = crowd(server.address(), &path, viewers).await;
                let whole = body(len);
                ensure!(all.iter().all(|got| got.answer.ends_with(&whole)), "{:?}: a viewer lacks bytes", server.kind);
                times.push((last_bytes(&all), upstream.asked() - before));
            }
        }
        let words = |times: &[((f64, f64), usize)]| {
            let (p50, max) = (median(times.iter().map(|t| t.0.0)), median(times.iter().map(|t| t.0.1)));
            let requests = times.iter().map(|t| t.1).max().unwrap_or(0);
            (format!("p50 {p50:.0} ms, last {max:.0} ms, {requests} request(s)"), max)
        };
        let ((weir_words, weir_max), (nginx_words, nginx_max)) = (words(&of_weir), words(&of_nginx));
        rows.push(Row {
            work: format!("{viewers} viewers, one new object of {} KB, upstream 300 ms", len / 1000),
            reach: "last byte <= 330 ms, 1 request",
            weir: weir_words,
            peer: nginx_words,
            ratio: format!("{:.2}", weir_max / nginx_max),
        });
    }
    Ok(rows)
}

/// The middle and the last of the viewers' last bytes, milliseconds.
fn last_bytes(all: &[Got]) -> (f64, f64) {
    let ms = || all.iter().map(|got| got.last_byte.as_secs_f64() * 1000.0);
    (median(ms()), ms().fold(0.0, f64::max))
}
