//! What a node takes that has nothing to do.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::{Row, say, server::Server};

const MEASURED: Duration = Duration::from_secs(20);

/// Measures both servers at the same time, each with its defaults and no publisher.
pub async fn measure() -> Result<Vec<Row>> {
    let servers = [Server::weir(&[]).await?, Server::nginx().await?];
    sleep(Duration::from_secs(3)).await;
    let mut before = Vec::new();
    for server in &servers {
        before.push(server.usage()?.cpu);
    }
    sleep(MEASURED).await;
    let mut seen = Vec::new();
    for (server, before) in servers.iter().zip(before) {
        let usage = server.usage()?;
        let cpu = (usage.cpu - before).as_secs_f64() / MEASURED.as_secs_f64() * 100.0;
        say(format_args!("{:?}: {:.1} MB, {cpu:.2} % of a core", server.kind, usage.memory.resident_mb));
        seen.push((usage.memory.resident_mb, cpu));
    }
    let [(weir_mb, weir_cpu), (nginx_mb, nginx_cpu)] = seen[..] else { unreachable!("two servers") };
    Ok(vec![
        Row {
            work: "idle node: RSS".into(),
            reach: "<= 40 MB",
            weir: format!("{weir_mb:.1} MB"),
            peer: format!("{nginx_mb:.1} MB"),
            ratio: format!("{:.2}", weir_mb / nginx_mb),
        },
        Row {
            work: "idle node: CPU".into(),
            reach: "0 %",
            weir: format!("{weir_cpu:.2} %"),
            peer: format!("{nginx_cpu:.2} %"),
            ratio: "-".into(),
        },
    ])
}
