//! What moderators look at: what counts in the room, who is banned, what waits for them, and who did what.

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use serde_json::json;

use super::{no_store, past::Before, who::Visitor};
use crate::{
    chat::room::{Audit, Ruled, is_staff},
    http::{App, Shared, problem::Problem},
    id::{EventId, StreamId},
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

/// Settings, moderators, bans, and messages that wait.
pub(super) async fn rules(State(app): Shared, Path(id): Path<String>, visitor: Visitor) -> Result<Response, Problem> {
    let stream = app.moderated(&id, &visitor).await?;
    let rules = app.meta.chat_rules(&stream).await?;
    Ok(no_store(json!(Ruled::of(&rules, unix_now())).to_string()))
}

/// What moderators did, newest first.
pub(super) async fn audit(
    State(app): Shared,
    Path(id): Path<String>,
    Query(Before { before, limit }): Query<Before>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let stream = app.moderated(&id, &visitor).await?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let rows = app.meta.chat_back(&stream, &ChatLog::Staff, before.unwrap_or(EventId::MAX), limit).await?;
    let next = rows.last().map(|row| row.id).filter(|_| rows.len() == limit);
    let acts = rows.iter().filter_map(|row| {
        let Audit { at, by, name, act } = serde_json::from_str(&row.body).ok()?;
        Some(json!({ "id": row.id, "time": at.to_string(), "by": by, "name": name, "act": act }))
    });
    Ok(no_store(json!({ "acts": acts.collect::<Vec<_>>(), "next": next }).to_string()))
}
