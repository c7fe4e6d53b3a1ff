//! Types, collations, sequences and extensions that the tables need, made where they are missing.
//!
//! What is there already must be what the source has: an enumeration with other labels would refuse
//! values later, or sort them otherwise. One that only lacks labels gets them, at their places, and a
//! composite type the attributes that it lacks behind its own: that is how types grow on a source that is
//! followed ([`alterations`] has what else may become of them there). Definitions are compared as the
//! servers print them, after names that go by another name on the target have been replaced. Where schemas
//! lie is told in [`super::names`].
//!
//! A type is found by its name, which may have been another one's ([`TypeHistory`]): such a type gets at most
//! what it lacks.
//!
//! A type that has rows of a table in it is made when that table is there ([`make_late`]).

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{ObjectKind, SchemaObject, SourceSchema, TableName};
use tidemark_core::target::{TypeChanges, TypeHistory};
use tidemark_core::{Context, Error, ErrorKind, Result};

use super::names::{Schemas, quoted};
use super::prepare::make_schema;
use super::{catalog, finish, wording};
use crate::error::server_error;
use crate::schema::type_definition;
use crate::wire::{Connection, quote_literal};

mod alterations;

/// What a range type's definition says before the name of its multirange type.
const MULTIRANGE: &str = "multirange_type_name = ";

/// What may become of types that are there.
pub(super) struct Types<'a> {
    pub(super) pipeline: &'a str,
    pub(super) changes: TypeChanges,
    pub(super) histories: &'a [TypeHistory],
}

/// What is known where an object is made.
struct Making<'a> {
    types: &'a Types<'a>,
    /// Names that are others on the target.
    moved: BTreeMap<TableName, TableName>,
    /// Types that are not made yet where they are missing, as long as one of these tables of the target is.
    late: BTreeMap<&'a TableName, BTreeSet<TableName>>,
}

/// How often somebody else may be found to make the same, who is sooner.
const OTHERS_MAX: u32 = 20;

/// Makes everything. Pipelines that start at the same time look, find nothing, and make the same: whoever
/// is later is refused once the other has committed, and looks again. A lock would have all of them
/// wait while one waits for a reader of its table.
pub(super) async fn make_beside_others(
    connection: &mut Connection,
    schema: &SourceSchema,
    tables: &[TableMapping],
    types: &Types<'_>,
) -> Result<bool> {
    let mut others = 0;
    loop {
        match make(connection, schema, tables, types).await {
            Err(error) if others < OTHERS_MAX && is_made_by_another(&error) => {
                others += 1;
                connection.run("ROLLBACK").await?;
            }
            made => return made,
        }
    }
}

/// Whether something is there that was not when it was looked for: it is said by name, or by an index of
/// the catalog where its transaction was still open (PostgreSQL 15, `NamespaceCreate`).
fn is_made_by_another(error: &Error) -> bool {
    let Some(said) = server_error(error) else {
        return false;
    };
    match said.sqlstate.as_str() {
        "42710" | "42P06" | "42P07" => true,
        "23505" => said.schema.as_deref() == Some("pg_catalog"),
        _ => false,
    }
}

/// In one transaction. Gives whether a type that was there has followed.
async fn make(
    connection: &mut Connection,
    schema: &SourceSchema,
    tables: &[TableMapping],
    types: &Types<'_>,
) -> Result<bool> {
    let schemas = Schemas::of_tables(tables);
    connection.run("BEGIN").await?;
    let mut names: BTreeSet<String> = tables
        .iter()
        .map(|table| table.target.schema.clone())
        .collect();
    names.extend(
        schema
            .objects
            .iter()
            .map(|object| target_name(object, &schemas).schema),
    );
    for name in names {
        make_schema(connection, &name).await?;
    }
    let mut moved = moved(&schema.objects, &schemas);
    let rows = tables.iter().flat_map(|table| &table.schema.rests_on);
    let places = rows.map(|name| (name.clone(), schemas.target(name)));
    moved.extend(places.filter(|(source, target)| source != target));
    let mut late: BTreeMap<&TableName, BTreeSet<TableName>> = BTreeMap::new();
    for table in tables {
        for object in &table.schema.late_types {
            let rows = table.schema.rests_on.iter();
            let rows = rows.map(|name| schemas.target(name));
            late.entry(&object.name).or_default().extend(rows);
        }
    }
    let making = Making { types, moved, late };
    let mut is_extended = false;
    for object in &schema.objects {
        let name = target_name(object, &schemas);
        let made = match object.kind {
            ObjectKind::Extension => make_extension(connection, object).await.map(|()| false),
            _ => making.object(connection, object, &name).await,
        };
        let made = made.map_err(|error| {
            if finish::is_about_definition(&error) {
                error.first_action(
                    "make on the target what the definition rests on, as the source has it: \
                     tidemark plan lists the functions that are needed",
                )
            } else {
                error
            }
        });
        is_extended |= made.context(|| format!("make {} {name}", kind_name(object.kind)))?;
    }
    connection.run("COMMIT").await?;
    Ok(is_extended)
}

