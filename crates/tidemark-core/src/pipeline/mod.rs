//! The line a row travels, from top to bottom.
//!
//! ```text
//!   check ─► plan ─► open the log ─► load ─► stream ─► (verify, stop)
//!                                     │        │
//!                                     └─ tidemarks ─► decide which changes a table has seen
//! ```
//!
//! `Run::attempt` reads like that line. One *attempt* goes from connecting to the end; a
//! transient error ends the attempt and the next one starts from the checkpoint in the target,
//! never from memory. That is also what happens after a crash, so there is one way to go on, and it
//! is taken often.
//!
//! [`plan`] decides what a start means, [`load`] copies rows, [`stream`] applies changes. They know
//! no driver: everything outside is behind [`Source`] and [`Target`].

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, CheckpointUpdate, Reason, TableState, TableStateChange};
use crate::control::Answer;
use crate::error::{Context, Error, Remedy, Result};
use crate::failpoint;
use crate::mapping::{Rules, TableMapping};
use crate::position::Position;
use crate::quarantine::OnRowError;
use crate::schema::{SourceSchema, TableName};
use crate::source::{Snapshot, Source};
use crate::status::{By, PipelineState};
use crate::target::{Owner, Target};

pub use commands::{Commander, Request};

use anew::begun;
use commands::Interruption;
use going_on::GoingOn;
use observe::{Observer, PipelineEvent, Step};
use options::{Options, Reconcile};
use partitions::Partitions;
use plan::Start;
use retry::Backoff;
use stop::{LINE_ENDS_WITHIN, StopAsked, StopClock};

mod anew;
pub mod another_target;
mod apart;
mod apply;
mod assemble;
mod away;
mod check;
mod commands;
mod discover;
mod full_load;
pub mod going_on;
mod load;
mod monitor;
pub mod observe;
pub mod options;
mod partitions;
pub mod plan;
pub(crate) mod protection;
mod reconcile;
mod refused;
mod resync;
mod retry;
mod router;
mod schema_change;
mod start;
mod stop;
mod stream;
mod throttle;
mod typed;
mod unlogged;
mod visible;
mod went_back;

/// How long a run that was told to stop waits for the target to say how far it has come.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// One source, one target, a mode and table mappings.
pub struct Pipeline {
    run: Run,
    requests: mpsc::Receiver<Request>,
}

/// What goes from one attempt to the next.
struct Run {
    engine: Arc<Engine>,
    owner: Owner,
    /// States to record at the next attempt, before anything is read.
    states: Vec<TableStateChange>,
    is_checked: bool,
    /// What is still to be recorded as to be reconciled.
    reconcile: Reconcile,
    /// The target has no record yet of what this run has made on the source.
    is_unrecorded: bool,
    lasting: Lasting,
    stop: StopClock,
}

/// What a stream leaves to the next one when a side is lost in between.
struct Lasting {
    backoff: Backoff,
    partitions: Partitions,
    /// A person paused the pipeline.
    is_paused: bool,
    /// Who told it to stop; they are answered when it has.
    stops: Vec<oneshot::Sender<Answer>>,
    /// A transaction that could not be applied before it was decided: it is not tried again.
    refused: Option<u32>,
    /// A slot that could not be decoded was given up.
    is_anew: bool,
    /// The target had a checkpoint.
    has_checkpoint: bool,
    /// Tables of which a person was told that somebody else writes to their copy.
    warned: BTreeSet<TableName>,
    /// Tables that a person has go on without the rows that stopped them, until they do.
    skips: Vec<TableName>,
}

/// What all tasks of a pipeline share.
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) rules: Rules,
    pub(crate) options: Options,
    pub(crate) observer: Observer,
}

impl Engine {
    /// Whether an error of a table's own sets only the table aside.
    fn sets_aside(&self, table: &TableName) -> bool {
        self.rules.row_error_policy(table) != OnRowError::StopPipeline
    }

