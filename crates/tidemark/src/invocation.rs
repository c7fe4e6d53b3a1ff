//! One invocation from arguments to exit code.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::cli::{self, Everywhere, Parsed, Refusal, Verb};
use crate::exit::Exit;
use crate::fail;
use crate::logging::{self, Log, LogForm, Loudness};
use crate::output::screen::Stream;
use crate::output::style::ColourWishes;
use crate::output::{Detail, Form, Outcome, Talk, TalkWishes};
use crate::problem::Failure;
use crate::signals::{OnHangUp, Signals};
use crate::surroundings::env;
use crate::verbs;

/// How long what is open may take to be closed at the end.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);

/// What every verb is given.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// How to talk.
    pub(crate) talk: Talk,
    /// What was asked of every verb.
    pub(crate) everywhere: Everywhere,
    /// Ctrl-C, SIGTERM and SIGHUP.
    pub(crate) signals: Signals,
    /// Form of log lines.
    pub(crate) log_form: LogForm,
    /// What is logged.
    pub(crate) log: Arc<Log>,
}

/// Runs what the arguments ask for.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    match cli::parse(arguments) {
        Parsed::Text(text) => {
            let talk = Talk::new("tidemark", wishes(None));
            talk.screen.write(Stream::Out, &text);
            written(&talk, Exit::Done)
        }
        Parsed::Refused(refusal) => refuse(&refusal),
        Parsed::Verb(cli, verb) => {
            let talk = Talk::new(verb.name(), wishes(Some(&cli.everywhere)));
            let work = || in_runtime(talk.clone(), cli.everywhere, verb);
            // What panicked was said on stderr already; it still gets an exit code of the table.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(Error::definite(codes::INTERNAL, "a panic").into()));
            finish(&talk, &outcome)
        }
    }
}

/// Half of the machine's processors for a pipeline: its stream is two tasks that take turns, and a thread too
/// many is woken for each transaction only to find nothing. With one thread for two processors a stream of
/// small transactions costs a quarter less, and no load or backlog takes longer (`bench/`). All of them for
/// the pipelines of a server.
fn worker_threads(verb: &Verb) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    match verb {
        Verb::Serve(_) => processors,
        _ => (processors / 2).max(1),
    }
}

fn in_runtime(talk: Talk, everywhere: Everywhere, verb: Verb) -> Outcome {
    match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads(&verb))
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let outcome = runtime.block_on(invoke(talk, everywhere, verb));
            // Whatever is open is closed, a store for one. What a thread still waits for then (a name that no
            // resolver answers for, a disk) cannot be called off, and nothing rests on it.
            runtime.shutdown_timeout(CLOSES_WITHIN);
            outcome
        }
        Err(err) => Err(machine("start the runtime", &err)),
    }
}

async fn invoke(talk: Talk, everywhere: Everywhere, verb: Verb) -> Outcome {
    let on_hang_up = match &verb {
        // It reads the files of its pipelines anew.
        Verb::Serve(_) => OnHangUp::Keep,
        _ => OnHangUp::Stop,
    };
    let signals = Signals::listen(on_hang_up).map_err(|err| machine("listen for signals", &err))?;
    let is_terminal = talk.screen.is_terminal(Stream::Err);
    let form = everywhere.log_format.unwrap_or(if is_terminal {
        LogForm::Text
    } else {
        LogForm::Json
    });
    let log = logging::start(&talk, form, loudness(&verb), env("TIDEMARK_LOG").as_deref());
    fail::arm()?;
    let names_server = everywhere.server.is_some() || everywhere.context.is_some();
    if names_server && !verb.asks_servers() {
        let text = format!(
            "tidemark {} speaks to the databases themselves",
            verb.name()
        );
        return Err(Error::definite(codes::SERVER_VERB, text).into());
    }
    let care = verb.care();
    let invocation = Invocation {
        talk,
        everywhere,
        signals,
        log_form: form,
        log: Arc::new(log),
    };
    let work = dispatch(&invocation, verb);
    let cut_off = async {
        if care == Care::Own {
            return std::future::pending().await;
        }
        tokio::select! {
            late = invocation.late() => late,
            name = invocation.signals.stop() => match care {
                Care::Watches => Failure::Signalled(name.exit(), String::new()),
                Care::Acts => Failure::Signalled(
                    name.exit(),
                    "interrupted; what was agreed to already is done all the same: \
                     tidemark status tells".to_owned(),
                ),
                Care::Answers | Care::Own => Failure::interrupted(name),
            },
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        failure = cut_off => Err(failure),
    };
    outcome.map_err(|failure| match invocation.talk.about.get() {
        Some(word) => failure.of_pipeline(word),
        None => failure,
    })
}

impl Invocation {
    /// What comes of `work` that looks and changes nothing, of a verb that cares for itself.
    pub(crate) async fn unless_cut_off<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            late = self.late() => Err(late),
            name = self.signals.stop() => Err(Failure::interrupted(name)),
        }
    }

    /// Returns once the time that `--timeout` gives is over; without it never.
    pub(crate) async fn late(&self) -> Failure {
        match self.everywhere.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
        Failure::Error(Error::transient(
            codes::CLI_NO_ANSWER,
            "the time given by --timeout is over",
        ))
    }
}

