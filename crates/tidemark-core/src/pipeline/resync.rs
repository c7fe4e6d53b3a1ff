//! Loading tables anew while the others stream.
//!
//! # The problem
//! While a table is copied again its changes go on. They cannot be applied (the rows are half old,
//! half missing), and they cannot be dropped.
//!
//! # What we do
//! 1. The table's state becomes `resyncing`, in a commit at position P. Changes before P are applied;
//!    later ones are *parked*: kept in order in the target, in the same commits as everything else,
//!    so the pipeline's position moves on and the other tables stream.
//! 2. A snapshot S is taken *after* that commit, and the rows are loaded at S, beside the table or in
//!    its place.
//! 3. Parked changes are taken back in order; those that S has seen are skipped by S's tidemark. When
//!    none are left the table streams again.
//!
//! Everything before P must be visible in S. That is not a matter of course: PostgreSQL writes the
//! commit record first and makes the transaction visible afterwards (with synchronous replication
//! much later), so a change may be streamed and applied while a new snapshot still takes its
//! transaction for running. Such a snapshot would lose the change. So the ids of lately applied
//! transactions are looked up in the snapshot, and the snapshot is taken again until it sees them
//! all. What an earlier run applied is not known by id; but what of it is still invisible had not ended
//! when this run began, so those ids count too, as far as they may have committed: a transaction that
//! merely stays open is not waited for.
//!
//! What the log does not hold whole while rows are loaded (a partition logged an old row by other columns then)
//! can be neither applied nor kept. It is lost on this table if S has not seen it, which is known when the rows are
//! in: only then is the table set aside.
//!
//! A run that is killed meanwhile starts the resync again: the state says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::catalogue::codes;
use crate::checkpoint::{Chunk, KnownShape, LoadPhase, Reason, TableCheckpoint, Unit};
use crate::control::ResyncStrategy;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::source::Snapshot;
use crate::status::Reconciled;
use crate::target::{Existing, Origin, Place};
use crate::tidemark::Tidemark;

use super::assemble::Assembler;
use super::full_load::over_another_shape;
use super::going_on::must_stay_covered;
use super::load::{self, LoadTable};
use super::observe::PipelineEvent;
use super::reconcile::{self, Compared};
use super::refused::{NOT_OF_ITS_TYPE, no_table};
use super::retry::Backoff;
use super::visible::snapshot_after;
use super::{Engine, schema_change, task_died};

/// How often a table is emptied or rewritten between snapshot and reading before nobody may, for as long
/// as it takes.
const REWRITTEN_MAX: u32 = 3;

/// A larger table is read in the hope that nobody does.
const ALONE_BYTES_MAX: u64 = 64 << 20;

/// How often a table is read again whose types may have changed while it was read.
const TYPES_TRIES_MAX: u32 = 3;

/// So many transactions are kept in mind that a load has to have seen. With more a table is set aside at once.
const LOST_MAX: usize = 100_000;

/// What is loaded anew.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// The whole table.
    Table(ResyncStrategy),
    /// A table that is new to the pipeline; what becomes of rows that the target has.
    New(Existing),
    /// A table that was emptied, rewritten or changed before the first load had read all of it; what
    /// becomes of rows that the target has.
    Again(Existing),
    /// A table that was dropped and made again on the source.
    Recreated,
    /// A table whose changes the source did not announce any more.
    Unannounced(ResyncStrategy),
    /// What differs from the source, whatever it is ([`super::reconcile`]).
    Reconcile,
    /// Only these rows, by their keys.
    Rows(Vec<Chunk>),
}

