//! A slot that can never be decoded: PostgreSQL forgets what commits between the two steps in which a
//! slot's first snapshot is built, and then looks for a table's rows in the file that it had before.

use tidemark_core::failpoint;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;
use tokio_postgres::Client;

use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};
use crate::writing::{CHANGES, TABLES};

/// A transaction with an id of its own, open until it is told.
async fn open_transaction(stage: &Stage) -> Client {
    let client = stage.source_server.client_to(&stage.source_name).await;
    let client = client.unwrap();
    let begin = "BEGIN; SELECT pg_current_xact_id()";
    client.batch_execute(begin).await.unwrap();
    client
}

/// The server of its own for a source: such a slot is built with transactions that others would wait for.
async fn stage(name: &str) -> Stage {
    let server = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(server, target, name).await;
    stage.source_sql(TABLES).await;
    // Published already, so that nothing is waited for but by the slot.
    stage.catch_up().await;
    stage.clear().await;
    stage
}

/// As if it had never been loaded; the publication is there still.
async fn forget(stage: &Stage) {
    stage.target_sql("DROP SCHEMA tidemark CASCADE").await;
    stage.write("[target]\nexisting = \"truncate\"\n");
}

async fn slot_waits(stage: &Stage, run: &Running) {
    wait_for(PATIENCE, "the slot to wait for a transaction", || async {
        let waits = "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
                     WHERE a.backend_type = 'walsender' AND NOT l.granted";
        Ok((text(&stage.source, waits).await? == "1").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", run.log()));
}

/// `notes` is emptied between the two steps in which the slot is built that waits for `first`.
async fn poison(stage: &Stage, run: &Running, first: Client) {
    slot_waits(stage, run).await;
    let second = open_transaction(stage).await;
    stage.source_sql("TRUNCATE notes").await;
    first.batch_execute("COMMIT").await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid' \
                 AND transactionid = (SELECT backend_xid FROM pg_stat_activity WHERE pid = ";
    let pid = text(&second, "SELECT pg_backend_pid()").await.unwrap();
    wait_for(PATIENCE, "the slot to wait for the other", || async {
        let waits = text(&stage.source, &format!("{waits}{pid})")).await?;
        Ok((waits == "1").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", run.log()));
    stage
        .source_sql("INSERT INTO notes VALUES (1, 'before')")
        .await;
    second.batch_execute("COMMIT").await.unwrap();
    // What is written before that is not in the slot, and heals it.
    wait_for(PATIENCE, "the slot to be built", || async {
        let built =
            "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
        Ok((text(&stage.source, built).await? == "1").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", run.log()));
}

/// Has the load wait for `lines`, once the checks are over that would wait as well.
async fn load_is_held<'a>(stage: &'a Stage, run: &Running) -> Locked<'a> {
    slot_waits(stage, run).await;
    Locked::table(stage, "lines").await
}

/// How often the log says that the slot is made anew.
fn begun_anew(log: &str) -> usize {
    log.matches("the slot is made anew").count()
}

/// Such a slot is noticed while the rows are loaded, since its log is read from the start: it is made
/// anew, and the load with it, without a person.
#[tokio::test(flavor = "multi_thread")]
async fn f27_slot_that_cannot_be_decoded_is_made_anew_during_the_load() {
    let stage = stage("poisoned_load").await;
    forget(&stage).await;
    let first = open_transaction(&stage).await;
    let mut run = stage.start(&["run", "FILE"]);
    let locked = load_is_held(&stage, &run).await;
    poison(&stage, &run, first).await;
    // At once: what PostgreSQL writes about running transactions every now and then may heal the slot.
    stage
        .source_sql("INSERT INTO notes VALUES (2, 'after')")
        .await;
    run.wait_for_log("TM4055").await;
    run.wait_for_log("begins anew").await;
    locked.release().await;
    stage.wait_until_identical().await;
    stage.source_sql(CHANGES).await;
    stage.wait_until_identical().await;
    assert_eq!(begun_anew(&run.log()), 1, "{}", run.log());
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    let all = "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary";
    assert_eq!(text(&stage.source, all).await.unwrap(), "1", "one slot");
    stage.clear().await;
}

/// Nothing is done over and over: the second time in a run the server's words end it.
#[tokio::test(flavor = "multi_thread")]
async fn f27_second_slot_that_cannot_be_decoded_ends_the_run() {
    let stage = stage("poisoned_twice").await;
    forget(&stage).await;
    let first = open_transaction(&stage).await;
    let mut run = stage.start(&["run", "FILE"]);
    let locked = load_is_held(&stage, &run).await;
    poison(&stage, &run, first).await;
    let again = open_transaction(&stage).await;
    stage
        .source_sql("INSERT INTO notes VALUES (2, 'after')")
        .await;
    run.wait_for_log("TM4055").await;
    poison(&stage, &run, again).await;
    stage
        .source_sql("INSERT INTO notes VALUES (3, 'after')")
        .await;
    assert_eq!(run.ended().await, Some(6), "{}", run.log());
    for word in ["TM4022", "could not map filenode"] {
        assert!(run.log().contains(word), "{word} in {}", run.log());
    }
    assert_eq!(begun_anew(&run.log()), 1, "{}", run.log());
    locked.release().await;
    // The next run may make it anew once more.
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// Killed at each step of it, the next run goes on with it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn f27_a_kill_while_the_slot_is_made_anew_costs_nothing() {
    for (number, point) in [
        failpoint::RELEASE_RECORDED,
        failpoint::SLOT_REMOVED,
        failpoint::SNAPSHOT_OPENED,
        failpoint::START_RECORDED,
    ]
    .into_iter()
    .enumerate()
    {
        let stage = stage(&format!("poisoned_kill_{number}")).await;
        forget(&stage).await;
        let first = open_transaction(&stage).await;
        // The first start passes some of the points as well.
        let nth = match point {
            failpoint::SNAPSHOT_OPENED | failpoint::START_RECORDED => 2,
            _ => 1,
        };
        let mut command = stage.command(&["run", "FILE"]);
        command.env("TIDEMARK_FAILPOINT", format!("{}:{nth}", point.name()));
        let mut run = stage.spawn(command);
        let locked = load_is_held(&stage, &run).await;
        poison(&stage, &run, first).await;
        stage
            .source_sql("INSERT INTO notes VALUES (2, 'after')")
            .await;
        assert_eq!(run.killed_by().await, Some(9), "{point:?}\n{}", run.log());
        locked.release().await;
        stage.catch_up().await;
        stage.assert_identical().await;
        let all = "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary";
        assert_eq!(text(&stage.source, all).await.unwrap(), "1", "{point:?}");
        stage.clear().await;
    }
}

/// The server's words are told, nothing is skipped and nothing is tried again for ever; a slot that is
/// made anew bridges the gap.
#[tokio::test(flavor = "multi_thread")]
async fn f28_log_that_cannot_be_decoded_ends_the_run_with_the_servers_words() {
    let stage = stage("poisoned").await;

    let first = open_transaction(&stage).await;
    let run = stage.start(&["reconcile", "FILE", "--yes"]);
    poison(&stage, &run, first).await;
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