    fn step(&self, step: Step, text: impl Into<String>) {
        let text = text.into();
        self.observer.say(PipelineEvent::Step { step, text });
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// State at the end: `stopped` or `completed`.
    pub state: PipelineState,
    /// Who ended it: a person, or the engine where it was to end.
    pub by: By,
    /// Everything that committed before it is in the target; `None` where nothing was started yet, or
    /// the target did not say.
    pub position: Option<Position>,
}

/// What an attempt goes on with.
struct Ready {
    schema: SourceSchema,
    mappings: Vec<Arc<TableMapping>>,
    /// Tables that cannot be carried as they are by now.
    aside: Vec<Arc<TableMapping>>,
    /// Where rows are to be loaded.
    snapshot: Option<Box<dyn Snapshot>>,
    /// Tables whose rows on the target are ours.
    begun: Vec<TableName>,
}

/// How something long ended, in which people may interrupt.
enum Interrupted<T> {
    Done(T),
    Asked(Interruption),
}

impl Pipeline {
    /// A pipeline that is ready to run, and the way in for commands.
    pub fn new(
        name: impl Into<String>,
        source: Arc<dyn Source>,
        target: Arc<dyn Target>,
        rules: Rules,
        options: Options,
        owner: Owner,
        observer: Observer,
    ) -> (Pipeline, Commander) {
        let (sender, requests) = mpsc::channel(16);
        let name = name.into();
        let engine = Arc::new(Engine {
            name,
            source,
            target,
            rules,
            options,
            observer,
        });
        let lasting = Lasting {
            backoff: Backoff::new(&engine.options),
            partitions: Partitions::default(),
            is_paused: false,
            stops: Vec::new(),
            refused: None,
            is_anew: false,
            has_checkpoint: false,
            warned: BTreeSet::new(),
            skips: Vec::new(),
        };
        let reconcile = engine.options.reconcile.clone();
        let (stop_asked, stop) = StopAsked::new();
        let run = Run {
            engine,
            reconcile,
            owner,
            states: Vec::new(),
            is_checked: false,
            is_unrecorded: false,
            lasting,
            stop,
        };
        (Pipeline { run, requests }, Commander { sender, stop_asked })
    }

    /// Runs until stopped, done, or an error that needs a person. Transient errors are retried for
    /// ever, with backoff, from the checkpoint. A data error sets its table aside, if the options
    /// say so. On return everything that was reported as committed is durable.
    pub async fn run(self) -> Result<Outcome> {
        let Pipeline { run, requests } = self;
        let observer = run.engine.observer.clone();
        let mut running = std::pin::pin!(run.until_the_end(requests));
        std::future::poll_fn(|context| {
            // A panic is told like any other end. Nothing that it has left half done is looked at again.
            let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context)));
            polled.unwrap_or_else(|panic| {
                let err = panicked(panic.as_ref());
                observer.failed(&err);
                Poll::Ready(Err(err))
            })
        })
        .await
    }
}

impl Run {
    /// See [`Pipeline::run`].
    async fn until_the_end(mut self, mut requests: mpsc::Receiver<Request>) -> Result<Outcome> {
        let monitor = monitor::Monitor::start(&self.engine);
        let stop = self.stop.clone();
        let line = Box::pin(self.attempts(&monitor, &mut requests));
        let ended = if let Some(ended) = stop.cut(LINE_ENDS_WITHIN, line).await {
            ended
        } else {
            tracing::info!(
                pipeline = %self.engine.name,
                "stops while it waits for a server; what is not committed comes again"
            );
            self.lasting.hear_stops(&mut requests);
            Ok(self.stopped_between_attempts().await)
        };
        monitor.stop().await;
        if self.is_unrecorded {
            self.take_back().await;
        }
        self.lasting.answer_stops(&ended);
        match &ended {
            Ok(outcome) => self.engine.observer.state(outcome.state, outcome.by, None),
            Err(err) => self.engine.observer.failed(err),
        }
        ended
    }

