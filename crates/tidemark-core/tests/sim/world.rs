//! The model that both sides share: tables, rows, transactions, and which of them a snapshot sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::SourceIdentity;
use tidemark_core::error::{Error, Result};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::{Column, ReplicaIdentity, TableName, TableSchema, ValueClass};
use tidemark_core::tidemark::PgSnapshot;
use tokio::sync::Notify;

use crate::history::Faults;
use crate::rng::Rng;

/// Tables of every history: keyed and cut by key ranges, keyed and cut by blocks, without a key.
pub(crate) const TABLES: [&str; 3] = ["ranges", "blocks", "keyless"];

/// `id`, `small`, `large`: the last may be left out of the log by an update.
pub(crate) type Row = [Option<String>; 3];

/// Rows of one table with how often they are there (more than once only without a key).
pub(crate) type Rows = BTreeMap<Row, u64>;

/// What the source did to a row.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Insert { table: usize, new: Row },
    Update { table: usize, old: Row, new: Row },
    Delete { table: usize, old: Row },
    Truncate { table: usize },
}

/// A transaction of the source.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) xid: u64,
    pub(crate) writes: Vec<Write>,
    /// Start and end of its commit record; `None` while it runs.
    pub(crate) commit: Option<(u64, u64)>,
    /// Whether new snapshots see it.
    pub(crate) is_visible: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    /// In order of begin; ids ascend.
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) next_xid: u64,
    pub(crate) head: u64,
    /// Transactions that the source will still begin.
    pub(crate) to_begin: u64,
    pub(crate) slot: Option<SimSlot>,
    /// What the source holds, running transactions included (they lock their rows).
    live: [Rows; 3],
    locked: Vec<(u64, usize, Option<String>)>,
    next_value: u64,
    pub(crate) kills_left: u32,
    /// The target takes every row again.
    pub(crate) is_mended: bool,
    /// So many tables are in the catalog, the first ones.
    pub(crate) tables: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct SimSlot {
    pub(crate) confirmed: u64,
    pub(crate) start: u64,
}

/// The world behind a lock that no panic poisons for good.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>, Arc<Notify>);

