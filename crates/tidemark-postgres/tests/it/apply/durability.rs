//! What may be acknowledged (P4): only what the target still has after it was killed.

use std::sync::Arc;
use std::time::Duration;

use tidemark_core::checkpoint::CheckpointUpdate;
use tidemark_core::target::Applier;
use tidemark_lab::{PostgresServer, wait_for};
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::target::{PgApplier, PgTarget};

use super::rig::{Log, table};
use crate::target::{at, owner, start};

fn target_of(server: &PostgresServer, pipeline: &str) -> PgTarget {
    let url = server.url_to("postgres");
    PgTarget::new(ConnectConfig::parse(&url, Side::Target).unwrap(), pipeline)
}

/// The WAL writer sleeps for ten seconds, so that commits stay in memory for a while, and a kill
/// loses them.
#[tokio::test]
async fn what_is_said_to_be_durable_survives_a_kill() {
    let server = PostgresServer::builder()
        .setting("fsync", "on")
        .setting("wal_writer_delay", "10s")
        .start()
        .await
        .unwrap();
    server
        .execute("CREATE TABLE t (position bigint PRIMARY KEY)")
        .await
        .unwrap();
    let t = Arc::new(table("t", &["position*"]));
    let mut position = 0x20_0000;
    for round in 0..3 {
        let target = target_of(&server, "durable");
        let owned = wait_for(
            Duration::from_secs(20),
            "the pipeline to be free",
            || async { Ok(target.acquire(&owner(round)).await.ok()) },
        );
        owned.await.unwrap();
        if round == 0 {
            target.start_load(&start(&[])).await.unwrap();
        }
        let mut applier = target.applier().await.unwrap();
        let mut flushed = None;
        for n in 0..200_u32 {
            position += 0x100;
            let mut log = Log::new();
            log.insert(&t, &[position.to_string()]);
            applier.begin().await.unwrap();
            applier.apply(&log.batch).await.unwrap();
            let update = CheckpointUpdate {
                position: Some(at(position)),
                ..Default::default()
            };
            applier.commit(&update).await.unwrap();
            assert!(applier.durable() <= Some(at(position)));
            if n == 100 {
                applier.flush().await.unwrap();
                assert_eq!(
                    applier.durable(),
                    Some(at(position)),
                    "flush makes it durable now"
                );
                flushed = applier.durable();
            }
        }
        let durable = applier.durable();
        assert!(durable >= flushed, "it never goes back");
        server.kill9().await.unwrap();
        server.start().await.unwrap();
        let found = target_of(&server, "durable")
            .checkpoint()
            .await
            .unwrap()
            .unwrap();
        assert!(
            Some(found.position) >= durable,
            "{durable:?} was said to be durable, the target has {}",
            found.position
        );
        // Rows and position are of the same transaction.
        let last = server
            .psql("postgres", "SELECT max(position) FROM t")
            .await
            .unwrap();
        assert_eq!(found.position, at(last.trim().parse().unwrap()));
        position += 0x10_0000;
    }
}

#[tokio::test]
async fn commits_become_durable_by_themselves() {
    let server = PostgresServer::shared().await.unwrap();
    let name = server.fresh_database("durability").await.unwrap();
    let url = server.url_to(&name);
    let target = PgTarget::new(ConnectConfig::parse(&url, Side::Target).unwrap(), "p");
    target.acquire(&owner(1)).await.unwrap();
    target.start_load(&start(&[])).await.unwrap();
    let applier = target.applier().await.unwrap();
    assert_eq!(applier.durable(), None, "nothing was committed");
    let applier = tokio::sync::Mutex::new((applier, 0x30_0000_u64));
    let became = wait_for(
        Duration::from_secs(20),
        "a commit to be durable",
        || async {
            let (applier, position) = &mut *applier.lock().await;
            *position += 0x100;
            let update = CheckpointUpdate {
                position: Some(at(*position)),
                ..Default::default()
            };
            applier.begin().await?;
            applier.commit(&update).await?;
            Ok(applier.durable())
        },
    );
    assert!(became.await.unwrap() > at(0x30_0000));
}

