//! Tells the other nodes each second who reported here ([`super::share`]).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::join_all;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use tokio::time::timeout;

use super::{
    Audience,
    pending::Pending,
    share::{Taken, TheirCrowd, Told},
};
use crate::{
    cache::upstream::Nodes,
    id::StreamId,
    store::AudienceRow,
    time::{Timestamp, now},
};

/// Where a node takes what another tells.
pub const PATH: &str = "/internal/v1/audience";
/// A node on the same network answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_MAX: usize = 4 << 10;
/// Rows that go with one message.
const ROWS: usize = 100;

/// Who is told.
pub trait Others: Send + Sync {
    /// The nodes that are there, as [`Nodes`] numbers them, and their names where those are known.
    fn there(&self) -> Vec<(usize, Option<String>)>;
}

/// See the module.
pub struct Teller {
    audience: Arc<Audience>,
    nodes: Arc<Nodes>,
    others: Arc<dyn Others>,
    /// The process that each was when it was told all.
    told: HashMap<usize, String>,
}

impl Teller {
    pub fn new(audience: Arc<Audience>, nodes: Arc<Nodes>, others: Arc<dyn Others>) -> Self {
        Self { audience, nodes, others, told: HashMap::new() }
    }

    /// Tells all that are there what is new, and those that do not know of it yet the rest. `rows`: what an edge counted, which its
    /// upstream stores.
    pub async fn tell(&mut self, rows: Option<&Pending>) {
        let there = self.others.there();
        if there.is_empty() {
            // What is new now is part of all that they are told when they are back.
            self.told.clear();
            return;
        }
        self.told.retain(|node, _| there.iter().any(|(at, _)| at == node));
        let at = now();
        let news: Vec<_> = self.audience.table.news(at).into_iter().filter(|crowds| !crowds.is_empty()).collect();
        let rows_of = |rows: Option<&Pending>| rows.map(|rows| rows.take(ROWS)).unwrap_or_default();
        let (mut lots, sent) = (news, rows_of(rows));
        if lots.is_empty() {
            lots.push(Vec::new());
        }
        let this = &*self;
        let answers = join_all(there.iter().map(|(node, name)| {
            let (lots, sent) = (&lots, &sent);
            async move { (*node, this.tell_one(*node, name.as_deref(), at, lots, sent).await) }
        }));
        let mut is_stored = false;
        for (node, answer) in answers.await {
            match answer {
                Some(process) => {
                    is_stored = true;
                    self.told.insert(node, process);
                }
                // It may have heard all of it or nothing.
                None => _ = self.told.remove(&node),
            }
        }
        if let Some(rows) = rows.filter(|_| !is_stored) {
            rows.add(sent);
        }
    }

    /// Tells one node; gives the process that it is, or nothing where it has not taken all.
    async fn tell_one(
        &self,
        node: usize,
        name: Option<&str>,
        at: Timestamp,
        news: &[Vec<TheirCrowd>],
        rows: &[(StreamId, AudienceRow)],
    ) -> Option<String> {
        let mut process = None;
        for (number, crowds) in news.iter().enumerate() {
            let rows = if number == 0 { rows } else { &[] };
            process = Some(self.post(node, crowds.clone(), rows.to_vec()).await?);
        }
        let process = process?;
        if self.told.get(&node) != Some(&process) {
            for crowds in self.audience.all_for(at, name) {
                self.post(node, crowds, Vec::new()).await?;
            }
        }
        Some(process)
    }

    async fn post(&self, node: usize, crowds: Vec<TheirCrowd>, rows: Vec<(StreamId, AudienceRow)>) -> Option<String> {
        let edge = !self.audience.knows_all();
        // Edges are no cluster: two may have one name.
        let name = if edge { self.audience.process() } else { self.audience.node() };
        let told = Told { node: name.to_owned(), edge, crowds, rows };
        let body = serde_json::to_vec(&told).expect("plain data");
        let answered = async {
            let answer = self.nodes.post(node, PATH, body.into()).await.ok()?;
            let is_ok = answer.status() == StatusCode::OK;
            let bytes = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.ok()?.to_bytes();
            serde_json::from_slice::<Taken>(&bytes).ok().filter(|_| is_ok)
        };
        timeout(PATIENCE, answered).await.ok().flatten().map(|taken| taken.process)
    }
}
