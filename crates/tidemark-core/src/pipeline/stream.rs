//! Streaming: the loop that reads the log, assembles batches and hands them to the applier.
//!
//! ```text
//!   ChangeStream ─► Assembler ─► Work ─► applier task ─► commit with checkpoint ─► acknowledge
//! ```
//!
//! The loop gives the applier whatever is assembled as soon as it is free. So a light load is applied
//! transaction by transaction (latency), and under a backlog work grows while the applier is busy, up
//! to the configured size (throughput), without any timer deciding between the two. When the work is
//! full the loop stops reading, and the source feels it.
//!
//! A transaction that is in progress on the source is applied while it comes, as long as nothing else
//! comes and nothing else is wanted; otherwise its parts are undone, and it comes again when it has
//! committed. So a large one is in the target soon after its commit and not twice as late.
//!
//! Only positions that the applier reports as durable are acknowledged (invariant 2).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, LoadPhase, Reason, TableCheckpoint, TableState};
use crate::control::ResyncStrategy;
use crate::error::{Context, Error, Result};
use crate::event::{Block, Event, StreamTable};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::{SchemaObject, SourceSchema, TableName};
use crate::source::{ChangeStream, Within};
use crate::status::{By, PipelineState};
use crate::target::Place;

use super::apply::{ApplierHandle, Task};
use super::assemble::{Assembler, Taken, Work};
use super::commands::Interruption;
use super::discover::{Discovery, Look};
use super::full_load::finish_load;
use super::observe::{PipelineEvent, Step};
use super::options::{OnSchemaChange, Until};
use super::reconcile;
use super::resync::{Resyncs, What};
use super::router::Router;
use super::schema_change::{self, IsLoading, Reshaped};
use super::stop::STOP_GRACE;
use super::{Engine, Interrupted, Lasting, Outcome, Request, state_change};

mod aside;
mod catalog;
mod conflicts;
mod idle;
mod outcome;
mod requests;
mod undecided;

use aside::Quarantine;
use idle::Looked;
use requests::{Hold, Unrecorded};

/// How often the loop looks at what is due: positions to flush, holds to end.
const TICK: std::time::Duration = std::time::Duration::from_millis(100);

/// How long an idle source may move before its position is written to the target.
const IDLE_CHECKPOINT: std::time::Duration = std::time::Duration::from_secs(5);

/// How long after the last commit the loop asks for durability instead of waiting for it.
const FLUSH_AFTER: std::time::Duration = std::time::Duration::from_millis(300);

/// Tables whose transactions go into one of the target's together: it has room for so many locks, and takes
/// one for each table and index until it commits.
const TABLES_MAX: usize = 200;

/// Parked changes that are taken back in one target transaction.
const DRAIN_BYTES_MAX: usize = 8 << 20;

/// Streams until the run's end. Transient errors end it with an error; the caller starts anew.
pub(super) async fn stream(
    engine: &Arc<Engine>,
    schema: &SourceSchema,
    mappings: &[Arc<TableMapping>],
    requests: &mut mpsc::Receiver<Request>,
    lasting: &mut Lasting,
) -> Result<Interrupted<Outcome>> {
    let mut run = Stream::open(engine, schema, mappings, lasting).await?;
    let ended = run.run(requests).await;
    let ended = run.judge(ended);
    let position = run.processed;
    let is_asked = !run.lasting.stops.is_empty();
    let begins_anew = run.begins_anew && !is_asked;
    if ended.is_ok() {
        failpoint::reached(failpoint::STREAM_DONE);
    }
    run.close().await;
    failpoint::reached(failpoint::STREAM_CLOSED);
    ended?;
    if begins_anew {
        return Ok(Interrupted::Asked(Interruption::Again));
    }
    Ok(Interrupted::Done(Outcome {
        state: PipelineState::Stopped,
        by: if is_asked { By::User } else { By::Engine },
        position: Some(position),
    }))
}

