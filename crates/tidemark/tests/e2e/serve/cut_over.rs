//! A cutover by a server: it hands over with everything that was acknowledged, or takes everything back.

use std::path::Path;

use serde_json::{Value, json};
use tidemark_lab::traffic::Traffic;
use tidemark_lab::wait::wait_for;

use super::access::token;
use super::remote::Both;
use crate::asks::text;
use crate::cutover::{shop, stage_clear};
use crate::stage::{PATIENCE, Stage};

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

    /// Whether the server has a pipeline of this name.
    async fn has(&self, pipeline: &str) -> bool {
        let request = self
            .server
            .request("GET", &format!("/pipelines/{pipeline}"));
        self.server.send(request).await.status == 200
    }

    /// Deletes a pipeline of the server, and all that was made for it.
    async fn delete(&self, pipeline: &str) {
        let request = self
            .server
            .request("DELETE", &format!("/pipelines/{pipeline}"));
        let removed = self.server.send(request.header("if-match", "*")).await;
        assert_eq!(removed.status, 202, "{}", removed.text());
        let gone = wait_for(PATIENCE, "it to be gone", || async {
            Ok((!self.has(pipeline).await).then_some(()))
        });
        gone.await.unwrap();
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

    customers.stop().await.unwrap();
    both.server.terminate().await;
    stage_clear(&both.stage).await;
}

/// Waits for a file that a command leaves.
async fn left(file: &Path) {
    let found = wait_for(PATIENCE, "a command to have run", || async {
        Ok(file.exists().then_some(()))
    });
    found.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writers_are_stopped_and_started_by_commands_of_whoever_asks_the_server() {
    let (mut both, customers) = streaming("srv_hooks", 33).await;
    let name = both.stage.name.clone();
    let name = name.as_str();
    let directory = both.stage.directory().to_path_buf();
    let at = |file: &str| directory.join(file);
    let says = |file: &str| format!("echo here >> {}", at(file).display());

    // It is told what would be run, and the server runs nothing of it.
    let (stop, start) = (says("stopped"), says("started"));
    let rehearsal = [
        "cutover",
        name,
        "--dry-run",
        "--stop-writers",
        &stop,
        "--json",
    ];
    let told = both.with_server(&rehearsal).await.expect(0).json();
    let here = both.stage.run(&rehearsal).await.expect(0).json();
    assert_eq!(steps(&told), steps(&here), "{told}");
    assert!(told.to_string().contains("would run `echo here"), "{told}");
    assert!(!at("stopped").exists());

    // One that fails stops nobody, here and there.
    both.alike(&["cutover", name, "--stop-writers", "exit 7", "--yes"], 6)
        .await;
    both.goes_on().await;

    // Writers that go on all the same are found, and started again.
    let given_up = [
        "cutover",
        name,
        "--yes",
        "--json",
        "--silence",
        "200ms",
        "--patience",
        "5s",
        "--stop-writers",
        &stop,
        "--start-writers",
        &start,
    ];
    let answer = both.with_server(&given_up).await.expect(3).json();
    assert_eq!(answer["data"]["reason"]["code"], "TM6071", "{answer}");
    let undone = answer["data"]["undone"].to_string();
    assert!(
        undone.contains("the writers were started again"),
        "{undone}"
    );
    for file in ["stopped", "started"] {
        let ran = std::fs::read_to_string(at(file)).unwrap();
        assert_eq!(ran, "here\n", "{file} once");
    }
    both.goes_on().await;
    // A command that starts them and fails is told, and the server does not wait for it.
    let fails = [
        &given_up[..9],
        &[stop.as_str(), "--start-writers", "exit 9"],
    ]
    .concat();
    let answer = both.with_server(&fails).await.expect(3).json();
    let undone = answer["data"]["undone"].to_string();
    assert!(
        undone.contains("that starts the writers failed"),
        "{undone}"
    );
    both.goes_on().await;

    // Whoever stops them takes their time: what was acknowledged until then is there.
    let stop = format!(
        "touch {} && until [ -e {} ]; do sleep 0.1; done",
        at("stops").display(),
        at("gone").display()
    );
    let arguments = [
        "cutover",
        name,
        "--yes",
        "--json",
        "--silence",
        "500ms",
        "--stop-writers",
        &stop,
    ];
    let cutover = both.with_server(&arguments);
    let stopping = async {
        left(&at("stops")).await;
        let written = customers.stop().await.unwrap();
        std::fs::write(at("gone"), "").unwrap();
        written
    };
    let (done, written) = tokio::join!(cutover, stopping);
    let data = &done.expect(0).json()["data"];
    assert_eq!(data["result"], "cut_over", "{data}");
    assert!(written.committed > 0, "{written:?}");
    both.stage.assert_equal().await;
    both.server.terminate().await;
    stage_clear(&both.stage).await;
}

/// Slots of this name on the target.
async fn slots_on_target(stage: &Stage, pipeline: &str) -> String {
    let sql = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'tidemark_{pipeline}'"
    );
    text(&stage.target, &sql).await.unwrap()
}

