//! What breaks around a pipeline, and in it: networks cut at any byte, silent partitions, servers that
//! crash or restart, signals, kills at every step of a load. The oracle is always the same: both
//! sides equal, the bank's sum never moved, nothing left on the source but the pipeline's own.

use rustix::process::Signal;
use tidemark_lab::proxy::Direction;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::traffic::bank::{Bank, BankReader};
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::{Proxy, Random, wait_for};

use crate::stage::{PATIENCE, Running, Stage};

const BANK: Bank = Bank { accounts: 300 };

/// Chunks small enough that a load is interrupted within tables.
const SMALL_CHUNKS: &str = "[load]\nchunk_size = \"1 MB\"\nparallel_chunks = 2\n";

/// `keyed` is cut by key (its rows lie in the key's order), `heap` by blocks (it has no key).
const LARGE: &str = "CREATE TABLE keyed (id int PRIMARY KEY, v text);
    INSERT INTO keyed SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 60000) i;
    CREATE TABLE heap (id int, v text); ALTER TABLE heap REPLICA IDENTITY FULL;
    INSERT INTO heap SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 30000) i;
    ANALYZE keyed; ANALYZE heap;";

/// No TRUNCATE: PostgreSQL 15 may fail for good to decode one that was under way while the slot was
/// made (`could not map filenode ... to relation OID`), which is not what is tested here.
const MIXED: Mixed = Mixed {
    keys: 500,
    truncates: Truncates::Never,
};

/// Writers on the source.
struct Writers {
    bank: Traffic,
    changes: Traffic,
}

impl Writers {
    async fn start(stage: &Stage, seed: u64) -> Writers {
        let config = stage.source_config();
        Traffic::set_up(&config, &BANK).await.unwrap();
        Traffic::set_up(&config, &MIXED).await.unwrap();
        Writers {
            bank: Traffic::start(&config, &BANK, Pace::at(100.0, seed)),
            changes: Traffic::start(&config, &MIXED, Pace::at(100.0, seed + 1)),
        }
    }

    async fn stop(self) {
        let report = self.bank.stop().await.unwrap();
        assert!(report.committed > 20, "the bank was busy: {report:?}");
        self.changes.stop().await.unwrap();
    }
}

/// Waits until something new has come through to the target.
async fn something_new_arrives(stage: &Stage) {
    let newest = "SELECT max(id) FROM bank_transfers";
    let before: Option<i64> = stage.source.query_one(newest, &[]).await.unwrap().get(0);
    wait_for(PATIENCE, "something new in the target", || async {
        let target = stage.target_server.client_to(&stage.target_name).await?;
        let now: Option<i64> = target.query_one(newest, &[]).await?.get(0);
        Ok((now > before).then_some(()))
    })
    .await
    .unwrap();
}

/// The oracle, after the writers have stopped.
async fn ends_well(stage: &Stage, run: Running, reader: Option<BankReader>) {
    stage.wait_until_identical().await;
    if let Some(reader) = reader {
        let seen = reader.stop().await.unwrap();
        assert!(
            seen.violations.is_empty(),
            "the sum moved on the target: {seen:?}"
        );
    }
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    stage.assert_identical().await;
    nothing_is_left(stage).await;
    stage.clear().await;
}

/// One slot and one publication, both the pipeline's own, and nobody connected.
async fn nothing_is_left(stage: &Stage) {
    let name = format!("tidemark_{}", stage.name);
    let publications = "SELECT pubname FROM pg_publication";
    let publications = stage.source.query(publications, &[]).await.unwrap();
    let publications: Vec<String> = publications.iter().map(|row| row.get(0)).collect();
    assert_eq!(publications, std::slice::from_ref(&name));
    let slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()";
    let slots = stage.source.query(slots, &[]).await.unwrap();
    let slots: Vec<String> = slots.iter().map(|row| row.get(0)).collect();
    assert_eq!(slots, [name]);
    let sessions = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1";
    let name = format!("tidemark {}", stage.name);
    wait_for(PATIENCE, "all connections to be gone", || async {
        let here = stage.source.query(sessions, &[&name]).await?;
        let there = stage.target.query(sessions, &[&name]).await?;
        Ok((here.is_empty() && there.is_empty()).then_some(()))
    })
    .await
    .unwrap();
}

async fn own_server(settings: &[(&str, &str)]) -> &'static PostgresServer {
    let mut builder = PostgresServer::builder();
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    Box::leak(Box::new(builder.start().await.unwrap()))
}

