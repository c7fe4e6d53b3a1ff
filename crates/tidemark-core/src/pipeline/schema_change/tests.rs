//! What a table's new shape is taken for, and what comes of it.

use super::Decision::{Follow, Leave, LoadAnew};
use super::*;
use crate::checkpoint::KnownShape;
use crate::event::StreamColumn;
use crate::mapping::Rules;
use crate::schema::{
    Attribute, Column, Member, MemberKind, ReplicaIdentity, TableSchema, TypeMembers,
};
use crate::source::{ColumnType, StreamedColumn, StreamedShape};

const INT4: u32 = 23;
const INT8: u32 = 20;
const TEXT: u32 = 25;

fn column(name: &str, number: i16, type_id: u32) -> Column {
    Column {
        number,
        is_binary_portable: true,
        is_toastable: false,
        ..Column::bare(name, format!("type {type_id}"), type_id)
    }
}

fn schema(columns: Vec<Column>) -> TableSchema {
    TableSchema {
        primary_key: vec![0],
        identity: ReplicaIdentity::Key(vec![0]),
        columns,
        storage: Some(7),
        ..TableSchema::bare(TableName::new("public", "t"), 1)
    }
}

fn mapping(columns: &[Column]) -> TableMapping {
    Rules::default()
        .map_table(&schema(columns.to_vec()))
        .unwrap()
}

/// What the log announces, and the catalog of the same moment.
fn announced(columns: &[Column]) -> (StreamTable, StreamedShape) {
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
    let now = StreamedShape {
        present: present(columns),
        columns: columns
            .iter()
            .map(|column| StreamedColumn {
                column: column.clone(),
                fill: Fill::Null,
            })
            .collect(),
        primary_key: vec!["id".to_owned()],
        storage: Some(7),
        attributes: Vec::new(),
        types: Vec::new(),
        is_ahead: false,
    };
    (table, now)
}

fn present(columns: &[Column]) -> Vec<(String, i16)> {
    columns.iter().map(|c| (c.name.clone(), c.number)).collect()
}

fn retyped(from: ColumnType, to: ColumnType) -> Retyped {
    match (from.id, to.id) {
        (INT4, INT8) => Retyped::Widened,
        (TEXT, TEXT) => Retyped::Kept,
        _ => Retyped::Changed,
    }
}

fn compared(before: &[Column], after: &[Column]) -> Compared {
    let (table, now) = announced(after);
    compare(&retyped, &KnownShape::of(&mapping(before)), &table, &now)
}

fn before() -> Vec<Column> {
    vec![
        column("id", 1, INT4),
        column("a", 2, TEXT),
        column("b", 3, INT4),
    ]
}

/// `id`, `a`, `b` and what is done to them.
fn after(change: impl FnOnce(&mut Vec<Column>)) -> Vec<Column> {
    let mut columns = before();
    change(&mut columns);
    columns
}

