//! The log: of whom a line is, whichever part of the engine wrote it, and how loud it is while it runs.

use serde_json::{Value, json};
use tidemark_lab::http::Request;
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

/// Paths of the file are relative to it, wherever the server is started.
#[tokio::test]
async fn the_servers_file_says_where_its_pipelines_and_its_store_are() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    let text = "version = 1\npipelines = \"shops\"\nstate = \"kept\"\n";
    std::fs::write(&file, text).unwrap();
    std::fs::create_dir(directory.path().join("shops")).unwrap();
    let nobody = "version = 1\n[pipeline]\nname = \"srv_placed\"\nmode = \"full_load_only\"\n\
         [source]\nurl = \"postgres://a@127.0.0.1:1/a\"\n[target]\nurl = \"postgres://a@127.0.0.1:1/b\"\n\
         [tables]\ninclude = [\"public.*\"]\n";
    std::fs::write(directory.path().join("shops/one.toml"), nobody).unwrap();
    let mut server = Server::begin(&["--server-file", file.to_str().unwrap()], &[]).await;
    let listed = server.get("/pipelines").await;
    assert_eq!(listed["pipelines"][0]["id"], "srv_placed", "{listed}");
    assert!(directory.path().join("kept/tidemark.db").is_file());
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
}

/// The API is for tokens; whoever scrapes needs none, at an address where nothing else is answered.
#[tokio::test]
async fn s34_metrics_may_have_an_address_and_a_door_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    let write = |more: &str| {
        let text = format!("version = 1\n[auth]\nmode = \"token\"\n[metrics]\n{more}\n");
        std::fs::write(&file, text).unwrap();
    };
    let asked = async |at: &str, path: &str| {
        let answer = Request::new("GET", path).send(at).await.unwrap();
        answer.status
    };
    write("listen = \"127.0.0.1:0\"\nauth = \"open\"");
    let arguments = ["--server-file", file.to_str().unwrap()];
    let server = Server::start(&arguments).await;
    let log = server.log();
    let scraped = log.split("is scraped at http://").nth(1).unwrap();
    let scraped = scraped.split('/').next().unwrap();
    for (at, path, expected) in [
        (scraped, "/metrics", 200),
        (scraped, "/readyz", 200),
        (scraped, "/api/v1/pipelines", 404),
        (scraped, "/api/v1/openapi.json", 404),
        (scraped, "/", 404),
        (server.address.as_str(), "/metrics", 401),
        (server.address.as_str(), "/api/v1/pipelines", 401),
    ] {
        assert_eq!(asked(at, path).await, expected, "{at}{path}");
    }
    drop(server);

    // Without an address of its own: the one door is open, the others are not.
    write("auth = \"open\"");
    let server = Server::start(&arguments).await;
    assert_eq!(asked(&server.address, "/metrics").await, 200);
    assert_eq!(asked(&server.address, "/api/v1/pipelines").await, 401);
    drop(server);

    // Others may reach it only where that is said, or tokens are asked for.
    std::fs::write(&file, "version = 1\n[metrics]\nlisten = \"0.0.0.0:0\"\n").unwrap();
    let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidemark"))
        .args(["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(directory.path().join("state"))
        .args(arguments)
        .output();
    let ran = tokio::time::timeout(PATIENCE, ran).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(6), "{said}");
    assert!(said.contains("TM8011"), "{said}");
}

#[tokio::test]
async fn the_servers_file_says_how_it_starts_and_a_flag_goes_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    let text =
        "version = 1\n[auth]\nmode = \"token\"\n[log]\nlevel = \"debug\"\nformat = \"text\"\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let mut server = Server::start(&["--server-file", file]).await;
    let refused = server.send(server.request("GET", "/pipelines")).await;
    assert_eq!(refused.status, 401, "{}", refused.text());
    server.token = Some(server.admin_token());
    assert_eq!(server.get(LEVEL).await["level"], "debug");
    assert!(written(&server).is_empty(), "{}", server.log());

    let arguments = [
        "--server-file",
        file,
        "--auth",
        "open",
        "--log-format",
        "json",
    ];
    let server = Server::start_with(&arguments, &[("TIDEMARK_LOG", "tidemark=info")]).await;
    assert_eq!(server.get(LEVEL).await["level"], json!(null));
    assert!(!written(&server).is_empty(), "{}", server.log());
}
