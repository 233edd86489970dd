//! Weir: RTMP in, aligned HLS renditions out.
//!
//! Data runs `rtmp → ingest → line → (transcode) → package → store`, and `http` answers viewers from the lines'
//! snapshots and the store. A module uses only modules listed above it here; `config` composes the modules' settings,
//! and `node` alone joins things.

pub mod id;
pub mod secret;
pub mod time;

pub mod media;

pub mod rtmp;

pub mod store;

pub mod cluster;

pub mod transcode;

pub mod package;

pub mod line;

pub mod recording;

pub mod ingest;

pub mod cache;

pub mod audience;
pub mod hooks;

pub mod chat;

pub mod auth;

pub mod http;

pub mod config;

pub mod cli;
pub mod node;
