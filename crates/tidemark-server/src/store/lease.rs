//! Which of several servers has a store: a lease in its database.
//!
//! The holder makes it longer every two seconds; who finds it over raises the generation and has it. Times
//! are those of the database alone, so clocks of servers may differ. A transaction of the holder has
//! the row `FOR KEY SHARE`: making it longer goes past that, taking it over (`FOR UPDATE`) waits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::target::{Lease, Owner};
use tidemark_core::{Error, ErrorKind, Result};
use tidemark_postgres::config::ConnectConfig;
use tidemark_postgres::wire::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::postgres::{ANSWER_WITHIN, Postgres, within};

/// How long a lease lasts unless it is made longer, and how often it is.
const LASTS_SECONDS: u32 = 7;
const RENEW_EVERY: Duration = Duration::from_secs(2);
const RENEW_WITHIN: Duration = Duration::from_secs(3);
/// How often a lease that another server has is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who has a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) name: String,
    /// Where it is spoken to.
    pub(crate) address: String,
}

/// How the lease of this server stands.
pub(super) struct Kept {
    /// When it was made longer last.
    pub(super) renewed: Mutex<Instant>,
    /// Whether another server has it.
    pub(super) taken: watch::Sender<bool>,
}

impl Kept {
    pub(super) fn new() -> Kept {
        Kept {
            renewed: Mutex::new(Instant::now()),
            taken: watch::Sender::new(false),
        }
    }

    /// Whether nobody else can have it at this moment. A process that was frozen finds it over.
    pub(super) fn is_certain(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts = Duration::from_secs(u64::from(LASTS_SECONDS));
        !*self.taken.borrow() && renewed.elapsed() < lasts
    }
}

/// Takes the lease if it is over: gives the lease that is ours from then on, or who has it.
pub(super) async fn take(
    postgres: &mut Postgres,
    owner: &Owner,
    address: &str,
) -> Result<Result<Lease, Holder>> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let mut connection = postgres.begin(deadline).await?;
    let taken = within(deadline, take_in(&mut connection, owner, address)).await;
    postgres.finish(connection, deadline, taken).await
}

async fn take_in(
    connection: &mut Connection,
    owner: &Owner,
    address: &str,
) -> Result<Result<Lease, Holder>> {
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
    let sql = "SELECT generation, until < pg_catalog.clock_timestamp(), id FROM store FOR UPDATE";
    let found = connection.query(sql, &[]).await?;
    let generation = found.one()?.get::<i64>(0)? + 1;
    let store = found.one()?.get_str(2)?.to_owned();
    if !found.one()?.get_bool(1)? {
        return Ok(Err(Holder {
            name: "another server".to_owned(),
            address: String::new(),
        }));
    }
    let sql = format!(
        "UPDATE store SET generation = {generation}, holder = $1, address = $2, \
         until = pg_catalog.clock_timestamp() + interval '{LASTS_SECONDS} s'"
    );
    let holder = format!("process {} on {}", owner.pid, owner.host);
    connection
        .query(&sql, &[Some(&holder), Some(address)])
        .await?;
    Ok(Ok(Lease { store, generation }))
}

/// Waits until the lease is ours, for ever unless `patience` ends. Says meanwhile who has it.
pub(super) async fn wait(
    postgres: &mut Postgres,
    owner: &Owner,
    address: &str,
    patience: Option<Duration>,
    waits: &watch::Sender<Option<Holder>>,
) -> Result<Lease> {
    let began = Instant::now();
    loop {
        match take(postgres, owner, address).await {
            Ok(Ok(lease)) => {
                postgres.generation = lease.generation;
                return Ok(lease);
            }
            Ok(Err(holder)) if patience.is_some_and(|patience| began.elapsed() >= patience) => {
                let text = format!("{} has it", holder.name);
                return Err(Error::definite(codes::STORE_IN_USE, text));
            }
            Ok(Err(holder)) => drop(waits.send_replace(Some(holder))),
            // Whoever stands by outlives the store's own troubles.
            Err(err) if err.kind() == ErrorKind::Transient && waits.borrow().is_some() => {
                tracing::debug!(error = %err, "the lease is not looked at");
            }
            Err(err) => return Err(err),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Makes the lease longer until somebody else has it.
pub(super) async fn keep(config: ConnectConfig, generation: i64, kept: Arc<Kept>) {
    // On a connection of its own: work that takes its time must not cost the lease.
    let mut postgres = Postgres::new(config);
    let sql = format!(
        "UPDATE store SET until = pg_catalog.clock_timestamp() + interval '{LASTS_SECONDS} s' \
         WHERE generation = {generation}"
    );
    loop {
        let asked = Instant::now();
        match write(&mut postgres, &sql, RENEW_WITHIN).await {
            Ok(0) => {
                kept.taken.send_replace(true);
                return;
            }
            Ok(_) => {
                *kept.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked;
            }
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
