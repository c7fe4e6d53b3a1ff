//! The way back: a pipeline that carries to the old primary what is written to the new one.
//!
//! It is a pipeline like any other, kept where the one is that is cut over ([`Home`]). Its slot is made while nobody writes to either side, after all
//! that came from the old primary is in: so it brings everything that is written from then on, and
//! nothing that came from there. It reads without what has an origin and marks what it applies, so
//! that neither direction ever carries back what the other brought; where the role may not mark, the
//! two directions refuse to run side by side (`TARGET_CIRCLE`).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::config::name_of_way_back;
use tidemark_core::finding::{Finding, Side, Verdict};
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{ColumnDefault, ReplicaIdentity, SourceSchema, TableName};
use tidemark_core::source::{Keep, Source};
use toml::{Table, Value};

use super::Cutover;
use crate::pipeline_file::{Opened, text};
use crate::problem::Failure;
use crate::{systems, verbs};

/// What says where a database is; the rest of `[source]` and `[target]` is the one side's own.
const ENDPOINT: [&str; 12] = [
    "type",
    "connection",
    "url",
    "host",
    "port",
    "database",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// For sessions on a database that a fence has made read-only by default.
const IN_SPITE_OF_FENCE: &str = "options=-c%20default_transaction_read_only%3Doff";

/// Where a way back is kept.
#[async_trait]
pub(crate) trait Home: Send + Sync {
    /// What defines the pipeline that is cut over; refused where nothing can be kept beside it.
    fn definition(&self) -> Result<String, Failure>;

    /// The way back of this text. Keeps nothing.
    fn open(&self, text: String) -> Result<Opened, Failure>;

    /// Keeps it; says where.
    async fn keep(&self, text: String) -> Result<String, Failure>;

    /// Takes back what was kept, if anything was.
    async fn remove(&self) -> Result<(), Failure>;
}

/// A file beside that of the pipeline.
pub(super) struct Beside {
    file: PathBuf,
    pipeline: PathBuf,
    is_written: AtomicBool,
}

impl Beside {
    pub(super) fn new(file: &Path, pipeline: &Path) -> Beside {
        Beside {
            file: file.to_path_buf(),
            pipeline: pipeline.to_path_buf(),
            is_written: AtomicBool::new(false),
        }
    }

    fn failed(&self, what: &str, err: &std::io::Error) -> Failure {
        let shown = self.file.display();
        Error::definite(codes::CLI_MACHINE, format!("{what} {shown}: {err}")).into()
    }
}

#[async_trait]
impl Home for Beside {
    fn definition(&self) -> Result<String, Failure> {
        if self.file.exists() {
            let shown = self.file.display();
            return Err(no_way(format!("{shown} exists and is not overwritten")));
        }
        let is_beside = match (directory(&self.file), directory(&self.pipeline)) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        };
        if !is_beside {
            // What the one file refers to, the other must find.
            return Err(no_way("its file belongs beside that of the pipeline"));
        }
        text(&self.pipeline)
    }

    fn open(&self, text: String) -> Result<Opened, Failure> {
        Opened::of_text(&self.file, text)
    }

    async fn keep(&self, text: String) -> Result<String, Failure> {
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.file);
        // From here on it is ours, be it half written.
        self.is_written.store(made.is_ok(), Ordering::Relaxed);
        let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|err| self.failed("write", &err))?;
        Ok(self.file.display().to_string())
    }

    async fn remove(&self) -> Result<(), Failure> {
        if self.is_written.load(Ordering::Relaxed) {
            std::fs::remove_file(&self.file).map_err(|err| self.failed("remove", &err))?;
        }
        Ok(())
    }
}

/// A pipeline that is to copy back.
#[derive(Clone)]
pub(super) struct Back<'a> {
    home: &'a dyn Home,
    pipeline: String,
    source: Arc<dyn Source>,
    tables: Vec<TableName>,
    draft: Table,
    /// The statements that remove what it has on the target.
    removal: String,
}

impl Back<'_> {
    /// What may be there of it still, and how that is removed.
    pub(super) fn left(&self) -> String {
        format!(
            "slot and publication of {} may still be on the target: {}",
            self.pipeline, self.removal
        )
    }

    /// Removes what was made of it. Where it is kept comes first: what is left there refuses the next cutover,
    /// while the target may take its time, or not answer at all.
    pub(super) async fn take_back(&self) -> Result<(), Failure> {
        let removed = self.home.remove().await;
        self.source.take_back().await?;
        removed
    }
}

