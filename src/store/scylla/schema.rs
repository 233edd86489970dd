//! Tables of the metadata store, and how a database comes to have them. Versions are only ever added, never change or drop
//! what is there, and are noted in a table, so that nodes of two releases can share a database while it is upgraded.

use scylla::client::session::Session;

use super::{Settings, connect};
use crate::store::{Error, Result};

/// What each version adds. `{ks}` is the keyspace, `{log}` the one whose rows are written by LWT alone.
///
/// Partitions are bounded: a chunk bucket is an hour (1,800 numbers, some 1.3 MB before compression), the rows that are found
/// by id lie in [`SPREAD`](super::SPREAD) partitions, everything else is of one stream or one broadcast. `body` is the row as
/// JSON, the same as in the embedded store.
const VERSIONS: &[&[&str]] = &[
    &[
        "CREATE TABLE IF NOT EXISTS {log}.stream (spread tinyint, id text, body text, PRIMARY KEY (spread, id))",
        "CREATE TABLE IF NOT EXISTS {log}.epoch (stream text, kind tinyint, broadcast text, epoch bigint, writer uuid, \
     body text, PRIMARY KEY (stream, kind, broadcast, epoch)) \
     WITH CLUSTERING ORDER BY (kind ASC, broadcast ASC, epoch DESC)",
        "CREATE TABLE IF NOT EXISTS {ks}.chunk (stream text, broadcast text, bucket bigint, k bigint, epoch bigint, \
     body text, PRIMARY KEY ((stream, broadcast, bucket), k, epoch))",
        "CREATE TABLE IF NOT EXISTS {ks}.chunk_bucket (stream text, broadcast text, bucket bigint, \
     PRIMARY KEY ((stream, broadcast), bucket))",
        "CREATE TABLE IF NOT EXISTS {ks}.broadcast (stream text, id text, body text, PRIMARY KEY (stream, id)) \
     WITH CLUSTERING ORDER BY (id DESC)",
        "CREATE TABLE IF NOT EXISTS {ks}.broadcast_id (spread tinyint, id text, stream text, PRIMARY KEY (spread, id))",
        "CREATE TABLE IF NOT EXISTS {ks}.broadcast_open (spread tinyint, stream text, id text, body text, \
     PRIMARY KEY (spread, stream, id))",
        "CREATE TABLE IF NOT EXISTS {ks}.about (stream text, broadcast text, body text, PRIMARY KEY ((stream, broadcast)))",
        "CREATE TABLE IF NOT EXISTS {ks}.clip (id text PRIMARY KEY, body text)",
        "CREATE TABLE IF NOT EXISTS {ks}.clip_of (kind tinyint, owner text, id text, body text, \
     PRIMARY KEY ((kind, owner), id)) WITH CLUSTERING ORDER BY (id DESC)",
        // Read as a whole once a second: what is over must be gone soon. Repair runs more often than every three hours, or a
        // row that is over may come back, which does no harm.
        "CREATE TABLE IF NOT EXISTS {ks}.access (spread tinyint, name text, body text, PRIMARY KEY (spread, name)) \
     WITH gc_grace_seconds = 10800",
        "CREATE TABLE IF NOT EXISTS {ks}.job (spread tinyint, id text, body text, PRIMARY KEY (spread, id))",
    ],
    &["CREATE TABLE IF NOT EXISTS {ks}.node (spread tinyint, id text, body text, PRIMARY KEY (spread, id))"],
    &[
        // Rows that age carry their time to live, and a day's files go as a whole. A bucket is ten minutes; those that have rows
        // are noted, as most have none.
        "CREATE TABLE IF NOT EXISTS {ks}.chat (stream text, log text, bucket bigint, id bigint, body text, \
     PRIMARY KEY ((stream, log, bucket), id)) WITH CLUSTERING ORDER BY (id DESC) AND compaction = \
     {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}",
        "CREATE TABLE IF NOT EXISTS {ks}.chat_bucket (stream text, log text, bucket bigint, \
     PRIMARY KEY ((stream, log), bucket)) WITH CLUSTERING ORDER BY (bucket DESC)",
        "CREATE TABLE IF NOT EXISTS {ks}.chat_kept (stream text, log text, bucket bigint, id bigint, body text, \
     PRIMARY KEY ((stream, log, bucket), id)) WITH CLUSTERING ORDER BY (id DESC)",
        "CREATE TABLE IF NOT EXISTS {ks}.chat_rule (stream text, name text, body text, PRIMARY KEY (stream, name))",
    ],
    &[
        // A bucket is a day of minutes or 30 days of hours: 1,440 rows for each process that counted. A row is written some four times
        // within its minute, so files of ten days hold all that is ever written of it.
        "CREATE TABLE IF NOT EXISTS {ks}.audience (stream text, span tinyint, bucket bigint, at bigint, broadcast text, \
     part text, body text, PRIMARY KEY ((stream, span, bucket), at, broadcast, part)) WITH compaction = \
     {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': 10}",
        "CREATE TABLE IF NOT EXISTS {ks}.audience_whole (stream text, broadcast text, part text, body text, \
     PRIMARY KEY ((stream, broadcast), part))",
    ],
];

