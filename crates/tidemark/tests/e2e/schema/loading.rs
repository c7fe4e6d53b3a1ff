//! Changes while the tables are loaded: between the snapshot and the moment when a table is read, and
//! between a run that was killed and the one that goes on with its load.

use tidemark_lab::wait_for;

use super::cases::Policy;
use super::{Writers, assert_as_the_policy_says, change, staged};
use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};

/// The largest table comes first, and is read slowly enough for something to happen meanwhile.
const BIG: &str = "CREATE TABLE big (id int PRIMARY KEY, v text); \
    INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 4000) i";
const SLOWLY: [&str; 6] = [
    "run",
    "FILE",
    "--set",
    "load.max_source_rows_per_second=1500",
    "--set",
    "load.chunk_size=1 MB",
];

/// A load in its midst, and writers.
async fn loading(name: &str) -> (Stage, Writers, Running) {
    let stage = staged(name, Policy::Apply).await;
    stage.source_sql(BIG).await;
    let writers = Writers::start(&stage).await;
    let run = stage.start(&SLOWLY);
    wait_for_the_load(&stage).await;
    (stage, writers, run)
}

/// Until some units are in, and others not.
async fn wait_for_the_load(stage: &Stage) {
    let loaded = "SELECT count(*) > 0 AND count(*) < 60 FROM tidemark.unit WHERE is_loaded";
    wait_for(PATIENCE, "the load to be under way", || async {
        Ok((text(&stage.target, loaded).await? == "t").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

async fn ends_equal(stage: Stage, writers: Writers, run: Running) {
    writers.go_round(1).await;
    writers.stop().await;
    assert_as_the_policy_says(&stage, Policy::Apply).await;
    let big = stage.comparison().only("public", "big");
    stage.wait_for_equal(big).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_change_while_they_are_loaded_end_equal() {
    let (stage, writers, run) = loading("schema_loading").await;
    change(&stage).await;
    ends_equal(stage, writers, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_killed_goes_on_with_tables_that_have_changed_since() {
    let (stage, writers, run) = loading("schema_load_killed").await;
    run.kill9().await;
    change(&stage).await;
    let run = stage.start(&["run", "FILE"]);
    ends_equal(stage, writers, run).await;
}

/// The table that is there has the old column still, which the one that is to come has not.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_renamed_while_its_table_is_loaded_again_is_followed_after_a_kill() {
    let stage = Stage::new("schema_again_killed").await;
    stage.write(
        "[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n\
         [load]\nparallel_tables = 1\n",
    );
    let table = "CREATE TABLE one (id int PRIMARY KEY, v text);";
    let rows = "INSERT INTO one SELECT i, 'v' || i FROM generate_series(1, 50) i";
    stage.source_sql(&format!("{BIG}; {table} {rows}")).await;
    stage.target_sql(table).await;
    let held = Locked::table(&stage, "one IN ACCESS SHARE MODE").await;
    let mut run = stage.start(&SLOWLY);
    wait_for_the_load(&stage).await;
    let rename = "ALTER TABLE one RENAME v TO w; INSERT INTO one VALUES (1000, 'new')";
    stage.source_sql(rename).await;
    held.wait_for_waiter().await;
    run.wait_for_log("column v renamed to w: the table is loaded anew")
        .await;
    let recorded = "SELECT count(*) FROM tidemark.table_state \
        WHERE source_name = 'one' AND reason LIKE 'resync%'";
    stage.wait_for_target(recorded, "1").await;
    run.kill9().await;
    held.release().await;
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_table("public.one", "streaming").await;
    stage
        .wait_for_equal(stage.comparison().schema("public", "public"))
        .await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// The tables are described before the log is opened, which waits for whoever writes.
#[tokio::test(flavor = "multi_thread")]
async fn columns_added_before_the_snapshot_keep_what_rows_were_given() {
    let stage = Stage::new("schema_before_snapshot").await;
    stage.write("[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n");
    let tables = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); \
        CREATE TABLE other (id int PRIMARY KEY)";
    stage.source_sql(tables).await;
    let writer = stage.source_server.client_to(&stage.source_name).await;
    let writer = writer.unwrap();
    let open = "BEGIN; INSERT INTO other VALUES (1)";
    writer.batch_execute(open).await.unwrap();
    let mut run = stage.start(&["run", "FILE"]);
    run.wait_for_log("publication tidemark_schema_before_snapshot made")
        .await;
    let given = "ALTER TABLE t ADD a text DEFAULT 'filled', ADD b int; \
        INSERT INTO t VALUES (3, 'given', 3); UPDATE t SET a = 'given', b = 1 WHERE id = 1";
    stage.source_sql(given).await;
    writer.batch_execute("COMMIT").await.unwrap();
    run.wait_for_log("state streaming").await;
    // What announces the columns.
    stage.source_sql("INSERT INTO t VALUES (4, 'new', 4)").await;
    stage
        .wait_for_equal(stage.comparison().only("public", "t"))
        .await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// The log has it under another name, and it is loaded under its own: what it has of then is in the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_to_another_schema_and_back_before_it_is_read_ends_equal() {
    let stage = Stage::new("schema_back_loading").await;
    stage.write(
        "[tables]\ninclude = [\"public.*\"]\n[verify]\nafter_load = \"off\"\n\
         [load]\nparallel_tables = 1\n",
    );
    let tables = "CREATE SCHEMA aside; CREATE TABLE t (id int PRIMARY KEY, v text); \
        INSERT INTO t SELECT i, 'v' FROM generate_series(1, 50) i";
    stage.source_sql(BIG).await;
    stage.source_sql(tables).await;
    let run = stage.start(&SLOWLY);
    wait_for_the_load(&stage).await;
    // Emptied, so that it is read at a later snapshot, beside the stream.
    let there_and_back = "ALTER TABLE t SET SCHEMA aside; INSERT INTO aside.t VALUES (60, 'aside'); \
        TRUNCATE aside.t; INSERT INTO aside.t VALUES (61, 'aside'), (62, 'aside'); \
        ALTER TABLE aside.t SET SCHEMA public; UPDATE t SET v = 'back' WHERE id = 61";
    stage.source_sql(there_and_back).await;
    stage.wait_for_state("streaming").await;
    stage
        .source_sql("INSERT INTO t VALUES (63, 'last'); DELETE FROM t WHERE id = 62")
        .await;
    let equal = stage.comparison().only("public", "t");
    stage.wait_for_equal(equal).await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A transaction with the snapshot reads whatever table has the name by now.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_exchange_their_names_after_the_snapshot_are_not_taken_for_each_other() {
    let stage = Stage::new("schema_names_loading").await;
    stage.write("[verify]\nafter_load = \"off\"\n[load]\nparallel_tables = 1\n");
    let tables = "CREATE TABLE one (id int PRIMARY KEY); INSERT INTO one VALUES (1); \
        CREATE TABLE two (id bigint PRIMARY KEY); INSERT INTO two VALUES (2), (3)";
    stage.source_sql(BIG).await;
    stage.source_sql(tables).await;
    let run = stage.start(&SLOWLY);
    wait_for_the_load(&stage).await;
    // What comes by the log is of the tables as they were called.
    let exchange = "INSERT INTO one VALUES (11); INSERT INTO two VALUES (12); \
        BEGIN; ALTER TABLE one RENAME TO x; ALTER TABLE two RENAME TO one; ALTER TABLE x RENAME TO two; \
        COMMIT";
    stage.source_sql(exchange).await;
    stage.wait_for_state("streaming").await;
    for table in ["public.one", "public.two"] {
        stage.wait_for_table(table, "streaming").await;
    }
    let tables = stage.comparison().only("public", "one");
    stage.wait_for_equal(tables.only("public", "two")).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