impl What {
    /// What is recorded as the reason why a table is loaded anew: a run that begins with it knows how.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            What::Table(ResyncStrategy::Swap) => "resync (swap)",
            What::Table(ResyncStrategy::Truncate) => "resync (truncate)",
            What::New(_) => "new table",
            What::Again(_) => "emptied or changed while it was loaded",
            What::Recreated => "made anew on the source",
            What::Unannounced(ResyncStrategy::Swap) => "not announced (swap)",
            What::Unannounced(ResyncStrategy::Truncate) => "not announced (truncate)",
            What::Reconcile => "reconcile",
            What::Rows(_) => "repair",
        }
    }

    /// How a run goes on with what a killed one, or the first load, had begun: the whole table is loaded.
    /// Units are recorded when a table is prepared, so where there are some its rows are ours.
    pub(super) fn recorded(table: &TableCheckpoint, existing: Existing) -> What {
        let is_begun = !table.units.is_empty();
        let existing = if is_begun {
            Existing::Truncate
        } else {
            existing
        };
        let known = [
            What::Table(ResyncStrategy::Truncate),
            What::New(existing),
            What::Again(existing),
            What::Recreated,
            What::Reconcile,
            What::Unannounced(ResyncStrategy::Swap),
            What::Unannounced(ResyncStrategy::Truncate),
        ];
        known
            .into_iter()
            .find(|what| table.reason == Some(Reason::plain(what.reason())))
            .unwrap_or(What::Table(ResyncStrategy::Swap))
    }

    /// Where the rows go, what becomes of those that are there, and which rows if not all.
    fn load(&self) -> (Place, Existing, Option<Vec<Chunk>>) {
        match self {
            What::Table(ResyncStrategy::Swap) | What::Unannounced(ResyncStrategy::Swap) => {
                (Place::Beside, Existing::Truncate, None)
            }
            What::Table(ResyncStrategy::Truncate) | What::Unannounced(ResyncStrategy::Truncate) => {
                (Place::InPlace, Existing::Truncate, None)
            }
            What::New(existing) | What::Again(existing) => (Place::InPlace, *existing, None),
            What::Recreated => (Place::InPlace, Existing::Drop, None),
            What::Rows(chunks) => (Place::InPlace, Existing::Resume, Some(chunks.clone())),
            What::Reconcile => (Place::InPlace, Existing::Resume, None),
        }
    }

    fn is_whole(&self) -> bool {
        !matches!(self, What::Rows(_))
    }

    /// Whether the source has to be told to announce the table.
    fn must_announce(&self) -> bool {
        matches!(self, What::New(_) | What::Recreated | What::Unannounced(_))
    }
}

/// The tables that are under way, by route.
pub(super) struct Resyncs {
    stages: BTreeMap<usize, Stage>,
    /// What the log did not hold whole of tables that are being loaded, and what that means for those whose load
    /// has not seen it.
    lost: BTreeMap<usize, (Vec<Origin>, Error)>,
    tasks: JoinSet<Result<Resynced>>,
    /// So many tables are loaded at once: each takes connections on both sides.
    places: Arc<Semaphore>,
}

enum Stage {
    /// The state change has not been committed yet.
    Requested(What),
    /// Rows are being loaded; `then` they are to be loaded again, for what became known meanwhile.
    Loading {
        place: Place,
        is_whole: bool,
        then: Option<What>,
    },
    /// Rows are in; parked changes wait to be taken back.
    ToDrain,
    /// Some are being taken back now.
    Draining,
}

/// A load that is over.
#[derive(Debug)]
pub(super) struct Resynced {
    pub(super) route: usize,
    pub(super) outcome: Reloaded,
}

/// What a finished load brought.
#[derive(Debug)]
pub(super) enum Reloaded {
    /// The rows are in, by this mapping, as the snapshot has seen them.
    Loaded {
        units: Vec<Unit>,
        mapping: Arc<TableMapping>,
        tidemark: Tidemark,
    },
    /// They could not be loaded, or not all of them.
    Refused {
        was: What,
        /// Whether the table's rows, or what is recorded of them, are touched.
        is_begun: bool,
        error: Error,
    },
}

