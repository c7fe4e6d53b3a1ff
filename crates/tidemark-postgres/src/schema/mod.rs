//! What the catalog says: tables, and what they need to exist elsewhere.
//!
//! A handful of queries over sets, none per table, so that ten thousand tables take seconds. They run
//! in one read-only transaction (the caller's, where one is open), so that they speak of one instant;
//! functions that print definitions look at the present catalog, and a definition that is changed
//! meanwhile gives a transient error.
//!
//! Names in definitions are qualified, because every session of ours has `search_path = pg_catalog`.
//!
//! - `relations`: what is selected, what is carried, and which partitions belong to it
//! - `columns`, `indexes`, `constraints`: the parts of a table
//! - `types`: what kind of values a type holds, and how it is made
//! - `objects`: extensions, collations, sequences
//! - `not_carried`: what stands around the tables and stays behind

use std::collections::BTreeMap;

use tidemark_core::Result;
use tidemark_core::schema::{IndexKind, SchemaObject, SourceSchema, TableName, TableSchema};
use tidemark_core::selection::Selection;

use crate::wire::{Connection, TransactionStatus};

mod columns;
mod constraints;
mod indexes;
mod not_carried;
mod objects;
mod relations;
mod retype;
mod sequences;
mod types;

/// The columns by which the log tells the rows of a table, as SQL: of the row `$c` of `pg_class`, whose replica
/// identity is `$identity`. A deferrable key is none (`RelationGetIndexList`, PostgreSQL 15).
macro_rules! identity_columns {
    ($c:literal, $identity:literal) => {
        concat!(
            "SELECT a.attname FROM pg_index i, generate_series(0, i.indnkeyatts - 1) n, pg_attribute a \
             WHERE i.indrelid = ",
            $c,
            ".oid AND a.attrelid = i.indrelid AND a.attnum = i.indkey[n] AND i.indisvalid AND CASE ",
            $identity,
            " WHEN 'd' THEN i.indisprimary AND i.indimmediate WHEN 'i' THEN i.indisreplident \
             ELSE false END"
        )
    };
}
pub(crate) use identity_columns;

pub use columns::shape_of;
pub use retype::retyped;
pub use types::{builtin, is_order_safe};

pub(crate) use types::FIRST_USER_OID;

pub(crate) use relations::leaves_of;

use relations::Relation;

/// Tables being put together, by oid.
type Tables = BTreeMap<u32, TableSchema>;

/// The selected tables and what they need, from the catalog.
pub async fn describe(connection: &mut Connection, selection: &Selection) -> Result<SourceSchema> {
    if connection.transaction_status() == TransactionStatus::Open {
        return read(connection, selection).await;
    }
    connection
        .run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let schema = read(connection, selection).await;
    let ended = connection.run("ROLLBACK").await;
    // What broke first says more than that nothing works on the connection since.
    let schema = schema?;
    ended.map(|()| schema)
}

async fn read(connection: &mut Connection, selection: &Selection) -> Result<SourceSchema> {
    let found = relations::read(connection, selection).await?;
    let mut not_carried = found.not_carried;
    let mut tables: Tables = found.tables.iter().map(skeleton).collect();
    let oids = Oids::of(tables.keys().copied());

    relations::add_sizes(connection, &mut tables, &found.parts).await?;
    for standing in relations::standing(connection, &oids).await? {
        if let Some(table) = tables.get_mut(&standing.table) {
            table.storage = standing.storage;
            table.attributes = standing.attributes;
        }
    }
    let types = types::read(connection, &oids).await?;
    columns::read(connection, &oids, &types, &mut tables).await?;
    types.add_members(connection, &mut tables).await?;
    types.add_rules(connection, &mut tables).await?;
    let indexes = indexes::read(connection, &oids, &mut tables).await?;
    set_identities(&found.tables, &indexes, &mut tables);
    not_carried.extend(indexes.not_carried);
    not_carried.extend(constraints::read(connection, &oids, &mut tables).await?);
    relations::add_notes(connection, &oids, &mut tables).await?;

    let mut objects = objects::extensions(connection, &oids, &types).await?;
    objects.extend(objects::collations(connection, &oids, &types).await?);
    let (made, unmade) = types.definitions(connection).await?;
    types.add_late_types(&made, &mut tables);
    objects.extend(made.into_iter().map(|(_, object)| object));
    not_carried.extend(unmade);
    objects.extend(sequences::definitions(connection, &oids, &tables).await?);
    not_carried.extend(not_carried::read(connection, &oids, &tables, &objects).await?);

    let mut named = std::collections::HashSet::new();
    not_carried.retain(|left| named.insert((left.kind.clone(), left.name.clone())));

    let mut tables: Vec<TableSchema> = tables.into_values().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(SourceSchema {
        tables,
        objects,
        not_carried,
        unselected: found.unselected,
    })
}

