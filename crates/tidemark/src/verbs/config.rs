//! `config schema|lint|fmt`: the pipeline file itself, without any database.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::invocation::Invocation;
use crate::output::table::{Column, Table};
use crate::output::{Answer, Outcome, Verdict};
use crate::pipeline_file::{self, Opened, Which};
use crate::problem::Failure;
use crate::scheduled;

#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigVerb {
    /// JSON Schema of the pipeline file, or of what commands answer with --json
    Schema {
        /// Of what
        #[arg(long, value_enum, default_value = "pipeline")]
        of: SchemaOf,
    },
    /// Read a pipeline file and say all that is wrong with it
    Lint {
        #[command(flatten)]
        which: Which,
        /// Every key with its value and where it comes from
        #[arg(long)]
        show_origin: bool,
    },
    /// Lay pipeline files out the usual way; values and comments stay as they are
    Fmt {
        /// The files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Change nothing; exit 3 if a file is laid out otherwise
        #[arg(long)]
        check: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SchemaOf {
    Pipeline,
    Answer,
}

pub(crate) fn run(invocation: &Invocation, arguments: &ConfigArgs) -> Outcome {
    match &arguments.verb {
        ConfigVerb::Schema { of } => schema(*of),
        ConfigVerb::Lint { which, show_origin } => lint(invocation, which, *show_origin),
        ConfigVerb::Fmt { files, check } => {
            format_files(files, if *check { Write::Never } else { Write::Changed })
        }
    }
}

fn schema(of: SchemaOf) -> Outcome {
    let schema: Value = match of {
        SchemaOf::Pipeline => tidemark_core::config::schema(),
        SchemaOf::Answer => {
            serde_json::from_str(include_str!("../../schema/answer.schema.json"))
                .map_err(|err| Error::definite(codes::INTERNAL, "our own schema").caused_by(err))?
        }
    };
    let text = serde_json::to_string_pretty(&schema).expect("plain data with text keys");
    Ok(Answer::new(text, schema))
}

fn lint(invocation: &Invocation, which: &Which, show_origin: bool) -> Outcome {
    let file = which.file(invocation)?;
    let reading = which.read(&file)?;
    // A URL is read by the system that it is of.
    Opened::of(file.clone(), reading.config.clone())?;
    let mut lines = vec![format!(
        "✓ {}: pipeline {}",
        file.display(),
        reading.config.name
    )];
    lines.extend(scheduled::line(
        &reading.config,
        invocation.talk.out_width(),
    ));
    if show_origin {
        let mut table = Table::new([
            (Column::Left, "KEY"),
            (Column::Left, "VALUE"),
            (Column::Left, "FROM"),
        ]);
        for key in &reading.effective {
            table.row([
                key.path.as_str().into(),
                key.value.as_str().into(),
                key.origin.to_string().into(),
            ]);
        }
        lines.extend(table.lines(invocation.talk.out, None));
    }
    let keys: Vec<Value> = reading
        .effective
        .iter()
        .map(|key| json!({ "key": key.path, "value": key.value, "origin": key.origin.to_string() }))
        .collect();
    let data = json!({
        "file": file.display().to_string(), "pipeline": reading.config.name, "keys": keys,
        "schedule": scheduled::data(&reading.config),
    });
    Ok(Answer::new(lines.join("\n"), data))
}

/// Whether files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Changed,
    Never,
}

fn format_files(files: &[PathBuf], write: Write) -> Outcome {
    let mut changed = Vec::new();
    for file in files {
        let text = pipeline_file::text(file)?;
        let Some(laid_out) = tidemark_core::config::format(&text) else {
            // The reader says what is wrong, with the place.
            Which::of_file(file).read(file)?;
            return Err(Failure::from(Error::definite(
                codes::CONFIG_SYNTAX,
                format!("{} is not well-formed TOML", file.display()),
            )));
        };
        if laid_out != text {
            changed.push(file.display().to_string());
            if write == Write::Changed {
                replace(file, &laid_out)?;
            }
        }
    }
    let verdict = match (changed.len(), write) {
        (0, _) | (_, Write::Changed) => Verdict::Positive,
        (_, Write::Never) => Verdict::Negative,
    };
    let data = json!({ "files": files, "changed": changed });
    Ok(Answer::new(changed.join("\n"), data).verdict(verdict))
}

/// Writes a file as a whole or not at all.
fn replace(file: &Path, text: &str) -> Result<(), Failure> {
    let draft = file.with_extension("toml.new");
    let written = std::fs::metadata(file)
        .and_then(|old| {
            std::fs::write(&draft, text)?;
            std::fs::set_permissions(&draft, old.permissions())
        })
        .and_then(|()| std::fs::rename(&draft, file));
    written.map_err(|err| {
        Error::definite(
            codes::CLI_MACHINE,
            format!("write {}: {err}", file.display()),
        )
        .into()
    })
}
