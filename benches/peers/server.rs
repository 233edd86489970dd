//! The servers that are compared, each in a process and a temporary folder of its own, on free ports of the loopback.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use weir::time::now;

use crate::usage::{self, Usage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Weir,
    Nginx,
    Centrifugo,
}

/// Makes a folder in memory, where the system has such a place. ext4 without a journal searches past every file that was
/// deleted in the last minutes when it makes a new one, and charges that to the server which happens to come next: after a
/// round or a build on the same disk it was up to half of what a server costs here.
fn fresh_folder() -> Result<TempDir> {
    const MEMORY: &str = "/dev/shm";
    let folder = if Path::new(MEMORY).is_dir() { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() };
    folder.context("no temporary folder can be made")
}

/// A running server; stopped when dropped.
pub struct Server {
    pub kind: Kind,
    pub rtmp: u16,
    pub http: u16,
    child: Child,
    path: PathBuf,
    /// Goes with the server.
    _folder: Option<TempDir>,
}

impl Server {
    /// Starts Weir without keys and with `settings` (`key=value`) on top of its defaults. The environment's BENCH_WEIR names
    /// another build than this one, so that two can be compared.
    pub async fn weir(settings: &[&str]) -> Result<Self> {
        Self::weir_on(None, settings).await
    }

    /// The same on one core, when it is named.
    pub async fn weir_on(core: Option<usize>, settings: &[&str]) -> Result<Self> {
        let dir = fresh_folder()?;
        let (path, folder) = (dir.path().to_owned(), Some(dir));
        Self::weir_with(&path, folder, core, settings).await
    }

    /// The same with what lies in a folder that is the caller's.
    pub async fn weir_in(folder: &Path, core: Option<usize>, settings: &[&str]) -> Result<Self> {
        Self::weir_with(folder, None, core, settings).await
    }

    async fn weir_with(path: &Path, folder: Option<TempDir>, core: Option<usize>, settings: &[&str]) -> Result<Self> {
        let (rtmp, http, internal) = (free_port()?, free_port()?, free_port()?);
        let mut command = on_core(core, &weir());
        command.arg("serve");
        for set in [
            format!("rtmp.listen=127.0.0.1:{rtmp}"),
            format!("http.listen=127.0.0.1:{http}"),
            format!("internal.listen=127.0.0.1:{internal}"),
            format!("data.dir={}", path.join("data").display()),
            "auth.publish=open".to_owned(),
        ] {
            command.args(["--set", &set]);
        }
        for set in settings {
            command.args(["--set", set]);
        }
        let child = spawn(&mut command, path)?;
        let server = Self { kind: Kind::Weir, rtmp, http, child, path: path.to_owned(), _folder: folder };
        server.ready("/readyz").await
    }

    /// Starts nginx with its RTMP module, writing HLS with 2 s fragments and a playlist as long as Weir's.
    pub async fn nginx() -> Result<Self> {
        Self::nginx_on(None, include_str!("nginx.conf")).await
    }

    /// Starts nginx with a configuration in which DIR, RTMP_PORT and HTTP_PORT are filled in, on one core when it is named.
    pub async fn nginx_on(core: Option<usize>, config: &str) -> Result<Self> {
        let (dir, rtmp, http) = (fresh_folder()?, free_port()?, free_port()?);
        let path = dir.path();
        fs::create_dir_all(path.join("www/hls"))?;
        fs::create_dir_all(path.join("tmp"))?;
        let config = config
            .replace("DIR", &path.display().to_string())
            .replace("RTMP_PORT", &rtmp.to_string())
            .replace("HTTP_PORT", &http.to_string());
        let file = path.join("nginx.conf");
        fs::write(&file, config)?;
        let binary = ["/usr/sbin/nginx", "nginx"].into_iter().find(|name| Path::new(name).exists()).unwrap_or("nginx");
        let mut command = on_core(core, binary);
        command.arg("-p").arg(path).arg("-c").arg(&file).args(["-g", "daemon off;"]);
        let child = spawn(&mut command, path).context("nginx is the peer: scripts/install-deps bench")?;
        let path = dir.path().to_owned();
        let server = Self { kind: Kind::Nginx, rtmp, http, child, path, _folder: Some(dir) };
        server.ready("/ready").await
    }

