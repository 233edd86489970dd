//! What is told to those who watch, and of them, beside media.
//!
//! What a stream plays now enters from publishers, programs and other nodes, and leaves ready to be sent ([`now`]). Driven by
//! `http`; nothing here knows requests or sockets.

pub mod now;
