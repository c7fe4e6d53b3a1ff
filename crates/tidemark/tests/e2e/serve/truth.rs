//! What the server says of a pipeline is so: within 15 seconds of a side that is gone or does not
//! answer, and in numbers that SQL and a row that travels confirm.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_lab::Proxy;
use tidemark_lab::http::Request;
use tidemark_lab::wait::wait_for;

use super::{Server, definition, fill};
use crate::asks::{Locked, text};
use crate::faults::own_server;
use crate::stage::{PATIENCE, Stage};
use crate::writing::Writers;

/// How long what is not true any more may be said.
const TRUE_WITHIN: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// A killed server refuses and has closed; a frozen one, or a cut wire, says nothing at all.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Refuses,
    Silent,
}

async fn is_ready(server: &Server) -> bool {
    let request = Request::new("GET", "/readyz?pipelines=strict");
    server.send(request).await.status == 200
}

/// Waits until the pipeline is well and everything says so; gives its lag.
async fn is_well(server: &Server, name: &str, within: Duration) -> Value {
    let route = format!("/monitoring/pipelines/{name}/lag");
    let found = wait_for(within, "it to be well", || async {
        let lag = server.get(&route).await;
        let is_known = lag["gap_bytes"].is_number() && lag["latency_seconds"].is_number();
        anyhow::ensure!(lag["health"] == "ok" && is_known, "{lag}");
        anyhow::ensure!(is_ready(server).await, "not ready: {lag}");
        Ok(Some(lag))
    });
    match found.await {
        Ok(lag) => lag,
        Err(err) => panic!("{err:?}\n{}", server.log()),
    }
}

/// Waits until nothing says that all is well.
async fn is_told(server: &Server, name: &str, side: Side, loss: Loss) {
    let route = format!("/monitoring/pipelines/{name}/lag");
    let found = wait_for(TRUE_WITHIN, "the loss to be told", || async {
        let lag = server.get(&route).await;
        let is_good = ["ok", "notice"].contains(&lag["health"].as_str().unwrap());
        anyhow::ensure!(!is_good, "{lag}");
        if side == Side::Source {
            // Nobody can tell how far it is behind.
            anyhow::ensure!(lag["stale"] == true, "{lag}");
            anyhow::ensure!(lag["source_lsn"].is_null(), "{lag}");
            anyhow::ensure!(lag["gap_bytes"].is_null(), "{lag}");
            anyhow::ensure!(lag["last_known"]["source_lsn"].is_string(), "{lag}");
        } else {
            // The source writes on, and how far it is ahead is known.
            anyhow::ensure!(lag["gap_bytes"].as_i64() > Some(0), "{lag}");
        }
        // Unknown, or growing: never near nothing.
        let latency = lag["latency_seconds"].as_f64();
        anyhow::ensure!(latency.is_none_or(|latency| latency > 1.0), "{lag}");
        anyhow::ensure!(!is_ready(server).await, "ready: {lag}");
        let pipeline = server.get(&format!("/pipelines/{name}")).await;
        let code = pipeline["error"]["code"].as_str().unwrap_or_default();
        let is_said = code.starts_with("TM") || matches!(loss, Loss::Silent);
        anyhow::ensure!(is_said, "{pipeline}");
        let metrics = server.get_text("/metrics").await;
        let labels = format!("{{pipeline=\"{name}\",tenant=\"default\"");
        let is_green = format!("tidemark_pipeline_health{labels},level=\"ok\"}} 1");
        anyhow::ensure!(!metrics.contains(&is_green), "{metrics}");
        let is_known = metrics.contains(&format!("tidemark_lag_bytes{labels}}}"));
        anyhow::ensure!(is_known == (side == Side::Target), "{metrics}");
        Ok(Some(()))
    });
    if let Err(err) = found.await {
        panic!("{side:?} {loss:?}: {err:?}\n{}", server.log());
    }
}

