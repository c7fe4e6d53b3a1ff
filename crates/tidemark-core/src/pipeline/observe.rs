//! What the engine tells the world: one stream of [`PipelineEvent`]s.
//!
//! Logs, progress, status, metrics and alerts are readers of this stream; none of them is on the
//! line a row travels. Sending never waits: the channel is unbounded but what goes in is bounded by
//! units, commits and state changes, never by rows. [`crate::board::Board`] folds it to a status.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::checkpoint::{Checkpoint, Reason, TableCheckpoint, TableState, Unit};
use crate::error::Error;
use crate::finding::Finding;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::quarantine::Kept;
use crate::schema::TableName;
use crate::source::LogState;
use crate::status::{By, PipelineState, Reconciled, StatusError};
use crate::target::Applied;

use super::away;

/// The steps of a start, in their order. Shown as `2/5 plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looks for what stands in the way.
    Check,
    /// Decides what the start means.
    Plan,
    /// Makes what the copy rests on.
    Prepare,
    /// Copies rows.
    Load,
    /// Follows the log.
    Stream,
}

impl Step {
    /// From 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    fn name(self) -> &'static str {
        match self {
            Step::Check => "check",
            Step::Plan => "plan",
            Step::Prepare => "prepare",
            Step::Load => "load",
            Step::Stream => "stream",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, last, name) = (self.number(), Step::Stream.number(), self.name());
        write!(f, "{number}/{last} {name}")
    }
}

/// Everything that the engine says. Closed on purpose.
#[derive(Debug)]
pub enum PipelineEvent {
    /// A start goes through the same steps, so that a log alone tells what happened.
    Step {
        /// Which one.
        step: Step,
        /// What it found or does, in a short sentence.
        text: String,
    },
    /// The pipeline's state changed.
    State {
        /// To this.
        state: PipelineState,
        /// Why.
        reason: Option<String>,
        /// Who.
        by: By,
    },
    /// What the prerequisites check found.
    Checked(Vec<Finding>),
    /// What the target has recorded, read by this run: all tables, and all that is in quarantine.
    Recorded {
        /// Each table.
        tables: Vec<TableOutline>,
        /// Tables that have rows in quarantine.
        quarantined: Vec<(TableName, Kept)>,
    },
    /// A table is about to be loaded, or was met again.
    Table(TableOutline),
    /// A unit is being copied: rows and bytes since the last such event of any worker.
    LoadProgress {
        /// On the source.
        table: TableName,
        /// Rows.
        rows: u64,
        /// Bytes of the row format.
        bytes: u64,
    },
    /// A unit was given up and will be copied again: its progress is taken back.
    LoadTakenBack {
        /// On the source.
        table: TableName,
        /// Rows.
        rows: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A unit is in.
    UnitLoaded {
        /// On the source.
        table: TableName,
        /// Its number.
        unit: u32,
    },
    /// Keys and indexes of a table are made.
    TableFinished {
        /// On the source.
        table: TableName,
    },
    /// A table was compared with the source, and what differed was brought to it.
    Reconciled {
        /// On the source.
        table: TableName,
        /// What was found, and what was moved.
        found: Reconciled,
    },
    /// The first load's consistent point.
    LoadPosition(Position),
    /// What an earlier run has left in the target.
    Checkpoint {
        /// The consistent point of its first load.
        load_position: Position,
        /// Everything that committed before this is in.
        position: Position,
    },
    /// The load is in.
    Loaded {
        /// Rows copied by this run.
        rows: u64,
        /// How long it took.
        took: Duration,
    },
    /// A table's state changed.
    TableState {
        /// On the source.
        table: TableName,
        /// To this.
        state: TableState,
        /// Why.
        reason: Option<Reason>,
    },
    /// A table is left out, since nothing of it comes any more.
    LeftOut {
        /// On the source.
        table: TableName,
        /// Why; `None`: it is followed again.
        reason: Option<String>,
    },
    /// The stream has passed all that a table's load has seen.
    TablePassed {
        /// On the source.
        table: TableName,
    },
    /// The stream received the log up to here.
    Received(Position),
    /// What was received and is not in the target changed: when its oldest transaction was committed,
    /// by the source's clock, in microseconds since 1970 UTC. `None`: nothing.
    Unapplied(Option<i64>),
    /// A target transaction was committed.
    Committed(Committed),
    /// What tables have in quarantine, where that has changed.
    Quarantined(Vec<(TableName, Kept)>),
    /// The source was told.
    Acknowledged(Position),
    /// A heartbeat was written into the source's log.
    HeartbeatWritten {
        /// The source's clock when it was, microseconds since 1970 UTC.
        written_at_us: i64,
    },
    /// A heartbeat came back, everything before it is in the target.
    Heartbeat {
        /// The source's clock when it was written, microseconds since 1970 UTC.
        written_at_us: i64,
    },
    /// The source's log was looked at. `Err`: it could not be.
    Measured(Result<Box<LogState>, Error>),
    /// A side was lost; the pipeline tries again.
    Retry {
        /// Why.
        error: Error,
        /// When.
        wait: Duration,
        /// How many times in a row.
        attempt: u32,
    },
    /// A table of the source changed its shape.
    SchemaChanged {
        /// On the source.
        table: TableName,
        /// In a sentence: what, and what was done about it.
        text: String,
    },
    /// A table appeared that the patterns select.
    NewTable {
        /// On the source.
        table: TableName,
        /// What is done about it.
        text: String,
    },
    /// Something that worked, but that a person should know.
    Warning {
        /// Catalogue code.
        code: crate::catalogue::Code,
        /// A sentence.
        text: String,
    },
    /// The pipeline gave up: its state is `failed` from now on, because of this.
    Failed(StatusError),
}

/// A table as progress needs it.
#[derive(Clone, Debug)]
pub struct TableOutline {
    /// On the source.
    pub source: TableName,
    /// On the target.
    pub target: TableName,
    /// State.
    pub state: TableState,
    /// Why it is set aside, if it is, or left out.
    pub reason: Option<Reason>,
    /// Whether this run is known not to follow it.
    pub is_left_out: bool,
    /// Whether some of its rows are copied anew, among the others: what its load has brought stays.
    pub is_part: bool,
    /// Rows to copy, estimated.
    pub rows_estimated: Option<u64>,
    /// Units in all.
    pub units: u32,
    /// Units that are in.
    pub units_loaded: u32,
    /// Rows that are in.
    pub rows_loaded: u64,
}

/// One committed target transaction.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Everything that committed on the source before this is in.
    pub position: Position,
    /// Source transactions in it.
    pub transactions: u64,
    /// What was done.
    pub applied: Applied,
    /// Source clock at commit of its oldest transaction, microseconds since 1970 UTC.
    pub oldest_commit_us: Option<i64>,
    /// Time between receiving the oldest transaction and handing the batch to the target.
    pub queued: Duration,
    /// Time in the target.
    pub took: Duration,
    /// Changes by table.
    pub changes: Vec<(TableName, u64)>,
    /// Changes put aside by table.
    pub parked: Vec<(TableName, u64)>,
}

