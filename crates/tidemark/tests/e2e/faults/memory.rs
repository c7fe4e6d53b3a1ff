//! Memory: what must not grow however long something lasts.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use super::own_server;
use crate::asks::text;
use crate::stage::{PATIENCE, Running, Stage};

/// What the kernel says of the memory of a run, in kB.
fn of_process(run: &Running, name: &str) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kb = line.unwrap().trim_matches([':', ' ', '\t']);
    kb.trim_end_matches(" kB").parse().unwrap()
}

/// Many transactions of others, each a commit of its own.
async fn others_commit(stage: &Stage, count: u32) {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{count} LOOP UPDATE t SET n = n + 1 WHERE id = i % 100; COMMIT; \
         END LOOP; END $$"
    );
    stage.source_sql(&sql).await;
    let sum = text(&stage.source, "SELECT sum(n) FROM t").await.unwrap();
    stage.wait_for_target("SELECT sum(n) FROM t", &sum).await;
}

/// Hours of it are many commits of others between two small changes of the one that is open.
#[tokio::test(flavor = "multi_thread")]
async fn f32_a_transaction_that_is_open_for_long_costs_no_memory_and_is_named() {
    let source = own_server(&[("logical_decoding_work_mem", "64kB")]).await;
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "fault_open").await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(0, 99) i;
             CREATE TABLE slow (id int PRIMARY KEY, v text)",
        )
        .await;
    let run = stage.start_streaming().await;
    let open = source.client_to(&stage.source_name).await.unwrap();
    let pid = text(&open, "SELECT pg_backend_pid()").await.unwrap();
    let pid: i64 = pid.parse().unwrap();
    // Enough that it is sent while it is in progress, and a little more each time.
    let change = |round: u32| {
        let from = round * 1000;
        format!(
            "INSERT INTO slow SELECT {from} + i, repeat('x', 100) FROM generate_series(1, 700) i"
        )
    };
    open.batch_execute(&format!("BEGIN; {}", change(0)))
        .await
        .unwrap();
    let began = stage.head().await;
    let pinned = format!(
        "SELECT restart_lsn <= '{began}' FROM pg_replication_slots WHERE slot_name = 'tidemark_fault_open'"
    );
    for _ in 0..3 {
        others_commit(&stage, 1000).await;
    }
    let first = of_process(&run, "VmRSS");
    let mut highest = first;
    for round in 1..=12 {
        open.batch_execute(&change(round)).await.unwrap();
        others_commit(&stage, 1500).await;
        highest = highest.max(of_process(&run, "VmRSS"));
    }
    assert!(
        highest - first < 6_000,
        "from {first} kB to {highest} kB in 18,000 transactions"
    );
    assert_eq!(text(&stage.source, &pinned).await.unwrap(), "t");
    let lag = wait_for(PATIENCE, "what keeps the log to be named", || async {
        let lag = stage.run(&["lag", "FILE", "--json"]).await.json();
        let pins = lag["data"]["slot"]["pins"].as_array().cloned();
        let pin = pins.into_iter().flatten().find(|pin| {
            pin["kind"] == "transaction" && pin["holds_log"] == true && pin["pid"] == pid
        });
        anyhow::ensure!(pin.is_some(), "{lag}");
        Ok(pin)
    });
    assert!(lag.await.unwrap()["pid"].is_number());
    open.batch_execute("COMMIT").await.unwrap();
    stage.wait_until_identical().await;
    let rows = text(&stage.target, "SELECT count(*) FROM slow").await;
    assert_eq!(rows.unwrap(), "9100");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}
