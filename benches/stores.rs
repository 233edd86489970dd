//! What a chunk costs in each store: commits one after the other, many at a time, and the metadata of 1,000 broadcasts.
//!
//! `cargo bench --bench stores`; starts and stops the servers of the tests. Processor time is this process's own, the servers' comes
//! on top. One machine does all of it, so a server elsewhere is slower to answer and takes nothing from the node.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use weir::{
    id::{BroadcastId, Rendition, StreamId},
    secret::Secret,
    store::{
        Blobs, ChunkRow, Meta, RenditionChunk, blob_name,
        blobs::Folder,
        embedded::Embedded,
        objects::{self, Objects},
        scylla::{self, Scylla},
    },
    time::{UnixMs, now},
};

/// Commits one after the other.
const ONE_BY_ONE: u64 = 2000;
/// Rows, and objects, with many under way.
const ROWS: u64 = 40_000;
const OBJECTS: u64 = 2000;
const AT_ONCE: usize = 64;
/// A chunk of 2 s at 2 Mb/s.
const BYTES: usize = 500_000;
/// Live at the same time, for so long: a row each 2 s of each.
const BROADCASTS: u64 = 1000;
const SECONDS: u64 = 20;

/// The servers of the tests, stopped at the end.
struct Servers {
    dir: tempfile::TempDir,
    told: Vec<(String, String)>,
}

