//! Many changes of one table at once: COPY for rows that come, arrays for the rest.
//!
//! A set operation is one statement whose parameters are lists, one for each column, joined to the
//! table by its key: about half the server's work of the same changes one by one, from some ten rows
//! on. Temporary tables do the same work at the same speed, and cost a table in the catalog for each
//! table in each session, so lists it is. Statements are cut at [`SLICE_BYTES`], which bounds the
//! memory on both sides.
//!
//! The session forbids sequential scans where an index serves, so the plan, made once without
//! knowing how long the lists are, looks every key up in the index: never quadratic, whatever the
//! statistics said when the statement was first planned.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use tidemark_core::Result;
use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::compact::{Image, KeylessNet, Merged, TableChanges, Tally};
use tidemark_core::event::Cell;

use super::rows::value;
use super::session::{Bind, Session, Step};
use super::shape::{Columns, Shape};
use super::table::TargetTable;
use super::text::{ListWriter, put_copy_value};

/// Values in one statement of lists.
const SLICE_BYTES: usize = 4 << 20;
/// Rows in one statement of lists.
const SLICE_ROWS: usize = 16 * 1024;
/// A COPY message.
const COPY_BYTES: usize = 64 * 1024;

/// Rows of a batch that a set operation is about.
#[derive(Clone, Copy)]
pub(super) struct RowSet<'a> {
    pub(super) batch: &'a Batch,
    pub(super) merged: &'a Merged,
    pub(super) images: &'a [Image],
}

impl<'a> RowSet<'a> {
    /// How many.
    pub(super) fn len(self) -> usize {
        self.images.len()
    }

    /// The rows' cells.
    pub(super) fn cells(self) -> impl Iterator<Item = &'a [Cell]> {
        self.images
            .iter()
            .map(move |image| self.merged.cells(self.batch, *image))
    }

    /// Whether a value is too large to be put into a list.
    pub(super) fn has_large(self) -> bool {
        self.cells().any(|cells| self.batch.has_large(cells))
    }

    fn cells_of(self, row: usize) -> &'a [Cell] {
        self.merged.cells(self.batch, self.images[row])
    }

    /// Cuts it so that no statement becomes too large.
    fn slices(self) -> Vec<Range<usize>> {
        let mut slices = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for row in 0..self.images.len() {
            let size: usize = self
                .cells_of(row)
                .iter()
                .map(|cell| cell.len as usize + 8)
                .sum();
            if row > start && (bytes + size > SLICE_BYTES || row - start >= SLICE_ROWS) {
                slices.push(start..row);
                (start, bytes) = (row, 0);
            }
            bytes += size;
        }
        if start < self.images.len() {
            slices.push(start..self.images.len());
        }
        slices
    }
}

/// Queues set operations for one table.
pub(super) struct Sets<'a> {
    pub(super) session: &'a mut Session,
    pub(super) table: &'a TargetTable,
    /// The table's place in the batch.
    pub(super) place: u32,
}

