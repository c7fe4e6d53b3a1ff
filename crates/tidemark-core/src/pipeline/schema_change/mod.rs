//! A table of the source has another shape than was known: what becomes of it on the target.
//!
//! The log announces a table anew before the first change that needs it, once in a session and again
//! whenever something about the table may have changed. Each time the catalog is asked too, and both
//! are compared with what the target has ([`compare`]). What happened is carried out at exactly this
//! place of the log: between the changes before and after it, in the same target transaction.
//!
//! That is possible as long as log and catalog together tell what the rows that were there before hold
//! now. They do not where rows were written anew (another type, a default that is not constant): those
//! writes are not in the log. Nor where the catalog is ahead. There the table is loaded anew, beside
//! the old one and while the others stream ([`super::resync`]); the rows tell.
//!
//! What the policy does not allow sets the table aside. Its rows are then those of the old shape, so
//! only loading it anew brings it back.

use std::sync::Arc;

use crate::batch::SchemaChange;
use crate::catalogue::codes;
use crate::checkpoint::{Reason, TableState};
use crate::control::ResyncStrategy;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::StreamTable;
use crate::mapping::{Projection, TableMapping};
use crate::schema::{TableName, TableSchema};
use crate::source::{Fill, Retyped, StreamedShape};

use super::assemble::{Assembler, Due};
use super::going_on::must_stay_covered;
use super::observe::PipelineEvent;
use super::options::OnSchemaChange;
use super::router::{Route, has_shape};
use super::{Engine, away, reconcile, state_change};

use compare::{ColumnChange, Compared, MembersNow, compare, is_rekeyed};
use known::{keep_known, reshaped};
use words::{are_carried_otherwise, columns_that_go, in_target_words, loosened};

mod compare;
mod in_place;
mod known;
mod words;

pub(super) use in_place::moves;
pub(super) use known::{as_known, with_known};

/// What is said of a name that another table of the source has by now.
pub(super) const IS_ANOTHER: &str =
    "is another table on the source by now, made again or called so since: it is loaded anew";

/// Whether the table is being loaded just now, at a snapshot that nobody knows here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsLoading {
    /// Beside it.
    Beside,
    /// Where it is.
    InPlace,
    /// Some rows were, and have seen more of the log than the others.
    SomeRows,
    No,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reshaped {
    /// Nothing.
    Done,
    /// The table is to be loaded anew.
    LoadAnew(ResyncStrategy),
    /// It is another table of the same name.
    Recreated,
}

/// What a new shape comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// The target follows.
    Follow,
    /// The target stays as it is; only what both sides have is carried.
    Leave,
    /// The target follows as far as that is known, and the rows are loaded anew.
    LoadAnew,
    /// A person has to look, because.
    Aside(&'static str),
    /// The pipeline ends here.
    Fail,
}

