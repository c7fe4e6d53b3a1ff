//! The way back: what is written to the new primary reaches the old one, and nothing goes round.

use serde_json::Value;
use tidemark_lab::compare::Comparison;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait_for;

use super::given_up::Going;
use super::handed_over::stage_clear;
use super::{BANK, shop, step};
use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

/// Drops what a pipeline of this name left on a server of its own database.
async fn drop_slot(client: &tokio_postgres::Client, pipeline: &str) {
    let slot = format!("tidemark_{pipeline}");
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE slot_name = $1 AND NOT active";
    wait_for(PATIENCE, "the slot to be free", || async {
        client.execute(sql, &[&slot]).await?;
        let left = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
        Ok(client.query(left, &[&slot]).await?.is_empty().then_some(()))
    })
    .await
    .unwrap();
}

async fn drop_origins(client: &tokio_postgres::Client, pipelines: &[&str]) {
    for pipeline in pipelines {
        let sql = "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin \
                   WHERE roname = $1";
        let name = format!("tidemark_{pipeline}");
        wait_for(PATIENCE, "the origin to be free", || async {
            Ok(client.execute(sql, &[&name]).await.is_ok().then_some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_the_way_back_carries_what_the_new_primary_gets_and_leads_back() {
    let stage = Stage::new("cutover_there").await;
    let traffic = shop(&stage, 25).await;
    let mut run = stage.start_streaming().await;
    let file = stage.directory().join("back.toml");
    let back = file.to_str().unwrap();
    let fence = ["--fence", "--silence", "500ms", "--reverse", back];

    // Rehearsed, it leaves nothing.
    let mut rehearsal = fence.to_vec();
    rehearsal.push("--dry-run");
    let answer = stage.cutover(&rehearsal).await.expect(0).json();
    assert_eq!(step(&answer, "way back")["done"], true);
    assert!(!file.exists());

    let answer = stage.cutover(&fence).await.expect(0).json();
    assert_eq!(answer["data"]["reverse"], back);
    assert_eq!(run.ended().await, Some(0));
    traffic.stop().await.unwrap();
    let said = std::fs::read_to_string(&file).unwrap();
    assert!(
        said.contains("origin = \"none\"") && said.contains("start = \"lsn:"),
        "{said}"
    );

    // What is written before it runs comes as well.
    stage
        .target_sql("INSERT INTO orders (what) VALUES ('on the new one')")
        .await;
    let behind = stage.spawn(stage.command(&["run", back]));
    let new = Traffic::start(&stage.target_config(), &BANK, Pace::at(100.0, 26));
    let source = stage.on_source().await;
    wait_for(PATIENCE, "writes to come back", || async {
        let sql = "SELECT count(*) > 0 FROM orders WHERE what = 'on the new one'";
        Ok((text(&source, sql).await? == "t").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));

    // The way there would send back what comes.
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(refused.stderr.contains("TM2090"), "{}", refused.stderr);

    // And back again: the old primary's fence is taken down, the new one's raised.
    let there = stage.directory().join("there.toml");
    let again = [
        "cutover",
        back,
        "--json",
        "--yes",
        "--fence",
        "--silence",
        "500ms",
        "--reverse",
        there.to_str().unwrap(),
    ];
    let answer = stage.run(&again).await.expect(0).json();
    assert_eq!(answer["data"]["result"], "cut_over");
    // As often as wanted.
    let third = stage.directory().join("third.toml");
    let rehearsal = [
        "cutover",
        there.to_str().unwrap(),
        "--dry-run",
        "--fence",
        "--reverse",
        third.to_str().unwrap(),
    ];
    let following = stage.spawn(stage.command(&["run", rehearsal[1]]));
    let streams = ["status", rehearsal[1], "--require", "streaming", "--watch"];
    stage.run(&streams).await.expect(0);
    stage.run(&rehearsal).await.expect(0);
    assert_eq!(following.terminate().await, Some(0), "{}", stage.log());
    let mut behind = behind;
    assert_eq!(behind.ended().await, Some(0));
    let written = new.stop().await.unwrap();
    assert!(written.committed > 0, "{written:?}");
    assert!(stage.takes_writes().await);
    let target = stage
        .target_server
        .client_to(&stage.target_name)
        .await
        .unwrap();
    target
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    let source = stage.on_source().await;
    source
        .batch_execute("DELETE FROM orders WHERE what = 'written'")
        .await
        .unwrap();
    let outcome = Comparison::new(&target, &source)
        .schema("public", "public")
        .run()
        .await;
    let outcome = outcome.unwrap();
    assert!(outcome.is_identical(), "{outcome}");
    stage_clear(&stage).await;
    drop_slot(&target, "back_of_nothing").await;
    drop_slot(&target, "cutover_there_back").await;
    drop_slot(&target, "cutover_there_back_back").await;
    drop_origins(&target, &["cutover_there_back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_is_given_up_leaves_nothing() {
    let stage = Stage::new("cutover_noback").await;
    let traffic = shop(&stage, 27).await;
    let run = stage.start_streaming().await;
    let file = stage.directory().join("back.toml");
    let back = file.to_str().unwrap();
    // What is not whole on the target cannot be carried back.
    stage.write("[[mask]]\ncolumns = [\"public.orders.what\"]\nwith = \"redact\"\n");
    let arguments = ["--dry-run", "--reverse", back];
    let error = stage.cutover(&arguments).await.expect(6).json()["error"].clone();
    assert_eq!(error["code"], "TM6075", "{error}");
    assert!(error.to_string().contains("public.orders"), "{error}");
    stage.write("");

    // Rows that differ are found before anything is made; a writer after it takes it back.
    let quick = ["--silence", "200ms", "--patience", "1s", "--reverse", back];
    let answer = stage.cutover(&quick).await.expect(3).json();
    assert_eq!(answer["data"]["reason"]["code"], "TM6071");
    assert!(!file.exists());
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'tidemark_cutover_noback_back'";
    assert_eq!(text(&stage.target, slots).await.unwrap(), "0");
    let publications = "SELECT count(*) FROM pg_publication";
    assert_eq!(text(&stage.target, publications).await.unwrap(), "0");
    traffic.stop().await.unwrap();

    // Slot and publication are made when the file turns out to be somebody else's by now.
    let hook = "echo theirs > back.toml";
    let late = [
        "--silence",
        "200ms",
        "--stop-writers",
        hook,
        "--reverse",
        back,
    ];
    let error = stage.cutover(&late).await.expect(2).json()["error"].clone();
    let said = error.to_string();
    for words in ["back.toml", "given up", "the way back is removed again"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert_eq!(text(&stage.target, slots).await.unwrap(), "0");
    assert_eq!(text(&stage.target, publications).await.unwrap(), "0");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "theirs\n");
    std::fs::remove_file(&file).unwrap();
    is_taken_back_where_the_target_keeps_it(&stage, &file).await;
    stage.assert_equal().await;
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}

/// What was made on the target cannot be removed: the file goes all the same, so that the next cutover can
/// make one, and what is left is told before anybody is stopped again.
async fn is_taken_back_where_the_target_keeps_it(stage: &Stage, file: &std::path::Path) {
    let (back, server) = (file.to_str().unwrap(), stage.target_server);
    let keeper = "CREATE FUNCTION keeps() RETURNS event_trigger LANGUAGE plpgsql AS
            'BEGIN RAISE ''not now''; END';
        CREATE EVENT TRIGGER keeps ON ddl_command_start WHEN TAG IN ('DROP PUBLICATION')
            EXECUTE FUNCTION keeps()";
    stage.target_sql(keeper).await;
    // Publishing the table waits for this, comparing and applying do not.
    let other = server.client_to(&stage.target_name).await.unwrap();
    let lock = "BEGIN; LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE";
    other.batch_execute(lock).await.unwrap();
    let page = stage.directory().join("page.md");
    let arguments = ["--silence", "200ms", "--reverse", back, "--report"];
    let going = Going::start(stage, &[&arguments[..], &[page.to_str().unwrap()]].concat());
    going.wait_for(" compared ").await;
    let late = "INSERT INTO orders (what) VALUES ('after the proof')";
    stage.source_sql(late).await;
    other.batch_execute("COMMIT").await.unwrap();
    let (code, said) = going.ended().await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(" way back made "), "{said}");
    let page = std::fs::read_to_string(page).unwrap();
    let left = "may still be on the target: SELECT pg_drop_replication_slot('tidemark_cutover_noback_back')";
    assert!(page.contains(left), "{page}");
    assert!(!file.exists(), "it would refuse the next one");

    let drop = "DROP EVENT TRIGGER keeps; DROP FUNCTION keeps;
        DROP PUBLICATION tidemark_cutover_noback_back";
    stage.target_sql(drop).await;
    let rehearsal = ["--dry-run", "--reverse", back];
    stage.cutover(&rehearsal).await.expect(0);
    let slot =
        "SELECT pg_create_logical_replication_slot('tidemark_cutover_noback_back', 'pgoutput')";
    stage.target_sql(slot).await;
    let error = stage.cutover(&rehearsal).await.expect(6).json()["error"].clone();
    assert_eq!(error["code"], "TM6075", "{error}");
    assert!(
        error.to_string().contains("pg_drop_replication_slot"),
        "{error}"
    );
    drop_slot(&stage.target, "cutover_noback_back").await;
}

/// A table without a key takes updates on the source, which logs whole rows. The target does not, and once
/// its changes are published it would refuse them, to whoever writes there then.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_would_refuse_updates_is_not_made() {
    let stage = Stage::new("cutover_identity").await;
    stage
        .source_sql(
            "CREATE TABLE orders (id int PRIMARY KEY, what text); INSERT INTO orders VALUES (1, 'one');
             CREATE TABLE visits (page text, n int); ALTER TABLE visits REPLICA IDENTITY FULL;
             INSERT INTO visits VALUES ('index', 1); CREATE TABLE log (line text)",
        )
        .await;
    let run = stage.start_streaming().await;
    let file = stage.directory().join("back.toml");
    let arguments = ["--dry-run", "--reverse", file.to_str().unwrap()];
    let error = stage.cutover(&arguments).await.expect(6).json()["error"].clone();
    assert_eq!(error["code"], "TM6075", "{error}");
    let said = error.to_string();
    for words in ["public.visits", "REPLICA IDENTITY FULL"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    // The source refuses them of this one as well.
    assert!(!said.contains("public.log"), "{said}");

    stage
        .target_sql("ALTER TABLE visits REPLICA IDENTITY FULL")
        .await;
    stage.cutover(&arguments).await.expect(0);
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}

/// Both directions at once.
async fn both_ways(server: &'static PostgresServer, name: &str) {
    let stage = Stage::on(server, server, name).await;
    let other = format!("{name}_back");
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')")
        .await;
    stage.write("[source.postgres]\norigin = \"none\"\n[target]\nmark_origin = true\n");
    let text_of = |more: &str| {
        format!(
            "version = 1\n[pipeline]\nname = \"{other}\"\nmode = \"cdc_only\"\nstart = \"now\"\n\
             [source]\nurl = \"{}\"\n[source.postgres]\norigin = \"{more}\"\n\
             [target]\nurl = \"{}\"\nmark_origin = {}\n[tables]\ninclude = [\"public.*\"]\n",
            stage.target_url(),
            stage.source_url(),
            more == "none"
        )
    };
    let there = stage.start_streaming().await;
    let file = stage.directory().join("other.toml");
    let back = file.to_str().unwrap();

    // Without leaving out what has an origin it would go round.
    std::fs::write(&file, text_of("any")).unwrap();
    let refused = stage.run(&["run", back]).await.expect(6);
    assert!(refused.stderr.contains("TM2090"), "{}", refused.stderr);

    std::fs::write(&file, text_of("none")).unwrap();
    let here = stage.spawn(stage.command(&["run", back]));
    wait_for(PATIENCE, "the way back to stream", || async {
        let status = stage.run(&["status", back, "--json"]).await.json();
        Ok((status["data"]["state"] == "streaming").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    for i in 2..30 {
        stage
            .source_sql(&format!("INSERT INTO t VALUES ({i}, 'a')"))
            .await;
        stage
            .target_sql(&format!("INSERT INTO t VALUES ({}, 'b')", i + 100))
            .await;
    }
    // Large enough to be sent while it is in progress, where that is done.
    stage
        .source_sql("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1000, 20000) i")
        .await;
    stage.wait_until_identical().await;
    let inserts = |status: &Value| status["data"]["totals"]["inserts"].as_u64().unwrap();
    wait_for(PATIENCE, "both to have told", || async {
        let there = stage.run(&["status", "FILE", "--json"]).await.json();
        let here = stage.run(&["status", back, "--json"]).await.json();
        let told = (inserts(&there), inserts(&here));
        anyhow::ensure!(
            told.0 <= 28 + 19001 && told.1 <= 28,
            "something went round: {told:?}"
        );
        Ok((told == (28 + 19001, 28)).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    assert_eq!(here.terminate().await, Some(0));
    assert_eq!(there.terminate().await, Some(0));
    stage.wait_until_identical().await;
    stage.clear().await;
    drop_slot(&stage.target, &other).await;
    drop_origins(&stage.target, &[name, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_two_directions_at_once_do_not_send_back_what_the_other_brought() {
    both_ways(PostgresServer::shared().await.unwrap(), "both_ways").await;
}

/// Since PostgreSQL 16 the source itself leaves out what has an origin.
#[tokio::test(flavor = "multi_thread")]
async fn f41_two_directions_at_once_where_the_source_leaves_out_what_has_an_origin() {
    let test = "cutover::back::f41_where_the_source_leaves_out_what_has_an_origin";
    if let Some(builder) = tidemark_lab::skip::major_or_skip(test, 17) {
        let server = Box::leak(Box::new(builder.start().await.unwrap()));
        both_ways(server, "both_ways_17").await;
    }
}
