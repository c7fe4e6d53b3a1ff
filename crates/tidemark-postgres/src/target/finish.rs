//! What is made after the rows: keys, indexes, checks, statistics.
//!
//! May be repeated, and is after a crash: what is there by name, or does the same, stays. Each is a
//! transaction of its own, so nothing that took an hour is lost to what comes after it.
//!
//! What needs a column, a function or an operator that is not on the target is left out with a
//! warning; the table is right without it. A key that the rows do not have is an error of the
//! table.

use std::collections::BTreeMap;

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{Check, IndexKind, TableName, TableSchema};
use tidemark_core::target::Place;
use tidemark_core::{Context, Error, Result, failpoint};

use super::create::{self, renamed};
use super::indexes::{self, Wanted};
use super::names::{quoted, table_at};
use super::{catalog, wording};
use crate::schema::describe_one;
use crate::wire::{Connection, quote_ident};

/// What building an index may use before it goes to disk: the server's own setting is for
/// autovacuum and small (64 MB), and here few builds run, for a short time.
const MORE_MEMORY: &str = "SELECT set_config('maintenance_work_mem', greatest(\
     pg_size_bytes(current_setting('maintenance_work_mem')), 268435456)::text || 'B', false)";

/// What to do where a definition refers to something that is not there.
pub(super) const MAKE_WHAT_IS_NAMED: &str =
    "make on the target what the message names, as the source has it: tidemark plan lists it";

/// One table that is to be finished.
#[derive(Debug)]
struct Finish<'a> {
    mapping: &'a TableMapping,
    place: Place,
    name: TableName,
    have: TableSchema,
    /// Names within definitions that go by another name here.
    moved: BTreeMap<TableName, TableName>,
}

/// Makes what was deferred for one table.
pub(super) async fn finish(
    connection: &mut Connection,
    pipeline: &str,
    mapping: &TableMapping,
    place: Place,
) -> Result<()> {
    let finished = async {
        connection.query(MORE_MEMORY, &[]).await?;
        let name = table_at(mapping, place);
        let have = describe(connection, &name).await?;
        let schemas = catalog::schemas(connection, pipeline, mapping).await?;
        let moved = catalog::moved(connection, &schemas, create::texts(mapping)).await?;
        let finish = Finish {
            mapping,
            place,
            name,
            have,
            moved,
        };
        finish.make_all(connection).await
    };
    finished.await.map_err(|error| {
        error
            .context(format!("finish {}", mapping.target))
            .table(mapping.source().to_string())
    })
}

/// The table as it is on the target.
pub(super) async fn describe(connection: &mut Connection, name: &TableName) -> Result<TableSchema> {
    let gone = || {
        Error::data(
            codes::TARGET_TABLE_MISSING,
            format!("{name} is gone from the target"),
        )
    };
    let found = catalog::relation(connection, name)
        .await?
        .ok_or_else(gone)?;
    describe_one(connection, name, found.oid)
        .await?
        .ok_or_else(gone)
}

