//! A table that is ready for rows: made anew, or found to fit.
//!
//! Everything about one table happens in one transaction, the record of its units included, so a
//! half-made table is never seen: not by readers, and not by the next start.
//!
//! What becomes of a table that is there is [`Existing`]'s choice; [`super::existing`] carries it
//! out. Whatever it is, the rows must fit ([`super::fit`]).

use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{KnownShape, TableCheckpoint, TableState, Unit};
use tidemark_core::mapping::{TableMapping, TargetType};
use tidemark_core::schema::TableName;
use tidemark_core::source::RowFormat;
use tidemark_core::target::{Existing, Place, Prepared};
use tidemark_core::{Error, ErrorKind, Result};

use super::catalog::{self, Relation};
use super::checkpoint::{self, Writer};
use super::create::{self, Extent, NewTable};
use super::fit::{self, TypeNumbers};
use super::names::{quoted, table_at};
use super::{Triggers, claim, existing, finish, names::Schemas, objects, swap};
use crate::schema::{FIRST_USER_OID, describe_one};
use crate::wire::{Connection, quote_ident};

/// One call of [`tidemark_core::target::Target::prepare`].
#[derive(Debug)]
pub(super) struct Preparation<'a> {
    pub(super) mapping: &'a TableMapping,
    pub(super) existing: Existing,
    pub(super) place: Place,
    pub(super) units: &'a [Unit],
    pub(super) writer: Writer,
    pub(super) triggers: Triggers,
    /// Whether this run has claimed the table. One that it began without, it may have a record of all the same.
    pub(super) is_claimed: bool,
}

/// What the table is like once it is ready.
struct Ready {
    format: RowFormat,
    rows: Rows,
}

/// What becomes of rows that units say are in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// They are what the units say.
    AsRecorded,
    /// None are there.
    None,
    /// The table is left as it is and counts as loaded.
    Kept,
}

