//! Messages of alerts, with real receivers: each gets there, signed, in order, also after a crash; and
//! none goes where the server's file does not allow it.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_lab::http::Request;
use tidemark_lab::proxy::Proxy;
use tidemark_lab::receiver::{Received, Receiver};
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::Server;
use crate::stage::{PATIENCE, Stage};

const SECRET: &str = "hunter2";
const ALLOW: &str = "[notify]\nallow = [\"127.0.0.1\"]\n";

/// A server with a file of its own; what the file refers to is in variables.
async fn server(more: &str, receiver: &Receiver) -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("server.toml");
    let text = format!(
        "version = 1\n{more}\n[[notifier]]\nname = \"ops\"\ntype = \"webhook\"\n\
         url = \"${{env:HOOK}}\"\nsecret = \"${{env:HOOK_SECRET}}\"\n\
         [[notifier]]\nname = \"channel\"\ntype = \"slack\"\nurl = \"${{env:SLACK}}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let hook = format!("http://{}/hooks/path-secret?x=1", receiver.address());
    let slack = format!("http://{}/slack/path-secret", receiver.address());
    let variables = [
        ("HOOK", hook.as_str()),
        ("SLACK", slack.as_str()),
        ("HOOK_SECRET", SECRET),
    ];
    let server = Server::start_with(&["--server-file", file.to_str().unwrap()], &variables).await;
    (server, directory)
}

/// A pipeline whose alert fires while it is stopped; its databases are never reached.
fn definition(name: &str, notify: &[&str]) -> Value {
    json!({
        "version": 1,
        "pipeline": { "name": name, "mode": "full_load_and_cdc" },
        "source": { "url": "postgres://nobody@127.0.0.1:1/nothing" },
        "target": { "url": "postgres://nobody@127.0.0.1:1/nothing" },
        "tables": { "include": ["public.*"] },
        "alert": [{
            "when": "state", "is": ["stopped"], "severity": "critical", "resolve_after": "1s",
            "notify": notify,
        }],
    })
}

