//! The statements that make a table out of its description.
//!
//! Columns, types, collations, NOT NULL, defaults, generated and identity columns, comments and
//! storage parameters; keys, indexes and constraints come after the rows ([`super::finish`]). A
//! partitioned table becomes an ordinary one.
//!
//! Expressions name columns as the source does. No text is searched for column names: a table with
//! generated columns is made under the source's column names and the columns are renamed then, so
//! the server does it.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::schema::{Column, ColumnDefault, TableName, TableSchema};

use super::names::quoted;
use super::wording;
use crate::wire::{quote_ident, quote_literal};

/// A table that is to be made.
#[derive(Debug)]
pub(super) struct NewTable<'a> {
    pub(super) mapping: &'a TableMapping,
    pub(super) name: &'a TableName,
    /// Names within definitions that go by another name here.
    pub(super) moved: &'a BTreeMap<TableName, TableName>,
}

/// How much of a table is made by its first statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything.
    Whole,
    /// No defaults, no generated columns: what cannot fail for want of a function.
    Bare,
}

/// All texts of a table that may name types, sequences or functions.
pub(super) fn texts(mapping: &TableMapping) -> impl Iterator<Item = &str> {
    let columns = mapping.schema.columns.iter().flat_map(|column| {
        let default = match &column.default {
            ColumnDefault::Expression(text) | ColumnDefault::Generated(text) => Some(text.as_str()),
            _ => None,
        };
        [
            Some(column.type_name.as_str()),
            column.collation.as_deref(),
            default,
        ]
    });
    let indexes = mapping.schema.indexes.iter().flat_map(|index| {
        let keys = index
            .columns
            .iter()
            .flat_map(|key| [key.expression.as_deref(), Some(key.options.as_str())]);
        keys.chain([index.predicate.as_deref(), index.exclusion.as_deref()])
    });
    let checks = mapping
        .schema
        .checks
        .iter()
        .map(|check| Some(check.definition.as_str()));
    let domains = mapping.schema.domains.iter();
    let domains = domains.flat_map(|rule| [Some(rule.type_name.as_str()), Some(&rule.demand)]);
    columns
        .chain(indexes)
        .chain(checks)
        .chain(domains)
        .flatten()
}

/// The type of a carried column, as the target says it.
pub(super) fn type_name(
    mapping: &TableMapping,
    column: &ColumnMapping,
    moved: &BTreeMap<TableName, TableName>,
) -> String {
    match column.target_type {
        TargetType::AsSource => {
            wording::replace(&mapping.schema.columns[column.source].type_name, moved)
        }
        TargetType::Text => "text".to_owned(),
    }
}

