//! Disks that are full, of the target and of the places where large transactions and the relay log are.

use tidemark_lab::server::PostgresServer;

use super::{assert_waits, server_of};
use crate::asks::Locked;
use crate::small_disk::SmallDisk;
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn f45_a_full_disk_of_the_target_is_waited_for_in_load_and_stream() {
    let name = "f45_a_full_disk_of_the_target_is_waited_for_in_load_and_stream";
    // Of its own: a server does not outlive the loss of a disk.
    let server = server_of(PostgresServer::builder()).await;
    let Some(disk) = SmallDisk::mount(name, 6, &server.data_directory()) else {
        return;
    };
    let stage = Stage::on(server, server, "bad_target_disk").await;
    let rows = "CREATE TABLE big (id int PRIMARY KEY, v text); ALTER TABLE big ALTER v SET STORAGE EXTERNAL; \
                CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1); \
                INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 8000) i";
    stage.source_sql(rows).await;
    let tablespace = format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        disk.path().display()
    );
    stage.target_sql(&tablespace).await;
    let place = format!(
        "ALTER DATABASE {} SET default_tablespace = small",
        stage.target_name
    );
    stage.target_sql(&place).await;

    let mut run = stage.start(&["run", "FILE"]);
    assert_waits(&mut run, "TM2017").await;
    let loaded = "SELECT count(*) FROM big";
    let count: i64 = stage.target.query_one(loaded, &[]).await.unwrap().get(0);
    assert_eq!(count, 0, "a unit is in or it is not");
    disk.resize(16);
    stage.wait_for_state("streaming").await;
    stage.wait_until_identical().await;

    let already = run.log().matches("TM2017").count();
    let more =
        "INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series(8001, 16000) i";
    stage.source_sql(more).await;
    stage.source_sql("INSERT INTO small VALUES (2)").await;
    tidemark_lab::wait_for(
        crate::stage::PATIENCE,
        "the disk to be full again",
        || async { Ok((run.log().matches("TM2017").count() > already + 1).then_some(())) },
    )
    .await
    .unwrap();
    assert!(run.is_running());
    disk.resize(64);
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_a_large_transaction_is_waited_for() {
    let name = "a_full_disk_under_a_large_transaction_is_waited_for";
    let builder = PostgresServer::builder().setting("logical_decoding_work_mem", "64kB");
    let source = server_of(builder).await;
    let own = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(name, 1, own.path()) else {
        return;
    };
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "bad_spool_disk").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let directory = disk.path().display().to_string();
    stage.write(&format!("[stream]\nspool_dir = \"{directory}\"\n"));
    let mut run = stage.start_streaming().await;

    let other = source.client_to(&stage.source_name).await.unwrap();
    let large =
        "BEGIN; INSERT INTO t SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 10000) i";
    other.batch_execute(large).await.unwrap();
    assert_waits(&mut run, "TM4021").await;
    assert!(run.log().contains(&directory), "{}", run.log());
    disk.resize(64);
    other.batch_execute("COMMIT").await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
}

/// The source keeps its log as without a relay log, whoever is killed meanwhile; said, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn c8_a_full_disk_under_the_relay_log_is_said_and_costs_nothing() {
    let name = "c8_a_full_disk_under_the_relay_log_is_said_and_costs_nothing";
    let source = server_of(PostgresServer::builder()).await;
    let own = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(name, 8, own.path()) else {
        return;
    };
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "bad_relay_disk").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'first')";
    stage.source_sql(table).await;
    let directory = disk.path().display().to_string();
    stage.write(&format!(
        "[source.postgres]\nmax_retained = \"64 MB\"\nrelay_dir = \"{directory}\"\n"
    ));
    let run = stage.start_streaming().await;
    let locked = Locked::table(&stage, "t").await;
    stage.source_sql("UPDATE t SET v = 'waits'").await;
    locked.wait_for_waiter().await;
    let much = "INSERT INTO t SELECT i, repeat(md5(random()::text), 60) \
                FROM generate_series(2, 20000) i";
    stage.source_sql(much).await;
    let stopped = stage.wait_for_relay_to_stop().await;
    assert!(stopped.contains(&directory), "{stopped}");
    let status = stage.status().await;
    assert_eq!(status["health"], "warning", "{status}");
    run.kill9().await;
    let run = stage.start(&["run", "FILE"]);
    locked.wait_for_waiter().await;
    locked.release().await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
