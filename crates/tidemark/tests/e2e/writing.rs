//! What tests write to a source: two small tables and changes of all kinds to them, and writers that
//! go on until they are stopped.

use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait_for;

use crate::stage::{PATIENCE, Stage};

pub(crate) const BANK: Bank = Bank { accounts: 200 };

const MIXED: Mixed = Mixed {
    keys: 300,
    truncates: Truncates::Never,
};

/// `notes` has a key and `lines` has none, so that a change applied twice shows.
pub(crate) const TABLES: &str = "CREATE TABLE notes (id int PRIMARY KEY, v text);
    CREATE TABLE lines (v text); ALTER TABLE lines REPLICA IDENTITY FULL;
    INSERT INTO notes SELECT i, 'first ' || i FROM generate_series(1, 100) i;
    INSERT INTO lines SELECT 'first' FROM generate_series(1, 100) i;";

/// Changes of all kinds, which come by the log.
pub(crate) const CHANGES: &str =
    "INSERT INTO notes SELECT 1000 + i, 'more' FROM generate_series(1, 50) i;
    UPDATE notes SET v = 'changed' WHERE id % 7 = 0; DELETE FROM notes WHERE id % 11 = 0;
    UPDATE notes SET id = id + 5000 WHERE id % 13 = 0;
    INSERT INTO lines SELECT 'more' FROM generate_series(1, 20) i;
    DELETE FROM lines WHERE ctid IN (SELECT ctid FROM lines WHERE v = 'first' LIMIT 5);";

/// Writers on the source, of tables that are there.
pub(crate) struct Writers(Traffic, Traffic);

impl Writers {
    pub(crate) async fn set_up(stage: &Stage) {
        let config = stage.source_config();
        Traffic::set_up(&config, &BANK).await.unwrap();
        Traffic::set_up(&config, &MIXED).await.unwrap();
    }

    pub(crate) fn start(stage: &Stage, seed: u64) -> Writers {
        let config = stage.source_config();
        Writers(
            Traffic::start(&config, &BANK, Pace::at(150.0, seed)),
            Traffic::start(&config, &MIXED, Pace::at(150.0, seed + 1)),
        )
    }

    /// Waits until so many transfers more are committed.
    pub(crate) async fn busy(&self, more: u64) {
        let before = self.0.report().committed;
        wait_for(PATIENCE, "the writers to be busy", || async {
            Ok((self.0.report().committed >= before + more).then_some(()))
        })
        .await
        .unwrap();
    }

    pub(crate) async fn stop(self) {
        self.0.stop().await.unwrap();
        self.1.stop().await.unwrap();
    }
}
