//! A table of the source has another shape than was known: what becomes of it on the target.
//!
//! The log announces a table anew before the first change that needs it, once in a session and again
//! whenever something about the table may have changed. Each time the catalog is asked too, and both
//! are compared with what the target has ([`compare`]). What happened is carried out at exactly this
//! place of the log: between the changes before and after it, in the same target transaction.
//!
//! That is possible as long as log and catalog together tell what the rows that were there before hold
//! now. They do not where rows were written anew (another type, a default that is not constant): those
//! writes are not in the log. Nor where the catalog is ahead. There the table is loaded anew, beside
//! the old one and while the others stream ([`super::resync`]); the rows tell.
//!
//! What the policy does not allow sets the table aside. Its rows are then those of the old shape, so
//! only loading it anew brings it back.

use std::sync::Arc;

use crate::batch::SchemaChange;
use crate::catalogue::codes;
use crate::checkpoint::{KnownShape, TableState};
use crate::control::ResyncStrategy;
use crate::error::{Context, Error, Result};
use crate::event::StreamTable;
use crate::mapping::{TableMapping, TargetType};
use crate::schema::{ColumnDefault, TableName};
use crate::source::{Fill, Retyped, StreamedShape};

use super::assemble::Assembler;
use super::observe::PipelineEvent;
use super::options::OnSchemaChange;
use super::reconcile;
use super::{Engine, state_change};

use compare::{ColumnChange, Compared, compare, is_rekeyed};
use known::reshaped;

mod compare;
mod known;

pub(super) use known::as_known;

/// Whether the table is being loaded just now, at a snapshot that nobody knows here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsLoading {
    Yes,
    No,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reshaped {
    /// Nothing.
    Done,
    /// The table is to be loaded anew.
    LoadAnew,
    /// It is another table of the same name.
    Recreated,
}

/// What a new shape comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// The target follows.
    Follow,
    /// The target stays as it is; only what both sides have is carried.
    Leave,
    /// The target follows as far as that is known, and the rows are loaded anew.
    LoadAnew,
    /// A person has to look, because.
    Aside(&'static str),
    /// The pipeline ends here.
    Fail,
}

