//! Chats in the embedded store: rows as they are given, under keys that hold their ids.

use std::ops::Range;

use super::{
    Embedded, Put,
    engine::{self, Db},
    keys::{self, Space},
    writer::Check,
};
use crate::{
    id::{EventId, StreamId},
    store::{ChatLog, ChatRow, ChatWrite, Error, Result},
};

/// Rows that are deleted at a time.
const LOT: usize = 1000;
/// Logs whose rows go when they are old.
const AGEING: [ChatLog; 4] = [ChatLog::Live, ChatLog::Marks, ChatLog::Staff, ChatLog::Now];

pub(super) fn puts(stream: &StreamId, writes: Vec<ChatWrite>) -> Vec<Put> {
    let put = |write| match write {
        ChatWrite::Row { log, row } => {
            Put { space: Space::Chat, key: keys::chat(stream, &log, row.id), value: Some(row.body.into_bytes()) }
        }
        ChatWrite::Rule { name, body } => {
            let (key, value) = (keys::chat_rule(stream, &name), body.map(String::into_bytes));
            Put { space: Space::ChatRules, key, value }
        }
    };
    writes.into_iter().map(put).collect()
}

fn text(space: Space, key: &[u8], value: &[u8]) -> Result<String> {
    let text = String::from_utf8(value.to_vec());
    text.map_err(|error| Error::Damaged(format!("{}: {error}", keys::show(space, key))))
}

impl Embedded {
    /// Reads rows, from the end of a range when `back`. One that cannot be read is left out and logged.
    pub(super) async fn chat_page(&self, range: Range<Vec<u8>>, back: bool, limit: usize) -> Result<Vec<ChatRow>> {
        self.read(move |db| {
            let rows = db.table(Space::Chat).range(range);
            if back { page(rows.rev(), limit) } else { page(rows, limit) }
        })
        .await
    }

    pub(super) async fn read_rules(&self, stream: &StreamId) -> Result<Vec<(String, String)>> {
        let range = keys::chat_rules(stream);
        self.read(move |db| {
            let mut rules = Vec::new();
            for row in db.table(Space::ChatRules).range(range) {
                let (key, value) = row.into_inner().map_err(|error| engine::read_error("chat rules", error))?;
                let name = keys::rule_name(&key).map(str::to_owned);
                match text(Space::ChatRules, &key, &value) {
                    Ok(body) => rules.extend(name.map(|name| (name, body))),
                    Err(error) => tracing::error!(%error, "a row is left out"),
                }
            }
            Ok(rules)
        })
        .await
    }

    /// Deletes the rows of a range, some at a time.
    pub(super) async fn drop_rows(&self, space: Space, range: Range<Vec<u8>>) -> Result<()> {
        loop {
            let range = range.clone();
            let lot = self.read(move |db| some_keys(db, space, range)).await?;
            let is_last = lot.len() < LOT;
            let gone = lot.into_iter().map(|key| Put { space, key, value: None });
            self.write(Check::Nothing, gone.collect(), false).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Deletes the rows before an id of all logs that age, log after log.
    pub(super) async fn trim(&self, before: EventId) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let begin = from.clone();
            let first =
                self.read(move |db| Ok(some_keys(db, Space::Chat, begin..vec![u8::MAX])?.into_iter().next())).await?;
            let Some(key) = first else { return Ok(()) };
            if keys::is_of(&key, &AGEING) {
                let head = &key[..key.len() - 8];
                let end = [head, &before.0.to_be_bytes()].concat();
                self.drop_rows(Space::Chat, [head, &[0; 8]].concat()..end).await?;
            }
            from = keys::after_log(&key);
        }
    }
}

pub(super) fn some_keys(db: &Db, space: Space, range: Range<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let rows = db.table(space).range(range).take(LOT);
    let key = |row: fjall::Guard| row.key().map(|key| key.to_vec());
    rows.map(key).collect::<std::result::Result<_, _>>().map_err(|error| engine::read_error("keys", error))
}

fn page(rows: impl Iterator<Item = fjall::Guard>, limit: usize) -> Result<Vec<ChatRow>> {
    let mut found = Vec::new();
    for row in rows {
        if found.len() >= limit {
            break;
        }
        let (key, value) = row.into_inner().map_err(|error| engine::read_error("a chat", error))?;
        let id = keys::chat_id(&key).ok_or_else(|| Error::Damaged(keys::show(Space::Chat, &key)))?;
        match text(Space::Chat, &key, &value) {
            Ok(body) => found.push(ChatRow { id, body }),
            Err(error) => tracing::error!(%error, "a row is left out"),
        }
    }
    Ok(found)
}
