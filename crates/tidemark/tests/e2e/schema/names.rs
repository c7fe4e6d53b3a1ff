//! Tables that take each other's names while they are followed, and are written to under all of them.

use std::sync::atomic::{AtomicU32, Ordering};

use tidemark_lab::wait_for;

use super::tables::staged;
use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const ADDED: &str = "[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n\
    [verify]\nafter_load = \"off\"\n";

/// One is put away under another name and one out of sight, a new table in the place of each; two change
/// places.
const RENAMES: &str = "\
    BEGIN; ALTER TABLE log RENAME TO log_old; CREATE TABLE log (LIKE log_old INCLUDING ALL); COMMIT;
    BEGIN; CREATE SCHEMA archive; ALTER TABLE kept SET SCHEMA archive;
    CREATE TABLE kept (LIKE archive.kept INCLUDING ALL); COMMIT;
    BEGIN; ALTER TABLE one RENAME TO between; ALTER TABLE other RENAME TO one;
    ALTER TABLE between RENAME TO other; COMMIT";

const WRITTEN: [&str; 6] = ["log", "log_old", "kept", "archive.kept", "one", "other"];

const CARRIED: [&str; 5] = ["log", "log_old", "kept", "one", "other"];

/// The target has a table of its own for the rows that were put away, and none of them elsewhere.
const IS_RENAMED: &str = "SELECT to_regclass('log_old') IS NOT NULL \
    AND (SELECT count(*) = 0 FROM log WHERE v LIKE 'row %') \
    AND (SELECT count(*) = 0 FROM kept WHERE v LIKE 'row %') \
    AND (SELECT count(*) = 25 FROM one WHERE v LIKE 'row %') \
    AND (SELECT count(*) = 50 FROM other WHERE v LIKE 'row %')";

async fn write(stage: &Stage, round: u32) {
    for table in WRITTEN {
        let sql = format!(
            "INSERT INTO {table} VALUES ({round}, 'in {table}'); \
             UPDATE {table} SET v = v || '+' WHERE id = {round} - 1"
        );
        stage.source_sql(&sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_f20_tables_are_followed_under_the_names_that_they_take() {
    let tables = ["log", "kept", "one", "other"];
    let stage = staged("schema_names", &tables, ADDED).await;
    stage.source_sql("DELETE FROM other WHERE id > 25").await;
    let mut run = stage.start_streaming().await;
    // The log does not describe them again before it has to.
    for table in tables {
        let sql = format!("INSERT INTO {table} VALUES (60, 'before')");
        stage.source_sql(&sql).await;
    }
    stage.wait_until_identical().await;

    stage.source_sql(RENAMES).await;
    let round = AtomicU32::new(100);
    let next = || round.fetch_add(1, Ordering::Relaxed);
    let waited = wait_for(PATIENCE, "the target to follow the names", || async {
        write(&stage, next()).await;
        Ok((text(&stage.target, IS_RENAMED).await? == "t").then_some(()))
    });
    waited
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    for _ in 0..3 {
        write(&stage, next()).await;
        ends_equal(&stage).await;
    }
    for table in CARRIED {
        let table = format!("public.{table}");
        stage.wait_for_table(&table, "streaming").await;
    }
    write(&stage, next()).await;
    ends_equal(&stage).await;
    assert!(run.is_running(), "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

async fn ends_equal(stage: &Stage) {
    let comparison = CARRIED
        .iter()
        .fold(stage.comparison(), |all, table| all.only("public", table));
    stage.wait_for_equal(comparison).await;
}
