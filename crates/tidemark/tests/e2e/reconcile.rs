//! A gap is bridged: only what differs is moved, whatever the gap had hidden, and the stream goes on.

use serde_json::{Value, json};
use tidemark_lab::proxy::Proxy;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::traffic::bank::BankReader;
use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Ran, Stage};
use crate::writing::{BANK, CHANGES, TABLES, Writers};

const IS_LOADED: &str = "SELECT phase = 'loaded'
    AND (SELECT bool_and(state = 'streaming') FROM tidemark.table_state)
    AND NOT EXISTS (SELECT FROM tidemark.parked) FROM tidemark.checkpoint";

/// Somebody drops the slot once nobody reads it.
async fn lose_the_slot(stage: &Stage) {
    stage.clear().await;
}

/// What a reconcile reports of a table.
#[track_caller]
fn found(ran: &Ran, table: &str) -> Value {
    let data = ran.json()["data"].clone();
    let tables = data["tables"].as_array().cloned().unwrap_or_default();
    let of_table = tables.iter().find(|line| line["source"] == table);
    of_table.unwrap_or_else(|| panic!("no {table} in {data}"))["reconciled"].clone()
}

/// Missing, changed, extra.
fn counts(found: &Value) -> Value {
    json!([found["missing"], found["changed"], found["extra"]])
}

async fn reconcile(stage: &Stage) -> Ran {
    let ran = stage.run(&["reconcile", "FILE", "--yes", "--json"]).await;
    let ran = ran.expect(0);
    let is_loaded = text(&stage.target, IS_LOADED).await.unwrap();
    assert_eq!(is_loaded, "t", "nothing is left to do\n{}", ran.stderr);
    ran
}

