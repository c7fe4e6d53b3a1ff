//! The board: folds the engine's events into the [`Status`] that people see.
//!
//! Law 1: say what is true, or say unknown. A value of the source counts for [`STALE_AFTER`]; after
//! that it is `None`, with the reason and the last known value. Nothing starts as zero, and no run as
//! well: what its health is judged by has to be looked at by this run first ([`Board::health`]).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::catalogue::codes;
use crate::clock;
use crate::pipeline::observe::{Committed, PipelineEvent};
use crate::pipeline::protection::used_percent;
use crate::position::Position;
use crate::source::LogState;
use crate::status::{
    By, Health, LastKnown, PipelineState, SlotStatus, StageLatency, Status, StatusError,
    TableStatus, TableStatusState, Trend, Verified,
};

use forecast::Forecast;
use tables::{Row, Tables};

mod forecast;
mod tables;
#[cfg(test)]
mod tests;

/// How long a measurement of the source counts, and an answer of the target.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// Heartbeats that may be on their way.
const BEATS_MAX: usize = 10_000;

/// How far back the trend looks.
const TREND_WINDOW: Duration = Duration::from_mins(1);

/// A change of the gap that is worth a word, in bytes.
const TREND_BYTES: u64 = 256 << 10;

/// So much of what a slot may keep is worth a person's look.
const MUCH_PERCENT: u64 = 80;

/// See the module's text.
#[derive(Debug)]
pub struct Board {
    status: Status,
    tables: Tables,
    measured: Option<(Instant, LogState)>,
    measure_error: Option<String>,
    /// When the target answered last, where somebody asks it beside the line.
    answered: Option<Instant>,
    /// The source's clock minus ours, in microseconds.
    clock_offset_us: i64,
    latency: Option<Latency>,
    /// Commit time on the source of the oldest transaction that was received and is not in the target.
    unapplied_us: Option<i64>,
    /// Heartbeats on their way, by the source's clock, and the last that came back.
    beats: VecDeque<i64>,
    beat_us: Option<i64>,
    /// Whether this run has once received all that there was: before that, what waits on the source may be
    /// older than any heartbeat of it.
    was_level: bool,
    looked: Looked,
    gaps: VecDeque<(Instant, u64)>,
    has_warnings: bool,
    forecast: Forecast,
    max_retained_bytes: Option<u64>,
}

/// What this run has looked at once.
#[derive(Debug, Default)]
struct Looked {
    /// What the target has recorded.
    at_target: bool,
    /// How far it is behind.
    at_lag: bool,
}

/// A latency, as measured when something came in or nothing was left.
#[derive(Clone, Copy, Debug)]
struct Latency {
    at: Instant,
    seconds: f64,
    stages: Option<StageLatency>,
}

impl Board {
    /// A board that knows nothing yet.
    pub fn new(pipeline: impl Into<String>, mode: impl Into<String>) -> Board {
        Board {
            status: Status {
                state: PipelineState::Starting,
                ..Status::unknown(pipeline, mode)
            },
            tables: Tables::default(),
            measured: None,
            measure_error: None,
            answered: None,
            clock_offset_us: 0,
            latency: None,
            unapplied_us: None,
            beats: VecDeque::new(),
            beat_us: None,
            was_level: false,
            looked: Looked::default(),
            gaps: VecDeque::new(),
            has_warnings: false,
            forecast: Forecast::default(),
            max_retained_bytes: None,
        }
    }

    /// How much log the source may keep for the pipeline.
    pub fn set_max_retained(&mut self, bytes: Option<u64>) {
        self.max_retained_bytes = bytes;
    }

    /// What is known from an earlier run.
    pub fn set_checkpoint(&mut self, load_position: Position, position: Position) {
        self.status.position_type = Some(position.kind().to_owned());
        self.status.full_load_lsn = Some(load_position);
        self.status.processed_lsn = Some(position);
    }

    /// The result of a verification.
    pub fn set_verified(&mut self, verified: Verified) {
        self.status.verified = Some(verified);
        self.status.unverified = None;
    }

