//! Changes that met another row than the log implies: somebody else writes to the target.

use crate::catalogue::codes;
use crate::error::Error;
use crate::pipeline::observe::PipelineEvent;
use crate::schema::TableName;

use super::Stream;

impl Stream<'_> {
    /// Once a run for each table: how many there are is counted.
    pub(super) fn warn_of_conflicts(&mut self, conflicts: &[(TableName, u64)]) {
        for (table, count) in conflicts {
            if self.lasting.warned.insert(table.clone()) {
                let text = conflict_text(table, *count);
                let code = codes::CONFLICT;
                self.engine
                    .observer
                    .say(PipelineEvent::Warning { code, text });
            }
        }
    }
}

/// Why the pipeline stops, where it is to.
pub(super) fn conflict_error(conflicts: &[(TableName, u64)]) -> Error {
    let tables: Vec<String> = conflicts
        .iter()
        .map(|(table, count)| format!("{table} ({count})"))
        .collect();
    Error::definite(
        codes::CONFLICT,
        format!(
            "changes met rows that somebody else wrote to the target: {}",
            tables.join(", ")
        ),
    )
}

/// Changes of this table met rows that somebody else had a hand in.
fn conflict_text(table: &TableName, count: u64) -> String {
    format!(
        "{table}: {count} changes met rows that somebody else wrote to the target, or has taken away; \
         the source's rows are there now; what follows is counted in `tidemark status`"
    )
}
