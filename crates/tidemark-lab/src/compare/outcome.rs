//! What a comparison found, in words for the one who reads a failed test.

use std::fmt;

use super::columns::Column;
use super::{Cell, Name, RowText};

/// All tables.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Each table of the source that was asked for.
    pub tables: Vec<TableOutcome>,
}

/// One table.
#[derive(Clone, Debug)]
pub struct TableOutcome {
    /// Its name in the source.
    pub source: Name,
    /// Its name in the target.
    pub target: Name,
    /// Rows read.
    pub source_rows: u64,
    /// Rows read.
    pub target_rows: u64,
    /// Rows that have no equal on the other side, on both sides together.
    pub different: u64,
    /// The first of them, and what the structure lacks.
    pub differences: Vec<Difference>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A table or column is missing.
    Structure(String),
    /// A row of the source that the target lacks, or has fewer times.
    Missing(String),
    /// A row that only the target has, or has more times.
    Surplus(String),
    /// Rows of one key with different columns.
    Changed {
        /// The key.
        key: String,
        /// `column: source -> target` of each that differs.
        columns: Vec<String>,
    },
}

impl Outcome {
    /// Whether no table differs; no table at all is no proof and so not identical.
    pub fn is_identical(&self) -> bool {
        !self.tables.is_empty() && self.tables.iter().all(TableOutcome::is_identical)
    }

    /// All rows read from the source.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.source_rows).sum()
    }

    /// The outcome of one table.
    pub fn table(&self, schema: &str, table: &str) -> Option<&TableOutcome> {
        self.tables
            .iter()
            .find(|t| t.source.0 == schema && t.source.1 == table)
    }
}

impl TableOutcome {
    pub(super) fn new(source: &Name, target: &Name) -> TableOutcome {
        TableOutcome {
            source: source.clone(),
            target: target.clone(),
            source_rows: 0,
            target_rows: 0,
            different: 0,
            differences: Vec::new(),
        }
    }

    /// Whether nothing differs.
    pub fn is_identical(&self) -> bool {
        self.different == 0 && self.differences.is_empty()
    }

    pub(super) fn add(&mut self, difference: Difference) {
        self.differences.push(difference);
    }

    /// Turns rows without an equal into differences, those of one key into one.
    pub(super) fn tell(
        &mut self,
        pairs: &[(Column, Column)],
        missing: Vec<RowText>,
        mut surplus: Vec<RowText>,
    ) {
        let key_of = |row: &RowText| -> Option<Vec<Cell>> {
            let cells = row.0.iter().zip(pairs).filter(|(_, pair)| pair.0.is_key);
            let key: Vec<Cell> = cells.map(|(cell, _)| cell.clone()).collect();
            (!key.is_empty()).then_some(key)
        };
        for row in missing {
            let key = key_of(&row);
            let partner = surplus
                .iter()
                .position(|other| key.is_some() && key_of(other) == key);
            let difference = match (partner, key) {
                (Some(at), Some(key)) => changed(pairs, &row, &surplus.remove(at), key),
                _ => Difference::Missing(row.to_string()),
            };
            self.add(difference);
        }
        for row in surplus {
            self.add(Difference::Surplus(row.to_string()));
        }
    }
}

fn changed(
    pairs: &[(Column, Column)],
    source: &RowText,
    target: &RowText,
    key: Vec<Cell>,
) -> Difference {
    let cells = source.0.iter().zip(&target.0).zip(pairs);
    let different = cells.filter(|((s, t), _)| s != t);
    let columns = different.map(|((s, t), (column, _))| format!("{}: {s} -> {t}", column.name));
    Difference::Changed {
        key: RowText(key).to_string(),
        columns: columns.collect(),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tables.is_empty() {
            return writeln!(f, "no table was compared");
        }
        self.tables
            .iter()
            .filter(|t| !t.is_identical())
            .try_for_each(|t| write!(f, "{t}"))
    }
}

impl fmt::Display for TableOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}.{}: {} rows in the source, {} in the target, {} without an equal",
            self.source.0, self.source.1, self.source_rows, self.target_rows, self.different
        )?;
        self.differences
            .iter()
            .try_for_each(|difference| writeln!(f, "  {difference}"))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Structure(text) => f.write_str(text),
            Difference::Missing(row) => write!(f, "missing {row}"),
            Difference::Surplus(row) => write!(f, "surplus {row}"),
            Difference::Changed { key, columns } => {
                write!(f, "changed {key}: {}", columns.join(", "))
            }
        }
    }
}

impl fmt::Display for RowText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells: Vec<String> = self.0.iter().map(Cell::to_string).collect();
        write!(f, "({})", cells.join(", "))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("NULL"),
            Cell::Text(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
        }
    }
}
