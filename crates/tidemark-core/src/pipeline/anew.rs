//! A slot that cannot be decoded, found out while the rows are loaded: it is given up, and the load
//! begins anew with another.
//!
//! # The problem
//! PostgreSQL forgets a catalog change that commits between the two steps in which a slot is built. Such
//! a slot looks like any other, and its log can never be read past the first change of a table that was
//! emptied or rewritten then. Whoever reads it only once the rows are in has loaded them in vain.
//!
//! # What we do
//! The log is read while the rows are loaded ([`crate::source::Source::read_ahead`]). As long as the load
//! is not over nothing rests on it: no change was applied and nobody was told that the copy is current. So
//! then, and only then, a person need not be asked:
//!
//! 1. That the slot is given up is recorded ([`Release::is_to_begin_anew`]). From here on whatever run
//!    comes next begins anew, so that a crash anywhere below costs nothing.
//! 2. The next attempt removes the slot, opens the log again, and records the new start. Tables that had
//!    been begun are recorded as begun and not resumable, so they are emptied ([`not_resumable`]).
//!
//! Once a run: a source whose log cannot be decoded the second time either has another trouble.

use std::sync::Arc;

use tokio::sync::watch;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, Chunk, LoadPhase, Release, TableCheckpoint, TableState, Unit};
use crate::clock;
use crate::error::{Error, Result};
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::TableName;
use crate::source::{Slot, Snapshot};
use crate::target::Place;

use super::full_load::swap_in;
use super::load::{self, LoadReport, LoadTable};
use super::observe::{PipelineEvent, Step};
use super::plan::{self, Start};
use super::{Engine, Run};

/// Whether the slot was given up, and the load is to begin anew. What was recorded at another position
/// is of another slot.
pub(super) fn is_due(checkpoint: &Checkpoint) -> bool {
    let release = checkpoint.release.as_ref();
    checkpoint.phase == LoadPhase::Loading
        && release.is_some_and(|release| {
            release.is_to_begin_anew && release.position == checkpoint.position
        })
}

/// Begins anew, once nobody reads what is there.
pub(super) fn start(slot: Option<&Slot>) -> Result<Start> {
    if let Some(slot) = slot {
        plan::usable(slot)?;
        plan::not_held(slot)?;
    }
    Ok(Start::Anew(slot.map(|slot| slot.name.clone())))
}

/// Loads the tables; meanwhile the log that will be streamed is read, so that one which the source cannot
/// decode ends the load and not the stream behind it.
pub(super) async fn load_and_read_ahead(
    engine: &Arc<Engine>,
    snapshot: Box<dyn Snapshot>,
    tables: Vec<LoadTable>,
    position: Position,
) -> Result<LoadReport> {
    let (loaded, is_loaded) = watch::channel(false);
    let loading = async {
        let report = load::load(engine, Arc::from(snapshot), tables, Place::InPlace).await;
        let mut report = report.map_err(|ended| ended.error)?;
        swap_in(engine, &mut report).await?;
        loaded.send_replace(true);
        Ok(report)
    };
    if !engine.options.mode.streams() {
        return loading.await;
    }
    let reading_ahead = engine.source.read_ahead(position, is_loaded);
    let (report, ()) = tokio::try_join!(loading, reading_ahead)?;
    Ok(report)
}

/// Tables that a full load alone had begun when it was cut off: what is in them is ours. One that was
/// skipped as loaded has its units in, none of which was read.
pub(super) fn begun(checkpoint: Option<&Checkpoint>) -> Vec<TableName> {
    let cut_off = checkpoint.filter(|checkpoint| checkpoint.phase != LoadPhase::Loaded);
    let is_begun = |table: &&TableCheckpoint| {
        let is_read = |unit: &Unit| !unit.is_loaded || unit.tidemark.is_some();
        table.units.iter().any(is_read)
    };
    let tables = cut_off
        .into_iter()
        .flat_map(|checkpoint| &checkpoint.tables);
    tables
        .filter(is_begun)
        .map(|table| table.source.clone())
        .collect()
}

/// The same tables as a new start records them: what is in is not resumed, since another log follows.
fn not_resumable(checkpoint: Option<&Checkpoint>) -> Vec<TableCheckpoint> {
    let names = begun(checkpoint);
    let tables = checkpoint.into_iter().flat_map(|found| &found.tables);
    tables
        .filter(|table| names.contains(&table.source))
        .map(|table| TableCheckpoint {
            state: TableState::Loading,
            reason: None,
            units: vec![Unit {
                number: 0,
                chunk: Chunk::Whole,
                tidemark: None,
                is_loaded: false,
                rows: 0,
            }],
            ..table.clone()
        })
        .collect()
}

impl Run {
    /// A first start in the place of one whose slot is given up.
    pub(super) async fn begin_anew(
        &mut self,
        leftover: Option<&str>,
        checkpoint: Option<&Checkpoint>,
        mappings: &[Arc<TableMapping>],
    ) -> Result<Box<dyn Snapshot>> {
        let engine = Arc::clone(&self.engine);
        if let Some(slot) = leftover {
            let text = format!("removes {slot}, which cannot be decoded");
            engine.step(Step::Prepare, text);
            engine.source.release_slot().await?;
        }
        self.open(mappings, &not_resumable(checkpoint)).await
    }

    /// Records that the slot is given up, where that is what an error asks for; gives every other error
    /// back.
    pub(super) async fn give_slot_up(&mut self, err: Error) -> Result<()> {
        if err.code() != codes::SOURCE_CANNOT_DECODE || self.lasting.is_anew {
            return Err(err);
        }
        let engine = &self.engine;
        let checkpoint = engine.target.checkpoint().await?;
        let Some(found) = checkpoint.filter(|found| found.phase == LoadPhase::Loading) else {
            return Err(err);
        };
        let release = Release {
            position: found.position,
            at: clock::now(),
            reason: err.to_string(),
            is_to_begin_anew: true,
            is_history_lost: false,
        };
        engine.target.record_release(&release).await?;
        self.lasting.is_anew = true;
        engine.observer.say(PipelineEvent::Warning {
            code: codes::SLOT_MADE_ANEW,
            text: format!("the slot is made anew and the load begins again: {err}"),
        });
        Ok(())
    }
}
