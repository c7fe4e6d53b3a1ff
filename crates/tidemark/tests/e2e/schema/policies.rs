//! Every case under every policy, while the tables are written to, and while the pipeline is stopped.

use super::cases::{CASES, Policy, Then};
use super::{Writers, assert_as_the_policy_says, change, staged, write};
use crate::asks::text;
use crate::stage::Stage;

/// In the stream, under load; then the ways back of what was set aside, and a restart.
async fn in_the_stream(name: &str, policy: Policy) {
    let stage = staged(name, policy).await;
    let run = stage.start_streaming().await;
    let writers = Writers::start(&stage).await;
    writers.go_round(2).await;
    change(&stage).await;
    writers.go_round(2).await;
    writers.stop().await;
    assert_as_the_policy_says(&stage, policy).await;
    load_what_is_aside(&stage, policy).await;
    assert_eq!(run.terminate().await, Some(0));
    // What was recorded of the new shapes is what the next run goes on with.
    let writers = Writers::start(&stage).await;
    writers.go_round(1).await;
    writers.stop().await;
    stage.catch_up().await;
    stage.wait_for_equal(rest(&stage, policy)).await;
    stage.clear().await;
}

/// A table that was set aside is loaded in its new shape, and equal.
async fn load_what_is_aside(stage: &Stage, policy: Policy) {
    let aside = CASES
        .iter()
        .filter(|it| matches!(it.then(policy), Then::Aside));
    let tables: Vec<String> = aside.map(|it| format!("public.{}", it.name)).collect();
    let mut resync = vec!["resync", "FILE", "--yes"];
    for table in &tables {
        resync.extend(["--table", table]);
        drop_what_the_source_lacks(stage, table).await;
    }
    if !tables.is_empty() {
        stage.run(&resync).await.expect(0);
    }
    stage.wait_for_equal(rest(stage, policy)).await;
    for table in &tables {
        stage.wait_for_table(table, "streaming").await;
    }
}

/// A table that is loaded anew takes nothing away: columns that only the target has are a person's to
/// drop.
async fn drop_what_the_source_lacks(stage: &Stage, table: &str) {
    let sql = format!(
        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass \
         AND attnum > 0 AND NOT attisdropped"
    );
    let of = async |client: &tokio_postgres::Client| -> Vec<String> {
        let rows = client.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let source = of(&stage.source).await;
    let surplus = of(&stage.target).await;
    for column in surplus.iter().filter(|column| !source.contains(column)) {
        // What is computed from it may have gone with it.
        let drop = format!("ALTER TABLE {table} DROP COLUMN IF EXISTS {column} CASCADE");
        stage.target_sql(&drop).await;
    }
}

/// As the policy says, and what was aside equal too.
fn rest(stage: &Stage, policy: Policy) -> tidemark_lab::compare::Comparison<'_> {
    let aside = CASES
        .iter()
        .filter(|it| matches!(it.then(policy), Then::Aside));
    let all = super::comparison(stage, policy);
    aside.fold(all, |all, case| all.only("public", case.name))
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_all_changes_are_carried_out_in_the_stream() {
    in_the_stream("schema_apply", Policy::Apply).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_what_adds_is_carried_out_in_the_stream() {
    in_the_stream("schema_additive", Policy::ApplyAdditive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_a_table_that_changes_is_stopped_in_the_stream() {
    in_the_stream("schema_stop", Policy::StopTable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_changes_are_ignored_in_the_stream() {
    in_the_stream("schema_ignore", Policy::Ignore).await;
}

/// The pipeline ends at the change; with another policy it goes on from there, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn f22_a_pipeline_that_is_to_fail_ends_before_the_change_is_applied() {
    let stage = Stage::new("schema_fail").await;
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); \
                  INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 40) i";
    stage.source_sql(tables).await;
    stage.write("[target]\non_schema_change = \"fail\"\n");
    let mut run = stage.start_streaming().await;
    stage
        .source_sql("UPDATE t SET v = 'before' WHERE id = 1")
        .await;
    stage.wait_until_identical().await;
    stage.source_sql("ALTER TABLE t ADD c int DEFAULT 7").await;
    stage
        .source_sql("UPDATE t SET c = id, v = 'after' WHERE id < 5")
        .await;
    let ended = run.ended().await;
    assert_eq!(ended, Some(6), "{}", run.log());
    assert!(run.log().contains("TM4036"), "{}", run.log());
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute \
                   WHERE attrelid = 't'::regclass AND attnum > 0";
    assert_eq!(text(&stage.target, columns).await.unwrap(), "id v");
    assert_eq!(
        text(&stage.target, "SELECT v FROM t WHERE id = 2")
            .await
            .unwrap(),
        "row 2"
    );
    let again = stage
        .run(&["run", "FILE", "--until", "caught-up"])
        .await
        .expect(6);
    assert!(again.stderr.contains("TM4036"), "{}", again.stderr);
    stage.write("[target]\non_schema_change = \"apply\"\n");
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// The log is read long after the catalog has changed.
async fn while_stopped(name: &str, policy: Policy) {
    let stage = staged(name, policy).await;
    stage
        .run(&["run", "FILE", "--until", "caught-up"])
        .await
        .expect(0);
    let writers = Writers::start(&stage).await;
    writers.go_round(1).await;
    change(&stage).await;
    writers.go_round(1).await;
    writers.stop().await;
    write(&stage, policy);
    let run = stage.start_streaming().await;
    assert_as_the_policy_says(&stage, policy).await;
    load_what_is_aside(&stage, policy).await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_all_changes_are_carried_out_after_a_stop() {
    while_stopped("schema_apply_later", Policy::Apply).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_f22_what_adds_is_carried_out_after_a_stop() {
    while_stopped("schema_additive_later", Policy::ApplyAdditive).await;
}
