//! Indexes and the constraints that stand on them.
//!
//! An index is taken apart into its key columns, so that a target may rename columns.
//! `pg_get_indexdef(index, n, false)` gives a column or expression alone; operator class, collation
//! and order behind it are put together here as the server's own `pg_get_indexdef` does it
//! (PostgreSQL 15, `pg_get_indexdef_worker`), naming an operator class wherever it is not surely the
//! type's default.

use std::collections::HashMap;

use tidemark_core::Result;
use tidemark_core::schema::{Index, IndexColumn, IndexKind, NotCarried, TableSchema};

use super::{Oids, Tables};
use crate::wire::{Connection, Row};

/// What came with the indexes.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Positions of the columns of the index that is the replica identity, by table.
    pub(super) identities: HashMap<u32, Vec<usize>>,
    pub(super) not_carried: Vec<NotCarried>,
}

/// One row for each key or included column of each index of the tables in `$1`.
fn query(server_version: u32) -> String {
    let nulls = if server_version >= 150_000 {
        "i.indnullsnotdistinct"
    } else {
        "false"
    };
    let period = if server_version >= 180_000 {
        "con.conperiod"
    } else {
        "false"
    };
    format!(
        "SELECT i.indrelid, i.indexrelid, c.relname, am.amname, i.indisprimary, i.indisunique, \
                i.indisexclusion, i.indisreplident, i.indisvalid, {nulls} AS nulls, \
                pg_get_expr(i.indpred, i.indrelid) AS predicate, \
                array_to_string(c.reloptions, ', ') AS parameters, con.contype, \
                con.condeferrable, con.condeferred, \
                CASE WHEN con.contype = 'x' OR {period} THEN pg_get_constraintdef(con.oid) END \
                  AS exclusion, \
                k.n > i.indnkeyatts AS included, i.indkey[k.n - 1] AS number, \
                pg_get_indexdef(i.indexrelid, k.n, false) AS piece, \
                CASE WHEN i.indcollation[k.n - 1] <> 0 \
                      AND (i.indkey[k.n - 1] = 0 OR i.indcollation[k.n - 1] <> a.attcollation) \
                     THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END \
                  AS collation, \
                CASE WHEN NOT oc.opcdefault OR ia.attoptions IS NOT NULL \
                       OR NOT (oc.opcintype = ia.atttypid \
                               OR oc.opcintype = 25 AND ia.atttypid = 1043 \
                               OR oc.opcintype IN (2277, 3500, 3831, 4537)) \
                     THEN quote_ident(ocn.nspname) || '.' || quote_ident(oc.opcname) END \
                  AS class, \
                array_to_string(ia.attoptions, ', ') AS options, \
                CASE WHEN pg_indexam_has_property(am.oid, 'can_order') \
                     THEN coalesce(i.indoption[k.n - 1], 0) ELSE 0 END AS ordering \
         FROM unnest($1::oid[]) AS wanted JOIN pg_index i ON i.indrelid = wanted \
         JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam \
         CROSS JOIN LATERAL generate_series(1, i.indnatts::int4) AS k (n) \
         JOIN pg_attribute ia ON ia.attrelid = i.indexrelid AND ia.attnum = k.n \
         LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] \
              AND a.attnum > 0 \
         LEFT JOIN pg_collation co ON co.oid = i.indcollation[k.n - 1] \
         LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
         LEFT JOIN pg_opclass oc ON oc.oid = i.indclass[k.n - 1] \
         LEFT JOIN pg_namespace ocn ON ocn.oid = oc.opcnamespace \
         LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid \
              AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u', 'x') \
         ORDER BY i.indrelid, i.indisprimary DESC, c.relname, k.n"
    )
}

pub(super) async fn read(
    connection: &mut Connection,
    oids: &Oids,
    tables: &mut Tables,
) -> Result<Found> {
    let sql = query(connection.server_version());
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    let mut found = Found::default();
    let mut rest = set.rows.as_slice();
    while let Some(first) = rest.first() {
        let index_oid = first.get::<u32>(first.index("indexrelid")?)?;
        let mut count = 0;
        for row in rest {
            if row.get::<u32>(row.index("indexrelid")?)? != index_oid {
                break;
            }
            count += 1;
        }
        let (rows, tail) = rest.split_at(count);
        rest = tail;
        let table_oid = first.get::<u32>(first.index("indrelid")?)?;
        if let Some(table) = tables.get_mut(&table_oid) {
            add(table, rows, &mut found)?;
        }
    }
    Ok(found)
}

