//! Tables that appear, vanish or are made anew on the source while the pipeline streams.
//!
//! The log announces only tables that the source was told to announce, so a table that matches the
//! patterns but is new is found by looking at the catalog now and then. What was found is compared
//! with what the pipeline has; the policy for new tables decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Result;
use crate::schema::{SourceSchema, TableName, TableSchema};

use super::options::NewTables;
use super::{Engine, task_died};

/// How often the catalog is looked at.
const INTERVAL: Duration = Duration::from_secs(20);

/// Looks at the catalog beside the stream.
pub(super) struct Discovery {
    task: JoinSet<Result<SourceSchema>>,
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
}

impl Discovery {
    pub(super) fn new() -> Discovery {
        // The first look comes at once: the pipeline file may name more tables than it did before.
        Discovery {
            task: JoinSet::new(),
            due: Instant::now(),
            said: Vec::new(),
        }
    }

    /// Starts to look, when it is time.
    pub(super) fn look(&mut self, engine: &Arc<Engine>) {
        let wanted = engine.options.new_tables != NewTables::Ignore;
        if !wanted || !self.task.is_empty() || self.due > Instant::now() {
            return;
        }
        self.due = Instant::now() + INTERVAL;
        let engine = Arc::clone(engine);
        self.task
            .spawn(async move { engine.source.describe(engine.rules.selection()).await });
    }

    /// What the catalog says; waits for ever if nobody looks. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<SourceSchema> {
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
pub(super) fn compare(schema: SourceSchema, known: &[(TableName, u32)]) -> Vec<Found> {
    let mut found = Vec::new();
    for (name, _) in known {
        if !schema.tables.iter().any(|table| table.name == *name) {
            found.push(Found::Gone(name.clone()));
        }
    }
    for table in schema.tables {
        match known.iter().find(|(name, _)| *name == table.name) {
            None => found.push(Found::New(table)),
            Some((_, id)) if *id != table.id => found.push(Found::Recreated(table)),
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
            notes: Vec::new(),
        }
    }

    #[test]
    fn new_recreated_and_gone_tables_are_told_apart() {
        let schema = SourceSchema {
            tables: vec![table("same", 1), table("again", 20), table("new", 3)],
            ..SourceSchema::default()
        };
        let name = |name| TableName::new("public", name);
        let known = [(name("same"), 1), (name("again"), 2), (name("gone"), 4)];
        assert_eq!(
            compare(schema, &known),
            [
                Found::Gone(name("gone")),
                Found::Recreated(table("again", 20)),
                Found::New(table("new", 3)),
            ]
        );
    }
}
