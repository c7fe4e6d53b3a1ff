//! Alerts beside real databases: they fire, are told once, outlive the server, and resolve.

use serde_json::{Value, json};
use tidemark_lab::Proxy;
use tidemark_lab::http::Request;
use tidemark_lab::wait::wait_for;

use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

/// Waits until what fires is just this; gives it.
async fn wait_for_firing(server: &Server, wanted: &[&str]) -> Vec<Value> {
    let what = format!("{wanted:?} to fire");
    let found = wait_for(PATIENCE, &what, || async {
        let active = server.get("/alerts/active").await;
        let alerts = active["alerts"].as_array().unwrap().clone();
        let firing: Vec<&str> = alerts.iter().map(|a| a["when"].as_str().unwrap()).collect();
        anyhow::ensure!(firing == wanted, "{active}");
        Ok(Some(alerts))
    });
    match found.await {
        Ok(found) => found,
        Err(err) => panic!("{err:?}\n{}", server.log()),
    }
}

/// Waits until a rule stands like this.
async fn wait_for_rule(server: &Server, rule: &str, state: &str) {
    let what = format!("{rule} to be {state}");
    let found = wait_for(PATIENCE, &what, || async {
        let body = server.get("/alerts/rules").await;
        let rules = body["rules"].as_array().unwrap();
        let ours = rules.iter().find(|it| it["rule"] == rule).unwrap();
        anyhow::ensure!(ours["state"] == state, "{body}");
        assert_eq!(ours["known"], state != "unknown", "{body}");
        Ok(Some(()))
    });
    if let Err(err) = found.await {
        panic!("{err:?}\n{}", server.log());
    }
}

