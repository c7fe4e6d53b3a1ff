//! The load of an attempt: which tables are to be loaded, what is recorded of them, and how it ends.
//! [`super::load`] copies the rows.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, KnownShape, LoadPhase, Reason, TableCheckpoint, TableState};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::schema::TableName;
use crate::source::Snapshot;
use crate::status::{By, PipelineState};
use crate::target::Existing;
use crate::words::counted;

use super::load::{LoadReport, LoadTable};
use super::observe::{PipelineEvent, Step};
use super::resync::What;
use super::{Engine, Interrupted, Request, Run, anew, commands, state_change};

impl Run {
    /// Loads the tables that are not in yet, and records that they are. Foreign keys and sequences follow at
    /// once where all rows were read at one instant; otherwise the stream makes them when it has passed
    /// the last tidemark.
    pub(super) async fn load(
        &mut self,
        snapshot: Box<dyn Snapshot>,
        mappings: &[Arc<TableMapping>],
        begun: &[TableName],
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<Interrupted<()>> {
        let engine = Arc::clone(&self.engine);
        if !engine.options.mode.loads() {
            drop(snapshot);
            self.make_without_rows(mappings).await?;
            return Ok(Interrupted::Done(()));
        }
        let checkpoint = self.checkpoint().await?;
        let tables = tables_to_load(&engine, &checkpoint, mappings, begun);
        // No row goes into quarantine before a load is in, and what was there is gone with its start.
        engine.observer.recorded(&checkpoint, mappings, Vec::new());
        engine
            .observer
            .state(PipelineState::Loading, By::Engine, None);
        engine.step(Step::Load, describe_load(&tables, snapshot.as_ref()));

        let began = tokio::time::Instant::now();
        let loading = anew::load_and_read_ahead(&engine, snapshot, tables, checkpoint.position);
        let report = tokio::select! {
            report = loading => report?,
            asked = commands::interrupted(requests, self.lasting.is_paused) => return Ok(Interrupted::Asked(asked)),
        };
        let (rows, took) = (report.rows, began.elapsed());
        debug_assert_eq!(checkpoint.phase, LoadPhase::Loading);
        self.record_loaded(report).await?;
        failpoint::reached(failpoint::TABLES_RECORDED);
        engine.target.set_phase(LoadPhase::Finishing).await?;
        failpoint::reached(failpoint::FINISHING_RECORDED);
        let checkpoint = self.checkpoint().await?;
        if load_is_one_instant(&checkpoint) {
            self.finish(not_set_aside(&checkpoint, mappings)).await?;
        }
        engine.observer.say(PipelineEvent::Loaded { rows, took });
        Ok(Interrupted::Done(()))
    }

    /// A table whose rows do not keep a foreign key is set aside. The next attempt streams on without it; that
    /// of a load alone would begin with its rows again, and meet the same, for ever.
    async fn finish(&mut self, mut left: Vec<Arc<TableMapping>>) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        loop {
            let Err(err) = finish_load(&engine, &left).await else {
                return Ok(());
            };
            let count = left.len();
            left.retain(|mapping| err.table_name() != Some(mapping.source().to_string().as_str()));
            let is_of_all = err.kind() != ErrorKind::Data || left.len() == count;
            if engine.options.mode.streams() || is_of_all || !self.set_aside(&err).await {
                return Err(err);
            }
            if self.states.is_empty() {
                // The target did not answer, and knows nothing of it.
                return Err(err);
            }
            self.record_states().await?;
        }
    }

    /// Records that tables are in, or why they are not. What was rewritten while it was loaded is loaded
    /// anew beside the stream; where there is none, by the next attempt.
    async fn record_loaded(&mut self, report: LoadReport) -> Result<()> {
        let LoadReport { mut refused, .. } = report;
        let is_rewritten = |err: &Error| err.code() == codes::TABLE_REWRITTEN;
        let state = if self.engine.options.mode.streams() {
            TableState::Streaming
        } else if let Some(at) = refused.iter().position(|(_, err)| is_rewritten(err)) {
            return Err(refused.swap_remove(at).1);
        } else {
            TableState::Done
        };
        let refused_states = refused.iter().map(|(mapping, err)| {
            if !is_rewritten(err) {
                return (mapping, TableState::Unloaded, Some(Reason::of(err)));
            }
            self.engine.observer.say(PipelineEvent::Warning {
                code: err.code(),
                text: format!(
                    "{} is loaded anew beside the stream: {err}",
                    mapping.source()
                ),
            });
            let reason = What::Again(self.engine.options.existing).reason();
            (mapping, TableState::Resyncing, Some(Reason::plain(reason)))
        });
        let is_refused = |mapping: &Arc<TableMapping>| {
            let mut refused = refused.iter();
            refused.any(|(other, _)| other.source() == mapping.source())
        };
        let loaded = report
            .tables
            .iter()
            .filter(|(mapping, _)| !is_refused(mapping))
            .map(|(mapping, _)| (mapping, state, None));
        for (mapping, state, reason) in refused_states.chain(loaded) {
            self.states.push(state_change(mapping, state, reason));
        }
        self.record_states().await
    }
}

