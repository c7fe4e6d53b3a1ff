//! Changes put aside and taken back.

use std::sync::Arc;

use tidemark_core::catalogue::codes;
use tidemark_core::schema::TableName;
use tidemark_core::target::{Applier, Origin};

use super::rig::{Log, NULL, Old, Rig, UNCHANGED, table};
use crate::target::at;

const ROWS: &str = "SELECT id || '=' || coalesce(note, 'NULL') FROM t ORDER BY id";

fn origin(n: u32) -> Origin {
    Origin {
        xid: n,
        commit: at(u64::from(n) * 0x1000),
    }
}

#[tokio::test]
async fn parked_changes_come_back_in_order_and_once() {
    let mut rig = Rig::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text, large text);
         CREATE TABLE other (id int PRIMARY KEY)",
    )
    .await;
    let t = Arc::new(table("t", &["id*", "note", "large"]));
    let other = Arc::new(table("other", &["id*"]));
    // Each transaction applies to one table and parks the changes of another.
    for n in 1..=30_u32 {
        let mut applied = Log::new();
        applied.insert(&other, &[n.to_string()]);
        let mut aside = Log::new();
        match n {
            1 => (1..=20).for_each(|id| aside.insert(&t, &[&id.to_string(), "0", "large"])),
            30 => aside.delete(&t, (Old::Key, &["20", NULL, NULL])),
            _ => aside.update(&t, &["1", &n.to_string(), UNCHANGED]),
        }
        rig.applier.begin().await.unwrap();
        rig.applier.apply(&applied.batch).await.unwrap();
        rig.applier.park(&aside.batch, origin(n)).await.unwrap();
        rig.commit().await.unwrap();
    }
    assert_eq!(rig.rows("SELECT count(*) FROM t").await, ["0"]);
    assert_eq!(rig.rows("SELECT count(*) FROM other").await, ["30"]);

    // Taken out and given up: still there.
    rig.applier.begin().await.unwrap();
    let first = rig.applier.unpark(&t, 1).await.unwrap().unwrap();
    assert_eq!(first.batches.len(), 1);
    assert_eq!(first.batches[0].0, origin(1));
    rig.applier.rollback().await.unwrap();

    let mut seen = Vec::new();
    loop {
        rig.applier.begin().await.unwrap();
        let Some(parked) = rig.applier.unpark(&t, 500).await.unwrap() else {
            rig.applier.rollback().await.unwrap();
            break;
        };
        for (origin, batch) in &parked.batches {
            seen.push(origin.xid);
            let applied = rig.applier.apply(batch).await.unwrap();
            assert_eq!(applied.conflicts, []);
        }
        rig.commit().await.unwrap();
    }
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
    let rows = rig.rows(ROWS).await;
    assert_eq!(rows.len(), 19);
    assert_eq!(rows[0], "1=29");
    let whole = rig
        .rows("SELECT count(*) FROM t WHERE large = 'large'")
        .await;
    assert_eq!(whole, ["19"], "what the log left out was not lost");
}

#[tokio::test]
async fn parked_changes_go_with_their_transaction() {
    let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    let t = Arc::new(table("t", &["id*", "note"]));
    let mut log = Log::new();
    log.insert(&t, &["1", "x"]);
    rig.applier.begin().await.unwrap();
    rig.applier.park(&log.batch, origin(1)).await.unwrap();
    rig.applier.rollback().await.unwrap();
    // Too large to be held back.
    let mut large = Log::new();
    large.insert(&t, &["1", &"x".repeat(1 << 20)]);
    rig.applier.begin().await.unwrap();
    rig.applier.park(&large.batch, origin(2)).await.unwrap();
    rig.applier.rollback().await.unwrap();
    let count = rig.rows("SELECT count(*) FROM tidemark.parked").await;
    assert_eq!(count, ["0"]);
}

/// What was held back is applied when more comes in the same transaction, and told like everything else.
#[tokio::test]
async fn what_was_held_back_is_told_though_more_comes_than_can_be_held() {
    let mut rig = Rig::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text);
         CREATE TABLE other (id int PRIMARY KEY)",
    )
    .await;
    let t = Arc::new(table("t", &["id*", "note"]));
    let other = Arc::new(table("other", &["id*"]));
    for (n, aside) in [(1, "small".to_owned()), (2, "x".repeat(1 << 20))] {
        let mut log = Log::new();
        log.insert(&other, &[n.to_string()]);
        log.delete(&other, (Old::Key, &["99"]));
        let mut parked = Log::new();
        parked.insert(&t, &["1", &aside]);
        rig.applier.begin().await.unwrap();
        let early = rig.applier.apply(&log.batch).await.unwrap();
        assert_eq!((early.inserts, early.deletes), (0, 0), "held back");
        rig.applier.park(&parked.batch, origin(n)).await.unwrap();
        let applied = rig.commit().await.unwrap();
        assert_eq!((applied.inserts, applied.deletes), (1, 1));
        let missing = [(TableName::new("public", "other"), 1)];
        assert_eq!(applied.conflicts, missing, "row 99 was not there");
    }
    // What is given up is not told by the next one.
    rig.applier.begin().await.unwrap();
    let mut log = Log::new();
    log.insert(&other, &["3"]);
    rig.applier.apply(&log.batch).await.unwrap();
    let mut parked = Log::new();
    parked.insert(&t, &["1", &"x".repeat(1 << 20)]);
    rig.applier.park(&parked.batch, origin(3)).await.unwrap();
    rig.applier.rollback().await.unwrap();
    assert_eq!(rig.apply(&log.batch).await.unwrap().inserts, 1);
}

/// The table was given another column meanwhile: old rows are for the old columns.
#[tokio::test]
async fn parked_changes_know_their_own_columns() {
    let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    let before = Arc::new(table("t", &["id*", "note"]));
    let mut log = Log::new();
    log.insert(&before, &["1", "x"]);
    rig.applier.begin().await.unwrap();
    rig.applier.park(&log.batch, origin(1)).await.unwrap();
    rig.commit().await.unwrap();
    rig.database
        .run("ALTER TABLE t ADD added int DEFAULT 5")
        .await;
    let after = table("t", &["added", "id*", "note"]);
    rig.applier.begin().await.unwrap();
    let parked = rig.applier.unpark(&after, 1000).await.unwrap().unwrap();
    for (_, batch) in &parked.batches {
        rig.applier.apply(batch).await.unwrap();
    }
    rig.commit().await.unwrap();
    assert_eq!(rig.rows("SELECT * FROM t").await, ["1|x|5"]);
}

#[tokio::test]
async fn a_parked_change_that_somebody_damaged_stays_and_is_named() {
    let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    let t = Arc::new(table("t", &["id*", "note"]));
    let mut log = Log::new();
    log.insert(&t, &["1", "x"]);
    rig.applier.begin().await.unwrap();
    rig.applier.park(&log.batch, origin(1)).await.unwrap();
    rig.commit().await.unwrap();
    rig.database
        .run("UPDATE tidemark.parked SET payload = set_byte(payload, 0, 99)")
        .await;
    rig.applier.begin().await.unwrap();
    let error = rig.applier.unpark(&t, 1000).await.unwrap_err();
    assert_eq!(error.code(), codes::PARKED_UNREADABLE);
    assert_eq!(error.table_name(), Some("public.t"));
    let count = rig.rows("SELECT count(*) FROM tidemark.parked").await;
    assert_eq!(count, ["1"]);
}
