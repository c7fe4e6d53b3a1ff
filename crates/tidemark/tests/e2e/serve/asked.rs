//! Verbs that ask a server alone: log lines, rows of both sides, alerts, a report.

use std::process::Stdio;

use serde_json::{Value, json};
use tidemark_lab::receiver::Receiver;
use tidemark_lab::wait::wait_for;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::Server;
use super::access::token;
use super::notify::begin;
use super::remote::Both;
use crate::stage::PATIENCE;

#[tokio::test]
async fn log_lines_are_told_and_followed() {
    let both = Both::start("srv_tail").await;
    let name = both.stage.name.as_str();
    let said = both.with_server(&["logs", name, "--json"]).await.expect(0);
    let lines = said.json()["data"]["lines"].clone();
    let lines = lines.as_array().unwrap();
    let ids: Vec<u64> = lines
        .iter()
        .map(|line| line["id"].as_u64().unwrap())
        .collect();
    assert!(ids.len() > 2 && ids.is_sorted(), "{ids:?}");
    let two = ["logs", name, "--lines", "2", "--json"];
    let two = both.with_server(&two).await.expect(0).json();
    assert_eq!(two["data"]["lines"].as_array().unwrap().len(), 2);
    let bad = ["logs", name, "--level", "error", "--json"];
    let bad = both.with_server(&bad).await.expect(0).json();
    assert_eq!(bad["data"]["lines"], json!([]));
    both.with_server(&["logs", "srv_no", "--json"])
        .await
        .expect(2);

    // What comes is told as it comes, each line once.
    let (url, token) = (both.url(), both.server.token.clone().unwrap());
    let mut following = both
        .stage
        .command(&["logs", name, "--lines", "1", "--follow", "--server", &url])
        .env("TIDEMARK_TOKEN", &token)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, told.next_line()).await;
        line.unwrap().unwrap().unwrap()
    };
    let mut seen = vec![next().await];
    both.server.act(name, "pause", &json!({})).await;
    while !seen.last().unwrap().contains("state paused") {
        seen.push(next().await);
    }
    let mut once = seen.clone();
    once.dedup();
    assert_eq!(once, seen);
    following.start_kill().unwrap();
}

#[tokio::test]
async fn rows_of_both_sides_are_shown_masked_to_who_may_see_them() {
    let mask = "[[mask]]\ncolumns = [\"public.orders.note\"]\nwith = \"redact\"\n";
    let mut both = Both::start_with("srv_peek", mask).await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    let peek = ["peek", name, "--table", "orders", "--rows", "3"];
    let said = both.with_server(&peek).await.expect(0);
    assert!(
        said.stdout.starts_with("public.orders → public.orders"),
        "{said:?}"
    );
    assert!(said.stdout.contains("✓ 1  same"), "{said:?}");
    assert!(!said.stdout.contains("order 1"), "a masked value is shown");
    let data = both
        .with_server(&[&peek[..], &["--json"]].concat())
        .await
        .expect(0)
        .json();
    assert_eq!(data["data"]["rows"].as_array().unwrap().len(), 3);

    let trace = |key| ["trace", name, "--table", "public.orders", "--key", key];
    both.with_server(&trace("7")).await.expect(0);
    both.stage
        .target_sql(
            "UPDATE orders SET note = 'wrong' WHERE id = 7; DELETE FROM orders WHERE id = 8",
        )
        .await;
    // Of what differs it is told once nothing of it can be on its way.
    for (key, verdict) in [("7", "changed"), ("8", "missing")] {
        let differs = wait_for(PATIENCE, "a verdict", || async {
            let ran = both.with_server(&trace(key)).await;
            Ok((ran.code == Some(3)).then_some(ran))
        });
        let differs = differs.await.unwrap();
        let expected = format!("✗ {key}  {verdict}");
        assert!(differs.stdout.contains(&expected), "{differs:?}");
    }
    let none = both.with_server(&trace("4711")).await.expect(0);
    assert!(none.stdout.contains("neither side has a row"), "{none:?}");
    let admin = both.server.token.clone();
    both.server.token = Some(token(&both.server, "vic", "viewer", "default").await);
    both.with_server(&peek).await.expect(4);
    both.with_server(&trace("7")).await.expect(4);
    both.server.token = admin;
    let audit = both.server.get("/audit").await.to_string();
    assert!(audit.contains("trace?table=public.orders"), "{audit}");
    assert!(!audit.contains("4711"), "{audit}");
    both.server.terminate().await;
    both.stage.clear().await;
}

