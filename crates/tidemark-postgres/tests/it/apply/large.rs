//! Values that are too large to be copied: they go out from where they are, whichever way a change is
//! applied, and arrive as they were.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::ErrorKind;
use tidemark_core::batch::{Change, Item};
use tidemark_core::catalogue::codes;
use tidemark_core::event::{CellKind, Op};
use tidemark_core::mapping::TableMapping;
use tidemark_core::target::{Applier, Origin};

use super::rig::{Log, NULL, Old, Rig, UNCHANGED, table};
use crate::target::at;

/// A value of some megabytes, full of what a text form must escape, and different for each number.
fn large(number: usize) -> String {
    let piece = format!("{number}\\N\t\n\r\"{{}},\\x{number}é");
    piece.repeat((1 << 20) / piece.len() + 1 + number)
}

/// What the target has of a table: key, and length and sum of the values.
async fn found(rig: &Rig, table: &str) -> Vec<String> {
    let of = |column: &str| format!("coalesce(length({column}) || md5({column}), '-')");
    let (a, b) = (of("a"), of("b"));
    let sql =
        format!("SELECT id || ' ' || {a} || ' ' || {b} FROM {table} ORDER BY id COLLATE \"C\"");
    rig.rows(&sql).await
}

/// The same of rows that are expected there.
async fn expected(rig: &Rig, rows: &[(String, String, String)]) -> Vec<String> {
    let mut sums = HashMap::from([(NULL, "-".to_owned())]);
    for value in rows.iter().flat_map(|(_, a, b)| [a, b]) {
        if !sums.contains_key(value.as_str()) {
            let sql = format!("SELECT length(v) || md5(v) FROM (SELECT $v${value}$v$ AS v) AS x");
            sums.insert(value, rig.rows(&sql).await.concat());
        }
    }
    let of = |value: &String| &sums[value.as_str()];
    rows.iter()
        .map(|(id, a, b)| format!("{id} {} {}", of(a), of(b)))
        .collect()
}

fn row(id: usize, a: &str, b: &str) -> (String, String, String) {
    (format!("k{id:02}"), a.to_owned(), b.to_owned())
}

fn insert(log: &mut Log, table: &Arc<TableMapping>, row: &(String, String, String)) {
    log.insert(table, &[&row.0, &row.1, &row.2]);
}

fn insert_all(log: &mut Log, table: &Arc<TableMapping>, rows: &[(String, String, String)]) {
    for row in rows {
        insert(log, table, row);
    }
}

/// One value many times over, so that a gigabyte takes a megabyte to show. The server ends a session that
/// sends it as much in one message: that the session goes on says that nothing was sent.
#[tokio::test]
async fn s04_a_row_that_no_message_holds_is_refused_before_it_is_sent() {
    const VALUE_BYTES: usize = 1 << 20;
    const VALUES: usize = (1 << 30) / VALUE_BYTES;
    let mut columns = vec!["id*".to_owned()];
    columns.extend((0..VALUES).map(|number| format!("c{number}")));
    let made = columns[1..].join(" text, ");
    let mut rig = Rig::new(&format!(
        "CREATE TABLE t (id text PRIMARY KEY, {made} text)"
    ))
    .await;
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let t = Arc::new(table("t", &columns));
    let wide = |values: usize| {
        let mut batch = Log::new().batch;
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        let begin = batch.begin_row();
        batch.push_cell(CellKind::Text, b"k");
        for place in 0..VALUES {
            if place < values {
                batch.push_large(value.clone());
            } else {
                batch.push_cell(CellKind::Null, b"");
            }
        }
        let change = Change {
            table: batch.table(&t),
            op: Op::Insert,
            old: None,
            new: Some(batch.end_row(begin)),
        };
        batch.push(Item::Change(change));
        batch
    };
    let refused = rig.apply(&wide(VALUES)).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.code()),
        (ErrorKind::Data, codes::TARGET_VALUE)
    );
    assert_eq!(
        refused.table_name(),
        Some("public.t"),
        "it is set aside alone"
    );
    rig.apply(&wide(2)).await.unwrap();
    let found = "SELECT count(*) || ' ' || sum(length(c0) + length(c1)) || ' ' || count(c2) FROM t";
    assert_eq!(rig.rows(found).await, [format!("1 {} 0", 2 * VALUE_BYTES)]);
}

