//! PostgreSQL as a source: what it keeps for a pipeline, and the stream of its changes.
//!
//! [`PgSource`] holds no state that matters: what it needs to know it asks the server, each time. What its
//! methods do is in the files named after what they are about; the trait is implemented in [`contract`].
//!
//! What we make on the source bears the pipeline's name and goes with the pipeline: one slot
//! (`tidemark_<pipeline>`), one publication of the same name, and for a verification a temporary
//! slot that ends with its session.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::config::{ChangeOrigin, Create};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::TableName;
use tidemark_core::source::{
    ChangeStream, Holder, Keep, LogState, Partition, Pin, Relayed, SequenceValue, Slot, Within,
};
use tidemark_core::{Error, Result, failpoint};
use tokio::time::Instant;

use crate::config::ConnectConfig;
use crate::wire::{Connection, ShutdownNotice};
use publication::Wanted;
use relay::Relay;
use relay::writer::Origin;
use session::Sessions;
use slot::create::Lifetime;
use slot::{Identity, Now};

mod ahead;
mod assemble;
mod blockers;
mod chunks;
mod contract;
mod decode;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod knock;
mod partitions;
mod pins;
pub(crate) mod publication;
mod relay;
mod replay;
pub(crate) mod select;
mod sequences;
mod session;
pub(crate) mod slot;
mod snapshot;
pub(crate) mod spool;
mod stream;
mod xids;

pub use relay::RelayOptions;
pub use slot::create::ExportedSnapshot;
pub use slot::{check_name, list_slots};
pub use snapshot::PgSnapshot;

/// How a source is read; made from `[source]`, `[source.postgres]` and `[stream]` of a pipeline file.
#[derive(Clone, Debug)]
pub struct PgSourceOptions {
    /// Where it is.
    pub connect: ConnectConfig,
    /// The pipeline's name.
    pub pipeline: String,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// Whether we make what is missing of the two, and remove it in the end.
    pub create: Create,
    /// Which changes are read.
    pub origin: ChangeOrigin,
    /// How long making a slot, or publishing a table, waits for transactions that are open.
    pub slot_creation_timeout: Duration,
    /// Where transactions in progress wait for their commit.
    pub spool_dir: PathBuf,
    /// What they may hold in memory there.
    pub spool_bytes_max: usize,
    /// The server is told what we have at least so often.
    pub status_interval: Duration,
    /// A server that says nothing for so long is given up.
    pub silence_timeout: Duration,
    /// Frames that wait to be decoded hold at most so many bytes.
    pub queue_bytes_max: usize,
    /// Large messages of the log hold at most so many bytes until they are applied, but always one.
    pub held_bytes_max: usize,
    /// Keeps the log on this machine while the target does not keep up.
    pub relay: Option<RelayOptions>,
}

impl PgSourceOptions {
    /// The defaults for a pipeline.
    pub fn new(connect: ConnectConfig, pipeline: &str) -> PgSourceOptions {
        let stream = crate::wire::ReplicationOptions::default();
        PgSourceOptions {
            connect,
            pipeline: pipeline.to_owned(),
            slot: format!("tidemark_{pipeline}"),
            publication: format!("tidemark_{pipeline}"),
            create: Create::IfMissing,
            origin: ChangeOrigin::Any,
            slot_creation_timeout: Duration::from_mins(10),
            spool_dir: std::env::temp_dir(),
            spool_bytes_max: 8 << 20,
            status_interval: stream.status_interval,
            silence_timeout: stream.silence_timeout,
            queue_bytes_max: stream.queue_bytes_max,
            held_bytes_max: stream.held_bytes_max,
            relay: None,
        }
    }

    /// Our messages in the log bear this.
    fn heartbeat_prefix(&self) -> String {
        format!("tidemark:{}", self.pipeline)
    }

    fn wanted<'a>(&'a self, tables: &'a [TableName]) -> Wanted<'a> {
        Wanted {
            name: &self.publication,
            pipeline: &self.pipeline,
            create: self.create,
            tables,
        }
    }

    /// A name for a slot that lives as long as a verification; several may run at once.
    fn temporary_slot(&self) -> String {
        let salt = RandomState::new().build_hasher().finish();
        let salt = salt & u64::from(u32::MAX);
        // 63 characters at most, and only ASCII in a slot's name.
        format!("{:.50}_v_{salt:08x}", self.slot)
    }
}

/// See the module's text.
pub struct PgSource {
    options: Arc<PgSourceOptions>,
    sessions: Arc<Sessions>,
    /// Set where the log may be kept on this machine.
    relay: Option<Arc<Relay>>,
    /// The farthest end of the log that anybody has seen, for blocks of the stream: the protocol
    /// does not tell it.
    head: Arc<AtomicU64>,
    /// Who the source is, and since when that holds.
    known: Mutex<Option<(String, Identity)>>,
    made: Made,
    /// The way to the last stream.
    stream: Mutex<ShutdownNotice>,
    /// What was seen when the log was last looked at whole by whoever watches it.
    watched: Mutex<Option<Watched>>,
}

