//! Digests of both sides: equal for equal data, different for anything else.

use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::config::secret::Secret;
use tidemark_core::filter::Filter;
use tidemark_core::mapping::{TableMapping, TargetType};
use tidemark_core::mask::Mask;
use tidemark_core::source::{RowFormat, Snapshot};
use tidemark_core::verify::{Digest, View};
use tidemark_lab::{Installation, PostgresServer, skip};
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::source::PgSnapshot;
use tidemark_postgres::view::PgView;
use tidemark_postgres::wire::{Connection, Role};

use crate::lab::{Database, database, mapping, read};

mod shown;

/// Every type whose values could be told apart wrongly, in an order and in another.
const COLUMNS: [(&str, &str); 32] = [
    ("id", "int8"),
    ("small", "int2"),
    ("num", "numeric"),
    ("numt", "numeric(12,4)"),
    ("r", "float4"),
    ("d", "float8"),
    ("txt", "text"),
    ("vc", "varchar(40)"),
    ("ch", "char(8)"),
    ("c", "\"char\""),
    ("nm", "name"),
    ("b", "bool"),
    ("dt", "date"),
    ("tm", "time"),
    ("tmz", "timetz"),
    ("ts", "timestamp"),
    ("tsz", "timestamptz"),
    ("iv", "interval"),
    ("u", "uuid"),
    ("by", "bytea"),
    ("j", "json"),
    ("jb", "jsonb"),
    ("ip", "inet"),
    ("bits", "varbit"),
    ("pt", "point"),
    ("arr", "int[]"),
    ("tarr", "text[]"),
    ("rng", "int4range"),
    ("e", "mood"),
    ("p", "pair"),
    ("dom", "positive"),
    ("x", "xml"),
];

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);";

const VALUES: &str = "SELECT i AS id, (i % 300)::int2 AS small,
    CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN 'NaN' WHEN 2 THEN -i * 1.10 ELSE i END::numeric AS num,
    i / 3.0 AS numt, i / 7.0::float4 AS r, CASE WHEN i % 9 = 0 THEN 'NaN' ELSE i * 1e-5 END::float8 AS d,
    CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'ä🐘' || i END AS txt, 'v' || i AS vc,
    CASE WHEN i % 4 > 0 THEN left('c' || i, 8) END AS ch, chr(33 + i % 90)::\"char\" AS c, ('n' || i)::name AS nm,
    CASE WHEN i % 4 > 0 THEN i % 2 = 0 END AS b,
    CASE WHEN i % 50 = 0 THEN 'infinity' ELSE date '0100-01-01 BC' + i * 100 END::date AS dt,
    time '00:00' + i * interval '1 second' AS tm, timetz '10:00+03' + i * interval '1 second' AS tmz,
    timestamp '1999-12-31' + i * interval '1.000001 hours' AS ts,
    CASE WHEN i % 40 = 0 THEN '-infinity' ELSE timestamptz '2024-03-30' + i * interval '17 minutes' END::timestamptz AS tsz,
    i * interval '1 day -3 hours' AS iv, md5(i::text)::uuid AS u,
    CASE WHEN i % 6 > 0 THEN decode(md5(i::text), 'hex') END AS by,
    ('{\"b\":  ' || i || ', \"a\": null}')::json AS j, ('{\"b\":  ' || i || '.0}')::jsonb AS jb,
    CASE WHEN i % 2 = 0 THEN '10.0.0.1' ELSE '10.0.0.0/8' END::inet AS ip, (i % 8)::bit(3)::varbit AS bits,
    point(i, -i) AS pt, ARRAY[i, NULL]::int[] AS arr, ARRAY['NULL', NULL, '']::text[] AS tarr,
    CASE WHEN i % 3 = 0 THEN 'empty' ELSE '[1,' || i + 2 || ')' END::int4range AS rng,
    CASE WHEN i % 2 = 0 THEN 'sad' ELSE 'ok' END::mood AS e,
    CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '(,)' ELSE '(' || i || ',\"\")' END::pair AS p,
    i::int::positive AS dom, ('<a>' || i || '</a>')::xml AS x
    FROM generate_series(1, 500) AS i";

fn create(columns: &[(&str, &str)]) -> String {
    let columns: Vec<String> = columns
        .iter()
        .map(|(name, type_name)| format!("{name} {type_name}"))
        .collect();
    format!("CREATE TABLE t ({}, PRIMARY KEY (id));", columns.join(", "))
}

