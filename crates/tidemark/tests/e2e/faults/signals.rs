//! Signals to our process: told to stop, told to stand still.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use super::{Rig, own_server};
use crate::asks::text;
use crate::oracle;
use crate::stage::PATIENCE;

/// How long an orderly end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_by_signal_keeps_the_checkpoint_and_what_was_loaded() {
    let rig = Rig::new("fault_signals").await;
    // In the load, and in the stream.
    let mut run = rig.stage.start(&["run", "FILE"]);
    let some = "SELECT count(*) > 3 FROM tidemark.unit WHERE is_loaded";
    wait_for(PATIENCE, "units to be loaded", || async {
        Ok((text(&rig.stage.target, some).await? == "t").then_some(()))
    })
    .await
    .unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        let began = Instant::now();
        run.signal(signal);
        assert_eq!(run.ended().await, Some(0), "{}", run.log());
        assert!(began.elapsed() < ENDS_WITHIN, "{:?}", began.elapsed());
        run = rig.stage.start(&["run", "FILE"]);
        oracle::comes_through(&rig.stage).await;
        rig.something_new_arrives().await;
    }
    let log = run.log();
    assert!(log.matches("goes on at").count() >= 2, "{log}");
    let loads = log.matches("step 4/5 load").count();
    assert!(loads <= 2, "loaded {loads} times, interrupted once\n{log}");
    rig.ends_well(run).await;
}

/// A pause that is longer than the source's patience: it has ended our walsender meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn f06_a_pause_longer_than_the_source_waits_costs_nothing() {
    let source = own_server(&[("wal_sender_timeout", "2s")]).await;
    let target = PostgresServer::shared().await.unwrap();
    let rig = Rig::on(source, target, "fault_pause").await;
    let run = rig.streams().await;
    run.signal(Signal::STOP);
    let walsenders = "SELECT count(*) FROM pg_stat_replication";
    wait_for(PATIENCE, "the source to give up", || async {
        Ok((text(&rig.stage.source, walsenders).await? == "0").then_some(()))
    })
    .await
    .unwrap();
    assert!(
        source.log().contains("replication timeout"),
        "{}",
        source.log()
    );
    run.signal(Signal::CONT);
    rig.something_new_arrives().await;
    assert_eq!(text(&rig.stage.source, walsenders).await.unwrap(), "1");
    rig.ends_well(run).await;
}
