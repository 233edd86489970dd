//! The HTTP ports as such: HTTP/2 with and without TLS, certificates that are renewed, and limits that are crossed.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Version, body::Bytes, client::conn, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{
    Node, Publisher, free_port, get, hls, secs,
    upstream::{Upstream, body, crowd},
    wait,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName},
    },
};

const SOURCE_ONLY: &str = "ladder=[]";

/// A certificate for this machine, as files.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// Gets a path over a connection that speaks HTTP/2.
async fn get_http2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, path: &str) -> (u16, Bytes) {
    // HEAD first: its answer has a length and no body.
    let (mut sender, connection) =
        conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    let request = |method: &str| {
        let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let head = sender.send_request(request("HEAD")).await.expect("an answer");
    let length = head.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse::<usize>().unwrap();
    assert!(head.into_body().collect().await.expect("nothing").to_bytes().is_empty());
    let answer = sender.send_request(request("GET")).await.expect("an answer");
    assert_eq!(answer.version(), Version::HTTP_2);
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body.len(), length);
    (status, body)
}

async fn connect_tls(
    port: u16,
    trusted: &CertificateDer<'static>,
    protocol: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn players_come_by_http2_and_by_tls() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = certificate(dir.path());
    let port = free_port();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let node = Node::start(&[
        SOURCE_ONLY,
        &format!("https.listen=127.0.0.1:{port}"),
        &format!("https.certificate={}", file("cert.pem")),
        &format!("https.key={}", file("key.pem")),
    ]);
    let _publisher = Publisher::test_picture(&node, "alice", "320x180", 30, "-g 60 -b:v 200k", "-b:a 64k", 60);
    node.wait_live("alice");
    let source = hls::Client::open(&node.url("/hls/alice/index.m3u8")).uri("source").to_owned();
    let chunk = hls::playlist(&source).unwrap().segments[0].uri.clone();
    let path = chunk.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap();
    let bytes = get(&chunk).body;

    let plain = tokio::net::TcpStream::connect(("127.0.0.1", node.http)).await.unwrap();
    let (status, body) = get_http2(plain, &path).await;
    assert!(status == 200 && body == bytes);
    let encrypted = connect_tls(port, &trusted, "h2").await.unwrap();
    assert_eq!(encrypted.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (status, body) = get_http2(encrypted, &path).await;
    assert!(status == 200 && body == bytes);

    // A page's own requests are known as such without a Host; those of another site's are not.
    for (origin, status) in [("https://localhost", 201), ("https://example.com", 403)] {
        let encrypted = connect_tls(port, &trusted, "h2").await.unwrap();
        let (mut sender, connection) =
            conn::http2::handshake(TokioExecutor::new(), TokioIo::new(encrypted)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("https://localhost/api/v1/streams/alice/chat/me").header(header::ORIGIN, origin);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let answer =
            sender.send_request(request.body(Full::<Bytes>::from(r#"{"name":"Ann"}"#)).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{origin}");
        let cookie = answer.headers().get(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap());
        assert!(status != 201 || cookie.is_some_and(|cookie| cookie.ends_with("; Secure")), "{cookie:?}");
    }

    // HTTP/1.1 by TLS, and a player that blocks for the next part.
    let encrypted = connect_tls(port, &trusted, "http/1.1").await.unwrap();
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(encrypted)).await.unwrap();
    tokio::spawn(connection);
    let path = source.splitn(4, '/').nth(3).unwrap();
    let newest = hls::playlist(&source).unwrap().segments.len();
    let request = Request::get(format!("/{path}?_HLS_msn={newest}"));
    let request = request.header(header::HOST, "localhost").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_11));

    // A renewed certificate is taken without a restart, one that cannot be used is not.
    let renewed = certificate(dir.path());
    tokio::task::block_in_place(|| {
        let runtime = tokio::runtime::Handle::current();
        wait("the renewed certificate", secs(10), || runtime.block_on(connect_tls(port, &renewed, "h2")).ok());
    });
    assert!(connect_tls(port, &trusted, "h2").await.is_err(), "the old one is gone");
    std::fs::write(dir.path().join("cert.pem"), "half a fi").unwrap();
    tokio::task::block_in_place(|| {
        wait("a warning", secs(10), || node.log().contains("the new certificate cannot be used").then_some(()));
    });
    assert!(connect_tls(port, &renewed, "h2").await.is_ok());
}

#[test]
fn a_certificate_that_cannot_be_used_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let run = |certificate: &str, key: &str| {
        let mut weir = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
        let file = |name: &str| dir.path().join(name).display().to_string();
        weir.args(["serve", "--set", "http.listen=127.0.0.1:0", "--set", "rtmp.listen=127.0.0.1:0"]);
        weir.args(["--set", "internal.listen=127.0.0.1:0", "--set", "https.listen=127.0.0.1:0"]);
        weir.args(["--set", &format!("data.dir={}", file("data"))]);
        weir.args(["--set", &format!("https.certificate={}", file(certificate))]);
        weir.args(["--set", &format!("https.key={}", file(key))]);
        let ended = weir.output().unwrap();
        assert!(!ended.status.success());
        String::from_utf8(ended.stderr).unwrap()
    };
    assert!(run("cert.pem", "none.pem").contains("none.pem"));
    assert!(run("key.pem", "key.pem").contains("holds no certificate in PEM"));
    let other = tempfile::tempdir_in(dir.path()).unwrap();
    certificate(other.path());
    let other = other.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(run("cert.pem", &format!("{other}/key.pem")).contains("cannot be used together"));
}

/// The status that a fresh connection gets; 0 when it is closed without one.
fn status(socket: &mut TcpStream) -> u16 {
    socket.set_read_timeout(Some(secs(5))).unwrap();
    let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut answer = [0; 12];
    match socket.read_exact(&mut answer) {
        Ok(()) => String::from_utf8_lossy(&answer[9..]).parse().unwrap(),
        Err(_) => 0,
    }
}

#[test]
fn one_address_has_so_many_connections() {
    let node = Node::start(&[SOURCE_ONLY, "http.connections_per_address=20"]);
    let connect = || TcpStream::connect(("127.0.0.1", node.http)).unwrap();
    let mut all: Vec<_> = (0..30).map(|_| connect()).collect();
    let served = all.iter_mut().map(status).filter(|status| *status == 200).count();
    assert!((15..=20).contains(&served), "{served}");
    // Whoever leaves makes room.
    drop(all);
    wait("room", secs(5), || (status(&mut connect()) == 200).then_some(()));
    let metrics = get(&node.url("/metrics")).text();
    assert!(metrics.contains("weir_http_connections_refused_total"), "{metrics}");
}

#[test]
fn more_requests_than_there_may_be_are_told_to_come_again() {
    let slow = Upstream::start(Duration::from_millis(700), 1000);
    let node = Node::start(&[
        "node.roles=[\"edge\"]",
        &format!("edge.upstream=[\"http://127.0.0.1:{}\"]", slow.port),
        "http.requests_max=16",
    ]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = ([127, 0, 0, 1], node.http).into();
    let all = runtime.block_on(crowd(address, "/hls/alice/01b/source/1.1.m4s", 40));
    let with = |status: &str| all.iter().filter(|got| got.answer.starts_with(status.as_bytes())).count();
    assert_eq!((with("HTTP/1.1 200"), with("HTTP/1.1 503")), (16, 24));
    // All places are given back.
    let again = runtime.block_on(crowd(address, "/hls/alice/01b/source/1.1.m4s", 16));
    assert!(again.iter().all(|got| got.answer.ends_with(&body(1000))));
}

#[test]
fn headers_that_never_end_are_cut() {
    let node = Node::start(&[SOURCE_ONLY]);
    let mut socket = TcpStream::connect(("127.0.0.1", node.http)).unwrap();
    socket.set_read_timeout(Some(secs(10))).unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let line = format!("x-filler: {}\r\n", "a".repeat(1000));
    let mut sent = 0;
    while sent < 100_000 && socket.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(get(&node.url("/healthz")).status, 200);
}
