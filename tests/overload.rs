//! More encoding than a node can carry: sources go on as if nothing were, rungs are given up and named, nothing piles up.

mod support;

use std::process::Command;

use support::{Node, Publisher, hls, hls::Client, secs};

/// More than two cores can encode, at any speed that a core has today.
const BROADCASTS: usize = 12;
const LADDER: &str =
    "ladder=[{height=340,bitrate_kbps=800},{height=300,bitrate_kbps=700},{height=240,bitrate_kbps=400}]";

/// Memory of a process, MiB.
fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("kB") / 1024
}

/// A clip of 20 s that is sent again and again without being encoded: publishers must not be the load.
fn clip(node: &Node) -> String {
    let path = node.dir.path().join("clip.flv").display().to_string();
    let mut args = vec!["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=30", "-f", "lavfi"];
    args.extend([
        "-i",
        "sine=440:r=48000",
        "-t",
        "20",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
    ]);
    args.extend(["-g", "60", "-sc_threshold", "0", "-b:v", "800k", "-c:a", "aac", "-b:a", "64k", &path]);
    assert!(Command::new("ffmpeg").args(args).status().expect("ffmpeg must be installed").success());
    path
}

#[test]
fn twelve_broadcasts_at_once_keep_their_sources() {
    // Half a core for encoders: on any machine, and with other tests beside it, not enough for all rungs.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = format!("transcode.cpu_share={:.2}", (0.5 / cores as f64).clamp(0.05, 1.0));
    let node = Node::start(&[LADDER, &share]);
    let clip = clip(&node);
    let names: Vec<_> = (0..BROADCASTS).map(|n| format!("show{n}")).collect();
    let publishers = names.iter().map(|name| {
        let url = node.publish_url(name);
        Publisher::ffmpeg(&node, &["-stream_loop", "-1", "-re", "-i", &clip, "-c", "copy", "-f", "flv", &url])
    });
    let mut publishers: Vec<_> = publishers.collect();

    // Every source, from its first chunk on: the client refuses a chunk that is late, missing or does not fit.
    let mut clients = Vec::new();
    for name in &names {
        let state = node.wait_live(name);
        assert_eq!(state["mode"], "follow", "{name}");
        clients.push(Client::open(&node.url(&format!("/hls/{name}/index.m3u8"))));
    }
    let mut rss = Vec::new();
    for round in 1..=5 {
        for (name, client) in names.iter().zip(&mut clients) {
            let enough = |c: &Client| c.renditions["source"].media().count() >= 2 * round;
            client.follow(name, secs(20), enough);
        }
        rss.push(rss_mib(node.pid()));
    }
    for (name, client) in names.iter().zip(&clients) {
        for rendition in ["source", "audio"] {
            let followed = &client.renditions[rendition];
            assert!(followed.chunks.values().all(|s| s.times.is_some()), "{name}: {rendition} has a hole");
        }
        client.check_alignment();
    }
    assert!(publishers.iter_mut().all(Publisher::running), "no publisher was let go");

    // What was given up is said, and what is left is offered and keeps up.
    let states: Vec<_> = names.iter().map(|name| node.wait_live(name)).collect();
    let count = |of: &str| states.iter().map(|s| s[of].as_array().map_or(0, Vec::len)).sum::<usize>();
    assert!(count("shed") >= BROADCASTS, "{count} shed of {} rungs", 3 * BROADCASTS, count = count("shed"));
    for (name, state) in names.iter().zip(&states) {
        let (variants, _) = hls::multivariant(&node.url(&format!("/hls/{name}/index.m3u8"))).expect("it is live");
        let shed: Vec<_> = state["shed"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        let offered = |rung: &&str| variants.iter().any(|v| v.uri.contains(&format!("/{rung}/")));
        assert!(!shed.iter().any(offered), "{name} offers what it gave up: {shed:?}");
    }
    let newest =
        |client: &Client, name: &str| client.renditions.get(name).and_then(|f| f.chunks.keys().last().copied());
    for (client, state) in clients.iter_mut().zip(&states) {
        client.poll();
        for rung in state["renditions"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()) {
            let (Some(source), Some(rung)) = (newest(client, "source"), newest(client, rung)) else { continue };
            assert!(source <= rung + 4, "a rung is {} chunks behind", source - rung);
        }
    }

    // Windows and rings are full after their length; what still grows would grow for ever.
    assert!(rss.iter().all(|mib| *mib < 400), "MiB by round: {rss:?}");
    assert!(node.transcoders().len() <= BROADCASTS);
    let last = node.transcoders().into_iter().map(rss_mib).max().unwrap_or(0);
    assert!(last < 200, "a transcoder holds {last} MiB");
    drop(publishers);
}
