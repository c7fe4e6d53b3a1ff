//! Present values of sequences that belong to tables: owned by a column, or drawn from by a default.
//!
//! A sequence is not transactional, so its value is read from the sequence itself, not from a
//! snapshot; `pg_sequences` hides whether the last value was given out.

use std::collections::BTreeMap;

use tidemark_core::catalogue::codes;
use tidemark_core::schema::TableName;
use tidemark_core::source::SequenceValue;
use tidemark_core::{Error, Result};

use crate::wire::{Connection, Row, quote_qualified};

/// How many sequences are read by one statement.
const SEQUENCES_PER_QUERY: usize = 200;

/// Sequence, whether we may read it, owner's table and column. `a` is an owned sequence, `i` one of an
/// identity column, `n` of a default one that it depends on (`pg_depend.deptype`).
const BELONGING: &str = "SELECT sn.nspname, s.relname, \
            has_sequence_privilege(s.oid, 'SELECT'), tn.nspname, t.relname, a.attname, \
            q.seqincrement, q.seqmin, q.seqmax \
     FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace \
     JOIN pg_sequence q ON q.seqrelid = s.oid \
     LEFT JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = s.oid \
          AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i') \
     LEFT JOIN pg_class t ON t.oid = o.refobjid \
     LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace \
     LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = o.refobjsubid \
     WHERE s.relkind = 'S' AND (t.oid = ANY($1::text[]::regclass[]::oid[]) \
        OR s.oid IN (SELECT d.refobjid FROM pg_attrdef f \
              JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid \
                   AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' \
              WHERE f.adrelid = ANY($1::text[]::regclass[]::oid[]))) \
     ORDER BY 1, 2";

/// See the module's text. Each sequence once, by name.
pub(crate) async fn read(
    connection: &mut Connection,
    tables: &[TableName],
) -> Result<Vec<SequenceValue>> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<String> = tables.iter().map(array_element).collect();
    let list = format!("{{{}}}", list.join(","));
    let set = connection.query(BELONGING, &[Some(&list)]).await?;
    let mut owners = BTreeMap::new();
    for row in &set.rows {
        let name = TableName::new(row.get_str(0)?, row.get_str(1)?);
        if !row.get_bool(2)? {
            return Err(Error::definite(
                codes::SOURCE_PERMISSION,
                format!("sequence {name} may not be read"),
            )
            .first_action(format!(
                "GRANT SELECT ON SEQUENCE {} TO our role",
                quote_qualified(&name.schema, &name.name)
            )));
        }
        let belonging = Belonging {
            owner: owner(row)?,
            increment: row.get(6)?,
            bounds: (row.get(7)?, row.get(8)?),
        };
        owners.insert(name, belonging);
    }
    let owners: Vec<_> = owners.into_iter().collect();
    let mut values = Vec::with_capacity(owners.len());
    for some in owners.chunks(SEQUENCES_PER_QUERY) {
        read_values(connection, some, &mut values).await?;
    }
    Ok(values)
}

/// What the catalog says of a sequence.
struct Belonging {
    owner: Option<(TableName, String)>,
    increment: i64,
    bounds: (i64, i64),
}

async fn read_values(
    connection: &mut Connection,
    sequences: &[(TableName, Belonging)],
    values: &mut Vec<SequenceValue>,
) -> Result<()> {
    let selects: Vec<String> = sequences
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            let from = quote_qualified(&name.schema, &name.name);
            format!("SELECT {i} AS i, last_value, is_called FROM {from}")
        })
        .collect();
    let sql = format!("{} ORDER BY i", selects.join(" UNION ALL "));
    let set = connection.query(&sql, &[]).await?;
    for ((name, belonging), row) in sequences.iter().zip(&set.rows) {
        values.push(SequenceValue {
            name: name.clone(),
            owner: belonging.owner.clone(),
            last_value: row.get(1)?,
            is_called: row.get_bool(2)?,
            increment: belonging.increment,
            bounds: belonging.bounds,
        });
    }
    Ok(())
}

fn owner(row: &Row) -> Result<Option<(TableName, String)>> {
    match (row.opt_str(3)?, row.opt_str(4)?, row.opt_str(5)?) {
        (Some(schema), Some(table), Some(column)) => {
            Ok(Some((TableName::new(schema, table), column.to_owned())))
        }
        _ => Ok(None),
    }
}

/// A table's quoted name as an element of an array's text form.
fn array_element(table: &TableName) -> String {
    let name = quote_qualified(&table.schema, &table.name);
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}
