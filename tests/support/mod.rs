//! What the end-to-end tests share: a real node in a process of its own, real publishers, a strict HLS client.
//!
//! Everything listens on 127.0.0.1 at ports picked free at run time; what a test starts, it stops when it is dropped.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod balancer;
pub mod chat;
pub mod cluster;
pub mod hls;
pub mod mp4;
pub mod netns;
pub mod page;
pub mod proxy;
pub mod readers;
pub mod receiver;
pub mod rtmp;
pub mod servers;
pub mod upstream;

use std::{
    fs::File,
    io::Read,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    str::FromStr,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use weir::time::{Timestamp, now};

/// Waits until `ready` gives something, or fails the test after `limit`.
pub fn wait<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(now() < until, "{what}: not within {limit:?}");
        // A pause between two looks, not a wait for an event.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A number that the environment gives under this name.
pub fn given<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A port nobody listens on now. It is below those that the system gives to connections, of which a driver makes many: one of
/// them could have it before the node listens.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(rand::random::<u32>() % 10_000));
    let next = || u16::try_from(10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000).expect("it is smaller");
    let mut ports = std::iter::repeat_with(next).take(10_000);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// A node of its own process.
pub struct Node {
    child: Child,
    pub rtmp: u16,
    pub http: u16,
    pub internal: u16,
    pub dir: tempfile::TempDir,
    settings: Vec<String>,
    prefix: Vec<String>,
}

impl Node {
    /// Starts a node where any stream name may publish, with `settings` (`key=value`) on top. Its rows and bytes lie in its own
    /// folder, or in the shared servers where the environment says so.
    pub fn start(settings: &[&str]) -> Self {
        let remote = std::env::var_os(servers::REMOTE).map(|_| servers::node_settings());
        let remote = remote.unwrap_or_default();
        let remote: Vec<_> = remote.iter().map(String::as_str).collect();
        Self::start_local(&[&remote, settings].concat())
    }

    /// The same, always in its own folder.
    pub fn start_local(settings: &[&str]) -> Self {
        Self::start_inside(&[], (free_port(), free_port(), free_port()), settings)
    }

    /// The same at these ports for RTMP, HTTP and other nodes, its command line beginning with `prefix`.
    pub fn start_inside(prefix: &[String], (rtmp, http, internal): (u16, u16, u16), settings: &[&str]) -> Self {
        let mut all = vec!["auth.publish=open".to_owned()];
        all.extend(settings.iter().map(|s| s.to_string()));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let child = spawn(prefix, dir.path(), (rtmp, http, internal), &all);
        let mut node = Self { child, rtmp, http, internal, dir, settings: all, prefix: prefix.to_vec() };
        node.wait_ready();
        node
    }

    fn wait_ready(&mut self) {
        let url = self.url("/readyz");
        let until = now() + secs(20);
        while get(&url).status != 200 {
            if let Some(status) = self.child.try_wait().expect("our child") {
                panic!("the node ended at start ({status}): {}", self.log());
            }
            assert!(now() < until, "the node is not ready: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    pub fn publish_url(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.rtmp)
    }

    /// Runs a subcommand of `weir` that talks to this node.
    pub fn weir(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(args).args(["--url", &self.url(""), "--token-file"]).arg(self.dir.path().join("data/admin.token"));
        command.output().expect("the weir binary")
    }

    /// Asks this node's API with its admin token.
    pub fn admin(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let bearer = self.bearer();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        request(method, &self.url(path), &headers, body)
    }

    /// What proves that a request is the operator's.
    pub fn bearer(&self) -> String {
        let token = std::fs::read_to_string(self.dir.path().join("data/admin.token"));
        format!("Bearer {}", token.expect("written at the first start").trim())
    }

    /// A ticket for a stream, as the API signs it when nothing is wished.
    pub fn ticket(&self, stream: &str) -> String {
        let made = self.admin("POST", &format!("/api/v1/streams/{stream}/tickets"), Some("{}"));
        let made: serde_json::Value = serde_json::from_slice(&made.body).expect("JSON");
        made["ticket"].as_str().expect("a ticket").to_owned()
    }

    /// What its process was told.
    pub fn all_settings(&self) -> Vec<String> {
        let data = format!("data.dir={}", self.dir.path().join("data").display());
        self.settings.iter().cloned().chain([data]).collect()
    }

    /// The folder of chunk files, here or of the object store's server.
    pub fn blobs(&self) -> PathBuf {
        let url = self.settings.iter().find_map(|setting| setting.strip_prefix("blobs.url=s3://"));
        match url {
            Some(folder) => Path::new(&servers::told("TESTS_S3_BUCKETS")).join(folder),
            None => self.dir.path().join("data/blobs"),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        read(&self.dir.path().join("log"))
    }

    /// kill -9, then a new process with the same data, ports and settings.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.child = spawn(&self.prefix, self.dir.path(), (self.rtmp, self.http, self.internal), &self.settings);
        self.wait_ready();
    }

    /// A new process with the same data, ports and settings, after the old one has ended.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.prefix, self.dir.path(), (self.rtmp, self.http, self.internal), &self.settings);
        self.wait_ready();
    }

    pub fn crash(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// SIGTERM; gives how long the end took and the exit status.
    pub fn terminate(&mut self) -> (Duration, std::process::ExitStatus) {
        let start = now();
        signal(self.pid(), "TERM");
        let status = wait("the node's end", secs(15), || self.child.try_wait().expect("our child"));
        (now() - start, status)
    }

    /// Waits until its process ends by itself.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        wait("the node's end", secs(15), || self.child.try_wait().expect("our child"))
    }

    /// The processes of transcoders under this node.
    pub fn transcoders(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if parent == Some(self.pid()) && command.contains("transcode-worker") {
                pids.push(pid);
            }
        }
        pids
    }

    /// The one of them that has worked most: others wait for something to do.
    pub fn busiest_transcoder(&self) -> u32 {
        let worked = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        };
        self.transcoders().into_iter().max_by_key(worked).expect("a transcoder")
    }

    /// Waits until the stream is live and gives its JSON.
    pub fn wait_live(&self, stream: &str) -> serde_json::Value {
        self.wait_stream(stream, "live", |s| s["state"] == "live")
    }

    pub fn wait_stream(
        &self,
        stream: &str,
        what: &str,
        good: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let url = self.url(&format!("/api/v1/streams/{stream}"));
        let mut last = serde_json::Value::Null;
        let until = now() + secs(30);
        loop {
            if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&get(&url).body) {
                last = value;
                if good(&last) {
                    return last;
                }
            }
            assert!(now() < until, "{stream} is not {what}: {last}\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- the node's log ends with:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn spawn(prefix: &[String], dir: &Path, (rtmp, http, internal): (u16, u16, u16), settings: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("the log file");
    let line: Vec<_> = prefix.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_weir"), "serve"]).collect();
    let mut command = Command::new(line[0]);
    command.args(&line[1..]);
    for set in [
        format!("rtmp.listen=127.0.0.1:{rtmp}"),
        format!("http.listen=127.0.0.1:{http}"),
        format!("internal.listen=127.0.0.1:{internal}"),
        format!("data.dir={}", dir.join("data").display()),
    ]
    .iter()
    .chain(settings)
    {
        command.args(["--set", set]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
    command.spawn().expect("the weir binary")
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill");
    assert!(status.success(), "kill -{name} {pid}");
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// A publisher process; ended when dropped.
pub struct Publisher {
    child: Child,
    log: PathBuf,
}

impl Publisher {
    /// ffmpeg with these arguments after `-v error`; they must name input, codecs and output.
    pub fn ffmpeg(node: &Node, args: &[&str]) -> Self {
        let log = node.dir.path().join(format!("ffmpeg-{}", now().0));
        let file = File::create(&log).expect("a log file");
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-v", "warning"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0);
        Self { child: command.spawn().expect("ffmpeg must be installed"), log }
    }

    /// A moving picture with a tone, in real time: `video` and `audio` are further ffmpeg arguments for each.
    pub fn test_picture(node: &Node, key: &str, size: &str, fps: u32, video: &str, audio: &str, seconds: u32) -> Self {
        let (picture, tone) = (format!("testsrc2=s={size}:r={fps}"), "sine=440:r=48000".to_owned());
        let (seconds, url) = (seconds.to_string(), node.publish_url(key));
        let mut args = vec!["-re", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &tone, "-t", &seconds];
        args.extend(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
        args.extend(video.split_whitespace());
        args.extend(["-c:a", "aac"]);
        args.extend(audio.split_whitespace());
        args.extend(["-f", "flv", &url]);
        Self::ffmpeg(node, &args)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a goodbye.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn wait(&mut self, limit: Duration) -> std::process::ExitStatus {
        wait("the publisher's end", limit, || self.child.try_wait().expect("our child"))
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    pub fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// An HTTP answer; status 0 when there was none.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}

pub fn get(url: &str) -> Answer {
    request("GET", url, &[], None)
}

/// The same, for those who do not wait long.
pub fn get_within(url: &str, limit: Duration) -> Answer {
    ask("GET", url, &[], None, limit)
}

pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
    ask(method, url, headers, body, secs(10))
}

fn ask(method: &str, url: &str, headers: &[(&str, &str)], body: Option<&str>, limit: Duration) -> Answer {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(limit)).build();
    let agent = ureq::Agent::new_with_config(config);
    let mut builder = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let sent = agent.run(builder.body(body.unwrap_or_default().to_owned()).expect("a request"));
    let Ok(mut response) = sent else { return Answer::default() };
    let headers = response.headers().iter();
    let headers = headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap_or_default().to_owned())).collect();
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().unwrap_or_default();
    Answer { status, headers, body }
}

/// How long something may still take.
pub fn left(until: Timestamp) -> Duration {
    until - now()
}
