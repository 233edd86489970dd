//! Three nodes that share the streams: what a stream costs the node that holds its publisher, the one that makes its chunks, and
//! the one that stands by; and what up to two hundred cost together. The database and the object store are those of the tests.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::sleep;
use weir::{cluster::ring::Ring, id::StreamId, time::now};

use crate::{
    Row,
    clip::Clip,
    publisher::Publisher,
    say,
    server::{Server, get},
};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// Streams of which each node does one thing only.
const STREAMS: usize = 20;
/// Streams with an encoded rendition: few, as the machine has few cores.
const ENCODED: usize = 2;
const COUNTS: [usize; 5] = [1, 20, 50, 100, 200];
const APART: Duration = Duration::from_millis(50);
/// Longer than what a playlist of eight chunks lists.
const WARM_UP: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(20);

/// `scripts/test-servers`, in a folder of its own; stopped when dropped.
struct Stores {
    dir: TempDir,
    told: Vec<(String, String)>,
}

impl Stores {
    fn start() -> Result<Self> {
        say("starting the database and the object store");
        let dir = tempfile::tempdir()?;
        let output = script().arg("start").arg(dir.path().join("servers")).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "scripts/test-servers cannot start them");
        let text = String::from_utf8(output.stdout)?;
        let told = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let told = told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { dir, told })
    }

    fn get(&self, name: &str) -> Result<&str> {
        let found = self.told.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the script does not tell {name}"))
    }

    /// What nodes are told that share the keyspace and the folder `name`.
    fn settings(&self, name: &str) -> Result<Vec<String>> {
        let bucket = self.get("TESTS_S3_BUCKET")?;
        Ok(vec![
            "store.kind=scylla".into(),
            format!("store.nodes=[\"{}\"]", self.get("TESTS_CQL")?),
            format!("store.keyspace={name}"),
            format!("blobs.url=s3://{bucket}/{name}"),
            format!("blobs.endpoint={}", self.get("TESTS_S3")?),
            "blobs.region=us-east-1".into(),
            format!("blobs.key={}", self.get("TESTS_S3_KEY")?),
            format!("blobs.secret={}", self.get("TESTS_S3_SECRET")?),
            "live.window=8".into(),
        ])
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        let _ = script().arg("stop").arg(self.dir.path().join("servers")).status();
    }
}

fn script() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test-servers"));
    command.stdin(Stdio::null());
    command
}

struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    async fn start(stores: &Stores, name: &str, settings: &[&str]) -> Result<Self> {
        let shared = stores.settings(name)?;
        let mut nodes = Vec::new();
        for id in NAMES {
            let id = format!("node.id={id}");
            let all: Vec<_> = shared.iter().map(String::as_str).chain(settings.iter().copied()).chain([&*id]).collect();
            nodes.push(Server::weir(&all).await?);
        }
        // Each knows the others within two looks.
        sleep(Duration::from_secs(3)).await;
        Ok(Self { nodes })
    }

    async fn publish(&self, node: usize, stream: &str, clip: &Arc<Clip>) -> Result<Publisher> {
        let publisher = Publisher::start(self.nodes[node].rtmp, "live", stream, clip.clone()).await?;
        sleep(APART).await;
        Ok(publisher)
    }

    /// The share of a core that each node takes, and its memory in MB.
    async fn usage(&self) -> Result<Vec<(f64, f64)>> {
        let all = || self.nodes.iter().map(Server::usage).collect::<Result<Vec<_>>>();
        let (begun, before) = (now(), all()?);
        sleep(MEASURED).await;
        let (elapsed, after) = (now() - begun, all()?);
        let each = before.iter().zip(&after).map(|(before, after)| {
            ((after.cpu - before.cpu).as_secs_f64() / elapsed.as_secs_f64(), after.memory.resident_mb)
        });
        Ok(each.collect())
    }

    /// Every stream is shown at a node that need not have anything to do with it.
    async fn check(&self, streams: &[String], publishers: &mut [Publisher]) -> Result<()> {
        for publisher in publishers {
            publisher.check().await?;
        }
        for (n, stream) in streams.iter().enumerate() {
            let url = self.nodes[n % NAMES.len()].playlist(stream);
            ensure!(get(url.clone()).await.is_some(), "{url} is not served: what was measured is not the work");
        }
        Ok(())
    }
}

