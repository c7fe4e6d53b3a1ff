//! The pipeline file: what a user writes, read into what the engine needs.
//!
//! Reading is a pure function of texts: the binary reads files and the environment and brings both
//! ([`Surroundings`]). One table of keys ([`keys`]) drives what is known, of what type and range,
//! by which default, and also the JSON schema, the reference and `config lint`. The way of a text:
//!
//! ```text
//!   text ─► tree with places ─► settings by key, checked against the table ─► PipelineConfig
//!           (toml)              (read.rs: types, ranges, unknown keys)        (build.rs: meaning)
//! ```
//!
//! Every problem is collected with its place ([`problem`]); nothing stops at the first. Precedence
//! of a value: flag, `TIDEMARK_…` variable, file, default ([`Origin`]).
//!
//! What a file says about tables ([`Rules`]) becomes mappings only together with the source's
//! catalog: see [`crate::mapping`].

use std::time::Duration;

use crate::mapping::Rules;
use crate::pipeline::plan::{CdcStart, Mode};
use crate::schedule::Schedule;
use crate::target::Existing;

pub mod alert;
mod build;
mod changes;
pub mod choice;
mod endpoint;
mod format;
mod hide;
mod keys;
mod mail;
mod memory;
mod overrides;
pub mod problem;
mod reach;
mod read;
mod reference;
mod schedule;
mod schema;
pub mod secret;
pub mod server;
mod serving;
mod settings;
mod unit;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use build::filter_problem;

pub use alert::AlertRule;
pub use changes::{changes, put_back};
pub use choice::{
    AfterLoad, AlertSeverity, AlertWhen, Create, LogFormat, LogLevel, Missed, NewTables,
    OnConflict, OnMaxRetained, OnRowError, OnSchemaChange, OnTruncate, Origin as ChangeOrigin,
    Overlap, ServerAuth, SlotAhead, SlotBehind, System,
};
pub use format::format;
pub use hide::{has_masks, masked};
pub use mail::{Mail, MailAddress, MailLogin, MailSecurity};
pub use memory::Memory;
pub use overrides::Override;
pub use problem::{Document, Located, Place, Problem, Problems};
pub use reach::Reach;
pub use reference::reference;
pub use schema::schema;
pub use secret::{Secret, Surroundings};
pub use server::{HttpUrl, Network, Notifier, ServerConfig, Way, read_server};
pub use serving::Serving;
use settings::Settings;
pub use settings::{Effective, Origin};

use endpoint::Connections;
pub(crate) use unit::duration;
pub use unit::{show_bytes, show_duration};

use keys::{CONNECTION_KEYS, KEYS};

/// What a pipeline is read from.
pub struct Input<'a> {
    /// The pipeline file.
    pub file: Document,
    /// Where connections are that have a name: `connections.toml` beside it, and whatever else whoever reads
    /// it has. The first that has a name counts.
    pub connections: Vec<Document>,
    /// What flags and variables say.
    pub overrides: &'a [Override],
    /// Where secrets are.
    pub surroundings: &'a dyn Surroundings,
}

/// A pipeline, and how each of its values came about.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The pipeline.
    pub config: PipelineConfig,
    /// Every key that has a value, with its origin; secrets are `***`.
    pub effective: Vec<Effective>,
}

/// How a pipeline is called that carries back what another one brings; names are this long at most
/// (`keys`).
pub fn name_of_way_back(pipeline: &str) -> String {
    const NAME_MAX: usize = 40;
    const END: &str = "_back";
    let name: String = pipeline.chars().take(NAME_MAX - END.len()).collect();
    format!("{name}{END}")
}

/// Reads a pipeline, or says all that is wrong with it.
pub fn read(input: Input<'_>) -> Result<Reading, Problems> {
    let (mut settings, mut problems) = read::read(input.file, &KEYS, input.surroundings);
    overrides::apply(
        &mut settings,
        input.overrides,
        &KEYS,
        input.surroundings,
        &mut problems,
    );
    read::require(&settings, &KEYS, &mut problems);
    schedule::add_defaults(&mut settings);
    overrides::add_defaults(&mut settings, &KEYS);
    let files = input.connections.into_iter();
    let files = files.map(|document| connections_of(document, input.surroundings, &mut problems));
    let connections = Connections {
        files: files.collect(),
    };
    let config = build::build(&settings, &connections, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(Reading {
            config,
            effective: settings.effective(&KEYS),
        }),
        _ => Err(problems.sorted()),
    }
}

/// The connections of a file, by name, or all that is wrong with it.
pub fn read_connections(
    file: Document,
    surroundings: &dyn Surroundings,
) -> Result<Vec<(String, Endpoint)>, Problems> {
    let mut problems = Problems::new();
    let files = vec![connections_of(file, surroundings, &mut problems)];
    let found = Connections { files }.all(&mut problems);
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(problems.sorted())
    }
}

fn connections_of(
    file: Document,
    surroundings: &dyn Surroundings,
    problems: &mut Problems,
) -> Settings {
    let (settings, found) = read::read(file, &CONNECTION_KEYS, surroundings);
    problems.append(found);
    read::require(&settings, &CONNECTION_KEYS, problems);
    settings
}

