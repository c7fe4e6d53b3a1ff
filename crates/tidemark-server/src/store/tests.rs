//! What a store promises: it is all there or says why not, secrets do not lie open, and it grows up.
//! What holds of every kind of store is tested on each.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use tidemark_core::catalogue::Code;

use super::testing::{new_pipeline as new, open_shared, seal};
use super::*;
use tidemark_lab::server::PostgresServer;

mod alike;
mod shared;

/// Where a store may be.
enum Home {
    Directory(tempfile::TempDir),
    Database(String),
}

impl Home {
    /// A new one of each kind.
    async fn both() -> [Home; 2] {
        let directory = Home::Directory(tempfile::tempdir().unwrap());
        [directory, Home::database().await]
    }

    async fn database() -> Home {
        Home::Database(database().await)
    }

    async fn open(&self, digit: char) -> Result<Store> {
        match self {
            Home::Directory(directory) => Store::open(directory.path(), seal(digit)),
            Home::Database(url) => open_shared(url, digit).await,
        }
    }

    /// Everything that lies there, as whoever copies it sees it.
    async fn bytes(&self) -> Vec<u8> {
        match self {
            Home::Directory(directory) => {
                let files = fs::read_dir(directory.path()).unwrap();
                let read = |file: std::io::Result<fs::DirEntry>| fs::read(file.unwrap().path());
                files.flat_map(|file| read(file).unwrap()).collect()
            }
            Home::Database(url) => {
                let rows = shared::rows(url, "SELECT encode(definition, 'escape') FROM pipelines");
                rows.await.join("\n").into_bytes()
            }
        }
    }

    async fn says_version(&self, version: i64) {
        match self {
            Home::Directory(directory) => {
                let connection = Connection::open(directory.path().join(FILE)).unwrap();
                connection
                    .pragma_update(None, "user_version", version)
                    .unwrap();
            }
            Home::Database(url) => {
                let sql = format!("UPDATE store SET version = {version} RETURNING ''");
                shared::rows(url, &sql).await;
            }
        }
    }

    async fn refusal(&self, digit: char) -> Code {
        match self.open(digit).await {
            Ok(_) => panic!("the store opens"),
            Err(err) => err.code(),
        }
    }
}

/// A database of its own.
async fn database() -> String {
    let server = PostgresServer::shared().await.unwrap();
    let name = server.fresh_database("store").await.unwrap();
    server.url_to(&name)
}

fn refusal(directory: &Path, digit: char) -> Code {
    match Store::open(directory, seal(digit)) {
        Ok(_) => panic!("the store opens"),
        Err(err) => err.code(),
    }
}

/// A store with a pipeline in it, closed.
async fn made(directory: &Path) {
    fill(&Store::open(directory, seal('a')).unwrap()).await;
}

async fn fill(store: &Store) {
    store
        .add_pipeline(new("default", "shop"))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn s08_what_is_kept_is_there_after_a_restart_and_lies_nowhere_open() {
    for home in Home::both().await {
        let store = home.open('a').await.unwrap();
        fill(&store).await;
        store.close().await;
        drop(store);
        let bytes = home.bytes().await;
        assert!(bytes.len() > 40, "{bytes:?}");
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        let store = home.open('a').await.unwrap();
        let rows = store.pipelines().await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].definition.as_deref(),
            Some("password = \"hunter2\"")
        );
        assert_eq!(rows[0].desired.by, "ann");
        let again = store.add_pipeline(new("default", "shop")).await.unwrap();
        assert!(again.is_none());
        let other = store.add_pipeline(new("other", "shop")).await.unwrap();
        assert!(other.is_some());
    }
}

#[tokio::test]
async fn s08_the_file_of_a_store_is_for_its_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    made(&directory).await;
    let file = fs::metadata(directory.join(FILE)).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn s08_another_key_opens_nothing() {
    for home in Home::both().await {
        let store = home.open('a').await.unwrap();
        fill(&store).await;
        store.close().await;
        drop(store);
        assert_eq!(home.refusal('b').await, codes::STORE_KEY);
        home.open('a').await.unwrap();
    }
}

#[test]
fn s08_a_key_that_others_may_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    Seal::beside_store(home.path()).unwrap();
    let file = home.path().join("key");
    assert!(Seal::of_file(&file).is_ok());
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let err = Seal::of_file(&file).map(|_| ()).unwrap_err();
    assert_eq!(err.code(), codes::STORE_KEY);
    assert!(err.to_string().contains("640"), "{err}");
    fs::remove_file(&file).unwrap();
    fs::write(home.path().join(FILE), "something").unwrap();
    let err = Seal::beside_store(home.path()).map(|_| ()).unwrap_err();
    assert_eq!(err.code(), codes::STORE_KEY, "no new key for an old store");
}

