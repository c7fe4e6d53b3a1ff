//! A standby takes the source's place: with the slot the pipeline goes on, without it, or without what the
//! target has, it is refused, and the gap can be bridged.

use tidemark_lab::compare::Comparison;
use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::skip::major_or_skip;
use tidemark_lab::{Proxy, wait_for};

use crate::asks::text;
use crate::stage::{PATIENCE, Ran, Stage};
use crate::writing::{CHANGES, TABLES};

/// A source behind an address that can be given to another server.
struct Source {
    primary: &'static PostgresServer,
    proxy: Proxy,
    stage: Stage,
}

impl Source {
    async fn start(primary: PostgresServer, name: &str) -> Source {
        let primary: &PostgresServer = Box::leak(Box::new(primary));
        let target = PostgresServer::shared().await.unwrap();
        let stage = Stage::on(primary, target, name).await;
        stage.source_sql(TABLES).await;
        let proxy = Proxy::start(primary.port()).await.unwrap();
        let url = primary.url_through(proxy.address(), &stage.source_name);
        stage.write_between(&url, &stage.target_url(), "");
        Source {
            primary,
            proxy,
            stage,
        }
    }

    /// SQL on the primary, whose restart has ended the stage's own session.
    async fn execute(&self, sql: &str) {
        let database = &self.stage.source_name;
        self.primary.execute_in(database, sql).await.unwrap();
    }

    /// Waits until the standby has replayed what the primary has by now.
    async fn wait_for(&self, standby: &PostgresServer) {
        let client = self.primary.client().await.unwrap();
        let head = text(&client, "SELECT pg_current_wal_flush_lsn()").await;
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", head.unwrap());
        let client = standby.client().await.unwrap();
        wait_for(PATIENCE, "the standby to follow", || async {
            Ok((text(&client, &sql).await? == "t").then_some(()))
        })
        .await
        .unwrap();
    }

    /// The primary is lost, the standby takes its place and its address.
    async fn fail_over_to(&self, standby: &PostgresServer) {
        self.primary.kill9().await.unwrap();
        standby.promote().await.unwrap();
        self.proxy.point_to(([127, 0, 0, 1], standby.port()).into());
    }

    async fn run(&self, arguments: &[&str], code: i32) -> Ran {
        self.stage.run(arguments).await.expect(code)
    }

    async fn assert_identical_to(&self, server: &PostgresServer) {
        let source = server.client_to(&self.stage.source_name).await.unwrap();
        let both = Comparison::new(&source, &self.stage.target).schema("public", "public");
        let outcome = both.run().await.unwrap();
        assert!(outcome.is_identical(), "{outcome}");
    }
}

const CAUGHT_UP: [&str; 4] = ["run", "FILE", "--until", "caught-up"];
const RECONCILE: [&str; 3] = ["reconcile", "FILE", "--yes"];

#[tokio::test(flavor = "multi_thread")]
async fn f35_standby_without_the_slot_is_refused_and_reconciled() {
    let primary = PostgresServer::builder().start().await.unwrap();
    let source = Source::start(primary, "failover_none").await;
    source.run(&CAUGHT_UP, 0).await;
    let standby = source.primary.standby(&[]).await.unwrap();
    source.execute(CHANGES).await;
    source.wait_for(&standby).await;
    source.fail_over_to(&standby).await;
    let refused = source.run(&["run", "FILE"], 6).await;
    assert!(refused.stderr.contains("TM4010"), "{}", refused.stderr);
    assert!(refused.stderr.contains("reconcile"), "{}", refused.stderr);
    source.run(&RECONCILE, 0).await;
    source.assert_identical_to(&standby).await;
    let more = "UPDATE notes SET v = 'on the new primary' WHERE id = 3";
    let database = &source.stage.source_name;
    standby.execute_in(database, more).await.unwrap();
    source.run(&CAUGHT_UP, 0).await;
    source.assert_identical_to(&standby).await;
}

