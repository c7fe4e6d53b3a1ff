//! Rows of a stream against a mapping that renames, leaves out, reorders, masks and filters.

use bytes::Bytes;

use super::*;
use crate::config::secret::Secret;
use crate::event::StreamColumn;
use crate::filter::Filter;
use crate::mapping::fixture::table;
use crate::mapping::{ColumnMapping, TargetType};
use crate::mask::Mask;
use crate::position::{Lsn, Position};
use crate::schema::TableName;

/// A block that holds the given rows; `~` is unchanged, `None` is NULL.
fn block(rows: &[&[Option<&str>]]) -> (Block, Vec<Row>) {
    let (mut bytes, mut cells, mut at) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let start = u32::try_from(cells.len()).unwrap();
        for value in *row {
            cells.push(match value {
                None => Cell::NULL,
                Some("~") => Cell::UNCHANGED,
                Some(text) => {
                    let start = u32::try_from(bytes.len()).unwrap();
                    bytes.extend_from_slice(text.as_bytes());
                    let len = u32::try_from(text.len()).unwrap();
                    Cell {
                        kind: CellKind::Text,
                        start,
                        len,
                    }
                }
            });
        }
        at.push(Row {
            start,
            len: u16::try_from(row.len()).unwrap(),
        });
    }
    let block = Block {
        bytes: Bytes::from(bytes),
        cells,
        events: Vec::new(),
        head: Position::PgLsn(Lsn(1)),
    };
    (block, at)
}

fn stream_table(columns: &[&str], identity: ReplicaIdentity) -> StreamTable {
    StreamTable {
        id: 7,
        name: TableName::new("public", "orders"),
        columns: columns
            .iter()
            .map(|name| StreamColumn {
                name: (*name).to_owned(),
                type_id: 25,
                type_modifier: -1,
            })
            .collect(),
        identity,
    }
}

/// Of `id, status, email, note`: all but note, email hashed; key id.
fn mapping(filter: Option<&str>) -> Arc<TableMapping> {
    let schema = table(
        "public.orders",
        &[
            ("id", "bigint"),
            ("status", "text"),
            ("email", "text"),
            ("note", "text"),
        ],
    );
    let column = |source: usize, target: &str, mask: Option<Mask>| ColumnMapping {
        source,
        target: target.to_owned(),
        mask,
        target_type: TargetType::AsSource,
    };
    let hash = Mask::Hash {
        salt: Secret::default(),
    };
    Arc::new(TableMapping {
        target: TableName::new("dw", "orders"),
        columns: vec![
            column(0, "order_id", None),
            column(1, "status", None),
            column(2, "email", Some(hash)),
        ],
        key: vec![0],
        filter: filter.map(|text| Filter::bind(text, &schema).unwrap()),
        on_row_error: crate::quarantine::OnRowError::StopTable,
        schema,
    })
}

const COLUMNS: &[&str] = &["note", "email", "id", "status"];

fn projection(filter: Option<&str>, identity: ReplicaIdentity) -> Projection {
    Projection::new(&mapping(filter), &stream_table(COLUMNS, identity)).unwrap()
}

fn by_id() -> ReplicaIdentity {
    ReplicaIdentity::Key(vec![2])
}

/// A row of a batch as text: `NULL`, `~` for unchanged.
fn shown(batch: &Batch, row: Row) -> Vec<String> {
    batch
        .row(row)
        .iter()
        .map(|cell| match cell.kind {
            CellKind::Null => "NULL".to_owned(),
            CellKind::Unchanged => "~".to_owned(),
            CellKind::Text => String::from_utf8(batch.value(*cell).to_vec()).unwrap(),
        })
        .collect()
}

