//! The engine's events as log lines and progress.
//!
//! Steps and changes of state are logged with the pipeline's name, so that a log alone tells what
//! happened. Rows in flight are progress: a live region on a terminal, elsewhere a line now and then.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tidemark_core::checkpoint::TableState;
use tidemark_core::control::door::SharedBoard;
use tidemark_core::finding::{Finding, Verdict};
use tidemark_core::pipeline::observe::PipelineEvent;
use tidemark_core::schema::TableName;
use tidemark_core::status::{By, PipelineState, Reconciled};
use tokio::sync::watch;

use crate::invocation::Invocation;
use crate::logging::LogForm;
use crate::output::numbers::{counted, duration, grouped, short, time_of_day};
use crate::output::screen::Stream;
use crate::output::style::of_state;
use crate::output::zone::Zone;
use crate::output::{ProgressForm, Talk};
use crate::progress::{Progress, Room, StreamProgress, TableBegin, TableLine};

/// How often the live region is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(150);

/// See the module's text.
pub(super) struct Reporter {
    pipeline: String,
    talk: Talk,
    log_form: LogForm,
    progress: Arc<Mutex<Progress>>,
    loaded: watch::Sender<bool>,
    /// Tables whose changes are put aside at present.
    aside: HashSet<TableName>,
}

impl Reporter {
    /// A reporter, and where it tells that a load is in.
    pub(super) fn new(
        invocation: &Invocation,
        pipeline: &str,
    ) -> (Reporter, watch::Receiver<bool>) {
        let (loaded, is_loaded) = watch::channel(false);
        let reporter = Reporter {
            pipeline: pipeline.to_owned(),
            talk: invocation.talk.clone(),
            log_form: invocation.log_form,
            progress: Arc::default(),
            loaded,
            aside: HashSet::new(),
        };
        (reporter, is_loaded)
    }

    /// Draws the live region until told to stop; where there is none, nothing.
    pub(super) fn screen(
        &self,
        board: SharedBoard,
        mut stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let is_live = self.is_live();
        let (progress, talk) = (Arc::clone(&self.progress), self.talk.clone());
        async move {
            if !is_live {
                return;
            }
            let mut tick = tokio::time::interval(DRAW_EVERY);
            loop {
                tokio::select! {
                    _ = tick.tick() => draw(&progress, &board, &talk),
                    _ = stop.wait_for(|stopped| *stopped) => break,
                }
            }
            talk.screen.clear();
        }
    }

    fn is_live(&self) -> bool {
        self.talk.progress == ProgressForm::Live && self.log_form == LogForm::Text
    }

    /// Takes an event in.
    pub(super) fn take(&mut self, event: PipelineEvent) {
        let now = Instant::now();
        match event {
            PipelineEvent::LoadProgress { table, rows, bytes } => {
                self.progress()
                    .advance(&table.to_string(), rows, bytes, now);
                self.line(&table, now);
            }
            PipelineEvent::LoadTakenBack { table, rows, bytes } => {
                self.progress().take_back(&table.to_string(), rows, bytes);
            }
            PipelineEvent::UnitLoaded { table, .. } => self.progress().chunk(&table.to_string()),
            PipelineEvent::TableFinished { table } => {
                self.progress().finish(&table.to_string(), now);
                self.line(&table, now);
            }
            PipelineEvent::Table(outline) if outline.units_loaded < outline.units => {
                self.progress().begin(TableBegin {
                    name: outline.source.to_string(),
                    rows_estimated: outline.rows_estimated,
                    rows_loaded: outline.rows_loaded,
                    chunks: outline.units,
                    chunks_loaded: outline.units_loaded,
                });
            }
            event => self.log(event),
        }
    }

