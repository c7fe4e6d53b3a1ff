//! A batch: whole source transactions (or a part of one that is larger), ready for the target.
//!
//! The pipeline copies values out of the stream's blocks into the batch's own arena, once, while it
//! applies the mapping: columns are in the order of [`TableMapping::columns`], masks and filters are
//! done. What is in a batch can therefore be written, parked or replayed as it stands, and its size
//! in bytes is what the batch occupies. A large value is not copied: it keeps the stream's bytes, or
//! those that a mask has made of it ([`Batch::large`]).
//!
//! Items stand in source order. [`Item::Truncate`] and [`Item::Schema`] are barriers: nothing may be
//! reordered across them.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Cell, CellKind, OldRow, Op, Row};
use crate::mapping::TableMapping;
use crate::target::Origin;

/// From this size on a value stays in bytes of its own.
pub const LARGE_BYTES: usize = 1 << 20;

/// Set in the start of a cell whose bytes are not in the arena: the rest of it is their place in
/// `large`. The arena ends long before, since a batch is cut at a gigabyte.
const IS_LARGE: u32 = 1 << 31;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Batch {
    arena: Vec<u8>,
    large: Vec<Bytes>,
    large_bytes: usize,
    cells: Vec<Cell>,
    tables: Vec<Arc<TableMapping>>,
    items: Vec<Item>,
    /// From which item on which transaction brought them; `None` for one that is not decided.
    origins: Vec<(usize, Option<Origin>)>,
    /// How many source transactions end in this batch.
    pub transactions: u64,
    /// Commit time on the source of the oldest transaction in it, microseconds since 1970 UTC.
    pub oldest_commit_us: Option<i64>,
}

/// One thing to do on the target, in order.
#[derive(Clone, Debug)]
pub enum Item {
    /// A row's change.
    Change(Change),
    /// Empty these tables.
    Truncate {
        /// Positions in [`Batch::tables`].
        tables: Vec<usize>,
        /// Restart sequences owned by their columns.
        restart_identity: bool,
    },
    /// Change a table's shape.
    Schema {
        /// Position in [`Batch::tables`]: the mapping *after* the change.
        table: usize,
        /// What to do, in order.
        changes: Vec<SchemaChange>,
    },
}

/// A row's change, with its values in the batch's arena.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Position in [`Batch::tables`].
    pub table: usize,
    /// What happened.
    pub op: Op,
    /// The old row where the log had one; cells in the mapping's order. For [`OldRow::Key`] only
    /// the mapping's key columns are set.
    pub old: Option<OldRow>,
    /// The new row of an insert or update.
    pub new: Option<Row>,
}

/// A change of a table's shape, in target names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// A column that is new on the source.
    AddColumn {
        /// Its name on the target.
        name: String,
        /// Its type in the source's words.
        type_name: String,
        /// What rows that were there before have in it: text form, `None` for NULL.
        fill: Option<String>,
        /// Its default in the source's words, for rows to come.
        default: Option<String>,
    },
    /// A column that is gone on the source.
    DropColumn {
        /// Its name on the target.
        name: String,
    },
    /// A column that is gone on the source and stays on the target: NULL from here on.
    DropNotNull {
        /// Its name on the target.
        name: String,
    },
    /// A column with another name.
    RenameColumn {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// A column with another type.
    AlterType {
        /// Its name on the target.
        name: String,
        /// The new type in the source's words.
        type_name: String,
    },
}

/// `clone_from` keeps what was allocated: an applier that holds a small batch back copies one after
/// the other into the same place.
impl Clone for Batch {
    fn clone(&self) -> Batch {
        let mut copy = Batch::default();
        copy.clone_from(self);
        copy
    }

