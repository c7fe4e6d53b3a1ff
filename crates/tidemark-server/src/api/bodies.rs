//! What goes out: types of the API's own, converted by hand, so that the engine's may change.

use serde::Serialize;
use tidemark_core::status::{SlotStatus, Status, StatusError, TableStatus, Verified};
use tidemark_core::{clock, config};
use utoipa::ToSchema;

use crate::store::PipelineRow;
use crate::supervisor::{Member, View, word_of};

/// A pipeline.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PipelineBody {
    pub(crate) id: String,
    pub(crate) mode: String,
    /// For people and lists, from its definition; `null` until that was read.
    pub(crate) tags: Option<Vec<String>>,
    /// `draft`, `checking`, `starting`, `loading`, `catching_up`, `streaming`, `paused`, `stopped`,
    /// `completed` or `failed`.
    pub(crate) state: String,
    pub(crate) since: String,
    pub(crate) reason: Option<String>,
    /// A name, `file`, `schedule` or `engine`.
    pub(crate) by: String,
    /// `ok`, `notice`, `warning`, `error` or `unknown`.
    pub(crate) health: String,
    /// `catching_up`, `holding`, `falling_behind` or `unknown`.
    pub(crate) trend: String,
    /// What is wanted: `draft`, `running`, `paused`, `stopped` or `completed`.
    pub(crate) desired_state: String,
    /// Where the source is, without secrets; `null` until its definition was read.
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    /// The consistent point of the first load.
    pub(crate) full_load_lsn: Option<String>,
    pub(crate) gap_bytes: Option<u64>,
    pub(crate) latency_seconds: Option<f64>,
    /// Tables by state.
    pub(crate) tables: Vec<TableCount>,
    /// Rows in quarantine; `null` as long as no table is known.
    pub(crate) rows_quarantined: Option<u64>,
    pub(crate) verified: Option<VerifiedBody>,
    /// Why the copy was not compared after its load, though it is to be: a code and a sentence.
    pub(crate) unverified: Option<String>,
    pub(crate) error: Option<ErrorBody>,
    /// The file that defines it; it is read-only here then.
    pub(crate) file: Option<String>,
    pub(crate) created_at: String,
    pub(crate) created_by: String,
    pub(crate) updated_at: String,
    /// What `If-Match` wants.
    pub(crate) etag: String,
}

/// How many tables are in a state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TableCount {
    pub(crate) state: String,
    pub(crate) count: usize,
}

/// What is wrong now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) code: String,
    pub(crate) message: String,
    /// What to do first.
    pub(crate) action: String,
    pub(crate) since: String,
}

/// A table.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TableBody {
    pub(crate) source: String,
    pub(crate) target: String,
    /// `queued`, `loading`, `catching_up`, `streaming`, `paused`, `resyncing`, `quarantined`, `done` or
    /// `excluded`.
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) rows_loaded: u64,
    /// `null` where there are no statistics.
    pub(crate) rows_estimated: Option<u64>,
    pub(crate) bytes_loaded: u64,
    pub(crate) chunks_loaded: u32,
    pub(crate) chunks: u32,
    /// Applied in this run.
    pub(crate) changes: u64,
    /// Put aside, in order, while the table is.
    pub(crate) parked: u64,
    /// Met another row than the log implies.
    pub(crate) conflicts: u64,
    /// Rows in quarantine.
    pub(crate) quarantined: u64,
}

/// Positions, gap and latency. What is not known is `null`, with the reason and what was known last.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Lag {
    pub(crate) pipeline_id: String,
    pub(crate) state: String,
    pub(crate) health: String,
    pub(crate) trend: String,
    pub(crate) position_type: Option<String>,
    /// The end of the source's log.
    pub(crate) source_lsn: Option<String>,
    pub(crate) received_lsn: Option<String>,
    /// Committed in the target.
    pub(crate) processed_lsn: Option<String>,
    /// Told to the source.
    pub(crate) confirmed_lsn: Option<String>,
    /// The oldest log that is kept for it.
    pub(crate) restart_lsn: Option<String>,
    /// `source_lsn - processed_lsn`.
    pub(crate) gap_bytes: Option<u64>,
    /// Age of the oldest transaction that is committed on the source and not in the target.
    pub(crate) latency_seconds: Option<f64>,
    pub(crate) latency_by_stage_seconds: Option<Stages>,
    pub(crate) slot: Option<SlotBody>,
    pub(crate) verified: Option<VerifiedBody>,
    /// Until the gap is closed, at the rate of the last minute; `null` where it does not shrink.
    pub(crate) eta_seconds: Option<f64>,
    pub(crate) measured_at: String,
    /// Whether the source's side of it is not of now.
    pub(crate) stale: bool,
    pub(crate) last_known: Option<LastKnownBody>,
    /// A catalogue code.
    pub(crate) unknown_reason: Option<String>,
}

/// Latency by stage.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Stages {
    pub(crate) read: f64,
    pub(crate) queue: f64,
    pub(crate) apply: f64,
}

/// What was known before it became unknown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LastKnownBody {
    pub(crate) source_lsn: String,
    pub(crate) at: String,
}

/// The last comparison of all tables.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct VerifiedBody {
    pub(crate) lsn: String,
    /// `identical`, `different` or `incomplete`.
    pub(crate) result: String,
    pub(crate) at: String,
}

/// A slot.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SlotBody {
    pub(crate) name: String,
    pub(crate) active: bool,
    pub(crate) wal_status: String,
    pub(crate) retained_bytes: u64,
    /// Log that may be written before it is lost; `null` without a limit.
    pub(crate) safe_bytes: Option<i64>,
    pub(crate) max_retained_bytes: Option<u64>,
    pub(crate) retained_bytes_per_second: Option<f64>,
    /// When the server gives it up, at this rate; `null` where that is not known, or not to come.
    pub(crate) predicted_loss_at: Option<String>,
}

