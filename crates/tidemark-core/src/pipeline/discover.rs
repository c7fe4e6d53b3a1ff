//! Tables that appear, vanish or are made anew on the source while the pipeline streams.
//!
//! The log announces only tables that the source was told to announce, so a table that matches the
//! patterns but is new is found by looking at the catalog now and then. What was found is compared
//! with what the pipeline has; the policy for new tables decides. What is taken off the tables there is
//! taken off the target in the same look.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::error::Result;
use crate::position::Position;
use crate::schema::{SourceSchema, TableName, TableSchema};
use crate::source::{Partition, Within};
use crate::target::Occasion;

use super::{Engine, task_died};

/// How often the catalog is looked at where rows are refused, at least.
const REFUSED_INTERVAL: Duration = Duration::from_secs(2);

/// What the source says of the selected tables.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) schema: SourceSchema,
    /// Tables of the pipeline whose changes are not announced.
    pub(super) unannounced: Vec<TableName>,
    /// Which of them, and of those that may become some, have which partitions.
    pub(super) partitions: Vec<(TableName, Vec<Partition>)>,
    /// Where the log ended after all that was looked at.
    pub(super) head: Position,
    /// Tables for which the target has just followed what they rest on.
    pub(super) followed: Vec<TableName>,
    /// Tables of the target that a crash would empty.
    pub(super) unlogged: HashSet<TableName>,
}

/// Looks at the catalog beside the stream.
pub(super) struct Discovery {
    interval: Duration,
    task: JoinSet<Result<Look>>,
    due: Instant,
    /// When it was looked last.
    began: Instant,
    /// What the last look has found, and what was said of it. Nothing of tables of which all is as it
    /// should be: they come and go for as long as the run lasts.
    said: HashMap<TableName, String>,
    /// What was gone at the last look.
    gone: Vec<TableName>,
    /// What tables demanded of their rows when both sides were compared last, as a hash.
    compared: Arc<Mutex<HashMap<TableName, u64>>>,
    /// Tables of which rows were refused since.
    refused: BTreeSet<TableName>,
    /// Those for which it is looked now.
    asked: BTreeSet<TableName>,
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
    pub(super) fn new(interval: Duration) -> Discovery {
        Discovery {
            interval,
            task: JoinSet::new(),
            due: Instant::now() + interval,
            began: Instant::now(),
            said: HashMap::new(),
            gone: Vec::new(),
            compared: Arc::default(),
            refused: BTreeSet::new(),
            asked: BTreeSet::new(),
        }
    }

    /// Has the target follow before the stream begins what it rests on by now.
    pub(super) async fn follow(&self, engine: &Engine, schema: &SourceSchema) -> Result<()> {
        follow(engine, schema, &self.compared, &self.refused).await?;
        Ok(())
    }

    /// Rows of a table went into quarantine: what it rests on may have changed.
    pub(super) fn refused(&mut self, table: &TableName) {
        self.refused.insert(table.clone());
        self.due = self.due.min(self.began + REFUSED_INTERVAL);
    }

    /// The target has got constraints: both sides are to be compared whatever the source has.
    pub(super) fn compare_again(&mut self) {
        // A look that is under way keeps to the one that it has.
        self.compared = Arc::default();
    }

    /// Starts to look, when it is time. `known`: the tables of the pipeline.
    pub(super) fn look(&mut self, engine: &Arc<Engine>, known: impl FnOnce() -> Vec<TableName>) {
        if !self.task.is_empty() || self.due > Instant::now() {
            return;
        }
        self.began = Instant::now();
        self.due = self.began + self.interval;
        let (engine, known) = (Arc::clone(engine), known());
        let compared = Arc::clone(&self.compared);
        let refused = std::mem::take(&mut self.refused);
        self.asked.clone_from(&refused);
        let look = async move {
            let schema = engine.source.describe(engine.rules.selection()).await?;
            let followed = follow(&engine, &schema, &compared, &refused).await?;
            let unannounced = engine.source.unannounced(&known, Within::Now).await?;
            // Of tables that are new as well: what changes after this is in no look before their load.
            let mut tables: BTreeSet<TableName> = known.into_iter().collect();
            tables.extend(schema.tables.iter().map(|table| table.name.clone()));
            let tables: Vec<TableName> = tables.into_iter().collect();
            let partitions = engine.source.partitions(&tables).await?;
            let head = engine.source.head().await?;
            let unlogged = engine.target.unlogged().await?;
            Ok(Look {
                schema,
                unannounced,
                partitions,
                head,
                followed,
                unlogged,
            })
        };
        self.task.spawn(look.in_current_span());
    }

