//! Tells others what happens here (webhooks), and asks others who may publish and watch (`auth.publish_url`, `auth.play_url`).
//!
//! [`Event`]s enter by [`Hooks::tell`], which never waits, or are found by [`watch`], which looks at the node's lines. One task
//! (`post`) owns the `queue`, whose files outlive the process, and sends each event to each target that wants it, signed
//! ([`sign`]), until it is taken or given up. [`ask`] puts questions and remembers the answers. Both speak by [`client`], which
//! keeps to what [`address`] allows. Nothing here answers anybody, and no URL, secret or key reaches a log.

pub mod address;
pub mod ask;
mod backoff;
pub mod client;
mod event;
mod files;
mod post;
mod queue;
pub mod sign;
pub mod watch;

pub use event::{Event, Kind};
pub use post::{Config, Dead, Hooks, Target, TargetState, Tested, Told};
pub use queue::NoRetry;
