//! Status: what a pipeline says about itself, in the words of the dictionary.
//!
//! A value that was not measured is `None`, never 0; `measured_at` says how old the rest is.

use serde::{Deserialize, Serialize};

use crate::catalogue::placeholders::named;
use crate::clock;
use crate::error::Error;
use crate::position::Position;
use crate::source::{Pin, Relayed, Slot};

/// State of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Looking at both sides.
    Checking,
    /// Connecting, deciding what to do, making slot and tables.
    Starting,
    /// Copying rows.
    Loading,
    /// Applying what happened during the load.
    CatchingUp,
    /// Following the source.
    Streaming,
    /// A person paused it.
    Paused,
    /// Ended in order; goes on from the checkpoint when started.
    Stopped,
    /// Full load only, and done.
    Completed,
    /// Ended by an error that needs a person.
    Failed,
}

/// The words of what a pipeline is shown as: a definition that was never started, then each
/// [`PipelineState`].
pub const STATES: [&str; 10] = [
    "draft",
    "checking",
    "starting",
    "loading",
    "catching_up",
    "streaming",
    "paused",
    "stopped",
    "completed",
    "failed",
];

/// The words of [`Health`].
pub const HEALTHS: [&str; 5] = ["ok", "notice", "warning", "error", "unknown"];

/// The words of [`TableStatusState`].
pub const TABLE_STATES: [&str; 9] = [
    "queued",
    "loading",
    "catching_up",
    "streaming",
    "paused",
    "resyncing",
    "quarantined",
    "done",
    "excluded",
];

/// Health, apart from state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// All is well.
    Ok,
    /// Worth knowing.
    Notice,
    /// A person should look.
    Warning,
    /// A person must act.
    Error,
    /// Cannot be told.
    Unknown,
}

/// Where the gap is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// It shrinks.
    CatchingUp,
    /// It stays.
    Holding,
    /// It grows.
    FallingBehind,
    /// Not enough was measured.
    Unknown,
}

/// Who brought a state about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A person, by a command or a signal.
    User,
    /// A schedule.
    Schedule,
    /// The engine itself.
    Engine,
}

/// What a pipeline says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub pipeline: String,
    /// Its mode.
    pub mode: String,
    /// State.
    pub state: PipelineState,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why.
    pub reason: Option<String>,
    /// By whom.
    pub by: By,
    /// Health.
    pub health: Health,
    /// Trend of the gap.
    pub trend: Trend,
    /// Kind of the positions below.
    pub position_type: Option<String>,
    /// The consistent point of the first load.
    pub full_load_lsn: Option<Position>,
    /// End of the source's log.
    pub source_lsn: Option<Position>,
    /// Received by us.
    pub received_lsn: Option<Position>,
    /// Committed in the target.
    pub processed_lsn: Option<Position>,
    /// Told to the source.
    pub confirmed_lsn: Option<Position>,
    /// Oldest log kept for us.
    pub restart_lsn: Option<Position>,
    /// `source_lsn - processed_lsn`.
    pub gap_bytes: Option<u64>,
    /// Age of the oldest transaction committed on the source and not yet in the target; 0 only if
    /// a measurement younger than 10 s says there is none.
    pub latency_seconds: Option<f64>,
    /// The same by stage.
    pub latency_by_stage_seconds: Option<StageLatency>,
    /// The slot.
    pub slot: Option<SlotStatus>,
    /// The last verification.
    pub verified: Option<Verified>,
    /// Why the copy was not compared after its load, though it is to be.
    #[serde(default)]
    pub unverified: Option<String>,
    /// Tables, those that need a person first.
    pub tables: Vec<TableStatus>,
    /// Counted since the start of this run.
    pub totals: Totals,
    /// What is wrong now, if anything.
    pub error: Option<StatusError>,
    /// Why `source_lsn`, or the latency, and what follows from it are unknown, as a catalogue code.
    pub unknown_reason: Option<String>,
    /// The end of the source's log when it was last known, where it is unknown now.
    pub last_known: Option<LastKnown>,
    /// When this was measured, RFC 3339.
    pub measured_at: String,
}

