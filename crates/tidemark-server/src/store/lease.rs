//! Which of several servers has a store: a lease in its database.
//!
//! The holder makes it longer every two seconds; who finds it over raises the generation and has it. Times
//! are those of the database alone, so clocks of servers may differ. A transaction of the holder has
//! the row `FOR KEY SHARE`: making it longer goes past that, taking it over (`FOR UPDATE`) waits.

use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::target::Owner;
use tidemark_core::{Error, Result};
use tidemark_postgres::config::ConnectConfig;
use tidemark_postgres::wire::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::postgres::{ANSWER_WITHIN, Postgres, within};

/// How long a lease lasts unless it is made longer, and how often it is.
const LASTS_SECONDS: u32 = 9;
const RENEW_EVERY: Duration = Duration::from_secs(2);
const RENEW_WITHIN: Duration = Duration::from_secs(4);
/// How often a lease that another server has is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who has a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) name: String,
    /// Where it is spoken to.
    pub(crate) address: String,
}

/// Takes the lease if it is over: gives the generation from which on it is ours, or who has it.
pub(super) async fn take(
    postgres: &mut Postgres,
    owner: &Owner,
    address: &str,
) -> Result<Result<i64, Holder>> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let mut connection = postgres.begin(deadline).await?;
    let taken = within(deadline, take_in(&mut connection, owner, address)).await;
    postgres.finish(connection, deadline, taken).await
}

async fn take_in(
    connection: &mut Connection,
    owner: &Owner,
    address: &str,
) -> Result<Result<i64, Holder>> {
    let sql = "SELECT holder, address, until < pg_catalog.clock_timestamp() FROM store";
    let found = connection.query(sql, &[]).await?;
    let row = found.one()?;
    if !row.get_bool(2)? {
        return Ok(Err(Holder {
            name: row.get_str(0)?.to_owned(),
            address: row.get_str(1)?.to_owned(),
        }));
    }
    // Whoever was quicker has made it longer meanwhile.
    let sql = "SELECT generation, until < pg_catalog.clock_timestamp() FROM store FOR UPDATE";
    let found = connection.query(sql, &[]).await?;
    let generation: i64 = found.one()?.get(0)?;
    if !found.one()?.get_bool(1)? {
        return Ok(Err(Holder {
            name: "another server".to_owned(),
            address: String::new(),
        }));
    }
    let sql = format!(
        "UPDATE store SET generation = {}, holder = $1, address = $2, \
         until = pg_catalog.clock_timestamp() + interval '{LASTS_SECONDS} s'",
        generation + 1
    );
    let holder = format!("process {} on {}", owner.pid, owner.host);
    connection
        .query(&sql, &[Some(&holder), Some(address)])
        .await?;
    Ok(Ok(generation + 1))
}

/// Waits until the lease is ours.
pub(super) async fn wait(
    postgres: &mut Postgres,
    owner: &Owner,
    address: &str,
    patience: Duration,
) -> Result<()> {
    let until = Instant::now() + patience;
    loop {
        match take(postgres, owner, address).await? {
            Ok(generation) => {
                postgres.generation = generation;
                return Ok(());
            }
            Err(holder) if Instant::now() > until => {
                let text = format!("{} has it", holder.name);
                return Err(Error::definite(codes::STORE_IN_USE, text));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Makes the lease longer until somebody else has it.
pub(super) async fn keep(config: ConnectConfig, generation: i64, taken: watch::Sender<bool>) {
    // On a connection of its own: work that takes its time must not cost the lease.
    let mut postgres = Postgres::new(config);
    let sql = format!(
        "UPDATE store SET until = pg_catalog.clock_timestamp() + interval '{LASTS_SECONDS} s' \
         WHERE generation = {generation}"
    );
    loop {
        match write(&mut postgres, &sql, RENEW_WITHIN).await {
            Ok(0) => {
                taken.send_replace(true);
                return;
            }
            Ok(_) => {}
            Err(err) => tracing::debug!(error = %err, "the lease is not made longer"),
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// Gives the lease back, so that nobody has to wait for its end. Nothing is written from then on: who makes
/// it longer at this moment finds that it is not ours.
pub(super) async fn give_back(postgres: &mut Postgres) -> Result<()> {
    let generation = postgres.generation;
    let sql = format!(
        "UPDATE store SET until = '-infinity', generation = generation + 1 \
         WHERE generation = {generation}"
    );
    write(postgres, &sql, ANSWER_WITHIN).await.map(drop)
}

async fn write(postgres: &mut Postgres, sql: &str, may_take: Duration) -> Result<u64> {
    let deadline = Instant::now() + may_take;
    let mut connection = postgres.begin(deadline).await?;
    let written = within(deadline, connection.execute(sql, &[])).await;
    postgres.finish(connection, deadline, written).await
}
