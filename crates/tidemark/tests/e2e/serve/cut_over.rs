//! A cutover by a server: it hands over with everything that was acknowledged, or takes everything back.

use serde_json::{Value, json};
use tidemark_lab::traffic::Traffic;
use tidemark_lab::wait::wait_for;

use super::access::token;
use super::remote::Both;
use crate::cutover::{shop, stage_clear};
use crate::stage::PATIENCE;

/// A shop with customers, whose pipeline streams in a server.
async fn streaming(name: &str, seed: u64) -> (Both, Traffic) {
    let both = Both::draft(name, "[verify]\nafter_load = \"off\"\n").await;
    let customers = shop(&both.stage, seed).await;
    both.server.act(name, "start", &json!({})).await;
    both.server.wait_for_state(name, "streaming").await;
    (both, customers)
}

impl Both {
    /// Begins a cutover; its route.
    async fn cut_over(&self, body: &Value) -> String {
        let route = format!("/pipelines/{}/actions/cutover", self.stage.name);
        let answer = self.server.post(&route, body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let id = answer.json().unwrap()["id"].as_str().unwrap().to_owned();
        format!("/operations/{id}")
    }

    /// Waits until an operation is as it is wanted.
    async fn until(&self, route: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let found = wait_for(PATIENCE, what, || async {
            let operation = self.server.get(route).await;
            Ok(is_so(&operation).then_some(operation))
        });
        match found.await {
            Ok(found) => found,
            Err(err) => panic!("{err:?}\n{}", self.server.log()),
        }
    }

    /// Everything is as it was before.
    async fn goes_on(&self) {
        assert!(self.stage.takes_writes().await, "the source takes writes");
        self.stage.assert_equal().await;
        self.server
            .wait_for_state(&self.stage.name, "streaming")
            .await;
        wait_for(PATIENCE, "nothing to be left", || async {
            Ok((self.stage.temporary_slots().await? == 0).then_some(()))
        })
        .await
        .unwrap();
    }
}

fn steps(answer: &Value) -> Vec<String> {
    let steps = answer["data"]["steps"].as_array().cloned();
    let steps = steps.unwrap_or_default().into_iter();
    steps
        .map(|step| step["name"].as_str().unwrap().to_owned())
        .collect()
}

fn is_over(operation: &Value) -> bool {
    operation["state"] != "running"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_by_a_server_hands_over_everything_that_was_acknowledged() {
    let (mut both, customers) = streaming("srv_cutover", 31).await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    let rehearsal = ["cutover", name, "--fence", "--dry-run", "--json"];
    let here = both.stage.run(&rehearsal).await.expect(0).json();
    let there = both.with_server(&rehearsal).await.expect(0).json();
    assert_eq!(there["data"]["result"], "rehearsed", "{there}");
    assert_eq!(steps(&here), steps(&there));
    assert_eq!(here["data"]["left_behind"], there["data"]["left_behind"]);
    // It asks first, here and there, and leaves all as it was.
    both.alike(&["cutover", name], 6).await;
    both.alike(&["cutover", name, "--fence"], 6).await;
    both.goes_on().await;
    both.alike(&["cutover", name, "--abort"], 0).await;

    let report = both.stage.directory().join("report.md");
    let file = report.to_str().unwrap();
    let cutover = [
        "cutover",
        name,
        "--fence",
        "--silence",
        "1s",
        "--yes",
        "--json",
        "--report",
        file,
    ];
    let done = both.with_server(&cutover).await.expect(0).json();
    let data = &done["data"];
    assert_eq!(data["result"], "cut_over", "{data}");
    let downtime = data["write_downtime_seconds"].as_f64().unwrap();
    assert!((1.0..60.0).contains(&downtime), "{data}");
    assert!(!both.stage.takes_writes().await);
    let written = customers.stop().await.unwrap();
    assert!(written.committed > 0, "{written:?}");
    both.stage.assert_equal().await;
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.contains("✓ | switched"), "{page}");
    let now = both.server.get(&format!("/pipelines/{name}")).await;
    assert_eq!(
        (&now["state"], &now["reason"], &now["by"]),
        (&json!("stopped"), &json!("cut over"), &json!("admin"))
    );
    // A server that starts again does not begin to copy from the old primary.
    both.server.terminate().await;
    both.server.restart().await;
    both.server.wait_for_state(name, "stopped").await;

    let aborted = ["cutover", name, "--abort", "--yes", "--json"];
    let aborted = both.with_server(&aborted).await.expect(0).json();
    assert_eq!(aborted["data"]["lowered"], true);
    assert!(both.stage.takes_writes().await);
    both.server.terminate().await;
    stage_clear(&both.stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_waits_for_consent_and_is_taken_back_when_it_is_cancelled_or_the_server_ends() {
    let (mut both, customers) = streaming("srv_given_up", 32).await;
    let name = both.stage.name.clone();
    let asks = |operation: &Value| operation["data"]["asks"].is_string();

    // Without a fence it asks when the writers are to be stopped, whoever may act.
    let route = both.cut_over(&json!({})).await;
    let asking = both.until(&route, "it to ask", asks).await;
    assert_eq!(asking["data"]["result"], "under_way", "{asking}");
    let asked = asking["data"]["asks"].as_str().unwrap();
    assert!(asked.contains("Stop everything that writes"), "{asked}");
    let admin = both.server.token.clone();
    both.server.token = Some(token(&both.server, "vic", "viewer", "default").await);
    assert_eq!(both.server.get(&route).await["data"], Value::Null);
    both.server.token.clone_from(&admin);
    both.server.token = Some(token(&both.server, "bob", "admin", "b").await);
    let confirm = format!("{route}/confirm");
    let named = json!({ "confirm": name });
    assert_eq!(both.server.post(&confirm, &named).await.status, 404);
    both.server.token = admin;
    let wrong = both.server.post(&confirm, &json!({ "confirm": "x" })).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    // There is one at a time.
    let other = both.cut_over(&json!({ "confirm": name })).await;
    let other = both.until(&other, "the other one's end", is_over).await;
    assert_eq!(other["code"], "TM8024", "{other}");
    // The customers write on, which shows.
    assert_eq!(both.server.post(&confirm, &named).await.status, 202);
    let silent =
        |operation: &Value| !asks(operation) && steps(operation).contains(&"writers".to_owned());
    both.until(&route, "silence to be waited for", silent).await;
    assert_eq!(both.server.post(&confirm, &named).await.status, 409);
    let cancel = format!("{route}/cancel");
    let cancelled = both.server.post(&cancel, &json!({})).await;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text());
    let ended = both.until(&route, "its end", is_over).await;
    assert_eq!(
        (&ended["state"], &ended["code"]),
        (&json!("failed"), &json!("TM7061")),
        "{ended}"
    );
    assert_eq!(ended["data"]["result"], "given_up", "{ended}");
    let undone = ended["data"]["undone"].to_string();
    assert!(undone.contains("takes writes as before"), "{undone}");
    both.goes_on().await;

    // Behind a fence that stands: the server ends, and the source takes writes before it has.
    let hours = json!({ "fence": true, "silence_seconds": 600.0, "patience_seconds": 3600.0 });
    let body = json!({ "cutover": hours, "confirm": name });
    let route = both.cut_over(&body).await;
    let fenced = |operation: &Value| steps(operation).contains(&"writers".to_owned());
    both.until(&route, "the fence", fenced).await;
    assert!(!both.stage.takes_writes().await, "fenced");
    assert_eq!(both.server.terminate().await, Some(0));
    assert!(both.stage.takes_writes().await, "{}", both.server.log());
    both.server.restart().await;
    both.goes_on().await;
    let ended = both.server.get(&route).await;
    assert_eq!(ended["code"], "TM7061", "{ended}");

    // Nothing of the kind for what follows no log, and commands are not for a server.
    let hook = [
        "cutover",
        &name,
        "--stop-writers",
        "true",
        "--yes",
        "--json",
    ];
    let refused = both.with_server(&hook).await.expect(2).json();
    assert_eq!(refused["error"]["code"], "TM7073");
    customers.stop().await.unwrap();
    both.server.terminate().await;
    stage_clear(&both.stage).await;
}
