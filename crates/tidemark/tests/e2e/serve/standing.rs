//! How a pipeline stands outlives whatever happens to the server, its store and both sides: one that a
//! person paused, one with a table set aside, one whose load is due at that moment.

use std::time::Duration;

use serde_json::{Value, json};
use tidemark_lab::Proxy;
use tidemark_lab::http::Request;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::shared::{KEY, served};
use super::{Server, definition, fill};
use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

/// How long what is not true any more may be said.
const TRUE_WITHIN: Duration = Duration::from_secs(15);

/// Two pipelines that a person has to do with, reached by wires that can be cut.
struct Two {
    /// A person paused it, and its source was written to since.
    paused: Stage,
    /// One of its tables is in quarantine.
    aside: Stage,
    source: Proxy,
    target: Proxy,
    store: Proxy,
    store_url: String,
}

impl Two {
    async fn start(name: &str) -> (Two, Server) {
        let database = PostgresServer::shared().await.unwrap();
        let wire = async || Proxy::start(database.port()).await.unwrap();
        let store = database.fresh_database("store").await.unwrap();
        let two = Two {
            paused: Stage::new(&format!("{name}_paused")).await,
            aside: Stage::new(&format!("{name}_aside")).await,
            source: wire().await,
            target: wire().await,
            store: wire().await,
            store_url: database.url_to(&store),
        };
        let url = database.url_through(two.store.address(), &store);
        let server = served(&url).await;
        for stage in [&two.paused, &two.aside] {
            fill(stage).await;
            let odd = "CREATE TABLE strict (id int PRIMARY KEY, v text)";
            stage.source.batch_execute(odd).await.unwrap();
            let wanted = two.definition(stage);
            let answer = server.post("/pipelines?start=true", &wanted).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            server.wait_for_state(&stage.name, "streaming").await;
        }
        let refuses = "ALTER TABLE strict ADD CONSTRAINT no_odd CHECK (v <> 'odd')";
        two.aside.target_sql(refuses).await;
        let refused = "INSERT INTO strict VALUES (1, 'odd'), (2, 'calm')";
        two.aside.source_sql(refused).await;
        let route = format!("/pipelines/{}", two.aside.name);
        wait_for(PATIENCE, "the table to be set aside", || async {
            let aside = server.get(&route).await;
            anyhow::ensure!(aside["health"] == "error", "{aside}");
            Ok(Some(()))
        })
        .await
        .unwrap();
        let done = server.act(&two.paused.name, "pause", &json!({})).await;
        assert_eq!(done["state"], "succeeded", "{done}");
        let sql = "INSERT INTO orders VALUES (5000, 'while it is paused')";
        two.paused.source_sql(sql).await;
        two.stands(&server, PATIENCE).await;
        (two, server)
    }

    fn definition(&self, stage: &Stage) -> Value {
        let mut wanted = definition(stage);
        let (source, target) = (self.source.address(), self.target.address());
        let (from, to) = (&stage.source_name, &stage.target_name);
        wanted["source"]["url"] = json!(stage.source_server.url_through(source, from));
        wanted["target"]["url"] = json!(stage.target_server.url_through(target, to));
        wanted["stream"] = json!({ "on_row_error": "stop_table" });
        wanted
    }

    /// Asks everything that says how they stand, until it is as expected; what no answer may say even for
    /// a moment is looked for in each.
    async fn until(
        &self,
        server: &Server,
        within: Duration,
        what: &str,
        is_so: impl Fn(&Said) -> anyhow::Result<()>,
    ) {
        let found = wait_for(within, what, || async {
            let said = self.said(server).await?;
            let state = said.paused["state"].as_str().unwrap_or_default();
            assert!(["paused", "starting"].contains(&state), "{}", said.paused);
            let health = said.aside["health"].as_str().unwrap_or_default();
            assert!(!["ok", "notice"].contains(&health), "{}", said.aside);
            if said.aside["tables"] == json!([]) {
                // Nothing is known yet: what waits on the source may be of hours ago.
                assert_eq!(said.aside["latency_seconds"], Value::Null, "{}", said.aside);
            }
            let none = metric("quarantined_tables", &self.aside, "} 0\n");
            assert!(!said.metrics.contains(&none), "{none}\n{}", server.log());
            is_so(&said)?;
            Ok(Some(()))
        });
        if let Err(err) = found.await {
            panic!("{err:?}\n{}", server.log());
        }
        let late = "SELECT count(*)::text FROM orders WHERE id = 5000";
        let late = text(&self.paused.target, late).await.unwrap();
        assert_eq!(late, "0", "it is paused");
    }

    async fn said(&self, server: &Server) -> anyhow::Result<Said> {
        let ask = async |route: String| {
            let answer = server.send(server.request("GET", &route)).await;
            anyhow::ensure!(answer.status == 200, "{route}: {}", answer.text());
            answer.json()
        };
        Ok(Said {
            paused: ask(format!("/pipelines/{}", self.paused.name)).await?,
            aside: ask(format!("/pipelines/{}", self.aside.name)).await?,
            status: ask(format!("/pipelines/{}/status", self.aside.name)).await?,
            metrics: server.get_text("/metrics").await,
        })
    }

