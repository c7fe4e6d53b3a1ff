//! How a pipeline runs: numbers and policies, taken from the pipeline file by the binary.

use std::time::Duration;

use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::TableName;
use crate::target::Existing;

use super::Engine;
use super::plan::{CdcStart, Mode};

pub use crate::config::choice::{NewTables, OnConflict, OnMaxRetained, OnSchemaChange, OnTruncate};

/// Everything about a run that is not source, target or mapping. Its default is for what no pipeline file says,
/// and for tests; what a file says by default is in [`crate::config`].
#[derive(Clone, Debug)]
pub struct Options {
    /// What the pipeline does.
    pub mode: Mode,
    /// Where `cdc_only` starts.
    pub cdc_start: CdcStart,
    /// When the run ends.
    pub until: Until,
    /// What the run reconciles before it goes on.
    pub reconcile: Reconcile,
    /// For tables that are on the target already.
    pub existing: Existing,
    /// Whether missing tables are made.
    pub create_tables: bool,
    /// What becomes of schema changes.
    pub on_schema_change: OnSchemaChange,
    /// What becomes of tables that appear and match the patterns.
    pub new_tables: NewTables,
    /// What becomes of a change that meets another row than the log implies.
    pub on_conflict: OnConflict,
    /// What becomes of a truncate.
    pub on_truncate: OnTruncate,
    /// Tables that are loaded at once.
    pub parallel_tables: usize,
    /// Chunks of one table that are loaded at once.
    pub parallel_chunks: usize,
    /// About how large a chunk is, in bytes on the source.
    pub chunk_bytes: u64,
    /// Rows read from the source in a second, all workers together; `None` for no limit.
    pub source_rows_per_second_max: Option<u64>,
    /// A batch is closed at this many changes, …
    pub batch_rows_max: usize,
    /// … or at this many bytes.
    pub batch_bytes_max: usize,
    /// How often a mark is written into the source's log.
    pub heartbeat_interval: Duration,
    /// How often the source's catalog is looked at for what no change announces.
    pub catalog_interval: Duration,
    /// After so many tables have come and gone on the source a run begins anew without them: of each it keeps
    /// some KiB, and the target's session its statements.
    pub gone_tables_max: usize,
    /// How often the source's log is looked at.
    pub measure_interval: Duration,
    /// How much log the source may keep for us, in bytes; `None` for no limit.
    pub max_retained_bytes: Option<u64>,
    /// What is done when that is used up.
    pub on_max_retained: OnMaxRetained,
    /// First wait before trying again; doubles up to `retry_wait_max`.
    pub retry_wait_min: Duration,
    /// Longest wait before trying again.
    pub retry_wait_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Mode::FullLoadAndCdc,
            cdc_start: CdcStart::Now,
            until: Until::Stopped,
            reconcile: Reconcile::Nothing,
            existing: Existing::LoadIfEmpty,
            create_tables: true,
            on_schema_change: OnSchemaChange::ApplyAdditive,
            new_tables: NewTables::Notify,
            on_conflict: OnConflict::Count,
            on_truncate: OnTruncate::Apply,
            parallel_tables: 2,
            parallel_chunks: 2,
            chunk_bytes: 128 << 20,
            source_rows_per_second_max: None,
            batch_rows_max: 20_000,
            batch_bytes_max: 16 << 20,
            heartbeat_interval: Duration::from_secs(10),
            catalog_interval: Duration::from_secs(20),
            gone_tables_max: 1_000,
            measure_interval: Duration::from_secs(2),
            max_retained_bytes: None,
            on_max_retained: OnMaxRetained::Fail,
            retry_wait_min: Duration::from_millis(200),
            retry_wait_max: Duration::from_secs(8),
        }
    }
}

impl Engine {
    /// About how large a chunk of a table is to be, in bytes on the source.
    pub(super) fn chunk_bytes(&self, mapping: &TableMapping) -> u64 {
        let default = self.options.chunk_bytes;
        self.rules.chunk_bytes(&mapping.schema, default).max(1)
    }
}

/// What is compared with the source as it is now, and brought to it, before a run goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reconcile {
    /// Nothing: a gap is refused.
    #[default]
    Nothing,
    /// Every table, and the log is opened anew: a gap is bridged.
    All,
    /// These tables; the log goes on where it was.
    Tables(Vec<TableName>),
}

/// When a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    /// Only when stopped (a full load alone ends when it is done).
    Stopped,
    /// When everything that had committed on the source at the end of the load is in the target.
    CaughtUp,
    /// When everything that committed before the position is in the target.
    Position(Position),
}
