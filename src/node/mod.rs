//! A node: the one place that joins the modules, starts them in order and stops them in order.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

mod counting;
mod gate;
mod hooks;
mod peers;
mod stores;
mod welcome;

use peers::{Peers, Place, Upstreams};
pub use stores::Opened;

use crate::{
    audience::{self, Audience, now::Playing, pending::Pending, tell::Teller},
    auth,
    cache::{
        self, Cache,
        link::{Links, News},
        upstream::Nodes,
    },
    chat,
    config::{self, Config},
    hooks::watch::Watcher,
    http::{self, App, Peer, Readiness, front::Front, serve::serve as serve_http, tls::Tls},
    ingest::{Gate, Ingest, relay::Relays},
    line::{
        self, Lines,
        announce::{Announcements, BACKLOG},
    },
    recording::{Archive, Jobs, Library, Pictures, Policy},
    rtmp,
    time::now,
    transcode,
};

/// The open chunks must be finished and stored by then after the first signal.
const LINES_PATIENCE: Duration = Duration::from_secs(7);
/// Before that, other nodes have so long to take the streams of this one.
const HAND_OVER: Duration = Duration::from_secs(5);
/// And publishers that know how have so long to go on elsewhere: they do at a keyframe, and OBS sends one each 8.3 s.
const MOVES: Duration = Duration::from_secs(10);
/// Viewers' running requests get this long after that.
const HTTP_PATIENCE: Duration = Duration::from_millis(1500);
/// How long publishers' bytes are collected at most: a third of a default part, with room for rounding.
const PACE_MAX: Duration = Duration::from_millis(112);
/// A revoked ticket must be refused by every node within 2 s.
const ACCESS_EVERY: Duration = Duration::from_secs(1);
/// Objects that an edge may be fetching: some ten for each of 400 streams that start at once.
const FILLS_MAX: usize = 4096;
/// Broadcasts and recordings that are watched at a time.
const CROWDS_MAX: usize = 20_000;
/// Each line's replay ring: three chunks and a long GOP of a 20 Mb/s stream.
const RING_BYTES: usize = 32 << 20;

/// Runs a node until it is told to stop (SIGTERM or SIGINT; a second one stops it at once).
pub async fn serve(config: Config) -> Result<()> {
    let node = Node::start(config).await?;
    let (signalled, drained) = (stop_signal()?, node.app.drain.clone());
    tokio::select! {
        () = signalled => {}
        () = drained.cancelled() => info!("told to drain"),
    }
    info!("stopping: finishing the open chunks; a second signal stops at once");
    let again = stop_signal()?;
    tokio::select! {
        () = node.stop() => info!("stopped"),
        () = again => {
            warn!("stopped at once");
            std::process::exit(130);
        }
    }
    Ok(())
}

fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

struct Node {
    /// `data.dir`.
    data: PathBuf,
    app: Arc<App>,
    lines: Lines,
    ingest: Arc<Ingest>,
    opened: Opened,
    peers: Option<Arc<Peers>>,
    rtmp: rtmp::server::Stop,
    no_more_viewers: CancellationToken,
    servers: TaskTracker,
}

