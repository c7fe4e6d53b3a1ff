//! The program: one file per verb, the two databases meet in `systems`, everything else is talk.

use std::process::ExitCode;

mod cli;
mod demo;
mod exit;
mod fail;
mod invocation;
mod logging;
mod machine;
mod output;
mod pipeline_file;
mod problem;
mod progress;
mod remote;
mod scheduled;
mod seen;
mod served;
mod service;
mod signals;
mod standing;
mod surroundings;
mod systems;
mod verbs;
mod watching;

fn main() -> ExitCode {
    invocation::run(std::env::args_os()).into()
}
