//! A snapshot that has seen everything that was applied; why one may not is told in [`super::resync`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::catalogue::codes;
use crate::error::{Error, Result};
use crate::schema::TableName;
use crate::source::Snapshot;
use crate::tidemark::Seen;

use super::Engine;

/// How long such a snapshot is waited for.
const WAIT_MAX: Duration = Duration::from_mins(5);
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// When it is told first who is waited for, and how often after that.
const TELL_AFTER: Duration = Duration::from_secs(2);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Waits for it, and tells who holds it up; where the table is to be read `alone`, a snapshot of that one.
pub(super) async fn snapshot_after(
    engine: &Engine,
    applied: &[u32],
    table: &TableName,
    alone: bool,
) -> Result<Arc<dyn Snapshot>> {
    let applied: HashSet<u32> = applied.iter().copied().collect();
    let deadline = Instant::now() + WAIT_MAX;
    let mut tell_at = Instant::now() + TELL_AFTER;
    let mut wait = LOOK_MIN;
    loop {
        let snapshot = if alone {
            engine.source.snapshot_of(table).await?
        } else {
            engine.source.snapshot().await?
        };
        let Seen::PgSnapshot(seen) = &snapshot.tidemark().seen else {
            return Ok(Arc::from(snapshot));
        };
        // Not `xip` alone: of a transaction that is not visible yet the id may also be at or above
        // `xmax`, which is one past the highest that has ended.
        let unseen = applied.iter().copied().find(|xid| !seen.sees(*xid));
        let Some(xid) = unseen else {
            return Ok(Arc::from(snapshot));
        };
        if Instant::now() >= deadline {
            let who = who_runs(engine, xid).await;
            return Err(Error::data(
                codes::SNAPSHOT_BEHIND,
                format!(
                    "transaction {xid} may be applied already, and the source still runs it{who}"
                ),
            ));
        }
        drop(snapshot);
        if Instant::now() >= tell_at {
            let who = who_runs(engine, xid).await;
            tracing::info!(
                pipeline = %engine.name,
                "{table} is loaded anew once transaction {xid} has ended on the source{who}"
            );
            tell_at = Instant::now() + TELL_EVERY;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK_MAX);
    }
}

/// Who that is, as far as the source tells.
async fn who_runs(engine: &Engine, xid: u32) -> String {
    match engine.source.who_runs(xid).await {
        Ok(Some(who)) => format!(": {who}"),
        Ok(None) => String::new(),
        Err(error) => {
            tracing::debug!(pipeline = %engine.name, %error, "who is waited for cannot be seen");
            String::new()
        }
    }
}