/// Changes, by apply, by apply what only adds, by ignore.
type Expected = (&'static str, Decision, Decision, Decision);

#[test]
fn changes_are_told_and_decided_by_policy() {
    let only_adds = || Decision::Aside("target.on_schema_change allows only what adds");
    let written = || {
        Decision::Aside("values that both sides have were written anew, which is not in the log")
    };
    let would_lose = || {
        Decision::Aside(
            "the table would have to be loaded anew, without columns that the target keeps",
        )
    };
    let cases: Vec<(Vec<Column>, Expected)> = vec![
        (after(|_| {}), ("", Follow, Follow, Follow)),
        (
            after(|it| it.push(column("c", 4, TEXT))),
            ("column c added", Follow, Follow, Leave),
        ),
        (
            after(|it| drop(it.remove(1))),
            ("column a dropped", Follow, Follow, Leave),
        ),
        (
            after(|it| it[1].name = "z".into()),
            ("column a renamed to z", Follow, only_adds(), Leave),
        ),
        (
            after(|it| it[2].type_id = INT8),
            ("column b has another type", LoadAnew, LoadAnew, written()),
        ),
        (
            after(|it| it[2].type_id = TEXT),
            (
                "column b has another type",
                LoadAnew,
                only_adds(),
                written(),
            ),
        ),
        (
            after(|it| it[1].type_modifier = 24),
            ("column a has another type", Follow, Follow, Leave),
        ),
        // Dropped, and made again under its name.
        (
            after(|it| {
                let made = it.remove(1);
                it.push(Column { number: 4, ..made });
            }),
            ("column a made anew", LoadAnew, only_adds(), written()),
        ),
        // The catalog does not have it any more under this name.
        (
            after(|it| it.push(column("c", 0, TEXT))),
            ("column c added", LoadAnew, LoadAnew, Leave),
        ),
        // It may be `a` under another name.
        (
            after(|it| it[1] = column("z", 0, TEXT)),
            (
                "column z added, column a dropped",
                LoadAnew,
                would_lose(),
                Leave,
            ),
        ),
        // Older than `b`: it was there under another name.
        (
            after(|it| {
                it.remove(1);
                it.insert(1, column("z", 2, INT4));
            }),
            (
                "column a renamed to z, column z has another type",
                LoadAnew,
                only_adds(),
                written(),
            ),
        ),
        // Gone by now, in the log it is still there.
        (after(|it| it[1].number = 0), ("", Follow, Follow, Follow)),
        (
            after(|it| {
                it[1].number = 0;
                it.push(column("c", 4, TEXT));
            }),
            ("column c added", Follow, Follow, Leave),
        ),
    ];
    let old = mapping(&before());
    for (after, (text, apply, additive, ignore)) in cases {
        let found = compared(&before(), &after);
        let (table, _) = announced(&after);
        assert_eq!(describe(&found.changes, &table), text);
        for (policy, expected) in [
            (OnSchemaChange::Apply, apply),
            (OnSchemaChange::ApplyAdditive, additive),
            (OnSchemaChange::Ignore, ignore),
        ] {
            let decided = decide(policy, &found, &old);
            assert_eq!(decided, expected, "{policy:?}: {text}: {found:?}");
        }
        let stopped = decide(OnSchemaChange::StopTable, &found, &old);
        assert_eq!(matches!(stopped, Decision::Aside(_)), !text.is_empty());
    }
}

#[test]
fn a_column_whose_number_was_lost_is_never_taken_for_dropped_and_added() {
    let known = after(|it| it[1].number = 0);
    let renamed = after(|it| it[1] = column("z", 4, TEXT));
    let found = compared(&known, &renamed);
    assert!(!found.is_certain, "{found:?}");
    let dropped = compared(&known, &after(|it| drop(it.remove(1))));
    assert!(dropped.is_certain, "{dropped:?}");
}

#[test]
fn null_is_sure_only_where_the_rows_were_not_written_anew() {
    let after = after(|it| it.push(column("c", 4, TEXT)));
    let (table, mut now) = announced(&after);
    let known = KnownShape::of(&mapping(&before()));
    let fill = |now: &StreamedShape, known: &KnownShape| {
        let found = compare(&retyped, known, &table, now);
        match &found.changes[..] {
            [ColumnChange::Added { fill, .. }] => fill.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fill(&now, &known), Fill::Null);
    now.storage = Some(8);
    assert_eq!(fill(&now, &known), Fill::InRows);
    now.columns[3].fill = Fill::Constant(Some("x".into()));
    assert_eq!(
        fill(&now, &known),
        now.columns[3].fill,
        "the catalog says so"
    );
    now.storage = None;
    now.columns[3].fill = Fill::Null;
    let unknown = KnownShape {
        storage: None,
        ..known
    };
    assert_eq!(fill(&now, &unknown), Fill::InRows);
}

/// Numbers from 1 on with these versions.
fn attributes(versions: &[u32]) -> Vec<Attribute> {
    let numbered = (1..).zip(versions);
    let attribute = |(number, version): (i16, &u32)| Attribute {
        number,
        version: *version,
    };
    numbered.map(attribute).collect()
}

#[test]
fn values_that_were_written_anew_are_told_from_rows_that_moved() {
    let (table, mut now) = announced(&before());
    let mut known = KnownShape::of(&mapping(&before()));
    known.attributes = attributes(&[10, 10, 10]);
    let found = |now: &StreamedShape| compare(&retyped, &known, &table, now).changes;
    now.attributes = attributes(&[10, 11, 10]);
    assert_eq!(found(&now), [], "a default, say: no row was written");
    now.storage = Some(8);
    assert_eq!(found(&now), [ColumnChange::Rewritten { column: 1 }]);
    now.attributes = attributes(&[10, 10, 10]);
    assert_eq!(found(&now), [], "VACUUM FULL");
    now.attributes = attributes(&[]);
    assert_eq!(found(&now), [], "nobody knows");
    // It may have come with a change that the log has not come to: then it is looked at.
    now.attributes = attributes(&[10, 11, 10]);
    now.is_ahead = true;
    assert_eq!(found(&now), []);
    let recorded = reshaped(&schema(before()), &table, &now, &[]).unwrap();
    assert_eq!(recorded.storage, Some(7));
    assert_eq!(recorded.attributes, []);
}

#[test]
fn a_column_is_not_sure_to_be_the_one_that_came_if_another_came_and_went() {
    let (table, mut now) = announced(&after(|it| it.push(column("c", 5, TEXT))));
    let mut known = KnownShape::of(&mapping(&before()));
    known.attributes = attributes(&[10, 10, 10]);
    now.attributes = attributes(&[10, 10, 10, 12, 13]);
    assert!(!compare(&retyped, &known, &table, &now).is_certain);
    // It went before.
    known.attributes = attributes(&[10, 10, 10, 11]);
    assert!(compare(&retyped, &known, &table, &now).is_certain);
}

/// The log tells columns in the order of their numbers, so these had each other's names then.
#[test]
fn columns_that_have_exchanged_their_names_since_are_not_taken_for_each_other() {
    let announced_so = vec![
        column("id", 1, INT4),
        column("b", 3, INT4),
        column("a", 2, TEXT),
    ];
    let found = compared(&before(), &announced_so);
    let replaced = |column| ColumnChange::Replaced { column };
    assert_eq!(found.changes, [replaced(1), replaced(2)]);
    assert!(!found.is_certain);
}

#[test]
fn what_is_left_as_it_is_keeps_its_columns_and_takes_no_new_ones() {
    let after = after(|it| {
        it[1].name = "z".into();
        it.push(column("c", 4, TEXT));
    });
    let found = compared(&before(), &after);
    let (table, now) = announced(&after);
    let carried = carried(&Decision::Leave, &found.changes);
    let schema = reshaped(&schema(before()), &table, &now, &carried).unwrap();
    let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["id", "b"]);
    assert_eq!(schema.identity, ReplicaIdentity::Key(vec![0]));
}

#[test]
fn how_old_rows_are_told_is_what_the_log_says() {
    let after = before();
    let (mut table, now) = announced(&after);
    table.identity = ReplicaIdentity::Key(vec![2]);
    let schema = reshaped(&schema(before()), &table, &now, &[]).unwrap();
    assert_eq!(schema.identity, ReplicaIdentity::Key(vec![2]));
    // By a column that is not carried they cannot be found.
    let gone = ColumnChange::Dropped { name: "b".into() };
    assert_eq!(reshaped(&schema, &table, &now, &[gone]), None);
}

#[test]
fn a_schema_as_known_has_the_known_columns_under_their_names() {
    let mut current = schema(vec![
        column("new", 4, TEXT),
        column("key", 1, INT8),
        column("z", 2, TEXT),
    ]);
    current.primary_key = vec![1];
    current.identity = ReplicaIdentity::Key(vec![1]);
    let known = [
        column("id", 1, INT8),
        column("a", 2, TEXT),
        column("gone", 3, TEXT),
    ];
    let schema = as_known(&current, &KnownShape::of(&mapping(&known)));
    let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        ["id", "a", "gone"],
        "new has not come with the log yet"
    );
    assert_eq!(schema.primary_key, [0], "whatever the key is called by now");
    assert_eq!(schema.identity, ReplicaIdentity::Key(vec![0]));
}

