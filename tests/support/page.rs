//! The watch page in a real Chromium (`web/test/browser.mjs`), and what it tells of itself meanwhile.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use super::wait;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    LowLatency,
    /// Whole chunks, three of them behind.
    Plain,
}

/// A page that plays.
pub struct Page {
    child: Child,
    /// What it told last, once a second.
    told: Arc<Mutex<Value>>,
    reads: Option<JoinHandle<()>>,
}

impl Page {
    /// Opens a page and waits until it plays; it goes on for so long after its first picture.
    pub fn open(url: &str, mode: Mode, length: Duration) -> Self {
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/web/test/browser.mjs")).args(["play", "--progress"]);
        command.args(["--url", url, "--seconds", &length.as_secs().to_string()]);
        if mode == Mode::Plain {
            command.arg("--plain");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("node must be installed, and `npm ci` run in web/");
        let lines = BufReader::new(child.stderr.take().expect("is piped")).lines().map_while(Result::ok);
        let told = Arc::<Mutex<Value>>::default();
        let kept = told.clone();
        let reads = std::thread::spawn(move || {
            for value in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                *kept.lock().unwrap() = value;
            }
        });
        let page = Self { child, told, reads: Some(reads) };
        wait("a page that plays", Duration::from_secs(60), || {
            let told = page.told();
            (told["playing"] == true && told["totalFrames"].as_u64() > Some(90)).then_some(())
        });
        page
    }

    pub fn told(&self) -> Value {
        self.told.lock().unwrap().clone()
    }

    /// How often it has stalled, and for how many milliseconds in all.
    pub fn stalls(&self) -> (u64, f64) {
        let told = self.told();
        (told["stalls"].as_u64().unwrap_or(0), told["stallMs"].as_f64().unwrap_or(0.0))
    }

    /// Waits until its time is over; gives its report, of a page that has played without a new start.
    pub fn report(mut self) -> Value {
        self.reads.take().expect("once").join().expect("no panic");
        let mut stdout = self.child.stdout.take().expect("is piped");
        let report: Value = serde_json::from_reader(&mut stdout).expect("one line of JSON");
        self.child.wait().expect("our child");
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!((&report["fatalErrors"], &report["restarts"]), (&0.into(), &0.into()), "{report}");
        report
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Asked, it closes its browser; killed, it would leave it.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
