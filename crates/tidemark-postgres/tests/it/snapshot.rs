//! Readers of one instant, and what that instant has seen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::config::secret::Secret;
use tidemark_core::filter::{Filter, Input, Truth};
use tidemark_core::mapping::{TableMapping, TargetType};
use tidemark_core::mask::Mask;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::ValueClass;
use tidemark_core::source::{RowFormat, Snapshot};
use tidemark_core::tidemark::Tidemark;
use tidemark_lab::PostgresServer;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::schema::describe;
use tidemark_postgres::source::PgSnapshot;
use tidemark_postgres::wire::{Connection, Role};

use crate::lab::{Database, database, lines, mapping, read, selecting};

async fn take(database: &Database) -> PgSnapshot {
    PgSnapshot::take(database.config(Side::Source))
        .await
        .unwrap()
}

#[tokio::test]
async fn all_readers_see_one_instant_while_a_writer_is_busy() {
    let source = database(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
         INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 2000) AS i;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let accounts = mapping(&schema, "public.accounts");
    let writer = tokio::spawn({
        let mut connection = source.connect().await;
        async move {
            for step in 0_u32.. {
                let (from, to) = (step * 7 % 2000 + 1, step * 13 % 2000 + 1);
                let moved = connection
                    .run(&format!(
                        "BEGIN; UPDATE public.accounts SET balance = balance - 5 WHERE id = {from}; \
                         UPDATE public.accounts SET balance = balance + 5 WHERE id = {to}; COMMIT"
                    ))
                    .await;
                if moved.is_err() {
                    return step;
                }
            }
            unreachable!("the loop has no end")
        }
    });
    // Make sure that it runs.
    let mut looker = source.connect().await;
    wait_for_changes(&mut looker).await;
    let snapshot = take(&source).await;
    let mut views = Vec::new();
    for _ in 0..4 {
        wait_for_changes(&mut looker).await;
        let mut reader = snapshot.reader().await.unwrap();
        let mut rows = lines(reader.as_mut(), &accounts, &Chunk::Whole).await;
        rows.sort();
        views.push(rows);
    }
    writer.abort();
    for view in &views {
        assert_eq!(view, &views[0]);
        let balance = |row: &String| row.split('\t').nth(1).unwrap().parse::<i64>().unwrap();
        assert_eq!(view.iter().map(balance).sum::<i64>(), 200_000);
        assert!(view.iter().any(|row| balance(row) != 100), "no writer");
    }
}

/// Returns once the table `accounts` has changed since the call.
async fn wait_for_changes(connection: &mut Connection) {
    let sql = "SELECT md5(string_agg(balance::text, ',' ORDER BY id)) FROM public.accounts";
    let before = connection.simple(sql).await.unwrap()[0].rows[0]
        .get::<String>(0)
        .unwrap();
    loop {
        let now = connection.simple(sql).await.unwrap()[0].rows[0]
            .get::<String>(0)
            .unwrap();
        if now != before {
            return;
        }
    }
}

