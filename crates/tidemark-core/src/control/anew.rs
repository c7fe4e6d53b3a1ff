//! Waiting for tables that somebody asked to have loaded anew, whoever runs the pipeline: the target has
//! how they stand.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::catalogue::codes;
use crate::checkpoint::{Reason, TableCheckpoint, TableState};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableName;
use crate::target::Target;
use crate::verify::standstill::Ask;
use crate::words::table_word;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For how long a target need not answer.
const SILENT_MAX: Duration = Duration::from_mins(1);

/// Returns once all of these tables stream again, with the rows that were loaded; with an error as soon as
/// one is set aside, or nobody runs the pipeline any more.
pub async fn loaded_anew(
    target: &dyn Target,
    pipeline: &dyn Ask,
    tables: &[TableName],
) -> Result<u64> {
    let mut heard = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        match look(target, pipeline, tables).await {
            Ok(Some(rows)) => return Ok(rows),
            Ok(None) => heard = Instant::now(),
            Err(err) if err.kind() == ErrorKind::Transient && heard.elapsed() < SILENT_MAX => {}
            Err(err) => return Err(err),
        }
    }
}

async fn look(
    target: &dyn Target,
    pipeline: &dyn Ask,
    tables: &[TableName],
) -> Result<Option<u64>> {
    let Some(checkpoint) = target.checkpoint().await? else {
        return Ok(None);
    };
    let is_ours = |table: &&TableCheckpoint| tables.contains(&table.source);
    let ours: Vec<_> = checkpoint.tables.iter().filter(is_ours).collect();
    let is_aside = |state| matches!(state, TableState::Quarantined | TableState::Unloaded);
    if let Some(aside) = ours.iter().find(|table| is_aside(table.state)) {
        return Err(refused(aside));
    }
    let is_over = |table: &&TableCheckpoint| table.state != TableState::Resyncing;
    if ours.iter().all(is_over) {
        let units = ours.iter().flat_map(|table| &table.units);
        return Ok(Some(units.map(|unit| unit.rows).sum()));
    }
    if pipeline.is_there().await? {
        return Ok(None);
    }
    let text = "the pipeline has stopped; its next run begins again with this";
    Err(Error::definite(codes::CLI_NOT_RUNNING, text))
}

/// Whatever was refused, and whatever the code of that says of its effect: the table does not go on by itself.
fn refused(aside: &TableCheckpoint) -> Error {
    let unknown = || Reason::plain("no reason recorded");
    let (table, reason) = (&aside.source, aside.reason.clone().unwrap_or_else(unknown));
    let text = format!("{table} is set aside, and its changes are kept: {reason}");
    let code = reason.code.unwrap_or(codes::CLI_REFUSED);
    let err = Error::data(code, text).table(table.to_string());
    if !aside.state.has_rows() {
        return err;
    }
    err.first_action(format!(
        "have it go on with the rows that it has: tidemark retry NAME --table {}; or mend what the \
         message names and ask again, with the other --strategy where that helps",
        table_word(table)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_can_be_pasted_into_a_shell() {
        let table = TableName::new("a.b", "it's; x");
        let aside = TableCheckpoint {
            source: table.clone(),
            target: table,
            source_id: 1,
            state: TableState::Quarantined,
            reason: None,
            units: Vec::new(),
            shape: None,
        };
        let typed = "tidemark retry NAME --table '\"a.b\".it'\\''s; x';";
        let action = refused(&aside).action();
        assert!(action.contains(typed), "{action}");
    }
}
