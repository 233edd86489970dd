//! Sends a signed message to a URL. The name is resolved here, what it leads to is checked, and that very address is connected to:
//! a name server that answers otherwise the second time leads nowhere. Redirects are not followed, proxies not used.

use std::{
    error::Error as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use reqwest::{
    Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header, redirect, retry,
};
use url::Url;

use super::{
    address::{self, BadUrl},
    sign::Key,
};
use crate::time::unix_now;

/// Whom a receiver hears: the name and version of this program.
const AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));
/// What is read of an answer, bytes.
const ANSWER_MAX: usize = 4 << 10;
/// What is read of a name server's or a TLS library's complaint, letters.
const WORDS_MAX: usize = 200;

/// Speaks to the URLs of a configuration. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    allow_private: bool,
}

/// What a receiver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    /// When it wants to be asked again (`Retry-After`), where it says so in seconds.
    pub again: Option<Duration>,
    /// The beginning of what it says.
    pub body: Vec<u8>,
}

/// There is no answer. None of the words holds more of a URL than its host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the URL {0}")]
    Url(#[from] BadUrl),
    #[error("its name leads to private addresses: set webhooks.allow_private = true if they are yours")]
    Private,
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("{0}")]
    Network(String),
}

impl Client {
    /// # Errors
    /// This machine has no certificates by which a receiver could be known, and `secure` says that they are needed.
    pub fn new(allow_private: bool, secure: bool) -> Result<Self, String> {
        // Two kinds of cryptography are built in: one must be chosen before it is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .user_agent(AGENT)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .dns_resolver(Arc::new(Resolver { allow_private }));
        // Where all speak plainly, a machine without certificates is none the worse.
        let builder = if secure { builder } else { builder.tls_certs_only([]) };
        let http = builder.build().map_err(|why| deepest(&why))?;
        Ok(Self { http, allow_private })
    }

    /// Posts a JSON `body` as the message `id`; gives the answer, whatever it is, that comes within `limit`.
    pub async fn post(&self, url: &Url, key: &Key, id: &str, body: String, limit: Duration) -> Result<Answer, Failure> {
        address::check(url, self.allow_private)?;
        let mut request = self.http.post(url.clone()).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in key.headers(id, unix_now(), &body) {
            request = request.header(name, value);
        }
        let answer = async {
            let response = request.body(body).send().await.map_err(failure)?;
            let (status, again) = (response.status(), again(&response));
            Ok(Answer { status, again, body: beginning(response).await })
        };
        tokio::time::timeout(limit, answer).await.unwrap_or(Err(Failure::Late(limit)))
    }
}

fn again(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What follows is not read: the connection goes with it. An answer that breaks off is one all the same.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = BytesMut::new();
    while body.len() < ANSWER_MAX
        && let Ok(Some(piece)) = response.chunk().await
    {
        let room = ANSWER_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    body.to_vec()
}

fn failure(error: reqwest::Error) -> Failure {
    let mut cause = error.source();
    while let Some(why) = cause {
        if why.is::<OnlyPrivate>() {
            return Failure::Private;
        }
        cause = why.source();
    }
    Failure::Network(deepest(&error.without_url()))
}

/// The first cause: the others say that there is one.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

#[derive(Debug, thiserror::Error)]
#[error("only private addresses")]
struct OnlyPrivate;

/// Gives of a name's addresses those that may be spoken to.
struct Resolver {
    allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = allowed(found.map(|address| address.ip()), allow_private).ok_or(OnlyPrivate)?;
            // The port is that of the URL.
            Ok(Box::new(allowed.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

/// Nothing where there are addresses and none of them may be spoken to.
fn allowed(found: impl Iterator<Item = IpAddr>, allow_private: bool) -> Option<Vec<IpAddr>> {
    let (mut allowed, mut refused) = (Vec::new(), false);
    for address in found {
        match allow_private || !address::is_private(address) {
            true => allowed.push(address),
            false => refused = true,
        }
    }
    (!allowed.is_empty() || !refused).then_some(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn ips(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn of_a_names_addresses_only_public_ones_are_spoken_to() {
        let of = |all: &[&str], private| allowed(ips(all).into_iter(), private);
        assert_eq!(of(&["127.0.0.1", "8.8.8.8", "::1"], false), Some(ips(&["8.8.8.8"])));
        assert_eq!(of(&["127.0.0.1", "::ffff:10.0.0.1"], false), None);
        assert_eq!(of(&["127.0.0.1"], true), Some(ips(&["127.0.0.1"])));
        assert_eq!(of(&[], false), Some(vec![]));
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_not_followed() {
        let client = Client::new(false, false).unwrap();
        let key = Key::new(&Secret::new("x".repeat(24))).unwrap();
        let limit = Duration::from_secs(5);
        // Whatever it is written as, this machine is meant.
        let private = client.post(&"http://127.1:9/".parse().unwrap(), &key, "x", String::new(), limit).await;
        assert_eq!(private, Err(Failure::Url(BadUrl::Private)));
        // The check of the text does not see this one: the resolver does.
        let error = client.http.post("http://localhost:9/?token=secret").send().await.unwrap_err();
        assert_eq!(failure(error), Failure::Private);
        let client = Client::new(true, false).unwrap();
        let closed =
            client.post(&"http://127.0.0.1:9/?token=x".parse().unwrap(), &key, "x", String::new(), limit).await;
        let Err(Failure::Network(words)) = closed else { panic!("{closed:?}") };
        assert!(words.contains("refused") && !words.contains("token"), "{words}");
    }
}
