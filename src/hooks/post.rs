//! The task that owns the queue and sends what is due.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use reqwest::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;
use utoipa::ToSchema;

use super::{
    address,
    client::{Answer, Client, Failure},
    event::{Event, Kind},
    files::Files,
    queue::{Change, Delivery, Limits, NoRetry, Outcome, Place, Queue},
    sign::Key,
};
use crate::time::{Timestamp, UnixMs, now, unix_now};

/// Events that may wait to be queued; one more is lost, counted and said. They are queued as fast as the disk takes small files.
const EVENTS: usize = 1024;
/// Questions of the API that may wait; they wait their turn.
const ASKS: usize = 16;
/// Some days of a busy node for a target that is away; dead letters that a person can look through.
const WAITING: usize = 4096;
const WAITING_BYTES: usize = 8 << 20;
const DEAD: usize = 1000;
const DEAD_BYTES: usize = 8 << 20;
/// Deliveries to one target at the same time.
const AT_ONCE: usize = 4;
/// Between two lines of the log about the same trouble.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// At least so often it is looked whether something is due.
const LOOK: Duration = Duration::from_secs(60);
/// What is under way when the node stops may be taken within this; it is sent again after the next start otherwise.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who is told.
#[derive(Debug, Clone)]
pub struct Target {
    pub url: Url,
    pub key: Key,
    /// What it is told of; empty: everything.
    pub events: BTreeSet<Kind>,
}

impl Target {
    /// What names it in files: its URL, of which nothing is to be seen there.
    fn name(&self) -> String {
        let hash = Sha256::digest(self.url.as_str().as_bytes());
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn wants(&self, kind: Kind) -> bool {
        self.events.is_empty() || self.events.contains(&kind)
    }
}

/// How webhooks are sent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    /// Where the queue is kept.
    pub dir: PathBuf,
    pub targets: Vec<Target>,
    /// What a target may take to answer.
    pub timeout: Duration,
    /// How long a delivery is tried.
    pub retry_for: Duration,
}

/// A target and how it does.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = WebhookTarget)]
pub struct Told {
    /// Scheme and host of its URL.
    pub target: String,
    /// What it is told of; empty: everything.
    pub events: Vec<Kind>,
    pub state: TargetState,
    /// Deliveries that wait.
    pub waiting: usize,
    /// Deliveries that were given up.
    pub dead: usize,
    /// When it took something last.
    #[schema(format = DateTime)]
    pub delivered: Option<String>,
    /// When it did not.
    #[schema(format = DateTime)]
    pub failed: Option<String>,
    /// Why it did not.
    pub why: Option<String>,
}

/// How a target does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = WebhookState)]
pub enum TargetState {
    Ok,
    /// The last try failed.
    Failing,
    /// It answered 410.
    Gone,
    /// Nothing was sent since the start.
    Idle,
}

/// A dead letter.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = DeadWebhook)]
pub struct Dead {
    pub id: String,
    /// Scheme and host of its target; nothing where that is not configured any more.
    pub target: Option<String>,
    /// The id of what happened.
    pub event: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// When it was to be told first.
    #[schema(format = DateTime)]
    pub told: String,
    pub tries: u32,
    /// Why the last of them failed.
    pub why: String,
    /// What was to be delivered.
    #[schema(value_type = Object)]
    pub body: Box<serde_json::value::RawValue>,
}

/// What a target answered to a test.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = TestedWebhook)]
pub struct Tested {
    /// Scheme and host of its URL.
    pub target: String,
    pub delivered: bool,
    /// The HTTP status of its answer; nothing where there was none.
    pub status: Option<u16>,
    /// Why it was not delivered.
    pub why: Option<String>,
}

enum Ask {
    Told(oneshot::Sender<Vec<Told>>),
    Dead(oneshot::Sender<Vec<Dead>>),
    Retry(u64, oneshot::Sender<Result<(), NoRetry>>),
    Delete(u64, oneshot::Sender<bool>),
}

