//! Comparing both sides at one position.
//!
//! # The problem
//! Both sides change all the time. Counting rows, or comparing "now" with "now", raises false alarms
//! for as long as anything is on its way, and proves nothing when it is silent.
//!
//! # What we do
//! 1. The pipeline is asked to hold between two transactions.
//! 2. The source opens its log once more, for as long as we look: that yields a position X and a
//!    snapshot of exactly X.
//! 3. The pipeline is let go up to X and holds there: nothing at or after X is applied.
//! 4. Views of the target are opened, the pipeline goes on. Both sides are now read at X while the
//!    stream goes on.
//! 5. Digests by key range are compared; where they differ, digests by bucket of a hash over the key;
//!    where these differ, key and hash of each row. So a single row is found in three passes over
//!    its range, and equal data cost one.
//!
//! A table without a key is compared as a multiset: its rows are told apart by their whole text.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, Chunk, TableState};
use crate::control::{Answer, Command};
use crate::error::{Context, Error, Result};
use crate::mapping::TableMapping;
use crate::pipeline::Commander;
use crate::position::Position;
use crate::schema::TableName;
use crate::source::{Keep, Snapshot, Source};
use crate::target::Target;

use super::{Digest, RowDigest, View};

/// How long the target stands still at most, in seconds. It normally takes milliseconds; making
/// the source's snapshot waits for transactions that are open there.
const HOLD_SECONDS_MAX: u32 = 60;

/// Into how many buckets a range that differs is cut.
const BUCKETS: u32 = 1024;

/// About how much of a table is digested by one query.
const RANGE_BYTES: u64 = 512 << 20;

/// Whoever passes commands to the pipeline: the engine in this process, or one elsewhere.
#[async_trait]
pub trait Ask: Send + Sync {
    /// Sends a command and waits for its answer.
    async fn ask(&self, command: Command) -> Answer;
}

#[async_trait]
impl Ask for Commander {
    async fn ask(&self, command: Command) -> Answer {
        Commander::ask(self, command).await
    }
}

/// How much is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Numbers of rows.
    Counts,
    /// Every value.
    Deep,
}

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tables; others are left out.
    pub tables: Vec<Arc<TableMapping>>,
    /// How much.
    pub depth: Depth,
    /// Differences that are listed for one table at most; all are counted.
    pub differences_max: usize,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Both sides were read here.
    pub position: Position,
    /// Table by table.
    pub tables: Vec<TableReport>,
}

impl Report {
    /// Whether every table that could be compared is the same on both sides, and all could be.
    pub fn is_identical(&self) -> bool {
        self.tables
            .iter()
            .all(|table| table.outcome == Outcome::Identical)
    }

    /// Rows that were compared.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.source_rows).sum()
    }
}

/// What was found in one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableReport {
    /// On the source.
    pub source: TableName,
    /// On the target.
    pub target: TableName,
    /// The verdict.
    pub outcome: Outcome,
    /// Rows on the source.
    pub source_rows: u64,
    /// Rows on the target.
    pub target_rows: u64,
    /// Rows that differ, all of them.
    pub different: u64,
    /// Those that are listed.
    pub differences: Vec<Difference>,
}

/// A table's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same on both sides.
    Identical,
    /// Not the same.
    Different,
    /// It could not be compared; why.
    NotCompared(String),
}

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

/// Compares both sides of a pipeline that streams, at one position.
pub async fn verify(
    source: &dyn Source,
    target: &dyn Target,
    pipeline: &dyn Ask,
    request: &Request,
) -> Result<Report> {
    let began = standstill(source, target, pipeline).await;
    // Whatever happened: the pipeline goes on.
    pipeline.ask(Command::Release).await;
    let (position, snapshot, mut target_view) = began?;
    let checkpoint = target.checkpoint().await?;
    let mut source_view = snapshot.view().await?;
    let mut tables = Vec::new();
    for mapping in &request.tables {
        let report = if let Some(why) = why_not(checkpoint.as_ref(), mapping) {
            not_compared(mapping, why)
        } else {
            let mut sides = Sides {
                source: source_view.as_mut(),
                target: target_view.as_mut(),
                mapping,
                differences_max: request.differences_max,
            };
            let ranges = ranges(snapshot.as_ref(), mapping, request.depth).await?;
            let compared = sides.table(&ranges, request.depth).await;
            compared.context(|| format!("compare {}", mapping.source()))?
        };
        tables.push(report);
    }
    tables.sort_by(|a, b| (rank(&a.outcome), &a.source).cmp(&(rank(&b.outcome), &b.source)));
    Ok(Report { position, tables })
}

