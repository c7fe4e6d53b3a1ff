//! One change on its way into a batch: what the filter lets through, and what is left of it where ranges
//! of a table have seen different things.

use crate::batch::{Batch, Change, Item};
use crate::catalogue::codes;
use crate::checkpoint::TableState;
use crate::compact::is_partial;
use crate::error::{Error, Result};
use crate::event::{Block, CellKind, OldRow, Op, Row, RowChange};
use crate::mapping::{Carry, Projection, TableMapping, Unchanged};
use crate::pipeline::router::{Router, Way};
use crate::target::Origin;

use super::{Assembler, Park, Taken};

/// A change as the row filter lets it through: an update that brings a row in is an insert, one that
/// takes it out is a delete. `None`: the row is outside, before and after. An error if the log does not hold
/// what it takes to know that, or which row it is.
pub(super) fn filtered(
    projection: &Projection,
    block: &Block,
    change: &RowChange,
) -> Result<Option<RowChange>> {
    let insert = RowChange {
        op: Op::Insert,
        old: None,
        ..*change
    };
    let source = || projection.mapping().source().to_string();
    if !projection.tells_row(block, change) {
        return Err(Error::data(
            codes::CHANGE_INCOMPLETE,
            "the log tells an old row by other columns than the table: its partition has another replica \
             identity",
        )
        .first_action("ALTER TABLE … REPLICA IDENTITY FULL, of the partition")
        .table(source()));
    }
    // Where the log has no old row, its key is that of the new one.
    let old = change.old.or(change.new.map(OldRow::Key));
    let delete = RowChange {
        op: Op::Delete,
        old,
        new: None,
        ..*change
    };
    Ok(match projection.carry(block, change) {
        Carry::Skip => None,
        // A filtered table's update inserts the row where it is not there: see `Applier::apply`.
        Carry::AsIs | Carry::Upsert => Some(*change),
        Carry::Insert => Some(insert),
        Carry::Delete | Carry::DeleteIfThere => Some(delete),
        Carry::Undecided => {
            return Err(Error::data(
                codes::FILTER_UNDECIDABLE,
                "an update left a large value out that the row filter or the new row needs",
            )
            .table(source()));
        }
    })
}

impl Assembler {
    /// See [`Taken::NotKept`]. A table that waits to be loaded anew needs no change of before.
    pub(super) fn not_kept(&mut self, route: usize, why: Error) -> Taken {
        if self.undecided().is_some() {
            self.refuse_undecided();
            return Taken::Yes;
        }
        let is_needed = self.router.route(route).state != TableState::Unloaded;
        if is_needed && !self.is_past(route) {
            return Taken::NotKept { route, why };
        }
        Taken::Yes
    }
}

pub(super) fn park_batch(parks: &mut Vec<Park>, route: usize, origin: Origin) -> &mut Batch {
    // Changes of one table and transaction stand together; others may stand between them.
    let known = parks
        .iter()
        .rposition(|park| park.route == route && park.origin == origin);
    let index = known.unwrap_or_else(|| {
        parks.push(Park {
            route,
            origin,
            batch: Batch::default(),
        });
        parks.len() - 1
    });
    &mut parks[index].batch
}

/// What became of a change that was to be copied into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Yes,
    /// The table has seen it.
    Skipped,
    /// It is needed, and the log does not hold all of it.
    NotInLog,
}

