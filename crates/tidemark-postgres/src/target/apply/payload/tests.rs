use proptest::prelude::*;
use tidemark_core::schema::TableName;

use super::*;

fn column(name: &str, type_name: &str, type_id: u32) -> Column {
    Column::bare(name, type_name, type_id)
}

fn mapping(columns: &[(&str, &str, u32)]) -> TableMapping {
    TableMapping {
        schema: TableSchema {
            columns: columns
                .iter()
                .map(|(name, type_name, id)| column(name, type_name, *id))
                .collect(),
            primary_key: vec![0],
            identity: ReplicaIdentity::Key(vec![0]),
            ..TableSchema::bare(TableName::new("shop", "orders"), 7)
        },
        target: TableName::new("dw", "orders"),
        columns: (0..columns.len())
            .map(|source| ColumnMapping {
                source,
                target: columns[source].0.to_owned(),
                mask: None,
                target_type: TargetType::default(),
            })
            .collect(),
        key: vec![0],
        filter: None,
        on_row_error: tidemark_core::quarantine::OnRowError::StopTable,
    }
}

fn push(batch: &mut Batch, cells: &[(CellKind, &[u8])]) -> Row {
    let begin = batch.begin_row();
    for (kind, value) in cells {
        batch.push_cell(*kind, value);
    }
    batch.end_row(begin)
}

/// One of everything.
fn sample() -> Batch {
    let mut batch = Batch::default();
    let before = Arc::new(mapping(&[("id", "integer", 23), ("note", "text", 25)]));
    let after = Arc::new(mapping(&[("id", "integer", 23), ("remark", "text", 25)]));
    let table = batch.table(&before);
    let new = push(
        &mut batch,
        &[(CellKind::Text, b"1"), (CellKind::Text, "é\n".as_bytes())],
    );
    batch.push(Item::Change(Change {
        table,
        op: Op::Insert,
        old: None,
        new: Some(new),
    }));
    let old = push(&mut batch, &[(CellKind::Text, b"1"), (CellKind::Null, b"")]);
    let new = push(
        &mut batch,
        &[(CellKind::Text, b"2"), (CellKind::Unchanged, b"")],
    );
    let old = Some(OldRow::Key(old));
    batch.push(Item::Change(Change {
        table,
        op: Op::Update,
        old,
        new: Some(new),
    }));
    let old = push(&mut batch, &[(CellKind::Text, b"2"), (CellKind::Text, b"")]);
    let old = Some(OldRow::Full(old));
    batch.push(Item::Change(Change {
        table,
        op: Op::Delete,
        old,
        new: None,
    }));
    batch.push(Item::Truncate {
        tables: vec![table],
        restart_identity: true,
    });
    let table = batch.table(&after);
    let name = |name: &str| name.to_owned();
    batch.push(Item::Schema {
        table,
        changes: vec![
            SchemaChange::RenameColumn {
                from: name("note"),
                to: name("remark"),
            },
            SchemaChange::AddColumn {
                name: name("n"),
                type_name: name("integer"),
                fill: Some(name("0")),
                default: None,
            },
            SchemaChange::DropColumn { name: name("n") },
            SchemaChange::DropNotNull {
                name: name("remark"),
            },
            SchemaChange::AlterType {
                name: name("remark"),
                type_name: name("varchar"),
            },
        ],
    });
    batch
}

/// A payload in one piece.
fn written(batch: &Batch, position_kind: &str) -> Vec<u8> {
    let payload = encode(batch, position_kind);
    let bytes = payload.pieces().concat();
    assert_eq!(bytes.len(), payload.len());
    bytes
}

fn read(bytes: Vec<u8>, now: &TableMapping) -> Result<(String, Batch)> {
    decode(&bytes.into(), now, Arc::new)
}

/// All of a batch that matters, as text.
fn show(batch: &Batch) -> Vec<String> {
    let row = |row: Row| {
        let cells = batch.row(row).iter();
        let shown = cells.map(|cell| format!("{:?} {:?}", cell.kind, batch.value(*cell)));
        shown.collect::<Vec<_>>()
    };
    let show = |item: &Item| match item {
        Item::Change(change) => {
            let is_full = matches!(change.old, Some(OldRow::Full(_)));
            let old = change.old.map(|old| row(old.row()));
            let new = change.new.map(row);
            format!("{} {:?} {is_full} {old:?} {new:?}", change.table, change.op)
        }
        other => format!("{other:?}"),
    };
    batch.items().iter().map(show).collect()
}

#[test]
fn what_is_parked_is_read_back() {
    let batch = sample();
    let bytes = written(&batch, "pg_lsn");
    // The table has other columns by now.
    let now = mapping(&[("id", "bigint", 20), ("new", "text", 25)]);
    let (kind, read) = read(bytes, &now).unwrap();
    assert_eq!(kind, "pg_lsn");
    assert_eq!(show(&read), show(&batch));
    for (read, written) in read.tables().iter().zip(batch.tables()) {
        assert_eq!(read.target, written.target);
        assert_eq!(read.key, written.key);
        assert_eq!(read.schema.columns, written.schema.columns);
    }
}

#[test]
fn large_values_are_neither_copied_in_nor_out() {
    let large = Bytes::from(vec![b'l'; LARGE_BYTES]);
    let mut batch = Batch::default();
    let columns = [("id", "integer", 23), ("note", "text", 25)];
    let table = batch.table(&Arc::new(mapping(&columns)));
    let begin = batch.begin_row();
    batch.push_cell(CellKind::Text, b"1");
    batch.push_large(large.clone());
    let new = Some(batch.end_row(begin));
    let (op, old) = (Op::Insert, None);
    batch.push(Item::Change(Change {
        table,
        op,
        old,
        new,
    }));
    let payload = encode(&batch, "pg_lsn");
    let is_it = |piece: &Bytes| piece.as_ptr() == large.as_ptr();
    assert!(payload.pieces().iter().any(is_it));
    let whole = Bytes::from(payload.pieces().concat());
    let (_, read) = decode(&whole, &mapping(&columns), Arc::new).unwrap();
    assert_eq!(show(&read), show(&batch));
    let Item::Change(change) = &read.items()[0] else {
        panic!("a change was written");
    };
    let value = read.value(read.row(change.new.unwrap())[1]);
    assert!(whole.as_ptr_range().contains(&value.as_ptr()));
}

/// Version 1 as it was first written. Rows in this form may be in somebody's target: a change of
/// the form needs a new version, and this one must stay readable.
#[test]
fn version_one_stays_what_it_was() {
    let hex: Vec<String> = written(&sample(), "pg_lsn")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex.concat(), include_str!("version1.hex").trim());
}

#[test]
fn another_version_is_refused() {
    let mut bytes = written(&sample(), "pg_lsn");
    bytes[0] = 2;
    let error = read(bytes, &mapping(&[])).unwrap_err();
    assert_eq!(error.code(), codes::PARKED_UNREADABLE);
    assert_eq!(error.table_name(), Some("shop.orders"));
}

proptest! {
    #[test]
    fn damaged_payloads_are_survived(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = written(&sample(), "pg_lsn");
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
            prop_assert!(read(bytes, &mapping(&[])).is_err());
        } else {
            bytes[at] = byte;
            drop(read(bytes, &mapping(&[])));
        }
    }
}