    /// All is as the two were left.
    async fn stands(&self, server: &Server, within: Duration) {
        let what = "both to stand as they were left";
        self.until(server, within, what, |said| {
            self.is_paused(said)?;
            let aside = &said.aside;
            let is_right = aside["state"] == "streaming" && aside["health"] == "error";
            anyhow::ensure!(is_right, "{aside}");
            let kept = said.status["tables"].as_array().into_iter().flatten();
            let mut kept = kept.filter(|table| table["state"] == "quarantined");
            let table = kept.next().cloned().unwrap_or_default();
            anyhow::ensure!(table["source"] == "public.strict", "{}", said.status);
            anyhow::ensure!(
                table["reason"]
                    .as_str()
                    .is_some_and(|why| why.starts_with("TM"))
            );
            let one = metric("quarantined_tables", &self.aside, "} 1\n");
            anyhow::ensure!(said.metrics.contains(&one), "{}", said.metrics);
            Ok(())
        })
        .await;
    }

    fn is_paused(&self, said: &Said) -> anyhow::Result<()> {
        let paused = &said.paused;
        let is_right = paused["state"] == "paused" && paused["by"] == "local";
        anyhow::ensure!(is_right && paused["desired_state"] == "paused", "{paused}");
        anyhow::ensure!(paused["health"] != "ok", "{paused}");
        let metric = metric("pipeline_state", &self.paused, ",state=\"paused\"} 1\n");
        anyhow::ensure!(said.metrics.contains(&metric), "{}", said.metrics);
        Ok(())
    }

    /// A side is away: the one that runs says so, and nothing of it that is not known.
    async fn is_without(&self, server: &Server) {
        let what = "the loss to be told";
        self.until(server, TRUE_WITHIN, what, |said| {
            self.is_paused(said)?;
            let code = said.aside["error"]["code"].as_str().unwrap_or_default();
            anyhow::ensure!(code.starts_with("TM"), "{}", said.aside);
            let is_good = ["ok", "notice"].contains(&said.aside["health"].as_str().unwrap());
            anyhow::ensure!(!is_good, "{}", said.aside);
            Ok(())
        })
        .await;
    }

    /// Everything that happened to a pipeline, oldest first.
    async fn events(&self, server: &Server, of: &Stage) -> Vec<String> {
        let route = format!("/pipelines/{}/events?limit=500", of.name);
        let body = server.get(&route).await;
        let events = body["events"].as_array().unwrap().iter().rev();
        let told = |event: &Value| event["text"].as_str().unwrap().to_owned();
        events.map(told).collect()
    }

    /// The paused one goes on where it stood, and nothing of what was written is missing.
    async fn end(self, mut server: Server) {
        let events = self.events(&server, &self.aside).await;
        let told = events
            .iter()
            .filter(|text| text.starts_with("table quarantined"));
        assert_eq!(told.count(), 1, "{events:#?}");
        let done = server.act(&self.paused.name, "resume", &json!({})).await;
        assert_eq!(done["state"], "succeeded", "{done}");
        self.paused.wait_until_identical().await;
        assert_eq!(server.terminate().await, Some(0), "{}", server.log());
        self.paused.clear().await;
        self.aside.clear().await;
    }
}

/// A line of the metrics.
fn metric(name: &str, of: &Stage, rest: &str) -> String {
    format!(
        "tidemark_{name}{{pipeline=\"{}\",tenant=\"default\"{rest}",
        of.name
    )
}

/// What is said at one moment.
struct Said {
    paused: Value,
    aside: Value,
    status: Value,
    metrics: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_what_stands_is_said_by_a_server_that_was_killed_and_by_the_one_that_takes_over() {
    let (two, mut server) = Two::start("srv_stand").await;
    server.child.kill().await.unwrap();
    server.restart().await;
    two.stands(&server, TRUE_WITHIN).await;
    let second =
        Server::start_with(&["--store", &two.store_url], &[("TIDEMARK_STORE_KEY", KEY)]).await;
    server.child.kill().await.unwrap();
    two.stands(&second, TRUE_WITHIN).await;
    two.end(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_what_stands_is_said_while_a_side_is_away_and_by_a_server_that_finds_none() {
    let (two, mut server) = Two::start("srv_stand_side").await;
    for side in [&two.target, &two.source] {
        side.refuse();
        two.is_without(&server).await;
        // Whoever begins then knows of nothing that was before.
        server.child.kill().await.unwrap();
        server.restart().await;
        two.is_without(&server).await;
        side.accept();
        two.stands(&server, PATIENCE).await;
    }
    two.end(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_what_stands_is_said_while_the_store_is_away() {
    let (two, server) = Two::start("srv_stand_store").await;
    two.store.refuse();
    let resume = format!("/pipelines/{}/actions/resume", two.paused.name);
    let refused = wait_for(PATIENCE, "the store to be away", || async {
        let ready = server.send(Request::new("GET", "/readyz")).await.status;
        Ok((ready == 503).then_some(()))
    });
    refused.await.unwrap();
    let answer = server.post(&resume, &json!({})).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    two.stands(&server, TRUE_WITHIN).await;
    two.store.accept();
    wait_for(PATIENCE, "the store to be back", || async {
        let ready = server.send(Request::new("GET", "/readyz")).await.status;
        Ok((ready == 200).then_some(()))
    })
    .await
    .unwrap();
    two.stands(&server, TRUE_WITHIN).await;
    two.end(server).await;
}