struct Stream<'a> {
    engine: &'a Arc<Engine>,
    mappings: &'a [Arc<TableMapping>],
    lasting: &'a mut Lasting,
    changes: Box<dyn ChangeStream>,
    assembler: Assembler,
    applier: ApplierHandle,
    resyncs: Resyncs,
    discovery: Discovery,
    /// A block that is being taken in, and its next event.
    block: Option<(Block, usize)>,
    /// Committed in the target.
    processed: Position,
    /// Told to the source.
    acknowledged: Position,
    /// Where this run ends, once that is known.
    end_at: Option<Position>,
    phase: LoadPhase,
    state: PipelineState,
    /// Set when the run is to end: what is not in the target by then is left for the next run.
    stop_by: Option<Instant>,
    /// It ends for the next one, which does not follow what is gone.
    begins_anew: bool,
    /// How many tables it began with; those that came since are behind them.
    tables_at_begin: usize,
    /// How many of those that came since were gone at the last look.
    gone_again: usize,
    holds: Vec<Hold>,
    /// Requests that are answered once the states that they ask for are recorded.
    unrecorded: Vec<Unrecorded>,
    idle_since: Instant,
    committed_at: Instant,
    /// The last heartbeat that came by, and what was before it.
    heartbeat: Option<(i64, Position)>,
    /// When the oldest transaction was committed that the applier has.
    applying_us: Option<i64>,
    /// The last that was said of what is not applied.
    unapplied_said: Option<i64>,
    /// Changes applied since the last commit, by route.
    counts: Vec<(usize, u64)>,
    quarantine: Quarantine,
    /// What the catalog had at the last look, until the stream has passed it.
    looked: Option<Looked>,
    /// Types of the source that the target has followed.
    types: Vec<SchemaObject>,
    /// Tables that this run began without, and the numbers that the source had for them.
    left_behind: HashMap<TableName, u32>,
}

