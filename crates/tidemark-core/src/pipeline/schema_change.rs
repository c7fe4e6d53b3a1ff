//! A table of the source has another shape than was known: what becomes of it on the target.
//!
//! The log announces a table's columns anew before the first change that needs them. Compared with
//! what was known, that is a schema change at exactly this place of the log, so it is applied there:
//! between the changes before and after it, in the same target transaction.
//!
//! The log has no column numbers, so a rename looks like a drop and an add. The catalog has them: a
//! column that is gone by name but there by number was renamed. The catalog may be ahead of the log;
//! where it cannot tell, a rename is taken for a drop and an add, which the policy then decides.

use std::sync::Arc;

use crate::batch::SchemaChange;
use crate::catalogue::codes;
use crate::checkpoint::{KnownColumn, TableState};
use crate::error::{Context, Result};
use crate::event::StreamTable;
use crate::mapping::TableMapping;
use crate::schema::{Column, ColumnDefault, TableName, TableSchema, ValueClass};
use crate::source::StreamedColumn;

use super::assemble::Assembler;
use super::observe::PipelineEvent;
use super::options::OnSchemaChange;
use super::{Engine, state_change};

/// What happened to a table's columns, in source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ColumnChange {
    Added { column: usize },
    Dropped { name: String },
    Renamed { from: String, column: usize },
    Retyped { column: usize },
}

/// Decides and carries out what a table's new shape means.
pub(super) async fn reshape(
    engine: &Arc<Engine>,
    assembler: &mut Assembler,
    route: usize,
    table: &StreamTable,
) -> Result<()> {
    let entry = assembler.router.route(route);
    let old = Arc::clone(&entry.mapping);
    if table.name != *old.source() {
        let text = format!(
            "{} is called {} now: the table is set aside",
            old.source(),
            table.name
        );
        say(engine, old.source(), text.clone());
        set_aside(assembler, route, &old, &text);
        return Ok(());
    }
    let known = entry.columns.clone();
    let columns = engine
        .source
        .columns_of(table)
        .await
        .context(|| format!("read the new columns of {}", table.name))?;
    let changes = compare(&known, &columns, table);
    let policy = engine.options.on_schema_change;
    let text = describe(&changes, &columns);

    if policy == OnSchemaChange::Ignore || changes.is_empty() {
        say(
            engine,
            &table.name,
            format!("{text}: left as it is on the target"),
        );
        return assembler.adopt(route, table);
    }
    let allowed = changes.iter().all(|change| is_allowed(policy, change));
    if !allowed {
        say(
            engine,
            &table.name,
            format!("{text}: the table is set aside"),
        );
        assembler.adopt(route, table)?;
        set_aside(assembler, route, &old, &text);
        return Ok(());
    }
    let schema = reshaped(&old.schema, &columns, &changes);
    let mapping = Arc::new(engine.rules.map_table(&schema)?);
    let changes = in_target_words(&changes, &old, &mapping, &columns, policy);
    say(
        engine,
        &table.name,
        format!("{text}: done on the target too"),
    );
    assembler.reshape(route, table, &mapping, changes)
}

/// Changes of the table are kept in order until a person decides.
fn set_aside(assembler: &mut Assembler, route: usize, mapping: &TableMapping, text: &str) {
    let reason = Some(format!("{}: {text}", codes::SCHEMA_CHANGE_REFUSED));
    assembler.set_state(
        route,
        state_change(mapping, TableState::Quarantined, reason),
    );
}

fn say(engine: &Engine, table: &TableName, text: String) {
    let table = table.clone();
    engine
        .observer
        .say(PipelineEvent::SchemaChanged { table, text });
}

/// Whether a policy carries a change out. Widening is for the target to judge: it refuses a type
/// that its values do not fit.
fn is_allowed(policy: OnSchemaChange, change: &ColumnChange) -> bool {
    match policy {
        OnSchemaChange::Apply | OnSchemaChange::Ignore => true,
        OnSchemaChange::ApplyAdditive => !matches!(change, ColumnChange::Renamed { .. }),
        OnSchemaChange::StopTable => false,
    }
}

/// Compares what was known with what the log announces now. `column` in the answer is a position in
/// the announced columns.
pub(super) fn compare(
    known: &[KnownColumn],
    columns: &[StreamedColumn],
    table: &StreamTable,
) -> Vec<ColumnChange> {
    let mut changes = Vec::new();
    let is_announced = |name: &str| table.columns.iter().any(|column| column.name == name);
    let mut renamed_from = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        match known.iter().find(|old| old.name == column.name) {
            Some(old)
                if old.type_id == column.type_id && old.type_modifier == column.type_modifier => {}
            Some(_) => changes.push(ColumnChange::Retyped { column: at }),
            None => {
                let number = columns.get(at).map_or(0, |column| column.column.number);
                let before = known
                    .iter()
                    .find(|old| number > 0 && !is_announced(&old.name) && old.number == number);
                match before {
                    Some(old) => {
                        renamed_from.push(old.name.clone());
                        changes.push(ColumnChange::Renamed {
                            from: old.name.clone(),
                            column: at,
                        });
                    }
                    None => changes.push(ColumnChange::Added { column: at }),
                }
            }
        }
    }
    for old in known {
        if !is_announced(&old.name) && !renamed_from.contains(&old.name) {
            changes.push(ColumnChange::Dropped {
                name: old.name.clone(),
            });
        }
    }
    changes
}