/// The tables' version that this release knows.
pub const VERSION: i32 = VERSIONS.len() as i32;

const NOTES: &str = "CREATE TABLE IF NOT EXISTS {ks}.schema_version (one tinyint, version int, made timestamp, \
     PRIMARY KEY (one, version))";

/// Puts the keyspaces' names in.
pub fn named(cql: &str, keyspace: &str) -> String {
    cql.replace("{ks}", keyspace).replace("{log}", &log(keyspace))
}

/// The keyspace whose rows are written by LWT alone.
fn log(keyspace: &str) -> String {
    format!("{keyspace}_log")
}

/// What a database lacks of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Whole,
    /// It has this version; 0 for none.
    Older(i32),
}

/// Looks what is there.
///
/// # Errors
/// [`Error::Unfit`] when a newer release made the tables.
pub async fn look(session: &Session, settings: &Settings) -> Result<Standing> {
    for keyspace in [settings.keyspace.clone(), log(&settings.keyspace)] {
        if !exists(session, "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?", &[&keyspace])
            .await?
        {
            return Ok(Standing::Older(0));
        }
    }
    let table = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    if !exists(session, table, &[&settings.keyspace, "schema_version"]).await? {
        return Ok(Standing::Older(0));
    }
    let cql = named("SELECT version FROM {ks}.schema_version WHERE one = 0", &settings.keyspace);
    let rows = connect::rows(session, &cql, ()).await?;
    let rows = rows.rows::<(i32,)>().map_err(|why| Error::Damaged(format!("the schema's version: {why}")))?;
    match rows.filter_map(|row| row.ok()).map(|row| row.0).max().unwrap_or(0) {
        VERSION => Ok(Standing::Whole),
        newer if newer > VERSION => Err(Error::Unfit(format!(
            "keyspace {} has tables of version {newer}, made by a newer weir; this one knows version {VERSION}",
            settings.keyspace
        ))),
        older => Ok(Standing::Older(older)),
    }
}

/// Makes what is missing. May be done by several nodes at once, and again.
pub async fn make(session: &Session, settings: &Settings) -> Result<()> {
    let standing = look(session, settings).await?;
    let Standing::Older(have) = standing else { return Ok(()) };
    let replication = replication(session, settings).await?;
    // Where a keyspace can be kept in tablets, LWT may not work in it (ScyllaDB before 2025.4).
    let knows_tablets = "SELECT column_name FROM system_schema.columns \
         WHERE keyspace_name = 'system_schema' AND table_name = 'scylla_keyspaces' AND column_name = 'initial_tablets'";
    let knows_tablets = exists(session, knows_tablets, &[]).await?;
    let plain = if knows_tablets { " AND tablets = {'enabled': false}" } else { "" };
    for (keyspace, more) in [(settings.keyspace.clone(), ""), (log(&settings.keyspace), plain)] {
        let cql = format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}{more}");
        connect::change(session, &cql).await?;
    }
    connect::change(session, &named(NOTES, &settings.keyspace)).await?;
    for (version, tables) in (1..).zip(VERSIONS).skip(have as usize) {
        for table in *tables {
            connect::change(session, &named(table, &settings.keyspace)).await?;
        }
        let note = named(
            "INSERT INTO {ks}.schema_version (one, version, made) VALUES (0, ?, toTimestamp(now()))",
            &settings.keyspace,
        );
        connect::run(session, &note, (version,)).await?;
    }
    Ok(())
}

/// The replication of new keyspaces: as configured, or as many copies as there are nodes, three at most.
async fn replication(session: &Session, settings: &Settings) -> Result<String> {
    let local = connect::rows(session, "SELECT data_center FROM system.local", ()).await?;
    let local = local.single_row::<(String,)>().map_err(|why| Error::Damaged(format!("system.local: {why}")))?.0;
    let datacenter = settings.datacenter.as_ref().unwrap_or(&local);
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info().iter().filter(|node| node.datacenter.as_ref() == Some(datacenter)).count();
    let copies = if settings.replicas > 0 { settings.replicas as usize } else { nodes.clamp(1, 3) };
    Ok(format!("{{'class': 'NetworkTopologyStrategy', '{datacenter}': {copies}}}"))
}

async fn exists(session: &Session, cql: &str, values: &[&str]) -> Result<bool> {
    let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    Ok(connect::rows(session, cql, values).await?.rows_num() > 0)
}
