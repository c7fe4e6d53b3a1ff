//! Servers that restart, crash, stand still, turn read-only.

use std::time::{Duration, Instant};

use tidemark_lab::pooler::{Lends, Pooler};
use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::wait_for;

use super::{Rig, own_server, retries};
use crate::asks::{Locked, text};
use crate::oracle;
use crate::stage::{PATIENCE, Stage};

/// What a person who restarts a source accepts.
const BACK_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn f01_a_source_that_restarts_is_not_held_up_and_followed_at_once() {
    let source = own_server(&[]).await;
    let target = PostgresServer::shared().await.unwrap();
    let mut rig = Rig::on(source, target, "fault_restart").await;
    let run = rig.streams().await;
    let began = Instant::now();
    source.stop(Shutdown::Fast).await.unwrap();
    let took = began.elapsed();
    assert!(took < BACK_WITHIN, "the shutdown took {took:?}");
    source.start().await.unwrap();
    let up = Instant::now();
    rig.connect_again().await;
    rig.something_new_arrives().await;
    let took = up.elapsed();
    assert!(
        took < BACK_WITHIN,
        "{took:?} after it was up\n{}",
        rig.stage.log()
    );
    rig.ends_well(run).await;
}

/// A walsender that is told to end waits until everything was flushed by its reader, and a target
/// that hangs flushes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn f01_a_source_shuts_down_while_the_target_hangs() {
    let source = own_server(&[]).await;
    let target = PostgresServer::shared().await.unwrap();
    let mut rig = Rig::on(source, target, "fault_shutdown").await;
    let run = rig.streams().await;
    let locked = Locked::table(&rig.stage, "bank_transfers").await;
    locked.wait_for_waiter().await;
    let began = Instant::now();
    source.stop(Shutdown::Fast).await.unwrap();
    let took = began.elapsed();
    assert!(took < BACK_WITHIN * 2, "the shutdown took {took:?}");
    locked.release().await;
    source.start().await.unwrap();
    rig.connect_again().await;
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
}

