//! What the server asks of whoever knows databases: the binary, where all systems meet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_core::config::PipelineConfig;
use tidemark_core::finding::{Finding, Side};
use tidemark_core::pipeline::options::Options;
use tidemark_core::schema::TableName;
use tidemark_core::source::{Slot, Source};
use tidemark_core::standing::Standing;
use tidemark_core::status::Status;
use tidemark_core::target::Target;
use tidemark_core::{Error, Result};
use utoipa::ToSchema;

/// A pipeline as somebody wrote it down.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The text of a pipeline file.
    pub text: String,
    /// Where it stands.
    pub place: Place,
    /// Connections of the store that it names.
    pub connections: Vec<Connection>,
}

impl Definition {
    /// One that names no connection of the store.
    pub fn of(text: String, place: Place) -> Definition {
        Definition {
            text,
            place,
            connections: Vec::new(),
        }
    }
}

/// A database that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// By which definitions use it.
    pub name: String,
    /// The text of a file of connections that has it.
    pub text: String,
    /// Where that stands, which decides what it may refer to.
    pub place: Place,
}

/// A database that can be looked into, of no pipeline. Every look ends by itself.
#[async_trait]
pub trait Database: Send + Sync {
    /// Where it is, without any secret, and as whom.
    fn address(&self) -> (String, String);

    /// What it is.
    async fn about(&self) -> Result<DatabaseAbout>;

    /// Schemas that the role may use, by name.
    async fn schemas(&self, part: &Part) -> Result<Vec<SchemaFound>>;

    /// Tables of a schema, by name.
    async fn tables(&self, schema: &str, part: &Part) -> Result<Vec<TableFound>>;

    /// Columns of a table, in its order; none where there is no such table.
    async fn columns(&self, table: &TableName) -> Result<Vec<ColumnFound>>;
}

/// A part of a list that is by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What comes after this name.
    pub after: String,
    /// At most so many.
    pub limit: usize,
}

/// What a database says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DatabaseAbout {
    /// Of its server.
    pub version: String,
    pub database: String,
    /// As whom it was spoken to.
    pub user: String,
    /// Whether what goes there and back is encrypted.
    pub tls: bool,
    /// Whether it only follows another server.
    pub standby: bool,
    /// `logical` where changes can be read.
    pub wal_level: String,
    /// Whether the role may read the log.
    pub replication: bool,
}

/// A schema.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SchemaFound {
    pub name: String,
    /// How many tables it has; partitions are not counted.
    pub tables: i64,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TableFound {
    pub schema: String,
    pub name: String,
    /// `null` where there are no statistics.
    pub rows_estimated: Option<i64>,
    /// On disk, with indexes and large values.
    pub size_bytes: i64,
    /// Whether it has a primary key.
    pub has_key: bool,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ColumnFound {
    pub name: String,
    /// As the database writes it.
    pub data_type: String,
    pub nullable: bool,
    /// Its place in the primary key, from 1; `null` where it is not in it.
    pub key_position: Option<i32>,
}

/// Where a definition stands, which decides what it may refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file: it may refer to everything that the server can read.
    File(PathBuf),
    /// In the store, written by an administrator of the server itself: as a file in this directory.
    Store(PathBuf),
    /// In the store, written by somebody who must not read the server's files and variables.
    Confined,
}

/// A pipeline whose two sides can be spoken to.
pub struct Opened {
    /// What its definition says.
    pub config: PipelineConfig,
    /// Numbers and policies of its runs.
    pub options: Options,
    /// Where rows come from.
    pub source: Arc<dyn Source>,
    /// Where rows go.
    pub target: Arc<dyn Target>,
    /// Where the source is, without any secret.
    pub source_address: String,
    /// Where the target is, without any secret.
    pub target_address: String,
    /// What it was opened from.
    pub definition: Definition,
}

