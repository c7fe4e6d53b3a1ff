//! What happened to a table's columns: what was known beside what the log announces, with the
//! catalog's numbers for them.
//!
//! The log has names and types and no numbers, so by it alone a rename looks like a drop and an add,
//! and a column that was dropped and made again under its name like one that stayed. The catalog has
//! numbers, which are never given twice; but it may be ahead of the log. Where it does not have what
//! the log announces any more, nobody can tell, and [`Compared::is_certain`] says so.

use std::collections::BTreeSet;

use crate::checkpoint::{KnownColumn, KnownShape};
use crate::event::StreamTable;
use crate::schema::{Attribute, Member, MemberKind, ReplicaIdentity, TableSchema, TypeMembers};
use crate::source::{ColumnType, Fill, Retyped, StreamedShape};

/// What happened to one column. `column` is a position in the announced columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ColumnChange {
    Added {
        column: usize,
        fill: Fill,
    },
    Dropped {
        name: String,
    },
    Renamed {
        from: String,
        column: usize,
    },
    Retyped {
        column: usize,
        values: Retyped,
    },
    /// Another column under the name of one that is gone.
    Replaced {
        column: usize,
    },
    /// The same column of the same type, whose values may have become others: `ALTER … TYPE … USING`.
    Rewritten {
        column: usize,
    },
    /// Not one that the log has: a generated column that was added.
    GeneratedAdded,
    /// The same, in the place of one that is gone; or one that has another expression.
    GeneratedAnew,
    /// Not a column: the primary key is another, or none, and the log does not tell by which rows are found.
    Rekeyed,
    /// Not a column: members of a type that columns rest on, beside those that it has got.
    TypeChanged {
        name: String,
        members: MembersNow,
    },
}

/// What became of the members that a type had. What a row holds of them is text that names a label, or has
/// attributes by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MembersNow {
    /// Labels have other names, and none the name of another: once the target's have them too, its rows
    /// say what those of the source do.
    LabelsRenamed,
    /// The same of attributes, whatever names they have: rows do not say them.
    AttributesRenamed,
    /// Attributes have gone, and none has come: no row of before is taken for one of now.
    AttributesGone,
    /// Labels have other names, and so has the type: the target's has its old one, and is not changed under
    /// it. A load makes another.
    LabelsElsewhere,
    /// A name went from one label to another, or an attribute came in the place of another: a row's text
    /// may be of before or of now.
    LabelsOther,
    /// The same of attributes.
    AttributesOther,
}

impl MembersNow {
    /// Whether rows are right once the type is the source's.
    pub(super) fn is_followed(self) -> bool {
        use MembersNow::{AttributesOther, LabelsElsewhere, LabelsOther};
        !matches!(self, LabelsElsewhere | LabelsOther | AttributesOther)
    }

    /// The same of a type that has another name as well.
    fn elsewhere(self) -> MembersNow {
        match self {
            MembersNow::LabelsRenamed => MembersNow::LabelsElsewhere,
            MembersNow::AttributesRenamed | MembersNow::AttributesGone => {
                MembersNow::AttributesOther
            }
            other => other,
        }
    }
}

/// All that happened, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) changes: Vec<ColumnChange>,
    /// Whether it is all that can have happened.
    pub(super) is_certain: bool,
    /// Known columns under whose names the catalog has none any more: a table made by it lacks them.
    pub(super) gone: Vec<String>,
}

impl Compared {
    /// Whether labels of a type have other names than in the target's rows.
    pub(super) fn renames_labels(&self) -> bool {
        let is_renamed = |change: &ColumnChange| match change {
            ColumnChange::TypeChanged { members, .. } => *members == MembersNow::LabelsRenamed,
            _ => false,
        };
        self.changes.iter().any(is_renamed)
    }
}

