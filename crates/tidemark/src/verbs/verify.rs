//! `verify NAME`: both sides compared at one log position while writes go on; exit 3 if they differ.
//!
//! A pipeline that streams is held for milliseconds by way of the control row, wherever it runs. A
//! full load has no log to meet in: there both sides are compared as they are now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Args;
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::control::{self, Command, HoldId};
use tidemark_core::mapping::TableMapping;
use tidemark_core::quarantine::{KeptRow, count, rows_of};
use tidemark_core::schema::TableName;
use tidemark_core::verify::compare::{
    self, Depth, Outcome as Compared, Report, Request, TableReport,
};
use tidemark_core::verify::difference::{self, Difference};
use tidemark_core::verify::progress::Progress;
use tidemark_core::verify::repair;
use tidemark_core::verify::standstill::Ask;
use tidemark_core::words::table_word;

use crate::invocation::Invocation;
use crate::output::numbers::{counted, duration, grouped};
use crate::output::style::Tone;
use crate::output::table::{Cell, Column, Table};
use crate::output::waiting::{during, told};
use crate::output::{Answer, Outcome, Verdict, put};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::seen::Seen;
use crate::verbs::control::{ANSWER_WITHIN, ask_within, no_table, parse_table};

mod there;

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    which: Which,
    /// Only this table of the source, as schema.table (may be repeated)
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Compare numbers of rows only
    #[arg(long, conflicts_with = "deep")]
    counts: bool,
    /// Compare every value (what happens without a flag, too)
    #[arg(long)]
    deep: bool,
    /// Copy anew only what differs, then compare again
    #[arg(long, conflicts_with = "counts")]
    repair: bool,
}

impl VerifyArgs {
    fn depth(&self) -> Depth {
        if self.counts {
            Depth::Counts
        } else {
            Depth::Deep
        }
    }
}

/// Differences that are listed for a table; all are counted. More than a repair by key is for.
const DIFFERENCES_MAX: usize = 10_000;
/// Differences that a person is shown of one table.
const DIFFERENCES_SHOWN: usize = 10;
/// How long a pipeline may take to reach the position where it is to hold: it may be far behind.
const HOLD_WITHIN: Duration = Duration::from_mins(10);
/// How long a pipeline that is held may take to hear that it need not be.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
/// What takes the time.
const COMPARING: &str = "comparing both sides";
const REPAIRING: &str = "copying anew what differs";

/// A pipeline that runs elsewhere, spoken to by way of the target.
pub(crate) struct Elsewhere<'a>(pub(crate) &'a Opened);

#[async_trait]
impl Ask for Elsewhere<'_> {
    async fn ask(&self, command: Command) -> control::Answer {
        let patience = match command {
            Command::Hold { .. } => HOLD_WITHIN,
            _ => ANSWER_WITHIN,
        };
        match ask_within(self.0, &command, patience).await {
            Ok(answer) => answer,
            Err(failure) => control::Answer {
                ok: false,
                code: failure.code().map(|code| code.to_string()),
                text: failure.sentence(),
            },
        }
    }

    async fn is_there(&self) -> tidemark_core::Result<bool> {
        let owner = self.0.target.control().await?.owner().await?;
        Ok(owner.is_some())
    }
}

pub(crate) async fn run(invocation: &Invocation, arguments: &VerifyArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(pipeline) => return there::run(invocation, &pipeline, arguments).await,
    };
    let hold = HoldId::random();
    let repairs = AtomicBool::new(false);
    let failure = tokio::select! {
        outcome = verify(invocation, &opened, arguments, hold, &repairs) => return outcome,
        late = invocation.late() => late,
        name = invocation.signals.stop() => if repairs.load(Ordering::Relaxed) {
            Failure::Signalled(
                name.exit(),
                format!("interrupted; the repair goes on: tidemark tables {}", opened.word()),
            )
        } else {
            Failure::interrupted(name)
        },
    };
    // The pipeline may be held for us; where it does not hear us it goes on by itself.
    let pipeline = Elsewhere(&opened);
    let release = pipeline.ask(Command::Release { id: hold });
    if opened.config.mode.streams() && tokio::time::timeout(RELEASE_WITHIN, release).await.is_err()
    {
        tracing::debug!(
            pipeline = opened.name(),
            "no answer to the release of the hold"
        );
    }
    Err(failure)
}

