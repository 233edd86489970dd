use super::*;
use crate::{
    chat::{
        Event, Message,
        past::{From, Past},
    },
    store::embedded::Embedded,
};

const BEGUN: i64 = 1_770_000_000_000;
const MINUTE: i64 = 60_000;

fn at(minute: i64) -> UnixMs {
    UnixMs(BEGUN + minute * MINUTE)
}

fn alice() -> StreamId {
    StreamId::new("alice").unwrap()
}

/// What was said in the minute, under a name of its own.
fn said(minute: i64) -> Event {
    Event::Message(Message {
        id: EventId::first_at(at(minute)),
        user: "g-1".parse().unwrap(),
        name: "Ann".into(),
        roles: Vec::new(),
        text: minute.to_string(),
        reply: None,
        nonce: Some("n".into()),
    })
}

async fn write(meta: &dyn Meta, log: ChatLog, events: impl IntoIterator<Item = (i64, String)>) {
    let row = |(minute, body)| ChatRow { id: EventId::first_at(at(minute)), body };
    let writes = events.into_iter().map(|event| ChatWrite::Row { log: log.clone(), row: row(event) });
    meta.put_chat(&alice(), writes.collect()).await.unwrap();
}

async fn say(meta: &dyn Meta, minutes: impl IntoIterator<Item = i64>) {
    let row = |minute| (minute, serde_json::to_string(&said(minute)).unwrap());
    write(meta, ChatLog::Live, minutes.into_iter().map(row)).await;
}

async fn broadcast(meta: &dyn Meta, started: i64, ended: Option<i64>) -> BroadcastRow {
    let row = BroadcastRow {
        id: BroadcastId::first_at(at(started)),
        stream: alice(),
        started: at(started),
        ended: ended.map(at),
        target: 2,
        chunk_ms: 2000,
        part_ticks: 0,
        part_target_ms: 0,
        renditions: Vec::new(),
        summary: None,
        deleted: None,
    };
    meta.put_broadcast(row.clone()).await.unwrap();
    row
}

/// What a viewer of the recording is shown, page by page.
async fn shown(meta: &dyn Meta, row: &BroadcastRow) -> Vec<i64> {
    let past = Past::of_broadcast(meta, row).await.unwrap();
    let (mut all, mut from) = (Vec::new(), EventId(0));
    loop {
        let page = past.page(From::After(from), 3).await.unwrap();
        all.extend(page.messages.into_iter().map(|message| message.text.parse::<i64>().unwrap()));
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let mut back = past.page(From::Before(EventId::MAX), 1000).await.unwrap().messages;
    back.reverse();
    let back: Vec<_> = back.into_iter().map(|message| message.text.parse::<i64>().unwrap()).collect();
    assert_eq!(back, all);
    all
}

struct Tried {
    _folder: tempfile::TempDir,
    meta: Arc<Embedded>,
    keep: Keep,
}

impl Tried {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let meta = Arc::new(Embedded::open(folder.path()).unwrap());
        let places = Arc::new(super::super::rooms::Alone::default());
        let keep = Keep::new(meta.clone(), places, Duration::from_secs(86_400));
        Self { _folder: folder, meta, keep }
    }

    async fn look(&mut self, minute: i64) {
        self.keep.look(at(minute)).await.unwrap();
    }

    /// All rows of rooms are too old.
    async fn age(&self) {
        self.meta.trim_chat(EventId::MAX).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_said_stays_with_the_recording_when_the_room_forgets_it() {
    let mut tried = Tried::new().await;
    let meta = tried.meta.clone();
    say(&*meta, 0..100).await;
    let row = broadcast(&*meta, 10, Some(40)).await;
    assert_eq!(shown(&*meta, &row).await, (10..=40).collect::<Vec<_>>());
    // Not all may be there yet.
    tried.look(45).await;
    tried.look(51).await;
    assert_eq!(shown(&*meta, &row).await, (10..=40).collect::<Vec<_>>());
    tried.age().await;
    assert_eq!(shown(&*meta, &row).await, (10..=40).collect::<Vec<_>>());
    let room = alice();
    let room = Past::of_room(&*meta, &room).await.unwrap();
    assert_eq!(room.page(From::Before(EventId::MAX), 9).await.unwrap().messages, []);
}

#[tokio::test]
async fn a_broadcast_that_runs_longer_than_rooms_are_kept_keeps_its_beginning() {
    let mut tried = Tried::new().await;
    let meta = tried.meta.clone();
    broadcast(&*meta, 0, None).await;
    say(&*meta, 0..50).await;
    tried.look(30).await;
    tried.age().await;
    say(&*meta, 30..100).await;
    let row = broadcast(&*meta, 0, Some(90)).await;
    tried.look(200).await;
    tried.age().await;
    let kept = shown(&*meta, &row).await;
    assert_eq!(kept, (0..=20).chain(30..=90).collect::<Vec<_>>());
    // There is nothing left to do, also for a node that has just started.
    assert!(tried.keep.open.is_empty());
    let mut again = Keep::new(meta.clone(), Arc::new(super::super::rooms::Alone::default()), Duration::ZERO);
    again.look(at(300)).await.unwrap();
    assert!(again.open.is_empty());
    assert_eq!(shown(&*meta, &row).await, kept);
}

#[tokio::test]
async fn what_was_taken_back_is_not_shown_whenever_that_was() {
    let mut tried = Tried::new().await;
    let meta = tried.meta.clone();
    say(&*meta, 0..20).await;
    let row = broadcast(&*meta, 0, Some(15)).await;
    let take_back = async |minute: i64| {
        let row = ChatRow { id: EventId::first_at(at(minute)), body: "{}".into() };
        mark_kept(meta.clone(), alice(), vec![row], CancellationToken::new()).await;
    };
    write(&*meta, ChatLog::Marks, [(3, "{}".to_owned())]).await;
    tried.look(40).await;
    tried.age().await;
    take_back(5).await;
    tried.age().await;
    assert_eq!(shown(&*meta, &row).await, [0, 1, 2, 4].into_iter().chain(6..=15).collect::<Vec<_>>());
    let purge = ChatWrite::Rule { name: "purged/g-1".into(), body: Some(format!("\"{}\"", EventId::first_at(at(12)))) };
    meta.put_chat(&alice(), vec![purge]).await.unwrap();
    assert_eq!(shown(&*meta, &row).await, [13, 14, 15]);
}

#[tokio::test]
async fn the_chat_of_a_deleted_recording_is_not_kept() {
    let mut tried = Tried::new().await;
    let meta = tried.meta.clone();
    say(&*meta, 0..20).await;
    let row = broadcast(&*meta, 0, Some(15)).await;
    let gone = BroadcastRow { deleted: Some(at(16)), ..broadcast(&*meta, 2, Some(9)).await };
    meta.put_broadcast(gone.clone()).await.unwrap();
    tried.look(40).await;
    tried.age().await;
    assert!(shown(&*meta, &gone).await.is_empty());
    assert_eq!(shown(&*meta, &row).await.len(), 16);
    for log in ChatLog::kept(&row.id) {
        meta.drop_chat(&alice(), &log).await.unwrap();
    }
    assert!(shown(&*meta, &row).await.is_empty());
}
