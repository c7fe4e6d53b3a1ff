//! What types get while their tables are followed: no log tells of it.

use crate::asks::text;
use crate::stage::Stage;

const TYPES: &str = "\
    CREATE TYPE mood AS ENUM ('sad', 'happy'); \
    CREATE TYPE part AS (a int, b text); \
    CREATE TABLE felt (id int PRIMARY KEY, m mood, ms mood[], p part DEFAULT '(1,x)'); \
    CREATE TABLE bag (m mood); ALTER TABLE bag REPLICA IDENTITY FULL; \
    INSERT INTO felt SELECT i, 'sad', '{happy}' FROM generate_series(1, 20) i; \
    INSERT INTO bag SELECT 'sad' FROM generate_series(1, 20)";

const STATES: &str = "SELECT string_agg(DISTINCT state, ',') FROM tidemark.table_state";

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_type_that_grows_stops_no_table() {
    let stage = Stage::new("schema_labels").await;
    stage.source_sql(TYPES).await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let run = stage.start_streaming().await;
    let more = "ALTER TYPE mood ADD VALUE 'so so' BEFORE 'happy'";
    stage.source_sql(more).await;
    stage
        .source_sql(
            "UPDATE felt SET m = 'so so' WHERE id < 10; UPDATE bag SET m = 'so so' WHERE random() < 0.5",
        )
        .await;
    stage.wait_until_identical().await;
    stage.source_sql("ALTER TYPE mood ADD VALUE 'glad'").await;
    stage
        .source_sql(
            "INSERT INTO felt VALUES (100, 'glad', '{sad,glad}'); DELETE FROM bag WHERE m = 'so so'",
        )
        .await;
    stage.wait_until_identical().await;
    stage
        .source_sql("ALTER TYPE part ADD ATTRIBUTE c numeric(8,2)")
        .await;
    let more = "UPDATE felt SET p = '(2,y,1.50)' WHERE id > 15";
    stage.source_sql(more).await;
    stage.wait_until_identical().await;
    assert_eq!(text(&stage.target, STATES).await.unwrap(), "streaming");
    let order = "SELECT enum_range(NULL::mood)";
    assert_eq!(
        text(&stage.target, order).await.unwrap(),
        "{sad,\"so so\",happy,glad}"
    );
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// The log has the old names of what was written before, the target takes the new ones alone.
#[tokio::test(flavor = "multi_thread")]
async fn f22_a_label_is_renamed_on_the_target_too() {
    let stage = Stage::new("schema_labels_renamed").await;
    stage.source_sql(TYPES).await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let run = stage.start_streaming().await;
    stage
        .source_sql(
            "UPDATE felt SET m = 'happy' WHERE id = 2; ALTER TYPE mood RENAME VALUE 'happy' TO 'merry';              UPDATE felt SET m = 'merry' WHERE id = 3",
        )
        .await;
    stage.wait_until_identical().await;
    // Within one transaction under both names.
    stage
        .source_sql(
            "BEGIN; UPDATE felt SET m = 'sad' WHERE id = 4; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';              UPDATE felt SET m = 'blue' WHERE id = 5; COMMIT",
        )
        .await;
    stage.wait_until_identical().await;
    // Nobody writes a value of it.
    let renamed = "ALTER TYPE mood RENAME VALUE 'merry' TO 'jolly'";
    stage.source_sql(renamed).await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    let log = stage.log();
    assert!(
        log.contains("is not as it was: done on the target too"),
        "{log}"
    );
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// How a label is taken away: by a type of the same name in the place of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn f22_a_type_that_is_made_anew_stops_nobody() {
    let stage = Stage::new("schema_types_anew").await;
    stage.source_sql(TYPES).await;
    let rank = "CREATE TYPE rank AS ENUM ('low', 'mid', 'high');         CREATE TABLE ranked (id int PRIMARY KEY, r rank);         INSERT INTO ranked SELECT i, 'low' FROM generate_series(1, 20) i;         CREATE TABLE good (id int PRIMARY KEY)";
    stage.source_sql(rank).await;
    stage.write("[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n");
    let mut run = stage.start_streaming().await;
    stage
        .source_sql(
            "BEGIN; UPDATE ranked SET r = 'high' WHERE id = 2; ALTER TYPE rank RENAME TO rank_old;              CREATE TYPE rank AS ENUM ('low', 'high', 'top');              ALTER TABLE ranked ALTER r TYPE rank USING r::text::rank; DROP TYPE rank_old;              UPDATE ranked SET r = 'top' WHERE id = 3; COMMIT; INSERT INTO good VALUES (1)",
        )
        .await;
    stage.wait_until_identical().await;
    stage
        .source_sql(
            "UPDATE felt SET p = '(3,z)' WHERE id = 3; ALTER TYPE part DROP ATTRIBUTE a;              UPDATE felt SET p = '(y)' WHERE id = 4",
        )
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_target(STATES, "streaming").await;
    // One that cannot be told from another stops its table alone.
    stage
        .source_sql(
            "BEGIN; ALTER TYPE rank RENAME TO rank_old; CREATE TYPE rank AS ENUM ('low', 'x', 'y', 'high', 'top');              ALTER TABLE ranked ALTER r TYPE rank USING r::text::rank; DROP TYPE rank_old;              UPDATE ranked SET r = 'top' WHERE id = 4; COMMIT; INSERT INTO good VALUES (2)",
        )
        .await;
    stage.wait_for_table("public.ranked", "quarantined").await;
    stage
        .wait_for_target("SELECT count(*) FROM good", "2")
        .await;
    let table = stage.table("public.ranked").await;
    assert!(
        table["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("TM2040"),
        "{table}"
    );
    assert!(run.is_running(), "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A table is set aside, and the others go on, whatever stands in its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_names_have_dots_is_set_aside_alone() {
    let stage = Stage::new("schema_dots").await;
    stage
        .source_sql(
            r#"CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."c.d" (id int PRIMARY KEY, v text);
               CREATE TABLE good (id int PRIMARY KEY); INSERT INTO "a.b"."c.d" VALUES (1, 'old')"#,
        )
        .await;
    stage.write("[tables]\ninclude = [\"*.*\"]\n[verify]\nafter_load = \"off\"\n");
    let run = stage.start_streaming().await;
    stage
        .target_sql(r#"ALTER TABLE "a.b"."c.d" ADD CHECK (v <> 'new')"#)
        .await;
    stage
        .source_sql(r#"INSERT INTO "a.b"."c.d" VALUES (2, 'new'); INSERT INTO good VALUES (1)"#)
        .await;
    stage
        .wait_for_target("SELECT count(*) FROM good", "1")
        .await;
    stage.wait_for_table(r#""a.b"."c.d""#, "quarantined").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