impl Preparation<'_> {
    /// Runs in a transaction of its own.
    pub(super) async fn run(&self, connection: &mut Connection) -> Result<Prepared> {
        self.in_transaction(connection).await.map_err(|error| {
            error
                .context(format!("prepare {}", self.mapping.target))
                .table(self.mapping.source().to_string())
        })
    }

    async fn in_transaction(&self, connection: &mut Connection) -> Result<Prepared> {
        connection.run("BEGIN").await?;
        let place = self.place(connection).await?;
        let name = table_at(self.mapping, place);
        let found = catalog::relation(connection, &name).await?;
        let ready = match (place, found) {
            (Place::Beside, found) => {
                if found.is_some() {
                    // A leftover of an earlier attempt; by its name it can be nobody else's.
                    let drop = format!("DROP TABLE {}", quoted(&name));
                    connection.run(&drop).await?;
                }
                let ready = self.make(connection, &name).await?;
                let new = finish::describe(connection, &name).await?;
                let pipeline = &self.writer.pipeline;
                swap::check(connection, pipeline, &self.mapping.target, &new).await?;
                ready
            }
            (Place::InPlace, None) => self.missing(connection, &name).await?,
            (Place::InPlace, Some(found)) => self.found(connection, &name, &found).await?,
        };
        let units = self.units(ready.rows);
        let pipeline = &self.writer.pipeline;
        if !self.is_claimed {
            // After what may wait for readers of the table, since all others who claim wait for this.
            claim::claim(connection, pipeline, &[&self.mapping.target])
                .await
                .map_err(|error| error.table(self.mapping.source().to_string()))?;
        }
        claim::displace(connection, pipeline, &[&self.mapping.target]).await?;
        let mut writes = vec![self.writer.new_table(&self.table())];
        writes.extend(self.writer.units(self.mapping.source(), &units));
        writes.push(self.writer.advance(None));
        checkpoint::commit_open(connection, &writes).await?;
        Ok(Prepared {
            format: ready.format,
            is_skipped: ready.rows == Rows::Kept,
            place,
            loaded_units: units
                .iter()
                .filter(|unit| unit.is_loaded)
                .map(|unit| unit.number)
                .collect(),
        })
    }

    /// A table that is to be swapped and is not there is made in its place: nobody reads it.
    async fn place(&self, connection: &mut Connection) -> Result<Place> {
        if self.existing != Existing::Swap {
            return Ok(self.place);
        }
        let found = catalog::relation(connection, &self.mapping.target).await?;
        Ok(found.map_or(Place::InPlace, |_| Place::Beside))
    }

    async fn missing(&self, connection: &mut Connection, name: &TableName) -> Result<Ready> {
        if self.existing == Existing::AppendIfEmpty {
            return Err(Error::definite(
                codes::TARGET_TABLE_MISSING,
                format!(
                    "{name} is not there, and target.existing = \"append_if_empty\" makes none"
                ),
            ));
        }
        let is_loaded = self.units.iter().any(|unit| unit.is_loaded);
        if self.existing == Existing::Resume && is_loaded {
            return Err(Error::data(
                codes::TARGET_TABLE_MISSING,
                format!("{name} is gone, although rows of it were loaded"),
            ));
        }
        self.make(connection, name).await
    }

    async fn found(
        &self,
        connection: &mut Connection,
        name: &TableName,
        found: &Relation,
    ) -> Result<Ready> {
        if let Some(obstacle) = found.obstacle() {
            return Err(Error::definite(
                codes::TARGET_NOT_A_TABLE,
                format!("{name} {obstacle}"),
            ));
        }
        if self.existing == Existing::Fail {
            return Err(Error::definite(
                codes::TARGET_TABLE_EXISTS,
                format!("{name} exists, and target.existing = \"fail\""),
            ));
        }
        let table = existing::Table {
            name,
            oid: found.oid,
            pipeline: &self.writer.pipeline,
        };
        if self.existing == Existing::Drop {
            table.drop(connection).await?;
            return self.make(connection, name).await;
        }
        let format = self.check_fit(connection, name, found.oid).await?;
        let rows = match self.existing {
            Existing::Truncate => {
                table.empty(connection, self.triggers).await?;
                Rows::None
            }
            // Units are recorded with their rows, so there are no rows but those that are recorded;
            // and a repair replaces rows of a table that is full.
            Existing::Resume => Rows::AsRecorded,
            _ if !catalog::has_rows(connection, &quoted(name)).await? => Rows::None,
            Existing::SkipLoaded => Rows::Kept,
            _ => {
                return Err(Error::definite(
                    codes::TARGET_TABLE_NOT_EMPTY,
                    format!("{name} has rows"),
                ));
            }
        };
        Ok(Ready { format, rows })
    }

    /// Sees that every row fits the table.
    async fn check_fit(
        &self,
        connection: &mut Connection,
        name: &TableName,
        oid: u32,
    ) -> Result<RowFormat> {
        let gone = || Error::transient(codes::TARGET_CONFLICT, format!("{name} is gone again"));
        let have = describe_one(connection, name, oid)
            .await?
            .ok_or_else(gone)?;
        let schemas = self.schemas(connection).await?;
        let numbers = type_numbers(connection, self.mapping, &schemas).await?;
        let problems = fit::problems(self.mapping, &numbers, &have);
        if problems.is_empty() {
            return Ok(fit::format(self.mapping, &numbers, &have));
        }
        Err(Error::definite(
            codes::TARGET_TABLE_UNFIT,
            format!("{name} does not fit: {}", fit::told(&problems)),
        ))
    }

    /// Makes the table, empty.
    async fn make(&self, connection: &mut Connection, name: &TableName) -> Result<Ready> {
        make_schema(connection, &name.schema).await?;
        let schemas = self.schemas(connection).await?;
        objects::make_late(connection, self.mapping, &schemas).await?;
        let moved = catalog::moved(connection, &schemas, create::texts(self.mapping)).await?;
        let table = NewTable {
            mapping: self.mapping,
            name,
            moved: &moved,
        };
        create_table(connection, &table).await?;
        for note in table.notes() {
            connection.run(&note).await?;
        }
        let is_portable = self
            .mapping
            .columns
            .iter()
            .all(|column| match column.target_type {
                TargetType::AsSource => {
                    self.mapping.schema.columns[column.source].is_binary_portable
                }
                TargetType::Text => true,
            });
        let format = if is_portable {
            RowFormat::PgCopyBinary
        } else {
            RowFormat::PgCopyText
        };
        Ok(Ready {
            format,
            rows: Rows::None,
        })
    }

    /// Where schemas lie, this table's among them.
    async fn schemas(&self, connection: &mut Connection) -> Result<Schemas> {
        catalog::schemas(connection, &self.writer.pipeline, self.mapping).await
    }

    fn units(&self, rows: Rows) -> Vec<Unit> {
        let unit = |unit: &Unit| match rows {
            Rows::AsRecorded => unit.clone(),
            Rows::None => Unit {
                tidemark: None,
                is_loaded: false,
                rows: 0,
                ..unit.clone()
            },
            Rows::Kept => Unit {
                tidemark: None,
                is_loaded: true,
                ..unit.clone()
            },
        };
        self.units.iter().map(unit).collect()
    }

    fn table(&self) -> TableCheckpoint {
        TableCheckpoint {
            source: self.mapping.source().clone(),
            target: self.mapping.target.clone(),
            source_id: self.mapping.schema.id,
            state: TableState::Loading,
            reason: None,
            units: Vec::new(),
            // A table that goes on keeps the shape it was made with.
            shape: (self.existing != Existing::Resume).then(|| KnownShape::of(self.mapping)),
        }
    }
}

