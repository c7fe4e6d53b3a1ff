//! Whole transactions: parts of a large one, what is undone, and who may commit.

use std::sync::Arc;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::schema::TableName;
use tidemark_core::target::Applier;

use super::rig::{Log, Old, Rig, table};
use crate::target::at;

const COUNT: &str = "SELECT count(*), count(DISTINCT id) FROM t";

#[tokio::test]
async fn a_transaction_larger_than_a_batch_becomes_visible_as_a_whole() {
    let mut rig = Rig::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text UNIQUE);
         INSERT INTO t VALUES (2500, 'stranger')",
    )
    .await;
    let t = Arc::new(table("t", &["id*", "note"]));
    rig.applier.begin().await.unwrap();
    let mut conflicts = Vec::new();
    // Small parts among large ones; the third meets a row that ought not to be there.
    for (part, size) in [1000, 3, 1000, 1, 1000].into_iter().enumerate() {
        let mut log = Log::new();
        for id in 0..size {
            let id = (part * 1000 + id + 500).to_string();
            log.insert(&t, &[&id, &format!("n{id}")]);
        }
        let applied = rig.applier.apply(&log.batch).await.unwrap();
        conflicts.extend(applied.conflicts);
        assert_eq!(rig.rows(COUNT).await, ["1|1"], "nobody sees a part");
    }
    rig.commit().await.unwrap();
    assert_eq!(conflicts, [(TableName::new("public", "t"), 1)]);
    assert_eq!(rig.rows(COUNT).await, ["3004|3004"]);
    assert_eq!(rig.checkpoint().await, rig.position());
    let overwritten = rig.rows("SELECT note FROM t WHERE id = 2500").await;
    assert_eq!(overwritten, ["n2500"]);
}

#[tokio::test]
async fn a_large_transaction_that_fails_late_leaves_nothing() {
    let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note text NOT NULL)").await;
    let t = Arc::new(table("t", &["id*", "note"]));
    rig.applier.begin().await.unwrap();
    for part in 0..3 {
        let mut log = Log::new();
        for id in 0..100 {
            log.insert(&t, &[&(part * 100 + id).to_string(), "x"]);
        }
        rig.applier.apply(&log.batch).await.unwrap();
    }
    let mut log = Log::new();
    log.insert(&t, &["1000", super::rig::NULL]);
    let error = rig.applier.apply(&log.batch).await.unwrap_err();
    assert_eq!(error.code(), codes::TARGET_NOT_NULL);
    assert_eq!(rig.rows(COUNT).await, ["0|0"]);
    let error = rig.applier.apply(&log.batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Definite, "the transaction is gone");
    let mut log = Log::new();
    log.insert(&t, &["1", "x"]);
    rig.apply(&log.batch).await.unwrap();
    assert_eq!(rig.rows(COUNT).await, ["1|1"]);
}

#[tokio::test]
async fn rollback_gives_up_what_was_held_and_what_was_sent() {
    let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    let t = Arc::new(table("t", &["id*", "note"]));
    for count in [1, 100] {
        let mut log = Log::new();
        for id in 0..count {
            log.insert(&t, &[&id.to_string(), "x"]);
        }
        rig.applier.begin().await.unwrap();
        rig.applier.apply(&log.batch).await.unwrap();
        rig.applier.rollback().await.unwrap();
        assert_eq!(rig.rows(COUNT).await, ["0|0"]);
    }
    rig.applier.begin().await.unwrap();
    rig.commit().await.unwrap();
    assert_eq!(
        rig.checkpoint().await,
        rig.position(),
        "an empty transaction moves on"
    );
}

#[tokio::test]
async fn a_zombie_commits_nothing() {
    for count in [1, 100] {
        let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
        let t = Arc::new(table("t", &["id*", "note"]));
        let mut log = Log::new();
        for id in 0..count {
            log.insert(&t, &[&id.to_string(), "x"]);
        }
        rig.database
            .run("UPDATE tidemark.checkpoint SET generation = 9, written_by = 9")
            .await;
        let error = rig.apply(&log.batch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Definite);
        assert_eq!(error.code(), codes::TARGET_FENCED);
        assert_eq!(rig.rows(COUNT).await, ["0|0"]);
        assert_eq!(rig.checkpoint().await, at(0x10_0000));
    }
}

/// All tables and shapes together need more statements than are kept prepared.
#[tokio::test]
async fn more_tables_than_statements_are_kept_for() {
    let mut rig = Rig::new(
        "DO $$ BEGIN FOR i IN 1..300 LOOP
             EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, note text)', i);
         END LOOP; END $$",
    )
    .await;
    let tables: Vec<_> = (1..=300)
        .map(|i| Arc::new(table(&format!("t{i}"), &["id*", "note"])))
        .collect();
    for round in 0..2 {
        for some in tables.chunks(10) {
            let mut log = Log::new();
            for t in some {
                let id = round.to_string();
                log.insert(t, &[id.as_str(), "a"]);
                log.update(t, &[id.as_str(), "b"]);
                log.delete(t, (Old::Key, &[id.as_str(), super::rig::NULL]));
            }
            let applied = rig.apply(&log.batch).await.unwrap();
            assert_eq!(applied.conflicts, []);
        }
    }
    let left = rig
        .rows("SELECT count(*) FROM pg_stat_user_tables WHERE n_live_tup > 0")
        .await;
    assert_eq!(left.len(), 1);
}
