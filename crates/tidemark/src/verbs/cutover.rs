//! `cutover NAME`: the target becomes the database that is written to, with proof.
//!
//! Ten steps, in [`steps`]. Until the last of them is done everything can be taken back, and is, on
//! whatever ends it: a signal, a time limit, an error, writers that go on, rows that differ
//! ([`Undo`]). The pipeline streams on throughout; only at the very end it is stopped.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Args;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::control::{Command, HoldId};
use tidemark_core::finding::Side;
use tidemark_core::pipeline::options::Until;
use tidemark_core::verify::progress::Progress;
use tidemark_core::verify::standstill::Ask;
use tidemark_core::{Context, Error};

use crate::invocation::Invocation;
use crate::output::numbers::parse_duration;
use crate::output::waiting::told;
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::seen::Seen;
use crate::verbs::run::{self, Running};
use crate::verbs::verify::{Elsewhere, how_far};
use crate::{standing, systems};

mod back;
mod compared;
mod report;
mod steps;
mod there;
mod writers;

pub(crate) use back::Home;
use back::{Back, Beside};
pub(crate) use report::Report;
pub(crate) use tidemark_server::systems::Hook;

#[derive(Args, Clone, Debug)]
pub(crate) struct CutoverArgs {
    #[command(flatten)]
    which: Which,
    /// Show what would happen and what stands in the way; change nothing
    #[arg(long, conflicts_with = "abort")]
    dry_run: bool,
    #[command(flatten)]
    wishes: Wishes,
    /// Make a pipeline that copies back, from the target to the source, and write its file here; a server
    /// keeps it itself
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = ON_SERVER, value_parser = parse_kept)]
    reverse: Option<Kept>,
    /// Write the report to this file, too (Markdown)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Take down a fence that an earlier cutover left, and do nothing else
    #[arg(long)]
    abort: bool,
}

/// Where a way back is kept.
#[derive(Clone, Debug)]
enum Kept {
    /// Where the pipeline is kept: on its server.
    OnServer,
    In(PathBuf),
}

/// No file is named so.
const ON_SERVER: &str = "-";

#[expect(clippy::unnecessary_wraps, reason = "a parser of clap may refuse")]
fn parse_kept(text: &str) -> Result<Kept, String> {
    Ok(match text {
        ON_SERVER => Kept::OnServer,
        file => Kept::In(PathBuf::from(file)),
    })
}

/// How it is to be done.
#[derive(Args, Clone, Debug)]
pub(crate) struct Wishes {
    /// Stop the writers with this command (run by sh); without it, or --fence, you are asked to
    #[arg(long, value_name = "COMMAND")]
    pub(crate) stop_writers: Option<String>,
    /// Start them again with this one, if the cutover is given up
    #[arg(long, value_name = "COMMAND", requires = "stop_writers")]
    pub(crate) start_writers: Option<String>,
    /// Have the source refuse writes, and end the sessions of its clients
    #[arg(long)]
    pub(crate) fence: bool,
    /// How long the source must be silent
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub(crate) silence: Duration,
    /// How long writers may take to stop, and the pipeline to drain
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub(crate) patience: Duration,
    /// Give up, and let writers write again, where they would stand still for longer
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) max_downtime: Duration,
    /// Set the target's sequences so many values ahead of the source's
    #[arg(long, value_name = "VALUES", default_value_t = 1_000)]
    pub(crate) sequence_margin: u32,
}

/// A comparison of both sides.
pub(crate) type Comparing<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Whoever a cutover is for.
#[async_trait]
pub(crate) trait Company: Send + Sync {
    /// A step is done: the line that says so, and all that was done so far.
    async fn hears(&self, line: &str, report: &Report);

    /// Asked before anything is done that others notice.
    async fn agrees(&self, effect: String) -> Result<(), Failure>;

    /// Has a command of whoever wants this run, where they are.
    async fn runs(&self, hook: Hook, command: &str) -> Result<(), Failure>;