/// A pipeline that has loaded, and stands still.
async fn loaded(name: &str, more: &str, tables: &str) -> Stage {
    let stage = Stage::new(name).await;
    stage.write(more);
    stage.source_sql(tables).await;
    stage.catch_up().await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_costs_only_what_the_gap_had_hidden() {
    let stage = loaded("rec_lost", "", TABLES).await;
    lose_the_slot(&stage).await;
    // 100 rows, of which the gap takes 1..10, changes 11..13 and brings five more.
    stage
        .source_sql(
            "DELETE FROM notes WHERE id <= 10; UPDATE notes SET v = 'other' WHERE id IN (11, 12, 13);
             INSERT INTO notes SELECT 500 + i, 'new' FROM generate_series(1, 5) i;
             UPDATE lines SET v = 'second' WHERE ctid IN (SELECT ctid FROM lines LIMIT 3);",
        )
        .await;
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(refused.stderr.contains("TM4010"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("tidemark reconcile"),
        "{}",
        refused.stderr
    );
    // Looking changes nothing.
    let before = text(
        &stage.target,
        "SELECT string_agg(v, '' ORDER BY id) FROM notes",
    )
    .await;
    let looked = stage
        .run(&["reconcile", "FILE", "--dry-run", "--json"])
        .await;
    let looked = looked.expect(3);
    assert_eq!(counts(&found(&looked, "public.notes")), json!([5, 3, 10]));
    let after = text(
        &stage.target,
        "SELECT string_agg(v, '' ORDER BY id) FROM notes",
    )
    .await;
    assert_eq!(before.unwrap(), after.unwrap());
    assert!(stage.slots().await.is_empty());
    // It asks first.
    let asked = stage.run(&["reconcile", "FILE", "--json"]).await;
    assert!(asked.stdout.contains("TM7041"), "{}", asked.stdout);
    assert!(stage.slots().await.is_empty());

    let ran = reconcile(&stage).await;
    let notes = found(&ran, "public.notes");
    assert_eq!(counts(&notes), json!([5, 3, 10]), "{notes}");
    assert_eq!(notes["rows_moved"], 8, "{notes}");
    let lines = found(&ran, "public.lines");
    assert!(
        lines["whole"].as_str().unwrap().contains("no key"),
        "{lines}"
    );
    assert_eq!(counts(&lines), json!([3, 0, 3]), "{lines}");
    stage.assert_identical().await;
    // And it goes on.
    stage.source_sql(CHANGES).await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_under_load_is_bridged_and_the_sum_is_right_afterwards() {
    let stage = Stage::new("rec_load").await;
    Writers::set_up(&stage).await;
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    lose_the_slot(&stage).await;
    let writers = Writers::start(&stage, 41);
    writers.busy(50).await;
    let ran = reconcile(&stage).await;
    let accounts = found(&ran, "public.bank_accounts");
    assert!(accounts["changed"].as_u64() > Some(0), "{accounts}");
    // Transactions are whole again from here on.
    let config = stage.target_config();
    let reader = BankReader::start(&config, "public", BANK).await.unwrap();
    let run = stage.start_streaming().await;
    writers.busy(50).await;
    writers.stop().await;
    stage.wait_for_equal(stage.comparison()).await;
    let seen = reader.stop().await.unwrap();
    assert_eq!(seen.violations, Vec::<String>::new());
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_runs_elsewhere_is_asked() {
    let stage = loaded("rec_asked", "", TABLES).await;
    stage
        .target_sql("UPDATE notes SET v = 'wrong' WHERE id < 4; DELETE FROM notes WHERE id = 50")
        .await;
    let run = stage.start_streaming().await;
    let slot =
        "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'tidemark_rec_asked'";
    assert_ne!(text(&stage.source, slot).await.unwrap(), "no row");
    let asked = ["reconcile", "FILE", "--table", "notes", "--yes", "--json"];
    let ran = stage.run(&asked).await.expect(0);
    let notes = found(&ran, "public.notes");
    assert_eq!(counts(&notes), json!([1, 3, 0]), "{notes}");
    stage.assert_identical().await;
    let table = stage.table("public.notes").await;
    assert_eq!(table["reconciled"]["rows_moved"], 4, "{table}");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// The log tells of a new column with the next change of the table, of which there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_log_has_not_told_of_ends_no_run() {
    let stage = loaded("rec_untold", "", TABLES).await;
    let run = stage.start_streaming().await;
    stage
        .source_sql("ALTER TABLE notes ADD COLUMN new int DEFAULT 7")
        .await;
    let asked = ["reconcile", "FILE", "--table", "notes", "--yes", "--json"];
    let ran = stage.run(&asked).await.expect(0);
    let why = found(&ran, "public.notes")["whole"].clone();
    assert!(why.as_str().unwrap().contains("TM2019"), "{why}");
    stage.source_sql(CHANGES).await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_pipeline_that_stands_still_keeps_the_slot() {
    let stage = loaded("rec_still", "", TABLES).await;
    stage.source_sql(CHANGES).await;
    stage.target_sql("DELETE FROM notes WHERE id = 50").await;
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots \
                     WHERE slot_name = 'tidemark_rec_still'";
    let before = text(&stage.source, confirmed).await.unwrap();
    let ran = [
        "reconcile",
        "FILE",
        "--table",
        "public.notes",
        "--yes",
        "--json",
    ];
    let ran = stage.run(&ran).await.expect(0);
    // What the log held was not asked of it, and is not applied twice.
    let notes = found(&ran, "public.notes");
    assert!(notes["missing"].as_u64() > Some(40), "{notes}");
    assert!(!ran.stderr.contains("removes tidemark_"), "{}", ran.stderr);
    assert_ne!(text(&stage.source, confirmed).await.unwrap(), before);
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_masks_and_names_are_as_the_load_has_them() {
    let tables =
        "CREATE TABLE people (id int PRIMARY KEY, name text, mail text, note text, age int);
        INSERT INTO people SELECT i, 'n' || i, 'm' || i || '@x', 'secret', i % 80
          FROM generate_series(1, 400) i;";
    let more = "[[table]]\nsource = \"public.people\"\ntarget = \"dw.persons\"\n\
                where = \"age < 40\"\nrename = { name = \"full_name\" }\ndrop_columns = [\"note\"]\n\
                [[mask]]\ncolumns = [\"*.people.mail\"]\nwith = \"redact\"\n";
    let stage = loaded("rec_maps", more, tables).await;
    lose_the_slot(&stage).await;
    // Out of the filter and into it, a value that is not carried, one that is masked.
    stage
        .source_sql(
            "UPDATE people SET age = 50 WHERE id IN (1, 2); UPDATE people SET age = 1 WHERE id = 41;
             UPDATE people SET note = 'other' WHERE id = 5; UPDATE people SET mail = 'z' WHERE id = 6;
             UPDATE people SET name = 'changed' WHERE id = 7; DELETE FROM people WHERE id = 8",
        )
        .await;
    let ran = reconcile(&stage).await;
    let people = found(&ran, "public.people");
    assert_eq!(counts(&people), json!([1, 1, 3]), "{people}");
    let people =
        "SELECT string_agg(concat_ws('|', id, full_name, age), ',' ORDER BY id) FROM dw.persons";
    let wanted = "SELECT string_agg(concat_ws('|', id, name, age), ',' ORDER BY id) FROM people \
                  WHERE age < 40";
    assert_eq!(
        text(&stage.target, people).await.unwrap(),
        text(&stage.source, wanted).await.unwrap()
    );
    let columns = "SELECT count(*) FROM dw.persons WHERE mail ~ '@'";
    assert_eq!(text(&stage.target, columns).await.unwrap(), "0", "masked");
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_came_in_the_gap_and_a_value_in_the_way_copy_the_table_whole() {
    let tables = "CREATE TABLE grown (id int PRIMARY KEY, v text);
        INSERT INTO grown SELECT i, 'v' FROM generate_series(1, 100) i;
        CREATE TABLE seats (id int PRIMARY KEY, seat int UNIQUE, s serial);
        INSERT INTO seats SELECT i, i FROM generate_series(1, 2000) i;";
    let stage = loaded("rec_whole", "", tables).await;
    lose_the_slot(&stage).await;
    // Every seat goes to the next: row by row each stands in the way of another.
    stage
        .source_sql(
            "ALTER TABLE grown ADD COLUMN w int DEFAULT 7; UPDATE grown SET w = 8 WHERE id = 1;
             UPDATE seats SET seat = -seat; UPDATE seats SET seat = 1 + (-seat % 2000);
             SELECT setval('seats_s_seq', 5000);",
        )
        .await;
    let ran = reconcile(&stage).await;
    let seats = found(&ran, "public.seats");
    assert_eq!(seats["rows_moved"], 2000, "{seats}");
    stage.assert_identical().await;
    let next = "SELECT last_value FROM seats_s_seq";
    assert_eq!(
        text(&stage.target, next).await.unwrap(),
        "5000",
        "sequences are set"
    );
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_moved_to_another_cluster_is_followed_from_there() {
    let first = PostgresServer::builder().start().await.unwrap();
    let first = Box::leak(Box::new(first));
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(first, target, "rec_moved").await;
    stage.source_sql(TABLES).await;
    let proxy = Proxy::start(first.port()).await.unwrap();
    let url = first.url_through(proxy.address(), &stage.source_name);
    stage.write_between(&url, &stage.target_url(), "");
    stage.catch_up().await;
    stage.source_sql(CHANGES).await;

    let second = PostgresServer::builder().start().await.unwrap();
    let create = format!("CREATE DATABASE {}", stage.source_name);
    second.execute(&create).await.unwrap();
    // Restored with what had committed on the first one, and written to since.
    let moved = format!("{TABLES}{CHANGES} UPDATE notes SET v = 'after the move' WHERE id = 3;");
    second.execute_in(&stage.source_name, &moved).await.unwrap();
    proxy.point_to(([127, 0, 0, 1], second.port()).into());
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(refused.stderr.contains("TM4013"), "{}", refused.stderr);
    let asked = stage.run(&["reconcile", "FILE"]).await;
    assert!(
        asked.stderr.contains("the source is another one"),
        "{}",
        asked.stderr
    );
    reconcile(&stage).await;
    let later = "UPDATE notes SET v = 'later' WHERE id = 4; INSERT INTO lines VALUES ('later')";
    second.execute_in(&stage.source_name, later).await.unwrap();
    stage.catch_up().await;
    let moved = second.client_to(&stage.source_name).await.unwrap();
    let outcome = tidemark_lab::compare::Comparison::new(&moved, &stage.target)
        .schema("public", "public")
        .run()
        .await
        .unwrap();
    assert!(outcome.is_identical(), "{outcome}");
}

/// A pipeline whose source is read by way of a proxy, which counts.
async fn counted(name: &str) -> (Stage, Proxy) {
    let stage = Stage::new(name).await;
    let proxy = Proxy::start(stage.source_server.port()).await.unwrap();
    let url = stage
        .source_server
        .url_through(proxy.address(), &stage.source_name);
    stage.write_between(&url, &stage.target_url(), "");
    (stage, proxy)
}

/// Short rows, one in a thousand different and scattered: what is read to find them is counted, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_finds_scattered_differences_is_a_fiftieth_of_a_load() {
    let (stage, proxy) = counted("rec_narrow").await;
    stage
        .source_sql(
            "CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
             INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(1, 200000) i; ANALYZE",
        )
        .await;
    let read = || proxy.counters().to_client_bytes;
    stage.catch_up().await;
    let load = read();
    lose_the_slot(&stage).await;
    stage
        .source_sql("UPDATE accounts SET abalance = aid WHERE aid % 1000 = 1")
        .await;
    let ran = reconcile(&stage).await;
    let reconciled = read() - load;
    assert_eq!(counts(&found(&ran, "public.accounts")), json!([0, 200, 0]));
    assert!(
        reconciled * 50 < load,
        "{reconciled} bytes to reconcile, {load} to load"
    );
    stage.assert_identical().await;
    stage.clear().await;
}

/// Of a table that is nearly the same on both sides, nearly nothing is read: counted on the wire.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_is_as_much_as_differs() {
    let (stage, proxy) = counted("rec_bytes").await;
    stage
        .source_sql(
            "CREATE TABLE big (id int PRIMARY KEY, v text);
             INSERT INTO big SELECT i, repeat(md5(i::text), 16) FROM generate_series(1, 40000) i;
             ANALYZE",
        )
        .await;
    let read = || proxy.counters().to_client_bytes;
    stage.catch_up().await;
    let load = read();
    lose_the_slot(&stage).await;
    stage
        .source_sql(
            "UPDATE big SET v = 'x' || v WHERE id % 2000 = 1; DELETE FROM big WHERE id % 2000 = 2;
             INSERT INTO big VALUES (50000, 'new')",
        )
        .await;
    let ran = reconcile(&stage).await;
    let reconciled = read() - load;
    assert_eq!(counts(&found(&ran, "public.big")), json!([1, 20, 20]));
    assert!(
        reconciled * 50 < load,
        "{reconciled} bytes instead of {load}"
    );
    stage.assert_identical().await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_gap_is_not_reconciled() {
    let stage = Stage::new("rec_nothing").await;
    stage.source_sql(TABLES).await;
    let ran = stage.run(&["reconcile", "FILE", "--yes"]).await.expect(6);
    assert!(ran.stderr.contains("TM4060"), "{}", ran.stderr);
    stage.assert_nothing_on_the_source().await;
    stage.write("mode = \"full_load_only\"\n");
    stage.run(&["run", "FILE"]).await.expect(0);
    let ran = stage.run(&["reconcile", "FILE", "--yes"]).await.expect(6);
    assert!(ran.stderr.contains("TM4060"), "{}", ran.stderr);
    assert!(ran.stderr.contains("existing=swap"), "{}", ran.stderr);
}

/// A run that is stopped in the middle leaves it to the next, which says so meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_that_is_stopped_is_gone_on_with_by_the_next_run() {
    let stage = loaded("rec_stopped", "", TABLES).await;
    lose_the_slot(&stage).await;
    stage.source_sql(CHANGES).await;
    let mut command = stage.command(&["reconcile", "FILE", "--yes"]);
    command.env("TIDEMARK_FAILPOINT", "reconcile.begun:1");
    let mut run = stage.spawn(command);
    assert_eq!(run.killed_by().await, Some(9), "{}", stage.log());
    let table = stage.table("public.notes").await;
    assert_eq!(table["state"], "resyncing", "{table}");
    assert_eq!(table["reason"], "reconcile", "{table}");
    let run = stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "the tables to stream", || async {
        Ok((text(&stage.target, IS_LOADED).await? == "t").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    stage.wait_for_equal(stage.comparison()).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