/// What costs the source the more, the more sessions it has, and so is not read at every look: with two
/// hundred pipelines that look every two seconds, each with its sessions, it would read little else.
struct Watched {
    at: Instant,
    pins: Vec<Pin>,
    holder: Option<Holder>,
}

/// How old that may be.
const WHOLE_LOOK_EVERY: Duration = Duration::from_secs(10);

/// A server that shuts down, or has not started yet (PostgreSQL 15, appendix A).
const CANNOT_CONNECT_NOW: &str = "57P03";

impl Drop for PgSource {
    fn drop(&mut self) {
        if let Some(relay) = &self.relay {
            relay.abort();
        }
    }
}

/// What of the pipeline's things was not there before; for [`PgSource::take_back`].
#[derive(Debug, Default)]
struct Made {
    slot: AtomicBool,
    publication: AtomicBool,
}

impl PgSource {
    /// A source; connects to nothing yet.
    pub fn new(options: PgSourceOptions) -> Result<PgSource> {
        slot::check_name(&options.slot)?;
        let relay = options.relay.clone();
        Ok(PgSource {
            relay: relay.map(|relay| Arc::new(Relay::new(relay, &options.pipeline))),
            options: Arc::new(options),
            sessions: Arc::default(),
            head: Arc::default(),
            known: Mutex::default(),
            made: Made::default(),
            stream: Mutex::default(),
            watched: Mutex::default(),
        })
    }

    /// Asked again only when it may have changed: it takes a replication session.
    async fn identity(&self, incarnation: Option<String>) -> Result<Identity> {
        let known = self.known().clone();
        if let Some((since, identity)) = known
            && Some(since) == incarnation
        {
            return Ok(identity);
        }
        let identity = slot::identity(&self.options.connect).await?;
        *self.known() = incarnation.map(|incarnation| (incarnation, identity.clone()));
        Ok(identity)
    }