/// The table as it is and as it might be elsewhere: columns in another order, a dropped one among
/// them, rows in another order and with holes.
fn original() -> String {
    format!("{TYPES} {} INSERT INTO t {VALUES};", create(&COLUMNS))
}

fn shuffled() -> String {
    let mut columns = COLUMNS;
    columns.reverse();
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    format!(
        "{TYPES} {} ALTER TABLE t ADD COLUMN gone int DEFAULT 5; \
         INSERT INTO t ({names}) SELECT {names} FROM ({VALUES}) AS v ORDER BY md5(id::text); \
         ALTER TABLE t DROP COLUMN gone; DELETE FROM t WHERE id % 7 = 0; \
         INSERT INTO t ({names}) SELECT {names} FROM ({VALUES}) AS v WHERE id % 7 = 0;",
        create(&columns),
        names = names.join(", "),
    )
}

async fn source_view(source: &Database) -> Box<dyn View> {
    let snapshot = PgSnapshot::take(source.config(Side::Source)).await.unwrap();
    // The view has joined the snapshot and outlives it.
    snapshot.view().await.unwrap()
}

async fn target_view(config: &ConnectConfig) -> PgView {
    let connection = Connection::connect(config, Role::Ordinary).await.unwrap();
    PgView::of_target(connection).await.unwrap()
}

async fn target_digest(target: &Database, mapping: &TableMapping) -> Digest {
    let mut view = target_view(&target.config(Side::Target)).await;
    view.digest(mapping, &Chunk::Whole).await.unwrap()
}

#[tokio::test]
async fn equal_rows_are_equal_whatever_their_form_and_order() {
    let source = database(&original()).await;
    let target = database(&shuffled()).await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut view = source_view(&source).await;
    let ours = view.digest(&t, &Chunk::Whole).await.unwrap();
    assert_eq!(ours.rows, 500);
    assert_eq!(target_digest(&target, &t).await, ours);
}

/// Neither dump nor log has a declaration that says nothing, or a first line that is empty.
#[tokio::test]
async fn xml_is_equal_as_it_is_printed() {
    const XML: &str = "CREATE TABLE t (id int PRIMARY KEY, x xml); INSERT INTO t VALUES
        (1, E'<?xml version=\"1.0\" encoding=\"LATIN1\"?>\\n<a/>'), (2, E'\\n\\n\\n<a/>'), (3, ''),
        (4, NULL), (5, '<?xml version=\"1.0\" standalone=\"yes\"?><a/>'), (6, E'x\\n');";
    const CARRIED: &str = "UPDATE t SET x = format('%s', x)::xml WHERE x IS NOT NULL";
    let source = database(XML).await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let ours = target_digest(&source, &t).await;
    for (change, is_equal) in [
        ("", true),
        ("UPDATE t SET x = NULL WHERE id = 3", false),
        ("UPDATE t SET x = '' WHERE id = 4", false),
        ("UPDATE t SET x = '<a/>' WHERE id = 5", false),
        ("UPDATE t SET x = 'x' WHERE id = 6", false),
    ] {
        let target = database(&format!("{XML} {CARRIED}; {change}")).await;
        let theirs = target_digest(&target, &t).await;
        assert_eq!(theirs == ours, is_equal, "{change}");
    }
}

#[tokio::test]
async fn digests_are_the_same_on_every_major() {
    const TEST: &str = "view::digests_are_the_same_on_every_major";
    let source = database(&original()).await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let ours = target_digest(&source, &t).await;
    for major in [14, 16, 17, 18] {
        let Ok(installation) = Installation::of_major(major) else {
            skip::skipped(TEST, &format!("no PostgreSQL {major}"));
            continue;
        };
        let builder = PostgresServer::builder().installation(installation);
        let server = builder.start().await.unwrap();
        server.execute(&shuffled()).await.unwrap();
        let config = ConnectConfig::parse(&server.url(), Side::Target).unwrap();
        let theirs = target_view(&config).await.digest(&t, &Chunk::Whole).await;
        assert_eq!(theirs.unwrap(), ours, "PostgreSQL {major}");
    }
}