#[test]
fn a_key_that_has_lost_a_column_is_none() {
    let mut schema = schema(vec![column("a", 1, TEXT), column("id", 2, INT8)]);
    schema.primary_key = vec![1];
    schema.identity = ReplicaIdentity::Key(vec![1]);
    known::remove_column(&mut schema, "a");
    assert_eq!(schema.primary_key, [0]);
    assert_eq!(schema.identity, ReplicaIdentity::Key(vec![0]));
    known::remove_column(&mut schema, "id");
    assert!(schema.primary_key.is_empty());
}

#[test]
fn what_stayed_is_as_the_log_says_and_not_as_the_catalog_has_it_by_now() {
    // Renamed and retyped since: the log is not there yet.
    let catalog = schema(vec![column("id", 1, INT4), column("z", 2, INT8)]);
    let known = KnownShape::of(&mapping(&[column("id", 1, INT4), column("a", 2, INT4)]));
    let schema = as_known(&catalog, &known);
    let (table, mut now) = announced(&[column("id", 1, INT4), column("a", 0, INT4)]);
    now.present = present(&catalog.columns);
    let found = compare(&retyped, &known, &table, &now);
    assert!(found.changes.is_empty(), "{found:?}");
    let schema = reshaped(&schema, &table, &now, &[]).unwrap();
    let kept = Rules::default().map_table(&schema).unwrap();
    assert_eq!(KnownShape::of(&kept).columns, known.columns);
    // Dropped since: whether it is the one that was known cannot be told any more.
    now.present = present(&[column("id", 1, INT4)]);
    let schema = reshaped(&schema, &table, &now, &[]).unwrap();
    assert_eq!(schema.columns[1].number, 0);
}

