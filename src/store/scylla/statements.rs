//! All statements of the metadata store, prepared once for a session.

use scylla::{client::session::Session, statement::prepared::PreparedStatement};

use super::{
    Settings,
    connect::{self, Profiles},
    schema::named,
};
use crate::store::Result;

/// Rows that come with one answer; more are fetched while they are read.
const PAGE: i32 = 1000;

/// How a statement is executed.
#[derive(Clone, Copy)]
enum Kind {
    /// May be done again.
    Write,
    Read,
    /// Conditional: done once, and an unknown outcome is read back.
    Lwt,
    /// Sees what conditional writes decided.
    Serial,
}

macro_rules! statements {
    ($($name:ident: $kind:ident $cql:expr;)+) => {
        /// The statements, by what they do.
        pub struct Statements { $(pub $name: PreparedStatement,)+ }

        impl Statements {
            pub async fn prepare(session: &Session, settings: &Settings, profiles: &Profiles) -> Result<Self> {
                let prepare = async |kind, cql| prepare(session, settings, profiles, kind, cql).await;
                $(let $name = prepare(Kind::$kind, $cql).await?;)+
                Ok(Self { $($name),+ })
            }
        }
    };
}

statements! {
    create_stream: Lwt "INSERT INTO {log}.stream (spread, id, body) VALUES (?, ?, ?) IF NOT EXISTS";
    update_stream: Lwt "UPDATE {log}.stream SET body = ? WHERE spread = ? AND id = ? IF EXISTS";
    delete_stream: Lwt "DELETE FROM {log}.stream WHERE spread = ? AND id = ? IF EXISTS";
    stream: Read "SELECT body FROM {log}.stream WHERE spread = ? AND id = ?";
    stream_decided: Serial "SELECT body FROM {log}.stream WHERE spread = ? AND id = ?";
    streams: Read "SELECT id, body FROM {log}.stream WHERE spread = ? AND id > ? LIMIT ?";

    take_epoch: Lwt "INSERT INTO {log}.epoch (stream, kind, broadcast, epoch, writer, body) \
        VALUES (?, 0, '', ?, ?, ?) IF NOT EXISTS";
    note_epoch: Lwt "INSERT INTO {log}.epoch (stream, kind, broadcast, epoch, writer, body) VALUES (?, 1, ?, ?, ?, ?)";
    epoch_writer: Serial "SELECT writer FROM {log}.epoch WHERE stream = ? AND kind = 0 AND broadcast = '' AND epoch = ?";
    last_epoch: Serial "SELECT body FROM {log}.epoch WHERE stream = ? AND kind = 0 LIMIT 1";
    epochs: Read "SELECT body FROM {log}.epoch WHERE stream = ? AND kind = 1 AND broadcast = ?";

    access_stamp: Read "SELECT body, WRITETIME(body) FROM {ks}.access WHERE spread = ? AND name = ?";
    put_access: Write "UPDATE {ks}.access USING TIMESTAMP ? AND TTL ? SET body = ? WHERE spread = ? AND name = ?";
    access: Read "SELECT name, body FROM {ks}.access WHERE spread = ?";

    broadcast_stamp: Read "SELECT WRITETIME(body) FROM {ks}.broadcast WHERE stream = ? AND id = ?";
    broadcast_open_stamp: Read "SELECT WRITETIME(body) FROM {ks}.broadcast_open \
        WHERE spread = ? AND stream = ? AND id = ?";
    put_broadcast: Write "UPDATE {ks}.broadcast USING TIMESTAMP ? SET body = ? WHERE stream = ? AND id = ?";
    put_broadcast_id: Write "INSERT INTO {ks}.broadcast_id (spread, id, stream) VALUES (?, ?, ?)";
    put_broadcast_open: Write "UPDATE {ks}.broadcast_open USING TIMESTAMP ? SET body = ? \
        WHERE spread = ? AND stream = ? AND id = ?";
    drop_broadcast_open: Write "DELETE FROM {ks}.broadcast_open USING TIMESTAMP ? \
        WHERE spread = ? AND stream = ? AND id = ?";
    broadcast: Read "SELECT body FROM {ks}.broadcast WHERE stream = ? AND id = ?";
    broadcasts: Read "SELECT id, body FROM {ks}.broadcast WHERE stream = ? AND id < ? LIMIT ?";
    broadcast_ids: Read "SELECT id, stream FROM {ks}.broadcast_id WHERE spread = ? AND id > ? LIMIT ?";
    broadcasts_open: Read "SELECT id, body FROM {ks}.broadcast_open WHERE spread = ?";
    stream_of: Read "SELECT stream FROM {ks}.broadcast_id WHERE spread = ? AND id = ?";

    about_stamp: Read "SELECT WRITETIME(body) FROM {ks}.about WHERE stream = ? AND broadcast = ?";
    put_about: Write "UPDATE {ks}.about USING TIMESTAMP ? SET body = ? WHERE stream = ? AND broadcast = ?";
    about: Read "SELECT body FROM {ks}.about WHERE stream = ? AND broadcast = ?";

    put_bucket: Write "INSERT INTO {ks}.chunk_bucket (stream, broadcast, bucket) VALUES (?, ?, ?)";
    buckets: Read "SELECT bucket FROM {ks}.chunk_bucket WHERE stream = ? AND broadcast = ?";
    put_chunk: Write "INSERT INTO {ks}.chunk (stream, broadcast, bucket, k, epoch, body) VALUES (?, ?, ?, ?, ?, ?)";
    drop_chunk: Write "DELETE FROM {ks}.chunk WHERE stream = ? AND broadcast = ? AND bucket = ? AND k = ? AND epoch = ?";
    chunk: Read "SELECT k FROM {ks}.chunk WHERE stream = ? AND broadcast = ? AND bucket = ? AND k = ? AND epoch = ?";
    chunks_of_k: Read "SELECT k, epoch, body FROM {ks}.chunk \
        WHERE stream = ? AND broadcast = ? AND bucket = ? AND k = ?";
    chunks: Read "SELECT k, epoch, body FROM {ks}.chunk \
        WHERE stream = ? AND broadcast = ? AND bucket = ? AND k >= ? LIMIT ?";
    chunks_back: Read "SELECT k, epoch, body FROM {ks}.chunk \
        WHERE stream = ? AND broadcast = ? AND bucket = ? AND k < ? ORDER BY k DESC, epoch DESC LIMIT ?";

    put_clip: Write "INSERT INTO {ks}.clip (id, body) VALUES (?, ?)";
    put_clip_of: Write "INSERT INTO {ks}.clip_of (kind, owner, id, body) VALUES (?, ?, ?, ?)";
    clip_stamp: Read "SELECT WRITETIME(body) FROM {ks}.clip WHERE id = ?";
    drop_clip: Write "DELETE FROM {ks}.clip USING TIMESTAMP ? WHERE id = ?";
    drop_clip_of: Write "DELETE FROM {ks}.clip_of USING TIMESTAMP ? WHERE kind = ? AND owner = ? AND id = ?";
    clip: Read "SELECT body FROM {ks}.clip WHERE id = ?";
    clips: Read "SELECT id, body FROM {ks}.clip_of WHERE kind = ? AND owner = ? AND id < ? LIMIT ?";

    job_stamp: Read "SELECT WRITETIME(body) FROM {ks}.job WHERE spread = ? AND id = ?";
    put_job: Write "UPDATE {ks}.job USING TIMESTAMP ? SET body = ? WHERE spread = ? AND id = ?";
    drop_job: Write "DELETE FROM {ks}.job USING TIMESTAMP ? WHERE spread = ? AND id = ?";
    jobs: Read "SELECT id, body FROM {ks}.job WHERE spread = ?";

    node_stamp: Read "SELECT WRITETIME(body) FROM {ks}.node WHERE spread = ? AND id = ?";
    put_node: Write "UPDATE {ks}.node USING TIMESTAMP ? SET body = ? WHERE spread = ? AND id = ?";
    drop_node: Write "DELETE FROM {ks}.node USING TIMESTAMP ? WHERE spread = ? AND id = ?";
    nodes: Read "SELECT id, body FROM {ks}.node WHERE spread = ?";

    put_chat_bucket: Write "INSERT INTO {ks}.chat_bucket (stream, log, bucket) VALUES (?, ?, ?) USING TTL ?";
    drop_chat_buckets: Write "DELETE FROM {ks}.chat_bucket WHERE stream = ? AND log = ?";
    chat_buckets: Read "SELECT bucket FROM {ks}.chat_bucket WHERE stream = ? AND log = ? AND bucket >= ? \
        ORDER BY bucket ASC LIMIT ?";
    chat_buckets_back: Read "SELECT bucket FROM {ks}.chat_bucket WHERE stream = ? AND log = ? AND bucket <= ? LIMIT ?";
    put_chat: Write "INSERT INTO {ks}.chat (stream, log, bucket, id, body) VALUES (?, ?, ?, ?, ?) USING TTL ?";
    put_chat_kept: Write "INSERT INTO {ks}.chat_kept (stream, log, bucket, id, body) VALUES (?, ?, ?, ?, ?) USING TTL ?";
    drop_chat: Write "DELETE FROM {ks}.chat WHERE stream = ? AND log = ? AND bucket = ?";
    drop_chat_kept: Write "DELETE FROM {ks}.chat_kept WHERE stream = ? AND log = ? AND bucket = ?";
    chat: Read "SELECT id, body FROM {ks}.chat WHERE stream = ? AND log = ? AND bucket = ? AND id >= ? \
        ORDER BY id ASC LIMIT ?";
    chat_kept: Read "SELECT id, body FROM {ks}.chat_kept WHERE stream = ? AND log = ? AND bucket = ? AND id >= ? \
        ORDER BY id ASC LIMIT ?";
    chat_back: Read "SELECT id, body FROM {ks}.chat WHERE stream = ? AND log = ? AND bucket = ? AND id < ? LIMIT ?";
    chat_kept_back: Read "SELECT id, body FROM {ks}.chat_kept WHERE stream = ? AND log = ? AND bucket = ? AND id < ? \
        LIMIT ?";
    chat_rule_stamp: Read "SELECT WRITETIME(body) FROM {ks}.chat_rule WHERE stream = ? AND name = ?";
    put_chat_rule: Write "UPDATE {ks}.chat_rule USING TIMESTAMP ? SET body = ? WHERE stream = ? AND name = ?";
    chat_rules: Read "SELECT name, body FROM {ks}.chat_rule WHERE stream = ?";

    put_audience: Write "INSERT INTO {ks}.audience (stream, span, bucket, at, broadcast, part, body) \
        VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?";
    put_audience_whole: Write "INSERT INTO {ks}.audience_whole (stream, broadcast, part, body) VALUES (?, ?, ?, ?) \
        USING TIMESTAMP ?";
    audience: Read "SELECT body FROM {ks}.audience WHERE stream = ? AND span = ? AND bucket = ? AND at >= ? AND at < ? LIMIT ?";
    audience_of: Read "SELECT body FROM {ks}.audience_whole WHERE stream = ? AND broadcast = ?";
}

async fn prepare(
    session: &Session,
    settings: &Settings,
    profiles: &Profiles,
    kind: Kind,
    cql: &str,
) -> Result<PreparedStatement> {
    let mut statement = session.prepare(named(cql, &settings.keyspace)).await.map_err(connect::prepare)?;
    let profile = match kind {
        Kind::Write => &profiles.write,
        Kind::Read => &profiles.read,
        Kind::Lwt | Kind::Serial => &profiles.serial,
    };
    statement.set_execution_profile_handle(Some(profile.clone()));
    statement.set_is_idempotent(!matches!(kind, Kind::Lwt));
    if matches!(kind, Kind::Serial) {
        statement.set_consistency(connect::serial_read(settings));
    }
    statement.set_page_size(PAGE);
    Ok(statement)
}
