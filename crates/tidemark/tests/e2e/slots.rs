//! Every row of the table "Slot rules at start" (`tidemark_core::pipeline::plan`) against a real
//! server: what must go on goes on, what would leave a gap is refused with its code, and a refusal
//! leaves the target as it was.

use std::process::{Child, Stdio};

use tidemark_lab::compare::Comparison;
use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::skip::major_or_skip;
use tidemark_lab::{Proxy, wait_for};

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

/// `notes` has a key and `lines` has none, so that a change applied twice shows.
const TABLES: &str = "CREATE TABLE notes (id int PRIMARY KEY, v text);
    CREATE TABLE lines (v text); ALTER TABLE lines REPLICA IDENTITY FULL;
    INSERT INTO notes SELECT i, 'first' FROM generate_series(1, 100) i;
    INSERT INTO lines SELECT 'first' FROM generate_series(1, 100) i;";

/// What every gap is answered with.
const WAY_OUT: &str = "tidemark reconcile";

/// More rows, which come by the log.
async fn write_more(stage: &Stage, rows: u32) {
    let sql = format!(
        "INSERT INTO notes SELECT m + i, 'more' FROM generate_series(1, {rows}) i, \
           (SELECT max(id) AS m FROM notes) n;
         INSERT INTO lines SELECT 'more' FROM generate_series(1, {rows}) i;"
    );
    stage.source.batch_execute(&sql).await.unwrap();
}

/// A pipeline that has loaded and stands at a checkpoint.
async fn loaded(name: &str) -> Stage {
    let stage = Stage::new(name).await;
    stage.source.batch_execute(TABLES).await.unwrap();
    catch_up(&stage).await;
    stage
}

async fn catch_up(stage: &Stage) -> String {
    let ran = stage.run(&["run", "FILE", "--until", "caught-up"]).await;
    ran.expect(0).stderr
}

fn slot(stage: &Stage) -> String {
    format!("tidemark_{}", stage.name)
}