impl Resyncs {
    pub(super) fn new(tables_max: usize) -> Resyncs {
        Resyncs {
            stages: BTreeMap::new(),
            lost: BTreeMap::new(),
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(tables_max.max(1))),
        }
    }

    /// Never two loads of one table at once.
    pub(super) fn request(&mut self, route: usize, what: What) {
        match self.stages.get_mut(&route) {
            Some(Stage::Loading { then, .. }) => *then = Some(what),
            _ => drop(self.stages.insert(route, Stage::Requested(what))),
        }
    }

    /// Where a table's rows go that are being read just now, or will be.
    pub(super) fn loads(&self, route: usize) -> Option<Place> {
        match self.stages.get(&route)? {
            Stage::Requested(what) => Some(what.load().0),
            Stage::Loading { place, .. } => Some(*place),
            Stage::ToDrain | Stage::Draining => None,
        }
    }

    /// The log does not hold all of a change of a table that is about to be loaded whole: its load has to see it.
    /// Gives the reason back where there is no such load.
    pub(super) fn lose(&mut self, route: usize, origin: Origin, why: Error) -> Option<Error> {
        let is_whole = match self.stages.get(&route) {
            Some(
                Stage::Requested(what)
                | Stage::Loading {
                    then: Some(what), ..
                },
            ) => what.is_whole(),
            Some(Stage::Loading { is_whole, .. }) => *is_whole,
            Some(Stage::ToDrain | Stage::Draining) | None => false,
        };
        if !is_whole {
            return Some(why);
        }
        let (lost, _) = self.lost.entry(route).or_insert((Vec::new(), why));
        if lost.last() != Some(&origin) {
            lost.push(origin);
        }
        if lost.len() <= LOST_MAX {
            return None;
        }
        self.lost.remove(&route).map(|(_, why)| why)
    }

    /// A load is over for good, or (`None`) has brought no table as a whole: why the table lacks a change, if it
    /// does.
    pub(super) fn found(&mut self, route: usize, tidemark: Option<&Tidemark>) -> Option<Error> {
        let (lost, why) = self.lost.remove(&route)?;
        let is_seen = |origin: &Origin| {
            tidemark.is_some_and(|tidemark| tidemark.covers(origin.xid, origin.commit))
        };
        (!lost.iter().all(is_seen)).then_some(why)
    }

    /// A load is over; gives what is to be loaded after it.
    pub(super) fn ended(&mut self, route: usize) -> Option<What> {
        match self.stages.remove(&route) {
            Some(Stage::Loading { then, .. }) => then,
            _ => None,
        }
    }

    /// Whether a table is under way already: it must not be loaded twice at once.
    pub(super) fn is_under_way(&self, route: usize) -> bool {
        self.stages.contains_key(&route)
    }

    /// The table's state is committed: its load may begin.
    pub(super) fn recorded(&mut self, route: usize, engine: &Arc<Engine>, assembler: &Assembler) {
        let Some(stage @ Stage::Requested(_)) = self.stages.get_mut(&route) else {
            return;
        };
        let Stage::Requested(what) = std::mem::replace(stage, Stage::ToDrain) else {
            return;
        };
        *stage = Stage::Loading {
            place: what.load().0,
            is_whole: what.is_whole(),
            then: None,
        };
        let mapping = Arc::clone(&assembler.router.route(route).mapping);
        let load = reload(
            Arc::clone(engine),
            route,
            mapping,
            what,
            assembler.maybe_invisible(),
        );
        let places = Arc::clone(&self.places);
        let load = async move {
            // Never closed; without a place the load would only be one too many.
            let _place = places.acquire_owned().await;
            load.await
        };
        self.tasks.spawn(load.in_current_span());
    }

    /// Whether anything is under way.
    pub(super) fn is_running(&self) -> bool {
        !self.stages.is_empty()
    }

    /// The next finished load; waits for ever if there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Resynced> {
        match self.tasks.join_next().await {
            Some(joined) => joined.map_err(task_died)?,
            None => std::future::pending().await,
        }
    }

    /// Parked changes may be taken back.
    pub(super) fn take_back(&mut self, route: usize) {
        self.stages.insert(route, Stage::ToDrain);
    }

    /// Tables whose parked changes wait to be taken back.
    pub(super) fn to_drain(&self) -> impl Iterator<Item = usize> {
        let waits =
            |(route, stage): (&usize, &Stage)| matches!(stage, Stage::ToDrain).then_some(*route);
        self.stages.iter().filter_map(waits)
    }

    pub(super) fn draining(&mut self, route: usize) {
        self.stages.insert(route, Stage::Draining);
    }

    /// Some changes were taken back; gives the table, which may have more.
    pub(super) fn drained(&mut self) -> Option<usize> {
        let (route, stage) = self
            .stages
            .iter_mut()
            .find(|(_, stage)| matches!(stage, Stage::Draining))?;
        *stage = Stage::ToDrain;
        Some(*route)
    }

    /// Nothing is left to do for a table.
    pub(super) fn over(&mut self, route: usize) {
        self.stages.remove(&route);
    }
}

