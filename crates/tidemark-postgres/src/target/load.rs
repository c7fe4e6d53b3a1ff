//! Writing the rows of a unit: one transaction, bytes passed on unread.
//!
//! ```text
//!   BEGIN; [DELETE of the range;] COPY … FROM STDIN   one message
//!   CopyData, as it was read from the source          the next block is read while one is written
//!   unit row, fence                                   after the server has counted the rows
//!   COMMIT
//! ```
//!
//! So a unit is in together with its record, or neither is. After an error the connection is
//! given up, which makes the server undo what was open.
//!
//! An answer to `COMMIT` may be lost, and the server may come to that `COMMIT` long after we have
//! looked whether the unit is in and begun to write it again. So whoever records a unit second
//! finds it in, and gives its own rows up.

use async_trait::async_trait;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Unit;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;
use tidemark_core::source::{RowFormat, RowStream};
use tidemark_core::target::{LoadUnit, LoadedPart, Loader, Replace};
use tidemark_core::{Context, Error, ErrorKind, Result, failpoint};

use super::Triggers;
use super::checkpoint::{self, Writer};
use super::names::{quoted, table_at};
use crate::error::server_error;
use crate::source::select;
use crate::wire::{Connection, CopyIn, quote_ident};

/// One worker's connection for loading.
#[derive(Debug)]
pub(super) struct PgLoader {
    connection: Connection,
    writer: Writer,
    triggers: Triggers,
    is_usable: bool,
}

impl PgLoader {
    pub(super) fn new(connection: Connection, writer: Writer, triggers: Triggers) -> PgLoader {
        PgLoader {
            connection,
            writer,
            triggers,
            is_usable: true,
        }
    }

    /// Where foreign keys cannot be kept still, a row that is only replaced would take others with it that
    /// refer to it, and nothing brings these back.
    async fn refuse_cascades(&mut self, table: &TableName) -> Result<()> {
        if self.triggers == Triggers::KeepStill {
            return Ok(());
        }
        // c, n, d: CASCADE, SET NULL, SET DEFAULT (PostgreSQL 15, 53.13). The others are refusals.
        let found = self
            .connection
            .query(
                "SELECT k.conname, k.conrelid::regclass::text FROM pg_constraint k \
                 JOIN pg_class c ON c.oid = k.confrelid \
                 JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2 AND k.contype = 'f' \
                   AND k.confdeltype IN ('c', 'n', 'd') ORDER BY 1 LIMIT 1",
                &[Some(&table.schema), Some(&table.name)],
            )
            .await?;
        let Some(key) = found.rows.first() else {
            return Ok(());
        };
        let (name, of) = (key.get_str(0)?, key.get_str(1)?);
        Err(Error::data(
            codes::TARGET_FOREIGN_KEY,
            format!("foreign key {name} of {of} would act on rows that are only replaced"),
        ))
    }

    async fn load_unit(
        &mut self,
        mapping: &TableMapping,
        unit: &LoadUnit<'_>,
        rows: &mut dyn RowStream,
        progress: &(dyn Fn(LoadedPart) + Send + Sync),
    ) -> Result<LoadedPart> {
        let mut sql = "BEGIN; ".to_owned();
        if unit.replace == Replace::Range {
            let table = table_at(mapping, unit.place);
            self.refuse_cascades(&table).await?;
            let rows = super::catalog::rows_of(&mut self.connection, &table).await?;
            sql.push_str(&delete_statement(mapping, unit, &rows)?);
            sql.push_str("; ");
        }
        sql.push_str(&copy_statement(mapping, unit));
        let mut copy = self.connection.copy_in(&sql).await?;
        let sent = pass_on(&mut copy, rows, progress).await.map_err(of_a_row)?;
        let written = copy.finish().await.map_err(of_a_row)?;
        if written != sent.rows {
            let text = format!("{} rows were sent, the table took {written}", sent.rows);
            return Err(Error::data(codes::ROW_LEFT_OUT, text));
        }
        let loaded = Unit {
            tidemark: Some(unit.tidemark.clone()),
            is_loaded: true,
            // Rows that take the place of others are no more of them.
            rows: match unit.replace {
                Replace::Nothing => written,
                Replace::Range => unit.unit.rows,
            },
            ..unit.unit.clone()
        };
        let writes = [
            self.writer.unit(mapping.source(), &loaded),
            self.writer.advance(None),
        ];
        let counts = checkpoint::run(&mut self.connection, &writes).await?;
        if counts.first() != Some(&1) {
            return Err(Error::transient(
                codes::TARGET_CONFLICT,
                "target: an earlier attempt at this unit was committed after all",
            ));
        }
        failpoint::reached(failpoint::UNIT_WRITTEN);
        self.connection.run("COMMIT").await?;
        Ok(sent)
    }
}

