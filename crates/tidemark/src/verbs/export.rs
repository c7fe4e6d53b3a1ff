//! `export`: definitions of a server as pipeline files, or reports of its pipelines. A secret comes as `***`;
//! where a file with that is applied to the same server, the server keeps the secret that it has.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, config};

use crate::invocation::Invocation;
use crate::output::{Answer, Outcome};
use crate::problem::Failure;
use crate::remote::Remote;

#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// Pipelines of the server; with --to all of them where none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Write NAME.toml (or .html) of each into this directory, instead of one to standard output
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// What of it: its definition, or a report in one document that needs nothing else
    #[arg(long, value_enum, default_value = "toml")]
    format: Format,
    /// How far a report looks back, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 24,
          value_parser = clap::value_parser!(u16).range(1..=720))]
    hours: u16,
}

/// What is written of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Toml,
    Html,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &ExportArgs) -> Outcome {
    let server = Remote::named(invocation)?;
    let names = match (arguments.names.as_slice(), &arguments.to) {
        ([], None) => {
            let text = "name a pipeline, or say with --to where all of them are to be written";
            return Err(Failure::usage(text));
        }
        ([_, _, ..], None) => {
            let text = "several pipelines are several files: say with --to where they are written";
            return Err(Failure::usage(text));
        }
        ([], Some(_)) => server.names(None).await?,
        (names, _) => names.to_vec(),
    };
    let mut definitions = Vec::new();
    for name in names {
        let there = server.pipeline(&name);
        let text = match arguments.format {
            Format::Toml => there.definition().await?,
            Format::Html => there.report(arguments.hours).await?,
        };
        definitions.push((name, text));
    }
    let (ending, what) = match arguments.format {
        Format::Toml => ("toml", "definition"),
        Format::Html => ("html", "report"),
    };
    let (mut lines, mut data, mut masked) = (Vec::new(), Vec::new(), Vec::new());
    for (name, text) in &definitions {
        let file = match &arguments.to {
            None => {
                lines.push(text.strip_suffix('\n').unwrap_or(text).to_owned());
                Value::Null
            }
            Some(directory) => {
                let file = directory.join(format!("{name}.{ending}"));
                let wrote = write(&file, text, invocation.everywhere.yes)?;
                let glyph = if wrote { "✓" } else { "=" };
                lines.push(format!("{glyph} {}", file.display()));
                json!(file)
            }
        };
        if arguments.format == Format::Toml && config::has_masks(text) {
            masked.push(name.as_str());
        }
        data.push(json!({ "pipeline": name, "file": file, what: text }));
    }
    let answer = Answer::new(
        lines.join("\n"),
        json!({ "server": server.shown(), "pipelines": data }),
    );
    Ok(match masked.as_slice() {
        [] => answer,
        masked => answer.notice(format!(
            "secrets of {} are not shown: *** applied to this server leaves them as they are; \
             for another write references such as ${{env:NAME}} in their places",
            masked.join(", ")
        )),
    })
}

/// Writes a file; one that says something else is replaced with consent only. `false`: it says so already.
fn write(file: &Path, text: &str, may_replace: bool) -> Result<bool, Failure> {
    let failed = |err: std::io::Error| {
        let text = format!("write {}: {err}", file.display());
        Failure::from(Error::definite(codes::CLI_MACHINE, text))
    };
    match std::fs::read_to_string(file) {
        Ok(there) if there == text => return Ok(false),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
        _ if may_replace => {}
        Ok(_) | Err(_) => {
            let text = format!("{} is there and says something else", file.display());
            return Err(Error::definite(codes::CLI_CONSENT, text).into());
        }
    }
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let opened = options.open(file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(failed)?;
    Ok(true)
}