/// Loads a table anew, as it is now; its parked changes are not touched.
async fn reload(
    engine: Arc<Engine>,
    route: usize,
    mapping: Arc<TableMapping>,
    mut what: What,
    applied: Vec<u32>,
) -> Result<Resynced> {
    let doing = format!("resync {}", mapping.source());
    if !matches!(what, What::Rows(_)) {
        // Foreign keys to and from the table are taken off, and are to be made again.
        engine.target.set_phase(LoadPhase::Finishing).await?;
    }
    let mut backoff = Backoff::new(&engine.options);
    let (mut rewritten, mut of_older_types) = (0, 0);
    // What a comparison found that ends in copying the whole table.
    let mut reconciled: Option<Reconciled> = None;
    // What one attempt has touched the next does not find as it was.
    let mut is_touched = false;
    let outcome = loop {
        let reload = Reload {
            engine: &engine,
            mapping: Arc::clone(&mapping),
            what: &what,
            applied: &applied,
            is_alone: rewritten >= REWRITTEN_MAX,
        };
        match reload.once().await {
            // Changed between snapshot and reading: a newer snapshot will do.
            Err(Failed { error, is_begun }) if error.code() == codes::TABLE_REWRITTEN => {
                is_touched |= is_begun;
                rewritten += 1;
                let wait = backoff.next();
                let attempt = backoff.attempts();
                let error = error.context(doing.clone());
                let retry = PipelineEvent::Retry {
                    error,
                    wait,
                    attempt,
                };
                engine.observer.say(retry);
                tokio::time::sleep(wait).await;
            }
            // Somebody wrote to it before it was published, and has not committed yet. The others stream on.
            Err(Failed { error, .. }) if error.code() == codes::SLOT_WAITS => {
                let (code, text) = (error.code(), error.context(doing.clone()).to_string());
                engine.observer.say(PipelineEvent::Warning { code, text });
                tokio::time::sleep(backoff.next()).await;
            }
            // A label was renamed between the look at the types and the reading; or another table has still to
            // give up the name of a type, which the source is about to have it do.
            Err(Failed { error, is_begun })
                if of_older_types < TYPES_TRIES_MAX && reload.may_be_of_older_types(&error) =>
            {
                is_touched |= is_begun;
                of_older_types += 1;
                tokio::time::sleep(backoff.next()).await;
            }
            // Whatever keeps the rows from being mended one by one, all of them can be copied.
            Err(Failed { error, .. })
                if matches!(what, What::Reconcile) && reload.is_own(&error) =>
            {
                // Some of them may be mended.
                is_touched = true;
                let why = format!("{}: {error}", error.code());
                (what, reconciled) = (reload.whole(&why), Some(uncounted(&engine, why).await?));
            }
            Ok(Once::Whole { why, found }) => {
                is_touched |= found.rows_moved > 0;
                what = reload.whole(&why);
                reconciled = Some(Reconciled {
                    whole: Some(why),
                    ..found
                });
            }
            Err(Failed { error, is_begun }) if reload.stops_the_table(&error) => {
                let error = error.context(doing);
                break Reloaded::Refused {
                    was: what,
                    is_begun: is_begun || is_touched,
                    error,
                };
            }
            Err(Failed { error, .. }) => return Err(error.context(doing)),
            Ok(Once::Loaded {
                units,
                mapping,
                tidemark,
                rows,
                bytes,
            }) => {
                if let Some(found) = reconciled {
                    let found = Reconciled {
                        lsn: tidemark.after,
                        source_rows: rows,
                        rows_moved: rows,
                        bytes_moved: bytes,
                        ..found
                    };
                    reload.say(found);
                }
                break Reloaded::Loaded {
                    units,
                    mapping,
                    tidemark,
                };
            }
        }
    };
    Ok(Resynced { route, outcome })
}

