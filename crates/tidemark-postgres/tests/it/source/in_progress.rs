//! Transactions that the server sends before they are decided.

use tidemark_core::catalogue::codes;
use tidemark_core::position::Position;
use tidemark_lab::PostgresServer;

use super::{Fixture, Tail, on_majors, run, run_alone};

on_majors! {
    rolled_back_savepoints_take_only_their_own_rows
    seventy_savepoints_leave_what_was_released
    interleaved_transactions_come_whole_in_commit_order
    aborted_transaction_never_comes_and_boundaries_do
    shape_changes_inside_stay_inside_until_the_commit
    blocks_are_bounded_whatever_the_transaction
    stream_cut_in_the_middle_brings_the_whole_transaction_again
    prepared_transaction_comes_at_its_commit
    spool_directory_that_is_missing_is_named
}

const KEYED: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

/// Rows of about 90 bytes of log each, of which some 700 reach the 64 kB from which transactions are
/// streamed; and a message that is part of no transaction.
fn rows(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO t SELECT i, 'row ' || i FROM generate_series({from}, {to} - 1) i; \
         SELECT pg_logical_emit_message(false, 'nobody', '')"
    )
}

fn told(ranges: &[(u32, u32)]) -> Vec<String> {
    let ids = ranges.iter().flat_map(|(from, to)| *from..*to);
    let mut lines = vec!["begin".to_owned()];
    lines.extend(ids.map(|id| format!("insert t {id},row {id}")));
    lines
}

/// How many transactions the server has streamed before they were decided.
async fn streamed(fixture: &mut Fixture<'_>) -> u64 {
    let slot = fixture.options.slot.clone();
    let sql =
        format!("SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    fixture
        .ask(&sql)
        .await
        .map_or(0, |count| count.parse().unwrap())
}

/// Waits until the server has counted at least so many.
async fn wait_streamed(fixture: &mut Fixture<'_>, count: u64) {
    let deadline = tokio::time::Instant::now() + super::DEADLINE;
    while streamed(fixture).await < count {
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing was streamed"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn rolled_back_savepoints_take_only_their_own_rows(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let mut writer = fixture.session().await;
    run(&mut writer, "BEGIN").await;
    for statement in [
        &rows(0, 2000) as &str,
        "SAVEPOINT a",
        &rows(2000, 4000),
        "SAVEPOINT b",
        &rows(4000, 6000),
        "ROLLBACK TO b",
        &rows(6000, 8000),
        "SAVEPOINT c",
        &rows(8000, 10_000),
        "RELEASE c",
        "ROLLBACK TO a",
        &rows(10_000, 12_000),
        "SAVEPOINT d",
        &rows(12_000, 14_000),
        "RELEASE d",
        "COMMIT",
    ] {
        run(&mut writer, statement).await;
    }
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, told(&[(0, 2000), (10_000, 14_000)]));
    wait_streamed(&mut fixture, 1).await;
}

async fn seventy_savepoints_leave_what_was_released(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let mut writer = fixture.session().await;
    // Nested: each inside the one before. More than a snapshot lists (64) per session.
    run(&mut writer, "BEGIN").await;
    for n in 0..70 {
        run(&mut writer, &format!("SAVEPOINT s{n}")).await;
        run(&mut writer, &rows(n * 100, n * 100 + 100)).await;
    }
    run(&mut writer, "ROLLBACK TO s40").await;
    run(&mut writer, &rows(10_000, 12_000)).await;
    // Side by side: every other one is rolled back.
    for n in 0..70 {
        let from = 20_000 + n * 100;
        let end = if n % 2 == 0 {
            "RELEASE x"
        } else {
            "ROLLBACK TO x"
        };
        run(
            &mut writer,
            &format!("SAVEPOINT x; {}; {end}", rows(from, from + 100)),
        )
        .await;
    }
    run(&mut writer, "COMMIT").await;
    let head = fixture.head().await;
    let mut kept = vec![(0, 4000), (10_000, 12_000)];
    kept.extend(
        (0..70)
            .step_by(2)
            .map(|n| (20_000 + n * 100, 20_100 + n * 100)),
    );
    assert_eq!(tail.until(head).await, told(&kept));
}

async fn interleaved_transactions_come_whole_in_commit_order(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let mut writers = Vec::new();
    for _ in 0..3 {
        let mut writer = fixture.session().await;
        run(&mut writer, "BEGIN").await;
        writers.push(writer);
    }
    for step in 0..5 {
        for (n, writer) in (0..).zip(writers.iter_mut()) {
            let from = n * 100_000 + step * 1000;
            run(writer, &rows(from, from + 1000)).await;
        }
        fixture.run(&rows(900_000 + step, 900_001 + step)).await;
    }
    let mut expected: Vec<String> = (0..5)
        .flat_map(|n| told(&[(900_000 + n, 900_001 + n)]))
        .collect();
    for n in [1, 2, 0] {
        let writer = &mut writers[n as usize];
        run(writer, "COMMIT").await;
        expected.extend(told(&[(n * 100_000, n * 100_000 + 5000)]));
        fixture.run(&rows(910_000 + n, 910_001 + n)).await;
        expected.extend(told(&[(910_000 + n, 910_001 + n)]));
    }
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, expected);
    wait_streamed(&mut fixture, 3).await;
}

