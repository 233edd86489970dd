//! Tickets: signed leave to watch, in the path of each request (`/t/{ticket}/hls/...`).
//!
//! A ticket is a JSON Web Token (RFC 7519) signed with HS256 or EdDSA; its header names the key (`kid`). What may be
//! known without a look-up is in it; what must reach every node (keys, revocations, which streams need a ticket) is an
//! `Access` that the node reads from the store again and again. A ticket once verified is remembered by its hash, so a
//! viewer costs one signature. Reads no clock and no store.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{Secret, people::Person};
use crate::{
    id::{BroadcastId, StreamId},
    store::{AccessRow, Signature},
    time::UnixMs,
};

/// Longer ones are refused unread: a ticket with every claim has some 400 letters.
pub const LENGTH_MAX: usize = 4096;
/// Verified tickets that are remembered, some 300 bytes each.
const REMEMBERED: usize = 100_000;
/// A chunk that a playlist listed before its ticket expired may still be fetched for so long, seconds.
const GRACE: u64 = 30;
/// HS256 secrets below this can be guessed (RFC 7518 3.2).
const SECRET_MIN: usize = 32;
/// A ticket that is signed here lasts at most so long, seconds: 30 days. A revoked id is kept for that long.
pub const LIFE_MAX: u64 = 30 * 86_400;

/// What a ticket says. `stream`, `broadcast` or both must be there. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<BroadcastId>,
    /// Expiry.
    pub exp: u64,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it was signed; one that does not say counts as older than any revocation of its stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Who watches, as the issuer calls them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The viewer's address begins with this, `203.0.113.0/24` or a whole address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<Prefix>,
    /// Its id, by which it can be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// An address prefix; a text without a length is one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    as = AddressPrefix,
    value_type = String,
    pattern = "^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$",
    example = "203.0.113.0/24",
)]
pub struct Prefix(IpNet);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        net.map(Self).ok_or_else(|| format!("{text:?} is no address and no prefix such as 203.0.113.0/24"))
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.0.to_string()
    }
}

impl Prefix {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Why a ticket does not help. What is said of a ticket's contents is said only when its signature is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this stream is played with a ticket, and there is none")]
    Missing,
    /// No token, signed with no key of ours, or not by it.
    #[error("this ticket is not valid")]
    Invalid,
    #[error("this ticket has expired")]
    Expired,
    #[error("this ticket is not valid yet")]
    Early,
    #[error("this ticket is for another stream")]
    OtherStream,
    #[error("this ticket is for another network address")]
    OtherAddress,
    #[error("this ticket was revoked")]
    Revoked,
}

impl Refusal {
    /// A word for programs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::Missing => "ticket_missing",
            Refusal::Invalid => "ticket_invalid",
            Refusal::Expired => "ticket_expired",
            Refusal::Early => "ticket_early",
            Refusal::OtherStream => "ticket_other_stream",
            Refusal::OtherAddress => "ticket_other_address",
            Refusal::Revoked => "ticket_revoked",
        }
    }
}

/// A key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("a kid is 1 to 64 of A-Z, a-z, 0-9, '-', '_', '.'")]
    Kid,
    #[error("an HS256 secret has at least {SECRET_MIN} letters")]
    Short,
    #[error("an EdDSA key is an Ed25519 public key in PEM (openssl pkey -pubout)")]
    NoPublicKey,
}

/// Reads a verification key; says what is wrong with it.
pub fn check_key(kid: &str, signature: Signature, text: &str) -> Result<(), BadKey> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if !(1..=64).contains(&kid.len()) || !kid.bytes().all(legal) {
        return Err(BadKey::Kid);
    }
    decoding_key(signature, text).map(|_| ())
}

fn decoding_key(signature: Signature, text: &str) -> Result<DecodingKey, BadKey> {
    match signature {
        Signature::HS256 if text.len() < SECRET_MIN => Err(BadKey::Short),
        Signature::HS256 => Ok(DecodingKey::from_secret(text.as_bytes())),
        Signature::EdDSA => DecodingKey::from_ed_pem(text.as_bytes()).map_err(|_| BadKey::NoPublicKey),
    }
}

fn algorithm(signature: Signature) -> Algorithm {
    match signature {
        Signature::HS256 => Algorithm::HS256,
        Signature::EdDSA => Algorithm::EdDSA,
    }
}

/// Signs with an HS256 secret: [`Claims`] or a [`Person`].
pub fn sign(claims: &impl Serialize, kid: &str, secret: &Secret) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&header, claims, &key).expect("claims are plain data, and HMAC takes any key")
}

/// What every node must know, as it is now.
#[derive(Default)]
struct Access {
    keys: HashMap<String, Key>,
    /// Ids of revoked tickets.
    revoked: HashSet<String>,
    /// Tickets of these streams that were signed before that second count no longer.
    revoked_before: HashMap<StreamId, u64>,
    /// Streams need a ticket unless they are set otherwise.
    by_default: bool,
    /// Streams that are set otherwise: whether they need a ticket.
    ticketed: HashMap<StreamId, bool>,
}

struct Key {
    signature: Signature,
    text: String,
    /// A node made it.
    own: bool,
    decoding: DecodingKey,
}

/// A verified ticket, and the key that it was verified with.
struct Verified {
    kid: String,
    text: String,
    claims: Arc<Claims>,
}

/// Says who may watch what. Shared by all requests; no lock is held while one is verified.
pub struct Tickets {
    access: ArcSwap<Access>,
    verified: Cache<[u8; 32], Arc<Verified>>,
}

impl Default for Tickets {
    /// Lets nobody in before [`Tickets::load`]: every stream needs a ticket, and no key is known.
    fn default() -> Self {
        let access = Access { by_default: true, ..Access::default() };
        Self { access: ArcSwap::from_pointee(access), verified: Cache::new(REMEMBERED) }
    }
}

