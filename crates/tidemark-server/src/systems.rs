//! What the server asks of whoever knows databases: the binary, where all systems meet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tidemark_core::Result;
use tidemark_core::config::PipelineConfig;
use tidemark_core::finding::{Finding, Side};
use tidemark_core::pipeline::options::Options;
use tidemark_core::schema::TableName;
use tidemark_core::source::{Slot, Source};
use tidemark_core::standing::Standing;
use tidemark_core::status::Status;
use tidemark_core::target::Target;

/// A pipeline as somebody wrote it down.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The text of a pipeline file.
    pub text: String,
    /// Where it stands.
    pub place: Place,
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
}

/// See the module's text.
#[async_trait]
pub trait Systems: Send + Sync + 'static {
    /// Reads a definition and makes its two sides; connects to nothing. All that is wrong with it is in
    /// the error. May wait for files.
    fn open(&self, definition: &Definition) -> Result<Opened>;

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
