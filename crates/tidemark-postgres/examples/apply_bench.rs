//! How fast changes are folded and applied, by kind of work and size of batch.
//!
//! ```text
//! cargo run --release -p tidemark-postgres --example apply_bench -- postgres://…/scratch [changes]
//! ```
//!
//! Needs an empty database on this machine. For each row of the table it says how long a batch takes
//! (median), how many changes that makes in a second, and how much CPU time of the server one change
//! costs, which is what counts where both share a machine.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![allow(
    clippy::string_slice,
    clippy::match_bool,
    reason = "the bench makes its own ASCII text"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemark_core::Result;
use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::checkpoint::{CheckpointUpdate, LoadPhase, SourceIdentity};
use tidemark_core::compact::{Segment, fold_keyed, split};
use tidemark_core::event::{CellKind, OldRow, Op, Row};
use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::{Column, ReplicaIdentity, TableName, TableSchema};
use tidemark_core::target::{Applier, LoadStart, Owner};
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::target::{PgApplier, PgTarget};
use tidemark_postgres::wire::{Connection, Role};

const ACCOUNTS: u64 = 1_000_000;
const TABLES: &str = "
    DROP TABLE IF EXISTS accounts, tellers, branches, history, log, notes;
    CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))
        WITH (fillfactor = 90);
    INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(1, 1000000) i;
    CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
    INSERT INTO tellers SELECT i, 1, 0, '' FROM generate_series(1, 100) i;
    CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88));
    INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, 10) i;
    CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
    CREATE TABLE log (id bigint PRIMARY KEY, at timestamptz, message text);
    CREATE TABLE notes (a int, b text);
    INSERT INTO notes SELECT i, 'note 0' FROM generate_series(0, 99999) i;";
const NOTES: usize = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(url) = args.next() else {
        println!("usage: apply_bench URL [changes]");
        return Ok(());
    };
    let changes: usize = args
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(200_000);
    fold_bench();
    let mut bench = Bench::open(&url).await?;
    println!(
        "{:>9} {:>7} {:>12} {:>10} {:>10}",
        "work", "batch", "changes/s", "median", "server"
    );
    for work in [
        Work::Insert,
        Work::Update,
        Work::TpcB,
        Work::Delete,
        Work::Keyless,
    ] {
        for size in [1, 4, 10, 30, 100, 1_000, 10_000] {
            // Many small batches take long and say no more than some.
            let count = match (work, size) {
                (Work::Keyless, ..1_000) => 20,
                (_, ..100) => (changes / 20).min(size * 3_000),
                _ => changes,
            };
            bench.run(work, size, count).await?;
        }
    }
    Ok(())
}

/// What the source did.
#[derive(Clone, Copy, Debug)]
enum Work {
    Insert,
    Update,
    TpcB,
    Delete,
    Keyless,
}

struct Bench {
    applier: PgApplier,
    /// Another session, to look at the applier's.
    eye: Connection,
    pid: String,
    position: u64,
    random: u64,
    next_id: u64,
    /// How often each note was changed.
    versions: Vec<u32>,
    tables: Tables,
}

struct Tables {
    accounts: Arc<TableMapping>,
    tellers: Arc<TableMapping>,
    branches: Arc<TableMapping>,
    history: Arc<TableMapping>,
    log: Arc<TableMapping>,
    notes: Arc<TableMapping>,
}

impl Bench {
    async fn open(url: &str) -> Result<Bench> {
        let config = ConnectConfig::parse(url, Side::Target)?;
        let mut eye = Connection::connect(&config, Role::Ordinary).await?;
        eye.run("SET search_path = public").await?;
        eye.run(TABLES).await?;
        eye.run("VACUUM ANALYZE").await?;
        let target = PgTarget::new(config, "apply_bench");
        let owner = Owner {
            host: "bench".to_owned(),
            pid: std::process::id(),
            lease: None,
        };
        target.acquire(&owner).await?;
        let start = LoadStart {
            identity: SourceIdentity {
                system: "0".to_owned(),
                timeline: 1,
                database: "bench".to_owned(),
            },
            position: Position::PgLsn(Lsn(1)),
            phase: LoadPhase::Loading,
            tables: Vec::new(),
        };
        target.start_load(&start).await?;
        let applier = target.applier().await?;
        let newest = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                      AND pid <> pg_backend_pid() ORDER BY backend_start DESC LIMIT 1";
        let pid = eye.query(newest, &[]).await?.one()?.get_str(0)?.to_owned();
        Ok(Bench {
            applier,
            eye,
            pid,
            position: 1,
            random: 42,
            next_id: 1,
            versions: vec![0; NOTES],
            tables: Tables {
                accounts: table("accounts", &["aid", "bid", "abalance", "filler"], 1),
                tellers: table("tellers", &["tid", "bid", "tbalance", "filler"], 1),
                branches: table("branches", &["bid", "bbalance", "filler"], 1),
                history: table(
                    "history",
                    &["tid", "bid", "aid", "delta", "mtime", "filler"],
                    0,
                ),
                log: table("log", &["id", "at", "message"], 1),
                notes: table("notes", &["a", "b"], 0),
            },
        })
    }

