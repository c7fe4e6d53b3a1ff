//! Triggers and rules of the target that leave a row out, in silence for everybody who does not count.

use tidemark_lab::wait_for;

use super::{ROWS, assert_succeeds, checked};
use crate::stage::{PATIENCE, Stage};

/// The table of `ROWS`, and one whose rows are found by all their values.
const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE heap (n int, v text)";
const HEAP: &str = "CREATE TABLE heap (n int, v text); ALTER TABLE heap REPLICA IDENTITY FULL;
    INSERT INTO heap SELECT i, 'row ' || i FROM generate_series(1, 100) i;";

/// What leaves every row out of a table, whoever writes it.
fn trigger(table: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER leave_out BEFORE INSERT OR UPDATE OR DELETE ON {table}
           FOR EACH ROW EXECUTE FUNCTION leave_out();
         ALTER TABLE {table} ENABLE ALWAYS TRIGGER leave_out"
    )
}

fn rule(event: &str) -> String {
    format!(
        "CREATE RULE leave_out AS ON {event} TO t DO INSTEAD NOTHING;
         ALTER TABLE t ENABLE ALWAYS RULE leave_out"
    )
}

/// The rows of the target's tables, all of them.
async fn rows(stage: &Stage) -> String {
    let sql = "SELECT (SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t) || ' ' || \
               (SELECT md5(string_agg(h::text, ',' ORDER BY h::text)) FROM heap h)";
    crate::asks::text(&stage.target, sql).await.unwrap()
}

/// Each of the changes alone is left out, few of them and many, with a key and without one: the table is
/// set aside with its changes, nothing of it counts as applied, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_leaves_a_row_out_sets_the_table_aside() {
    let stage = Stage::new("hooks_trigger").await;
    let good = "CREATE TABLE good (id int PRIMARY KEY);";
    stage.source_sql(&format!("{ROWS} {HEAP} {good}")).await;
    assert_succeeds(&stage).await;
    for (number, change) in [
        "INSERT INTO t VALUES (1000, 'new'); INSERT INTO heap VALUES (1000, 'new')",
        "UPDATE t SET v = 'changed' WHERE id = 1; UPDATE heap SET v = 'changed' WHERE n = 1",
        "UPDATE t SET id = 2000 WHERE id = 2; UPDATE heap SET n = 2000 WHERE n = 2",
        "DELETE FROM t WHERE id = 3; DELETE FROM heap WHERE n = 3",
        "UPDATE t SET v = v || '!'; UPDATE heap SET v = v || '!'",
        "DELETE FROM t WHERE id > 50; DELETE FROM heap WHERE n > 50",
        "INSERT INTO t SELECT i, 'more' FROM generate_series(3000, 3099) i;
         INSERT INTO heap SELECT i, 'more' FROM generate_series(3000, 3099) i",
    ]
    .into_iter()
    .enumerate()
    {
        for table in ["t", "heap"] {
            stage.target_sql(&trigger(table)).await;
        }
        let before = rows(&stage).await;
        let good = format!("INSERT INTO good VALUES ({number})");
        stage.source_sql(&format!("{change}; {good}")).await;
        stage
            .run(&["run", "FILE", "--until", "caught-up"])
            .await
            .expect(3);
        for table in ["public.t", "public.heap"] {
            let found = stage.table(table).await;
            assert_eq!(found["state"], "quarantined", "{change}: {found}");
            let said = found.to_string();
            assert!(said.contains("TM4066"), "{change}: {said}");
        }
        assert_eq!(rows(&stage).await, before, "{change}");
        let arrived = format!("SELECT count(*) FROM good WHERE id = {number}");
        stage.wait_for_target(&arrived, "1").await;

        let gone = "DROP TRIGGER leave_out ON t; DROP TRIGGER leave_out ON heap";
        stage.target_sql(gone).await;
        resync_makes_good(&stage, &["public.t", "public.heap"]).await;
    }
    stage.clear().await;
}

/// What left rows out is gone: once its tables are loaded anew both sides are the same.
async fn resync_makes_good(stage: &Stage, tables: &[&str]) {
    let run = stage.start_streaming().await;
    for table in tables {
        let resync = ["resync", "FILE", "--table", table, "--yes"];
        stage.run(&resync).await.expect(0);
    }
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
}

/// A trigger that lets rows through is none of our business, and rows that are not there any more are
/// counted as ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_lets_rows_through_changes_nothing() {
    let stage = Stage::new("hooks_through").await;
    stage.source_sql(&format!("{ROWS} {HEAP}")).await;
    assert_succeeds(&stage).await;
    let through = "CREATE FUNCTION through() RETURNS trigger LANGUAGE plpgsql
          AS 'BEGIN IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF; RETURN NEW; END';
        CREATE TRIGGER through BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION through();
        CREATE TRIGGER through BEFORE INSERT OR UPDATE OR DELETE ON heap FOR EACH ROW EXECUTE FUNCTION through();
        ALTER TABLE t ENABLE ALWAYS TRIGGER through; ALTER TABLE heap ENABLE ALWAYS TRIGGER through;
        DELETE FROM t WHERE id IN (5, 6, 7); INSERT INTO t VALUES (1000, 'of somebody else')";
    stage.target_sql(through).await;
    stage
        .source_sql(
            "INSERT INTO t VALUES (1001, 'new'); UPDATE t SET v = 'changed' WHERE id IN (1, 5);
             UPDATE t SET id = 2000 WHERE id = 2; UPDATE t SET id = 2006 WHERE id = 6;
             DELETE FROM t WHERE id IN (3, 7); UPDATE t SET v = v || '!';
             INSERT INTO heap VALUES (1, 'new'); UPDATE heap SET v = 'changed' WHERE n = 1;
             DELETE FROM heap WHERE n = 3; UPDATE heap SET v = v || '!';
             INSERT INTO t VALUES (1000, 'of the source')",
        )
        .await;
    let ran = stage.run(&["run", "FILE", "--until", "verified"]).await;
    let ran = ran.expect(0);
    assert!(ran.stderr.contains("TM4034"), "{}", ran.stderr);
    stage.assert_identical().await;
    stage.clear().await;
}

