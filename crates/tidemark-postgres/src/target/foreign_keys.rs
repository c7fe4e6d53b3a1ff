//! Foreign keys: last, when the rows of all tables are in.
//!
//! A foreign key is made where both of its tables are copied by the pipeline, in one statement that
//! also proves it. What was set aside for the load ([`super::existing`]) is made again, and those
//! that a swap left unproven ([`super::swap`]) are proven. May be repeated: what is there stays.

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{ForeignKey, TableName};
use tidemark_core::{Context, Error, Result, failpoint};

use super::finish::{describe, is_about_definition, is_not_owner};
use super::indexes::target_name;
use super::names::quoted;
use crate::wire::{Connection, quote_ident};

/// Stands at the end of the options of a foreign key that was never proven.
pub(super) const NOT_VALID: &str = "NOT VALID";

pub(super) async fn finish(
    connection: &mut Connection,
    pipeline: &str,
    tables: &[TableMapping],
) -> Result<()> {
    for table in tables {
        make_of_table(connection, table, tables)
            .await
            .map_err(|error| error.table(table.source().to_string()))?;
    }
    make_again(connection, pipeline).await
}

async fn make_of_table(
    connection: &mut Connection,
    table: &TableMapping,
    tables: &[TableMapping],
) -> Result<()> {
    if table.schema.foreign_keys.is_empty() {
        return Ok(());
    }
    let have = describe(connection, &table.target).await?;
    for key in &table.schema.foreign_keys {
        let wanted = match translate(table, tables, key) {
            Ok(wanted) => wanted,
            Err(why) => {
                leave_out(table, key, why);
                continue;
            }
        };
        let found = have.foreign_keys.iter().find(|found| {
            found.name == wanted.name
                || (found.columns == wanted.columns
                    && found.references == wanted.references
                    && found.referenced_columns == wanted.referenced_columns)
        });
        let statement = match found {
            None => add(&table.target, &wanted),
            Some(found) if is_unproven(found) && !is_unproven(&wanted) => {
                let (table, name) = (quoted(&table.target), quote_ident(&found.name));
                format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
            }
            Some(_) => continue,
        };
        match connection.run(&statement).await {
            // `ON DELETE SET NULL (column)` may speak of a column that goes by another name.
            Err(error) if is_about_definition(&error) || is_not_owner(&error) => {
                leave_out(table, key, &error);
            }
            made => {
                made.context(|| format!("make foreign key {} of {}", key.name, table.target))?;
                failpoint::reached(failpoint::FOREIGN_KEY_MADE);
            }
        }
    }
    Ok(())
}

fn leave_out(table: &TableMapping, key: &ForeignKey, why: impl std::fmt::Display) {
    tracing::warn!(
        code = %codes::TARGET_NOT_CARRIED,
        table = %table.target,
        "foreign key {} is not carried: {why}", key.name
    );
}

/// A definition, or the end of one, without that: whether it was ever proven of old rows changes nothing for
/// new ones.
pub(super) fn proven(definition: &str) -> &str {
    definition.trim_end_matches(NOT_VALID).trim_end()
}

fn is_unproven(key: &ForeignKey) -> bool {
    key.options.ends_with(NOT_VALID)
}

/// The foreign key in target names; the error says why it is not carried.
pub(super) fn translate(
    table: &TableMapping,
    tables: &[TableMapping],
    key: &ForeignKey,
) -> std::result::Result<ForeignKey, String> {
    if let Some(why) = table.foreign_key_obstacle(key, tables) {
        return Err(why);
    }
    let referenced = tables
        .iter()
        .find(|other| *other.source() == key.references)
        .ok_or_else(|| format!("{} is not carried", key.references))?;
    let names = |table: &TableMapping, names: &[String]| {
        let names = names.iter().map(|name| target_name(table, name));
        names.collect()
    };
    Ok(ForeignKey {
        name: key.name.clone(),
        columns: names(table, &key.columns),
        references: referenced.target.clone(),
        referenced_columns: names(referenced, &key.referenced_columns),
        options: key.options.clone(),
    })
}

/// The statement that makes a foreign key.
pub(super) fn add(table: &TableName, key: &ForeignKey) -> String {
    let list = |names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| quote_ident(name)).collect();
        names.join(", ")
    };
    format!(
        "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) {}",
        quoted(table),
        quote_ident(&key.name),
        list(&key.columns),
        quoted(&key.references),
        list(&key.referenced_columns),
        key.options,
    )
}

/// Makes again what was set aside, or proves it; each together with forgetting that it was.
async fn make_again(connection: &mut Connection, pipeline: &str) -> Result<()> {
    let aside = connection
        .query(
            "SELECT f.target_schema, f.target_name, f.name, f.definition, c.oid IS NOT NULL, \
               k.convalidated, s.source_schema, s.source_name \
             FROM tidemark.foreign_key f \
             LEFT JOIN tidemark.table_state s ON s.pipeline = f.pipeline \
                  AND s.target_schema = f.target_schema AND s.target_name = f.target_name \
             LEFT JOIN pg_namespace n ON n.nspname = f.target_schema \
             LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = f.target_name \
             LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.conname = f.name \
             WHERE f.pipeline = $1 ORDER BY 1, 2, 3",
            &[Some(pipeline)],
        )
        .await?;
    for row in &aside.rows {
        let table = TableName::new(row.get_str(0)?, row.get_str(1)?);
        let (name, definition) = (row.get_str(2)?, row.get_str(3)?);
        let (has_table, is_proven) = (row.get_bool(4)?, row.opt_bool(5)?);
        let alter = format!("ALTER TABLE {}", quoted(&table));
        let constraint = quote_ident(name);
        let statement = match is_proven {
            _ if !has_table => None,
            None => Some(format!("{alter} ADD CONSTRAINT {constraint} {definition}")),
            Some(false) if !definition.ends_with(NOT_VALID) => {
                Some(format!("{alter} VALIDATE CONSTRAINT {constraint}"))
            }
            Some(_) => None,
        };
        connection.run("BEGIN").await?;
        if let Some(sql) = statement {
            let made = connection.run(&sql).await;
            let of = row.opt_str(6)?.zip(row.opt_str(7)?);
            let of = of.map(|(schema, name)| TableName::new(schema, name));
            made.map_err(|error| told(error, &sql, of))?;
        }
        connection
            .execute(
                "DELETE FROM tidemark.foreign_key WHERE pipeline = $1 AND target_schema = $2 \
                 AND target_name = $3 AND name = $4",
                &[
                    Some(pipeline),
                    Some(&table.schema),
                    Some(&table.name),
                    Some(name),
                ],
            )
            .await?;
        connection.run("COMMIT").await?;
        failpoint::reached(failpoint::FOREIGN_KEY_MADE_AGAIN);
    }
    Ok(())
}

/// `of`: whose it is, on the source.
fn told(error: Error, sql: &str, of: Option<TableName>) -> Error {
    let error = error
        .context("make a foreign key again that was set aside")
        .first_action(format!("mend the rows, then run: {sql}"));
    match of {
        Some(table) => error.table(table.to_string()),
        None => error,
    }
}
