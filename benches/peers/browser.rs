//! Chromium with the watch page, driven by `web/test/browser.mjs`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::say;

pub struct Browser {
    script: PathBuf,
}

impl Browser {
    /// Nothing, and a word why, where there is none.
    pub fn find() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/test/browser.mjs");
        let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
        if !script.exists() || !Path::new(&browser).exists() {
            say("no browser here: scripts/install-deps test; what is seen in one is not measured");
            return None;
        }
        Some(Self { script })
    }

    /// Opens `url` and leaves it alone for so long; says `open` on standard error when it is there.
    pub fn stay(&self, url: &str, seconds: u32) -> Command {
        let mut command = Command::new("node");
        command.arg(&self.script).args(["stay", "--url", url, "--seconds", &seconds.to_string()]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Opens `url`, plays for `seconds` after the first picture, and tells how it goes once a second on standard error and
    /// in the end on standard output.
    pub fn play(&self, url: &str, seconds: u32) -> Command {
        let mut command = Command::new("node");
        command.arg(&self.script).args(["play", "--progress", "--start-within", "60", "--url", url]);
        command.args(["--seconds", &seconds.to_string()]).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}
