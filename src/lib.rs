//! Weir: RTMP in, aligned HLS renditions out.
//!
//! Data runs `rtmp → ingest → line → (transcode) → package → store`, and `http` answers viewers from the lines'
//! snapshots and the store. A module uses only modules listed above it here; `node` alone joins things.

pub mod id;
pub mod time;

pub mod media;

pub mod store;

pub mod transcode;
