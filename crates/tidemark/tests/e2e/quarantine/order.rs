//! What comes for a row in quarantine waits behind it, in order and through a crash; what does not goes
//! on.

use std::time::{Duration, Instant};

use crate::stage::Stage;

use super::by_row;

const TABLES: &str = "CREATE TABLE marker (id serial PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
    INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 20) i;
    CREATE TABLE two (a int, b text, v text, PRIMARY KEY (a, b));";

const STRICT: &str = "ALTER TABLE t ADD CONSTRAINT no_odd CHECK (v <> 'odd');
    ALTER TABLE two ADD CONSTRAINT no_odd CHECK (v <> 'odd')";
const MENDED: &str = "ALTER TABLE t DROP CONSTRAINT no_odd; ALTER TABLE two DROP CONSTRAINT no_odd";

#[tokio::test(flavor = "multi_thread")]
async fn later_changes_of_the_key_wait_in_order_through_a_crash() {
    let stage = Stage::new("quarantine_order").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    // A row that is moved away and whose old place is taken; one that goes; one whose key has two
    // columns; and neighbours of them in the same transactions.
    stage
        .source_sql(
            "BEGIN; UPDATE t SET v = 'odd' WHERE id = 2; UPDATE t SET v = 'fine' WHERE id = 3; COMMIT;
             BEGIN; UPDATE t SET n = 7 WHERE id IN (2, 4); UPDATE t SET id = 102 WHERE id = 2; COMMIT;
             INSERT INTO t VALUES (2, 'new'); UPDATE t SET n = n + 1 WHERE id IN (2, 102, 5);
             INSERT INTO t VALUES (30, 'odd'); DELETE FROM t WHERE id IN (30, 6);
             INSERT INTO two VALUES (1, 'x', 'odd'), (1, 'y', 'a'); UPDATE two SET v = 'b';",
        )
        .await;
    stage.wait_for_marker().await;
    run.kill9().await;
    let run = stage.start_streaming().await;
    stage
        .source_sql("UPDATE t SET id = id + 100 WHERE id = 102; UPDATE t SET v = v || '!'")
        .await;
    stage.wait_for_marker().await;
    let kept = stage.kept().await;
    let of_t = |key: &str| {
        let is_it = |row: &&serde_json::Value| {
            row["table"] == "public.t" && row["keys"].as_array().unwrap().contains(&[key].into())
        };
        kept.iter()
            .find(is_it)
            .map(|row| row["changes"].as_u64().unwrap())
    };
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert_eq!(of_t("2"), of_t("202"), "one row since it moved");
    assert_eq!(of_t("202"), Some(9), "{kept:?}");
    assert_eq!(of_t("30"), Some(2));
    // The target has the row as it was before, and all others as they are.
    let there =
        "SELECT string_agg(concat(id, v, n), ' ' ORDER BY id) FROM t WHERE id < 8 OR id > 20";
    stage
        .wait_for_target(there, "1row 1!0 2row 20 3fine!0 4row 4!7 5row 5!1 7row 7!0")
        .await;

    // What has been corrected on the source, or is gone there, needs no mending here.
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    stage.target_sql(MENDED).await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A truncate leaves nothing to wait for; neither does loading the table anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_and_a_resync_discard_what_they_have_overtaken() {
    let stage = Stage::new("quarantine_truncate").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    stage.source_sql("INSERT INTO t VALUES (21, 'odd')").await;
    stage.wait_for_kept(1).await;
    stage
        .source_sql(
            "BEGIN; UPDATE t SET n = 1 WHERE id = 21; TRUNCATE t; INSERT INTO t VALUES (21, 'even'); COMMIT",
        )
        .await;
    stage.wait_for_kept(0).await;
    stage.wait_until_identical().await;

    stage.source_sql("UPDATE t SET v = 'odd'").await;
    stage.wait_for_kept(1).await;
    let repair = stage
        .run(&["verify", "FILE", "--repair", "--yes"])
        .await
        .expect(3);
    let said = format!("{}{}", repair.stdout, repair.stderr);
    assert!(said.contains("which is all that differs"), "{said}");
    assert_eq!(stage.kept().await.len(), 1, "it waits as before");
    stage.target_sql(MENDED).await;
    stage.resync("public.t").await;
    stage.wait_for_kept(0).await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// The table's changes of shape come behind what waits, so the table waits with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_shape_waits_for_the_rows_before_it() {
    let stage = Stage::new("quarantine_shape").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    stage.source_sql("INSERT INTO t VALUES (21, 'odd')").await;
    stage.wait_for_kept(1).await;
    stage
        .source_sql(
            "ALTER TABLE t ADD COLUMN more int DEFAULT 5; INSERT INTO t VALUES (22, 'even')",
        )
        .await;
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(reason.contains("TM4082"), "{reason}");
    stage
        .source_sql("INSERT INTO two VALUES (1, 'x', 'a')")
        .await;
    stage.wait_for_target("SELECT count(*) FROM two", "1").await;
    stage.target_sql(MENDED).await;
    stage
        .run(&["retry", "FILE", "--table", "public.t"])
        .await
        .expect(0);
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Looking for the few rows that are refused does not make a large transaction slow.
#[tokio::test(flavor = "multi_thread")]
async fn few_rows_of_a_large_transaction_go_aside_and_all_others_are_in_with_it() {
    let stage = Stage::new("quarantine_large").await;
    stage.source_sql(TABLES).await;
    by_row(&stage, "");
    let run = stage.start_streaming().await;
    stage.target_sql(STRICT).await;
    let began = Instant::now();
    stage
        .source_sql(
            "INSERT INTO t SELECT i, CASE WHEN i % 50000 = 777 THEN 'odd' ELSE 'row' END
             FROM generate_series(100, 200099) i; UPDATE t SET n = 1 WHERE id < 1000",
        )
        .await;
    stage.wait_for_kept(5).await;
    stage.wait_for_marker().await;
    let took = began.elapsed();
    assert!(took < Duration::from_mins(1), "{took:?}");
    stage
        .wait_for_target("SELECT count(*) FROM t", &(200_020 - 4).to_string())
        .await;
    stage.target_sql(MENDED).await;
    stage.run(&["retry", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
