//! What goes into a server and is secret is in nothing that comes out of it: answers, events, metrics, the
//! log with everything logged, the list of processes, its files.

use serde_json::{Value, json};
use tidemark_lab::http::{Request, Response};
use tidemark_lab::receiver::Receiver;

use super::contract::operations;
use super::{Server, definition, fill};
use crate::stage::Stage;

/// Passwords as they are, as a URL has them, and as base64; each holds a word of its own.
const SECRETS: [&str; 8] = [
    "Geheim-7/source ß%",
    "Geheim-7%2Fsource%20%C3%9F%25",
    "R2VoZWltLTcvc291cmNlIMOfJQ==",
    "Geheim-7-target",
    "R2VoZWltLTctdGFyZ2V0",
    "Geheim-7-salt",
    "Geheim-7-hook",
    "Geheim-7",
];

#[track_caller]
fn assert_free(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} tells {secret}:\n{text}");
    }
}

/// One side has its password as a key of its own, the other in its URL.
fn secretive(stage: &Stage) -> Value {
    let mut wanted = definition(stage);
    wanted["source"]["password"] = json!(SECRETS[0]);
    let target = stage.target_url();
    wanted["target"]["url"] = json!(target.replacen("postgres@", "postgres:Geheim-7-target@", 1));
    wanted["mask"] = json!([
        { "columns": ["public.orders.note"], "with": "hash", "salt": "Geheim-7-salt" }
    ]);
    wanted
}

/// A server that logs everything and has a receiver with secrets of its own.
async fn talkative(home: &tempfile::TempDir, receiver: &Receiver) -> Server {
    let file = home.path().join("server.toml");
    let text = format!(
        "version = 1\n[notify]\nallow = [\"127.0.0.1\"]\n[[notifier]]\nname = \"ops\"\ntype = \"webhook\"\n\
         url = \"http://{}/Geheim-7-hook\"\nsecret = \"Geheim-7-hook\"\n",
        receiver.address()
    );
    std::fs::write(&file, text).unwrap();
    let arguments = ["--server-file", file.to_str().unwrap(), "--auth", "token"];
    let mut server = Server::start_with(&arguments, &[("TIDEMARK_LOG", "trace")]).await;
    server.token = Some(server.admin_token());
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_s06_s07_what_a_server_is_told_in_secret_comes_out_nowhere() {
    let stage = Stage::new("srv_secrets").await;
    fill(&stage).await;
    let receiver = Receiver::start().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut server = talkative(&home, &receiver).await;
    let token = server.token.clone().unwrap();
    let wanted = secretive(&stage);
    let mut answers = vec![
        ("checks", server.post("/checks", &wanted).await),
        (
            "dry run",
            server.post("/pipelines?dry_run=true", &wanted).await,
        ),
        ("made", server.post("/pipelines?start=true", &wanted).await),
    ];
    assert_eq!(answers[2].1.status, 201, "{}", answers[2].1.text());
    server.wait_for_state("srv_secrets", "streaming").await;
    let verified = server.act("srv_secrets", "verify", &json!({})).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");
    let tested = server.post("/notifiers/ops/test", &json!({})).await;
    answers.push(("test of a notifier", tested));
    answers.extend(wrong_definitions(&server, &stage, &wanted).await);
    for (what, answer) in &answers {
        assert_free(what, &answer.text());
    }

    // Everything that can be asked, as the document has it.
    let document = server.get("/openapi.json").await;
    for operation in operations(&document) {
        if operation.method != "GET" || operation.path.contains("stream") {
            continue;
        }
        let said = format!("Bearer {token}");
        let request = Request::new("GET", &operation.path_with("srv_secrets"));
        let answer = server.send(request.header("authorization", &said)).await;
        assert_free(&operation.path, &answer.text());
        assert!(!answer.text().contains(&token), "{}", operation.path);
    }
    let metrics = Request::new("GET", "/metrics");
    let metrics = metrics.header("authorization", &format!("Bearer {token}"));
    let metrics = server.send(metrics).await;
    assert!(metrics.text().contains("srv_secrets"), "{}", metrics.text());
    assert_free("metrics", &metrics.text());

    let pid = server.child.id().unwrap();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_free("the list of processes", &String::from_utf8_lossy(&command));
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let children = task.unwrap().path().join("children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        assert_eq!(children, "", "a program was started");
    }
    assert_eq!(server.terminate().await, Some(0));
    let log = server.log();
    assert!(log.contains("srv_secrets"), "nothing is logged: {log}");
    assert_free("the log", &log);
    assert!(!log.contains(&token), "the log tells a token");
    for line in log.lines() {
        let parsed: Result<Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok() || !line.starts_with('{'), "{line}");
    }
    for entry in std::fs::read_dir(server.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert_free("a file", &String::from_utf8_lossy(&bytes));
        }
    }
    stage.clear().await;
}

/// What cannot be read, or not be reached, is named without its secrets.
async fn wrong_definitions(
    server: &Server,
    stage: &Stage,
    good: &Value,
) -> Vec<(&'static str, Response)> {
    let mut answers = Vec::new();
    let url = stage.source_url();
    for (from, to) in [
        (
            "postgres://postgres@",
            "postgrs://postgres:Geheim-7-target@",
        ),
        ("postgres@", "postgres:Geheim-7-target@@"),
        (
            "postgres@127.0.0.1:",
            "postgres:Geheim-7-target@127.0.0.1:x",
        ),
        (
            "postgres@127.0.0.1:",
            "postgres:Geheim-7-target@nowhere.invalid:",
        ),
        ("postgres@", "postgres:Geheim-7/target#@"),
    ] {
        let mut wrong = good.clone();
        wrong["source"]["url"] = json!(url.replacen(from, to, 1));
        answers.push(("a wrong URL", server.post("/checks", &wrong).await));
        answers.push((
            "a wrong URL",
            server.post("/pipelines?dry_run=true", &wrong).await,
        ));
    }
    for (key, value) in [
        ("password", json!(7)),
        ("passwrod", json!("Geheim-7-target")),
        ("password", json!(["Geheim-7-target"])),
        ("type", json!("Geheim")),
    ] {
        let mut wrong = good.clone();
        wrong["source"][key] = value;
        answers.push(("a wrong key", server.post("/checks", &wrong).await));
    }
    for text in [
        "version = 1\n[source]\npassword = \"Geheim-7-target\n",
        "version = 1\n[source]\npassword = Geheim-7-target\n",
        "version = 1\n[source]\npassword = \"Geheim-7-target\"\npassword = \"Geheim-7-target\"\n",
    ] {
        let request = server
            .request("POST", "/pipelines")
            .body("application/toml", text);
        answers.push(("a broken text", server.send(request).await));
    }
    let cut = r#"{"source": {"password": "Geheim-7-target"#;
    let request = server
        .request("POST", "/pipelines")
        .body("application/json", cut);
    answers.push(("a broken body", server.send(request).await));
    let patch = server
        .request("PATCH", "/pipelines/srv_secrets")
        .header("if-match", "*");
    let patch = patch.json(&json!({ "source": { "password": "Geheim-7-target", "slto": "x" } }));
    answers.push(("a wrong change", server.send(patch).await));
    for (what, answer) in &answers {
        assert_ne!(answer.status, 500, "{what}: {}", answer.text());
    }
    answers
}
