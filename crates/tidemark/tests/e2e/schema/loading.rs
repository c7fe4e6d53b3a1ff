//! Changes while the tables are loaded: between the snapshot and the moment when a table is read, and
//! between a run that was killed and the one that goes on with its load.

use tidemark_lab::wait_for;

use super::cases::Policy;
use super::{Writers, assert_as_the_policy_says, change, staged};
use crate::asks::text;
use crate::stage::{PATIENCE, Running, Stage};

/// The largest table comes first, and is read slowly enough for something to happen meanwhile.
const BIG: &str = "CREATE TABLE big (id int PRIMARY KEY, v text); \
    INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 4000) i";
const SLOWLY: [&str; 6] = [
    "run",
    "FILE",
    "--set",
    "load.max_source_rows_per_second=1500",
    "--set",
    "load.chunk_size=1 MB",
];

/// A load in its midst, and writers.
async fn loading(name: &str) -> (Stage, Writers, Running) {
    let stage = staged(name, Policy::Apply).await;
    stage.source_sql(BIG).await;
    let writers = Writers::start(&stage).await;
    let run = stage.start(&SLOWLY);
    let loaded = "SELECT count(*) > 0 AND count(*) < 60 FROM tidemark.unit WHERE is_loaded";
    wait_for(PATIENCE, "the load to be under way", || async {
        Ok((text(&stage.target, loaded).await? == "t").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    (stage, writers, run)
}

async fn ends_equal(stage: Stage, writers: Writers, run: Running) {
    writers.go_round(1).await;
    writers.stop().await;
    assert_as_the_policy_says(&stage, Policy::Apply).await;
    let big = stage.comparison().only("public", "big");
    stage.wait_for_equal(big).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_change_while_they_are_loaded_end_equal() {
    let (stage, writers, run) = loading("schema_loading").await;
    change(&stage).await;
    ends_equal(stage, writers, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_killed_goes_on_with_tables_that_have_changed_since() {
    let (stage, writers, run) = loading("schema_load_killed").await;
    run.kill9().await;
    change(&stage).await;
    let run = stage.start(&["run", "FILE"]);
    ends_equal(stage, writers, run).await;
}
