//! Those who ask and do not wait for the answer: what they asked for is done, and done once.

use std::time::{Duration, Instant};

use serde_json::json;
use tidemark_lab::http::Response;
use tidemark_lab::proxy::Proxy;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::{Server, definition};
use crate::stage::{PATIENCE, Stage};

/// Sends a request by a key, leaves at some moment, and sends it again until it is answered.
async fn comes_again(
    server: &Server,
    request: impl Fn() -> tidemark_lab::http::Request,
    stays: Duration,
) -> Response {
    let stream = request().open(&server.address).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < stays {
        tokio::task::yield_now().await;
    }
    drop(stream);
    let answered = wait_for(PATIENCE, "an answer for the key", || async {
        let answer = server.send(request()).await;
        // The first one may be on its way still.
        Ok((answer.status != 409).then_some(answer))
    });
    answered.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s35_what_was_asked_for_is_done_once_though_nobody_waited_for_the_answer() {
    let server = Server::start(&[]).await;
    for number in 0..40 {
        let name = format!("left_{number}");
        let wanted = json!({
            "version": 1,
            "pipeline": { "name": name, "mode": "full_load_and_cdc" },
            "source": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/x" },
            "target": { "type": "postgres", "url": "postgres://a@127.0.0.1:1/y" },
            "tables": { "include": ["public.*"] },
        });
        let request = || {
            let request = server.request("POST", "/pipelines").json(&wanted);
            request.header("idempotency-key", &name)
        };
        // How far it has come by then is different each time.
        let stays = Duration::from_micros(100 * number);
        let answer = comes_again(&server, request, stays).await;
        assert_eq!(answer.status, 201, "{name}: {}", answer.text());
        let there = server.get(&format!("/pipelines/{name}")).await;
        assert_eq!(there["id"], name.as_str());
    }
    assert_eq!(server.get("/pipelines?limit=500").await["total"], 40);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn s35_a_key_is_free_again_when_what_it_was_used_for_was_given_up() {
    let server = Server::start(&[]).await;
    let stage = Stage::new("srv_left").await;
    let database = PostgresServer::shared().await.unwrap();
    let proxy = Proxy::start(database.port()).await.unwrap();
    let url = database.url_through(proxy.address(), &stage.source_name);
    let mut wanted = definition(&stage);
    wanted["source"]["url"] = json!(format!("{url}?connect_timeout=2"));
    let request = || {
        let request = server.request("POST", "/checks").json(&wanted);
        request.header("idempotency-key", "once")
    };
    // Whoever asks leaves while the source is waited for, which says nothing.
    proxy.partition();
    let answer = comes_again(&server, request, Duration::from_millis(500)).await;
    assert!([200, 503].contains(&answer.status), "{}", answer.text());
    proxy.heal();
    let answer = server.send(request()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// An answer may be larger than a request may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_many_tables_is_answered_to_a_request_with_a_key() {
    let server = Server::start(&[]).await;
    let stage = Stage::new("srv_left_large").await;
    let sql = "DO $$ BEGIN FOR i IN 1..700 LOOP
        EXECUTE (SELECT format('CREATE TABLE %I (%s, PRIMARY KEY (%s))', repeat('t', 50) || i,
            string_agg(format('%I int', c), ', '), string_agg(format('%I', c), ', '))
            FROM (SELECT repeat('c', 58) || n AS c FROM generate_series(1, 30) n) named);
        IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$";
    stage.source_sql(sql).await;
    let wanted = definition(&stage);
    let request = || {
        let request = server.request("POST", "/plans").json(&wanted);
        request.header("idempotency-key", "large")
    };
    for _ in 0..2 {
        let answer = server.send(request()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body.len() > 1 << 20, "{} bytes", answer.body.len());
    }
}