impl Shared {
    pub(crate) fn new(seed: u64, faults: Faults) -> Shared {
        let mut rng = Rng::new(seed);
        let to_begin = 20 + rng.below(60);
        // Start close to the wrap-around of 32-bit ids now and then.
        let next_xid = if rng.once_in(3) {
            (1_u64 << 32) - 15
        } else {
            700
        };
        let kills_left = 6;
        let mut world = World {
            rng,
            faults,
            transactions: Vec::new(),
            next_xid,
            head: 1000,
            to_begin,
            slot: None,
            live: Default::default(),
            locked: Vec::new(),
            next_value: 0,
            kills_left,
            is_mended: false,
            tables: TABLES.len(),
        };
        for _ in 0..30 {
            world.step();
        }
        Shared(Arc::new(Mutex::new(world)), Arc::default())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the process is killed.
    pub(crate) async fn killed(&self) {
        self.1.notified().await;
    }

    /// What happens around any call: the source writes on, and the call may fail or be the last.
    pub(crate) async fn call(&self, what: &str) -> Result<()> {
        let (fails, dies) = {
            let mut world = self.lock();
            for _ in 0..world.rng.below(3) {
                world.step();
            }
            let fails = world.faults.errors && world.rng.once_in(25);
            let dies = world.faults.kills && world.kills_left > 0 && world.rng.once_in(40);
            if dies {
                world.kills_left -= 1;
            }
            (fails, dies)
        };
        if dies {
            self.1.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        if fails {
            return Err(lost(what));
        }
        Ok(())
    }

    /// A server that has no room for another connection, now and then.
    pub(crate) fn room(&self) -> Result<()> {
        let mut world = self.lock();
        if world.faults.errors && world.rng.once_in(4) {
            let text = "no more connections".to_owned();
            return Err(Error::transient(codes::TARGET_TOO_MANY_CONNECTIONS, text));
        }
        Ok(())
    }
}

pub(crate) fn lost(what: &str) -> Error {
    Error::transient(codes::SOURCE_UNREACHABLE, format!("{what}: cut"))
}

pub(crate) fn at(lsn: u64) -> Position {
    Position::PgLsn(Lsn(lsn))
}

pub(crate) fn lsn(position: Position) -> u64 {
    let Position::PgLsn(Lsn(lsn)) = position;
    lsn
}

pub(crate) fn identity() -> SourceIdentity {
    SourceIdentity {
        system: "42".into(),
        timeline: 1,
        database: "sim".into(),
    }
}

pub(crate) fn has_key(table: usize) -> bool {
    TABLES[table] != "keyless"
}

pub(crate) fn apply(rows: &mut [Rows; 3], write: &Write) {
    match write {
        Write::Insert { table, new } => *rows[*table].entry(new.clone()).or_default() += 1,
        Write::Update { table, old, new } => {
            remove(&mut rows[*table], old);
            *rows[*table].entry(new.clone()).or_default() += 1;
        }
        Write::Delete { table, old } => remove(&mut rows[*table], old),
        Write::Truncate { table } => rows[*table].clear(),
    }
}

fn remove(rows: &mut Rows, row: &Row) {
    let count = rows
        .get_mut(row)
        .expect("the source removes rows that are there");
    *count -= 1;
    if *count == 0 {
        rows.remove(row);
    }
}

impl World {
    /// The source goes on by a step: begins, writes, commits, makes visible, or rolls back.
    pub(crate) fn step(&mut self) {
        let running: Vec<usize> = (0..self.transactions.len())
            .filter(|index| !self.transactions[*index].is_visible)
            .collect();
        if running.len() < 4 && self.to_begin > 0 && self.rng.once_in(2) {
            self.to_begin -= 1;
            let xid = self.next_xid;
            self.next_xid += 1;
            let writes = Vec::new();
            self.transactions.push(Transaction {
                xid,
                writes,
                commit: None,
                is_visible: false,
            });
            return;
        }
        let Some(index) = self.pick(&running) else {
            self.head += 8;
            return;
        };
        match self.transactions[index].commit {
            // Between commit record and visibility others may come and go.
            Some(_) => {
                if self.rng.once_in(2) {
                    self.transactions[index].is_visible = true;
                    let xid = self.transactions[index].xid;
                    self.locked.retain(|(owner, ..)| *owner != xid);
                }
            }
            None if self.rng.once_in(3) => {
                let start = self.head + 1 + self.rng.below(5);
                let end = start + 10;
                self.head = end;
                self.transactions[index].commit = Some((start, end));
            }
            None => self.write(index),
        }
    }

    fn pick(&mut self, from: &[usize]) -> Option<usize> {
        if from.is_empty() {
            None
        } else {
            Some(from[self.rng.below(from.len() as u64) as usize])
        }
    }

    /// Whether the target refuses a row for a small value.
    pub(crate) fn refuses(&self, value: &str) -> bool {
        self.faults.refusals && !self.is_mended && value.ends_with('3')
    }

    /// All transactions end and become visible.
    pub(crate) fn settle(&mut self) {
        while self.to_begin > 0 || self.transactions.iter().any(|t| !t.is_visible) {
            self.step();
        }
    }

    fn value(&mut self, prefix: &str) -> Option<String> {
        self.next_value += 1;
        if self.rng.once_in(6) {
            None
        } else {
            Some(format!("{prefix}{}", self.next_value))
        }
    }

    fn write(&mut self, index: usize) {
        let table = self.rng.below(3) as usize;
        let xid = self.transactions[index].xid;
        let keyed = has_key(table);
        if self
            .locked
            .iter()
            .any(|(owner, t, id)| *t == table && id.is_none() && *owner != xid)
        {
            return;
        }
        let free = |world: &World, id: &Option<String>| {
            !world
                .locked
                .iter()
                .any(|(owner, t, locked)| *t == table && locked == id && *owner != xid)
        };
        let existing: Vec<Row> = self.live[table]
            .keys()
            .filter(|row| free(self, &row[0]))
            .cloned()
            .collect();
        let write = match self.rng.below(20) {
            0..8 => {
                let id = Some((self.rng.below(60)).to_string());
                if !free(self, &id) || (keyed && self.live[table].keys().any(|row| row[0] == id)) {
                    return;
                }
                let new = [id, self.value("s"), self.value("L")];
                Write::Insert { table, new }
            }
            8..14 if !existing.is_empty() => {
                let old = existing[self.rng.below(existing.len() as u64) as usize].clone();
                let mut new = old.clone();
                new[1] = self.value("s");
                if self.rng.once_in(3) {
                    new[2] = self.value("L");
                }
                if self.rng.once_in(2) {
                    let id = Some(self.rng.below(60).to_string());
                    let taken = keyed && self.live[table].keys().any(|row| row[0] == id);
                    if free(self, &id) && !taken {
                        // With its large value in the log or without: where ranges have seen
                        // different things, the row can then not be rebuilt from the log.
                        new[0] = id;
                        if self.rng.once_in(2) {
                            new[2] = self.value("L");
                        }
                    }
                }
                Write::Update { table, old, new }
            }
            14..19 if !existing.is_empty() => {
                let old = existing[self.rng.below(existing.len() as u64) as usize].clone();
                Write::Delete { table, old }
            }
            19 if self.rng.once_in(6) => {
                if self
                    .locked
                    .iter()
                    .any(|(owner, t, _)| *t == table && *owner != xid)
                {
                    return;
                }
                Write::Truncate { table }
            }
            _ => return,
        };
        match &write {
            Write::Insert { new, .. } => self.locked.push((xid, table, new[0].clone())),
            Write::Update { old, new, .. } => {
                self.locked.push((xid, table, old[0].clone()));
                self.locked.push((xid, table, new[0].clone()));
            }
            Write::Delete { old, .. } => self.locked.push((xid, table, old[0].clone())),
            Write::Truncate { .. } => self.locked.push((xid, table, None)),
        }
        apply(&mut self.live, &write);
        self.transactions[index].writes.push(write);
    }

    /// `pg_current_snapshot()`.
    pub(crate) fn snapshot(&self) -> PgSnapshot {
        let xip: Vec<u64> = self
            .transactions
            .iter()
            .filter(|t| !t.is_visible)
            .map(|t| t.xid)
            .collect();
        let xmin = xip.first().copied().unwrap_or(self.next_xid);
        PgSnapshot {
            xmin,
            xmax: self.next_xid,
            xip,
        }
    }

    /// Rows as a snapshot sees them, given as the set of transactions it has seen.
    pub(crate) fn rows_seen(&self, sees: impl Fn(&Transaction) -> bool) -> [Rows; 3] {
        let mut committed: Vec<&Transaction> = self
            .transactions
            .iter()
            .filter(|t| t.commit.is_some() && sees(t))
            .collect();
        // Locks make conflicting writes follow commit order.
        committed.sort_by_key(|t| t.commit);
        let mut rows: [Rows; 3] = Default::default();
        for write in committed.iter().flat_map(|t| &t.writes) {
            apply(&mut rows, write);
        }
        rows
    }

    /// What the source held right before a position.
    pub(crate) fn rows_before(&self, position: u64) -> [Rows; 3] {
        self.rows_seen(|t| t.commit.is_some_and(|(start, _)| start < position))
    }
}

pub(crate) fn schema(table: usize) -> TableSchema {
    let column = |name: &str, number: i16, class| Column {
        number,
        class,
        is_binary_portable: true,
        is_toastable: name == "large",
        ..Column::bare(name, "text", 25)
    };
    let keyed = has_key(table);
    TableSchema {
        columns: vec![
            column("id", 1, ValueClass::Integer),
            column("small", 2, ValueClass::Text),
            column("large", 3, ValueClass::Text),
        ],
        primary_key: if keyed { vec![0] } else { Vec::new() },
        identity: if keyed {
            ReplicaIdentity::Key(vec![0])
        } else {
            ReplicaIdentity::Full
        },
        rows: Some(10),
        bytes: 1000 + table as u64,
        ..TableSchema::bare(TableName::new("public", TABLES[table]), 100 + table as u32)
    }
}
