//! Which encoder family works on this machine. [`pick_family`] asks a child process, so that the node itself never loads
//! GStreamer's plugins; [`run`] is that child.

use std::{path::Path, process::Stdio, time::Duration};

use gstreamer::{self as gst, prelude::*};
use serde::{Deserialize, Serialize};

use super::{Choice, Family};

/// Hidden subcommand of [`run`].
pub const SUBCOMMAND: &str = "transcode-probe";

/// Why nothing can be encoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no encoder family works on this machine: {0}")]
    None(String),
    #[error("the encoder probe failed: {0}")]
    Probe(String),
}

/// What the child found out about one family.
#[derive(Debug, Serialize, Deserialize)]
struct Finding {
    family: Family,
    /// Why it does not work.
    problem: Option<String>,
}

/// An element and the Debian package that has it.
const COMMON: [(&str, &str); 7] = [
    ("appsrc", "gstreamer1.0-plugins-base"),
    ("appsink", "gstreamer1.0-plugins-base"),
    ("queue", "libgstreamer1.0-0"),
    ("tee", "libgstreamer1.0-0"),
    ("capsfilter", "libgstreamer1.0-0"),
    ("videotestsrc", "gstreamer1.0-plugins-base"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
];

fn elements(family: Family) -> &'static [(&'static str, &'static str)] {
    match family {
        Family::X264 => &[
            ("avdec_h264", "gstreamer1.0-libav"),
            ("videoscale", "gstreamer1.0-plugins-base"),
            ("x264enc", "gstreamer1.0-plugins-ugly"),
        ],
        Family::Vaapi => &[
            ("vah264dec", "gstreamer1.0-plugins-bad"),
            ("vapostproc", "gstreamer1.0-plugins-bad"),
            ("vah264enc", "gstreamer1.0-plugins-bad"),
        ],
        Family::Nvenc => &[
            ("nvh264dec", "gstreamer1.0-plugins-bad"),
            ("cudascale", "gstreamer1.0-plugins-bad"),
            ("nvh264enc", "gstreamer1.0-plugins-bad"),
        ],
    }
}

/// A pipeline that encodes a few frames on the family's hardware.
fn trial(family: Family) -> &'static str {
    match family {
        Family::X264 => "videotestsrc num-buffers=5 ! video/x-raw,width=320,height=240 ! x264enc ! fakesink",
        Family::Vaapi => {
            "videotestsrc num-buffers=5 ! video/x-raw,width=320,height=240 ! vapostproc ! vah264enc ! fakesink"
        }
        Family::Nvenc => {
            "videotestsrc num-buffers=5 ! video/x-raw,format=NV12,width=320,height=240 ! cudaupload ! nvh264enc ! fakesink"
        }
    }
}

/// A driver that has not encoded five frames by now will not carry a broadcast.
const TRIAL_MAX: gst::ClockTime = gst::ClockTime::from_seconds(5);
/// The first use on a machine scans all plugins.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// Picks the configured family, or the first that works, by asking a child of `exe` (normally this very binary).
pub async fn pick_family(exe: &Path, choice: Choice) -> Result<Family, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Probe(e.to_string());
    let child = tokio::process::Command::new(exe)
        .arg(SUBCOMMAND)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PROBE_MAX, child).await.map_err(|_| failed(&"it did not end"))?;
    let output = output.map_err(|e| failed(&e))?;
    let findings: Vec<Finding> = serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))?;
    let family = choose(choice, findings)?;
    tracing::info!(family = family.name(), "encoder family picked");
    Ok(family)
}

fn choose(choice: Choice, findings: Vec<Finding>) -> Result<Family, Error> {
    let wanted = |family| match choice {
        Choice::Auto => true,
        Choice::X264 => family == Family::X264,
        Choice::Vaapi => family == Family::Vaapi,
        Choice::Nvenc => family == Family::Nvenc,
    };
    let mut problems = Vec::new();
    for finding in findings.into_iter().filter(|f| wanted(f.family)) {
        match finding.problem {
            None => return Ok(finding.family),
            Some(problem) => problems.push(format!("{}: {problem}", finding.family.name())),
        }
    }
    Err(Error::None(problems.join("; ")))
}

/// Tries every family and prints what it found as one line of JSON. The body of the hidden subcommand.
pub fn run() -> anyhow::Result<()> {
    gst::init()?;
    let finding = |family| Finding { family, problem: problem(family) };
    println!("{}", serde_json::to_string(&Family::ALL.map(finding))?);
    Ok(())
}

fn problem(family: Family) -> Option<String> {
    for (element, package) in COMMON.iter().chain(elements(family)) {
        if gst::ElementFactory::find(element).is_none() {
            return Some(format!("GStreamer element {element} is missing (Debian package {package}, or its driver)"));
        }
    }
    let pipeline = match gst::parse::launch(trial(family)) {
        Ok(pipeline) => pipeline,
        Err(e) => return Some(e.to_string()),
    };
    let bus = pipeline.bus()?;
    let started = pipeline.set_state(gst::State::Playing);
    let end = bus.timed_pop_filtered(TRIAL_MAX, &[gst::MessageType::Eos, gst::MessageType::Error]);
    // The process ends soon; a pipeline that cannot stop ends with it.
    let _ = pipeline.set_state(gst::State::Null);
    match end.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => None,
        Some(gst::MessageView::Error(e)) => Some(format!("a test frame could not be encoded: {}", e.error())),
        _ => Some(format!("a test frame was not encoded in time ({started:?})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        Family::ALL.map(|family| Finding { family, problem: (family != Family::X264).then(|| "absent".into()) }).into()
    }

    #[test]
    fn the_first_that_works_is_chosen_and_refusals_say_why() {
        assert_eq!(choose(Choice::Auto, findings()).unwrap(), Family::X264);
        assert_eq!(choose(Choice::X264, findings()).unwrap(), Family::X264);
        let refusal = choose(Choice::Nvenc, findings()).unwrap_err().to_string();
        assert_eq!(refusal, "no encoder family works on this machine: nvenc: absent");
    }
}