    /// Both sides are being compared; what was done before, and how far this is by now.
    async fn waits<'a>(&self, comparing: Comparing<'a>, progress: &Progress, so_far: &Report);

    /// Stops the pipeline in order, where that is for it to do.
    async fn stops(&self) -> Result<Stopped, Failure> {
        Ok(Stopped::ByTarget)
    }

    /// Returns when it is to be given up; why.
    async fn gives_up(&self) -> Failure;
}

/// How the pipeline is stopped in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It is asked by way of the target.
    ByTarget,
    /// It has been.
    Already,
}

/// The person at the command line.
struct Person<'a> {
    invocation: &'a Invocation,
    name: &'a str,
    own: tokio::sync::Mutex<Option<Running>>,
}

#[async_trait]
impl Company for Person<'_> {
    async fn hears(&self, line: &str, _: &Report) {
        self.invocation.talk.say(line);
    }

    async fn agrees(&self, effect: String) -> Result<(), Failure> {
        consent(self.invocation, self.name, effect).await
    }

    async fn runs(&self, hook: Hook, command: &str) -> Result<(), Failure> {
        writers::run(&self.invocation.talk, hook, command, self.name).await
    }

    async fn waits<'a>(&self, comparing: Comparing<'a>, progress: &Progress, _: &Report) {
        told(&self.invocation.talk, || how_far(progress), comparing).await;
    }

    async fn gives_up(&self) -> Failure {
        let failed = async {
            match self.own.lock().await.as_mut() {
                Some(own) => own.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            late = self.invocation.late() => late,
            name = self.invocation.signals.stop() =>
                Failure::Signalled(name.exit(), "interrupted".to_owned()),
            failed = failed => failed,
        }
    }
}

async fn consent(invocation: &Invocation, name: &str, effect: String) -> Result<(), Failure> {
    let prompt = "Type the pipeline's name to continue:";
    Ok(invocation.talk.confirm(&effect, prompt, name).await?)
}

pub(crate) async fn run(invocation: &Invocation, arguments: &CutoverArgs) -> Outcome {
    let opened = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => opened,
        Seen::There(there) => return there::run(invocation, &there, arguments).await,
    };
    if arguments.abort {
        return invocation.unless_cut_off(abort(invocation, &opened)).await;
    }
    let home = match &arguments.reverse {
        None => None,
        Some(Kept::OnServer) => {
            return Err(Failure::usage(
                "--reverse needs the file that is to be written",
            ));
        }
        Some(Kept::In(file)) => Some(Beside::new(file, &opened.file)),
    };
    let home = home.as_ref().map(|home| home as &dyn Home);
    let mut own = None;
    let streams = opened.config.mode.streams();
    let owner = async {
        let mut control = opened.target.control().await?;
        Ok(standing::owner(control.as_mut()).await?)
    };
    if streams && !arguments.dry_run && invocation.unless_cut_off(owner).await?.is_none() {
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
    let runs_here = own.is_some();
    let person = Person {
        invocation,
        name: opened.name(),
        own: tokio::sync::Mutex::new(own),
    };
    let ended = if arguments.dry_run {
        rehearse(&opened, &arguments.wishes, home, &person).await
    } else {
        Box::pin(switch(&opened, &arguments.wishes, home, &person, runs_here)).await
    };
    let outcome = match ended {
        Ok(ended) => answer(ended, arguments),
        Err(failure) => Err(failure),
    };
    if let Some(own) = person.own.into_inner() {
        own.stop(invocation).await;
    }
    outcome
}

/// What a cutover has come to, everything taken back if it was given up.
pub(crate) struct Ended {
    pub(crate) report: Report,
    /// Why it was given up, if it was.
    pub(crate) failure: Option<Failure>,
}

/// What would happen, and what stands in the way.
pub(crate) async fn rehearse(
    opened: &Opened,
    wishes: &Wishes,
    home: Option<&dyn Home>,
    company: &dyn Company,
) -> Result<Ended, Failure> {
    let cutover = Cutover::new(opened, wishes, home, company, true)?;
    let done = tokio::select! {
        done = cutover.rehearse() => done,
        failure = company.gives_up() => Err(failure),
    };
    Ok(cutover.end(done).await)
}