impl<'a> Stream<'a> {
    async fn open(
        engine: &'a Arc<Engine>,
        schema: &SourceSchema,
        mappings: &'a [Arc<TableMapping>],
        lasting: &'a mut Lasting,
    ) -> Result<Stream<'a>> {
        let checkpoint = engine.target.checkpoint().await?.ok_or_else(|| {
            Error::definite(
                codes::CHECKPOINT_MISSING,
                "the checkpoint is gone from the target",
            )
        })?;
        let position = checkpoint.position;
        let last_known = as_last_known(engine, mappings, &checkpoint)?;
        let router = Router::new(&last_known, &checkpoint.tables, position);
        let log = engine.source.log_state().await?;
        let changes = engine
            .source
            .changes(position)
            .await
            .context(|| "open the change stream")?;
        let applier = ApplierHandle::start(engine.target.applier().await?);
        let quarantine = Quarantine::new(&applier.quarantined, log.head);
        failpoint::reached(failpoint::STREAM_OPENED);
        let end_at = match engine.options.until {
            Until::Stopped => None,
            Until::CaughtUp => Some(engine.source.head().await?),
            Until::Position(position) => Some(position),
        };
        engine.step(Step::Stream, format!("follows the log from {position}"));
        let mut stream = Stream {
            engine,
            mappings,
            changes,
            assembler: Assembler::new(
                router,
                position,
                &log.committing,
                engine.options.on_truncate,
                lasting.refused,
            ),
            lasting,
            applier,
            resyncs: Resyncs::new(engine.options.parallel_tables),
            discovery: Discovery::new(engine.options.catalog_interval),
            block: None,
            processed: position,
            acknowledged: position,
            end_at,
            phase: checkpoint.phase,
            state: PipelineState::Starting,
            stop_by: None,
            begins_anew: false,
            tables_at_begin: 0,
            gone_again: 0,
            holds: Vec::new(),
            unrecorded: Vec::new(),
            idle_since: Instant::now(),
            committed_at: Instant::now(),
            heartbeat: None,
            applying_us: None,
            unapplied_said: None,
            counts: Vec::new(),
            quarantine,
            looked: None,
            types: Vec::new(),
            left_behind: HashMap::new(),
        };
        engine.observer.say(PipelineEvent::Unapplied(None));
        stream.show_recorded(&checkpoint);
        stream.begin_recorded_resyncs(&checkpoint);
        stream.skip_again();
        let tables = stream.assembler.router.names();
        stream.tables_at_begin = tables.len();
        let unannounced = engine.source.unannounced(&tables, Within::Now);
        let look = Look {
            schema: schema.clone(),
            unannounced: unannounced.await?,
            partitions: Vec::new(),
            head: log.head,
            followed: Vec::new(),
            unlogged: HashSet::new(),
        };
        stream.discovery.follow(engine, &look.schema).await?;
        stream.compare(look);
        stream.show_state();
        Ok(stream)
    }

    async fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_block().await?;
            self.follow_idle().await?;
            self.look_at_end();
            self.look_at_gone();
            self.give_work();
            self.say_unapplied();
            self.answer_holds();
            self.flush();
            self.finish_deferred().await?;
            if self.is_over() {
                return Ok(());
            }
            // Between this and the next block nothing can change our mind: what is decided then counts.
            self.changes.give_undecided(self.may_be_undecided());
            tokio::select! {
                done = self.applier.done(), if self.applier.is_busy() => self.on_done(done?)?,
                block = self.changes.next(), if self.may_read() => self.on_block(block?),
                Some(request) = requests.recv() => self.on_request(request),
                resynced = self.resyncs.next(), if self.resyncs.is_running() => {
                    self.on_resynced(resynced)?;
                }
                found = self.discovery.next(), if self.discovery.is_looking() => {
                    self.on_looked(found)?;
                }
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    /// Takes the present block in, as far as nothing stands in the way.
    async fn take_block(&mut self) -> Result<()> {
        let now = Instant::now();
        let is_stopping = self.is_stopping();
        while let Some((block, next)) = &mut self.block {
            let Some(event) = block.events.get(*next) else {
                self.block = None;
                break;
            };
            let holds_here = self.holds.iter().any(|hold| hold.stops_before(event));
            if (holds_here || is_stopping) && self.assembler.is_at_boundary() {
                break;
            }
            let must_wait = match event {
                Event::Undecided { .. } => self.assembler.has_changes(),
                Event::Withdrawn => self.applier.is_busy(),
                Event::Decided(_) | Event::Commit { .. } => false,
                Event::Begin(_) if self.assembler.tables() >= TABLES_MAX => true,
                _ => self.assembler.size().1 > 2 * self.engine.options.batch_bytes_max,
            };
            if must_wait {
                break;
            }
            let event = event.clone();
            *next += 1;
            match self.assembler.take(block, &event, now)? {
                Taken::Yes => {}
                Taken::Heartbeat { written_at_us } => {
                    self.heartbeat = Some((written_at_us, self.assembler.assembled()));
                }
                // Until its ranges have caught up with each other the table is no state of the source anyway, so
                // it is emptied and loaded in its place.
                Taken::Reload { routes } => self.load_all_anew(&routes),
                Taken::Kept { routes, reload } => {
                    self.say_kept(&routes);
                    self.load_all_anew(&reload);
                }
                Taken::Reshaped { route, table } => self.reshape(route, &table).await?,
                Taken::Unlooked { route, table } => {
                    *next -= 1;
                    self.reshape(route, &table).await?;
                }
                Taken::NotKept { route, why } => self.not_kept(route, why)?,
                Taken::Withdrawn => {
                    self.counts.clear();
                    self.applier.give(Task::Undo);
                }
            }
        }
        Ok(())
    }

    /// A table was announced: it may have another shape.
    async fn reshape(&mut self, route: usize, table: &Arc<StreamTable>) -> Result<()> {
        let has_rows_apart = self.assembler.router.rows_apart(route).is_some();
        let is_loading = match self.resyncs.loads(route) {
            Some(Place::Beside) => IsLoading::Beside,
            Some(Place::InPlace) => IsLoading::InPlace,
            None if has_rows_apart => IsLoading::SomeRows,
            None => IsLoading::No,
        };
        let assembler = &mut self.assembler;
        let reshaped = schema_change::reshape(self.engine, assembler, route, table, is_loading);
        let what = match reshaped.await? {
            Reshaped::Done => {
                self.come_back(route, table);
                return Ok(());
            }
            Reshaped::LoadAnew(strategy) => What::Table(strategy),
            Reshaped::Recreated => What::Recreated,
        };
        let entry = self.assembler.router.route_mut(route);
        entry.has_rows = false;
        match entry.state {
            // Whoever set it aside brings it back.
            TableState::Paused | TableState::Quarantined => {
                let mapping = Arc::clone(&entry.mapping);
                let why = Reason::plain("its shape has changed: it has to be loaded anew");
                let change = state_change(&mapping, TableState::Unloaded, Some(why));
                self.assembler.set_state(route, change);
            }
            TableState::Unloaded => {}
            _ => self.load_anew(route, what),
        }
        Ok(())
    }

    /// A table is called as before: what was kept of it meanwhile is taken back. Under `stop_table` and
    /// `fail` a person looks first, and says `retry`.
    fn come_back(&mut self, route: usize, table: &StreamTable) {
        use OnSchemaChange::{Fail, StopTable};
        let entry = self.assembler.router.route_mut(route);
        let is_named = table.name == *entry.mapping.source();
        entry.is_away &= !is_named || entry.state != TableState::Resyncing;
        let is_kept = entry.state == TableState::Quarantined && entry.has_rows;
        let is_back = entry.is_away && is_named && is_kept;
        let waits = matches!(self.engine.options.on_schema_change, Fail | StopTable);
        if !is_back || waits || self.resyncs.is_under_way(route) {
            return;
        }
        self.assembler.router.route_mut(route).is_away = false;
        self.resyncs.take_back(route);
        self.engine.observer.say(PipelineEvent::SchemaChanged {
            table: table.name.clone(),
            text: "it is called as before: its changes are taken back".to_owned(),
        });
    }

    /// How a table is loaded anew that nobody asked for.
    fn strategy(&self, route: usize) -> ResyncStrategy {
        reconcile::strategy(&self.assembler.router.route(route).mapping)
    }

    /// A table, or some of its rows, is loaded anew as soon as its state is recorded.
    fn load_anew(&mut self, route: usize, what: What) {
        if !matches!(what, What::Rows(_)) {
            self.phase = LoadPhase::Finishing;
        }
        let why = Some(Reason::plain(what.reason()));
        self.resyncs.request(route, what);
        self.assembler.router.route_mut(route).is_away = false;
        let mapping = Arc::clone(&self.assembler.router.route(route).mapping);
        self.assembler
            .set_state(route, state_change(&mapping, TableState::Resyncing, why));
    }

    /// Hands over what is assembled, if the applier is free.
    fn give_work(&mut self) {
        if self.applier.is_busy() || self.lasting.is_paused || self.is_held() {
            return;
        }
        if self.give_aside() {
            return;
        }
        if self.assembler.is_at_boundary() {
            let moved = self.assembler.assembled() > self.assembler.applied();
            if self.assembler.has_changes() || (moved && self.must_record_position()) {
                self.idle_since = Instant::now();
                let work = self.assembler.cut();
                return self.apply(work);
            }
        } else if self.is_full() {
            let part = self.assembler.cut_part();
            return self.apply(part);
        }
        if self.assembler.is_at_boundary()
            && let Some(route) = self.to_drain()
        {
            self.drain(route);
        }
    }

    /// Asks for durability where nothing more is to be done, or is done for a while.
    fn flush(&mut self) {
        let is_due = self.is_stopping() || self.committed_at.elapsed() >= FLUSH_AFTER;
        let is_unflushed = self.acknowledged < self.processed;
        let is_free = !self.applier.is_busy() && self.assembler.is_between_commits();
        if is_due && is_unflushed && is_free && self.assembler.is_at_boundary() {
            self.applier.give(Task::Flush);
        }
    }

    fn apply(&mut self, work: Work) {
        self.applying_us = self.applying_us.or(work.batch.oldest_commit_us);
        self.applier
            .give_of(self.assembler.undecided(), Task::Apply(Box::new(work)));
    }

    /// When the oldest transaction was committed that was received and is not in the target.
    fn unapplied_us(&self) -> Option<i64> {
        let waits = || match self.block.as_ref().map(|(block, at)| &block.events[*at..]) {
            Some([Event::Begin(begin), ..]) => Some(begin.committed_at_us),
            _ => None,
        };
        self.applying_us
            .or_else(|| self.assembler.oldest_commit_us())
            .or_else(waits)
    }

    /// Tells what is not in the target yet, and of a heartbeat once everything before it is.
    fn say_unapplied(&mut self) {
        let unapplied = self.unapplied_us();
        if self.unapplied_said != unapplied {
            self.unapplied_said = unapplied;
            self.engine
                .observer
                .say(PipelineEvent::Unapplied(unapplied));
        }
        let is_in = |position| unapplied.is_none() || self.processed >= position;
        if let Some((written_at_us, _)) = self.heartbeat.take_if(|(_, before)| is_in(*before)) {
            self.engine
                .observer
                .say(PipelineEvent::Heartbeat { written_at_us });
        }
    }

    /// Whether an idle source's position is worth a commit of its own.
    fn must_record_position(&self) -> bool {
        let reaches =
            |wanted: Position| self.processed < wanted && wanted <= self.assembler.assembled();
        self.is_stopping()
            || self.end_at.is_some_and(reaches)
            || self.idle_since.elapsed() >= IDLE_CHECKPOINT
    }

    fn drain(&mut self, route: usize) {
        let mapping = self.mapping_to_drain(route);
        let router = Box::new(self.assembler.router.for_draining(route));
        self.applier.give(Task::Drain {
            mapping,
            router,
            bytes_max: DRAIN_BYTES_MAX.min(self.engine.options.batch_bytes_max),
        });
        self.resyncs.draining(route);
    }

    fn is_full(&self) -> bool {
        let (items, bytes) = self.assembler.size();
        let options = &self.engine.options;
        items >= options.batch_rows_max || bytes >= options.batch_bytes_max
    }

    fn may_read(&self) -> bool {
        let wanted = !self.is_stopping() || !self.assembler.is_at_boundary();
        self.block.is_none() && wanted && !self.lasting.is_paused && !self.is_full()
    }

    fn is_stopping(&self) -> bool {
        self.stop_by.is_some()
    }

    fn begin_stop(&mut self) {
        self.holds.clear();
        self.stop_by.get_or_insert(Instant::now() + STOP_GRACE);
    }

    fn on_block(&mut self, block: Block) {
        if let Some(position) = block.position() {
            // What comes again is not news.
            let received = if position > self.processed {
                position
            } else {
                self.processed
            };
            self.engine.observer.say(PipelineEvent::Received(received));
        }
        self.block = Some((block, 0));
    }

    /// What has to wait until the stream has passed all tidemarks: foreign keys of a load that was
    /// read at several instants, and those of tables that were loaded anew.
    async fn finish_deferred(&mut self) -> Result<()> {
        let router = &self.assembler.router;
        // A table that is set aside shows another instant than those it points to.
        let is_due = self.phase == LoadPhase::Finishing
            && !self.applier.is_busy()
            && self.assembler.is_between_commits()
            && !router.minds_tidemarks()
            && !router.has_parked()
            && !self.resyncs.is_running();
        if is_due {
            let routes = self.assembler.router.routes();
            let mappings: Vec<_> = routes.map(|(_, r)| Arc::clone(&r.mapping)).collect();
            finish_load(self.engine, &mappings).await?;
            self.discovery.compare_again();
            self.phase = LoadPhase::Loaded;
            self.show_state();
        }
        Ok(())
    }

    fn on_tick(&mut self) {
        self.look_into_partitions();
        let router = &self.assembler.router;
        self.discovery.look(self.engine, || router.names());
        self.look_at_holds();
    }

    /// Ends a run that has come as far as it was to.
    fn look_at_end(&mut self) {
        let Some(end) = self.end_at.filter(|end| *end <= self.processed) else {
            return;
        };
        // Before it is seen whether anything is loaded anew.
        self.look_into_partitions();
        let is_due = |looked: &Looked| looked.head <= end;
        if !self.resyncs.is_running() && !self.looked.as_ref().is_some_and(is_due) {
            self.begin_stop();
        }
    }

    /// Whether the run has nothing more to do.
    fn is_over(&self) -> bool {
        let is_idle = !self.applier.is_busy()
            && self.assembler.is_at_boundary()
            && !self.assembler.has_changes();
        let Some(stop_by) = self.stop_by else {
            return false;
        };
        let is_recorded =
            self.acknowledged >= self.processed && self.assembler.assembled() == self.processed;
        (is_idle && is_recorded) || stop_by <= Instant::now()
    }

    async fn close(self) {
        if let Err(err) = self.changes.close().await {
            tracing::debug!(error = %err, "the change stream did not end politely");
        }
    }

    fn show_recorded(&self, checkpoint: &Checkpoint) {
        let (engine, kept) = (self.engine, self.quarantine.all());
        engine.observer.recorded(checkpoint, self.mappings, kept);
        for table in &checkpoint.tables {
            // Loaded at the very position where the stream begins, or passed by an earlier run.
            if self.assembler.router.has_passed(&table.source) {
                engine.observer.say(PipelineEvent::TablePassed {
                    table: table.source.clone(),
                });
            }
        }
    }

    fn show_state(&mut self) {
        let router = &self.assembler.router;
        let is_finishing = self.phase != LoadPhase::Loaded && !router.has_parked();
        let (state, by) = if self.lasting.is_paused {
            (PipelineState::Paused, By::User)
        } else if is_finishing || router.is_catching_up() {
            (PipelineState::CatchingUp, By::Engine)
        } else {
            (PipelineState::Streaming, By::Engine)
        };
        if state != self.state {
            self.state = state;
            self.engine.observer.state(state, by, None);
        }
    }
}

