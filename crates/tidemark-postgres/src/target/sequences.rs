//! Sequences get the values that the source's have.
//!
//! A sequence of the target is found by the column that it belongs to (owned or identity, the
//! column by its target name), else by its own name. Those of columns that are not carried are left
//! alone. A sequence that was made for a column and has no owner yet is given to it.
//!
//! One that does not take its value (it is of another type, has another maximum, or is another role's)
//! keeps none of the others from theirs.

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;
use tidemark_core::source::SequenceValue;
use tidemark_core::{Error, ErrorKind, Result};

use super::catalog;
use super::names::{Schemas, quoted};
use crate::wire::{Connection, quote_ident};

/// Gives those that do not take their value, each as an error that names it.
pub(super) async fn set(
    connection: &mut Connection,
    values: &[SequenceValue],
    tables: &[TableMapping],
) -> Result<Vec<Error>> {
    let schemas = Schemas::of_tables(tables);
    let mut refused = Vec::new();
    for value in values {
        match set_one(connection, value, tables, &schemas).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Transient => {
                return Err(error.context(format!("set sequence {}", value.name)));
            }
            Err(error) => refused.push(refusal(value, error)),
        }
    }
    Ok(refused)
}

fn refusal(value: &SequenceValue, error: Error) -> Error {
    let text = format!(
        "sequence {} of the target stays where it was, and not at {}",
        value.name, value.last_value
    );
    Error::data(codes::SEQUENCE_REFUSED, text).caused_by(error)
}

async fn set_one(
    connection: &mut Connection,
    value: &SequenceValue,
    tables: &[TableMapping],
    schemas: &Schemas,
) -> Result<()> {
    let sequence = match &value.owner {
        None => by_name(connection, &schemas.target(&value.name)).await?,
        Some((table, column)) => {
            let Some(table) = tables.iter().find(|candidate| candidate.source() == table) else {
                return Ok(());
            };
            let Some(column) = table.target_column(column) else {
                return Ok(());
            };
            let mut found = of_column(connection, &table.target, column).await?;
            if found.is_none() {
                found = by_name(connection, &schemas.target(&value.name)).await?;
                if let Some(sequence) = &found {
                    give(connection, sequence, &table.target, column).await?;
                }
            }
            found
        }
    };
    let Some(sequence) = sequence else {
        return Ok(());
    };
    let last_value = value.last_value.to_string();
    let is_called = value.is_called.to_string();
    let params = [Some(sequence.as_str()), Some(&last_value), Some(&is_called)];
    connection
        .query(
            "SELECT setval($1::regclass, $2::int8, $3::boolean)",
            &params,
        )
        .await?;
    Ok(())
}

/// The sequence behind a column, quoted.
async fn of_column(
    connection: &mut Connection,
    table: &TableName,
    column: &str,
) -> Result<Option<String>> {
    if catalog::relation(connection, table).await?.is_none() {
        return Ok(None);
    }
    let found = connection
        .query(
            "SELECT pg_get_serial_sequence($1, $2)",
            &[Some(&quoted(table)), Some(column)],
        )
        .await?;
    found.one()?.opt(0)
}

async fn by_name(connection: &mut Connection, name: &TableName) -> Result<Option<String>> {
    let found = catalog::relation(connection, name).await?;
    Ok(found
        .filter(catalog::Relation::is_sequence)
        .map(|_| quoted(name)))
}

async fn give(
    connection: &mut Connection,
    sequence: &str,
    table: &TableName,
    column: &str,
) -> Result<()> {
    let (table, column) = (quoted(table), quote_ident(column));
    let sql = format!("ALTER SEQUENCE {sequence} OWNED BY {table}.{column}");
    connection.run(&sql).await
}
