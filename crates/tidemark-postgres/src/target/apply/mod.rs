//! The applier: batches in, one target transaction each, checkpoint and all.
//!
//! # What it must do
//! Apply whole source transactions so that a commit of the target holds rows and position together
//! (promises P2, P3), as fast as the target can take them when there is a backlog, and with nothing
//! to wait for when there is none.
//!
//! # A light transaction: one flight
//! A small batch is held back until `commit`. Then everything is sent at once and read at once:
//!
//! ```text
//!   ──► bind execute, bind execute, …, no hooks?, checkpoint, Sync   how far is the log, Sync
//!   ◄── … CommandComplete (one for each) … Ready                     two positions … Ready
//! ```
//!
//! Statements up to a `Sync` are one transaction, which commits at the `Sync` and is gone at the
//! first error (PostgreSQL 15, 55.2.3); nobody has to say BEGIN or COMMIT. Since nothing can be
//! asked in between, statements deal with surprises by themselves ([`shape`]). What they take for granted,
//! that no trigger and no rule leaves a row out, is asked for last, and fails the transaction if it is not so
//! any more ([`known`]).
//!
//! # Everything else: parts
//! A larger batch, or a second one in the same transaction, opens a transaction and is applied
//! before `apply` returns ([`stretch`]): as sets where that pays, in slices, so that memory is
//! bounded by the batch. A source transaction larger than a batch is so many parts, each behind a
//! savepoint.
//!
//! # When the server refuses
//! Sets give up the order between rows, and a row may be there that nobody told us of. So after any
//! refusal that is about data, the part (or the light transaction) is undone and applied again
//! one change at a time in source order, prepared for rows that are there. What is refused then is
//! refused for good: a data error that names table and change, and the transaction is gone.
//!
//! Neighbours: [`known`] and [`table`] know the target's tables, [`rows`], [`sets`], [`barrier`]
//! write statements, [`session`] has them in flight, [`parked`] keeps changes for later,
//! [`durability`] tells what may be acknowledged.

pub(super) mod aside;
mod barrier;
mod caution;
mod commit;
mod durability;
mod known;
mod parked;
mod payload;
mod refusal;
mod rows;
mod session;
mod sets;
mod shape;
mod stretch;
mod table;
mod text;
mod transaction;

use std::sync::Arc;

use async_trait::async_trait;
use tidemark_core::batch::Batch;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::CheckpointUpdate;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::Position;
use tidemark_core::quarantine::{Chosen, Kept, Released};
use tidemark_core::schema::TableName;
use tidemark_core::target::{Applied, Applier, Origin, Parked};
use tidemark_core::{Error, ErrorKind, Result};

pub(crate) use self::table::lookup_key;

use self::aside::Quarantine;
use self::durability::Durability;
use self::known::KnownTables;
use self::parked::{OldShapes, Parcel};
use self::session::Session;
use self::transaction::{Part, State};
use super::checkpoint::Writer;
use super::{Origin as Mark, PgTarget, Triggers, origin};
use crate::wire::Connection;

/// Applies to one PostgreSQL database, over one connection.
#[derive(Debug)]
pub struct PgApplier {
    session: Session,
    known: KnownTables,
    writer: Writer,
    state: State,
    /// What was held back and is applied by now came to so much, which the commit tells.
    early: Applied,
    durability: Durability,
    /// Whether commits wait for the disk: where a standby is to have them too, as the session's settings
    /// say, but never where these say that a commit waits for nothing.
    is_synchronous: bool,
    /// An error was left behind that only a new connection gets rid of.
    is_lost: bool,
    old_shapes: OldShapes,
    /// What a held batch had allocated, for the next one.
    spare: Batch,
    quarantine: Quarantine,
}

/// Plans are made once and without knowing the values, and must hold for tables of any size: with
/// sequential scans and merge joins out of the question an index is used wherever there is one. What row
/// security would hide is an error (PostgreSQL 15, 5.8), and no row that seems not to be there. What a commit
/// waits for stays what it is, whatever the server is told meanwhile: durability goes by it.
const SETTINGS: &str = "SET row_security = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
     SET enable_mergejoin = off; \
     SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false) <> 'off' \
        AND current_setting('synchronous_standby_names') <> ''";

impl PgTarget {
    /// The one connection that applies changes.
    pub async fn applier(&self) -> Result<PgApplier> {
        let mut connection = self.connect().await?;
        let triggers = self.keep_triggers_still(&mut connection).await?;
        if self.origin == Mark::Marked {
            origin::set(&mut connection, &self.pipeline).await?;
        }
        PgApplier::open(connection, triggers, self.writer()).await
    }
}

