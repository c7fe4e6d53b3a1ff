//! Money that is moved and never made: every snapshot of a copy must show the same sum.
//!
//! The transfers are kept as rows too, so that each account can be explained: what it began with,
//! less what went out, plus what came in. A copy that tears a transaction, loses it or applies it
//! twice breaks one of the two sums.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

use super::{Ending, RECONNECT_INTERVAL, Script, Workload, connect, is_ending};
use crate::random::Random;

/// What every account begins with.
pub const OPENING_BALANCE: i64 = 1000;

/// Transfers between accounts in the tables `bank_accounts` and `bank_transfers`.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// How many accounts there are.
    pub accounts: u32,
}

impl Workload for Bank {
    fn setup(&self) -> String {
        format!(
            "CREATE TABLE bank_accounts (id int PRIMARY KEY, owner text NOT NULL, \
               balance bigint NOT NULL);
             CREATE TABLE bank_transfers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
               from_id int NOT NULL, to_id int NOT NULL, amount bigint NOT NULL, \
               at timestamptz NOT NULL DEFAULT clock_timestamp());
             INSERT INTO bank_accounts SELECT i, 'owner ' || i, {OPENING_BALANCE} \
               FROM generate_series(1, {}) i;",
            self.accounts
        )
    }

    fn transaction(&self, _writer: usize, random: &mut Random) -> Script {
        let mut sql = "BEGIN;".to_owned();
        for _ in 0..=random.below(3) {
            sql.push_str(&self.transfer(random));
        }
        if random.below(8) == 0 {
            let undone = self.transfer(random);
            sql += &["SAVEPOINT s; ", &undone, " ROLLBACK TO s;"].concat();
        }
        if random.below(20) == 0 {
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

impl Bank {
    fn transfer(self, random: &mut Random) -> String {
        let accounts = u64::from(self.accounts);
        let from = 1 + random.below(accounts);
        let to = 1 + (from + random.below(accounts - 1)) % accounts;
        let amount = 1 + random.below(50);
        format!(
            "UPDATE bank_accounts SET balance = balance - {amount} WHERE id = {from}; \
             UPDATE bank_accounts SET balance = balance + {amount} WHERE id = {to}; \
             INSERT INTO bank_transfers (from_id, to_id, amount) VALUES ({from}, {to}, {amount});"
        )
    }
}

/// Watches the copy of a bank while it is written to.
#[derive(Debug)]
pub struct BankReader {
    stop: watch::Sender<bool>,
    moved: watch::Receiver<bool>,
    reader: JoinHandle<Result<BankReport>>,
}

/// What the reader saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BankReport {
    /// How many snapshots it looked at.
    pub snapshots: u64,
    /// How many of them showed something that had changed since the one before.
    pub moved: u64,
    /// How often it had to connect again, since the server went away.
    pub reconnects: u64,
    /// What was wrong in the first snapshots that were wrong.
    pub violations: Vec<String>,
}

const VIOLATIONS_MAX: usize = 10;

impl BankReader {
    /// Begins to watch the bank in this database, whose tables are in `schema`. The load must be
    /// through: rows of an unfinished load break the sums rightly. A server that goes away is waited
    /// for.
    pub async fn start(config: &Config, schema: &str, bank: Bank) -> Result<BankReader> {
        let client = connect(config).await.context("connect the reader")?;
        let (stop, stopped) = watch::channel(false);
        let (moves, moved) = watch::channel(false);
        let sql = snapshot_sql(schema);
        let config = config.clone();
        let reader =
            tokio::spawn(async move { watch(client, &config, &sql, bank, &stopped, &moves).await });
        Ok(BankReader {
            stop,
            moved,
            reader,
        })
    }

    /// Waits until a snapshot showed something that had changed since the one before.
    pub async fn sees_a_change(&mut self) -> Result<()> {
        let seen = self.moved.wait_for(|moved| *moved).await;
        seen.map(drop).context("the reader of the bank")
    }

    /// Ends it after one more look.
    pub async fn stop(self) -> Result<BankReport> {
        self.stop.send_replace(true);
        self.reader.await.context("the reader of the bank")?
    }
}

/// Looks again and again, across losses of the connection.
async fn watch(
    mut client: Client,
    config: &Config,
    sql: &str,
    bank: Bank,
    stopped: &watch::Receiver<bool>,
    moves: &watch::Sender<bool>,
) -> Result<BankReport> {
    let mut report = BankReport::default();
    loop {
        let Err(error) = read(&client, sql, bank, stopped, moves, &mut report).await else {
            return Ok(report);
        };
        if !is_lost(&error) {
            return Err(error.into());
        }
        report.reconnects += 1;
        client = loop {
            match connect(config).await {
                Ok(client) => break client,
                Err(error) if *stopped.borrow() => return Err(error.context("look once more")),
                Err(_) => tokio::time::sleep(RECONNECT_INTERVAL).await,
            }
        };
    }
}

fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.code().is_none_or(is_ending)
}

/// Looks until it is stopped or the connection is lost. What a crash of the target may take back is
/// not held against it: transfers are only counted on within one session.
async fn read(
    client: &Client,
    sql: &str,
    bank: Bank,
    stopped: &watch::Receiver<bool>,
    moves: &watch::Sender<bool>,
    report: &mut BankReport,
) -> Result<(), tokio_postgres::Error> {
    let mut transfers_before = None;
    loop {
        let is_last = *stopped.borrow();
        // One statement is one snapshot, but a reader of several must see one as well.
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let row = client.query_one(sql, &[]).await?;
        client.batch_execute("COMMIT").await?;
        let (accounts, sum): (i64, i64) = (row.get(0), row.get(1));
        let (transfers, unexplained): (i64, i64) = (row.get(2), row.get(3));
        let (want_accounts, want_sum) = (
            i64::from(bank.accounts),
            i64::from(bank.accounts) * OPENING_BALANCE,
        );
        let is_right = accounts == want_accounts
            && sum == want_sum
            && unexplained == 0
            && transfers_before.is_none_or(|before| before <= transfers);
        if !is_right && report.violations.len() < VIOLATIONS_MAX {
            report.violations.push(format!(
                "snapshot {}: {accounts} accounts of {want_accounts}, sum {sum} of {want_sum}, \
                 {unexplained} accounts unexplained, {transfers} transfers after {}",
                report.snapshots,
                transfers_before.unwrap_or(0),
            ));
        }
        report.snapshots += 1;
        if transfers_before.is_some_and(|before| before != transfers) {
            report.moved += 1;
            moves.send_replace(true);
        }
        transfers_before = Some(transfers);
        if is_last {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Accounts, their sum, transfers, and accounts whose balance the transfers do not explain.
fn snapshot_sql(schema: &str) -> String {
    let schema = crate::server::quoted(schema);
    format!(
        "WITH moved AS (
           SELECT id, sum(amount) AS amount FROM (
             SELECT from_id AS id, -amount AS amount FROM {schema}.bank_transfers
             UNION ALL SELECT to_id, amount FROM {schema}.bank_transfers) m GROUP BY id)
         SELECT count(*), coalesce(sum(a.balance), 0)::bigint,
           (SELECT count(*) FROM {schema}.bank_transfers),
           count(*) FILTER (WHERE a.balance <> {OPENING_BALANCE} + coalesce(m.amount, 0))
         FROM {schema}.bank_accounts a LEFT JOIN moved m USING (id)"
    )
}