/// One table with its columns, indexes and constraints, whether or not it could be copied: for a
/// table that is written to. Sizes and notes are left out.
pub(crate) async fn describe_one(
    connection: &mut Connection,
    name: &TableName,
    oid: u32,
) -> Result<Option<TableSchema>> {
    let one = std::iter::once((oid, name.clone()));
    let Some(table) = describe_these(connection, one).await?.pop() else {
        return Ok(None);
    };
    // A table may have no columns, or be gone.
    if table.columns.is_empty() {
        let oids = Oids::of([oid]);
        let sql = "SELECT FROM pg_class WHERE oid = ANY ($1::oid[])";
        let found = connection.query(sql, &[Some(oids.param())]).await?;
        return Ok((!found.rows.is_empty()).then_some(table));
    }
    Ok(Some(table))
}

/// The same for many tables at once, by their numbers; one that is gone has no columns.
pub(crate) async fn describe_these(
    connection: &mut Connection,
    tables: impl Iterator<Item = (u32, TableName)>,
) -> Result<Vec<TableSchema>> {
    let mut tables: Tables = tables.map(|(oid, name)| skeleton_of(oid, name)).collect();
    let oids = Oids::of(tables.keys().copied());
    let types = types::read(connection, &oids).await?;
    columns::read(connection, &oids, &types, &mut tables).await?;
    types.add_rules(connection, &mut tables).await?;
    indexes::read(connection, &oids, &mut tables).await?;
    constraints::read(connection, &oids, &mut tables).await?;
    Ok(tables.into_values().collect())
}

/// How a type is made, `None` for one that comes with a table, an extension or the server.
pub(crate) async fn type_definition(
    connection: &mut Connection,
    name: &TableName,
    oid: u32,
) -> Result<Option<SchemaObject>> {
    let types = types::of(connection, &[oid]).await?;
    let (made, _) = types.definitions(connection).await?;
    let mut made = made.into_iter().map(|(_, object)| object);
    Ok(made.find(|object| object.name == *name))
}

/// A table of which nothing but its place is known yet.
fn skeleton(relation: &Relation) -> (u32, TableSchema) {
    let (oid, mut table) = skeleton_of(relation.oid, relation.name.clone());
    table.is_partitioned = relation.is_partitioned();
    (oid, table)
}

fn skeleton_of(oid: u32, name: TableName) -> (u32, TableSchema) {
    let table = TableSchema::bare(name, oid);
    (oid, table)
}

/// `relreplident` (PostgreSQL 15, 53.11): what the log says of an old row.
fn set_identities(relations: &[Relation], found: &indexes::Found, tables: &mut Tables) {
    use tidemark_core::schema::ReplicaIdentity;
    for relation in relations {
        let Some(table) = tables.get_mut(&relation.oid) else {
            continue;
        };
        table.identity = match relation.replica_identity {
            'f' => ReplicaIdentity::Full,
            'd' if has_immediate_key(table) => ReplicaIdentity::Key(table.primary_key.clone()),
            'i' => match found.identities.get(&relation.oid) {
                Some(columns) => ReplicaIdentity::Key(columns.clone()),
                // The index was dropped: the server treats this as NOTHING.
                None => ReplicaIdentity::Nothing,
            },
            _ => ReplicaIdentity::Nothing,
        };
    }
}

/// A deferrable primary key is no identity (`RelationGetIndexList`).
fn has_immediate_key(table: &TableSchema) -> bool {
    let is_deferrable = table
        .indexes
        .iter()
        .any(|index| index.kind == IndexKind::PrimaryKey && !index.deferral.is_empty());
    !table.primary_key.is_empty() && !is_deferrable
}

/// Oids as the text of an `oid[]` parameter.
pub(crate) struct Oids(String);

impl Oids {
    pub(crate) fn of(oids: impl IntoIterator<Item = u32>) -> Oids {
        let list: Vec<String> = oids.into_iter().map(|oid| oid.to_string()).collect();
        Oids(format!("{{{}}}", list.join(",")))
    }

    pub(crate) fn param(&self) -> &str {
        &self.0
    }
}

/// A table name out of two cells of a row.
fn table_name(row: &crate::wire::Row, schema: usize, name: usize) -> Result<TableName> {
    Ok(TableName::new(row.get_str(schema)?, row.get_str(name)?))
}
