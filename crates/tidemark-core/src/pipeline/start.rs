//! A start, as [`super::plan`] has decided it. A first one: what is made on the source before the first row is
//! read, its record in the target, and the way back where that record is never written.
//!
//! Until the target has the record nothing points at what was made, so that is the one moment when
//! something could be left behind for nobody ([`Run::take_back`]).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{
    Checkpoint, KnownShape, LoadPhase, SourceIdentity, TableCheckpoint, TableState,
};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::SourceSchema;
use crate::source::{Keep, Snapshot, Within};
use crate::target::{Existing, LoadStart, Place, TypeChanges};

use super::observe::{PipelineEvent, Step};
use super::plan::Start;
use super::stop::RUN_ENDS_WITHIN;
use super::{Engine, Run};

impl Run {
    /// Carries out what the start means for the log. Gives the snapshot at which rows are to be loaded;
    /// `None` where none are.
    pub(super) async fn begin(
        &mut self,
        start: &Start,
        checkpoint: Option<&Checkpoint>,
        schema: &SourceSchema,
        mappings: &[Arc<TableMapping>],
        identity: SourceIdentity,
    ) -> Result<Option<Box<dyn Snapshot>>> {
        let engine = Arc::clone(&self.engine);
        let snapshot = match start {
            Start::First { leftover } => {
                if let Some(slot) = leftover {
                    let text = format!("removes {slot}, left over by a killed start");
                    engine.step(Step::Prepare, text);
                    engine.source.release().await?;
                    failpoint::reached(failpoint::LEFTOVER_REMOVED);
                }
                self.open(mappings, &[]).await?
            }
            Start::Anew(slot) => {
                self.begin_anew(slot.as_deref(), checkpoint, mappings)
                    .await?
            }
            Start::LoadOnce => {
                self.load_once(mappings, identity, checkpoint.is_some())
                    .await?
            }
            Start::FromSlot { position } => {
                self.begin_at(*position, schema, mappings, identity).await?;
                return Ok(None);
            }
            Start::ResumeLoad => engine.source.snapshot().await?,
            Start::ResumeStream { .. } => return Ok(None),
        };
        Ok(Some(snapshot))
    }

    /// A first start: the log is opened *before* the first row is read, and its position recorded
    /// in the target before the first row is written. Tables in which rows of an earlier load are come
    /// as that has left them.
    pub(super) async fn open(
        &mut self,
        mappings: &[Arc<TableMapping>],
        begun: &[TableCheckpoint],
    ) -> Result<Box<dyn Snapshot>> {
        let engine = Arc::clone(&self.engine);
        let names: Vec<_> = mappings
            .iter()
            .map(|mapping| mapping.source().clone())
            .collect();
        self.is_unrecorded = true;
        engine.source.announce(&names).await?;
        failpoint::reached(failpoint::ANNOUNCED);
        let identity = engine.source.log_state().await?.identity;
        let (position, snapshot) = engine.source.open_log(Keep::ForPipeline).await?;
        failpoint::reached(failpoint::SNAPSHOT_OPENED);
        let text = format!("the source keeps its log from {position} on");
        engine.step(Step::Prepare, text);
        self.record_start(position, mappings, begun, identity)
            .await?;
        Ok(snapshot)
    }

    /// A full load alone: no log, and so one snapshot for everything.
    pub(super) async fn load_once(
        &mut self,
        mappings: &[Arc<TableMapping>],
        identity: SourceIdentity,
        was_loaded_before: bool,
    ) -> Result<Box<dyn Snapshot>> {
        let snapshot = self.engine.source.snapshot().await?;
        let position = snapshot.tidemark().after;
        let text = if was_loaded_before {
            "loads again at a new snapshot, nothing is resumed"
        } else {
            "loads at one snapshot; nothing is made on the source"
        };
        self.engine.step(Step::Prepare, text);
        self.record_start(position, mappings, &[], identity).await?;
        Ok(snapshot)
    }

    /// A start that ends before the target has recorded it leaves nothing on the source: a slot would
    /// keep log for nobody, and a publication lets the source refuse updates of tables without a key.
    /// Whether it was recorded is asked again, as the pipeline's owner: the answer may have been lost.
    pub(super) async fn take_back(&self) {
        let engine = &self.engine;
        let taken_back = async {
            engine.target.acquire(&self.owner).await?;
            match engine.target.checkpoint().await? {
                Some(_) => Ok(Vec::new()),
                None => engine.source.take_back().await,
            }
        };
        let pipeline = engine.name.as_str();
        let still_there =
            "what was made on the source is still there; the next start goes on with it";
        match self.stop.cut(RUN_ENDS_WITHIN, taken_back).await {
            Some(Ok(removed)) if removed.is_empty() => {}
            Some(Ok(removed)) => tracing::info!(
                pipeline,
                "nothing was recorded, so this is removed from the source again: {}",
                removed.join(", ")
            ),
            Some(Err(err)) => tracing::warn!(
                pipeline, code = %err.code(), error = %err, "{still_there}"
            ),
            None => tracing::warn!(pipeline, "{still_there}: a server does not answer in time"),
        }
    }

