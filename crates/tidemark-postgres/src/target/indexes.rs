//! Indexes, and the constraints that stand on them: what is wanted, what is there, and how it is made.
//!
//! An index is described in parts, so that columns can go by their target names. Expressions,
//! predicates and exclusion constraints are text in the source's words; where columns are renamed
//! such an index is made while the columns have their source names for a moment, in one
//! transaction, so that the server does the renaming.

use std::collections::BTreeMap;

use tidemark_core::mapping::{TableMapping, TargetType};
use tidemark_core::schema::{Index, IndexColumn, IndexKind, TableName, TableSchema};

use super::names::short_hash;
use super::wording;
use crate::wire::quote_ident;

/// An index that a table is to have, columns by their target names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) index: Index,
    /// The same, columns by their source names, where its texts speak of columns so.
    pub(super) in_source_words: Option<Index>,
    /// Only the target's table has it.
    pub(super) is_by_hand: bool,
}

/// The indexes of the source's table, the most important first; or why one is not carried.
pub(super) fn of_source(
    mapping: &TableMapping,
    moved: &BTreeMap<TableName, TableName>,
) -> Vec<Result<Wanted, (String, String)>> {
    let mut indexes: Vec<&Index> = mapping.schema.indexes.iter().collect();
    indexes.sort_by_key(|index| rank(index.kind));
    let is_renamed = mapping
        .columns
        .iter()
        .any(|column| mapping.source_column(column) != column.target);
    indexes
        .into_iter()
        .map(|index| {
            if let Some(why) = mapping.index_obstacle(index) {
                return Err((index.name.clone(), why));
            }
            let translated = translate(mapping, index, moved);
            Ok(Wanted {
                in_source_words: (is_renamed && has_text(index))
                    .then(|| in_source_words(index, &translated)),
                index: translated,
                is_by_hand: false,
            })
        })
        .collect()
}

/// The indexes of a table of the target.
pub(super) fn of_target(table: &TableSchema) -> Vec<Wanted> {
    let mut indexes = table.indexes.clone();
    indexes.sort_by_key(|index| rank(index.kind));
    let wanted = |index| Wanted {
        index,
        in_source_words: None,
        is_by_hand: true,
    };
    indexes.into_iter().map(wanted).collect()
}

fn rank(kind: IndexKind) -> u8 {
    match kind {
        IndexKind::PrimaryKey => 0,
        IndexKind::UniqueConstraint => 1,
        IndexKind::Unique => 2,
        IndexKind::Exclusion => 3,
        IndexKind::Plain => 4,
    }
}

fn has_text(index: &Index) -> bool {
    let is_expression = |key: &IndexColumn| key.expression.is_some();
    index.columns.iter().any(is_expression)
        || index.predicate.is_some()
        || index.exclusion.is_some()
}

/// The index in target names.
fn translate(
    mapping: &TableMapping,
    index: &Index,
    moved: &BTreeMap<TableName, TableName>,
) -> Index {
    let moved = |text: &String| wording::replace(text, moved);
    let key = |key: &IndexColumn| IndexColumn {
        column: key
            .column
            .as_ref()
            .map(|column| target_name(mapping, column)),
        expression: key.expression.as_ref().map(moved),
        options: match &key.column {
            // What belongs to the source's type does not fit text.
            Some(column) if is_text_now(mapping, column) => String::new(),
            _ => moved(&key.options),
        },
    };
    let included = index.included.iter();
    Index {
        columns: index.columns.iter().map(key).collect(),
        included: included
            .map(|column| target_name(mapping, column))
            .collect(),
        predicate: index.predicate.as_ref().map(moved),
        exclusion: index.exclusion.as_ref().map(moved),
        ..index.clone()
    }
}

/// Generated columns are not mapped and keep their names.
pub(super) fn target_name(mapping: &TableMapping, column: &str) -> String {
    mapping.target_column(column).unwrap_or(column).to_owned()
}

fn is_text_now(mapping: &TableMapping, column: &str) -> bool {
    mapping.columns.iter().any(|carried| {
        mapping.source_column(carried) == column && carried.target_type == TargetType::Text
    })
}

/// The translated index with its columns' own names.
fn in_source_words(index: &Index, translated: &Index) -> Index {
    let mut columns = translated.columns.clone();
    for (translated, key) in columns.iter_mut().zip(&index.columns) {
        translated.column.clone_from(&key.column);
    }
    Index {
        columns,
        included: index.included.clone(),
        ..translated.clone()
    }
}

