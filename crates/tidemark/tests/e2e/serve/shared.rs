//! A store in a PostgreSQL database, which may be away, and which servers share.

use serde_json::{Value, json};
use tidemark_lab::http::Request;
use tidemark_lab::proxy::Proxy;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::{Server, definition};
use crate::stage::{PATIENCE, Stage};
use crate::writing::Writers;

/// The key of the store, which all servers are given.
const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A server whose store is in this database.
async fn served(url: &str) -> Server {
    Server::start_with(&["--store", url], &[("TIDEMARK_STORE_KEY", KEY)]).await
}

/// What is said while the store is away.
async fn refused(server: &Server, request: Request) -> Option<Value> {
    let answer = server.send(request).await;
    let problem = answer.json().unwrap_or_default();
    (answer.status == 503 && problem["code"] == "TM7090").then_some(problem)
}

#[tokio::test]
async fn a_store_in_a_database_may_be_away_while_pipelines_go_on() {
    let stage = Stage::new("srv_shared").await;
    Writers::set_up(&stage).await;
    let database = PostgresServer::shared().await.unwrap();
    let name = database.fresh_database("store").await.unwrap();
    let proxy = Proxy::start(database.port()).await.unwrap();
    let mut server = served(&database.url_through(proxy.address(), &name)).await;
    let body = definition(&stage);
    let answer = server.post("/pipelines?start=true", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let begun = server.wait_for_state("srv_shared", "streaming").await;
    let writers = Writers::start(&stage, 7);
    writers.busy(20).await;

    proxy.refuse();
    let events = || server.request("GET", "/pipelines/srv_shared/events");
    let problem = wait_for(PATIENCE, "the API to say that it is away", || async {
        Ok(refused(&server, events()).await)
    });
    let problem = problem.await.unwrap();
    assert_eq!(problem["retryable"], true, "{problem}");
    // What is asked of a pipeline now is not done, and said so: nothing is half done.
    let stop = server.request("POST", "/pipelines/srv_shared/actions/stop");
    assert!(refused(&server, stop.json(&json!({}))).await.is_some());
    let ready = server.send(Request::new("GET", "/readyz")).await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let alive = server.send(Request::new("GET", "/livez")).await;
    assert_eq!(alive.status, 200, "{}", alive.text());
    writers.busy(30).await;
    writers.stop().await;
    stage.wait_until_identical().await;
    let state = server.get("/pipelines/srv_shared").await["state"].clone();
    assert_eq!(state, "streaming");

    proxy.accept();
    wait_for(PATIENCE, "the store to be found again", || async {
        Ok((server.send(events()).await.status == 200).then_some(()))
    })
    .await
    .unwrap();

    // Killed, its lease runs out; the next one goes on where it was.
    server.child.kill().await.unwrap();
    server.restart().await;
    let again = server.wait_for_state("srv_shared", "streaming").await;
    assert_eq!(again["full_load_lsn"], begun["full_load_lsn"]);
    let request = server.request("DELETE", "/pipelines/srv_shared");
    let answer = server.send(request.header("if-match", "*")).await;
    let done = server.operation(&answer).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    assert!(stage.slots().await.is_empty());
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    assert!(!server.log().contains("TM7092"), "{}", server.log());
}

#[tokio::test]
async fn a_store_in_a_database_needs_its_key_given() {
    let home = tempfile::tempdir().unwrap();
    let more = ["--store", "postgres://nobody@127.0.0.1:1/none"].map(str::to_owned);
    let mut child = super::spawn(home.path(), &more, &[]);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap();
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(!ended.unwrap().success());
    assert!(
        log.contains("TM8003") && log.contains("openssl rand"),
        "{log}"
    );
    let key = [("TIDEMARK_STORE_KEY".to_owned(), KEY.to_owned())];
    let mut child = super::spawn(home.path(), &more, &key);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap();
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert_eq!(ended.unwrap().code(), Some(5), "{log}");
    assert!(log.contains("TM7090"), "{log}");
}