async fn aborted_transaction_never_comes_and_boundaries_do(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let mut writer = fixture.session().await;
    run(&mut writer, "BEGIN").await;
    run(&mut writer, &rows(0, 5000)).await;
    // While it is in progress, others pass and the stream says how far it is.
    fixture.run("INSERT INTO t VALUES (9999, 'row 9999')").await;
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, told(&[(9999, 10_000)]));
    run(&mut writer, "ROLLBACK").await;
    fixture.run("INSERT INTO t VALUES (9998, 'row 9998')").await;
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, told(&[(9998, 9999)]));
    wait_streamed(&mut fixture, 1).await;
}

async fn shape_changes_inside_stay_inside_until_the_commit(server: &PostgresServer) {
    let schema =
        "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE u (id int PRIMARY KEY)";
    let (mut fixture, source, start) = Fixture::streaming(server, schema, &["t", "u"]).await;
    let mut tail = Tail::open(&source, start).await;
    tail.tell_tables = true;
    fixture
        .run("INSERT INTO t VALUES (0, 'row 0'); INSERT INTO u VALUES (0)")
        .await;
    let mut writer = fixture.session().await;
    run(&mut writer, "BEGIN").await;
    run(&mut writer, &rows(1, 2000)).await;
    run(&mut writer, "SAVEPOINT a; ALTER TABLE t ADD gone int").await;
    run(&mut writer, &rows(2000, 4000)).await;
    run(
        &mut writer,
        "ROLLBACK TO a; ALTER TABLE t ADD more int DEFAULT 1",
    )
    .await;
    run(&mut writer, &rows(4000, 6000)).await;
    fixture.run("INSERT INTO u VALUES (1)").await;
    let head = fixture.head().await;
    let table_t = "table public.t (id,note) Key([0])";
    let table_u = "table public.u (id) Key([0])";
    assert_eq!(
        tail.until(head).await,
        [
            "begin",
            table_t,
            "insert t 0,row 0",
            table_u,
            "insert u 0",
            "begin",
            "insert u 1"
        ]
    );
    run(&mut writer, "COMMIT").await;
    fixture
        .run("INSERT INTO t VALUES (6000, 'row 6000', 2)")
        .await;
    let head = fixture.head().await;
    let told = tail.until(head).await;
    assert_eq!(told.len(), 1 + 1999 + 1 + 2000 + 2);
    assert_eq!(told[2000], "table public.t (id,note,more) Key([0])");
    assert_eq!(told[2001], "insert t 4000,row 4000,1");
    assert_eq!(told[4001..], ["begin", "insert t 6000,row 6000,2"]);
}