/// What a refused start must not touch.
async fn target_rows(stage: &Stage) -> (i64, i64, Option<String>) {
    let sql = "SELECT (SELECT count(*) FROM notes), (SELECT count(*) FROM lines), \
               (SELECT position FROM tidemark.checkpoint)";
    let row = stage.target.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// A start is refused with this code and these words, and nothing is applied past the gap.
async fn assert_refused(stage: &Stage, code: &str, words: &[&str]) {
    let before = target_rows(stage).await;
    let ran = stage.run(&["run", "FILE"]).await.expect(6);
    for word in [code, "Effect", "Do first"].iter().chain(words) {
        assert!(ran.stderr.contains(word), "{word} in\n{}", ran.stderr);
    }
    assert_eq!(target_rows(stage).await, before, "the target is untouched");
}

/// Nobody has to start it to learn that it cannot go on.
async fn assert_told(stage: &Stage, code: &str) {
    let status = stage.status().await;
    let said = (status["health"].as_str(), status["error"]["code"].as_str());
    assert_eq!(said, (Some("error"), Some(code)), "{status}");
    let checked = stage.run(&["check", "FILE"]).await.expect(3);
    let said = (
        checked.stdout.contains(code),
        checked.stdout.contains(WAY_OUT),
    );
    assert_eq!(said, (true, true), "{}", checked.stdout);
    let planned = stage.run(&["plan", "FILE"]).await.stdout;
    assert!(!planned.contains("a start goes on there"), "{planned}");
}

async fn drop_slot(stage: &Stage, name: &str) {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE slot_name = $1 AND NOT active";
    wait_for(PATIENCE, "the slot to be free", || async {
        Ok((stage.source.execute(sql, &[&name]).await? == 1).then_some(()))
    })
    .await
    .unwrap();
}

async fn make_slot(stage: &Stage, plugin: &str) {
    let sql = "SELECT pg_create_logical_replication_slot($1, $2)";
    let name = slot(stage);
    stage.source.execute(sql, &[&name, &plugin]).await.unwrap();
}

async fn confirmed(stage: &Stage) -> String {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let row = stage.source.query_one(sql, &[&slot(stage)]).await.unwrap();
    row.get(0)
}

/// A program that reads the slot until it is killed.
struct Reader(Child);

impl Reader {
    async fn start(stage: &Stage) -> Reader {
        let server = stage.source_server;
        let program = server
            .installation()
            .client_program("pg_recvlogical")
            .unwrap();
        let publication = "other_reader";
        let sql = format!("CREATE PUBLICATION {publication} FOR ALL TABLES");
        stage.source.batch_execute(&sql).await.unwrap();
        let child = std::process::Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &server.port().to_string()])
            .args(["-U", "postgres", "-d", &stage.source_name])
            .args(["-S", &slot(stage), "--start", "-f", "/dev/null"])
            .args(["-o", "proto_version=1", "-o"])
            .arg(format!("publication_names={publication}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let reader = Reader(child);
        wait_for(PATIENCE, "the slot to be read", || async {
            let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active";
            let rows = stage.source.query(sql, &[&slot(stage)]).await?;
            Ok((rows.len() == 1).then_some(()))
        })
        .await
        .unwrap();
        reader
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_without_a_checkpoint_is_removed_and_said() {
    let stage = Stage::new("slot_leftover").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    make_slot(&stage, "pgoutput").await;
    let before = confirmed(&stage).await;
    let log = catch_up(&stage).await;
    assert!(
        log.contains("removes tidemark_slot_leftover, left over"),
        "{log}"
    );
    assert_ne!(confirmed(&stage).await, before, "a slot of its own");
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_reads_is_waited_for_and_never_taken() {
    let stage = Stage::new("slot_active").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    make_slot(&stage, "pgoutput").await;
    let reader = Reader::start(&stage).await;
    let mut run = stage.start(&["run", "FILE"]);
    run.wait_for_log("TM4015").await;
    let log = run.log();
    assert!(log.contains("is read by pid"), "{log}");
    assert!(log.contains("pg_recvlogical"), "{log}");
    assert!(run.is_running());
    drop(reader);
    stage.wait_for_state("streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_slot_behind_the_checkpoint_is_skipped_over_and_said() {
    let stage = loaded("slot_behind").await;
    // A copy of the slot stays where it is while ours goes on.
    let copy = "SELECT pg_copy_logical_replication_slot($1, 'slot_behind_copy')";
    stage.source.execute(copy, &[&slot(&stage)]).await.unwrap();
    write_more(&stage, 50).await;
    let log = catch_up(&stage).await;
    assert!(log.contains("goes on at"), "{log}");
    stage.assert_identical().await;

    drop_slot(&stage, &slot(&stage)).await;
    let back = "SELECT pg_copy_logical_replication_slot('slot_behind_copy', $1)";
    stage.source.execute(back, &[&slot(&stage)]).await.unwrap();
    drop_slot(&stage, "slot_behind_copy").await;
    write_more(&stage, 7).await;
    let log = catch_up(&stage).await;
    assert!(log.contains("goes on at"), "{log}");
    let behind = log.split("slot behind by ").nth(1);
    let behind = behind.and_then(|rest| rest.split_once(" bytes")?.0.parse().ok());
    assert!(behind.is_some_and(|bytes: u64| bytes > 0), "{log}");
    // `lines` has no key: a change applied twice would be a row too many.
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_slot_advanced_behind_our_back_is_refused() {
    let stage = loaded("slot_ahead").await;
    write_more(&stage, 50).await;
    let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
    stage
        .source
        .execute(advance, &[&slot(&stage)])
        .await
        .unwrap();
    write_more(&stage, 5).await;
    assert_told(&stage, "TM4011").await;
    assert_refused(&stage, "TM4011", &["was advanced to", "may be missing"]).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_slot_dropped_while_down_is_refused() {
    let stage = loaded("slot_dropped").await;
    write_more(&stage, 50).await;
    drop_slot(&stage, &slot(&stage)).await;
    assert_told(&stage, "TM4010").await;
    let words = ["the slot is gone from the source", WAY_OUT];
    assert_refused(&stage, "TM4010", &words).await;
    assert!(stage.slots().await.is_empty(), "none was made in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_slot_dropped_and_made_again_is_refused() {
    let stage = loaded("slot_made_again").await;
    write_more(&stage, 50).await;
    drop_slot(&stage, &slot(&stage)).await;
    make_slot(&stage, "pgoutput").await;
    assert_refused(&stage, "TM4011", &["may be missing", WAY_OUT]).await;
    stage.clear().await;
}

/// Who drops a slot that is read ends its reader first.
#[tokio::test(flavor = "multi_thread")]
async fn f07_slot_dropped_while_running_ends_the_run() {
    let stage = loaded("slot_dropped_running").await;
    let mut run = stage.start_streaming().await;
    write_more(&stage, 5).await;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
               WHERE slot_name = $1 AND active";
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                WHERE slot_name = $1 AND NOT active";
    wait_for(PATIENCE, "the slot to be dropped", || async {
        let name = slot(&stage);
        stage.source.execute(end, &[&name]).await?;
        // Whoever reads again between the two keeps it.
        let dropped = stage.source.execute(drop, &[&name]).await;
        Ok((dropped.is_ok() && stage.slots().await.is_empty()).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(run.ended().await, Some(6), "{}", run.log());
    assert!(run.log().contains("TM4010"), "{}", run.log());
    assert!(stage.slots().await.is_empty(), "none was made in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_slot_of_another_plugin_is_refused_with_and_without_a_checkpoint() {
    let fresh = Stage::new("slot_plugin").await;
    fresh.source.batch_execute(TABLES).await.unwrap();
    make_slot(&fresh, "test_decoding").await;
    let ran = fresh.run(&["run", "FILE"]).await.expect(6);
    for word in ["TM4014", "its plugin is test_decoding"] {
        assert!(ran.stderr.contains(word), "{word} in\n{}", ran.stderr);
    }
    let rows = fresh
        .source
        .query("SELECT 1 FROM pg_publication", &[])
        .await;
    assert!(rows.unwrap().is_empty(), "nothing was made on the source");
    assert_eq!(fresh.slots().await.len(), 1, "somebody else's slot stays");
    fresh.clear().await;

    let stage = loaded("slot_plugin_later").await;
    write_more(&stage, 5).await;
    drop_slot(&stage, &slot(&stage)).await;
    make_slot(&stage, "test_decoding").await;
    assert_refused(&stage, "TM4014", &["its plugin is test_decoding"]).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_slot_of_another_kind_is_refused_by_its_attribute() {
    let stage = loaded("slot_kind").await;
    write_more(&stage, 5).await;
    let holder = stage.source_server.client_to(&stage.source_name).await;
    let holder = holder.unwrap();
    for (make, word) in [
        ("pg_create_physical_replication_slot($1)", "physical"),
        (
            "pg_create_logical_replication_slot($1, 'pgoutput', false, true)",
            "two_phase",
        ),
        (
            "pg_create_logical_replication_slot($1, 'pgoutput', true)",
            "temporary",
        ),
    ] {
        drop_slot(&stage, &slot(&stage)).await;
        let sql = format!("SELECT {make}");
        holder.execute(&sql, &[&slot(&stage)]).await.unwrap();
        assert_refused(&stage, "TM4014", &[word]).await;
        assert_eq!(stage.slots().await.len(), 1, "it was not touched: {word}");
        // Nor may it be taken for a leftover of ours by what bridges a gap.
        let ran = stage.run(&["reconcile", "FILE", "--yes"]).await.expect(6);
        assert!(ran.stderr.contains("TM4014"), "{}", ran.stderr);
        assert_eq!(stage.slots().await.len(), 1, "it was not touched: {word}");
        if word == "temporary" {
            let drop = "SELECT pg_drop_replication_slot($1)";
            holder.execute(drop, &[&slot(&stage)]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_slot_of_another_database_of_the_same_server_is_refused() {
    let stage = loaded("slot_database").await;
    let server = stage.source_server;
    let other = server.fresh_database("other").await.unwrap();
    server.execute_in(&other, TABLES).await.unwrap();
    stage.write_between(&server.url_to(&other), &stage.target_url(), "");
    assert_refused(&stage, "TM4013", &[&other, &stage.source_name]).await;

    // Without a checkpoint the slot of that name is still another database's.
    let fresh = Stage::new("slot_database").await;
    fresh.source.batch_execute(TABLES).await.unwrap();
    let ran = fresh.run(&["run", "FILE"]).await.expect(6);
    assert!(ran.stderr.contains("TM4014"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&stage.source_name), "{}", ran.stderr);
    stage.clear().await;
}

/// The log goes on until the source has given the slot up; each switch ends a segment of 16 MB.
async fn lose_the_log(stage: &Stage) {
    wait_for(PATIENCE, "the slot to be invalidated", || async {
        let next = "INSERT INTO lines VALUES ('x'); SELECT pg_switch_wal(); CHECKPOINT;";
        stage.source.batch_execute(next).await?;
        let sql = "SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost'";
        Ok((stage.source.query(sql, &[]).await?.len() == 1).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_slot_whose_log_was_removed_is_refused_while_down_and_while_running() {
    let source = PostgresServer::builder()
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("min_wal_size", "32MB")
        .setting("max_wal_size", "32MB");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "slot_lost").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    catch_up(&stage).await;
    write_more(&stage, 5).await;
    lose_the_log(&stage).await;
    let words = ["wal_status lost", "max_slot_wal_keep_size", WAY_OUT];
    assert_refused(&stage, "TM4012", &words).await;

    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    stage.assert_identical().await;
    // Held up by the target, so that the source cannot let its log go in order.
    let mut run = stage.start_streaming().await;
    stage.run(&["pause", "FILE"]).await.expect(0);
    lose_the_log(&stage).await;
    stage.run(&["resume", "FILE"]).await;
    assert_eq!(run.ended().await, Some(6), "{}", run.log());
    assert!(run.log().contains("TM4012"), "{}", run.log());
}

/// Since PostgreSQL 18 a server gives up slots that nobody reads, and tells so.
#[tokio::test(flavor = "multi_thread")]
async fn f11_slot_that_was_idle_too_long_is_refused_with_the_servers_reason() {
    let test = "slots::f11_slot_that_was_idle_too_long_is_refused_with_the_servers_reason";
    let Some(source) = major_or_skip(test, 18) else {
        return;
    };
    let source = source.setting("idle_replication_slot_timeout", "1s");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "slot_idle").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    catch_up(&stage).await;
    write_more(&stage, 5).await;
    wait_for(PATIENCE, "the slot to be given up", || async {
        stage.source.batch_execute("CHECKPOINT").await?;
        let sql = "SELECT 1 FROM pg_replication_slots WHERE invalidation_reason = 'idle_timeout'";
        Ok((stage.source.query(sql, &[]).await?.len() == 1).then_some(()))
    })
    .await
    .unwrap();
    assert_told(&stage, "TM4012").await;
    let words = ["idle_replication_slot_timeout", WAY_OUT];
    assert_refused(&stage, "TM4012", &words).await;
    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    stage.assert_identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_another_cluster_at_the_same_address_is_refused() {
    let first = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(first, target, "slot_cluster").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    let proxy = Proxy::start(first.port()).await.unwrap();
    let url = first.url_through(proxy.address(), &stage.source_name);
    stage.write_between(&url, &stage.target_url(), "");
    catch_up(&stage).await;

    let second = PostgresServer::builder().start().await.unwrap();
    let create = format!("CREATE DATABASE {}", stage.source_name);
    second.execute(&create).await.unwrap();
    second.execute_in(&stage.source_name, TABLES).await.unwrap();
    proxy.point_to(([127, 0, 0, 1], second.port()).into());
    assert_refused(&stage, "TM4013", &["system identifier"]).await;
    let slots = "SELECT 1 FROM pg_replication_slots";
    let client = second.client().await.unwrap();
    let rows = client.query(slots, &[]).await.unwrap();
    assert!(rows.is_empty(), "nothing was made on the other cluster");

    proxy.point_to(([127, 0, 0, 1], first.port()).into());
    write_more(&stage, 5).await;
    catch_up(&stage).await;
    stage.assert_identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_source_restored_from_an_older_copy_is_refused() {
    let source = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let mut stage = Stage::on(source, target, "slot_restored").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    catch_up(&stage).await;

    source.stop(Shutdown::Fast).await.unwrap();
    let (data, copy) = (source.data_directory(), source.directory().join("copy"));
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&data, &copy])
        .status();
    assert!(copied.unwrap().success());
    source.start().await.unwrap();
    let client = source.client_to(&stage.source_name).await.unwrap();
    let more = "INSERT INTO lines SELECT repeat(md5(i::text), 10) FROM generate_series(1, 20000) i";
    client.batch_execute(more).await.unwrap();
    catch_up(&stage).await;

    source.stop(Shutdown::Fast).await.unwrap();
    std::fs::rename(&data, source.directory().join("newer")).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    source.start().await.unwrap();
    assert_refused(&stage, "TM4016", &["before the checkpoint"]).await;
    // Once its log has grown past the checkpoint nothing shows it but what was recorded.
    let client = source.client_to(&stage.source_name).await.unwrap();
    let other =
        "INSERT INTO lines SELECT repeat(md5(i::text), 11) FROM generate_series(1, 40000) i";
    client.batch_execute(other).await.unwrap();
    assert_refused(&stage, "TM4016", &["as was seen at"]).await;
    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    let both = Comparison::new(&client, &stage.target).schema("public", "public");
    let outcome = both.run().await.unwrap();
    assert!(outcome.is_identical(), "{outcome}");
    stage.source = client;
    catch_up(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_source_whose_log_was_reset_is_refused() {
    let source = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "slot_reset").await;
    stage.source.batch_execute(TABLES).await.unwrap();
    catch_up(&stage).await;
    write_more(&stage, 50).await;
    source.stop(Shutdown::Fast).await.unwrap();
    source.run_program("pg_resetwal", &["-f"]).unwrap();
    source.start().await.unwrap();
    let before = target_rows(&stage).await;
    let ran = stage
        .run(&["run", "FILE", "--timeout", "30s"])
        .await
        .expect(6);
    assert!(ran.stderr.contains("TM401"), "{}", ran.stderr);
    assert!(ran.stderr.contains(WAY_OUT), "{}", ran.stderr);
    assert_eq!(target_rows(&stage).await, before, "the target is untouched");
    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    let moved = source.client_to(&stage.source_name).await.unwrap();
    let both = Comparison::new(&moved, &stage.target).schema("public", "public");
    let outcome = both.run().await.unwrap();
    assert!(outcome.is_identical(), "{outcome}");
}

/// The target, or what it remembers, is older than what the source was told.
#[tokio::test(flavor = "multi_thread")]
async fn f53_checkpoint_of_an_older_backup_is_refused_and_a_deleted_one_begins_nothing() {
    let stage = loaded("slot_backup").await;
    let backup = "CREATE TABLE backup AS SELECT position FROM tidemark.checkpoint";
    stage.target.batch_execute(backup).await.unwrap();
    write_more(&stage, 50).await;
    catch_up(&stage).await;
    let restore = "UPDATE tidemark.checkpoint SET position = (SELECT position FROM backup); \
                   DROP TABLE backup; DELETE FROM lines WHERE v = 'more'; \
                   DELETE FROM notes WHERE v = 'more'";
    stage.target.batch_execute(restore).await.unwrap();
    assert_refused(&stage, "TM4011", &["may be missing", WAY_OUT]).await;
    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    stage.assert_identical().await;

    let delete = "DELETE FROM tidemark.checkpoint; DELETE FROM tidemark.table_state; \
                  DELETE FROM tidemark.unit";
    stage.target.batch_execute(delete).await.unwrap();
    write_more(&stage, 5).await;
    let ran = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(ran.stderr.contains("TM2037"), "{}", ran.stderr);
    let rows = "SELECT count(*) FROM lines";
    assert_eq!(text(&stage.target, rows).await.unwrap(), "150", "as it was");
    stage.clear().await;
}