/// Compares both sides of a full load, which has no log to meet in: the source as it is now with the
/// target as it is now. What changed on the source since the load shows as a difference.
pub async fn verify_still(
    source: &dyn Source,
    target: &dyn Target,
    request: &Request,
) -> Result<Report> {
    let snapshot = source.snapshot().await?;
    let (mut source_view, mut target_view) = (snapshot.view().await?, target.view().await?);
    let mut tables = Vec::new();
    for mapping in &request.tables {
        let mut sides = Sides {
            source: source_view.as_mut(),
            target: target_view.as_mut(),
            mapping,
            differences_max: request.differences_max,
        };
        let ranges = ranges(snapshot.as_ref(), mapping, request.depth).await?;
        tables.push(sides.table(&ranges, request.depth).await?);
    }
    tables.sort_by(|a, b| (rank(&a.outcome), &a.source).cmp(&(rank(&b.outcome), &b.source)));
    Ok(Report {
        position: snapshot.tidemark().after,
        tables,
    })
}

/// A position and one instant of either side at it.
type Standstill = (Position, Box<dyn Snapshot>, Box<dyn View>);

async fn standstill(
    source: &dyn Source,
    target: &dyn Target,
    pipeline: &dyn Ask,
) -> Result<Standstill> {
    hold(pipeline, None).await?;
    let opened = source.open_log(Keep::WhileOpen);
    let limit = Duration::from_secs(HOLD_SECONDS_MAX.into());
    let (position, snapshot) = tokio::time::timeout(limit, opened).await.map_err(|_| {
        Error::transient(
            codes::VERIFY_NO_SNAPSHOT,
            format!("the source gave no snapshot at a log position within {HOLD_SECONDS_MAX} s"),
        )
    })??;
    hold(pipeline, Some(position)).await?;
    let view = target.view().await?;
    Ok((position, snapshot, view))
}

async fn hold(pipeline: &dyn Ask, position: Option<Position>) -> Result<()> {
    let answer = pipeline
        .ask(Command::Hold {
            position,
            seconds_max: HOLD_SECONDS_MAX,
        })
        .await;
    if answer.ok {
        return Ok(());
    }
    Err(Error::transient(
        codes::VERIFY_NO_HOLD,
        format!("the pipeline does not hold: {}", answer.text),
    ))
}

/// Why a table cannot be compared now, if so.
fn why_not(checkpoint: Option<&Checkpoint>, mapping: &TableMapping) -> Option<String> {
    let Some(checkpoint) = checkpoint else {
        return Some("the pipeline never started".into());
    };
    match checkpoint
        .tables
        .iter()
        .find(|table| table.source == *mapping.source())
    {
        None => Some("not carried yet".into()),
        Some(table) => match table.state {
            TableState::Streaming | TableState::Done => None,
            TableState::Loading => Some("being loaded".into()),
            TableState::Resyncing => Some("being loaded anew".into()),
            TableState::Paused => Some("paused".into()),
            TableState::Quarantined | TableState::Unloaded => {
                let reason = table.reason.as_deref().unwrap_or("no reason recorded");
                Some(format!("quarantined: {reason}"))
            }
        },
    }
}

fn not_compared(mapping: &TableMapping, why: String) -> TableReport {
    TableReport {
        source: mapping.source().clone(),
        target: mapping.target.clone(),
        outcome: Outcome::NotCompared(why),
        source_rows: 0,
        target_rows: 0,
        different: 0,
        differences: Vec::new(),
    }
}

fn rank(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Different => 0,
        Outcome::NotCompared(_) => 1,
        Outcome::Identical => 2,
    }
}

/// Key ranges where the key allows them: places of rows differ between the sides.
async fn ranges(
    snapshot: &dyn Snapshot,
    mapping: &TableMapping,
    depth: Depth,
) -> Result<Vec<Chunk>> {
    if depth == Depth::Counts || mapping.schema.bytes <= RANGE_BYTES {
        return Ok(vec![Chunk::Whole]);
    }
    let chunks = snapshot.chunks(mapping, RANGE_BYTES).await?;
    let by_keys = chunks
        .iter()
        .all(|chunk| matches!(chunk, Chunk::Keys { .. }));
    Ok(if by_keys { chunks } else { vec![Chunk::Whole] })
}

