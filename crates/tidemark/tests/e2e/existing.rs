//! What becomes of tables that are on the target before the first load: each policy of
//! `target.existing`, over a table that has rows, one that is empty and one that is missing.

use crate::asks::text;
use crate::stage::Stage;

/// On the source: `full`, `empty` and `missing` are what they are on the target.
const SOURCE: &str = "CREATE TABLE \"full\" (id int PRIMARY KEY, v text);
    CREATE TABLE empty (id int PRIMARY KEY, v text);
    CREATE TABLE missing (id int PRIMARY KEY, v text);
    INSERT INTO \"full\" SELECT i, 'of the source' FROM generate_series(1, 50) i;
    INSERT INTO empty SELECT i, 'of the source' FROM generate_series(1, 60) i;
    INSERT INTO missing SELECT i, 'of the source' FROM generate_series(1, 70) i;";

const EMPTY: &str = "CREATE TABLE empty (id int PRIMARY KEY, v text);";

const FULL: &str = "CREATE TABLE \"full\" (id int PRIMARY KEY, v text);
    INSERT INTO \"full\" SELECT i, 'of the target' FROM generate_series(1, 10) i;";

const CHANGES: &str =
    "UPDATE \"full\" SET v = 'changed' WHERE id > 40; DELETE FROM \"full\" WHERE id = 49;
    INSERT INTO empty VALUES (1000, 'new'); INSERT INTO missing VALUES (1000, 'new');";

async fn stage(name: &str, existing: &str, target: &str) -> Stage {
    let stage = Stage::new(name).await;
    if !existing.is_empty() {
        stage.write(&format!("[target]\nexisting = \"{existing}\"\n"));
    }
    stage.source_sql(SOURCE).await;
    stage.target_sql(target).await;
    stage
}

/// A start is refused with code 6, names cause and way out, and neither side was touched.
async fn assert_refused(stage: &Stage, words: &[&str]) {
    let tables = "SELECT string_agg(table_name, ' ' ORDER BY table_name) \
                  FROM information_schema.tables WHERE table_schema = 'public'";
    let before = text(&stage.target, tables).await.unwrap();
    let ran = stage
        .run(&["run", "FILE", "--until", "caught-up"])
        .await
        .expect(6);
    for word in ["Effect", "Do first", "target.existing"]
        .iter()
        .chain(words)
    {
        assert!(ran.stderr.contains(word), "{word} in\n{}", ran.stderr);
    }
    stage.assert_nothing_on_the_source().await;
    assert_eq!(text(&stage.target, tables).await.unwrap(), before);
    if before.contains("full") {
        let rows = "SELECT count(*) || ' ' || min(v) FROM \"full\"";
        assert_eq!(text(&stage.target, rows).await.unwrap(), "10 of the target");
    }
    // `check` says the same before anything is begun.
    let checked = stage.run(&["check", "FILE"]).await.expect(3);
    assert!(checked.stdout.contains(words[0]), "{}", checked.stdout);
}

