//! How the log tells rows apart: by a key, an index, the whole old row, or not at all; tables without
//! a key exactly once, whatever is killed; and keys that change under large values that do not.

use tidemark_lab::traffic::{Ending, Pace, Script, Traffic, Workload};
use tidemark_lab::{Random, wait_for};

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

/// The same changes to tables that are told apart in different ways. `bag` has no key and many equal
/// rows; `whole` has a key and whole old rows; `toast` has large values that most updates leave alone.
#[derive(Clone, Copy)]
struct Identities;

impl Workload for Identities {
    fn setup(&self) -> String {
        "CREATE TABLE by_key (id int PRIMARY KEY, n int, v text);
         CREATE TABLE by_index (id int, n int NOT NULL, v text); CREATE UNIQUE INDEX by_index_n ON by_index (n);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_n;
         CREATE TABLE whole (id int PRIMARY KEY, n int, v text); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE bag (id int, n int, v text); ALTER TABLE bag REPLICA IDENTITY FULL;
         CREATE TABLE toast (id int PRIMARY KEY, n int, v text, big text, other text);
         ALTER TABLE toast ALTER big SET STORAGE EXTERNAL; ALTER TABLE toast ALTER other SET STORAGE EXTERNAL;
         INSERT INTO by_key SELECT i, i, 'v' FROM generate_series(1, 2000) i;
         INSERT INTO by_index SELECT i % 7, i, 'v' FROM generate_series(1, 2000) i;
         INSERT INTO whole SELECT i, i, NULL FROM generate_series(1, 2000) i;
         INSERT INTO bag SELECT i % 5, NULL, 'v' FROM generate_series(1, 2000) i;
         INSERT INTO toast SELECT i, i, 'v', repeat(md5(i::text), 100), repeat(md5((-i)::text), 80)
           FROM generate_series(1, 2000) i; ANALYZE;"
            .to_owned()
    }

    fn transaction(&self, _writer: usize, random: &mut Random) -> Script {
        let (a, b, new) = (
            1 + random.below(2000),
            1 + random.below(2000),
            10_000 + random.below(1_000_000),
        );
        let sql = match random.below(6) {
            0 => format!(
                "UPDATE by_key SET id = {new} WHERE id = {a} AND NOT EXISTS (SELECT FROM by_key WHERE id = {new});
                 UPDATE by_index SET n = {new} WHERE n = {a} AND NOT EXISTS (SELECT FROM by_index WHERE n = {new});
                 UPDATE whole SET id = {new} WHERE id = {a} AND NOT EXISTS (SELECT FROM whole WHERE id = {new});"
            ),
            // Moved far away, to a near place, and back, the large values left alone.
            1 => format!(
                "UPDATE toast SET id = {new} WHERE id = {a} AND NOT EXISTS (SELECT FROM toast WHERE id = {new});
                 UPDATE toast SET id = {a}, n = -n WHERE id = {b} AND NOT EXISTS (SELECT FROM toast WHERE id = {a});"
            ),
            2 => format!(
                "UPDATE toast SET big = repeat('{new}', 900) WHERE id = {a}; UPDATE toast SET n = {new} WHERE id = {b};
                 UPDATE toast SET other = NULL WHERE id = {new};"
            ),
            3 => format!(
                "INSERT INTO bag SELECT {} % 5, NULL, 'v' FROM generate_series(1, 3);
                 DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE id = {} % 5 LIMIT 2);
                 UPDATE bag SET n = {} WHERE ctid IN (SELECT ctid FROM bag WHERE n IS NULL LIMIT 1);",
                a, b, a % 3
            ),
            4 => format!(
                "DELETE FROM by_key WHERE id = {a}; INSERT INTO by_key VALUES ({a}, {b}, 'again');
                 DELETE FROM whole WHERE id = {b}; DELETE FROM by_index WHERE n = {b};
                 INSERT INTO by_index VALUES (1, {b}, 'again') ON CONFLICT DO NOTHING;"
            ),
            _ => format!(
                "UPDATE by_key SET v = v || '+' WHERE id = {a}; UPDATE by_index SET v = 'w' WHERE n = {b};
                 UPDATE whole SET v = coalesce(v, '') || 'x' WHERE id = {a};"
            ),
        };
        let sql = format!("BEGIN; {sql} COMMIT");
        let ending = Ending::Commit;
        Script { sql, ending }
    }
}