const HASH_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn a_row_is_picked_ordered_and_masked() {
    let projection = projection(None, by_id());
    let (block, rows) = block(&[
        &[Some("long"), Some("abc"), Some("5"), None],
        &[None, None, Some("6"), Some("~")],
    ]);
    let mut batch = Batch::default();
    let change = |row| RowChange {
        table: 7,
        op: Op::Insert,
        old: None,
        new: Some(row),
    };
    let first = projection
        .copy_new(&block, &change(rows[0]), Unchanged::Keep, &mut batch)
        .unwrap();
    let second = projection
        .copy_new(&block, &change(rows[1]), Unchanged::Keep, &mut batch)
        .unwrap();
    assert_eq!(shown(&batch, first), ["5", "NULL", HASH_OF_ABC]);
    assert_eq!(shown(&batch, second), ["6", "~", "NULL"]);
}

#[test]
fn of_an_old_key_only_the_key_is_set() {
    let projection = projection(None, by_id());
    let (block, rows) = block(&[
        &[None, None, Some("5"), None],
        &[None, Some("abc"), Some("5"), Some("new")],
    ]);
    let mut batch = Batch::default();
    for (old, expected) in [
        (OldRow::Key(rows[0]), vec!["5", "NULL", "NULL"]),
        (OldRow::Full(rows[1]), vec!["5", "new", HASH_OF_ABC]),
    ] {
        let change = RowChange {
            table: 7,
            op: Op::Delete,
            old: Some(old),
            new: None,
        };
        let copied = projection.copy_old(&block, &change, &mut batch).unwrap();
        assert_eq!(shown(&batch, copied.row()), expected);
        assert_eq!(
            matches!(old, OldRow::Key(_)),
            matches!(copied, OldRow::Key(_))
        );
        assert_eq!(
            projection.copy_new(&block, &change, Unchanged::Keep, &mut batch),
            None
        );
    }
}

#[test]
fn unchanged_values_are_taken_from_a_whole_old_row_when_asked() {
    let projection = projection(None, ReplicaIdentity::Full);
    let (block, rows) = block(&[
        &[None, Some("abc"), Some("5"), Some("old")],
        &[None, Some("~"), Some("5"), Some("~")],
    ]);
    let change = RowChange {
        table: 7,
        op: Op::Update,
        old: Some(OldRow::Full(rows[0])),
        new: Some(rows[1]),
    };
    let mut batch = Batch::default();
    for (unchanged, expected) in [
        (Unchanged::Keep, vec!["5", "~", "~"]),
        (Unchanged::FromOld, vec!["5", "old", HASH_OF_ABC]),
    ] {
        let row = projection
            .copy_new(&block, &change, unchanged, &mut batch)
            .unwrap();
        assert_eq!(shown(&batch, row), expected);
    }
}

/// Of a partition that logs keys alone, under a partitioned table that is said to log whole rows.
#[test]
fn an_unchanged_value_is_not_null_whatever_the_old_row_is_called() {
    let projection = projection(None, ReplicaIdentity::Full);
    let (block, rows) = block(&[
        &[None, None, Some("5"), None],
        &[None, Some("~"), Some("6"), Some("~")],
    ]);
    let change = RowChange {
        table: 7,
        op: Op::Update,
        old: Some(OldRow::Full(rows[0])),
        new: Some(rows[1]),
    };
    let mut batch = Batch::default();
    let row = projection
        .copy_new(&block, &change, Unchanged::FromOld, &mut batch)
        .unwrap();
    assert_eq!(shown(&batch, row), ["6", "~", "~"]);
}

#[test]
fn a_shape_that_does_not_fit_is_told() {
    let missing = Projection::new(
        &mapping(Some("note = 'x'")),
        &stream_table(&["id", "email"], ReplicaIdentity::Key(vec![0])),
    );
    assert_eq!(
        missing.unwrap_err(),
        Mismatch::Missing(vec!["status".to_owned(), "note".to_owned()])
    );
    let identity = Projection::new(
        &mapping(None),
        &stream_table(COLUMNS, ReplicaIdentity::Key(vec![3])),
    );
    assert_eq!(
        identity.unwrap_err(),
        Mismatch::Identity(vec!["id".to_owned()])
    );
    assert!(
        Projection::new(
            &mapping(None),
            &stream_table(COLUMNS, ReplicaIdentity::Full)
        )
        .is_ok()
    );
}