/// Decides and carries out what a table's announcement means.
pub(super) async fn reshape(
    engine: &Arc<Engine>,
    assembler: &mut Assembler,
    route: usize,
    table: &Arc<StreamTable>,
    is_loading: IsLoading,
) -> Result<Reshaped> {
    let entry = assembler.router.route(route);
    let old = Arc::clone(&entry.mapping);
    let is_undecided = assembler.undecided().is_some();
    if is_undecided && (table.name != *old.source() || table.id != old.schema.id) {
        assembler.refuse_undecided();
        return Ok(Reshaped::Done);
    }
    if table.name != *old.source() {
        called_otherwise(engine, assembler, route, table, is_loading);
        return Ok(Reshaped::Done);
    }
    let now = engine
        .source
        .shape_of(table)
        .await
        .context(|| format!("read what became of {}", table.name))?;
    let compared = what_happened(engine, entry, table, &now, is_loading);
    if is_undecided && !compared.changes.is_empty() {
        assembler.refuse_undecided();
        return Ok(Reshaped::Done);
    }
    let is_news = entry.announced.as_ref() != Some(table);
    let text = describe(&compared.changes, table);
    let policy = engine.options.on_schema_change;
    let decision = decided(engine, &compared, &old, is_loading);
    let carried = carried(&decision, &compared.changes);
    let mut schema = reshaped(&old.schema, table, &now, &carried);
    if let Some(schema) = &mut schema {
        // The mapping may be of before.
        keep_known(schema, &assembler.router.route(route).shape, &now);
    }
    let mapping = match mapped(engine, &old, schema) {
        Ok(mapping) => mapping,
        // It cannot be carried like this at all.
        Err(why) => {
            set_aside(engine, assembler, route, &old, &format!("{text}; {why}"));
            assembler.skip(route, table);
            return Ok(Reshaped::Done);
        }
    };
    if table.id != old.schema.id {
        say(engine, &table.name, IS_ANOTHER.to_owned());
        assembler.adopt(route, table, &mapping)?;
        assembler.router.route_mut(route).source_id = table.id;
        return Ok(Reshaped::Recreated);
    }
    let is_changed = !compared.changes.is_empty();
    let is_enough = !are_carried_otherwise(&carried, &old, &mapping, &now);
    match decision {
        Decision::Fail => Err(is_to_fail(&table.name, &text)),
        Decision::Aside(why) => {
            let text = format!("{text}; {why}");
            set_aside(engine, assembler, route, &mapping, &text);
            assembler.adopt(route, table, &mapping)?;
            Ok(Reshaped::Done)
        }
        Decision::Leave => {
            if is_changed && is_news {
                say(engine, &table.name, format!("{text}: not carried"));
            }
            assembler.adopt(route, table, &mapping)?;
            Ok(Reshaped::Done)
        }
        Decision::Follow if is_enough => {
            if let Err(why) = types_follow(engine, &table.name, &carried).await? {
                set_aside(engine, assembler, route, &old, &format!("{text}; {why}"));
                assembler.skip(route, table);
                return Ok(Reshaped::Done);
            }
            if is_changed && assembler.router.route(route).state.is_parked() {
                let text = format!("{text}: kept among its changes, for when they are applied");
                say(engine, &table.name, text);
            } else if is_changed {
                let text = format!("{text}: done on the target too");
                assembler.say_reshaped(&table.name, text);
            }
            let known = &assembler.router.route(route).shape;
            let mut words = loosened(known, &mapping, &now, policy);
            words.extend(in_target_words(&carried, &old, &mapping, &now, policy));
            assembler.reshape(route, table, &mapping, words, Due::InOrder)?;
            Ok(Reshaped::Done)
        }
        Decision::Follow | Decision::LoadAnew => {
            // While it is recorded what labels were called. What cannot follow the load finds.
            drop(types_follow(engine, &table.name, &carried).await?);
            let text = format!("{text}: the table is loaded anew");
            say(engine, &table.name, text);
            let Anew {
                words,
                due,
                strategy,
            } = anew(&compared, &old, &mapping, policy, is_loading);
            assembler.reshape(route, table, &mapping, words, due)?;
            Ok(Reshaped::LoadAnew(strategy))
        }
    }
}

/// What became of a table since it was last known.
fn what_happened(
    engine: &Engine,
    entry: &Route,
    table: &StreamTable,
    now: &StreamedShape,
    is_loading: IsLoading,
) -> Compared {
    let retyped = |from, to| engine.source.retyped(from, to);
    let mut compared = compare(&retyped, &entry.shape, table, now);
    if is_rekeyed(&entry.mapping.schema, table, now) {
        compared.changes.push(ColumnChange::Rekeyed);
    }
    if matches!(is_loading, IsLoading::Beside | IsLoading::InPlace) {
        // The rows that come say it as the source does by now, or the next look finds that they do not.
        let says_itself = |change: &ColumnChange| match change {
            ColumnChange::TypeChanged { members, .. } => members.is_followed(),
            _ => false,
        };
        compared.changes.retain(|change| !says_itself(change));
    }
    compared
}

