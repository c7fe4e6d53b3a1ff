//! Bringing a target that has missed changes to the source's state, without loading it all again.
//!
//! # The problem
//! The slot is gone, was invalidated or advanced, or the source is another cluster: nobody can say any
//! more what has changed since the checkpoint. The rows are still on both sides, and most of them are
//! the same.
//!
//! # What we do
//! 1. The tables are recorded as `resyncing`, to be reconciled ([`Run::bridge`]). From here on whatever
//!    run comes next parks their changes and compares them first, so a crash anywhere below loses
//!    nothing, and no run streams into a table that has not been compared.
//! 2. The old slot goes, the log is opened anew at X, and X is recorded with the source's identity. What
//!    was parked from the old log goes in the same commit: what is compared later has seen it.
//! 3. The stream begins at X. Each table is compared with a snapshot S of the source by digests of key
//!    ranges, down to the keys that differ, and only these rows are moved ([`rows`]); this is the comparison
//!    of `verify` and the load of a repair. Then S is the tidemark of the whole table, and its parked
//!    changes are taken back, as after any resync ([`super::resync`]).
//!
//! Readers of the target see the old rows until the new ones are committed, a few hundred rows at a time.
//! A table whose rows cannot be told by a key, whose columns have changed, or of which too much differs
//! is copied whole instead, and that is said.

use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{
    Checkpoint, CheckpointUpdate, Chunk, KnownColumn, KnownShape, LoadPhase, Reason,
    TableCheckpoint, TableState, TableStateChange, Unit,
};
use crate::control::ResyncStrategy;
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::source::{Keep, Snapshot};
use crate::status::Reconciled;
use crate::target::{Existing, LoadStart, Place};
use crate::verify::compare::{self, Depth, First, Outcome, TableReport};
use crate::verify::difference::{DifferenceKind, Mend, mend};

use super::load::{self, LoadTable};
use super::observe::{PipelineEvent, Step};
use super::options::Reconcile;
use super::resync::{Failed, What};
use super::start::table_checkpoint;
use super::{Engine, Run, plan, state_change};

/// Rows whose keys are kept at once, about; what differs more is moved by ranges.
const KEYS_AT_ONCE_MAX: usize = 200_000;

impl Run {
    /// Does what the options ask for, once.
    pub(super) async fn reconcile(&mut self, mappings: &[Arc<TableMapping>]) -> Result<()> {
        let wanted = self.reconcile.clone();
        if wanted == Reconcile::Nothing {
            return Ok(());
        }
        let Some(checkpoint) = self.engine.target.checkpoint().await? else {
            return Err(nothing("it never started, so there is no gap"));
        };
        match wanted {
            Reconcile::Nothing => {}
            Reconcile::All => self.bridge(&checkpoint, mappings).await?,
            Reconcile::Tables(names) => {
                let is_wanted = |m: &&Arc<TableMapping>| names.contains(m.source());
                let wanted: Vec<_> = mappings.iter().filter(is_wanted).cloned().collect();
                if checkpoint.phase == LoadPhase::Loading {
                    return Err(nothing("its first load is not over"));
                }
                self.record_as_to_reconcile(&checkpoint, &wanted).await?;
            }
        }
        self.reconcile = Reconcile::Nothing;
        Ok(())
    }

