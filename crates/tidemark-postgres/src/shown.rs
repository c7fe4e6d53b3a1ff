//! Whether a transaction's snapshot still shows the rows of a table.
//!
//! `TRUNCATE` and the forms of `ALTER TABLE` that rewrite a table are not MVCC-safe: a transaction
//! with an older snapshot that reads the table afterwards finds it empty (PostgreSQL 15, 13.6). A
//! load would take it for empty, and the log has nothing that brings the rows; a comparison would find
//! them missing. A table that another one has replaced since is told in the same way.
//!
//! It is told by the catalog: a query of `pg_class` shows a table's file as of the snapshot, while
//! `pg_relation_filenode()` tells the one that is read (it looks the table up as the executor does).
//! `VACUUM FULL` and `CLUSTER`, which are MVCC-safe, look alike; they cost another snapshot.

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;
use tidemark_core::{Context as _, Error, Result};

use crate::wire::{Connection, quote_qualified};

/// Files of the table, or of its partitions; one that came or went is told by their number. The name has
/// to mean the same table still: where two tables exchanged theirs, the rows of the other one would be read.
const SHOWS: &str = "WITH RECURSIVE named AS (SELECT to_regclass(format('%I.%I', $1::text, $2::text)) AS now), \
     seen AS ( \
       SELECT c.oid, c.relfilenode, c.relkind, c.oid = named.now AS is_meant FROM named, pg_class c \
       JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 \
       UNION ALL \
       SELECT c.oid, c.relfilenode, c.relkind, true FROM seen s \
       JOIN pg_inherits i ON i.inhparent = s.oid \
       JOIN pg_class c ON c.oid = i.inhrelid WHERE s.relkind = 'p') \
     SELECT bool_and(s.is_meant AND (s.relfilenode = 0 \
                     OR s.relfilenode IS NOT DISTINCT FROM pg_relation_filenode(s.oid))) \
       AND (bool_and(s.relkind <> 'p') OR count(*) = \
            (SELECT count(*) FROM named, pg_partition_tree(named.now))) \
     FROM seen s";

/// Makes sure, for the rest of the transaction, that its snapshot shows what the table held. The
/// error is transient: another snapshot shows it.
pub(crate) async fn must_show(connection: &mut Connection, table: &TableName) -> Result<()> {
    // Locks the table, with the rights that reading it needs and no more.
    let touch = format!(
        "SELECT FROM {} LIMIT 0",
        quote_qualified(&table.schema, &table.name)
    );
    connection
        .run(&touch)
        .await
        .context(|| format!("read {table}"))?;
    if shows(connection, table).await? {
        return Ok(());
    }
    let message = format!("{table} was emptied or rewritten after the snapshot was taken");
    Err(Error::transient(codes::TABLE_REWRITTEN, message))
}

/// Whether the transaction's snapshot shows what the table held. The answer is good for what the
/// transaction has read, and for as long as it keeps the table locked.
pub(crate) async fn shows(connection: &mut Connection, table: &TableName) -> Result<bool> {
    let set = connection
        .query(SHOWS, &[Some(&table.schema), Some(&table.name)])
        .await
        .context(|| format!("ask whether {table} is as it was"))?;
    Ok(set.one()?.opt_bool(0)? == Some(true))
}

/// Types of the columns of a table, and the numbers of the modifiers.
const TYPES: &str = "SELECT a.attname, a.atttypid, a.atttypmod FROM pg_attribute a \
     JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";

/// Makes sure that values are of the types that they were described with: the target would take those of
/// others for something else, or not at all. Nor may there be columns that are not read: the log brings
/// them with the first change that comes after, and what the rows held in them by then would be taken for
/// their default. The error is transient, as that of [`must_show`].
pub(crate) async fn must_be_as_described(
    connection: &mut Connection,
    mapping: &TableMapping,
) -> Result<()> {
    let table = mapping.source();
    let found = connection
        .query(TYPES, &[Some(&table.schema), Some(&table.name)])
        .await
        .context(|| format!("ask whether {table} is as it was"))?;
    for row in &found.rows {
        let (name, type_of) = (row.get_str(0)?, (row.get(1)?, row.get(2)?));
        let mut columns = mapping.schema.columns.iter();
        let is_as_described = match columns.position(|column| column.name == name) {
            None => false,
            Some(at) => {
                let column = &mapping.schema.columns[at];
                let is_carried = mapping.columns.iter().any(|carried| carried.source == at);
                !is_carried || type_of == (column.type_id, column.type_modifier)
            }
        };
        if !is_as_described {
            let message = format!("{table} was changed after it was described: column {name}");
            return Err(Error::transient(codes::TABLE_REWRITTEN, message));
        }
    }
    Ok(())
}

/// A table that was dropped or renamed, or a column of it, since it was described: nothing is wrong
/// with what is asked but its age.
pub(crate) fn described_anew(error: Error, table: &TableName) -> Error {
    if !matches!(error.sqlstate_code(), Some("42P01" | "42703" | "3F000")) {
        return error;
    }
    let message = format!("{table} was changed after it was described");
    Error::transient(codes::TABLE_REWRITTEN, message).caused_by(error)
}
