//! Tables that are copied anew while the others stream, and readers who must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_lab::traffic::{Ending, Pace, Script, Traffic, Workload};
use tidemark_lab::{Random, wait_for};

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};
use crate::writing::Writers;

/// `big` is what is copied anew; it only grows, so that a reader can tell a loss. `parent` and
/// `child` point to it and from it.
pub(crate) const TABLES: &str = "CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE big (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int REFERENCES parent,
      v text, n int DEFAULT 0, seat int UNIQUE);
    CREATE INDEX big_v ON big (v);
    CREATE TABLE child (id int PRIMARY KEY, big bigint REFERENCES big);
    INSERT INTO parent SELECT generate_series(1, 10);
    INSERT INTO big (parent, v) SELECT 1 + i % 10, repeat(md5(i::text), 3)
      FROM generate_series(1, 30000) i;
    INSERT INTO child SELECT i, i FROM generate_series(1, 100) i; ANALYZE;";

/// Writes to `big`: rows appear and change, none goes.
#[derive(Clone, Copy)]
struct Growing;

impl Workload for Growing {
    fn setup(&self) -> String {
        TABLES.to_owned()
    }

    fn transaction(&self, _writer: usize, random: &mut Random) -> Script {
        let (id, other) = (1 + random.below(30_000), 1 + random.below(30_000));
        let sql = format!(
            "BEGIN; INSERT INTO big (parent, v) VALUES ({}, 'new {id}');
             UPDATE big SET n = n + 1, v = v || '+' WHERE id = {id};
             UPDATE big SET seat = NULL WHERE seat = {};
             UPDATE big SET seat = {} WHERE id = {other}; COMMIT",
            1 + random.below(10),
            id % 50,
            id % 50,
        );
        let ending = Ending::Commit;
        Script { sql, ending }
    }
}

/// Reads `big` on the target over and over, and fails the moment there are fewer rows than before.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, Option<String>)>,
}

impl Reader {
    pub(crate) async fn start(stage: &Stage) -> Reader {
        let client = stage.target_server.client_to(&stage.target_name).await;
        let client = client.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut looks, mut before) = (0, 0);
            while !stopped.load(Ordering::SeqCst) {
                let now: i64 = match client.query_one("SELECT count(*) FROM big", &[]).await {
                    Ok(row) => row.get(0),
                    Err(err) => return (looks, Some(format!("{err:?}"))),
                };
                if now < before {
                    return (looks, Some(format!("{now} rows after {before}")));
                }
                (looks, before) = (looks + 1, now);
            }
            (looks, None)
        });
        Reader { stop, task }
    }

    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let (looks, wrong) = self.task.await.unwrap();
        assert_eq!(wrong, None, "after {looks} looks");
        looks
    }
}

/// A pipeline that streams, with writers to `big` and others.
struct Busy {
    stage: Stage,
    growing: Traffic,
    others: Writers,
}

impl Busy {
    async fn start(name: &str, seed: u64) -> Busy {
        let stage = Stage::new(name).await;
        stage.write("[load]\nchunk_size = \"1 MB\"\n");
        let config = stage.source_config();
        Traffic::set_up(&config, &Growing).await.unwrap();
        Writers::set_up(&stage).await;
        stage.catch_up().await;
        // Rows that are wrong and rows that went missing are what a resync is for.
        let harm = "UPDATE big SET v = 'wrong' WHERE id % 7 = 0; DELETE FROM big WHERE id % 11 = 0 \
                    AND id > 100";
        stage.target_sql(harm).await;
        let growing = Traffic::start(&config, &Growing, Pace::at(100.0, seed));
        let others = Writers::start(&stage, seed + 1);
        others.busy(10).await;
        Busy {
            stage,
            growing,
            others,
        }
    }

    /// Waits until transfers of now are on the target, while `big` is resynced.
    async fn others_arrive_during_the_resync(&self) {
        let newest = "SELECT max(id) FROM bank_transfers";
        let wanted: i64 = self
            .stage
            .source
            .query_one(newest, &[])
            .await
            .unwrap()
            .get(0);
        wait_for(PATIENCE, "other tables to stream", || async {
            let now: Option<i64> = self.stage.target.query_one(newest, &[]).await?.get(0);
            Ok((now >= Some(wanted)).then_some(()))
        })
        .await
        .unwrap();
        let state = "SELECT state FROM tidemark.table_state WHERE source_name = 'big'";
        let state = text(&self.stage.target, state).await.unwrap();
        assert_eq!(state, "resyncing", "meanwhile");
        self.stage.wait_for_table("public.big", "resyncing").await;
    }

