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

/// What old rows hold in a column is not what they are to hold under its new name, where that one is masked or
/// left out. The other way round, see `alone`: nothing is shown because it has another name.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_takes_a_masked_or_left_out_name_is_masked_or_left_out_in_old_rows_too() {
    let stage = Stage::new("schema_masked_names").await;
    stage.write(
        "[target]\non_schema_change = \"apply\"\n[[table]]\nsource = \"public.*\"\n\
         drop_columns = [\"secret\"]\n[[mask]]\ncolumns = [\"public.*.email\"]\nwith = \"fixed\"\n\
         value = \"masked\"\n[verify]\nafter_load = \"off\"\n",
    );
    let table = "CREATE TABLE t (id int PRIMARY KEY, nick text, note text); \
        INSERT INTO t VALUES (1, 'n1', 'o1'); \
        CREATE TABLE other (id int PRIMARY KEY, email text, secret text)";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    let row = async |id: u32| {
        let sql = format!("INSERT INTO t SELECT {id}, 'n{id}', 'o{id}'");
        stage.source_sql(&sql).await;
    };
    stage.source_sql("ALTER TABLE t RENAME nick TO email").await;
    row(2).await;
    let all = "SELECT string_agg(email, ' ' ORDER BY id) FROM t";
    stage.wait_for_target(all, "masked masked").await;
    stage
        .source_sql("ALTER TABLE t RENAME note TO secret")
        .await;
    row(3).await;
    let left = "SELECT (SELECT count(*) FROM t) || ' ' || count(*) FROM pg_attribute \
        WHERE attrelid = 't'::regclass AND attname IN ('note', 'secret')";
    stage.wait_for_target(left, "3 0").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