/// Since PostgreSQL 17 a standby can keep the slot, which then is where the pipeline may go on.
async fn with_a_failover_slot(
    major: u32,
    name: &str,
    test: &str,
) -> Option<(Source, PostgresServer)> {
    let primary = major_or_skip(test, major)?;
    let source = Source::start(primary.start().await.unwrap(), name).await;
    source.run(&CAUGHT_UP, 0).await;
    let make = "SELECT pg_create_physical_replication_slot('standby', true)";
    source.execute(make).await;
    let settings = [
        ("primary_slot_name", "standby"),
        ("hot_standby_feedback", "on"),
        ("sync_replication_slots", "on"),
    ];
    let standby = source.primary.standby(&settings).await.unwrap();
    let client = standby.client().await.unwrap();
    let slot = format!(
        "SELECT synced AND NOT temporary AND invalidation_reason IS NULL \
         FROM pg_replication_slots WHERE slot_name = 'tidemark_{name}'"
    );
    // The standby takes the slot over once it needs nothing older than the standby has.
    let run = source.stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "the slot to be on the standby", || async {
        source
            .execute("INSERT INTO lines VALUES ('on'); SELECT pg_log_standby_snapshot()")
            .await;
        let said = text(&client, &slot).await?;
        anyhow::ensure!(said == "t", "{said}");
        Ok(Some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}\n{}", run.log(), standby.log()));
    assert_eq!(run.terminate().await, Some(0), "{}", source.stage.log());
    Some((source, standby))
}

#[tokio::test(flavor = "multi_thread")]
async fn f35_failover_slot_goes_on_at_the_promoted_standby() {
    let test = "failover::f35_failover_slot_goes_on_at_the_promoted_standby";
    let Some((source, standby)) = with_a_failover_slot(17, "failover_slot", test).await else {
        return;
    };
    source.execute(CHANGES).await;
    source.run(&CAUGHT_UP, 0).await;
    // Not in the target when the primary is lost, and on the standby.
    source
        .execute("INSERT INTO lines SELECT 'late' FROM generate_series(1, 9)")
        .await;
    source.wait_for(&standby).await;
    source.fail_over_to(&standby).await;
    let ran = source.run(&CAUGHT_UP, 0).await;
    assert!(ran.stderr.contains("goes on at"), "{}", ran.stderr);
    source.assert_identical_to(&standby).await;
    // What is recorded from now on is of the new timeline.
    let more = "UPDATE notes SET v = 'on the new primary' WHERE id = 3";
    let database = &source.stage.source_name;
    standby.execute_in(database, more).await.unwrap();
    source.run(&CAUGHT_UP, 0).await;
    source.run(&CAUGHT_UP, 0).await;
    source.assert_identical_to(&standby).await;
}

/// The standby did not have what the target had already, and has gone on past that place by now.
#[tokio::test(flavor = "multi_thread")]
async fn f35_standby_that_lacks_what_the_target_has_is_refused() {
    let test = "failover::f35_standby_that_lacks_what_the_target_has_is_refused";
    let Some((source, standby)) = with_a_failover_slot(18, "failover_lacks", test).await else {
        return;
    };
    source.wait_for(&standby).await;
    standby.stop(Shutdown::Fast).await.unwrap();
    source.execute(CHANGES).await;
    source.run(&CAUGHT_UP, 0).await;
    source.primary.kill9().await.unwrap();
    standby.start().await.unwrap();
    source.fail_over_to(&standby).await;
    let database = &source.stage.source_name;
    let past = "INSERT INTO lines SELECT repeat('x', 500) FROM generate_series(1, 5000)";
    standby.execute_in(database, past).await.unwrap();
    let refused = source.run(&["run", "FILE"], 6).await;
    for word in ["TM4016", "left timeline 1", "reconcile"] {
        assert!(
            refused.stderr.contains(word),
            "{word} in {}",
            refused.stderr
        );
    }
    source.run(&RECONCILE, 0).await;
    source.assert_identical_to(&standby).await;
    source.run(&CAUGHT_UP, 0).await;
    source.assert_identical_to(&standby).await;
}
