//! A hash index over values that stay where they are: it stores numbers of entries, and asks the
//! caller whether an entry is the one that is looked for.
//!
//! Own code because keys are ranges of the batch's arena: a map that owns its keys would copy each
//! of them. Open addressing with linear probing at a load of at most one half, grown as entries
//! come; nothing is ever removed. The hash is seeded per process, so that values chosen by somebody
//! who can write to the source cannot be made to collide.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::LazyLock;

use crate::batch::Batch;
use crate::event::{Cell, CellKind};

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("tidemark") | 1);

/// An odd constant with evenly mixed bits (the golden ratio in 64 bits).
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Entry numbers by hash. A slot holds the upper half of the hash and the number plus one; 0 is a
/// free slot.
pub(super) struct Slots {
    slots: Vec<u64>,
    used: usize,
}

impl Slots {
    /// An index made for about this many entries. Updates of few rows are common, so it starts
    /// small where many changes are announced.
    pub(super) fn for_changes(count: usize) -> Slots {
        Slots {
            slots: vec![0; (count.clamp(8, 1024) * 2).next_power_of_two()],
            used: 0,
        }
    }

    /// The entry that has this hash and that `is_same` agrees to; else `next` is put in its place
    /// and `None` is the answer.
    pub(super) fn find_or_insert(
        &mut self,
        hash: u64,
        next: usize,
        is_same: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if (self.used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let tag = hash >> 32;
        let mut place = self.place(tag);
        loop {
            let slot = self.slots[place];
            if slot == 0 {
                self.slots[place] = tag << 32 | (next as u64 + 1);
                self.used += 1;
                return None;
            }
            let entry = (slot & 0xFFFF_FFFF) as usize - 1;
            if slot >> 32 == tag && is_same(entry) {
                return Some(entry);
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }

    /// Where probing starts: by the tag alone, so that growing needs no hash anew.
    fn place(&self, tag: u64) -> usize {
        let spread = tag.wrapping_mul(MULTIPLIER) >> 32;
        usize::try_from(spread).expect("32 bits") & (self.slots.len() - 1)
    }

    fn grow(&mut self) {
        let bigger = vec![0; self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, bigger);
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            let mut place = self.place(slot >> 32);
            while self.slots[place] != 0 {
                place = (place + 1) & (self.slots.len() - 1);
            }
            self.slots[place] = slot;
        }
    }
}

/// The hash of some values, kinds and lengths included.
pub(super) fn hash_cells<'a>(batch: &Batch, cells: impl Iterator<Item = &'a Cell>) -> u64 {
    let mut hash = *SEED;
    for cell in cells {
        let head = u64::from(cell.len) << 2 | cell.kind as u64;
        hash = mix(hash ^ head, MULTIPLIER);
        if cell.kind == CellKind::Text {
            hash = hash_bytes(hash, batch.value(*cell));
        }
    }
    hash
}

fn hash_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash ^ u64::from_le_bytes(*word), *SEED);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash ^ u64::from_le_bytes(last), MULTIPLIER)
}

/// Both halves of the product: every bit of either factor reaches every bit of the result.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let low = u64::try_from(product & u128::from(u64::MAX)).expect("64 bits");
    let high = u64::try_from(product >> 64).expect("64 bits");
    low ^ high
}

/// Whether two cells hold the same value (or are both NULL).
pub(super) fn is_same_value(batch: &Batch, a: Cell, b: Cell) -> bool {
    a.kind == b.kind && a.len == b.len && batch.value(a) == batch.value(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_again_however_many_there_are() {
        let mut slots = Slots::for_changes(10);
        // Few different tags, so that many entries share one.
        let hash = |number: usize| (number as u64 % 97) << 32;
        for number in 0..10_000 {
            let found = slots.find_or_insert(hash(number), number, |entry| entry == number);
            assert_eq!(found, None);
        }
        for number in 0..10_000 {
            let found = slots.find_or_insert(hash(number), 0, |entry| entry == number);
            assert_eq!(found, Some(number));
        }
    }

    #[test]
    fn hash_tells_null_empty_and_borders_apart() {
        let mut batch = Batch::default();
        let begin = batch.begin_row();
        batch.push_cell(CellKind::Null, b"");
        batch.push_cell(CellKind::Text, b"");
        batch.push_cell(CellKind::Text, b"ab");
        batch.push_cell(CellKind::Text, b"c");
        batch.push_cell(CellKind::Text, b"a");
        batch.push_cell(CellKind::Text, b"bc");
        let row = batch.end_row(begin);
        let cells = batch.row(row);
        let hash = |range: std::ops::Range<usize>| hash_cells(&batch, cells[range].iter());
        assert_ne!(hash(0..1), hash(1..2));
        assert_ne!(hash(2..4), hash(4..6));
    }
}