impl PgApplier {
    /// Makes a connection an applier's, writing in the name of `writer`.
    async fn open(
        mut connection: Connection,
        triggers: Triggers,
        writer: Writer,
    ) -> Result<PgApplier> {
        let answers = connection.simple(SETTINGS).await?;
        let is_synchronous = match answers.last() {
            Some(answer) => answer.one()?.get_bool(0)?,
            None => false,
        };
        if !is_synchronous {
            connection.run("SET synchronous_commit = off").await?;
        }
        let quarantine = aside::read(&mut connection, &writer.pipeline).await?;
        Ok(PgApplier {
            session: Session::new(connection),
            known: KnownTables::new(triggers),
            writer,
            state: State::Idle,
            early: Applied::default(),
            durability: Durability::default(),
            is_synchronous,
            is_lost: false,
            old_shapes: OldShapes::default(),
            spare: Batch::default(),
            quarantine,
        })
    }

    /// After an error the transaction is gone, and so is the connection if it is not known to work.
    async fn settle<T: Send>(&mut self, done: Result<T>) -> Result<T> {
        if let Err(error) = &done {
            self.forget_transaction();
            if error.kind() == ErrorKind::Transient {
                self.is_lost = true;
                self.state = State::Idle;
            } else if let Err(error) = self.abandon().await {
                tracing::debug!(%error, "the apply connection is given up");
                self.is_lost = true;
            }
        }
        done
    }

    /// The transaction is given up: nothing of it is to be told.
    fn forget_transaction(&mut self) {
        self.quarantine.rolled_back();
        self.early = Applied::default();
    }
}

#[async_trait]
impl Applier for PgApplier {
    async fn begin(&mut self) -> Result<()> {
        if self.is_lost || self.session.is_adrift() {
            return Err(Error::transient(
                codes::TARGET_CONNECTION_LOST,
                "target: the apply connection was left in the middle of a transaction",
            ));
        }
        if !matches!(self.state, State::Idle) {
            return Err(out_of_turn("begin within a transaction"));
        }
        self.known.begin();
        self.state = State::Held(Vec::new());
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch) -> Result<Applied> {
        match &self.state {
            State::Idle => return Err(out_of_turn("apply without begin")),
            State::Held(parts)
                if transaction::is_light(parts, batch) && !self.quarantine.concerns(batch) =>
            {
                let mut copy = std::mem::take(&mut self.spare);
                copy.clone_from(batch);
                self.hold(Part::Changes(copy));
                return Ok(Applied::default());
            }
            State::Held(_) | State::Open(_) => {}
        }
        let done = self.apply_now(batch).await;
        self.settle(done).await
    }

    async fn park(&mut self, batch: &Batch, origin: Origin) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let done = match Parcel::pack(batch, origin) {
            Ok(parcel) => self.park_now(parcel).await,
            Err(error) => Err(error),
        };
        self.settle(done).await
    }

    async fn commit(&mut self, update: &CheckpointUpdate) -> Result<Applied> {
        let done = self.commit_now(update).await;
        let mut applied = self.settle(done).await?;
        self.quarantine.committed(&mut applied);
        Ok(applied)
    }

    async fn rollback(&mut self) -> Result<()> {
        self.forget_transaction();
        let done = self.abandon().await;
        self.is_lost |= done.is_err();
        done
    }

    fn durable(&self) -> Option<Position> {
        self.durability.durable()
    }

    async fn flush(&mut self) -> Result<()> {
        if !matches!(self.state, State::Idle) {
            return Err(out_of_turn("flush within a transaction"));
        }
        if !self.durability.is_waiting() {
            return Ok(());
        }
        let done = self.flush_now().await;
        self.settle(done).await
    }

    fn quarantined(&self) -> Vec<(TableName, Kept)> {
        self.quarantine.all()
    }

    async fn release(&mut self, tables: &[Arc<TableMapping>], chosen: &Chosen) -> Result<Released> {
        let done = self.release_now(tables, chosen).await;
        self.settle(done).await
    }

    async fn discard(&mut self, chosen: &Chosen) -> Result<u64> {
        let done = self.discard_now(chosen).await;
        self.settle(done).await
    }

    async fn unpark(&mut self, table: &TableMapping, bytes_max: usize) -> Result<Option<Parked>> {
        let done = self.unpark_now(table, bytes_max).await;
        self.settle(done).await
    }
}

fn out_of_turn(what: &str) -> Error {
    Error::definite(codes::INTERNAL, format!("target: {what}"))
}