/// Where a standby must have each commit, a commit is waited for, and durable at once.
#[tokio::test]
async fn synchronous_standbys_are_waited_for() {
    let server = PostgresServer::builder()
        .setting("synchronous_standby_names", "")
        .start()
        .await
        .unwrap();
    let target = target_of(&server, "p");
    target.acquire(&owner(1)).await.unwrap();
    target.start_load(&start(&[])).await.unwrap();
    // `local` lets commits go on without the standby, which does not exist.
    set(&server, "synchronous_commit", "local").await;
    set(&server, "synchronous_standby_names", "nobody").await;
    let mut applier = target.applier().await.unwrap();
    commit(&mut applier, 0x30_0000).await;
    assert_eq!(applier.durable(), Some(at(0x30_0000)));
}

/// Whoever wants no commit to wait, by a setting of the role, the database or the server, gets that; and
/// nothing is taken for durable by a commit alone, whatever standbys there are to be.
#[tokio::test]
async fn a_commit_that_waits_for_nothing_is_not_durable_at_once() {
    let (server, target) = with_late_wal("off").await;
    let mut applier = target.applier().await.unwrap();
    commit(&mut applier, 0x30_0000).await;
    applier.flush().await.unwrap();
    let durable = applier.durable();
    assert_eq!(durable, Some(at(0x30_0000)), "no standby is waited for");
    durable_is_there_after_a_kill(&server, &mut applier).await;
}

/// What the server is told while a session lasts does not count for it.
#[tokio::test]
async fn a_commit_that_is_waited_for_is_waited_for_as_long_as_the_session_lasts() {
    let (server, target) = with_late_wal("local").await;
    let mut applier = target.applier().await.unwrap();
    commit(&mut applier, 0x30_0000).await;
    assert_eq!(applier.durable(), Some(at(0x30_0000)));
    set(&server, "synchronous_commit", "off").await;
    durable_is_there_after_a_kill(&server, &mut applier).await;
}

async fn set(server: &PostgresServer, setting: &str, value: &str) {
    let sql = format!("ALTER SYSTEM SET {setting} = '{value}'");
    server.execute(&sql).await.unwrap();
    server.reload().await.unwrap();
}

/// A server whose commits stay in memory for a while, and which is to have a standby that does not exist.
async fn with_late_wal(synchronous_commit: &str) -> (PostgresServer, PgTarget) {
    let server = PostgresServer::builder()
        .setting("fsync", "on")
        .setting("wal_writer_delay", "10s")
        .setting("synchronous_standby_names", "")
        .start()
        .await
        .unwrap();
    let target = target_of(&server, "p");
    target.acquire(&owner(1)).await.unwrap();
    target.start_load(&start(&[])).await.unwrap();
    set(&server, "synchronous_commit", synchronous_commit).await;
    set(&server, "synchronous_standby_names", "nobody").await;
    (server, target)
}

async fn commit(applier: &mut PgApplier, position: u64) {
    let update = CheckpointUpdate {
        position: Some(at(position)),
        ..CheckpointUpdate::default()
    };
    applier.begin().await.unwrap();
    applier.commit(&update).await.unwrap();
}

async fn durable_is_there_after_a_kill(server: &PostgresServer, applier: &mut PgApplier) {
    for n in 1..=50 {
        commit(applier, 0x30_0000 + n).await;
    }
    let durable = applier.durable();
    server.kill9().await.unwrap();
    server.start().await.unwrap();
    let target = target_of(server, "p");
    let found = target.checkpoint().await.unwrap().unwrap();
    assert!(
        Some(found.position) >= durable,
        "{durable:?} was said to be durable, the target has {}",
        found.position
    );
}
