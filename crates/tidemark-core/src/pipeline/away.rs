//! Tables that are away for a while: called otherwise, or followed by no run.
//!
//! A table that is called otherwise is still the same one, by its number, and so are its rows. So its changes
//! are kept in order, and taken back when the log, or a look at the catalog that the stream has passed, has it
//! under its name again. Nothing has to be loaded, whatever happened in between: a change of its shape is
//! noticed under any name, and sets it aside for good. Where it is followed under its other name meanwhile its
//! changes go there, and nothing is kept.
//!
//! A table that a run does not follow at all, because the source does not have it by that name then, or the
//! file does not select it, misses what that run passes. Its state would not tell, should it come back; so
//! before anything is read it is recorded that the table has been left behind, and this run or a later one
//! loads it anew as soon as it is there again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{Reason, TableCheckpoint, TableState, TableStateChange};
use crate::error::Result;
use crate::mapping::TableMapping;
use crate::schema::TableName;

use super::Run;
use super::observe::PipelineEvent;

/// How the reason begins for which a table is kept that is called otherwise.
const CALLED: &str = "it is called ";

/// The reason that stands with a table that a run has not followed.
const LEFT_BEHIND: &str = "left behind: a run has passed changes of it";

/// Why a table is set aside.
pub(super) fn reason(now: &TableName) -> Reason {
    let text = format!("{CALLED}{now} now; its changes are kept until it is called as before");
    Reason::coded(codes::SCHEMA_CHANGE_REFUSED, text)
}

/// Whether it is recorded of a table that it is kept for that.
pub(super) fn is_told(table: &TableCheckpoint) -> bool {
    let reason = table.reason.as_ref();
    let is_called = |reason: &Reason| {
        reason.code == Some(codes::SCHEMA_CHANGE_REFUSED) && reason.text.starts_with(CALLED)
    };
    table.state == TableState::Quarantined && reason.is_some_and(is_called)
}

/// Whether changes of a table are missing that a run has passed.
pub(super) fn is_left_behind(table: &TableCheckpoint) -> bool {
    table.reason == Some(Reason::plain(LEFT_BEHIND))
}

impl Run {
    /// Records which tables this run does not follow; see the module's text.
    pub(super) async fn record_left_behind(
        &mut self,
        followed: impl Iterator<Item = &Arc<TableMapping>>,
    ) -> Result<()> {
        if !self.engine.options.mode.streams() {
            return Ok(());
        }
        let followed: HashSet<&TableName> = followed.map(|mapping| mapping.source()).collect();
        let recorded = self.checkpoint().await?.tables;
        let left = recorded.into_iter().filter(|table| {
            let has_rows = table.state != TableState::Unloaded;
            has_rows && !followed.contains(&table.source) && !is_left_behind(table)
        });
        let left: Vec<TableStateChange> = left
            .map(|table| TableStateChange {
                table: table.source,
                target: table.target,
                source_id: table.source_id,
                state: table.state,
                reason: Some(Reason::plain(LEFT_BEHIND)),
            })
            .collect();
        self.states.extend(left.iter().cloned());
        self.record_states().await?;
        for TableStateChange { table, reason, .. } in left {
            let reason = reason.map(|reason| reason.text);
            let event = PipelineEvent::LeftOut { table, reason };
            self.engine.observer.say(event);
        }
        Ok(())
    }
}
