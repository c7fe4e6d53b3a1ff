//! What differs is found, down to the key, and only that is moved.

use serde_json::{Value, json};

use super::table;
use crate::stage::Stage;

/// Half a million rows, among them one whose value is flipped.
#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_value_among_many_rows_is_found_and_mended_alone() {
    let stage = Stage::new("verify_flip").await;
    stage
        .source_sql(
            "CREATE TABLE many (id int PRIMARY KEY, v text, n numeric);
             INSERT INTO many SELECT i, md5(i::text), i * 1.5 FROM generate_series(1, 500000) i;
             ANALYZE many",
        )
        .await;
    let run = stage.start_streaming().await;
    stage.verify(&[]).await.expect(0);
    stage
        .target_sql(
            "UPDATE many SET v = overlay(v PLACING 'x' FROM 7) WHERE id = 321987;
             CREATE SCHEMA aside;
             CREATE TABLE aside.before AS SELECT id, ctid AS place, xmin::text AS written FROM many",
        )
        .await;

    // Counting sees nothing.
    stage.verify(&["--counts"]).await.expect(0);
    let found = stage.verify(&[]).await.expect(3);
    let many = table(&found, "public.many");
    assert_eq!(found.json()["data"]["result"], "different");
    assert_eq!(many["source_rows"], 500_000);
    assert_eq!(many["different"], 1);
    assert_eq!(
        many["differences"],
        json!([{ "key": ["321987"], "kind": "other values" }])
    );

    let mended = stage.verify(&["--repair", "--yes"]).await.expect(0);
    assert_eq!(mended.json()["data"]["result"], "identical");
    stage.assert_identical().await;
    // What was mended is no load: told by the run, and later by what is recorded.
    let loaded = stage.table("public.many").await["rows_loaded"].clone();
    assert_eq!(loaded, 500_000);
    let moved = "SELECT string_agg(id::text, ',') FROM many JOIN aside.before b USING (id) \
                 WHERE (many.ctid, many.xmin::text) IS DISTINCT FROM (b.place, b.written)";
    stage.wait_for_target(moved, "321987").await;
    assert_eq!(run.terminate().await, Some(0));
    let recorded = "SELECT sum(rows) FROM tidemark.unit WHERE pipeline = 'verify_flip'";
    stage.wait_for_target(recorded, "500000").await;
    stage.clear().await;
}

/// Keys whose equality lies in the schema of an extension, or takes no text.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_mended_by_a_key_of_a_type_of_an_extension_or_of_ones_own() {
    let stage = Stage::new("verify_extension").await;
    let types = "CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION citext;
                 CREATE TYPE place AS (x numeric, name text); CREATE DOMAIN way AS ltree;
                 CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TYPE span AS RANGE (subtype = numeric);";
    stage.target_sql(types).await;
    stage.source_sql(types).await;
    let kinds = [
        ("hstore", "hstore('a', i::text)"),
        ("ltree", "text2ltree('top.n' || i)"),
        ("way", "text2ltree('top.n' || i)"),
        ("citext", "('Key' || i)::citext"),
        ("place", "ROW(i, 'it''s, \"' || i)::place"),
        ("mood", "(enum_range(NULL::mood))[i]"),
        ("span", "span(i, i + 1.5)"),
        ("place[]", "ARRAY[ROW(i, NULL)::place]"),
    ];
    for (number, (kind, value)) in kinds.iter().enumerate() {
        let sql = format!(
            "CREATE TABLE t{number} (id {kind}, v int, PRIMARY KEY (id, v)); \
             INSERT INTO t{number} SELECT {value}, i FROM generate_series(1, 2) i"
        );
        stage.source_sql(&sql).await;
    }
    let run = stage.start_streaming().await;
    for (number, (_, value)) in kinds.iter().enumerate() {
        let sql = format!(
            "DELETE FROM t{number} WHERE v = 1; \
             INSERT INTO t{number} SELECT {value}, 7 FROM generate_series(1, 1) i"
        );
        stage.target_sql(&sql).await;
    }
    let found = stage.verify(&[]).await.expect(3);
    for number in 0..kinds.len() {
        let name = format!("public.t{number}");
        assert_eq!(table(&found, &name)["different"], 2, "{name}");
    }
    let mended = stage.verify(&["--repair", "--yes"]).await.expect(0);
    assert_eq!(mended.json()["data"]["result"], "identical");
    stage.assert_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// What can be wrong with rows, in a table with a key and one without.