/// Carries it out; `runs_here`: this process runs the pipeline, and ends it afterwards.
pub(crate) async fn switch(
    opened: &Opened,
    wishes: &Wishes,
    home: Option<&dyn Home>,
    company: &dyn Company,
    runs_here: bool,
) -> Result<Ended, Failure> {
    let mut cutover = Cutover::new(opened, wishes, home, company, false)?;
    cutover.runs_here = runs_here;
    let done = tokio::select! {
        done = Box::pin(cutover.switch()) => done,
        failure = company.gives_up() => Err(failure),
    };
    Ok(cutover.end(done).await)
}

/// Says what it has come to, and writes the report where it was asked for.
fn answer(ended: Ended, arguments: &CutoverArgs) -> Outcome {
    let Ended { report, failure } = ended;
    let refusal = match failure {
        None => None,
        Some(Failure::Error(err)) if is_verdict(err.code()) => Some(err),
        Some(failure) => {
            let undone = report.undone.join("; ");
            return Err(match failure {
                Failure::Error(err) => {
                    let given_up: tidemark_core::Result<()> = Err(err);
                    let given_up = given_up.context(|| format!("given up ({undone})"));
                    given_up.map_or_else(Failure::from, |()| Failure::usage(""))
                }
                Failure::Signalled(exit, why) => {
                    Failure::Signalled(exit, format!("{why}, given up: {undone}"))
                }
                Failure::Config(problems) => Failure::Config(problems),
            });
        }
    };
    if let Some(file) = &arguments.report {
        std::fs::write(file, report.markdown(refusal.as_ref())).map_err(|err| {
            let shown = file.display();
            Error::definite(codes::CLI_MACHINE, format!("write {shown}: {err}"))
        })?;
    }
    let begins = match arguments.reverse {
        Some(Kept::OnServer) => "start",
        _ => "run",
    };
    Ok(report.answer(refusal.as_ref(), begins))
}

/// Takes down a fence that was left.
async fn abort(invocation: &Invocation, opened: &Opened) -> Outcome {
    let is_fenced = systems::is_fenced(&opened.config, Side::Source).await?;
    if is_fenced {
        confirm_abort(invocation, opened.name()).await?;
        systems::lower_fence(&opened.config, Side::Source).await?;
    }
    Ok(answer_of_abort(opened.name(), &opened.word(), is_fenced))
}

async fn confirm_abort(invocation: &Invocation, pipeline: &str) -> Result<(), Error> {
    let asked = invocation.talk.confirm(
        "Lets the source be written to again. What is written there reaches the target only while \
         the pipeline runs.",
        "Type the pipeline's name to continue:",
        pipeline,
    );
    asked.await
}

/// `lowered`: whether there was a fence.
fn answer_of_abort(pipeline: &str, word: &str, lowered: bool) -> Answer {
    let data = serde_json::json!({ "pipeline": pipeline, "lowered": lowered });
    if !lowered {
        return Answer::new("the source is not fenced: nothing to take down", data);
    }
    Answer::new("the source takes writes again", data)
        .notice(format!("whether the pipeline runs: tidemark status {word}"))
}

/// A cutover under way.
struct Cutover<'a> {
    company: &'a dyn Company,
    opened: &'a Opened,
    wishes: &'a Wishes,
    /// Where a way back is kept, if one is wanted.
    home: Option<&'a dyn Home>,
    /// Whether this process runs the pipeline.
    runs_here: bool,
    hold: HoldId,
    /// Of the comparison that is under way, or was the last.
    progress: Arc<Progress>,
    undo: Mutex<Undo<'a>>,
    report: Mutex<Report>,
}

/// What was done so far that has to be taken back if it comes to nothing.
#[derive(Default)]
struct Undo<'a> {
    /// The source is fenced, or that was begun.
    fence: Option<Fence>,
    /// The writers were stopped by a command, or that was begun.
    stopped: bool,
    /// The pipeline may be held.
    held: bool,
    /// The target may be written to: nothing is taken back any more.
    is_past: bool,
    /// A pipeline that copies back was made, or that was begun.
    back: Option<Back<'a>>,
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

