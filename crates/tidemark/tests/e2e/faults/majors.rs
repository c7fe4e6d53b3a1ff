//! A source that comes back as another major. Neither `pg_upgrade` nor a dump carries a slot over, and
//! both make another system of it: what was written since is in no log that we could read.

use tidemark_lab::Proxy;
use tidemark_lab::server::{PostgresServer, Shutdown};
use tidemark_lab::skip::{major_or_skip, skipped};

use super::own_server;
use crate::asks::text;
use crate::stage::{Running, Stage};

/// `lines` has no key, so that a change applied twice shows.
const TABLES: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, what text, note text);
    INSERT INTO orders (what) SELECT 'order ' || i FROM generate_series(1, 500) i;
    CREATE TABLE lines (v text); ALTER TABLE lines REPLICA IDENTITY FULL;
    INSERT INTO lines SELECT 'first' FROM generate_series(1, 100) i";

/// What is written after the upgrade, or in the middle of it, and by no log comes to us.
const HIDDEN: &str = "INSERT INTO orders (what) VALUES ('hidden'); DELETE FROM orders WHERE id <= 10;
    UPDATE orders SET note = 'changed' WHERE id IN (20, 21, 22); INSERT INTO lines VALUES ('hidden')";

const ROWS: &str = "SELECT (SELECT count(*) || ' ' || sum(id) || ' ' || count(note) FROM orders) || ' ' || \
     (SELECT count(*) FROM lines) || ' ' || (SELECT position FROM tidemark.checkpoint)";

/// The run ends and tells why, nothing is passed over, and `reconcile` brings what the log cannot.
async fn is_told_and_bridged(mut stage: Stage, mut run: Running, upgraded: PostgresServer) {
    let before = text(&stage.target, ROWS).await.unwrap();
    assert_eq!(run.ended().await, Some(6), "{}", stage.log());
    let told = stage.log();
    for words in ["TM4013", "system identifier", "tidemark reconcile"] {
        assert!(told.contains(words), "{words} in\n{told}");
    }
    stage.source_server = Box::leak(Box::new(upgraded));
    stage.connect_again().await;
    stage.source_sql(HIDDEN).await;
    let again = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(again.stderr.contains("TM4013"), "{}", again.stderr);
    assert!(stage.slots().await.is_empty(), "never made anew in silence");
    assert_eq!(text(&stage.target, ROWS).await.unwrap(), before);

    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    stage.assert_identical().await;
    let run = stage.start_streaming().await;
    stage.source_sql(HIDDEN).await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f37_source_upgraded_by_pg_upgrade_is_told_and_reconciled() {
    let name = "f37_source_upgraded_by_pg_upgrade_is_told_and_reconciled";
    let target = PostgresServer::shared().await.unwrap();
    let newer = target.installation();
    let Some(builder) = major_or_skip(name, newer.major - 1) else {
        return;
    };
    if !newer.program("pg_upgrade").is_file() {
        skipped(name, "pg_upgrade is not installed");
        return;
    }
    let source = Box::leak(Box::new(builder.start().await.unwrap()));
    let stage = Stage::on(source, target, "fault_upgraded").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    // At the same address, while the run asks for it.
    let upgraded = source.upgraded(newer).await.unwrap();
    assert_eq!(upgraded.major(), newer.major);
    assert_eq!(upgraded.port(), source.port());
    is_told_and_bridged(stage, run, upgraded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f37_source_that_was_moved_to_another_major_by_a_dump_is_told_and_reconciled() {
    let name = "f37_source_that_was_moved_to_another_major_by_a_dump_is_told_and_reconciled";
    let Some(builder) = major_or_skip(name, 18) else {
        return;
    };
    let source = own_server(&[]).await;
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "fault_dumped").await;
    let wire = Proxy::start(source.port()).await.unwrap();
    let url = source.url_through(wire.address(), &stage.source_name);
    stage.write_between(&url, &stage.target_url(), "");
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    // The last changes before the dump are not seen by us.
    wire.refuse();
    stage.source_sql(HIDDEN).await;
    let dump = source.dump(&stage.source_name).await.unwrap();
    let upgraded = builder.start().await.unwrap();
    let create = format!("CREATE DATABASE {}", stage.source_name);
    upgraded.execute(&create).await.unwrap();
    upgraded.psql(&stage.source_name, &dump).await.unwrap();
    source.stop(Shutdown::Fast).await.unwrap();
    wire.point_to(([127, 0, 0, 1], upgraded.port()).into());
    wire.accept();
    is_told_and_bridged(stage, run, upgraded).await;
}