impl Servers {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let started = Command::new("scripts/test-servers").arg("start").arg(dir.path().join("servers")).output()?;
        ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let text = String::from_utf8(started.stdout)?;
        let told = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        Ok(Self { told: told.map(|(name, value)| (name.into(), value.into())).collect(), dir })
    }

    fn told(&self, name: &str) -> Result<&str> {
        let told = self.told.iter().find(|(known, _)| known == name);
        told.map(|(_, value)| value.as_str()).with_context(|| format!("the servers did not tell {name}"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = Command::new("scripts/test-servers").arg("stop").arg(self.dir.path().join("servers")).status();
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let servers = Servers::start()?;
    let dir = tempfile::tempdir()?;
    let scylla = scylla::Settings {
        nodes: vec![servers.told("TESTS_CQL")?.to_owned()],
        keyspace: "bench".into(),
        login: None,
        datacenter: None,
        replicas: 1,
        serial_local: false,
        tls: None,
        create: true,
        chat_keep: std::time::Duration::from_secs(86_400),
        audience_keep: std::time::Duration::from_secs(86_400),
    };
    let objects = objects::Settings {
        url: format!("s3://{}/bench", servers.told("TESTS_S3_BUCKET")?).parse()?,
        endpoint: Some(servers.told("TESTS_S3")?.parse()?),
        region: Some("us-east-1".into()),
        login: Some((servers.told("TESTS_S3_KEY")?.into(), Secret::new(servers.told("TESTS_S3_SECRET")?))),
        virtual_host: false,
        hedge: false,
    };
    let metas: [(&str, Arc<dyn Meta>); 2] = [
        ("embedded", Arc::new(Embedded::open(&dir.path().join("meta"))?)),
        ("Cassandra", Arc::new(Scylla::open(scylla).await?)),
    ];
    let blobs: [(&str, Arc<dyn Blobs>); 2] = [
        ("folder", Arc::new(Folder::open(&dir.path().join("blobs"))?)),
        ("S3", Arc::new(Objects::open(&objects).await?)),
    ];
    println!("| work | store | p50 | p99 | per second | processor time of the node |");
    println!("|---|---|---|---|---|---|");
    for (name, meta) in &metas {
        rows(name, &**meta).await?;
    }
    for (name, blobs) in &blobs {
        bytes(name, &**blobs).await?;
    }
    for ((meta_name, meta), (blobs_name, blobs)) in metas.iter().zip(&blobs) {
        commit(&format!("{blobs_name} + {meta_name}"), &**meta, &**blobs).await?;
    }
    for (name, meta) in &metas {
        broadcasts(name, &**meta).await?;
    }
    Ok(())
}

fn stream(n: u64) -> StreamId {
    StreamId::new(&format!("s{n}")).expect("legal")
}

fn show() -> BroadcastId {
    BroadcastId::new("01bench").expect("legal")
}

const RENDITIONS: [&str; 5] = ["source", "720p", "480p", "360p", "audio"];

fn row(k: u64) -> ChunkRow {
    let made = |name| RenditionChunk {
        rendition: Rendition::new(name).expect("legal"),
        init: "0123456789abcdef".into(),
        bytes: BYTES as u32,
        iframe: 40_000,
        duration_us: 2_000_000,
    };
    let (at, wall) = (k as i64 * 180_000, UnixMs(1_767_225_600_000 + k as i64 * 2000));
    let renditions = RENDITIONS.map(made).to_vec();
    ChunkRow { k, epoch: 1, at, duration: 180_000, wall, discontinuity: false, renditions }
}

async fn rows(store: &str, meta: &dyn Meta) -> Result<()> {
    let one = async |k| Ok(meta.put_chunk(&stream(0), &show(), row(k)).await?);
    let times = timed(ONE_BY_ONE, one).await?;
    tell("row, one by one", store, Some(&times), times.len() as f64 / total(&times), None);
    let (begun, cpu) = (now(), cpu_seconds());
    let all =
        stream::iter(0..ROWS).map(|k| async move { meta.put_chunk(&stream(k % 100), &show(), row(k / 100)).await });
    all.buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await?;
    tell(
        &format!("row, {AT_ONCE} at a time"),
        store,
        None,
        ROWS as f64 / (now() - begun).as_secs_f64(),
        Some((cpu_seconds() - cpu) / ROWS as f64),
    );
    Ok(())
}

async fn bytes(store: &str, blobs: &dyn Blobs) -> Result<()> {
    let chunk = Bytes::from((0..BYTES).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let name = |k: u64| blob_name(&stream(1), &show(), &Rendition::source(), k, 1);
    let times = timed(ONE_BY_ONE / 4, async |k| Ok(blobs.put(&name(k), chunk.clone().into()).await?)).await?;
    tell("500 KB, one by one", store, Some(&times), times.len() as f64 / total(&times), None);
    let (begun, cpu) = (now(), cpu_seconds());
    let all = stream::iter(0..OBJECTS).map(|k| {
        let (name, chunk) = (name(k + ONE_BY_ONE), chunk.clone());
        async move { blobs.put(&name, chunk.into()).await }
    });
    all.buffer_unordered(16).try_for_each(async |()| Ok(())).await?;
    tell(
        "500 KB, 16 at a time",
        store,
        None,
        OBJECTS as f64 / (now() - begun).as_secs_f64(),
        Some((cpu_seconds() - cpu) / OBJECTS as f64),
    );
    Ok(())
}

/// A chunk of five renditions, put beside each other, and its row after them: what the live edge does.
async fn commit(store: &str, meta: &dyn Meta, blobs: &dyn Blobs) -> Result<()> {
    let chunk = Bytes::from(vec![7; BYTES / 2]);
    let times = timed(200, async |k| {
        let puts = RENDITIONS.map(|name| {
            let name = blob_name(&stream(2), &show(), &Rendition::new(name).expect("legal"), k, 1);
            let chunk = chunk.clone();
            async move { blobs.put(&name, chunk.into()).await }
        });
        futures::future::try_join_all(puts).await?;
        Ok(meta.put_chunk(&stream(2), &show(), row(k)).await?)
    });
    let times = times.await?;
    tell("commit: 5 x 250 KB and their row", store, Some(&times), times.len() as f64 / total(&times), None);
    Ok(())
}

/// The rows of many broadcasts as they come, evenly.
async fn broadcasts(store: &str, meta: &dyn Meta) -> Result<()> {
    let (begun, cpu) = (now(), cpu_seconds());
    let chunks = SECONDS / 2;
    let each = Duration::from_secs(SECONDS) / (chunks * BROADCASTS) as u32;
    let all = stream::iter(0..chunks * BROADCASTS).map(|n| async move {
        tokio::time::sleep((each * n as u32).saturating_sub(now() - begun)).await;
        let due = now();
        meta.put_chunk(&stream(1000 + n % BROADCASTS), &show(), row(n / BROADCASTS)).await?;
        Ok::<_, anyhow::Error>((now() - due).as_secs_f64())
    });
    let mut times: Vec<f64> = all.buffer_unordered(512).try_collect().await?;
    times.sort_by(f64::total_cmp);
    let cpu = (cpu_seconds() - cpu) / (now() - begun).as_secs_f64();
    let rate = times.len() as f64 / (now() - begun).as_secs_f64();
    tell(&format!("rows of {BROADCASTS} broadcasts"), store, Some(&times), rate, None);
    println!(
        "| | {store} | | | | {:.1} % of a core for all, {:.3} ms per broadcast and second |",
        cpu * 100.0,
        cpu * 1000.0 / BROADCASTS as f64
    );
    Ok(())
}

/// How long each of so many took, sorted, seconds.
async fn timed(count: u64, one: impl AsyncFn(u64) -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for k in 0..count {
        let begun = now();
        one(k).await?;
        times.push((now() - begun).as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn total(times: &[f64]) -> f64 {
    times.iter().sum()
}

fn tell(work: &str, store: &str, times: Option<&[f64]>, rate: f64, cpu: Option<f64>) {
    let at = |share: f64| {
        times.map_or(String::new(), |t| format!("{:.2} ms", t[(t.len() as f64 * share) as usize] * 1000.0))
    };
    let cpu = cpu.map_or(String::new(), |cpu| format!("{:.1} µs each: {:.0} a second and core", cpu * 1e6, 1.0 / cpu));
    println!("| {work} | {store} | {} | {} | {rate:.0} | {cpu} |", at(0.5), at(0.99));
}

/// User and system time of this process (proc(5), fields 14 and 15; a tick is 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse().ok())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}
