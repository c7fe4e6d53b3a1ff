//! The command line: its tree, its help, and what to say when it is not understood.
//!
//! Arguments of a verb are declared beside the verb; here are the verbs themselves, what all of them
//! accept, and the order in which help presents it all: examples first. Completions and man pages are
//! made from the same tree ([`command`]).

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::logging::LogForm;
use crate::output::numbers::parse_duration;
use crate::output::put;
use crate::remote::Address;
use crate::verbs;

pub(crate) mod examples;
#[cfg(test)]
mod reference;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark",
    version,
    about = "Copies a database and keeps the copy current, with no gap and no duplicate between the two.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) everywhere: Everywhere,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// What every verb accepts.
#[derive(Args, Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each flag, as clap wants them"
)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Everywhere {
    /// One JSON object per answer on stdout, and nothing else there
    #[arg(long, global = true, env = "TIDEMARK_JSON", hide_env = true,
          value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
    /// Only results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No colour (also `NO_COLOR`)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// No progress (also `TIDEMARK_NO_PROGRESS`)
    #[arg(long, global = true, env = "TIDEMARK_NO_PROGRESS", hide_env = true,
          value_parser = FalseyValueParser::new())]
    pub(crate) no_progress: bool,
    /// Never ask; what needs consent is refused without --yes
    #[arg(long, global = true, env = "TIDEMARK_NO_INPUT", hide_env = true,
          value_parser = FalseyValueParser::new())]
    pub(crate) no_input: bool,
    /// Give the consent that would be asked for
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
    /// Give up after this long (30s, 5m); what runs a pipeline stops in order
    #[arg(long, global = true, value_name = "TIME", env = "TIDEMARK_TIMEOUT", hide_env = true,
          value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// The pipeline file of verbs that are given none
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TIDEMARK_CONFIG",
        hide_env = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Ask this server, http://HOST:PORT, instead of the databases (also `TIDEMARK_SERVER`)
    #[arg(long, global = true, value_name = "URL", value_parser = Address::parse,
          conflicts_with = "context")]
    pub(crate) server: Option<Address>,
    /// Ask the server of this context, from tidemark/contexts.toml of your configuration (also
    /// `TIDEMARK_CONTEXT`)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The token for the server is in this file (also `TIDEMARK_TOKEN_FILE`, or the token itself in
    /// `TIDEMARK_TOKEN`)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TIDEMARK_TOKEN_FILE",
        hide_env = true
    )]
    pub(crate) token_file: Option<PathBuf>,
    /// Form of log lines; without it text on a terminal, else json
    #[arg(long, global = true, value_name = "FORM", env = "TIDEMARK_LOG_FORMAT", hide_env = true,
          value_parser = log_form, hide_possible_values = true)]
    pub(crate) log_format: Option<LogForm>,
}

fn log_form(text: &str) -> Result<LogForm, String> {
    match text {
        "text" => Ok(LogForm::Text),
        "json" => Ok(LogForm::Json),
        _ => Err("write text or json".to_owned()),
    }
}