impl PipelineBody {
    pub(crate) fn of(member: &Member, view: &View) -> PipelineBody {
        let row = member.row();
        let status = &view.status;
        let route = member.route();
        let loaded_at = status.full_load_lsn.map(|lsn| lsn.to_string());
        PipelineBody {
            id: row.key.id.clone(),
            mode: row.mode.clone(),
            tags: member.tags(),
            state: view.state.clone(),
            since: view.since.clone(),
            reason: view.reason.clone(),
            by: view.by.clone(),
            health: word_of(&status.health),
            trend: word_of(&status.trend),
            desired_state: row.desired.state.word().to_owned(),
            source: route.as_ref().map(|(source, _)| source.clone()),
            target: route.map(|(_, target)| target),
            full_load_lsn: row.full_load_lsn.clone().or(loaded_at),
            gap_bytes: status.gap_bytes,
            latency_seconds: status.latency_seconds,
            tables: counts(status),
            rows_quarantined: rows_quarantined(status),
            verified: status.verified.as_ref().map(verified),
            unverified: status.unverified.clone(),
            error: status.error.as_ref().map(error),
            etag: etag(&row),
            file: row.file,
            created_at: row.created_at,
            created_by: row.created_by,
            updated_at: row.updated_at,
        }
    }
}

/// Changes with the definition.
pub(crate) fn etag(row: &PipelineRow) -> String {
    format!("\"{}-{}\"", row.version, row.updated_at)
}

/// A definition as it may be shown.
pub(crate) fn shown(text: &str) -> String {
    config::masked(text)
}

pub(crate) fn counts(status: &Status) -> Vec<TableCount> {
    let mut counts: Vec<TableCount> = Vec::new();
    for table in &status.tables {
        let state = word_of(&table.state);
        match counts.iter_mut().find(|count| count.state == state) {
            Some(count) => count.count += 1,
            None => counts.push(TableCount { state, count: 1 }),
        }
    }
    counts
}

/// Rows in quarantine; tables come with what they have there, so before any is known that is not known either.
pub(crate) fn rows_quarantined(status: &Status) -> Option<u64> {
    let rows = status.tables.iter().map(|table| table.quarantined).sum();
    (!status.tables.is_empty()).then_some(rows)
}

fn error(error: &StatusError) -> ErrorBody {
    ErrorBody {
        code: error.code.clone(),
        message: error.message.clone(),
        action: error.action.clone(),
        since: error.since.clone(),
    }
}

fn verified(verified: &Verified) -> VerifiedBody {
    VerifiedBody {
        lsn: verified.lsn.to_string(),
        result: verified.result.clone(),
        at: verified.at.clone(),
    }
}

pub(crate) fn slot(slot: &SlotStatus) -> SlotBody {
    SlotBody {
        name: slot.name.clone(),
        active: slot.active,
        wal_status: slot.wal_status.clone(),
        retained_bytes: slot.retained_bytes,
        safe_bytes: slot.safe_bytes,
        max_retained_bytes: slot.max_retained_bytes,
        retained_bytes_per_second: slot.retained_bytes_per_second,
        predicted_loss_at: slot.predicted_loss_at.clone(),
    }
}

pub(crate) fn table(table: &TableStatus) -> TableBody {
    TableBody {
        source: table.source.clone(),
        target: table.target.clone(),
        state: word_of(&table.state),
        reason: table.reason.clone(),
        rows_loaded: table.rows_loaded,
        rows_estimated: table.rows_estimated,
        bytes_loaded: table.bytes_loaded,
        chunks_loaded: table.chunks_loaded,
        chunks: table.chunks,
        changes: table.changes,
        parked: table.parked,
        conflicts: table.conflicts,
        quarantined: table.quarantined,
    }
}

/// See [`Lag`].
pub(crate) fn lag_of(member: &Member, view: &View) -> Lag {
    let status = &view.status;
    let text = |position: Option<tidemark_core::position::Position>| {
        position.map(|position| position.to_string())
    };
    let last_known = status.last_known.as_ref().map(|last| {
        let micros = std::time::Duration::from_secs_f64(last.seconds_ago.max(0.0)).as_micros();
        let ago = i64::try_from(micros).unwrap_or(i64::MAX);
        LastKnownBody {
            source_lsn: last.source_lsn.to_string(),
            at: clock::rfc3339(clock::now_us().saturating_sub(ago)),
        }
    });
    Lag {
        pipeline_id: member.key.id.clone(),
        state: view.state.clone(),
        health: word_of(&status.health),
        trend: word_of(&status.trend),
        position_type: status.position_type.clone(),
        source_lsn: text(status.source_lsn),
        received_lsn: text(status.received_lsn),
        processed_lsn: text(status.processed_lsn),
        confirmed_lsn: text(status.confirmed_lsn),
        restart_lsn: text(status.restart_lsn),
        gap_bytes: status.gap_bytes,
        latency_seconds: status.latency_seconds,
        latency_by_stage_seconds: status.latency_by_stage_seconds.map(|stages| Stages {
            read: stages.read,
            queue: stages.queue,
            apply: stages.apply,
        }),
        slot: status.slot.as_ref().map(slot),
        verified: status.verified.as_ref().map(verified),
        eta_seconds: view.eta_seconds,
        measured_at: status.measured_at.clone(),
        stale: view.state != "draft" && status.source_lsn.is_none(),
        last_known,
        unknown_reason: status.unknown_reason.clone(),
    }
}