impl NewTable<'_> {
    /// Makes the table and gives its columns their names.
    pub(super) fn create(&self, extent: Extent) -> Vec<String> {
        let generated: Vec<&Column> = match extent {
            Extent::Whole => self.generated().collect(),
            Extent::Bare => Vec::new(),
        };
        let by_source_names = !generated.is_empty();
        let mut lines = Vec::new();
        for (index, column) in self.mapping.schema.columns.iter().enumerate() {
            if let Some(carried) = self.mapping.columns.iter().find(|c| c.source == index) {
                let name = if by_source_names {
                    &column.name
                } else {
                    &carried.target
                };
                lines.push(self.carried(carried, name, extent));
            } else if let ColumnDefault::Generated(expression) = &column.default
                && generated.iter().any(|other| other.number == column.number)
            {
                lines.push(format!(
                    "{} GENERATED ALWAYS AS ({}) STORED",
                    self.typed(column, &column.name),
                    wording::replace(expression, self.moved),
                ));
            }
        }
        let mut statements = vec![format!(
            "CREATE TABLE {} (\n  {}\n)",
            quoted(self.name),
            lines.join(",\n  ")
        )];
        if by_source_names {
            let table = quoted(self.name);
            statements.extend(rename(&table, &self.renamed(), &self.column_names()));
        }
        statements
    }

    /// One statement for each default and generated column that [`Extent::Bare`] left out, with the
    /// column it is about.
    pub(super) fn extras(&self) -> Vec<(String, String)> {
        let table = quoted(self.name);
        let mut extras = Vec::new();
        for carried in &self.mapping.columns {
            let column = &self.mapping.schema.columns[carried.source];
            if let (ColumnDefault::Expression(expression), None) = (&column.default, &carried.mask)
            {
                let expression = wording::replace(expression, self.moved);
                let name = quote_ident(&carried.target);
                extras.push((
                    column.name.clone(),
                    format!("ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {expression}"),
                ));
            }
        }
        let back: Vec<(String, String)> = self
            .renamed()
            .into_iter()
            .map(|(source, target)| (target, source))
            .collect();
        let there: BTreeSet<String> = self
            .mapping
            .columns
            .iter()
            .map(|c| c.target.clone())
            .collect();
        for column in self.generated() {
            let ColumnDefault::Generated(expression) = &column.default else {
                continue;
            };
            let mut statements = rename(&table, &back, &there);
            statements.push(format!(
                "ALTER TABLE {table} ADD COLUMN {} GENERATED ALWAYS AS ({}) STORED",
                self.typed(column, &column.name),
                wording::replace(expression, self.moved),
            ));
            statements.extend(rename(&table, &self.renamed(), &self.column_names()));
            extras.push((column.name.clone(), statements.join("; ")));
        }
        extras
    }

    /// Comments and storage parameters.
    pub(super) fn notes(&self) -> Vec<String> {
        let table = quoted(self.name);
        let mut notes: Vec<String> = self
            .mapping
            .schema
            .notes
            .iter()
            .map(|note| note.replacen("{name}", &table, 1))
            .collect();
        for carried in &self.mapping.columns {
            if let Some(comment) = &self.mapping.schema.columns[carried.source].comment {
                let (column, comment) = (quote_ident(&carried.target), quote_literal(comment));
                notes.push(format!("COMMENT ON COLUMN {table}.{column} IS {comment}"));
            }
        }
        notes
    }

    fn carried(&self, carried: &ColumnMapping, name: &str, extent: Extent) -> String {
        let column = &self.mapping.schema.columns[carried.source];
        let mut line = format!("{} {}", quote_ident(name), self.declared(carried));
        // What fills a masked column is not what the source says.
        if carried.mask.is_none() {
            match &column.default {
                ColumnDefault::Identity { always, options } => {
                    let when = if *always { "ALWAYS" } else { "BY DEFAULT" };
                    line.extend([" GENERATED ", when, " AS IDENTITY"]);
                    if !options.is_empty() {
                        line.extend([" (", options, ")"]);
                    }
                }
                ColumnDefault::Expression(expression) if extent == Extent::Whole => {
                    line.push_str(" DEFAULT ");
                    line.push_str(&wording::replace(expression, self.moved));
                }
                _ => {}
            }
        }
        if self.mapping.is_not_null(carried) {
            line.push_str(" NOT NULL");
        }
        line
    }

    /// One column, as it is declared.
    pub(super) fn column(&self, carried: &ColumnMapping, extent: Extent) -> String {
        self.carried(carried, &carried.target, extent)
    }

    /// The type of a carried column, with its collation.
    pub(super) fn declared(&self, carried: &ColumnMapping) -> String {
        match carried.target_type {
            TargetType::AsSource => self.type_of(&self.mapping.schema.columns[carried.source]),
            TargetType::Text => "text".to_owned(),
        }
    }

    fn typed(&self, column: &Column, name: &str) -> String {
        format!("{} {}", quote_ident(name), self.type_of(column))
    }

    fn type_of(&self, column: &Column) -> String {
        let mut line = wording::replace(&column.type_name, self.moved);
        if let Some(collation) = &column.collation {
            line.push_str(" COLLATE ");
            line.push_str(&wording::replace(collation, self.moved));
        }
        line
    }

    /// Generated columns whose name nobody else has here. They are not part of the mapping; their
    /// values come from the same expression over the same row.
    fn generated(&self) -> impl Iterator<Item = &Column> {
        self.mapping.schema.columns.iter().filter(|column| {
            matches!(column.default, ColumnDefault::Generated(_))
                && self.mapping.columns.iter().all(|c| c.target != column.name)
        })
    }

    /// Source and target names of columns that are called otherwise here.
    fn renamed(&self) -> Vec<(String, String)> {
        renamed(self.mapping)
    }

    fn column_names(&self) -> BTreeSet<String> {
        let columns = self.mapping.schema.columns.iter();
        columns.map(|column| column.name.clone()).collect()
    }
}

/// Source and target names of the carried columns that are called otherwise on the target.
pub(super) fn renamed(mapping: &TableMapping) -> Vec<(String, String)> {
    mapping
        .columns
        .iter()
        .map(|column| {
            (
                mapping.source_column(column).to_owned(),
                column.target.clone(),
            )
        })
        .filter(|(source, target)| source != target)
        .collect()
}

/// Statements that rename columns, by way of names in between where old and new ones meet.
pub(super) fn rename(
    table: &str,
    pairs: &[(String, String)],
    taken: &BTreeSet<String>,
) -> Vec<String> {
    let one = |from: &str, to: &str| {
        let (from, to) = (quote_ident(from), quote_ident(to));
        format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}")
    };
    if pairs.iter().all(|(_, to)| !taken.contains(to)) {
        return pairs.iter().map(|(from, to)| one(from, to)).collect();
    }
    let between = |index: usize| format!("tidemark_rename_{index}");
    let away = pairs
        .iter()
        .enumerate()
        .map(|(index, (from, _))| one(from, &between(index)));
    let there = pairs
        .iter()
        .enumerate()
        .map(|(index, (_, to))| one(&between(index), to));
    away.chain(there).collect()
}

/// A statement that speaks of columns by their source names, run while they have those: one transaction, and
/// nobody sees it. `have` is the table, called `table`.
pub(super) fn in_source_names(
    mapping: &TableMapping,
    have: &TableSchema,
    table: &str,
    statement: &str,
) -> Vec<String> {
    let there = renamed(mapping);
    let back: Vec<(String, String)> = there
        .iter()
        .map(|(source, target)| (target.clone(), source.clone()))
        .collect();
    let names = |table: &TableSchema| table.columns.iter().map(|it| it.name.clone()).collect();
    let mut statements = vec!["BEGIN".to_owned()];
    statements.extend(rename(table, &back, &names(have)));
    statements.push(statement.to_owned());
    statements.extend(rename(table, &there, &names(&mapping.schema)));
    statements.push("COMMIT".to_owned());
    statements
}
