//! Loads that begin by themselves, beside real databases: due every few seconds, watched by readers,
//! over restarts and kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::shared::served;
use super::{Server, definition, fill};
use crate::stage::{PATIENCE, Stage};

fn scheduled(stage: &Stage, mode: &str, schedule: Value) -> Value {
    let mut wanted = definition(stage);
    wanted["pipeline"]["mode"] = json!(mode);
    wanted["schedule"] = schedule;
    wanted
}

/// Waits until so many runs of this state were there; gives all, newest first.
async fn wait_for_runs(server: &Server, pipeline: &str, state: &str, count: usize) -> Vec<Value> {
    let route = format!("/pipelines/{pipeline}/schedule/runs?limit=500");
    let what = format!("{count} {state} runs of {pipeline}");
    let found = wait_for(PATIENCE, &what, || async {
        let body = server.get(&route).await;
        let runs = body["runs"].as_array().unwrap().clone();
        let there = runs.iter().filter(|run| run["state"] == state).count();
        anyhow::ensure!(there >= count, "{body}");
        Ok(Some(runs))
    });
    match found.await {
        Ok(found) => found,
        Err(err) => panic!("{err:?}\n{}", server.log()),
    }
}

/// Waits until what fires reads so; it is empty where nothing does.
async fn wait_for_alert(server: &Server, what: &str, is_it: impl Fn(&str) -> bool) {
    let found = wait_for(PATIENCE, what, || async {
        let list = server.get("/alerts/active").await;
        let first = list["alerts"][0]["text"].as_str().unwrap_or_default();
        anyhow::ensure!(is_it(first), "{list}");
        Ok(Some(()))
    });
    if let Err(err) = found.await {
        panic!("{err:?}\n{}", server.log());
    }
}

/// No two runs have one time, and none began before the one before it had ended.
fn assert_one_after_another(runs: &[Value]) {
    let text = |run: &Value, name: &str| run[name].as_str().map(str::to_owned);
    let mut began: Vec<(String, Option<String>)> = runs
        .iter()
        .filter_map(|run| Some((text(run, "began_at")?, text(run, "ended_at"))))
        .collect();
    began.sort();
    for pair in began.windows(2) {
        let ended = pair[0]
            .1
            .as_ref()
            .expect("it has ended before the next began");
        assert!(*ended <= pair[1].0, "{pair:?}");
    }
    let mut due: Vec<&str> = runs
        .iter()
        .map(|run| run["due_at"].as_str().unwrap())
        .collect();
    let count = due.len();
    due.sort_unstable();
    due.dedup();
    assert_eq!(due.len(), count, "a time is claimed once");
}

/// Counts the target's rows until it is told to end; gives the fewest, and how often it looked.
async fn read_until(stage: Arc<Stage>, is_over: Arc<AtomicBool>) -> (i64, u32) {
    let (mut fewest, mut looks) = (i64::MAX, 0);
    while !is_over.load(Ordering::Relaxed) {
        let row = stage
            .target
            .query_one("SELECT count(*) FROM public.orders", &[]);
        let count: i64 = row.await.expect("the table is always there").get(0);
        fewest = fewest.min(count);
        looks += 1;
    }
    (fewest, looks)
}