    /// Every table, from a log that is opened anew.
    async fn bridge(
        &mut self,
        checkpoint: &Checkpoint,
        mappings: &[Arc<TableMapping>],
    ) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let log = engine.source.log_state().await?;
        if let Some(slot) = &log.slot {
            plan::usable(slot)?;
            plan::not_held(slot)?;
        }
        // One that is new since is found by the stream, as ever.
        let is_known = |m: &&Arc<TableMapping>| known(checkpoint, m).is_some();
        let mappings: Vec<_> = mappings.iter().filter(is_known).cloned().collect();
        let states = self.record_as_to_reconcile(checkpoint, &mappings).await?;
        failpoint::reached(failpoint::RECONCILE_RECORDED);
        if let Some(slot) = &log.slot {
            let text = format!("removes {}, whose log does not go on from there", slot.name);
            engine.step(Step::Prepare, text);
            engine.source.release().await?;
        }
        failpoint::reached(failpoint::RECONCILE_RELEASED);
        let names: Vec<_> = mappings.iter().map(|m| m.source().clone()).collect();
        engine.source.announce(&names).await?;
        let identity = engine.source.log_state().await?.identity;
        let (position, snapshot) = engine.source.open_log(Keep::ForPipeline).await?;
        failpoint::reached(failpoint::RECONCILE_OPENED);
        // Each table is compared at a snapshot of its own.
        drop(snapshot);
        let text = format!("the source keeps its log from {position} on; rows are compared");
        engine.step(Step::Prepare, text);
        let tables = mappings
            .iter()
            .zip(states)
            .map(|(mapping, change)| TableCheckpoint {
                reason: change.reason,
                ..table_checkpoint(mapping, change.state)
            });
        let start = LoadStart {
            identity,
            position,
            phase: LoadPhase::Finishing,
            tables: tables.collect(),
        };
        engine.target.start_load(&start).await?;
        failpoint::reached(failpoint::RECONCILE_BEGUN);
        engine.observer.say(PipelineEvent::LoadPosition(position));
        Ok(())
    }

    /// From here on the tables are set aside until they are compared, whoever runs the pipeline.
    async fn record_as_to_reconcile(
        &self,
        checkpoint: &Checkpoint,
        mappings: &[Arc<TableMapping>],
    ) -> Result<Vec<TableStateChange>> {
        let change = |mapping: &Arc<TableMapping>| {
            let what = known(checkpoint, mapping).map_or(What::Reconcile, |t| what(t, mapping));
            let reason = Some(Reason::plain(what.reason()));
            state_change(mapping, TableState::Resyncing, reason)
        };
        let states: Vec<TableStateChange> = mappings.iter().map(change).collect();
        let update = CheckpointUpdate {
            states: states.clone(),
            ..CheckpointUpdate::default()
        };
        let mut applier = self.engine.target.applier().await?;
        applier.begin().await?;
        applier.commit(&update).await?;
        applier
            .flush()
            .await
            .context(|| "record what is to be reconciled")?;
        Ok(states)
    }
}

fn nothing(why: &str) -> Error {
    Error::definite(
        codes::RECONCILE_NOTHING,
        format!("there is nothing to reconcile: {why}"),
    )
}

fn known<'a>(checkpoint: &'a Checkpoint, mapping: &TableMapping) -> Option<&'a TableCheckpoint> {
    let mut tables = checkpoint.tables.iter();
    tables.find(|table| table.source == *mapping.source())
}

/// Rows that are all in are compared. Others, and those of a table whose columns are not what they
/// were, are loaded anew: the log that would tell what happened between is gone.
fn what(table: &TableCheckpoint, mapping: &TableMapping) -> What {
    let is_begun = table.reason == Some(Reason::plain(What::Reconcile.reason()));
    if !table.state.has_rows() && !is_begun {
        return What::Table(ResyncStrategy::Truncate);
    }
    // The catalog's numbers are another cluster's, perhaps; whether types fit is seen by the target.
    let is_same = |was: &KnownShape| {
        let now = KnownShape::of(mapping);
        let told = |c: &KnownColumn| (c.name.clone(), c.type_modifier, c.is_not_null);
        was.columns
            .iter()
            .map(told)
            .eq(now.columns.iter().map(told))
    };
    if !table.shape.as_ref().is_none_or(is_same) {
        return What::Table(strategy(mapping));
    }
    What::Reconcile
}

/// How a table is copied whole: unnoticed by readers, where that can be.
pub(super) fn strategy(mapping: &TableMapping) -> ResyncStrategy {
    if mapping.schema.is_partitioned {
        ResyncStrategy::Truncate
    } else {
        ResyncStrategy::Swap
    }
}

/// What became of a table that was compared.
pub(super) enum Compared {
    /// It is as the snapshot has it.
    Mended { unit: Unit, found: Reconciled },
    /// It has to be copied whole; why, and what was found by then.
    Whole { why: String, found: Reconciled },
}

