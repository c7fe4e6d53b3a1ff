//! Traffic: seeded workloads that change a source while it is copied.
//!
//! A [`Workload`] is a pure source of transactions: from a random number comes the SQL of one. The
//! runner here sends them, at a rate or flat out, from several sessions, reconnects when the server
//! goes away, and tells at the end what was committed. A transaction whose answer was lost counts
//! as unknown, since it may have been committed.
//!
//! - [`bank`]: transfers whose sum never moves, and a reader that watches it on the target
//! - [`mixed`]: every kind of change

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::random::Random;

pub mod bank;
pub mod mixed;

/// A source of transactions.
pub trait Workload: Clone + Send + Sync + 'static {
    /// The SQL that makes the tables and their first rows.
    fn setup(&self) -> String;

    /// The SQL of one transaction of this writer, from BEGIN to COMMIT or ROLLBACK; sent in one
    /// piece. It selects nothing, so that the rows that are told are changes.
    fn transaction(&self, writer: usize, random: &mut Random) -> Script;
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct Script {
    /// The statements, BEGIN and the end included.
    pub sql: String,
    /// How it ends.
    pub ending: Ending,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By COMMIT.
    Commit,
    /// By ROLLBACK, on purpose.
    Rollback,
}

/// How many write, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Sessions that write at the same time.
    pub writers: usize,
    /// Transactions per second, all writers together; `None` is flat out.
    pub transactions_per_second: Option<f64>,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Pace {
    /// Four writers, flat out.
    pub fn flat_out(seed: u64) -> Pace {
        Pace {
            writers: 4,
            transactions_per_second: None,
            seed,
        }
    }

    /// Four writers, together at this rate.
    pub fn at(transactions_per_second: f64, seed: u64) -> Pace {
        Pace {
            transactions_per_second: Some(transactions_per_second),
            ..Pace::flat_out(seed)
        }
    }
}

/// What was written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficReport {
    /// Transactions that the server said it committed.
    pub committed: u64,
    /// Rows changed in them; what a savepoint undid is counted too.
    pub changes: u64,
    /// Transactions that were rolled back, on purpose or by the server (deadlock).
    pub rolled_back: u64,
    /// Transactions whose end is not known, since the connection was lost.
    pub unknown: u64,
}

#[derive(Debug, Default)]
struct Counts {
    committed: AtomicU64,
    changes: AtomicU64,
    rolled_back: AtomicU64,
    unknown: AtomicU64,
    first_error: Mutex<Option<anyhow::Error>>,
}

/// Running traffic; dropping it ends it at once.
#[derive(Debug)]
pub struct Traffic {
    stop: watch::Sender<bool>,
    writers: JoinSet<()>,
    counts: Arc<Counts>,
}

const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

impl Traffic {
    /// Makes the tables of a workload.
    pub async fn set_up(config: &Config, workload: &impl Workload) -> Result<()> {
        let client = connect(config).await?;
        client
            .batch_execute(&workload.setup())
            .await
            .context("set up a workload")
    }

    /// Begins to write. The tables must be there.
    pub fn start(config: &Config, workload: &impl Workload, pace: Pace) -> Traffic {
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let mut writers = JoinSet::new();
        for number in 0..pace.writers {
            let writer = Writer {
                number,
                config: config.clone(),
                random: Random::new(pace.seed.wrapping_add(number as u64).wrapping_mul(0x1_0001)),
                ticks: pace
                    .transactions_per_second
                    .map(|all| ticks(all / pace.writers as f64)),
                stopped: stopped.clone(),
                counts: Arc::clone(&counts),
            };
            let workload = workload.clone();
            writers.spawn(writer.run(workload));
        }
        Traffic {
            stop,
            writers,
            counts,
        }
    }

    /// What was written until now.
    pub fn report(&self) -> TrafficReport {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        TrafficReport {
            committed: of(&self.counts.committed),
            changes: of(&self.counts.changes),
            rolled_back: of(&self.counts.rolled_back),
            unknown: of(&self.counts.unknown),
        }
    }

    /// Lets every writer finish its transaction. An error is a transaction that the server refused
    /// for a reason of its own; that writer had stopped there.
    pub async fn stop(mut self) -> Result<TrafficReport> {
        self.stop.send_replace(true);
        while let Some(ended) = self.writers.join_next().await {
            ended.context("a writer of the lab")?;
        }
        let first_error = self
            .counts
            .first_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match first_error {
            Some(error) => Err(error),
            None => Ok(self.report()),
        }
    }
}

struct Writer {
    number: usize,
    config: Config,
    random: Random,
    ticks: Option<Interval>,
    stopped: watch::Receiver<bool>,
    counts: Arc<Counts>,
}

impl Writer {
    async fn run(mut self, workload: impl Workload) {
        while !*self.stopped.borrow() {
            let Ok(client) = connect(&self.config).await else {
                tokio::time::sleep(RECONNECT_INTERVAL).await;
                continue;
            };
            if let Err(error) = self.write(&client, &workload).await {
                let mut first = self
                    .counts
                    .first_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                return;
            }
        }
    }

    /// Writes until it is stopped or the connection is lost.
    async fn write(&mut self, client: &Client, workload: &impl Workload) -> Result<()> {
        loop {
            if let Some(ticks) = &mut self.ticks {
                ticks.tick().await;
            }
            if *self.stopped.borrow() {
                return Ok(());
            }
            let script = workload.transaction(self.number, &mut self.random);
            let answer = client.simple_query(&script.sql).await;
            match (answer, script.ending) {
                (Ok(messages), Ending::Commit) => {
                    self.counts.committed.fetch_add(1, Ordering::SeqCst);
                    self.counts
                        .changes
                        .fetch_add(changes(&messages), Ordering::SeqCst);
                }
                (Ok(_), Ending::Rollback) => {
                    self.counts.rolled_back.fetch_add(1, Ordering::SeqCst);
                }
                (Err(error), _) => match error.code() {
                    Some(code) if is_loser(code) => {
                        self.counts.rolled_back.fetch_add(1, Ordering::SeqCst);
                        // A connection that is lost by now shows at the next transaction.
                        client.batch_execute("ROLLBACK").await.ok();
                    }
                    Some(code) if !is_ending(code) => {
                        return Err(error).with_context(|| script.sql);
                    }
                    _ => {
                        self.counts.unknown.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                },
            }
        }
    }
}

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a writer of the lab lost its connection");
        }
    });
    Ok(client)
}

fn ticks(per_second: f64) -> Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second.max(0.001)));
    // Late ones are made up for, so that the rate holds on average.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

fn changes(messages: &[SimpleQueryMessage]) -> u64 {
    let rows = messages.iter().map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    });
    rows.sum()
}

/// The server chose another transaction over this one, or takes no writes for now.
fn is_loser(code: &SqlState) -> bool {
    let losers = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::DISK_FULL,
        // Another writer has just taken the key or the seat.
        SqlState::UNIQUE_VIOLATION,
    ];
    losers.contains(code)
}

/// The server ends or ended the session: class 57P0x, operator intervention.
fn is_ending(code: &SqlState) -> bool {
    code.code().starts_with("57P0")
}