async fn blocks_are_bounded_whatever_the_transaction(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let mut writer = fixture.session().await;
    run(&mut writer, "BEGIN").await;
    run(
        &mut writer,
        "INSERT INTO t SELECT i, repeat('x', 400) FROM generate_series(1, 30000) i",
    )
    .await;
    // One row that is larger than a block.
    run(
        &mut writer,
        "INSERT INTO t SELECT 0, string_agg(md5(i::text), '') FROM generate_series(1, 90000) i",
    )
    .await;
    run(
        &mut writer,
        "INSERT INTO t SELECT -i, repeat('y', 400) FROM generate_series(1, 10000) i",
    )
    .await;
    run(&mut writer, "COMMIT").await;
    let head = fixture.head().await;
    let told = tail.until(head).await;
    assert_eq!(told.len(), 40_002);
    assert_eq!(told[30_001], "insert t 0,2880000 bytes");
    assert!(tail.block_bytes_max < 3_000_000, "{}", tail.block_bytes_max);
    wait_streamed(&mut fixture, 1).await;
}

async fn stream_cut_in_the_middle_brings_the_whole_transaction_again(server: &PostgresServer) {
    let spool = tempfile::tempdir().unwrap();
    let (mut fixture, _, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    fixture.options.spool_dir = spool.path().to_owned();
    let source = fixture.source();
    let mut tail = Tail::open(&source, start).await;
    let mut writer = fixture.session().await;
    run(&mut writer, "BEGIN").await;
    run(&mut writer, &rows(0, 20_000)).await;
    fixture.run(&rows(90_000, 90_001)).await;
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, told(&[(90_000, 90_001)]));
    // What committed so far is durable; the other one is half on our disk, without a name.
    let durable = tail.reached;
    tail.stream.acknowledge(durable);
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
    tail.stream.close().await.unwrap();
    run(&mut writer, &rows(20_000, 21_000)).await;
    run(&mut writer, "COMMIT").await;
    let head = fixture.head().await;
    let mut tail = Tail::open(&source, durable).await;
    assert_eq!(tail.until(head).await, told(&[(0, 21_000)]));
}

async fn prepared_transaction_comes_at_its_commit(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let name = fixture.database.clone();
    for (part, from) in [("small", 0), ("large", 1000), ("undone", 10_000)] {
        let to = if part == "small" {
            from + 1
        } else {
            from + 3000
        };
        let sql = format!(
            "BEGIN; {}; PREPARE TRANSACTION '{name}_{part}'",
            rows(from, to)
        );
        fixture.run(&sql).await;
    }
    fixture.run(&rows(90_000, 90_001)).await;
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, told(&[(90_000, 90_001)]));
    for end in [
        "COMMIT PREPARED '{}_large'",
        "ROLLBACK PREPARED '{}_undone'",
        "COMMIT PREPARED '{}_small'",
    ] {
        run_alone(&mut fixture.sql, &end.replace("{}", &name)).await;
    }
    let head = fixture.head().await;
    let expected = [told(&[(1000, 4000)]), told(&[(0, 1)])].concat();
    assert_eq!(tail.until(head).await, expected);
}

async fn spool_directory_that_is_missing_is_named(server: &PostgresServer) {
    let (mut fixture, _, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    fixture.options.spool_dir = "/nonexistent/spool".into();
    let source = fixture.source();
    let mut tail = Tail::open(&source, start).await;
    fixture
        .run(&format!("BEGIN; {}; COMMIT", rows(0, 20_000)))
        .await;
    let error = tail.until_error().await;
    assert_eq!(error.code(), codes::SPOOL_FAILED, "{error}");
    assert!(error.to_string().contains("/nonexistent/spool"), "{error}");
    let reached: Position = tail.reached;
    assert!(reached >= start);
}
