//! What a pipeline file says about tables, before the source's catalog is known.

use std::fmt;

use crate::config::problem::{Located, Place};
use crate::config::secret::Secret;
use crate::quarantine::OnRowError;
use crate::schema::TableName;
use crate::selection::{Glob, Pattern, Selection, split, wrong_count};

/// Which tables are copied, and the exceptions.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Which tables.
    pub selection: Selection,
    /// Where each pattern of [`Selection::include`] was written, in the same order.
    pub include_places: Vec<Option<Place>>,
    /// Schema of the target's tables; may hold `{schema}`. `None`: as on the source.
    pub target_schema: Option<Located<String>>,
    /// Rules for single tables, in file order.
    pub tables: Vec<TableRule>,
    /// Masks, in file order; the first that fits a column counts.
    pub masks: Vec<MaskRule>,
    /// Whether source and target are one database, so that no table may go onto itself.
    pub is_same_database: bool,
    /// What becomes of a row that the target refuses, where a table's rule does not say.
    pub on_row_error: OnRowError,
}

/// One `[[table]]`.
#[derive(Clone, Debug)]
pub struct TableRule {
    /// For which tables; a rule without wildcards goes before one with.
    pub source: Located<Pattern>,
    /// `schema.table` on the target; may hold `{schema}` and `{table}`.
    pub target: Option<Located<String>>,
    /// New names of columns: source, target.
    pub rename: Vec<(Located<String>, Located<String>)>,
    /// Columns that are left out.
    pub drop_columns: Vec<Located<String>>,
    /// The row filter's text.
    pub filter: Option<Located<String>>,
    /// Rows in a chunk of the load, in place of a chunk's bytes.
    pub chunk_rows: Option<u64>,
    /// What becomes of a row that the target refuses.
    pub on_row_error: Option<OnRowError>,
}

/// One `[[mask]]`.
#[derive(Clone, Debug)]
pub struct MaskRule {
    /// For which columns.
    pub columns: Vec<Located<ColumnPattern>>,
    /// What is done.
    pub with: MaskWith,
}

/// A mask before the column's type is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskWith {
    /// [`crate::mask::Mask::Hash`].
    Hash {
        /// Stands before the value.
        salt: Secret,
    },
    /// [`crate::mask::Mask::Redact`].
    Redact,
    /// [`crate::mask::Mask::Null`].
    Null,
    /// [`crate::mask::Mask::Partial`].
    Partial,
    /// [`crate::mask::Mask::Fixed`].
    Fixed {
        /// In text form.
        value: String,
    },
}

/// `schema.table.column`, each part with `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPattern {
    /// For the table.
    pub table: Pattern,
    /// For the column.
    pub column: Glob,
}

impl ColumnPattern {
    /// Reads `schema.table.column`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<ColumnPattern, String> {
        let parts = split(text)?;
        match <[Glob; 3]>::try_from(parts) {
            Ok([schema, table, column]) => Ok(ColumnPattern {
                table: Pattern { schema, table },
                column,
            }),
            Err(parts) => Err(wrong_count(parts.len(), 3, "schema.table.column")),
        }
    }

    /// Whether the pattern is for this column.
    pub fn matches(&self, table: &TableName, column: &str) -> bool {
        self.table.matches(table) && self.column.matches(column)
    }
}

impl fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

impl MaskWith {
    /// Its word in files.
    pub fn word(&self) -> &'static str {
        match self {
            MaskWith::Hash { .. } => "hash",
            MaskWith::Redact => "redact",
            MaskWith::Null => "null",
            MaskWith::Partial => "partial",
            MaskWith::Fixed { .. } => "fixed",
        }
    }
}
