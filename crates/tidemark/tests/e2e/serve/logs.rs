//! The log: of whom a line is, whichever part of the engine wrote it, and how loud it is while it runs.

use serde_json::{Value, json};
use tidemark_lab::wait::wait_for;

use super::access::{guarded, token};
use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

const LEVEL: &str = "/admin/log-level";

async fn lines(server: &Server, query: &str) -> Vec<Value> {
    let found = server
        .get(&format!("/pipelines/srv_logs/logs{query}"))
        .await;
    found["lines"].as_array().unwrap().clone()
}

fn has(lines: &[Value], text: &str) -> bool {
    let mut lines = lines.iter();
    lines.any(|line| line["text"].as_str().unwrap().contains(text))
}

/// Lines of stderr, which are JSON where nobody sits in front.
fn written(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.collect()
}

fn has_paused(server: &Server) -> bool {
    written(server)
        .iter()
        .any(|line| line["msg"] == "state paused")
}

async fn set(server: &Server, level: &str) -> u16 {
    let request = server
        .request("PUT", LEVEL)
        .json(&json!({ "level": level }));
    server.send(request).await.status
}

#[tokio::test]
async fn every_line_of_a_pipeline_bears_its_ids_and_is_shown_to_its_tenant() {
    let stage = Stage::new("srv_logs").await;
    fill(&stage).await;
    let mut server = guarded().await;
    let admin = server.token.clone();
    let of_a = Some(token(&server, "ann", "admin", "a").await);
    let viewer = token(&server, "vic", "viewer", "a").await;
    server.token.clone_from(&of_a);
    let mut wanted = definition(&stage);
    wanted["verify"] = json!({ "after_load": "off" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_logs", "streaming").await;
    let verified = server.act("srv_logs", "verify", &json!({})).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");

    // Also what the source's driver says, which knows of no tenant.
    let ours = lines(&server, "").await;
    assert!(has(&ours, "state streaming"), "{ours:?}");
    assert!(has(&ours, "publication tidemark_srv_logs made"), "{ours:?}");
    let acted = written(&server);
    let acted = acted.iter().find(|line| line["op_id"] == verified["id"]);
    let acted = acted.unwrap_or_else(|| panic!("no line of the operation:\n{}", server.log()));
    assert_eq!(
        (&acted["tenant"], &acted["pipeline"], &acted["level"]),
        (&json!("a"), &json!("srv_logs"), &json!("info"))
    );
    assert_eq!(
        acted["request_id"].as_str().map(str::len),
        Some(32),
        "{acted}"
    );
    let of_driver = written(&server);
    let of_driver = of_driver.iter().find(|line| {
        let text = line["msg"].as_str().unwrap_or_default();
        text.contains("publication tidemark_srv_logs made")
    });
    assert_eq!(of_driver.unwrap()["tenant"], "a");

    // Pages of them, newest first, and by level.
    let all = lines(&server, "?limit=500").await;
    let first = server.get("/pipelines/srv_logs/logs?limit=1").await;
    let cursor = &first["next_cursor"];
    let next = lines(&server, &format!("?limit=1&cursor={cursor}")).await;
    assert_eq!((&first["lines"][0], &next[0]), (&all[0], &all[1]));
    let errors = lines(&server, "?level=error").await;
    assert!(!has(&errors, "state streaming"), "{errors:?}");
    server.token = Some(viewer);
    assert!(has(&lines(&server, "").await, "state streaming"));
    let ndjson = server
        .request("GET", "/pipelines/srv_logs/logs")
        .header("accept", "application/x-ndjson");
    let text = server.send(ndjson).await.text();
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert!(text.lines().count() > 3);

    // How loud it is, is for whoever runs the server; from then on it is so.
    for token in [server.token.clone(), of_a.clone()] {
        server.token = token;
        assert_eq!(set(&server, "debug").await, 403);
        assert_eq!(server.send(server.request("GET", LEVEL)).await.status, 403);
    }
    server.token.clone_from(&admin);
    assert_eq!(server.get(LEVEL).await["level"], "info");
    assert_eq!(set(&server, "loud").await, 400);
    assert_eq!(set(&server, "error").await, 200);
    assert_eq!(server.get(LEVEL).await["level"], "error");
    server.token.clone_from(&of_a);
    assert_eq!(
        server.act("srv_logs", "pause", &json!({})).await["state"],
        "succeeded"
    );
    server.wait_for_state("srv_logs", "paused").await;
    assert!(!has_paused(&server), "{}", server.log());
    server.token.clone_from(&admin);
    assert_eq!(set(&server, "info").await, 200);
    server.token.clone_from(&of_a);
    assert_eq!(
        server.act("srv_logs", "resume", &json!({})).await["state"],
        "succeeded"
    );
    assert_eq!(
        server.act("srv_logs", "pause", &json!({})).await["state"],
        "succeeded"
    );
    let heard = wait_for(PATIENCE, "the line of the pause", || async {
        Ok(has_paused(&server).then_some(()))
    });
    heard.await.unwrap();
    server.terminate().await;
    stage.clear().await;
}