/// Where the engine says things. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Observer {
    sender: mpsc::UnboundedSender<PipelineEvent>,
}

impl Observer {
    /// An observer and where its events come out.
    pub fn new() -> (Observer, mpsc::UnboundedReceiver<PipelineEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Observer { sender }, receiver)
    }

    /// Says something. Nobody listening is not an error: the line goes on without its readers.
    pub fn say(&self, event: PipelineEvent) {
        drop(self.sender.send(event));
    }

    pub(crate) fn state(&self, state: PipelineState, by: By, reason: Option<String>) {
        self.say(PipelineEvent::State { state, reason, by });
    }

    /// A table of which rows are about to be loaded: for the first time, or `anew`, and why; all of them, or
    /// a part.
    pub(crate) fn outline(
        &self,
        mapping: &TableMapping,
        anew: Option<&str>,
        units: &[Unit],
        is_part: bool,
    ) {
        let loaded = units.iter().filter(|unit| unit.is_loaded);
        self.say(PipelineEvent::Table(TableOutline {
            source: mapping.source().clone(),
            target: mapping.target.clone(),
            state: anew.map_or(TableState::Loading, |_| TableState::Resyncing),
            reason: anew.map(Reason::plain),
            is_left_out: false,
            is_part,
            rows_estimated: mapping.schema.rows,
            units: u32::try_from(units.len()).unwrap_or(u32::MAX),
            units_loaded: u32::try_from(loaded.clone().count()).unwrap_or(u32::MAX),
            rows_loaded: loaded.map(|unit| unit.rows).sum(),
        }));
    }

    /// What the target has, with the sizes that the source estimates.
    pub(crate) fn recorded(
        &self,
        checkpoint: &Checkpoint,
        mappings: &[Arc<TableMapping>],
        quarantined: Vec<(TableName, Kept)>,
    ) {
        let estimates: HashMap<&TableName, Option<u64>> = mappings
            .iter()
            .map(|mapping| (mapping.source(), mapping.schema.rows))
            .collect();
        let outline = |table: &TableCheckpoint| {
            let loaded = table.units.iter().filter(|unit| unit.is_loaded);
            TableOutline {
                source: table.source.clone(),
                target: table.target.clone(),
                state: table.state,
                reason: table.reason.clone(),
                is_left_out: away::is_left_behind(table),
                is_part: false,
                rows_estimated: estimates.get(&table.source).copied().flatten(),
                units: u32::try_from(table.units.len()).unwrap_or(u32::MAX),
                units_loaded: u32::try_from(loaded.clone().count()).unwrap_or(u32::MAX),
                rows_loaded: loaded.map(|unit| unit.rows).sum(),
            }
        };
        self.say(PipelineEvent::Recorded {
            tables: checkpoint.tables.iter().map(outline).collect(),
            quarantined,
        });
    }

    /// What went wrong and holds nothing up.
    pub(crate) fn warn(&self, error: &Error) {
        let (code, text) = (error.code(), error.to_string());
        self.say(PipelineEvent::Warning { code, text });
    }

    /// The end of a run by an error, which whoever runs it is given itself.
    pub(crate) fn failed(&self, error: &Error) {
        self.say(PipelineEvent::Failed(StatusError::of(error)));
    }
}
