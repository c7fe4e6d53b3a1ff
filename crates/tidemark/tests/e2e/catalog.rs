//! What happens to tables of the source beside the log: dropped and made again, taken out of the
//! publication, while the pipeline runs and while it does not. None of it may leave a table behind
//! that looks well.

use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const TABLES: &str = "CREATE TABLE notes (id int PRIMARY KEY, v text);
    CREATE TABLE lines (v text); ALTER TABLE lines REPLICA IDENTITY FULL;
    INSERT INTO notes SELECT i, 'first' FROM generate_series(1, 100) i;
    INSERT INTO lines SELECT 'first' FROM generate_series(1, 100) i;";

const AGAIN: &str = "DROP TABLE notes; CREATE TABLE notes (id int PRIMARY KEY, v text);
    INSERT INTO notes SELECT i, 'again' FROM generate_series(50, 120) i;";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_again_while_nobody_ran_is_loaded_anew() {
    for killed in [false, true] {
        let stage = Stage::new(&format!("catalog_again_{killed}")).await;
        stage.source_sql(TABLES).await;
        stage.catch_up().await;
        stage
            .source_sql("INSERT INTO notes VALUES (500, 'of the old one')")
            .await;
        stage.source_sql(AGAIN).await;
        stage.source_sql("INSERT INTO lines VALUES ('more')").await;
        if killed {
            // Between the state and the load, or within it: the next run knows all the same.
            let run = stage.start(&["run", "FILE"]);
            let state = "SELECT state FROM tidemark.table_state WHERE source_name = 'notes'";
            stage.wait_for_target(state, "resyncing").await;
            run.kill9().await;
        }
        let run = stage.start(&["run", "FILE"]);
        stage.wait_until_identical().await;
        stage.wait_for_table("public.notes", "streaming").await;
        stage
            .source_sql("INSERT INTO notes VALUES (600, 'later'); DELETE FROM notes WHERE id < 60")
            .await;
        stage.wait_until_identical().await;
        assert_eq!(run.terminate().await, Some(0));
        stage.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_table_that_was_taken_out_of_the_publication_is_loaded_anew() {
    let stage = Stage::new("catalog_taken_out").await;
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    let out = "ALTER PUBLICATION tidemark_catalog_taken_out DROP TABLE notes";
    stage.source_sql(out).await;
    let unseen =
        "INSERT INTO notes VALUES (500, 'unseen'); UPDATE notes SET v = 'unseen' WHERE id < 10;
        DELETE FROM notes WHERE id > 90 AND id < 500; INSERT INTO lines VALUES ('seen')";
    stage.source_sql(unseen).await;
    let mut run = stage.start(&["run", "FILE"]);
    stage.wait_until_identical().await;
    run.wait_for_log("was not announced").await;
    stage.wait_for_table("public.notes", "streaming").await;
    stage
        .source_sql("INSERT INTO notes VALUES (600, 'seen'); DELETE FROM notes WHERE id = 1")
        .await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));

    // Who wrote to it before it is published again, and does not commit, keeps nobody but this table waiting.
    stage.write("[source.postgres]\nslot_creation_timeout = \"1s\"\n");
    let open = stage.source_server.client_to(&stage.source_name).await;
    let open = open.unwrap();
    let begin = "BEGIN; INSERT INTO notes VALUES (700, 'open')";
    open.batch_execute(begin).await.unwrap();
    stage.source_sql(out).await;
    let mut run = stage.start(&["run", "FILE"]);
    run.wait_for_log("before they were published").await;
    stage
        .source_sql("INSERT INTO lines VALUES ('meanwhile')")
        .await;
    let lines = stage.comparison().only("public", "lines");
    stage.wait_for_equal(lines).await;
    open.batch_execute("COMMIT").await.unwrap();
    stage.wait_until_identical().await;
    stage.wait_for_table("public.notes", "streaming").await;
    assert_eq!(run.terminate().await, Some(0));
    stage.catch_up().await;
    stage.assert_identical().await;
    stage.clear().await;
}

