//! Changes as the target keeps them: read from a batch, carried out on rows, and made a batch again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::event::{Cell, CellKind, OldRow, Op, Row as CellRow};
use tidemark_core::mapping::TableMapping;
use tidemark_core::quarantine::Key;
use tidemark_core::schema::TableName;

use crate::source::table_of;
use crate::world::{Row, Rows, TABLES, World, has_key};

/// A change in the target's own words: how parked ones are kept.
#[derive(Clone, Debug)]
pub(crate) enum SimChange {
    Row {
        op: Op,
        old: Option<(bool, Vec<SimCell>)>,
        new: Option<Vec<SimCell>>,
    },
    Truncate,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SimCell {
    Null,
    Unchanged,
    Value(String),
}

pub(crate) fn name_of(table: usize) -> TableName {
    TableName::new("public", TABLES[table])
}

/// The keys of the old row and the new one.
pub(crate) fn keys_of(change: &SimChange) -> Option<Vec<Key>> {
    let SimChange::Row { old, new, .. } = change else {
        return None;
    };
    let key = |cells: &Vec<SimCell>| match &cells[0] {
        SimCell::Value(id) => Some(vec![id.clone()]),
        SimCell::Null | SimCell::Unchanged => None,
    };
    let old = old.as_ref().and_then(|(_, cells)| key(cells));
    let mut keys: Vec<Key> = old.into_iter().collect();
    let new = new.as_ref().and_then(key);
    keys.extend(new.filter(|new| !keys.contains(new)));
    Some(keys)
}

pub(crate) fn is_refused(change: &SimChange, world: &World) -> bool {
    match change {
        SimChange::Row { new: Some(new), .. } => {
            matches!(&new[1], SimCell::Value(value) if world.refuses(value))
        }
        _ => false,
    }
}

/// Applies a change strictly: what the log implies must be there.
pub(crate) fn apply_change(rows: &mut Rows, table: usize, change: &SimChange) {
    let SimChange::Row { op, old, new } = change else {
        rows.clear();
        return;
    };
    let text = |cell: &SimCell| match cell {
        SimCell::Value(text) => Some(text.clone()),
        SimCell::Null => None,
        SimCell::Unchanged => panic!("an unchanged value where a value is needed"),
    };
    let find = |rows: &Rows, cells: &[SimCell], full: bool| -> Row {
        let key = text(&cells[0]);
        let found = rows.keys().find(|row| {
            if full {
                (0..3).all(|at| row[at] == text(&cells[at]))
            } else {
                row[0] == key
            }
        });
        found
            .cloned()
            .unwrap_or_else(|| panic!("{op:?} finds no row {cells:?} in {}", TABLES[table]))
    };
    let take = |rows: &mut Rows, row: &Row| {
        let count = rows.get_mut(row).expect("found above");
        *count -= 1;
        if *count == 0 {
            rows.remove(row);
        }
    };
    let old_row = match (op, old, new) {
        (Op::Insert, ..) => None,
        (_, Some((full, cells)), _) => Some(find(rows, cells, *full)),
        (_, None, Some(cells)) => Some(find(rows, cells, false)),
        (_, None, None) => panic!("a change without any row"),
    };
    if let Some(old) = &old_row {
        take(rows, old);
    }
    if let Some(cells) = new {
        let value = |at: usize| match &cells[at] {
            SimCell::Unchanged => {
                old_row.as_ref().expect("only updates leave values out")[at].clone()
            }
            cell => text(cell),
        };
        let row = [value(0), value(1), value(2)];
        if has_key(table) {
            let twice = rows.keys().any(|other| other[0] == row[0]);
            assert!(
                !twice,
                "{op:?} finds row {:?} there already in {}",
                row[0], TABLES[table]
            );
        }
        *rows.entry(row).or_default() += 1;
    }
}

pub(crate) fn by_table(batch: &Batch) -> Vec<(usize, Vec<SimChange>)> {
    let mut changes: BTreeMap<usize, Vec<SimChange>> = BTreeMap::new();
    for item in batch.items() {
        match item {
            Item::Change(change) => {
                let table = table_of(&batch.tables()[change.table]);
                changes
                    .entry(table)
                    .or_default()
                    .push(to_change(batch, change));
            }
            Item::Truncate { tables, .. } => {
                for table in tables {
                    let table = table_of(&batch.tables()[*table]);
                    changes.entry(table).or_default().push(SimChange::Truncate);
                }
            }
            Item::Schema { .. } => panic!("no history changes the schema"),
        }
    }
    changes.into_iter().collect()
}

pub(crate) fn to_change(batch: &Batch, change: &Change) -> SimChange {
    let cells = |row: CellRow| -> Vec<SimCell> {
        batch
            .row(row)
            .iter()
            .map(|cell| to_cell(batch, *cell))
            .collect()
    };
    let old = change
        .old
        .map(|old| (matches!(old, OldRow::Full(_)), cells(old.row())));
    SimChange::Row {
        op: change.op,
        old,
        new: change.new.map(cells),
    }
}

pub(crate) fn to_cell(batch: &Batch, cell: Cell) -> SimCell {
    match cell.kind {
        CellKind::Null => SimCell::Null,
        CellKind::Unchanged => SimCell::Unchanged,
        CellKind::Text => {
            SimCell::Value(String::from_utf8(batch.value(cell).to_vec()).expect("UTF-8"))
        }
    }
}

pub(crate) fn to_batch(mapping: &Arc<TableMapping>, changes: &[SimChange]) -> Batch {
    let mut batch = Batch::default();
    let table = batch.table(mapping);
    for change in changes {
        match change {
            SimChange::Truncate => {
                batch.push(Item::Truncate {
                    tables: vec![table],
                    restart_identity: false,
                });
            }
            SimChange::Row { op, old, new } => {
                let old = old.as_ref().map(|(full, cells)| {
                    let row = push_row(&mut batch, cells);
                    if *full {
                        OldRow::Full(row)
                    } else {
                        OldRow::Key(row)
                    }
                });
                let new = new.as_ref().map(|cells| push_row(&mut batch, cells));
                batch.push(Item::Change(Change {
                    table,
                    op: *op,
                    old,
                    new,
                }));
            }
        }
    }
    batch
}

pub(crate) fn push_row(batch: &mut Batch, cells: &[SimCell]) -> CellRow {
    let begin = batch.begin_row();
    for cell in cells {
        match cell {
            SimCell::Null => batch.push_cell(CellKind::Null, b""),
            SimCell::Unchanged => batch.push_cell(CellKind::Unchanged, b""),
            SimCell::Value(text) => batch.push_cell(CellKind::Text, text.as_bytes()),
        }
    }
    batch.end_row(begin)
}
