//! `completions SHELL`: made from the same tree as the parser.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::cli;
use crate::output::{Answer, Outcome};

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut cli::command(),
        "tidemark",
        &mut script,
    );
    let script = String::from_utf8(script).map_err(|err| {
        Error::definite(codes::INTERNAL, "completions are not UTF-8").caused_by(err)
    })?;
    let data = json!({ "shell": arguments.shell.to_string(), "script": script });
    Ok(Answer::new(script.trim_end(), data))
}
