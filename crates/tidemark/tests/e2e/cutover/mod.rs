//! `cutover` as a user runs it, with live writers: it hands over with everything that was acknowledged,
//! or gives up and leaves all as it was.

use serde_json::Value;
use tidemark_lab::compare::Comparison;
use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::{Pace, Traffic};
use tokio_postgres::Client;

use crate::stage::{Ran, Stage};

mod back;
mod given_up;
mod handed_over;

pub(crate) use handed_over::stage_clear;

const BANK: Bank = Bank { accounts: 200 };

/// Things that a pipeline leaves behind, and a table with a sequence.
const SHOP: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, what text);
    INSERT INTO orders (what) SELECT md5(i::text) FROM generate_series(1, 2000) i;
    CREATE VIEW newest AS SELECT max(id) AS id FROM orders;
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM orders;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.what := coalesce(NEW.what, ''none''); RETURN NEW; END';
    CREATE TRIGGER touches BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch();
    GRANT SELECT ON orders TO PUBLIC; GRANT USAGE ON SEQUENCE orders_id_seq TO PUBLIC";

/// A shop with customers.
pub(crate) async fn shop(stage: &Stage, seed: u64) -> Traffic {
    let config = stage.source_config();
    Traffic::set_up(&config, &BANK).await.unwrap();
    stage.source_sql(SHOP).await;
    Traffic::start(&config, &BANK, Pace::at(150.0, seed))
}

impl Stage {
    /// `cutover --json`, consent given, with more arguments.
    async fn cutover(&self, more: &[&str]) -> Ran {
        let mut arguments = vec!["cutover", "FILE", "--json", "--yes"];
        arguments.extend(more);
        self.run(&arguments).await
    }

    /// A session of its own: a fence ends those that are there.
    pub(crate) async fn on_source(&self) -> Client {
        self.source_server
            .client_to(&self.source_name)
            .await
            .unwrap()
    }

    /// Whether the source takes a write, in a session of its own.
    pub(crate) async fn takes_writes(&self) -> bool {
        let client = self.on_source().await;
        let written = client
            .batch_execute("INSERT INTO orders (what) VALUES ('written')")
            .await;
        match written {
            Ok(()) => true,
            Err(err) if err.code().is_some_and(|code| code.code() == "25006") => false,
            Err(err) => panic!("{err:?}"),
        }
    }

    /// Both sides are equal, as soon as the target has what the source had when this was asked.
    pub(crate) async fn assert_equal(&self) {
        let source = self.on_source().await;
        let outcome = Comparison::new(&source, &self.target)
            .schema("public", "public")
            .wait_until_identical(crate::stage::PATIENCE)
            .await;
        outcome.unwrap();
    }

    /// Slots that watch a source, of this database.
    pub(crate) async fn temporary_slots(&self) -> anyhow::Result<usize> {
        let sql = "SELECT 1 FROM pg_replication_slots \
                   WHERE temporary AND database = current_database()";
        Ok(self.on_source().await.query(sql, &[]).await?.len())
    }
}

/// The step of this name.
#[track_caller]
fn step(answer: &Value, name: &str) -> Value {
    let steps = answer["data"]["steps"].as_array();
    let found = steps.and_then(|all| all.iter().find(|step| step["name"] == name).cloned());
    found.unwrap_or_else(|| panic!("no step {name} in {answer}"))
}
