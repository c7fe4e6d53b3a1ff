//! `init SOURCE-URL TARGET-URL`: looks at both, asks at most three questions, writes a commented file.
//!
//! The file is made as text first and read back by the same reader as every other, so that what is
//! written is known to be understood. Passwords of the URLs do not go into the file: it refers to
//! environment variables, and what to set is said.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::config::{self, Document, Input, PipelineConfig, Surroundings};
use tidemark_core::finding::{Finding, Verdict};
use tidemark_core::selection::Glob;
use tidemark_core::words::shell_word;

use crate::invocation::Invocation;
use crate::output::numbers::{bytes, counted};
use crate::output::{Answer, Outcome};
use crate::pipeline_file::Opened;
use crate::problem::Failure;
use crate::verbs::check;

#[derive(Args, Clone, Debug)]
pub(crate) struct InitArgs {
    /// Where rows come from: `postgres://user@host:5432/database`
    #[arg(value_name = "SOURCE-URL")]
    source: String,
    /// Where rows go: `postgres://user@host:5432/database`
    #[arg(value_name = "TARGET-URL")]
    target: String,
    /// Name of the pipeline; without it the source's database
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The file to write; without it NAME.toml
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What the file will say.
struct Draft {
    name: String,
    mode: &'static str,
    include: Vec<String>,
    source: Url,
    target: Url,
}

/// A URL and the password that was in it.
struct Url {
    text: String,
    password: Option<String>,
}

/// Modes, the default first.
const MODES: [&str; 3] = ["full_load_and_cdc", "full_load_only", "cdc_only"];

pub(crate) async fn run(invocation: &Invocation, arguments: &InitArgs) -> Outcome {
    let talk = &invocation.talk;
    let (source, target) = (Url::of(&arguments.source), Url::of(&arguments.target));
    let suggested = arguments.name.clone().unwrap_or_else(|| name_of(&source));
    let mut draft = Draft {
        name: suggested,
        mode: MODES[0],
        include: vec!["*.*".to_owned()],
        source,
        target,
    };
    let opened = draft.open()?;
    let schema = opened
        .source
        .describe(opened.config.rules.selection())
        .await?;
    let mut by_schema: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for table in &schema.tables {
        let (count, size) = by_schema.entry(&table.name.schema).or_default();
        *count += 1;
        *size += table.bytes;
    }
    for (schema, (count, size)) in &by_schema {
        let tables = counted(*count as u64, "table");
        talk.say(&format!("  {schema}: {tables}, {}", bytes(*size)));
    }
    if arguments.name.is_none() {
        draft.name = talk.ask("Name of the pipeline", &draft.name).await;
    }
    let all: Vec<&str> = by_schema.keys().copied().collect();
    if all.is_empty() {
        talk.say("  the source has no tables yet");
    }
    let suggested = if all.is_empty() {
        "public".to_owned()
    } else {
        all.join(", ")
    };
    let schemas = talk
        .ask("Schemas to copy, separated by commas", &suggested)
        .await;
    draft.include = patterns(&schemas, &all)?;
    let question = format!("Mode ({})", MODES.join(", "));
    let mode = talk.ask(&question, MODES[0]).await;
    draft.mode = MODES
        .into_iter()
        .find(|known| *known == mode)
        .ok_or_else(|| {
            Failure::usage(format!(
                "`{mode}` is no mode; modes are {}",
                MODES.join(", ")
            ))
        })?;

    let opened = draft.open()?;
    let checked = check::look(&opened).await?;
    let file = arguments
        .output
        .clone()
        .unwrap_or_else(|| format!("{}.toml", draft.name).into());
    let text = draft.text();
    write_new(&file, &config::format(&text).unwrap_or(text))?;
    Ok(answer(&draft, &file, &checked.findings))
}

/// Patterns of the schemas that were typed: names as they are, or with `*` and `?`.
fn patterns(typed: &str, known: &[&str]) -> Result<Vec<String>, Failure> {
    let typed = typed.split(',').map(str::trim);
    typed
        .filter(|schema| !schema.is_empty())
        .map(|schema| {
            let glob = if known.contains(&schema) || !schema.contains(['*', '?']) {
                Glob::Name(schema.to_owned())
            } else {
                Glob::Wild(schema.to_owned())
            };
            if known.is_empty() || known.iter().any(|known| glob.matches(known)) {
                return Ok(format!("{glob}.*"));
            }
            let near = config::problem::suggestion(schema, known.iter().copied());
            let near = near.map_or_else(
                || format!("schemas are {}", known.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            Err(Failure::usage(format!(
                "the source has no schema `{schema}` with tables; {near}"
            )))
        })
        .collect()
}

fn answer(draft: &Draft, file: &Path, findings: &[Finding]) -> Answer {
    let shown = shell_word(&file.display().to_string());
    let failed = check::count(findings, Verdict::Failed);
    let data = json!({
        "pipeline": draft.name, "file": file.display().to_string(), "include": draft.include,
        "mode": draft.mode, "failed_checks": failed,
    });
    let mut answer = Answer::new(format!("✓ wrote {shown}"), data);
    for (url, variable) in [
        (&draft.source, SOURCE_PASSWORD),
        (&draft.target, TARGET_PASSWORD),
    ] {
        if url.password.is_some() {
            answer = answer.notice(format!(
                "the password is not in the file: set {variable} in the environment"
            ));
        }
    }
    let warned = check::count(findings, Verdict::Warning);
    answer.notice(match (failed, warned) {
        (0, 0) => format!("everything is ready: tidemark run {shown}"),
        // What is warned of may meet others: a source that refuses updates once a table is published.
        (0, 1) => format!("1 check warns, see it before you run it: tidemark check {shown}"),
        (0, _) => {
            format!("{warned} checks warn, see them before you run it: tidemark check {shown}")
        }
        (1, _) => format!("1 check fails: tidemark check {shown}"),
        _ => format!("{failed} checks fail: tidemark check {shown}"),
    })
}

const SOURCE_PASSWORD: &str = "SOURCE_PASSWORD";
const TARGET_PASSWORD: &str = "TARGET_PASSWORD";

/// The passwords of the URLs, as the file will ask for them.
struct Passwords<'a>(&'a Draft);

impl Surroundings for Passwords<'_> {
    fn env(&self, name: &str) -> Option<String> {
        match name {
            SOURCE_PASSWORD => self.0.source.password.clone(),
            TARGET_PASSWORD => self.0.target.password.clone(),
            _ => None,
        }
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Err("no file is referred to".to_owned())
    }

    fn credential(&self, _: &str) -> Result<String, String> {
        Err("no credential is referred to".to_owned())
    }
}

impl Draft {
    /// The pipeline that the text describes.
    fn open(&self) -> Result<Opened, Failure> {
        let config: PipelineConfig = config::read(Input {
            file: Document::new("the new pipeline file", self.text()),
            connections: Vec::new(),
            overrides: &[],
            surroundings: &Passwords(self),
        })?
        .config;
        Opened::of(PathBuf::from("pipeline.toml"), config)
    }

