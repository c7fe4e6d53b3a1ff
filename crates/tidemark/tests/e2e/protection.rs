//! The source comes first: a target that stands still does not fill the source's disk, and whoever looks
//! is told what keeps the log, how fast it grows, and what is done about it.

use serde_json::Value;
use tidemark_core::failpoint;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};
use crate::writing::{CHANGES, TABLES};

/// Much less than what [`write_log`] writes.
const BUDGET: &str = "max_retained = \"48 MB\"";

/// 100 MB of log that changes no row.
const LOG: &str = "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) \
                   FROM generate_series(1, 100)";

/// A server of its own: what a slot keeps on a shared one depends on everybody.
async fn own_server() -> &'static PostgresServer {
    let server = PostgresServer::builder()
        .setting("max_prepared_transactions", "5")
        .start()
        .await
        .unwrap();
    Box::leak(Box::new(server))
}

async fn streaming(stage: &Stage, policy: &str) -> Running {
    stage.write(&format!("[source.postgres]\n{BUDGET}\n{policy}\n"));
    stage.source_sql(TABLES).await;
    stage.start_streaming().await
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_a_slot_above_its_budget_is_released_on_purpose_and_the_gap_is_never_crossed() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "prot_release").await;
    let mut run = streaming(&stage, "on_max_retained = \"release_slot\"").await;
    let locked = Locked::table(&stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    stage.source_sql(LOG).await;

    assert_eq!(run.ended().await, Some(6), "{}", stage.log());
    for word in [
        "TM4102",
        "max_retained",
        "is released",
        "tidemark reconcile",
    ] {
        assert!(stage.log().contains(word), "{word} in\n{}", stage.log());
    }
    assert!(stage.slots().await.is_empty(), "the source keeps its log");
    assert_eq!(stage.retained().await, 0);
    locked.release().await;

    let rows = text(&stage.target, "SELECT count(*) FROM notes")
        .await
        .unwrap();
    let again = stage.run(&["run", "FILE"]).await.expect(6);
    for word in ["TM4102", "released on purpose", "may be missing"] {
        assert!(again.stderr.contains(word), "{word} in\n{}", again.stderr);
    }
    let after = text(&stage.target, "SELECT count(*) FROM notes")
        .await
        .unwrap();
    assert_eq!(after, rows, "nothing is applied past the gap");
    assert!(stage.slots().await.is_empty(), "no slot is made in silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_a_target_that_does_not_answer_cannot_keep_the_slot() {
    let target = own_server().await;
    let stage = Stage::on(own_server().await, target, "prot_frozen").await;
    let mut run = streaming(&stage, "on_max_retained = \"release_slot\"").await;
    target.freeze().unwrap();
    stage.source_sql(CHANGES).await;
    stage.source_sql(LOG).await;
    wait_for(PATIENCE, "the slot to be released", || async {
        Ok(stage.slots().await.is_empty().then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    assert_eq!(run.ended().await, Some(6), "{}", stage.log());
    assert!(
        stage.log().contains("could not be told why"),
        "{}",
        stage.log()
    );
    target.thaw().unwrap();
    // The reason is not recorded; the gap is a gap all the same.
    let again = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(again.stderr.contains("TM4010"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_by_default_the_run_ends_above_its_budget_and_nothing_is_lost() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "prot_fail").await;
    let mut run = streaming(&stage, "").await;
    let locked = Locked::table(&stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    stage.source_sql(LOG).await;
    assert_eq!(run.ended().await, Some(6), "{}", stage.log());
    assert!(stage.log().contains("TM4101"), "{}", stage.log());
    assert_eq!(stage.slots().await.len(), 1);
    locked.release().await;

    // What it begins with is above the budget, and it is what makes it less.
    assert!(stage.retained().await > 48_000_000);
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// Killed when it is recorded why the slot goes, and before it goes: it is there, and so is all that it
/// keeps.
#[tokio::test(flavor = "multi_thread")]
async fn c8_a_kill_before_the_slot_is_released_leaves_no_gap() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "prot_killed").await;
    stage.write(&format!(
        "[source.postgres]\n{BUDGET}\non_max_retained = \"release_slot\"\n"
    ));
    stage.source_sql(TABLES).await;
    let mut command = stage.command(&["run", "FILE"]);
    let point = failpoint::RELEASE_RECORDED.name();
    command.env("TIDEMARK_FAILPOINT", point);
    let mut run = stage.spawn(command);
    stage.wait_for_state("streaming").await;
    let locked = Locked::table(&stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    stage.source_sql(LOG).await;
    assert_eq!(run.killed_by().await, Some(9), "{}", stage.log());
    assert_eq!(stage.slots().await.len(), 1, "nothing is lost yet");
    locked.release().await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// A prepared transaction is nothing until it is decided, whoever runs by then: committed it comes once,
/// rolled back never.
#[tokio::test(flavor = "multi_thread")]
async fn f31_prepared_transactions_are_applied_once_when_they_are_decided() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "prot_prepared").await;
    let run = streaming(&stage, "").await;
    let prepare = |name: &str, id: i32| {
        format!(
            "BEGIN; INSERT INTO notes VALUES ({id}, '{name}'); INSERT INTO lines VALUES ('{name}'); \
             PREPARE TRANSACTION '{name}'"
        )
    };
    for (name, id) in [("kept", -1), ("undone", -2), ("late", -3)] {
        stage.source_sql(&prepare(name, id)).await;
    }
    let other = "INSERT INTO notes VALUES (-9, 'other')";
    stage.source_sql(other).await;
    let passed = "SELECT count(*) FROM notes WHERE id = -9";
    stage.wait_for_target(passed, "1").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());

    // One is decided while nobody runs, one under the next run.
    stage.source_sql("COMMIT PREPARED 'kept'").await;
    stage.source_sql("ROLLBACK PREPARED 'undone'").await;
    let run = stage.start_streaming().await;
    let lines = "SELECT count(*) FROM lines WHERE v IN ('kept', 'undone', 'late')";
    stage.wait_for_target(lines, "1").await;
    stage.source_sql("COMMIT PREPARED 'late'").await;
    stage.wait_for_target(lines, "2").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.assert_identical().await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_f32_lag_names_what_keeps_the_log_and_how_much_it_may() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "prot_shown").await;
    let run = streaming(&stage, "").await;
    // An orphan: whoever prepared it is gone.
    let orphan =
        "BEGIN; INSERT INTO notes VALUES (-1, 'prepared'); PREPARE TRANSACTION 'left alone'";
    stage.source_sql(orphan).await;
    let open = stage
        .source_server
        .client_to(&stage.source_name)
        .await
        .unwrap();
    let pid = text(&open, "SELECT pg_backend_pid()").await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO notes VALUES (-2, 'open')")
        .await
        .unwrap();

    let find = |status: &Value, kind: &str| {
        let pins = status["slot"]["pins"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        pins.into_iter()
            .find(|pin| pin["kind"] == kind && pin["holds_log"] == true)
    };
    let shown = wait_for(PATIENCE, "both to be shown", || async {
        let lag = stage.run(&["lag", "FILE", "--json"]).await.json();
        let status = lag["data"].clone();
        let both = find(&status, "prepared").zip(find(&status, "transaction"));
        anyhow::ensure!(both.is_some(), "{status}");
        Ok(both.map(|(prepared, open)| (status, prepared, open)))
    });
    let (status, prepared, transaction) = shown.await.unwrap();
    assert_eq!(prepared["name"], "left alone", "{status}");
    assert_eq!(transaction["pid"].to_string(), pid, "{status}");
    assert_eq!(status["slot"]["max_retained_bytes"], 48_000_000, "{status}");
    // Watched for too short a time: unknown, not zero.
    assert_eq!(status["slot"]["predicted_loss_at"], Value::Null, "{status}");
    let lag = stage.run(&["lag", "FILE"]).await.expect(0).stdout;
    assert!(lag.contains("of 48 MB allowed"), "{lag}");
    open.batch_execute("ROLLBACK").await.unwrap();
    // Nobody is about to commit it: what is loaded anew does not wait for it, whenever the run began.
    assert_eq!(run.terminate().await, Some(0));
    let run = stage.start_streaming().await;
    stage.resync("public.notes").await;
    stage.source_sql("ROLLBACK PREPARED 'left alone'").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