async fn busy(traffic: &Traffic, more: u64) {
    let before = traffic.report().committed;
    wait_for(PATIENCE, "the writers to be busy", || async {
        Ok((traffic.report().committed >= before + more).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_identity_is_followed_exactly_once_across_kills() {
    let stage = Stage::new("identity_kills").await;
    // Ranges of `toast` are loaded at different instants when the load is killed.
    stage.write(
        "[load]\nchunk_size = \"1 MB\"\nparallel_chunks = 1\nmax_source_rows_per_second = 4000\n",
    );
    let config = stage.source_config();
    Traffic::set_up(&config, &Identities).await.unwrap();
    let traffic = Traffic::start(&config, &Identities, Pace::at(200.0, 401));
    for units in [1, 3, 5] {
        let run = stage.start(&["run", "FILE"]);
        wait_for(PATIENCE, "a part of the load", || async {
            let loaded = "SELECT count(*) FROM tidemark.unit WHERE is_loaded";
            let loaded: i64 = stage.target.query_one(loaded, &[]).await?.get(0);
            Ok((loaded >= units).then_some(()))
        })
        .await
        .unwrap();
        busy(&traffic, 20).await;
        run.kill9().await;
    }
    // Then in the stream, at moments that the traffic chooses.
    for more in [30, 5, 60, 15, 100, 1] {
        let run = stage.start_streaming().await;
        busy(&traffic, more).await;
        run.kill9().await;
    }
    let run = stage.start_streaming().await;
    traffic.stop().await.unwrap();
    stage.wait_until_identical().await;
    stage.verify_identical().await;
    let conflicts = "SELECT count(*) FROM tidemark.parked";
    assert_eq!(text(&stage.target, conflicts).await.unwrap(), "0");
    let status = stage.status().await;
    assert_eq!(status["totals"]["conflicts"], 0, "{status}");
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Without an identity the source itself refuses what the log could not tell.
#[tokio::test(flavor = "multi_thread")]
async fn f23_a_table_without_identity_follows_inserts_and_its_updates_are_refused_by_the_source() {
    let stage = Stage::new("identity_nothing").await;
    let tables = "CREATE TABLE logs (at int PRIMARY KEY, v text); ALTER TABLE logs REPLICA IDENTITY NOTHING;
        CREATE TABLE plain (at int, v text); INSERT INTO logs VALUES (1, 'a'); INSERT INTO plain VALUES (1, 'a');";
    stage.source_sql(tables).await;
    let checked = stage.run(&["check", "FILE", "--json"]).await;
    let said = checked.stdout.clone();
    assert!(said.contains("TM1038") && said.contains("TM1031"), "{said}");
    let run = stage.start_streaming().await;
    stage.source_sql("INSERT INTO logs VALUES (2, 'b'), (3, 'c'); INSERT INTO plain VALUES (1, 'a'), (1, 'a')").await;
    stage.wait_until_identical().await;
    for refused in [
        "UPDATE logs SET v = 'x'",
        "DELETE FROM plain",
        "DELETE FROM logs WHERE at = 1",
    ] {
        let error = stage.source.batch_execute(refused).await.unwrap_err();
        let said = error.as_db_error().unwrap().message().to_owned();
        assert!(said.contains("does not have a replica identity"), "{said}");
    }
    // From here on the log has whole rows.
    let full = "ALTER TABLE logs REPLICA IDENTITY FULL; ALTER TABLE plain REPLICA IDENTITY FULL;";
    stage.source_sql(full).await;
    stage.source_sql("UPDATE logs SET v = v || 'x' WHERE at > 1; DELETE FROM plain WHERE ctid IN (SELECT ctid FROM plain LIMIT 1); \
        INSERT INTO plain VALUES (9, NULL); UPDATE plain SET v = 'set' WHERE at = 9; TRUNCATE logs; INSERT INTO logs VALUES (7, 'z')").await;
    stage.wait_until_identical().await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_an_identity_that_changes_while_it_streams_is_followed() {
    let stage = Stage::new("identity_changes").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL UNIQUE, v text, big text);
        ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
        INSERT INTO t SELECT i, -i, 'v', repeat(md5(i::text), 100) FROM generate_series(1, 50) i;";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    for (identity, round) in [("FULL", 1), ("DEFAULT", 2), ("FULL", 3), ("DEFAULT", 4)] {
        let changes = format!(
            "ALTER TABLE t REPLICA IDENTITY {identity};
             UPDATE t SET v = v || '{round}' WHERE id % 3 = 0; DELETE FROM t WHERE id = {round};
             UPDATE t SET n = n - 1000 * {round} WHERE id % 5 = 0;
             UPDATE t SET id = id + 1000 WHERE id = 10 * {round};
             INSERT INTO t VALUES ({round}, {round}, 'new', 'small');"
        );
        stage.source_sql(&changes).await;
        if round == 2 {
            // What follows comes in another batch.
            stage.wait_until_identical().await;
        }
    }
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    // Also over a start.
    let more = "ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET v = 'last' WHERE id > 40";
    stage.source_sql(more).await;
    stage.catch_up().await;
    stage.assert_identical().await;

    // By another index: the log does not have the primary key any more, and rows are found by what it has.
    let run = stage.start_streaming().await;
    let other =
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_n_key; UPDATE t SET n = 9 WHERE id = 45";
    stage.source_sql(other).await;
    stage.wait_until_identical().await;
    let more = "UPDATE t SET n = 10 WHERE id = 45; UPDATE t SET id = 46000 WHERE id = 46; DELETE FROM t WHERE id = 47";
    stage.source_sql(more).await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// An index may keep apart what the collation of its column calls equal.
#[tokio::test(flavor = "multi_thread")]
async fn f23_rows_are_told_apart_by_the_collation_of_the_index() {
    let stage = Stage::new("identity_collation").await;
    let table = "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE t (name text COLLATE any_case NOT NULL, v text); CREATE UNIQUE INDEX t_name ON t (name COLLATE \"C\");
        ALTER TABLE t REPLICA IDENTITY USING INDEX t_name;
        INSERT INTO t SELECT n || i, 'v' FROM generate_series(1, 50) i, (VALUES ('a'), ('A')) AS v (n)";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    for changes in [
        "UPDATE t SET v = 'one' WHERE name COLLATE \"C\" = 'a1'; DELETE FROM t WHERE name COLLATE \"C\" = 'A2'",
        "UPDATE t SET name = 'b3' WHERE name COLLATE \"C\" = 'a3'",
        "BEGIN; UPDATE t SET v = 'many' WHERE name COLLATE \"C\" ~ '^A1.'; DELETE FROM t WHERE name COLLATE \"C\" ~ '^a2.'; COMMIT",
        "BEGIN; UPDATE t SET name = 'b' || name WHERE name COLLATE \"C\" ~ '^A3.';
         INSERT INTO t SELECT 'B' || name, v FROM t WHERE name COLLATE \"C\" ~ '^bA3.'; COMMIT",
    ] {
        stage.source_sql(changes).await;
        stage.wait_until_identical().await;
    }
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Where the log has whole old rows it does not tell by which key the source keeps them apart, if by any.
#[tokio::test(flavor = "multi_thread")]
async fn f23_rows_that_are_equal_once_a_primary_key_is_gone_do_not_overwrite_each_other() {
    let stage = Stage::new("identity_no_key").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL;
             INSERT INTO t SELECT i, 'v' FROM generate_series(1, 50) i",
        )
        .await;
    let run = stage.start_streaming().await;
    stage
        .source_sql("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (51, 'v')")
        .await;
    stage.wait_until_identical().await;
    stage
        .source_sql(
            "INSERT INTO t SELECT id, 'again' FROM t WHERE id <= 10; DELETE FROM t WHERE id = 20",
        )
        .await;
    // The target's key refuses the second row of an id, and goes, since the source has it no more.
    stage.wait_until_identical().await;
    stage
        .source_sql(
            "DELETE FROM t WHERE v = 'again'; ALTER TABLE t ADD PRIMARY KEY (id);
             UPDATE t SET v = 'w' WHERE id < 20; UPDATE t SET id = id + 100 WHERE id > 40",
        )
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
