//! Rows that are not as the log implies, order that matters, and errors that stay.

use std::sync::Arc;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::filter::Filter;
use tidemark_core::schema::TableName;
use tidemark_core::target::Applier;
use tidemark_postgres::target::PgTarget;

use super::rig::{Log, NULL, Old, Rig, UNCHANGED, table};
use crate::target::{Database, owner, start};

const ROWS: &str = "SELECT id || '=' || coalesce(note, 'NULL') FROM t ORDER BY id";

/// A batch of one change in a flight of its own, and one that is large enough for sets.
const FEW_AND_MANY: [u32; 2] = [1, 40];

#[tokio::test]
async fn f47_inserts_overwrite_rows_that_are_there() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id int PRIMARY KEY, note text);
             INSERT INTO t VALUES (1, 'stranger'), (900, 'left alone')",
        )
        .await;
        let t = Arc::new(table("t", &["id*", "note"]));
        let mut log = Log::new();
        for id in 1..=count {
            log.insert(&t, &[&id.to_string(), "ours"]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, [(TableName::new("public", "t"), 1)]);
        assert_eq!(applied.inserts, u64::from(count));
        let rows = rig.rows(ROWS).await;
        assert_eq!(rows.len(), count as usize + 1);
        assert_eq!(rows[0], "1=ours");
        assert_eq!(rows[count as usize], "900=left alone");
    }
}

#[tokio::test]
async fn f48_updates_insert_rows_that_are_missing_if_they_know_all_of_them() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id int PRIMARY KEY, note text, large text);
             INSERT INTO t SELECT i, 'old', 'large' FROM generate_series(2, 40) i",
        )
        .await;
        let t = Arc::new(table("t", &["id*", "note", "large"]));
        let mut log = Log::new();
        for id in 1..=count {
            log.update(&t, &[&id.to_string(), "new", NULL]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, [(TableName::new("public", "t"), 1)]);
        assert_eq!(rig.rows(ROWS).await[0], "1=new");

        let mut log = Log::new();
        for id in 100..100 + count {
            log.update(&t, &[&id.to_string(), "partial", UNCHANGED]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(
            applied.conflicts,
            [(TableName::new("public", "t"), u64::from(count))]
        );
        assert_eq!(rig.rows(ROWS).await.len(), 40);
    }
}

#[tokio::test]
async fn f48_deletes_of_missing_rows_are_counted() {
    for count in FEW_AND_MANY {
        for columns in [["id*", "note"], ["id", "note"]] {
            let mut rig = Rig::new(
                "CREATE TABLE t (id int, note text);
                 INSERT INTO t SELECT i, 'n' FROM generate_series(2, 50) i",
            )
            .await;
            let t = Arc::new(table("t", &columns));
            let mut log = Log::new();
            for id in 1..=count {
                log.delete(&t, (Old::Full, &[&id.to_string(), "n"]));
            }
            let applied = rig.apply(&log.batch).await.unwrap();
            assert_eq!(applied.conflicts, [(TableName::new("public", "t"), 1)]);
            assert_eq!(rig.rows(ROWS).await.len(), 50 - count as usize);
        }
    }
}

/// Behind a filter an insert may mean a row that is there, and a delete one that is not.
#[tokio::test]
async fn rows_that_move_through_a_filter_are_no_conflicts() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id int PRIMARY KEY, note text);
             INSERT INTO t SELECT i, 'was here' FROM generate_series(1, 200) i WHERE i % 2 = 0",
        )
        .await;
        let mut t = table("t", &["id*", "note"]);
        t.filter = Some(Filter::bind("note is not null", &t.schema).unwrap());
        let t = Arc::new(t);
        let mut log = Log::new();
        for id in 1..=count {
            log.insert(&t, &[&id.to_string(), "came"]);
            let gone = 100 + id;
            log.delete(&t, (Old::Key, &[&gone.to_string(), NULL]));
            // Came and went: the row that was there must go.
            let both = 150 + id;
            log.insert(&t, &[&both.to_string(), "for a moment"]);
            log.delete(&t, (Old::Key, &[&both.to_string(), NULL]));
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let rows = rig.rows(ROWS).await;
        for id in 1..=200 {
            let is_in = |note: &str| rows.contains(&format!("{id}={note}"));
            let was_here = id % 2 == 0;
            match id {
                _ if id <= count => assert!(is_in("came"), "{id}"),
                _ if (101..=100 + count).contains(&id) => assert!(!is_in("was here"), "{id}"),
                _ if (151..=150 + count).contains(&id) => assert!(!is_in("was here"), "{id}"),
                _ => assert_eq!(is_in("was here"), was_here, "{id}"),
            }
        }
    }
}