/// By its number a column is known under another name: one that another column had tells the wrong one.
#[test]
fn a_column_that_was_made_anew_is_not_taken_for_the_one_before() {
    let old = [column("id", 1, INT4), column("a", 2, TEXT)];
    let (mut table, mut now) = announced(&[column("id", 0, INT4), column("a", 0, TEXT)]);
    now.present = vec![("id".to_owned(), 1), ("b".to_owned(), 2)];
    table.id = 2;
    let anew = reshaped(&schema(old.to_vec()), &table, &now, &[]).unwrap();
    let numbers: Vec<i16> = anew.columns.iter().map(|column| column.number).collect();
    assert_eq!(numbers, [0, 0]);

    let again = [column("id", 1, INT4), column("a", 3, TEXT)];
    assert!(mapping(&old).carries_alike(&mapping(&old)));
    assert!(!mapping(&old).carries_alike(&mapping(&again)));
}

#[test]
fn columns_of_a_table_that_is_loaded_in_its_place_keep_their_names_or_get_others_or_go() {
    let old = [
        column("id", 1, INT4),
        column("a", 2, INT4),
        column("b", 3, TEXT),
        column("c", 4, TEXT),
        column("d", 5, TEXT),
    ];
    // `a` has another name, `b` is gone, `c` and `d` have exchanged theirs, `b2` is new.
    let new = [
        column("id", 1, INT4),
        column("renamed", 2, INT8),
        column("d", 4, TEXT),
        column("c", 5, TEXT),
        column("b2", 6, TEXT),
    ];
    let (old, new) = (mapping(&old), mapping(&new));
    let rename = SchemaChange::RenameColumn {
        from: "a".to_owned(),
        to: "renamed".to_owned(),
    };
    let drop = SchemaChange::DropColumn {
        name: "b".to_owned(),
    };
    let said = moves(&old, &new, OnSchemaChange::Apply);
    assert_eq!(said, [rename, drop]);
    for policy in [OnSchemaChange::ApplyAdditive, OnSchemaChange::Ignore] {
        assert_eq!(moves(&old, &new, policy), []);
    }
}

/// A type with these members; each number is given once.
fn members(kind: MemberKind, members: &[(u32, &str)]) -> TypeMembers {
    let member = |(number, name): &(u32, &str)| Member {
        number: *number,
        name: (*name).to_owned(),
    };
    TypeMembers {
        id: 90,
        name: TableName::new("public", "mood"),
        kind,
        members: members.iter().map(member).collect(),
    }
}

