//! Rows that others refer to, on a target where the role cannot keep foreign keys still: whatever replaces
//! a row there does not take with it what refers to it.

use serde_json::{Value, json};

use super::table;
use crate::asks::text;
use crate::stage::{Running, Stage};

const TABLES: &str = "CREATE TABLE parent (id int PRIMARY KEY, v text);
    CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE);
    CREATE TABLE note (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL);
    CREATE TABLE toy (id int PRIMARY KEY, child int NOT NULL REFERENCES child, v text);
    INSERT INTO parent SELECT i, 'v' FROM generate_series(1, 100) i;
    INSERT INTO child SELECT i, 1 + i % 100 FROM generate_series(1, 1000) i;
    INSERT INTO note SELECT i, 1 + i % 100 FROM generate_series(1, 1000) i;
    INSERT INTO toy SELECT i, i, 'v' FROM generate_series(1, 1000) i";

/// A parent and a toy that are others, a child that is missing with what refers to it.
const DIFFERENCES: &str = "SET session_replication_role = replica;
    UPDATE parent SET v = 'wrong' WHERE id IN (7, 8); DELETE FROM parent WHERE id = 9;
    UPDATE child SET parent = 3 WHERE id = 5; DELETE FROM child WHERE id = 6;
    UPDATE toy SET v = 'wrong' WHERE id = 6; RESET session_replication_role";

/// Streams as a role that may not set `session_replication_role`.
async fn without_the_right(name: &str) -> (Stage, Running) {
    let stage = Stage::new(name).await;
    let target = &stage.target_name;
    stage.source_sql(TABLES).await;
    stage
        .target_sql(&format!(
            "CREATE ROLE {name} LOGIN; GRANT CREATE ON DATABASE {target} TO {name};
             GRANT CREATE ON SCHEMA public TO {name}"
        ))
        .await;
    let url = stage.target_server.url_with(name, None, target);
    stage.write_between(&stage.source_url(), &url, "");
    let run = stage.start_streaming().await;
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    assert_eq!(text(&stage.target, keys).await.unwrap(), "3");
    stage.target_sql(DIFFERENCES).await;
    (stage, run)
}

/// Nothing is lost, the foreign keys are there, and it goes on.
async fn is_whole(stage: &Stage, run: Running) {
    stage.assert_identical().await;
    stage
        .source_sql(
            "INSERT INTO parent VALUES (101, 'new'); INSERT INTO child VALUES (1001, 101);
             DELETE FROM toy WHERE id = 40; DELETE FROM child WHERE id = 40",
        )
        .await;
    stage.wait_until_identical().await;
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    stage.wait_for_target(keys, "3").await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_takes_nothing_with_it_that_refers_to_what_it_mends() {
    let (stage, run) = without_the_right("referred_repair").await;
    let found = stage.verify(&[]).await.expect(3);
    let different = |name: &str| table(&found, name)["different"].clone();
    assert_eq!(
        ["public.parent", "public.child", "public.note", "public.toy"].map(different),
        [json!(3), json!(2), json!(0), json!(1)]
    );
    let mended = stage.verify(&["--repair", "--yes"]).await.expect(0);
    assert_eq!(mended.json()["data"]["result"], "identical");
    is_whole(&stage, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_takes_nothing_with_it_that_refers_to_what_it_mends() {
    let (stage, run) = without_the_right("referred_rec").await;
    let mut arguments = vec!["reconcile", "FILE", "--yes", "--json"];
    let tables = ["child", "note", "toy", "parent"];
    arguments.extend(tables.iter().flat_map(|name| ["--table", *name]));
    let ran = stage.run(&arguments).await.expect(0);
    let parent: Value = table(&ran, "public.parent")["reconciled"].clone();
    assert!(
        parent["whole"].to_string().contains("would act on rows"),
        "{parent}"
    );
    is_whole(&stage, run).await;
}