/// The way back brings what was written before it runs, behind the fence of the old primary.
async fn carries_back(both: &Both, back: &str) {
    let write = "INSERT INTO orders (what) VALUES ('on the new one')";
    both.stage.target_sql(write).await;
    both.with_server(&["start", back]).await.expect(0);
    let source = both.stage.on_source().await;
    let came = wait_for(PATIENCE, "writes to come back", || async {
        let sql = "SELECT count(*) > 0 FROM orders WHERE what = 'on the new one'";
        Ok((text(&source, sql).await? == "t").then_some(()))
    });
    if let Err(err) = came.await {
        panic!("{err:#}\n{}", both.server.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_the_way_back_that_a_cutover_makes() {
    let (mut both, customers) = streaming("srv_back", 34).await;
    customers.stop().await.unwrap();
    let name = both.stage.name.clone();
    let (name, back) = (name.as_str(), "srv_back_back");
    let rehearsal = [
        "cutover",
        name,
        "--fence",
        "--reverse",
        "--dry-run",
        "--json",
    ];
    let told = both.with_server(&rehearsal).await.expect(0).json();
    assert!(steps(&told).contains(&"way back".to_owned()), "{told}");
    assert!(!both.has(back).await);

    // Whoever may act only, and not define pipelines, makes none.
    let admin = both.server.token.clone();
    both.server.token = Some(token(&both.server, "olga", "operator", "default").await);
    let route = format!("/pipelines/{name}/actions/cutover");
    let body = json!({ "cutover": { "reverse": true }, "confirm": name });
    assert_eq!(both.server.post(&route, &body).await.status, 403);
    both.server.token = admin;

    // When its name turns out to be somebody else's by now, all that was made of it is taken back.
    let url = both.stage.target_url();
    let theirs = format!(
        "version = 1\n[pipeline]\nname = \"{back}\"\nmode = \"full_load_only\"\n\
         [source]\nurl = \"{url}\"\n[target]\nurl = \"{url}\"\n[tables]\ninclude = [\"x.*\"]\n"
    );
    let stops = both.stage.directory().join("stops");
    let gone = both.stage.directory().join("gone");
    let stop = format!(
        "touch {} && until [ -e {} ]; do sleep 0.1; done",
        stops.display(),
        gone.display()
    );
    let late = [
        "cutover",
        name,
        "--yes",
        "--json",
        "--silence",
        "200ms",
        "--reverse",
        "--stop-writers",
        &stop,
    ];
    let takes = async {
        left(&stops).await;
        let request = both.server.request("POST", "/pipelines?start=false");
        let made = both
            .server
            .send(request.body("application/toml", theirs))
            .await;
        assert_eq!(made.status, 201, "{}", made.text());
        std::fs::write(&gone, "").unwrap();
    };
    let (ran, ()) = tokio::join!(both.with_server(&late), takes);
    let error = ran.expect(6).json()["error"].clone();
    let said = error.to_string();
    assert!(said.contains("the way back is removed again"), "{said}");
    assert_eq!(slots_on_target(&both.stage, back).await, "0");
    let there = both.server.get(&format!("/pipelines/{back}")).await;
    assert_eq!(there["state"], "draft", "theirs stays: {there}");
    let refused = both.with_server(&rehearsal).await.expect(6).json();
    assert_eq!(refused["error"]["code"], "TM6075", "{refused}");
    both.delete(back).await;

    let cutover = [
        "cutover",
        name,
        "--fence",
        "--silence",
        "500ms",
        "--reverse",
        "--yes",
        "--json",
    ];
    let done = both.with_server(&cutover).await.expect(0).json();
    assert_eq!(done["data"]["reverse"], back, "{done}");
    assert!(
        done["notices"]
            .to_string()
            .contains("tidemark start srv_back_back"),
        "{done}"
    );
    let kept = both.server.get(&format!("/pipelines/{back}")).await;
    assert_eq!(kept["state"], "stopped", "{kept}");
    assert_eq!(slots_on_target(&both.stage, back).await, "1");
    carries_back(&both, back).await;
    both.server.act(back, "stop", &json!({})).await;
    both.delete(back).await;
    assert_eq!(slots_on_target(&both.stage, back).await, "0");
    let abort = ["cutover", name, "--abort", "--yes", "--json"];
    both.with_server(&abort).await.expect(0);
    both.server.terminate().await;
    stage_clear(&both.stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_a_file_keeps_its_way_back_beside_that_file() {
    let mut both = Both::start("srv_back_file").await;
    let name = both.stage.name.clone();
    let rehearsal = ["cutover", &name, "--reverse", "--dry-run", "--json"];
    let refused = both.with_server(&rehearsal).await.expect(6).json();
    let error = &refused["error"];
    assert_eq!(error["code"], "TM6075", "{error}");
    assert!(error.to_string().contains("beside that one"), "{error}");
    let named = ["cutover", &name, "--reverse", "back.toml", "--json"];
    let refused = both.with_server(&named).await.expect(2).json();
    assert!(
        refused["error"]
            .to_string()
            .contains("keeps the way back itself"),
        "{refused}"
    );
    both.server.terminate().await;
    stage_clear(&both.stage).await;
}