#[tokio::test]
async fn f55_a_damaged_store_is_an_error_and_never_an_empty_list() {
    for damage in ["truncated", "overwritten", "empty", "half"] {
        let home = tempfile::tempdir().unwrap();
        made(home.path()).await;
        let file = home.path().join(FILE);
        let mut bytes = fs::read(&file).unwrap();
        assert!(
            bytes.len() > 8192,
            "the journal is in the file once it is closed"
        );
        match damage {
            "truncated" => bytes.truncate(5000),
            "overwritten" => bytes.fill(7),
            "empty" => bytes.clear(),
            _ => {
                let half = bytes.len() / 2;
                for byte in bytes.iter_mut().skip(half) {
                    *byte = 0xA5;
                }
            }
        }
        fs::write(&file, bytes).unwrap();
        assert_eq!(refusal(home.path(), 'a'), codes::STORE_DAMAGED, "{damage}");
    }
}

#[tokio::test]
async fn f55_a_store_of_a_newer_version_is_left_as_it_is() {
    for home in Home::both().await {
        let store = home.open('a').await.unwrap();
        store.close().await;
        drop(store);
        home.says_version(99).await;
        assert_eq!(home.refusal('a').await, codes::STORE_NEWER);
    }
}

#[tokio::test]
async fn two_servers_do_not_share_a_store() {
    for home in Home::both().await {
        let first = home.open('a').await.unwrap();
        assert_eq!(home.refusal('a').await, codes::STORE_IN_USE);
        assert!(first.pipelines().await.unwrap().is_empty());
        first.close().await;
        drop(first);
        home.open('a').await.unwrap();
    }
}

#[tokio::test]
async fn the_process_that_has_a_store_open_is_named() {
    let home = tempfile::tempdir().unwrap();
    let first = Store::open(home.path(), seal('a')).unwrap();
    let Err(err) = Store::open(home.path(), seal('a')) else {
        panic!("the store opens");
    };
    let name = format!("process {} has it open", std::process::id());
    assert!(err.to_string().contains(&name), "{err}");
    first.close().await;
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(refusal(&file, 'a'), codes::STORE_UNWRITABLE);
}

/// A full disk as SQLite meets one: no page more than there are.
#[tokio::test]
async fn f55_a_full_disk_refuses_what_is_new_and_keeps_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path(), seal('a')).unwrap();
    store
        .add_pipeline(new("default", "shop"))
        .await
        .unwrap()
        .unwrap();
    let Kept::Sqlite(kept) = &store.inner.kept else {
        panic!("a store in a file");
    };
    {
        let kept = kept.lock().unwrap();
        let connection = kept.connection();
        let pages = connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
        connection
            .pragma_update(None, "max_page_count", pages.unwrap())
            .unwrap();
    }
    let mut large = new("default", "large");
    large.definition = Some("x".repeat(100_000));
    let err = store.add_pipeline(large).await.unwrap_err();
    assert_eq!(err.code(), codes::STORE_FULL, "{err}");
    assert_eq!(store.pipelines().await.unwrap().len(), 1);
}

#[tokio::test]
async fn f55_a_store_whose_file_is_taken_away_keeps_nothing_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path(), seal('a')).unwrap();
    store.keeps().await.unwrap();
    let file = home.path().join(FILE);
    let elsewhere = home.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    for err in [
        store.keeps().await.unwrap_err(),
        store
            .add_pipeline(new("default", "shop"))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(err.code(), codes::STORE_UNWRITABLE, "{err}");
    }
    // Another file in its place is not the one that is open.
    fs::write(&file, "").unwrap();
    assert!(store.keeps().await.is_err());
    fs::rename(&elsewhere, &file).unwrap();
    store.keeps().await.unwrap();
}

#[test]
fn an_older_store_is_copied_and_then_brought_up_to_date() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(FILE);
    let steps = [
        "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (7)",
        "ALTER TABLE a ADD y TEXT",
    ];
    let mut store = sqlite::open_file(&file, true).map_err(|f| f.0).unwrap();
    store.migrate(&steps[..1]).map_err(|f| f.0).unwrap();
    assert!(
        !home.path().join("tidemark.v1.db").exists(),
        "nothing to copy at first"
    );
    store.migrate(&steps).map_err(|f| f.0).unwrap();
    let x: i64 = store
        .connection()
        .query_row("SELECT x FROM a WHERE y IS NULL", [], |r| r.get(0))
        .unwrap();
    assert_eq!(x, 7);
    let copy = Connection::open(home.path().join("tidemark.v1.db")).unwrap();
    assert!(
        copy.prepare("SELECT y FROM a").is_err(),
        "the copy is as it was"
    );
    let failing = [steps[0], steps[1], "CREATE TABLE b (x INTEGER); NONSENSE"];
    assert!(store.migrate(&failing).is_err());
    assert!(
        store.connection().prepare("SELECT x FROM b").is_err(),
        "all of a step or nothing"
    );
}