impl Status {
    /// A status in which nothing is known yet.
    pub fn unknown(pipeline: impl Into<String>, mode: impl Into<String>) -> Status {
        let now = clock::now();
        Status {
            pipeline: pipeline.into(),
            mode: mode.into(),
            state: PipelineState::Stopped,
            since: now.clone(),
            reason: None,
            by: By::Engine,
            health: Health::Unknown,
            trend: Trend::Unknown,
            position_type: None,
            full_load_lsn: None,
            source_lsn: None,
            received_lsn: None,
            processed_lsn: None,
            confirmed_lsn: None,
            restart_lsn: None,
            gap_bytes: None,
            latency_seconds: None,
            latency_by_stage_seconds: None,
            slot: None,
            verified: None,
            unverified: None,
            tables: Vec::new(),
            totals: Totals::default(),
            error: None,
            unknown_reason: None,
            last_known: None,
            measured_at: now,
        }
    }
}

impl Status {
    /// Whether more has happened since an earlier one than that logs grew and time passed.
    pub(crate) fn has_news_after(&self, earlier: &Status) -> bool {
        self.news() != earlier.news()
    }

    /// What does not move by itself.
    fn news(&self) -> impl PartialEq {
        let slot = self.slot.as_ref();
        (
            (self.state, &self.since, &self.reason, self.by),
            (self.health, self.trend, &self.error, &self.unknown_reason),
            (&self.full_load_lsn, &self.verified, &self.unverified),
            (&self.tables, &self.totals),
            (self.source_lsn.is_some(), self.latency_seconds.is_some()),
            slot.map(|slot| (slot.active, &slot.wal_status)),
        )
    }
}

/// What was known before it became unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastKnown {
    /// End of the source's log.
    pub source_lsn: Position,
    /// How long ago.
    pub seconds_ago: f64,
}

/// Latency by stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageLatency {
    /// From commit to receipt.
    pub read: f64,
    /// Waiting for the target.
    pub queue: f64,
    /// In the target.
    pub apply: f64,
}

/// A slot's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// Whether somebody reads it.
    pub active: bool,
    /// The server's word.
    pub wal_status: String,
    /// Log kept because of it.
    pub retained_bytes: u64,
    /// Log that may be written before it is lost; `None` without a limit.
    pub safe_bytes: Option<i64>,
    /// What the pipeline file allows it to keep; `None` without a budget.
    #[serde(default)]
    pub max_retained_bytes: Option<u64>,
    /// By how much what it keeps grows; `None` where that was not watched for long enough.
    #[serde(default)]
    pub retained_bytes_per_second: Option<f64>,
    /// When the server gives it up, at this rate, RFC 3339; `None` where that is not known, or not to
    /// come.
    #[serde(default)]
    pub predicted_loss_at: Option<String>,
    /// When it keeps more than the pipeline file allows, at this rate.
    #[serde(default)]
    pub predicted_over_at: Option<String>,
    /// What is old on the source, oldest first.
    #[serde(default)]
    pub pins: Vec<Pin>,
    /// What of the log is kept beside the source, by the machine that runs the pipeline.
    #[serde(default)]
    pub relayed: Option<Relayed>,
}

impl SlotStatus {
    /// A slot as it was just seen; nothing is known of its growth.
    pub fn of(slot: &Slot, pins: &[Pin]) -> SlotStatus {
        SlotStatus {
            name: slot.name.clone(),
            active: slot.holder.is_some(),
            wal_status: slot.wal_status.clone(),
            retained_bytes: slot.retained_bytes,
            safe_bytes: slot.safe_bytes,
            max_retained_bytes: None,
            retained_bytes_per_second: None,
            predicted_loss_at: None,
            predicted_over_at: None,
            pins: pins.to_vec(),
            relayed: None,
        }
    }
}

/// The last verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Compared at this position.
    pub lsn: Position,
    /// `identical`, `different`, or `incomplete` where nothing differs and not all could be compared.
    pub result: String,
    /// Every value was compared, and not numbers of rows alone. It was not always told.
    #[serde(default)]
    pub values: bool,
    /// When, RFC 3339.
    pub at: String,
}

