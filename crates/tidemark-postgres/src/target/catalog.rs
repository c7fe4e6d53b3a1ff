//! What the target's catalog says about a name, and where names of the source lie on the target.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tidemark_core::Result;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;

use super::names::{Schemas, quoted};
use super::wording;
use crate::wire::{Connection, Row, quote_literal};

/// A name that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) oid: u32,
    kind: char,
    persistence: char,
}

impl Relation {
    /// Out of three cells of a row: `oid`, `relkind`, `relpersistence`.
    pub(super) fn read(row: &Row, first: usize) -> Result<Relation> {
        Ok(Relation {
            oid: row.get(first)?,
            kind: row.get(first + 1)?,
            persistence: row.get(first + 2)?,
        })
    }

    /// Why rows cannot be kept in it; `None` for an ordinary table.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        match (self.kind, self.persistence) {
            ('r' | 'p', 'p') => None,
            ('r' | 'p', 'u') => {
                Some("is unlogged: a crash would empty it while the checkpoint stays")
            }
            ('r' | 'p', _) => Some("is temporary"),
            ('v', _) => Some("is a view"),
            ('m', _) => Some("is a materialized view"),
            ('f', _) => Some("is a foreign table"),
            ('S', _) => Some("is a sequence"),
            ('i' | 'I', _) => Some("is an index"),
            ('c', _) => Some("is a composite type"),
            _ => Some("is not a table"),
        }
    }

    pub(super) fn is_unlogged(&self) -> bool {
        self.persistence == 'u'
    }

    pub(super) fn is_sequence(&self) -> bool {
        self.kind == 'S'
    }
}

/// A table of this `relkind`, quoted, where its rows are looked for or removed: `ONLY`, since rows of tables
/// that inherit from it are those of other tables; but for one that has none of its own.
pub(crate) fn without_heirs(quoted: &str, kind: &str) -> String {
    match kind {
        "r" => format!("ONLY {quoted}"),
        _ => quoted.to_owned(),
    }
}

/// The same for a table whose kind is not known here.
pub(super) async fn rows_of(connection: &mut Connection, name: &TableName) -> Result<String> {
    let quoted = quoted(name);
    let kind = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)";
    let found = connection.query(kind, &[Some(quoted.as_str())]).await?;
    let kind = found.rows.first().map(|row| row.get_str(0)).transpose()?;
    Ok(without_heirs(&quoted, kind.unwrap_or_default()))
}

/// What a name stands for; `None` where it is free.
pub(super) async fn relation(
    connection: &mut Connection,
    name: &TableName,
) -> Result<Option<Relation>> {
    let found = connection
        .query(
            "SELECT c.oid, c.relkind, c.relpersistence \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2",
            &[Some(&name.schema), Some(&name.name)],
        )
        .await?;
    let first = found.rows.first();
    first.map(|row| Relation::read(row, 0)).transpose()
}

/// Which of these names are taken.
pub(super) async fn taken(
    connection: &mut Connection,
    names: &[TableName],
) -> Result<HashSet<TableName>> {
    if names.is_empty() {
        return Ok(HashSet::new());
    }
    let values: Vec<String> = names
        .iter()
        .map(|name| {
            let (schema, name) = (quote_literal(&name.schema), quote_literal(&name.name));
            format!("({schema}, {name})")
        })
        .collect();
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE (n.nspname, c.relname) IN (VALUES {})",
        values.join(", ")
    );
    let found = connection.query(&sql, &[]).await?;
    let name = |row: &Row| Ok(TableName::new(row.get_str(0)?, row.get_str(1)?));
    found.rows.iter().map(name).collect()
}

/// Tables that are unlogged, and those of which a partition is.
pub(super) async fn unlogged(connection: &mut Connection) -> Result<HashSet<TableName>> {
    let found = connection
        .query(
            "SELECT n.nspname, c.relname FROM pg_class u \
             CROSS JOIN LATERAL (SELECT u.oid UNION \
                                 SELECT relid::oid FROM pg_partition_ancestors(u.oid)) a(id) \
             JOIN pg_class c ON c.oid = a.id JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE u.relpersistence = 'u' AND u.relkind IN ('r', 'p')",
            &[],
        )
        .await?;
    let name = |row: &Row| Ok(TableName::new(row.get_str(0)?, row.get_str(1)?));
    found.rows.iter().map(name).collect()
}

