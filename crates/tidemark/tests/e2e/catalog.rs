//! What happens to tables of the source beside the log: dropped and made again, taken out of the
//! publication, while the pipeline runs and while it does not. None of it may leave a table behind
//! that looks well.

use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const TABLES: &str = "CREATE TABLE notes (id int PRIMARY KEY, v text);
    CREATE TABLE lines (v text); ALTER TABLE lines REPLICA IDENTITY FULL;
    INSERT INTO notes SELECT i, 'first' FROM generate_series(1, 100) i;
    INSERT INTO lines SELECT 'first' FROM generate_series(1, 100) i;";

const AGAIN: &str = "DROP TABLE notes; CREATE TABLE notes (id int PRIMARY KEY, v text);
    INSERT INTO notes SELECT i, 'again' FROM generate_series(50, 120) i;";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_again_while_nobody_ran_is_loaded_anew() {
    for killed in [false, true] {
        let stage = Stage::new(&format!("catalog_again_{killed}")).await;
        stage.source_sql(TABLES).await;
        stage.catch_up().await;
        stage
            .source_sql("INSERT INTO notes VALUES (500, 'of the old one')")
            .await;
        stage.source_sql(AGAIN).await;
        stage.source_sql("INSERT INTO lines VALUES ('more')").await;
        if killed {
            // Between the state and the load, or within it: the next run knows all the same.
            let run = stage.start(&["run", "FILE"]);
            wait_for(PATIENCE, "the load to be recorded", || async {
                let state = "SELECT state FROM tidemark.table_state WHERE source_name = 'notes'";
                Ok((text(&stage.target, state).await? == "resyncing").then_some(()))
            })
            .await
            .unwrap();
            run.kill9().await;
        }
        let run = stage.start(&["run", "FILE"]);
        stage.wait_until_identical().await;
        stage.wait_for_table("public.notes", "streaming").await;
        stage
            .source_sql("INSERT INTO notes VALUES (600, 'later'); DELETE FROM notes WHERE id < 60")
            .await;
        stage.wait_until_identical().await;
        assert_eq!(run.terminate().await, Some(0));
        stage.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_taken_out_of_the_publication_is_loaded_anew() {
    let stage = Stage::new("catalog_taken_out").await;
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    let out = "ALTER PUBLICATION tidemark_catalog_taken_out DROP TABLE notes";
    stage.source_sql(out).await;
    let unseen =
        "INSERT INTO notes VALUES (500, 'unseen'); UPDATE notes SET v = 'unseen' WHERE id < 10;
        DELETE FROM notes WHERE id > 90 AND id < 500; INSERT INTO lines VALUES ('seen')";
    stage.source_sql(unseen).await;
    let mut run = stage.start(&["run", "FILE"]);
    stage.wait_until_identical().await;
    run.wait_for_log("was not announced").await;
    stage.wait_for_table("public.notes", "streaming").await;
    stage
        .source_sql("INSERT INTO notes VALUES (600, 'seen'); DELETE FROM notes WHERE id = 1")
        .await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}