/// Mappings for the columns that the target has: where the catalog is ahead of the log, the log will
/// say what changed, at its place. What was known of another table of that name may not fit the rules by
/// what the catalog has now; nor does it have to, since such a table is loaded anew, and one that is set
/// aside is nobody's hindrance.
fn as_last_known(
    engine: &Engine,
    mappings: &[Arc<TableMapping>],
    checkpoint: &Checkpoint,
) -> Result<Vec<Arc<TableMapping>>> {
    let tables = checkpoint.tables.iter();
    let recorded: HashMap<&TableName, &TableCheckpoint> =
        tables.map(|table| (&table.source, table)).collect();
    let known = |mapping: &TableMapping| {
        let table = *recorded.get(mapping.source())?;
        Some((table, table.shape.as_ref()?))
    };
    let last_known = |mapping: &Arc<TableMapping>| {
        let Some((table, shape)) = known(mapping) else {
            return Ok(Arc::clone(mapping));
        };
        let schema = schema_change::as_known(&mapping.schema, shape);
        match engine.rules.map_table(&schema) {
            Ok(known) => Ok(Arc::new(known)),
            Err(_) if table.source_id != mapping.schema.id || table.state.is_parked() => {
                Ok(Arc::clone(mapping))
            }
            Err(err) => Err(err),
        }
    };
    mappings.iter().map(last_known).collect()
}
