//! The partitions of the selected tables, as far as a change of one as a whole is told by them.

use tidemark_core::Result;
use tidemark_core::schema::TableName;
use tidemark_core::source::{Logged, Partition};

use crate::schema::identity_columns;
use crate::wire::{Connection, Row, quote_literal, quote_qualified};

/// Begins with the partitioned ones among the tables. `pg_partition_tree()` would lock the partitions, and
/// wait for whoever alters or empties one and does not commit.
const TABLES: &str = "WITH RECURSIVE tree AS ( \
      SELECT c.oid AS root, c.oid AS member, c.relkind, false AS is_attached, '' AS since \
      FROM pg_class c WHERE c.relkind = 'p' AND c.oid IN \
        (SELECT to_regclass(name) FROM unnest(";

/// Tables themselves, and leaves below them. One that was made as a partition has been one since the
/// transaction that made it: `pg_inherits` and the row of its system column `ctid`, which no command
/// changes, were written by the same. Anything else was attached, it or what it stands below. Who goes and
/// comes again has another row in `pg_inherits`, written by another transaction; what freezes a row leaves
/// its `xmin` as it is shown (PostgreSQL 15, `heap_getsysattr`). Statistics are written in the row of
/// `pg_class` that is there, so that its `xmin` stays that of the command which gave it its storage.
const LEAVES: &str = concat!(
    " AS name) \
      UNION ALL \
      SELECT t.root, c.oid, c.relkind, t.is_attached OR i.xmin <> a.xmin, \
        t.since || ' ' || c.oid::text || ':' || i.xmin::text \
      FROM tree t JOIN pg_inherits i ON i.inhparent = t.member AND NOT i.inhdetachpending \
        JOIN pg_class c ON c.oid = i.inhrelid \
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = -1 \
      WHERE t.relkind = 'p') \
    SELECT rn.nspname, r.relname, t.member = t.root, n.nspname, c.relname, c.oid, c.relfilenode, \
      c.xmin, t.is_attached, t.since, \
      CASE WHEN c.relreplident = 'f' OR NOT EXISTS (",
    identity_columns!("c", "c.relreplident"),
    ") THEN 'enough' WHEN EXISTS (",
    // Where whole rows are wanted they are found by the primary key all the same.
    identity_columns!("r", "replace(r.relreplident::text, 'f', 'd')"),
    " EXCEPT ",
    identity_columns!("c", "c.relreplident"),
    ") THEN 'otherwise' WHEN r.relreplident = 'f' THEN 'key' ELSE 'enough' END \
    FROM tree t JOIN pg_class r ON r.oid = t.root JOIN pg_namespace rn ON rn.oid = r.relnamespace \
      JOIN pg_class c ON c.oid = t.member JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE t.relkind <> 'p' OR t.member = t.root \
    ORDER BY 1, 2, 3 DESC, 4, 5"
);

pub(super) async fn read(
    connection: &mut Connection,
    tables: &[TableName],
) -> Result<Vec<(TableName, Vec<Partition>)>> {
    let quoted: Vec<String> = tables
        .iter()
        .map(|table| quote_literal(&quote_qualified(&table.schema, &table.name)))
        .collect();
    let sql = format!("{TABLES}ARRAY[{}]::text[]){LEAVES}", quoted.join(","));
    let set = connection.query(&sql, &[]).await?;
    let mut found: Vec<(TableName, Vec<Partition>)> = Vec::new();
    for row in &set.rows {
        if row.get_bool(2)? {
            let table = TableName::new(row.get_str(0)?, row.get_str(1)?);
            found.push((table, Vec::new()));
        } else if let Some((_, partitions)) = found.last_mut() {
            partitions.push(partition(row)?);
        }
    }
    Ok(found)
}

fn partition(row: &Row) -> Result<Partition> {
    Ok(Partition {
        name: TableName::new(row.get_str(3)?, row.get_str(4)?),
        id: row.get(5)?,
        storage: row.get(6)?,
        written_by: row.get(7)?,
        is_attached: row.get_bool(8)?,
        since: row.get_str(9)?.to_owned(),
        logged: match row.get_str(10)? {
            "key" => Logged::KeyAlone,
            "otherwise" => Logged::Otherwise,
            _ => Logged::Enough,
        },
    })
}
