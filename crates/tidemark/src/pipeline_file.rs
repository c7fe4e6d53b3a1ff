//! From NAME or FILE to a pipeline that can be spoken to.
//!
//! A word with a `/` or a dot is a file. Any other is a name: `./NAME.toml`, then
//! `./pipelines.d/NAME.toml`, then the running demo. Without either, `--config`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::config::{
    self, Document, Input, Origin, Override, PipelineConfig, Problem, Problems, Reading,
};
use tidemark_core::pipeline::going_on::GoingOn;
use tidemark_core::source::Source;
use tidemark_core::target::Target;
use tidemark_core::words::shell_word;

use crate::demo::mark::Mark;
use crate::invocation::Invocation;
use crate::problem::Failure;
use crate::surroundings::Around;
use crate::systems::{self, ReadAgain};

/// Where pipelines are kept, beside the working directory itself.
const DIRECTORY: &str = "pipelines.d";
/// Shared endpoints, beside the pipeline file.
pub(crate) const CONNECTIONS: &str = "connections.toml";

/// Which pipeline.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// A pipeline file, or the name of one here or in pipelines.d
    #[arg(value_name = "NAME|FILE")]
    pipeline: Option<String>,
    /// A key of the file with another value, for this command alone (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
    /// Keys that have flags of their own.
    #[arg(skip)]
    flags: Vec<Override>,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write a key and its value, for example stream.batch_rows=1000".to_owned()),
    }
}

/// A pipeline whose file was read and whose two sides can be spoken to.
pub(crate) struct Opened {
    /// The file.
    pub(crate) file: PathBuf,
    /// What it says.
    pub(crate) config: PipelineConfig,
    /// Where rows come from.
    pub(crate) source: Arc<dyn Source>,
    /// Where rows go.
    pub(crate) target: Arc<dyn Target>,
}

impl Opened {
    /// Its tables, as a run would go on with them.
    pub(crate) async fn going_on(&self) -> Result<GoingOn, Failure> {
        let rules = &self.config.rules;
        let schema = self.source.describe(rules.selection()).await?;
        let begun = self.target.checkpoint().await?;
        let begun = begun.filter(|_| self.config.mode.streams());
        Ok(GoingOn::of(rules, &schema, begun.as_ref())?)
    }

    /// The pipeline that the arguments name. Connects to nothing yet.
    pub(crate) fn open(invocation: &Invocation, which: &Which) -> Result<Opened, Failure> {
        let file = which.file(invocation)?;
        let config = which.read(&file)?.config;
        let (which, again) = (which.clone(), file.clone());
        let again = move || Some(which.read(&again).ok()?.config);
        let opened = Opened::renewed(file, config, Some(&(Arc::new(again) as ReadAgain)))?;
        // The first that is named is the one that the verb is about.
        invocation.talk.about.get_or_init(|| opened.word());
        Ok(opened)
    }

    /// The pipeline of a file.
    pub(crate) fn open_file(file: &Path) -> Result<Opened, Failure> {
        Opened::of(file.to_path_buf(), read(file, &[])?.config)
    }

    /// The pipeline that a file would describe, were this text in it.
    pub(crate) fn of_text(file: &Path, text: String) -> Result<Opened, Failure> {
        let document = Document::new(file.display().to_string(), text);
        Opened::of(
            file.to_path_buf(),
            read_document(file, document, &[])?.config,
        )
    }

    /// A pipeline that was read already.
    pub(crate) fn of(file: PathBuf, config: PipelineConfig) -> Result<Opened, Failure> {
        Opened::renewed(file, config, None)
    }