/// Decides and carries out what a table's announcement means.
pub(super) async fn reshape(
    engine: &Arc<Engine>,
    assembler: &mut Assembler,
    route: usize,
    table: &Arc<StreamTable>,
    is_loading: IsLoading,
) -> Result<Reshaped> {
    let entry = assembler.router.route(route);
    let old = Arc::clone(&entry.mapping);
    let is_undecided = assembler.undecided().is_some();
    if is_undecided && (table.name != *old.source() || table.id != old.schema.id) {
        assembler.refuse_undecided();
        return Ok(Reshaped::Done);
    }
    if table.name != *old.source() {
        let text = format!("it is called {} now", table.name);
        set_aside(engine, assembler, route, &old, &text);
        assembler.skip(route, table);
        return Ok(Reshaped::Done);
    }
    let now = engine
        .source
        .shape_of(table)
        .await
        .context(|| format!("read what became of {}", table.name))?;
    let retyped = |from, to| engine.source.retyped(from, to);
    let mut compared = compare(&retyped, &entry.shape, table, &now);
    if is_rekeyed(&old.schema, table, &now) {
        compared.changes.push(ColumnChange::Rekeyed);
    }
    if is_undecided && !compared.changes.is_empty() {
        assembler.refuse_undecided();
        return Ok(Reshaped::Done);
    }
    let is_news = entry.announced.as_ref() != Some(table);
    let text = describe(&compared.changes, table);
    let policy = engine.options.on_schema_change;
    let decision = if is_loading == IsLoading::Yes {
        load_again(&compared)
    } else {
        decide(policy, &compared, &old)
    };
    let carried = carried(&decision, &compared.changes);
    let schema = reshaped(&old.schema, table, &now, &carried);
    let mapping = match schema.map(|schema| engine.rules.map_table(&schema)) {
        Some(Ok(mapping)) => Arc::new(mapping),
        // It cannot be carried like this at all.
        unmapped => {
            let why = match unmapped {
                Some(Err(err)) => err.to_string(),
                _ => "old rows are told by a column that is not carried".to_owned(),
            };
            set_aside(engine, assembler, route, &old, &format!("{text}; {why}"));
            assembler.skip(route, table);
            return Ok(Reshaped::Done);
        }
    };
    if table.id != old.schema.id {
        let text = "was dropped and made again on the source: it is loaded anew";
        say(engine, &table.name, text.to_owned());
        assembler.adopt(route, table, &mapping)?;
        assembler.router.route_mut(route).source_id = table.id;
        return Ok(Reshaped::Recreated);
    }
    let is_changed = !compared.changes.is_empty();
    match decision {
        Decision::Fail => Err(is_to_fail(&table.name, &text)),
        Decision::Aside(why) => {
            let text = format!("{text}; {why}");
            set_aside(engine, assembler, route, &mapping, &text);
            assembler.adopt(route, table, &mapping)?;
            Ok(Reshaped::Done)
        }
        Decision::Leave => {
            if is_changed && is_news {
                say(engine, &table.name, format!("{text}: not carried"));
            }
            assembler.adopt(route, table, &mapping)?;
            Ok(Reshaped::Done)
        }
        Decision::Follow => {
            if is_changed {
                let text = format!("{text}: done on the target too");
                say(engine, &table.name, text);
            }
            let known = &assembler.router.route(route).shape;
            let mut words = loosened(known, &mapping, &now, policy);
            words.extend(in_target_words(&carried, &old, &mapping, &now, policy));
            assembler.reshape(route, table, &mapping, words)?;
            Ok(Reshaped::Done)
        }
        Decision::LoadAnew => {
            let text = format!("{text}: the table is loaded anew");
            say(engine, &table.name, text);
            let mut words = columns_that_go(&compared, &old, policy);
            if is_loaded_in_its_place(&mapping) {
                words.extend(in_target_words(&carried, &old, &mapping, &now, policy));
            }
            assembler.reshape(route, table, &mapping, words)?;
            Ok(Reshaped::LoadAnew)
        }
    }
}

/// Whether rows that are loaded anew come into the table that is there, which then must have their shape.
fn is_loaded_in_its_place(mapping: &TableMapping) -> bool {
    reconcile::strategy(mapping) == ResyncStrategy::Truncate
}

fn is_to_fail(table: &TableName, text: &str) -> Error {
    Error::definite(codes::SCHEMA_CHANGED, format!("{table}: {text}")).table(table.to_string())
}

/// While a table is loaded, what it has is not known here: the next load brings it.
fn load_again(compared: &Compared) -> Decision {
    if compared.changes.is_empty() {
        Decision::Follow
    } else {
        Decision::LoadAnew
    }
}

/// The policies.
fn decide(policy: OnSchemaChange, compared: &Compared, mapping: &TableMapping) -> Decision {
    let changes = &compared.changes;
    if changes.is_empty() {
        return Decision::Follow;
    }
    match policy {
        OnSchemaChange::StopTable => Decision::Aside("target.on_schema_change stops it"),
        OnSchemaChange::Fail => Decision::Fail,
        OnSchemaChange::Ignore if changes.iter().all(leaves_values) => Decision::Leave,
        OnSchemaChange::Ignore => Decision::Aside(
            "values that both sides have were written anew, which is not in the log",
        ),
        OnSchemaChange::ApplyAdditive if !changes.iter().all(adds) => {
            Decision::Aside("target.on_schema_change allows only what adds")
        }
        OnSchemaChange::ApplyAdditive | OnSchemaChange::Apply if is_in_the_log(compared) => {
            Decision::Follow
        }
        OnSchemaChange::Apply => Decision::LoadAnew,
        OnSchemaChange::ApplyAdditive => {
            let is_carried = |name: &String| mapping.target_column(name).is_some();
            if compared.gone.iter().any(is_carried) {
                Decision::Aside(
                    "the table would have to be loaded anew, without columns that the target keeps",
                )
            } else {
                Decision::LoadAnew
            }
        }
    }
}

