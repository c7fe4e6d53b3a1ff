//! Every type of PostgreSQL, by the load and by the stream: the same bytes from both.

use tidemark_lab::zoo::Zoo;
use tokio_postgres::Client;

use crate::asks::text;
use crate::stage::Stage;

const EVERYTHING: &str = "[tables]\ninclude = [\"*.*\"]\n";

/// The zoo on the source, its extensions on the target, all of it selected.
async fn zoo(name: &str) -> (Stage, Zoo) {
    let stage = Stage::new(name).await;
    let zoo = Zoo::create(&stage.source).await.unwrap();
    assert!(
        zoo.kinds() > 100,
        "{}, without {:?}",
        zoo.kinds(),
        zoo.left_out
    );
    zoo.prepare_target(&stage.target).await.unwrap();
    stage.write(EVERYTHING);
    (stage, zoo)
}

/// What came by the load has ids below 1000; the same value came by the log 1000 above it.
async fn assert_both_ways_alike(target: &Client) {
    let query = "SELECT string_agg(format('SELECT %L AS name, count(*) AS pairs, \
                   count(*) FILTER (WHERE l.v::text IS DISTINCT FROM s.v::text) AS different \
                   FROM zoo.%I l JOIN zoo.%I s ON s.id = l.id + 1000 WHERE l.id < 1000', \
                   relname, relname, relname), ' UNION ALL ') \
                 FROM pg_class WHERE relnamespace = 'zoo'::regnamespace \
                   AND relkind = 'r' AND relname LIKE 'of\\_%'";
    let pairs = text(target, query).await.unwrap();
    let seen = format!("SELECT count(*) > 100 AND min(pairs) > 0 FROM ({pairs}) p");
    assert_eq!(text(target, &seen).await.unwrap(), "t");
    let different = format!("SELECT string_agg(name, ' ') FROM ({pairs}) p WHERE different > 0");
    assert_eq!(text(target, &different).await.unwrap(), "NULL");
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_every_type_and_name_arrives_by_load_and_by_stream_alike() {
    let (stage, zoo) = zoo("types_zoo").await;
    let run = stage.start_streaming().await;
    for change in zoo.changes() {
        stage.source_sql(&change).await;
    }
    stage.wait_for_equal(stage.comparison()).await;
    assert_both_ways_alike(&stage.target).await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Without a key a row is found by all of its values, each as its type prints it.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_finds_its_row_without_a_key() {
    let (stage, zoo) = zoo("types_keyless").await;
    let keyless = "DO $$ DECLARE t regclass; k name; BEGIN
          FOR t, k IN SELECT conrelid, conname FROM pg_constraint
            WHERE contype = 'p' AND connamespace = 'zoo'::regnamespace LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', t, k);
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', t);
          END LOOP; END $$";
    stage.source_sql(keyless).await;
    let run = stage.start_streaming().await;
    for change in zoo.changes() {
        stage.source_sql(&change).await;
    }
    stage.wait_for_equal(stage.comparison()).await;
    assert_both_ways_alike(&stage.target).await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Settings of a role or database that change how values are written, read or quoted.
const HOSTILE: &[(&str, &str)] = &[
    ("array_nulls", "off"),
    ("backslash_quote", "off"),
    ("bytea_output", "escape"),
    ("DateStyle", "SQL, DMY"),
    ("default_transaction_deferrable", "on"),
    ("default_transaction_isolation", "serializable"),
    ("extra_float_digits", "-5"),
    ("IntervalStyle", "sql_standard"),
    ("lock_timeout", "50ms"),
    ("quote_all_identifiers", "on"),
    ("search_path", "zoo"),
    ("standard_conforming_strings", "off"),
    ("TimeZone", "Asia/Kathmandu"),
    ("transform_null_equals", "on"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
];

#[tokio::test(flavor = "multi_thread")]
async fn s02_settings_of_a_database_change_no_value() {
    let (stage, zoo) = zoo("types_settings").await;
    for (database, client) in [
        (&stage.source_name, &stage.source),
        (&stage.target_name, &stage.target),
    ] {
        for (name, value) in HOSTILE {
            let sql = format!("ALTER DATABASE {database} SET {name} = '{value}'");
            client.batch_execute(&sql).await.unwrap();
        }
    }
    let run = stage.start_streaming().await;
    for change in zoo.changes() {
        stage.source_sql(&change).await;
    }
    stage.wait_for_equal(stage.comparison()).await;
    assert_both_ways_alike(&stage.target).await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
