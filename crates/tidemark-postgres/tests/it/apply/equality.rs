//! Values that are equal and not the same, rows that are told apart by less than they look, and values
//! that change hands within one statement.

use std::sync::Arc;

use tidemark_core::filter::Filter;

use super::rig::{Log, NULL, Old, Rig, UNCHANGED, table};

/// A batch of one change in a flight of its own, and one that is large enough for sets.
const FEW_AND_MANY: [u32; 2] = [1, 40];

/// `1.0` and `1.00` are one key. Behind a filter the new key's place is made free first, which must not
/// be the row itself: its large value is in no change.
#[tokio::test]
async fn a_key_that_changes_to_an_equal_one_keeps_its_row() {
    for count in FEW_AND_MANY {
        for is_filtered in [false, true] {
            let mut rig = Rig::new(
                "CREATE TABLE t (id numeric PRIMARY KEY, note text, large text);
                 INSERT INTO t SELECT i + 0.0, 'old', 'large' || i FROM generate_series(1, 40) i",
            )
            .await;
            let mut t = table("t", &["id*", "note", "large"]);
            if is_filtered {
                t.filter = Some(Filter::bind("note is not null", &t.schema).unwrap());
            }
            let t = Arc::new(t);
            let mut log = Log::new();
            for id in 1..=count {
                let (old, new) = (format!("{id}.0"), format!("{id}.00"));
                let old: &[&str] = &[&old, NULL, NULL];
                log.replace(&t, (Old::Key, old), &[&new, "moved", UNCHANGED]);
            }
            let applied = rig.apply(&log.batch).await.unwrap();
            assert_eq!(applied.conflicts, []);
            let moved = "SELECT count(*), count(*) FILTER (WHERE large = 'large' || trunc(id)), \
                         min(id), max(scale(id)) FROM t WHERE note = 'moved'";
            assert_eq!(rig.rows(moved).await, [format!("{count}|{count}|1.00|2")]);
        }
    }
}

/// There and back again is no row that came and went.
#[tokio::test]
async fn a_key_that_changes_to_an_equal_one_and_back_meets_its_row() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id numeric PRIMARY KEY, note text);
             INSERT INTO t SELECT i + 0.0, 'old' FROM generate_series(1, 40) i",
        )
        .await;
        let t = Arc::new(table("t", &["id*", "note"]));
        let mut log = Log::new();
        for id in 1..=count {
            let (here, there) = (format!("{id}.0"), format!("{id}.00"));
            log.replace(&t, (Old::Key, &[&here, NULL]), &[&there, "away"]);
            log.replace(&t, (Old::Key, &[&there, NULL]), &[&here, "back"]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let back = "SELECT count(*), max(scale(id)) FROM t WHERE note = 'back'";
        assert_eq!(rig.rows(back).await, [format!("{count}|1")]);
    }
}

/// A row without a key is the one that looks the same, not one that is equal by its column's collation,
/// nor one whose composite value has no field that is not NULL.
#[tokio::test]
async fn a_row_without_a_key_is_told_from_those_that_are_only_equal() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(&format!(
            "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TYPE pair AS (a int, b int);
             CREATE TABLE t (name text COLLATE any_case, p pair);
             INSERT INTO t SELECT name, p FROM generate_series(1, {count}), \
               (VALUES ('A', '(,)'::pair), ('A', NULL), ('a', '(,)'), ('a', NULL)) AS v (name, p)"
        ))
        .await;
        let t = Arc::new(table("t", &["name", "p"]));
        let mut log = Log::new();
        for _ in 0..count {
            log.delete(&t, (Old::Full, &["a", NULL]));
            log.replace(&t, (Old::Full, &["a", "(,)"]), &["b", "(1,)"]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let left = "SELECT row || ' ' || count(*) FROM (SELECT name COLLATE \"C\" || ' ' || \
                    coalesce(p::text, 'NULL') AS row FROM t) AS r GROUP BY row ORDER BY row";
        let expected = ["A (,)", "A NULL", "b (1,)"].map(|row| format!("{row} {count}"));
        assert_eq!(rig.rows(left).await, expected);
    }
}

/// Spaces at the end mean nothing to `bpchar`, and are there all the same.
#[tokio::test]
async fn a_row_without_a_key_is_told_by_its_spaces() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(&format!(
            "CREATE TABLE t (b bpchar);
             INSERT INTO t SELECT b FROM generate_series(1, {count}), (VALUES ('a'), ('a '), (NULL)) AS v (b)"
        ))
        .await;
        let t = Arc::new(table("t", &["b"]));
        let mut log = Log::new();
        for _ in 0..count {
            log.delete(&t, (Old::Full, &["a "]));
            log.replace(&t, (Old::Full, &[NULL]), &[""]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let left =
            "SELECT octet_length(b) || ' ' || count(*) FROM t GROUP BY octet_length(b) ORDER BY 1";
        assert_eq!(
            rig.rows(left).await,
            [format!("0 {count}"), format!("1 {count}")]
        );
    }
}

/// `UPDATE t SET place = 3 - place` is legal under a deferrable constraint, deferred or not.
#[tokio::test]
async fn values_of_a_deferrable_constraint_change_hands_in_one_statement() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE);
             INSERT INTO t SELECT i, i FROM generate_series(1, 80) i",
        )
        .await;
        let t = Arc::new(table("t", &["id*", "place"]));
        let mut log = Log::new();
        for id in 1..=2 * count {
            let place = if id % 2 == 0 { id - 1 } else { id + 1 };
            log.update(&t, &[&id.to_string(), &place.to_string()]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let swapped = "SELECT count(*) FROM t WHERE place <> id";
        assert_eq!(rig.rows(swapped).await, [(2 * count).to_string()]);
    }
}
