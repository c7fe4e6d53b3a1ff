//! Every kind of change, in transactions of random length, over a small set of keys so that the
//! same rows are met again and again: inserts, updates that leave a large value untouched, updates
//! of the large value, deletes, changed keys, a unique value that wanders from row to row, a table
//! without a key, savepoints that are undone, rollbacks, and on request TRUNCATE.

use super::{Ending, Script, Workload};
use crate::random::Random;

/// Changes in the tables `mixed_items`, `mixed_pairs`, `mixed_log` and `mixed_scratch`.
#[derive(Clone, Copy, Debug)]
pub struct Mixed {
    /// How many keys there are to hit.
    pub keys: u32,
    /// Whether `mixed_scratch` is emptied now and then.
    pub truncates: Truncates,
}

/// Whether a workload truncates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncates {
    /// It does.
    Sometimes,
    /// It does not.
    Never,
}

impl Default for Mixed {
    fn default() -> Mixed {
        Mixed {
            keys: 500,
            truncates: Truncates::Sometimes,
        }
    }
}

impl Workload for Mixed {
    fn setup(&self) -> String {
        let keys = self.keys;
        // EXTERNAL keeps the value out of line uncompressed, so that it is a TOAST value for sure.
        format!(
            "CREATE TABLE mixed_items (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, note text, \
               big text, ratio double precision, tags text[], updated timestamptz);
             ALTER TABLE mixed_items ALTER big SET STORAGE EXTERNAL;
             CREATE TABLE mixed_pairs (a int, b text, seat int UNIQUE, v numeric, PRIMARY KEY (a, b));
             CREATE TABLE mixed_log (at timestamptz, kind text, detail text);
             ALTER TABLE mixed_log REPLICA IDENTITY FULL;
             CREATE TABLE mixed_scratch (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
             INSERT INTO mixed_items SELECT i, i, 'note ' || i, repeat(md5(i::text), 300), i / 7.0, \
               ARRAY['a', NULL, i::text], now() FROM generate_series(1, {keys}) i;
             INSERT INTO mixed_pairs SELECT i, 'b' || i, i, i * 1.10 FROM generate_series(1, {keys}) i;
             INSERT INTO mixed_log SELECT now(), 'first', (i % 3)::text FROM generate_series(1, {keys}) i;"
        )
    }

    fn transaction(&self, writer: usize, random: &mut Random) -> Script {
        let mut sql = "BEGIN;".to_owned();
        for _ in 0..=random.below(6) {
            sql.push_str(&self.change(writer, random));
        }
        if random.below(10) == 0 {
            sql.push_str("ROLLBACK");
            return Script {
                sql,
                ending: Ending::Rollback,
            };
        }
        sql.push_str("COMMIT");
        Script {
            sql,
            ending: Ending::Commit,
        }
    }
}

impl Mixed {
    fn change(self, writer: usize, random: &mut Random) -> String {
        let keys = u64::from(self.keys);
        let key = 1 + random.below(keys);
        let other = 1 + random.below(keys);
        let number = random.below(1_000_000);
        match random.below(13) {
            0 | 1 => format!(
                "INSERT INTO mixed_items (id, n, note, big, updated) VALUES ({key}, {number}, \
                 nullif('note {number}', 'note {key}'), repeat('{number:x}', 3000), \
                 clock_timestamp()) ON CONFLICT DO NOTHING;"
            ),
            2 | 3 => format!(
                "UPDATE mixed_items SET n = n + 1, updated = clock_timestamp() WHERE id = {key};"
            ),
            4 => format!(
                "UPDATE mixed_items SET big = repeat('{number:x} 🌊', 1000), note = NULL WHERE id = {key};"
            ),
            5 => format!("DELETE FROM mixed_items WHERE id = {key};"),
            6 => format!(
                "UPDATE mixed_items SET id = {other}, n = {number} WHERE id = {key} AND NOT EXISTS \
                 (SELECT FROM mixed_items WHERE id = {other});"
            ),
            // The seat passes from one row to another: legal row by row, not in any order.
            7 => format!(
                "UPDATE mixed_pairs SET seat = NULL WHERE seat = {key}; \
                 UPDATE mixed_pairs SET seat = {key}, v = v + 0.01 WHERE a = {other};"
            ),
            8 => format!(
                "DELETE FROM mixed_pairs WHERE a = {key}; INSERT INTO mixed_pairs \
                 VALUES ({key}, 'b{number}', NULL, {number}.5) ON CONFLICT DO NOTHING;"
            ),
            9 => format!(
                "INSERT INTO mixed_log VALUES (clock_timestamp(), 'writer {writer}', '{}'), \
                 (NULL, 'twice', '{}'), (NULL, 'twice', '{}');",
                number % 5,
                key % 3,
                key % 3
            ),
            // One of several equal rows.
            10 => format!(
                "UPDATE mixed_log SET detail = detail || '+' WHERE ctid = (SELECT ctid FROM mixed_log \
                 WHERE kind = 'twice' AND length(detail) < 4 LIMIT 1 OFFSET {}); \
                 DELETE FROM mixed_log WHERE ctid = (SELECT ctid FROM mixed_log \
                 WHERE kind = 'first' LIMIT 1);",
                number % 7
            ),
            11 => {
                let undone =
                    format!("DELETE FROM mixed_items WHERE id BETWEEN {key} AND {key} + 5;");
                format!(
                    "SAVEPOINT a; {undone} SAVEPOINT b; UPDATE mixed_pairs SET v = 0; \
                     ROLLBACK TO b; ROLLBACK TO a; UPDATE mixed_items SET n = -n WHERE id = {other};"
                )
            }
            _ => {
                let truncate = self.truncates == Truncates::Sometimes && number.is_multiple_of(20);
                let before = if truncate {
                    "TRUNCATE mixed_scratch;"
                } else {
                    ""
                };
                format!(
                    "{before} INSERT INTO mixed_scratch (v) SELECT '{number}' FROM \
                     generate_series(1, {});",
                    1 + number % 4
                )
            }
        }
    }
}
