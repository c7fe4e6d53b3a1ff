//! `cutover NAME`: the target becomes the database that is written to, with proof.
//!
//! Ten steps, in [`steps`]. Until the last of them is done everything can be taken back, and is, on
//! whatever ends it: a signal, a time limit, an error, writers that go on, rows that differ
//! ([`Undo`]). The pipeline streams on throughout; only at the very end it is stopped.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::control::{Command, HoldId};
use tidemark_core::finding::Side;
use tidemark_core::pipeline::options::Until;
use tidemark_core::verify::standstill::Ask;
use tidemark_core::{Context, Error};

use crate::invocation::Invocation;
use crate::output::numbers::parse_duration;
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::systems;
use crate::verbs::run::{self, Running};
use crate::verbs::verify::Elsewhere;

mod back;
mod report;
mod steps;
mod writers;

use back::Back;
use report::Report;

#[derive(Args, Clone, Debug)]
pub(crate) struct CutoverArgs {
    #[command(flatten)]
    which: Which,
    /// Show what would happen and what stands in the way; change nothing
    #[arg(long, conflicts_with = "abort")]
    dry_run: bool,
    /// Stop the writers with this command (run by sh); without it, or --fence, you are asked to
    #[arg(long, value_name = "COMMAND")]
    stop_writers: Option<String>,
    /// Start them again with this one, if the cutover is given up
    #[arg(long, value_name = "COMMAND", requires = "stop_writers")]
    start_writers: Option<String>,
    /// Have the source refuse writes, and end the sessions of its clients
    #[arg(long)]
    fence: bool,
    /// How long the source must be silent
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    silence: Duration,
    /// How long writers may take to stop, and the pipeline to drain
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    patience: Duration,
    /// Set the target's sequences so many values ahead of the source's
    #[arg(long, value_name = "VALUES", default_value_t = 1_000)]
    sequence_margin: u32,
    /// Make a pipeline that copies back, from the target to the source, and write its file here
    #[arg(long, value_name = "FILE")]
    reverse: Option<PathBuf>,
    /// Write the report to this file, too (Markdown)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Take down a fence that an earlier cutover left, and do nothing else
    #[arg(long)]
    abort: bool,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &CutoverArgs) -> Outcome {
    let opened = Opened::open(invocation, &arguments.which)?;
    if arguments.abort {
        return abort(invocation, &opened).await;
    }
    if !opened.config.mode.streams() {
        return Err(Error::definite(
            codes::CUTOVER_NOT_READY,
            format!(
                "{} follows no log: a full load alone has nothing to drain",
                opened.name()
            ),
        )
        .into());
    }
    let mut own = None;
    if !arguments.dry_run && opened.target.control().await?.owner().await?.is_none() {
        invocation.talk.say(&format!(
            "nobody runs {}: it is run from here",
            opened.name()
        ));
        own = Some(Running::start(
            invocation,
            &opened,
            run::options::of(&opened.config, Until::Stopped),
        ));
    }
    let cutover = Cutover {
        invocation,
        opened: &opened,
        arguments,
        runs_here: own.is_some(),
        hold: HoldId::random(),
        undo: Mutex::default(),
        report: Mutex::new(Report::new(opened.name(), arguments.dry_run)),
    };
    let work = async {
        if arguments.dry_run {
            cutover.rehearse().await
        } else {
            Box::pin(cutover.switch()).await
        }
    };
    let done = tokio::select! {
        done = work => done,
        late = invocation.late() => Err(late),
        name = invocation.signals.stop() =>
            Err(Failure::Signalled(name.exit(), "interrupted".to_owned())),
        failed = failed(&mut own) => Err(failed),
    };
    let outcome = cutover.end(done).await;
    if let Some(own) = own {
        own.stop(invocation).await;
    }
    outcome
}

/// Waits until the pipeline that runs here fails.
async fn failed(own: &mut Option<Running>) -> Failure {
    match own {
        Some(own) => own.failed().await,
        None => std::future::pending().await,
    }
}

/// Takes down a fence that was left.
async fn abort(invocation: &Invocation, opened: &Opened) -> Outcome {
    let word = opened.word();
    let data = |lowered: bool| serde_json::json!({ "pipeline": opened.name(), "lowered": lowered });
    if !systems::is_fenced(&opened.config, Side::Source).await? {
        return Ok(Answer::new(
            "the source is not fenced: nothing to take down",
            data(false),
        ));
    }
    invocation.talk.confirm(
        "Lets the source be written to again. What is written there reaches the target only while \
         the pipeline runs.",
        "Type the pipeline's name to continue:",
        opened.name(),
    )?;
    systems::lower_fence(&opened.config, Side::Source).await?;
    Ok(Answer::new("the source takes writes again", data(true))
        .notice(format!("whether the pipeline runs: tidemark status {word}")))
}