/// Whether log and catalog tell all that the old rows hold now.
fn is_in_the_log(compared: &Compared) -> bool {
    let renames = |name: &str| {
        compared.changes.iter().any(|change| match change {
            ColumnChange::Renamed { from, .. } => from == name,
            _ => false,
        })
    };
    compared.is_certain
        && compared.changes.iter().all(|change| match change {
            ColumnChange::Added { fill, .. } => *fill != Fill::InRows,
            ColumnChange::Retyped { values, .. } => *values == Retyped::Kept,
            ColumnChange::Replaced { .. } | ColumnChange::Rewritten { .. } => false,
            ColumnChange::Dropped { name } => !renames(name),
            ColumnChange::Renamed { .. } | ColumnChange::Rekeyed => true,
        })
}

/// What `apply_additive` carries out: whatever takes nothing away from the target.
fn adds(change: &ColumnChange) -> bool {
    match change {
        ColumnChange::Added { .. } | ColumnChange::Dropped { .. } | ColumnChange::Rekeyed => true,
        ColumnChange::Retyped { values, .. } => *values != Retyped::Changed,
        ColumnChange::Renamed { .. }
        | ColumnChange::Replaced { .. }
        | ColumnChange::Rewritten { .. } => false,
    }
}

/// Whether the columns that both sides have still hold the same.
fn leaves_values(change: &ColumnChange) -> bool {
    match change {
        ColumnChange::Added { .. }
        | ColumnChange::Dropped { .. }
        | ColumnChange::Renamed { .. }
        | ColumnChange::Rekeyed => true,
        ColumnChange::Retyped { values, .. } => *values == Retyped::Kept,
        ColumnChange::Replaced { .. } | ColumnChange::Rewritten { .. } => false,
    }
}

/// The changes as the mapping takes them: where the target is left as it is, a column that was added
/// or renamed is not carried under its new name.
fn carried(decision: &Decision, changes: &[ColumnChange]) -> Vec<ColumnChange> {
    let mut carried = Vec::with_capacity(changes.len());
    for change in changes {
        match (decision, change) {
            (Decision::Leave, ColumnChange::Added { .. }) => {}
            (Decision::Leave, ColumnChange::Renamed { from, .. }) => {
                let name = from.clone();
                carried.push(ColumnChange::Dropped { name });
            }
            _ => carried.push(change.clone()),
        }
    }
    carried
}

/// Its changes are kept in order until a person decides; only loading it anew brings it back.
fn set_aside(
    engine: &Engine,
    assembler: &mut Assembler,
    route: usize,
    mapping: &TableMapping,
    text: &str,
) {
    let entry = assembler.router.route_mut(route);
    entry.has_rows = false;
    if entry.state == TableState::Unloaded {
        return;
    }
    say(
        engine,
        mapping.source(),
        format!("{text}: the table is set aside"),
    );
    let reason = Some(format!("{}: {text}", codes::SCHEMA_CHANGE_REFUSED));
    let change = state_change(mapping, TableState::Unloaded, reason);
    assembler.set_state(route, change);
}

fn say(engine: &Engine, table: &TableName, text: String) {
    let table = table.clone();
    engine
        .observer
        .say(PipelineEvent::SchemaChanged { table, text });
}

fn in_target_words(
    changes: &[ColumnChange],
    old: &TableMapping,
    new: &TableMapping,
    now: &StreamedShape,
    policy: OnSchemaChange,
) -> Vec<SchemaChange> {
    let mut words = Vec::new();
    for change in changes {
        words.extend(match change {
            ColumnChange::Added { column, fill } => added(*column, fill, new, now),
            ColumnChange::Dropped { name } => old.target_column(name).map(|target| {
                let name = target.to_owned();
                match policy {
                    OnSchemaChange::Apply => SchemaChange::DropColumn { name },
                    _ => SchemaChange::DropNotNull { name },
                }
            }),
            ColumnChange::Renamed { from, column } => {
                let to = now.columns.get(*column).map(|found| &found.column.name);
                let to = to.and_then(|name| new.target_column(name));
                let from = old.target_column(from);
                from.zip(to)
                    .filter(|(from, to)| from != to)
                    .map(|(from, to)| SchemaChange::RenameColumn {
                        from: from.to_owned(),
                        to: to.to_owned(),
                    })
            }
            ColumnChange::Retyped { column, .. } | ColumnChange::Replaced { column } => {
                retyped(*column, new, now)
            }
            ColumnChange::Rewritten { .. } | ColumnChange::Rekeyed => None,
        });
    }
    words
}

