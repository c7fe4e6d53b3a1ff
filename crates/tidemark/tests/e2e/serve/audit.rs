//! What a server tells of who did what, and to whom: the audit, and metrics.

use serde_json::{Value, json};
use tidemark_lab::http::Request;

use super::access::{guarded, token};
use super::contract::operations;
use super::{Server, definition};
use crate::stage::Stage;

/// Who, what, on what, with which status.
type Entry = [String; 4];

/// Entries of the audit, oldest first.
async fn entries(server: &Server) -> Vec<Entry> {
    let audit = server.get("/audit?limit=500").await;
    let mut entries = audit["entries"].as_array().unwrap().clone();
    entries.reverse();
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    for entry in &entries {
        assert_eq!(entry["address"], "127.0.0.1", "{entry}");
        assert!(!word(entry, "request_id").is_empty(), "{entry}");
    }
    let four = |entry: &Value| ["who", "action", "object", "detail"].map(|key| word(entry, key));
    entries.iter().map(four).collect()
}

#[tokio::test]
async fn s33_who_changed_what_is_written_down_and_what_was_refused_too() {
    let stage = Stage::new("srv_audit").await;
    let mut server = guarded().await;
    let operator = token(&server, "olga", "operator", "default").await;
    let viewer = token(&server, "vic", "viewer", "default").await;
    let stranger = token(&server, "bob", "admin", "b").await;
    let mut wanted = definition(&stage);
    wanted["source"]["password"] = json!("hunter2");
    let made = server.post("/pipelines", &wanted).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let admin = server.token.clone();
    let action = "/pipelines/srv_audit/actions/stop";
    for (name, token, status) in [
        ("olga", &operator, 202),
        ("vic", &viewer, 403),
        ("bob", &stranger, 404),
    ] {
        server.token = Some(token.clone());
        let answer = server.post(action, &json!({})).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    server.token = admin;
    let found = entries(&server).await;
    let path = format!("/api/v1{action}");
    let entry = |who: &str, action: &str, object: &str, status: &str| -> Entry {
        [who, action, object, status].map(str::to_owned)
    };
    let expected = [
        entry("admin", "POST", "/api/v1/pipelines", "201"),
        entry("olga", "POST", &path, "202"),
        entry("vic", "POST", &path, "403"),
    ];
    let place = found.len() - expected.len();
    assert_eq!(found[place..], expected, "{found:?}");
    let text = server.get("/audit").await.to_string();
    assert!(
        !text.contains("hunter2") && !text.contains(&operator),
        "{text}"
    );
    // It is read, and there is no way to change it.
    let document = server.get("/openapi.json").await;
    for operation in operations(&document) {
        let is_of_it = operation.path.contains("audit");
        assert!(!is_of_it || operation.method == "GET", "{operation:?}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = server.send(server.request(method, "/audit")).await;
        assert_eq!(answer.status, 405, "{method}");
    }
    // Each tenant has its own.
    server.token = Some(stranger);
    let theirs = entries(&server).await;
    assert_eq!(theirs, [entry("bob", "POST", &path, "404")]);
}

#[tokio::test]
async fn s34_metrics_ask_for_a_token_and_show_a_tenant_its_own() {
    let stage = Stage::new("srv_metrics_a").await;
    let mut server = guarded().await;
    let of_a = token(&server, "ann", "viewer", "a").await;
    let of_b = token(&server, "bob", "viewer", "b").await;
    let ann_admin = token(&server, "ann", "admin", "a").await;
    let admin = server.token.replace(ann_admin);
    let mut wanted = definition(&stage);
    wanted["source"]["password"] = json!("hunter2");
    let made = server.post("/pipelines", &wanted).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let metrics = |token: Option<&str>| {
        let request = Request::new("GET", "/metrics");
        let said = token.map(|token| format!("Bearer {token}"));
        said.iter().fold(request, |request, said| {
            request.header("authorization", said)
        })
    };
    for token in [None, Some("tm_0")] {
        let refused = server.send(metrics(token)).await;
        assert_eq!(refused.status, 401, "{token:?}");
        assert!(!refused.text().contains("tidemark_"), "{}", refused.text());
    }
    for (token, sees) in [(&of_a, true), (&of_b, false), (&admin.unwrap(), true)] {
        let text = server.send(metrics(Some(token))).await.text();
        assert!(text.contains("tidemark_build_info"), "{text}");
        assert_eq!(text.contains("srv_metrics_a"), sees, "{text}");
        assert!(
            !text.contains("hunter2") && !text.contains("127.0.0.1"),
            "{text}"
        );
    }
}
