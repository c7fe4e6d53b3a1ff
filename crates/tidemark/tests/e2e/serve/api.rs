//! The API beside real databases: definitions, actions, lag, events, news.

use serde_json::{Value, json};
use tidemark_lab::Proxy;
use tidemark_lab::wait::wait_for;
use tokio::io::AsyncReadExt;

use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

#[tokio::test]
async fn a_pipeline_is_defined_run_changed_and_asked_about() {
    let stage = Stage::new("srv_api").await;
    fill(&stage).await;
    let server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["source"]["password"] = json!("hunter2");

    let checked = server.post("/checks", &wanted).await.json().unwrap();
    assert_eq!(checked["ok"], true, "{checked}");
    let plan = server.post("/pipelines?dry_run=true", &wanted).await;
    assert_eq!(plan.status, 200, "{}", plan.text());
    assert_eq!(plan.json().unwrap()["tables"][0]["source"], "public.orders");
    assert_eq!(
        server.get("/pipelines").await["total"],
        0,
        "a dry run keeps nothing"
    );

    // The same request twice is one pipeline and one answer.
    let create = || {
        server
            .request("POST", "/pipelines")
            .header("idempotency-key", "k1")
            .json(&wanted)
    };
    let first = server.send(create()).await;
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(first.json().unwrap()["state"], "draft");
    let again = server.send(create()).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert!(first.header("etag").is_some());
    assert_eq!(again.header("etag"), first.header("etag"));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let other = server
        .request("POST", "/tokens")
        .header("idempotency-key", "k1");
    let other = server
        .send(other.json(&json!({ "name": "x", "role": "viewer" })))
        .await;
    assert_eq!(
        (other.status, &other.json().unwrap()["code"]),
        (422, &json!("TM8028"))
    );
    let twice = server.post("/pipelines", &wanted).await;
    assert_eq!(twice.status, 409, "{}", twice.text());

    // Secrets go in and never come out.
    for route in ["", "/srv_api", "/srv_api/definition"] {
        let answer = server
            .send(server.request("GET", &format!("/pipelines{route}")))
            .await;
        assert_eq!(answer.status, 200);
        assert!(
            !answer.text().contains("hunter2"),
            "{route}: {}",
            answer.text()
        );
    }

    // Before it ever ran nothing is known, and nothing is 0.
    let lag = server.get("/monitoring/pipelines/srv_api/lag").await;
    assert_eq!(
        (&lag["state"], &lag["gap_bytes"]),
        (&json!("draft"), &Value::Null)
    );

    assert_eq!(
        server.act("srv_api", "start", &json!({})).await["state"],
        "succeeded"
    );
    server.wait_for_state("srv_api", "streaming").await;
    stage.wait_until_identical().await;
    lag_is_told(&server, &stage).await;
    actions_are_carried_out(&server, &stage).await;
    changes_need_to_know_what_they_change(&server, &stage).await;

    let log = server.get("/pipelines/srv_api/events?limit=500").await;
    let kinds: Vec<_> = log["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].clone())
        .collect();
    for kind in ["state", "load", "action", "verification", "definition"] {
        assert!(kinds.contains(&json!(kind)), "{kind}: {log}");
    }
    let page = server.get("/pipelines/srv_api/events?limit=1").await;
    let next = page["next_cursor"].as_str().unwrap();
    let second = server
        .get(&format!("/pipelines/srv_api/events?limit=1&cursor={next}"))
        .await;
    assert_ne!(page["events"][0]["id"], second["events"][0]["id"]);
    assert!(
        !server.get("/audit").await["entries"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let history = server
        .get("/monitoring/pipelines/srv_api/lag/history")
        .await;
    assert_eq!(history["step_seconds"], 1);
    lists_go_on(&server, &definition(&stage)).await;
    what_it_stands_on_stays(&server).await;

    delete(&server, "srv_api").await;
    assert!(stage.slots().await.is_empty());
    let answer = server
        .send(server.request("GET", "/pipelines/srv_api"))
        .await;
    assert_eq!(answer.status, 404);
}

/// With another slot or target a run would begin anew, and leave what it has behind.
async fn what_it_stands_on_stays(server: &Server) {
    for (patch, what) in [
        (
            json!({ "source": { "postgres": { "slot": "another" } } }),
            "source.postgres.slot",
        ),
        (
            json!({ "target": { "url": "postgres://me@127.0.0.1:1/x" } }),
            "target.url",
        ),
        (
            json!({ "pipeline": { "mode": "full_load_only" } }),
            "pipeline.mode",
        ),
    ] {
        let request = server
            .request("PATCH", "/pipelines/srv_api")
            .header("if-match", "*");
        let answer = server.send(request.json(&patch)).await;
        let problem = answer.json().unwrap();
        let told = problem["detail"].as_str().unwrap();
        assert!(answer.status == 409 && told.starts_with(what), "{problem}");
    }
}

async fn delete(server: &Server, name: &str) {
    let route = format!("/pipelines/{name}");
    let request = server.request("DELETE", &route).header("if-match", "*");
    let done = server.operation(&server.send(request).await).await;
    assert_eq!(done["state"], "succeeded", "{done}");
}

/// The next page of a list has what was asked of the first, and an error names what it is about.
async fn lists_go_on(server: &Server, definition: &Value) {
    // A period is said as times are told.
    let history = "/monitoring/pipelines/srv_api/lag/history?from=2026-01-01T00:00:00Z";
    assert_eq!(server.get(history).await["step_seconds"], 300);
    for name in ["x-1", "x-2", "x-3"] {
        let mut draft = definition.clone();
        draft["pipeline"]["name"] = json!(name);
        assert_eq!(server.post("/pipelines", &draft).await.status, 201);
    }
    let names = |list: &Value| -> Vec<String> {
        let all = list["pipelines"].as_array().unwrap().iter();
        all.map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = server
        .get("/pipelines?limit=1&q=x-&state=draft&sort=name")
        .await;
    let next = first["next"].as_str().unwrap();
    let second = server.get(next.strip_prefix("/api/v1").unwrap()).await;
    assert_eq!([names(&first), names(&second)], [["x-1"], ["x-2"]]);
    assert_eq!(second["total"], 3, "{second}");
    let by_name = server.get("/pipelines?sort=name").await;
    assert_eq!(names(&by_name), ["srv_api", "x-1", "x-2", "x-3"]);
    for (route, detail) in [
        ("/pipelines?sort=colour", "sort is one of worst, name"),
        (
            "/pipelines?limit=x",
            "the query is not as expected: limit: ",
        ),
    ] {
        let answer = server.send(server.request("GET", route)).await;
        let problem = answer.json().unwrap();
        assert_eq!(problem["instance"], "/api/v1/pipelines", "{problem}");
        let told = problem["detail"].as_str().unwrap();
        assert!(
            answer.status == 400 && told.starts_with(detail),
            "{problem}"
        );
    }
    for name in ["x-1", "x-2", "x-3"] {
        delete(server, name).await;
    }
}

async fn lag_is_told(server: &Server, stage: &Stage) {
    let route = "/monitoring/pipelines/srv_api/lag";
    let lag = wait_for(PATIENCE, "the lag to be known", || async {
        let lag = server.get(route).await;
        Ok((lag["latency_seconds"].is_number() && lag["slot"].is_object()).then_some(lag))
    })
    .await
    .unwrap();
    assert_eq!(
        (&lag["stale"], &lag["health"]),
        (&json!(false), &json!("ok")),
        "{lag}"
    );
    assert_eq!(lag["slot"]["active"], true);
    assert_eq!(lag["position_type"], "pg_lsn");
    // The source's own word about the end of its log is not before ours.
    let sql = "SELECT (pg_current_wal_flush_lsn() >= $1::text::pg_lsn)";
    let seen = lag["source_lsn"].as_str().unwrap();
    let is_after: bool = stage.source.query_one(sql, &[&seen]).await.unwrap().get(0);
    assert!(is_after, "{lag}");
    let overview = server.get("/monitoring/overview").await;
    assert_eq!(
        (&overview["total"], &overview["by_state"]["streaming"]),
        (&json!(1), &json!(1))
    );
    let progress = server.get("/monitoring/pipelines/srv_api/progress").await;
    assert_eq!(
        (&progress["ratio"], &progress["rows_loaded"]),
        (&json!(1.0), &json!(1000))
    );
    let slots = server.get("/slots?pipeline=srv_api").await;
    assert!(
        slots["slots"]
            .as_array()
            .unwrap()
            .iter()
            .any(|slot| slot["pipeline_id"] == "srv_api")
    );
    slots_of_the_source_are_told_apart(server, stage).await;
}

/// Ours, others', and one that looks like ours and is nobody's here.
async fn slots_of_the_source_are_told_apart(server: &Server, stage: &Stage) {
    let connections = server.get("/connections").await;
    let found = connections["connections"].as_array().unwrap();
    let reads = found
        .iter()
        .find(|one| one["source_of"] == json!(["srv_api"]));
    let writes = found
        .iter()
        .find(|one| one["target_of"] == json!(["srv_api"]));
    let address = &reads.unwrap()["address"];
    assert!(
        writes.is_some() && !connections.to_string().contains("hunter2"),
        "{connections}"
    );
    assert_eq!(connections["not_known"], json!([]));
    let make = "SELECT pg_create_logical_replication_slot('tidemark_srv_api_gone', 'pgoutput'),
        pg_create_physical_replication_slot('srv_api_standby')";
    stage.source_sql(make).await;
    let there = server.get("/pipelines/srv_api/slots").await;
    assert_eq!(there["address"], *address);
    let slot = |name: &str| {
        let slots = there["slots"].as_array().unwrap();
        let found = slots.iter().find(|slot| slot["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {there}")).clone()
    };
    let own = slot("tidemark_srv_api");
    assert_eq!(
        (&own["pipeline_id"], &own["orphan"]),
        (&json!("srv_api"), &json!(false)),
        "{own}"
    );
    assert!(
        own["holder"]["pid"].is_number() && own["restart_lsn"].is_string(),
        "{own}"
    );
    let gone = slot("tidemark_srv_api_gone");
    assert_eq!(
        (&gone["pipeline_id"], &gone["orphan"]),
        (&Value::Null, &json!(true)),
        "{gone}"
    );
    assert_eq!(
        (&gone["holder"], &gone["active"]),
        (&Value::Null, &json!(false)),
        "{gone}"
    );
    let drop = "SELECT pg_drop_replication_slot('tidemark_srv_api_gone'),
        pg_drop_replication_slot('srv_api_standby')";
    stage.source_sql(drop).await;
}

async fn actions_are_carried_out(server: &Server, stage: &Stage) {
    let none = json!({});
    assert_eq!(
        server.act("srv_api", "pause", &none).await["state"],
        "succeeded"
    );
    let paused = server.wait_for_state("srv_api", "paused").await;
    assert_eq!(paused["by"], "local");
    assert_eq!(
        server.act("srv_api", "pause", &none).await["state"],
        "succeeded",
        "twice is fine"
    );
    let sql = "INSERT INTO orders VALUES (9001, 'while paused')";
    stage.source.batch_execute(sql).await.unwrap();
    assert_eq!(
        server.act("srv_api", "resume", &none).await["state"],
        "succeeded"
    );
    server.wait_for_state("srv_api", "streaming").await;
    stage.wait_until_identical().await;

    let effect = json!({ "dry_run": true, "tables": ["public.orders"] });
    let effect = server
        .post("/pipelines/srv_api/actions/resync", &effect)
        .await;
    assert_eq!(effect.status, 200, "{}", effect.text());
    assert_eq!(
        effect.json().unwrap()["tables"][0]["target"],
        "public.orders"
    );
    stage
        .target
        .batch_execute("DELETE FROM orders WHERE id < 10")
        .await
        .unwrap();
    let verified = server.act("srv_api", "verify", &none).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");
    let route = "/pipelines/srv_api/verifications";
    let found = server.get(route).await;
    assert_eq!(found["verifications"][0]["result"], "different", "{found}");
    assert_eq!(
        found["verifications"][0]["tables"][0]["different"], 9,
        "{found}"
    );
    let one = "/pipelines/srv_api/tables/public.orders/actions/resync";
    let answer = server.post(one, &none).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let done = server.operation(&answer).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    stage.wait_until_identical().await;
    assert_eq!(
        server.act("srv_api", "verify", &none).await["state"],
        "succeeded"
    );
    assert_eq!(
        server.get(route).await["verifications"][0]["result"],
        "identical"
    );
    let tables = server.get("/pipelines/srv_api/tables").await;
    assert_eq!(tables["tables"][0]["source"], "public.orders");
    let unknown = server.post("/pipelines/srv_api/actions/dance", &none).await;
    assert_eq!(unknown.status, 404);
}

async fn changes_need_to_know_what_they_change(server: &Server, stage: &Stage) {
    let route = "/pipelines/srv_api";
    let patch = json!({ "stream": { "batch_rows": 1234 } });
    let without = server
        .send(server.request("PATCH", route).json(&patch))
        .await;
    assert_eq!(
        (without.status, &without.json().unwrap()["code"]),
        (428, &json!("TM8026"))
    );
    let stale = server
        .request("PATCH", route)
        .header("if-match", "\"0-x\"")
        .json(&patch);
    assert_eq!(server.send(stale).await.status, 412);
    let read = server.send(server.request("GET", route)).await;
    let tag = read.header("etag").unwrap().to_owned();
    let change = server
        .request("PATCH", route)
        .header("if-match", &tag)
        .json(&patch);
    let changed = server.send(change).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
    let text = server
        .send(server.request("GET", "/pipelines/srv_api/definition"))
        .await
        .text();
    assert!(
        text.contains("batch_rows = 1234") && text.contains("***"),
        "{text}"
    );
    let wrong = json!({ "stream": { "batch_rowz": 1 }, "load": { "parallel_tables": "x" } });
    let wrong = server
        .request("PATCH", route)
        .header("if-match", "*")
        .json(&wrong);
    let wrong = server.send(wrong).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    assert_eq!(
        wrong.json().unwrap()["errors"].as_array().unwrap().len(),
        2,
        "all of them at once"
    );
    // It goes on with the new definition.
    server.wait_for_state("srv_api", "streaming").await;
    // Said again, as what a patch is (RFC 7396), nothing changes, and nothing that runs stops for it.
    let tag = server.get(route).await["etag"].clone();
    let runs = format!("{route}/runs");
    let before = server.get(&runs).await;
    for (kind, text, status) in [
        ("application/merge-patch+json", patch.to_string(), 200),
        ("application/json", patch.to_string(), 200),
        ("application/json-patch+json", "[]".to_owned(), 415),
        (
            "application/json",
            "{\"stream\":{},\"stream\":{}}".to_owned(),
            400,
        ),
    ] {
        let request = server.request("PATCH", route).header("if-match", "*");
        let answer = server.send(request.body(kind, text)).await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.text());
        let body = answer.json().unwrap();
        match status {
            200 => assert_eq!(body["etag"], tag, "{body}"),
            415 => {
                let told = body["detail"].as_str().unwrap();
                let both = "application/merge-patch+json or application/json";
                assert!(told.ends_with(both), "{told}");
            }
            _ => {}
        }
    }
    assert_eq!(server.get(&runs).await, before);
    stage
        .source
        .batch_execute("INSERT INTO orders VALUES (9002, 'x')")
        .await
        .unwrap();
    stage.wait_until_identical().await;
}

#[tokio::test]
async fn what_is_not_known_is_null_with_a_reason_and_never_zero() {
    let stage = Stage::new("srv_unknown").await;
    fill(&stage).await;
    let proxy = Proxy::start(stage.source_server.port()).await.unwrap();
    let server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    wanted["source"]["url"] = json!(
        stage
            .source_server
            .url_through(proxy.address(), &stage.source_name)
    );
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_unknown", "streaming").await;
    proxy.refuse();
    proxy.cut();
    let lag = wait_for(PATIENCE, "the lag to be unknown", || async {
        let lag = server.get("/monitoring/pipelines/srv_unknown/lag").await;
        Ok((lag["stale"] == true).then_some(lag))
    })
    .await
    .unwrap();
    assert_eq!(
        (&lag["source_lsn"], &lag["gap_bytes"]),
        (&Value::Null, &Value::Null),
        "{lag}"
    );
    assert!(
        lag["unknown_reason"].as_str().unwrap().starts_with("TM10"),
        "{lag}"
    );
    assert!(lag["last_known"]["source_lsn"].is_string() && lag["last_known"]["at"].is_string());
    assert_ne!(lag["health"], "ok");
    proxy.accept();
    server.wait_for_state("srv_unknown", "streaming").await;
    assert_eq!(
        server.act("srv_unknown", "stop", &json!({})).await["state"],
        "succeeded"
    );
    stage.clear().await;
}

#[tokio::test]
async fn a_reader_of_news_goes_on_where_it_was() {
    let stage = Stage::new("srv_news").await;
    fill(&stage).await;
    let server = Server::start(&[]).await;
    let mut stream = news(&server, None).await;
    let answer = server
        .post("/pipelines?start=true", &definition(&stage))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let first = read_until(&mut stream, "\"streaming\"").await;
    assert!(
        first.contains("event: hello") && first.contains("retry: 2000"),
        "{first}"
    );
    drop(stream);
    let last = first
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .next_back()
        .unwrap();
    let mut stream = news(&server, Some(last)).await;
    assert_eq!(
        server.act("srv_news", "stop", &json!({})).await["state"],
        "succeeded"
    );
    let more = read_until(&mut stream, "\"stopped\"").await;
    let number = |text: &str| text.parse::<u64>().unwrap();
    let ids: Vec<u64> = more
        .lines()
        .filter_map(|line| Some(number(line.strip_prefix("id: ")?)))
        .collect();
    assert!(
        ids.iter().all(|id| *id > number(last)),
        "nothing twice: {ids:?} after {last}"
    );
    assert!(ids.is_sorted(), "{ids:?}");
    let mut stream = news(&server, Some("7")).await;
    read_until(&mut stream, "event: reset").await;
    stage.clear().await;
}

pub(super) async fn news(server: &Server, last: Option<&str>) -> tokio::net::TcpStream {
    let request = server.request("GET", "/events/stream?topics=state,events,ops");
    let request = match last {
        Some(last) => request.header("last-event-id", last),
        None => request,
    };
    request.open(&server.address).await.unwrap()
}

pub(super) async fn read_until(stream: &mut tokio::net::TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&all).contains(text) {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(
                count > 0,
                "the stream ended: {}",
                String::from_utf8_lossy(&all)
            );
            all.extend_from_slice(buffer.get(..count).unwrap());
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, read).await.is_ok();
    let said = String::from_utf8_lossy(&all).into_owned();
    assert!(in_time, "no {text} in {said}");
    said
}
