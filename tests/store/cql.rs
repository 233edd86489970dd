//! What only a database elsewhere has: lost answers, clocks that differ, restarts, and settings that cannot be.

use std::{
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use scylla::client::{session::Session, session_builder::SessionBuilder};
use weir::{
    auth::Secret,
    store::{About, AccessRow, Error, Meta, scylla::Scylla},
};

use crate::{
    proxy::{Mode, Proxy},
    servers::{OwnCql, cql, cql_at, node_settings, own, s3_at, told},
    suite::{broadcast_row, chunk_row, epoch_row, fresh, fresh_show, show, stream_row},
};

async fn session(node: &str) -> Session {
    SessionBuilder::new().known_node(node).build().await.expect("a session")
}

/// A store whose server is reached through a proxy.
async fn proxied() -> (Scylla, Proxy) {
    // The tables are there when this returns.
    drop(cql().await);
    let proxy = Proxy::start(&told("TESTS_CQL"));
    let store = Scylla::open(cql_at(&proxy.address, &own("weir_test"))).await.expect("the store");
    (store, proxy)
}

/// The write is made and its answer lost: whoever asked is told that it was made, and nobody has the number twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_whose_answer_is_lost_is_found_to_be_taken() {
    let (store, proxy) = proxied().await;
    let (id, broadcast) = (fresh("lost"), show("01b"));
    for epoch in 1..=10 {
        proxy.cut_next_batch();
        store.take_epoch(&id, epoch_row(epoch, &broadcast, epoch)).await.unwrap();
        assert!(!proxy.waits_for_batch(), "the answer was not lost");
        assert_eq!(store.last_epoch(&id).await.unwrap(), Some(epoch_row(epoch, &broadcast, epoch)));
        assert!(matches!(
            store.take_epoch(&id, epoch_row(epoch, &broadcast, 99)).await,
            Err(Error::EpochTaken(taken)) if taken == epoch
        ));
    }
    assert_eq!(store.epochs(&id, &broadcast).await.unwrap().len(), 10);
}

/// Answers are lost again and again while several race: still exactly one has each number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_taker_wins_each_epoch_though_answers_are_lost() {
    const ROUNDS: u64 = 40;
    let (id, broadcast) = (fresh("lostrace"), show("01b"));
    let mut takers = Vec::new();
    let mut proxies = Vec::new();
    for taker in 0..3 {
        let (store, proxy) = proxied().await;
        let proxy = Arc::new(proxy);
        proxies.push(proxy.clone());
        let (id, broadcast) = (id.clone(), broadcast.clone());
        takers.push(tokio::spawn(async move {
            let mut won = Vec::new();
            loop {
                let next = store.last_epoch(&id).await.unwrap().map_or(1, |row| row.epoch + 1);
                if next > ROUNDS {
                    return won;
                }
                if (next + taker) % 4 == 0 {
                    proxy.cut_next_batch();
                }
                let mut row = epoch_row(next, &broadcast, next);
                row.node = format!("taker-{taker}");
                match store.take_epoch(&id, row).await {
                    Ok(()) => won.push((next, format!("taker-{taker}"))),
                    Err(Error::EpochTaken(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }));
    }
    let mut won = Vec::new();
    for taker in takers {
        won.extend(taker.await.unwrap());
    }
    won.sort();
    let rows = cql().await.epochs(&id, &broadcast).await.unwrap();
    let rows: Vec<_> = rows.into_iter().map(|row| (row.epoch, row.node)).collect();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), (1..=ROUNDS).collect::<Vec<_>>());
    assert_eq!(won, rows, "whoever has a number was told so, and nobody else");
}

/// A writer whose clock is an hour ahead does not shadow what is written after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_write_counts_whatever_clocks_say() {
    let store = cql().await;
    let raw = session(&told("TESTS_CQL")).await;
    let (id, broadcast, keyspace) = (fresh("skew"), fresh_show(), own("weir_test"));
    let ahead = (weir::time::unix_now().0 + 3_600_000) * 1000;
    let about = |title: &str| About { title: title.into(), note: String::new() };
    let run =
        async |cql: String| _ = raw.query_unpaged(cql.clone(), ()).await.unwrap_or_else(|why| panic!("{cql}: {why}"));

    run(format!(
        "UPDATE {keyspace}.about USING TIMESTAMP {ahead} SET body = '{}' WHERE stream = '{id}' AND broadcast = '{broadcast}'",
        body(&about("from the future"))
    ))
    .await;
    assert_eq!(store.about(&id, &broadcast).await.unwrap().title, "from the future");
    store.put_about(&id, &broadcast, about("now")).await.unwrap();
    assert_eq!(store.about(&id, &broadcast).await.unwrap().title, "now");

    let row = broadcast_row(&id, &broadcast);
    store.put_broadcast(row.clone()).await.unwrap();
    for (table, place) in [
        ("broadcast", format!("stream = '{id}' AND id = '{broadcast}'")),
        ("broadcast_open", format!("spread = {} AND stream = '{id}' AND id = '{broadcast}'", part(id.as_str()))),
    ] {
        let body = body(&row);
        run(format!("UPDATE {keyspace}.{table} USING TIMESTAMP {} SET body = '{body}' WHERE {place}", ahead + 7)).await;
    }
    let ended = weir::store::BroadcastRow { ended: Some(weir::time::UnixMs(1_700_000_100_000)), ..row };
    store.put_broadcast(ended.clone()).await.unwrap();
    assert_eq!(store.broadcast(&id, &broadcast).await.unwrap(), Some(ended));
    assert!(store.open_broadcasts().await.unwrap().iter().all(|open| open.id != broadcast), "it has ended");

    let access = AccessRow::Playback { stream: id.clone(), ticket: true };
    let (name, body) = (access.name(), body(&access));
    run(format!(
        "UPDATE {keyspace}.access USING TIMESTAMP {ahead} SET body = '{body}' WHERE spread = 0 AND name = '{name}'"
    ))
    .await;
    store.delete_access(&name).await.unwrap();
    assert!(!store.access().await.unwrap().contains(&access));
    store.put_access(access.clone()).await.unwrap();
    assert!(store.access().await.unwrap().contains(&access));
}