#[tokio::test]
async fn anything_that_differs_is_seen() {
    let source = database(&original()).await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let before = target_digest(&source, &t).await;
    for change in [
        "UPDATE t SET small = small + 1 WHERE id = 77",
        "UPDATE t SET txt = '' WHERE id = 3",
        "UPDATE t SET txt = NULL WHERE id = 4",
        "UPDATE t SET txt = vc, vc = txt WHERE id = 5",
        "UPDATE t SET num = num + 0.00 WHERE id = 8",
        "UPDATE t SET num = 'Infinity' WHERE id = 6",
        "UPDATE t SET d = '-0', r = 0 WHERE id = 9; UPDATE t SET d = 0, r = '-0' WHERE id = 9",
        "UPDATE t SET p = ROW(NULL, NULL) WHERE id = 3",
        "UPDATE t SET p = ROW(NULL, '') WHERE id = 4",
        "UPDATE t SET jb = '{\"b\": 8}' WHERE id = 8",
        "UPDATE t SET tarr = ARRAY[NULL, 'NULL', ''] WHERE id = 8",
        "UPDATE t SET arr = '[0:1]={8,NULL}' WHERE id = 8",
        "UPDATE t SET iv = iv + interval '1 month -30 days' WHERE id = 8",
        "UPDATE t SET ts = ts + interval '1 microsecond' WHERE id = 8",
        "UPDATE t SET tsz = 'infinity' WHERE id = 40",
        "UPDATE t SET dt = '-infinity' WHERE id = 50",
        "UPDATE t SET dt = NULL WHERE id = 50",
        "UPDATE t SET dt = dt + 1 WHERE id = 51",
        "UPDATE t SET dt = '5874897-12-31' WHERE id = 50",
        "UPDATE t SET tm = tm + interval '1 microsecond' WHERE id = 8",
        "UPDATE t SET tm = '24:00' WHERE id = 8; UPDATE t SET tm = '00:00' WHERE id = 9",
        "UPDATE t SET ch = upper(ch) WHERE id = 9",
        "UPDATE t SET ch = ' ' || ch WHERE id = 9",
        "UPDATE t SET ch = '' WHERE id = 8",
        "UPDATE t SET by = '' WHERE id = 6",
        "UPDATE t SET e = 'sad' WHERE id = 7",
        "UPDATE t SET b = NOT b WHERE id = 7",
        // Two rows exchange a value: every column still holds the same values.
        "UPDATE t SET u = CASE id WHEN 10 THEN (SELECT u FROM t WHERE id = 11) \
                                  ELSE (SELECT u FROM t WHERE id = 10) END WHERE id IN (10, 11)",
        "DELETE FROM t WHERE id = 12",
        "UPDATE t SET id = 1000 WHERE id = 12",
    ] {
        source
            .run(&format!("CREATE TABLE saved AS TABLE t; {change}"))
            .await;
        let after = target_digest(&source, &t).await;
        assert_ne!(after.sum, before.sum, "{change}");
        source
            .run("TRUNCATE t; INSERT INTO t TABLE saved; DROP TABLE saved")
            .await;
        assert_eq!(target_digest(&source, &t).await, before);
    }
}

/// What PostgreSQL's hash functions do not tell apart, or only by a few bits that a second column with
/// the same error takes back: signs of numbers, halves of a whole number, powers of ten thousand.
#[tokio::test]
async fn values_that_hash_alike_are_told_apart() {
    let source = database(
        "CREATE TABLE t (id int PRIMARY KEY, a numeric, b numeric, m int8, n int8, k int, f float8,
           ts timestamp, tsz timestamptz);
         INSERT INTO t VALUES (1, 5.00, 5.00, -1, -1, -1, 0, '2024-01-01', '2024-01-01')",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let before = target_digest(&source, &t).await;
    source.run("ALTER TABLE t ALTER k TYPE int8").await;
    assert_eq!(target_digest(&source, &t).await, before, "a wider type");
    for change in [
        "a = -a",
        "a = -a, b = -b",
        "a = 50000.00, b = 50000.00",
        "a = 5.000, b = 5.000",
        "a = 'Infinity'",
        "m = 4294967295",
        "m = 4294967295, n = 4294967295",
        "m = 0, n = 0",
        "k = 4294967295",
        "f = '-0'",
        "ts = ts + interval '1 hour', tsz = tsz + interval '1 hour'",
        "a = NULL, b = NULL",
        "m = NULL, n = NULL",
    ] {
        source
            .run(&format!(
                "CREATE TABLE saved AS TABLE t; UPDATE t SET {change}"
            ))
            .await;
        assert_ne!(target_digest(&source, &t).await, before, "{change}");
        source
            .run("TRUNCATE t; INSERT INTO t TABLE saved; DROP TABLE saved")
            .await;
    }
    assert_eq!(target_digest(&source, &t).await, before);
}

