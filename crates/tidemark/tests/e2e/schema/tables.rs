//! Tables that come, go, come again, or are called otherwise; and many of them at once.

use std::sync::atomic::{AtomicU32, Ordering};

use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const IGNORED: &str = "[tables]\ninclude = [\"public.*\"]\nnew_tables = \"ignore\"\n";

pub(super) async fn staged(name: &str, tables: &[&str], more: &str) -> Stage {
    let stage = Stage::new(name).await;
    for table in tables {
        let sql = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v text); \
             INSERT INTO {table} SELECT i, 'row ' || i FROM generate_series(1, 50) i"
        );
        stage.source_sql(&sql).await;
    }
    stage.write(more);
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_a_table_that_goes_or_is_called_otherwise_stops_nobody_else() {
    let tables = ["renamed", "dropped", "good"];
    let stage = staged("schema_gone", &tables, IGNORED).await;
    // The new name is the first that this run hears of it.
    let mut run = stage.start_streaming().await;
    stage
        .source_sql(
            "ALTER TABLE renamed RENAME TO called; INSERT INTO called VALUES (60, 'new'); \
                     UPDATE called SET v = 'changed' WHERE id = 1; DROP TABLE dropped; \
                     INSERT INTO good VALUES (60, 'new')",
        )
        .await;
    let good = stage.comparison().only("public", "good");
    stage.wait_for_equal(good).await;
    stage.wait_for_table("public.renamed", "quarantined").await;
    let table = stage.table("public.renamed").await;
    let reason = table["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("TM4032") && reason.contains("public.called"),
        "{table}"
    );
    assert!(run.is_running(), "{}", stage.log());
    // What the target had stays there.
    let kept = "SELECT count(*) FROM dropped";
    assert_eq!(text(&stage.target, kept).await.unwrap(), "50");
    stage.wait_for_table("public.dropped", "excluded").await;
    let dropped = stage.table("public.dropped").await["reason"].to_string();
    assert!(dropped.contains("gone on the source"), "{dropped}");

    // Called as before it is loaded anew, with all that happened meanwhile.
    stage
        .source_sql("ALTER TABLE called RENAME TO renamed; DELETE FROM renamed WHERE id = 2")
        .await;
    let resync = ["resync", "FILE", "--table", "public.renamed", "--yes"];
    stage.run(&resync).await.expect(0);
    stage
        .source_sql("INSERT INTO renamed VALUES (70, 'newer')")
        .await;
    let renamed = stage.comparison().only("public", "renamed");
    stage.wait_for_equal(renamed).await;
    stage.wait_for_table("public.renamed", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));

    // A later run does not know it at all.
    let run = stage.start_streaming().await;
    stage.wait_for_table("public.dropped", "excluded").await;
    stage
        .source_sql("CREATE TABLE dropped (id int PRIMARY KEY, v text); INSERT INTO dropped VALUES (1, 'again')")
        .await;
    assert_eq!(run.terminate().await, Some(0));
    let run = stage.start_streaming().await;
    stage.wait_for_table("public.dropped", "streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_f20_a_new_table_comes_by_policy_and_one_made_again_in_any_case() {
    let stage = staged("schema_new", &["again", "good"], IGNORED).await;
    stage.catch_up().await;
    stage
        .source_sql(
            "DROP TABLE again; CREATE TABLE again (id int PRIMARY KEY, w int); \
                     INSERT INTO again SELECT i, i FROM generate_series(1, 20) i; \
                     CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1), (2)",
        )
        .await;
    let run = stage.start_streaming().await;
    let again = stage.comparison().only("public", "again");
    stage.wait_for_equal(again).await;
    stage.wait_for_table("public.again", "streaming").await;
    assert!(!stage.log().contains("public.fresh"), "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0));

    for (word, said) in [("notify", "is not carried"), ("add", "is new")] {
        stage.write(&IGNORED.replace("ignore", word));
        let mut run = stage.start_streaming().await;
        run.wait_for_log(said).await;
        stage
            .source_sql("INSERT INTO again VALUES (100, 100)")
            .await;
        let again = stage.comparison().only("public", "again");
        stage.wait_for_equal(again).await;
        if word == "notify" {
            let fresh = "SELECT to_regclass('public.fresh') IS NULL";
            assert_eq!(text(&stage.target, fresh).await.unwrap(), "t");
            stage.source_sql("DELETE FROM again WHERE id = 100").await;
        } else {
            stage.source_sql("INSERT INTO fresh VALUES (3)").await;
            stage.wait_until_identical().await;
            stage.wait_for_table("public.fresh", "streaming").await;
            // It goes in the run that it came in.
            stage.source_sql("DROP TABLE fresh").await;
            stage.wait_for_table("public.fresh", "excluded").await;
        }
        assert_eq!(run.terminate().await, Some(0));
    }
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_after_a_change_of_shape_goes_on_with_it() {
    let tables = ["filled", "random", "wider", "good"];
    let stage = staged("schema_killed", &tables, "").await;
    let mut run = stage.start_streaming().await;
    for (said, change) in [
        (
            "filled",
            "ALTER TABLE filled ADD c int DEFAULT 5; UPDATE filled SET c = 6 WHERE id = 1",
        ),
        (
            "random",
            "ALTER TABLE random ADD c float8 DEFAULT random(); UPDATE random SET c = 6 WHERE id = 1",
        ),
        (
            "wider",
            "ALTER TABLE wider ALTER id TYPE bigint; INSERT INTO wider VALUES (5000000000, 'far')",
        ),
    ] {
        stage.source_sql(change).await;
        // Somewhere between hearing of it and having done it.
        wait_for(PATIENCE, said, || async {
            let log = run.log();
            let mut lines = log.lines().filter(|line| line.contains("schema changed"));
            Ok(lines.any(|line| line.contains(said)).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
        run.kill9().await;
        run = stage.start(&["run", "FILE"]);
    }
    stage
        .source_sql("INSERT INTO good VALUES (60, 'new')")
        .await;
    stage.wait_until_identical().await;
    for table in tables {
        stage
            .wait_for_table(&format!("public.{table}"), "streaming")
            .await;
    }
    assert_eq!(run.terminate().await, Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

/// The log has nothing of them: it announces a table before the next change of a row.
#[tokio::test(flavor = "multi_thread")]
async fn f21_a_table_to_which_nobody_writes_is_followed_too() {
    let tables = ["added", "written", "moved", "good"];
    let stage = staged(
        "schema_idle",
        &tables,
        "[target]\non_schema_change = \"apply\"\n[stream]\ncatalog_interval = \"1 h\"\n",
    )
    .await;
    let cut = "CREATE TABLE cut (id int PRIMARY KEY, n int) PARTITION BY HASH (id);
        CREATE TABLE cut_0 PARTITION OF cut FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE cut_1 PARTITION OF cut FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO cut SELECT i, i FROM generate_series(1, 50) i";
    stage.source_sql(cut).await;
    let run = stage.start_streaming().await;
    stage.source_sql("UPDATE good SET v = 'w'").await;
    stage.wait_until_identical().await;
    stage
        .source_sql(
            "ALTER TABLE added ADD c int DEFAULT 5; ALTER TABLE written ALTER v TYPE text USING upper(v); \
             ALTER TABLE cut ALTER n TYPE int USING n * 2; INSERT INTO good VALUES (60, 'new')",
        )
        .await;
    stage.source_sql("VACUUM FULL moved").await;
    let good = stage.comparison().only("public", "good");
    stage.wait_for_equal(good).await;
    // Nobody has looked by then.
    run.kill9().await;
    let ran = stage.catch_up().await;
    stage.assert_identical().await;
    let log = ran.stderr;
    // Of the partitioned one it is the first thing or the second that is noticed, besides its new storage.
    let is_told = log.contains("values of column v written anew");
    assert!(is_told && !log.contains("public.moved"), "{log}");
    stage.clear().await;
}

/// Every load takes connections on both sides, which others need too.
#[tokio::test(flavor = "multi_thread")]
async fn many_tables_are_loaded_anew_a_few_at_a_time() {
    let names: Vec<String> = (0..40).map(|i| format!("t{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let stage = staged("schema_many", &names, "").await;
    let run = stage.start_streaming().await;
    let resync = ["resync", "FILE", "--yes", "--no-wait"];
    stage.run(&resync).await.expect(0);
    let most = AtomicU32::new(0);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let resyncing = "SELECT count(*) FROM tidemark.table_state WHERE state = 'resyncing'";
    wait_for(PATIENCE, "all tables to be loaded", || async {
        for side in [&stage.source, &stage.target] {
            most.fetch_max(text(side, open).await?.parse()?, Ordering::Relaxed);
        }
        Ok((text(&stage.target, resyncing).await? == "0").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    let most = most.into_inner();
    assert!((4..=24).contains(&most), "{most} connections at once");
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// What was known of the table before says nothing of the one that has its name now.
#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_table_made_anew_with_other_columns_in_their_place_keeps_nobody_waiting() {
    let filter = "[[table]]\nsource = \"public.t\"\nwhere = \"n > 2\"\n";
    let stage = staged("schema_anew_filtered", &["good"], filter).await;
    let before = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1), (3, 3)";
    stage.source_sql(before).await;
    let run = stage.start_streaming().await;
    stage.wait_for_table("public.t", "streaming").await;
    run.terminate().await;
    let anew = "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text, n int); \
        INSERT INTO t VALUES (4, 'a', 4), (5, 'b', 1); INSERT INTO good VALUES (60, 'new')";
    stage.source_sql(anew).await;
    let run = stage.start(&["run", "FILE"]);
    let comparison = stage.comparison().only("public", "good");
    let filtered = comparison
        .only("public", "t")
        .filter(("public", "t"), "n > 2");
    stage.wait_for_equal(filtered).await;
    stage.wait_for_table("public.t", "streaming").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A table that was seen and is gone when the source is told to announce it: that is its own affair.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_that_goes_before_it_is_announced_stops_nobody() {
    let stage = Stage::new("schema_new_goes").await;
    stage.write(
        "[tables]\ninclude = [\"public.*\"]\nnew_tables = \"add\"\n[verify]\nafter_load = \"off\"\n",
    );
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE kept (id int PRIMARY KEY)")
        .await;
    let run = stage.start_streaming().await;
    stage.target_sql("ALTER TABLE kept SET UNLOGGED").await;
    let goes = stage.source_server.client_to(&stage.source_name).await;
    let goes = goes.unwrap();
    run.signal(rustix::process::Signal::STOP);
    stage
        .source_sql("CREATE TABLE fresh (id int PRIMARY KEY)")
        .await;
    // It can be looked at, and not yet announced.
    let hold = "BEGIN; LOCK TABLE fresh IN SHARE MODE";
    goes.batch_execute(hold).await.unwrap();
    run.signal(rustix::process::Signal::CONT);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND query LIKE 'ALTER PUBLICATION%fresh%'";
    wait_for(PATIENCE, "the announcement to wait", || async {
        Ok((text(&stage.source, waits).await? == "1").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    goes.batch_execute("DROP TABLE fresh; COMMIT")
        .await
        .unwrap();
    stage.wait_for_table("public.fresh", "quarantined").await;
    // The same look has seen what a crash of the target would empty.
    stage.wait_for_table("public.kept", "quarantined").await;
    let reason = stage.table("public.kept").await["reason"].to_string();
    assert!(reason.contains("TM4063"), "{reason}");
    stage.source_sql("INSERT INTO t VALUES (1)").await;
    stage.wait_for_target("SELECT count(*) FROM t", "1").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
