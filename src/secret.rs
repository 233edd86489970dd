//! Texts that must not be seen: keys, passwords, tokens.

use std::fmt;

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
