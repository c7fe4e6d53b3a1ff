//! From a row as the stream has it to a row as the target wants it: columns picked and ordered,
//! masks applied, the filter asked.
//!
//! A [`Projection`] is made once for each table description of the stream and used for every row
//! after it; it allocates nothing per row but what the batch needs to grow.

use std::sync::Arc;

use super::TableMapping;
use crate::batch::Batch;
use crate::event::{Block, Cell, CellKind, OldRow, Op, Row, RowChange, StreamTable};
use crate::filter::{Input, Truth};
use crate::schema::ReplicaIdentity;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Projection {
    mapping: Arc<TableMapping>,
    /// For each of the mapping's columns its position in the stream's row.
    columns: Vec<usize>,
    /// The same for each of the filter's.
    filter_columns: Vec<usize>,
    /// For each of the stream's columns whether an old row that is only a key has it.
    identity: Vec<bool>,
    /// For each of the mapping's columns whether it is part of the mapping's key.
    key: Vec<bool>,
}

/// Why a mapping does not fit a table of the stream: the table's shape has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Columns that the mapping carries or filters by are not in the stream's table.
    Missing(Vec<String>),
    /// Old rows no longer have these columns of the mapping's key.
    Identity(Vec<String>),
}

/// What becomes of a change, by its filter. The table is in the text of [`crate::filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// Nothing: the row is not carried, before or after.
    Skip,
    /// As the log has it.
    AsIs,
    /// An update that brings the row in: an insert of the new row, all of whose values are known
    /// with [`Unchanged::FromOld`].
    Insert,
    /// An update of a row that may or may not be on the target: insert or update. A value that the
    /// log left out can only be kept; where the row is not there it cannot be made up.
    Upsert,
    /// An update or delete that takes the row out: a delete by the old row, or by the key.
    Delete,
    /// The same, of a row that may not be on the target.
    DeleteIfThere,
    /// It depends on a value that the log left out; or the row comes in and cannot be made up
    /// without such a value.
    Undecided,
}

/// What to do with values that an update left as they were and the log left out of the new row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// They stay [`CellKind::Unchanged`].
    Keep,
    /// They are taken from the old row where that is whole.
    FromOld,
}

impl Projection {
    /// Finds the mapping's columns in the stream's table by name.
    pub fn new(mapping: &Arc<TableMapping>, table: &StreamTable) -> Result<Projection, Mismatch> {
        let place = |name: &str| table.columns.iter().position(|column| column.name == name);
        let mut missing = Vec::new();
        let mut find = |source: usize| {
            let name = &mapping.schema.columns[source].name;
            place(name).unwrap_or_else(|| {
                missing.push(name.clone());
                0
            })
        };
        let columns: Vec<usize> = mapping
            .columns
            .iter()
            .map(|column| find(column.source))
            .collect();
        let filter_columns: Vec<usize> = match &mapping.filter {
            Some(filter) => filter.columns.iter().map(|source| find(*source)).collect(),
            None => Vec::new(),
        };
        if !missing.is_empty() {
            missing.dedup();
            return Err(Mismatch::Missing(missing));
        }
        let identity: Vec<bool> = (0..table.columns.len())
            .map(|position| match &table.identity {
                ReplicaIdentity::Key(key) => key.contains(&position),
                ReplicaIdentity::Full => true,
                ReplicaIdentity::Nothing => false,
            })
            .collect();
        let lost: Vec<String> = mapping
            .key
            .iter()
            .filter(|key| {
                matches!(table.identity, ReplicaIdentity::Key(_)) && !identity[columns[**key]]
            })
            .map(|key| mapping.source_column(&mapping.columns[*key]).to_owned())
            .collect();
        if !lost.is_empty() {
            return Err(Mismatch::Identity(lost));
        }
        let key = (0..mapping.columns.len())
            .map(|column| mapping.key.contains(&column))
            .collect();
        Ok(Projection {
            mapping: Arc::clone(mapping),
            columns,
            filter_columns,
            identity,
            key,
        })
    }

    /// The mapping it was made for.
    pub fn mapping(&self) -> &Arc<TableMapping> {
        &self.mapping
    }

    /// Whether the old row, where the log has one, has the mapping's key. Of a partition the log has the
    /// columns by which that one tells rows, and calls them those of the partitioned table (PostgreSQL 15,
    /// `logicalrep_write_delete`); a column of a key is never NULL itself.
    pub(crate) fn tells_row(&self, block: &Block, change: &RowChange) -> bool {
        let Some(old) = change.old else {
            return true;
        };
        let cells = block.row(old.row());
        let is_told = |at: &usize| {
            let cell = cells.get(self.columns[*at]);
            cell.is_none_or(|cell| cell.kind != CellKind::Null)
        };
        self.mapping.key.iter().all(is_told)
    }

    /// What becomes of a change.
    pub fn carry(&self, block: &Block, change: &RowChange) -> Carry {
        if self.mapping.filter.is_none() {
            return Carry::AsIs;
        }
        let old = || self.old_truth(block, change);
        let new = || self.new_truth(block, change);
        match change.op {
            Op::Insert => match new() {
                Truth::True => Carry::AsIs,
                Truth::False | Truth::Unknown => Carry::Skip,
                Truth::Undecided => Carry::Undecided,
            },
            Op::Delete => match old() {
                Truth::True => Carry::AsIs,
                Truth::False | Truth::Unknown => Carry::Skip,
                Truth::Undecided => Carry::DeleteIfThere,
            },
            Op::Update => match (old(), new()) {
                (_, Truth::Undecided) => Carry::Undecided,
                (Truth::True, Truth::True) => Carry::AsIs,
                (Truth::True, _) => Carry::Delete,
                (Truth::Undecided, Truth::True) => Carry::Upsert,
                (Truth::Undecided, _) => Carry::DeleteIfThere,
                (_, Truth::True) if self.is_whole(block, change) => Carry::Insert,
                (_, Truth::True) => Carry::Undecided,
                (_, _) => Carry::Skip,
            },
        }
    }

