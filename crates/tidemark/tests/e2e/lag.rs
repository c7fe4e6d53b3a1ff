//! What a pipeline says of its own lag: near nothing where nothing is missing, growing while something
//! is, unknown where nobody can tell.

use serde_json::Value;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use crate::asks::Locked;
use crate::stage::{PATIENCE, Stage};
use crate::writing::{CHANGES, TABLES};

/// Waits for a status that shows what is wanted.
async fn wait_for_status(stage: &Stage, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let waited = wait_for(PATIENCE, what, || async {
        let status = stage.status().await;
        anyhow::ensure!(is_so(&status), "{status}");
        Ok(Some(status))
    })
    .await;
    waited.unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()))
}

/// Waits for a latency between these bounds, in seconds.
async fn wait_for_latency(stage: &Stage, bounds: std::ops::Range<f64>) -> f64 {
    let what = format!("a latency of {bounds:?} s");
    let latency = |status: &Value| status["latency_seconds"].as_f64();
    let is_so = |status: &Value| latency(status).is_some_and(|it| bounds.contains(&it));
    latency(&wait_for_status(stage, &what, is_so).await).expect("just seen")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pipeline_that_has_everything_shows_no_latency() {
    let stage = Stage::new("lag_idle").await;
    stage.write(
        "[stream]\nheartbeat_interval = \"1 s\"\n\n\
         [[table]]\nsource = \"public.notes\"\nwhere = \"v <> 'left out'\"\n",
    );
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    wait_for_latency(&stage, 0.0..1.0).await;
    // Longer than it takes an idle position to be written to the target.
    let mut reports: Vec<(Value, Option<f64>)> = Vec::new();
    while reports.len() < 8 {
        let is_new = |status: &Value| reports.iter().all(|(at, _)| *at != status["measured_at"]);
        let status = wait_for_status(&stage, "a new report", is_new).await;
        let latency = status["latency_seconds"].as_f64();
        reports.push((status["measured_at"].clone(), latency));
        // Nothing of this is to come, so nothing is late.
        let left_out = "INSERT INTO notes SELECT max(id) + 1, 'left out' FROM notes";
        stage.source_sql(left_out).await;
    }
    for (at, latency) in &reports {
        let is_near = latency.is_some_and(|latency| latency < 2.0);
        assert!(is_near, "{latency:?} at {at} of {reports:?}");
    }
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_grows_with_the_clock_while_a_change_waits_for_the_target() {
    let stage = Stage::new("lag_stalled").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    wait_for_latency(&stage, 0.0..1.0).await;
    let locked = Locked::table(&stage, "notes").await;
    stage.source_sql(CHANGES).await;
    locked.wait_for_waiter().await;
    let began = std::time::Instant::now();
    let first = wait_for_latency(&stage, 0.5..f64::MAX).await;
    let later = wait_for_latency(&stage, first + 2.0..f64::MAX).await;
    assert!(later <= began.elapsed().as_secs_f64() + 5.0, "{later} s");
    let lag = stage.run(&["lag", "FILE", "--max", "1s"]).await.expect(3);
    assert!(lag.stderr.contains("latency"), "{}", lag.stderr);

    locked.release().await;
    stage.wait_until_identical().await;
    wait_for_latency(&stage, 0.0..1.0).await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_is_unknown_while_the_source_does_not_answer() {
    let source = PostgresServer::builder().start().await.unwrap();
    let source: &'static PostgresServer = Box::leak(Box::new(source));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "lag_frozen").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    wait_for_latency(&stage, 0.0..1.0).await;
    source.freeze().unwrap();
    let is_unknown = |status: &Value| {
        let age = status["last_known"]["seconds_ago"].as_f64();
        status["latency_seconds"].is_null() && age > Some(5.0)
    };
    let status = wait_for_status(&stage, "an unknown latency", is_unknown).await;
    assert_eq!(status["gap_bytes"], Value::Null, "{status}");
    assert_eq!(status["health"], "unknown", "{status}");
    stage.run(&["lag", "FILE", "--max", "1h"]).await.expect(3);
    source.thaw().unwrap();
    wait_for_latency(&stage, 0.0..1.0).await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
