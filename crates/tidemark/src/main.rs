//! The program: one file per verb, the two databases meet in `systems`, everything else is talk.

use std::process::ExitCode;

mod cli;
mod exit;
mod invocation;
mod logging;
mod output;
mod problem;
mod progress;
mod signals;
mod surroundings;
mod verbs;

fn main() -> ExitCode {
    invocation::run(std::env::args_os()).into()
}
