//! Random histories, applied in every way there is, all leave what the source has.

use std::sync::Arc;

use tidemark_core::event::Op;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::ReplicaIdentity;
use tidemark_lab::Random;

use super::rig::{Log, NULL, Old, Rig, UNCHANGED, table};

/// A row: id, part, email (unique), note, large value, number.
type SourceRow = Vec<String>;

/// One change as the log has it.
struct Entry {
    op: Op,
    old: Option<(Old, SourceRow)>,
    new: Option<SourceRow>,
}

/// A source that is changed at random, and what its log says.
struct Source {
    random: Random,
    rows: Vec<SourceRow>,
    identity: Old,
    key: Vec<usize>,
}

const NOTES: [&str; 9] = [
    "plain",
    "",
    NULL,
    "tab\there\nand line\r\\N",
    "{\"quoted\", NULL}",
    "it's \\\\ \\. ",
    "NULL",
    "  blanks  ",
    "🌊 é",
];

impl Source {
    fn row(&mut self, id: u64) -> SourceRow {
        let email = format!("e{}", self.random.below(12));
        let is_free = !self.rows.iter().any(|row| row[2] == email);
        let large = match self.random.below(4) {
            0 => NULL.to_owned(),
            n => format!("{n}").repeat(usize::try_from(self.random.below(300)).unwrap()),
        };
        vec![
            id.to_string(),
            self.random.below(3).to_string(),
            if is_free { email } else { NULL.to_owned() },
            NOTES[usize::try_from(self.random.below(9)).unwrap()].to_owned(),
            large,
            ["1.0", "1.00", "NaN", "-7", "0.1"][usize::try_from(self.random.below(5)).unwrap()]
                .to_owned(),
        ]
    }

    fn is_key_free(&self, row: &SourceRow) -> bool {
        self.key.is_empty()
            || !self
                .rows
                .iter()
                .any(|other| self.key.iter().all(|k| other[*k] == row[*k]))
    }

    fn step(&mut self) -> Option<Entry> {
        let at = usize::try_from(self.random.below(self.rows.len() as u64)).unwrap();
        match self.random.below(10) {
            0..=3 => {
                let id = self.random.below(40);
                let new = self.row(id);
                if !self.is_key_free(&new) {
                    return None;
                }
                self.rows.push(new.clone());
                Some(Entry {
                    op: Op::Insert,
                    old: None,
                    new: Some(new),
                })
            }
            4..=7 => self.update(at),
            _ if self.rows.is_empty() => None,
            _ => {
                let old = self.rows.swap_remove(at);
                Some(Entry {
                    op: Op::Delete,
                    old: Some(self.old(old)),
                    new: None,
                })
            }
        }
    }

    fn update(&mut self, at: usize) -> Option<Entry> {
        let old = self.rows.get(at)?.clone();
        self.rows.swap_remove(at);
        let moves_key = self.random.below(4) == 0;
        let id = if moves_key {
            self.random.below(40)
        } else {
            old[0].parse().unwrap()
        };
        let mut new = self.row(id);
        if !moves_key {
            new[1].clone_from(&old[1]);
        }
        let keeps_large = self.random.below(2) == 0;
        if keeps_large {
            new[4].clone_from(&old[4]);
        }
        if !self.is_key_free(&new) {
            self.rows.push(old);
            return None;
        }
        self.rows.push(new.clone());
        let is_key_same = self.key.iter().all(|k| old[*k] == new[*k]);
        if keeps_large && new[4] != NULL && new[4].len() > 50 {
            UNCHANGED.clone_into(&mut new[4]);
        }
        let is_logged = self.identity == Old::Full || !is_key_same;
        let old = is_logged.then(|| self.old(old));
        Some(Entry {
            op: Op::Update,
            old,
            new: Some(new),
        })
    }

    fn old(&self, mut row: SourceRow) -> (Old, SourceRow) {
        if self.identity == Old::Key {
            for (place, cell) in row.iter_mut().enumerate() {
                if !self.key.contains(&place) {
                    NULL.clone_into(cell);
                }
            }
        }
        (self.identity, row)
    }

    /// As the target shows them.
    fn shown(&self) -> Vec<String> {
        let cell = |cell: &String| match cell.as_str() {
            NULL => "NULL".to_owned(),
            text => format!("<{}>", text.replace('\n', "^")),
        };
        let show = |row: &SourceRow| row.iter().map(cell).collect::<Vec<_>>().join("|");
        let mut shown: Vec<String> = self.rows.iter().map(show).collect();
        shown.sort();
        shown
    }
}

const SHOWN: &str = r"SELECT concat_ws('|', c(id::text), c(part::text), c(email), c(note), c(large), c(n::text)) FROM t";