/// Whether the table has this index: one of the same name, or one that does the same.
pub(super) fn is_there(have: &TableSchema, wanted: &Index, names: &[&str]) -> bool {
    have.indexes.iter().any(|found| {
        let is_primary = wanted.kind == IndexKind::PrimaryKey && found.kind == wanted.kind;
        names.contains(&found.name.as_str()) || is_primary || is_same(found, wanted)
    })
}

/// Whether two indexes do the same. Texts are compared as they stand: those that say the same in
/// other words count as different, and both are made.
pub(super) fn is_same(a: &Index, b: &Index) -> bool {
    a.kind == b.kind
        && a.method == b.method
        && a.columns == b.columns
        && a.included == b.included
        && a.predicate == b.predicate
        && a.is_nulls_not_distinct == b.is_nulls_not_distinct
        && a.deferral == b.deferral
        && a.exclusion == b.exclusion
}

/// The name of an index on the table beside, until the swap gives it its own.
pub(super) fn name_beside(table: &TableName, index: &str) -> String {
    format!(
        "tidemark_beside_{}",
        short_hash(&format!("{} {index}", table.unquoted()))
    )
}

/// The name to take where another relation of the schema has the index's own.
pub(super) fn other_name(table: &TableName, index: &str) -> String {
    let hash = short_hash(&table.unquoted());
    let mut end = index.len().min(63 - 1 - hash.len());
    while !index.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{hash}", index.get(..end).unwrap_or_default())
}

/// The statement that makes the index under a name. The order of clauses is the grammar's
/// (PostgreSQL 15, CREATE INDEX and ALTER TABLE).
pub(super) fn statement(table: &str, index: &Index, name: &str) -> String {
    let name = quote_ident(name);
    let clause = |before: &str, text: &str, after: &str| match text {
        "" => String::new(),
        text => format!("{before}{text}{after}"),
    };
    let included: Vec<String> = index
        .included
        .iter()
        .map(|column| quote_ident(column))
        .collect();
    let included = clause(" INCLUDE (", &included.join(", "), ")");
    let parameters = clause(" WITH (", &index.parameters, ")");
    let nulls = if index.is_nulls_not_distinct {
        " NULLS NOT DISTINCT"
    } else {
        ""
    };
    let keys = |key: fn(&IndexColumn) -> String| {
        let keys: Vec<String> = index.columns.iter().map(key).collect();
        keys.join(", ")
    };
    let keys = match index.kind {
        // A constraint's index is of the plain kind, and its grammar knows no other.
        IndexKind::PrimaryKey | IndexKind::UniqueConstraint => keys(plain_key),
        _ => keys(key),
    };
    let constraint = format!("ALTER TABLE {table} ADD CONSTRAINT {name}");
    let deferral = clause(" ", &index.deferral, "");
    match (index.kind, &index.exclusion) {
        (_, Some(definition)) => format!("{constraint} {definition}"),
        (IndexKind::PrimaryKey, _) => {
            format!("{constraint} PRIMARY KEY ({keys}){included}{parameters}{deferral}")
        }
        (IndexKind::UniqueConstraint, _) => {
            format!("{constraint} UNIQUE{nulls} ({keys}){included}{parameters}{deferral}")
        }
        (kind, _) => {
            let unique = if kind == IndexKind::Unique {
                "UNIQUE "
            } else {
                ""
            };
            let method = quote_ident(&index.method);
            let predicate = clause(
                " WHERE ",
                index.predicate.as_deref().unwrap_or_default(),
                "",
            );
            format!(
                "CREATE {unique}INDEX {name} ON {table} USING {method} ({keys}){included}{nulls}\
                 {parameters}{predicate}"
            )
        }
    }
}

fn plain_key(key: &IndexColumn) -> String {
    match (&key.column, &key.expression) {
        (Some(column), _) => quote_ident(column),
        // Parentheses too many do no harm.
        (None, expression) => format!("({})", expression.as_deref().unwrap_or_default()),
    }
}

fn key(key: &IndexColumn) -> String {
    let mut text = plain_key(key);
    if !key.options.is_empty() {
        text.push(' ');
        text.push_str(&key.options);
    }
    text
}
