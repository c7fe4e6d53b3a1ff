//! Tables that change their shape, or come and go, while they are copied: in the stream, while the
//! pipeline is stopped, while it loads. A target is equal to its source afterwards, row by row and
//! old rows of an added column included, or the table is set aside as the policy says and the others
//! stream on.
//!
//! - `cases`: the changes, and what becomes of each under each policy

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tidemark_lab::compare::Comparison;
use tidemark_lab::wait_for;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::stage::{PATIENCE, Stage};
use cases::{CASES, Case, Policy, Then};

mod alone;
mod away;
mod cases;
mod grown;
mod lacks;
mod loading;
mod loosened;
mod names;
mod policies;
mod tables;
mod typed;

/// A stage with a pipeline of this policy, the tables of all cases, and one that nobody changes.
async fn staged(name: &str, policy: Policy) -> Stage {
    let stage = Stage::new(name).await;
    for case in CASES {
        stage.source_sql(&case.table()).await;
    }
    let good = "CREATE TABLE good (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); \
                INSERT INTO good SELECT generate_series(1, 20)";
    stage.source_sql(good).await;
    write(&stage, policy);
    stage
}

/// The pipeline file with a policy.
fn write(stage: &Stage, policy: Policy) {
    let word = policy.word();
    stage.write(&format!(
        "[target]\non_schema_change = \"{word}\"\n[verify]\nafter_load = \"off\"\n"
    ));
}

/// Writers of every table: they know the columns `id` and `n` alone.
struct Writers {
    rounds: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Client>,
}

impl Writers {
    async fn start(stage: &Stage) -> Writers {
        let client = stage.source_server.client_to(&stage.source_name).await;
        let client = client.unwrap();
        let rounds = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn({
            let rounds = Arc::clone(&rounds);
            async move {
                while !*stopped.borrow() {
                    let round = rounds.fetch_add(1, Ordering::Relaxed);
                    for table in CASES.iter().map(|case| case.name).chain(["good"]) {
                        let sql = writes(table, round);
                        // A table that is not there, or whose rows are told by nothing just now.
                        if let Err(refused) = client.batch_execute(&sql).await {
                            assert!(refused.as_db_error().is_some(), "{refused}");
                        }
                    }
                }
                client
            }
        });
        Writers { rounds, stop, task }
    }

    /// Waits until every table was written to so many times more.
    async fn go_round(&self, more: u64) {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_for(PATIENCE, "the writers", || async {
            let now = self.rounds.load(Ordering::Relaxed);
            Ok((now > before + more).then_some(()))
        })
        .await
        .unwrap();
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// One insert, update and delete each, in transactions of their own and together.
fn writes(table: &str, round: u64) -> String {
    let id = 100_000 + round * 3;
    let (again, old) = (id + 1, 1 + round % 40);
    format!(
        "INSERT INTO {table} (id) VALUES ({id});\
         UPDATE {table} SET n = n + 1 WHERE id IN ({old}, {id});\
         BEGIN; INSERT INTO {table} (id, n) VALUES ({again}, {round}); \
         DELETE FROM {table} WHERE id = {id}; COMMIT"
    )
}

/// Carries the changes of all cases out on the source.
async fn change(stage: &Stage) {
    for case in CASES {
        for statement in case.changes() {
            stage.source_sql(&statement).await;
        }
    }
}

/// What the target is compared by: the tables that stream on.
fn comparison(stage: &Stage, policy: Policy) -> Comparison<'_> {
    let mut comparison = stage.comparison().only("public", "good");
    for case in CASES {
        let table = ("public", case.name);
        comparison = match case.then(policy) {
            Then::Aside => continue,
            _ => comparison.only("public", case.name),
        };
        let (lacks, keeps) = case.then(policy).columns();
        for column in lacks {
            comparison = comparison.skip_column(table, column);
        }
        for column in keeps {
            comparison = comparison.kept_column(table, column);
        }
    }
    comparison
}

/// Every table is as its case says: equal and streaming, or set aside with its reason.
async fn assert_as_the_policy_says(stage: &Stage, policy: Policy) {
    stage.wait_for_equal(comparison(stage, policy)).await;
    wait_for_states(stage, policy).await;
    stage.wait_for_equal(comparison(stage, policy)).await;
}

async fn wait_for_states(stage: &Stage, policy: Policy) {
    let waited = wait_for(PATIENCE, "the states of all tables", || async {
        let tables = stage.run(&["tables", "FILE", "--json"]).await.json();
        for case in CASES {
            let table = of(&tables, case);
            let expected = if matches!(case.then(policy), Then::Aside) {
                "quarantined"
            } else {
                "streaming"
            };
            anyhow::ensure!(table["state"] == expected, "not {expected}: {table}");
            let reason = table["reason"].as_str().unwrap_or_default();
            let is_told = expected == "streaming" || reason.starts_with("TM");
            anyhow::ensure!(is_told, "no reason: {table}");
        }
        Ok(Some(()))
    })
    .await;
    waited.unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
}

fn of<'a>(tables: &'a Value, case: &Case) -> &'a Value {
    let name = format!("public.{}", case.name);
    let all = tables["data"]["tables"].as_array().unwrap();
    let found = all.iter().find(|table| table["source"] == name.as_str());
    found.unwrap_or_else(|| panic!("no {name} in {tables}"))
}
