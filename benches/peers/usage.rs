//! What a server takes of the machine, as /proc tells it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Linux counts CPU time for user space in hundredths of a second (USER_HZ), whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// Of a process and all below it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time since each was started.
    pub cpu: Duration,
    /// Resident memory. Pages that several processes share count once (the sum of their PSS).
    pub memory: Memory,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub resident_mb: f64,
    /// The most it ever was.
    pub peak_mb: f64,
}

/// Reads what the process and its descendants use.
pub fn of(pid: u32) -> Result<Usage> {
    let mut sum = Usage::default();
    let family = family(pid)?;
    for &pid in &family {
        // A child may have ended since it was found.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u32 = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
        sum.cpu += TICK * ticks;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        sum.memory.peak_mb += kilobytes(&status, "VmHWM:")? / 1024.0;
        sum.memory.resident_mb += if family.len() == 1 {
            kilobytes(&status, "VmRSS:")? / 1024.0
        } else {
            kilobytes(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:")? / 1024.0
        };
    }
    Ok(sum)
}

fn kilobytes(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut family = vec![root];
    let mut at = 0;
    while at < family.len() {
        let parent = family[at];
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(family)
}