/// Makes the schema where it is missing. Asked first, for the reason given in [`super::metadata`].
pub(super) async fn make_schema(connection: &mut Connection, schema: &str) -> Result<()> {
    let there = connection
        .query(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
            &[Some(schema)],
        )
        .await?;
    if there.one()?.get_bool(0)? {
        return Ok(());
    }
    let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(schema));
    connection.run(&sql).await
}

/// Makes the table with all it can have. Where a default or a generated column needs what the target
/// does not have, the table is made without that one.
async fn create_table(connection: &mut Connection, table: &NewTable<'_>) -> Result<()> {
    let whole = table.create(Extent::Whole).join("; ");
    let Some(error) = attempt(connection, &whole).await? else {
        return Ok(());
    };
    tracing::debug!("make {} piece by piece: {error}", table.name);
    let bare = table.create(Extent::Bare).join("; ");
    connection.run(&bare).await.map_err(|error| {
        if !finish::is_about_definition(&error) {
            return error;
        }
        // Such as a type that is not carried: it is this table's affair.
        error
            .with_kind(ErrorKind::Data)
            .first_action(finish::MAKE_WHAT_IS_NAMED)
    })?;
    for (column, statement) in table.extras() {
        if let Some(error) = attempt(connection, &statement).await? {
            tracing::warn!(
                code = %codes::TARGET_NOT_CARRIED,
                table = %table.name,
                column,
                "the column's default or generation is not carried: {error}"
            );
        }
    }
    Ok(())
}

/// Runs statements of which nothing stays if one is refused for what it refers to; other errors are
/// errors.
pub(super) async fn attempt(connection: &mut Connection, sql: &str) -> Result<Option<Error>> {
    connection.run("SAVEPOINT tidemark_attempt").await?;
    match connection.run(sql).await {
        Ok(()) => {
            connection.run("RELEASE SAVEPOINT tidemark_attempt").await?;
            Ok(None)
        }
        Err(error) if finish::is_about_definition(&error) || finish::is_not_owner(&error) => {
            connection
                .run("ROLLBACK TO SAVEPOINT tidemark_attempt; RELEASE SAVEPOINT tidemark_attempt")
                .await?;
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// The numbers for a table that is only looked at, by the schemas of all tables to come.
pub(super) async fn numbers_for(
    connection: &mut Connection,
    tables: &[TableMapping],
    mapping: &TableMapping,
) -> Result<TypeNumbers> {
    type_numbers(connection, mapping, &Schemas::of_tables(tables)).await
}

/// Numbers on the target of the types that are not the same everywhere.
pub(super) async fn type_numbers(
    connection: &mut Connection,
    mapping: &TableMapping,
    schemas: &Schemas,
) -> Result<TypeNumbers> {
    let moved = catalog::moved(connection, schemas, create::texts(mapping)).await?;
    let mut numbers = TypeNumbers::new();
    for column in &mapping.columns {
        let source = &mapping.schema.columns[column.source];
        let is_known = numbers.contains_key(&source.type_name);
        if source.type_id < FIRST_USER_OID || column.target_type != TargetType::AsSource || is_known
        {
            continue;
        }
        let name = create::type_name(mapping, column, &moved);
        let found = connection
            .query("SELECT coalesce(to_regtype($1)::oid, 0)", &[Some(&name)])
            .await?;
        numbers.insert(source.type_name.clone(), found.one()?.get(0)?);
    }
    Ok(numbers)
}