fn add(table: &mut TableSchema, rows: &[Row], found: &mut Found) -> Result<()> {
    let first = &rows[0];
    let index = index(rows)?;
    let flag = |name: &str| first.get_bool(first.index(name)?);
    if !flag("indisvalid")? {
        found.not_carried.push(NotCarried {
            kind: "index".to_owned(),
            name: format!("{} on {}", index.name, table.name),
            note: "it is not valid on the source: it was never finished".to_owned(),
        });
        return Ok(());
    }
    let positions = || {
        let keys = index.columns.iter().filter_map(|key| key.column.as_deref());
        keys.filter_map(|name| table.columns.iter().position(|column| column.name == name))
            .collect::<Vec<usize>>()
    };
    let key = positions();
    if flag("indisreplident")? {
        found.identities.insert(table.id, key.clone());
    }
    if flag("indisprimary")? {
        table.primary_key = key;
    }
    table.indexes.push(index);
    Ok(())
}

fn index(rows: &[Row]) -> Result<Index> {
    let first = &rows[0];
    let text = |name: &str| first.opt::<String>(first.index(name)?);
    let flag = |name: &str| Ok(first.opt_bool(first.index(name)?)?.unwrap_or(false));
    let exclusion = text("exclusion")?;
    let contype = text("contype")?;
    let kind = match contype.as_deref() {
        _ if exclusion.is_some() => IndexKind::Exclusion,
        Some("p") => IndexKind::PrimaryKey,
        Some("u") => IndexKind::UniqueConstraint,
        _ if flag("indisunique")? => IndexKind::Unique,
        _ => IndexKind::Plain,
    };
    let deferral = match (flag("condeferrable")?, flag("condeferred")?) {
        (true, true) => "DEFERRABLE INITIALLY DEFERRED",
        (true, false) => "DEFERRABLE",
        _ => "",
    };
    let mut columns = Vec::new();
    let mut included = Vec::new();
    for row in rows {
        let piece = row.get_str(row.index("piece")?)?;
        let number: i16 = row.get(row.index("number")?)?;
        if row.get_bool(row.index("included")?)? {
            included.push(unquoted(piece));
        } else {
            columns.push(IndexColumn {
                column: (number > 0).then(|| unquoted(piece)),
                expression: (number == 0).then(|| piece.to_owned()),
                options: options(row)?,
            });
        }
    }
    Ok(Index {
        name: text("relname")?.unwrap_or_default(),
        kind,
        method: text("amname")?.unwrap_or_default(),
        columns,
        included,
        predicate: text("predicate")?,
        is_nulls_not_distinct: flag("nulls")?,
        deferral: deferral.to_owned(),
        exclusion,
        parameters: text("parameters")?.unwrap_or_default(),
    })
}

/// What stands behind a key column. `indoption`: bit 0 DESC, bit 1 NULLS FIRST (PostgreSQL 15,
/// `pg_index.h`); DESC puts NULLs first unless told otherwise.
fn options(row: &Row) -> Result<String> {
    let text = |name: &str| row.opt::<String>(row.index(name)?);
    let mut options = Vec::new();
    if let Some(collation) = text("collation")? {
        options.push(format!("COLLATE {collation}"));
    }
    if let Some(class) = text("class")? {
        match text("options")? {
            Some(parameters) => options.push(format!("{class} ({parameters})")),
            None => options.push(class),
        }
    }
    let ordering: i16 = row.get(row.index("ordering")?)?;
    let ordering = match (ordering & 1, ordering & 2) {
        (0, 0) => "",
        (0, _) => "NULLS FIRST",
        (_, 0) => "DESC NULLS LAST",
        (_, _) => "DESC",
    };
    if !ordering.is_empty() {
        options.push(ordering.to_owned());
    }
    Ok(options.join(" "))
}

/// `"na""me"` as `na"me`: `pg_get_indexdef` quotes a column's name where it must be.
fn unquoted(name: &str) -> String {
    match name
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::unquoted;

    #[test]
    fn names_lose_their_quotes() {
        assert_eq!(unquoted("plain"), "plain");
        assert_eq!(unquoted("\"Mixed \"\"x\"\"\""), "Mixed \"x\"");
    }
}
