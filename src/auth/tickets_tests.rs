use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// `openssl genpkey -algorithm ed25519`, for these tests alone.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
/// Its public half (RFC 8037 appendix A.2).
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const NOW: UnixMs = UnixMs(1_000_000);

fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

fn key(kid: &str, signature: Signature, text: &str) -> AccessRow {
    AccessRow::TicketKey { kid: kid.into(), signature, text: text.into(), own: false }
}

fn rows() -> Vec<AccessRow> {
    vec![key("k1", Signature::HS256, SECRET), key("shop", Signature::EdDSA, PUBLIC)]
}

fn tickets() -> Tickets {
    let tickets = Tickets::default();
    assert_eq!(tickets.load(true, rows()), Vec::<String>::new());
    tickets
}

fn claims() -> Claims {
    Claims {
        stream: Some(stream("alice")),
        broadcast: None,
        exp: 2000,
        nbf: None,
        iat: Some(900),
        sub: Some("bob".into()),
        addr: None,
        jti: Some("one".into()),
    }
}

fn signed(claims: &Claims) -> String {
    sign(claims, "k1", &Secret::new(SECRET))
}

/// With a header as told.
fn signed_as(header: Header, key: &EncodingKey) -> String {
    jsonwebtoken::encode(&header, &claims(), key).unwrap()
}

fn admit(tickets: &Tickets, claims: &Claims) -> Result<(), Refusal> {
    tickets.admit(claims, &stream("alice"), None, [192, 0, 2, 7].into(), NOW, false)
}

#[test]
fn a_ticket_of_each_kind_is_taken() {
    let tickets = tickets();
    assert_eq!(*tickets.verify(&signed(&claims())).unwrap(), claims());
    let header = Header { kid: Some("shop".into()), ..Header::new(Algorithm::EdDSA) };
    let foreign = signed_as(header, &EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap());
    assert_eq!(*tickets.verify(&foreign).unwrap(), claims());
    assert_eq!(admit(&tickets, &claims()), Ok(()));
}

#[test]
fn what_is_not_signed_by_a_key_of_ours_is_one_and_the_same() {
    let tickets = tickets();
    let good = signed(&claims());
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let hs256 = |kid: Option<&str>| Header { kid: kid.map(Into::into), ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    // {"alg":"none","kid":"k1"}
    let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{body}.");
    let mut tampered = body.to_owned();
    tampered.replace_range(4..5, if &body[4..5] == "A" { "B" } else { "A" });
    for bad in [
        String::new(),
        "x".into(),
        "a.b.c".into(),
        "x".repeat(LENGTH_MAX + 1),
        format!("{head}.{body}"),
        format!("{head}.{tampered}.{signature}"),
        format!("{head}.{body}.{}", signature.chars().rev().collect::<String>()),
        unsigned,
        signed_as(hs256(None), &secret),
        signed_as(hs256(Some("k2")), &secret),
        signed_as(hs256(Some("k1")), &EncodingKey::from_secret(b"another secret of thirty-two bytes")),
        // The public key is no secret: it must not serve as one.
        signed_as(hs256(Some("shop")), &EncodingKey::from_secret(PUBLIC.as_bytes())),
        signed_as(Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS512) }, &secret),
    ] {
        assert_eq!(tickets.verify(&bad).err(), Some(Refusal::Invalid), "{bad}");
    }
}

