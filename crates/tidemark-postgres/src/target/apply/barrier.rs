//! What nothing may cross: truncates and changes of a table's shape.
//!
//! Changes of shape may come to a table that has them already: somebody may have made them on the
//! target, or left there what the source has dropped. So the target's catalog is asked first.

use tidemark_core::batch::{Item, SchemaChange};
use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::{Error, Result, failpoint};

use super::session::Step;
use super::stretch::{Ended, Work, narrow};
use crate::target::{reshape, without_heirs};
use crate::wire::{quote_ident, quote_literal, quote_qualified};

/// Name, type, whether it is of the primary key, so that it cannot be NULL, and what the table is; and
/// whether the target computes it.
const COLUMNS: &str = "SELECT attname, format_type(atttypid, atttypmod), \
       EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary \
               AND attnum = ANY (indkey)), \
       (SELECT relkind::text FROM pg_class c WHERE c.oid = attrelid), attgenerated <> '' \
     FROM pg_attribute \
     WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";

impl Work<'_> {
    /// Applies one item that is a barrier.
    pub(super) async fn barrier(&mut self, item: usize) -> Result<Ended> {
        let batch = self.batch;
        match &batch.items()[item] {
            Item::Change(_) => Ok(Ended::Done(Vec::new())),
            Item::Truncate {
                tables,
                restart_identity,
            } => self.truncate(item, tables, *restart_identity).await,
            Item::Schema { table, changes } => self.reshape(item, *table, changes).await,
        }
    }

    /// All in one statement, so that foreign keys among the tables do not stand in the way. What the source
    /// emptied with a table, because it inherits from it, is named beside it.
    async fn truncate(
        &mut self,
        item: usize,
        tables: &[usize],
        restart_identity: bool,
    ) -> Result<Ended> {
        let Some(first) = tables.first() else {
            return Ok(Ended::Done(Vec::new()));
        };
        let mut names = Vec::new();
        for table in tables {
            self.meet(*table).await?;
            names.push(self.of(*table).table.rows.clone());
        }
        let identity = if restart_identity {
            "RESTART"
        } else {
            "CONTINUE"
        };
        let sql = format!("TRUNCATE {} {identity} IDENTITY", names.join(", "));
        self.alone(&sql, step(*first, item)).await
    }

    async fn reshape(
        &mut self,
        item: usize,
        table: usize,
        changes: &[SchemaChange],
    ) -> Result<Ended> {
        let batch = self.batch;
        let mapping = &batch.tables()[table];
        for change in changes {
            let sql = self.statements(mapping, change).await?;
            for sql in sql {
                let ended = self.alone(&sql, step(table, item)).await?;
                if matches!(ended, Ended::Refused(..)) {
                    return Ok(ended);
                }
            }
            if let SchemaChange::AddColumn {
                name,
                default: Some(default),
                ..
            } = change
            {
                self.set_default(mapping, name, default, step(table, item))
                    .await?;
            }
        }
        failpoint::reached(failpoint::RESHAPED);
        self.known.forget(self.session, &mapping.target)?;
        for (place, met) in self.met.iter_mut().enumerate() {
            if batch.tables()[place].target == mapping.target {
                *met = None;
            }
        }
        Ok(Ended::Done(Vec::new()))
    }

    /// What is to be done for one change, as the table is now.
    async fn statements(
        &mut self,
        mapping: &TableMapping,
        change: &SchemaChange,
    ) -> Result<Vec<String>> {
        // The transaction first: what is seen must stay so.
        self.open()?;
        let name = name_of(mapping);
        let found = self.session.query(COLUMNS, &[Some(&name)]).await?;
        let mut columns = Vec::new();
        let mut generated = Vec::new();
        let mut rows = name.clone();
        for row in &found.rows {
            if row.get_bool(4)? {
                generated.push(row.get_str(0)?);
            }
            columns.push((row.get_str(0)?, row.get_str(1)?, row.get_bool(2)?));
            rows = without_heirs(&name, row.get_str(3)?);
        }
        let type_of = |column: &str| {
            let found = columns.iter().find(|(name, ..)| *name == column);
            found.map(|(_, type_name, _)| *type_name)
        };
        let is_key = |column: &str| columns.iter().any(|(name, _, key)| *name == column && *key);
        let alter = |what: String| format!("ALTER TABLE {name} {what}");
        Ok(match change {
            // Its values stay on the source too, and are written by us from now on.
            SchemaChange::AddColumn { name: column, .. }
                if generated.contains(&column.as_str()) =>
            {
                let column = quote_ident(column);
                vec![alter(format!("ALTER COLUMN {column} DROP EXPRESSION"))]
            }
            SchemaChange::AddColumn {
                name: column,
                type_name,
                fill,
                ..
            } if type_of(column).is_some() => {
                must_be(mapping, column, type_of(column), type_name)?;
                // Somebody was first, or it was kept when the source dropped one of this name.
                let (column, fill) = (quote_ident(column), fill.as_deref());
                let value = fill.map_or_else(|| "NULL".to_owned(), quote_literal);
                vec![format!(
                    "UPDATE {rows} SET {column} = {value} WHERE {column} IS NOT NULL \
                     OR {value} IS NOT NULL"
                )]
            }
            SchemaChange::AddColumn {
                name: column,
                type_name,
                fill,
                ..
            } => {
                let column = quote_ident(column);
                match fill {
                    None => vec![alter(format!("ADD COLUMN {column} {type_name}"))],
                    // A constant default fills old rows without writing them.
                    Some(fill) => vec![
                        alter(format!(
                            "ADD COLUMN {column} {type_name} DEFAULT {}",
                            quote_literal(fill)
                        )),
                        alter(format!("ALTER COLUMN {column} DROP DEFAULT")),
                    ],
                }
            }
            SchemaChange::DropColumn { name: column } if type_of(column).is_none() => vec![],
            SchemaChange::DropColumn { name: column } => {
                let connection = self.session.settled().await?;
                reshape::without_column(connection, &name, column).await?
            }
            SchemaChange::DropNotNull { name: column } => match type_of(column) {
                None => vec![],
                Some(_) if is_key(column) => vec![],
                Some(_) => vec![alter(format!(
                    "ALTER COLUMN {} DROP NOT NULL",
                    quote_ident(column)
                ))],
            },
            SchemaChange::RenameColumn { from, to } => match (type_of(from), type_of(to)) {
                (None, Some(_)) => vec![],
                _ => vec![alter(format!(
                    "RENAME COLUMN {} TO {}",
                    quote_ident(from),
                    quote_ident(to)
                ))],
            },
            SchemaChange::AlterType {
                name: column,
                type_name,
            } => match type_of(column) {
                Some(now) if now == type_name => vec![],
                _ => {
                    let column = quote_ident(column);
                    vec![alter(format!(
                        "ALTER COLUMN {column} TYPE {type_name} USING {column}::{type_name}"
                    ))]
                }
            },
        })
    }

    /// The default matters to nobody while we write every value, and it may call what is not on the
    /// target. So it is tried, and missed with a warning.
    async fn set_default(
        &mut self,
        mapping: &TableMapping,
        column: &str,
        default: &str,
        step: Step,
    ) -> Result<()> {
        let sql = format!(
            "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {default}",
            name_of(mapping),
            quote_ident(column)
        );
        self.session.run("SAVEPOINT tidemark_default", Step::Own)?;
        let Ended::Refused(_, said) = self.alone(&sql, step).await? else {
            self.session
                .run("RELEASE SAVEPOINT tidemark_default", Step::Own)?;
            return Ok(());
        };
        tracing::warn!(
            table = %mapping.target,
            column,
            sqlstate = said.sqlstate,
            "the target does not take the default of an added column; it stays without"
        );
        self.session
            .run("ROLLBACK TO SAVEPOINT tidemark_default", Step::Own)?;
        self.session
            .run("RELEASE SAVEPOINT tidemark_default", Step::Own)
    }

    /// Runs one statement and waits for it.
    async fn alone(&mut self, sql: &str, step: Step) -> Result<Ended> {
        self.open()?;
        self.session.run(sql, step)?;
        self.session.sync();
        let outcome = self.session.finish().await?;
        Ok(match outcome.refused {
            Some((step, said)) => Ended::Refused(step, said),
            None => Ended::Done(Vec::new()),
        })
    }
}

/// A column that is there already may have been meant for something else.
fn must_be(mapping: &TableMapping, column: &str, now: Option<&str>, wanted: &str) -> Result<()> {
    let Some(now) = now.filter(|now| *now != wanted) else {
        return Ok(());
    };
    let (table, source) = (&mapping.target, mapping.source().to_string());
    Err(Error::data(
        codes::SCHEMA_CHANGE_REFUSED,
        format!("{table} has a column {column} already, which is {now} and not {wanted}"),
    )
    .first_action(format!(
        "ALTER TABLE {} DROP COLUMN {}",
        name_of(mapping),
        quote_ident(column)
    ))
    .table(source))
}

/// A truncate that the server refuses although all our tables are in it: another table points to
/// one of them (PostgreSQL 15, `heap_truncate_check_FKs`).
pub(super) fn explain_truncate(error: Error) -> Error {
    match error.sqlstate_code() {
        Some("0A000") => error.with_code(codes::TRUNCATE_REFERENCED),
        _ => error,
    }
}

fn name_of(mapping: &TableMapping) -> String {
    quote_qualified(&mapping.target.schema, &mapping.target.name)
}

fn step(table: usize, item: usize) -> Step {
    Step::Change {
        table: narrow(table),
        item: narrow(item),
    }
}
