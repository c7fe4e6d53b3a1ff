//! `reconcile NAME`: bridge a gap. Both sides are compared, only the rows that differ are copied, and the
//! stream goes on from a new slot; then says what the gap had hidden. Shows the effect first.
//!
//! Where nobody runs the pipeline it is run here until it has caught up; one that runs is asked.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Checkpoint;
use tidemark_core::control::Command;
use tidemark_core::pipeline::options::{Options, Reconcile, Until};
use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::source::LogState;
use tidemark_core::status::{By, Reconciled, Status, TableStatusState};
use tidemark_core::target::Owner;
use tidemark_core::verify::compare::{self, Depth, Outcome as Compared, Report, Request};
use tidemark_core::verify::difference::DifferenceKind;

use crate::invocation::Invocation;
use crate::output::numbers::{bytes, counted, duration, grouped};
use crate::output::style::Tone;
use crate::output::table::{Cell, Column, Table};
use crate::output::waiting::during;
use crate::output::{Answer, Outcome, Verdict};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::verbs::control::{answered, ask, parse_table, wait_until_reported};
use crate::verbs::run::{LAST_STATUS_WITHIN, Running, UntilArg, options};
use crate::verbs::{resync, verify};

#[derive(Args, Clone, Debug)]
pub(crate) struct ReconcileArgs {
    #[command(flatten)]
    which: Which,
    /// Only this table of the source, as schema.table (may be repeated); the log goes on where it was
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Only report what differs
    #[arg(long)]
    dry_run: bool,
}

/// A report counts every difference, up to this many of a table.
const COUNTED_MAX: usize = 1_000_000;

pub(crate) async fn run(invocation: &Invocation, arguments: &ReconcileArgs) -> Outcome {
    let opened = Opened::open(invocation, &arguments.which)?;
    if !opened.config.mode.streams() {
        let why = "there is nothing to reconcile: a full load alone follows no log";
        let instead = format!("tidemark verify {} --repair", opened.word());
        return Err(Error::definite(codes::RECONCILE_NOTHING, why)
            .first_action(instead)
            .into());
    }
    let request = verify::request(&opened, &arguments.tables, Depth::Deep).await?;
    let Some(checkpoint) = opened.target.checkpoint().await? else {
        let why = format!(
            "there is nothing to reconcile: {} never started",
            opened.name()
        );
        return Err(Error::definite(codes::RECONCILE_NOTHING, why)
            .first_action(format!("tidemark run {}", opened.word()))
            .into());
    };
    let owner = opened.target.control().await?.owner().await?;
    let is_own = owner.is_none() && !arguments.dry_run;
    let asked = async {
        match owner {
            owner if arguments.dry_run => {
                report(invocation, &opened, request.clone(), owner.is_some()).await
            }
            Some(owner) => elsewhere(invocation, &opened, &request, &owner).await,
            // A run of our own brings itself to an end.
            None => here(invocation, &opened, arguments, &request, &checkpoint).await,
        }
    };
    tokio::select! {
        outcome = Box::pin(asked) => outcome,
        failure = cut_off(invocation), if !is_own => Err(failure),
    }
}

/// Returns when whoever waits here is to wait no more.
async fn cut_off(invocation: &Invocation) -> Failure {
    tokio::select! {
        late = invocation.late() => late,
        name = invocation.signals.stop() => Failure::Signalled(
            name.exit(),
            "interrupted; what was agreed to already is done all the same: tidemark status tells"
                .to_owned(),
        ),
    }
}

/// One table's line of the report.
struct Line {
    source: String,
    target: String,
    found: Option<Reconciled>,
    state: Option<TableStatusState>,
    reason: Option<String>,
    /// The run was stopped before anything was found.
    is_cut_off: bool,
}