/// What `TIDEMARK_…` variables say about keys of the file: `TIDEMARK_STREAM_BATCH_ROWS` is
/// `stream.batch_rows`. A variable that begins with a section's name and is none of its keys is a
/// problem; other variables are not ours to judge.
pub fn overrides_of(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Override>, Problems> {
    overrides::overrides_of(variables, &KEYS)
}

/// One pipeline, as its file (and what overrides it) says.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Its name, `[a-z0-9_-]{1,40}`.
    pub name: String,
    /// What it does.
    pub mode: Mode,
    /// Where `cdc_only` starts without a checkpoint.
    pub start: CdcStart,
    /// For people.
    pub description: Option<String>,
    /// For people and lists.
    pub tags: Vec<String>,
    /// How much it may hold.
    pub memory: Memory,
    /// Where rows come from.
    pub source: SourceConfig,
    /// Where rows go.
    pub target: TargetConfig,
    /// What to do with tables that are new on the source.
    pub new_tables: NewTables,
    /// Which tables, and how each becomes one of the target.
    pub rules: Rules,
    /// The load.
    pub load: LoadConfig,
    /// The stream.
    pub stream: StreamConfig,
    /// Verification.
    pub verify: VerifyConfig,
    /// When a server loads everything anew.
    pub schedule: Option<Schedule>,
    /// What a person wants to be told of.
    pub alerts: Vec<AlertRule>,
    /// Which addresses its databases may have: everything, unless whoever has read it says otherwise.
    pub reach: Reach,
}

impl PipelineConfig {
    /// Tables, and chunks of each, that are loaded at once: as the file says, as far as memory allows.
    pub fn load_workers(&self) -> (usize, usize) {
        let asked = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let all = self.memory.load_workers();
        let tables = asked(self.load.parallel_tables).min(all);
        (tables, asked(self.load.parallel_chunks).min(all / tables))
    }
}

/// How to reach a database.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What kind of database.
    pub system: System,
    /// Its name in `connections.toml`, if it comes from there.
    pub connection: Option<String>,
    /// Where it is, in the form of its kind of database. May hold a password.
    pub url: Located<Secret>,
    /// The password, if it is given apart from the URL.
    pub password: Option<Secret>,
}

/// The `[source]`.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// How to reach it.
    pub endpoint: Endpoint,
    /// What is PostgreSQL's alone.
    pub postgres: PostgresSource,
}

/// `[source.postgres]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSource {
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// Whether publication and slot are made.
    pub create: Create,
    /// A slot older than the checkpoint.
    pub slot_behind: SlotBehind,
    /// A slot past the checkpoint.
    pub slot_ahead: SlotAhead,
    /// How long making the slot may wait for running transactions.
    pub slot_creation_timeout: Duration,
    /// How much log the slot may keep; `None` for no limit.
    pub max_retained_bytes: Option<u64>,
    /// What to do when that is used up.
    pub on_max_retained: OnMaxRetained,
    /// Keeps the log on this machine while the target does not keep up.
    pub relay: Option<RelayConfig>,
    /// Which changes are read.
    pub origin: ChangeOrigin,
}

/// `source.postgres.relay_…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Where; relative to the pipeline file.
    pub directory: String,
    /// How much, at most.
    pub bytes_max: u64,
    /// Encrypts it.
    pub key: Option<Secret>,
}

/// The `[target]`.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// How to reach it.
    pub endpoint: Endpoint,
    /// Whether missing tables are made.
    pub create_tables: bool,
    /// What to do with tables that are there at a first load.
    pub existing: Existing,
    /// What to do when a table's shape changes on the source.
    pub on_schema_change: OnSchemaChange,
    /// What to do when a change meets another row than the log implies.
    pub on_conflict: OnConflict,
    /// What to do with `TRUNCATE`.
    pub on_truncate: OnTruncate,
    /// Whether applied changes bear a replication origin of ours.
    pub mark_origin: bool,
}

/// `[load]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadConfig {
    /// Tables loaded at once.
    pub parallel_tables: u32,
    /// Chunks of one table loaded at once.
    pub parallel_chunks: u32,
    /// About how large a chunk is.
    pub chunk_bytes: u64,
    /// Rows read from the source in a second, over all workers; `None` for no limit.
    pub max_source_rows_per_second: Option<u64>,
}

/// `[stream]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// A batch is closed at so many changes.
    pub batch_rows_max: usize,
    /// Or at so many bytes.
    pub batch_bytes_max: usize,
    /// How often an idle source gets a mark; `None` for never.
    pub heartbeat_interval: Option<Duration>,
    /// How often the source's catalog is looked at for what no change announces.
    pub catalog_interval: Duration,
    /// Where transactions larger than memory wait for their commit; `None` for the system's place
    /// for temporary files. Relative to the pipeline file.
    pub spool_dir: Option<String>,
}

/// `[verify]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyConfig {
    /// What is compared once the load is in.
    pub after_load: AfterLoad,
    /// Rows compared in a second; `None` for no limit.
    pub max_rows_per_second: Option<u64>,
}