struct Shared {
    config: Config,
    client: Client,
    /// When a full queue was said last.
    said: AtomicU64,
}

struct Inner {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    asks: mpsc::Sender<Ask>,
}

/// The way to tell others. Cheap to clone; where no webhooks are configured it does nothing.
#[derive(Clone, Default)]
pub struct Hooks(Option<Arc<Inner>>);

impl Hooks {
    /// Reads what waits from before. The future delivers until `stop`.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub async fn open(
        config: Config,
        client: Client,
        stop: CancellationToken,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let dir = config.dir.clone();
        let (files, found) = spawn_blocking(move || Files::open(&dir)).await.map_err(io::Error::other)??;
        let limits = Limits {
            waiting: WAITING,
            bytes: WAITING_BYTES,
            dead: DEAD,
            dead_bytes: DEAD_BYTES,
            at_once: AT_ONCE,
            retry_for: config.retry_for,
        };
        let mut queue = Queue::new(limits, config.targets.iter().map(Target::name));
        let (mut changes, today) = (Vec::new(), unix_now());
        for (place, id, delivery) in found {
            changes.extend(queue.restore(place, id, delivery, today));
        }
        if queue.waiting() > 0 {
            info!(deliveries = queue.waiting(), "webhooks wait from before");
        }
        let shared = Arc::new(Shared { config, client, said: AtomicU64::new(0) });
        let (event_tx, events) = mpsc::channel(EVENTS);
        let (ask_tx, asks) = mpsc::channel(ASKS);
        let failing = vec![false; shared.config.targets.len()];
        let post = Post { shared: shared.clone(), queue, files, sending: JoinSet::new(), failing, disk_said: None };
        let run = post.run(changes, events, asks, stop);
        Ok((Self(Some(Arc::new(Inner { shared, events: event_tx, asks: ask_tx }))), run))
    }

    /// Whether anybody is told.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells all targets that want to know. Never waits; where too much is told at once an event is lost, counted and said.
    pub fn tell(&self, event: Event) {
        let Some(inner) = &self.0 else { return };
        if inner.events.try_send(event).is_err() {
            count("dropped", 1);
            inner.shared.say_dropped();
        }
    }

    /// The targets and how they do.
    pub async fn targets(&self) -> Vec<Told> {
        self.ask(Ask::Told).await.unwrap_or_default()
    }

    /// What could not be delivered, oldest first.
    pub async fn dead(&self) -> Vec<Dead> {
        self.ask(Ask::Dead).await.unwrap_or_default()
    }

    /// Has a dead letter tried again.
    pub async fn retry(&self, id: u64) -> Result<(), NoRetry> {
        self.ask(|reply| Ask::Retry(id, reply)).await.unwrap_or(Err(NoRetry::Unknown))
    }

    /// Forgets a dead letter; `false` where there is none.
    pub async fn delete(&self, id: u64) -> bool {
        self.ask(|reply| Ask::Delete(id, reply)).await.unwrap_or(false)
    }

    /// Nothing where nobody is told, or the node stops.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.as_ref()?.asks.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Sends each target an event that says nothing, at once and once; gives what each answered.
    pub async fn test(&self) -> Vec<Tested> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let shared = &inner.shared;
        let today = unix_now();
        let event = Event::of_node(Kind::Test, today, &format!("{:016x}", rand::random::<u64>()));
        let (id, body) = (event.id(), event.render(&shared.config.node));
        let tested = shared.config.targets.iter().map(|target| async {
            let (status, why) = match shared.send(target, &id, body.clone()).await {
                Ok(answer) if answer.status.is_success() => (Some(answer.status), None),
                Ok(answer) => (Some(answer.status), Some(words(&answer))),
                Err(why) => (None, Some(why.to_string())),
            };
            let (delivered, status) = (why.is_none(), status.map(|status| status.as_u16()));
            Tested { target: address::shown(&target.url), delivered, status, why }
        });
        join_all(tested).await
    }
}

impl Shared {
    async fn send(&self, target: &Target, id: &str, body: String) -> Result<Answer, Failure> {
        self.client.post(&target.url, &target.key, id, body, self.config.timeout).await
    }

