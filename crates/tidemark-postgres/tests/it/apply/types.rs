//! Every type keeps its text, whichever way a row comes, changes or goes.

use std::sync::Arc;
use std::time::Duration;

use tidemark_core::mapping::TableMapping;
use tidemark_lab::wait_for;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::wire::{Connection, Role};

use super::rig::{Log, NULL, Old, Rig, table};

/// Types and values as somebody might write them.
const TYPES: &[(&str, &[&str])] = &[
    (
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1.0",
            "1.00",
            "1e-30",
            "-12345678901234567890.5",
        ],
    ),
    ("numeric(8,2)", &["1.5", "NaN", "-0.01"]),
    ("float8", &["NaN", "-Infinity", "-0", "5e-324", "0.1"]),
    ("float4", &["1e-40", "0.3", "Infinity"]),
    ("smallint", &["-32768"]),
    ("bigint", &["9223372036854775807"]),
    ("boolean", &["t", "f"]),
    ("money", &["-92233720368547758.08", "12.34"]),
    (
        "text",
        &[
            "",
            "NULL",
            "\\N",
            "\\.",
            "a\tb\nc\rd\\e",
            "{\"a\",b}",
            "🌊",
            "  x  ",
            "'",
        ],
    ),
    ("varchar(5)", &["", "abcde", "a    "]),
    ("char(5)", &["", "ab", "a\\b"]),
    ("bpchar", &["ab  ", "x"]),
    ("\"char\"", &["a", ""]),
    ("name", &["Some \"name\""]),
    ("bytea", &["\\x", "\\x00ff5c", "\\x0a0d09"]),
    (
        "date",
        &["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"],
    ),
    ("time", &["24:00:00", "00:00:00.000001"]),
    ("timetz", &["12:00:00+15:59:59", "24:00:00-15:59:59"]),
    (
        "timestamp",
        &[
            "infinity",
            "0001-01-01 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
        ],
    ),
    (
        "timestamptz",
        &["-infinity", "2024-02-29 12:00:00.000001+05:45"],
    ),
    ("timestamptz(0)", &["2024-02-29 12:00:00+00"]),
    (
        "interval",
        &[
            "1 mon -1 day 00:00:00.000001",
            "1 day",
            "24:00:00",
            "-178000000 years",
        ],
    ),
    ("uuid", &["c0ffee00-1234-5678-9abc-def012345678"]),
    (
        "json",
        &["{\"a\":1,  \"a\":2}", "\"\\ud83c\\udf0a\"", "1e400"],
    ),
    ("jsonb", &["{\"a\": [1, 2.50, null]}", "1.00", "1.0"]),
    ("jsonpath", &["$.\"a\"[*]?(@ > 1)"]),
    ("xml", &["<a b=\"c\">d</a>", "text &amp; more"]),
    ("inet", &["10.0.0.1/32", "10.0.0.1/8", "::1"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(3)", &["101"]),
    ("bit varying", &["", "10110"]),
    ("point", &["(NaN,Infinity)", "(0,-0)", "(1e+300,1e-300)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(1,2),(3,4)]"]),
    ("box", &["(3,4),(1,2)"]),
    ("path", &["((1,2),(3,4))", "[(1,2),(3,4)]"]),
    ("polygon", &["((1,2),(3,4),(5,6))"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["'a':1A,2 'it''s':3", ""]),
    ("tsquery", &["'a' & !'b' <-> 'c':*"]),
    ("int4range", &["empty", "[1,5)", "(,)"]),
    ("tstzrange", &["[2024-01-01,infinity)", "(,2024-01-01]"]),
    (
        "datemultirange",
        &["{[2024-01-01,2024-02-01),[2025-01-01,infinity)}", "{}"],
    ),
    (
        "int[]",
        &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[2:3]={5,6}"],
    ),
    (
        "text[]",
        &[
            "{NULL,\"NULL\",\"\"}",
            "{\"a\\\\b\",\"c\\\"d\",\"{}\"}",
            "{{a,b},{c,d}}",
        ],
    ),
    ("box[]", &["{(3,4),(1,2);(7,8),(5,6)}"]),
    ("oid", &["4294967295"]),
    ("pg_lsn", &["16/B374D848"]),
    ("regclass", &["pg_class"]),
    ("xid8", &["18446744073709551615"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("tid", &["(42,7)"]),
    ("mood", &["it's \"fine\", isn't it", "NULL", ""]),
    ("mood[]", &["{\"NULL\",NULL}"]),
    ("positive", &["7"]),
    ("numbers", &["{1,2}", "{}"]),
    ("pair", &["(1,)", "(,\"a \"\"b\"\", c\\\\\")", "(,)"]),
    ("pair[]", &["{\"(1,\\\"x y\\\")\",NULL}"]),
    ("spans", &["[1.5,2.5]", "empty"]),
    ("hstore", &["\"a\"=>\"1\", \"b\"=>NULL", ""]),
    ("citext", &["MiXed", "mixed"]),
    ("citext[]", &["{MiXed,NULL}"]),
    ("ltree", &["a.b.c"]),
    ("cube", &["(1, 2),(3, 4)"]),
];

const OBJECTS: &str = "
    CREATE SCHEMA ext;
    CREATE EXTENSION hstore SCHEMA ext; CREATE EXTENSION citext SCHEMA ext;
    CREATE EXTENSION ltree SCHEMA ext; CREATE EXTENSION cube SCHEMA ext;
    CREATE TYPE mood AS ENUM ('', 'NULL', 'it''s \"fine\", isn''t it');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN numbers AS int[];
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE spans AS RANGE (subtype = numeric);";

/// A source with all types in each row, an empty target like it, and the source's rows as text.
async fn all_types() -> (Rig, TableMapping, Vec<Vec<String>>) {
    let column = |(i, (type_name, _)): (usize, &(&str, &[&str]))| format!("c{i} {type_name}");
    let columns: Vec<String> = TYPES.iter().enumerate().map(column).collect();
    let values = |row: usize| {
        let value = |(type_name, samples): &(&str, &[&str])| match samples.get(row % 10) {
            Some(sample) => format!("'{}'::{type_name}", sample.replace('\'', "''")),
            None => "NULL".to_owned(),
        };
        TYPES.iter().map(value).collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<String> = (0..12)
        .map(|row| format!("({row}, {})", values(row)))
        .collect();
    let sql = format!(
        "{OBJECTS} SET search_path = public, ext;
         CREATE TABLE s (id int PRIMARY KEY, {});
         INSERT INTO s VALUES {};
         CREATE TABLE t (LIKE s INCLUDING ALL)",
        columns.join(", "),
        rows.join(", ")
    );
    let rig = Rig::new(&sql).await;
    let mut names = vec!["id*".to_owned()];
    names.extend((0..TYPES.len()).map(|i| format!("c{i}")));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Read as the source's sessions write text.
    let url = rig.database.server.url_to(&rig.database.name);
    let config = ConnectConfig::parse(&url, Side::Source).unwrap();
    let mut connection = Connection::connect(&config, Role::Ordinary).await.unwrap();
    let read = connection
        .simple("SELECT * FROM public.s ORDER BY id")
        .await
        .unwrap();
    let rows = read[0].rows.iter().map(|row| {
        let cell = |i| row.opt_str(i).unwrap().unwrap_or(NULL).to_owned();
        (0..names.len()).map(cell).collect()
    });
    (rig, table("t", &names), rows.collect())
}

async fn assert_same(rig: &Rig, what: &str) {
    assert_eq!(rig.rows("SELECT count(*) FROM t").await, ["12"], "{what}");
    let differs = |i: usize| {
        format!(
            "SELECT {i} FROM s JOIN t USING (id) WHERE s.c{i}::text IS DISTINCT FROM t.c{i}::text"
        )
    };
    let queries: Vec<String> = (0..TYPES.len()).map(differs).collect();
    let different = rig.rows(&queries.join(" UNION ")).await;
    let types: Vec<&str> = different
        .iter()
        .map(|i| TYPES[i.parse::<usize>().unwrap()].0)
        .collect();
    assert_eq!(types, [""; 0], "{what}");
}

#[tokio::test]
async fn rows_of_all_types_come_and_change_in_every_way() {
    let (mut rig, mapping, rows) = all_types().await;
    let t = Arc::new(mapping);
    for row in &rows {
        let mut log = Log::new();
        log.insert(&t, row);
        rig.apply(&log.batch).await.unwrap();
    }
    assert_same(&rig, "inserted one by one").await;

    let empty = |row: &Vec<String>| {
        let cells = row.iter().enumerate();
        let keep = cells.map(|(i, cell)| {
            if i == 0 {
                cell.clone()
            } else {
                NULL.to_owned()
            }
        });
        keep.collect::<Vec<_>>()
    };
    let mut log = Log::new();
    for row in &rows {
        log.update(&t, &empty(row));
    }
    rig.apply(&log.batch).await.unwrap();
    let nulls = rig
        .rows("SELECT count(*) FROM t WHERE c0 IS NULL AND c1 IS NULL")
        .await;
    assert_eq!(nulls, ["12"]);
    let mut log = Log::new();
    for row in &rows {
        log.update(&t, row);
    }
    let applied = rig.apply(&log.batch).await.unwrap();
    assert_eq!(applied.conflicts, []);
    assert_same(&rig, "updated as a set").await;

    for row in &rows {
        let mut log = Log::new();
        log.update(&t, &empty(row));
        log.update(&t, row);
        rig.apply(&log.batch).await.unwrap();
    }
    assert_same(&rig, "updated one by one").await;

    rig.database.run("DELETE FROM t").await;
    let mut log = Log::new();
    for row in &rows {
        log.insert(&t, row);
    }
    rig.apply(&log.batch).await.unwrap();
    assert_same(&rig, "copied").await;

    // An update of rows that are missing inserts them, here as a set.
    rig.database.run("DELETE FROM t").await;
    let mut log = Log::new();
    for row in &rows {
        log.update(&t, row);
    }
    rig.apply(&log.batch).await.unwrap();
    assert_same(&rig, "inserted as a set").await;
}

#[tokio::test]
async fn rows_of_all_types_are_found_by_all_their_values() {
    let (mut rig, mut mapping, rows) = all_types().await;
    rig.database
        .run("ALTER TABLE t DROP CONSTRAINT t_pkey")
        .await;
    mapping.key.clear();
    mapping.schema.identity = tidemark_core::schema::ReplicaIdentity::Full;
    let t = Arc::new(mapping);
    for at_once in [1, 12] {
        let mut log = Log::new();
        for row in &rows {
            log.insert(&t, row);
        }
        rig.apply(&log.batch).await.unwrap();
        assert_same(&rig, "copied").await;
        for rows in rows.chunks(at_once) {
            let mut log = Log::new();
            for row in rows {
                let mut other = row.clone();
                "99".clone_into(&mut other[0]);
                log.replace(&t, (Old::Full, row), &other);
            }
            let applied = rig.apply(&log.batch).await.unwrap();
            assert_eq!(applied.conflicts, [], "{at_once} at once");
        }
        assert_eq!(
            rig.rows("SELECT count(*) FROM t WHERE id = 99").await,
            ["12"]
        );
        for rows in rows.chunks(at_once) {
            let mut log = Log::new();
            for row in rows {
                let mut other = row.clone();
                "99".clone_into(&mut other[0]);
                log.delete(&t, (Old::Full, &other));
            }
            let applied = rig.apply(&log.batch).await.unwrap();
            assert_eq!(applied.conflicts, [], "{at_once} at once");
        }
        assert_eq!(rig.rows("SELECT count(*) FROM t").await, ["0"]);
    }
}

/// Values that are equal to each other and yet different rows: the log's row goes, not its like.
#[tokio::test]
async fn equal_values_with_different_texts_are_different_rows() {
    for count in [1, 20] {
        let mut rig = Rig::new("CREATE TABLE t (n numeric, i interval, f float8)").await;
        let t = Arc::new(table("t", &["n", "i", "f"]));
        let (a, b) = (["1.0", "1 day", "0"], ["1.00", "24:00:00", "-0"]);
        let mut log = Log::new();
        for _ in 0..count {
            log.insert(&t, &a);
        }
        for _ in 0..count {
            log.insert(&t, &b);
        }
        rig.apply(&log.batch).await.unwrap();
        let mut log = Log::new();
        for _ in 0..count {
            log.delete(&t, (Old::Full, &b));
        }
        rig.apply(&log.batch).await.unwrap();
        let left = rig
            .rows("SELECT DISTINCT n::text || i::text || f::text FROM t")
            .await;
        assert_eq!(left, ["1.01 day0"]);
        assert_eq!(
            rig.rows("SELECT count(*) FROM t").await,
            [count.to_string()]
        );
    }
}

/// Keys of types whose equality is an extension's own, of user-defined and of odd types.
#[tokio::test]
async fn keys_of_unusual_types_find_their_rows_through_their_index() {
    for (type_name, keys) in [
        ("ext.citext", ["A", "b", "C d"]),
        ("mood", ["", "NULL", "it's \"fine\", isn't it"]),
        ("positive", ["1", "2", "3"]),
        ("regclass", ["pg_class", "pg_type", "pg_proc"]),
        ("int[]", ["{1,2}", "{}", "{{3}}"]),
        ("pair", ["(1,a)", "(2,)", "(3,\"x y\")"]),
        ("numeric(8,2)", ["1.50", "-2.00", "NaN"]),
        ("char(4)", ["a   ", "b   ", "cccc"]),
        ("ext.ltree", ["a.b", "a", "c"]),
        (
            "timestamptz",
            [
                "infinity",
                "2024-01-01 00:00:00+00",
                "0044-03-15 00:00:00+00 BC",
            ],
        ),
    ] {
        let sql = format!("{OBJECTS} CREATE TABLE t (k {type_name} PRIMARY KEY, note text)");
        let mut rig = Rig::new(&sql).await;
        let t = Arc::new(table("t", &["k*", "note"]));
        let mut log = Log::new();
        for key in &keys {
            log.insert(&t, &[*key, "a"]);
        }
        rig.apply(&log.batch).await.unwrap();
        for repeat in [1, 5] {
            let mut log = Log::new();
            for _ in 0..repeat {
                for key in &keys {
                    log.update(&t, &[*key, "b"]);
                }
            }
            let applied = rig.apply(&log.batch).await.unwrap();
            assert_eq!(applied.conflicts, [], "{type_name}");
        }
        let mut log = Log::new();
        for key in &keys {
            log.delete(&t, (Old::Key, &[*key, NULL]));
        }
        let applied = rig.apply(&log.batch).await.unwrap();
        assert_eq!(applied.conflicts, [], "{type_name}");
        assert_eq!(
            rig.rows("SELECT count(*) FROM t").await,
            ["0"],
            "{type_name}"
        );
        let database = rig.database;
        // A session reports what it counted when it ends.
        drop(rig.applier);
        let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 't' AND idx_scan > 0";
        let counted = wait_for(Duration::from_secs(20), "the session's counts", || async {
            Ok(database.value(scans).await.parse::<u64>().ok())
        });
        // One to build the index, one to count above.
        assert!(counted.await.unwrap() <= 2, "{type_name}: by index");
    }
}
