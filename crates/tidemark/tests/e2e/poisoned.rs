//! A slot that can never be decoded: PostgreSQL forgets what commits between the two steps in which a
//! slot's first snapshot is built, and then looks for a table's rows in the file that it had before.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;
use tokio_postgres::Client;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};
use crate::writing::TABLES;

/// A transaction with an id of its own, open until it is told.
async fn open_transaction(stage: &Stage) -> Client {
    let client = stage.source_server.client_to(&stage.source_name).await;
    let client = client.unwrap();
    let begin = "BEGIN; SELECT pg_current_xact_id()";
    client.batch_execute(begin).await.unwrap();
    client
}

/// The server's words are told, nothing is skipped and nothing is tried again for ever; a slot that is
/// made anew bridges the gap.
#[tokio::test(flavor = "multi_thread")]
async fn f28_log_that_cannot_be_decoded_ends_the_run_with_the_servers_words() {
    let server = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(server, target, "poisoned").await;
    stage.source_sql(TABLES).await;
    // Published already, so that nothing is waited for but by the slot.
    stage.catch_up().await;
    stage.clear().await;

    let first = open_transaction(&stage).await;
    let run = stage.start(&["reconcile", "FILE", "--yes"]);
    wait_for(PATIENCE, "the slot to wait for the transaction", || async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' \
                     AND wait_event_type = 'Lock'";
        Ok((text(&stage.source, waits).await? == "1").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", run.log()));
    let second = open_transaction(&stage).await;
    stage.source_sql("TRUNCATE notes").await;
    first.batch_execute("COMMIT").await.unwrap();
    wait_for(PATIENCE, "the slot to wait for the other", || async {
        let waits = "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
                     WHERE a.backend_type = 'walsender' AND NOT l.granted";
        Ok((text(&stage.source, waits).await? == "1").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", run.log()));
    stage
        .source_sql("INSERT INTO notes VALUES (1, 'after')")
        .await;
    second.batch_execute("COMMIT").await.unwrap();
    stage
        .source_sql("INSERT INTO notes VALUES (2, 'after')")
        .await;
    let mut run = run;
    assert_eq!(run.ended().await, Some(6), "{}", run.log());
    for word in ["TM4022", "could not map filenode", "tidemark reconcile"] {
        assert!(run.log().contains(word), "{word} in {}", run.log());
    }
    // Nor does the next one pass it, or try for ever.
    let again = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(again.stderr.contains("TM4022"), "{}", again.stderr);
    let rows = "SELECT count(*) FROM notes WHERE v LIKE 'first%'";
    assert_eq!(text(&stage.target, rows).await.unwrap(), "100", "as it was");

    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    stage.assert_identical().await;
    stage
        .source_sql("INSERT INTO notes VALUES (3, 'later')")
        .await;
    stage.catch_up().await;
    stage.assert_identical().await;
}