/// Every writer notes its transaction's id; what a snapshot's rows show and what its tidemark says
/// must be the same for each of them. The log tells where each committed.
#[tokio::test]
async fn a_tidemark_covers_exactly_what_the_snapshot_saw() {
    const WRITERS: usize = 12;
    const SNAPSHOTS: usize = 25;
    let source = database("CREATE TABLE noted (xid int8 PRIMARY KEY, sub bool)").await;
    let slot = format!("covers_{}", source.name);
    source
        .run(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"
        ))
        .await;
    let enough = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut connection = source.connect().await;
        let enough = Arc::clone(&enough);
        writers.push(tokio::spawn(async move {
            for step in 0_usize.. {
                if enough.load(Ordering::Relaxed) {
                    return;
                }
                let end = if step % 7 == 3 { "ROLLBACK" } else { "COMMIT" };
                // Long and short ones, some with subtransactions, so that ids end out of order.
                let nap = (writer * 5 + step * 3) % 11;
                let sql = format!(
                    "BEGIN; INSERT INTO public.noted VALUES (pg_current_xact_id()::text::int8, false); \
                     SAVEPOINT a; SELECT pg_sleep({nap} * 0.001); \
                     UPDATE public.noted SET sub = true WHERE xid = pg_current_xact_id()::text::int8; {end}"
                );
                connection.run(&sql).await.unwrap();
            }
        }));
    }
    let schema = source.describe(&["public.*"]).await;
    let noted = mapping(&schema, "public.noted");
    let mut seen: Vec<(Tidemark, BTreeSet<u64>)> = Vec::new();
    while seen.len() < SNAPSHOTS {
        let snapshot = take(&source).await;
        let mut reader = snapshot.reader().await.unwrap();
        let rows = lines(reader.as_mut(), &noted, &Chunk::Whole).await;
        let xids = rows
            .iter()
            .map(|row| row.split('\t').next().unwrap().parse().unwrap());
        seen.push((snapshot.tidemark().clone(), xids.collect()));
    }
    enough.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let mut connection = source.connect().await;
    let set = connection
        .query(
            // Autovacuum has ids as well, and no rows.
            "SELECT xid, lsn FROM pg_logical_slot_get_changes($1, NULL, NULL, 'skip-empty-xacts', '1') \
             WHERE data LIKE 'COMMIT%'",
            &[Some(&slot)],
        )
        .await
        .unwrap();
    source
        .run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
    let commits: Vec<(u32, Position)> = set
        .rows
        .iter()
        .map(|row| {
            // test_decoding tells the end of the commit record; the byte before lies in it.
            let Lsn(end) = row.get::<Lsn>(1).unwrap();
            (row.get(0).unwrap(), Position::PgLsn(Lsn(end - 1)))
        })
        .collect();
    assert!(commits.len() > 200, "{} transactions only", commits.len());
    let mut partly = 0;
    for (tidemark, rows) in &seen {
        for (xid, commit) in &commits {
            assert_eq!(
                tidemark.covers(*xid, *commit),
                rows.contains(&u64::from(*xid)),
                "{xid} committed at {commit}, {tidemark:?}"
            );
        }
        partly += usize::from((1..commits.len()).contains(&rows.len()));
    }
    assert!(
        partly > SNAPSHOTS / 2,
        "only {partly} snapshots fell between commits"
    );
}

