//! What fills a column that an insert leaves out, and whether it may be NULL, where both sides differ.
//!
//! It matters to nobody while we write every value, so no change of it is followed. Who writes to the target
//! after a cutover would get other rows than on the source, or be refused. Nothing is told of a masked
//! column, which is not filled as on the source, nor of a generated one.

use std::collections::BTreeMap;

use tidemark_core::mapping::{ColumnMapping, TableMapping};
use tidemark_core::schema::{Column, ColumnDefault, TableName};

use super::super::{create, wording};
use crate::wire::quote_ident;

const DEFAULT: &str = "default of column";
const IDENTITY: &str = "identity of column";
pub(super) const NOT_NULL: &str = "not-null constraint";

/// A column that is filled otherwise than on the source, or that the target alone keeps from being NULL.
pub(super) struct Filled {
    /// Its name on the target.
    pub(super) column: String,
    pub(super) kind: &'static str,
    /// Whether the source has nothing in its place.
    pub(super) is_surplus: bool,
    /// What makes it as on the source, each to stand behind `ALTER COLUMN name`.
    steps: Vec<String>,
}

impl Filled {
    pub(super) fn sql(&self, table: &str) -> String {
        let column = quote_ident(&self.column);
        let steps = self.steps.iter();
        let statements: Vec<String> = steps
            .map(|step| format!("ALTER TABLE {table} ALTER COLUMN {column} {step}"))
            .collect();
        statements.join(";\n")
    }
}

/// What is to be told of a column. `is_bound`: whether it is of the target's primary key.
pub(super) fn differing(
    mapping: &TableMapping,
    column: &ColumnMapping,
    have: &Column,
    is_bound: bool,
    moved: &BTreeMap<TableName, TableName>,
) -> Vec<Filled> {
    if column.mask.is_some() {
        return Vec::new();
    }
    let source = &mapping.schema.columns[column.source];
    let told = |kind, is_surplus, steps| Filled {
        column: column.target.clone(),
        kind,
        is_surplus,
        steps,
    };
    let mut found = Vec::new();
    let is_identity = matches!(have.default, ColumnDefault::Identity { .. });
    let is_alike = || {
        let type_name = create::type_name(mapping, column, moved);
        wording::say_the_same(&type_name, &have.type_name, &[])
    };
    if let Some((kind, steps)) = filled(&source.default, &have.default, moved, is_alike) {
        found.push(told(kind, source.default == ColumnDefault::None, steps));
    }
    if have.is_not_null && !source.is_not_null && !is_bound && !is_identity {
        found.push(told(NOT_NULL, true, vec!["DROP NOT NULL".to_owned()]));
    }
    found
}

/// What it is, and what makes it the source's. An expression is written otherwise for another type of column:
/// where these are not alike two expressions count as the same.
fn filled(
    source: &ColumnDefault,
    target: &ColumnDefault,
    moved: &BTreeMap<TableName, TableName>,
    are_alike: impl Fn() -> bool,
) -> Option<(&'static str, Vec<String>)> {
    use ColumnDefault::{Expression, Generated, Identity, None as Nothing};
    let drop_identity = || "DROP IDENTITY".to_owned();
    let when = |always: bool| if always { "ALWAYS" } else { "BY DEFAULT" };
    Some(match (source, target) {
        (Generated(_), _) | (_, Generated(_)) | (Nothing, Nothing) => return None,
        (Nothing, Expression(_)) => (DEFAULT, vec!["DROP DEFAULT".to_owned()]),
        (Nothing, Identity { .. }) => (IDENTITY, vec![drop_identity()]),
        (Expression(expression), there) => {
            let expression = wording::replace(expression, moved);
            if let Expression(there) = there
                && (wording::say_the_same(&expression, there, &[]) || !are_alike())
            {
                return None;
            }
            let set = format!("SET DEFAULT {expression}");
            match there {
                Identity { .. } => (DEFAULT, vec![drop_identity(), set]),
                _ => (DEFAULT, vec![set]),
            }
        }
        (Identity { always, .. }, Identity { always: there, .. }) => {
            if always == there {
                return None;
            }
            (IDENTITY, vec![format!("SET GENERATED {}", when(*always))])
        }
        (Identity { always, options }, there) => {
            let mut add = format!("ADD GENERATED {} AS IDENTITY", when(*always));
            if !options.is_empty() {
                add.extend([" (", options, ")"]);
            }
            match there {
                Expression(_) => (IDENTITY, vec!["DROP DEFAULT".to_owned(), add]),
                _ => (IDENTITY, vec![add]),
            }
        }
    })
}