/// Compares what the target has with what the log announces.
pub(super) fn compare(
    retyped: &dyn Fn(ColumnType, ColumnType) -> Retyped,
    known: &KnownShape,
    table: &StreamTable,
    now: &StreamedShape,
) -> Compared {
    let is_announced = |name: &str| table.columns.iter().any(|column| column.name == name);
    let newest = known.columns.iter().map(|column| column.number).max();
    let is_rewritten = known.storage.is_none() || known.storage != now.storage;
    // By an expression values may have become any others of the new type.
    let became = |from, to| match retyped(from, to) {
        Retyped::Kept if is_rewritten => Retyped::Widened,
        values => values,
    };
    let mut changes = Vec::new();
    let mut renamed = Vec::new();
    let exchanged = exchanged(now);
    let mut is_certain = exchanged.is_empty();
    for (at, announced) in table.columns.iter().enumerate() {
        let number = now.columns.get(at).map_or(0, |found| found.column.number);
        let to = ColumnType {
            id: announced.type_id,
            modifier: announced.type_modifier,
        };
        if let Some(old) = known.columns.iter().find(|old| old.name == announced.name) {
            let from = type_of(old);
            let is_other = number != 0 && old.number != 0 && number != old.number;
            if is_other || exchanged.contains(&at) {
                changes.push(ColumnChange::Replaced { column: at });
            } else if from != to {
                is_certain &= number != 0;
                let values = became(from, to);
                changes.push(ColumnChange::Retyped { column: at, values });
            } else if is_rewritten && !now.is_ahead && is_altered(known, now, old.number) {
                changes.push(ColumnChange::Rewritten { column: at });
            }
            continue;
        }
        let before = known
            .columns
            .iter()
            .find(|old| number != 0 && old.number == number && !is_announced(&old.name));
        if let Some(old) = before {
            renamed.push(old.name.clone());
            let from = old.name.clone();
            changes.push(ColumnChange::Renamed { from, column: at });
            if type_of(old) != to {
                let values = became(type_of(old), to);
                changes.push(ColumnChange::Retyped { column: at, values });
            }
            continue;
        }
        // A column that is new has a number above all that were given before. One that came and went
        // meanwhile may have had its name, and rows that it was in.
        is_certain &= number != 0 && newest.is_none_or(|newest| number > newest);
        is_certain &= !has_come_and_gone(known, now);
        let fill = match now.columns.get(at).map(|found| &found.fill) {
            Some(Fill::Null) if !is_rewritten => Fill::Null,
            Some(fill @ Fill::Constant(_)) => fill.clone(),
            _ => Fill::InRows,
        };
        changes.push(ColumnChange::Added { column: at, fill });
    }
    let has_new = |changes: &[ColumnChange]| {
        let is_new = |change: &ColumnChange| matches!(change, ColumnChange::Added { .. });
        changes.iter().any(is_new)
    };
    for old in &known.columns {
        if !is_announced(&old.name) && !renamed.contains(&old.name) {
            // Without a number it may be what is new under another name.
            is_certain &= old.number != 0 || !has_new(&changes);
            let name = old.name.clone();
            changes.push(ColumnChange::Dropped { name });
        }
    }
    changes.extend(generated(known, now));
    changes.extend(types(known, now));
    let is_gone = |old: &&KnownColumn| !now.present.iter().any(|(name, _)| *name == old.name);
    let gone = known.columns.iter().filter(is_gone);
    Compared {
        changes,
        is_certain,
        gone: gone.map(|old| old.name.clone()).collect(),
    }
}

/// Columns that stand in another order than the catalog has them, which the log never changes: they have
/// exchanged their names since, or before. Positions in the announced columns.
fn exchanged(now: &StreamedShape) -> Vec<usize> {
    let number = |at: &usize| now.columns[*at].column.number;
    let numbered = (0..now.columns.len()).filter(|at| number(at) != 0);
    let numbered: Vec<usize> = numbered.collect();
    let mut ascending = numbered.clone();
    ascending.sort_unstable_by_key(number);
    let pairs = numbered.iter().zip(&ascending);
    let moved = pairs.filter(|(here, there)| here != there);
    moved.map(|(here, _)| *here).collect()
}

/// Whether the definition of a column was written since.
fn is_altered(known: &KnownShape, now: &StreamedShape, number: i16) -> bool {
    let version = |attributes: &[Attribute]| {
        let mut attributes = attributes.iter();
        attributes.find_map(|it| (it.number == number).then_some(it.version))
    };
    match (version(&known.attributes), version(&now.attributes)) {
        (Some(before), Some(after)) => before != after,
        _ => false,
    }
}

