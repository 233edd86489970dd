//! A balancer in front of nodes, as operators have one: leads viewers and publishers to a node that says it is ready.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Node, get_within, proxy::Proxy};

/// How often it looks whether its node is ready, and how long that has to answer.
const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(500);

/// See the module. It stays with a node until that is not ready any more; connections that are there stay where they are, and
/// those of viewers are closed where the node does not answer at all.
pub struct Balancer {
    pub http: Arc<Proxy>,
    pub rtmp: Arc<Proxy>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    /// Before these nodes, the first preferred.
    pub fn start(nodes: &[&Node]) -> Self {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let ends: Vec<_> = nodes.iter().map(|node| (node.url("/readyz"), at(node.http), at(node.rtmp))).collect();
        let (http, rtmp) = (Arc::new(Proxy::start(&ends[0].1)), Arc::new(Proxy::start(&ends[0].2)));
        let stop = Arc::new(AtomicBool::new(false));
        let (viewers, publishers, stopped) = (http.clone(), rtmp.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut place = 0;
            while !stopped.load(Ordering::Relaxed) {
                let status = get_within(&ends[place].0, PATIENCE).status;
                if status != 200 {
                    place = (place + 1) % ends.len();
                    viewers.aim(&ends[place].1);
                    publishers.aim(&ends[place].2);
                }
                if status == 0 {
                    viewers.cut();
                }
                std::thread::park_timeout(EVERY);
            }
        });
        Self { http, rtmp, stop, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