/// `COPY` goes past rules, what follows it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_leaves_a_row_out_is_told_and_sets_the_table_aside() {
    let stage = Stage::new("hooks_rule").await;
    stage.source_sql(ROWS).await;
    assert_succeeds(&stage).await;
    for (event, change) in [
        ("INSERT", "INSERT INTO t VALUES (1000, 'new')"),
        ("UPDATE", "UPDATE t SET v = 'changed' WHERE id = 1"),
        ("DELETE", "DELETE FROM t WHERE id = 2"),
    ] {
        stage.target_sql(&rule(event)).await;
        let (verdict, _) = checked(&stage, "TM2052").await;
        assert_eq!(verdict, "warning", "{event}");
        let said = stage.run(&["check", "FILE"]).await.expect(0).stdout;
        assert!(said.contains("rule leave_out on public.t"), "{said}");
        stage.source_sql(change).await;
        stage
            .run(&["run", "FILE", "--until", "caught-up"])
            .await
            .expect(3);
        let found = stage.table("public.t").await.to_string();
        assert!(found.contains("TM4066"), "{event}: {found}");

        stage.target_sql("DROP RULE leave_out ON t").await;
        resync_makes_good(&stage, &["public.t"]).await;
    }
    stage.clear().await;
}

/// In the load it is the number of rows that tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_leaves_rows_of_the_load_out_is_named() {
    let stage = Stage::new("hooks_load").await;
    stage.source_sql(&format!("{ROWS} {HEAP}")).await;
    stage
        .target_sql(&format!("{TABLES}; {}", trigger("t")))
        .await;
    let ran = stage.run(&["run", "FILE", "--until", "verified"]).await;
    ran.expect(3);
    let found = stage.table("public.t").await.to_string();
    assert!(found.contains("TM4066"), "{found}");
    assert!(
        found.contains("100 rows were sent, the table took 0"),
        "{found}"
    );
    assert_eq!(stage.table("public.heap").await["state"], "streaming");

    stage.target_sql("DROP TRIGGER leave_out ON t").await;
    let run = stage.start_streaming().await;
    stage.resync("public.t").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// What leaves rows out of a table whose changes are applied already is noticed with the first commit
/// behind it, of one row or of many: neither needs a new connection.
#[tokio::test(flavor = "multi_thread")]
async fn f49_a_trigger_that_comes_while_it_streams_leaves_no_row_out_in_silence() {
    let stage = Stage::new("hooks_later").await;
    let parts = "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10000);";
    stage.target_sql(parts).await;
    let rows = "INSERT INTO parts SELECT i, 'row ' || i FROM generate_series(1, 100) i;";
    stage
        .source_sql(&format!("{ROWS} {HEAP} {parts} {rows}"))
        .await;
    let run = stage.start_streaming().await;
    let everywhere = [
        ("t", trigger("t"), "DROP TRIGGER leave_out ON t"),
        ("heap", trigger("heap"), "DROP TRIGGER leave_out ON heap"),
        // The rows are written by way of the root, on which there is nothing.
        (
            "parts",
            trigger("parts_1"),
            "DROP TRIGGER leave_out ON parts_1",
        ),
        ("t", rule("UPDATE"), "DROP RULE leave_out ON t"),
    ];
    for (table, comes, goes) in everywhere {
        for share in ["1", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"] {
            // Applied by what the session knows of the table.
            for v in ["known", "still known"] {
                stage
                    .source_sql(&format!("UPDATE {table} SET v = '{v}'"))
                    .await;
                stage.wait_until_identical().await;
            }
            stage.target_sql(&comes).await;
            let key = if table == "heap" { "n" } else { "id" };
            let change = format!("UPDATE {table} SET v = 'late' WHERE {key} IN ({share})");
            stage.source_sql(&change).await;
            let name = format!("public.{table}");
            stage.wait_for_table(&name, "quarantined").await;
            let found = stage.table(&name).await.to_string();
            assert!(found.contains("TM4066"), "{table}: {found}");
            stage.target_sql(goes).await;
            resync_streams_on(&stage, &name).await;
        }
    }
    assert!(stage.log().contains("TM4057"), "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

async fn resync_streams_on(stage: &Stage, table: &str) {
    // Refused as long as the run connects anew.
    wait_for(PATIENCE, "the table to be loaded anew", || async {
        let truncate = ["--strategy", "truncate"];
        let resync = [
            &["resync", "FILE", "--table", table, "--yes"][..],
            &truncate,
        ]
        .concat();
        Ok((stage.run(&resync).await.code == Some(0)).then_some(()))
    })
    .await
    .unwrap();
    stage.wait_for_table(table, "streaming").await;
}