/// The work; `repairs` tells whether a repair was asked for by then.
async fn verify(
    invocation: &Invocation,
    opened: &Opened,
    arguments: &VerifyArgs,
    hold: HoldId,
    repairs: &AtomicBool,
) -> Outcome {
    if arguments.repair && !opened.config.mode.streams() {
        let why = format!(
            "{} is a full load alone: nobody runs it who could copy rows anew",
            opened.name()
        );
        let again = load_again(&opened.word());
        return Err(Error::definite(codes::CLI_NOT_RUNNING, why)
            .first_action(again)
            .into());
    }
    let depth = arguments.depth();
    let request = Request {
        hold,
        ..request(opened, &arguments.tables, depth).await?
    };
    let began = Instant::now();
    let mut report = compare(invocation, opened, &request).await?;
    if arguments.repair {
        let aside = with_rows_aside(opened).await?;
        if difference::to_repair(&report, &aside).next().is_some() {
            repair(invocation, opened, &request, &report, &aside, repairs).await?;
            report = compare(invocation, opened, &request).await?;
        }
    }
    let subject = Subject::of(opened);
    let aside = with_rows_aside(opened).await?;
    let took = began.elapsed();
    let answer = answer(invocation, &subject, &report, depth, took, &aside);
    Ok(note_quarantined(answer, opened, &report).await?)
}

/// Tables of which rows are in quarantine.
async fn with_rows_aside(opened: &Opened) -> tidemark_core::Result<Vec<TableName>> {
    let kept = count(&opened.target.control().await?.quarantined().await?);
    Ok(kept.into_iter().map(|(table, _)| table).collect())
}

/// Rows in quarantine differ, and are not for a repair: what they wait for would come after it.
pub(crate) async fn note_quarantined(
    mut answer: Answer,
    opened: &Opened,
    report: &Report,
) -> tidemark_core::Result<Answer> {
    let kept = rows_of(opened.target.control().await?.quarantined().await?);
    for table in &report.tables {
        let rows = kept.iter().filter(|row| row.first().table == table.source);
        let rows: Vec<&KeptRow> = rows.collect();
        let is_aside = |one: &&Difference| rows.iter().any(|row| row.keys.contains(&one.key));
        let among = table.differences.iter().filter(is_aside).count() as u64;
        let which = if !table.is_counted || table.differences.is_empty() {
            "which may be all that differs".to_owned()
        } else if among == table.different {
            "which is all that differs".to_owned()
        } else {
            format!(
                "{among} of the {} that differ",
                counted(table.different, "row")
            )
        };
        let word = opened.word();
        answer = note_kept(answer, &word, &table.source, rows.len() as u64, &which);
    }
    Ok(answer)
}

fn note_kept(answer: Answer, name: &str, table: &TableName, rows: u64, which: &str) -> Answer {
    if rows == 0 {
        return answer;
    }
    let (rows, argument) = (counted(rows, "row"), table_word(table));
    answer.notice(format!(
        "{table}: {rows} in quarantine, {which}; a repair leaves the table as it is until they \
         are in or dropped: tidemark quarantine show {name} --table {argument}"
    ))
}

/// What is compared: all tables of the pipeline, or those that were named.
pub(crate) async fn request(
    opened: &Opened,
    wanted: &[TableName],
    depth: Depth,
) -> Result<Request, Failure> {
    // One that cannot be carried is told as not compared.
    let tables = opened.going_on().await?.all();
    let mut tables: Vec<Arc<TableMapping>> = tables.into_iter().map(Arc::new).collect();
    for name in wanted {
        if !tables.iter().any(|table| table.source() == name) {
            let known = tables.iter().map(|table| table.source());
            return Err(no_table(opened, name, known).into());
        }
    }
    tables.retain(|table| wanted.is_empty() || wanted.contains(table.source()));
    Ok(Request {
        tables,
        depth,
        differences_max: DIFFERENCES_MAX,
        hold: HoldId::random(),
        progress: Arc::default(),
    })
}

/// Compares both sides of the pipeline, wherever it runs.
pub(crate) async fn compare(
    invocation: &Invocation,
    opened: &Opened,
    request: &Request,
) -> Result<Report, Failure> {
    let so_far = || how_far(&request.progress);
    told(&invocation.talk, so_far, sides(opened, request)).await
}

/// What takes the time, and how far it is.
pub(crate) fn how_far(progress: &Progress) -> String {
    let (done, tables) = progress.tables();
    if tables == 0 {
        // The pipeline is not where both sides can be read.
        return COMPARING.to_owned();
    }
    let (tables, rows) = (counted(tables, "table"), counted(progress.rows(), "row"));
    format!("{COMPARING}: {done} of {tables}, {rows}")
}