pub(super) async fn begin(server: &Server, name: &str, notify: &[&str]) {
    let wanted = definition(name, notify);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

pub(super) async fn act(server: &Server, name: &str, action: &str) {
    let route = format!("/pipelines/{name}/actions/{action}");
    let answer = server.post(&route, &json!({})).await;
    assert_eq!(answer.status, 202, "{action}: {}", answer.text());
}

/// Waits until so many requests came to a path; gives them.
async fn came(server: &Server, receiver: &Receiver, path: &str, count: usize) -> Vec<Received> {
    let what = format!("{count} requests to {path}");
    let found = wait_for(PATIENCE, &what, || async {
        let mut all = receiver.received();
        all.retain(|it| it.line.starts_with(&format!("POST {path}")));
        anyhow::ensure!(all.len() >= count, "{all:?}");
        Ok(Some(all))
    });
    match found.await {
        Ok(found) => found,
        Err(err) => panic!("{err:?}\n{}", server.log()),
    }
}

/// Waits until no delivery waits; gives them, oldest first.
pub(super) async fn settled(server: &Server, count: usize) -> Vec<Value> {
    wait_for(PATIENCE, "all deliveries to end", || async {
        let list = server.get("/alerts/deliveries").await;
        let all = list["deliveries"].as_array().unwrap().clone();
        let is_over = all.iter().all(|it| it["ended_at"].is_string());
        anyhow::ensure!(is_over && all.len() == count, "{list}");
        Ok(Some(all.into_iter().rev().collect()))
    })
    .await
    .unwrap()
}

fn id(received: &Received) -> String {
    received.header("webhook-id").unwrap().to_owned()
}

/// A store whose commits wait where an alert moves, so that their answer can be lost.
const HELD: &str = "CREATE FUNCTION wait_to_commit() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'; \
     CREATE CONSTRAINT TRIGGER held AFTER INSERT ON tidemark_server.alerts \
     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_to_commit(); \
     SELECT pg_advisory_lock(1)";

/// A store that is read, and in which nothing is said of a delivery.
const UNWRITABLE: &str = "CREATE FUNCTION unwritable() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN RAISE EXCEPTION ''no''; END'; \
     CREATE TRIGGER unwritable BEFORE UPDATE ON tidemark_server.deliveries \
     FOR EACH ROW EXECUTE FUNCTION unwritable()";

/// The answer to the commit is lost, and what became of it is not known for longer than anybody waits.
#[tokio::test]
async fn r24_an_alert_that_was_written_down_when_the_store_went_away_is_told_once() {
    let receiver = Receiver::start().await.unwrap();
    let database = PostgresServer::shared().await.unwrap();
    let name = database.fresh_database("store").await.unwrap();
    let proxy = Proxy::start(database.port()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.toml");
    let text = format!(
        "version = 1\n{ALLOW}[[notifier]]\nname = \"ops\"\ntype = \"slack\"\nurl = \"${{env:SLACK}}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let url = database.url_through(proxy.address(), &name);
    let arguments = [
        "--store",
        url.as_str(),
        "--server-file",
        file.to_str().unwrap(),
    ];
    let channel = format!("http://{}/slack", receiver.address());
    let variables = [
        ("TIDEMARK_STORE_KEY", super::shared::KEY),
        ("SLACK", channel.as_str()),
    ];
    let server = Server::start_with(&arguments, &variables).await;
    begin(&server, "srv_once", &["ops"]).await;
    let client = database.client_to(&name).await.unwrap();
    client.batch_execute(HELD).await.unwrap();
    act(&server, "srv_once", "stop").await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() \
         AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    wait_for(PATIENCE, "the alert to be written down", || async {
        Ok((!client.query(waits, &[]).await?.is_empty()).then_some(()))
    })
    .await
    .unwrap();
    proxy.refuse();
    let go_on = "SELECT pg_advisory_unlock(1); SELECT pg_advisory_lock(1)";
    client.batch_execute(go_on).await.unwrap();
    client
        .batch_execute("SELECT pg_advisory_unlock(1)")
        .await
        .unwrap();
    wait_for(PATIENCE, "the server to give up", || async {
        Ok(server
            .log()
            .contains("alerts are not written down")
            .then_some(()))
    })
    .await
    .unwrap();
    proxy.accept();
    came(&server, &receiver, "/slack", 1).await;
    settled(&server, 1).await;
    // What is delivered and cannot be written down is not delivered once more for it.
    client.batch_execute(UNWRITABLE).await.unwrap();
    act(&server, "srv_once", "start").await;
    wait_for(PATIENCE, "it to be tried again", || async {
        let log = server.log();
        let tries = log.matches("a delivery is not written down").count();
        Ok((tries >= 2).then_some(()))
    })
    .await
    .unwrap();
    let mend = "DROP TRIGGER unwritable ON tidemark_server.deliveries";
    client.batch_execute(mend).await.unwrap();
    settled(&server, 2).await;
    let texts = receiver.received();
    assert_eq!(texts.len(), 2, "{texts:?}");
    let texts: Vec<String> = texts
        .iter()
        .map(|it| it.json().unwrap()["text"].to_string())
        .collect();
    assert!(texts[0].contains("srv_once is stopped"), "{texts:?}");
    assert!(texts[1].starts_with("\"\u{2713}"), "{texts:?}");
    let events = server.get("/pipelines/srv_once/events").await;
    let events = events["events"].as_array().unwrap().clone();
    let told = events.iter().filter(|event| event["kind"] == "alert");
    assert_eq!(told.count(), 1, "{events:?}");
}

#[tokio::test]
async fn s17_an_alert_gets_to_its_receivers_signed_in_order_and_in_the_end() {
    let receiver = Receiver::start().await.unwrap();
    receiver.answer(&["503 Busy\r\nretry-after: 0", "204 No Content"]);
    let (server, _file) = server(ALLOW, &receiver).await;
    begin(&server, "srv_told", &["ops", "ops"]).await;
    act(&server, "srv_told", "stop").await;
    let hooks = came(&server, &receiver, "/hooks/", 2).await;
    // The receiver did not take it at first: the same comes again, by the same id.
    assert_eq!(id(&hooks[0]), id(&hooks[1]));
    assert_eq!(hooks[0].body, hooks[1].body);
    act(&server, "srv_told", "start").await;
    let hooks = came(&server, &receiver, "/hooks/", 3).await;
    assert_ne!(id(&hooks[1]), id(&hooks[2]));
    let kinds = ["fired", "fired", "resolved"];
    for (hook, kind) in hooks.iter().zip(kinds) {
        assert_eq!(hook.line, "POST /hooks/path-secret?x=1 HTTP/1.1");
        assert!(hook.is_signed_with(SECRET), "{hook:?}");
        assert!(!hook.is_signed_with("another"));
        let kind_of_body = hook.header("content-type");
        assert_eq!(kind_of_body, Some("application/cloudevents+json"));
        let event = hook.json().unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], id(hook));
        assert_eq!(event["type"], format!("io.tidemark.alert.{kind}.v1"));
        assert_eq!(event["source"], "/tenants/default/pipelines/srv_told");
        assert_eq!(event["data"]["severity"], "critical");
        let text = event["data"]["text"].as_str().unwrap();
        assert!(text.contains("srv_told"), "{text}");
    }
    let log = settled(&server, 2).await;
    let attempts: Vec<_> = log.iter().map(|it| it["attempts"].as_i64()).collect();
    assert_eq!(attempts, [Some(2), Some(1)], "{log:?}");
    assert!(log.iter().all(|it| it["state"] == "delivered"), "{log:?}");
    let metrics = server.send(Request::new("GET", "/metrics")).await.text();
    for sample in ["result=\"delivered\"} 2\n", "result=\"retried\"} 1\n"] {
        let sample =
            format!("tidemark_notifications_total{{notifier=\"ops\",tenant=\"default\",{sample}");
        assert!(metrics.contains(&sample), "{metrics}");
    }
}

#[tokio::test]
async fn of_an_alert_that_is_snoozed_nobody_is_sent_a_word_before_its_time() {
    let receiver = Receiver::start().await.unwrap();
    receiver.answer(&["204 No Content"]);
    let (mut server, _file) = server(ALLOW, &receiver).await;
    begin(&server, "srv_snooze", &["ops"]).await;
    act(&server, "srv_snooze", "stop").await;
    came(&server, &receiver, "/hooks/", 1).await;
    let alert = fires(&server).await;
    assert_eq!(alert["snoozed_until"], Value::Null, "{alert}");
    let route = format!("/alerts/{}/snooze", alert["id"].as_str().unwrap());
    for (route, body, status) in [
        (route.as_str(), json!({ "for_seconds": 5 }), 400),
        (route.as_str(), json!({ "seconds": 300 }), 400),
        ("/alerts/0123456789abcdef/snooze", json!({}), 404),
    ] {
        let answer = server.post(route, &body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let answer = server.post(&route, &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let snoozed = answer.json().unwrap();
    assert_eq!(snoozed["snoozed_by"], "local", "{snoozed}");
    assert!(snoozed["snoozed_until"].is_string(), "{snoozed}");

    // It outlives the server. Who was told that it fires is told when it is over.
    server.child.kill().await.unwrap();
    server.restart().await;
    let again = fires(&server).await;
    assert_eq!(again["snoozed_until"], snoozed["snoozed_until"], "{again}");
    act(&server, "srv_snooze", "start").await;
    let hooks = came(&server, &receiver, "/hooks/", 2).await;
    let event = hooks[1].json().unwrap();
    assert_eq!(event["type"], "io.tidemark.alert.resolved.v1", "{event}");

    // It fires anew, which events tell and no message does.
    act(&server, "srv_snooze", "stop").await;
    let anew = fires(&server).await;
    assert_ne!(anew["fired_at"], alert["fired_at"], "{anew}");
    assert_eq!(anew["snoozed_until"], snoozed["snoozed_until"], "{anew}");
    assert_eq!(settled(&server, 2).await.len(), 2);

    // Woken, it is told as it stands.
    let answer = server.send(server.request("DELETE", &route)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["snoozed_until"], Value::Null);
    let hooks = came(&server, &receiver, "/hooks/", 3).await;
    let event = hooks[2].json().unwrap();
    assert_eq!(event["type"], "io.tidemark.alert.fired.v1", "{event}");
    assert_eq!(event["data"]["since"], anew["since"], "{event}");
    let events = server.get("/pipelines/srv_snooze/events?limit=500").await;
    let events = events["events"].as_array().unwrap();
    let by: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "alert_snoozed")
        .map(|event| &event["by"])
        .collect();
    assert_eq!(by, ["local", "local"], "{events:?}");
}

#[tokio::test]
async fn a_load_that_is_in_is_told_once_whatever_becomes_of_the_server() {
    let receiver = Receiver::start().await.unwrap();
    receiver.answer(&["204 No Content"]);
    let (mut server, _file) = server(ALLOW, &receiver).await;
    let (streams, once) = (Stage::new("srv_loaded").await, Stage::new("srv_once").await);
    for (stage, mode) in [(&streams, "full_load_and_cdc"), (&once, "full_load_only")] {
        super::fill(stage).await;
        let mut wanted = super::definition(stage);
        wanted["pipeline"]["mode"] = json!(mode);
        wanted["schedule"] = json!({ "full_load": "0 0 29 2 *" });
        wanted["alert"] = json!([
            { "when": "load_finished", "severity": "notice", "notify": ["ops"] },
        ]);
        let answer = server.post("/pipelines?start=true", &wanted).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let hooks = came(&server, &receiver, "/hooks/", 2).await;
    for hook in &hooks {
        let event = hook.json().unwrap();
        assert_eq!(event["type"], "io.tidemark.load.finished.v1", "{event}");
        let text = event["data"]["text"].as_str().unwrap();
        assert!(text.contains("is in: 1000 rows of 1 table"), "{text}");
    }
    // It is nothing that fires.
    assert_eq!(server.get("/alerts/active").await["alerts"], json!([]));

    // What the receiver took and nobody wrote down yet would come again, by the same id.
    settled(&server, 2).await;
    server.child.kill().await.unwrap();
    server.restart().await;
    server.wait_for_state("srv_loaded", "streaming").await;
    // A scheduled load is one too, beside what readers see or from the start.
    for stage in [&streams, &once] {
        let route = format!("/pipelines/{}/schedule/actions/run", stage.name);
        let asked = server.post(&route, &json!({})).await;
        assert_eq!(asked.status, 200, "{}", asked.text());
    }
    let hooks = came(&server, &receiver, "/hooks/", 4).await;
    let about = |hook: &Received| hook.json().unwrap()["data"]["pipeline_id"].clone();
    for stage in [&streams, &once] {
        let told = hooks
            .iter()
            .filter(|hook| about(hook) == stage.name.as_str());
        assert_eq!(told.count(), 2, "{}: {hooks:?}", stage.name);
    }
    assert_eq!(settled(&server, 4).await.len(), 4, "each once");
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    streams.clear().await;
    once.clear().await;
}

/// The one alert that fires.
async fn fires(server: &Server) -> Value {
    let firing = wait_for(PATIENCE, "an alert to fire", || async {
        let active = server.get("/alerts/active").await;
        Ok(active["alerts"].as_array().unwrap().first().cloned())
    });
    match firing.await {
        Ok(firing) => firing,
        Err(err) => panic!("{err:?}\n{}", server.log()),
    }
}

#[tokio::test]
async fn what_nobody_took_yet_outlives_a_server_that_is_killed() {
    let receiver = Receiver::start().await.unwrap();
    receiver.answer(&["500 Broken"]);
    let (mut server, _file) = server(ALLOW, &receiver).await;
    begin(&server, "srv_outbox", &["ops"]).await;
    act(&server, "srv_outbox", "stop").await;
    let before = came(&server, &receiver, "/hooks/", 1).await;
    server.child.kill().await.unwrap();
    receiver.answer(&["204 No Content"]);
    server.restart().await;
    act(&server, "srv_outbox", "start").await;
    let log = settled(&server, 2).await;
    assert!(log.iter().all(|it| it["state"] == "delivered"), "{log:?}");
    let hooks = receiver.received();
    let resolved = &hooks[hooks.len() - 1];
    assert_eq!(
        resolved.json().unwrap()["type"],
        "io.tidemark.alert.resolved.v1"
    );
    // All but the last are the one message that was in the outbox when the server was killed.
    let fired = &hooks[..hooks.len() - 1];
    assert!(fired.len() >= 2 && fired.iter().all(|it| id(it) == id(&before[0])));
}

#[tokio::test]
async fn s16_a_message_goes_nowhere_that_the_servers_file_does_not_allow() {
    let receiver = Receiver::start().await.unwrap();
    let (server, _file) = server("", &receiver).await;
    for name in ["ops", "channel"] {
        let answer = server
            .post(&format!("/notifiers/{name}/test"), &json!({}))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let tested = answer.json().unwrap();
        assert_eq!(tested["state"], "failed", "{tested}");
        assert_eq!(tested["code"], "TM7111", "{tested}");
    }
    assert!(receiver.received().is_empty());
    let missing = server.post("/notifiers/nobody/test", &json!({})).await;
    assert_eq!(missing.status, 404, "{}", missing.text());
}

#[tokio::test]
async fn a_test_says_what_the_receiver_answered_and_follows_no_redirect() {
    let receiver = Receiver::start().await.unwrap();
    let other = Receiver::start().await.unwrap();
    let (server, _file) = server(ALLOW, &receiver).await;
    let redirect = format!("307 Over there\r\nlocation: http://{}/", other.address());
    for (says, state, code) in [
        ("200 OK", "delivered", Value::Null),
        ("404 Nothing", "failed", json!("TM7113")),
        (redirect.as_str(), "failed", json!("TM7113")),
        ("500 Broken", "failed", json!("TM7113")),
    ] {
        receiver.answer(&[says]);
        let answer = server.post("/notifiers/channel/test", &json!({})).await;
        let tested = answer.json().unwrap();
        assert_eq!(tested["state"], state, "{says}: {tested}");
        assert_eq!(tested["code"], code, "{says}: {tested}");
        let result = tested["result"].as_str().unwrap();
        let status = says.split(' ').next().unwrap();
        assert!(result.contains(&format!("answered {status}")), "{tested}");
    }
    let slack = came(&server, &receiver, "/slack/", 4).await;
    let text = slack[0].json().unwrap()["text"].clone();
    assert!(
        text.as_str().unwrap().contains("asked for this test"),
        "{text}"
    );
    assert!(other.received().is_empty());
    assert_eq!(settled(&server, 4).await.len(), 4);
    drop(receiver);
    let answer = server.post("/notifiers/channel/test", &json!({})).await;
    assert_eq!(
        answer.json().unwrap()["code"],
        "TM7112",
        "{}",
        answer.text()
    );

    // Nothing of an address but its host is shown, nor any secret.
    let shown = format!(
        "{}{}{}",
        server.get("/notifiers").await,
        server.get("/alerts/deliveries").await,
        server.log()
    );
    assert!(shown.contains("127.0.0.1"), "{shown}");
    for secret in [SECRET, "path-secret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn the_pipeline_file_of_other_verbs_is_not_the_servers_file() {
    let others = [("TIDEMARK_CONFIG", "shop.toml")];
    let server = Server::start_with(&[], &others).await;
    assert_eq!(server.get("/notifiers").await, json!({ "notifiers": [] }));
}

#[tokio::test]
async fn a_rule_that_names_nobody_is_refused_or_told_of() {
    let receiver = Receiver::start().await.unwrap();
    let (server, _file) = server(ALLOW, &receiver).await;
    let wanted = definition("srv_nobody", &["ops", "opps"]);
    let answer = server.post("/pipelines", &wanted).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    let problem = answer.json().unwrap();
    assert_eq!(problem["code"], "TM7110", "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("known: ops, channel")
    );

    // A file was there first: its pipeline runs, and everybody who is known is told.
    let text = "version = 1\n[pipeline]\nname = \"srv_nobody\"\nmode = \"full_load_and_cdc\"\n\
        [source]\nurl = \"postgres://nobody@127.0.0.1:1/nothing\"\n\
        [target]\nurl = \"postgres://nobody@127.0.0.1:1/nothing\"\n[tables]\ninclude = [\"public.*\"]\n\
        [[alert]]\nwhen = \"state\"\nis = [\"stopped\"]\nnotify = [\"ops\", \"opps\"]\n";
    std::fs::write(server.pipelines().join("srv_nobody.toml"), text).unwrap();
    wait_for(PATIENCE, "the rules of the file", || async {
        let rules = server.get("/alerts/rules").await;
        anyhow::ensure!(
            rules["rules"][0]["unknown_notifiers"] == json!(["opps"]),
            "{rules}"
        );
        Ok(Some(()))
    })
    .await
    .unwrap();
    act(&server, "srv_nobody", "stop").await;
    came(&server, &receiver, "/hooks/", 1).await;
    let log = settled(&server, 2).await;
    let of = |name: &str| log.iter().find(|it| it["notifier"] == name).unwrap();
    assert_eq!(of("ops")["state"], "delivered", "{log:?}");
    assert_eq!(of("opps")["state"], "failed", "{log:?}");
    assert_eq!(of("opps")["code"], "TM7110", "{log:?}");
}
