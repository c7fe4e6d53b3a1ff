//! The three modes of a pipeline: a full load alone, changes alone, and both; and where each begins.

use rustix::process::Signal;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::traffic::bank::BankReader;
use tidemark_lab::wait_for;

use crate::asks::text;
use crate::resync;
use crate::stage::{PATIENCE, Stage};
use crate::writing::{BANK, CHANGES, TABLES, Writers};

mod refused;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_alone_is_one_instant_and_leaves_nothing_on_the_source() {
    let stage = Stage::new("mode_full").await;
    stage.write("mode = \"full_load_only\"\n[load]\nchunk_size = \"1 MB\"\n");
    Writers::set_up(&stage).await;
    let filler = "CREATE TABLE filler AS SELECT i AS id, repeat(md5(i::text), 4) AS v \
                  FROM generate_series(1, 60000) i";
    stage.source_sql(filler).await;
    let writers = Writers::start(&stage, 101);
    writers.busy(20).await;
    let ran = stage.run(&["run", "FILE", "--json"]).await.expect(0);
    writers.busy(20).await;
    writers.stop().await;
    let answer = ran.json()["data"].clone();
    assert_eq!(answer["state"], "completed", "{answer}");
    stage.assert_nothing_on_the_source().await;

    // Read while transfers went on: the sum is right only if all was read at one instant.
    let bank = BankReader::start(&stage.target_config(), "public", BANK).await;
    let seen = bank.unwrap().stop().await.unwrap();
    assert!(seen.violations.is_empty(), "{seen:?}");
    let only = |table| stage.comparison().only("public", table);
    stage.wait_for_equal(only("filler")).await;