    fn text(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let include: Vec<String> = self.include.iter().map(|pattern| quoted(pattern)).collect();
        let password = |url: &Url, variable: &str| match url.password {
            Some(_) => format!("password = \"${{env:{variable}}}\"\n"),
            None => String::new(),
        };
        let start = match self.mode {
            "cdc_only" => "start = \"now\"                        # now | lsn:16/B374D848\n",
            _ => "",
        };
        format!(
            "# A Tidemark pipeline. All keys: tidemark config schema\n\
             version = 1\n\n\
             [pipeline]\n\
             name = {name}\n\
             mode = {mode}            # full_load_only | cdc_only | full_load_and_cdc\n\
             {start}\n\
             [source]\n\
             url = {source}\n\
             {source_password}\n\
             [target]\n\
             url = {target}\n\
             {target_password}\
             # schema = \"copy\"                    # into this schema; without it as on the source\n\
             # existing = \"load_if_empty\"         # fail | append_if_empty | skip_loaded | truncate | drop | swap\n\n\
             [tables]\n\
             include = [{include}]\n\
             # exclude = [\"public.tmp_*\"]\n\n\
             # [[table]]                          # an exception for one table\n\
             # source = \"public.orders\"\n\
             # target = \"public.all_orders\"\n\
             # rename = {{ qty = \"quantity\" }}\n\
             # where = \"created_at >= '2024-01-01'\"\n\n\
             # [[mask]]                           # values that must not leave as they are\n\
             # columns = [\"public.customers.email\"]\n\
             # with = \"hash\"                      # hash | redact | null | partial | fixed\n\
             # salt = \"${{env:MASK_SALT}}\"\n",
            name = quoted(&self.name),
            mode = quoted(self.mode),
            source = quoted(&self.source.text),
            source_password = password(&self.source, SOURCE_PASSWORD),
            target = quoted(&self.target.text),
            target_password = password(&self.target, TARGET_PASSWORD),
            include = include.join(", "),
        )
    }
}

impl Url {
    /// Takes the password out of `scheme://user:password@rest`.
    fn of(text: &str) -> Url {
        let whole = || Url {
            text: text.to_owned(),
            password: None,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return whole();
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let Some((user, hosts)) = authority.rsplit_once('@') else {
            return whole();
        };
        let Some((user, password)) = user.split_once(':') else {
            return whole();
        };
        let password = percent_decoded(password);
        Url {
            text: format!("{scheme}://{user}@{hosts}{path}"),
            password: Some(password),
        }
    }
}

/// `%40` is `@`; what is no escape stays.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| *first == b'%');
        let value = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = value {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A pipeline's name from the source's database.
fn name_of(url: &Url) -> String {
    let path = url.text.split_once("://").map_or("", |(_, rest)| rest);
    let database = path.split_once('/').map_or("", |(_, database)| database);
    let database = database
        .split('?')
        .next()
        .unwrap_or_default()
        .to_lowercase();
    let name: String = database
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '_'
            }
        })
        .take(40)
        .collect();
    if name.is_empty() {
        "pipeline".to_owned()
    } else {
        name
    }
}

