//! Two that do the same thing at once: one of them has done it, and nothing is there twice.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tidemark_lab::http::Response;
use tidemark_lab::wait::wait_for;

use super::{Server, definition, fill};
use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Stage};

/// How many of each status.
fn statuses(answers: &[Response]) -> BTreeMap<u16, usize> {
    let mut found = BTreeMap::new();
    for answer in answers {
        *found.entry(answer.status).or_insert(0) += 1;
    }
    found
}

const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn s35_of_those_who_define_a_pipeline_at_once_one_has_done_it() {
    let stage = Stage::new("srv_race_define").await;
    let server = Server::start(&[]).await;
    let wanted = definition(&stage);
    let all = (0..AT_ONCE).map(|_| server.post("/pipelines", &wanted));
    let answers = join_all(all).await;
    let expected = BTreeMap::from([(201, 1), (409, AT_ONCE - 1)]);
    assert_eq!(statuses(&answers), expected, "{answers:?}");
    assert_eq!(server.get("/pipelines").await["total"], 1);

    // Who changes what somebody else has changed meanwhile is told.
    let tag = server.get("/pipelines/srv_race_define").await["etag"].clone();
    let tag = tag.as_str().unwrap();
    let all = (0..AT_ONCE).map(|number| {
        let request = server
            .request("PATCH", "/pipelines/srv_race_define")
            .header("if-match", tag)
            .json(&json!({ "pipeline": { "description": format!("by {number}") } }));
        server.send(request)
    });
    let answers = join_all(all).await;
    let expected = BTreeMap::from([(200, 1), (412, AT_ONCE - 1)]);
    assert_eq!(statuses(&answers), expected, "{answers:?}");
    let winner = answers.iter().position(|answer| answer.status == 200);
    let kept = server.request("GET", "/pipelines/srv_race_define/definition");
    let kept = server.send(kept).await.text();
    assert!(kept.contains(&format!("by {}", winner.unwrap())), "{kept}");

    // One key, one token.
    let all = (0..AT_ONCE).map(|_| {
        let request = server
            .request("POST", "/tokens")
            .header("idempotency-key", "once");
        server.send(request.json(&json!({ "name": "x", "role": "viewer" })))
    });
    let answers = join_all(all).await;
    let counts = statuses(&answers);
    assert!(
        counts.keys().all(|status| [201, 409].contains(status)) && counts.contains_key(&201),
        "{answers:?}"
    );
    let tokens = server.get("/tokens").await;
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1, "{tokens}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// What operations that were begun have come to.
async fn ends(server: &Server, answers: &[Response]) -> Vec<Value> {
    let begun = answers.iter().filter(|answer| answer.status == 202);
    join_all(begun.map(|answer| server.operation(answer))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s35_a_pipeline_that_is_started_twice_and_deleted_while_it_runs_is_one_and_then_none() {
    let stage = Stage::new("srv_race_run").await;
    fill(&stage).await;
    let server = Server::start(&[]).await;
    for round in 0..2 {
        let made = server.post("/pipelines", &definition(&stage)).await;
        assert_eq!(made.status, 201, "round {round}: {}", made.text());
        let start = "/pipelines/srv_race_run/actions/start";
        let body = json!({});
        let answers = join_all((0..AT_ONCE).map(|_| server.post(start, &body))).await;
        assert_eq!(statuses(&answers), BTreeMap::from([(202, AT_ONCE)]));
        for end in ends(&server, &answers).await {
            assert_eq!(end["state"], "succeeded", "{end}");
        }
        server.wait_for_state("srv_race_run", "streaming").await;
        stage.wait_until_identical().await;
        assert_eq!(stage.slots().await.len(), 1);
        let runs = server.get("/pipelines/srv_race_run/runs").await;
        assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");

        // Everything at once, while it is written to.
        let orders = "INSERT INTO orders SELECT i, 'more' FROM generate_series(10001, 10500) i \
                      ON CONFLICT DO NOTHING";
        stage.source_sql(orders).await;
        let action = |word: &str| format!("/pipelines/srv_race_run/actions/{word}");
        let (resync, pause, stop) = (action("resync"), action("pause"), action("stop"));
        let others = join_all([&resync, &pause, &stop].map(|route| server.post(route, &body)));
        let deletions = join_all((0..3).map(|_| {
            let request = server
                .request("DELETE", "/pipelines/srv_race_run")
                .header("if-match", "*");
            server.send(request)
        }));
        let (others, deletions) = tokio::join!(others, deletions);
        for answer in others.iter().chain(&deletions) {
            let is_told = [202, 404, 409].contains(&answer.status);
            assert!(is_told, "{}: {}", answer.status, answer.text());
        }
        ends(&server, &others).await;
        let deleted = ends(&server, &deletions).await;
        let is_done = |end: &Value| end["state"] == "succeeded";
        assert!(deleted.iter().any(is_done), "{deleted:?}\n{}", server.log());
        nothing_is_left(&server, &stage).await;
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Waits until it was run so often at least (a run that finds the session of the one before is tried
/// again), and streams.
async fn streams_in_run(server: &Server, name: &str, count: usize) {
    let runs = format!("/pipelines/{name}/runs");
    let found = wait_for(PATIENCE, "another run", || async {
        let found = server.get(&runs).await;
        let is_so = found["runs"].as_array().unwrap().len() >= count;
        anyhow::ensure!(is_so, "{found}");
        Ok(Some(()))
    });
    if let Err(err) = found.await {
        panic!("{err:?}\n{}", server.log());
    }
    server.wait_for_state(name, "streaming").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s35_a_start_that_comes_while_a_run_ends_is_not_lost() {
    let name = "srv_race_start";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["verify"] = json!({ "after_load": "off" });
    let made = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(made.status, 201, "{}", made.text());
    streams_in_run(&server, name, 1).await;
    stage.wait_until_identical().await;
    // It ends when what it has begun is in, which waits.
    let held = Locked::table(&stage, "public.orders").await;
    stage
        .source_sql("INSERT INTO orders VALUES (7777, 'waits')")
        .await;
    held.wait_for_waiter().await;
    let route = "/pipelines/srv_race_start";
    let stop = server
        .post(&format!("{route}/actions/stop"), &json!({}))
        .await;
    assert_eq!(stop.status, 202, "{}", stop.text());
    wait_for(PATIENCE, "the stop to be wanted", || async {
        Ok((server.get(route).await["desired_state"] == "stopped").then_some(()))
    })
    .await
    .unwrap();
    let started = server.act(name, "start", &json!({})).await;
    assert_eq!(started["state"], "succeeded", "{started}");
    held.release().await;
    streams_in_run(&server, name, 2).await;
    assert_eq!(server.get(route).await["desired_state"], "running");
    stage.wait_until_identical().await;
    // Whoever wanted it to stop is told that it runs.
    let stopped = server.operation(&stop).await;
    assert_eq!(
        (&stopped["state"], &stopped["code"]),
        (&json!("failed"), &json!("TM8024")),
        "{stopped}"
    );
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f58_a_run_that_dies_as_it_makes_room_for_another_definition_has_made_room() {
    let name = "srv_race_dies";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let variables = [("TIDEMARK_FAILPOINT", "end.stream_done:1:panic")];
    let mut server = Server::start_with(&[], &variables).await;
    let made = server
        .post("/pipelines?start=true", &definition(&stage))
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    streams_in_run(&server, name, 1).await;
    let change = server
        .request("PATCH", "/pipelines/srv_race_dies")
        .header("if-match", "*")
        .json(&json!({ "stream": { "heartbeat_interval": "2 s" } }));
    let changed = server.send(change).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    streams_in_run(&server, name, 2).await;
    // It is written down beside everything else.
    wait_for(PATIENCE, "the end of the first run", || async {
        let runs = server.get("/pipelines/srv_race_dies/runs").await;
        let first = runs["runs"].as_array().unwrap().last().unwrap();
        let ended = (&first["outcome"], &first["code"]);
        Ok((ended == (&json!("failed"), &json!("TM9001"))).then_some(()))
    })
    .await
    .unwrap();
    wait_for(PATIENCE, "what went wrong to be told", || async {
        let events = server.get("/pipelines/srv_race_dies/events").await;
        let mut events = events["events"].as_array().unwrap().iter();
        let is_it = |event: &Value| {
            let text = event["text"].as_str().unwrap_or_default();
            event["code"] == "TM9001" && text.contains("it was to end")
        };
        Ok(events.any(is_it).then_some(()))
    })
    .await
    .unwrap();
    stage.wait_until_identical().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// A slot that a start has made after a deletion has looked would keep the source's log for ever.
#[tokio::test(flavor = "multi_thread")]
async fn s35_a_draft_that_is_started_while_it_is_deleted_leaves_nothing_on_the_source() {
    let stage = Stage::new("srv_race_draft").await;
    fill(&stage).await;
    let server = Server::start(&[]).await;
    for _ in 0..6 {
        let made = server.post("/pipelines", &definition(&stage)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let body = json!({});
        let start = server.post("/pipelines/srv_race_draft/actions/start", &body);
        let delete = server
            .request("DELETE", "/pipelines/srv_race_draft")
            .header("if-match", "*");
        let (started, deleted) = tokio::join!(start, server.send(delete));
        assert!(
            [202, 404, 409].contains(&started.status),
            "{}",
            started.text()
        );
        assert_eq!(deleted.status, 202, "{}", deleted.text());
        let end = server.operation(&deleted).await;
        assert_eq!(end["state"], "succeeded", "{end}\n{}", server.log());
        let gone = server.request("GET", "/pipelines/srv_race_draft");
        assert_eq!(server.send(gone).await.status, 404);
    }
    wait_for(PATIENCE, "nothing to be left", || async {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidemark srv_race_draft'";
        Ok((text(&stage.source, sessions).await? == "0").then_some(()))
    })
    .await
    .unwrap();
    stage.assert_nothing_on_the_source().await;
}

/// Neither in the list nor on either side.
async fn nothing_is_left(server: &Server, stage: &Stage) {
    let route = server.request("GET", "/pipelines/srv_race_run");
    assert_eq!(server.send(route).await.status, 404);
    assert_eq!(server.get("/pipelines").await["total"], 0);
    wait_for(PATIENCE, "sessions and slot to be gone", || async {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidemark srv_race_run'";
        let left = text(&stage.source, sessions).await?;
        let (left, slots) = (left == "0", stage.slots().await.is_empty());
        Ok((left && slots).then_some(()))
    })
    .await
    .unwrap();
    let publications = "SELECT count(*) FROM pg_publication";
    assert_eq!(text(&stage.source, publications).await.unwrap(), "0");
    let rows = "SELECT count(*) FROM tidemark.checkpoint WHERE pipeline = 'srv_race_run'";
    let kept = "SELECT to_regclass('tidemark.checkpoint') IS NULL";
    if text(&stage.target, kept).await.unwrap() == "f" {
        assert_eq!(text(&stage.target, rows).await.unwrap(), "0");
    }
    stage.target_sql("DROP TABLE IF EXISTS orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k02_the_slot_of_a_stopped_pipeline_is_no_leftover_of_another_whose_name_gives_the_same() {
    let stage = Stage::new("srv_race_name").await;
    fill(&stage).await;
    let server = Server::start(&[]).await;
    let named = |name: &str| {
        let mut wanted = definition(&stage);
        wanted["pipeline"]["name"] = json!(name);
        wanted
    };
    let first = named("srv-race-name");
    let defined = server.post("/pipelines?start=true", &first).await;
    assert_eq!(defined.status, 201, "{}", defined.text());
    server.wait_for_state("srv-race-name", "streaming").await;
    let stopped = server.act("srv-race-name", "stop", &json!({})).await;
    assert_eq!(stopped["state"], "succeeded", "{stopped}");

    let mut other = named("srv_race-name");
    other["target"]["schema"] = json!("other");
    let defined = server.post("/pipelines?start=true", &other).await;
    assert_eq!(defined.status, 201, "{}", defined.text());
    server.wait_for_state("srv_race-name", "failed").await;
    let failed = server.get("/pipelines/srv_race-name").await;
    assert_eq!(failed["error"]["code"], "TM4014", "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("srv-race-name"), "{failed}");
    let delete = server.request("DELETE", "/pipelines/srv_race-name");
    let deleted = server.send(delete.header("if-match", "*")).await;
    let deleted = server.operation(&deleted).await;
    assert_eq!(deleted["state"], "succeeded", "{deleted}");
    assert_eq!(stage.slots().await.len(), 1, "it went with the other");

    stage
        .source_sql("INSERT INTO orders VALUES (77777, 'more')")
        .await;
    let started = server.act("srv-race-name", "start", &json!({})).await;
    assert_eq!(started["state"], "succeeded", "{started}");
    server.wait_for_state("srv-race-name", "streaming").await;
    stage.wait_until_identical().await;
    let delete = server.request("DELETE", "/pipelines/srv-race-name");
    let deleted = server.send(delete.header("if-match", "*")).await;
    assert_eq!(server.operation(&deleted).await["state"], "succeeded");
    assert_eq!(stage.slots().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_pipeline_whose_source_is_gone_for_ever_is_deleted_by_whoever_says_so() {
    let stage = Stage::new("srv_race_gone").await;
    let server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["source"]["url"] = json!("postgres://nobody@127.0.0.1:1/none");
    let defined = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(defined.status, 201, "{}", defined.text());
    let delete = async |query: &str| {
        let route = format!("/pipelines/srv_race_gone{query}");
        let request = server.request("DELETE", &route).header("if-match", "*");
        server.operation(&server.send(request).await).await
    };
    let kept = delete("").await;
    assert_eq!(kept["state"], "failed", "{kept}");
    let gone = delete("?abandon=true").await;
    assert_eq!(gone["state"], "succeeded", "{gone}");
    let said = gone["text"].as_str().unwrap();
    assert!(
        said.contains("left what it could not remove: source: "),
        "{gone}"
    );
    assert_eq!(server.get("/pipelines").await["total"], 0);
}