fn decided(
    engine: &Engine,
    compared: &Compared,
    old: &TableMapping,
    is_loading: IsLoading,
) -> Decision {
    let policy = engine.options.on_schema_change;
    let decision = match is_loading {
        IsLoading::Beside | IsLoading::InPlace => load_again(compared),
        IsLoading::No => decide(policy, compared, old),
        // What they were given in a column that comes now, the log has told before they were loaded.
        IsLoading::SomeRows => match decide(policy, compared, old) {
            Decision::Follow => load_again(compared),
            other => other,
        },
    };
    match decision {
        // Somebody else sees to the types: whether they have is told by the rows alone.
        Decision::Follow if compared.renames_labels() && !engine.follows_types() => {
            Decision::LoadAnew
        }
        other => other,
    }
}

/// A table has another name: its changes are kept, or it is set aside for good.
fn called_otherwise(
    engine: &Engine,
    assembler: &mut Assembler,
    route: usize,
    table: &Arc<StreamTable>,
    is_loading: IsLoading,
) {
    let entry = assembler.router.route(route);
    if let Some(projection) = kept_by(engine, entry, table, is_loading) {
        keep(engine, assembler, route, table, projection);
        return;
    }
    let old = Arc::clone(&entry.mapping);
    let text = format!("it is called {} now", table.name);
    set_aside(engine, assembler, route, &old, &text);
    assembler.skip(route, table);
}

/// How the changes of a table are kept that is called otherwise; `None` where it is not otherwise as it was.
fn kept_by(
    engine: &Engine,
    entry: &Route,
    table: &StreamTable,
    is_loading: IsLoading,
) -> Option<Projection> {
    let is_whole = match entry.state {
        TableState::Streaming => is_loading == IsLoading::No,
        TableState::Quarantined => entry.is_away && is_loading == IsLoading::No,
        // Its rows are found under its own name, before the log has come to that or after it was so.
        TableState::Resyncing => is_loading != IsLoading::SomeRows,
        _ => false,
    };
    let is_as_it_was = is_whole
        && table.id == entry.source_id
        && has_shape(&entry.shape, table)
        && engine.sets_aside(entry.mapping.source());
    let projection = is_as_it_was.then(|| Projection::new(&entry.mapping, table));
    projection.and_then(Result::ok)
}

/// Its changes are kept in order until it is called as before.
fn keep(
    engine: &Engine,
    assembler: &mut Assembler,
    route: usize,
    table: &Arc<StreamTable>,
    projection: Projection,
) {
    assembler.skip(route, table);
    let entry = assembler.router.route_mut(route);
    entry.projection = Some(projection);
    if entry.is_away {
        return;
    }
    entry.is_away = true;
    let is_kept_anyway = entry.state == TableState::Resyncing;
    let mapping = Arc::clone(&entry.mapping);
    let text = format!("it is called {} now: its changes are kept", table.name);
    say(engine, mapping.source(), text);
    if is_kept_anyway {
        return;
    }
    let reason = Some(away::reason(&table.name));
    let change = state_change(&mapping, TableState::Quarantined, reason);
    assembler.set_state(route, change);
}

/// Whether the types that a table rests on are the source's by now, or why they cannot be.
async fn types_follow(
    engine: &Engine,
    table: &TableName,
    changes: &[ColumnChange],
) -> Result<Result<(), Error>> {
    let is_one = |change: &ColumnChange| matches!(change, ColumnChange::TypeChanged { .. });
    if !changes.iter().any(is_one) {
        return Ok(Ok(()));
    }
    match engine.follow_types(table).await {
        Ok(_) => Ok(Ok(())),
        Err(err) if err.kind() == ErrorKind::Transient => Err(err),
        Err(err) => Ok(Err(err)),
    }
}

/// How a table is carried in its new shape, or why it cannot be.
fn mapped(
    engine: &Engine,
    old: &TableMapping,
    schema: Option<TableSchema>,
) -> Result<Arc<TableMapping>, String> {
    let Some(schema) = schema else {
        return Err("old rows are told by a column that is not carried".to_owned());
    };
    let mapped = engine.rules.map_table(&schema);
    let covered = mapped.and_then(|new| must_stay_covered(old, &new).map(|()| new));
    covered.map(Arc::new).map_err(|err| err.to_string())
}

/// How a table is loaded anew, and what the target is told of it, and when.
struct Anew {
    words: Vec<SchemaChange>,
    due: Due,
    strategy: ResyncStrategy,
}

