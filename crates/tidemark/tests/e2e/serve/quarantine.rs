//! Rows and tables in quarantine: shown to who may see them, and dealt with from afar.

use serde_json::{Value, json};
use tidemark_lab::wait::wait_for;

use super::access::{guarded, token};
use super::{Server, definition};
use crate::asks::Locked;
use crate::stage::{PATIENCE, Stage};

const TABLES: &str = "CREATE TABLE moods (id int PRIMARY KEY, v text);
    CREATE TABLE strict (id int PRIMARY KEY, v text);
    CREATE TABLE marker (id serial PRIMARY KEY);
    INSERT INTO moods SELECT i, 'calm' FROM generate_series(1, 5) i;";
const STRICT: &str = "ALTER TABLE moods ADD CONSTRAINT no_odd CHECK (v <> 'odd');
    ALTER TABLE strict ADD CONSTRAINT no_odd CHECK (v <> 'odd');";
const MENDED: &str =
    "ALTER TABLE moods DROP CONSTRAINT no_odd; ALTER TABLE strict DROP CONSTRAINT no_odd;";

async fn start(server: &Server, stage: &Stage) {
    stage.source.batch_execute(TABLES).await.unwrap();
    let mut wanted = definition(stage);
    wanted["stream"] = json!({ "on_row_error": "quarantine_row" });
    wanted["verify"] = json!({ "after_load": "off" });
    wanted["table"] = json!([{ "source": "public.strict", "on_row_error": "stop_table" }]);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(&stage.name, "streaming").await;
}

/// The list, as soon as so many rows are in it.
async fn rows(server: &Server, name: &str, count: usize) -> Value {
    let route = format!("/pipelines/{name}/quarantine");
    let what = format!("{count} rows in quarantine");
    let found = wait_for(PATIENCE, &what, || async {
        let found = server.get(&route).await;
        anyhow::ensure!(found["rows_total"] == count, "{found}");
        Ok(Some(found))
    });
    found.await.unwrap()
}

async fn act(server: &Server, route: &str, body: &Value) -> Value {
    let answer = server.post(route, body).await;
    assert_eq!(answer.status, 202, "{route}: {}", answer.text());
    server.operation(&answer).await
}

#[tokio::test]
async fn rows_in_quarantine_are_shown_retried_and_dropped_by_who_may() {
    let stage = Stage::new("srv_kept").await;
    let mut server = guarded().await;
    let viewer = token(&server, "vic", "viewer", "default").await;
    start(&server, &stage).await;
    let base = "/pipelines/srv_kept";
    assert_eq!(rows(&server, "srv_kept", 0).await["rows"], json!([]));
    stage.target_sql(STRICT).await;
    let changes = "INSERT INTO moods VALUES (11, 'odd'), (12, 'odd');
        UPDATE moods SET id = 13 WHERE id = 11;
        INSERT INTO moods VALUES (14, 'calm');";
    stage.source_sql(changes).await;
    stage
        .wait_for_target("SELECT count(*) FROM moods WHERE id = 14", "1")
        .await;

    // Two rows, one of which has moved; counted by table and pipeline.
    let found = rows(&server, "srv_kept", 2).await;
    assert_eq!(found["changes_total"], 3);
    let first = &found["rows"][0];
    assert_eq!(
        (&first["keys"], &first["changes"]),
        (&json!([["11"], ["13"]]), &json!(2))
    );
    assert_eq!(first["cause"]["sqlstate"], "23514");
    let moved = first["number"].as_i64().unwrap();
    let other = found["rows"][1]["number"].as_i64().unwrap();
    let tables = server.get(&format!("{base}/tables?q=moods")).await;
    assert_eq!(tables["tables"][0]["quarantined"], 2, "{tables}");
    let overview = server.get("/monitoring/overview").await;
    assert_eq!(
        overview["pipelines"][0]["rows_quarantined"], 2,
        "{overview}"
    );
    let page = server.get(&format!("{base}/quarantine?limit=1")).await;
    assert_eq!(page["next_cursor"], moved);
    let page = server
        .get(&format!("{base}/quarantine?limit=1&cursor={moved}"))
        .await;
    assert_eq!(
        (&page["rows"][0]["number"], &page["next_cursor"]),
        (&json!(other), &Value::Null)
    );

    // However whoever asks writes the key.
    let traced = server
        .get(&format!("{base}/trace?table=public.moods&key=012"))
        .await;
    assert_eq!(traced["quarantine"][0]["number"], other, "{traced}");

    viewers_are_told_less(&mut server, moved, viewer).await;
    values_and_effects_are_shown(&server, moved).await;
    rows(&server, "srv_kept", 2).await;

    let retry = format!("{base}/quarantine/{moved}/actions/retry");
    // What is refused again stays; the event that everybody reads names no row.
    let refused = act(&server, &retry, &json!({})).await;
    assert_eq!(
        (&refused["state"], &refused["code"]),
        (&json!("failed"), &json!("TM4080")),
        "{refused}"
    );
    let said = wait_for(PATIENCE, "the event", || async {
        let events = server.get(&format!("{base}/events")).await;
        let events = events["events"].as_array().unwrap().clone();
        Ok(events.into_iter().find(|event| event["kind"] == "action"))
    });
    assert_eq!(
        said.await.unwrap()["text"],
        "retry: rows stay in quarantine"
    );
    rows(&server, "srv_kept", 2).await;

    // One is given up, the other comes in once the cause is mended.
    let dropped = act(
        &server,
        &format!("{base}/quarantine/{other}/actions/drop"),
        &json!({}),
    )
    .await;
    assert_eq!(dropped["state"], "succeeded", "{dropped}");
    let left = rows(&server, "srv_kept", 1).await;
    assert_eq!(left["rows"][0]["number"], moved);
    let gone = server
        .post(
            &format!("{base}/quarantine/{other}/actions/retry"),
            &json!({}),
        )
        .await;
    assert_eq!(gone.status, 404, "{}", gone.text());
    stage.target_sql(MENDED).await;
    let released = act(&server, &retry, &json!({})).await;
    assert_eq!(released["state"], "succeeded", "{released}");
    rows(&server, "srv_kept", 0).await;
    let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM moods WHERE id > 5";
    stage.wait_for_target(ids, "13 14").await;
    let compared = server.act("srv_kept", "verify", &json!({})).await;
    assert_eq!(compared["state"], "succeeded", "{compared}");
    let verifications = server.get(&format!("{base}/verifications")).await;
    assert_eq!(
        verifications["verifications"][0]["result"], "different",
        "the dropped row is missing"
    );
    server.terminate().await;
    stage.clear().await;
}