    /// The copy is to be compared after its load, and could not be.
    pub fn set_unverified(&mut self, error: &crate::Error) {
        self.status.unverified = Some(format!("{}: {error}", error.code()));
    }

    /// In which state it is.
    pub fn state_now(&self) -> PipelineState {
        self.status.state
    }

    /// The target answers, to somebody beside the line.
    pub fn target_answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// Takes an event in.
    pub fn take(&mut self, event: &PipelineEvent, now: Instant) {
        match event {
            PipelineEvent::State { state, reason, by } => {
                self.state(*state, reason.clone(), *by);
            }
            PipelineEvent::LoadPosition(position) => {
                self.set_checkpoint(*position, *position);
                // What was written before the log was opened does not come back.
                self.beats.clear();
                // What was compared is not what will be there.
                self.status.verified = None;
                self.status.unverified = None;
            }
            PipelineEvent::Checkpoint {
                load_position,
                position,
            } => self.set_checkpoint(*load_position, *position),
            PipelineEvent::Recorded {
                tables,
                quarantined,
            } => {
                self.tables.recorded(tables, quarantined);
                self.looked.at_target = true;
            }
            PipelineEvent::Table(outline) => self.tables.outline(outline),
            PipelineEvent::LoadProgress { table, rows, bytes } => {
                self.tables.row(table, |row| row.copied(*rows, *bytes));
            }
            PipelineEvent::LoadTakenBack { table, rows, bytes } => {
                self.tables.row(table, |row| row.taken_back(*rows, *bytes));
            }
            PipelineEvent::UnitLoaded { table, .. } => {
                self.tables.row(table, Row::unit_loaded);
                self.status.error = None;
            }
            PipelineEvent::TableFinished { table } => self.tables.row(table, |row| {
                row.is_copying = false;
                row.status.rows_estimated = Some(row.status.rows_loaded);
            }),
            PipelineEvent::Reconciled { table, found } => {
                self.tables.row(table, |row| row.reconciled(found));
            }
            PipelineEvent::TableState {
                table,
                state,
                reason,
            } => self
                .tables
                .row(table, |row| row.change(*state, reason.as_ref())),
            PipelineEvent::LeftOut { table, reason } => {
                self.tables.row(table, |row| row.leave_out(reason.as_ref()));
            }
            PipelineEvent::TablePassed { table } => {
                self.tables.row(table, |row| row.is_catching_up = false);
            }
            PipelineEvent::Received(position) => {
                self.status.received_lsn = Some(*position);
                self.received(*position);
            }
            PipelineEvent::Committed(committed) => self.committed(committed, now),
            PipelineEvent::Acknowledged(position) => self.status.confirmed_lsn = Some(*position),
            PipelineEvent::Unapplied(oldest) => {
                self.unapplied_us = *oldest;
                self.looked.at_lag |= oldest.is_some();
            }
            PipelineEvent::HeartbeatWritten { written_at_us } => {
                let is_back = self.beat_us >= Some(*written_at_us);
                if !is_back && self.beats.len() < BEATS_MAX {
                    self.beats.push_back(*written_at_us);
                }
            }
            PipelineEvent::Heartbeat { written_at_us } => {
                self.beat_us = self.beat_us.max(Some(*written_at_us));
                self.was_level = true;
                self.beats.retain(|beat| beat > written_at_us);
                let seconds = self.age(*written_at_us);
                self.measured_latency(now, seconds, None);
            }
            PipelineEvent::Measured(Ok(log)) => self.measured(log, now),
            PipelineEvent::Measured(Err(err)) => {
                self.measure_error = Some(err.code().to_string());
            }
            PipelineEvent::Retry { error, .. } => {
                self.status.totals.retries += 1;
                self.wrong(StatusError::of(error));
            }
            PipelineEvent::Failed(error) => {
                let reason = Some(error.message.clone());
                self.state(PipelineState::Failed, reason, By::Engine);
                self.wrong(error.clone());
            }
            PipelineEvent::Quarantined(tables) => self.tables.quarantined(tables),
            PipelineEvent::Warning { .. } => self.has_warnings = true,
            PipelineEvent::Step { .. }
            | PipelineEvent::Checked(_)
            | PipelineEvent::Loaded { .. }
            | PipelineEvent::SchemaChanged { .. }
            | PipelineEvent::NewTable { .. } => {}
        }
    }

