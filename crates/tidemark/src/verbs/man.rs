//! `man`: manual pages, made from the same tree as the parser.
//!
//! The generator knows nothing of our examples and exit codes, so the page is put together here from
//! its sections.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::cli::{self, examples};
use crate::output::{Answer, Outcome};
use crate::problem::Failure;

#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The verb whose page to print; without it the page of the program
    #[arg(value_name = "VERB")]
    verb: Option<String>,
    /// Write all pages to this directory
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    directory: Option<PathBuf>,
}

pub(crate) fn run(arguments: &ManArgs) -> Outcome {
    if let Some(directory) = &arguments.directory {
        return write_all(directory);
    }
    let (_, page) = match &arguments.verb {
        None => program_page(),
        Some(name) => match examples::VERBS.iter().find(|verb| verb.name == name) {
            Some(verb) => verb_page(verb),
            None => return Err(Failure::usage(format!("there is no verb `{name}`"))),
        },
    };
    Ok(Answer::new(page.trim_end(), json!({ "page": page })))
}

fn write_all(directory: &std::path::Path) -> Outcome {
    let cannot = |path: &std::path::Path, err: &std::io::Error| {
        Error::definite(
            codes::CLI_MACHINE,
            format!("write {}: {err}", path.display()),
        )
    };
    std::fs::create_dir_all(directory).map_err(|err| cannot(directory, &err))?;
    let mut written = Vec::new();
    let pages = std::iter::once(program_page()).chain(examples::VERBS.iter().map(verb_page));
    for (name, page) in pages {
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|err| cannot(&path, &err))?;
        written.push(path.display().to_string());
    }
    Ok(Answer::new(
        written.join("\n"),
        json!({ "written": written }),
    ))
}

fn program_page() -> (String, String) {
    let man = page_of(cli::command());
    let mut out = Vec::new();
    let page = (|| {
        man.render_title(&mut out)?;
        man.render_name_section(&mut out)?;
        man.render_synopsis_section(&mut out)?;
        first_examples().to_writer(&mut out)?;
        man.render_subcommands_section(&mut out)?;
        man.render_options_section(&mut out)?;
        exit_codes().to_writer(&mut out)?;
        environment().to_writer(&mut out)
    })();
    ("tidemark".to_owned(), text_of(page, out))
}

fn verb_page(verb: &examples::Verb) -> (String, String) {
    let mut command = cli::command();
    command.build();
    let command = command
        .find_subcommand(verb.name)
        .expect("a test compares the verbs with the tree")
        .clone()
        .version(env!("CARGO_PKG_VERSION"));
    let man = page_of(command);
    let mut out = Vec::new();
    let page = (|| {
        man.render_title(&mut out)?;
        man.render_name_section(&mut out)?;
        man.render_synopsis_section(&mut out)?;
        examples_section(verb.examples).to_writer(&mut out)?;
        man.render_options_section(&mut out)?;
        exit_codes().to_writer(&mut out)
    })();
    (format!("tidemark-{}", verb.name), text_of(page, out))
}

fn page_of(command: clap::Command) -> Man {
    let source = format!("tidemark {}", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).manual("Tidemark")
}

fn text_of(written: std::io::Result<()>, out: Vec<u8>) -> String {
    written
        .and_then(|()| String::from_utf8(out).map_err(std::io::Error::other))
        .expect("writing text to memory does not fail")
}

fn first_examples() -> Roff {
    let first: Vec<(&str, &str)> = examples::VERBS
        .iter()
        .filter_map(|verb| verb.examples.first().copied())
        .collect();
    examples_section(&first)
}

fn examples_section(examples: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for (line, what) in examples {
        roff.control("TP", []);
        roff.text([bold(*line)]);
        roff.text([roman(*what)]);
    }
    roff
}

fn exit_codes() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "done, verdict positive"),
        ("1", "failed, and no other code fits"),
        ("2", "usage or configuration"),
        (
            "3",
            "ran fine, verdict negative: a check failed, rows differ, a limit is exceeded",
        ),
        ("4", "not allowed: password, role, privilege"),
        ("5", "something cannot be reached"),
        (
            "6",
            "refused to be safe: consent is missing, somebody else owns it, changes would be lost",
        ),
        (
            "129, 130, 143",
            "the terminal was closed (SIGHUP), interrupted, terminated",
        ),
    ] {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff
}

fn environment() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    let mut variables: Vec<(String, String)> = cli::variables()
        .into_iter()
        .map(|(name, flag)| (name, format!("as {flag}")))
        .collect();
    variables.extend(
        [
            ("NO_COLOR", "no colour"),
            (
                "CLICOLOR_FORCE",
                "colour even where the output is not a terminal",
            ),
            (
                "TIDEMARK_LOG",
                "which log lines are written, for example tidemark_core=debug",
            ),
            ("TIDEMARK_SERVER", "the server that is asked, as --server"),
            ("TIDEMARK_CONTEXT", "the server that is asked, as --context"),
            ("TIDEMARK_TOKEN", "the token for that server"),
            (
                "TIDEMARK_STORE_KEY",
                "the key that opens the store of tidemark serve: 64 hexadecimal digits",
            ),
        ]
        .map(|(name, meaning)| (name.to_owned(), meaning.to_owned())),
    );
    variables.sort();
    for (name, meaning) in variables {
        roff.control("TP", []);
        roff.text([bold(name)]);
        roff.text([roman(meaning)]);
    }
    roff
}
