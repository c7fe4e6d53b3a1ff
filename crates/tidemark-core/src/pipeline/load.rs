//! Loading rows: tables cut into units, units copied by workers, keys and indexes made behind them.
//!
//! One queue serves first loads, resumed loads, resyncs and repairs. A worker takes the next [`Job`]:
//! finishing a table whose rows are in comes first (index builds are the long pole, so they start
//! early and overlap with other tables' rows), then units of tables that are under way, then the
//! next table. All units of one load are read at one [`Snapshot`]; what was loaded at an earlier one
//! keeps its own tidemark.
//!
//! A unit is copied and recorded in one target transaction, so a unit is in or it is not. After a
//! transient error a worker connects anew and repeats the unit at the *same* snapshot; only when the
//! snapshot itself is gone does the load end with an error, and the next start goes on at a new one.
//!
//! A server that takes no more connections does not end a load that has some: the job is given back, and
//! the worker waits for room while those that have a connection go on.
//!
//! A table that was emptied, rewritten or changed since the snapshot is loaded anew later; the others go on.
//!
//! While rows are read the source keeps what the snapshot sees. So the snapshot is let go as soon as all
//! are in: keys and indexes, which may take as long again, are the target's business alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::catalogue::codes;
use crate::checkpoint::{Chunk, Unit};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::schema::IndexKind;
use crate::source::{RowBlock, RowStream, Snapshot, SnapshotReader};
use crate::target::{Existing, LoadUnit, LoadedPart, Loader, Place, Replace};

use super::Engine;
use super::observe::PipelineEvent;
use super::retry::Backoff;
use super::throttle::Throttle;

mod queue;

use queue::{Active, ActiveState, Job, Queue, Way};

/// How often a unit is tried at the same snapshot.
const UNIT_ATTEMPTS_MAX: u32 = 5;

/// One table to load.
#[derive(Clone, Debug)]
pub(crate) struct LoadTable {
    pub(crate) mapping: Arc<TableMapping>,
    /// What to do with rows that are on the target.
    pub(crate) existing: Existing,
    /// What an earlier start recorded; empty for a table that was never begun.
    pub(crate) recorded: Vec<Unit>,
    /// For a repair: only these ranges, replaced.
    pub(crate) ranges: Option<Vec<Chunk>>,
    /// For a repair: the rows that the table's load had brought, which is still what is recorded of it.
    pub(crate) rows_before: u64,
    /// Why it is loaded anew; `None`: for the first time.
    pub(crate) anew: Option<&'static str>,
}

/// What a load did.
#[derive(Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Tables that could not be loaded, because of their data or because they were rewritten since the
    /// snapshot, with the error.
    pub(crate) refused: Vec<(Arc<TableMapping>, Error)>,
    /// Units as they are in now, by table.
    pub(crate) tables: Vec<(Arc<TableMapping>, Vec<Unit>)>,
    /// Tables whose rows are beside them, and still have to take their place.
    pub(crate) beside: Vec<Arc<TableMapping>>,
}

/// Why a load did not come to its end.
pub(crate) struct Ended {
    pub(crate) error: Error,
    /// Whether a table was prepared by then: it may have been emptied.
    pub(crate) is_begun: bool,
}

/// Loads tables at a snapshot and makes their keys and indexes. On return all units are recorded,
/// except those of the refused tables.
pub(crate) async fn load(
    engine: &Arc<Engine>,
    snapshot: Arc<dyn Snapshot>,
    mut tables: Vec<LoadTable>,
    place: Place,
) -> Result<LoadReport, Ended> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.mapping.schema.bytes));
    let workers = worker_count(engine, &tables);
    let queue = Arc::new(Queue::new(engine, tables, workers));
    let throttle = Arc::new(Throttle::new(engine.options.source_rows_per_second_max));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let worker = Worker {
            engine: Arc::clone(engine),
            snapshot: Some(Arc::clone(&snapshot)),
            queue: Arc::clone(&queue),
            throttle: Arc::clone(&throttle),
            place,
            connections: None,
        };
        tasks.spawn(worker.run().in_current_span());
    }
    drop(snapshot);
    // The first error ends the load: dropping the set aborts the other workers.
    while let Some(joined) = tasks.join_next().await {
        if let Err(error) = joined.map_err(super::task_died).flatten() {
            let is_begun = queue.update(|inner| !inner.active.is_empty());
            return Err(Ended { error, is_begun });
        }
    }
    Ok(queue.report())
}

