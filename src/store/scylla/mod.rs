//! Metadata in a cluster of ScyllaDB or Apache Cassandra nodes, for all nodes of a cluster.
//!
//! Enter rows, leave rows, as JSON in the tables of [`schema`], by the statements of `statements`. What must be decided by exactly
//! one (streams and the epoch log) is written by LWT and lies in a keyspace of its own; an LWT without an answer has an unknown
//! outcome, which is read back at SERIAL. Everything else is idempotent. Rows that several nodes write are stamped later than
//! what they replace, so that the last write counts whatever their clocks say.
//!
//! A session that lost its connections is replaced as soon as a new one can be made.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{TryStreamExt, future::try_join_all};
use scylla::{
    client::session::Session,
    deserialize::row::DeserializeRow,
    errors::{ExecutionError, NextPageError, NextRowError, PagerExecutionError, RequestError},
    serialize::row::SerializeRow,
    statement::prepared::PreparedStatement,
    value::{CqlValue, Row},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Error, Result};
use crate::{
    id::{BroadcastId, StreamId},
    secret::Secret,
    time::unix_now,
};
use connect::Profiles;
use schema::Standing;
use statements::Statements;

mod audience;
mod chat;
mod connect;
mod meta;
pub mod schema;
mod statements;

/// Partitions of the tables in which rows are found by their id.
pub const SPREAD: i8 = 16;
/// No id comes after it: they are of digits and small letters.
const AFTER_ALL: &str = "{";
/// Between two tries to make a new session, and how long one may take.
const AGAIN: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// Where the database is, and how to speak to it.
#[derive(Clone)]
pub struct Settings {
    /// `host:port`, several for the case that some are away at start.
    pub nodes: Vec<String>,
    pub keyspace: String,
    pub login: Option<(String, Secret)>,
    pub datacenter: Option<String>,
    /// Copies of each row in a keyspace that is made; 0: as many as there are nodes, three at most.
    pub replicas: u32,
    /// Conditional writes are decided within the datacenter, not among all.
    pub serial_local: bool,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether keyspaces and tables may be made at start.
    pub create: bool,
    /// Rows of chats that age go after this.
    pub chat_keep: Duration,
    /// Minutes and hours of audiences go after this.
    pub audience_keep: Duration,
}

/// The metadata store of a cluster. Clones share it.
#[derive(Clone)]
pub struct Scylla {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    profiles: Profiles,
    connected: ArcSwap<Connected>,
    reconnecting: AtomicBool,
    /// Chunk buckets that were noted by this process.
    noted: Mutex<HashSet<(StreamId, BroadcastId, u64)>>,
    /// Chat buckets that were, by stream, log and number.
    noted_chats: Mutex<HashSet<(StreamId, String, u64)>>,
}

struct Connected {
    session: Session,
    statements: Statements,
}

impl Scylla {
    /// Connects, and makes keyspaces and tables where they are missing and that is allowed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers; [`Error::Unfit`] when what is there cannot be used: it says what is missing.
    pub async fn open(settings: Settings) -> Result<Self> {
        let profiles = Profiles::new(&settings);
        let session = connect::session(&settings, &profiles).await?;
        match schema::look(&session, &settings).await? {
            Standing::Whole => {}
            Standing::Older(_) if settings.create => schema::make(&session, &settings).await?,
            Standing::Older(0) => {
                return Err(Error::Unfit(format!(
                    "keyspace {} has no tables: run `weir store init`, or set store.create",
                    settings.keyspace
                )));
            }
            Standing::Older(version) => {
                return Err(Error::Unfit(format!(
                    "keyspace {} has tables of version {version}, this weir needs {}: run `weir store init`, or set \
                     store.create",
                    settings.keyspace,
                    schema::VERSION
                )));
            }
        }
        let statements = Statements::prepare(&session, &settings, &profiles).await?;
        let store = Self {
            shared: Arc::new(Shared {
                settings,
                profiles,
                connected: ArcSwap::from_pointee(Connected { session, statements }),
                reconnecting: AtomicBool::new(false),
                noted: Mutex::default(),
                noted_chats: Mutex::default(),
            }),
        };
        store.probe().await?;
        Ok(store)
    }

    /// Makes keyspaces and tables, or says that they are there. Gives the tables' version.
    pub async fn init(settings: &Settings) -> Result<i32> {
        let session = connect::session(settings, &Profiles::new(settings)).await?;
        schema::make(&session, settings).await?;
        Ok(schema::VERSION)
    }

