//! The comparison that follows a load, and the one that `--until verified` waits for.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::json;
use tidemark_core::clock;
use tidemark_core::config::AfterLoad;
use tidemark_core::control::door::SharedBoard;
use tidemark_core::pipeline::Commander;
use tidemark_core::status::{PipelineState, TableStatusState, Verified};
use tidemark_core::verify::again;
use tidemark_core::verify::compare::{self, Depth, Outcome as Compared, Report};
use tokio::sync::watch;
use tracing::field::display;

use super::UntilArg;
use crate::output::numbers::{counted, duration};
use crate::output::{Answer, Verdict};
use crate::pipeline_file::Opened;
use crate::problem::Failure;
use crate::verbs::verify;

/// How often it is looked whether the stream has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is compared; `None` for nothing.
fn depth(opened: &Opened, until: Option<&UntilArg>) -> Option<Depth> {
    match (opened.config.verify.after_load, until) {
        (AfterLoad::Deep, _) | (AfterLoad::Off, Some(UntilArg::Verified)) => Some(Depth::Deep),
        (AfterLoad::Counts, _) => Some(Depth::Counts),
        (AfterLoad::Off, _) => None,
    }
}

/// Compares once the load of this run is in and the stream has caught up; with `--until verified`
/// also where an earlier run had loaded. Waits for ever where nothing is to be compared.
pub(super) async fn after_load(
    opened: &Opened,
    until: Option<&UntilArg>,
    commander: &Commander,
    board: &SharedBoard,
    mut loaded: watch::Receiver<bool>,
) -> Result<Report, Failure> {
    let Some(depth) = depth(opened, until).filter(|_| opened.config.mode.streams()) else {
        return std::future::pending().await;
    };
    if until != Some(&UntilArg::Verified) && loaded.wait_for(|is_loaded| *is_loaded).await.is_err()
    {
        return std::future::pending().await;
    }
    let is_awaited = until == Some(&UntilArg::Verified);
    let mut attempt = 0;
    let (began, report) = loop {
        until_comparable(opened, board, is_awaited).await;
        let began = Instant::now();
        let failure = match compared(opened, depth, commander).await {
            // The load began after the look.
            Ok(report) if is_awaited && report.is_early() => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Ok(report) => break (began, report),
            Err(failure) => failure,
        };
        if let Failure::Error(err) = &failure {
            let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
            board.set_unverified(err);
        }
        let pause = match &failure {
            Failure::Error(err) => again::pause(err, attempt),
            _ => None,
        };
        let (pipeline, what) = (opened.name(), failure.sentence());
        let code = failure.code().map(display);
        if let Some(pause) = pause {
            tracing::warn!(
                pipeline,
                code,
                attempt,
                wait_s = pause.as_secs_f64(),
                "the comparison was interrupted: {what}; it begins again in {}",
                duration(pause)
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
        } else if is_awaited {
            return Err(failure);
        } else {
            // Nobody waits for it, and what the engine copies meanwhile is as good as before.
            tracing::error!(
                pipeline,
                code,
                "the copy is not compared after its load: {what}; it is tried again in {}",
                duration(again::SELDOM)
            );
            tokio::time::sleep(again::SELDOM).await;
        }
    };
    board
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .set_verified(Verified {
            lsn: report.position,
            result: report.word().to_owned(),
            values: depth == Depth::Deep,
            at: clock::now(),
        });
    log(opened, &report, began.elapsed());
    Ok(report)
}

/// Waits until the pipeline streams; where the run is to end with the proof also until no table is being
/// loaded anew: ended before, the run would cut the load off, and so would every one after it.
async fn until_comparable(opened: &Opened, board: &SharedBoard, is_awaited: bool) {
    let mut is_told = false;
    loop {
        let status = {
            let board = board.lock().unwrap_or_else(PoisonError::into_inner);
            board.status(tokio::time::Instant::now())
        };
        if status.state == PipelineState::Streaming {
            let tables = status.tables.iter();
            let anew = tables.filter(|table| table.state == TableStatusState::Resyncing);
            let count = if is_awaited { anew.count() } else { 0 };
            if count == 0 {
                return;
            }
            if !is_told {
                let tables = counted(count as u64, "table");
                let pipeline = opened.name();
                tracing::info!(
                    pipeline,
                    "compares once {tables} that are loaded anew are in"
                );
                is_told = true;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn compared(opened: &Opened, depth: Depth, commander: &Commander) -> Result<Report, Failure> {
    let request = verify::request(opened, &[], depth).await?;
    let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
    Ok(compare::verify(source, target, commander, &request).await?)
}

/// The same for a full load, if it was asked for. It has no log in which both sides could meet, so the
/// source is read as it is now: one that has changed since would raise a false alarm unasked.
pub(super) async fn of_full_load(
    opened: &Opened,
    until: Option<&UntilArg>,
) -> Result<Option<Report>, Failure> {
    if until != Some(&UntilArg::Verified) {
        return Ok(None);
    }
    let Some(depth) = depth(opened, until) else {
        return Ok(None);
    };
    let began = Instant::now();
    let request = verify::request(opened, &[], depth).await?;
    let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
    let report = compare::verify_still(source, target, &request).await?;
    log(opened, &report, began.elapsed());
    Ok(Some(report))
}

/// The run's answer with what was proven.
pub(super) fn on_top(
    mut answer: Answer,
    report: Option<&Report>,
    opened: &Opened,
    until: Option<&UntilArg>,
) -> Answer {
    let wanted = until == Some(&UntilArg::Verified);
    let Some(report) = report else {
        // Stopped before it could be proven, or before it was where it was to go.
        let is_told = answer.data["status"]["by"] == "user";
        let is_short = match until {
            Some(UntilArg::Verified) => true,
            Some(UntilArg::CaughtUp | UntilArg::Position(_)) => is_told,
            None | Some(UntilArg::Elapsed(_) | UntilArg::At(_) | UntilArg::Eof) => false,
        };
        let verdict = if is_short {
            Verdict::Negative
        } else {
            answer.verdict
        };
        return answer.verdict(verdict);
    };
    answer.data["verified"] = json!({
        "lsn": report.position, "result": report.word(), "rows": report.rows(),
    });
    let glyph = if report.is_identical() { "✓" } else { "✗" };
    answer.text = format!(
        "{glyph} verified: {} {} at {}\n{}",
        counted(report.rows(), "row"),
        report.word(),
        report.position,
        answer.text
    );
    if wanted && !report.is_identical() {
        let answer = verify::note_what_moves(answer, &verify::Subject::of(opened));
        return answer
            .verdict(Verdict::Negative)
            .notice(format!("which rows: tidemark verify {}", opened.word()));
    }
    answer
}

fn log(opened: &Opened, report: &Report, took: Duration) {
    let (pipeline, rows, lsn) = (opened.name(), report.rows(), report.position);
    let duration_s = took.as_secs_f64();
    if report.is_identical() {
        tracing::info!(
            pipeline, rows, lsn = %lsn, duration_s, "verified: {} identical at {lsn}",
            counted(rows, "row")
        );
        return;
    }
    for table in report
        .tables
        .iter()
        .filter(|table| table.outcome != Compared::Identical)
    {
        let name = &table.source;
        if let Compared::NotCompared(why) = &table.outcome {
            tracing::warn!(pipeline, table = %name, lsn = %lsn, "not verified: {why}");
        } else {
            tracing::error!(
                pipeline, table = %name, lsn = %lsn, different = table.different,
                "verified: {} different", counted(table.different, "row")
            );
        }
    }
}
