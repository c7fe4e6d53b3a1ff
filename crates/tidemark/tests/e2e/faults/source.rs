//! What happens to a source beside our tables: it is idle, takes no writes, loses our publication, has
//! things in its log that are none of ours.

use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::wait_for;

use super::{Rig, own_server, retries};
use crate::asks::{Locked, text};
use crate::oracle;
use crate::small_disk::SmallDisk;
use crate::stage::{PATIENCE, Stage};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')";

/// Writes a little more than a page's worth of log, and gives where it ends.
const ELSEWHERE: &str = "CREATE SCHEMA IF NOT EXISTS private;
    CREATE TABLE IF NOT EXISTS private.elsewhere (v text);
    INSERT INTO private.elsewhere SELECT repeat('x', 900) FROM generate_series(1, 200)";

/// Waits until the source may forget its log up to there.
async fn wait_for_slot(stage: &Stage, position: &str) {
    let sql = format!(
        "SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots \
         WHERE slot_name = 'tidemark_{}'",
        stage.name
    );
    wait_for(PATIENCE, "the slot to move on", || async {
        Ok((text(&stage.source, &sql).await? == "t").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

/// The slot of an idle database must not keep the log of its busy neighbours, and must keep what is
/// in flight.
#[tokio::test(flavor = "multi_thread")]
async fn f33_f34_a_slot_moves_on_with_what_others_write_unless_something_is_in_flight() {
    let server = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(server, server, "fault_idle").await;
    // Heartbeats would move it as well.
    stage.write("[stream]\nheartbeat_interval = \"0 s\"\n");
    stage.source_sql(TABLE).await;
    let run = stage.start_streaming().await;
    let neighbour = server.fresh_database("neighbour").await.unwrap();
    let neighbour = server.client_to(&neighbour).await.unwrap();
    for client in [&neighbour, &stage.source] {
        client.batch_execute(ELSEWHERE).await.unwrap();
        wait_for_slot(&stage, &stage.head().await).await;
    }

    let locked = Locked::table(&stage, "t").await;
    let before = stage.head().await;
    stage.source_sql("INSERT INTO t VALUES (2, 'two')").await;
    locked.wait_for_waiter().await;
    for client in [&neighbour, &stage.source] {
        client.batch_execute(ELSEWHERE).await.unwrap();
    }
    // Whatever is acknowledged by then, it is nothing that has not been applied.
    let replies = "SELECT extract(epoch FROM max(r.reply_time)) FROM pg_stat_replication r \
                   JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = ";
    let replies = format!("{replies}'tidemark_{}'", stage.name);
    let first = text(&stage.source, &replies).await.unwrap();
    wait_for(PATIENCE, "an answer to the walsender", || async {
        Ok((text(&stage.source, &replies).await? != first).then_some(()))
    })
    .await
    .unwrap();
    let confirmed = format!(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'tidemark_{}'",
        stage.name
    );
    let confirmed = text(&stage.source, &confirmed).await.unwrap();
    let is_kept = format!("SELECT '{confirmed}'::pg_lsn <= '{before}'::pg_lsn");
    let is_kept = text(&stage.source, &is_kept).await.unwrap();
    assert_eq!(is_kept, "t", "{confirmed} is past {before}");
    // It is needed: nobody else has the row.
    run.kill9().await;
    locked.release().await;
    let run = stage.start_streaming().await;
    let rows = "SELECT string_agg(v, ' ' ORDER BY id) FROM t";
    stage.wait_for_target(rows, "one two").await;
    wait_for_slot(&stage, &stage.head().await).await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Our own writes to a source are marks in its log, and nobody's rows depend on them.
#[tokio::test(flavor = "multi_thread")]
async fn f38_a_source_that_takes_no_heartbeats_and_no_writes_is_streamed_all_the_same() {
    let source = own_server(&[]).await;
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "fault_no_writes").await;
    stage
        .source_sql(
            "CREATE ROLE reader LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO reader;
             REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC;
             REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea) FROM PUBLIC;
             CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t OWNER TO reader",
        )
        .await;
    let grant = format!("GRANT CREATE ON DATABASE {} TO reader", stage.source_name);
    stage.source_sql(&grant).await;
    let url = source.url_with("reader", None, &stage.source_name);
    let beats = "[stream]\nheartbeat_interval = \"1 s\"\n";
    stage.write_between(&url, &stage.target_url(), beats);
    let run = stage.start_streaming().await;

    source
        .execute("ALTER SYSTEM SET default_transaction_read_only = on")
        .await
        .unwrap();
    source.reload().await.unwrap();
    let writer = source.client_to(&stage.source_name).await.unwrap();
    writer
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    for round in 1..=3 {
        let insert = format!("INSERT INTO t VALUES ({round}, 'row')");
        writer.batch_execute(&insert).await.unwrap();
        let arrived = format!("SELECT count(*) FROM t WHERE id = {round}");
        stage.wait_for_target(&arrived, "1").await;
    }
    wait_for_slot(&stage, &stage.head().await).await;
    assert_eq!(retries(&stage), 0, "{}", stage.log());
    let status = stage.status().await;
    assert_eq!(status["state"], "streaming", "{status}");
    assert!(status["error"].is_null(), "{status}");
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
}

/// What a source does that cannot write its log any more: it goes down.
#[tokio::test(flavor = "multi_thread")]
async fn f38_a_source_whose_log_has_no_room_is_waited_for() {
    let name = "f38_a_source_whose_log_has_no_room_is_waited_for";
    let source = own_server(&[("restart_after_crash", "off"), ("min_wal_size", "32MB")]).await;
    let data = source.data_directory();
    let Some(disk) = SmallDisk::mount(name, 80, &data) else {
        return;
    };
    source.stop(Shutdown::Fast).await.unwrap();
    let log = data.join("pg_wal");
    let moved = std::process::Command::new("cp")
        .arg("-a")
        .arg(log.join("."))
        .arg(disk.path())
        .status();
    assert!(moved.unwrap().success());
    std::fs::remove_dir_all(&log).unwrap();
    std::os::unix::fs::symlink(disk.path(), &log).unwrap();
    source.start().await.unwrap();

    let target = PostgresServer::shared().await.unwrap();
    let mut rig = Rig::on(source, target, "fault_source_disk").await;
    let run = rig.streams().await;
    let filler = source.client().await.unwrap();
    let megabyte = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))";
    for _ in 0..200 {
        if filler.batch_execute(megabyte).await.is_err() {
            break;
        }
    }
    wait_for(PATIENCE, "the source to give up", || async {
        Ok((!source.is_running()).then_some(()))
    })
    .await
    .unwrap();
    assert!(source.log().contains("No space left"), "{}", source.log());
    wait_for(PATIENCE, "it to be told", || async {
        Ok((retries(&rig.stage) > 2).then_some(()))
    })
    .await
    .unwrap();
    disk.resize(400);
    source.start().await.unwrap();
    rig.connect_again().await;
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
    source.stop(Shutdown::Fast).await.unwrap();
}

/// A start has to make a publication and a slot; one that streams writes nothing that matters.
#[tokio::test(flavor = "multi_thread")]
async fn f38_a_start_waits_for_a_source_that_takes_no_writes() {
    let stage = Stage::new("fault_read_only_start").await;
    stage.source_sql(TABLE).await;
    let read_only = format!(
        "ALTER DATABASE {} SET default_transaction_read_only",
        stage.source_name
    );
    stage.source_sql(&format!("{read_only} = on")).await;
    let run = stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "it to be told", || async {
        let log = stage.log();
        let told = log.matches("\"code\":\"TM1027\"").count();
        Ok((told > 1).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    assert!(stage.slots().await.is_empty(), "nothing is half made");
    stage.source_sql(&format!("{read_only} = off")).await;
    stage.wait_until_identical().await;
    stage.source_sql(&format!("{read_only} = on")).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    // What is there already is not made again.
    let run = stage.start_streaming().await;
    stage.source_sql("INSERT INTO t VALUES (2, 'two')").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_publication_that_is_dropped_is_told_and_nothing_is_passed_over() {
    let stage = Stage::new("fault_publication").await;
    stage.source_sql(TABLE).await;
    let mut run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage
        .source_sql("DROP PUBLICATION tidemark_fault_publication")
        .await;
    stage.source_sql("INSERT INTO t VALUES (2, 'two')").await;
    let code = run.ended().await;
    assert!(code != Some(0), "{}", stage.log());
    let log = stage.log();
    assert!(log.contains("publication"), "{log}");
    // With what a person would try first: the row must not be passed over.
    let made = "CREATE PUBLICATION tidemark_fault_publication FOR TABLE t";
    stage.source_sql(made).await;
    stage.source_sql("INSERT INTO t VALUES (3, 'three')").await;
    let ran = stage.run(&["run", "FILE", "--until", "caught-up"]).await;
    let rows = text(
        &stage.target,
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
    );
    let rows = rows.await.unwrap();
    let is_told = ran.code != Some(0) && rows == "1";
    assert!(is_told || rows == "1,2,3", "{rows}\n{ran:?}");
    stage.clear().await;
}

/// All that may be in a log and is nobody's row.
#[tokio::test(flavor = "multi_thread")]
async fn f40_what_is_no_row_of_a_table_is_passed_over() {
    let stage = Stage::new("fault_messages").await;
    stage.source_sql(TABLE).await;
    stage
        .source_sql(
            "CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
             CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
             CREATE FOREIGN TABLE far (id int) SERVER nowhere;
             CREATE VIEW seen AS SELECT * FROM t; CREATE MATERIALIZED VIEW kept AS SELECT * FROM t",
        )
        .await;
    let mut run = stage.start_streaming().await;
    for round in 2..12 {
        let sql = format!(
            "SELECT pg_logical_emit_message(false, 'other', 'before {round}');
             BEGIN; SELECT pg_logical_emit_message(true, 'other', 'alone'); COMMIT;
             BEGIN; SELECT pg_logical_emit_message(true, 'tidemark:fault_messages', 'not a time'); COMMIT;
             SELECT pg_logical_emit_message(false, 'tidemark:fault_messages', 'nor this');
             BEGIN; SELECT txid_current(); COMMIT;
             BEGIN; INSERT INTO t VALUES ({round}, 'x'); ROLLBACK;
             BEGIN; INSERT INTO scratch VALUES ({round}); COMMIT;
             BEGIN; CREATE TEMP TABLE temporary_{round} AS SELECT 1 AS id; COMMIT;
             BEGIN; SELECT pg_logical_emit_message(false, 'other', 'within');
             INSERT INTO t VALUES ({round}, 'row');
             SELECT pg_logical_emit_message(true, 'other', repeat('m', 100000)); COMMIT;
             REFRESH MATERIALIZED VIEW kept;
             SELECT pg_logical_emit_message(false, 'other', 'after {round}')"
        );
        stage.source_sql(&sql).await;
        let count = "SELECT count(*) FROM t";
        stage.wait_for_target(count, &round.to_string()).await;
        wait_for_slot(&stage, &stage.head().await).await;
        // Where the slot stands now is right behind a message.
        if round % 4 == 0 {
            run.kill9().await;
            run = stage.start_streaming().await;
        }
    }
    assert_eq!(retries(&stage), 0, "{}", stage.log());
    let relations = "SELECT string_agg(relname, ',') FROM pg_class \
                     WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i'";
    assert_eq!(text(&stage.target, relations).await.unwrap(), "t");
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// The pipeline of this name the other way round.
async fn way_back(there: &Stage, name: &str, table: &str) -> Stage {
    let mut back = Stage::new(name).await;
    back.source_name.clone_from(&there.target_name);
    back.target_name.clone_from(&there.source_name);
    back.connect_again().await;
    back.write(&format!(
        "mode = \"cdc_only\"\nstart = \"now\"\n[tables]\ninclude = [\"{table}\"]\n"
    ));
    back
}

async fn assert_refused(stage: &Stage) {
    let ran = stage.run(&["run", "FILE", "--until", "caught-up"]).await;
    let ran = ran.expect(6);
    assert!(ran.stderr.contains("TM2090"), "{ran:?}");
    assert!(ran.stderr.contains("public.t"), "{ran:?}");
}

/// Two pipelines in a circle would send each other's changes back for ever.
#[tokio::test(flavor = "multi_thread")]
async fn f41_two_pipelines_in_a_circle_do_not_run_at_the_same_time() {
    let there = Stage::new("circle_there").await;
    there.write("[tables]\ninclude = [\"public.t\"]\n");
    there.source_sql(TABLE).await;
    there
        .target_sql("CREATE TABLE other (id int PRIMARY KEY)")
        .await;
    let run = there.start_streaming().await;
    there.wait_for_target("SELECT count(*) FROM t", "1").await;
    let back = way_back(&there, "circle_back", "public.t").await;
    assert_refused(&back).await;
    assert!(back.slots().await.is_empty(), "nothing was made");

    // Other tables make no circle.
    let beside = way_back(&there, "circle_beside", "public.other").await;
    let other = beside.start_streaming().await;
    beside.source_sql("INSERT INTO other VALUES (1)").await;
    beside
        .wait_for_target("SELECT count(*) FROM other", "1")
        .await;
    assert_eq!(other.terminate().await, Some(0));
    beside.clear().await;

    // What has ended feeds nobody: then the way back is open, and the way there is not.
    assert_eq!(run.terminate().await, Some(0));
    let run = back.start_streaming().await;
    back.source_sql("INSERT INTO t VALUES (2, 'back')").await;
    back.wait_for_target("SELECT count(*) FROM t", "2").await;
    assert_refused(&there).await;
    assert_eq!(run.terminate().await, Some(0));
    back.clear().await;
    there.clear().await;
}

/// Sessions that act as a replica are writers like others.
#[tokio::test(flavor = "multi_thread")]
async fn f41_who_writes_as_a_replica_is_copied_as_well() {
    let stage = Stage::new("fault_replica").await;
    stage.source_sql(TABLE).await;
    let run = stage.start_streaming().await;
    let write = "SET session_replication_role = replica; INSERT INTO t VALUES (2, 'two'); \
                 UPDATE t SET v = 'uno' WHERE id = 1; RESET session_replication_role";
    stage.source_sql(write).await;
    stage.wait_until_identical().await;
    let rows = "SELECT string_agg(v, ',' ORDER BY id) FROM t";
    assert_eq!(text(&stage.target, rows).await.unwrap(), "uno,two");
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A start with few rows is through the load before the first heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn k07_k10_a_rig_whose_slot_is_read_by_one_alone_ends_well_after_many_starts() {
    let rig = Rig::new("fault_starts").await;
    for _ in 0..5 {
        let run = rig.streams().await;
        run.kill9().await;
    }
    let run = rig.streams().await;
    assert!(oracle::is_through(&rig.stage).await.unwrap());
    rig.ends_well(run).await;
}