/// One table on its way.
struct Reload<'a> {
    engine: &'a Arc<Engine>,
    /// As far as the log had come when the load was asked for.
    mapping: Arc<TableMapping>,
    what: &'a What,
    applied: &'a [u32],
    /// Whether the table changes too fast to be read while others may change it.
    is_alone: bool,
}

/// What one attempt brought.
enum Once {
    /// The rows are in.
    Loaded {
        units: Vec<Unit>,
        mapping: Arc<TableMapping>,
        tidemark: Tidemark,
        rows: u64,
        bytes: u64,
    },
    /// Comparing does not help: the whole table has to be copied.
    Whole { why: String, found: Reconciled },
}

/// Nothing was counted.
async fn uncounted(engine: &Engine, why: String) -> Result<Reconciled> {
    Ok(Reconciled {
        lsn: engine.source.head().await?,
        source_rows: 0,
        target_rows: 0,
        missing: None,
        changed: None,
        extra: None,
        rows_moved: 0,
        bytes_moved: 0,
        whole: Some(why),
    })
}

/// Why a load did not come to its end.
pub(super) struct Failed {
    error: Error,
    /// Whether the table's rows, or what is recorded of them, are touched.
    is_begun: bool,
}

/// Before anything was touched.
impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed {
            error,
            is_begun: false,
        }
    }
}

impl From<load::Ended> for Failed {
    fn from(ended: load::Ended) -> Failed {
        Failed {
            error: ended.error,
            is_begun: ended.is_begun,
        }
    }
}

