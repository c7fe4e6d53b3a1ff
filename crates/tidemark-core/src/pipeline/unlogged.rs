//! Tables of the target that somebody has made unlogged.
//!
//! A crash of the target empties them, and the checkpoint, which is logged, stays: whoever went on from there
//! would stream into a table without its rows. A crash ends all sessions, so before each attempt is the
//! moment to look; the look at the catalogs beside the stream mostly finds one before there is any crash. What
//! was lost by then nobody can tell, so the table is set aside until it is loaded anew.

use crate::catalogue::codes;
use crate::checkpoint::{Reason, TableState, TableStateChange};
use crate::error::{Error, Result};
use crate::schema::TableName;

use super::{Engine, Run};

impl Run {
    /// Notes those that the pipeline has for [`Run::record_states`].
    pub(super) async fn note_unlogged(&mut self) -> Result<()> {
        let engine = &self.engine;
        if !engine.options.mode.streams() {
            return Ok(());
        }
        let unlogged = engine.target.unlogged().await?;
        if unlogged.is_empty() {
            return Ok(());
        }
        let recorded = engine.target.checkpoint().await?;
        for table in recorded.into_iter().flat_map(|recorded| recorded.tables) {
            // A first load refuses such a table where its rows are to go.
            let has_none = matches!(table.state, TableState::Loading | TableState::Unloaded);
            if has_none || !unlogged.contains(&table.target) {
                continue;
            }
            let reason = engine.reason_of_unlogged(&table.source, &table.target)?;
            self.states.retain(|change| change.table != table.source);
            self.states.push(TableStateChange {
                table: table.source,
                target: table.target,
                source_id: table.source_id,
                state: TableState::Unloaded,
                reason: Some(reason),
            });
        }
        Ok(())
    }
}

impl Engine {
    /// Why such a table is set aside; an error where the file has the pipeline end instead.
    pub(super) fn reason_of_unlogged(
        &self,
        source: &TableName,
        target: &TableName,
    ) -> Result<Reason> {
        let text = format!("{target} is unlogged on the target: a crash there empties it");
        if self.sets_aside(source) {
            return Ok(Reason::coded(codes::TARGET_UNLOGGED, text));
        }
        Err(Error::definite(codes::TARGET_UNLOGGED, text).table(source.to_string()))
    }
}