/// A viewer is told how many and why, not which; and does nothing.
async fn viewers_are_told_less(server: &mut Server, moved: i64, viewer: String) {
    let base = "/pipelines/srv_kept";
    let admin = server.token.replace(viewer);
    let found = server.get(&format!("{base}/quarantine")).await;
    let row = &found["rows"][0];
    assert_eq!(
        (&row["keys"], &row["cause"]["text"]),
        (&Value::Null, &Value::Null),
        "{row}"
    );
    assert_eq!(row["cause"]["code"], "TM2045");
    let shown = format!("{base}/quarantine/{moved}");
    assert_eq!(server.send(server.request("GET", &shown)).await.status, 403);
    let retry = format!("{shown}/actions/retry");
    assert_eq!(server.post(&retry, &json!({})).await.status, 403);
    server.token = admin;
}

/// Whoever looks at values is written down, and what an action would do is told without doing it.
async fn values_and_effects_are_shown(server: &Server, moved: i64) {
    let base = "/pipelines/srv_kept";
    let shown = format!("{base}/quarantine/{moved}");
    let row = server.get(&shown).await;
    assert_eq!(
        row["kept"][0]["row"],
        json!({ "id": "11", "v": "odd" }),
        "{row}"
    );
    assert_eq!(
        (&row["kept"][1]["op"], &row["kept"][1]["cause"]),
        (&json!("update"), &Value::Null)
    );
    let audit = server.get("/audit").await;
    let looked = json!(format!("/api/v1{shown}"));
    let entries = audit["entries"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry["object"] == looked && entry["action"] == "GET")
    );

    // The effect is told before, and telling it changes nothing.
    let told = server
        .post(
            &format!("{shown}/actions/drop"),
            &json!({ "dry_run": true }),
        )
        .await;
    let told = told.json().unwrap();
    assert_eq!(
        (&told["rows"], &told["changes"]),
        (&json!(1), &json!(2)),
        "{told}"
    );
    assert!(
        told["effect"][0]
            .as_str()
            .unwrap()
            .contains("differs from the source"),
        "{told}"
    );
}