/// Tables that the pipeline has recorded and that are there, by their numbers; each with a cell of its record
/// (`t`).
pub(super) async fn recorded<'a>(
    connection: &mut Connection,
    pipeline: &str,
    tables: impl Iterator<Item = &'a TableMapping>,
    cell: &str,
) -> Result<BTreeMap<u32, (&'a TableMapping, Option<String>)>> {
    let tables: HashMap<&TableName, &TableMapping> =
        tables.map(|table| (table.source(), table)).collect();
    let sql = format!(
        "SELECT t.source_schema, t.source_name, c.oid, {cell} \
         FROM tidemark.table_state t JOIN pg_namespace n ON n.nspname = t.target_schema \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.target_name \
         WHERE t.pipeline = $1 AND c.relkind IN ('r', 'p')"
    );
    let found = connection.query(&sql, &[Some(pipeline)]).await?;
    let mut recorded = BTreeMap::new();
    for row in &found.rows {
        let source = TableName::new(row.get_str(0)?, row.get_str(1)?);
        if let Some(table) = tables.get(&source) {
            recorded.insert(row.get(2)?, (*table, row.opt(3)?));
        }
    }
    Ok(recorded)
}

/// Whether a table has any row.
pub(super) async fn has_rows(connection: &mut Connection, table: &str) -> Result<bool> {
    let found = connection
        .query(&format!("SELECT EXISTS (SELECT FROM {table})"), &[])
        .await?;
    found.one()?.get_bool(0)
}

/// Where the schemas of the pipeline's tables lie, as recorded, and those of a table that may not be
/// recorded yet.
pub(super) async fn schemas(
    connection: &mut Connection,
    pipeline: &str,
    mapping: &TableMapping,
) -> Result<Schemas> {
    let found = connection
        .query(
            "SELECT DISTINCT source_schema, target_schema FROM tidemark.table_state \
             WHERE pipeline = $1",
            &[Some(pipeline)],
        )
        .await?;
    let mut pairs = vec![(
        mapping.source().schema.clone(),
        mapping.target.schema.clone(),
    )];
    for row in &found.rows {
        pairs.push((row.get(0)?, row.get(1)?));
    }
    Ok(Schemas::of(pairs))
}

/// Names within definitions that go by another name on the target: those whose schema has moved, if
/// something of that name has moved with it.
pub(super) async fn moved(
    connection: &mut Connection,
    schemas: &Schemas,
    definitions: impl IntoIterator<Item = &str>,
) -> Result<BTreeMap<TableName, TableName>> {
    let named: BTreeSet<TableName> = definitions.into_iter().flat_map(wording::names).collect();
    let candidates: Vec<(TableName, TableName)> = named
        .into_iter()
        .map(|name| (name.clone(), schemas.target(&name)))
        .filter(|(source, target)| source != target)
        .collect();
    if candidates.is_empty() {
        return Ok(BTreeMap::new());
    }
    let values: Vec<String> = candidates
        .iter()
        .enumerate()
        .map(|(n, (_, target))| {
            let (schema, name) = (quote_literal(&target.schema), quote_literal(&target.name));
            format!("({n}, {schema}, {name})")
        })
        .collect();
    let found = connection
        .query(
            &format!(
                "SELECT v.n FROM (VALUES {}) AS v (n, nsp, obj) \
                 JOIN pg_namespace s ON s.nspname = v.nsp \
                 WHERE EXISTS (SELECT FROM pg_type WHERE typnamespace = s.oid AND typname = obj) \
                    OR EXISTS (SELECT FROM pg_class WHERE relnamespace = s.oid AND relname = obj) \
                    OR EXISTS (SELECT FROM pg_collation \
                               WHERE collnamespace = s.oid AND collname = obj) \
                    OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = s.oid AND proname = obj)",
                values.join(", ")
            ),
            &[],
        )
        .await?;
    let mut moved = BTreeMap::new();
    for row in &found.rows {
        if let Some((source, target)) = candidates.get(row.get::<usize>(0)?) {
            moved.insert(source.clone(), target.clone());
        }
    }
    Ok(moved)
}
