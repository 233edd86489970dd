//! The API of tickets: who needs one, making and revoking them, the keys that sign them. For the admin token.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App, Shared,
    api::{Admin, Playback, parse, unknown},
    extract::{Given, Path},
    openapi::OfStream,
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

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(set_playback))
        .routes(routes!(create, revoke_all))
        .routes(routes!(revoke))
        .routes(routes!(add_key, list_keys))
        .routes(routes!(remove_key))
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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetPlayback {
    /// `null`: as the nodes are configured.
    playback: Option<Playback>,
}

/// Who may watch a stream from now on.
#[derive(Debug, Serialize, ToSchema)]
struct PlaybackOf {
    id: StreamId,
    playback: Playback,
}

/// Sets who may watch a stream and its recordings.
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/playback",
    params(OfStream),
    request_body = SetPlayback,
    responses((status = 200, body = PlaybackOf)),
    security(("admin" = [])),
)]
async fn set_playback(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    Given(SetPlayback { playback }): Given<SetPlayback>,
) -> Result<Json<PlaybackOf>, Problem> {
    let stream = app.known(&id).await?;
    match playback {
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
    Ok(Json(PlaybackOf { playback: Playback::of(&app.tickets, &stream), id: stream }))
}

/// A ticket as it is wished.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTicket {
    /// Seconds that it lasts, from now or from `not_before`.
    #[schema(minimum = 1, maximum = 2592000, default = 86400)]
    expires_in: Option<u64>,
    /// When it begins to count, seconds since 1970; 30 days from now at most.
    not_before: Option<u64>,
    /// Who watches.
    #[schema(max_length = 128)]
    viewer: Option<String>,
    /// From where it may be used.
    address: Option<Prefix>,
    /// The one broadcast that it is for.
    broadcast: Option<BroadcastId>,
}

/// A ticket, and where to watch with it.
#[derive(Debug, Serialize, ToSchema)]
struct Ticket {
    /// A JSON Web Token (RFC 7519).
    ticket: String,
    /// What it is revoked by.
    id: String,
    #[schema(format = DateTime)]
    expires: String,
    /// Path of the stream's page.
    watch: String,
    /// Path of its playlist.
    playlist: String,
}

/// Makes a ticket for a stream.
#[utoipa::path(
    post, path = "/api/v1/streams/{id}/tickets", operation_id = "create_ticket",
    params(OfStream),
    request_body = NewTicket,
    responses((status = 201, body = Ticket)),
    security(("admin" = [])),
)]
async fn create(
    _: Admin,
    State(app): Shared,
    Path(id): Path<String>,
    Given(wish): Given<NewTicket>,
) -> Result<(StatusCode, Json<Ticket>), Problem> {
    let stream = app.known(&id).await?;
    let life = wish.expires_in.unwrap_or(LIFE);
    if !(1..=LIFE_MAX).contains(&life) {
        return Err(bad(format!("expires_in is 1 to {LIFE_MAX} seconds (30 days)")));
    }
    if wish.viewer.as_ref().is_some_and(|viewer| viewer.chars().count() > VIEWER_MAX) {
        return Err(bad(format!("viewer has at most {VIEWER_MAX} letters")));
    }
    let now = unix_now().0.max(0) as u64 / 1000;
    let begins = wish.not_before.unwrap_or(now);
    if begins > now + LIFE_MAX {
        return Err(bad("not_before is more than 30 days away"));
    }
    let (kid, secret) = app.own_key().await?;
    let id = Secret::generate().expose().to_owned();
    let claims = Claims {
        stream: Some(stream.clone()),
        broadcast: wish.broadcast,
        exp: begins.max(now) + life,
        nbf: wish.not_before,
        // Not revoked by what was revoked within this second.
        iat: Some(app.tickets.revoked_before(&stream).map_or(now, |before| now.max(before + 1))),
        sub: wish.viewer,
        addr: wish.address,
        jti: Some(id.clone()),
    };
    let ticket = tickets::sign(&claims, &kid, &secret);
    let told = Ticket {
        id,
        expires: UnixMs(claims.exp as i64 * 1000).to_string(),
        watch: format!("/watch/{stream}#ticket={ticket}"),
        playlist: format!("/t/{ticket}/hls/{stream}/index.m3u8"),
        ticket,
    };
    Ok((StatusCode::CREATED, Json(told)))
}

