//! Folding against a model: a table that is a map, to which the same history is applied in turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batch::{Batch, Change, Item, SchemaChange};
use crate::event::{CellKind, OldRow};
use crate::mapping::TableMapping;
use crate::schema::{TableName, TableSchema};

/// A value; `None` is NULL.
type Value = Option<String>;
/// A table by key.
type Model = BTreeMap<Value, Vec<Value>>;

/// A cell as the log has it.
#[derive(Clone, Debug)]
enum Logged {
    Value(Value),
    Unchanged,
}

fn table(name: &str) -> Arc<TableMapping> {
    Arc::new(TableMapping {
        schema: TableSchema::bare(TableName::new("public", name), 1),
        target: TableName::new("public", name),
        columns: Vec::new(),
        key: Vec::new(),
        filter: None,
        on_row_error: crate::quarantine::OnRowError::StopTable,
    })
}

fn push_row(batch: &mut Batch, cells: &[Logged]) -> Row {
    let begin = batch.begin_row();
    for cell in cells {
        match cell {
            Logged::Value(Some(text)) => batch.push_cell(CellKind::Text, text.as_bytes()),
            Logged::Value(None) => batch.push_cell(CellKind::Null, b""),
            Logged::Unchanged => batch.push_cell(CellKind::Unchanged, b""),
        }
    }
    batch.end_row(begin)
}

fn whole(row: &[Value]) -> Vec<Logged> {
    row.iter().cloned().map(Logged::Value).collect()
}

fn values(batch: &Batch, cells: &[Cell]) -> Vec<Logged> {
    let value = |cell: &Cell| match cell.kind {
        CellKind::Null => Logged::Value(None),
        CellKind::Unchanged => Logged::Unchanged,
        CellKind::Text => Logged::Value(Some(
            String::from_utf8_lossy(batch.value(*cell)).into_owned(),
        )),
    };
    cells.iter().map(value).collect()
}

fn known(cell: &Logged) -> Value {
    match cell {
        Logged::Value(value) => value.clone(),
        Logged::Unchanged => panic!("a value that the log left out is used"),
    }
}

/// The only table of the batch, whose only segment is the whole of it.
fn only_table(batch: &Batch) -> TableChanges {
    let mut segments = split(batch);
    assert!(segments.len() <= 1, "no barriers here");
    match segments.pop() {
        Some(Segment::Changes(mut stretch)) => stretch.tables.remove(0),
        _ => TableChanges::default(),
    }
}

/// What a random step does; rows are chosen by numbers that wrap around.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        key: u8,
        payload: u8,
    },
    Update {
        at: u8,
        payload: u8,
        keep_large: bool,
    },
    MoveKey {
        at: u8,
        key: u8,
        keep_large: bool,
    },
    Delete {
        at: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8_u8, any::<u8>()).prop_map(|(key, payload)| Step::Insert { key, payload }),
        (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(at, payload, keep_large)| {
            Step::Update {
                at,
                payload,
                keep_large,
            }
        }),
        (any::<u8>(), 0..8_u8, any::<bool>()).prop_map(|(at, key, keep_large)| Step::MoveKey {
            at,
            key,
            keep_large
        }),
        any::<u8>().prop_map(|at| Step::Delete { at }),
    ];
    proptest::collection::vec(step, 0..40)
}

/// How much of old rows the log has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Identity {
    Key,
    Full,
}

/// Keys that are empty, short, as long as a short one can be, and longer.
fn name(key: u8) -> String {
    match key {
        0 => String::new(),
        1 => "fifteen bytes 1".to_owned(),
        2 => "sixteen bytes 22".to_owned(),
        3 => "sixteen bytes 23".to_owned(),
        _ => format!("k{key}"),
    }
}

/// Rows are: key, small value, large value, second large value.
fn row(key: u8, payload: u8) -> Vec<Value> {
    let large = |salt: u8| match payload % 5 {
        0 => None,
        _ => Some(format!("large {}", payload ^ salt)),
    };
    vec![
        Some(name(key)),
        Some(payload.to_string()),
        large(0),
        large(0x55),
    ]
}

