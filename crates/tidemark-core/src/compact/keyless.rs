//! Net change of a table without a key: how many more or fewer of each row there are.
//!
//! Rows are told apart by all their values. An update is one fewer of the old row and one more of
//! the new, with what the log left out of the new row taken from the old one; so the log must have
//! whole old rows (`REPLICA IDENTITY FULL`).

use super::slots::{Slots, hash_cells, is_same_value};
use super::{Image, Merged, TableChanges, is_partial};
use crate::batch::{Batch, Change, Item};
use crate::event::{OldRow, Op};

/// What the changes of a table without a key come to.
#[derive(Debug, Default)]
pub struct KeylessNet {
    /// Rows of which there are fewer.
    pub removed: Vec<Tally>,
    /// Rows of which there are more.
    pub added: Vec<Tally>,
    /// Where the cells of images are.
    pub merged: Merged,
}

/// A row and how many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The row; all columns are known.
    pub image: Image,
    /// How many; at least 1.
    pub count: u64,
}

/// Folds the changes of one table by whole rows. `None` if the log lacks old rows.
pub fn fold_keyless(batch: &Batch, changes: &TableChanges) -> Option<KeylessNet> {
    let mut fold = Fold {
        batch,
        slots: Slots::for_changes(changes.items.len()),
        entries: Vec::new(),
        merged: Merged::default(),
    };
    for item in &changes.items {
        let Item::Change(change) = &batch.items()[*item as usize] else {
            continue;
        };
        fold.add(change)?;
    }
    Some(fold.finish())
}

struct Fold<'a> {
    batch: &'a Batch,
    slots: Slots,
    /// Each row that was touched, and how many more of it there are.
    entries: Vec<(Image, i64)>,
    merged: Merged,
}

impl Fold<'_> {
    fn add(&mut self, change: &Change) -> Option<()> {
        let old = match (change.op, change.old) {
            (Op::Insert, _) => None,
            (_, Some(OldRow::Full(row))) => Some(Image::of_batch(row)),
            (_, Some(OldRow::Key(_)) | None) => return None,
        };
        if let Some(old) = old {
            self.count(old, -1)?;
        }
        if change.op != Op::Delete {
            let row = change.new?;
            let image = match old {
                Some(old) if is_partial(self.batch.row(row)) => {
                    self.merged.fill(self.batch, row, old)
                }
                _ => Image::of_batch(row),
            };
            self.count(image, 1)?;
        }
        Some(())
    }

    fn count(&mut self, image: Image, more: i64) -> Option<()> {
        let Fold {
            batch,
            slots,
            entries,
            merged,
        } = self;
        let cells = merged.cells(batch, image);
        if is_partial(cells) {
            return None;
        }
        let is_same = |entry: usize| {
            let known: (Image, i64) = entries[entry];
            let known = merged.cells(batch, known.0);
            let mut pairs = known.iter().zip(cells);
            pairs.all(|(a, b)| is_same_value(batch, *a, *b))
        };
        match slots.find_or_insert(hash_cells(batch, cells.iter()), entries.len(), is_same) {
            Some(entry) => entries[entry].1 += more,
            None => entries.push((image, more)),
        }
        Some(())
    }

    fn finish(self) -> KeylessNet {
        let mut net = KeylessNet {
            merged: self.merged,
            ..KeylessNet::default()
        };
        for (image, more) in self.entries {
            let tally = Tally {
                image,
                count: more.unsigned_abs(),
            };
            match more {
                0 => {}
                1.. => net.added.push(tally),
                _ => net.removed.push(tally),
            }
        }
        net
    }
}
