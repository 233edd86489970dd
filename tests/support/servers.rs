//! The database and the object store that `make test` starts for all tests (`scripts/test-servers`).

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::sync::OnceCell;
use url::Url;
use weir::{
    auth::Secret,
    store::{
        objects::{self, Objects},
        scylla::{self, Scylla},
    },
};

/// Set in the environment: nodes of tests keep their rows and bytes in these servers.
pub const REMOTE: &str = "TESTS_REMOTE";

/// What a node needs to be told to keep its rows and bytes in these servers, apart from all other nodes'.
pub fn node_settings() -> Vec<String> {
    static NODES: AtomicU32 = AtomicU32::new(0);
    let name = format!("{}_{}", own("t"), NODES.fetch_add(1, Ordering::Relaxed));
    let [cql, s3, bucket, key, secret] =
        ["TESTS_CQL", "TESTS_S3", "TESTS_S3_BUCKET", "TESTS_S3_KEY", "TESTS_S3_SECRET"].map(told);
    vec![
        "store.kind=scylla".into(),
        format!("store.nodes=[\"{cql}\"]"),
        format!("store.keyspace={name}"),
        format!("blobs.url=s3://{bucket}/{name}"),
        format!("blobs.endpoint={s3}"),
        "blobs.region=us-east-1".into(),
        format!("blobs.key={key}"),
        format!("blobs.secret={secret}"),
    ]
}

/// A variable of the environment that the script tells.
pub fn told(name: &str) -> String {
    let how = "run `make test`, or `eval \"$(scripts/test-servers start target/test-servers)\"` first";
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: {how}"))
}

/// Keyspaces and prefixes of this process.
pub fn own(kind: &str) -> String {
    format!("{kind}_{}", std::process::id())
}

/// The settings of a database at `node`.
pub fn cql_at(node: &str, keyspace: &str) -> scylla::Settings {
    scylla::Settings {
        nodes: vec![node.to_owned()],
        keyspace: keyspace.to_owned(),
        login: None,
        datacenter: None,
        replicas: 0,
        serial_local: false,
        tls: None,
        create: true,
        chat_keep: std::time::Duration::from_secs(86_400),
        audience_keep: std::time::Duration::from_secs(86_400),
    }
}

/// A store in the shared database. All tests of a process share its keyspace, which is made once.
pub async fn cql() -> Scylla {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let settings = cql_at(&told("TESTS_CQL"), &own("weir_test"));
    let make = async {
        Scylla::init(&settings).await.expect("the tables");
    };
    MADE.get_or_init(|| make).await;
    // Sessions belong to the runtime that made them, and each test has its own.
    let mut tries = 0;
    loop {
        match Scylla::open(settings.clone()).await {
            Ok(store) => return store,
            Err(why) if tries < 3 => {
                eprintln!("{why}");
                tries += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(why) => panic!("{why}"),
        }
    }
}

/// The settings of an object store at `endpoint`.
pub fn s3_at(endpoint: &str, prefix: &str) -> objects::Settings {
    objects::Settings {
        url: format!("s3://{}/{prefix}", told("TESTS_S3_BUCKET")).parse().expect("a URL"),
        endpoint: Some(endpoint.parse::<Url>().expect("a URL")),
        region: Some("us-east-1".into()),
        login: Some((told("TESTS_S3_KEY"), Secret::new(told("TESTS_S3_SECRET")))),
        virtual_host: false,
        hedge: false,
    }
}

/// A store in the shared object store, with a prefix of its own.
pub async fn s3(hedge: bool) -> Objects {
    let prefix = format!("{}/{:016x}", own("test"), rand::random::<u64>());
    let settings = objects::Settings { hedge, ..s3_at(&told("TESTS_S3"), &prefix) };
    Objects::open(&settings).await.expect("the object store")
}

/// A database server of a test's own, to be stopped and killed.
pub struct OwnCql {
    child: Child,
    dir: tempfile::TempDir,
    passwords: bool,
    pub address: String,
}

impl OwnCql {
    pub fn start() -> Self {
        Self::start_as(false)
    }

    /// One that asks for user and password, at first `cassandra` and `cassandra`.
    pub fn start_with_passwords() -> Self {
        Self::start_as(true)
    }

    fn start_as(passwords: bool) -> Self {
        // An address of its own, as the script that starts it would take: none that a driver learned of another server.
        let pid = std::process::id();
        static SERVERS: AtomicU32 = AtomicU32::new(2);
        let last = SERVERS.fetch_add(1, Ordering::Relaxed);
        let host = format!("127.{}.{}.{last}", 1 + pid / 254 % 254, 1 + pid % 254);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let child = Self::spawn(&dir, &host, passwords);
        let server = Self { child, dir, passwords, address: format!("{host}:9042") };
        server.wait();
        server
    }

    fn spawn(dir: &tempfile::TempDir, host: &str, passwords: bool) -> Child {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/test-servers");
        let mut command = Command::new(script);
        command.arg("cql").arg(dir.path().join("cql")).args([host, "9042", "7000"]).stdin(Stdio::null());
        if passwords {
            command.env("TESTS_CQL_PASSWORDS", "yes");
        }
        command.process_group(0).spawn().expect("the script")
    }

    /// Waits until it answers a request for its options (native protocol 4, section 4.1.3).
    fn wait(&self) {
        let answers = || {
            let mut stream = TcpStream::connect(&self.address).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            stream.write_all(&[4, 0, 0, 1, 5, 0, 0, 0, 0]).ok()?;
            let mut head = [0; 5];
            stream.read_exact(&mut head).ok()?;
            (head[4] == 6).then_some(())
        };
        let until = weir::time::now() + Duration::from_secs(60);
        while answers().is_none() {
            assert!(weir::time::now() < until, "the database does not start");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// The same server with the same data.
    pub fn start_again(&mut self) {
        let host = self.address.split(':').next().expect("a host").to_owned();
        self.child = Self::spawn(&self.dir, &host, self.passwords);
        self.wait();
    }
}

impl Drop for OwnCql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