fn target_name(object: &SchemaObject, schemas: &Schemas) -> TableName {
    match object.kind {
        // The types of an extension are where the extension is, whoever uses them.
        ObjectKind::Extension => object.name.clone(),
        _ => schemas.target(&object.name),
    }
}

/// Names of objects that are called otherwise on the target.
fn moved(objects: &[SchemaObject], schemas: &Schemas) -> BTreeMap<TableName, TableName> {
    let named = objects
        .iter()
        .filter(|object| object.kind != ObjectKind::Extension)
        .flat_map(|object| {
            let multirange = object.definition.split_once(MULTIRANGE);
            let multirange = multirange.and_then(|(_, rest)| wording::names(rest).next());
            [Some(object.name.clone()), multirange]
        });
    named
        .flatten()
        .map(|name| (name.clone(), schemas.target(&name)))
        .filter(|(source, target)| source != target)
        .collect()
}

fn kind_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Extension => "extension",
        ObjectKind::Collation => "collation",
        ObjectKind::Enum | ObjectKind::Composite | ObjectKind::Range => "type",
        ObjectKind::Domain => "domain",
        ObjectKind::Sequence => "sequence",
    }
}

async fn make_extension(connection: &mut Connection, object: &SchemaObject) -> Result<()> {
    let (schema, name) = (&object.name.schema, &object.name.name);
    let found = connection
        .query(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
             WHERE e.extname = $1",
            &[Some(name)],
        )
        .await?;
    if let Some(row) = found.rows.first() {
        let there = row.get_str(0)?;
        if there == schema {
            return Ok(());
        }
        return Err(Error::definite(
            codes::TARGET_NO_EXTENSION,
            format!("extension {name} is in schema {there}, on the source in {schema}"),
        )
        .first_action(format!("ALTER EXTENSION {name} SET SCHEMA {schema}")));
    }
    let offered = connection
        .query(
            "SELECT FROM pg_available_extensions WHERE name = $1",
            &[Some(name)],
        )
        .await?;
    if offered.rows.is_empty() {
        return Err(Error::definite(
            codes::TARGET_NO_EXTENSION,
            format!("the target's server does not have extension {name}"),
        ));
    }
    connection.run(&object.definition).await.map_err(|error| {
        if error.sqlstate_code() == Some("42501") {
            return error
                .with_code(codes::TARGET_NO_EXTENSION)
                .first_action(format!("as a superuser: {}", object.definition));
        }
        error
    })
}

