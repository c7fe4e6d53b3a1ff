//! Sequences that selected tables own or draw from: how they are made, and where they stand.

use std::collections::BTreeSet;

use tidemark_core::Result;
use tidemark_core::schema::{ObjectKind, SchemaObject, TableName};
use tidemark_core::source::SequenceValue;

use super::{Oids, Tables, table_name};
use crate::wire::{Connection, quote_literal, quote_qualified};

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

/// How many sequences are read by one statement.
const VALUES_AT_ONCE: usize = 500;

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

/// Present values of the sequences that belong to these tables, those of identity columns included.
///
/// A sequence's value is no part of any snapshot (PostgreSQL 15, 9.17), so these are of now.
pub async fn sequence_values(
    connection: &mut Connection,
    tables: &[TableName],
) -> Result<Vec<SequenceValue>> {
    let wanted = tables
        .iter()
        .map(|table| {
            let (schema, name) = (quote_literal(&table.schema), quote_literal(&table.name));
            format!("({schema}, {name})")
        })
        .collect::<BTreeSet<String>>();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = wanted.into_iter().collect::<Vec<_>>().join(", ");
    let set = connection
        .query(
            &format!(
                "SELECT c.oid FROM (VALUES {wanted}) AS w (nsp, rel) \
                 JOIN pg_namespace n ON n.nspname = w.nsp \
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel"
            ),
            &[],
        )
        .await?;
    let mut oids = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        oids.push(row.get::<u32>(0)?);
    }
    let mut related = related(connection, &Oids::of(oids)).await?;
    for part in related.chunks_mut(VALUES_AT_ONCE) {
        read_values(connection, part).await?;
    }
    Ok(related)
}

/// The sequences, each once, without their values.
async fn related(connection: &mut Connection, oids: &Oids) -> Result<Vec<SequenceValue>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, tn.nspname, tc.relname, a.attname \
         FROM (SELECT seq, max(tab) AS tab, max(col) AS col FROM ({RELATED}) AS each \
               GROUP BY seq) AS r \
         JOIN pg_class c ON c.oid = r.seq AND c.relkind = 'S' \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_class tc ON tc.oid = r.tab LEFT JOIN pg_namespace tn ON tn.oid = tc.relnamespace \
         LEFT JOIN pg_attribute a ON a.attrelid = r.tab AND a.attnum = r.col \
         ORDER BY 1, 2"
    );
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    let mut values = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        let owner = match row.opt_str(4)? {
            Some(column) => Some((table_name(row, 2, 3)?, column.to_owned())),
            None => None,
        };
        values.push(SequenceValue {
            name: table_name(row, 0, 1)?,
            owner,
            last_value: 0,
            is_called: false,
        });
    }
    Ok(values)
}

async fn read_values(connection: &mut Connection, part: &mut [SequenceValue]) -> Result<()> {
    let selects: Vec<String> = part
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let name = quote_qualified(&value.name.schema, &value.name.name);
            format!("SELECT {index}, last_value, is_called FROM {name}")
        })
        .collect();
    let set = connection.query(&selects.join(" UNION ALL "), &[]).await?;
    for row in &set.rows {
        if let Some(value) = part.get_mut(row.get::<usize>(0)?) {
            value.last_value = row.get(1)?;
            value.is_called = row.get_bool(2)?;
        }
    }
    Ok(())
}