fn schema(constraints: &str) -> String {
    format!(
        "CREATE TABLE t (id int, part smallint, email text, note text, large text, n numeric {constraints});
         ALTER TABLE t ALTER large SET STORAGE EXTERNAL;
         CREATE FUNCTION c(text) RETURNS text LANGUAGE sql AS
             $$ SELECT coalesce('<' || replace($1, E'\\n', '^') || '>', 'NULL') $$"
    )
}

/// Plays one history and applies its log in batches of this size.
async fn play(seed: u64, batch_size: usize, constraints: &str, mapping: TableMapping) {
    let what = format!("seed {seed}, batches of {batch_size}, {constraints}");
    let identity = match mapping.schema.identity {
        ReplicaIdentity::Full => Old::Full,
        _ => Old::Key,
    };
    let mut source = Source {
        random: Random::new(seed),
        rows: Vec::new(),
        identity,
        key: mapping.key.clone(),
    };
    let mut rig = Rig::new(&schema(constraints)).await;
    let mapping = Arc::new(mapping);
    for _ in 0..400 / batch_size.max(20) {
        let mut left = 400.min(batch_size.max(20));
        while left > 0 {
            let mut log = Log::new();
            for _ in 0..batch_size.min(left) {
                if let Some(entry) = source.step() {
                    write(&mut log, &mapping, &entry);
                }
            }
            left = left.saturating_sub(batch_size);
            let applied = rig.apply(&log.batch).await;
            let applied = applied.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(applied.conflicts, [], "{what}");
            let changes = applied.inserts + applied.updates + applied.deletes;
            assert_eq!(changes, log.batch.len() as u64, "{what}");
        }
        let mut target = rig.rows(SHOWN).await;
        target.sort();
        assert_eq!(target, source.shown(), "{what}");
        assert_eq!(rig.checkpoint().await, rig.position(), "{what}");
    }
}

fn write(log: &mut Log, mapping: &Arc<TableMapping>, entry: &Entry) {
    let old = entry
        .old
        .as_ref()
        .map(|(kind, row)| (*kind, row.as_slice()));
    match (entry.op, old, &entry.new) {
        (Op::Insert, _, Some(new)) => log.insert(mapping, new),
        (Op::Update, None, Some(new)) => log.update(mapping, new),
        (Op::Update, Some(old), Some(new)) => log.replace(mapping, old, new),
        (Op::Delete, Some(old), _) => log.delete(mapping, old),
        _ => unreachable!("no such entries are made"),
    }
}

/// One by one, a little more, sets, and sets of everything.
const BATCH_SIZES: [usize; 4] = [1, 7, 50, 400];

#[tokio::test]
async fn a_simple_key_ends_the_same_in_every_way() {
    for (seed, batch_size) in (1..).zip(BATCH_SIZES) {
        let mapping = table("t", &["id*", "part", "email", "note", "large", "n"]);
        play(
            seed,
            batch_size,
            ", PRIMARY KEY (id), UNIQUE (email)",
            mapping,
        )
        .await;
    }
}

#[tokio::test]
async fn a_composite_key_and_whole_old_rows_end_the_same_in_every_way() {
    for (seed, batch_size) in (11..).zip(BATCH_SIZES) {
        let mut mapping = table("t", &["id*", "part*", "email", "note", "large", "n"]);
        mapping.schema.identity = ReplicaIdentity::Full;
        play(seed, batch_size, ", PRIMARY KEY (part, id)", mapping).await;
    }
}

#[tokio::test]
async fn no_key_ends_the_same_in_every_way() {
    for (seed, batch_size) in (21..).zip(BATCH_SIZES) {
        let mapping = table("t", &["id", "part", "email", "note", "large", "n"]);
        play(seed, batch_size, "", mapping).await;
    }
}

#[tokio::test]
async fn partitions_end_the_same_in_every_way() {
    for (seed, batch_size) in (31..).zip(BATCH_SIZES) {
        let mapping = table("t", &["id*", "part*", "email", "note", "large", "n"]);
        let parts = ", PRIMARY KEY (id, part)) PARTITION BY LIST (part);
            CREATE TABLE t0 PARTITION OF t FOR VALUES IN (0);
            CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1, 2";
        play(seed, batch_size, parts, mapping).await;
    }
}

#[tokio::test]
async fn partitions_without_a_key_end_the_same_in_every_way() {
    for (seed, batch_size) in (41..).zip(BATCH_SIZES) {
        let mapping = table("t", &["id", "part", "email", "note", "large", "n"]);
        let parts = ") PARTITION BY LIST (part);
            CREATE TABLE t0 PARTITION OF t FOR VALUES IN (0);
            CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1, 2";
        play(seed, batch_size, parts, mapping).await;
    }
}
