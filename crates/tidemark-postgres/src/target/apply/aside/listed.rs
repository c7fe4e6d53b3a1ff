//! What is in quarantine, as a person is shown it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_core::Result;
use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::event::{CellKind, OldRow, Op};
use tidemark_core::mapping::TableMapping;
use tidemark_core::quarantine::{Cause, KeptChange, OnRowError};
use tidemark_core::schema::{TableName, TableSchema};

use super::unreadable;
use crate::target::apply::parked::from_hex;
use crate::target::apply::payload;
use crate::target::checkpoint::from_json;
use crate::wire::Connection;

/// What is in quarantine, for a person. An older or newer row that cannot be read is an error.
pub(in crate::target) async fn list(
    connection: &mut Connection,
    pipeline: &str,
) -> Result<Vec<KeptChange>> {
    let found = connection
        .query(
            "SELECT q.sequence, q.source_schema, q.source_name, q.keys::text, q.xid, \
                    q.commit_position, q.code, q.sqlstate, q.cause, \
                    to_char(q.since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
                    q.payload, coalesce(t.target_schema, q.source_schema), \
                    coalesce(t.target_name, q.source_name) \
             FROM tidemark.quarantine q \
             LEFT JOIN tidemark.table_state t USING (pipeline, source_schema, source_name) \
             WHERE q.pipeline = $1 ORDER BY q.sequence",
            &[Some(pipeline)],
        )
        .await?;
    let mut kept = Vec::with_capacity(found.rows.len());
    for row in &found.rows {
        let table = TableName::new(row.get_str(1)?, row.get_str(2)?);
        let payload = from_hex(row.get_str(10)?.as_bytes()).ok_or_else(|| unreadable(&table))?;
        let (_, batch) = payload::decode(&payload.into(), &any_mapping(&table), Arc::new)?;
        let Some(Item::Change(change)) = batch.items().first() else {
            return Err(unreadable(&table));
        };
        let cause = match row.opt_str(6)? {
            Some(code) => Some(Cause {
                code: code.to_owned(),
                sqlstate: row.opt_str(7)?.unwrap_or_default().to_owned(),
                text: from_json(row.opt_str(8)?.unwrap_or("\"\""))?,
            }),
            None => None,
        };
        kept.push(KeptChange {
            number: row.get(0)?,
            keys: from_json(row.get_str(3)?)?,
            op: match change.op {
                Op::Insert => "insert",
                Op::Update => "update",
                Op::Delete => "delete",
            }
            .to_owned(),
            xid: row.get(4)?,
            position: row.get_str(5)?.to_owned(),
            since: row.get_str(9)?.to_owned(),
            cause,
            row: cells(&batch, change),
            target: TableName::new(row.get_str(11)?, row.get_str(12)?).to_string(),
            table,
        });
    }
    Ok(kept)
}

/// The new row of a change, or what is known of the one that goes.
fn cells(batch: &Batch, change: &Change) -> BTreeMap<String, Option<String>> {
    let mapping = &batch.tables()[change.table];
    let Some(row) = change.new.or(change.old.map(OldRow::row)) else {
        return BTreeMap::new();
    };
    let is_key_alone = matches!((change.new, change.old), (None, Some(OldRow::Key(_))));
    let columns = mapping.columns.iter().zip(batch.row(row)).enumerate();
    columns
        .filter(|(at, _)| !is_key_alone || mapping.key.contains(at))
        .filter(|(_, (_, cell))| cell.kind != CellKind::Unchanged)
        .map(|(_, (column, cell))| {
            let text = || String::from_utf8_lossy(batch.value(*cell)).into_owned();
            let value = (cell.kind == CellKind::Text).then(text);
            (column.target.clone(), value)
        })
        .collect()
}

/// Changes describe themselves: what a table is like now does not matter for reading them.
fn any_mapping(table: &TableName) -> TableMapping {
    TableMapping {
        schema: TableSchema::bare(table.clone(), 0),
        target: table.clone(),
        columns: Vec::new(),
        key: Vec::new(),
        filter: None,
        on_row_error: OnRowError::default(),
    }
}