/// Never more workers than there can be work for: each has a connection on either side.
fn worker_count(engine: &Engine, tables: &[LoadTable]) -> usize {
    let options = &engine.options;
    let by_options = options.parallel_tables.max(1) * options.parallel_chunks.max(1);
    let by_size: u64 = tables
        .iter()
        .map(|t| 1 + t.mapping.schema.bytes / engine.chunk_bytes(&t.mapping))
        .sum();
    by_options
        .min(usize::try_from(by_size).unwrap_or(usize::MAX))
        .max(1)
}

/// Which recorded units may stay, now that rows are read at another snapshot. `None`: the table
/// starts again.
///
/// Physical chunks never survive: a row may have moved from a chunk that is not in to one that is.
/// Key ranges do, unless a second unique key could meet two instants of one row.
pub(crate) fn resumable(mapping: &TableMapping, recorded: &[Unit]) -> Option<Vec<Unit>> {
    if recorded.is_empty() {
        return None;
    }
    let is_complete = recorded.iter().all(|unit| unit.is_loaded);
    let by_keys = recorded
        .iter()
        .all(|unit| matches!(unit.chunk, Chunk::Keys { .. }));
    let has_second_unique = mapping.schema.indexes.iter().any(|index| {
        matches!(
            index.kind,
            IndexKind::Unique | IndexKind::UniqueConstraint | IndexKind::Exclusion
        )
    });
    (is_complete || (by_keys && !has_second_unique)).then(|| recorded.to_vec())
}

/// What became of a job.
#[derive(Debug)]
enum Done {
    Yes,
    /// A server takes no more connections: nothing was begun, and the job is with the queue again.
    NoRoom(Error),
}

struct Worker {
    engine: Arc<Engine>,
    /// Until all rows are in.
    snapshot: Option<Arc<dyn Snapshot>>,
    queue: Arc<Queue>,
    throttle: Arc<Throttle>,
    place: Place,
    connections: Option<Connections>,
}