/// A cutover under way.
struct Cutover<'a> {
    invocation: &'a Invocation,
    opened: &'a Opened,
    arguments: &'a CutoverArgs,
    /// Whether this process runs the pipeline.
    runs_here: bool,
    hold: HoldId,
    undo: Mutex<Undo>,
    report: Mutex<Report>,
}

/// What was done so far that has to be taken back if it comes to nothing.
#[derive(Default)]
struct Undo {
    /// The source is fenced, or that was begun.
    fence: Option<Fence>,
    /// The writers were stopped by a command, or that was begun.
    stopped: bool,
    /// The pipeline may be held.
    held: bool,
    /// The target may be written to: nothing is taken back any more.
    is_past: bool,
    /// A pipeline that copies back was made, or that was begun.
    back: Option<Back>,
}

/// Whose a fence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    /// This cutover raised it.
    Ours,
    /// It was there before.
    Found,
}

/// How long a pipeline that is held may take to hear that it need not be.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

impl Cutover<'_> {
    /// The answer, after everything was taken back if it came to nothing.
    async fn end(&self, done: Result<(), Failure>) -> Outcome {
        let Err(failure) = done else {
            return self.answer(None);
        };
        let undone = self.take_back().await;
        self.with_report(|report| report.undone.clone_from(&undone));
        let undone = undone.join("; ");
        match failure {
            Failure::Error(err) if is_verdict(err.code()) => self.answer(Some(&err)),
            Failure::Error(err) => {
                let given_up: tidemark_core::Result<()> = Err(err);
                let given_up = given_up.context(|| format!("given up ({undone})"));
                Err(given_up.map_or_else(Failure::from, |()| Failure::usage("")))
            }
            Failure::Signalled(exit, why) => Err(Failure::Signalled(
                exit,
                format!("{why}, given up: {undone}"),
            )),
            Failure::Config(problems) => Err(Failure::Config(problems)),
        }
    }

    /// Takes back what was done; says so, sentence by sentence.
    async fn take_back(&self) -> Vec<String> {
        let undo = std::mem::take(&mut *self.undo());
        let mut said = Vec::new();
        if undo.is_past {
            let word = self.opened.word();
            return vec![format!(
                "all is handed over, but the pipeline may still run: tidemark stop {word}"
            )];
        }
        if undo.held {
            // One that does not hear us goes on by itself.
            let pipeline = Elsewhere(self.opened);
            let release = pipeline.ask(Command::Release { id: self.hold });
            if tokio::time::timeout(RELEASE_WITHIN, release).await.is_err() {
                tracing::debug!("no answer to the release of the hold");
            }
        }
        if let Some(back) = &undo.back {
            said.push(match back.take_back().await {
                Ok(()) => "the way back is removed again".to_owned(),
                Err(_) => format!(
                    "slot and publication of {} are still on the target",
                    back.name()
                ),
            });
        }
        let word = self.opened.word();
        said.push(match undo.fence {
            None => "the source takes writes as before".to_owned(),
            Some(Fence::Found) => format!(
                "the source was read-only before this began, and still is: \
                 tidemark cutover {word} --abort"
            ),
            Some(Fence::Ours) => {
                match systems::lower_fence(&self.opened.config, Side::Source).await {
                    Ok(()) => "the source takes writes again".to_owned(),
                    Err(_) => format!(
                        "the source could not be reached and may still refuse writes: \
                     tidemark cutover {word} --abort"
                    ),
                }
            }
        });
        if undo.stopped {
            said.push(match &self.arguments.start_writers {
                Some(command) => match self.hook(command).await {
                    Ok(()) => "the writers were started again".to_owned(),
                    Err(_) => "the command that starts the writers failed: start them".to_owned(),
                },
                None => "start the writers again".to_owned(),
            });
        }
        said.push(if self.runs_here {
            format!("the pipeline ends in order, and goes on with: tidemark run {word}")
        } else {
            "the pipeline streams on".to_owned()
        });
        said
    }

    /// Says what the report has, and writes it where it was asked for.
    fn answer(&self, refusal: Option<&Error>) -> Outcome {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.arguments.report {
            std::fs::write(file, report.markdown(refusal)).map_err(|err| {
                let shown = file.display();
                Error::definite(codes::CLI_MACHINE, format!("write {shown}: {err}"))
            })?;
        }
        Ok(report.answer(refusal))
    }

    /// One step: its tick once it is done.
    async fn step<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(T, String), Failure>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        self.with_report(|report| report.begin(name));
        let (value, text) = work.await?;
        let line = self.with_report(|report| report.tick(text, began.elapsed()));
        self.invocation.talk.say(&line);
        Ok(value)
    }

    fn with_report<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn undo(&self) -> std::sync::MutexGuard<'_, Undo> {
        // Each flag is set on its own, so a panic elsewhere leaves nothing half done.
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a refusal is the answer to whether this is the moment.
fn is_verdict(code: Code) -> bool {
    [
        codes::CUTOVER_NOT_READY,
        codes::CUTOVER_NOT_SILENT,
        codes::CUTOVER_DIFFERENT,
    ]
    .contains(&code)
}