/// The same without a word.
pub(crate) async fn sides(opened: &Opened, request: &Request) -> Result<Report, Failure> {
    if !opened.config.mode.streams() {
        let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
        return Ok(compare::verify_still(source, target, request).await?);
    }
    if opened.target.control().await?.owner().await?.is_none() {
        return Err(Error::definite(
            codes::CLI_NOT_RUNNING,
            format!(
                "nobody runs {}, so source and target have no position in common",
                opened.name()
            ),
        )
        .first_action(format!("tidemark run {} --until verified", opened.word()))
        .into());
    }
    Ok(compare_held(opened, &Elsewhere(opened), request).await?)
}

/// The pipeline may have been interrupted while it held; then another position will do.
async fn compare_held(
    opened: &Opened,
    pipeline: &Elsewhere<'_>,
    request: &Request,
) -> tidemark_core::Result<Report> {
    const ATTEMPTS_MAX: u32 = 3;
    let mut attempt = 1;
    loop {
        let (source, target) = (opened.source.as_ref(), opened.target.as_ref());
        match compare::verify(source, target, pipeline, request).await {
            Err(err) if err.code() == codes::VERIFY_NO_HOLD && attempt < ATTEMPTS_MAX => {
                tracing::debug!(pipeline = opened.name(), attempt, error = %err, "compares again");
                attempt += 1;
            }
            compared => return compared,
        }
    }
}

/// Asks the pipeline to copy anew what differs, and waits until it has.
async fn repair(
    invocation: &Invocation,
    opened: &Opened,
    request: &Request,
    report: &Report,
    aside: &[TableName],
    repairs: &AtomicBool,
) -> Result<(), Failure> {
    confirm_repair(invocation, opened.name(), report, aside).await?;
    repairs.store(true, Ordering::Relaxed);
    let (target, pipeline) = (opened.target.as_ref(), Elsewhere(opened));
    let copied = repair::repair(target, &pipeline, report, &request.tables, aside);
    Ok(during(&invocation.talk, REPAIRING, copied).await?)
}

/// Says what a repair does, and asks.
async fn confirm_repair(
    invocation: &Invocation,
    pipeline: &str,
    report: &Report,
    aside: &[TableName],
) -> Result<(), Failure> {
    let mut effect = format!("Repair of {pipeline}:");
    for table in difference::to_repair(report, aside) {
        put!(
            effect,
            "\n  {}   {} of {} are copied anew to {}",
            table.source,
            rows_that_differ(table),
            grouped(table.source_rows),
            table.target
        );
    }
    effect.push_str("\n  other tables keep streaming; the position does not move back");
    let prompt = "Type the pipeline's name to continue:";
    Ok(invocation.talk.confirm(&effect, prompt, pipeline).await?)
}

/// What was compared.
pub(crate) struct Subject {
    name: String,
    /// Whether it follows its source.
    streams: bool,
    /// What mends it, in words with the command, where that is known.
    remedy: Option<String>,
}

impl Subject {
    pub(crate) fn of(opened: &Opened) -> Subject {
        let (word, streams) = (opened.word(), opened.config.mode.streams());
        let remedy = if streams {
            only_what_differs(&word)
        } else {
            format!("load all of it again: {}", load_again(&word))
        };
        Subject {
            name: opened.name().to_owned(),
            streams,
            remedy: Some(remedy),
        }
    }
}

fn only_what_differs(word: &str) -> String {
    format!("copy anew only what differs: tidemark verify {word} --repair")
}

/// A full load that has ended has nobody who could copy some of its rows anew; readers do not notice that
/// it is loaded again.
pub(crate) fn load_again(word: &str) -> String {
    format!("tidemark run {word} --set target.existing=swap")
}

/// What a verification says; `aside`: tables of which rows are in quarantine.
fn answer(
    invocation: &Invocation,
    subject: &Subject,
    report: &Report,
    depth: Depth,
    took: Duration,
    aside: &[TableName],
) -> Answer {
    let is_identical = report.is_identical();
    let style = invocation.talk.out;
    let (glyph, tone, word) = if is_identical {
        ("✓", Tone::Good, report.word())
    } else {
        ("✗", Tone::Bad, report.word())
    };
    let what = match depth {
        Depth::Deep => "every value",
        Depth::Counts => "numbers of rows",
    };
    let mut lines = vec![format!(
        "{} {}, {what}: {word} at {} ({})",
        style.paint(tone, glyph),
        counted(report.rows(), "row"),
        report.position,
        duration(took)
    )];
    lines.extend(table_lines(report, invocation));
    for table in &report.tables {
        lines.extend(difference_lines(table));
    }
    let mut answer = Answer::new(lines.join("\n"), data(subject, report, depth, took));
    if !is_identical {
        answer = note_what_moves(answer, subject).verdict(Verdict::Negative);
    }
    if difference::to_repair(report, aside).next().is_some()
        && let Some(remedy) = &subject.remedy
    {
        answer = answer.notice(remedy);
    }
    answer
}