/// Who cares for signals and time limits while a verb is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// It looks and answers: it is cut off, and nothing was changed.
    Answers,
    /// It asks for a change and waits for it: it is cut off, the change may come.
    Acts,
    /// It watches until it is cut off.
    Watches,
    /// The verb itself: it has something to bring to an end.
    Own,
}

impl Verb {
    /// Whether it can ask a server instead of databases.
    fn asks_servers(&self) -> bool {
        matches!(
            self,
            Verb::Status(_)
                | Verb::Tables(_)
                | Verb::Lag(_)
                | Verb::Pause(_)
                | Verb::Resume(_)
                | Verb::Start(_)
                | Verb::Stop(_)
                | Verb::Verify(_)
                | Verb::Check(_)
                | Verb::Plan(_)
                | Verb::Resync(_)
                | Verb::Retry(_)
                | Verb::Skip(_)
                | Verb::Quarantine(_)
                | Verb::Apply(_)
                | Verb::Diff(_)
                | Verb::Export(_)
                | Verb::Reconcile(_)
                | Verb::Sequences(_)
                | Verb::Slots(_)
                | Verb::Cutover(_)
                | Verb::Logs(_)
                | Verb::Peek(_)
                | Verb::Trace(_)
                | Verb::Alerts(_)
        )
    }

    fn care(&self) -> Care {
        match self {
            Verb::Run(_)
            | Verb::Serve(_)
            | Verb::Demo(_)
            | Verb::Verify(_)
            | Verb::Reconcile(_)
            | Verb::Cutover(_) => Care::Own,
            Verb::Status(arguments) if arguments.watch.is_on() => Care::Watches,
            Verb::Tables(arguments) if arguments.watch.is_on() => Care::Watches,
            Verb::Lag(arguments) if arguments.watch.is_on() => Care::Watches,
            Verb::Logs(arguments) if arguments.follows() => Care::Watches,
            Verb::Alerts(arguments) if arguments.acts() => Care::Acts,
            Verb::Pause(_)
            | Verb::Resume(_)
            | Verb::Start(_)
            | Verb::Stop(_)
            | Verb::Resync(_)
            | Verb::Retry(_)
            | Verb::Skip(_) => Care::Acts,
            Verb::Apply(arguments) if !arguments.is_dry() => Care::Acts,
            Verb::Check(arguments) if arguments.fixes() => Care::Acts,
            Verb::Sequences(arguments) if arguments.sets() => Care::Acts,
            Verb::Slots(arguments) if arguments.drops() => Care::Acts,
            Verb::Quarantine(arguments) if arguments.acts() => Care::Acts,
            _ => Care::Answers,
        }
    }
}

