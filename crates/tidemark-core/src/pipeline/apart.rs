//! Source and target are two: a table is not copied onto itself, nor to where its rows come from. Looked
//! at once a run, before anything is made.

use std::sync::Arc;

use super::Run;
use crate::catalogue::codes;
use crate::error::{Error, Result};
use crate::mapping::TableMapping;
use crate::schema::TableName;

impl Run {
    /// A pipeline that reads the target's log sends back what we apply, unless both directions mark what
    /// they apply and leave out what is marked.
    pub(super) async fn not_in_a_circle(&self, mappings: &[Arc<TableMapping>]) -> Result<()> {
        for feed in self.engine.source.fed_by().await? {
            let is_copied = |table: &&TableName| mappings.iter().any(|m| m.source() == *table);
            let Some(table) = feed.tables.iter().find(is_copied) else {
                continue;
            };
            if feed.is_left_out && self.engine.target.marks() {
                continue;
            }
            if self.engine.target.is_source(&feed.source).await? {
                let message = format!(
                    "pipeline {} runs, and copies from this target to {table} of this source",
                    feed.pipeline
                );
                let err = Error::definite(codes::TARGET_CIRCLE, message);
                return Err(err.table(table.to_string()));
            }
        }
        Ok(())
    }

    /// A table that is its own copy would be emptied or made anew by what prepares it, and fed by
    /// its own changes for ever.
    pub(super) async fn not_onto_itself(&self, mappings: &[Arc<TableMapping>]) -> Result<()> {
        let Some(mapping) = mappings.iter().find(|m| *m.source() == m.target) else {
            return Ok(());
        };
        let identity = self.engine.source.log_state().await?.identity;
        if !self.engine.target.is_source(&identity).await? {
            return Ok(());
        }
        let database = &identity.database;
        let message = format!("source and target are both the database {database} of one server");
        let err = Error::definite(codes::TARGET_IS_SOURCE, message);
        Err(err.table(mapping.source().to_string()))
    }
}
