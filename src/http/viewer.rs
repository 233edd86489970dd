//! Who watches: the ticket in a request's path, and where the request comes from.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderName, StatusCode, Uri, request::Parts, uri::PathAndQuery},
};

use ipnet::IpNet;

use super::{App, problem::Problem, reports};
use crate::{
    auth::tickets::Refusal,
    hooks::ask::{Refused, Verdict},
    id::{BroadcastId, StreamId},
    time::unix_now,
};

/// Takes the ticket out of `/t/{ticket}/hls/...` and `/t/{ticket}/api/v1/cmcd`; gives it, and path and query without it.
pub fn split(uri: &Uri) -> (Option<&str>, &str) {
    let all = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let ticketed = all.strip_prefix("/t/").and_then(|rest| {
        let is_it = |path: &str| path.starts_with("/hls/") || reports::is_report(path);
        let slash = rest.find('/').filter(|slash| is_it(&rest[*slash..]))?;
        Some((Some(&rest[..slash]), &rest[slash..]))
    });
    ticketed.unwrap_or((None, all))
}

/// What a proxy says of the request that it passes on.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What a ticket is for: media, the question whether it is good for some, and what the API tells of recordings.
const TICKETED: &[&str] = &["hls/", "ticket/hls/", "api/v1/streams/", "api/v1/broadcasts/", "api/v1/clips/"];

/// What [`prepare`] takes out of the path.
#[derive(Debug, Clone)]
struct Ticket(Arc<str>);

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Anyone, at this address.
    Public(IpAddr),
    /// Another node, on the internal port. `detour`: it cannot reach the node that has what it asks for.
    Node { detour: bool },
}

/// The viewer behind proxies: the last address in `X-Forwarded-For` that is none of theirs. Whoever is no proxy speaks for himself.
pub fn behind(address: IpAddr, proxies: &[IpNet], headers: &HeaderMap) -> IpAddr {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|proxy| proxy.contains(&address.to_canonical()));
    let told = headers.get_all(FORWARDED_FOR).into_iter().filter_map(|value| value.to_str().ok());
    let told: Vec<_> = told.flat_map(|value| value.split(',')).map(|text| text.trim().parse::<IpAddr>()).collect();
    // From the nearest on; what cannot be read ends what is known.
    let hops = told.into_iter().rev().map_while(Result::ok);
    let mut found = address;
    for hop in hops {
        if !is_proxy(&found) {
            break;
        }
        found = hop;
    }
    found
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// By TLS, to here or to a proxy.
    pub secure: bool,
    /// Through a proxy whose word counts.
    pub proxied: bool,
}

/// Notes who sent a request, and turns `/t/{ticket}/hls/...` (and `/t/{ticket}/ticket/hls/...`, which asks whether the
/// ticket is good, and `/t/{ticket}/api/v1/...`, which tells of recordings) into the same without the ticket, and a note of it. Everything behind this sees one path for all viewers.
pub fn prepare<B>(mut request: Request<B>, peer: Peer) -> Request<B> {
    request.extensions_mut().insert(peer);
    let Some(rest) = request.uri().path().strip_prefix("/t/") else { return request };
    let ticketed = |path: &str| TICKETED.iter().any(|begin| path.starts_with(begin));
    let Some((ticket, path)) = rest.split_once('/').filter(|(_, path)| ticketed(path)) else { return request };
    let ticket = Ticket(ticket.into());
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(path) = PathAndQuery::try_from(format!("/{path}{query}")) else { return request };
    let mut uri = request.uri().clone().into_parts();
    uri.path_and_query = Some(path);
    let Ok(uri) = Uri::from_parts(uri) else { return request };
    *request.uri_mut() = uri;
    request.extensions_mut().insert(ticket);
    request
}

/// Whoever sent a request for media.
#[derive(Debug)]
pub struct Viewer {
    ticket: Option<Ticket>,
    peer: Peer,
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let nobody = Peer::Public(IpAddr::from([0, 0, 0, 0]));
        let peer = parts.extensions.get().copied().unwrap_or(nobody);
        Ok(Self { ticket: parts.extensions.remove(), peer })
    }
}

impl Viewer {
    pub fn new(ticket: Option<Arc<str>>, peer: Peer) -> Self {
        Self { ticket: ticket.map(Ticket), peer }
    }

    pub fn address(&self) -> Option<IpAddr> {
        if let Peer::Public(address) = self.peer { Some(address) } else { None }
    }

    /// Whether the viewer holds a ticket that is good for this stream now, needed or not.
    pub fn holds_ticket(&self, app: &App, stream: &StreamId) -> bool {
        let (Peer::Public(address), Some(Ticket(ticket))) = (self.peer, &self.ticket) else { return false };
        let Ok(claims) = app.tickets.verify(ticket) else { return false };
        let broadcast = app.current(stream);
        app.tickets.admit(&claims, stream, broadcast.as_ref(), address, unix_now(), false).is_ok()
    }

    /// Whether other nodes are asked for what this one lacks. A node that makes chunks itself asks nobody for another but by
    /// detour: two that have each other as upstream would wait for each other.
    pub fn is_pulled_for(&self, app: &App) -> bool {
        self.peer != Peer::Node { detour: false } || !app.is_origin
    }

    /// Whether another node asks for what it cannot reach: only what a third one shows is got for it.
    pub fn is_by_detour(&self) -> bool {
        self.peer == Peer::Node { detour: true }
    }