async fn dispatch(invocation: &Invocation, verb: Verb) -> Outcome {
    match verb {
        Verb::Demo(arguments) => Box::pin(verbs::demo::run(invocation, &arguments)).await,
        Verb::Init(arguments) => verbs::init::run(invocation, &arguments).await,
        Verb::Check(arguments) => verbs::check::run(invocation, &arguments).await,
        Verb::Plan(arguments) => verbs::plan::run(invocation, &arguments).await,
        Verb::Run(arguments) => Box::pin(verbs::run::run(invocation, &arguments)).await,
        Verb::Serve(arguments) => Box::pin(verbs::serve::run(invocation, &arguments)).await,
        Verb::Apply(arguments) => verbs::apply::apply(invocation, &arguments).await,
        Verb::Diff(arguments) => verbs::apply::diff(invocation, &arguments).await,
        Verb::Export(arguments) => verbs::export::run(invocation, &arguments).await,
        Verb::Status(arguments) => verbs::status::run(invocation, &arguments).await,
        Verb::Tables(arguments) => verbs::tables::run(invocation, &arguments).await,
        Verb::Lag(arguments) => verbs::lag::run(invocation, &arguments).await,
        Verb::Logs(arguments) => verbs::logs::run(invocation, &arguments).await,
        Verb::Peek(arguments) => verbs::rows::peek(invocation, &arguments).await,
        Verb::Trace(arguments) => verbs::rows::trace(invocation, &arguments).await,
        Verb::Alerts(arguments) => verbs::alerts::run(invocation, &arguments).await,
        Verb::Verify(arguments) => verbs::verify::run(invocation, &arguments).await,
        Verb::Pause(arguments) => verbs::control::pause(invocation, arguments).await,
        Verb::Resume(arguments) => verbs::control::resume(invocation, arguments).await,
        Verb::Start(arguments) => verbs::control::start(invocation, &arguments).await,
        Verb::Stop(arguments) => verbs::control::stop(invocation, &arguments).await,
        Verb::Reconcile(arguments) => Box::pin(verbs::reconcile::run(invocation, &arguments)).await,
        Verb::Resync(arguments) => verbs::resync::run(invocation, &arguments).await,
        Verb::Cutover(arguments) => Box::pin(verbs::cutover::run(invocation, &arguments)).await,
        Verb::Sequences(arguments) => verbs::sequences::run(invocation, &arguments).await,
        Verb::Retry(arguments) => verbs::quarantine::retry(invocation, &arguments).await,
        Verb::Skip(arguments) => verbs::quarantine::skip(invocation, &arguments).await,
        Verb::Quarantine(arguments) => verbs::quarantine::run(invocation, arguments).await,
        Verb::Slots(arguments) => verbs::slots::run(invocation, arguments).await,
        Verb::Explain(arguments) => verbs::explain::run(&arguments),
        Verb::Context(arguments) => verbs::context::run(invocation, arguments),
        Verb::Config(arguments) => verbs::config::run(invocation, &arguments),
        Verb::Completions(arguments) => verbs::completions::run(&arguments),
        Verb::Man(arguments) => verbs::man::run(&arguments),
        Verb::Version => Ok(verbs::version::run()),
    }
}

fn loudness(verb: &Verb) -> Loudness {
    if matches!(verb, Verb::Run(_) | Verb::Serve(_) | Verb::Reconcile(_)) {
        Loudness::Works
    } else {
        Loudness::Answers
    }
}

/// Writes what came of it.
fn finish(talk: &Talk, outcome: &Outcome) -> Exit {
    talk.screen.leave();
    match outcome {
        Ok(answer) => {
            talk.answer(answer);
            written(talk, answer.exit())
        }
        Err(failure) => {
            talk.failure(failure);
            failure.exit()
        }
    }
}

/// Whoever goes on with what we wrote has to know that it is not there.
fn written(talk: &Talk, exit: Exit) -> Exit {
    let Some(err) = talk.screen.unwritten() else {
        return exit;
    };
    let failure = machine("write the result", &err);
    talk.screen
        .write(Stream::Err, &failure.text(talk.err, talk.err_width()));
    match exit {
        Exit::Done => failure.exit(),
        exit => exit,
    }
}

fn refuse(refusal: &Refusal) -> Exit {
    let mut wishes = wishes(None);
    wishes.form = if refusal.wants_json {
        Form::Json
    } else {
        Form::Human
    };
    let talk = Talk::new(refusal.command, wishes);
    match talk.form {
        Form::Json => talk.failure(&Failure::usage(&refusal.sentence)),
        Form::Human => talk.screen.write(Stream::Err, &refusal.text),
    }
    Exit::Usage
}

/// Something about this machine that stops us before any verb.
fn machine(doing: &str, err: &std::io::Error) -> Failure {
    Failure::Error(Error::definite(
        codes::CLI_MACHINE,
        format!("{doing}: {err}"),
    ))
}

fn wishes(everywhere: Option<&Everywhere>) -> TalkWishes {
    let flag = |is_set: fn(&Everywhere) -> bool| everywhere.is_some_and(is_set);
    let verbose = everywhere.map_or(0, |everywhere| everywhere.verbose);
    TalkWishes {
        form: if flag(|e| e.json) {
            Form::Json
        } else {
            Form::Human
        },
        detail: match verbose {
            _ if flag(|e| e.quiet) => Detail::Quiet,
            0 => Detail::Normal,
            1 => Detail::Verbose,
            _ => Detail::Trace,
        },
        colour: ColourWishes {
            is_flag_off: flag(|e| e.no_color),
            is_env_off: env("NO_COLOR").is_some(),
            is_env_forced: env("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            is_dumb: env("TERM").is_some_and(|value| value == "dumb"),
        },
        is_progress_off: flag(|e| e.no_progress),
        is_input_off: flag(|e| e.no_input),
        is_consent_given: flag(|e| e.yes),
    }
}