/// A row that comes in cannot be made up from the values that changed.
#[tokio::test]
async fn a_row_that_comes_through_a_filter_without_its_large_value_is_refused() {
    let made = "CREATE TABLE t (id int PRIMARY KEY, note text, large text);
        INSERT INTO t SELECT i, 'was here', 'large' FROM generate_series(1, 100) i";
    for count in FEW_AND_MANY {
        for missing in 0..5 {
            let mut rig = Rig::new(made).await;
            let mut t = table("t", &["id*", "note", "large"]);
            t.filter = Some(Filter::bind("note is not null", &t.schema).unwrap());
            let t = Arc::new(t);
            let mut log = Log::new();
            for id in 1..=count {
                log.update(&t, &[&id.to_string(), "again", UNCHANGED]);
            }
            let (gone, new) = ("500", "501");
            let old: &[&str] = &[gone, NULL, NULL];
            match missing {
                0 => {}
                1 => log.update(&t, &[gone, "came", UNCHANGED]),
                2 => log.update(&t, &[gone, UNCHANGED, UNCHANGED]),
                3 => log.replace(&t, (Old::Key, old), &[new, "came", UNCHANGED]),
                // It was here, went, and comes again: the large value went with it.
                _ => {
                    log.delete(&t, (Old::Key, &["99", NULL, NULL]));
                    log.update(&t, &["99", "came", UNCHANGED]);
                }
            }
            let applied = rig.apply(&log.batch).await;
            let again = "SELECT count(*) FROM t WHERE note = 'again'";
            if missing == 0 {
                assert_eq!(applied.unwrap().conflicts, []);
                assert_eq!(rig.rows(again).await, [count.to_string()]);
                continue;
            }
            let error = applied.unwrap_err();
            assert_eq!(
                (error.code(), error.kind(), error.table_name()),
                (codes::FILTER_UNDECIDABLE, ErrorKind::Data, Some("public.t")),
                "{missing}: {error}"
            );
            assert_eq!(rig.rows(again).await, ["0"], "nothing of it is in");
        }
    }
}

/// Row order is legal on the source, set order is not: values of a unique column change hands.
#[tokio::test]
async fn unique_values_may_change_hands() {
    let mut rig = Rig::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text UNIQUE);
         INSERT INTO t SELECT i, 'n' || i FROM generate_series(1, 30) i",
    )
    .await;
    let t = Arc::new(table("t", &["id*", "note"]));
    for round in 0..6 {
        let mut log = Log::new();
        log.update(&t, &["1", "parked"]);
        for id in 2..=30 {
            let note = format!("n{}", (id + round - 2) % 29 + 2);
            log.update(&t, &[&id.to_string(), &format!("via{id}")]);
            log.insert(&t, &[&(id + 100).to_string(), &format!("x{note}")]);
            log.delete(&t, (Old::Key, &[&(id + 100).to_string(), NULL]));
        }
        for id in 2..=30 {
            let note = format!("n{}", (id + round - 2) % 29 + 2);
            log.update(&t, &[&id.to_string(), &note]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let rows = rig.rows(ROWS).await;
        assert_eq!(rows[1], format!("2=n{}", round % 29 + 2));
        assert_eq!(rows.len(), 30);
    }
}

#[tokio::test]
async fn a_key_moves_with_a_large_value_that_nobody_names() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id int PRIMARY KEY, note text, large text);
             INSERT INTO t SELECT i, 'old', 'large' || i FROM generate_series(1, 40) i",
        )
        .await;
        let t = Arc::new(table("t", &["id*", "note", "large"]));
        let mut log = Log::new();
        for id in 1..=count {
            let new_id = (id + 1000).to_string();
            let old: &[&str] = &[&id.to_string(), NULL, NULL];
            log.replace(&t, (Old::Key, old), &[&new_id, "moved", UNCHANGED]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let moved = "SELECT count(*), min(large) FROM t WHERE note = 'moved' \
                     AND large = 'large' || (id - 1000)";
        assert_eq!(rig.rows(moved).await, [format!("{count}|large1")]);
    }
}

/// `GENERATED ALWAYS AS IDENTITY` takes no value by UPDATE, and the source may have given it a new
/// one all the same (`SET n = DEFAULT`).
#[tokio::test]
async fn f50_identity_columns_that_refuse_values_get_them() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new(
            "CREATE TABLE t (id int PRIMARY KEY, note text, large text,
                             n int GENERATED ALWAYS AS IDENTITY);
             CREATE TABLE k (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)",
        )
        .await;
        let t = Arc::new(table("t", &["id*", "note", "large", "n"]));
        let k = Arc::new(table("k", &["n*", "note"]));
        let mut log = Log::new();
        for id in 1..=count {
            let id = id.to_string();
            log.insert(&t, &[&id, "a", "large", "7"]);
            log.insert(&k, &[&id, "a"]);
        }
        for id in 1..=count {
            log.update(&t, &[&id.to_string(), "b", UNCHANGED, "8"]);
            let moved = (id + 500).to_string();
            log.replace(&k, (Old::Key, &[&id.to_string(), NULL]), &[&moved, "b"]);
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, []);
        let t = rig
            .rows("SELECT count(*), min(note), min(large), min(n) FROM t")
            .await;
        assert_eq!(t, [format!("{count}|b|large|8")]);
        let k = rig.rows("SELECT count(*), min(n), min(note) FROM k").await;
        assert_eq!(k, [format!("{count}|501|b")]);
    }
}