#[tokio::test]
async fn a_row_that_is_there_twice_counts_twice() {
    let source = database(
        "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL);
         CREATE TABLE u (a int, b text); INSERT INTO u VALUES (1, 'x'), (2, NULL), (2, NULL);",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let (t, u) = (mapping(&schema, "public.t"), mapping(&schema, "public.u"));
    let mut view = source_view(&source).await;
    let first = view.digest(&t, &Chunk::Whole).await.unwrap();
    let second = view.digest(&u, &Chunk::Whole).await.unwrap();
    assert_eq!(first.rows, second.rows);
    assert_ne!(first.sum, second.sum);
    let rows = view.bucket_rows(&t, &Chunk::Whole, &[0], 1).await.unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.key.is_empty()));
    assert!(rows.is_sorted());
    assert!(rows[0] == rows[1] || rows[1] == rows[2]);
    assert!(view.rows(&t, &[vec![]]).await.unwrap().is_empty());
}

fn plus(a: Digest, b: &Digest) -> Digest {
    Digest {
        rows: a.rows + b.rows,
        sum: a.sum.wrapping_add(b.sum),
    }
}

#[tokio::test]
async fn buckets_and_ranges_lead_to_the_row_that_differs() {
    let source = database(&original()).await;
    let target = database(&shuffled()).await;
    target.run("UPDATE t SET num = 1 WHERE id = 123").await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut ours = source_view(&source).await;
    let mut theirs = target_view(&target.config(Side::Target)).await;
    let whole = ours.digest(&t, &Chunk::Whole).await.unwrap();

    let range = |from: Option<i32>, to: Option<i32>| Chunk::Keys {
        column: "id".to_owned(),
        from: from.map(|id| id.to_string()),
        to: to.map(|id| id.to_string()),
    };
    let mut sum = Digest::default();
    for (from, to) in [(None, Some(100)), (Some(100), Some(200)), (Some(200), None)] {
        let range = range(from, to);
        let (a, b) = (
            ours.digest(&t, &range).await.unwrap(),
            theirs.digest(&t, &range).await.unwrap(),
        );
        assert_eq!(a == b, from != Some(100), "{range:?}");
        assert_eq!(theirs.count(&t, &range).await.unwrap(), b.rows);
        sum = plus(sum, &a);
    }
    assert_eq!(sum, whole);

    let range = range(Some(100), Some(200));
    let a = ours.bucket_digests(&t, &range, 16).await.unwrap();
    let b = theirs.bucket_digests(&t, &range, 16).await.unwrap();
    assert_eq!((a.len(), b.len()), (16, 16));
    assert!(a.iter().filter(|bucket| bucket.rows > 0).count() > 12);
    let different: Vec<usize> = (0..16).filter(|at| a[*at] != b[*at]).collect();
    assert_eq!(different.len(), 1);
    let bucket = u32::try_from(different[0]).unwrap();
    let a = ours.bucket_rows(&t, &range, &[bucket], 16).await.unwrap();
    let b = theirs.bucket_rows(&t, &range, &[bucket], 16).await.unwrap();
    assert!(a.is_sorted() && b.is_sorted());
    let keys: Vec<&str> = a
        .iter()
        .filter(|row| !b.contains(row))
        .map(|row| row.key[0].as_str())
        .collect();
    assert_eq!(keys, ["123"]);
    let row = theirs.rows(&t, &[vec!["123".to_owned()]]).await.unwrap();
    assert_eq!(row.len(), 1);
    assert_eq!(row[0].key, ["123"]);
    assert_eq!(row[0].values[2].as_deref(), Some("1"));
    let only = Chunk::Rows {
        columns: vec!["id".to_owned()],
        keys: vec![vec!["123".to_owned()], vec!["124".to_owned()]],
    };
    let (a, b) = (
        ours.digest(&t, &only).await.unwrap(),
        theirs.digest(&t, &only).await.unwrap(),
    );
    assert_eq!((a.rows, b.rows), (2, 2));
    assert_ne!(a, b);
}

/// What somebody has written to a table that was made by hand.
#[tokio::test]
async fn a_row_without_a_key_on_the_target_is_in_the_first_range() {
    let rows = "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 20) AS i;";
    let source = database(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text); {rows}"
    ))
    .await;
    let target = database(&format!(
        "CREATE TABLE t (id int UNIQUE, v text); {rows} INSERT INTO t VALUES (NULL, 'v')"
    ))
    .await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut theirs = target_view(&target.config(Side::Target)).await;
    for (from, to, rows) in [(None, Some("11"), 11), (Some("11"), None, 10)] {
        let range = Chunk::Keys {
            column: "id".to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let found = theirs.digest(&t, &range).await.unwrap();
        assert_eq!(found.rows, rows, "{range:?}");
    }
}

