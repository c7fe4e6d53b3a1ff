//! Sequences that selected tables own or draw from, and how they are made. Where they stand is read
//! by [`crate::source`].

use tidemark_core::Result;
use tidemark_core::schema::{ObjectKind, SchemaObject, TableName};

use super::{Oids, Tables, table_name};
use crate::wire::Connection;

/// A sequence's options as `CREATE SEQUENCE` reads them, out of `pg_sequence s`.
pub(super) const OPTIONS: &str = "'START WITH ' || s.seqstart || ' INCREMENT BY ' || s.seqincrement \
    || ' MINVALUE ' || s.seqmin || ' MAXVALUE ' || s.seqmax || ' CACHE ' || s.seqcache \
    || CASE WHEN s.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END";

/// Sequences of the tables in `$1`: those that a column owns (`a` of `serial`, `i` of an identity)
/// and those that a default reads.
const RELATED: &str = "SELECT d.objid AS seq, d.refobjid AS tab, d.refobjsubid AS col, d.deptype \
      FROM pg_depend d \
      WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
        AND d.refobjid = ANY ($1::oid[]) AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') \
    UNION ALL \
    SELECT d.refobjid, NULL, NULL, 'n' \
      FROM pg_attrdef def \
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = def.oid \
       AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' \
      WHERE def.adrelid = ANY ($1::oid[])";

/// Statements that make the sequences, those of identity columns left out: the column makes them.
pub(super) async fn definitions(
    connection: &mut Connection,
    oids: &Oids,
    tables: &Tables,
) -> Result<Vec<SchemaObject>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, format_type(s.seqtypid, NULL), {OPTIONS}, \
                max(r.tab), max(r.col) \
         FROM ({RELATED}) AS r JOIN pg_sequence s ON s.seqrelid = r.seq \
         JOIN pg_class c ON c.oid = r.seq JOIN pg_namespace n ON n.oid = c.relnamespace \
         GROUP BY n.nspname, c.relname, s.seqrelid, s.seqtypid, s.seqstart, s.seqincrement, \
                  s.seqmin, s.seqmax, s.seqcache, s.seqcycle \
         HAVING bool_and(r.deptype <> 'i') \
         ORDER BY 1, 2"
    );
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    let mut objects = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        let type_name = row.get_str(2)?;
        let options = row.get_str(3)?;
        let owner = match (row.opt::<u32>(4)?, row.opt::<i16>(5)?) {
            (Some(table), Some(number)) => owner(tables, table, number),
            _ => None,
        };
        objects.push(SchemaObject {
            kind: ObjectKind::Sequence,
            name: table_name(row, 0, 1)?,
            definition: format!("CREATE SEQUENCE {{name}} AS {type_name} {options}"),
            owner,
        });
    }
    Ok(objects)
}

fn owner(tables: &Tables, table: u32, number: i16) -> Option<(TableName, String)> {
    let table = tables.get(&table)?;
    let column = table
        .columns
        .iter()
        .find(|column| column.number == number)?;
    Some((table.name.clone(), column.name.clone()))
}