impl Finish<'_> {
    async fn make_all(&self, connection: &mut Connection) -> Result<()> {
        for wanted in self.wanted_indexes(connection).await? {
            self.make_index(connection, &wanted).await?;
            failpoint::reached(failpoint::INDEX_MADE);
        }
        // No ANALYZE: autovacuum sees a freshly filled table within its next round (PostgreSQL 15,
        // 25.1.6), what we ask of the table needs no statistics, and waiting for them here costs as
        // much as a fifth of a load.
        self.make_checks(connection).await
    }

    /// The source's indexes; beside, also those that somebody has made by hand on the table that will be
    /// replaced.
    async fn wanted_indexes(&self, connection: &mut Connection) -> Result<Vec<Wanted>> {
        let mut wanted = Vec::new();
        for index in indexes::of_source(self.mapping, &self.moved) {
            match index {
                Ok(index) => wanted.push(index),
                Err((name, why)) => self.leave_out("index", &name, why),
            }
        }
        if self.place == Place::Beside
            && let Some(old) = self.old_table(connection).await?
        {
            for index in indexes::of_target(&old) {
                self.add_by_hand(&mut wanted, index);
            }
        }
        Ok(wanted)
    }

    /// What the target's table has counts for one of the source that does the same, or has its name and
    /// refuses nothing. Where both tell rows apart, each in its way, the source's way counts.
    fn add_by_hand(&self, wanted: &mut Vec<Wanted>, by_hand: Wanted) {
        let index = &by_hand.index;
        let same = wanted.iter_mut().find(|other| {
            let are_keys = [other.index.kind, index.kind] == [IndexKind::PrimaryKey; 2];
            are_keys || other.index.name == index.name || indexes::is_same(&other.index, index)
        });
        match same {
            None => wanted.push(by_hand),
            Some(other) => {
                let are_plain = [other.index.kind, index.kind] == [IndexKind::Plain; 2];
                if are_plain || indexes::is_same(&other.index, index) {
                    *other = Wanted {
                        is_by_hand: false,
                        ..by_hand
                    };
                } else if other.index.columns != index.columns {
                    self.leave_out("index", &index.name, "the source has another one for it");
                }
            }
        }
    }

    async fn old_table(&self, connection: &mut Connection) -> Result<Option<TableSchema>> {
        let Some(found) = catalog::relation(connection, &self.mapping.target).await? else {
            return Ok(None);
        };
        describe_one(connection, &self.mapping.target, found.oid).await
    }

    async fn make_index(&self, connection: &mut Connection, wanted: &Wanted) -> Result<()> {
        let own = match self.place {
            Place::InPlace => wanted.index.name.clone(),
            Place::Beside => indexes::name_beside(&self.mapping.target, &wanted.index.name),
        };
        let other = indexes::other_name(&self.mapping.target, &own);
        if indexes::is_there(&self.have, &wanted.index, &[&own, &other]) {
            return Ok(());
        }
        let in_schema = TableName::new(&self.name.schema, &own);
        let name = match catalog::relation(connection, &in_schema).await? {
            Some(_) => {
                tracing::info!(table = %self.name, index = own, made_as = other, "name is taken");
                other
            }
            None => own,
        };
        let table = quoted(&self.name);
        let made = if let Some(index) = &wanted.in_source_words {
            let statement = indexes::statement(&table, index, &name);
            self.in_source_names(connection, &statement).await
        } else {
            let statement = indexes::statement(&table, &wanted.index, &name);
            connection.run(&statement).await
        };
        let Err(error) = made else {
            return Ok(());
        };
        let goes_without = if is_not_owner(&error) {
            !self.is_ours(connection).await?
        } else {
            may_go_without(wanted, &error)
        };
        if !goes_without {
            return Err(error.context(format!("make index {}", wanted.index.name)));
        }
        self.leave_out("index", &wanted.index.name, error.to_string());
        Ok(())
    }

    /// A table of somebody else's is taken with the keys that it has. What may not be added to one of
    /// ours, such as an index where no relation may be made any more, may not be left out in silence.
    async fn is_ours(&self, connection: &mut Connection) -> Result<bool> {
        let sql = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass($1)";
        let found = connection.query(sql, &[Some(&quoted(&self.name))]).await?;
        found.rows.first().map_or(Ok(false), |row| row.get_bool(0))
    }

    /// All that are missing by one statement, which reads the table once.
    async fn make_checks(&self, connection: &mut Connection) -> Result<()> {
        let mut checks = Vec::new();
        if self.place == Place::Beside
            && let Some(old) = self.old_table(connection).await?
        {
            checks = old.checks;
        }
        let (mut by_target, mut by_source) = (Vec::new(), Vec::new());
        for check in &self.mapping.schema.checks {
            if let Some(why) = self.mapping.check_obstacle(check) {
                self.leave_out("check", &check.name, why);
            } else if checks.iter().all(|other| other.name != check.name) {
                let wanted = if self.is_renamed(check) {
                    &mut by_source
                } else {
                    &mut by_target
                };
                let definition = wording::replace(&check.definition, &self.moved);
                wanted.push((check.name.clone(), definition));
            }
        }
        by_target.extend(
            checks
                .into_iter()
                .map(|check| (check.name, check.definition)),
        );
        self.add_checks(connection, by_target, false).await?;
        self.add_checks(connection, by_source, true).await
    }

    async fn add_checks(
        &self,
        connection: &mut Connection,
        mut checks: Vec<(String, String)>,
        in_source_words: bool,
    ) -> Result<()> {
        checks.retain(|(name, _)| self.have.checks.iter().all(|found| found.name != *name));
        let all: Vec<&(String, String)> = checks.iter().collect();
        match self.add(connection, &all, in_source_words).await {
            // One of them is the reason; the others are to be made all the same.
            Err(error) if is_about_definition(&error) || is_not_owner(&error) => {}
            made => return made,
        }
        for check in &checks {
            match self.add(connection, &[check], in_source_words).await {
                Err(error) if is_about_definition(&error) || is_not_owner(&error) => {
                    self.leave_out("check", &check.0, error.to_string());
                }
                made => made?,
            }
        }
        Ok(())
    }

    async fn add(
        &self,
        connection: &mut Connection,
        checks: &[&(String, String)],
        in_source_words: bool,
    ) -> Result<()> {
        if checks.is_empty() {
            return Ok(());
        }
        let additions: Vec<String> = checks
            .iter()
            .map(|(name, definition)| format!("ADD CONSTRAINT {} {definition}", quote_ident(name)))
            .collect();
        let statement = format!(
            "ALTER TABLE {} {}",
            quoted(&self.name),
            additions.join(", ")
        );
        let made = if in_source_words {
            self.in_source_names(connection, &statement).await
        } else {
            connection.run(&statement).await
        };
        made.context(|| format!("make check {}", checks[0].0))
    }

    fn is_renamed(&self, check: &Check) -> bool {
        renamed(self.mapping)
            .iter()
            .any(|(source, _)| check.columns.contains(source))
    }

    /// Runs a statement while the columns have their source names.
    async fn in_source_names(&self, connection: &mut Connection, statement: &str) -> Result<()> {
        let table = quoted(&self.name);
        let statements = create::in_source_names(self.mapping, &self.have, &table, statement);
        let done = connection.run(&statements.join("; ")).await;
        if done.is_err() {
            connection.run("ROLLBACK").await?;
        }
        done
    }

    fn leave_out(&self, what: &str, name: &str, why: impl std::fmt::Display) {
        tracing::warn!(
            code = %codes::TARGET_NOT_CARRIED,
            table = %self.name,
            "{what} {name} is not carried: {why}"
        );
    }
}

/// Whether a table of ours is right without what was refused: it has its primary key. What is not the
/// source's, such as a key that it has given up, must not keep the source's rows out.
fn may_go_without(wanted: &Wanted, error: &Error) -> bool {
    if wanted.is_by_hand && is_about_rows(error) {
        return true;
    }
    let is_key = wanted.index.kind == IndexKind::PrimaryKey && !wanted.is_by_hand;
    !is_key && is_about_definition(error)
}

/// Rows that are twice there, exclude each other, or lack a value.
fn is_about_rows(error: &Error) -> bool {
    matches!(error.sqlstate_code(), Some("23505" | "23P01" | "23502"))
}

/// Only a table's owner may add to it.
pub(super) fn is_not_owner(error: &Error) -> bool {
    error.sqlstate_code() == Some("42501")
}

/// Class 42: what a definition refers to is not there or does not fit; 3F: nor is its schema; 0A: not in
/// this version.
pub(super) fn is_about_definition(error: &Error) -> bool {
    let sqlstate = error.sqlstate_code().unwrap_or_default();
    let is_class = |class: &&str| sqlstate.starts_with(*class);
    ["42", "3F", "0A"].iter().any(is_class) && sqlstate != "42501"
}
