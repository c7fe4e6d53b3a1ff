//! Claiming tables: what two pipelines bring into one table comes twice.
//!
//! A pipeline first holds its own lock ([`owner`]), then claims its tables, and its claim is seen by
//! others once what it records of them is committed. Whoever claims holds one lock for all pipelines of
//! the database until then: otherwise two that start at the same moment would each look before the
//! other has recorded anything, and both would find themselves alone.
//!
//! A lock says nothing for sure: a run that has lost the session with its own seems to be over, goes on
//! writing, and takes its lock again ([`owner`]). So whoever is found with one of the tables and without its
//! lock is fenced off like one that was taken over ([`checkpoint`]), and whoever takes a lock again looks whether it
//! was. Who takes it again just then either is seen here, or waits there for what was written here:
//!
//! ```text
//!   claim        looks for the lock   generation + 1   looks for the lock   …   COMMIT
//!   take again                                                 takes the lock   generation FOR SHARE
//! ```

use std::collections::BTreeMap;

use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{Reason, TableState};
use tidemark_core::schema::TableName;
use tidemark_core::{Context, Error, Result};

use super::{checkpoint, owner};
use crate::wire::{Connection, quote_literal};

/// What nobody else may claim meanwhile. One number for all pipelines, which no pipeline's lock has but
/// by a chance of 1 in 2⁶⁴.
const CLAIM_LOCK: &str = "tidemark claim of tables";

/// Another pipeline that has recorded tables of ours.
pub(super) struct Shared {
    pub(super) pipeline: String,
    /// The tables, in words.
    pub(super) what: String,
    /// Whether somebody runs it now.
    pub(super) is_running: bool,
}

impl Shared {
    pub(super) fn found(&self) -> String {
        let Shared { pipeline, what, .. } = self;
        format!("written by pipeline {pipeline}, which runs now: {what}")
    }

    pub(super) fn way_out(&self) -> String {
        format!(
            "stop the other one (tidemark stop {}), or give these tables other names: target.schema, \
             or target in [[table]]",
            self.pipeline
        )
    }
}

/// Refuses where a pipeline that runs has one of the tables, and fences off those that seem not to. In an open
/// transaction, which is to record the tables: until it ends nobody else claims any.
pub(super) async fn claim(
    connection: &mut Connection,
    pipeline: &str,
    tables: &[&TableName],
) -> Result<()> {
    let key = owner::key_of(CLAIM_LOCK);
    // A statement of its own: the next one is to see what was committed while this one waited.
    connection
        .run(&format!("SELECT pg_advisory_xact_lock({key})"))
        .await
        .context(|| "claim the tables on the target")?;
    for other in shared(connection, pipeline, tables).await? {
        if !other.is_running {
            fence_off(connection, &other.pipeline).await?;
        }
        if other.is_running || is_running(connection, &other.pipeline).await? {
            let error = Error::definite(codes::TARGET_SHARED, other.found());
            return Err(error.first_action(other.way_out()));
        }
    }
    Ok(())
}

/// What a run of this pipeline has not committed by now is refused, should there be one. Waits for a commit of
/// it that is under way.
async fn fence_off(connection: &mut Connection, pipeline: &str) -> Result<()> {
    let sql = "UPDATE tidemark.checkpoint SET generation = generation + 1, \
               written_by = generation + 1 WHERE pipeline = $1";
    connection
        .query(sql, &[Some(pipeline)])
        .await
        .context(|| format!("fence off pipeline {pipeline}"))?;
    Ok(())
}

async fn is_running(connection: &mut Connection, pipeline: &str) -> Result<bool> {
    Ok(owner::holder(connection, pipeline).await?.is_some())
}

/// What other pipelines have recorded of these tables does not hold any more. In the transaction that records
/// that this one begins with them.
pub(super) async fn displace(
    connection: &mut Connection,
    pipeline: &str,
    tables: &[&TableName],
) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let why =
        format!("pipeline {pipeline} has loaded the table since, and may have changed its rows");
    let (state, why) = checkpoint::state_and_reason(
        TableState::Unloaded,
        &Reason::coded(codes::TARGET_TAKEN_OVER, why),
    );
    let sql = format!(
        "UPDATE tidemark.table_state SET state = $2, reason = $3 \
         WHERE pipeline <> $1 AND state <> $2 AND (target_schema, target_name) IN (VALUES {})",
        values(tables)
    );
    let params = [pipeline, &state, &why].map(Some);
    connection.query(&sql, &params).await?;
    Ok(())
}

/// A list of names for `IN`. Of values and not of pairs: see `check/tables.rs`.
fn values(tables: &[&TableName]) -> String {
    let pairs = tables.iter().map(|table| {
        let (schema, name) = (&table.schema, &table.name);
        format!("({}, {})", quote_literal(schema), quote_literal(name))
    });
    pairs.collect::<Vec<_>>().join(", ")
}

/// Other pipelines that have recorded any of the tables.
pub(super) async fn shared(
    connection: &mut Connection,
    pipeline: &str,
    tables: &[&TableName],
) -> Result<Vec<Shared>> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT pipeline, target_schema, target_name FROM tidemark.table_state \
         WHERE pipeline <> $1 AND (target_schema, target_name) IN (VALUES {}) ORDER BY 1, 2, 3",
        values(tables)
    );
    let answer = connection.query(&sql, &[Some(pipeline)]).await?;
    let mut others: BTreeMap<String, Vec<TableName>> = BTreeMap::new();
    for row in &answer.rows {
        let table = TableName::new(row.get_str(1)?, row.get_str(2)?);
        others.entry(row.get(0)?).or_default().push(table);
    }
    let mut found = Vec::with_capacity(others.len());
    for (pipeline, tables) in others {
        let what = match tables.as_slice() {
            [first] => first.to_string(),
            [first, ..] => format!("{} tables, {first} among them", tables.len()),
            [] => continue,
        };
        let is_running = is_running(connection, &pipeline).await?;
        found.push(Shared {
            pipeline,
            what,
            is_running,
        });
    }
    Ok(found)
}