/// The verbs, in the order of the first screen.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Two real databases, live traffic, a verified result
    Demo(verbs::demo::DemoArgs),
    /// Write a pipeline file from two connection strings
    Init(verbs::init::InitArgs),
    /// Is everything ready? Prints the SQL to fix what is not
    Check(verbs::check::CheckArgs),
    /// What would happen, how long, what does not fit; changes nothing
    Plan(verbs::plan::PlanArgs),
    /// One pipeline, here, now
    Run(verbs::run::RunArgs),
    /// Many pipelines in one process, with an API
    Serve(verbs::serve::ServeArgs),
    /// Make a server agree with pipeline files
    Apply(verbs::apply::ApplyArgs),
    /// How a server differs from pipeline files; exit 3 if it does
    Diff(verbs::apply::DiffArgs),
    /// Pipelines of a server as files
    Export(verbs::export::ExportArgs),
    /// State, health and what needs you
    Status(verbs::status::StatusArgs),
    /// Every table, those that need you first
    Tables(verbs::tables::TablesArgs),
    /// Positions, gap, latency and slot
    Lag(verbs::lag::LagArgs),
    /// The last log lines that a server has of a pipeline
    Logs(verbs::logs::LogsArgs),
    /// The first rows of a table on both sides, side by side
    Peek(verbs::rows::PeekArgs),
    /// One row on both sides, and what is known of it; exit 3 if it differs
    Trace(verbs::rows::TraceArgs),
    /// Compare both sides at one position while writes go on; exit 3 if different
    Verify(verbs::verify::VerifyArgs),
    /// Apply nothing more until resumed; the source keeps its log
    Pause(verbs::control::PauseArgs),
    /// Go on after a pause
    Resume(verbs::control::PauseArgs),
    /// Have a server run a pipeline that it has; without a server: run
    Start(verbs::control::StartArgs),
    /// Finish the batch, write the checkpoint, end the process that runs it
    Stop(verbs::control::StopArgs),
    /// Bridge a gap: compare with the source, copy only what differs, go on
    Reconcile(verbs::reconcile::ReconcileArgs),
    /// Copy tables anew while the others stream
    Resync(verbs::resync::ResyncArgs),
    /// Make the target the database that is written to, with proof; --dry-run first
    Cutover(verbs::cutover::CutoverArgs),
    /// Apply what was refused again: rows in quarantine, and tables that are set aside
    Retry(verbs::quarantine::RetryArgs),
    /// Go on with a table that is set aside, and keep the rows that cannot be applied aside
    Skip(verbs::quarantine::SkipArgs),
    /// Rows that could not be applied: list, show, export, release, drop
    Quarantine(verbs::quarantine::QuarantineArgs),
    /// Set the target's sequences to the source's present values
    Sequences(verbs::sequences::SequencesArgs),
    /// What holds back the source's log, and for whom
    Slots(verbs::slots::SlotsArgs),
    /// What fires on a server, which rules there are, and who is told; exit 3 if anything fires
    Alerts(verbs::alerts::AlertsArgs),
    /// What an error or check code means, and what to do first
    Explain(verbs::explain::ExplainArgs),
    /// Servers by name: list, add, use
    Context(verbs::context::ContextArgs),
    /// The pipeline file itself: schema, lint, fmt
    Config(verbs::config::ConfigArgs),
    /// Completions for a shell
    Completions(verbs::completions::CompletionsArgs),
    /// Manual pages
    Man(verbs::man::ManArgs),
    /// Version of this program
    Version,
}

impl Verb {
    /// The verb as typed, and as the envelope names it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Verb::Demo(_) => "demo",
            Verb::Init(_) => "init",
            Verb::Check(_) => "check",
            Verb::Plan(_) => "plan",
            Verb::Run(_) => "run",
            Verb::Serve(_) => "serve",
            Verb::Apply(_) => "apply",
            Verb::Diff(_) => "diff",
            Verb::Export(_) => "export",
            Verb::Status(_) => "status",
            Verb::Tables(_) => "tables",
            Verb::Lag(_) => "lag",
            Verb::Logs(_) => "logs",
            Verb::Peek(_) => "peek",
            Verb::Trace(_) => "trace",
            Verb::Verify(_) => "verify",
            Verb::Pause(_) => "pause",
            Verb::Resume(_) => "resume",
            Verb::Start(_) => "start",
            Verb::Stop(_) => "stop",
            Verb::Reconcile(_) => "reconcile",
            Verb::Resync(_) => "resync",
            Verb::Cutover(_) => "cutover",
            Verb::Retry(_) => "retry",
            Verb::Skip(_) => "skip",
            Verb::Quarantine(_) => "quarantine",
            Verb::Sequences(_) => "sequences",
            Verb::Slots(_) => "slots",
            Verb::Alerts(_) => "alerts",
            Verb::Explain(_) => "explain",
            Verb::Context(_) => "context",
            Verb::Config(_) => "config",
            Verb::Completions(_) => "completions",
            Verb::Man(_) => "man",
            Verb::Version => "version",
        }
    }
}

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A verb.
    Verb(Box<Cli>, Verb),
    /// Text that was asked for: help, version.
    Text(String),
    /// They make no sense.
    Refused(Refusal),
}

/// Why the arguments make no sense.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// All of it, for a person.
    pub(crate) text: String,
    /// The first sentence, for a program.
    pub(crate) sentence: String,
    /// The verb, where it was understood.
    pub(crate) command: &'static str,
    /// Whether `--json` was among the arguments.
    pub(crate) wants_json: bool,
}

/// Reads the arguments, the program's name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(mut cli) => match cli.verb.take() {
            Some(verb) => Parsed::Verb(Box::new(cli), verb),
            None => Parsed::Text(first_screen()),
        },
        Err(err) => match err.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Parsed::Text(err.to_string().trim_end().to_owned())
            }
            _ => Parsed::Refused(refusal(&err, &arguments)),
        },
    }
}

