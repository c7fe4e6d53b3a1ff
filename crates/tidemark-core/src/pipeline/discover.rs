//! Tables that appear, vanish or are made anew on the source while the pipeline streams.
//!
//! The log announces only tables that the source was told to announce, so a table that matches the
//! patterns but is new is found by looking at the catalog now and then. What was found is compared
//! with what the pipeline has; the policy for new tables decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::error::Result;
use crate::position::Position;
use crate::schema::{SourceSchema, TableName, TableSchema};
use crate::source::{Partition, Within};

use super::{Engine, task_died};

/// How often the catalog is looked at.
const INTERVAL: Duration = Duration::from_secs(20);

/// What the source says of the selected tables.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) schema: SourceSchema,
    /// Tables of the pipeline whose changes are not announced.
    pub(super) unannounced: Vec<TableName>,
    /// Their partitions, where they were looked at.
    pub(super) partitions: Option<Vec<Partition>>,
    /// Where the log ended after all that was looked at.
    pub(super) head: Position,
}

/// Looks at the catalog beside the stream.
pub(super) struct Discovery {
    task: JoinSet<Result<Look>>,
    due: Instant,
    /// What was said already.
    said: Vec<TableName>,
}

/// A difference between catalog and pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// A table matches the patterns and is not in the pipeline.
    New(TableSchema),
    /// A table of the pipeline was dropped and made again.
    Recreated(TableSchema),
    /// A table of the pipeline is not there any more.
    Gone(TableName),
    /// Changes of a table of the pipeline are not announced any more.
    Unannounced(TableName),
}

impl Discovery {
    pub(super) fn new() -> Discovery {
        Discovery {
            task: JoinSet::new(),
            due: Instant::now() + INTERVAL,
            said: Vec::new(),
        }
    }

    /// Starts to look, when it is time. `known`: the tables of the pipeline.
    pub(super) fn look(&mut self, engine: &Arc<Engine>, known: impl FnOnce() -> Vec<TableName>) {
        if !self.task.is_empty() || self.due > Instant::now() {
            return;
        }
        self.due = Instant::now() + INTERVAL;
        let (engine, known) = (Arc::clone(engine), known());
        let look = async move {
            let schema = engine.source.describe(engine.rules.selection()).await?;
            let unannounced = engine.source.unannounced(&known, Within::Now).await?;
            let partitions = engine.source.partitions(&known).await?;
            let head = engine.source.head().await?;
            Ok(Look {
                schema,
                unannounced,
                partitions: Some(partitions),
                head,
            })
        };
        self.task.spawn(look.in_current_span());
    }

    /// What the catalog says; waits for ever if nobody looks. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Look> {
        match self.task.join_next().await {
            Some(joined) => joined.map_err(task_died)?,
            None => std::future::pending().await,
        }
    }

    pub(super) fn is_looking(&self) -> bool {
        !self.task.is_empty()
    }

    /// Whether this is said for the first time.
    pub(super) fn is_news(&mut self, table: &TableName) -> bool {
        let is_news = !self.said.contains(table);
        if is_news {
            self.said.push(table.clone());
        }
        is_news
    }
}

/// Compares the catalog with the tables of the pipeline (name and the source's number).
pub(super) fn compare(look: &Look, known: &[(TableName, u32)]) -> Vec<Found> {
    let mut found = Vec::new();
    for (name, _) in known {
        if !look.schema.tables.iter().any(|table| table.name == *name) {
            found.push(Found::Gone(name.clone()));
        }
    }
    for table in &look.schema.tables {
        match known.iter().find(|(name, _)| *name == table.name) {
            None => found.push(Found::New(table.clone())),
            Some((_, id)) if *id != table.id => found.push(Found::Recreated(table.clone())),
            Some((name, _)) if look.unannounced.contains(name) => {
                found.push(Found::Unannounced(name.clone()));
            }
            Some(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ReplicaIdentity;

    fn table(name: &str, id: u32) -> TableSchema {
        TableSchema {
            name: TableName::new("public", name),
            id,
            columns: Vec::new(),
            primary_key: Vec::new(),
            identity: ReplicaIdentity::Full,
            indexes: Vec::new(),
            checks: Vec::new(),
            foreign_keys: Vec::new(),
            rows: None,
            bytes: 0,
            is_partitioned: false,
            storage: None,
            attributes: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn new_recreated_and_gone_tables_are_told_apart() {
        let name = |name| TableName::new("public", name);
        let tables = vec![
            table("same", 1),
            table("again", 20),
            table("new", 3),
            table("silent", 5),
        ];
        let look = Look {
            schema: SourceSchema {
                tables,
                ..SourceSchema::default()
            },
            // What is made anew is announced with its load.
            unannounced: vec![name("again"), name("silent"), name("gone")],
            partitions: None,
            head: Position::PgLsn(crate::position::Lsn(1)),
        };
        let known = [
            (name("same"), 1),
            (name("again"), 2),
            (name("gone"), 4),
            (name("silent"), 5),
        ];
        assert_eq!(
            compare(&look, &known),
            [
                Found::Gone(name("gone")),
                Found::Recreated(table("again", 20)),
                Found::New(table("new", 3)),
                Found::Unannounced(name("silent")),
            ]
        );
    }
}