/// How long a server may take for what is taken back there: whoever gives a cutover up does so because
/// something does not come to an end.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(10);

/// Whether something was taken back.
async fn in_time(taken_back: impl Future<Output = Result<(), Failure>>) -> bool {
    matches!(
        tokio::time::timeout(TAKEN_BACK_WITHIN, taken_back).await,
        Ok(Ok(()))
    )
}

impl<'a> Cutover<'a> {
    fn new(
        opened: &'a Opened,
        wishes: &'a Wishes,
        home: Option<&'a dyn Home>,
        company: &'a dyn Company,
        is_rehearsal: bool,
    ) -> Result<Cutover<'a>, Failure> {
        if !opened.config.mode.streams() {
            let name = opened.name();
            let text = format!("{name} follows no log: a full load alone has nothing to drain");
            return Err(Error::definite(codes::CUTOVER_NOT_READY, text).into());
        }
        Ok(Cutover {
            company,
            opened,
            wishes,
            home,
            runs_here: false,
            hold: HoldId::random(),
            progress: Arc::default(),
            undo: Mutex::default(),
            report: Mutex::new(Report::new(opened.name(), is_rehearsal)),
        })
    }

    /// What it has come to, after everything was taken back if it came to nothing.
    async fn end(&self, done: Result<(), Failure>) -> Ended {
        let word = self.opened.word();
        let failure = done.err().map(|failure| failure.of_pipeline(&word));
        if failure.is_some() {
            let undone = self.take_back().await;
            self.with_report(|report| report.undone = undone);
        }
        let report = self.with_report(|report| report.clone());
        Ended { report, failure }
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
        let back_gone = async {
            match &undo.back {
                Some(back) => in_time(back.take_back()).await,
                None => true,
            }
        };
        let fence_down = async {
            let lowered = systems::lower_fence(&self.opened.config, Side::Source);
            undo.fence != Some(Fence::Ours) || in_time(lowered).await
        };
        let (back_gone, fence_down) = tokio::join!(back_gone, fence_down);
        if let Some(back) = &undo.back {
            said.push(if back_gone {
                "the way back is removed again".to_owned()
            } else {
                back.left()
            });
        }
        let word = self.opened.word();
        said.push(match undo.fence {
            None => "the source takes writes as before".to_owned(),
            Some(Fence::Found) => format!(
                "the source was read-only before this began, and still is: \
                 tidemark cutover {word} --abort"
            ),
            Some(Fence::Ours) if fence_down => "the source takes writes again".to_owned(),
            Some(Fence::Ours) => format!(
                "the source did not take its fence down in time and may still refuse writes: \
                 tidemark cutover {word} --abort"
            ),
        });
        if undo.stopped {
            said.push(match &self.wishes.start_writers {
                Some(command) => match self.company.runs(Hook::StartWriters, command).await {
                    Ok(()) => "the writers were started again".to_owned(),
                    Err(_) => "the command that starts the writers failed: start them".to_owned(),
                },
                None => "start the writers again".to_owned(),
            });
        }
        said.push(if self.runs_here {
            format!("the pipeline ends in order, and goes on with: tidemark run {word}")
        } else if self.with_report(|report| report.is_done("streaming")) {
            "the pipeline streams on".to_owned()
        } else {
            "the pipeline is as it was".to_owned()
        });
        said
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
        let (line, report) = self.with_report(|report| {
            let line = report.tick(text, began.elapsed());
            (line, report.clone())
        });
        self.company.hears(&line, &report).await;
        Ok(value)
    }

    fn with_report<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn undo(&self) -> std::sync::MutexGuard<'_, Undo<'a>> {
        // Each flag is set on its own, so a panic elsewhere leaves nothing half done.
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a refusal is the answer to whether this is the moment.
pub(crate) fn is_verdict(code: Code) -> bool {
    [
        codes::CUTOVER_NOT_READY,
        codes::CUTOVER_NOT_SILENT,
        codes::CUTOVER_DIFFERENT,
    ]
    .contains(&code)
}