    fn say_dropped(&self) {
        // Zero is a time at which nothing was said.
        let (at, last) = (now().0.max(1), self.said.load(Ordering::Relaxed));
        let is_new = last == 0 || Timestamp(at) - Timestamp(last) >= SAID_EVERY;
        if is_new && self.said.compare_exchange(last, at, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            warn!("webhooks are lost: more wait than there is room for (weir_webhooks_total, result=\"dropped\")");
        }
    }
}

fn count(result: &'static str, events: u64) {
    metrics::counter!("weir_webhooks_total", "result" => result).increment(events);
}

/// How a receiver refuses, in words.
fn words(answer: &Answer) -> String {
    match answer.status.is_redirection() {
        true => format!("it answered {}, and redirects are not followed", answer.status),
        false => format!("it answered {}", answer.status),
    }
}

fn outcome(sent: Result<Answer, Failure>) -> Outcome {
    match sent {
        Ok(answer) if answer.status.is_success() => Outcome::Done,
        Ok(answer) if answer.status == StatusCode::GONE => Outcome::Gone,
        Ok(answer) => Outcome::Failed { why: words(&answer), asked: answer.again },
        Err(why) => Outcome::Failed { why: why.to_string(), asked: None },
    }
}

struct Post {
    shared: Arc<Shared>,
    queue: Queue,
    files: Files,
    sending: JoinSet<(u64, usize, Outcome)>,
    /// Whether the last try of each target failed.
    failing: Vec<bool>,
    disk_said: Option<Timestamp>,
}