    /// What the catalog says; waits for ever if nobody looks. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Look> {
        match self.task.join_next().await {
            Some(joined) => {
                let look = joined.map_err(task_died)?;
                if look.is_err() {
                    // The next look asks for them again.
                    self.refused.append(&mut self.asked);
                }
                look
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn is_looking(&self) -> bool {
        !self.task.is_empty()
    }

    /// Notes all that a look has found, and what of it is gone; gives what was gone before and is back.
    pub(super) fn looked(
        &mut self,
        said: HashMap<TableName, String>,
        gone: Vec<TableName>,
    ) -> Vec<TableName> {
        self.said = said;
        let mut back = std::mem::replace(&mut self.gone, gone);
        back.retain(|table| !self.gone.contains(table));
        back
    }

    /// Whether the look before has not found this of the table.
    pub(super) fn is_news(&self, table: &TableName, text: &str) -> bool {
        self.said.get(table).is_none_or(|said| said != text)
    }
}

/// Has the target follow what its tables rest on: constraints that have gone on the source, of every table
/// that demands something else of its rows than when it was compared last; and types of those of which rows
/// were refused. Of which tables it did.
async fn follow(
    engine: &Engine,
    schema: &SourceSchema,
    compared: &Mutex<HashMap<TableName, u64>>,
    refused: &BTreeSet<TableName>,
) -> Result<Vec<TableName>> {
    if !engine.follows_additions() {
        return Ok(Vec::new());
    }
    let mut followed = Vec::new();
    for table in refused {
        if engine.follow_types(table).await? {
            followed.push(table.clone());
        }
    }
    let mut now: HashMap<TableName, u64> = schema
        .tables
        .iter()
        .map(|table| (table.name.clone(), demands(table)))
        .collect();
    let before = std::mem::take(&mut *locked(compared));
    let is_other = |table: &&TableName| before.get(*table) != now.get(*table);
    let of: Vec<TableName> = now.keys().filter(is_other).cloned().collect();
    if !of.is_empty() {
        let tables = engine.carried(schema);
        let loosened = engine.loosen(&tables, &of, Occasion::Look).await?;
        followed.extend(loosened.gone.into_iter().map(|(table, _)| table));
        for table in &loosened.held {
            now.remove(table);
        }
    }
    *locked(compared) = now;
    Ok(followed)
}

/// What a table demands of its rows, as a number.
fn demands(table: &TableSchema) -> u64 {
    let mut hasher = DefaultHasher::new();
    for column in &table.columns {
        (&column.name, column.is_not_null).hash(&mut hasher);
    }
    let rest = (
        &table.indexes,
        &table.checks,
        &table.foreign_keys,
        &table.domains,
    );
    format!("{rest:?}").hash(&mut hasher);
    hasher.finish()
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Taken and set as a whole, so that a panic elsewhere leaves nothing half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares the catalog with the tables of the pipeline (name and the source's number).
pub(super) fn compare(look: &Look, known: &[(TableName, u32)]) -> Vec<Found> {
    let mut found = Vec::new();
    let tables = look.schema.tables.iter();
    let there: HashSet<&TableName> = tables.map(|table| &table.name).collect();
    let ids: HashMap<&TableName, u32> = known.iter().map(|(name, id)| (name, *id)).collect();
    let unannounced: HashSet<&TableName> = look.unannounced.iter().collect();
    for (name, _) in known {
        if !there.contains(name) {
            found.push(Found::Gone(name.clone()));
        }
    }
    for table in &look.schema.tables {
        match ids.get(&table.name) {
            None => found.push(Found::New(table.clone())),
            Some(id) if *id != table.id => found.push(Found::Recreated(table.clone())),
            Some(_) if unannounced.contains(&table.name) => {
                found.push(Found::Unannounced(table.name.clone()));
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
            identity: ReplicaIdentity::Full,
            ..TableSchema::bare(TableName::new("public", name), id)
        }
    }

    #[test]
    fn what_a_look_finds_is_said_once_and_again_when_it_is_so_again() {
        let mut discovery = Discovery::new(Duration::from_secs(20));
        let name = |n: u32| TableName::new("public", format!("tmp_{n}"));
        let (new, gone) = ("is new", "is gone");
        for n in 0..1_000 {
            // It is made, found, and dropped before the next look.
            assert!(discovery.is_news(&name(n), new));
            let said = HashMap::from([(name(n), new.to_owned())]);
            assert!(discovery.looked(said, Vec::new()).is_empty(), "{n}");
        }
        assert_eq!(discovery.said.len(), 1, "what is no more is forgotten");
        let table = name(999);
        assert!(!discovery.is_news(&table, new));
        assert!(discovery.is_news(&table, gone), "whatever was said before");
        let said = HashMap::from([(table.clone(), gone.to_owned())]);
        assert!(discovery.looked(said, vec![table.clone()]).is_empty());
        assert!(!discovery.is_news(&table, gone));
        let back = discovery.looked(HashMap::new(), Vec::new());
        assert_eq!(back, [name(999)]);
        assert!(discovery.is_news(&table, gone), "when it goes again");
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
            partitions: Vec::new(),
            head: Position::PgLsn(crate::position::Lsn(1)),
            followed: Vec::new(),
            unlogged: HashSet::new(),
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
