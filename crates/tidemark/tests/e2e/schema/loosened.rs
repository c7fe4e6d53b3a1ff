//! What the source demands of rows no more, the target takes too; what only the target demands stays.

use crate::asks::{Locked, text};
use crate::stage::Stage;

const STATES: &str = "SELECT string_agg(DISTINCT state, ',') FROM tidemark.table_state";

const TABLES: &str = "\
    CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 20); \
    CREATE TABLE held (id int PRIMARY KEY, c int CONSTRAINT held_c CHECK (c < 100), \
        w int CONSTRAINT held_w CHECK (w < 100), u int CONSTRAINT held_u UNIQUE, x int, \
        n int NOT NULL DEFAULT 0, p int CONSTRAINT held_p REFERENCES parent ON DELETE CASCADE, \
        r int4range, CONSTRAINT held_r EXCLUDE USING gist (r WITH &&)); \
    CREATE UNIQUE INDEX held_x ON held (x); \
    INSERT INTO held SELECT i, i, i, i, i, 0, i, int4range(i, i + 1) FROM generate_series(1, 20) i; \
    CREATE TABLE keyed (id int PRIMARY KEY, v text); ALTER TABLE keyed REPLICA IDENTITY FULL; \
    INSERT INTO keyed SELECT i, 'row ' || i FROM generate_series(1, 20) i";

/// Each change alone, so that each row is the first that the target would refuse.
const LOOSER: [&str; 7] = [
    "ALTER TABLE held DROP CONSTRAINT held_c; INSERT INTO held (id, c) VALUES (30, 500)",
    "BEGIN; ALTER TABLE held DROP CONSTRAINT held_w; \
     ALTER TABLE held ADD CONSTRAINT held_w CHECK (w < 1000); \
     INSERT INTO held (id, w) VALUES (31, 500); COMMIT",
    "ALTER TABLE held DROP CONSTRAINT held_u; INSERT INTO held (id, u) VALUES (32, 5)",
    "DROP INDEX held_x; UPDATE held SET x = 6 WHERE id < 9",
    "ALTER TABLE held DROP CONSTRAINT held_r; INSERT INTO held (id, r) VALUES (33, '[1,9)')",
    "ALTER TABLE held ALTER n DROP NOT NULL; INSERT INTO held (id, n) VALUES (34, NULL)",
    "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey; INSERT INTO keyed VALUES (5, 'twice'); \
     UPDATE keyed SET v = 'changed' WHERE v = 'row 5'; DELETE FROM keyed WHERE id = 9",
];

/// A person's own, on the target alone.
const OWN: &str = "ALTER TABLE held ADD CONSTRAINT held_own CHECK (id > 0); \
    CREATE UNIQUE INDEX held_own_x ON held (x, id)";

const CONSTRAINTS: &str = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint \
    WHERE conrelid = 'held'::regclass AND contype IN ('c', 'u', 'x', 'f')";

