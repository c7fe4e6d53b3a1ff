//! From load to stream under live traffic, with and without kills: no row missing, none twice, and
//! the bank's sum never moves on the target.

use std::time::Duration;

use tidemark_lab::traffic::bank::{Bank, BankReader};
use tidemark_lab::traffic::mixed::Mixed;
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait::wait_for;

use crate::stage::{PATIENCE, Stage};

const BANK: Bank = Bank { accounts: 500 };

#[tokio::test(flavor = "multi_thread")]
async fn load_and_stream_under_traffic_end_equal() {
    let stage = Stage::new("hand_over").await;
    let config = stage.source_config();
    let mixed = Mixed::default();
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::set_up(&config, &mixed).await.unwrap();
    let bank = Traffic::start(&config, &BANK, Pace::at(200.0, 1));
    let changes = Traffic::start(&config, &mixed, Pace::at(200.0, 2));

    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let reader = BankReader::start(&stage.target_config(), "public", BANK)
        .await
        .unwrap();
    let busy = || async { Ok((bank.report().committed > 1_000).then_some(())) };
    wait_for(PATIENCE, "a thousand transfers", busy)
        .await
        .unwrap();

    bank.stop().await.unwrap();
    changes.stop().await.unwrap();
    stage.wait_until_identical().await;
    let seen = reader.stop().await.unwrap();
    assert!(seen.snapshots > 10, "the reader looked: {seen:?}");
    assert!(
        seen.violations.is_empty(),
        "the sum moved on the target: {seen:?}"
    );
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k07_kills_during_load_and_stream_cost_nothing() {
    let stage = Stage::new("kills").await;
    let config = stage.source_config();
    let mixed = Mixed::default();
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::set_up(&config, &mixed).await.unwrap();
    let filler = "CREATE TABLE filler AS SELECT i AS id, repeat(md5(i::text), 8) AS text \
                  FROM generate_series(1, 200000) i; ALTER TABLE filler ADD PRIMARY KEY (id);";
    stage.source.batch_execute(filler).await.unwrap();
    let bank = Traffic::start(&config, &BANK, Pace::at(150.0, 3));
    let changes = Traffic::start(&config, &mixed, Pace::at(150.0, 4));
    // Pauses that put kills into connecting, loading, finishing and streaming.
    for pause_ms in [
        150, 400, 700, 1100, 300, 1600, 900, 2500, 500, 1300, 200, 3000,
    ] {
        let run = stage.start(&["run", "FILE"]);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        run.kill9().await;
    }
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    bank.stop().await.unwrap();
    changes.stop().await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "a clean stop");
    assert_eq!(stage.slots().await.len(), 1, "one slot, the pipeline's own");
    stage.clear().await;
}
