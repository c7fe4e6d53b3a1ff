//! Transactions that the source has not decided yet, and a row that the target refuses: beside one of
//! them, or within it.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;
use tokio_postgres::Client;

use super::{own_server, retries};
use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one');
    CREATE TABLE big (id int PRIMARY KEY, v text);
    CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO other VALUES (1, 'one')";

/// What the target refuses, and what mends that.
const STRICT: &str = "ALTER TABLE t ADD CONSTRAINT no_odd CHECK (v <> 'odd')";
const MENDED: &str = "ALTER TABLE t DROP CONSTRAINT no_odd";

/// What the log says of a transaction that is refused while it is in progress.
const NOT_DECIDED: &str = "which is not decided";

/// More than the source decodes in memory, and than a batch holds.
fn much(from: u32) -> String {
    let to = from + 4999;
    format!(
        "INSERT INTO big SELECT i, repeat(md5(i::text), 4) FROM generate_series({from}, {to}) i"
    )
}

/// A pipeline that streams from a source that sends early, and a second session there.
async fn streaming(name: &str) -> (Stage, Running, Client) {
    let early = [
        ("logical_decoding_work_mem", "64kB"),
        ("max_prepared_transactions", "5"),
    ];
    let source = own_server(&early).await;
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, name).await;
    stage.write("[stream]\nbatch_rows = 300\n[verify]\nafter_load = \"off\"\n");
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage.target_sql(STRICT).await;
    let second = source.client_to(&stage.source_name).await.unwrap();
    (stage, run, second)
}

/// Waits until the source has sent everything that it has.
async fn all_is_sent(stage: &Stage) {
    let head = stage.head().await;
    let sent = format!("SELECT sent_lsn >= '{head}' FROM pg_stat_replication");
    wait_for(PATIENCE, "everything to be sent", || async {
        Ok((text(&stage.source, &sent).await? == "t").then_some(()))
    })
    .await
    .unwrap();
}

/// Mends the target, and has the table brought up to date.
async fn ends_well(stage: &Stage, run: Running) {
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// The table of the row is set aside, not the transaction that happens to be in progress.
#[tokio::test(flavor = "multi_thread")]
async fn f31_f47_a_row_that_is_refused_beside_an_undecided_transaction_is_told_as_its_own() {
    let (stage, run, second) = streaming("fault_beside").await;
    let locked = Locked::table(&stage, "t").await;
    stage.source_sql("INSERT INTO t VALUES (2, 'odd')").await;
    locked.wait_for_waiter().await;
    second
        .batch_execute(&format!("BEGIN; {}; {}", much(1), much(5001)))
        .await
        .unwrap();
    all_is_sent(&stage).await;
    locked.release().await;
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(reason.contains("no_odd"), "{reason}");
    let log = stage.log();
    assert!(!log.contains(NOT_DECIDED), "the other one is blamed\n{log}");
    assert_eq!(retries(&stage), 0, "{log}");

    // It goes on, and is there once it is decided, with what it brings for the table that is set aside.
    let more = "INSERT INTO t VALUES (3, 'later'); INSERT INTO other VALUES (3, 'more')";
    let prepare = format!("{more}; PREPARE TRANSACTION 'both'");
    second.batch_execute(&prepare).await.unwrap();
    stage
        .source_sql("INSERT INTO other VALUES (2, 'meanwhile')")
        .await;
    stage
        .wait_for_target("SELECT count(*) FROM other", "2")
        .await;
    let big = "SELECT count(*) FROM big";
    assert_eq!(text(&stage.target, big).await.unwrap(), "0");
    stage.source_sql("COMMIT PREPARED 'both'").await;
    stage.wait_for_target(big, "10000").await;
    stage
        .wait_for_target("SELECT count(*) FROM other", "3")
        .await;
    ends_well(&stage, run).await;
}

/// What is rolled back was never wrong; what is committed is refused like any other row.
#[tokio::test(flavor = "multi_thread")]
async fn f31_f47_a_row_that_is_refused_within_an_undecided_transaction_counts_if_it_commits() {
    let (stage, mut run, second) = streaming("fault_within").await;
    for (round, (open, end)) in [
        ("", "ROLLBACK"),
        ("; PREPARE TRANSACTION 'one'", "ROLLBACK PREPARED 'one'"),
        ("", "COMMIT"),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = "INSERT INTO t VALUES (2, 'odd')";
        let sql = format!("BEGIN; {}; {refused}; {}{open}", much(1), much(5001));
        second.batch_execute(&sql).await.unwrap();
        // As a rule it is refused while it comes; on a busy machine it may be put aside before that.
        all_is_sent(&stage).await;
        let id = 10 + round;
        let fine = format!("INSERT INTO t VALUES ({id}, 'fine'); INSERT INTO other VALUES ({id})");
        stage.source_sql(&fine).await;
        let there = format!("SELECT count(*) FROM other WHERE id = {id}");
        stage.wait_for_target(&there, "1").await;
        let state = stage.table("public.t").await["state"].clone();
        assert_eq!(state, "streaming", "{end}: {}", stage.log());
        // A stream that has met one that came to nothing does not try the next one early.
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        second.batch_execute(end).await.unwrap();
        run = stage.start_streaming().await;
    }
    stage.wait_for_table("public.t", "quarantined").await;
    stage
        .wait_for_target("SELECT count(*) FROM big", "10000")
        .await;
    ends_well(&stage, run).await;
}