impl Node {
    async fn start(config: Config) -> Result<Self> {
        let started = now();
        if let Err(why) = rtmp::server::raise_fd_limit() {
            warn!(%why, "the limit of open files stays as it is");
        }
        let metrics = metrics_exporter_prometheus::PrometheusBuilder::new()
            .install_recorder()
            .context("cannot start the metrics recorder")?;

        // Addresses first: a second node on the same machine should learn about the port, not about the store's lock.
        let has = |role| config.node.roles.contains(&role);
        let is_origin = has(config::Role::Origin);
        let rtmp_listener = match has(config::Role::Gateway) {
            true => Some(bind("rtmp.listen", config.rtmp.listen).await?),
            false => None,
        };
        let http_listener = bind("http.listen", config.http.listen).await?;
        let https = match (&config.https.certificate, &config.https.key) {
            (Some(certificate), Some(key)) => {
                let tls = Tls::load(certificate, key).context("https.certificate and https.key cannot be used")?;
                Some((bind("https.listen", config.https.listen).await?, tls))
            }
            _ => None,
        };
        let internal_listener = bind("internal.listen", config.internal.listen).await?;
        let rtmp_addr = rtmp_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let http_addr = http_listener.local_addr()?;

        let dir = &config.data.dir;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make data.dir {}", dir.display()))?;
        let token_file = dir.join("admin.token");
        let admin = auth::admin::ensure_token_file(&token_file)
            .with_context(|| format!("cannot write the admin token {}", token_file.display()))?;
        let opened = Opened::open(&config).await?;
        let stores = opened.stores.clone();

        let open = config.auth.publish == config::Publish::Open;
        // An empty ladder needs no encoder on this machine.
        let transcoding = match config.ladder.is_empty() || !is_origin {
            true => None,
            false => Some(
                transcode::Pool::start(&config.transcoding(), config.live.chunk)
                    .await
                    .context("the ladder cannot be encoded (`--set 'ladder=[]'` serves the source alone)")?,
            ),
        };
        let via = format!("weir-{:016x}", rand::random::<u64>());
        let pulling = config.pulling(&via);
        let peers = match (&pulling, config.is_clustered(), config.host()) {
            (Some((nodes, _, links)), true, Some(host)) => {
                let (internal, http) = (internal_listener.local_addr()?.port(), http_addr.port());
                let place = Place { host, internal, http, rtmp: rtmp_addr.map(|address| address.port()) };
                let me = place.row(&config.node.id, is_origin, config.node.weight);
                Some(Peers::join(me, stores.meta.clone(), nodes.clone(), links.clone()).await?)
            }
            _ => None,
        };
        let announcements = Announcements::new(BACKLOG);
        let others = peers.clone().map(|peers| peers as Arc<dyn line::Peers>);
        let lines = Lines::new(config.lines(), stores.clone(), transcoding, announcements.clone(), others);
        if let Some(peers) = &peers {
            peers.has(lines.clone());
        }
        let links = pulling.as_ref().map(|(.., links)| links.clone());
        let upstreams = pulling.as_ref().filter(|_| !is_origin).map(|(nodes, ..)| nodes.clone());
        let playing = Playing::new(stores.meta.clone(), links, upstreams);
        lines.lists(Arc::new(playing.clone()));
        let (servers, no_more_viewers) = (TaskTracker::new(), CancellationToken::new());
        let (told, asks) = hooks::open(&config, &servers, no_more_viewers.clone()).await?;
        let publish_asker = asks.clone().filter(|asker| asker.asks_of_publishers());
        let (open, publish) = match (&publish_asker, open) {
            (Some(_), _) => (true, "url"),
            (None, true) => (true, "open"),
            (None, false) => (false, "keys"),
        };
        let gate: Arc<dyn Gate> = match (publish_asker, open) {
            (Some(asker), _) => Arc::new(gate::Asked { asker, meta: stores.meta.clone() }),
            (None, true) => Arc::new(gate::Open(stores.meta.clone())),
            (None, false) => Arc::new(gate::Keys(stores.meta.clone())),
        };
        let chunk_ms = config.live.chunk.as_millis() as u32;
        let relays =
            peers.clone().map(|route| Relays { route, chunk_ms, standby: config.live.standby, ring_bytes: RING_BYTES });
        let ingest = Arc::new(Ingest::new(lines.clone(), gate, chunk_ms, relays, Arc::new(playing.clone())));
        let nodes = pulling.as_ref().map(|(nodes, ..)| nodes.clone());
        let (cache, links) = pulling.map(|(_, cache, links)| (cache, links)).unzip();
        let rtmp = rtmp::server::Stop::default();

        let archive = Arc::new(Archive::new(stores.clone()));
        let library = Library::new(stores.clone(), lines.clone(), archive.clone());
        let pictures = match config.recording.pictures {
            true => {
                let stills = transcode::Stills::new().context("the path of this program is not known")?;
                Some(Pictures::new(stores.clone(), lines.clone(), archive.clone(), stills))
            }
            false => None,
        };
        let (chats, audiences) = (config.chat.keep, config.audience.keep);
        let policy =
            Policy { keep: config.recording.keep, bytes_max: config.recording.disk_mb << 20, chats, audiences };
        let jobs = Jobs::new(library.clone(), config.node.id.clone(), policy);
        let places: Arc<dyn chat::Places> = match (&peers, &links) {
            (Some(peers), _) => peers.clone(),
            (None, Some(links)) if !is_origin => Arc::new(Upstreams::new(links.clone())),
            _ => Arc::new(chat::Alone::default()),
        };
        let others: Option<Arc<dyn audience::tell::Others>> = match (&peers, &links) {
            (Some(peers), _) => Some(peers.clone()),
            (None, Some(links)) if !is_origin => Some(Arc::new(Upstreams::new(links.clone()))),
            _ => None,
        };
        let counting = config.counting(&via, is_origin, others.is_some(), &admin);
        let audience = Audience::new(counting);
        let teller = others.zip(nodes.clone()).map(|(others, nodes)| Teller::new(audience.clone(), nodes, others));
        let sockets_max = config.chat.max_sockets as usize;
        let rooms = chat::Rooms::new(stores.meta.clone(), places, nodes, sockets_max, no_more_viewers.clone());
        let keep_chats = is_origin.then(|| rooms.keep(config.chat.keep));
        let app = Arc::new(App {
            node: config.node.id.clone(),
            chats: http::chat::Chats::new(rooms, config.chat.enabled),
            viewers: http::reports::Viewers::new(audience, config.live.even_part()),
            counted: Pending::default(),
            directories: quick_cache::sync::Cache::new(http::api::DIRECTORIES),
            playing,
            listeners: Arc::new(Semaphore::new(config.http.requests_max as usize / 2)),
            lines: lines.clone(),
            library,
            jobs: jobs.clone(),
            pictures,
            archive,
            meta: stores.meta.clone(),
            health: stores.health.clone(),
            readiness: Readiness::default(),
            admin,
            tickets: auth::tickets::Tickets::default(),
            asker: asks.filter(|asker| asker.asks_of_viewers()),
            hooks: told.clone(),
            viewers_clip: config.auth.clips == config::Clips::Viewers,
            proxies: config.http.trusted_proxies.clone(),
            ticketed: config.auth.playback == config::Playback::Ticket,
            internal_secret: config.internal.secret.clone(),
            cache,
            links: links.clone(),
            peers: peers.clone().map(|peers| peers as Arc<dyn http::Cluster>),
            access: watch::Sender::default(),
            access_rows: Mutex::default(),
            announcements,
            is_origin,
            via,
            open,
            publish,
            chunk: config.live.chunk,
            rtmp_port: rtmp_addr.map(|address| address.port()),
            metrics: Arc::new(move || metrics.render()),
            started,
            stopping: no_more_viewers.clone(),
            drain: CancellationToken::new(),
        });
        // Nobody is let in by what is not known yet.
        app.reload_access().await.context("cannot read who may watch")?;
        let stop = || no_more_viewers.clone();
        let requests_max = config.http.requests_max as usize;
        let public = Front::new(app.clone(), http::router(app.clone()), requests_max);
        let internal = Front::new(app.clone(), http::internal_router(app.clone()), requests_max);
        let connections = config.http.connections_max as usize;
        let limits = http::serve::Limits { connections, per_address: config.http.connections_per_address as usize };
        if let Some((listener, tls)) = https {
            servers.spawn(tls.clone().watch(stop()));
            let public = public.clone();
            servers.spawn(serve_http(listener, public, Peer::Public, limits, Some(tls), stop(), HTTP_PATIENCE));
        }
        servers.spawn(serve_http(http_listener, public, Peer::Public, limits, None, stop(), HTTP_PATIENCE));
        // Nodes of one cluster may share an address.
        let limits = http::serve::Limits { per_address: connections, ..limits };
        servers.spawn(serve_http(
            internal_listener,
            internal,
            |_| Peer::Node { detour: false },
            limits,
            None,
            stop(),
            HTTP_PATIENCE,
        ));
        servers.spawn(watch_access(app.clone(), stop()));
        servers.spawn(Opened::run(opened.remote(), stop()));
        if let Some(peers) = &peers {
            servers.spawn(peers.clone().run(app.clone(), servers.clone(), stop()));
        }
        if let Some(links) = links {
            for upstream in 0..config.edge.upstream.len() {
                let app = app.clone();
                let told = move |news: News| app.hear(news);
                servers.spawn(links.clone().hold(upstream, stop(), told));
            }
        }

        // What is not taken up ended while nobody looked.
        let ended = async { stores.meta.open_broadcasts().await.context("cannot read what was running") };
        let ended = if told.is_on() && is_origin { ended.await? } else { Vec::new() };
        // What was running is taken up before its encoder can come back.
        lines.recover().await.context("cannot take up the broadcasts that were running")?;
        if told.is_on() {
            let watcher = Watcher {
                hooks: told,
                lines: lines.clone(),
                library: app.library.clone(),
                meta: stores.meta.clone(),
                health: stores.health.clone(),
                node: config.node.id.clone(),
                open: ended,
            };
            servers.spawn(watcher.run(stop()));
        }
        if let Some(listener) = rtmp_listener {
            let settings = config.rtmp();
            servers.spawn(rtmp::server::Server::run(listener, ingest.clone(), settings, rtmp.clone()));
        }
        welcome::welcome(&stores.meta, &config, rtmp_addr, http_addr).await?;
        servers.spawn(jobs.run(stop()));
        if let Some(keep_chats) = keep_chats {
            servers.spawn(keep_chats.run(stop()));
        }
        counting::restore(&app, dir);
        servers.spawn(counting::run(app.clone(), teller, stop()));
        app.readiness.start();
        let data = dir.clone();
        Ok(Self { data, app, lines, ingest, opened, peers, rtmp, no_more_viewers, servers })
    }

