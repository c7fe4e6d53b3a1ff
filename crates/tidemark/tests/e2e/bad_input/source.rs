//! What a source lacks: privileges, settings, a free slot or sender, a way to tell rows apart.

use std::process::{Child, Stdio};

use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::wait_for;

use super::{
    ROWS, RUN, Refusal, assert_check_fails, assert_refused, assert_succeeds, assert_waits, checked,
    server_of,
};
use crate::stage::{PATIENCE, Stage};

/// The first action of each refusal is the statement that mends it.
#[tokio::test(flavor = "multi_thread")]
async fn f14_missing_privileges_are_named_with_the_statements_that_grant_them() {
    let stage = Stage::new("bad_privileges").await;
    stage.source_sql(ROWS).await;
    stage.source_sql("CREATE ROLE bad_reader LOGIN").await;
    let url = stage
        .source_server
        .url_with("bad_reader", None, &stage.source_name);
    stage.write_between(&url, &stage.target_url(), "");
    for (code, exit, word) in [
        ("TM1014", 4, "ALTER ROLE bad_reader REPLICATION"),
        ("TM1037", 4, "GRANT SELECT ON public.t TO bad_reader"),
        ("TM1050", 6, "CREATE PUBLICATION"),
    ] {
        assert_check_fails(&stage, code).await;
        let words = &[word];
        let statement = assert_refused(&stage, Refusal { code, exit, words }).await;
        stage.source_sql(&statement).await;
    }
    stage.run(&["check", "FILE"]).await.expect(0);
    assert_succeeds(&stage).await;
    stage.clear().await;
}

