//! Pictures that a stream's chat has names for: `:name:` in a message is shown as one.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use imagesize::ImageType;
use serde::Serialize;
use utoipa::ToSchema;

use super::{operator, who::Visitor};
use crate::{
    chat::{
        Act,
        act::{Kind, Picture},
        known::Known,
    },
    http::{
        App, Shared,
        api::parse,
        content::{Fresh, fresh},
        extract::Path,
        openapi::OfStream,
        problem::Problem,
    },
    id::StreamId,
    media::Pieces,
    store::{self, emote_name},
};

/// Bytes of a picture, and its longer side.
pub(super) const BYTES_MAX: usize = 256 << 10;
const SIDE_MAX: usize = 512;

/// A picture with a name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatEmote)]
pub(super) struct Emote {
    name: String,
    /// Path of its picture.
    url: String,
}

impl Emote {
    fn new(stream: &StreamId, name: &str, picture: &Picture) -> Self {
        Self { name: name.to_owned(), url: format!("/api/v1/streams/{stream}/chat/emotes/{picture}") }
    }
}

/// The emotes of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatEmotes)]
pub(super) struct Emotes {
    emotes: Vec<Emote>,
}

/// Lists the emotes of a stream: `:name:` in a message is shown as the picture.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/emotes", operation_id = "list_emotes",
    params(OfStream),
    responses((status = 200, body = Emotes)),
)]
pub(super) async fn list(
    State(app): Shared,
    Path(id): Path<String>,
    visitor: Visitor,
) -> Result<Fresh<Emotes>, Problem> {
    let (stream, room) = app.chat_room(&id, &visitor).await?;
    let known = room.known();
    let emotes = known.emotes.iter().map(|(name, picture)| Emote::new(&stream, name, picture)).collect();
    Ok(fresh(Emotes { emotes }))
}

/// Gives an emote its picture, for whoever the stream belongs to. One that is refused leaves nothing behind.
#[utoipa::path(
    put, path = "/api/v1/streams/{id}/chat/emotes/{name}", operation_id = "put_emote",
    params(
        OfStream,
        ("name" = String, Path, pattern = "^[A-Za-z0-9_+-]{1,25}$", description = "What stands between the colons"),
    ),
    request_body(
        description = "A picture of 256 KB at most, no side longer than 512 pixels; it may move",
        content((String = "image/png"), (String = "image/gif"), (String = "image/webp")),
    ),
    responses((status = 201, body = Emote)),
    security(("key" = []), ("admin" = [])),
)]
pub(super) async fn put(
    State(app): Shared,
    Path((id, name)): Path<(String, String)>,
    visitor: Visitor,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Emote>), Problem> {
    let (stream, before) = owned(&app, &id, &name, &visitor).await?;
    let bytes = bytes.map_err(|why| Problem::new(why.status(), "a picture has at most 256 KB"))?;
    let unfit = |why: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why);
    let kind = match imagesize::image_type(&bytes) {
        Ok(ImageType::Png) => Kind::Png,
        Ok(ImageType::Gif) => Kind::Gif,
        Ok(ImageType::Webp) => Kind::Webp,
        _ => return Err(unfit("an emote is a PNG, GIF or WebP picture")),
    };
    let size = imagesize::blob_size(&bytes).map_err(|_| unfit("the picture cannot be read"))?;
    if size.width.max(size.height) > SIDE_MAX || size.width.min(size.height) == 0 {
        return Err(unfit("an emote is at most 512 pixels wide and high"));
    }
    let picture = Picture::of(&bytes, kind);
    app.library.blobs().put(&emote_name(&stream, &picture.to_string()), Pieces::from(bytes)).await?;
    let act = Act::Emote { name: name.clone(), picture: Some(picture.clone()) };
    let acted = app.chats.rooms.room(&stream).act(&operator(), None, act).await;
    let unused = if acted.is_ok() { before.filter(|before| *before != picture) } else { Some(picture.clone()) };
    app.let_go(&stream, unused).await;
    acted?;
    Ok((StatusCode::CREATED, Json(Emote::new(&stream, &name, &picture))))
}

/// Takes an emote away, for whoever the stream belongs to.
#[utoipa::path(
    delete, path = "/api/v1/streams/{id}/chat/emotes/{name}", operation_id = "delete_emote",
    params(
        OfStream,
        ("name" = String, Path, pattern = "^[A-Za-z0-9_+-]{1,25}$", description = "What stands between the colons"),
    ),
    responses((status = 204)),
    security(("key" = []), ("admin" = [])),
)]
pub(super) async fn delete(
    State(app): Shared,
    Path((id, name)): Path<(String, String)>,
    visitor: Visitor,
) -> Result<StatusCode, Problem> {
    let (stream, before) = owned(&app, &id, &name, &visitor).await?;
    let act = Act::Emote { name, picture: None };
    app.chats.rooms.room(&stream).act(&operator(), None, act).await?;
    app.let_go(&stream, before).await;
    Ok(StatusCode::NO_CONTENT)
}

/// A stream whose emotes the visitor may change, and what an emote of it is now.
async fn owned(
    app: &Arc<App>,
    id: &str,
    name: &str,
    visitor: &Visitor,
) -> Result<(StreamId, Option<Picture>), Problem> {
    app.must_have_store()?;
    let stream = parse(id)?;
    visitor.asker.must_own(app, &stream).await?;
    let (_, room) = app.chat_room(id, visitor).await?;
    Ok((stream, room.known().emotes.get(name).cloned()))
}

impl App {
    /// Deletes a picture that no emote of the stream is any more.
    async fn let_go(&self, stream: &StreamId, picture: Option<Picture>) {
        let Some(picture) = picture else { return };
        // From the store, which has it before it is known everywhere. Where that is silent the picture stays.
        let Ok(rules) = self.meta.chat_rules(stream).await else { return };
        if Known::of(&rules).emotes.values().any(|used| *used == picture) {
            return;
        }
        if let Err(why) = self.library.blobs().delete(&emote_name(stream, &picture.to_string())).await {
            tracing::warn!(%stream, %picture, %why, "the picture of an emote that is gone stays");
        }
    }
}

/// Shows a picture, for anyone who knows its name.
#[utoipa::path(
    get, path = "/api/v1/streams/{id}/chat/emotes/{name}", operation_id = "show_emote",
    params(OfStream, ("name" = Picture, Path, description = "Name of the picture, not of the emote")),
    responses((status = 200, content((String = "image/png"), (String = "image/gif"), (String = "image/webp")))),
)]
pub(super) async fn picture(State(app): Shared, Path((id, name)): Path<(String, String)>) -> Result<Response, Problem> {
    let none = |_| Problem::not_found("there is no such picture");
    let (stream, picture): (StreamId, Picture) = (parse(&id)?, name.parse().map_err(none)?);
    let bytes = match app.library.blobs().get(&emote_name(&stream, &name)).await {
        // A node without a store of its own.
        Err(store::Error::NotFound) if !app.is_origin => {
            let asked = app.chats.rooms.ask_host(&stream, &format!("emotes/{name}"), BYTES_MAX).await;
            asked.ok_or(store::Error::NotFound)
        }
        bytes => bytes,
    }?;
    let headers = [
        (header::CONTENT_TYPE, picture.kind().media_type()),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, bytes).into_response())
}