    async fn stop_writers(self) -> Stage {
        self.growing.stop().await.unwrap();
        self.others.stop().await;
        self.stage
    }
}

/// Waits until the target has this state of `big`; the program says it too, a second later.
async fn wait_for_recorded(stage: &Stage, state: &str) {
    let sql = "SELECT state FROM tidemark.table_state WHERE source_name = 'big'";
    stage.wait_for_target(sql, state).await;
}

/// What hangs on a table: its indexes, constraints (proven or not), who may read it.
async fn belongings(stage: &Stage) -> String {
    let sql = "SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT indexdef AS line FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT relname || ' ' || coalesce(relacl::text, 'no acl') FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r') lines";
    text(&stage.target, sql).await.unwrap()
}

/// Slow enough that something can happen within a resync.
const SLOWLY: &str = "load.max_source_rows_per_second=6000";

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_is_not_noticed_by_readers_and_holds_no_other_table_up() {
    let busy = Busy::start("resync_swap", 201).await;
    let stage = &busy.stage;
    stage.target_sql("GRANT SELECT ON big TO pg_monitor").await;
    let before = belongings(stage).await;
    let run = stage.start(&["run", "FILE", "--set", SLOWLY]);
    stage.wait_for_state("streaming").await;
    let reader = Reader::start(stage).await;
    let resync = ["resync", "FILE", "--table", "public.big", "--yes"];
    let (resynced, ()) = tokio::join!(stage.run(&resync), async {
        wait_for_recorded(stage, "resyncing").await;
        busy.others_arrive_during_the_resync().await;
    });
    let said = resynced.expect(0);
    assert!(
        said.stdout.contains("resynced public.big"),
        "{}",
        said.stdout
    );
    stage.wait_for_table("public.big", "streaming").await;
    let looks = reader.stop().await;
    assert!(looks > 20, "the reader looked: {looks}");
    let stage = busy.stop_writers().await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    assert_eq!(belongings(&stage).await, before);
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncating_resync_ends_equal_and_keeps_what_hangs_on_the_table() {
    let busy = Busy::start("resync_truncate", 211).await;
    let stage = &busy.stage;
    let before = belongings(stage).await;
    let run = stage.start(&["run", "FILE", "--set", SLOWLY]);
    stage.wait_for_state("streaming").await;
    let resync = [
        "resync",
        "FILE",
        "--table",
        "public.big",
        "--strategy",
        "truncate",
        "--yes",
        "--no-wait",
    ];
    stage.run(&resync).await.expect(0);
    wait_for_recorded(stage, "resyncing").await;
    busy.others_arrive_during_the_resync().await;
    stage.wait_for_table("public.big", "streaming").await;
    let stage = busy.stop_writers().await;
    stage.wait_until_identical().await;
    wait_for(PATIENCE, "foreign keys to be made again", || async {
        let now = belongings(&stage).await;
        anyhow::ensure!(now == before, "{now}\n--- instead of\n{before}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_that_is_killed_starts_again_with_the_next_run() {
    for (name, strategy, seed) in [("swap", "swap", 221), ("truncate", "truncate", 231)] {
        let busy = Busy::start(&format!("resync_killed_{name}"), seed).await;
        let stage = &busy.stage;
        let before = belongings(stage).await;
        let run = stage.start(&["run", "FILE", "--set", SLOWLY]);
        stage.wait_for_state("streaming").await;
        let resync = [
            "resync",
            "FILE",
            "--table",
            "public.big",
            "--strategy",
            strategy,
            "--yes",
            "--no-wait",
        ];
        stage.run(&resync).await.expect(0);
        let loaded = "SELECT count(*) FILTER (WHERE is_loaded) || ' of ' || count(*) \
                      FROM tidemark.unit WHERE source_name = 'big'";
        wait_for(PATIENCE, "a part to be in", || async {
            let state = "SELECT state FROM tidemark.table_state WHERE source_name = 'big'";
            let state = text(&stage.target, state).await?;
            let loaded = text(&stage.target, loaded).await?;
            let (is, all) = loaded.split_once(" of ").unwrap();
            Ok((state == "resyncing" && is != all && is != "0").then_some(()))
        })
        .await
        .unwrap();
        run.kill9().await;
        busy.others.busy(20).await;
        let table = stage.table("public.big").await;
        assert_eq!(
            table["state"], "resyncing",
            "told while nobody runs it: {table}"
        );

        let run = stage.start(&["run", "FILE"]);
        stage.wait_for_table("public.big", "streaming").await;
        let stage = busy.stop_writers().await;
        stage.wait_until_identical().await;
        wait_for(PATIENCE, "foreign keys to be made again", || async {
            let now = belongings(&stage).await;
            anyhow::ensure!(now == before, "{now}\n--- instead of\n{before}");
            Ok(Some(()))
        })
        .await
        .unwrap();
        assert_eq!(run.terminate().await, Some(0));
        stage.assert_identical().await;
        let beside = "SELECT count(*) FROM pg_class WHERE relkind = 'r' \
                      AND relnamespace = 'public'::regnamespace";
        let here = text(&stage.source, beside).await.unwrap();
        assert_eq!(
            text(&stage.target, beside).await.unwrap(),
            here,
            "tables are left"
        );
        let parked = "SELECT count(*) FROM tidemark.parked";
        assert_eq!(text(&stage.target, parked).await.unwrap(), "0");
        stage.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_copied_anew_cannot_be_paused_resumed_or_copied_twice() {
    let busy = Busy::start("resync_twice", 241).await;
    let stage = &busy.stage;
    let run = stage.start(&["run", "FILE", "--set", SLOWLY]);
    stage.wait_for_state("streaming").await;
    let resync = [
        "resync",
        "FILE",
        "--table",
        "public.big",
        "--yes",
        "--no-wait",
    ];
    stage.run(&resync).await.expect(0);
    wait_for_recorded(stage, "resyncing").await;
    for verb in ["resume", "pause"] {
        let refused = stage
            .run(&[verb, "FILE", "--table", "public.big"])
            .await
            .expect(6);
        assert!(
            refused.stderr.contains("being loaded anew"),
            "{verb}: {}",
            refused.stderr
        );
    }
    let refused = stage.run(&resync).await.expect(6);
    assert!(
        refused.stderr.contains("being loaded anew"),
        "{}",
        refused.stderr
    );
    stage.wait_for_table("public.big", "streaming").await;
    let stage = busy.stop_writers().await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Its changes alone do not make a table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_load_failed_comes_back_with_its_rows() {
    let stage = Stage::new("resync_never").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text); \
        INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i";
    stage.source_sql(table).await;
    let narrow = "CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'row 77'))";
    stage.target_sql(narrow).await;
    let mut run = stage.start(&["run", "FILE"]);
    run.wait_for_log("table quarantined").await;
    stage
        .source_sql("INSERT INTO t VALUES (200, 'later')")
        .await;
    // Resumed as it is, it fails again for the same reason, and keeps what came meanwhile.
    let resume = ["resume", "FILE", "--table", "public.t"];
    stage.run(&resume).await.expect(0);
    wait_for(PATIENCE, "the second failure", || async {
        let failures = stage.log().matches("table quarantined").count();
        Ok((failures == 2).then_some(()))
    })
    .await
    .unwrap();
    stage
        .target_sql("ALTER TABLE t DROP CONSTRAINT t_v_check")
        .await;
    stage.run(&resume).await.expect(0);
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

/// What hangs on a table keeps it from being loaded anew. It says what became of the table, and how it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_loaded_anew_goes_on_as_it_was() {
    let stage = Stage::new("resync_hangs").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text); \
        INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    stage
        .target_sql("CREATE SCHEMA own; CREATE TABLE own.refers (id int REFERENCES t); INSERT INTO own.refers VALUES (1)")
        .await;
    for strategy in ["swap", "truncate"] {
        let resync = [
            "resync",
            "FILE",
            "--table",
            "public.t",
            "--yes",
            "--strategy",
            strategy,
        ];
        let said = stage.run(&resync).await.expect(6).stderr;
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "TM2048",
            "public.t is set aside",
            "tidemark retry resync_hangs --table public.t",
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        stage.source_sql("UPDATE t SET v = v || '!'").await;
        let retry = ["retry", "FILE", "--table", "public.t"];
        stage.run(&retry).await.expect(0);
        stage.wait_until_identical().await;
        stage.wait_for_table("public.t", "streaming").await;
    }
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// What only the target asks of rows is not asked of those that take their place.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_the_target_alone_does_not_keep_the_rows_of_the_source_out() {
    let stage = Stage::new("resync_by_hand").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text, w text); \
        INSERT INTO t VALUES (1, 'a', 'a'), (2, 'b', 'b')";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    let by_hand = "CREATE UNIQUE INDEX kept ON t (v); CREATE UNIQUE INDEX contradicted ON t (w)";
    stage.target_sql(by_hand).await;
    stage.source_sql("INSERT INTO t VALUES (3, 'c', 'a')").await;
    stage.wait_for_table("public.t", "quarantined").await;
    stage.resync("public.t").await;
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    assert!(stage.log().contains("index contradicted is not carried"));
    let indexes = "SELECT string_agg(indexrelid::regclass::text, ' ') FROM pg_index \
        WHERE indrelid = 't'::regclass";
    let left = text(&stage.target, indexes).await.unwrap();
    assert!(
        left.contains("kept") && !left.contains("contradicted"),
        "{left}"
    );
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_gets_its_own_default_and_not_the_old_one() {
    let stage = Stage::new("resync_default").await;
    stage.write("[target]\non_schema_change = \"apply\"\n[verify]\nafter_load = \"off\"\n");
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT 'old'); INSERT INTO t VALUES (1)";
    stage.source_sql(table).await;
    let run = stage.start_streaming().await;
    stage
        .source_sql(
            "ALTER TABLE t ALTER v DROP DEFAULT, ALTER v TYPE int USING length(v), \
             ALTER v SET DEFAULT 7; INSERT INTO t VALUES (2)",
        )
        .await;
    stage.wait_until_identical().await;
    stage.wait_for_table("public.t", "streaming").await;
    let default = "SELECT column_default FROM information_schema.columns \
        WHERE table_name = 't' AND column_name = 'v'";
    assert_eq!(text(&stage.target, default).await.unwrap(), "7");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Of a run before it something may be applied that snapshots do not see; not so of this.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_holds_no_resync_up() {
    let stage = Stage::new("resync_open").await;
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)";
    stage.source_sql(tables).await;
    let run = stage.start_streaming().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    let client = stage.source_server.client_to(&stage.source_name).await;
    let client = client.unwrap();
    let open = "BEGIN; INSERT INTO t VALUES (1000)";
    client.batch_execute(open).await.unwrap();
    let run = stage.start_streaming().await;
    stage.target_sql("DELETE FROM t WHERE id <= 10").await;
    let again = ["resync", "FILE", "--table", "public.t", "--yes"];
    stage.run(&again).await.expect(0);
    stage.wait_until_identical().await;
    client.batch_execute("COMMIT").await.unwrap();
    stage.source_sql("DELETE FROM t WHERE id = 50").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    is_told_whom_a_resync_waits_for(&stage, client).await;
    stage.clear().await;
}

/// One that is at work while a run begins may be applied for all this run knows: it is waited for, by name.
async fn is_told_whom_a_resync_waits_for(stage: &Stage, busy: tokio_postgres::Client) {
    let pid = text(&busy, "SELECT pg_backend_pid()").await.unwrap();
    let work = "BEGIN; INSERT INTO t VALUES (2000); SELECT pg_sleep(600)";
    let work = tokio::spawn(async move { busy.batch_execute(work).await });
    let sleeps = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
    wait_for(PATIENCE, "it to be at work", || async {
        let event = text(&stage.source, &sleeps).await?;
        Ok((event == "PgSleep").then_some(()))
    })
    .await
    .unwrap();
    let mut run = stage.start_streaming().await;
    stage.target_sql("DELETE FROM t WHERE id <= 20").await;
    let again = ["resync", "FILE", "--table", "public.t", "--yes"];
    let (resynced, ()) = tokio::join!(stage.run(&again), async {
        let told = format!("has ended on the source: pid {pid} (");
        run.wait_for_log(&told).await;
        let end = format!("SELECT pg_cancel_backend({pid})");
        stage.source_sql(&end).await;
    });
    resynced.expect(0);
    assert!(work.await.unwrap().is_err(), "it was cancelled");
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}