impl Sets<'_> {
    /// Removes rows by key. The slots in which they are counted.
    pub(super) async fn delete(&mut self, rows: RowSet<'_>) -> Result<Vec<u32>> {
        let mut slots = Vec::new();
        for slice in rows.slices() {
            slots.push(self.run(&Shape::DeleteMany, &self.table.key, rows, slice)?);
            self.session.pump().await?;
        }
        Ok(slots)
    }

    /// Sets columns of rows by key. The slots in which they are counted.
    pub(super) async fn update(
        &mut self,
        rows: RowSet<'_>,
        columns: &[usize],
        is_complete: bool,
    ) -> Result<Vec<u32>> {
        let shape = Shape::UpdateMany(if is_complete {
            Columns::All
        } else {
            Columns::some(columns.iter().copied())
        });
        let mut carried = self.table.key.clone();
        carried.extend(columns);
        let mut slots = Vec::new();
        for slice in rows.slices() {
            slots.push(self.run(&shape, &carried, rows, slice)?);
            self.session.pump().await?;
        }
        Ok(slots)
    }

    /// Inserts those of the rows whose key is not there. The slots in which they are counted.
    pub(super) async fn insert_missing(&mut self, rows: RowSet<'_>) -> Result<Vec<u32>> {
        let carried: Vec<usize> = (0..self.table.columns.len()).collect();
        let mut slots = Vec::new();
        for slice in rows.slices() {
            slots.push(self.run(&Shape::InsertMissing, &carried, rows, slice)?);
            self.session.pump().await?;
        }
        Ok(slots)
    }

    fn run(
        &mut self,
        shape: &Shape,
        carried: &[usize],
        rows: RowSet<'_>,
        slice: Range<usize>,
    ) -> Result<u32> {
        let statement = self.session.statement(self.table, shape)?;
        let slot = self.session.count_slot();
        let mut bind = self.session.bind(statement, carried.len());
        put_lists(&mut bind, self.table, carried, rows, slice);
        let table = self.place;
        bind.execute(Step::Set { table, slot }, 0)?;
        Ok(slot)
    }

    /// Removes rows that are found by all their values. The slots in which they are counted.
    pub(super) async fn delete_like(
        &mut self,
        batch: &Batch,
        net: &KeylessNet,
    ) -> Result<Vec<u32>> {
        let images: Vec<Image> = net.removed.iter().map(|tally| tally.image).collect();
        let rows = RowSet {
            batch,
            merged: &net.merged,
            images: &images,
        };
        let carried: Vec<usize> = (0..self.table.columns.len()).collect();
        let mut slots = Vec::new();
        for slice in rows.slices() {
            let statement = self.session.statement(self.table, &Shape::DeleteManyLike)?;
            let slot = self.session.count_slot();
            let mut bind = self.session.bind(statement, carried.len() + 1);
            put_lists(&mut bind, self.table, &carried, rows, slice.clone());
            put_counts(&mut bind, &net.removed[slice]);
            bind.execute(
                Step::Set {
                    table: self.place,
                    slot,
                },
                0,
            )?;
            slots.push(slot);
            self.session.pump().await?;
        }
        Ok(slots)
    }

    /// Rows that come, by COPY.
    pub(super) async fn copy(&mut self, mut rows: Arrivals<'_>) -> Result<()> {
        let statement = self.session.statement(self.table, &Shape::Copy)?;
        let slot = self.session.count_slot();
        let bind = self.session.bind(statement, 0);
        let table = self.place;
        bind.execute(Step::Set { table, slot }, 0)?;
        while !rows.is_done() && !self.session.is_refused() {
            self.session.copy_data(|out| rows.put_block(out));
            self.session.pump().await?;
        }
        self.session.copy_done();
        Ok(())
    }
}

/// Rows that come, wherever a batch or a fold has them.
pub(super) struct Arrivals<'a> {
    batch: &'a Batch,
    rows: Arriving<'a>,
    next: usize,
    /// How often the next row was given already.
    given: u64,
    /// A row that is being written.
    at: Option<RowAt<'a>>,
}

/// How far a row is written.
struct RowAt<'a> {
    cells: &'a [Cell],
    cell: usize,
    /// Bytes of that cell's value.
    byte: usize,
}

enum Arriving<'a> {
    /// The new rows of these items.
    Items(&'a [u32]),
    Images(&'a Merged, &'a [Image]),
    /// Each as often as said.
    Tallies(&'a Merged, &'a [Tally]),
}

