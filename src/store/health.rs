//! Whether the store takes writes now, as told by those who write.

use std::sync::Mutex;

/// Shared by all writers of a node; read by `/readyz` and for the node's status.
#[derive(Debug, Default)]
pub struct Health {
    trouble: Mutex<Option<String>>,
    delay: Mutex<Option<Delay>>,
}

/// Recordings wait on the local disk for a store that is elsewhere: nothing is lost, and nobody who watches notices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delay {
    pub why: String,
    pub writes: u64,
    pub bytes: u64,
    /// Chunks that had to be given up since the node started.
    pub given_up: u64,
}

impl Health {
    /// A write failed with `why`. Returns true when the store was well before.
    pub fn failed(&self, why: String) -> bool {
        self.trouble.lock().expect("no panic while held").replace(why).is_none()
    }

    /// A write went through. Returns true when the store was failing before.
    pub fn recovered(&self) -> bool {
        self.trouble.lock().expect("no panic while held").take().is_some()
    }

    /// Why the store does not take writes; `None` when it does.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().expect("no panic while held").clone()
    }

    /// What waits, or that nothing does, from what was told before.
    pub fn set_delay(&self, set: impl FnOnce(Option<Delay>) -> Option<Delay>) {
        let mut delay = self.delay.lock().expect("no panic while held");
        *delay = set(delay.take());
    }

    /// Changes what is told of a delay.
    pub fn delayed(&self, change: impl FnOnce(&mut Delay)) {
        change(self.delay.lock().expect("no panic while held").get_or_insert_default());
    }

    /// What waits for a store that is elsewhere; `None` when nothing does.
    pub fn delay(&self) -> Option<Delay> {
        self.delay.lock().expect("no panic while held").clone()
    }
}

impl std::fmt::Display for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mb = self.bytes as f64 / f64::from(1 << 20);
        write!(f, "{} writes ({mb:.1} MiB) wait in the spool, nothing of them is lost: {}", self.writes, self.why)?;
        match self.given_up {
            0 => Ok(()),
            count => write!(f, "; {count} recorded chunks were given up because it was full"),
        }
    }
}
