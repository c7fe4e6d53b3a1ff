//! To whom the program speaks: to nobody but what it was told of. Each connect of the process is
//! written down by the kernel's own means.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tidemark_lab::http::Request;
use tidemark_lab::skip::skipped;
use tidemark_lab::wait::wait_for;
use tokio::process::Command;

use super::{definition, fill};
use crate::stage::{PATIENCE, Stage};

const TEST: &str = "s36_nobody_is_spoken_to_but_the_databases";

/// Addresses of IP that were connected to or sent to, with ports, as strace has written them. A UDP
/// socket that is connected and never used sends nothing: that is how a resolver sorts addresses.
fn spoken_to(record: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(record).unwrap();
    let mut found = BTreeSet::new();
    for line in text
        .lines()
        .filter(|line| line.contains("sa_family=AF_INET"))
    {
        let after = |words: &str, end: char| {
            let rest = line.split(words).nth(1)?;
            rest.split(end).next().map(str::to_owned)
        };
        let port = after("htons(", ')').unwrap();
        let address = after("inet_addr(\"", '"').or_else(|| after("inet_pton(AF_INET6, \"", '"'));
        found.insert(format!("{}:{port}", address.unwrap()));
    }
    found
}

/// The program with these arguments, its connects written down.
fn traced(stage: &Stage, record: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=connect,sendto,sendmsg,sendmmsg",
            "-o",
        ])
        .arg(record)
        .arg(env!("CARGO_BIN_EXE_tidemark"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir(stage.directory())
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn s36_nobody_is_spoken_to_but_the_databases() {
    if std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_err()
    {
        skipped(TEST, "strace is not installed");
        return;
    }
    let stage = Stage::new("srv_traffic").await;
    fill(&stage).await;
    let databases = BTreeSet::from([format!("127.0.0.1:{}", stage.source_server.port())]);
    let file = stage.file();
    let file = file.to_str().unwrap();
    let record = stage.directory().join("connects");
    for arguments in [
        &["check", file][..],
        &["run", file, "--until", "verified"],
        &["status", file],
    ] {
        let mut command = traced(&stage, &record, arguments);
        let ended = tokio::time::timeout(PATIENCE, command.output()).await;
        let ended = ended.unwrap().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{arguments:?}: {said}");
        assert_eq!(spoken_to(&record), databases, "{arguments:?}");
    }
    stage.clear().await;
    let other = Stage::new("srv_traffic_two").await;
    fill(&other).await;

    // A server as it comes, which says where it listens, runs a pipeline, and is asked for everything.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let serve = [
        "serve", "--listen", &address, "--state", "state", "--until", "eof",
    ];
    let mut server = traced(&stage, &record, &serve).spawn().unwrap();
    wait_for(PATIENCE, "the server to answer", || async {
        let asked = Request::new("GET", "/livez").send(&address).await;
        Ok(asked.is_ok().then_some(()))
    })
    .await
    .unwrap();
    let to = address.as_str();
    let send = |request: Request| async move { request.send(to).await.unwrap() };
    let made = Request::new("POST", "/api/v1/pipelines?start=true").json(&definition(&other));
    assert_eq!(send(made).await.status, 201);
    wait_for(PATIENCE, "it to stream", || async {
        let asked = send(Request::new("GET", "/api/v1/pipelines/srv_traffic_two")).await;
        let body = asked.json()?;
        anyhow::ensure!(body["state"] == "streaming", "{body}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    let verify = "/api/v1/pipelines/srv_traffic_two/actions/verify";
    assert_eq!(
        send(Request::new("POST", verify).json(&json!({})))
            .await
            .status,
        202
    );
    for page in [
        "/",
        "/metrics",
        "/api/docs",
        "/api/v1/openapi.json",
        "/api/v1/version",
    ] {
        assert_eq!(send(Request::new("GET", page)).await.status, 200, "{page}");
    }
    drop(server.stdin.take());
    let ended = tokio::time::timeout(PATIENCE, server.wait()).await;
    assert!(ended.unwrap().unwrap().success());
    assert_eq!(spoken_to(&record), databases);
    other.clear().await;
}