#[tokio::test]
async fn text_keys_have_the_same_ranges_under_another_collation() {
    let rows = "INSERT INTO t SELECT CASE WHEN i % 2 = 0 THEN chr(97 + i % 26) ELSE chr(65 + i % 26) END || i \
                FROM generate_series(1, 400) AS i;";
    let source = database(&format!(
        "CREATE TABLE t (id text COLLATE \"C\" PRIMARY KEY); {rows}"
    ))
    .await;
    let target = database(&format!(
        "CREATE TABLE t (id text COLLATE \"de-x-icu\" PRIMARY KEY); {rows}"
    ))
    .await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut ours = source_view(&source).await;
    let mut theirs = target_view(&target.config(Side::Target)).await;
    for (from, to) in [
        (None, Some("G")),
        (Some("G"), Some("c1")),
        (Some("c1"), None),
    ] {
        let range = Chunk::Keys {
            column: "id".to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let a = ours.digest(&t, &range).await.unwrap();
        assert!(a.rows > 20, "{range:?}");
        assert_eq!(theirs.digest(&t, &range).await.unwrap(), a, "{range:?}");
    }
}

#[tokio::test]
async fn wider_types_on_the_target_are_the_same_data() {
    let source = database(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(8,2), v varchar(9), c char(5), m text, ts timestamptz);
         INSERT INTO t SELECT i, i / 4.0, 'v' || i, 'c', CASE WHEN i > 5 THEN '7' END, '2024-01-01' FROM generate_series(1, 9) AS i;",
    )
    .await;
    let target = database(
        "CREATE TABLE t (id numeric PRIMARY KEY, n numeric, v text, c text, m int, ts text);
         INSERT INTO t SELECT i, (i / 4.0)::numeric(8,2), 'v' || i, 'c    ', CASE WHEN i > 5 THEN 7 END, '2024-01-01 00:00:00+00' FROM generate_series(1, 9) AS i;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let ours = source_view(&source).await.digest(&t, &Chunk::Whole).await;
    assert_eq!(target_digest(&target, &t).await, ours.unwrap());
}

#[tokio::test]
async fn the_source_is_seen_through_the_mapping() {
    let source = database(
        "CREATE TABLE t (id int PRIMARY KEY, mail text, secret numeric, inner_note text, kind bool);
         INSERT INTO t SELECT i, 'm' || i || '@x.example', i, 'note', CASE WHEN i % 3 > 0 THEN i % 3 = 1 END
         FROM generate_series(1, 300) AS i;",
    )
    .await;
    let target = database(
        "CREATE SCHEMA dw; CREATE TABLE dw.people (kind bool, mail text, no int PRIMARY KEY, secret numeric)",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let mut t = mapping(&schema, "public.t");
    t.target = tidemark_core::schema::TableName::new("dw", "people");
    t.columns.remove(3);
    t.columns[0].target = "no".to_owned();
    t.columns[1].mask = Some(Mask::Hash {
        salt: Secret::new("s'alt\\"),
    });
    t.columns[1].target_type = TargetType::Text;
    t.columns[2].mask = Some(Mask::Redact { constant: "0" });
    t.filter = Some(Filter::bind("kind OR id > 200", &t.schema).unwrap());
    let snapshot = PgSnapshot::take(source.config(Side::Source)).await.unwrap();
    let mut reader = snapshot.reader().await.unwrap();
    let rows = read(reader.as_mut(), &t, &Chunk::Whole, RowFormat::PgCopyText)
        .await
        .unwrap()
        .concat();
    let rows = String::from_utf8(rows).unwrap();
    let script = format!("COPY dw.people (no, mail, secret, kind) FROM STDIN;\n{rows}\\.\n");
    target.server.psql(&target.name, &script).await.unwrap();
    let mut ours = snapshot.view().await.unwrap();
    let digest = ours.digest(&t, &Chunk::Whole).await.unwrap();
    assert!((100..300).contains(&digest.rows), "{}", digest.rows);
    assert_eq!(target_digest(&target, &t).await, digest);
    let shown = ours.rows(&t, &[vec!["1".to_owned()]]).await.unwrap();
    assert_eq!(shown[0].values[2].as_deref(), Some("0"), "masked");
}

#[tokio::test]
async fn f59_sixteen_hundred_columns_are_digested() {
    let columns: Vec<String> = (1..1600)
        .map(|n| format!("c{n} {}", ["int", "text", "bool", "date"][n % 4]))
        .collect();
    let source = database(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t (id, c1, c4, c1596) VALUES (1, 'x', 5, 7);",
        columns.join(", ")
    ))
    .await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    assert_eq!(t.columns.len(), 1600);
    let before = target_digest(&source, &t).await;
    let mut ours = source_view(&source).await;
    assert_eq!(ours.digest(&t, &Chunk::Whole).await.unwrap(), before);
    assert_eq!(
        ours.bucket_rows(&t, &Chunk::Whole, &[0], 1)
            .await
            .unwrap()
            .len(),
        1
    );
    source.run("UPDATE t SET c1599 = '2024-01-01'").await;
    assert_ne!(target_digest(&source, &t).await, before);
}

#[tokio::test]
async fn partitioned_tables_and_tables_with_heirs_are_counted_right() {
    let source = database(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id);
         CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO p SELECT generate_series(1, 100);
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE heir () INHERITS (parent);
         INSERT INTO parent VALUES (1), (2); INSERT INTO heir VALUES (1), (2), (3);",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let mut ours = source_view(&source).await;
    let mut theirs = target_view(&source.config(Side::Target)).await;
    for (name, rows) in [("public.p", 100), ("public.parent", 2), ("public.heir", 3)] {
        let table = mapping(&schema, name);
        let digest = ours.digest(&table, &Chunk::Whole).await.unwrap();
        assert_eq!(digest.rows, rows, "{name}");
        assert_eq!(theirs.digest(&table, &Chunk::Whole).await.unwrap(), digest);
    }
}

/// A table that changes in a way that an older snapshot cannot show is not taken for an empty one.
#[tokio::test]
async fn a_table_that_was_emptied_rewritten_or_replaced_is_never_compared() {
    const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v int, w text);
        INSERT INTO t SELECT i, i, i FROM generate_series(1, 100) i;
        CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (50);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (50) TO (200);
        INSERT INTO p SELECT i, i FROM generate_series(1, 100) i;
        CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);";
    for (table, change, is_shown) in [
        (
            "t",
            "INSERT INTO t VALUES (101); DELETE FROM t WHERE id < 50",
            true,
        ),
        ("t", "ALTER TABLE t ADD COLUMN n int DEFAULT 7", true),
        ("t", "CREATE INDEX ON t (v); VACUUM t", true),
        ("t", "TRUNCATE t; INSERT INTO t VALUES (1)", false),
        ("t", "ALTER TABLE t ALTER v TYPE bigint", false),
        (
            "t",
            "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int, w text)",
            false,
        ),
        ("p", "DELETE FROM p", true),
        ("p", "TRUNCATE p2", false),
        ("p", "ALTER TABLE p DETACH PARTITION p1", false),
        (
            "p",
            "CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300)",
            false,
        ),
    ] {
        let database = database(TABLES).await;
        let schema = database.describe(&["public.*"]).await;
        let (looked_at, other) = (
            mapping(&schema, &format!("public.{table}")),
            mapping(&schema, "public.other"),
        );
        let mut source = source_view(&database).await;
        let mut target = target_view(&database.config(Side::Target)).await;
        for statement in change.split(';') {
            database.run(statement).await;
        }
        let views: [&mut dyn View; 2] = [source.as_mut(), &mut target];
        for view in views {
            let digest = view.digest(&looked_at, &Chunk::Whole).await;
            match digest {
                Ok(digest) => assert!(is_shown && digest.rows == 100, "{change}: {digest:?}"),
                Err(err) => {
                    assert!(!is_shown, "{change}: {err}");
                    assert_eq!(err.code(), codes::TABLE_REWRITTEN, "{change}: {err}");
                }
            }
            let rows = view.count(&other, &Chunk::Whole).await.unwrap();
            assert_eq!(rows, 1, "{change}: the others can still be read");
        }
    }
}

/// Whoever wants to change a table waits for the query that reads it, not for the whole comparison.
#[tokio::test]
async fn a_view_keeps_no_table_locked() {
    let source = database("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut view = source_view(&source).await;
    view.digest(&t, &Chunk::Whole).await.unwrap();
    source
        .run("SET lock_timeout = '2s'; ALTER TABLE t ADD COLUMN more text")
        .await;
    assert_eq!(view.count(&t, &Chunk::Whole).await.unwrap(), 1);
}
