//! What a table's new shape is taken for.

use super::*;
use crate::event::StreamColumn;
use crate::schema::{Column, ReplicaIdentity, TableName, ValueClass};

fn column(name: &str, number: i16, type_id: u32) -> Column {
    Column {
        name: name.into(),
        number,
        type_name: format!("type {type_id}"),
        type_id,
        type_modifier: -1,
        class: ValueClass::Other,
        is_not_null: false,
        default: ColumnDefault::None,
        collation: None,
        comment: None,
        is_binary_portable: true,
        is_toastable: false,
    }
}

fn schema(columns: Vec<Column>) -> TableSchema {
    TableSchema {
        name: TableName::new("public", "t"),
        id: 1,
        primary_key: vec![0],
        identity: ReplicaIdentity::Key(vec![0]),
        columns,
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        rows: None,
        bytes: 0,
        is_partitioned: false,
        notes: Vec::new(),
    }
}

fn known(columns: &[Column]) -> Vec<KnownColumn> {
    columns
        .iter()
        .map(|c| KnownColumn {
            name: c.name.clone(),
            number: c.number,
            type_id: c.type_id,
            type_modifier: c.type_modifier,
        })
        .collect()
}

fn announced(columns: &[Column]) -> (Vec<StreamedColumn>, StreamTable) {
    let streamed = columns
        .iter()
        .map(|c| StreamedColumn {
            column: c.clone(),
            fill: None,
        })
        .collect();
    let table = StreamTable {
        id: 1,
        name: TableName::new("public", "t"),
        columns: columns
            .iter()
            .map(|c| StreamColumn {
                name: c.name.clone(),
                type_id: c.type_id,
                type_modifier: c.type_modifier,
            })
            .collect(),
        identity: ReplicaIdentity::Key(vec![0]),
    };
    (streamed, table)
}

fn compared(before: &[Column], after: &[Column]) -> Vec<ColumnChange> {
    let (columns, table) = announced(after);
    compare(&known(before), &columns, &table)
}

#[test]
fn added_dropped_and_retyped_columns_are_told() {
    let before = vec![column("id", 1, 20), column("a", 2, 25), column("b", 3, 23)];
    let after = [column("id", 1, 20), column("b", 3, 20), column("c", 4, 25)];
    assert_eq!(
        compared(&before, &after),
        [
            ColumnChange::Retyped { column: 1 },
            ColumnChange::Added { column: 2 },
            ColumnChange::Dropped { name: "a".into() },
        ]
    );
}

#[test]
fn a_rename_is_told_by_the_columns_number() {
    let before = vec![column("id", 1, 20), column("a", 2, 25)];
    let after = [column("id", 1, 20), column("z", 2, 25)];
    let changes = compared(&before, &after);
    assert_eq!(
        changes,
        [ColumnChange::Renamed {
            from: "a".into(),
            column: 1
        }]
    );
}

#[test]
fn a_column_gone_from_the_catalog_by_now_is_not_taken_for_a_rename() {
    let before = vec![column("id", 1, 20), column("a", 2, 25)];
    let after = [column("id", 1, 20), column("z", 0, 25)];
    let changes = compared(&before, &after);
    assert_eq!(
        changes,
        [
            ColumnChange::Added { column: 1 },
            ColumnChange::Dropped { name: "a".into() }
        ]
    );
}

#[test]
fn swapped_names_are_two_renames_nobody_can_see() {
    // Both names exist before and after: by name nothing changed. PostgreSQL announces the types,
    // so a swap of columns of different types shows as two changed types.
    let before = vec![column("id", 1, 20), column("a", 2, 25), column("b", 3, 23)];
    let after = [column("id", 1, 20), column("b", 2, 25), column("a", 3, 23)];
    assert_eq!(compared(&before, &after).len(), 2);
}

#[test]
fn a_schema_as_known_has_the_known_columns_only() {
    let current = schema(vec![
        column("id", 1, 20),
        column("new", 4, 25),
        column("z", 2, 25),
    ]);
    let known = known(&[
        column("id", 1, 20),
        column("a", 2, 25),
        column("gone", 3, 25),
    ]);
    let schema = as_known(&current, &known);
    let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        ["id", "a", "gone"],
        "z is a renamed: the log has not said so yet"
    );
    assert_eq!(schema.primary_key, [0]);
}

#[test]
fn dropping_a_column_moves_the_key_along() {
    let mut before = schema(vec![column("a", 1, 25), column("id", 2, 20)]);
    before.primary_key = vec![1];
    before.identity = ReplicaIdentity::Key(vec![1]);
    remove_column(&mut before, "a");
    assert_eq!(before.primary_key, [0]);
    assert_eq!(before.identity, ReplicaIdentity::Key(vec![0]));
}