/// The partition that the store puts a row into.
fn part(id: &str) -> u32 {
    crc32fast::hash(id.as_bytes()) % 16
}

/// A row's JSON as it stands in a statement.
fn body(row: &impl serde::Serialize) -> String {
    serde_json::to_string(row).unwrap().replace('\'', "''")
}

/// The server dies in the middle and comes back: what was acknowledged is there, and the same store goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_database_loses_nothing_and_needs_none_of_the_node() {
    let mut server = OwnCql::start();
    let store = Scylla::open(cql_at(&server.address, "weir")).await.unwrap();
    let (id, broadcast) = (fresh("restart"), show("01b"));
    let mut written = 0;
    for round in 1..=2 {
        store.take_epoch(&id, epoch_row(round, &broadcast, written)).await.unwrap();
        let killed_at = written + 200;
        loop {
            match store.put_chunk(&id, &broadcast, chunk_row(written, round)).await {
                Ok(()) => written += 1,
                Err(Error::Unavailable(_)) => break,
                Err(other) => panic!("{other}"),
            }
            if written == killed_at {
                server.kill();
            }
        }
        assert!(written >= killed_at);
        server.start_again();
        let back = weir::time::now() + Duration::from_secs(30);
        while let Err(why) = store.last_epoch(&id).await {
            assert!(weir::time::now() < back, "{why}");
        }
    }
    let rows = store.chunks(&id, &broadcast, 0, usize::MAX).await.unwrap();
    // One more may have been made whose answer was lost.
    let ks: Vec<_> = rows.iter().map(|row| row.k).collect();
    assert!((0..written).all(|k| ks.contains(&k)), "{written}: {ks:?}");
    assert_eq!(store.epochs(&id, &broadcast).await.unwrap().len(), 2);
}

/// What one is told who starts with settings that cannot be; none of it holds a secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_told_in_one_message() {
    let server = OwnCql::start_with_passwords();
    let secret = "correct-horse-battery";
    let opened = async |user: Option<(&str, &str)>, keyspace: &str, create: bool, datacenter: Option<&str>| {
        let mut settings = cql_at(&server.address, keyspace);
        settings.login = user.map(|(user, password)| (user.to_owned(), Secret::new(password)));
        settings.create = create;
        settings.datacenter = datacenter.map(str::to_owned);
        match Scylla::open(settings).await {
            Ok(_) => "fine".to_owned(),
            Err(why) => why.to_string(),
        }
    };
    let admin = Some(("cassandra", "cassandra"));
    // The superuser is made some seconds after the start.
    let until = weir::time::now() + Duration::from_secs(30);
    while opened(admin, "weir", true, None).await != "fine" {
        assert!(weir::time::now() < until, "{}", opened(admin, "weir", true, None).await);
    }
    let raw = SessionBuilder::new().known_node(&server.address).user("cassandra", "cassandra").build().await.unwrap();
    for cql in [
        format!("CREATE ROLE reader WITH PASSWORD = '{secret}' AND LOGIN = true"),
        "GRANT SELECT ON ALL KEYSPACES TO reader".to_owned(),
    ] {
        raw.query_unpaged(cql, ()).await.unwrap();
    }
    for (said, words) in [
        (
            opened(Some(("cassandra", secret)), "weir", true, None).await,
            vec!["does not let user \"cassandra\" in", "store.password"],
        ),
        (opened(None, "weir", true, None).await, vec!["lets nobody in without a password"]),
        (opened(admin, "other", false, None).await, vec!["keyspace other has no tables", "weir store init"]),
        (
            opened(Some(("reader", secret)), "weir", true, None).await,
            vec!["refuses what store.user asks for", "reader"],
        ),
        (opened(Some(("reader", secret)), "new", true, None).await, vec!["the tables cannot be made", "reader"]),
        (opened(admin, "weir", true, Some("mars")).await, vec!["store.datacenter = \"mars\"", "datacenter1"]),
    ] {
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains(secret), "{said}");
    }
    raw.query_unpaged("INSERT INTO weir.schema_version (one, version) VALUES (0, 99)", ()).await.unwrap();
    let newer = opened(admin, "weir", true, None).await;
    assert!(newer.contains("version 99, made by a newer weir"), "{newer}");
    let away = Scylla::open(cql_at("127.0.0.1:1", "weir")).await.err().unwrap();
    assert!(matches!(&away, Error::Unavailable(why) if why.contains("no session with 127.0.0.1:1")), "{away}");
}