/// Without the right to keep foreign keys still, parents must come before their children.
#[tokio::test]
async fn f49_tables_whose_foreign_keys_fire_are_applied_in_source_order() {
    let database = Database::new().await;
    let role = format!("plain_{}", database.name);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN;
             GRANT CREATE ON DATABASE {} TO {role};
             CREATE TABLE parent (id int PRIMARY KEY);
             CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent);
             ALTER TABLE parent OWNER TO {role};
             ALTER TABLE child OWNER TO {role}",
            database.name
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let target: PgTarget = crate::target::target_at(&url, "apply");
    target.acquire(&owner(1)).await.unwrap();
    target.start_load(&start(&[])).await.unwrap();
    let mut rig = Rig::of(database, target).await;
    let child = Arc::new(table("child", &["id*", "parent"]));
    let parent = Arc::new(table("parent", &["id*"]));
    let mut log = Log::new();
    for id in 1..=100 {
        let id = id.to_string();
        log.insert(&parent, &[&id]);
        log.insert(&child, &[&id, &id]);
    }
    for id in 1..=50 {
        let id = id.to_string();
        log.delete(&child, (Old::Key, &[&id, NULL]));
        log.delete(&parent, (Old::Key, &[&id]));
    }
    rig.apply(&log.batch).await.unwrap();
    let left = rig
        .rows("SELECT (SELECT count(*) FROM parent), count(*) FROM child")
        .await;
    assert_eq!(left, ["50|50"]);
}

#[tokio::test]
async fn f47_what_the_target_refuses_is_a_data_error_that_names_the_change() {
    for count in FEW_AND_MANY {
        let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY, note varchar(5))").await;
        let t = Arc::new(table("t", &["id*", "note"]));
        let mut log = Log::new();
        for id in 1..=count {
            log.insert(&t, &[&id.to_string(), "short"]);
        }
        log.insert(&t, &["777", "secretly too long"]);
        let before = rig.checkpoint().await;
        let error = rig.apply(&log.batch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.code(), codes::TARGET_VALUE);
        assert_eq!(error.table_name(), Some("public.t"));
        assert_eq!(error.sqlstate_code(), Some("22001"));
        let text = error.to_string();
        let change = format!("insert (change {0} of {0} in the batch)", count + 1);
        assert!(text.contains(&change), "{text}");
        assert!(text.contains("(key \"id\")"), "{text}");
        assert!(
            !text.contains("secretly") && !text.contains("777"),
            "{text}"
        );
        // Nothing of it is in, and the applier goes on.
        assert_eq!(rig.checkpoint().await, before);
        let mut log = Log::new();
        log.insert(&t, &["1", "fits"]);
        rig.apply(&log.batch).await.unwrap();
        assert_eq!(rig.rows(ROWS).await, ["1=fits"]);
    }
}

#[tokio::test]
async fn f54_a_missing_table_or_column_is_about_that_table() {
    let mut rig = Rig::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    for (name, columns) in [("gone", ["id*", "note"]), ("t", ["id*", "note"])] {
        let mut log = Log::new();
        log.insert(&Arc::new(table(name, &columns)), &["1", "x"]);
        let error = rig.apply(&log.batch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.code(), codes::TARGET_NO_OBJECT);
        assert_eq!(error.table_name(), Some(format!("public.{name}").as_str()));
    }
}

#[tokio::test]
async fn a_change_without_an_old_row_is_refused() {
    let mut rig = Rig::new("CREATE TABLE t (id int, note text)").await;
    let t = Arc::new(table("t", &["id", "note"]));
    let mut log = Log::new();
    log.insert(&t, &["1", "x"]);
    log.update(&t, &["1", "y"]);
    let error = rig.apply(&log.batch).await.unwrap_err();
    assert_eq!(error.code(), codes::CHANGE_INCOMPLETE);
    assert_eq!(error.table_name(), Some("public.t"));
    assert_eq!(
        rig.rows(ROWS).await,
        [""; 0],
        "the insert before it is undone"
    );
    rig.applier.begin().await.unwrap();
    rig.applier.rollback().await.unwrap();
}

/// Somebody alters the target while statements are prepared and tables described.
#[tokio::test]
async fn a_table_that_changes_under_us_is_met_anew() {
    let mut rig = Rig::new("CREATE TABLE t (id smallint PRIMARY KEY, note text)").await;
    let t = Arc::new(table("t", &["id*", "note"]));
    let mut log = Log::new();
    log.insert(&t, &["1", "a"]);
    rig.apply(&log.batch).await.unwrap();
    rig.database.run("ALTER TABLE t ALTER id TYPE bigint").await;
    let mut log = Log::new();
    log.insert(&t, &["70000", "b"]);
    log.update(&t, &["1", "c"]);
    let applied = rig.apply(&log.batch).await.unwrap();
    assert_eq!(applied.conflicts, []);
    assert_eq!(rig.rows(ROWS).await, ["1=c", "70000=b"]);
    rig.database
        .run("DROP TABLE t; CREATE TABLE t (note text, id bigint PRIMARY KEY)")
        .await;
    let mut log = Log::new();
    log.insert(&t, &["5", "d"]);
    rig.apply(&log.batch).await.unwrap();
    assert_eq!(rig.rows(ROWS).await, ["5=d"]);
}
