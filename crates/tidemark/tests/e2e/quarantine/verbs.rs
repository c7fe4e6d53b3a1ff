//! What a person does about rows in quarantine, with a pipeline that runs and with one that does not;
//! and how many there may be.

use serde_json::Value;
use tidemark_lab::{Proxy, wait_for};

use crate::stage::{PATIENCE, Stage};

use super::by_row;

const TABLES: &str = "CREATE TABLE marker (id serial PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY, v text, secret text);
    CREATE TABLE other (id int PRIMARY KEY);";
const STRICT: &str = "ALTER TABLE t ADD CONSTRAINT no_odd CHECK (v <> 'odd')";
const MENDED: &str = "ALTER TABLE t DROP CONSTRAINT no_odd";
const ROWS: &str = "INSERT INTO t SELECT i, CASE WHEN i < 4 THEN 'odd' ELSE 'even' END, 'hidden'
    FROM generate_series(1, 5) i";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_shown_exported_released_and_dropped() {
    let stage = Stage::new("quarantine_verbs").await;
    stage.source_sql(TABLES).await;
    by_row(
        &stage,
        "[[mask]]\ncolumns = [\"public.t.secret\"]\nwith = \"fixed\"\nvalue = \"masked\"\n",
    );
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    stage.source_sql(ROWS).await;
    stage
        .source_sql("UPDATE t SET v = 'better' WHERE id = 3")
        .await;
    stage.wait_for_kept(4).await;
    let list = ["quarantine", "list", "FILE"];
    let listed = stage.run(&list).await.expect(0).stdout;
    assert!(
        listed.contains("23514") && !listed.contains("odd"),
        "{listed}"
    );

    let show = [
        "quarantine",
        "show",
        "FILE",
        "--table",
        "public.t",
        "--key",
        "3",
    ];
    let shown = stage.run(&show).await.expect(0).stdout;
    for word in [
        "What",
        "Effect",
        "Do first",
        "Or",
        "Raw",
        "v = better",
        "masked",
        "key 3",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(!shown.contains("hidden"), "{shown}");
    let exported = stage
        .run(&["quarantine", "export", "FILE"])
        .await
        .expect(0)
        .stdout;
    let lines: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["row"]["v"], "odd");

    // Verification says where the difference comes from.
    let verified = stage.run(&["verify", "FILE"]).await.expect(3);
    let said = format!("{}{}", verified.stdout, verified.stderr);
    assert!(said.contains("3 rows in quarantine"), "{said}");

    let release = ["quarantine", "release", "FILE", "--key", "3"];
    stage.run(&release).await.expect(0);
    assert_eq!(stage.kept().await.len(), 2);
    let nothing = ["quarantine", "release", "FILE", "--key", "77"];
    stage.run(&nothing).await.expect(6);
    let drop = [
        "quarantine",
        "drop",
        "FILE",
        "--table",
        "public.t",
        "--key",
        "1",
    ];
    stage.run(&drop).await.expect(6);
    let dropped = stage.run(&[&drop[..], &["--yes"]].concat()).await.expect(0);
    assert!(dropped.stdout.contains("differs"), "{}", dropped.stdout);
    assert_eq!(stage.kept().await.len(), 1);

    // Nobody runs it: the same, done in its place.
    assert_eq!(run.terminate().await, Some(0));
    let status = stage.run(&["status", "FILE"]).await.expect(0).stdout;
    assert!(status.contains("1 row "), "{status}");
    stage.run(&["retry", "FILE"]).await.expect(6);
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    assert!(stage.kept().await.is_empty());
    let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";
    stage.wait_for_target(ids, "2 3 4 5").await;
    let run = stage.start_streaming().await;
    stage.source_sql("DELETE FROM t WHERE id = 1").await;
    let mapped = "SELECT count(*) FROM t WHERE secret = 'masked'";
    stage.wait_for_target(mapped, "4").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// One systematic error does not put a table aside row by row.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_too_many_rows_in_quarantine_stops() {
    let stage = Stage::new("quarantine_bound").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "quarantine_rows = 2\n");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    stage.source_sql("INSERT INTO t VALUES (10, 'odd')").await;
    stage.wait_for_kept(1).await;
    stage.source_sql(ROWS).await;
    stage.source_sql("INSERT INTO other VALUES (1)").await;
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(reason.contains("TM4081"), "{reason}");
    stage
        .wait_for_target("SELECT count(*) FROM other", "1")
        .await;
    stage.wait_for_kept(1).await;
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A table that a row has stopped goes on without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stopped_goes_on_without_the_rows_that_do_not_fit() {
    let stage = Stage::new("quarantine_skip").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    let skip = ["skip", "FILE", "--table", "public.t", "--rows"];
    stage.run(&skip).await.expect(6);
    stage.source_sql(ROWS).await;
    stage.wait_for_table("public.t", "quarantined").await;
    stage.run(&skip).await.expect(0);
    stage.wait_for_table("public.t", "streaming").await;
    stage.wait_for_kept(3).await;
    stage.wait_for_target("SELECT count(*) FROM t", "2").await;
    stage.source_sql("UPDATE t SET secret = 'seen'").await;
    stage.wait_for_kept(6).await;
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A run that has set a table aside reads the log once more from its checkpoint on, and meets the row
/// only then; a person may be faster.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_goes_on_without_a_row_that_has_not_come_again_yet() {
    let stage = Stage::new("quarantine_early").await;
    stage.source_sql(TABLES).await;
    let wire = Proxy::start(stage.source_server.port()).await.unwrap();
    let source = stage
        .source_server
        .url_through(wire.address(), &stage.source_name);
    let quiet = "[verify]\nafter_load = \"off\"\n";
    stage.write_between(&source, &stage.target_url(), quiet);
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    // The row comes after seconds of something else.
    wire.limit_rate(Some(500_000));
    let late = "SELECT pg_logical_emit_message(true, 'fill', repeat('x', 1500000)); \
                INSERT INTO t VALUES (1, 'odd', ''), (2, 'even', '')";
    stage.source_sql(late).await;
    stage.wait_for_table("public.t", "quarantined").await;
    let skip = ["skip", "FILE", "--table", "public.t", "--rows"];
    wait_for(PATIENCE, "the run to take the skip", || async {
        Ok((stage.run(&skip).await.code == Some(0)).then_some(()))
    })
    .await
    .unwrap();
    wire.limit_rate(None);
    stage.wait_for_kept(1).await;
    stage.wait_for_table("public.t", "streaming").await;
    stage.wait_for_target("SELECT count(*) FROM t", "1").await;
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// What waits for a row is newer or older than what a repair would load: the table is left to who
/// looks after its rows, told with how many of the rows that differ they are, and others are mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_leaves_a_table_with_rows_in_quarantine_and_mends_the_others() {
    let stage = Stage::new("quarantine_repair").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    stage.source_sql(ROWS).await;
    stage
        .source_sql("INSERT INTO other SELECT generate_series(1, 9)")
        .await;
    stage
        .wait_for_target("SELECT count(*) FROM other", "9")
        .await;
    stage.wait_for_kept(3).await;
    let verify = ["verify", "FILE", "--repair", "--yes"];
    let alone = stage.run(&verify).await.expect(3);
    let said = format!("{}{}", alone.stdout, alone.stderr);
    assert!(said.contains("which is all that differs"), "{said}");
    assert!(!said.contains("--repair"), "nothing to repair: {said}");

    stage
        .target_sql("UPDATE t SET secret = 'touched' WHERE id = 5; DELETE FROM other WHERE id = 4")
        .await;
    let mended = stage.run(&verify).await.expect(3);
    let said = format!("{}{}", mended.stdout, mended.stderr);
    assert!(said.contains("3 of the 4 rows that differ"), "{said}");
    stage
        .wait_for_target("SELECT count(*) FROM other", "9")
        .await;
    assert_eq!(stage.kept().await.len(), 3, "they wait as before");
    let touched = "SELECT secret FROM t WHERE id = 5";
    stage.wait_for_target(touched, "touched").await;

    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.run(&verify).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