/// Names of streams that the first node owns and for which the second stands by: the third only holds their publishers.
fn apart(count: usize) -> Vec<String> {
    let ring = Ring::new(NAMES.map(|name| (Arc::from(name), 1)));
    let names = (0..).map(|n| format!("s{n}"));
    let is_apart = |name: &String| ring.replicas(&StreamId::new(name).expect("legal")).map(|node| &**node).eq(NAMES);
    names.filter(is_apart).take(count).collect()
}

pub async fn measure() -> Result<Vec<Row>> {
    let stores = Stores::start()?;
    let mut rows = Vec::new();
    let clip = Arc::new(Clip::steady()?);
    let work = format!("cluster of 3, {STREAMS} streams x {:.1} Mb/s, no ladder", clip.kbps() / 1000.0);
    for (standby, tee) in [("hot", "two nodes"), ("off", "one node")] {
        let node = roles(&stores, &format!("plain_{standby}"), STREAMS, &clip, &["ladder=[]"], standby).await?;
        let [owner, second, gateway] = node.map(|core| format!("{:.2}", core * 100.0 / STREAMS as f64));
        rows.push(row(
            format!("{work}, standby {standby}: CPU per stream of gateway (feeds {tee}), owner, standby"),
            format!("{gateway}, {owner}, {second} % core"),
        ));
    }
    let ladder = "ladder=[{height=360,bitrate_kbps=800}]";
    for standby in ["hot", "warm", "off"] {
        let node = roles(&stores, &format!("encoded_{standby}"), ENCODED, &clip, &[ladder], standby).await?;
        let [owner, second, gateway] = node.map(|core| format!("{:.1}", core * 100.0 / ENCODED as f64));
        rows.push(row(
            format!("cluster of 3, {ENCODED} streams of 720p30 to 360p, standby {standby}: CPU per stream of gateway, owner, standby"),
            format!("{gateway}, {owner}, {second} % core"),
        ));
    }
    rows.extend(many(&stores).await?);
    Ok(rows)
}

/// The share of a core that owner, standby and gateway take, of streams that have nothing else in common.
async fn roles(
    stores: &Stores,
    name: &str,
    count: usize,
    clip: &Arc<Clip>,
    settings: &[&str],
    standby: &str,
) -> Result<[f64; 3]> {
    let standby = format!("live.standby={standby}");
    let cluster = Cluster::start(stores, name, &[settings, &[&standby]].concat()).await?;
    let idle = cluster.usage().await?;
    let (streams, mut publishers) = (apart(count), Vec::new());
    for stream in &streams {
        publishers.push(cluster.publish(2, stream, clip).await?);
    }
    sleep(WARM_UP).await;
    let busy = cluster.usage().await?;
    cluster.check(&streams, &mut publishers).await?;
    say(format_args!("{name}: {busy:.3?}, idle {idle:.3?}"));
    Ok([0, 1, 2].map(|node| (busy[node].0 - idle[node].0).max(0.0)))
}

/// More and more streams, at whichever node.
async fn many(stores: &Stores) -> Result<Vec<Row>> {
    let clip = Arc::new(Clip::small()?);
    let cluster = Cluster::start(stores, "many", &["ladder=[]"]).await?;
    let (mut streams, mut publishers, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for count in COUNTS {
        while streams.len() < count {
            let stream = format!("m{}", streams.len());
            publishers.push(cluster.publish(streams.len() % NAMES.len(), &stream, &clip).await?);
            streams.push(stream);
        }
        sleep(WARM_UP).await;
        let usage = cluster.usage().await?;
        cluster.check(&streams, &mut publishers).await?;
        let core: f64 = usage.iter().map(|(core, _)| core).sum();
        let memory: Vec<_> = usage.iter().map(|(_, memory)| format!("{memory:.0}")).collect();
        say(format_args!("{count} streams: {:.1} % of a core in all", core * 100.0));
        rows.push(row(
            format!(
                "cluster of 3, {count} streams x {:.2} Mb/s, hot standbys: CPU of all nodes per stream; memory of each",
                clip.kbps() / 1000.0
            ),
            format!("{:.2} % core; {} MB", core * 100.0 / count as f64, memory.join(", ")),
        ));
    }
    Ok(rows)
}

fn row(work: String, weir: String) -> Row {
    Row { work, reach: "", weir, peer: "-".into(), ratio: "-".into() }
}
