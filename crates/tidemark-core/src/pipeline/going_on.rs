//! Which tables a pipeline goes on with that has begun. What became of one of them on the source since,
//! so that it cannot be carried any more, is a matter of this table and not of the others; what the
//! pipeline file says wrong is a matter of all.
//!
//! The file has not changed by itself. So a name in it that no table has any more is no mistake if the
//! pipeline knows it from before, and a table is set aside for what it has become on the source only if
//! the file once fitted it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, KnownShape, Reason, TableCheckpoint, TableState};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{Rules, TableMapping};
use crate::schema::{ReplicaIdentity, SourceSchema, TableName, TableSchema};
use crate::source::LogState;

use super::plan::{self, CdcStart, Mode};
use super::schema_change::{as_known, with_known};
use super::{Engine, Run, state_change};

/// The selected tables of a pipeline that has begun.
#[derive(Debug, Default)]
pub struct GoingOn {
    /// As they are carried; where a table cannot be as it is by now, as it was last known, and the log
    /// tells what became of it.
    pub mappings: Vec<TableMapping>,
    /// Tables that cannot be carried at all, and why.
    pub aside: Vec<(TableMapping, Error)>,
}

impl GoingOn {
    /// What the rules make of the source's tables. Before anything has begun all of them have to fit.
    pub fn of(rules: &Rules, schema: &SourceSchema, begun: Option<&Checkpoint>) -> Result<GoingOn> {
        match begun {
            Some(begun) => going_on(rules, schema, &begun.tables),
            None => Ok(GoingOn {
                mappings: rules.map(schema)?,
                aside: Vec::new(),
            }),
        }
    }

    /// All of them, whether they can be carried or not.
    pub fn all(self) -> Vec<TableMapping> {
        let aside = self.aside.into_iter().map(|(mapping, _)| mapping);
        self.mappings.into_iter().chain(aside).collect()
    }
}

/// Why no start can go on from the checkpoint, as far as that is certain: what may pass by itself is not, nor
/// whether a relay log has what the slot has no more, which is known once a run has opened it.
pub fn refusal(mode: Mode, checkpoint: &Checkpoint, log: &LogState) -> Option<Error> {
    if !mode.streams() {
        return None;
    }
    let err = plan::decide(mode, CdcStart::Now, Some(checkpoint), log).err()?;
    let is_unopened = err.code() == codes::RELAY_LOST && log.relayed.is_none();
    (err.kind() == ErrorKind::Definite && !is_unopened).then_some(err)
}

/// `recorded` are the tables that the pipeline has. One that is new since and cannot be carried is left
/// out: nothing of it is on the target.
fn going_on(rules: &Rules, schema: &SourceSchema, recorded: &[TableCheckpoint]) -> Result<GoingOn> {
    let recorded: HashMap<&TableName, &TableCheckpoint> = recorded
        .iter()
        .map(|known| (&known.source, known))
        .collect();
    let mut problems = rules.unknown_names(&remembered(schema, &recorded));
    let mut going_on = GoingOn::default();
    let mut new = Vec::new();
    for table in &schema.tables {
        let known = recorded.get(&table.name).copied();
        match (known, rules.map_table(table)) {
            (Some(known), Ok(mapping)) => match stays_covered(rules, &mapping, known) {
                Ok(()) => going_on.mappings.push(mapping),
                Err(error) => {
                    let nothing = nothing_of(rules, known, mapping.schema);
                    going_on.aside.push((nothing, error));
                }
            },
            (Some(known), Err(error)) => match follows(rules, table, known) {
                Follows::AsKnown(mapping) => going_on.mappings.push(mapping),
                Follows::Not(mapping) => going_on.aside.push((mapping, error)),
                Follows::File => problems.append(rules.problems_of(table)),
            },
            (None, Ok(mapping)) => new.push(mapping),
            (None, Err(_)) if rules.selection.names(&table.name) => {
                problems.append(rules.problems_of(table));
            }
            (None, Err(_)) => {}
        }
    }
    problems.append(rules.problems_of_targets(&going_on.mappings));
    if !problems.is_empty() {
        return Err(problems.into_error());
    }
    let targets = going_on.mappings.iter().map(|known| known.target.clone());
    let mut taken: HashSet<TableName> = targets.collect();
    for mapping in new {
        let is_fit = rules.problems_of_targets([&mapping]).is_empty();
        if is_fit && taken.insert(mapping.target.clone()) {
            going_on.mappings.push(mapping);
        }
    }
    Ok(going_on)
}

/// How a table that the rules do not fit as it is goes on.
enum Follows {
    /// The log will say what changed, at its place.
    AsKnown(TableMapping),
    /// Nothing of it is carried until it is loaded anew.
    Not(TableMapping),
    /// The rules do not fit it as it was either.
    File,
}