/// The log does not tell, so the catalog is asked: what may be wrong is said, what is not is not.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_change_as_a_whole_are_told_of_and_repaired_by_verify() {
    let stage = Stage::new("catalog_partitions").await;
    let tables = "CREATE TABLE sale (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE sale_1 PARTITION OF sale FOR VALUES IN (1);
        CREATE TABLE sale_2 PARTITION OF sale FOR VALUES IN (2);
        CREATE TABLE sale_3 PARTITION OF sale FOR VALUES IN (3);
        CREATE TABLE sale_5 (id int NOT NULL, part int NOT NULL, v text, PRIMARY KEY (id, part));
        CREATE TABLE sale_6 PARTITION OF sale FOR VALUES IN (6);
        CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY HASH (id);
        CREATE TABLE whole_0 PARTITION OF whole FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        INSERT INTO sale SELECT i, 1 + i % 3, 'v' FROM generate_series(1, 300) i;
        INSERT INTO sale_5 SELECT i, 5, 'attached' FROM generate_series(1, 20) i;
        INSERT INTO whole SELECT generate_series(1, 50);";
    stage.source_sql(tables).await;
    stage.write("[tables]\ninclude = [\"public.sale\", \"public.whole\"]\n");
    let checked = stage.run(&["check", "FILE", "-v"]).await;
    assert!(
        checked.stdout.contains("TM1052") && checked.stdout.contains("public.sale"),
        "{}",
        checked.stdout
    );
    let mut run = stage.start_streaming().await;
    for sql in [
        "TRUNCATE sale_1",
        "ALTER TABLE sale ATTACH PARTITION sale_5 FOR VALUES IN (5)",
        "ALTER TABLE sale DETACH PARTITION sale_3",
        "ALTER TABLE sale DETACH PARTITION sale_6; INSERT INTO sale_6 VALUES (2000, 6, 'apart'); \
         ALTER TABLE sale ATTACH PARTITION sale_6 FOR VALUES IN (6)",
        // What comes by the log, or brings nothing.
        "CREATE TABLE sale_4 PARTITION OF sale FOR VALUES IN (4)",
        "TRUNCATE whole",
        "INSERT INTO sale VALUES (1000, 4, 'new'), (1001, 1, 'new'), (1002, 5, 'new')",
        "INSERT INTO whole VALUES (7)",
    ] {
        stage.source_sql(sql).await;
    }
    for said in [
        "public.sale_1 of public.sale has new storage",
        "public.sale_5 of public.sale was attached",
        "public.sale_3 of public.sale was detached or dropped",
        "public.sale_6 of public.sale was detached and attached again",
    ] {
        run.wait_for_log(said).await;
    }
    let log = stage.log();
    for quiet in ["sale_2 of", "sale_4 of", "whole_0 of"] {
        assert!(!log.contains(quiet), "{quiet} in {log}");
    }
    wait_for(PATIENCE, "the health to say so", || async {
        Ok((stage.status().await["health"] == "notice").then_some(()))
    })
    .await
    .unwrap();
    let whole = stage.comparison().only("public", "whole");
    stage.wait_for_equal(whole).await;
    stage.run(&["verify", "FILE"]).await.expect(3);
    let repair = ["verify", "FILE", "--repair", "--yes"];
    stage.run(&repair).await.expect(0);
    let sale = stage.comparison().only("public", "sale");
    stage.wait_for_equal(sale).await;
    assert_eq!(run.terminate().await, Some(0));
    // While none runs.
    stage.source_sql("TRUNCATE sale_2").await;
    let said = "public.sale_2 of public.sale has new storage";
    for is_news in [true, false] {
        let log = stage.catch_up().await.stderr;
        assert_eq!(log.contains(said), is_news, "{log}");
        assert!(
            !log.contains("sale_1 of") && !log.contains("whole_0 of"),
            "{log}"
        );
    }
    stage.clear().await;
}