impl<'a> Cutover<'a> {
    /// What the pipeline would be, and whether it could run.
    pub(super) async fn look_back(
        &self,
        home: &'a dyn Home,
        mappings: &[TableMapping],
    ) -> Result<(Back<'a>, String), Failure> {
        let mut draft = self.draft(&home.definition()?, mappings)?;
        if !systems::may_mark(&self.opened.config, Side::Source).await? {
            draft["target"]["mark_origin"] = Value::Boolean(false);
        }
        let opened = home.open(written(&draft, None))?;
        self.is_turned_round(&opened)?;
        let removal = systems::removal_of_log(&opened.config);
        let slot = &opened.config.source.postgres.slot;
        let mut slots = systems::slots(&opened.config).await?.into_iter();
        if slots.any(|found| found.name == *slot) {
            // Told before anybody is stopped, since none can be made in its place.
            let text = format!("slot {slot} is on the target already");
            let action = format!("if nobody reads it any more, on the target: {removal}");
            let err = Error::definite(codes::CUTOVER_NO_WAY_BACK, text);
            return Err(err.first_action(action).into());
        }
        let checked = verbs::check::look(&opened).await?;
        let failed: Vec<String> = checked
            .findings
            .iter()
            .filter(|finding| is_in_the_way(finding))
            .map(failed_check)
            .collect();
        if !failed.is_empty() {
            return Err(no_way(failed.join("; ")));
        }
        let there = opened.source.describe(opened.config.rules.selection());
        refuses_no_change(mappings, &there.await?)?;
        let back = Back {
            home,
            pipeline: opened.name().to_owned(),
            source: Arc::clone(&opened.source),
            tables: mappings
                .iter()
                .map(|mapping| mapping.target.clone())
                .collect(),
            draft,
            removal,
        };
        let text = format!("{} could run", back.pipeline);
        Ok((back, text))
    }

    /// Makes slot and publication, and keeps it.
    pub(super) async fn make_back(&self, back: Back<'a>) -> Result<((), String), Failure> {
        self.undo().back = Some(back.clone());
        back.source.announce(&back.tables).await?;
        let (position, snapshot) = back.source.open_log(Keep::ForPipeline).await?;
        drop(snapshot);
        let text = written(&back.draft, Some(&position.to_string()));
        let shown = back.home.keep(text).await?;
        let said = format!("{shown}, from {position} of the target on");
        self.with_report(|report| report.back = Some(shown));
        Ok(((), said))
    }