/// Runs a history on a source, writes its log into a batch, and gives the source's end state.
fn play(start: &Model, steps: &[Step], identity: Identity) -> (Batch, Model) {
    let mut source = start.clone();
    let mut batch = Batch::default();
    let table = batch.table(&table("t"));
    for step in steps {
        let pick = |at: &u8| {
            let at = usize::from(*at) % source.len().max(1);
            source
                .iter()
                .nth(at)
                .map(|(key, row)| (key.clone(), row.clone()))
        };
        let (op, old, new) = match step {
            Step::Insert { key, payload } => {
                let new = row(*key, *payload);
                if source.contains_key(&new[0]) {
                    continue;
                }
                (Op::Insert, None, Some((new, false)))
            }
            Step::Update {
                at,
                payload,
                keep_large,
            } => {
                let Some((key, old)) = pick(at) else { continue };
                let mut new = row(0, *payload);
                new[0] = key;
                if *keep_large {
                    new[2..].clone_from_slice(&old[2..]);
                }
                (Op::Update, Some(old), Some((new, *keep_large)))
            }
            Step::MoveKey {
                at,
                key,
                keep_large,
            } => {
                let Some((_, old)) = pick(at) else { continue };
                let mut new = old.clone();
                new[0] = Some(name(*key));
                if source.contains_key(&new[0]) {
                    continue;
                }
                (Op::Update, Some(old), Some((new, *keep_large)))
            }
            Step::Delete { at } => {
                let Some((_, old)) = pick(at) else { continue };
                (Op::Delete, Some(old), None)
            }
        };
        if let Some(old) = &old {
            source.remove(&old[0]);
        }
        if let Some((new, _)) = &new {
            source.insert(new[0].clone(), new.clone());
        }
        log(&mut batch, table, op, identity, old.as_deref(), new);
    }
    (batch, source)
}

/// Writes a change as PostgreSQL's log has it.
fn log(
    batch: &mut Batch,
    table: usize,
    op: Op,
    identity: Identity,
    old: Option<&[Value]>,
    new: Option<(Vec<Value>, bool)>,
) {
    let is_key_same = matches!((old, &new), (Some(old), Some((new, _))) if old[0] == new[0]);
    let old = old.filter(|_| !(op == Op::Update && identity == Identity::Key && is_key_same));
    let old = old.map(|old| match identity {
        Identity::Full => OldRow::Full(push_row(batch, &whole(old))),
        Identity::Key => {
            let mut cells = vec![Logged::Value(None); old.len()];
            cells[0] = Logged::Value(old[0].clone());
            OldRow::Key(push_row(batch, &cells))
        }
    });
    let new = new.map(|(new, keep_large)| {
        let mut cells = whole(&new);
        if keep_large {
            for place in 2..4 {
                if new[place].is_some() {
                    cells[place] = Logged::Unchanged;
                }
            }
        }
        push_row(batch, &cells)
    });
    batch.push(Item::Change(Change {
        table,
        op,
        old,
        new,
    }));
}

/// Applies a net change by the target's policy; gives how many rows were not as expected.
fn apply(batch: &Batch, net: &KeyedNet, model: &mut Model) -> usize {
    let mut unexpected = 0;
    let row = |image: Image| values(batch, net.merged.cells(batch, image));
    for image in &net.vanished {
        unexpected += usize::from(model.remove(&known(&row(*image)[0])).is_some());
    }
    for image in &net.deletes {
        unexpected += usize::from(model.remove(&known(&row(*image)[0])).is_none());
    }
    for group in &net.updates {
        for image in &group.rows {
            let cells = row(*image);
            if let Some(row) = model.get_mut(&known(&cells[0])) {
                for place in &group.columns {
                    row[*place] = known(&cells[*place]);
                }
                continue;
            }
            unexpected += 1;
            if group.is_complete {
                model.insert(known(&cells[0]), cells.iter().map(known).collect());
            }
        }
    }
    for image in &net.inserts {
        let cells: Vec<Value> = row(*image).iter().map(known).collect();
        unexpected += usize::from(model.insert(cells[0].clone(), cells).is_some());
    }
    unexpected
}

