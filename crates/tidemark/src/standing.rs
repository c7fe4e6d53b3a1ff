//! How a pipeline stands, seen from outside: what it last reported, who runs it, what the target
//! has, and what the source says now.
//!
//! The running pipeline measures more than anyone outside can, so its report counts while it is
//! fresh. Without a fresh report the checkpoint in the target and the source's own word are put
//! together; what only the pipeline could know (latency, the trend) is then unknown, never zero.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_core::Result;
use tidemark_core::checkpoint::{Checkpoint, LoadPhase, TableCheckpoint, TableState, Unit};
use tidemark_core::clock;
use tidemark_core::control::Control;
use tidemark_core::pipeline::going_on;
use tidemark_core::pipeline::plan::Mode;
use tidemark_core::quarantine::{Kept, count};
use tidemark_core::schema::TableName;
use tidemark_core::source::{LogState, Source};
pub(crate) use tidemark_core::standing::{Life, Standing};
use tidemark_core::status::{
    By, Health, LastKnown, PipelineState, SlotStatus, Status, StatusError, TableStatus,
    TableStatusState, Trend,
};
use tidemark_core::target::{Owner, Target};
use tokio::time::{Instant, sleep};

/// A report that is older than this says nothing about now.
const REPORT_COUNTS_S: f64 = 10.0;

/// How often it is looked whether a run has its lock again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the target knows of a pipeline.
struct Heard {
    report: Option<Status>,
    /// Of the report, in seconds.
    age: Option<f64>,
    life: Life,
    checkpoint: Option<Checkpoint>,
    quarantined: Vec<(TableName, Kept)>,
}

/// Looks at both sides. The target must answer, since what counts is there; the source need not.
pub(crate) async fn look(
    pipeline: &str,
    mode: Mode,
    source: &Arc<dyn Source>,
    target: &Arc<dyn Target>,
) -> Result<Standing> {
    let mut control = target.control().await?;
    let mut heard = Heard::of(control.as_mut(), target).await?;
    while heard.may_come_back() && has_just_begun(control.as_mut()).await? {
        sleep(LOOK_EVERY).await;
        heard = Heard::of(control.as_mut(), target).await?;
    }
    if heard.is_of_now() {
        return Ok(heard.reported());
    }
    let log = source.log_state().await;
    if log.is_err() {
        // A silent source takes its time to be found so, and a run may have begun to report meanwhile.
        heard = Heard::of(control.as_mut(), target).await?;
        if heard.is_of_now() {
            return Ok(heard.reported());
        }
    }
    Ok(heard.with_log(pipeline, mode, &log))
}