/// Old row (`F` whole, `K` key, `-` none) with its status, new status, what follows.
#[test]
fn updates_across_the_filter_follow_the_table() {
    let row = |status: Option<&'static str>| [None, None, Some("5"), status];
    for (old_form, old, new, expected) in [
        ('F', Some("open"), Some("open"), Carry::AsIs),
        ('F', Some("open"), Some("shut"), Carry::Delete),
        ('F', Some("open"), None, Carry::Delete),
        ('F', Some("shut"), Some("open"), Carry::Insert),
        ('F', None, Some("open"), Carry::Insert),
        ('F', Some("shut"), None, Carry::Skip),
        ('F', Some("open"), Some("~"), Carry::AsIs),
        ('F', Some("shut"), Some("~"), Carry::Skip),
        ('K', None, Some("open"), Carry::Upsert),
        ('K', None, Some("shut"), Carry::DeleteIfThere),
        ('K', None, Some("~"), Carry::Undecided),
        ('-', None, Some("open"), Carry::Upsert),
        ('-', None, None, Carry::DeleteIfThere),
        ('-', None, Some("~"), Carry::Undecided),
    ] {
        let identity = if old_form == 'F' {
            ReplicaIdentity::Full
        } else {
            by_id()
        };
        let projection = projection(Some("status = 'open'"), identity);
        let (block, rows) = block(&[&row(old), &row(new)]);
        let change = RowChange {
            table: 7,
            op: Op::Update,
            old: match old_form {
                'F' => Some(OldRow::Full(rows[0])),
                'K' => Some(OldRow::Key(rows[0])),
                _ => None,
            },
            new: Some(rows[1]),
        };
        let carry = projection.carry(&block, &change);
        assert_eq!(carry, expected, "{old_form} {old:?} {new:?}");
    }
}

#[test]
fn inserts_and_deletes_follow_the_filter() {
    let (block, rows) = block(&[
        &[None, None, Some("5"), Some("open")],
        &[None, None, Some("5"), Some("shut")],
    ]);
    let insert = |row| RowChange {
        table: 7,
        op: Op::Insert,
        old: None,
        new: Some(row),
    };
    let delete = |old| RowChange {
        table: 7,
        op: Op::Delete,
        old: Some(old),
        new: None,
    };
    let full = projection(Some("status = 'open'"), ReplicaIdentity::Full);
    let keyed = projection(Some("status = 'open'"), by_id());
    let unfiltered = projection(None, by_id());
    for (projection, change, expected) in [
        (&full, insert(rows[0]), Carry::AsIs),
        (&full, insert(rows[1]), Carry::Skip),
        (&full, delete(OldRow::Full(rows[0])), Carry::AsIs),
        (&full, delete(OldRow::Full(rows[1])), Carry::Skip),
        (&keyed, delete(OldRow::Key(rows[0])), Carry::DeleteIfThere),
        (&unfiltered, delete(OldRow::Key(rows[0])), Carry::AsIs),
    ] {
        assert_eq!(projection.carry(&block, &change), expected, "{change:?}");
    }
}

#[test]
fn a_filter_over_the_key_alone_is_exact_without_the_whole_old_row() {
    let projection = projection(Some("id < 10"), by_id());
    let (block, rows) = block(&[
        &[None, None, Some("5"), None],
        &[None, None, Some("50"), None],
        &[None, Some("~"), Some("5"), None],
    ]);
    for (old, new, expected) in [
        (None, rows[0], Carry::AsIs),
        (None, rows[1], Carry::Skip),
        (Some(OldRow::Key(rows[0])), rows[1], Carry::Delete),
        (Some(OldRow::Key(rows[1])), rows[0], Carry::Insert),
        (Some(OldRow::Key(rows[1])), rows[2], Carry::Undecided),
    ] {
        let change = RowChange {
            table: 7,
            op: Op::Update,
            old,
            new: Some(new),
        };
        assert_eq!(projection.carry(&block, &change), expected, "{old:?}");
    }
}