/// What became of generated columns. The catalog has them beside the columns that the log announces. One
/// that has only gone does no harm where the target keeps it.
fn generated(known: &KnownShape, now: &StreamedShape) -> Option<ColumnChange> {
    if now.is_ahead || known.attributes.is_empty() {
        return None;
    }
    let is_present = |number: i16| now.present.iter().any(|(_, present)| *present == number);
    let is_rewritten = known.storage != now.storage;
    let (mut is_added, mut is_anew) = (false, false);
    for (_, number) in &now.present {
        let mut announced = now.columns.iter();
        if announced.any(|found| found.column.number == *number) {
            continue;
        }
        is_added |= known.attributes.iter().all(|it| it.number != *number);
        is_anew |= is_rewritten && is_altered(known, now, *number);
    }
    let has_gone = |it: &Attribute| {
        let was_announced = known.columns.iter().any(|old| old.number == it.number);
        !was_announced && !is_present(it.number) && is_altered(known, now, it.number)
    };
    match (is_added, is_anew) {
        (_, true) => Some(ColumnChange::GeneratedAnew),
        (true, false) if known.attributes.iter().any(has_gone) => Some(ColumnChange::GeneratedAnew),
        (true, false) => Some(ColumnChange::GeneratedAdded),
        (false, false) => None,
    }
}

/// What became of types that were known. One that was made anew is another type of its columns.
fn types(known: &KnownShape, now: &StreamedShape) -> Vec<ColumnChange> {
    let known = known.types.iter().filter(|_| !now.is_ahead);
    let changes = known.filter_map(|old| {
        let new = now.types.iter().find(|new| new.id == old.id)?;
        let members = members(old, new)?;
        Some(ColumnChange::TypeChanged {
            name: new.name.to_string(),
            members: if new.name == old.name {
                members
            } else {
                members.elsewhere()
            },
        })
    });
    changes.collect()
}

fn members(old: &TypeMembers, new: &TypeMembers) -> Option<MembersNow> {
    let named = |list: &[Member], name: &str| list.iter().any(|member| member.name == name);
    let by_number = |list: &[Member], number: u32| list.iter().any(|it| it.number == number);
    let renamed = old.members.iter().filter_map(|before| {
        let after = new.members.iter().find(|it| it.number == before.number)?;
        (after.name != before.name).then_some((before.name.as_str(), after.name.as_str()))
    });
    let renamed: Vec<(&str, &str)> = renamed.collect();
    let has_gone = !(old.members.iter()).all(|it| by_number(&new.members, it.number));
    let has_come = !(new.members.iter()).all(|it| by_number(&old.members, it.number));
    let mut names = renamed.iter();
    let takes_over = names.any(|(from, to)| named(&new.members, from) || named(&old.members, to));
    match (new.kind, has_gone) {
        (_, false) if renamed.is_empty() => None,
        (MemberKind::Labels, false) if !takes_over => Some(MembersNow::LabelsRenamed),
        (MemberKind::Labels, _) => Some(MembersNow::LabelsOther),
        (MemberKind::Attributes, false) => Some(MembersNow::AttributesRenamed),
        (MemberKind::Attributes, true) if has_come => Some(MembersNow::AttributesOther),
        (MemberKind::Attributes, true) => Some(MembersNow::AttributesGone),
    }
}

/// Whether the catalog has dropped a column that it did not have yet.
fn has_come_and_gone(known: &KnownShape, now: &StreamedShape) -> bool {
    let Some(newest) = known.attributes.iter().map(|it| it.number).max() else {
        return false;
    };
    let is_there = |number: i16| now.present.iter().any(|(_, present)| *present == number);
    let mut numbers = now.attributes.iter().map(|it| it.number);
    numbers.any(|number| number > newest && !is_there(number))
}

/// Whether rows are found by a primary key that is not the table's any more. Where the log tells old rows
/// by a key it is that one which counts.
pub(super) fn is_rekeyed(old: &TableSchema, table: &StreamTable, now: &StreamedShape) -> bool {
    let before = old.primary_key.iter().map(|at| old.columns[*at].number);
    let number = |name: &String| {
        let mut present = now.present.iter();
        present.find_map(|(other, number)| (other == name).then_some(*number))
    };
    let after = now.primary_key.iter().filter_map(number);
    let is_there = table.id == old.id && !now.present.is_empty();
    is_there
        && !old.primary_key.is_empty()
        && !matches!(table.identity, ReplicaIdentity::Key(_))
        && before.collect::<BTreeSet<_>>() != after.collect()
}

fn type_of(column: &KnownColumn) -> ColumnType {
    ColumnType {
        id: column.type_id,
        modifier: column.type_modifier,
    }
}
