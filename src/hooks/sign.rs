//! Signatures by which a receiver knows who speaks: those of the Standard Webhooks specification 1.0.0, symmetric. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

use crate::{secret::Secret, time::UnixMs};

pub const ID: &str = "webhook-id";
pub const TIMESTAMP: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";

/// Marks a secret whose rest is base64 of the key's bytes, as the specification writes it.
const PREFIX: &str = "whsec_";
/// A key with fewer bytes can be guessed; the specification allows no more.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs what is sent.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[key]")
    }
}

/// A secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret is \"whsec_\" and base64 of 24 to 64 random bytes, or a text of 24 to 64 letters")]
pub struct BadSecret;

impl Key {
    /// Takes `whsec_` and base64, or a text whose bytes are the key.
    pub fn new(secret: &Secret) -> Result<Self, BadSecret> {
        let text = secret.expose();
        let bytes = match text.strip_prefix(PREFIX) {
            Some(coded) => STANDARD.decode(coded).map_err(|_| BadSecret)?,
            None => text.as_bytes().to_vec(),
        };
        let good = BYTES.contains(&bytes.len());
        good.then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))).ok_or(BadSecret)
    }

    /// The headers of a message that is sent at `now`. `id` holds no dot.
    pub fn headers(&self, id: &str, now: UnixMs, body: &str) -> [(&'static str, String); 3] {
        let seconds = now.0.div_euclid(1000);
        let tag = hmac::sign(&self.0, format!("{id}.{seconds}.{body}").as_bytes());
        let signature = format!("v1,{}", STANDARD.encode(tag));
        [(ID, id.to_owned()), (TIMESTAMP, seconds.to_string()), (SIGNATURE, signature)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_message_has_its_known_signature() {
        let signed = |secret: &str| {
            let key = Key::new(&Secret::new(secret)).unwrap();
            let [id, time, signature] =
                key.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", UnixMs(1_614_265_330_999), r#"{"test": 2432232314}"#);
            assert_eq!(id, ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".into()));
            assert_eq!(time, ("webhook-timestamp", "1614265330".into()));
            signature.1
        };
        // The vector of the specification's own libraries.
        let known = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), known);
        // Without the mark it is the text itself.
        assert_ne!(signed("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), known);
    }

    #[test]
    fn what_can_be_guessed_is_refused() {
        let key = |text: &str| Key::new(&Secret::new(text)).is_ok();
        assert!(key(&"x".repeat(24)) && key(&"x".repeat(64)));
        for text in ["", "whsec_", "whsec_AAAA", "whsec_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!", "short"] {
            assert!(!key(text), "{text}");
        }
        assert!(!key(&"x".repeat(23)) && !key(&"x".repeat(65)));
    }
}