/// The program against this server.
async fn ask(server: &Server, arguments: &[&str], code: i32) -> Value {
    let nowhere = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidemark"))
        .args(arguments)
        .args(["--json", "--server", &format!("http://{}", server.address)])
        .current_dir(nowhere.path())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    serde_json::from_str(&said).unwrap()
}

#[tokio::test]
async fn alerts_are_listed_tried_and_snoozed() {
    let receiver = Receiver::start().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("server.toml");
    let hook = format!("http://{}/hooks", receiver.address());
    let text = format!(
        "version = 1\n[notify]\nallow = [\"127.0.0.1\"]\n[[notifier]]\nname = \"ops\"\n\
         type = \"webhook\"\nurl = \"{hook}\"\nsecret = \"hunter2\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let server = Server::start(&["--server-file", file.to_str().unwrap()]).await;
    let empty = ask(&server, &["alerts", "list"], 0).await;
    assert_eq!(empty["data"]["rules"], json!([]));
    begin(&server, "fires", &["ops"]).await;
    super::notify::act(&server, "fires", "stop").await;
    let fires = wait_for(PATIENCE, "it to fire", || async {
        let active = server.get("/alerts/active").await;
        Ok(active["alerts"][0]["id"].as_str().map(str::to_owned))
    });
    let id = fires.await.unwrap();
    let listed = ask(&server, &["alerts", "list"], 3).await;
    assert_eq!(
        (
            &listed["data"]["alerts"][0]["id"],
            &listed["data"]["rules"][0]["state"]
        ),
        (&json!(id), &json!("firing")),
        "{listed}"
    );
    ask(&server, &["alerts", "list", "another"], 0).await;
    let snoozed = ask(&server, &["alerts", "snooze", &id, "--for", "2h"], 0).await;
    assert!(snoozed["data"]["snoozed_until"].is_string(), "{snoozed}");
    let woken = ask(&server, &["alerts", "snooze", &id, "--end"], 0).await;
    assert_eq!(woken["data"]["snoozed_until"], Value::Null);
    ask(&server, &["alerts", "snooze", "nothing"], 2).await;
    ask(&server, &["alerts", "snooze", &id, "--for", "1s"], 2).await;

    ask(&server, &["alerts", "test", "ops"], 0).await;
    assert!(!receiver.received().is_empty());
    ask(&server, &["alerts", "test", "nobody"], 2).await;
}

#[tokio::test]
async fn a_report_is_written_as_a_document() {
    let mut both = Both::start("srv_document").await;
    let name = both.stage.name.as_str();
    let html = ["export", name, "--format", "html", "--hours", "1"];
    let said = both.with_server(&html).await.expect(0);
    assert!(
        said.stdout.starts_with("<!doctype html>") || said.stdout.starts_with("<!DOCTYPE html>"),
        "{said:?}"
    );
    assert!(said.stdout.contains("srv_document"));
    let place = both.stage.directory().join("reports");
    let to = [
        "export",
        "--format",
        "html",
        "--to",
        place.to_str().unwrap(),
    ];
    both.with_server(&to).await.expect(0);
    let written = std::fs::read_to_string(place.join("srv_document.html")).unwrap();
    assert!(written.contains("srv_document"));
    both.server.terminate().await;
    both.stage.clear().await;
}
