use std::sync::atomic::AtomicUsize;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::secret::Secret;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A backend that gives one answer to all, after a while; and how often it was asked.
async fn backend(answer: &'static str, after: Duration) -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ask", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                while !heard.ends_with(b"}") {
                    if socket.read_buf(&mut heard).await.unwrap() == 0 {
                        return;
                    }
                }
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(after).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, asked)
}

fn asker(url: Url, fail_open: bool) -> Arc<Asker> {
    let key = Key::new(&Secret::new("x".repeat(24))).unwrap();
    let (node, timeout) = ("n".into(), Duration::from_millis(500));
    let config = Config { node, publish: Some(url.clone()), play: Some(url), key, timeout, fail_open };
    Asker::new(config, Client::new(true, false).unwrap())
}

fn refused(unknown: bool, words: &str) -> Refused {
    Refused { unknown, words: (!words.is_empty()).then(|| words.into()) }
}

#[tokio::test]
async fn a_crowd_asks_once() {
    let ok = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    let (url, asked) = backend(ok, Duration::from_millis(50)).await;
    let asker = asker(url, false);
    let crowd = (0..10_000).map(|_| asker.play("alice", Some("t"), HERE));
    let verdicts = futures::future::join_all(crowd).await;
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Admitted));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(asker.known("alice", Some("t"), HERE), Some(Verdict::Admitted));
    // Whoever differs in anything is somebody else.
    assert_eq!(asker.known("alice", None, HERE), None);
    assert_eq!(asker.known("alice", Some("u"), HERE), None);
    assert_eq!(asker.known("alicet", None, HERE), None);
    assert_eq!(asker.known("bob", Some("t"), HERE), None);
    assert_eq!(asker.known("alice", Some("t"), [127, 0, 0, 2].into()), None);
    assert_eq!(asker.known("alice", Some("t"), "::ffff:127.0.0.1".parse().unwrap()), Some(Verdict::Admitted));
    // Whoever asked first goes away: the answer is there for the next.
    let gone = asker.play("bob", None, HERE);
    assert!(timeout(Duration::from_millis(5), gone).await.is_err());
    assert_eq!(asker.play("bob", None, HERE).await, Verdict::Admitted);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let long = "x".repeat(LENGTH_MAX + 1);
    assert_eq!(asker.play("bob", Some(&long), HERE).await, Verdict::Refused(refused(true, "")));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_refusal_has_words() {
    let no =
        "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 28\r\n\r\n{\"detail\":\"not\\nsubscribed\"}";
    let (url, asked) = backend(no, Duration::ZERO).await;
    let asker = asker(url, true);
    assert_eq!(asker.play("alice", None, HERE).await, Verdict::Refused(refused(false, "notsubscribed")));
    assert_eq!(asker.play("alice", None, HERE).await, Verdict::Refused(refused(false, "notsubscribed")));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(asker.publish(None, "k", HERE).await, Publish::Refused(refused(false, "notsubscribed")));
    assert_eq!(asker.publish(None, "k", HERE).await, Publish::Refused(refused(false, "notsubscribed")));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_answer_may_name_the_stream_and_how_long_it_counts() {
    let named = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 28\r\n\r\n{\"stream\":\"bob\", \"ttl_s\":-1}";
    let (url, _) = backend(named, Duration::ZERO).await;
    let asker = asker(url, false);
    assert_eq!(asker.publish(None, "k", HERE).await, Publish::Admitted(Some("bob".parse().unwrap())));
    let name = name("alice", None, HERE);
    assert_eq!(asker.play("alice", None, HERE).await, Verdict::Admitted);
    let kept = asker.remembered.get(&name).unwrap();
    assert!(kept.until <= now() + Duration::from_secs(1));
    let strange = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 17\r\n\r\n{\"stream\":\"../x\"}";
    let (url, _) = backend(strange, Duration::ZERO).await;
    assert_eq!(self::asker(url, true).publish(None, "k", HERE).await, Publish::Unsure);
}

#[tokio::test]
async fn without_an_answer_nobody_comes_in_unless_the_operator_says_so() {
    let wrong = "HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n";
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\nconnection: close\r\n\r\n";
    let (late, _) = backend("", Duration::from_secs(60)).await;
    let nobody = "http://127.0.0.1:9/".parse().unwrap();
    let urls = [backend(wrong, Duration::ZERO).await.0, backend(moved, Duration::ZERO).await.0, late, nobody];
    for url in urls {
        let closed = asker(url.clone(), false);
        assert_eq!(closed.play("alice", None, HERE).await, Verdict::Unsure, "{url}");
        assert_eq!(closed.publish(None, "k", HERE).await, Publish::Unsure, "{url}");
        let open = asker(url.clone(), true);
        assert_eq!(open.play("alice", None, HERE).await, Verdict::Admitted, "{url}");
        assert_eq!(open.publish(None, "k", HERE).await, Publish::Admitted(None), "{url}");
    }
}
