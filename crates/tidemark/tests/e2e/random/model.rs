//! What the source has by now, as its catalog says: the next statement is made for it.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::kinds::{self, Kind};

/// A table that statements are made for.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) is_partitioned: bool,
    /// `relreplident`.
    pub(super) identity: String,
    /// The primary key's constraint.
    pub(super) key: Option<String>,
    /// Indexes by which old rows may be told.
    pub(super) candidates: Vec<String>,
    pub(super) columns: Vec<Column>,
}

#[derive(Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) shown: String,
    pub(super) is_not_null: bool,
    /// It is written by the server alone.
    pub(super) is_generated: bool,
    /// Part of the primary key or of the index that is the identity.
    pub(super) is_key: bool,
}

impl Column {
    pub(super) fn kind(&self) -> Option<&'static Kind> {
        kinds::shown(&self.shown)
    }
}

impl Table {
    /// Columns that may be written.
    pub(super) fn written(&self) -> Vec<&Column> {
        let columns = self.columns.iter();
        columns.filter(|column| !column.is_generated).collect()
    }

    /// Columns that are not in a key.
    pub(super) fn plain(&self) -> Vec<&Column> {
        let mut columns = self.written();
        columns.retain(|column| !column.is_key);
        columns
    }
}

const TABLES: &str = "
    SELECT c.relname, c.relkind, c.relreplident,
      (SELECT conname FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p'),
      (SELECT string_agg(i.indexrelid::regclass::text, ' ') FROM pg_index i
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND NOT i.indisprimary
           AND i.indpred IS NULL AND i.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_attribute n WHERE n.attrelid = c.oid AND NOT n.attnotnull
                           AND n.attnum = ANY (i.indkey))),
      a.attname, format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attcollation <> t.typcollation THEN ' ' || l.collname ELSE '' END,
      a.attnotnull, a.attgenerated <> '' OR a.attidentity = 'a',
      EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
              AND a.attnum = ANY (i.indkey))
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND c.relname <> 'marks'
    ORDER BY c.relname, a.attnum";

/// Reads the tables of the source as this session sees them.
pub(super) async fn read(client: &Client) -> anyhow::Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for message in client.simple_query(TABLES).await? {
        let SimpleQueryMessage::Row(row) = message else {
            continue;
        };
        let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
        let is = |at: usize| row.get(at) == Some("t");
        if tables.last().is_none_or(|last| last.name != text(0)) {
            tables.push(Table {
                name: text(0),
                is_partitioned: text(1) == "p",
                identity: text(2),
                key: row.get(3).map(str::to_owned),
                candidates: text(4).split_whitespace().map(str::to_owned).collect(),
                columns: Vec::new(),
            });
        }
        if let Some(table) = tables.last_mut() {
            table.columns.push(Column {
                name: text(5),
                shown: text(6),
                is_not_null: is(7),
                is_generated: is(8),
                is_key: is(9),
            });
        }
    }
    Ok(tables)
}