/// Columns that may be NULL by now, which is no change of shape.
fn loosened(
    known: &KnownShape,
    mapping: &TableMapping,
    now: &StreamedShape,
    policy: OnSchemaChange,
) -> Vec<SchemaChange> {
    if !matches!(
        policy,
        OnSchemaChange::Apply | OnSchemaChange::ApplyAdditive
    ) {
        return Vec::new();
    }
    let may_be_null = |name: &str| {
        let mut columns = now.columns.iter().map(|found| &found.column);
        columns.any(|column| column.name == name && column.number != 0 && !column.is_not_null)
    };
    let loose = known
        .columns
        .iter()
        .filter(|column| column.is_not_null && may_be_null(&column.name));
    loose
        .filter_map(|column| mapping.target_column(&column.name))
        .map(|name| SchemaChange::DropNotNull {
            name: name.to_owned(),
        })
        .collect()
}

fn added(
    column: usize,
    fill: &Fill,
    mapping: &TableMapping,
    now: &StreamedShape,
) -> Option<SchemaChange> {
    let column = &now.columns.get(column)?.column;
    let name = mapping.target_column(&column.name)?.to_owned();
    let is_text = is_text(mapping, &column.name);
    let default = match &column.default {
        ColumnDefault::Expression(expression) if !is_text => Some(expression.clone()),
        _ => None,
    };
    let fill = match fill {
        Fill::Constant(value) => value.as_deref(),
        Fill::Null | Fill::InRows => None,
    };
    Some(SchemaChange::AddColumn {
        name,
        type_name: if is_text {
            "text".to_owned()
        } else {
            column.type_name.clone()
        },
        fill: mapping.masked(&column.name, fill),
        default,
    })
}

fn retyped(column: usize, mapping: &TableMapping, now: &StreamedShape) -> Option<SchemaChange> {
    let column = &now.columns.get(column)?.column;
    let name = mapping.target_column(&column.name)?.to_owned();
    let type_name = column.type_name.clone();
    (!is_text(mapping, &column.name)).then_some(SchemaChange::AlterType { name, type_name })
}

/// Whether the target has text in the place of a column's own type.
fn is_text(mapping: &TableMapping, column: &str) -> bool {
    let mut columns = mapping.columns.iter();
    let found = columns.find(|it| mapping.schema.columns[it.source].name == column);
    found.is_some_and(|found| found.target_type == TargetType::Text)
}

/// Columns that the source does not have any more stand in the way of a table that is to take the
/// place of the old one.
fn columns_that_go(
    compared: &Compared,
    old: &TableMapping,
    policy: OnSchemaChange,
) -> Vec<SchemaChange> {
    if policy != OnSchemaChange::Apply {
        return Vec::new();
    }
    let targets = compared
        .gone
        .iter()
        .filter_map(|name| old.target_column(name));
    targets
        .map(|name| SchemaChange::DropColumn {
            name: name.to_owned(),
        })
        .collect()
}

fn describe(changes: &[ColumnChange], table: &StreamTable) -> String {
    let name = |at: &usize| table.columns.get(*at).map_or("", |column| &column.name);
    let parts: Vec<String> = changes
        .iter()
        .map(|change| match change {
            ColumnChange::Added { column, .. } => format!("column {} added", name(column)),
            ColumnChange::Dropped { name } => format!("column {name} dropped"),
            ColumnChange::Renamed { from, column } => {
                format!("column {from} renamed to {}", name(column))
            }
            ColumnChange::Retyped { column, .. } => {
                format!("column {} has another type", name(column))
            }
            ColumnChange::Replaced { column } => format!("column {} made anew", name(column)),
            ColumnChange::Rewritten { column } => {
                format!("values of column {} written anew", name(column))
            }
            ColumnChange::Rekeyed => "another primary key, or none".to_owned(),
        })
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests;
