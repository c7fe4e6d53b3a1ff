//! Changes one by one, in source order: what every other way of applying comes back to.
//!
//! Each change becomes one statement (two in a few cases named below) with the batch's values as
//! text parameters. Nothing is read back in between. See [`super::shape`] for what the statements do
//! about rows that are not as expected.

use tidemark_core::batch::{Batch, Change};
use tidemark_core::catalogue::codes;
use tidemark_core::event::{Cell, CellKind, OldRow, Op};
use tidemark_core::{Error, Result};

use super::known::Met;
use super::session::{Bind, Session, Step};
use super::shape::{Columns, Shape};
use super::table::TargetTable;

/// A row's values where they are.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) batch: &'a Batch,
    pub(super) cells: &'a [Cell],
}

impl<'a> Values<'a> {
    fn get(self, place: usize) -> Option<&'a [u8]> {
        value(self.batch, self.cells[place])
    }

    /// As a statement's next parameter.
    fn put(self, bind: &mut Bind<'_>, place: usize) {
        bind.cell(self.batch, self.cells[place]);
    }

    fn is_unchanged(self, place: usize) -> bool {
        self.cells[place].kind == CellKind::Unchanged
    }

    fn is_partial(self) -> bool {
        (0..self.cells.len()).any(|place| self.is_unchanged(place))
    }
}

/// A cell as a parameter.
pub(super) fn value(batch: &Batch, cell: Cell) -> Option<&[u8]> {
    match cell.kind {
        CellKind::Text => Some(batch.value(cell)),
        CellKind::Null | CellKind::Unchanged => None,
    }
}

/// Queues the statements of one change.
pub(super) struct Rows<'a> {
    pub(super) session: &'a mut Session,
    pub(super) met: &'a Met,
    pub(super) step: Step,
}

