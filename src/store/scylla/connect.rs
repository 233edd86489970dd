//! Sessions with the database: how they are made, and what their errors mean.

use std::{sync::Arc, time::Duration};

use scylla::{
    client::{
        execution_profile::{ExecutionProfile, ExecutionProfileHandle},
        session::Session,
        session_builder::SessionBuilder,
    },
    errors::{
        ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError, MetadataError,
        NewSessionError, PrepareError, RequestAttemptError,
    },
    policies::{
        load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
        retry::{DefaultRetryPolicy, FallthroughRetryPolicy},
        speculative_execution::SimpleSpeculativeExecutionPolicy,
        timestamp_generator::MonotonicTimestampGenerator,
    },
    response::query_result::QueryRowsResult,
    serialize::row::SerializeRow,
    statement::{Consistency, SerialConsistency},
};

use super::Settings;
use crate::store::{Error, Result};

/// A node on the same network answers in milliseconds.
const CONNECT: Duration = Duration::from_secs(1);
/// One request; a chunk must be stored within its own time.
const REQUEST: Duration = Duration::from_secs(2);
/// A connection that is silent for so long is given up.
const SILENT: Duration = Duration::from_secs(2);
/// A read that takes longer is asked of another replica, too; a write, which may be made twice, as well.
const SLOW_READ: Duration = Duration::from_millis(50);
const SLOW_WRITE: Duration = Duration::from_millis(250);
/// Changes of the schema wait for all nodes.
const CHANGE: Duration = Duration::from_secs(30);

/// How statements are executed.
#[derive(Clone)]
pub struct Profiles {
    /// Plain writes: a quorum of the datacenter; a slow one is made a second time, because they are idempotent.
    pub write: ExecutionProfileHandle,
    /// Reads: the same, and a slow replica is not waited for.
    pub read: ExecutionProfileHandle,
    /// Conditional writes and what is read beside them. Never tried again: an unknown outcome is read back.
    pub serial: ExecutionProfileHandle,
    /// Gives every write of this process a later time than the one before, whatever node takes it and whatever session it is of.
    clock: Arc<MonotonicTimestampGenerator>,
}

impl Profiles {
    pub fn new(settings: &Settings) -> Self {
        let serial = if settings.serial_local { SerialConsistency::LocalSerial } else { SerialConsistency::Serial };
        let base = || {
            ExecutionProfile::builder()
                .consistency(Consistency::LocalQuorum)
                .serial_consistency(Some(serial))
                .request_timeout(Some(REQUEST))
        };
        let twice = |after| {
            let speculative = SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: after };
            let plain = base().retry_policy(Arc::new(DefaultRetryPolicy::new()));
            plain.speculative_execution_policy(Some(Arc::new(speculative))).build().into_handle()
        };
        Self {
            clock: Arc::new(MonotonicTimestampGenerator::new()),
            write: twice(SLOW_WRITE),
            read: twice(SLOW_READ),
            serial: base().retry_policy(Arc::new(FallthroughRetryPolicy::new())).build().into_handle(),
        }
    }
}

/// The consistency that reads what conditional writes decided.
pub fn serial_read(settings: &Settings) -> Consistency {
    if settings.serial_local { Consistency::LocalSerial } else { Consistency::Serial }
}

/// Makes a session.
///
/// # Errors
/// [`Error::Unfit`] where another try is of no use before something is set right, [`Error::Unavailable`] otherwise.
pub async fn session(settings: &Settings, profiles: &Profiles) -> Result<Session> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&settings.nodes)
        .default_execution_profile_handle(profiles.write.clone())
        .timestamp_generator(profiles.clock.clone())
        .connection_timeout(CONNECT)
        .keepalive_interval(SILENT)
        .keepalive_timeout(SILENT)
        .schema_agreement_interval(Duration::from_millis(50))
        // Which keyspaces there are is asked for where it matters.
        .fetch_schema_metadata(true)
        .keyspaces_to_fetch([settings.keyspace.clone(), format!("{}_log", settings.keyspace)]);
    if let Some((user, password)) = &settings.login {
        builder = builder.user(user, password.expose());
    }
    if let Some(datacenter) = &settings.datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    if let Some(tls) = &settings.tls {
        builder = builder.tls_context(Some(tls.clone()));
    }
    let session = builder.build().await.map_err(|why| no_session(settings, &why))?;
    let state = session.get_cluster_state();
    let mut known: Vec<_> = state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
    known.sort();
    known.dedup();
    match &settings.datacenter {
        Some(wanted) if !known.is_empty() && !known.contains(wanted) => {
            Err(Error::Unfit(format!("store.datacenter = {wanted:?}: the cluster has {}", known.join(", "))))
        }
        // Without one the driver would take all of them for near.
        None if known.len() > 1 => Err(Error::Unfit(format!(
            "the cluster has several datacenters: set store.datacenter to one of {}",
            known.join(", ")
        ))),
        _ => Ok(session),
    }
}

