//! More tables than the servers have room for locks (`max_locks_per_transaction`): nothing of ours keeps a
//! lock on more than a few of them at once, be it to publish, load, compare, apply or leave them.

use tidemark_lab::server::PostgresServer;

use crate::stage::Stage;

/// Each has an index, so twice as many locks, and a server of these settings has room for about 800.
const TABLES: u32 = 600;

async fn own_server() -> &'static PostgresServer {
    let server = PostgresServer::builder()
        .setting("max_locks_per_transaction", "10")
        .setting("max_connections", "30")
        .start()
        .await
        .unwrap();
    Box::leak(Box::new(server))
}

/// A statement for each table, in transactions of their own.
async fn for_each_table(stage: &Stage, statement: &str) {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{TABLES} LOOP EXECUTE format($s${statement}$s$, i); \
         COMMIT; END LOOP; END $$"
    );
    stage.source_sql(&sql).await;
}

async fn wait_for_rows(stage: &Stage, rows: &str) {
    for number in [1, TABLES / 2, TABLES] {
        let sql = format!("SELECT count(*) FROM t{number}");
        stage.wait_for_target(&sql, rows).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f59_more_tables_than_the_servers_have_room_for_locks() {
    let server = own_server().await;
    let stage = Stage::on(server, server, "locks").await;
    for_each_table(&stage, "CREATE TABLE t%s (id int PRIMARY KEY)").await;
    for_each_table(&stage, "INSERT INTO t%s VALUES (1)").await;
    let verified = ["run", "FILE", "--until", "verified"];
    stage.run(&verified).await.expect(0);

    // A backlog of many small transactions, each of another table.
    let run = stage.start_streaming().await;
    stage.run(&["pause", "FILE"]).await.expect(0);
    for_each_table(&stage, "INSERT INTO t%s VALUES (2)").await;
    stage.run(&["resume", "FILE"]).await.expect(0);
    wait_for_rows(&stage, "2").await;
    assert!(!stage.log().contains("TM2018"), "{}", stage.log());
    stage.run(&["verify", "FILE"]).await.expect(0);
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    assert!(!stage.log().contains("TM1018"), "{}", stage.log());
    stage.clear().await;
}