    let status = stage.status().await;
    assert_eq!(status["state"], "completed", "{status}");
    assert_eq!(status["health"], "ok", "{status}");
    assert_eq!(status["full_load_lsn"], answer["position"], "{status}");
    for table in status["tables"].as_array().unwrap() {
        assert_eq!(table["state"], "done", "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_runs_again_as_the_policy_for_existing_tables_says() {
    let stage = Stage::new("mode_again").await;
    stage.write("mode = \"full_load_only\"\n");
    stage.source_sql(TABLES).await;
    stage.run(&["run", "FILE"]).await.expect(0);
    stage.assert_identical().await;
    stage.source_sql(CHANGES).await;

    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    for word in ["TM2037", "has rows", "target.existing"] {
        assert!(
            refused.stderr.contains(word),
            "{word} in\n{}",
            refused.stderr
        );
    }
    let rows = text(&stage.target, "SELECT count(*) FROM notes").await;
    assert_eq!(rows.unwrap(), "100", "a refusal changes nothing");

    for existing in ["truncate", "drop"] {
        stage.source_sql("INSERT INTO lines VALUES ('again')").await;
        let again = format!("target.existing={existing}");
        let ran = stage.run(&["run", "FILE", "--set", &again]).await.expect(0);
        assert!(ran.stderr.contains("loads again"), "{}", ran.stderr);
        stage.assert_identical().await;
    }
    stage.assert_nothing_on_the_source().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_that_swaps_never_shows_fewer_rows() {
    let stage = Stage::new("mode_swap").await;
    stage.write("mode = \"full_load_only\"\n[load]\nchunk_size = \"1 MB\"\n");
    stage.source_sql(resync::TABLES).await;
    let arguments = ["run", "FILE", "--set", "target.existing=swap"];
    // Nothing is there yet, so nothing is swapped.
    stage.run(&arguments).await.expect(0);
    stage.assert_identical().await;

    let reader = resync::Reader::start(&stage).await;
    let grows = "INSERT INTO big (parent, v) SELECT 1, 'later' FROM generate_series(1, 500);
                 UPDATE big SET v = v || '+' WHERE id % 3 = 0;";
    stage.source_sql(grows).await;
    stage.run(&arguments).await.expect(0);
    stage.assert_identical().await;

    // Killed while the rows are in beside their tables, and when the first of these has its place.
    for point in ["resync.swap_due:1", "resync.swap_due:2"] {
        stage.source_sql(grows).await;
        let mut command = stage.command(&arguments);
        command.env("TIDEMARK_FAILPOINT", point);
        assert_eq!(stage.spawn(command).killed_by().await, Some(9), "{point}");
        stage.run(&arguments).await.expect(0);
        stage.assert_identical().await;
    }
    // The source's table has another shape by now.
    let shape = "ALTER TABLE big ADD COLUMN more int DEFAULT 7; ALTER TABLE big DROP COLUMN n";
    stage.source_sql(shape).await;
    stage.target_sql("ALTER TABLE big DROP COLUMN n").await;
    stage.run(&arguments).await.expect(0);
    stage.assert_identical().await;
    assert!(reader.stop().await > 0);

    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'tidemark_beside%'";
    assert_eq!(text(&stage.target, left).await.unwrap(), "0");
    let unproven = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated";
    assert_eq!(text(&stage.target, unproven).await.unwrap(), "0");
    stage.assert_nothing_on_the_source().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_swapped_keeps_its_rows_and_is_named() {
    let stage = Stage::new("mode_swap_view").await;
    stage.write("mode = \"full_load_only\"\n");
    stage.source_sql(TABLES).await;
    let arguments = ["run", "FILE", "--set", "target.existing=swap"];
    stage.run(&arguments).await.expect(0);
    stage
        .target_sql("CREATE VIEW of_notes AS SELECT * FROM notes")
        .await;
    stage.source_sql(CHANGES).await;
    let proving = [&arguments[..], &["--until", "verified"]].concat();
    let ran = stage.run(&proving).await;
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    for word in ["TM2048", "public.notes", "of_notes"] {
        assert!(ran.stderr.contains(word), "{word} in\n{}", ran.stderr);
    }
    let rows = text(&stage.target, "SELECT count(*) FROM of_notes").await;
    assert_eq!(rows.unwrap(), "100", "as it was");
    stage.target_sql("DROP VIEW of_notes").await;
    stage.run(&arguments).await.expect(0);
    stage.assert_identical().await;
}

/// Whoever made the target's table made one of its sequences too small: it is named, and nothing else waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_does_not_take_its_value_holds_nothing_up() {
    let stage = Stage::new("modes_sequence").await;
    stage
        .source_sql(
            "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id serial PRIMARY KEY); \
             INSERT INTO a SELECT FROM generate_series(1, 300); \
             INSERT INTO b SELECT FROM generate_series(1, 300)",
        )
        .await;
    let small = "CREATE TABLE a (id serial PRIMARY KEY); ALTER SEQUENCE a_id_seq MAXVALUE 100";
    stage.target_sql(small).await;
    let ran = stage.run(&["run", "FILE", "--until", "verified"]).await;
    let ran = ran.expect(0);
    for words in ["TM4058", "public.a_id_seq", "1..100"] {
        assert!(ran.stderr.contains(words), "{words} in {}", ran.stderr);
    }
    let last = "SELECT a.last_value || ' ' || b.last_value FROM a_id_seq a, b_id_seq b";
    assert_eq!(text(&stage.target, last).await.unwrap(), "1 300");
    let refused = stage.run(&["sequences", "FILE"]).await.expect(6);
    assert!(refused.stderr.contains("TM4058"), "{}", refused.stderr);
    stage
        .target_sql("ALTER SEQUENCE a_id_seq MAXVALUE 1000")
        .await;
    stage.run(&["sequences", "FILE"]).await.expect(0);
    assert_eq!(text(&stage.target, last).await.unwrap(), "300 300");
    stage.clear().await;
}

/// Rows that refer to what the target has otherwise: their table is named, and not loaded again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_whose_rows_break_a_foreign_key_ends() {
    let stage = Stage::new("modes_foreign").await;
    stage.write("mode = \"full_load_only\"\n[target]\nexisting = \"skip_loaded\"\n");
    stage
        .source_sql(
            "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 50);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
             INSERT INTO child SELECT i, i FROM generate_series(1, 50) i;
             CREATE TABLE other (id int PRIMARY KEY, parent int REFERENCES parent);
             INSERT INTO other VALUES (1, 1)",
        )
        .await;
    stage
        .target_sql("CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1)")
        .await;
    let ran = stage
        .run(&["run", "FILE", "--timeout", "60s"])
        .await
        .expect(3);
    for words in ["public.child", "TM2044", "child_parent_fkey"] {
        assert!(ran.stderr.contains(words), "{words} in {}", ran.stderr);
    }
    assert_eq!(ran.stderr.matches("step 4/5").count(), 1, "{}", ran.stderr);
    let table = stage.table("public.child").await;
    assert_eq!(table["state"], "quarantined", "{table}");
    let rows = "SELECT (SELECT count(*) FROM child) || ' ' || (SELECT count(*) FROM other)";
    assert_eq!(text(&stage.target, rows).await.unwrap(), "50 1");
    let keys = "SELECT string_agg(conname, ' ') FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(
        text(&stage.target, keys).await.unwrap(),
        "other_parent_fkey"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_full_load_starts_again_without_help() {
    let stage = Stage::new("mode_full_killed").await;
    stage.write("mode = \"full_load_only\"\n[load]\nchunk_size = \"1 MB\"\n");
    let tables = "CREATE TABLE wide AS SELECT i AS id, repeat(md5(i::text), 8) AS v \
                  FROM generate_series(1, 80000) i; ALTER TABLE wide ADD PRIMARY KEY (id); ANALYZE wide;";
    stage.source_sql(tables).await;
    let run = stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "some of it to be in", || async {
        let sql = "SELECT count(*) FROM tidemark.unit WHERE is_loaded";
        let loaded: i64 = stage.target.query_one(sql, &[]).await?.get(0);
        Ok((loaded > 1).then_some(()))
    })
    .await
    .unwrap();
    run.kill9().await;
    let rows = text(&stage.target, "SELECT count(*) FROM wide")
        .await
        .unwrap();
    assert_ne!(rows, "80000", "the kill hit the load");
    stage.source_sql("DELETE FROM wide WHERE id % 3 = 0").await;
    stage.run(&["run", "FILE"]).await.expect(0);
    stage.assert_identical().await;
    stage.assert_nothing_on_the_source().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cdc_from_now_brings_every_change_and_no_row_of_before() {
    let stage = Stage::new("mode_now").await;
    stage.write("mode = \"cdc_only\"\nstart = \"now\"\n");
    Writers::set_up(&stage).await;
    stage.source_sql(TABLES).await;
    // The target has the rows of before by other means, but for those of `notes`; `late` is made.
    let copy = format!("{TABLES} DELETE FROM notes;");
    stage.target_sql(&copy).await;
    stage
        .source_sql(
            "CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'before')",
        )
        .await;
    let dumped = Stage::new("mode_now_copy").await;
    dumped.write_between(
        &stage.source_url(),
        &stage.target_url(),
        "mode = \"full_load_only\"\n[tables]\ninclude = [\"public.bank*\", \"public.mixed*\"]\n",
    );
    dumped.run(&["run", "FILE"]).await.expect(0);

    let run = stage.start_streaming().await;
    let writers = Writers::start(&stage, 111);
    writers.busy(100).await;
    run.kill9().await;
    writers.busy(50).await;
    let run = stage.start_streaming().await;
    let more = "INSERT INTO notes VALUES (7001, 'after'); INSERT INTO late VALUES (2, 'after');
                INSERT INTO lines VALUES ('after');";
    stage.source_sql(more).await;
    writers.busy(50).await;
    writers.stop().await;
    let comparison = stage
        .comparison()
        .filter(("public", "notes"), "id > 7000")
        .filter(("public", "late"), "id > 1");
    stage.wait_for_equal(comparison).await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Makes what `cdc_only` finds: a publication of all tables, and a slot. Gives where the slot is.
async fn prepare_by_hand(stage: &Stage) -> String {
    let name = format!("tidemark_{}", stage.name);
    let publication = format!(
        "CREATE PUBLICATION {name} FOR ALL TABLES WITH (publish_via_partition_root = true)"
    );
    stage.source_sql(&publication).await;
    wait_for(PATIENCE, "older transactions to end", || async {
        let is_oldest = "SELECT 1 FROM pg_publication \
                         WHERE age(xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)";
        Ok(stage.source.query_opt(is_oldest, &[]).await?.map(drop))
    })
    .await
    .unwrap();
    let slot = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
    stage.source_sql(&slot).await;
    let sql =
        format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{name}'");
    text(&stage.source, &sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn cdc_from_a_position_goes_on_where_another_copy_ended() {
    // A server of its own: nobody else's slot or transaction keeps this one's catalog old.
    let server = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let stage = Stage::on(server, server, "mode_lsn").await;
    stage.source_sql(TABLES).await;
    prepare_by_hand(&stage).await;
    stage.source_sql(CHANGES).await;
    // The copy: everything before `start` is in it, nothing after.
    let start = stage.head().await;
    let copy = Stage::new("mode_lsn_copy").await;
    copy.write_between(
        &stage.source_url(),
        &stage.target_url(),
        "mode = \"full_load_only\"\n",
    );
    copy.run(&["run", "FILE"]).await.expect(0);
    let more = "INSERT INTO notes SELECT 9000 + i, 'later' FROM generate_series(1, 50) i;
                INSERT INTO lines SELECT 'later' FROM generate_series(1, 30) i;
                UPDATE lines SET v = 'first again' WHERE v = 'first';";
    stage.source_sql(more).await;

    stage.write(&format!("mode = \"cdc_only\"\nstart = \"lsn:{start}\"\n"));
    let ran = stage
        .run(&["run", "FILE", "--until", "caught-up", "--json"])
        .await;
    let ran = ran.expect(0);
    assert!(
        ran.stderr.contains(&format!("from {start}")),
        "{}",
        ran.stderr
    );
    stage.assert_identical().await;
    let status = stage.status().await;
    assert_eq!(status["full_load_lsn"], start.as_str(), "{status}");

    // From its own checkpoint on; the start counts no more.
    stage.source_sql("INSERT INTO lines VALUES ('last')").await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cdc_from_a_position_that_the_slot_does_not_have_is_refused() {
    let stage = Stage::new("mode_gone").await;
    stage.source_sql(TABLES).await;
    stage.target_sql(TABLES).await;
    let first = prepare_by_hand(&stage).await;
    let at = |start: &str| stage.write(&format!("mode = \"cdc_only\"\nstart = \"lsn:{start}\"\n"));
    stage.source_sql(CHANGES).await;
    let advance = "SELECT pg_replication_slot_advance('tidemark_mode_gone', pg_current_wal_lsn())";
    stage.source_sql(advance).await;
    at(&first);
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    for word in ["TM4017", &first, "tidemark_mode_gone"] {
        assert!(
            refused.stderr.contains(word),
            "{word} in\n{}",
            refused.stderr
        );
    }
    // Past the end of the log nothing can be promised either.
    at("FFFF/0");
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(refused.stderr.contains("TM4017"), "{}", refused.stderr);
    stage.clear().await;
    at(&first);
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(
        refused.stderr.contains("TM4017"),
        "no slot\n{}",
        refused.stderr
    );
    let status = stage.status().await;
    assert!(
        status["full_load_lsn"].is_null(),
        "nothing was begun: {status}"
    );
    let rows = text(&stage.target, "SELECT count(*) FROM notes").await;
    assert_eq!(rows.unwrap(), "100", "nothing was applied");
}

/// What was written before a table was published never comes by the log, so a start from before then
/// would be a gap.
#[tokio::test(flavor = "multi_thread")]
async fn cdc_from_before_the_tables_were_published_is_refused() {
    // A server of its own: where there is another slot it cannot be told, and is only warned of.
    let server = Box::leak(Box::new(PostgresServer::builder().start().await.unwrap()));
    let stage = Stage::on(server, server, "mode_unpublished").await;
    stage.source_sql(TABLES).await;
    stage.target_sql(TABLES).await;
    let slot = "SELECT pg_create_logical_replication_slot('tidemark_mode_unpublished', 'pgoutput')";
    stage.source_sql(slot).await;
    let start = stage.head().await;
    stage.source_sql(CHANGES).await;
    stage.write(&format!("mode = \"cdc_only\"\nstart = \"lsn:{start}\"\n"));
    let until = ["run", "FILE", "--until", "caught-up"];
    let refused = stage.run(&until).await.expect(6);
    assert!(refused.stderr.contains("TM1034"), "{}", refused.stderr);

    // That they are published by now does not bring back what was written before.
    let both = "CREATE PUBLICATION tidemark_mode_unpublished FOR TABLE notes, lines \
                WITH (publish_via_partition_root = true)";
    stage.source_sql(both).await;
    let refused = stage.run(&until).await.expect(6);
    assert!(refused.stderr.contains("TM1034"), "{}", refused.stderr);

    // Neither of one table: the slot is younger than the publication, which `lines` joins later.
    let fewer = "ALTER PUBLICATION tidemark_mode_unpublished DROP TABLE lines";
    stage.source_sql(fewer).await;
    stage.clear().await;
    stage.source_sql(slot).await;
    let start = stage.head().await;
    stage
        .source_sql("INSERT INTO lines VALUES ('unseen')")
        .await;
    let more = "ALTER PUBLICATION tidemark_mode_unpublished ADD TABLE lines";
    stage.source_sql(more).await;
    stage.write(&format!("mode = \"cdc_only\"\nstart = \"lsn:{start}\"\n"));
    let refused = stage.run(&until).await.expect(6);
    for word in ["TM1034", "public.lines"] {
        assert!(
            refused.stderr.contains(word),
            "{word} in\n{}",
            refused.stderr
        );
    }
    let rows = text(&stage.target, "SELECT count(*) FROM lines").await;
    assert_eq!(rows.unwrap(), "100", "nothing was applied");
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reported_full_load_lsn_is_the_slots_consistent_point() {
    let stage = Stage::new("mode_point").await;
    stage.source_sql(TABLES).await;
    let run = stage.start(&["run", "FILE"]);
    // Nothing has been acknowledged when the slot appears, so it still stands at its first point.
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots \
               WHERE slot_name = 'tidemark_mode_point' AND confirmed_flush_lsn IS NOT NULL";
    let point = wait_for(PATIENCE, "the slot", || async {
        let found = stage.source.query_opt(sql, &[]).await?;
        if found.is_some() {
            run.signal(Signal::STOP);
        }
        Ok(found.map(|row| row.get::<_, String>(0)))
    })
    .await
    .unwrap();
    let again = text(&stage.source, sql).await.unwrap();
    assert_eq!(again, point, "it stands");
    run.signal(Signal::CONT);
    stage.wait_for_state("streaming").await;
    stage.source_sql(CHANGES).await;
    stage.wait_until_identical().await;
    let status = stage.status().await;
    assert_eq!(status["full_load_lsn"], point.as_str(), "{status}");
    wait_for(PATIENCE, "the position to be reported", || async {
        let status = stage.status().await;
        let at = |key: &str| stage.bytes(&status[key]);
        Ok((at("processed_lsn").await > at("full_load_lsn").await).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(run.terminate().await, Some(0));
    // The same from outside, when nobody runs it, and after another start.
    assert_eq!(stage.status().await["full_load_lsn"], point.as_str());
    stage.catch_up().await;
    assert_eq!(stage.status().await["full_load_lsn"], point.as_str());
    stage.clear().await;
}
