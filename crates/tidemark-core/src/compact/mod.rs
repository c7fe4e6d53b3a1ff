//! Net change: many changes of one table become at most one for each row. Pure, no I/O.
//!
//! A batch is cut at its barriers ([`split`]); between two of them the changes of a table may be
//! folded ([`fold_keyed`], [`fold_keyless`]) to what they come to: rows that went, rows that
//! changed, rows that came. Applied as sets, in this order, they leave a table that cannot be told
//! from one to which every change was applied in turn. That holds as far as keys are unique and old
//! rows are what the log says; where a fold cannot keep it (a key changes while a large value is
//! known only as "unchanged"), it says so and the changes are applied in order.
//!
//! What a fold does not know: other unique constraints. Order among rows is lost, and with it the
//! proof that a value was free when it was taken; a target that refuses replays in source order.
//!
//! Keys are compared by the bytes of their text form. Nothing is copied: images are rows of the
//! batch, or cells that were put together from several of its rows.

use std::ops::Range;

use crate::batch::{Batch, Item};
use crate::event::{Cell, CellKind, Op, Row};

mod keyed;
mod keyless;
mod slots;

pub use keyed::{KeyedNet, UpdateGroup, fold_keyed};
pub use keyless::{KeylessNet, Tally, fold_keyless};

#[cfg(test)]
mod tests;

/// A stretch of a batch within which order between rows may be given up.
#[derive(Debug)]
pub enum Segment {
    /// Changes of rows, by table.
    Changes(Stretch),
    /// One item that nothing may cross, by its place in the batch.
    Barrier(usize),
}

/// Changes between two barriers.
#[derive(Debug)]
pub struct Stretch {
    /// The items' places in the batch.
    pub items: Range<usize>,
    /// The changes of each table, tables in the order in which they first appear.
    pub tables: Vec<TableChanges>,
}

/// The changes of one table within a segment.
#[derive(Debug, Default)]
pub struct TableChanges {
    /// Position in [`Batch::tables`].
    pub table: usize,
    /// The items' places in the batch, in order.
    pub items: Vec<u32>,
    /// How many of them insert.
    pub inserts: usize,
    /// How many of them update.
    pub updates: usize,
    /// How many of them delete.
    pub deletes: usize,
}

impl TableChanges {
    /// Whether all that happened is that rows came.
    pub fn is_insert_only(&self) -> bool {
        self.inserts == self.items.len()
    }

    fn push(&mut self, item: usize, op: Op) {
        self.items
            .push(u32::try_from(item).expect("items fit where their cells do"));
        match op {
            Op::Insert => self.inserts += 1,
            Op::Update => self.updates += 1,
            Op::Delete => self.deletes += 1,
        }
    }
}

/// Cuts a batch at its barriers and sorts the changes between them by table.
pub fn split(batch: &Batch) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut open = Open::default();
    for (index, item) in batch.items().iter().enumerate() {
        match item {
            Item::Change(change) => open.push(index, change.table, change.op),
            Item::Truncate { .. } | Item::Schema { .. } => {
                open.close(index, &mut segments);
                segments.push(Segment::Barrier(index));
            }
        }
    }
    open.close(batch.len(), &mut segments);
    segments
}

/// The stretch that is being collected.
#[derive(Default)]
struct Open {
    start: usize,
    tables: Vec<TableChanges>,
    /// By position in [`Batch::tables`]: place in `tables` plus one, 0 for none.
    places: Vec<usize>,
}

impl Open {
    fn push(&mut self, item: usize, table: usize, op: Op) {
        if self.places.len() <= table {
            self.places.resize(table + 1, 0);
        }
        if self.places[table] == 0 {
            self.tables.push(TableChanges {
                table,
                ..TableChanges::default()
            });
            self.places[table] = self.tables.len();
        }
        self.tables[self.places[table] - 1].push(item, op);
    }

    fn close(&mut self, barrier: usize, segments: &mut Vec<Segment>) {
        let tables = std::mem::take(&mut self.tables);
        if !tables.is_empty() {
            segments.push(Segment::Changes(Stretch {
                items: self.start..barrier,
                tables,
            }));
        }
        self.start = barrier + 1;
        self.places.clear();
    }
}

/// A row that a fold came to: one of the batch, or put together from several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    row: Row,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Batch,
    Merged,
}

impl Image {
    fn of_batch(row: Row) -> Image {
        Image {
            row,
            origin: Origin::Batch,
        }
    }
}

/// The cells of images that were put together from several rows.
#[derive(Debug, Default)]
pub struct Merged {
    cells: Vec<Cell>,
}

impl Merged {
    /// The cells of an image; their bytes are in the batch.
    pub fn cells<'a>(&'a self, batch: &'a Batch, image: Image) -> &'a [Cell] {
        match image.origin {
            Origin::Batch => batch.row(image.row),
            Origin::Merged => {
                let start = image.row.start as usize;
                &self.cells[start..start + usize::from(image.row.len)]
            }
        }
    }

    /// Ends an image whose cells were pushed since `start`.
    fn image_since(&self, start: usize) -> Image {
        let row = Row {
            start: u32::try_from(start).expect("no more cells are merged than a batch can hold"),
            len: u16::try_from(self.cells.len() - start).expect("as long as a row of the batch"),
        };
        Image {
            row,
            origin: Origin::Merged,
        }
    }

    /// The row with what is unchanged in it taken from an earlier image of the same row.
    fn fill(&mut self, batch: &Batch, row: Row, earlier: Image) -> Image {
        let start = self.cells.len();
        for (place, cell) in batch.row(row).iter().enumerate() {
            let filled = match cell.kind {
                CellKind::Unchanged => self.cells(batch, earlier)[place],
                _ => *cell,
            };
            self.cells.push(filled);
        }
        self.image_since(start)
    }
}

/// Whether the log left values of this row out.
pub(crate) fn is_partial(cells: &[Cell]) -> bool {
    cells.iter().any(|cell| cell.kind == CellKind::Unchanged)
}