    /// One whose passwords may be given anew while it runs.
    pub(crate) fn renewed(
        file: PathBuf,
        config: PipelineConfig,
        again: Option<&ReadAgain>,
    ) -> Result<Opened, Failure> {
        let sides = (
            systems::source(&config, &file, again),
            systems::target(&config, again),
        );
        let (source, target) = match sides {
            (Ok(source), Ok(target)) => (source, target),
            // What is wrong with either is told at once.
            (Err(Failure::Config(mut problems)), Err(Failure::Config(more))) => {
                problems.append(more);
                return Err(problems.into());
            }
            (Err(failure), _) | (_, Err(failure)) => return Err(failure),
        };
        Ok(Opened {
            file,
            config,
            source,
            target,
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// How a person would name it on a command line: as short as it is still found.
    pub(crate) fn word(&self) -> String {
        let by_name = places(&self.config.name)
            .into_iter()
            .find(|place| place.is_file());
        let is_found = match by_name {
            Some(place) => same_file(&place, &self.file),
            None => Mark::of_running_demo().is_some_and(|mark| same_file(&mark.file, &self.file)),
        };
        if is_found {
            self.config.name.clone()
        } else {
            shell_word(&self.file.display().to_string())
        }
    }
}

impl Which {
    /// The pipeline of a file.
    pub(crate) fn of_file(file: &Path) -> Which {
        Which {
            pipeline: Some(file.display().to_string()),
            set: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// How it is named, if it is.
    pub(crate) fn word(&self) -> Option<&str> {
        self.pipeline.as_deref()
    }

    /// Whether keys of the file are given other values.
    pub(crate) fn sets(&self) -> bool {
        !self.set.is_empty()
    }

    /// Whether one is named at all.
    pub(crate) fn is_named(&self, invocation: &Invocation) -> bool {
        self.pipeline.is_some() || invocation.everywhere.config.is_some()
    }

    /// Whether a file is named, rather than a pipeline by its name.
    pub(crate) fn is_file(&self, invocation: &Invocation) -> bool {
        match &self.pipeline {
            Some(word) => is_file(word),
            None => invocation.everywhere.config.is_some(),
        }
    }

    /// The file that is meant.
    pub(crate) fn file(&self, invocation: &Invocation) -> Result<PathBuf, Failure> {
        match (&self.pipeline, &invocation.everywhere.config) {
            (Some(word), _) => find(word),
            (None, Some(file)) => Ok(file.clone()),
            (None, None) => Err(nothing_named()),
        }
    }

    /// The same with a key as a flag says, if it is given.
    pub(crate) fn with(mut self, key: &str, flag: &str, value: Option<&String>) -> Which {
        self.flags.extend(value.map(|value| Override {
            path: key.to_owned(),
            text: value.clone(),
            origin: Origin::Flag(flag.to_owned()),
        }));
        self
    }

    /// What the file says, with flags and variables on top.
    pub(crate) fn read(&self, file: &Path) -> Result<Reading, Failure> {
        let set = self.set.iter().map(|(key, value)| Override {
            path: key.clone(),
            text: value.clone(),
            origin: Origin::Flag(format!("--set {key}")),
        });
        let overrides: Vec<Override> = set.chain(self.flags.iter().cloned()).collect();
        read(file, &overrides)
    }
}

fn is_file(word: &str) -> bool {
    word.contains(['/', '.'])
}

/// The file of a word.
fn find(word: &str) -> Result<PathBuf, Failure> {
    if is_file(word) {
        return Ok(PathBuf::from(word));
    }
    let places = places(word);
    if let Some(place) = places.iter().find(|place| place.is_file()) {
        return Ok(place.clone());
    }
    if let Some(mark) = Mark::of_running_demo().filter(|mark| mark.pipeline == word) {
        return Ok(mark.file);
    }
    let looked: Vec<String> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    let err = Error::definite(
        codes::CLI_NO_PIPELINE,
        format!(
            "there is no pipeline `{word}`: looked for {}",
            looked.join(" and ")
        ),
    );
    let mut names = names_here();
    names.extend(Mark::of_running_demo().map(|mark| mark.pipeline));
    let near = config::problem::suggestion(word, names.iter().map(String::as_str));
    Err(match near {
        Some(near) => err.first_action(format!("did you mean {near}?")),
        None => err,
    }
    .into())
}

fn places(name: &str) -> Vec<PathBuf> {
    let file = format!("{name}.toml");
    vec![PathBuf::from(&file), Path::new(DIRECTORY).join(&file)]
}

fn nothing_named() -> Failure {
    let names = names_here();
    let err = Error::definite(codes::CLI_NO_PIPELINE, "no pipeline is named");
    match names.as_slice() {
        [] => err.into(),
        _ => err
            .first_action(format!("name one of these: {}", names.join(", ")))
            .into(),
    }
}

fn names_here() -> Vec<String> {
    let files = all_here();
    let stem = |file: &PathBuf| Some(file.file_stem()?.to_str()?.to_owned());
    files.iter().filter_map(stem).collect()
}

/// The pipeline files of this directory and of `pipelines.d`, by name.
pub(crate) fn all_here() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in [".", DIRECTORY] {
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let path = path
                .strip_prefix(".")
                .map_or(path.clone(), Path::to_path_buf);
            let is_toml = path.extension().is_some_and(|ending| ending == "toml");
            // Other TOML files (Cargo.toml, connections.toml) have no [pipeline].
            let has_pipeline = || {
                std::fs::read_to_string(&path)
                    .is_ok_and(|text| text.lines().any(|line| line.trim() == "[pipeline]"))
            };
            if is_toml && has_pipeline() {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Reads a pipeline file with everything around it.
fn read(file: &Path, flags: &[Override]) -> Result<Reading, Failure> {
    read_document(file, document(file)?, flags)
}

fn read_document(file: &Path, document: Document, flags: &[Override]) -> Result<Reading, Failure> {
    let connections = match file.parent().unwrap_or(Path::new("")).join(CONNECTIONS) {
        path if path.is_file() => vec![self::document(&path)?],
        _ => Vec::new(),
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut overrides = config::overrides_of(variables)?;
    overrides.extend_from_slice(flags);
    let surroundings = Around::of_file(file);
    Ok(config::read(Input {
        file: document,
        connections,
        overrides: &overrides,
        surroundings: &surroundings,
    })?)
}

fn document(file: &Path) -> Result<Document, Failure> {
    Ok(Document::new(file.display().to_string(), text(file)?))
}

/// A file's text, or the problem that it cannot be read.
pub(crate) fn text(file: &Path) -> Result<String, Failure> {
    let shown = file.display().to_string();
    match std::fs::read(file).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(_)) => Err(unreadable(&shown, "it is not UTF-8 text")),
        Err(err) => Err(unreadable(&shown, &err.to_string())),
    }
}

fn unreadable(shown: &str, why: &str) -> Failure {
    let mut problems = Problems::new();
    problems.push(Problem::new(
        codes::CONFIG_UNREADABLE,
        format!("cannot read {shown}: {why}"),
    ));
    problems.into()
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