    /// A first start from a position that an existing slot still has.
    pub(super) async fn begin_at(
        &mut self,
        position: Position,
        schema: &SourceSchema,
        mappings: &[Arc<TableMapping>],
        identity: SourceIdentity,
    ) -> Result<()> {
        let names: Vec<_> = mappings
            .iter()
            .map(|mapping| mapping.source().clone())
            .collect();
        // What was written to a table before it was announced never comes.
        let missing = self.engine.source.unannounced(&names, Within::KeptLog);
        if let Some(table) = missing.await?.first() {
            return Err(Error::definite(
                codes::PUBLICATION_INCOMPLETE,
                format!("changes of {table} were not announced in all of the log after {position}"),
            )
            .first_action(
                "make the slot anew once no transaction is open that began before the tables were \
                 published, and start at a position of that slot; or start = \"now\"",
            )
            .table(table.to_string()));
        }
        let text = format!("starts at {position}, which the slot still has");
        self.engine.step(Step::Prepare, text);
        self.record_start(position, mappings, &[], identity).await?;
        self.prepare_objects(schema, mappings, TypeChanges::Additions)
            .await?;
        self.make_without_rows(mappings).await
    }

    async fn record_start(
        &mut self,
        position: Position,
        mappings: &[Arc<TableMapping>],
        begun: &[TableCheckpoint],
        identity: SourceIdentity,
    ) -> Result<()> {
        let loads = self.engine.options.mode.loads();
        let state = if loads {
            TableState::Loading
        } else {
            TableState::Streaming
        };
        let tables = mappings
            .iter()
            .map(|mapping| {
                let known = begun.iter().find(|known| known.source == *mapping.source());
                known.map_or_else(|| table_checkpoint(mapping, state), Clone::clone)
            })
            .collect();
        self.engine
            .target
            .start_load(&LoadStart {
                identity,
                position,
                phase: LoadPhase::Loading,
                tables,
            })
            .await?;
        self.is_unrecorded = false;
        failpoint::reached(failpoint::START_RECORDED);
        self.engine
            .observer
            .say(PipelineEvent::LoadPosition(position));
        Ok(())
    }

    /// What the tables rest on. Also where a load goes on: the start before may have been killed before it
    /// came to this, and a table that changed since may need more.
    pub(super) async fn prepare_objects(
        &self,
        schema: &SourceSchema,
        mappings: &[Arc<TableMapping>],
        changes: TypeChanges,
    ) -> Result<()> {
        if !self.engine.options.create_tables {
            return Ok(());
        }
        let tables: Vec<TableMapping> = mappings.iter().map(|m| m.as_ref().clone()).collect();
        let prepared = self.engine.prepare_objects(schema, &tables, changes);
        prepared.await?;
        failpoint::reached(failpoint::OBJECTS_MADE);
        Ok(())
    }

    /// `cdc_only`: tables that are missing are made, empty, with their keys. Only then is the start
    /// over, as a load is: whoever is killed before goes on with it.
    pub(super) async fn make_without_rows(&self, mappings: &[Arc<TableMapping>]) -> Result<()> {
        let mut waiting: VecDeque<&Arc<TableMapping>> = mappings.iter().collect();
        let mut put_off = 0;
        while let Some(mapping) = waiting.pop_front() {
            let mut needs = mapping.schema.rests_on.iter();
            // Not for ever: some may need each other, of which the target says what is wrong.
            let is_early = needs.any(|name| waiting.iter().any(|other| other.source() == name));
            if is_early && put_off < waiting.len() {
                put_off += 1;
                waiting.push_back(mapping);
                continue;
            }
            put_off = 0;
            let target = &self.engine.target;
            let prepared = target
                .prepare(mapping, Existing::SkipLoaded, Place::InPlace, &[])
                .await?;
            if !prepared.is_skipped {
                target.finish(mapping, Place::InPlace).await?;
            }
        }
        let tables = self.checkpoint().await?.tables;
        if tables
            .iter()
            .any(|table| table.state == TableState::Loading)
        {
            return Ok(());
        }
        self.engine.target.set_phase(LoadPhase::Loaded).await
    }
}

pub(super) fn table_checkpoint(mapping: &TableMapping, state: TableState) -> TableCheckpoint {
    TableCheckpoint {
        source: mapping.source().clone(),
        target: mapping.target.clone(),
        source_id: mapping.schema.id,
        state,
        reason: None,
        units: Vec::new(),
        shape: Some(KnownShape::of(mapping)),
    }
}

/// How far types of the target follow those of the source. Before anything is loaded they may be anybody's.
pub(super) fn type_changes(engine: &Engine, start: &Start) -> TypeChanges {
    match start {
        Start::ResumeLoad => engine.type_changes(),
        _ => TypeChanges::Additions,
    }
}

/// What a start means, in a sentence.
pub(super) fn describe(start: &Start, checkpoint: Option<&Checkpoint>) -> String {
    let position = || checkpoint.map_or_else(String::new, |c| c.position.to_string());
    match start {
        Start::First { .. } => "first start: the log is opened, then the rows are copied".into(),
        Start::Anew(_) => "begins anew: the log is opened again, and all rows are copied".into(),
        Start::LoadOnce => "a full load alone: the rows are copied, no log is opened".into(),
        Start::FromSlot { position } => format!("follows the log from {position}, loads nothing"),
        Start::ResumeLoad => format!("goes on with the load; the log is kept from {}", position()),
        Start::ResumeStream {
            slot_behind_bytes: 0,
        } => format!("goes on at {}", position()),
        Start::ResumeStream { slot_behind_bytes } => {
            format!(
                "goes on at {}; slot behind by {slot_behind_bytes} bytes, which are skipped",
                position()
            )
        }
    }
}