fn refusal(err: &clap::Error, arguments: &[OsString]) -> Refusal {
    let mut text = err.to_string().trim_end().to_owned();
    if let Some((argument, variable)) = from_environment(err, arguments) {
        let quoted = format!("'{argument}'");
        text = text.replacen(&quoted, &format!("{quoted} (from {variable})"), 1);
    }
    let sentence = text.lines().next().unwrap_or_default();
    let sentence = sentence
        .strip_prefix("error: ")
        .unwrap_or(sentence)
        .to_owned();
    let before_dashes = || {
        arguments
            .iter()
            .skip(1)
            .take_while(|argument| *argument != "--")
    };
    let command = before_dashes().find_map(|argument| {
        let argument = argument.to_str()?;
        examples::VERBS
            .iter()
            .map(|verb| verb.name)
            .find(|name| *name == argument)
    });
    Refusal {
        text,
        sentence,
        command: command.unwrap_or("tidemark"),
        wants_json: before_dashes().any(|argument| argument == "--json"),
    }
}

/// The argument that was refused and the variable that gave it, where nobody wrote it on the line.
fn from_environment(err: &clap::Error, arguments: &[OsString]) -> Option<(String, String)> {
    let Some(ContextValue::String(argument)) = err.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split_whitespace().next()?;
    let is_written = |written: &OsString| {
        let written = written.to_str().unwrap_or_default();
        written.split('=').next() == Some(flag)
    };
    let variable = variables().into_iter().find(|(_, of)| of == flag)?.0;
    let is_from_there = std::env::var_os(&variable).is_some() && !arguments.iter().any(is_written);
    is_from_there.then(|| (argument.clone(), variable))
}

/// Variables that stand for arguments, each with its flag.
pub(crate) fn variables() -> Vec<(String, String)> {
    let command = command();
    let verbs = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments);
    let mut variables: Vec<(String, String)> = command
        .get_arguments()
        .chain(verbs)
        .filter_map(|argument| {
            let variable = argument.get_env()?.to_str()?;
            Some((variable.to_owned(), format!("--{}", argument.get_long()?)))
        })
        .collect();
    variables.sort();
    variables.dedup();
    variables
}

/// The tree with its help in our order.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command().help_template(format!("{FIRST_SCREEN}\n\n{{options}}"));
    for verb in examples::VERBS {
        command = command.mut_subcommand(verb.name, |subcommand| with_examples(subcommand, verb));
    }
    command
}

/// A verb's help: what it does, examples, then the rest.
fn with_examples(command: clap::Command, verb: &examples::Verb) -> clap::Command {
    let width = verb
        .examples
        .iter()
        .map(|(line, _)| line.len())
        .max()
        .unwrap_or(0);
    let mut examples = String::new();
    for (line, what) in verb.examples {
        put!(examples, "  {line:width$}   {what}\n");
    }
    command.help_template(format!(
        "{{about-with-newline}}\nExamples:\n{examples}\n{{usage-heading}} {{usage}}\n\n{{all-args}}"
    ))
}

/// `tidemark` alone.
pub(crate) fn first_screen() -> String {
    FIRST_SCREEN.to_owned()
}

const FIRST_SCREEN: &str = "\
Tidemark copies a database and keeps the copy current.

Start      demo        two real databases, live traffic, a verified result
           init        write a pipeline file from two connection strings
           check       is everything ready?   (prints the SQL to fix what is not)
           plan        what would happen, how long, what does not fit
Run        run         one pipeline, here, now
           serve       many pipelines in one process, with an API
           apply       make a server agree with files   (diff shows how it differs)
Watch      status · lag · tables · logs · peek · trace · verify
Act        pause · resume · start · stop · retry · skip · quarantine
           reconcile · resync · cutover · sequences
Also       explain · slots · alerts · export · context · config · completions · man · version

Examples   tidemark check shop.toml --watch
           tidemark run shop.toml --until verified
           tidemark lag shop --max 30s || page-me
More       tidemark help <verb> · man tidemark · tidemark explain TM1010";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound_and_every_verb_has_examples() {
        command().debug_assert();
        let verbs: Vec<String> = command()
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        let described: Vec<&str> = examples::VERBS.iter().map(|verb| verb.name).collect();
        assert_eq!(verbs, described);
    }

    #[test]
    fn every_example_is_understood() {
        for verb in examples::VERBS {
            assert!(!verb.examples.is_empty(), "{}", verb.name);
            for (line, _) in verb.examples {
                let first = line.split(" || ").next().unwrap_or(line);
                let first = first.split(" > ").next().unwrap_or(first);
                let words = first.split_whitespace().map(|word| word.trim_matches('\''));
                match parse(words.map(OsString::from)) {
                    Parsed::Verb(_, parsed) => assert_eq!(parsed.name(), verb.name, "{line}"),
                    other => panic!("{line}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn the_first_screen_names_every_verb_and_no_other() {
        let screen = first_screen();
        for verb in examples::VERBS {
            assert!(screen.contains(verb.name), "{}", verb.name);
        }
    }
}