    /// The status as of now.
    pub fn status(&self, now: Instant) -> Status {
        let mut status = self.status.clone();
        status.measured_at = clock::now();
        self.source_side(&mut status, now);
        let is_silent = self.is_target_silent(now);
        if let Some(seconds) = self.behind() {
            status.latency_seconds = Some(seconds);
        } else if let Some(latency) = self.measured_lately(now) {
            status.latency_seconds = Some(latency.seconds);
            status.latency_by_stage_seconds = latency.stages;
        } else if let Some(error) = &status.error {
            status
                .unknown_reason
                .get_or_insert_with(|| error.code.clone());
        }
        if is_silent && status.error.is_none() {
            let code = codes::TARGET_UNREACHABLE.to_string();
            status.unknown_reason.get_or_insert(code);
        }
        status.trend = self.trend();
        status.tables = self.tables.statuses();
        status.health = match self.health(&status) {
            Health::Error => Health::Error,
            _ if is_silent => Health::Unknown,
            health => health,
        };
        if status.health == Health::Unknown && status.unknown_reason.is_none() {
            let why = self.unlooked(&status).map(str::to_owned);
            status.reason = status.reason.or(why);
        }
        status
    }

    /// Whether the target has not answered for long. What waits in it may be in or not.
    fn is_target_silent(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now - at > STALE_AFTER)
    }

    /// How long ago the latency was measured that a status of now tells; `None` where it tells none.
    pub fn latency_age(&self, now: Instant) -> Option<Duration> {
        match self.behind() {
            // What is not in ages with the clock.
            Some(_) => Some(Duration::ZERO),
            None => self.measured_lately(now).map(|latency| now - latency.at),
        }
    }

    /// What was measured when something came in. Heartbeats come back from the source, and say nothing
    /// of a target that is silent.
    fn measured_lately(&self, now: Instant) -> Option<Latency> {
        let is_known = |latency: &Latency| now - latency.at <= STALE_AFTER;
        self.latency
            .filter(|latency| is_known(latency) && !self.is_target_silent(now))
    }

    /// How old the oldest transaction of a commit is that was just made, and where it spent that time;
    /// `None` for a position alone.
    pub fn latency_of(&self, committed: &Committed) -> Option<(Duration, StageLatency)> {
        let age = self.age(committed.oldest_commit_us?);
        let (queue, apply) = (committed.queued.as_secs_f64(), committed.took.as_secs_f64());
        let read = (age - queue - apply).max(0.0);
        let stages = StageLatency { read, queue, apply };
        Some((Duration::try_from_secs_f64(age).ok()?, stages))
    }

    /// Age of the oldest thing that is on the source, as far as we know, and not in the target: it grows
    /// while nothing comes in.
    fn behind(&self) -> Option<f64> {
        let beat = self.beats.front().filter(|_| self.was_level);
        let oldest = self.unapplied_us.into_iter().chain(beat.copied());
        oldest.min().map(|oldest_us| self.age(oldest_us))
    }

    fn measured_latency(&mut self, at: Instant, seconds: f64, stages: Option<StageLatency>) {
        self.looked.at_lag = true;
        self.latency = Some(Latency {
            at,
            seconds,
            stages,
        });
    }

    fn source_side(&self, status: &mut Status, now: Instant) {
        let Some((at, log)) = &self.measured else {
            status.unknown_reason.clone_from(&self.measure_error);
            return;
        };
        let age = now.duration_since(*at);
        if age > STALE_AFTER {
            let silent = || codes::SOURCE_UNREACHABLE.to_string();
            let why = self.measure_error.clone().unwrap_or_else(silent);
            status.unknown_reason = Some(why);
            status.last_known = Some(LastKnown {
                source_lsn: log.head,
                seconds_ago: age.as_secs_f64(),
            });
            return;
        }
        // What came out of the log since then was in it.
        let seen = [status.received_lsn, status.processed_lsn];
        let head =
            seen.into_iter()
                .flatten()
                .fold(log.head, |head, seen| match seen.bytes_since(head) {
                    Some(more) if more > 0 => seen,
                    _ => head,
                });
        status.source_lsn = Some(head);
        status.position_type = Some(head.kind().to_owned());
        status.gap_bytes = status.processed_lsn.and_then(|done| head.bytes_since(done));
        if let Some(slot) = &log.slot {
            status.restart_lsn = Some(slot.restart);
            let lasts = |left: u64| {
                let lasts = i64::try_from(self.forecast.lasts(left)?.as_micros()).ok()?;
                Some(clock::rfc3339(clock::now_us().checked_add(lasts)?))
            };
            let safe_bytes = slot.safe_bytes.and_then(|safe| u64::try_from(safe).ok());
            let budget = self.max_retained_bytes;
            let to_budget = budget.and_then(|budget| budget.checked_sub(slot.retained_bytes));
            status.slot = Some(SlotStatus {
                max_retained_bytes: budget,
                retained_bytes_per_second: self.forecast.bytes_per_second(),
                predicted_loss_at: safe_bytes.and_then(lasts),
                predicted_over_at: to_budget.and_then(lasts),
                relayed: log.relayed.as_deref().cloned(),
                ..SlotStatus::of(slot, &log.pins)
            });
        }
    }

    /// What is wrong for certain comes first; then whether all is known that may be wrong.
    fn health(&self, status: &Status) -> Health {
        let is_quarantined = |table: &TableStatus| table.state == TableStatusState::Quarantined;
        let is_done = status.state == PipelineState::Completed;
        if status.state == PipelineState::Failed || status.tables.iter().any(is_quarantined) {
            Health::Error
        } else if !is_done && status.source_lsn.is_none() || self.unlooked(status).is_some() {
            Health::Unknown
        } else if status.error.is_some()
            // The copy falls behind, and the source keeps its log for it.
            || status.state == PipelineState::Stopped
            || status.totals.conflicts > 0
            || self.keeps_much(status)
            || takes_no_more(status)
            || status.unverified.is_some()
            || status.tables.iter().any(|table| table.quarantined > 0)
        {
            Health::Warning
        } else if self.has_warnings || status.state == PipelineState::Paused {
            Health::Notice
        } else {
            Health::Ok
        }
    }

    /// What this run has not looked at yet of that by which it is judged. How far a load, or a pipeline
    /// that a person has paused, is behind is not asked.
    fn unlooked(&self, status: &Status) -> Option<&'static str> {
        let (runs, streams) = match status.state {
            PipelineState::Stopped | PipelineState::Completed | PipelineState::Failed => {
                (false, false)
            }
            PipelineState::Streaming | PipelineState::CatchingUp => (true, true),
            _ => (true, false),
        };
        if runs && self.measured.is_none() && self.measure_error.is_none() {
            Some("the source was not looked at yet")
        } else if runs && !self.looked.at_target {
            Some("what the target has was not read yet")
        } else if streams && !self.looked.at_lag {
            Some("how far it is behind was not measured yet")
        } else {
            None
        }
    }

    /// Whether the source keeps much of what it may keep for us.
    fn keeps_much(&self, status: &Status) -> bool {
        let measured = self.measured.as_ref().filter(|_| status.slot.is_some());
        let slot = measured.and_then(|(_, log)| log.slot.as_ref());
        let used = slot.and_then(|slot| used_percent(slot, self.max_retained_bytes));
        used.is_some_and(|percent| percent >= MUCH_PERCENT)
    }

    fn trend(&self) -> Trend {
        let (Some((first_at, first)), Some((last_at, last))) =
            (self.gaps.front(), self.gaps.back())
        else {
            return Trend::Unknown;
        };
        if last_at.duration_since(*first_at) < Duration::from_secs(5) {
            return Trend::Unknown;
        }
        if *last <= TREND_BYTES || first.abs_diff(*last) <= TREND_BYTES {
            Trend::Holding
        } else if last < first {
            Trend::CatchingUp
        } else {
            Trend::FallingBehind
        }
    }

    fn state(&mut self, state: PipelineState, reason: Option<String>, by: By) {
        if state != self.status.state {
            self.status.since = clock::now();
        }
        self.status.state = state;
        self.status.reason = reason;
        self.status.by = by;
    }

    /// Something is wrong, since whatever was wrong before is.
    fn wrong(&mut self, error: StatusError) {
        let error = error.of_pipeline(&self.status.pipeline);
        self.latency = None;
        let known = self.status.error.take();
        self.status.error = Some(StatusError {
            since: known.map_or_else(|| error.since.clone(), |known| known.since),
            ..error
        });
    }

    /// A source that answers is well. Whether the rest is shows when what it sent is in the target.
    fn received(&mut self, position: Position) {
        // All that was there when the source was looked at, so none of it is older than that look.
        let seen = self.measured.as_ref().map(|(_, log)| log.head);
        self.looked.at_lag |= seen.is_some_and(|head| position >= head);
        let is_in = self.status.processed_lsn >= Some(position);
        let is_over = |error: &mut StatusError| is_in || error.code.starts_with("TM1");
        drop(self.status.error.take_if(is_over));
    }

    fn measured(&mut self, log: &LogState, now: Instant) {
        self.clock_offset_us = log.clock_us - clock::now_us();
        self.measure_error = None;
        if let Some(gap) = self
            .status
            .processed_lsn
            .and_then(|done| log.head.bytes_since(done))
        {
            self.gaps.push_back((now, gap));
        }
        while self
            .gaps
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > TREND_WINDOW)
        {
            self.gaps.pop_front();
        }
        let is_received = self
            .status
            .received_lsn
            .is_some_and(|received| received >= log.head);
        self.was_level |= is_received;
        if is_received && self.unapplied_us.is_none() {
            self.beats.retain(|beat| *beat > log.clock_us);
            self.measured_latency(now, 0.0, None);
        }
        match &log.slot {
            Some(slot) => self.forecast.saw(slot.retained_bytes, now),
            None => self.forecast = Forecast::default(),
        }
        self.measured = Some((now, log.clone()));
    }

    fn committed(&mut self, committed: &Committed, now: Instant) {
        self.status.error = None;
        self.status.processed_lsn = Some(committed.position);
        let totals = &mut self.status.totals;
        totals.transactions += committed.transactions;
        totals.inserts += committed.applied.inserts;
        totals.updates += committed.applied.updates;
        totals.deletes += committed.applied.deletes;
        totals.conflicts += committed
            .applied
            .conflicts
            .iter()
            .map(|(_, count)| count)
            .sum::<u64>();
        if let Some((age, stages)) = self.latency_of(committed) {
            self.measured_latency(now, age.as_secs_f64(), Some(stages));
        }
        for (table, count) in &committed.changes {
            self.tables.row(table, |row| row.status.changes += count);
        }
        for (table, count) in &committed.parked {
            self.tables.row(table, |row| row.status.parked += count);
        }
        for (table, count) in &committed.applied.conflicts {
            self.tables.row(table, |row| row.status.conflicts += count);
        }
    }

    /// How old a time of the source's clock is, in seconds; never negative.
    fn age(&self, source_us: i64) -> f64 {
        let age_us = clock::now_us() + self.clock_offset_us - source_us;
        (age_us as f64 / 1e6).max(0.0)
    }
}

/// Whether the relay log should keep the source's log, and does not.
fn takes_no_more(status: &Status) -> bool {
    let relayed = status.slot.as_ref().and_then(|slot| slot.relayed.as_ref());
    relayed.is_some_and(|relayed| relayed.stopped.is_some())
}