#[tokio::test]
async fn a_pipeline_has_nothing_of_the_schedule_of_one_that_had_its_name() {
    let stage = Stage::new("srv_sched_name").await;
    let server = Server::start(&[]).await;
    for every in ["daily", "hourly"] {
        let wanted = scheduled(&stage, "full_load_only", json!({ "full_load": every }));
        let answer = server.post("/pipelines", &wanted).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let told = server.get("/pipelines/srv_sched_name/schedule").await;
        assert_eq!(told["full_load"], every, "{told}");
        let delete = server.request("DELETE", "/pipelines/srv_sched_name");
        let deleted = server.send(delete.header("if-match", "*")).await;
        assert_eq!(server.operation(&deleted).await["state"], "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_that_is_due_swaps_and_readers_never_see_fewer_rows() {
    let stage = Arc::new(Stage::new("srv_sched_load").await);
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let schedule = json!({ "full_load": "every 2s", "overlap": "queue" });
    let mut wanted = scheduled(&stage, "full_load_only", schedule);
    wanted["alert"] = json!([{ "when": "schedule_missed", "resolve_after": "1s" }]);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    wait_for_runs(&server, "srv_sched_load", "completed", 1).await;

    let is_over = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read_until(Arc::clone(&stage), Arc::clone(&is_over)));
    let more = "INSERT INTO orders SELECT i, 'more ' || i FROM generate_series(1001, 1500) i";
    stage.source.batch_execute(more).await.unwrap();
    let runs = wait_for_runs(&server, "srv_sched_load", "completed", 1).await;
    let before = runs
        .iter()
        .filter(|run| run["state"] == "completed")
        .count();
    // The second from here on has begun behind the change.
    wait_for_runs(&server, "srv_sched_load", "completed", before + 2).await;
    server.act("srv_sched_load", "stop", &json!({})).await;
    is_over.store(true, Ordering::Relaxed);
    let (fewest, looks) = reader.await.unwrap();
    assert!(
        fewest >= 1000 && looks > 10,
        "{fewest} rows in {looks} looks"
    );
    stage.assert_identical().await;

    // Stopped by a person it begins no more, and says so.
    let reason = "it is stopped by local";
    let left_out = wait_for(PATIENCE, "a time that is left out", || async {
        let body = server.get("/pipelines/srv_sched_load/schedule").await;
        // On a machine that is busy one may be left out before, because another waits already.
        anyhow::ensure!(body["missed_run"]["reason"] == reason, "{body}");
        Ok(Some(body))
    });
    let body = left_out.await.unwrap();
    assert_eq!(body["next"].as_array().unwrap().len(), 5, "{body}");
    let runs = wait_for_runs(&server, "srv_sched_load", "skipped", 1).await;
    assert_one_after_another(&runs);
    let metrics = server.get_text("/metrics").await;
    for sample in [
        "tidemark_schedule_next_run_timestamp_seconds{pipeline=\"srv_sched_load\",tenant=\"default\"} ",
        "tidemark_schedule_runs_total{pipeline=\"srv_sched_load\",tenant=\"default\",result=\"completed\"} ",
        "tidemark_schedule_missed{pipeline=\"srv_sched_load\",tenant=\"default\"} 1\n",
    ] {
        assert!(metrics.contains(sample), "{sample}\n{metrics}");
    }
    let is_told = |text: &str| text.contains("did not begin") && text.contains(reason);
    wait_for_alert(&server, "the alert of it", is_told).await;
    server.act("srv_sched_load", "start", &json!({})).await;
    wait_for_alert(&server, "the end of it", str::is_empty).await;
    assert_eq!(server.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f60_a_server_that_is_killed_in_a_scheduled_load_goes_on_with_it_and_begins_no_other() {
    let stage = Stage::new("srv_sched_kill").await;
    fill(&stage).await;
    // A load that takes its time: each row waits on the source.
    let slow = "CREATE TABLE held (id int PRIMARY KEY); INSERT INTO held VALUES (1)";
    stage.source.batch_execute(slow).await.unwrap();
    let mut server = Server::start(&[]).await;
    let schedule = json!({ "full_load": "0 0 1 1 *", "overlap": "queue" });
    let wanted = scheduled(&stage, "full_load_only", schedule);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_sched_kill", "completed").await;

    // Nobody can read this table: the load waits.
    let lock = "BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE";
    stage.source.batch_execute(lock).await.unwrap();
    let asked = server
        .post("/pipelines/srv_sched_kill/schedule/actions/run", &json!({}))
        .await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let runs = wait_for_runs(&server, "srv_sched_kill", "running", 1).await;
    assert_eq!(runs.len(), 1);
    let again = server
        .post("/pipelines/srv_sched_kill/schedule/actions/run", &json!({}))
        .await;
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(again.text().contains("goes on"), "{}", again.text());
    server.child.kill().await.unwrap();
    server.restart().await;
    let runs = wait_for_runs(&server, "srv_sched_kill", "running", 1).await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    stage.source.batch_execute("COMMIT").await.unwrap();
    let runs = wait_for_runs(&server, "srv_sched_kill", "completed", 1).await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0]["by"], "local", "{runs:?}");
    stage.assert_identical().await;
    assert_eq!(server.terminate().await, Some(0));
    stage.clear().await;
}

/// What is due meanwhile is claimed in the store, whoever has it.
#[tokio::test(flavor = "multi_thread")]
async fn f60_loads_go_on_one_after_another_while_servers_take_over_from_each_other() {
    let name = "srv_sched_heirs";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let database = PostgresServer::shared().await.unwrap();
    let store = database.fresh_database("store").await.unwrap();
    let url = database.url_to(&store);
    let mut leads = served(&url).await;
    let schedule = json!({ "full_load": "every 2s", "overlap": "queue" });
    let wanted = scheduled(&stage, "full_load_only", schedule);
    let answer = leads.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let mut done = 1;
    wait_for_runs(&leads, name, "completed", done).await;
    for _ in 0..3 {
        let heir = served(&url).await;
        leads.child.kill().await.unwrap();
        leads = heir;
        leads.wait_to_lead().await;
        let runs = wait_for_runs(&leads, name, "completed", done + 1).await;
        let is_done = |run: &&Value| run["state"] == "completed";
        done = runs.iter().filter(is_done).count();
    }
    leads.act(name, "stop", &json!({})).await;
    let runs = wait_for_runs(&leads, name, "completed", done).await;
    assert_one_after_another(&runs);
    let route = format!("/pipelines/{name}/events?limit=500");
    let body = leads.get(&route).await;
    let events = body["events"].as_array().unwrap();
    for run in runs.iter().filter(|run| run["state"] == "completed") {
        let (day, time) = run["due_at"].as_str().unwrap().split_once('T').unwrap();
        let due = format!("{day} {}", time.get(..5).unwrap());
        let due = match time.get(5..8).unwrap() {
            ":00" => format!("{due} UTC"),
            seconds => format!("{due}{seconds} UTC"),
        };
        for what in ["begins", "is in"] {
            let is_it = |text: &str| text.contains(&due) && text.contains(what);
            let told = events
                .iter()
                .filter(|event| is_it(event["text"].as_str().unwrap()));
            assert_eq!(told.count(), 1, "{due} {what}: {body}");
        }
    }
    stage.assert_identical().await;
    assert_eq!(leads.terminate().await, Some(0), "{}", leads.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_streams_copies_its_tables_anew_and_goes_on_streaming() {
    let stage = Arc::new(Stage::new("srv_sched_cdc").await);
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let schedule = json!({ "full_load": "every 2s", "overlap": "skip" });
    let wanted = scheduled(&stage, "full_load_and_cdc", schedule);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_sched_cdc", "streaming").await;
    // A row that only the target has goes with the next load.
    let own = "INSERT INTO public.orders VALUES (-1, 'of the target')";
    stage.target.batch_execute(own).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read_until(Arc::clone(&stage), Arc::clone(&is_over)));
    let runs = wait_for_runs(&server, "srv_sched_cdc", "completed", 1).await;
    let before = runs
        .iter()
        .filter(|run| run["state"] == "completed")
        .count();
    wait_for_runs(&server, "srv_sched_cdc", "completed", before + 2).await;
    let change = "UPDATE orders SET note = 'changed' WHERE id = 5";
    stage.source.batch_execute(change).await.unwrap();
    stage.wait_until_identical().await;
    is_over.store(true, Ordering::Relaxed);
    let (fewest, looks) = reader.await.unwrap();
    assert!(
        fewest >= 1000 && looks > 10,
        "{fewest} rows in {looks} looks"
    );

    // Paused by a person nothing begins, until it is resumed.
    let paused = server
        .post(
            "/pipelines/srv_sched_cdc/schedule/actions/pause",
            &json!({}),
        )
        .await;
    assert_eq!(paused.json().unwrap()["paused"]["by"], "local");
    wait_for(PATIENCE, "nothing to go on", || async {
        let body = server.get("/pipelines/srv_sched_cdc/schedule").await;
        Ok((body["open"] == json!([])).then_some(()))
    })
    .await
    .unwrap();
    let runs = wait_for_runs(&server, "srv_sched_cdc", "completed", before + 2).await;
    assert_one_after_another(&runs);
    let skipped = server
        .post(
            "/pipelines/srv_sched_cdc/schedule/actions/resume",
            &json!({}),
        )
        .await;
    assert!(skipped.json().unwrap()["paused"].is_null());
    let done = runs
        .iter()
        .filter(|run| run["state"] == "completed")
        .count();
    wait_for_runs(&server, "srv_sched_cdc", "completed", done + 1).await;
    let list = server.get("/schedules").await;
    assert_eq!(
        list["schedules"][0]["pipeline_id"], "srv_sched_cdc",
        "{list}"
    );
    server.act("srv_sched_cdc", "stop", &json!({})).await;
    assert_eq!(server.terminate().await, Some(0));
    stage.clear().await;
}

/// A table that is not in does not count as loaded: neither for the server nor for a plain run.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_left_a_table_out_is_not_good() {
    let stage = Stage::new("srv_sched_aside").await;
    fill(&stage).await;
    let mut server = Server::start(&[]).await;
    let schedule = json!({ "full_load": "0 0 1 1 *" });
    let wanted = scheduled(&stage, "full_load_only", schedule);
    let answer = server.post("/pipelines?start=true", &wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state("srv_sched_aside", "completed").await;
    // What cannot be replaced: a view stands on it.
    let view = "CREATE VIEW public.seen AS SELECT * FROM public.orders";
    stage.target.batch_execute(view).await.unwrap();
    let asked = server
        .post(
            "/pipelines/srv_sched_aside/schedule/actions/run",
            &json!({}),
        )
        .await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let runs = wait_for_runs(&server, "srv_sched_aside", "failed", 1).await;
    let reason = runs[0]["reason"].as_str().unwrap();
    assert!(reason.contains("public.orders"), "{reason}");
    assert_eq!(server.terminate().await, Some(0));

    stage.write("mode = \"full_load_only\"\n[target]\nexisting = \"swap\"\n");
    let ran = stage.run(&["run", "FILE"]).await.expect(3);
    assert!(
        ran.stdout.contains("but for public.orders"),
        "{}",
        ran.stdout
    );
    stage.clear().await;
}