    /// Starts Centrifugo on one core, with rooms that anyone joins. The environment's CENTRIFUGO names it.
    pub async fn centrifugo_on(core: Option<usize>) -> Result<Self> {
        let (dir, http) = (fresh_folder()?, free_port()?);
        let config = serde_json::json!({
            "http_server": { "address": "127.0.0.1", "port": http.to_string() },
            "client": { "insecure": true, "allowed_origins": ["*"] },
            "http_api": { "insecure": true },
            "health": { "enabled": true },
            "log": { "level": "error" },
        });
        let file = dir.path().join("centrifugo.json");
        fs::write(&file, config.to_string())?;
        let mut command = on_core(core, &std::env::var("CENTRIFUGO").unwrap_or_else(|_| "centrifugo".into()));
        command.arg("--config").arg(&file);
        let child = spawn(&mut command, dir.path())
            .context("centrifugo is the peer: `go install` it, or name it in CENTRIFUGO")?;
        let path = dir.path().to_owned();
        let server = Self { kind: Kind::Centrifugo, rtmp: 0, http, child, path, _folder: Some(dir) };
        server.ready("/health").await
    }

    async fn ready(mut self, path: &str) -> Result<Self> {
        let until = now() + Duration::from_secs(20);
        while get(self.url(path)).await.is_none() {
            if self.child.try_wait()?.is_some() || now() > until {
                bail!("{:?} does not start: {}", self.kind, fs::read_to_string(self.path.join("log"))?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(self)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    /// Weir's watch page of a stream, with a ticket that it signs.
    pub fn ticketed_page(&self, stream: &str) -> Result<String> {
        let output = Command::new(weir())
            .args(["ticket", "create", stream, "--json", "--url", &self.url(""), "--token-file"])
            .arg(self.path.join("data/admin.token"))
            .output()?;
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no ticket: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(self.url(told["watch"].as_str().context("no watch address")?))
    }

    /// What proves an operator to Weir.
    pub fn admin_token(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path.join("data/admin.token"))?.trim().to_owned())
    }

    /// Where players find a stream.
    pub fn playlist(&self, stream: &str) -> String {
        match self.kind {
            Kind::Weir => self.url(&format!("/hls/{stream}/index.m3u8")),
            Kind::Nginx | Kind::Centrifugo => self.url(&format!("/hls/{stream}.m3u8")),
        }
    }

    /// Where nginx reads the files that it serves.
    pub fn files(&self) -> std::path::PathBuf {
        self.path.join("www")
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http).into()
    }

    pub fn usage(&self) -> Result<Usage> {
        usage::of(self.child.id())
    }

    /// The files of media that it has written and not deleted.
    pub fn media_files(&self) -> Result<usize> {
        let (mut folders, mut count) = (vec![self.path.clone()], 0);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)?.flatten() {
                let path = entry.path();
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("m4s" | "ts") => count += 1,
                    _ if path.is_dir() => folders.push(path),
                    _ => {}
                }
            }
        }
        Ok(count)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By pid, and as its operator would: nginx then also ends its workers.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let until = now() + Duration::from_secs(12);
        while matches!(self.child.try_wait(), Ok(None)) {
            if now() > until {
                let _ = self.child.kill();
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn weir() -> String {
    std::env::var("BENCH_WEIR").unwrap_or_else(|_| env!("CARGO_BIN_EXE_weir").into())
}

pub fn on_core(core: Option<usize>, program: &str) -> Command {
    let Some(core) = core else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

fn spawn(command: &mut Command, dir: &Path) -> Result<Child> {
    let log = File::create(dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Fetches a URL; nothing when the answer is not 200.
pub async fn get(url: String) -> Option<Vec<u8>> {
    let fetch = move || {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build();
        let mut response = ureq::Agent::new_with_config(config).get(&url).call().ok()?;
        response.body_mut().with_config().limit(64 << 20).read_to_vec().ok()
    };
    tokio::task::spawn_blocking(fetch).await.ok()?
}

/// The same, as text.
pub async fn get_text(url: String) -> Option<String> {
    String::from_utf8(get(url).await?).ok()
}
