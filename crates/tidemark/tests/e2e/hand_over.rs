//! From load to stream under live traffic, with and without kills: no row missing, none twice, and
//! the bank's sum never moves on the target.

use std::time::Duration;

use tidemark_lab::traffic::bank::{Bank, BankReader};
use tidemark_lab::traffic::mixed::Mixed;
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait::wait_for;

use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Stage};

const BANK: Bank = Bank { accounts: 500 };

#[tokio::test(flavor = "multi_thread")]
async fn load_and_stream_under_traffic_end_equal() {
    let stage = Stage::new("hand_over").await;
    let config = stage.source_config();
    let mixed = Mixed::default();
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::set_up(&config, &mixed).await.unwrap();
    let bank = Traffic::start(&config, &BANK, Pace::at(200.0, 1));
    let changes = Traffic::start(&config, &mixed, Pace::at(200.0, 2));

    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let reader = BankReader::start(&stage.target_config(), "public", BANK)
        .await
        .unwrap();
    let busy = || async { Ok((bank.report().committed > 1_000).then_some(())) };
    wait_for(PATIENCE, "a thousand transfers", busy)
        .await
        .unwrap();

    bank.stop().await.unwrap();
    changes.stop().await.unwrap();
    stage.wait_until_identical().await;
    let seen = reader.stop().await.unwrap();
    assert!(seen.snapshots > 10, "the reader looked: {seen:?}");
    assert!(
        seen.violations.is_empty(),
        "the sum moved on the target: {seen:?}"
    );
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k07_kills_during_load_and_stream_cost_nothing() {
    let stage = Stage::new("kills").await;
    let config = stage.source_config();
    let mixed = Mixed::default();
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::set_up(&config, &mixed).await.unwrap();
    let filler = "CREATE TABLE filler AS SELECT i AS id, repeat(md5(i::text), 8) AS text \
                  FROM generate_series(1, 200000) i; ALTER TABLE filler ADD PRIMARY KEY (id);";
    stage.source.batch_execute(filler).await.unwrap();
    let bank = Traffic::start(&config, &BANK, Pace::at(150.0, 3));
    let changes = Traffic::start(&config, &mixed, Pace::at(150.0, 4));
    // Pauses that put kills into connecting, loading, finishing and streaming.
    for pause_ms in [
        150, 400, 700, 1100, 300, 1600, 900, 2500, 500, 1300, 200, 3000,
    ] {
        let run = stage.start(&["run", "FILE"]);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        run.kill9().await;
    }
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    bank.stop().await.unwrap();
    changes.stop().await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    assert_eq!(stage.slots().await.len(), 1, "one slot, the pipeline's own");
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_is_let_go_once_its_rows_are_read_and_keys_are_still_being_made() {
    let stage = Stage::new("let_go").await;
    let table = "CREATE TABLE wide (id int PRIMARY KEY, v text);";
    stage.target_sql(table).await;
    let rows = "CREATE INDEX ON wide (v); CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO wide SELECT i, 'v' || i FROM generate_series(1, 2000) i;
        INSERT INTO other SELECT generate_series(1, 2000);";
    stage.source_sql(&format!("{table} {rows}")).await;
    // Rows come in beside it, an index cannot be made.
    let held = Locked::table(&stage, "wide IN ROW EXCLUSIVE MODE").await;
    let run = stage.start(&["run", "FILE"]);
    held.wait_for_waiter().await;
    let empty =
        "SET lock_timeout = '10s'; TRUNCATE wide, other; INSERT INTO wide VALUES (1, 'anew')";
    stage.source_sql(empty).await;
    nothing_keeps_rows_of_the_source(&stage).await;
    held.release().await;
    stage.wait_for_state("streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    stage.clear().await;
}

/// The worker that makes keys has read rows before, and others read on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn source_is_let_go_where_the_last_rows_come_in_while_keys_are_being_made() {
    let stage = Stage::new("let_go_later").await;
    stage.write("[load]\nmax_source_rows_per_second = 2000\n");
    let table = "CREATE TABLE wide (id int PRIMARY KEY, v text);";
    stage.target_sql(table).await;
    let rows = "CREATE INDEX ON wide (v); CREATE TABLE long (id int PRIMARY KEY, v text);
        INSERT INTO wide SELECT i, 'v' || i FROM generate_series(1, 20) i;
        INSERT INTO long SELECT i, repeat('v', 200) FROM generate_series(1, 10000) i;";
    stage.source_sql(&format!("{table} {rows}")).await;
    let held = Locked::table(&stage, "wide IN ROW EXCLUSIVE MODE").await;
    let run = stage.start(&["run", "FILE"]);
    held.wait_for_waiter().await;
    let is_in = "SELECT is_loaded FROM tidemark.unit WHERE source_name = 'long'";
    assert_eq!(
        text(&stage.target, is_in).await.unwrap(),
        "f",
        "it reads on"
    );
    nothing_keeps_rows_of_the_source(&stage).await;
    assert_eq!(text(&stage.target, is_in).await.unwrap(), "t");
    held.release().await;
    stage.wait_for_state("streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    stage.clear().await;
}

async fn nothing_keeps_rows_of_the_source(stage: &Stage) {
    let snapshots = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL \
                     AND datname = current_database() AND application_name LIKE 'tidemark %'";
    // Whoever only asks the source something has one for that moment.
    wait_for(PATIENCE, "nothing to keep rows of the source", || async {
        Ok((text(&stage.source, snapshots).await? == "0").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_emptied_or_changed_while_it_is_loaded_comes_later_and_the_others_go_on() {
    let stage = Stage::new("rewritten").await;
    stage.write(
        "[load]\nchunk_size = \"1 MB\"\nparallel_tables = 1\nparallel_chunks = 1\n\
         max_source_rows_per_second = 15000\n",
    );
    let tables = "CREATE TABLE big (id int PRIMARY KEY, v text);
        CREATE TABLE staging (id int PRIMARY KEY, v text);
        CREATE TABLE detail (id int PRIMARY KEY, staging int REFERENCES staging);
        CREATE TABLE renamed (id int PRIMARY KEY, old text);
        CREATE TABLE widened (id int PRIMARY KEY, n int);
        INSERT INTO big SELECT i, repeat('b', 100) FROM generate_series(1, 30000) i;
        INSERT INTO staging SELECT i, 's' FROM generate_series(1, 2000) i;
        INSERT INTO detail SELECT i, i FROM generate_series(1, 1000) i;
        INSERT INTO renamed SELECT i, 'r' FROM generate_series(1, 1000) i;
        INSERT INTO widened SELECT i, i FROM generate_series(1, 1000) i; ANALYZE;";
    stage.source_sql(tables).await;
    let mut run = stage.start(&["run", "FILE"]);
    let begun = "SELECT count(*) > 0 FROM tidemark.unit WHERE is_loaded";
    wait_for(PATIENCE, "a part of the load", || async {
        let is_begun = text(&stage.target, begun).await;
        Ok(is_begun.is_ok_and(|is_begun| is_begun == "t").then_some(()))
    })
    .await
    .unwrap();
    // The largest is under way, the others wait for their turn.
    let changes = "TRUNCATE staging, detail; INSERT INTO staging VALUES (1, 'anew');
        INSERT INTO detail VALUES (7, 1);
        ALTER TABLE renamed RENAME old TO new; UPDATE renamed SET new = 'x' WHERE id < 10;
        ALTER TABLE widened ALTER n TYPE bigint; UPDATE widened SET n = 5000000000 WHERE id < 10;
        INSERT INTO big VALUES (0, 'later')";
    stage.source_sql(changes).await;
    stage.wait_for_state("streaming").await;
    run.wait_for_log("TM3004").await;
    stage.wait_until_identical().await;
    for table in ["big", "staging", "detail", "renamed", "widened"] {
        stage
            .wait_for_table(&format!("public.{table}"), "streaming")
            .await;
    }
    let references = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    stage.wait_for_target(references, "1").await;
    let log = run.log();
    assert_eq!(log.matches("step 4/5 load").count(), 1, "one load: {log}");
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    stage.clear().await;
}
