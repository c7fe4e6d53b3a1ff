//! PostgreSQL as a target.
//!
//! [`PgTarget`] is what all tasks of a pipeline share. It holds the pipeline's lock ([`owner`]),
//! knows the run's generation, and opens sessions; the work is in the files beside it, named as the
//! calls of [`tidemark_core::target::Target`] are. What every write has in common, the checkpoint
//! and its fence, is told in [`checkpoint`].
//!
//! Sessions write with `session_replication_role = replica` where the role may set it (superusers,
//! and from PostgreSQL 15 on whoever has SET on the parameter): triggers and foreign keys of the
//! target then keep still, since the source's have done their work already.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tidemark_core::batch::SchemaChange;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{
    Checkpoint, Generation, KnownPartitions, LoadPhase, RelayHome, Release, Unit,
};
use tidemark_core::control::Control;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{SourceSchema, TableName};
use tidemark_core::source::SequenceValue;
use tidemark_core::target::{
    Existing, KnownTypes, Lacking, LoadStart, Loader, Loosened, Occasion, Owner, Place, Prepared,
    TypeChanges, TypeHistory,
};
use tidemark_core::{Context, Error, Result, failpoint};
use tokio::time::Instant;

use crate::config::ConnectConfig;
use crate::view::PgView;
use crate::wire::{Connection, Role, TransactionStatus};
use checkpoint::{Write, Writer};
use control::PgControl;
use load::PgLoader;
use prepare::Preparation;
use reshape::Reshaping;

mod apply;
mod ascii;
mod catalog;
mod check;
pub(crate) mod checkpoint;
mod claim;
mod contract;
mod control;
mod create;
mod existing;
pub(crate) mod feeds;
mod finish;
mod fit;
mod foreign_keys;
mod indexes;
mod lacks;
mod load;
mod loosen;
mod metadata;
mod names;
mod objects;
pub mod origin;
pub(crate) mod owner;
mod prepare;
mod reshape;
mod sequences;
mod swap;
mod wording;

pub use apply::PgApplier;
pub(crate) use apply::lookup_key;
pub(crate) use catalog::without_heirs;

/// A statement that waits for a lock longer than this gives up, and is tried again later: who
/// waits for an exclusive lock keeps everybody else from the table.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '60s'";
const KEEP_TRIGGERS_STILL: &str = "SET session_replication_role = replica";

/// Idle sessions that are kept for the next call, and for how long: a load has use for many, a stream
/// for few, and other pipelines need connections as well.
const IDLE_SESSIONS_MAX: usize = 4;
const IDLE_FOR: Duration = Duration::from_secs(10);

/// A PostgreSQL database that receives. See the module's text.
#[derive(Debug)]
pub struct PgTarget {
    config: ConnectConfig,
    pipeline: String,
    /// 0 until [`PgTarget::acquire`].
    generation: Arc<AtomicU64>,
    /// See [`PgTarget::has_ended_another`].
    ended_another: Arc<AtomicBool>,
    lock: tokio::sync::Mutex<owner::Lock>,
    idle: Arc<Mutex<Vec<IdleSession>>>,
    /// Tables that were claimed since the pipeline was taken over.
    claimed: Mutex<HashSet<TableName>>,
    /// The role may not keep triggers still.
    triggers_fire: AtomicBool,
    existing: Existing,
    origin: Origin,
    load_workers: u64,
}

/// Whether applied changes say that they came from elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// They look like anybody's.
    #[default]
    Unmarked,
    /// They bear a replication origin of the pipeline's name ([`origin`]).
    Marked,
}

/// What triggers and foreign keys of the target do when we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Triggers {
    /// Nothing, but for those that are declared `ENABLE REPLICA` or `ENABLE ALWAYS`.
    KeepStill,
    /// They fire: the role may not set `session_replication_role`.
    Fire,
}

impl PgTarget {
    /// A target for one pipeline. Connects when it is first asked for something.
    pub fn new(config: ConnectConfig, pipeline: impl Into<String>) -> PgTarget {
        PgTarget {
            config,
            pipeline: pipeline.into(),
            generation: Arc::default(),
            ended_another: Arc::default(),
            lock: tokio::sync::Mutex::default(),
            idle: Arc::default(),
            claimed: Mutex::default(),
            triggers_fire: AtomicBool::new(false),
            existing: Existing::default(),
            origin: Origin::default(),
            load_workers: 0,
        }
    }

    /// How many workers will load at once, so that the check can tell whether there is room for them.
    #[must_use]
    pub fn load_workers(mut self, workers: usize) -> PgTarget {
        self.load_workers = workers.try_into().unwrap_or(u64::MAX);
        self
    }

