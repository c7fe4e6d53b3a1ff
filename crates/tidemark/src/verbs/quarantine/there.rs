//! Rows in quarantine as a server tells of them. A list has no values, so that nobody who only counts is
//! written down as one who looked; a server tells a viewer no keys either.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidemark_core::quarantine::{Cause, KeptChange, KeptRow, Key, is_one_of, rows_of};

use super::{Listed, Rows};
use crate::problem::Failure;
use crate::remote::There;
use crate::verbs::control::parse_table;

#[derive(Deserialize)]
struct Page {
    rows: Vec<Row>,
    next_cursor: Option<i64>,
}

#[derive(Deserialize)]
struct Row {
    number: i64,
    table: String,
    target: String,
    key: Option<String>,
    keys: Option<Vec<Key>>,
    changes: usize,
    position: String,
    since: String,
    cause: Option<Value>,
}

#[derive(Deserialize)]
struct Full {
    table: String,
    target: String,
    kept: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    number: i64,
    keys: Vec<Key>,
    op: String,
    xid: u32,
    position: String,
    since: String,
    cause: Option<Cause>,
    row: BTreeMap<String, Option<String>>,
}

/// Rows without values.
pub(super) async fn list(there: &There, rows: &Rows) -> Result<Vec<Listed>, Failure> {
    let found = find(there, rows).await?.into_iter();
    let listed = found.map(|row| Listed {
        table: row.table,
        target: row.target,
        key: row.key,
        keys: row.keys,
        changes: row.changes,
        position: row.position,
        since: row.since,
        cause: row.cause.unwrap_or_default(),
    });
    Ok(listed.collect())
}

/// Rows with values.
pub(super) async fn found(there: &There, rows: &Rows) -> Result<Vec<KeptRow>, Failure> {
    let mut changes = Vec::new();
    for row in find(there, rows).await? {
        let full = there.find(&format!("/quarantine/{}", row.number)).await?;
        // One that is not there any more was dealt with meanwhile.
        let Some(full) = full else { continue };
        let full: Full = read(there, full)?;
        let table = parse_table(&full.table).map_err(|why| there.server.strange(&why))?;
        changes.extend(full.kept.into_iter().map(|change| KeptChange {
            number: change.number,
            table: table.clone(),
            target: full.target.clone(),
            keys: change.keys,
            op: change.op,
            xid: change.xid,
            position: change.position,
            since: change.since,
            cause: change.cause,
            row: change.row,
        }));
    }
    changes.sort_by_key(|change| change.number);
    Ok(rows_of(changes))
}

async fn find(there: &There, rows: &Rows) -> Result<Vec<Row>, Failure> {
    let tables: Vec<String> = rows.tables.iter().map(ToString::to_string).collect();
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let more = cursor.map_or_else(String::new, |cursor: i64| format!("&cursor={cursor}"));
        let page = there.get(&format!("/quarantine?limit=500{more}")).await?;
        let page: Page = read(there, page)?;
        found.extend(page.rows);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    found.retain(|row| tables.is_empty() || tables.contains(&row.table));
    if let Some(key) = &rows.key {
        found.retain(|row| is_one_of(row.keys.as_deref().unwrap_or_default(), key));
    }
    Ok(found)
}

fn read<T: DeserializeOwned>(there: &There, value: Value) -> Result<T, Failure> {
    let read = serde_json::from_value(value);
    Ok(read.map_err(|err| there.server.strange(&err))?)
}
