//! Net change of a table whose rows have a key.
//!
//! For every key that is touched the fold knows whether the row existed before (told by the first
//! change: an insert says no, an update or delete says yes) and what it is now. The two together
//! are the net change:
//!
//! ```text
//!                    now: no row     now: a row
//! existed before     delete          update (columns that are known)
//! did not exist      vanished        insert
//! ```
//!
//! A row that came and went ought to be nothing at all. It is told apart all the same: where a
//! filter stands before the table an insert may mean a row that is there already, and then the
//! delete counts.
//!
//! An update that changes the key is a delete of the old key and an insert at the new one; the
//! values that the log left out come from the old row or from an earlier image in this batch. If
//! neither has them, the changes cannot be folded.
//!
//! A history that contradicts itself (an insert of a row that is there, an update of one that is
//! not) ends as if each change had been applied in turn by the target's policy: inserts overwrite,
//! updates of a missing row insert it if they are complete. Such changes are counted.

use std::collections::HashMap;

use super::slots::{Slots, hash_cells, is_same_value};
use super::{Image, Merged, TableChanges, is_partial};
use crate::batch::{Batch, Change, Item};
use crate::event::{Cell, CellKind, OldRow, Op, Row};

/// What the changes of a table with a key come to.
#[derive(Debug, Default)]
pub struct KeyedNet {
    /// Rows that existed and are gone; only their key columns are of interest.
    pub deletes: Vec<Image>,
    /// Rows that did not exist, came and went; only their key columns are of interest.
    pub vanished: Vec<Image>,
    /// Rows that existed and are different, by the columns that are known of them.
    pub updates: Vec<UpdateGroup>,
    /// Rows that did not exist; all columns are known.
    pub inserts: Vec<Image>,
    /// Changes that contradicted an earlier one of the same segment.
    pub conflicts: u64,
    /// Where the cells of images are.
    pub merged: Merged,
}

/// Updates that know the same columns.
#[derive(Debug)]
pub struct UpdateGroup {
    /// Positions of the columns to set: those that are known and not part of the key.
    pub columns: Vec<usize>,
    /// Whether every column of the table is known.
    pub is_complete: bool,
    /// The rows.
    pub rows: Vec<Image>,
}

impl KeyedNet {
    /// How many rows are touched.
    pub fn len(&self) -> usize {
        let updates: usize = self.updates.iter().map(|group| group.rows.len()).sum();
        self.deletes.len() + self.vanished.len() + updates + self.inserts.len()
    }

    /// Orders deletes and updates by the first key column: by length, then by bytes, which for
    /// counting numbers is their own order. Neighbours in an index are then met one after the other.
    pub fn sort(&mut self, batch: &Batch, key: &[usize]) {
        let Some(first) = key.first().copied() else {
            return;
        };
        let merged = &self.merged;
        let of = |image: &Image| {
            let cell = merged.cells(batch, *image)[first];
            (cell.len, batch.value(cell))
        };
        self.deletes.sort_unstable_by(|a, b| of(a).cmp(&of(b)));
        for group in &mut self.updates {
            group.rows.sort_unstable_by(|a, b| of(a).cmp(&of(b)));
        }
    }

    /// Whether it all came to nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Folds the changes of one table by its key (positions of columns). `None` if they must be applied
/// in order.
pub fn fold_keyed(batch: &Batch, changes: &TableChanges, key: &[usize]) -> Option<KeyedNet> {
    let mut fold = Fold {
        batch,
        key,
        slots: Slots::for_changes(changes.items.len()),
        entries: Vec::new(),
        merged: Merged::default(),
        conflicts: 0,
    };
    for item in &changes.items {
        let Item::Change(change) = &batch.items()[*item as usize] else {
            continue;
        };
        fold.add(change)?;
    }
    Some(fold.finish())
}

/// One key that was touched.
struct Entry {
    short: Short,
    /// A row whose key columns are known.
    key: Image,
    existed: bool,
    now: Option<Image>,
}

/// A key of one short value, kept beside the entry: most keys are, and comparing them then touches
/// neither cells nor arena, which for a large batch are cache misses. 0 where the key is otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Short(u128);

impl Short {
    const NONE: Short = Short(0);
    const BYTES_MAX: usize = 15;

