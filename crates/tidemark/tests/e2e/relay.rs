//! The relay log: a target that stands still, a source that keeps next to nothing for it, and no change
//! lost or doubled, whoever is killed meanwhile.

use std::path::PathBuf;

use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::wait_for;

use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};
use crate::writing::{CHANGES, TABLES};

const BUDGET_BYTES: u64 = 64_000_000;

/// What the server itself gives a slot: one that keeps more is lost.
const KEPT_BY_THE_SERVER: &str = "256MB";

const CONFIG: &str = "[source.postgres]\nmax_retained = \"64 MB\"\nrelay_dir = \"relay\"\n";

/// 10 MB of log, some of it rows that must arrive.
const WORK: &str = "BEGIN; INSERT INTO lines SELECT repeat(md5(random()::text), 60) \
                    FROM generate_series(1, 4000); COMMIT;
    UPDATE notes SET v = v || '!' WHERE id % 3 = 0;
    SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) \
    FROM generate_series(1, 2)";

async fn own_server() -> &'static PostgresServer {
    let server = PostgresServer::builder()
        .setting("max_slot_wal_keep_size", KEPT_BY_THE_SERVER)
        .setting("max_wal_size", "80MB")
        .setting("min_wal_size", "32MB")
        .start()
        .await
        .unwrap();
    Box::leak(Box::new(server))
}

async fn streaming(stage: &Stage, config: &str) -> Running {
    stage.write(config);
    stage.source_sql(TABLES).await;
    stage.start_streaming().await
}