/// The same as whoever starts a node sees it: exit code 1, and the cause.
#[test]
fn a_node_that_cannot_use_its_stores_ends_with_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let start = |changes: &[&str]| -> Output {
        let mut weir = Command::new(env!("CARGO_BIN_EXE_weir"));
        weir.arg("serve");
        let fixed = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "internal.listen=127.0.0.1:0", "ladder=[]"];
        let data = format!("data.dir={}", dir.path().display());
        let all = node_settings().into_iter().chain(fixed.map(str::to_owned)).chain([data]);
        for setting in all.chain(changes.iter().map(|change| change.to_string())) {
            weir.args(["--set", &setting]);
        }
        weir.output().expect("the weir binary")
    };
    for (changes, words) in [
        (vec!["blobs.secret=a-wrong-secret-key"], "does not let us in: look at blobs.key and blobs.secret"),
        (vec!["blobs.url=s3://no-such-bucket/x"], "s3://no-such-bucket/x: there is no such bucket"),
        (vec!["blobs.url=s3://key:sesame@weir"], "it may not hold a key"),
        (vec!["blobs.url=ftp://weir/x"], "blobs.url = ftp://weir/x"),
        (vec!["blobs.endpoint=http://127.0.0.1:1"], "s3://weir"),
        (vec!["store.nodes=[\"127.0.0.1:1\"]"], "cannot use the database at 127.0.0.1:1"),
        (vec!["store.nodes=[\"nowhere\"]"], "\"nowhere\" is not host:port"),
        (vec!["store.keyspace=Weir;DROP"], "store.keyspace"),
    ] {
        let ended = start(&changes);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{changes:?}: {said}");
        assert!(said.contains(words), "{changes:?}: {said}");
        for secret in ["a-wrong-secret-key", "sesame", &told("TESTS_S3_SECRET")] {
            assert!(!said.contains(secret), "{changes:?}: {said}");
        }
    }
}

/// Objects are put, read and told of within their bounds, also when the store is slow or hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_that_hangs_is_given_up_in_time() {
    use weir::store::{Blobs, objects::Objects};
    let proxy = Proxy::start(told("TESTS_S3").trim_start_matches("http://"));
    let store = Objects::open(&s3_at(&format!("http://{}", proxy.address), "hang")).await.unwrap();
    proxy.set(Mode::Hang);
    let begun = weir::time::now();
    let put = store.put("alice/1", bytes::Bytes::from_static(b"x").into()).await;
    let took = weir::time::now() - begun;
    assert!(matches!(put, Err(Error::Unavailable(_))) && took < Duration::from_millis(5500), "{put:?} {took:?}");
    proxy.set(Mode::Refuse);
    let begun = weir::time::now();
    assert!(matches!(store.get("alice/1").await, Err(Error::Unavailable(_))));
    assert!(weir::time::now() - begun < Duration::from_secs(4));
    proxy.set(Mode::Pass);
    store.put("alice/1", bytes::Bytes::from_static(b"x").into()).await.unwrap();
    assert_eq!(store.get("alice/1").await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_making_was_not_answered_in_time_is_there_after() {
    let (store, proxy) = proxied().await;
    let row = stream_row(&fresh("slow"));
    proxy.set(Mode::Slow);
    // Every answer comes at the end of its time or after it: it was made, and may not be told.
    let made = store.create_stream(row.clone()).await;
    assert!(matches!(made, Ok(()) | Err(Error::Unavailable(_))), "{made:?}");
    proxy.set(Mode::Pass);
    let until = weir::time::now() + Duration::from_secs(10);
    while !matches!(store.stream(&row.id).await, Ok(Some(_))) {
        assert!(weir::time::now() < until);
    }
}