fn start_model(keys: &[u8]) -> Model {
    keys.iter()
        .map(|key| row(*key, key ^ 0x33))
        .map(|row| (row[0].clone(), row))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn net_change_leaves_what_the_history_leaves(
        start in proptest::collection::vec(0..8_u8, 0..6),
        steps in steps(),
        identity in prop_oneof![Just(Identity::Key), Just(Identity::Full)],
    ) {
        let start = start_model(&start);
        let (batch, end) = play(&start, &steps, identity);
        let changes = only_table(&batch);
        let Some(net) = fold_keyed(&batch, &changes, &[0]) else {
            // Only a moved key whose large values nobody knows stands in the way.
            let moves = |step: &Step| matches!(step, Step::MoveKey { keep_large: true, .. });
            prop_assert!(identity == Identity::Key && steps.iter().any(moves));
            return Ok(());
        };
        let mut net = net;
        net.sort(&batch, &[0]);
        let mut target = start.clone();
        prop_assert_eq!(apply(&batch, &net, &mut target), 0);
        prop_assert_eq!(target, end);
        prop_assert_eq!(net.conflicts, 0);
        prop_assert!(net.len() <= changes.items.len() * 2);
    }

    /// Histories that contradict the target end as if each change had been applied in turn.
    #[test]
    fn contradictions_end_as_in_order(
        source in proptest::collection::vec(0..8_u8, 0..6),
        target in proptest::collection::vec(0..8_u8, 0..6),
        steps in steps(),
    ) {
        let mut steps = steps;
        for step in &mut steps {
            match step {
                Step::Update { keep_large, .. } | Step::MoveKey { keep_large, .. } => {
                    *keep_large = false;
                }
                Step::Insert { .. } | Step::Delete { .. } => {}
            }
        }
        let (batch, _) = play(&start_model(&source), &steps, Identity::Key);
        let net = fold_keyed(&batch, &only_table(&batch), &[0]).unwrap();
        let mut folded = start_model(&target);
        apply(&batch, &net, &mut folded);
        let mut in_order = start_model(&target);
        for item in batch.items() {
            let Item::Change(change) = item else { continue };
            let key = |row: Row| known(&values(&batch, batch.row(row))[0]);
            if let Some(old) = change.old {
                in_order.remove(&key(old.row()));
            }
            if let Some(new) = change.new {
                let cells = values(&batch, batch.row(new));
                in_order.insert(key(new), cells.iter().map(known).collect());
            }
        }
        prop_assert_eq!(folded, in_order);
    }

    #[test]
    fn keyless_net_change_leaves_what_the_history_leaves(
        start in proptest::collection::vec((0..3_u8, 0..3_u8), 0..8),
        steps in proptest::collection::vec((any::<u8>(), 0..3_u8, 0..3_u8, 0..4_u8), 0..40),
    ) {
        let start: Vec<Vec<Value>> = start.iter().map(|(a, b)| row(*a, *b)).collect();
        let mut source = start.clone();
        let mut batch = Batch::default();
        let table = batch.table(&table("t"));
        for (at, a, b, what) in steps {
            let at = usize::from(at) % source.len().max(1);
            let old = source.get(at).cloned();
            let (op, old, new) = match (what, old) {
                (0 | 1, _) => (Op::Insert, None, Some((row(a, b), false))),
                (2, Some(old)) => {
                    let mut new = row(a, b);
                    new[2..].clone_from_slice(&old[2..]);
                    (Op::Update, Some(old), Some((new, true)))
                }
                (3, Some(old)) => (Op::Delete, Some(old), None),
                _ => continue,
            };
            if old.is_some() {
                source.remove(at);
            }
            source.extend(new.clone().map(|(new, _)| new));
            log(&mut batch, table, op, Identity::Full, old.as_deref(), new);
        }
        let net = fold_keyless(&batch, &only_table(&batch)).unwrap();
        let mut target = start;
        for tally in &net.removed {
            let cells = values(&batch, net.merged.cells(&batch, tally.image));
            let row: Vec<Value> = cells.iter().map(known).collect();
            for _ in 0..tally.count {
                let place = target.iter().position(|other| *other == row);
                target.remove(place.expect("a removed row was there"));
            }
        }
        for tally in &net.added {
            let cells = values(&batch, net.merged.cells(&batch, tally.image));
            let row: Vec<Value> = cells.iter().map(known).collect();
            target.extend(std::iter::repeat_n(row, usize::try_from(tally.count).unwrap()));
        }
        target.sort();
        source.sort();
        prop_assert_eq!(target, source);
    }
}