impl<'a> Arrivals<'a> {
    /// The new rows of a table's changes, all of them inserts.
    pub(super) fn of_changes(batch: &'a Batch, changes: &'a TableChanges) -> Arrivals<'a> {
        Arrivals::new(batch, Arriving::Items(&changes.items))
    }

    /// The rows of a set.
    pub(super) fn of_set(set: RowSet<'a>) -> Arrivals<'a> {
        Arrivals::new(set.batch, Arriving::Images(set.merged, set.images))
    }

    /// What a fold without a key came to.
    pub(super) fn of_net(batch: &'a Batch, net: &'a KeylessNet) -> Arrivals<'a> {
        Arrivals::new(batch, Arriving::Tallies(&net.merged, &net.added))
    }

    fn new(batch: &'a Batch, rows: Arriving<'a>) -> Arrivals<'a> {
        Arrivals {
            batch,
            rows,
            next: 0,
            given: 0,
            at: None,
        }
    }

    fn is_done(&self) -> bool {
        let count = match self.rows {
            Arriving::Items(items) => items.len(),
            Arriving::Images(_, images) => images.len(),
            Arriving::Tallies(_, tallies) => tallies.len(),
        };
        self.at.is_none() && self.next >= count
    }

    fn next(&mut self) -> Option<&'a [Cell]> {
        match self.rows {
            Arriving::Items(items) => {
                let item = *items.get(self.next)?;
                self.next += 1;
                match &self.batch.items()[item as usize] {
                    Item::Change(Change { new: Some(row), .. }) => Some(self.batch.row(*row)),
                    _ => None,
                }
            }
            Arriving::Images(merged, images) => {
                let image = *images.get(self.next)?;
                self.next += 1;
                Some(merged.cells(self.batch, image))
            }
            Arriving::Tallies(merged, tallies) => {
                let tally = tallies.get(self.next)?;
                self.given += 1;
                if self.given >= tally.count {
                    (self.next, self.given) = (self.next + 1, 0);
                }
                Some(merged.cells(self.batch, tally.image))
            }
        }
    }

    /// Appends rows until there are enough for a message; the last may go on in the next one.
    fn put_block(&mut self, out: &mut BytesMut) {
        let end = out.len() + COPY_BYTES;
        while out.len() < end
            && let Some(mut row) = self.at.take().or_else(|| self.next().map(RowAt::start))
        {
            if !row.put(out, end, self.batch) {
                self.at = Some(row);
            }
        }
    }
}

impl<'a> RowAt<'a> {
    fn start(cells: &'a [Cell]) -> RowAt<'a> {
        let (cell, byte) = (0, 0);
        RowAt { cells, cell, byte }
    }

    /// Appends what is left of the row, values cut at `end` where they are large. Whether that was all.
    fn put(&mut self, out: &mut BytesMut, end: usize, batch: &Batch) -> bool {
        while let Some(cell) = self.cells.get(self.cell) {
            if self.cell > 0 && self.byte == 0 {
                out.put_u8(b'\t');
            }
            let value = value(batch, *cell).map(|value| &value[self.byte..]);
            match value {
                Some(rest) if rest.len() > COPY_BYTES => {
                    put_copy_value(out, Some(&rest[..COPY_BYTES]));
                    self.byte += COPY_BYTES;
                    if out.len() >= end {
                        return false;
                    }
                }
                value => {
                    put_copy_value(out, value);
                    (self.cell, self.byte) = (self.cell + 1, 0);
                }
            }
        }
        out.put_u8(b'\n');
        true
    }
}

fn put_lists(
    bind: &mut Bind<'_>,
    table: &TargetTable,
    carried: &[usize],
    rows: RowSet<'_>,
    slice: Range<usize>,
) {
    for place in carried {
        let list = &table.columns[*place].list;
        bind.written(|out| {
            let mut writer = ListWriter::begin(out, list.delimiter, list.is_bare);
            for row in slice.clone() {
                writer.put(value(rows.batch, rows.cells_of(row)[*place]));
            }
            writer.end();
        });
    }
}

fn put_counts(bind: &mut Bind<'_>, tallies: &[Tally]) {
    bind.written(|out| {
        let mut writer = ListWriter::begin(out, b',', true);
        for tally in tallies {
            writer.put(Some(tally.count.to_string().as_bytes()));
        }
        writer.end();
    });
}
