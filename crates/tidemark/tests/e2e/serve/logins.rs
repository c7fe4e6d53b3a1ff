//! A login that is refused under a server, which runs for months: nobody is locked out by its attempts.

use std::time::{Duration, Instant};

use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

/// How long it is watched that nobody asks any more.
const WATCHED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn f16_a_server_leaves_a_login_alone_that_is_refused() {
    let builder = PostgresServer::builder().scram("right");
    let database: &PostgresServer = Box::leak(Box::new(builder.start().await.unwrap()));
    let stage = Stage::on(database, database, "srv_login").await;
    fill(&stage).await;
    stage
        .source_sql("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'right'")
        .await;
    let mut body = definition(&stage);
    let url = database.url_with("reader", Some("right"), &stage.source_name);
    body["source"]["url"] = url.into();
    let mut server = Server::start(&[]).await;
    let answer = server.post("/pipelines?start=true", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_login", "streaming").await;

    let refused = || database.log().matches("authentication failed").count();
    stage.source_sql("ALTER ROLE reader PASSWORD 'other'").await;
    let end =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'reader'";
    database.execute(end).await.unwrap();
    let failed = server.wait_for_state("srv_login", "failed").await;
    assert_eq!(failed["error"]["code"], "TM1005", "{failed}");
    // Each of its sessions may find out by itself, and then nobody asks.
    let last = std::sync::Mutex::new((0, Instant::now()));
    let asked = wait_for(PATIENCE, "nobody to ask any more", || async {
        // Whoever looks at it does not make it ask either.
        server.get("/pipelines/srv_login").await;
        server.get("/pipelines").await;
        let mut last = last.lock().unwrap();
        if refused() != last.0 {
            *last = (refused(), Instant::now());
        }
        Ok((last.1.elapsed() > WATCHED).then_some(last.0))
    })
    .await
    .unwrap();
    assert!((1..=8).contains(&asked), "{asked} times");

    stage.source_sql("ALTER ROLE reader PASSWORD 'right'").await;
    let answer = server
        .post("/pipelines/srv_login/actions/start", &serde_json::json!({}))
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    server.wait_for_state("srv_login", "streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
}
