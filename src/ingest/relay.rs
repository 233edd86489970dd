//! A session whose chunks are made by other nodes, or by this one among them: keeps the last chunks' worth of what the
//! publisher sent, feeds the nodes that [`Failover`] chooses, and has another lead when one is lost.
//!
//! The publisher's connection never waits for a node: what it sends goes to the session's ring, from which every node is
//! fed at its own pace. Only an epoch's beginning waits for the node that leads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Route,
    lane::{self, Event, Hello, Order},
};
use crate::{
    cluster::{
        failover::{Failover, Input, Node, Output},
        feed::Places,
        names::Names,
        twins::{Made, Twins},
    },
    id::{Rendition, StreamId},
    line::{Begin, Begun, Fenced, Plan, Standby, Standing, StreamSettings, session_order, session_order_after},
    media::{
        Message,
        ring::{self, From, Ring},
        timeline::Warning,
    },
    time::{Timestamp, now},
};

/// Orders that may wait for a lane: there are few, and a lane that does not take them is lost within a second.
const ORDERS: usize = 16;
/// What lanes tell that may wait; they wait when it is full.
const EVENTS: usize = 64;
/// Questions of a session; it waits for each answer.
const ASKS: usize = 4;
/// A session that began so recently is newer than any that is already there, whatever their numbers say: no encoder comes back
/// sooner.
const FRESH: Duration = Duration::from_millis(1500);
/// So much is kept of what the publisher sent, for when all nodes are lost for a moment.
const KEPT: Duration = Duration::from_secs(10);
/// A node that joins is sent so many chunks before the newest that is listed.
const JOINS_AT: u64 = 2;
/// When the publisher is gone, what it sent is handed on within this.
const FAREWELL: Duration = Duration::from_secs(3);

/// What sessions need to know to be relayed.
#[derive(Clone)]
pub struct Relays {
    pub route: Arc<dyn Route>,
    /// Nominal chunk duration.
    pub chunk_ms: u32,
    /// What a second node does for streams that do not say.
    pub standby: Standby,
    /// Bound of each session's ring, bytes.
    pub ring_bytes: usize,
}

enum Ask {
    Begin(Begin, oneshot::Sender<Result<Begun, Fenced>>),
    Warn(Warning),
    End(oneshot::Sender<()>),
}

/// A session's way to the nodes that make its chunks.
#[derive(Debug)]
pub struct Way {
    ring: Arc<Ring>,
    asks: mpsc::Sender<Ask>,
}