    fn clone_from(&mut self, other: &Batch) {
        self.arena.clone_from(&other.arena);
        self.large.clone_from(&other.large);
        self.large_bytes = other.large_bytes;
        self.cells.clone_from(&other.cells);
        self.tables.clone_from(&other.tables);
        self.items.clone_from(&other.items);
        self.origins.clone_from(&other.origins);
        self.transactions = other.transactions;
        self.oldest_commit_us = other.oldest_commit_us;
    }
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What it occupies, in bytes.
    pub fn bytes(&self) -> usize {
        self.arena.len()
            + self.large_bytes
            + self.cells.len() * size_of::<Cell>()
            + self.items.len() * size_of::<Item>()
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// What to do, in source order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The tables that items refer to.
    pub fn tables(&self) -> &[Arc<TableMapping>] {
        &self.tables
    }

    /// The values of a row.
    pub fn row(&self, row: Row) -> &[Cell] {
        let start = row.start as usize;
        &self.cells[start..start + usize::from(row.len)]
    }

    /// The bytes of a value; empty for NULL and unchanged ones.
    pub fn value(&self, cell: Cell) -> &[u8] {
        if let Some(large) = self.large(cell) {
            return large;
        }
        &self.arena[cell.start as usize..cell.start as usize + cell.len as usize]
    }

    /// The value that has bytes of its own, to be held on to without a copy.
    pub fn large(&self, cell: Cell) -> Option<&Bytes> {
        let place = (cell.start & IS_LARGE != 0).then_some(cell.start & !IS_LARGE)?;
        self.large.get(place as usize)
    }

    /// Whether any of the cells has bytes of its own.
    pub fn has_large(&self, cells: &[Cell]) -> bool {
        !self.large.is_empty() && cells.iter().any(|cell| self.large(*cell).is_some())
    }

    /// The position of a table in this batch, added if it is not there yet.
    pub fn table(&mut self, mapping: &Arc<TableMapping>) -> usize {
        // Few tables a batch, and the last one is the likely one.
        let known = self
            .tables
            .iter()
            .rposition(|known| Arc::ptr_eq(known, mapping));
        known.unwrap_or_else(|| {
            self.tables.push(Arc::clone(mapping));
            self.tables.len() - 1
        })
    }

    /// Begins a row; cells follow by [`Batch::push_cell`], then [`Batch::end_row`].
    pub fn begin_row(&self) -> usize {
        self.cells.len()
    }

    /// Copies one value in.
    pub fn push_cell(&mut self, kind: CellKind, value: &[u8]) {
        if value.len() >= LARGE_BYTES {
            return self.push_large(Bytes::copy_from_slice(value));
        }
        let start = self.arena_start();
        let len = u32::try_from(value.len()).expect("a value is below 1 GiB");
        self.arena.extend_from_slice(value);
        self.cells.push(Cell { kind, start, len });
    }

    /// Takes one value as it is.
    pub fn push_large(&mut self, value: Bytes) {
        let place = u32::try_from(self.large.len()).expect("a batch is cut long before");
        self.cells.push(Cell {
            kind: CellKind::Text,
            start: place | IS_LARGE,
            len: u32::try_from(value.len()).expect("a value is below 1 GiB"),
        });
        self.large_bytes += value.len();
        self.large.push(value);
    }

    fn arena_start(&self) -> u32 {
        let start = u32::try_from(self.arena.len()).ok();
        let start = start.filter(|start| start & IS_LARGE == 0);
        start.expect("a batch is cut long before 2 GiB, large values apart")
    }

    /// Lets `write` append one value to the batch's own bytes: for what is made on the way.
    pub(crate) fn push_cell_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena_start();
        write(&mut self.arena);
        let value = self.arena.get(start as usize..).unwrap_or_default();
        if value.len() >= LARGE_BYTES {
            let value = self.arena.split_off(start as usize);
            return self.push_large(value.into());
        }
        let len = u32::try_from(value.len()).expect("a value is below 1 GiB");
        let kind = CellKind::Text;
        self.cells.push(Cell { kind, start, len });
    }

    /// Ends a row begun at `begin_row`'s answer.
    pub fn end_row(&self, begin: usize) -> Row {
        Row {
            start: u32::try_from(begin).expect("cells fit where their bytes do"),
            len: u16::try_from(self.cells.len() - begin)
                .expect("a table has at most 1,600 columns"),
        }
    }

