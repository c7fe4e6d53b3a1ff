//! Changes of columns in the target's words: its names, and its types where a mask makes text.

use crate::batch::SchemaChange;
use crate::checkpoint::KnownShape;
use crate::mapping::{ColumnMapping, TableMapping, TargetType};
use crate::pipeline::options::OnSchemaChange;
use crate::schema::ColumnDefault;
use crate::source::{Fill, StreamedShape};

use super::compare::{ColumnChange, Compared};

/// What was done to columns, as the target is told.
pub(super) fn in_target_words(
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
            ColumnChange::Rewritten { .. }
            | ColumnChange::GeneratedAdded
            | ColumnChange::GeneratedAnew
            | ColumnChange::Rekeyed
            | ColumnChange::TypeChanged { .. } => None,
        });
    }
    words
}

/// Columns that may be NULL by now, which is no change of shape.
pub(super) fn loosened(
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
pub(super) fn columns_that_go(
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

/// Whether a column that has another name by now is masked, or carried at all, otherwise than before: what
/// its old rows hold on the target is then not what they are to hold.
pub(super) fn are_carried_otherwise(
    changes: &[ColumnChange],
    old: &TableMapping,
    new: &TableMapping,
    now: &StreamedShape,
) -> bool {
    let carried = |mapping: &TableMapping, name: &str| {
        let mut columns = mapping.columns.iter();
        let found = columns.find(|it| mapping.source_column(it) == name);
        found.map(|it: &ColumnMapping| (it.mask.clone(), it.target_type))
    };
    changes.iter().any(|change| match change {
        ColumnChange::Renamed { from, column } => {
            let to = now.columns.get(*column).map(|found| &found.column.name);
            carried(old, from) != to.and_then(|to| carried(new, to))
        }
        _ => false,
    })
}