fn anew(
    compared: &Compared,
    old: &TableMapping,
    new: &TableMapping,
    policy: OnSchemaChange,
    is_loading: IsLoading,
) -> Anew {
    let strategy = reconcile::strategy(new);
    let is_in_place = strategy == ResyncStrategy::Truncate;
    let words = if is_in_place && is_loading == IsLoading::No {
        moves(old, new, policy)
    } else {
        columns_that_go(compared, old, policy)
    };
    // Rows of an earlier load may be on their way into it. What keeps their columns there until they are
    // in would keep another table from taking its place as well.
    let rows_come = is_loading == IsLoading::InPlace;
    let due = if is_in_place || rows_come {
        Due::InOrder
    } else {
        Due::AtOnce
    };
    let strategy = if rows_come && !words.is_empty() {
        ResyncStrategy::Truncate
    } else {
        strategy
    };
    Anew {
        words,
        due,
        strategy,
    }
}

fn is_to_fail(table: &TableName, text: &str) -> Error {
    Error::definite(codes::SCHEMA_CHANGED, format!("{table}: {text}")).table(table.to_string())
}

/// While a table is loaded, what it has is not known here: the next load brings it.
fn load_again(compared: &Compared) -> Decision {
    if compared.changes.is_empty() {
        Decision::Follow
    } else {
        Decision::LoadAnew
    }
}

/// The policies.
fn decide(policy: OnSchemaChange, compared: &Compared, mapping: &TableMapping) -> Decision {
    let changes = &compared.changes;
    if changes.is_empty() {
        return Decision::Follow;
    }
    match policy {
        OnSchemaChange::StopTable => Decision::Aside("target.on_schema_change stops it"),
        OnSchemaChange::Fail => Decision::Fail,
        OnSchemaChange::Ignore if changes.iter().all(leaves_values) => Decision::Leave,
        OnSchemaChange::Ignore => Decision::Aside(
            "values that both sides have were written anew, which is not in the log",
        ),
        OnSchemaChange::ApplyAdditive if !changes.iter().all(adds) => {
            Decision::Aside("target.on_schema_change allows only what adds")
        }
        OnSchemaChange::ApplyAdditive | OnSchemaChange::Apply if is_in_the_log(compared) => {
            Decision::Follow
        }
        OnSchemaChange::Apply => Decision::LoadAnew,
        OnSchemaChange::ApplyAdditive => {
            let is_carried = |name: &String| mapping.target_column(name).is_some();
            if compared.gone.iter().any(is_carried) {
                Decision::Aside(
                    "the table would have to be loaded anew, without columns that the target keeps",
                )
            } else {
                Decision::LoadAnew
            }
        }
    }
}

/// Whether log and catalog tell all that the old rows hold now.
fn is_in_the_log(compared: &Compared) -> bool {
    let renames = |name: &str| {
        compared.changes.iter().any(|change| match change {
            ColumnChange::Renamed { from, .. } => from == name,
            _ => false,
        })
    };
    compared.is_certain
        && compared.changes.iter().all(|change| match change {
            ColumnChange::Added { fill, .. } => *fill != Fill::InRows,
            ColumnChange::Retyped { values, .. } => *values == Retyped::Kept,
            ColumnChange::Replaced { .. }
            | ColumnChange::Rewritten { .. }
            | ColumnChange::GeneratedAdded
            | ColumnChange::GeneratedAnew => false,
            ColumnChange::Dropped { name } => !renames(name),
            ColumnChange::Renamed { .. } | ColumnChange::Rekeyed => true,
            ColumnChange::TypeChanged { members, .. } => members.is_followed(),
        })
}

/// What `apply_additive` carries out: whatever takes nothing away from the target.
fn adds(change: &ColumnChange) -> bool {
    match change {
        ColumnChange::Added { .. }
        | ColumnChange::Dropped { .. }
        | ColumnChange::GeneratedAdded
        | ColumnChange::GeneratedAnew
        | ColumnChange::Rekeyed => true,
        ColumnChange::Retyped { values, .. } => *values != Retyped::Changed,
        ColumnChange::TypeChanged { members, .. } => {
            use MembersNow::{AttributesGone, AttributesOther};
            !matches!(members, AttributesGone | AttributesOther)
        }
        ColumnChange::Renamed { .. }
        | ColumnChange::Replaced { .. }
        | ColumnChange::Rewritten { .. } => false,
    }
}

