//! Whether the store takes writes now, as told by those who write.

use std::sync::Mutex;

/// Shared by all writers of a node; read by `/readyz`.
#[derive(Debug, Default)]
pub struct Health(Mutex<Option<String>>);

impl Health {
    /// A write failed with `why`. Returns true when the store was well before.
    pub fn failed(&self, why: String) -> bool {
        self.0.lock().expect("no panic while held").replace(why).is_none()
    }

    /// A write went through. Returns true when the store was failing before.
    pub fn recovered(&self) -> bool {
        self.0.lock().expect("no panic while held").take().is_some()
    }

    /// Why the store does not take writes; `None` when it does.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().expect("no panic while held").clone()
    }
}
