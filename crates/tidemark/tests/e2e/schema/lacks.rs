//! What the source demands or finds by, and the target does not, is told by a check.

use serde_json::Value;

use crate::stage::Stage;

const TABLES: &str = "CREATE TABLE customers (id int PRIMARY KEY); \
    INSERT INTO customers SELECT generate_series(1, 20); \
    CREATE TABLE orders (id int PRIMARY KEY, customer int, day date, state text DEFAULT 'new'); \
    INSERT INTO orders SELECT n, n, '2024-01-05' FROM generate_series(1, 20) n";

const LATER: &str = "CREATE INDEX orders_by_day ON orders (day); \
    ALTER TABLE orders ADD CONSTRAINT orders_customer_fkey FOREIGN KEY (customer) REFERENCES customers; \
    ALTER TABLE orders ALTER day SET DEFAULT CURRENT_DATE, ALTER state DROP DEFAULT";

/// What a check says of it.
async fn told(stage: &Stage) -> Vec<(Value, Value)> {
    let checked = stage.run(&["check", "FILE", "--json"]).await.expect(0);
    let answer = checked.json();
    let findings = answer["data"]["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["code"] == "TM7062")
        .map(|finding| (finding["verdict"].clone(), finding["found"].clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_and_a_foreign_key_that_came_later_are_told_with_their_sql() {
    let stage = Stage::new("schema_lacks").await;
    stage.source_sql(TABLES).await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let run = stage.start_streaming().await;
    let passed = "loaded tables have the source's indexes, constraints and defaults";
    assert_eq!(told(&stage).await, [("passed".into(), passed.into())]);
    stage.source_sql(LATER).await;
    let lacks = "public.orders lacks what the source has by now: index orders_by_day, \
                 default of column day, foreign key orders_customer_fkey; \
                 it has what the source does not have: default of column state";
    assert_eq!(told(&stage).await, [("warning".into(), lacks.into())]);
    let fixes = stage.run(&["check", "FILE", "--fix-sql"]).await.expect(0);
    assert!(fixes.stdout.contains("-- TM7062"), "{}", fixes.stdout);
    stage.target_sql(&fixes.stdout).await;
    assert_eq!(told(&stage).await, [("passed".into(), passed.into())]);
    let written =
        "INSERT INTO customers VALUES (21); INSERT INTO orders VALUES (21, 21, '2024-01-06')";
    stage.source_sql(written).await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