#[tokio::test]
async fn a_snapshot_whose_holder_is_gone_says_so() {
    let source = database("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut holder = source.connect().await;
    let sets = holder
        .simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot()")
        .await
        .unwrap();
    let name = sets[1].rows[0].get(0).unwrap();
    let holder_pid = holder.pid();
    let snapshot = PgSnapshot::adopt(source.config(Side::Source), name, Box::new(holder))
        .await
        .unwrap();
    let mut early = snapshot.reader().await.unwrap();
    source.run("INSERT INTO t VALUES (2)").await;
    source
        .run(&format!("SELECT pg_terminate_backend({holder_pid})"))
        .await;
    let error = loop {
        // The server needs a moment to end the session.
        if let Err(error) = snapshot.reader().await {
            break error;
        }
    };
    assert_eq!(error.code(), codes::SNAPSHOT_GONE, "{error}");
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(lines(early.as_mut(), &t, &Chunk::Whole).await, ["1"]);
}

#[tokio::test]
async fn a_table_that_was_rewritten_since_is_refused_and_not_taken_for_empty() {
    let source = database(
        "CREATE TABLE plain (a int); INSERT INTO plain VALUES (1), (2);
         CREATE TABLE root (a int) PARTITION BY LIST (a);
         CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1, 2);
         INSERT INTO root VALUES (1), (2);
         CREATE TABLE other (a int); INSERT INTO other VALUES (7);",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let snapshot = take(&source).await;
    let mut reader = snapshot.reader().await.unwrap();
    source
        .run("ALTER TABLE plain ALTER a TYPE bigint; TRUNCATE leaf")
        .await;
    for table in ["public.plain", "public.root"] {
        let table = mapping(&schema, table);
        let rows = read(
            reader.as_mut(),
            &table,
            &Chunk::Whole,
            RowFormat::PgCopyText,
        );
        let error = rows.await.unwrap_err();
        assert_eq!(error.code(), codes::TABLE_REWRITTEN, "{error}");
        assert_eq!(error.kind(), ErrorKind::Transient);
    }
    // The others are as they were, and a new snapshot shows what there is.
    let other = mapping(&schema, "public.other");
    assert_eq!(lines(reader.as_mut(), &other, &Chunk::Whole).await, ["7"]);
    let mut later = take(&source).await.reader().await.unwrap();
    let plain = mapping(&source.describe(&["public.*"]).await, "public.plain");
    let rows = lines(later.as_mut(), &plain, &Chunk::Whole).await;
    assert_eq!(rows, ["1", "2"]);
}

/// Bytes of a float are no whole number: between description and snapshot a column got another type.
#[tokio::test]
async fn a_column_that_has_another_type_than_described_is_not_read() {
    let source = database("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let t = mapping(&source.describe(&["public.*"]).await, "public.t");
    source.run("ALTER TABLE t ALTER a TYPE real").await;
    let mut reader = take(&source).await.reader().await.unwrap();
    for format in [RowFormat::PgCopyBinary, RowFormat::PgCopyText] {
        let rows = read(reader.as_mut(), &t, &Chunk::Whole, format);
        let error = rows.await.unwrap_err();
        assert_eq!(error.code(), codes::TABLE_REWRITTEN, "{error}");
        assert_eq!(error.kind(), ErrorKind::Transient);
    }
}

#[tokio::test]
async fn a_reader_goes_on_after_a_stream_was_given_up_and_after_an_error() {
    let source = database(
        "CREATE TABLE big (a text); INSERT INTO big SELECT repeat('x', 1000) FROM generate_series(1, 20000);
         CREATE TABLE small (a int); INSERT INTO small VALUES (7);",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let (big, small) = (
        mapping(&schema, "public.big"),
        mapping(&schema, "public.small"),
    );
    let snapshot = take(&source).await;
    let mut reader = snapshot.reader().await.unwrap();
    let mut rows = reader
        .read(&big, &Chunk::Whole, RowFormat::PgCopyBinary)
        .await
        .unwrap();
    assert!(rows.next().await.unwrap().is_some());
    drop(rows);
    source.run("INSERT INTO small VALUES (8)").await;
    assert_eq!(lines(reader.as_mut(), &small, &Chunk::Whole).await, ["7"]);

    let mut wrong = small.clone();
    wrong.schema.columns[0].name = "nowhere".to_owned();
    let error = read(
        reader.as_mut(),
        &wrong,
        &Chunk::Whole,
        RowFormat::PgCopyText,
    )
    .await
    .unwrap_err();
    assert_eq!(error.code(), codes::TABLE_REWRITTEN, "to be described anew");
    assert_eq!(lines(reader.as_mut(), &small, &Chunk::Whole).await, ["7"]);
}

#[tokio::test]
async fn a_table_is_locked_while_a_chunk_of_it_is_read_and_no_longer() {
    let source = database(
        "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 5000); ANALYZE;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let snapshot = take(&source).await;
    let mut other = source.connect().await;
    let lock = "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE NOWAIT; ROLLBACK";
    let chunks = snapshot.chunks(&t, 50_000).await.unwrap();
    assert!(chunks.len() > 1, "its bounds were read: {chunks:?}");
    other.run(lock).await.unwrap();

    let mut reader = snapshot.reader().await.unwrap();
    for chunk in &chunks[..2] {
        lines(reader.as_mut(), &t, chunk).await;
        let error = other.run(lock).await.unwrap_err();
        assert_eq!(error.sqlstate_code(), Some("55P03"), "{error}");
        other.run("ROLLBACK").await.unwrap();
        reader.let_go().await.unwrap();
        other.run(lock).await.unwrap();
    }
}

#[tokio::test]
async fn f15_hidden_rows_are_an_error_and_never_a_partial_load() {
    let source = database(
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2);
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (a = 1);",
    )
    .await;
    let role = format!("plain_{}", source.name);
    source
        .run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}"
        ))
        .await;
    let schema = source.describe(&["public.*"]).await;
    let url = source.server.url_with(&role, None, &source.name);
    let config = ConnectConfig::parse(&url, Side::Source).unwrap();
    let snapshot = PgSnapshot::take(config).await.unwrap();
    let mut reader = snapshot.reader().await.unwrap();
    let t = mapping(&schema, "public.t");
    for format in [RowFormat::PgCopyText, RowFormat::PgCopyBinary] {
        let error = read(reader.as_mut(), &t, &Chunk::Whole, format)
            .await
            .unwrap_err();
        assert_eq!(error.code(), codes::SOURCE_PERMISSION, "{error}");
    }
    drop((reader, snapshot));
    source
        .run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

