//! What a target lacks, or has too much of: privileges, room in a column, rows, a place of its own.

use tidemark_lab::server::PostgresServer;

use super::{
    ROWS, RUN, Refusal, assert_check_fails, assert_file_is_refused, assert_refused,
    assert_succeeds, checked, server_of,
};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_role_that_may_make_nothing_is_told_what_it_lacks() {
    let stage = Stage::new("bad_target_role").await;
    stage.source_sql(ROWS).await;
    stage.target_sql("CREATE ROLE bad_writer LOGIN").await;
    let url = stage
        .target_server
        .url_with("bad_writer", None, &stage.target_name);
    stage.write_between(&stage.source_url(), &url, "");
    let (code, exit) = ("TM2050", 4);
    for word in ["SCHEMA public", "SCHEMA tidemark"] {
        assert_check_fails(&stage, code).await;
        let words = &["may not make", word][..];
        let statement = assert_refused(&stage, Refusal { code, exit, words }).await;
        stage.target_sql(&statement).await;
    }
    stage.run(&["check", "FILE"]).await.expect(0);
    assert_succeeds(&stage).await;
    stage.clear().await;
}

/// Runs all statements that `check` gives for a code.
async fn mend(stage: &Stage, code: &str) {
    let fixes: serde_json::Value = serde_json::from_str(&checked(stage, code).await.1).unwrap();
    for fix in fixes.as_array().unwrap() {
        stage.target_sql(fix["text"].as_str().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_there_and_does_not_do_is_refused() {
    let stage = Stage::new("bad_target_table").await;
    stage.source_sql(ROWS).await;
    let narrow = "CREATE TABLE t (id int PRIMARY KEY, v varchar(3))";
    let rows = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (-1, 'mine')";
    let view = "CREATE VIEW t AS SELECT 1 AS id, 'x' AS v";
    for (table, more, code, words) in [
        (narrow, "", "TM2039", &["varying(3)", "public.t"][..]),
        (rows, "", "TM2037", &["has rows", "target.existing"][..]),
        (view, "", "TM2047", &["view"][..]),
        (rows, "existing = \"fail\"\n", "TM2036", &["exists"][..]),
        (
            "",
            "existing = \"append_if_empty\"\n",
            "TM2038",
            &["not there"][..],
        ),
    ] {
        stage.target_sql(table).await;
        write_target(&stage, &stage.target_url(), more);
        let exit = 6;
        assert_refused(&stage, Refusal { code, exit, words }).await;
        assert_check_fails(&stage, code).await;
        let drop = "DROP VIEW IF EXISTS t CASCADE";
        let is_view = table.contains("VIEW");
        stage
            .target_sql(if is_view {
                drop
            } else {
                "DROP TABLE IF EXISTS t"
            })
            .await;
    }
    stage.write("");
    assert_succeeds(&stage).await;
    stage.clear().await;
}

/// The pipeline file with keys in `[target]`.
fn write_target(stage: &Stage, url: &str, keys: &str) {
    stage.write_between(&stage.source_url(), url, "");
    let text = std::fs::read_to_string(stage.file()).unwrap();
    let text = text.replace("[target]\n", &format!("[target]\n{keys}"));
    std::fs::write(stage.file(), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_target_that_takes_no_writes_is_refused() {
    let stage = Stage::new("bad_read_only").await;
    stage.source_sql(ROWS).await;
    let database = &stage.target_name;
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    stage.target_sql(&read_only).await;
    let (code, exit, words) = ("TM2027", 6, &["read-only", "ALTER DATABASE"][..]);
    assert_refused(&stage, Refusal { code, exit, words }).await;
    assert_check_fails(&stage, code).await;
    mend(&stage, code).await;
    assert_succeeds(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_not_copied_onto_itself() {
    let stage = Stage::new("bad_itself").await;
    stage.source_sql(ROWS).await;
    stage.write_between(&stage.source_url(), &stage.source_url(), "");
    assert_file_is_refused(&stage, "TM7006", "\"public.*\"", &["copied onto itself"]).await;
    // The same server under another name.
    let other = stage.source_url().replace("127.0.0.1", "localhost");
    write_target(&stage, &other, "existing = \"truncate\"\n");
    let (code, exit, words) = ("TM2054", 6, &["one server"][..]);
    assert_refused(&stage, Refusal { code, exit, words }).await;
    let count = "SELECT count(*) FROM t";
    let count: i64 = stage.source.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(count, 100);
    assert!(stage.slots().await.is_empty());
}

/// What two pipelines bring into one table comes twice. Whichever comes second is refused, the one that was
/// there before as well.
#[tokio::test(flavor = "multi_thread")]
async fn b30_a_table_that_another_pipeline_writes_is_refused() {
    let stage = Stage::new("bad_shared").await;
    let heap = "CREATE TABLE heap (n int); ALTER TABLE heap REPLICA IDENTITY FULL; INSERT INTO heap VALUES (1);";
    stage.source_sql(&format!("{ROWS} {heap}")).await;
    let named = std::fs::read_to_string(stage.file()).unwrap();
    let named = named.replace(&format!("\"{}\"", stage.name), "\"bad_shared_too\"");
    let named = named.replace("[target]\n", "[target]\nexisting = \"truncate\"\n");
    assert!(
        named.contains("bad_shared_too") && named.contains("truncate"),
        "{named}"
    );
    let other = stage.directory().join("other.toml");
    std::fs::write(&other, named).unwrap();
    let other = other.to_str().unwrap();

    let run = stage.start_streaming().await;
    let said = stage.run(&["run", other]).await.expect(6).stderr;
    assert!(
        said.contains("TM4067") && said.contains("tidemark stop"),
        "{said}"
    );
    stage.source_sql("INSERT INTO heap VALUES (2)").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));

    // The other one is known, and not there.
    let check = stage.run(&["check", other]).await.expect(0).stdout;
    assert!(
        check.contains("TM4067") && check.contains("nobody runs now"),
        "{check}"
    );
    let run = stage.start(&["run", other]);
    let streams = ["status", other, "--require", "streaming", "--watch"];
    stage.run(&streams).await.expect(0);
    let said = stage.run(&["run", "FILE"]).await.expect(6).stderr;
    assert!(
        said.contains("TM4067") && said.contains("2 tables"),
        "{said}"
    );
    stage.source_sql("INSERT INTO heap VALUES (3)").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));

    // What the one would go on with the other has brought already.
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    stage.wait_for_table("public.heap", "quarantined").await;
    let reason = stage.table("public.heap").await["reason"].clone();
    assert!(reason.as_str().unwrap().contains("TM4068"), "{reason}");
    stage.wait_until_identical().await;
    let resync = ["resync", "FILE", "--yes"];
    stage.run(&resync).await.expect(0);
    stage.source_sql("INSERT INTO heap VALUES (4)").await;
    stage.wait_until_identical().await;
    stage.wait_for_table("public.heap", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage
        .run(&["slots", "drop", other, "--yes"])
        .await
        .expect(0);
    stage.clear().await;
}

/// Data that the target refuses sets its table aside, in the load and in the stream; the others go on,
/// and once the table fits it is loaded anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_sets_only_its_table_aside() {
    let stage = Stage::new("bad_value").await;
    let tables = "CREATE TABLE loaded (id int PRIMARY KEY, v int); INSERT INTO loaded VALUES (1, 1), (2, -2); \
                  CREATE TABLE streamed (id int PRIMARY KEY, v text); INSERT INTO streamed VALUES (1, 'abc'); \
                  CREATE TABLE good (id int PRIMARY KEY); INSERT INTO good VALUES (1);";
    stage.source_sql(tables).await;
    let checks = "CREATE TABLE loaded (id int PRIMARY KEY, v int CHECK (v > 0))";
    stage.target_sql(checks).await;
    let run = stage.start_streaming().await;
    stage.wait_for_table("public.loaded", "quarantined").await;
    let refused = stage.table("public.loaded").await.to_string();
    assert!(refused.contains("TM2045"), "{refused}");

    stage
        .target_sql("ALTER TABLE streamed ALTER v TYPE varchar(3)")
        .await;
    stage
        .source_sql(
            "INSERT INTO streamed VALUES (2, 'abcd'); INSERT INTO streamed VALUES (3, 'd'); \
                      INSERT INTO loaded VALUES (3, 3); INSERT INTO good VALUES (2)",
        )
        .await;
    stage.wait_for_table("public.streamed", "quarantined").await;
    let refused = stage.table("public.streamed").await.to_string();
    assert!(refused.contains("TM2041"), "{refused}");
    assert!(!refused.contains("abcd"), "no values: {refused}");
    stage
        .wait_for_target("SELECT count(*) FROM good", "2")
        .await;
    stage.wait_for_table("public.good", "streaming").await;
    let status = stage.run(&["status", "FILE"]).await.expect(0).stdout;
    assert!(status.contains("quarantined"), "{status}");

    stage
        .target_sql(
            "ALTER TABLE streamed ALTER v TYPE text; \
                      ALTER TABLE loaded DROP CONSTRAINT loaded_v_check",
        )
        .await;
    for table in ["public.loaded", "public.streamed"] {
        let resync = ["resync", "FILE", "--table", table, "--yes"];
        stage.run(&resync).await.expect(0);
    }
    stage.wait_until_identical().await;
    for table in ["public.loaded", "public.streamed"] {
        stage.wait_for_table(table, "streaming").await;
    }
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// The pipeline stops where it is told to, and goes on from there.
/// The value is the name of a table, and a check calls a function by a name that leads there only by the
/// search path of people.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_load_that_needs_what_is_not_there_sets_only_its_table_aside() {
    let stage = Stage::new("bad_reference").await;
    let tables = "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.other (); \
                  CREATE TABLE named (id int PRIMARY KEY, t regclass); \
                  INSERT INTO named VALUES (1, 'elsewhere.other'); \
                  CREATE TABLE checked (id int PRIMARY KEY, v int); INSERT INTO checked VALUES (1, 1); \
                  CREATE TABLE good (id int PRIMARY KEY); INSERT INTO good VALUES (1)";
    stage.source_sql(tables).await;
    let check = "CREATE FUNCTION inner_check(int) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
                 CREATE FUNCTION outer_check(v int) RETURNS bool LANGUAGE plpgsql \
                   AS 'BEGIN RETURN inner_check(v); END'; \
                 CREATE TABLE checked (id int PRIMARY KEY, v int CHECK (outer_check(v)))";
    stage.target_sql(check).await;
    let run = stage.start_streaming().await;
    for (table, missing) in [("named", "elsewhere"), ("checked", "inner_check")] {
        let table = format!("public.{table}");
        stage.wait_for_table(&table, "quarantined").await;
        let refused = stage.table(&table).await.to_string();
        assert!(refused.contains(missing), "{refused}");
    }
    stage.wait_for_table("public.good", "streaming").await;

    let mend = "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.other (); \
                ALTER FUNCTION outer_check SET search_path = public";
    stage.target_sql(mend).await;
    for table in ["public.named", "public.checked"] {
        let resync = ["resync", "FILE", "--table", table, "--yes"];
        stage.run(&resync).await.expect(0);
    }
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_stops_the_pipeline_where_the_file_says_so() {
    let stage = Stage::new("bad_value_stops").await;
    stage.source_sql(ROWS).await;
    stage.write("[stream]\non_row_error = \"stop_pipeline\"\n");
    assert_succeeds(&stage).await;
    stage
        .target_sql("ALTER TABLE t ALTER v TYPE varchar(9)")
        .await;
    stage
        .source_sql(
            "INSERT INTO t VALUES (101, 'fits'); INSERT INTO t VALUES (102, 'much too long')",
        )
        .await;
    let ran = stage.run(&RUN).await.expect(6);
    let said = super::four_lines(&ran).join("\n");
    assert!(
        said.contains("TM2041") && said.contains("public.t"),
        "{said}"
    );
    assert_eq!(stage.slots().await.len(), 1, "the source keeps its log");
    stage.target_sql("ALTER TABLE t ALTER v TYPE text").await;
    assert_succeeds(&stage).await;
    stage.clear().await;
}

/// What is needed to connect can be taken away later: the run ends, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn f16_a_password_that_is_changed_under_a_run_loses_nothing() {
    let server = server_of(PostgresServer::builder().scram("right")).await;
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(shared, server, "bad_later_login").await;
    stage.source_sql(ROWS).await;
    let mut run = stage.start_streaming().await;
    stage
        .target_sql("ALTER ROLE postgres PASSWORD 'other'")
        .await;
    stage
        .source_sql("INSERT INTO t VALUES (0, 'meanwhile')")
        .await;
    stage.target_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidemark%' \
                      AND application_name <> 'tidemark-lab'")
        .await;
    assert_eq!(run.ended().await, Some(4), "{}", run.log());
    assert!(run.log().contains("TM2005"), "{}", run.log());
    stage
        .target_sql("ALTER ROLE postgres PASSWORD 'right'")
        .await;
    assert_succeeds(&stage).await;
    stage.clear().await;
}