/// A table's state, in the words of the dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableStatusState {
    /// Waits for a worker.
    Queued,
    /// Rows are being copied.
    Loading,
    /// The stream has not yet passed what the load has seen.
    CatchingUp,
    /// Follows the source.
    Streaming,
    /// A person paused it.
    Paused,
    /// Copied anew while others stream.
    Resyncing,
    /// Set aside after an error.
    Quarantined,
    /// Loaded, nothing more to come.
    Done,
    /// Left out.
    Excluded,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// On the source.
    pub source: String,
    /// On the target.
    pub target: String,
    /// State.
    pub state: TableStatusState,
    /// Why, where it is not plain.
    pub reason: Option<String>,
    /// Rows copied so far.
    pub rows_loaded: u64,
    /// Rows to copy, estimated; `None` where there are no statistics.
    pub rows_estimated: Option<u64>,
    /// Bytes copied so far.
    pub bytes_loaded: u64,
    /// Chunks copied.
    pub chunks_loaded: u32,
    /// Chunks to copy.
    pub chunks: u32,
    /// Changes applied in this run.
    pub changes: u64,
    /// Changes put aside.
    pub parked: u64,
    /// Changes that met another row than the log implies.
    pub conflicts: u64,
    /// What the last reconcile of this run found; `None` if there was none.
    #[serde(default)]
    pub reconciled: Option<Reconciled>,
    /// Rows in quarantine.
    #[serde(default)]
    pub quarantined: u64,
}

impl TableStatus {
    /// How much it needs a person, the most first: the order in which tables are shown.
    pub fn urgency(&self) -> u8 {
        match self.state {
            TableStatusState::Streaming if self.quarantined > 0 => 1,
            TableStatusState::Quarantined => 0,
            TableStatusState::Paused => 1,
            TableStatusState::Resyncing => 2,
            TableStatusState::Loading => 3,
            TableStatusState::Queued => 4,
            TableStatusState::CatchingUp => 5,
            TableStatusState::Streaming => 6,
            TableStatusState::Done => 7,
            TableStatusState::Excluded => 8,
        }
    }
}

/// What a reconcile found in a table, and what it moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Compared with the source here.
    pub lsn: Position,
    /// Rows on the source.
    pub source_rows: u64,
    /// Rows that the target had.
    pub target_rows: u64,
    /// Rows that were missing on the target; `None` where that was not counted.
    pub missing: Option<u64>,
    /// Rows that had other values; `None` where that was not counted.
    pub changed: Option<u64>,
    /// Rows that are not on the source; `None` where that was not counted.
    pub extra: Option<u64>,
    /// Rows that were copied.
    pub rows_moved: u64,
    /// Bytes of them.
    pub bytes_moved: u64,
    /// Why the whole table was copied, if it was.
    pub whole: Option<String>,
}

/// Counters of this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Source transactions applied.
    pub transactions: u64,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Times a side was connected anew.
    pub retries: u64,
    /// Changes that met another row than the log implies.
    pub conflicts: u64,
}

/// What is wrong, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusError {
    /// Catalogue code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do first.
    pub action: String,
    /// RFC 3339.
    pub since: String,
}

impl StatusError {
    /// What is wrong from now on.
    pub fn of(error: &Error) -> StatusError {
        StatusError {
            code: error.code().to_string(),
            message: error.to_string(),
            action: error.action(),
            since: clock::now(),
        }
    }

    /// The same, with the pipeline's name in the commands of what to do first.
    #[must_use]
    pub fn of_pipeline(mut self, name: &str) -> StatusError {
        self.action = named(&self.action, Some(name), None);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_of_what_it_says_but_the_first_of_states() {
        for word in &STATES[1..] {
            let read = serde_json::from_value::<PipelineState>((*word).into());
            assert!(read.is_ok(), "{word}");
        }
        for word in HEALTHS {
            let read = serde_json::from_value::<Health>(word.into());
            assert!(read.is_ok(), "{word}");
        }
        for word in TABLE_STATES {
            let read = serde_json::from_value::<TableStatusState>(word.into());
            assert!(read.is_ok(), "{word}");
        }
    }
}
