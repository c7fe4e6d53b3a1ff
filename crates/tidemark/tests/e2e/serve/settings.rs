//! What a server runs with, and for whom: told to whoever runs it, and to nobody else.

use serde_json::json;

use super::access::{guarded, token};
use super::{Server, definition};
use crate::stage::Stage;

#[tokio::test]
async fn what_the_server_runs_with_is_told_to_whoever_runs_it_and_no_secret_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    let text = "version = 1\n[tenants]\npipelines = 7\n[[notifier]]\nname = \"ops\"\ntype = \"webhook\"\n\
        url = \"https://ops.example/path-secret\"\nsecret = \"hunter2\"\n";
    std::fs::write(&file, text).unwrap();
    let arguments = [
        "--server-file",
        file.to_str().unwrap(),
        "--pipelines",
        "pipelines.d",
    ];
    let server = Server::start(&arguments).await;
    let told = server.get("/settings").await;
    assert_eq!(told["listen"], server.address);
    assert_eq!(
        (&told["auth"], &told["store"]["kind"]),
        (&json!("open"), &json!("sqlite")),
        "{told}"
    );
    assert!(
        told["store"]["place"]
            .as_str()
            .unwrap()
            .ends_with("tidemark.db"),
        "{told}"
    );
    let pipelines = server
        .pipelines()
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    assert_eq!(told["pipelines_directory"], pipelines, "{told}");
    assert_eq!(
        (&told["limits"]["tenant_pipelines"], &told["notifiers"]),
        (&json!(7), &json!(["ops"])),
        "{told}"
    );
    assert_eq!(
        told["retention"]["history"][0],
        json!({ "step_seconds": 1, "kept_seconds": 900 })
    );
    for secret in ["hunter2", "path-secret"] {
        assert!(!told.to_string().contains(secret), "{told}");
    }
}

#[tokio::test]
async fn s11_tenants_are_listed_for_whoever_runs_the_server_alone() {
    let stage = Stage::new("srv_tenants").await;
    let mut server = guarded().await;
    let of_b = token(&server, "bob", "admin", "b").await;
    let operator = token(&server, "olga", "operator", "default").await;
    token(&server, "cat", "viewer", "c").await;
    let ours = server.token.replace(of_b);
    assert_eq!(
        server.post("/pipelines", &definition(&stage)).await.status,
        201
    );
    for token in [None, Some(operator)] {
        server.token = token.or(server.token);
        for route in ["/settings", "/tenants"] {
            let refused = server.send(server.request("GET", route)).await;
            assert_eq!(refused.status, 403, "{route}: {}", refused.text());
        }
    }
    server.token = ours;
    let list = server.get("/tenants").await;
    let of = |name: &str, pipelines: u64, tokens: u64| json!({ "name": name, "pipelines": pipelines, "running": 0, "connections": 0, "tokens": tokens });
    assert_eq!(
        list["tenants"],
        json!([of("b", 1, 1), of("c", 0, 1), of("default", 0, 2)])
    );
    let first = server.get("/tenants?limit=2").await;
    let next = first["next"]
        .as_str()
        .unwrap()
        .strip_prefix("/api/v1")
        .unwrap();
    let second = server.get(next).await;
    assert_eq!(
        (&second["tenants"], &second["next"]),
        (&json!([of("default", 0, 2)]), &json!(null))
    );
}
