//! A real nginx with `proxy_cache` in front, as README's "Behind a CDN" sets it up: one request to the origin for each object.

mod support;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{Node, Publisher, free_port, get, hls, secs, wait};
use weir::time::now;

const PLAYERS: usize = 200;
/// Each has its own ticket.
const TICKETS: usize = 20;

const CONFIG: &str = r#"
daemon off; pid DIR/nginx.pid; error_log DIR/error.log; worker_processes 1;
events { worker_connections 4096; }
http {
    client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fcgi; uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    log_format cache '$status $upstream_cache_status /$rest?$arg__HLS_msn.$arg__HLS_part.$arg__HLS_skip';
    access_log off;
    proxy_cache_path DIR/cache keys_zone=weir:8m;
    proxy_read_timeout 20s;
    server {
        listen 127.0.0.1:PORT;
        location ~ ^/t/(?<ticket>[^/]+)/(?<rest>hls/.+)$ {
            access_log DIR/access.log cache;
            auth_request /ticket;
            proxy_cache weir;
            proxy_cache_key /$rest?$arg__HLS_msn.$arg__HLS_part.$arg__HLS_skip;
            proxy_cache_lock on;
            proxy_pass http://ORIGIN/t/$ticket/$rest$is_args$args;
        }
        location = /ticket {
            internal;
            proxy_pass http://ORIGIN/t/$ticket/ticket/$rest;
            proxy_pass_request_body off;
        }
    }
}
"#;

/// A running nginx; ended when dropped.
struct Cache {
    child: Child,
    url: String,
}

impl Cache {
    fn start(dir: &Path, origin: &str) -> Self {
        let port = free_port();
        let origin = origin.trim_start_matches("http://").trim_end_matches('/');
        let text = CONFIG
            .replace("DIR", &dir.display().to_string())
            .replace("PORT", &port.to_string())
            .replace("ORIGIN", origin);
        let config = dir.join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let binary = ["/usr/sbin/nginx", "nginx"].into_iter().find(|name| Path::new(name).exists()).unwrap_or("nginx");
        let child = Command::new(binary)
            .args(["-e".as_ref(), dir.join("error.log").as_os_str(), "-c".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx must be installed (scripts/install-deps test)");
        let cache = Self { child, url: format!("http://127.0.0.1:{port}") };
        wait("nginx", secs(10), || (get(&cache.url).status != 0).then_some(()));
        cache
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // The master ends its worker when it is asked to, not when it is killed.
        support::signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

/// Follows a rendition part by part for some seconds; gives what was fetched, in order.
fn play(playlist: &str) -> Vec<String> {
    let (mut fetched, mut seen) = (Vec::new(), None);
    let text = get(playlist).text();
    let mut next = newest(&text);
    let until = now() + secs(5);
    while now() < until {
        let (k, part) = next;
        let answer = get(&format!("{playlist}?_HLS_msn={k}&_HLS_part={part}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        for uri in text.lines().filter_map(|line| line.strip_prefix("#EXT-X-PART:")) {
            let uri = hls::join(playlist, &hls::attributes(uri)["URI"]);
            let place = number(&uri);
            if place >= (k, part) && seen.is_none_or(|seen| place > seen) {
                assert_eq!(get(&uri).status, 200, "{uri}");
                fetched.push(uri);
                seen = Some(place);
            }
        }
        next = newest(&text);
    }
    fetched
}

/// The part that comes after those of a playlist, by its hint.
fn newest(text: &str) -> (u64, u64) {
    let hint = text.lines().find_map(|line| line.strip_prefix("#EXT-X-PRELOAD-HINT:")).expect("a hint");
    number(&hls::attributes(hint)["URI"])
}

/// Chunk and part of a part's URI.
fn number(uri: &str) -> (u64, u64) {
    let mut name = uri.rsplit('/').next().unwrap().split('.').map(|number| number.parse().unwrap_or(0));
    (name.next().unwrap(), name.nth(1).unwrap())
}

#[test]
fn a_crowd_behind_a_cache_costs_the_origin_one_request_per_object() {
    let node = Node::start(&["ladder=[]", "auth.playback=ticket"]);
    let _publisher = Publisher::test_picture(&node, "alice", "320x180", 30, "-g 60 -b:v 300k", "-b:a 64k", 60);
    node.wait_live("alice");
    let tickets: Vec<String> = (0..TICKETS).map(|_| node.ticket("alice")).collect();

    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::start(dir.path(), &node.url(""));
    // Who has no good ticket gets nothing, also of what the cache holds.
    let stable = |ticket: &str| format!("{}/t/{ticket}/hls/alice/index.m3u8", cache.url);
    let source = hls::Client::open(&stable(&tickets[0])).uri("source").to_owned();
    assert_eq!(get(&stable("x.y.z")).status, 401);
    assert_eq!(get(&source).status, 200);
    assert_eq!(get(&source.replace(&tickets[0], "x.y.z")).status, 401);

    let played: Vec<Vec<String>> = std::thread::scope(|scope| {
        let players: Vec<_> = (0..PLAYERS)
            .map(|i| {
                let url = source.replace(&tickets[0], &tickets[i % TICKETS]);
                scope.spawn(move || play(&url))
            })
            .collect();
        players.into_iter().map(|player| player.join().expect("a player")).collect()
    });
    assert!(played.iter().all(|parts| parts.len() >= 8), "{:?}", played.iter().map(Vec::len).collect::<Vec<_>>());

    // nginx says of each request whether it went to the origin.
    let (mut asked, mut origin) = (0, BTreeMap::<String, usize>::new());
    for line in std::fs::read_to_string(dir.path().join("access.log")).unwrap().lines() {
        let [status, cached, object] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if object.contains("alice") && status == "200" {
            asked += 1;
            *origin.entry(object.to_owned()).or_default() += usize::from(cached != "HIT");
        }
    }
    // A playlist without directives goes stale in a second and is asked for again.
    origin.retain(|object, _| !object.ends_with("index.m3u8?.."));
    assert!(origin.len() > 16 && asked > PLAYERS * 16, "{asked} requests for {} objects", origin.len());
    assert!(origin.values().all(|requests| *requests == 1), "{origin:?}");
}
