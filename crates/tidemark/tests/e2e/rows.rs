//! Rows of unusual size, shape and number: huge values, as many columns as there can be, none at all,
//! hundreds of tables, and a transaction that is streamed while it runs.

use std::time::{Duration, Instant};

use tidemark_core::failpoint;
use tidemark_lab::server::PostgresServer;

use crate::asks::text;
use crate::large::peak_mb;
use crate::stage::Stage;

/// A value of 100 MB, which neither its text nor its bytes can be pressed smaller.
const LARGE: &str = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 3125000) i)";

#[tokio::test(flavor = "multi_thread")]
async fn f57_values_of_100_mb_pass_in_bounded_memory() {
    let stage = Stage::new("rows_large").await;
    stage
        .source_sql(&format!(
            "CREATE TABLE large (id int PRIMARY KEY, t text, b bytea, note text);
             ALTER TABLE large ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
             INSERT INTO large VALUES (1, {LARGE}, NULL, 'loaded');
             INSERT INTO large SELECT 2, NULL, t::bytea, 'loaded' FROM large"
        ))
        .await;
    let run = stage.start_streaming().await;
    let loading_mb = peak_mb(&run);
    for change in [
        "INSERT INTO large SELECT 3, t, NULL, 'streamed' FROM large WHERE id = 1",
        "UPDATE large SET note = 'unchanged', id = 4 WHERE id = 3",
        "UPDATE large SET t = reverse(t) WHERE id = 1",
        "UPDATE large SET b = b || '\\x00' WHERE id = 2",
        "INSERT INTO large VALUES (5, '', '', 'last')",
    ] {
        stage.source_sql(change).await;
    }
    stage
        .wait_for_target("SELECT count(*) FROM large", "4")
        .await;
    let streaming_mb = peak_mb(&run);
    stage.assert_identical().await;
    // A row of a load passes in pieces. In the log bytes are 200 MB of text, which is held once; and
    // the next row may have come while one is applied.
    assert!(loading_mb < 100, "{loading_mb} MB while loading");
    assert!(streaming_mb < 500, "{streaming_mb} MB while streaming");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A row that waits in the target is written to and read from there as it is.
#[tokio::test(flavor = "multi_thread")]
async fn f57_parked_values_of_100_mb_pass_in_bounded_memory() {
    let stage = Stage::new("rows_parked").await;
    stage
        .source_sql(&format!(
            "CREATE TABLE large (id int PRIMARY KEY, t text); ALTER TABLE large ALTER t SET STORAGE EXTERNAL;
             INSERT INTO large VALUES (1, {LARGE})"
        ))
        .await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let run = stage.start_streaming().await;
    let of_table = ["--table", "public.large"];
    let pause = [&["pause", "FILE"][..], &of_table].concat();
    stage.run(&pause).await.expect(0);
    stage.source_sql("UPDATE large SET t = reverse(t)").await;
    let parked = "SELECT count(*) FROM tidemark.parked";
    stage.wait_for_target(parked, "1").await;
    let parking_mb = peak_mb(&run);
    let resume = [&["resume", "FILE"][..], &of_table].concat();
    stage.run(&resume).await.expect(0);
    stage.wait_for_target(parked, "0").await;
    stage.wait_for_table("public.large", "streaming").await;
    let taking_back_mb = peak_mb(&run);
    stage.assert_identical().await;
    assert!(parking_mb < 250, "{parking_mb} MB while parking");
    assert!(
        taking_back_mb < 250,
        "{taking_back_mb} MB while taking back"
    );
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// What PostgreSQL allows and few programs expect.
fn odd_tables() -> String {
    let list = |of: &dyn Fn(u32) -> String| (1..=1600).map(of).collect::<Vec<_>>().join(", ");
    format!(
        "CREATE TABLE widest ({columns}); ALTER TABLE widest REPLICA IDENTITY FULL;
         INSERT INTO widest VALUES ({values});
         CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
         CREATE TABLE only_key (a int, b text, PRIMARY KEY (b, a));
         INSERT INTO only_key SELECT i % 10, 'b' || i FROM generate_series(1, 100) i;
         CREATE TABLE only_default (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
         INSERT INTO only_default DEFAULT VALUES;
         CREATE TABLE computed (id int GENERATED ALWAYS AS (7) STORED);
         INSERT INTO computed DEFAULT VALUES; INSERT INTO computed DEFAULT VALUES;
         CREATE TABLE empty_value (id int PRIMARY KEY, t text, c char(3), b bytea, a text[]);
         INSERT INTO empty_value VALUES (1, '', '', '', '{{}}'), (2, NULL, NULL, NULL, NULL), (3, ' ', ' ', '\\x00', '{{\"\"}}');",
        columns = list(&|n| format!("c{n} smallint")),
        values = list(&|n| if n % 7 == 0 { "NULL".to_owned() } else { n.to_string() }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_odd_shapes_load_and_stream() {
    let stage = Stage::new("rows_odd").await;
    stage.source_sql(&odd_tables()).await;
    let run = stage.start_streaming().await;
    for change in [
        "INSERT INTO widest SELECT * FROM widest; UPDATE widest SET c1600 = 0, c7 = 7, c2 = NULL",
        "INSERT INTO widest (c1) VALUES (0); DELETE FROM widest WHERE c7 = 7 AND ctid = (SELECT max(ctid) \
           FROM widest WHERE c7 = 7)",
        "INSERT INTO nothing DEFAULT VALUES",
        "INSERT INTO only_key VALUES (1, ''), (0, 'b'); UPDATE only_key SET a = a + 1000 WHERE a % 2 = 0",
        "BEGIN; UPDATE only_key SET b = b || '!'; DELETE FROM only_key WHERE a < 3; COMMIT",
        "INSERT INTO only_default DEFAULT VALUES; DELETE FROM only_default WHERE id = 1",
        "INSERT INTO computed DEFAULT VALUES",
        "INSERT INTO empty_value SELECT id + 10, t, c, b, a FROM empty_value",
        "UPDATE empty_value SET t = NULL, c = NULL, b = NULL, a = NULL WHERE id = 1",
        "UPDATE empty_value SET t = '', c = '', b = '', a = '{}' WHERE id = 2",
    ] {
        stage.source_sql(change).await;
    }
    let outcome = stage.wait_until_identical().await;
    assert_eq!(outcome.table("public", "nothing").unwrap().target_rows, 3);
    assert_eq!(outcome.table("public", "computed").unwrap().target_rows, 3);
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f59_hundreds_of_tables_in_many_schemas_load_and_stream() {
    let stage = Stage::new("rows_many").await;
    stage
        .source_sql(
            "DO $$ BEGIN FOR s IN 1..30 LOOP
               EXECUTE format('CREATE SCHEMA tenant_%s', s);
               FOR t IN 1..10 LOOP
                 EXECUTE format('CREATE TABLE tenant_%s.t%s (id int PRIMARY KEY, body text)', s, t);
                 EXECUTE format('INSERT INTO tenant_%s.t%s SELECT i, %L || i FROM generate_series(1, 5) i',
                                s, t, s || '/' || t || '/');
               END LOOP; END LOOP; END $$;
             CREATE SCHEMA other; CREATE TABLE other.t1 (id int)",
        )
        .await;
    stage.write("[tables]\ninclude = [\"tenant_*.*\"]\n");
    let run = stage.start_streaming().await;
    // One transaction over all tables, then one for each.
    stage
        .source_sql(
            "DO $$ BEGIN FOR s IN 1..30 LOOP FOR t IN 1..10 LOOP
               EXECUTE format('UPDATE tenant_%s.t%s SET body = body || %L WHERE id < 3', s, t, '+');
             END LOOP; END LOOP; END $$",
        )
        .await;
    stage
        .source_sql(
            "DO $$ BEGIN FOR s IN 1..30 LOOP FOR t IN 1..10 LOOP
               EXECUTE format('DELETE FROM tenant_%s.t%s WHERE id = 4', s, t);
               EXECUTE format('INSERT INTO tenant_%s.t%s VALUES (6, %L)', s, t, s);
               COMMIT;
             END LOOP; END LOOP; END $$",
        )
        .await;
    let mut wanted = stage.comparison();
    for schema in 1..=30 {
        for table in 1..=10 {
            wanted = wanted.only(&format!("tenant_{schema}"), &format!("t{table}"));
        }
    }
    stage.wait_for_equal(wanted).await;
    let count = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^t[0-9]+$'";
    assert_eq!(text(&stage.target, count).await.unwrap(), "300", "no other");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// The end of a transaction that goes to the target in parts may come with no change of its own, when
/// the last part took all there were.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_fills_its_parts_is_committed_at_once() {
    let source = PostgresServer::builder().setting("logical_decoding_work_mem", "64kB");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "rows_parts").await;
    stage.write("[stream]\nbatch_rows = 300\nheartbeat_interval = \"0 s\"\n");
    let table = "CREATE TABLE t (id int PRIMARY KEY, body text)";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    // What was committed just before is still to be made durable when the parts are in.
    for round in 1..=3 {
        stage
            .source_sql(&format!(
                "INSERT INTO t VALUES (-{round}, 'before'); BEGIN; INSERT INTO t \
                 SELECT i, repeat('x', 300) FROM generate_series({round} * 10000, {round} * 10000 + 899) i; \
                 COMMIT"
            ))
            .await;
        let count = (901 * round).to_string();
        stage
            .wait_for_target("SELECT count(*) FROM t", &count)
            .await;
    }
    stage.assert_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A small memory for decoding makes the source send transactions while they run, rolled back parts
/// included; these must leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn f30_a_streamed_transaction_leaves_out_what_was_rolled_back() {
    let source = PostgresServer::builder().setting("logical_decoding_work_mem", "64kB");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "rows_streamed").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE keyless (n int, body text);
             INSERT INTO t SELECT i, 'loaded' FROM generate_series(1, 1000) i",
        )
        .await;
    let run = stage.start_streaming().await;
    stage.source_sql("BEGIN").await;
    for part in 0..20 {
        let rows = |table: &str, from: u32| {
            format!(
                "INSERT INTO {table} SELECT i, md5(i::text) FROM generate_series({from}, {}) i;",
                from + 4999
            )
        };
        let from = 10_000 * (part + 1);
        let (kept, gone) = (rows("t", from), rows("t", from + 5000));
        let sql = format!(
            "{kept} {keyless} SAVEPOINT a; {gone} UPDATE t SET body = 'gone' WHERE id % 10 = {part};
             DELETE FROM t WHERE id <= 100; SAVEPOINT b; {lost} RELEASE SAVEPOINT b; ROLLBACK TO a;
             UPDATE t SET body = 'kept {part}', id = -id WHERE id > 0 AND id % 20 = {part}; RELEASE SAVEPOINT a;",
            keyless = rows("keyless", from),
            lost = rows("keyless", 1),
        );
        stage.source_sql(&sql).await;
    }
    stage.source_sql("COMMIT").await;
    // All of another one is in vain, although it was sent.
    let all_gone = "BEGIN; INSERT INTO keyless SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; \
                    UPDATE t SET body = 'never'; ROLLBACK";
    stage.source_sql(all_gone).await;
    stage.source_sql("INSERT INTO t VALUES (0, 'last')").await;
    let outcome = stage.wait_until_identical().await;
    assert_eq!(outcome.rows(), 201_001);
    let streamed = "SELECT count(*) FROM pg_stat_replication_slots \
                    WHERE slot_name = 'tidemark_rows_streamed' AND stream_txns >= 2";
    let streamed = text(&stage.source, streamed).await.unwrap();
    assert_eq!(streamed, "1", "sent while they ran");
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}

/// Whether the pipeline has a transaction open on the target.
const OPEN: &str = "SELECT count(backend_xid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name LIKE 'tidemark%'";

/// Opens a transaction on the source, and writes until the target has it open as well. Not every one is
/// tried, and one that falls silent on a busy machine is given up: then another is opened.
async fn begin_in_progress(stage: &Stage, next: &mut u32) {
    for _ in 0..40 {
        stage.source_sql("BEGIN").await;
        let began = Instant::now();
        let mut rows = 30_000;
        while began.elapsed() < Duration::from_secs(2) {
            let sql = format!(
                "INSERT INTO t SELECT i, md5(i::text) FROM generate_series({next}, {}) i",
                *next + rows - 1
            );
            stage.source_sql(&sql).await;
            *next += rows;
            rows = 200;
            if text(&stage.target, OPEN).await.unwrap() == "1" {
                return;
            }
        }
        stage.source_sql("ROLLBACK").await;
    }
    panic!("no transaction was applied as it came\n{}", stage.log());
}

/// A large transaction is in the target's open transaction while it runs on the source, and nothing of
/// it counts there before it has committed: it is undone when it is rolled back, when another one
/// commits first, when it keeps everybody waiting, and when the run is to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_in_progress_is_applied_as_it_comes() {
    let source = PostgresServer::builder().setting("logical_decoding_work_mem", "64kB");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "rows_in_progress").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY, body text)")
        .await;
    let other = source.client_to(&stage.source_name).await.unwrap();
    let run = stage.start_streaming().await;
    let mut next = 1;

    begin_in_progress(&stage, &mut next).await;
    let counted = text(&stage.target, "SELECT count(*) FROM t").await;
    assert_eq!(counted.unwrap(), "0", "it has not committed");
    stage.source_sql("COMMIT").await;
    stage.wait_until_identical().await;

    // Silence.
    begin_in_progress(&stage, &mut next).await;
    stage.wait_for_target(OPEN, "0").await;
    stage.source_sql("COMMIT").await;
    stage.wait_until_identical().await;

    // Another one commits first, and what it wrote does not wait.
    begin_in_progress(&stage, &mut next).await;
    let first = "INSERT INTO t VALUES (0, 'first')";
    other.batch_execute(first).await.unwrap();
    let came = "SELECT count(*) FROM t WHERE id = 0";
    stage.wait_for_target(came, "1").await;
    stage.source_sql("COMMIT").await;
    stage.wait_until_identical().await;

    begin_in_progress(&stage, &mut next).await;
    stage.source_sql("ROLLBACK").await;
    stage.wait_for_target(OPEN, "0").await;
    stage.assert_identical().await;

    // A stop does not wait for what is in progress.
    begin_in_progress(&stage, &mut next).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.source_sql("COMMIT").await;
    stage.catch_up().await;
    stage.assert_identical().await;
}

/// Killed when the parts of a transaction in progress are undone: it comes again, whole, and once.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_when_a_transaction_in_progress_is_undone_costs_nothing() {
    let source = PostgresServer::builder().setting("logical_decoding_work_mem", "64kB");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "rows_undone").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY, body text)")
        .await;
    let other = source.client_to(&stage.source_name).await.unwrap();
    stage.catch_up().await;
    // What a busy machine lets fall silent is undone as well: whichever comes first.
    let mut command = stage.command(&["run", "FILE"]);
    command.env("TIDEMARK_FAILPOINT", failpoint::UNDONE.name());
    let mut run = stage.spawn(command);
    stage.source_sql("BEGIN").await;
    let mut next = 1;
    while run.is_running() {
        let rows = format!(
            "INSERT INTO t SELECT i, md5(i::text) FROM generate_series({next}, {}) i",
            next + 19_999
        );
        stage.source_sql(&rows).await;
        next += 20_000;
        let first = format!("INSERT INTO t VALUES (-{next}, 'first')");
        other.batch_execute(&first).await.unwrap();
        assert!(next < 4_000_000, "nothing is undone\n{}", stage.log());
    }
    assert_eq!(run.killed_by().await, Some(9), "{}", stage.log());
    stage.source_sql("COMMIT").await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// What cannot be undone, or changes how rows are read, waits for the decision.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_may_change_more_than_rows() {
    let source = PostgresServer::builder().setting("logical_decoding_work_mem", "64kB");
    let source = Box::leak(Box::new(source.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "rows_more").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE u (id int PRIMARY KEY);
             INSERT INTO t SELECT i, 'loaded' FROM generate_series(1, 1000) i",
        )
        .await;
    let run = stage.start_streaming().await;
    let insert = "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(2001, 12000) i";
    for more in [
        "ALTER TABLE t ADD COLUMN n int DEFAULT 7",
        // Not tried, after what went before.
        "INSERT INTO u VALUES (1)",
        "TRUNCATE t",
        "INSERT INTO u VALUES (2)",
        "INSERT INTO u VALUES (3)",
        "DROP TABLE u; CREATE TABLE u (id int PRIMARY KEY)",
    ] {
        let sql = format!(
            "DELETE FROM t WHERE id > 2000; BEGIN; {more}; {insert}; UPDATE t SET body = body || '.'; \
             INSERT INTO u SELECT generate_series(1001, 9000); COMMIT; \
             DELETE FROM u WHERE id > 1000"
        );
        stage.source_sql(&sql).await;
        stage.wait_until_identical().await;
    }
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}
