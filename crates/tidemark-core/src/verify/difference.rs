//! Rows that are not the same on both sides, and what mends them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::checkpoint::Chunk;
use crate::control::{Command, ResyncStrategy};
use crate::mapping::TableMapping;
use crate::schema::TableName;

use super::RowDigest;
use super::compare::{Outcome, Report, TableReport};

/// One row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Text of its key columns; empty for a table without a key.
    pub key: Vec<String>,
    /// What is wrong.
    pub kind: DifferenceKind,
}

/// Kinds of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DifferenceKind {
    /// On the source, not on the target.
    Missing,
    /// On the target, not on the source.
    Extra,
    /// On both, with other values.
    Changed,
}

impl DifferenceKind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            DifferenceKind::Missing => "missing on the target",
            DifferenceKind::Extra => "not on the source",
            DifferenceKind::Changed => "other values",
        }
    }
}

/// Rows of some buckets that are not the same on both sides. Rows of one key are counted: without a key
/// all rows share the empty one, and their hashes tell them apart.
pub(super) fn differences(source: &[RowDigest], target: &[RowDigest]) -> Vec<Difference> {
    let mut counts: HashMap<&RowDigest, i64> = HashMap::new();
    for row in source {
        *counts.entry(row).or_default() += 1;
    }
    for row in target {
        *counts.entry(row).or_default() -= 1;
    }
    let mut by_key: HashMap<&[String], (u64, u64)> = HashMap::new();
    for (row, count) in counts {
        let (missing, extra) = by_key.entry(&row.key).or_default();
        if count > 0 {
            *missing += count.unsigned_abs();
        } else {
            *extra += count.unsigned_abs();
        }
    }
    let mut found = Vec::new();
    for (key, (missing, extra)) in by_key {
        // With a key, one row too few and one too many is one row with other values.
        let changed = if key.is_empty() {
            0
        } else {
            missing.min(extra)
        };
        for (kind, count) in [
            (DifferenceKind::Changed, changed),
            (DifferenceKind::Missing, missing - changed),
            (DifferenceKind::Extra, extra - changed),
        ] {
            found.extend((0..count).map(|_| Difference {
                key: key.to_vec(),
                kind,
            }));
        }
    }
    found.sort();
    found
}

/// Tables that a repair mends: those that differ, but for those that are in `aside` because rows of
/// them are in quarantine. What is loaded anew would be newer than the changes that wait there, and
/// be overtaken by them or discard them.
pub fn to_repair<'a>(
    report: &'a Report,
    aside: &[TableName],
) -> impl Iterator<Item = &'a TableReport> {
    let tables = report.tables.iter();
    tables.filter(|one| one.outcome == Outcome::Different && !aside.contains(&one.source))
}

/// What to ask of the pipeline so that the listed differences are mended: the rows of keyed tables by
/// their keys, the whole of a table without a key.
pub fn repairs(report: &Report, tables: &[Arc<TableMapping>], aside: &[TableName]) -> Vec<Command> {
    let mut commands = Vec::new();
    for table in to_repair(report, aside) {
        let Some(mapping) = tables
            .iter()
            .find(|mapping| *mapping.source() == table.source)
        else {
            continue;
        };
        commands.push(match mend(table, mapping) {
            Mend::Rows(chunks) => Command::Repair {
                table: table.source.clone(),
                chunks,
            },
            Mend::Whole(_) => Command::Resync {
                tables: vec![table.source.clone()],
                strategy: ResyncStrategy::Swap,
            },
        });
    }
    commands
}

/// How what differs in a table, or a range of it, is mended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mend {
    /// These rows are copied anew.
    Rows(Vec<Chunk>),
    /// All of it is; why.
    Whole(&'static str),
}

/// Rows by their keys, where these tell them and all of them are listed.
pub(crate) fn mend(table: &TableReport, mapping: &TableMapping) -> Mend {
    const KEYS_MAX: usize = 500;
    if mapping.key.is_empty() {
        return Mend::Whole("it has no key by which its rows are told");
    }
    if mapping
        .key
        .iter()
        .any(|at| mapping.columns[*at].mask.is_some())
    {
        return Mend::Whole("its key is masked, and does not tell a row on the source");
    }
    let is_listed = table.is_counted && table.different == table.differences.len() as u64;
    if !is_listed || table.differences.is_empty() {
        return Mend::Whole("too many rows differ");
    }
    let columns: Vec<String> = mapping
        .key
        .iter()
        .map(|at| mapping.source_column(&mapping.columns[*at]).to_owned())
        .collect();
    let rows = |part: &[Difference]| Chunk::Rows {
        columns: columns.clone(),
        keys: part
            .iter()
            .map(|difference| difference.key.clone())
            .collect(),
    };
    Mend::Rows(table.differences.chunks(KEYS_MAX).map(rows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, hash: u64) -> RowDigest {
        let key = if key.is_empty() {
            Vec::new()
        } else {
            vec![key.to_owned()]
        };
        RowDigest { key, hash }
    }

    fn found(source: &[RowDigest], target: &[RowDigest]) -> Vec<(String, DifferenceKind)> {
        let all = differences(source, target);
        all.into_iter().map(|d| (d.key.join(","), d.kind)).collect()
    }

    #[test]
    fn rows_of_a_keyed_table_are_told_by_key() {
        let source = [row("1", 10), row("2", 20), row("3", 30)];
        let target = [row("1", 10), row("2", 21), row("4", 40)];
        assert_eq!(
            found(&source, &target),
            [
                ("2".to_owned(), DifferenceKind::Changed),
                ("3".to_owned(), DifferenceKind::Missing),
                ("4".to_owned(), DifferenceKind::Extra),
            ]
        );
    }

    #[test]
    fn rows_without_a_key_are_counted() {
        let source = [row("", 7), row("", 7), row("", 8)];
        let target = [row("", 7), row("", 9)];
        assert_eq!(
            found(&source, &target),
            [
                (String::new(), DifferenceKind::Missing),
                (String::new(), DifferenceKind::Missing),
                (String::new(), DifferenceKind::Extra),
            ]
        );
        assert!(found(&source, &source).is_empty());
    }
}