async fn a_loss_is_told(name: &str, side: Side) {
    let stage = Stage::new(name).await;
    Writers::set_up(&stage).await;
    let (lost, database) = match side {
        Side::Source => (stage.source_server, &stage.source_name),
        Side::Target => (stage.target_server, &stage.target_name),
    };
    let proxy = Proxy::start(lost.port()).await.unwrap();
    let mut wanted = definition(&stage);
    let section = if side == Side::Source {
        "source"
    } else {
        "target"
    };
    wanted[section]["url"] = json!(lost.url_through(proxy.address(), database));
    wanted["stream"] = json!({ "heartbeat_interval": "1 s" });
    let mut server = Server::start(&[]).await;
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(name, "streaming").await;
    let writers = Writers::start(&stage, 7);
    is_well(&server, name, PATIENCE).await;
    for loss in [Loss::Refuses, Loss::Silent] {
        match loss {
            Loss::Refuses => proxy.refuse(),
            Loss::Silent => proxy.partition(),
        }
        is_told(&server, name, side, loss).await;
        proxy.accept();
        proxy.heal();
        is_well(&server, name, PATIENCE).await;
    }
    writers.stop().await;
    stage.wait_until_identical().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

#[tokio::test]
async fn b6_a_source_that_is_lost_is_told_within_15_seconds_and_so_is_its_return() {
    a_loss_is_told("srv_true_source", Side::Source).await;
}

#[tokio::test]
async fn b6_a_target_that_is_lost_is_told_within_15_seconds_and_so_is_its_return() {
    a_loss_is_told("srv_true_target", Side::Target).await;
}

/// The databases of a stage, each on a server of its own, and a pipeline between them that streams.
async fn streams_between_own_servers(name: &str, server: &Server) -> Stage {
    let (source, target) = tokio::join!(own_server(&[]), own_server(&[]));
    let stage = Stage::on(source, target, name).await;
    fill(&stage).await;
    let mut wanted = definition(&stage);
    wanted["stream"] = json!({ "heartbeat_interval": "1 s" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(name, "streaming").await;
    is_well(server, name, PATIENCE).await;
    stage
}

/// Nobody writes to it, so that nothing but its own heartbeats tells a side that stands still from one
/// that has nothing to say.
async fn a_server_that_is_lost_is_told(name: &str, side: Side) {
    let mut server = Server::start(&[]).await;
    let mut stage = streams_between_own_servers(name, &server).await;
    let lost = match side {
        Side::Source => stage.source_server,
        Side::Target => stage.target_server,
    };
    for loss in [Loss::Refuses, Loss::Silent] {
        match loss {
            Loss::Refuses => lost.kill9().await.unwrap(),
            Loss::Silent => lost.freeze().unwrap(),
        }
        is_told(&server, name, side, loss).await;
        match loss {
            Loss::Refuses => lost.start().await.unwrap(),
            Loss::Silent => lost.thaw().unwrap(),
        }
        is_well(&server, name, PATIENCE).await;
    }

    // It does not run any more, and what was seen of it is no truth of now either.
    let stopped = server.act(name, "stop", &json!({})).await;
    assert_eq!(stopped["state"], "succeeded", "{stopped}");
    let route = format!("/monitoring/pipelines/{name}/lag");
    let is = |within, what: &'static str, health: &'static str| {
        let (server, route) = (&server, &route);
        async move {
            let seen = wait_for(within, what, || async {
                let lag = server.get(route).await;
                let is_known = lag["gap_bytes"].is_number() && lag["source_lsn"].is_string();
                anyhow::ensure!(lag["health"] == health, "{lag}");
                anyhow::ensure!(is_known == (health != "unknown"), "{lag}");
                let is_remembered = lag["last_known"]["source_lsn"].is_string();
                anyhow::ensure!(is_known || (lag["stale"] == true && is_remembered), "{lag}");
                // It is not to run, so nothing keeps the server from being ready.
                anyhow::ensure!(is_ready(server).await, "{lag}");
                Ok(Some(()))
            });
            seen.await
                .unwrap_or_else(|err| panic!("{err:?}\n{}", server.log()));
        }
    };
    is(PATIENCE, "it to be seen", "warning").await;
    lost.freeze().unwrap();
    is(TRUE_WITHIN, "the loss to be told", "unknown").await;
    lost.thaw().unwrap();
    is(PATIENCE, "it to be seen again", "warning").await;
    stage.connect_again().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_source_that_is_killed_or_frozen_is_told_within_15_seconds() {
    a_server_that_is_lost_is_told("srv_dead_source", Side::Source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_target_that_is_killed_or_frozen_is_told_within_15_seconds() {
    a_server_that_is_lost_is_told("srv_dead_target", Side::Target).await;
}

/// A load has no position that grows old, and looks as if it went on.
async fn a_source_that_freezes_in_a_load_is_told(name: &str, mode: &str) {
    let source = own_server(&[]).await;
    let target = tidemark_lab::server::PostgresServer::shared().await;
    let stage = Stage::on(source, target.unwrap(), name).await;
    let rows = "CREATE TABLE wide (id int PRIMARY KEY, v text);
        INSERT INTO wide SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 20000) i";
    stage.source_sql(rows).await;
    let wire = Proxy::start(source.port()).await.unwrap();
    wire.limit_rate(Some(256 << 10));
    let mut wanted = definition(&stage);
    wanted["pipeline"]["mode"] = json!(mode);
    wanted["source"]["url"] = json!(source.url_through(wire.address(), &stage.source_name));
    let mut server = Server::start(&[]).await;
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(name, "loading").await;
    let route = format!("/monitoring/pipelines/{name}/lag");
    let copies = format!("/monitoring/pipelines/{name}/progress");
    wait_for(PATIENCE, "rows to be copied", || async {
        let rows = server.get(&copies).await["rows_loaded"].as_u64();
        let lag = server.get(&route).await;
        Ok((rows > Some(0) && lag["health"] == "ok").then_some(()))
    })
    .await
    .unwrap();
    source.freeze().unwrap();
    let told = wait_for(TRUE_WITHIN, "the loss to be told", || async {
        let lag = server.get(&route).await;
        let is_good = ["ok", "notice"].contains(&lag["health"].as_str().unwrap());
        anyhow::ensure!(!is_good && lag["source_lsn"].is_null(), "{lag}");
        anyhow::ensure!(!is_ready(&server).await, "ready: {lag}");
        Ok(Some(()))
    });
    told.await
        .unwrap_or_else(|err| panic!("{err:?}\n{}", server.log()));
    wire.limit_rate(None);
    source.thaw().unwrap();
    if mode == "full_load_only" {
        server.wait_for_state(name, "completed").await;
    } else {
        is_well(&server, name, PATIENCE).await;
    }
    stage.wait_until_identical().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_source_that_freezes_in_a_load_is_told_within_15_seconds() {
    a_source_that_freezes_in_a_load_is_told("srv_dead_load", "full_load_and_cdc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_source_that_freezes_in_a_full_load_alone_is_told_within_15_seconds() {
    a_source_that_freezes_in_a_load_is_told("srv_dead_full", "full_load_only").await;
}

/// A server that begins knows nothing of a load that was done before; what it says of it was looked up.
#[tokio::test(flavor = "multi_thread")]
async fn b6_a_load_that_is_done_is_told_as_it_was_after_a_restart() {
    let name = "srv_done";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let more = "CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)";
    stage.source_sql(more).await;
    // One of the tables takes no rows.
    let refuses = "CREATE TABLE orders (id int PRIMARY KEY, note text CHECK (note = ''))";
    stage.target_sql(refuses).await;
    let mut wanted = definition(&stage);
    wanted["pipeline"]["mode"] = json!("full_load_only");
    wanted["alert"] = json!([{ "when": "table_quarantined" }]);
    let mut server = Server::start(&[]).await;
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(name, "completed").await;
    let route = format!("/pipelines/{name}");
    let before = server.get(&route).await;
    assert_eq!(before["health"], "error", "{before}");
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    server.restart().await;
    // At no moment it is well.
    let told = wait_for(TRUE_WITHIN, "it to be told as it was", || async {
        let now = server.get(&route).await;
        assert_eq!(now["state"], "completed", "{now}");
        assert!(
            ["unknown", "error"].contains(&now["health"].as_str().unwrap()),
            "{now}"
        );
        anyhow::ensure!(now["health"] == "error", "{now}");
        anyhow::ensure!(now["tables"] == before["tables"], "{now}");
        let rules = server.get("/alerts/rules").await;
        let is_its = |rule: &&Value| rule["pipeline_id"] == name;
        let rule = rules["rules"].as_array().unwrap().iter().find(is_its);
        anyhow::ensure!(rule.is_some_and(|rule| rule["known"] == true), "{rules}");
        Ok(Some(()))
    });
    if let Err(err) = told.await {
        panic!("{err:?}\n{}", server.log());
    }
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// A sample of the metrics.
async fn sample(server: &Server, name: &str) -> f64 {
    let metrics = server.get_text("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    // Nothing was counted yet.
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn b7_the_gap_is_that_of_sql_and_the_latency_that_of_a_row_that_travels() {
    let name = "srv_true_lag";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let mut wanted = definition(&stage);
    // A comparison would hold the stream.
    wanted["verify"] = json!({ "after_load": "off" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(name, "streaming").await;
    is_well(&server, name, PATIENCE).await;
    let labels = "{pipeline=\"srv_true_lag\",tenant=\"default\"} ";
    let (sum, count) = (
        format!("tidemark_commit_to_apply_seconds_sum{labels}"),
        format!("tidemark_commit_to_apply_seconds_count{labels}"),
    );
    let before = (sample(&server, &sum).await, sample(&server, &count).await);

    let held = Locked::table(&stage, "public.orders").await;
    let marker = "INSERT INTO orders VALUES (7777, 'marker')";
    stage.source.batch_execute(marker).await.unwrap();
    let committed = Instant::now();
    held.wait_for_waiter().await;
    let route = "/monitoring/pipelines/srv_true_lag/lag";
    // What is told was measured after this and before that, and is exact.
    let head = "SELECT pg_current_wal_flush_lsn()";
    let first = text(&stage.source, head).await.unwrap();
    let lag = wait_for(PATIENCE, "a later look at the source", || async {
        let lag = server.get(route).await;
        let sql = format!("SELECT {} >= '{first}'::pg_lsn", lsn(&lag["source_lsn"]));
        Ok((text(&stage.source, &sql).await? == "t").then_some(lag))
    });
    let lag = lag.await.unwrap();
    let last = text(&stage.source, head).await.unwrap();
    let (source, processed) = (lsn(&lag["source_lsn"]), lsn(&lag["processed_lsn"]));
    let is_so = format!("SELECT {source} <= '{last}'::pg_lsn");
    assert_eq!(text(&stage.source, &is_so).await.unwrap(), "t", "{lag}");
    let gap = format!("SELECT {source} - {processed}");
    let gap = text(&stage.source, &gap).await.unwrap();
    assert_eq!(lag["gap_bytes"].to_string(), gap, "{lag}");
    let position = "SELECT position FROM tidemark.checkpoint WHERE pipeline = 'srv_true_lag'";
    let position = text(&stage.target, position).await.unwrap();
    assert_eq!(lag["processed_lsn"], position.as_str(), "{lag}");

    // While it waits the latency is its age.
    wait_for(PATIENCE, "the row to have waited for long", || async {
        let least = committed.elapsed().as_secs_f64();
        let lag = server.get(route).await;
        let most = committed.elapsed().as_secs_f64();
        let latency = lag["latency_seconds"].as_f64().unwrap_or_default();
        if least < 4.0 {
            return Ok(None);
        }
        assert!(latency > least * 0.9 && latency < most * 1.1, "{lag}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    held.release().await;
    let seen = "SELECT count(*) FROM public.orders WHERE id = 7777";
    wait_for(PATIENCE, "the row", || async {
        Ok((text(&stage.target, seen).await? == "1").then_some(()))
    })
    .await
    .unwrap();
    let travelled = committed.elapsed().as_secs_f64();
    wait_for(PATIENCE, "the commit to be counted", || async {
        Ok((sample(&server, &count).await > before.1 + 0.5).then_some(()))
    })
    .await
    .unwrap();
    let told = sample(&server, &sum).await - before.0;
    assert!(
        (told / travelled - 1.0).abs() < 0.1,
        "{told} of {travelled}"
    );
    stage.wait_until_identical().await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// A position as SQL has it.
fn lsn(value: &Value) -> String {
    format!("'{}'::pg_lsn", value.as_str().unwrap_or("0/0"))
}
