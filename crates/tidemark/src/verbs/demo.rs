//! `demo`: a verified result from nothing, and ways to break it.

use std::os::unix::process::CommandExt;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_lab::demo::{ROWS, ROWS_MIN};

use crate::demo::mark::Mark;
use crate::demo::orders::{self, Break};
use crate::demo::stage;
use crate::demo::worker::Port;
use crate::invocation::Invocation;
use crate::output::screen::Stream;
use crate::output::{Answer, Form, Outcome, Verdict};
use crate::problem::Failure;

mod show;

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    verb: Option<DemoVerb>,
    /// End once the result is verified (so does --json)
    #[arg(long)]
    once: bool,
    /// Rows in the shop, at least 10000
    #[arg(long, value_name = "ROWS", default_value_t = ROWS,
          value_parser = clap::value_parser!(u64).range(ROWS_MIN..))]
    rows: u64,
    /// Transactions a second that change the source meanwhile
    #[arg(long, value_name = "NUMBER", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=20_000))]
    tps: u32,
    /// Port of the page; without it 7070, or any other if that is taken
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Use this server as the source, in a database that is removed at the end (the role needs
    /// CREATEDB and REPLICATION, the server `wal_level` logical)
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// Use this server as the target, in a database that is removed at the end (the role needs
    /// CREATEDB)
    #[arg(long, value_name = "URL")]
    target: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
enum DemoVerb {
    /// Break the running demo, and see that source and target end identical
    Break {
        /// What to break
        #[arg(value_enum)]
        what: Break,
    },
    /// A psql session in one of the running demo's databases
    Psql {
        /// Which
        #[arg(value_enum)]
        side: Which,
        /// Further arguments of psql
        #[arg(last = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
}

/// Which of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Source,
    Target,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &DemoArgs) -> Outcome {
    match &arguments.verb {
        Some(DemoVerb::Break { what }) => break_it(invocation, *what).await,
        Some(DemoVerb::Psql { side, arguments }) => psql(*side, arguments),
        None => {
            let is_once = arguments.once || invocation.talk.form == Form::Json;
            let wishes = show::Wishes {
                source: arguments.source.clone(),
                target: arguments.target.clone(),
                rows: arguments.rows,
                transactions_per_second: arguments.tps,
                port: arguments.port.map_or(Port::Usual, Port::Given),
                ends: if is_once {
                    show::Ends::OnceVerified
                } else {
                    show::Ends::WhenTold
                },
            };
            Box::pin(show::run(invocation, wishes)).await
        }
    }
}

fn running() -> Result<Mark, Failure> {
    Mark::of_running_demo()
        .ok_or_else(|| Error::definite(codes::DEMO_NOT_RUNNING, "no demo is running").into())
}

async fn break_it(invocation: &Invocation, what: Break) -> Outcome {
    let mark = running()?;
    let talk = &invocation.talk;
    let said = |text: &str| {
        if talk.form == Form::Human {
            talk.screen.write(Stream::Out, text);
        }
    };
    let given = orders::give(&mark.socket, what, said);
    let (is_identical, mut data) = tokio::select! {
        given = given => given?,
        name = invocation.signals.stop() => return Err(Failure::Signalled(
            name.exit(),
            "not waited for; the demo mends what was broken by itself".to_owned(),
        )),
    };
    let verdict = if is_identical {
        Verdict::Positive
    } else {
        Verdict::Negative
    };
    data["break"] = json!(what);
    data["is_identical"] = json!(is_identical);
    Ok(Answer::new("", data).verdict(verdict))
}

/// Becomes psql: terminal, signals and exit code are psql's own.
fn psql(side: Which, arguments: &[String]) -> Outcome {
    let mark = running()?;
    let program = stage::installation()?
        .client_program("psql")
        .map_err(|err| crate::demo::lab(&err))?;
    let url = match side {
        Which::Source => &mark.source_url,
        Which::Target => &mark.target_url,
    };
    let err = std::process::Command::new(&program)
        .arg(url)
        .args(arguments)
        .exec();
    Err(Error::definite(
        codes::CLI_MACHINE,
        format!("start {}: {err}", program.display()),
    )
    .into())
}