impl Line {
    /// Whether something is left to do.
    fn is_wanting(&self) -> bool {
        let is_aside = matches!(
            self.state,
            Some(
                TableStatusState::Quarantined
                    | TableStatusState::Resyncing
                    | TableStatusState::Paused
            )
        );
        is_aside || self.is_cut_off
    }
}

/// Runs the pipeline until every table is reconciled and has caught up.
async fn here(
    invocation: &Invocation,
    opened: &Opened,
    arguments: &ReconcileArgs,
    request: &Request,
    checkpoint: &Checkpoint,
) -> Outcome {
    let log = opened.source.log_state().await?;
    let effect = effect(opened, arguments, request, checkpoint, &log);
    let prompt = "Type the pipeline's name to continue:";
    invocation.talk.confirm(&effect, prompt, opened.name())?;
    let began = Instant::now();
    let reconcile = match arguments.tables.as_slice() {
        [] => Reconcile::All,
        tables => Reconcile::Tables(tables.to_vec()),
    };
    let options = Options {
        reconcile,
        ..options::of(&opened.config, Until::CaughtUp)
    };
    let mut running = Running::start(invocation, opened, options);
    let ended = running
        .wait(invocation, opened, Some(&UntilArg::CaughtUp))
        .await;
    let patience = match &ended {
        Err(Failure::Signalled(..)) => Duration::ZERO,
        _ => LAST_STATUS_WITHIN,
    };
    running.close(invocation, patience).await;
    let (ended, _) = ended?;
    let mut lines = lines(&running.status(), request);
    if ended.by == By::User {
        for line in lines.iter_mut().filter(|line| line.found.is_none()) {
            line.is_cut_off = true;
            line.reason = Some("stopped before it was compared".to_owned());
        }
    }
    let answer = answer(invocation, opened, &lines, ended.position, began.elapsed());
    Ok(answer.notice(format!("go on: tidemark run {}", opened.word())))
}

/// Asks whoever runs it, and waits until it has.
async fn elsewhere(
    invocation: &Invocation,
    opened: &Opened,
    request: &Request,
    owner: &Owner,
) -> Outcome {
    let names: Vec<TableName> = request.tables.iter().map(|t| t.source().clone()).collect();
    let effect = format!(
        "Reconcile of {}, which pid {} on {} runs: {}\n{MOVED}\n  \
         other tables keep streaming; the position does not move back",
        opened.name(),
        owner.pid,
        owner.host,
        counted(names.len() as u64, "table"),
    );
    let prompt = "Type the pipeline's name to continue:";
    invocation.talk.confirm(&effect, prompt, opened.name())?;
    let began = Instant::now();
    let before = reported(opened, request).await?;
    let command = Command::Reconcile {
        tables: names.clone(),
    };
    let agreed = ask(opened, &command).await?;
    answered(opened, &agreed)?;
    let waiting = resync::wait(opened, &names);
    during(
        &invocation.talk,
        "comparing and copying what differs",
        waiting,
    )
    .await?;
    // Its report comes once a second.
    let is_new = |status: &Status| {
        let now = lines(status, request);
        let mut pairs = now.iter().zip(&before);
        pairs.all(|(now, before)| now.found.is_some() && now.found != before.found)
    };
    wait_until_reported(opened, is_new).await?;
    let lines = reported(opened, request).await?;
    let position = opened
        .target
        .checkpoint()
        .await?
        .map(|found| found.position);
    Ok(answer(
        invocation,
        opened,
        &lines,
        position,
        began.elapsed(),
    ))
}

async fn reported(opened: &Opened, request: &Request) -> Result<Vec<Line>, Failure> {
    let status = opened.target.control().await?.last_status().await?;
    Ok(status.map_or_else(Vec::new, |(status, _)| lines(&status, request)))
}