/// See the module's text.
#[async_trait]
pub trait Systems: Send + Sync + 'static {
    /// Reads a definition and makes its two sides; connects to nothing. All that is wrong with it is in
    /// the error. May wait for files.
    fn open(&self, definition: &Definition) -> Result<Opened>;

    /// Reads a connection; connects to nothing. All that is wrong with it is in the error. May wait for files.
    fn database(&self, connection: &Connection) -> Result<Arc<dyn Database>>;

    /// The connections of the file of them in a directory, each with that file; none where there is no
    /// such file. May wait for files.
    fn connections_beside(&self, directory: &Path) -> Result<Vec<(Connection, PathBuf)>>;

    /// How a pipeline stands, from what both sides say.
    async fn look(&self, opened: &Opened) -> Result<Standing>;

    /// What stands in the way of it. Changes nothing.
    async fn check(&self, opened: &Opened) -> Result<Vec<Finding>>;

    /// The same, as `tidemark check --json` says it. Changes nothing.
    async fn report(&self, opened: &Opened) -> Result<Value>;

    /// What would happen, as `tidemark plan --json` says it. Changes nothing.
    async fn plan(&self, opened: &Opened) -> Result<Value>;

    /// Everything of the kind of a slot on its source, ours or not.
    async fn slots(&self, opened: &Opened) -> Result<Vec<Slot>>;

    /// Drops a slot of its source. The database refuses one that somebody reads.
    async fn drop_slot(&self, opened: &Opened, slot: &str) -> Result<()>;

    /// Runs a statement on a side: a remedy of a check that a person has seen.
    async fn execute(&self, opened: &Opened, side: Side, sql: &str) -> Result<()>;

    /// The source's sequences, told or set on the target too, as `tidemark sequences --json` says it.
    async fn sequences(&self, opened: &Opened, asked: Asked) -> Result<Value>;

    /// Bringing these tables, or all, to the source's state, as `tidemark reconcile --json` says it.
    async fn reconcile(
        &self,
        opened: &Opened,
        tables: &[TableName],
        asked: Reconciling<'_>,
    ) -> Result<Value>;

    /// A cutover, as `tidemark cutover --json` says it: what it came to, and why it was given up, if it was.
    /// Everything is taken back by then. An error: it did not begin. It must not be dropped halfway.
    async fn cutover(
        &self,
        opened: &Opened,
        wishes: &CutoverWishes,
        company: &dyn Company,
    ) -> Result<(Value, Option<Error>)>;

    /// What a cutover would do, in the same form. Changes nothing.
    async fn rehearse(&self, opened: &Opened, wishes: &CutoverWishes) -> Result<Value>;

    /// Whether a cutover has left the source read-only.
    async fn is_fenced(&self, opened: &Opened) -> Result<bool>;

    /// Lets the source be written to again.
    async fn lower_fence(&self, opened: &Opened) -> Result<()>;
}

/// How a cutover is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct CutoverWishes {
    /// The source is made to refuse writes, and the sessions of its clients are ended.
    pub fence: bool,
    /// How long the source must be silent.
    pub silence: Duration,
    /// How long writers may take to stop, and the pipeline to drain.
    pub patience: Duration,
    /// How long writers may stand still, at most.
    pub max_downtime: Duration,
    /// The target's sequences are set so many values ahead.
    pub sequence_margin: u32,
    /// Whoever wants it stops the writers with this command, where they are; the server asks for that.
    pub stop_writers: Option<String>,
    /// And starts them again with this one, if it is given up.
    pub start_writers: Option<String>,
    /// A pipeline is made that copies back.
    pub reverse: bool,
    /// Whoever wants it has agreed to everything, and has typed the pipeline's name.
    pub is_agreed: bool,
}

/// What a command of whoever wants a cutover is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Nobody writes to the source any more.
    StopWriters,
    /// They do again, since the cutover is given up.
    StartWriters,
}

/// Whoever a cutover is for.
#[async_trait]
pub trait Company: Send + Sync {
    /// What was done so far.
    async fn hears(&self, report: Value);

    /// Asked before anything is done that others notice.
    async fn agrees(&self, effect: String) -> Result<()>;

    /// Has a command run where whoever wants the cutover is, and returns when it has.
    async fn runs(&self, hook: Hook, command: &str) -> Result<()>;

    /// Keeps a pipeline that copies back, which does not run yet.
    async fn keeps(&self, way_back: &PipelineConfig, definition: String) -> Result<()>;

    /// Forgets it again, if it is kept.
    async fn forgets(&self, way_back: &str) -> Result<()>;

    /// Stops the pipeline in order, and returns when it has.
    async fn stops(&self) -> Result<()>;

    /// Returns when it is to be given up; why.
    async fn gives_up(&self) -> Error;
}

/// Whether something is only to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What it would do.
    Tell,
    /// It is done.
    Act,
}

/// What is asked about a reconcile.
#[derive(Clone, Copy, Debug)]
pub enum Reconciling<'a> {
    /// What it would do.
    Effect,
    /// What differs: both sides are compared, and nothing is changed.
    Report,
    /// Whoever runs the pipeline is asked, by way of the target, and waited for.
    Ask,
    /// What a run that began with it came to, by its status, after this time.
    Done(&'a Status, Duration),
}