/// Writes a file that is not there yet.
fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|err| {
        let shown = file.display();
        match err.kind() {
            ErrorKind::AlreadyExists => Error::definite(
                codes::CLI_CONSENT,
                format!("{shown} exists and is not overwritten"),
            )
            .first_action("give another file with --output"),
            _ => Error::definite(codes::CLI_MACHINE, format!("write {shown}: {err}")),
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(mode: &'static str) -> Draft {
        Draft {
            name: "shop".to_owned(),
            mode,
            include: vec!["public.*".to_owned(), "Ünusual \"one\".*".to_owned()],
            source: Url::of(
                "postgres://tidemark:p%40ss:word@orders-db:5432/orders?sslmode=require",
            ),
            target: Url::of("postgres://loader@/dw?host=/run/postgresql"),
        }
    }

    #[test]
    fn passwords_leave_the_url() {
        let draft = draft(MODES[0]);
        assert_eq!(
            draft.source.text,
            "postgres://tidemark@orders-db:5432/orders?sslmode=require"
        );
        assert_eq!(draft.source.password.as_deref(), Some("p@ss:word"));
        assert_eq!(
            draft.target.text,
            "postgres://loader@/dw?host=/run/postgresql"
        );
        assert!(!draft.text().contains("word@") && draft.text().contains("${env:SOURCE_PASSWORD}"));
        assert_eq!(name_of(&draft.source), "orders");
        assert_eq!(name_of(&Url::of("nonsense")), "pipeline");
    }

    #[test]
    fn schemas_are_names_patterns_or_mistakes() {
        let known = ["public", "sales_eu", "sales_us", "Odd.One", "a*b"];
        let chosen = |typed: &str| patterns(typed, &known).map_err(|failure| failure.exit());
        assert_eq!(
            chosen("public, sales_*,, Odd.One, a*b"),
            Ok(["public.*", "sales_*.*", "\"Odd.One\".*", "\"a*b\".*"]
                .map(str::to_owned)
                .to_vec())
        );
        assert_eq!(chosen("publik"), Err(crate::exit::Exit::Usage));
        assert_eq!(chosen("x*"), Err(crate::exit::Exit::Usage));
    }

    #[test]
    fn what_is_written_is_understood() {
        for mode in MODES {
            let draft = Draft {
                include: vec!["public.*".to_owned()],
                ..draft(mode)
            };
            let opened = draft
                .open()
                .map_err(|failure| failure.text(crate::output::style::Style::PLAIN, None));
            assert_eq!(opened.map(|opened| opened.config.mode.name()), Ok(mode));
        }
    }
}
