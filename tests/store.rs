//! The stores: one suite for all, and what only a store on a disk has: restarts, crashes, locks, a full or read-only disk.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use suite::{broadcast_row, chunk_row, epoch_row, show, stream, stream_row};
use weir::store::{Blobs, Error, Meta, blobs::Folder, embedded::Embedded};

#[path = "store/cql.rs"]
mod cql;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/servers.rs"]
mod servers;
#[path = "store/suite.rs"]
mod suite;

/// Makes a test of each check of the suite, on a store that `$open` makes; the folder lives as long as the test.
macro_rules! conforms {
    ($module:ident, $open:expr, $($check:ident),+ $(,)?) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let dir = tempfile::tempdir().unwrap();
                let store = ($open)(dir.path().to_owned()).await;
                crate::suite::$check(std::sync::Arc::new(store)).await;
            })+
        }
    };
}

macro_rules! meta_conforms {
    ($module:ident, $open:expr) => {
        conforms!(
            $module,
            $open,
            streams_are_made_once_changed_and_deleted,
            a_stream_is_made_by_one_of_many,
            streams_are_listed_in_order_by_pages,
            access_rows_take_the_place_of_their_name,
            nodes_tell_of_themselves,
            the_epoch_log_grows_by_one,
            one_taker_wins_each_epoch,
            broadcasts_are_listed_newest_first,
            chunks_page_both_ways_over_buckets,
            a_chunk_written_again_is_one_row,
            an_old_owner_is_not_read,
            a_broadcast_is_found_by_its_id_and_keeps_its_title,
            clips_are_listed_newest_first_by_stream_and_by_broadcast,
            deleted_chunks_are_gone_and_no_others,
            many_write_and_read_at_once,
            audiences_are_written_again_and_read_by_time,
            chats_page_both_ways_over_quiet_years,
            rules_of_a_room_take_the_place_of_their_name,
            a_chat_of_a_recording_is_dropped_alone,
        );
    };
}

macro_rules! blobs_conform {
    ($module:ident, $open:expr) => {
        conforms!(
            $module,
            $open,
            blobs_are_what_was_put,
            blobs_are_whole_at_any_time,
            blobs_are_read_in_ranges_and_deleted,
        );
    };
}

meta_conforms!(embedded, async |dir: std::path::PathBuf| weir::store::embedded::Embedded::open(&dir).unwrap());
meta_conforms!(scylla, async |_: std::path::PathBuf| crate::servers::cql().await);
blobs_conform!(folder, async |dir: std::path::PathBuf| weir::store::blobs::Folder::open(&dir).unwrap());
blobs_conform!(objects, async |_: std::path::PathBuf| crate::servers::s3(false).await);
blobs_conform!(objects_hedged, async |_: std::path::PathBuf| crate::servers::s3(true).await);

#[tokio::test]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (id, broadcast) = (stream("alice"), show("01b"));
    for round in 1..=3u64 {
        let store = Embedded::open(dir.path()).unwrap();
        if round == 1 {
            store.create_stream(stream_row(&id)).await.unwrap();
        }
        assert_eq!(store.last_epoch(&id).await.unwrap().map_or(0, |row| row.epoch), round - 1);
        store.take_epoch(&id, epoch_row(round, &broadcast, round * 1000)).await.unwrap();
        store.put_broadcast(broadcast_row(&id, &show(&format!("01b{round}")))).await.unwrap();
        for k in round * 1000..round * 1000 + 900 {
            store.put_chunk(&id, &broadcast, chunk_row(k, round)).await.unwrap();
        }
        store.close().await.unwrap();
    }
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.stream(&id).await.unwrap(), Some(stream_row(&id)));
    assert_eq!(store.epochs(&id, &broadcast).await.unwrap().len(), 3);
    assert_eq!(store.broadcasts(&id, None, 10).await.unwrap().len(), 3);
    assert_eq!(store.chunks(&id, &broadcast, 0, 10_000).await.unwrap().len(), 2700);
}

#[tokio::test]
async fn a_closed_store_says_so_and_frees_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let clone = store.clone();
    store.flush().await.unwrap();
    store.close().await.unwrap();
    let closed = |error: Error| matches!(&error, Error::Unavailable(what) if what.contains("closed"));
    assert!(closed(clone.create_stream(stream_row(&stream("a"))).await.unwrap_err()));
    assert!(closed(clone.stream(&stream("a")).await.unwrap_err()));
    assert!(Embedded::open(dir.path()).is_ok(), "a clone does not hold the folder");
}