#[tokio::test]
async fn history_keeps_least_most_and_last_and_a_hole_stays_a_hole() {
    for home in Home::both().await {
        let store = home.open('a').await.unwrap();
        history_of(&store).await;
    }
}

async fn history_of(store: &Store) {
    let key = Key::new("default", "shop");
    let sample = |at, gap_bytes| Sample {
        key: key.clone(),
        at,
        gap_bytes,
        latency_seconds: gap_bytes.map(|gap| gap as f64 / 10.0),
        source: None,
        processed: None,
        retained_bytes: None,
        changes: [1, 2, 3],
        state: "streaming".to_owned(),
    };
    let samples = vec![
        sample(100, Some(7)),
        sample(101, Some(3)),
        sample(102, Some(5)),
        sample(110, None),
    ];
    store.add_samples(samples, 120).await.unwrap();
    let rows = store
        .history(&key, Step::TenSeconds, 0, 1000)
        .await
        .unwrap();
    let gaps: Vec<_> = rows.iter().map(|row| (row.at, row.gap)).collect();
    assert_eq!(gaps, [(100, [Some(3), Some(7), Some(5)]), (110, [None; 3])]);
    assert_eq!(rows[0].latency, [Some(0.3), Some(0.7), Some(0.5)]);
    let later = 110 + Step::Second.kept_seconds() + 1;
    store.add_samples(Vec::new(), later).await.unwrap();
    assert!(
        store
            .history(&key, Step::Second, 0, 1000)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        store
            .history(&key, Step::FiveMinutes, 0, 1000)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn an_alert_and_what_is_told_of_it_are_there_after_a_restart_or_neither_is() {
    for home in Home::both().await {
        let store = home.open('a').await.unwrap();
        fill(&store).await;
        store.close().await;
        drop(store);
        alert_of(&home).await;
    }
}

async fn alert_of(home: &Home) {
    let key = Key::new("default", "shop");
    let row = AlertRow {
        key: key.clone(),
        rule: "lag_seconds above 60".to_owned(),
        when: "lag_seconds".to_owned(),
        severity: "critical".to_owned(),
        state: AlertState::Firing,
        since_us: 1_800_000_000_000_000,
        fired_us: Some(1_800_000_120_000_000),
        over_us: None,
        fires: vec![1_800_000_000_000_000, 1_800_000_120_000_000],
        text: "! shop is 4 m behind".to_owned(),
        notify: vec!["ops".to_owned()],
        snooze: Some(Snooze {
            until_us: 1_800_000_000_000_000,
            by: "ann".to_owned(),
        }),
    };
    let posted = |id: &str| NewDelivery {
        id: id.to_owned(),
        tenant: "default".to_owned(),
        notifier: "ops".to_owned(),
        pipeline: Some("shop".to_owned()),
        kind: "alert",
        letter: "{}".to_owned(),
        failed: None,
    };
    let told = Entry::plain(&key, Level::Error, "alert", row.text.as_str());
    let moved = AlertMove {
        which: row.which(),
        row: Some(row.clone()),
        told: Some(told),
        deliveries: vec![posted("a")],
    };
    let everything = Cursor {
        before: None,
        limit: 10,
    };
    let store = home.open('a').await.unwrap();
    assert_eq!(
        store
            .move_alerts("1".to_owned(), vec![moved.clone()])
            .await
            .unwrap()
            .len(),
        1
    );
    store.close().await;
    drop(store);
    let store = home.open('a').await.unwrap();
    assert_eq!(store.alerts().await.unwrap(), [row]);
    let events = store.events(&key, EventsWanted::default(), everything);
    assert_eq!(events.await.unwrap().len(), 1);

    let waits = || store.first_waiting("default".to_owned(), "ops".to_owned());
    assert_eq!(waits().await.unwrap().unwrap().id, "a");

    // Of two moves the second cannot be written down: the first is not there either.
    let full = store.with(|transaction, _| {
        transaction.execute("DROP TABLE events", &[])?;
        Ok(())
    });
    full.await.unwrap();
    let gone = AlertMove {
        row: None,
        deliveries: vec![posted("b")],
        ..moved
    };
    assert!(store.move_alerts("2".to_owned(), vec![gone]).await.is_err());
    assert_eq!(store.alerts().await.unwrap().len(), 1);
    let delivered = Attempted::Delivered("taken".to_owned());
    store.attempted("a".to_owned(), delivered).await.unwrap();
    assert_eq!(waits().await.unwrap(), None);
}