/// Whether the columns that both sides have still hold the same.
fn leaves_values(change: &ColumnChange) -> bool {
    match change {
        ColumnChange::Added { .. }
        | ColumnChange::Dropped { .. }
        | ColumnChange::Renamed { .. }
        | ColumnChange::GeneratedAdded
        | ColumnChange::Rekeyed => true,
        ColumnChange::Retyped { values, .. } => *values == Retyped::Kept,
        ColumnChange::TypeChanged { members, .. } => *members == MembersNow::AttributesRenamed,
        ColumnChange::Replaced { .. }
        | ColumnChange::Rewritten { .. }
        | ColumnChange::GeneratedAnew => false,
    }
}

/// The changes as the mapping takes them: where the target is left as it is, a column that was added
/// or renamed is not carried under its new name.
fn carried(decision: &Decision, changes: &[ColumnChange]) -> Vec<ColumnChange> {
    let mut carried = Vec::with_capacity(changes.len());
    for change in changes {
        match (decision, change) {
            (Decision::Leave, ColumnChange::Added { .. }) => {}
            (Decision::Leave, ColumnChange::Renamed { from, .. }) => {
                let name = from.clone();
                carried.push(ColumnChange::Dropped { name });
            }
            _ => carried.push(change.clone()),
        }
    }
    carried
}

/// Its changes are kept in order until a person decides; only loading it anew brings it back.
fn set_aside(
    engine: &Engine,
    assembler: &mut Assembler,
    route: usize,
    mapping: &TableMapping,
    text: &str,
) {
    let entry = assembler.router.route_mut(route);
    entry.has_rows = false;
    entry.is_away = false;
    if entry.state == TableState::Unloaded {
        return;
    }
    say(
        engine,
        mapping.source(),
        format!("{text}: the table is set aside"),
    );
    let reason = Some(Reason::coded(codes::SCHEMA_CHANGE_REFUSED, text));
    let change = state_change(mapping, TableState::Unloaded, reason);
    assembler.set_state(route, change);
}

fn say(engine: &Engine, table: &TableName, text: String) {
    let table = table.clone();
    engine
        .observer
        .say(PipelineEvent::SchemaChanged { table, text });
}

fn describe(changes: &[ColumnChange], table: &StreamTable) -> String {
    let name = |at: &usize| table.columns.get(*at).map_or("", |column| &column.name);
    let parts: Vec<String> = changes
        .iter()
        .map(|change| match change {
            ColumnChange::Added { column, .. } => format!("column {} added", name(column)),
            ColumnChange::Dropped { name } => format!("column {name} dropped"),
            ColumnChange::Renamed { from, column } => {
                format!("column {from} renamed to {}", name(column))
            }
            ColumnChange::Retyped { column, .. } => {
                format!("column {} has another type", name(column))
            }
            ColumnChange::Replaced { column } => format!("column {} made anew", name(column)),
            ColumnChange::Rewritten { column } => {
                format!("values of column {} written anew", name(column))
            }
            ColumnChange::GeneratedAdded => "a generated column added".to_owned(),
            ColumnChange::GeneratedAnew => "a generated column made anew".to_owned(),
            ColumnChange::Rekeyed => "another primary key, or none".to_owned(),
            ColumnChange::TypeChanged { name, members } => match members {
                MembersNow::LabelsRenamed => format!("labels of {name} renamed"),
                MembersNow::LabelsElsewhere => {
                    format!("labels of {name} renamed, which has another name as well")
                }
                MembersNow::AttributesRenamed => format!("attributes of {name} renamed"),
                MembersNow::AttributesGone => format!("attributes of {name} dropped"),
                MembersNow::LabelsOther => {
                    format!("labels of {name} have names that others had before")
                }
                MembersNow::AttributesOther => {
                    format!("attributes of {name} in the place of others")
                }
            },
        })
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests;