/// One table on both sides.
struct Sides<'a> {
    source: &'a mut dyn View,
    target: &'a mut dyn View,
    mapping: &'a TableMapping,
    differences_max: usize,
}

impl Sides<'_> {
    async fn table(&mut self, ranges: &[Chunk], depth: Depth) -> Result<TableReport> {
        let mut report = not_compared(self.mapping, String::new());
        report.outcome = Outcome::Identical;
        for range in ranges {
            let (on_source, on_target) = match depth {
                Depth::Deep => {
                    let (source, target) = tokio::join!(
                        self.source.digest(self.mapping, range),
                        self.target.digest(self.mapping, range),
                    );
                    (source?, target?)
                }
                Depth::Counts => {
                    let (source, target) = tokio::join!(
                        self.source.count(self.mapping, range),
                        self.target.count(self.mapping, range),
                    );
                    let of = |rows| Digest { rows, sum: (0, 0) };
                    (of(source?), of(target?))
                }
            };
            report.source_rows += on_source.rows;
            report.target_rows += on_target.rows;
            if on_source == on_target {
                continue;
            }
            report.outcome = Outcome::Different;
            if depth == Depth::Deep {
                self.range(range, &mut report).await?;
            } else {
                report.different += on_source.rows.abs_diff(on_target.rows);
            }
        }
        report.differences.sort();
        Ok(report)
    }

    /// A range that differs, down to its rows.
    async fn range(&mut self, range: &Chunk, report: &mut TableReport) -> Result<()> {
        let (source, target) = tokio::join!(
            self.source.bucket_digests(self.mapping, range, BUCKETS),
            self.target.bucket_digests(self.mapping, range, BUCKETS),
        );
        let (source, target) = (source?, target?);
        for bucket in 0..BUCKETS {
            let at = bucket as usize;
            if source.get(at) == target.get(at) {
                continue;
            }
            let (source, target) = tokio::join!(
                self.source
                    .bucket_rows(self.mapping, range, bucket, BUCKETS),
                self.target
                    .bucket_rows(self.mapping, range, bucket, BUCKETS),
            );
            for difference in differences(&source?, &target?) {
                report.different += 1;
                if report.differences.len() < self.differences_max {
                    report.differences.push(difference);
                }
            }
        }
        Ok(())
    }
}

/// Rows of one bucket that are not the same on both sides. Rows of one key are counted: without a key
/// all rows of the bucket share the empty one, and their hashes tell them apart.
fn differences(source: &[RowDigest], target: &[RowDigest]) -> Vec<Difference> {
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

/// What to ask of the pipeline so that the listed differences are mended: the rows of keyed tables by
/// their keys, the whole of a table without a key.
pub fn repairs(report: &Report, tables: &[Arc<TableMapping>]) -> Vec<Command> {
    const KEYS_MAX: usize = 500;
    let mut commands = Vec::new();
    for table in report
        .tables
        .iter()
        .filter(|table| table.outcome == Outcome::Different)
    {
        let Some(mapping) = tables
            .iter()
            .find(|mapping| *mapping.source() == table.source)
        else {
            continue;
        };
        let is_listed = table.different == table.differences.len() as u64;
        // A masked key does not tell the row on the source.
        let is_masked = mapping
            .key
            .iter()
            .any(|at| mapping.columns[*at].mask.is_some());
        if mapping.key.is_empty() || is_masked || !is_listed || table.differences.is_empty() {
            commands.push(Command::Resync {
                tables: vec![table.source.clone()],
                strategy: crate::control::ResyncStrategy::Swap,
            });
            continue;
        }
        let columns: Vec<String> = mapping
            .key
            .iter()
            .map(|at| mapping.source_column(&mapping.columns[*at]).to_owned())
            .collect();
        let chunks = table
            .differences
            .chunks(KEYS_MAX)
            .map(|part| Chunk::Rows {
                columns: columns.clone(),
                keys: part
                    .iter()
                    .map(|difference| difference.key.clone())
                    .collect(),
            })
            .collect();
        commands.push(Command::Repair {
            table: table.source.clone(),
            chunks,
        });
    }
    commands
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
        RowDigest {
            key,
            hash: (hash, !hash),
        }
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
