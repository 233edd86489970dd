//! What was said before: the history of a room, and the chat of a recording.

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{no_chat, who::Visitor};
use crate::{
    chat::{
        Event, Message,
        past::{From, Past},
    },
    http::{
        App, Shared,
        asker::Role as Proof,
        content::{Fresh, fresh},
        extract::{Path, Query},
        openapi::{OfBroadcast, OfStream},
        problem::Problem,
        recordings::answer,
    },
    id::EventId,
    store::{self, BroadcastRow},
    time::UnixMs,
};

/// Messages of one page.
const PAGE: usize = 10;
const PAGE_MAX: usize = 100;
/// And of one beside a recording, which is played: some seconds of a chat in which 200 are written each second.
const SHOWN: usize = 100;
const SHOWN_MAX: usize = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Before {
    /// What the page before it gave as `next`: those that are older.
    #[serde(default)]
    pub before: Option<EventId>,
    /// Messages on a page: 10 where nothing is said, 100 at most. Of the audit log 50 acts, and 500.
    #[serde(default)]
    #[param(minimum = 0)]
    pub limit: Option<usize>,
}

/// A page of what was said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatHistory)]
pub(super) struct History {
    /// Events of type `message`, newest first.
    messages: Vec<Event>,
    /// What to ask with as `before` for those that are older, where there are any.
    next: Option<EventId>,
}

/// Tells what was said, from the newest back, without what moderators hid.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/history", operation_id = "chat_history",
    params(OfStream, Before),
    responses((status = 200, body = History)),
)]
pub(super) async fn history(
    State(app): Shared,
    Path(id): Path<String>,
    Query(Before { before, limit }): Query<Before>,
    visitor: Visitor,
) -> Result<Fresh<History>, Problem> {
    let (stream, _) = app.chat_room(&id, &visitor).await?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let past = Past::of_room(&*app.meta, &stream).await?;
    let page = past.page(From::Before(before.unwrap_or(EventId::MAX)), limit).await?;
    let messages = page.messages.into_iter().map(Event::Message).collect();
    Ok(fresh(History { messages, next: page.next }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Messages from this time on, oldest first. There may be one of `from`, `until`, `after` and `before`; without
    /// any, messages from the first on.
    #[serde(default)]
    #[param(format = DateTime, pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$")]
    from: Option<String>,
    /// Messages before this time, newest first.
    #[serde(default)]
    #[param(format = DateTime, pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$")]
    until: Option<String>,
    /// Messages after this one, oldest first.
    #[serde(default)]
    after: Option<EventId>,
    /// Messages before this one, newest first.
    #[serde(default)]
    before: Option<EventId>,
    /// Messages on a page, 1000 at most.
    #[serde(default)]
    #[param(minimum = 0, default = 100)]
    limit: Option<usize>,
}

impl Wanted {
    fn from(&self) -> Result<From, Problem> {
        let bad = |why: &str| Problem::new(StatusCode::BAD_REQUEST, why);
        let first = |time: &str| {
            let why = "from and until are times such as 2026-01-01T12:00:00.000Z";
            UnixMs::parse(time).map(EventId::first_at).ok_or_else(|| bad(why))
        };
        match (&self.from, &self.until, self.after, self.before) {
            (None, None, None, None) => Ok(From::After(EventId(0))),
            (Some(time), None, None, None) => Ok(From::After(EventId(first(time)?.0.saturating_sub(1)))),
            (None, Some(time), None, None) => Ok(From::Before(first(time)?)),
            (None, None, Some(after), None) => Ok(From::After(after)),
            (None, None, None, Some(before)) => Ok(From::Before(before)),
            _ => Err(bad("one of from, until, after and before is enough")),
        }
    }
}

/// An event of type `message` with the time at which it was written.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatSaid)]
struct Said {
    #[schema(format = DateTime)]
    time: String,
    #[serde(flatten)]
    event: Event,
}

impl Said {
    fn new(message: Message) -> Self {
        // Its sender's name for it is of no use any more.
        Self { time: message.id.at().to_string(), event: Event::Message(Message { nonce: None, ..message }) }
    }
}

/// The chat of a broadcast that somebody may watch.
async fn known(app: &App, id: &str, visitor: &Visitor) -> Result<(BroadcastRow, Proof), Problem> {
    let row = app.known_broadcast(id).await?;
    let proof = visitor.asker.may_watch(app, &row.stream, Some(&row.id)).await?;
    Ok((row, proof))
}

/// What was said while a broadcast ran, unless its stream has no chat any more.
async fn past_of<'a>(app: &'a App, row: &'a BroadcastRow) -> Result<Past<'a>, Problem> {
    let past = Past::of_broadcast(&*app.meta, row).await?;
    let is_on = past.known().settings.enabled.unwrap_or(app.chats.enabled);
    is_on.then_some(past).ok_or_else(no_chat)
}

/// A page of what was said while a broadcast ran.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatReplay)]
struct Replay {
    messages: Vec<Said>,
    /// Where to go on, where there are more: as `after`, or as `before` for those that are older.
    next: Option<EventId>,
}

/// Tells what was said while a broadcast ran, some of it.
#[utoipa::path(
    get, path = "/api/v1/broadcasts/{id}/chat", operation_id = "replay_chat",
    params(OfBroadcast, Wanted),
    responses((status = 200, body = Replay)),
)]
pub(super) async fn replay(
    State(app): Shared,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let (row, proof) = known(&app, &id, &visitor).await?;
    let past = past_of(&app, &row).await?;
    let page = past.page(wanted.from()?, wanted.limit.unwrap_or(SHOWN).clamp(1, SHOWN_MAX)).await?;
    let messages = page.messages.into_iter().map(Said::new).collect();
    Ok(answer(proof, &Replay { messages, next: page.next }))
}

/// Tells all that was said while a broadcast ran: JSON lines, each a message as `GET .../chat` tells it.
#[utoipa::path(
    get, path = "/api/v1/broadcasts/{id}/chat.jsonl", operation_id = "export_chat",
    params(OfBroadcast),
    responses((status = 200, body = String, content_type = "application/x-ndjson")),
)]
pub(super) async fn export(State(app): Shared, Path(id): Path<String>, visitor: Visitor) -> Result<Response, Problem> {
    let (row, _) = known(&app, &id, &visitor).await?;
    past_of(&app, &row).await?;
    let name = format!("attachment; filename=\"{}-{}-chat.jsonl\"", row.stream, row.id);
    let pages = stream::try_unfold(Some(EventId(0)), move |from| {
        let (app, row) = (app.clone(), row.clone());
        async move {
            let Some(from) = from else { return Ok::<_, store::Error>(None) };
            let page = Past::of_broadcast(&*app.meta, &row).await?.page(From::After(from), SHOWN_MAX).await?;
            let line = |message| serde_json::to_string(&Said::new(message)).expect("plain data") + "\n";
            let lines: String = page.messages.into_iter().map(line).collect();
            Ok(Some((Bytes::from(lines), page.next)))
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}
