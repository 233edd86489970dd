//! The web pages, built from `web/` and embedded in the binary.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{Embed, EmbeddedFile};

use super::{App, problem::Problem};

#[derive(Embed)]
#[folder = "$CARGO_MANIFEST_DIR/web/dist"]
#[allow_missing = true]
struct Dist;

/// Scripts and styles only from here; the player needs blobs for media and its worker.
const CSP: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; \
    form-action 'self'; frame-ancestors *";

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(|| async { page("index.html") }))
        .route("/watch/{stream}", get(|| async { page("watch.html") }))
        .route("/watch/{stream}/{broadcast}", get(|| async { page("watch.html") }))
        .route("/chat/{stream}", get(|| async { page("chat.html") }))
        .route("/overlay/{stream}/chat", get(|| async { page("overlay.html") }))
        .route("/studio/{stream}", get(|| async { page("studio.html") }))
        .route("/assets/{*path}", get(asset))
        .route("/favicon.svg", get(|| async { plain("favicon.svg") }))
}

fn page(name: &str) -> Response {
    let Some(file) = Dist::get(name) else {
        let why = "the web pages were not built into this binary: run `make web` and build again";
        return Problem::new(StatusCode::NOT_FOUND, why).into_response();
    };
    let mut response = body(name, file);
    let headers = response.headers_mut();
    // What a stream plays has its picture wherever its streamer says.
    let policy = if name == "watch.html" { CSP.replace("img-src", "img-src https:") } else { CSP.to_owned() };
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("plain words"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn asset(Path(path): Path<String>) -> Response {
    let name = format!("assets/{path}");
    let Some(file) = Dist::get(&name) else { return Problem::not_found("no such page").into_response() };
    let mut response = body(&name, file);
    // Asset names carry a hash of their content.
    let cache = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    response
}

fn plain(name: &str) -> Response {
    Dist::get(name).map_or_else(|| Problem::not_found("no such page").into_response(), |file| body(name, file))
}

fn body(name: &str, file: EmbeddedFile) -> Response {
    let kind = mime_guess::from_path(name).first_or_octet_stream();
    let kind = if kind.type_() == mime_guess::mime::TEXT { format!("{kind}; charset=utf-8") } else { kind.to_string() };
    ([(header::CONTENT_TYPE, kind)], file.data).into_response()
}