/// Compares a table with the snapshot and moves only what differs.
pub(super) async fn rows(
    engine: &Arc<Engine>,
    snapshot: &Arc<dyn Snapshot>,
    mapping: &Arc<TableMapping>,
) -> Result<Compared, Failed> {
    let position = snapshot.tidemark().after;
    let mut found = Reconciled {
        lsn: position,
        source_rows: 0,
        target_rows: 0,
        missing: Some(0),
        changed: Some(0),
        extra: Some(0),
        rows_moved: 0,
        bytes_moved: 0,
        whole: None,
    };
    let (mut source, mut target) = (snapshot.view().await?, engine.target.view().await?);
    let (mut moves, mut first) = (Moves::default(), First::Digest);
    for range in compare::ranges(snapshot.as_ref(), mapping, Depth::Deep).await? {
        let (source, target, keys_max) = (source.as_mut(), target.as_mut(), KEYS_AT_ONCE_MAX);
        let asked = (&range, first);
        let compared =
            compare::compare_range(source, target, mapping, asked, position, keys_max).await;
        let compared = compared.map_err(|error| about(mapping, error))?;
        let rows = compared.source_rows.max(compared.target_rows);
        first = First::after(&compared.outcome, rows);
        add(&mut found, &compared);
        if compared.outcome == Outcome::Identical {
            continue;
        }
        match (mend(&compared, mapping), &range) {
            (Mend::Rows(chunks), _) => moves.add(chunks, compared.differences.len()),
            (Mend::Whole(_), Chunk::Keys { .. })
                if !compared.is_counted && !mapping.key.is_empty() =>
            {
                moves.add(vec![range], KEYS_AT_ONCE_MAX);
            }
            (Mend::Whole(why), _) => {
                let why = why.to_owned();
                return Ok(Compared::Whole { why, found });
            }
        }
        failpoint::reached(failpoint::RECONCILE_COMPARED);
        if moves.keys >= KEYS_AT_ONCE_MAX {
            moves
                .carry_out(engine, snapshot, mapping, &mut found)
                .await?;
        }
    }
    // What it makes must not wait for us.
    drop((source, target));
    // Also where nothing differs: the table has to fit, and to have its keys.
    moves
        .carry_out(engine, snapshot, mapping, &mut found)
        .await?;
    let unit = Unit {
        number: 0,
        chunk: Chunk::Whole,
        tidemark: Some(snapshot.tidemark().clone()),
        is_loaded: true,
        rows: found.source_rows,
    };
    // What was moved, and what was the same: all of it is as the snapshot has it.
    let units = std::slice::from_ref(&unit);
    let target = &engine.target;
    let recorded = target.prepare(mapping, Existing::Resume, Place::InPlace, units);
    recorded.await?;
    Ok(Compared::Mended { unit, found })
}

/// A column that one side lacks is a matter of this table: the log has not told of it yet, or never will.
fn about(mapping: &TableMapping, error: Error) -> Error {
    let lacks = [codes::SOURCE_NO_OBJECT, codes::TARGET_NO_OBJECT];
    if lacks.contains(&error.code()) {
        return error.table(mapping.source().to_string());
    }
    error
}

/// What is to be moved next.
#[derive(Default)]
struct Moves {
    chunks: Vec<Chunk>,
    keys: usize,
}

impl Moves {
    fn add(&mut self, chunks: Vec<Chunk>, keys: usize) {
        self.chunks.extend(chunks);
        self.keys += keys;
    }

    async fn carry_out(
        &mut self,
        engine: &Arc<Engine>,
        snapshot: &Arc<dyn Snapshot>,
        mapping: &Arc<TableMapping>,
        found: &mut Reconciled,
    ) -> Result<(), Failed> {
        let Moves { chunks, .. } = std::mem::take(self);
        let table = LoadTable {
            mapping: Arc::clone(mapping),
            existing: Existing::Resume,
            recorded: Vec::new(),
            ranges: Some(chunks),
            // How many there are is recorded once all of them are compared.
            rows_before: 0,
            anew: Some(What::Reconcile.reason()),
        };
        let snapshot = Arc::clone(snapshot);
        let mut report = load::load(engine, snapshot, vec![table], Place::InPlace).await?;
        if let Some((_, error)) = report.refused.pop() {
            return Err(error.into());
        }
        found.rows_moved += report.rows;
        found.bytes_moved += report.bytes;
        Ok(())
    }
}

/// Adds up what the ranges of a table have shown.
fn add(found: &mut Reconciled, compared: &TableReport) {
    found.source_rows += compared.source_rows;
    found.target_rows += compared.target_rows;
    let count = |kind| {
        let differences = compared.differences.iter();
        let of_kind = differences.filter(|difference| difference.kind == kind);
        compared.is_counted.then(|| of_kind.count() as u64)
    };
    for (sum, kind) in [
        (&mut found.missing, DifferenceKind::Missing),
        (&mut found.changed, DifferenceKind::Changed),
        (&mut found.extra, DifferenceKind::Extra),
    ] {
        *sum = sum.zip(count(kind)).map(|(sum, more)| sum + more);
    }
}
