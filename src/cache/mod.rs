//! The pull cache: what viewers ask of this node and other nodes have, fetched once however many ask.
//!
//! `http` asks [`Cache::get`] for an [`Object`] and gets a [`Reading`] at once: of what is kept, of a fill that is running, or
//! of a new one. A fill ([`fill`]) is led by a task of its own, so a viewer who leaves cancels nothing; all others read
//! along as bytes arrive. [`flights`] is the lock, `lead` is that task, [`policy`] decides whom to ask and when to ask someone else, [`upstream`]
//! speaks HTTP with the other nodes and [`link`] hears from them that they are alive, what is new and who may watch.
//! Everything is bounded: fills, waiters, bytes. Nothing is written to disk, and nothing here knows who watches.

pub mod fill;
pub mod flights;
mod lead;
mod lines;
pub mod link;
mod listed;
pub mod object;
pub mod policy;
pub mod pull;
pub mod upstream;

pub use lines::Lines;
pub use object::{File, NoObject, Object, What};
pub use policy::{Failure, Why};
pub use pull::{Cache, Head, Kept, Limits, Reading, Way};

/// The two types that decide what threads see of each other; a test puts others in their place.
mod sync {
    pub use std::sync::{Arc, Mutex};
}
