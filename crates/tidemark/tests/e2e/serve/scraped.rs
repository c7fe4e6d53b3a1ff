//! Dashboards and rules against a real Prometheus that scrapes a real server: every query finds
//! something, or stands here with the reason why it may not.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_lab::http::Request;
use tidemark_lab::skip::skipped;
use tidemark_lab::wait::wait_for;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

/// Queries that find nothing where nothing is wrong: a piece of each, and what they look for.
const MAY_BE_EMPTY: [(&str, &str); 6] = [
    ("unless on (pipeline, tenant)", "a lag that is not known"),
    ("\"unreserved|lost\"", "a slot whose log is going"),
    (
        "tidemark_slot_active{tenant=~\".*\"} == 0",
        "a slot without a reader",
    ),
    ("tidemark_slot_safe_bytes", "a limit of what slots may keep"),
    (
        "tidemark_slot_predicted_loss_seconds",
        "such a limit, and a pipeline behind",
    ),
    ("absent(tidemark_build_info)", "a server that is gone"),
];

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging")
}

/// What a panel or a variable asks, with Grafana's own words replaced as Grafana does.
fn queries_of_dashboards() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for name in ["fleet", "pipeline"] {
        let file = packaging().join(format!("grafana/{name}.json"));
        let text = std::fs::read_to_string(file).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = format!("{name}: {}", panel["title"].as_str().unwrap());
            let targets = panel["targets"].as_array();
            assert!(
                panel["type"] == "row" || targets.is_some(),
                "{title} asks nothing"
            );
            for target in targets.into_iter().flatten() {
                let source = &target["datasource"]["uid"];
                assert_eq!(source, "${datasource}", "{title}");
                queries.push((title.clone(), replaced(&target["expr"])));
            }
        }
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        for variable in variables.iter().filter(|one| one["type"] == "query") {
            // label_values(SELECTOR, LABEL)
            let asked = replaced(&variable["definition"]);
            let selector = asked.strip_prefix("label_values(").unwrap();
            let selector = selector.rsplit_once(',').unwrap().0.to_owned();
            queries.push((format!("{name}: ${}", variable["name"]), selector));
        }
    }
    assert!(
        queries.len() > 50,
        "only {} queries were found",
        queries.len()
    );
    queries
}

fn replaced(expression: &Value) -> String {
    let text = expression.as_str().unwrap();
    let text = text.replace("$__rate_interval", "20s");
    let text = text.replace("$tenant", ".*").replace("$pipeline", ".*");
    assert!(!text.contains('$'), "{text}");
    text
}

/// A Prometheus that looks every second.
struct Prometheus {
    address: String,
    _home: TempDir,
    _child: Child,
}

