//! Who may publish, who may watch and who may administer.
//!
//! Enter texts from the network, leave yes or no; or a new secret. Publish keys ([`keys`]) and the node's admin token ([`admin`])
//! are random, so a fast hash guards them at rest: there is no dictionary to try against 130 bits. Every comparison takes
//! the same time whatever is wrong. Knows no store; only [`admin::ensure_token_file`] touches the disk.

pub mod admin;
pub mod keys;
pub mod people;
pub mod tickets;

pub use crate::secret::Secret;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or file does not allow it.
    #[error("admin token file {path}: {cause}")]
    TokenFile { path: String, cause: std::io::Error },
    /// The file is there but holds no token.
    #[error("admin token file {0} holds no token of at least 16 letters: delete it to get a new one")]
    NoToken(String),
}

pub type Result<T> = std::result::Result<T, Error>;