#[test]
fn a_folder_opens_once() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Embedded::open(dir.path()).unwrap();
    match Embedded::open(dir.path()) {
        Err(Error::Unavailable(what)) => assert!(what.ends_with("is in use by another weir"), "{what}"),
        other => panic!("{:?}", other.err()),
    }
}

/// A path where no folder can be, for root neither.
#[test]
fn a_place_that_is_no_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    for error in [Embedded::open(&file.join("data")).err(), Folder::open(&file.join("data")).err()] {
        assert!(matches!(&error, Some(Error::Unavailable(what)) if what.contains("file/data")), "{error:?}");
    }
}

/// What the helper process does, by the value of this variable: this test binary starts itself with it set.
const HELPER: &str = "WEIR_TEST_STORE_HELPER";
const FOLDER: &str = "WEIR_TEST_STORE_FOLDER";

/// Not a test of its own: the body of the helper processes, which do nothing unless they are told to.
#[test]
fn helper() {
    let Ok(role) = std::env::var(HELPER) else { return };
    let folder = std::env::var(FOLDER).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "write" => write_for_ever(Path::new(&folder)).await,
            "full" => fill(Path::new(&folder)).await,
            "read-only" => read_only(Path::new(&folder)).await,
            role => panic!("no role {role}"),
        }
    });
}

fn helper_command(program: &Path, role: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["helper", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(HELPER, role).env(FOLDER, folder).stdout(Stdio::piped());
    command
}

/// Lines the helper prints start with this: the test harness prints others.
const SAYS: &str = "helper: ";

fn say(what: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // The harness may have left its line open.
    writeln!(out, "\n{SAYS}{what}").unwrap();
    out.flush().unwrap();
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let out = BufReader::new(child.stdout.take().expect("piped"));
    out.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix(SAYS).map(str::to_owned))
}

