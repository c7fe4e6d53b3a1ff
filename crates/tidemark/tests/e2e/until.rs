//! When a run ends by itself, and what it says and returns then.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidemark_lab::server::PostgresServer;

use crate::asks::text;
use crate::stage::Stage;
use crate::writing::{CHANGES, TABLES, Writers};

#[tokio::test(flavor = "multi_thread")]
async fn until_caught_up_and_until_verified_end_with_what_was_there() {
    let stage = Stage::new("until_caught_up").await;
    Writers::set_up(&stage).await;
    let writers = Writers::start(&stage, 121);
    writers.busy(20).await;
    let before = Value::from(stage.head().await);
    let ran = stage
        .run(&["run", "FILE", "--until", "caught-up", "--json"])
        .await
        .expect(0);
    let position = ran.json()["data"]["position"].clone();
    assert!(stage.bytes(&position).await >= stage.bytes(&before).await);
    writers.busy(20).await;
    writers.stop().await;
    stage.catch_up().await;
    stage.assert_identical().await;

    let writers = Writers::start(&stage, 131);
    writers.busy(20).await;
    let ran = stage
        .run(&["run", "FILE", "--until", "verified", "--json"])
        .await
        .expect(0);
    let verified = ran.json()["data"]["verified"].clone();
    assert_eq!(verified["result"], "identical", "{verified}");
    writers.stop().await;

    stage
        .target_sql("UPDATE bank_transfers SET amount = 0 WHERE id = 1")
        .await;
    let ran = stage
        .run(&["run", "FILE", "--until", "verified", "--json"])
        .await
        .expect(3);
    assert_eq!(ran.json()["data"]["verified"]["result"], "different");
    stage.clear().await;
}

