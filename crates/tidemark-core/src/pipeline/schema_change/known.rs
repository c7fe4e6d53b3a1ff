//! A table's schema at a place of the log: the catalog's of now with what was known, or what was known
//! with what the log announces.

use crate::checkpoint::{KnownColumn, KnownShape};
use crate::event::StreamTable;
use crate::pipeline::typed::keep_names;
use crate::schema::{Column, ColumnDefault, Index, ReplicaIdentity, TableSchema, ValueClass};
use crate::source::StreamedShape;

use super::compare::ColumnChange;

/// The table as it was when it was last known: what the target has. The catalog may be ahead, and what
/// it has more comes with the log.
pub(in crate::pipeline) fn as_known(schema: &TableSchema, known: &KnownShape) -> TableSchema {
    let mut result = schema.clone();
    let is_generated = |column: &Column| matches!(column.default, ColumnDefault::Generated(_));
    let ahead: Vec<String> = schema
        .columns
        .iter()
        .filter(|column| !is_generated(column))
        .filter(|column| {
            let is_same = |number: i16, name: &str| match number {
                0 => name == column.name,
                number => number == column.number,
            };
            !(known.columns.iter()).any(|known| is_same(known.number, &known.name))
        })
        .map(|column| column.name.clone())
        .collect();
    for name in ahead {
        remove_column(&mut result, &name);
    }
    for known in &known.columns {
        let is_same = |column: &&mut Column| match known.number {
            0 => column.name == known.name,
            number => column.number == number,
        };
        match result.columns.iter_mut().find(is_same) {
            Some(column) => {
                rename_in_indexes(&mut result.indexes, &column.name, &known.name);
                column.name.clone_from(&known.name);
                (column.type_id, column.type_modifier) = (known.type_id, known.type_modifier);
                column.is_not_null = known.is_not_null;
            }
            None => result.columns.push(gone_column(known)),
        }
    }
    result.storage = known.storage;
    result.attributes.clone_from(&known.attributes);
    result.types.clone_from(&known.types);
    result
}

/// The table with the columns that it had when it was last known and has no more under their names.
pub(in crate::pipeline) fn with_known(schema: &TableSchema, known: &KnownShape) -> TableSchema {
    let is_there = |known: &KnownColumn| {
        let mut columns = schema.columns.iter();
        columns.any(|column| column.name == known.name)
    };
    let gone = known.columns.iter().filter(|known| !is_there(known));
    let mut result = schema.clone();
    result.columns.extend(gone.map(gone_column));
    result
}

/// The schema after the changes. A dropped column is not carried any more, whether it stays on the
/// target or not. `None` where old rows are told by a column that is not carried.
pub(super) fn reshaped(
    old: &TableSchema,
    table: &StreamTable,
    now: &StreamedShape,
    changes: &[ColumnChange],
) -> Option<TableSchema> {
    let mut schema = TableSchema {
        id: table.id,
        ..old.clone()
    };
    if table.id != old.id {
        // Another table counts its columns anew.
        for column in &mut schema.columns {
            column.number = 0;
        }
    }
    let announced = |at: usize| now.columns.get(at).map(|found| found.column.clone());
    for change in changes {
        match change {
            ColumnChange::Added { column, .. } => schema.columns.extend(announced(*column)),
            ColumnChange::Renamed { from, column } => {
                let known = schema.columns.iter_mut().find(|c| c.name == *from);
                if let (Some(known), Some(new)) = (known, announced(*column)) {
                    rename_in_indexes(&mut schema.indexes, from, &new.name);
                    *known = new;
                }
            }
            ColumnChange::Retyped { column, .. } | ColumnChange::Replaced { column } => {
                if let Some(new) = announced(*column)
                    && let Some(known) = schema.columns.iter_mut().find(|c| c.name == new.name)
                {
                    *known = new;
                }
            }
            ColumnChange::Dropped { name } => remove_column(&mut schema, name),
            ColumnChange::Rewritten { .. }
            | ColumnChange::GeneratedAdded
            | ColumnChange::GeneratedAnew
            | ColumnChange::Rekeyed
            | ColumnChange::TypeChanged { .. } => {}
        }
    }
    if changes.contains(&ColumnChange::Rekeyed) {
        // Not by the new one, which the catalog may have before the log comes to it: whole rows will do.
        schema.primary_key.clear();
    }
    take_announced(&mut schema, now);
    if !now.is_ahead {
        schema.storage = now.storage;
        schema.attributes.clone_from(&now.attributes);
        schema.types.clone_from(&now.types);
    }
    schema.identity = identity(&schema, table)?;
    Some(schema)
}