    fn of(batch: &Batch, key: &[usize], cells: &[Cell]) -> Short {
        let [place] = key else { return Short::NONE };
        let cell = cells[*place];
        let value = batch.value(cell);
        if cell.kind != CellKind::Text || value.len() > Short::BYTES_MAX {
            return Short::NONE;
        }
        let mut bytes = [0; 16];
        bytes[..value.len()].copy_from_slice(value);
        // With its length, so that an empty value is something.
        bytes[Short::BYTES_MAX] = u8::try_from(value.len() + 1).expect("at most 16");
        Short(u128::from_le_bytes(bytes))
    }
}

struct Fold<'a> {
    batch: &'a Batch,
    key: &'a [usize],
    slots: Slots,
    entries: Vec<Entry>,
    merged: Merged,
    conflicts: u64,
}

impl Fold<'_> {
    fn add(&mut self, change: &Change) -> Option<()> {
        match change.op {
            Op::Insert => {
                let row = change.new?;
                if is_partial(self.batch.row(row)) {
                    return None;
                }
                self.insert(Image::of_batch(row));
                Some(())
            }
            Op::Delete => {
                let old = Image::of_batch(change.old?.row());
                if self.is_key_unknown(old) {
                    return None;
                }
                self.delete(old);
                Some(())
            }
            Op::Update => match change.old {
                None => self.update(change.new?),
                Some(old) => self.update_with_old(change.new?, old),
            },
        }
    }

    /// A row comes.
    fn insert(&mut self, image: Image) {
        let (entry, is_new) = self.entry(image);
        let entry = &mut self.entries[entry];
        if is_new {
            entry.existed = false;
        } else if entry.now.is_some() {
            self.conflicts += 1;
        }
        entry.now = Some(image);
    }

    /// A row goes. Gives the image it had, if this segment knows one.
    fn delete(&mut self, old: Image) -> Option<Image> {
        let (entry, is_new) = self.entry(old);
        let entry = &mut self.entries[entry];
        let before = entry.now.take();
        if !is_new && before.is_none() {
            self.conflicts += 1;
        }
        before
    }

    /// A row changes, its key does not, and the log has no old row.
    fn update(&mut self, row: Row) -> Option<()> {
        let image = Image::of_batch(row);
        if self.is_key_unknown(image) {
            return None;
        }
        self.change(image, is_partial(self.batch.row(row)))
    }

    fn update_with_old(&mut self, row: Row, old: OldRow) -> Option<()> {
        let old_image = Image::of_batch(old.row());
        if self.is_key_unknown(old_image) {
            return None;
        }
        let mut image = Image::of_batch(row);
        let mut is_partial_now = is_partial(self.batch.row(row));
        if is_partial_now {
            // A key-only old row has NULL in the other columns: not to be taken from it.
            image = match old {
                OldRow::Full(_) => self.merged.fill(self.batch, row, old_image),
                OldRow::Key(_) => self.fill_key(row, old_image),
            };
            is_partial_now = is_partial(self.merged.cells(self.batch, image));
        }
        if self.is_same_key(image, old_image) {
            return self.change(image, is_partial_now);
        }
        let before = self.delete(old_image);
        if is_partial_now {
            image = self.fill_from(image, before?);
            if is_partial(self.merged.cells(self.batch, image)) {
                return None;
            }
        }
        self.insert(image);
        Some(())
    }

    /// A row changes and stays at its key.
    fn change(&mut self, image: Image, is_partial_now: bool) -> Option<()> {
        let (index, is_new) = self.entry(image);
        let before = self.entries[index].now;
        let now = match before {
            None if is_new => image,
            // There is no row any more, and this is no whole one: what becomes of it is for whoever
            // applies it in its turn.
            None if is_partial_now => return None,
            None => {
                // The target's policy: insert it.
                self.conflicts += 1;
                image
            }
            Some(before) if is_partial_now => self.fill_from(image, before),
            Some(_) => image,
        };
        self.entries[index].now = Some(now);
        Some(())
    }

    /// The number of the key's entry, and whether it was made just now (as one that existed).
    fn entry(&mut self, image: Image) -> (usize, bool) {
        let Fold {
            batch,
            key,
            slots,
            entries,
            merged,
            ..
        } = self;
        let cells = merged.cells(batch, image);
        let short = Short::of(batch, key, cells);
        let hash = hash_cells(batch, key.iter().map(|place| &cells[*place]));
        let is_same = |entry: usize| {
            let known: &Entry = &entries[entry];
            if (known.short, short) != (Short::NONE, Short::NONE) {
                return known.short == short;
            }
            let known = merged.cells(batch, known.key);
            key.iter()
                .all(|place| is_same_value(batch, known[*place], cells[*place]))
        };
        let next = entries.len();
        if let Some(entry) = slots.find_or_insert(hash, next, is_same) {
            return (entry, false);
        }
        entries.push(Entry {
            short,
            key: image,
            existed: true,
            now: None,
        });
        (next, true)
    }

    /// The row with unchanged key columns taken from the old key.
    fn fill_key(&mut self, row: Row, old: Image) -> Image {
        let start = self.merged.cells.len();
        self.merged.cells.extend_from_slice(self.batch.row(row));
        for place in self.key {
            let old_cell = self.merged.cells(self.batch, old)[*place];
            let cell = &mut self.merged.cells[start + place];
            if cell.kind == CellKind::Unchanged {
                *cell = old_cell;
            }
        }
        self.merged.image_since(start)
    }

    /// The image with what is unchanged in it taken from an earlier one.
    fn fill_from(&mut self, image: Image, earlier: Image) -> Image {
        let start = self.merged.cells.len();
        let len = self.cells(image).len();
        for place in 0..len {
            let mut cell = self.cells(image)[place];
            if cell.kind == CellKind::Unchanged {
                cell = self.cells(earlier)[place];
            }
            self.merged.cells.push(cell);
        }
        self.merged.image_since(start)
    }

    fn cells(&self, image: Image) -> &[Cell] {
        self.merged.cells(self.batch, image)
    }

    fn is_key_unknown(&self, image: Image) -> bool {
        let cells = self.cells(image);
        self.key
            .iter()
            .any(|place| cells[*place].kind == CellKind::Unchanged)
    }

    fn is_same_key(&self, a: Image, b: Image) -> bool {
        let (a, b) = (self.cells(a), self.cells(b));
        self.key
            .iter()
            .all(|place| is_same_value(self.batch, a[*place], b[*place]))
    }

    fn finish(self) -> KeyedNet {
        let mut groups = Groups::new(self.key);
        let mut net = KeyedNet {
            conflicts: self.conflicts,
            merged: self.merged,
            ..KeyedNet::default()
        };
        for entry in self.entries {
            match (entry.existed, entry.now) {
                (true, None) => net.deletes.push(entry.key),
                (true, Some(image)) => groups.add(net.merged.cells(self.batch, image), image),
                (false, Some(image)) => net.inserts.push(image),
                (false, None) => net.vanished.push(entry.key),
            }
        }
        net.updates = groups.groups;
        net
    }
}

