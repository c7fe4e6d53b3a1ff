//! Foreign keys among the loaded tables, last: they hold only once all tables show one instant.
//!
//! Those that stood in the way of a TRUNCATE or DROP ([`super::existing`]) were written down and are
//! made again here too. What is there under its name stays, so all of it may be repeated.

use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{ForeignKey, TableName};
use tidemark_core::{Context, Result};

use super::names::quoted;
use crate::wire::{Connection, quote_ident};

/// Makes what is missing.
pub(super) async fn make(
    connection: &mut Connection,
    pipeline: &str,
    tables: &[TableMapping],
) -> Result<()> {
    for mapping in tables {
        for key in &mapping.schema.foreign_keys {
            if mapping.foreign_key_obstacle(key, tables).is_some() {
                continue;
            }
            if let Some(definition) = definition(mapping, key, tables) {
                add(connection, &mapping.target, &key.name, &definition).await?;
            }
        }
    }
    make_set_aside(connection, pipeline, "").await
}

/// Makes those again that were set aside for a table that takes another's place: new rows are checked,
/// those that are there have yet to catch up.
pub(super) async fn make_unvalidated(connection: &mut Connection, pipeline: &str) -> Result<()> {
    make_set_aside(connection, pipeline, " NOT VALID").await
}

async fn make_set_aside(connection: &mut Connection, pipeline: &str, validity: &str) -> Result<()> {
    let set_aside = connection
        .query(
            "SELECT target_schema, target_name, name, definition FROM tidemark.foreign_key \
             WHERE pipeline = $1 ORDER BY 1, 2, 3",
            &[Some(pipeline)],
        )
        .await?;
    for row in &set_aside.rows {
        let table = TableName::new(row.get_str(0)?, row.get_str(1)?);
        let (name, definition): (String, String) = (row.get(2)?, row.get(3)?);
        let definition = definition.trim_end_matches(" NOT VALID").to_owned() + validity;
        add(connection, &table, &name, &definition).await?;
    }
    let sql = "DELETE FROM tidemark.foreign_key WHERE pipeline = $1";
    connection.execute(sql, &[Some(pipeline)]).await?;
    Ok(())
}

/// The definition in target names; `None` where the other table is not of the pipeline.
fn definition(mapping: &TableMapping, key: &ForeignKey, tables: &[TableMapping]) -> Option<String> {
    let other = tables
        .iter()
        .find(|table| *table.source() == key.references)?;
    let names = |mapping: &TableMapping, columns: &[String]| {
        let name = |column: &String| quote_ident(mapping.target_column(column).unwrap_or(column));
        columns.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let (from, to) = (
        names(mapping, &key.columns),
        names(other, &key.referenced_columns),
    );
    let (table, options) = (quoted(&other.target), &key.options);
    Some(format!(
        "FOREIGN KEY ({from}) REFERENCES {table} ({to}) {options}"
    ))
}

async fn add(
    connection: &mut Connection,
    table: &TableName,
    name: &str,
    definition: &str,
) -> Result<()> {
    let found = connection
        .query(
            "SELECT EXISTS (SELECT FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2 AND k.conname = $3 AND k.contype = 'f')",
            &[Some(&table.schema), Some(&table.name), Some(name)],
        )
        .await?;
    if found.one()?.get_bool(0)? {
        return Ok(());
    }
    let (quoted_table, quoted_name) = (quoted(table), quote_ident(name));
    let sql = format!("ALTER TABLE {quoted_table} ADD CONSTRAINT {quoted_name} {definition}");
    connection
        .run(&sql)
        .await
        .context(|| format!("make foreign key {name} of {table}"))
}