/// The tables that were asked for, as a status has them.
fn lines(status: &Status, request: &Request) -> Vec<Line> {
    let line = |mapping: &std::sync::Arc<tidemark_core::mapping::TableMapping>| {
        let name = mapping.source().to_string();
        let known = status.tables.iter().find(|table| table.source == name);
        Line {
            source: name,
            target: mapping.target.to_string(),
            found: known.and_then(|table| table.reconciled.clone()),
            state: known.map(|table| table.state),
            reason: known.and_then(|table| table.reason.clone()),
            is_cut_off: false,
        }
    };
    request.tables.iter().map(line).collect()
}

/// Compares both sides and changes nothing.
async fn report(
    invocation: &Invocation,
    opened: &Opened,
    request: Request,
    is_running: bool,
) -> Outcome {
    let request = Request {
        differences_max: COUNTED_MAX,
        ..request
    };
    let began = Instant::now();
    let compared = if is_running {
        verify::compare(invocation, opened, &request).await?
    } else {
        let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
        let compared = compare::verify_still(source, target, &request);
        during(&invocation.talk, "comparing both sides", compared).await?
    };
    let (position, time) = (compared.position, duration(began.elapsed()));
    let differs = compared.word() != "identical";
    let lines = as_lines(compared);
    let (glyph, word, verdict) = if differs {
        ("✗", "both sides differ", Verdict::Negative)
    } else {
        ("✓", "nothing differs", Verdict::Positive)
    };
    let mut text = vec![format!(
        "{glyph} {word} at {position} ({time}); nothing was changed"
    )];
    text.extend(table_lines(&lines, invocation));
    let data = data(opened, &lines, Some(position), began.elapsed(), true);
    let answer = Answer::new(text.join("\n"), data).verdict(verdict);
    if !differs {
        return Ok(answer);
    }
    Ok(answer.notice(format!(
        "bring the target to the source: tidemark reconcile {}",
        opened.word()
    )))
}

fn as_lines(report: Report) -> Vec<Line> {
    let line = |table: compare::TableReport| {
        let count = |kind| {
            let of_kind = table.differences.iter().filter(|d| d.kind == kind);
            table.is_counted.then(|| of_kind.count() as u64)
        };
        let (found, reason) = match table.outcome {
            Compared::NotCompared(why) => (None, Some(why)),
            Compared::Identical | Compared::Different => (
                Some(Reconciled {
                    lsn: table.position,
                    source_rows: table.source_rows,
                    target_rows: table.target_rows,
                    missing: count(DifferenceKind::Missing),
                    changed: count(DifferenceKind::Changed),
                    extra: count(DifferenceKind::Extra),
                    rows_moved: 0,
                    bytes_moved: 0,
                    whole: None,
                }),
                None,
            ),
        };
        Line {
            source: table.source.to_string(),
            target: table.target.to_string(),
            found,
            state: None,
            reason,
            is_cut_off: false,
        }
    };
    report.tables.into_iter().map(line).collect()
}

const MOVED: &str = "  both sides are compared, and only rows that differ are copied; rows that the \
                     source does not have are deleted\n  readers of the target see the old rows until \
                     then";

/// What will happen, and to whom.
fn effect(
    opened: &Opened,
    arguments: &ReconcileArgs,
    request: &Request,
    checkpoint: &Checkpoint,
    log: &LogState,
) -> String {
    let size: u64 = request.tables.iter().map(|table| table.schema.bytes).sum();
    let mut lines = vec![format!(
        "Reconcile of {}, which nobody runs now: {}, {} on the source",
        opened.name(),
        counted(request.tables.len() as u64, "table"),
        bytes(size),
    )];
    let (ours, theirs) = (&checkpoint.identity, &log.identity);
    if (&ours.system, &ours.database) != (&theirs.system, &theirs.database) {
        lines.push(format!(
            "  ! the source is another one: database {} of system {} instead of {} of {}; what it does \
             not have is deleted from the target",
            theirs.database, theirs.system, ours.database, ours.system
        ));
    }
    if arguments.tables.is_empty() {
        lines.push(match &log.slot {
            Some(slot) => format!("  slot {} is dropped and made anew", slot.name),
            None => "  a new slot is made; the old one is gone".to_owned(),
        });
    }
    lines.push(MOVED.to_owned());
    lines.join("\n")
}