/// What was told, oldest first.
async fn told(server: &Server, pipeline: &str, kind: &str) -> Vec<String> {
    let route = format!("/pipelines/{pipeline}/events?limit=500");
    let events = server.get(&route).await;
    let events = events["events"].as_array().unwrap().iter().rev();
    let of_kind = events.filter(|event| event["kind"] == kind);
    of_kind
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn an_alert_is_told_once_outlives_the_server_and_resolves() {
    let stage = Stage::new("srv_alerts").await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["alert"] = json!([
        { "when": "table_quarantined", "severity": "critical", "resolve_after": "1s" },
        { "when": "state", "is": ["failed"] },
        { "when": "verification_different", "resolve_after": "1s" },
    ]);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_alerts", "streaming").await;
    let rules = server.get("/alerts/rules").await;
    assert_eq!(rules["rules"].as_array().unwrap().len(), 3, "{rules}");
    assert_eq!(rules["rules"][1]["rule"], "state is failed", "{rules}");

    let small = "ALTER TABLE public.orders ADD CONSTRAINT small CHECK (id < 5000)";
    stage.target.batch_execute(small).await.unwrap();
    let poison = "INSERT INTO orders VALUES (9999, 'too large')";
    stage.source.batch_execute(poison).await.unwrap();
    let firing = wait_for_firing(&server, &["table_quarantined"]).await;
    let text = firing[0]["text"].as_str().unwrap();
    for words in [
        "! srv_alerts has public.orders in quarantine since ",
        " UTC. Its changes are kept in order",
        "First: ",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let overview = server.get("/monitoring/overview").await;
    assert_eq!(overview["alerts_firing"], 1, "{overview}");
    let metrics = server.send(Request::new("GET", "/metrics")).await.text();
    let sample = "tidemark_alerts_firing{pipeline=\"srv_alerts\",tenant=\"default\",\
                  rule=\"table_quarantined\",severity=\"critical\"} 1\n";
    assert!(metrics.contains(sample), "{metrics}");
    assert_eq!(told(&server, "srv_alerts", "alert").await.len(), 1);

    // Killed and started again it neither repeats nor loses it.
    server.child.kill().await.unwrap();
    server.restart().await;
    let again = wait_for_firing(&server, &["table_quarantined"]).await;
    assert_eq!(again[0]["fired_at"], firing[0]["fired_at"]);
    let resolved = told(&server, "srv_alerts", "alert_resolved").await;
    assert!(resolved.is_empty(), "{resolved:?}");
    server.wait_for_state("srv_alerts", "streaming").await;
    let again = wait_for_firing(&server, &["table_quarantined"]).await;
    assert_eq!(again[0]["fired_at"], firing[0]["fired_at"]);
    assert_eq!(told(&server, "srv_alerts", "alert").await.len(), 1);

    let wide = "ALTER TABLE public.orders DROP CONSTRAINT small";
    stage.target.batch_execute(wide).await.unwrap();
    let tables = json!({ "tables": ["public.orders"] });
    let done = server.act("srv_alerts", "resync", &tables).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    wait_for_firing(&server, &[]).await;
    let resolved = told(&server, "srv_alerts", "alert_resolved").await;
    assert_eq!(resolved.len(), 1, "{resolved:?}");
    assert!(
        resolved[0].contains("table_quarantined is over after"),
        "{resolved:?}"
    );
    stage.wait_until_identical().await;

    // A difference is told from the comparison on, and stays until another one finds none.
    let change = "UPDATE public.orders SET note = 'other' WHERE id = 7";
    stage.target.batch_execute(change).await.unwrap();
    server.act("srv_alerts", "verify", &json!({})).await;
    let firing = wait_for_firing(&server, &["verification_different"]).await;
    let text = firing[0]["text"].as_str().unwrap();
    assert!(
        text.contains("differs from its source in public.orders"),
        "{text}"
    );
    server.child.kill().await.unwrap();
    server.restart().await;
    says_different(&server).await;
    server.wait_for_state("srv_alerts", "streaming").await;
    says_different(&server).await;
    wait_for_firing(&server, &["verification_different"]).await;
    let back = "UPDATE public.orders SET note = 'order 7' WHERE id = 7";
    stage.target.batch_execute(back).await.unwrap();
    server.act("srv_alerts", "verify", &json!({})).await;
    wait_for_firing(&server, &[]).await;
    assert_eq!(told(&server, "srv_alerts", "alert").await.len(), 2);
    assert_eq!(told(&server, "srv_alerts", "alert_resolved").await.len(), 2);
    wait_for(PATIENCE, "all to be well again", || async {
        let lag = server.get("/monitoring/pipelines/srv_alerts/lag").await;
        let health = lag["health"].as_str().unwrap_or_default();
        Ok(["ok", "notice"].contains(&health).then_some(()))
    })
    .await
    .unwrap();
    server.act("srv_alerts", "stop", &json!({})).await;
    stage.clear().await;
}

/// What the last comparison found is known to a server that was not there.
async fn says_different(server: &Server) {
    let lag = server.get("/monitoring/pipelines/srv_alerts/lag").await;
    assert_eq!(lag["verified"]["result"], "different", "{lag}");
    // It streams as well as ever, and all is not well.
    let health = lag["health"].as_str().unwrap();
    assert!(!["ok", "notice"].contains(&health), "{lag}");
    let metrics = server.get_text("/metrics").await;
    let labels = "{pipeline=\"srv_alerts\",tenant=\"default\"}";
    let rows = format!("tidemark_verify_rows_different{labels} 1\n");
    assert!(metrics.contains(&rows), "{metrics}");
    let last = format!("tidemark_verify_last_timestamp_seconds{labels} ");
    assert!(metrics.contains(&last), "{metrics}");
}

#[tokio::test]
async fn a_lag_that_is_unknown_is_its_own_alert_and_never_counts_as_small() {
    let stage = Stage::new("srv_alert_lag").await;
    fill(&stage).await;
    let proxy = Proxy::start(stage.source_server.port()).await.unwrap();
    let server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    let through = stage
        .source_server
        .url_through(proxy.address(), &stage.source_name);
    wanted["source"]["url"] = json!(through);
    // A lag that is not known is neither above nor below it.
    wanted["alert"] = json!([
        { "when": "lag_seconds", "above": 3600, "severity": "critical" },
        { "when": "lag_unknown", "for": "1s", "resolve_after": "1s" },
    ]);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_alert_lag", "streaming").await;
    wait_for(PATIENCE, "the lag to be known", || async {
        let lag = server.get("/monitoring/pipelines/srv_alert_lag/lag").await;
        Ok(lag["latency_seconds"].is_number().then_some(()))
    })
    .await
    .unwrap();
    wait_for_firing(&server, &[]).await;
    wait_for_rule(&server, "lag_seconds above 3600", "calm").await;
    proxy.refuse();
    proxy.cut();
    let firing = wait_for_firing(&server, &["lag_unknown"]).await;
    let text = firing[0]["text"].as_str().unwrap();
    assert!(
        text.contains("how far srv_alert_lag is behind is unknown since"),
        "{text}"
    );
    // Without an alert all is well only where what it looks at is known.
    wait_for_rule(&server, "lag_seconds above 3600", "unknown").await;
    proxy.accept();
    wait_for_firing(&server, &[]).await;
    wait_for_rule(&server, "lag_seconds above 3600", "calm").await;
    server.act("srv_alert_lag", "stop", &json!({})).await;
    stage.clear().await;
}

#[tokio::test]
async fn a_rule_that_cannot_be_met_is_refused_with_its_place() {
    let stage = Stage::new("srv_alert_wrong").await;
    let server = Server::start(&[]).await;
    for (rule, code) in [
        (json!({ "when": "lag_seconds" }), "TM7002"),
        (json!({ "when": "lag_seconds", "above": -1 }), "TM7005"),
        (json!({ "when": "lag_seconds", "above": "NaN" }), "TM7004"),
        (json!({ "when": "cpu", "above": 1 }), "TM7005"),
        (json!({ "when": "state", "is": ["sad"] }), "TM7005"),
    ] {
        let mut wanted = definition(&stage);
        wanted["alert"] = json!([rule]);
        let answer = server.post("/pipelines", &wanted).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        let problem = answer.json().unwrap();
        assert_eq!(problem["errors"][0]["code"], code, "{problem}");
        assert!(problem["errors"][0]["pointer"].is_string(), "{problem}");
    }
    assert_eq!(server.get("/pipelines").await["total"], 0);
}