/// As the default policy and as `apply`.
async fn followed(name: &str, policy: &str) {
    let stage = Stage::new(name).await;
    stage.source_sql(TABLES).await;
    stage.write(&format!("{policy}[verify]\nafter_load = \"off\"\n"));
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage.target_sql(OWN).await;
    for looser in LOOSER {
        stage.source_sql(looser).await;
        stage.wait_until_identical().await;
        assert_eq!(
            text(&stage.target, STATES).await.unwrap(),
            "streaming",
            "{looser}"
        );
    }
    assert!(
        stage
            .log()
            .contains("constraint held_c is gone on the source"),
        "{}",
        stage.log()
    );
    // Nothing is refused for it: both sides are looked at all the same.
    stage
        .source_sql("ALTER TABLE held DROP CONSTRAINT held_p")
        .await;
    stage.wait_for_target(CONSTRAINTS, "held_own").await;
    let index = "SELECT to_regclass('held_own_x') IS NOT NULL";
    assert_eq!(text(&stage.target, index).await.unwrap(), "t");
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_what_the_source_demands_no_more_stops_no_table() {
    followed("schema_looser", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_what_the_source_demands_no_more_is_followed_by_apply() {
    followed(
        "schema_looser_apply",
        "[target]\non_schema_change = \"apply\"\n",
    )
    .await;
}

/// The log has the row long before the next run looks at the catalog; and one that was refused alone is
/// taken by itself.
#[tokio::test(flavor = "multi_thread")]
async fn f22_rows_that_are_refused_one_by_one_come_in_once_the_target_demands_no_more() {
    let stage = Stage::new("schema_looser_rows").await;
    stage.source_sql(TABLES).await;
    let mood = "CREATE TYPE mood AS ENUM ('sad', 'happy'); \
                CREATE TABLE felt (id int PRIMARY KEY, m mood); INSERT INTO felt VALUES (1, 'sad')";
    stage.source_sql(mood).await;
    stage.write("[stream]\non_row_error = \"quarantine_row\"\n[verify]\nafter_load = \"off\"\n");
    stage.catch_up().await;
    stage.source_sql(LOOSER[0]).await;
    stage.catch_up().await;
    stage.assert_identical().await;
    let run = stage.start_streaming().await;
    stage.source_sql(LOOSER[2]).await;
    let grown = "ALTER TYPE mood ADD VALUE 'so so'";
    stage.source_sql(grown).await;
    stage.source_sql("UPDATE felt SET m = 'so so'").await;
    stage
        .source_sql("UPDATE held SET c = 7 WHERE id = 32")
        .await;
    stage.wait_until_identical().await;
    let kept = "SELECT count(*) FROM tidemark.quarantine";
    stage.wait_for_target(kept, "0").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Somebody reads for long what is to be changed: everything else goes on, and the change comes when it can.
#[tokio::test(flavor = "multi_thread")]
async fn f22_f44_a_reader_of_the_target_holds_up_no_other_table() {
    let stage = Stage::new("schema_looser_read").await;
    stage.source_sql(TABLES).await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let mut run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    let reader = stage.target_server.client_to(&stage.target_name).await;
    let reader = reader.unwrap();
    let read = "BEGIN; SELECT count(*) FROM held";
    reader.batch_execute(read).await.unwrap();
    stage
        .source_sql("ALTER TABLE held DROP CONSTRAINT held_c")
        .await;
    // We have asked for the table, and been refused: a look that comes after knows of it still.
    let asked = "SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid) \
                 WHERE NOT granted AND mode = 'AccessExclusiveLock' AND datname = current_database()";
    for _ in 0..2 {
        stage.wait_for_target(asked, "t").await;
        stage.wait_for_target(asked, "f").await;
    }
    let written = "INSERT INTO keyed VALUES (100, 'new'); INSERT INTO held (id) VALUES (100)";
    stage.source_sql(written).await;
    stage.wait_until_identical().await;
    let log = stage.log();
    assert!(!log.contains("lock not granted"), "{log}");
    reader.batch_execute("COMMIT").await.unwrap();
    let there = "SELECT count(*) FROM pg_constraint WHERE conname = 'held_c'";
    stage.wait_for_target(there, "0").await;

    // Nothing is said to be done before it is.
    let held = Locked::table(&stage, "keyed IN ACCESS SHARE MODE").await;
    let added = "ALTER TABLE keyed ADD more int; UPDATE keyed SET more = 1 WHERE id = 100";
    stage.source_sql(added).await;
    held.wait_for_waiter().await;
    let done = "column more added: done on the target too";
    assert!(!stage.log().contains(done), "{}", stage.log());
    held.release().await;
    stage.wait_until_identical().await;
    run.wait_for_log(done).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A pipeline that leaves the target's shape alone leaves its constraints alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_demands_no_more_stays_where_the_policy_says_so() {
    let stage = Stage::new("schema_looser_kept").await;
    stage.source_sql(TABLES).await;
    stage.write("[target]\non_schema_change = \"ignore\"\n[verify]\nafter_load = \"off\"\n");
    let run = stage.start_streaming().await;
    stage.source_sql(LOOSER[0]).await;
    stage.wait_for_table("public.held", "quarantined").await;
    let there = "SELECT count(*) FROM pg_constraint WHERE conname = 'held_c'";
    assert_eq!(text(&stage.target, there).await.unwrap(), "1");
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
