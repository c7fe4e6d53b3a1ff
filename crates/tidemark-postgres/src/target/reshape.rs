//! A table that is about to be loaded anew where it is, and has another shape than its rows will have.
//!
//! It stays the table that it is, with all that hangs on it: who may read it, how it is cut, what somebody
//! has indexed. So columns that have another name get it, those that the source has no more go, and
//! what does not fit then ([`super::fit`]) is changed once the table is empty: no value of before matters,
//! whatever type it is of. Nothing is touched, nor emptied, where all is right.
//!
//! What cannot be changed stays, and [`super::prepare`] says what does not fit.

use tidemark_core::batch::SchemaChange;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{ColumnDefault, TableSchema};
use tidemark_core::{Error, Result};

use super::checkpoint::{self, Writer};
use super::create::{self, Extent, NewTable};
use super::fit::{self, Problem};
use super::names::quoted;
use super::prepare::{attempt, type_numbers};
use super::{Triggers, catalog, existing};
use crate::schema::describe_one;
use crate::wire::{Connection, quote_ident};

/// One call of [`tidemark_core::target::Target::reshape`].
#[derive(Debug)]
pub(super) struct Reshaping<'a> {
    pub(super) mapping: &'a TableMapping,
    /// Columns that were the source's under other names, or are so no more.
    pub(super) changes: &'a [SchemaChange],
    pub(super) writer: Writer,
    pub(super) triggers: Triggers,
}

impl Reshaping<'_> {
    /// Runs in a transaction of its own; whether the table was touched.
    pub(super) async fn run(&self, connection: &mut Connection) -> Result<bool> {
        connection.run("BEGIN").await?;
        let done = self.in_transaction(connection).await;
        done.map_err(|error: Error| {
            error
                .context(format!("reshape {}", self.mapping.target))
                .table(self.mapping.source().to_string())
        })
    }

    async fn in_transaction(&self, connection: &mut Connection) -> Result<bool> {
        let name = &self.mapping.target;
        let found = catalog::relation(connection, name).await?;
        let Some(found) = found.filter(|found| found.obstacle().is_none()) else {
            connection.run("ROLLBACK").await?;
            return Ok(false);
        };
        let schemas = catalog::schemas(connection, &self.writer.pipeline, self.mapping).await?;
        let moved = catalog::moved(connection, &schemas, create::texts(self.mapping)).await?;
        let numbers = type_numbers(connection, self.mapping, &schemas).await?;
        let new = NewTable {
            mapping: self.mapping,
            name,
            moved: &moved,
        };
        let mut is_touched = false;
        // Names first: what fits is asked of the table that comes of them.
        for step in [Step::Names, Step::Fit] {
            let have = describe_one(connection, name, found.oid).await?;
            let Some(have) = have else { break };
            let statements = match step {
                Step::Names => self.names(connection, &have).await?,
                Step::Fit => {
                    let problems = fit::problems(self.mapping, &numbers, &have);
                    problems.iter().flat_map(|it| mend(&new, it)).collect()
                }
            };
            if statements.is_empty() {
                continue;
            }
            if !is_touched {
                let table = existing::Table {
                    name,
                    oid: found.oid,
                    pipeline: &self.writer.pipeline,
                };
                table.empty(connection, self.triggers).await?;
                is_touched = true;
            }
            for statement in statements {
                if let Some(error) = attempt(connection, &statement).await? {
                    tracing::debug!("{statement}: {error}");
                }
            }
        }
        if is_touched {
            checkpoint::commit_open(connection, &[self.writer.advance(None)]).await?;
        } else {
            connection.run("ROLLBACK").await?;
        }
        Ok(is_touched)
    }

    /// What gives columns their names, and takes off those that are gone.
    async fn names(&self, connection: &mut Connection, have: &TableSchema) -> Result<Vec<String>> {
        let table = quoted(&self.mapping.target);
        let is_there = |name: &str| have.columns.iter().any(|column| column.name == name);
        let mut statements = Vec::new();
        for change in self.changes {
            match change {
                SchemaChange::RenameColumn { from, to } if is_there(from) && !is_there(to) => {
                    let (from, to) = (quote_ident(from), quote_ident(to));
                    statements.push(format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}"));
                }
                SchemaChange::DropColumn { name } if is_there(name) => {
                    statements.extend(without_column(connection, &table, name).await?);
                }
                _ => {}
            }
        }
        Ok(statements)
    }
}

enum Step {
    Names,
    Fit,
}

/// What mends a table without rows.
fn mend(new: &NewTable<'_>, problem: &Problem<'_>) -> Vec<String> {
    let table = quoted(new.name);
    let alter = |name: &str, what: &str| {
        let name = quote_ident(name);
        format!("ALTER TABLE {table} ALTER COLUMN {name} {what}")
    };
    match problem {
        Problem::Missing(column) => {
            let line = new.column(column, Extent::Bare);
            let mut statements = vec![format!("ALTER TABLE {table} ADD COLUMN {line}")];
            // By itself: it may call what is not here.
            let source = new.mapping.source_column(column);
            let extras = new.extras().into_iter();
            let of_column = extras.filter(|(name, _)| name == source);
            statements.extend(of_column.map(|(_, statement)| statement));
            statements
        }
        Problem::Generated(column) => vec![alter(&column.target, "DROP EXPRESSION")],
        Problem::OtherType { column, found, .. } => {
            let wanted = new.declared(column);
            let to = format!("TYPE {wanted} USING NULL");
            let mut statements = vec![alter(&column.target, &to)];
            // Of another type it may not be a value.
            if matches!(found.default, ColumnDefault::Expression(_)) {
                statements.insert(0, alter(&column.target, "DROP DEFAULT"));
            }
            statements
        }
        Problem::RefusesNull(column) => vec![alter(&column.target, "DROP NOT NULL")],
        Problem::Alone(column) => vec![alter(&column.name, "DROP NOT NULL")],
        Problem::NotGenerated(_) => Vec::new(),
    }
}

/// Generated columns that are computed from a column.
const COMPUTED: &str = "SELECT g.attname FROM pg_attribute c JOIN pg_attribute g \
       ON g.attrelid = c.attrelid AND g.attgenerated <> '' AND NOT g.attisdropped \
     WHERE c.attrelid = to_regclass($1) AND c.attname = $2 AND EXISTS ( \
       SELECT FROM pg_depend d LEFT JOIN pg_attrdef f \
         ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid \
       WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.attrelid \
         AND d.refobjsubid = c.attnum AND (f.adrelid = g.attrelid AND f.adnum = g.attnum \
           OR d.classid = 'pg_class'::regclass AND d.objid = g.attrelid \
              AND d.objsubid = g.attnum))";

/// A column goes with those that the target computes from it: the source has none of them any more.
pub(super) async fn without_column(
    connection: &mut Connection,
    table: &str,
    column: &str,
) -> Result<Vec<String>> {
    let found = connection
        .query(COMPUTED, &[Some(table), Some(column)])
        .await?;
    let mut gone = Vec::new();
    for row in &found.rows {
        gone.push(row.get_str(0)?.to_owned());
    }
    gone.push(column.to_owned());
    let gone = gone.iter().map(|column| quote_ident(column));
    Ok(gone
        .map(|column| format!("ALTER TABLE {table} DROP COLUMN {column}"))
        .collect())
}