    /// Its definition, but for where it starts.
    fn draft(&self, definition: &str, mappings: &[TableMapping]) -> Result<Table, Failure> {
        let file: Table = definition
            .parse()
            .map_err(|_| no_way("the pipeline's file cannot be read any more"))?;
        let side = |name: &str| -> Table {
            let section = file.get(name).and_then(Value::as_table);
            let keys = section.into_iter().flatten();
            keys.filter(|(key, _)| ENDPOINT.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let (mut source, mut target) = (side("target"), side("source"));
        source.insert("postgres".into(), table([("origin", "none".into())]));
        target.insert("mark_origin".into(), Value::Boolean(true));
        if self.wishes.fence {
            let url = target.get("url").and_then(Value::as_str);
            // A way back of a way back has it already, for as long as the fence there was up.
            let is_free = |url: &&str| url.contains(IN_SPITE_OF_FENCE) || !url.contains("options=");
            let Some(url) = url.filter(is_free) else {
                return Err(no_way(
                    "behind a fence it needs source.url, without options of its own",
                ));
            };
            if !url.contains(IN_SPITE_OF_FENCE) {
                let joint = if url.contains('?') { '&' } else { '?' };
                let url = format!("{url}{joint}{IN_SPITE_OF_FENCE}");
                target.insert("url".into(), url.into());
            }
        }
        let include: Vec<Value> = mappings
            .iter()
            .map(|m| m.target.to_string().into())
            .collect();
        let mut draft = Table::new();
        draft.insert("version".into(), Value::Integer(1));
        draft.insert(
            "pipeline".into(),
            table([
                ("name", name_of_way_back(self.opened.name()).into()),
                ("mode", "cdc_only".into()),
            ]),
        );
        draft.insert("source".into(), Value::Table(source));
        draft.insert("target".into(), Value::Table(target));
        draft.insert("tables".into(), table([("include", Value::Array(include))]));
        let exceptions: Vec<Value> = mappings
            .iter()
            .map(turned_round)
            .collect::<Result<Vec<_>, Failure>>()?
            .into_iter()
            .flatten()
            .collect();
        if !exceptions.is_empty() {
            draft.insert("table".into(), Value::Array(exceptions));
        }
        Ok(draft)
    }

    /// Flags and variables may say other addresses than the file.
    fn is_turned_round(&self, back: &Opened) -> Result<(), Failure> {
        let there = &self.opened.config;
        for (one, other) in [(Side::Source, Side::Target), (Side::Target, Side::Source)] {
            if systems::address(there, one)? != systems::address(&back.config, other)? {
                return Err(no_way(
                    "the addresses that are in force are not those of the pipeline's file",
                ));
            }
        }
        Ok(())
    }
}

/// What is published and has no replica identity takes inserts alone, from every application (PostgreSQL
/// 15, `ALTER PUBLICATION`): the way back would take updates and deletes from those that come from the
/// source, where there is one.
fn refuses_no_change(mappings: &[TableMapping], there: &SourceSchema) -> Result<(), Failure> {
    let is_lost = |mapping: &&TableMapping| {
        let mut tables = there.tables.iter();
        let table = tables.find(|table| table.name == mapping.target);
        mapping.schema.identity != ReplicaIdentity::Nothing
            && table.is_some_and(|table| table.identity == ReplicaIdentity::Nothing)
    };
    let lost: Vec<String> = mappings
        .iter()
        .filter(is_lost)
        .map(|mapping| mapping.target.to_string())
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(no_way(format!(
        "target: once its changes are read it would refuse updates and deletes of {}, without the replica \
         identity that the source has (ALTER TABLE … REPLICA IDENTITY FULL)",
        lost.join(", ")
    )))
}

/// A table's exception, where it has another name or other columns there.
fn turned_round(mapping: &TableMapping) -> Result<Option<Value>, Failure> {
    let source = mapping.source();
    let is_whole = mapping.schema.columns.iter().all(|column| {
        matches!(column.default, ColumnDefault::Generated(_))
            || mapping.target_column(&column.name).is_some()
    });
    if !is_whole || mapping.columns.iter().any(|column| column.mask.is_some()) {
        return Err(no_way(format!(
            "the target has not all of {source} as it is on the source"
        )));
    }
    let rename: Table = mapping
        .columns
        .iter()
        .map(|column| {
            (
                column.target.clone(),
                mapping.source_column(column).to_owned(),
            )
        })
        .filter(|(there, here)| there != here)
        .map(|(there, here)| (there, Value::String(here)))
        .collect();
    if mapping.target == *source && rename.is_empty() {
        return Ok(None);
    }
    let mut exception = Table::new();
    exception.insert("source".into(), mapping.target.to_string().into());
    exception.insert("target".into(), source.to_string().into());
    if !rename.is_empty() {
        exception.insert("rename".into(), Value::Table(rename));
    }
    Ok(Some(Value::Table(exception)))
}

fn written(draft: &Table, position: Option<&str>) -> String {
    let mut draft = draft.clone();
    let start = position.map_or("now".to_owned(), |position| format!("lsn:{position}"));
    if let Some(Value::Table(pipeline)) = draft.get_mut("pipeline") {
        pipeline.insert("start".into(), start.into());
    }
    format!("# The way back, made by a cutover.\n{draft}")
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(
        entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

/// What would keep it from running, or the application from writing.
fn is_in_the_way(finding: &Finding) -> bool {
    let is_warning = finding.verdict == Verdict::Warning;
    finding.verdict == Verdict::Failed || is_warning && finding.code == codes::IDENTITY_NOTHING
}

fn failed_check(finding: &Finding) -> String {
    let mend = finding
        .fixes
        .first()
        .map_or_else(String::new, |fix| format!(" ({})", fix.text));
    format!("{}: {}{mend}", turned(finding.side), finding.found)
}

/// Of the way back: its source is the target that is spoken of here.
fn turned(side: Side) -> Side {
    match side {
        Side::Source => Side::Target,
        Side::Target => Side::Source,
    }
}

fn directory(file: &Path) -> Option<PathBuf> {
    let parent = file.parent()?;
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    parent.canonicalize().ok()
}

fn no_way(why: impl Into<String>) -> Failure {
    Error::definite(codes::CUTOVER_NO_WAY_BACK, why).into()
}
