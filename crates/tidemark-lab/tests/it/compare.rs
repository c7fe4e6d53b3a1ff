use std::time::Duration;

use tidemark_lab::PostgresServer;
use tidemark_lab::compare::{Comparison, Difference};
use tokio_postgres::Client;

const TABLES: &str = r#"
    CREATE TABLE keyed (id int PRIMARY KEY, t text, c char(5), n numeric, b bytea);
    INSERT INTO keyed SELECT i, 'row ' || i, 'x', i / 3.0, decode(md5(i::text), 'hex')
        FROM generate_series(1, 2000) i;
    INSERT INTO keyed VALUES (-1, NULL, NULL, 'NaN', NULL), (-2, '', '', NULL, ''),
        (-3, repeat('long', 100000), NULL, 0, NULL);
    CREATE TABLE keyless (t text, at timestamptz);
    INSERT INTO keyless VALUES ('twice', 'infinity'), ('twice', 'infinity'), ('', NULL), (NULL, NULL);
    CREATE SCHEMA "Odd.One"; CREATE TABLE "Odd.One"."ta""ble" ("co l" int);
    INSERT INTO "Odd.One"."ta""ble" VALUES (1);
    CREATE TABLE "no columns" (); INSERT INTO "no columns" DEFAULT VALUES;"#;

async fn two_databases() -> (Client, Client) {
    let server = PostgresServer::shared().await.unwrap();
    let mut clients = Vec::new();
    for prefix in ["compare_source", "compare_target"] {
        let database = server.fresh_database(prefix).await.unwrap();
        let client = server.client_to(&database).await.unwrap();
        client.batch_execute(TABLES).await.unwrap();
        clients.push(client);
    }
    let target = clients.pop().unwrap();
    (clients.pop().unwrap(), target)
}

#[tokio::test]
async fn equal_tables_are_identical() {
    let (source, target) = two_databases().await;
    let outcome = Comparison::new(&source, &target).run().await.unwrap();
    assert!(outcome.is_identical(), "{outcome}");
    assert_eq!((outcome.rows(), outcome.tables.len()), (2009, 4));
}

#[tokio::test]
async fn every_kind_of_difference_is_told() {
    let (source, target) = two_databases().await;
    let plant = "
        DELETE FROM keyed WHERE id = 7;
        UPDATE keyed SET t = NULL WHERE id = -2;
        UPDATE keyed SET t = t || '!' WHERE id = -3;
        INSERT INTO keyed VALUES (5000, 'new', 'y', 1, NULL);
        INSERT INTO keyless VALUES ('twice', 'infinity');
        ALTER TABLE \"Odd.One\".\"ta\"\"ble\" ADD extra int; DROP TABLE \"no columns\";";
    target.batch_execute(plant).await.unwrap();
    let outcome = Comparison::new(&source, &target).run().await.unwrap();
    let keyed = outcome.table("public", "keyed").unwrap();
    assert_eq!(
        (keyed.source_rows, keyed.target_rows, keyed.different),
        (2003, 2003, 6)
    );
    let told = outcome.to_string();
    for part in [
        "missing (\"7\", \"row 7\", \"x    \", \"2.3333333333333333\", ",
        "surplus (\"5000\", \"new\"",
        "changed (\"-2\"): t: \"\" -> NULL",
        "changed (\"-3\"): t: \"longlonglong",
        "surplus (\"twice\", \"infinity\")",
        "column extra is in the target only",
        "the table is not in the target",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let missing = Difference::Structure("the table is not in the target".to_owned());
    assert!(
        outcome
            .tables
            .iter()
            .any(|table| table.differences.contains(&missing))
    );
}

#[tokio::test]
async fn renames_masks_and_filters_are_followed() {
    let (source, target) = two_databases().await;
    let change = "
        ALTER SCHEMA \"Odd.One\" RENAME TO dw; ALTER TABLE keyless RENAME TO loose;
        ALTER TABLE loose RENAME at TO moment;
        UPDATE keyed SET t = 'masked'; DELETE FROM keyed WHERE id > 100;";
    target.batch_execute(change).await.unwrap();
    let comparison = Comparison::new(&source, &target)
        .schema("Odd.One", "dw")
        .table(("public", "keyless"), ("public", "loose"))
        .column(("public", "keyless"), "at", "moment")
        .skip_column(("public", "keyed"), "t")
        .filter(("public", "keyed"), "id <= 100");
    let outcome = comparison.run().await.unwrap();
    assert!(outcome.is_identical(), "{outcome}");
    let outcome = Comparison::new(&source, &target)
        .only("public", "keyed")
        .run()
        .await
        .unwrap();
    assert!(!outcome.is_identical() && outcome.tables.len() == 1);
}

#[tokio::test]
async fn latin1_equals_utf8() {
    let latin1 = PostgresServer::builder()
        .encoding("LATIN1")
        .start()
        .await
        .unwrap();
    let utf8 = PostgresServer::shared().await.unwrap();
    let database = utf8.fresh_database("latin1_target").await.unwrap();
    let (source, target) = (
        latin1.client().await.unwrap(),
        utf8.client_to(&database).await.unwrap(),
    );
    let rows = "CREATE TABLE t (a text);
        INSERT INTO t VALUES ('zebra'), ('Ünïcödé'), ('ÿ'), (repeat('é', 5000));";
    for client in [&source, &target] {
        client.batch_execute(rows).await.unwrap();
    }
    let comparison = Comparison::new(&source, &target);
    let outcome = comparison
        .wait_until_identical(Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(outcome.rows(), 4);
    target
        .batch_execute("UPDATE t SET a = replace(a, 'é', 'e')")
        .await
        .unwrap();
    let error = comparison
        .wait_until_identical(Duration::ZERO)
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("4 without an equal"), "{error}");
}
