//! Which tables and columns a database has, and the query that reads a table as ordered text.

use std::collections::BTreeMap;

use anyhow::Result;
use tokio_postgres::Client;

use super::Name;
use crate::server::quoted;

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// Part of the primary key.
    pub(super) is_key: bool,
    /// Of a type, or a domain over one, whose cast to text says something else than its output
    /// function: for `char(n)` it drops trailing spaces; for `xml` it keeps a declaration that no
    /// client, log or dump ever sees.
    is_cast_otherwise: bool,
    /// Of a type without a fixed length, so that a value may be long.
    may_be_long: bool,
}

/// What matters about a database when its rows are read.
pub(super) struct Side {
    /// The server knows what its bytes mean.
    has_encoding: bool,
}

/// Values longer than this are compared by length, beginning and MD5.
const LONG_BYTES: u32 = 1000;

const TABLES: &str = "
    SELECT n.nspname, c.relname, a.attname,
           coalesce(a.attnum = ANY (k.indkey), false) AS is_key,
           base.typname IN ('bpchar', 'xml') AS is_cast_otherwise,
           t.typlen = -1 AS may_be_long
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_attribute a
           ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_type base
           ON base.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    LEFT JOIN pg_catalog.pg_index k ON k.indrelid = c.oid AND k.indisprimary
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tidemark')
    ORDER BY 1, 2, a.attnum";

/// The permanent tables outside the system's schemas and Tidemark's own, partitions under their
/// root, with their columns in order.
pub(super) async fn tables(client: &Client) -> Result<BTreeMap<Name, Vec<Column>>> {
    let mut tables: BTreeMap<Name, Vec<Column>> = BTreeMap::new();
    for row in client.query(TABLES, &[]).await? {
        let columns = tables.entry((row.get(0), row.get(1))).or_default();
        if let Some(name) = row.get::<_, Option<String>>(2) {
            columns.push(Column {
                name,
                is_key: row.get(3),
                is_cast_otherwise: row.get(4),
                may_be_long: row.get(5),
            });
        }
    }
    Ok(tables)
}

impl Side {
    pub(super) async fn of(client: &Client) -> Result<Side> {
        let row = client
            .query_one("SELECT current_setting('server_encoding')", &[])
            .await?;
        Ok(Side {
            has_encoding: row.get::<_, &str>(0) != "SQL_ASCII",
        })
    }

    /// Reads one row as an array of texts, in the order of their bytes.
    pub(super) fn select<'a>(
        &self,
        table: &Name,
        columns: impl Iterator<Item = &'a Column>,
        filter: Option<&str>,
    ) -> String {
        let texts: Vec<String> = columns.map(|column| self.text(column)).collect();
        let filter = filter
            .map(|sql| format!(" WHERE {sql}"))
            .unwrap_or_default();
        format!(
            "SELECT r.t FROM (SELECT ARRAY[{}]::pg_catalog.text[] AS t FROM {}.{}{filter}) r \
             ORDER BY r.t COLLATE pg_catalog.\"C\"",
            texts.join(", "),
            quoted(&table.0),
            quoted(&table.1),
        )
    }

    fn text(&self, column: &Column) -> String {
        let name = quoted(&column.name);
        let text = if column.is_cast_otherwise {
            // concat() calls the output function, but makes '' of NULL.
            format!("CASE WHEN {name} IS NOT NULL THEN concat({name}) END")
        } else {
            format!("{name}::pg_catalog.text")
        };
        if !column.may_be_long {
            return text;
        }
        // The same bytes on both sides, whatever each of them stores text in.
        let bytes = if self.has_encoding {
            format!("convert_to({text}, 'UTF8')")
        } else {
            text.clone()
        };
        format!(
            "CASE WHEN octet_length({text}) > {LONG_BYTES} THEN left({text}, 40) || '... ' \
             || length({text}) || ' characters, md5 ' || md5({bytes}) ELSE {text} END"
        )
    }
}
