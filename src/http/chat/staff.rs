//! What moderators look at: what counts in the room, who is banned, what waits for them, and who did what.

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{past::Before, who::Visitor};
use crate::{
    chat::{
        Act,
        room::{Audit, Ruled, is_staff},
    },
    http::{
        App, Shared,
        content::{Fresh, fresh},
        extract::{Path, Query},
        openapi::OfStream,
        problem::Problem,
    },
    id::{EventId, StreamId, UserId},
    store::ChatLog,
    time::unix_now,
};

/// Lines of the audit log on one page.
const PAGE: usize = 50;
const PAGE_MAX: usize = 500;

impl App {
    /// A stream of whose chat the visitor is a moderator, or whose key he shows.
    async fn moderated(&self, id: &str, visitor: &Visitor) -> Result<StreamId, Problem> {
        self.must_have_store()?;
        let (stream, room) = self.chat_room(id, visitor).await?;
        let is_moderator = visitor.who(self, &stream).is_some_and(|who| is_staff(&room.roles(&who)));
        if !is_moderator && visitor.asker.must_own(self, &stream).await.is_err() {
            let why = "this is for moderators, and for whoever has the stream's key";
            return Err(Problem::new(StatusCode::FORBIDDEN, why).with_code("forbidden"));
        }
        Ok(stream)
    }
}

/// Tells settings, moderators, bans, and messages that wait: for moderators, and for whoever the stream belongs to.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/rules", operation_id = "chat_rules",
    params(OfStream),
    responses((status = 200, body = Ruled)),
    security(("admin" = []), ("key" = []), ("cookie" = []), ("person" = []), ("program" = [])),
)]
pub(super) async fn rules(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
) -> Result<Fresh<Ruled>, Problem> {
    let stream = app.moderated(&id, &visitor).await?;
    let rules = app.meta.chat_rules(&stream).await?;
    Ok(fresh(Ruled::of(&rules, unix_now())))
}

/// Something that a moderator did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatDeed)]
struct Deed {
    id: EventId,
    #[schema(format = DateTime)]
    time: String,
    by: UserId,
    /// His name at that time.
    name: String,
    act: Act,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatAudit)]
pub(super) struct Deeds {
    /// Newest first.
    acts: Vec<Deed>,
    /// What to ask with as `before` for those that are older, where there are any.
    next: Option<EventId>,
}

/// Tells what moderators did, newest first: for moderators, and for whoever the stream belongs to.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/audit", operation_id = "chat_audit",
    params(OfStream, Before),
    responses((status = 200, body = Deeds)),
    security(("admin" = []), ("key" = []), ("cookie" = []), ("person" = []), ("program" = [])),
)]
pub(super) async fn audit(
    State(app): Shared,
    Path(id): Path<String>,
    Query(Before { before, limit }): Query<Before>,
    visitor: Visitor,
) -> Result<Fresh<Deeds>, Problem> {
    let stream = app.moderated(&id, &visitor).await?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let rows = app.meta.chat_back(&stream, &ChatLog::Staff, before.unwrap_or(EventId::MAX), limit).await?;
    let next = rows.last().map(|row| row.id).filter(|_| rows.len() == limit);
    let acts = rows.iter().filter_map(|row| {
        let Audit { at, by, name, act } = serde_json::from_str(&row.body).ok()?;
        Some(Deed { id: row.id, time: at.to_string(), by, name, act })
    });
    Ok(fresh(Deeds { acts: acts.collect(), next }))
}