/// Load (SQL on the source) and stream (masks over the log's text) must give the same bytes.
#[tokio::test]
async fn masks_give_on_the_source_what_they_give_in_the_stream() {
    let columns = [
        (
            "t",
            "text",
            &[
                "",
                "a@b.example",
                "@x",
                "12345678",
                "äöüßéèê🐘",
                "tab\tand\\",
            ][..],
        ),
        ("v", "varchar(20)", &["x", "4111 1111 1111 1234"]),
        ("c", "char(6)", &["ab", "abcdef", ""]),
        ("b", "bool", &["true", "false"]),
        ("i", "int", &["0", "-7"]),
        ("n", "numeric", &["1.50", "NaN", "Infinity", "-0.000"]),
        ("f", "float8", &["0.1", "-0", "1e300", "NaN"]),
        ("d", "date", &["2024-02-29", "infinity", "0044-03-15 BC"]),
        (
            "ts",
            "timestamptz",
            &["2024-01-01 12:00:00.5+02", "-infinity"],
        ),
        ("u", "uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("by", "bytea", &["\\x00ff", ""]),
        ("ip", "inet", &["10.0.0.1", "10.0.0.0/8"]),
        ("j", "jsonb", &["{\"a\": 1}"]),
        ("ar", "int[]", &["{1,NULL}", "{}"]),
        ("iv", "interval", &["1 mon -1 day"]),
        ("p", "pair", &["(,)", "(1,x)"]),
    ];
    let create: Vec<String> = columns
        .iter()
        .map(|(name, type_name, _)| format!("{name} {type_name}"))
        .collect();
    let mut script = format!(
        "CREATE TYPE pair AS (a int, b text); CREATE TABLE t (row_id int PRIMARY KEY, {});",
        create.join(", ")
    );
    for row in 0..7 {
        let values: Vec<String> = columns
            .iter()
            .map(|(_, type_name, values)| match values.get(row) {
                Some(value) => format!("'{}'::{type_name}", value.replace('\'', "''")),
                None => "NULL".to_owned(),
            })
            .collect();
        script.push_str("INSERT INTO t VALUES (");
        script.push_str(&row.to_string());
        script.push_str(", ");
        script.push_str(&values.join(", "));
        script.push_str(");");
    }
    let source = database(&script).await;
    let schema = source.describe(&["public.*"]).await;
    let plain = mapping(&schema, "public.t");
    let snapshot = take(&source).await;
    let mut reader = snapshot.reader().await.unwrap();
    let original = cells(&lines(reader.as_mut(), &plain, &Chunk::Whole).await);
    let masks = [
        Mask::Hash {
            salt: Secret::new("it's a \\ salt"),
        },
        Mask::Partial,
        Mask::Redact { constant: "***" },
        Mask::Null,
        Mask::Fixed {
            value: "it's".to_owned(),
        },
    ];
    for mask in masks {
        let mut masked = plain.clone();
        for carried in &mut masked.columns[1..] {
            carried.mask = Some(mask.clone());
            carried.target_type = TargetType::Text;
        }
        let found = cells(&lines(reader.as_mut(), &masked, &Chunk::Whole).await);
        for (row, (original, found)) in original.iter().zip(&found).enumerate() {
            for (at, (value, found)) in original.iter().zip(found).enumerate().skip(1) {
                let name = columns[at - 1].0;
                assert_eq!(
                    *found,
                    streamed(&mask, value.as_deref()),
                    "{} of column {name} in row {row}",
                    mask.word()
                );
            }
        }
    }
}

/// What the stream makes of a value.
fn streamed(mask: &Mask, value: Option<&str>) -> Option<String> {
    use tidemark_core::event::CellKind;
    let kind = if value.is_some() {
        CellKind::Text
    } else {
        CellKind::Null
    };
    if mask.kind(kind) == CellKind::Null {
        return None;
    }
    let mut out = Vec::new();
    mask.apply(value.unwrap_or_default().as_bytes(), &mut out);
    Some(String::from_utf8(out).unwrap())
}

/// Rows of text COPY, without its escapes (PostgreSQL 15, COPY, "Text Format").
fn cells(lines: &[String]) -> Vec<Vec<Option<String>>> {
    let unescaped = |cell: &str| {
        let text = cell
            .replace("\\\\", "\u{1}")
            .replace("\\t", "\t")
            .replace('\u{1}', "\\");
        (cell != "\\N").then_some(text)
    };
    let row = |line: &String| line.split('\t').map(unescaped).collect();
    lines.iter().map(row).collect()
}

#[tokio::test]
async fn masks_that_keep_the_type_are_of_that_type() {
    let source = database(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(8,2), b bool, d date);
         INSERT INTO t VALUES (1, 5.25, true, '2024-01-01'), (2, NULL, NULL, NULL);",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let mut t = mapping(&schema, "public.t");
    for carried in &mut t.columns[1..] {
        let class = t.schema.columns[carried.source].class;
        carried.mask = Some(match class {
            ValueClass::Date => Mask::Fixed {
                value: "1999-12-31".to_owned(),
            },
            class => Mask::Redact {
                constant: tidemark_core::mask::redacted(class).unwrap(),
            },
        });
    }
    let snapshot = take(&source).await;
    let mut reader = snapshot.reader().await.unwrap();
    let found = lines(reader.as_mut(), &t, &Chunk::Whole).await;
    assert_eq!(found, ["1\t0.00\tf\t1999-12-31", "2\t\\N\t\\N\t1999-12-31"]);
}

#[tokio::test]
async fn filters_decide_on_the_source_as_in_the_stream() {
    let source = database(
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE t (id int PRIMARY KEY, n numeric, txt text COLLATE \"C\", b bool, d date,
           c char(4), m mood, \"Odd \"\" name\" text);
         INSERT INTO t SELECT i, CASE WHEN i % 5 > 0 THEN i / 4.0 END,
           CASE WHEN i % 7 > 0 THEN chr(96 + i % 26) || '_' || i END, i % 3 = 0,
           date '2024-01-01' + i, i::text, CASE WHEN i % 4 > 0 THEN 'ok' ELSE 'sad' END::mood,
           CASE WHEN i % 2 = 0 THEN 'it''s \\ ' || i END
         FROM generate_series(-20, 60) AS i WHERE i % 26 <> -96;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let plain = mapping(&schema, "public.t");
    let snapshot = take(&source).await;
    let mut reader = snapshot.reader().await.unwrap();
    let all = cells(&lines(reader.as_mut(), &plain, &Chunk::Whole).await);
    for text in [
        "id > 10",
        "-5 < id AND id <= -1 OR id = 60",
        "n = 2.5 OR n IS NULL",
        "NOT (n > 1.25)",
        "n IS DISTINCT FROM 2.50",
        "txt >= 'c' AND txt < 'k'",
        "txt LIKE 'a\\_%' OR txt NOT LIKE '%_1'",
        "b OR NOT b AND id BETWEEN 1 AND 5",
        "d >= '2024-02-01'",
        "c = '7' OR c IN ('8', '9   ')",
        "m = 'sad' AND m IS NOT NULL",
        "\"Odd \"\" name\" = 'it''s \\ 4'",
        "id IN (1, 2, NULL) OR id NOT IN (3, 4, 5)",
        "b IS NOT DISTINCT FROM TRUE",
        "TRUE",
        "id = -7",
    ] {
        let filter = Filter::bind(text, &plain.schema)
            .unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        let filtered = TableMapping {
            filter: Some(filter.clone()),
            ..plain.clone()
        };
        let found = cells(&lines(reader.as_mut(), &filtered, &Chunk::Whole).await);
        let expected: Vec<_> = all
            .iter()
            .filter(|row| {
                let read = |slot: usize| match &row[filter.columns[slot]] {
                    Some(text) => Input::Text(text.as_bytes()),
                    None => Input::Null,
                };
                filter.decide(read) == Truth::True
            })
            .cloned()
            .collect();
        assert_eq!(found, expected, "{text}");
        assert!(!expected.is_empty(), "{text} selects nothing");
    }
}

#[tokio::test]
async fn text_without_encoding_is_checked_and_never_mangled() {
    let server = PostgresServer::builder()
        .encoding("SQL_ASCII")
        .start()
        .await
        .unwrap();
    server
        .execute(
            "CREATE TABLE fine (a int, t text); INSERT INTO fine VALUES (1, 'ä🐘');
             CREATE TABLE bad (a int, t text);
             INSERT INTO bad SELECT i, 'ok' FROM generate_series(1, 300) AS i;
             UPDATE bad SET t = convert_from('\\xe4', 'SQL_ASCII') WHERE a = 250;",
        )
        .await
        .unwrap();
    let config = ConnectConfig::parse(&server.url(), Side::Source).unwrap();
    let mut connection = Connection::connect(&config, Role::Ordinary).await.unwrap();
    let schema = describe(&mut connection, &selecting(&["public.*"]))
        .await
        .unwrap();
    let fine = mapping(&schema, "public.fine");
    let snapshot = PgSnapshot::take(config).await.unwrap();
    let mut reader = snapshot.reader().await.unwrap();
    assert_eq!(
        lines(reader.as_mut(), &fine, &Chunk::Whole).await,
        ["1\tä🐘"]
    );
    let bad = mapping(&schema, "public.bad");
    let set = connection
        .simple("SELECT ctid FROM public.bad WHERE a = 250")
        .await
        .unwrap();
    let ctid = set[0].rows[0].get_str(0).unwrap();
    for format in [RowFormat::PgCopyText, RowFormat::PgCopyBinary] {
        let error = read(reader.as_mut(), &bad, &Chunk::Whole, format)
            .await
            .unwrap_err();
        assert_eq!(error.code(), codes::SOURCE_TEXT_INVALID, "{error}");
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.table_name(), Some("public.bad"));
        assert!(error.to_string().contains(ctid), "{error}, not {ctid}");
    }
}

#[tokio::test]
async fn text_of_another_encoding_is_converted() {
    let server = PostgresServer::builder()
        .encoding("LATIN1")
        .start()
        .await
        .unwrap();
    server
        .execute("CREATE TABLE t (a text); INSERT INTO t VALUES (chr(228) || chr(223))")
        .await
        .unwrap();
    let config = ConnectConfig::parse(&server.url(), Side::Source).unwrap();
    let mut connection = Connection::connect(&config, Role::Ordinary).await.unwrap();
    let schema = describe(&mut connection, &selecting(&["public.*"]))
        .await
        .unwrap();
    let t = mapping(&schema, "public.t");
    let snapshot = PgSnapshot::take(config).await.unwrap();
    let mut reader = snapshot.reader().await.unwrap();
    assert_eq!(lines(reader.as_mut(), &t, &Chunk::Whole).await, ["äß"]);
    let binary = read(reader.as_mut(), &t, &Chunk::Whole, RowFormat::PgCopyBinary);
    let binary = binary.await.unwrap().concat();
    assert!(binary.windows(4).any(|bytes| bytes == "äß".as_bytes()));
}
