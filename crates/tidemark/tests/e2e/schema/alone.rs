//! What becomes of one table on the source while nobody runs its pipeline ends no other table's stream.

use super::tables::staged;
use crate::asks::text;
use crate::stage::{Running, Stage};

/// A key that the log does not have.
const KEYED: &str = "ALTER TABLE t ADD g int GENERATED ALWAYS AS (id) STORED; \
    ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, g)";

/// A stage whose pipeline has loaded `t` and `good`, and stands; and what happens on the source then.
async fn stopped(name: &str, more: &str, change: &str) -> Stage {
    let stage = staged(name, &["t", "good"], more).await;
    stage.catch_up().await;
    stage.source_sql(change).await;
    stage
        .source_sql("INSERT INTO good VALUES (60, 'new')")
        .await;
    stage
}

/// The others stream, whatever is with `t`.
async fn started(stage: &Stage) -> Running {
    let run = stage.start_streaming().await;
    let good = stage.comparison().only("public", "good");
    stage.wait_for_equal(good).await;
    run
}

async fn ended(stage: &Stage, run: Running) {
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_a_table_whose_key_cannot_be_carried_any_more_is_set_aside_alone() {
    let stage = stopped("schema_alone_keyed", "", KEYED).await;
    for _ in 0..2 {
        let run = started(&stage).await;
        stage.wait_for_table("public.t", "quarantined").await;
        let reason = stage.table("public.t").await["reason"].to_string();
        assert!(reason.contains("TM7024"), "{reason}");
        let written = "UPDATE t SET v = 'aside' WHERE id = 1; UPDATE good SET v = v || '+'";
        stage.source_sql(written).await;
        let good = stage.comparison().only("public", "good");
        stage.wait_for_equal(good).await;
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    }
    let mended = "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id); \
        INSERT INTO t (id, v) VALUES (70, 'in between')";
    stage.source_sql(mended).await;
    let run = started(&stage).await;
    let resync = ["resync", "FILE", "--table", "public.t", "--yes"];
    stage.run(&resync).await.expect(0);
    stage
        .source_sql("INSERT INTO t (id, v) VALUES (71, 'new'); DELETE FROM t WHERE id = 2")
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    ended(&stage, run).await;
}

/// What the file says of it may speak of what was there: it was no mistake.
#[tokio::test(flavor = "multi_thread")]
async fn f19_f22_rules_for_what_is_gone_end_nobody() {
    let rules = "[tables]\ninclude = [\"public.t\", \"public.good\", \"public.gone\"]\n\
        [[table]]\nsource = \"public.t\"\ndrop_columns = [\"c\"]\n\
        [[mask]]\ncolumns = [\"public.t.v\"]\nwith = \"redact\"\n";
    let stage = staged("schema_alone_rules", &["t", "good", "gone"], rules).await;
    stage.source_sql("ALTER TABLE t ADD c int").await;
    stage.catch_up().await;
    let change = "ALTER TABLE t DROP c, DROP v; INSERT INTO t VALUES (60); DROP TABLE gone; \
        INSERT INTO good VALUES (60, 'new')";
    stage.source_sql(change).await;
    let run = started(&stage).await;
    let rows = "SELECT count(*) FROM t";
    stage.wait_for_target(rows, "51").await;
    stage.wait_for_table("public.t", "streaming").await;
    ended(&stage, run).await;
    // One that never was is one.
    stage.write(&rules.replace("public.t.v", "public.good.vv"));
    let ran = stage.run(&["run", "FILE", "--until", "caught-up"]).await;
    assert!(ran.stderr.contains("has no column `vv`"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_tables_that_are_new_and_cannot_be_carried_end_nobody() {
    let added = "[tables]\ninclude = [\"*.*\"]\nnew_tables = \"add\"\n\
        [target]\nschema = \"dw\"\nexisting = \"truncate\"\n";
    let change = "CREATE TABLE fresh (id int, g int GENERATED ALWAYS AS (id) STORED, PRIMARY KEY (id, g)); \
        CREATE SCHEMA more; CREATE TABLE more.t (id int PRIMARY KEY, v text); \
        INSERT INTO more.t VALUES (1, 'of another')";
    let stage = stopped("schema_alone_new", added, change).await;
    let mut run = stage.start_streaming().await;
    let good = "SELECT count(*) FROM dw.good";
    stage.wait_for_target(good, "51").await;
    run.wait_for_log("cannot be carried: `g` is part of the key of public.fresh")
        .await;
    run.wait_for_log("two tables would go to dw.t; public.t and more.t both do")
        .await;
    stage.wait_for_table("public.t", "streaming").await;
    // Nor while it runs: two tables do not share one.
    stage
        .source_sql("CREATE SCHEMA most; CREATE TABLE most.t (LIKE more.t INCLUDING ALL)")
        .await;
    run.wait_for_log("two tables would go to dw.t; public.t and most.t both do")
        .await;
    let rows = "SELECT count(*) FROM dw.t WHERE v LIKE 'row %'";
    assert_eq!(text(&stage.target, rows).await.unwrap(), "50");
    ended(&stage, run).await;
}

/// What stands on the target under the name of a new table is that table's matter.
#[tokio::test(flavor = "multi_thread")]
async fn f20_a_new_table_in_whose_place_rows_are_is_set_aside_alone() {
    let added = "[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n";
    let change = "CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1)";
    let stage = stopped("schema_alone_place", added, change).await;
    stage
        .target_sql("CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (7)")
        .await;
    let run = started(&stage).await;
    stage.wait_for_table("public.fresh", "quarantined").await;
    let rows = "SELECT string_agg(id::text, ',') FROM fresh";
    assert_eq!(text(&stage.target, rows).await.unwrap(), "7");
    ended(&stage, run).await;
}

/// What is kept from the target by the name of its column is not there under another.
async fn renamed_while(name: &str, is_running: bool) {
    let file = |secret: &str| {
        format!(
            "[target]\non_schema_change = \"apply\"\n\
             [[table]]\nsource = \"public.t\"\ndrop_columns = [\"{secret}\"]\n\
             [[mask]]\ncolumns = [\"public.t.v\", \"public.u.v\"]\nwith = \"redact\"\n\
             [verify]\nafter_load = \"off\"\n"
        )
    };
    let stage = staged(name, &["t", "u", "good"], &file("secret")).await;
    stage
        .source_sql("ALTER TABLE t ADD secret text DEFAULT 'secret'")
        .await;
    let changes = "ALTER TABLE t RENAME secret TO told; ALTER TABLE u RENAME v TO w; \
        UPDATE t SET v = 'x' WHERE id = 1; UPDATE u SET w = 'x' WHERE id = 1; \
        INSERT INTO good VALUES (60, 'new')";
    let mut run = stage.start_streaming().await;
    if is_running {
        stage.source_sql(changes).await;
    } else {
        assert_eq!(run.terminate().await, Some(0));
        stage.source_sql(changes).await;
        run = stage.start_streaming().await;
    }
    for table in ["public.t", "public.u"] {
        stage.wait_for_table(table, "quarantined").await;
        let resync = ["resync", "FILE", "--table", table, "--yes"];
        stage.run(&resync).await;
        stage.wait_for_table(table, "quarantined").await;
        let reason = stage.table(table).await["reason"].to_string();
        assert!(reason.contains("masks or leaves out"), "{reason}");
    }
    stage
        .wait_for_target("SELECT count(*) FROM good", "51")
        .await;
    let open = "SELECT (SELECT count(*) FROM u WHERE to_jsonb(u)::text LIKE '%row%') \
        + (SELECT count(*) FROM t WHERE to_jsonb(t)::text LIKE '%secret%')";
    assert_eq!(text(&stage.target, open).await.unwrap(), "0");
    assert_eq!(run.terminate().await, Some(0));
    // The file says of the new name what it said of the old one.
    stage.write(&file("told"));
    let run = started(&stage).await;
    let resync = ["resync", "FILE", "--table", "public.t", "--yes"];
    stage.run(&resync).await.expect(0);
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(text(&stage.target, open).await.unwrap(), "0");
    ended(&stage, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_column_that_is_kept_from_the_target_stays_so_under_another_name() {
    renamed_while("schema_alone_covered", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_column_renamed_while_nobody_runs_stays_kept_from_the_target() {
    renamed_while("schema_alone_uncovered", false).await;
}
