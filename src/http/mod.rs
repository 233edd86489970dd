//! HTTP for viewers, operators and the command line: routes only. Each parses, calls one module, translates its error.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use quick_cache::sync::Cache as Cached;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tower_http::cors::{Any, CorsLayer};
use utoipa_axum::router::OpenApiRouter;

pub mod api;
mod asker;
mod audience;
pub mod chat;
mod content;
mod events;
mod extract;
mod feed;
pub mod front;
mod hls;
mod hooks;
mod link;
mod nodes;
pub mod now;
pub mod openapi;
mod ops;
mod pace;
mod pages;
mod problem;
mod recordings;
pub mod reports;
pub mod serve;
mod tickets;
pub mod tls;
mod viewer;

use crate::{
    audience::{now::Playing, pending::Pending},
    auth,
    cache::{
        Cache,
        link::{Access, Links},
    },
    hooks::{Hooks, ask::Asker},
    id::StreamId,
    line::{Lines, Text, announce::Announcements},
    recording::{Archive, Jobs, Library, Pictures},
    store::{AccessRow, Meta, NodeRow, health::Health},
    time::Timestamp,
};
pub use feed::KICK;
use openapi::headed;
pub use ops::Readiness;
pub use viewer::Peer;

/// The nodes that share the streams.
pub trait Cluster: Send + Sync + 'static {
    /// All registered nodes, each with whether it answers.
    fn nodes(&self) -> Vec<(NodeRow, bool)>;
    /// Ends a stream's session at whichever other node it is.
    fn kick(&self, stream: &StreamId);
}

/// What the routes use.
pub struct App {
    /// Name of this node.
    pub node: String,
    pub lines: Lines,
    pub archive: Arc<Archive>,
    pub library: Library,
    pub jobs: Jobs,
    /// Posters and storyboards; `None` where none are made.
    pub pictures: Option<Pictures>,
    pub chats: chat::Chats,
    pub viewers: reports::Viewers,
    /// Lists of what is live, by the query that asked for them.
    pub directories: Cached<String, (Timestamp, Arc<Text>)>,
    /// What was counted and is not stored yet.
    pub counted: Pending,
    pub playing: Playing,
    /// Places for those who are told what plays as it changes: each takes one of the requests that are answered at a time.
    pub listeners: Arc<Semaphore>,
    pub meta: Arc<dyn Meta>,
    pub health: Arc<Health>,
    pub readiness: Readiness,
    pub admin: auth::Secret,
    pub tickets: auth::tickets::Tickets,
    /// The backend that alone decides who may watch (`auth.play_url`).
    pub asker: Option<Arc<Asker>>,
    /// Who is told what happens here.
    pub hooks: Hooks,
    /// Addresses that viewers are behind (`http.trusted_proxies`).
    pub proxies: Vec<ipnet::IpNet>,
    /// Streams need a ticket unless they are set otherwise (`auth.playback = "ticket"`).
    pub ticketed: bool,
    /// Whoever may watch may cut clips (`auth.clips = "viewers"`).
    pub viewers_clip: bool,
    /// What nodes prove themselves with (`internal.secret`).
    pub internal_secret: Option<auth::Secret>,
    /// What other nodes have; `None` without upstreams.
    pub cache: Option<Cache>,
    /// What other nodes say; there when there is a cache.
    pub links: Option<Arc<Links>>,
    /// The cluster that this node belongs to, if it does.
    pub peers: Option<Arc<dyn Cluster>>,
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
    /// A stream that has no row may publish (`auth.publish = "open"`, `auth.publish_url`).
    pub open: bool,
    /// Who may publish, in a word: `keys`, `open` or `url`.
    pub publish: &'static str,
    /// Nominal chunk duration: playlists may be cached for half of it.
    pub chunk: Duration,
    /// RTMP port, for the addresses that are told to streamers; `None` when this node takes none.
    pub rtmp_port: Option<u16>,
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    pub started: Timestamp,
    /// Answers that would never end, end now.
    pub stopping: CancellationToken,
    /// Has the node stop, as a signal would.
    pub drain: CancellationToken,
}

type Shared = State<Arc<App>>;

/// All public routes (DESIGN section 10) but media, which [`front`] answers before it comes here.
pub fn router(app: Arc<App>) -> Router {
    let media = Router::new()
        .route("/hls/{*object}", any(only_reads))
        .route("/ticket/hls/{stream}/{*rest}", get(hls::ticket))
        .layer(open_to_pages());
    let (routes, document) = api_routes().split_for_parts();
    let document = Arc::new(Text::new(openapi::completed(document).to_json().expect("plain data")));
    routes
        .merge(media)
        .merge(pages::routes())
        .route(openapi::PATH, get(async move |headers: HeaderMap| openapi::answer(&document, &headers)))
        .fallback(|| async { problem::Problem::not_found("no such page") })
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn(common))
        .with_state(app)
}

/// The routes that the document of the API tells of.
fn api_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(headed("Streams", api::routes()))
        .merge(headed("Recordings", recordings::routes()))
        .merge(headed("Chat", chat::routes()))
        .merge(headed("Audience", audience::routes()))
        .merge(headed("Now playing", now::routes().layer(open_to_pages())))
        .merge(headed("Tickets", tickets::routes()))
        .merge(headed("Webhooks", hooks::routes()))
        .merge(headed("Operation", ops::admin_routes().merge(ops::routes())))
}

/// The document of the API, as JSON.
pub fn document() -> String {
    openapi::completed(api_routes().into_openapi()).to_pretty_json().expect("plain data")
}

/// Any page may play a stream and show what it plays; the rest of the API is not for other origins' scripts.
fn open_to_pages() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::OPTIONS])
        .allow_headers([header::RANGE, header::IF_NONE_MATCH])
        .expose_headers([header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ETAG, header::DATE])
        .max_age(Duration::from_secs(86_400))
}

/// The routes of the internal port but media, which needs no ticket there.
pub fn internal_router(app: Arc<App>) -> Router {
    Router::new()
        .route(crate::cache::link::PATH, get(link::link))
        .route(&format!("{}{{stream}}", crate::cluster::feed::PATH), post(feed::feed))
        .route(&format!("{}{{stream}}", feed::KICK), post(feed::kick))
        .merge(Router::from(ops::routes()))
        .merge(chat::internal_routes())
        .merge(audience::internal_routes())
        .merge(now::internal_routes())
        .fallback(|| async { problem::Problem::not_found("no such thing on the internal port") })
        .layer(middleware::from_fn(common))
        .with_state(app)
}

/// Headers that every answer has.
async fn common(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    guard(headers);
    response
}

/// Nothing is guessed from bytes, and no address, which may hold a ticket, is told to other sites.
fn guard(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

async fn not_so(method: Method) -> impl IntoResponse {
    problem::Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for this path"))
}

async fn only_reads() -> impl IntoResponse {
    let problem = problem::Problem::new(StatusCode::METHOD_NOT_ALLOWED, "media is read: GET or HEAD");
    ([(header::ALLOW, "GET, HEAD, OPTIONS")], problem)
}