/// Types are as they were known where the catalog is of another place of the log; and in any case called as
/// the target has them.
pub(super) fn keep_known(schema: &mut TableSchema, known: &KnownShape, now: &StreamedShape) {
    if now.is_ahead {
        schema.types.clone_from(&known.types);
    } else {
        keep_names(&mut schema.types, &known.types);
    }
}

/// What stayed is as the log announces it, whatever the catalog has by now. A number that it does not
/// have any more cannot tell this column from one that took its name.
fn take_announced(schema: &mut TableSchema, now: &StreamedShape) {
    for found in &now.columns {
        let announced = &found.column;
        let stayed = schema.columns.iter_mut().find(|c| c.name == announced.name);
        let Some(column) = stayed else { continue };
        let type_of = |column: &Column| (column.type_id, column.type_modifier);
        let number = match announced.number {
            0 if has_number(now, column.number) => column.number,
            number => number,
        };
        if type_of(column) != type_of(announced) {
            column.clone_from(announced);
        }
        column.number = number;
        if announced.number != 0 {
            column.is_not_null = announced.is_not_null;
        }
    }
}

fn has_number(now: &StreamedShape, number: i16) -> bool {
    now.present.iter().any(|(_, present)| *present == number)
}

/// How old rows are told is what the log says, not what the catalog has by now.
fn identity(schema: &TableSchema, table: &StreamTable) -> Option<ReplicaIdentity> {
    let place = |at: &usize| {
        let name = &table.columns.get(*at)?.name;
        (schema.columns.iter()).position(|column| column.name == *name)
    };
    Some(match &table.identity {
        ReplicaIdentity::Key(key) => {
            ReplicaIdentity::Key(key.iter().map(place).collect::<Option<_>>()?)
        }
        other => other.clone(),
    })
}

fn rename_in_indexes(indexes: &mut [Index], from: &str, to: &str) {
    let columns = indexes.iter_mut().flat_map(|index| &mut index.columns);
    for column in columns.filter(|column| column.column.as_deref() == Some(from)) {
        column.column = Some(to.to_owned());
    }
}

/// A column that the catalog does not have any more.
fn gone_column(known: &KnownColumn) -> Column {
    Column {
        number: known.number,
        type_modifier: known.type_modifier,
        class: known.class.unwrap_or(ValueClass::Other),
        ..Column::bare(known.name.as_str(), "text", known.type_id)
    }
}

pub(super) fn remove_column(schema: &mut TableSchema, name: &str) {
    let Some(at) = schema.columns.iter().position(|column| column.name == name) else {
        return;
    };
    schema.columns.remove(at);
    // A key that has lost a column is none.
    if schema.primary_key.contains(&at) {
        schema.primary_key.clear();
    }
    let shift = |positions: &mut Vec<usize>| {
        positions.retain(|position| *position != at);
        for position in positions.iter_mut().filter(|position| **position > at) {
            *position -= 1;
        }
    };
    shift(&mut schema.primary_key);
    if let ReplicaIdentity::Key(key) = &mut schema.identity {
        shift(key);
    }
    schema.indexes.retain(|index| {
        !index
            .columns
            .iter()
            .any(|column| column.column.as_deref() == Some(name))
    });
}