/// What was found, and what was moved.
fn answer(
    invocation: &Invocation,
    opened: &Opened,
    lines: &[Line],
    position: Option<Position>,
    took: Duration,
) -> Answer {
    let wanting = lines.iter().filter(|line| line.is_wanting()).count() as u64;
    let style = invocation.talk.out;
    let found = || lines.iter().filter_map(|line| line.found.as_ref());
    let rows: u64 = found().map(|found| found.rows_moved).sum();
    let moved: u64 = found().map(|found| found.bytes_moved).sum();
    let compared: u64 = found().map(|found| found.source_rows).sum();
    let at = position.map_or_else(String::new, |position| format!(" at {position}"));
    let head = if wanting == 0 {
        format!(
            "{} reconciled {}{at} in {}: {} compared, {} copied ({})",
            style.paint(Tone::Good, "✓"),
            opened.name(),
            duration(took),
            counted(compared, "row"),
            counted(rows, "row"),
            bytes(moved),
        )
    } else {
        format!(
            "{} {} of {} not reconciled yet{at}, after {}",
            style.paint(Tone::Bad, "✗"),
            counted(wanting, "table"),
            opened.name(),
            duration(took),
        )
    };
    let mut text = vec![head];
    text.extend(table_lines(lines, invocation));
    let answer = Answer::new(text.join("\n"), data(opened, lines, position, took, false));
    if wanting == 0 {
        answer
    } else {
        answer.verdict(Verdict::Negative)
    }
}

fn table_lines(lines: &[Line], invocation: &Invocation) -> Vec<String> {
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Name, "→ TARGET"),
        (Column::Right, "MISSING"),
        (Column::Right, "CHANGED"),
        (Column::Right, "EXTRA"),
        (Column::Right, "COPIED"),
        (Column::Left, "RESULT"),
    ])
    .indented(2);
    for line in lines {
        let count = |rows: Option<u64>| rows.map_or_else(|| "unknown".to_owned(), grouped);
        let of = |pick: fn(&Reconciled) -> Option<u64>| count(line.found.as_ref().and_then(pick));
        let why = line.reason.as_deref().unwrap_or_default();
        let (result, tone) = match (&line.found, line.state) {
            (_, Some(state)) if line.is_wanting() => {
                let word = crate::output::style::of_table(state).1;
                (format!("✗ {word}: {why}"), Tone::Bad)
            }
            (Some(found), _) => match &found.whole {
                Some(why) => (format!("copied whole: {why}"), Tone::Caution),
                None if line.state.is_none() => (String::new(), Tone::Good),
                None => ("✓ as the source".to_owned(), Tone::Good),
            },
            (None, None) => (format!("? not compared: {why}"), Tone::Caution),
            (None, Some(_)) => ("copied whole".to_owned(), Tone::Good),
        };
        shown.row([
            line.source.clone().into(),
            format!("→ {}", line.target).into(),
            of(|found| found.missing).into(),
            of(|found| found.changed).into(),
            of(|found| found.extra).into(),
            of(|found| Some(found.rows_moved)).into(),
            Cell::toned(result, tone),
        ]);
    }
    shown.lines(invocation.talk.out, invocation.talk.out_width())
}

fn data(
    opened: &Opened,
    lines: &[Line],
    position: Option<Position>,
    took: Duration,
    dry_run: bool,
) -> Value {
    let tables: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "source": line.source,
                "target": line.target,
                "state": line.state,
                "reason": line.reason,
                "reconciled": line.found,
            })
        })
        .collect();
    json!({
        "pipeline": opened.name(),
        "lsn": position,
        "dry_run": dry_run,
        "tables": tables,
        "seconds": took.as_secs_f64(),
    })
}
