//! The lock of the pull cache: at most one fill per object.
//!
//! [`Flights::join`] gives a caller what is kept, or the running fill, or makes the caller the one who fills. A fill is
//! kept before it lands, and the kept are looked at again under the lock, so between the two nobody starts a second one.
//! `tests/fill.rs` runs this file under a scheduler that tries the orders in which its threads can meet.

use std::{collections::HashMap, hash::Hash};

use super::{
    fill::{Fill, Writer},
    sync::{Arc, Mutex},
};

type Running<K, H, D, E> = HashMap<K, Arc<Fill<H, D, E>>>;

/// The fills that are running, by object. Bounded: see [`Joined::Full`].
pub struct Flights<K, H, D, E> {
    // Held for look-ups only, never across an await.
    running: Mutex<Running<K, H, D, E>>,
    max: usize,
}

/// What a caller gets.
pub enum Joined<K: Hash + Eq, H, D, E: Clone> {
    /// The fill of someone else, running or kept.
    Waits(Arc<Fill<H, D, E>>),
    /// Nobody fills it: the caller does.
    Leads(Flight<K, H, D, E>),
    /// As many fills as there may be are running, none of them this one.
    Full,
}

/// The right and the duty to fill an object. Dropped unended, it fails the fill.
pub struct Flight<K: Hash + Eq, H, D, E: Clone> {
    /// Gone once it has ended the fill.
    pub writer: Option<Writer<H, D, E>>,
    key: K,
    flights: Arc<Flights<K, H, D, E>>,
}

impl<K: Hash + Eq + Clone, H, D, E: Clone> Flights<K, H, D, E> {
    /// At most `max` fills run at a time.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { running: Mutex::new(HashMap::new()), max })
    }

    /// `kept` looks up what is kept of the object; `lost` is what readers are told when a leader vanishes.
    pub fn join(
        self: &Arc<Self>,
        key: &K,
        kept: impl FnOnce() -> Option<Arc<Fill<H, D, E>>>,
        lost: E,
    ) -> Joined<K, H, D, E> {
        let mut running = self.running.lock().expect("no panic while held");
        if let Some(fill) = running.get(key).cloned().or_else(kept) {
            return Joined::Waits(fill);
        }
        if running.len() >= self.max {
            return Joined::Full;
        }
        let writer = Writer::new(lost);
        running.insert(key.clone(), writer.fill().clone());
        Joined::Leads(Flight { writer: Some(writer), key: key.clone(), flights: self.clone() })
    }

    /// Fills that are running.
    pub fn len(&self) -> usize {
        self.running.lock().expect("no panic while held").len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq, H, D, E: Clone> Drop for Flight<K, H, D, E> {
    fn drop(&mut self) {
        // First the readers' end, then the next leader's beginning.
        self.writer = None;
        self.flights.running.lock().expect("no panic while held").remove(&self.key);
    }
}
