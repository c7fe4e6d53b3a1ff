//! What is long or wide, in bounded memory: a transaction of a million rows, one of a hundred thousand
//! savepoints, as many columns as a row can have.

use crate::asks::text;
use crate::stage::{Running, Stage};

/// The most memory that the program had, in MB.
pub(crate) fn peak_mb(run: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.unwrap().trim().trim_end_matches(" kB");
    kb.parse::<u64>().unwrap() / 1000
}

/// Starts it with little memory, and waits for the stream.
async fn start_small(stage: &Stage) -> Running {
    let run = stage.start(&["run", "FILE", "--memory", "64MB"]);
    stage.wait_for_state("streaming").await;
    run
}

/// Rows of a table, and a sum of all their values.
const SUM: &str = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM t";

async fn wait_for_equal_sums(stage: &Stage) {
    let wanted = text(&stage.source, SUM).await.unwrap();
    stage.wait_for_target(SUM, &wanted).await;
}

/// Sent while it is in progress, as by default, and sent when it has committed (PostgreSQL 15 does not
/// stream to who leaves origins out).
#[tokio::test(flavor = "multi_thread")]
async fn f29_a_million_rows_in_one_transaction_stay_within_the_memory() {
    let stage = Stage::new("large_million").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, body text)";
    stage.source_sql(table).await;
    let run = start_small(&stage).await;
    let rows = |from: u32, to: u32| {
        format!("INSERT INTO t SELECT i, md5(i::text) FROM generate_series({from}, {to}) i")
    };
    stage.source_sql(&rows(1, 1_000_000)).await;
    wait_for_equal_sums(&stage).await;
    let streamed_mb = peak_mb(&run);
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());

    stage.write("[source.postgres]\norigin = \"none\"\n");
    let run = stage.start(&["run", "FILE", "--memory", "64MB"]);
    let sql = format!(
        "{}; DELETE FROM t WHERE id % 50 = 0",
        rows(1_000_001, 1_200_000)
    );
    stage.source_sql(&sql).await;
    wait_for_equal_sums(&stage).await;
    let whole_mb = peak_mb(&run);
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    // The program itself takes some 30 MB.
    assert!(
        streamed_mb < 100,
        "{streamed_mb} MB for a streamed transaction"
    );
    assert!(whole_mb < 100, "{whole_mb} MB for a whole one");
    stage.clear().await;
}

/// Each row within a savepoint of its own; every third is rolled back to it.
#[tokio::test(flavor = "multi_thread")]
async fn f30_a_hundred_thousand_savepoints_leave_out_what_was_rolled_back() {
    let stage = Stage::new("large_savepoints").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY, body text)")
        .await;
    let run = start_small(&stage).await;
    let savepoints = "DO $$ BEGIN FOR i IN 1..100000 LOOP BEGIN
           INSERT INTO t VALUES (i, 'kept ' || i);
           IF i % 3 = 0 THEN RAISE EXCEPTION 'back'; END IF;
           IF i % 1000 = 1 THEN UPDATE t SET body = body || '.' WHERE id = i - 500; END IF;
         EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$";
    stage.source_sql(savepoints).await;
    wait_for_equal_sums(&stage).await;
    let count = text(&stage.target, "SELECT count(*) FROM t").await;
    assert_eq!(count.unwrap(), "66667");
    let mb = peak_mb(&run);
    assert!(mb < 100, "{mb} MB");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Columns of many types, so that a row of them all still fits a page.
#[tokio::test(flavor = "multi_thread")]
async fn f59_1600_columns_of_many_types_load_and_stream() {
    let stage = Stage::new("large_wide").await;
    let types = [
        ("text", "'t' || i % 7"),
        ("int", "i"),
        ("boolean", "i % 2 = 0"),
        ("bytea", "decode(to_hex(16 + i % 100), 'hex')"),
        ("smallint[]", "NULL"),
        ("jsonb", "NULL"),
        ("date", "date '2020-01-01' + i"),
        ("varchar(9)", "'ä' || i % 9"),
    ];
    let list = |of: &dyn Fn(usize) -> String| (1..1600).map(of).collect::<Vec<_>>().join(", ");
    let columns = list(&|n| format!("c{n} {}", types[n % types.len()].0));
    let values = list(&|n| types[n % types.len()].1.to_owned());
    let insert = |from: u32, to: u32| {
        format!("INSERT INTO t SELECT i, {values} FROM generate_series({from}, {to}) i")
    };
    stage
        .source_sql(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, {columns}); {}",
            insert(1, 200)
        ))
        .await;
    let run = start_small(&stage).await;
    for change in [
        insert(201, 300).as_str(),
        "UPDATE t SET c1599 = 'last', c8 = NULL, c4 = '{1,2}', c5 = '{\"a\": [1]}' WHERE id % 3 = 0",
        "UPDATE t SET id = -id WHERE id % 5 = 0; DELETE FROM t WHERE id % 7 = 0",
    ] {
        stage.source_sql(change).await;
    }
    stage.wait_until_identical().await;
    let mb = peak_mb(&run);
    assert!(mb < 120, "{mb} MB");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_cannot_be_kept_is_refused() {
    let stage = Stage::new("large_refused").await;
    for (size, why) in [("1MB", "64 MB"), ("much", "is not a size")] {
        let ran = stage
            .run(&["run", "FILE", "--memory", size])
            .await
            .expect(2);
        assert!(ran.stderr.contains("--memory"), "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    assert!(stage.slots().await.is_empty(), "nothing was made");
}
