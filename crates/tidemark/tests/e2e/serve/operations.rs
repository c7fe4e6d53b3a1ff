//! Long actions: listed, and given up where that leaves nothing half done.

use serde_json::{Value, json};
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::access::{guarded, token};
use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

/// Sessions of ours in the target that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE '%orders%'";

async fn waiting(stage: &Stage, count: i64, what: &str) {
    let looked = wait_for(PATIENCE, what, || async {
        let found: i64 = stage.target.query_one(WAITING, &[]).await?.get(0);
        Ok((found == count).then_some(()))
    });
    looked.await.unwrap();
}

async fn cancel(server: &Server, operation: &Value) -> u16 {
    let route = format!("/operations/{}/cancel", operation["id"].as_str().unwrap());
    server.post(&route, &json!({})).await.status
}

#[tokio::test]
async fn a_verification_that_is_given_up_reads_no_further() {
    // A target of its own: a lock that others wait for is a transaction that a comparison waits for.
    let shared = PostgresServer::shared().await.unwrap();
    let own = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let stage = Stage::on(shared, own, "srv_cancel").await;
    fill(&stage).await;
    let mut server = guarded().await;
    let operator = token(&server, "olga", "operator", "default").await;
    let viewer = token(&server, "vic", "viewer", "default").await;
    let other = token(&server, "bob", "admin", "b").await;
    let mut wanted = definition(&stage);
    wanted["verify"] = json!({ "after_load": "off" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_cancel", "streaming").await;

    // Somebody keeps it waiting, and goes on to.
    let blocker = stage
        .target_server
        .client_to(&stage.target_name)
        .await
        .unwrap();
    blocker
        .batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let verify = "/pipelines/srv_cancel/actions/verify";
    let begun = server.post(verify, &json!({})).await;
    let operation = begun.json().unwrap();
    waiting(&stage, 1, "the comparison to wait").await;
    let listed = server.get("/pipelines/srv_cancel/operations").await;
    assert_eq!(
        (
            &listed["operations"][0]["id"],
            &listed["operations"][0]["state"]
        ),
        (&operation["id"], &json!("running"))
    );
    for (token, status) in [(viewer, 403), (other, 404), (operator, 202)] {
        server.token = Some(token);
        assert_eq!(cancel(&server, &operation).await, status);
    }
    let ended = server.operation(&begun).await;
    assert_eq!(
        (&ended["state"], &ended["text"]),
        (&json!("cancelled"), &json!("cancelled by olga")),
        "{ended}"
    );
    waiting(&stage, 0, "the target to stop reading").await;
    assert_eq!(cancel(&server, &operation).await, 409, "it is over");
    let events = server.get("/pipelines/srv_cancel/events").await;
    let said = events["events"].as_array().unwrap().iter();
    let said = said.filter(|event| event["text"] == "verify: cancelled");
    assert_eq!(said.count(), 1, "{events}");

    // Nothing of it is left, and the next one comes to its end.
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let done = server.act("srv_cancel", "verify", &json!({})).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    let kept = server.get("/pipelines/srv_cancel/verifications").await;
    assert_eq!(kept["verifications"].as_array().unwrap().len(), 1, "{kept}");
    server.terminate().await;
    stage.clear().await;
}