impl Rows<'_> {
    /// A change as the log has it.
    pub(super) fn change(&mut self, batch: &Batch, change: &Change) -> Result<()> {
        let row = |row| Values {
            batch,
            cells: batch.row(row),
        };
        let old = change.old.map(|old| row(old.row()));
        let new = change.new.map(row);
        if self.met.table.key.is_empty() {
            let is_whole = matches!(change.old, Some(OldRow::Full(_)));
            return self.keyless(change.op, old.filter(|_| is_whole), new);
        }
        match (change.op, old, new) {
            (Op::Insert, _, Some(new)) => self.insert(new),
            (Op::Delete, Some(old), _) => self.delete(old, 1),
            (Op::Update, None, Some(new)) => self.update(new),
            (Op::Update, Some(old), Some(new)) if self.is_same_key(old, new) => {
                self.update_at(new, old)
            }
            (Op::Update, Some(old), Some(new)) => self.move_key(old, new),
            _ => Err(self.incomplete()),
        }
    }

    /// A row that is not there, unless the table makes us cautious.
    pub(super) fn insert(&mut self, new: Values<'_>) -> Result<()> {
        let is_cautious = self.met.is_cautious || self.met.table.expects_surprises();
        match is_cautious && !self.met.table.key.is_empty() {
            false => self.all_columns(&Shape::Insert, new, 1),
            true if self.met.table.has_fixed_values => {
                let key = new;
                self.delete(key, 0)?;
                self.all_columns(&Shape::Insert, new, 1)
            }
            true => self.all_columns(&Shape::Overwrite, new, 1),
        }
    }

    /// The row with this row's key goes.
    pub(super) fn delete(&mut self, row: Values<'_>, expected: u64) -> Result<()> {
        let table = &*self.met.table;
        let statement = self.session.statement(table, &Shape::Delete)?;
        let mut bind = self.session.bind(statement, table.key.len());
        put_key(&mut bind, table, row);
        bind.execute(self.step, expected)
    }

    /// The row with this row's key becomes it, as far as it is known.
    pub(super) fn update(&mut self, new: Values<'_>) -> Result<()> {
        self.update_at(new, new)
    }

    /// [`Rows::update`], with the key taken from another row: the new one may leave it out.
    fn update_at(&mut self, new: Values<'_>, key: Values<'_>) -> Result<()> {
        let table = &*self.met.table;
        if table.key.iter().any(|place| key.is_unchanged(*place)) {
            return Err(self.incomplete());
        }
        let is_partial = new.is_partial();
        if !is_partial && table.has_fixed_values {
            self.delete(key, 1)?;
            return self.all_columns(&Shape::Insert, new, 1);
        }
        if !is_partial {
            return self.all_columns(&Shape::Update(Columns::All), new, 0);
        }
        let columns: Vec<usize> = table
            .values()
            .filter(|place| !new.is_unchanged(*place))
            .collect();
        if columns.is_empty() && !table.expects_surprises() {
            return Ok(());
        }
        let carried = Columns::some(columns.iter().copied());
        let shape = if table.has_fixed_values {
            Shape::Rewrite(carried)
        } else {
            Shape::Update(carried)
        };
        self.some_columns(&shape, &columns, new, key)
    }

    /// The row of the old key gets another key.
    fn move_key(&mut self, old: Values<'_>, new: Values<'_>) -> Result<()> {
        let table = &*self.met.table;
        if self.met.is_cautious || table.expects_surprises() {
            self.make_room(old, new)?;
        }
        let is_partial = new.is_partial();
        let is_fixed = table.has_fixed_values || table.has_fixed_key;
        if !is_partial && is_fixed {
            self.delete(old, 1)?;
            return self.all_columns(&Shape::Insert, new, 1);
        }
        let count = table.columns.len();
        if !is_partial {
            let statement = self.session.statement(table, &Shape::Move(Columns::All))?;
            let mut bind = self.session.bind(statement, count + table.key.len());
            (0..count).for_each(|place| new.put(&mut bind, place));
            put_key(&mut bind, table, old);
            return bind.execute(self.step, 0);
        }
        let columns: Vec<usize> = (0..count)
            .filter(|place| !new.is_unchanged(*place))
            .collect();
        let carried = Columns::some(columns.iter().copied());
        let shape = if is_fixed {
            Shape::Rewrite(carried)
        } else {
            Shape::Move(carried)
        };
        self.some_columns(&shape, &columns, new, old)
    }

    /// Removes a row that stands where another one is about to go.
    fn make_room(&mut self, old: Values<'_>, new: Values<'_>) -> Result<()> {
        let table = &*self.met.table;
        let statement = self.session.statement(table, &Shape::MakeRoom)?;
        let mut bind = self.session.bind(statement, table.key.len() * 2);
        for place in &table.key {
            let from = if new.is_unchanged(*place) { old } else { new };
            from.put(&mut bind, *place);
        }
        put_key(&mut bind, table, old);
        bind.execute(self.step, 0)
    }

    /// A change of a table whose rows are found by all their values.
    fn keyless(&mut self, op: Op, old: Option<Values<'_>>, new: Option<Values<'_>>) -> Result<()> {
        match (op, old, new) {
            (Op::Insert, _, Some(new)) => self.all_columns(&Shape::Insert, new, 1),
            (Op::Delete, Some(old), _) => self.delete_like(old),
            (Op::Update, Some(old), Some(new)) => self.update_like(old, new),
            _ => Err(self.incomplete()),
        }
    }

    fn delete_like(&mut self, old: Values<'_>) -> Result<()> {
        let table = &*self.met.table;
        let present = present(old);
        let shape = Shape::DeleteLike(Columns::some(present.iter().copied()));
        let statement = self.session.statement(table, &shape)?;
        let mut bind = self.session.bind(statement, present.len());
        for place in present {
            old.put(&mut bind, place);
        }
        bind.execute(self.step, 1)
    }

    fn update_like(&mut self, old: Values<'_>, new: Values<'_>) -> Result<()> {
        let table = &*self.met.table;
        let filled = |place: usize| if new.is_unchanged(place) { old } else { new };
        let count = table.columns.len();
        if table.has_fixed_values {
            self.delete_like(old)?;
            let statement = self.session.statement(table, &Shape::Insert)?;
            let mut bind = self.session.bind(statement, count);
            (0..count).for_each(|place| filled(place).put(&mut bind, place));
            return bind.execute(self.step, 1);
        }
        if count == 0 {
            return Ok(());
        }
        let present = present(old);
        let shape = Shape::UpdateLike(Columns::some(present.iter().copied()));
        let statement = self.session.statement(table, &shape)?;
        let mut bind = self.session.bind(statement, count + present.len());
        (0..count).for_each(|place| filled(place).put(&mut bind, place));
        for place in present {
            old.put(&mut bind, place);
        }
        bind.execute(self.step, 0)
    }

    fn all_columns(&mut self, shape: &Shape, new: Values<'_>, expected: u64) -> Result<()> {
        let table = &*self.met.table;
        let statement = self.session.statement(table, shape)?;
        let mut bind = self.session.bind(statement, table.columns.len());
        (0..table.columns.len()).for_each(|place| new.put(&mut bind, place));
        bind.execute(self.step, expected)
    }

    fn some_columns(
        &mut self,
        shape: &Shape,
        columns: &[usize],
        new: Values<'_>,
        key: Values<'_>,
    ) -> Result<()> {
        let table = &*self.met.table;
        // Behind a filter the row may be one that comes in, which cannot be made up from a part.
        let must = table
            .expects_surprises()
            .then(|| Shape::Must(Box::new(shape.clone())));
        let statement = self
            .session
            .statement(table, must.as_ref().unwrap_or(shape))?;
        let mut bind = self
            .session
            .bind(statement, columns.len() + table.key.len());
        for place in columns {
            new.put(&mut bind, *place);
        }
        put_key(&mut bind, table, key);
        bind.execute(self.step, 1)
    }

    fn is_same_key(&self, old: Values<'_>, new: Values<'_>) -> bool {
        let mut key = self.met.table.key.iter();
        key.all(|place| new.is_unchanged(*place) || new.get(*place) == old.get(*place))
    }

    fn incomplete(&self) -> Error {
        self.met.table.error(Error::data(
            codes::CHANGE_INCOMPLETE,
            "the log does not say which row a change is about",
        ))
    }
}

fn put_key(bind: &mut Bind<'_>, table: &TargetTable, row: Values<'_>) {
    table.key.iter().for_each(|place| row.put(bind, *place));
}

/// Positions of the values that are not NULL.
fn present(row: Values<'_>) -> Vec<usize> {
    (0..row.cells.len())
        .filter(|place| row.get(*place).is_some())
        .collect()
}
