//! Starts that are refused, or stopped, after something was made on the source: it is taken back.

use super::{ROWS, Refusal, assert_nothing_is_left, assert_refused, assert_succeeds};
use crate::stage::Stage;

const IMPATIENT: &str = "[source.postgres]\nslot_creation_timeout = \"1s\"\n";

/// A transaction of another session that is left open.
async fn open_transaction(stage: &Stage, sql: &str) -> tokio_postgres::Client {
    let other = stage
        .source_server
        .client_to(&stage.source_name)
        .await
        .unwrap();
    other.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_a_start_that_waits_in_vain_takes_publication_and_slot_back() {
    let stage = Stage::new("bad_waits").await;
    stage.source_sql(ROWS).await;
    stage
        .source_sql("CREATE TABLE other (id int PRIMARY KEY)")
        .await;
    stage.write(&format!("{IMPATIENT}[tables]\ninclude = [\"public.t\"]\n"));
    for (sql, word) in [
        // The publication is there; it waits for writers of the table.
        (
            "INSERT INTO t VALUES (0, 'open')",
            "before they were published",
        ),
        // So is the slot, half made: it waits for everybody.
        ("INSERT INTO other VALUES (0)", "was not ready after 1 s"),
    ] {
        let other = open_transaction(&stage, sql).await;
        let (code, exit, words) = ("TM4023", 6, &[word, "pg_terminate_backend"][..]);
        assert_refused(&stage, Refusal { code, exit, words }).await;
        other.batch_execute("ROLLBACK").await.unwrap();
    }
    stage.run(&super::RUN).await.expect(0);
    stage
        .wait_for_equal(stage.comparison().only("public", "t"))
        .await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_stopped_while_it_waits_leaves_nothing() {
    let stage = Stage::new("bad_stopped").await;
    stage.source_sql(ROWS).await;
    let other = open_transaction(&stage, "INSERT INTO t VALUES (0, 'open')").await;
    let mut run = stage.start(&["run", "FILE"]);
    run.wait_for_log("wait for pid").await;
    assert!(run.is_running());
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    assert_nothing_is_left(&stage, &[]).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_succeeds(&stage).await;
    stage.clear().await;
}