#[async_trait]
impl Loader for PgLoader {
    async fn load(
        &mut self,
        mapping: &TableMapping,
        unit: &LoadUnit<'_>,
        rows: &mut dyn RowStream,
        progress: &(dyn Fn(LoadedPart) + Send + Sync),
    ) -> Result<LoadedPart> {
        // Stays so if the future is dropped on the way.
        self.is_usable = false;
        let part = self
            .load_unit(mapping, unit, rows, progress)
            .await
            .context(|| format!("write {} to {}", mapping.source(), mapping.target))
            .map_err(|error| error.table(mapping.source().to_string()))?;
        self.is_usable = true;
        Ok(part)
    }

    fn is_usable(&self) -> bool {
        self.is_usable
    }
}

/// What the target says of a row that it is given is a matter of this row, whatever it is: a value that is
/// the name of what is not there (`regclass`), a check whose function is missing, a key too large for an
/// index. It names the row then (`CopyFromErrorCallback`, PostgreSQL 15). A right can be given back.
fn of_a_row(error: Error) -> Error {
    let said = server_error(&error).and_then(|said| said.context.as_deref());
    let names_a_row = said.is_some_and(|at| at.lines().any(|line| line.starts_with("COPY ")));
    let is_right = error.code() == codes::TARGET_PERMISSION;
    if names_a_row && !is_right && error.kind() == ErrorKind::Definite {
        return error.with_kind(ErrorKind::Data);
    }
    error
}

/// Passes all blocks on. While one is written the next is read, so that neither server waits for
/// the other longer than it must.
async fn pass_on(
    copy: &mut CopyIn<'_>,
    rows: &mut dyn RowStream,
    progress: &(dyn Fn(LoadedPart) + Send + Sync),
) -> Result<LoadedPart> {
    let mut total = LoadedPart::default();
    let mut next = rows.next().await?;
    while let Some(block) = next {
        let part = LoadedPart {
            rows: block.rows,
            bytes: block.bytes.len() as u64,
        };
        let ((), read) = tokio::try_join!(copy.write_frames(&block.bytes), rows.next())?;
        next = read;
        total.rows += part.rows;
        total.bytes += part.bytes;
        progress(part);
    }
    Ok(total)
}

fn copy_statement(mapping: &TableMapping, unit: &LoadUnit<'_>) -> String {
    let columns: Vec<String> = mapping
        .columns
        .iter()
        .map(|column| quote_ident(&column.target))
        .collect();
    let format = match unit.format {
        RowFormat::PgCopyBinary => "binary",
        RowFormat::PgCopyText => "text",
    };
    // An empty list of columns cannot be written; a table of which none is carried has no others.
    let columns = match columns.as_slice() {
        [] => String::new(),
        _ => format!(" ({})", columns.join(", ")),
    };
    let table = quoted(&table_at(mapping, unit.place));
    format!("COPY {table}{columns} FROM STDIN (FORMAT {format})")
}

/// Removes the rows of the unit's chunk from a table.
fn delete_statement(mapping: &TableMapping, unit: &LoadUnit<'_>, table: &str) -> Result<String> {
    let condition = select::target_condition(mapping, &unit.unit.chunk)?;
    let conditions: Vec<String> = condition.into_iter().collect();
    let from = format!("FROM {table}");
    Ok(format!("DELETE {}", select::where_all(&from, &conditions)))
}
