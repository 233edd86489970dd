//! Stream keys: what a streamer types, and what is kept of it.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Secret;

/// What a publisher sends as its stream key: `alice?key=secret`.
#[derive(Debug, Clone)]
pub struct PublishKey {
    /// The text before the `?`, not yet known to be a legal stream name.
    pub stream: String,
    /// The `key` parameter; none when it is absent or empty.
    pub key: Option<Secret>,
}

impl PublishKey {
    /// Takes a stream key apart. Space around it (a careless paste) and other parameters are ignored, the order does not
    /// matter, percent-encoding is undone in the parameters; of several `key`s the first counts.
    pub fn parse(text: &str) -> Self {
        let (stream, query) = text.trim().split_once('?').unwrap_or((text.trim(), ""));
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        let key = pairs.find(|(name, _)| name == "key").map(|(_, value)| value.trim().to_owned());
        let key = key.filter(|value| !value.is_empty()).map(Secret::new);
        Self { stream: stream.trim().to_owned(), key }
    }
}

impl fmt::Display for PublishKey {
    /// Writes the stream alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stream)
    }
}

/// Name of the scheme, first part of each hash, so that another can follow one day.
const SCHEME: &str = "sha256";
/// What an unknown stream's key is compared with: the form of a true hash, equal to none.
const ABSENT: &str =
    "sha256$00000000000000000000000000$0000000000000000000000000000000000000000000000000000000000000000";

/// Gives what is kept of a secret: `sha256$<salt>$<hex of SHA-256 over salt, $ and secret>`, with a new salt each time.
pub fn hash(secret: &Secret) -> String {
    let salt = Secret::generate();
    let digest = digest(salt.expose(), secret);
    format!("{SCHEME}${}${digest}", salt.expose())
}

/// Says whether a hash was made of this secret. Takes the same time for each wrong secret of one length. False for a
/// text that is no hash.
pub fn verify(hash: &str, secret: &Secret) -> bool {
    let mut parts = hash.split('$');
    let known = parts.next() == Some(SCHEME);
    let (salt, kept) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let equal: bool = digest(salt, secret).as_bytes().ct_eq(kept.as_bytes()).into();
    equal & known & parts.next().is_none()
}

/// Does the work of [`verify`] for a stream that does not exist, so that time does not tell which streams do. Always
/// false.
pub fn verify_absent(secret: &Secret) -> bool {
    verify(std::hint::black_box(ABSENT), secret)
}

fn digest(salt: &str, secret: &Secret) -> String {
    let sum = Sha256::new().chain_update(salt).chain_update("$").chain_update(secret.expose()).finalize();
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stream_keys_come_in_many_forms() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("alice?key=s3cret", "alice", Some("s3cret")),
            ("alice", "alice", None),
            ("alice?", "alice", None),
            ("alice?key=", "alice", None),
            ("alice?bandwidthtest=true&key=s&x", "alice", Some("s")),
            ("alice?key=a%2Fb%3D%26", "alice", Some("a/b=&")),
            ("alice?k%65y=s", "alice", Some("s")),
            ("alice?key=first&key=second", "alice", Some("first")),
            ("alice?key=a=b", "alice", Some("a=b")),
            ("alice?key=a?b", "alice", Some("a?b")),
            (" alice?key=s\r\n", "alice", Some("s")),
            ("alice?keys=s", "alice", None),
            ("alice?key=%ff%zz", "alice", Some("\u{fffd}%zz")),
            ("", "", None),
            ("?key=s", "", Some("s")),
        ];
        for (text, stream, key) in cases {
            let parsed = PublishKey::parse(text);
            assert_eq!((parsed.stream.as_str(), parsed.key.as_ref().map(Secret::expose)), (*stream, *key), "{text:?}");
        }
    }

    #[test]
    fn a_hash_knows_its_secret_alone() {
        let (secret, other) = (Secret::generate(), Secret::generate());
        let (one, two) = (hash(&secret), hash(&secret));
        assert_ne!(one, two, "salted");
        assert!(verify(&one, &secret) && verify(&two, &secret));
        assert!(!verify(&one, &other) && !verify(&one, &Secret::new("")));
        assert!(!one.contains(secret.expose()));
        let spoiled = [String::new(), "$$".into(), one.replace("sha256", "plain"), one.clone() + "$", one[..40].into()];
        for spoiled in spoiled {
            assert!(!verify(&spoiled, &secret), "{spoiled}");
        }
    }

    #[test]
    fn the_hash_is_the_one_that_is_written_down() {
        // printf '0123$secret' | sha256sum
        let kept = "sha256$0123$0a9d96b5dd12bb50ab5055443128209e3c04d478a757c8fcad036ea480430958";
        assert!(verify(kept, &Secret::new("secret")));
    }

    #[test]
    fn an_unknown_stream_costs_the_work_of_a_known_one() {
        assert!(!verify_absent(&Secret::generate()));
        let kept = hash(&Secret::generate());
        let shape = |hash: &str| hash.split('$').map(str::len).collect::<Vec<_>>();
        assert_eq!(shape(ABSENT), shape(&kept));
    }

    proptest! {
        #[test]
        fn parse_takes_anything_and_prints_no_key(text in ".{0,80}", key in "[A-Z]{8,20}") {
            PublishKey::parse(&text);
            let parsed = PublishKey::parse(&format!("alice?{}&key={key}", text.replace("key", "")));
            prop_assert_eq!(parsed.key.as_ref().map(Secret::expose), Some(key.as_str()));
            let printed = format!("{:?} {}", parsed, parsed);
            prop_assert!(!printed.contains(&key), "{}", printed);
        }
    }
}
