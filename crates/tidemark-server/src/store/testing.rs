//! Stores for tests.

use tidemark_core::Result;
use tidemark_core::config::Secret;
use tidemark_core::target::Owner;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::{Desired, DesiredState, Duration, Key, NewPipeline, Seal, Store};

pub(crate) fn seal(digit: char) -> Seal {
    let key: String = std::iter::repeat_n(digit, 64).collect();
    Seal::of_text(&Secret::new(key)).unwrap()
}

/// The store in a database, if nobody has it.
pub(crate) async fn open_shared(url: &str, digit: char) -> Result<Store> {
    let owner = Owner {
        host: "here".to_owned(),
        pid: 7,
        lease: None,
    };
    let url = Secret::new(url.to_owned());
    let waits = tokio::sync::watch::Sender::new(None);
    let patience = Some(Duration::ZERO);
    Store::open_shared(&url, seal(digit), &owner, "127.0.0.1:1", patience, &waits).await
}

pub(crate) fn new_pipeline(tenant: &str, id: &str) -> NewPipeline {
    NewPipeline {
        key: Key::new(tenant, id),
        mode: "full_load_and_cdc".to_owned(),
        definition: Some("password = \"hunter2\"".to_owned()),
        file: None,
        desired: Desired::now(DesiredState::Draft, "ann", None),
        by: "ann".to_owned(),
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const WAITING: &str = "FROM pg_stat_activity WHERE datname = current_database() \
     AND wait_event_type = 'Lock' AND wait_event = 'advisory'";

/// A store whose commits wait where they write a table, so that their answer can be lost.
pub(crate) struct HeldCommits(tidemark_lab::tokio_postgres::Client);

impl HeldCommits {
    /// From now on, in the database of this name.
    pub(crate) async fn of(table: &str, database: &str) -> HeldCommits {
        let server = PostgresServer::shared().await.unwrap();
        let client = server.client_to(database).await.unwrap();
        let sql = format!(
            "CREATE FUNCTION wait_to_commit() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'; \
             CREATE CONSTRAINT TRIGGER held AFTER INSERT OR UPDATE ON tidemark_server.{table} \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_to_commit(); \
             SELECT pg_advisory_lock(1)"
        );
        client.batch_execute(&sql).await.unwrap();
        HeldCommits(client)
    }

    /// Waits until one waits.
    pub(crate) async fn reached(&self) {
        self.wait_for_waiting(true).await;
    }

    /// Ends the sessions of those that wait: nothing of theirs is in.
    pub(crate) async fn end_those_that_wait(&self) {
        let sql = format!("SELECT pg_terminate_backend(pid) {WAITING}");
        self.0.query(&sql, &[]).await.unwrap();
        self.wait_for_waiting(false).await;
    }

    async fn wait_for_waiting(&self, expected: bool) {
        let sql = format!("SELECT pid {WAITING}");
        wait_for(PATIENCE, "commits to wait, or to be gone", || async {
            let is_waited = !self.0.query(&sql, &[]).await?.is_empty();
            Ok((is_waited == expected).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Lets them go on, and waits until they are in.
    pub(crate) async fn let_go(self) {
        let sql = "SELECT pg_advisory_unlock(1); SELECT pg_advisory_lock(1)";
        self.0.batch_execute(sql).await.unwrap();
    }
}
