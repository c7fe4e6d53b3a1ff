//! What is copied while the process is killed over and over: a bank, changes of all kinds, tables that
//! refer to each other, partitions, and now and then a transaction that is larger than the source
//! decodes in memory and larger than a batch.

use tidemark_lab::Random;
use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Ending, Pace, Script, Traffic, Workload};

use crate::stage::Stage;

pub(crate) const BANK: Bank = Bank { accounts: 100 };

/// See `faults`: no TRUNCATE while a slot is made.
const MIXED: Mixed = Mixed {
    keys: 60,
    truncates: Truncates::Never,
};

/// The table that is loaded anew: others refer to it, and its changes go on.
pub(crate) const RESYNCED: &str = "public.family_parent";

pub(crate) const NEW_TABLE: &str = "CREATE TABLE latecomer (id int PRIMARY KEY, v text);
    INSERT INTO latecomer SELECT i, 'late ' || i FROM generate_series(1, 500) i";

/// Rows that are there before the column have it too.
pub(crate) const NEW_COLUMN: &str =
    "ALTER TABLE mixed_scratch ADD COLUMN IF NOT EXISTS extra int DEFAULT 7";

/// A table that nobody writes to, and what somebody does to its copy.
pub(crate) const DAMAGED: &str = "public.keyed";
pub(crate) const DAMAGE: &str = "UPDATE keyed SET v = 'damaged' WHERE id % 1000 = 7;
    DELETE FROM keyed WHERE id = 3000";

/// What makes the target refuse a row, the row with what comes for it later, and what mends it.
pub(crate) const STRICT: &str = "ALTER TABLE keyed ADD CONSTRAINT no_odd CHECK (v <> 'odd')";
pub(crate) const REFUSED: &str = "INSERT INTO keyed VALUES (9001, 'odd');
    UPDATE keyed SET id = 9002 WHERE id = 9001; UPDATE keyed SET v = 'seen' WHERE id = 4";
pub(crate) const MENDED: &str = "ALTER TABLE keyed DROP CONSTRAINT IF EXISTS no_odd";

/// Tables beside those of the lab.
#[derive(Clone, Copy)]
struct Family;

const PARENTS: u64 = 300;

impl Workload for Family {
    fn setup(&self) -> String {
        // `keyed` is cut by key, `heap` by blocks.
        format!(
            "CREATE TABLE keyed (id int PRIMARY KEY, v text);
             INSERT INTO keyed SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
             CREATE TABLE heap (id int, v text); ALTER TABLE heap REPLICA IDENTITY FULL;
             CREATE INDEX heap_id ON heap (id);
             INSERT INTO heap SELECT i, md5(i::text) FROM generate_series(1, 3000) i;
             CREATE TYPE mood AS ENUM ('calm', 'wild');
             CREATE TABLE family_parent (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, seat int UNIQUE,
               note text);
             CREATE INDEX family_parent_note ON family_parent (note);
             CREATE TABLE family_child (id serial PRIMARY KEY, mood mood NOT NULL DEFAULT 'calm',
               parent int REFERENCES family_parent);
             CREATE TABLE family_part (id bigint GENERATED ALWAYS AS IDENTITY, shelf int NOT NULL,
               parent int REFERENCES family_parent, v text, PRIMARY KEY (id, shelf))
               PARTITION BY LIST (shelf);
             CREATE TABLE family_part_0 PARTITION OF family_part FOR VALUES IN (0);
             CREATE TABLE family_part_1 PARTITION OF family_part FOR VALUES IN (1, 2);
             INSERT INTO family_parent (id, note)
               SELECT i, 'parent ' || i FROM generate_series(1, {PARENTS}) i;
             INSERT INTO family_child (parent) SELECT i FROM generate_series(1, {PARENTS}) i;
             INSERT INTO family_part (shelf, parent, v)
               SELECT i % 3, i, 'part ' || i FROM generate_series(1, {PARENTS}) i;
             ANALYZE;"
        )
    }

    fn transaction(&self, _writer: usize, random: &mut Random) -> Script {
        let (parent, other) = (1 + random.below(PARENTS), 1 + random.below(PARENTS));
        let shelf = random.below(3);
        let sql = if random.below(12) == 0 {
            format!(
                "INSERT INTO family_part (shelf, parent, v) SELECT i % 3, {parent},
                   repeat(md5(i::text), 4) FROM generate_series(1, 900) i;
                 DELETE FROM family_part WHERE id IN
                   (SELECT id FROM family_part WHERE length(v) = 128 ORDER BY id LIMIT 700);
                 UPDATE family_parent SET n = n + 1;"
            )
        } else {
            format!(
                "UPDATE family_parent SET n = n + 1, note = note || '+' WHERE id = {parent};
                 UPDATE family_parent SET seat = NULL WHERE seat = {other};
                 UPDATE family_parent SET seat = {other} WHERE id = {parent};
                 INSERT INTO family_child (mood, parent) VALUES ('wild', {other});
                 DELETE FROM family_child WHERE id IN (SELECT min(id) FROM family_child);
                 UPDATE family_part SET shelf = {shelf} WHERE id = {parent};
                 UPDATE heap SET v = v || '.' WHERE id = {parent};
                 DELETE FROM heap WHERE id = 1000 + {other};"
            )
        };
        Script {
            sql: format!("BEGIN; {sql} COMMIT"),
            ending: Ending::Commit,
        }
    }
}

/// Writers on the source.
pub(crate) struct Writers(Vec<Traffic>);

impl Writers {
    pub(crate) async fn start(stage: &Stage) -> Writers {
        let config = stage.source_config();
        let bytes = stage.name.bytes();
        let seed = bytes.fold(1, |seed: u64, byte| seed * 31 % 10_007 + u64::from(byte));
        Traffic::set_up(&config, &BANK).await.unwrap();
        Traffic::set_up(&config, &MIXED).await.unwrap();
        Traffic::set_up(&config, &Family).await.unwrap();
        Writers::go_on(stage, seed)
    }

    /// Begins to write again where the tables are there.
    pub(crate) fn go_on(stage: &Stage, seed: u64) -> Writers {
        let config = stage.source_config();
        let pace = |writers: usize, per_second: f64, seed: u64| Pace {
            writers,
            ..Pace::at(per_second, seed)
        };
        Writers(vec![
            Traffic::start(&config, &BANK, pace(2, 20.0, seed)),
            Traffic::start(&config, &MIXED, pace(1, 10.0, seed + 1)),
            Traffic::start(&config, &Family, pace(1, 10.0, seed + 2)),
        ])
    }

    /// Nobody.
    pub(crate) fn none() -> Writers {
        Writers(Vec::new())
    }

    pub(crate) async fn stop(self) {
        for committed in self.rest().await {
            assert!(committed > 5, "{committed} transactions");
        }
    }

    /// The same after a time that may have been short; gives what each kind has committed.
    pub(crate) async fn rest(self) -> Vec<u64> {
        let mut committed = Vec::new();
        for traffic in self.0 {
            committed.push(traffic.stop().await.unwrap().committed);
        }
        committed
    }
}
