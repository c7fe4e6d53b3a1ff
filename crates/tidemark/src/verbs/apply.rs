//! `apply` and `diff`: a server that is to agree with files. What would change is compared by the server,
//! which has the secrets; they come out of it as `***`, and one that is another now shows as a change.
//!
//! Everything is read, compared and validated before anything is changed. What agrees is left alone, so
//! that the same files applied again do nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::invocation::Invocation;
use crate::output::numbers::{about, bytes, counted};
use crate::output::style::{Style, Tone};
use crate::output::waiting::during;
use crate::output::{Answer, Outcome, Verdict};
use crate::pipeline_file::{self, Which};
use crate::problem::Failure;
use crate::remote::{Compared, Remote, There};

#[derive(Args, Clone, Debug)]
pub(crate) struct ApplyArgs {
    /// Pipeline files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Take new pipelines in without starting them
    #[arg(long)]
    no_start: bool,
}

impl ApplyArgs {
    /// Whether it only tells.
    pub(crate) fn is_dry(&self) -> bool {
        self.dry_run
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DiffArgs {
    /// Pipeline files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// By this name a server speaks of a definition that is in no file of its own.
const DEFINITION: &str = "definition.toml";

/// A file, and what the server has of its pipeline.
struct Wanted {
    file: String,
    text: String,
    there: There,
    change: Change,
    /// What it would do, as `plan --json` says it; why that is not known.
    plan: Option<Result<Value, Error>>,
}

enum Change {
    New,
    Same,
    Other(Compared),
}

pub(crate) async fn apply(invocation: &Invocation, arguments: &ApplyArgs) -> Outcome {
    let server = Remote::named(invocation)?;
    let looking = async {
        let mut wanted = compare(&server, &arguments.files).await?;
        for one in &mut wanted {
            one.validate().await?;
        }
        Ok::<_, Failure>(wanted)
    };
    let wanted = during(&invocation.talk, "looking at what would change", looking).await?;
    let effect = effect(&wanted, &server, invocation.talk.out, !arguments.no_start);
    let data = |applied: bool| {
        let pipelines: Vec<Value> = wanted.iter().map(|one| one.data(applied)).collect();
        json!({ "server": server.shown(), "dry_run": arguments.dry_run, "pipelines": pipelines })
    };
    let notices = wanted.iter().filter_map(Wanted::notice);
    if wanted.iter().all(|one| matches!(one.change, Change::Same)) {
        let text = format!("{effect}\n✓ {} agrees with the files", server.shown());
        return Ok(Answer::new(text, data(false)));
    }
    if arguments.dry_run {
        let answer = Answer::new(format!("{effect}\nNothing was changed."), data(false));
        return Ok(notices.fold(answer, Answer::notice));
    }
    let prompt = "Type `apply` to continue:";
    invocation.talk.confirm(&effect, prompt, "apply").await?;
    let mut done: Vec<&str> = Vec::new();
    for one in &wanted {
        one.apply(&server, !arguments.no_start)
            .await
            .map_err(|err| match done.as_slice() {
                [] => one.told(err),
                done => one
                    .told(err)
                    .context(format!("after {} was applied", done.join(", "))),
            })?;
        if !matches!(one.change, Change::Same) {
            done.push(&one.there.name);
        }
    }
    let text = format!(
        "{effect}\n✓ applied to {}: {}",
        server.shown(),
        done.join(", ")
    );
    Ok(notices.fold(Answer::new(text, data(true)), Answer::notice))
}

pub(crate) async fn diff(invocation: &Invocation, arguments: &DiffArgs) -> Outcome {
    let server = Remote::named(invocation)?;
    let wanted = compare(&server, &arguments.files).await?;
    let mut lines = Vec::new();
    for one in &wanted {
        lines.extend(one.diff_lines(&server, invocation.talk.out));
    }
    let pipelines: Vec<Value> = wanted.iter().map(Wanted::compared).collect();
    let agrees = wanted.iter().all(|one| matches!(one.change, Change::Same));
    let data = json!({ "server": server.shown(), "pipelines": pipelines });
    let answer = Answer::new(lines.join("\n"), data);
    Ok(if agrees {
        answer
    } else {
        answer.verdict(Verdict::Negative)
    })
}

/// Every file beside what the server has.
async fn compare(server: &Remote, files: &[PathBuf]) -> Result<Vec<Wanted>, Failure> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut wanted = Vec::new();
    for file in files {
        let shown = file.display().to_string();
        let text = pipeline_file::text(file)?;
        let name = name_of(file, &text)?;
        if let Some(other) = names.insert(name.clone(), shown.clone()) {
            let text = format!("{other} and {shown} are both about the pipeline {name}");
            return Err(Failure::usage(text));
        }
        wanted.push((shown, text, server.pipeline(&name)));
    }
    let mut compared = Vec::new();
    for (file, text, there) in wanted {
        let seen = there.compare(&text).await;
        let mut one = Wanted {
            file,
            text,
            there,
            change: Change::New,
            plan: None,
        };
        one.change = match seen.map_err(|err| one.told(err))? {
            None => Change::New,
            Some(same) if same.diff.is_empty() => Change::Same,
            Some(other) => Change::Other(other),
        };
        compared.push(one);
    }
    Ok(compared)
}

/// The pipeline that a file is about. All else in it is for the server to read, where what the file refers
/// to is.
fn name_of(file: &Path, text: &str) -> Result<String, Failure> {
    let tree: Option<toml::Table> = text.parse().ok();
    let name = tree.as_ref().and_then(|tree| {
        let name = tree.get("pipeline")?.get("name")?;
        name.as_str().map(str::to_owned)
    });
    if let Some(name) = name {
        return Ok(name);
    }
    // The reader says what is wrong, with the place.
    Which::of_file(file).read(file)?;
    let text = format!("{} names no pipeline", file.display());
    Err(Error::definite(codes::CONFIG_MISSING, text).into())
}

impl Wanted {
    /// Has the server read it, and tell what it would do. That its databases do not answer just now is no
    /// fault of a definition.
    async fn validate(&mut self) -> Result<(), Failure> {
        let plan = match &self.change {
            Change::Same => return Ok(()),
            Change::New => self.there.server.plan_new(&self.text).await,
            Change::Other(Compared {
                file: Some(file), ..
            }) => {
                let text = format!("{} is defined by {file} of the server", self.there.name);
                Err(Error::definite(codes::API_FILE_MANAGED, text))
            }
            Change::Other(seen) => self.there.plan_with(&self.text, seen).await,
        };
        match plan {
            Err(err) if is_of_the_definition(&err) => Err(self.told(err).into()),
            plan => {
                self.plan = Some(plan);
                Ok(())
            }
        }
    }

    async fn apply(&self, server: &Remote, starts: bool) -> Result<(), Error> {
        match &self.change {
            Change::Same => Ok(()),
            Change::New => server.create(&self.text, starts).await,
            Change::Other(seen) => self.there.redefine(&self.text, seen).await,
        }
    }

    /// An error that names the file as it is named here.
    fn told(&self, err: Error) -> Error {
        let text = err.to_string();
        if !text.contains(DEFINITION) {
            return err.context(self.file.clone());
        }
        let action = err.action();
        Error::new(err.kind(), err.code(), text.replace(DEFINITION, &self.file))
            .first_action(action)
    }

    fn word(&self) -> &'static str {
        match self.change {
            Change::New => "new",
            Change::Same => "unchanged",
            Change::Other(_) => "changed",
        }
    }

    /// The change in a line.
    fn line(&self, style: Style, starts: bool) -> String {
        let head = format!("{}  {}", self.there.name, self.file);
        match &self.change {
            Change::Same => format!("{}  {head}  unchanged", style.paint(Tone::Faint, "=")),
            Change::New => {
                let then = if starts {
                    "new, and starts"
                } else {
                    "new, as a draft"
                };
                let plan = self.plan.as_ref().and_then(|plan| plan.as_ref().ok());
                let plan = plan
                    .and_then(load)
                    .map_or_else(String::new, |load| format!(": {load}"));
                format!("{}  {head}  {then}{plan}", style.paint(Tone::Good, "+"))
            }
            Change::Other(seen) => {
                let count = |sign: char| {
                    seen.diff
                        .iter()
                        .filter(|line| line.starts_with(sign))
                        .count()
                };
                let then = if seen.running {
                    "; stops at a checkpoint and goes on with it"
                } else {
                    ""
                };
                format!(
                    "{}  {head}  changed, -{} +{}{then}",
                    style.paint(Tone::Caution, "~"),
                    counted(count('-') as u64, "line"),
                    counted(count('+') as u64, "line"),
                )
            }
        }
    }

    fn diff_lines(&self, server: &Remote, style: Style) -> Vec<String> {
        match &self.change {
            Change::Same => Vec::new(),
            Change::New => vec![format!(
                "{}  {}  {}  not on {}",
                style.paint(Tone::Good, "+"),
                self.there.name,
                self.file,
                server.shown()
            )],
            Change::Other(seen) => {
                let managed = seen.file.as_ref();
                let managed =
                    managed.map_or_else(String::new, |file| format!(", defined by {file}"));
                let mut lines = vec![
                    format!("--- {} on {}{managed}", self.there.name, server.shown()),
                    format!("+++ {}", self.file),
                ];
                let painted = |line: &String| match line.chars().next() {
                    Some('-') => style.paint(Tone::Bad, line),
                    Some('+') => style.paint(Tone::Good, line),
                    Some('@') => style.paint(Tone::Faint, line),
                    _ => line.clone(),
                };
                lines.extend(seen.diff.iter().map(painted));
                lines
            }
        }
    }

    fn notice(&self) -> Option<String> {
        let Some(Err(err)) = &self.plan else {
            return None;
        };
        let (name, code) = (&self.there.name, err.code());
        Some(format!(
            "what {name} would do is not known now: {code}: {err}"
        ))
    }

    fn compared(&self) -> Value {
        let diff = match &self.change {
            Change::Other(seen) => seen.diff.as_slice(),
            Change::New | Change::Same => &[],
        };
        json!({
            "pipeline": self.there.name, "file": self.file, "change": self.word(), "diff": diff,
        })
    }

    fn data(&self, applied: bool) -> Value {
        let mut data = self.compared();
        let plan = self.plan.as_ref().and_then(|plan| plan.as_ref().ok());
        data["plan"] = json!(plan);
        data["applied"] = (applied && !matches!(self.change, Change::Same)).into();
        data
    }
}

/// Whether a server refuses the definition, or us: nothing that passes by itself.
fn is_of_the_definition(err: &Error) -> bool {
    let code = err.code().to_string();
    code.starts_with("TM7") || code.starts_with("TM8")
}

/// What a load would bring, from a plan.
fn load(plan: &Value) -> Option<String> {
    let tables = plan["tables"].as_array()?;
    let size = tables
        .iter()
        .filter_map(|table| table["size_bytes"].as_u64())
        .sum();
    let count = counted(tables.len() as u64, "table");
    let seconds = |name: &str| plan["estimate"][name].as_u64();
    let time = |seconds| about(std::time::Duration::from_secs(seconds));
    Some(
        match (seconds("load_seconds_best"), seconds("load_seconds_worst")) {
            (Some(best), Some(worst)) => {
                format!(
                    "{count}, {}, load {} to {}",
                    bytes(size),
                    time(best),
                    time(worst)
                )
            }
            _ => count,
        },
    )
}

/// Every change in a line, and then what changes line by line.
fn effect(wanted: &[Wanted], server: &Remote, style: Style, starts: bool) -> String {
    let mut lines: Vec<String> = wanted.iter().map(|one| one.line(style, starts)).collect();
    for one in wanted {
        if matches!(one.change, Change::Other(_)) {
            lines.extend(one.diff_lines(server, style));
        }
    }
    lines.join("\n")
}