/// Ended as soon as the others were compared, each run cut off what the one before had begun.
#[tokio::test(flavor = "multi_thread")]
async fn until_verified_waits_for_tables_that_are_loaded_anew() {
    let stage = Stage::new("until_anew").await;
    let notes = "CREATE TABLE notes (id int PRIMARY KEY, v text);
        INSERT INTO notes SELECT i, 'v' FROM generate_series(1, 100) i;";
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    stage
        .source_sql(&format!("DROP TABLE notes; {notes}"))
        .await;
    // As long as somebody reads the old table the new one does not take its place.
    let reader = stage.target_server.client_to(&stage.target_name).await;
    let reader = reader.unwrap();
    let read = "BEGIN; SELECT * FROM notes";
    reader.batch_execute(read).await.unwrap();
    let run = stage.start(&["run", "FILE"]);
    let state = "SELECT state FROM tidemark.table_state WHERE source_name = 'notes'";
    stage.wait_for_target(state, "resyncing").await;
    run.kill9().await;
    let mut run = stage.start(&["run", "FILE", "--until", "verified"]);
    run.wait_for_log("compares once 1 table").await;
    assert!(run.is_running(), "{}", run.log());
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(run.ended().await, Some(0), "{}", stage.log());
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn until_a_position_ends_when_everything_before_it_is_in() {
    // Where nobody else writes, so that the position that is not there yet does not come by itself.
    let source = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "until_lsn").await;
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    // The load was read where the stream begins: nothing is left to catch up with.
    let status = stage.status().await;
    for table in status["tables"].as_array().unwrap() {
        assert_eq!(table["state"], "streaming", "{status}");
    }
    stage.source_sql(CHANGES).await;
    let there = stage.head().await;
    let until = format!("lsn:{there}");
    let ran = stage
        .run(&["run", "FILE", "--until", &until, "--json"])
        .await
        .expect(0);
    let position = ran.json()["data"]["position"].clone();
    assert!(stage.bytes(&position).await >= stage.bytes(&Value::from(there.as_str())).await);
    stage.assert_identical().await;

    // One that was passed long ago ends at once; one that is not there yet is waited for.
    stage
        .run(&["run", "FILE", "--until", &until])
        .await
        .expect(0);
    let soon = "SELECT pg_current_wal_insert_lsn() + 10000000";
    let soon = text(&stage.source, soon).await.unwrap();
    let mut run = stage.start(&["run", "FILE", "--until", &format!("lsn:{soon}")]);
    stage.wait_for_state("streaming").await;
    stage
        .source_sql("INSERT INTO lines VALUES ('before')")
        .await;
    let filler = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 11000000))";
    stage.source_sql(filler).await;
    assert_eq!(run.ended().await, Some(0), "{}", stage.log());
    let position = stage.status().await["processed_lsn"].clone();
    assert!(stage.bytes(&position).await >= stage.bytes(&Value::from(soon)).await);
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn until_a_time_counts_from_the_start_and_holds_in_a_load_too() {
    let stage = Stage::new("until_time").await;
    stage.source_sql(TABLES).await;
    let began = Instant::now();
    let ran = stage
        .run(&["run", "FILE", "--until", "time:3s", "--json"])
        .await
        .expect(0);
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ran.json()["data"]["state"], "stopped");
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;

    // An instant; and a table that cannot be loaded meanwhile.
    let stage = Stage::new("until_instant").await;
    stage.source_sql(TABLES).await;
    stage
        .target_sql(&format!("{TABLES} TRUNCATE notes, lines"))
        .await;
    let blocker = stage
        .target_server
        .client_to(&stage.target_name)
        .await
        .unwrap();
    blocker
        .batch_execute("BEGIN; LOCK TABLE notes IN SHARE MODE")
        .await
        .unwrap();
    let at = text(
        &stage.source,
        "SELECT to_char((now() + interval '4 s') AT TIME ZONE 'UTC', \
        'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    )
    .await
    .unwrap();
    let began = Instant::now();
    stage
        .run(&["run", "FILE", "--until", &format!("time:{at}")])
        .await
        .expect(0);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    blocker.batch_execute("COMMIT").await.unwrap();
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// A run that says "everything is in" while a table's changes are kept beside it would lie.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_left_a_table_behind_says_so_and_ends_with_code_3() {
    let stage = Stage::new("until_aside").await;
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    let refuse = "ALTER TABLE notes ADD CONSTRAINT clean CHECK (v <> 'poison')";
    stage.target_sql(refuse).await;
    stage
        .source_sql("INSERT INTO notes VALUES (2000, 'poison'); INSERT INTO lines VALUES ('good')")
        .await;
    let there = stage.head().await;
    let at = format!("lsn:{there}");
    for until in ["caught-up", &at] {
        let ran = stage
            .run(&["run", "FILE", "--until", until, "--json"])
            .await
            .expect(3);
        let answer = ran.json();
        assert_eq!(
            (&answer["ok"], &answer["error"]),
            (&Value::Bool(false), &Value::Null)
        );
        let aside = &answer["data"]["aside"];
        assert_eq!(aside[0]["source"], "public.notes", "{answer}");
        assert_eq!(aside[0]["state"], "quarantined", "{answer}");
        assert!(
            aside[0]["reason"].as_str().unwrap().contains("TM2045"),
            "{answer}"
        );
        let only = stage.comparison().only("public", "lines");
        stage.wait_for_equal(only).await;
    }
    let said = stage
        .run(&["run", "FILE", "--until", "caught-up"])
        .await
        .expect(3);
    for word in ["but for public.notes (quarantined)", "tidemark tables"] {
        let all = format!("{}{}", said.stdout, said.stderr);
        assert!(all.contains(word), "{word} in {all}");
    }
    assert_eq!(stage.status().await["health"], "error");
    // Verified neither.
    stage
        .run(&["run", "FILE", "--until", "verified"])
        .await
        .expect(3);

    // The changes were kept, and go in once the target takes them.
    stage
        .target_sql("ALTER TABLE notes DROP CONSTRAINT clean")
        .await;
    let run = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    stage
        .run(&["resume", "FILE", "--table", "public.notes"])
        .await
        .expect(0);
    stage.wait_for_table("public.notes", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_that_left_a_table_behind_does_not_end_well() {
    let stage = Stage::new("full_aside").await;
    stage.write("mode = \"full_load_only\"\n");
    stage.source_sql(TABLES).await;
    let narrow = "CREATE TABLE notes (id int PRIMARY KEY, v text CHECK (v <> 'first 7'))";
    stage.target_sql(narrow).await;
    let ran = stage.run(&["run", "FILE", "--json"]).await.expect(3);
    let data = ran.json()["data"].clone();
    assert_eq!(data["state"], "completed", "{data}");
    assert_eq!(data["aside"][0]["source"], "public.notes", "{data}");
    let rows = text(&stage.target, "SELECT count(*) FROM notes").await;
    assert_eq!(rows.unwrap(), "0", "nothing of it is half in");
    stage
        .wait_for_equal(stage.comparison().only("public", "lines"))
        .await;
    assert_eq!(stage.status().await["health"], "error");
    stage.assert_nothing_on_the_source().await;
}