/// Who runs a pipeline. A run that has just reported, and has no lock, may have lost it with its session, as
/// where the target restarts: it takes it again, and is waited for, though not for longer than a report counts:
/// one whose source is away reports on, and takes its lock when that is back.
pub(crate) async fn owner(control: &mut dyn Control) -> Result<Option<Owner>> {
    let began = Instant::now();
    loop {
        let owner = control.owner().await?;
        let reported = control.last_status().await?;
        let may_come = reported.is_some_and(|(status, age)| is_under_way(&status, age));
        if owner.is_some() || !may_come || began.elapsed().as_secs_f64() > REPORT_COUNTS_S {
            return Ok(owner);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Whether a run has said lately that it goes on.
fn is_under_way(status: &Status, age: f64) -> bool {
    age <= REPORT_COUNTS_S && !ends_by_itself(status.state)
}

fn ends_by_itself(state: PipelineState) -> bool {
    matches!(
        state,
        PipelineState::Stopped | PipelineState::Completed | PipelineState::Failed
    )
}

/// Whether the server of the target has begun since the last report that counts may have been made.
async fn has_just_begun(control: &mut dyn Control) -> Result<bool> {
    let up = control.up_for().await?;
    Ok(up.is_some_and(|seconds| seconds <= REPORT_COUNTS_S))
}

impl Heard {
    async fn of(control: &mut dyn Control, target: &Arc<dyn Target>) -> Result<Heard> {
        let reported = control.last_status().await?;
        let owner = control.owner().await?;
        let checkpoint = target.checkpoint().await?;
        let quarantined = count(&control.quarantined().await?);
        let (report, age) = reported.unzip();
        let life = match owner {
            Some(owner) => Life::Running(owner),
            None if checkpoint.is_none() && report.is_none() => Life::Draft,
            None => Life::Still,
        };
        Ok(Heard {
            report,
            age,
            life,
            checkpoint,
            quarantined,
        })
    }

    /// Whether a run has said lately how it stands.
    fn is_of_now(&self) -> bool {
        let is_fresh = self.age.is_some_and(|age| age <= REPORT_COUNTS_S);
        is_fresh && self.report.is_some() && matches!(self.life, Life::Running(_))
    }

    /// Whether a run that has no lock has said lately that it goes on.
    fn may_come_back(&self) -> bool {
        let report = self.report.as_ref().zip(self.age);
        self.life == Life::Still && report.is_some_and(|(status, age)| is_under_way(status, age))
    }

    /// As the run has said.
    fn reported(self) -> Standing {
        let mut status = self.report.expect("of now only with a report");
        // A run that went on with an earlier one's load reports what it has seen itself.
        if let Some(checkpoint) = &self.checkpoint {
            status.full_load_lsn.get_or_insert(checkpoint.load_position);
            status.processed_lsn.get_or_insert(checkpoint.position);
            let places = places(&status);
            for table in &checkpoint.tables {
                if !places.contains_key(&table.source.to_string()) {
                    status.tables.push(table_status(table, checkpoint));
                }
            }
        }
        take_quarantined(&mut status, &self.quarantined);
        // The target may tell of tables that the run has not read yet.
        if status.tables.iter().any(is_set_aside) {
            status.health = Health::Error;
        }
        Standing {
            status,
            life: self.life,
            report_age_seconds: self.age,
        }
    }

    /// Put together of what is recorded and what the source says.
    fn with_log(self, pipeline: &str, mode: Mode, log: &Result<LogState>) -> Standing {
        let unknown = || Status::unknown(pipeline, mode.name());
        let mut status = self.report.unwrap_or_else(unknown);
        forget_what_only_a_run_knows(&mut status);
        if let Some(checkpoint) = &self.checkpoint {
            take_checkpoint(&mut status, checkpoint);
        }
        take_quarantined(&mut status, &self.quarantined);
        take_log(&mut status, log, self.age.unwrap_or_default());
        settle_state(&mut status, &self.life, self.age);
        settle_health(&mut status, &self.life);
        if let (Life::Still, Some(checkpoint), Ok(log)) = (&self.life, &self.checkpoint, log) {
            take_refusal(&mut status, mode, checkpoint, log);
        }
        Standing {
            status,
            life: self.life,
            report_age_seconds: self.age,
        }
    }
}

fn forget_what_only_a_run_knows(status: &mut Status) {
    status.trend = Trend::Unknown;
    status.received_lsn = None;
    status.latency_seconds = None;
    status.latency_by_stage_seconds = None;
    status.measured_at = clock::now();
}

fn take_checkpoint(status: &mut Status, checkpoint: &Checkpoint) {
    status.position_type = Some(checkpoint.position.kind().to_owned());
    status.full_load_lsn = Some(checkpoint.load_position);
    status.processed_lsn = Some(checkpoint.position);
    let places = places(status);
    for table in &checkpoint.tables {
        let place = places.get(&table.source.to_string()).copied();
        match place.and_then(|place| status.tables.get_mut(place)) {
            Some(known) => {
                known.state = table_state(table, checkpoint);
                known.reason = table.reason.as_ref().map(ToString::to_string);
            }
            None => status.tables.push(table_status(table, checkpoint)),
        }
    }
}

/// Where each table is, by name on the source: there may be ten thousand.
fn places(status: &Status) -> HashMap<String, usize> {
    let tables = status.tables.iter().enumerate();
    tables
        .map(|(place, table)| (table.source.clone(), place))
        .collect()
}

/// What is in quarantine is what the target has there.
fn take_quarantined(status: &mut Status, quarantined: &[(TableName, Kept)]) {
    for table in &mut status.tables {
        let mut kept = quarantined.iter();
        let found = kept.find(|(name, _)| name.to_string() == table.source);
        table.quarantined = found.map_or(0, |(_, kept)| kept.rows);
    }
    let is_well = matches!(status.health, Health::Ok | Health::Notice);
    if is_well && status.tables.iter().any(|table| table.quarantined > 0) {
        status.health = Health::Warning;
    }
}

fn table_status(table: &TableCheckpoint, checkpoint: &Checkpoint) -> TableStatus {
    let loaded = table.units.iter().filter(|unit| unit.is_loaded);
    let (chunks_loaded, rows_loaded) = loaded.fold((0, 0), |(chunks, rows), unit| {
        (chunks + 1, rows + unit.rows)
    });
    TableStatus {
        source: table.source.to_string(),
        target: table.target.to_string(),
        state: table_state(table, checkpoint),
        reason: table.reason.as_ref().map(ToString::to_string),
        rows_loaded,
        rows_estimated: None,
        bytes_loaded: 0,
        chunks_loaded,
        chunks: u32::try_from(table.units.len()).unwrap_or(u32::MAX),
        changes: 0,
        parked: 0,
        conflicts: 0,
        reconciled: None,
        quarantined: 0,
    }
}

fn table_state(table: &TableCheckpoint, checkpoint: &Checkpoint) -> TableStatusState {
    let is_loading = checkpoint.phase == LoadPhase::Loading;
    let is_ahead = |unit: &Unit| {
        let tidemark = unit.tidemark.as_ref();
        tidemark.is_some_and(|mark| !mark.is_passed(checkpoint.position))
    };
    match table.state {
        TableState::Loading if is_loading && table.units.is_empty() => TableStatusState::Queued,
        TableState::Loading => TableStatusState::Loading,
        TableState::Streaming if table.units.iter().any(is_ahead) => TableStatusState::CatchingUp,
        TableState::Streaming => TableStatusState::Streaming,
        TableState::Resyncing => TableStatusState::Resyncing,
        TableState::Quarantined | TableState::Unloaded => TableStatusState::Quarantined,
        TableState::Paused => TableStatusState::Paused,
        TableState::Done => TableStatusState::Done,
    }
}

/// `age` is the report's, in seconds.
fn take_log(status: &mut Status, log: &Result<LogState>, age: f64) {
    let log = match log {
        Ok(log) => log,
        Err(err) => {
            // What was known before is told as that; nothing of it is of now.
            if let Some(source_lsn) = status.source_lsn.take() {
                status.last_known = Some(LastKnown {
                    source_lsn,
                    seconds_ago: age,
                });
            } else if let Some(known) = &mut status.last_known {
                known.seconds_ago += age;
            }
            status.gap_bytes = None;
            status.restart_lsn = None;
            status.confirmed_lsn = None;
            status.slot = None;
            status.unknown_reason = Some(err.code().to_string());
            let error = || StatusError::of(err).of_pipeline(&status.pipeline);
            status.error.get_or_insert_with(error);
            return;
        }
    };
    status.unknown_reason = None;
    status.last_known = None;
    status.source_lsn = Some(log.head);
    status.position_type = Some(log.head.kind().to_owned());
    status.gap_bytes = status
        .processed_lsn
        .and_then(|done| log.head.bytes_since(done));
    status.confirmed_lsn = log.slot.as_ref().map(|slot| slot.confirmed);
    status.restart_lsn = log.slot.as_ref().map(|slot| slot.restart);
    // How fast it grows is for a run to tell, which looks again and again.
    status.slot = log
        .slot
        .as_ref()
        .map(|slot| SlotStatus::of(slot, &log.pins));
}

/// The last reported state may be one that only a living process can be in.
fn settle_state(status: &mut Status, life: &Life, age: Option<f64>) {
    match (life, age) {
        (Life::Still, Some(age)) if !ends_by_itself(status.state) => {
            let was = crate::output::style::of_state(status.state).0;
            let ago = crate::output::numbers::seconds(age);
            status.state = PipelineState::Stopped;
            status.by = By::Engine;
            status.reason = Some(format!(
                "the process that ran it is gone without a word, or has lost the target; it was {was} \
                 {ago} ago"
            ));
        }
        (Life::Running(_), Some(age)) if age > REPORT_COUNTS_S => {
            let ago = crate::output::numbers::seconds(age);
            status.reason = Some(format!("it runs, but has not reported for {ago}"));
        }
        (Life::Running(_), None) => {
            status.state = PipelineState::Starting;
            status.reason = Some("it runs, and has not reported yet".to_owned());
        }
        _ => {}
    }
}

/// That no run can go on from the checkpoint is known before anybody tries.
fn take_refusal(status: &mut Status, mode: Mode, checkpoint: &Checkpoint, log: &LogState) {
    if let Some(err) = going_on::refusal(mode, checkpoint, log) {
        status.error = Some(StatusError::of(&err).of_pipeline(&status.pipeline));
        status.health = Health::Error;
    }
}

fn is_set_aside(table: &TableStatus) -> bool {
    table.state == TableStatusState::Quarantined
}

fn settle_health(status: &mut Status, life: &Life) {
    let is_lost = status
        .slot
        .as_ref()
        .is_some_and(|slot| slot.wal_status == "lost");
    status.health = match (life, status.state) {
        (Life::Draft, _) => Health::Notice,
        (_, PipelineState::Failed) => Health::Error,
        _ if is_lost || status.tables.iter().any(is_set_aside) => Health::Error,
        (Life::Running(_), _) => Health::Unknown,
        (_, PipelineState::Completed) => Health::Ok,
        _ if status.source_lsn.is_none() => Health::Unknown,
        // Not running: the copy falls behind, and the source keeps its log for it.
        _ => Health::Warning,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::Error;
    use tidemark_core::catalogue::codes;
    use tidemark_core::checkpoint::SourceIdentity;
    use tidemark_core::position::{Lsn, Position};

    fn at(lsn: u64) -> Position {
        Position::PgLsn(Lsn(lsn))
    }

    fn log(head: u64) -> LogState {
        LogState {
            is_standby: false,
            earlier_timelines: Vec::new(),
            identity: SourceIdentity {
                system: "1".into(),
                timeline: 1,
                database: "d".into(),
            },
            head: at(head),
            slot: None,
            clock_us: 0,
            running: Vec::new(),
            slot_made_by: None,
            committing: Vec::new(),
            pins: Vec::new(),
            relayed: None,
            other_target: None,
        }
    }

    fn reported(state: PipelineState) -> Status {
        Status {
            state,
            processed_lsn: Some(at(100)),
            latency_seconds: Some(0.0),
            health: Health::Ok,
            ..Status::unknown("shop", "full_load_and_cdc")
        }
    }

    fn settled(
        mut status: Status,
        life: &Life,
        log: &Result<LogState>,
        age: Option<f64>,
    ) -> Status {
        forget_what_only_a_run_knows(&mut status);
        take_log(&mut status, log, age.unwrap_or_default());
        settle_state(&mut status, life, age);
        settle_health(&mut status, life);
        status
    }

    #[test]
    fn a_process_that_is_gone_without_a_word_does_not_stream_any_more() {
        let status = reported(PipelineState::Streaming);
        let status = settled(status, &Life::Still, &Ok(log(700)), Some(42.0));
        assert_eq!(status.state, PipelineState::Stopped);
        assert_eq!(status.health, Health::Warning);
        assert_eq!(status.gap_bytes, Some(600));
        assert_eq!(status.latency_seconds, None, "only a run can measure it");
        assert!(status.reason.unwrap().contains("it was streaming 42 s ago"));
    }

    #[test]
    fn states_that_end_a_run_stay() {
        for (state, health) in [
            (PipelineState::Failed, Health::Error),
            (PipelineState::Completed, Health::Ok),
            (PipelineState::Stopped, Health::Warning),
        ] {
            let status = settled(reported(state), &Life::Still, &Ok(log(700)), Some(42.0));
            assert_eq!((status.state, status.health), (state, health));
        }
    }

    #[test]
    fn a_source_that_does_not_answer_is_unknown_never_zero() {
        let lost = || {
            Err(Error::transient(
                codes::SOURCE_UNREACHABLE,
                "connection refused",
            ))
        };
        let status = reported(PipelineState::Stopped);
        let status = settled(status, &Life::Still, &lost(), Some(42.0));
        assert_eq!(status.health, Health::Unknown);
        assert_eq!((status.source_lsn, status.gap_bytes), (None, None));
        assert_eq!(status.unknown_reason.as_deref(), Some("TM1001"));
        assert_eq!(status.last_known, None, "it never was");
        // What a run saw ages with its report.
        let mut seen = reported(PipelineState::Streaming);
        seen.source_lsn = Some(at(300));
        let mut status = settled(seen, &Life::Still, &lost(), Some(42.0));
        let known = |status: &Status| {
            status
                .last_known
                .clone()
                .map(|k| (k.source_lsn, k.seconds_ago))
        };
        assert_eq!(known(&status), Some((at(300), 42.0)));
        status = settled(status, &Life::Still, &lost(), Some(8.0));
        assert_eq!(known(&status), Some((at(300), 50.0)));
    }

    #[test]
    fn a_run_that_keeps_silent_is_not_trusted() {
        let life = Life::Running(Owner {
            host: "a".into(),
            pid: 7,
            lease: None,
        });
        let status = reported(PipelineState::Streaming);
        let status = settled(status, &life, &Ok(log(700)), Some(42.0));
        assert_eq!(status.health, Health::Unknown);
        assert!(status.reason.unwrap().contains("has not reported for 42 s"));
    }
}