/// All of it at once, as `check --fix-sql` prints it.
#[tokio::test(flavor = "multi_thread")]
async fn f14_the_statements_of_fix_sql_are_enough() {
    let stage = Stage::new("bad_fix_sql").await;
    stage.source_sql(ROWS).await;
    stage.source_sql("CREATE ROLE bad_fix LOGIN").await;
    let target = "CREATE ROLE bad_loader LOGIN";
    stage.target_sql(target).await;
    let url = stage
        .source_server
        .url_with("bad_fix", None, &stage.source_name);
    let target_url = stage
        .target_server
        .url_with("bad_loader", None, &stage.target_name);
    stage.write_between(&url, &target_url, "");
    let fixes = stage
        .run(&["check", "FILE", "--fix-sql"])
        .await
        .expect(0)
        .stdout;
    let (source, target) = fixes.split_once("-- on the target").unwrap();
    for (server, database, script) in [
        (stage.source_server, &stage.source_name, source),
        (stage.target_server, &stage.target_name, target),
    ] {
        server.psql(database, &format!("--{script}")).await.unwrap();
    }
    assert_succeeds(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_log_that_says_too_little_is_refused() {
    let builder = PostgresServer::builder().setting("wal_level", "replica");
    let source = server_of(builder).await;
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "bad_wal_level").await;
    stage.source_sql(ROWS).await;
    let (code, exit, words) = ("TM1010", 6, &["\"replica\"", "ALTER SYSTEM"][..]);
    let statement = assert_refused(&stage, Refusal { code, exit, words }).await;
    assert_check_fails(&stage, code).await;

    // A full load alone reads no log.
    stage.write("mode = \"full_load_only\"\n");
    assert_succeeds(&stage).await;
    stage
        .target_sql("DROP TABLE t; DROP SCHEMA tidemark CASCADE")
        .await;

    stage.source_sql(&statement).await;
    source.stop(Shutdown::Fast).await.unwrap();
    source.start().await.unwrap();
    let stage = again(stage).await;
    assert_succeeds(&stage).await;
}

/// The same stage with new sessions, after a restart of its source.
async fn again(mut stage: Stage) -> Stage {
    stage.source = stage
        .source_server
        .client_to(&stage.source_name)
        .await
        .unwrap();
    stage.write("");
    stage
}

/// `psql` that keeps a replication connection and does nothing with it.
struct Sender(Child);

impl Sender {
    fn hold(server: &PostgresServer) -> Sender {
        let program = server.installation().client_program("psql").unwrap();
        let port = server.port();
        let child = std::process::Command::new(program)
            .args(["-X", "-q", "-d"])
            .arg(format!(
                "host=127.0.0.1 port={port} user=postgres dbname=postgres replication=database"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Sender(child.unwrap())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn wait_for_senders(stage: &Stage, expected: i64) {
    wait_for(PATIENCE, &format!("{expected} senders"), || async {
        let sql = "SELECT count(*) FROM pg_stat_get_wal_senders()";
        let count: i64 = stage.source.query_one(sql, &[]).await?.get(0);
        Ok((count == expected).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_no_free_slot_or_sender_is_refused_and_a_pipeline_that_has_started_waits() {
    let builder = PostgresServer::builder()
        .setting("max_replication_slots", "2")
        .setting("max_wal_senders", "3");
    let source = server_of(builder).await;
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "bad_full").await;
    stage.source_sql(ROWS).await;

    let take =
        "SELECT pg_create_physical_replication_slot('taken_' || i) FROM generate_series(1, 2) i";
    stage.source_sql(take).await;
    let words = &[
        "none of 2 replication slots is free",
        "max_replication_slots",
    ];
    let (code, exit) = ("TM1035", 6);
    assert_refused(&stage, Refusal { code, exit, words }).await;
    assert_check_fails(&stage, code).await;
    let free = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    stage.source_sql(free).await;

    let senders: Vec<Sender> = (0..3).map(|_| Sender::hold(source)).collect();
    wait_for_senders(&stage, 3).await;
    let words = &[
        "none of 3 replication connections is free",
        "max_wal_senders",
    ];
    let code = "TM1032";
    assert_refused(&stage, Refusal { code, exit, words }).await;
    assert_check_fails(&stage, code).await;
    drop(senders);
    wait_for_senders(&stage, 0).await;
    assert_succeeds(&stage).await;

    // The slot is there: the log is kept, and the stream can wait for a connection.
    let senders: Vec<Sender> = (0..3).map(|_| Sender::hold(source)).collect();
    wait_for_senders(&stage, 3).await;
    stage
        .source_sql("INSERT INTO t VALUES (0, 'meanwhile')")
        .await;
    let mut run = stage.start(&["run", "FILE"]);
    assert_waits(&mut run, code).await;
    drop(senders);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_whose_rows_cannot_be_told_apart_are_warned_of_with_the_statement() {
    let stage = Stage::new("bad_identity").await;
    let tables = "CREATE TABLE bare (v text); INSERT INTO bare VALUES ('a'), ('a'); \
                  CREATE TABLE nothing (id int PRIMARY KEY); INSERT INTO nothing VALUES (1); \
                  ALTER TABLE nothing REPLICA IDENTITY NOTHING";
    stage.source_sql(tables).await;
    let mut statements = Vec::new();
    for (code, table) in [("TM1031", "bare"), ("TM1038", "nothing")] {
        let (verdict, fixes) = checked(&stage, code).await;
        assert_eq!(verdict, "warning", "{fixes}");
        let fix: serde_json::Value = serde_json::from_str(&fixes).unwrap();
        let statement = fix[0]["text"].as_str().unwrap().to_owned();
        assert!(statement.contains(table), "{statement}");
        statements.push(statement);
    }
    let ran = stage.run(&RUN).await.expect(0);
    for code in ["TM1031", "TM1038"] {
        assert!(ran.stderr.contains(code), "{code} in {}", ran.stderr);
    }
    stage
        .source_sql("INSERT INTO bare VALUES ('b'); INSERT INTO nothing VALUES (2)")
        .await;
    // The source refuses it, in every application, because the table is published.
    let refused = stage.source.batch_execute("UPDATE bare SET v = 'c'").await;
    assert!(refused.unwrap_err().to_string().contains("db error"));
    for statement in &statements {
        stage.source_sql(statement).await;
    }
    stage
        .source_sql("UPDATE bare SET v = 'c' WHERE v = 'a'; DELETE FROM nothing WHERE id = 1")
        .await;
    assert_succeeds(&stage).await;
    stage.clear().await;
}
