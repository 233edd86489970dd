//! The API of tickets: who needs one, making and revoking them, the keys that sign them. For the admin token.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, post, put},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    App, Shared,
    api::{Admin, parse, unknown},
    problem::Problem,
};
use crate::{
    auth::{
        Secret,
        tickets::{self, Claims, LIFE_MAX, Prefix},
    },
    cache::link::Access,
    id::{BroadcastId, StreamId},
    store::{self, AccessRow, Signature},
    time::{UnixMs, unix_now},
};

/// How long a ticket lasts when nothing is said, seconds.
const LIFE: u64 = 86_400;
/// Letters of a viewer's name in a ticket, at most: it is sent with every request.
const VIEWER_MAX: usize = 128;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/streams/{id}/playback", put(set_playback))
        .route("/api/v1/streams/{id}/tickets", post(create).delete(revoke_all))
        .route("/api/v1/tickets/{id}", delete(revoke))
        .route("/api/v1/ticket-keys", post(add_key).get(list_keys))
        .route("/api/v1/ticket-keys/{kid}", delete(remove_key))
}

type Body<T> = Result<Json<T>, JsonRejection>;

fn body<T>(body: Body<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|why| bad(why.body_text()))
}

fn bad(why: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, why)
}

impl App {
    /// Reads who may watch what. A change made here counts at once; those of other nodes when this is called next.
    pub async fn reload_access(&self) -> store::Result<()> {
        let rows = self.meta.access().await?;
        let now = unix_now();
        for row in &rows {
            if let AccessRow::RevokedTicket { until, .. } | AccessRow::Deleted { until, .. } = row
                && *until < now
            {
                // Another node may have been quicker.
                let _ = self.meta.delete_access(&row.name()).await;
            }
        }
        *self.access_rows.lock().expect("no panic while held") = rows;
        self.join_access();
        Ok(())
    }

    /// Joins what the store and what other nodes say of who may watch.
    pub fn join_access(&self) {
        // Held to the end: of two who join at once the later one knows more.
        let rows = self.access_rows.lock().expect("no panic while held");
        let own = Access { ticket: self.ticketed, rows: rows.clone() };
        let heard = self.links.as_ref().map(|links| links.access());
        // A node that makes chunks itself shows its edges only its own: two that have each other as upstream would tell
        // each other for ever what they heard.
        let all = match heard {
            Some(heard) => Access::join([own.clone(), heard]),
            None => own.clone(),
        };
        let told = if self.is_origin { own } else { all.clone() };
        let is_news = self.access.send_if_modified(|known| {
            let is_news = *known != told;
            *known = told;
            is_news
        });
        let access = all;
        if let Some(cache) = self.cache.as_ref().filter(|_| is_news) {
            let deleted = access.rows.iter().filter_map(|row| match row {
                AccessRow::Deleted { broadcast, .. } => Some(broadcast),
                _ => None,
            });
            cache.forget(&deleted.collect());
        }
        for why in self.tickets.load(access.ticket, access.rows) {
            tracing::error!(%why, "who may watch is told by a row that cannot be used");
        }
    }

    async fn known(&self, id: &str) -> Result<StreamId, Problem> {
        let id = parse(id)?;
        match self.open || self.meta.stream(&id).await?.is_some() {
            true => Ok(id),
            false => Err(unknown(&id)),
        }
    }

    async fn change(&self, row: AccessRow) -> Result<(), Problem> {
        self.meta.put_access(row).await?;
        Ok(self.reload_access().await?)
    }

