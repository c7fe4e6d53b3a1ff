//! Memory: a limit that the kernel keeps, and what must not grow however long something lasts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tidemark_lab::server::PostgresServer;
use tidemark_lab::skip::skipped;
use tidemark_lab::wait_for;

use super::{limited, own_server, retries};
use crate::asks::text;
use crate::stage::{PATIENCE, Running, Stage};

/// A control group: the kernel ends who holds more memory than this in it.
struct Group(PathBuf);

impl Group {
    /// `None` after saying so where none can be made.
    fn new(test: &str, bytes: u64) -> Option<Group> {
        let name = format!("tidemark-{test}-{}", std::process::id());
        // Of version 1 and of version 2: Documentation/admin-guide/cgroup-v{1/memory,2}.rst.
        let kinds = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        for (root, limit) in kinds {
            let group = Group(Path::new(root).join(&name));
            if std::fs::create_dir(&group.0).is_err() {
                continue;
            }
            if std::fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        skipped(
            test,
            "no control group can be made here, and CI goes without",
        );
        None
    }

    /// What a shell does to be in it.
    fn enter(&self) -> String {
        format!("echo $$ > '{}/cgroup.procs'", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Where the test has failed, the program is still on its way out of it.
        let began = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && began.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

/// Four times what it may hold, loaded and in one transaction, with the default of `pipeline.memory`.
#[tokio::test(flavor = "multi_thread")]
async fn f57_a_gigabyte_passes_where_the_kernel_allows_256_mb() {
    let name = "f57_a_gigabyte_passes_where_the_kernel_allows_256_mb";
    let Some(group) = Group::new(name, 256 << 20) else {
        return;
    };
    let stage = Stage::new("fault_group").await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let rows = |from: u32, to: u32| {
        format!(
            "INSERT INTO t SELECT i, repeat(md5(i::text), 32768) FROM generate_series({from}, {to}) i"
        )
    };
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    stage
        .source_sql(&format!("{table}; {}", rows(1, 500)))
        .await;
    let run = stage.spawn(limited(&stage, &group.enter()));
    stage.wait_for_state("streaming").await;
    stage.source_sql(&rows(501, 1500)).await;
    let count = "SELECT count(*) FROM t WHERE v = repeat(md5(id::text), 32768)";
    stage.wait_for_target(count, "1500").await;
    assert_eq!(retries(&stage), 0, "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

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
