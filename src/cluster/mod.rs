//! Many nodes that share the streams: which node makes a stream's chunks, and who takes over.
//!
//! [`failover`] decides it for one session at its gateway; [`feed`] is what the nodes say to each other about it.

pub mod failover;
pub mod feed;
pub mod ring;
pub mod view;
