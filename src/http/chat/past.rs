//! What was said before: the history of a room, and the chat of a recording.

use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{no_chat, no_store, who::Visitor};
use crate::{
    chat::{
        Event, Message,
        past::{From, Past},
    },
    http::{
        App, Shared,
        problem::Problem,
        recordings::{Role as Proof, answer},
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

#[derive(Debug, Deserialize)]
pub(super) struct Before {
    /// Where the page before it said to go on.
    #[serde(default)]
    pub before: Option<EventId>,
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Messages from the newest back.
pub(super) async fn history(
    State(app): Shared,
    Path(id): Path<String>,
    Query(Before { before, limit }): Query<Before>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let (stream, _) = app.chat_room(&id, &visitor).await?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let past = Past::of_room(&*app.meta, &stream).await?;
    let page = past.page(From::Before(before.unwrap_or(EventId::MAX)), limit).await?;
    let messages: Vec<_> = page.messages.into_iter().map(Event::Message).collect();
    Ok(no_store(json!({ "messages": messages, "next": page.next }).to_string()))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// From this time on (RFC 3339).
    #[serde(default)]
    from: Option<String>,
    /// Before this time.
    #[serde(default)]
    until: Option<String>,
    /// Those after this one, or before it.
    #[serde(default)]
    after: Option<EventId>,
    #[serde(default)]
    before: Option<EventId>,
    #[serde(default)]
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

/// A message with the time at which it was written.
#[derive(Debug, Serialize)]
struct Said {
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

/// What was said while a broadcast ran, some of it.
pub(super) async fn replay(
    State(app): Shared,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let (row, proof) = known(&app, &id, &visitor).await?;
    let past = past_of(&app, &row).await?;
    let page = past.page(wanted.from()?, wanted.limit.unwrap_or(SHOWN).clamp(1, SHOWN_MAX)).await?;
    let messages: Vec<_> = page.messages.into_iter().map(Said::new).collect();
    Ok(answer(proof, &json!({ "messages": messages, "next": page.next })))
}

/// All that was said while a broadcast ran, as JSON lines.
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