/// Kills what it holds, so that a failed test leaves no process.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes blobs, chunk rows and epochs and says after each answer what was acknowledged.
async fn write_for_ever(folder: &Path) {
    let meta = Embedded::open(&folder.join("meta")).unwrap();
    let blobs = Arc::new(Folder::open(&folder.join("blobs")).unwrap());
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (meta, blobs, id, broadcast) = (meta.clone(), blobs.clone(), stream(&format!("s{task}")), show("b"));
            tokio::spawn(async move {
                let first = meta.last_epoch(&id).await.unwrap().map_or(1, |row| row.epoch + 1);
                for epoch in first.. {
                    meta.take_epoch(&id, epoch_row(epoch, &broadcast, epoch * 10)).await.unwrap();
                    say(format_args!("epoch {task} {epoch}"));
                    for k in epoch * 10..epoch * 10 + 10 {
                        let bytes = Bytes::from(vec![k as u8; 50_000]);
                        blobs.put(&format!("{id}/{k}.{epoch}"), bytes.into()).await.unwrap();
                        meta.put_chunk(&id, &broadcast, chunk_row(k, epoch)).await.unwrap();
                        say(format_args!("chunk {task} {epoch} {k}"));
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// A process that writes is killed in the middle, five times over: all that it was told is stored is there.
#[test]
fn what_was_acknowledged_outlives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let child = helper_command(&std::env::current_exe().unwrap(), "write", dir.path()).spawn().unwrap();
        let mut child = Killed(child);
        let said = lines(&mut child.0);
        let before = acknowledged.len();
        for line in said {
            acknowledged.push(line);
            if acknowledged.len() - before == 120 + round * 37 {
                child.0.kill().unwrap();
            }
        }
        assert!(acknowledged.len() - before >= 120, "the helper ended before it was killed");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let meta = Embedded::open(&dir.path().join("meta")).unwrap();
        let blobs = Folder::open(&dir.path().join("blobs")).unwrap();
        let mut last = [0; 4];
        for line in &acknowledged {
            let mut words = line.split(' ');
            let what = words.next().unwrap();
            let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
            let (id, epoch) = (stream(&format!("s{}", numbers[0])), numbers[1]);
            if what == "epoch" {
                assert!(epoch > last[numbers[0] as usize], "epoch {epoch} was given twice");
                last[numbers[0] as usize] = epoch;
                assert!(meta.epochs(&id, &show("b")).await.unwrap().contains(&epoch_row(
                    epoch,
                    &show("b"),
                    epoch * 10
                )));
            } else {
                let k = numbers[2];
                let rows = meta.chunks(&id, &show("b"), k, 1).await.unwrap();
                assert!(rows.contains(&chunk_row(k, epoch)), "{line}");
                let bytes = blobs.get(&format!("{id}/{k}.{epoch}")).await.unwrap();
                assert!(bytes.len() == 50_000 && bytes.iter().all(|&byte| byte == k as u8), "{line}");
            }
        }
    });
    let left_over = std::fs::read_dir(dir.path().join("blobs/.staging")).unwrap().count();
    assert_eq!(left_over, 0, "half-written files are swept");
}

/// Writes until the disk has no room, says so, goes on trying, and says when it has room again.
async fn fill(folder: &Path) {
    let meta = Embedded::open(&folder.join("meta")).unwrap();
    let blobs = Folder::open(&folder.join("blobs")).unwrap();
    let (id, broadcast) = (stream("alice"), show("b"));
    let mut k = 0;
    let full = loop {
        match meta.put_chunk(&id, &broadcast, chunk_row(k, 1)).await {
            Ok(()) => k += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&full, Error::Unavailable(what) if what.contains("file size limit")), "{full}");
    let full = blobs.put("a/0", vec![1; 1 << 20].into()).await.unwrap_err();
    assert!(matches!(&full, Error::Unavailable(what) if what.contains("file size limit")), "{full}");
    assert!(matches!(blobs.get("a/0").await, Err(Error::NotFound)), "no half of it is seen");
    let rows = meta.chunks(&id, &broadcast, 0, usize::MAX).await.unwrap();
    assert_eq!(rows.len() as u64, k, "reads go on");
    say(format_args!("full"));

    let deadline = weir::time::now() + Duration::from_secs(20);
    while let Err(error) = meta.put_chunk(&id, &broadcast, chunk_row(k, 1)).await {
        assert!(weir::time::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    blobs.put("a/0", vec![1; 1 << 20].into()).await.unwrap();
    meta.take_epoch(&id, epoch_row(1, &broadcast, 0)).await.unwrap();
    let rows = meta.chunks(&id, &broadcast, 0, usize::MAX).await.unwrap();
    assert_eq!(rows, (0..=k).map(|k| chunk_row(k, 1)).collect::<Vec<_>>());
    meta.close().await.unwrap();
    say(format_args!("well"));
}

/// A disk without room is acted by a limit of file sizes, which needs no rights: lifted, all goes on without a restart.
#[test]
fn a_disk_that_was_full_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    // The engine lays its journal out in full when it is made; after that the limit bites.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Embedded::open(&dir.path().join("meta")).unwrap().close()).unwrap();
    let helper = helper_command(&std::env::current_exe().unwrap(), "full", dir.path());
    let mut shell = Command::new("sh");
    // Ignored signals stay so over exec; the unit is 512 bytes.
    shell.args(["-c", "trap '' XFSZ && ulimit -S -f 400 && exec \"$0\" \"$@\""]);
    shell.arg(helper.get_program()).args(helper.get_args()).stdout(Stdio::piped());
    shell.envs(helper.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = Killed(shell.spawn().unwrap());
    let mut said = lines(&mut child.0);
    assert_eq!(said.next().as_deref(), Some("full"));
    let lifted = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &child.0.id().to_string()]).status();
    assert!(lifted.unwrap().success());
    assert_eq!(said.next().as_deref(), Some("well"));
    assert!(child.0.wait().unwrap().success());
}

async fn read_only(folder: &Path) {
    for error in [
        Embedded::open(&folder.join("new")).err(),
        Embedded::open(&folder.join("meta")).err(),
        Folder::open(&folder.join("new")).err(),
        Folder::open(&folder.join("blobs")).err(),
    ] {
        assert!(matches!(&error, Some(Error::Unavailable(what)) if what.contains("permission denied")), "{error:?}");
    }
    say(format_args!("refused"));
}

/// A folder that may not be written is refused with words. Root may write anything, so the helper is nobody.
#[test]
fn a_read_only_folder_is_refused_with_words() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Embedded::open(&data.join("meta")).unwrap().close()).unwrap();
    drop(Folder::open(&data.join("blobs")).unwrap());
    // The helper's program must be where nobody may go.
    let program = dir.path().join("helper");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(dir.path(), 0o755);
    set(&program, 0o755);
    for folder in ["", "meta", "blobs", "blobs/.staging"] {
        set(&data.join(folder), 0o555);
    }
    let mut command = helper_command(&program, "read-only", &data);
    command.current_dir("/");
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout == b"0\n" {
        command.uid(65_534).gid(65_534);
    } else {
        for file in ["meta/lock", "blobs/.lock"] {
            set(&data.join(file), 0o444);
        }
    }
    let mut child = Killed(command.spawn().unwrap());
    assert_eq!(lines(&mut child.0).next().as_deref(), Some("refused"));
    for folder in ["", "meta", "blobs", "blobs/.staging"] {
        set(&data.join(folder), 0o755);
    }
}