const TABLES: &str = "CREATE TABLE keyed (a int, b text, v text, n int, PRIMARY KEY (a, b));
    INSERT INTO keyed SELECT i, 'b' || i, nullif('v' || i, 'v50'), i FROM generate_series(1, 100) i;
    UPDATE keyed SET v = '' WHERE a = 60;
    CREATE TABLE keyless (v text, n int); ALTER TABLE keyless REPLICA IDENTITY FULL;
    INSERT INTO keyless SELECT 'v' || i % 10, i % 3 FROM generate_series(1, 100) i;
    CREATE TABLE untouched (id int PRIMARY KEY); INSERT INTO untouched VALUES (1)";

#[tokio::test(flavor = "multi_thread")]
async fn missing_extra_changed_and_doubled_rows_are_told_apart_and_mended() {
    let stage = Stage::new("verify_rows").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage
        .target_sql(
            "DELETE FROM keyed WHERE a = 10; INSERT INTO keyed VALUES (500, 'it''s', 'new', 1);
             UPDATE keyed SET v = '' WHERE a = 50; UPDATE keyed SET v = NULL WHERE a = 60;
             UPDATE keyed SET n = NULL WHERE a = 70;
             INSERT INTO keyless SELECT v, n FROM keyless LIMIT 1;
             DELETE FROM keyless WHERE ctid = (SELECT max(ctid) FROM keyless WHERE n = 2)",
        )
        .await;

    let found = stage.verify(&["--deep"]).await.expect(3);
    let keyed = table(&found, "public.keyed");
    assert_eq!(
        (&keyed["result"], &keyed["different"]),
        (&json!("different"), &json!(5))
    );
    let difference = |key: [&str; 2], kind: &str| json!({ "key": key, "kind": kind });
    assert_eq!(
        keyed["differences"],
        json!([
            difference(["10", "b10"], "missing on the target"),
            difference(["50", "b50"], "other values"),
            difference(["500", "it's"], "not on the source"),
            difference(["60", "b60"], "other values"),
            difference(["70", "b70"], "other values"),
        ])
    );
    let keyless = table(&found, "public.keyless");
    assert_eq!(
        (&keyless["source_rows"], &keyless["target_rows"]),
        (&json!(100), &json!(100))
    );
    assert_eq!(keyless["different"], 2, "one row twice, another missing");
    assert_eq!(table(&found, "public.untouched")["result"], "identical");

    // By name only what is named; by number only what numbers show.
    let untouched = stage
        .verify(&["--table", "public.untouched"])
        .await
        .expect(0);
    assert_eq!(
        untouched.json()["data"]["tables"].as_array().map(Vec::len),
        Some(1)
    );
    stage
        .verify(&["--counts", "--table", "public.keyless"])
        .await
        .expect(0);
    stage.target_sql("DELETE FROM keyless WHERE n = 2").await;
    let counted = stage.verify(&["--counts"]).await.expect(3);
    assert_eq!(table(&counted, "public.keyless")["different"], 32);
    assert_eq!(
        table(&counted, "public.keyed")["result"],
        "identical",
        "100 rows each"
    );

    let mended = stage.verify(&["--repair", "--yes"]).await.expect(0);
    assert_eq!(
        mended.json()["data"]["result"],
        "identical",
        "{}",
        mended.stdout
    );
    stage.assert_identical().await;
    stage
        .source_sql("UPDATE keyed SET n = -n; DELETE FROM keyless WHERE n = 0")
        .await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_masked_and_filtered_tables_are_compared_as_they_are_carried() {
    const MAPPING: &str = "[tables]\ninclude = [\"public.*\"]\n\
        [[table]]\nsource = \"public.people\"\ntarget = \"dw.persons\"\nrename = { born = \"birthday\" }\n\
        drop_columns = [\"note\"]\nwhere = \"id <> 13 and id < 1000\"\n\
        [[mask]]\ncolumns = [\"public.people.email\"]\nwith = \"hash\"\nsalt = \"pepper-and-salt-are-long\"\n\
        [[mask]]\ncolumns = [\"public.cards.number\"]\nwith = \"hash\"\nsalt = \"pepper-and-salt-are-long\"\n";
    let stage = Stage::new("verify_mapped").await;
    stage.write(MAPPING);
    stage
        .source_sql(
            "CREATE TABLE people (id int PRIMARY KEY, email text, born date, note text);
             INSERT INTO people SELECT i, i || '@example.com', date '2000-01-01' + i, 'n' || i
               FROM generate_series(1, 1200) i;
             CREATE TABLE cards (number text PRIMARY KEY, owner int);
             INSERT INTO cards SELECT '4000-0000-' || 1000 + i, i FROM generate_series(1, 50) i",
        )
        .await;
    let run = stage.start_streaming().await;
    let same = stage.verify(&[]).await.expect(0);
    let people = table(&same, "public.people");
    assert_eq!(
        (&people["source_rows"], &people["target"]),
        (&json!(998), &json!("dw.persons"))
    );

    stage
        .target_sql(
            "UPDATE dw.persons SET birthday = birthday + 1 WHERE id = 5;
             UPDATE dw.persons SET email = '6@example.com' WHERE id = 6;
             INSERT INTO dw.persons VALUES (13, 'x', '2000-01-14');
             UPDATE cards SET owner = -1 WHERE owner = 7",
        )
        .await;
    let found = stage.verify(&[]).await.expect(3);
    let people = table(&found, "public.people");
    let keys: Vec<&Value> = people["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["key"][0])
        .collect();
    assert_eq!(keys, ["13", "5", "6"]);
    assert_eq!(table(&found, "public.cards")["different"], 1);
    assert!(
        !found.stdout.contains("@example"),
        "no values: {}",
        found.stdout
    );

    // By keys where these tell the row on the source, the whole table where they are masked.
    let mended = stage.verify(&["--repair", "--yes"]).await.expect(0);
    assert_eq!(mended.json()["data"]["result"], "identical");
    stage
        .wait_for_target("SELECT count(*) FROM dw.persons WHERE id = 13", "0")
        .await;
    stage
        .wait_for_target("SELECT owner FROM cards WHERE owner = 7", "7")
        .await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_differences_than_a_list_holds_are_not_counted_for_ever_and_are_mended() {
    let stage = Stage::new("verify_many").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT i, i FROM generate_series(1, 30000) i",
        )
        .await;
    let run = stage.start_streaming().await;
    stage
        .target_sql("UPDATE t SET v = '' WHERE id % 2 = 0")
        .await;
    let found = stage.verify(&[]).await.expect(3);
    let t = table(&found, "public.t");
    assert!(
        t["different"].as_u64() >= Some(10_000),
        "{}",
        t["different"]
    );
    assert_eq!(t["differences"].as_array().map(Vec::len), Some(10_000));
    stage.verify(&["--repair", "--yes"]).await.expect(0);
    stage.assert_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Nobody runs it any more who could copy rows anew: what is said to do instead works.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_alone_that_differs_is_mended_by_the_command_that_is_printed() {
    let stage = Stage::new("verify_full_load").await;
    stage.write("mode = \"full_load_only\"\n");
    stage.source_sql(TABLES).await;
    stage.run(&["run", "FILE"]).await.expect(0);
    stage
        .target_sql("DELETE FROM keyed WHERE a = 10; INSERT INTO keyless VALUES ('v1', 1)")
        .await;
    let again = "tidemark run verify_full_load --set target.existing=swap";
    let found = stage.run(&["verify", "FILE"]).await.expect(3);
    assert!(found.stderr.contains(again), "{}", found.stderr);
    assert!(!found.stderr.contains("--repair"), "{}", found.stderr);
    let refused = stage.verify(&["--repair", "--yes"]).await.expect(6);
    let problem = refused.json()["error"].clone();
    assert_eq!(problem["code"], "TM7042", "{problem}");
    assert!(problem.to_string().contains("existing=swap"), "{problem}");
    // Nor is anybody asked for consent to what cannot be done.
    let resync = ["resync", "FILE", "--table", "public.keyed"];
    let refused = stage.run(&resync).await.expect(6).stderr;
    assert!(
        refused.contains("TM7042") && refused.contains(again),
        "{refused}"
    );
    assert!(!refused.contains("consent"), "{refused}");
    stage
        .run(&["run", "FILE", "--set", "target.existing=swap"])
        .await
        .expect(0);
    stage.verify(&[]).await.expect(0);
    stage.assert_identical().await;
}
