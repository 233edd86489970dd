//! The document of the API (OpenAPI 3.1), made from the routes and from the types of what they take and answer.
//!
//! Each group of routes tells of itself (`#[utoipa::path]` beside its handlers); what all of them have in common is added here.

use axum::http::{HeaderMap, HeaderValue, Response};
use utoipa::{
    IntoParams, OpenApi,
    openapi::{
        ContentBuilder, OpenApi as Document, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;

use super::{content, problem::Body};
use crate::{
    id::{BroadcastId, StreamId},
    line::Text,
};

/// Where the document is.
pub const PATH: &str = "/api/v1/openapi.json";
/// What goes wrong is told in this way, wherever it does.
const PROBLEM: &str = "Problem";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Weir",
        description = "Live video and audio: streams, recordings, chat, audiences. What is not found here is no part of the API: \
            media is fetched as playlists say (RFC 8216). Times are RFC 3339 in UTC unless a field says otherwise. Objects may get \
            further fields in later releases of the same version of the API.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Body))
)]
struct Base;

/// The document without any routes.
pub fn base() -> Document {
    let mut base = Base::openapi();
    let bearer = |text: &str| {
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build())
    };
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
        "weir_chat",
        "who somebody is in chats, as POST .../chat/me sets it",
    )));
    let components = base.components.get_or_insert_default();
    components.add_security_scheme("admin", bearer("the node's admin token"));
    components.add_security_scheme("key", bearer("the key of the stream"));
    components
        .add_security_scheme("program", bearer("a token that POST .../chat/bots made for a program of the stream"));
    components.add_security_scheme("person", bearer("a token that POST .../chat/me gave with a name"));
    components.add_security_scheme("cookie", cookie);
    let problem = ResponseBuilder::new()
        .description("What was wrong (RFC 9457)")
        .content("application/problem+json", ContentBuilder::new().schema(Some(Ref::from_schema_name(PROBLEM))).build())
        .build();
    components.responses.insert(PROBLEM.into(), problem.into());
    base
}

/// Answers with the document.
pub fn answer(document: &Text, headers: &HeaderMap) -> Response<axum::body::Body> {
    content::json(document, headers, HeaderValue::from_static("public, max-age=300")).map(axum::body::Body::new)
}

/// Completes the document of all routes.
pub fn completed(mut document: Document) -> Document {
    for operation in operations(&mut document) {
        let problem = RefOr::Ref(Ref::from_response_name(PROBLEM));
        operation.responses.responses.insert("default".into(), problem);
    }
    document
}

/// Puts routes under a heading.
pub fn headed<S>(heading: &str, mut routes: OpenApiRouter<S>) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    for operation in operations(routes.get_openapi_mut()) {
        operation.tags = Some(vec![heading.to_owned()]);
    }
    routes
}

fn operations(document: &mut Document) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|path| {
        [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch].into_iter().flatten()
    })
}

/// A stream that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub struct OfStream {
    /// Name of the stream.
    id: StreamId,
}

/// A broadcast that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub struct OfBroadcast {
    /// Id of the broadcast.
    id: BroadcastId,
}