    /// One attempt after the other, until one ends it.
    async fn attempts(
        &mut self,
        monitor: &monitor::Monitor,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Outcome> {
        loop {
            let ended = tokio::select! {
                biased;
                over = monitor.over() => Err(self.engine.end_over(over).await),
                ended = Box::pin(self.attempt(requests)) => ended,
            };
            let err = match ended {
                Ok(Interrupted::Done(outcome)) => return Ok(outcome),
                Ok(Interrupted::Asked(asked)) => {
                    match self.stand_still(asked, monitor, requests).await {
                        Some(ended) => return ended,
                        None => continue,
                    }
                }
                Err(err) => match self.give_slot_up(err).await {
                    Ok(()) => continue,
                    Err(err) => err,
                },
            };
            let remedy = self.remedy(&err);
            let goes_on = match remedy {
                Remedy::Retry => true,
                Remedy::Quarantine => {
                    // A full load alone would load the table that is set aside again, and come to the same.
                    self.follows_what_it_rests_on(&err).await
                        || (self.engine.options.mode.streams() && self.set_aside(&err).await)
                }
                Remedy::Fail => false,
            };
            if !goes_on {
                return Err(err);
            }
            if !self.lasting.stops.is_empty() {
                // What is not committed comes again with the next run.
                tracing::debug!(pipeline = %self.engine.name, error = %err, "stops all the same");
                return Ok(self.stopped_between_attempts().await);
            }
            if remedy == Remedy::Retry {
                let waited = tokio::select! {
                    waited = self.wait_to_retry(err, requests) => waited,
                    _ = monitor.over() => Interrupted::Done(()),
                };
                if let Interrupted::Asked(asked) = waited
                    && let Some(ended) = self.stand_still(asked, monitor, requests).await
                {
                    return ended;
                }
            }
        }
    }

    /// Between two attempts, until a person lets it go on: `None`. Otherwise how it ended.
    async fn stand_still(
        &mut self,
        asked: Interruption,
        monitor: &monitor::Monitor,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Option<Result<Outcome>> {
        match asked {
            Interruption::Stop => return Some(Ok(self.stopped_between_attempts().await)),
            Interruption::Resume => {
                self.lasting.is_paused = false;
                return None;
            }
            Interruption::Again => return None,
            Interruption::Pause => {}
        }
        self.engine
            .observer
            .state(PipelineState::Paused, By::User, None);
        tokio::select! {
            biased;
            over = monitor.over() => Some(Err(self.engine.end_over(over).await)),
            goes_on = commands::resumed(requests) => {
                if goes_on { None } else { Some(Ok(self.stopped_between_attempts().await)) }
            }
        }
    }

    /// From connecting to the end, straight down.
    async fn attempt(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Interrupted<Outcome>> {
        let is_paused = self.lasting.is_paused;
        let ready = tokio::select! {
            ready = Box::pin(self.prepare()) => ready?,
            asked = commands::interrupted(requests, is_paused) => return Ok(Interrupted::Asked(asked)),
        };
        self.lasting.backoff.has_begun = true;
        let (target, owner) = (Arc::clone(&self.engine.target), self.owner.clone());
        tokio::select! {
            biased;
            ended = Box::pin(self.go_on(ready, requests)) => ended,
            // What is not committed is left to whoever has the lock now.
            taken = target.keep_lock(&owner) => Err(taken),
        }
    }

    /// From where rows and changes can be read to the end.
    async fn go_on(
        &mut self,
        ready: Ready,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Interrupted<Outcome>> {
        let Ready {
            schema,
            mut mappings,
            aside,
            snapshot,
            begun,
        } = ready;
        if self.engine.options.mode.streams() {
            self.settle_relay().await?;
        }
        if let Some(snapshot) = snapshot {
            let loaded = self.load(snapshot, &mappings, &begun, requests);
            if let Interrupted::Asked(asked) = loaded.await? {
                return Ok(Interrupted::Asked(asked));
            }
            if let Some(now) = self.look_at_partitions(&mappings).await? {
                self.lasting.partitions.looked(now.partitions, now.head);
            }
        }
        if self.engine.options.mode.streams() {
            mappings.extend(aside);
            let lasting = &mut self.lasting;
            stream::stream(&self.engine, &schema, &mappings, requests, lasting).await
        } else {
            Ok(Interrupted::Done(self.complete().await?))
        }
    }

    /// From connecting to where rows and changes can be read. May be given up at any point.
    async fn prepare(&mut self) -> Result<Ready> {
        let engine = Arc::clone(&self.engine);
        let mode = engine.options.mode;

        engine
            .observer
            .state(PipelineState::Checking, By::Engine, None);
        let schema = engine.source.describe(engine.rules.selection()).await?;
        let GoingOn { mappings, aside } = engine.tables(&schema).await?;
        let mappings: Vec<_> = mappings.into_iter().map(Arc::new).collect();
        self.check(&mappings).await?;

        engine
            .observer
            .state(PipelineState::Starting, By::Engine, None);
        engine.target.acquire(&self.owner).await?;
        if engine.target.has_ended_another() {
            engine.source.end_reader().await?;
        }
        failpoint::reached(failpoint::OWNER_RECORDED);
        let targets: Vec<&TableName> = mappings.iter().map(|mapping| &mapping.target).collect();
        engine.target.claim(&targets).await?;
        self.note_unlogged().await?;
        self.record_states().await?;
        self.reconcile(&mappings).await?;
        let partitions = self.look_at_partitions(&mappings).await?;
        let checkpoint = engine.target.checkpoint().await?;
        if let Some(found) = &checkpoint {
            let (load_position, position) = (found.load_position, found.position);
            engine.observer.say(PipelineEvent::Checkpoint {
                load_position,
                position,
            });
        }
        let mut log = engine.source.log_state().await?;
        if mode.streams() {
            self.refuse_forgetful(checkpoint.as_ref())?;
            log.relayed = engine.source.relayed().await?.map(Box::new);
            log.other_target = engine.other_target(checkpoint.as_ref(), &log).await?;
        }
        let start = self.decide(checkpoint.as_ref(), &log).await?;
        engine.step(Step::Plan, start::describe(&start, checkpoint.as_ref()));
        // From here on positions of the new timeline are recorded, which the old one never had.
        let timeline = log.identity.timeline;
        let was = checkpoint.as_ref().map(|found| found.identity.timeline);
        if mode.streams() && was.is_some_and(|was| was < timeline) {
            engine.target.follow_timeline(timeline).await?;
        }

        let before = checkpoint.as_ref();
        let snapshot = self
            .begin(&start, before, &schema, &mappings, log.identity)
            .await?;
        self.take_up_partitions(partitions).await?;
        if snapshot.is_some() {
            let changes = start::type_changes(&engine, &start);
            self.prepare_objects(&schema, &mappings, changes).await?;
        }
        let begun = match &start {
            Start::LoadOnce => begun(checkpoint.as_ref()),
            _ => Vec::new(),
        };
        if mode.streams() {
            self.lasting.has_checkpoint = true;
            engine.note_target().await?;
        }
        let aside = self.record_aside(aside).await?;
        self.record_left_behind(mappings.iter().chain(&aside))
            .await?;
        Ok(Ready {
            schema,
            mappings,
            aside,
            snapshot,
            begun,
        })
    }

    /// A full load alone is done once its rows are in; whether it still has a checkpoint is asked.
    async fn complete(&mut self) -> Result<Outcome> {
        let checkpoint = self.checkpoint().await?;
        Ok(Outcome {
            state: PipelineState::Completed,
            by: By::Engine,
            position: Some(checkpoint.position),
        })
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.engine.target.checkpoint().await?.ok_or_else(|| {
            Error::definite(
                codes::CHECKPOINT_MISSING,
                "the checkpoint that this run wrote is gone from the target",
            )
        })
    }

    async fn record_states(&mut self) -> Result<()> {
        if self.states.is_empty() {
            return Ok(());
        }
        // A table that was being loaded when it was set aside is not whole.
        let recorded = self.engine.target.checkpoint().await?;
        for change in &mut self.states {
            let mut tables = recorded.iter().flat_map(|recorded| &recorded.tables);
            let known = tables.find(|table| table.source == change.table);
            if change.state == TableState::Quarantined
                && known.is_some_and(|table| !table.state.has_rows())
            {
                change.state = TableState::Unloaded;
            }
        }
        let update = CheckpointUpdate {
            states: self.states.clone(),
            ..CheckpointUpdate::default()
        };
        let mut applier = self.engine.target.applier().await?;
        applier.begin().await?;
        applier.commit(&update).await?;
        applier.flush().await.context(|| "record table states")?;
        for change in self.states.drain(..) {
            self.engine.observer.say(PipelineEvent::TableState {
                table: change.table,
                state: change.state,
                reason: change.reason,
            });
        }
        Ok(())
    }

    async fn wait_to_retry(
        &mut self,
        error: Error,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Interrupted<()> {
        let wait = self.lasting.backoff.next();
        let attempt = self.lasting.backoff.attempts();
        self.engine.observer.say(PipelineEvent::Retry {
            error,
            wait,
            attempt,
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => Interrupted::Done(()),
            asked = commands::interrupted(requests, self.lasting.is_paused) => {
                Interrupted::Asked(asked)
            }
        }
    }

    /// Where a later start goes on; read from the target if it answers.
    async fn stopped_between_attempts(&self) -> Outcome {
        // Who stops a run that waits for a side must not be told that this side is not there.
        let asked = timeout(LAST_LOOK, self.engine.target.checkpoint()).await;
        let checkpoint = asked.ok().and_then(Result::ok).flatten();
        Outcome {
            state: PipelineState::Stopped,
            by: By::User,
            position: checkpoint.map(|found| found.position),
        }
    }
}

fn state_change(
    mapping: &TableMapping,
    state: TableState,
    reason: Option<Reason>,
) -> TableStateChange {
    TableStateChange {
        table: mapping.source().clone(),
        target: mapping.target.clone(),
        source_id: mapping.schema.id,
        state,
        reason,
    }
}

/// The engine itself panicked.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("without a word");
    Error::definite(codes::INTERNAL, format!("the engine panicked: {text}"))
}

/// A task of ours panicked or was aborted.
fn task_died(err: JoinError) -> Error {
    Error::definite(codes::INTERNAL, "a task of the pipeline died").caused_by(err)
}