/// Copies a change into a batch, as far as the table has not seen it. Parked changes are kept whole:
/// their tidemarks are asked when they are taken back.
pub(super) fn push_change(
    batch: &mut Batch,
    router: &Router,
    index: usize,
    projection: &Projection,
    block: &Block,
    change: &RowChange,
) -> Pushed {
    let route = router.route(index);
    let table = batch.table(&route.mapping);
    let old = projection.copy_old(block, change, batch);
    let new = projection.copy_new(block, change, Unchanged::FromOld, batch);
    let full = Change {
        table,
        op: change.op,
        old,
        new,
    };
    let way = if route.state.is_parked() {
        Way::UNSEEN
    } else {
        let (batch, mapping) = (&*batch, &route.mapping);
        let old = || old_key(batch, mapping, &full);
        router.way(index, old, || new_key(batch, mapping, &full))
    };
    match unseen_part(batch, full, way) {
        Unseen::Part(change) => {
            batch.push(Item::Change(change));
            Pushed::Yes
        }
        Unseen::Nothing => Pushed::Skipped,
        Unseen::NotInLog => Pushed::NotInLog,
    }
}

/// What is left of a change when one of its sides has been seen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unseen {
    Part(Change),
    Nothing,
    /// An insert is left whose large value the log left out.
    NotInLog,
}

/// A key update between two ranges that were read at different instants is the delete or the insert
/// alone.
pub(crate) fn unseen_part(batch: &Batch, change: Change, way: Way) -> Unseen {
    let is_whole = |row: Option<Row>| row.is_some_and(|row| !is_partial(batch.row(row)));
    match (way.old_seen, way.new_seen, change.op) {
        (_, false, Op::Insert) | (true, false, Op::Update) if !is_whole(change.new) => {
            Unseen::NotInLog
        }
        (false, false, _) | (true, false, Op::Insert) | (false, true, Op::Delete) => {
            Unseen::Part(change)
        }
        (_, true, Op::Insert) | (true, _, Op::Delete) | (true, true, Op::Update) => Unseen::Nothing,
        (false, true, Op::Update) => {
            let old = change.old.or(change.new.map(OldRow::Key));
            Unseen::Part(Change {
                op: Op::Delete,
                old,
                new: None,
                ..change
            })
        }
        (true, false, Op::Update) => Unseen::Part(Change {
            op: Op::Insert,
            old: None,
            ..change
        }),
    }
}

/// The text of the mapping's key columns in the old row, where the log has one.
pub(crate) fn old_key<'a>(
    batch: &'a Batch,
    mapping: &TableMapping,
    change: &Change,
) -> Option<Vec<&'a [u8]>> {
    let cells = batch.row(change.old?.row());
    let key = mapping.key.iter();
    Some(key.map(|at| batch.value(cells[*at])).collect())
}

/// The same in the new row. A large value that stays as it was stands in the old row alone.
pub(crate) fn new_key<'a>(
    batch: &'a Batch,
    mapping: &TableMapping,
    change: &Change,
) -> Option<Vec<&'a [u8]>> {
    let cells = batch.row(change.new?);
    let old = change.old.map(|old| batch.row(old.row()));
    let value = |at: &usize| {
        let cell = cells[*at];
        let before = old.filter(|_| cell.kind == CellKind::Unchanged);
        batch.value(before.map_or(cell, |old| old[*at]))
    };
    Some(mapping.key.iter().map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{Rules, fixture};

    #[test]
    fn a_large_value_of_the_key_that_stays_is_that_of_the_old_row() {
        let columns = [("id", "text"), ("body", "text")];
        let mapping = Rules::default().map_table(&fixture::table("public.t", &columns));
        let mapping = mapping.unwrap();
        let mut batch = Batch::default();
        let begin = batch.begin_row();
        batch.push_cell(CellKind::Text, b"large");
        batch.push_cell(CellKind::Null, b"");
        let old = batch.end_row(begin);
        let begin = batch.begin_row();
        batch.push_cell(CellKind::Unchanged, b"");
        batch.push_cell(CellKind::Text, b"new");
        let new = batch.end_row(begin);
        let change = Change {
            table: 0,
            op: Op::Update,
            old: Some(OldRow::Key(old)),
            new: Some(new),
        };
        let key = Some(vec![&b"large"[..]]);
        assert_eq!(old_key(&batch, &mapping, &change), key);
        assert_eq!(new_key(&batch, &mapping, &change), key);
    }
}