/// Sorts updates by the columns that are known.
struct Groups<'a> {
    key: &'a [usize],
    groups: Vec<UpdateGroup>,
    /// Place of the group that knows all columns.
    complete: Option<usize>,
    /// Places of the others by the columns they know.
    partial: HashMap<Vec<usize>, usize>,
}

impl Groups<'_> {
    fn new(key: &[usize]) -> Groups<'_> {
        Groups {
            key,
            groups: Vec::new(),
            complete: None,
            partial: HashMap::new(),
        }
    }

    fn add(&mut self, cells: &[Cell], image: Image) {
        let place = if is_partial(cells) {
            self.partial_group(cells)
        } else {
            self.complete_group(cells.len())
        };
        self.groups[place].rows.push(image);
    }

    fn complete_group(&mut self, column_count: usize) -> usize {
        *self.complete.get_or_insert_with(|| {
            self.groups.push(UpdateGroup {
                columns: (0..column_count)
                    .filter(|place| !self.key.contains(place))
                    .collect(),
                is_complete: true,
                rows: Vec::new(),
            });
            self.groups.len() - 1
        })
    }

    fn partial_group(&mut self, cells: &[Cell]) -> usize {
        let columns: Vec<usize> = (0..cells.len())
            .filter(|place| cells[*place].kind != CellKind::Unchanged && !self.key.contains(place))
            .collect();
        if let Some(place) = self.partial.get(&columns) {
            return *place;
        }
        let place = self.groups.len();
        self.partial.insert(columns.clone(), place);
        self.groups.push(UpdateGroup {
            columns,
            is_complete: false,
            rows: Vec::new(),
        });
        place
    }
}
