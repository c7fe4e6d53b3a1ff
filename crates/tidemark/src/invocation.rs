//! One invocation from arguments to exit code.

use std::ffi::OsString;

use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::cli::{self, Everywhere, Parsed, Refusal, Verb};
use crate::exit::Exit;
use crate::logging::{self, LogForm, Loudness};
use crate::output::screen::Stream;
use crate::output::style::ColourWishes;
use crate::output::{Detail, Form, Outcome, Talk, TalkWishes};
use crate::problem::Failure;
use crate::signals::Signals;
use crate::surroundings::env;
use crate::verbs;

/// What every verb is given.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// How to talk.
    pub(crate) talk: Talk,
    /// What was asked of every verb.
    pub(crate) everywhere: Everywhere,
    /// Ctrl-C and SIGTERM.
    pub(crate) signals: Signals,
}

/// Runs what the arguments ask for.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    match cli::parse(arguments) {
        Parsed::Text(text) => {
            let talk = Talk::new("tidemark", wishes(None));
            talk.screen.write(Stream::Out, &text);
            Exit::Done
        }
        Parsed::Refused(refusal) => refuse(&refusal),
        Parsed::Verb(cli, verb) => {
            let talk = Talk::new(verb.name(), wishes(Some(&cli.everywhere)));
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build();
            let outcome = match runtime {
                Ok(runtime) => runtime.block_on(invoke(talk.clone(), cli.everywhere, verb)),
                Err(err) => Err(machine("start the runtime", &err)),
            };
            finish(&talk, &outcome)
        }
    }
}

async fn invoke(talk: Talk, everywhere: Everywhere, verb: Verb) -> Outcome {
    let signals = Signals::listen().map_err(|err| machine("listen for signals", &err))?;
    let is_terminal = talk.screen.is_terminal(Stream::Err);
    let form = everywhere.log_format.unwrap_or(match is_terminal {
        true => LogForm::Text,
        false => LogForm::Json,
    });
    let _log = logging::start(&talk, form, loudness(&verb), env("TIDEMARK_LOG").as_deref());
    let limit = everywhere.timeout;
    let invocation = Invocation {
        talk,
        everywhere,
        signals: signals.clone(),
    };
    let work = dispatch(&invocation, verb);
    let timed_out = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        name = signals.stop() => Err(Failure::Signalled(name.exit())),
        () = timed_out => Err(Failure::Error(Error::transient(
            codes::CLI_NO_ANSWER,
            "the time given by --timeout is over",
        ))),
    }
}

async fn dispatch(_invocation: &Invocation, verb: Verb) -> Outcome {
    match verb {
        Verb::Explain(arguments) => verbs::explain::run(&arguments),
        Verb::Completions(arguments) => verbs::completions::run(&arguments),
        Verb::Man(arguments) => verbs::man::run(&arguments),
        Verb::Version => Ok(verbs::version::run()),
    }
}

fn loudness(verb: &Verb) -> Loudness {
    match verb {
        _ => Loudness::Answers,
    }
}

/// Writes what came of it.
fn finish(talk: &Talk, outcome: &Outcome) -> Exit {
    talk.screen.leave();
    match outcome {
        Ok(answer) => {
            talk.answer(answer);
            answer.exit()
        }
        Err(failure) => {
            talk.failure(failure);
            failure.exit()
        }
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