    /// What will be done with tables that are there, so that the check can tell what will be refused.
    #[must_use]
    pub fn existing(mut self, existing: Existing) -> PgTarget {
        self.existing = existing;
        self
    }

    /// Whether applied changes are marked.
    #[must_use]
    pub fn origin(mut self, origin: Origin) -> PgTarget {
        self.origin = origin;
        self
    }

    /// What the target has; see [`tidemark_core::target::Target::checkpoint`].
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        let mut session = self.session().await?;
        let found = checkpoint::read(&mut session, &self.pipeline).await?;
        session.keep();
        Ok(found)
    }

    /// What is recorded of the partitions of each table.
    pub async fn partitions(&self) -> Result<Vec<KnownPartitions>> {
        let mut session = self.session().await?;
        let found = checkpoint::partitions(&mut session, &self.pipeline).await?;
        session.keep();
        Ok(found)
    }

    /// Its name and the cluster's number; a role that may not ask for that does not say.
    pub async fn identity(&self) -> Result<Option<String>> {
        let mut session = self.session().await?;
        let sql = "SELECT format('database %s of cluster %s', quote_ident(current_database()), \
                   system_identifier) FROM pg_control_system()";
        let set = match session.query(sql, &[]).await {
            Err(error) if error.sqlstate_code() == Some("42501") => return Ok(None),
            set => set?,
        };
        let identity = set.one()?.get_str(0)?.to_owned();
        session.keep();
        Ok(Some(identity))
    }

    /// Takes the pipeline over.
    pub async fn acquire(&self, owner: &Owner) -> Result<Generation> {
        let mut lock = self.lock.lock().await;
        let generation = lock.acquire(&self.config, &self.pipeline, owner).await?;
        self.claimed().clear();
        self.generation.store(generation.0, Ordering::Release);
        self.ended_another
            .store(lock.has_ended_another, Ordering::Release);
        Ok(generation)
    }

    /// Whether the lock of an earlier lease was ended.
    pub fn has_ended_another(&self) -> bool {
        self.ended_another.load(Ordering::Acquire)
    }

    /// Keeps the pipeline's lock; see [`tidemark_core::target::Target::keep_lock`].
    pub async fn keep_lock(&self, owner: &Owner) -> Error {
        let mut lock = self.lock.lock().await;
        lock.keep(&self.config, &self.pipeline, owner).await
    }

    /// Records where a first load starts.
    pub async fn start_load(&self, start: &LoadStart) -> Result<()> {
        self.refuse_self(start).await?;
        let tables: Vec<&TableName> = start.tables.iter().map(|table| &table.target).collect();
        let mut session = self.session().await?;
        session.run("BEGIN").await?;
        claim::claim(&mut session, &self.pipeline, &tables).await?;
        claim::displace(&mut session, &self.pipeline, &tables).await?;
        checkpoint::commit_open(&mut session, &self.writer().start(start))
            .await
            .context(|| "record the start on the target")?;
        session.keep();
        self.claimed().extend(tables.into_iter().cloned());
        Ok(())
    }

    /// Refuses where another pipeline that runs has one of the tables; one that has and seems not to run is
    /// fenced off.
    pub async fn claim(&self, tables: &[&TableName]) -> Result<()> {
        let mut session = self.session().await?;
        session.run("BEGIN").await?;
        claim::claim(&mut session, &self.pipeline, tables).await?;
        session.run("COMMIT").await?;
        session.keep();
        self.claimed().extend(tables.iter().copied().cloned());
        Ok(())
    }

    /// By which types rows of tables are there.
    pub async fn known_types(&self) -> Result<Vec<KnownTypes>> {
        let mut session = self.session().await?;
        let known = checkpoint::known_types(&mut session, &self.pipeline).await?;
        session.keep();
        Ok(known)
    }

    /// Makes types and sequences that the tables need; whether a type got what it lacked.
    pub async fn prepare_objects(
        &self,
        schema: &SourceSchema,
        tables: &[TableMapping],
        changes: TypeChanges,
        histories: &[TypeHistory],
    ) -> Result<bool> {
        let mut session = self.session().await?;
        let types = objects::Types {
            pipeline: &self.pipeline,
            changes,
            histories,
        };
        let made = objects::make_beside_others(&mut session, schema, tables, &types);
        let is_extended = made.await?;
        session.keep();
        Ok(is_extended)
    }

    /// Makes a table ready for rows.
    pub async fn prepare(
        &self,
        mapping: &TableMapping,
        existing: Existing,
        place: Place,
        units: &[Unit],
    ) -> Result<Prepared> {
        let mut session = self.session().await?;
        let is_claimed = self.claimed().contains(&mapping.target);
        let preparation = Preparation {
            mapping,
            existing,
            place,
            units,
            writer: self.writer(),
            triggers: self.keep_triggers_still(&mut session).await?,
            is_claimed,
        };
        let prepared = preparation.run(&mut session).await?;
        session.keep();
        self.claimed().insert(mapping.target.clone());
        Ok(prepared)
    }

    /// Gives a table that is to be loaded anew where it is the shape of its rows to come.
    pub async fn reshape(&self, mapping: &TableMapping, changes: &[SchemaChange]) -> Result<bool> {
        let mut session = self.session().await?;
        let reshaping = Reshaping {
            mapping,
            changes,
            writer: self.writer(),
            triggers: self.keep_triggers_still(&mut session).await?,
        };
        let is_touched = reshaping.run(&mut session).await?;
        session.keep();
        Ok(is_touched)
    }

    /// Makes what was deferred for one table.
    pub async fn finish(&self, mapping: &TableMapping, place: Place) -> Result<()> {
        let mut session = self.session().await?;
        finish::finish(&mut session, &self.pipeline, mapping, place).await?;
        session.keep();
        Ok(())
    }

    /// Makes the foreign keys among the loaded tables.
    pub async fn finish_foreign_keys(&self, tables: &[TableMapping]) -> Result<()> {
        let mut session = self.session().await?;
        foreign_keys::finish(&mut session, &self.pipeline, tables).await?;
        session.keep();
        Ok(())
    }

    /// Takes constraints off the target that the source does not have any more.
    pub async fn loosen(
        &self,
        tables: &[TableMapping],
        of: &[TableName],
        occasion: Occasion,
    ) -> Result<Loosened> {
        let mut session = self.session().await?;
        let loosened = loosen::loosen(&mut session, &self.writer(), tables, of, occasion).await?;
        session.keep();
        Ok(loosened)
    }

    /// What the source has by now and loaded tables lack.
    pub async fn lacks(&self, tables: &[TableMapping]) -> Result<Vec<Lacking>> {
        let mut session = self.session().await?;
        let compared = lacks::compare(&mut session, &self.pipeline, tables).await?;
        session.keep();
        Ok(compared.into_iter().flat_map(|table| table.lacks).collect())
    }

    /// Tables that a crash empties.
    pub async fn unlogged(&self) -> Result<HashSet<TableName>> {
        let mut session = self.session().await?;
        let unlogged = catalog::unlogged(&mut session).await?;
        session.keep();
        Ok(unlogged)
    }

    /// Gives a resynced table its place.
    pub async fn swap(&self, mapping: &TableMapping) -> Result<()> {
        let mut session = self.session().await?;
        swap::swap(&mut session, mapping, &self.writer()).await?;
        session.keep();
        Ok(())
    }

    /// Sets sequences to these values; no position depends on it, so whoever asks may. Gives those that
    /// do not take theirs.
    pub async fn set_sequences(
        &self,
        values: &[SequenceValue],
        tables: &[TableMapping],
    ) -> Result<Vec<Error>> {
        let mut session = self.session().await?;
        let refused = sequences::set(&mut session, values, tables).await?;
        session.keep();
        Ok(refused)
    }

    /// A view of now.
    pub async fn view(&self) -> Result<PgView> {
        PgView::of_target(Connection::connect(&self.config, Role::Ordinary).await?).await
    }

    /// A worker's connection for loading.
    pub async fn loader(&self) -> Result<Box<dyn Loader>> {
        let mut connection = self.connect().await?;
        let triggers = self.keep_triggers_still(&mut connection).await?;
        Ok(Box::new(PgLoader::new(connection, self.writer(), triggers)))
    }

    /// Records how far the first load is.
    pub async fn set_phase(&self, phase: LoadPhase) -> Result<()> {
        self.write(&self.writer().phase(phase), "the load's phase")
            .await
    }

    /// Records why the slot is about to be removed.
    pub async fn record_release(&self, release: &Release) -> Result<()> {
        self.write(&self.writer().release(release), "the slot's release")
            .await?;
        failpoint::reached(failpoint::RELEASE_RECORDED);
        Ok(())
    }

    /// Records where the source's log is kept beside the source.
    pub async fn record_relay(&self, relay: &RelayHome) -> Result<()> {
        self.write(&self.writer().relay(relay), "where the relay log is")
            .await
    }

    /// Records the source's timeline.
    pub async fn follow_timeline(&self, timeline: u32) -> Result<()> {
        self.write(&self.writer().timeline(timeline), "the source's timeline")
            .await
    }

    /// The side door.
    pub async fn control(&self) -> Result<Box<dyn Control>> {
        let connection = Connection::connect(&self.config, Role::Ordinary).await?;
        let control = PgControl::open(connection, &self.pipeline, &self.generation).await?;
        Ok(Box::new(control))
    }

    /// Removes what the pipeline keeps in our schema.
    pub async fn forget(&self) -> Result<()> {
        self.write(&self.writer().forget(), "that the pipeline is removed")
            .await
    }

    /// In whose name transactions are written.
    pub(crate) fn writer(&self) -> Writer {
        Writer {
            pipeline: self.pipeline.clone(),
            generation: Generation(self.generation.load(Ordering::Acquire)),
        }
    }

    /// A connection that is ready to write rows.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let mut connection = Connection::connect(&self.config, Role::Ordinary).await?;
        connection.run(LOCK_TIMEOUT).await?;
        self.keep_triggers_still(&mut connection).await?;
        Ok(connection)
    }

    /// Has the session keep them still, where the role may; once it may not it is not asked again.
    pub(crate) async fn keep_triggers_still(
        &self,
        connection: &mut Connection,
    ) -> Result<Triggers> {
        if self.triggers_fire.load(Ordering::Relaxed) {
            return Ok(Triggers::Fire);
        }
        match connection.run(KEEP_TRIGGERS_STILL).await {
            Ok(()) => Ok(Triggers::KeepStill),
            Err(error) if error.sqlstate_code() == Some("42501") => {
                self.triggers_fire.store(true, Ordering::Relaxed);
                Ok(Triggers::Fire)
            }
            Err(error) => Err(error),
        }
    }

    /// A session for a call that does not need one of its own; an idle one if there is one.
    async fn session(&self) -> Result<Session<'_>> {
        let idle = self.idle().pop();
        let connection = match idle {
            Some(idle) => idle.connection,
            None => self.connect().await?,
        };
        Ok(Session {
            target: self,
            connection: Some(connection),
        })
    }

    /// A table that is copied onto itself would feed itself for ever. The file may name one server
    /// in two ways, so the server is asked who it is.
    async fn refuse_self(&self, start: &LoadStart) -> Result<()> {
        let mut tables = start.tables.iter();
        let Some(table) = tables.find(|table| table.source == table.target) else {
            return Ok(());
        };
        let mut session = self.session().await?;
        let identity = session
            .query(
                "SELECT (SELECT system_identifier FROM pg_control_system())::text, \
                 current_database()",
                &[],
            )
            .await?;
        let row = identity.one()?;
        let is_same =
            row.get_str(0)? == start.identity.system && row.get_str(1)? == start.identity.database;
        session.keep();
        if is_same {
            return Err(Error::definite(
                codes::TARGET_IS_SOURCE,
                format!("{} would be copied onto itself", table.source),
            ));
        }
        Ok(())
    }

    /// Writes in the run's name, in a transaction of their own.
    async fn write(&self, writes: &[Write], what: &str) -> Result<()> {
        let mut session = self.session().await?;
        checkpoint::commit(&mut session, writes)
            .await
            .context(|| format!("record {what} on the target"))?;
        session.keep();
        Ok(())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IdleSession>> {
        lock(&self.idle)
    }

    fn claimed(&self) -> MutexGuard<'_, HashSet<TableName>> {
        lock(&self.claimed)
    }
}

