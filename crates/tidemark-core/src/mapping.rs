//! How a table of the source becomes a table of the target: names, columns, filter, masks.
//!
//! A [`TableMapping`] is made once, from the pipeline file and the source's catalog, and serves load,
//! stream and verification alike, so that the three cannot disagree.

use crate::filter::Filter;
use crate::mask::Mask;
use crate::schema::{TableName, TableSchema};

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

    /// Whether every value passes as it is: no mask and no filter.
    pub fn is_verbatim(&self) -> bool {
        self.filter.is_none() && self.columns.iter().all(|column| column.mask.is_none())
    }
}