#[tokio::test]
async fn few_rows_are_sent_from_where_they_are() {
    let mut rig = Rig::new("CREATE TABLE t (id text PRIMARY KEY, a text, b text)").await;
    let t = Arc::new(table("t", &["id*", "a", "b"]));
    let mut log = Log::new();
    let (one, two) = (large(1), large(2));
    insert(&mut log, &t, &row(1, &one, &two));
    insert(&mut log, &t, &row(2, NULL, &one));
    insert(&mut log, &t, &row(3, "", ""));
    rig.apply(&log.batch).await.unwrap();
    let rows = [row(1, &one, &two), row(2, NULL, &one), row(3, "", "")];
    let wanted = expected(&rig, &rows).await;
    assert_eq!(found(&rig, "t").await, wanted);

    let mut log = Log::new();
    log.update(&t, &["k01", UNCHANGED, "small"]);
    log.update(&t, &["k02", &two, UNCHANGED]);
    log.replace(&t, (Old::Key, &["k03", NULL, NULL]), &["k04", &two, &one]);
    rig.apply(&log.batch).await.unwrap();
    let rows = [
        row(1, &one, "small"),
        row(2, &two, &one),
        row(4, &two, &one),
    ];
    let wanted = expected(&rig, &rows).await;
    assert_eq!(found(&rig, "t").await, wanted);
}

#[tokio::test]
async fn many_rows_are_copied_in_slices_and_updated_one_by_one() {
    let mut rig = Rig::new("CREATE TABLE t (id text PRIMARY KEY, a text, b text)").await;
    let t = Arc::new(table("t", &["id*", "a", "b"]));
    let values: Vec<String> = (0..3).map(large).collect();
    let value = |id: usize| {
        let large = values.get(id % 10).map(String::as_str);
        large.unwrap_or("small")
    };
    let mut rows: Vec<_> = (0..12)
        .map(|id| row(id, value(id), value(id + 1)))
        .collect();
    let mut log = Log::new();
    insert_all(&mut log, &t, &rows);
    let applied = rig.apply(&log.batch).await.unwrap();
    assert_eq!(applied.inserts, 12);
    let wanted = expected(&rig, &rows).await;
    assert_eq!(found(&rig, "t").await, wanted);

    // All at once: updates, deletes, and rows that come.
    let mut log = Log::new();
    for (id, row) in rows.iter_mut().enumerate().take(10) {
        row.1 = value(id + 2).to_owned();
        log.update(&t, &[&row.0, &row.1, UNCHANGED]);
    }
    for row in rows.drain(10..) {
        log.delete(&t, (Old::Key, &[&row.0, NULL, NULL]));
    }
    for id in 20..30 {
        rows.push(row(id, value(id), NULL));
        insert(&mut log, &t, rows.last().unwrap());
    }
    let applied = rig.apply(&log.batch).await.unwrap();
    assert_eq!((applied.updates, applied.deletes), (10, 2));
    assert_eq!(applied.conflicts, [], "every row was found");
    let wanted = expected(&rig, &rows).await;
    assert_eq!(found(&rig, "t").await, wanted);
}

/// A row that is there already makes the server refuse the COPY in the middle of a value; the rows
/// are applied one by one then.
#[tokio::test]
async fn what_is_refused_in_slices_is_applied_row_by_row() {
    let mut rig = Rig::new("CREATE TABLE t (id text PRIMARY KEY, a text, b text)").await;
    rig.database
        .run("INSERT INTO t VALUES ('k05', 'there', 'before')")
        .await;
    let t = Arc::new(table("t", &["id*", "a", "b"]));
    let value = large(1);
    let rows: Vec<_> = (0..10).map(|id| row(id, &value, "b")).collect();
    let mut log = Log::new();
    insert_all(&mut log, &t, &rows);
    rig.apply(&log.batch).await.unwrap();
    let wanted = expected(&rig, &rows).await;
    assert_eq!(found(&rig, "t").await, wanted);
}

#[tokio::test]
async fn without_a_key_and_put_aside_they_arrive_too() {
    let mut rig = Rig::new("CREATE TABLE t (id text, a text, b text)").await;
    let t = Arc::new(table("t", &["id", "a", "b"]));
    let (one, two) = (large(1), large(2));
    let rows: Vec<_> = (0..12)
        .map(|id| match id {
            0 | 10 => row(id, &one, NULL),
            _ => row(id, "a", if id == 3 { &two } else { "b" }),
        })
        .collect();
    let mut log = Log::new();
    insert_all(&mut log, &t, &rows);
    let origin = Origin {
        xid: 7,
        commit: at(0x10_0000),
    };
    rig.applier.begin().await.unwrap();
    rig.applier.park(&log.batch, origin).await.unwrap();
    rig.commit().await.unwrap();
    rig.applier.begin().await.unwrap();
    let parked = rig.applier.unpark(&t, 1 << 30).await.unwrap();
    for (_, batch) in parked.unwrap().batches {
        rig.applier.apply(&batch).await.unwrap();
    }
    rig.commit().await.unwrap();
    let wanted = expected(&rig, &rows).await;
    assert_eq!(found(&rig, "t").await, wanted);

    let mut log = Log::new();
    for (id, a, b) in &rows[..10] {
        log.delete(&t, (Old::Full, &[id, a, b]));
    }
    log.replace(&t, (Old::Full, &["k10", &one, NULL]), &["k10", &two, &two]);
    rig.apply(&log.batch).await.unwrap();
    let wanted = expected(&rig, &[row(10, &two, &two), row(11, "a", "b")]).await;
    assert_eq!(found(&rig, "t").await, wanted);
}