/// Gives rows that were loaded beside their tables their place, now that all are in. A table that cannot
/// be replaced keeps its old rows.
pub(super) async fn swap_in(engine: &Engine, report: &mut LoadReport) -> Result<()> {
    for mapping in std::mem::take(&mut report.beside) {
        let is_refused = |(other, _): &(Arc<TableMapping>, _)| other.source() == mapping.source();
        if report.refused.iter().any(is_refused) {
            continue;
        }
        match engine.target.swap(&mapping).await {
            Ok(()) => {}
            Err(err) if err.kind() == ErrorKind::Data && engine.sets_aside(mapping.source()) => {
                report.refused.push((mapping, err));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Foreign keys and sequences, then the load is over.
pub(super) async fn finish_load(engine: &Engine, mappings: &[Arc<TableMapping>]) -> Result<()> {
    let tables: Vec<TableMapping> = mappings.iter().map(|m| m.as_ref().clone()).collect();
    // Tables that nobody loaded have the foreign keys that whoever made them gave them; what was
    // taken off is made again in any case.
    let made = if engine.options.mode.loads() {
        tables.as_slice()
    } else {
        &[]
    };
    engine.target.finish_foreign_keys(made).await?;
    failpoint::reached(failpoint::FOREIGN_KEYS_MADE);
    let names: Vec<_> = tables.iter().map(|table| table.source().clone()).collect();
    let sequences = engine.source.sequences(&names).await?;
    // Rows come with their values: no table needs one, but whoever is to write to the target.
    for refused in engine.target.set_sequences(&sequences, &tables).await? {
        engine.observer.warn(&refused);
    }
    failpoint::reached(failpoint::SEQUENCES_SET);
    engine.target.set_phase(LoadPhase::Loaded).await?;
    failpoint::reached(failpoint::LOAD_RECORDED);
    Ok(())
}

/// Tables that are not set aside. Foreign keys to one that is are made when it has been loaded anew: until
/// then it lacks rows that others point to.
fn not_set_aside(
    checkpoint: &Checkpoint,
    mappings: &[Arc<TableMapping>],
) -> Vec<Arc<TableMapping>> {
    let is_in = |mapping: &&Arc<TableMapping>| {
        let mut tables = checkpoint.tables.iter();
        let known = tables.find(|table| table.source == *mapping.source());
        known.is_none_or(|known| !known.state.is_parked())
    };
    mappings.iter().filter(is_in).cloned().collect()
}

/// Whether all units were read at one instant, so that foreign keys hold already.
fn load_is_one_instant(checkpoint: &Checkpoint) -> bool {
    let mut states = checkpoint.tables.iter().map(|table| table.state);
    if states.any(|state| state == TableState::Resyncing) {
        return false;
    }
    let mut tidemarks = checkpoint
        .tables
        .iter()
        .flat_map(|table| &table.units)
        .filter_map(|unit| unit.tidemark.as_ref());
    match tidemarks.next() {
        Some(first) => tidemarks.all(|other| other.seen == first.seen),
        None => true,
    }
}

/// Tables that are not in yet, with what is recorded of them. Tables that are set aside stay so, and one
/// that is new since the log was opened is found by the stream, which has it announced first.
fn tables_to_load(
    engine: &Engine,
    checkpoint: &Checkpoint,
    mappings: &[Arc<TableMapping>],
    begun: &[TableName],
) -> Vec<LoadTable> {
    let mut tables = Vec::new();
    for mapping in mappings {
        let mut all = checkpoint.tables.iter();
        let known = all.find(|table| table.source == *mapping.source());
        let is_new = known.is_none() && engine.options.mode.streams();
        if is_new || known.is_some_and(|table| table.state != TableState::Loading) {
            continue;
        }
        let mut recorded = known.map(|table| table.units.clone()).unwrap_or_default();
        let mut existing = engine.options.existing;
        let is_same = |table: &TableCheckpoint| {
            table.source_id == mapping.schema.id
                && table.shape.as_ref() == Some(&KnownShape::of(mapping))
        };
        if !recorded.is_empty() && !known.is_some_and(is_same) {
            // What is in has another shape, and the log would not say how the two belong together.
            recorded.clear();
            existing = over_another_shape(existing);
        } else if begun.contains(mapping.source()) && existing != Existing::Swap {
            existing = Existing::Truncate;
        }
        tables.push(LoadTable {
            mapping: Arc::clone(mapping),
            existing,
            recorded,
            ranges: None,
            rows_before: 0,
            anew: None,
        });
    }
    tables
}

/// What becomes of a table of the target that we had begun to load when it had another shape.
pub(super) fn over_another_shape(existing: Existing) -> Existing {
    match existing {
        Existing::LoadIfEmpty | Existing::Fail => Existing::Drop,
        Existing::AppendIfEmpty | Existing::SkipLoaded => Existing::Truncate,
        other => other,
    }
}

fn describe_load(tables: &[LoadTable], snapshot: &dyn Snapshot) -> String {
    let resumed = tables
        .iter()
        .filter(|table| !table.recorded.is_empty())
        .count();
    let position = snapshot.tidemark().after;
    let count = counted(tables.len(), "table");
    match resumed {
        0 => format!("{count}, snapshot taken before {position}"),
        _ => format!("{count} ({resumed} of them begun), new snapshot before {position}"),
    }
}