async fn bank_reader(stage: &Stage) -> BankReader {
    BankReader::start(&stage.target_config(), "public", BANK)
        .await
        .unwrap()
}

/// A stage with a wire on each side.
async fn wired(name: &str, more: &str) -> (Stage, Proxy, Proxy) {
    let stage = Stage::new(name).await;
    let port = stage.source_server.port();
    let (source, target) = (
        Proxy::start(port).await.unwrap(),
        Proxy::start(stage.target_server.port()).await.unwrap(),
    );
    let source_url = stage
        .source_server
        .url_through(source.address(), &stage.source_name);
    let target_url = stage
        .target_server
        .url_through(target.address(), &stage.target_name);
    stage.write_between(&source_url, &target_url, more);
    (stage, source, target)
}

/// Cuts a wire after some bytes, and waits until bytes go through a new connection.
async fn cut_once(proxy: &Proxy, direction: Direction, bytes: u64) {
    let before = proxy.counters().connections;
    proxy.cut_after(direction, bytes);
    wait_for(PATIENCE, "a connection after the cut", || async {
        Ok((proxy.counters().connections > before).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_cuts_at_any_byte_cost_nothing() {
    let (stage, source, target) = wired("fault_cuts", SMALL_CHUNKS).await;
    stage.source.batch_execute(LARGE).await.unwrap();
    let writers = Writers::start(&stage, 21).await;
    let run = stage.start(&["run", "FILE"]);
    let mut random = Random::new(22);
    let mut any = async |rounds: u32, digits: u64| {
        for _ in 0..rounds {
            let proxy = [&source, &target][usize::from(random.below(2) == 1)];
            let direction = match random.below(2) {
                0 => Direction::ToServer,
                _ => Direction::ToClient,
            };
            let magnitude = 10_u64.pow(u32::try_from(1 + random.below(digits)).unwrap());
            cut_once(proxy, direction, 1 + random.below(magnitude)).await;
        }
    };
    // In the load up to a megabyte may go by before the cut; the stream is slower.
    any(12, 6).await;
    stage.wait_for_state("streaming").await;
    let reader = bank_reader(&stage).await;
    any(12, 4).await;
    something_new_arrives(&stage).await;
    writers.stop().await;
    ends_well(&stage, run, Some(reader)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_silent_partition_that_heals_costs_nothing() {
    let (stage, source, target) = wired("fault_partition", "").await;
    let writers = Writers::start(&stage, 31).await;
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let reader = bank_reader(&stage).await;
    for proxy in [&source, &target] {
        something_new_arrives(&stage).await;
        proxy.partition();
        // The source goes on meanwhile.
        let sql = "SELECT count(*) FROM bank_transfers";
        let before: i64 = stage.source.query_one(sql, &[]).await.unwrap().get(0);
        wait_for(PATIENCE, "a backlog behind the partition", || async {
            let now: i64 = stage.source.query_one(sql, &[]).await?.get(0);
            Ok((now > before + 300).then_some(()))
        })
        .await
        .unwrap();
        proxy.heal();
        something_new_arrives(&stage).await;
    }
    writers.stop().await;
    ends_well(&stage, run, Some(reader)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_a_target_that_crashes_loses_nothing_that_was_acknowledged() {
    let source = PostgresServer::shared().await.unwrap();
    let target = own_server(&[("fsync", "on"), ("full_page_writes", "on")]).await;
    let mut stage = Stage::on(source, target, "fault_target").await;
    stage.write(SMALL_CHUNKS);
    stage.source.batch_execute(LARGE).await.unwrap();
    let writers = Writers::start(&stage, 41).await;
    let run = stage.start(&["run", "FILE"]);
    // Once in the load, then in the stream.
    units_loaded(&stage, 3).await;
    target.kill9().await.unwrap();
    target.start().await.unwrap();
    stage.wait_for_state("streaming").await;
    for _ in 0..3 {
        something_new_arrives(&stage).await;
        target.kill9().await.unwrap();
        target.start().await.unwrap();
    }
    something_new_arrives(&stage).await;
    writers.stop().await;
    stage.target = target.client_to(&stage.target_name).await.unwrap();
    ends_well(&stage, run, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_f02_a_source_that_restarts_is_not_held_up_and_goes_on() {
    let source = own_server(&[]).await;
    let target = PostgresServer::shared().await.unwrap();
    let mut stage = Stage::on(source, target, "fault_source").await;
    let writers = Writers::start(&stage, 51).await;
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let reader = bank_reader(&stage).await;
    something_new_arrives(&stage).await;
    // A fast shutdown waits until walsenders have sent everything and were answered.
    source.restart().await.unwrap();
    stage.source = source.client_to(&stage.source_name).await.unwrap();
    something_new_arrives(&stage).await;
    source.kill9().await.unwrap();
    source.start().await.unwrap();
    stage.source = source.client_to(&stage.source_name).await.unwrap();
    something_new_arrives(&stage).await;
    writers.stop().await;
    ends_well(&stage, run, Some(reader)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_f56_a_stop_by_signal_keeps_the_checkpoint_and_a_pause_is_slept_through() {
    let stage = Stage::new("fault_signals").await;
    let writers = Writers::start(&stage, 61).await;
    let mut run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let reader = bank_reader(&stage).await;
    something_new_arrives(&stage).await;
    for signal in [Signal::INT, Signal::TERM] {
        run.signal(signal);
        assert_eq!(run.ended().await, Some(0), "{}", run.log());
        run = stage.start(&["run", "FILE"]);
        something_new_arrives(&stage).await;
    }
    let log = run.log();
    assert_eq!(
        log.matches("step 4/5 load").count(),
        1,
        "loaded once: {log}"
    );
    assert_eq!(log.matches("goes on at").count(), 2, "{log}");

    run.signal(Signal::STOP);
    let sql = "SELECT count(*) FROM bank_transfers";
    let before: i64 = stage.source.query_one(sql, &[]).await.unwrap().get(0);
    wait_for(PATIENCE, "a backlog behind the pause", || async {
        let now: i64 = stage.source.query_one(sql, &[]).await?.get(0);
        Ok((now > before + 300).then_some(()))
    })
    .await
    .unwrap();
    run.signal(Signal::CONT);
    something_new_arrives(&stage).await;
    writers.stop().await;
    ends_well(&stage, run, Some(reader)).await;
}

/// Waits until so many units are in.
async fn units_loaded(stage: &Stage, wanted: i64) {
    let sql = "SELECT count(*) FROM tidemark.unit WHERE is_loaded";
    wait_for(PATIENCE, "units to be loaded", || async {
        let loaded: i64 = stage.target.query_one(sql, &[]).await?.get(0);
        Ok((loaded >= wanted).then_some(()))
    })
    .await
    .unwrap();
}

/// The loaded key ranges of `keyed`.
async fn keyed_units(stage: &Stage) -> Vec<i64> {
    let sql = "SELECT number FROM tidemark.unit WHERE source_name = 'keyed' AND is_loaded \
               AND chunk::text ILIKE '%key%' ORDER BY 1";
    match stage.target.query(sql, &[]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(_) => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k04_k05_k06_kills_at_every_step_of_a_load_keep_what_was_loaded() {
    let stage = Stage::new("fault_kills").await;
    stage.write(SMALL_CHUNKS);
    stage.source.batch_execute(LARGE).await.unwrap();
    let writers = Writers::start(&stage, 71).await;
    let (mut kills_within, mut kept) = (0, 0);
    for units in [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14] {
        let before = keyed_units(&stage).await;
        let mut run = stage.start(&["run", "FILE"]);
        wait_for(PATIENCE, "the load to be so far", || async {
            let sql = "SELECT count(*) FROM tidemark.unit WHERE is_loaded";
            let loaded: i64 = match stage.target.query_one(sql, &[]).await {
                Ok(row) => row.get(0),
                Err(_) => -1,
            };
            let is_through = run_is_through(&run);
            Ok((loaded >= units || is_through).then_some(()))
        })
        .await
        .unwrap();
        assert!(run.is_running(), "{}", run.log());
        if !run_is_through(&run) {
            kills_within += 1;
        }
        run.kill9().await;
        let after = keyed_units(&stage).await;
        assert!(
            before.iter().all(|unit| after.contains(unit)),
            "a unit that was in was loaded again: {before:?} {after:?}"
        );
        kept = kept.max(before.len());
    }
    assert!(kills_within >= 5, "kills hit the load: {kills_within}");
    assert!(kept > 0, "some start found units of `keyed`");
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let reader = bank_reader(&stage).await;
    something_new_arrives(&stage).await;
    writers.stop().await;
    ends_well(&stage, run, Some(reader)).await;
}

/// Whether a run of this stage has logged that the load is through.
fn run_is_through(run: &Running) -> bool {
    run.log().contains("step 5/5")
}