#[test]
fn claims_are_looked_at_each_time() {
    let tickets = tickets();
    let at = |claims: &Claims, seconds: i64, listed: bool| {
        tickets.admit(claims, &stream("alice"), None, [192, 0, 2, 7].into(), UnixMs(seconds * 1000), listed)
    };
    assert_eq!(at(&claims(), 1999, false), Ok(()));
    assert_eq!(at(&claims(), 2000, false), Err(Refusal::Expired));
    // What a playlist listed may be finished.
    assert_eq!(at(&claims(), 2000 + 29, true), Ok(()));
    assert_eq!(at(&claims(), 2000 + 30, true), Err(Refusal::Expired));
    let early = Claims { nbf: Some(1500), ..claims() };
    assert_eq!((at(&early, 1499, false), at(&early, 1500, false)), (Err(Refusal::Early), Ok(())));

    let of = |stream_name: &str, broadcast: Option<&str>, claims: &Claims| {
        let broadcast = broadcast.map(|name| BroadcastId::new(name).unwrap());
        tickets.admit(claims, &stream(stream_name), broadcast.as_ref(), [192, 0, 2, 7].into(), NOW, false)
    };
    assert_eq!(of("carol", None, &claims()), Err(Refusal::OtherStream));
    let show = Claims { stream: None, broadcast: Some(BroadcastId::new("b1").unwrap()), ..claims() };
    assert_eq!(of("carol", Some("b1"), &show), Ok(()));
    assert_eq!(of("carol", Some("b2"), &show), Err(Refusal::OtherStream));
    assert_eq!(of("carol", None, &show), Err(Refusal::OtherStream), "whatever the stream's next broadcast will be");
    for asked in [None, Some("b1")] {
        assert_eq!(of("carol", asked, &Claims { stream: None, ..claims() }), Err(Refusal::OtherStream));
    }

    let from = |prefix: &str, address: &str| {
        let claims = Claims { addr: Some(prefix.to_owned().try_into().unwrap()), ..claims() };
        tickets.admit(&claims, &stream("alice"), None, address.parse().unwrap(), NOW, false)
    };
    assert_eq!(from("192.0.2.0/24", "192.0.2.200"), Ok(()));
    assert_eq!(from("192.0.2.0/24", "::ffff:192.0.2.200"), Ok(()));
    assert_eq!(from("192.0.2.0/24", "192.0.3.1"), Err(Refusal::OtherAddress));
    assert_eq!(from("2001:db8::1", "2001:db8::2"), Err(Refusal::OtherAddress));
    assert!(Prefix::try_from("example.org".to_owned()).is_err());
}

#[test]
fn revocations_and_keys_count_from_the_next_load_on() {
    let tickets = tickets();
    let ticket = signed(&claims());
    assert!(tickets.verify(&ticket).is_ok());

    let mut changed = rows();
    changed.push(AccessRow::RevokedTicket { id: "one".into(), until: UnixMs(i64::MAX) });
    tickets.load(true, changed);
    assert_eq!(admit(&tickets, &claims()), Err(Refusal::Revoked));
    assert_eq!(admit(&tickets, &Claims { jti: Some("two".into()), ..claims() }), Ok(()));

    let mut changed = rows();
    changed.push(AccessRow::RevokedStream { stream: stream("alice"), before: UnixMs(950_999) });
    tickets.load(true, changed);
    let issued = |iat| admit(&tickets, &Claims { iat, ..claims() });
    assert_eq!(tickets.revoked_before(&stream("alice")), Some(950));
    assert_eq!((issued(Some(950)), issued(None)), (Err(Refusal::Revoked), Err(Refusal::Revoked)));
    assert_eq!(issued(Some(951)), Ok(()));

    // A verified ticket is remembered, but not longer than its key.
    tickets.load(true, vec![key("k1", Signature::HS256, "another secret of thirty-two bytes")]);
    assert_eq!(tickets.verify(&ticket).err(), Some(Refusal::Invalid));
    tickets.load(true, Vec::new());
    assert_eq!(tickets.verify(&ticket).err(), Some(Refusal::Invalid));
    tickets.load(true, rows());
    assert!(tickets.verify(&ticket).is_ok());
    assert_eq!(tickets.load(true, vec![key("k1", Signature::EdDSA, SECRET)]).len(), 1, "named as unusable");
}

#[test]
fn a_stream_may_differ_from_the_rest() {
    for by_default in [true, false] {
        let tickets = Tickets::default();
        tickets.load(
            by_default,
            vec![
                AccessRow::Playback { stream: stream("open"), ticket: false },
                AccessRow::Playback { stream: stream("closed"), ticket: true },
            ],
        );
        assert!(tickets.needs_ticket("closed") && !tickets.needs_ticket("open"));
        assert_eq!(tickets.needs_ticket("other"), by_default);
    }
}

#[test]
fn keys_are_checked_before_they_are_kept() {
    assert_eq!(check_key("k1", Signature::HS256, SECRET), Ok(()));
    assert_eq!(check_key("shop.2026-11", Signature::EdDSA, PUBLIC), Ok(()));
    for kid in ["", "a/b", "a b", &"k".repeat(65)] {
        assert_eq!(check_key(kid, Signature::HS256, SECRET), Err(BadKey::Kid), "{kid}");
    }
    assert_eq!(check_key("k", Signature::HS256, "short"), Err(BadKey::Short));
    for text in [SECRET, "", PRIVATE] {
        assert_eq!(check_key("k", Signature::EdDSA, text), Err(BadKey::NoPublicKey), "{text}");
    }
}