/// `12 rows`, or `more than 10 000 rows` where nobody counted further.
fn rows_that_differ(table: &TableReport) -> String {
    let rows = counted(table.different, "row");
    if table.is_counted {
        rows
    } else {
        format!("more than {rows}")
    }
}

/// A full load is compared with the source as it is now.
pub(crate) fn note_what_moves(answer: Answer, subject: &Subject) -> Answer {
    if subject.streams {
        return answer;
    }
    answer.notice(
        "a full load is compared with the source as it is now: rows that changed there since the \
         load differ",
    )
}

fn table_lines(report: &Report, invocation: &Invocation) -> Vec<String> {
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Name, "→ TARGET"),
        (Column::Right, "SOURCE"),
        (Column::Right, "TARGET"),
        (Column::Left, "RESULT"),
    ])
    .indented(2);
    for table in &report.tables {
        let (result, tone) = match &table.outcome {
            Compared::Identical => ("✓ identical".to_owned(), Tone::Good),
            Compared::Different => (format!("✗ {} differ", rows_that_differ(table)), Tone::Bad),
            Compared::NotCompared(why) => (format!("? not compared: {why}"), Tone::Caution),
        };
        let is_compared = !matches!(table.outcome, Compared::NotCompared(_));
        let rows = |rows| {
            if is_compared {
                grouped(rows)
            } else {
                "unknown".to_owned()
            }
        };
        shown.row([
            table.source.to_string().into(),
            format!("→ {}", table.target).into(),
            rows(table.source_rows).into(),
            rows(table.target_rows).into(),
            Cell::toned(result, tone),
        ]);
    }
    shown.lines(invocation.talk.out, invocation.talk.out_width())
}

/// The first rows that differ, by key: a person asked for them.
fn difference_lines(table: &TableReport) -> Vec<String> {
    let mut lines: Vec<String> = table
        .differences
        .iter()
        .take(DIFFERENCES_SHOWN)
        .map(|difference| {
            let key = if difference.key.is_empty() {
                "a row (the table has no key)".to_owned()
            } else {
                difference.key.join(", ")
            };
            format!("  {}  {key}: {}", table.source, difference.kind.name())
        })
        .collect();
    let more = table.different.saturating_sub(lines.len() as u64);
    if more > 0 && !lines.is_empty() {
        let at_least = if table.is_counted { "" } else { "at least " };
        let source = &table.source;
        lines.push(format!("  {source}  and {at_least}{} more", grouped(more)));
    }
    lines
}

fn data(subject: &Subject, report: &Report, depth: Depth, took: Duration) -> Value {
    let tables: Vec<Value> = report
        .tables
        .iter()
        .map(|table| {
            let (result, reason) = match &table.outcome {
                Compared::Identical => ("identical", None),
                Compared::Different => ("different", None),
                Compared::NotCompared(why) => ("not_compared", Some(why)),
            };
            // What was not measured is not a number.
            let is_compared = !matches!(table.outcome, Compared::NotCompared(_));
            let rows = |rows: u64| is_compared.then_some(rows);
            let differences: Vec<Value> = table
                .differences
                .iter()
                .map(|difference| json!({ "key": difference.key, "kind": difference.kind.name() }))
                .collect();
            json!({
                "source": table.source.to_string(),
                "target": table.target.to_string(),
                "result": result,
                "reason": reason,
                "lsn": table.position,
                "source_rows": rows(table.source_rows),
                "target_rows": rows(table.target_rows),
                "different": rows(table.different),
                "is_counted": table.is_counted,
                "differences": differences,
            })
        })
        .collect();
    json!({
        "pipeline": subject.name,
        "lsn": report.position,
        "result": report.word(),
        "depth": match depth { Depth::Deep => "deep", Depth::Counts => "counts" },
        "rows": report.rows(),
        "seconds": took.as_secs_f64(),
        "tables": tables,
    })
}
