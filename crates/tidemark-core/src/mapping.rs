//! How a table of the source becomes a table of the target: names, columns, filter, masks.
//!
//! A [`TableMapping`] is made once, from the pipeline file and the source's catalog, and serves load,
//! stream and verification alike, so that the three cannot disagree.

use crate::event::CellKind;
use crate::filter::Filter;
use crate::mask::Mask;
use crate::quarantine::OnRowError;
use crate::schema::{Column, ColumnDefault, TableName, TableSchema, ValueClass};

mod bind;
#[cfg(test)]
pub(crate) mod fixture;
mod names;
mod obstacle;
mod projection;
mod rules;
#[cfg(test)]
mod tests;

pub use projection::{Carry, Mismatch, Projection, Unchanged};
pub use rules::{ColumnPattern, MaskRule, MaskWith, Rules, TableRule};

/// One selected table and where it goes.
#[derive(Clone, Debug)]
pub struct TableMapping {
    /// The table on the source.
    pub schema: TableSchema,
    /// Its name on the target.
    pub target: TableName,
    /// The columns that are carried, in the source's order. Generated columns and left-out ones
    /// are missing here.
    pub columns: Vec<ColumnMapping>,
    /// Positions in `columns` by which the target finds a row: the replica identity's columns where
    /// it is a key, else the primary key's; empty for a table without a key.
    pub key: Vec<usize>,
    /// Rows for which this is not true are not carried.
    pub filter: Option<Filter>,
    /// What becomes of a row that the target refuses.
    pub on_row_error: OnRowError,
}

/// One carried column.
#[derive(Clone, Debug)]
pub struct ColumnMapping {
    /// Position in the source's [`TableSchema::columns`].
    pub source: usize,
    /// Its name on the target.
    pub target: String,
    /// What is done to its values.
    pub mask: Option<Mask>,
    /// The type that the target's column must have.
    pub target_type: TargetType,
}

/// The type of a column on the target, as far as the mapping decides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetType {
    /// The source's.
    #[default]
    AsSource,
    /// Unlimited text, because a mask makes text of the values. Load and stream give such columns
    /// in text form with the mask around it.
    Text,
}

impl TableMapping {
    /// The table's name on the source.
    pub fn source(&self) -> &TableName {
        &self.schema.name
    }

    /// The name on the source of a carried column.
    pub fn source_column(&self, column: &ColumnMapping) -> &str {
        &self.schema.columns[column.source].name
    }

    /// The target name of a source column, `None` where it is not carried.
    pub fn target_column(&self, source: &str) -> Option<&str> {
        self.columns
            .iter()
            .find(|column| self.source_column(column) == source)
            .map(|column| column.target.as_str())
    }

    /// Whether rows that are carried by the one look like those of the other: what can differ is what
    /// the catalog says beside the columns.
    pub(crate) fn carries_alike(&self, other: &TableMapping) -> bool {
        let columns = |mapping: &TableMapping| -> Vec<_> {
            let columns = mapping.schema.columns.iter();
            columns
                .map(|it| (it.name.clone(), it.number, it.type_id, it.type_modifier))
                .collect()
        };
        let carried = |mapping: &TableMapping| -> Vec<_> {
            let carried = mapping.columns.iter();
            carried.map(|it| (it.source, it.target.clone())).collect()
        };
        self.target == other.target
            && self.key == other.key
            && self.schema.id == other.schema.id
            && self.schema.identity == other.schema.identity
            && carried(self) == carried(other)
            && columns(self) == columns(other)
    }

    /// A column of which the file kept values from the target, by a mask or by leaving it out, and which
    /// is called otherwise by now, so that the file says nothing of it any more: its old name and its new.
    pub(crate) fn uncovered<'a>(&'a self, now: &'a TableMapping) -> Option<(&'a str, &'a str)> {
        let hides = |mapping: &TableMapping, at: usize| {
            let is_generated = matches!(
                mapping.schema.columns[at].default,
                ColumnDefault::Generated(_)
            );
            let carried = mapping.columns.iter().find(|column| column.source == at);
            !is_generated && carried.is_none_or(|column| column.mask.is_some())
        };
        let mut hidden = (self.schema.columns.iter().enumerate())
            .filter(|(at, column)| column.number != 0 && hides(self, *at));
        hidden.find_map(|(_, old)| {
            let mut columns = now.schema.columns.iter().enumerate();
            let is_it = |(_, column): &(usize, &Column)| column.number == old.number;
            let (at, column) = columns.find(is_it)?;
            let is_open = column.name != old.name && !hides(now, at);
            (self.schema.id == now.schema.id && is_open)
                .then_some((old.name.as_str(), column.name.as_str()))
        })
    }

    /// A value that all rows have in a source column, as the target gets it.
    pub fn masked(&self, source: &str, value: Option<&str>) -> Option<String> {
        let mut columns = self.columns.iter();
        let column = columns.find(|column| self.source_column(column) == source);
        let Some(mask) = column.and_then(|column| column.mask.as_ref()) else {
            return value.map(str::to_owned);
        };
        let kind = if value.is_some() {
            CellKind::Text
        } else {
            CellKind::Null
        };
        if mask.kind(kind) != CellKind::Text {
            return None;
        }
        let mut masked = Vec::new();
        mask.apply(value.unwrap_or_default().as_bytes(), &mut masked);
        String::from_utf8(masked).ok()
    }

    /// Whether the target's column may refuse NULL: the source's does, and no mask makes NULL of it.
    pub fn is_not_null(&self, column: &ColumnMapping) -> bool {
        self.schema.columns[column.source].is_not_null && column.mask != Some(Mask::Null)
    }

    /// What kind of values the target's column holds.
    pub fn class(&self, column: &ColumnMapping) -> ValueClass {
        match column.target_type {
            TargetType::AsSource => self.schema.columns[column.source].class,
            TargetType::Text => ValueClass::Text,
        }
    }

    /// Whether every value passes as it is: no mask and no filter.
    pub fn is_verbatim(&self) -> bool {
        self.filter.is_none() && self.columns.iter().all(|column| column.mask.is_none())
    }
}