    /// Stops in the order that loses nothing: no new work, open chunks finished and stored, viewers, store.
    async fn stop(self) {
        self.app.readiness.drain();
        if let Some(peers) = &self.peers {
            self.rtmp.no_more.cancel();
            self.hand_over(peers).await;
            if peers.can_hand_over() {
                self.move_publishers().await;
            }
        }
        self.rtmp.over.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.ingest.drained()).await;
        self.lines.close(LINES_PATIENCE).await;
        counting::close(&self.app, &self.data).await;
        self.no_more_viewers.cancel();
        let _ = tokio::time::timeout(HTTP_PATIENCE, self.app.chats.rooms.ended()).await;
        self.servers.close();
        let _ = tokio::time::timeout(HTTP_PATIENCE, self.servers.wait()).await;
        if let Err(why) = self.opened.flush().await {
            warn!(%why, "the store could not be flushed");
        }
    }
}

impl Node {
    /// Has other nodes go on with the streams that this one makes, as long as they take them.
    async fn hand_over(&self, peers: &Peers) {
        self.lines.drain();
        if let Err(why) = peers.tell().await {
            warn!(%why, "the store does not say that this node drains; the gateways hear it from its lines");
        }
        let until = now() + HAND_OVER;
        while self.lines.led() > 0 && peers.can_hand_over() && now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match self.lines.led() {
            0 => info!("no stream is made here any more"),
            left => warn!(left, "streams end here: no other node has taken them"),
        }
    }

