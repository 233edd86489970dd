//! Who may publish, who may watch and who may administer.
//!
//! Enter texts from the network, leave yes or no; or a new secret. Publish keys ([`keys`]) and the node's admin token ([`admin`])
//! are random, so a fast hash guards them at rest: there is no dictionary to try against 130 bits. Every comparison takes
//! the same time whatever is wrong. Knows no store; only [`admin::ensure_token_file`] touches the disk.

use std::fmt;

pub mod admin;
pub mod keys;
pub mod tickets;

/// A text that must not be seen: prints as `[secret]`, in `{:?}` and in `{}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Letters of a generated secret: each is 5 bits; none is easily taken for another, none needs escaping in a URL.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 130 bits.
const LENGTH: usize = 26;

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Makes a new one of 130 random bits: 26 of `0-9a-z` without i, l, o and u.
    pub fn generate() -> Self {
        let bytes: [u8; LENGTH] = rand::random();
        Self(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect())
    }

    /// Gives the text, to be shown once to its owner or compared.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::generate();
        let printed = format!("{secret} {secret:?} {:?}", Some(&secret));
        assert!(!printed.contains(secret.expose()), "{printed}");
    }

    #[test]
    fn generated_secrets_differ_and_use_all_letters() {
        let secrets: Vec<_> = (0..200).map(|_| Secret::generate().0).collect();
        let distinct: std::collections::HashSet<_> = secrets.iter().collect();
        assert_eq!(distinct.len(), secrets.len());
        let letters: std::collections::BTreeSet<u8> = secrets.iter().flat_map(|text| text.bytes()).collect();
        assert_eq!(letters.into_iter().collect::<Vec<_>>(), LETTERS);
        assert!(secrets.iter().all(|text| text.len() == 26));
    }
}