    /// The key that this cluster signs with; made when there is none.
    pub(super) async fn own_key(&self) -> Result<(String, Secret), Problem> {
        let own = |row| match row {
            AccessRow::TicketKey { kid, text, own: true, .. } => Some((kid, Secret::new(text))),
            _ => None,
        };
        if let Some(found) = self.meta.access().await?.into_iter().find_map(own) {
            // Another node may have made it in this second.
            if !self.tickets.knows(&found.0) {
                self.reload_access().await?;
            }
            return Ok(found);
        }
        let kid = format!("weir-{}", &Secret::generate().expose()[..8]);
        let text = format!("{}{}", Secret::generate().expose(), Secret::generate().expose());
        let row = AccessRow::TicketKey { kid: kid.clone(), signature: Signature::HS256, text: text.clone(), own: true };
        self.change(row).await?;
        Ok((kid, Secret::new(text)))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPlayback {
    /// `public`, `ticket`, or nothing: as the nodes are configured.
    playback: Option<Playback>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Playback {
    Public,
    Ticket,
}

async fn set_playback(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    given: Body<SetPlayback>,
) -> Result<Response, Problem> {
    let stream = app.known(&id).await?;
    match body(given)?.playback {
        Some(playback) => {
            let ticket = playback == Playback::Ticket;
            app.change(AccessRow::Playback { stream: stream.clone(), ticket }).await?;
        }
        None => {
            match app.meta.delete_access(&AccessRow::Playback { stream: stream.clone(), ticket: false }.name()).await {
                Ok(()) | Err(store::Error::NotFound) => app.reload_access().await?,
                Err(why) => return Err(why.into()),
            }
        }
    }
    let playback = if app.tickets.needs_ticket(stream.as_str()) { "ticket" } else { "public" };
    Ok(Json(json!({ "id": stream, "playback": playback })).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Create {
    /// Seconds.
    expires_in: Option<u64>,
    /// Seconds since 1970.
    not_before: Option<u64>,
    viewer: Option<String>,
    address: Option<Prefix>,
    broadcast: Option<BroadcastId>,
}

async fn create(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    given: Body<Create>,
) -> Result<Response, Problem> {
    let stream = app.known(&id).await?;
    let wish = body(given)?;
    let life = wish.expires_in.unwrap_or(LIFE);
    if !(1..=LIFE_MAX).contains(&life) {
        return Err(bad(format!("expires_in is 1 to {LIFE_MAX} seconds (30 days)")));
    }
    if wish.viewer.as_ref().is_some_and(|viewer| viewer.len() > VIEWER_MAX) {
        return Err(bad(format!("viewer has at most {VIEWER_MAX} letters")));
    }
    let now = unix_now().0.max(0) as u64 / 1000;
    let begins = wish.not_before.unwrap_or(now);
    if begins > now + LIFE_MAX {
        return Err(bad("not_before is more than 30 days away"));
    }
    let (kid, secret) = app.own_key().await?;
    let claims = Claims {
        stream: Some(stream.clone()),
        broadcast: wish.broadcast,
        exp: begins.max(now) + life,
        nbf: wish.not_before,
        // Not revoked by what was revoked within this second.
        iat: Some(app.tickets.revoked_before(&stream).map_or(now, |before| now.max(before + 1))),
        sub: wish.viewer,
        addr: wish.address,
        jti: Some(Secret::generate().expose().to_owned()),
    };
    let ticket = tickets::sign(&claims, &kid, &secret);
    let told = json!({
        "ticket": ticket,
        "id": claims.jti,
        "expires": UnixMs(claims.exp as i64 * 1000).to_string(),
        "watch": format!("/watch/{stream}#ticket={ticket}"),
        "playlist": format!("/t/{ticket}/hls/{stream}/index.m3u8"),
    });
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

async fn revoke_all(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let stream = app.known(&id).await?;
    app.change(AccessRow::RevokedStream { stream, before: unix_now() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn revoke(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    if !(1..=128).contains(&id.len()) || !id.bytes().all(|c| c.is_ascii_graphic() && c != b'/') {
        return Err(bad("a ticket's id (jti) is 1 to 128 letters without spaces and slashes"));
    }
    // A ticket that begins late lasts longest.
    let until = UnixMs(unix_now().0 + 2 * LIFE_MAX as i64 * 1000);
    app.change(AccessRow::RevokedTicket { id, until }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddKey {
    kid: String,
    algorithm: Signature,
    /// The HS256 secret, or the Ed25519 public key in PEM.
    key: String,
}

async fn add_key(_: Admin, State(app): Shared, given: Body<AddKey>) -> Result<Response, Problem> {
    let AddKey { kid, algorithm, key } = body(given)?;
    tickets::check_key(&kid, algorithm, &key).map_err(|why| bad(why.to_string()))?;
    app.change(AccessRow::TicketKey { kid: kid.clone(), signature: algorithm, text: key, own: false }).await?;
    Ok((StatusCode::CREATED, Json(json!({ "kid": kid, "algorithm": algorithm }))).into_response())
}

async fn list_keys(_: Admin, State(app): Shared) -> Result<Response, Problem> {
    let shown = |row| match row {
        AccessRow::TicketKey { kid, signature, own, .. } => {
            Some(json!({ "kid": kid, "algorithm": signature, "own": own }))
        }
        _ => None,
    };
    let keys: Vec<_> = app.meta.access().await?.into_iter().filter_map(shown).collect();
    Ok(Json(json!({ "keys": keys })).into_response())
}

async fn remove_key(_: Admin, State(app): Shared, Path(kid): Path<String>) -> Result<StatusCode, Problem> {
    app.meta.delete_access(&format!("key/{kid}")).await.map_err(|why| match why {
        store::Error::NotFound => Problem::not_found(format!("there is no ticket key {kid}")),
        other => other.into(),
    })?;
    app.reload_access().await?;
    Ok(StatusCode::NO_CONTENT)
}