    async fn run(&mut self, work: Work, size: usize, count: usize) -> Result<()> {
        self.eye.run("CHECKPOINT").await?;
        // The first batch meets the tables.
        let warm = self.batch(work, size);
        self.apply(&warm).await?;
        let (mut took, mut done) = (Vec::new(), 0);
        let cpu = self.cpu().await?;
        while done < count || took.len() < 5 {
            let batch = self.batch(work, size);
            let started = Instant::now();
            self.apply(&batch).await?;
            took.push(started.elapsed());
            done += batch.len();
        }
        let cpu = self.cpu().await? - cpu;
        let total: Duration = took.iter().sum();
        took.sort_unstable();
        println!(
            "{:>9} {size:>7} {:>12.0} {:>7.3} ms {:>7.2} us",
            format!("{work:?}"),
            done as f64 / total.as_secs_f64(),
            took[took.len() / 2].as_secs_f64() * 1e3,
            cpu * 1e6 / done as f64
        );
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch) -> Result<()> {
        self.position += 1;
        self.applier.begin().await?;
        let applied = self.applier.apply(batch).await?;
        let update = CheckpointUpdate {
            position: Some(Position::PgLsn(Lsn(self.position))),
            ..CheckpointUpdate::default()
        };
        let late = self.applier.commit(&update).await?;
        assert!(
            applied.conflicts.is_empty() && late.conflicts.is_empty(),
            "nobody else writes"
        );
        Ok(())
    }

    /// CPU seconds of the applier's server process.
    async fn cpu(&mut self) -> Result<f64> {
        let sql = format!("SELECT pg_read_file('/proc/{}/stat')", self.pid);
        let answer = self.eye.query(&sql, &[]).await?;
        Ok(cpu_seconds(answer.one()?.get_str(0)?))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) % end
    }

    /// `size` changes; for TPC-B as many transactions, of four changes each.
    fn batch(&mut self, work: Work, size: usize) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..size {
            match work {
                Work::Insert => self.insert(&mut batch),
                Work::Update => self.update(&mut batch),
                Work::TpcB => self.tpc_b(&mut batch),
                Work::Delete => self.delete(&mut batch),
                Work::Keyless => self.keyless(&mut batch),
            }
        }
        batch
    }

    fn insert(&mut self, batch: &mut Batch) {
        self.next_id += 1;
        let id = self.next_id.to_string();
        let cells = [
            id.as_str(),
            "2026-11-21 12:00:00.123456+00",
            "a message of middling length",
        ];
        push(batch, &self.tables.log, Op::Insert, None, Some(&cells));
    }

    fn update(&mut self, batch: &mut Batch) {
        let id = (self.below(ACCOUNTS) + 1).to_string();
        let balance = self.below(100_000).to_string();
        let filler = " ".repeat(84);
        let cells = [id.as_str(), "1", balance.as_str(), filler.as_str()];
        push(batch, &self.tables.accounts, Op::Update, None, Some(&cells));
    }

    fn tpc_b(&mut self, batch: &mut Batch) {
        self.update(batch);
        let (teller, branch) = (self.below(100) + 1, self.below(10) + 1);
        let (teller, branch) = (teller.to_string(), branch.to_string());
        let amount = self.below(5000).to_string();
        let filler = " ".repeat(88);
        let cells = [
            teller.as_str(),
            "1",
            amount.as_str(),
            filler.get(4..).unwrap_or_default(),
        ];
        push(batch, &self.tables.tellers, Op::Update, None, Some(&cells));
        let cells = [branch.as_str(), amount.as_str(), filler.as_str()];
        push(batch, &self.tables.branches, Op::Update, None, Some(&cells));
        let cells = [
            &teller,
            &branch,
            "77",
            &amount,
            "2026-11-21 12:00:00.123456",
            &filler[..22],
        ];
        push(batch, &self.tables.history, Op::Insert, None, Some(&cells));
    }

    /// An account goes and comes back, so that there is always one.
    fn delete(&mut self, batch: &mut Batch) {
        let id = (self.below(ACCOUNTS) + 1).to_string();
        let old = [id.as_str(), "", "", ""];
        let filler = " ".repeat(84);
        let cells = [id.as_str(), "1", "5", filler.as_str()];
        push(
            batch,
            &self.tables.accounts,
            Op::Delete,
            Some((false, &old)),
            None,
        );
        push(batch, &self.tables.accounts, Op::Insert, None, Some(&cells));
    }

    /// Each note says how often it was changed, so that no two changes cancel each other out.
    fn keyless(&mut self, batch: &mut Batch) {
        let at = usize::try_from(self.below(NOTES as u64)).unwrap_or(0);
        let id = at.to_string();
        let (old, new) = (format!("note {}", self.versions[at]), {
            self.versions[at] += 1;
            format!("note {}", self.versions[at])
        });
        let (old, new) = ([id.as_str(), old.as_str()], [id.as_str(), new.as_str()]);
        push(
            batch,
            &self.tables.notes,
            Op::Update,
            Some((true, &old)),
            Some(&new),
        );
    }
}

