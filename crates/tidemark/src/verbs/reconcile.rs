//! `reconcile NAME`: bridge a gap. Both sides are compared, only the rows that differ are copied, and the
//! stream goes on from a new slot; then says what the gap had hidden. Shows the effect first.
//!
//! Where nobody runs the pipeline it is run here until it has caught up; one that runs is asked.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::control::Command;
use tidemark_core::control::anew::loaded_anew;
use tidemark_core::pipeline::options::{Options, Reconcile, Until};
use tidemark_core::schema::TableName;
use tidemark_core::status::{By, Status};
use tidemark_core::verify::compare::{self, Depth, Request};

use crate::invocation::Invocation;
use crate::output::Outcome;
use crate::output::numbers::{bytes, counted};
use crate::output::waiting::during;
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::seen::Seen;
use crate::verbs::control::{answered, ask, parse_table};
use crate::verbs::run::{LAST_STATUS_WITHIN, Running, UntilArg, options};
use crate::verbs::verify::{self, Elsewhere};

mod report;
mod there;

use report::{Report, lines};

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

/// A run reports how it stands once a second.
const REPORTED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A report counts every difference, up to this many of a table.
const COUNTED_MAX: usize = 1_000_000;

pub(crate) async fn run(invocation: &Invocation, arguments: &ReconcileArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return there::run(invocation, &there, arguments).await,
    };
    let agreed = agreed(invocation, &opened, arguments);
    let (request, is_own) = match invocation.unless_cut_off(Box::pin(agreed)).await? {
        Agreed::Compared(report) => return Ok(report.answer(invocation, &opened.word())),
        Agreed::ToMend { request, is_own } => (request, is_own),
    };
    if is_own {
        // A run of our own brings itself to an end.
        return here(invocation, &opened, arguments, &request).await;
    }
    tokio::select! {
        mended = during(&invocation.talk, MENDING, elsewhere(&opened, &request)) => {
            Ok(mended?.answer(invocation, &opened.word()))
        }
        failure = cut_off(invocation) => Err(failure),
    }
}

/// What it comes to before anything is changed.
enum Agreed {
    /// That was all that was asked for.
    Compared(Report),
    /// Somebody has agreed. `is_own`: nobody runs the pipeline.
    ToMend { request: Request, is_own: bool },
}

async fn agreed(
    invocation: &Invocation,
    opened: &Opened,
    arguments: &ReconcileArgs,
) -> Result<Agreed, Failure> {
    let request = request(opened, &arguments.tables).await?;
    if arguments.dry_run {
        let compared = during(&invocation.talk, COMPARING, compared(opened, request)).await?;
        return Ok(Agreed::Compared(compared));
    }
    let effect = effect(opened, &arguments.tables).await?;
    effect.confirm(invocation).await?;
    let is_own = effect.running.is_none();
    Ok(Agreed::ToMend { request, is_own })
}

/// What takes the time.
const COMPARING: &str = "comparing both sides";
const MENDING: &str = "comparing and copying what differs";