    fn log(&mut self, event: PipelineEvent) {
        let pipeline = self.pipeline.as_str();
        match event {
            PipelineEvent::Step { step, text } => {
                tracing::info!(pipeline, step = step.number(), "step {step}: {text}");
            }
            PipelineEvent::State { state, reason, by } => self.log_state(state, reason, by),
            PipelineEvent::Checked(findings) => self.log_findings(&findings),
            PipelineEvent::LoadPosition(position) => {
                tracing::info!(pipeline, lsn = %position, "full_load_lsn {position}");
            }
            PipelineEvent::Loaded { rows, took } => {
                self.loaded.send_replace(true);
                let time = duration(took);
                tracing::info!(
                    pipeline,
                    rows,
                    duration_s = took.as_secs_f64(),
                    "loaded {} in {time}",
                    counted(rows, "row")
                );
            }
            PipelineEvent::TableState {
                table,
                state,
                reason,
            } => {
                let reason = reason.map(|why| why.to_string());
                self.log_table(&table, state, reason.as_deref());
            }
            PipelineEvent::LeftOut { table, reason } => {
                self.log_left_out(&table, reason.as_deref());
            }
            PipelineEvent::Retry {
                error,
                wait,
                attempt,
            } => {
                tracing::warn!(
                    pipeline, code = %error.code(), attempt, wait_s = wait.as_secs_f64(),
                    error = %error, "{error}; tries again in {}", duration(wait)
                );
            }
            PipelineEvent::SchemaChanged { table, text } => {
                tracing::info!(pipeline, table = %table, "schema changed: {text}");
            }
            PipelineEvent::NewTable { table, text } => {
                tracing::warn!(pipeline, table = %table, "new table: {text}");
            }
            PipelineEvent::Warning { code, text } => {
                tracing::warn!(pipeline, code = %code, "{text}");
            }
            PipelineEvent::Reconciled { table, found } => {
                tracing::info!(
                    pipeline, table = %table, lsn = %found.lsn, rows = found.rows_moved,
                    bytes = found.bytes_moved, "reconciled {table}: {}", in_words(&found)
                );
            }
            PipelineEvent::TablePassed { table } => {
                tracing::debug!(pipeline, table = %table, "the stream has passed the load");
            }
            PipelineEvent::Committed(committed) => {
                tracing::trace!(
                    pipeline, lsn = %committed.position, transactions = committed.transactions,
                    duration_s = committed.took.as_secs_f64(), "committed"
                );
            }
            PipelineEvent::Measured(Err(err)) => {
                tracing::debug!(pipeline, code = %err.code(), error = %err, "source not measured");
            }
            // Its code comes back as the run's own error, and is said once, there.
            PipelineEvent::Failed(error) => {
                self.log_state(PipelineState::Failed, Some(error.message), By::Engine);
            }
            PipelineEvent::Checkpoint { .. }
            | PipelineEvent::Recorded { .. }
            | PipelineEvent::Table(_)
            | PipelineEvent::Received(_)
            | PipelineEvent::Unapplied(_)
            | PipelineEvent::Quarantined(_)
            | PipelineEvent::Acknowledged(_)
            | PipelineEvent::HeartbeatWritten { .. }
            | PipelineEvent::Heartbeat { .. }
            | PipelineEvent::Measured(Ok(_))
            | PipelineEvent::LoadProgress { .. }
            | PipelineEvent::LoadTakenBack { .. }
            | PipelineEvent::UnitLoaded { .. }
            | PipelineEvent::TableFinished { .. } => {}
        }
    }

    fn log_state(&self, state: PipelineState, reason: Option<String>, by: By) {
        let pipeline = self.pipeline.as_str();
        if state != PipelineState::Loading {
            self.progress().forget_load();
        }
        let word = of_state(state).0;
        let by = format!("{by:?}").to_lowercase();
        let reason = reason.unwrap_or_default();
        let why = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        tracing::info!(
            pipeline,
            state = word,
            by,
            reason,
            "state {word}, by {by}{why}"
        );
    }

    fn log_table(&mut self, table: &TableName, state: TableState, reason: Option<&str>) {
        let was_aside = if state.is_parked() {
            !self.aside.insert(table.clone())
        } else {
            self.aside.remove(table)
        };
        let pipeline = self.pipeline.as_str();
        let reason = reason.unwrap_or_default();
        match state {
            TableState::Quarantined | TableState::Unloaded => {
                tracing::error!(pipeline, table = %table, reason, "table quarantined: {reason}");
            }
            TableState::Streaming | TableState::Loading | TableState::Done => {
                let word = format!("{state:?}").to_lowercase();
                if was_aside {
                    tracing::info!(pipeline, table = %table, "table {word} again");
                } else {
                    tracing::debug!(pipeline, table = %table, "table {word}");
                }
            }
            TableState::Resyncing | TableState::Paused => {
                let word = format!("{state:?}").to_lowercase();
                tracing::info!(pipeline, table = %table, reason, "table {word}");
            }
        }
    }

