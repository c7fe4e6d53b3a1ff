//! A standby takes the target's place. The checkpoint goes with the rows, so it tells what the standby
//! has, whatever the source was told.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use super::own_server;
use crate::asks::text;
use crate::oracle;
use crate::stage::{PATIENCE, Running, Stage};
use crate::writers::Writers;

struct Failover {
    stage: Stage,
    primary: &'static PostgresServer,
    standby: &'static PostgresServer,
    writers: Writers,
}

impl Failover {
    /// A target with a standby, and an address that leads to whichever takes writes.
    async fn new(name: &str) -> Failover {
        let source = PostgresServer::shared().await.unwrap();
        let primary = own_server(&[("fsync", "on")]).await;
        let mut stage = Stage::on(source, primary, name).await;
        let standby: &PostgresServer = Box::leak(Box::new(primary.standby(&[]).await.unwrap()));
        stage.connect_again().await;
        let hosts = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{}?target_session_attrs=read-write",
            primary.port(),
            standby.port(),
            stage.target_name
        );
        stage.write_between(&stage.source_url(), &hosts, &oracle::strict_file(&stage));
        let writers = Writers::start(&stage).await;
        Failover {
            stage,
            primary,
            standby,
            writers,
        }
    }

    async fn streams(&self) -> Running {
        let run = self.stage.start(&["run", "FILE"]);
        oracle::comes_through(&self.stage).await;
        oracle::something_new_arrives(&self.stage).await;
        run
    }

    /// The primary is gone for good.
    async fn fails_over(&mut self) {
        self.primary.kill9().await.unwrap();
        self.standby.start().await.unwrap();
        self.standby.promote().await.unwrap();
        self.stage.target_server = self.standby;
        self.stage.connect_again().await;
    }

    async fn ends_well(self, run: Running) {
        self.writers.rest().await;
        oracle::comes_through(&self.stage).await;
        self.stage.wait_for_equal(self.stage.comparison()).await;
        assert_eq!(run.terminate().await, Some(0), "{}", self.stage.log());
        oracle::nothing_is_left(&self.stage).await;
        self.stage.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_standby_that_has_everything_takes_the_targets_place() {
    let mut failover = Failover::new("failover_whole").await;
    let wait = "ALTER SYSTEM SET synchronous_standby_names = '*'";
    failover.primary.execute(wait).await.unwrap();
    failover.primary.reload().await.unwrap();
    let run = failover.streams().await;
    failover.fails_over().await;
    oracle::something_new_arrives(&failover.stage).await;
    failover.ends_well(run).await;
}

/// What the source was told is lost with the primary, and the source has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn f46_f53_a_standby_that_lacks_what_was_acknowledged_is_a_gap_that_is_told_and_bridged() {
    let mut failover = Failover::new("failover_gap").await;
    let mut run = failover.streams().await;
    let stop = tidemark_lab::Shutdown::Fast;
    failover.standby.stop(stop).await.unwrap();
    oracle::something_new_arrives(&failover.stage).await;
    let told = format!(
        "SELECT confirmed_flush_lsn > '{}' FROM pg_replication_slots WHERE slot_name = '{}'",
        failover.stage.head().await,
        failover.stage.slots().await[0]
    );
    wait_for(PATIENCE, "the source to be told", || async {
        Ok((text(&failover.stage.source, &told).await? == "t").then_some(()))
    })
    .await
    .unwrap();
    failover.fails_over().await;
    let code = run.ended().await;
    let log = failover.stage.log();
    assert_eq!(code, Some(6), "{log}");
    assert!(log.contains("TM4011"), "{log}");
    let bridged = failover.stage.run(&["reconcile", "FILE", "--yes"]).await;
    bridged.expect(0);
    let run = failover.streams().await;
    failover.ends_well(run).await;
}
