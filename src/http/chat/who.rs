//! Who somebody is in chats: a cookie or a token says it again, once a name was chosen.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    auth::{
        people::{LIFE, Person},
        tickets,
    },
    chat::{Role, Who, text},
    http::{
        App, Shared,
        api::parse,
        asker::{Asker, Role as Proof},
        content::{Fresh, fresh},
        extract::{Given, Path},
        openapi::OfStream,
        problem::Problem,
        viewer::{Came, FORWARDED_HOST},
    },
    id::{StreamId, UserId},
    time::{UnixMs, unix_now},
};

/// The cookie that says who somebody is.
const COOKIE: &str = "weir_chat";

/// Who asks, as a cookie or a header proves it, and from where.
pub(super) struct Visitor {
    pub asker: Asker,
    pub person: Option<Person>,
    address: Option<IpAddr>,
    /// A page of another site sends the request: its visitor's name is not at its disposal.
    foreign: bool,
    /// The request came by TLS.
    secure: bool,
}

impl FromRequestParts<Arc<App>> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let asker = Asker::from_request_parts(parts, app).await?;
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let came = parts.extensions.get::<Came>();
        // HTTP/2 has no Host (RFC 9113 8.3.1), and proxies may put their own there.
        let host = text(header::HOST).or(parts.uri.authority().map(|authority| authority.as_str()));
        let before_proxy = came.filter(|came| came.proxied).and_then(|_| text(FORWARDED_HOST));
        let is_ours = |origin: &str| {
            let from = origin.split_once("://").map(|(_, from)| from);
            from.is_some_and(|from| host == Some(from) || before_proxy == Some(from))
        };
        let foreign = text(header::ORIGIN).is_some_and(|origin| !is_ours(origin));
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let cookie = cookie(&parts.headers).filter(|_| !foreign);
        let known = |token: &str| app.tickets.person(token, unix_now());
        let (by_token, address) = (bearer.and_then(known), asker.address());
        let asker = if by_token.is_some() { asker.without_key() } else { asker };
        let person = by_token.or_else(|| cookie.and_then(known));
        let secure = came.is_some_and(|came| came.secure);
        Ok(Self { asker, person, address, foreign, secure })
    }
}

/// The value of our cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|all| all.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

impl Visitor {
    /// Who this is in a stream's room; nothing for somebody without a name.
    pub fn who(&self, app: &App, stream: &StreamId) -> Option<Who> {
        let person = self.person.as_ref()?;
        let is_its_own = person.streamer.as_ref() == Some(stream) || person.bot.as_ref() == Some(stream);
        // A name that was chosen elsewhere, and is this streamer's: another has to be chosen.
        if !is_its_own && text::looks(&person.name) == text::looks(stream.as_str()) {
            return None;
        }
        let mut roles = Vec::new();
        if person.streamer.as_ref() == Some(stream) {
            roles.push(Role::Streamer);
        }
        if person.bot.as_ref() == Some(stream) {
            roles.push(Role::Bot);
        }
        if self.asker.holds_ticket(app, stream) {
            roles.push(Role::Ticket);
        }
        // A program that the streamer has made is not to be banned by where it runs.
        let address = self.address.filter(|_| person.bot.as_ref() != Some(stream));
        Some(Who { user: person.chat.clone(), name: person.name.clone(), roles, address })
    }

    /// The same for what nobody without a name may do.
    pub fn must(&self, app: &App, stream: &StreamId) -> Result<Who, Problem> {
        if self.foreign && self.person.is_none() {
            return Err(Problem::new(StatusCode::FORBIDDEN, "this is for pages of this site"));
        }
        let nameless = || Problem::new(StatusCode::UNAUTHORIZED, "choose a name first (POST .../chat/me)");
        self.who(app, stream).ok_or_else(nameless)
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatName)]
pub(super) struct Name {
    /// 25 letters at most. Not one that looks like the stream's, or like a word such as `admin`.
    name: String,
}

/// Somebody with a name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatNamed)]
pub(super) struct Named {
    user: UserId,
    name: String,
    /// Says who this is: `Authorization: Bearer TOKEN`.
    token: String,
}

/// A name as it is shown, if it may be chosen.
fn chosen(name: &str, taken: &[&str]) -> Result<String, Problem> {
    text::name(name, taken).map_err(|why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why.to_string()))
}

impl App {
    /// Tells somebody who he is, and gives what proves it.
    async fn named(&self, person: Person) -> Result<Named, Problem> {
        let (kid, secret) = self.own_key().await?;
        let token = tickets::sign(&person, &kid, &secret);
        Ok(Named { user: person.chat, name: person.name, token })
    }
}

/// Chooses a name, or another one: who has one keeps who he is. Whoever shows the stream's key is its streamer.
///
/// The token that is given comes as a cookie too.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/chat/me", operation_id = "choose_chat_name",
    params(OfStream),
    request_body = Name,
    responses((status = 201, body = Named)),
    security((), ("cookie" = []), ("person" = []), ("key" = []), ("admin" = [])),
)]
pub(super) async fn name(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    Given(Name { name }): Given<Name>,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1], Fresh<Named>), Problem> {
    let stream = parse(&id)?;
    let proof = visitor.asker.may_watch(&app, &stream, None).await?;
    if visitor.foreign {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this is for pages of this site"));
    }
    if visitor.address.is_some_and(|address| !app.chats.may_name(address)) {
        let many = "too many names were chosen from this address: try again in an hour";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, many));
    }
    let is_streamer = proof >= Proof::Owner;
    let taken = [stream.as_str()];
    let name = chosen(&name, if is_streamer { &[] } else { &taken })?;
    let known = visitor.person.filter(|person| person.bot.is_none());
    let mut person = known.unwrap_or_else(|| Person::guest(name.clone(), 0));
    (person.name, person.exp) = (name, seconds(unix_now()) + LIFE);
    if is_streamer {
        person.streamer = Some(stream);
    }
    let named = app.named(person).await?;
    let secure = if visitor.secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={}; Path=/; Max-Age={LIFE}; HttpOnly; SameSite=Lax{secure}", named.token);
    let cookie = HeaderValue::try_from(cookie).expect("a token is of letters");
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, cookie)], fresh(named)))
}

/// Makes a token for a program that writes in this stream's chat, for whoever the stream belongs to.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/chat/bots", operation_id = "make_chat_bot",
    params(OfStream),
    request_body = Name,
    responses((status = 201, body = Named)),
    security(("key" = []), ("admin" = [])),
)]
pub(super) async fn bot(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
    Given(Name { name }): Given<Name>,
) -> Result<(StatusCode, Fresh<Named>), Problem> {
    let stream = parse(&id)?;
    visitor.asker.must_own(&app, &stream).await?;
    let person = Person { bot: Some(stream), ..Person::guest(chosen(&name, &[])?, seconds(unix_now()) + LIFE) };
    Ok((StatusCode::CREATED, fresh(app.named(person).await?)))
}

fn seconds(at: UnixMs) -> u64 {
    at.0.max(0) as u64 / 1000
}
