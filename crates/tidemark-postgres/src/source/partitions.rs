//! The partitions of the selected tables, as far as a change of one as a whole is told by them.

use tidemark_core::Result;
use tidemark_core::schema::TableName;
use tidemark_core::source::{Logged, Partition};

use crate::schema::identity_columns;
use crate::wire::{Connection, Row, quote_literal, quote_qualified};

/// Leaves below the tables. One that was made as a partition has been one since the transaction that
/// made it: `pg_inherits` and the row of its system column `ctid`, which no command changes, were
/// written by the same. Anything else was attached, it or what it stands below. Who goes and comes again
/// has another row in `pg_inherits`, written by another transaction; what freezes the row leaves its
/// `xmin` as it is.
const LEAVES: &str = concat!(
    "SELECT rn.nspname, rc.relname, n.nspname, c.relname, c.oid, \
      coalesce(pg_relation_filenode(c.oid), 0), \
      EXISTS (SELECT FROM pg_partition_ancestors(c.oid) above \
              JOIN pg_inherits i ON i.inhrelid = above.relid \
              JOIN pg_attribute a ON a.attrelid = above.relid AND a.attnum = -1 \
              WHERE i.xmin <> a.xmin), \
      (SELECT string_agg(i.inhrelid || ':' || i.xmin, ' ' ORDER BY i.inhrelid) \
       FROM pg_partition_ancestors(c.oid) above JOIN pg_inherits i ON i.inhrelid = above.relid), \
      CASE WHEN c.relreplident = 'f' OR NOT EXISTS (",
    identity_columns!("c", "c.relreplident"),
    ") THEN 'enough' WHEN EXISTS (",
    // Where whole rows are wanted they are found by the primary key all the same.
    identity_columns!("rc", "replace(rc.relreplident::text, 'f', 'd')"),
    " EXCEPT ",
    identity_columns!("c", "c.relreplident"),
    ") THEN 'otherwise' WHEN rc.relreplident = 'f' THEN 'key' ELSE 'enough' END \
    FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace \
      CROSS JOIN LATERAL pg_partition_tree(rc.oid) tree \
      JOIN pg_class c ON c.oid = tree.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE rc.relkind = 'p' AND tree.isleaf AND c.relkind <> 'p' AND rc.oid IN \
      (SELECT to_regclass(name) FROM unnest("
);

pub(super) async fn read(
    connection: &mut Connection,
    tables: &[TableName],
) -> Result<Vec<Partition>> {
    let quoted: Vec<String> = tables
        .iter()
        .map(|table| quote_literal(&quote_qualified(&table.schema, &table.name)))
        .collect();
    let sql = format!(
        "{LEAVES}ARRAY[{}]::text[]) AS name) ORDER BY 1, 2, 3, 4",
        quoted.join(",")
    );
    let set = connection.query(&sql, &[]).await?;
    set.rows.iter().map(partition).collect()
}

fn partition(row: &Row) -> Result<Partition> {
    Ok(Partition {
        root: TableName::new(row.get_str(0)?, row.get_str(1)?),
        name: TableName::new(row.get_str(2)?, row.get_str(3)?),
        id: row.get(4)?,
        storage: row.get(5)?,
        is_attached: row.get_bool(6)?,
        since: row.opt(7)?.unwrap_or_default(),
        logged: match row.get_str(8)? {
            "key" => Logged::KeyAlone,
            "otherwise" => Logged::Otherwise,
            _ => Logged::Enough,
        },
    })
}