impl Tickets {
    /// Takes what counts now: the rows, and whether streams that no row names need a ticket. Rows that cannot be used are
    /// left out; the result names them.
    pub fn load(&self, by_default: bool, rows: Vec<AccessRow>) -> Vec<String> {
        let (mut access, mut bad) = (Access { by_default, ..Access::default() }, Vec::new());
        for row in rows {
            match row {
                AccessRow::TicketKey { kid, signature, text, own } => match decoding_key(signature, &text) {
                    Ok(decoding) => {
                        access.keys.insert(kid, Key { signature, text, own, decoding });
                    }
                    Err(why) => bad.push(format!("ticket key {kid}: {why}")),
                },
                AccessRow::RevokedTicket { id, .. } => {
                    access.revoked.insert(id);
                }
                AccessRow::RevokedStream { stream, before } => {
                    access.revoked_before.insert(stream, seconds(before));
                }
                AccessRow::Playback { stream, ticket } => {
                    access.ticketed.insert(stream, ticket);
                }
                // Nobody watches it, with whatever ticket.
                AccessRow::Deleted { .. } => {}
            }
        }
        self.access.store(Arc::new(access));
        bad
    }

    /// Whether there is a key of this name.
    pub fn knows(&self, kid: &str) -> bool {
        self.access.load().keys.contains_key(kid)
    }

    /// Whether a stream is played with a ticket.
    pub fn needs_ticket(&self, stream: &str) -> bool {
        let access = self.access.load();
        access.ticketed.get(stream).copied().unwrap_or(access.by_default)
    }

    /// The second before which tickets of this stream were revoked.
    pub fn revoked_before(&self, stream: &StreamId) -> Option<u64> {
        self.access.load().revoked_before.get(stream).copied()
    }

    /// Verifies the signature of a ticket, once: later requests with it cost a hash.
    pub fn verify(&self, ticket: &str) -> Result<Arc<Claims>, Refusal> {
        if ticket.len() > LENGTH_MAX {
            return Err(Refusal::Invalid);
        }
        let access = self.access.load();
        let hash: [u8; 32] = Sha256::digest(ticket).into();
        if let Some(known) = self.verified.get(&hash) {
            // Its key may have been taken away, or replaced under the same name.
            let still = access.keys.get(&known.kid).is_some_and(|key| key.text == known.text);
            return if still { Ok(known.claims.clone()) } else { Err(Refusal::Invalid) };
        }
        let kid = jsonwebtoken::decode_header(ticket).ok().and_then(|header| header.kid).ok_or(Refusal::Invalid)?;
        let key = access.keys.get(&kid).ok_or(Refusal::Invalid)?;
        let claims: Claims = decode(ticket, key).ok_or(Refusal::Invalid)?;
        let claims = Arc::new(claims);
        self.verified.insert(hash, Arc::new(Verified { kid, text: key.text.clone(), claims: claims.clone() }));
        Ok(claims)
    }

    /// Reads a token that a node has signed for a chat, unless it has expired or is none.
    pub fn person(&self, token: &str, now: UnixMs) -> Option<Person> {
        let kid = jsonwebtoken::decode_header(token).ok().filter(|_| token.len() <= LENGTH_MAX)?.kid?;
        let access = self.access.load();
        let key = access.keys.get(&kid).filter(|key| key.own)?;
        decode(token, key).filter(|person: &Person| seconds(now) < person.exp)
    }

    /// Says whether a verified ticket lets a viewer at `address` watch. `listed`: it is for media that a playlist named,
    /// which may be fetched a little longer than the ticket lasts. Without `broadcast` the stream's present one is meant, and
    /// there is none.
    pub fn admit(
        &self,
        claims: &Claims,
        stream: &StreamId,
        broadcast: Option<&BroadcastId>,
        address: IpAddr,
        now: UnixMs,
        listed: bool,
    ) -> Result<(), Refusal> {
        let access = self.access.load();
        let now = seconds(now);
        let other_stream = claims.stream.as_ref().is_some_and(|own| own != stream);
        let other_broadcast = claims.broadcast.as_ref().zip(broadcast).is_some_and(|(own, asked)| own != asked);
        // A ticket for a broadcast alone says nothing of a stream that shows none.
        let names_none = claims.stream.is_none() && claims.broadcast.as_ref().and(broadcast).is_none();
        let issued = claims.iat.unwrap_or(0);
        match () {
            _ if other_stream || other_broadcast || names_none => Err(Refusal::OtherStream),
            _ if claims.jti.as_ref().is_some_and(|id| access.revoked.contains(id)) => Err(Refusal::Revoked),
            _ if access.revoked_before.get(stream).is_some_and(|before| issued <= *before) => Err(Refusal::Revoked),
            _ if claims.nbf.is_some_and(|from| now < from) => Err(Refusal::Early),
            _ if now >= claims.exp.saturating_add(if listed { GRACE } else { 0 }) => Err(Refusal::Expired),
            _ if claims.addr.is_some_and(|prefix| !prefix.contains(address)) => Err(Refusal::OtherAddress),
            _ => Ok(()),
        }
    }
}

/// What a token says that this key has signed. Its times are looked at with each request, not here.
fn decode<T: DeserializeOwned>(token: &str, key: &Key) -> Option<T> {
    let mut validation = Validation::new(algorithm(key.signature));
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    jsonwebtoken::decode(token, &key.decoding, &validation).ok().map(|token| token.claims)
}

fn seconds(at: UnixMs) -> u64 {
    at.0.max(0) as u64 / 1000
}

#[cfg(test)]
#[path = "tickets_tests.rs"]
mod tests;