/// Folding alone, without a server: 1 M updates of 100,000 rows.
fn fold_bench() {
    let accounts = table("accounts", &["aid", "bid", "abalance", "filler"], 1);
    let mut batch = Batch::default();
    let mut random = 1_u64;
    for _ in 0..1_000_000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let id = ((random >> 33) % 100_000).to_string();
        let cells = [id.as_str(), "1", "12345", "a filler that is not too long"];
        push(&mut batch, &accounts, Op::Update, None, Some(&cells));
    }
    let started = own_cpu();
    let segments = split(&batch);
    if let Some(Segment::Changes(stretch)) = segments.first() {
        let rows = fold_keyed(&batch, &stretch.tables[0], &[0]).map_or(0, |net| net.len());
        let million = (own_cpu() - started).recip();
        println!("fold: {million:.1} M changes per CPU second, 1 M updates of {rows} rows");
    }
}

/// CPU seconds of this process.
fn own_cpu() -> f64 {
    cpu_seconds(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default())
}

/// Out of a process's `stat` (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds(stat: &str) -> f64 {
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok());
    (ticks(12).unwrap_or(0.0) + ticks(13).unwrap_or(0.0)) / 100.0
}

fn table(name: &str, columns: &[&str], key_columns: usize) -> Arc<TableMapping> {
    let key: Vec<usize> = (0..key_columns).collect();
    let identity = if key.is_empty() {
        ReplicaIdentity::Full
    } else {
        ReplicaIdentity::Key(key.clone())
    };
    let column = |name: &&str| Column {
        is_binary_portable: true,
        is_toastable: false,
        ..Column::bare(*name, "text", 25)
    };
    let mapped = |source: usize| ColumnMapping {
        source,
        target: columns[source].to_owned(),
        mask: None,
        target_type: TargetType::AsSource,
    };
    Arc::new(TableMapping {
        schema: TableSchema {
            columns: columns.iter().map(column).collect(),
            primary_key: key.clone(),
            identity,
            ..TableSchema::bare(TableName::new("public", name), 1)
        },
        target: TableName::new("public", name),
        columns: (0..columns.len()).map(mapped).collect(),
        key,
        filter: None,
        on_row_error: tidemark_core::quarantine::OnRowError::StopTable,
    })
}

fn push(
    batch: &mut Batch,
    table: &Arc<TableMapping>,
    op: Op,
    old: Option<(bool, &[&str])>,
    new: Option<&[&str]>,
) {
    let table = batch.table(table);
    let old = old.map(|(is_whole, cells)| match is_whole {
        true => OldRow::Full(push_row(batch, cells)),
        false => OldRow::Key(push_row(batch, cells)),
    });
    let new = new.map(|cells| push_row(batch, cells));
    batch.push(Item::Change(Change {
        table,
        op,
        old,
        new,
    }));
}

fn push_row(batch: &mut Batch, cells: &[&str]) -> Row {
    let begin = batch.begin_row();
    for cell in cells {
        batch.push_cell(CellKind::Text, cell.as_bytes());
    }
    batch.end_row(begin)
}