    /// Adds an item.
    pub fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    /// What is pushed from here on comes from this transaction; `None`: it is not decided.
    pub(crate) fn begin_transaction(&mut self, origin: Option<Origin>) {
        if self.origins.last().map(|(_, last)| *last) != Some(origin) {
            self.origins.push((self.items.len(), origin));
        }
    }

    /// All that is in it comes from this transaction.
    pub(crate) fn come_from(&mut self, origin: Origin) {
        self.origins = vec![(0, Some(origin))];
    }

    /// Which transaction brought an item, where that was told.
    pub fn origin(&self, item: usize) -> Option<Origin> {
        let behind = self.origins.partition_point(|(first, _)| *first <= item);
        self.origins.get(behind.checked_sub(1)?)?.1
    }

    /// Copies a change of another batch in.
    pub fn append(&mut self, other: &Batch, change: &Change) {
        let table = self.table(&other.tables[change.table]);
        let old = change.old.map(|old| match old {
            OldRow::Key(row) => OldRow::Key(self.copy_row(other, row)),
            OldRow::Full(row) => OldRow::Full(self.copy_row(other, row)),
        });
        let new = change.new.map(|row| self.copy_row(other, row));
        self.push(Item::Change(Change {
            table,
            op: change.op,
            old,
            new,
        }));
    }

    fn copy_row(&mut self, other: &Batch, row: Row) -> Row {
        let begin = self.begin_row();
        for cell in other.row(row) {
            match other.large(*cell) {
                Some(value) => self.push_large(value.clone()),
                None => self.push_cell(cell.kind, other.value(*cell)),
            }
        }
        self.end_row(begin)
    }

    /// Puts other items in the place of those that are there; their rows must be this batch's.
    pub fn replace_items(&mut self, items: Vec<Item>) {
        self.items = items;
    }

    /// Empties it, keeping what it had allocated.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.large.clear();
        self.large_bytes = 0;
        self.cells.clear();
        self.tables.clear();
        self.items.clear();
        self.origins.clear();
        self.transactions = 0;
        self.oldest_commit_us = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_stay_where_they_are_and_are_counted() {
        let shared = Bytes::from(vec![b'l'; LARGE_BYTES]);
        let mut batch = Batch::default();
        let begin = batch.begin_row();
        batch.push_cell(CellKind::Text, b"small");
        batch.push_large(shared.clone());
        batch.push_cell(CellKind::Text, &vec![b'c'; LARGE_BYTES + 1]);
        batch.push_cell_with(|arena| arena.resize(arena.len() + LARGE_BYTES + 2, b'm'));
        batch.push_cell(CellKind::Null, b"");
        batch.push_cell_with(|arena| arena.extend_from_slice(b"made"));
        let row = batch.end_row(begin);
        let lengths = |batch: &Batch| -> Vec<usize> {
            let values = batch.row(row).iter().map(|cell| batch.value(*cell));
            values.map(<[u8]>::len).collect()
        };
        let large = LARGE_BYTES;
        assert_eq!(lengths(&batch), [5, large, large + 1, large + 2, 0, 4]);
        assert_eq!(batch.value(batch.row(row)[0]), b"small");
        assert_eq!(batch.value(batch.row(row)[5]), b"made");
        let value = batch.value(batch.row(row)[1]);
        assert_eq!(value.as_ptr(), shared.as_ptr(), "not a copy");
        assert!(batch.arena.len() < 100 && batch.bytes() > 3 * large);
        assert!(batch.has_large(batch.row(row)) && !batch.has_large(&batch.row(row)[4..]));

        let copy = batch.clone();
        batch.clear();
        assert_eq!((batch.bytes(), batch.large.len()), (0, 0));
        assert_eq!(lengths(&copy), [5, large, large + 1, large + 2, 0, 4]);
        assert_eq!(copy.value(copy.row(row)[1]).as_ptr(), shared.as_ptr());
    }
}
