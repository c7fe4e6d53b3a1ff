//! What a definition may name that comes through the API: databases in networks that the server's file
//! means, and nothing of the server's own machine where a tenant has written it.

use futures_util::future::join_all;
use serde_json::json;

use super::access::{guarded, token};
use super::{Server, definition, fill};
use crate::stage::Stage;

#[tokio::test]
async fn s16_a_definition_of_the_api_has_no_server_of_the_link_asked() {
    let stage = Stage::new("srv_link").await;
    let server = Server::start(&[]).await;
    let mut metadata = definition(&stage);
    metadata["source"]["url"] =
        json!("postgres://a@169.254.169.254:80/latest?connect_timeout=3600");
    let checked = server.post("/checks", &metadata).await;
    assert!(checked.text().contains("TM7085"), "{}", checked.text());
    let planned = server.post("/pipelines?dry_run=true", &metadata).await;
    assert_eq!(planned.status, 422, "{}", planned.text());
    assert_eq!(planned.json().unwrap()["code"], "TM7085");
    let made = server.post("/pipelines?start=true", &metadata).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let failed = server.wait_for_state("srv_link", "failed").await;
    assert_eq!(failed["error"]["code"], "TM7085", "{failed}");
}

#[tokio::test]
async fn s16_the_servers_file_says_where_databases_of_the_api_may_be() {
    let (of_api, of_file) = (
        Stage::new("srv_reach_api").await,
        Stage::new("srv_reach_file").await,
    );
    fill(&of_api).await;
    fill(&of_file).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    let text = "version = 1\n[databases]\nonly = [\"10.0.0.0/8\"]\n";
    std::fs::write(&file, text).unwrap();
    let server = Server::start(&["--server-file", file.to_str().unwrap()]).await;
    // The name is looked at as it resolves.
    let mut named = definition(&of_api);
    named["source"]["url"] = json!(of_api.source_url().replace("127.0.0.1", "localhost"));
    let checked = server.post("/checks", &named).await.text();
    assert!(
        checked.contains("which the server's file does not allow"),
        "{checked}"
    );
    let made = server
        .post("/pipelines?start=true", &definition(&of_api))
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    server.wait_for_state("srv_reach_api", "failed").await;
    assert!(of_api.slots().await.is_empty());
    // Who puts a file there can connect to it anyway.
    let place = server.pipelines().join("srv_reach_file.toml");
    std::fs::copy(of_file.file(), place).unwrap();
    server.wait_for_state("srv_reach_file", "streaming").await;
    of_file.wait_until_identical().await;
    drop(server);
    of_file.clear().await;
}

#[tokio::test]
async fn s24_a_tenant_has_as_many_pipelines_as_it_may_have() {
    let stage = Stage::new("srv_many").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    std::fs::write(&file, "version = 1\n[tenants]\npipelines = 2\n").unwrap();
    let arguments = ["--auth", "token", "--server-file", file.to_str().unwrap()];
    let mut server = Server::start(&arguments).await;
    server.token = Some(server.admin_token());
    let of_b = token(&server, "bob", "admin", "b").await;
    let named = |number: usize| {
        let mut wanted = definition(&stage);
        wanted["pipeline"]["name"] = json!(format!("many_{number}"));
        wanted
    };
    let all: Vec<_> = (0..6).map(named).collect();
    for wanted in &all[..3] {
        let made = server.post("/pipelines", wanted).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    server.token = Some(of_b);
    let answers = join_all(all.iter().map(|wanted| server.post("/pipelines", wanted))).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let full = answers.iter().filter(|answer| answer.status == 422);
    assert!(full.clone().all(|answer| answer.text().contains("TM7087")));
    assert_eq!((made, full.count()), (2, 4), "{answers:?}");
    assert_eq!(server.get("/pipelines").await["total"], 2);
}

#[tokio::test]
async fn s11_a_tenants_definition_has_nothing_of_the_servers_machine() {
    let stage = Stage::new("srv_confined").await;
    let mut server = guarded().await;
    let of_b = token(&server, "bob", "admin", "b").await;
    let ours = server.token.replace(of_b);
    let relay = server.home.path().join("relay");
    let spool = server.home.path().join("spool");
    let key = server.state().join("admin.token");
    let base = definition(&stage);
    let mut tries = Vec::new();
    for url in [
        "postgres://postgres@/postgres?host=/var/run/postgresql".to_owned(),
        format!(
            "{}?sslmode=verify-ca&sslrootcert={}",
            stage.source_url(),
            key.display()
        ),
    ] {
        let mut wanted = base.clone();
        wanted["source"]["url"] = json!(url);
        tries.push(wanted);
    }
    let mut wanted = base.clone();
    wanted["source"]["postgres"] = json!({ "max_retained": "1 GB", "relay_dir": relay });
    tries.push(wanted);
    let mut wanted = base.clone();
    wanted["stream"] = json!({ "spool_dir": spool });
    tries.push(wanted);
    for wanted in &tries {
        for route in [
            "/checks",
            "/pipelines?dry_run=true",
            "/pipelines?start=true",
        ] {
            let refused = server.post(route, wanted).await;
            let text = refused.text();
            assert_eq!(refused.status, 422, "{route}: {wanted}: {text}");
            assert!(text.contains("TM7086"), "{route}: {wanted}: {text}");
            assert!(!text.contains("tm_"), "{text}");
        }
    }
    // Nor is it got by changing what was accepted.
    let made = server.post("/pipelines", &base).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let patch = server
        .request("PATCH", "/pipelines/srv_confined")
        .header("if-match", "*");
    let patched = server
        .send(patch.json(&json!({ "stream": { "spool_dir": "/" } })))
        .await;
    assert_eq!(patched.status, 422, "{}", patched.text());
    assert!(!relay.exists() && !spool.exists());
    // Whoever runs the server may.
    server.token = ours;
    let allowed = server.post("/pipelines", &tries[3]).await;
    assert_eq!(allowed.status, 201, "{}", allowed.text());
}