/// A worker's pair of connections; made when first needed, made anew after an error.
struct Connections {
    reader: Box<dyn SnapshotReader>,
    loader: Box<dyn Loader>,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        let mut backoff = Backoff::new(&self.engine.options);
        let mut tries_alone = 0;
        while let Some(job) = self.queue.next(self.snapshot.is_some()).await {
            let done = match job {
                Job::Prepare(table) => self.prepare(table).await?,
                Job::Copy { table, unit, way } => self.copy(table, unit, way).await?,
                Job::LetGo => self.let_go(),
                Job::Finish { table } => self.finish(table).await?,
            };
            match done {
                Done::Yes => {
                    backoff.reset();
                    tries_alone = 0;
                }
                Done::NoRoom(err) => {
                    self.wait_for_room(err, &mut backoff, &mut tries_alone)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// After a connection was refused for want of room: waits until there may be some. An error where no
    /// worker has got one, time after time.
    async fn wait_for_room(
        &mut self,
        err: Error,
        backoff: &mut Backoff,
        tries_alone: &mut u32,
    ) -> Result<()> {
        self.connections = None;
        let wait = backoff.next();
        let others = self.queue.update(|inner| {
            inner.without_room += 1;
            inner.workers - inner.without_room
        });
        if others == 0 {
            *tries_alone += 1;
            if *tries_alone >= UNIT_ATTEMPTS_MAX {
                return Err(err);
            }
            self.engine.observer.say(PipelineEvent::Retry {
                error: err,
                wait,
                attempt: *tries_alone,
            });
        } else if self.queue.note_lack_of_room() {
            self.engine.observer.say(PipelineEvent::Warning {
                code: err.code(),
                text: format!(
                    "{err}: the load goes on with the workers that have one, and the others join when there is room"
                ),
            });
        }
        // Whoever still has the snapshot lets it go when nothing is to be read any more.
        let (queue, reads) = (&self.queue, self.snapshot.is_some());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = queue.rows_are_in(), if reads => {}
            () = queue.is_done() => {}
        }
        self.queue.update(|inner| inner.without_room -= 1);
        Ok(())
    }

    /// Nothing will be read any more.
    fn let_go(&mut self) -> Done {
        (self.connections, self.snapshot) = (None, None);
        Done::Yes
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        let snapshot = self.snapshot.clone();
        snapshot.expect("let go only when all rows are in")
    }

    async fn prepare(&mut self, table: LoadTable) -> Result<Done> {
        let (mapping, anew) = (Arc::clone(&table.mapping), table.anew);
        let (observer, is_part) = (self.engine.observer.clone(), table.ranges.is_some());
        let prepared = self.prepare_table(table.clone()).await;
        let name = mapping.source().to_string();
        match prepared {
            Ok(active) => {
                observer.outline(&mapping, anew, &active.units, is_part);
                self.queue.update(|inner| {
                    inner.prepared(mapping.source());
                    inner.active.push(active);
                });
                Ok(Done::Yes)
            }
            Err(err) if has_no_room(&err) => {
                self.queue.update(|inner| inner.give_table_back(table));
                Ok(Done::NoRoom(err))
            }
            Err(err) if self.stops_the_table(&mapping, &err) => {
                // Whoever watches knows of it before it is told that it is set aside.
                observer.outline(&mapping, anew, &[], is_part);
                self.queue.update(|inner| {
                    inner.prepared(mapping.source());
                    inner.refused.push((mapping, err));
                });
                Ok(Done::Yes)
            }
            Err(err) => Err(err.context(format!("prepare {name}"))),
        }
    }

    async fn prepare_table(&mut self, table: LoadTable) -> Result<Active> {
        let mapping = table.mapping;
        let (existing, units, replace) = match (table.ranges, resumable(&mapping, &table.recorded))
        {
            (Some(ranges), _) => {
                let units = units_among(ranges, table.rows_before);
                (Existing::Resume, units, Replace::Range)
            }
            (None, Some(units)) => (Existing::Resume, units, Replace::Nothing),
            (None, None) => {
                let goal = self.engine.chunk_bytes(&mapping);
                let chunks = self.snapshot().chunks(&mapping, goal).await?;
                let began = !table.recorded.is_empty();
                let existing = if began {
                    Existing::Truncate
                } else {
                    table.existing
                };
                (existing, units_of(chunks), Replace::Nothing)
            }
        };
        let prepared = self
            .engine
            .target
            .prepare(&mapping, existing, self.place, &units)
            .await?;
        failpoint::reached(failpoint::TABLE_PREPARED);
        let mut units = units;
        for unit in &mut units {
            unit.is_loaded |= prepared.is_skipped || prepared.loaded_units.contains(&unit.number);
        }
        let waiting: VecDeque<usize> = (0..units.len())
            .filter(|index| !units[*index].is_loaded)
            .collect();
        let state = if waiting.is_empty() {
            ActiveState::ToFinish
        } else {
            ActiveState::Copying
        };
        Ok(Active {
            mapping,
            way: Way {
                format: prepared.format,
                place: prepared.place,
                replace,
            },
            units,
            waiting,
            copying: 0,
            state,
        })
    }

    async fn copy(&mut self, table: usize, mut unit: Unit, way: Way) -> Result<Done> {
        let mapping = self
            .queue
            .update(|inner| Arc::clone(&inner.active[table].mapping));
        match self.connect().await {
            Err(err) if has_no_room(&err) => {
                self.queue
                    .update(|inner| inner.give_unit_back(table, unit.number));
                return Ok(Done::NoRoom(err));
            }
            // The copy connects again, and deals with any other error.
            _ => {}
        }
        let what = || format!("load unit {} of {}", unit.number, mapping.source());
        match self.copy_with_retries(&mapping, &unit, way).await {
            Ok(part) => {
                failpoint::reached(failpoint::UNIT_COMMITTED);
                unit.is_loaded = true;
                if way.replace == Replace::Nothing {
                    unit.rows = part.rows;
                }
                unit.tidemark = Some(self.snapshot().tidemark().clone());
                self.engine.observer.say(PipelineEvent::UnitLoaded {
                    table: mapping.source().clone(),
                    unit: unit.number,
                });
                self.queue.update(|inner| {
                    inner.rows += part.rows;
                    inner.bytes += part.bytes;
                    inner.copied(table, unit);
                });
                Ok(Done::Yes)
            }
            Err(err) if self.stops_the_table(&mapping, &err) => {
                // Be it in the middle of its rows.
                self.connections = None;
                let err = err.context(what());
                self.queue.update(|inner| inner.refuse(table, err));
                Ok(Done::Yes)
            }
            Err(err) => Err(err.context(what())),
        }
    }

    async fn copy_with_retries(
        &mut self,
        mapping: &TableMapping,
        unit: &Unit,
        way: Way,
    ) -> Result<LoadedPart> {
        let mut backoff = Backoff::new(&self.engine.options);
        loop {
            let copied = self.copy_once(mapping, unit, way).await;
            match copied {
                Err(err)
                    if err.kind() == ErrorKind::Transient
                        && err.code() != codes::TABLE_REWRITTEN
                        && backoff.attempts() + 1 < UNIT_ATTEMPTS_MAX =>
                {
                    self.connections = None;
                    let wait = backoff.next();
                    self.engine.observer.say(PipelineEvent::Retry {
                        error: err.context(format!(
                            "load unit {} of {}",
                            unit.number,
                            mapping.source()
                        )),
                        wait,
                        attempt: backoff.attempts(),
                    });
                    tokio::time::sleep(wait).await;
                    if let Some(rows) = self.rows_recorded(mapping, unit).await? {
                        return Ok(LoadedPart { rows, bytes: 0 });
                    }
                }
                other => return other,
            }
        }
    }

    /// The rows of a unit that is in the target although its commit was not answered.
    async fn rows_recorded(&mut self, mapping: &TableMapping, unit: &Unit) -> Result<Option<u64>> {
        let checkpoint = self.engine.target.checkpoint().await?;
        let units = checkpoint
            .iter()
            .flat_map(|checkpoint| &checkpoint.tables)
            .filter(|table| table.source == *mapping.source())
            .flat_map(|table| &table.units);
        Ok(units
            .filter(|u| u.number == unit.number && u.is_loaded)
            .map(|u| u.rows)
            .next())
    }

    /// The pair of connections, made where there is none that can be used.
    async fn connect(&mut self) -> Result<()> {
        let usable = self.connections.take().filter(|c| c.loader.is_usable());
        let connections = match usable {
            Some(connections) => connections,
            None => Connections {
                reader: self.snapshot().reader().await?,
                loader: self.engine.target.loader().await?,
            },
        };
        self.connections = Some(connections);
        Ok(())
    }

    async fn copy_once(
        &mut self,
        mapping: &TableMapping,
        unit: &Unit,
        way: Way,
    ) -> Result<LoadedPart> {
        let snapshot = self.snapshot();
        self.connect().await?;
        let connections = self.connections.as_mut().expect("just made");
        let rows = connections
            .reader
            .read(mapping, &unit.chunk, way.format)
            .await?;
        let mut rows = ThrottledRows {
            rows,
            throttle: &self.throttle,
        };
        let seen = Mutex::new(LoadedPart::default());
        let observer = &self.engine.observer;
        let progress = |part: LoadedPart| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.rows += part.rows;
            seen.bytes += part.bytes;
            observer.say(PipelineEvent::LoadProgress {
                table: mapping.source().clone(),
                rows: part.rows,
                bytes: part.bytes,
            });
        };
        let unit = LoadUnit {
            unit,
            tidemark: snapshot.tidemark(),
            format: way.format,
            place: way.place,
            replace: way.replace,
        };
        let loaded = connections
            .loader
            .load(mapping, &unit, &mut rows, &progress)
            .await;
        if loaded.is_err() {
            let taken_back = *seen.lock().unwrap_or_else(PoisonError::into_inner);
            observer.say(PipelineEvent::LoadTakenBack {
                table: mapping.source().clone(),
                rows: taken_back.rows,
                bytes: taken_back.bytes,
            });
        }
        drop(rows);
        if loaded.is_ok() && connections.reader.let_go().await.is_err() {
            self.connections = None;
        }
        loaded
    }

    async fn finish(&mut self, table: usize) -> Result<Done> {
        let (mapping, place) = self.queue.update(|inner| {
            let active = &inner.active[table];
            (Arc::clone(&active.mapping), active.way.place)
        });
        let (engine, queue) = (Arc::clone(&self.engine), Arc::clone(&self.queue));
        let mut finishing = std::pin::pin!(keys_and_indexes(&engine, &mapping, place));
        // The last rows of the others may come in meanwhile.
        let finished = tokio::select! {
            finished = &mut finishing => finished,
            () = queue.rows_are_in() => {
                self.let_go();
                finishing.await
            }
        };
        match finished.context(|| format!("make keys and indexes of {}", mapping.source())) {
            Ok(()) => {
                failpoint::reached(failpoint::TABLE_FINISHED);
                let table_name = mapping.source().clone();
                self.engine
                    .observer
                    .say(PipelineEvent::TableFinished { table: table_name });
                self.queue
                    .update(|inner| inner.active[table].state = ActiveState::Done);
                Ok(Done::Yes)
            }
            Err(err) if has_no_room(&err) => {
                self.queue
                    .update(|inner| inner.active[table].state = ActiveState::ToFinish);
                Ok(Done::NoRoom(err))
            }
            Err(err) if self.stops_the_table(&mapping, &err) => {
                self.queue.update(|inner| inner.refuse(table, err));
                Ok(Done::Yes)
            }
            Err(err) => Err(err),
        }
    }

    /// Whether an error stops only its table.
    fn stops_the_table(&self, mapping: &TableMapping, err: &Error) -> bool {
        err.code() == codes::TABLE_REWRITTEN
            || (err.kind() == ErrorKind::Data && self.engine.sets_aside(mapping.source()))
    }
}

/// Whether a server takes no more connections: `max_connections`, or a limit of the role or database.
fn has_no_room(err: &Error) -> bool {
    [
        codes::SOURCE_TOO_MANY_CONNECTIONS,
        codes::TARGET_TOO_MANY_CONNECTIONS,
    ]
    .contains(&err.code())
}

/// Makes keys and indexes of a table whose rows are in; again after what passes.
async fn keys_and_indexes(engine: &Engine, mapping: &TableMapping, place: Place) -> Result<()> {
    let mut backoff = Backoff::new(&engine.options);
    loop {
        match engine.target.finish(mapping, place).await {
            Err(err)
                if err.kind() == ErrorKind::Transient
                    && !has_no_room(&err)
                    && backoff.attempts() + 1 < UNIT_ATTEMPTS_MAX =>
            {
                tokio::time::sleep(backoff.next()).await;
            }
            other => return other,
        }
    }
}

fn units_of(chunks: Vec<Chunk>) -> Vec<Unit> {
    (0..)
        .zip(chunks)
        .map(|(number, chunk)| Unit {
            number,
            chunk,
            tidemark: None,
            is_loaded: false,
            rows: 0,
        })
        .collect()
}

/// The same for some rows of a table. The first unit stands for all rows that the table's load has brought,
/// so that their number stays what it was.
fn units_among(chunks: Vec<Chunk>, rows: u64) -> Vec<Unit> {
    let mut units = units_of(chunks);
    if let Some(first) = units.first_mut() {
        first.rows = rows;
    }
    units
}

/// Rows that pass no faster than the source may be read.
struct ThrottledRows<'a> {
    rows: Box<dyn RowStream + 'a>,
    throttle: &'a Throttle,
}

#[async_trait::async_trait]
impl RowStream for ThrottledRows<'_> {
    async fn next(&mut self) -> Result<Option<RowBlock>> {
        let block = self.rows.next().await?;
        if let Some(block) = &block {
            self.throttle.pass(block.rows, Instant::now()).await;
        }
        Ok(block)
    }
}