fn follows(rules: &Rules, table: &TableSchema, known: &TableCheckpoint) -> Follows {
    let shape = known.shape.as_ref();
    if known.source_id != table.id {
        return Follows::Not(nothing_of(rules, known, table.clone()));
    }
    let before = shape.map_or_else(|| table.clone(), |shape| as_known(table, shape));
    if let Ok(mapping) = rules.map_table(&before) {
        return Follows::AsKnown(mapping);
    }
    // Which key it had then is not recorded.
    let keyless = TableSchema {
        primary_key: Vec::new(),
        identity: ReplicaIdentity::Full,
        ..before
    };
    let is_as_it_was = shape.is_none_or(|shape| *shape == KnownShape::of_table(table));
    if is_as_it_was && rules.map_table(&keyless).is_err() {
        return Follows::File;
    }
    Follows::Not(nothing_of(rules, known, keyless))
}

/// Whether what the file keeps from the target is still kept from it.
fn stays_covered(rules: &Rules, now: &TableMapping, known: &TableCheckpoint) -> Result<()> {
    // One that was made anew is another, and is loaded as such.
    let is_it = known.source_id == now.schema.id;
    let Some(shape) = known.shape.as_ref().filter(|_| is_it) else {
        return Ok(());
    };
    let before = rules.map_table(&as_known(&now.schema, shape));
    before.map_or(Ok(()), |before| must_stay_covered(&before, now))
}

/// The file speaks of columns by their names. One whose values it masks, or leaves out, does not go to the
/// target as it is because somebody has renamed it on the source.
pub(super) fn must_stay_covered(before: &TableMapping, now: &TableMapping) -> Result<()> {
    let Some((old, new)) = before.uncovered(now) else {
        return Ok(());
    };
    let table = now.source();
    let text = format!(
        "column {old}, which the file masks or leaves out, is called {new} now: let the file say what \
         becomes of {new}, start the pipeline again, and load the table anew"
    );
    Err(Error::data(codes::SCHEMA_CHANGE_REFUSED, text).table(table.to_string()))
}

/// The mapping of a table of which nothing is carried.
fn nothing_of(rules: &Rules, known: &TableCheckpoint, schema: TableSchema) -> TableMapping {
    TableMapping {
        target: known.target.clone(),
        columns: Vec::new(),
        key: Vec::new(),
        filter: None,
        on_row_error: rules.row_error_policy(&schema.name),
        schema,
    }
}

/// The source with the tables and columns that it had when the pipeline saw them last.
fn remembered(
    schema: &SourceSchema,
    recorded: &HashMap<&TableName, &TableCheckpoint>,
) -> SourceSchema {
    let mut remembered = schema.clone();
    let mut gone_since = recorded.clone();
    for table in &mut remembered.tables {
        if let Some(shape) = gone_since
            .remove(&table.name)
            .and_then(|known| known.shape.as_ref())
        {
            *table = with_known(table, shape);
        }
    }
    remembered.tables.extend(gone_since.into_values().map(gone));
    remembered
}

/// A table that the source does not have any more.
fn gone(known: &TableCheckpoint) -> TableSchema {
    let bare = TableSchema {
        identity: ReplicaIdentity::Full,
        ..TableSchema::bare(known.source.clone(), known.source_id)
    };
    match &known.shape {
        Some(shape) => with_known(&bare, shape),
        None => bare,
    }
}

impl Engine {
    /// The tables that this attempt goes on with.
    pub(super) async fn tables(&self, schema: &SourceSchema) -> Result<GoingOn> {
        let begun = match self.target.checkpoint().await {
            Err(err) if err.kind() == ErrorKind::Transient => return Err(err),
            // What is wrong with the target is told by its check.
            found => found.ok().flatten(),
        };
        let begun = begun.filter(|_| self.options.mode.streams());
        let going_on = GoingOn::of(&self.rules, schema, begun.as_ref())?;
        for (mapping, error) in &going_on.aside {
            if !self.sets_aside(mapping.source()) {
                let text = format!("{}: {error}", mapping.source());
                return Err(Error::definite(error.code(), text).table(mapping.source().to_string()));
            }
        }
        Ok(going_on)
    }
}

impl Run {
    /// Records of tables that cannot be carried that they are set aside.
    pub(super) async fn record_aside(
        &mut self,
        aside: Vec<(TableMapping, Error)>,
    ) -> Result<Vec<Arc<TableMapping>>> {
        if aside.is_empty() {
            return Ok(Vec::new());
        }
        let recorded = self.checkpoint().await?.tables;
        let is_aside = |name: &TableName| {
            let mut recorded = recorded.iter();
            recorded.any(|known| known.source == *name && known.state == TableState::Unloaded)
        };
        let mut mappings = Vec::with_capacity(aside.len());
        for (mapping, error) in aside {
            if !is_aside(mapping.source()) {
                let reason = Some(Reason::of(&error));
                self.states
                    .push(state_change(&mapping, TableState::Unloaded, reason));
            }
            mappings.push(Arc::new(mapping));
        }
        self.record_states().await?;
        Ok(mappings)
    }
}
