//! HTTP for viewers, operators and the command line: routes only. Each parses, calls one module, translates its error.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{Any, CorsLayer};

pub mod api;
mod content;
mod hls;
mod link;
mod ops;
mod pages;
mod problem;
pub mod serve;
mod tickets;
mod viewer;

use crate::{
    auth,
    cache::{
        Cache,
        link::{Access, Links},
    },
    line::{Lines, announce::Announcements, archive::Archive},
    store::{AccessRow, Meta, health::Health},
    time::Timestamp,
};
pub use ops::Readiness;
pub use viewer::Peer;

/// What the routes use.
pub struct App {
    /// Name of this node.
    pub node: String,
    pub lines: Lines,
    pub archive: Archive,
    pub meta: Arc<dyn Meta>,
    pub health: Arc<Health>,
    pub readiness: Readiness,
    pub admin: auth::Secret,
    pub tickets: auth::tickets::Tickets,
    /// Streams need a ticket unless they are set otherwise (`auth.playback = "ticket"`).
    pub ticketed: bool,
    /// What nodes prove themselves with (`internal.secret`).
    pub internal_secret: Option<auth::Secret>,
    /// What other nodes have; `None` without upstreams.
    pub cache: Option<Cache>,
    /// What other nodes say; there when there is a cache.
    pub links: Option<Arc<Links>>,
    /// Who may watch, as this node knows it, for the edges that have it as upstream.
    pub access: watch::Sender<Access>,
    /// What the store says of that.
    pub access_rows: Mutex<Vec<AccessRow>>,
    /// What pushed streams list, from here or from upstream.
    pub announcements: Announcements,
    /// This node makes chunks.
    pub is_origin: bool,
    /// Names this process to other nodes, in `Via`.
    pub via: String,
    /// Any stream name may publish (`auth.publish = "open"`).
    pub open: bool,
    /// Nominal chunk duration: playlists may be cached for half of it.
    pub chunk: Duration,
    /// RTMP port, for the addresses that are told to streamers; `None` when this node takes none.
    pub rtmp_port: Option<u16>,
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    pub started: Timestamp,
    /// Answers that would never end, end now.
    pub stopping: CancellationToken,
}

type Shared = State<Arc<App>>;

/// All public routes (DESIGN section 10).
pub fn router(app: Arc<App>) -> Router {
    // Any page may play a stream; only the API's answers are not for other origins' scripts.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::OPTIONS])
        .allow_headers([header::RANGE, header::IF_NONE_MATCH])
        .expose_headers([header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ETAG, header::DATE])
        .max_age(Duration::from_secs(86_400));
    let hls = Router::new()
        .route("/hls/{*object}", get(hls::object))
        .route("/ticket/hls/{stream}/{*rest}", get(hls::ticket))
        .layer(cors);
    Router::new()
        .merge(hls)
        .merge(api::routes())
        .merge(tickets::routes())
        .merge(ops::routes())
        .merge(pages::routes())
        .fallback(|| async { problem::Problem::new(StatusCode::NOT_FOUND, "no such page") })
        .layer(middleware::from_fn(common))
        .with_state(app)
}

/// The routes of the internal port: media without tickets, and the link, for nodes that know the secret.
pub fn internal_router(app: Arc<App>) -> Router {
    let for_nodes = Router::new()
        .route("/hls/{*object}", get(hls::object))
        .route(crate::cache::link::PATH, get(link::link))
        .layer(middleware::from_fn_with_state(app.clone(), link::only_nodes));
    Router::new()
        .merge(for_nodes)
        .merge(ops::routes())
        .fallback(|| async { problem::Problem::not_found("no such thing on the internal port") })
        .layer(middleware::from_fn(common))
        .with_state(app)
}

/// Headers that every answer has, and the count of answers.
async fn common(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    metrics::counter!("weir_http_requests_total", "status" => class(response.status())).increment(1);
    response
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
