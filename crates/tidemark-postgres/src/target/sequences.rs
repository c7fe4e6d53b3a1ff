//! Sequence values, set to what the source has.

use tidemark_core::mapping::TableMapping;
use tidemark_core::source::SequenceValue;
use tidemark_core::{Context, Result};

use super::names::{Schemas, quoted};
use crate::wire::Connection;

/// Sets every sequence that is there: those that a carried column owns by the column, others by name.
pub(super) async fn set(
    connection: &mut Connection,
    values: &[SequenceValue],
    tables: &[TableMapping],
) -> Result<()> {
    let schemas = Schemas::of(
        tables
            .iter()
            .map(|t| (t.source().schema.as_str(), t.target.schema.as_str())),
    );
    for value in values {
        let owner = value.owner.as_ref().and_then(|(table, column)| {
            let mapping = tables.iter().find(|mapping| mapping.source() == table)?;
            Some((
                quoted(&mapping.target),
                mapping.target_column(column)?.to_owned(),
            ))
        });
        let by_column = match &owner {
            Some((table, column)) => owned(connection, table, column).await?,
            None => None,
        };
        let name = by_column.unwrap_or_else(|| quoted(&schemas.target(&value.name)));
        let (last, called) = (value.last_value.to_string(), value.is_called.to_string());
        connection
            .query(
                "SELECT setval(to_regclass($1), $2::bigint, $3::boolean) \
                 WHERE to_regclass($1) IS NOT NULL",
                &[Some(&name), Some(&last), Some(&called)],
            )
            .await
            .context(|| format!("set sequence {name}"))?;
    }
    Ok(())
}

/// The sequence behind a column, in quotes.
async fn owned(connection: &mut Connection, table: &str, column: &str) -> Result<Option<String>> {
    let found = connection
        .query(
            "SELECT CASE WHEN EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) \
               AND attname = $2 AND NOT attisdropped) THEN pg_get_serial_sequence($1, $2) END",
            &[Some(table), Some(column)],
        )
        .await?;
    found.one()?.opt(0)
}