    /// Learns at once whether writes work and are allowed, by two that change nothing.
    async fn probe(&self) -> Result<()> {
        self.write(|s| &s.drop_job, (0i64, 0i8, "")).await?;
        let applied = self.decide(|s| &s.delete_stream, (0i8, "")).await;
        applied.map(|_| ()).map_err(|why| match why {
            Error::Unfit(why) => Error::Unfit(format!("conditional writes do not work here: {why}")),
            other => other,
        })
    }

    /// Says what an error means; a session that has no connections any more is replaced, unless it was already.
    fn failed(&self, connected: &Arc<Connected>, why: ExecutionError) -> Error {
        let gone = matches!(&why, ExecutionError::ConnectionPoolError(_) | ExecutionError::EmptyPlan);
        if gone && Arc::ptr_eq(connected, &self.shared.connected.load()) {
            self.reconnect();
        }
        connect::execution(why)
    }

    /// Makes a new session in the background and puts it in the place of the one that lost its connections: its own tries lie up
    /// to ten seconds apart.
    fn reconnect(&self) {
        if self.shared.reconnecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut told = false;
            loop {
                tokio::time::sleep(AGAIN).await;
                let Some(shared) = shared.upgrade() else { return };
                let made = async {
                    let session = connect::session(&shared.settings, &shared.profiles).await?;
                    let statements = Statements::prepare(&session, &shared.settings, &shared.profiles).await?;
                    Ok::<_, Error>(Connected { session, statements })
                };
                // A database that takes connections but says nothing is none.
                let made = tokio::time::timeout(CONNECT_MAX, made).await;
                match made.unwrap_or_else(|_| Err(Error::Unavailable("the database says nothing".into()))) {
                    Ok(connected) => {
                        shared.connected.store(Arc::new(connected));
                        shared.reconnecting.store(false, Ordering::Release);
                        return;
                    }
                    Err(why) if !told => {
                        told = true;
                        tracing::warn!(%why, "the database is away");
                    }
                    Err(_) => {}
                }
            }
        });
    }

    async fn write(&self, pick: impl Fn(&Statements) -> &PreparedStatement, values: impl SerializeRow) -> Result<()> {
        let connected = self.shared.connected.load_full();
        let done = connected.session.execute_unpaged(pick(&connected.statements), values).await;
        done.map(|_| ()).map_err(|why| self.failed(&connected, why))
    }

    /// Reads all rows, at most `limit`.
    async fn read<R>(
        &self,
        pick: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
        limit: usize,
    ) -> Result<Vec<R>>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let connected = self.shared.connected.load_full();
        let pager = connected.session.execute_iter(pick(&connected.statements).clone(), values).await;
        let pager = pager.map_err(|why| self.paging(&connected, why))?;
        let rows = pager.rows_stream::<R>().map_err(|why| Error::Damaged(why.to_string()))?;
        let mut rows = std::pin::pin!(rows);
        let mut read = Vec::new();
        while read.len() < limit {
            match rows.try_next().await {
                Ok(Some(row)) => read.push(row),
                Ok(None) => break,
                Err(NextRowError::NextPageError(why)) => {
                    return Err(self.paging(&connected, PagerExecutionError::NextPageError(why)));
                }
                Err(why) => return Err(Error::Damaged(why.to_string())),
            }
        }
        Ok(read)
    }

    fn paging(&self, connected: &Arc<Connected>, why: PagerExecutionError) -> Error {
        match why {
            PagerExecutionError::PrepareError(why) => connect::prepare(why),
            PagerExecutionError::NextPageError(NextPageError::RequestFailure(why)) => self.failed(
                connected,
                match why {
                    RequestError::EmptyPlan => ExecutionError::EmptyPlan,
                    RequestError::ConnectionPoolError(why) => ExecutionError::ConnectionPoolError(why),
                    RequestError::RequestTimeout(after) => ExecutionError::RequestTimeout(after),
                    RequestError::LastAttemptError(why) => ExecutionError::LastAttemptError(why),
                    other => return Error::Unavailable(other.to_string()),
                },
            ),
            other => Error::Unavailable(other.to_string()),
        }
    }

    async fn one<R>(
        &self,
        pick: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<R>>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        Ok(self.read(pick, values, 1).await?.pop())
    }

    /// Reads a row's JSON.
    async fn body<T: DeserializeOwned>(
        &self,
        what: &str,
        pick: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<T>> {
        let row = self.one::<(String,)>(pick, values).await?;
        row.map(|(body,)| decode(what, &body)).transpose()
    }

    /// Makes a conditional write; says whether it was made.
    async fn decide(
        &self,
        pick: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<bool> {
        let connected = self.shared.connected.load_full();
        let answer = connected.session.execute_unpaged(pick(&connected.statements), values).await;
        applied(&answer.map_err(|why| self.failed(&connected, why))?)
    }

    /// The time of a write that takes the place of one made at `before`, microseconds: later than that whatever the clocks say.
    fn stamp(before: Option<i64>) -> i64 {
        let now = unix_now().0 * 1000;
        before.map_or(now, |before| now.max(before + 1))
    }

    /// The time of a row's last write.
    async fn stamp_of(
        &self,
        pick: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<i64> {
        Ok(Self::stamp(self.one::<(Option<i64>,)>(pick, values).await?.and_then(|row| row.0)))
    }

    /// Reads the rows of a table in the order of their ids, from all of its partitions, until `limit` of them are `taken`. A little
    /// more than its share is asked of each; what is known only in part is not told before it is read on.
    async fn spread<T>(
        &self,
        pick: impl Fn(&Statements) -> &PreparedStatement + Copy,
        after: &str,
        limit: usize,
        take: impl Fn(&str, &str) -> Option<T>,
    ) -> Result<Vec<T>> {
        let (mut taken, mut after) = (Vec::new(), after.to_owned());
        while taken.len() < limit {
            let each = ((limit - taken.len()) / usize::from(SPREAD.unsigned_abs())).saturating_mul(5) / 4 + 8;
            let parts =
                (0..SPREAD).map(|part| self.read::<(String, String)>(pick, (part, &after, cql_limit(each)), each));
            let parts = try_join_all(parts).await?;
            // Behind the end of a page that was full there may be more of its partition.
            let end =
                parts.iter().filter(|rows| rows.len() >= each).filter_map(|rows| rows.last()).map(|row| &row.0).min();
            let end = end.cloned();
            let mut rows: Vec<_> = parts.into_iter().flatten().collect();
            rows.retain(|(id, _)| end.as_ref().is_none_or(|end| id <= end));
            rows.sort_unstable();
            let left = limit - taken.len();
            taken.extend(rows.iter().filter_map(|(id, body)| take(id, body)).take(left));
            match end {
                Some(end) => after = end,
                None => break,
            }
        }
        Ok(taken)
    }

    /// Reads the rows of one partition from the newest on, until `limit` of them are read: those that cannot be are left out.
    /// `values` makes those of the statement from the id that all read ones come before, and how many are asked for.
    async fn newest<T: DeserializeOwned, V: SerializeRow>(
        &self,
        what: &str,
        pick: impl Fn(&Statements) -> &PreparedStatement + Copy,
        values: impl Fn(String, i32) -> V,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<T>> {
        let (mut found, mut before) = (Vec::new(), before.unwrap_or(AFTER_ALL).to_owned());
        while found.len() < limit {
            let left = limit - found.len();
            let rows = self.read::<(String, String)>(pick, values(before.clone(), cql_limit(left)), left).await?;
            found.extend(rows.iter().filter_map(|(id, body)| readable(&format!("{what} {id}"), body)));
            match rows.last().filter(|_| rows.len() >= left) {
                Some((last, _)) => before = last.clone(),
                None => break,
            }
        }
        Ok(found)
    }
}

/// Whether a conditional write was made, in the first column of its answer: ScyllaDB and Cassandra differ in the others.
fn applied(answer: &scylla::response::query_result::QueryResult) -> Result<bool> {
    let damaged = |why: &dyn std::fmt::Display| Error::Damaged(format!("the answer to a conditional write: {why}"));
    let rows = answer.clone().into_rows_result().map_err(|why| damaged(&why))?;
    let row = rows.first_row::<Row>().map_err(|why| damaged(&why))?;
    match row.columns.first() {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        other => Err(damaged(&format!("{other:?}"))),
    }
}

fn decode<T: DeserializeOwned>(what: &str, body: &str) -> Result<T> {
    serde_json::from_str(body).map_err(|error| Error::Damaged(format!("{what}: {error}")))
}

fn json<T: Serialize>(row: &T) -> String {
    serde_json::to_string(row).expect("a row is plain data")
}

fn cql_limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// Leaves out and logs what does not decode: one bad row must not hide the others.
fn readable<T: DeserializeOwned>(what: &str, body: &str) -> Option<T> {
    decode(what, body).inspect_err(|error| tracing::error!(%error, "a row is left out")).ok()
}