    /// Copies the new row of a change into a batch, masked, in the mapping's order. `None` where the
    /// change has none.
    pub(crate) fn copy_new(
        &self,
        block: &Block,
        change: &RowChange,
        unchanged: Unchanged,
        batch: &mut Batch,
    ) -> Option<Row> {
        let cells = block.row(change.new?);
        let old = match (unchanged, change.old) {
            (Unchanged::FromOld, Some(OldRow::Full(row))) => Some(block.row(row)),
            _ => None,
        };
        let begin = batch.begin_row();
        for (column, from) in self.columns.iter().enumerate() {
            self.copy_cell(block, column, value_of(cells, old, *from), batch);
        }
        Some(batch.end_row(begin))
    }

    /// Copies the old row of a change into a batch, masked, in the mapping's order. Of a key, only
    /// the mapping's key columns are set, the others are NULL.
    pub(crate) fn copy_old(
        &self,
        block: &Block,
        change: &RowChange,
        batch: &mut Batch,
    ) -> Option<OldRow> {
        let old = change.old?;
        let cells = block.row(old.row());
        let begin = batch.begin_row();
        for (column, from) in self.columns.iter().enumerate() {
            match old {
                OldRow::Key(_) if !self.key[column] => batch.push_cell(CellKind::Null, &[]),
                _ => self.copy_cell(block, column, value_of(cells, None, *from), batch),
            }
        }
        let row = batch.end_row(begin);
        Some(match old {
            OldRow::Key(_) => OldRow::Key(row),
            OldRow::Full(_) => OldRow::Full(row),
        })
    }

    /// Whether all carried values of the new row are known.
    fn is_whole(&self, block: &Block, change: &RowChange) -> bool {
        let Some(new) = change.new else {
            return false;
        };
        let cells = block.row(new);
        let old = match change.old {
            Some(OldRow::Full(row)) => Some(block.row(row)),
            _ => None,
        };
        let mut from = self.columns.iter();
        from.all(|from| value_of(cells, old, *from).kind != CellKind::Unchanged)
    }

    fn copy_cell(&self, block: &Block, column: usize, cell: Cell, batch: &mut Batch) {
        let value = block.value(cell);
        match &self.mapping.columns[column].mask {
            None => match block.large(cell) {
                Some(value) => batch.push_large(value),
                None => batch.push_cell(cell.kind, value),
            },
            Some(mask) => match mask.kind(cell.kind) {
                CellKind::Text => batch.push_cell_with(|arena| mask.apply(value, arena)),
                kind => batch.push_cell(kind, &[]),
            },
        }
    }

    /// What the filter says of the new row; what it left out is what a whole old row had.
    fn new_truth(&self, block: &Block, change: &RowChange) -> Truth {
        let Some(new) = change.new else {
            return Truth::Undecided;
        };
        let cells = block.row(new);
        let old = match change.old {
            Some(OldRow::Full(row)) => Some(block.row(row)),
            _ => None,
        };
        self.truth(block, |from| value_of(cells, old, from))
    }

    /// What the filter says of the old row, as far as the log has it: all of it; or its identity; or,
    /// where the identity did not change, the identity as the new row has it.
    fn old_truth(&self, block: &Block, change: &RowChange) -> Truth {
        let cells = match (change.old, change.new) {
            (Some(old), _) => block.row(old.row()),
            (None, Some(new)) => block.row(new),
            (None, None) => return Truth::Undecided,
        };
        let is_whole = matches!(change.old, Some(OldRow::Full(_)));
        self.truth(block, |from| {
            if is_whole || self.identity.get(from) == Some(&true) {
                value_of(cells, None, from)
            } else {
                Cell::UNCHANGED
            }
        })
    }

    fn truth(&self, block: &Block, cell: impl Fn(usize) -> Cell) -> Truth {
        let Some(filter) = &self.mapping.filter else {
            return Truth::True;
        };
        filter.decide(|slot| {
            let cell = cell(self.filter_columns[slot]);
            match cell.kind {
                CellKind::Null => Input::Null,
                CellKind::Unchanged => Input::Missing,
                CellKind::Text => Input::Text(block.value(cell)),
            }
        })
    }
}

/// A cell of a row, or of the old one where the row does not have it. A row that is shorter than its
/// table's description has left the rest out.
///
/// A large value that was left alone is not NULL. An old row that has NULL there is but a key, whatever it
/// is called: PostgreSQL calls it whole by the replica identity of the partitioned table, and logs it by
/// that of the partition (PostgreSQL 15, `logicalrep_write_update`).
fn value_of(cells: &[Cell], old: Option<&[Cell]>, from: usize) -> Cell {
    let cell = cells.get(from).copied().unwrap_or(Cell::UNCHANGED);
    match (cell.kind, old.and_then(|old| old.get(from))) {
        (CellKind::Unchanged, Some(old)) if old.kind == CellKind::Text => *old,
        _ => cell,
    }
}

#[cfg(test)]
mod tests;
