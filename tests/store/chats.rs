//! The contract of `store::Meta` for chats.

use std::sync::Arc;

use weir::{
    id::{EventId, StreamId},
    store::{ChatLog, ChatRow, ChatWrite, Meta},
    time::UnixMs,
};

use super::{fresh, show};

fn chat_row(id: EventId) -> ChatRow {
    ChatRow { id, body: format!(r#"{{"text":"Größe \"{}\" 🎉"}}"#, id.0) }
}

async fn put_rows(meta: &impl Meta, stream: &StreamId, log: &ChatLog, ids: &[EventId]) {
    let writes = ids.iter().map(|id| ChatWrite::Row { log: log.clone(), row: chat_row(*id) });
    meta.put_chat(stream, writes.collect()).await.unwrap();
}

pub async fn chats_page_both_ways_over_quiet_years(meta: Arc<impl Meta>) {
    let (stream, other) = (fresh("talk"), fresh("talk"));
    // Lots of ten, each in a partition of its own, minutes to a year apart.
    let days = [0, 1, 1, 2, 30, 365, 366];
    let first =
        |lot: usize| EventId::first_at(UnixMs(1_770_000_000_000 + days[lot] * 86_400_000 + lot as i64 * 601_000));
    let ids: Vec<_> = (0..days.len()).flat_map(|lot| (0..10).map(move |n| EventId(first(lot).0 + n * 7))).collect();
    // In whatever order they come, and again.
    for lot in [&ids[40..], &ids[..25], &ids[20..40]] {
        put_rows(&*meta, &stream, &ChatLog::Live, lot).await;
    }
    put_rows(&*meta, &stream, &ChatLog::Staff, &ids[3..4]).await;
    put_rows(&*meta, &stream, &ChatLog::Now, &ids[4..5]).await;
    put_rows(&*meta, &other, &ChatLog::Live, &ids[5..6]).await;

    let numbers = |rows: &[ChatRow]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let all = meta.chat(&stream, &ChatLog::Live, EventId(0), 1000).await.unwrap();
    assert_eq!(all, ids.iter().map(|id| chat_row(*id)).collect::<Vec<_>>());
    for limit in [1, 7, 10, 33] {
        let (mut forth, mut from) = (Vec::new(), EventId(0));
        loop {
            let page = meta.chat(&stream, &ChatLog::Live, from, limit).await.unwrap();
            forth.extend(numbers(&page));
            match page.last().filter(|_| page.len() == limit) {
                Some(last) => from = EventId(last.id.0 + 1),
                None => break,
            }
        }
        assert_eq!(forth, ids, "{limit}");
        let (mut back, mut before) = (Vec::new(), EventId::MAX);
        loop {
            let page = meta.chat_back(&stream, &ChatLog::Live, before, limit).await.unwrap();
            back.extend(numbers(&page));
            match page.last().filter(|_| page.len() == limit) {
                Some(last) => before = last.id,
                None => break,
            }
        }
        back.reverse();
        assert_eq!(back, ids, "{limit}");
    }
    let from = meta.chat(&stream, &ChatLog::Live, ids[12], 2).await.unwrap();
    assert_eq!(numbers(&from), ids[12..14]);
    let before = meta.chat_back(&stream, &ChatLog::Live, ids[12], 3).await.unwrap();
    assert_eq!(numbers(&before), [ids[11], ids[10], ids[9]]);
    assert_eq!(meta.chat(&stream, &ChatLog::Live, EventId(0), 0).await.unwrap(), []);
    assert_eq!(numbers(&meta.chat(&stream, &ChatLog::Staff, EventId(0), 9).await.unwrap()), ids[3..4]);
    assert_eq!(numbers(&meta.chat_back(&stream, &ChatLog::Now, EventId::MAX, 9).await.unwrap()), ids[4..5]);
    assert_eq!(numbers(&meta.chat_back(&other, &ChatLog::Live, EventId::MAX, 9).await.unwrap()), ids[5..6]);
    assert_eq!(meta.chat(&fresh("talk"), &ChatLog::Live, EventId(0), 9).await.unwrap(), []);
}

pub async fn rules_of_a_room_take_the_place_of_their_name(meta: Arc<impl Meta>) {
    let (stream, other) = (fresh("rules"), fresh("rules"));
    let rule = |name: &str, body: Option<&str>| ChatWrite::Rule { name: name.into(), body: body.map(str::to_owned) };
    assert_eq!(meta.chat_rules(&stream).await.unwrap(), []);
    let writes = vec![rule("ban/a", Some("1")), rule("ban/b", Some("2")), rule("settings", Some("{}"))];
    meta.put_chat(&stream, writes).await.unwrap();
    meta.put_chat(&other, vec![rule("ban/a", Some("9"))]).await.unwrap();
    meta.put_chat(&stream, vec![rule("ban/a", None)]).await.unwrap();
    meta.put_chat(&stream, vec![rule("ban/b", Some("3"))]).await.unwrap();
    let mut rules = meta.chat_rules(&stream).await.unwrap();
    rules.sort();
    assert_eq!(rules, [("ban/b".to_owned(), "3".to_owned()), ("settings".to_owned(), "{}".to_owned())]);
    meta.put_chat(&stream, vec![rule("ban/a", Some("4"))]).await.unwrap();
    assert_eq!(meta.chat_rules(&stream).await.unwrap().len(), 3);
    assert_eq!(meta.chat_rules(&other).await.unwrap().len(), 1);
}

pub async fn a_chat_of_a_recording_is_dropped_alone(meta: Arc<impl Meta>) {
    let stream = fresh("kept");
    let (one, other) = (ChatLog::Of(show("01a")), ChatLog::Of(show("01ab")));
    let ids: Vec<_> = (0..3).map(|n| EventId::first_at(UnixMs(1_770_000_000_000 + n * 3_600_000))).collect();
    for log in [&one, &other, &ChatLog::Live, &ChatLog::MarksOf(show("01a"))] {
        put_rows(&*meta, &stream, log, &ids).await;
    }
    meta.drop_chat(&stream, &one).await.unwrap();
    assert_eq!(meta.chat(&stream, &one, EventId(0), 9).await.unwrap(), []);
    for log in [&other, &ChatLog::Live, &ChatLog::MarksOf(show("01a"))] {
        assert_eq!(meta.chat(&stream, log, EventId(0), 9).await.unwrap().len(), 3, "{log}");
    }
    put_rows(&*meta, &stream, &one, &ids[1..]).await;
    assert_eq!(meta.chat(&stream, &one, EventId(0), 9).await.unwrap().len(), 2);
}