impl Way {
    /// Asks for an epoch.
    pub async fn begin(&self, begin: Begin) -> Result<Begun, Fenced> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Begin(begin, reply)).await.map_err(|_| Fenced)?;
        answer.await.map_err(|_| Fenced)?
    }

    /// Sends messages, in order. Never waits.
    pub fn send(&self, messages: Vec<Message>) -> Result<(), Fenced> {
        if self.asks.is_closed() {
            return Err(Fenced);
        }
        messages.into_iter().for_each(|message| self.ring.push(message));
        Ok(())
    }

    pub async fn warn(&self, warning: Warning) -> Result<(), Fenced> {
        self.asks.send(Ask::Warn(warning)).await.map_err(|_| Fenced)
    }

    /// Ends the session's part, once the nodes have what it sent.
    pub async fn detach(&self) {
        let (reply, done) = oneshot::channel();
        if self.asks.send(Ask::End(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

impl Relays {
    /// Begins to relay a session of `stream`. `fenced` ends it, and is cancelled when a newer one has the stream.
    pub fn begin(&self, stream: StreamId, settings: StreamSettings, fenced: CancellationToken) -> Way {
        let chunks = (KEPT.as_millis() as usize).div_ceil(self.chunk_ms.max(1) as usize);
        let config = ring::Config { max_bytes: self.ring_bytes, chunks: chunks.max(ring::Config::default().chunks) };
        let ring = Arc::new(Ring::new(config));
        let (asks, asked) = mpsc::channel(ASKS);
        let (plans, plan) = watch::channel(None);
        let (told, tells) = mpsc::channel(EVENTS);
        let standby = settings.standby.unwrap_or(self.standby);
        let settings = StreamSettings { standby: Some(standby), ..settings };
        let standbys = standby.count();
        let hello = Hello { stream, order: session_order(), settings, chunk_ms: self.chunk_ms, plan };
        let relay = Relay {
            route: self.route.clone(),
            began: now(),
            hello,
            ring: ring.clone(),
            plans,
            standbys,
            turn: 0,
            failover: Failover::new(standbys),
            lanes: BTreeMap::new(),
            lane: 0,
            first: None,
            twins: Twins::default(),
            names: Names::default(),
            losses: BTreeMap::new(),
            told,
            wanted: None,
            told_places: Default::default(),
            fenced,
        };
        tokio::spawn(relay.run(asked, tells));
        Way { ring, asks }
    }
}

struct Lane {
    number: u64,
    orders: mpsc::Sender<Order>,
}

/// An epoch that the session waits for.
struct Wanted {
    begin: Begin,
    reply: oneshot::Sender<Result<Begun, Fenced>>,
    /// The node that was asked.
    asked: Option<Node>,
}

struct Relay {
    route: Arc<dyn Route>,
    began: Timestamp,
    hello: Hello,
    ring: Arc<Ring>,
    plans: watch::Sender<Option<(u64, Plan)>>,
    standbys: usize,
    failover: Failover,
    /// How often a node was told to lead.
    turn: u32,
    lanes: BTreeMap<Node, Lane>,
    /// The number of the newest lane: what an older one of the same node tells counts no more.
    lane: u64,
    /// The session's first chunk number, and what nodes have made since.
    first: Option<u64>,
    twins: Twins,
    /// How viewers know the session's chunks.
    names: Names,
    /// Why nodes were lost that have not been heard since.
    losses: BTreeMap<Node, String>,
    told: mpsc::Sender<(Node, u64, Event)>,
    wanted: Option<Wanted>,
    /// What the leader was told of the others, and which one.
    told_places: (Option<Node>, Places),
    fenced: CancellationToken,
}

impl Relay {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>, mut tells: mpsc::Receiver<(Node, u64, Event)>) {
        let mut changes = self.route.changes();
        self.look();
        loop {
            self.act();
            let wait = self.failover.deadline().map(|at| at - now());
            tokio::select! {
                biased;
                () = self.fenced.cancelled() => break,
                Some((node, lane, event)) = tells.recv() => self.hear(node, lane, event),
                ask = asked.recv() => match ask {
                    Some(Ask::Begin(begin, reply)) => self.wanted = Some(Wanted { begin, reply, asked: None }),
                    Some(Ask::Warn(warning)) => self.tell_leader(Order::Warn(warning)),
                    Some(Ask::End(done)) => {
                        self.farewell(&mut tells).await;
                        let _ = done.send(());
                        break;
                    }
                    // The session was dropped.
                    None => {
                        self.farewell(&mut tells).await;
                        break;
                    }
                },
                Ok(()) = changes.changed() => self.look(),
                () = sleep(wait) => self.failover.tick(now()),
            }
        }
    }

    /// Whether the publisher has just come: whatever session is there came before.
    fn is_fresh(&self) -> bool {
        self.plans.borrow().is_none() && now() - self.began < FRESH
    }

    /// Looks which nodes may make the chunks.
    fn look(&mut self) {
        let (nodes, owner) = self.route.candidates(&self.hello.stream);
        self.failover.handle(now(), Input::Candidates { nodes, owner });
    }

    fn hear(&mut self, node: Node, lane: u64, event: Event) {
        if self.lanes.get(&node).is_none_or(|known| known.number != lane) {
            return;
        }
        let input = match event {
            Event::Standing { line, draining } => {
                self.losses.remove(&node);
                self.compare(&node, &line.made);
                self.note(&line);
                Input::Standing { node, leads: line.leads, k: line.k, encoded: line.encoded, draining }
            }
            Event::Led => {
                info!(stream = %self.hello.stream, %node, "a node leads");
                Input::Led(node)
            }
            Event::Begun(begun) => {
                if let Some(wanted) = self.wanted.take_if(|wanted| wanted.asked.as_ref() == Some(&node)) {
                    self.first.get_or_insert(begun.epoch.k);
                    self.plans.send_replace(Some((begun.epoch.number, begun.plan)));
                    // A session that went away meanwhile detaches by itself.
                    let _ = wanted.reply.send(Ok(begun));
                }
                return;
            }
            Event::Fenced { by } if by > self.hello.order && self.is_fresh() => {
                // It came after the other, and by a clock that is behind: its number must say so.
                info!(stream = %self.hello.stream, %node, "the stream's newest session");
                self.hello.order = session_order_after(by);
                self.lanes.clear();
                self.failover = Failover::new(self.standbys);
                return self.look();
            }
            Event::Fenced { .. } => {
                info!(stream = %self.hello.stream, %node, "a newer session has the stream");
                return self.fenced.cancel();
            }
            Event::Lost(why) => {
                // It is tried again and again: told once.
                if self.losses.insert(node.clone(), why.clone()).as_ref() != Some(&why) {
                    warn!(stream = %self.hello.stream, %node, why, "the feed to a node ended");
                }
                metrics::counter!("weir_feeds_lost_total").increment(1);
                self.lanes.remove(&node);
                Input::Lost(node)
            }
        };
        self.failover.handle(now(), input);
    }

    /// Notes by which epoch a node that leads lists what viewers were not shown before.
    fn note(&mut self, line: &Standing) {
        let (Some(first), Some(k)) = (self.first.filter(|_| line.leads && line.epoch > 0), line.k) else { return };
        let from = self.failover.listed().map_or(first, |listed| first.max(listed + 1));
        if k >= from {
            self.names.list(from, line.epoch);
        }
    }

    /// Compares what a node has made of this session with what the others have.
    fn compare(&mut self, node: &Node, made: &BTreeMap<Rendition, Made>) {
        for (rendition, made) in made.iter().filter(|(_, made)| self.first.is_some_and(|first| made.k >= first)) {
            let Some(same) = self.twins.hear(node, rendition, *made) else { continue };
            metrics::counter!("weir_standby_chunks_total", "same" => if same { "yes" } else { "no" }).increment(1);
            if !same {
                warn!(stream = %self.hello.stream, %node, %rendition, k = made.k, "two nodes have made different chunks");
            }
        }
    }

    /// Does what was decided, and asks for the epoch that the session waits for.
    fn act(&mut self) {
        while let Some(output) = self.failover.poll() {
            debug!(stream = %self.hello.stream, ?output, "decided");
            match output {
                Output::Open(node) => self.open(node),
                Output::Lead(node) => {
                    self.turn += 1;
                    let (turn, listed, names) = (self.turn, self.failover.listed(), self.names.clone());
                    self.order(&node, Order::Lead { turn, listed, names });
                }
                Output::Leave(node) => {
                    self.order(&node, Order::Leave);
                    self.lanes.remove(&node);
                }
                Output::Close(node) => _ = self.lanes.remove(&node),
            }
        }
        let leader = self.failover.leader().cloned();
        let standbys = self.failover.standbys().map(ToString::to_string).collect();
        let told = (leader.clone(), Places { gateway: self.route.me().to_string(), standbys });
        if told != self.told_places {
            self.tell_leader(Order::Places(told.1.clone()));
            self.told_places = told;
        }
        if let (Some(leader), Some(wanted)) = (leader, &mut self.wanted)
            && wanted.asked.as_ref() != Some(&leader)
        {
            wanted.asked = Some(leader.clone());
            let begin = Order::Begin(wanted.begin.clone());
            self.order(&leader, begin);
        }
    }

    fn open(&mut self, node: Node) {
        // What it was asked on a lane before is answered to nobody.
        if let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.asked.as_ref() == Some(&node)) {
            wanted.asked = None;
        }
        self.lane += 1;
        let number = self.lane;
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (events, mut heard) = mpsc::channel(EVENTS);
        // One that joins others needs what they may not have stored; where all were lost, it is all that is there.
        let joins = self.failover.listed().map(|listed| listed.saturating_sub(JOINS_AT));
        let joins = joins.filter(|k| self.failover.leader().is_some() && self.ring.boundaries().first() <= Some(k));
        let from = joins.map_or(From::Oldest, From::Chunk);
        let reader = self.ring.reader(from);
        tokio::spawn(lane::run(self.route.clone(), node.clone(), self.hello.clone(), reader, ordered, events));
        let (told, name) = (self.told.clone(), node.clone());
        tokio::spawn(async move {
            while let Some(event) = heard.recv().await {
                if told.send((name.clone(), number, event)).await.is_err() {
                    return;
                }
            }
        });
        self.lanes.insert(node, Lane { number, orders });
    }

    fn order(&mut self, node: &Node, order: Order) {
        // A lane that is full or gone tells so itself.
        if let Some(lane) = self.lanes.get(node) {
            let _ = lane.orders.try_send(order);
        }
    }

    fn tell_leader(&mut self, order: Order) {
        if let Some(leader) = self.failover.leader().cloned() {
            self.order(&leader, order);
        }
    }

    /// Hands on what is left, to every node.
    async fn farewell(&mut self, tells: &mut mpsc::Receiver<(Node, u64, Event)>) {
        for lane in self.lanes.values() {
            let _ = lane.orders.try_send(Order::End);
        }
        let all_gone = async {
            while !self.lanes.is_empty() {
                let Some((node, number, event)) = tells.recv().await else { return };
                let is_over = matches!(event, Event::Lost(_));
                if is_over && self.lanes.get(&node).is_some_and(|lane| lane.number == number) {
                    self.lanes.remove(&node);
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, all_gone).await;
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
