//! Tables that are called otherwise for a while, or that nobody follows for a while, and come back.

use super::tables::staged;
use crate::asks::text;
use crate::stage::Stage;

const NAMED: &str = "[tables]\ninclude = [\"public.t\", \"public.good\"]\n\
    [target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n";

async fn ends_equal(stage: &Stage) {
    let comparison = stage.comparison().only("public", "t");
    stage
        .wait_for_equal(comparison.only("public", "good"))
        .await;
    stage.wait_for_table("public.t", "streaming").await;
}

/// How often its rows were read.
fn loads(stage: &Stage) -> usize {
    let log = stage.log();
    log.matches("loaded anew").count() + log.matches("resync").count()
}

/// What was written to it meanwhile is kept in order, and taken when it is called as before.
#[tokio::test(flavor = "multi_thread")]
async fn f19_a_table_that_is_renamed_there_and_back_goes_on_where_it_was() {
    let stage = staged("schema_away", &["t", "good"], NAMED).await;
    let mut run = stage.start_streaming().await;
    // All in one transaction.
    stage
        .source_sql(
            "BEGIN; INSERT INTO t VALUES (60, 'before'); ALTER TABLE t RENAME TO u; \
             INSERT INTO u VALUES (61, 'between'); UPDATE u SET v = v || '+' WHERE id < 9 OR id = 60; \
             ALTER TABLE u RENAME TO t; DELETE FROM t WHERE id = 2; COMMIT; \
             INSERT INTO t VALUES (62, 'after')",
        )
        .await;
    ends_equal(&stage).await;
    // For longer, and over a kill.
    stage
        .source_sql(
            "ALTER TABLE t RENAME TO u; UPDATE u SET v = v || '!' WHERE id < 20; \
             DELETE FROM u WHERE id = 61; INSERT INTO good VALUES (70, 'new')",
        )
        .await;
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(
        reason.contains("TM4032") && reason.contains("public.u"),
        "{reason}"
    );
    stage
        .wait_for_target("SELECT count(*) FROM good", "51")
        .await;
    let kept = "SELECT count(*) FROM t WHERE v LIKE '%!'";
    assert_eq!(text(&stage.target, kept).await.unwrap(), "0");
    stage
        .source_sql("INSERT INTO u VALUES (63, 'more'); ALTER TABLE u RENAME TO t")
        .await;
    run.kill9().await;
    run = stage.start_streaming().await;
    // Nobody writes to it: that it is back is seen all the same.
    ends_equal(&stage).await;
    stage
        .source_sql("UPDATE t SET v = 'last' WHERE id = 63")
        .await;
    ends_equal(&stage).await;
    assert_eq!(loads(&stage), 0, "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Its changes go to the table of the other name from then on: that one is loaded, and this one has to be.
#[tokio::test(flavor = "multi_thread")]
async fn f19_a_table_that_is_followed_under_another_name_does_not_go_on_where_it_was() {
    let added = "[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n\
        [target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n";
    let stage = staged("schema_away_added", &["t", "good"], added).await;
    let run = stage.start_streaming().await;
    stage
        .source_sql("ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (60, 'first')")
        .await;
    let is_followed = "SELECT count(*) FROM tidemark.table_state \
        WHERE source_name = 'u' AND state = 'streaming'";
    stage.wait_for_target(is_followed, "1").await;
    stage
        .source_sql("INSERT INTO u VALUES (61, 'under u')")
        .await;
    stage.wait_for_target("SELECT count(*) FROM u", "52").await;
    stage
        .source_sql("ALTER TABLE u RENAME TO t; INSERT INTO t VALUES (62, 'back')")
        .await;
    stage
        .source_sql("INSERT INTO good VALUES (70, 'new')")
        .await;
    stage
        .wait_for_target("SELECT count(*) FROM good", "51")
        .await;
    stage.wait_for_table("public.t", "quarantined").await;
    let resync = ["resync", "FILE", "--table", "public.t", "--yes"];
    stage.run(&resync).await.expect(0);
    ends_equal(&stage).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A run that did not follow a table has passed changes of it.
async fn unfollowed(stage: &Stage, away: &str, back: &str) {
    let file =
        |tables: &str| format!("[tables]\ninclude = [{tables}]\n[verify]\nafter_load = \"off\"\n");
    let all = file("\"public.t\", \"public.good\"");
    stage.write(&all);
    stage.catch_up().await;
    if away.is_empty() {
        stage.write(&file("\"public.good\""));
    } else {
        stage.source_sql(away).await;
    }
    let written = if away.is_empty() { "t" } else { "u" };
    let changes = format!(
        "INSERT INTO {written} VALUES (60, 'meanwhile'); DELETE FROM {written} WHERE id = 3; \
         INSERT INTO good VALUES (60, 'new')"
    );
    for _ in 0..2 {
        stage.catch_up().await;
        stage.source_sql(&changes).await;
        stage
            .source_sql(&format!(
                "DELETE FROM {written} WHERE id = 60; DELETE FROM good WHERE id = 60"
            ))
            .await;
    }
    stage.source_sql(&changes).await;
    stage.catch_up().await;
    let good = stage.comparison().only("public", "good");
    stage.wait_for_equal(good).await;
    stage.write(&all);
    if !back.is_empty() {
        stage.source_sql(back).await;
    }
    let run = stage.start_streaming().await;
    ends_equal(stage).await;
    stage
        .source_sql("UPDATE t SET v = 'last' WHERE id = 60")
        .await;
    ends_equal(stage).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    // Once is enough.
    let again = stage.catch_up().await;
    ends_equal(stage).await;
    assert!(!again.stderr.contains("loaded anew"), "{}", again.stderr);
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_a_table_that_was_called_otherwise_during_a_run_is_loaded_anew() {
    let stage = staged("schema_away_run", &["t", "good"], "").await;
    let (away, back) = ("ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO t");
    unfollowed(&stage, away, back).await;
}

/// Nor does a run that began without it take it for a table that is new, and leave it out.
#[tokio::test(flavor = "multi_thread")]
async fn f19_a_table_that_comes_back_during_a_run_is_loaded_anew_by_it() {
    let file = "[verify]\nafter_load = \"off\"\n";
    let stage = staged("schema_away_back", &["t", "good"], file).await;
    stage.source_sql("CREATE SCHEMA aside").await;
    stage.catch_up().await;
    stage.source_sql("ALTER TABLE t SET SCHEMA aside").await;
    let run = stage.start_streaming().await;
    stage
        .source_sql(
            "INSERT INTO aside.t VALUES (60, 'meanwhile'); DELETE FROM aside.t WHERE id = 3; \
             INSERT INTO good VALUES (60, 'new')",
        )
        .await;
    stage
        .wait_for_target("SELECT count(*) FROM good", "51")
        .await;
    let table = stage.table("public.t").await;
    assert!(
        table["reason"].to_string().contains("left behind"),
        "{table}"
    );

    stage
        .source_sql("ALTER TABLE aside.t SET SCHEMA public; UPDATE t SET v = 'home' WHERE id = 60")
        .await;
    ends_equal(&stage).await;
    stage
        .source_sql("UPDATE t SET v = 'last' WHERE id = 60")
        .await;
    ends_equal(&stage).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_run_was_not_to_follow_is_loaded_anew_by_one_that_is() {
    let stage = staged("schema_away_file", &["t", "good"], "").await;
    unfollowed(&stage, "", "").await;
}