    fn known(&self) -> MutexGuard<'_, Option<(String, Identity)>> {
        // Holds a whole answer or none, whatever panicked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw(&self, head: Lsn) -> Position {
        self.head.fetch_max(head.0, Ordering::Relaxed);
        Position::PgLsn(head)
    }

    /// See the trait.
    pub async fn log_state(&self) -> Result<LogState> {
        let state = self.look_at_log().await;
        self.notice_shutdown(&state);
        state
    }

    /// See the trait.
    pub async fn watch_log(&self) -> Result<LogState> {
        let state = match self.glance_at_log().await {
            Ok(Some(glanced)) => Ok(glanced),
            Ok(None) => self.look_at_log().await.inspect(|log| {
                *self.watched() = Some(Watched {
                    at: Instant::now(),
                    pins: log.pins.clone(),
                    holder: log.slot.as_ref().and_then(|slot| slot.holder.clone()),
                });
            }),
            Err(err) => Err(err),
        };
        self.notice_shutdown(&state);
        state
    }

    fn notice_shutdown(&self, state: &Result<LogState>) {
        if let Err(error) = state
            && error.sqlstate_code() == Some(CANNOT_CONNECT_NOW)
        {
            // While it starts there is no stream; so it shuts down, which ours may hold up.
            self.stream().server_shuts_down();
            if let Some(relay) = &self.relay {
                relay.server_shuts_down();
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, Option<Watched>> {
        // Holds a whole look or none, whatever panicked.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self) -> MutexGuard<'_, ShutdownNotice> {
        // Nothing in here can be left half done by a panic.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_at_log(&self) -> Result<LogState> {
        let options = &self.options;
        let mut session = self.sessions.borrow(&options.connect).await?;
        let now = slot::now(&mut session).await?;
        let slot = slot::read(&mut session, &options.slot).await?;
        let made_by = self.made_by_another(&mut session).await?;
        let pins = pins::read(&mut session).await?;
        session.give_back();
        let mut log = self.seen(now, slot, pins).await?;
        log.slot_made_by = made_by;
        Ok(log)
    }

    /// `None` where it is time for a whole look, or somebody reads the slot who did not then.
    async fn glance_at_log(&self) -> Result<Option<LogState>> {
        let is_fresh = |seen: &Watched| seen.at.elapsed() < WHOLE_LOOK_EVERY;
        if !self.watched().as_ref().is_some_and(is_fresh) {
            return Ok(None);
        }
        let options = &self.options;
        let mut session = self.sessions.borrow(&options.connect).await?;
        let (now, mut slot) = slot::glance(&mut session, &options.slot).await?;
        session.give_back();
        let pins = {
            let watched = self.watched();
            let Some(seen) = watched.as_ref() else {
                return Ok(None);
            };
            if let Some(Slot { holder, .. }) = &mut slot {
                let pid = |holder: &Option<Holder>| holder.as_ref().map(|holder| holder.pid);
                if pid(holder).is_some() && pid(holder) != pid(&seen.holder) {
                    return Ok(None);
                }
                *holder = holder.take().and(seen.holder.clone());
            }
            seen.pins.clone()
        };
        self.seen(now, slot, pins).await.map(Some)
    }

    async fn seen(&self, now: Now, slot: Option<Slot>, pins: Vec<Pin>) -> Result<LogState> {
        if let (Some(relay), Some(slot)) = (&self.relay, &slot)
            && relay.is_due(slot, now.head)
        {
            relay.begin(self.origin());
        }
        let is_standby = now.incarnation.is_none();
        let Identity {
            identity,
            earlier_timelines,
        } = self.identity(now.incarnation).await?;
        Ok(LogState {
            identity,
            earlier_timelines,
            clock_us: now.clock_us,
            running: now.running,
            committing: now.committing,
            is_standby,
            head: self.saw(now.head),
            slot,
            slot_made_by: None,
            pins,
            relayed: self
                .relay
                .as_ref()
                .and_then(|relay| relay.relayed())
                .map(Box::new),
            other_target: None,
        })
    }

    /// See the trait.
    pub async fn announce(&self, tables: &[TableName]) -> Result<()> {
        let options = &self.options;
        let mut session = self.sessions.borrow(&options.connect).await?;
        let wanted = options.wanted(tables);
        let (patience, is_made) = (options.slot_creation_timeout, &self.made.publication);
        publication::announce(&mut session, &wanted, patience, is_made).await?;
        session.give_back();
        Ok(())
    }

    /// See the trait.
    pub async fn unannounced(
        &self,
        tables: &[TableName],
        within: Within,
    ) -> Result<Vec<TableName>> {
        let options = &self.options;
        let mut session = self.sessions.borrow(&options.connect).await?;
        let wanted = options.wanted(tables);
        let slot = (within == Within::KeptLog).then_some(options.slot.as_str());
        let missing = publication::unannounced(&mut session, &wanted, slot).await?;
        session.give_back();
        Ok(missing)
    }

    /// See the trait.
    pub async fn partitions(
        &self,
        tables: &[TableName],
    ) -> Result<Vec<(TableName, Vec<Partition>)>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let found = partitions::read(&mut session, tables).await?;
        session.give_back();
        Ok(found)
    }

    /// Makes a slot that keeps the log from a snapshot on.
    pub async fn make_slot(&self, keep: Keep) -> Result<ExportedSnapshot> {
        let options = &self.options;
        let (name, lifetime) = match keep {
            Keep::ForPipeline if options.create == Create::Never => {
                let name = &options.slot;
                let message = format!("slot {name} would have to be made, and we are not to");
                return Err(Error::definite(codes::SLOT_MISSING, message)
                    .first_action("set source.postgres.create = \"if_missing\""));
            }
            Keep::ForPipeline => (options.slot.clone(), Lifetime::Permanent),
            Keep::WhileOpen => (options.temporary_slot(), Lifetime::Temporary),
        };
        let patience = options.slot_creation_timeout;
        let exported =
            slot::create::create(&options.connect, &self.sessions, &name, lifetime, patience);
        let exported = exported.await;
        if keep == Keep::ForPipeline && exported.is_ok() {
            failpoint::reached(failpoint::SLOT_MADE);
        }
        // Where the answer was lost it may be there.
        let is_anothers = matches!(&exported, Err(err) if err.code() == codes::SLOT_EXISTS);
        if keep == Keep::ForPipeline && !is_anothers {
            self.made.slot.store(true, Ordering::Relaxed);
        }
        exported
    }

    /// See the trait.
    pub async fn changes(&self, after: Position) -> Result<Box<dyn ChangeStream>> {
        let Position::PgLsn(after) = after;
        let head = Arc::clone(&self.head);
        let stream = stream::open(self.origin(), self.relay.clone(), head, after).await?;
        *self.stream() = stream.shutdown_notice();
        Ok(Box::new(stream))
    }

    /// See the trait.
    pub async fn relayed(&self) -> Result<Option<Relayed>> {
        let Some(relay) = &self.relay else {
            return Ok(None);
        };
        let identity = slot::identity(&self.options.connect).await?.identity;
        relay.open(&self.options.slot, &identity).await?;
        Ok(relay.relayed())
    }

    /// See the trait.
    pub fn permit_relay(&self) {
        if let Some(relay) = &self.relay {
            relay.permit();
        }
    }

    fn origin(&self) -> Origin {
        Origin {
            options: Arc::clone(&self.options),
            sessions: Arc::clone(&self.sessions),
        }
    }

    /// See the trait.
    pub async fn head(&self) -> Result<Position> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let now = slot::now(&mut session).await?;
        session.give_back();
        Ok(self.saw(now.head))
    }

    /// See the trait.
    pub async fn heartbeat(&self) -> Result<Option<i64>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        // A standby cannot write its log; nothing is evaluated for the rows that are not there.
        let sql = "SELECT now_us, pg_logical_emit_message(false, $1, now_us::text) \
                   FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now_us \
                         WHERE NOT pg_is_in_recovery()) clock";
        let prefix = self.options.heartbeat_prefix();
        let set = session.query(sql, &[Some(&prefix)]).await?;
        session.give_back();
        set.rows.first().map(|row| row.get(0)).transpose()
    }

    /// See the trait.
    pub async fn sequences(&self, tables: &[TableName]) -> Result<Vec<SequenceValue>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let values = sequences::read(&mut session, tables).await?;
        session.give_back();
        Ok(values)
    }

    /// See the trait.
    pub async fn release(&self) -> Result<Vec<String>> {
        let options = &self.options;
        let mut removed = Vec::new();
        if options.create == Create::Never {
            return Ok(removed);
        }
        let mut session = self.sessions.borrow(&options.connect).await?;
        match self.made_by_another(&mut session).await? {
            Some(other) => tracing::warn!(
                code = %codes::SLOT_FOREIGN,
                "slot {} stays: the pipeline {other} made it",
                options.slot
            ),
            None => removed.extend(self.remove_slot(&mut session).await?),
        }
        removed.extend(self.remove_publication(&mut session).await?);
        session.give_back();
        Ok(removed)
    }

    /// See the trait.
    pub async fn release_slot(&self) -> Result<Option<String>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let removed = self.remove_slot(&mut session).await?;
        session.give_back();
        Ok(removed)
    }

    /// See the trait. A server that is frozen answers nothing, and its walsender waits for it up to
    /// `wal_sender_timeout`.
    pub async fn end_reader(&self) -> Result<()> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        slot::end_reader(&mut session, &self.options.slot).await?;
        session.give_back();
        Ok(())
    }

    /// See the trait.
    pub async fn note_target(&self, target: &str) -> Result<()> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        publication::note_target(&mut session, &self.options.wanted(&[]), target).await?;
        session.give_back();
        Ok(())
    }

    /// See the trait.
    pub async fn noted_target(&self) -> Result<Option<String>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let wanted = self.options.wanted(&[]);
        let made = publication::made(&mut session, wanted.name).await?;
        session.give_back();
        let ours = made.filter(|made| made.pipeline == wanted.pipeline);
        Ok(ours.and_then(|made| made.target))
    }

    /// Another pipeline that made a slot of our slot's name, where it made the publication of that name with
    /// it: a slot has no comment, and two names that differ in `-` and `_` alone have the same slot.
    async fn made_by_another(&self, session: &mut Connection) -> Result<Option<String>> {
        let made = publication::made(session, &self.options.slot).await?;
        let pipeline = made.map(|made| made.pipeline);
        Ok(pipeline.filter(|pipeline| *pipeline != self.options.pipeline))
    }

    /// See the trait.
    pub async fn take_back(&self) -> Result<Vec<String>> {
        let is_made = |what: &AtomicBool| what.load(Ordering::Relaxed);
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let mut removed = Vec::new();
        if is_made(&self.made.slot) {
            removed.extend(self.remove_slot(&mut session).await?);
        }
        if is_made(&self.made.publication) {
            removed.extend(self.remove_publication(&mut session).await?);
        }
        session.give_back();
        Ok(removed)
    }

    async fn remove_slot(&self, session: &mut Connection) -> Result<Option<String>> {
        let name = &self.options.slot;
        if let Some(relay) = &self.relay {
            relay.let_go().await;
        }
        let is_gone = slot::drop_ours(session, name).await?;
        self.made.slot.store(false, Ordering::Relaxed);
        failpoint::reached(failpoint::SLOT_REMOVED);
        Ok(is_gone.then(|| format!("slot {name}")))
    }

    async fn remove_publication(&self, session: &mut Connection) -> Result<Option<String>> {
        let wanted = self.options.wanted(&[]);
        let is_gone = publication::drop_ours(session, &wanted).await?;
        self.made.publication.store(false, Ordering::Relaxed);
        Ok(is_gone.then(|| format!("publication {}", wanted.name)))
    }
}