impl Reload<'_> {
    /// Whether an error is the table's own: the others go on, even where nothing but a person helps.
    fn stops_the_table(&self, error: &Error) -> bool {
        self.is_own(error) && self.engine.sets_aside(self.mapping.source())
    }

    /// Whether a value was refused that may be one by what its type is called by now.
    fn may_be_of_older_types(&self, error: &Error) -> bool {
        error.code() == codes::TYPE_NAME_HELD
            || (error.sqlstate_code() == Some(NOT_OF_ITS_TYPE)
                && !self.mapping.schema.types.is_empty())
    }

    fn is_own(&self, error: &Error) -> bool {
        let is_about_it = error.table_name() == Some(&self.mapping.source().to_string());
        match error.kind() {
            ErrorKind::Data => true,
            ErrorKind::Definite => is_about_it,
            ErrorKind::Transient => false,
        }
    }

    /// How the table is copied that cannot be reconciled row by row; said out loud.
    fn whole(&self, why: &str) -> What {
        self.engine.observer.say(PipelineEvent::Warning {
            code: codes::RECONCILE_WHOLE,
            text: format!("{} is copied whole: {why}", self.mapping.source()),
        });
        What::Table(reconcile::strategy(&self.mapping))
    }

    fn say(&self, found: Reconciled) {
        self.engine.observer.say(PipelineEvent::Reconciled {
            table: self.mapping.source().clone(),
            found,
        });
    }

    async fn once(&self) -> Result<Once, Failed> {
        let engine = self.engine;
        if self.what.must_announce() {
            self.announce().await?;
            failpoint::reached(failpoint::TABLE_ANNOUNCED);
        }
        let mapping = match self.what {
            // Among the rows that are there they have to be of the same shape.
            What::Rows(_) => Arc::clone(&self.mapping),
            // Before the snapshot: rows of an older shape are then older than the snapshot too.
            _ => engine.mapping_of_now(self.mapping.source()).await?.0,
        };
        must_stay_covered(&self.mapping, &mapping)?;
        let (name, alone) = (mapping.source(), self.reads_alone(&mapping));
        let snapshot = snapshot_after(engine, self.applied, name, alone).await?;
        let tidemark = snapshot.tidemark().clone();
        if matches!(self.what, What::Reconcile) {
            return self.reconciled(&snapshot, mapping).await;
        }
        let (place, mut existing, ranges) = self.what.load();
        let is_reshaped = KnownShape::of(&mapping) != KnownShape::of(&self.mapping);
        if matches!(self.what, What::Again(Existing::Truncate)) && is_reshaped {
            existing = over_another_shape(engine.options.existing);
        }
        let mut is_touched = false;
        if existing == Existing::Truncate && self.is_in_our_table() {
            let policy = engine.options.on_schema_change;
            let changes = schema_change::moves(&self.mapping, &mapping, policy);
            is_touched = engine.target.reshape(&mapping, &changes).await?;
        }
        let table = LoadTable {
            mapping: Arc::clone(&mapping),
            existing,
            recorded: Vec::new(),
            rows_before: match &ranges {
                Some(_) => self.rows_loaded().await?,
                None => 0,
            },
            ranges,
            anew: Some(self.what.reason()),
        };
        let loaded = load::load(engine, snapshot, vec![table], place).await;
        let mut report = loaded.map_err(|ended| Failed {
            error: ended.error,
            is_begun: is_touched || ended.is_begun,
        })?;
        failpoint::reached(failpoint::ROWS_LOADED);
        // A table that could not even be prepared is as it was.
        let units = report.tables.pop().map(|(_, units)| units);
        let (rows, bytes) = (report.rows, report.bytes);
        let is_begun = is_touched || units.is_some();
        if let Some((_, error)) = report.refused.pop() {
            return Err(Failed { error, is_begun });
        }
        if place == Place::Beside {
            let swapped = engine.target.swap(&mapping).await;
            swapped.map_err(|error| Failed { error, is_begun })?;
            failpoint::reached(failpoint::SWAPPED);
        }
        Ok(Once::Loaded {
            units: units.unwrap_or_default(),
            mapping,
            tidemark,
            rows,
            bytes,
        })
    }

    /// The rows that the table's load has brought, as far as that is recorded.
    async fn rows_loaded(&self) -> Result<u64> {
        let recorded = self.engine.target.checkpoint().await?;
        let mut tables = recorded.iter().flat_map(|recorded| &recorded.tables);
        let table = tables.find(|table| table.source == *self.mapping.source());
        let units = table.into_iter().flat_map(|table| &table.units);
        Ok(units.map(|unit| unit.rows).sum())
    }

    /// Whether nobody may change the table until it is read: they would not wait long.
    fn reads_alone(&self, mapping: &TableMapping) -> bool {
        let is_small =
            mapping.schema.bytes <= self.engine.chunk_bytes(mapping).min(ALONE_BYTES_MAX);
        self.is_alone && is_small && !matches!(self.what, What::Reconcile)
    }

    /// A table may be gone, or have another name, since the catalog was looked at: that is its own affair.
    async fn announce(&self) -> Result<()> {
        let table = self.mapping.source();
        let announced = self
            .engine
            .source
            .announce(std::slice::from_ref(table))
            .await;
        announced.map_err(|error| match error.code() {
            codes::SOURCE_NO_OBJECT => no_table(table).caused_by(error),
            _ => error,
        })
    }

    /// Whether rows go into a table that has had this pipeline's rows: its shape is ours to change.
    fn is_in_our_table(&self) -> bool {
        use ResyncStrategy::Truncate;
        match self.what {
            What::Table(strategy) | What::Unannounced(strategy) => *strategy == Truncate,
            What::Again(_) => true,
            What::New(_) | What::Recreated | What::Reconcile | What::Rows(_) => false,
        }
    }

    async fn reconciled(
        &self,
        snapshot: &Arc<dyn Snapshot>,
        mapping: Arc<TableMapping>,
    ) -> Result<Once, Failed> {
        let compared = reconcile::rows(self.engine, snapshot, &mapping).await?;
        Ok(match compared {
            Compared::Mended { unit, found } => {
                let (rows, bytes) = (found.rows_moved, found.bytes_moved);
                self.say(found);
                Once::Loaded {
                    units: vec![unit],
                    mapping,
                    tidemark: snapshot.tidemark().clone(),
                    rows,
                    bytes,
                }
            }
            Compared::Whole { why, found } => Once::Whole { why, found },
        })
    }
}