/// All tables are the source's, after the load and after changes.
async fn assert_loads(stage: &Stage) {
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.source_sql(CHANGES).await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_empty_tables_are_loaded_and_others_refused() {
    let refused = stage("existing_default", "", &format!("{EMPTY}{FULL}")).await;
    assert_refused(&refused, &["TM2037", "public.full has rows"]).await;
    let loads = stage("existing_default_empty", "", EMPTY).await;
    assert_loads(&loads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_refuses_any_table_that_is_there() {
    let refused = stage("existing_fail", "fail", EMPTY).await;
    assert_refused(&refused, &["TM2036", "public.empty exists"]).await;
    let loads = stage("existing_fail_none", "fail", "").await;
    assert_loads(&loads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn append_if_empty_wants_tables_that_are_there_and_empty() {
    let missing = stage("existing_append", "append_if_empty", EMPTY).await;
    assert_refused(&missing, &["TM2038", "is not there"]).await;
    let full = stage(
        "existing_append_full",
        "append_if_empty",
        &format!("{EMPTY}{FULL}"),
    )
    .await;
    full.target_sql("CREATE TABLE missing (id int PRIMARY KEY, v text)")
        .await;
    assert_refused(&full, &["TM2037", "public.full has rows"]).await;
    full.target_sql("TRUNCATE \"full\"").await;
    assert_loads(&full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_loaded_leaves_tables_that_have_rows_and_follows_them() {
    // What is there is what a dump brought: the same rows, and one that only the target has.
    let there = "CREATE TABLE \"full\" (id int PRIMARY KEY, v text);
        INSERT INTO \"full\" SELECT i, 'of the source' FROM generate_series(1, 50) i;
        INSERT INTO \"full\" VALUES (-1, 'of the target');";
    let stage = stage("existing_skip", "skip_loaded", &format!("{EMPTY}{there}")).await;
    stage.catch_up().await;
    let rows = "SELECT count(*) FROM \"full\"";
    assert_eq!(
        text(&stage.target, rows).await.unwrap(),
        "51",
        "left as it was"
    );
    stage.source_sql(CHANGES).await;
    stage.catch_up().await;
    stage.target_sql("DELETE FROM \"full\" WHERE id = -1").await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// As a dump of the source's definitions has made it: what is done to a table is not done to those that
/// inherit from it, whose rows may have the same keys.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_table_that_inherits_from_another_are_left_alone() {
    const FAMILY: &str = "CREATE TABLE parent (id int PRIMARY KEY, v text);
        CREATE TABLE child (PRIMARY KEY (id), n int) INHERITS (parent);
        CREATE TABLE bag (id int, v text); ALTER TABLE bag REPLICA IDENTITY FULL;
        CREATE TABLE sack () INHERITS (bag); ALTER TABLE sack REPLICA IDENTITY FULL;";
    const ROWS: &str = "INSERT INTO parent SELECT i, 'parent' FROM generate_series(1, 100) i;
        INSERT INTO child SELECT i, 'child', i FROM generate_series(1, 100) i;
        INSERT INTO bag SELECT i, 'v' FROM generate_series(1, 100) i; INSERT INTO sack SELECT * FROM ONLY bag;";
    let stage = Stage::new("existing_family").await;
    stage.write("[target]\nexisting = \"truncate\"\n[verify]\nafter_load = \"off\"\n");
    stage.source_sql(FAMILY).await;
    stage.source_sql(ROWS).await;
    stage.target_sql(FAMILY).await;
    stage
        .target_sql("INSERT INTO parent VALUES (0, 'of the target')")
        .await;
    let run = stage.start_streaming().await;
    stage.assert_identical().await;
    for changes in [
        "UPDATE ONLY parent SET v = 'one' WHERE id = 1; DELETE FROM ONLY parent WHERE id = 2;
         UPDATE ONLY parent SET id = 1003 WHERE id = 3; UPDATE child SET v = 'one' WHERE id = 4",
        "UPDATE ONLY bag SET v = 'one' WHERE id = 1; DELETE FROM ONLY bag WHERE id = 2; DELETE FROM sack WHERE id = 3",
        "BEGIN; UPDATE ONLY parent SET v = 'many' WHERE id BETWEEN 10 AND 29;
         DELETE FROM ONLY parent WHERE id BETWEEN 30 AND 49; COMMIT",
        "BEGIN; UPDATE ONLY bag SET v = 'many' WHERE id BETWEEN 10 AND 29;
         DELETE FROM ONLY bag WHERE id BETWEEN 30 AND 49; COMMIT",
        "TRUNCATE ONLY bag",
        "BEGIN; INSERT INTO parent VALUES (2000, 'last'); TRUNCATE ONLY parent; INSERT INTO parent VALUES (1, 'anew'); COMMIT",
    ] {
        stage.source_sql(changes).await;
        stage.wait_until_identical().await;
    }
    // A load of one is none of the other either.
    let resync = [
        "resync",
        "FILE",
        "--table",
        "public.parent",
        "--strategy",
        "truncate",
        "--yes",
    ];
    stage.run(&resync).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_and_drop_put_the_sources_rows_in_the_place_of_others() {
    for existing in ["truncate", "drop"] {
        let name = format!("existing_{existing}");
        let stage = stage(&name, existing, &format!("{EMPTY}{FULL}")).await;
        // What only truncate keeps.
        stage
            .target_sql("CREATE INDEX of_the_target ON \"full\" (v)")
            .await;
        assert_loads(&stage).await;
        let kept = "SELECT count(*) FROM pg_indexes WHERE indexname = 'of_the_target'";
        let expected = if existing == "truncate" { "1" } else { "0" };
        assert_eq!(
            text(&stage.target, kept).await.unwrap(),
            expected,
            "{existing}"
        );
    }
}