#[test]
fn barriers_cut_and_tables_keep_their_order() {
    let mut batch = Batch::default();
    let (a, b) = (batch.table(&table("a")), batch.table(&table("b")));
    let insert = |batch: &mut Batch, table| {
        log(
            batch,
            table,
            Op::Insert,
            Identity::Key,
            None,
            Some((row(1, 1), false)),
        );
    };
    insert(&mut batch, b);
    insert(&mut batch, a);
    insert(&mut batch, b);
    batch.push(Item::Truncate {
        tables: vec![a],
        restart_identity: false,
    });
    batch.push(Item::Schema {
        table: a,
        changes: vec![SchemaChange::DropColumn {
            name: "c".to_owned(),
        }],
    });
    insert(&mut batch, a);
    let shape: Vec<String> = split(&batch)
        .iter()
        .map(|segment| match segment {
            Segment::Barrier(item) => format!("barrier {item}"),
            Segment::Changes(stretch) => {
                let tables = stretch.tables.iter().map(|t| (t.table, t.items.clone()));
                format!("{:?} {:?}", stretch.items, tables.collect::<Vec<_>>())
            }
        })
        .collect();
    assert_eq!(
        shape,
        [
            "0..3 [(1, [0, 2]), (0, [1])]",
            "barrier 3",
            "barrier 4",
            "5..6 [(0, [5])]"
        ]
    );
}

#[test]
fn keys_swapped_through_a_third_are_two_updates() {
    let start = start_model(&[4, 5]);
    let steps = [
        Step::MoveKey {
            at: 0,
            key: 7,
            keep_large: false,
        },
        Step::MoveKey {
            at: 0,
            key: 4,
            keep_large: false,
        },
        Step::MoveKey {
            at: 1,
            key: 5,
            keep_large: false,
        },
    ];
    let (batch, _) = play(&start, &steps, Identity::Key);
    let net = fold_keyed(&batch, &only_table(&batch), &[0]).unwrap();
    assert_eq!((net.deletes.len(), net.inserts.len()), (0, 0));
    assert_eq!(net.updates[0].rows.len(), 2);
    assert_eq!(net.updates[0].columns, [1, 2, 3]);
}

#[test]
fn sorted_updates_are_in_the_order_of_their_keys() {
    let mut batch = Batch::default();
    let t = batch.table(&table("t"));
    for key in ["30", "4", "100", "5", "29"] {
        let new = push_row(&mut batch, &[Logged::Value(Some(key.to_owned()))]);
        let change = Change {
            table: t,
            op: Op::Update,
            old: None,
            new: Some(new),
        };
        batch.push(Item::Change(change));
    }
    let mut net = fold_keyed(&batch, &only_table(&batch), &[0]).unwrap();
    net.sort(&batch, &[0]);
    let keys: Vec<&[u8]> = net.updates[0]
        .rows
        .iter()
        .map(|image| batch.value(net.merged.cells(&batch, *image)[0]))
        .collect();
    assert_eq!(keys, [b"4".as_slice(), b"5", b"29", b"30", b"100"]);
}

#[test]
fn moved_key_with_unknown_value_is_not_folded() {
    let start = start_model(&[2]);
    let steps = [Step::MoveKey {
        at: 0,
        key: 1,
        keep_large: true,
    }];
    let (batch, _) = play(&start, &steps, Identity::Key);
    assert!(fold_keyed(&batch, &only_table(&batch), &[0]).is_none());
}
