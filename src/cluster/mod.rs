//! Many nodes that share the streams: which node makes a stream's chunks, and who takes over.
//!
//! [`ring`] and [`view`] say which nodes are preferred for a stream; [`failover`] decides for one session, at its gateway, which of
//! them make its chunks and which one publishes them; [`epoch`] says where a new owner begins, [`names`] how it names what viewers
//! have seen; [`twins`] compares what the nodes make. All of these are pure. [`feed`] is what the nodes say to each other.

pub mod epoch;
pub mod failover;
pub mod feed;
pub mod names;
pub mod ring;
pub mod twins;
pub mod view;