#[tokio::test]
async fn a_table_that_was_set_aside_goes_on_without_its_bad_row() {
    let stage = Stage::new("srv_skip").await;
    let mut server = Server::start(&[]).await;
    start(&server, &stage).await;
    let base = "/pipelines/srv_skip";
    stage.target_sql(STRICT).await;
    stage
        .source_sql("INSERT INTO strict VALUES (1, 'odd')")
        .await;
    stage
        .source_sql("INSERT INTO strict VALUES (2, 'calm')")
        .await;
    // Both are kept in order: the one that stopped it, and the one behind it.
    let aside = wait_for(PATIENCE, "the table to be set aside", || async {
        let found = server.get(&format!("{base}/quarantine")).await;
        let table = found["tables"].as_array().unwrap().first().cloned();
        Ok(table.filter(|table| table["parked"] == 2))
    });
    assert_eq!(aside.await.unwrap()["source"], "public.strict");
    let nameless = server
        .post(&format!("{base}/actions/skip"), &json!({}))
        .await;
    assert_eq!(
        (nameless.status, &nameless.json().unwrap()["code"]),
        (400, &json!("TM8020"))
    );
    let of_table = format!("{base}/tables/public.strict/actions");
    let told = server
        .post(&format!("{of_table}/skip"), &json!({ "dry_run": true }))
        .await;
    let told = told.json().unwrap();
    assert!(
        told["effect"][0]
            .as_str()
            .unwrap()
            .starts_with("public.strict: goes on"),
        "{told}"
    );

    let skipped = act(&server, &format!("{of_table}/skip"), &json!({})).await;
    assert_eq!(skipped["state"], "succeeded", "{skipped}");
    stage
        .wait_for_target("SELECT string_agg(id::text, ' ') FROM strict", "2")
        .await;
    assert_eq!(
        rows(&server, "srv_skip", 1).await["rows"][0]["keys"],
        json!([["1"]])
    );

    // While it does not run what is there is read, and nothing is done about it.
    assert_eq!(
        server.act("srv_skip", "stop", &json!({})).await["state"],
        "succeeded"
    );
    rows(&server, "srv_skip", 1).await;
    for action in ["retry", "drop"] {
        let refused = server
            .post(&format!("{base}/actions/{action}"), &json!({}))
            .await;
        assert_eq!(refused.status, 409, "{action}: {}", refused.text());
    }
    stage.target_sql(MENDED).await;
    assert_eq!(
        server.act("srv_skip", "start", &json!({})).await["state"],
        "succeeded"
    );
    server.wait_for_state("srv_skip", "streaming").await;
    assert_eq!(
        server.act("srv_skip", "retry", &json!({})).await["state"],
        "succeeded"
    );
    stage.wait_until_identical().await;
    server.terminate().await;
    stage.clear().await;
}

/// What is said of it at one moment: as a pipeline, as a lag, and as metrics.
async fn said(server: &Server, name: &str) -> (Value, Value, String) {
    let pipeline = server.get(&format!("/pipelines/{name}")).await;
    let lag = server
        .get(&format!("/monitoring/pipelines/{name}/lag"))
        .await;
    (pipeline, lag, server.get_text("/metrics").await)
}

/// What is in quarantine is for this run to read: before it has, nobody says that all is well, or how many.
#[tokio::test]
async fn b6_a_run_that_begins_is_unknown_until_it_has_read_what_is_in_quarantine() {
    let name = "srv_unread";
    let stage = Stage::new(name).await;
    let mut server = Server::start(&[]).await;
    start(&server, &stage).await;
    let labels = format!("{{pipeline=\"{name}\",tenant=\"default\"");
    let rows = |count| format!("tidemark_quarantined_rows{labels}}} {count}\n");
    let health = |level| format!("tidemark_pipeline_health{labels},level=\"{level}\"}} 1\n");
    let metrics = server.get_text("/metrics").await;
    assert!(metrics.contains(&rows(0)), "{metrics}");
    stage.target_sql(STRICT).await;
    let odd = "INSERT INTO moods VALUES (11, 'odd'), (12, 'odd'), (13, 'calm')";
    stage.source_sql(odd).await;
    let stands = async |server: &Server| {
        let found = wait_for(PATIENCE, "both rows to be told", || async {
            let (pipeline, lag, metrics) = said(server, name).await;
            anyhow::ensure!(pipeline["health"] == "warning", "{pipeline}");
            anyhow::ensure!(pipeline["rows_quarantined"] == 2, "{pipeline}");
            anyhow::ensure!(pipeline["reason"].is_null(), "{pipeline}");
            anyhow::ensure!(lag["health"] == "warning", "{lag}");
            anyhow::ensure!(metrics.contains(&rows(2)), "{metrics}");
            anyhow::ensure!(metrics.contains(&health("warning")), "{metrics}");
            Ok(Some(()))
        });
        if let Err(err) = found.await {
            panic!("{err:?}\n{}", server.log());
        }
    };
    stands(&server).await;

    server.child.kill().await.unwrap();
    let unread = Locked::table(&stage, "tidemark.quarantine").await;
    server.restart().await;
    unread.wait_for_waiter().await;
    let source = wait_for(PATIENCE, "the source to be looked at", || async {
        let (_, lag, _) = said(&server, name).await;
        Ok(lag["source_lsn"].is_string().then_some(()))
    });
    source.await.unwrap();
    let (pipeline, lag, metrics) = said(&server, name).await;
    let why = "what the target has was not read yet";
    assert_eq!(
        (&pipeline["health"], &pipeline["reason"]),
        (&json!("unknown"), &json!(why)),
        "{pipeline}"
    );
    assert_eq!(lag["health"], "unknown", "{lag}");
    assert_eq!(pipeline["rows_quarantined"], Value::Null, "{pipeline}");
    assert!(metrics.contains(&health("unknown")), "{metrics}");
    for not_known in ["tidemark_quarantined_rows{", "tidemark_quarantined_tables{"] {
        assert!(!metrics.contains(not_known), "{metrics}");
    }
    unread.release().await;
    stands(&server).await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}
