//! A store in a PostgreSQL database, which may be away, and which servers share.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_lab::http::Request;
use tidemark_lab::proxy::Proxy;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::api::{news, read_until};
use super::{Server, definition, fill};
use crate::faults::own_server;
use crate::stage::{PATIENCE, Stage};
use crate::writing::Writers;

/// The key of the store, which all servers are given.
pub(super) const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How long pipelines may stand still when a server is gone.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(15);

/// A server whose store is in this database.
pub(super) async fn served(url: &str) -> Server {
    Server::start_with(&["--store", url], &[("TIDEMARK_STORE_KEY", KEY)]).await
}

/// A store that keeps no answer for an `Idempotency-Key`.
const NO_ANSWERS: &str = "CREATE FUNCTION no_answers() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN RAISE EXCEPTION ''no''; END'; \
     CREATE TRIGGER no_answers BEFORE UPDATE ON tidemark_server.idempotency \
     FOR EACH ROW EXECUTE FUNCTION no_answers()";

/// What is said while the store is away.
async fn refused(server: &Server, request: Request) -> Option<Value> {
    let answer = server.send(request).await;
    let problem = answer.json().unwrap_or_default();
    (answer.status == 503 && problem["code"] == "TM7090").then_some(problem)
}

#[tokio::test]
async fn a_store_in_a_database_may_be_away_while_pipelines_go_on() {
    let stage = Stage::new("srv_shared").await;
    Writers::set_up(&stage).await;
    let database = PostgresServer::shared().await.unwrap();
    let name = database.fresh_database("store").await.unwrap();
    let proxy = Proxy::start(database.port()).await.unwrap();
    let mut server = served(&database.url_through(proxy.address(), &name)).await;
    let body = definition(&stage);
    let answer = server.post("/pipelines?start=true", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let begun = server.wait_for_state("srv_shared", "streaming").await;
    let writers = Writers::start(&stage, 7);
    writers.busy(20).await;

    proxy.refuse();
    let events = || server.request("GET", "/pipelines/srv_shared/events");
    let problem = wait_for(PATIENCE, "the API to say that it is away", || async {
        Ok(refused(&server, events()).await)
    });
    let problem = problem.await.unwrap();
    assert_eq!(problem["retryable"], true, "{problem}");
    // What is asked of a pipeline now is not done, and said so: nothing is half done.
    let stop = server.request("POST", "/pipelines/srv_shared/actions/stop");
    assert!(refused(&server, stop.json(&json!({}))).await.is_some());
    let ready = server.send(Request::new("GET", "/readyz")).await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let alive = server.send(Request::new("GET", "/livez")).await;
    assert_eq!(alive.status, 200, "{}", alive.text());
    writers.busy(30).await;
    writers.stop().await;
    stage.wait_until_identical().await;
    let state = server.get("/pipelines/srv_shared").await["state"].clone();
    assert_eq!(state, "streaming");

    proxy.accept();
    wait_for(PATIENCE, "the store to be found again", || async {
        Ok((server.send(events()).await.status == 200).then_some(()))
    })
    .await
    .unwrap();

    // An answer that the store does not take is given all the same, and nobody who comes again with its key is told
    // to wait for it.
    let client = database.client_to(&name).await.unwrap();
    client.batch_execute(NO_ANSWERS).await.unwrap();
    let start = || {
        let request = server.request("POST", "/pipelines/srv_shared/actions/start");
        let request = request.header("idempotency-key", "again");
        server.send(request.json(&json!({})))
    };
    let asked = [start().await, start().await];
    client
        .batch_execute("DROP TRIGGER no_answers ON tidemark_server.idempotency")
        .await
        .unwrap();
    let asked = asked.into_iter().chain([start().await, start().await]);
    let asked: Vec<_> = asked
        .map(|answer| {
            (
                answer.status,
                answer.header("idempotency-replayed").is_some(),
            )
        })
        .collect();
    assert_eq!(
        asked,
        [(202, false), (202, false), (202, false), (202, true)]
    );

    // Killed, its lease runs out; the next one goes on where it was.
    server.child.kill().await.unwrap();
    server.restart().await;
    let again = server.wait_for_state("srv_shared", "streaming").await;
    assert_eq!(again["full_load_lsn"], begun["full_load_lsn"]);
    let request = server.request("DELETE", "/pipelines/srv_shared");
    let answer = server.send(request.header("if-match", "*")).await;
    let done = server.operation(&answer).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    assert!(stage.slots().await.is_empty());
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    assert!(!server.log().contains("TM7092"), "{}", server.log());
}

/// Waits until the server says that it is, or is not, ready; that it lives all the while, and its
/// pipeline streams.
async fn is_ready(server: &Server, name: &str, within: Duration, expected: bool) {
    let route = format!("/pipelines/{name}");
    let said = wait_for(within, "the server to say whether it is ready", || async {
        let alive = server.send(Request::new("GET", "/livez")).await.status;
        assert_eq!(alive, 200, "{}", server.log());
        let ready = server.send(Request::new("GET", "/readyz")).await.status == 200;
        let events = server.request("GET", &format!("{route}/events"));
        let is_refused = refused(server, events).await.is_some();
        let one = server.get(&route).await;
        assert_eq!(one["state"], "streaming", "{one}");
        Ok((ready == expected && is_refused != expected).then_some(()))
    });
    said.await
        .unwrap_or_else(|err| panic!("{err:?}\n{}", server.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_store_that_is_killed_or_frozen_is_told_within_15_seconds() {
    let name = "srv_dead_store";
    let stage = Stage::new(name).await;
    fill(&stage).await;
    let database = own_server(&[]).await;
    let mut server = served(&database.url()).await;
    let answer = server
        .post("/pipelines?start=true", &definition(&stage))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.wait_for_state(name, "streaming").await;
    is_ready(&server, name, PATIENCE, true).await;
    database.kill9().await.unwrap();
    is_ready(&server, name, TAKES_OVER_WITHIN, false).await;
    database.start().await.unwrap();
    is_ready(&server, name, PATIENCE, true).await;
    database.freeze().unwrap();
    is_ready(&server, name, TAKES_OVER_WITHIN, false).await;
    stage
        .source_sql("INSERT INTO orders VALUES (5000, 'meanwhile')")
        .await;
    stage.wait_until_identical().await;
    database.thaw().unwrap();
    is_ready(&server, name, PATIENCE, true).await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// What a file says counts, whatever was away when it was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_while_the_store_is_away_is_taken_over_when_it_is_back() {
    let stage = Stage::new("srv_away_file").await;
    fill(&stage).await;
    let database = PostgresServer::shared().await.unwrap();
    let store = database.fresh_database("store").await.unwrap();
    let proxy = Proxy::start(database.port()).await.unwrap();
    let mut server = served(&database.url_through(proxy.address(), &store)).await;
    proxy.refuse();
    let place = server.pipelines().join("srv_away_file.toml");
    std::fs::copy(stage.file(), place).unwrap();
    wait_for(PATIENCE, "the file to be read in vain", || async {
        let log = server.log();
        Ok(log
            .contains("a pipeline file is not taken over")
            .then_some(()))
    })
    .await
    .unwrap();
    proxy.accept();
    server.wait_for_state("srv_away_file", "streaming").await;
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    stage.clear().await;
}

/// The other server has the pipeline in time, and applies.
async fn takes_over(server: &Server, name: &str, since: Instant, writers: &Writers) {
    server.wait_for_state(name, "streaming").await;
    let took = since.elapsed();
    assert!(took < TAKES_OVER_WITHIN, "{took:?}\n{}", server.log());
    writers.busy(20).await;
}

#[tokio::test]
async fn whoever_stands_by_takes_over_from_a_server_that_is_killed_or_frozen() {
    let stage = Stage::new("srv_standby").await;
    Writers::set_up(&stage).await;
    let database = PostgresServer::shared().await.unwrap();
    let name = database.fresh_database("store").await.unwrap();
    let url = database.url_to(&name);
    let mut first = served(&url).await;
    let body = definition(&stage);
    let answer = first.post("/pipelines?start=true", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let begun = first.wait_for_state("srv_standby", "streaming").await;
    let writers = Writers::start(&stage, 7);

    let mut second = served(&url).await;
    let ready = second.send(Request::new("GET", "/readyz?verbose=1")).await;
    let expected = json!({ "ready": true, "role": "standby", "leader": first.address });
    assert_eq!((ready.status, ready.json().unwrap()), (200, expected));
    let asked = second.request("GET", "/pipelines?limit=1");
    let sent = second.send(asked).await;
    let place = format!("http://{}/api/v1/pipelines?limit=1", first.address);
    assert_eq!(sent.status, 307, "{}", sent.text());
    assert_eq!(sent.header("location"), Some(place.as_str()));
    writers.busy(20).await;

    let mut reader = news(&first, None).await;
    let heard = read_until(&mut reader, "\n\n").await;
    let last = heard.lines().find_map(|line| line.strip_prefix("id: "));
    let killed = Instant::now();
    first.child.kill().await.unwrap();
    takes_over(&second, "srv_standby", killed, &writers).await;
    // Whoever heard the one before is told to look at everything anew.
    let mut reader = news(&second, Some(last.unwrap())).await;
    read_until(&mut reader, "event: reset").await;
    drop(reader);
    first.restart().await;
    let ready = first.send(Request::new("GET", "/readyz?verbose=1")).await;
    assert_eq!(ready.json().unwrap()["role"], "standby");

    // Its sessions on both sides stay open, and hold the pipeline's lock and slot.
    let frozen = Instant::now();
    second.signal(rustix::process::Signal::STOP);
    takes_over(&first, "srv_standby", frozen, &writers).await;
    second.signal(rustix::process::Signal::CONT);
    let ended = tokio::time::timeout(PATIENCE, second.child.wait()).await;
    let ended = ended.unwrap_or_else(|_| panic!("it goes on\n{}", second.log()));
    assert_eq!(ended.unwrap().code(), Some(5), "{}", second.log());
    assert!(second.log().contains("TM7092"), "{}", second.log());
    writers.busy(20).await;
    writers.stop().await;
    stage.wait_until_identical().await;
    let still = first.get("/pipelines/srv_standby").await;
    assert_eq!(still["state"], "streaming", "{still}");
    assert_eq!(still["full_load_lsn"], begun["full_load_lsn"]);
    assert_eq!(first.terminate().await, Some(0), "{}", first.log());
    stage.clear().await;
}

/// Who holds a pipeline's lock in its target, by what the session is named.
async fn owners(stage: &Stage) -> Vec<String> {
    let sql = "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
         WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() \
         AND a.application_name LIKE 'tidemark lease %' ORDER BY 1";
    let rows = stage.target.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// It has its databases still, and would go on: only in the target do the two meet.
#[tokio::test]
async fn f42_a_leader_cut_off_from_its_store_loses_its_pipelines_to_the_one_that_took_over() {
    let name = "srv_split";
    let stage = Stage::new(name).await;
    Writers::set_up(&stage).await;
    let database = PostgresServer::shared().await.unwrap();
    let store = database.fresh_database("store").await.unwrap();
    let proxy = Proxy::start(database.port()).await.unwrap();
    let mut first = served(&database.url_through(proxy.address(), &store)).await;
    let body = definition(&stage);
    let answer = first.post("/pipelines?start=true", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let begun = first.wait_for_state(name, "streaming").await;
    let writers = Writers::start(&stage, 7);
    writers.busy(20).await;
    let before = owners(&stage).await;
    assert_eq!(before.len(), 1, "{before:?}");
    let mut second = served(&database.url_to(&store)).await;

    // Nobody is told that the wire is cut.
    proxy.partition();
    takes_over(&second, name, Instant::now(), &writers).await;
    let what = "the one that was replaced to give up";
    wait_for(PATIENCE, what, || async {
        let one = first.get("/pipelines/srv_split").await;
        let reason = one["reason"].as_str().unwrap_or_default();
        let gave_up = one["state"] != "streaming" && reason.starts_with("TM");
        Ok(gave_up.then_some(()))
    })
    .await
    .unwrap();
    let after = owners(&stage).await;
    assert_eq!(after.len(), 1, "{after:?}");
    assert_ne!(after, before, "the lock is that of the later lease");
    // It does not fight for it.
    for _ in 0..5 {
        writers.busy(20).await;
        assert_eq!(owners(&stage).await, after, "{}", first.log());
        let one = second.get("/pipelines/srv_split").await;
        assert_eq!(one["state"], "streaming", "{one}");
    }

    // It learns of it, and ends.
    proxy.heal();
    let ended = tokio::time::timeout(PATIENCE, first.child.wait()).await;
    let ended = ended.unwrap_or_else(|_| panic!("it goes on\n{}", first.log()));
    assert_eq!(ended.unwrap().code(), Some(5), "{}", first.log());
    assert!(first.log().contains("TM7092"), "{}", first.log());
    writers.busy(20).await;
    writers.stop().await;
    stage.wait_until_identical().await;
    let still = second.get("/pipelines/srv_split").await;
    assert_eq!(still["state"], "streaming", "{still}");
    assert_eq!(still["full_load_lsn"], begun["full_load_lsn"]);
    assert_eq!(second.terminate().await, Some(0), "{}", second.log());
    stage.clear().await;
}

#[tokio::test]
async fn a_store_in_a_database_needs_its_key_given() {
    let home = tempfile::tempdir().unwrap();
    let store = "postgres://nobody@127.0.0.1:1/none";
    let more = ["--state", "state", "--store", store].map(str::to_owned);
    let mut child = super::spawn(home.path(), &more, &[]);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap();
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(!ended.unwrap().success());
    assert!(
        log.contains("TM8003") && log.contains("openssl rand"),
        "{log}"
    );
    let key = [("TIDEMARK_STORE_KEY".to_owned(), KEY.to_owned())];
    let mut child = super::spawn(home.path(), &more, &key);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap();
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert_eq!(ended.unwrap().code(), Some(5), "{log}");
    assert!(log.contains("TM7090"), "{log}");
}