/// What is committed with `synchronous_commit = off` may be lost in a crash of the source, and must not
/// be on the target then.
#[tokio::test(flavor = "multi_thread")]
async fn f02_what_a_source_lost_in_its_crash_is_not_on_the_target() {
    let late = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    let source = own_server(&late).await;
    let target = PostgresServer::shared().await.unwrap();
    let mut rig = Rig::on(source, target, "fault_crash").await;
    let run = rig.streams().await;
    let mut lost = 0;
    let count = "SELECT count(*) FROM mixed_scratch WHERE v LIKE 'mark %'";
    for round in 0..8 {
        let mark = format!("INSERT INTO mixed_scratch (v) VALUES ('mark {round}')");
        rig.stage.source_sql(&mark).await;
        let before = text(&rig.stage.source, count).await.unwrap();
        source.kill9().await.unwrap();
        source.start().await.unwrap();
        rig.connect_again().await;
        let after = text(&rig.stage.source, count).await.unwrap();
        lost += usize::from(after != before);
        if lost == 2 {
            break;
        }
    }
    assert!(lost > 0, "no crash lost anything");
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_a_target_that_crashes_or_restarts_loses_nothing_that_was_acknowledged() {
    let source = PostgresServer::shared().await.unwrap();
    let target = own_server(&[("fsync", "on"), ("full_page_writes", "on")]).await;
    let mut rig = Rig::on(source, target, "fault_target").await;
    let run = rig.streams().await;
    for _ in 0..3 {
        target.kill9().await.unwrap();
        target.start().await.unwrap();
        rig.connect_again().await;
        rig.something_new_arrives().await;
    }
    target.restart().await.unwrap();
    rig.connect_again().await;
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
}

/// Whoever holds a lock holds the pipeline up, not the source.
#[tokio::test(flavor = "multi_thread")]
async fn f44_a_lock_on_the_target_holds_back_and_the_walsender_is_kept_alive() {
    let source = own_server(&[("wal_sender_timeout", "10s")]).await;
    let target = PostgresServer::shared().await.unwrap();
    let rig = Rig::on(source, target, "fault_locked").await;
    let run = rig.streams().await;
    let walsender = "SELECT pid FROM pg_stat_replication";
    let before = text(&rig.stage.source, walsender).await.unwrap();
    let locked = Locked::table(&rig.stage, "mixed_scratch").await;
    // More than all queues hold.
    let much = "INSERT INTO mixed_scratch (v) SELECT repeat(md5(i::text), 250) \
                FROM generate_series(1, 1000) i";
    for _ in 0..12 {
        rig.stage.source_sql(much).await;
    }
    locked.wait_for_waiter().await;
    let began = Instant::now();
    let replies = "SELECT extract(epoch FROM reply_time)::int8 FROM pg_stat_replication";
    wait_for(PATIENCE, "the walsender to be kept alive", || async {
        text(&rig.stage.source, replies).await?.parse::<i64>()?;
        Ok((began.elapsed() > Duration::from_secs(15)).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(text(&rig.stage.source, walsender).await.unwrap(), before);
    let resident = resident_mb(run.pid());
    assert!(resident < 200, "{resident} MB for 96 MB that wait");
    locked.release().await;
    rig.something_new_arrives().await;
    assert_eq!(retries(&rig.stage), 0, "{}", rig.stage.log());
    assert!(
        !source.log().contains("terminating walsender"),
        "{}",
        source.log()
    );
    rig.ends_well(run).await;
}

/// Memory of a process, in MB.
fn resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_target_that_turns_read_only_is_waited_for() {
    let source = PostgresServer::shared().await.unwrap();
    let target = own_server(&[]).await;
    let rig = Rig::on(source, target, "fault_read_only").await;
    let run = rig.streams().await;
    let read_only = "ALTER SYSTEM SET default_transaction_read_only = on";
    target.execute(read_only).await.unwrap();
    target.reload().await.unwrap();
    // Ours begin anew, as after any loss.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name LIKE 'tidemark %'";
    target.execute(end).await.unwrap();
    rig.backlog(150).await;
    // It cannot report there, and is not taken for dead.
    wait_for(PATIENCE, "what is said of it", || async {
        let status = rig.stage.status().await;
        let reason = status["reason"].as_str().unwrap_or_default();
        Ok(reason
            .starts_with("it runs")
            .then(|| status["state"].clone()))
    })
    .await
    .unwrap();
    let again = "SET default_transaction_read_only = off";
    let client = target.client().await.unwrap();
    client.batch_execute(again).await.unwrap();
    client
        .batch_execute("ALTER SYSTEM RESET default_transaction_read_only")
        .await
        .unwrap();
    target.reload().await.unwrap();
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
}

/// The victim is ours: the other session waits for its turn an hour.
#[tokio::test(flavor = "multi_thread")]
async fn f51_a_deadlock_on_the_target_is_tried_again_by_itself() {
    let rig = Rig::new("fault_deadlock").await;
    let patience = format!(
        "ALTER DATABASE {} SET deadlock_timeout = '3s'",
        rig.stage.target_name
    );
    rig.stage.target_sql(&patience).await;
    let run = rig.streams().await;
    let (stage, source) = (&rig.stage, &rig.stage.source);
    let other = stage.target_server.client_to(&stage.target_name).await;
    let other = other.unwrap();
    other
        .batch_execute("SET deadlock_timeout = '1h'; SET lock_timeout = 0")
        .await
        .unwrap();
    // Whichever of the two tables is written first, the other one is held.
    for (held, wanted) in [("keyed", "heap"), ("heap", "keyed")] {
        let hold = format!("BEGIN; UPDATE {held} SET v = v WHERE id = 50");
        other.batch_execute(&hold).await.unwrap();
        let both = "BEGIN; UPDATE keyed SET v = v || '!' WHERE id = 50; \
                    UPDATE heap SET v = v || '!' WHERE id = 50; COMMIT";
        source.batch_execute(both).await.unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                     AND datname = current_database() AND application_name LIKE 'tidemark %'";
        stage.wait_for_target(waits, "1").await;
        let cross = format!("UPDATE {wanted} SET v = v WHERE id = 50; COMMIT");
        other.batch_execute(&cross).await.unwrap();
        rig.something_new_arrives().await;
    }
    let log = stage.log();
    assert!(log.contains("40P01") || log.contains("deadlock"), "{log}");
    assert_eq!(oracle::is_through(stage).await.ok(), Some(true), "{log}");
    rig.ends_well(run).await;
}

/// The pooler says a protocol violation whatever it is that ends a session.
#[tokio::test(flavor = "multi_thread")]
async fn f43_f52_a_target_that_restarts_behind_a_pooler_is_waited_for() {
    let source = PostgresServer::shared().await.unwrap();
    let target = own_server(&[]).await;
    let mut stage = Stage::on(source, target, "fault_pooled").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let pooler = Pooler::start(target.port(), Lends::WholeSession);
    let pooler = pooler.await.unwrap();
    let url = target.url_through(pooler.address(), &stage.target_name);
    stage.write_between(&stage.source_url(), &url, "");
    let mut run = stage.start_streaming().await;
    target.stop(Shutdown::Fast).await.unwrap();
    run.wait_for_log("server conn crashed?").await;
    target.start().await.unwrap();
    stage.target = target.client_to(&stage.target_name).await.unwrap();
    stage.source_sql("INSERT INTO t VALUES (1000, 'new')").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