fn no_session(settings: &Settings, why: &NewSessionError) -> Error {
    let nodes = settings.nodes.join(", ");
    if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: ConnectionError::ConnectionSetupRequestError(why),
    })) = why
        && let ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, _)
        | ConnectionSetupRequestErrorKind::MissingAuthentication = &why.error
    {
        return Error::Unfit(match &settings.login {
            Some((user, _)) => format!("{nodes} does not let user {user:?} in: look at store.user and store.password"),
            None => format!("{nodes} lets nobody in without a password: set store.user and store.password"),
        });
    }
    Error::Unavailable(format!("no session with {nodes}: {why}"))
}

/// Asks something that is asked once, at start.
pub async fn rows(session: &Session, cql: &str, values: impl SerializeRow) -> Result<QueryRowsResult> {
    let prepared = session.prepare(cql).await.map_err(prepare)?;
    let answer = session.execute_unpaged(&prepared, values).await.map_err(execution)?;
    answer.into_rows_result().map_err(|why| Error::Damaged(why.to_string()))
}

/// Writes something that is written once, at start.
pub async fn run(session: &Session, cql: &str, values: impl SerializeRow) -> Result<()> {
    let prepared = session.prepare(cql).await.map_err(prepare)?;
    session.execute_unpaged(&prepared, values).await.map(|_| ()).map_err(execution)
}

/// Changes the schema.
pub async fn change(session: &Session, cql: &str) -> Result<()> {
    let mut statement = scylla::statement::unprepared::Statement::new(cql);
    statement.set_request_timeout(Some(CHANGE));
    statement.set_is_idempotent(true);
    // All who do this at the same time ask the same node: two could make one table twice, each with an id of its own.
    let state = session.get_cluster_state();
    if let Some(first) = state.get_nodes_info().iter().map(|node| node.host_id).min() {
        statement
            .set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(NodeIdentifier::HostId(first), None)));
    }
    session.query_unpaged(statement, ()).await.map(|_| ()).map_err(|why| match execution(why) {
        Error::Unfit(why) => Error::Unfit(format!("the tables cannot be made: {why}")),
        other => other,
    })
}

/// Says what an error of a statement means.
pub fn execution(why: ExecutionError) -> Error {
    match &why {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, words)) => database(kind, words),
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(kind, words),
        }) => database(kind, words),
        _ => Error::Unavailable(why.to_string()),
    }
}

/// The same of one that could not be prepared.
pub fn prepare(why: PrepareError) -> Error {
    match &why {
        PrepareError::AllAttemptsFailed { first_attempt: RequestAttemptError::DbError(kind, words) } => {
            database(kind, words)
        }
        _ => Error::Unavailable(why.to_string()),
    }
}

fn database(kind: &DbError, words: &str) -> Error {
    match kind {
        // Who may do what is itself kept in the database, a part of which may be away.
        DbError::Unauthorized | DbError::AuthenticationError if words.contains("Unable to perform") => {
            Error::Unavailable(words.to_owned())
        }
        DbError::Unauthorized | DbError::AuthenticationError => {
            Error::Unfit(format!("the database refuses what store.user asks for: {words}"))
        }
        DbError::Invalid | DbError::SyntaxError | DbError::ConfigError => Error::Unfit(words.to_owned()),
        _ => Error::Unavailable(format!("{kind}: {words}")),
    }
}