/// The table's schema after the changes. A dropped column is not carried any more, whether it stays
/// on the target or not.
fn reshaped(
    old: &TableSchema,
    columns: &[StreamedColumn],
    changes: &[ColumnChange],
) -> TableSchema {
    let mut schema = old.clone();
    for change in changes {
        match change {
            ColumnChange::Added { column } => schema.columns.push(columns[*column].column.clone()),
            ColumnChange::Renamed { from, column } => {
                if let Some(known) = schema.columns.iter_mut().find(|c| c.name == *from) {
                    *known = columns[*column].column.clone();
                }
            }
            ColumnChange::Retyped { column } => {
                let new = &columns[*column].column;
                if let Some(known) = schema.columns.iter_mut().find(|c| c.name == new.name) {
                    *known = new.clone();
                }
            }
            ColumnChange::Dropped { name } => remove_column(&mut schema, name),
        }
    }
    schema
}

/// The table as it was when its columns were last known: what the target has. The catalog may be
/// ahead, and what it has more comes with the log.
pub(super) fn as_known(schema: &TableSchema, known: &[KnownColumn]) -> TableSchema {
    let mut result = schema.clone();
    let is_known = |column: &Column| known.iter().any(|k| k.name == column.name);
    let is_generated = |column: &Column| matches!(column.default, ColumnDefault::Generated(_));
    let ahead: Vec<String> = schema
        .columns
        .iter()
        .filter(|column| !is_known(column) && !is_generated(column))
        .map(|column| column.name.clone())
        .collect();
    for name in ahead {
        remove_column(&mut result, &name);
    }
    for column in known {
        if !result
            .columns
            .iter()
            .any(|present| present.name == column.name)
        {
            result.columns.push(gone_column(column));
        }
    }
    result
}

/// A column that the catalog does not have any more under this name.
fn gone_column(known: &KnownColumn) -> Column {
    Column {
        name: known.name.clone(),
        number: known.number,
        type_name: "text".to_owned(),
        type_id: known.type_id,
        type_modifier: known.type_modifier,
        class: ValueClass::Other,
        is_not_null: false,
        default: ColumnDefault::None,
        collation: None,
        comment: None,
        is_binary_portable: false,
        is_toastable: true,
    }
}

fn remove_column(schema: &mut TableSchema, name: &str) {
    let Some(at) = schema.columns.iter().position(|column| column.name == name) else {
        return;
    };
    schema.columns.remove(at);
    let shift = |positions: &mut Vec<usize>| {
        positions.retain(|position| *position != at);
        for position in positions.iter_mut().filter(|position| **position > at) {
            *position -= 1;
        }
    };
    shift(&mut schema.primary_key);
    if let crate::schema::ReplicaIdentity::Key(key) = &mut schema.identity {
        shift(key);
    }
    schema.indexes.retain(|index| {
        !index
            .columns
            .iter()
            .any(|column| column.column.as_deref() == Some(name))
    });
}

fn in_target_words(
    changes: &[ColumnChange],
    old: &TableMapping,
    new: &TableMapping,
    columns: &[StreamedColumn],
    policy: OnSchemaChange,
) -> Vec<SchemaChange> {
    let mut words = Vec::new();
    for change in changes {
        match change {
            ColumnChange::Added { column } => {
                let StreamedColumn { column, fill } = &columns[*column];
                let Some(name) = new.target_column(&column.name) else {
                    continue;
                };
                let default = match &column.default {
                    ColumnDefault::Expression(expression) => Some(expression.clone()),
                    _ => None,
                };
                words.push(SchemaChange::AddColumn {
                    name: name.to_owned(),
                    type_name: column.type_name.clone(),
                    fill: fill.clone(),
                    default,
                });
            }
            ColumnChange::Dropped { name } => {
                let Some(target) = old.target_column(name) else {
                    continue;
                };
                let target = target.to_owned();
                words.push(if policy == OnSchemaChange::Apply {
                    SchemaChange::DropColumn { name: target }
                } else {
                    SchemaChange::DropNotNull { name: target }
                });
            }
            ColumnChange::Renamed { from, column } => {
                let to = new.target_column(&columns[*column].column.name);
                if let (Some(from), Some(to)) = (old.target_column(from), to)
                    && from != to
                {
                    let (from, to) = (from.to_owned(), to.to_owned());
                    words.push(SchemaChange::RenameColumn { from, to });
                }
            }
            ColumnChange::Retyped { column } => {
                let column = &columns[*column].column;
                let Some(name) = new.target_column(&column.name) else {
                    continue;
                };
                let type_name = column.type_name.clone();
                words.push(SchemaChange::AlterType {
                    name: name.to_owned(),
                    type_name,
                });
            }
        }
    }
    words
}

fn describe(changes: &[ColumnChange], columns: &[StreamedColumn]) -> String {
    let name = |at: &usize| columns[*at].column.name.clone();
    let parts: Vec<String> = changes
        .iter()
        .map(|change| match change {
            ColumnChange::Added { column } => format!("column {} added", name(column)),
            ColumnChange::Dropped { name } => format!("column {name} dropped"),
            ColumnChange::Renamed { from, column } => {
                format!("column {from} renamed to {}", name(column))
            }
            ColumnChange::Retyped { column } => {
                format!(
                    "column {} is {} now",
                    name(column),
                    columns[*column].column.type_name
                )
            }
        })
        .collect();
    if parts.is_empty() {
        "columns in another order".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
#[path = "schema_change_tests.rs"]
mod tests;
