//! The other nodes of a cluster, as this one knows them: registered in the store, heard on links, fed and asked for what they
//! have.
//!
//! Every node writes a row of itself and reads those of all others; it holds a link to each that makes chunks
//! ([`crate::cache::link`]), and one that answers there is alive. So a node is gone for exactly those who do not reach it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::Duration,
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyDataStream, BodyExt, Limited, StreamBody};
use hyper::{Request, StatusCode, Uri, body::Frame, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_util::{
    io::{ReaderStream, StreamReader},
    sync::CancellationToken,
    task::TaskTracker,
};
use tracing::{info, warn};
use url::Url;

use crate::{
    audience::tell::Others,
    cache::{
        link::{Links, News},
        upstream::Nodes,
    },
    chat,
    cluster::{
        failover::Node,
        feed::{CONTENT_TYPE, PATH, ROOM},
        view::{Member, View},
    },
    http::{self, App, Cluster},
    id::StreamId,
    ingest::{Route, lane::Io},
    line::{self, Lines},
    store::{self, Meta, NodeRow},
    time::{UnixMs, unix_now},
};

/// This node's row is written every other time, and the rows of all are read each time; in a cluster of several hundred each
/// n-th time, as otherwise all nodes' reading of all rows would grow with the square of their number.
const EVERY: Duration = Duration::from_secs(1);
/// So many nodes for each n.
const ROWS_EACH: usize = 100;
/// A node on the same network answers a connect in a millisecond.
const CONNECT: Duration = Duration::from_millis(200);
/// The words of a node that does not take a feed.
const REFUSAL_MAX: usize = 4 << 10;
/// A row that was written so recently is that of a node that runs.
const FRESH: Duration = Duration::from_secs(5);

/// See the module.
pub struct Peers {
    me: NodeRow,
    meta: Arc<dyn Meta>,
    nodes: Arc<Nodes>,
    links: Arc<Links>,
    lines: OnceLock<Lines>,
    // Held for look-ups only, never across an await.
    known: Mutex<BTreeMap<Node, Known>>,
    view: RwLock<Arc<View>>,
    /// Held by the one that makes the next view, while others use the one before.
    looks: Mutex<()>,
    rows: RwLock<Vec<NodeRow>>,
    changes: watch::Sender<()>,
}

/// A node that this one holds a link to.
struct Known {
    internal: String,
    upstream: usize,
    /// Ends the link.
    stop: CancellationToken,
}

impl Peers {
    /// The cluster of the node that `me` describes.
    ///
    /// # Errors
    /// The store does not answer, or another node that runs has this one's name.
    pub async fn join(me: NodeRow, meta: Arc<dyn Meta>, nodes: Arc<Nodes>, links: Arc<Links>) -> Result<Arc<Self>> {
        let rows = meta.nodes().await.context("cannot read which nodes there are")?;
        let same = rows.iter().find(|row| row.id == me.id && row.internal != me.internal);
        if let Some(same) = same.filter(|row| !row.draining && unix_now().since(row.beat) < FRESH) {
            anyhow::bail!(
                "node.id {:?} is that of a node which runs at {}: give this one another",
                me.id,
                same.internal
            );
        }
        let view = RwLock::new(Arc::new(View::new(Vec::new())));
        let peers = Self {
            me,
            meta,
            nodes,
            links,
            lines: OnceLock::new(),
            known: Mutex::default(),
            view,
            looks: Mutex::default(),
            rows: RwLock::new(Vec::new()),
            changes: watch::Sender::default(),
        };
        peers.meta.put_node(peers.row(0)).await.context("cannot register this node")?;
        Ok(Arc::new(peers))
    }

    /// Tells whose lines make chunks here.
    pub fn has(&self, lines: Lines) {
        // Once, at start.
        let _ = self.lines.set(lines);
    }

    /// This node's row, as it is now.
    fn row(&self, streams: usize) -> NodeRow {
        let draining = self.lines.get().is_some_and(Lines::is_draining);
        NodeRow { beat: unix_now(), streams: streams as u32, draining, ..self.me.clone() }
    }

    /// Writes this node's row at once.
    pub async fn tell(&self) -> store::Result<()> {
        let streams = self.lines.get().map_or(0, Lines::led);
        self.meta.put_node(self.row(streams)).await
    }

    /// Reads which nodes there are, and holds a link to each until `stop`. Ends then.
    pub async fn run(self: Arc<Self>, app: Arc<App>, tasks: TaskTracker, stop: CancellationToken) {
        let mut failing = false;
        for turn in 0u64.. {
            let told = if turn % 2 == 0 { self.tell().await } else { Ok(()) };
            let reads = turn % self.reads_each() == 0;
            let read = match told {
                Ok(()) if reads => self.meta.nodes().await.map(Some),
                told => told.map(|()| None),
            };
            match read {
                Ok(rows) => {
                    failing = false;
                    if let Some(rows) = rows {
                        self.know(rows, &app, &tasks, &stop);
                    }
                }
                Err(why) if !failing => {
                    failing = true;
                    warn!(%why, "cannot read which nodes there are: those that were read before count");
                }
                Err(_) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// The rows are read each so many times.
    fn reads_each(&self) -> u64 {
        1 + (self.view().members().len() / ROWS_EACH) as u64
    }

    fn know(self: &Arc<Self>, rows: Vec<NodeRow>, app: &Arc<App>, tasks: &TaskTracker, stop: &CancellationToken) {
        let mut known = self.known.lock().expect("no panic while held");
        let stays = |node: &Node, peer: &Known| {
            rows.iter().any(|row| *row.id == **node && row.internal == peer.internal && row.origin)
        };
        known.retain(|node, peer| {
            let stays = stays(node, peer);
            if !stays {
                info!(%node, "a node is no longer registered there");
                peer.stop.cancel();
            }
            stays
        });
        for row in rows.iter().filter(|row| row.origin && row.id != self.me.id) {
            let node: Node = row.id.as_str().into();
            if known.contains_key(&node) {
                continue;
            }
            let Ok(url) = Url::parse(&row.internal) else {
                warn!(%node, internal = row.internal, "a node is registered at an address that is none");
                continue;
            };
            info!(%node, internal = row.internal, "a node is registered");
            let (upstream, stop) = (self.links.add(&url), stop.child_token());
            let (peers, app) = (self.clone(), app.clone());
            let told = move |news: News| {
                if matches!(news, News::Alive) {
                    peers.look();
                }
                app.hear(news);
            };
            tasks.spawn(self.links.clone().hold(upstream, stop.clone(), told));
            known.insert(node, Known { internal: row.internal.clone(), upstream, stop });
        }
        {
            // Who writes its row runs, reached from here or not.
            let long = EVERY * self.reads_each() as u32;
            let before = self.rows.read().expect("no panic while held");
            let is_written = |row: &NodeRow| before.iter().any(|old| old.id == row.id && old.beat != row.beat);
            let written = rows.iter().filter(|row| is_written(row));
            written.filter_map(|row| known.get(row.id.as_str())).for_each(|peer| self.links.runs(peer.upstream, long));
        }
        drop(known);
        *self.rows.write().expect("no panic while held") = rows;
        self.look();
    }

    /// Looks who is there, and tells those who wait for a change.
    fn look(&self) {
        // A ring of very many nodes is not made in an instant.
        tokio::task::block_in_place(|| self.look_again());
    }

    fn look_again(&self) {
        let _looks = self.looks.lock().expect("no panic while held");
        let members: Vec<_> = {
            let known = self.known.lock().expect("no panic while held");
            let rows = self.rows.read().expect("no panic while held");
            let member = |row: &NodeRow| Member {
                id: row.id.as_str().into(),
                weight: row.weight,
                origin: row.origin,
                draining: row.draining,
                live: row.id == self.me.id
                    || known.get(row.id.as_str()).is_some_and(|peer| self.links.is_alive(peer.upstream)),
                streams: row.streams,
            };
            rows.iter().map(member).collect()
        };
        let before = self.view();
        if before.members() != members {
            let view = Arc::new(before.with(members));
            *self.view.write().expect("no panic while held") = view;
            self.changes.send_replace(());
        }
    }

    fn view(&self) -> Arc<View> {
        self.view.read().expect("no panic while held").clone()
    }

    /// Whether another node could take a stream.
    pub fn can_hand_over(&self) -> bool {
        let takes = |member: &Member| member.live && member.origin && !member.draining && *member.id != *self.me.id;
        self.view().members().iter().any(takes)
    }

    /// All registered nodes, each with whether it answers.
    pub fn all(&self) -> Vec<(NodeRow, bool)> {
        let view = self.view();
        let rows = self.rows.read().expect("no panic while held").clone();
        let is_live = |row: &NodeRow| view.member(&row.id).is_some_and(|member| member.live);
        rows.into_iter().map(|row| (row.clone(), is_live(&row))).collect()
    }
}

impl Cluster for Peers {
    fn nodes(&self) -> Vec<(NodeRow, bool)> {
        self.all()
    }

    fn kick(&self, stream: &StreamId) {
        let known: Vec<_> = {
            let known = self.known.lock().expect("no panic while held");
            known.values().map(|peer| peer.upstream).collect()
        };
        for upstream in known {
            let told = self.nodes.post(upstream, &format!("{}{stream}", http::KICK), Bytes::new());
            // A node that does not answer has no publisher to end, or ends it where the store says that its key is another.
            tokio::spawn(async move { timeout(FRESH, told).await.map(drop) });
        }
    }
}

impl chat::Places for Peers {
    fn host(&self, stream: &StreamId) -> Option<usize> {
        let host = self.view().host(stream).filter(|host| **host != *self.me.id)?;
        self.known.lock().expect("no panic while held").get(&host).map(|peer| peer.upstream)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// An edge's upstreams host its rooms: the first that is there.
pub struct Upstreams {
    links: Arc<Links>,
    /// Where one is lost its rooms notice it themselves.
    changes: watch::Sender<()>,
}

impl Upstreams {
    pub fn new(links: Arc<Links>) -> Self {
        Self { links, changes: watch::Sender::default() }
    }
}

impl chat::Places for Upstreams {
    fn host(&self, _: &StreamId) -> Option<usize> {
        Some(self.links.first_alive().unwrap_or(0))
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Others for Peers {
    fn there(&self) -> Vec<(usize, Option<String>)> {
        let known = self.known.lock().expect("no panic while held");
        let there = known.iter().filter(|(_, peer)| self.links.is_alive(peer.upstream));
        there.map(|(node, peer)| (peer.upstream, Some(node.to_string()))).collect()
    }
}

impl Others for Upstreams {
    /// The first that is there: it tells the others.
    fn there(&self) -> Vec<(usize, Option<String>)> {
        self.links.first_alive().map(|at| (at, None)).into_iter().collect()
    }
}

impl line::Peers for Peers {
    fn is_alive(&self, node: &str) -> bool {
        self.view().member(node).is_some_and(|member| member.live)
    }

    fn has_others(&self) -> bool {
        !self.known.lock().expect("no panic while held").is_empty()
    }
}

#[async_trait]
impl Route for Peers {
    fn me(&self) -> Node {
        self.me.id.as_str().into()
    }

    fn candidates(&self, stream: &StreamId) -> (Vec<Node>, Option<Node>) {
        let owner = match self.lines.get().and_then(|lines| lines.live(stream)) {
            Some(_) => Some(self.me()),
            None => self.links.stream(stream).and_then(|view| Some(view["owner"].as_str()?.into())),
        };
        (self.view().candidates(stream), owner)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    async fn connect(&self, node: &Node, stream: &StreamId) -> io::Result<Box<dyn Io>> {
        let lost = |why: String| io::Error::new(io::ErrorKind::NotConnected, why);
        if **node == *self.me.id {
            let lines = self.lines.get().ok_or_else(|| lost("this node is starting".into()))?;
            return Ok(Box::new(lines.inlet(stream)));
        }
        let internal = {
            let known = self.known.lock().expect("no panic while held");
            known.get(node).map(|peer| peer.internal.clone()).ok_or_else(|| lost("it is not registered".into()))?
        };
        let uri =
            Uri::try_from(format!("{}{PATH}{stream}", internal.trim_end_matches('/'))).map_err(io::Error::other)?;
        let authority = uri.authority().ok_or_else(|| lost("it has no address".into()))?.clone();
        let address = (authority.host(), authority.port_u16().unwrap_or(80));
        let socket =
            timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_| lost("no connection".into()))??;
        socket.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let (ours, theirs) = tokio::io::duplex(ROOM);
        let body = StreamBody::new(ReaderStream::with_capacity(theirs, 64 << 10).map_ok(Frame::<Bytes>::data));
        let mut request = Request::post(uri.path()).header(header::HOST, authority.as_str());
        *request.headers_mut().expect("its parts are legal") =
            self.nodes.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let request = request.header(header::HOST, authority.as_str()).header(header::CONTENT_TYPE, CONTENT_TYPE);
        let request = request.body(body).map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let words = Limited::new(answer.into_body(), REFUSAL_MAX).collect().await.map_err(io::Error::other)?;
            let problem: serde_json::Value = serde_json::from_slice(&words.to_bytes()).unwrap_or_default();
            let words = problem["detail"].as_str().unwrap_or_default();
            return Err(lost(format!("it answered {status}: {words}")));
        }
        let body = BodyDataStream::new(answer.into_body()).map_err(io::Error::other);
        Ok(Box::new(tokio::io::join(StreamReader::new(body), ours)))
    }
}

/// What a node tells of itself: where it is reached, and what it does.
pub struct Place {
    pub host: String,
    pub internal: u16,
    pub http: u16,
    pub rtmp: Option<u16>,
}

impl Place {
    pub fn row(&self, id: &str, origin: bool, weight: u32) -> NodeRow {
        let host = match self.host.contains(':') {
            // An IPv6 address stands in brackets.
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        NodeRow {
            id: id.to_owned(),
            internal: format!("http://{host}:{}", self.internal),
            http: format!("http://{host}:{}", self.http),
            rtmp: self.rtmp.map(|port| format!("{host}:{port}")),
            origin,
            weight,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: unix_now(),
            beat: UnixMs(0),
            draining: false,
            streams: 0,
        }
    }
}