/// A session that waits for the next call.
#[derive(Debug)]
struct IdleSession {
    connection: Connection,
    since: Instant,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it comes and goes whole, so a panic elsewhere leaves nothing half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends sessions that nobody had a use for.
async fn end_idle(sessions: Weak<Mutex<Vec<IdleSession>>>) {
    tokio::time::sleep(IDLE_FOR).await;
    if let Some(sessions) = sessions.upgrade() {
        lock(&sessions).retain(|idle| idle.since.elapsed() < IDLE_FOR);
    }
}

/// A session on loan. Given back by [`Session::keep`]; otherwise something went wrong, and it is
/// dropped together with the idle ones, so that the server undoes what was open and the next call
/// connects anew.
struct Session<'a> {
    target: &'a PgTarget,
    connection: Option<Connection>,
}

impl Session<'_> {
    fn keep(mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let is_clean = connection.transaction_status() == TransactionStatus::Idle
            && connection.ready_expected() == 0;
        let mut idle = self.target.idle();
        if is_clean && idle.len() < IDLE_SESSIONS_MAX {
            let since = Instant::now();
            idle.push(IdleSession { connection, since });
            tokio::spawn(end_idle(Arc::downgrade(&self.target.idle)));
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.target.idle().clear();
        }
    }
}

impl Deref for Session<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("taken only by `keep`")
    }
}

impl DerefMut for Session<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("taken only by `keep`")
    }
}