impl Making<'_> {
    /// Gives whether it was there and has followed.
    async fn object(
        &self,
        connection: &mut Connection,
        object: &SchemaObject,
        name: &TableName,
    ) -> Result<bool> {
        let definition = wording::replace(&object.definition, &self.moved);
        match object.kind {
            ObjectKind::Sequence => {
                if let Some(found) = catalog::relation(connection, name).await? {
                    return if found.is_sequence() {
                        Ok(false)
                    } else {
                        Err(taken(name))
                    };
                }
            }
            ObjectKind::Collation => {
                if is_collation(connection, name).await? {
                    return Ok(false);
                }
            }
            _ => {
                if let Some(oid) = type_oid(connection, name).await? {
                    let there = (name, oid);
                    let history = self.history(object);
                    return self.follow(connection, there, &definition, history).await;
                }
                for table in self.late.get(&object.name).into_iter().flatten() {
                    if catalog::relation(connection, table).await?.is_none() {
                        return Ok(false);
                    }
                }
            }
        }
        let sql = definition.replacen("{name}", &quoted(name), 1);
        connection.run(&sql).await?;
        Ok(false)
    }

    fn history(&self, object: &SchemaObject) -> Option<&TypeHistory> {
        let mut histories = self.types.histories.iter();
        histories.find(|history| history.name == object.name)
    }

    /// Makes a type that is there the source's; whether it was another.
    async fn follow(
        &self,
        connection: &mut Connection,
        (name, oid): (&TableName, u32),
        wanted: &str,
        history: Option<&TypeHistory>,
    ) -> Result<bool> {
        let found = type_definition(connection, name, oid).await?;
        let found = found.ok_or_else(|| taken(name))?.definition;
        let (held_by, known_otherwise_by, members) = match history {
            Some(known) => (
                &known.held_by[..],
                &known.known_otherwise_by[..],
                &known.members[..],
            ),
            None => (&[][..], &[][..], &[][..]),
        };
        let held_by = resting(connection, oid, held_by).await?;
        let is_another = !known_otherwise_by.is_empty()
            && resting(connection, oid, known_otherwise_by)
                .await?
                .is_none();
        let changes = if is_another {
            TypeChanges::Additions
        } else {
            self.types.changes
        };
        let kept = &alterations::with_kept_types(wanted, &found, members);
        if wording::quoted_throughout(kept) != wording::quoted_throughout(wanted) {
            // An attribute's type has another name by now, or the type is another.
            return compare(name, wanted, &found).map(|()| false);
        }
        let wanted = kept;
        let alteration = alterations::of_known_labels(name, wanted, &found, (members, changes))
            .or_else(|| alterations::between(name, wanted, &found, changes));
        let alteration = match held_by {
            None => alteration,
            // What is only added changes no row of that table.
            Some(table) => Some(
                alterations::between(name, wanted, &found, TypeChanges::Additions)
                    .ok_or_else(|| held(name, &table))?,
            ),
        };
        let Some(alteration) = alteration else {
            return compare(name, wanted, &found).map(|()| false);
        };
        let params = [Some(&*oid.to_string()), Some(self.types.pipeline)];
        if alteration.is_exchange
            && connection
                .query(USED_ELSEWHERE, &params)
                .await?
                .one()?
                .get_bool(0)?
        {
            return compare(name, wanted, &found).map(|()| false);
        }
        for statement in &alteration.statements {
            connection.run(statement).await?;
        }
        Ok(!alteration.statements.is_empty())
    }
}

/// The first of these tables, by its name on the source, whose columns rest on this type of the target.
async fn resting(
    connection: &mut Connection,
    oid: u32,
    tables: &[(TableName, TableName)],
) -> Result<Option<TableName>> {
    let oid = oid.to_string();
    for (source, target) in tables {
        let params = [&oid, &target.schema, &target.name].map(|text| Some(text.as_str()));
        let rests = connection.query(RESTS_ON, &params).await?;
        if rests.one()?.get_bool(0)? {
            return Ok(Some(source.clone()));
        }
    }
    Ok(None)
}

fn held(name: &TableName, table: &TableName) -> Error {
    let text = format!(
        "type {name} of the target is another than the source's of this name: table {table} rests on it, whose \
         type has another name on the source by now"
    );
    Error::definite(codes::TYPE_NAME_HELD, text)
}

/// Whether a table has columns that rest on a type in whatever way.
const RESTS_ON: &str = "WITH RECURSIVE resting (oid) AS ( \
      SELECT $1::oid UNION SELECT t.oid FROM resting r JOIN pg_type t \
        ON t.typelem = r.oid OR t.typtype = 'd' AND t.typbasetype = r.oid \
        OR t.typtype = 'r' AND EXISTS (SELECT FROM pg_range g \
           WHERE g.rngtypid = t.oid AND g.rngsubtype = r.oid) \
        OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.typrelid \
           AND a.atttypid = r.oid AND NOT a.attisdropped)) \
    SELECT EXISTS (SELECT FROM resting r \
      JOIN pg_attribute a ON a.atttypid = r.oid AND a.attnum > 0 AND NOT a.attisdropped \
      JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
      WHERE n.nspname = $2 AND c.relname = $3)";

/// Serialises whoever makes such types (an arbitrary number).
const LATE_TYPES_LOCK: i64 = 0x7469_6465_6c61_7465;