/// What is compared; refused where there is nothing to bridge.
pub(crate) async fn request(opened: &Opened, tables: &[TableName]) -> Result<Request, Failure> {
    let nothing = |why: String, instead: String| {
        let why = format!("there is nothing to reconcile: {why}");
        Err(Error::definite(codes::RECONCILE_NOTHING, why)
            .first_action(instead)
            .into())
    };
    let (name, word) = (opened.name(), opened.word());
    if !opened.config.mode.streams() {
        let instead = verify::load_again(&word);
        return nothing("a full load alone follows no log".to_owned(), instead);
    }
    let request = verify::request(opened, tables, Depth::Deep).await?;
    if opened.target.checkpoint().await?.is_none() {
        let why = format!("{name} never started");
        return nothing(why, format!("tidemark run {word}"));
    }
    Ok(request)
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

/// Runs the pipeline until every table is reconciled and has caught up.
async fn here(
    invocation: &Invocation,
    opened: &Opened,
    arguments: &ReconcileArgs,
    request: &Request,
) -> Outcome {
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
    let mut tables = lines(&running.status(), request);
    if ended.by == By::User {
        for line in tables.iter_mut().filter(|line| line.reconciled.is_none()) {
            line.is_cut_off = true;
            line.reason = Some("stopped before it was compared".to_owned());
        }
    }
    let report = Report {
        pipeline: opened.name().to_owned(),
        lsn: ended.position,
        dry_run: false,
        tables,
        seconds: began.elapsed().as_secs_f64(),
    };
    let answer = report.answer(invocation, &opened.word());
    Ok(answer.notice(format!("go on: tidemark run {}", opened.word())))
}

/// Asks whoever runs it, and waits until it has.
pub(crate) async fn elsewhere(opened: &Opened, request: &Request) -> Result<Report, Failure> {
    let names: Vec<TableName> = request.tables.iter().map(|t| t.source().clone()).collect();
    let began = Instant::now();
    let command = Command::Reconcile {
        tables: names.clone(),
    };
    let agreed = ask(opened, &command).await?;
    answered(opened, &agreed)?;
    loaded_anew(opened.target.as_ref(), &Elsewhere(opened), &names).await?;
    let tables = lines(&reported_from_now_on(opened).await?, request);
    let checkpoint = opened.target.checkpoint().await?;
    Ok(Report {
        pipeline: opened.name().to_owned(),
        lsn: checkpoint.map(|found| found.position),
        dry_run: false,
        tables,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// The first status that is reported from now on: one of before may tell of an earlier time that this was
/// asked for.
async fn reported_from_now_on(opened: &Opened) -> Result<Status, Failure> {
    let mut control = opened.target.control().await?;
    let began = Instant::now();
    while began.elapsed() < REPORTED_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        let since = began.elapsed().as_secs_f64();
        if let Some((status, age)) = control.last_status().await?
            && age < since
        {
            return Ok(status);
        }
    }
    let text = format!(
        "{} has reconciled the tables, and does not report what it found",
        opened.name()
    );
    Err(Error::transient(codes::CLI_NO_ANSWER, text).into())
}

// What a run that began with it has come to, as its status has it.
pub(crate) fn of_status(
    opened: &Opened,
    request: &Request,
    status: &Status,
    took: Duration,
) -> Report {
    Report {
        pipeline: opened.name().to_owned(),
        lsn: status.processed_lsn,
        dry_run: false,
        tables: lines(status, request),
        seconds: took.as_secs_f64(),
    }
}

/// Compares both sides and changes nothing.
pub(crate) async fn compared(opened: &Opened, request: Request) -> Result<Report, Failure> {
    let request = Request {
        differences_max: COUNTED_MAX,
        ..request
    };
    let began = Instant::now();
    let is_running = opened.target.control().await?.owner().await?.is_some();
    let report = if is_running {
        verify::sides(opened, &request).await?
    } else {
        let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
        compare::verify_still(source, target, &request).await?
    };
    Ok(Report::of_comparison(
        opened.name(),
        report,
        began.elapsed(),
    ))
}

/// What will happen, and to whom, here or as a server tells it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Effect {
    pipeline: String,
    tables: Vec<String>,
    size_bytes: u64,
    running: Option<Runner>,
    /// The slot that is dropped and made anew.
    slot: Option<String>,
    makes_slot: bool,
    /// How the source is another one than before.
    another_source: Option<String>,
}

/// Who runs it now.
#[derive(Debug, Serialize, Deserialize)]
struct Runner {
    host: String,
    pid: u32,
}

const MOVED: &str = "  both sides are compared, and only rows that differ are copied; rows that the \
                     source does not have are deleted\n  readers of the target see the old rows until \
                     then";

pub(crate) async fn effect(opened: &Opened, tables: &[TableName]) -> Result<Effect, Failure> {
    let request = request(opened, tables).await?;
    let owner = opened.target.control().await?.owner().await?;
    let log = opened.source.log_state().await?;
    let theirs = &log.identity;
    let checkpoint = opened.target.checkpoint().await?;
    let another_source = checkpoint.map(|found| found.identity).and_then(|ours| {
        let is_same = (&ours.system, &ours.database) == (&theirs.system, &theirs.database);
        (!is_same).then(|| {
            format!(
                "database {} of system {} instead of {} of {}",
                theirs.database, theirs.system, ours.database, ours.system
            )
        })
    });
    Ok(Effect {
        pipeline: opened.name().to_owned(),
        size_bytes: request.tables.iter().map(|table| table.schema.bytes).sum(),
        tables: request
            .tables
            .iter()
            .map(|t| t.source().to_string())
            .collect(),
        slot: log.slot.map(|slot| slot.name),
        makes_slot: owner.is_none() && tables.is_empty(),
        running: owner.map(|owner| Runner {
            host: owner.host,
            pid: owner.pid,
        }),
        another_source,
    })
}

impl Effect {
    async fn confirm(&self, invocation: &Invocation) -> Result<(), Error> {
        let prompt = "Type the pipeline's name to continue:";
        let (talk, text) = (&invocation.talk, self.text());
        talk.confirm(&text, prompt, &self.pipeline).await
    }

    fn text(&self) -> String {
        let tables = counted(self.tables.len() as u64, "table");
        if let Some(Runner { host, pid }) = &self.running {
            return format!(
                "Reconcile of {}, which pid {pid} on {host} runs: {tables}\n{MOVED}\n  \
                 other tables keep streaming; the position does not move back",
                self.pipeline,
            );
        }
        let mut lines = vec![format!(
            "Reconcile of {}, which nobody runs now: {tables}, {} on the source",
            self.pipeline,
            bytes(self.size_bytes),
        )];
        if let Some(another) = &self.another_source {
            lines.push(format!(
                "  ! the source is another one: {another}; what it does not have is deleted from the \
                 target"
            ));
        }
        if self.makes_slot {
            lines.push(match &self.slot {
                Some(slot) => format!("  slot {slot} is dropped and made anew"),
                None => "  a new slot is made; the old one is gone".to_owned(),
            });
        }
        lines.push(MOVED.to_owned());
        lines.join("\n")
    }
}