    fn log_left_out(&self, table: &TableName, reason: Option<&str>) {
        let pipeline = self.pipeline.as_str();
        if let Some(reason) = reason {
            tracing::warn!(pipeline, table = %table, reason, "table left out: {reason}");
        } else {
            tracing::info!(pipeline, table = %table, "table followed again");
        }
    }

    fn log_findings(&self, findings: &[Finding]) {
        let pipeline = self.pipeline.as_str();
        for finding in findings {
            let (code, side, found) = (finding.code, finding.side, finding.found.as_str());
            match finding.verdict {
                Verdict::Failed => {
                    tracing::error!(pipeline, code = %code, side = %side, "check: {found}");
                }
                Verdict::Warning => {
                    tracing::warn!(pipeline, code = %code, side = %side, "check: {found}");
                }
                Verdict::Note | Verdict::Passed => {
                    tracing::debug!(pipeline, code = %code, side = %side, "check: {found}");
                }
            }
        }
    }

    /// Where there is no live region: a line, if it is time for one.
    fn line(&self, table: &TableName, now: Instant) {
        if self.is_live() || self.talk.progress == ProgressForm::Off {
            return;
        }
        let Some(line) = self.progress().line(&table.to_string(), now) else {
            return;
        };
        let text = plain(&line);
        match self.log_form {
            LogForm::Text => {
                let time = time_of_day(SystemTime::now(), Zone::local());
                self.talk
                    .screen
                    .write(Stream::Err, &format!("{time} {text}"));
            }
            LogForm::Json => {
                let pipeline = self.pipeline.as_str();
                tracing::info!(
                    pipeline,
                    table = line.table,
                    rows = line.rows,
                    percent = line.percent,
                    rows_per_second = line.rows_per_second,
                    duration_s = line.took.map(|took| took.as_secs_f64()),
                    "{text}"
                );
            }
        }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `3 missing, 1 changed, 0 extra; 4 rows copied`.
fn in_words(found: &Reconciled) -> String {
    let count = |rows: Option<u64>| rows.map_or_else(|| "unknown".to_owned(), grouped);
    let (missing, changed, extra) = (found.missing, found.changed, found.extra);
    let rows = counted(found.rows_moved, "row");
    format!(
        "{} missing, {} changed, {} extra; {rows} copied",
        count(missing),
        count(changed),
        count(extra)
    )
}

/// `load  public.orders   20 %   40 000 rows  128k/s`.
fn plain(line: &TableLine) -> String {
    let percent = line
        .percent
        .map_or_else(|| "  ? %".to_owned(), |percent| format!("{percent:>3} %"));
    let end = match (line.took, line.rows_per_second) {
        (Some(took), _) => duration(took),
        (None, Some(rate)) => format!("{}/s", short(rate)),
        (None, None) => String::new(),
    };
    let text = format!(
        "load  {:<24} {percent} {:>12} rows  {end}",
        line.table,
        grouped(line.rows)
    );
    text.trim_end().to_owned()
}

fn draw(progress: &Mutex<Progress>, board: &SharedBoard, talk: &Talk) {
    let status = {
        let board = board.lock().unwrap_or_else(PoisonError::into_inner);
        board.status(tokio::time::Instant::now())
    };
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let streams = matches!(
        status.state,
        PipelineState::CatchingUp | PipelineState::Streaming | PipelineState::Paused
    );
    progress.stream(streams.then(|| StreamProgress {
        state: of_state(status.state).0,
        gap_bytes: status.gap_bytes,
        latency_seconds: status.latency_seconds,
        transactions: status.totals.transactions,
        rows: status.totals.inserts + status.totals.updates + status.totals.deletes,
    }));
    let (width, lines) = talk.screen.room();
    let lines = progress.region(talk.err, Room { width, lines }, Instant::now());
    // Whoever has news of the run does not wait for a terminal.
    drop(progress);
    talk.screen.show(Stream::Err, lines);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_look_as_documented() {
        let line = TableLine {
            table: "public.orders".to_owned(),
            percent: Some(20),
            rows: 40_000,
            rows_per_second: Some(128_000),
            took: None,
        };
        assert_eq!(
            plain(&line),
            "load  public.orders             20 %       40 000 rows  128k/s"
        );
        let done = TableLine {
            percent: Some(100),
            took: Some(Duration::from_millis(2_200)),
            ..line
        };
        assert!(plain(&done).ends_with("100 %       40 000 rows  2.2 s"));
    }
}