    /// The broadcast that is all the viewer's ticket is for; nothing where it is for a stream, or there is none.
    pub fn only(&self, app: &App) -> Option<BroadcastId> {
        let Ticket(ticket) = self.ticket.as_ref()?;
        app.tickets.verify(ticket).ok()?.broadcast.clone()
    }

    /// Lets the viewer in, or says why not. `listed`: what is asked for was named by a playlist.
    pub async fn admit(
        &self,
        app: &App,
        stream: &StreamId,
        broadcast: Option<&BroadcastId>,
        listed: bool,
    ) -> Result<(), Problem> {
        // A node has looked at the ticket of whom it asks for.
        let Peer::Public(address) = self.peer else { return Ok(()) };
        if let Some(asker) = &app.asker {
            let ticket = self.ticket.as_ref().map(|Ticket(ticket)| &**ticket);
            let verdict = match asker.known(stream.as_str(), ticket, address) {
                Some(known) => known,
                // Rare, and larger than all else that a request waits for.
                None => Box::pin(asker.play(stream.as_str(), ticket, address)).await,
            };
            return judged(verdict);
        }
        if !app.tickets.needs_ticket(stream.as_str()) {
            return Ok(());
        }
        let admitted = match &self.ticket {
            None => Err(Refusal::Missing),
            Some(Ticket(ticket)) => app
                .tickets
                .verify(ticket)
                .and_then(|claims| app.tickets.admit(&claims, stream, broadcast, address, unix_now(), listed)),
        };
        admitted.map_err(|refusal| {
            metrics::counter!("weir_ticket_refusals_total", "reason" => refusal.code()).increment(1);
            refusal.into()
        })
    }
}

/// What a backend's verdict means for a request.
fn judged(verdict: Verdict) -> Result<(), Problem> {
    match verdict {
        Verdict::Admitted => Ok(()),
        Verdict::Refused(Refused { unknown, words }) => {
            let status = if unknown { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
            let words = words.as_deref().unwrap_or("you may not watch this stream");
            Err(Problem::new(status, words).with_code("play_refused"))
        }
        Verdict::Unsure => {
            let words = "it cannot be found out now whether you may watch this stream; try again in a moment";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, words).with_code("play_unsure");
            Err(problem.again_in(Duration::from_secs(2)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(uri: &str) -> (String, Option<String>) {
        let request = prepare(Request::builder().uri(uri).body(()).unwrap(), Peer::Public([127, 0, 0, 1].into()));
        let ticket = request.extensions().get::<Ticket>().map(|ticket| ticket.0.to_string());
        (request.uri().to_string(), ticket)
    }

    #[test]
    fn only_proxies_speak_for_others() {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()).into();
        let found = |address: &str, told: &[&str]| {
            let mut headers = HeaderMap::new();
            told.iter().for_each(|value| _ = headers.append(FORWARDED_FOR, value.parse().unwrap()));
            behind(address.parse().unwrap(), &proxies, &headers).to_string()
        };
        assert_eq!(found("203.0.113.7", &["198.51.100.1"]), "203.0.113.7");
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(found("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        // What a viewer has put there himself stands before what the proxy adds.
        assert_eq!(found("10.0.0.1", &["192.0.2.9, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(found("::1", &["192.0.2.9", "2001:db8::1"]), "2001:db8::1");
        assert_eq!(found("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(found("10.0.0.1", &["198.51.100.1, unknown"]), "10.0.0.1");
    }

    #[test]
    fn media_is_known_by_its_path() {
        let split = |uri: &str| {
            let uri = uri.parse().unwrap();
            let (ticket, path) = split(&uri);
            (ticket.map(str::to_owned), path.to_owned())
        };
        let with = |ticket: &str, path: &str| (Some(ticket.to_owned()), path.to_owned());
        assert_eq!(split("/t/a.b/hls/x/index.m3u8?y=1"), with("a.b", "/hls/x/index.m3u8?y=1"));
        assert_eq!(split("http://host/hls/x?y"), (None, "/hls/x?y".into()));
        for other in ["/t/a/hlsx", "/t/a", "/t/", "/", "/t/a/ticket/hls/x", "/watch/t"] {
            assert_eq!(split(other), (None, other.to_owned()));
        }
    }

    #[test]
    fn the_ticket_leaves_the_path() {
        let with = |path: &str, ticket: &str| (path.to_owned(), Some(ticket.to_owned()));
        assert_eq!(prepared("/t/a.b.c/hls/x/index.m3u8"), with("/hls/x/index.m3u8", "a.b.c"));
        assert_eq!(prepared("/t/a/hls/x/b/s/index.m3u8?_HLS_msn=1"), with("/hls/x/b/s/index.m3u8?_HLS_msn=1", "a"));
        assert_eq!(prepared("/t/a/ticket/hls/x/index.m3u8"), with("/ticket/hls/x/index.m3u8", "a"));
        assert_eq!(prepared("/t//hls/x"), with("/hls/x", ""));
        assert_eq!(prepared("/t/a/api/v1/broadcasts/b?x"), with("/api/v1/broadcasts/b?x", "a"));
        for other in ["/hls/x/index.m3u8", "/t/a/api/v1/status", "/t/a", "/t/", "/", "/t/a/watch/x", "/t/a/hlsx"] {
            assert_eq!(prepared(other), (other.to_owned(), None));
        }
    }
}