/// Rows that only the catalog tells of come and go by themselves where everything is to be followed.
#[tokio::test(flavor = "multi_thread")]
async fn f24_partitions_that_change_as_a_whole_are_followed_by_apply() {
    let stage = Stage::new("catalog_partitions_apply").await;
    let tables = "CREATE TABLE sale (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE sale_1 PARTITION OF sale FOR VALUES IN (1);
        CREATE TABLE sale_2 PARTITION OF sale FOR VALUES IN (2);
        CREATE TABLE sale_3 PARTITION OF sale FOR VALUES IN (3);
        CREATE TABLE sale_5 (id int NOT NULL, part int NOT NULL, v text, PRIMARY KEY (id, part));
        CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO sale SELECT i, 1 + i % 3, 'v' FROM generate_series(1, 300) i;
        INSERT INTO sale_5 SELECT i, 5, 'attached' FROM generate_series(1, 20) i;";
    stage.source_sql(tables).await;
    stage.write(
        "[tables]\ninclude = [\"public.sale\", \"public.other\"]\n\
         [target]\non_schema_change = \"apply\"\n",
    );
    let run = stage.start_streaming().await;
    for sql in [
        "TRUNCATE sale_1; INSERT INTO sale VALUES (1001, 1, 'new'); INSERT INTO other VALUES (1)",
        "ALTER TABLE sale ATTACH PARTITION sale_5 FOR VALUES IN (5); UPDATE sale SET v = 'x' WHERE id < 9",
        "ALTER TABLE sale DETACH PARTITION sale_3; DELETE FROM sale WHERE id = 10",
    ] {
        stage.source_sql(sql).await;
        let whole = stage.comparison().only("public", "sale");
        stage.wait_for_equal(whole).await;
        stage.wait_for_table("public.sale", "streaming").await;
    }
    // What no look at the catalog has seen, or not as it was.
    for (round, ends) in ["DROP TABLE sale_7", "TRUNCATE sale_7"]
        .into_iter()
        .enumerate()
    {
        let at = 100 + round;
        for sql in [
            "CREATE TABLE sale_7 PARTITION OF sale FOR VALUES IN (7)",
            "INSERT INTO sale SELECT i, 7, 'short' FROM generate_series(3000, 3010) i",
            ends,
            &format!("INSERT INTO other VALUES ({at})"),
        ] {
            stage.source_sql(sql).await;
        }
        let is_in = format!("SELECT count(*) FROM other WHERE id = {at}");
        stage.wait_for_target(&is_in, "1").await;
        let whole = stage.comparison().only("public", "sale");
        stage.wait_for_equal(whole).await;
        stage.wait_for_table("public.sale", "streaming").await;
    }
    stage
        .source_sql("INSERT INTO sale VALUES (1002, 5, 'new')")
        .await;
    let whole = stage.comparison().only("public", "sale");
    stage.wait_for_equal(whole).await;
    stage.run(&["verify", "FILE"]).await.expect(0);
    // It is there, and cannot be copied.
    stage.source_sql("ALTER TABLE sale_1 SET UNLOGGED").await;
    let said = "its partition public.sale_1 is unlogged";
    wait_for(PATIENCE, "the reason", || async {
        let table = stage.table("public.sale").await;
        Ok(table["reason"].to_string().contains(said).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    for wrong in ["is gone on the source", "has no table"] {
        assert!(!stage.log().contains(wrong), "{}", stage.log());
    }
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Nobody has looked between the change and the end of the run, or no run was there.
#[tokio::test(flavor = "multi_thread")]
async fn f24_partitions_that_change_while_nobody_looks_are_followed_by_the_next_run() {
    let stage = Stage::new("catalog_partitions_unseen").await;
    let tables =
        "CREATE TABLE sale (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE sale_1 PARTITION OF sale FOR VALUES IN (1);
        CREATE TABLE sale_2 PARTITION OF sale FOR VALUES IN (2);
        CREATE TABLE sale_3 PARTITION OF sale FOR VALUES IN (3);
        CREATE TABLE sale_5 (id int NOT NULL, part int NOT NULL, PRIMARY KEY (id, part));
        CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY HASH (id);
        CREATE TABLE whole_0 PARTITION OF whole FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        INSERT INTO sale SELECT i, 1 + i % 3 FROM generate_series(1, 300) i;
        INSERT INTO sale_5 SELECT i, 5 FROM generate_series(1, 20) i;
        INSERT INTO whole SELECT generate_series(1, 50);";
    stage.source_sql(tables).await;
    stage.write(
        "[tables]\ninclude = [\"public.sale\", \"public.whole\"]\n\
         [target]\non_schema_change = \"apply\"\n[stream]\ncatalog_interval = \"1 h\"\n\
         [verify]\nafter_load = \"off\"\n",
    );
    let equal = || stage.comparison().only("public", "sale");
    let run = stage.start_streaming().await;
    for sql in [
        "TRUNCATE sale_1",
        "ALTER TABLE sale DETACH PARTITION sale_3",
        // What comes by the log, and is in when the run is killed.
        "TRUNCATE whole",
        "INSERT INTO whole VALUES (7)",
    ] {
        stage.source_sql(sql).await;
    }
    let in_it = "SELECT count(*) FROM whole";
    stage.wait_for_target(in_it, "1").await;
    run.kill9().await;
    let log = stage.catch_up().await.stderr;
    stage.wait_for_equal(equal()).await;
    for said in ["sale_1 of public.sale has new", "sale_3 of public.sale was"] {
        assert!(log.contains(said), "{said} in {log}");
    }
    assert!(!log.contains("whole_0 of"), "{log}");

    let stopped = "TRUNCATE sale_2; INSERT INTO sale VALUES (1001, 2); \
        ALTER TABLE sale ATTACH PARTITION sale_5 FOR VALUES IN (5)";
    stage.source_sql(stopped).await;
    // Killed once more, when what is to be done about it is recorded.
    let run = stage.start(&["run", "FILE"]);
    let state = "SELECT count(*) FROM tidemark.table_state WHERE source_name = 'sale' \
                 AND reason = 'reconcile' AND partitions::text LIKE '%sale_5%'";
    let ended = wait_for(PATIENCE, "the table to be set aside", || async {
        let is_aside = text(&stage.target, state).await? == "1";
        let rows = "SELECT count(*) FROM sale WHERE part = 5";
        let is_over = text(&stage.target, rows).await? == "20";
        Ok((is_aside || is_over).then_some(()))
    });
    ended.await.unwrap();
    run.kill9().await;
    stage.catch_up().await;
    stage.wait_for_equal(equal().only("public", "whole")).await;
    let log = stage.catch_up().await.stderr;
    assert!(!log.contains(" of public.sale "), "nothing is left: {log}");
    stage.clear().await;
}