impl Post {
    async fn run(
        mut self,
        changes: Vec<Change>,
        mut events: mpsc::Receiver<Event>,
        mut asks: mpsc::Receiver<Ask>,
        stop: CancellationToken,
    ) {
        self.keep(changes).await;
        loop {
            while let Some((id, number, delivery)) = self.queue.begin(unix_now()) {
                self.send(id, number, delivery);
            }
            self.publish_gauges();
            let due = self.queue.deadline().map(|at| at.since(unix_now()));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(sent) = self.sending.join_next() => self.settle(sent).await,
                Some(ask) = asks.recv() => self.answer(ask).await,
                Some(event) = events.recv() => self.take(event).await,
                () = pause(due) => {}
            }
        }
        // What was told before the node stops is told after it starts.
        events.close();
        while let Some(event) = events.recv().await {
            self.take(event).await;
        }
        let farewell = async {
            while let Some(sent) = self.sending.join_next().await {
                self.settle(sent).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    async fn take(&mut self, event: Event) {
        let (id, body) = (event.id(), event.render(&self.shared.config.node));
        let (dropped, today) = (self.queue.dropped(), unix_now());
        let shared = self.shared.clone();
        let mut changes = Vec::new();
        for target in shared.config.targets.iter().filter(|target| target.wants(event.kind)) {
            let delivery = Delivery::new(&target.name(), event.kind, id.clone(), body.clone(), today);
            changes.extend(self.queue.add(delivery, today));
        }
        let dropped = self.queue.dropped() - dropped;
        if dropped > 0 {
            count("dropped", dropped);
            shared.say_dropped();
        }
        self.keep(changes).await;
    }

    fn send(&mut self, id: u64, number: usize, delivery: Delivery) {
        let shared = self.shared.clone();
        self.sending.spawn(async move {
            let target = &shared.config.targets[number];
            let sent = shared.send(target, &delivery.event, delivery.body).await;
            (id, number, outcome(sent))
        });
    }

    async fn settle(&mut self, sent: Result<(u64, usize, Outcome), tokio::task::JoinError>) {
        let (id, number, outcome) = sent.expect("a delivery does not panic");
        let target = address::shown(&self.shared.config.targets[number].url);
        let was_failing = std::mem::replace(&mut self.failing[number], outcome != Outcome::Done);
        match &outcome {
            Outcome::Done => {
                count("delivered", 1);
                if was_failing {
                    info!(target, "a webhook is taken again");
                }
            }
            Outcome::Gone => {
                count("gone", 1);
                warn!(target, "a webhook answered 410 Gone: it is told nothing more until the node starts again");
            }
            Outcome::Failed { why, .. } => {
                count("failed", 1);
                if !was_failing {
                    warn!(target, %why, "a webhook is not taken; it is tried again");
                }
            }
        }
        let changes = self.queue.settle(id, outcome, unix_now(), rand::random());
        if changes.iter().any(|change| matches!(change, Change::Write(Place::Dead, ..))) {
            count("dead", 1);
            warn!(target, "a webhook was tried for too long: it is a dead letter (/api/v1/webhooks/dead)");
        }
        self.keep(changes).await;
    }

    /// Has files changed. What cannot be written is delivered all the same, unless the node ends before.
    async fn keep(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let files = self.files.clone();
        let kept = spawn_blocking(move || files.apply(&changes)).await.expect("it does not panic");
        match kept {
            Ok(()) => self.disk_said = None,
            Err(why) if self.disk_said.is_none_or(|at| now() - at >= SAID_EVERY) => {
                self.disk_said = Some(now());
                warn!(%why, "webhooks cannot be kept on the disk: those that wait are lost when the node ends");
            }
            Err(_) => {}
        }
    }

    async fn answer(&mut self, ask: Ask) {
        match ask {
            // Whoever asked may be gone.
            Ask::Told(reply) => _ = reply.send(self.told()),
            Ask::Dead(reply) => _ = reply.send(self.dead()),
            Ask::Retry(id, reply) => {
                let retried = self.queue.retry(id, unix_now());
                let result = retried.as_ref().map(|_| ()).map_err(|why| *why);
                self.keep(retried.unwrap_or_default()).await;
                let _ = reply.send(result);
            }
            Ask::Delete(id, reply) => {
                let deleted = self.queue.delete(id);
                let is_deleted = deleted.is_some();
                self.keep(deleted.into_iter().collect()).await;
                let _ = reply.send(is_deleted);
            }
        }
    }

    fn told(&self) -> Vec<Told> {
        let targets = self.shared.config.targets.iter().zip(self.queue.standings()).zip(&self.failing);
        let told = targets.map(|((target, standing), failing)| {
            let state = match (&standing.delivered, &standing.failed) {
                _ if standing.off => TargetState::Gone,
                (None, None) => TargetState::Idle,
                _ if *failing => TargetState::Failing,
                _ => TargetState::Ok,
            };
            let (failed, why) = standing.failed.unzip();
            Told {
                target: address::shown(&target.url),
                events: target.events.iter().copied().collect(),
                state,
                waiting: standing.waiting,
                dead: standing.dead,
                delivered: standing.delivered.map(|at| at.to_string()),
                failed: failed.map(|at: UnixMs| at.to_string()),
                why,
            }
        });
        told.collect()
    }

    fn dead(&self) -> Vec<Dead> {
        let targets = &self.shared.config.targets;
        let dead = self.queue.dead().iter().map(|(id, delivery)| Dead {
            id: id.to_string(),
            target: targets.iter().find(|t| t.name() == delivery.target).map(|target| address::shown(&target.url)),
            event: delivery.event.clone(),
            kind: delivery.kind,
            told: delivery.told.to_string(),
            tries: delivery.tries,
            why: delivery.why.clone(),
            body: serde_json::value::RawValue::from_string(delivery.body.clone()).unwrap_or_default(),
        });
        dead.collect()
    }

    fn publish_gauges(&self) {
        metrics::gauge!("weir_webhooks_waiting").set(self.queue.waiting() as f64);
        metrics::gauge!("weir_webhooks_dead").set(self.queue.dead().len() as f64);
    }
}

async fn pause(due: Option<Duration>) {
    match due {
        // The wall clock may be set meanwhile.
        Some(due) => tokio::time::sleep(due.min(LOOK)).await,
        None => std::future::pending().await,
    }
}