/// Revokes all tickets of a stream that were made before.
#[utoipa::path(
    delete, path = "/api/v1/streams/{id}/tickets", operation_id = "revoke_tickets",
    params(OfStream),
    responses((status = 204)),
    security(("admin" = [])),
)]
async fn revoke_all(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let stream = app.known(&id).await?;
    app.change(AccessRow::RevokedStream { stream, before: unix_now() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes a ticket.
#[utoipa::path(
    delete, path = "/api/v1/tickets/{id}", operation_id = "revoke_ticket",
    params(("id" = String, Path, description = "Id (jti) of the ticket", pattern = "^[!-.0-~]{1,128}$")),
    responses((status = 204)),
    security(("admin" = [])),
)]
async fn revoke(_: Admin, State(app): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    if !(1..=128).contains(&id.len()) || !id.bytes().all(|c| c.is_ascii_graphic() && c != b'/') {
        return Err(bad("a ticket's id (jti) is 1 to 128 letters without spaces and slashes"));
    }
    // A ticket that begins late lasts longest.
    let until = UnixMs(unix_now().0 + 2 * LIFE_MAX as i64 * 1000);
    app.change(AccessRow::RevokedTicket { id, until }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTicketKey {
    /// What tickets call it.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    kid: String,
    algorithm: Signature,
    /// The HS256 secret, or the Ed25519 public key in PEM.
    #[schema(min_length = 32)]
    key: String,
}

/// A key that was added.
#[derive(Debug, Serialize, ToSchema)]
struct AddedTicketKey {
    kid: String,
    algorithm: Signature,
}

/// Adds a key: tickets that others sign with it count, for all streams.
#[utoipa::path(
    post, path = "/api/v1/ticket-keys", operation_id = "add_ticket_key",
    request_body = NewTicketKey,
    responses((status = 201, body = AddedTicketKey)),
    security(("admin" = [])),
)]
async fn add_key(
    _: Admin,
    State(app): Shared,
    Given(NewTicketKey { kid, algorithm, key }): Given<NewTicketKey>,
) -> Result<(StatusCode, Json<AddedTicketKey>), Problem> {
    tickets::check_key(&kid, algorithm, &key).map_err(|why| bad(why.to_string()))?;
    app.change(AccessRow::TicketKey { kid: kid.clone(), signature: algorithm, text: key, own: false }).await?;
    Ok((StatusCode::CREATED, Json(AddedTicketKey { kid, algorithm })))
}

/// A key that tickets are signed with.
#[derive(Debug, Serialize, ToSchema)]
struct TicketKey {
    kid: String,
    algorithm: Signature,
    /// A node made it, and the nodes sign with it.
    own: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct TicketKeys {
    keys: Vec<TicketKey>,
}

/// Lists the keys that tickets are signed with, but not what they are.
#[utoipa::path(
    get, path = "/api/v1/ticket-keys", operation_id = "list_ticket_keys",
    responses((status = 200, body = TicketKeys)),
    security(("admin" = [])),
)]
async fn list_keys(_: Admin, State(app): Shared) -> Result<Json<TicketKeys>, Problem> {
    let shown = |row| match row {
        AccessRow::TicketKey { kid, signature, own, .. } => Some(TicketKey { kid, algorithm: signature, own }),
        _ => None,
    };
    Ok(Json(TicketKeys { keys: app.meta.access().await?.into_iter().filter_map(shown).collect() }))
}

/// Removes a key: tickets that were signed with it count no longer.
#[utoipa::path(
    delete, path = "/api/v1/ticket-keys/{kid}", operation_id = "remove_ticket_key",
    params(("kid" = String, Path, description = "Name of the key")),
    responses((status = 204)),
    security(("admin" = [])),
)]
async fn remove_key(_: Admin, State(app): Shared, Path(kid): Path<String>) -> Result<StatusCode, Problem> {
    app.meta.delete_access(&format!("key/{kid}")).await.map_err(|why| match why {
        store::Error::NotFound => Problem::not_found(format!("there is no ticket key {kid}")),
        other => other.into(),
    })?;
    app.reload_access().await?;
    Ok(StatusCode::NO_CONTENT)
}
