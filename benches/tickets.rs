//! What a rush at the door costs: tickets that were never seen, and those that were.

use std::{hint::black_box, net::IpAddr, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use weir::{
    auth::tickets::Tickets,
    id::StreamId,
    store::{AccessRow, Signature},
    time::UnixMs,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// For this bench alone (RFC 8037 appendix A.1).
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const RUSH: usize = 20_000;

fn tickets() -> Tickets {
    let tickets = Tickets::default();
    let key = |kid: &str, signature, text: &str| AccessRow::TicketKey {
        kid: kid.into(),
        signature,
        text: text.into(),
        own: false,
    };
    tickets.load(true, vec![key("hs", Signature::HS256, SECRET), key("ed", Signature::EdDSA, PUBLIC)]);
    tickets
}

/// As many different tickets as come to a rush.
fn signed(kid: &str, algorithm: Algorithm, key: &EncodingKey) -> Vec<String> {
    let header = Header { kid: Some(kid.into()), ..Header::new(algorithm) };
    let claims = |i| json!({ "stream": "alice", "exp": 4_000_000_000_u64, "iat": 1, "jti": format!("ticket-{i}"), "sub": "bob" });
    (0..RUSH).map(|i| jsonwebtoken::encode(&header, &claims(i), key).expect("signs")).collect()
}

fn rush(c: &mut Criterion) {
    let mut group = c.benchmark_group("tickets");
    group.throughput(Throughput::Elements(RUSH as u64)).sample_size(10).measurement_time(Duration::from_secs(10));
    let (alice, home) = (StreamId::new("alice").expect("legal"), IpAddr::from([192, 0, 2, 1]));
    let all = |tickets: &Tickets, rush: &[String]| {
        for ticket in rush {
            let claims = tickets.verify(ticket).expect("signed");
            tickets.admit(&claims, &alice, None, home, UnixMs(2_000_000), false).expect("good");
        }
    };
    let hs = signed("hs", Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()));
    let ed = signed("ed", Algorithm::EdDSA, &EncodingKey::from_ed_pem(PRIVATE.as_bytes()).expect("a key"));
    for (name, rush) in [("20,000 new, HS256", &hs), ("20,000 new, EdDSA", &ed)] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(tickets, |tickets| all(tickets, black_box(rush)), BatchSize::PerIteration)
        });
    }
    let known = tickets();
    all(&known, &ed);
    group.bench_function("20,000 seen before", |b| b.iter(|| all(&known, black_box(&ed))));
    group.finish();
}

criterion_group!(benches, rush);
criterion_main!(benches);