    /// Has publishers that can go on at other nodes do so; those that cannot find one when they are closed.
    async fn move_publishers(&self) {
        match self.rtmp.movable() {
            0 => return,
            publishers => info!(publishers, "asked to go on at other nodes"),
        }
        if tokio::time::timeout(MOVES, self.rtmp.moved()).await.is_err() {
            warn!(publishers = self.rtmp.movable(), "have not gone, and are closed");
        }
    }
}

/// Learns what other nodes changed about who may watch.
async fn watch_access(app: Arc<App>, stop: CancellationToken) {
    let mut failing = false;
    while stop.run_until_cancelled(tokio::time::sleep(ACCESS_EVERY)).await.is_some() {
        match app.reload_access().await {
            Ok(()) => failing = false,
            Err(why) if !failing => {
                failing = true;
                warn!(%why, "cannot read who may watch: what was read before counts");
            }
            Err(_) => {}
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|why| match why.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "{key} = {address} is in use: another weir or another server listens there; stop it or set {key}"
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{key} = {address} needs rights this user lacks: use a port above 1023")
        }
        std::io::ErrorKind::AddrNotAvailable => anyhow::anyhow!("{key} = {address} is no address of this machine"),
        _ => anyhow::Error::new(why).context(format!("cannot listen on {key} = {address}")),
    })
}

