//! A table whose rows are loaded anew where it is: what becomes of its columns.
//!
//! Only what its columns are called by now, and which of them are gone, is told from what was known of
//! it. What they are is changed when it is empty, so that old rows need not have any of it.

use crate::batch::SchemaChange;
use crate::mapping::{ColumnMapping, TableMapping};
use crate::pipeline::options::OnSchemaChange;

/// Columns of the target that have another name in the new mapping, or none. A name that stays keeps its
/// column, whichever it is on the source: two may have exchanged theirs.
pub(in crate::pipeline) fn moves(
    old: &TableMapping,
    new: &TableMapping,
    policy: OnSchemaChange,
) -> Vec<SchemaChange> {
    // Nothing else takes a column from the target.
    if policy != OnSchemaChange::Apply {
        return Vec::new();
    }
    let has = |mapping: &TableMapping, name: &str| mapping.columns.iter().any(|c| c.target == name);
    let number = |mapping: &TableMapping, column: &ColumnMapping| {
        Some(mapping.schema.columns[column.source].number).filter(|number| *number != 0)
    };
    let gone = old
        .columns
        .iter()
        .filter(|column| !has(new, &column.target));
    let became = |column: &ColumnMapping| {
        let mut columns = new.columns.iter();
        let known = number(old, column)?;
        columns
            .find(|other| number(new, other) == Some(known) && !has(old, &other.target))
            .map(|other| other.target.clone())
    };
    gone.map(|column| {
        let name = column.target.clone();
        match became(column) {
            Some(to) => SchemaChange::RenameColumn { from: name, to },
            None => SchemaChange::DropColumn { name },
        }
    })
    .collect()
}