#[test]
fn members_of_types_are_told_by_their_numbers() {
    use MemberKind::{Attributes, Labels};
    use MembersNow::{
        AttributesGone, AttributesOther, AttributesRenamed, LabelsOther, LabelsRenamed,
    };
    let before: &[(u32, &str)] = &[(1, "a"), (2, "b"), (3, "c")];
    let (table, mut now) = announced(&self::before());
    let mut known = KnownShape::of(&mapping(&self::before()));
    for (kind, after, expected) in [
        (Labels, before, None),
        (Labels, &[(1, "a"), (9, "n"), (2, "b"), (3, "c")][..], None),
        (Labels, &[(1, "a"), (2, "x"), (3, "c")], Some(LabelsRenamed)),
        // Exchanged; passed on; taken by a new one; given up by one and taken by another.
        (Labels, &[(1, "b"), (2, "a"), (3, "c")], Some(LabelsOther)),
        (Labels, &[(1, "x"), (2, "a"), (3, "c")], Some(LabelsOther)),
        (
            Labels,
            &[(9, "a"), (1, "x"), (2, "b"), (3, "c")],
            Some(LabelsOther),
        ),
        (Labels, &[(1, "a"), (3, "c")], Some(LabelsOther)),
        (Attributes, &[(1, "a"), (2, "b"), (3, "c"), (4, "d")], None),
        (
            Attributes,
            &[(1, "b"), (2, "a"), (3, "c"), (4, "d")],
            Some(AttributesRenamed),
        ),
        (Attributes, &[(1, "a"), (3, "x")], Some(AttributesGone)),
        (
            Attributes,
            &[(1, "a"), (2, "b"), (4, "c")],
            Some(AttributesOther),
        ),
    ] {
        known.types = vec![members(kind, before)];
        now.types = vec![members(kind, after)];
        let found = compare(&retyped, &known, &table, &now).changes;
        let change = |members| ColumnChange::TypeChanged {
            name: "public.mood".to_owned(),
            members,
        };
        let expected: Vec<ColumnChange> = expected.map(change).into_iter().collect();
        assert_eq!(found, expected, "{kind:?} {after:?}");
        // It has another name, under which the target does not have it.
        now.types[0].name = TableName::new("public", "temper");
        let elsewhere = compare(&retyped, &known, &table, &now).changes;
        let is_followed = |change: &ColumnChange| match change {
            ColumnChange::TypeChanged { members, .. } => members.is_followed(),
            _ => false,
        };
        assert_eq!(elsewhere.len(), expected.len(), "{kind:?} {after:?}");
        assert!(!elsewhere.iter().any(is_followed), "{kind:?} {after:?}");
        // Of another place of the log, or another type.
        now.is_ahead = true;
        assert_eq!(compare(&retyped, &known, &table, &now).changes, []);
        now.is_ahead = false;
        known.types[0].id = 91;
        assert_eq!(compare(&retyped, &known, &table, &now).changes, []);
    }
}

#[test]
fn what_became_of_members_is_decided_by_policy() {
    use MembersNow::{
        AttributesGone, AttributesOther, AttributesRenamed, LabelsElsewhere, LabelsOther,
        LabelsRenamed,
    };
    let mapping = mapping(&before());
    let written =
        Decision::Aside("values that both sides have were written anew, which is not in the log");
    let only_adds = Decision::Aside("target.on_schema_change allows only what adds");
    for (members, apply, additive, ignore) in [
        (LabelsRenamed, Follow, Follow, &written),
        (LabelsElsewhere, LoadAnew, LoadAnew, &written),
        (LabelsOther, LoadAnew, LoadAnew, &written),
        (AttributesRenamed, Follow, Follow, &Leave),
        (AttributesGone, Follow, only_adds.clone(), &written),
        (AttributesOther, LoadAnew, only_adds.clone(), &written),
    ] {
        let compared = Compared {
            changes: vec![ColumnChange::TypeChanged {
                name: "public.mood".to_owned(),
                members,
            }],
            is_certain: true,
            gone: Vec::new(),
        };
        let decided = |policy| decide(policy, &compared, &mapping);
        assert_eq!(decided(OnSchemaChange::Apply), apply, "{members:?}");
        assert_eq!(
            decided(OnSchemaChange::ApplyAdditive),
            additive,
            "{members:?}"
        );
        assert_eq!(&decided(OnSchemaChange::Ignore), ignore, "{members:?}");
        assert_eq!(decided(OnSchemaChange::Fail), Decision::Fail);
        assert!(matches!(
            decided(OnSchemaChange::StopTable),
            Decision::Aside(_)
        ));
    }
}