impl Config {
    fn lines(&self) -> line::Config {
        line::Config {
            node: self.node.id.clone(),
            alone: self.store.kind == config::stores::Kind::Embedded,
            chunk: self.live.chunk,
            part: self.live.even_part(),
            window: self.live.window as usize,
            reconnect_window: self.live.reconnect_window,
            ladder: self.ladder.clone(),
            ring_bytes: RING_BYTES,
        }
    }

    /// How viewers are counted.
    fn counting(&self, via: &str, is_origin: bool, shares: bool, admin: &auth::Secret) -> audience::Config {
        let settings = &self.audience;
        audience::Config {
            node: self.node.id.clone(),
            process: via.to_owned(),
            limits: audience::Limits {
                sessions: settings.sessions_max as usize,
                per_address: settings.sessions_per_address,
                crowds: CROWDS_MAX,
            },
            reports_max: settings.reports_max,
            shares,
            knows_all: is_origin,
            // Nodes of one cluster have a secret in common; one that is alone has its own.
            secret: self.internal.secret.clone().unwrap_or_else(|| admin.clone()),
        }
    }

    /// The ways to other nodes, the pull cache and the links of a node that has upstreams or others beside it.
    fn pulling(&self, via: &str) -> Option<(Arc<Nodes>, Cache, Arc<Links>)> {
        let upstreams = self.edge.upstream.clone();
        if upstreams.is_empty() && !self.is_clustered() {
            return None;
        }
        let limits = cache::Limits {
            memory: u64::from(self.edge.memory_mb) << 20,
            waiters: self.edge.waiters_max as usize,
            fills: FILLS_MAX,
            chunk: self.live.chunk,
        };
        let count = upstreams.len();
        let nodes = Nodes::new(upstreams, self.internal.secret.as_ref(), via);
        let cache = Cache::new(nodes.clone(), count, limits);
        let links = Links::new(nodes.clone(), cache.clone(), via, self.is_clustered());
        Some((nodes, cache, links))
    }

    fn rtmp(&self) -> rtmp::Config {
        let part = self.live.even_part();
        rtmp::Config {
            listen: self.rtmp.listen,
            idle_timeout: self.rtmp.idle_timeout,
            first_media_timeout: self.rtmp.first_media_timeout,
            half_open_max: self.rtmp.half_open_max as usize,
            publishers_max: self.rtmp.publishers_max as usize,
            // A whole number of times per part: players that wait for parts get them at even distances.
            pace: part / part.div_duration_f64(PACE_MAX).ceil() as u32,
            ..rtmp::Config::default()
        }
    }

    fn transcoding(&self) -> transcode::Config {
        transcode::Config {
            family: self.transcode.family,
            pipelines: self.transcode.pipelines.clone(),
            cpu_share: self.transcode.cpu_share as f32,
            ..transcode::Config::default()
        }
    }
}
