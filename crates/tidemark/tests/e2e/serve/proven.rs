//! What a load brought is compared, whatever ends the server before that was done; and as long as it is
//! not, that is said.

use serde_json::{Value, json};
use tidemark_lab::Proxy;
use tidemark_lab::wait::wait_for;
use tokio_postgres::Client;

use super::{Server, definition};
use crate::stage::{PATIENCE, Stage};

/// A pipeline in the middle of its load, between roles of its own, whose comparison has to wait for the
/// session that is given.
async fn is_held(name: &str) -> (Stage, Server, Client, Proxy) {
    let stage = Stage::new(name).await;
    let source = &stage.source_name;
    stage
        .source_sql(&format!(
            "CREATE TABLE wide (id int PRIMARY KEY, v text);
             INSERT INTO wide SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 3000) i;
             CREATE ROLE {name}_reader LOGIN REPLICATION;
             GRANT CREATE ON DATABASE {source} TO {name}_reader;
             ALTER TABLE wide OWNER TO {name}_reader"
        ))
        .await;
    let wire = Proxy::start(stage.source_server.port()).await.unwrap();
    wire.limit_rate(Some(256 << 10));
    let mut wanted = definition(&stage);
    let reader = format!("{name}_reader");
    let url = format!("postgres://{reader}@{}/{source}", wire.address());
    wanted["source"]["url"] = json!(url);
    let server = Server::start(&[]).await;
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let copies = format!("/monitoring/pipelines/{name}/progress");
    wait_for(PATIENCE, "rows to be copied", || async {
        let rows = server.get(&copies).await["rows_loaded"].as_u64();
        Ok((rows > Some(0)).then_some(()))
    })
    .await
    .unwrap();
    let holder = stage.on_source().await;
    let open = "BEGIN; INSERT INTO wide VALUES (0, 'open')";
    holder.batch_execute(open).await.unwrap();
    wire.limit_rate(None);
    server.wait_for_state(name, "streaming").await;
    (stage, server, holder, wire)
}

/// Waits until it was compared, and is well; gives how often that was.
async fn is_proven(server: &Server, name: &str) -> usize {
    let route = format!("/pipelines/{name}");
    let proven = wait_for(PATIENCE, "the load to be compared", || async {
        let found = server.get(&route).await;
        anyhow::ensure!(found["verified"]["result"] == "identical", "{found}");
        anyhow::ensure!(found["unverified"].is_null(), "{found}");
        anyhow::ensure!(found["health"] == "ok", "{found}");
        Ok(Some(()))
    });
    if let Err(err) = proven.await {
        panic!("{err:?}\n{}", server.log());
    }
    let kept = server.get(&format!("{route}/verifications")).await;
    kept["verifications"].as_array().unwrap().len()
}

async fn drop_reader(stage: &Stage) {
    let reader = format!("{}_reader", stage.name);
    let sql = format!("DROP OWNED BY {reader}; DROP ROLE {reader}");
    stage.source_sql(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_a_killed_server_did_not_compare_is_compared_by_the_next() {
    let name = "srv_unproven";
    let (stage, mut server, holder, _wire) = is_held(name).await;
    let kept = format!("/pipelines/{name}/verifications");
    assert_eq!(server.get(&kept).await["verifications"], json!([]));
    server.child.kill().await.unwrap();
    server.restart().await;
    server.wait_for_state(name, "streaming").await;
    assert_eq!(server.get(&kept).await["verifications"], json!([]));
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(is_proven(&server, name).await, 1);
    // What was compared is not compared again.
    server.terminate().await;
    server.restart().await;
    server.wait_for_state(name, "streaming").await;
    stage
        .source_sql("INSERT INTO wide VALUES (-1, 'later')")
        .await;
    stage.wait_until_identical().await;
    assert_eq!(is_proven(&server, name).await, 1);
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    drop_reader(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_cannot_be_made_is_told_and_made_later() {
    let name = "srv_uncompared";
    let (stage, mut server, holder, _wire) = is_held(name).await;
    let reader = format!("{name}_reader");
    stage
        .source_sql(&format!("ALTER ROLE {reader} NOREPLICATION"))
        .await;
    holder.batch_execute("COMMIT").await.unwrap();
    let route = format!("/pipelines/{name}");
    let told = wait_for(PATIENCE, "it to be told", || async {
        let found = server.get(&route).await;
        let why = found["unverified"].as_str().unwrap_or_default();
        anyhow::ensure!(why.starts_with("TM1014"), "{found}");
        anyhow::ensure!(found["health"] == "warning", "{found}");
        // As the command line says it, which looks into the target.
        let status = server.get(&format!("{route}/status")).await;
        anyhow::ensure!(status["unverified"].is_string(), "{status}");
        Ok(Some(()))
    });
    if let Err(err) = told.await {
        panic!("{err:?}\n{}", server.log());
    }
    let events = server.get(&format!("{route}/events")).await;
    let events = events["events"].as_array().unwrap().iter();
    let is_it = |event: &&Value| event["kind"] == "verification" && event["code"] == "TM1014";
    assert!(events.filter(is_it).count() > 0, "no event tells it");
    stage
        .source_sql(&format!("ALTER ROLE {reader} REPLICATION"))
        .await;
    assert_eq!(is_proven(&server, name).await, 1);
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    drop_reader(&stage).await;
    stage.clear().await;
}