/// Waits until the source has given free what is acknowledged.
async fn little_is_retained(stage: &Stage) {
    wait_for(PATIENCE, "the slot to give log free", || async {
        stage.source_sql("CHECKPOINT").await;
        Ok((stage.retained().await < BUDGET_BYTES / 4).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

/// Much more work than the source may keep, at a pace at which a reader of the slot can follow. Gives
/// the most that the source has kept.
async fn work(stage: &Stage, rounds: u32) -> u64 {
    let mut most = 0;
    for round in 0..rounds {
        stage.source_sql(WORK).await;
        // A slot gives log free at records that a checkpoint writes.
        let kept = wait_for(PATIENCE, "the slot to give log free", || async {
            stage.source_sql("CHECKPOINT").await;
            let kept = stage.retained().await;
            anyhow::ensure!(kept < BUDGET_BYTES * 3 / 4, "{kept} in round {round}");
            Ok(Some(kept))
        })
        .await;
        let kept = kept.unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
        most = most.max(kept);
    }
    most
}

fn segments(stage: &Stage) -> Vec<PathBuf> {
    let home = stage.directory().join("relay").join(&stage.name);
    let entries = std::fs::read_dir(home).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "relay"))
        .collect();
    found.sort();
    found
}

async fn wait_for_no_segments(stage: &Stage) {
    wait_for(PATIENCE, "the relay log to be empty", || async {
        Ok(segments(stage).is_empty().then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

/// Both sides are equal, nothing is left on our disk, and the run ends in order.
async fn ends_well(stage: &Stage, run: Running) {
    stage.wait_until_identical().await;
    wait_for_no_segments(stage).await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A pipeline that was killed while its target stood still, with a relay log that the source relies on.
async fn killed(stage: &Stage, config: &str) {
    let run = streaming(stage, config).await;
    let locked = Locked::table(stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    let most = work(stage, 10).await;
    assert!(most < BUDGET_BYTES, "the source has kept {most}");
    assert!(!segments(stage).is_empty());
    run.kill9().await;
    locked.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_a_frozen_target_does_not_fill_the_source_and_gets_everything_later() {
    let target = PostgresServer::builder().start().await.unwrap();
    let target: &'static PostgresServer = Box::leak(Box::new(target));
    let stage = Stage::on(own_server().await, target, "relay_frozen").await;
    let run = streaming(&stage, CONFIG).await;
    target.freeze().unwrap();
    stage.source_sql(CHANGES).await;
    let most = work(&stage, 30).await;
    assert!(most < BUDGET_BYTES, "the source has kept {most}");
    assert!(!segments(&stage).is_empty());
    target.thaw().unwrap();
    stage.wait_until_identical().await;
    // The stream reads the source by itself again, and nothing is left on our disk.
    stage.source_sql(CHANGES_AGAIN).await;
    ends_well(&stage, run).await;
}

/// Killed at every durable step of the relay log.
#[tokio::test(flavor = "multi_thread")]
async fn c8_a_kill_at_any_step_of_the_relay_log_costs_nothing() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "relay_steps").await;
    stage.write(CONFIG);
    stage.source_sql(TABLES).await;
    let armed = |point: &str| {
        let mut command = stage.command(&["run", "FILE"]);
        command.env("TIDEMARK_FAILPOINT", point);
        stage.spawn(command)
    };
    assert_eq!(armed("relay.recorded").killed_by().await, Some(9));
    let mut run = armed("relay.durable:4");
    stage
        .source_sql("UPDATE notes SET v = 'on its way' WHERE id = 1")
        .await;
    let arrived = "SELECT v FROM notes WHERE id = 1";
    stage.wait_for_target(arrived, "on its way").await;
    little_is_retained(&stage).await;
    let locked = Locked::table(&stage, "notes").await;
    stage
        .source_sql("UPDATE notes SET v = v || ' again' WHERE id < 50")
        .await;
    locked.wait_for_waiter().await;
    for _ in 0..4 {
        stage.source_sql(WORK).await;
    }
    assert_eq!(run.killed_by().await, Some(9), "{}", stage.log());
    locked.release().await;
    assert!(!segments(&stage).is_empty());
    // What it has written in vain is removed, and then it is killed.
    assert_eq!(armed("relay.removed").killed_by().await, Some(9));
    let run = stage.start_streaming().await;
    ends_well(&stage, run).await;
}

/// Whoever loads for long keeps the slot where it began; so the relay log reads it, and who is killed in the
/// load goes on with both.
#[tokio::test(flavor = "multi_thread")]
async fn c8_a_load_that_takes_long_does_not_fill_the_source_either() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "relay_load").await;
    stage.write(&format!("[target]\nexisting = \"truncate\"\n{CONFIG}"));
    stage.source_sql(TABLES).await;
    stage
        .target_sql("CREATE TABLE notes (id int PRIMARY KEY, v text)")
        .await;
    // It can be looked at, and not be emptied for the load.
    let locked = Locked::table(&stage, "notes IN SHARE MODE").await;
    let run = stage.start(&["run", "FILE"]);
    locked.wait_for_waiter().await;
    stage.source_sql(CHANGES).await;
    let most = work(&stage, 10).await;
    assert!(most < BUDGET_BYTES, "the source has kept {most}");
    assert!(!segments(&stage).is_empty());
    run.kill9().await;
    let run = stage.start(&["run", "FILE"]);
    locked.wait_for_waiter().await;
    stage.source_sql(CHANGES_AGAIN).await;
    let most = work(&stage, 10).await;
    assert!(most < BUDGET_BYTES, "the source has kept {most}");
    locked.release().await;
    stage.wait_for_state("streaming").await;
    ends_well(&stage, run).await;
}

/// What does not fit any more stays on the source, as far as that may keep it; said, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn c8_above_what_the_relay_log_may_keep_the_source_keeps_its_log_and_it_is_said() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "relay_max").await;
    let run = streaming(&stage, &format!("{CONFIG}relay_max = \"16 MB\"\n")).await;
    let locked = Locked::table(&stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    for _ in 0..4 {
        stage.source_sql(WORK).await;
    }
    let stopped = stage.wait_for_relay_to_stop().await;
    assert!(stopped.contains("relay_max"), "{stopped}");
    locked.release().await;
    ends_well(&stage, run).await;
}

impl Stage {
    /// Why the relay log takes no more, as `lag` tells it.
    pub(crate) async fn wait_for_relay_to_stop(&self) -> String {
        wait_for(PATIENCE, "the relay log to take no more", || async {
            let told = self.run(&["lag", "FILE", "--json"]).await.json();
            let stopped = &told["data"]["slot"]["relayed"]["stopped"];
            Ok(stopped.as_str().map(str::to_owned))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", self.log()))
    }
}

/// Of rows that [`CHANGES`] has left.
const CHANGES_AGAIN: &str = "UPDATE notes SET v = 'once more' WHERE id % 5 = 0;
    INSERT INTO lines SELECT 'last' FROM generate_series(1, 20) i;";

#[tokio::test(flavor = "multi_thread")]
async fn c8_a_target_that_is_down_does_not_fill_the_source_either() {
    let target = PostgresServer::builder().start().await.unwrap();
    let target: &'static PostgresServer = Box::leak(Box::new(target));
    let mut stage = Stage::on(own_server().await, target, "relay_down").await;
    let run = streaming(&stage, CONFIG).await;
    target.stop(Shutdown::Immediate).await.unwrap();
    let most = work(&stage, 15).await;
    assert!(most < BUDGET_BYTES, "the source has kept {most}");
    target.start().await.unwrap();
    stage.target = target.client_to(&stage.target_name).await.unwrap();
    ends_well(&stage, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_who_is_killed_with_a_relay_log_goes_on_from_it_and_encrypted_it_tells_nobody() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "relay_killed").await;
    let config = format!("{CONFIG}relay_key = \"correct horse battery staple\"\n");
    killed(&stage, &config).await;
    for path in segments(&stage) {
        let bytes = std::fs::read(path).unwrap();
        let is_told = bytes.windows(7).any(|bytes| bytes == b"xxxxxxx");
        assert!(!is_told, "what was written can be read");
    }
    // Killed once more while it is read, and with work going on.
    let again = stage.start(&["run", "FILE"]);
    stage.source_sql(WORK).await;
    again.kill9().await;
    let run = stage.start_streaming().await;
    stage.source_sql(CHANGES_AGAIN).await;
    ends_well(&stage, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_without_the_relay_log_that_is_needed_a_start_is_refused_and_says_where_it_is() {
    let shared = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(own_server().await, shared, "relay_refused").await;
    killed(&stage, CONFIG).await;
    let rows = text(&stage.target, "SELECT count(*) FROM lines")
        .await
        .unwrap();
    let home = stage.directory().join("relay").join(&stage.name);
    let home_shown = home.display().to_string();

    // Another file, which names none.
    stage.write("[source.postgres]\nmax_retained = \"64 MB\"\n");
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    for word in [
        "TM4103",
        home_shown.as_str(),
        "no relay log is configured",
        "tidemark reconcile",
    ] {
        assert!(
            refused.stderr.contains(word),
            "{word} in\n{}",
            refused.stderr
        );
    }
    stage.write(CONFIG);

    // A disk that does not keep what it is given.
    let first = segments(&stage).remove(0);
    let whole = std::fs::read(&first).unwrap();
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(&first, &broken).unwrap();
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    for word in ["TM4103", "is not what was written"] {
        assert!(
            refused.stderr.contains(word),
            "{word} in\n{}",
            refused.stderr
        );
    }

    // The directory is gone.
    std::fs::write(&first, &whole).unwrap();
    let aside = stage.directory().join("aside");
    std::fs::rename(&home, &aside).unwrap();
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    for word in ["TM4103", "is another"] {
        assert!(
            refused.stderr.contains(word),
            "{word} in\n{}",
            refused.stderr
        );
    }
    let after = text(&stage.target, "SELECT count(*) FROM lines")
        .await
        .unwrap();
    assert_eq!(after, rows, "nothing is applied past the gap");

    // And back again.
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::rename(&aside, &home).unwrap();
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}
