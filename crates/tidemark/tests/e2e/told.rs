//! What people tell a pipeline that runs in another process: pause, resume, stop. It holds whatever
//! is lost meanwhile.

use rustix::process::Signal;
use tidemark_lab::wait_for;

use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};
use crate::writing::{CHANGES, TABLES};

/// A pipeline that streams.
async fn streaming(name: &str) -> (Stage, Running) {
    let stage = Stage::new(name).await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    (stage, run)
}

/// What `notes` and `lines` hold on the target.
const ROWS: &str = "SELECT (SELECT count(*) || ' ' || md5(string_agg(v, ',' ORDER BY id)) FROM notes) \
                    || (SELECT count(*) FROM lines)";

async fn rows(stage: &Stage) -> String {
    text(&stage.target, ROWS).await.unwrap()
}

/// The next changes have been read, or would have been.
async fn the_source_is_ahead(stage: &Stage) {
    let head = stage.head().await;
    wait_for(PATIENCE, "a gap to be seen", || async {
        let status = stage.status().await;
        let seen = status["source_lsn"].as_str().unwrap_or("0/0").to_owned();
        let sql = format!("SELECT '{seen}'::pg_lsn >= '{head}'::pg_lsn");
        Ok((text(&stage.source, &sql).await? == "t").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipeline_lets_nothing_in_until_it_is_resumed() {
    let (stage, run) = streaming("told_pause").await;
    let paused = stage.run(&["pause", "FILE", "--json"]).await.expect(0);
    assert_eq!(paused.json()["ok"], true, "{}", paused.stdout);
    let before = rows(&stage).await;
    stage.source_sql(CHANGES).await;
    the_source_is_ahead(&stage).await;

    let status = stage.status().await;
    assert_eq!(
        (&status["state"], &status["by"]),
        (&"paused".into(), &"user".into()),
        "{status}"
    );
    assert!(status["gap_bytes"].as_u64() > Some(0), "{status}");
    assert_eq!(rows(&stage).await, before, "nothing came in");
    let kept = stage.bytes(&status["restart_lsn"]).await;
    let processed = stage.bytes(&status["processed_lsn"]).await;
    assert!(kept <= processed, "the source keeps what is to come");

    stage.run(&["resume", "FILE"]).await.expect(0);
    assert_ne!(stage.status().await["state"], "paused");
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_a_lost_target() {
    let (stage, mut run) = streaming("told_pause_lost").await;
    let locked = Locked::table(&stage, "notes").await;
    let before = "SELECT count(*) FROM lines";
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    stage.run(&["pause", "FILE"]).await.expect(0);
    locked.end_waiter().await;
    run.wait_for_log("tries again").await;
    locked.release().await;
    // It connects anew, and stays paused.
    wait_for(PATIENCE, "another attempt", || async {
        Ok((run.log().matches("step 5/5").count() > 1).then_some(()))
    })
    .await
    .unwrap();
    the_source_is_ahead(&stage).await;
    stage.wait_for_state("paused").await;
    stage.wait_for_target(before, "100").await;

    stage.run(&["resume", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_paused_goes_on_with_what_is_in() {
    const BIG: &str = "CREATE TABLE big (id int PRIMARY KEY, v text); \
        INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 4000) i";
    let stage = Stage::new("told_pause_load").await;
    stage.source_sql(TABLES).await;
    stage.source_sql(BIG).await;
    let slow = [
        "load.max_source_rows_per_second=1500",
        "load.chunk_size=1 MB",
    ];
    let run = stage.start(&["run", "FILE", "--set", slow[0], "--set", slow[1]]);
    let units = "SELECT count(*) FILTER (WHERE is_loaded) || '/' || count(*) FROM tidemark.unit";
    let begun = wait_for(PATIENCE, "a part of the load to be in", || async {
        let units = text(&stage.target, units).await?;
        let (loaded, all) = units.split_once('/').unwrap();
        Ok((loaded != "0" && loaded != all).then_some(()))
    });
    begun
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));

    stage.run(&["pause", "FILE"]).await.expect(0);
    stage.wait_for_state("paused").await;
    assert_eq!(stage.status().await["by"], "user");
    let loaded = "SELECT count(*) FROM tidemark.unit WHERE is_loaded";
    let paused_with = text(&stage.target, loaded).await.unwrap();
    stage.source_sql(CHANGES).await;
    let reading = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND query LIKE 'COPY%'";
    stage.run(&["pause", "FILE"]).await.expect(0);
    assert_eq!(
        text(&stage.source, reading).await.unwrap(),
        "0",
        "nothing is read"
    );
    assert_eq!(text(&stage.target, loaded).await.unwrap(), paused_with);
    // What needs a pipeline at work is refused, in words.
    let resync = ["resync", "FILE", "--table", "public.notes", "--yes"];
    let refused = stage.run(&resync).await.expect(6);
    assert!(
        refused.stderr.contains("it is paused; resume it first"),
        "{}",
        refused.stderr
    );

    stage.run(&["resume", "FILE"]).await.expect(0);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_outlasts_a_lost_target() {
    let (stage, mut run) = streaming("told_stop_lost").await;
    let locked = Locked::table(&stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    run.signal(Signal::TERM);
    run.wait_for_log("finishing the batch").await;
    locked.end_waiter().await;
    assert_eq!(run.ended().await, Some(0), "{}", run.log());
    let status = stage.status().await;
    assert_eq!(
        (&status["state"], &status["by"]),
        (&"stopped".into(), &"user".into()),
        "{status}"
    );
    locked.release().await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_from_elsewhere_ends_the_run_where_the_next_goes_on() {
    let (stage, mut run) = streaming("told_stop").await;
    stage.source_sql(CHANGES).await;
    let stopped = stage.run(&["stop", "FILE", "--json"]).await.expect(0);
    // It is over when that is said.
    assert!(!run.is_running(), "{}", stopped.stdout);
    assert_eq!(run.ended().await, Some(0));
    let answer = stopped.json()["data"]["answer"].clone();
    let status = stage.status().await;
    let processed = status["processed_lsn"].as_str().unwrap();
    assert!(answer.to_string().contains(processed), "{answer} {status}");
    stage
        .source_sql("INSERT INTO notes VALUES (-1, 'later')")
        .await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}