impl Prometheus {
    async fn start(scraped: &str) -> Prometheus {
        let home = tempfile::tempdir().unwrap();
        let rules = packaging().join("prometheus/alerts.yml");
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{ "job_name": "tidemark", "static_configs": [{ "targets": [scraped] }] }],
        });
        // JSON is YAML.
        std::fs::write(home.path().join("prometheus.yml"), config.to_string()).unwrap();
        let log = home.path().join("log");
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .args([
                "--storage.tsdb.path=data",
                "--web.listen-address=127.0.0.1:0",
            ])
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let address = wait_for(PATIENCE, "Prometheus to listen", || async {
            let text = std::fs::read_to_string(&log)?;
            let line = text.lines().find(|line| line.contains("\"Listening on\""));
            let ready = text.contains("ready to receive web requests");
            Ok(line
                .filter(|_| ready)
                .and_then(|line| line.split("address=").nth(1))
                .map(|address| address.trim().to_owned()))
        });
        Prometheus {
            address: address.await.unwrap(),
            _home: home,
            _child: child,
        }
    }

    /// The values of a query's samples.
    async fn ask(&self, query: &str) -> anyhow::Result<Vec<f64>> {
        let encoded: Vec<String> = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let encoded = encoded.concat();
        let kind = "application/x-www-form-urlencoded";
        let request = Request::new("POST", "/api/v1/query");
        let answer = request.body(kind, format!("query={encoded}"));
        let answer = answer.send(&self.address).await?.json()?;
        anyhow::ensure!(answer["status"] == "success", "{query}: {answer}");
        let samples = answer["data"]["result"].as_array();
        let samples = samples.ok_or_else(|| anyhow::anyhow!("{query}: {answer}"))?;
        let values = samples
            .iter()
            .filter_map(|sample| sample["value"][1].as_str());
        Ok(values.map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Rules by name.
    async fn rules(&self) -> anyhow::Result<Vec<Value>> {
        let request = Request::new("GET", "/api/v1/rules");
        let answer = request.send(&self.address).await?.json()?;
        let rules = answer["data"]["groups"][0]["rules"].as_array();
        Ok(rules.ok_or_else(|| anyhow::anyhow!("{answer}"))?.clone())
    }
}

/// Prometheus' own critic of a page of metrics; gives what it says.
async fn criticised(page: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(page.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    if output.status.success() || !said.is_empty() {
        said
    } else {
        format!("{:?}", output.status)
    }
}

/// A server with a pipeline that has loaded, streams and was compared, of which one table is in
/// quarantine, and one that has failed.
async fn everything_happens(stage: &Stage, server: &Server) {
    fill(stage).await;
    let sql = "CREATE TABLE refused (id int PRIMARY KEY); INSERT INTO refused VALUES (1)";
    stage.source.batch_execute(sql).await.unwrap();
    std::fs::write(server.pipelines().join("srv_broken.toml"), "version = 1\n").unwrap();
    let mut wanted = definition(stage);
    wanted["alert"] = json!([{ "when": "table_quarantined" }]);
    wanted["schedule"] = json!({ "full_load": "0 0 29 2 *" });
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(&stage.name, "streaming").await;
    let verified = server.act(&stage.name, "verify", &json!({})).await;
    assert_eq!(verified["state"], "succeeded", "{verified}");
    let small = "ALTER TABLE public.refused ADD CONSTRAINT small CHECK (id < 10)";
    stage.target.batch_execute(small).await.unwrap();
    let poison = "INSERT INTO refused VALUES (99)";
    stage.source.batch_execute(poison).await.unwrap();
    server.wait_for_state("srv_broken", "failed").await;
}

#[tokio::test]
async fn every_query_of_dashboards_and_rules_finds_what_it_asks_for() {
    let test = "serve::scraped::every_query_of_dashboards_and_rules_finds_what_it_asks_for";
    let asked = Command::new("promtool").arg("--version").output().await;
    if asked.is_err() {
        skipped(test, "prometheus is not installed");
        return;
    }
    let stage = Stage::new("srv_scraped").await;
    let mut server = Server::start(&[]).await;
    let prometheus = Prometheus::start(&server.address).await;
    everything_happens(&stage, &server).await;

    let mut queries = queries_of_dashboards();
    let rules = prometheus.rules().await.unwrap();
    assert!(rules.len() >= 8, "{rules:?}");
    for rule in &rules {
        let name = rule["name"].as_str().unwrap();
        // What is compared is there, whether the comparison holds or not.
        for name_of_metric in metrics_in(rule["query"].as_str().unwrap()) {
            queries.push((format!("rule {name}"), name_of_metric));
        }
    }
    let may_be_empty = |query: &str| MAY_BE_EMPTY.iter().any(|(piece, _)| query.contains(piece));
    let row = std::cell::Cell::new(10_000);
    let found = wait_for(PATIENCE, "every query to find something", || async {
        // Rates are of what goes on.
        row.set(row.get() + 1);
        let write = format!("INSERT INTO orders VALUES ({}, 'later')", row.get());
        stage.source.batch_execute(&write).await?;
        server.get("/pipelines").await;
        let mut missing = Vec::new();
        for (whose, query) in &queries {
            let values = prometheus.ask(query).await?;
            let is_known = values.iter().any(|value| value.is_finite());
            if !is_known && !may_be_empty(query) {
                missing.push(format!("{whose}: {query}: {values:?}"));
            }
        }
        anyhow::ensure!(missing.is_empty(), "nothing found:\n{}", missing.join("\n"));
        Ok(Some(()))
    });
    found.await.unwrap();
    for (piece, what) in MAY_BE_EMPTY {
        let is_asked = queries.iter().any(|(_, query)| query.contains(piece))
            || rules
                .iter()
                .any(|rule| rule["query"].as_str().unwrap().contains(piece));
        assert!(is_asked, "nothing asks for {what} any more: {piece}");
    }

    // The rules are evaluated, and find what is wrong and nothing else.
    let told = wait_for(PATIENCE, "the rules to be evaluated", || async {
        let rules = prometheus.rules().await?;
        for rule in &rules {
            anyhow::ensure!(rule["health"] == "ok", "{rule}");
        }
        let holds = |rule: &&Value| !rule["alerts"].as_array().unwrap().is_empty();
        let holding: Vec<_> = rules.iter().filter(holds).cloned().collect();
        Ok((holding.len() >= 2).then_some(holding))
    });
    let told = told.await.unwrap();
    let names: Vec<_> = told
        .iter()
        .map(|rule| rule["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["TidemarkPipelineFailed", "TidemarkTableQuarantined"]
    );
    assert_eq!(told[0]["alerts"][0]["labels"]["pipeline"], "srv_broken");
    assert_eq!(told[1]["alerts"][0]["labels"]["pipeline"], "srv_scraped");

    let page = server.send(Request::new("GET", "/metrics")).await.text();
    assert_eq!(criticised(&page).await, "", "{page}");
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// The metrics that an expression reads.
fn metrics_in(expression: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_name(c));
    words
        .filter(|word| word.starts_with("tidemark_"))
        .map(str::to_owned)
        .collect()
}