/// Makes the types of a table that have rows of others in them, which are there by now, where they are
/// missing. In the caller's transaction, one after the other: several tables may need the same.
pub(super) async fn make_late(
    connection: &mut Connection,
    mapping: &TableMapping,
    schemas: &Schemas,
) -> Result<()> {
    let late = &mapping.schema.late_types;
    if late.is_empty() {
        return Ok(());
    }
    let lock = format!("SELECT pg_advisory_xact_lock({LATE_TYPES_LOCK})");
    connection.run(&lock).await?;
    for object in late {
        let name = schemas.target(&object.name);
        if type_oid(connection, &name).await?.is_some() {
            continue;
        }
        make_schema(connection, &name.schema).await?;
        let definition = object.definition.as_str();
        let moved = catalog::moved(connection, schemas, [definition]).await?;
        let sql = wording::replace(definition, &moved).replacen("{name}", &quoted(&name), 1);
        let made = connection.run(&sql).await.map_err(|error| {
            if !finish::is_about_definition(&error) {
                return error;
            }
            // Such as a table that is not carried: it is an affair of those that need the type.
            error
                .with_kind(ErrorKind::Data)
                .first_action(finish::MAKE_WHAT_IS_NAMED)
        });
        made.context(|| format!("make {} {name}", kind_name(object.kind)))?;
    }
    Ok(())
}

async fn type_oid(connection: &mut Connection, name: &TableName) -> Result<Option<u32>> {
    let found = connection
        .query(
            "SELECT t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
             WHERE n.nspname = $1 AND t.typname = $2",
            &[Some(&name.schema), Some(&name.name)],
        )
        .await?;
    found.rows.first().map(|row| row.get(0)).transpose()
}

/// Whether columns of tables rest on a type that the pipeline does not load: their values mean what they
/// meant.
const USED_ELSEWHERE: &str = "WITH RECURSIVE resting (oid) AS ( \
      SELECT $1::oid UNION SELECT t.oid FROM resting r JOIN pg_type t \
        ON t.typelem = r.oid AND t.typcategory = 'A' OR t.typtype = 'd' AND t.typbasetype = r.oid \
        OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_class c JOIN pg_attribute a \
           ON a.attrelid = c.oid AND a.atttypid = r.oid AND NOT a.attisdropped \
           WHERE c.oid = t.typrelid AND c.relkind = 'c')) \
    SELECT EXISTS (SELECT FROM resting r \
      JOIN pg_attribute a ON a.atttypid = r.oid AND a.attnum > 0 AND NOT a.attisdropped \
      JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition \
      JOIN pg_namespace n ON n.oid = c.relnamespace \
      WHERE c.relname NOT LIKE 'tidemark\\_beside\\_%' AND NOT EXISTS ( \
        SELECT FROM tidemark.table_state s WHERE s.pipeline = $2 \
          AND s.target_schema = n.nspname AND s.target_name = c.relname))";

async fn is_collation(connection: &mut Connection, name: &TableName) -> Result<bool> {
    let found = connection
        .query(
            "SELECT FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
             WHERE n.nspname = $1 AND c.collname = $2",
            &[Some(&name.schema), Some(&name.name)],
        )
        .await?;
    Ok(!found.rows.is_empty())
}

fn taken(name: &TableName) -> Error {
    Error::definite(
        codes::TARGET_NAME_TAKEN,
        format!("{name} is something else on the target"),
    )
}

/// Definitions with the same meaning print the same, but for the quoting of names.
fn compare(name: &TableName, wanted: &str, found: &str) -> Result<()> {
    let (wanted, found) = (
        wording::quoted_throughout(wanted),
        wording::quoted_throughout(found),
    );
    if wanted == found {
        return Ok(());
    }
    let difference = if let (Some(wanted), Some(found)) = (labels(&wanted), labels(&found)) {
        label_difference(&wanted, &found)
    } else {
        let plain = |definition: &str| definition.replacen("{name} ", "", 1);
        let (wanted, found) = (plain(&wanted), plain(&found));
        format!("it is `{found}` there, `{wanted}` on the source")
    };
    Err(Error::definite(
        codes::TARGET_TYPE_DIFFERS,
        format!("type {name} is not the source's: {difference}"),
    ))
}

/// The labels of an enumeration, as they are written.
fn labels(definition: &str) -> Option<Vec<String>> {
    let (_, list) = definition.split_once("AS ENUM (")?;
    Some(wording::literals(list))
}

fn label_difference(wanted: &[String], found: &[String]) -> String {
    let list = |labels: &[String], others: &[String]| {
        let only: Vec<String> = labels
            .iter()
            .filter(|label| !others.contains(label))
            .map(|label| quote_literal(label).trim_start().to_owned())
            .collect();
        only.join(", ")
    };
    let (missing, surplus) = (list(wanted, found), list(found, wanted));
    match (missing.is_empty(), surplus.is_empty()) {
        (true, true) => "its labels stand in another order".to_owned(),
        (false, true) => format!("it lacks {missing}"),
        (true, false) => format!("the source lacks {surplus}"),
        (false, false) => format!("it lacks {missing}, the source lacks {surplus}"),
    }
}
